//! Trees by number. All are of one type: each type of tree takes 6 kB of the binary. Pure.

use std::collections::BTreeMap;

/// Numbers by number; of a set only the keys count.
pub type Tree = BTreeMap<u128, u128>;

/// The upper and the lower half of a number.
pub fn halves(number: u128) -> (u64, u64) {
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    (half(number >> 64), half(number))
}

/// Values by number.
#[derive(Debug)]
pub struct TreeOf<V> {
    /// Where each is in `values`.
    places: Tree,
    values: Vec<(u128, V)>,
}

impl<V> TreeOf<V> {
    pub fn get(&self, key: u128) -> Option<&V> {
        Some(&self.values.get(place(*self.places.get(&key)?))?.1)
    }

    /// The value of this number, a new one where there is none.
    pub fn of(&mut self, key: u128) -> &mut V
    where
        V: Default,
    {
        let next = self.values.len();
        let at = place(*self.places.entry(key).or_insert(next as u128));
        if at == next {
            self.values.push((key, V::default()));
        }
        &mut self.values[at].1
    }

    pub fn remove(&mut self, key: u128) -> Option<V> {
        let at = self.places.remove(&key)?;
        let (_, value) = self.values.swap_remove(place(at));
        // The last one is there now.
        if let Some((moved, _)) = self.values.get(place(at)) {
            self.places.insert(*moved, at);
        }
        Some(value)
    }

    /// The numbers from this one on, in order.
    pub fn keys_from(&self, from: u128) -> impl Iterator<Item = u128> {
        self.places.range(from..).map(|(key, _)| *key)
    }
}

impl<V> Default for TreeOf<V> {
    fn default() -> TreeOf<V> {
        TreeOf { places: Tree::new(), values: Vec::new() }
    }
}

fn place(number: u128) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::random;

    #[test]
    fn it_holds_what_a_map_holds() {
        let (mut tree, mut map) = (TreeOf::<u128>::default(), BTreeMap::new());
        for at in 0..2000 {
            let key = u128::from(random::number() % 50);
            if random::number().is_multiple_of(3) {
                assert_eq!(tree.remove(key), map.remove(&key));
            } else {
                *tree.of(key) += at;
                *map.entry(key).or_default() += at;
            }
            assert!((0..50).all(|key| tree.get(key) == map.get(&key)));
            assert!(tree.keys_from(7).eq(map.range(7..).map(|(key, _)| *key)));
            assert_eq!(tree.values.len(), map.len());
        }
    }
}
