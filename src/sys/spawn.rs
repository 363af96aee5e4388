//! Starting programs: posix_spawn(3), execv(3).
//!
//! Not std's `Command`: that one searches, forks and keeps trees of variables for cases that we
//! never have, 30 kB of it, and leaves the signal mask to whoever calls.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::process::Pid;

/// What a child gets and how it stands to us.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// A pipe on its stdin; else /dev/null.
    pub stdin: bool,
    /// It leads a process group of its own.
    pub own_group: bool,
    /// SIGTERM is blocked in it: it outlives one to the whole control group (systemd.kill(5)).
    pub shielded: bool,
}

/// A child and our ends of its pipes, close-on-exec.
#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

/// Starts `program` (a path, not searched for) with `arguments` behind its name and exactly these
/// variables (`NAME=VALUE`). It has no descriptors but 0, 1 and 2, and default signal handling.
///
/// # Errors
/// Those of pipe2(2) and posix_spawn(3), among them what execve(2) says of the program;
/// InvalidInput for a NUL in any of the strings.
pub fn spawn(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    environment: &[impl AsRef<OsStr>],
    manner: Manner,
) -> io::Result<Spawned> {
    let path = c_string(program.as_os_str())?;
    let (argv, _argv) = c_strings([program.as_os_str()].into_iter().chain(os(arguments)))?;
    let (envp, _envp) = c_strings(os(environment))?;
    let input = if manner.stdin { Some(pipe()?) } else { None };
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;

    let mut actions = Actions::new()?;
    match &input {
        Some((read, _)) => actions.put(read, 0)?,
        None => actions.open_null(0)?,
    }
    actions.put(&out_write, 1)?;
    actions.put(&err_write, 2)?;
    let attributes = Attributes::new(manner)?;
    let mut pid = 0;
    // SAFETY: all pointers are to values that live through the call: NUL-terminated strings, arrays
    // that end with a null pointer, and initialised actions and attributes.
    let error = unsafe {
        let (actions, attributes) = (&raw const actions.0, &raw const attributes.0);
        let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
        libc::posix_spawn(&raw mut pid, path.as_ptr(), actions, attributes, argv, envp)
    };
    check(error)?;
    Ok(Spawned {
        pid: Pid::new(pid).ok_or(io::ErrorKind::InvalidData)?,
        stdin: input.map(|(_, write)| File::from(write)),
        stdout: File::from(out_read),
        stderr: File::from(err_read),
    })
}

/// Replaces this process by `program`, with its environment and descriptors. Returns only with why
/// not.
pub fn replace_by(program: &Path, arguments: &[impl AsRef<OsStr>]) -> io::Error {
    let strings = c_strings([program.as_os_str()].into_iter().chain(os(arguments)));
    let (path, argv) = match (c_string(program.as_os_str()), strings) {
        (Ok(path), Ok((argv, _strings))) => (path, (argv, _strings)),
        (Err(e), _) | (_, Err(e)) => return e,
    };
    // SAFETY: a NUL-terminated path and an array of such strings that ends with a null pointer.
    // Rust ignores SIGPIPE at the start and the new program must not inherit that.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execv(path.as_ptr(), argv.0.as_ptr().cast());
    }
    io::Error::last_os_error()
}

fn os(strings: &[impl AsRef<OsStr>]) -> impl Iterator<Item = &OsStr> {
    strings.iter().map(AsRef::as_ref)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

type Pointers = Vec<*mut libc::c_char>;

/// The strings, and an array of pointers to them that ends with a null one.
fn c_strings<'a>(texts: impl Iterator<Item = &'a OsStr>) -> io::Result<(Pointers, Vec<CString>)> {
    let strings = texts.map(c_string).collect::<io::Result<Vec<CString>>>()?;
    let pointers = strings.iter().map(|s| s.as_ptr().cast_mut());
    Ok((pointers.chain([ptr::null_mut()]).collect(), strings))
}

/// A pipe, close-on-exec (pipe2(2)).
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 fills the array with two new descriptors that nobody else owns.
    unsafe {
        super::check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// posix_spawn and its helpers return the error instead of setting errno.
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// What the child does with its descriptors before it executes the program.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, or fails.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Actions(actions.assume_init()))
        }
    }

    /// Makes `fd` the child's descriptor `number`; the copy is not close-on-exec.
    fn put(&mut self, fd: &OwnedFd, number: i32) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        // SAFETY: the actions are initialised, and the descriptors are open until the spawn.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd, number) })
    }

    fn open_null(&mut self, number: i32) -> io::Result<()> {
        let (path, flags) = (c"/dev/null".as_ptr(), libc::O_RDONLY);
        // SAFETY: the actions are initialised, and the path is a static C string.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, number, path, flags, 0)
        })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        unsafe {
            libc::posix_spawn_file_actions_destroy(&raw mut self.0);
        }
    }
}

/// The child's group and signals.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new(manner: Manner) -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, or fails.
        let mut this = unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            Attributes(attributes.assume_init())
        };
        let group = if manner.own_group { libc::POSIX_SPAWN_SETPGROUP } else { 0 };
        let flags = group | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the attributes are initialised, and so are the sets before they are read.
        unsafe {
            let at = &raw mut this.0;
            let mut blocked = MaybeUninit::uninit();
            libc::sigemptyset(blocked.as_mut_ptr());
            if manner.shielded {
                libc::sigaddset(blocked.as_mut_ptr(), libc::SIGTERM);
            }
            // Rust ignores SIGPIPE at the start, and exec would pass that on.
            let mut default = MaybeUninit::uninit();
            libc::sigemptyset(default.as_mut_ptr());
            libc::sigaddset(default.as_mut_ptr(), libc::SIGPIPE);
            check(libc::posix_spawnattr_setsigmask(at, blocked.as_ptr()))?;
            check(libc::posix_spawnattr_setsigdefault(at, default.as_ptr()))?;
            check(libc::posix_spawnattr_setpgroup(at, 0))?;
            check(libc::posix_spawnattr_setflags(at, flags))?;
        }
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        unsafe {
            libc::posix_spawnattr_destroy(&raw mut self.0);
        }
    }
}
