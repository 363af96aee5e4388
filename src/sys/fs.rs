//! Files that must be ours: private directories, no symlinks followed, replacement in one step.

use super::gather::Gather;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use super::{check, user};

/// Makes `path` a directory that only we can enter (0700, own uid, no symlink), creating what is
/// missing above it. An existing one with more rights is narrowed.
///
/// # Errors
/// PermissionDenied, with the reason, when it is a symlink, not a directory, or another user's.
pub fn private_dir(path: &Path) -> io::Result<()> {
    make_dirs(path, 0o700)?;
    if own_dir_mode(path)? & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Whether [`private_dir`] would make this directory or take it as it is; changes nothing.
///
/// # Errors
/// Its own.
pub fn check_private_dir(path: &Path) -> io::Result<()> {
    match (path.symlink_metadata(), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => may_write_in(parent),
        _ => own_dir_mode(path).and_then(|_| may_write(path)),
    }
}

/// Whether a file or directory can be made in this directory, or in the nearest one above it that is there.
fn may_write_in(dir: &Path) -> io::Result<()> {
    match (may_write(dir), dir.parent()) {
        (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => may_write_in(parent),
        (result, _) => result,
    }
}

/// Whether we may write a file, or make files in a directory (faccessat(2)).
pub fn may_write(path: &Path) -> io::Result<()> {
    let mode = if path.is_dir() { libc::W_OK | libc::X_OK } else { libc::W_OK };
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: faccessat reads a C string that lives here.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) })
        .map(drop)
}

/// The mode of a directory that must be our own.
fn own_dir_mode(path: &Path) -> io::Result<u32> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Err(denied(path, "is not a directory (symlinks are not followed)"));
    }
    if meta.uid() != user::own_uid() {
        return Err(denied(path, &format!("belongs to uid {}", meta.uid())));
    }
    Ok(meta.mode())
}

/// Makes a directory and what is missing above it.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    // Its name is durable before anything is promised about what is in it.
    let make = || DirBuilder::new().mode(mode).create(path).and_then(|()| sync_dir_of(path));
    match (make(), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => {
            make_dirs(parent, mode)?;
            make()
        }
        (Err(e), _) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        (result, _) => result,
    }
}

/// Opens a file that must be a regular one of our own uid or root's; a symlink fails with ELOOP.
pub fn open_own(path: &Path) -> io::Result<File> {
    open_private(path, false)
}

/// Opens a regular file of our own uid for reading and writing too, and narrows it to mode 0600.
pub fn open_own_to_write(path: &Path) -> io::Result<File> {
    let file = open_private(path, true)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn open_private(path: &Path, write: bool) -> io::Result<File> {
    // O_NONBLOCK: opening a fifo in its place must not hang us.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(flags);
    let file = options.open(path).map_err(|e| explain_symlink(path, e))?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(denied(path, "is not a regular file"));
    }
    if meta.uid() != user::own_uid() && (write || meta.uid() != 0) {
        return Err(denied(path, &format!("belongs to uid {}", meta.uid())));
    }
    Ok(file)
}

/// Sets room aside for a file without making it longer (fallocate(2)). `false`: the file system
/// knows no such thing.
pub fn preallocate(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    let (fd, flags) = (file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE);
    let (offset, length) = (offset.cast_signed(), length.cast_signed());
    loop {
        // SAFETY: fallocate takes a descriptor that is borrowed here, flags and numbers.
        let result = check(unsafe { libc::fallocate64(fd, flags, offset, length) });
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) => return Ok(true),
            Err((Some(libc::EINTR), _)) => {}
            Err((Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL), _)) => return Ok(false),
            Err((_, e)) => return Err(e),
        }
    }
}

/// Whether writes to blocks that a file has already go to these same blocks: true of ext4 and XFS
/// (fstatfs(2)). Elsewhere that is not known, or each takes a new one.
pub fn overwrites_in_place(file: &File) -> bool {
    // SAFETY: all-zero is a valid statfs; the call takes a descriptor that is borrowed here and fills
    // the struct, which lives here.
    unsafe {
        let mut about: libc::statfs = std::mem::zeroed();
        let asked = check(libc::fstatfs(file.as_raw_fd(), &raw mut about));
        asked.is_ok() && [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC].contains(&about.f_type)
    }
}

/// Bytes that are free on a file's file system for those who are not root (fstatvfs(3)); 0 where it
/// does not say.
pub fn free_space(file: &File) -> u64 {
    // SAFETY: all-zero is a valid statvfs; the call takes a descriptor that is borrowed here and fills
    // the struct, which lives here.
    unsafe {
        let mut about: libc::statvfs = std::mem::zeroed();
        let asked = check(libc::fstatvfs(file.as_raw_fd(), &raw mut about));
        asked.map_or(0, |_| about.f_bavail.saturating_mul(about.f_frsize))
    }
}

/// Drops what the page cache holds of a file, so that whoever reads it next sees what is on the
/// disk: after a failed fsync the cache shows, as clean, what the disk never got.
pub fn drop_page_cache(file: &File) {
    // SAFETY: posix_fadvise takes a descriptor that is borrowed here, and numbers.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// The text of a file that [`open_own`] takes, at most `cap` bytes of it.
pub fn read_own(path: &Path, cap: u64) -> io::Result<String> {
    read_text(open_own(path)?, cap)
}

/// The same of a file that nobody else may read, as the gateway makes it.
pub fn read_own_secret(path: &Path, cap: u64) -> io::Result<String> {
    let file = open_own(path)?;
    let mode = file.metadata()?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        let words = format!("others may read it (mode {mode:o}); chmod 600 {path}");
        return Err(io::Error::other(words));
    }
    read_text(file, cap)
}

