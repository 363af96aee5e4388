//! `status`: what the gateway is doing, and how it last stopped.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::context::Context;
use super::output::{say, say_wrapped};
use super::status_report::{Report, UnitReport, gather};
use super::unit_control::Unit;
use super::{history, time_format, unit_paths};
use crate::config;
use crate::escape::{counted, escaped};
use crate::exit::{Exit, Failure};
use crate::limits::CONTROL_TIMEOUT;
use crate::sys::{clock::parse_rfc3339, gather::Gather};
use crate::systemd::Scope;
use crate::systemd::unit_template::{Author, author};

/// Where values begin: behind a label of at most nine letters and two spaces.
const INDENT: usize = 11;

/// Prints it, and exits as LSB has it.
pub fn show(context: &Context, json: bool, system: bool) -> Result<Exit, Failure> {
    let Report { state, unit, mut status } = gather(context, system);
    let current = unit.as_ref().and_then(|unit| compare(context, unit));
    status["unit_current"] = current.map(|(current, _)| current).into();
    if json {
        say(&format!("{status}\n"))?;
    } else {
        let unit = unit.map(|unit| unit_line(&unit, current));
        say_wrapped(&to_text(&status, unit.as_deref(), time_format::now()), INDENT)?;
    }
    Ok(state.exit())
}

/// Whether the installed unit is what this program would write, and who wrote it; `None` where that
/// cannot be told.
fn compare(context: &Context, unit: &UnitReport) -> Option<(bool, Author)> {
    let installed = unit_paths::read(unit.path.as_ref()?).ok()?;
    let owner = context.of_unit(unit.scope, &installed)?;
    let drain = config::load(&owner.unit_sources()).ok()?.config.stop.drain_timeout;
    let systemctl = Unit::new(context, unit.scope).systemctl;
    let version = systemctl.version(Instant::now() + CONTROL_TIMEOUT).ok()?;
    Some((owner.unit_text(version, drain).ok()? == installed, author(&installed)))
}

/// A report for people. `unit`: what there is to say of its unit. `now`: seconds since 1970.
pub fn to_text(status: &Value, unit: Option<&str>, now: i64) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: Option<String>| {
        text.extend(value.map(|value| format!("{label:>9}  {value}\n")));
    };
    let safe = |text: &str| escaped(text, false);
    let shown = |value: &Value| value.as_str().map(safe);
    let time = |value: &Value| value.as_str().map(|time| time_format::with_age(time, now));
    let list = |key: &str| status[key].as_array().into_iter().flatten();
    line("gateway", shown(&status["name"]));
    let since = time(&status["since"]).map(|since| format!(" since {since}")).unwrap_or_default();
    line("state", shown(&status["state"]).map(|state| state + &since));
    line("degraded", shown(&status["degraded"]));
    list("warnings").for_each(|warning| line("warning", shown(warning)));
    line("", shown(&status["note"]));
    let refused = &status["reload_error"];
    line("reload", time(&refused["time"]).map(|time| format!("refused {time}")));
    let why = refused["message"].as_str().unwrap_or_default();
    why.lines().for_each(|words| line("", Some(safe(words))));
    for words in restart(&status["restart"], now) {
        line("restart", Some(safe(&words)));
    }
    line("pid", status["pid"].as_i64().map(|pid| pid.to_string()));
    line("listen", shown(&status["listen"]));
    line("unit", unit.map(safe));
    line("", shown(&status["unit_path"]));
    let limit = &status["stop_timeout_seconds"];
    line("", limit.is_number().then(|| format!("TimeoutStopSec= of the unit: {limit} s")));
    line("turns", status["turns"].is_object().then(|| turns(status)));
    for words in waiting(&status["waiting"], now) {
        line("", status["waiting"].is_object().then(|| safe(&words)));
    }
    list("processes").for_each(|one| line("process", Some(safe(&process(one)))));
    list("channels").for_each(|one| line("channel", Some(safe(&channel(one, now)))));
    line("limits", shown(&status["limits"]["shortage"]));
    line("journal", status["journal"].is_object().then(|| journal(&status["journal"])));
    list("principals").for_each(|one| line("principal", Some(safe(&principal(one)))));
    let other = status["client_version"].as_str();
    let other = other.map(|other| format!(" (this program is {other})")).unwrap_or_default();
    line("version", shown(&status["version"]).map(|version| version + &other));
    let stop = &status["last_stop"];
    line("last stop", stop.is_object().then(|| history::in_a_line(stop, now)));
    text
}

/// One channel, and what waits for it or of it.
fn channel(channel: &Value, now: i64) -> String {
    let text = |key: &str| channel[key].as_str().unwrap_or_default();
    let count = |key: &str| channel[key].as_u64().unwrap_or(0);
    let mut words = format!(
        "{} is {} since {}: {} unacknowledged, {} to send",
        text("name"),
        text("state"),
        time_format::with_age(text("since"), now),
        count("unacknowledged"),
        count("waiting")
    );
    for (about, what) in [("", text("why")), ("messages may be missing ", text("gap"))] {
        if !what.is_empty() {
            words = format!("{words}; {about}{what}");
        }
    }
    words
}

