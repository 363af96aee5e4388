//! The journal that lives as long as the process: for tests and `--ephemeral`.

use std::io;
use std::sync::{Arc, Mutex};

use super::framing::line;
use super::{Condition, Fate, Journal, Purpose, Refused, check_capacity, check_json};
use crate::threads::lock;

#[derive(Debug)]
pub struct MemoryJournal(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// In the order of their numbers.
    records: Vec<(u64, Arc<str>)>,
    last: u64,
    size: u64,
    cap: u64,
}

impl MemoryJournal {
    pub fn new(cap: u64) -> MemoryJournal {
        MemoryJournal(Mutex::new(Inner { records: Vec::new(), last: 0, size: 0, cap }))
    }
}

impl Journal for MemoryJournal {
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, Refused> {
        check_json(json)?;
        let mut inner = lock(&self.0);
        let number = inner.last + 1;
        let length = size(number, json);
        check_capacity(inner.size, length, inner.cap, purpose)?;
        inner.records.push((number, json.into()));
        inner.last = number;
        inner.size += length;
        Ok(number)
    }

    fn sync(&self, _number: u64) -> Result<(), Refused> {
        Ok(())
    }

    fn read(&self, number: u64) -> io::Result<String> {
        let inner = lock(&self.0);
        let place = inner.records.binary_search_by_key(&number, |(number, _)| *number);
        let place = place.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(inner.records[place].1.as_ref().to_owned())
    }

    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        let (last, mut after) = (self.last(), after);
        let next = |after: u64| {
            let inner = lock(&self.0);
            let place = inner.records.partition_point(|(number, _)| *number <= after);
            inner.records.get(place).cloned().filter(|(number, _)| *number <= last)
        };
        while let Some((number, json)) = next(after)
            && visit(number, &json)
        {
            after = number;
        }
        Ok(())
    }

    fn rewrite(&self, fate: &mut dyn FnMut(u64, &str) -> Fate) -> io::Result<()> {
        let mut fates = Vec::new();
        self.scan(0, &mut |number, json| {
            fates.push(fate(number, json));
            true
        })?;
        // What was appended meanwhile is behind those that have a fate.
        let mut fates = fates.into_iter();
        let mut inner = lock(&self.0);
        inner.records.retain_mut(|(_, json)| match fates.next() {
            None | Some(Fate::Keep) => true,
            Some(Fate::Replace(new)) => {
                *json = new.into();
                true
            }
            Some(Fate::Drop | Fate::Erase) => false,
        });
        inner.size = inner.records.iter().map(|(number, json)| size(*number, json)).sum();
        Ok(())
    }

    fn last(&self) -> u64 {
        lock(&self.0).last
    }

    fn size(&self) -> u64 {
        lock(&self.0).size
    }

    fn set_cap(&self, cap: u64) {
        lock(&self.0).cap = cap;
    }

    fn condition(&self) -> Condition {
        let inner = lock(&self.0);
        match check_capacity(inner.size, 1, inner.cap, Purpose::NewWork) {
            Err(full) => Condition::Degraded(full.to_string()),
            Ok(()) => Condition::Good,
        }
    }
}

/// As long as its line in a file would be.
fn size(number: u64, json: &str) -> u64 {
    (line(number, "}", Some(number)).len() - 1 + json.len()) as u64
}
