//! Sockets: what std does not offer.

use std::ffi::{c_int, c_uint};
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
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

/// Descriptors in one message: the listeners and locks of one gateway are five.
pub const MAX_DESCRIPTORS: usize = 16;

/// What stands before descriptors in a message, and they, in words that are aligned for it.
type Control = [u64; 16];

/// A message of `bytes` and, behind it, of this much of `control`.
fn header(bytes: &mut libc::iovec, control: &mut Control, length: usize) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = bytes;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = length as _;
    header
}

/// Sends a message with copies of these descriptors (SCM_RIGHTS, unix(7)). On a stream, with at least one
/// byte; it takes as many of them as the result says.
pub fn send_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let size = size_of_val(descriptors) as c_uint;
    let mut control = Control::default();
    let mut bytes =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `control` holds MAX_DESCRIPTORS and what stands before them, of which at most so many are
    // written; sendmsg reads that and the bytes, which live here. A BorrowedFd is the descriptor's number.
    unsafe {
        let length = if size == 0 { 0 } else { libc::CMSG_SPACE(size) };
        let header = header(&mut bytes, &mut control, length as usize);
        if let Some(first) = libc::CMSG_FIRSTHDR(&raw const header).as_mut() {
            first.cmsg_level = libc::SOL_SOCKET;
            first.cmsg_type = libc::SCM_RIGHTS;
            first.cmsg_len = libc::CMSG_LEN(size) as _;
            let to = libc::CMSG_DATA(first);
            ptr::copy_nonoverlapping(descriptors.as_ptr().cast(), to, size as usize);
        }
        let sent = libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL);
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Receives a message into `buffer`: how many bytes it has, 0 at the end of a stream, and the descriptors
/// that came with it, close-on-exec.
///
/// # Errors
/// InvalidData for more descriptors than [`MAX_DESCRIPTORS`], or than this process may have open.
pub fn receive_descriptors(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control::default();
    let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: recvmsg writes into the buffer and into `control`, each of the length that is given, and the
    // kernel's headers there are whole. Each descriptor in them is new, and nobody else owns it.
    unsafe {
        let length = libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<c_int>()) as c_uint) as usize;
        let mut header = header(&mut bytes, &mut control, length);
        let count = libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC);
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let mut descriptors = Vec::new();
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(part) = next.as_ref() {
            if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                #[allow(clippy::unnecessary_cast, reason = "musl's is narrower")]
                let size = part.cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(next).cast::<c_int>();
                let numbers =
                    (0..size / size_of::<c_int>()).map(|at| data.add(at).read_unaligned());
                descriptors.extend(numbers.map(|number| OwnedFd::from_raw_fd(number)));
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
        if header.msg_flags & libc::MSG_CTRUNC != 0 {
            let words = "a message with more descriptors than are taken";
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        Ok((count, descriptors))
    }
}

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener, SocketAddr),
    /// With its path; `None` for an abstract name.
    Unix(UnixListener, Option<PathBuf>),
}

impl Listener {
    /// Takes a descriptor for what it is.
    ///
    /// # Errors
    /// What it is instead, in words.
    pub fn of(descriptor: OwnedFd) -> Result<Listener, String> {
        let option = |name| {
            let (mut value, mut size): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
            let (fd, value_at, size_at) =
                (descriptor.as_raw_fd(), (&raw mut value).cast(), &raw mut size);
            // SAFETY: getsockopt writes at most `size` bytes into the number that lives here.
            let got = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, value_at, size_at) };
            (got == 0).then_some(value)
        };
        let Some(family) = option(libc::SO_DOMAIN) else { return Err(kind_of_file(descriptor)) };
        let family_name = match family {
            libc::AF_INET => "an IPv4 socket",
            libc::AF_INET6 => "an IPv6 socket",
            libc::AF_UNIX => "a unix socket",
            other => return Err(format!("a socket of the address family {other}")),
        };
        match option(libc::SO_TYPE) {
            Some(libc::SOCK_STREAM) => {}
            Some(libc::SOCK_DGRAM) => return Err(format!("{family_name} for datagrams")),
            other => return Err(format!("{family_name} of the type {}", other.unwrap_or(0))),
        }
        if option(libc::SO_ACCEPTCONN) != Some(1) {
            return Err(format!("{family_name} that does not listen"));
        }
        let no_address = |e| format!("{family_name} without an address: {e}");
        if family == libc::AF_UNIX {
            let listener = UnixListener::from(descriptor);
            let address = listener.local_addr().map_err(no_address)?;
            return Ok(Listener::Unix(listener, address.as_pathname().map(Path::to_owned)));
        }
        let listener = TcpListener::from(descriptor);
        let address = listener.local_addr().map_err(no_address)?;
        Ok(Listener::Tcp(listener, address))
    }
}

