//! Commands in messages: what an operator may tell the gateway from within a session.

use std::sync::Arc;

use super::hub::Hub;
use super::id::Id;
use super::message_table::{Digest, Owner, digest_of};
use super::states::TurnState;
use super::submit::{Draft, Refusal, Submitted};
use crate::config::Busy;
use crate::escape::escaped;

/// A message that is a command. What is none goes to the agent, whatever it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Status,
    Stop,
    New,
    Queue,
    Retry,
    WhoAmI,
}

const COMMANDS: [(&str, Command, &str); 7] = [
    ("/help", Command::Help, "this list"),
    ("/status", Command::Status, "what the gateway and this session are doing"),
    ("/stop", Command::Stop, "end the running turn"),
    ("/new", Command::New, "cancel what runs and waits here, and forget what was said"),
    ("/queue", Command::Queue, "what waits in this session"),
    ("/retry", Command::Retry, "send the last finished message again"),
    ("/whoami", Command::WhoAmI, "who you are to the gateway"),
];

impl Command {
    /// The command that a text is: its word alone, white space around it.
    pub fn parse(text: &str) -> Option<Command> {
        let word = text.trim();
        COMMANDS.iter().find(|(known, ..)| *known == word).map(|(_, command, _)| *command)
    }
}

impl Hub {
    /// Carries a command out and records it with its answer, like any message.
    pub fn command(self: &Arc<Self>, command: Command, draft: Draft) -> Result<Submitted, Refusal> {
        let (who, text, key) = (draft.who.clone(), draft.text.trim().to_owned(), draft.key);
        let submitted = self.admit(draft)?;
        let Submitted::New { id, .. } = submitted else { return Ok(submitted) };
        let settings = self.settings();
        let operator = settings.config.is_operator(&who.principal);
        let reply = match command {
            _ if !operator => {
                format!("{} is for operators; {} is not in session.operators.", text, who.principal)
            }
            Command::Help => COMMANDS.map(|(word, _, line)| format!("{word:<8} {line}")).join("\n"),
            Command::Status => self.status_text(&who),
            Command::Stop => self.stop_turn(&who),
            Command::New => match self.reset(&who, "/new") {
                Ok(count) => format!("A fresh session; messages cancelled: {count}."),
                Err(refusal) => not_done(&refusal),
            },
            Command::Queue => self.queue_text(&who, id),
            Command::Retry => self.retry_last(&who, id, key),
            Command::WhoAmI => format!("You are {}, an operator of this gateway.", who.principal),
        };
        self.reply(id, reply)?;
        Ok(submitted)
    }

    fn status_text(&self, who: &Owner) -> String {
        let (counts, (running, waiting, sessions), ..) = self.status_of(&self.lock());
        let (bytes, _) = self.journal_size();
        let here = self.session(who);
        let here = here.map_or((0, 0), |it| (usize::from(it.running.is_some()), it.queued));
        format!(
            "Here: turns: {} running, {} waiting.\nGateway: turns: {running} running, {waiting} waiting, sessions with turns: {sessions}; replies to deliver: \
             {}, dead letters: {}; journal: {bytes} bytes.",
            here.0, here.1, counts.outbox, counts.dead_letters
        )
    }

    fn queue_text(&self, who: &Owner, command: Id) -> String {
        let messages = self.messages_of(who);
        let queue = messages.iter().filter(|(id, turn)| !turn.is_over() && *id != command);
        let lines: Vec<String> = queue
            .enumerate()
            .map(|(at, (id, turn))| format!("{}. {id} {}", at + 1, turn.word()))
            .collect();
        if lines.is_empty() { "Nothing waits.".to_owned() } else { lines.join("\n") }
    }

    fn stop_turn(self: &Arc<Self>, who: &Owner) -> String {
        let messages = self.messages_of(who);
        let stops = |turn: &TurnState| matches!(turn, TurnState::Running | TurnState::Backoff);
        let Some((id, _)) = messages.iter().find(|(_, turn)| stops(turn)) else {
            return "No turn runs.".to_owned();
        };
        match self.cancel(*id, "/stop") {
            Ok(()) => format!("The turn of {id} is cancelled."),
            Err(refusal) => not_done(&refusal),
        }
    }

    fn retry_last(
        self: &Arc<Self>,
        who: &Owner,
        command: Id,
        key: Option<(Digest, Digest)>,
    ) -> String {
        let is_said = |id: &Id| {
            let entry = self.lock().table.copy(*id)?;
            // An answer to a command had no attempt.
            let ran = entry.attempts > 0 || entry.turn != TurnState::Done;
            (entry.turn.is_over() && ran).then(|| self.accepted(&entry))
        };
        let messages = self.messages_of(who);
        let before = messages.iter().rev().filter(|(id, _)| *id < command);
        let message = match before.clone().find_map(|(id, _)| is_said(id)) {
            None => return "There is no finished message to send again.".to_owned(),
            Some(Err(e)) => return format!("The message cannot be read back: {e}."),
            Some(Ok(message)) => message,
        };
        let draft = Draft {
            who: who.clone(),
            text: message.text,
            attachments: message.attachments,
            context: message.context,
            deliver: message.deliver,
            mode: Busy::Queue,
            // Once for the command's own key, however often that comes.
            key: key.map(|(key, body)| (digest_of(&[b"/retry", &key.to_be_bytes()]), body)),
        };
        match self.submit(draft) {
            Ok(Submitted::New { id, position, .. }) => {
                format!("Sent again: {id}, position {position}.")
            }
            Ok(Submitted::Known(id)) => format!("Sent again: {id}."),
            Err(refusal) => not_done(&refusal),
        }
    }
}

fn not_done(refusal: &Refusal) -> String {
    format!("It was not done. {}", escaped(&refusal.to_string(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_its_word_alone() {
        assert_eq!(Command::parse(" /new\n"), Some(Command::New));
        assert_eq!(Command::parse("/whoami"), Some(Command::WhoAmI));
        for text in ["", "/", "/newer", "/new now", "say /new", "/etc/passwd", "/NEW"] {
            assert_eq!(Command::parse(text), None, "{text}");
        }
    }
}
