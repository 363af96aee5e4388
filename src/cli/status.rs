//! `status`: what the gateway is doing, and how it last stopped.

use std::time::Instant;

use serde_json::{Value, json};

use super::context::Context;
use super::output::{say, say_wrapped};
use super::report::UnitStatus;
use super::report::{Report, UnitReport, gather};
use super::unit::Unit;
use super::{history, time_format, unit_file};
use crate::config;
use crate::escape::{counted, escaped};
use crate::exit::{Exit, Failure};
use crate::limits::CONTROL_TIMEOUT;
use crate::sys::clock::parse_rfc3339;
use crate::systemd::Scope;
use crate::systemd::unit::{Origin, inspect};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the report has as the gateway answered it; null without an answer.
const ANSWERED: &str = "uptime_seconds listen stop_timeout_seconds version agent sessions turns \
    waiting limits degraded warnings reload_error journal principals";
/// Where values begin: behind a label of at most nine letters and two spaces.
const INDENT: usize = 11;

/// Prints it, and exits as LSB has it.
pub fn show(context: &Context, json: bool, system: bool) -> Result<Exit, Failure> {
    let mut report = gather(context, system);
    if let Some(unit) = &mut report.unit {
        unit.current = compare(context, unit);
    }
    if json {
        say(&format!("{}\n", to_json(&report)))?;
    } else {
        say_wrapped(&to_text(&report, time_format::now()), INDENT)?;
    }
    Ok(report.state.exit())
}

/// Whether the installed unit is what this program would write, and who wrote it; `None` where that
/// cannot be told.
fn compare(context: &Context, unit: &UnitReport) -> Option<(bool, Origin)> {
    let installed = unit_file::read(unit.path.as_ref()?).ok()?;
    let owner = context.of_unit(unit.scope, &installed)?;
    let drain = config::load(&owner.unit_sources()).ok()?.config.stop.drain_timeout;
    let systemctl = Unit::new(context, unit.scope).systemctl;
    let version = systemctl.version(Instant::now() + CONTROL_TIMEOUT).ok()?;
    Some((owner.unit_text(version, drain).ok()? == installed, inspect(&installed)))
}

/// The report for programs. Keys are added, never renamed.
pub fn to_json(report: &Report) -> Value {
    let unit = report.unit.as_ref();
    let facts = unit.and_then(|unit| unit.facts.as_ref().ok()?.as_ref());
    let mut value = json!({
        "name": report.name,
        "state": report.state.word(),
        "pid": report.pid,
        "since": report.since,
        "unit": unit.map(|unit| &unit.name),
        "unit_scope": unit.map(|unit| unit.scope.as_str()),
        "unit_path": unit.and_then(|unit| unit.path.as_ref()),
        "unit_current": unit.and_then(|unit| unit.current).map(|(current, _)| current),
        "unit_state": facts.map(|facts| facts.shown.get("ActiveState")),
        "unit_restarts": facts.map(UnitStatus::restarts),
        "last_stop": report.last_stop,
        "note": report.note,
    });
    for key in ANSWERED.split(' ') {
        value[key] = report.answer[key].clone();
    }
    if value["version"] != VERSION {
        value["client_version"] = VERSION.into();
    }
    value
}

