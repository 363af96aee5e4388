//! SIGHUP: the configuration is read again. All of it counts, or nothing does.

use std::{io, path::Path, sync::Arc};

use super::startup::{check, keys, settings, warnings};
use super::{Plan, stop_timeout};
use crate::api::Service;
use crate::api::reload::Outcome;
use crate::config::{self, Config, Loaded};
use crate::exit::{Exit, Failure};
use crate::lifecycle::evidence::Supervisor;
use crate::limits::THREAD_STACK;
use crate::sys::clock;
use crate::threads::{lock, spawn};

const READ_AGAIN: &str = "the configuration was read again";

/// Has the configuration read for what was asked for up to `number`, in a thread of its own: it may be
/// on a disk that hangs. The main loop is woken after that.
///
/// # Errors
/// No thread: nothing was begun.
pub fn read(
    plan: &Plan,
    supervisor: &Supervisor,
    service: &Arc<Service>,
    number: u64,
) -> io::Result<()> {
    let (plan, supervisor, service) = (plan.clone(), supervisor.clone(), Arc::clone(service));
    let work = move || {
        let (exit, message) = reload(&plan, &service);
        service.reloads.end(Some((number, Outcome { time: clock::now(), exit, message })));
        service.wake.notify();
        stop_timeout::read(supervisor.unit_settings().as_ref(), &service);
    };
    spawn("reload", THREAD_STACK, Box::new(work)).map(drop)
}

/// Reads the configuration and puts it in force for what begins from now on. A wrong one changes
/// nothing. What was bound at the start stays: it is said what needs a restart.
fn reload(plan: &Plan, service: &Service) -> (Exit, String) {
    let old = service.settings();
    let own = old.config.http.key_file.as_deref();
    let read = check(plan).and_then(|loaded| {
        refuse_echo_unasked(&old.config, &loaded)?;
        Ok((keys(plan, own, &loaded)?, loaded))
    });
    let (keys, loaded) = match read {
        Ok(read) => read,
        Err(failure) => {
            failure.0.message.lines().for_each(|line| log::error!("not reloaded: {line}"));
            log::warn!("the configuration stays as it was");
            return (failure.0.exit, failure.0.message);
        }
    };
    *lock(&service.warnings) = warnings(&loaded);
    let mut new = loaded.config;
    let mut said = READ_AGAIN.to_owned();
    // What is settled at the start only.
    let fixed = [
        ("http.listen", old.config.http.listen != new.http.listen),
        ("http.key_file", old.config.http.key_file != new.http.key_file),
        ("log.target", old.config.log.target != new.log.target),
    ];
    for (name, _) in fixed.into_iter().filter(|(_, changed)| *changed) {
        let words = format!("{name} has changed: restart the gateway to apply it");
        log::warn!("{words}");
        said = format!("{said}\n{words}");
    }
    new.http.listen = old.config.http.listen;
    new.http.key_file.clone_from(&old.config.http.key_file);
    new.log.target = old.config.log.target;
    log::set_max_level(new.log.level);
    // First: no old key is to wait for a lock that a hung disk holds.
    service.set_keys(keys);
    service.hub.reload(settings(plan, new));
    service.channels.get().iter().for_each(|channels| channels.follow());
    log::info!("{READ_AGAIN}");
    (Exit::Planned, said)
}

/// A file that names no agent any more must not have echo answer what is queued for the one before.
fn refuse_echo_unasked(old: &Config, new: &Loaded) -> Result<(), Failure> {
    let named = new.place("agent.command").is_some();
    if old.agent.is_echo() || !new.config.agent.is_echo() || named {
        return Ok(());
    }
    let file = new.file.as_deref().unwrap_or(Path::new("the configuration"));
    let (file, echo) = (file.display(), config::ECHO_UNASKED);
    Err(Failure::new(
        Exit::Config,
        format!("the configuration is wrong\n{file}: it names no agent, and {echo}"),
    ))
}
