//! The journal in memory: for tests and for `run --ephemeral`. It is never durable, and says so by
//! its name alone.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Condition, Journal, Purpose, Refused, over_cap};

/// Records in a list.
#[derive(Debug)]
pub struct MemoryJournal(Mutex<State>);

#[derive(Debug)]
struct State {
    records: VecDeque<(u64, Box<str>)>,
    next: u64,
    bytes: u64,
    cap: u64,
}

impl MemoryJournal {
    /// `cap`: the bytes that all records may have.
    pub fn new(cap: u64) -> MemoryJournal {
        MemoryJournal(Mutex::new(State { records: VecDeque::new(), next: 1, bytes: 0, cap }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, Refused> {
        let mut state = self.lock();
        let after = state.bytes + json.len() as u64;
        if let Some(refused) = over_cap(after, state.cap, purpose) {
            return Err(refused);
        }
        let number = state.next;
        state.records.push_back((number, json.into()));
        (state.next, state.bytes) = (number + 1, after);
        Ok(number)
    }

    fn sync(&self, _number: u64) -> Result<(), Refused> {
        Ok(())
    }

    fn read(&self, number: u64) -> io::Result<String> {
        let state = self.lock();
        let at = state.records.binary_search_by_key(&number, |(number, _)| *number);
        let at = at.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(state.records[at].1.to_string())
    }

    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        let last = self.last();
        let mut after = after;
        loop {
            let next = {
                let state = self.lock();
                let at = state.records.partition_point(|(number, _)| *number <= after);
                state.records.get(at).cloned()
            };
            match next {
                Some((number, json)) if number <= last => {
                    if !visit(number, &json) {
                        return Ok(());
                    }
                    after = number;
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    fn compact(&self, keep: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        let mut dead = Vec::new();
        self.scan(0, &mut |number, json| {
            if !keep(number, json) {
                dead.push(number);
            }
            true
        })?;
        let mut state = self.lock();
        state.records.retain(|(number, _)| dead.binary_search(number).is_err());
        state.bytes = state.records.iter().map(|(_, json)| json.len() as u64).sum();
        Ok(())
    }

    fn last(&self) -> u64 {
        self.lock().next - 1
    }

    fn size(&self) -> u64 {
        self.lock().bytes
    }

    fn set_cap(&self, cap: u64) {
        self.lock().cap = cap;
    }

    fn condition(&self) -> Condition {
        let state = self.lock();
        match over_cap(state.bytes, state.cap, Purpose::NewWork) {
            Some(refused) => Condition::Degraded(refused.to_string()),
            None => Condition::Good,
        }
    }
}
