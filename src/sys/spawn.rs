//! Starting programs: clone(2) in the way of vfork(2), and execve(2).
//!
//! Not std's `Command`, which searches, keeps trees of variables for cases that we never have, and
//! leaves the signal mask to whoever calls. And not posix_spawn(3), which tells a child's number only
//! after its exec, which can hang, and puts no child into a control group before glibc 2.39. What is
//! done here is what posix_spawn does in glibc: the child shares our memory, on a stack of its own, and
//! this thread waits until it has executed the program or ended.

use super::gather::Gather;
use std::ffi::{CString, OsString, c_int, c_void};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use super::fd::{limits_with, set_nonblocking};
use super::process::{Pid, PidFd, kill, wait};
use super::signal::with_all_blocked;

/// The stack on which a child comes to its exec, in units of 16 bytes: 64 KiB, of which it uses 2.
const STACK: usize = 4096;

/// CLONE_INTO_CGROUP (clone3(2)): libc's constant is too narrow for it.
const INTO_CGROUP: u64 = 1 << 33;

/// The last signal that Linux has on most machines (signal(7)).
const LAST_SIGNAL: c_int = 64;

/// What a child gets, how it stands to us, and where it comes to be.
#[derive(Clone, Copy, Debug)]
pub struct SpawnOptions<'a> {
    /// A pipe on its stdin; else /dev/null.
    pub stdin: bool,
    /// It leads a process group of its own; else SIGTERM is blocked in it, so that it outlives one to
    /// the whole control group (systemd.kill(5)).
    pub own_group: bool,
    /// Holds the child's number from before its first instruction until this is overwritten, so
    /// that nobody takes it for another's orphan while its exec goes on.
    pub number: &'a AtomicI32,
    /// The directory of the control group (cgroups(7), version 2) that it is in before its exec.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Its soft limit on open descriptors, as far as the hard one allows; else ours.
    pub descriptors: Option<u64>,
    /// The open file to execute (execveat(2)), whatever is at its path by now.
    pub image: Option<BorrowedFd<'a>>,
    /// A descriptor that it has, too, by the same number.
    pub kept: Option<BorrowedFd<'a>>,
}

/// A child and our ends of its pipes, close-on-exec, which do not block.
pub struct Spawned {
    pub pid: Pid,
    pub pidfd: PidFd,
    /// It is in the control group that it was meant for.
    pub joined: bool,
    pub stdin: Option<PipeWriter>,
    pub stdout: Option<PipeReader>,
    pub stderr: Option<PipeReader>,
}

/// What the child reads before its exec, and the two answers that it leaves there: it shares our
/// memory.
struct ChildSetup {
    argv: *const *mut libc::c_char,
    envp: *const *mut libc::c_char,
    /// Its 0, 1 and 2.
    streams: [c_int; 3],
    /// The directory of the control group to enter; -1: none, or it was born there.
    cgroup: c_int,
    /// Unlike most of what we have, limits are inherited, and programs that use select(2) trust in the usual one.
    descriptors: Option<libc::rlimit64>,
    /// The open program; -1: the one at the path `argv[0]`.
    image: c_int,
    /// The descriptor that stays open; -1: none.
    kept: c_int,
    own_group: bool,
    joined: bool,
    error: Option<c_int>,
}

