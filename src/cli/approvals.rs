//! `approvals`: what agents have asked for leave to do, and the answers; and an answer to one of them.

use std::time::Instant;

use serde_json::Value;

use super::args::Parsed;
use super::context::Context;
use super::control_client::{connect_to, exchange, request};
use super::history::word;
use super::output::{say, say_wrapped, table};
use super::time_format;
use crate::config::OWNER;
use crate::exit::{Exit, Failure};
use crate::json::object;
use crate::limits::CONTROL_TIMEOUT;
use crate::outbound::Client;
use crate::sys::gather::Gather;

/// As many as fit a screen or two; more on demand.
const SHOWN: u32 = 20;

/// Lists them, or answers one.
pub fn approvals(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    let mut client = connect_to(context)?;
    for (option, allow) in [("--allow", true), ("--deny", false)] {
        if let Some(id) = args.value(option) {
            return answer_by_id(&mut client, id, allow);
        }
    }
    let count = args.number("--lines").unwrap_or(SHOWN).clamp(1, 1000);
    let all = ask(&mut client, count as usize)?;
    if args.has("--json") {
        return say(&all.iter().map(|one| format!("{one}\n")).gather().concat());
    }
    if all.is_empty() {
        eprintln!("hermes-gateway: no agent has asked for leave");
        return Ok(Exit::Planned);
    }
    say_wrapped(&as_text(&all), 4)
}

/// So many of them, or all that are open and a page of the others. A page may be short, or empty, where what is
/// next is far away.
fn ask(client: &mut Client<'_>, count: usize) -> Result<Vec<Value>, Failure> {
    pages(count, &mut |target| request(client, "GET", target))
}

fn pages(
    count: usize,
    get: &mut dyn FnMut(&str) -> Result<Value, Failure>,
) -> Result<Vec<Value>, Failure> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let limit = count.saturating_sub(all.len()).max(1);
        let mut answer = get(&format!("/v1/approvals?limit={limit}{after}"))?;
        if let Value::Array(page) = answer["approvals"].take() {
            all.extend(page);
        }
        match answer["next"].as_str() {
            Some(next) if all.len() < count => after = format!("&after={next}"),
            _ => return Ok(all),
        }
    }
}