/// The restart that is under way, the last one, and the last that did not happen.
fn restart(restart: &Value, now: i64) -> Vec<String> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("?").to_owned();
    let time = |value: &Value| time_format::with_age(&text(value, "time"), now);
    let [current, last, failed] = ["current", "last", "failed"].map(|key| &restart[key]);
    let current = current.is_object().then(|| {
        let since = time_format::coarse(current["since_seconds"].as_u64().unwrap_or(0));
        let [kind, stage, by] = ["kind", "stage", "by"].map(|key| text(current, key));
        format!("{kind} under way since {since} ({stage}), asked for by {by}")
    });
    let last = last.is_object().then(|| {
        let away = last["away_ms"].as_u64().map(Duration::from_millis);
        let away = away.map(|away| format!(", nobody served for {}", time_format::fine(away)));
        let [kind, by, from, version] =
            ["kind", "by", "from", "version"].map(|key| text(last, key));
        let away = away.unwrap_or_default();
        format!("{kind} {}, {from} → {version}{away}, asked for by {by}", time(last))
    });
    let failed = failed
        .is_object()
        .then(|| format!("did not happen {}: {}", time(failed), text(failed, "why")));
    [current, last, failed].into_iter().flatten().gather()
}

/// `current`: see [`compare`].
fn unit_line(unit: &UnitReport, current: Option<(bool, Author)>) -> String {
    let scope = if unit.scope == Scope::System { "system unit, " } else { "" };
    let state = match &unit.facts {
        Ok(facts) => {
            let again = Some(facts.shown.restarts()).filter(|count| *count > 0);
            let again = again.map(|count| format!(", restarted {count}×")).unwrap_or_default();
            let get = |key| facts.shown.get(key);
            format!("{} ({}){again}", get("ActiveState"), get("SubState"))
        }
        Err(why) => why.clone(),
    };
    let current = match current {
        None => "",
        Some((true, _)) => ", up to date",
        Some((_, Author::Ours)) => ", not what this program would write: `install` updates it",
        Some((_, Author::Edited)) => ", changed by hand: `install --force` would overwrite that",
        Some((_, Author::Foreign)) => ", not written by hermes-gateway",
    };
    format!("{}: {scope}{state}{current}", unit.name)
}

fn journal(journal: &Value) -> String {
    let count = |key: &str| number(&journal[key]);
    let dead = counted(&count("dead_letters"), "dead letter");
    format!("{} bytes, {} to deliver, {dead}", count("bytes"), count("outbox"))
}

/// A process of an agent that stays.
fn process(one: &Value) -> String {
    let of = one["principal"].as_str().map(|name| format!(" of {name}")).unwrap_or_default();
    let resident = one["resident_bytes"].as_u64().map(|bytes| bytes >> 20);
    let resident = resident.map(|mib| format!(", {mib} MiB")).unwrap_or_default();
    let age = time_format::coarse(one["age_seconds"].as_u64().unwrap_or(0));
    let count = |key: &str, noun: &str| counted(&number(&one[key]), noun);
    let (turns, sessions) = (count("turns", "turn"), count("sessions", "session"));
    let (pid, served) = (number(&one["pid"]), number(&one["served"]));
    format!("{pid}{of}: {turns}, {served} served, {sessions}{resident}, started {age} ago")
}

