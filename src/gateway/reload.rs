//! SIGHUP: the configuration is read again. All of it counts, or nothing does.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Plan;
use super::startup::{keys, load, settings};
use crate::api::Service;
use crate::config::Config;
use crate::logger;

/// Reads the configuration and puts it in force for what begins from now on. A wrong one changes
/// nothing. What was bound at the start stays: the log says what needs a restart.
pub fn reload(plan: &Plan, service: &Arc<Service>) {
    let old = service.settings();
    let own = old.config.http.key_file.as_deref();
    let read = load(plan).and_then(|loaded| Ok((keys(plan, own, &loaded)?, loaded)));
    let (keys, loaded) = match read {
        Ok(read) => read,
        Err(failure) => {
            for line in failure.message.lines() {
                log::error!("not reloaded: {line}");
            }
            return;
        }
    };
    let mut new = loaded.config;
    for (name, changed) in fixed(&old.config, &new) {
        if changed {
            log::warn!("{name} has changed: that takes a restart");
        }
    }
    new.http.listen = old.config.http.listen;
    new.http.key_file.clone_from(&old.config.http.key_file);
    new.log.target = old.config.log.target;
    logger::set_level(new.log.level);
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
