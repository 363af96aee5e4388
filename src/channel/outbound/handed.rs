//! The parts that an adapter was given, and which of them it certainly has not read. Pure.

use crate::channel::wire::{Failure, FailureKind, Receipt};
use crate::session::Id;
use crate::sys::gather::Gather;

/// Parts that are known: no adapter has more at once. Another one counts as read.
const MAX_HANDED: usize = 256;

/// Each with where its line ends in all that the adapter was given, in bytes.
#[derive(Default)]
pub(super) struct Handed(Vec<(Id, u32, u64)>);

impl Handed {
    pub fn add(&mut self, id: Id, part: u32, end: u64) {
        self.answered(id);
        self.0.drain(..self.0.len().saturating_sub(MAX_HANDED - 1));
        self.0.push((id, part, end));
    }

    /// Something was heard of it.
    pub fn answered(&mut self, id: Id) {
        self.0.retain(|(known, ..)| *known != id);
    }

    /// Those that lie behind the bytes that the adapter may have read: all of a line but its end is enough. Nothing
    /// is known of any after that.
    pub fn take_unread(&mut self, read: u64) -> Vec<(Id, Receipt)> {
        let receipt = |(id, part, _): (Id, u32, u64)| {
            let why = "the adapter ended before it read it".to_owned();
            let (kind, part) = (FailureKind::Temporary, part.into());
            let failure = Failure { kind, retry_after: None, moved_to: None, why };
            (id, Receipt { delivery: String::new(), part, result: Err(failure) })
        };
        let all = std::mem::take(&mut self.0).into_iter();
        all.filter(|it| it.2 > read + 1).map(receipt).gather()
    }
}
