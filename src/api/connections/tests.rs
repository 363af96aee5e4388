//! The table of connections: who has to leave, and who gets a place.

use super::*;
use crate::config::Config;
use std::io::Read;
use std::net::TcpListener;

/// A house, and the other ends of its connections by their numbers.
struct Street {
    guests: ConnectionTable,
    listener: TcpListener,
    ends: Vec<(u64, TcpStream, Arc<ConnectionActivity>)>,
    keys: Vec<Arc<ClientKey>>,
    now: Instant,
}

impl Street {
    fn new() -> Street {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (guests, ends, keys, now) =
            (ConnectionTable::default(), Vec::new(), Vec::new(), Instant::now());
        Street { guests, listener, ends, keys, now }
    }

    /// Lets one in from this address; its number, if there was room.
    fn come(&mut self, from: &str, room: Capacity) -> Option<u64> {
        let end = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let stream = Arc::new(self.listener.accept().unwrap().0);
        let place = from.parse().unwrap();
        let seat = self.guests.admit(&stream, place, room, self.now)?;
        let number = seat.number;
        self.ends.push((number, end, seat));
        Some(number)
    }

    /// Has it show the key of this principal.
    fn know(&mut self, number: u64, principal: &str) -> Result<(), String> {
        let known = self.keys.iter().find(|key| key.name == principal).cloned();
        let key = known.unwrap_or_else(|| Arc::new(ClientKey::new(principal)));
        self.keys.push(Arc::clone(&key));
        let told = self.guests.authenticate(&self.seat(number), &key);
        told.map_err(|problem| problem.message)
    }

    fn seat(&self, number: u64) -> Arc<ConnectionActivity> {
        Arc::clone(&self.ends.iter().find(|(known, ..)| *known == number).unwrap().2)
    }

    /// Those that were sent away, by what their other ends see; their threads end with that.
    fn gone(&mut self) -> Vec<u64> {
        let is_gone = |end: &mut TcpStream| {
            end.set_nonblocking(true).unwrap();
            matches!(end.read(&mut [0]), Ok(0))
        };
        let gone =
            self.ends.iter_mut().filter_map(|(number, end, _)| is_gone(end).then_some(*number));
        let gone: Vec<u64> = gone.collect();
        gone.iter().for_each(|number| self.guests.remove(&self.seat(*number)));
        self.ends.retain(|(number, ..)| !gone.contains(number));
        gone
    }
}

/// With the gateway's own key alone, or also with others.
fn room(all: usize, from_one: usize, shared: bool) -> Capacity {
    let mut config = Config::default();
    if shared {
        config.keys.insert("a".to_owned(), ClientKey::new("a"));
    }
    Capacity { all, from_one, few: all < 16, shares: Shares::of(&config) }
}

const FAR: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];

#[test]
fn strangers_go_first_and_have_a_moment() {
    let mut street = Street::new();
    let numbers = FAR[..3].iter().map(|from| street.come(from, room(3, 2, false)).unwrap());
    let numbers: Vec<u64> = numbers.collect();
    assert_eq!(street.come(FAR[3], room(3, 2, false)), None, "all have just come");
    street.now += UNAUTHENTICATED_GRACE;
    street.know(numbers[0], OWNER).unwrap();
    assert!(street.come(FAR[3], room(3, 2, false)).is_some());
    assert_eq!(street.gone(), [numbers[1]]);
}

#[test]
fn then_go_the_idle_and_never_the_busy() {
    let mut street = Street::new();
    let numbers: Vec<u64> =
        FAR[..3].iter().map(|from| street.come(from, room(3, 2, false)).unwrap()).collect();
    for number in &numbers {
        street.know(*number, OWNER).unwrap();
    }
    street.now += Duration::from_secs(60);
    assert_eq!(street.come(FAR[3], room(3, 2, false)), None);
    street.seat(numbers[1]).set_idle();
    assert!(street.come(FAR[3], room(3, 2, false)).is_some());
    assert_eq!(street.gone(), [numbers[1]]);
}

