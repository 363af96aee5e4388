//! What is known of one gateway, gathered for `status` and `list`, and its two forms.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::control::{Contact, NoAnswer, contact, contact_foreign};
use super::state::{Facts, Found, State, Unit, conclude};
use super::unit::{PROPERTIES, how_it_ended, installed_file};
use super::{Context, owner, time_format};
use crate::dirs::{Base, Dirs};
use crate::lifecycle::history;
use crate::lifecycle::instance::{Holder, Probe, probe};
use crate::limits::CONTROL_TIMEOUT;
use crate::name::Name;
use crate::sys::process::Pid;
use crate::sys::{fs as files, proc, user};
use crate::systemd::systemctl::Systemctl;
use crate::systemd::unit::Origin;
use crate::systemd::{Scope, cgroup};

/// The record of a run is about 250 bytes, and names the file of its log by a path of 4,096 at most, each of
/// which JSON may write as six.
const MAX_RUN_RECORD: u64 = 32 << 10;

/// What is known of one gateway at one moment.
#[derive(Debug)]
pub struct Report {
    pub name: String,
    pub state: State,
    pub pid: Option<i64>,
    /// When the state began, RFC 3339, as far as that is known.
    pub since: Option<String>,
    /// The gateway's own answer; null when it gave none.
    pub answer: Value,
    pub unit: Option<UnitReport>,
    pub last_stop: Value,
    /// What is odd, in a sentence.
    pub note: Option<String>,
}

/// What is known of its unit.
#[derive(Debug)]
pub struct UnitReport {
    pub name: String,
    pub scope: Scope,
    pub path: Option<String>,
    /// Whether the installed file is what this program would write, and who wrote it, where that was looked at.
    pub current: Option<(bool, Origin)>,
    /// What the service manager says; an error in words. `None`: it knows no such unit.
    pub facts: Result<Option<Facts>, String>,
}

/// Looks at the lock, the service manager and the gateway. Takes some milliseconds, and a few
/// seconds where one of them does not answer.
pub fn gather(context: &Context, system: bool) -> Report {
    let report = look(context, system);
    // The lock and the unit are looked at one after the other: between them it may have started.
    if report.state == State::Unknown { look(context, system) } else { report }
}

fn look(context: &Context, system: bool) -> Report {
    let Context { base, name, dirs: own_dirs, .. } = context;
    let ask = |unit: String, scope: Scope, path: Option<PathBuf>| {
        let systemctl = Systemctl::new(scope, Arc::clone(&context.children));
        let shown = systemctl.show(PROPERTIES, &unit, Instant::now() + CONTROL_TIMEOUT);
        let facts = shown.map(Facts::read);
        let known = || facts.as_ref().ok()?.as_ref()?.path();
        let path = path.map(|path| path.display().to_string()).or_else(known);
        UnitReport { name: unit, scope, path, current: None, facts }
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
        Some(dirs) => (contact_foreign(dirs, Instant::now() + CONTROL_TIMEOUT), Value::Null),
        None => look_at_own(own_dirs),
    };
    if let (None, Ok((holder, status))) = (&unit, &contact) {
        unit = unit_of(status, *holder).map(|(unit, scope)| ask(unit, scope, None));
    } else if let (None, Err(NoAnswer::Free), Some((user, dirs))) =
        (&unit, &contact, owner::somebody_else(context))
        && !matches!(user::acting_as(&user, || probe(&dirs)), Ok(Ok(Probe::Free)))
    {
        contact = Err(NoAnswer::Hidden(owner::foreign_words(&user, name, "status")));
    }
    let own = foreign.is_none().then_some(own_dirs);
    let mut report = assemble(name, &contact, &run, unit, own);
    if system && report.unit.is_none() {
        report.note = Some(format!("there is no system unit {}", name.unit()));
    }
    report
}

/// The directories of a system unit that runs as somebody else.
fn foreign_dirs(unit: &UnitReport, name: &Name) -> Option<Dirs> {
    let (Scope::System, Ok(Some(facts))) = (unit.scope, &unit.facts) else {
        return None;
    };
    let owner = match facts.shown.get("User") {
        "" => user::by_uid(0),
        by_name => user::by_name(by_name).or_else(|| user::by_uid(by_name.parse().ok()?)),
    };
    owner.filter(|owner| owner.uid != user::own_uid()).map(|owner| Base::of(&owner).gateway(name))
}

/// The gateway's answer and the record of the run that has not ended, or that left it behind.
fn look_at_own(dirs: &Dirs) -> (Contact<Value>, Value) {
    let asked = contact(dirs, Instant::now() + CONTROL_TIMEOUT);
    let run = match files::read_own(&dirs.run_record(), MAX_RUN_RECORD) {
        Ok(text) => serde_json::from_slice(text.as_bytes()).unwrap_or_else(|_| json!({})),
        Err(_) => Value::Null,
    };
    // Only between two looks at a free lock does the record belong to nobody.
    let started = matches!(asked, Err(NoAnswer::Free)) && !matches!(probe(dirs), Ok(Probe::Free));
    if started {
        (contact(dirs, Instant::now() + CONTROL_TIMEOUT), Value::Null)
    } else {
        (asked, run)
    }
}

