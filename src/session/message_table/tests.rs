//! The table against a simple model: random records, a crash after any of them, and what is kept.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::journal::Decision;
use crate::journal::record::{Fact, Origin, Part, Retry, id_of};
use crate::limits::{ERASED_BYTES, KEEP_DEAD_LETTERS, KEEP_RESULTS_FOR, MAX_DEAD_LETTERS};
use crate::testing::{Random, rounds};

/// Whatever is overdue.
const ALL: (usize, &dyn Fn(Id) -> bool) = (usize::MAX, &|_| true);

const PRINCIPALS: [&str; 2] = ["owner", "guest"];
const SESSIONS: [&str; 3] = ["work", "home", "ä/\"\n"];
const KEYS: [Digest; 4] = [0, 1, 2, u128::MAX];

/// One message in words that are not the table's.
#[derive(Clone, Debug, PartialEq)]
struct Simple {
    id: u32,
    principal: String,
    session: Option<String>,
    key: Option<(Digest, Digest)>,
    turn: &'static str,
    attempts: u32,
    /// Attempts in a row that a crash or kill cut short.
    cuts: u32,
    accepted: u64,
    outcome: u64,
    at: u64,
    ended: u64,
    target: Option<String>,
    /// Of the delivery: its state, its attempts, the record of its last failure.
    way: (&'static str, u32, u64),
    bytes: u64,
    /// Its session was reset.
    erased: bool,
    /// The record with its text, where that was edited; how far its reply has come.
    edited: (u64, u64),
    parts: Parts,
}

impl Simple {
    fn is_over(&self) -> bool {
        ["done", "failed", "cancelled"].contains(&self.turn)
    }

    /// Takes a step, or says that it cannot be.
    fn step(&mut self, number: u64, (n, at): (u32, u64), step: &Step) -> bool {
        let (before, told) = (self.turn, self.target.is_some());
        match step {
            Step::Started if !self.is_over() => {
                (self.turn, self.attempts) = ("running", n);
                self.cuts += u32::from(before == "running");
            }
            Step::Retry(retry) if before == "running" => {
                (self.turn, self.outcome) = ("backoff", number);
                self.cuts = if retry.crash { self.cuts + 1 } else { 0 };
            }
            Step::Released if before == "running" => self.turn = "queued",
            Step::Approval(_) if before == "running" => {}
            Step::Edited(_) if !self.is_over() => self.edited.0 = number,
            Step::Part(part) if !self.is_over() || ["pending", "sending"].contains(&self.way.0) => {
                let parts = &mut self.parts;
                if !part.cuts.is_empty() {
                    parts.cuts = part.cuts.clone();
                }
                parts.open = part.sent.is_none();
                match (part.sent.clone(), part.preview) {
                    (None, _) => {}
                    (sent, true) => parts.preview = sent,
                    (sent, false) => {
                        parts.preview = None;
                        parts.sent.extend(sent);
                    }
                }
            }
            Step::Requeued if before == "failed" => {
                (self.turn, self.attempts, self.cuts) = ("queued", 0, 0);
                (self.outcome, self.ended) = (0, 0);
                (self.way, self.parts) = (("none", 0, 0), Parts::default());
            }
            Step::Done(..) if before == "running" || before == "queued" => self.turn = "done",
            Step::Failed(..) if !self.is_over() => self.turn = "failed",
            Step::Cancelled(_) if !self.is_over() => self.turn = "cancelled",
            Step::Sending if ["pending", "sending"].contains(&self.way.0) => {
                (self.way.0, self.way.1) = ("sending", n);
            }
            Step::Deferred(_) if self.way.0 == "sending" => {
                self.parts.open = false;
                (self.way.0, self.way.2) = ("pending", number);
            }
            Step::Delivered if self.way.0 == "sending" => {
                (self.way.0, self.parts) = ("delivered", Parts::default());
            }
            Step::Dead(_) if ["pending", "sending"].contains(&self.way.0) => {
                self.parts.open = false;
                (self.way.0, self.way.2) = ("dead", number);
            }
            Step::Revived if self.way.0 == "dead" => (self.way.0, self.way.1) = ("pending", 0),
            Step::Dropped if self.way.0 == "dead" => {
                (self.way.0, self.parts) = ("dropped", Parts::default());
            }
            _ => return false,
        }
        if self.turn != before && self.is_over() {
            (self.outcome, self.ended, self.cuts) = (number, at, 0);
            if told && self.turn != "cancelled" {
                self.way.0 = "pending";
            }
        }
        let more = self.turn == "failed" || ["pending", "sending", "dead"].contains(&self.way.0);
        if self.is_over() && !more {
            self.parts = Parts::default();
        }
        true
    }

    fn of_turn(turn: TurnState) -> &'static str {
        match turn {
            TurnState::Queued => "queued",
            TurnState::Running => "running",
            TurnState::Backoff => "backoff",
            TurnState::Done => "done",
            TurnState::Failed => "failed",
            TurnState::Cancelled => "cancelled",
        }
    }

    fn of(id: Id, entry: &Entry) -> Simple {
        let turn = Simple::of_turn(entry.turn);
        let way = entry.delivery.as_ref().map_or(("none", 0, 0), |way| {
            (way.state.map_or("none", DeliveryState::word), way.attempts, way.error_record)
        });
        Simple {
            id: u32::try_from(id.0).unwrap(),
            principal: Owner::clone(&entry.owner).principal,
            session: Owner::clone(&entry.owner).session,
            key: entry.key.as_ref().map(|key| (key.key, key.body)),
            turn,
            attempts: entry.attempts,
            cuts: entry.crashes,
            accepted: entry.accepted,
            outcome: entry.outcome,
            at: entry.at,
            ended: entry.ended.at,
            target: entry.delivery.as_ref().map(|way| way.target.to_string()),
            way,
            bytes: entry.bytes,
            erased: entry.erased,
            edited: entry.channel.as_ref().map_or((0, 0), |on| on.edited),
            parts: *entry.channel.clone().unwrap_or_default().parts.unwrap_or_default(),
        }
    }
}

