//! The connections on TCP, and which of them are closed for others at `max_connections`.
//!
//! Unauthenticated ones go first, the oldest before the others, but each has a moment to authenticate.
//! Then go idle ones, of the principal that holds most, the longest idle first. A request that is being
//! answered is never cut off for another; event streams of the principal that holds most are, for those
//! that hold less.

use std::cmp::Reverse;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::error::ApiError;
use crate::config::{ClientKey, OWNER};
use crate::http::{Activity, ConnectionActivity, Stage};
use crate::named::ByName;
use crate::shares::{Limit, Shares};
use crate::sys::gather::Gather;
use crate::threads::lock;

/// Unauthenticated connections. Each may be one of an attack; 1,000 of them are some 12 MB.
const MAX_UNAUTHENTICATED: usize = 1000;

/// Connections kept for requests without a key (`/health`, `/ready`) and for those that are about to
/// authenticate: each takes moments.
const KEPT_CONNECTIONS: usize = 16;

/// How long a connection has to authenticate before it may be evicted for others: many times what a
/// request takes on a loaded machine, and over a slow line.
pub const AUTHENTICATION_GRACE: Duration = Duration::from_millis(500);

/// How long an evicted connection may take to end without counting: its thread needs some microseconds,
/// unless it hangs.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// How many connections are evicted when the system is short of descriptors or threads: enough for the
/// control socket and a turn or two. Also how many may be evicted for one that comes.
const EVICTED_AT_ONCE: usize = 16;

/// How long a shortage counts, and fewer are taken: accepting is tried again much sooner, so that one
/// which lasts is seen again within it, and one that has passed keeps no client out for long.
const SHORTAGE_LASTS: Duration = Duration::from_millis(600);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub all: usize,
    /// From one source; loopback ones are not counted, since a proxy there speaks for many.
    pub from_one: usize,
    /// Descriptors are few: a connection may wait for a while, rather than be refused.
    pub few: bool,
    pub shares: Shares,
}

impl Capacity {
    /// How many may be authenticated: the rest is for those that need no key or are about to show one.
    fn authenticated(self) -> u64 {
        let kept = if self.few { 0 } else { (self.all / 16).clamp(1, KEPT_CONNECTIONS) };
        self.all.saturating_sub(kept).max(1) as u64
    }
}

#[derive(Default)]
pub struct ConnectionTable(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// In the order in which they came.
    entries: Vec<Entry>,
    last: u64,
    /// As of the last one that came.
    capacity: Option<Capacity>,
    /// Each with the number of connections that it holds.
    principals: ByName<u64>,
    /// How many the system had room for, and until when that counts; `usize::MAX`: it had none for one,
    /// once.
    shortage: Option<(usize, Instant)>,
}

struct Entry {
    stream: Arc<TcpStream>,
    activity: Arc<ConnectionActivity>,
    source: IpAddr,
    /// Of its last authenticated request.
    key: Option<Arc<ClientKey>>,
    /// When it was evicted. It stays in the list for as long as its thread is there.
    evicted: Option<Instant>,
}

