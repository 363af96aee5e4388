//! What the records say, as values and as JSON.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

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

/// A turn between two attempts. All but the error is absent in what an older gateway wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    pub error: String,
    /// Attempts that failed one after the other.
    pub failures: u32,
    /// Milliseconds since the first of them in which the gateway ran and the machine was awake.
    pub spent: u64,
    /// Milliseconds until the next attempt.
    pub pause: u64,
    /// The upstream asked for at least that pause.
    pub asked: bool,
    /// A crash or kill cut the attempt short: it counts against `limits.max_attempts`.
    pub crash: bool,
    /// The upstream's own error, as JSON.
    pub detail: Option<String>,
}

/// A failure of which only the error is known.
impl From<String> for Retry {
    fn from(error: String) -> Retry {
        Retry { error, ..Retry::default() }
    }
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
    pub fn without_digests(mut self) -> Record {
        if let Record::Accepted(accepted) = &mut self {
            (accepted.key, accepted.body) = (None, None);
        }
        self
    }

    /// Its JSON, on one line.
    pub fn to_json(&self) -> String {
        let json = match self {
            Record::Accepted(accepted) => Json::begin("accepted", Some(&accepted.id))
                .stamp(accepted.at)
                .add("principal", &Some(&accepted.principal))
                .add("session", &accepted.session)
                .add("text", &Some(&accepted.text))
                .add("deliver", &accepted.deliver)
                .add("key", &accepted.key)
                .add("body", &accepted.body)
                .add("mode", &accepted.interrupt.then_some("interrupt"))
                .add("attachments", &accepted.attachments)
                .add("context", &accepted.context)
                .add("erased", &accepted.erased),
            Record::Step { id, n, at, step } => {
                let (kind, key, text) = step.parts();
                let json = Json::begin(kind, Some(id)).add("n", n).stamp(*at).add(key, &text);
                match step {
                    Step::Done(_, report) => json.add("report", report),
                    Step::Failed(_, detail) => json.add("detail", detail),
                    Step::Retry(retry) => json
                        .add("failures", &retry.failures)
                        .add("spent", &retry.spent)
                        .add("pause", &retry.pause)
                        .add("asked", &retry.asked)
                        .add("crash", &retry.crash)
                        .add("detail", &retry.detail),
                    // Who passes it over takes the turn for one that is over.
                    Step::Requeued => json.add("essential", &true),
                    _ => json,
                }
            }
            Record::Reset { principal, session, at, transcript_only } => {
                let json = Json::begin("reset", None).add("principal", &Some(principal));
                let json = json.add("session", &Some(session)).stamp(*at);
                json.add("transcript_only", transcript_only)
            }
            Record::Clock { boot, since_boot, at } => {
                let json = Json::begin("clock", None).add("boot", &Some(boot));
                json.add("since_boot", &Some(since_boot)).stamp(*at)
            }
            Record::Unknown { id } => Json::begin("unknown", id.as_ref()),
        };
        json.end()
    }