type KeptFact = (&'static str, Fact, String, String);

/// Everything that a table shows.
#[derive(Debug, PartialEq)]
struct Seen {
    entries: Vec<Simple>,
    counts: Counts,
    keys: Vec<(Digest, Option<u32>)>,
    dead: BTreeSet<u32>,
    last: Option<u32>,
    /// Of each session, the record numbers up to which all was reset.
    resets: Vec<u64>,
    /// Of each session, the record of its agent's; and the bytes of all.
    agents: (Vec<u64>, u64),
    /// What is kept of channels.
    facts: Vec<KeptFact>,
    /// What goes first, by how many are kept.
    overdue: Vec<Vec<Id>>,
}

fn number_of(id: Id) -> u32 {
    u32::try_from(id.0).unwrap()
}

fn sessions() -> impl Iterator<Item = (&'static str, &'static str)> {
    PRINCIPALS.into_iter().flat_map(|principal| SESSIONS.map(|session| (principal, session)))
}

fn seen(table: &MessageTable, numbers: u64) -> Seen {
    let entries: Vec<Simple> = table.entries().map(|(id, entry)| Simple::of(id, entry)).collect();
    for simple in &entries {
        let entry = table.get(Id::from(simple.id)).unwrap();
        assert_eq!(&Simple::of(Id::from(simple.id), entry), simple);
        assert_eq!(entry.session(), entry.owner.digest());
    }
    let resets = sessions().map(|(principal, session)| {
        let session = session_digest(principal, session);
        (0..=numbers).take_while(|number| table.is_reset(session, *number)).count() as u64
    });
    Seen {
        entries,
        counts: table.counts,
        keys: KEYS
            .map(|key| (key, table.find_by_idempotency_key(key).map(|(id, _)| number_of(id))))
            .to_vec(),
        dead: BTreeSet::from_iter(dead_letters(table)),
        last: table.last.map(number_of),
        resets: resets.collect(),
        agents: (
            sessions().map(|(p, s)| table.agent_session_of(session_digest(p, s))).collect(),
            table.agent_session_bytes(),
        ),
        facts: facts(table),
        overdue: (0..6).map(|keep| table.overdue(0.into(), keep, ALL)).collect(),
    }
}

fn facts(table: &MessageTable) -> Vec<KeptFact> {
    let kinds = ["a", "b"].into_iter().flat_map(|name| Fact::ALL.map(|fact| (name, fact)));
    let of = |(name, fact)| {
        let all = table.facts_of(name, fact).into_iter();
        all.map(move |(key, value)| (name, fact, key, value))
    };
    kinds.flat_map(of).collect()
}

fn dead_letters(table: &MessageTable) -> Vec<u32> {
    let ids = table.dead_letters.keys();
    ids.map(|id| number_of(Id(*id))).collect()
}

/// The model: a plain list, and everything else worked out from it by looking.
#[derive(Default)]
struct Model {
    list: Vec<Simple>,
    resets: BTreeMap<(&'static str, &'static str), u64>,
    agents: BTreeMap<(&'static str, &'static str), (u64, u64)>,
    last: Option<u32>,
    facts: Vec<KeptFact>,
    /// Settled ones without a key, in the order in which they got there.
    plain: Vec<u32>,
}

impl Model {
    /// Settled ones without a key beyond those that are kept: of each principal the oldest, down to the
    /// highest level at which all together are few enough.
    fn too_many(&self, keep: usize) -> Vec<Id> {
        let of = |principal| {
            let is = |m: &Simple, id| m.id == id && m.principal == principal;
            let mine = |id: &&u32| self.list.iter().any(|m| is(m, **id));
            self.plain.iter().filter(mine).copied().collect::<Vec<u32>>()
        };
        let lists: Vec<Vec<u32>> = BTreeSet::from(PRINCIPALS).into_iter().map(of).collect();
        let fits = |most: &usize| lists.iter().map(|l| l.len().min(*most)).sum::<usize>() <= keep;
        let most = (0..=self.plain.len()).rev().find(fits).unwrap();
        let gone = |list: &Vec<u32>| list[..list.len().saturating_sub(most)].to_vec();
        lists.iter().flat_map(gone).map(Id::from).collect()
    }

    fn seen(&self) -> Seen {
        let count = |test: &dyn Fn(&Simple) -> bool| self.list.iter().filter(|m| test(m)).count();
        let is = |m: &Simple, ways: &[&str]| ways.contains(&m.way.0);
        let with = |key| self.list.iter().rfind(|m| m.key.is_some_and(|(known, _)| known == key));
        Seen {
            entries: self.list.clone(),
            counts: Counts {
                queued: count(&|m| m.turn == "queued" || m.turn == "backoff"),
                running: count(&|m| m.turn == "running"),
                outbox: count(&|m| is(m, &["pending", "sending"])),
                dead_letters: count(&|m| is(m, &["dead"])),
                kept: self.list.len(),
                bytes: self.list.iter().map(|m| m.bytes).sum(),
                attachments: 0,
            },
            keys: KEYS.map(|key| (key, with(key).map(|m| m.id))).to_vec(),
            dead: self.list.iter().filter(|m| m.way.0 == "dead").map(|m| m.id).collect(),
            last: self.last,
            resets: sessions().map(|who| self.resets.get(&who).copied().unwrap_or(0)).collect(),
            agents: (
                sessions().map(|who| self.agents.get(&who).map_or(0, |it| it.0)).collect(),
                self.agents.values().map(|it| it.1).sum(),
            ),
            facts: {
                let mut all = self.facts.clone();
                all.sort_by_key(|(name, fact, ..)| (*name, *fact));
                all
            },
            overdue: (0..6).map(|keep| self.too_many(keep)).collect(),
        }
    }

    /// Takes a record, or says that it cannot be.
    #[allow(clippy::too_many_lines, reason = "a list of cases")]
    fn take(&mut self, number: u64, record: &Record, length: usize) -> bool {
        let bytes = length as u64 + RECORD_OVERHEAD;
        match record {
            Record::Accepted(accepted) => {
                let id = Id::parse(&accepted.id).map(number_of);
                let Some(id) = id.filter(|id| self.last.is_none_or(|last| *id > last)) else {
                    return false;
                };
                self.last = Some(id);
                let hex = |text: &Option<String>| {
                    text.as_ref().map(|text| u128::from_str_radix(text, 16).unwrap())
                };
                self.list.push(Simple {
                    id,
                    principal: accepted.principal.clone(),
                    session: accepted.session.clone(),
                    key: hex(&accepted.key).map(|key| (key, hex(&accepted.body).unwrap_or(0))),
                    turn: "queued",
                    attempts: 0,
                    cuts: 0,
                    accepted: number,
                    outcome: 0,
                    at: accepted.at.at,
                    ended: 0,
                    target: accepted.deliver.clone(),
                    way: ("none", 0, 0),
                    bytes,
                    erased: false,
                    edited: (0, 0),
                    parts: Parts::default(),
                });
            }
            Record::Channel { channel, fact, key, value, .. } => {
                let name = ["a", "b"].into_iter().find(|name| name == channel).unwrap();
                self.facts.retain(|(its, kind, known, _)| {
                    *its != name || kind != fact || (known != key && *fact != Fact::Cursor)
                });
                let new = (name, *fact, key.clone(), value.clone());
                self.facts.extend(Some(new).filter(|_| !value.is_empty()));
            }
            Record::Clock { .. } | Record::Unknown { .. } => {}
            Record::AgentSession { principal, session, .. } => {
                let who = sessions().find(|who| *who == (principal.as_str(), session.as_str()));
                self.agents.insert(who.unwrap(), (number, bytes));
            }
            Record::Reset { principal, session, transcript_only, .. } => {
                let who = sessions().find(|who| *who == (principal.as_str(), session.as_str()));
                self.resets.insert(who.unwrap(), number);
                self.agents.remove(&who.unwrap());
                let mine = |m: &&mut Simple| {
                    let its = (m.principal.as_str(), m.session.as_deref());
                    !transcript_only
                        && its == (principal, Some(session))
                        && m.is_over()
                        && !m.erased
                };
                for message in self.list.iter_mut().filter(mine) {
                    if ["pending", "sending", "dead"].contains(&message.way.0)
                        && message.key.is_none()
                    {
                        self.plain.push(message.id);
                    }
                    let names = (principal.len() + session.len()) as u64;
                    let most = if message.key.is_none() { 0 } else { ERASED_BYTES + names };
                    message.bytes = message.bytes.min(most);
                    (message.way, message.target, message.erased) = (("none", 0, 0), None, true);
                    (message.edited, message.parts) = ((0, 0), Parts::default());
                }
            }
            Record::Step { id, n, at, step } => {
                let known = |m: &&mut Simple| Some(Id::from(m.id)) == Id::parse(id);
                let Some(message) = self.list.iter_mut().find(known).filter(|m| !m.erased) else {
                    return false;
                };
                let (over, dead) = (message.is_over(), message.way.0 == "dead");
                if !message.step(number, (*n, at.at), step) {
                    return false;
                }
                message.bytes += bytes;
                if let Step::Edited(_) = step {
                    message.bytes -= std::mem::replace(&mut message.edited.1, bytes);
                }
                if *step == Step::Requeued {
                    let id = message.id;
                    self.plain.retain(|known| *known != id);
                    return true;
                }
                let ended = match message.way.0 {
                    "pending" | "sending" | "dead" => false,
                    "none" => !over && message.is_over(),
                    way => dead || way == "delivered",
                };
                if ended && message.key.is_none() {
                    self.plain.push(message.id);
                }
            }
        }
        true
    }
}

/// A record that may make sense or not.
#[allow(clippy::too_many_lines, reason = "a list of cases")]
fn any_record(random: &mut Random, model: &Model, at: u64) -> Record {
    let known: Vec<u32> = model.list.iter().map(|m| m.id).collect();
    let last = model.last.unwrap_or(0);
    let text = || "a\n\"ü\u{7f}".to_owned();
    match random.below(12) {
        0 | 1 => {
            let id = match random.below(8) {
                0 => last,
                1 => last.saturating_sub(1),
                more => last + u32::try_from(more).unwrap(),
            };
            // The hub takes no second message with a key that is known.
            let key = Some(*random.pick(&KEYS)).filter(|_| random.one_in(3));
            let used = |key: &Digest| {
                model.list.iter().any(|m| m.key.is_some_and(|(known, _)| known == *key))
            };
            let key = key.filter(|key| !used(key)).map(|key| format!("{key:032x}"));
            Record::Accepted(Box::new(Accepted {
                context: None,
                id: Id::from(id).to_string(),
                at: at.into(),
                principal: (*random.pick(&PRINCIPALS)).to_owned(),
                session: (!random.one_in(4)).then(|| (*random.pick(&SESSIONS)).to_owned()),
                text: text(),
                deliver: random.one_in(2).then(|| (*random.pick(&["a", "b"])).to_owned()),
                body: key.as_ref().map(|_| format!("{:032x}", random.below(3))),
                key,
                mode: random.one_in(4).then(|| "interrupt".to_owned()),
                attachments: vec![text(); random.below(3)],
                origin: random
                    .one_in(3)
                    .then(|| Box::new(Origin { conversation: text(), ..Origin::default() })),
                erased: false,
            }))
        }
        2 if random.one_in(3) => Record::Reset {
            principal: (*random.pick(&PRINCIPALS)).to_owned(),
            session: (*random.pick(&SESSIONS)).to_owned(),
            at: at.into(),
            transcript_only: random.one_in(3),
        },
        3 if random.one_in(3) => Record::AgentSession {
            principal: (*random.pick(&PRINCIPALS)).to_owned(),
            session: (*random.pick(&SESSIONS)).to_owned(),
            at: at.into(),
            agent: "a".to_owned(),
            id: text(),
        },
        4 if random.one_in(3) => Record::Channel {
            channel: (*random.pick(&["a", "b"])).to_owned(),
            fact: *random.pick(&Fact::ALL),
            key: random.below(3).to_string(),
            value: if random.one_in(4) { String::new() } else { text() },
            at: at.into(),
        },
        _ => {
            let strange = known.is_empty() || random.one_in(20);
            let id = if strange { last + 1 } else { *random.pick(&known) };
            let n = u32::try_from(random.below(4)).unwrap();
            let (n, step) = match random.below(17) {
                0 => (n, Step::Started),
                1 => {
                    let (error, crash, asked) = (text(), random.one_in(2), random.one_in(2));
                    let pause = random.below(3) as u64;
                    (
                        n,
                        Step::Retry(Box::new(Retry {
                            error,
                            crash,
                            asked,
                            pause,
                            ..Retry::default()
                        })),
                    )
                }
                2 => (n, Step::Done(text(), None)),
                3 => (n, Step::Failed(text(), None)),
                4 => (0, Step::Cancelled(text())),
                5 => (n, Step::Sending),
                6 => (n, Step::Deferred(text())),
                7 => (n, Step::Delivered),
                8 => (n, Step::Dead(text())),
                9 => (0, Step::Revived),
                10 => (0, Step::Requeued),
                11 => (n, Step::Released),
                12 => (n, Step::Approval(Box::default())),
                13 => (0, Step::Edited(text())),
                14 | 15 => {
                    let cuts = if random.one_in(3) { vec![3, 7] } else { Vec::new() };
                    let sent = random.one_in(2).then(|| random.below(9).to_string());
                    let (part, preview) = (0, random.one_in(3));
                    (n, Step::Part(Box::new(Part { part, cuts, sent, preview })))
                }
                _ => (0, Step::Dropped),
            };
            Record::step(Id::from(id), n, at, step)
        }
    }
}

/// A table that has read these records, as a start does.
fn replayed<'a>(records: impl IntoIterator<Item = &'a (u64, String)>) -> MessageTable {
    let mut table = MessageTable::default();
    for (number, json) in records {
        let record = Record::parse(json).unwrap();
        assert_eq!(&record.to_json(), json);
        let end_of_erased = record
            .id()
            .and_then(Id::parse)
            .is_some_and(|id| table.copy(id).is_some_and(|entry| entry.erased));
        assert!(end_of_erased || table.check(&record).is_ok(), "{json}");
        table.apply(*number, &record, json.len()).unwrap();
    }
    table
}

