//! A call of the Bot API and what can become of it. Pure.

use serde_json::Value;

use crate::escape::{escaped, first_chars};

/// A wait that is asked for, in seconds: nobody waits for longer than a day.
const MAX_RETRY_AFTER: u64 = 86_400;

/// Characters of a description; Telegram's are shorter.
const MAX_DESCRIPTION: usize = 200;

/// A call to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// A method of the Bot API, like `sendMessage`.
    pub method: &'static str,
    /// Its parameters, an object.
    pub parameters: Value,
    /// Files that go along, by the name of the parameter that each is.
    pub files: Vec<(&'static str, Upload)>,
}

/// A file of this host that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub path: String,
    /// What it is called there.
    pub name: String,
    pub media_type: String,
}

/// What a call has come to: its `result`, or why there is none.
pub type Outcome = Result<Value, Failure>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Telegram has said so.
    Refused(Refusal),
    /// The request has not left, or cannot have been understood: no connection, no name, no TLS, no `curl`.
    NotSent(String),
    /// It has left, and no whole answer has come; also an answer that is none of the Bot API.
    Unknown(String),
}

/// An answer with `"ok": false`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// `error_code`.
    pub code: u16,
    /// Safe to be shown.
    pub description: String,
    /// Seconds, a day at most, of `parameters`.
    pub retry_after: Option<u64>,
    /// The id that the chat has now, of `parameters`.
    pub migrate_to: Option<i64>,
}

/// What an answer says, of this HTTP status and with this body; `redact` takes the token out of a text. Nothing is
/// quoted of a body that is none of the Bot API's: a proxy's may have the URL in it, and that the token.
///
/// # Errors
/// Those of the Bot API; [`Failure::Unknown`] where it is none of its answers.
pub fn answer(status: u16, body: &[u8], redact: &dyn Fn(&str) -> String) -> Outcome {
    let mut json: Value = serde_json::from_slice(body).unwrap_or_default();
    match json["ok"].as_bool() {
        Some(true) if json.get("result").is_some() => Ok(json["result"].take()),
        Some(false) => {
            let parameters = &json["parameters"];
            let code = json["error_code"].as_u64().and_then(|code| u16::try_from(code).ok());
            // Before it is cut, since a part of the token is too much as well.
            let description = redact(json["description"].as_str().unwrap_or_default());
            Err(Failure::Refused(Refusal {
                code: code.unwrap_or(status),
                description: escaped(&first_chars(&description, MAX_DESCRIPTION), false),
                retry_after: parameters["retry_after"].as_u64().map(|s| s.min(MAX_RETRY_AFTER)),
                migrate_to: parameters["migrate_to_chat_id"].as_i64(),
            }))
        }
        Some(true) | None if status >= 500 => Err(Failure::Refused(Refusal {
            code: status,
            description: format!("HTTP status {status}"),
            ..Refusal::default()
        })),
        Some(true) | None => {
            Err(Failure::Unknown(format!("HTTP status {status} without an answer of the Bot API")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: u16, body: &[u8]) -> Outcome {
        super::answer(status, body, &|text| text.replace("1:SECRET", "TOKEN"))
    }

    #[test]
    fn an_answer_is_a_result_or_what_telegram_says_or_unknown() {
        let refused = |code, description: &str, retry_after, migrate_to| {
            let description = description.to_owned();
            Err(Failure::Refused(Refusal { code, description, retry_after, migrate_to }))
        };
        for (status, body, wanted) in [
            (200, r#"{"ok":true,"result":{"message_id":5}}"#, Ok(json!({ "message_id": 5 }))),
            (200, r#"{"ok":true,"result":null}"#, Ok(Value::Null)),
            (
                400,
                r#"{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}"#,
                refused(400, "Bad Request: chat not found", None, None),
            ),
            (
                429,
                r#"{"ok":false,"error_code":429,"description":"x","parameters":{"retry_after":7}}"#,
                refused(429, "x", Some(7), None),
            ),
            (
                429,
                r#"{"ok":false,"description":"x","parameters":{"retry_after":18446744073709551615}}"#,
                refused(429, "x", Some(86_400), None),
            ),
            (
                400,
                r#"{"ok":false,"error_code":400,"parameters":{"migrate_to_chat_id":-1005}}"#,
                refused(400, "", None, Some(-1005)),
            ),
            (403, r#"{"ok":false,"error_code":70000}"#, refused(403, "", None, None)),
            (
                400,
                r#"{"ok":false,"error_code":400,"description":"a\n\u001b[2J\u202e"}"#,
                refused(400, "a\\u{a}\\u{1b}[2J\\u{202e}", None, None),
            ),
            (502, "<html>bad gateway /bot1:SECRET/", refused(502, "HTTP status 502", None, None)),
            (500, "", refused(500, "HTTP status 500", None, None)),
        ] {
            assert_eq!(answer(status, body.as_bytes()), wanted, "{body}");
        }
        for (status, body) in [
            (200, ""),
            (200, "<html>/bot1:SECRET/"),
            (200, r#"{"ok":true,"result":{"message_id":5}"#),
            (200, r#"{"ok":true}"#),
            (200, r#"{"ok":"true","result":1}"#),
            (200, "[]"),
            (200, "true"),
            (301, "moved to /bot1:SECRET/"),
            (404, r#"{"error":"no such route"}"#),
        ] {
            let Err(Failure::Unknown(why)) = answer(status, body.as_bytes()) else {
                panic!("{body}")
            };
            assert!(why.contains(&status.to_string()) && !why.contains("SECRET"), "{why}");
        }
        for before in ["x".to_owned(), "x".repeat(MAX_DESCRIPTION - 5)] {
            let said = json!({ "ok": false, "description": format!("{before}/bot1:SECRET/") });
            let refused = answer(404, said.to_string().as_bytes());
            let Err(Failure::Refused(refusal)) = refused else { panic!() };
            let whole = format!("{before}/botTOKEN/");
            assert_eq!(refusal.description, first_chars(&whole, MAX_DESCRIPTION));
        }
        let long = json!({ "ok": false, "error_code": 400, "description": "x".repeat(100_000) });
        let Err(Failure::Refused(cut)) = answer(400, long.to_string().as_bytes()) else { panic!() };
        assert_eq!(cut.description.len(), MAX_DESCRIPTION);
        let deep = "[".repeat(100_000);
        assert!(matches!(answer(200, deep.as_bytes()), Err(Failure::Unknown(_))));
    }
}
