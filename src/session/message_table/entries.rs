//! All messages in the order of their ids, in pieces: to take one out of the middle moves few others,
//! and to add one never moves them all. Pure.

use std::collections::VecDeque;

use super::entry::Entry;
use crate::session::id::Id;

/// How many messages a piece has at the most: some kilobytes.
const PIECE: usize = 64;

type Known = (Id, Entry);

/// The pieces, none of which is empty. Ids and the numbers of the first records grow together.
#[derive(Debug, Default)]
pub(super) struct Entries(VecDeque<Vec<Known>>);

impl Entries {
    /// Adds a message that is newer than all others.
    pub fn push(&mut self, id: Id, entry: Entry) {
        match self.0.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push((id, entry)),
            Some(_) | None => self.0.push_back(vec![(id, entry)]),
        }
    }

    pub fn get(&self, id: Id) -> Option<&Entry> {
        let (piece, at) = self.place(id)?;
        Some(&self.0[piece][at].1)
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut Entry> {
        let (piece, at) = self.place(id)?;
        Some(&mut self.0[piece][at].1)
    }

    /// The message that this record began.
    pub fn begun_by(&self, number: u64) -> Option<(Id, &Entry)> {
        let piece = self.0.partition_point(|piece| piece[0].1.accepted <= number);
        let piece = &self.0[piece.checked_sub(1)?];
        let at = piece.binary_search_by_key(&number, |(_, entry)| entry.accepted).ok()?;
        Some((piece[at].0, &piece[at].1))
    }

    pub fn remove(&mut self, id: Id) -> Option<Entry> {
        let (piece, at) = self.place(id)?;
        let rest = &mut self.0[piece];
        let (_, entry) = rest.remove(at);
        if rest.is_empty() {
            self.0.remove(piece);
        } else if rest.len() < rest.capacity() / 4 {
            rest.shrink_to_fit();
        }
        Some(entry)
    }

    /// All, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Id, &Entry)> {
        self.0.iter().flatten().map(|(id, entry)| (*id, entry))
    }

    /// Those older than this one, or all; the newest first.
    pub fn before(&self, id: Option<Id>) -> impl Iterator<Item = (Id, &Entry)> {
        let older = move |known: Id| id.is_none_or(|id| known < id);
        let pieces = self.0.partition_point(|piece| older(piece[0].0));
        let known = self.0.range(..pieces).rev().flat_map(|piece| piece.iter().rev());
        known.skip_while(move |(id, _)| !older(*id)).map(|(id, entry)| (*id, entry))
    }

    fn place(&self, id: Id) -> Option<(usize, usize)> {
        let piece = self.0.partition_point(|piece| piece[0].0 <= id).checked_sub(1)?;
        let at = self.0[piece].binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some((piece, at))
    }
}
