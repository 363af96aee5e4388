//! Records, parsed from their JSON.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::record::{Accepted, Approval, Fact, Part, Record, Retry, Step, Timestamp};
use crate::json;

const ESSENTIAL: &str = "is needed to understand what follows, and this version does not know it";

impl Record {
    /// Reads what [`Record::to_json`] writes, here or in another version of this program. A member
    /// that is not known is ignored; a kind that is not known becomes [`Record::Unknown`].
    ///
    /// # Errors
    /// What is wrong. A kind that is not known and has `"essential":true` is wrong too.
    pub fn parse(json: &str) -> Result<Record, String> {
        Record::parse_with(json, true)
    }

    /// The same for a start, which asks what became of a message and not what it says: its texts are empty,
    /// and what is wrong inside of them is found when they are read.
    ///
    /// # Errors
    /// As above.
    pub fn parse_without_texts(json: &str) -> Result<Record, String> {
        Record::parse_with(json, false)
    }

    fn parse_with(json: &str, texts: bool) -> Result<Record, String> {
        let mut as_written = Members { kind: "", separator: b'{', rest: json, all: None, texts };
        if !json::has_control(json.as_bytes())
            && let Ok(record) = as_written.record()
            && as_written.rest == "}"
        {
            return Ok(record);
        }
        let all: Vec<_> = json::members(json::value(json.as_bytes())?).collect();
        let is_second =
            |(at, (name, _)): (usize, &(_, _))| all[..at].iter().any(|(it, _)| it == name);
        if all.iter().enumerate().any(is_second) {
            return Err(format!("a record has a member twice: {json:.40}"));
        }
        let mut any = Members { all: Some(all), ..as_written };
        any.record()
            .map_err(|why| if any.kind.is_empty() { format!("{why}: {json:.40}") } else { why })
    }
}

/// The members of a record, as they stand: in one of a newer gateway those that its kind here does not have
/// may be anything. A start reads all records, and nobody is served meanwhile: where they are asked for in the
/// order in which they are written, they are found many times faster than a derived parser finds them.
struct Members<'a> {
    kind: &'a str,
    /// What is left of them, with what stands before the next one.
    rest: &'a str,
    separator: u8,
    /// All of them, where others are between them or the order is another.
    all: Option<Vec<(Cow<'a, str>, &'a str)>>,
    /// What a message says is wanted.
    texts: bool,
}

