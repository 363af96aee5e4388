//! `update`: starts the updater, a process of its own, in front of whoever asks: in a transient unit where a
//! service manager is there, so that it outlives the gateway's restarts and this terminal, else in a
//! session of its own.

mod command;
mod program;
mod proof;
mod restart;
mod site;
mod trial;
mod updater;

use std::env;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::context::Context;
use super::output::say;
use super::unit_control::Unit;
use crate::exit::{Exit, Failure};
use crate::json::object;
use crate::session::update_record::{self, REQUEST_VARIABLE};
use crate::subprocess::Program;
use crate::sys::process::{Pid, Status, begin_session};
use crate::sys::{proc, user};
use command::{Late, run};
use site::Site;
use updater::{Request, busy, update as carry_out};

/// Tells a process of this command that it is the updater, and for whom. The gateway never has it.
const UPDATER_VARIABLE: &str = "HERMES_GATEWAY_UPDATER";

/// Beyond all time-outs of an update.
const MARGIN: Duration = Duration::from_secs(60);

/// Updates the gateway, and says what came of it.
///
/// # Errors
/// `Config` where no command is configured, `TryLater` while another update runs.
pub fn update(context: &Context, system: bool) -> Result<Exit, Failure> {
    let given = env::var(UPDATER_VARIABLE).ok().and_then(|text| text.parse::<Value>().ok());
    let site = Site::find(context, system)?;
    if let Some(given) = given {
        let text = |key: &str| given[key].as_str().unwrap_or_default().to_owned();
        let (id, by) = (text("id"), text("by"));
        if given["session"] == true {
            begin_session().map_err(|e| Failure::cannot("begin a session", &e))?;
        }
        // A terminal's directory may go.
        let _ = env::set_current_dir(&site.owner.base.home);
        return carry_out(&site, Request { id, by });
    }
    let config = &site.config.update;
    if config.command.is_empty() {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "update.command is not set: how does a new version come? In {}: [update] and command = \
                 [\"my-updater\", \"--flag\"], a program that puts it where the gateway is started from",
                site.owner.named_sources().file.display()
            ),
        ));
    }
    let state = &site.owner.dirs.state;
    if let Some(pid) = site.as_owner(|| update_record::updater(state))? {
        return Err(busy(pid));
    }
    let id = format!("{}/{}/{}", proc::boot_id(), Pid::own(), proc::own_start_time());
    let by = env::var(REQUEST_VARIABLE).ok();
    let by_message = by.is_some();
    let by = by.unwrap_or_else(|| format!("uid {}", user::own_uid()));
    start(&site, system, &object!("id": id, "by": by), by_message)
}