/// Drives a table and its model through random records; returns what was written, and the table as it
/// was after each record.
fn live(seed: u64, steps: u64) -> (MessageTable, Vec<(u64, String)>, Vec<Seen>) {
    let mut random = Random::new(seed);
    let (mut table, mut model) = (MessageTable::default(), Model::default());
    let (mut written, mut states) = (Vec::new(), vec![seen(&MessageTable::default(), 0)]);
    for at in 1..=steps {
        let record = any_record(&mut random, &model, at);
        let json = record.to_json();
        let number = written.len() as u64 + 1;
        let possible = model.take(number, &record, json.len());
        assert_eq!(table.check(&record).is_ok(), possible, "seed {seed}: {json}");
        // What an older gateway has written of an erased one is taken, and does nothing.
        let erased = record
            .id()
            .and_then(Id::parse)
            .is_some_and(|id| table.copy(id).is_some_and(|entry| entry.erased));
        if possible || !erased {
            assert_eq!(table.apply(number, &record, json.len()).is_ok(), possible, "seed {seed}");
        }
        if possible {
            written.push((number, json));
        }
        let now = seen(&table, written.len() as u64);
        assert_eq!(now, model.seen(), "seed {seed}, record {number}: {record:?}");
        if possible {
            states.push(now);
        }
    }
    (table, written, states)
}

