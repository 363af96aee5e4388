//! A library for LD_PRELOAD that makes single calls of a gateway on its journal fail; see
//! tests/util/fault.rs, which builds and orders it.
//!
//! HERMES_FAULT is "CALL ERRNO FIRST LAST PREFIX LOG MARKER": the calls FIRST to LAST of this kind, on
//! a path that begins with PREFIX or on the directory of that, fail with this errno, and LOG gets a
//! line for each. Errno 0 is a short write: half of call FIRST, then no space; -1 is a hang: the call goes
//! on when MARKER is gone. With a MARKER that is not "-", calls fail while that file is there.
//! "pthread_create", "eventfd" and "fork" are on no path. With "sigaction" ERRNO is a signal, which the
//! process gets as soon as it has a handler for it; with "waitid" it is by how many milliseconds each such
//! call is late. With "environ" seven of eight environments in /proc end after their first bytes.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const ENOSPC: c_int = 28;
const HANG: c_int = -1;

// SAFETY: these are the C library's, as its headers have them on 64-bit Linux.
unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn readlink(path: *const c_char, buffer: *mut c_char, size: usize) -> isize;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn poll(none: *mut c_void, count: c_ulong, milliseconds: c_int) -> c_int;
    fn __errno_location() -> *mut c_int;
}

struct Order {
    /// Kinds of calls, with "+" between them.
    call: String,
    error: c_int,
    first: u32,
    last: u32,
    prefix: String,
    log: CString,
    marker: Option<CString>,
}

fn order() -> Option<&'static Order> {
    static ORDER: OnceLock<Option<Order>> = OnceLock::new();
    let read = || {
        let text = std::env::var("HERMES_FAULT").ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let [call, error, first, last, prefix, log, marker] = words[..] else { return None };
        Some(Order {
            call: call.to_owned(),
            error: error.parse().ok()?,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            prefix: prefix.to_owned(),
            log: CString::new(log).ok()?,
            marker: if marker == "-" { None } else { Some(CString::new(marker).ok()?) },
        })
    };
    ORDER.get_or_init(read).as_ref()
}

/// What a call is to do.
enum Verdict {
    Go,
    /// Only half of it.
    Half,
    Fail(c_int),
}

impl Order {
    fn means(&self, call: &str) -> bool {
        self.call.split('+').any(|kind| kind == call)
    }
}

fn judge(call: &str, path: &str) -> Verdict {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Some(order) = order() else { return Verdict::Go };
    let directory = order.prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
    let anywhere = ["pthread_create", "eventfd", "fork"].contains(&call);
    let there = anywhere || path.starts_with(&order.prefix) || path == directory;
    if !order.means(call) || !there {
        return Verdict::Go;
    }
    if order.marker.as_deref().is_some_and(|marker| !is_there(marker)) {
        return Verdict::Go;
    }
    let number = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    let short = order.error == 0;
    let last = if short { order.last.saturating_add(1) } else { order.last };
    if number < order.first || number > last {
        return Verdict::Go;
    }
    tell(order, &format!("{call} {path}\n"));
    match order.error {
        HANG => {
            while order.marker.as_deref().is_some_and(is_there) {
                // SAFETY: it waits on no descriptors.
                unsafe { poll(std::ptr::null_mut(), 0, 2) };
            }
            Verdict::Go
        }
        0 if number == order.first => Verdict::Half,
        0 => Verdict::Fail(ENOSPC),
        error => Verdict::Fail(error),
    }
}

fn is_there(path: &CStr) -> bool {
    // SAFETY: the path ends in NUL and lives through the call.
    unsafe { access(path.as_ptr(), 0) == 0 }
}

fn judge_fd(call: &str, fd: c_int) -> Verdict {
    // Most of what a gateway writes is not meant.
    if order().is_none_or(|order| !order.means(call)) {
        return Verdict::Go;
    }
    judge(call, &path_of(fd))
}

