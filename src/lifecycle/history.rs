//! How earlier runs ended: a line of JSON each in `history.jsonl`, and `run.json` for the run that
//! has not ended yet. A run that left `run.json` behind and no line had an unclean exit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::evidence::Finding;
use super::signals::Caught;
use super::state_file::{named, object};
use crate::config::millis;
use crate::dirs::Dirs;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::json::object;
use crate::limits::CONTROL_PAUSE;
use crate::named::ByName;
use crate::sys::clock;
use crate::sys::gather::Gather;
use crate::sys::lock::try_hold;
use crate::sys::process::Pid;
use crate::sys::{fs as files, proc};
use crate::threads::pause;

/// How many stops are kept: months of a gateway's life, and a screen or two to read.
const KEPT_STOPS: usize = 200;

/// The file is pruned to `KEPT_STOPS` lines of about 400 bytes at each start; beyond this it is not ours.
const MAX_HISTORY: u64 = 16 << 20;

/// How long the lock of the history is waited for: who has it reads and writes some kB.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The kind of an entry that is no stop.
const UPDATE: &str = "update";

/// The run that this process is.
#[derive(Debug)]
pub struct Run {
    id: String,
    /// When this run started, in RFC 3339.
    pub started: String,
    /// The line that was entered about the run before us, if that had an unclean exit.
    pub silent: OnceLock<Value>,
}

/// The run of this process, once its start has begun one; `None` in it: it ends before that.
pub type Begun = Arc<OnceLock<Option<Arc<Run>>>>;

/// The stop of this run, from its first signal on.
pub struct Stop {
    pub first: Caught,
    pub latest: Caught,
    /// When the first came.
    pub at: Instant,
    /// The last finding, with the sender of the first signal.
    pub finding: Option<Finding>,
    /// Turns in flight when the first came, and those of them that were aborted.
    pub in_flight: usize,
    pub aborted: usize,
}

impl Run {
    /// The run that begins now; nobody has entered it yet. `generation`: how often this process was executed
    /// anew before it.
    pub fn new(generation: u64) -> Run {
        let mut id = format!("{}/{}/{}", proc::boot_id(), Pid::own(), proc::own_start_time());
        if generation > 0 {
            id += &format!("/{generation}");
        }
        Run { id, started: clock::now(), silent: OnceLock::new() }
    }

    /// Enters this run, after what the run before it left unsaid. Not durable before
    /// [`Run::make_durable`], which comes after READY=1. A full disk is no reason not to start.
    pub fn begin(&self, dirs: &Dirs) {
        let path = dirs.run_record();
        let left = run_record(dirs);
        if left["id"].is_string()
            && let Some(line) = record_unclean(dirs, &left)
        {
            self.silent.get_or_init(|| line);
        }
        // The log is for `logs`: nobody else may look where our descriptors lead.
        let log = fs::read_link("/proc/self/fd/2").unwrap_or_default();
        let record = object!(
            "id": self.id.as_str(), "pid": Pid::own().get(), "boot": proc::boot_id(),
            "started": self.started.as_str(), "log": log.to_string_lossy(),
            "version": env!("CARGO_PKG_VERSION"),
        );
        let record = format!("{record}\n");
        if let Err(e) = files::replace_unsynced(&path, record.as_bytes(), 0o600) {
            log::warn!("{} cannot be written: {e}", path.display());
        }
    }

    /// Makes the entry and the history durable, and prunes the history.
    pub fn make_durable(&self, dirs: &Dirs) -> io::Result<()> {
        files::sync(&dirs.run_record())?;
        files::if_exists(files::sync(&dirs.history()))?;
        prune(dirs, KEPT_STOPS)
    }
}

/// Leaves `KEPT_STOPS` lines of a history that has more than `most`, or what is none.
fn prune(dirs: &Dirs, most: usize) -> io::Result<()> {
    let text = read(&dirs.history()).unwrap_or_default();
    if text.lines().count() > most || text.lines().any(|line| object(line).is_none()) {
        // What another process enters from here on it enters into the new file.
        let _lock = hold(dirs)?;
        let stops = records(&read(&dirs.history()).unwrap_or_default());
        let kept = stops[stops.len().saturating_sub(KEPT_STOPS)..].iter();
        let kept: String = kept.map(|line| format!("{line}\n")).gather().concat();
        files::replace(&dirs.history(), kept.as_bytes(), 0o600)?;
    }
    Ok(())
}

