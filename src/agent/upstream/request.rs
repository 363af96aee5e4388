//! What the upstream is asked: the body of a chat completion.

use std::io;

use super::super::context::{history, is_instruction, message};
use super::super::{Attachment, Turn};
use crate::digest::to_base64;
use crate::escape::quoted;
use crate::json::{add, elements, members};
use crate::limits::MAX_BODY_RANGE;
use crate::sys::fs::{is_temporary, open_own, read_bytes};

/// Fields of a request that are ours to set.
const OURS: [&str; 5] = ["model", "messages", "stream", "stream_options", "n"];

/// `(streams, for_text, usage)`: whether a stream is wanted, whether only its text counts, and
/// whether to ask for its usage then; a client of the API says itself what its stream is to hold.
pub fn body(
    turn: &Turn<'_>,
    model: &str,
    (streams, for_text, usage): (bool, bool, bool),
    max_history: usize,
) -> io::Result<String> {
    let mut body = format!(r#"{{"model":{},"stream":{streams}"#, quoted(model));
    let options = turn.context.map_or("", |context| &context.options);
    for (name, value) in members(options) {
        let wanted = streams && !for_text && value != "null";
        if (name == "stream_options" && wanted) || !OURS.contains(&&*name) {
            add(&mut body, Some(&name), value);
        }
    }
    if usage {
        add(&mut body, Some("stream_options"), r#"{"include_usage":true}"#);
    }
    body += r#","messages":["#;
    add_messages(&mut body, turn, max_history)?;
    body += "]}";
    Ok(body)
}

/// The messages: of a session what was said in it, else those of the request.
fn add_messages(body: &mut String, turn: &Turn<'_>, max_history: usize) -> io::Result<()> {
    let given = turn.context.map_or("", |context| &context.messages);
    let (mut given, in_session) = (elements(given).peekable(), turn.transcript.is_some());
    let alone = given.peek().is_none();
    let said = given.filter(|message| !in_session || is_instruction(message));
    said.for_each(|message| add(body, None, message));
    if let Some(transcript) = turn.transcript {
        let attached = |id: &str| turn.earlier.iter().find(|(known, _)| known == id);
        for (role, text, id) in history(transcript, max_history)? {
            match attached(&id).filter(|_| role == "user") {
                Some((_, attachments)) => add_user(body, &text, attachments)?,
                None => add(body, None, &message(role, &text)),
            }
        }
    }
    if in_session || alone {
        add_user(body, turn.text, turn.attachments)?;
    }
    Ok(())
}

/// Adds a user's message, with what came with it.
fn add_user(body: &mut String, text: &str, attachments: &[Attachment]) -> io::Result<()> {
    if attachments.is_empty() {
        add(body, None, &message("user", text));
        return Ok(());
    }
    add(body, None, r#"{"role":"user","content":["#);
    if !text.is_empty() {
        add(body, None, &text_part(text));
    }
    for attachment in attachments {
        add_part(body, attachment)?;
    }
    *body += "]}";
    Ok(())
}

fn text_part(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

/// An attachment as a part of content: a line of text where there is no file, or none any more.
fn add_part(body: &mut String, attachment: &Attachment) -> io::Result<()> {
    let Attachment { name, media, path } = attachment;
    let cap = *MAX_BODY_RANGE.end() as u64;
    let read = path.as_ref().map(|path| open_own(path).and_then(|file| read_bytes(file, cap)));
    let bytes = match read {
        Some(Err(e)) if is_temporary(&e) => return Err(e),
        read => read.and_then(Result::ok),
    };
    let image = r#"{"type":"image_url","image_url":{"url":"#;
    // What is before the data and behind them.
    let (before, behind) = match (&bytes, media.split_once('/')) {
        (None, Some(("image", "*"))) => (format!("{image}{}}}}}", quoted(name)), ""),
        (None, _) => (text_part(&format!("Attachment: {name}")), ""),
        (_, Some(("image", _))) => (format!("{image}\"data:{media};base64,"), "\"}}"),
        (_, Some(("audio", kind @ ("wav" | "x-wav" | "wave" | "mpeg" | "mp3")))) => {
            let format = if kind.starts_with("mp") { "mp3" } else { "wav" };
            let audio = format!(r#"{{"format":"{format}","data":""#);
            (format!(r#"{{"type":"input_audio","input_audio":{audio}"#), "\"}}")
        }
        _ => {
            let file = format!(r#"{{"filename":{},"file_data":""#, quoted(name));
            (format!(r#"{{"type":"file","file":{file}data:{media};base64,"#), "\"}}")
        }
    };
    add(body, None, &before);
    // Piece by piece, of three bytes each: a large file is in memory once, and once more in the body.
    bytes.iter().flat_map(|all| all.chunks(3 << 10)).for_each(|piece| *body += &to_base64(piece));
    *body += behind;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Context;
    use crate::testing::TempDir;
    use serde_json::{Value, json};

    const TURN: Turn<'_> = Turn {
        message_id: "m",
        session: "",
        principal: "p",
        attempt: 1,
        text: "now?",
        context: None,
        transcript: None,
        attachments: &[],
        earlier: &[],
        max_reply: 0,
        process: "",
        session_name: "",
        agent_session: None,
    };

    fn context(json: &str) -> Context {
        Context::parse(json)
    }

    fn asked(turn: &Turn<'_>, how: (bool, bool, bool), room: usize) -> Value {
        serde_json::from_str(&body(turn, "m\"1", how, room).unwrap()).unwrap()
    }

    #[test]
    fn a_text_alone_is_sent_as_one_user_message() {
        let wanted = json!({
            "model": "m\"1", "stream": true, "stream_options": { "include_usage": true },
            "messages": [{ "role": "user", "content": "now?" }],
        });
        assert_eq!(asked(&TURN, (true, true, true), 0), wanted);
        assert!(asked(&TURN, (true, true, false), 0).get("stream_options").is_none());
    }

    #[test]
    fn what_a_client_says_goes_along() {
        let context = context(
            r#"{"messages":[{"role":"system","content":[{"type":"text","text":"s"}]},
                {"role":"tool","tool_call_id":"1","content":"t"}],
                "options":{"temperature":0.5,"user":"me","n":1,"stream":false,"model":"x",
                "messages":[],"tools":[{"a":1}],"stream_options":{"include_usage":false}}}"#,
        );
        let turn = Turn { context: Some(&context), ..TURN };
        let mut wanted = json!({
            "model": "m\"1", "stream": true, "temperature": 0.5, "user": "me", "tools": [{ "a": 1 }],
            "stream_options": { "include_usage": false }, "messages": serde_json::from_str::<Value>(&context.messages).unwrap(),
        });
        assert_eq!(asked(&turn, (true, false, false), 0), wanted);
        wanted["stream_options"] = json!({ "include_usage": true });
        assert_eq!(asked(&turn, (true, true, true), 0), wanted);
        wanted["stream"] = false.into();
        wanted.as_object_mut().unwrap().remove("stream_options");
        assert_eq!(asked(&turn, (false, false, false), 0), wanted);
    }

    #[test]
    fn a_session_says_what_was_said_in_it() {
        let dir = TempDir::new("upstream");
        let path = dir.path().join("t.jsonl");
        let context = context(
            r#"{"messages":[{"role":"developer","content":"d"},{"role":"user","content":"old"},
                {"role":"assistant","content":"old"},{"role":"system","content":"s"}]}"#,
        );
        let turn = Turn { context: Some(&context), transcript: Some(&path), ..TURN };
        let said = |messages: &Value| {
            let all = messages["messages"].as_array().unwrap();
            let words = |m: &Value| format!("{}:{}", m["role"], m["content"]).replace('"', "");
            all.iter().map(words).collect::<Vec<_>>().join(" ")
        };
        let how = (true, true, true);
        assert_eq!(said(&asked(&turn, how, 1000)), "developer:d system:s user:now?");
        let mut text = "torn\n".to_owned();
        for id in 1..=3 {
            for role in ["user", "assistant"] {
                let line =
                    json!({ "role": role, "content": format!("{role}{id}"), "id": id, "at": 1 });
                text += &format!("{line}\n");
            }
        }
        text += "{\"role\":\"user\",\"content\":\"no answer\",\"id\":9}\n";
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let turn = Turn { context: None, ..turn };
        let all = asked(&turn, how, 1000);
        assert_eq!(
            said(&all),
            "user:user1 assistant:assistant1 user:user2 assistant:assistant2 user:user3 \
             assistant:assistant3 user:now?"
        );
        assert_eq!(all["messages"][0], json!({ "role": "user", "content": "user1" }));
        let pair = message("user", "user1").len() + message("assistant", "assistant1").len();
        for (room, first) in [(3 * pair, "user1"), (3 * pair - 1, "user2"), (pair, "user3")] {
            assert_eq!(asked(&turn, how, room)["messages"][0]["content"], first, "{room}");
        }
        assert_eq!(said(&asked(&turn, how, pair - 1)), "user:now?");
    }
}
