//! The hub at work over a journal in memory: order, one message a key, cancelling, retries, drains,
//! restarts at any record, and a disk that refuses.

mod approvals;
mod channels;
mod clocks;
mod conversation;
mod durable;
mod faults;
mod forgetting;
mod hangs;
mod journal;
mod large;
mod notices;
mod pause;
mod restart;
mod retries;
mod shares;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::{Hub, Settings};
use super::id::Id;
use super::message::Message;
use super::message_table::{Counts, Digest, MessageTable, Owner};
use super::states::TurnState;
use super::submit::{Draft, Refusal, Submitted};
use super::transcript::Transcripts;
use crate::agent::Agent;
use crate::config::{Busy, Config};
use crate::journal::record::{Record, Step};
use crate::limits::RECORD_OVERHEAD;
use crate::subprocess::Children;
use crate::sys::fd::EventFd;
use crate::sys::poll::{Interest, poll};
use crate::testing::TempDir;
use clocks::Fake;
use journal::{Fault, Shared, Testing};

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A hub and all that belongs to it.
struct House {
    hub: Arc<Hub>,
    journal: Arc<Testing>,
    quiet: Arc<EventFd>,
    dir: TempDir,
    client: (UnixStream, UnixStream),
}

/// What a shell agent does before its own part: the message is in `$m`, and a line of the log says
/// which attempt of which message this is.
const NOTE: &str = r#"m=$(cat); echo "$m $HERMES_ATTEMPT" >> "$LOG"; "#;

/// Waits until somebody has opened the gate.
const GATE: &str = r#"until [ -e "$GATE" ]; do sleep 0.01; done; "#;

fn config(dir: &TempDir, script: Option<&str>) -> Config {
    let mut config = Config::default();
    config.limits.max_turns = 4;
    if let Some(script) = script {
        let script = format!("{NOTE}{script}");
        config.agent.command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        for name in ["LOG", "GATE"] {
            let path = dir.path().join(name).to_str().unwrap().to_owned();
            config.agent.env.insert(name.to_owned(), path);
        }
    }
    config
}

fn settings(config: &Config) -> (Settings, Arc<Children>) {
    let children = Children::new(None);
    let agent =
        Agent::new(config.agent.clone(), Arc::clone(&children), std::path::Path::new(""), (0, 0));
    (Settings { config: config.clone(), agent }, children)
}

/// A table as a start reads it.
fn read_back(journal: &Testing) -> MessageTable {
    let mut table = MessageTable::default();
    for (number, json) in journal.all() {
        let record = Record::parse(&json).unwrap();
        table.apply(number, &record, json.len()).unwrap();
    }
    table
}

impl House {
    /// A hub that does nothing yet.
    fn closed(dir: TempDir, journal: Testing, config: &Config) -> House {
        House::by(&Fake::default(), dir, journal, config)
    }

    /// One that does nothing yet, and takes its time from there.
    fn by(clocks: &Fake, dir: TempDir, journal: Testing, config: &Config) -> House {
        let (journal, quiet) = (Arc::new(journal), Arc::new(EventFd::new().unwrap()));
        let (settings, children) = settings(config);
        let hub = Hub::new(
            Box::new(Shared(Arc::clone(&journal))),
            read_back(&journal),
            Transcripts::new(dir.path().join("sessions")),
            settings,
            (children, Arc::clone(&quiet)),
            Box::new(clocks.clone()),
        );
        let hub = hub.unwrap();
        House { hub, journal, quiet, dir, client: UnixStream::pair().unwrap() }
    }

    fn open(dir: TempDir, journal: Testing, config: &Config) -> House {
        let house = House::closed(dir, journal, config);
        house.hub.open();
        house
    }

    /// With the echo agent, or with one in shell.
    fn new(script: Option<&str>) -> House {
        House::with(script, |_| {})
    }

    fn with(script: Option<&str>, change: impl Fn(&mut Config)) -> House {
        let dir = TempDir::new("hub");
        let mut config = config(&dir, script);
        change(&mut config);
        House::open(dir, Testing::new(), &config)
    }

    fn send(&self, session: &str, text: &str) -> Id {
        match self.hub.submit(draft(session, text)) {
            Ok(Submitted::New { id, .. }) => id,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn wait(&self, id: Id) -> Message {
        let over = self.hub.wait(id, self.client.0.as_fd(), PATIENCE).unwrap();
        assert!(over, "{id}: {:?}", self.hub.message(id));
        self.message(id)
    }

    fn message(&self, id: Id) -> Message {
        self.hub.message(id).unwrap().unwrap()
    }

    fn turn(&self, id: Id) -> TurnState {
        self.message(id).entry.turn
    }

    /// Waits for something that a record or the end of some work brings about.
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            poll(&mut [], Some(Duration::from_millis(10))).unwrap();
        }
    }

    fn until_idle(&self) {
        self.until("nothing is at work", || self.hub.busy() == 0);
    }

    fn open_gate(&self) {
        fs::write(self.dir.path().join("GATE"), "").unwrap();
    }