/// The report for people. `now`: seconds since 1970.
pub fn to_text(report: &Report, now: i64) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: Option<String>| {
        text.extend(value.map(|value| format!("{label:>9}  {value}\n")));
    };
    let safe = |text: &str| escaped(text, false);
    let (answer, unit) = (&report.answer, report.unit.as_ref());
    line("gateway", Some(report.name.clone()));
    let since = report.since.as_deref();
    let since = since.map(|since| format!(" since {}", time_format::with_age(since, now)));
    line("state", Some(report.state.word() + &since.unwrap_or_default()));
    line("degraded", answer["degraded"].as_str().map(safe));
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        line("warning", warning.as_str().map(safe));
    }
    line("", report.note.as_deref().map(safe));
    let refused = &answer["reload_error"];
    line(
        "reload",
        refused["time"].as_str().map(|at| format!("refused {}", time_format::with_age(at, now))),
    );
    let why = refused["message"].as_str().unwrap_or_default();
    why.lines().for_each(|words| line("", Some(safe(words))));
    line("pid", report.pid.map(|pid| pid.to_string()));
    line("listen", answer["listen"].as_str().map(safe));
    line("unit", unit.map(|unit| safe(&unit_line(unit))));
    line("", unit.and_then(|unit| unit.path.as_deref()).map(safe));
    let limit = answer["stop_timeout_seconds"].as_f64();
    line("", limit.map(|seconds| format!("its unit gives a stop {seconds} s")));
    line("turns", answer["turns"].is_object().then(|| turns(answer)));
    for words in waiting(&answer["waiting"], now) {
        line("", answer["waiting"].is_object().then(|| safe(&words)));
    }
    line("limits", answer["limits"]["shortage"].as_str().map(safe));
    line("journal", answer["journal"].is_object().then(|| journal(&answer["journal"])));
    for one in answer["principals"].as_array().into_iter().flatten() {
        line("principal", Some(safe(&principal(one))));
    }
    let other = format!(" (this program is {VERSION})");
    let other = if answer["version"] == VERSION { "" } else { &other };
    line("version", answer["version"].as_str().map(|version| safe(version) + other));
    let stop = &report.last_stop;
    line("last stop", stop.is_object().then(|| history::in_a_line(stop, now)));
    text
}

fn unit_line(unit: &UnitReport) -> String {
    let scope = if unit.scope == Scope::System { "system unit, " } else { "" };
    let state = match &unit.facts {
        Ok(Some(facts)) => {
            let again = Some(facts.restarts()).filter(|count| *count > 0);
            let again = again.map(|count| format!(", restarted {count}×")).unwrap_or_default();
            let get = |key| facts.shown.get(key);
            format!("{} ({}){again}", get("ActiveState"), get("SubState"))
        }
        Ok(None) => "not loaded".to_owned(),
        Err(why) => format!("systemd cannot be asked: {why}"),
    };
    let current = match unit.current {
        None => "",
        Some((true, _)) => ", up to date",
        Some((_, Origin::Ours)) => ", not what this program would write: `install` updates it",
        Some((_, Origin::Edited)) => ", changed by hand: `install --force` would overwrite that",
        Some((_, Origin::Foreign)) => ", not written by hermes-gateway",
    };
    format!("{}: {scope}{state}{current}", unit.name)
}

fn journal(journal: &Value) -> String {
    let count = |key: &str| number(&journal[key]);
    let (outbox, dead) = (count("outbox"), count("dead_letters"));
    let dead = counted(&dead, "dead letter");
    format!("{} bytes, {outbox} to deliver, {dead}", count("bytes"))
}

/// What a principal holds.
fn principal(one: &Value) -> String {
    let held = one.as_object().into_iter().flatten();
    let held = held.filter(|(_, value)| value.as_u64().is_some_and(|value| value > 0));
    let held = held.map(|(what, value)| format!("{} {value}", what.replace('_', " ")));
    let held: Vec<String> = held.collect();
    format!("{}: {}", one["name"].as_str().unwrap_or("?"), held.join(", "))
}

/// What turns wait for between two attempts, in lines that fit a terminal but for the error.
fn waiting(waiting: &Value, now: i64) -> [String; 3] {
    let turns = match waiting["turns"].as_u64().unwrap_or(0) {
        1 => "1 turn waits".to_owned(),
        count => format!("{count} turns wait"),
    };
    let time = |key: &str| waiting[key].as_str().unwrap_or("?");
    let left = parse_rfc3339(time("next_attempt_at")).map_or(0, |next| next - now);
    let left = time_format::coarse(u64::try_from(left).unwrap_or(0));
    [
        format!("{turns} for the agent; next attempt in {left}"),
        format!("the next to be tried gives up at {}", time_format::shown(time("gives_up_at"))),
        format!("last error: {}", time("reason")),
    ]
}

fn turns(answer: &Value) -> String {
    let running = number(&answer["turns"]["running"]);
    let waiting = number(&answer["turns"]["waiting"]);
    let sessions = number(&answer["sessions"]);
    format!("{running} running, {waiting} waiting; sessions: {sessions}")
}

