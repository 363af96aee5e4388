//! Files that an operator has put in place: the configuration, keys and secrets. Whether another user may
//! have written or read them.
//!
//! Symlinks are followed (stow, home-manager, the `..data` of Kubernetes) where nobody else can redirect
//! them; who may write or read is asked of the file that they lead to. What the gateway itself writes
//! has the strict rules of [`crate::sys::fs`] instead.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::fs::{
    NO_FOLLOW, TOO_MANY_LINKS, has_acl, is_read_only, is_temporary, mount_of, read_any, read_text,
};
use crate::sys::gather::Gather;
use crate::sys::user;

/// As many symlinks as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Enough of /etc/group: a larger one belongs to no machine on which groups are private.
const MAX_GROUP_FILE: u64 = 1 << 20;

/// Opens a regular file that nobody else may change: our own or root's, and not writable by others,
/// nor by a group but the private one of its owner.
///
/// # Errors
/// What is wrong with the file, or with a symlink on the way, and how it is fixed.
pub fn open_trusted(path: &Path) -> io::Result<File> {
    let (file, meta, target) = open(path, user::own_uid())?;
    let fault = if !is_ours(&meta) {
        let (uid, own) = (meta.uid(), user::own_uid());
        format!("belongs to uid {uid}, who could choose the agent: chown it to uid {own} or root")
    } else if is_writable_by_others(&target, &meta) {
        let (mode, target) = (meta.mode() & 0o777, target.display());
        format!("may be written by other users (mode {mode:o}): chmod go-w {target}")
    } else {
        return Ok(file);
    };
    Err(about(path, &target, &fault))
}

/// The text of a file, at most `cap` bytes of it, that no other user may read: our own, or root's, which
/// a group of ours may read. A container's secret that all users there may read is taken with a warning.
///
/// # Errors
/// As above.
pub fn read_secret(path: &Path, cap: u64) -> io::Result<String> {
    read_text(open_secret(path)?, cap)
}

/// The same file, opened and not read.
///
/// # Errors
/// As above.
pub fn open_secret(path: &Path) -> io::Result<File> {
    let (file, meta, target) = open(path, user::own_uid())?;
    let (uid, mode) = (meta.uid(), meta.mode() & 0o777);
    let exposed = mode & if uid == 0 { 0o027 } else { 0o077 };
    if !is_ours(&meta) {
        let words = format!("belongs to uid {uid}: chown it to uid {} or root", user::own_uid());
        return Err(about(path, &target, &words));
    } else if exposed & 0o022 != 0 || (exposed != 0 && !has_own_mount(&target)) {
        let words =
            format!("is open to other users (mode {mode:o}): {}", suggested_fix(&target, uid));
        return Err(about(path, &target, &words));
    } else if exposed != 0 {
        let (path, why) = (path.display(), "it is on a mount of its own, as container secrets are");
        log::warn!("{path} can be read by other users (mode {mode:o}); it is used because {why}");
    }
    Ok(file)
}

/// Makes sure that nobody but root and we can put another program at this path: that the file, every
/// directory on the way to it and every symlink there is ours or root's, and not writable by others.
///
/// # Errors
/// Which part is not, and how it is fixed.
pub fn check_program(path: &Path) -> io::Result<()> {
    let target = resolve(path, user::own_uid())?;
    for part in path.ancestors().chain(target.ancestors()) {
        let meta = fs::metadata(part)?;
        if !is_ours(&meta) || is_writable_by_others(part, &meta) {
            let (part, uid, mode) = (part.display(), meta.uid(), meta.mode() & 0o7777);
            let words = format!("{part} has mode {mode:o} and belongs to uid {uid}");
            return Err(io::Error::other(format!("{words}: chmod go-w it and chown it to root")));
        }
    }
    Ok(())
}

/// Opens a program: a regular file that may be executed and that nobody else may change. It may also belong
/// to `trusted`, and so may the directories of the symlinks that lead to it.
///
/// # Errors
/// What is wrong with the file, or with a symlink on the way, and how it is fixed.
pub fn open_program(path: &Path, trusted: u32) -> io::Result<File> {
    let (file, meta, target) = open(path, trusted)?;
    let (uid, mode, shown) = (meta.uid(), meta.mode() & 0o7777, target.display());
    let fault = if !is_trusted(&meta, trusted) {
        format!("belongs to uid {uid}: chown it to uid {} or root", user::own_uid())
    } else if is_writable_by_others(&target, &meta) {
        format!("may be written by other users (mode {mode:o}): chmod go-w {shown}")
    } else if mode & 0o111 == 0 {
        format!("is not executable: chmod +x {shown}")
    } else if meta.len() == 0 {
        "is empty".to_owned()
    } else {
        return Ok(file);
    };
    Err(about(path, &target, &fault))
}

