//! What the records say, as values and as JSON.

use serde::Serialize;

use super::origin::absent;
pub use super::origin::{Fact, Origin, Part};

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
    /// What a living agent, of this digest of its command and directory, calls its own session for this
    /// one: the newest counts, until a reset.
    AgentSession { principal: String, session: String, at: Timestamp, agent: String, id: String },
    /// Something durable about a channel, of a kind and key: the newest counts, an empty value says that it
    /// does not hold any more.
    Channel { channel: String, fact: Fact, key: String, value: String, at: Timestamp },
    /// What CLOCK_BOOTTIME said in which boot, in milliseconds: by the newest of these a start knows
    /// how much time has passed.
    Clock { boot: String, since_boot: u64, at: Timestamp },
    /// Written by a newer gateway, which can do without this one understanding it: it is kept as it
    /// is.
    Unknown { id: Option<String> },
}

/// Its members are written in this order, behind the id and the timestamp.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accepted {
    #[serde(skip)]
    pub id: String,
    #[serde(skip)]
    pub at: Timestamp,
    pub principal: String,
    #[serde(skip_serializing_if = "absent")]
    pub session: Option<String>,
    pub text: String,
    #[serde(skip_serializing_if = "absent")]
    pub deliver: Option<String>,
    /// Hashes of the idempotency key and of the body that came with it.
    #[serde(skip_serializing_if = "absent")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "absent")]
    pub body: Option<String>,
    /// `interrupt`, where it interrupts the turn that runs.
    #[serde(skip_serializing_if = "absent")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "absent")]
    pub attachments: Vec<String>,
    /// What the request said beside its text, as JSON.
    #[serde(skip_serializing_if = "absent")]
    pub context: Option<String>,
    /// Its place on the channel that `deliver` names.
    #[serde(skip_serializing_if = "absent")]
    pub origin: Option<Box<Origin>>,
    /// Its session was reset, and a compaction has taken out what it said.
    #[serde(skip_serializing_if = "absent")]
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
    /// The gateway's own stop, or the end of another turn's agent, has ended the attempt.
    Released,
    /// The agent may do something, or may not. The turn goes on.
    Approval(Box<Approval>),
    /// Belongs to no attempt.
    Cancelled(String),
    /// Its sender has changed its text, which has not been run.
    Edited(String),
    Sending,
    /// Of the reply on its way to a channel. Durable before the part is handed over, and once it has arrived.
    Part(Box<Part>),
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retry {
    pub error: String,
    /// Attempts that failed one after the other.
    #[serde(skip_serializing_if = "absent")]
    pub failures: u32,
    /// Milliseconds since the first of them in which the gateway ran and the machine was awake.
    #[serde(skip_serializing_if = "absent")]
    pub spent: u64,
    /// Milliseconds until the next attempt.
    #[serde(skip_serializing_if = "absent")]
    pub pause: u64,
    /// The upstream asked for at least that pause.
    #[serde(skip_serializing_if = "absent")]
    pub asked: bool,
    /// A crash or kill cut the attempt short: it counts against `limits.max_attempts`.
    #[serde(skip_serializing_if = "absent")]
    pub crash: bool,
    /// The upstream's own error, as JSON.
    #[serde(skip_serializing_if = "absent")]
    pub detail: Option<String>,
}

/// What an agent has asked for leave to do, and the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// Its id while it was open; empty where nobody was asked.
    #[serde(skip_serializing_if = "absent")]
    pub question: String,
    pub title: String,
    #[serde(skip_serializing_if = "absent")]
    pub kind: String,
    /// JSON.
    #[serde(skip_serializing_if = "absent")]
    pub input: String,
    pub allowed: bool,
    /// A principal, or the key of the configuration that says so.
    pub by: String,
}

impl Record {
    /// A step of a message.
    #[expect(clippy::needless_pass_by_value, reason = "ids are as small as their pointers")]
    pub fn step(id: impl ToString, n: u32, at: impl Into<Timestamp>, step: Step) -> Record {
        Record::Step { id: id.to_string(), n, at: at.into(), step }
    }

    /// Whether it is about where a message's turn is.
    pub fn moves_turn(&self) -> bool {
        let Record::Step { step, .. } = self else { return false };
        matches!(
            step,
            Step::Started
                | Step::Retry(_)
                | Step::Done(..)
                | Step::Failed(..)
                | Step::Cancelled(_)
                | Step::Released
        )
    }

