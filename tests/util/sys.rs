//! What the tests ask of the kernel and std does not offer: the harness's only `unsafe`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Our effective user id.
pub fn uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Seconds of the monotonic clock, which other processes read too.
pub fn monotonic() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and `time` is ours to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What is started from now on begins with signals that are not ignored: under nohup(1) and in the
/// background of a shell, some are.
pub fn stop_ignoring_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action needs no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Sends a signal (kill(2)); 0 asks only whether the process is there.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes plain numbers and touches no memory of ours.
    check(unsafe { libc::kill(pid, signal) })
}

/// Sends a signal whose siginfo says what the caller likes (rt_sigqueueinfo(2)). The kernel
/// lets a process forge only negative codes, unless it signals itself.
pub fn forge_signal(pid: i32, signal: i32, code: i32, sender: i32, uid: u32) -> io::Result<()> {
    // The head of siginfo_t as the kernel reads it, on 64-bit Linux: three numbers, padding,
    // then the sender.
    #[repr(C, align(8))]
    struct Info {
        signo: i32,
        errno: i32,
        code: i32,
        pad: i32,
        pid: i32,
        uid: u32,
        rest: [u8; 104],
    }
    const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());
    let info = Info { signo: signal, errno: 0, code, pad: 0, pid: sender, uid, rest: [0; 104] };
    // SAFETY: `info` is as large as a siginfo_t and lives through the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal, &raw const info) };
    check(if result == -1 { -1 } else { 0 })
}

/// A process that need not be our child, held so that its pid cannot come to mean another.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// pidfd_open(2).
    pub fn open(pid: i32) -> io::Result<Pidfd> {
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor for us alone.
            Ok(fd @ 0..) => Ok(Pidfd(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a signal to it, and to no other (pidfd_send_signal(2)).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the descriptor is open, and a null siginfo is allowed.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
        check(if result == -1 { -1 } else { 0 })
    }

    /// Waits for its end; false when the time is over.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll =
                libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd, ours, that lives through the call.
            match unsafe { libc::poll(&raw mut poll, 1, millis) } {
                0 => return Ok(false),
                1.. => return Ok(true),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Waits until a child has ended, and leaves it for `Child::wait` to reap: until then its pid
/// stays its own, and a signal cannot hit a stranger.
pub fn wait_for_end(pid: i32) -> io::Result<()> {
    loop {
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: `info` is ours to write and lives through the call.
        let result = check(unsafe {
            libc::waitid(
                libc::P_PID,
                pid.cast_unsigned(),
                &raw mut info,
                libc::WEXITED | libc::WNOWAIT,
            )
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Cuts a file system off from its disk at once, its log unwritten (FS_IOC_SHUTDOWN with "no log
/// flush", which ext4 and XFS know): what a power cut leaves is on the disk, and nothing else.
pub fn shut_down_file_system(root: &Path) -> io::Result<()> {
    const FS_IOC_SHUTDOWN: u64 = 0x8004_587d;
    let no_log_flush: u32 = 2;
    let dir = File::open(root)?;
    // SAFETY: the descriptor is open, and the argument is a number that the kernel only reads.
    check(unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_SHUTDOWN as _, &raw const no_log_flush) })
}

/// Freezes a file system (FIFREEZE), or thaws it (FITHAW): whoever writes meanwhile waits in the kernel.
pub fn freeze_file_system(root: &Path, frozen: bool) -> io::Result<()> {
    let request: u64 = if frozen { 0xc004_5877 } else { 0xc004_5878 };
    let dir = File::open(root)?;
    // SAFETY: the descriptor is open, and these take no argument.
    check(unsafe { libc::ioctl(dir.as_raw_fd(), request as _, 0) })
}

/// Mounts a tmpfs of this size (mount(2)).
pub fn mount_tmpfs(at: &Path, options: &CStr) -> io::Result<()> {
    let (at, tmpfs) = (CString::new(at.as_os_str().as_bytes())?, c"tmpfs".as_ptr());
    // SAFETY: all pointers are to strings that end in NUL and live through the call.
    check(unsafe { libc::mount(tmpfs, at.as_ptr(), tmpfs, 0, options.as_ptr().cast()) })
}

/// Unmounts (umount2(2)); `lazily`: out of sight now, the rest when nobody uses it any more.
pub fn unmount(at: &Path, lazily: bool) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: the path ends in NUL and lives through the call.
    check(unsafe { libc::umount2(at.as_ptr(), if lazily { libc::MNT_DETACH } else { 0 }) })
}

/// Takes the exclusive lock of a file (flock(2)) for as long as it is open; fails where it is taken.
pub fn flock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
}

/// A write lease (fcntl(2), F_SETLEASE): who opens the file waits until the lease is dropped, for as
/// long as /proc/sys/fs/lease-break-time at most. So a start can be held up where a test wants it.
pub struct Lease {
    file: File,
    asked: UnixStream,
}

impl Lease {
    /// Takes the lease on a file of our own that nobody has open for long: a child that another test
    /// starts just now has all that we have open, until its exec.
    pub fn take(path: &Path) -> io::Result<Lease> {
        let (asked, tell) = UnixStream::pair()?;
        // The kernel's word that somebody waits; without a handler it would kill us.
        signal_hook::low_level::pipe::register(libc::SIGIO, tell)?;
        let file = File::options().read(true).write(true).open(path)?;
        let deadline = Instant::now() + super::DEADLINE;
        loop {
            // SAFETY: the descriptor is open, and the argument is a plain number.
            match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) }) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    super::pause(Duration::from_millis(2));
                }
                result => return result.map(|()| Lease { file, asked }),
            }
        }
    }

    /// Waits until somebody wants to open the file.
    pub fn wait_until_asked(&mut self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        // The kernel tells the process that one of its leases is asked for, and the lease whether it is that.
        // SAFETY: the descriptor is open.
        while unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) } == libc::F_WRLCK {
            let left = deadline.saturating_duration_since(Instant::now());
            self.asked.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            self.asked.read_exact(&mut [0])?;
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the limit on open descriptors as far as it goes: a client of thousands of connections needs one
/// for each, and so does the gateway that it starts.
pub fn raise_descriptors() {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls are given a struct that lives here.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits);
        limits.rlim_cur = limits.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits);
    }
    assert!(limits.rlim_max >= 18_000, "the hard limit on descriptors is {}", limits.rlim_max);
}

