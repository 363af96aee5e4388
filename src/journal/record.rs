//! What the records say, as values and as JSON.
#![forbid(unsafe_code)]

use crate::text::quoted;

/// One record. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A message was taken.
    Accepted(Box<Accepted>),
    /// Something became of it. `n`: the attempt; 0 for steps that belong to none.
    Step { id: String, n: u32, at: u64, step: Step },
    /// A session begins anew: what it was is forgotten.
    Reset { principal: String, session: String, at: u64 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub id: String,
    pub at: u64,
    pub principal: String,
    pub session: Option<String>,
    pub text: String,
    pub deliver: Option<String>,
    /// Hashes of the idempotency key and of the body that came with it.
    pub key: Option<String>,
    pub body: Option<String>,
    /// Whether it interrupts the turn that runs.
    pub interrupt: bool,
    pub attachments: Vec<String>,
}

/// What can become of a message: first its turn, with the reply or the error, then its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Started,
    /// The attempt failed, and there will be another.
    Retry(String),
    Done(String),
    Failed(String),
    /// Belongs to no attempt.
    Cancelled(String),
    Sending,
    /// Not delivered this time.
    Deferred(String),
    Delivered,
    /// Given up.
    Dead(String),
    /// A dead one is tried again: belongs to no attempt.
    Revived,
    /// A dead one is forgotten: belongs to no attempt.
    Dropped,
}

impl Step {
    /// Its name, whether it belongs to an attempt, and its text with the key of that.
    fn parts(&self) -> (&'static str, bool, Option<(&'static str, &str)>) {
        match self {
            Step::Started => ("started", true, None),
            Step::Retry(error) => ("retry", true, Some(("error", error))),
            Step::Done(reply) => ("done", true, Some(("reply", reply))),
            Step::Failed(error) => ("failed", true, Some(("error", error))),
            Step::Cancelled(error) => ("cancelled", false, Some(("error", error))),
            Step::Sending => ("sending", true, None),
            Step::Deferred(error) => ("deferred", true, Some(("error", error))),
            Step::Delivered => ("delivered", true, None),
            Step::Dead(error) => ("dead", true, Some(("error", error))),
            Step::Revived => ("revived", false, None),
            Step::Dropped => ("dropped", false, None),
        }
    }
}

impl Record {
    /// A step of a message.
    pub fn step(id: impl ToString, n: u32, at: u64, step: Step) -> Record {
        Record::Step { id: id.to_string(), n, at, step }
    }