/// The lock for those that prune the history, or enter what is no end of a run of theirs: they need not have
/// the gateway's.
fn hold(dirs: &Dirs) -> io::Result<File> {
    let file = files::open_or_create(&dirs.state.join("history.lock"))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    while !try_hold(&file)? {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "another process changes it"));
        }
        pause(CONTROL_PAUSE);
    }
    Ok(file)
}

/// Enters a run that left its record behind, unless it did say how it ended.
fn record_unclean(dirs: &Dirs, left: &Value) -> Option<Value> {
    let text = read(&dirs.history()).unwrap_or_default();
    if text.lines().filter_map(object).any(|line| line["run"] == left["id"]) {
        return None;
    }
    let line = unclean(left, Some(&clock::now()));
    if let Err(e) = append(dirs, &line, false) {
        log::warn!("{} cannot be written: {e}", dirs.history().display());
    }
    Some(line)
}

/// How this process ends by a stop, as a line. `run` is `None` when it ends before it was ready. `reason`:
/// the verdict's, and what else there is to say.
pub fn line(run: Option<&Run>, stop: &Stop, found: &Finding, reason: &str, exit: Exit) -> Value {
    let (caught, drain) = (stop.first, stop.at.elapsed());
    let mut line = entry(run, found.verdict.word(), reason, Some(exit));
    line["signal"] = caught.kind.name().into();
    line["sender"] = object!("pid": caught.pid, "uid": caught.uid, "name": found.sender.as_str());
    line["drain_ms"] = millis(drain).into();
    line["in_flight"] = stop.in_flight.into();
    line["cut"] = stop.aborted.into();
    // Nothing was taken any more from the first signal on.
    let served = clock::since_boot().saturating_sub(drain);
    line["served_until"] = millis(served).into();
    line
}

/// What all lines have, and all that there is to say of a process that ends by itself. `verdict`: whether
/// it ran, or failed to start. `exit`: `None` for a run whose end nobody saw.
pub fn entry(run: Option<&Run>, verdict: &str, reason: &str, exit: Option<Exit>) -> Value {
    object!(
        "time": clock::now(),
        "started": run.map(|run| run.started.as_str()),
        "run": run.map(|run| run.id.as_str()),
        "pid": Pid::own().get(),
        "signal": (),
        "sender": (),
        "verdict": verdict,
        "reason": reason.replace('\n', "; "),
        "exit": exit.map(Exit::code),
        "version": env!("CARGO_PKG_VERSION"),
        // In ms since boot, as the run's id has it.
        "served_until": millis(clock::since_boot()),
        "next": (),
    )
}

/// Writes a line about the end of this process; with `sync` it is durable when this returns. After a kill
/// it is the next start that syncs: the last answer of the service manager must not grow old.
pub fn record_end(dirs: &Dirs, line: &Value, sync: bool) -> io::Result<()> {
    let run = &line["run"];
    // Before its run has begun, a start may not have the lock: what another gateway holds is its own.
    let mut held = None;
    if run.is_null() {
        // Nor may it have made the directory yet: where that fails, so does opening it.
        let _ = files::private_dir(&dirs.state);
        let state = held.insert(File::open(&dirs.state)?);
        if !try_hold(state)? {
            return Ok(());
        }
    }
    let entered = append(dirs, line, sync);
    if let Some(state) = held {
        // To close it is not enough while a child that is being started has it, too.
        let _ = state.unlock();
    }
    if !run.is_null() && run_record(dirs)["id"] == *run {
        // Even without the line: no entry is better than one that calls it unclean. Not
        // synced: should the name come back after a power cut, the line has its id.
        let _ = fs::remove_file(dirs.run_record());
    }
    entered
}

/// The record of the run that has not ended, or has left it behind; null where there is none, and empty
/// where it is no record.
pub fn run_record(dirs: &Dirs) -> Value {
    let parse = |text: String| object(&text).unwrap_or(object!());
    read(&dirs.run_record()).map(parse).unwrap_or_default()
}

/// Enters that the start of `run` has failed, unless the last entry says the same: where the service
/// manager tries again every second, all others would soon be gone.
pub fn record_failed_start(
    dirs: &Dirs,
    run: Option<&Run>,
    exit: Exit,
    why: &str,
) -> io::Result<()> {
    let line = entry(run, "failed start", why, Some(exit));
    let same =
        |last: &Value| ["verdict", "reason", "exit"].iter().all(|key| last[key] == line[key]);
    if stops(dirs).is_ok_and(|stops| stops.last().is_some_and(same)) {
        return if run.is_some() { fs::remove_file(dirs.run_record()) } else { Ok(()) };
    }
    record_end(dirs, &line, false)
}