/// `?` for what a gateway whose disk hangs cannot tell.
fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "?".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;
    use crate::systemd::systemctl::Properties;

    fn stop() -> Value {
        json!({
            "time": "1994-11-06T08:40:00.000Z", "signal": "SIGTERM", "verdict": "planned",
            "sender": { "pid": 7, "uid": 0, "name": "sys\u{1b}temd" }, "exit": 0,
            "drain_ms": 15, "in_flight": 0, "reason": "the service manager is stopping the unit",
        })
    }

    fn running() -> Report {
        let answer = json!({
            "name": "coder", "version": VERSION, "state": "serving", "pid": 12,
            "since": "1994-11-06T08:49:37.042Z", "uptime_seconds": 125,
            "listen": "127.0.0.1:8642", "unit": "hermes-gateway-coder.service",
            "agent": "echo", "sessions": 1, "turns": { "running": 1, "waiting": 2 },
        });
        let shown = "ActiveState=active\nSubState=running\nNRestarts=2\nMainPID=12\n";
        let facts = UnitStatus::read(Properties(shown.to_owned())).unwrap();
        Report {
            name: "coder".into(),
            state: State::Running,
            pid: Some(12),
            since: Some("1994-11-06T08:49:37.042Z".into()),
            answer,
            unit: Some(UnitReport {
                name: "hermes-gateway-coder.service".into(),
                scope: Scope::User,
                path: Some("/h/x\n.service".into()),
                current: Some((true, Origin::Ours)),
                facts: Ok(Some(facts)),
            }),
            last_stop: stop(),
            note: None,
        }
    }

    fn stopped() -> Report {
        Report {
            name: "coder".into(),
            state: State::Stopped,
            pid: None,
            since: None,
            answer: Value::Null,
            unit: None,
            last_stop: Value::Null,
            note: Some("odd\u{1b}".into()),
        }
    }

    #[test]
    fn the_status_for_people_has_a_line_each() {
        let expected = "  gateway  coder
    state  running since 1994-11-06 08:49:37 UTC, 2 min ago
      pid  12
   listen  127.0.0.1:8642
     unit  hermes-gateway-coder.service: active (running), restarted 2×, up to date
           /h/x\\u{a}.service
    turns  1 running, 2 waiting; sessions: 1
  version  0.1.0
last stop  1994-11-06 08:40:00 UTC, 11 min ago: planned, SIGTERM from sys\\u{1b}temd[7] uid 0, exit 0
";
        assert_eq!(to_text(&running(), 784_111_777 + 125), expected);
        assert_eq!(
            to_text(&stopped(), 0),
            "  gateway  coder\n    state  stopped\n           odd\\u{1b}\n"
        );
    }

    #[test]
    fn what_principals_hold_is_shown() {
        let mut report = running();
        let owner = json!({ "name": "owner", "queued": 1 });
        let alice = json!({ "name": "al\u{1b}", "journal_bytes": 12, "queued": 3, "results": 0 });
        report.answer["principals"] = json!([alice, owner]);
        let text = to_text(&report, 0);
        let lines =
            "principal  al\\u{1b}: journal bytes 12, queued 3\nprincipal  owner: queued 1\n";
        assert!(text.contains(lines), "{text}");
        assert_eq!(to_json(&report)["principals"][1], owner);
    }

    #[test]
    fn the_status_for_programs_is_json() {
        let value = to_json(&running());
        for (key, expected) in [
            ("name", json!("coder")),
            ("state", json!("running")),
            ("pid", json!(12)),
            ("since", json!("1994-11-06T08:49:37.042Z")),
            ("uptime_seconds", json!(125)),
            ("listen", json!("127.0.0.1:8642")),
            ("unit", json!("hermes-gateway-coder.service")),
            ("unit_state", json!("active")),
            ("version", json!(VERSION)),
            ("sessions", json!(1)),
            ("client_version", Value::Null),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
        assert_eq!(value["last_stop"]["verdict"], "planned");
        let value = to_json(&stopped());
        for key in ["pid", "since", "listen", "unit", "version", "last_stop"] {
            assert!(value.get(key).is_some_and(Value::is_null), "{key}");
        }
        assert_eq!(value["client_version"], VERSION);
    }
}
