//! Starting threads: one way, so that its machinery is in the binary once; and what they share.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::limits::{THREAD_RETRY_DELAY, THREAD_STACK};
use crate::sys::fd::EventFd;

/// Waits for a mutex, and takes it also where a thread has died with it: nothing here leaves half a change.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For work that takes a processor for long: one at a time of the same principal's, however many of its
/// requests want it, so that others find a processor.
pub fn in_turn(whose: &[u8]) -> MutexGuard<'static, ()> {
    static LINES: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];
    let sum =
        whose.iter().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    lock(&LINES[sum % LINES.len()])
}

/// Lets some time pass, for a thread that has nothing to wait for but that.
#[allow(
    clippy::disallowed_methods,
    reason = "tests wait for events; this is the program's one sleep"
)]
pub fn pause(time: Duration) {
    thread::sleep(time);
}

/// What a thread does.
pub type Work = Box<dyn FnOnce() + Send>;

/// Starts a thread with a stack of this many bytes.
pub fn spawn(name: &str, stack: usize, work: Work) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).stack_size(stack).spawn(work)
}

/// The same for work that has to be done: where there is no thread it tries again for so long.
pub fn spawn_with_retry(name: &str, work: Work, timeout: Duration) -> io::Result<JoinHandle<()>> {
    // One that cannot be started drops what it was given.
    let (work, deadline) = (Arc::new(Mutex::new(Some(work))), Instant::now() + timeout);
    loop {
        let work = Arc::clone(&work);
        let take = move || lock(&work).take();
        let run = move || take().into_iter().for_each(|work| work());
        match spawn(name, THREAD_STACK, Box::new(run)) {
            Err(_) if Instant::now() < deadline => pause(THREAD_RETRY_DELAY),
            spawned => return spawned,
        }
    }
}

/// How long a thread that has done its work waits for more: to start one takes as long as a short turn.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Threads that wait for work at once, each with some kB.
const MAX_KEPT: usize = 8;

type Kept = (&'static str, Arc<Slot<Work>>);

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Has a thread of this name do some work: one that waits for more, or a new one. Those of a name have the same
/// stack.
pub fn hand_over(name: &'static str, stack: usize, work: Work) -> io::Result<()> {
    let mut kept = lock(&KEPT);
    if let Some(at) = kept.iter().rposition(|(its, _)| *its == name) {
        // Under the lock: one that does not find itself there any more has its work.
        kept.remove(at).1.send(work);
        return Ok(());
    }
    drop(kept);
    let run = move || {
        let (slot, mut next) = (Arc::default(), Some(work));
        while let Some(work) = next {
            work();
            next = more_work(name, &slot);
        }
    };
    spawn(name, stack, Box::new(run)).map(drop)
}

fn more_work(name: &'static str, slot: &Arc<Slot<Work>>) -> Option<Work> {
    let mut kept = lock(&KEPT);
    if kept.len() >= MAX_KEPT {
        return None;
    }
    kept.push((name, Arc::clone(slot)));
    drop(kept);
    slot.wait(KEPT_FOR).or_else(|| {
        let mut kept = lock(&KEPT);
        kept.retain(|(_, its)| !Arc::ptr_eq(its, slot));
        slot.wait(Duration::ZERO)
    })
}

/// A value that threads give and another waits for. std's channels are queues of three kinds for each
/// type: 24 kB of code.
#[derive(Debug)]
pub struct Slot<T>(Mutex<Option<T>>, Condvar);

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot(Mutex::default(), Condvar::new())
    }
}

impl<T> Slot<T> {
    pub fn send(&self, value: T) {
        self.update(|slot| *slot = Some(value));
    }

    pub fn update(&self, change: impl FnOnce(&mut Option<T>)) {
        change(&mut lock(&self.0));
        self.1.notify_one();
    }

    /// `None`: it was not sent in time.
    pub fn wait(&self, timeout: Duration) -> Option<T> {
        let empty = |slot: &mut Option<T>| slot.is_none();
        let waited = self.1.wait_timeout_while(lock(&self.0), timeout, empty);
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// What threads hand to one that waits in a poll.
pub struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    /// Ready while there is something in it.
    pub wake: Arc<EventFd>,
}

impl<T> Mailbox<T> {
    pub fn new() -> io::Result<Mailbox<T>> {
        Ok(Mailbox { items: Mutex::default(), wake: Arc::new(EventFd::new()?) })
    }

    pub fn put(&self, item: T) {
        lock(&self.items).push(item);
        self.wake.notify();
    }

    pub fn empty(&self) -> Vec<T> {
        self.wake.clear();
        std::mem::take(&mut *lock(&self.items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_of_one_principal_is_done_one_at_a_time_and_holds_no_other_up() {
        let (running, most) = (Mutex::new(0), Mutex::new(0));
        let work = || {
            let _turn = in_turn(b"a");
            *lock(&running) += 1;
            let mut most = lock(&most);
            *most = (*most).max(*lock(&running));
            drop(in_turn(b"b"));
            *lock(&running) -= 1;
        };
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(work))));
        assert_eq!((*lock(&running), *lock(&most)), (0, 1));
    }

    #[test]
    fn a_value_is_waited_for_until_it_is_sent_or_the_time_is_over() {
        let (value, early) = (Arc::<Slot<_>>::default(), Arc::<Slot<_>>::default());
        let theirs = value.clone();
        let sender = thread::spawn(move || theirs.send(7));
        assert_eq!(value.wait(Duration::from_secs(20)), Some(7));
        sender.join().unwrap();
        early.send(1);
        assert_eq!(early.wait(Duration::ZERO), Some(1));
        assert_eq!(early.wait(Duration::from_millis(1)), None);
    }

    #[test]
    fn a_thread_that_has_done_its_work_does_the_next() {
        let (first, second) = (Arc::<Slot<_>>::default(), Arc::<Slot<_>>::default());
        let work = |slot: &Arc<Slot<_>>| -> Work {
            let slot = Arc::clone(slot);
            Box::new(move || slot.send(thread::current().id()))
        };
        hand_over("kept", 64 << 10, work(&first)).unwrap();
        let mut ids = vec![first.wait(Duration::from_secs(20)).unwrap()];
        while lock(&KEPT).iter().all(|(name, _)| *name != "kept") {
            thread::yield_now();
        }
        hand_over("kept", 64 << 10, work(&second)).unwrap();
        ids.push(second.wait(Duration::from_secs(20)).unwrap());
        assert_eq!(ids[0], ids[1]);
        // It ends some time later.
        while lock(&KEPT).iter().any(|(name, _)| *name == "kept") {
            thread::yield_now();
        }
    }

    #[test]
    fn a_mailbox_hands_over_all_that_came_and_is_empty_then() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.put(1);
        mailbox.put(2);
        assert_eq!((mailbox.empty(), mailbox.empty()), (vec![1, 2], vec![]));
    }
}
