//! One instance a name: a lock that is held for life on a file that is never unlinked, and the way
//! to ask who holds it without taking it.
//!
//! The lock is in the runtime directory. The state directory is locked as well, since two gateways
//! with different runtime directories (a system unit at boot, a login shell) must not share it; its
//! lock file tells where the runtime directory is, for a command that would look elsewhere.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::state_file::{named, object};
use crate::dirs::Dirs;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::json::object;
use crate::limits::CONTROL_PAUSE;
use crate::name::Name;
use crate::sys::{fs as files, lock, proc, process::Pid, socket, user};
use crate::threads::pause;

/// How long a start waits for a lock whose holder is dead: for as long as an exec may take.
const LOCK_ORPHANED: Duration = Duration::from_secs(2);

/// What the holder writes is about 50 bytes and a path, of 4,096 bytes at most.
const MAX_LOCK_FILE: u64 = 8 << 10;

/// The locks, held until the process ends.
#[derive(Debug)]
pub struct InstanceLock([File; 3]);

/// Who holds the lock: a process that lives, by pid and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: Pid,
    /// Clock ticks since boot.
    pub start: u64,
    /// Its number in its own pid namespace: what it calls itself.
    pub own: Pid,
}

/// What asking found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nobody holds the lock.
    Free,
    /// A gateway runs. `dirs`: where its socket is. `holder` is `None` in the instant before it has
    /// written who it is, or when neither its lock nor its socket tells which process of ours it is.
    Held { dirs: Dirs, holder: Option<Holder> },
}

impl InstanceLock {
    /// The locks, for a child that must finish before another gateway begins.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(File::as_fd)
    }

    /// Takes the locks and makes the two directories on the way. `held`: locks that this process had before
    /// it became this program; those that the paths still lead to were never given back.
    ///
    /// # Errors
    /// `Unavailable`, naming the holder, when another gateway of this name runs; `Failed` for
    /// directories that cannot be made ours.
    pub fn take(name: &Name, dirs: &Dirs, held: Vec<File>) -> Result<InstanceLock, Failure> {
        with_directories(dirs, files::private_dir)?;
        let mut held = held;
        let mut own = |opened: File| {
            let same = held.iter().position(|file| is_same(file, &opened));
            same.map_or(opened, |at| held.swap_remove(at))
        };
        let create = |path: &Path| files::open_or_create(path).map_err(|e| failed(path, &e));
        let (path, state_path) = (dirs.lock(), dirs.state_lock());
        let (runtime, state_lock) = (own(create(&path)?), own(create(&state_path)?));
        let state = own(File::open(&dirs.state).map_err(|e| failed(&dirs.state, &e))?);
        // The one that is shared first: who gets no further must not seem to be the holder.
        let try_hold = || -> Result<bool, Failure> {
            let free = lock::try_hold(&state).map_err(|e| failed(&dirs.state, &e))?
                && lock::try_hold_visibly(&state_lock).map_err(|e| failed(&state_path, &e))?;
            Ok(free && lock::try_hold_visibly(&runtime).map_err(|e| failed(&path, &e))?)
        };
        let deadline = Instant::now() + LOCK_ORPHANED;
        while !try_hold()? {
            // A child that a killed gateway was about to start has a copy of its descriptors until
            // it is another program: moments, as a rule.
            if holder(dirs).is_some() || Instant::now() >= deadline {
                return Err(Failure::new(Exit::Unavailable, held_by(name, dirs)));
            }
            pause(CONTROL_PAUSE);
        }
        for (file, path) in [(&state_lock, state_path), (&runtime, path)] {
            if let Err(e) = write_holder(file, dirs) {
                // The lock holds without it; only who holds it cannot be told.
                log::warn!("{} cannot be written: {e}", path.display());
            }
        }
        Ok(InstanceLock([runtime, state, state_lock]))
    }
}

/// Whether a start could use the two directories, or make them; changes nothing.
///
/// # Errors
/// Those of [`InstanceLock::take`] for directories.
pub fn check_directories(dirs: &Dirs) -> Result<(), Failure> {
    with_directories(dirs, files::check_private_dir)
}

/// Does it with both directories, and before with those that they are in.
fn with_directories(dirs: &Dirs, private: fn(&Path) -> io::Result<()>) -> Result<(), Failure> {
    for dir in [&dirs.state, &dirs.runtime] {
        let parent = dir.parent().unwrap_or(dir);
        private(parent).and_then(|()| private(dir)).map_err(|e| failed(dir, &e))?;
    }
    Ok(())
}