/// Enters an update that has failed or was rolled back, as `verdict` says: durable when this returns.
pub fn record_update(dirs: &Dirs, verdict: &str, why: &str, versions: [&str; 2]) -> io::Result<()> {
    let [from, to] = versions;
    let line = object!(
        "time": clock::now(), "kind": UPDATE, "verdict": verdict,
        "reason": why, "from": from, "to": to,
    );
    let _lock = hold(dirs)?;
    add(dirs, &line, true)
}

/// The stops that are on record, oldest first.
pub fn stops(dirs: &Dirs) -> io::Result<Vec<Value>> {
    let mut stops = entries(dirs)?;
    stops.retain(|stop| stop["kind"] != UPDATE);
    Ok(stops)
}

/// The stops and updates that are on record, oldest first, at most `KEPT_STOPS`. Lines that are no records are
/// ignored.
pub fn entries(dirs: &Dirs) -> io::Result<Vec<Value>> {
    let path = dirs.history();
    let text =
        files::if_exists(files::read_own(&path, MAX_HISTORY)).map_err(|e| named(&path, &e))?;
    let mut stops = records(&text.unwrap_or_default());
    // Of runs that kept nothing and could not write the state directory.
    let aside = Dirs { state: dirs.runtime.clone(), ..dirs.clone() }.history();
    if let Some(text) = read(&aside).filter(|_| aside != path) {
        for stop in records(&text) {
            let not_later = |known: &Value| known["time"].as_str() <= stop["time"].as_str();
            let at = stops.iter().rposition(not_later).map_or(0, |last| last + 1);
            stops.insert(at, stop);
        }
    }
    Ok(stops[stops.len().saturating_sub(KEPT_STOPS)..].to_vec())
}

/// The line about a run that left its record and said nothing. `time`: when that was found.
pub fn unclean(left: &Value, time: Option<&str>) -> Value {
    let rebooted = left["boot"] != proc::boot_id();
    let cause = if rebooted {
        "the machine was restarted or lost its power"
    } else {
        "it was killed (SIGKILL, the OOM killer, a watchdog) or crashed"
    };
    let mut line = entry(None, "unclean exit", cause, None);
    let keys = [("started", "started"), ("run", "id"), ("pid", "pid"), ("version", "version")];
    for (key, of) in keys {
        line[key] = left[of].clone();
    }
    line["served_until"] = Value::Null;
    line["time"] = time.map_or(Value::Null, Value::from);
    line["rebooted"] = rebooted.into();
    line
}

/// The end of the last run that served, with the start that followed it, this one, as `next`: when it was
/// ready, its version, and how long nobody served, where that can be told. `None`: there is none, or another
/// start has followed it.
pub fn followed(dirs: &Dirs, run: &Run) -> Option<Value> {
    let stops = stops(dirs).ok()?;
    let served = |stop: &&Value| stop["run"].is_string() && stop["verdict"] != "failed start";
    let mut stop = stops.iter().rfind(served)?.clone();
    if !stop["next"].is_null() || stop["run"] == run.id {
        return None;
    }
    let same_boot = stop["run"].as_str()?.starts_with(&format!("{}/", proc::boot_id()));
    let until = stop["served_until"].as_u64().filter(|_| same_boot);
    let now = millis(clock::since_boot());
    stop["next"] = object!(
        "time": clock::now(),
        "version": env!("CARGO_PKG_VERSION"),
        "away_ms": until.map(|until| now.saturating_sub(until)),
    );
    Some(stop)
}

/// Who sent the signal that ended a run: `name[pid] uid N`. A pid of 0 is a process outside of the gateway's
/// pid namespace (or the kernel), of which nothing else is known.
pub fn sender(stop: &Value) -> Option<String> {
    let sender = &stop["sender"];
    let (pid, name) = (sender["pid"].as_i64()?, sender["name"].as_str().unwrap_or_default());
    Some(format!("{}[{pid}] uid {}", escaped(name, false), sender["uid"]))
}