    /// Reads what [`Record::to_json`] writes, here or in another version of this program. A member
    /// that is not known is passed over; a kind that is not known becomes [`Record::Unknown`].
    ///
    /// # Errors
    /// What is wrong, in words. A kind that is not known and has `"essential":true` is wrong too.
    pub fn parse(json: &str) -> Result<Record, String> {
        let members = Members::split(json)?;
        let kind: Option<String> = members.get("t")?;
        let kind = kind.ok_or_else(|| format!("a record has no kind (`t`): {json:.40}"))?;
        let lacks = |key: &str| format!("a record of kind {kind:?} has no {key:?}");
        let need = |key: &str| members.get(key)?.ok_or_else(|| lacks(key));
        let at = || members.stamp()?.ok_or_else(|| lacks("at"));
        let number = |key: &str| Ok::<u64, String>(members.get(key)?.unwrap_or(0));
        let step = match kind.as_str() {
            "accepted" => {
                return Ok(Record::Accepted(Box::new(Accepted {
                    id: need("id")?,
                    at: at()?,
                    principal: need("principal")?,
                    session: members.get("session")?,
                    text: need("text")?,
                    deliver: members.get("deliver")?,
                    key: members.get("key")?,
                    body: members.get("body")?,
                    interrupt: members.is("mode", "\"interrupt\""),
                    attachments: members.get("attachments")?.unwrap_or_default(),
                    context: members.get("context")?,
                    erased: members.is("erased", "true"),
                })));
            }
            "reset" => {
                let (principal, session) = (need("principal")?, need("session")?);
                let transcript_only = members.is("transcript_only", "true");
                return Ok(Record::Reset { principal, session, at: at()?, transcript_only });
            }
            "clock" => {
                let since_boot = number("since_boot")?;
                return Ok(Record::Clock { boot: need("boot")?, since_boot, at: at()? });
            }
            "started" => Step::Started,
            "retry" => Step::Retry(Box::new(Retry {
                error: need("error")?,
                failures: u32::try_from(number("failures")?).unwrap_or(u32::MAX),
                spent: number("spent")?,
                pause: number("pause")?,
                asked: members.is("asked", "true"),
                crash: members.is("crash", "true"),
                detail: members.get("detail")?,
            })),
            "done" => Step::Done(need("reply")?, members.get("report")?),
            "failed" => Step::Failed(need("error")?, members.get("detail")?),
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
            _ if members.is("essential", "true") => {
                return Err(format!(
                    "a record of kind {kind:?} is needed to understand what follows, and this \
                     version does not know it: {NEWER}"
                ));
            }
            _ => return Ok(Record::Unknown { id: members.get("id")? }),
        };
        let n = number("n")?;
        let n = u32::try_from(n).map_err(|_| format!("{n} is no number of an attempt"))?;
        Ok(Record::Step { id: need("id")?, n, at: at()?, step })
    }
}

/// The JSON of a record in the making.
struct Json(Vec<u8>);

impl Json {
    fn begin(kind: &str, id: Option<&String>) -> Json {
        Json(format!(r#"{{"t":"{kind}""#).into_bytes()).add("id", &id)
    }

    /// Adds a member, unless it says what its absence says too.
    fn add<T: Serialize + Default + PartialEq>(mut self, key: &str, value: &T) -> Json {
        if *value != T::default() {
            [",\"", key, "\":"].iter().for_each(|part| self.0.extend(part.bytes()));
            // Strings, numbers and lists of them can be written, and to memory.
            let _ = serde_json::to_writer(&mut self.0, value);
        }
        self
    }

    fn end(mut self) -> String {
        self.0.push(b'}');
        // What serde_json writes is text.
        String::from_utf8(self.0).unwrap_or_default()
    }

    fn stamp(self, Stamp { at, age, off }: Stamp) -> Json {
        self.add("at", &Some(at)).add("age", &age).add("off", &off)
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

/// The members of a record as they stand: only those that its kind has are read. A start reads a
/// hundred thousand records; a map would take a third longer.
struct Members<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'a> Visitor<'a> for Members<'a> {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut all: A) -> Result<Members<'a>, A::Error> {
        while let Some(member) = all.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}

impl<'a> Members<'a> {
    fn split(json: &'a str) -> Result<Members<'a>, String> {
        let mut from = serde_json::Deserializer::from_str(json);
        let split = from.deserialize_map(Members(Vec::with_capacity(12)));
        let split = split.and_then(|members| from.end().map(|()| members));
        let there = |at: usize| wrong(json.get(at.saturating_sub(1)..).unwrap_or(json));
        split.map_err(|e| there(e.column()))
    }

    /// The first of this name.
    fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, raw)| raw.get())
    }

    fn get<T: Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        serde_json::from_str(raw).map(Some).map_err(|_| wrong(raw))
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.raw(key) == Some(value)
    }

    fn stamp(&self) -> Result<Option<Stamp>, String> {
        let Some(at) = self.get("at")? else { return Ok(None) };
        let (age, off) = (self.get("age")?.unwrap_or(0), self.get("off")?.unwrap_or(0));
        Ok(Some(Stamp { at, age, off }))
    }
}

fn wrong(there: &str) -> String {
    format!("no record has {there:.40} there")
}
