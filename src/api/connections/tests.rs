//! The table of connections: which are evicted, and which count for whom.

use super::*;
use crate::config::Config;
use std::io::Read;
use std::net::TcpListener;

/// A table, and the other ends of its connections by their numbers.
struct Clients {
    table: ConnectionTable,
    listener: TcpListener,
    ends: Vec<(u64, TcpStream, Arc<ConnectionActivity>)>,
    keys: Vec<Arc<ClientKey>>,
    now: Instant,
}

impl Clients {
    fn new() -> Clients {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (table, ends, keys, now) =
            (ConnectionTable::default(), Vec::new(), Vec::new(), Instant::now());
        Clients { table, listener, ends, keys, now }
    }

    /// Connects from this address; its number, if there was room.
    fn connect(&mut self, from: &str, room: Capacity) -> Option<u64> {
        let end = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let stream = Arc::new(self.listener.accept().unwrap().0);
        let source = from.parse().unwrap();
        let activity = self.table.admit(&stream, source, room, self.now)?;
        let number = activity.number;
        self.ends.push((number, end, activity));
        Some(number)
    }

    /// Has a connection show the key of this principal.
    fn authenticate(&mut self, number: u64, principal: &str) -> Result<(), String> {
        let known = self.keys.iter().find(|key| key.name == principal).cloned();
        let key = known.unwrap_or_else(|| Arc::new(ClientKey::new(principal)));
        self.keys.push(Arc::clone(&key));
        let told = self.table.authenticate(&self.activity(number), &key);
        told.map_err(|problem| problem.0.message)
    }

    fn activity(&self, number: u64) -> Arc<ConnectionActivity> {
        Arc::clone(&self.ends.iter().find(|(known, ..)| *known == number).unwrap().2)
    }