#[test]
fn one_address_takes_only_its_share() {
    let mut street = Street::new();
    let room = room(100, 2, false);
    let numbers: Vec<u64> = (0..2).map(|_| street.come(FAR[0], room).unwrap()).collect();
    assert_eq!(street.come(FAR[0], room), None);
    let other = street.come(FAR[1], room).unwrap();
    street.now += UNAUTHENTICATED_GRACE;
    // Another one of the same address leaves for it, nobody else.
    assert!(street.come(FAR[0], room).is_some());
    assert_eq!(street.gone(), [numbers[0]]);
    assert_ne!(numbers[0], other);
    for _ in 0..5 {
        assert!(street.come("127.0.0.1", room).is_some(), "a proxy speaks for many");
    }
}

#[test]
fn a_shortage_makes_the_house_smaller_for_a_while() {
    let mut street = Street::new();
    let room = room(1000, 1000, false);
    let count = EVICTED_AT_ONCE + 4;
    let numbers: Vec<u64> = (0..count).map(|_| street.come(FAR[0], room).unwrap()).collect();
    for number in &numbers[..2] {
        street.know(*number, OWNER).unwrap();
    }
    street.guests.shed_load(street.now);
    assert!(street.gone().is_empty(), "once is by chance");
    street.guests.shed_load(street.now);
    assert_eq!(street.gone(), numbers[2..EVICTED_AT_ONCE + 2]);
    let next = || numbers[EVICTED_AT_ONCE + 2];
    assert_eq!(street.come(FAR[0], room), None, "the others have just come");
    street.now += UNAUTHENTICATED_GRACE;
    assert!(street.come(FAR[0], room).is_some());
    assert!(street.gone().contains(&next()));
    street.now += SHORTAGE_LASTS;
    assert!((0..20).all(|_| street.come(FAR[0], room).is_some()));
}

#[test]
fn a_place_is_free_only_once_its_thread_has_ended() {
    let mut street = Street::new();
    let room = room(8, 8, false);
    let mut came = 0;
    // Threads that hang: nobody who is sent away ever leaves.
    for _ in 0..5 {
        came += (0..20).filter(|_| street.come("127.0.0.1", room).is_some()).count();
        street.now += EVICTION_GRACE;
    }
    assert!(came <= room.all + may_leave(room.all), "{came} threads at {} places", room.all);
    let gone = street.gone();
    assert!(!gone.is_empty(), "others came for some that were sent away");
    assert!(street.come("127.0.0.1", room).is_some(), "their threads have ended");
}

#[test]
fn who_has_left_makes_room() {
    let mut street = Street::new();
    let numbers: Vec<u64> =
        FAR[..3].iter().map(|from| street.come(from, room(3, 2, false)).unwrap()).collect();
    street.guests.remove(&street.seat(numbers[1]));
    street.guests.remove(&street.seat(numbers[1]));
    assert!(street.come(FAR[3], room(3, 2, false)).is_some());
    assert_eq!(street.come(FAR[3], room(3, 2, false)), None);
}

/// Connections of this principal, until it is told that there is no room for more: how many, and that.
fn fill(street: &mut Street, principal: &str) -> (Vec<u64>, String) {
    let mut numbers = Vec::new();
    loop {
        let number = street.come("127.0.0.1", room(32, 99, true)).unwrap();
        if let Err(told) = street.know(number, principal) {
            street.guests.remove(&street.seat(number));
            street.ends.retain(|(known, ..)| *known != number);
            return (numbers, told);
        }
        numbers.push(number);
    }
}

#[test]
fn no_principal_holds_more_than_its_share_and_the_owner_always_finds_room() {
    let mut street = Street::new();
    let (first, told) = fill(&mut street, "a");
    assert_eq!(first.len(), 14);
    let share = "a holds its share of limits.max_connections (14 of 32); try again later.";
    assert_eq!(told, share);
    assert_eq!(fill(&mut street, "b").0.len(), 7);
    assert_eq!(fill(&mut street, "c").0.len(), 4);
    let (owners, told) = fill(&mut street, OWNER);
    assert_eq!(owners.len(), 30 - 25, "the rest but for two");
    assert_eq!(told, "The gateway's limits.max_connections (32) is reached; try again later.");
    assert!(street.come("127.0.0.1", room(32, 99, true)).is_some(), "who needs no key finds room");
    let held = [("a", 14), ("b", 7), ("c", 4), (OWNER, 5)];
    assert_eq!(street.guests.held(), held.map(|(name, held)| (name.to_owned(), held)));
    street.guests.remove(&street.seat(first[0]));
    assert_eq!(street.guests.held()[0].1, 13);
}

