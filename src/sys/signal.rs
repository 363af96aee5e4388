//! Signals: what siginfo says.

pub use libc::siginfo_t as RawInfo;

pub const SIGINT: i32 = libc::SIGINT;
pub const SIGTERM: i32 = libc::SIGTERM;
pub const SIGHUP: i32 = libc::SIGHUP;
pub const SIGCHLD: i32 = libc::SIGCHLD;

/// `si_code` of a plain kill(2) (sigaction(2)): only then are pid and uid the kernel's word.
pub const SI_USER: i32 = libc::SI_USER;

/// `si_code` of a signal that the kernel itself sends, such as for Ctrl-C at the terminal.
pub const SI_KERNEL: i32 = libc::SI_KERNEL;

/// Pid and uid of the sender, as the siginfo names them. With a negative `si_code` the sender
/// wrote them itself (rt_sigqueueinfo(2)); pid 0 is a sender outside our pid namespace.
pub fn sender(info: &RawInfo) -> (i32, u32) {
    // SAFETY: the kernel fills the whole siginfo; for the signals that we catch, kill's and the
    // queue's members share the place of si_pid and si_uid, and any bits are valid integers.
    unsafe { (info.si_pid(), info.si_uid()) }
}
