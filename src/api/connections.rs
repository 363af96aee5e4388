//! Who is in the house: the connections on TCP, and which of them has to leave when there is no room.
//!
//! Whoever has shown no key goes first, the one that came first before the others, but each has a
//! moment to show one. Then go those that are known and ask for nothing, of the principal that holds
//! most, the longest idle first. A request that is being answered is never cut off for another; event
//! streams of the principal that holds most are, for those that hold less.

use std::cmp::Reverse;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::error::ApiError;
use crate::config::{ClientKey, OWNER};
use crate::http::{Activity, ConnectionActivity};
use crate::limits::{LEAVING_MOMENT, SHORTAGE_LASTS, SHORTAGE_ROOM, STRANGERS_MOMENT};
use crate::named::ByName;
use crate::shares::{Over, Reached, Shares};
use crate::threads::lock;

/// Connections that have shown no key. Each may be one of an attack; 1,000 of them are some 12 MB.
const MAX_STRANGERS: usize = 1000;

/// Connections kept for requests without a key (`/health`, `/ready`) and for those that are about to show
/// one: each takes moments.
const KEPT_CONNECTIONS: usize = 16;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub all: usize,
    /// From one address; loopback ones are not counted, since a proxy there speaks for many.
    pub from_one: usize,
    /// Descriptors are few: others may wait for a while, rather than be refused.
    pub few: bool,
    pub shares: Shares,
}

impl Capacity {
    /// How many may have shown a key: the rest is for those that need none or are about to show one.
    fn known(self) -> u64 {
        let kept = if self.few { 0 } else { (self.all / 16).clamp(1, KEPT_CONNECTIONS) };
        self.all.saturating_sub(kept).max(1) as u64
    }
}

#[derive(Debug, Default)]
pub struct ConnectionTable(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// In the order in which they came.
    guests: Vec<Entry>,
    last: u64,
    /// What the last one that came found.
    room: Option<Capacity>,
    /// Each with the number of connections that it holds.
    principals: ByName<u64>,
    /// How many the system had room for (`None`: once it had none for one), and until when that counts.
    shortage: Option<(Option<usize>, Instant)>,
}

#[derive(Debug)]
struct Entry {
    stream: Arc<TcpStream>,
    seat: Arc<ConnectionActivity>,
    place: IpAddr,
    /// What it has shown.
    known: Option<Arc<ClientKey>>,
    /// When it was sent away. It stays in the list for as long as its thread is there.
    left: Option<Instant>,
}

impl ConnectionTable {
    /// Lets a connection in, if there is room or somebody can leave for it; `place` stands for its
    /// address.
    pub fn admit(
        &self,
        stream: &Arc<TcpStream>,
        place: IpAddr,
        room: Capacity,
        now: Instant,
    ) -> Option<Arc<ConnectionActivity>> {
        let mut house = lock(&self.0);
        house.room = Some(room);
        house.make_room(place, room, now).then(|| {
            house.last += 1;
            let seat = Arc::new(ConnectionActivity::new(house.last, now));
            let (stream, shared) = (Arc::clone(stream), Arc::clone(&seat));
            house.guests.push(Entry { stream, seat: shared, place, known: None, left: None });
            seat
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).guests.len()
    }

    pub fn remove(&self, seat: &ConnectionActivity) {
        let mut house = lock(&self.0);
        if let Some(at) = house.find(seat) {
            house.release(at);
            house.guests.remove(at);
        }
    }

    /// Counts a connection among those of the principal whose key it has shown, if there is room among
    /// them or another can be closed for it.
    pub(super) fn authenticate(
        &self,
        seat: &ConnectionActivity,
        key: &Arc<ClientKey>,
    ) -> Result<(), ApiError> {
        let token = Arc::as_ptr(key).addr();
        if seat.is_principal(token) {
            return Ok(());
        }
        let mut house = lock(&self.0);
        let Some(at) = house.find(seat) else { return Ok(()) };
        house.release(at);
        house.find_share(&key.name)?;
        *house.principals.of(&key.name) += 1;
        house.guests[at].known = Some(Arc::clone(key));
        seat.set_principal(token);
        Ok(())
    }

    /// Has the answers end that are on their way to whoever showed a key that `holds` says no to.
    pub(super) fn revoke(&self, holds: &dyn Fn(&ClientKey) -> bool) {
        let house = lock(&self.0);
        let gone = |guest: &&Entry| guest.known.as_ref().is_some_and(|key| !holds(key));
        house.guests.iter().filter(gone).for_each(|guest| guest.seat.revoke());
    }

    /// How many connections each principal holds.
    pub fn held(&self) -> Vec<(String, u64)> {
        let house = lock(&self.0);
        let held = house.principals.iter().filter(|(_, held)| **held > 0);
        held.map(|(name, held)| (name.to_owned(), *held)).collect()
    }

    /// The system is short of descriptors or threads. Once may be by chance; where it is so again, some
    /// leave, and no more than are left are let in for a while, so that the control socket and turns have
    /// what they need.
    pub fn shed_load(&self, now: Instant) {
        let mut house = lock(&self.0);
        let again = house.shortage.is_some_and(|(_, until)| until > now);
        let goes = |_: &Entry, stage, _| is_evictable(stage, Duration::ZERO);
        let _ = again && (0..SHORTAGE_ROOM).all(|_| house.evict(&goes, now));
        let most = again.then_some(house.present().count());
        house.shortage = Some((most, now + SHORTAGE_LASTS));
    }
}

impl Table {
    fn make_room(&mut self, place: IpAddr, room: Capacity, now: Instant) -> bool {
        self.shortage = self.shortage.filter(|(_, until)| *until > now);
        let most = self.shortage.and_then(|(most, _)| most).unwrap_or(room.all);
        let all = most.min(room.all).max(1);
        let from_one = self.present().filter(|guest| guest.place == place).count();
        let here =
            |guest: &Entry, stage, _| guest.place == place && is_evictable(stage, STRANGERS_MOMENT);
        if !place.is_loopback() && from_one >= room.from_one && !self.evict(&here, now) {
            return false;
        }
        let is_stranger = |stage| matches!(stage, Activity::Stranger(_));
        let strangers = self.present().filter(|guest| is_stranger(guest.seat.stage(now))).count();
        // None may go while all have just come: then the whole house is theirs, for that moment.
        let goes =
            |_: &Entry, stage, _| is_stranger(stage) && is_evictable(stage, STRANGERS_MOMENT);
        let many = (strangers + 1).saturating_sub(MAX_STRANGERS).min(SHORTAGE_ROOM);
        let _ = (0..many).all(|_| self.evict(&goes, now));
        // The house may have become smaller: then more than one leaves for each that comes.
        for _ in 0..SHORTAGE_ROOM {
            let (taken, leaving) = self.taken(all, now);
            if taken < all {
                return true;
            }
            // Somebody else would not make room any faster than those who are leaving.
            let goes = |_: &Entry, stage, _| is_evictable(stage, STRANGERS_MOMENT);
            if leaving >= may_leave(all) || !self.evict(&goes, now) {
                return false;
            }
        }
        self.taken(all, now).0 < all
    }

