//! The records of the journal: what is written down about messages, and the one codec for it.
//!
//! Only these types go to disk; what the process knows beside them it finds out again at a start.
#![forbid(unsafe_code)]

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::text::quoted;

/// A message was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub id: String,
    /// Milliseconds since 1970, as in all records.
    pub at: u64,
    pub principal: String,
    pub session: Option<String>,
    pub text: String,
    /// The target of the configuration that the reply goes to.
    pub deliver: Option<String>,
    /// Digests of the idempotency key and of what was asked with it, in hex.
    pub key: Option<String>,
    pub body: Option<String>,
    /// It interrupts what its session is doing.
    pub interrupt: bool,
    pub attachments: Vec<String>,
}

/// A record. `n` counts attempts, of the turn or of the delivery, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Accepted(Accepted),
    Started {
        id: String,
        n: u32,
        at: u64,
    },
    /// The attempt failed for now.
    Retry {
        id: String,
        n: u32,
        at: u64,
        error: String,
    },
    Done {
        id: String,
        n: u32,
        at: u64,
        reply: String,
    },
    Failed {
        id: String,
        n: u32,
        at: u64,
        error: String,
    },
    Cancelled {
        id: String,
        at: u64,
        error: String,
    },
    /// A delivery begins.
    Sending {
        id: String,
        n: u32,
        at: u64,
    },
    /// It failed for now.
    Deferred {
        id: String,
        n: u32,
        at: u64,
        error: String,
    },
    Delivered {
        id: String,
        n: u32,
        at: u64,
    },
    /// It goes to the dead-letter list.
    Dead {
        id: String,
        n: u32,
        at: u64,
        error: String,
    },
    /// It was taken off that list to be sent again.
    Revived {
        id: String,
        at: u64,
    },
    /// It was taken off that list for good.
    Dropped {
        id: String,
        at: u64,
    },
    /// What was said in a session before does not count any more.
    Reset {
        principal: String,
        session: String,
        at: u64,
    },
}

