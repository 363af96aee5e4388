//! `channel`: the accounts on chat platforms, who is let in there, and what is said.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::args::Parsed;
use super::channel_check;
use super::context::Context;
use super::control_client::{connect_to, escaped_lines, exchange, parse, refused, request};
use super::history::word;
use super::output::{say, say_wrapped, table};
use super::time_format;
use crate::escape::{percent_encoded, quoted};
use crate::exit::{Exit, Failure};
use crate::limits::{CHECK_WAIT, CONTROL_TIMEOUT, MAX_WAIT};
use crate::outbound::{Client, Request};
use crate::sys::clock::rfc3339;
use crate::sys::gather::Gather;

/// Does what the words say.
pub fn channel(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    if let [word, command @ ..] = &args.words[..]
        && word == "check"
    {
        let wait = args.number("--wait").map_or(CHECK_WAIT, Duration::from_secs);
        return channel_check::check(&context.children, command, args.value("--to"), wait);
    }
    let mut client = connect_to(context)?;
    let words: Vec<&str> = args.words.iter().map(String::as_str).gather();
    match words[..] {
        ["pair", code] => {
            let paired = post(&mut client, "pair", "code", code)?;
            let [channel, id, name] = ["channel", "id", "name"].map(|key| word(&paired[key]));
            say(&format!("channel {channel}: \"{id}\" ({name}) may talk now\n"))
        }
        ["unpair", channel, id] => {
            post(&mut client, &format!("{}/unpair", encoded(channel)), "id", id)?;
            say("done\n")
        }
        ["restart", channel] => {
            request(&mut client, "POST", &format!("/v1/channels/{}/restart", encoded(channel)))?;
            say("its adapter is restarted\n")
        }
        ["sessions", channel] => sessions(&mut client, channel),
        ["read", session] => read(&mut client, session),
        _ => list(&mut client, args.has("--json")),
    }
}

/// Posts a body of one member below `/v1/channels`.
fn post(client: &mut Client<'_>, path: &str, name: &str, value: &str) -> Result<Value, Failure> {
    let (target, body) =
        (format!("/v1/channels/{path}"), format!("{{\"{name}\":{}}}", quoted(value)));
    let headers = [("Content-Type", "application/json")];
    let deadline = Instant::now() + CONTROL_TIMEOUT;
    exchange(client, "POST", &target, &headers, Some(body.as_bytes()), deadline)
}

fn list(client: &mut Client<'_>, json: bool) -> Result<Exit, Failure> {
    let answer = request(client, "GET", "/v1/channels")?;
    let all = answer["channels"].as_array().map_or(&[][..], Vec::as_slice);
    if json {
        return say(&all.iter().map(|one| format!("{one}\n")).gather().concat());
    }
    if all.is_empty() {
        eprintln!("hermes-gateway: the configuration has no [channel.NAME]");
        return Ok(Exit::Planned);
    }
    say_wrapped(&as_text(all), 4)
}

/// A row each, and below it what does not fit in there.
fn as_text(all: &[Value]) -> String {
    let titles = ["CHANNEL", "STATE", "SINCE (UTC)", "UNACKNOWLEDGED", "TO SEND", "CODES"];
    let row = |one: &Value| {
        let mut row = ["name", "state", "since", "unacknowledged", "waiting", "pairing_codes"]
            .map(|key| word(&one[key]));
        let since = time_format::shown(one["since"].as_str().unwrap_or("-"));
        row[2] = since.trim_end_matches(" UTC").to_owned();
        row.to_vec()
    };
    let below = |one: &Value| {
        let mut text = String::new();
        for (key, words) in
            [("account", "account "), ("why", ""), ("gap", "messages may be missing: ")]
        {
            if one[key].is_string() {
                text += &format!("    {words}{}\n", word(&one[key]));
            }
        }
        for person in one["paired"].as_array().into_iter().flatten() {
            text += &format!("    paired: {} ({})\n", word(&person["id"]), word(&person["name"]));
        }
        text
    };
    let rows = table(&titles, all.iter().map(row).gather());
    let lines = rows.split_inclusive('\n').map(str::to_owned);
    // The head has none.
    let below = std::iter::once(String::new()).chain(all.iter().map(below));
    lines.zip(below).map(|(row, below)| row + &below).gather().concat()
}