impl ConnectionTable {
    /// Takes a connection, if there is room or another can be evicted for it; `source` stands for its
    /// address.
    pub fn admit(
        &self,
        stream: &Arc<TcpStream>,
        source: IpAddr,
        capacity: Capacity,
        now: Instant,
    ) -> Option<Arc<ConnectionActivity>> {
        let mut table = lock(&self.0);
        table.capacity = Some(capacity);
        table.make_room(source, capacity, now).then(|| {
            table.last += 1;
            let activity = Arc::new(ConnectionActivity::new(table.last, now));
            let (stream, shared) = (Arc::clone(stream), Arc::clone(&activity));
            let entry = Entry { stream, activity: shared, source, key: None, evicted: None };
            table.entries.push(entry);
            activity
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).entries.len()
    }

    /// The same, and how many of them end within moments.
    pub(super) fn counts(&self) -> (usize, usize) {
        let table = lock(&self.0);
        let closing = table.entries.iter().filter(|entry| entry.activity.is_closing());
        (table.entries.len(), closing.count())
    }

    /// Whom a connection counts for.
    pub(super) fn principal(&self, activity: &ConnectionActivity) -> Option<String> {
        let table = lock(&self.0);
        Some(table.entries[table.find(activity)?].key.as_ref()?.name.clone())
    }

    pub fn remove(&self, activity: &ConnectionActivity) {
        let mut table = lock(&self.0);
        if let Some(at) = table.find(activity) {
            table.release(at);
            table.entries.remove(at);
        }
    }

    /// Counts a connection among those of the principal whose key it has shown, if there is room among
    /// them or another can be evicted for it.
    pub(super) fn authenticate(
        &self,
        activity: &ConnectionActivity,
        key: &Arc<ClientKey>,
    ) -> Result<(), ApiError> {
        let token = Arc::as_ptr(key).addr();
        if activity.is_authenticated(token) {
            return Ok(());
        }
        let mut table = lock(&self.0);
        let Some(at) = table.find(activity) else { return Ok(()) };
        table.release(at);
        table.find_share(&key.name)?;
        *table.principals.of(&key.name) += 1;
        table.entries[at].key = Some(Arc::clone(key));
        activity.set_authenticated(token);
        Ok(())
    }

    /// Ends the answers that are on their way to clients whose key `holds` says no to.
    pub(super) fn revoke(&self, holds: &dyn Fn(&ClientKey) -> bool) {
        let table = lock(&self.0);
        let gone = |entry: &&Entry| entry.key.as_ref().is_some_and(|key| !holds(key));
        table.entries.iter().filter(gone).for_each(|entry| entry.activity.enter(Stage::Revoked));
    }

    /// How many connections each principal holds.
    pub fn held(&self) -> Vec<(String, u64)> {
        let table = lock(&self.0);
        let held = table.principals.iter().filter(|(_, held)| **held > 0);
        held.map(|(name, held)| (name.to_owned(), *held)).gather()
    }

    /// The system is short of descriptors or threads. Once may be by chance; where it is so again, some
    /// connections are evicted, and no more than are left are taken for a while, so that the control
    /// socket and turns have what they need.
    pub fn shed_load(&self, now: Instant) {
        let mut table = lock(&self.0);
        let again = table.shortage.is_some_and(|(_, until)| until > now);
        let may_go = |_: &Entry, activity, _| is_evictable(activity, Duration::ZERO);
        let _ = again && (0..EVICTED_AT_ONCE).all(|_| table.evict(&may_go, now));
        let most = if again { table.present().count() } else { usize::MAX };
        table.shortage = Some((most, now + SHORTAGE_LASTS));
    }
}

impl Table {
    fn make_room(&mut self, source: IpAddr, capacity: Capacity, now: Instant) -> bool {
        self.shortage = self.shortage.filter(|(_, until)| *until > now);
        let all = self.shortage.map_or(capacity.all, |(most, _)| most.min(capacity.all)).max(1);
        let from_one = self.present().filter(|entry| entry.source == source).count();
        let may_go = |_: &Entry, activity, _| is_evictable(activity, AUTHENTICATION_GRACE);
        let same =
            |entry: &Entry, activity, held| entry.source == source && may_go(entry, activity, held);
        if !source.is_loopback() && from_one >= capacity.from_one && !self.evict(&same, now) {
            return false;
        }
        let is_unknown = |activity| matches!(activity, Activity::Unauthenticated(_));
        let unknown = self.present().filter(|entry| is_unknown(entry.activity.at(now))).count();
        // None may go while all have just come: then all the room is theirs, for that moment.
        let unknown_may_go =
            |entry: &Entry, activity, held| is_unknown(activity) && may_go(entry, activity, held);
        let many = (unknown + 1).saturating_sub(MAX_UNAUTHENTICATED).min(EVICTED_AT_ONCE);
        let _ = (0..many).all(|_| self.evict(&unknown_may_go, now));
        // The capacity may have become smaller: then more than one goes for each that comes.
        for _ in 0..EVICTED_AT_ONCE {
            let (taken, ending) = self.taken(all, now);
            if taken < all {
                return true;
            }
            // Another would not make room any faster than those that are ending.
            if ending >= may_end(all) || !self.evict(&may_go, now) {
                return false;
            }
        }
        self.taken(all, now).0 < all
    }

