//! Commands in messages: what an operator may tell the gateway from within a session.

use std::{sync::Arc, time::Duration};

use super::approvals::Sender;
use super::held::again;
use super::hub::Hub;
use super::id::Id;
use super::message_table::{Digest, Entry, Owner, Place, digest_of};
use super::restarts::{Foreseen, MAX_REQUESTERS, Requester, RestartKind, RestartRequest};
use super::states::TurnState;
use super::submit::{Draft, Refusal, Submitted};
use crate::escape::escaped;
use crate::journal::record::Origin;
use crate::limits::{RESTART_PAUSE, RESTART_STORM};
use crate::sys::gather::Gather;

/// A message that is a command. What is none goes to the agent, whatever it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Start,
    Help,
    Missed,
    Status,
    Stop,
    Approve,
    Deny,
    New,
    Queue,
    Retry,
    WhoAmI,
    Restart,
    Update,
}

const COMMANDS: [(&str, Command, &str); 13] = [
    ("/start", Command::Start, "what this is"),
    ("/help", Command::Help, "this list"),
    ("/missed", Command::Missed, "answer what came here while nobody could, and was old by then"),
    ("/status", Command::Status, "what the gateway and this session are doing"),
    ("/stop", Command::Stop, "end the running turn"),
    (
        "/approve",
        Command::Approve,
        "let the agent do what it asks for; with an ID where it asks for more",
    ),
    ("/deny", Command::Deny, "do not let it"),
    ("/new", Command::New, "cancel what runs and waits here, and forget what was said"),
    ("/queue", Command::Queue, "what waits in this session"),
    ("/retry", Command::Retry, "send the last finished message again"),
    ("/whoami", Command::WhoAmI, "who you are to the gateway"),
    ("/restart", Command::Restart, "restart the gateway; it says here when it is back"),
    (
        "/update",
        Command::Update,
        "update the gateway, and restart it; it says here what came of it",
    ),
];

/// For a platform that offers commands in a menu: each without its `/`, and what it does.
pub fn menu() -> Vec<(&'static str, &'static str)> {
    COMMANDS.iter().map(|(word, _, what)| (&word[1..], *what)).gather()
}

impl Command {
    /// The command that a text is: its word alone, white space around it. Answers may have one more.
    pub fn parse(text: &str) -> Option<Command> {
        let mut words = text.split_whitespace();
        let word = words.next()?;
        let (_, command, _) = COMMANDS.iter().find(|(known, ..)| *known == word)?;
        let most = usize::from(command.is_answer());
        (words.count() <= most).then_some(*command)
    }

    /// Whether it answers a question of an agent, which every principal may do for its own turns.
    fn is_answer(self) -> bool {
        matches!(self, Command::Approve | Command::Deny)
    }

    /// Whether everybody may give it.
    fn is_open(self) -> bool {
        let harmless = matches!(self, Command::Start | Command::Help | Command::WhoAmI);
        harmless || self == Command::Missed || self.is_answer()
    }
}

impl Hub {
    /// Carries a command out and records it with its answer, like any message.
    pub fn command(self: &Arc<Self>, command: Command, draft: Draft) -> Result<Submitted, Refusal> {
        // A restart in place waits for it.
        self.begin_work(1);
        let submitted = self.carry_out(command, draft);
        self.end_work();
        submitted
    }

