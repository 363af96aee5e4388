//! Who is in the house: the connections on TCP, and which of them has to leave when there is no room.
//!
//! Whoever has shown no key goes first, the one that came first before the others, but each has a
//! moment to show one. Then go those that are known and ask for nothing, the longest idle first. A
//! request that is being answered is never cut off for another.

use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::http::{Seat, Stage};
use crate::limits::{
    LEAVING_MOMENT, MAX_STRANGERS, SHORTAGE_LASTS, SHORTAGE_ROOM, STRANGERS_MOMENT,
};
use crate::threads::lock;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub all: usize,
    /// From one address; loopback ones are not counted, since a proxy there speaks for many.
    pub from_one: usize,
    /// Descriptors are few: others may wait for a while, rather than be refused.
    pub few: bool,
}

#[derive(Debug, Default)]
pub struct Guests(Mutex<House>);

#[derive(Debug, Default)]
struct House {
    /// In the order in which they came.
    guests: Vec<Guest>,
    last: u64,
    /// How many the system had room for (`None`: once it had none for one), and until when that counts.
    shortage: Option<(Option<usize>, Instant)>,
}

#[derive(Debug)]
struct Guest {
    number: u64,
    stream: Arc<TcpStream>,
    seat: Arc<Seat>,
    place: IpAddr,
    /// When it was sent away. It stays in the list for as long as its thread is there.
    left: Option<Instant>,
}

impl Guests {
    /// Lets a connection in, if there is room or somebody can leave for it; `place` stands for its
    /// address. Returns what to say at [`Guests::leave`].
    pub fn enter(
        &self,
        stream: &Arc<TcpStream>,
        place: IpAddr,
        room: Room,
        now: Instant,
    ) -> Option<(u64, Arc<Seat>)> {
        let mut house = lock(&self.0);
        house.make_room(place, room, now).then(|| {
            house.last += 1;
            let (number, seat) = (house.last, Arc::new(Seat::new(now)));
            let (stream, shared) = (Arc::clone(stream), Arc::clone(&seat));
            house.guests.push(Guest { number, stream, seat: shared, place, left: None });
            (number, seat)
        })
    }

    pub fn leave(&self, number: u64) {
        let mut house = lock(&self.0);
        if let Ok(at) = house.guests.binary_search_by_key(&number, |guest| guest.number) {
            house.guests.remove(at);
        }
    }

    /// The system is short of descriptors or threads. Once may be by chance; where it is so again, some
    /// leave, and no more than are left are let in for a while, so that the control socket and turns have
    /// what they need.
    pub fn tighten(&self, now: Instant) {
        let mut house = lock(&self.0);
        let again = house.shortage.is_some_and(|(_, until)| until > now);
        for _ in 0..if again { SHORTAGE_ROOM } else { 0 } {
            if !house.send_away(None, Duration::ZERO, now) {
                break;
            }
        }
        let most = again.then_some(house.present().count());
        house.shortage = Some((most, now + SHORTAGE_LASTS));
    }
}

impl House {
    fn make_room(&mut self, place: IpAddr, room: Room, now: Instant) -> bool {
        self.shortage = self.shortage.filter(|(_, until)| *until > now);
        let most = self.shortage.and_then(|(most, _)| most).unwrap_or(room.all);
        let all = most.min(room.all).max(1);
        let from_one = self.present().filter(|guest| guest.place == place).count();
        if !place.is_loopback()
            && from_one >= room.from_one
            && !self.send_away(Some(place), STRANGERS_MOMENT, now)
        {
            return false;
        }
        let is_stranger = |guest: &&Guest| guest.seat.stage(now) == Stage::Stranger;
        let strangers = self.present().filter(is_stranger).count();
        // None may go while all have just come: then the whole house is theirs, for that moment.
        for _ in 0..(strangers + 1).saturating_sub(MAX_STRANGERS).min(SHORTAGE_ROOM) {
            if !self.send_stranger_away(None, STRANGERS_MOMENT, now) {
                break;
            }
        }
        // The house may have become smaller: then more than one leaves for each that comes.
        for _ in 0..SHORTAGE_ROOM {
            let (taken, leaving) = self.taken(all, now);
            if taken < all {
                return true;
            }
            // Somebody else would not make room any faster than those who are leaving.
            if leaving >= may_leave(all) || !self.send_away(None, STRANGERS_MOMENT, now) {
                return false;
            }
        }
        self.taken(all, now).0 < all
    }

    /// How many places are taken, and how many are just being left. Whoever is sent away is gone within
    /// moments, and another may come at once; but a thread that hangs keeps its place.
    fn taken(&self, all: usize, now: Instant) -> (usize, usize) {
        let leaves = |guest: &&Guest| guest.left.is_some_and(|at| now - at < LEAVING_MOMENT);
        let leaving = self.guests.iter().filter(leaves).count();
        (self.guests.len() - leaving.min(may_leave(all)), leaving)
    }

    fn present(&self) -> impl Iterator<Item = &Guest> {
        self.guests.iter().filter(|guest| guest.left.is_none())
    }

    /// Asks somebody to leave. Says whether anybody could be asked.
    fn send_away(&mut self, place: Option<IpAddr>, moment: Duration, now: Instant) -> bool {
        self.send_stranger_away(place, moment, now) || {
            let idle = self.guests.iter().enumerate().filter_map(|(at, guest)| {
                match guest.seat.stage(now) {
                    _ if guest.left.is_some() => None,
                    Stage::Idle(time) if place.is_none_or(|p| p == guest.place) => Some((time, at)),
                    Stage::Idle(_) | Stage::Busy | Stage::Stranger => None,
                }
            });
            let longest = idle.max().map(|(_, at)| at);
            longest.is_some_and(|at| self.shut_out(at, now))
        }
    }

