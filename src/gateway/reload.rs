//! SIGHUP: the configuration is read again. All of it counts, or nothing does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Plan;
use super::startup::{check, keys, settings, warnings};
use crate::api::Service;
use crate::config::Config;
use crate::limits::THREAD_STACK;
use crate::threads::spawn;

/// The reloads that were asked for and are not done. One runs at a time, so that a newer file is never
/// overtaken by an older one that took longer to read.
#[derive(Debug, Default)]
pub struct Reloads(AtomicUsize);

impl Reloads {
    /// Has the configuration read again, in a thread of its own: it may be on a disk that hangs. Where
    /// one is at it already, that one reads once more. `after` follows each.
    ///
    /// # Errors
    /// No thread: nothing was begun.
    pub fn ask(
        self: &Arc<Self>,
        plan: &Plan,
        service: &Arc<Service>,
        after: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        if self.0.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        let (reloads, plan, service) = (Arc::clone(self), plan.clone(), Arc::clone(service));
        let work = move || {
            loop {
                let asked = reloads.0.load(Ordering::SeqCst);
                reload(&plan, &service);
                after();
                let done = reloads.0.compare_exchange(asked, 0, Ordering::SeqCst, Ordering::SeqCst);
                if done.is_ok() {
                    return;
                }
            }
        };
        let spawned = spawn("reload", THREAD_STACK, Box::new(work));
        if spawned.is_err() {
            self.0.store(0, Ordering::SeqCst);
        }
        spawned.map(drop)
    }
}

/// Reads the configuration and puts it in force for what begins from now on. A wrong one changes
/// nothing. What was bound at the start stays: the log says what needs a restart.
fn reload(plan: &Plan, service: &Arc<Service>) {
    let old = service.settings();
    let own = old.config.http.key_file.as_deref();
    let read = check(plan).and_then(|loaded| Ok((keys(plan, own, &loaded)?, loaded)));
    let (keys, loaded) = match read {
        Ok(read) => read,
        Err(failure) => {
            for line in failure.message.lines() {
                log::error!("not reloaded: {line}");
            }
            log::warn!("the configuration stays as it was");
            return;
        }
    };
    *service.warnings() = warnings(&loaded);
    let mut new = loaded.config;
    for (name, changed) in fixed(&old.config, &new) {
        if changed {
            log::warn!("{name} has changed: that takes a restart");
        }
    }
    new.http.listen = old.config.http.listen;
    new.http.key_file.clone_from(&old.config.http.key_file);
    new.log.target = old.config.log.target;
    log::set_max_level(new.log.level);
    // First: no old key is to wait for a lock that a hung disk holds.
    service.set_keys(keys);
    service.hub.change(settings(plan, new));
    log::info!("the configuration was read again");
}

/// What is settled at the start only.
fn fixed(old: &Config, new: &Config) -> [(&'static str, bool); 3] {
    [
        ("http.listen", old.http.listen != new.http.listen),
        ("http.key_file", old.http.key_file != new.http.key_file),
        ("log.target", old.log.target != new.log.target),
    ]
}