    fn carry_out(self: &Arc<Self>, command: Command, draft: Draft) -> Result<Submitted, Refusal> {
        let (sender, text, key) = (self.sender(&draft), draft.text.trim().to_owned(), draft.key);
        let (deliver, origin) = (draft.deliver.clone(), draft.origin.clone());
        let (who, operator) = (sender.who.clone(), sender.operator);
        let submitted = self.admit(draft)?;
        let Submitted::New { id, .. } = submitted else { return Ok(submitted) };
        let mut asks = None;
        let reply = match command {
            _ if !operator && !command.is_open() => {
                let (who, key) = match &*sender.from {
                    "" => (&*who.principal, "session.operators".to_owned()),
                    from => (from, format!("channel.{}.operators", sender.channel)),
                };
                format!("{text} is for operators; {} is not in {key}.", escaped(who, false))
            }
            Command::Start => {
                format!(
                    "This is gateway {}: an agent answers what is written here. See /help.",
                    self.name()
                )
            }
            Command::Help => {
                let may = COMMANDS.iter().filter(|(_, command, _)| operator || command.is_open());
                may.map(|(word, _, line)| format!("{word:<9}{line}")).gather().join("\n")
            }
            Command::Missed => match self.take_missed(&who, id) {
                (0, _, None) => "Nothing was missed.".to_owned(),
                (taken, 0, None) => format!("Messages taken: {taken}."),
                (taken, left, None) => {
                    format!("Messages taken: {taken}. Left: {left}, for another /missed.")
                }
                (taken, _, Some(refusal)) => {
                    format!("Messages taken: {taken}. {}", not_done(&refusal))
                }
            },
            Command::Status => self.status_text(&who),
            Command::Approve | Command::Deny => {
                let question = text.split_whitespace().nth(1);
                self.answer(&sender, question, command == Command::Approve)
            }
            Command::Stop => self.stop_turn(&who),
            Command::New => match self.reset(&who, "/new") {
                Ok(count) => format!("A fresh session; messages cancelled: {count}."),
                Err(refusal) => not_done(&refusal),
            },
            Command::Queue => self.queue_text(&who, id),
            Command::Retry => self.retry_last(&who, id, key),
            Command::WhoAmI => {
                let from = match &*sender.from {
                    "" => String::new(),
                    from => format!(" ({} on {})", escaped(from, false), sender.channel),
                };
                let rights = if operator { ", an operator of this gateway" } else { "" };
                format!("You are {}{from}{rights}.", who.principal)
            }
            Command::Restart | Command::Update => {
                let update = command == Command::Update;
                let kind = if update { RestartKind::Update } else { RestartKind::Restart };
                let (reply, asked) = self.foresee_restart(kind);
                asks = asked.then(|| request(kind, &who, id, (deliver, origin)));
                reply
            }
        };
        let replied = self.reply(id, reply);
        if let Some(request) = asks {
            self.make_request(id, request);
        }
        replied?;
        Ok(submitted)
    }

    /// What is said to a request for a restart; whether it is to be made.
    fn foresee_restart(&self, kind: RestartKind) -> (String, bool) {
        if self.is_draining() {
            return ("It was not done. The gateway is stopping.".to_owned(), false);
        }
        let record = self.restart_record.get();
        if let Some(why) = refuse_restart(&record.recent, self.clocks.read().since_boot) {
            return (why, false);
        }
        let told = "you are told here what came of it";
        let reply = match self.restarts.foresee() {
            _ if kind == RestartKind::Update => format!("update requested: {told}."),
            Foreseen::Begins => format!("restart requested: {told}."),
            Foreseen::Joins { by, told: is_told } => {
                let by = by.map(|by| format!(", asked for by {by}")).unwrap_or_default();
                let most =
                    || format!("{MAX_REQUESTERS} others are told what comes of it, and no more");
                let told = if is_told { told.to_owned() } else { most() };
                format!("a restart is under way{by}: this request joins it; {told}.")
            }
        };
        (reply, true)
    }

