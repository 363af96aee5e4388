//! How a conversation comes to its session. Pure.

use std::time::Instant;

use super::{Conversation, State};
use crate::agent::Outcome;
use crate::agent::acp::events::{Action, Opened};
use crate::agent::acp::wire::{Answer, Features};

/// Pages of a list of sessions that are looked through, of some tens each; who has more is asked in vain.
const MAX_PAGES: u32 = 20;

/// Bytes of a session's id: agents have some tens, and it is kept as long as the session is.
const MAX_ID: usize = 1 << 10;

impl Conversation {
    pub(super) fn go(&mut self, state: State, action: Action<'static>) -> Action<'static> {
        (self.state, self.timer) = (state, None);
        action
    }

    pub(super) fn listed(&mut self, answer: &Answer<'_>) -> Action<'static> {
        self.pages += 1;
        self.listed = Some(answer.lists(&self.session));
        let next = answer.next_cursor.get();
        if self.listed == Some(true) || next.is_empty() {
            return self.restore();
        }
        if self.pages < MAX_PAGES {
            return Action::List(Some(next.to_owned()));
        }
        self.listed = None;
        self.restore()
    }

    /// Has the agent take a session into its memory that it had in an earlier process.
    pub(super) fn restore(&mut self) -> Action<'static> {
        // One that it does not know is resumed by some agents as an empty one, which a load shows.
        let blind = self.listed == Some(false)
            || self.listed.is_none() && self.features.has(Features::LOAD);
        if self.features.has(Features::RESUME) && !blind {
            return self.go(State::Resuming, Action::Resume);
        }
        self.load()
    }

    pub(super) fn load(&mut self) -> Action<'static> {
        if self.features.has(Features::LOAD) {
            return self.go(State::Loading, Action::Load);
        }
        self.create()
    }

    pub(super) fn create(&mut self) -> Action<'static> {
        self.session.clear();
        self.go(State::Creating, Action::Create)
    }

    pub(super) fn prompt(&mut self, opened: Opened) -> Action<'static> {
        self.opened = opened;
        self.go(State::Prompting, Action::Prompt(opened))
    }

    pub(super) fn resumed(&mut self) -> Action<'static> {
        let sure = self.listed == Some(true);
        self.prompt(if sure { Opened::Resumed } else { Opened::Doubtful })
    }

    pub(super) fn created(&mut self, answer: &Answer<'_>) -> Vec<Action<'static>> {
        if self.is_opened(answer) {
            return vec![self.prompt(Opened::New)];
        }
        let length = answer.session_id.get().len();
        let words = format!(
            "the agent answered session/new with a sessionId of {length} bytes; it has to have 1 to {MAX_ID}"
        );
        self.finish(Outcome::Failed(words))
    }

    /// Whether there is a session by this answer, whose id is taken where it is new.
    pub(super) fn is_opened(&mut self, answer: &Answer<'_>) -> bool {
        let id = answer.session_id.get();
        if self.session.is_empty() && id.len() <= MAX_ID {
            id.clone_into(&mut self.session);
        }
        !self.session.is_empty()
    }

    /// The turn ends so before its prompt, at this time at the latest: what was asked for may still come.
    pub(super) fn abandon(&mut self, latest: Instant, outcome: Outcome) {
        if self.state == State::Listing {
            self.session.clear();
        }
        (self.state, self.timer, self.outcome) = (State::Abandoning, Some(latest), Some(outcome));
    }
}
