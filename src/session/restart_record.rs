//! The note that one run of the gateway leaves for the next: who asked for the restart, from which
//! version, and when serving ended. A file of its own, replaced atomically and synced before anything stops.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

use super::message_table::Place;
use super::restarts::{MAX_REQUESTERS, Requester, RestartKind};
use crate::json::object;
use crate::named::ByName;
use crate::sys::{fs as files, gather::Gather, proc};
use crate::threads::lock;

/// The name of the file in the state directory.
pub const NAME: &str = "restart.json";

/// Some requesters of some hundred bytes each.
const MAX_RECORD: u64 = 64 << 10;

/// Restarts that are remembered, to know a storm: more than are allowed.
pub const MAX_RECENT: usize = 8;

/// What is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartRecord {
    /// The restart that the next run is to tell about; `None`: only what is recent.
    pub pending: Option<Pending>,
    /// When restarts that were asked for happened, in ms since boot, oldest first, and in which boot.
    pub recent: Vec<u64>,
    pub boot: String,
    /// Those who asked for an update whose end is not known yet.
    pub updates: Vec<Requester>,
    /// What `stop.notify` was told, and is to hear the end of.
    pub down: Option<Down>,
    /// When a target was last told of a kind of event: by `KIND.TARGET`.
    pub told: ByName<Told>,
}

/// A restart that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub kind: RestartKind,
    pub by: String,
    pub requesters: Vec<Requester>,
    /// The version that ended.
    pub from: String,
    /// When it served last: RFC 3339, and ms since boot. Empty and 0: it served on when this was written.
    pub ended: String,
    pub ended_since_boot: u64,
}

/// A notice that the gateway goes down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Down {
    pub target: String,
    /// What the notice that says so is about: it is written after this.
    pub about: String,
    /// What happened, in words.
    pub words: String,
}

/// When a target was last told, in ms of the journal's own time, and what it was not told since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub age: u64,
    pub more: u64,
}

impl RestartRecord {
    /// Counts a restart that was asked for and has come to its end.
    pub fn count(&mut self, since_boot: u64) {
        self.recent.push(since_boot);
        self.recent.drain(..self.recent.len().saturating_sub(MAX_RECENT));
    }

    /// Remembers who is to hear the end of an update; the oldest are forgotten first.
    pub fn await_update(&mut self, requester: Requester) {
        self.updates.push(requester);
        self.updates.drain(..self.updates.len().saturating_sub(MAX_REQUESTERS));
    }

    /// Whether a target may be told of one more event, now that the journal is so old: then how many it
    /// was not told since the last one. Remembers the answer.
    pub fn may_tell(&mut self, what: &str, age: u64, cool_down: u64) -> Option<u64> {
        let told = self.told.of(what);
        if told.age > 0 && age.saturating_sub(told.age) < cool_down {
            told.more += 1;
            return None;
        }
        Some(std::mem::replace(told, Told { age: age.max(1), more: 0 }).more)
    }
}

/// The record in memory, and where it is kept.
#[derive(Debug, Default)]
pub struct RecordFile {
    dir: OnceLock<PathBuf>,
    record: Mutex<RestartRecord>,
    /// The file is older than that: it could not be written.
    is_unsaved: AtomicBool,
    /// As the run before left it, until that is told.
    left: Mutex<Option<RestartRecord>>,
}

impl RecordFile {
    /// Reads what the run before left in this directory, and keeps the record there from now on.
    pub fn open(&self, state_dir: PathBuf) {
        let (mut found, boot) = (read(&state_dir), proc::boot_id());
        if found.boot != boot {
            (found.recent, found.boot) = (Vec::new(), boot.to_owned());
            // Nothing tells the time between two boots.
            found.pending.iter_mut().for_each(|pending| pending.ended_since_boot = 0);
        }
        self.begin(found);
        let _ = self.dir.set(state_dir);
    }

