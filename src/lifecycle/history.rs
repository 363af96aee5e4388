//! How earlier runs ended: a line of JSON each in `history.jsonl`, and `run.json` for the run that
//! has not ended yet. A run that left `run.json` behind and no line ended without a word.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::evidence::Finding;
use super::signals::Caught;
use crate::dirs::Dirs;
use crate::exit::Exit;
use crate::sys::clock::Utc;
use crate::sys::process::Pid;
use crate::sys::{fs as files, proc};

/// How many stops are kept: months of a gateway's life, and a screen or two to read.
pub const KEEP: usize = 200;
/// The file is pruned to `KEEP` lines of about 400 bytes at each start; beyond this it is not ours.
const MAX_BYTES: u64 = 16 << 20;

/// The run that this process is.
#[derive(Debug)]
pub struct Run {
    id: String,
    started: String,
    /// What the run before us left, if it did not end properly.
    unfinished: Option<Value>,
}

/// How a stop went, beside the finding about it.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub exit: Exit,
    /// From the signal to the exit.
    pub drain: Duration,
    /// Turns in flight when the signal came, and those of them that were cut.
    pub in_flight: usize,
    pub cut: usize,
}

impl Run {
    /// Enters this run. Not durable yet and nothing reported: [`Run::settle`] does that, after
    /// READY=1.
    pub fn begin(dirs: &Dirs) -> io::Result<Run> {
        let path = dirs.run_record();
        let unfinished = read(&path).and_then(|text| serde_json::from_slice(text.as_bytes()).ok());
        let own = Pid::own();
        let boot = proc::boot_id();
        let start = proc::start_time(own).unwrap_or(0);
        let id = format!("{boot}/{own}/{start}");
        let started = Utc::new(SystemTime::now()).rfc3339();
        let record = json!({ "id": id, "pid": own.get(), "boot": boot, "started": started });
        files::replace_unsynced(&path, format!("{record}\n").as_bytes(), 0o600)?;
        Ok(Run {
            id,
            started,
            unfinished,
        })
    }

    /// When this run started, in RFC 3339.
    pub fn started(&self) -> &str {
        &self.started
    }

