//! Executing a program in this process, by its descriptor (execveat(2)), and how one program tells the next
//! what it has left for it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::fd::close_inherited_on_exec;
use super::signal::block_all;
use super::spawn::c_strings;

/// Replaces this process by the program behind a descriptor, with these arguments, exactly these variables
/// (`NAME=VALUE`), its 0, 1 and 2, and the descriptors to `keep`. Signals stay blocked, and wait for the
/// program. Returns only with why not; then all is as before.
pub fn execute(
    program: BorrowedFd<'_>,
    argv: &[OsString],
    environment: &[OsString],
    keep: &[BorrowedFd<'_>],
) -> io::Error {
    let strings = c_strings(argv).and_then(|argv| Ok((argv, c_strings(environment)?)));
    let ((argv, _argv), (envp, _envp)) = match strings {
        Ok(strings) => strings,
        Err(e) => return e,
    };
    block_all();
    // All others first: what a library has opened without the flag is nobody's business.
    close_inherited_on_exec();
    let inherit = |flag: libc::c_int| {
        // SAFETY: F_SETFD sets a flag of descriptors that are borrowed for longer than the call.
        keep.iter().for_each(|fd| _ = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flag) });
    };
    inherit(0);
    // SAFETY: the strings end with NUL, and the arrays of them with a null pointer. Rust ignores SIGPIPE at
    // the start and the new program must not inherit that.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let (fd, path) = (program.as_raw_fd(), c"".as_ptr());
        let flag = libc::AT_EMPTY_PATH;
        libc::syscall(libc::SYS_execveat, fd, path, argv.as_ptr(), envp.as_ptr(), flag);
    }
    let error = io::Error::last_os_error();
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    inherit(libc::FD_CLOEXEC);
    error
}

/// Takes a variable out of the environment and returns it.
///
/// To be called while there is no other thread.
pub fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: no other thread reads the environment, as the caller sees to.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Names this process as `ps` shows it (PR_SET_NAME, prctl(2)): an exec by a descriptor has called it by its
/// number.
pub fn set_name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        // SAFETY: prctl reads at most 16 bytes of a string that ends with NUL.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }
}
