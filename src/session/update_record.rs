//! The note of the last update: how far it came, and what came of it. The updater, a process of its own,
//! replaces it at each step; the gateway and its commands read it.

use std::{io, path::Path, time::Duration};

use serde_json::Value;

use crate::escape::shell_word;
use crate::sys::{fs as files, lock::is_held};

/// The name of the file in the state directory.
pub const NAME: &str = "update.json";

/// Held by the updater for as long as it lives.
pub const LOCK: &str = "update.lock";

/// The environment variable by which the gateway tells `update` who asked for it, in words for people.
pub const REQUEST_VARIABLE: &str = "HERMES_GATEWAY_UPDATE_FOR";

/// The end of the command's output, and some paths.
const MAX_RECORD: u64 = 64 << 10;

/// More than all time-outs of an update can come to: its commands may take a day each.
pub const LONGEST: Duration = Duration::from_secs(3 * 24 * 3600);

/// Its command runs.
pub const COMMAND: &str = "command";
/// The new program proves that it can start.
pub const PROOF: &str = "proof";
/// The gateway restarts into it.
pub const RESTART: &str = "restart";
/// It is ready, and watched.
pub const TRIAL: &str = "trial";
pub const UPDATED: &str = "updated";
/// The command brought nothing else.
pub const NOTHING_NEW: &str = "nothing new";
/// The gateway goes on with the version that it had, or nobody could put that back.
pub const FAILED: &str = "failed";
/// The version before is in its place again; `why` also says where that did not help.
pub const ROLLED_BACK: &str = "rolled back";

/// What is on record, a JSON object: `stage`, `by` (words for people), `pid` (of the updater), the versions
/// `from` and `to`, `began` and `ended` (RFC 3339), the path `program` and its copy `previous`, `why` (what came
/// of it), `output` (the last lines of its command).
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateRecord(pub Value);

impl UpdateRecord {
    /// A text; what is not known yet is empty.
    pub fn get(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    pub fn set(&mut self, key: &str, text: &str) {
        self.0[key] = text.into();
    }

    /// Whether nothing more comes of it.
    pub fn is_end(&self) -> bool {
        [UPDATED, NOTHING_NEW, FAILED, ROLLED_BACK].contains(&self.get("stage"))
    }

    /// What came of it, for a notice: with the last lines of the command where it failed.
    pub fn words(&self) -> String {
        let failed = [FAILED, ROLLED_BACK].contains(&self.get("stage"));
        let output = if failed { self.get("output") } else { "" };
        format!("{}\n{output}", self.get("why")).trim_end().to_owned()
    }

    /// What an updater that was ended before its end has left.
    pub fn left_behind(&self) -> Option<String> {
        if self.is_end() {
            return None;
        }
        let [stage, from, began, program] =
            ["stage", "from", "began", "program"].map(|key| self.get(key));
        let back = match self.get("previous") {
            "" => "no copy of the version before was kept".to_owned(),
            previous => {
                let [from, to] = [previous, program].map(|path| shell_word(Path::new(path)));
                format!("`cp -p --remove-destination {from} {to}` and a restart go back to it")
            }
        };
        Some(format!(
            "an update from version {from}, begun {began}, was left in its step {stage:?} when its updater \
             (pid {}) was ended: nobody watches {program} any more; {back}",
            self.0["pid"]
        ))
    }
}

/// Whether an updater runs.
pub fn is_under_way(state_dir: &Path) -> bool {
    let file = files::open_own_to_write(&state_dir.join(LOCK));
    file.is_ok_and(|file| is_held(&file).unwrap_or(false))
}

/// What is on record in this directory; what is no record is none.
pub fn read(state_dir: &Path) -> Option<UpdateRecord> {
    let text = files::read_own(&state_dir.join(NAME), MAX_RECORD).ok()?;
    let record = UpdateRecord(serde_json::from_str(&text).ok()?);
    (!record.get("stage").is_empty()).then_some(record)
}

/// Replaces the record; it is durable when this returns.
pub fn write(state_dir: &Path, record: &UpdateRecord) -> io::Result<()> {
    files::replace(&state_dir.join(NAME), format!("{}\n", record.0).as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_written_is_read() {
        let root = TempDir::new("update");
        assert_eq!(read(root.path()), None);
        for stage in [COMMAND, PROOF, RESTART, TRIAL, UPDATED, NOTHING_NEW, FAILED, ROLLED_BACK] {
            let mut record = UpdateRecord(json!({ "by": "uid 7", "pid": 7, "output": "a\nb\n" }));
            record.set("stage", stage);
            write(root.path(), &record).unwrap();
            assert_eq!(read(root.path()), Some(record.clone()));
            assert_eq!(record.is_end(), record.left_behind().is_none());
            assert_eq!(record.is_end(), ![COMMAND, PROOF, RESTART, TRIAL].contains(&stage));
        }
        std::fs::write(root.path().join(NAME), "{\"x\":1}").unwrap();
        assert_eq!(read(root.path()), None);
    }
}