fn answer_by_id(client: &mut Client<'_>, id: &str, allow: bool) -> Result<Exit, Failure> {
    // Those that are open come first, all of them.
    let all = ask(client, 0)?;
    let is_it = |one: &&Value| {
        let known = one["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(id));
        known && is_open(one)
    };
    let Some(question) = all.iter().find(is_it) else {
        let words = "no question of this ID is open; `hermes-gateway approvals` lists them";
        return Err(Failure::failed(words.to_owned()));
    };
    answer(client, question, allow)?;
    let what = if allow { "allowed" } else { "denied" };
    say(&format!("{}: {what}\n", word(&question["id"])))
}

/// Answers a question, which has an `id` and a `message`.
pub fn answer(client: &mut Client<'_>, question: &Value, allow: bool) -> Result<Value, Failure> {
    let target = format!("/v1/messages/{}/approval", word(&question["message"]));
    let body = object!("id": question["id"].clone(), "allow": allow).to_string();
    let headers = [("Content-Type", "application/json")];
    let deadline = Instant::now() + CONTROL_TIMEOUT;
    exchange(client, "POST", &target, &headers, Some(body.as_bytes()), deadline)
}

/// `execute: rm -rf build  {"command":"rm -rf build"}`.
pub fn described(question: &Value) -> String {
    let kind = question["kind"].as_str().filter(|kind| !kind.is_empty());
    let kind = kind.map(|_| word(&question["kind"]) + ": ").unwrap_or_default();
    let input = &question["input"];
    let input = if input.is_null() { String::new() } else { format!("  {}", word(input)) };
    format!("{kind}{}{input}", word(&question["title"]))
}

fn is_open(one: &Value) -> bool {
    one["allowed"].is_null()
}

/// A row each, with what was asked in a line below.
fn as_text(all: &[Value]) -> String {
    let mut titles = vec!["ID", "PRINCIPAL", "SESSION", "ANSWER", "BY", "TIME (UTC)"];
    let row = |one: &Value| {
        let [id, principal, session, by] =
            ["id", "principal", "session", "by"].map(|key| word(&one[key]));
        let answer = match one["allowed"].as_bool() {
            None => "open",
            Some(true) => "allowed",
            Some(false) => "denied",
        };
        let time = time_format::shown(one["at"].as_str().unwrap_or("-"));
        let time = time.trim_end_matches(" UTC").to_owned();
        vec![id, principal, session, answer.to_owned(), by, time]
    };
    let mut rows: Vec<Vec<String>> = all.iter().map(row).gather();
    if all.iter().all(|one| one["principal"] == OWNER) {
        titles.remove(1);
        rows.iter_mut().for_each(|row| drop(row.remove(1)));
    }
    let below = |one: &Value| {
        let until = one["expires_at"].as_str().filter(|_| is_open(one));
        let until =
            until.map(|at| format!("; denied at {} unless allowed", time_format::shown(at)));
        format!("    {}{}\n", described(one), until.unwrap_or_default())
    };
    let rows = table(&titles, rows);
    let lines = rows.split_inclusive('\n').map(str::to_owned);
    // The head has none.
    let below = std::iter::once(String::new()).chain(all.iter().map(below));
    let mut text = lines.zip(below).map(|(row, below)| row + &below).gather().concat();
    if all.iter().any(is_open) {
        text += "`hermes-gateway approvals --allow ID` or `--deny ID` answers what is open\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_are_followed_until_there_are_enough_also_where_one_is_empty() {
        let got = |count| {
            let mut targets = Vec::new();
            let all = pages(count, &mut |target| {
                targets.push(target.strip_prefix("/v1/approvals?").unwrap().to_owned());
                Ok(match targets.len() {
                    1 => json!({ "approvals": [1, 2], "next": "9" }),
                    2 => json!({ "approvals": [], "next": "5" }),
                    _ => json!({ "approvals": [3], "next": null }),
                })
            });
            (all.unwrap().len(), targets.join(" "))
        };
        assert_eq!(got(0), (2, "limit=1".to_owned()));
        assert_eq!(got(2), (2, "limit=2".to_owned()));
        let targets = "limit=5 limit=3&after=9 limit=3&after=5".to_owned();
        assert_eq!(got(5), (3, targets));
    }

    #[test]
    fn each_question_has_a_row_and_what_was_asked_below_it() {
        let open = json!({
            "id": "7K3M2Q", "message": "01M", "session": "work", "principal": "owner",
            "allowed": null, "title": "rm -rf build", "kind": "execute", "by": null,
            "input": { "command": "rm\u{1b}" }, "at": null,
            "expires_at": "2026-11-30T08:10:00.000Z",
        });
        let mut denied = json!({
            "id": null, "message": "01M", "session": null, "principal": "owner",
            "allowed": false, "title": "a\u{1b}b", "kind": null, "input": null,
            "by": "agent.approve_timeout", "at": "2026-11-30T07:00:00.000Z",
        });
        let expected = "\
ID      SESSION  ANSWER  BY                     TIME (UTC)
7K3M2Q  work     open    -                      -
    execute: rm -rf build  {\"command\":\"rm\\u001b\"}; denied at 2026-11-30 08:10:00 UTC unless allowed
-       -        denied  agent.approve_timeout  2026-11-30 07:00:00
    a\\u{1b}b
`hermes-gateway approvals --allow ID` or `--deny ID` answers what is open
";
        assert_eq!(as_text(&[open, denied.clone()]), expected);
        denied["principal"] = "bob".into();
        let text = as_text(&[denied]);
        assert!(text.starts_with("ID  PRINCIPAL  SESSION") && text.contains("bob"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
