//! What only tests ask of the kernel.

use std::ffi::CString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicI32;

use super::check;
use super::process::wait;
use super::spawn::{SpawnOptions, spawn};

#[test]
fn a_child_has_its_limits_from_its_first_instruction() {
    let argv = ["/bin/sh", "-c", "ulimit -Sn"].map(Into::into);
    let (number, descriptors) = (&AtomicI32::new(0), Some(77));
    let (stdin, own_group, cgroup, image) = (false, true, None, None);
    let options = SpawnOptions { stdin, own_group, number, cgroup, descriptors, image, kept: None };
    let child = spawn(&argv, &[], options).unwrap();
    let (mut told, mut stdout) = (String::new(), child.stdout.unwrap());
    wait(child.pid).unwrap();
    stdout.read_to_string(&mut told).unwrap();
    assert_eq!(told.trim(), "77");
}

/// Lets another user read and write a file, by an access control list. Says whether the file system
/// has such.
pub fn share_with(path: &Path, uid: u32) -> bool {
    // Version 2: the owner, that user, the group, the mask, others (linux/posix_acl_xattr.h).
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 6, uid),
        (4, 0, u32::MAX),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let (target, name) =
        (CString::new(path.as_os_str().as_bytes()).unwrap(), c"system.posix_acl_access");
    // SAFETY: setxattr reads two C strings and a list of this length, which live here.
    let set = unsafe {
        libc::setxattr(target.as_ptr(), name.as_ptr(), list.as_ptr().cast(), list.len(), 0)
    };
    if let Err(e) = check(set) {
        assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP));
        return false;
    }
    true
}
