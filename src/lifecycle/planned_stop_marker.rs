//! The planned-stop marker: how `stop` announces a SIGTERM where no service manager runs the show. Evidence for
//! `verdict`, which decides.
//!
//! It names one process by pid and start time, is fresh for a minute of boot time (no operator sets
//! that clock), may be written by our own uid or root, and is used once: the first signal removes it.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use super::instance_lock::Holder;
use super::state_file::object;
use crate::json::object;
use crate::limits::THREAD_STACK;
use crate::sys::{clock, fs as files, proc, process::Pid};
use crate::threads::{self, Slot};

/// How long an announcement holds: far longer than a signal takes, far shorter than a pid's return.
const MARKER_FRESH: Duration = Duration::from_secs(60);

/// How long a verdict waits for the planned-stop marker: it is in a memory file system as a rule.
const MARKER_TIMEOUT: Duration = Duration::from_secs(1);

/// A marker is about 100 bytes; what is larger was not written by us.
const MAX_MARKER: u64 = 4096;

/// Announces that `target` will be stopped.
///
/// # Errors
/// Those of the file system.
pub fn announce(path: &Path, target: Holder, requester: &str) -> io::Result<()> {
    let Holder { own: pid, start, .. } = target;
    let (at, boot) = (clock::since_boot().as_secs(), proc::boot_id());
    let marker =
        object!("pid": pid.get(), "start": start, "at": at, "boot": boot, "requester": requester);
    // Readable for the gateway when root announces; the directory lets nobody else in.
    files::replace(path, format!("{marker}\n").as_bytes(), 0o644)
}

/// Whether a stop of this process was announced. Whatever stood there is gone afterwards, unless the
/// disk hangs: that holds up no verdict.
pub fn consume(path: &Path) -> bool {
    let (counts, removed) = <(Arc<Slot<_>>, Arc<Slot<_>>)>::default();
    let (own, tell_counts, tell_removed) = (path.to_owned(), counts.clone(), removed.clone());
    let work = move || tell_removed.send(take(&own, &tell_counts));
    if threads::spawn("marker", THREAD_STACK, Box::new(work)).is_err() {
        return take(path, &counts);
    }
    let announced = counts.wait(MARKER_TIMEOUT).unwrap_or(false);
    let _ = removed.wait(MARKER_TIMEOUT);
    announced
}

/// Says first whether one counts, and then removes it.
fn take(path: &Path, counts: &Slot<bool>) -> bool {
    let read = files::read_own(path, MAX_MARKER);
    let missing = read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    let checked = read.map_err(|e| e.to_string()).and_then(|text| check(&text));
    counts.send(checked.is_ok());
    if missing {
        return false;
    }
    let _ = fs::remove_file(path);
    if let Err(e) = &checked {
        log::warn!("the planned-stop marker {} does not count: {e}", path.display());
    }
    checked.is_ok()
}

fn check(text: &str) -> Result<(), String> {
    let marker = object(text).ok_or("it is garbled")?;
    let own = Pid::own();
    let start = proc::start_time(own).is_some_and(|start| marker["start"] == start);
    if marker["pid"] != own.get() || !start || marker["boot"] != proc::boot_id() {
        return Err("it names another process".to_owned());
    }
    let age = marker["at"].as_u64().and_then(|at| clock::since_boot().as_secs().checked_sub(at));
    match age {
        Some(age) if age <= MARKER_FRESH.as_secs() => Ok(()),
        Some(age) => Err(format!("it is {age} s old")),
        None => Err("it is from the future".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use serde_json::{Value, json};
    use std::os::unix::fs::symlink;

    fn own() -> Holder {
        let (pid, start) = (Pid::own(), proc::start_time(Pid::own()).unwrap());
        Holder { pid, start, own: pid }
    }

    fn marker_with(change: impl Fn(&mut Value)) -> bool {
        let dir = TempDir::new("marker");
        let path = dir.path().join("planned-stop");
        announce(&path, own(), "a test").unwrap();
        let mut marker: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut marker);
        fs::write(&path, marker.to_string()).unwrap();
        let taken = consume(&path);
        assert!(!path.exists(), "a marker is used once");
        taken
    }

    #[test]
    fn an_announcement_counts_once() {
        let dir = TempDir::new("marker");
        let path = dir.path().join("planned-stop");
        assert!(!consume(&path));
        announce(&path, own(), "a test").unwrap();
        assert!(consume(&path));
        assert!(!consume(&path));
    }

    #[test]
    fn stale_foreign_and_garbled_markers_do_not_count() {
        assert!(marker_with(|_| ()));
        let now = clock::since_boot().as_secs();
        assert!(!marker_with(|m| m["at"] = json!(now - 61)));
        assert!(!marker_with(|m| m["at"] = json!(now + 60)));
        assert!(!marker_with(|m| m["at"] = json!(-1)));
        assert!(!marker_with(|m| m["pid"] = json!(1)));
        assert!(!marker_with(|m| m["start"] = json!(1)));
        assert!(!marker_with(|m| m["start"] = Value::Null));
        assert!(!marker_with(|m| m["boot"] = json!("another")));
        assert!(!marker_with(|m| *m = json!("planned")));
        assert!(!marker_with(|m| *m = json!([])));
    }

    #[test]
    fn text_that_is_no_json_does_not_count() {
        let dir = TempDir::new("marker");
        let path = dir.path().join("planned-stop");
        for text in ["", "{", "planned", "\0\0", &"x".repeat(100_000)] {
            fs::write(&path, text).unwrap();
            assert!(!consume(&path), "{text:.10?}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_symlink_does_not_count_and_its_target_stays() {
        let dir = TempDir::new("marker");
        let (real, link) = (dir.path().join("real"), dir.path().join("planned-stop"));
        announce(&real, own(), "a test").unwrap();
        symlink(&real, &link).unwrap();
        assert!(!consume(&link));
        assert!(real.exists());
    }

    #[test]
    fn a_fifo_does_not_hang_the_stop() {
        let dir = TempDir::new("marker");
        let path = dir.path().join("planned-stop");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(!consume(&path));
    }
}
