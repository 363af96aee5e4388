//! Places to run in: the dispatch behind a lock, with a way to wake those who wait.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dispatch::{Admission, Bounds, Dispatch, Full, Ticket};
use crate::sys::fd::Event;
use crate::sys::poll::{Interest, poll};

/// All places of the gateway.
#[derive(Debug)]
pub struct Places {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dispatch: Dispatch,
    /// In the order of arrival, at most `Bounds::queue` of them.
    waiting: Vec<(Ticket, Arc<Event>)>,
    next: Ticket,
}

/// A place that is taken; dropping it gives it to the next.
#[derive(Debug)]
pub struct Place<'a> {
    places: &'a Places,
    ticket: Ticket,
}

/// Why there is no place.
#[derive(Debug)]
pub enum NoPlace {
    /// The queue is full.
    Full(Full),
    /// The client went away while it waited.
    Gone,
    /// The gateway is stopping and cuts what waits.
    Cut,
    /// It waited for as long as a turn may take.
    TimedOut,
    /// No descriptor, or another error of the system.
    Failed(io::Error),
}

impl Places {
    pub fn new(bounds: Bounds) -> Places {
        let state = State { dispatch: Dispatch::new(bounds), waiting: Vec::new(), next: 0 };
        Places { state: Mutex::new(state) }
    }

    /// Changes how much may run and wait.
    pub fn rebound(&self, bounds: Bounds) {
        let mut state = self.lock();
        let started = state.dispatch.rebound(bounds);
        state.wake(&started);
    }

    /// Takes a place, waiting for it in order. `client`: a socket whose hang-up ends the wait;
    /// `cut`: readable when nobody may wait any more.
    pub fn take(
        &self,
        session: Option<&str>,
        client: Option<BorrowedFd<'_>>,
        cut: BorrowedFd<'_>,
        patience: Duration,
    ) -> Result<Place<'_>, NoPlace> {
        let turn = {
            let mut state = self.lock();
            let ticket = state.next;
            state.next += 1;
            let place = Place { places: self, ticket };
            match state.dispatch.submit(ticket, session) {
                Admission::Runs => return Ok(place),
                Admission::Refused(full) => {
                    drop(state);
                    return Err(NoPlace::Full(full));
                }
                Admission::Waits { .. } => match Event::new() {
                    Ok(event) => {
                        let event = Arc::new(event);
                        state.waiting.push((ticket, Arc::clone(&event)));
                        (place, event)
                    }
                    Err(e) => {
                        drop(state);
                        return Err(NoPlace::Failed(e));
                    }
                },
            }
        };
        let (place, event) = turn;
        // An early return drops `place`, and with it the ticket leaves the queue.
        wait(&event, client, cut, Instant::now() + patience)?;
        Ok(place)
    }

    /// How many turns run, how many wait, and in how many sessions.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        let (running, waiting) = state.dispatch.counts();
        (running, waiting, state.dispatch.sessions())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait(
    event: &Event,
    client: Option<BorrowedFd<'_>>,
    cut: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<(), NoPlace> {
    loop {
        let client = client.map_or_else(Interest::none, Interest::hangup);
        let mut interests = [Interest::read(event.as_fd()), Interest::read(cut), client];
        let left = deadline.saturating_duration_since(Instant::now());
        poll(&mut interests, Some(left)).map_err(NoPlace::Failed)?;
        let [turn, cut, client] = interests.map(|interest| interest.ready());
        if turn {
            return Ok(());
        } else if cut {
            return Err(NoPlace::Cut);
        } else if client {
            return Err(NoPlace::Gone);
        } else if left == Duration::ZERO {
            return Err(NoPlace::TimedOut);
        }
    }
}

impl State {
    fn wake(&mut self, started: &[Ticket]) {
        for ticket in started {
            if let Some(at) = self.waiting.iter().position(|(waiting, _)| waiting == ticket) {
                self.waiting.remove(at).1.raise();
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.waiting.retain(|(waiting, _)| *waiting != self.ticket);
        let started = state.dispatch.leave(self.ticket);
        state.wake(&started);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    const BOUNDS: Bounds = Bounds { turns: 1, queue: 1, queue_per_session: 1 };
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn those_who_wait_are_woken_and_those_who_leave_make_room() {
        let (places, cut) = (Places::new(BOUNDS), Event::new().unwrap());
        let first = places.take(None, None, cut.as_fd(), LONG).unwrap();
        let (client, server) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| places.take(None, Some(server.as_fd()), cut.as_fd(), LONG));
            while places.counts().1 == 0 {
                thread::yield_now();
            }
            assert!(matches!(
                places.take(None, None, cut.as_fd(), LONG),
                Err(NoPlace::Full(Full::Gateway))
            ));
            drop(first);
            drop(waiter.join().unwrap().unwrap());
        });
        assert_eq!(places.counts(), (0, 0, 0));

        let _first = places.take(None, None, cut.as_fd(), LONG).unwrap();
        drop(client);
        let gone = places.take(None, Some(server.as_fd()), cut.as_fd(), LONG);
        assert!(matches!(gone, Err(NoPlace::Gone)));
        let late = places.take(None, None, cut.as_fd(), Duration::ZERO);
        assert!(matches!(late, Err(NoPlace::TimedOut)));
        cut.raise();
        assert!(matches!(places.take(None, None, cut.as_fd(), LONG), Err(NoPlace::Cut)));
        assert_eq!(places.counts(), (1, 0, 0));
    }
}
