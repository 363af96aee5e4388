//! Waiting for descriptors: poll(2).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// One descriptor and what is waited for; after [`poll`], what came.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Interest<'fd> {
    raw: libc::pollfd,
    owner: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Interest<'fd> {
    /// Wait until `fd` can be read or its other side has ended.
    pub fn read(fd: impl Into<Option<BorrowedFd<'fd>>>) -> Self {
        Self::new(fd.into(), libc::POLLIN)
    }

    /// Wait until `fd` can be written or its other side has ended.
    pub fn write(fd: impl Into<Option<BorrowedFd<'fd>>>) -> Self {
        Self::new(fd.into(), libc::POLLOUT)
    }

    /// Wait until the other side of a socket goes away or stops sending; ignores data.
    pub fn hangup(fd: impl Into<Option<BorrowedFd<'fd>>>) -> Self {
        Self::new(fd.into(), libc::POLLRDHUP)
    }

    /// Wait until both sides of a socket have ended, or it failed; ignores data.
    pub fn end(fd: BorrowedFd<'fd>) -> Self {
        Self::new(Some(fd), 0)
    }

    /// Without a descriptor it never reports anything (poll(2): a negative number).
    fn new(fd: Option<BorrowedFd<'fd>>, events: i16) -> Self {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        Interest { raw: libc::pollfd { fd, events, revents: 0 }, owner: PhantomData }
    }

    /// Whether anything came: readiness, hang-up or error.
    pub fn ready(&self) -> bool {
        self.raw.revents != 0
    }
}

/// Waits for any of `interests`, at most `timeout` (`None`: for ever). Returns how many are
/// ready; 0 after the time-out and after a signal (EINTR), so callers look at the clock again.
///
/// # Errors
/// What poll(2) says, EINTR excepted. EINVAL and EBADF are bugs: never go on as if nothing was.
pub fn poll(interests: &mut [Interest<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    wait_with(interests, timeout, false)
}

fn wait_with(
    interests: &mut [Interest<'_>],
    timeout: Option<Duration>,
    signals: bool,
) -> io::Result<usize> {
    let count = libc::nfds_t::try_from(interests.len()).unwrap_or(0);
    let fds = interests.as_mut_ptr().cast();
    // SAFETY: `Interest` is a transparent pollfd, the slice is ours for the length of the call,
    // and the descriptors in it are borrowed for longer than it. The time and the mask live here.
    let ready = unsafe {
        if signals {
            let time = timeout.map(|time| libc::timespec {
                tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: time.subsec_nanos().into(),
            });
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::ppoll(
                fds,
                count,
                time.as_ref().map_or(ptr::null(), ptr::from_ref),
                &raw const none,
            )
        } else {
            // Rounded up: a deadline that is 0.4 ms away must not make a loop spin.
            let millis = |t: Duration| i32::try_from(t.as_nanos().div_ceil(1_000_000));
            libc::poll(fds, count, timeout.map_or(-1, |t| millis(t).unwrap_or(i32::MAX)))
        }
    };
    match super::check(ready) {
        Ok(n) => Ok(usize::try_from(n).unwrap_or(0)),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            // The kernel leaves revents alone on EINTR: what stands there is from an earlier call.
            for interest in interests {
                interest.raw.revents = 0;
            }
            Ok(0)
        }
        Err(e) => Err(e),
    }
}

/// Like [`poll`], for a fixed number: says which are ready. None is after the time-out or a signal.
pub fn wait_any<const N: usize>(
    mut interests: [Interest<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    poll(&mut interests, timeout)?;
    Ok(interests.map(|interest| interest.ready()))
}

/// The same with all signals let in that this thread has blocked (ppoll(2)). What is ready at once goes before
/// one that is pending.
pub fn wait_any_or_signal<const N: usize>(
    mut interests: [Interest<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    wait_with(&mut interests, timeout, true)?;
    Ok(interests.map(|interest| interest.ready()))
}
