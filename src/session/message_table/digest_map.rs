//! What is known of sessions, by their digests. Pure.

use std::collections::BTreeMap;

use super::owner::Digest;

/// A map by digest; without values, a set. The values are in a vector and their positions in a tree of
/// the one type that all maps share: each further type takes 6 kB of the binary.
#[derive(Debug, Default)]
pub struct DigestMap<T> {
    positions: BTreeMap<Digest, u128>,
    values: Vec<(Digest, T)>,
}

impl<T: Default> DigestMap<T> {
    pub fn get(&self, digest: Digest) -> Option<&T> {
        Some(&self.values[self.position(digest)?].1)
    }

    pub fn get_mut(&mut self, digest: Digest) -> Option<&mut T> {
        let at = self.position(digest)?;
        Some(&mut self.values[at].1)
    }

    /// The value of this digest, a new one where there is none.
    pub fn get_or_insert(&mut self, digest: Digest) -> &mut T {
        let at = self.position(digest).unwrap_or_else(|| {
            let at = self.values.len();
            self.positions.insert(digest, at as u128);
            self.values.push((digest, T::default()));
            at
        });
        &mut self.values[at].1
    }

    pub fn remove(&mut self, digest: Digest) -> Option<T> {
        let at = self.position(digest)?;
        self.positions.remove(&digest);
        let (_, value) = self.values.swap_remove(at);
        if let Some((moved, _)) = self.values.get(at) {
            self.positions.insert(*moved, at as u128);
        }
        Some(value)
    }

    pub fn contains(&self, digest: Digest) -> bool {
        self.positions.contains_key(&digest)
    }

    /// One of the digests.
    pub fn any(&self) -> Option<Digest> {
        Some(self.values.last()?.0)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &(Digest, T)> {
        self.values.iter()
    }

    /// The digests from this one on, in order.
    pub fn digests(&self, from: Digest) -> impl Iterator<Item = Digest> {
        self.positions.range(from..).map(|(digest, _)| *digest)
    }

    fn position(&self, digest: Digest) -> Option<usize> {
        usize::try_from(*self.positions.get(&digest)?).ok()
    }
}