#[test]
fn random_records_agree_with_the_model_and_with_every_crash() {
    for seed in 1..=rounds(80, 300) {
        let (_, written, states) = live(seed, 90);
        for (length, state) in states.iter().enumerate() {
            let mut table = replayed(&written[..length]);
            assert_eq!(&seen(&table, length as u64), state, "seed {seed}, {length} records");
            table.requeue();
            let after = seen(&table, length as u64);
            assert_eq!(after.counts.running, 0);
            assert_eq!(after.counts.queued, state.counts.queued + state.counts.running);
            for (before, after) in state.entries.iter().zip(&after.entries) {
                let cut = before.turn == "running";
                let turn = if cut { "queued" } else { before.turn };
                let cuts = before.cuts + u32::from(cut);
                assert_eq!(after, &Simple { turn, cuts, ..before.clone() });
            }
        }
    }
}

/// A process that goes on after a crash has what ran as queued; the journal does not say so. Both
/// must take the same records from there on.
#[test]
fn what_follows_a_crash_can_be_read_back_too() {
    for seed in 1..=rounds(60, 200) {
        let mut random = Random::new(seed);
        let mut written: Vec<(u64, String)> = Vec::new();
        for _ in 0..6 {
            let mut table = replayed(&written);
            table.requeue();
            let mut model = Model { last: table.last.map(number_of), ..Model::default() };
            model.list = table.entries().map(|(id, entry)| Simple::of(id, entry)).collect();
            for at in 0..25 {
                let record = any_record(&mut random, &model, at);
                let (json, number) = (record.to_json(), written.len() as u64 + 1);
                if table.check(&record).is_ok() {
                    table.apply(number, &record, json.len()).unwrap();
                    assert!(model.take(number, &record, json.len()), "seed {seed}: {json}");
                    written.push((number, json));
                }
            }
            let mut again = replayed(&written);
            for table in [&mut again, &mut table] {
                table.requeue();
            }
            let numbers = written.len() as u64;
            assert_eq!(seen(&again, numbers), seen(&table, numbers), "seed {seed}");
        }
    }
}