    /// Those that were evicted, by what their other ends see; their threads end with that.
    fn evicted(&mut self) -> Vec<u64> {
        let is_gone = |end: &mut TcpStream| {
            end.set_nonblocking(true).unwrap();
            matches!(end.read(&mut [0]), Ok(0))
        };
        let gone =
            self.ends.iter_mut().filter_map(|(number, end, _)| is_gone(end).then_some(*number));
        let gone: Vec<u64> = gone.collect();
        gone.iter().for_each(|number| self.table.remove(&self.activity(*number)));
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
fn unauthenticated_connections_go_first_and_have_a_moment() {
    let mut clients = Clients::new();
    let numbers = FAR[..3].iter().map(|from| clients.connect(from, room(3, 2, false)).unwrap());
    let numbers: Vec<u64> = numbers.collect();
    assert_eq!(clients.connect(FAR[3], room(3, 2, false)), None, "all have just come");
    clients.now += AUTHENTICATION_GRACE;
    clients.authenticate(numbers[0], OWNER).unwrap();
    assert!(clients.connect(FAR[3], room(3, 2, false)).is_some());
    assert_eq!(clients.evicted(), [numbers[1]]);
}

#[test]
fn then_go_idle_ones_and_never_busy_ones() {
    let mut clients = Clients::new();
    let numbers: Vec<u64> =
        FAR[..3].iter().map(|from| clients.connect(from, room(3, 2, false)).unwrap()).collect();
    for number in &numbers {
        clients.authenticate(*number, OWNER).unwrap();
    }
    clients.now += Duration::from_secs(60);
    assert_eq!(clients.connect(FAR[3], room(3, 2, false)), None);
    clients.activity(numbers[1]).enter(Stage::Idle(Instant::now()));
    assert!(clients.connect(FAR[3], room(3, 2, false)).is_some());
    assert_eq!(clients.evicted(), [numbers[1]]);
}

#[test]
fn one_address_takes_only_its_share() {
    let mut clients = Clients::new();
    let room = room(100, 2, false);
    let numbers: Vec<u64> = (0..2).map(|_| clients.connect(FAR[0], room).unwrap()).collect();
    assert_eq!(clients.connect(FAR[0], room), None);
    let other = clients.connect(FAR[1], room).unwrap();
    clients.now += AUTHENTICATION_GRACE;
    // Another one of the same address goes for it, and no other.
    assert!(clients.connect(FAR[0], room).is_some());
    assert_eq!(clients.evicted(), [numbers[0]]);
    assert_ne!(numbers[0], other);
    for _ in 0..5 {
        assert!(clients.connect("127.0.0.1", room).is_some(), "a proxy speaks for many");
    }
}

#[test]
fn a_shortage_lowers_the_capacity_for_a_while() {
    let mut clients = Clients::new();
    let room = room(1000, 1000, false);
    let count = EVICTED_AT_ONCE + 4;
    let numbers: Vec<u64> = (0..count).map(|_| clients.connect(FAR[0], room).unwrap()).collect();
    for number in &numbers[..2] {
        clients.authenticate(*number, OWNER).unwrap();
    }
    clients.table.shed_load(clients.now);
    assert!(clients.evicted().is_empty(), "once is by chance");
    clients.table.shed_load(clients.now);
    assert_eq!(clients.evicted(), numbers[2..EVICTED_AT_ONCE + 2]);
    let next = || numbers[EVICTED_AT_ONCE + 2];
    assert_eq!(clients.connect(FAR[0], room), None, "the others have just come");
    clients.now += AUTHENTICATION_GRACE;
    assert!(clients.connect(FAR[0], room).is_some());
    assert!(clients.evicted().contains(&next()));
    clients.now += SHORTAGE_LASTS;
    assert!((0..20).all(|_| clients.connect(FAR[0], room).is_some()));
}

#[test]
fn an_evicted_connection_counts_until_its_thread_has_ended() {
    let mut clients = Clients::new();
    let room = room(8, 8, false);
    let mut came = 0;
    // Threads that hang: no connection that is evicted ever ends.
    for _ in 0..5 {
        came += (0..20).filter(|_| clients.connect("127.0.0.1", room).is_some()).count();
        clients.now += EVICTION_GRACE;
    }
    assert!(came <= room.all + may_end(room.all), "{came} threads at {} places", room.all);
    let gone = clients.evicted();
    assert!(!gone.is_empty(), "others came for some that were evicted");
    assert!(clients.connect("127.0.0.1", room).is_some(), "their threads have ended");
}

#[test]
fn a_connection_that_has_ended_makes_room() {
    let mut clients = Clients::new();
    let numbers: Vec<u64> =
        FAR[..3].iter().map(|from| clients.connect(from, room(3, 2, false)).unwrap()).collect();
    clients.table.remove(&clients.activity(numbers[1]));
    clients.table.remove(&clients.activity(numbers[1]));
    assert!(clients.connect(FAR[3], room(3, 2, false)).is_some());
    assert_eq!(clients.connect(FAR[3], room(3, 2, false)), None);
}

/// Connections of this principal, until it is told that there is no room for more: how many, and that.
fn fill(clients: &mut Clients, principal: &str) -> (Vec<u64>, String) {
    let mut numbers = Vec::new();
    loop {
        let number = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
        if let Err(told) = clients.authenticate(number, principal) {
            clients.table.remove(&clients.activity(number));
            clients.ends.retain(|(known, ..)| *known != number);
            return (numbers, told);
        }
        numbers.push(number);
    }
}

#[test]
fn no_principal_holds_more_than_its_share_and_the_owner_always_finds_room() {
    let mut clients = Clients::new();
    let (first, told) = fill(&mut clients, "a");
    assert_eq!(first.len(), 14);
    let share = "a holds its share of limits.max_connections (14 of 32); try again later.";
    assert_eq!(told, share);
    assert_eq!(fill(&mut clients, "b").0.len(), 7);
    assert_eq!(fill(&mut clients, "c").0.len(), 4);
    let (owners, told) = fill(&mut clients, OWNER);
    assert_eq!(owners.len(), 30 - 25, "the rest but for two");
    assert_eq!(told, "The gateway's limits.max_connections (32) is reached; try again later.");
    assert!(
        clients.connect("127.0.0.1", room(32, 99, true)).is_some(),
        "who needs no key finds room"
    );
    let held = [("a", 14), ("b", 7), ("c", 4), (OWNER, 5)];
    assert_eq!(clients.table.held(), held.map(|(name, held)| (name.to_owned(), held)));
    clients.table.remove(&clients.activity(first[0]));
    assert_eq!(clients.table.held()[0].1, 13);
}

#[test]
fn at_its_share_a_principals_own_longest_idle_connection_goes_for_its_new_one() {
    let mut clients = Clients::new();
    let other = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
    clients.authenticate(other, "b").unwrap();
    clients.activity(other).enter(Stage::Idle(Instant::now()));
    let (first, _) = fill(&mut clients, "a");
    for number in &first[3..5] {
        clients.activity(*number).enter(Stage::Idle(Instant::now()));
        clients.now += Duration::from_secs(1);
    }
    let next = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
    clients.authenticate(next, "a").unwrap();
    assert_eq!(clients.evicted(), [first[3]]);
}

#[test]
fn a_connection_that_is_told_of_a_full_share_keeps_no_other_out() {
    let mut clients = Clients::new();
    let (first, _) = fill(&mut clients, "a");
    // They are told so, and stay for a while to read that.
    let told: Vec<u64> = (first.len()..32)
        .map(|_| {
            let number = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
            clients.authenticate(number, "a").unwrap_err();
            clients.activity(number).enter(Stage::Closing);
            number
        })
        .collect();
    for gone in &told[..5] {
        let number = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
        clients.authenticate(number, "b").unwrap();
        assert_eq!(clients.evicted(), [*gone]);
    }
}

#[test]
fn the_principal_that_holds_most_loses_its_idle_connections_and_streams_first() {
    let mut clients = Clients::new();
    let (a, _) = fill(&mut clients, "a");
    let (b, _) = fill(&mut clients, "b");
    for name in ["c", "d", "e", "f", "g"] {
        fill(&mut clients, name);
    }
    assert_eq!(clients.table.held().iter().map(|(_, held)| held).sum::<u64>(), 29);
    b.iter().for_each(|number| clients.activity(*number).enter(Stage::Idle(Instant::now())));
    a[..2]
        .iter()
        .for_each(|number| clients.activity(*number).enter(Stage::Streaming(Instant::now())));
    clients.activity(a[5]).enter(Stage::Idle(Instant::now()));
    for (name, gives) in [("x", a[5]), ("y", a[0]), (OWNER, 0), ("z", a[1]), ("w", b[0])] {
        clients.now += Duration::from_millis(1);
        let number = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
        clients.authenticate(number, name).unwrap();
        // The owner takes what is kept for it before.
        let gives = if name == OWNER { Vec::new() } else { vec![gives] };
        assert_eq!(clients.evicted(), gives, "{name}");
    }
}

#[test]
fn a_connection_counts_for_the_principal_that_used_it_last() {
    let mut clients = Clients::new();
    let number = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
    for name in ["a", "b", "b", "a"] {
        clients.activity(number).enter(Stage::Idle(Instant::now()));
        clients.activity(number).enter(Stage::Received);
        clients.authenticate(number, name).unwrap();
        assert_eq!(clients.table.held(), [(name.to_owned(), 1)]);
    }
}

#[test]
fn a_revoked_key_ends_what_is_being_answered_and_nothing_else() {
    let mut clients = Clients::new();
    let numbers: Vec<u64> = ["a", "a", "a", "b"]
        .map(|name| {
            let number = clients.connect("127.0.0.1", room(32, 99, true)).unwrap();
            clients.authenticate(number, name).unwrap();
            number
        })
        .to_vec();
    clients.activity(numbers[1]).enter(Stage::Streaming(Instant::now()));
    clients.activity(numbers[2]).enter(Stage::Idle(Instant::now()));
    clients.table.revoke(&|key| key.name != "a");
    let revoked =
        |clients: &Clients| numbers.iter().map(|n| clients.activity(*n).is_revoked()).collect();
    let all: Vec<bool> = revoked(&clients);
    assert_eq!(all, [true, true, false, false]);
    // The next request is judged by itself.
    for number in &numbers[..2] {
        clients.activity(*number).enter(Stage::Idle(Instant::now()));
        clients.activity(*number).enter(Stage::Received);
    }
    let all: Vec<bool> = revoked(&clients);
    assert_eq!(all, [false; 4]);
}
