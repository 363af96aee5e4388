//! How the journal and its disk are. Told without the journal's lock, which a call holds that the
//! disk does not answer.
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::file::FileJournal;
use super::writer::Inner;
use super::{Condition, Loss, Purpose, room};
use crate::limits::DISK_SLOW;

/// A lock of its own, held for a few instructions and never over a call to the disk.
#[derive(Debug)]
pub struct Health(Mutex<Known>);

#[derive(Debug)]
struct Known {
    condition: Condition,
    /// As in [`Inner`], when it was last changed.
    end: u64,
    last: u64,
    cap: u64,
    wanted: u64,
    loss: Option<Loss>,
    /// The calls to the disk that have not returned: what each is and when it began.
    calls: Vec<(u64, &'static str, Instant)>,
    last_call: u64,
}

/// A call to the disk, until it is dropped.
pub struct Call<'a>(&'a Health, u64);

impl Health {
    pub fn new() -> Health {
        Health(Mutex::new(Known {
            condition: Condition::Good,
            end: 0,
            last: 0,
            cap: u64::MAX,
            wanted: 1,
            loss: None,
            calls: Vec::new(),
            last_call: 0,
        }))
    }

    /// A call to the disk begins.
    pub fn call(&self, what: &'static str) -> Call<'_> {
        let mut known = self.lock();
        known.last_call += 1;
        let number = known.last_call;
        known.calls.push((number, what, Instant::now()));
        Call(self, number)
    }

    /// See [`super::Journal::stalled`].
    pub fn stalled(&self, longer_than: Duration) -> Option<String> {
        let known = self.lock();
        let (_, what, since) = known.calls.first()?;
        let time = since.elapsed();
        (time >= longer_than)
            .then(|| format!("the disk has not answered for {} s ({what})", time.as_secs()))
    }

    pub fn condition(&self) -> Condition {
        if let broken @ Condition::Broken(_) = &self.lock().condition {
            return broken.clone();
        }
        if let Some(loss) = self.loss() {
            return Condition::Degraded(loss.why);
        }
        if let Some(why) = self.stalled(DISK_SLOW) {
            return Condition::Degraded(why);
        }
        let known = self.lock();
        match room(known.end, known.wanted, known.cap, Purpose::NewWork) {
            Err(full) if known.condition == Condition::Good => {
                Condition::Degraded(full.to_string())
            }
            _ => known.condition.clone(),
        }
    }

    pub fn last(&self) -> u64 {
        self.lock().last
    }

    pub fn size(&self) -> u64 {
        self.lock().end
    }

    pub fn loss(&self) -> Option<Loss> {
        self.lock().loss.clone()
    }

    pub fn set_loss(&self, loss: Loss) {
        self.lock().loss = Some(loss);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.lock().calls.retain(|(number, ..)| *number != self.1);
    }
}

impl FileJournal {
    /// Makes a change known. The journal's lock is held.
    pub(super) fn publish(&self, inner: &Inner) {
        let mut known = self.health.lock();
        known.condition.clone_from(&inner.condition);
        (known.end, known.last) = (inner.end, inner.last);
        (known.cap, known.wanted) = (inner.cap, inner.wanted);
    }
}
