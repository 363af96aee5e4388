//! What agents ask for leave to do, and the answers: as they are shown, and as a turn waits for them.

use std::sync::Arc;

use super::id::{Id, code};
use super::message_table::Owner;
use crate::agent::{Answer, Question};
use crate::escape::quoted;
use crate::journal::record::Approval;
use crate::json;
use crate::sys::{clock::rfc3339, fd::EventFd, random};

/// A question that waits for its answer.
#[derive(Clone, Debug)]
pub struct OpenApproval {
    pub message: Id,
    /// Whose message that is.
    pub owner: Arc<Owner>,
    /// Its sender, in a conversation of several people on a channel; empty elsewhere.
    pub asker: String,
    /// Six letters and digits, unlike those of all others that are open.
    pub id: String,
    pub question: Question,
    /// As JSON: what a message, the list and the live event show of it.
    pub json: Arc<str>,
}

/// One that was answered, or that the configuration answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastApproval {
    /// The number of its record.
    pub number: u64,
    pub message: Id,
    pub owner: Arc<Owner>,
    /// Milliseconds since 1970.
    pub at: u64,
    pub approval: Approval,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    pub message: Id,
    /// The question's id.
    pub id: String,
    pub title: String,
    pub allowed: bool,
}

/// A turn that has asked.
#[derive(Debug)]
pub struct Asking {
    pub message: Id,
    /// Raised when there are answers, or the slot is there.
    pub event: Arc<EventFd>,
    pub open: Vec<OpenApproval>,
    /// Answers that the turn has not taken, and the record of each; 0 for one without.
    pub answers: Vec<(Answer, u64)>,
    pub slot: Slot,
}

/// The slot of such a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Held,
    /// Given away until the last answer.
    Parked,
    /// Wanted again.
    Wanted,
}

impl Asking {
    /// Nobody answers any more.
    pub fn stop(&mut self) {
        let told = self.answers.iter().any(|(answer, _)| *answer == Answer::Stopping);
        if !told && !self.open.is_empty() {
            self.answers.push((Answer::Stopping, 0));
            self.event.notify();
        }
    }
}

impl OpenApproval {
    /// `expires_at`: milliseconds since 1970; `taken`: the ids of all others.
    pub fn new(
        message: Id,
        (owner, asker): (Arc<Owner>, String),
        question: &Question,
        expires_at: u64,
        taken: &dyn Fn(&str) -> bool,
    ) -> OpenApproval {
        let mut chance = random::number();
        while taken(&code(chance)) {
            chance = chance.wrapping_add(1);
        }
        let id = code(chance);
        let (what, until) =
            (members(&question.title, &question.kind, &question.input), rfc3339(expires_at));
        let json =
            format!(r#"{{"message":"{message}","id":"{id}",{what},"expires_at":"{until}"}}"#);
        OpenApproval { message, owner, asker, id, question: question.clone(), json: json.into() }
    }
}

impl PastApproval {
    pub fn to_json(&self) -> String {
        let PastApproval { message, owner, at, approval, .. } = self;
        let Approval { question, title, kind, input, allowed, by } = approval;
        let session = json::text_or_null(owner.session.as_deref());
        let id = json::text_or_null(Some(&**question).filter(|id| !id.is_empty()));
        format!(
            r#"{{"message":"{message}","session":{session},"principal":{},"id":{id},{},"allowed":{allowed},"by":{},"at":"{}"}}"#,
            quoted(&owner.principal),
            members(title, kind, input),
            quoted(by),
            rfc3339(*at),
        )
    }
}

/// What a question says. Its input is JSON itself: what is none is shown as a string.
fn members(title: &str, kind: &str, input: &str) -> String {
    let input = match json::value(input.as_bytes()) {
        _ if input.is_empty() => "null".to_owned(),
        Ok(json) => json.to_owned(),
        Err(_) => quoted(input),
    };
    let kind = json::text_or_null(Some(kind).filter(|kind| !kind.is_empty()));
    format!(r#""title":{},"kind":{kind},"input":{input}"#, quoted(title))
}

/// As the journal has it. `id`: the question's, empty where nobody was asked.
pub fn answered(id: &str, question: &Question, allowed: bool, by: &str) -> Approval {
    let Question { title, kind, input } = question.clone();
    Approval { question: id.to_owned(), title, kind, input, allowed, by: by.to_owned() }
}
