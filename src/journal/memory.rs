//! The journal that lives as long as the process: for tests and `--ephemeral`.

use std::io;
use std::sync::{Arc, Mutex};

use super::framing::line;
use super::health::Health;
use super::{Decision, Journal, Purpose, WriteError, check_json};
use crate::threads::lock;

#[derive(Debug, Default)]
pub struct MemoryJournal {
    /// In the order of their numbers.
    records: Mutex<Vec<(u64, Arc<str>)>>,
    health: Health,
}

impl MemoryJournal {
    pub fn new(cap: u64) -> MemoryJournal {
        let journal = MemoryJournal::default();
        journal.set_cap(cap);
        journal
    }
}

impl Journal for MemoryJournal {
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, WriteError> {
        check_json(json)?;
        let mut records = lock(&self.records);
        let status = &mut lock(&self.health.0).status;
        let number = status.last + 1;
        let length = size(number, json);
        status.check_capacity(length, purpose)?;
        records.push((number, json.into()));
        status.last = number;
        status.size += length;
        Ok(number)
    }

    fn sync(&self, _number: u64) -> Result<(), WriteError> {
        Ok(())
    }

    fn read(&self, number: u64) -> io::Result<String> {
        let records = lock(&self.records);
        let place = records.binary_search_by_key(&number, |(number, _)| *number);
        let place = place.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(records[place].1.as_ref().to_owned())
    }

    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        let (last, mut after) = (self.last(), after);
        let next = |after: u64| {
            let records = lock(&self.records);
            let place = records.partition_point(|(number, _)| *number <= after);
            records.get(place).cloned().filter(|(number, _)| *number <= last)
        };
        while let Some((number, json)) = next(after)
            && visit(number, &json)
        {
            after = number;
        }
        Ok(())
    }

    fn rewrite(&self, decide: &mut dyn FnMut(u64, &str) -> Decision) -> io::Result<()> {
        let mut decisions = Vec::new();
        self.scan(0, &mut |number, json| {
            decisions.push(decide(number, json));
            true
        })?;
        // What was appended meanwhile is behind those that were decided on.
        let mut decisions = decisions.into_iter();
        let mut records = lock(&self.records);
        records.retain_mut(|(_, json)| match decisions.next() {
            None | Some(Decision::Keep) => true,
            Some(Decision::Replace(new)) => {
                *json = new.into();
                true
            }
            Some(Decision::Drop | Decision::Erase) => false,
        });
        let sizes = records.iter().map(|(number, json)| size(*number, json));
        lock(&self.health.0).status.size = sizes.sum();
        Ok(())
    }

    fn set_cap(&self, cap: u64) {
        lock(&self.health.0).status.cap = cap;
    }

    fn health(&self) -> &Health {
        &self.health
    }
}

/// As long as its line in a file would be.
fn size(number: u64, json: &str) -> u64 {
    (line(number, "}", Some(number)).len() - 1 + json.len()) as u64
}
