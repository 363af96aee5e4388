//! What the records say, as values and as JSON.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::escape::quoted;
use crate::json;

/// When something happened, by the clock for people and by the one for ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// The wall clock: milliseconds since 1970.
    pub at: u64,
    /// Milliseconds of the journal's own time, which no operator sets. 0 in what an older gateway
    /// wrote.
    pub age: u64,
    /// The part of `age` for which the machine was off.
    pub off: u64,
}

impl Timestamp {
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
    Step { id: String, n: u32, at: Timestamp, step: Step },
    /// A session begins anew: what it was is forgotten; where there was no room for it, what was said
    /// there, and not its results.
    Reset { principal: String, session: String, at: Timestamp, transcript_only: bool },
    /// What CLOCK_BOOTTIME said in which boot, in milliseconds: by the newest of these a start knows
    /// how much time has passed.
    Clock { boot: String, since_boot: u64, at: Timestamp },
    /// Written by a newer gateway, which can do without this one understanding it: it is kept as it
    /// is.
    Unknown { id: Option<String> },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub id: String,
    pub at: Timestamp,
    pub principal: String,
    pub session: Option<String>,
    pub text: String,
    pub deliver: Option<String>,
    /// Hashes of the idempotency key and of the body that came with it.
    pub key: Option<String>,
    pub body: Option<String>,
    /// `interrupt`, where it interrupts the turn that runs.
    pub mode: Option<String>,
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

impl Record {
    /// A step of a message.
    #[expect(clippy::needless_pass_by_value, reason = "ids are as small as their pointers")]
    pub fn step(id: impl ToString, n: u32, at: impl Into<Timestamp>, step: Step) -> Record {
        Record::Step { id: id.to_string(), n, at: at.into(), step }
    }

