//! What a message builds upon: the messages that it names as the ones before it, and their replies.

use std::io;

use super::hub::Hub;
use super::id::Id;
use crate::agent::context::{assistant, inner, message as chat_message, role};
use crate::agent::{Context, Report};
use crate::escape::quoted;
use crate::json::{elements, member, text};

/// Messages that one may build upon; a conversation of more turns is longer than any model's context.
const MAX_CHAIN: usize = 1000;

/// The message before that of this context.
fn previous(context: &str) -> Option<Id> {
    Id::parse(&text(member(context, "previous")?).ok()?)
}

/// What stands between the brackets of a context's messages; the text alone where there are none.
fn messages(list: &str, text: &str) -> String {
    match elements(list).next() {
        Some(_) => inner(list).to_owned(),
        None => chat_message("user", text),
    }
}

impl Hub {
    /// A context as a turn is given it: its instructions, which no later turn is given, then what was said
    /// before, then what the request says itself. In a session its transcript has what was said.
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
        let instructions = member(json, "instructions").and_then(|it| self::text(it).ok());
        let mut said = Vec::from_iter(instructions.map(|text| chat_message("system", &text)));
        if let Some(previous) = previous(json).filter(|_| !in_session) {
            said.extend(self.history(principal, previous)?);
        }
        if !said.is_empty() || elements(&context.messages).next().is_none() {
            said.push(messages(&context.messages, text));
            context.messages = format!("[{}]", said.join(","));
        }
        Ok(context)
    }

    /// What was said up to the end of message `last`, oldest first: chat messages as JSON, with commas
    /// between those of a turn; no more than a transcript holds.
    ///
    /// # Errors
    /// NotFound: a message of the chain is not the principal's, has no reply, or is not known any more.
    pub fn history(&self, principal: &str, last: Id) -> io::Result<Vec<String>> {
        let room = self.settings().config.limits.max_transcript;
        let (mut turns, mut size, mut next) = (Vec::new(), 0, Some(last));
        while let Some(id) = next.filter(|_| turns.len() < MAX_CHAIN) {
            let entry = self.lock().table.copy(id);
            let entry = entry.filter(|entry| entry.owner.principal == principal);
            let (message, reply, told) = self.exchange(&entry.ok_or(io::ErrorKind::NotFound)?)?;
            let context = message.context.unwrap_or_default();
            let list = member(&context, "messages").unwrap_or_default();
            let report = told.as_deref().map(Report::parse).unwrap_or_default();
            let calls = report.calls.as_deref().map_or("", inner);
            // A refusal is what was said in the place of an answer.
            let reply = if reply.is_empty() { report.refusal.unwrap_or(reply) } else { reply };
            let silent = reply.is_empty() && !calls.is_empty();
            let reply = if silent { "null".to_owned() } else { quoted(&reply) };
            let turn = format!("{},{}", messages(list, &message.text), assistant(&reply, calls));
            // Its tools are none of what was said.
            size += turn.len();
            if size > room {
                break;
            }
            turns.push(turn);
            next = previous(&context);
        }
        // Where it is cut short, results of calls are nothing without these.
        while next.is_some() && turns.last().is_some_and(|turn| role(turn) == "tool") {
            turns.pop();
        }
        turns.reverse();
        Ok(turns)
    }
}
