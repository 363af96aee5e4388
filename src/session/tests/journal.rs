//! A journal in memory that can be told to fail, and that knows what a power cut would leave.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::journal::tests::Compact;
use crate::journal::{Decision, Health, Journal, MemoryJournal, Purpose, WriteError};

/// What goes wrong, and at which call, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// This append and some more after it.
    Full(u64, u64),
    Unavailable(u64, u64),
    /// This append, and everything after it.
    Broken(u64),
    /// This sync, and everything after it.
    Sync(u64),
}

type Hook = Box<dyn Fn(&str) + Send>;

/// What is done once during a rewrite, at the first record that contains a text.
type OnRewrite = (&'static str, Box<dyn FnOnce() + Send>);

pub struct Testing {
    inner: MemoryJournal,
    fault: Fault,
    appends: AtomicU64,
    syncs: AtomicU64,
    broken: Mutex<bool>,
    /// The last record that a power cut would leave.
    durable: AtomicU64,
    /// Seen by every record before it is appended.
    hook: Mutex<Option<Hook>>,
    /// Called once, before a compaction decides on the first record that contains this.
    pub on_rewrite: Mutex<Option<OnRewrite>>,
    /// Records that cannot be read.
    pub unreadable: Mutex<Option<(&'static str, io::ErrorKind)>>,
    /// The first record that contains this never becomes durable: every sync after its append fails.
    pub lost_from: Mutex<Option<&'static str>>,
    loses_syncs: AtomicBool,
    /// How many records were shown to somebody who looked through some.
    pub scanned: AtomicU64,
}

impl fmt::Debug for Testing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

/// In the place of a record that a compaction has let go.
const GONE: &str = r#"{"t":"gone"}"#;

impl Testing {
    pub fn new() -> Testing {
        Testing::failing(Fault::None)
    }

    pub fn failing(fault: Fault) -> Testing {
        Testing {
            inner: MemoryJournal::new(256 << 20),
            fault,
            appends: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            broken: Mutex::new(false),
            durable: AtomicU64::new(0),
            hook: Mutex::new(None),
            on_rewrite: Mutex::new(None),
            unreadable: Mutex::new(None),
            lost_from: Mutex::new(None),
            loses_syncs: AtomicBool::new(false),
            scanned: AtomicU64::new(0),
        }
    }

    /// One that has these records, as a start finds it.
    pub fn of(records: &[(u64, String)]) -> Testing {
        let journal = Testing::new();
        for (number, json) in records {
            // What a compaction has let go.
            while journal.inner.last() + 1 < *number {
                journal.inner.append(GONE, Purpose::Completion).unwrap();
            }
            assert_eq!(journal.inner.append(json, Purpose::Completion), Ok(*number));
        }
        journal.inner.compact(&mut |_, json| json != GONE).unwrap();
        journal.durable.store(journal.inner.last(), Ordering::SeqCst);
        journal
    }

    pub fn all(&self) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        let mut note = |number, json: &str| {
            all.push((number, json.to_owned()));
            true
        };
        self.inner.scan(0, &mut note).unwrap();
        all
    }

    /// What a power cut would leave.
    pub fn durable(&self) -> Vec<(u64, String)> {
        let last = self.durable.load(Ordering::SeqCst);
        self.all().into_iter().filter(|(number, _)| *number <= last).collect()
    }

    pub fn on_append(&self, hook: impl Fn(&str) + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn lose_syncs_from(&self, json: &str) {
        if self.lost_from.lock().unwrap().is_some_and(|part| json.contains(part)) {
            self.loses_syncs.store(true, Ordering::SeqCst);
        }
    }

    fn break_down(&self) -> WriteError {
        *self.broken.lock().unwrap() = true;
        WriteError::Broken("a test breaks it".to_owned())
    }

    fn whole(&self) -> Result<(), WriteError> {
        if *self.broken.lock().unwrap() { Err(self.break_down()) } else { Ok(()) }
    }
}

/// The hub's hold on a journal that the test holds too.
#[derive(Debug)]
pub struct Shared(pub Arc<Testing>);

impl Journal for Shared {
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, WriteError> {
        let journal = &self.0;
        if let Some(hook) = &*journal.hook.lock().unwrap() {
            hook(json);
        }
        journal.whole()?;
        let at = journal.appends.fetch_add(1, Ordering::SeqCst) + 1;
        let why = || "a test refuses".to_owned();
        match journal.fault {
            Fault::Full(from, more) if (from..=from + more).contains(&at) => {
                Err(WriteError::Full(why()))
            }
            Fault::Unavailable(from, more) if (from..=from + more).contains(&at) => {
                Err(WriteError::Unavailable(why()))
            }
            Fault::Broken(from) if at == from => Err(journal.break_down()),
            _ => {
                journal.lose_syncs_from(json);
                journal.inner.append(json, purpose)
            }
        }
    }

    fn sync(&self, number: u64) -> Result<(), WriteError> {
        let journal = &self.0;
        if number <= journal.durable.load(Ordering::SeqCst) {
            return Ok(());
        }
        journal.whole()?;
        let at = journal.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        if journal.fault == Fault::Sync(at) || journal.loses_syncs.load(Ordering::SeqCst) {
            return Err(journal.break_down());
        }
        assert!(number <= journal.inner.last(), "a record that is not there is synced");
        journal.durable.fetch_max(number, Ordering::SeqCst);
        Ok(())
    }

    fn read(&self, number: u64) -> io::Result<String> {
        let json = self.0.inner.read(number)?;
        match *self.0.unreadable.lock().unwrap() {
            Some((part, kind)) if json.contains(part) => {
                Err(io::Error::new(kind, "a test hides it"))
            }
            Some(_) | None => Ok(json),
        }
    }

    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        self.0.inner.scan(after, &mut |number, json| {
            self.0.scanned.fetch_add(1, Ordering::SeqCst);
            visit(number, json)
        })
    }

    fn rewrite(&self, decide: &mut dyn FnMut(u64, &str) -> Decision) -> io::Result<()> {
        self.0.inner.rewrite(&mut |number, json| {
            let hook = self.0.on_rewrite.lock().unwrap().take_if(|(part, _)| json.contains(*part));
            if let Some((_, hook)) = hook {
                hook();
            }
            decide(number, json)
        })
    }

    fn set_cap(&self, cap: u64) {
        self.0.inner.set_cap(cap);
    }

    fn health(&self) -> &Health {
        self.0.inner.health()
    }
}
