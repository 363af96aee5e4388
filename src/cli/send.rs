//! `send`: one message to the running gateway, its reply printed as it comes.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Instant;

use serde_json::Value;

use super::control::{broken, lines, open, problem, refused};
use super::message::Sending;
use super::{Context, config, message, printed};
use crate::api;
use crate::escape::quoted;
use crate::exit::{Exit, Failure};
use crate::limits::{CONTROL_TIMEOUT, LONGEST_REPLY, MAX_BODY_RANGE};
use crate::outbound::client::{Client, Error};

/// The header that puts a message into a session.
const SESSION: &str = "X-Hermes-Session-Id";

/// Sends `text`, or with `None` what standard input has: as a durable message, or else to print the
/// reply as it comes.
pub fn send(
    context: &Context,
    session: Option<&str>,
    text: Option<String>,
    sending: Option<Sending>,
) -> Result<Exit, Failure> {
    check_session(session)?;
    let text = match text {
        Some(text) => text,
        None => {
            let most = config::load(context).map(|loaded| loaded.config.limits.max_body);
            read_all(io::stdin().lock(), most.unwrap_or(*MAX_BODY_RANGE.end()))?
        }
    };
    let mut client = open(context)?;
    if let Some(sending) = sending {
        return message::send(&mut client, session, &text, &sending);
    }
    let terminal = io::stdout().is_terminal();
    let mut printer = Printer { out: io::stdout().lock(), terminal, last: None };
    let result = converse(&mut client, session, &text, &mut printer);
    printer.finish(result)
}

/// Prints a whole reply.
pub fn print_reply(text: &str) -> Result<Exit, Failure> {
    let terminal = io::stdout().is_terminal();
    let mut printer = Printer { out: io::stdout().lock(), terminal, last: None };
    let result = printed(printer.print(text));
    printer.finish(result)
}

fn check_session(session: Option<&str>) -> Result<(), Failure> {
    let Some(key) = session else { return Ok(()) };
    // A header loses them on its way: it would be another session.
    let bare = key.trim_matches(' ') == key;
    let spaces = "A session's key begins and ends with no space.".to_owned();
    let checked = api::check_session(key).map_err(|problem| problem.message);
    checked
        .and_then(|()| bare.then_some(()).ok_or(spaces))
        .map_err(|words| Failure::new(Exit::Usage, format!("--session: {words}")))
}

/// Reads text up to `limit` bytes.
fn read_all(from: impl Read, limit: usize) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
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

/// Sends the message and prints the pieces of the reply, until it ends or nobody takes them.
fn converse<W: Write>(
    client: &mut Client,
    session: Option<&str>,
    text: &str,
    printer: &mut Printer<W>,
) -> Result<Exit, Failure> {
    let deadline = Instant::now() + LONGEST_REPLY;
    let text = quoted(text);
    let body = format!(r#"{{"stream":true,"messages":[{{"role":"user","content":{text}}}]}}"#);
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(session.map(|key| (SESSION, key)));
    let path = "/v1/chat/completions";
    let answer = client
        .send("POST", path, &headers, Some(body.as_bytes()), deadline)
        .map_err(|e| broken(&e))?;
    if answer.status != 200 {
        return Err(refused(answer, Instant::now() + CONTROL_TIMEOUT));
    }
    let mut events = answer.events();
    while let Some(event) = events.next(deadline).map_err(|e| broken(&e))? {
        let Some(text) = read_event(&event.data)? else {
            return Ok(Exit::Planned);
        };
        if let Err(e) = printer.print(&text) {
            return printed(Err(e));
        }
    }
    Err(broken(&Error::CutShort))
}

/// Reads an event of a streamed completion, or the error that ends it. `None`: the end; some events
/// have no text (the role, the reason for the end).
fn read_event(data: &str) -> Result<Option<String>, Failure> {
    if data == "[DONE]" {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(data.as_bytes())
        .map_err(|e| Failure::failed(format!("the gateway's answer is not JSON: {e}")))?;
    if value["error"].is_object() {
        return Err(problem(value["status"].as_u64(), &value["error"]));
    }
    let text = value.pointer("/choices/0/delta/content").and_then(Value::as_str);
    Ok(Some(text.unwrap_or_default().to_owned()))
}

/// Prints a reply: as it is, or, on a terminal, without what acts there.
struct Printer<W: Write> {
    out: W,
    terminal: bool,
    /// What was printed last.
    last: Option<char>,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, text: &str) -> io::Result<()> {
        let safe = if self.terminal { &lines(text) } else { text };
        self.last = safe.chars().next_back().or(self.last);
        self.out.write_all(safe.as_bytes())?;
        self.out.flush()
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

    /// Ends the last line if the reply did not.
    fn end(&mut self) -> io::Result<()> {
        if self.last.is_none_or(|last| last == '\n') {
            return Ok(());
        }
        self.last = Some('\n');
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::knock;
    use super::super::control::tests::{dirs, fake, hold, json as answer};
    use super::*;
    use crate::testing::TempDir;
    use serde_json::json;
    use std::time::Duration;

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
        let (_, mut client) = knock(&dirs, deadline).unwrap();
        let mut printer = Printer { out: Vec::new(), terminal, last: None };
        let result = converse(&mut client, Some("kä se"), "hi\n", &mut printer);
        printer.end().unwrap();
        drop(client);
        let request = server.join().unwrap().remove(0);
        (String::from_utf8(printer.out).unwrap(), result, request)
    }

    fn failure(result: Result<Exit, Failure>) -> (u8, String) {
        let failure = result.unwrap_err();
        (failure.exit.code(), failure.message)
    }

    #[test]
    fn a_reply_piece_by_piece() {
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
    fn errors_before_the_reply() {
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
    fn errors_in_the_middle() {
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
        for cut in [format!("{HEAD}{}", delta("half")), String::new()] {
            let (_, result, _) = talk(&cut, true);
            let (code, words) = failure(result);
            assert!(code == 1 && words.contains("went away"), "{words}");
        }
    }

    #[test]
    fn sessions_and_input() {
        for bad in ["", " a", "a ", "a\nb", "a\u{85}b", &"x".repeat(257)] {
            let error = check_session(Some(bad)).unwrap_err();
            assert_eq!(error.exit, Exit::Usage, "{bad:?}");
        }
        for good in [None, Some("a b"), Some("ключ"), Some(&*"x".repeat(256))] {
            assert!(check_session(good).is_ok());
        }
        assert_eq!(read_all(&b"12345"[..], 5).unwrap(), "12345");
        let error = read_all(&b"123456"[..], 5).unwrap_err();
        assert!(error.message.contains("limits.max_body"), "{error}");
        let error = read_all(&b"ab\xff"[..], 5).unwrap_err();
        assert!(error.message.contains("byte 2"), "{error}");
    }
}
