//! How the journal and its disk are. Told without the journal's lock, which a call holds that the
//! disk does not answer.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Condition, Purpose, WriteError, new_work_capacity};
use crate::limits::DISK_SLOW;
use crate::threads::lock;

/// What a journal has and takes, as after its last change.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The number of the last record.
    pub last: u64,
    /// Where the last record ends, and the next begins.
    pub size: u64,
    pub cap: u64,
    /// The length of the new work that was refused last; 0 where the last was taken.
    pub wanted: u64,
    /// But for what the cap says, and what is corrupt.
    pub condition: Condition,
    /// The first corruption that was found since the start.
    pub corrupt: Option<String>,
}

impl Status {
    /// The rule of the cap: new work leaves a reserve below it; what completes work is refused by
    /// nothing but the disk.
    pub fn check_capacity(&self, more: u64, purpose: Purpose) -> Result<(), WriteError> {
        let Status { size, cap, .. } = *self;
        if purpose == Purpose::Completion || size.saturating_add(more) <= new_work_capacity(cap) {
            return Ok(());
        }
        let why =
            format!("the journal has {size} bytes: no room for new work (max_journal = {cap})");
        Err(WriteError::Full(why))
    }

    fn condition(&self) -> Condition {
        if self.condition != Condition::Good {
            return self.condition.clone();
        }
        let full = self.check_capacity(self.wanted.max(1), Purpose::NewWork).err();
        let why = full.map(|full| full.to_string()).or_else(|| self.corrupt.clone());
        why.map_or(Condition::Good, Condition::Degraded)
    }
}

/// The journal's file was removed, replaced or moved while it was open.
#[derive(Clone, Debug)]
pub struct Loss {
    /// What happened.
    pub what: &'static str,
    /// The same with the path, and where its records are now.
    pub why: String,
    /// The copy of its records, once they have a name again.
    pub saved: Option<PathBuf>,
    pub at: Instant,
}

/// A lock of its own, held for a few instructions and never over a call to the disk.
#[derive(Debug, Default)]
pub struct Health(pub(super) Mutex<Published>);

#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) status: Status,
    pub(super) loss: Option<Loss>,
    /// The calls to the disk that have not returned: what each is and when it began.
    calls: Vec<(&'static str, Instant)>,
}

/// A call to the disk, until it is dropped.
pub struct Call<'a>(&'a Health, (&'static str, Instant));

impl Health {
    /// A call to the disk begins.
    pub fn call(&self, what: &'static str) -> Call<'_> {
        let call = (what, Instant::now());
        lock(&self.0).calls.push(call);
        Call(self, call)
    }

    /// That the disk has not answered a call for longer than this, and which.
    pub fn stalled(&self, longer_than: Duration) -> Option<String> {
        let published = lock(&self.0);
        let (what, since) = published.calls.first()?;
        let time = since.elapsed();
        (time >= longer_than)
            .then(|| format!("the disk has not answered for {} s ({what})", time.as_secs()))
    }

    pub fn status(&self) -> Status {
        lock(&self.0).status.clone()
    }

    pub fn condition(&self) -> Condition {
        let loss = self.loss().map(|loss| loss.why);
        match (self.status().condition(), loss.or_else(|| self.stalled(DISK_SLOW))) {
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
        let calls = &mut lock(&self.0.0).calls;
        // Of two that are alike, either.
        let place = calls.iter().position(|call| *call == self.1);
        place.map(|place| calls.remove(place));
    }
}