/// How a run ended, for people: `planned, SIGTERM from systemd[1] uid 0: the service manager …`.
pub fn in_words(stop: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let sender = sender(stop).map(|sender| format!(" from {sender}"));
    let signal = stop["signal"].as_str().map(|signal| format!(", {signal}"));
    let [verdict, reason] = ["verdict", "reason"].map(|key| text(&stop[key]));
    let words = [verdict, signal.unwrap_or_default(), sender.unwrap_or_default()].concat();
    escaped(&format!("{words}: {reason}"), false)
}

/// Enters an end; one that is known already is replaced.
pub fn append(dirs: &Dirs, line: &Value, sync: bool) -> io::Result<()> {
    // Starts that fail, one after the other for months, never come to settle it.
    let _ = prune(dirs, 2 * KEPT_STOPS);
    add(dirs, line, sync)
}

fn add(dirs: &Dirs, line: &Value, sync: bool) -> io::Result<()> {
    let path = &dirs.history();
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    // Not through a symlink: whatever it leads to is no history.
    let opened = options.custom_flags(files::NO_FOLLOW).open(path);
    let mut file = opened.map_err(|e| files::explain_symlink(path, e))?;
    let length = file.metadata()?.len();
    let new = length == 0;
    let mut last = [b'\n'];
    if !new {
        file.read_exact_at(&mut last, length - 1)?;
    }
    // A line that was torn must not take this one with it.
    let start = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{start}{line}\n").as_bytes())?;
    if sync {
        file.sync_data()?;
    }
    if sync && new { files::sync_dir_of(path) } else { Ok(()) }
}

fn read(path: &Path) -> Option<String> {
    files::read_own(path, MAX_HISTORY).ok()
}