/// The path behind a descriptor.
fn path_of(fd: c_int) -> String {
    let link = CString::new(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    let mut buffer = [0_u8; 4096];
    // SAFETY: the buffer is ours and as long as said.
    let length = unsafe { readlink(link.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let bytes = &buffer[..usize::try_from(length).unwrap_or(0)];
    String::from_utf8_lossy(bytes).into_owned()
}

/// An absolute path, from what openat(2) and its like take.
fn path_at(dir: c_int, path: *const c_char) -> String {
    // The standard library asks without one whether the kernel has such a call.
    if path.is_null() {
        return String::new();
    }
    // SAFETY: callers hand us what they would hand to the C library: a string that ends in NUL.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    // A directory that the gateway holds open.
    let held = path.strip_prefix("/proc/self/fd/").and_then(|rest| rest.split_once('/'));
    if let Some((Ok(fd), name)) = held.map(|(fd, name)| (fd.parse(), name)) {
        return format!("{}/{name}", path_of(fd));
    }
    if path.starts_with('/') || dir < 0 { path } else { format!("{}/{path}", path_of(dir)) }
}

/// The C library's own function of this name.
macro_rules! real {
    ($name:expr, fn($($type:ty),*) -> $result:ty) => {{
        static REAL: OnceLock<usize> = OnceLock::new();
        let next = -1_isize as *mut c_void; // RTLD_NEXT
        // SAFETY: the name ends in NUL.
        let found = *REAL.get_or_init(|| unsafe { dlsym(next, CStr::as_ptr($name)) } as usize);
        // SAFETY: it is the function of this name, and this is its type.
        unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($type),*) -> $result>(found) }
    }};
}

fn tell(order: &Order, line: &str) {
    const WRITE_CREATE_APPEND: c_int = 0o2101;
    let open = real!(c"open64", fn(*const c_char, c_int, c_uint) -> c_int);
    // SAFETY: the path ends in NUL and lives through the call.
    let fd = unsafe { open(order.log.as_ptr(), WRITE_CREATE_APPEND, 0o600) };
    if fd >= 0 {
        // SAFETY: just opened, by us, for us.
        let mut file = unsafe { std::fs::File::from_raw_fd(fd) };
        // One write, on a path that is never meant itself.
        let _ = file.write_all(line.as_bytes());
    }
}

fn fail(error: c_int) {
    // SAFETY: the location is this thread's own.
    unsafe { *__errno_location() = error };
}

/// A function of the C library's, with a verdict before it and what half of it would be.
macro_rules! stand_before {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty, $verdict:expr) => {
        stand_before!($name($($arg: $type),*) -> $result, $verdict, ($($arg),*));
    };
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty, $verdict:expr, ($($half:expr),*)) => {
        // SAFETY: the C library's function of this name has this type, and asks the same of callers.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            let name = const { cstr(concat!(stringify!($name), "\0")) };
            let real = real!(name, fn($($type),*) -> $result);
            match $verdict {
                // SAFETY: the arguments are the caller's.
                Verdict::Go => unsafe { real($($arg),*) },
                // SAFETY: and so is half of its buffer.
                Verdict::Half => unsafe { real($($half),*) },
                Verdict::Fail(error) => {
                    fail(error);
                    -1
                }
            }
        }
    };
}

const fn cstr(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!(),
    }
}

type Path = *const c_char;
type Bytes = *const c_void;

stand_before!(write(fd: c_int, bytes: Bytes, size: usize) -> isize,
    judge_fd("write", fd), (fd, bytes, size.div_ceil(2)));
stand_before!(pwrite(fd: c_int, bytes: Bytes, size: usize, at: i64) -> isize,
    judge_fd("write", fd), (fd, bytes, size.div_ceil(2), at));
stand_before!(pwrite64(fd: c_int, bytes: Bytes, size: usize, at: i64) -> isize,
    judge_fd("write", fd), (fd, bytes, size.div_ceil(2), at));
stand_before!(writev(fd: c_int, parts: Bytes, count: c_int) -> isize, judge_fd("write", fd));
stand_before!(pread64(fd: c_int, buffer: *mut c_void, size: usize, at: i64) -> isize, judge_fd("read", fd));
stand_before!(fdatasync(fd: c_int) -> c_int, judge_fd("fdatasync", fd));
stand_before!(fsync(fd: c_int) -> c_int, judge_fd("fsync", fd));
stand_before!(ftruncate(fd: c_int, size: i64) -> c_int, judge_fd("ftruncate", fd));
stand_before!(ftruncate64(fd: c_int, size: i64) -> c_int, judge_fd("ftruncate", fd));
stand_before!(fallocate(fd: c_int, mode: c_int, at: i64, size: i64) -> c_int, judge_fd("fallocate", fd));
stand_before!(fallocate64(fd: c_int, mode: c_int, at: i64, size: i64) -> c_int, judge_fd("fallocate", fd));
stand_before!(posix_fadvise64(fd: c_int, at: i64, size: i64, advice: c_int) -> c_int,
    judge_fd("fadvise", fd));
stand_before!(rename(from: Path, to: Path) -> c_int, judge("rename", &path_at(-1, from)));
stand_before!(renameat(a: c_int, from: Path, b: c_int, to: Path) -> c_int,
    judge("rename", &path_at(a, from)));
stand_before!(renameat2(a: c_int, from: Path, b: c_int, to: Path, flags: c_uint) -> c_int,
    judge("rename", &path_at(a, from)));
