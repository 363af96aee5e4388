//! What people, the log and the status are told of messages that were held or refused.

use std::time::{Duration, Instant};

use super::context::Context;
use crate::channel::link::Answer;
use crate::channel::shared::UP;
use crate::session::{Owner, Place, Refusal, now, rfc3339};

/// How long after the last message that was held its senders are told of them, since more may follow, and how
/// long after the first at the latest.
const TELL_HELD_AFTER: Duration = Duration::from_secs(2);
const TELL_HELD_WITHIN: Duration = Duration::from_secs(10);

/// How often somebody is told that his messages are refused, and the log that they are for now.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Senders of which this is remembered.
const MAX_TOLD: usize = 256;

/// Messages that were too old when they came, at one place.
struct Held {
    place: Place,
    who: Owner,
    tell_at: Instant,
    tell_by: Instant,
}

/// Messages are refused for now.
struct Refused {
    /// In milliseconds since 1970.
    since: u64,
    /// When the log last said so.
    said: Instant,
}

/// What was told, or is to be.
#[derive(Default)]
pub(super) struct Notices {
    held: Vec<Held>,
    refused: Option<Refused>,
    /// Where whom it was told with which words that messages are refused, and when.
    told: Vec<(Place, String, Instant)>,
}

impl Notices {
    /// When [`Notices::tell_held`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.tell_at).min()
    }

    pub fn count_held(&mut self, place: Place, who: Owner) {
        let now = Instant::now();
        let (tell_at, tell_by) = (now + TELL_HELD_AFTER, now + TELL_HELD_WITHIN);
        match self.held.iter_mut().find(|held| held.place == place && held.who == who) {
            Some(held) => held.tell_at = tell_at.min(held.tell_by),
            None => self.held.push(Held { place, who, tell_at, tell_by }),
        }
    }

    /// Tells those of held messages whose time has come; all of them without a time.
    pub fn tell_held(&mut self, context: Context<'_>, now: Option<Instant>) {
        let due = |held: &Held| now.is_none_or(|now| held.tell_at <= now);
        while let Some(at) = self.held.iter().position(due) {
            let Held { who, .. } = self.held.swap_remove(at);
            context.hub.tell_held(&context.channel.name, &who);
        }
    }

    /// Tells a sender that nothing becomes of his message; not of each one of a flood.
    pub fn tell_refused(
        &mut self,
        context: Context<'_>,
        (who, place, from): (Owner, Place, &str),
        words: &str,
    ) {
        self.told.retain(|(.., at)| at.elapsed() < TOLD_AGAIN);
        let what = [words, from].concat();
        let known = self.told.iter().any(|(there, told, _)| *there == place && *told == what);
        if !known && self.told.len() < MAX_TOLD {
            context.say(who, place.clone(), &what, words.to_owned());
            self.told.push((place, what, Instant::now()));
        }
    }

    /// Says in the log and the status that messages are refused for now, or that they are taken again.
    pub fn note_refused(
        &mut self,
        context: Context<'_>,
        refusal: Option<&Refusal>,
        answer: &Answer,
    ) {
        let status = |why: &str| {
            let mut own = context.shared.lock();
            if own.status.state == UP {
                why.clone_into(&mut own.status.why);
            }
        };
        match (refusal, answer) {
            (Some(Refusal::Stopping), _) => {}
            (Some(refusal), Answer::Later { .. }) => {
                let since = self.refused.as_ref().map_or_else(now, |it| it.since);
                let why =
                    format!("messages are refused for now, since {}: {refusal}", rfc3339(since));
                if self.refused.as_ref().is_none_or(|it| it.said.elapsed() >= TOLD_AGAIN) {
                    self.refused = Some(Refused { since, said: Instant::now() });
                    log::warn!("channel {}: {why}", context.channel.name);
                }
                status(&why);
            }
            (None, Answer::Taken { .. }) => {
                if self.refused.take().is_some() {
                    log::info!("channel {}: messages are taken again", context.channel.name);
                    status("");
                }
            }
            (_, Answer::Later { .. } | Answer::Taken { .. } | Answer::Never(_)) => {}
        }
    }
}
