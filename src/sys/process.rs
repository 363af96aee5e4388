//! Processes: who we are, pidfds, process groups, reaping.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::check;

/// A process id. Never 0 or negative: those mean groups to kill(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pid(libc::pid_t);

impl Pid {
    /// `None` for what is not a single process.
    pub fn new(raw: i32) -> Option<Pid> {
        (raw > 0).then_some(Pid(raw))
    }

    pub fn own() -> Pid {
        // SAFETY: getpid has no preconditions and cannot fail.
        Pid(unsafe { libc::getpid() })
    }

    /// Our parent; `None` when it is outside our pid namespace.
    pub fn parent() -> Option<Pid> {
        // SAFETY: getppid has no preconditions and cannot fail.
        Pid::new(unsafe { libc::getppid() })
    }

    pub fn get(self) -> i32 {
        self.0
    }
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The signals that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Signal {
    Term = libc::SIGTERM,
    Kill = libc::SIGKILL,
}

/// A process held fast: its pid cannot be taken by another while this exists (pidfd_open(2)).
/// The descriptor is readable once the process has ended.
pub struct PidFd(OwnedFd);

impl PidFd {
    /// # Errors
    /// ESRCH: no such process. ENOSYS: Linux before 5.3.
    pub fn open(pid: Pid) -> io::Result<PidFd> {
        // SAFETY: pidfd_open returns a new close-on-exec descriptor that nobody else owns.
        unsafe {
            let fd = check(libc::syscall(libc::SYS_pidfd_open, pid.0, 0) as libc::c_int)?;
            Ok(PidFd(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Sends a signal to exactly this process (pidfd_send_signal(2)).
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is a pidfd, and a null siginfo asks for kill(2)'s own.
        let sent = unsafe {
            let fd = self.0.as_raw_fd();
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, no_info, 0)
        };
        check(sent as libc::c_int).map(drop)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether an error says that the process has ended and was reaped (ESRCH).
pub fn is_gone(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ESRCH)
}

/// Sends a signal to a process group that `leader` made. The leader must not be reaped yet: until
/// then the kernel keeps the number from anyone else. Says whether there is such a group.
pub fn signal_group(leader: Pid, signal: Signal) -> io::Result<bool> {
    // SAFETY: a negative pid names the group; pids are positive by construction.
    match check(unsafe { libc::kill(-leader.0, signal as i32) }) {
        Err(e) if is_gone(&e) => Ok(false),
        other => other.map(|_| true),
    }
}

/// How many processors we may run on (sched_getaffinity(2)); 1 where the kernel does not say.
pub fn cores() -> usize {
    // SAFETY: all-zero is an empty set, which the kernel fills up to its size; CPU_COUNT reads it.
    let count = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) {
            0 => libc::CPU_COUNT(&set),
            _ => 1,
        }
    };
    usize::try_from(count).unwrap_or(1).max(1)
}

/// Ends the process this instant: no destructors, no exit handlers (_exit(2)).
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit takes any status and does not return; what is buffered was written before.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Kills a child that is not reaped yet.
pub fn kill(child: Pid) {
    // SAFETY: pids are positive by construction. An error means that it has ended.
    unsafe { libc::kill(child.0, libc::SIGKILL) };
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Exited(i32),
    Signalled(i32),
}

/// Reaps `child`; blocks until it has ended (waitpid(2)).
pub fn wait(child: Pid) -> io::Result<Status> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid fills the status that lives here.
        match check(unsafe { libc::waitpid(child.0, &raw mut status, 0) }) {
            Ok(_) if libc::WIFEXITED(status) => {
                return Ok(Status::Exited(libc::WEXITSTATUS(status)));
            }
            Ok(_) => return Ok(Status::Signalled(libc::WTERMSIG(status))),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether `child`, of whichever thread of ours, has ended and is not reaped yet (waitid(2)).
pub fn has_ended(child: Pid) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all-zero is a valid siginfo_t, which waitid fills or leaves; a pid of 0 in it means
    // that there is nothing to tell.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let found = libc::waitid(libc::P_PID, child.0.cast_unsigned(), &raw mut info, options);
        found == 0 && info.si_pid() != 0
    }
}

/// Begins a session of its own (setsid(2)), out of the reach of a terminal that goes away and of signals to
/// the process group, and takes every signal again that whoever started us has blocked.
///
/// # Errors
/// EPERM where this process leads a process group.
pub fn begin_session() -> io::Result<()> {
    // SAFETY: setsid takes nothing; the set is filled before it is read, and lives here.
    unsafe {
        check(libc::setsid())?;
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))
            .map(drop)
    }
}

/// Makes this process the parent of what its descendants leave behind
/// (PR_SET_CHILD_SUBREAPER, prctl(2)).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl takes plain numbers here.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Keeps the other processes of our user, agents among them, out of our memory, environment and
/// descriptors (PR_SET_DUMPABLE, prctl(2)), and has no core file written, of those that we start
/// neither (RLIMIT_CORE, getrlimit(2)). What /proc says of us belongs to root from here on; we still
/// read `/proc/self/fd`, and everybody `stat`, `status`, `cmdline` and `cgroup`.
pub fn protect_memory() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prctl takes plain numbers here; setrlimit reads the struct that lives here.
    unsafe {
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const none)).map(drop)
    }
}

/// The program that this process runs, whatever has become of its file: to be executed, not read.
pub fn own_image() -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc/self/exe")
}

/// Takes the status of `child` if it has ended, and throws it away: for orphans that were handed
/// to us. Says whether there was one.
pub fn reap(child: Pid) -> bool {
    // SAFETY: a null status pointer is allowed; WNOHANG never blocks.
    unsafe { libc::waitpid(child.0, std::ptr::null_mut(), libc::WNOHANG) == child.0 }
}

/// Whether the system refused for lack of descriptors, processes or memory (posix_spawn(3), pipe(2)).
pub fn is_shortage(e: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];
    e.raw_os_error().is_some_and(|code| short.contains(&code))
}