/// Starts the program `argv[0]` (a path, not searched for), or the open one, with these arguments and exactly these
/// variables (`NAME=VALUE`). It has no descriptors but 0, 1, 2 and what is kept, and default signal handling.
///
/// # Errors
/// Those of pipe2(2), clone(2) and pidfd_open(2) (Linux before 5.3), and what execve(2) says of the
/// program; InvalidInput for a NUL in any of the strings.
pub fn spawn(
    argv: &[OsString],
    environment: &[OsString],
    options: SpawnOptions<'_>,
) -> io::Result<Spawned> {
    let (argv, _argv) = c_strings(argv)?;
    let (envp, _envp) = c_strings(environment)?;
    let (input, stdin) = match options.stdin {
        true => io::pipe().map(|(read, write)| (OwnedFd::from(read), Some(write)))?,
        false => (File::open("/dev/null")?.into(), None),
    };
    let (stdout, out_write) = io::pipe()?;
    let (stderr, err_write) = io::pipe()?;
    for ours in [Some(stdout.as_fd()), Some(stderr.as_fd()), stdin.as_ref().map(AsFd::as_fd)] {
        ours.map_or(Ok(()), set_nonblocking)?;
    }
    let mut setup = ChildSetup {
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        streams: [input.as_raw_fd(), out_write.as_raw_fd(), err_write.as_raw_fd()],
        cgroup: -1,
        descriptors: options.descriptors.and_then(|soft| limits_with(soft).ok()),
        image: options.image.map_or(-1, |image| image.as_raw_fd()),
        kept: options.kept.map_or(-1, |kept| kept.as_raw_fd()),
        own_group: options.own_group,
        joined: options.cgroup.is_some(),
        error: None,
    };
    // No handler of ours may run in the child, where it would act on our memory: blocked here, they
    // are blocked there until it has put its signals in order.
    let pid = with_all_blocked(|| clone_child(&mut setup, options))?;
    if let Some(error) = setup.error {
        options.number.store(0, Ordering::SeqCst);
        let _ = wait(pid);
        return Err(io::Error::from_raw_os_error(error));
    }
    let pidfd = PidFd::open(pid).inspect_err(|_| {
        kill(pid);
        let _ = wait(pid);
    })?;
    let (stdout, stderr) = (Some(stdout), Some(stderr));
    Ok(Spawned { pid, pidfd, joined: setup.joined, stdin, stdout, stderr })
}

/// Makes the child, in its control group from the first if the kernel can; else it enters it itself.
/// Returns once it has executed its program, or ended.
fn clone_child(setup: &mut ChildSetup, options: SpawnOptions<'_>) -> io::Result<Pid> {
    // Kept until the child has left it: CLONE_VFORK.
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK);
    let (bottom, number) = (stack.as_mut_ptr(), options.number.as_ptr());
    let data = (&raw mut *setup).cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID;
    if let Some(group) = options.cgroup {
        // SAFETY: all-zero is a clone_args that asks for nothing. The stack is as large as it says,
        // aligned, and used by nobody else; `number` and `data` outlive the call, which ends when the
        // child is done with them.
        let born = unsafe {
            let mut how: libc::clone_args = std::mem::zeroed();
            how.flags = u64::from(flags.cast_unsigned()) | INTO_CGROUP;
            (how.parent_tid, how.exit_signal) = (number as u64, libc::SIGCHLD as u64);
            (how.stack, how.stack_size) = (bottom as u64, (STACK * size_of::<u128>()) as u64);
            how.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
            clone3(&how, data)
        };
        match Pid::new(born) {
            Some(pid) => return Ok(pid),
            // Linux before 5.7, or a filter that knows no clone3 (RestrictNamespaces=): the other way.
            None => setup.cgroup = group.as_raw_fd(),
        }
    }
    // SAFETY: as above; clone takes the stack's upper end.
    let born = super::check(unsafe {
        libc::clone(child_main, bottom.add(STACK).cast(), flags | libc::SIGCHLD, data, number)
    });
    let born = born.inspect_err(|_| options.number.store(0, Ordering::SeqCst))?;
    Pid::new(born).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// clone3(2), after which the child runs [`child_main`] on its own stack; libc has no wrapper.
///
/// # Safety
/// `how` names a stack that nobody else uses, and with CLONE_VM and CLONE_VFORK what `data` points to
/// is a [`ChildSetup`] that lives until this returns.
// SAFETY: it is the caller's, as written above.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(how: &libc::clone_args, data: *mut c_void) -> c_int {
    let result: libc::c_long;
    // SAFETY: the kernel keeps all registers of ours but rax, rcx and r11. The child begins behind the
    // system call with rax = 0 on its own stack, whose end is aligned as the call wants it, and never
    // comes back: `child_main` ends in exec or exit.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {data}",
            "call {run}",
            "ud2",
            "2:",
            data = in(reg) data,
            run = in(reg) child_main as extern "C" fn(*mut c_void) -> c_int,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") how,
            in("rsi") size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result as c_int
}

/// Other machines go the other way.
// SAFETY: it does nothing.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3(_: &libc::clone_args, _: *mut c_void) -> c_int {
    -libc::ENOSYS
}