    /// The word that says which it is.
    pub fn word(&self) -> &'static str {
        match self {
            Record::Accepted(_) => "accepted",
            Record::Step { step, .. } => step.word(),
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
        let id = self.id().map_or(String::new(), |id| format!(r#","id":{}"#, quoted(id)));
        let json = Json(format!(r#"{{"t":"{}"{id}"#, self.word()).into_bytes());
        let mut json = match self {
            Record::Accepted(accepted) => accepted.write(json.timestamp(accepted.at)),
            Record::Step { n, at, step, .. } => {
                let json = json.add("n", n).timestamp(*at);
                match step {
                    Step::Done(reply, report) => json.add("reply", reply).add("report", report),
                    Step::Failed(error, detail) => json.add("error", error).add("detail", detail),
                    Step::Cancelled(error) | Step::Deferred(error) | Step::Dead(error) => {
                        json.add("error", error)
                    }
                    Step::Retry(retry) => retry.write(json),
                    // A version that ignores it takes the turn for one that is over.
                    Step::Requeued => json.add("essential", &true),
                    _ => json,
                }
            }
            Record::Reset { principal, session, at, transcript_only } => {
                let json = json.add("principal", principal).add("session", session).timestamp(*at);
                json.add("transcript_only", transcript_only)
            }
            Record::Clock { boot, since_boot, at } => {
                json.add("boot", boot).add("since_boot", since_boot).timestamp(*at)
            }
            Record::Unknown { .. } => json,
        };
        json.0.push(b'}');
        // What serde_json writes is text.
        String::from_utf8(json.0).unwrap_or_default()
    }

    /// Reads what [`Record::to_json`] writes, here or in another version of this program. A member
    /// that is not known is ignored; a kind that is not known becomes [`Record::Unknown`].
    ///
    /// # Errors
    /// What is wrong. A kind that is not known and has `"essential":true` is wrong too.
    pub fn parse(json: &str) -> Result<Record, String> {
        let whole: &RawValue = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let mut members = Members { all: json::members(whole.get()).collect(), fault: None };
        let kind = members.get::<Option<String>>("t").unwrap_or_default();
        let record = match &*kind {
            "" => return Err(format!("a record has no kind (`t`): {json:.40}")),
            "accepted" => {
                let (id, at) = (members.get("id"), members.timestamp());
                let accepted = Accepted { id, at, ..Accepted::default() };
                Record::Accepted(Box::new(accepted.read(&mut members)))
            }
            "reset" => Record::Reset {
                principal: members.get("principal"),
                session: members.get("session"),
                at: members.timestamp(),
                transcript_only: members.get("transcript_only"),
            },
            "clock" => Record::Clock {
                boot: members.get("boot"),
                since_boot: members.get("since_boot"),
                at: members.timestamp(),
            },
            _ => match Step::read(&kind, &mut members) {
                Some(step) => {
                    let (id, n) = (members.get("id"), members.get("n"));
                    Record::Step { id, n, at: members.timestamp(), step }
                }
                None if members.raw("essential").is_some_and(|raw| raw.get() == "true") => {
                    return Err(format!("a record of kind {kind:?} {ESSENTIAL}"));
                }
                None => return Ok(Record::Unknown { id: members.get("id") }),
            },
        };
        let wrong = |fault| Err(format!("a record of kind {kind:?} has {fault}"));
        members.fault.map_or(Ok(record), wrong)
    }
}

/// What a member can be. Where one is absent, it is its default; a text must be there.
trait Member: Serialize + DeserializeOwned + Default + PartialEq {
    const OPTIONAL: bool = true;
}

impl Member for String {
    const OPTIONAL: bool = false;
}
impl Member for Option<String> {}
impl Member for Vec<String> {}
impl Member for bool {}
impl Member for u32 {}
impl Member for u64 {}

/// The members of a record as they stand: in a record of a newer gateway they may be anything.
struct Members<'a> {
    all: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The first that is wrong among those that were read.
    fault: Option<String>,
}

impl<'a> Members<'a> {
    fn raw(&self, name: &str) -> json::Raw<'a> {
        let found = self.all.iter().rfind(|(known, _)| known == name)?.1;
        Some(found).filter(|found| found.get() != "null")
    }

    fn get<T: Member>(&mut self, name: &str) -> T {
        let fault = match self.raw(name).map(|raw| serde_json::from_str(raw.get())) {
            Some(Ok(value)) => return value,
            None if T::OPTIONAL => return T::default(),
            Some(Err(e)) => format!("a wrong {name:?}: {e}"),
            None => format!("no {name:?}"),
        };
        self.fault.get_or_insert(fault);
        T::default()
    }

    fn timestamp(&mut self) -> Timestamp {
        if self.raw("at").is_none() {
            self.fault.get_or_insert("no \"at\"".to_owned());
        }
        Timestamp { at: self.get("at"), age: self.get("age"), off: self.get("off") }
    }
}

/// Writes and reads the members of a struct under the names of its fields, in this order.
macro_rules! members {
    ($of:ident: $($field:ident),*) => {
        impl $of {
            fn write(&self, json: Json) -> Json {
                json$(.add(stringify!($field), &self.$field))*
            }

            fn read(mut self, members: &mut Members<'_>) -> $of {
                $(self.$field = members.get(stringify!($field));)*
                self
            }
        }
    };
}

members!(Accepted: principal, session, text, deliver, key, body, mode, attachments, context, erased);
members!(Retry: error, failures, spent, pause, asked, crash, detail);

/// The JSON of a record in the making.
struct Json(Vec<u8>);

impl Json {
    /// Adds a member, unless it says no more than its absence.
    fn add<T: Member>(mut self, key: &str, value: &T) -> Json {
        if T::OPTIONAL && *value == T::default() {
            return self;
        }
        [",\"", key, "\":"].iter().for_each(|part| self.0.extend(part.bytes()));
        // Strings, numbers and lists of them can be written, and to memory.
        let _ = serde_json::to_writer(&mut self.0, value);
        self
    }

    fn timestamp(mut self, Timestamp { at, age, off }: Timestamp) -> Json {
        self.0.extend(format!(r#","at":{at}"#).bytes());
        self.add("age", &age).add("off", &off)
    }
}

impl Step {
    /// As it is called in the journal.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Started => "started",
            Step::Retry(_) => "retry",
            Step::Done(..) => "done",
            Step::Failed(..) => "failed",
            Step::Requeued => "requeued",
            Step::Released => "released",
            Step::Cancelled(_) => "cancelled",
            Step::Sending => "sending",
            Step::Deferred(_) => "deferred",
            Step::Delivered => "delivered",
            Step::Dead(_) => "dead",
            Step::Revived => "revived",
            Step::Dropped => "dropped",
            Step::Forgotten => "forgotten",
        }
    }

    /// A step of this kind, with what it has beside its id, attempt and time.
    fn read(kind: &str, members: &mut Members<'_>) -> Option<Step> {
        Some(match kind {
            "started" => Step::Started,
            "retry" => Step::Retry(Box::new(Retry::default().read(members))),
            "done" => Step::Done(members.get("reply"), members.get("report")),
            "failed" => Step::Failed(members.get("error"), members.get("detail")),
            "requeued" => Step::Requeued,
            "released" => Step::Released,
            "cancelled" => Step::Cancelled(members.get("error")),
            "sending" => Step::Sending,
            "deferred" => Step::Deferred(members.get("error")),
            "delivered" => Step::Delivered,
            "dead" => Step::Dead(members.get("error")),
            "revived" => Step::Revived,
            "dropped" => Step::Dropped,
            "forgotten" => Step::Forgotten,
            _ => return None,
        })
    }
}

/// The id of the message that a record is about, without a look at the rest.
pub fn id_of(json: &str) -> Option<&str> {
    let (_, rest) = json.strip_prefix(r#"{"t":""#)?.split_once('"')?;
    let (id, _) = rest.strip_prefix(r#","id":""#)?.split_once('"')?;
    Some(id)
}

/// Whether only a newer gateway understands a record, and what follows it.
pub fn is_essential(json: &str) -> bool {
    Record::parse(json).is_err_and(|why| why.ends_with(ESSENTIAL))
}

const ESSENTIAL: &str = "is needed to understand what follows, and this version does not know it";