#[test]
fn at_its_share_a_principals_own_longest_idle_connection_goes_for_its_new_one() {
    let mut street = Street::new();
    let other = street.come("127.0.0.1", room(32, 99, true)).unwrap();
    street.know(other, "b").unwrap();
    street.seat(other).set_idle();
    let (first, _) = fill(&mut street, "a");
    for number in &first[3..5] {
        street.seat(*number).set_idle();
        street.now += Duration::from_secs(1);
    }
    let next = street.come("127.0.0.1", room(32, 99, true)).unwrap();
    street.know(next, "a").unwrap();
    assert_eq!(street.gone(), [first[3]]);
}

#[test]
fn one_that_is_told_that_there_is_no_room_for_it_keeps_no_other_out() {
    let mut street = Street::new();
    let (first, _) = fill(&mut street, "a");
    // They are told so, and stay for a while to read that.
    let told: Vec<u64> = (first.len()..32)
        .map(|_| {
            let number = street.come("127.0.0.1", room(32, 99, true)).unwrap();
            street.know(number, "a").unwrap_err();
            street.seat(number).evict();
            number
        })
        .collect();
    for gone in &told[..5] {
        let number = street.come("127.0.0.1", room(32, 99, true)).unwrap();
        street.know(number, "b").unwrap();
        assert_eq!(street.gone(), [*gone]);
    }
}

#[test]
fn who_holds_most_gives_its_idle_connections_and_streams_first() {
    let mut street = Street::new();
    let (a, _) = fill(&mut street, "a");
    let (b, _) = fill(&mut street, "b");
    for name in ["c", "d", "e", "f", "g"] {
        fill(&mut street, name);
    }
    assert_eq!(street.guests.held().iter().map(|(_, held)| held).sum::<u64>(), 29);
    b.iter().for_each(|number| street.seat(*number).set_idle());
    a[..2].iter().for_each(|number| street.seat(*number).set_streaming());
    street.seat(a[5]).set_idle();
    for (name, gives) in [("x", a[5]), ("y", a[0]), (OWNER, 0), ("z", a[1]), ("w", b[0])] {
        street.now += Duration::from_millis(1);
        let number = street.come("127.0.0.1", room(32, 99, true)).unwrap();
        street.know(number, name).unwrap();
        // The owner takes what is kept for it before.
        let gives = if name == OWNER { Vec::new() } else { vec![gives] };
        assert_eq!(street.gone(), gives, "{name}");
    }
}

#[test]
fn a_connection_counts_for_who_has_used_it_last() {
    let mut street = Street::new();
    let number = street.come("127.0.0.1", room(32, 99, true)).unwrap();
    for name in ["a", "b", "b", "a"] {
        street.seat(number).set_idle();
        street.seat(number).set_busy();
        street.know(number, name).unwrap();
        assert_eq!(street.guests.held(), [(name.to_owned(), 1)]);
    }
}

#[test]
fn a_key_that_was_taken_away_ends_what_is_being_answered_and_nothing_else() {
    let mut street = Street::new();
    let numbers: Vec<u64> = ["a", "a", "a", "b"]
        .map(|name| {
            let number = street.come("127.0.0.1", room(32, 99, true)).unwrap();
            street.know(number, name).unwrap();
            number
        })
        .to_vec();
    street.seat(numbers[1]).set_streaming();
    street.seat(numbers[2]).set_idle();
    street.guests.revoke(&|key| key.name != "a");
    let revoked = |street: &Street| numbers.iter().map(|n| street.seat(*n).is_revoked()).collect();
    let all: Vec<bool> = revoked(&street);
    assert_eq!(all, [true, true, false, false]);
    // The next request is judged by itself.
    for number in &numbers[..2] {
        street.seat(*number).set_idle();
        street.seat(*number).set_busy();
    }
    let all: Vec<bool> = revoked(&street);
    assert_eq!(all, [false; 4]);
}