#[test]
fn what_is_forgotten_is_gone_and_what_is_kept_can_be_read_back_alone() {
    for seed in 1..=rounds(80, 300) {
        let (mut table, written, states) = live(seed, 120);
        let mut random = Random::new(seed + 1000);
        let (keep, day) = (random.below(4), day());
        // Ends are at 1 to 120: all that has ended is old, all of it new, or a part of it.
        let now = *random.pick(&[0, day + 60, day + 1000]);
        let before = states.last().unwrap();
        let gone = table.overdue(now.into(), keep, ALL);
        let unique: BTreeSet<Id> = gone.iter().copied().collect();
        assert_eq!(unique.len(), gone.len(), "seed {seed}");
        for id in &gone {
            let m = before.entries.iter().find(|m| Id::from(m.id) == *id).unwrap();
            assert!(m.is_over(), "seed {seed}: {m:?}");
            assert!(!["pending", "sending", "dead"].contains(&m.way.0), "seed {seed}: {m:?}");
            assert!(m.key.is_none() || m.ended + day <= now, "seed {seed}: {m:?}");
        }
        table.forget(&gone);
        assert!(table.overdue(now.into(), keep, ALL).is_empty(), "seed {seed}");
        table.forget(&gone);
        let numbers = written.len() as u64;
        let after = seen(&table, numbers);
        let plain = after.entries.iter().filter(|m| {
            m.is_over() && m.key.is_none() && !["pending", "sending", "dead"].contains(&m.way.0)
        });
        assert!(plain.count() <= keep, "seed {seed}");
        let left = before.entries.iter().filter(|m| !unique.contains(&Id::from(m.id)));
        assert_eq!(after.entries, left.cloned().collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(after.counts.bytes, after.entries.iter().map(|m| m.bytes).sum::<u64>());
        // What a compaction leaves, and the start after it.
        table.forget_resets(0, 10);
        let left = |(number, json): &(u64, String)| match table.decide(*number, json) {
            Decision::Keep => Some((*number, json.clone())),
            Decision::Replace(left) => Some((*number, left)),
            Decision::Drop | Decision::Erase => None,
        };
        let kept: Vec<(u64, String)> = written.iter().filter_map(left).collect();
        for who in sessions() {
            check_session(&table, session_digest(who.0, who.1), [&written, &kept], numbers / 2);
        }
        let again = replayed(&kept);
        let (mut one, mut two) = (seen(&table, numbers), seen(&again, numbers));
        (one.last, two.last) = (None, None);
        if one.entries.iter().any(|m| m.erased) {
            [&mut one, &mut two].into_iter().for_each(without_erased);
        }
        assert_eq!(one, two, "seed {seed}");
        for (number, json) in &kept {
            let id = id_of(json).and_then(Id::parse);
            let erased = id.and_then(|id| table.get(id)).is_some_and(|entry| entry.erased);
            assert!(!erased || !json.contains("\\u007f"), "seed {seed}: {json}");
            assert_eq!(again.decide(*number, json), left_of(json, erased), "seed {seed}");
        }
        if again.entries().any(|(_, entry)| entry.erased) {
            continue;
        }
        let sizes: u64 = kept.iter().map(|(_, json)| json.len() as u64 + RECORD_OVERHEAD).sum();
        let resets = kept.iter().filter(|(_, json)| id_of(json).is_none());
        let resets: u64 = resets.map(|(_, json)| json.len() as u64 + RECORD_OVERHEAD).sum();
        assert_eq!(again.counts.bytes, sizes - resets, "seed {seed}");
        assert_eq!(again.counts.bytes, table.counts.bytes, "seed {seed}");
    }
}

/// Of an erased message a compaction leaves no more than its id and key.
fn without_erased(seen: &mut Seen) {
    for m in seen.entries.iter_mut().filter(|m| m.erased) {
        (m.turn, m.attempts, m.cuts, m.outcome, m.ended, m.bytes) = ("cancelled", 0, 0, 0, 0, 0);
    }
    seen.overdue.clear();
    (seen.counts.bytes, seen.counts.kept) = (0, 0);
    seen.entries.retain(|m| !m.erased || m.key.is_some());
}

/// What a compaction leaves is left as it is by the next one.
fn left_of(json: &str, erased: bool) -> Decision {
    if erased { Decision::Replace(json.to_owned()) } else { Decision::Keep }
}

/// What the table knows of a session is what its messages and records say.
fn check_session(
    table: &MessageTable,
    session: Digest,
    [written, kept]: [&[(u64, String)]; 2],
    half: u64,
) {
    // The numbers of texts before the newest stay until the next start.
    let is_old_text = |(number, json): &&(u64, String)| {
        json.contains(r#""t":"edited""#) && !kept.iter().any(|(known, _)| known == number)
    };
    let old: Vec<u64> = written.iter().filter(is_old_text).map(|(number, _)| *number).collect();
    let records_of = |after| {
        let numbers = table.records_of(session, after);
        numbers.filter(|number| !old.contains(number)).collect::<Vec<_>>()
    };
    let mine = table.entries().filter(|(_, e)| e.session() == Some(session) && !e.erased);
    let mine: Vec<Id> = mine.map(|e| e.0).collect();
    assert_eq!(table.messages_of(session, 0).map(|(id, _)| id).collect::<Vec<_>>(), mine);
    let of = |json: &str| table.session_of(&Record::parse(json).unwrap()) == Some(session);
    let numbers = kept.iter().filter(|(_, json)| of(json)).map(|(number, _)| *number);
    assert_eq!(records_of(0), numbers.clone().collect::<Vec<_>>());
    let later: Vec<u64> = numbers.filter(|number| *number > half).collect();
    assert_eq!(records_of(half), later);
    for (id, _) in table.messages_of(session, 0) {
        let newer = mine.iter().filter(|other| **other > id).filter_map(|other| table.get(*other));
        assert_eq!(
            table.is_late(id, session),
            newer.into_iter().any(|e| e.turn == TurnState::Done)
        );
    }
    let older: Vec<Id> = table.entries().rev().map(|(id, _)| id).collect();
    for (at, id) in older.iter().enumerate() {
        let before: Vec<Id> = table.before(Some(*id)).map(|(id, _)| id).collect();
        assert_eq!(before, older[at + 1..]);
    }
}

// ---------------------------------------------------------------- by example ----

fn day() -> u64 {
    u64::try_from(KEEP_RESULTS_FOR.as_millis()).unwrap()
}

/// Writes records one after the other.
#[derive(Default)]
struct Scribe {
    table: MessageTable,
    number: u64,
}

impl Scribe {
    fn write(&mut self, record: &Record) {
        self.number += 1;
        self.table.check(record).unwrap();
        self.table.apply(self.number, record, record.to_json().len()).unwrap();
    }

    fn accept(&mut self, id: u32, session: Option<&str>, key: Option<Digest>, deliver: bool) {
        let hex = |digest: Digest| format!("{digest:032x}");
        self.write(&Record::Accepted(Box::new(Accepted {
            id: Id::from(id).to_string(),
            principal: "owner".to_owned(),
            session: session.map(str::to_owned),
            key: key.map(hex),
            body: key.map(|_| hex(7)),
            deliver: deliver.then(|| "out".to_owned()),
            ..Accepted::default()
        })));
    }

    fn step(&mut self, id: u32, at: u64, step: Step) {
        self.write(&Record::step(Id::from(id), 1, at, step));
    }

    fn done(&mut self, id: u32, at: u64) {
        self.step(id, at, Step::Started);
        self.step(id, at, Step::Done("reply".to_owned(), None));
    }

    fn overdue(&self, now: u64, keep: usize) -> Vec<u32> {
        self.table.overdue(now.into(), keep, ALL).into_iter().map(number_of).collect()
    }

    fn last(&self) -> u32 {
        self.table.last.map_or(0, number_of)
    }

    fn reset(&mut self, session: &str) {
        self.write(&reset(session));
    }
}

fn reset(session: &str) -> Record {
    let (principal, session) = ("owner".to_owned(), session.to_owned());
    Record::Reset { principal, session, at: 0.into(), transcript_only: true }
}

#[test]
fn results_are_kept_by_age_and_by_number() {
    let mut scribe = Scribe::default();
    for id in 1..=8 {
        scribe.accept(id, None, (id == 7).then_some(1), false);
    }
    for (id, at) in [(1, 1000), (2, 2000), (7, 2000), (3, 3000), (4, 4000), (5, 5000), (6, 6000)] {
        scribe.done(id, at);
    }
    assert!(scribe.overdue(0, 6).is_empty());
    assert_eq!(scribe.overdue(0, 4), [1, 2]);
    assert_eq!(scribe.overdue(0, 0), [1, 2, 3, 4, 5, 6], "the one with a key is not counted");
    assert_eq!(scribe.overdue(day() + 1999, 100), [1]);
    assert_eq!(scribe.overdue(day() + 2000, 100), [1, 2, 7]);
    assert_eq!(scribe.overdue(day() + 2000, 3), [1, 2, 3, 7]);
    assert_eq!(scribe.overdue(u64::MAX, 100), [1, 2, 3, 4, 5, 6, 7], "8 has not ended");
    let gone = scribe.table.overdue(u64::MAX.into(), 100, ALL);
    scribe.table.forget(&gone);
    let Counts { queued, kept, .. } = scribe.table.counts;
    assert_eq!((queued, kept), (1, 1));
    assert!(scribe.table.find_by_idempotency_key(1).is_none(), "a key goes with its message");
    let step = |id: u32| Record::step(Id::from(id), 1, 0, Step::Started).to_json();
    assert!(!scribe.table.is_needed(1, &step(1)) && scribe.table.is_needed(8, &step(8)));
    let nonsense = step(8).replace(&Id::from(8).to_string(), "nonsense");
    assert!(!scribe.table.is_needed(22, &nonsense) && !scribe.table.is_needed(22, "{}"));
    assert_eq!(scribe.table.last, Some(Id::from(8)));
}

#[test]
fn a_key_names_its_newest_message() {
    let mut scribe = Scribe::default();
    for id in [1, 2] {
        scribe.accept(id, None, Some(5), false);
        scribe.done(id, 0);
    }
    assert_eq!(scribe.table.find_by_idempotency_key(5).unwrap().0, Id::from(2));
    scribe.table.forget(&[Id::from(1)]);
    assert_eq!(
        scribe.table.find_by_idempotency_key(5).unwrap().0,
        Id::from(2),
        "the older one goes alone"
    );
    scribe.table.forget(&[Id::from(2)]);
    assert!(scribe.table.find_by_idempotency_key(5).is_none());
}

#[test]
fn dead_letters_are_kept_for_a_month() {
    let month = u64::try_from(KEEP_DEAD_LETTERS.as_millis()).unwrap();
    let mut scribe = Scribe::default();
    for id in 1..=3 {
        scribe.accept(id, None, None, true);
        scribe.done(id, u64::from(id));
    }
    for id in 1..=3 {
        scribe.step(id, 5, Step::Dead("why".to_owned()));
    }
    assert!(scribe.overdue(month, 0).is_empty());
    assert_eq!(scribe.overdue(month + 2, 0), [1, 2]);
    scribe.step(1, 6, Step::Dropped);
    assert!(scribe.overdue(day(), 1).is_empty(), "a day after its end, not its drop");
    assert_eq!(scribe.overdue(day() + 1, 1), [1]);
    scribe.step(2, 7, Step::Revived);
    assert_eq!(scribe.overdue(u64::MAX, 0), [1, 3], "one that is tried again is not over");
    scribe.step(2, 8, Step::Sending);
    scribe.step(2, 9, Step::Delivered);
    assert_eq!(scribe.overdue(u64::MAX, 0), [1, 2, 3]);
    assert_eq!(dead_letters(&scribe.table), [3]);
}

#[test]
fn dead_letters_are_bounded() {
    let mut scribe = Scribe::default();
    let most = u32::try_from(MAX_DEAD_LETTERS).unwrap();
    for id in 1..=most + 3 {
        scribe.accept(id, None, None, true);
        scribe.done(id, 0);
        scribe.step(id, 0, Step::Dead(String::new()));
        assert_eq!(scribe.table.is_crowded(0), id > most);
    }
    assert_eq!(scribe.overdue(0, 0), [1, 2, 3]);
    let gone = scribe.table.overdue(0.into(), 0, ALL);
    scribe.table.forget(&gone);
    assert_eq!(scribe.table.counts.dead_letters, MAX_DEAD_LETTERS);
    assert!(!scribe.table.is_crowded(0));
}

#[test]
fn a_cancelled_message_has_nothing_to_deliver() {
    let mut scribe = Scribe::default();
    scribe.accept(1, None, None, true);
    scribe.step(1, 3, Step::Cancelled("why".to_owned()));
    assert_eq!(scribe.table.get(Id::from(1)).unwrap().delivery_state(), None);
    assert_eq!(scribe.table.counts.outbox, 0);
    assert_eq!(scribe.overdue(3, 0), [1]);
    let sending = Record::step(Id::from(1), 1, 4, Step::Sending);
    assert!(scribe.table.check(&sending).is_err());
}

#[test]
fn the_newest_session_of_an_agent_counts_until_a_reset() {
    let mut scribe = Scribe::default();
    let record = |session: &str, id: &str| Record::AgentSession {
        principal: "owner".to_owned(),
        session: session.to_owned(),
        at: 0.into(),
        agent: "digest".to_owned(),
        id: id.to_owned(),
    };
    let (work, home) = (session_digest("owner", "work"), session_digest("owner", "home"));
    for (session, id) in [("work", "a"), ("home", "b"), ("work", "c")] {
        scribe.write(&record(session, id));
    }
    let of = |table: &MessageTable| [work, home].map(|session| table.agent_session_of(session));
    assert_eq!(of(&scribe.table), [3, 2]);
    // Its principal's share has the newest of each session.
    let bytes = |sessions: &[(&str, &str)]| -> u64 {
        let each = sessions.iter().map(|(session, id)| record(session, id).to_json().len() as u64);
        each.map(|length| length + RECORD_OVERHEAD).sum()
    };
    assert_eq!(scribe.table.bytes_of("owner"), bytes(&[("home", "b"), ("work", "c")]));
    let held = scribe.table.usage().get("owner").unwrap()[1];
    assert_eq!(held, ("journal_bytes", scribe.table.bytes_of("owner")));
    assert_eq!(scribe.table.records_of(work, 0).collect::<Vec<_>>(), [3]);
    assert_eq!(scribe.table.session_of(&record("work", "c")), Some(work));
    let needed = |table: &MessageTable| {
        [(1, "work"), (2, "home"), (3, "work")]
            .map(|(number, session)| table.decide(number, &record(session, "x").to_json()))
    };
    assert_eq!(needed(&scribe.table), [Decision::Drop, Decision::Keep, Decision::Keep]);
    scribe.reset("work");
    assert_eq!(of(&scribe.table), [0, 2]);
    assert_eq!(scribe.table.bytes_of("owner"), bytes(&[("home", "b")]));
    assert_eq!(needed(&scribe.table), [Decision::Drop, Decision::Keep, Decision::Drop]);
    assert_eq!(scribe.table.records_of(work, 0).collect::<Vec<_>>(), [4]);
    scribe.write(&record("work", "d"));
    assert_eq!(of(&scribe.table), [5, 2]);
}

#[test]
fn a_reset_holds_for_what_came_before_it_in_its_session() {
    let mut scribe = Scribe::default();
    scribe.accept(1, Some("work"), None, false);
    scribe.accept(2, Some("home"), None, false);
    scribe.reset("work");
    scribe.accept(3, Some("work"), None, false);
    let is_reset = |table: &MessageTable, id: u32| {
        let entry = table.get(Id::from(id)).unwrap();
        table.is_reset(entry.session().unwrap(), entry.accepted)
    };
    let all = |table: &MessageTable| [1, 2, 3].map(|id| is_reset(table, id));
    assert_eq!(all(&scribe.table), [true, false, false]);
    assert!(!scribe.table.is_reset(session_digest("guest", "work"), 1), "another's session");
    let reset = reset("work").to_json();
    assert!(scribe.table.is_needed(3, &reset) && !scribe.table.is_needed(2, &reset));
    scribe.table.forget_resets(0, 10);
    assert!(scribe.table.is_needed(3, &reset), "messages of its session are known");
    scribe.reset("work");
    assert_eq!(all(&scribe.table), [true, false, true]);
    assert!(
        scribe.table.is_needed(5, &reset) && !scribe.table.is_needed(3, &reset),
        "the last one counts"
    );
    for id in [1, 3] {
        scribe.done(id, 0);
    }
    scribe.table.forget(&[Id::from(1), Id::from(3)]);
    scribe.table.forget_resets(0, 10);
    assert!(!scribe.table.is_needed(5, &reset));
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let mut scribe = Scribe::default();
    scribe.accept(5, Some("work"), Some(1), true);
    let before = seen(&scribe.table, 9);
    let accepted = |id: &str, key: &str, body: &str| {
        Record::Accepted(Box::new(Accepted {
            id: id.to_owned(),
            key: Some(key.to_owned()),
            body: Some(body.to_owned()),
            ..Accepted::default()
        }))
    };
    let six = Id::from(6).to_string();
    let too_long = "1".repeat(33);
    for record in [
        accepted("", "1", "1"),
        accepted("x", "1", "1"),
        accepted(&Id::from(5).to_string(), "2", "1"),
        accepted(&Id::from(4).to_string(), "2", "1"),
        accepted(&six, "", "1"),
        accepted(&six, "x", "1"),
        accepted(&six, "2", "-1"),
        accepted(&six, &too_long, "1"),
        Record::step("", 0, 0, Step::Started),
        Record::step(Id::from(6), 0, 0, Step::Started),
        Record::step(Id::from(5), 0, 0, Step::Sending),
        Record::step(Id::from(5), 0, 0, Step::Retry(Box::default())),
    ] {
        assert!(scribe.table.apply(9, &record, 10).is_err(), "{record:?}");
        assert_eq!(seen(&scribe.table, 9), before, "{record:?}");
    }
    scribe.accept(6, None, None, false);
}

/// A record whose age goes back, or ahead by ages, stands for no more than the one before it.
#[test]
fn one_odd_age_blocks_none_behind_it_and_lets_none_expire() {
    let mut scribe = Scribe::default();
    let ages = [1000, 2000, 1 << 50, 0, 500, u64::MAX, 3000];
    for (id, age) in (1..).zip(ages) {
        scribe.accept(id, None, (id % 2 == 0).then_some(id.into()), false);
        scribe.done(id, age);
    }
    assert_eq!(scribe.table.newest.age, 3000);
    assert_eq!(scribe.overdue(day() + 999, 100), [0u32; 0]);
    assert_eq!(scribe.overdue(day() + 1000, 100), [1]);
    assert_eq!(scribe.overdue(day() + 2000, 100), [1, 3, 5, 2, 4, 6], "all but the last");
    assert_eq!(scribe.overdue(day() + 3000, 100).len(), ages.len());
    // A part of the age for which the machine was off cannot shrink, or be more than the age.
    for off in [7000, u64::MAX] {
        let odd = Timestamp { at: 0, age: 6000, off };
        scribe.accept(scribe.last() + 1, None, None, false);
        scribe.write(&Record::step(Id::from(scribe.last()), 1, odd, Step::Started));
        assert_eq!(scribe.table.newest.age, 3000, "{off}");
    }
}

#[test]
fn a_letter_that_was_revived_blocks_none_behind_it() {
    let month = u64::try_from(KEEP_DEAD_LETTERS.as_millis()).unwrap();
    let mut scribe = Scribe::default();
    for id in 1..=3 {
        scribe.accept(id, None, None, true);
        scribe.done(id, 5);
        scribe.step(id, 5, Step::Dead("why".to_owned()));
    }
    scribe.step(1, month, Step::Revived);
    scribe.step(1, month, Step::Dead("again".to_owned()));
    assert_eq!(scribe.overdue(month + 5, 0), [2, 3]);
    assert_eq!(scribe.overdue(2 * month, 0), [1, 2, 3]);
}

/// What only a wrong clock says was long ago is not.
#[test]
fn nothing_expires_before_the_machine_was_on_for_a_while() {
    let hour = day() / 24;
    let mut scribe = Scribe::default();
    scribe.accept(1, None, Some(1), false);
    scribe.done(1, 1000);
    let overdue = |age, off| scribe.table.overdue(Timestamp { at: 0, age, off }, 9, ALL);
    assert!(overdue(40 * day(), 40 * day() - 1000).is_empty());
    assert!(overdue(40 * day(), 40 * day() - 999 - hour).is_empty());
    assert_eq!(overdue(40 * day(), 40 * day() - 1000 - hour), [Id::from(1)]);
    assert!(overdue(day() + 999, 0).is_empty());
}

// ------------------------------------------------------------ the tables of life ----

const TURNS: [TurnState; 6] = [
    TurnState::Queued,
    TurnState::Running,
    TurnState::Backoff,
    TurnState::Done,
    TurnState::Failed,
    TurnState::Cancelled,
];
const WAYS: [DeliveryState; 5] = [
    DeliveryState::Pending,
    DeliveryState::Sending,
    DeliveryState::Delivered,
    DeliveryState::Dead,
    DeliveryState::Dropped,
];
/// Those of a turn, those of a delivery, and the one that belongs to neither.
fn steps() -> [Step; 17] {
    let text = String::new;
    [
        Step::Started,
        Step::Retry(Box::default()),
        Step::Done(text(), None),
        Step::Failed(text(), None),
        Step::Cancelled(text()),
        Step::Requeued,
        Step::Released,
        Step::Approval(Box::default()),
        Step::Sending,
        Step::Deferred(text()),
        Step::Delivered,
        Step::Dead(text()),
        Step::Revived,
        Step::Dropped,
        Step::Forgotten,
        Step::Edited(text()),
        Step::Part(Box::default()),
    ]
}

#[test]
fn every_pair_of_a_turn_and_a_step_has_its_answer() {
    // Rows are states, columns steps; a letter names the state after it.
    let table = [
        "R-DFC----------QQ",
        "RrDFC-QR-------RR",
        "R--FC----------rr",
        "-----------------",
        "-----Q-----------",
        "-----------------",
    ];
    let letters = [('Q', 0), ('R', 1), ('r', 2), ('D', 3), ('F', 4), ('C', 5)];
    for (state, row) in TURNS.iter().zip(table) {
        for (step, letter) in steps().iter().zip(row.chars()) {
            let after = letters.iter().find(|(known, _)| *known == letter);
            let after = after.map(|(_, at)| TURNS[*at]);
            assert_eq!(state.after(step), after, "{state:?}, {step:?}");
            // What a start makes of a running turn must take all that may be written after it,
            // and a replay sees it as running still.
            let moves = after.is_some_and(|after| after != *state);
            if *state == TurnState::Queued && after.is_some() {
                assert!(TurnState::Running.after(step).is_some(), "{step:?}");
            }
            if *state == TurnState::Queued && moves {
                assert_eq!(TurnState::Running.after(step), after, "{step:?}");
            }
        }
    }
}

#[test]
fn every_pair_of_a_delivery_and_a_step_has_its_answer() {
    let table = [
        "--------S--X----P",
        "--------SPDX----S",
        "-----------------",
        "------------PO---",
        "-----------------",
    ];
    let letters = [('P', 0), ('S', 1), ('D', 2), ('X', 3), ('O', 4)];
    for (state, row) in WAYS.iter().zip(table) {
        for (step, letter) in steps().iter().zip(row.chars()) {
            let after = letters.iter().find(|(known, _)| *known == letter);
            let after = after.map(|(_, at)| WAYS[*at]);
            assert_eq!(state.after(step), after, "{state:?}, {step:?}");
        }
    }
}

#[test]
fn nothing_leaves_a_final_state() {
    let steps = steps();
    for state in TURNS {
        // But for an operator's word, which only a failed one takes.
        let by_itself = steps.iter().filter(|step| **step != Step::Requeued);
        let moves = by_itself.filter(|step| state.after(step).is_some()).count();
        assert_eq!(state.is_over(), moves == 0, "{state:?}");
        assert_eq!(state.after(&Step::Requeued).is_some(), state == TurnState::Failed);
        let word = if state == TurnState::Backoff { "queued" } else { Simple::of_turn(state) };
        assert_eq!(state.word(), word);
    }
    for state in WAYS {
        let moves = steps.iter().filter(|step| state.after(step).is_some()).count();
        let last = matches!(state, DeliveryState::Delivered | DeliveryState::Dropped);
        assert_eq!(last, moves == 0, "{state:?}");
    }
    for seed in 1..=500 {
        let mut random = Random::new(seed);
        let (mut turn, mut way) = (TurnState::Queued, DeliveryState::Pending);
        for _ in 0..100 {
            let step = random.pick(&steps);
            let next = turn.after(step);
            assert!(next.is_none() || !turn.is_over() || *step == Step::Requeued);
            turn = next.unwrap_or(turn);
            let next = way.after(step);
            assert!(
                next.is_none() || !matches!(way, DeliveryState::Delivered | DeliveryState::Dropped)
            );
            way = next.unwrap_or(way);
        }
    }
}
