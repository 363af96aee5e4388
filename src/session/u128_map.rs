//! A map by digest or id. Pure.

use std::collections::BTreeMap;

/// A map by numbers of 128 bits, or without values a set. The values are in a vector and their positions
/// in a tree of the one type that all maps share: each further type takes 6 kB of the binary.
#[derive(Debug, Default)]
pub struct U128Map<T> {
    positions: BTreeMap<u128, u128>,
    values: Vec<(u128, T)>,
}

impl<T: Default> U128Map<T> {
    pub fn get(&self, key: u128) -> Option<&T> {
        Some(&self.values[self.position(key)?].1)
    }

    /// The value of this key, a new one where there is none.
    pub fn get_or_insert(&mut self, key: u128) -> &mut T {
        let at = self.position(key).unwrap_or(self.values.len());
        if at == self.values.len() {
            self.positions.insert(key, at as u128);
            self.values.push((key, T::default()));
        }
        &mut self.values[at].1
    }

    pub fn remove(&mut self, key: u128) -> Option<T> {
        let at = self.position(key)?;
        self.positions.remove(&key);
        let (_, value) = self.values.swap_remove(at);
        if let Some((moved, _)) = self.values.get(at) {
            self.positions.insert(*moved, at as u128);
        }
        Some(value)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &(u128, T)> {
        self.values.iter()
    }

    /// The keys from this one on, in order.
    pub fn keys(&self, from: u128) -> impl Iterator<Item = u128> {
        self.positions.range(from..).map(|(key, _)| *key)
    }

    fn position(&self, key: u128) -> Option<usize> {
        usize::try_from(*self.positions.get(&key)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn it_holds_what_a_tree_holds() {
        let (mut random, mut map) = (Random::new(1), U128Map::default());
        let mut tree: BTreeMap<u128, usize> = BTreeMap::new();
        for _ in 0..2000 {
            let (key, value) = (random.below(40) as u128, random.below(1000));
            if random.one_in(2) {
                assert_eq!(map.remove(key), tree.remove(&key));
            } else {
                *map.get_or_insert(key) = value;
                tree.insert(key, value);
            }
            assert!((0..40).all(|key| map.get(key) == tree.get(&key)));
            assert!(map.keys(20).eq(tree.range(20..).map(|(key, _)| *key)));
            assert_eq!(map.iter().count(), tree.len());
        }
    }
}