/// What a descriptor is that is no socket.
fn kind_of_file(descriptor: OwnedFd) -> String {
    let kind = File::from(descriptor).metadata().map(|meta| meta.file_type());
    match kind {
        Ok(kind) if kind.is_file() => "a file",
        Ok(kind) if kind.is_dir() => "a directory",
        Ok(kind) if kind.is_fifo() => "a pipe",
        Ok(kind) if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no socket",
    }
    .to_owned()
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
    use std::os::fd::AsFd;

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
    fn descriptors_go_through_a_socket_and_stay_what_they_are() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (file, socket) = (File::open("/dev/null").unwrap(), listener.as_fd());
        assert_eq!(send_descriptors(ours.as_fd(), b"two", &[socket, file.as_fd()]).unwrap(), 3);
        assert_eq!(send_descriptors(ours.as_fd(), b"none", &[]).unwrap(), 4);
        let mut buffer = [0; 3];
        let (count, mut came) = receive_descriptors(theirs.as_fd(), &mut buffer).unwrap();
        assert_eq!((count, &buffer, came.len()), (3, b"two", 2));
        for descriptor in &came {
            // SAFETY: F_GETFD returns flags.
            let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
        let Ok(Listener::Tcp(_, address)) = Listener::of(came.swap_remove(0)) else { panic!() };
        assert_eq!(address, listener.local_addr().unwrap());
        let (count, came) = receive_descriptors(theirs.as_fd(), &mut [0; 9]).unwrap();
        assert_eq!((count, came.len()), (4, 0));
        let many = [file.as_fd(); MAX_DESCRIPTORS];
        send_descriptors(ours.as_fd(), b"m", &many).unwrap();
        let (_, came) = receive_descriptors(theirs.as_fd(), &mut [0; 9]).unwrap();
        assert_eq!(came.len(), MAX_DESCRIPTORS);
        let more = [file.as_fd(); MAX_DESCRIPTORS + 1];
        let refused = send_descriptors(ours.as_fd(), b"m", &more).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        drop(ours);
        assert_eq!(receive_descriptors(theirs.as_fd(), &mut [0; 9]).unwrap().0, 0);
    }

    #[test]
    fn a_descriptor_is_named_for_what_it_is() {
        let root = TempDir::new("socket");
        let what = |descriptor: OwnedFd| Listener::of(descriptor).unwrap_err();
        assert_eq!(what(File::open("/dev/null").unwrap().into()), "a device");
        assert_eq!(what(File::open("/").unwrap().into()), "a directory");
        assert_eq!(what(File::open("/proc/self/exe").unwrap().into()), "a file");
        let (pipe, _writer) = io::pipe().unwrap();
        assert_eq!(what(pipe.into()), "a pipe");
        let (unix, _other) = UnixStream::pair().unwrap();
        assert_eq!(what(unix.into()), "a unix socket that does not listen");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(what(udp.into()), "an IPv4 socket for datagrams");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(what(client.into()), "an IPv4 socket that does not listen");
        let path = root.path().join("s");
        let listener = UnixListener::bind(&path).unwrap().into();
        let Ok(Listener::Unix(_, at)) = Listener::of(listener) else { panic!() };
        assert_eq!(at, Some(path));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["", "a\0b", &format!("/tmp/{}", "x".repeat(200))] {
            let kind = connect_unix(Path::new(path)).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{path:?}");
        }
    }
}
