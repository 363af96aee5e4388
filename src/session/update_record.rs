//! The note of the last update: how far it came, and what came of it. The updater, a process of its own,
//! replaces it at each step; the gateway and its commands read it.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::escape::shell_word;
use crate::json::object;
use crate::sys::fs as files;
use crate::sys::lock::is_held;

/// The name of the file in the state directory.
pub const NAME: &str = "update.json";

/// Held by the updater for as long as it lives; its pid is in it.
pub const LOCK: &str = "update.lock";

/// The environment variable by which the gateway tells `update` who asked for it, in words for people.
pub const REQUEST_VARIABLE: &str = "HERMES_GATEWAY_UPDATE_FOR";

/// A pid and a line feed.
const MAX_LOCK: u64 = 16;

/// The end of the command's output, and some paths.
const MAX_RECORD: u64 = 64 << 10;

/// How far an update has come. The last four are its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateStage {
    /// Its command runs.
    #[default]
    Command,
    /// The new program proves that it can start.
    Proof,
    /// The gateway restarts into it.
    Restart,
    /// It is ready, and watched.
    Trial,
    Updated,
    /// The command brought nothing else.
    NothingNew,
    /// The gateway goes on with the version that it had: it was never restarted.
    Failed,
    /// The version before is in its place again; `why` also says where that did not help.
    RolledBack,
}

const STAGES: [(UpdateStage, &str); 8] = [
    (UpdateStage::Command, "command"),
    (UpdateStage::Proof, "proof"),
    (UpdateStage::Restart, "restart"),
    (UpdateStage::Trial, "trial"),
    (UpdateStage::Updated, "updated"),
    (UpdateStage::NothingNew, "nothing new"),
    (UpdateStage::Failed, "failed"),
    (UpdateStage::RolledBack, "rolled back"),
];

impl UpdateStage {
    pub fn word(self) -> &'static str {
        STAGES.iter().find(|(stage, _)| *stage == self).map_or("", |(_, word)| word)
    }

    /// Whether nothing more comes of it.
    pub fn is_end(self) -> bool {
        use UpdateStage::{Failed, NothingNew, RolledBack, Updated};
        matches!(self, Updated | NothingNew | Failed | RolledBack)
    }
}

/// What is on record. Texts that are not known yet are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateRecord {
    /// Which update: no two have the same.
    pub id: String,
    pub stage: UpdateStage,
    /// By whom, in words for people.
    pub by: String,
    /// Of the updater.
    pub pid: i32,
    /// The versions before and after.
    pub from: String,
    pub to: String,
    /// RFC 3339.
    pub began: String,
    pub ended: String,
    /// The program that is updated, and the copy of the version before.
    pub program: String,
    pub previous: String,
    /// What came of it, in a sentence.
    pub why: String,
    /// The last lines that its command printed.
    pub output: String,
}

impl UpdateRecord {
    /// What came of it, for a notice: with the last lines of the command where it failed.
    pub fn words(&self) -> String {
        let output = self.output.trim_end();
        let failed = matches!(self.stage, UpdateStage::Failed | UpdateStage::RolledBack);
        if failed && !output.is_empty() {
            format!("{}\n{output}", self.why)
        } else {
            self.why.clone()
        }
    }

    /// What an updater that was ended before its end has left.
    pub fn left_behind(&self) -> Option<String> {
        let UpdateRecord { stage, from, to, began, pid, program, previous, .. } = self;
        if stage.is_end() {
            return None;
        }
        let to = if to.is_empty() { "another version" } else { to };
        let back = if previous.is_empty() {
            "no copy of the version before was kept".to_owned()
        } else {
            let [previous, program] = [previous, program].map(|path| shell_word(Path::new(path)));
            format!("`cp -p --remove-destination {previous} {program}` and a restart go back to it")
        };
        let stage = stage.word();
        Some(format!(
            "an update from version {from} to {to}, begun {began}, was left in its step {stage:?} when its \
             updater (pid {pid}) was ended: nobody watches {program} any more; {back}"
        ))
    }
}

/// The updater that runs, by its pid: 0 in the moment before it has written that.
pub fn updater(state_dir: &Path) -> Option<i32> {
    let file = files::if_exists(files::open_own_to_write(&state_dir.join(LOCK))).ok()??;
    is_held(&file).ok()?.then(|| pid_in(file))
}

/// The pid that is written in a lock file.
pub fn pid_in(file: File) -> i32 {
    let text = files::read_text(file, MAX_LOCK).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

/// What is on record in this directory; what is no record is none.
pub fn read(state_dir: &Path) -> Option<UpdateRecord> {
    let text = files::read_own(&state_dir.join(NAME), MAX_RECORD).ok()?;
    parse(&serde_json::from_str(&text).ok()?)
}

/// Replaces the record; it is durable when this returns.
pub fn write(state_dir: &Path, record: &UpdateRecord) -> io::Result<()> {
    let text = format!("{}\n", render(record));
    files::replace(&state_dir.join(NAME), text.as_bytes(), 0o600)
}

fn render(it: &UpdateRecord) -> Value {
    let text = |of: &String| Value::from(of.as_str());
    object!(
        "id": text(&it.id), "stage": it.stage.word(), "by": text(&it.by), "pid": it.pid,
        "from": text(&it.from), "to": text(&it.to), "began": text(&it.began),
        "ended": text(&it.ended), "program": text(&it.program), "previous": text(&it.previous),
        "why": text(&it.why), "output": text(&it.output),
    )
}

fn parse(value: &Value) -> Option<UpdateRecord> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let stage = STAGES.iter().find(|(_, word)| value["stage"] == *word)?.0;
    Some(UpdateRecord {
        id: text("id"),
        stage,
        by: text("by"),
        pid: value["pid"].as_i64().and_then(|pid| pid.try_into().ok()).unwrap_or_default(),
        from: text("from"),
        to: text("to"),
        began: text("began"),
        ended: text("ended"),
        program: text("program"),
        previous: text("previous"),
        why: text("why"),
        output: text("output"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_written_is_read() {
        let root = TempDir::new("update");
        assert_eq!(read(root.path()), None);
        for (stage, _) in STAGES {
            let record = UpdateRecord {
                id: "1".into(),
                stage,
                by: "uid 7".into(),
                pid: 7,
                from: "0.2.0".into(),
                to: "0.3.0".into(),
                began: "2026-01-01T00:00:00Z".into(),
                program: "/usr/bin/hermes-gateway".into(),
                output: "a\nb\n".into(),
                ..UpdateRecord::default()
            };
            write(root.path(), &record).unwrap();
            assert_eq!(read(root.path()), Some(record));
            assert_eq!(stage.is_end(), stage as usize > UpdateStage::Trial as usize);
        }
        std::fs::write(root.path().join(NAME), "{\"stage\":\"x\"}").unwrap();
        assert_eq!(read(root.path()), None);
    }
}