fn failed(path: &Path, e: &io::Error) -> Failure {
    match e.kind() {
        // Not ours, or no directory: another try would find the same.
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Config, Failure::with("use", path, e).0.message)
        }
        _ => Failure::with("use", path, e),
    }
}

/// Whether two descriptors are of one file.
fn is_same(one: &File, other: &File) -> bool {
    let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Takes the lock in the runtime directory again where it was removed, or the directory with it; `None`:
/// it is there.
///
/// # Errors
/// AddrInUse where another gateway has it by now: the place is that one's.
pub fn retake(dirs: &Dirs) -> io::Result<Option<File>> {
    let file = files::open_or_create(&dirs.lock())?;
    if lock::try_hold_visibly(&file)? {
        return write_holder(&file, dirs).map(|()| Some(file));
    }
    if let Probe::Held { holder: Some(other), .. } = probe(dirs)?
        && other.pid != Pid::own()
    {
        let words = format!("another gateway, pid {}, is there now", other.pid);
        return Err(io::Error::new(io::ErrorKind::AddrInUse, words));
    }
    Ok(None)
}

/// Writes who holds it, and where its runtime directory is. In place: a file system may write what is
/// emptied and written anew to its disk at once.
fn write_holder(file: &File, dirs: &Dirs) -> io::Result<()> {
    let (own, runtime) = (Pid::own(), dirs.runtime.to_string_lossy());
    let start = proc::own_start_time();
    let text = object!("pid": own.get(), "start": start, "runtime": runtime).to_string() + "\n";
    let (length, before) = (text.len() as u64, file.metadata()?.len());
    file.write_all_at(text.as_bytes(), 0)?;
    if before > length { file.set_len(length) } else { Ok(()) }
}

/// Asks whether a gateway runs: here, where it would be without a runtime directory, or where the
/// state directory's lock says.
///
/// # Errors
/// When the lock file cannot be read, or the gateway is another user's: the state cannot be told.
pub fn probe(dirs: &Dirs) -> io::Result<Probe> {
    let state = files::if_exists(fs::metadata(&dirs.state)).map_err(|e| named(&dirs.state, &e))?;
    if let Some(uid) = state.map(|meta| meta.uid()).filter(|uid| *uid != user::own_uid()) {
        let (state, user) = (dirs.state.display(), user::display_name(uid));
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{state} belongs to {user}: run this command with `sudo -u '{user}'`"),
        ));
    }
    let bare = dirs.without_runtime();
    for (path, runtime) in [
        (dirs.lock(), Some(&dirs.runtime)),
        (bare.lock(), Some(&bare.runtime)),
        (dirs.state_lock(), None),
    ] {
        let found = files::if_exists(files::open_own(&path)).map_err(|e| named(&path, &e))?;
        let Some(file) = found else { continue };
        if lock::is_held(&file).map_err(|e| named(&path, &e))? {
            let text = files::read_text(file, MAX_LOCK_FILE).unwrap_or_default();
            let written = object(&text).unwrap_or_default();
            let told = written["runtime"].as_str().map(PathBuf::from);
            let runtime = runtime.cloned().or(told).unwrap_or_else(|| dirs.runtime.clone());
            let dirs = Dirs { runtime, ..dirs.clone() };
            let holder = holder_in(&written, &dirs);
            return Ok(Probe::Held { dirs, holder });
        }
    }
    Ok(Probe::Free)
}

/// The process that holds the lock, as far as that can be told.
pub fn holder(dirs: &Dirs) -> Option<Holder> {
    let Ok(Probe::Held { holder, .. }) = probe(dirs) else { return None };
    holder
}

fn held_by(name: &Name, dirs: &Dirs) -> String {
    let (holder, elsewhere) = match probe(dirs) {
        Ok(Probe::Held { holder, dirs: other }) => (holder, other.runtime != dirs.runtime),
        _ => (None, false),
    };
    let who = holder.map_or("another process".to_owned(), |holder| {
        let process = proc::name(holder.pid).unwrap_or_default();
        format!("pid {} ({})", holder.pid, escaped(&process, false))
    });
    let command = name.command();
    // The one of the two that is shared.
    let lock = if elsewhere { dirs.state_lock() } else { dirs.lock() };
    format!(
        "gateway {name} is already running: {who} holds {}; `{command} status` tells more, \
         `{command} stop` ends it",
        lock.display()
    )
}

