//! `start` and `restart`: through the service manager, to READY and not before.

use std::{env, ffi::OsString, path::PathBuf, time::SystemTime};

use super::context::{Context, acting_as};
use super::output::say;
use super::unit_control::{Unit, describe_end, find, running};
use super::{args, config};
use crate::dirs::Base;
use crate::exit::{Exit, Failure};
use crate::gateway;
use crate::lifecycle::instance_lock::holder;
use crate::sys::gather::Gather;
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::sys::user::{self, User};
use crate::systemd::Scope;
use crate::systemd::systemctl::Properties;

/// Starts the installed unit and waits until it is ready.
pub fn start(context: &Context, system: bool) -> Result<Exit, Failure> {
    start_unit(&installed_unit(context, system, "start")?)
}

/// Restarts the unit that runs it, else the installed one, which need not run, and waits until it is
/// ready. With a configuration that is wrong, what runs goes on.
pub fn restart(context: &Context, system: bool) -> Result<Exit, Failure> {
    let installed = || installed_unit(context, system, "restart");
    let unit = running(context, system).map_or_else(installed, Ok)?;
    let shown = unit.show()?;
    check_config(&unit, &shown).map_err(|mut failure| {
        failure.0.message += &format!("\n{} is not restarted", unit.label());
        failure
    })?;
    if unit.contains_this_process(&shown) {
        return unit.enqueue(&shown, "restart");
    }
    run_until_ready(&unit, &shown, "restart")
}

/// The installed unit, unless it would be another user's gateway that a user's manager runs. Where there
/// is none, one that runs all the same is named.
fn installed_unit<'c>(context: &'c Context, system: bool, verb: &str) -> Result<Unit<'c>, Failure> {
    let unit = find(context, system);
    if !system && unit.as_ref().is_none_or(|unit| unit.systemctl.scope == Scope::User) {
        context.refuse_foreign(verb)?;
    }
    unit.ok_or_else(|| {
        if let Some(failure) = outside_unit(context, "") {
            return failure;
        }
        let (unit, command) = (context.name.unit(), context.name.command());
        let flag = if system { " --system" } else { "" };
        Failure::failed(format!(
            "{unit} is not installed: `{command} install{flag}` writes it, `{command} run` needs none"
        ))
    })
}

/// Starts this unit, if it does not run yet.
pub fn start_unit(unit: &Unit<'_>) -> Result<Exit, Failure> {
    let shown = unit.show()?;
    if matches!(shown.get("ActiveState"), "active" | "reloading") {
        let pid = shown.get("MainPID");
        return say(&format!("{} runs already: pid {pid}\n", unit.context.name));
    }
    run_until_ready(unit, &shown, "start")
}

/// Says that a gateway runs which its unit did not start: beside that one the unit cannot.
pub fn outside_unit(context: &Context, main_pid: &str) -> Option<Failure> {
    let holder = holder(&context.dirs).filter(|holder| holder.pid.to_string() != main_pid)?;
    let unit = Unit::of(context, holder);
    let how = unit.map_or_else(|| "not as its unit".to_owned(), |unit| format!("as {}", unit.name));
    let (name, pid, command) = (&context.name, holder.pid, context.name.command());
    let words =
        format!("{name} is already running, but {how}: pid {pid}; `{command} stop` ends it");
    Some(Failure::new(Exit::Unavailable, words))
}

