//! An agent that calls `systemctl restart` for its own gateway waits for that, and the gateway's drain
//! waits for the agent. The job needs nobody who waits: so the call is ended, and the turn goes on.

use super::cgroup::{self, OwnUnit};
use crate::escape::escaped;
use crate::sys::gather::Gather;
use crate::sys::proc;
use crate::sys::process::{Pid, PidFd, Signal};

/// What waits for the end of a unit.
const VERBS: [&str; 6] =
    ["stop", "restart", "try-restart", "reload-or-restart", "try-reload-or-restart", "disable"];

/// Ends each `systemctl` inside of our own unit that waits for its stop, which is going on.
pub fn end(own: &OwnUnit) {
    let named = |pid: &Pid| proc::name(*pid).as_deref() == Some("systemctl");
    for pid in proc::processes().into_iter().filter(named) {
        // Held first: the number may come to mean another process.
        let held = PidFd::open(pid);
        let inside = proc::cgroup(pid).and_then(|text| cgroup::own_unit(&text));
        let words = proc::arguments(pid).unwrap_or_default();
        let words = words.iter().map(|word| word.to_string_lossy().into_owned());
        let words: Vec<String> = words.gather();
        if inside.as_ref() == Some(own) && waits(&words, own) {
            let line = escaped(&words.join(" "), false);
            // Said first: the turn that goes on may be the last that this process waits for.
            log::info!("a turn waits for this stop with `{line}`: ending that call");
            if let Err(e) = held.and_then(|held| held.send(Signal::Term)) {
                log::warn!("that call cannot be ended: {e}");
            }
        }
    }
}

fn waits(words: &[impl AsRef<str>], own: &OwnUnit) -> bool {
    let short = own.unit.strip_suffix(".service");
    let mut plain = words.iter().map(AsRef::as_ref).skip(1).filter(|word| !word.starts_with('-'));
    plain.next().is_some_and(|verb| VERBS.contains(&verb))
        && plain.any(|word| word == own.unit || short == Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::Scope;

    #[test]
    fn who_waits_names_a_verb_that_ends_the_unit_and_the_unit() {
        let own = OwnUnit { unit: "a.service".into(), scope: Scope::User, manager_cgroup: None };
        for (line, expected) in [
            ("systemctl --user restart a.service", true),
            ("/usr/bin/systemctl --user stop -- b.service a", true),
            ("systemctl --user show -p Job -- a.service", false),
            ("systemctl --user reload a.service", false),
            ("systemctl --user restart b.service", false),
            ("systemctl", false),
            ("", false),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(waits(&words, &own), expected, "{line}");
        }
    }
}
