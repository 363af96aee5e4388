//! Numbers of 128 bits by numbers of 128 bits: ids and digests. One kind of tree serves all that has
//! to be found among many, since each kind costs some kilobytes of the binary.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// An ordered map; as a set, its values are 0.
#[derive(Debug, Default)]
pub struct DigestMap(BTreeMap<u128, u128>);

impl DigestMap {
    pub fn get(&self, key: u128) -> Option<u128> {
        self.0.get(&key).copied()
    }

    pub fn contains(&self, key: u128) -> bool {
        self.0.contains_key(&key)
    }

    /// Puts a value in, in the place of an earlier one.
    pub fn insert(&mut self, key: u128, value: u128) {
        self.0.insert(key, value);
    }

    /// Puts a member into a set.
    pub fn add(&mut self, key: u128) {
        self.insert(key, 0);
    }

    /// Counts one more of a key, or one less; a key of none is not there.
    pub fn count(&mut self, key: u128, more: bool) {
        match self.remove(key).unwrap_or(0).saturating_add_signed(if more { 1 } else { -1 }) {
            0 => {}
            count => self.insert(key, count),
        }
    }

    pub fn remove(&mut self, key: u128) -> Option<u128> {
        self.0.remove(&key)
    }

    pub fn first(&self) -> Option<u128> {
        self.0.keys().next().copied()
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = u128> {
        self.0.keys().copied()
    }

    /// What there is from one key to another that is not less, in order.
    pub fn range(&self, from: u128, to: u128) -> impl DoubleEndedIterator<Item = (u128, u128)> {
        self.0.range(from..=to).map(|(key, value)| (*key, *value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