/// Opens the regular file at the end of a path, which is returned without its symlinks. Those may also be
/// in directories of `trusted`.
fn open(path: &Path, trusted: u32) -> io::Result<(File, Metadata, PathBuf)> {
    let once = || -> io::Result<_> {
        let target = resolve(path, trusted)?;
        let regular = |meta: Metadata| match meta.is_file() {
            true => Ok(meta),
            false if meta.is_dir() => Err(about(path, &target, "is a directory")),
            false => Err(about(path, &target, "is not a regular file")),
        };
        // Looked at before it is opened too: opening a fifo waits for a writer. Not O_NONBLOCK, which
        // fails on a file that another process has a lease on (fcntl(2)) instead of waiting for it.
        regular(fs::symlink_metadata(&target)?)?;
        let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(&target)?;
        let meta = regular(file.metadata()?)?;
        Ok((file, meta, target))
    };
    // Once more: Kubernetes lets `..data` lead elsewhere, and then removes what it led to.
    once().or_else(|_| once()).map_err(|e| match fs::read_link(path) {
        Ok(to) if e.raw_os_error().is_some() && !is_temporary(&e) => {
            io::Error::other(format!("it is a symlink to {}, and there: {e}", to.display()))
        }
        _ => e,
    })
}

/// An error about the file, for a caller that names the path.
fn about(path: &Path, target: &Path, words: &str) -> io::Error {
    let linked = format!("its target {}", target.display());
    let subject = if path == target { "it" } else { &linked };
    io::Error::other(format!("{subject} {words}"))
}

/// How other users are kept from reading a secret.
fn suggested_fix(target: &Path, uid: u32) -> String {
    if is_read_only(target) {
        let words = "its mount is read-only: have it made with mode 0400, or 0440 and our group";
        return words.to_owned();
    }
    let (who, mode) = if uid == user::own_uid() { ("", 600) } else { ("as root, ", 640) };
    format!("{who}chmod {mode} {}", target.display())
}

/// Whether a file is on a mount of its own that others cannot write: one that Docker has mounted, or one
/// in a directory that was mounted for it and its like. By mounts and not by devices: an overlay whose
/// layers are on several file systems shows another device for a file than for its directory.
fn has_own_mount(target: &Path) -> bool {
    let Some(own) = mount_of(target) else { return false };
    let differs = |path: &Path| mount_of(path).is_some_and(|mount| mount != own);
    let closed = |dir: &Path| {
        fs::symlink_metadata(dir).is_ok_and(|meta| is_ours(&meta) && meta.mode() & 0o022 == 0)
    };
    let Some(dir) = target.parent() else { return false };
    // Kubernetes keeps the files of a mount in a directory of it, `..DATE`.
    let dated = dir.file_name().is_some_and(|name| name.as_bytes().starts_with(b".."));
    let top = dir.parent().filter(|_| dated).unwrap_or(dir);
    let mounted = top.parent().is_some_and(differs);
    differs(dir) || (mounted && (is_read_only(top) || (closed(dir) && closed(top))))
}

/// The path without symlinks. Each on the way must be one that nobody else can redirect: it might lead
/// to another file of ours.
fn resolve(path: &Path, trusted: u32) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let all: Vec<&Path> = path.ancestors().gather();
        let mut links = all.iter().rev().filter_map(|at| {
            fs::symlink_metadata(at).map(|meta| meta.is_symlink().then_some(*at)).transpose()
        });
        let Some(link) = links.next().transpose()? else {
            return fs::canonicalize(&path);
        };
        let dir = link.parent().unwrap_or(link);
        check_link(link, dir, trusted)?;
        let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
        // Again from its parts: no slash at the end.
        path = dir.join(fs::read_link(link)?).join(rest).components().collect();
    }
    Err(io::Error::from_raw_os_error(TOO_MANY_LINKS))
}

