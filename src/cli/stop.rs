//! `stop`: through the service manager where a unit runs it, whatever its name, else directly: announced
//! by the marker, signalled through a pidfd, waited for, and what came of it read from the history.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use serde_json::Value;

use super::config;
use super::context::Context;
use super::output::say;
use super::unit_control::{Unit, describe_end, find, say_enqueued};
use crate::cancel::readable_by;
use crate::dirs::Dirs;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::lifecycle::instance_lock::{self, Holder, Probe};
use crate::lifecycle::{history, planned_stop_marker};
use crate::limits::{self, STOP_HEADROOM};
use crate::sys::process::{PidFd, Signal, is_gone};
use crate::sys::{fs as files, proc, user};
use crate::systemd::Scope;
use crate::systemd::systemctl::Properties;

/// Stops the gateway, however it was started, and says what came of it.
pub fn stop(context: &Context, system: bool) -> Result<Exit, Failure> {
    let name = &context.name;
    // What is left to say where nothing else runs.
    let mut rest = format!("{name} is not running\n");
    let installed = find(context, system);
    if let Some(unit) = &installed {
        match unit.show() {
            Ok(shown) => match shown.get("ActiveState") {
                "inactive" => {}
                "failed" => {
                    let how = describe_end(&shown).0;
                    rest = format!("{name} is not running (its unit failed: {how})\n");
                }
                _ if !stop_unit(unit, &shown)? => return Ok(Exit::Planned),
                _ => rest.clear(),
            },
            // Without a manager nothing runs as its unit; but a gateway in the foreground may.
            Err(failure) if system => return Err(failure),
            Err(_) => {}
        }
    }
    if system && installed.is_some() {
        return say(&rest);
    }
    // Another one may run beside the unit, which then only tried to: that one is meant as well.
    let foreign = context.foreign_owner();
    let asked = match &foreign {
        Some((user, dirs)) => {
            user::acting_as(user, || instance_lock::probe(dirs)).and_then(|asked| asked)
        }
        None => instance_lock::probe(&context.dirs),
    };
    let (dirs, holder) = match asked {
        Ok(Probe::Free) => return say(&rest),
        Ok(Probe::Held { dirs, holder }) => (dirs, holder),
        Err(_) if foreign.is_some() => (context.dirs.clone(), None),
        Err(e) => return Err(Failure::cannot(&format!("tell whether {name} runs"), &e)),
    };
    let unit = holder.and_then(|holder| Unit::of(context, holder));
    match (unit, holder) {
        // Root reaches system units, and no user's.
        (Some(unit), _)
            if unit.systemctl.scope == Scope::System || !system && foreign.is_none() =>
        {
            stop_unit(&unit, &unit.show()?).map(|_| Exit::Planned)
        }
        _ if system => say(&rest),
        _ if foreign.is_some() => context.refuse_foreign("stop").map(|()| Exit::Planned),
        (_, Some(holder)) => stop_process(context, &dirs, holder),
        (_, None) => Err(Failure::failed(format!(
            "{name} runs, but its process cannot be seen from here: the holder of {} is in another \
             container, or is just starting; stop it there, or try again",
            dirs.lock().display()
        ))),
    }
}

/// Stops a unit, and says whether that was waited for: from inside of it nobody can.
fn stop_unit(unit: &Unit<'_>, shown: &Properties) -> Result<bool, Failure> {
    if unit.contains_this_process(shown) {
        return unit.enqueue(shown, "stop").map(|_| false);
    }
    let timeout = Unit::timeout(shown, &["TimeoutStopUSec"]);
    report_unit(unit, unit.act_within(timeout, &["stop", "--", &unit.name])).map(|()| true)
}

/// Says what has become of a unit that was to stop.
pub fn report_unit(unit: &Unit<'_>, done: Result<(), Failure>) -> Result<(), Failure> {
    let (name, command) = (unit.label(), unit.context.name.command());
    let shown = unit.show()?;
    match (shown.get("ActiveState"), done) {
        ("inactive", _) => say(&format!("{name} has stopped\n")).map(drop),
        ("failed", _) => Err(Failure::failed(format!(
            "{name} has stopped, but its unit failed: {}; `{command} logs` tells more",
            describe_end(&shown).0
        ))),
        (state, Err(failure)) => {
            Err(Failure::failed(format!("{name} has not stopped (its unit is {state}): {failure}")))
        }
        (state, Ok(())) => Err(Failure::failed(format!(
            "{name} was stopped, but its unit is {state} again: somebody else has started it"
        ))),
    }
}

