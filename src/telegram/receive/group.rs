//! Which messages are pieces of one text: clients split what is pasted. Pure.

/// UTF-16 units: a client splits at 4,096, a little earlier where a word or an entity ends.
const LARGE: usize = 4000;

/// Seconds between two pieces, by the platform's clock: it is the same whenever they are delivered.
const WITHIN: i64 = 2;

/// Senders whose next message may be a piece: each is forgotten with it, and within seconds nobody asks.
const MAX_OPEN: usize = 64;

/// Who writes where: the chat, its thread and the sender.
pub(super) type Place = (i64, Option<i64>, i64);

/// Texts that may go on, the oldest first.
#[derive(Default)]
pub(super) struct Pieces(Vec<Open>);

struct Open {
    place: Place,
    group: String,
    /// Of the newest piece.
    message: i64,
    date: i64,
}

impl Pieces {
    /// Takes a message of so many UTF-16 units; returns the group that it is of.
    pub fn group(
        &mut self,
        place: Place,
        (message, date): (i64, i64),
        units: usize,
    ) -> Option<String> {
        let at = self.0.iter().position(|open| open.place == place);
        let open = at.map(|at| self.0.remove(at)).filter(|open| {
            message > open.message && (0..=WITHIN).contains(&date.saturating_sub(open.date))
        });
        let large = units >= LARGE;
        let group = match open {
            Some(open) => open.group,
            None if large => format!("text-{}-{message}", place.0),
            None => return None,
        };
        if large {
            if self.0.len() >= MAX_OPEN {
                self.0.remove(0);
            }
            self.0.push(Open { place, group: group.clone(), message, date });
        }
        Some(group)
    }
}
