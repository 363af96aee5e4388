//! A short map by name, in order. For the handfuls of things that have names here a sorted vector does what
//! a tree does, and costs a tenth of a tree's code in the binary.

use crate::sys::gather::Gather;
use std::fmt;

/// Values by name.
#[derive(Clone, PartialEq, Eq)]
pub struct ByName<T>(Vec<(String, T)>);

impl<T> ByName<T> {
    pub fn get(&self, name: &str) -> Option<&T> {
        Some(&self.0[self.position(name).ok()?].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let at = self.position(name).ok()?;
        Some(&mut self.0[at].1)
    }

    /// Puts a value in, instead of an earlier one of that name.
    pub fn insert(&mut self, name: String, value: T) {
        match self.position(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// The value of this name, a new one where there is none.
    pub fn of(&mut self, name: &str) -> &mut T
    where
        T: Default,
    {
        let at = self.position(name).unwrap_or_else(|at| {
            self.0.insert(at, (name.to_owned(), T::default()));
            at
        });
        &mut self.0[at].1
    }

    /// Takes out what has this name.
    pub fn remove(&mut self, name: &str) {
        self.position(name).into_iter().for_each(|at| drop(self.0.remove(at)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the first ones.
    pub fn truncate(&mut self, most: usize) {
        self.0.truncate(most);
    }

    /// All of them, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).gather()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(name))
    }
}

/// Names only: values may be secrets, and a `{:?}` in a log line must not show them.
impl<T> fmt::Debug for ByName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<T> Default for ByName<T> {
    fn default() -> ByName<T> {
        ByName(Vec::new())
    }
}