impl<'a> Members<'a> {
    fn get(&mut self, name: &str) -> json::Raw<'a> {
        if let Some(all) = &self.all {
            let (_, raw) = all.iter().find(|(known, _)| known == name)?;
            return Some(*raw).filter(|raw| *raw != "null");
        }
        let bytes = self.rest.as_bytes();
        let start = name.len() + 4;
        let is_next = bytes.len() > start
            && bytes[..2] == [self.separator, b'"']
            && &bytes[2..start - 2] == name.as_bytes()
            && bytes[start - 2..start] == *b"\":";
        let end = match bytes[..].get(start).filter(|_| is_next)? {
            b'0'..=b'9' => start + json::number(&bytes[start..])?.1,
            _ => json::end(bytes, start)?,
        };
        let raw = &self.rest[start..end];
        (self.rest, self.separator) = (&self.rest[end..], b',');
        Some(raw)
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let read = |raw| match json::text(raw) {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => typed(raw),
        };
        self.get(name).map(read).transpose()
    }

    /// A number or truth value, which is 0 or false where it is absent.
    fn value<T: DeserializeOwned + Default>(&mut self, name: &str) -> Result<T, String> {
        self.get(name).map_or_else(|| Ok(T::default()), typed)
    }

    fn number<T: TryFrom<u64> + DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, String> {
        let read = |raw: &str| {
            let whole = json::number(raw.as_bytes()).filter(|(_, digits)| *digits == raw.len());
            let number = whole.and_then(|(number, _)| T::try_from(number).ok());
            number.map_or_else(|| typed(raw), Ok)
        };
        self.get(name).map(read).transpose()
    }

    fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("a record of kind {:?} has no {name:?}", self.kind))
    }

    /// What a message says.
    fn said(&mut self, name: &str) -> Result<Option<String>, String> {
        if self.texts {
            return self.text(name);
        }
        let empty = |raw: &str| if raw.starts_with('"') { Ok(String::new()) } else { typed(raw) };
        self.get(name).map(empty).transpose()
    }

    fn needed_said(&mut self, name: &str) -> Result<String, String> {
        let text = self.said(name)?;
        self.needed(name, text)
    }

    fn needed_text(&mut self, name: &str) -> Result<String, String> {
        let text = self.text(name)?;
        self.needed(name, text)
    }

    fn timestamp(&mut self) -> Result<Timestamp, String> {
        let at = self.number("at")?;
        let (age, off) = (self.number("age")?.unwrap_or(0), self.number("off")?.unwrap_or(0));
        Ok(Timestamp { at: self.needed("at", at)?, age, off })
    }

    /// The record, its members in the order in which they are written.
    fn record(&mut self) -> Result<Record, String> {
        let kind = self.get("t").unwrap_or("\"\"");
        self.kind =
            kind.strip_prefix('"').and_then(|kind| kind.strip_suffix('"')).unwrap_or_default();
        match self.kind {
            "" => {
                typed::<String>(kind)?;
                return Err("a record has no kind (`t`)".to_owned());
            }
            "reset" | "agent_session" | "channel" | "clock" => return self.without_message(),
            _ => {}
        }
        // Of a kind that is not known they may be anything.
        let (id, n, at) = (self.needed_text("id"), self.number("n"), self.timestamp());
        let kind = self.kind;
        let step = match kind {
            "accepted" => return self.accepted(id?, at?),
            "started" => Step::Started,
            "retry" => Step::Retry(Box::new(Retry {
                error: self.needed_text("error")?,
                failures: self.value("failures")?,
                spent: self.value("spent")?,
                pause: self.value("pause")?,
                asked: self.value("asked")?,
                crash: self.value("crash")?,
                detail: self.said("detail")?,
            })),
            "done" => Step::Done(self.needed_said("reply")?, self.said("report")?),
            "failed" => Step::Failed(self.needed_said("error")?, self.said("detail")?),
            "requeued" => match self.get("essential") {
                Some(raw) if self.all.is_none() && raw != "true" => return Err(String::new()),
                _ => Step::Requeued,
            },
            "released" => Step::Released,
            "approval" => Step::Approval(Box::new(self.approval()?)),
            "cancelled" => Step::Cancelled(self.needed_said("error")?),
            "edited" => Step::Edited(self.needed_said("text")?),
            "sending" => Step::Sending,
            "part" => Step::Part(Box::new(self.part()?)),
            "deferred" => Step::Deferred(self.needed_said("error")?),
            "delivered" => Step::Delivered,
            "dead" => Step::Dead(self.needed_said("error")?),
            "revived" => Step::Revived,
            "dropped" => Step::Dropped,
            "forgotten" => Step::Forgotten,
            _ if self.all.is_none() => return Err(String::new()),
            _ if kind.contains('\\') => {
                return Err(format!("a record's kind has escapes: {kind:?}"));
            }
            _ if self.get("essential") == Some("true") => {
                return Err(format!("a record of kind {kind:?} {ESSENTIAL}"));
            }
            _ => return Ok(Record::Unknown { id: id.ok() }),
        };
        Ok(Record::Step { id: id?, n: n?.unwrap_or(0), at: at?, step })
    }

    /// A record that is about no message.
    fn without_message(&mut self) -> Result<Record, String> {
        if self.kind == "clock" {
            let boot = self.needed_text("boot")?;
            let since_boot = self.value("since_boot")?;
            return Ok(Record::Clock { boot, since_boot, at: self.timestamp()? });
        }
        if self.kind == "channel" {
            let (channel, word) = (self.needed_text("channel")?, self.needed_text("fact")?);
            // What a newer gateway keeps of channels is not known here.
            let Some(fact) = Fact::ALL.into_iter().find(|fact| fact.word() == word) else {
                return Ok(Record::Unknown { id: None });
            };
            let (key, value) = (self.needed_text("key")?, self.needed_text("value")?);
            return Ok(Record::Channel { channel, fact, key, value, at: self.timestamp()? });
        }
        let (principal, session) = (self.needed_text("principal")?, self.needed_text("session")?);
        if self.kind == "reset" {
            let at = self.timestamp()?;
            let transcript_only = self.value("transcript_only")?;
            return Ok(Record::Reset { principal, session, at, transcript_only });
        }
        let (agent, id) = (self.needed_text("agent")?, self.needed_text("agent_session_id")?);
        Ok(Record::AgentSession { principal, session, at: self.timestamp()?, agent, id })
    }

    fn part(&mut self) -> Result<Part, String> {
        Ok(Part {
            part: self.value("part")?,
            cuts: self.value("cuts")?,
            sent: self.text("sent")?,
            preview: self.value("preview")?,
        })
    }

    fn approval(&mut self) -> Result<Approval, String> {
        Ok(Approval {
            question: self.text("question")?.unwrap_or_default(),
            title: self.needed_said("title")?,
            kind: self.text("kind")?.unwrap_or_default(),
            input: self.said("input")?.unwrap_or_default(),
            allowed: self.value("allowed")?,
            by: self.needed_text("by")?,
        })
    }

    fn accepted(&mut self, id: String, at: Timestamp) -> Result<Record, String> {
        Ok(Record::Accepted(Box::new(Accepted {
            id,
            at,
            principal: self.needed_text("principal")?,
            session: self.text("session")?,
            text: self.needed_said("text")?,
            deliver: self.text("deliver")?,
            key: self.text("key")?,
            body: self.text("body")?,
            mode: self.text("mode")?,
            attachments: self.value("attachments")?,
            context: self.said("context")?,
            origin: self.get("origin").map(typed).transpose()?,
            erased: self.value("erased")?,
        })))
    }
}

fn typed<T: DeserializeOwned>(raw: &str) -> Result<T, String> {
    serde_json::from_str(raw).map_err(|e| e.to_string())
}

/// Whether only a newer gateway understands a record, and what follows it.
pub fn is_essential(json: &str) -> bool {
    Record::parse(json).is_err_and(|why| why.ends_with(ESSENTIAL))
}