    /// How many count, and how many are just ending. One that was evicted is gone within moments, and
    /// another may come at once; but one whose thread hangs counts.
    fn taken(&self, all: usize, now: Instant) -> (usize, usize) {
        let ends = |entry: &&Entry| entry.evicted.is_some_and(|at| now - at < EVICTION_GRACE);
        let ending = self.entries.iter().filter(ends).count();
        (self.entries.len() - ending.min(may_end(all)), ending)
    }

    fn present(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.evicted.is_none())
    }

    fn find(&self, activity: &ConnectionActivity) -> Option<usize> {
        self.entries.binary_search_by_key(&activity.number, |entry| entry.activity.number).ok()
    }

    fn held(&self, principal: &str) -> u64 {
        self.principals.get(principal).copied().unwrap_or_default()
    }

    /// A connection is not its principal's any more.
    fn release(&mut self, at: usize) {
        if let Some(key) = self.entries[at].key.take() {
            *self.principals.of(&key.name) -= 1;
        }
    }

    /// Finds a connection room among those of its principal.
    fn find_share(&mut self, name: &str) -> Result<(), ApiError> {
        let own = self.held(name);
        let Some(capacity) = self.capacity else { return Ok(()) };
        let all = self.principals.values().sum();
        let checked = capacity.shares.check(name, (own, all), 1, capacity.authenticated());
        let Err(over) = checked else { return Ok(()) };
        let may_go = |entry: &Entry, activity, held| {
            let Some(key) = &entry.key else { return false };
            let holds_more = over == Limit::Gateway && held > own + 1;
            match activity {
                Activity::Idle(_) => key.name == name || holds_more,
                Activity::Streaming(_) => holds_more && key.name != OWNER,
                Activity::Unauthenticated(_) | Activity::Busy => false,
            }
        };
        if self.evict(&may_go, Instant::now()) {
            return Ok(());
        }
        let reached = over.reached(name, "limits.max_connections", (own, capacity.all as u64));
        Err(ApiError::reached(503, "overloaded", &reached).after(1))
    }

    /// Closes one of those of which `may_go` says so. Says whether there was one.
    fn evict(&mut self, may_go: &dyn Fn(&Entry, Activity, u64) -> bool, now: Instant) -> bool {
        let rank = |(at, entry): (usize, &Entry)| {
            let activity = entry.activity.at(now);
            let (kind, time) = match activity {
                Activity::Unauthenticated(time) | Activity::Streaming(time) => (false, time),
                Activity::Idle(time) => (true, time),
                Activity::Busy => return None,
            };
            // Unauthenticated ones go before all others.
            let held = entry.key.as_ref().map_or(u64::MAX, |key| self.held(&key.name));
            let goes = entry.evicted.is_none() && may_go(entry, activity, held);
            goes.then_some((held, kind, time, Reverse(at)))
        };
        let first = self.entries.iter().enumerate().filter_map(rank).max();
        let Some((.., Reverse(at))) = first else { return false };
        self.release(at);
        // Its thread finds the connection at its end.
        let entry = &mut self.entries[at];
        entry.evicted = Some(now);
        let _ = entry.stream.shutdown(Shutdown::Both);
        true
    }
}

/// Whether it may be evicted for an unauthenticated one, which has a moment to authenticate.
fn is_evictable(activity: Activity, moment: Duration) -> bool {
    match activity {
        Activity::Unauthenticated(age) => age >= moment,
        Activity::Idle(_) => true,
        Activity::Streaming(_) | Activity::Busy => false,
    }
}

/// How many of those that were evicted need not have ended before others come.
fn may_end(all: usize) -> usize {
    (all / 4).max(1)
}

#[cfg(test)]
mod tests;
