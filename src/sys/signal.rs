//! Signals: what siginfo says, and which of them are ours to catch.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

/// `SI_USER` is the `si_code` of a plain kill(2) (sigaction(2)): only then are pid and uid the kernel's
/// word. `SI_KERNEL` is that of a signal that the kernel itself sends, such as for Ctrl-C at the terminal.
pub use libc::{
    SI_KERNEL, SI_USER, SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, siginfo_t as RawInfo,
};

use super::check;
use super::fd::EventFd;

macro_rules! named {
    ($($signal:ident)*) => { &[$((libc::$signal, stringify!($signal))),*] };
}

/// The other signals whose default is to end a process and that say nothing of its own faults
/// (signal(7)).
pub const OTHERS: &[(i32, &str)] = named!(
    SIGQUIT SIGUSR2 SIGALRM SIGVTALRM SIGPROF SIGIO SIGPWR SIGSTKFLT SIGXCPU SIGXFSZ
);

/// Pid and uid of the sender, as the siginfo names them. With a negative `si_code` the sender
/// wrote them itself (rt_sigqueueinfo(2)); pid 0 is a sender outside our pid namespace.
pub fn sender(info: &RawInfo) -> (i32, u32) {
    // SAFETY: the kernel fills the whole siginfo; for the signals that we catch, kill's and the
    // queue's members share the place of si_pid and si_uid, and any bits are valid integers.
    unsafe { (info.si_pid(), info.si_uid()) }
}

/// Whether whoever started us has this signal ignored, as nohup(1) does with SIGHUP.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero is a valid sigaction, which the call fills; a null pointer changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Runs `work` while this thread takes no signal: what comes meanwhile arrives at its end
/// (pthread_sigmask(3)).
pub fn with_all_blocked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: both sets live here; the first is filled before it is read, the second by the call.
    unsafe {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let result = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        result
    }
}

/// The signals of a thread's own faults: to block them is to be killed by them without a word.
const FAULTS: [i32; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Blocks all signals but those of faults in this thread and in those that it starts: they wait, with their
/// siginfo and over an exec too, for [`take_pending`] and for a wait that lets them in.
pub fn block_all() {
    // SAFETY: the set lives here and is filled before it is changed and read.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigfillset(set.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(set.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Has the handlers run for all that is pending (pthread_sigmask(3): before it returns).
pub fn take_pending() {
    // SAFETY: both sets live here; the first is filled before it is read, the second by the call.
    unsafe {
        let (mut none, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), before.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
}

/// Whether a SIGTERM or SIGINT is pending (sigpending(2)).
pub fn is_stop_pending() -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set lives here and is filled before it is read.
    unsafe {
        libc::sigpending(set.as_mut_ptr()) == 0
            && [SIGTERM, SIGINT].iter().any(|it| libc::sigismember(set.as_ptr(), *it) == 1)
    }
}

/// Has a signal ignored from now on, by the program after an exec too.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Signals that are noted where they would have ended this process.
#[derive(Debug)]
pub struct Noted {
    /// Readable once there is one.
    pub event: EventFd,
    /// The last one; 0: none.
    signal: AtomicI32,
}

impl Noted {
    /// Has these noted from now on, but for those that whoever started us has ignored.
    ///
    /// # Errors
    /// Those of eventfd(2) and sigaction(2).
    pub fn catch(signals: &[i32]) -> io::Result<Arc<Noted>> {
        let all = Arc::new(Noted { event: EventFd::new()?, signal: AtomicI32::new(0) });
        for signal in signals.iter().copied().filter(|signal| !is_ignored(*signal)) {
            let noted = Arc::clone(&all);
            let note = move || {
                noted.signal.store(signal, Ordering::SeqCst);
                noted.event.notify();
            };
            // SAFETY: it stores a number and calls write(2), as signal-safety(7) allows.
            unsafe { signal_hook::low_level::register(signal, note) }?;
        }
        Ok(all)
    }

    /// The last one that came.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

/// What was done at SIGSEGV and SIGBUS before us.
static BEFORE: [OnceLock<libc::sigaction>; 2] = [const { OnceLock::new() }; 2];

/// Has a SIGSEGV or SIGBUS that a process sent end this one. Rust's own handler, which reports an
/// overflow of the stack, expects that a fault comes again when it returns: it loses the first of those.
pub fn end_by_sent_faults() -> io::Result<()> {
    for (signal, before) in [libc::SIGSEGV, libc::SIGBUS].into_iter().zip(&BEFORE) {
        // SAFETY: all-zero is a valid sigaction; `on_fault` has the signature that SA_SIGINFO asks for
        // and does only what signal-safety(7) allows.
        unsafe {
            let [mut new, mut old]: [libc::sigaction; 2] = std::mem::zeroed();
            check(libc::sigaction(signal, std::ptr::null(), &raw mut old))?;
            let _ = before.set(old);
            new.sa_sigaction = on_fault as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            check(libc::sigaction(signal, &raw const new, std::ptr::null_mut()))?;
        }
    }
    Ok(())
}

extern "C" fn on_fault(signal: c_int, info: *mut RawInfo, _context: *mut c_void) {
    let before = BEFORE[usize::from(signal == libc::SIGBUS)].get();
    // SAFETY: the kernel gives a valid siginfo, and `before` is what it told us itself. A fault comes again
    // when this returns; a signal that was sent is blocked until then, and ends us.
    unsafe {
        match before.filter(|_| (*info).si_code > 0) {
            Some(before) => {
                libc::sigaction(signal, before, std::ptr::null_mut());
            }
            None => {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn a_real_overflow_of_the_stack_is_still_reported() {
        fn deeper(depth: u64) -> u64 {
            let below = if depth == u64::MAX { 0 } else { deeper(depth + 1) };
            below ^ std::hint::black_box([depth; 512])[1]
        }
        if std::env::var_os("OVERFLOW").is_some() {
            end_by_sent_faults().unwrap();
            deeper(0);
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        let name = "sys::signal::tests::a_real_overflow_of_the_stack_is_still_reported";
        let ended = again.args(["--exact", name]).env("OVERFLOW", "1").output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{told}");
        assert!(told.contains("has overflowed its stack"), "{told}");
    }
}
