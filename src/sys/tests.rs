//! What only tests ask of the kernel.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

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
