//! What is kept of each session. Pure.

use super::owner::Digest;
use crate::session::id::Id;
use crate::session::tree::{Tree, halves};

/// What is known of a session that was reset.
#[derive(Debug, Default)]
pub(super) struct Reset {
    /// How many erased messages are known: as long the reset is told to its followers.
    pub erased: usize,
    /// The record of the last reset, and the newest message that there was then. A start may read of
    /// erased messages before it.
    pub last: u64,
    pub newest: Id,
    /// The record of the last reset that erases, 0 without one.
    pub erasure: u64,
}

/// The most records of a run beside its first one, and the bits of the distance from one to the next: the
/// records of a message on a channel are a run.
const MORE: usize = 6;
const BITS: usize = 10;

/// The records of each session, in runs of one message without one of another between them. A key is half of
/// the session's digest and the number of the run's first record; the lower half of its value the key's number
/// of the run before it of the same message, or 0, and the upper half the distances of its other records.
#[derive(Debug, Default)]
pub(super) struct RecordIndex(Tree);

impl RecordIndex {
    /// Adds a session's newest record, of the message whose newest run is this one, 0 without one. Returns the
    /// run that has it.
    pub fn add(&mut self, session: Digest, number: u64, run: u64) -> u64 {
        let newest = self.0.range(..=key(session, u64::MAX)).next_back();
        if let Some((key, value)) = newest.filter(|(newest, _)| **newest == key(session, run)) {
            let (key, value, known) = (*key, *value, numbers(*key, *value));
            let more = known.iter().filter(|known| **known > run).count();
            let distance = number.saturating_sub(known[more]);
            if more < MORE && distance > 0 && distance < 1 << BITS {
                self.0.insert(key, value | u128::from(distance) << (64 + BITS * more));
                return run;
            }
        }
        self.0.insert(key(session, number), run.into());
        number
    }

    /// Takes out a run and those before it of its message.
    pub fn remove(&mut self, session: Digest, mut run: u64) {
        while let Some(value) = self.0.remove(&key(session, run)) {
            run = halves(value).1;
        }
    }

    /// The numbers after this one that are the first of a message, or of something else, in order.
    pub fn firsts(&self, session: Digest, after: u64) -> impl DoubleEndedIterator<Item = u64> {
        let all = self.0.range(key(session, after.saturating_add(1))..=key(session, u64::MAX));
        all.filter(|(_, value)| halves(**value).1 == 0).map(|(key, _)| halves(*key).1)
    }

    /// The numbers after this one, in order.
    pub fn after(&self, session: Digest, after: u64) -> impl Iterator<Item = u64> {
        let begun = self.0.range(key(session, 0)..=key(session, after)).next_back();
        let from = begun.map_or(key(session, after), |(key, _)| *key);
        let runs = self.0.range(from..=key(session, u64::MAX));
        runs.flat_map(|(key, value)| numbers(*key, *value)).filter(move |number| *number > after)
    }
}

/// The numbers of a run, and 0 for those that it does not have.
fn numbers(key: u128, value: u128) -> [u64; MORE + 1] {
    let mut all = [halves(key).1; MORE + 1];
    for at in 0..MORE {
        let distance = halves(value >> (64 + BITS * at)).1 & ((1 << BITS) - 1);
        all[at + 1] = if distance == 0 { 0 } else { all[at] + distance };
    }
    all
}

fn key(session: Digest, number: u64) -> u128 {
    session << 64 | u128::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::random;

    #[test]
    fn a_session_has_its_records_in_order_and_a_message_takes_its_own_with_it() {
        for _ in 0..50 {
            let (mut index, mut known) = (RecordIndex::default(), Vec::new());
            let (mut number, mut runs) = (0, [[0; 3]; 2]);
            for _ in 0..200 {
                number += 1 + if random::number().is_multiple_of(9) { 1022 } else { 0 };
                number += u64::from(random::number().is_multiple_of(9));
                let pick = |most: u64| usize::try_from(random::number() % most).unwrap();
                let (session, message) = (pick(2), pick(3));
                let of = 7 + session as Digest;
                let run = &mut runs[session][message];
                if random::number().is_multiple_of(12) {
                    index.remove(of, *run);
                    known.retain(|(its, _, _)| *its != (session, message));
                    *run = 0;
                } else {
                    known.push(((session, message), number, *run == 0));
                    *run = index.add(of, number, *run);
                }
                let after = random::number() % (number + 1);
                let mine = known.iter().filter(|(its, _, _)| its.0 == session);
                let mine = mine.filter(|(_, number, _)| *number > after);
                let firsts = mine.clone().filter(|(_, _, first)| *first);
                assert!(index.after(of, after).eq(mine.map(|(_, number, _)| *number)));
                assert!(index.firsts(of, after).eq(firsts.map(|(_, number, _)| *number)));
            }
        }
        let mut index = RecordIndex::default();
        let run = index.add(1, 10, 0);
        assert!((11..17).all(|number| index.add(1, number, run) == run));
        assert_eq!(
            (index.0.len(), index.add(1, 17, run)),
            (1, 17),
            "a message on a channel is one"
        );
    }
}