/// The text of any file, at most `cap` bytes of it.
pub fn read_any(path: impl AsRef<Path>, cap: u64) -> io::Result<String> {
    read_text(File::open(path.as_ref())?, cap)
}

/// The rest of a file, at most `cap` bytes of it; InvalidData when it is not UTF-8.
pub fn read_text(file: File, cap: u64) -> io::Result<String> {
    let bytes = read_bytes(file, cap)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

/// The rest of a file, at most `cap` bytes of it.
pub fn read_bytes(file: File, cap: u64) -> io::Result<Vec<u8>> {
    // Most files in one piece: a list in /proc may change between two reads of it.
    let mut bytes = Vec::with_capacity(4096);
    file.take(cap).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What is in a directory, as far as it can be read.
pub fn entries(dir: &Path) -> Vec<fs::DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten().gather()
}

/// Opens for reading and writing, creating with mode 0600; a symlink fails with ELOOP.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// A symlink at the end of a path fails with [`TOO_MANY_LINKS`] (open(2)).
pub const NO_FOLLOW: i32 = libc::O_NOFOLLOW;

pub const TOO_MANY_LINKS: i32 = libc::ELOOP;

/// `None` for a file that is not there.
pub fn if_exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Puts `content` at `path` in one step: a temporary file beside it, sync, rename, sync of the
/// directory. Readers see the old file or the new one; after a power cut too.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    publish(path, content, mode, true, |from, to| fs::rename(from, to))?;
    sync_dir_of(path)
}

/// Like [`replace`], but durable only after a later [`sync`]: for the way to READY, which should
/// not wait for the disk. Readers still see the old file or the new one.
pub fn replace_unsynced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    publish(path, content, mode, false, |from, to| fs::rename(from, to))
}

/// Like [`replace`], but an existing file wins: `false`, and nothing is changed.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    match publish(path, content, mode, true, |from, to| fs::hard_link(from, to)) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        created => created.and_then(|()| sync_dir_of(path)).map(|()| true),
    }
}

fn publish(
    path: &Path,
    content: &[u8],
    mode: u32,
    sync: bool,
    link: fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_path(path);
    let result = create_new(&temporary, mode).and_then(|mut file| {
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        link(&temporary, path)
    });
    // The error that counts is the first; what is left behind has our pid in its name.
    let _ = fs::remove_file(&temporary);
    result
}

/// Makes a file and its name durable.
pub fn sync(path: &Path) -> io::Result<()> {
    open_own(path)?.sync_all()?;
    sync_dir_of(path)
}

/// Makes the names in the directory of `path` durable.
pub fn sync_dir_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Creates a file for reading and writing where there is none.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// Has files and directories that this process makes be readable by all, as far as their modes say.
pub fn share_new_files() {
    // SAFETY: umask takes a plain integer and cannot fail.
    unsafe { libc::umask(0o022) };
}

/// Whether a file can be made in this directory, which is made where it is missing.
pub fn can_write_in(dir: &Path) -> bool {
    let probe = temporary_path(&dir.join("probe"));
    let made = make_dirs(dir, 0o700).and_then(|()| create_new(&probe, 0o600));
    let _ = fs::remove_file(&probe);
    made.is_ok()
}

/// A name in the same directory that no other process of ours uses at the same time.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by a process that had this pid before and was killed in the middle.
    let _ = fs::remove_file(&temporary);
    temporary
}

/// "Too many levels of symbolic links" is what the kernel calls one that we do not follow.
pub fn explain_symlink(path: &Path, e: io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(libc::ELOOP) => denied(path, "is a symlink, and those are not followed"),
        _ => e,
    }
}

/// Whether an error on a file may pass by itself: the disk, the network behind it, or a shortage. What
/// the file is, where it should be and who may read it changes by an operator's hand only.
pub fn is_temporary(e: &io::Error) -> bool {
    use libc::{EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM};
    match e.raw_os_error() {
        Some(
            ENOENT | ENOTDIR | EISDIR | EACCES | EPERM | ELOOP | ENAMETOOLONG | EINVAL | ENXIO,
        ) => false,
        Some(_) => true,
        // Without a number it is our own judgement of the file, or the allocator's.
        None => e.kind() == io::ErrorKind::OutOfMemory,
    }
}

fn denied(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}", path.display()))
}

/// Which mount a path is on (statx(2)); `None`: that cannot be told.
pub fn mount_of(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let (at, flags, mask) = (libc::AT_FDCWD, libc::AT_SYMLINK_NOFOLLOW, libc::STATX_MNT_ID);
    // SAFETY: all-zero is a valid statx; the call reads a C string and fills the struct, which both
    // live here.
    let about = unsafe {
        let mut about: libc::statx = std::mem::zeroed();
        check(libc::statx(at, path.as_ptr(), flags, mask, &raw mut about)).ok()?;
        about
    };
    (about.stx_mask & mask != 0).then_some(about.stx_mnt_id)
}

/// Whether an access control list lets others in, whose rights the mode shows as the group's (acl(5)).
pub fn has_acl(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return true };
    let name = c"system.posix_acl_access";
    // SAFETY: getxattr reads two C strings that live here, and with a size of 0 writes nothing.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), ptr::null_mut(), 0) > 0 }
}

/// Whether the mount that a path is on cannot be written (statvfs(3)).
pub fn is_read_only(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all-zero is a valid statvfs; the call reads a C string and fills the struct, which both
    // live here.
    unsafe {
        let mut about: libc::statvfs = std::mem::zeroed();
        let asked = check(libc::statvfs(path.as_ptr(), &raw mut about));
        asked.is_ok() && about.f_flag & libc::ST_RDONLY != 0
    }
}