fn check_link(link: &Path, dir: &Path, trusted: u32) -> io::Result<()> {
    let (own, meta) = (fs::symlink_metadata(link)?, fs::symlink_metadata(dir)?);
    let sticky = meta.mode() & 0o1000 != 0;
    let closed = !is_writable_by_others(dir, &meta) || is_read_only(dir);
    let is_ours = |meta| is_trusted(meta, trusted);
    if is_ours(&meta) && (closed || (sticky && is_ours(&own))) {
        return Ok(());
    }
    let (link, dir) = (link.display(), dir.display());
    let fix = format!("name the file that it leads to, or chown {dir} to you and chmod go-w it");
    Err(io::Error::other(format!("other users may change the symlink {link}: {fix}")))
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == user::own_uid() || meta.uid() == 0
}

fn is_trusted(meta: &Metadata, trusted: u32) -> bool {
    is_ours(meta) || meta.uid() == trusted
}

fn is_writable_by_others(path: &Path, meta: &Metadata) -> bool {
    let mode = meta.mode();
    let by_group = || has_acl(path) || !is_private_group(meta.uid(), meta.gid());
    mode & 0o002 != 0 || (mode & 0o020 != 0 && by_group())
}

/// Whether the group is this user's alone, as where umask is 002: the user's first one, by its name or
/// number, that no other user has.
fn is_private_group(uid: u32, gid: u32) -> bool {
    let owner = user::by_uid(uid).map(|owner| (owner.name.into_string(), owner.gid));
    let (Ok(name), first) = owner.unwrap_or((Ok(String::new()), uid)) else { return false };
    let read = |file| read_any(file, MAX_GROUP_FILE).unwrap_or_default();
    first == gid && is_private(&name, (uid, gid), &read("/etc/group"), &read("/etc/passwd"))
}

