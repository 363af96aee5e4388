//! What ends work from outside: a deadline, the gateway's end, whoever takes the work back, and a client
//! that goes away. Whatever such work waits for, it waits for it here.

use std::{array, io, os::fd::BorrowedFd, time::Instant};

use crate::sys::poll::{Interest, poll};

/// Descriptors that one wait is for at the most: what it waits for, and what may end it.
const MAX_INTERESTS: usize = 8;

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
        const { assert!(N + 3 <= MAX_INTERESTS) };
        let mut all = [Interest::read(None); MAX_INTERESTS];
        let all = &mut all[..N + ends.len()];
        all.iter_mut().zip(interests.into_iter().chain(ends)).for_each(|(one, it)| *one = it);
        // A signal ends a wait early.
        while poll(all, Some(left()))? == 0 && !left().is_zero() {}
        let reasons = [CancelReason::Cancelled, CancelReason::ClientGone, CancelReason::Aborted];
        let mut ended = all[N..].iter().zip(reasons).filter(|(end, _)| end.ready());
        let late = Instant::now() >= self.deadline;
        let reason = ended.next().map(|(_, reason)| reason);
        let reason = reason.or(late.then_some(CancelReason::TimedOut));
        Ok((array::from_fn(|at| all[at].ready()), reason))
    }
}

/// Whether `fd` can be read, or has ended, before `deadline`.
pub fn readable_by(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    let ([ready], _) = Cancel::at(deadline).wait([Interest::read(fd)], deadline)?;
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::EventFd;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn within(time: Duration) -> Cancel<'static> {
        Cancel::at(Instant::now() + time)
    }

    #[test]
    fn each_end_has_its_reason_and_a_request_comes_before_the_others() {
        const LONG: Duration = Duration::from_secs(20);
        let (set, unset) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        set.notify();
        let (client, server) = UnixStream::pair().unwrap();
        let all = Cancel {
            abort: Some(unset.as_fd()),
            cancel: Some(unset.as_fd()),
            client: Some(client.as_fd()),
            ..within(LONG)
        };
        assert_eq!(all.reason(), None);
        let abort = Cancel { abort: Some(set.as_fd()), ..all };
        assert_eq!(abort.reason(), Some(CancelReason::Aborted));
        drop(server);
        assert_eq!(abort.reason(), Some(CancelReason::ClientGone));
        let cancelled = Cancel { cancel: Some(set.as_fd()), ..abort };
        assert_eq!(cancelled.reason(), Some(CancelReason::Cancelled));
        assert_eq!(within(Duration::ZERO).reason(), Some(CancelReason::TimedOut));
    }

    #[test]
    fn a_wait_ends_with_what_comes_first() {
        let (set, unset) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        set.notify();
        let both = || [Interest::read(unset.as_fd()), Interest::read(set.as_fd())];
        let cancel = within(Duration::from_secs(20));
        assert_eq!(cancel.wait(both(), cancel.deadline).unwrap(), ([false, true], None));
        let neither = [Interest::read(unset.as_fd())];
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(cancel.wait(neither, soon).unwrap(), ([false], None));
        assert!(Instant::now() >= soon);
        let cancel = within(Duration::from_millis(5));
        let late = cancel.wait([Interest::read(unset.as_fd())], soon + Duration::from_secs(20));
        assert_eq!(late.unwrap(), ([false], Some(CancelReason::TimedOut)));
    }
}
