//! What happens in a session, for those who follow it: its records, and a sign that there are more.

use std::{io, sync::Arc};

use super::hub::{Hub, State};
use super::message_table::Digest;
use crate::journal::record::Record;
use crate::limits::LOCK_BATCH;
use crate::stored_text::StoredText;
use crate::sys::{fd::EventFd, gather::Gather};
use crate::threads::in_turn;

/// A session's next record that is no further behind the last one is read in the same walk: to skip so
/// many of others takes less than a walk from an index entry.
const NEAR_RECORDS: u64 = 16;

impl Hub {
    /// Follows what happens in a session: the event is raised at every record of it, until it is dropped.
    pub fn follow(&self, session: Digest) -> io::Result<Arc<EventFd>> {
        let event = Arc::new(EventFd::new()?);
        let followers = &mut self.lock().followers;
        followers.retain(|(_, known)| known.strong_count() > 0);
        followers.push((session, Arc::downgrade(&event)));
        Ok(event)
    }

    /// Shows the durable records of a session after number `after`, until `visit` says false. `room` is
    /// asked before a long one is loaded. Returns the number of the last record that was looked at.
    pub fn records_of(
        &self,
        session: Digest,
        after: u64,
        room: &mut dyn FnMut(u64) -> io::Result<()>,
        visit: &mut dyn FnMut(u64, Record, Option<StoredText>) -> bool,
    ) -> io::Result<u64> {
        let last = self.journal.last();
        self.sync(last).map_err(|refused| io::Error::other(refused.to_string()))?;
        let mut show = |number: u64, json: &str, text: Option<StoredText>| {
            let Ok(record) = Record::parse(json) else { return true };
            // It may have been forgotten meanwhile.
            let mine = self.lock().table.session_of(&record) == Some(session);
            !mine || visit(number, record, text)
        };
        let mut seen = after;
        loop {
            let numbers: Vec<u64> = {
                let state = self.lock();
                let numbers = state.table.records_of(session, seen).take_while(|n| *n <= last);
                numbers.take(LOCK_BATCH).gather()
            };
            let Some(newest) = numbers.last().copied() else { return Ok(last.max(after)) };
            let is_long = |number: &u64| self.journal.is_long(*number);
            let near = |a: &u64, b: &u64| b - a <= NEAR_RECORDS && !is_long(a) && !is_long(b);
            for run in numbers.chunk_by(near) {
                let (first, end, mut goes_on) = (run[0], run[run.len() - 1], true);
                if is_long(&first) {
                    // One that is damaged, or was compacted away meanwhile, is missing.
                    let turn = in_turn(&session.to_ne_bytes());
                    let record = self.journal.read_without_reply(first, room);
                    drop(turn);
                    match record {
                        Ok((json, text)) => {
                            seen = first;
                            goes_on = show(first, &json, text);
                        }
                        Err(e) if e.kind() == io::ErrorKind::OutOfMemory => return Err(e),
                        Err(_) => {}
                    }
                } else {
                    // What is missing was compacted away meanwhile; what is between is of others.
                    self.journal.scan(first - 1, &mut |number, json| {
                        if run.binary_search(&number).is_ok() {
                            seen = number;
                            goes_on = show(number, json, None);
                        }
                        goes_on && number < end
                    })?;
                }
                if !goes_on {
                    return Ok(seen);
                }
            }
            seen = newest;
        }
    }
}

impl State {
    /// Tells those that follow this session, or any, to look again.
    pub(super) fn notify_followers(&self, session: Option<Digest>) {
        let mine = self.followers.iter().filter(|(of, _)| session.is_none_or(|it| it == *of));
        mine.filter_map(|(_, follower)| follower.upgrade()).for_each(|it| it.notify());
    }
}
