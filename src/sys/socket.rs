//! Sockets: what std does not offer.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

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

/// Listens on a unix socket at `path`, taking the place of a stale one. The caller holds the lock
/// that makes sure that it is stale, and the directory keeps others out.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    with_short_path(path, |path| UnixListener::bind(path))
}

/// The bytes that a unix socket's path may have (unix(7): 108, the last one NUL).
const MAX_UNIX_PATH: usize = 107;

/// Calls `use_path` with a path that fits into a socket address: where `path` itself does not, by
/// way of its open directory.
fn with_short_path<T>(path: &Path, use_path: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if path.as_os_str().len() <= MAX_UNIX_PATH {
        return use_path(path);
    }
    let directory = File::open(directory)?;
    let way = format!("/proc/self/fd/{}", directory.as_raw_fd());
    use_path(&Path::new(&way).join(name))
}