impl Record {
    /// The word that says which it is.
    pub fn word(&self) -> &'static str {
        match self {
            Record::Accepted(_) => "accepted",
            Record::Started { .. } => "started",
            Record::Retry { .. } => "retry",
            Record::Done { .. } => "done",
            Record::Failed { .. } => "failed",
            Record::Cancelled { .. } => "cancelled",
            Record::Sending { .. } => "sending",
            Record::Deferred { .. } => "deferred",
            Record::Delivered { .. } => "delivered",
            Record::Dead { .. } => "dead",
            Record::Revived { .. } => "revived",
            Record::Dropped { .. } => "dropped",
            Record::Reset { .. } => "reset",
        }
    }

    /// The message that it is about.
    pub fn id(&self) -> Option<&str> {
        match self {
            Record::Accepted(accepted) => Some(&accepted.id),
            Record::Started { id, .. }
            | Record::Retry { id, .. }
            | Record::Done { id, .. }
            | Record::Failed { id, .. }
            | Record::Cancelled { id, .. }
            | Record::Sending { id, .. }
            | Record::Deferred { id, .. }
            | Record::Delivered { id, .. }
            | Record::Dead { id, .. }
            | Record::Revived { id, .. }
            | Record::Dropped { id, .. } => Some(id),
            Record::Reset { .. } => None,
        }
    }

    /// The record without what only the gateway needs of it.
    pub fn without_digests(self) -> Record {
        match self {
            Record::Accepted(accepted) => {
                Record::Accepted(Accepted { key: None, body: None, ..accepted })
            }
            other => other,
        }
    }

    /// One line of JSON, `t` and `id` first.
    pub fn to_json(&self) -> String {
        let mut out = format!(r#"{{"t":"{}""#, self.word());
        if let Some(id) = self.id() {
            text(&mut out, "id", id);
        }
        match self {
            Record::Accepted(accepted) => accepted.write(&mut out),
            Record::Started { n, at, .. }
            | Record::Sending { n, at, .. }
            | Record::Delivered { n, at, .. } => {
                let _ = write!(out, r#","n":{n},"at":{at}"#);
            }
            Record::Retry { n, at, error, .. }
            | Record::Failed { n, at, error, .. }
            | Record::Deferred { n, at, error, .. }
            | Record::Dead { n, at, error, .. } => {
                let _ = write!(out, r#","n":{n},"at":{at}"#);
                text(&mut out, "error", error);
            }
            Record::Done { n, at, reply, .. } => {
                let _ = write!(out, r#","n":{n},"at":{at}"#);
                text(&mut out, "reply", reply);
            }
            Record::Cancelled { at, error, .. } => {
                let _ = write!(out, r#","at":{at}"#);
                text(&mut out, "error", error);
            }
            Record::Revived { at, .. } | Record::Dropped { at, .. } => {
                let _ = write!(out, r#","at":{at}"#);
            }
            Record::Reset { principal, session, at } => {
                text(&mut out, "principal", principal);
                text(&mut out, "session", session);
                let _ = write!(out, r#","at":{at}"#);
            }
        }
        out.push('}');
        out
    }

    /// Reads a record.
    ///
    /// # Errors
    /// What is missing or unknown, in words.
    pub fn parse(json: &str) -> Result<Record, String> {
        let value: Value = serde_json::from_str(json).map_err(|e| format!("it is no JSON: {e}"))?;
        let Value::Object(fields) = value else {
            return Err("it is no JSON object".to_owned());
        };
        let mut fields = Fields(fields);
        let word = fields.text("t")?;
        let record = match word.as_str() {
            "accepted" => Record::Accepted(Accepted::read(&mut fields)?),
            "started" => Record::Started { id: fields.id()?, n: fields.n()?, at: fields.at()? },
            "retry" => {
                let (id, n, at) = (fields.id()?, fields.n()?, fields.at()?);
                Record::Retry { id, n, at, error: fields.text("error")? }
            }
            "done" => {
                let (id, n, at) = (fields.id()?, fields.n()?, fields.at()?);
                Record::Done { id, n, at, reply: fields.text("reply")? }
            }
            "failed" => {
                let (id, n, at) = (fields.id()?, fields.n()?, fields.at()?);
                Record::Failed { id, n, at, error: fields.text("error")? }
            }
            "cancelled" => {
                let (id, at) = (fields.id()?, fields.at()?);
                Record::Cancelled { id, at, error: fields.text("error")? }
            }
            "sending" => Record::Sending { id: fields.id()?, n: fields.n()?, at: fields.at()? },
            "deferred" => {
                let (id, n, at) = (fields.id()?, fields.n()?, fields.at()?);
                Record::Deferred { id, n, at, error: fields.text("error")? }
            }
            "delivered" => Record::Delivered { id: fields.id()?, n: fields.n()?, at: fields.at()? },
            "dead" => {
                let (id, n, at) = (fields.id()?, fields.n()?, fields.at()?);
                Record::Dead { id, n, at, error: fields.text("error")? }
            }
            "revived" => Record::Revived { id: fields.id()?, at: fields.at()? },
            "dropped" => Record::Dropped { id: fields.id()?, at: fields.at()? },
            "reset" => {
                let (principal, session) = (fields.text("principal")?, fields.text("session")?);
                Record::Reset { principal, session, at: fields.at()? }
            }
            other => return Err(format!("{other:?} is no record of this version")),
        };
        Ok(record)
    }
}

impl Accepted {
    fn write(&self, out: &mut String) {
        let _ = write!(out, r#","at":{}"#, self.at);
        text(out, "principal", &self.principal);
        if let Some(session) = &self.session {
            text(out, "session", session);
        }
        text(out, "text", &self.text);
        for (name, value) in [("deliver", &self.deliver), ("key", &self.key), ("body", &self.body)]
        {
            if let Some(value) = value {
                text(out, name, value);
            }
        }
        if self.interrupt {
            text(out, "mode", "interrupt");
        }
        if !self.attachments.is_empty() {
            let list = Value::from(self.attachments.as_slice());
            let _ = write!(out, r#","attachments":{list}"#);
        }
    }

    fn read(fields: &mut Fields) -> Result<Accepted, String> {
        let attachments = match fields.0.remove("attachments") {
            None => Vec::new(),
            Some(Value::Array(list)) => list
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or("an attachment is no text"))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err("\"attachments\" is no list".to_owned()),
        };
        Ok(Accepted {
            id: fields.id()?,
            at: fields.at()?,
            principal: fields.text("principal")?,
            session: fields.optional("session")?,
            text: fields.text("text")?,
            deliver: fields.optional("deliver")?,
            key: fields.optional("key")?,
            body: fields.optional("body")?,
            interrupt: fields.optional("mode")?.as_deref() == Some("interrupt"),
            attachments,
        })
    }
}

fn text(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, r#","{name}":{}"#, quoted(value));
}

/// The fields of a record, taken out one by one.
struct Fields(Map<String, Value>);

impl Fields {
    fn optional(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name:?} is no text")),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        self.optional(name)?.ok_or_else(|| format!("{name:?} is missing"))
    }

    fn id(&mut self) -> Result<String, String> {
        self.text("id")
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        self.0.get(name).and_then(Value::as_u64).ok_or_else(|| format!("{name:?} is no number"))
    }

    fn at(&self) -> Result<u64, String> {
        self.number("at")
    }

    fn n(&self) -> Result<u32, String> {
        u32::try_from(self.number("n")?).map_err(|_| "\"n\" is too large".to_owned())
    }
}

/// The message that a record is about, found without reading all of it.
pub fn id_of(json: &str) -> Option<&str> {
    let rest = json.strip_prefix(r#"{"t":""#)?;
    let (_, rest) = rest.split_once('"')?;
    rest.strip_prefix(r#","id":""#)?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_there_and_back() {
        let id = || "01J00000000000000000000000".to_owned();
        let error = || "no \"luck\"\n\u{1b}".to_owned();
        let accepted = Accepted {
            id: id(),
            at: 5,
            principal: "owner".into(),
            session: Some("a b/ä".into()),
            text: "line\nline".into(),
            deliver: Some("out".into()),
            key: Some("00ff".into()),
            body: Some("ff00".into()),
            interrupt: true,
            attachments: vec!["a".into(), "b\"".into()],
        };
        let plain = Accepted { id: id(), principal: "p".into(), ..Accepted::default() };
        let records = [
            Record::Accepted(accepted),
            Record::Accepted(plain),
            Record::Started { id: id(), n: 1, at: 2 },
            Record::Retry { id: id(), n: 1, at: 2, error: error() },
            Record::Done { id: id(), n: 1, at: u64::MAX, reply: error() },
            Record::Failed { id: id(), n: 1, at: 2, error: error() },
            Record::Cancelled { id: id(), at: 2, error: error() },
            Record::Sending { id: id(), n: 1, at: 2 },
            Record::Deferred { id: id(), n: u32::MAX, at: 2, error: error() },
            Record::Delivered { id: id(), n: 1, at: 2 },
            Record::Dead { id: id(), n: 1, at: 2, error: error() },
            Record::Revived { id: id(), at: 2 },
            Record::Dropped { id: id(), at: 2 },
            Record::Reset { principal: "p".into(), session: "s".into(), at: 2 },
        ];
        for record in records {
            let json = record.to_json();
            assert!(!json.contains('\n'), "one line: {json}");
            assert_eq!(Record::parse(&json).as_ref(), Ok(&record), "{json}");
            assert_eq!(id_of(&json), record.id());
        }
    }

    #[test]
    fn what_is_no_record_is_named() {
        for (json, word) in [
            ("", "no JSON"),
            ("[]", "object"),
            ("{}", "\"t\""),
            (r#"{"t":"novel"}"#, "novel"),
            (r#"{"t":"started","id":1,"n":1,"at":1}"#, "\"id\""),
            (r#"{"t":"started","id":"x","n":-1,"at":1}"#, "\"n\""),
            (r#"{"t":"started","id":"x","n":4294967296,"at":1}"#, "\"n\""),
            (r#"{"t":"done","id":"x","n":1,"at":1}"#, "\"reply\""),
        ] {
            let error = Record::parse(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
        assert_eq!(id_of(r#"{"t":"reset","principal":"x"}"#), None);
        assert_eq!(id_of(""), None);
    }
}
