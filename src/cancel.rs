//! What ends work from outside: a deadline, the gateway's end, whoever takes the work back, and a client
//! that goes away. Whatever such work waits for, it waits for it here.
#![forbid(unsafe_code)]

use std::array;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::sys::poll::{Interest, poll};

/// What may end work from outside.
#[derive(Clone, Copy)]
pub struct Cancel<'a> {
    pub deadline: Instant,
    /// Readable once all work has to end.
    pub abort: Option<BorrowedFd<'a>>,
    /// Readable once this work has to end.
    pub cancel: Option<BorrowedFd<'a>>,
    /// A socket whose hang-up means that nobody waits any more.
    pub client: Option<BorrowedFd<'a>>,
    /// To be called whenever there was nothing for [`KEEP_ALIVE`](crate::limits::KEEP_ALIVE). An error
    /// means that nobody waits any more.
    pub idle: Option<&'a dyn Fn() -> io::Result<()>>,
}

/// Which of them it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// Somebody took the work back.
    Cancelled,
    ClientGone,
    /// The gateway is stopping.
    Aborted,
    TimedOut,
}

impl<'a> Cancel<'a> {
    /// A deadline alone.
    pub fn at(deadline: Instant) -> Cancel<'a> {
        Cancel { deadline, abort: None, cancel: None, client: None, idle: None }
    }

    /// What has ended the work by now.
    pub fn reason(&self) -> Option<CancelReason> {
        self.wait([], Instant::now()).ok()?.1
    }

    /// Waits for one of `interests`, for an end of the work, or until `until`; says what has come.
    ///
    /// # Errors
    /// Those of [`poll`].
    pub fn wait<const N: usize>(
        &self,
        interests: [Interest<'_>; N],
        until: Instant,
    ) -> io::Result<([bool; N], Option<CancelReason>)> {
        let until = until.min(self.deadline);
        let left = || until.saturating_duration_since(Instant::now());
        let (cancel, client) = (Interest::read(self.cancel), Interest::hangup(self.client));
        let ends = [cancel, client, Interest::read(self.abort)];
        let mut all: Vec<Interest<'_>> = interests.into_iter().chain(ends).collect();
        // A signal ends a wait early.
        while poll(&mut all, Some(left()))? == 0 && !left().is_zero() {}
        let reasons = [CancelReason::Cancelled, CancelReason::ClientGone, CancelReason::Aborted];
        let mut ended = all[N..].iter().zip(reasons).filter(|(end, _)| end.ready());
        let late = Instant::now() >= self.deadline;
        let reason = ended.next().map(|(_, reason)| reason);
        let reason = reason.or(late.then_some(CancelReason::TimedOut));
        Ok((array::from_fn(|at| all[at].ready()), reason))
    }
}