    /// Waits for this many attempts in the log of a shell agent.
    fn until_logged(&self, lines: usize) {
        self.until("lines in the log", || self.log().len() >= lines);
    }

    /// The attempts that a shell agent has noted.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("LOG")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What was said in a session, by the transcript.
    fn said(&self, session: &str) -> Vec<Id> {
        let path: PathBuf = self.hub.transcripts.path(who(session).digest().unwrap());
        let text = fs::read_to_string(path).unwrap_or_default();
        let id = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            Id::parse(value["id"].as_str().unwrap()).unwrap()
        };
        let lines: Vec<Id> = text.lines().map(id).collect();
        assert!(lines.chunks(2).all(|pair| pair.len() == 2 && pair[0] == pair[1]), "{text}");
        lines.chunks(2).map(|pair| pair[0]).collect()
    }

    fn counts(&self) -> Counts {
        self.hub.lock().table.counts
    }

    /// What the journal and the hub must have in common whenever nothing is at work.
    fn audit(&self) -> BTreeMap<Id, TurnState> {
        self.until_idle();
        let ends = audit(&self.journal.all());
        let state = self.hub.lock();
        let known: BTreeMap<Id, TurnState> =
            state.table.entries().filter(|(_, e)| !e.erased).map(|(id, e)| (id, e.turn)).collect();
        for (id, turn) in &known {
            assert!(!turn.is_over() || ends.get(id) == Some(turn), "{id}: {turn:?}");
        }
        let waiting = known.values().filter(|turn| !turn.is_over()).count();
        assert_eq!(state.dispatch.counts(), (0, waiting));
        if waiting == 0 {
            assert_eq!(state.dispatch.sessions(), 0);
            assert!(state.replies.is_empty(), "{:?}", state.replies);
        }
        ends
    }
}

impl Drop for House {
    /// Ends the keeper and what runs: an agent must not outlive its test.
    fn drop(&mut self) {
        self.hub.abort.notify();
        self.hub.drain();
        let deadline = Instant::now() + PATIENCE / 3;
        while self.hub.busy() > 0 && Instant::now() < deadline {
            let _ = poll(&mut [Interest::read(self.quiet.as_fd())], Some(PATIENCE / 1000));
            self.quiet.clear();
        }
    }
}

fn who(session: &str) -> Owner {
    let session = (!session.is_empty()).then(|| session.to_owned());
    Owner::new("owner".to_owned(), session)
}

fn draft(session: &str, text: &str) -> Draft {
    Draft {
        context: None,
        who: who(session),
        text: text.to_owned(),
        attachments: Vec::new(),
        files: Vec::new(),
        deliver: None,
        origin: None,
        mode: Busy::Queue,
        attended: false,
        key: None,
    }
}

fn keyed(session: &str, text: &str, key: Digest) -> Draft {
    Draft { key: Some((key, text.len() as Digest)), ..draft(session, text) }
}

/// Holds a journal against its promises: records follow from each other, a session has one turn at
/// a time and in the order of acceptance, attempts are counted, an end is the end. Returns the ends.
fn audit(records: &[(u64, String)]) -> BTreeMap<Id, TurnState> {
    let mut table = MessageTable::default();
    let mut ends = BTreeMap::new();
    let mut last = 0;
    let mut sizes = 0;
    for (number, json) in records {
        assert!(*number > last, "numbers grow");
        last = *number;
        let record = Record::parse(json).unwrap();
        // Of an erased one its end is left, which changes nothing.
        let id = record.id().and_then(Id::parse);
        let erased = id.and_then(|id| table.get(id)).is_some_and(|entry| entry.erased);
        if !erased {
            table.check(&record).unwrap_or_else(|why| panic!("record {number}: {why}"));
        }
        if let Record::Step { id, n, step: Step::Started, .. } = &record {
            let id = Id::parse(id).unwrap();
            let entry = table.get(id).unwrap();
            assert_eq!(*n, entry.attempts + 1, "record {number}: {json}");
            let session = entry.session();
            let before = table.entries().filter(|(other, entry)| {
                *other < id && session.is_some() && entry.session() == session
            });
            let open: Vec<Id> =
                before.filter(|(_, entry)| !entry.turn.is_over()).map(|(id, _)| id).collect();
            assert!(open.is_empty(), "record {number}: {id} runs before {open:?}");
        }
        table.apply(*number, &record, json.len()).unwrap();
        if let Some(id) = record.id().and_then(Id::parse) {
            sizes += json.len() as u64 + RECORD_OVERHEAD;
            let turn = table.get(id).unwrap().turn;
            if matches!(record, Record::Step { step: Step::Requeued, .. }) {
                ends.remove(&id);
            }
            if turn.is_over() {
                assert!(ends.insert(id, turn).is_none_or(|earlier| earlier == turn));
            }
        }
    }
    if !table.entries().any(|(_, entry)| entry.erased) {
        assert_eq!(table.counts.bytes, sizes);
    }
    ends
}