/// What a principal holds.
fn principal(one: &Value) -> String {
    let held = one.as_object().into_iter().flatten();
    let held = held.filter(|(_, value)| value.as_u64().is_some_and(|value| value > 0));
    let held = held.map(|(what, value)| format!("{} {value}", what.replace('_', " ")));
    let held: Vec<String> = held.gather();
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

fn turns(status: &Value) -> String {
    let running = number(&status["turns"]["running"]);
    let waiting = number(&status["turns"]["waiting"]);
    let sessions = number(&status["sessions"]);
    format!("{running} running, {waiting} waiting; sessions with turns: {sessions}")
}

/// `?` for what a gateway whose disk hangs cannot tell.
fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "?".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::control_client::NoAnswer;
    use super::super::status_report::{State, UnitStatus, assemble};
    use super::*;
    use crate::name::Name;
    use crate::systemd::systemctl::Properties;
    use serde_json::json;

    const VERSION: &str = env!("CARGO_PKG_VERSION");

    fn stop() -> Value {
        json!({
            "time": "1994-11-06T08:40:00.000Z", "signal": "SIGTERM", "verdict": "planned",
            "sender": { "pid": 7, "uid": 0, "name": "sys\u{1b}temd" }, "exit": 0,
            "drain_ms": 15, "in_flight": 0, "reason": "the service manager is stopping the unit",
        })
    }

    fn running() -> Report {
        holding(&Value::Null)
    }

    fn holding(principals: &Value) -> Report {
        let answer = json!({
            "name": "coder", "version": VERSION, "state": "serving", "pid": 12,
            "state_since": "1994-11-06T08:49:37.042Z", "uptime_seconds": 125,
            "listen": "127.0.0.1:8642", "unit": "hermes-gateway-coder.service",
            "agent": "echo", "sessions": 1, "turns": { "running": 1, "waiting": 2 },
            "last_stop": stop(), "principals": principals,
        });
        let shown = "ActiveState=active\nSubState=running\nNRestarts=2\nMainPID=12\n";
        let unit = UnitReport {
            name: "hermes-gateway-coder.service".into(),
            scope: Scope::User,
            path: Some("/h/x\n.service".into()),
            facts: Ok(UnitStatus::read(Properties(shown.to_owned())).unwrap()),
        };
        let name = Name::parse("coder").unwrap();
        assemble(&name, &Ok((None, answer)), &Value::Null, Some(unit), None)
    }

    fn stopped() -> Report {
        let name = Name::parse("coder").unwrap();
        let mut stopped = assemble(&name, &Err(NoAnswer::NotRunning), &Value::Null, None, None);
        stopped.status["note"] = "odd\u{1b}".into();
        stopped
    }

    fn text_of(report: &Report, now: i64) -> String {
        let unit = report.unit.as_ref().map(|unit| unit_line(unit, Some((true, Author::Ours))));
        to_text(&report.status, unit.as_deref(), now)
    }

    #[test]
    fn the_status_for_people_has_a_line_each() {
        let expected = "  gateway  coder
    state  running since 1994-11-06 08:49:37 UTC, 2 min ago
      pid  12
   listen  127.0.0.1:8642
     unit  hermes-gateway-coder.service: active (running), restarted 2×, up to date
           /h/x\\u{a}.service
    turns  1 running, 2 waiting; sessions with turns: 1
  version  0.1.0
last stop  1994-11-06 08:40:00 UTC, 11 min ago: planned, SIGTERM from sys\\u{1b}temd[7] uid 0, exit 0
";
        assert_eq!(text_of(&running(), 784_111_777 + 125), expected);
        assert_eq!(
            text_of(&stopped(), 0),
            "  gateway  coder\n    state  stopped\n           odd\\u{1b}\n"
        );
    }

    #[test]
    fn the_processes_of_an_agent_that_stays_have_a_line_each() {
        let mut report = running();
        report.status["processes"] = json!([
            { "pid": 7, "principal": null, "age_seconds": 125, "turns": 1, "served": 57,
              "sessions": 3, "resident_bytes": 121 << 20 },
            { "pid": 8, "principal": "b\u{1b}", "age_seconds": 1, "turns": 0, "served": 0,
              "sessions": 1, "resident_bytes": null },
        ]);
        let lines = "  process  7: 1 turn, 57 served, 3 sessions, 121 MiB, started 2 min ago
  process  8 of b\\u{1b}: 0 turns, 0 served, 1 session, started 1 s ago\n";
        assert!(text_of(&report, 0).contains(lines), "{}", text_of(&report, 0));
    }

    #[test]
    fn channels_have_a_line_each() {
        let mut report = running();
        report.status["channels"] = json!([{
            "name": "office", "state": "waiting", "since": "1994-11-06T08:49:37Z", "why": "a\u{1b}",
            "unacknowledged": 1, "waiting": 2, "gap": null,
        }]);
        let line = "  channel  office is waiting since 1994-11-06 08:49:37 UTC, 2 min ago: \
                    1 unacknowledged, 2 to send; a\\u{1b}\n";
        let text = text_of(&report, 784_111_777 + 125);
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn what_principals_hold_is_shown() {
        let owner = json!({ "name": "owner", "queued": 1 });
        let alice = json!({ "name": "al\u{1b}", "journal_bytes": 12, "queued": 3, "results": 0 });
        let report = holding(&json!([alice, owner]));
        let text = text_of(&report, 0);
        let lines =
            "principal  al\\u{1b}: journal bytes 12, queued 3\nprincipal  owner: queued 1\n";
        assert!(text.contains(lines), "{text}");
        assert_eq!(report.status["principals"][1], owner);
    }

    #[test]
    fn the_status_for_programs_is_json() {
        let Report { status: value, state, .. } = running();
        assert_eq!(state, State::Running);
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
        let value = stopped().status;
        for key in ["pid", "since", "listen", "unit", "version", "last_stop"] {
            assert!(value.get(key).is_some_and(Value::is_null), "{key}");
        }
        assert_eq!(value["client_version"], VERSION);
    }
}
