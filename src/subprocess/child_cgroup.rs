//! A control group for each turn or delivery (cgroups(7), version 2), below our unit's own: what is born in
//! it stays in it, whatever it forks and however it detaches, and is killed with it.
//!
//! The kernel lets us do so with any directory that we may write to. Ours to use is only what the
//! service manager has delegated to us: the caller of [`usable_base`] has asked it.

use std::fs::{self, DirEntry, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::limits::LEFTOVERS_PAUSE;
use crate::sys::fs::{entries, if_exists, read_any};
use crate::sys::gather::Gather;
use crate::sys::process::{Pid, PidFd, Signal};
use crate::threads::pause;

/// Where version 2 is: alone, or beside version 1 (systemd's hybrid hierarchy).
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

const PREFIX: &str = "turn-";

/// Bytes of a list of processes: hundreds of thousands; the next look finds the others.
const MAX_PROCS: u64 = 4 << 20;

/// Makes the group with this number below `base`.
pub fn create(base: &Path, number: u64) -> io::Result<PathBuf> {
    let path = base.join(format!("{PREFIX}{number}"));
    fs::create_dir(&path).map(|()| path)
}

/// The directory of our own group, where it is in version 2 and groups can be made below it.
pub fn usable_base(own: &str) -> Option<PathBuf> {
    let bases = ROOTS.iter().map(|root| Path::new(root).join(own.trim_start_matches('/')));
    let base = bases.into_iter().find(|base| base.join("cgroup.freeze").exists())?;
    let probe = base.join(format!("{PREFIX}probe"));
    // One may be left of a gateway that was killed just here.
    let _ = fs::remove_dir(&probe);
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).ok().map(|()| base)
}

/// The groups below `base`: those of turns that run, and what a killed predecessor left.
pub fn list(base: &Path) -> Vec<PathBuf> {
    nested(base, PREFIX)
}

/// Kills all that is in a group and removes it; false where something outlives the deadline.
pub fn kill(path: &Path, deadline: Instant) -> bool {
    while !remove(path) {
        if write(path, "cgroup.kill", "1").is_err() {
            kill_frozen(path);
        }
        if Instant::now() >= deadline {
            // What cannot be killed shall not be stopped either.
            let _ = write(path, "cgroup.freeze", "0");
            return false;
        }
        pause(LEFTOVERS_PAUSE);
    }
    true
}

/// Removes a group with those that an agent has made in it; false while a process is in one of them.
fn remove(path: &Path) -> bool {
    let is_gone = || if_exists(fs::remove_dir(path)).is_ok();
    is_gone() || (nested(path, "").iter().all(|group| remove(group)) && is_gone())
}

/// Before Linux 5.14: what is frozen forks no more, and dies of SIGKILL all the same.
fn kill_frozen(path: &Path) {
    let _ = write(path, "cgroup.freeze", "1");
    let mut groups = vec![path.to_owned()];
    while let Some(group) = groups.pop() {
        let list = read_any(group.join("cgroup.procs"), MAX_PROCS).unwrap_or_default();
        // Half a number would be another process's.
        let whole = list.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        for pid in whole.filter_map(|pid| Pid::new(pid.parse().ok()?)) {
            let _ = PidFd::open(pid).and_then(|process| process.send(Signal::Kill));
        }
        groups.extend(nested(&group, ""));
    }
}

fn nested(path: &Path, prefix: &str) -> Vec<PathBuf> {
    let is_dir = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let is_meant = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    let groups = entries(path).into_iter().filter(is_dir).filter(is_meant);
    groups.map(|entry| entry.path()).gather()
}

fn write(path: &Path, file: &str, word: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path.join(file))?.write_all(word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::wait;
    use crate::sys::spawn::{SpawnOptions, Spawned, spawn};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::sync::atomic::AtomicI32;
    use std::time::Duration;

    /// A group of the test's own; `None` where it may make none.
    fn base(name: &str) -> Option<PathBuf> {
        let version_2 = |root: &&Path| root.join("cgroup.subtree_control").exists();
        let root = ROOTS.iter().map(Path::new).find(version_2)?;
        let base = root.join(format!("hermes-test-{name}-{}", Pid::own()));
        fs::create_dir(&base).ok().map(|()| base)
    }

    #[track_caller]
    fn eventually(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    /// Three processes in the group: one, one in a session of its own, and one with no parent left.
    fn family(group: &Path) -> Spawned {
        let script = "(setsid sleep 600 &); setsid sleep 600 & wait";
        let dir = File::open(group).unwrap();
        let (number, cgroup) = (&AtomicI32::new(0), Some(dir.as_fd()));
        let (stdin, own_group, descriptors, image, kept) = (false, true, None, None, None);
        let options = SpawnOptions { stdin, own_group, number, cgroup, descriptors, image, kept };
        let (argv, path) = (["/bin/sh", "-c", script].map(Into::into), "PATH=/usr/bin:/bin");
        let born = spawn(&argv, &[path.into()], options).unwrap();
        assert!(born.joined);
        let procs = || fs::read_to_string(group.join("cgroup.procs")).unwrap();
        eventually(|| procs().lines().count() == 3);
        born
    }

    #[test]
    fn what_is_born_in_a_group_ends_with_it() {
        let Some(base) = base("kill") else { return };
        let group = create(&base, 1).unwrap();
        let born = family(&group);
        fs::create_dir_all(group.join("nested/deeper")).unwrap();
        assert_eq!(list(&base), std::slice::from_ref(&group));
        assert!(kill(&group, Instant::now() + Duration::from_secs(20)));
        assert!(list(&base).is_empty());
        wait(born.pid).unwrap();
        fs::remove_dir(base).unwrap();
    }

    #[test]
    fn a_kernel_that_cannot_kill_a_group_freezes_it_first() {
        let Some(base) = base("freeze") else { return };
        let group = create(&base, 1).unwrap();
        let born = family(&group);
        kill_frozen(&group);
        eventually(|| remove(&group));
        wait(born.pid).unwrap();
        fs::remove_dir(base).unwrap();
    }

    #[test]
    fn a_group_of_another_unit_is_not_ours() {
        assert_eq!(usable_base("/"), None);
        assert_eq!(usable_base("/no/such.service"), None);
    }
}
