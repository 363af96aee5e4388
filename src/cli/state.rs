//! What a gateway is doing, concluded from its lock, its own answer and the service manager. Pure.

use serde_json::Value;

use super::control::{Contacted, NoAnswer};
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

/// `ActiveState=` of a unit, with the `SubState=` of one that waits for its restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActiveState {
    Active,
    Activating,
    AutoRestart,
    Deactivating,
    Failed,
    Inactive,
}

/// What the service manager says of a unit that it knows.
#[derive(Clone, Debug)]
pub struct UnitStatus {
    pub active: ActiveState,
    /// The main process, while there is one.
    pub main_pid: Option<i64>,
    pub shown: Properties,
}

impl UnitStatus {
    /// Reads what the manager showed. `None`: the manager knows no such unit.
    pub fn read(shown: Properties) -> Option<UnitStatus> {
        let active = match (shown.get("ActiveState"), shown.get("SubState")) {
            ("", _) => return None,
            ("inactive", _) if shown.get("LoadState") == "not-found" => return None,
            ("active" | "reloading" | "refreshing", _) => ActiveState::Active,
            ("activating", sub) if sub.starts_with("auto-restart") => ActiveState::AutoRestart,
            ("activating", _) => ActiveState::Activating,
            ("deactivating", _) => ActiveState::Deactivating,
            ("failed", _) => ActiveState::Failed,
            _ => ActiveState::Inactive,
        };
        let main_pid = shown.get("MainPID").parse().ok().filter(|pid| *pid != 0);
        Some(UnitStatus { active, main_pid, shown })
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

/// What a gateway says of itself.
pub fn told(contact: &Contacted<Value>) -> Option<State> {
    match contact.as_ref().ok()?.1["state"].as_str()? {
        "starting" => Some(State::Starting),
        "serving" => Some(State::Running),
        "draining" => Some(State::Draining),
        _ => None,
    }
}

/// Concludes. The lock rules over the service manager, which may speak of another process, and the
/// gateway's own answer over both. `left`: the last run did not say how it ended. `foreign`: it is another
/// user's, and the service manager alone can tell.
pub fn conclude(
    contact: &Contacted<Value>,
    left: bool,
    foreign: bool,
    unit: Option<ActiveState>,
) -> State {
    use ActiveState::{Activating, Active, AutoRestart, Deactivating, Failed, Inactive};
    use NoAnswer::{NotRunning, Unreachable, Unresponsive};
    if let Some(state) = told(contact) {
        return state;
    }
    match (contact, unit) {
        (_, Some(Activating)) => State::Starting,
        (_, Some(Deactivating)) => State::Draining,
        (Ok(_) | Err(Unresponsive { .. }), _) => State::Unresponsive,
        // Its process holds a lock somewhere else, and is no gateway of these directories.
        (Err(NotRunning), Some(Active)) => State::Unknown,
        (Err(Unreachable(_)), Some(Active)) => State::Running,
        (_, Some(AutoRestart)) => State::Restarting,
        (Err(NotRunning), Some(Failed)) => State::Failed,
        (Err(NotRunning), None | Some(Inactive)) if left => State::Dead,
        (Err(NotRunning), None | Some(Inactive)) => State::Stopped,
        (Err(Unreachable(_)), Some(Failed)) if foreign => State::Failed,
        (Err(Unreachable(_)), Some(Inactive)) if foreign => State::Stopped,
        (Err(Unreachable(_)), _) => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(pairs: &[(&str, &str)]) -> Option<UnitStatus> {
        let line = |(key, value): &(&str, &str)| format!("{key}={value}\n");
        UnitStatus::read(Properties(pairs.iter().map(line).collect()))
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
        assert_eq!(facts.active, ActiveState::AutoRestart);
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
        assert_eq!(read(&orphan).unwrap().active, ActiveState::Active);
        assert!(read(&[]).is_none());
    }

    #[test]
    fn the_lock_rules_over_the_manager() {
        let answers = |state| Ok((None, json!({ "state": state })));
        let silent = || Err(NoAnswer::Unresponsive { holder: None, why: String::new() });
        let free = || Err(NoAnswer::NotRunning);
        let hidden = || Err(NoAnswer::Unreachable(String::new()));
        let (left, foreign) = (true, true);
        for (contact, left, foreign, unit, state, code) in [
            (answers("serving"), !left, !foreign, Some(ActiveState::Failed), "running", 0),
            (answers("draining"), !left, !foreign, None, "draining", 0),
            (silent(), !left, !foreign, None, "unresponsive", 4),
            (silent(), !left, !foreign, Some(ActiveState::Active), "unresponsive", 4),
            (silent(), !left, !foreign, Some(ActiveState::Activating), "starting", 0),
            (free(), !left, !foreign, None, "stopped", 3),
            (free(), !left, !foreign, Some(ActiveState::Inactive), "stopped", 3),
            (free(), !left, !foreign, Some(ActiveState::Failed), "failed", 1),
            (free(), !left, !foreign, Some(ActiveState::AutoRestart), "restarting", 3),
            (free(), !left, !foreign, Some(ActiveState::Active), "unknown", 4),
            (free(), left, !foreign, None, "dead", 1),
            (free(), left, !foreign, Some(ActiveState::AutoRestart), "restarting", 3),
            (free(), left, !foreign, Some(ActiveState::Failed), "failed", 1),
            (hidden(), !left, !foreign, None, "unknown", 4),
            (hidden(), !left, !foreign, Some(ActiveState::Inactive), "unknown", 4),
            (hidden(), !left, foreign, Some(ActiveState::Active), "running", 0),
            (hidden(), !left, foreign, Some(ActiveState::Inactive), "stopped", 3),
        ] {
            let concluded = conclude(&contact, left, foreign, unit);
            let told = format!("{contact:?} {left} {foreign} {unit:?}");
            assert_eq!(
                (concluded.word().as_str(), concluded.exit().code()),
                (state, code),
                "{told}"
            );
        }
    }
}
