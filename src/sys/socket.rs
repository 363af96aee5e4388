//! Sockets: what std does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::check;
use super::process::Pid;

/// Who is at the other end of a unix socket, by the kernel's word (SO_PEERCRED, unix(7)).
/// `pid` is `None` for a process outside our pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: Option<Pid>,
    pub uid: u32,
}

pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut cred = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `size` bytes into the struct that lives here.
    check(unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        libc::getsockopt(
            stream.as_raw_fd(),
            level,
            name,
            (&raw mut cred).cast(),
            &raw mut size,
        )
    })?;
    Ok(Peer {
        pid: Pid::new(cred.pid),
        uid: cred.uid,
    })
}

/// Ends the reading side of a connection that another thread is blocked on (shutdown(2)); what
/// has arrived can still be read.
pub fn stop_reading(socket: BorrowedFd<'_>) {
    // SAFETY: shutdown takes a descriptor that is borrowed here. An error means that the peer has
    // gone already.
    unsafe {
        libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD);
    }
}

/// Makes the close of a TCP connection a reset instead of an orderly end (SO_LINGER with time 0,
/// socket(7)): what the peer got so far cannot be taken for the whole.
pub fn reset_on_close(socket: BorrowedFd<'_>) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: setsockopt reads the struct that lives here, of the size that is given. An error
    // leaves the orderly end.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}
