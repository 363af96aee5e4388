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

use std::{env, io, path::PathBuf};

use super::context::Context;
use super::output::say;
use super::unit_control::Unit;
use crate::exit::{Exit, Failure};
use crate::session::update_record::{self, LONGEST, REQUEST_VARIABLE};
use crate::subprocess::{ChildKind, Program};
use crate::sys::process::{Status, begin_session};
use crate::sys::{proc, user};
use command::run;
use site::Site;
use updater::busy;

/// Tells a process of this command that it is the updater, and for whom. The gateway never has it.
const UPDATER_VARIABLE: &str = "HERMES_GATEWAY_UPDATER";

/// Updates the gateway, and says what came of it.
///
/// # Errors
/// `Config` where no command is configured, `TryLater` while another update runs.
pub fn update(context: &Context, system: bool) -> Result<Exit, Failure> {
    let site = Site::find(context, system)?;
    if let Ok(by) = env::var(UPDATER_VARIABLE) {
        // A unit's process has one already.
        let _ = begin_session();
        // A terminal's directory may go.
        let _ = env::set_current_dir(&site.owner.base.home);
        return updater::update(&site, &by);
    }
    if site.config.update.command.is_empty() {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "update.command is not set: how does a new version come? In {}: [update] and command = \
                 [\"my-updater\", \"--flag\"], a program that puts it where the gateway is started from",
                site.owner.named_sources().file.display()
            ),
        ));
    }
    if site.as_owner(|| update_record::is_under_way(&site.owner.dirs.state))? {
        return Err(busy(&site));
    }
    let by_message = env::var(REQUEST_VARIABLE).ok();
    let is_unit = |(unit, shown): (&Unit<'_>, _)| unit.contains_this_process(&shown);
    let inside = by_message.is_none()
        && (site.holder.is_some_and(|holder| proc::is_ancestor(holder.pid))
            || site.unit.as_ref().zip(site.shown()).is_some_and(is_unit));
    let by = by_message.unwrap_or_else(|| format!("uid {}", user::own_uid()));
    let name = site.owner.name.unit().replace(".service", ".update.service");
    let program = match &site.unit {
        // An agent that waited for it would keep the gateway from the restart that this waits for.
        Some(unit) => in_unit(&site, unit, &name, !inside, system, &by),
        None if inside => {
            return Err(Failure::failed(
                "no service manager runs it, and a process of the gateway's own would end with the turn \
                 that started it: update it from outside, or with the message /update",
            ));
        }
        None => in_session(&site, system, &by),
    };
    let children = &site.owner.children;
    let ended = program
        .and_then(|it| run(children, &it, ChildKind::Shielded, LONGEST, &mut Vec::new()))
        .map_err(|e| Failure::cannot("start the updater", &e))?;
    if inside && ended == Some(Status::Exited(0)) {
        return say(&format!(
            "the update is requested; this command does not wait for it, since it runs inside the \
             gateway; it runs as {name}\n"
        ));
    }
    // What the updater's own exit status says; it has said why.
    let known = [Exit::Planned, Exit::Failed, Exit::Unavailable, Exit::TryLater, Exit::Config];
    let is_its = |exit: &Exit| ended == Some(Status::Exited(exit.code().into()));
    known.into_iter().find(is_its).ok_or_else(|| {
        let file = site.owner.dirs.state.join(update_record::NAME);
        Failure::failed(format!(
            "the updater was ended before it was done: how far it came is in {}",
            file.display()
        ))
    })
}

/// The updater as a transient unit: beside the gateway's, and with its manager's environment as that.
fn in_unit(
    site: &Site<'_>,
    unit: &Unit<'_>,
    name: &str,
    waits: bool,
    system: bool,
    by: &str,
) -> io::Result<Program> {
    let base = &site.owner.base;
    let variable = |name: &str, value: &str| format!("--setenv={name}={value}");
    let mut words = ["--collect", "--quiet", "--service-type=exec"].map(str::to_owned).to_vec();
    words.push(format!("--unit={name}"));
    words.push(format!("--description=Update of {}", site.owner.name.unit()));
    words.push(variable(UPDATER_VARIABLE, by));
    if waits {
        words.extend(["--pipe", "--wait"].map(str::to_owned));
    }
    // A system unit's directories are its user's.
    if !system {
        words.push(variable("XDG_CONFIG_HOME", &base.config.to_string_lossy()));
        words.push(variable("XDG_STATE_HOME", &base.state.to_string_lossy()));
    }
    words.push("--".to_owned());
    let program = unit.systemctl.tool("systemd-run")?.args(words);
    Ok(program.args([own_program(site)?]).args(own_words(site, system)))
}

/// The updater as a child that leaves our session, and with it our terminal.
fn in_session(site: &Site<'_>, system: bool, by: &str) -> io::Result<Program> {
    let program = Program::new(own_program(site)?).args(own_words(site, system));
    Ok(program.env(UPDATER_VARIABLE, by).env_remove(REQUEST_VARIABLE))
}

/// This program, or where its file is gone, the one that the gateway is started from.
fn own_program(site: &Site<'_>) -> io::Result<PathBuf> {
    let own = env::current_exe().ok().filter(|path| path.exists());
    own.map_or_else(|| site.program().map_err(|e| io::Error::other(e.0.message)), Ok)
}

fn own_words(site: &Site<'_>, system: bool) -> Vec<String> {
    let mut words = vec!["-p".to_owned(), site.owner.name.to_string(), "update".to_owned()];
    if system {
        words.push("--system".to_owned());
    }
    words
}
