//! An agent that calls `systemctl restart` for its own gateway waits for that, and the gateway's drain
//! waits for the agent. The job needs nobody who waits: so the call is ended, and the turn goes on.

use std::path::Path;

use super::cgroup::{self, OwnUnit};
use crate::sys::proc;
use crate::sys::process::{Pid, PidFd, Signal};
use crate::text::escaped;

/// What waits for the end of a unit.
const VERBS: [&str; 6] =
    ["stop", "restart", "try-restart", "reload-or-restart", "try-reload-or-restart", "disable"];

/// Ends each `systemctl` inside of our own unit that waits for its stop, which is going on.
pub fn end(own: &OwnUnit) {
    for pid in proc::processes() {
        if proc::name(pid).as_deref() != Some("systemctl") {
            continue;
        }
        // Held first: the number may come to mean another process.
        let Ok(held) = PidFd::open(pid) else { continue };
        let inside = proc::cgroup(pid).and_then(|text| cgroup::own_unit(&text));
        let Some(words) =
            words(pid).filter(|words| inside.as_ref() == Some(own) && waits(words, own))
        else {
            continue;
        };
        match held.send(Signal::Term) {
            Ok(()) => log::info!(
                "a turn waits for this stop ({}): its call is ended, the stop goes on",
                escaped(&words.join(" "), false)
            ),
            Err(e) => log::warn!("a turn waits for this stop, and pid {pid} cannot be ended: {e}"),
        }
    }
}

fn words(pid: Pid) -> Option<Vec<String>> {
    let words = proc::arguments(pid)?;
    Some(words.iter().map(|word| word.to_string_lossy().into_owned()).collect())
}

fn waits(words: &[String], own: &OwnUnit) -> bool {
    let Some((program, rest)) = words.split_first() else { return false };
    let named =
        |word: &String| *word == own.unit || own.unit.strip_suffix(".service") == Some(word);
    let mut plain = rest.iter().filter(|word| !word.starts_with('-'));
    Path::new(program).file_name().is_some_and(|name| name == "systemctl")
        && plain.next().is_some_and(|verb| VERBS.contains(&verb.as_str()))
        && plain.any(named)
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
            ("sh restart a", false),
            ("", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(waits(&words, &own), expected, "{line}");
        }
    }
}