/// Starts the updater and shows what it says until it ends.
fn start(
    site: &Site<'_>,
    system: bool,
    request: &Value,
    by_message: bool,
) -> Result<Exit, Failure> {
    let is_unit = |(unit, shown): (&Unit<'_>, _)| unit.contains_this_process(&shown);
    let inside = site.holder.is_some_and(|holder| proc::is_ancestor(holder.pid))
        || site.unit.as_ref().zip(site.shown()).is_some_and(is_unit);
    // An agent that waited for it would keep the gateway from the restart that this waits for.
    let waits = !inside || by_message;
    let why = match &site.unit {
        Some(unit) => {
            let name = site.owner.name.unit().replace(".service", ".update.service");
            let program = in_unit(site, unit, &name, waits, system, request);
            let ended = follow(site, program)?;
            if has_begun(site, request) || (!waits && ended == Some(Status::Exited(0))) {
                return if waits { exit_of(site, ended) } else { say(&requested(&name)) };
            }
            format!("{} could not start {name}", unit.systemctl.scope.systemctl())
        }
        None => "no service manager runs it".to_owned(),
    };
    if inside && !by_message {
        return Err(Failure::failed(format!(
            "{why}, and a process of the gateway's own would end with the turn that started it: update it \
             from outside, or with the message /update"
        )));
    }
    let ended = follow(site, in_session(site, system, request))?;
    exit_of(site, ended)
}

/// The updater as a transient unit: beside the gateway's, and with its manager's environment as that.
fn in_unit(
    site: &Site<'_>,
    unit: &Unit<'_>,
    name: &str,
    waits: bool,
    system: bool,
    request: &Value,
) -> io::Result<Program> {
    let variable = |name: &str, value: &str| format!("--setenv={name}={value}");
    let program = unit.systemctl.tool("systemd-run")?;
    let base = &site.owner.base;
    let dirs = [("XDG_CONFIG_HOME", &base.config), ("XDG_STATE_HOME", &base.state)];
    // A system unit's directories are its user's.
    let dirs = dirs.into_iter().filter(|_| !system);
    let dirs = dirs.map(|(name, dir)| variable(name, &dir.to_string_lossy()));
    Ok(program
        .args(["--collect", "--quiet", "--service-type=exec", &format!("--unit={name}")])
        .args([format!("--description=Update of {}", site.owner.name.unit())])
        .args(["--pipe", "--wait"].into_iter().filter(|_| waits))
        .args([variable(UPDATER_VARIABLE, &request.to_string())])
        .args(dirs)
        .args(["--"])
        .args([own_program(site)?])
        .args(words(site, system)))
}

/// The updater as a child that leaves our session, and with it our terminal.
fn in_session(site: &Site<'_>, system: bool, request: &Value) -> io::Result<Program> {
    let mut request = request.clone();
    request["session"] = true.into();
    let program = Program::new(own_program(site)?).args(words(site, system));
    Ok(program.env(UPDATER_VARIABLE, request.to_string()).env_remove(REQUEST_VARIABLE))
}

/// This program, or where its file is gone, the one that the gateway is started from.
fn own_program(site: &Site<'_>) -> io::Result<PathBuf> {
    let own = env::current_exe().ok().filter(|path| path.exists());
    own.map_or_else(|| site.program().map_err(|e| io::Error::other(e.message)), Ok)
}

fn words(site: &Site<'_>, system: bool) -> Vec<String> {
    let name = site.owner.name.to_string();
    let words = ["-p".to_owned(), name, "update".to_owned()];
    words.into_iter().chain(system.then(|| "--system".to_owned())).collect()
}

fn follow(site: &Site<'_>, program: io::Result<Program>) -> Result<Option<Status>, Failure> {
    let (update, drain) = (&site.config.update, site.config.stop.drain_timeout);
    let longest = update.timeout * 2
        + update.trial
        + drain * 2
        + site.config.restart.start_timeout * 8
        + MARGIN;
    let (deadline, children) = (Instant::now() + longest, &site.owner.children);
    let ended = program.and_then(|it| run(children, &it, deadline, Late::Leave, &mut Vec::new()));
    ended.map_err(|e| Failure::cannot("start the updater", &e))
}

fn has_begun(site: &Site<'_>, request: &Value) -> bool {
    let record = site.as_owner(|| update_record::read(&site.owner.dirs.state));
    record.ok().flatten().is_some_and(|record| request["id"] == record.id.as_str())
}

fn requested(unit: &str) -> String {
    format!(
        "the update is requested; this command does not wait for it, since it runs inside the gateway; it \
         runs as {unit}\n"
    )
}

/// What the updater's own exit status says; it has said why.
fn exit_of(site: &Site<'_>, ended: Option<Status>) -> Result<Exit, Failure> {
    let known = [Exit::Planned, Exit::Failed, Exit::Unavailable, Exit::TryLater, Exit::Config];
    let code = |exit: &Exit| ended == Some(Status::Exited(exit.code().into()));
    known.into_iter().find(code).ok_or_else(|| {
        let file = site.owner.dirs.state.join(update_record::NAME);
        let file = file.display();
        Failure::failed(match ended {
            Some(_) => {
                format!("the updater was ended before it was done: how far it came is in {file}")
            }
            None => format!("the update takes longer than all its limits, and goes on: see {file}"),
        })
    })
}
