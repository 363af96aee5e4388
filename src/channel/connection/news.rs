//! What an adapter says of its connection to the platform.

use std::time::Instant;

use super::Connection;
use crate::channel::access::shown;
use crate::channel::shared::{UNAUTHORIZED, UP};
use crate::channel::wire::{Connection as At, News};
use crate::escape::{escaped, first_chars};

/// Characters that are kept of why something is so: a sentence of what to do about it.
const MAX_WORDS: usize = 400;

impl Connection<'_> {
    pub(super) fn news(&mut self, news: News) {
        let shared = &self.worker.shared;
        match news {
            News::Gap { since, why } => {
                let gap = format!("since {}: {}", shown(&since), words(&why));
                shared.lock().status.gap.clone_from(&gap);
                self.tell(&format!("what came meanwhile is not known, {gap}"));
            }
            News::Status { state, why } => {
                let word = match state {
                    At::Up => UP,
                    At::Connecting => "connecting",
                    At::Limited => "limited",
                    At::Conflict => "conflict",
                    At::Unauthorized => UNAUTHORIZED,
                };
                if state == At::Limited {
                    self.worker.outbound.limited(Instant::now());
                }
                let same = shared.lock().status.state == word;
                let why = words(&why);
                shared.set(word, &why);
                if !same {
                    self.tell(&format!("it is {word}: {why}"));
                }
            }
        }
    }
}

/// What an adapter says to operators, for a log or a terminal.
fn words(text: &str) -> String {
    escaped(&first_chars(text, MAX_WORDS), false)
}