/// Runs a verb that ends in a running unit, and waits until it is ready.
fn run_until_ready(unit: &Unit<'_>, shown: &Properties, verb: &str) -> Result<Exit, Failure> {
    let context = unit.context;
    outside_unit(context, shown.get("MainPID")).map_or(Ok(()), Err)?;
    // Both: a start may have to wait for a stop that is under way.
    let timeout = Unit::timeout(shown, &["TimeoutStartUSec", "TimeoutStopUSec"]);
    let began = SystemTime::now();
    let before = shown.get("MainPID").to_owned();
    let done = unit.act_within(timeout, &[verb, "--", &unit.name]);
    // Asked in any case: systemctl's word is about its job, this one about the gateway.
    let shown = unit.show()?;
    match (done, shown.get("ActiveState")) {
        (Ok(()), "active") => {
            let (label, pid) = (unit.label(), shown.get("MainPID"));
            let ready =
                if shown.get("Type").starts_with("notify") { "is ready" } else { "is started" };
            say(&format!("{label} {ready}: pid {pid}\n"))
        }
        (Err(failure), "active") if shown.get("MainPID") == before => {
            let words = format!("{} goes on as pid {before}: {failure}", unit.label());
            Err(Failure::failed(words))
        }
        (done, state) => {
            let (how, exit) = describe_end(&shown);
            let never_ran = shown.get("ExecMainCode") == "0" || shown.get("Result") == "success";
            let why = match done {
                Err(failure) if never_ran => failure.0.message,
                Err(_) | Ok(()) => how,
            };
            let mut text = format!("{} did not become ready: {why}", context.name);
            for line in unit.log_of_failure(began, shown.get("ExecMainPID")) {
                text += &format!("\n  | {line}");
            }
            let command = context.name.command();
            if matches!(state, "activating" | "active") {
                text += &format!("\n  the service manager tries again; `{command} stop` ends that");
            }
            // The words of a damaged or lost journal name its file.
            let what = if text.contains("/journal") { "journal" } else { "config" };
            text += &format!("\n  see `{command} logs` and `{command} {what} check`");
            let exit = if never_ran { Exit::Failed } else { exit };
            Err(Failure::new(exit, text))
        }
    }
}

/// Checks what the main process of a unit would read at its next start: with its own arguments and
/// directories. Where none runs there is nothing to lose, and where it is neither ours nor are we root,
/// systemd refuses anyway.
///
/// # Errors
/// What `config check` says.
fn check_config(unit: &Unit<'_>, shown: &Properties) -> Result<(), Failure> {
    let Some(pid) = shown.get("MainPID").parse().ok().and_then(Pid::new) else { return Ok(()) };
    // Whose it is says `status`: its directory in /proc is root's (PR_SET_DUMPABLE).
    let other = proc::uid(pid).filter(|uid| *uid != user::own_uid()).and_then(user::by_uid);
    let Some(context) = context_of(unit, pid, other.as_ref(), shown) else { return Ok(()) };
    let check = || gateway::check(&config::plan(&context)).map(drop);
    acting_as(other.as_ref(), check).unwrap_or(Ok(()))
}

/// What a process that runs a gateway goes by: what it was started with, where we may read that, else
/// what its service manager starts it with.
fn context_of(
    unit: &Unit<'_>,
    pid: Pid,
    other: Option<&User>,
    shown: &Properties,
) -> Option<Context> {
    let context = unit.context;
    let started_with = |name| proc::variable(pid, name).map(OsString::from);
    let variable = |name| started_with(name).or_else(|| unit.variable(name));
    let home = other.map(|user| user.home.clone());
    let home = home.or_else(|| variable("HOME").map(PathBuf::from))?;
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.filter(|path| path.is_absolute()).unwrap_or(home.join(".config"));
    // The installed unit may have been written anew since: its directories are those of this command.
    let installed = unit.systemctl.scope == Scope::User && unit.name == context.name.unit();
    let start = home.join(shown.get("WorkingDirectory").trim_start_matches(['!', '~']));
    let _ = env::set_current_dir(start);
    let theirs = Base { home, config, ..context.base.clone() };
    let base = if installed { context.base.clone() } else { theirs };
    let args::Parsed { config, set, .. } = arguments_of(pid)?;
    Some(Context { config, set, ..context.at(base) })
}

/// What a process that runs a gateway was called with. A relative `--config` is relative to where it
/// is, as far as that can be seen: else to our directory.
pub fn arguments_of(pid: Pid) -> Option<args::Parsed> {
    let _ = env::set_current_dir(format!("/proc/{pid}/cwd"));
    let words = proc::arguments(pid)?.into_iter().skip(1).gather();
    args::parse(None, words, &[]).ok()
}