/// The unit that a gateway says it runs in, where it is not ours by name.
fn unit_of(status: &Value, holder: Option<Holder>) -> Option<(String, Scope)> {
    let name = status["unit"].as_str().filter(|n| n.ends_with(".service"))?;
    let told = || Pid::new(i32::try_from(status["pid"].as_i64()?).ok()?);
    let pid = holder.map(|holder| holder.pid).or_else(told)?;
    let own = proc::cgroup(pid).and_then(|text| cgroup::own_unit(&text));
    own.filter(|own| own.unit == name).map(|own| (own.unit, own.scope))
}

/// `own`: where the history is, if it is ours to read.
fn assemble(
    name: &Name,
    contact: &Contact<Value>,
    run: &Value,
    unit: Option<UnitReport>,
    own: Option<&Dirs>,
) -> Report {
    let facts = unit.as_ref().and_then(|u| u.facts.as_ref().ok()?.as_ref());
    let (found, holder) = match contact {
        Err(NoAnswer::Free) => (Found::Free { left: !run.is_null() }, None),
        Err(NoAnswer::Silent { holder, .. }) => (Found::Silent, *holder),
        Err(NoAnswer::Hidden(_)) if own.is_none() => (Found::Foreign, None),
        Err(NoAnswer::Hidden(_)) => (Found::Hidden, None),
        Ok((holder, status)) => match status["state"].as_str() {
            Some("starting") => (Found::Answers(State::Starting), *holder),
            Some("serving") => (Found::Answers(State::Running), *holder),
            Some("draining") => (Found::Answers(State::Draining), *holder),
            _ => (Found::Silent, *holder),
        },
    };
    let answer = contact.as_ref().map_or(Value::Null, |(_, status)| status.clone());
    // What it says of itself may be a number of another pid namespace.
    let held_by = holder.map(|holder| i64::from(holder.pid.get()));
    let mut pid = held_by.or(answer["pid"].as_i64());
    // A unit whose main process is another one says nothing of this gateway.
    let of_this =
        |facts: &&Facts| pid.is_none() || facts.main_pid.is_none() || facts.main_pid == pid;
    let state = conclude(found, facts.filter(of_this).map(|facts| facts.unit));
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
            let unsaid = unsaid && matches!(contact, Err(NoAnswer::Free));
            if unsaid { history::unclean(run, None) } else { last }
        }
        (told, _) => told.clone(),
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let since = match (found, state) {
        // An older gateway knows its start only.
        (Found::Answers(_), _) => text(&answer["state_since"]).or_else(|| text(&answer["since"])),
        (Found::Silent, _) if run["pid"].as_i64() == pid => text(&run["started"]),
        (Found::Silent, _) => None,
        // A start that failed left no record of ours.
        (_, State::Failed | State::Restarting) | (Found::Foreign, _) => {
            facts.and_then(Facts::changed)
        }
        (Found::Free { .. }, State::Stopped) => text(&last_stop["time"]),
        (Found::Free { .. } | Found::Hidden, _) => None,
    };
    let note = note(state, contact, run, facts, pid);
    Report { name: name.to_string(), state, pid, since, answer, unit, last_stop, note }
}