/// The lines that are records. Of a run that wrote twice, since it or the next one learned better, the
/// later line stands in the place of the first.
fn records(text: &str) -> Vec<Value> {
    let (mut stops, mut places) = (Vec::<Value>::new(), ByName::<usize>::default());
    for stop in text.lines().filter_map(object) {
        match stop["run"].as_str().map(|run| places.of(run)) {
            // Counted from 1.
            Some(place) if *place > 0 => stops[*place - 1] = stop,
            place => {
                place.into_iter().for_each(|place| *place = stops.len() + 1);
                stops.push(stop);
            }
        }
    }
    stops
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::json;

    use super::*;
    use crate::lifecycle::evidence::Revival;
    use crate::lifecycle::signals::Kind;
    use crate::lifecycle::verdict::Verdict;
    use crate::testing::TempDir;

    fn dirs(root: &TempDir) -> Dirs {
        let root = root.path().to_owned();
        Dirs { config_file: root.join("c"), state: root.clone(), data: root.clone(), runtime: root }
    }

    fn begin(dirs: &Dirs) -> Run {
        let run = Run::new(0);
        run.begin(dirs);
        run
    }

    fn end(run: &Run, dirs: &Dirs) {
        let caught = Caught { kind: Kind::Terminate, code: 0, pid: 7, uid: 8 };
        let verdict = Verdict { planned: true, reason: "the service manager is stopping the unit" };
        let sender = "systemd".into();
        let found = Finding {
            verdict,
            sender,
            marker: false,
            may_change: false,
            unit: None,
            comes_back: Revival::No,
            context: String::new(),
        };
        let (first, latest, at, reason) = (caught, caught, Instant::now(), verdict.reason);
        let stop = Stop { first, latest, at, finding: None, in_flight: 2, aborted: 1 };
        let line = line(Some(run), &stop, &found, reason, Exit::Planned);
        record_end(dirs, &line, true).unwrap();
    }

    #[test]
    fn a_run_that_ends_properly_leaves_one_line() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let run = begin(&dirs);
        run.make_durable(&dirs).unwrap();
        assert_eq!(run.silent.get(), None);
        end(&run, &dirs);
        let next = begin(&dirs);
        next.make_durable(&dirs).unwrap();
        assert_eq!(next.silent.get(), None);
        let stops = stops(&dirs).unwrap();
        assert_eq!(stops.len(), 1);
        assert_eq!((&stops[0]["exit"], &stops[0]["in_flight"]), (&json!(0), &json!(2)));
    }

    #[test]
    fn the_later_line_of_a_run_counts() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let lines = r#"{"run":"a","n":1}
            {"run":"b","n":2}
            {"run":"b","n":3}
            {"n":4}
            {"n":5}"#;
        fs::write(dirs.history(), lines).unwrap();
        let numbers: Vec<Value> = stops(&dirs).unwrap().iter().map(|s| s["n"].clone()).collect();
        assert_eq!(numbers, [1, 3, 4, 5]);
    }

    #[test]
    fn an_end_takes_away_only_its_own_runs_record() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let mut run = begin(&dirs);
        for _ in 0..2 {
            // Of the second nothing is entered, and no run must seem to be left of it.
            record_failed_start(&dirs, Some(&run), Exit::Config, "wrong").unwrap();
            assert!(!dirs.run_record().exists());
            run = begin(&dirs);
        }
        assert_eq!(stops(&dirs).unwrap().len(), 1);
        // The lock was given back, and another gateway has begun since.
        fs::write(dirs.run_record(), r#"{"id":"x/1/2"}"#).unwrap();
        end(&run, &dirs);
        assert!(dirs.run_record().exists());
    }

    #[test]
    fn a_run_that_was_killed_is_entered_by_the_next() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        begin(&dirs);
        let line = begin(&dirs).silent.into_inner().unwrap();
        assert_eq!(line["verdict"], "unclean exit");
        assert_eq!(line["rebooted"], false);
        assert_eq!(stops(&dirs).unwrap(), [line]);
    }

    #[test]
    fn a_changed_boot_id_tells_a_power_loss() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let left = r#"{"id":"x/1/2","pid":1,"boot":"x","started":"2026-01-01T00:00:00.000Z"}"#;
        fs::write(dirs.run_record(), left).unwrap();
        let line = begin(&dirs).silent.into_inner().unwrap();
        assert_eq!(line["rebooted"], true);
    }

    #[test]
    fn a_record_that_came_back_after_its_end_is_not_entered_twice() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let run = begin(&dirs);
        let left = fs::read(dirs.run_record()).unwrap();
        end(&run, &dirs);
        fs::write(dirs.run_record(), left).unwrap();
        assert_eq!(begin(&dirs).silent.get(), None);
    }

    #[test]
    fn starts_that_fail_for_changing_reasons_do_not_fill_the_disk() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        for n in 0..2 * KEPT_STOPS + 2 {
            record_failed_start(&dirs, None, Exit::Failed, &format!("reason {n}")).unwrap();
        }
        let text = fs::read_to_string(dirs.history()).unwrap();
        assert_eq!(text.lines().count(), KEPT_STOPS + 1);
        let last = stops(&dirs).unwrap().pop().unwrap();
        assert_eq!(last["reason"], format!("reason {}", 2 * KEPT_STOPS + 1));
    }

    #[test]
    fn no_entry_of_an_update_is_lost_to_a_start_that_prunes() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        thread::scope(|scope| {
            let updates = scope.spawn(|| {
                for n in 0..KEPT_STOPS {
                    record_update(&dirs, "failed update", &n.to_string(), ["1", "2"]).unwrap();
                }
            });
            while !updates.is_finished() {
                // A lock that is taken again at once is nobody else's.
                pause(Duration::from_millis(1));
                // A torn line is what each prune finds.
                let file = OpenOptions::new().append(true).create(true).open(dirs.history());
                file.unwrap().write_all(b"\n{\n").unwrap();
                prune(&dirs, KEPT_STOPS).unwrap();
            }
        });
        let found: Vec<Value> =
            entries(&dirs).unwrap().iter().map(|entry| entry["reason"].clone()).collect();
        let all: Vec<Value> = (0..KEPT_STOPS).map(|n| json!(n.to_string())).collect();
        assert_eq!(found, all);
    }

    #[test]
    fn the_lock_of_the_history_is_waited_for_no_longer_than_a_moment() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let held = hold(&dirs).unwrap();
        let refused = record_update(&dirs, "failed update", "x", ["1", "2"]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(held);
        record_update(&dirs, "failed update", "x", ["1", "2"]).unwrap();
        assert_eq!(entries(&dirs).unwrap().len(), 1);
    }

    #[test]
    fn only_the_last_are_kept_and_torn_lines_are_ignored() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let lines: String = (0..300).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        fs::write(dirs.history(), lines + "{\"torn\":").unwrap();
        assert_eq!(stops(&dirs).unwrap().len(), KEPT_STOPS);
        begin(&dirs).make_durable(&dirs).unwrap();
        let stops = stops(&dirs).unwrap();
        assert_eq!((&stops[0]["n"], &stops[KEPT_STOPS - 1]["n"]), (&json!(100), &json!(299)));
        assert!(fs::read_to_string(dirs.history()).unwrap().ends_with("}\n"));
    }
}