    /// Goes on with what the run before left.
    pub fn begin(&self, left: RestartRecord) {
        *lock(&self.left) = Some(left.clone());
        *lock(&self.record) = left;
    }

    /// What the run before left, once. This run may be asked to restart or stop already.
    pub fn take_left(&self) -> Option<RestartRecord> {
        lock(&self.left).take()
    }

    pub fn get(&self) -> RestartRecord {
        lock(&self.record).clone()
    }

    /// Changes the record; what has changed is durable when this returns.
    ///
    /// # Errors
    /// The file could not be written: the change holds in memory.
    pub fn change(&self, change: &mut dyn FnMut(&mut RestartRecord)) -> io::Result<()> {
        let mut record = lock(&self.record);
        let before = record.clone();
        change(&mut record);
        let changed = *record != before || self.is_unsaved.load(Ordering::SeqCst);
        if let Some(dir) = self.dir.get().filter(|_| changed) {
            self.is_unsaved.store(true, Ordering::SeqCst);
            write(dir, &record)?;
            self.is_unsaved.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The same; where the file cannot be written, the log says so.
    pub fn keep(&self, change: &mut dyn FnMut(&mut RestartRecord)) {
        let kept = self.change(change);
        kept.unwrap_or_else(|e| log::warn!("{NAME} cannot be written: {e}"));
    }
}

/// What is on record in this directory; what is no record is none.
pub fn read(state_dir: &Path) -> RestartRecord {
    let text = files::read_own(&state_dir.join(NAME), MAX_RECORD).unwrap_or_default();
    parse(&serde_json::from_str(&text).unwrap_or_default())
}

/// Replaces the record; it is durable when this returns.
pub fn write(state_dir: &Path, record: &RestartRecord) -> io::Result<()> {
    let text = format!("{}\n", render(record));
    files::replace(&state_dir.join(NAME), text.as_bytes(), 0o600)
}

fn render(record: &RestartRecord) -> Value {
    let requester = |who: &Requester| {
        object!(
            "principal": who.principal.as_str(), "session": who.session.as_deref(),
            "message": who.message.as_str(), "deliver": who.deliver.as_deref(),
            "conversation": who.place.as_ref().map(|it| it.conversation.as_str()),
            "thread": who.place.as_ref().and_then(|it| it.thread.as_deref()),
        )
    };
    let list = |all: &[Requester]| Value::from(all.iter().map(requester).gather());
    let pending = record.pending.as_ref().map(|it| {
        object!(
            "kind": it.kind.word(), "by": it.by.as_str(), "from": it.from.as_str(),
            "ended": it.ended.as_str(), "ended_since_boot": it.ended_since_boot,
            "requesters": list(&it.requesters),
        )
    });
    let down = record.down.as_ref().map(|it| {
        let (target, about, words) = (it.target.as_str(), it.about.as_str(), it.words.as_str());
        object!("target": target, "about": about, "words": words)
    });
    let mut told = object!();
    record.told.iter().for_each(|(what, it)| told[what] = vec![it.age, it.more].into());
    object!(
        "pending": pending, "recent": record.recent.clone(), "boot": record.boot.as_str(),
        "updates": list(&record.updates), "down": down, "told": told,
    )
}

fn parse(value: &Value) -> RestartRecord {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let some = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let requester = |it: &Value| Requester {
        principal: text(it, "principal"),
        session: some(it, "session"),
        message: text(it, "message"),
        deliver: some(it, "deliver"),
        place: some(it, "conversation")
            .map(|conversation| Place { conversation, thread: some(it, "thread") }),
    };
    let list = |it: &Value| it.as_array().into_iter().flatten().map(requester).gather();
    let object = |key: &str| Some(&value[key]).filter(|it| it.is_object());
    let pending = object("pending").map(|it| Pending {
        kind: if it["kind"] == "update" { RestartKind::Update } else { RestartKind::Restart },
        by: text(it, "by"),
        requesters: list(&it["requesters"]),
        from: text(it, "from"),
        ended: text(it, "ended"),
        ended_since_boot: it["ended_since_boot"].as_u64().unwrap_or_default(),
    });
    let down = object("down").map(|it| Down {
        target: text(it, "target"),
        about: text(it, "about"),
        words: text(it, "words"),
    });
    let recent = value["recent"].as_array().into_iter().flatten();
    let mut told = ByName::default();
    for (what, it) in value["told"].as_object().into_iter().flatten() {
        let number = |at: usize| it[at].as_u64().unwrap_or_default();
        told.insert(what.clone(), Told { age: number(0), more: number(1) });
    }
    RestartRecord {
        pending,
        recent: recent.filter_map(Value::as_u64).take(MAX_RECENT).gather(),
        boot: text(value, "boot"),
        updates: list(&value["updates"]),
        down,
        told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_written_is_read() {
        let root = TempDir::new("restart");
        assert_eq!(read(root.path()), RestartRecord::default());
        let who = Requester {
            principal: "owner".into(),
            session: Some("s".into()),
            message: "01".into(),
            deliver: None,
            place: Some(Place { conversation: "c".into(), thread: Some("t".into()) }),
        };
        let pending = Pending {
            kind: RestartKind::Update,
            by: "owner".into(),
            requesters: vec![who.clone()],
            from: "0.2.0".into(),
            ended: "2026-01-01T00:00:00Z".into(),
            ended_since_boot: 7,
        };
        let (boot, mut told) = ("b".to_owned(), ByName::default());
        told.insert("stop.ops".to_owned(), Told { age: 7, more: 2 });
        let down = Some(Down { target: "ops".into(), about: "02".into(), words: "w".into() });
        let (pending, recent, updates) = (Some(pending), vec![1, 2], vec![who]);
        let record = RestartRecord { pending, recent, boot, updates, down, told };
        write(root.path(), &record).unwrap();
        assert_eq!(read(root.path()), record);
    }

    #[test]
    fn what_is_kept_has_a_limit_and_is_of_this_boot() {
        let root = TempDir::new("restart");
        let mut record = RestartRecord { boot: "another".into(), ..RestartRecord::default() };
        (0..20).for_each(|at| record.count(at));
        assert_eq!(record.recent, (12..20).collect::<Vec<_>>());
        write(root.path(), &record).unwrap();
        let file = RecordFile::default();
        file.open(root.path().to_owned());
        assert_eq!((file.get().recent, file.get().boot.as_str()), (vec![], proc::boot_id()));
        let since = file.change(&mut |record| record.count(7)).map(|()| read(root.path()).recent);
        assert_eq!(since.unwrap(), [7]);
    }

    #[test]
    fn what_could_not_be_written_is_written_with_the_next_change() {
        let root = TempDir::new("restart");
        let (file, aside) = (RecordFile::default(), root.path().join(NAME).join("x"));
        file.open(root.path().to_owned());
        std::fs::create_dir_all(&aside).unwrap();
        assert!(file.change(&mut |record| record.count(7)).is_err());
        assert!(
            file.change(&mut |_| ()).is_err(),
            "it is no change, and the file is older all the same"
        );
        std::fs::remove_dir_all(root.path().join(NAME)).unwrap();
        file.change(&mut |_| ()).unwrap();
        assert_eq!(read(root.path()).recent, [7]);
    }

    #[test]
    fn a_target_is_told_once_in_a_while_and_then_what_it_missed() {
        let mut record = RestartRecord::default();
        let mut tell = |age| record.may_tell("stop.ops", age, 100);
        assert_eq!(
            [0, 1, 99, 101, 150, 201].map(&mut tell),
            [Some(0), None, None, Some(2), None, Some(1)]
        );
        assert_eq!(record.may_tell("stop.other", 201, 100), Some(0));
    }
}
