//! `send`: one message to the running gateway, its reply printed as it comes; or a durable message, whose
//! reply can be fetched later.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::args::Parsed;
use super::config;
use super::context::Context;
use super::control_client::{
    connect_to, escaped_lines, exchange, exit_for, parse, problem, refused, request,
};
use super::live_events::LiveEvents;
use super::output::{printed, say};
use crate::api;
use crate::escape::{escaped, quoted};
use crate::exit::{Exit, Failure};
use crate::json::object;
use crate::limits::{CONTROL_TIMEOUT, LONGEST_REPLY, MAX_BODY_RANGE, MAX_WAIT};
use crate::outbound::client::Error;
use crate::outbound::{Client, Request};
use crate::sys::fd::{STDIN, STDOUT, write_all};
use crate::sys::fs as files;

const CUT_SHORT: &str = "the gateway ended before the reply was complete; a durable message runs again at its next start";

/// Sends a message, as a durable one or else to print the reply as it comes; or prints the reply of one
/// that was sent.
pub fn send(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    if let Some(id) = args.value("--result") {
        let wait = Duration::from_secs(args.number("--wait").unwrap_or(0));
        return result(&mut connect_to(context)?, id, wait, &mut LiveEvents::new(context));
    }
    let session = args.value("--session");
    check_session(session)?;
    let text = if args.stdin {
        let most = config::load(context).map(|loaded| loaded.config.limits.max_body);
        let stdin = STDIN.try_clone_to_owned().map(File::from);
        read_all(stdin, most.unwrap_or(*MAX_BODY_RANGE.end()))?
    } else {
        args.words.concat()
    };
    let (mut client, mut live) = (connect_to(context)?, LiveEvents::new(context));
    let durable = ["--async", "--deliver", "--to", "--mode", "--idempotency-key"];
    if durable.iter().any(|option| args.has(option)) {
        return send_durable(&mut client, &text, args, &mut live);
    }
    let mut printer = printer();
    let mut beside = |name: &str, event: &Value| live.take(name, event);
    let result = converse(&mut client, (session, &text), &mut printer, &mut beside);
    printer.finish(result)
}

/// Sends `text` as a durable message. Prints its id, or waits for the reply and prints that.
fn send_durable(
    client: &mut Client,
    text: &str,
    args: &Parsed,
    live: &mut LiveEvents<'_>,
) -> Result<Exit, Failure> {
    let value = |option| args.value(option);
    let (session, deliver, mode) = (value("--session"), value("--deliver"), value("--mode"));
    let to = value("--to");
    let body =
        object!("text": text, "session": session, "deliver": deliver, "to": to, "mode": mode);
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(value("--idempotency-key").map(|key| ("Idempotency-Key", key)));
    let deadline = Instant::now() + CONTROL_TIMEOUT + MAX_WAIT;
    let body = body.to_string();
    let sent = exchange(client, "POST", "/v1/messages", &headers, Some(body.as_bytes()), deadline)?;
    let id = sent["id"].as_str().unwrap_or("").to_owned();
    if !args.has("--async") {
        return result(client, &id, LONGEST_REPLY, live);
    }
    let place = match (sent["position"].as_u64(), sent["status"].as_str()) {
        (Some(position), _) => format!("position {position}"),
        (None, status) => escaped(status.unwrap_or("known"), false),
    };
    // The id alone goes where `--result "$(…)"` reads it.
    eprintln!("hermes-gateway: accepted, {place}");
    say(&format!("{}\n", escaped(&id, false)))
}

/// How often a message is looked at that may have a question.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Prints the reply of a message, waiting for it at most so long.
fn result(
    client: &mut Client,
    id: &str,
    wait: Duration,
    live: &mut LiveEvents<'_>,
) -> Result<Exit, Failure> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
        // Whole seconds, rounded up: what is left of one is waited for too.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let target = format!("/v1/messages/{id}?wait={seconds}");
        let message = request(client, "GET", &target).map_err(|failure| {
            Failure::new(failure.0.exit, format!("message {id}: {}", failure.0.message))
        })?;
        let questions = message["approvals"].as_array().into_iter().flatten();
        questions.for_each(|question| live.ask(question));
        let error = escaped_lines(message["error"].as_str().unwrap_or("no reason is known"));
        let exit = exit_for(message["error_status"].as_u64());
        let how = match message["status"].as_str().unwrap_or("?") {
            "done" => {
                if let Some(reply) = message["reply"].as_str() {
                    let mut printer = printer();
                    let result = printed(printer.print(reply));
                    return printer.finish(result);
                }
                ""
            }
            "failed" => " failed",
            "cancelled" => " was cancelled",
            status if left.is_zero() => {
                let status = escaped(status, false);
                let place = message["position"].as_u64();
                let place = place.map(|n| format!(", position {n}")).unwrap_or_default();
                let waits = message["waiting"]["reason"].as_str().map(escaped_lines);
                let waits = waits.map(|why| format!("; it waits for the agent: {why}"));
                let waits = waits.unwrap_or_default();
                let words = format!("message {id} has no reply yet: {status}{place}{waits}");
                return Err(Failure::new(Exit::TryLater, words));
            }
            _ => continue,
        };
        return Err(Failure::new(exit, format!("message {id}{how}: {error}")));
    }
}

