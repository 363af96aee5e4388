//! File descriptors: flags, pipes, event counters.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

pub const STDIN: BorrowedFd<'static> = standard(0);
pub const STDOUT: BorrowedFd<'static> = standard(1);
pub const STDERR: BorrowedFd<'static> = standard(2);

const fn standard(number: i32) -> BorrowedFd<'static> {
    // SAFETY: it is open while the program runs: its runtime sees to that at the start, and nobody closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Writes all of this. What std keeps for its own standard streams costs some kB.
pub fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, and not closed at the end.
    let file = unsafe { File::from_raw_fd(fd.as_raw_fd()) };
    ManuallyDrop::new(file).write_all(bytes)
}

/// Marks every inherited descriptor from 3 up close-on-exec, so that no child of ours can get
/// what our parent left open (close_range(2); one by one where Linux before 5.11 refuses the flag).
pub fn close_inherited_on_exec() {
    let (all, flag) = (u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets descriptor flags.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, all, flag) } == 0 {
        return;
    }
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for fd in numbers.filter(|fd: &libc::c_int| *fd > 2) {
        // SAFETY: F_SETFD with FD_CLOEXEC only sets a flag, of a descriptor that is open or not.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Takes a descriptor that another program left open for us, by its number, and marks it close-on-exec.
///
/// # Errors
/// EBADF: it is not open. It must not be one that something of ours owns.
pub fn adopt(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD with FD_CLOEXEC only sets a flag, of a descriptor that is open or not; what is open
    // by now was left for us, and the caller takes each once.
    unsafe {
        check(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Sets O_NONBLOCK on the open file description behind `fd`.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take and return plain integers; the descriptor is borrowed.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Bytes that were written into a pipe and that nobody can read any more; 0 as long as somebody can.
pub fn unread(pipe: BorrowedFd<'_>) -> usize {
    let mut poll = libc::pollfd { fd: pipe.as_raw_fd(), events: 0, revents: 0 };
    let mut count: libc::c_int = 0;
    // SAFETY: poll is given one pollfd and does not wait, FIONREAD writes one int; the descriptor is borrowed.
    let asked = unsafe {
        libc::poll(&raw mut poll, 1, 0);
        libc::ioctl(poll.fd, libc::FIONREAD, &raw mut count)
    };
    let is_dead = asked == 0 && poll.revents & libc::POLLERR != 0;
    if is_dead { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Drops what was typed at a terminal and not read yet, also a line without its end.
pub fn discard_input(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: tcflush takes plain integers; the descriptor is borrowed.
    check(unsafe { libc::tcflush(terminal.as_raw_fd(), libc::TCIFLUSH) }).map(drop)
}

/// A file in memory with this text, close-on-exec, read from its start.
pub fn memory_file(text: &[u8]) -> io::Result<File> {
    // SAFETY: memfd_create takes a name that ends with NUL, and returns a new descriptor that nobody
    // else owns.
    let file = unsafe {
        let made = check(libc::memfd_create(c"text".as_ptr(), libc::MFD_CLOEXEC))?;
        OwnedFd::from_raw_fd(made)
    };
    let mut file = File::from(file);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}

/// Makes this text what standard input reads, by a file in memory.
pub fn give_stdin(text: &[u8]) -> io::Result<()> {
    let file = memory_file(text)?;
    // SAFETY: both are open, and nothing owns descriptor 0.
    check(unsafe { libc::dup2(file.as_raw_fd(), 0) }).map(drop)
}

/// A counter that wakes a `poll` (eventfd(2)): close-on-exec, non-blocking, starting at 0.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd returns a new descriptor that nobody else owns.
        unsafe {
            let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
            Ok(EventFd(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Makes the descriptor readable until [`EventFd::clear`].
    pub fn notify(&self) {
        // SAFETY: eventfd_write takes the descriptor and a number. It fails only when the counter
        // is full, and then the descriptor is readable already.
        unsafe { libc::eventfd_write(self.0.as_raw_fd(), 1) };
    }

    /// Makes the descriptor unreadable again; says whether it was readable.
    pub fn clear(&self) -> bool {
        let mut count = 0;
        // SAFETY: eventfd_read writes one u64 behind the pointer, which lives here.
        unsafe { libc::eventfd_read(self.0.as_raw_fd(), &raw mut count) == 0 }
    }
}

impl std::os::fd::AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The soft limit on open descriptors (RLIMIT_NOFILE, getrlimit(2)).
pub fn limit() -> io::Result<u64> {
    Ok(limits()?.rlim_cur)
}

/// The same as a count; what is usual where it cannot be told.
pub fn max_open() -> usize {
    limit().ok().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(1024)
}

/// Raises the soft limit on open descriptors to `wanted`, as far as the hard one allows.
pub fn raise_limit(wanted: u64) -> io::Result<()> {
    if limit()? >= wanted {
        return Ok(());
    }
    let limits = limits_with(wanted)?;
    // SAFETY: setrlimit reads the struct that lives here.
    check(unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &raw const limits) }).map(drop)
}

/// Ours with this soft limit, as far as the hard one allows.
pub(super) fn limits_with(soft: u64) -> io::Result<libc::rlimit64> {
    let limits = limits()?;
    Ok(libc::rlimit64 { rlim_cur: limits.rlim_max.min(soft), ..limits })
}

fn limits() -> io::Result<libc::rlimit64> {
    let mut limits = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct that lives here.
    check(unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, &raw mut limits) })?;
    Ok(limits)
}
