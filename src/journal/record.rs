//! What the records say, as values and as JSON.
#![forbid(unsafe_code)]

use crate::text::quoted;

/// One record. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A message was taken.
    Accepted(Box<Accepted>),
    /// Something became of it. `n`: the attempt, from 1; 0, and absent in JSON, for a step that
    /// belongs to none.
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
    /// What the request said beside its text, as JSON.
    pub context: Option<String>,
}

/// What can become of a message: first its turn, with the reply or the error, then its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Started,
    /// The attempt failed, and there will be another.
    Retry(String),
    /// With the reply, and what the agent told of the turn beside it: JSON.
    Done(String, Option<String>),
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
    /// Its sender had the message deleted: belongs to no attempt.
    Forgotten,
}

impl Record {
    /// A step of a message.
    #[expect(clippy::needless_pass_by_value, reason = "ids are as small as their pointers")]
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
        let (kind, id, mut members) = match self {
            Record::Accepted(accepted) => ("accepted", Some(&accepted.id), accepted.members()),
            Record::Step { id, n, at, step } => {
                let n = (*n > 0).then(|| n.to_string());
                let (kind, key, text) = step.parts();
                let text = text.map(|text| quoted(text));
                let report = match step {
                    Step::Done(_, report) => report.as_deref().map(quoted),
                    _ => None,
                };
                let at = Some(at.to_string());
                (kind, Some(id), vec![("n", n), ("at", at), (key, text), ("report", report)])
            }
            Record::Reset { principal, session, at } => {
                let (principal, session) = (Some(quoted(principal)), Some(quoted(session)));
                let at = Some(at.to_string());
                ("reset", None, vec![("principal", principal), ("session", session), ("at", at)])
            }
        };
        members.insert(0, ("id", id.map(|id| quoted(id))));
        let mut json = format!(r#"{{"t":"{kind}""#);
        for (key, value) in members {
            if let Some(value) = value {
                json += &format!(r#","{key}":{value}"#);
            }
        }
        json + "}"
    }

    /// Reads what [`Record::to_json`] writes: its members in their order.
    ///
    /// # Errors
    /// What is wrong, in words. A kind or a member that is not known is wrong too: this gateway
    /// would forget it.
    pub fn parse(json: &str) -> Result<Record, String> {
        let mut members = Members(json);
        match members.record() {
            Some(record) if members.0 == "}" => Ok(record),
            _ => Err(format!("no record has {:.40} there", members.0)),
        }
    }
}

type List = Vec<(&'static str, Option<String>)>;

impl Accepted {
    fn members(&self) -> List {
        let some = |text: &Option<String>| text.as_deref().map(quoted);
        let list: Vec<String> = self.attachments.iter().map(|text| quoted(text)).collect();
        vec![
            ("at", Some(self.at.to_string())),
            ("principal", Some(quoted(&self.principal))),
            ("session", some(&self.session)),
            ("text", Some(quoted(&self.text))),
            ("deliver", some(&self.deliver)),
            ("key", some(&self.key)),
            ("body", some(&self.body)),
            ("mode", self.interrupt.then(|| quoted("interrupt"))),
            ("attachments", (!list.is_empty()).then(|| format!("[{}]", list.join(",")))),
            ("context", some(&self.context)),
        ]
    }
}

impl Step {
    /// Its name, and its text with the key of that.
    fn parts(&self) -> (&'static str, &'static str, Option<&String>) {
        match self {
            Step::Started => ("started", "", None),
            Step::Retry(error) => ("retry", "error", Some(error)),
            Step::Done(reply, _) => ("done", "reply", Some(reply)),
            Step::Failed(error) => ("failed", "error", Some(error)),
            Step::Cancelled(error) => ("cancelled", "error", Some(error)),
            Step::Sending => ("sending", "", None),
            Step::Deferred(error) => ("deferred", "error", Some(error)),
            Step::Delivered => ("delivered", "", None),
            Step::Dead(error) => ("dead", "error", Some(error)),
            Step::Revived => ("revived", "", None),
            Step::Dropped => ("dropped", "", None),
            Step::Forgotten => ("forgotten", "", None),
        }
    }
}

/// The id of the message that a record is about, without a look at the rest.
pub fn id_of(json: &str) -> Option<&str> {
    let (_, rest) = json.strip_prefix(r#"{"t":""#)?.split_once('"')?;
    let (id, _) = rest.strip_prefix(r#","id":""#)?.split_once('"')?;
    Some(id)
}

/// What is left of a record's members: a start reads a hundred thousand, and values of `serde_json`
/// would take most of its time.
struct Members<'a>(&'a str);

impl<'a> Members<'a> {
    fn record(&mut self) -> Option<Record> {
        let kind = self.raw("t")?.trim_matches('"');
        if kind == "reset" {
            let (principal, session) = (self.text("principal")?, self.text("session")?);
            return Some(Record::Reset { principal, session, at: self.number("at")? });
        }
        let id = self.text("id")?;
        if kind == "accepted" {
            return self.accepted(id).map(|accepted| Record::Accepted(Box::new(accepted)));
        }
        let n = u32::try_from(self.number("n").unwrap_or(0)).ok()?;
        let at = self.number("at")?;
        let step = match kind {
            "started" => Step::Started,
            "retry" => Step::Retry(self.text("error")?),
            "done" => Step::Done(self.text("reply")?, self.text("report")),
            "failed" => Step::Failed(self.text("error")?),
            "cancelled" => Step::Cancelled(self.text("error")?),
            "sending" => Step::Sending,
            "deferred" => Step::Deferred(self.text("error")?),
            "delivered" => Step::Delivered,
            "dead" => Step::Dead(self.text("error")?),
            "revived" => Step::Revived,
            "dropped" => Step::Dropped,
            "forgotten" => Step::Forgotten,
            _ => return None,
        };
        Some(Record::Step { id, n, at, step })
    }

    fn accepted(&mut self, id: String) -> Option<Accepted> {
        Some(Accepted {
            id,
            at: self.number("at")?,
            principal: self.text("principal")?,
            session: self.text("session"),
            text: self.text("text")?,
            deliver: self.text("deliver"),
            key: self.text("key"),
            body: self.text("body"),
            interrupt: self.text("mode").is_some_and(|mode| mode == "interrupt"),
            attachments: match self.raw("attachments") {
                Some(raw) => serde_json::from_str(raw).ok()?,
                None => Vec::new(),
            },
            context: self.text("context"),
        })
    }

    /// The next member, if it has this key. Otherwise nothing is taken.
    fn raw(&mut self, key: &str) -> Option<&'a str> {
        let member = self.0.strip_prefix(['{', ','])?.strip_prefix('"')?;
        let value = member.strip_prefix(key)?.strip_prefix("\":")?;
        let (raw, rest) = value.split_at(length(value.as_bytes()));
        self.0 = rest;
        Some(raw)
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.raw(key)?.parse().ok()
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let raw = self.raw(key)?;
        match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(plain) if !plain.contains('\\') => Some(plain.to_owned()),
            // What is no text is left to be the end of the record, and its error.
            _ => serde_json::from_str(raw).inspect_err(|_| self.0 = raw).ok(),
        }
    }
}

/// The length of the string, list of strings, or number at the start; it may be wrong inside.
fn length(bytes: &[u8]) -> usize {
    let (mut quote, mut escape, mut list) = (false, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = std::mem::replace(&mut escape, false);
        match byte {
            b'"' if !escaped && quote && !list => return at + 1,
            b'"' if !escaped => quote = !quote,
            b'\\' => escape = !escaped,
            b'[' if !quote => list = true,
            b']' if !quote => return at + 1,
            b',' | b'}' if !quote && !list => return at,
            _ => {}
        }
    }
    bytes.len()
}