fn check_session(session: Option<&str>) -> Result<(), Failure> {
    let Some(key) = session else { return Ok(()) };
    // A header loses them on its way: it would be another session.
    let checked = match key.trim_matches(' ') == key {
        true => api::check_session(key).map_err(|problem| problem.0.message),
        false => Err("A session's key must not begin or end with a space.".to_owned()),
    };
    checked.map_err(|words| Failure::new(Exit::Usage, format!("--session: {words}")))
}

/// Reads text up to `limit` bytes.
fn read_all(from: io::Result<File>, limit: usize) -> Result<String, Failure> {
    let bytes = from
        .and_then(|from| files::read_bytes(from, limit as u64 + 1))
        .map_err(|e| Failure::cannot("read standard input", &e))?;
    if bytes.len() > limit {
        return Err(Failure::failed(format!(
            "the message on standard input is longer than {limit} bytes; limits.max_body raises that"
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::failed(format!("standard input is not UTF-8 text (byte {at})"))
    })
}

/// Sends the message and prints the pieces of the reply, until it ends or nobody takes them. `beside`: is
/// given what the agent does beside it, and gives a line to show.
fn converse(
    client: &mut Client,
    (session, text): (Option<&str>, &str),
    printer: &mut Printer<'_>,
    beside: &mut dyn FnMut(&str, &Value) -> Option<String>,
) -> Result<Exit, Failure> {
    let deadline = Instant::now() + LONGEST_REPLY;
    let text = quoted(text);
    let body = format!(r#"{{"stream":true,"messages":[{{"role":"user","content":{text}}}]}}"#);
    let mut headers = vec![("Content-Type", "application/json"), (api::LIVE_EVENTS, "true")];
    headers.extend(session.map(|key| ("X-Hermes-Session-Id", key)));
    let (target, body) = ("/v1/chat/completions", Some(body.as_bytes()));
    let request = Request { method: "POST", target, headers: &headers, body };
    let answer = client.send(&request, deadline)?;
    if answer.status != 200 {
        return Err(refused(answer, Instant::now() + CONTROL_TIMEOUT));
    }
    let cut = |error| match error {
        Error::CutShort if session.is_some() => Failure::failed(CUT_SHORT),
        error => error.into(),
    };
    let mut events = answer.events();
    while let Some(event) = events.next(deadline).map_err(cut)? {
        if event.data == "[DONE]" {
            return Ok(Exit::Planned);
        }
        let value = parse(event.data.as_bytes())?;
        if !event.name.is_empty() {
            beside(&event.name, &value).iter().for_each(|line| printer.aside(line));
            continue;
        }
        if value["error"].is_object() {
            return Err(problem(value["status"].as_u64(), &value["error"]));
        }
        // Some have no text: the role, the reason for the end.
        let text = value["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        if let Err(e) = printer.print(text) {
            return printed(Err(e));
        }
    }
    Err(cut(Error::CutShort))
}

/// Prints a reply: as it is, or, on a terminal, without what acts there.
struct Printer<'a> {
    out: BorrowedFd<'a>,
    terminal: bool,
    /// What was printed last.
    last: Option<char>,
}

fn printer() -> Printer<'static> {
    Printer { out: STDOUT, terminal: STDOUT.is_terminal(), last: None }
}

impl Printer<'_> {
    fn print(&mut self, text: &str) -> io::Result<()> {
        let safe = if self.terminal { &escaped_lines(text) } else { text };
        self.last = safe.chars().next_back().or(self.last);
        write_all(self.out, safe.as_bytes())
    }

    fn finish(mut self, result: Result<Exit, Failure>) -> Result<Exit, Failure> {
        // The error's line must not begin in the middle of the reply's last one.
        let ended = self.end();
        let exit = result.and_then(|_| printed(ended))?;
        if self.last.is_none() {
            eprintln!("hermes-gateway: the agent gave an empty reply");
        }
        Ok(exit)
    }

    /// Shows a line on standard error, which may be the same terminal.
    fn aside(&mut self, line: &str) {
        if self.terminal {
            let _ = self.end();
        }
        eprintln!("{line}");
    }

    /// Ends the last line if the reply did not.
    fn end(&mut self) -> io::Result<()> {
        if self.last.is_some_and(|last| last != '\n') { self.print("\n") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::os::fd::AsFd;

    use serde_json::json;

    use super::super::control_client::contact;
    use super::super::control_client::tests::{dirs, fake, hold, json as answer};
    use super::*;
    use crate::sys::fd::memory_file;
    use crate::testing::TempDir;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

    fn delta(text: &str) -> String {
        let choice = json!({ "index": 0, "delta": { "content": text } });
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    }

    /// What is printed, what came of it, and the request.
    fn talk(reply: &str, terminal: bool) -> (String, Result<Exit, Failure>, String) {
        let root = TempDir::new("send");
        let dirs = dirs(&root);
        let _held = hold(&dirs);
        let server = fake(&dirs, &[reply]);
        let deadline = Instant::now() + Duration::from_secs(20);
        let (_, (mut client, _)) = contact(&dirs, deadline, "").unwrap();
        let mut out = memory_file(b"").unwrap();
        let mut printer = Printer { out: out.as_fd(), terminal, last: None };
        let result = {
            let mut beside = |name: &str, event: &Value| Some(format!("{name} {event}"));
            converse(&mut client, (Some("kä se"), "hi\n"), &mut printer, &mut beside)
        };
        printer.end().unwrap();
        drop(client);
        let request = server.join().unwrap().remove(0);
        out.rewind().unwrap();
        (files::read_text(out, u64::MAX).unwrap(), result, request)
    }

    fn failure(result: Result<Exit, Failure>) -> (u8, String) {
        let failure = result.unwrap_err();
        (failure.0.exit.code(), failure.0.message)
    }

    #[test]
    fn a_streamed_reply_is_printed_chunk_by_chunk() {
        let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
        let pieces = delta("He\x1b[2J") + &delta("llo\r\n\tä");
        let whole = format!("{HEAD}{role}{pieces}data: [DONE]\n\n");
        let (printed, result, request) = talk(&whole, true);
        assert!(result.is_ok());
        assert_eq!(printed, "He\\u{1b}[2Jllo\n\tä\n");
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
        assert!(request.contains("X-Hermes-Session-Id: kä se\r\n"), "{request}");
        let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["messages"][0]["content"], "hi\n");
        assert_eq!(body["stream"], true);
        let (printed, _, _) = talk(&whole, false);
        assert_eq!(printed, "He\x1b[2Jllo\r\n\tä\n");
    }

    #[test]
    fn errors_before_the_reply_are_printed() {
        let body = r#"{"error":{"message":"Too many.","code":"queue_full"}}"#;
        let (printed, result, _) = talk(&answer("429 Too Many Requests", body), true);
        assert_eq!(printed, "");
        assert_eq!(failure(result), (75, "Too many.".to_owned()));
        let later = answer("503 Busy\r\nRetry-After: 5", body);
        let (_, result, _) = talk(&later, true);
        assert_eq!(failure(result), (75, "Too many. (try again in 5 s)".to_owned()));
        let body =
            "{\"error\":{\"message\":\"exit 1:\\n\\u001b[31mno\",\"code\":\"agent_failed\"}}";
        let (_, result, _) = talk(&answer("502 Bad Gateway", body), true);
        assert_eq!(failure(result), (1, "exit 1:\n\\u{1b}[31mno".to_owned()));
        let (_, result, _) = talk(&answer("404 Not Found", "nothing"), true);
        assert!(failure(result).1.contains("404"));
    }

    #[test]
    fn errors_in_the_middle_of_a_reply_are_printed() {
        let event = |code: &str| {
            let status = if code == "agent_failed" { 502 } else { 503 };
            let error = json!({ "error": { "message": "No.", "code": code }, "status": status });
            format!("{HEAD}{}data: {error}\n\n", delta("half"))
        };
        let (printed, result, _) = talk(&event("agent_failed"), true);
        assert_eq!(printed, "half\n");
        assert_eq!(failure(result), (1, "No.".to_owned()));
        let (_, result, _) = talk(&event("gateway_stopping"), true);
        assert_eq!(failure(result).0, 75);
        // The words are the upstream's own, and the status says what they mean.
        let error = r#"data: {"error":{"message":"slow down","code":"own"},"status":429}"#;
        let (_, result, _) = talk(&format!("{HEAD}{error}\n\n"), true);
        assert_eq!(failure(result), (75, "slow down".to_owned()));
        // The end without [DONE], and nothing at all.
        for (cut, why) in [
            (format!("{HEAD}{}", delta("half")), "runs again at its next start"),
            (String::new(), "closed the connection"),
        ] {
            let (_, result, _) = talk(&cut, true);
            let (code, words) = failure(result);
            assert!(code == 1 && words.contains(why), "{words}");
        }
    }

    #[test]
    fn names_of_sessions_and_input_are_checked() {
        for bad in ["", " a", "a ", "a\nb", "a\u{85}b", &"x".repeat(257)] {
            let error = check_session(Some(bad)).unwrap_err();
            assert_eq!(error.0.exit, Exit::Usage, "{bad:?}");
        }
        for good in [None, Some("a b"), Some("ключ"), Some(&*"x".repeat(256))] {
            assert!(check_session(good).is_ok());
        }
        assert_eq!(read_all(memory_file(b"12345"), 5).unwrap(), "12345");
        let error = read_all(memory_file(b"123456"), 5).unwrap_err();
        assert!(error.0.message.contains("limits.max_body"), "{error}");
        let error = read_all(memory_file(b"ab\xff"), 5).unwrap_err();
        assert!(error.0.message.contains("byte 2"), "{error}");
    }
}
