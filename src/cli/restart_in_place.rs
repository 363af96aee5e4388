//! `restart --graceful`: asks the running gateway for a restart in place, whoever runs it, and follows that
//! to the end.

use std::time::Instant;

use serde_json::Value;

use super::context::Context;
use super::control_client::{NoAnswer, connect_to, contact, escaped_lines, exchange};
use super::output::say;
use super::unit_control::Unit;
use crate::exit::{Exit, Failure};
use crate::lifecycle::instance_lock::holder;
use crate::limits::{CONTROL_PAUSE, CONTROL_TIMEOUT, START_TIMEOUT};
use crate::sys::proc;
use crate::threads::pause;

/// Returns when the gateway serves again, or goes on as it was; from inside of it at once.
pub fn restart(context: &Context) -> Result<Exit, Failure> {
    let name = &context.name;
    let mut client = connect_to(context)?;
    let deadline = Instant::now() + CONTROL_TIMEOUT;
    let mut ask = |method, target| exchange(&mut client, method, target, &[], None, deadline);
    let (before, asked) = (ask("GET", "/v1/status")?, ask("POST", "/v1/restart")?);
    let (pid, number) = (&before["pid"], &asked["number"]);
    if asked["joined"] == true {
        say(&format!("{name}: a restart is under way already\n"))?;
    }
    if is_inside(context) {
        return say(&format!(
            "{name} restarts in place once the turns in flight are over; this command runs inside it \
             and does not wait\n"
        ));
    }
    let mut told = false;
    loop {
        let state = fetch(context)?;
        if state["pid"] != *pid {
            let pid = &state["pid"];
            let words = format!("{name} was started anew by somebody else meanwhile: pid {pid}");
            return Err(Failure::new(Exit::TryLater, words));
        }
        let of = |key: &str| Some(&state["restart"][key]).filter(|it| it["number"] == *number);
        let text = |it: &Value, key: &str| escaped_lines(it[key].as_str().unwrap_or("?"));
        if let Some(done) = of("last") {
            let (from, to, away) = (text(done, "from"), text(done, "version"), &done["away_ms"]);
            return say(&format!(
                "{name} restarted in place: pid {pid}, version {from} → {to}, nobody served for \
                 {away} ms\n"
            ));
        }
        if let Some(failed) = of("failed") {
            let why = text(failed, "why");
            let words = format!("{name} is not restarted, pid {pid} goes on as it is: {why}");
            return Err(Failure::failed(words));
        }
        match of("current") {
            Some(current) if current["stage"] == "pausing" && !told => {
                told = true;
                let turns = &state["turns"]["running"];
                if turns.as_u64().is_some_and(|turns| turns > 0) {
                    say(&format!("{name} waits for the turns in flight: {turns}\n"))?;
                }
            }
            Some(_) => {}
            None => {
                let words =
                    format!("{name} does not tell what became of the restart: see `history`");
                return Err(Failure::failed(words));
            }
        }
        pause(CONTROL_PAUSE);
    }
}

/// Asks how it is; while the next image starts, it is waited for as for any start.
fn fetch(context: &Context) -> Result<Value, Failure> {
    let deadline = Instant::now() + *START_TIMEOUT.range.end();
    let name = &context.name;
    let asked = contact(&context.dirs, deadline, "/v1/status");
    asked.map(|(_, (_, state))| state).map_err(|no| match no {
        NoAnswer::NotRunning => Failure::failed(format!(
            "{name} has ended before it was restarted: see `{} history`",
            name.command()
        )),
        NoAnswer::Unresponsive { why, .. } | NoAnswer::Unreachable(why) => {
            Failure::new(Exit::Unavailable, format!("{name} does not answer any more: {why}"))
        }
    })
}

/// Whether this command is the work of the gateway that it restarts, which waits for it: an agent's.
fn is_inside(context: &Context) -> bool {
    let Some(holder) = holder(&context.dirs) else { return false };
    let in_unit = || {
        let unit = Unit::of(context, holder)?;
        Some(unit.contains_this_process(&unit.show().ok()?))
    };
    proc::is_ancestor(holder.pid) || in_unit().unwrap_or(false)
}