    /// Makes the entry and the history durable, prunes it, and adds what the run before us did not
    /// say. Returns that line, for the log.
    pub fn settle(&self, dirs: &Dirs) -> io::Result<Option<Value>> {
        files::sync(&dirs.run_record())?;
        match files::sync(&dirs.history()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let text = read(&dirs.history()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| parse(l).is_some()).collect();
        if lines.len() > KEEP || lines.len() != text.lines().count() {
            let kept = lines[lines.len().saturating_sub(KEEP)..].join("\n") + "\n";
            files::replace(&dirs.history(), kept.as_bytes(), 0o600)?;
        }
        let Some(left) = &self.unfinished else {
            return Ok(None);
        };
        let ended = lines
            .iter()
            .rev()
            .filter_map(|l| parse(l))
            .any(|l| l["run"] == left["id"]);
        if ended {
            return Ok(None);
        }
        let line = without_a_word(left);
        append(&dirs.history(), &line, true)?;
        Ok(Some(line))
    }

    /// Writes how this run ends; durable when it returns and the stop was planned. After a kill it
    /// is the next start that syncs: the last answer of the service manager must not grow old.
    pub fn end(
        &self,
        dirs: &Dirs,
        caught: Caught,
        found: &Finding,
        ending: Ending,
    ) -> io::Result<()> {
        let line = json!({
            "time": Utc::new(SystemTime::now()).rfc3339(),
            "started": self.started,
            "run": self.id,
            "pid": Pid::own().get(),
            "signal": caught.kind.name(),
            "sender": {
                "pid": found.sender.pid,
                "uid": found.sender.uid,
                "name": found.sender.name,
            },
            "verdict": found.verdict.word(),
            "reason": found.verdict.reason.to_string(),
            "exit": ending.exit.code(),
            "drain_ms": u64::try_from(ending.drain.as_millis()).unwrap_or(u64::MAX),
            "in_flight": ending.in_flight,
            "cut": ending.cut,
        });
        append(&dirs.history(), &line, found.verdict.planned)?;
        // Not synced: should the name come back after a power cut, the line above has its id.
        match fs::remove_file(dirs.run_record()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// The stops that are on record, oldest first, at most `KEEP`. What is no record is passed over.
pub fn stops(dirs: &Dirs) -> io::Result<Vec<Value>> {
    let text = match fs::metadata(dirs.history()) {
        Ok(_) => read(&dirs.history()).ok_or_else(|| {
            let path = dirs.history();
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} cannot be read", path.display()),
            )
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut stops: Vec<Value> = text.lines().filter_map(parse).collect();
    // A run that learned better at the last moment wrote twice: the later line counts.
    stops.reverse();
    stops.dedup_by(|earlier, later| later["run"].is_string() && earlier["run"] == later["run"]);
    stops.reverse();
    Ok(stops[stops.len().saturating_sub(KEEP)..].to_vec())
}

fn without_a_word(left: &Value) -> Value {
    let rebooted = left["boot"] != json!(proc::boot_id());
    let cause = if rebooted {
        "the machine was restarted or lost its power"
    } else {
        "SIGKILL, the OOM killer, or a crash"
    };
    json!({
        "time": Utc::new(SystemTime::now()).rfc3339(),
        "started": left["started"],
        "run": left["id"],
        "pid": left["pid"],
        "signal": null,
        "sender": null,
        "verdict": "ended without a word",
        "reason": cause,
        "exit": null,
        "rebooted": rebooted,
    })
}

fn append(path: &Path, line: &Value, sync: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
    let new = file.metadata()?.len() == 0;
    file.write_all(format!("{line}\n").as_bytes())?;
    if !sync {
        return Ok(());
    }
    file.sync_data()?;
    if new {
        files::sync_dir_of(path)
    } else {
        Ok(())
    }
}

fn read(path: &Path) -> Option<String> {
    files::read_own(path, MAX_BYTES).ok()
}

fn parse(line: &str) -> Option<Value> {
    serde_json::from_slice(line.as_bytes())
        .ok()
        .filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::evidence::Origin;
    use crate::lifecycle::signals::Kind;
    use crate::lifecycle::verdict::{Reason, Verdict};
    use crate::testing::TempDir;

    fn dirs(root: &TempDir) -> Dirs {
        let root = root.path().to_owned();
        Dirs {
            config_file: root.join("c"),
            state: root.clone(),
            runtime: root,
        }
    }

    fn end(run: &Run, dirs: &Dirs) {
        let caught = Caught {
            kind: Kind::Terminate,
            code: 0,
            pid: 7,
            uid: 8,
        };
        let verdict = Verdict {
            planned: true,
            reason: Reason::StopJob,
        };
        let sender = Origin {
            pid: 7,
            uid: 8,
            name: "systemd".into(),
        };
        let found = Finding {
            verdict,
            sender,
            marker: false,
            may_change: false,
            context: String::new(),
        };
        let ending = Ending {
            exit: Exit::Planned,
            drain: Duration::from_millis(5),
            in_flight: 2,
            cut: 1,
        };
        run.end(dirs, caught, &found, ending).unwrap();
    }

    #[test]
    fn a_run_that_ends_properly_leaves_one_line() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let run = Run::begin(&dirs).unwrap();
        assert_eq!(run.settle(&dirs).unwrap(), None);
        end(&run, &dirs);
        let next = Run::begin(&dirs).unwrap();
        assert_eq!(next.settle(&dirs).unwrap(), None);
        let stops = stops(&dirs).unwrap();
        assert_eq!(stops.len(), 1);
        assert_eq!(
            (&stops[0]["exit"], &stops[0]["in_flight"]),
            (&json!(0), &json!(2))
        );
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
        let numbers: Vec<Value> = stops(&dirs)
            .unwrap()
            .iter()
            .map(|s| s["n"].clone())
            .collect();
        assert_eq!(numbers, [1, 3, 4, 5]);
    }

    #[test]
    fn a_run_that_was_killed_is_entered_by_the_next() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        Run::begin(&dirs).unwrap();
        let line = Run::begin(&dirs).unwrap().settle(&dirs).unwrap().unwrap();
        assert_eq!(line["verdict"], "ended without a word");
        assert_eq!(line["rebooted"], false);
        assert_eq!(stops(&dirs).unwrap(), [line]);
    }

    #[test]
    fn a_changed_boot_id_tells_a_power_loss() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let left = r#"{"id":"x/1/2","pid":1,"boot":"x","started":"2026-01-01T00:00:00.000Z"}"#;
        fs::write(dirs.run_record(), left).unwrap();
        let line = Run::begin(&dirs).unwrap().settle(&dirs).unwrap().unwrap();
        assert_eq!(line["rebooted"], true);
    }

    #[test]
    fn a_record_that_came_back_after_its_end_is_not_entered_twice() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let run = Run::begin(&dirs).unwrap();
        let left = fs::read(dirs.run_record()).unwrap();
        end(&run, &dirs);
        fs::write(dirs.run_record(), left).unwrap();
        assert_eq!(Run::begin(&dirs).unwrap().settle(&dirs).unwrap(), None);
    }

    #[test]
    fn only_the_last_are_kept_and_torn_lines_are_passed_over() {
        let root = TempDir::new("history");
        let dirs = dirs(&root);
        let lines: String = (0..300).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        fs::write(dirs.history(), lines + "{\"torn\":").unwrap();
        assert_eq!(stops(&dirs).unwrap().len(), KEEP);
        Run::begin(&dirs).unwrap().settle(&dirs).unwrap();
        let stops = stops(&dirs).unwrap();
        assert_eq!(
            (&stops[0]["n"], &stops[KEEP - 1]["n"]),
            (&json!(100), &json!(299))
        );
        assert!(fs::read_to_string(dirs.history()).unwrap().ends_with("}\n"));
    }
}
