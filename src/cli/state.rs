//! What a gateway is doing, concluded from its lock, its own answer and the service manager. Pure.

use crate::exit::Exit;
use crate::systemd::systemctl::Properties;

/// The state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Draining,
    Starting,
    /// It ended, and the service manager is about to start it again.
    Restarting,
    /// Its unit failed.
    Failed,
    /// Its last run had an unclean exit.
    Dead,
    Stopped,
    /// It holds its lock and does not answer.
    Unresponsive,
    Unknown,
}

impl State {
    /// As `status` and `status --json` have it.
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The exit status of `status`, as LSB has it.
    pub fn exit(self) -> Exit {
        match self {
            State::Running | State::Draining | State::Starting => Exit::Planned,
            State::Restarting | State::Stopped => Exit::NotRunning,
            State::Failed | State::Dead => Exit::Failed,
            State::Unresponsive | State::Unknown => Exit::Unknown,
        }
    }
}

/// What the lock and the control socket told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nobody holds the lock. `left`: the last run did not say how it ended.
    Free { left: bool },
    /// Somebody holds it and does not answer.
    Silent,
    /// It says that it is this.
    Answers(State),
    /// The lock cannot be looked at.
    Hidden,
    /// It is another user's: the service manager alone can tell.
    Foreign,
}

/// What the service manager says of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Active,
    Activating,
    AutoRestart,
    Deactivating,
    Failed,
    Inactive,
}

/// The answer about a unit that is known.
#[derive(Clone, Debug)]
pub struct Facts {
    pub unit: Unit,
    /// The main process, while there is one.
    pub main_pid: Option<i64>,
    pub shown: Properties,
}

impl Facts {
    /// Reads what the manager showed. `None`: the manager knows no such unit.
    pub fn read(shown: Properties) -> Option<Facts> {
        let unit = match (shown.get("ActiveState"), shown.get("SubState")) {
            ("", _) => return None,
            ("inactive", _) if shown.get("LoadState") == "not-found" => return None,
            ("active" | "reloading" | "refreshing", _) => Unit::Active,
            ("activating", sub) if sub.starts_with("auto-restart") => Unit::AutoRestart,
            ("activating", _) => Unit::Activating,
            ("deactivating", _) => Unit::Deactivating,
            ("failed", _) => Unit::Failed,
            _ => Unit::Inactive,
        };
        let main_pid = shown.get("MainPID").parse().ok().filter(|pid| *pid != 0);
        Some(Facts { unit, main_pid, shown })
    }

    pub fn restarts(&self) -> u64 {
        self.shown.get("NRestarts").parse().unwrap_or(0)
    }

    /// Where its file is.
    pub fn path(&self) -> Option<String> {
        Some(self.shown.get("FragmentPath").to_owned()).filter(|path| !path.is_empty())
    }

    /// When the unit came into its state, RFC 3339: of `Sun 2026-11-22 18:54:55 UTC`, as systemctl prints
    /// it under `TZ=UTC`. Another zone is no time here.
    pub fn changed(&self) -> Option<String> {
        let time = self.shown.get("StateChangeTimestamp").strip_suffix(" UTC")?;
        let (_, time) = time.split_once(' ')?;
        Some(time.replacen(' ', "T", 1) + "Z")
    }
}

/// Concludes. The lock rules over the service manager, which may speak of another process, and the
/// gateway's own answer over both.
pub fn conclude(found: Found, unit: Option<Unit>) -> State {
    match (found, unit) {
        (Found::Answers(state), _) => state,
        (_, Some(Unit::Activating)) => State::Starting,
        (_, Some(Unit::Deactivating)) => State::Draining,
        (Found::Silent, _) => State::Unresponsive,
        // Its process holds a lock somewhere else, and is no gateway of these directories.
        (Found::Free { .. }, Some(Unit::Active)) => State::Unknown,
        (Found::Hidden | Found::Foreign, Some(Unit::Active)) => State::Running,
        (_, Some(Unit::AutoRestart)) => State::Restarting,
        (Found::Free { .. } | Found::Foreign, Some(Unit::Failed)) => State::Failed,
        (Found::Free { left: true }, None | Some(Unit::Inactive)) => State::Dead,
        (Found::Free { left: false }, None | Some(Unit::Inactive))
        | (Found::Foreign, Some(Unit::Inactive)) => State::Stopped,
        (Found::Hidden | Found::Foreign, _) => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Option<Facts> {
        let line = |(key, value): &(&str, &str)| format!("{key}={value}\n");
        Facts::read(Properties(pairs.iter().map(line).collect()))
    }

    #[test]
    fn what_the_service_manager_says() {
        let facts = read(&[
            ("LoadState", "loaded"),
            ("ActiveState", "activating"),
            ("SubState", "auto-restart-queued"),
            ("MainPID", "0"),
            ("NRestarts", "3"),
            ("FragmentPath", "/x/y.service"),
            ("StateChangeTimestamp", "Sun 1994-11-06 08:49:37 UTC"),
        ])
        .unwrap();
        assert_eq!(facts.unit, Unit::AutoRestart);
        assert_eq!((facts.main_pid, facts.restarts()), (None, 3));
        assert_eq!(facts.path().as_deref(), Some("/x/y.service"));
        assert_eq!(facts.changed().as_deref(), Some("1994-11-06T08:49:37Z"));
        for changed in ["Sun 1994-11-06 08:49:37 CET", ""] {
            let other = read(&[("ActiveState", "active"), ("StateChangeTimestamp", changed)]);
            assert_eq!(other.unwrap().changed(), None);
        }
        let gone = [("LoadState", "not-found"), ("ActiveState", "inactive")];
        assert!(read(&gone).is_none());
        // Its file is gone, and the process is not.
        let orphan = [("LoadState", "not-found"), ("ActiveState", "active")];
        assert_eq!(read(&orphan).unwrap().unit, Unit::Active);
        assert!(read(&[]).is_none());
    }

    #[test]
    fn the_lock_rules_over_the_manager() {
        let (free, left) = (Found::Free { left: false }, Found::Free { left: true });
        for (found, unit, state, code) in [
            (Found::Answers(State::Running), Some(Unit::Failed), "running", 0),
            (Found::Answers(State::Draining), None, "draining", 0),
            (Found::Silent, None, "unresponsive", 4),
            (Found::Silent, Some(Unit::Active), "unresponsive", 4),
            (Found::Silent, Some(Unit::Activating), "starting", 0),
            (free, None, "stopped", 3),
            (free, Some(Unit::Inactive), "stopped", 3),
            (free, Some(Unit::Failed), "failed", 1),
            (free, Some(Unit::AutoRestart), "restarting", 3),
            (free, Some(Unit::Active), "unknown", 4),
            (left, None, "dead", 1),
            (left, Some(Unit::AutoRestart), "restarting", 3),
            (left, Some(Unit::Failed), "failed", 1),
            (Found::Hidden, None, "unknown", 4),
            (Found::Hidden, Some(Unit::Inactive), "unknown", 4),
            (Found::Foreign, Some(Unit::Active), "running", 0),
            (Found::Foreign, Some(Unit::Inactive), "stopped", 3),
        ] {
            let concluded = conclude(found, unit);
            assert_eq!(concluded.word(), state, "{found:?} {unit:?}");
            assert_eq!(concluded.exit().code(), code, "{found:?} {unit:?}");
        }
    }
}