    /// Makes the request of a message that has its end. Without that on the disk the next run might
    /// take the message up again, and restart again.
    fn make_request(&self, id: Id, request: RestartRequest) {
        let ended = |turn: &Entry| turn.turn == TurnState::Done;
        let durable = self.lock().table.get(id).is_some_and(ended) && !self.is_broken();
        if durable && request.kind == RestartKind::Update {
            let requester = request.requester.clone();
            self.restart_record.keep(&mut |record| {
                requester.iter().for_each(|it| record.await_update(it.clone()));
            });
            self.request_update(request);
        } else if durable {
            self.request_restart(request);
            if let Err(e) = self.save_restart(false) {
                log::warn!("who asked for the restart is not kept: {e}");
            }
        }
        self.restarts.settle();
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

    fn answer(&self, sender: &Sender, id: Option<&str>, allow: bool) -> String {
        match self.answer_as(sender, id, allow) {
            Ok(done) => {
                let word = if allow { "Allowed" } else { "Denied" };
                format!("{word}: {}", done.title)
            }
            Err(Refusal::Unknown) => "Nothing is asked here.".to_owned(),
            Err(Refusal::ManyAsked(lines)) => {
                format!("Several things are asked; name one by its ID:{lines}")
            }
            Err(refusal) => not_done(&refusal),
        }
    }

    fn queue_text(&self, who: &Owner, command: Id) -> String {
        let messages = self.messages_of(who);
        let queue = messages.iter().filter(|(id, turn)| !turn.is_over() && *id != command);
        let lines: Vec<String> = queue
            .enumerate()
            .map(|(at, (id, turn))| format!("{}. {id} {}", at + 1, turn.word()))
            .gather();
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
            (entry.turn.is_over() && ran).then(|| {
                let key = self.key_of_held(*id, &entry);
                self.accepted(&entry).map(|message| (message, key))
            })
        };
        let messages = self.messages_of(who);
        let before = messages.iter().rev().filter(|(id, _)| *id < command);
        let (message, held) = match before.clone().find_map(|(id, _)| is_said(id)) {
            None => return "There is no finished message to send again.".to_owned(),
            Some(Err(e)) => return format!("The message cannot be read back: {e}."),
            Some(Ok(said)) => said,
        };
        // Once for the command's own key, however often that comes.
        let key = key.map(|(key, body)| (digest_of(&[b"/retry", &key.to_be_bytes()]), body));
        match self.submit(again(who, message, held.or(key))) {
            Ok(Submitted::New { id, position, .. }) => {
                format!("Sent again: {id}, position {position}.")
            }
            Ok(Submitted::Known(id)) => format!("Sent again: {id}."),
            Err(refusal) => not_done(&refusal),
        }
    }
}

fn request(
    kind: RestartKind,
    who: &Owner,
    id: Id,
    (deliver, origin): (Option<String>, Option<Box<Origin>>),
) -> RestartRequest {
    let (principal, session) = (who.principal.clone(), who.session.clone());
    let by = format!("message {id} of {principal}");
    let place =
        origin.map(|origin| Place { conversation: origin.conversation, thread: origin.thread });
    let requester = Some(Requester { principal, session, message: id.to_string(), deliver, place });
    RestartRequest { kind, by, requester }
}

/// Why no message restarts the gateway now: when restarts that were asked for were over, and what time it
/// is, in ms since boot.
fn refuse_restart(recent: &[u64], now: u64) -> Option<String> {
    let since = |at: &u64| Duration::from_millis(now.saturating_sub(*at));
    let last = recent.last().map(since).filter(|since| *since < RESTART_PAUSE);
    if let Some(since) = last {
        return Some(format!("restarted {} s ago, not again.", since.as_secs()));
    }
    let (most, time) = RESTART_STORM;
    let storm: Vec<&u64> = recent.iter().filter(|at| since(at) < time).gather();
    let first = storm.get(storm.len().checked_sub(most)?)?;
    Some(format!(
        "not restarted: {} restarts were asked for in the last {} s. Look why; a message restarts the \
         gateway again in {} s, and `hermes-gateway restart` at any time.",
        storm.len(),
        time.as_secs(),
        (time - since(first)).as_secs() + 1
    ))
}

fn not_done(refusal: &Refusal) -> String {
    format!("It was not done. {}", escaped(&refusal.to_string(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_that_follow_each_other_are_refused() {
        let refused = |recent: &[u64], now| refuse_restart(recent, now).unwrap_or_default();
        assert_eq!(refused(&[], 0), "");
        assert_eq!(refused(&[5000], 8900), "restarted 3 s ago, not again.");
        assert_eq!(refused(&[5000], 15_000), "");
        let five = [10_000, 20_000, 30_000, 40_000, 50_000];
        assert!(refused(&five, 61_000).contains("in 70 s"), "{}", refused(&five, 61_000));
        assert_eq!(refused(&five[1..], 61_000), "");
        assert_eq!(refused(&five, 130_000), "");
    }

    #[test]
    fn a_command_is_its_word_alone() {
        assert_eq!(Command::parse(" /new\n"), Some(Command::New));
        assert_eq!(Command::parse("/whoami"), Some(Command::WhoAmI));
        for text in ["", "/", "/newer", "/new now", "say /new", "/etc/passwd", "/NEW"] {
            assert_eq!(Command::parse(text), None, "{text}");
        }
    }
}
