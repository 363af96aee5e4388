//! SIGHUP: the configuration is read again. All of it counts, or nothing does.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::Plan;
use super::startup::{keys, load, settings};
use crate::api::Service;
use crate::api::reload::{Outcome, Refusal};
use crate::config::Config;
use crate::limits::THREAD_STACK;
use crate::sys::clock::Utc;
use crate::sys::fd::Event;
use crate::threads::spawn;

/// Has the configuration read for what was asked for, in a thread of its own: it may be on a disk that
/// hangs. What is asked for meanwhile is read after that. `told` is raised after each reading.
///
/// # Errors
/// No thread: nothing was begun.
pub fn read(plan: &Plan, service: &Arc<Service>, told: &Arc<Event>) -> io::Result<()> {
    let (plan, service, told) = (plan.clone(), Arc::clone(service), Arc::clone(told));
    let reading = Arc::clone(&service);
    let work = move || {
        while let Some(number) = reading.reloads.next() {
            let outcome = reload(&plan, &reading);
            reading.reloads.finish(number, outcome);
            told.raise();
        }
    };
    let spawned = spawn("reload", THREAD_STACK, Box::new(work));
    spawned.map(drop).inspect_err(|_| service.reloads.give_up())
}

/// Reads the configuration and puts it in force for what begins from now on. A wrong one changes
/// nothing. What was bound at the start stays: the log says what needs a restart.
fn reload(plan: &Plan, service: &Service) -> Outcome {
    let old = service.settings();
    let own = old.config.http.key_file.as_deref();
    let read = load(plan).and_then(|loaded| Ok((keys(plan, own, &loaded)?, loaded)));
    let (keys, loaded) = match read {
        Ok(read) => read,
        Err(failure) => {
            for line in failure.message.lines() {
                log::error!("not reloaded: {line}");
            }
            log::warn!("the configuration stays as it was");
            let time = Utc::new(SystemTime::now()).rfc3339();
            let refused = Some(Refusal { time, exit: failure.exit, message: failure.message });
            return Outcome { refused, restart: Vec::new() };
        }
    };
    let mut new = loaded.config;
    let changed = fixed(&old.config, &new).into_iter().filter(|(_, changed)| *changed);
    let restart: Vec<_> = changed.map(|(name, _)| name).collect();
    for name in &restart {
        log::warn!("{name} has changed: that takes a restart");
    }
    new.http.listen = old.config.http.listen;
    new.http.key_file.clone_from(&old.config.http.key_file);
    new.log.target = old.config.log.target;
    log::set_max_level(new.log.level);
    // First: no old key is to wait for a lock that a hung disk holds.
    service.set_keys(keys);
    service.hub.change(settings(plan, new));
    log::info!("the configuration was read again");
    Outcome { refused: None, restart }
}

/// What is settled at the start only.
fn fixed(old: &Config, new: &Config) -> [(&'static str, bool); 3] {
    [
        ("http.listen", old.http.listen != new.http.listen),
        ("http.key_file", old.http.key_file != new.http.key_file),
        ("log.target", old.log.target != new.log.target),
    ]
}
