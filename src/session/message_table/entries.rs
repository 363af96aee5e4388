//! All messages in the order of their ids, in chunks: to take one out of the middle moves few others,
//! and to add one never moves them all. Pure.

use super::entry::Entry;
use crate::session::id::Id;

/// How many messages a chunk has at the most: some kilobytes.
const CHUNK: usize = 64;

type IdEntry = (Id, Entry);

/// The chunks, none of which is empty. Ids and the numbers of the first records grow together.
#[derive(Debug, Default)]
pub(super) struct Entries(Vec<Vec<IdEntry>>);

impl Entries {
    /// Adds a message that is newer than all others.
    pub fn push(&mut self, id: Id, entry: Entry) {
        match self.0.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push((id, entry)),
            Some(_) | None => self.0.push(vec![(id, entry)]),
        }
    }

    pub fn get(&self, id: Id) -> Option<&Entry> {
        let (chunk, at) = self.position(&id, id_of)?;
        Some(&self.0[chunk][at].1)
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut Entry> {
        let (chunk, at) = self.position(&id, id_of)?;
        Some(&mut self.0[chunk][at].1)
    }

    /// The message that this record began.
    pub fn begun_by(&self, number: u64) -> Option<(Id, &Entry)> {
        let (chunk, at) = self.position(&number, |(_, entry)| entry.accepted)?;
        let (id, entry) = &self.0[chunk][at];
        Some((*id, entry))
    }

    pub fn remove(&mut self, id: Id) -> Option<Entry> {
        let (chunk, at) = self.position(&id, id_of)?;
        let rest = &mut self.0[chunk];
        let (_, entry) = rest.remove(at);
        if rest.is_empty() {
            self.0.remove(chunk);
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
        let chunks = self.0.partition_point(|chunk| older(chunk[0].0));
        let known = self.0[..chunks].iter().rev().flat_map(|chunk| chunk.iter().rev());
        known.skip_while(move |(id, _)| !older(*id)).map(|(id, entry)| (*id, entry))
    }

    fn position<K: Ord>(&self, key: &K, of: impl Fn(&IdEntry) -> K) -> Option<(usize, usize)> {
        // Most of what is asked for is new.
        let chunk = match self.0.last() {
            Some(last) if of(&last[0]) <= *key => self.0.len() - 1,
            _ => self.0.partition_point(|chunk| of(&chunk[0]) <= *key).checked_sub(1)?,
        };
        let at = self.0[chunk].binary_search_by_key(key, of).ok()?;
        Some((chunk, at))
    }
}

fn id_of((id, _): &IdEntry) -> Id {
    *id
}