fn stop_process(context: &Context, dirs: &Dirs, holder: Holder) -> Result<Exit, Failure> {
    let (name, pid) = (&context.name, holder.pid);
    let failed = |what: &str, e: io::Error| Failure::failed(format!("cannot {what} {pid}: {e}"));
    let pidfd = match PidFd::open(pid) {
        Err(e) if !is_gone(&e) => return Err(failed("hold process", e)),
        // Looked at while it is held: the number may have come to mean another process before.
        Ok(pidfd) if proc::start_time(pid) == Some(holder.start) => pidfd,
        _ => return say(&format!("{name} is not running: pid {pid} has just ended\n")),
    };
    // Somebody may have removed it; the process makes its socket anew, the marker is ours.
    let _ = files::private_dir(&dirs.runtime);
    let requester = format!("{} stop, uid {}", name.command(), user::own_uid());
    planned_stop_marker::announce(&dirs.planned_stop(), holder, &requester)
        .map_err(|e| failed("announce the stop of process", e))?;
    if let Err(e) = pidfd.send(Signal::Term) {
        let _ = fs::remove_file(dirs.planned_stop());
        // It ended a moment before: how, its history knows.
        if is_gone(&e) {
            return report_process(context, holder);
        }
        return Err(failed("signal process", e));
    }
    if proc::is_ancestor(pid) {
        return say_enqueued("stop", name.as_str());
    }
    let loaded = config::load(context).map(|loaded| loaded.config.stop.drain_timeout);
    let timeout = loaded.unwrap_or(limits::DRAIN_TIMEOUT.default) + STOP_HEADROOM;
    let ended = readable_by(pidfd.as_fd(), Instant::now() + timeout);
    if !ended.map_err(|e| failed("wait for process", e))? {
        return Err(Failure::failed(format!(
            "{name} (pid {pid}) has not ended within {} s: its log says what it waits for; another \
             `{} stop` aborts the turns in flight; the last resort is `kill -KILL {pid}`",
            timeout.as_secs(),
            name.command()
        )));
    }
    report_process(context, holder)
}

/// Its exit status is its parent's to know; to us it has left a line in its history.
fn report_process(context: &Context, holder: Holder) -> Result<Exit, Failure> {
    let (name, pid) = (&context.name, holder.pid);
    let run = format!("{}/{}/{}", proc::boot_id(), holder.own, holder.start);
    let stops = history::stops(&context.dirs).unwrap_or_default();
    // Executed anew, it has gone on as another run of the same process.
    let is_its = |stop: &&Value| {
        let rest = stop["run"].as_str().and_then(|id| id.strip_prefix(&run));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let stop = stops.iter().rev().find(is_its).unwrap_or(&Value::Null);
    match stop["exit"].as_u64() {
        Some(0) => say(&format!("{name} has stopped (pid {pid})\n")),
        Some(exit) => {
            let reason = escaped(stop["reason"].as_str().unwrap_or("no reason given"), false);
            Err(Failure::failed(format!(
                "{name} (pid {pid}) has ended with exit status {exit}: {reason}"
            )))
        }
        None => Err(Failure::failed(format!(
            "{name} (pid {pid}) has ended and left no record of how: it was killed, or could not \
             write {}",
            context.dirs.history().display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Pid;
    use std::time::Duration;

    #[test]
    fn the_end_of_a_process_is_an_event_with_a_deadline() {
        let own = PidFd::open(Pid::own()).unwrap();
        let ends_within = |process: &PidFd, time: Duration| {
            readable_by(process.as_fd(), Instant::now() + time).unwrap()
        };
        assert!(!ends_within(&own, Duration::from_millis(1)));
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::new(i32::try_from(child.id()).unwrap()).unwrap();
        let held = PidFd::open(pid).unwrap();
        drop(child.stdin.take());
        assert!(ends_within(&held, Duration::from_secs(20)));
        child.wait().unwrap();
        assert!(is_gone(&held.send(Signal::Term).unwrap_err()));
    }
}
