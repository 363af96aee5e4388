//! `history`: how the runs of the gateway ended, and updates that failed.

use std::time::Duration;

use serde_json::Value;

use super::context::Context;
use super::output::{say, say_wrapped, table};
use super::time_format;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::lifecycle::history::{self, sender};
use crate::sys::gather::Gather;

/// Prints the last `count` records, oldest first: a table, or a JSON object a line.
pub fn show(context: &Context, json: bool, count: Option<usize>) -> Result<Exit, Failure> {
    let stops =
        history::entries(&context.dirs).map_err(|e| Failure::cannot("read the history", &e))?;
    let name = &context.name;
    if stops.is_empty() {
        context.refuse_foreign("history")?;
        eprintln!("hermes-gateway: no end of a run of gateway {name} is on record");
        return Ok(Exit::Planned);
    }
    let shown = &stops[stops.len().saturating_sub(count.unwrap_or(usize::MAX))..];
    let lines = || shown.iter().map(|stop| format!("{stop}\n")).gather().concat();
    if json { say(&lines()) } else { say_wrapped(&as_table(shown), 4) }
}

/// A row a run, with who sent the signal and the reason in a line below.
fn as_table(stops: &[Value]) -> String {
    let row = |stop: &Value| {
        let time = time_format::shown(stop["time"].as_str().unwrap_or("-"));
        let drain = stop["drain_ms"].as_u64().map(Duration::from_millis);
        vec![
            time.trim_end_matches(" UTC").to_owned(),
            word(&stop["verdict"]),
            word(&stop["signal"]),
            word(&stop["exit"]),
            drain.map_or_else(|| "-".to_owned(), time_format::fine),
            turns(stop).unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let why = |stop: &Value| {
        let sender = sender(stop).map(|sender| sender + ": ").unwrap_or_default();
        let started = stop["started"].as_str().filter(|_| stop["verdict"] == "unclean exit");
        let started = started.map(|at| format!("; it had started at {}", time_format::shown(at)));
        let next = next(stop).unwrap_or_default();
        format!("    {sender}{}{}{next}\n", word(&stop["reason"]), started.unwrap_or_default())
    };
    let titles = ["TIME (UTC)", "VERDICT", "SIGNAL", "EXIT", "DRAIN", "TURNS"];
    let rows = table(&titles, stops.iter().map(row).gather());
    let lines = rows.split_inclusive('\n').map(str::to_owned);
    // The head has none.
    let below = std::iter::once(String::new()).chain(stops.iter().map(why));
    lines.zip(below).map(|(row, below)| row + &below).gather().concat()
}

/// One record: `2026-11-22 18:54:55 UTC, 2 min ago: planned, SIGTERM from systemd[7] uid 0, exit 0`.
pub fn in_a_line(stop: &Value, now: i64) -> String {
    // A run that left no record of its end has no time either.
    let time = stop["time"].as_str().map(|time| time_format::with_age(time, now) + ": ");
    let mut line = time.unwrap_or_default() + &word(&stop["verdict"]);
    let sender = sender(stop).map(|sender| format!(" from {sender}")).unwrap_or_default();
    line += &match &stop["signal"] {
        // What nobody announced says why itself.
        Value::Null => format!(" ({})", word(&stop["reason"])),
        signal => format!(", {}{sender}", word(signal)),
    };
    if !stop["exit"].is_null() {
        line += &format!(", exit {}", word(&stop["exit"]));
    }
    if let Some(turns) = turns(stop).filter(|turns| turns != "0") {
        line += &format!(", turns in flight: {turns}");
    }
    line
}

/// The start that followed: its version, where that is another one, and how long nobody served before.
fn next(stop: &Value) -> Option<String> {
    let next = &stop["next"];
    let (from, to) = (stop["version"].as_str(), next["version"].as_str());
    let versions = from.zip(to).filter(|(from, to)| from != to);
    let versions =
        versions.map(|(from, to)| format!("{} → {}", escaped(from, false), escaped(to, false)));
    let away = next["away_ms"].as_u64().map(Duration::from_millis);
    let away = away.map(|away| format!("nobody served for {}", time_format::fine(away)));
    let words: Vec<String> = versions.into_iter().chain(away).gather();
    (!words.is_empty()).then(|| format!("; {}", words.join(", ")))
}

/// Turns in flight, and how many of them were aborted.
fn turns(stop: &Value) -> Option<String> {
    let all = stop["in_flight"].as_u64()?;
    Some(match stop["cut"].as_u64().unwrap_or(0) {
        0 => all.to_string(),
        cut => format!("{all} ({cut} aborted)"),
    })
}

/// Text or a number, safe to print; `-` for nothing.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escaped(text, false),
        other => escaped(&other.to_string(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stops() -> [Value; 2] {
        [
            json!({
                "time": "1994-11-06T08:49:37.042Z", "signal": null, "sender": null,
                "started": "1994-11-05T08:49:37.042Z",
                "verdict": "unclean exit", "reason": "SIGKILL", "exit": null,
            }),
            json!({
                "time": "1994-11-06T08:50:37.042Z", "signal": "SIGTERM", "verdict": "external",
                "sender": { "pid": 7, "uid": 1000, "name": "ba\nsh" }, "exit": 143,
                "drain_ms": 2450, "in_flight": 2, "cut": 1, "reason": "a signal",
                "version": "0.2.0", "next": { "version": "0.3.0", "away_ms": 1250 },
            }),
        ]
    }

    #[test]
    fn each_run_has_a_table_row_and_a_reason_below_it() {
        let expected = "\
TIME (UTC)           VERDICT       SIGNAL   EXIT  DRAIN  TURNS
1994-11-06 08:49:37  unclean exit  -        -     -      -
    SIGKILL; it had started at 1994-11-05 08:49:37 UTC
1994-11-06 08:50:37  external      SIGTERM  143   2.4 s  2 (1 aborted)
    ba\\u{a}sh[7] uid 1000: a signal; 0.2.0 → 0.3.0, nobody served for 1.2 s
";
        assert_eq!(as_table(&stops()), expected);
        assert!(expected.lines().all(|line| line.chars().count() <= 80));
        assert_eq!(as_table(&[]), "");
    }

    #[test]
    fn a_record_is_told_in_one_line() {
        let now = 784_111_777 + 120;
        let [silent, signal] = stops();
        assert_eq!(
            in_a_line(&silent, now),
            "1994-11-06 08:49:37 UTC, 2 min ago: unclean exit (SIGKILL)"
        );
        assert_eq!(
            in_a_line(&signal, now),
            "1994-11-06 08:50:37 UTC, 1 min ago: external, SIGTERM from ba\\u{a}sh[7] uid 1000, \
             exit 143, turns in flight: 2 (1 aborted)"
        );
        // Whatever stands in the file.
        assert_eq!(in_a_line(&json!({}), 0), "- (-)");
        assert!(as_table(&[json!({ "time": 5, "sender": [] })]).contains('-'));
    }
}