/// Prints a line for each session of the principals of a channel.
fn sessions(client: &mut Client<'_>, channel: &str) -> Result<Exit, Failure> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let target = format!("/v1/sessions?principal={}&after={after}", encoded(channel));
        let answer = request(client, "GET", &target)?;
        for one in answer["sessions"].as_array().into_iter().flatten() {
            rows.push(
                ["session", "principal", "running", "queued"].map(|key| word(&one[key])).to_vec(),
            );
        }
        match answer["next"].as_str() {
            Some(next) => after = encoded(next),
            None => break,
        }
    }
    if rows.is_empty() {
        known(client, channel)?;
    }
    say(&table(&["SESSION", "PRINCIPAL", "RUNNING", "QUEUED"], rows))
}

/// What is known of a name of which there is nothing to show.
///
/// # Errors
/// No channel has it.
fn known(client: &mut Client<'_>, channel: &str) -> Result<(), Failure> {
    let answer = request(client, "GET", "/v1/channels")?;
    let mut all = answer["channels"].as_array().into_iter().flatten();
    if all.any(|one| one["name"] == *channel) {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "nothing is known of it, and there is no channel {}; `hermes-gateway channel` lists them",
        quoted(channel)
    )))
}

/// Prints what was said in a session of a channel, or of ours.
fn read(client: &mut Client<'_>, session: &str) -> Result<Exit, Failure> {
    let channel = session.split(':').next().unwrap_or_default();
    let known = known(client, channel);
    let target =
        format!("/v1/messages?principal={}&session={}&limit=1", encoded(channel), encoded(session));
    let found = request(client, "GET", &target)?;
    let principal = found["messages"][0]["principal"].as_str();
    let of = principal.map(|name| format!("&principal={}", encoded(name))).unwrap_or_default();
    let target = format!("/v1/sessions/{}/events?after=0&follow=false{of}", encoded(session));
    let deadline = Instant::now() + MAX_WAIT;
    let request = Request { method: "GET", target: &target, headers: &[], body: None };
    let answer = client.send(&request, deadline)?;
    if answer.status != 200 {
        return Err(refused(answer, Instant::now() + CONTROL_TIMEOUT));
    }
    let (mut events, mut any) = (answer.events(), false);
    while let Some(event) = events.next(deadline)? {
        let line = line_of(&event.name, &parse(event.data.as_bytes())?);
        if !line.is_empty() {
            say(&line)?;
            any = true;
        }
    }
    if any { Ok(Exit::Planned) } else { known.map(|()| Exit::Planned) }
}

/// What a record has said, with who said it; nothing where it says nothing.
fn line_of(kind: &str, record: &Value) -> String {
    let (who, text) = match kind {
        "accepted" => {
            let from = &record["origin"];
            // A name is what its bearer likes.
            let who = match (word(&from["from"]), from["name"].is_string()) {
                (id, true) => format!("{id} ({})", word(&from["name"])),
                (id, false) if from["from"].is_string() => id,
                (..) => word(&record["principal"]),
            };
            (who, &record["text"])
        }
        "edited" => ("changed to".to_owned(), &record["text"]),
        "done" => ("agent".to_owned(), &record["reply"]),
        "failed" | "cancelled" | "dead" => (kind.to_owned(), &record["error"]),
        _ => return String::new(),
    };
    let time = time_format::shown(&rfc3339(record["at"].as_u64().unwrap_or(0)));
    let text = escaped_lines(text.as_str().unwrap_or_default());
    format!("{}  {who}: {}\n", time.trim_end_matches(" UTC"), text.trim_end())
}

/// One segment of a path, or a value of a query.
fn encoded(text: &str) -> String {
    percent_encoded(text.as_bytes(), &|byte| byte.is_ascii_alphanumeric())
}