/// Has a command be started with these descriptors open from 3 on, as sd_listen_fds(3) has it.
pub fn hand_over(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let place = move || -> io::Result<()> {
        // Out of the way first: one of them may be where another is to be.
        for (descriptor, number) in descriptors.iter().zip(FIRST_OUT_OF_THE_WAY..) {
            // SAFETY: dup2 takes plain numbers.
            check(unsafe { libc::dup2(descriptor.as_raw_fd(), number) })?;
        }
        for (number, target) in (FIRST_OUT_OF_THE_WAY..).zip(3..3 + descriptors.len()) {
            // SAFETY: both take plain numbers.
            check(unsafe {
                libc::dup2(number, i32::try_from(target).unwrap());
                libc::close(number)
            })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only.
    unsafe { command.pre_exec(place) };
}

/// Above all that a test program has open.
const FIRST_OUT_OF_THE_WAY: i32 = 900;

/// A terminal: our end of it, and the one for a program (pty(7)).
pub fn terminal() -> io::Result<(File, File)> {
    let (mut ours, mut theirs) = (0, 0);
    let (name, settings, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: both numbers are ours to be written, and the rest may be null.
    check(unsafe { libc::openpty(&raw mut ours, &raw mut theirs, name, settings, size) })?;
    let file = |number| {
        // SAFETY: openpty has just made both, and nobody else has them.
        File::from(unsafe { OwnedFd::from_raw_fd(number) })
    };
    let files = (file(ours), file(theirs));
    for end in [&files.0, &files.1] {
        // SAFETY: fcntl with F_SETFD takes plain numbers.
        check(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok(files)
}

/// Has this thread, and what it starts, be told by the kernel that close_range(2) does not know the flag
/// CLOSE_RANGE_CLOEXEC (EINVAL), as Linux 5.9 and 5.10 say (seccomp(2)).
pub fn refuse_close_range_cloexec() -> io::Result<()> {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let (load, equal, end) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET);
    let number = u32::try_from(libc::SYS_close_range).unwrap();
    // In `seccomp_data` the number of the call is at 0, the low half of its third argument at 32.
    let mut steps = [
        step(load, 0, 0, 0),
        step(equal, 0, 3, number),
        step(load, 0, 0, 32),
        step(equal, 0, 1, libc::CLOSE_RANGE_CLOEXEC),
        step(end, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EINVAL.cast_unsigned()),
        step(end, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // SAFETY: plain numbers, and a program that lives here, of the length that it says.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
    }
}
