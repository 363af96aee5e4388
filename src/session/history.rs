//! What a message builds upon: the messages that it names as the ones before it, and their replies.

use std::io;

use serde_json::{Value, json};

use super::book::Entry;
use super::hub::Hub;
use super::id::Id;
use crate::agent::Context;
use crate::journal::record::{Accepted, Record, Step};
use crate::limits::MAX_CHAIN;

/// The members of a context that the gateway reads itself.
#[derive(Debug, Default)]
pub struct Links {
    /// The message before this one.
    pub previous: Option<Id>,
    /// What the agent is told before all else; not handed on to what builds upon the message.
    pub instructions: Option<String>,
}

impl Links {
    fn of(context: &Value) -> Links {
        let text = |key: &str| context[key].as_str();
        Links {
            previous: text("previous").and_then(Id::parse),
            instructions: text("instructions").map(str::to_owned),
        }
    }
}

impl Hub {
    /// A context as a turn is given it: instructions first, then what was said before, then what the
    /// request says itself. In a session its transcript has what was said.
    ///
    /// # Errors
    /// NotFound: something that it builds upon is not known any more.
    pub fn context(
        &self,
        principal: &str,
        in_session: bool,
        text: &str,
        json: &str,
    ) -> io::Result<Context> {
        let mut context = Context::parse(json);
        if context.messages.is_empty() {
            context.messages.push(json!({"role": "user", "content": text}));
        }
        let links = Links::of(&serde_json::from_str(json).unwrap_or_default());
        let mut messages = Vec::new();
        messages.extend(links.instructions.map(|text| json!({"role": "system", "content": text})));
        if let Some(previous) = links.previous.filter(|_| !in_session) {
            messages.extend(self.history(principal, previous)?);
        }
        messages.append(&mut context.messages);
        context.messages = messages;
        Ok(context)
    }

    /// What was said up to the end of message `last`, oldest first; no more than a transcript holds.
    ///
    /// # Errors
    /// NotFound: a message of the chain is not the principal's, has no reply, or is not known any more.
    pub fn history(&self, principal: &str, last: Id) -> io::Result<Vec<Value>> {
        let room = self.settings().config.limits.max_transcript;
        let (mut turns, mut size, mut next) = (Vec::new(), 0, Some(last));
        while let Some(id) = next.filter(|_| turns.len() < MAX_CHAIN) {
            let entry = self.lock().book.copy(id);
            let entry = entry.filter(|entry| entry.who.principal == principal);
            let (message, reply) = self.said(&entry.ok_or(io::ErrorKind::NotFound)?)?;
            size +=
                message.text.len() + reply.len() + message.context.as_ref().map_or(0, String::len);
            if size > room {
                break;
            }
            let context: Value =
                message.context.and_then(|c| serde_json::from_str(&c).ok()).unwrap_or_default();
            let mut turn = match context["messages"].as_array() {
                Some(messages) if !messages.is_empty() => messages.clone(),
                Some(_) | None => vec![json!({"role": "user", "content": message.text})],
            };
            turn.push(json!({"role": "assistant", "content": reply}));
            turns.push(turn);
            next = Links::of(&context).previous;
        }
        Ok(turns.into_iter().rev().flatten().collect())
    }

    fn said(&self, entry: &Entry) -> io::Result<(Accepted, String)> {
        match self.outcome(entry)? {
            Some(Record::Step { step: Step::Done(reply, _), .. }) => {
                Ok((self.accepted(entry)?, reply))
            }
            Some(_) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The context that a message came with.
    pub fn context_of(&self, id: Id) -> io::Result<Option<String>> {
        let entry = self.lock().book.copy(id).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.accepted(&entry)?.context)
    }
}
