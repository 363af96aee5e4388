//! What is known of one gateway, for `status` and `list`: asks its lock, its control socket and the service
//! manager, and concludes its state.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Instant};

use serde_json::Value;

use super::context::Context;
use super::control_client::NoAnswer::{NotRunning, Unreachable, Unresponsive};
use super::control_client::{Contacted, fetch_foreign_status, fetch_status};
use super::time_format;
use super::unit_control::{PROPERTIES, describe_end};
use super::unit_paths::installed_file;
use crate::dirs::{Base, Dirs};
use crate::exit::Exit;
use crate::lifecycle::history;
use crate::lifecycle::instance_lock::{Holder, Probe, probe};
use crate::limits::CONTROL_TIMEOUT;
use crate::name::Name;
use crate::sys::{proc, user};
use crate::systemd::Scope;
use crate::systemd::cgroup::{self, OwnUnit};
use crate::systemd::systemctl::{Properties, Systemctl};

/// What the report has as the gateway answered it; null without an answer.
const ANSWERED: &str = "uptime_seconds listen stop_timeout_seconds version agent upstreams \
    processes channels sessions turns waiting limits degraded warnings reload_error restart journal principals";

/// What is known of one gateway at one moment.
#[derive(Debug)]
pub struct Report {
    pub state: State,
    pub unit: Option<UnitReport>,
    /// All of it, as `status --json` prints it. Keys are added, never renamed.
    pub status: Value,
}

/// What is known of its unit.
#[derive(Debug)]
pub struct UnitReport {
    pub name: String,
    pub scope: Scope,
    pub path: Option<String>,
    /// What the service manager says, or in words why it says nothing.
    pub facts: Result<UnitStatus, String>,
}

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
        format!("{self:?}").to_ascii_lowercase()
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

/// What the service manager says of a unit that it knows.
#[derive(Clone, Debug)]
pub struct UnitStatus {
    /// What its `ActiveState=` says alone.
    pub state: State,
    /// The main process, while there is one.
    pub main_pid: Option<i64>,
    pub shown: Properties,
}

