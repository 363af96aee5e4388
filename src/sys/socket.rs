//! Sockets: what std does not offer.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::ptr;

use super::check;
use super::fs::if_exists;
use super::process::Pid;

/// Who is at the other end of a unix socket, as the kernel says (SO_PEERCRED, unix(7)).
/// The pid is `None` for a process outside our pid namespace; the other is its uid.
pub fn peer(stream: &UnixStream) -> io::Result<(Option<Pid>, u32)> {
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `size` bytes into the struct that lives here.
    check(unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        libc::getsockopt(stream.as_raw_fd(), level, name, (&raw mut cred).cast(), &raw mut size)
    })?;
    Ok((Pid::new(cred.pid), cred.uid))
}

/// Whether a descriptor is a socket (SO_TYPE, socket(7)).
pub fn is_socket(fd: BorrowedFd<'_>) -> bool {
    option(fd, libc::SO_TYPE).is_some()
}

/// Whether it is a stream socket that listens.
pub fn is_listener(fd: BorrowedFd<'_>) -> bool {
    let stream = option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM);
    stream && option(fd, libc::SO_ACCEPTCONN) == Some(1)
}

/// Whether it is a unix socket.
pub fn is_unix(fd: BorrowedFd<'_>) -> bool {
    option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
}

/// An option of a socket that is a number; `None`: it is no socket.
fn option(fd: BorrowedFd<'_>, name: c_int) -> Option<c_int> {
    let (mut value, mut size) = (0, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: getsockopt writes at most `size` bytes into the number that lives here.
    check(unsafe {
        let (fd, level) = (fd.as_raw_fd(), libc::SOL_SOCKET);
        libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut size)
    })
    .ok()
    .map(|_| value)
}

/// Lets this many connections wait for their accept, as far as the system allows (listen(2)): std's 128
/// are a burst, and a client that finds them taken tries again only after a second.
pub fn set_backlog(listener: BorrowedFd<'_>, most: i32) -> io::Result<()> {
    // SAFETY: listen takes two integers; on a socket that listens it only moves the bound.
    check(unsafe { libc::listen(listener.as_raw_fd(), most) }).map(drop)
}

/// Makes the close of a TCP connection a reset instead of an orderly end (SO_LINGER with time 0,
/// socket(7)): what the peer got so far cannot be taken for the whole.
pub fn reset_on_close(socket: BorrowedFd<'_>) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (fd, level, name) = (socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER);
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: setsockopt reads the struct that lives here, of the size that is given. An error
    // leaves the orderly end.
    unsafe { libc::setsockopt(fd, level, name, (&raw const linger).cast(), size) };
}

/// Begins to connect to a TCP address, without waiting. The stream is not in blocking mode; it can
/// be written once it is connected or has failed, and `take_error` tells which (connect(2)).
pub fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    // SAFETY: all-zero is a valid sockaddr of both kinds.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let socket = match address {
        SocketAddr::V4(address) => {
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            connect(libc::AF_INET, &v4)
        }
        SocketAddr::V6(address) => {
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = address.port().to_be();
            v6.sin6_addr.s6_addr = address.ip().octets();
            v6.sin6_scope_id = address.scope_id();
            connect(libc::AF_INET6, &v6)
        }
    };
    socket.map(TcpStream::from)
}

/// A socket that does not block, and is being connected to `address`, a `sockaddr` of that family.
fn connect<A>(family: c_int, address: &A) -> io::Result<OwnedFd> {
    // SAFETY: socket returns a new descriptor that nobody else owns; connect reads as many bytes as the
    // struct behind the reference has.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?);
        let (address, size) = (ptr::from_ref(address).cast(), size_of::<A>() as libc::socklen_t);
        match check(libc::connect(socket.as_raw_fd(), address, size)) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
            _ => Ok(socket),
        }
    }
}

/// Listens on a unix socket at `path`, taking the place of a stale one. The caller holds the lock
/// that makes sure that it is stale, and the directory keeps others out.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if_exists(fs::remove_file(path))?;
    with_short_path(path, |path| UnixListener::bind(path))
}

/// Connects to a unix socket without waiting. The stream is in blocking mode.
///
/// # Errors
/// WouldBlock when the backlog is full (connect(2)): the listener lives but does not accept.
/// NotFound and ConnectionRefused when nobody listens.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    with_short_path(path, |path| {
        // SAFETY: all-zero is a valid sockaddr_un.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_UNIX_PATH || bytes.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in address.sun_path.iter_mut().zip(bytes) {
            *to = from.cast_signed() as libc::c_char;
        }
        let stream = UnixStream::from(connect(libc::AF_UNIX, &address)?);
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_long_path_is_reached_through_its_directory() {
        let root = TempDir::new("socket");
        let dir = root.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("control.sock");
        assert_eq!(connect_unix(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = bind_unix(&path).unwrap();
        connect_unix(&path).unwrap();
        listener.accept().unwrap();
        drop(listener);
        assert_eq!(connect_unix(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
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
