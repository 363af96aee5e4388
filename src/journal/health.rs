//! How the journal and its disk are. Told without the journal's lock, which a call holds that the
//! disk does not answer.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Condition, Loss};
use crate::limits::DISK_SLOW;
use crate::threads::lock;

/// A lock of its own, held for a few instructions and never over a call to the disk.
#[derive(Debug, Default)]
pub struct Health(pub(super) Mutex<Published>);

#[derive(Debug, Default)]
pub(super) struct Published {
    /// As it was after the last change, with what the cap says.
    pub(super) condition: Condition,
    pub(super) end: u64,
    pub(super) last: u64,
    pub(super) loss: Option<Loss>,
    /// The calls to the disk that have not returned: what each is and when it began.
    calls: Vec<(u64, &'static str, Instant)>,
    last_call: u64,
}

/// A call to the disk, until it is dropped.
pub struct Call<'a>(&'a Health, u64);

impl Health {
    /// A call to the disk begins.
    pub fn call(&self, what: &'static str) -> Call<'_> {
        let mut published = lock(&self.0);
        published.last_call += 1;
        let number = published.last_call;
        published.calls.push((number, what, Instant::now()));
        Call(self, number)
    }

    /// That the disk has not answered a call for longer than this, and which.
    pub fn stalled(&self, longer_than: Duration) -> Option<String> {
        let published = lock(&self.0);
        let (_, what, since) = published.calls.first()?;
        let time = since.elapsed();
        (time >= longer_than)
            .then(|| format!("the disk has not answered for {} s ({what})", time.as_secs()))
    }

    pub fn condition(&self) -> Condition {
        let (condition, loss) = {
            let published = lock(&self.0);
            (published.condition.clone(), published.loss.as_ref().map(|loss| loss.why.clone()))
        };
        match (condition, loss.or_else(|| self.stalled(DISK_SLOW))) {
            (Condition::Good | Condition::Degraded(_), Some(why)) => Condition::Degraded(why),
            (condition, _) => condition,
        }
    }

    /// What happened to the journal's file, where its path does not lead to it any more.
    pub fn loss(&self) -> Option<Loss> {
        lock(&self.0).loss.clone()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).calls.retain(|(number, ..)| *number != self.1);
    }
}