fn is_private(name: &str, (uid, gid): (u32, u32), groups: &str, users: &str) -> bool {
    let (uid_word, gid_word) = (uid.to_string(), gid.to_string());
    let fields = |line| str::split(line, ':').gather();
    let groups = groups.lines().map(fields);
    let own: Vec<_> = groups.filter(|row| row.get(2) == Some(&&*gid_word)).gather();
    let members = own.iter().flat_map(|row| row.iter().skip(3).flat_map(|all| all.split(',')));
    let first_of = |row: Vec<&str>| row.get(3) == Some(&&*gid_word) && row[2] != uid_word;
    let shared = members.filter(|member| !member.is_empty()).any(|member| member != name)
        || users.lines().map(fields).any(first_of);
    !shared && (gid == uid || own.iter().any(|row| row[0] == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tests::share_with;
    use crate::testing::TempDir;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    /// Nobody's, and a group that has no member here.
    const OTHER: Option<u32> = Some(54_321);

    fn file(path: &Path, mode: u32) {
        fs::write(path, "secret").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn directory(path: &Path, mode: u32) -> PathBuf {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        path.to_owned()
    }

    fn fault<T>(result: io::Result<T>) -> String {
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_secret_is_ours_or_of_root_and_other_users_cannot_read_it() {
        let dir = TempDir::new("permissions");
        let path = dir.path().join("key");
        for mode in [0o600, 0o400] {
            file(&path, mode);
            assert_eq!(read_secret(&path, 99).unwrap(), "secret", "{mode:o}");
        }
        for mode in [0o604, 0o444, 0o622, 0o660] {
            file(&path, mode);
            let words =
                format!("it is open to other users (mode {mode:o}): chmod 600 {}", path.display());
            assert_eq!(fault(read_secret(&path, 99)), words);
        }
        file(&path, 0o440);
        if user::own_uid() != 0 {
            assert!(read_secret(&path, 99).is_err(), "a group may read a file of root's only");
            return;
        }
        assert!(read_secret(&path, 99).is_ok(), "root chose the group");
        chown(&path, OTHER, None).unwrap();
        assert_eq!(
            fault(read_secret(&path, 99)),
            "it belongs to uid 54321: chown it to uid 0 or root"
        );
        assert_eq!(
            fault(open_trusted(&path)),
            "it belongs to uid 54321, who could choose the agent: chown it to uid 0 or root"
        );
    }

    #[test]
    fn a_program_may_be_of_who_owns_what_runs_and_of_no_other_user() {
        let dir = TempDir::new("permissions");
        let (path, bin) = (dir.path().join("program"), directory(&dir.path().join("bin"), 0o755));
        let (own, link) = (user::own_uid(), bin.join("link"));
        file(&path, 0o755);
        symlink(&path, &link).unwrap();
        assert!(open_program(&link, own).is_ok());
        if own == 0 {
            for moved in [&path, &bin] {
                chown(moved, OTHER, None).unwrap();
                assert!(open_program(&link, 54_321).is_ok());
                assert!(open_program(&link, own).is_err(), "{}", moved.display());
                chown(moved, Some(0), None).unwrap();
            }
        }
        file(&path, 0o757);
        assert!(fault(open_program(&link, own)).contains("may be written by other users"));
        file(&path, 0o644);
        assert!(fault(open_program(&link, own)).contains("is not executable: chmod +x "));
    }

    #[test]
    fn a_group_of_its_owner_alone_may_write_a_configuration() {
        if user::own_uid() != 0 {
            return;
        }
        let dir = TempDir::new("permissions");
        let path = dir.path().join("c.toml");
        file(&path, 0o664);
        chown(&path, Some(0), Some(0)).unwrap();
        assert!(open_trusted(&path).is_ok());
        chown(&path, Some(0), OTHER).unwrap();
        let words = "it may be written by other users (mode 664): chmod go-w ";
        assert_eq!(fault(open_trusted(&path)), format!("{words}{}", path.display()));
    }

    #[test]
    fn a_group_that_another_user_has_too_is_not_private() {
        let users = "root:x:0:0::/:/bin/sh\nbot:x:7:7::/:/bin/sh\n";
        let is = |group: &str, users: &str| is_private("bot", (7, 7), group, users);
        assert!(is("bot:x:7:\n", users) && is("bot:x:7:bot\n", users) && is("", users));
        assert!(!is("bot:x:7:eve\n", users), "a member");
        assert!(
            !is("bot:x:7:\n", &format!("{users}eve:x:8:7::/:/bin/sh\n")),
            "the first of another"
        );
        assert!(!is_private("bot", (7, 9), "staff:x:9:\n", users), "of another name");
    }

    #[test]
    fn an_access_control_list_is_not_taken_for_a_private_group() {
        let dir = TempDir::new("permissions");
        let path = dir.path().join("c.toml");
        file(&path, 0o660);
        assert!(open_trusted(&path).is_ok());
        if share_with(&path, 54_321) {
            let words = "may be written by other users (mode 660)";
            assert!(fault(open_trusted(&path)).contains(words));
        }
    }

    #[test]
    fn symlinks_are_followed_where_nobody_else_can_redirect_them() {
        let root = TempDir::new("permissions");
        let shared = directory(&root.path().join("shared"), 0o755);
        let (path, target) = (shared.join("..data/key"), root.path().join("real"));
        file(&target, 0o600);
        directory(&shared.join("..1"), 0o755);
        symlink("../../real", shared.join("..1/key")).unwrap();
        symlink("..1", shared.join("..data")).unwrap();
        assert_eq!(read_secret(&path, 99).unwrap(), "secret");
        directory(&shared, 0o777);
        let words = fault(read_secret(&path, 99));
        let expected =
            format!("other users may change the symlink {}", shared.join("..data").display());
        assert!(words.starts_with(&expected), "{words}");
        directory(&shared, 0o1777);
        assert!(read_secret(&path, 99).is_ok(), "others cannot replace it there");
        if user::own_uid() == 0 {
            lchown(shared.join("..data"), OTHER, None).unwrap();
            assert!(read_secret(&path, 99).is_err(), "a link of somebody else's");
            lchown(shared.join("..data"), Some(0), None).unwrap();
        }
        file(&target, 0o606);
        let words = format!("its target {} is open to other users (mode 606)", target.display());
        assert!(fault(read_secret(&path, 99)).starts_with(&words));
        fs::remove_file(&target).unwrap();
        assert_eq!(read_secret(&path, 99).unwrap_err().kind(), io::ErrorKind::Other);
        symlink("round", root.path().join("round")).unwrap();
        assert!(fault(read_secret(&root.path().join("round"), 99)).contains("Too many levels"));
    }
}