    /// The word that says which it is.
    pub fn word(&self) -> &'static str {
        match self {
            Record::Accepted(_) => "accepted",
            Record::Step { step, .. } => step.parts().0,
            Record::Reset { .. } => "reset",
        }
    }

    /// The message that it is about.
    pub fn id(&self) -> Option<&str> {
        match self {
            Record::Accepted(accepted) => Some(&accepted.id),
            Record::Step { id, .. } => Some(id),
            Record::Reset { .. } => None,
        }
    }

    /// The record without what only the gateway needs of it.
    pub fn without_digests(self) -> Record {
        match self {
            Record::Accepted(mut accepted) => {
                (accepted.key, accepted.body) = (None, None);
                Record::Accepted(accepted)
            }
            other => other,
        }
    }

    /// Its JSON, on one line.
    pub fn to_json(&self) -> String {
        match self {
            Record::Accepted(accepted) => accepted.to_json(),
            Record::Step { id, n, at, step } => {
                let (name, counted, text) = step.parts();
                let mut json = format!(r#"{{"t":"{name}","id":{}"#, quoted(id));
                if counted {
                    json += &format!(r#","n":{n}"#);
                }
                json += &format!(r#","at":{at}"#);
                if let Some((key, text)) = text {
                    member(&mut json, key, Some(text));
                }
                json + "}"
            }
            Record::Reset { principal, session, at } => format!(
                r#"{{"t":"reset","principal":{},"session":{},"at":{at}}}"#,
                quoted(principal),
                quoted(session)
            ),
        }
    }

    /// Reads what [`Record::to_json`] writes.
    ///
    /// # Errors
    /// What is wrong, in words. A kind or a member that is not known is wrong too: this gateway
    /// would forget it.
    pub fn parse(json: &str) -> Result<Record, String> {
        let fields = Fields::parse(json)?;
        let at = fields.number("at")?;
        let step = match fields.raw("t")?.trim_matches('"') {
            "accepted" => return Accepted::parse(&fields, at).map(Record::Accepted),
            "reset" => {
                let (principal, session) = (fields.text("principal")?, fields.text("session")?);
                return Ok(Record::Reset { principal, session, at });
            }
            "started" => Step::Started,
            "retry" => Step::Retry(fields.text("error")?),
            "done" => Step::Done(fields.text("reply")?),
            "failed" => Step::Failed(fields.text("error")?),
            "cancelled" => Step::Cancelled(fields.text("error")?),
            "sending" => Step::Sending,
            "deferred" => Step::Deferred(fields.text("error")?),
            "delivered" => Step::Delivered,
            "dead" => Step::Dead(fields.text("error")?),
            "revived" => Step::Revived,
            "dropped" => Step::Dropped,
            other => return Err(format!("no record is called {other:.20}")),
        };
        let n = if step.parts().1 { fields.number("n")? } else { 0 };
        let n = u32::try_from(n).map_err(|_| "\"n\" is too large")?;
        Ok(Record::Step { id: fields.text("id")?, n, at, step })
    }
}

impl Accepted {
    fn to_json(&self) -> String {
        let (id, principal) = (quoted(&self.id), quoted(&self.principal));
        let mut json =
            format!(r#"{{"t":"accepted","id":{id},"at":{},"principal":{principal}"#, self.at);
        member(&mut json, "session", self.session.as_deref());
        member(&mut json, "text", Some(&self.text));
        member(&mut json, "deliver", self.deliver.as_deref());
        member(&mut json, "key", self.key.as_deref());
        member(&mut json, "body", self.body.as_deref());
        member(&mut json, "mode", self.interrupt.then_some("interrupt"));
        if !self.attachments.is_empty() {
            let list: Vec<String> = self.attachments.iter().map(|text| quoted(text)).collect();
            json += &format!(r#","attachments":[{}]"#, list.join(","));
        }
        json + "}"
    }

    fn parse(fields: &Fields<'_>, at: u64) -> Result<Box<Accepted>, String> {
        let attachments = match fields.raw("attachments") {
            Ok(raw) => {
                serde_json::from_str(raw).map_err(|_| "\"attachments\" is no list of texts")?
            }
            Err(_) => Vec::new(),
        };
        Ok(Box::new(Accepted {
            id: fields.text("id")?,
            at,
            principal: fields.text("principal")?,
            session: fields.optional("session")?,
            text: fields.text("text")?,
            deliver: fields.optional("deliver")?,
            key: fields.optional("key")?,
            body: fields.optional("body")?,
            interrupt: fields.optional("mode")?.as_deref() == Some("interrupt"),
            attachments,
        }))
    }
}

fn member(json: &mut String, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        *json += &format!(r#","{key}":{}"#, quoted(text));
    }
}

/// The id of the message that a record is about, without a look at the rest.
pub fn id_of(json: &str) -> Option<&str> {
    let (_, rest) = json.strip_prefix(r#"{"t":""#)?.split_once('"')?;
    let (id, _) = rest.strip_prefix(r#","id":""#)?.split_once('"')?;
    Some(id)
}

const KEYS: [&str; 14] = [
    "t",
    "id",
    "n",
    "at",
    "principal",
    "session",
    "text",
    "deliver",
    "key",
    "body",
    "mode",
    "attachments",
    "error",
    "reply",
];

/// The members of a record, unread: a start reads a hundred thousand, and values of `serde_json` would
/// take most of its time.
struct Fields<'a>([Option<&'a str>; KEYS.len()]);

impl<'a> Fields<'a> {
    fn parse(json: &'a str) -> Result<Fields<'a>, String> {
        let mut fields = Fields([None; KEYS.len()]);
        let inside = json.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let mut rest = inside.ok_or("it is no object")?;
        loop {
            let (key, value) = rest
                .strip_prefix('"')
                .and_then(|rest| rest.split_once('"'))
                .and_then(|(key, rest)| Some((key, rest.strip_prefix(':')?)))
                .ok_or("it is no list of members")?;
            let place = KEYS.iter().position(|known| *known == key);
            let place = place.ok_or_else(|| format!("no record has a {key:.20}"))?;
            let (value, behind) = value.split_at(length(value.as_bytes()));
            if value.is_empty() || fields.0[place].replace(value).is_some() {
                return Err(format!("it has no {key}, or more than one"));
            }
            match behind.strip_prefix(',') {
                Some(more) => rest = more,
                None if behind.is_empty() => return Ok(fields),
                None => return Err(format!("something is behind {key}")),
            }
        }
    }

    fn raw(&self, key: &str) -> Result<&'a str, String> {
        let place = KEYS.iter().position(|known| *known == key);
        place.and_then(|place| self.0[place]).ok_or_else(|| format!("it has no {key}"))
    }

    fn number(&self, key: &str) -> Result<u64, String> {
        self.raw(key)?.parse().map_err(|_| format!("{key} is no number"))
    }

    fn text(&self, key: &str) -> Result<String, String> {
        let raw = self.raw(key)?;
        let plain = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
        match plain {
            Some(plain) if !plain.contains('\\') => Ok(plain.to_owned()),
            _ => serde_json::from_str(raw).map_err(|_| format!("{key} is no text")),
        }
    }

    fn optional(&self, key: &str) -> Result<Option<String>, String> {
        if self.raw(key).is_ok() { self.text(key).map(Some) } else { Ok(None) }
    }
}

/// The length of the string, list of strings, or number at the start; it may be wrong inside.
fn length(bytes: &[u8]) -> usize {
    let (mut quote, mut escape, mut list) = (false, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = escape;
        escape = quote && !escaped && *byte == b'\\';
        match byte {
            b'"' if !escaped => {
                quote = !quote;
                if !quote && !list {
                    return at + 1;
                }
            }
            b'[' if !quote => list = true,
            b']' if !quote => return at + 1,
            b',' if !quote && !list => return at,
            _ => {}
        }
    }
    bytes.len()
}