/// What a reader has to know beyond the state.
fn note(
    state: State,
    contact: &Contact<Value>,
    run: &Value,
    facts: Option<&Facts>,
    pid: Option<i64>,
) -> Option<String> {
    match (state, contact, facts) {
        (_, Err(NoAnswer::Silent { why, .. }), _) => Some(format!("it does not answer: {why}")),
        (_, Err(NoAnswer::Hidden(why)), None) => Some(format!("it cannot be asked: {why}")),
        (State::Dead, ..) => {
            let started = time_format::shown(run["started"].as_str().unwrap_or("an unknown time"));
            Some(format!("its run since {started} had an unclean exit"))
        }
        (State::Unknown, Err(NoAnswer::Free), Some(Facts { main_pid, .. })) => Some(format!(
            "its unit is active with pid {}, which does not hold the lock: does it have other directories?",
            main_pid.unwrap_or(0)
        )),
        (State::Failed | State::Restarting, _, Some(facts)) => {
            Some(format!("its unit: {}", how_it_ended(&facts.shown).0))
        }
        (_, Ok((_, status)), Some(facts)) if pid.is_some() && facts.main_pid != pid => {
            Some(match (facts.main_pid, facts.unit, status["unit"].as_str()) {
                (Some(main), Unit::Active, _) => format!("its unit runs pid {main}, not this one"),
                (.., Some(other)) => format!("it runs in {other}, and not as its own unit"),
                (.., None) => "its unit did not start it".to_owned(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::systemctl::Properties;
    use crate::testing::TempDir;

    fn unit(unit: Unit, main_pid: Option<i64>) -> Option<UnitReport> {
        let shown = "Result=exit-code\nExecMainCode=1\nExecMainStatus=78\n\
            StateChangeTimestamp=Sun 1994-11-06 08:49:37 UTC\n";
        let facts = Facts { unit, main_pid, shown: Properties(shown.to_owned()) };
        Some(UnitReport {
            name: "hermes-gateway-coder.service".into(),
            scope: Scope::User,
            path: None,
            current: None,
            facts: Ok(Some(facts)),
        })
    }

    fn report(contact: &Contact<Value>, run: &Value, unit: Option<UnitReport>) -> Report {
        let root = TempDir::new("report");
        let dirs = Dirs {
            config_file: root.path().join("c"),
            state: root.path().to_owned(),
            runtime: root.path().to_owned(),
        };
        let stop = "{\"time\":\"2026-01-01T00:00:00.000Z\",\"verdict\":\"planned\"}\n";
        fs::write(dirs.history(), stop).unwrap();
        let name = Name::parse("coder").unwrap();
        assemble(&name, contact, run, unit, Some(&dirs))
    }

    fn answers() -> Contact<Value> {
        let status = json!({ "state": "serving", "pid": 7, "since": "s", "last_stop": { "n": 1 } });
        Ok((None, status))
    }

    #[test]
    fn one_that_answers() {
        let running = report(&answers(), &Value::Null, unit(Unit::Active, Some(7)));
        assert_eq!((running.state, running.pid), (State::Running, Some(7)));
        assert_eq!((running.since.as_deref(), running.note), (Some("s"), None));
        assert_eq!(running.last_stop["n"], 1);
        let other = report(&answers(), &Value::Null, unit(Unit::Active, Some(8)));
        assert_eq!(other.pid, Some(7));
        assert!(other.note.unwrap().contains("pid 8"));
        let beside = report(&answers(), &Value::Null, unit(Unit::Inactive, None));
        assert_eq!(beside.state, State::Running);
        assert!(beside.note.unwrap().contains("did not start it"));
        let status = json!({ "state": "serving", "pid": 7, "unit": "my.service" });
        let other = Ok((None, status));
        let other = report(&other, &Value::Null, unit(Unit::Inactive, None));
        assert!(other.note.unwrap().contains("it runs in my.service"));
    }

    #[test]
    fn one_that_is_silent() {
        let holder = Pid::new(7).map(|pid| Holder { pid, start: 1, own: pid });
        let why = "no answer in time".to_owned();
        let silent = Err(NoAnswer::Silent { holder, why });
        let run = json!({ "pid": 7, "started": "s" });
        let found = report(&silent, &run, None);
        assert_eq!((found.state, found.pid), (State::Unresponsive, Some(7)));
        assert_eq!(found.since.as_deref(), Some("s"));
        assert!(found.note.unwrap().contains("no answer in time"));
        let starting = report(&silent, &run, unit(Unit::Activating, Some(7)));
        assert_eq!(starting.state, State::Starting);
        // What its unit is starting is another process.
        let other = report(&silent, &run, unit(Unit::Activating, Some(8)));
        assert_eq!(other.state, State::Unresponsive);
    }

    #[test]
    fn none_that_runs() {
        let stopped = report(&Err(NoAnswer::Free), &Value::Null, None);
        assert_eq!((stopped.state, stopped.pid), (State::Stopped, None));
        assert_eq!(stopped.since.as_deref(), Some("2026-01-01T00:00:00.000Z"));
        let dead = report(&Err(NoAnswer::Free), &json!({ "pid": 7, "started": "s" }), None);
        assert_eq!((dead.state, dead.pid, dead.since), (State::Dead, None, None));
        assert!(dead.note.unwrap().contains("since s"));
        for (started, verdict) in [("2026-01-02", "unclean exit"), ("2025-12-31", "planned")] {
            let run = json!({ "id": "b/7/1", "started": started });
            let killed = report(&Err(NoAnswer::Free), &run, unit(Unit::Failed, None));
            assert_eq!(killed.last_stop["verdict"], verdict, "how the last one ended");
        }
        let failed = report(&Err(NoAnswer::Free), &Value::Null, unit(Unit::Failed, None));
        assert_eq!(failed.state, State::Failed);
        assert_eq!(failed.since.as_deref(), Some("1994-11-06T08:49:37Z"));
        assert!(failed.note.unwrap().contains("its unit: exit status 78"));
        let elsewhere = report(&Err(NoAnswer::Free), &Value::Null, unit(Unit::Active, Some(9)));
        assert_eq!((elsewhere.state, elsewhere.pid), (State::Unknown, None));
        assert!(elsewhere.note.unwrap().contains("pid 9"));
    }
}