stand_before!(open(path: Path, flags: c_int, mode: c_uint) -> c_int,
    judge("openat", &path_at(-1, path)));
stand_before!(open64(path: Path, flags: c_int, mode: c_uint) -> c_int,
    judge("openat", &path_at(-1, path)));
stand_before!(openat(dir: c_int, path: Path, flags: c_int, mode: c_uint) -> c_int,
    judge("openat", &path_at(dir, path)));
stand_before!(openat64(dir: c_int, path: Path, flags: c_int, mode: c_uint) -> c_int,
    judge("openat", &path_at(dir, path)));
stand_before!(statx(dir: c_int, path: Path, flags: c_int, mask: c_uint, into: *mut c_void) -> c_int,
    judge("statx", &path_at(dir, path)));

stand_before!(eventfd(first: c_uint, flags: c_int) -> c_int, judge("eventfd", ""));
stand_before!(fork() -> c_int, judge("fork", ""));

/// The environment of a process that executes another program meanwhile ends where it has been read to.
// SAFETY: the C library's function of this name has this type, and asks the same of callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buffer: *mut c_void, size: usize) -> isize {
    /// Even: the next file is cut, odd: this one ends here, LAST: the next is whole, or this one is.
    static STATE: AtomicU32 = AtomicU32::new(0);
    const LAST: u32 = 14;
    let is_environ = |order: &Order| order.means("environ") && path_of(fd).ends_with("/environ");
    let state = order().filter(|order| is_environ(order)).map(|_| STATE.load(Ordering::SeqCst));
    if let Verdict::Fail(error) = judge_fd("read", fd) {
        fail(error);
        return -1;
    }
    let size =
        if state.is_some_and(|state| state < LAST && state % 2 == 0) { size.min(32) } else { size };
    let real = real!(c"read", fn(c_int, *mut c_void, usize) -> isize);
    // SAFETY: the arguments are the caller's, or less of its buffer.
    let got = if state.is_some_and(|state| state % 2 == 1) {
        0
    } else {
        unsafe { real(fd, buffer, size) }
    };
    match state {
        Some(known @ 0..LAST) => STATE.store(known + 1, Ordering::SeqCst),
        Some(_) if got == 0 => STATE.store(0, Ordering::SeqCst),
        _ => {}
    }
    got
}

/// Late by as many milliseconds as the order says instead of an errno: time for other processes.
// SAFETY: the C library's function of this name has this type, and asks the same of callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waitid(kind: c_uint, id: c_uint, into: *mut c_void, how: c_int) -> c_int {
    if let Some(order) = order().filter(|order| order.means("waitid")) {
        // SAFETY: it waits on no descriptors.
        unsafe { poll(std::ptr::null_mut(), 0, order.error) };
    }
    let real = real!(c"waitid", fn(c_uint, c_uint, *mut c_void, c_int) -> c_int);
    // SAFETY: the arguments are the caller's.
    unsafe { real(kind, id, into, how) }
}

/// Here the call itself succeeds: what it does is what the gateway must be ready for.
// SAFETY: the C library's function of this name has this type, and asks the same of callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const usize, old: *mut usize) -> c_int {
    let real = real!(c"sigaction", fn(c_int, *const usize, *mut usize) -> c_int);
    // SAFETY: the arguments are the caller's.
    let result = unsafe { real(signal, new, old) };
    // SAFETY: a struct sigaction begins with its handler; 0 and 1 are SIG_DFL and SIG_IGN.
    let handled = !new.is_null() && unsafe { *new } > 1;
    if handled && order().is_some_and(|order| order.means("sigaction") && order.error == signal) {
        // SAFETY: a process may send itself any signal.
        unsafe { kill(getpid(), signal) };
    }
    result
}

type Work = extern "C" fn(*mut c_void) -> *mut c_void;

/// Returns its error, and leaves errno alone.
// SAFETY: the C library's function of this name has this type, and asks the same of callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut c_void,
    how: Bytes,
    work: Work,
    argument: *mut c_void,
) -> c_int {
    if let Verdict::Fail(error) = judge("pthread_create", "") {
        return error;
    }
    let real = real!(c"pthread_create", fn(*mut c_void, Bytes, Work, *mut c_void) -> c_int);
    // SAFETY: the arguments are the caller's.
    unsafe { real(thread, how, work, argument) }
}
stand_before!(unlink(path: Path) -> c_int, judge("unlink", &path_at(-1, path)));
stand_before!(unlinkat(dir: c_int, path: Path, flags: c_int) -> c_int,
    judge("unlink", &path_at(dir, path)));
