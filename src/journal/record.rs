//! What the records say, as values and as JSON.

mod retry;

use crate::text::quoted;

pub use retry::Retry;

/// When something happened, by the clock for people and by the one for ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The wall clock: milliseconds since 1970.
    pub at: u64,
    /// Milliseconds of the journal's own time, which no operator sets. 0 in what an older gateway
    /// wrote.
    pub age: u64,
    /// The part of `age` for which the machine was off.
    pub off: u64,
}

impl Stamp {
    /// Milliseconds of `age` for which the machine was on.
    pub fn uptime(self) -> u64 {
        self.age.saturating_sub(self.off)
    }

    fn members(self) -> [(&'static str, Option<String>); 3] {
        let some = |value: u64| (value > 0).then(|| value.to_string());
        [("at", Some(self.at.to_string())), ("age", some(self.age)), ("off", some(self.off))]
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A message was taken.
    Accepted(Box<Accepted>),
    /// Something became of it. `n`: the attempt, from 1; 0, and absent in JSON, for a step that
    /// belongs to none.
    Step { id: String, n: u32, at: Stamp, step: Step },
    /// A session begins anew: what it was is forgotten; where there was no room for it, what was said
    /// there, and not its results.
    Reset { principal: String, session: String, at: Stamp, transcript_only: bool },
    /// What CLOCK_BOOTTIME said in which boot, in milliseconds: by the newest of these a start knows
    /// how much time has passed.
    Clock { boot: String, since_boot: u64, at: Stamp },
    /// Written by a newer gateway, which can do without this one understanding it: it is kept as it
    /// is.
    Unknown { id: Option<String> },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub id: String,
    pub at: Stamp,
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
    /// Its session was reset, and a compaction has taken out what it said.
    pub erased: bool,
}

/// What can become of a message: first its turn, with the reply or the error, then its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Started,
    /// The attempt failed, and there will be another.
    Retry(Box<Retry>),
    /// With the reply, and what the agent told of the turn beside it: JSON.
    Done(String, Option<String>),
    /// With the upstream's own error, where it gave one: JSON.
    Failed(String, Option<String>),
    /// A failed turn begins anew, by an operator's wish: belongs to no attempt.
    Requeued,
    /// The gateway's own stop has ended the attempt.
    Released,
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
    pub fn step(id: impl ToString, n: u32, at: impl Into<Stamp>, step: Step) -> Record {
        Record::Step { id: id.to_string(), n, at: at.into(), step }
    }

    /// The word that says which it is.
    pub fn word(&self) -> &'static str {
        match self {
            Record::Accepted(_) => "accepted",
            Record::Step { step, .. } => step.parts().0,
            Record::Reset { .. } => "reset",
            Record::Clock { .. } => "clock",
            Record::Unknown { .. } => "unknown",
        }
    }

