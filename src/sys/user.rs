//! Users: who we run as, and the password database.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

use super::check;

/// Our effective user id.
pub fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// How many processes and threads this user may have, where that is limited (RLIMIT_NPROC,
/// getrlimit(2)); it does not hold for root.
pub fn process_limit() -> Option<usize> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct that lives here.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limits) }).ok()?;
    let limited = own_uid() != 0 && limits.rlim_cur != libc::RLIM_INFINITY;
    limited.then_some(usize::try_from(limits.rlim_cur).ok()?)
}

/// An entry of the password database (getpwnam_r(3)).
#[derive(Debug, Clone)]
pub struct User {
    pub name: OsString,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

/// Looks up a user by name; `None` when there is none.
pub fn by_name(name: &str) -> Option<User> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a C string that lives through the call; `lookup` owns the rest.
    lookup(&|entry, buffer, size, found| unsafe {
        libc::getpwnam_r(name.as_ptr(), entry, buffer, size, found)
    })
}

/// Looks up a user by number; `None` when there is none.
pub fn by_uid(uid: u32) -> Option<User> {
    // SAFETY: `lookup` owns everything that the pointers point at.
    lookup(&|entry, buffer, size, found| unsafe {
        libc::getpwuid_r(uid, entry, buffer, size, found)
    })
}

/// What a user is called, for people and for `sudo -u`: the name, or `#UID` where there is none.
pub fn display_name(uid: u32) -> String {
    by_uid(uid).map_or_else(|| format!("#{uid}"), |user| user.name.to_string_lossy().into_owned())
}

/// The rights of another user, for as long as it lives.
#[derive(Debug)]
struct Rights {
    groups: Vec<libc::gid_t>,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

impl Rights {
    /// Takes the rights of `user`, as root: files that are made belong to that user, and no symlink that the
    /// user has laid leads where the user could not go. With the user's supplementary groups
    /// (initgroups(3)), ours are put aside meanwhile. For a process with one thread.
    ///
    /// # Errors
    /// EPERM when we are not root. What cannot be taken back ends the process.
    fn of(user: &User) -> io::Result<Rights> {
        let name = CString::new(user.name.as_bytes())?;
        // SAFETY: the calls take plain numbers and a list that lives here, of the size that is given.
        let ours = unsafe {
            let count = check(libc::getgroups(0, ptr::null_mut()))?;
            let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
            check(libc::getgroups(count, groups.as_mut_ptr()))?;
            Rights { groups, uid: libc::geteuid(), gid: libc::getegid() }
        };
        // SAFETY: as above, and the name lives through the call; groups first, since only root may set them.
        let taken = unsafe {
            // Whoever may not do even this has nothing to take back.
            if let Err(e) = check(libc::initgroups(name.as_ptr(), user.gid)) {
                std::mem::forget(ours);
                return Err(e);
            }
            check(libc::setegid(user.gid)).and_then(|_| check(libc::seteuid(user.uid)))
        };
        taken.map(|_| ours)
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        // SAFETY: plain numbers and a list that lives here; in the reverse order.
        let back = unsafe {
            check(libc::seteuid(self.uid))
                .and_then(|_| check(libc::setegid(self.gid)))
                .and_then(|_| check(libc::setgroups(self.groups.len(), self.groups.as_ptr())))
        };
        if back.is_err() {
            // To go on with another user's rights would be worse than any error.
            std::process::abort();
        }
    }
}

/// Does something with the rights of `user`: see [`Rights`].
///
/// # Errors
/// Those rights cannot be had.
pub fn acting_as<T>(user: &User, act: impl FnOnce() -> T) -> io::Result<T> {
    let _rights = Rights::of(user)?;
    Ok(act())
}

type Found = *mut *mut libc::passwd;

fn lookup(
    ask: &dyn Fn(*mut libc::passwd, *mut libc::c_char, usize, Found) -> libc::c_int,
) -> Option<User> {
    // What takes more is no password entry any more. The kernel gives only the pages that are used.
    let mut buffer = vec![0 as libc::c_char; 1 << 20];
    // SAFETY: all-zero is a valid passwd (null pointers); getpw*_r fills it with pointers into `buffer`,
    // which outlives every use of them below.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = ptr::null_mut();
        if ask(&raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) != 0 {
            return None;
        }
        let entry = found.as_ref()?;
        let text = |p: *const libc::c_char| OsStr::from_bytes(CStr::from_ptr(p).to_bytes());
        Some(User {
            name: text(entry.pw_name).to_owned(),
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            home: PathBuf::from(text(entry.pw_dir)),
        })
    }
}
