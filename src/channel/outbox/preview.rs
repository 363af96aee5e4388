//! A reply that is shown while it is made. Pure.

use super::values::{Abilities, Draft, Send};
use super::work::PLACE;
use crate::channel::split;
use crate::session::Id;

#[derive(Debug)]
pub struct Preview {
    pub id: Id,
    thread: Option<String>,
    reply_to: Option<String>,
    /// As much of the newest state as one message holds, and what is shown.
    newest: String,
    shown: String,
    /// The platform's id of it.
    pub message: Option<String>,
    /// Nothing more is shown before the reply.
    pub off: bool,
}

impl Preview {
    pub fn new(draft: &Draft<'_>) -> Preview {
        let own = |text: Option<&str>| text.filter(|it| !it.is_empty()).map(str::to_owned);
        Preview {
            id: draft.id,
            thread: own(draft.thread),
            reply_to: own(draft.reply_to),
            newest: String::new(),
            shown: String::new(),
            message: own(draft.preview),
            off: false,
        }
    }

    pub fn update(&mut self, text: &str, can: &Abilities) {
        self.newest = split::first(text, can.max_len, can.unit);
    }

    /// Something is to be shown that is not.
    pub fn has_news(&self) -> bool {
        !self.off && !self.newest.is_empty() && self.newest != self.shown
    }

    /// It was not shown.
    pub fn repeat(&mut self) {
        self.shown.clear();
    }

    /// What shows its newest state, or a place for it.
    pub fn send(&mut self, conversation: &str, place: bool) -> Send {
        self.shown = if place { PLACE.to_owned() } else { self.newest.clone() };
        let replaces = self.message.clone();
        Send {
            id: self.id,
            parts: 1,
            conversation: conversation.to_owned(),
            thread: self.thread.clone(),
            reply_to: self.reply_to.clone().filter(|_| replaces.is_none()),
            text: self.shown.clone(),
            markdown: true,
            replaces,
            ..Send::default()
        }
    }
}
