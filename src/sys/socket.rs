//! Sockets: what std does not offer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

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

/// Connects to a unix socket without waiting; a path longer than `sun_path` will do. The stream is
/// in blocking mode.
///
/// # Errors
/// WouldBlock when the backlog is full (connect(2)): the listener lives but does not accept.
/// NotFound and ConnectionRefused when nobody listens.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let (address, size, _dir) = unix_address(path)?;
    // SAFETY: socket returns a new descriptor that nobody else owns; connect reads `size` bytes of
    // the struct that lives here.
    let socket = unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?);
        let address = (&raw const address).cast();
        check(libc::connect(socket.as_raw_fd(), address, size))?;
        socket
    };
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The address of a unix socket's path (unix(7)). Where the path does not fit it goes through its
/// directory's descriptor (`/proc/self/fd/N/NAME`), which has to stay open until the address is used.
fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t, Option<File>)> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let room = address.sun_path.len() - 1;
    let mut short = PathBuf::from(path);
    let mut dir = None;
    if let (true, Some(parent), Some(name)) = (
        path.as_os_str().len() > room,
        path.parent(),
        path.file_name(),
    ) {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let parent = options.open(parent)?;
        short = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        dir = Some(parent);
    }
    let bytes = short.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > room || bytes.contains(&0) {
        let why = format!("{} cannot be a socket's path", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    let size = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(size).unwrap_or(0), dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_long_path_is_reached_through_its_directory() {
        let root = TempDir::new("socket");
        let dir = root.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("control.sock");
        assert_eq!(
            connect_unix(&path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let handle = File::open(&dir).unwrap();
        let short = format!("/proc/self/fd/{}/control.sock", handle.as_raw_fd());
        let listener = UnixListener::bind(short).unwrap();
        connect_unix(&path).unwrap();
        listener.accept().unwrap();
        drop(listener);
        assert_eq!(
            connect_unix(&path).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn a_full_backlog_does_not_hold_us() {
        let root = TempDir::new("socket");
        let path = root.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: listen takes a descriptor that is borrowed here; a second call changes the backlog.
        check(unsafe { libc::listen(listener.as_raw_fd(), 0) }).unwrap();
        let _held = connect_unix(&path).unwrap();
        let full = connect_unix(&path).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["", "a\0b", &format!("/tmp/{}", "x".repeat(200))] {
            let kind = connect_unix(Path::new(path)).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{path:?}");
        }
    }
}