/// The child, from its first instruction to its exec. It is in our memory, beside our threads: no
/// allocation, no lock, no panic, nothing but system calls and its own stack. By syscall(2), since a
/// preloaded library may stand where libc's functions are.
extern "C" fn child_main(setup: *mut c_void) -> c_int {
    // SAFETY: whoever made this child waits, and lends it the `ChildSetup` with all that it points to.
    let setup = unsafe { &mut *setup.cast::<ChildSetup>() };
    // SAFETY: the strings end with NUL, and the arrays of them with a null pointer; _exit may be
    // called anywhere.
    unsafe {
        if prepare(setup) {
            let (argv, envp) = (setup.argv, setup.envp);
            if setup.image < 0 {
                libc::syscall(libc::SYS_execve, *argv, argv, envp);
            } else {
                let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
                libc::syscall(libc::SYS_execveat, setup.image, path, argv, envp, flags);
            }
        }
        setup.error = io::Error::last_os_error().raw_os_error();
        libc::_exit(127)
    }
}

/// The child's group, streams and signals; false where a call has failed.
fn prepare(setup: &mut ChildSetup) -> bool {
    // SAFETY: system calls with plain numbers, static strings and structs that live here. What this
    // changes is the child's own: its groups, descriptors, handlers and mask are no longer shared.
    unsafe {
        if setup.cgroup >= 0 {
            let file = c"cgroup.procs".as_ptr();
            let flags = libc::O_WRONLY | libc::O_CLOEXEC;
            let entry = libc::syscall(libc::SYS_openat, setup.cgroup, file, flags);
            setup.joined = libc::syscall(libc::SYS_write, entry, c"0".as_ptr(), 1usize) == 1;
        }
        if setup.own_group && libc::syscall(libc::SYS_setpgid, 0, 0) != 0 {
            return false;
        }
        for (number, fd) in (0..).zip(setup.streams) {
            // The copy is not close-on-exec. Rust has something open on 0, 1 and 2: `fd` is none of
            // them.
            if libc::syscall(libc::SYS_dup3, fd, number, 0) < 0 {
                return false;
            }
        }
        if setup.kept >= 0 && libc::syscall(libc::SYS_fcntl, setup.kept, libc::F_SETFD, 0) < 0 {
            return false;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=LAST_SIGNAL {
            let known = libc::sigaction(signal, ptr::null(), &raw mut action) == 0;
            let ignored = action.sa_sigaction == libc::SIG_IGN && signal != libc::SIGPIPE;
            // Handlers are ours. Rust ignores SIGPIPE at the start, and exec would pass that on.
            if known && !ignored && action.sa_sigaction != libc::SIG_DFL {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        if !setup.own_group {
            libc::sigaddset(&raw mut blocked, libc::SIGTERM);
        }
        // Last: what it opens until then may be beyond that. A program runs without it, too.
        if let Some(limits) = &setup.descriptors {
            let none = ptr::null_mut::<c_void>();
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, &raw const *limits, none);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, ptr::null_mut()) == 0
    }
}

/// Replaces this process by the program `argv[0]`, with its environment and descriptors. Returns only
/// with why not.
pub fn replace_by(argv: &[OsString]) -> io::Error {
    let (argv, _argv) = match c_strings(argv) {
        Ok(strings) => strings,
        Err(e) => return e,
    };
    // SAFETY: a NUL-terminated path and an array of such strings that ends with a null pointer.
    // Rust ignores SIGPIPE at the start and the new program must not inherit that.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execv(argv[0], argv.as_ptr().cast());
    }
    io::Error::last_os_error()
}

pub(super) type Pointers = Vec<*mut libc::c_char>;

/// The strings, and an array of pointers to them that ends with a null one.
pub(super) fn c_strings(texts: &[OsString]) -> io::Result<(Pointers, Vec<CString>)> {
    let strings = texts.iter().map(|text| CString::new(text.as_bytes()));
    let strings = strings.collect::<Result<Vec<CString>, _>>()?;
    let pointers = strings.iter().map(|s| s.as_ptr().cast_mut());
    Ok((pointers.chain([ptr::null_mut()]).gather(), strings))
}