    /// How many places are taken, and how many are just being left. Whoever is sent away is gone within
    /// moments, and another may come at once; but a thread that hangs keeps its place.
    fn taken(&self, all: usize, now: Instant) -> (usize, usize) {
        let leaves = |guest: &&Entry| guest.left.is_some_and(|at| now - at < LEAVING_MOMENT);
        let leaving = self.guests.iter().filter(leaves).count();
        (self.guests.len() - leaving.min(may_leave(all)), leaving)
    }

    fn present(&self) -> impl Iterator<Item = &Entry> {
        self.guests.iter().filter(|guest| guest.left.is_none())
    }

    fn find(&self, seat: &ConnectionActivity) -> Option<usize> {
        self.guests.binary_search_by_key(&seat.number, |guest| guest.seat.number).ok()
    }

    fn held(&self, principal: &str) -> u64 {
        self.principals.get(principal).copied().unwrap_or_default()
    }

    /// A connection is not its principal's any more.
    fn release(&mut self, at: usize) {
        if let Some(key) = self.guests[at].known.take() {
            *self.principals.of(&key.name) -= 1;
        }
    }

    /// Finds a connection room among those of its principal.
    fn find_share(&mut self, name: &str) -> Result<(), ApiError> {
        let own = self.held(name);
        let Some(room) = self.room else { return Ok(()) };
        let all = self.principals.values().sum();
        let checked = room.shares.check(name, (own, all), 1, room.known());
        let Err(over) = checked else { return Ok(()) };
        let gives = |guest: &Entry, stage, held| {
            let Some(key) = &guest.known else { return false };
            let holds_more = over == Over::Gateway && held > own + 1;
            match stage {
                Activity::Idle(_) => key.name == name || holds_more,
                Activity::Streaming(_) => holds_more && key.name != OWNER,
                Activity::Stranger(_) | Activity::Busy => false,
            }
        };
        if self.evict(&gives, Instant::now()) {
            return Ok(());
        }
        let message = over.message(name, "limits.max_connections", (own, room.all as u64));
        Err(ApiError::reached(503, "overloaded", &Reached { over, message }).after(1))
    }

    /// Asks one of those to leave that `goes` says. Says whether anybody could be asked.
    fn evict(&mut self, goes: &dyn Fn(&Entry, Activity, u64) -> bool, now: Instant) -> bool {
        let rank = |(at, guest): (usize, &Entry)| {
            let stage = guest.seat.stage(now);
            let (kind, time) = match stage {
                Activity::Stranger(time) | Activity::Streaming(time) => (false, time),
                Activity::Idle(time) => (true, time),
                Activity::Busy => return None,
            };
            // Who is known by nobody goes before all others.
            let held = guest.known.as_ref().map_or(u64::MAX, |key| self.held(&key.name));
            let may_go = guest.left.is_none() && goes(guest, stage, held);
            may_go.then_some((held, kind, time, Reverse(at)))
        };
        let first = self.guests.iter().enumerate().filter_map(rank).max();
        let Some((.., Reverse(at))) = first else { return false };
        self.release(at);
        // Its thread finds the connection at its end.
        let guest = &mut self.guests[at];
        guest.left = Some(now);
        let _ = guest.stream.shutdown(Shutdown::Both);
        true
    }
}

/// Whether it may be asked to leave for one that has shown no key, which has a moment for that.
fn is_evictable(stage: Activity, moment: Duration) -> bool {
    match stage {
        Activity::Stranger(age) => age >= moment,
        Activity::Idle(_) => true,
        Activity::Streaming(_) | Activity::Busy => false,
    }
}

/// How many of those who were sent away need not have gone before others come.
fn may_leave(all: usize) -> usize {
    (all / 4).max(1)
}

#[cfg(test)]
mod tests;