    fn send_stranger_away(
        &mut self,
        place: Option<IpAddr>,
        moment: Duration,
        now: Instant,
    ) -> bool {
        let goes = |guest: &Guest| {
            guest.left.is_none()
                && guest.seat.stage(now) == Stage::Stranger
                && guest.seat.age(now) >= moment
                && place.is_none_or(|place| place == guest.place)
        };
        let at = self.guests.iter().position(goes);
        at.is_some_and(|at| self.shut_out(at, now))
    }

    fn shut_out(&mut self, at: usize, now: Instant) -> bool {
        // Its thread finds the connection at its end.
        let guest = &mut self.guests[at];
        guest.left = Some(now);
        let _ = guest.stream.shutdown(Shutdown::Both);
        true
    }
}

/// How many of those who were sent away need not have gone before others come.
fn may_leave(all: usize) -> usize {
    (all / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    /// A house, and the other ends of its connections by their numbers.
    struct Street {
        guests: Guests,
        listener: TcpListener,
        ends: Vec<(u64, TcpStream, Arc<Seat>)>,
        now: Instant,
    }

    impl Street {
        fn new() -> Street {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let (guests, ends, now) = (Guests::default(), Vec::new(), Instant::now());
            Street { guests, listener, ends, now }
        }

        /// Lets one in from this address; its number, if there was room.
        fn come(&mut self, from: &str, room: Room) -> Option<u64> {
            let end = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let stream = Arc::new(self.listener.accept().unwrap().0);
            let place = from.parse().unwrap();
            let (number, seat) = self.guests.enter(&stream, place, room, self.now)?;
            self.ends.push((number, end, seat));
            Some(number)
        }

        fn seat(&self, number: u64) -> Arc<Seat> {
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
            gone.iter().for_each(|number| self.guests.leave(*number));
            gone
        }
    }

    const ROOM: Room = Room { all: 3, from_one: 2, few: false };
    const FAR: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];

    #[test]
    fn strangers_go_first_and_have_a_moment() {
        let mut street = Street::new();
        let numbers = FAR[..3].iter().map(|from| street.come(from, ROOM).unwrap());
        let numbers: Vec<u64> = numbers.collect();
        assert_eq!(street.come(FAR[3], ROOM), None, "all have just come");
        street.now += STRANGERS_MOMENT;
        street.seat(numbers[0]).know();
        assert!(street.come(FAR[3], ROOM).is_some());
        assert_eq!(street.gone(), [numbers[1]]);
    }

    #[test]
    fn then_go_the_idle_and_never_the_busy() {
        let mut street = Street::new();
        let numbers: Vec<u64> =
            FAR[..3].iter().map(|from| street.come(from, ROOM).unwrap()).collect();
        for number in &numbers {
            street.seat(*number).know();
        }
        street.now += Duration::from_secs(60);
        assert_eq!(street.come(FAR[3], ROOM), None);
        street.seat(numbers[1]).rest();
        assert!(street.come(FAR[3], ROOM).is_some());
        assert_eq!(street.gone(), [numbers[1]]);
    }

    #[test]
    fn one_address_takes_only_its_share() {
        let mut street = Street::new();
        let room = Room { all: 100, from_one: 2, few: false };
        let numbers: Vec<u64> = (0..2).map(|_| street.come(FAR[0], room).unwrap()).collect();
        assert_eq!(street.come(FAR[0], room), None);
        let other = street.come(FAR[1], room).unwrap();
        street.now += STRANGERS_MOMENT;
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
        let room = Room { all: 1000, from_one: 1000, few: false };
        let count = SHORTAGE_ROOM + 4;
        let numbers: Vec<u64> = (0..count).map(|_| street.come(FAR[0], room).unwrap()).collect();
        for number in &numbers[..2] {
            street.seat(*number).know();
        }
        street.guests.tighten(street.now);
        assert!(street.gone().is_empty(), "once is by chance");
        street.guests.tighten(street.now);
        assert_eq!(street.gone(), numbers[2..SHORTAGE_ROOM + 2]);
        let next = || numbers[SHORTAGE_ROOM + 2];
        assert_eq!(street.come(FAR[0], room), None, "the others have just come");
        street.now += STRANGERS_MOMENT;
        assert!(street.come(FAR[0], room).is_some());
        assert!(street.gone().contains(&next()));
        street.now += SHORTAGE_LASTS;
        assert!((0..20).all(|_| street.come(FAR[0], room).is_some()));
    }

    #[test]
    fn a_place_is_free_only_once_its_thread_has_ended() {
        let mut street = Street::new();
        let room = Room { all: 8, from_one: 8, few: false };
        let mut came = 0;
        // Threads that hang: nobody who is sent away ever leaves.
        for _ in 0..5 {
            came += (0..20).filter(|_| street.come("127.0.0.1", room).is_some()).count();
            street.now += LEAVING_MOMENT;
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
            FAR[..3].iter().map(|from| street.come(from, ROOM).unwrap()).collect();
        street.guests.leave(numbers[1]);
        street.guests.leave(numbers[1]);
        assert!(street.come(FAR[3], ROOM).is_some());
        assert_eq!(street.come(FAR[3], ROOM), None);
    }
}