    /// The message that it is about.
    pub fn id(&self) -> Option<&str> {
        match self {
            Record::Accepted(accepted) => Some(&accepted.id),
            Record::Step { id, .. } => Some(id),
            Record::Unknown { id } => id.as_deref(),
            Record::Reset { .. } | Record::Clock { .. } => None,
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
        let (kind, id, members) = match self {
            Record::Accepted(accepted) => ("accepted", Some(&accepted.id), accepted.members()),
            Record::Step { id, n, at, step } => {
                let mut members = vec![("n", (*n > 0).then(|| n.to_string()))];
                members.extend(at.members());
                let (kind, key, text) = step.parts();
                members.push((key, text.map(|text| quoted(text))));
                match step {
                    Step::Done(_, report) => {
                        members.push(("report", report.as_deref().map(quoted)));
                    }
                    Step::Failed(_, detail) => {
                        members.push(("detail", detail.as_deref().map(quoted)));
                    }
                    Step::Retry(retry) => members.extend(retry.members()),
                    // Who passes it over takes the turn for one that is over.
                    Step::Requeued => members.push(("essential", Some("true".to_owned()))),
                    _ => {}
                }
                (kind, Some(id), members)
            }
            Record::Reset { principal, session, at, transcript_only } => {
                let (principal, session) = (Some(quoted(principal)), Some(quoted(session)));
                let mut members = vec![("principal", principal), ("session", session)];
                members.extend(at.members());
                members.push(("transcript_only", transcript_only.then(|| "true".to_owned())));
                ("reset", None, members)
            }
            Record::Clock { boot, since_boot, at } => {
                let since_boot = Some(since_boot.to_string());
                let mut members = vec![("boot", Some(quoted(boot))), ("since_boot", since_boot)];
                members.extend(at.members());
                ("clock", None, members)
            }
            Record::Unknown { id } => ("unknown", id.as_ref(), Vec::new()),
        };
        let mut json = format!(r#"{{"t":"{kind}""#);
        for (key, value) in [("id", id.map(|id| quoted(id)))].into_iter().chain(members) {
            if let Some(value) = value {
                [",\"", key, "\":", &value].iter().for_each(|part| json += part);
            }
        }
        json + "}"
    }

    /// Reads what [`Record::to_json`] writes, here or in another version of this program. A member
    /// that is not known is passed over; a kind that is not known becomes [`Record::Unknown`].
    ///
    /// # Errors
    /// What is wrong, in words. A kind that is not known and has `"essential":true` is wrong too.
    pub fn parse(json: &str) -> Result<Record, String> {
        let members = Members::split(json)?;
        let kind = members.text("t")?.ok_or("a record has no kind (`t`)")?;
        let lacks = |key: &str| format!("a record of kind {kind:?} has no {key:?}");
        let need = |key: &str| members.text(key)?.ok_or_else(|| lacks(key));
        let at = || members.stamp()?.ok_or_else(|| lacks("at"));
        let step = match kind.as_str() {
            "accepted" => {
                return Ok(Record::Accepted(Box::new(Accepted {
                    id: need("id")?,
                    at: at()?,
                    principal: need("principal")?,
                    session: members.text("session")?,
                    text: need("text")?,
                    deliver: members.text("deliver")?,
                    key: members.text("key")?,
                    body: members.text("body")?,
                    interrupt: members.text("mode")?.is_some_and(|mode| mode == "interrupt"),
                    attachments: members.list("attachments")?,
                    context: members.text("context")?,
                    erased: members.raw("erased") == Some("true"),
                })));
            }
            "reset" => {
                let (principal, session) = (need("principal")?, need("session")?);
                let transcript_only = members.raw("transcript_only") == Some("true");
                return Ok(Record::Reset { principal, session, at: at()?, transcript_only });
            }
            "clock" => {
                let since_boot = members.number("since_boot")?.unwrap_or(0);
                return Ok(Record::Clock { boot: need("boot")?, since_boot, at: at()? });
            }
            "started" => Step::Started,
            "retry" => Step::Retry(Box::new(Retry::parse(need("error")?, &members)?)),
            "done" => Step::Done(need("reply")?, members.text("report")?),
            "failed" => Step::Failed(need("error")?, members.text("detail")?),
            "requeued" => Step::Requeued,
            "released" => Step::Released,
            "cancelled" => Step::Cancelled(need("error")?),
            "sending" => Step::Sending,
            "deferred" => Step::Deferred(need("error")?),
            "delivered" => Step::Delivered,
            "dead" => Step::Dead(need("error")?),
            "revived" => Step::Revived,
            "dropped" => Step::Dropped,
            "forgotten" => Step::Forgotten,
            _ if members.raw("essential") == Some("true") => {
                return Err(format!(
                    "a record of kind {kind:?} is needed to understand what follows, and this \
                     version does not know it: {NEWER}"
                ));
            }
            _ => return Ok(Record::Unknown { id: members.text("id")? }),
        };
        let n = members.number("n")?.unwrap_or(0);
        let n = u32::try_from(n).map_err(|_| format!("{n} is no number of an attempt"))?;
        Ok(Record::Step { id: need("id")?, n, at: at()?, step })
    }
}

type List = Vec<(&'static str, Option<String>)>;

impl Accepted {
    fn members(&self) -> List {
        let some = |text: &Option<String>| text.as_deref().map(quoted);
        let list: Vec<String> = self.attachments.iter().map(|text| quoted(text)).collect();
        let mut members = self.at.members().to_vec();
        members.extend([
            ("principal", Some(quoted(&self.principal))),
            ("session", some(&self.session)),
            ("text", Some(quoted(&self.text))),
            ("deliver", some(&self.deliver)),
            ("key", some(&self.key)),
            ("body", some(&self.body)),
            ("mode", self.interrupt.then(|| quoted("interrupt"))),
            ("attachments", (!list.is_empty()).then(|| format!("[{}]", list.join(",")))),
            ("context", some(&self.context)),
            ("erased", self.erased.then(|| "true".to_owned())),
        ]);
        members
    }
}

impl Step {
    /// Its name, and its text with the key of that.
    fn parts(&self) -> (&'static str, &'static str, Option<&String>) {
        match self {
            Step::Started => ("started", "", None),
            Step::Retry(retry) => ("retry", "error", Some(&retry.error)),
            Step::Done(reply, _) => ("done", "reply", Some(reply)),
            Step::Failed(error, _) => ("failed", "error", Some(error)),
            Step::Requeued => ("requeued", "", None),
            Step::Released => ("released", "", None),
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

/// Whether nobody but a newer gateway understands a record, and what follows it.
pub fn is_essential(json: &str) -> bool {
    Record::parse(json).is_err_and(|why| why.ends_with(NEWER))
}

const NEWER: &str = "use the version that wrote it";

/// The members of a record as they stand: a start reads a hundred thousand records, and values of
/// `serde_json` would take most of its time.
struct Members<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Members<'a> {
    fn split(json: &'a str) -> Result<Members<'a>, String> {
        let mut members = Vec::with_capacity(12);
        let mut rest = json;
        while rest != "}" || members.is_empty() {
            let (key, raw, after) = member(rest).ok_or_else(|| wrong(rest))?;
            members.push((key, raw));
            rest = after;
        }
        Ok(Members(members))
    }

    /// The first of this name.
    fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, raw)| *raw)
    }

    fn number(&self, key: &str) -> Result<Option<u64>, String> {
        self.raw(key).map(|raw| raw.parse().map_err(|_| wrong(raw))).transpose()
    }

    fn text(&self, key: &str) -> Result<Option<String>, String> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(plain) if !plain.contains('\\') => Ok(Some(plain.to_owned())),
            _ => serde_json::from_str(raw).map(Some).map_err(|_| wrong(raw)),
        }
    }

    fn list(&self, key: &str) -> Result<Vec<String>, String> {
        let raw = self.raw(key).unwrap_or("[]");
        serde_json::from_str(raw).map_err(|_| wrong(raw))
    }

    fn stamp(&self) -> Result<Option<Stamp>, String> {
        let Some(at) = self.number("at")? else { return Ok(None) };
        let (age, off) = (self.number("age")?.unwrap_or(0), self.number("off")?.unwrap_or(0));
        Ok(Some(Stamp { at, age, off }))
    }
}

fn wrong(there: &str) -> String {
    format!("no record has {there:.40} there")
}

/// The first member: its key, its value, and what follows.
fn member(rest: &str) -> Option<(&str, &str, &str)> {
    let rest = rest.strip_prefix(['{', ','])?.strip_prefix('"')?;
    let (key, rest) = rest.split_at(rest.find('"')?);
    let value = rest.strip_prefix("\":")?;
    let (raw, after) = value.split_at(length(value.as_bytes()));
    (!key.contains('\\') && !raw.is_empty()).then_some((key, raw, after))
}

/// The length of the value at the start; it may be wrong inside.
fn length(bytes: &[u8]) -> usize {
    let (mut quote, mut escape, mut depth) = (false, false, 0);
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = std::mem::replace(&mut escape, false);
        match byte {
            b'"' if !escaped && quote && depth == 0 => return at + 1,
            b'"' if !escaped => quote = !quote,
            b'\\' => escape = !escaped,
            _ if quote => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 1 => return at + 1,
            b',' | b'}' | b']' if depth == 0 => return at,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    bytes.len()
}