impl UnitStatus {
    /// Reads what the manager showed. `None`: the manager knows no such unit.
    pub fn read(shown: Properties) -> Option<UnitStatus> {
        let state = match (shown.get("ActiveState"), shown.get("SubState")) {
            ("", _) => return None,
            ("inactive", _) if shown.get("LoadState") == "not-found" => return None,
            // What has ended stops no more: the job is a start.
            ("inactive" | "failed", _) if !shown.get("Job").is_empty() => State::Restarting,
            ("active" | "reloading" | "refreshing", _) => State::Running,
            ("activating", sub) if sub.starts_with("auto-restart") => State::Restarting,
            ("activating", _) => State::Starting,
            ("deactivating", _) => State::Draining,
            ("failed", _) => State::Failed,
            _ => State::Stopped,
        };
        let main_pid = shown.get("MainPID").parse().ok().filter(|pid| *pid != 0);
        Some(UnitStatus { state, main_pid, shown })
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
/// gateway's own answer over both. `left`: the last run did not say how it ended. `foreign`: it is another
/// user's, and the service manager alone can tell.
fn conclude(contact: &Contacted<Value>, left: bool, foreign: bool, unit: Option<State>) -> State {
    let answer = contact.as_ref().ok().and_then(|(_, answer)| answer["state"].as_str());
    match (answer, contact, unit) {
        (Some("starting"), ..) => State::Starting,
        (Some("serving"), ..) => State::Running,
        (Some("draining"), ..) => State::Draining,
        (.., Some(state @ (State::Starting | State::Draining))) => state,
        (_, Ok(_) | Err(Unresponsive { .. }), _) => State::Unresponsive,
        // Its process holds a lock somewhere else, and is no gateway of these directories.
        (_, Err(NotRunning), Some(State::Running)) => State::Unknown,
        (.., Some(state @ (State::Running | State::Restarting))) => state,
        (_, Err(NotRunning), Some(State::Failed)) => State::Failed,
        (_, Err(NotRunning), _) if left => State::Dead,
        (_, Err(NotRunning), _) => State::Stopped,
        (_, Err(Unreachable(_)), Some(state)) if foreign => state,
        (_, Err(Unreachable(_)), _) => State::Unknown,
    }
}

/// Looks at the lock, the service manager and the gateway. Takes some milliseconds, and a few
/// seconds where one of them does not answer.
pub fn gather(context: &Context, system: bool) -> Report {
    let report = gather_once(context, system);
    // The lock and the unit are looked at one after the other: between them it may have started.
    if report.state == State::Unknown { gather_once(context, system) } else { report }
}

fn gather_once(context: &Context, system: bool) -> Report {
    let Context { base, name, dirs: own_dirs, .. } = context;
    let ask = |unit: String, scope: Scope, path: Option<PathBuf>| {
        let systemctl = Systemctl::new(scope, Arc::clone(&context.children));
        let shown = systemctl.show(PROPERTIES, &unit, Instant::now() + CONTROL_TIMEOUT);
        let facts = shown
            .map_err(|why| format!("systemd cannot be asked: {why}"))
            .and_then(|shown| UnitStatus::read(shown).ok_or_else(|| "not loaded".to_owned()));
        let known = || facts.as_ref().ok()?.path();
        let path = path.map(|path| path.display().to_string()).or_else(known);
        UnitReport { name: unit, scope, path, facts }
    };
    let installed = installed_file(base, name, system);
    let mut unit = installed.map(|(scope, path)| ask(name.unit(), scope, Some(path)));
    let mut foreign = unit.as_ref().and_then(|unit| foreign_dirs(unit, name));
    // A gateway of our own counts for more than another user's of the same name.
    let of_us = |meta: fs::Metadata| meta.uid() == user::own_uid();
    if foreign.is_some() && !system && fs::metadata(&own_dirs.state).is_ok_and(of_us) {
        (unit, foreign) = (None, None);
    }
    let (mut contact, run) = match &foreign {
        Some(dirs) => (fetch_foreign_status(dirs, Instant::now() + CONTROL_TIMEOUT), Value::Null),
        None => ask_own(own_dirs),
    };
    if let (None, Ok((holder, status))) = (&unit, &contact) {
        unit = unit_of(status, *holder).map(|own| ask(own.unit, own.scope, None));
    } else if let (None, Err(NotRunning), Some((user, dirs))) =
        (&unit, &contact, context.foreign_owner())
        && !matches!(user::acting_as(&user, || probe(&dirs)), Ok(Ok(Probe::Free)))
    {
        contact = Err(Unreachable(context.foreign_message(&user, "status")));
    }
    let mut report = assemble(name, &contact, &run, unit, foreign.is_none().then_some(own_dirs));
    if system && report.unit.is_none() {
        report.status["note"] = format!("there is no system unit {}", name.unit()).into();
    }
    report
}

/// The directories of a system unit that runs as somebody else.
fn foreign_dirs(unit: &UnitReport, name: &Name) -> Option<Dirs> {
    let facts = unit.facts.as_ref().ok().filter(|_| unit.scope == Scope::System)?;
    let owner = match facts.shown.get("User") {
        "" => user::by_uid(0),
        by_name => user::by_name(by_name).or_else(|| user::by_uid(by_name.parse().ok()?)),
    };
    owner.filter(|owner| owner.uid != user::own_uid()).map(|owner| Base::of(&owner).gateway(name))
}

/// The gateway's answer and the record of the run that has not ended, or that left it behind.
fn ask_own(dirs: &Dirs) -> (Contacted<Value>, Value) {
    let ask = || fetch_status(dirs, Instant::now() + CONTROL_TIMEOUT);
    let (asked, run) = (ask(), history::run_record(dirs));
    // Only between two looks at a free lock does the record belong to nobody.
    let started = matches!(asked, Err(NotRunning)) && !matches!(probe(dirs), Ok(Probe::Free));
    if started { (ask(), Value::Null) } else { (asked, run) }
}

/// The unit that a gateway says it runs in, where it is not ours by name.
fn unit_of(status: &Value, holder: Option<Holder>) -> Option<OwnUnit> {
    let own = cgroup::own_unit(&proc::cgroup(holder?.pid)?)?;
    (own.unit.ends_with(".service") && status["unit"] == own.unit.as_str()).then_some(own)
}

/// `own`: where the history is, if it is ours to read.
pub fn assemble(
    name: &Name,
    contact: &Contacted<Value>,
    run: &Value,
    unit: Option<UnitReport>,
    own: Option<&Dirs>,
) -> Report {
    let facts = unit.as_ref().and_then(|unit| unit.facts.as_ref().ok());
    let (holder, answer) = match contact {
        Ok((holder, answer)) => (*holder, answer),
        Err(Unresponsive { holder, .. }) => (*holder, &Value::Null),
        Err(_) => (None, &Value::Null),
    };
    // What it says of itself may be a number of another pid namespace.
    let held_by = holder.map(|holder| i64::from(holder.pid.get()));
    let mut pid = held_by.or(answer["pid"].as_i64());
    // A unit whose main process is another one says nothing of this gateway.
    let of_this =
        |facts: &&UnitStatus| pid.is_none() || facts.main_pid.is_none() || facts.main_pid == pid;
    let of_this = facts.filter(of_this).map(|facts| facts.state);
    let state = conclude(contact, !run.is_null(), own.is_none(), of_this);
    let alive = [State::Running, State::Draining, State::Starting, State::Unresponsive];
    if alive.contains(&state) {
        pid = pid.or(facts.and_then(|facts| facts.main_pid));
    }
    let last_stop = match (&answer["last_stop"], own) {
        (Value::Null, Some(dirs)) => {
            let last = history::stops(dirs).unwrap_or_default().pop().unwrap_or_default();
            // What the next start will enter, unless one has failed since.
            let unsaid =
                run["id"] != last["run"] && run["started"].as_str() > last["time"].as_str();
            let unsaid = unsaid && matches!(contact, Err(NotRunning));
            if unsaid { history::unclean(run, None) } else { last }
        }
        (stop, _) => stop.clone(),
    };
    let changed = || facts.and_then(UnitStatus::changed).into();
    let since: Value = match (contact, state) {
        // An older gateway knows its start only.
        (Ok(_), _) => answer.get("state_since").unwrap_or(&answer["since"]).clone(),
        (Err(Unresponsive { .. }), _) if run["pid"].as_i64() == pid => run["started"].clone(),
        // A start that failed left no record of ours.
        (Err(_), State::Failed | State::Restarting) => changed(),
        (Err(Unreachable(_)), _) if own.is_none() => changed(),
        (Err(NotRunning), State::Stopped) => last_stop["time"].clone(),
        _ => Value::Null,
    };
    let shown = |name| facts.map(|facts| facts.shown.get(name));
    let mut status = Value::Null;
    for (key, value) in [
        ("name", name.as_str().into()),
        ("state", state.word().into()),
        ("pid", pid.into()),
        ("since", since),
        ("unit", unit.as_ref().map(|unit| unit.name.clone()).into()),
        ("unit_scope", unit.as_ref().map(|unit| unit.scope.as_str()).into()),
        ("unit_path", unit.as_ref().and_then(|unit| unit.path.clone()).into()),
        ("unit_current", Value::Null),
        ("unit_state", shown("ActiveState").into()),
        ("unit_restarts", facts.map(|facts| facts.shown.restarts()).into()),
        ("last_stop", last_stop),
        ("note", note(state, contact, run, facts, pid).into()),
    ] {
        status[key] = value;
    }
    ANSWERED.split(' ').for_each(|key| status[key] = answer[key].clone());
    let own_version = env!("CARGO_PKG_VERSION");
    if answer["version"] != own_version {
        status["client_version"] = own_version.into();
    }
    Report { state, unit, status }
}

/// What a reader has to know beyond the state.
fn note(
    state: State,
    contact: &Contacted<Value>,
    run: &Value,
    facts: Option<&UnitStatus>,
    pid: Option<i64>,
) -> Option<String> {
    match (state, contact, facts) {
        (_, Err(Unresponsive { why, .. }), _) => Some(format!("it does not answer: {why}")),
        (_, Err(Unreachable(why)), None) => Some(format!("it cannot be asked: {why}")),
        (State::Dead, ..) => {
            let started = time_format::shown(run["started"].as_str().unwrap_or("an unknown time"));
            Some(format!("its run since {started} had an unclean exit"))
        }
        (State::Unknown, Err(NotRunning), Some(UnitStatus { main_pid, .. })) => Some(format!(
            "its unit is active with pid {}, which does not hold the lock: does it have other directories?",
            main_pid.unwrap_or(0)
        )),
        (State::Failed | State::Restarting, _, Some(facts)) => {
            Some(format!("its unit: {}", describe_end(&facts.shown).0))
        }
        (_, Ok((_, status)), Some(facts)) if pid.is_some() && facts.main_pid != pid => {
            Some(match (facts.main_pid, facts.state, status["unit"].as_str()) {
                (Some(main), State::Running, _) => format!("its unit runs pid {main} instead"),
                (.., Some(other)) => format!("it runs in {other}, and not as its own unit"),
                (.., None) => "its unit did not start it".to_owned(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::State::{Failed, Restarting, Running, Starting, Stopped};
    use super::*;
    use crate::sys::process::Pid;
    use crate::testing::TempDir;
    use serde_json::json;

    fn unit(state: State, main_pid: Option<i64>) -> Option<UnitReport> {
        let shown = "Result=exit-code\nExecMainCode=1\nExecMainStatus=78\n\
            StateChangeTimestamp=Sun 1994-11-06 08:49:37 UTC\n";
        let facts = UnitStatus { state, main_pid, shown: Properties(shown.to_owned()) };
        Some(UnitReport {
            name: "hermes-gateway-coder.service".into(),
            scope: Scope::User,
            path: None,
            facts: Ok(facts),
        })
    }

    fn report(contact: &Contacted<Value>, run: &Value, unit: Option<UnitReport>) -> Report {
        let root = TempDir::new("report");
        let dirs = Dirs {
            config_file: root.path().join("c"),
            state: root.path().to_owned(),
            runtime: root.path().to_owned(),
            data: root.path().to_owned(),
        };
        let stop = "{\"time\":\"2026-01-01T00:00:00.000Z\",\"verdict\":\"planned\"}\n";
        fs::write(dirs.history(), stop).unwrap();
        let name = Name::parse("coder").unwrap();
        assemble(&name, contact, run, unit, Some(&dirs))
    }

    fn note(report: &Report) -> &str {
        report.status["note"].as_str().unwrap()
    }

    fn answers() -> Contacted<Value> {
        let status =
            json!({ "state": "serving", "pid": 7, "state_since": "s", "last_stop": { "n": 1 } });
        Ok((None, status))
    }

    #[test]
    fn a_gateway_that_answers_is_believed() {
        let running = report(&answers(), &Value::Null, unit(Running, Some(7)));
        assert_eq!((running.state, &running.status["pid"]), (Running, &json!(7)));
        assert_eq!(
            (&running.status["since"], &running.status["note"]),
            (&json!("s"), &Value::Null)
        );
        assert_eq!(running.status["last_stop"]["n"], 1);
        let other = report(&answers(), &Value::Null, unit(Running, Some(8)));
        assert_eq!(other.status["pid"], 7);
        assert!(note(&other).contains("pid 8"));
        let beside = report(&answers(), &Value::Null, unit(Stopped, None));
        assert_eq!(beside.state, Running);
        assert!(note(&beside).contains("did not start it"));
        let status = json!({ "state": "serving", "pid": 7, "unit": "my.service" });
        let other = Ok((None, status));
        let other = report(&other, &Value::Null, unit(Stopped, None));
        assert!(note(&other).contains("it runs in my.service"));
    }

    #[test]
    fn a_lock_holder_that_does_not_answer_is_unresponsive() {
        let holder = Pid::new(7).map(|pid| Holder { pid, start: 1, own: pid });
        let why = "no answer in time".to_owned();
        let silent = Err(Unresponsive { holder, why });
        let run = json!({ "pid": 7, "started": "s" });
        let found = report(&silent, &run, None);
        assert_eq!((found.state, &found.status["pid"]), (State::Unresponsive, &json!(7)));
        assert_eq!(found.status["since"], "s");
        assert!(note(&found).contains("no answer in time"));
        let starting = report(&silent, &run, unit(Starting, Some(7)));
        assert_eq!(starting.state, Starting);
        // What its unit is starting is another process.
        let other = report(&silent, &run, unit(Starting, Some(8)));
        assert_eq!(other.state, State::Unresponsive);
    }

    #[test]
    fn without_a_gateway_its_records_and_its_unit_tell_how_it_ended() {
        let stopped = report(&Err(NotRunning), &Value::Null, None);
        assert_eq!((stopped.state, &stopped.status["pid"]), (Stopped, &Value::Null));
        assert_eq!(stopped.status["since"], "2026-01-01T00:00:00.000Z");
        let dead = report(&Err(NotRunning), &json!({ "pid": 7, "started": "s" }), None);
        assert_eq!(dead.state, State::Dead);
        assert_eq!((&dead.status["pid"], &dead.status["since"]), (&Value::Null, &Value::Null));
        assert!(note(&dead).contains("since s"));
        for (started, verdict) in [("2026-01-02", "unclean exit"), ("2025-12-31", "planned")] {
            let run = json!({ "id": "b/7/1", "started": started });
            let killed = report(&Err(NotRunning), &run, unit(Failed, None));
            assert_eq!(killed.status["last_stop"]["verdict"], verdict, "how the last one ended");
        }
        let failed = report(&Err(NotRunning), &Value::Null, unit(Failed, None));
        assert_eq!(failed.state, Failed);
        assert_eq!(failed.status["since"], "1994-11-06T08:49:37Z");
        assert!(note(&failed).contains("its unit: exit status 78"));
        let elsewhere = report(&Err(NotRunning), &Value::Null, unit(Running, Some(9)));
        assert_eq!((elsewhere.state, &elsewhere.status["pid"]), (State::Unknown, &Value::Null));
        assert!(note(&elsewhere).contains("pid 9"));
    }

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
        assert_eq!(facts.state, Restarting);
        assert_eq!((facts.main_pid, facts.shown.restarts()), (None, 3));
        assert_eq!(facts.path().as_deref(), Some("/x/y.service"));
        assert_eq!(facts.changed().as_deref(), Some("1994-11-06T08:49:37Z"));
        for changed in ["Sun 1994-11-06 08:49:37 CET", ""] {
            let other = read(&[("ActiveState", "active"), ("StateChangeTimestamp", changed)]);
            assert_eq!(other.unwrap().changed(), None);
        }
        for state in ["inactive", "failed"] {
            let queued = read(&[("ActiveState", state), ("Job", "12")]).unwrap();
            assert_eq!(queued.state, Restarting);
            assert_ne!(read(&[("ActiveState", state), ("Job", "")]).unwrap().state, Restarting);
        }
        let gone = [("LoadState", "not-found"), ("ActiveState", "inactive")];
        assert!(read(&gone).is_none());
        // Its file is gone, and the process is not.
        let orphan = [("LoadState", "not-found"), ("ActiveState", "active")];
        assert_eq!(read(&orphan).unwrap().state, Running);
        assert!(read(&[]).is_none());
    }

    #[test]
    fn the_lock_rules_over_the_manager() {
        let answers = |state| Ok((None, json!({ "state": state })));
        let silent = || Err(Unresponsive { holder: None, why: String::new() });
        let free = || Err(NotRunning);
        let hidden = || Err(Unreachable(String::new()));
        let (left, foreign) = (true, true);
        for (contact, left, foreign, unit, state, code) in [
            (answers("serving"), !left, !foreign, Some(Failed), "running", 0),
            (answers("draining"), !left, !foreign, None, "draining", 0),
            (silent(), !left, !foreign, None, "unresponsive", 4),
            (silent(), !left, !foreign, Some(Running), "unresponsive", 4),
            (silent(), !left, !foreign, Some(Starting), "starting", 0),
            (free(), !left, !foreign, None, "stopped", 3),
            (free(), !left, !foreign, Some(Stopped), "stopped", 3),
            (free(), !left, !foreign, Some(Failed), "failed", 1),
            (free(), !left, !foreign, Some(Restarting), "restarting", 3),
            (free(), !left, !foreign, Some(Running), "unknown", 4),
            (free(), left, !foreign, None, "dead", 1),
            (free(), left, !foreign, Some(Restarting), "restarting", 3),
            (free(), left, !foreign, Some(Failed), "failed", 1),
            (hidden(), !left, !foreign, None, "unknown", 4),
            (hidden(), !left, !foreign, Some(Stopped), "unknown", 4),
            (hidden(), !left, foreign, Some(Running), "running", 0),
            (hidden(), !left, foreign, Some(Stopped), "stopped", 3),
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