/// Who the lock file names, if that process lives: what a dead one left behind names nobody. Where it
/// lives in another pid namespace, the kernel tells which of ours it is (SO_PEERCRED, unix(7)).
fn holder_in(written: &Value, dirs: &Dirs) -> Option<Holder> {
    let start = written["start"].as_u64()?;
    let own = Pid::new(i32::try_from(written["pid"].as_i64()?).ok()?)?;
    let peer = || socket::peer(&socket::connect_unix(&dirs.control_socket()).ok()?).ok()?.0;
    // The file is its user's, who could name anybody's process: root would stop that.
    let ours = |pid: Pid| proc::uid(pid) == Some(user::own_uid());
    let is_it = |pid: &Pid| proc::start_time(*pid) == Some(start) && ours(*pid);
    let pid = Some(own).filter(is_it).or_else(|| peer().filter(is_it))?;
    Some(Holder { pid, start, own })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn dirs(root: &Path) -> Dirs {
        Dirs {
            config_file: root.join("c.toml"),
            state: root.join("state/gw/coder"),
            runtime: root.join("run/gw/coder"),
            data: PathBuf::new(),
        }
    }

    fn take(dirs: &Dirs) -> Result<InstanceLock, Failure> {
        InstanceLock::take(&Name::parse("coder").unwrap(), dirs, Vec::new())
    }

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let root = TempDir::new("instance");
        let dirs = dirs(root.path());
        assert_eq!(probe(&dirs).unwrap(), Probe::Free);
        let first = take(&dirs).unwrap();
        let Probe::Held { holder: Some(holder), .. } = probe(&dirs).unwrap() else { panic!() };
        assert_eq!(holder.pid, Pid::own());
        let second = take(&dirs).unwrap_err();
        assert_eq!(second.0.exit, Exit::Unavailable);
        assert!(second.0.message.contains(&format!("pid {}", Pid::own())), "{second}");
        drop(first);
        assert_eq!(probe(&dirs).unwrap(), Probe::Free);
        assert!(dirs.lock().exists(), "the lock file is never unlinked");
        take(&dirs).unwrap();
    }

    #[test]
    fn one_state_directory_is_not_shared_by_two_runtime_directories() {
        let root = TempDir::new("instance");
        let here = dirs(root.path());
        let elsewhere = here.without_runtime();
        let _first = take(&elsewhere).unwrap();
        let second = take(&here).unwrap_err();
        assert_eq!(second.0.exit, Exit::Unavailable);
        assert!(matches!(probe(&here).unwrap(), Probe::Held { dirs, .. } if dirs == elsewhere));
    }

    #[test]
    fn the_lock_of_the_state_directory_tells_where_the_gateway_is() {
        let root = TempDir::new("instance");
        let here = dirs(root.path());
        let _held = take(&here).unwrap();
        let elsewhere = Dirs { runtime: root.path().join("other/gw/coder"), ..here.clone() };
        let (pid, start) = (Pid::own(), proc::start_time(Pid::own()).unwrap());
        let holder = Some(Holder { pid, start, own: pid });
        let found = Probe::Held { dirs: here.clone(), holder };
        assert_eq!(probe(&elsewhere).unwrap(), found);
        fs::remove_dir_all(&here.runtime).unwrap();
        assert_eq!(probe(&here).unwrap(), found);
        assert!(take(&here).unwrap_err().0.message.contains(&format!("pid {}", Pid::own())));
    }

    #[test]
    fn directories_are_private_and_symlinks_refused() {
        let root = TempDir::new("instance");
        let dirs = dirs(root.path());
        drop(take(&dirs).unwrap());
        for dir in [&dirs.state, &dirs.runtime, &root.path().join("run/gw")] {
            assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700, "{dir:?}");
        }
        fs::remove_dir_all(&dirs.runtime).unwrap();
        symlink(root.path(), &dirs.runtime).unwrap();
        assert!(take(&dirs).unwrap_err().0.message.contains("symlinks are not followed"));
    }

    #[test]
    fn what_a_dead_process_left_names_nobody() {
        let root = TempDir::new("instance");
        let dirs = dirs(root.path());
        let held = take(&dirs).unwrap();
        fs::write(dirs.lock(), r#"{"pid":1,"start":1}"#).unwrap();
        assert!(matches!(probe(&dirs).unwrap(), Probe::Held { holder: None, .. }));
        drop(held);
    }
}