    /// The word that says which it is.
    pub fn word(&self) -> &'static str {
        match self {
            Record::Accepted(_) => "accepted",
            Record::Step { step, .. } => step.word(),
            Record::Reset { .. } => "reset",
            Record::AgentSession { .. } => "agent_session",
            Record::Channel { .. } => "channel",
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
            Record::Reset { .. } | Record::AgentSession { .. } => None,
            Record::Channel { .. } | Record::Clock { .. } => None,
        }
    }

    /// The record without what only the gateway needs of it.
    pub fn without_digests(mut self) -> Record {
        if let Record::Accepted(accepted) = &mut self {
            (accepted.key, accepted.body) = (None, None);
            if let Some(origin) = &mut accepted.origin {
                (origin.account, origin.ids) = Default::default();
                (origin.cursor, origin.held) = Default::default();
            }
            // Of a file, what its sender calls it: see `session::StoredFile`.
            for attachment in accepted.attachments.iter_mut() {
                if let Some((_, name)) = attachment.rsplit_once('\t') {
                    *attachment = name.to_owned();
                }
            }
        }
        self
    }

    /// Its JSON, on one line.
    pub fn to_json(&self) -> String {
        let json = Json::begin(self.word(), self.id());
        let json = match self {
            Record::Accepted(accepted) => json.timestamp(accepted.at).members(accepted),
            Record::Step { n, at, step, .. } => {
                let json = json.add("n", n).timestamp(*at);
                match step {
                    Step::Done(reply, report) => json.put("reply", reply).add("report", report),
                    Step::Failed(error, detail) => json.put("error", error).add("detail", detail),
                    Step::Cancelled(error) | Step::Deferred(error) | Step::Dead(error) => {
                        json.put("error", error)
                    }
                    Step::Retry(retry) => json.members(retry),
                    Step::Approval(approval) => json.members(approval),
                    Step::Edited(text) => json.put("text", text),
                    Step::Part(part) => json.members(part),
                    // A version that ignores it takes the turn for one that is over.
                    Step::Requeued => json.put("essential", &true),
                    _ => json,
                }
            }
            Record::Reset { principal, session, at, transcript_only } => {
                let json = json.put("principal", principal).put("session", session).timestamp(*at);
                json.add("transcript_only", transcript_only)
            }
            Record::AgentSession { principal, session, at, agent, id } => {
                let json = json.put("principal", principal).put("session", session);
                json.put("agent", agent).put("agent_session_id", id).timestamp(*at)
            }
            Record::Channel { channel, fact, key, value, at } => {
                let json = json.put("channel", channel).put("fact", &fact.word());
                json.put("key", key).put("value", value).timestamp(*at)
            }
            Record::Clock { boot, since_boot, at } => {
                json.put("boot", boot).put("since_boot", since_boot).timestamp(*at)
            }
            Record::Unknown { .. } => json,
        };
        json.end()
    }
}

/// The JSON of a record in the making.
struct Json(Vec<u8>);

impl Json {
    fn begin(kind: &str, id: Option<&str>) -> Json {
        Json(format!(r#"{{"t":"{kind}""#).into_bytes()).add("id", &id)
    }

    /// Adds a member.
    fn put<T: Serialize>(mut self, key: &str, value: &T) -> Json {
        [",\"", key, "\":"].iter().for_each(|part| self.0.extend(part.bytes()));
        // Strings, numbers and lists of them can be written, and to memory.
        let _ = serde_json::to_writer(&mut self.0, value);
        self
    }

    /// Adds a member, unless it says no more than its absence.
    fn add<T: Serialize + Default + PartialEq>(self, key: &str, value: &T) -> Json {
        if absent(value) { self } else { self.put(key, value) }
    }

    /// Adds the members of a struct.
    fn members(mut self, of: &impl Serialize) -> Json {
        let start = self.0.len();
        let _ = serde_json::to_writer(&mut self.0, of);
        self.0[start] = b',';
        self.0.pop();
        self
    }

    fn end(mut self) -> String {
        self.0.push(b'}');
        // What serde_json writes is text.
        String::from_utf8(self.0).unwrap_or_default()
    }

    fn timestamp(self, Timestamp { at, age, off }: Timestamp) -> Json {
        self.put("at", &at).add("age", &age).add("off", &off)
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
            Step::Approval(_) => "approval",
            Step::Cancelled(_) => "cancelled",
            Step::Edited(_) => "edited",
            Step::Sending => "sending",
            Step::Part(_) => "part",
            Step::Deferred(_) => "deferred",
            Step::Delivered => "delivered",
            Step::Dead(_) => "dead",
            Step::Revived => "revived",
            Step::Dropped => "dropped",
            Step::Forgotten => "forgotten",
        }
    }
}

/// The id of the message that a record is about, without a look at the rest.
pub fn id_of(json: &str) -> Option<&str> {
    let (_, rest) = json.strip_prefix(r#"{"t":""#)?.split_once('"')?;
    let (id, _) = rest.strip_prefix(r#","id":""#)?.split_once('"')?;
    Some(id)
}
