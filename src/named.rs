//! A map by name whose `{:?}` shows the names only: values may be secrets, and a log line must not
//! show them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Values by name.
#[derive(Clone, PartialEq, Eq)]
pub struct ByName<T>(BTreeMap<String, T>);

impl<T> ByName<T> {
    pub const fn new() -> ByName<T> {
        ByName(BTreeMap::new())
    }

    /// Puts a value in, in the place of an earlier one of that name.
    pub fn insert(&mut self, name: String, value: T) {
        self.0.insert(name, value);
    }

    /// The value of this name, a new one where there is none.
    pub fn of(&mut self, name: &str) -> &mut T
    where
        T: Default,
    {
        self.0.entry(name.to_owned()).or_default()
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

impl<T> Deref for ByName<T> {
    type Target = BTreeMap<String, T>;

    fn deref(&self) -> &BTreeMap<String, T> {
        &self.0
    }
}

impl<T> DerefMut for ByName<T> {
    fn deref_mut(&mut self) -> &mut BTreeMap<String, T> {
        &mut self.0
    }
}

impl<T> fmt::Debug for ByName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl<T> Default for ByName<T> {
    fn default() -> ByName<T> {
        ByName::new()
    }
}
