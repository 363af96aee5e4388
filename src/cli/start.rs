//! `start` and `restart`: through the service manager, to READY and not before.

use std::time::{Instant, SystemTime};

use super::context::Context;
use super::output::say;
use super::owner;
use super::unit::{self, Unit, installed};
use crate::exit::{Exit, Failure};
use crate::lifecycle::instance::holder;
use crate::systemd::Scope;
use crate::systemd::systemctl::Properties;

/// Starts the installed unit and waits until it is ready.
pub fn start(context: &Context, system: bool) -> Result<Exit, Failure> {
    start_unit(context, &meant(context, system, "start")?)
}

/// Restarts the unit that runs it, else the installed one, which need not run, and waits until it is
/// ready. With a configuration that is wrong, what runs goes on.
pub fn restart(context: &Context, system: bool) -> Result<Exit, Failure> {
    let running = if system { None } else { unit::running(context) };
    let unit = running.map_or_else(|| meant(context, system, "restart"), Ok)?;
    let shown = unit.show()?;
    owner::check_config(context, &unit, &shown).map_err(|mut failure| {
        failure.message += &format!("\n{} is not restarted", unit.label(context));
        failure
    })?;
    if unit.is_around_us(&shown) {
        return unit.ask(context, &shown, "restart");
    }
    bring_up(context, &unit, &shown, "restart")
}

/// The installed unit, unless it would be another user's gateway that a user's manager runs. Where there
/// is none, one that runs all the same is named.
fn meant(context: &Context, system: bool, verb: &str) -> Result<Unit, Failure> {
    let unit = installed(context, system);
    let of_machine = unit.as_ref().is_ok_and(|unit| unit.systemctl.scope == Scope::System);
    if !system && !of_machine {
        owner::refuse_foreign(context, verb)?;
    }
    unit.map_err(|failure| match beside_unit(context, "") {
        Some(words) => Failure::new(Exit::Unavailable, words),
        None => failure,
    })
}

/// Starts this unit, if it does not run yet.
pub fn start_unit(context: &Context, unit: &Unit) -> Result<Exit, Failure> {
    let shown = unit.show()?;
    if matches!(shown.get("ActiveState"), "active" | "reloading") {
        let pid = shown.get("MainPID");
        return say(&format!("{} runs already: pid {pid}\n", context.name));
    }
    bring_up(context, unit, &shown, "start")
}

/// Says that a gateway runs which its unit did not start: beside that one the unit cannot.
pub fn beside_unit(context: &Context, main_pid: &str) -> Option<String> {
    let holder = holder(&context.dirs).filter(|holder| holder.pid.to_string() != main_pid)?;
    let unit = Unit::of(context, holder);
    let how = unit.map_or_else(|| "not as its unit".to_owned(), |unit| format!("as {}", unit.name));
    let (name, pid, command) = (&context.name, holder.pid, context.name.command());
    Some(format!("{name} is already running, but {how}: pid {pid}; `{command} stop` ends it"))
}

/// Runs a verb that ends in a running unit, and waits until it is ready.
fn bring_up(
    context: &Context,
    unit: &Unit,
    shown: &Properties,
    verb: &str,
) -> Result<Exit, Failure> {
    if let Some(words) = beside_unit(context, shown.get("MainPID")) {
        return Err(Failure::new(Exit::Unavailable, words));
    }
    // Both: a start may have to wait for a stop that is under way.
    let patience = Unit::patience(shown, &["TimeoutStartUSec", "TimeoutStopUSec"]);
    let began = SystemTime::now();
    let before = shown.get("MainPID").to_owned();
    let done = unit.act_until(&[verb, "--", &unit.name], Instant::now() + patience);
    // Asked in any case: systemctl's word is about its job, this one about the gateway.
    let shown = unit.show()?;
    match (done, shown.get("ActiveState")) {
        (Ok(()), "active") => {
            let (label, pid) = (unit.label(context), shown.get("MainPID"));
            let ready =
                if shown.get("Type").starts_with("notify") { "is ready" } else { "is started" };
            say(&format!("{label} {ready}: pid {pid}\n"))
        }
        (Err(failure), "active") if shown.get("MainPID") == before => {
            let words = format!("{} goes on as pid {before}: {failure}", unit.label(context));
            Err(Failure::failed(words))
        }
        (done, state) => {
            let (how, exit) = unit::how_it_ended(&shown);
            let never_ran = shown.get("ExecMainCode") == "0" || shown.get("Result") == "success";
            let why = match done {
                Err(failure) if never_ran => failure.message,
                Err(_) | Ok(()) => how,
            };
            let mut text = format!("{} did not become ready: {why}", context.name);
            for line in unit.log_of_failure(context, began, shown.get("ExecMainPID")) {
                text += &format!("\n  | {line}");
            }
            let command = context.name.command();
            if matches!(state, "activating" | "active") {
                text += &format!("\n  the service manager tries again; `{command} stop` ends that");
            }
            // The words of a damaged or lost journal name its file.
            let is_journal = text.contains("/journal");
            text += &format!("\n  `{command} logs` tells more, `{command} ");
            text += if is_journal {
                "journal check` looks at the journal"
            } else {
                "config check` checks the configuration"
            };
            let exit = if never_ran { Exit::Failed } else { exit };
            Err(Failure::new(exit, text))
        }
    }
}
