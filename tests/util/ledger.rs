//! The books that a test keeps outside of the gateway, and the audit of them: what was acknowledged,
//! what agents were started for, what receivers were sent, and whether all that fits together.
//!
//! Pure: [`Ledger::audit`] looks at nothing but the books, so that doctored ones can show that it
//! finds what is wrong.

use std::collections::{BTreeMap, BTreeSet};

/// A message that the gateway has acknowledged (2xx).
#[derive(Clone, Debug)]
pub struct Accepted {
    pub session: String,
    pub id: String,
    pub text: String,
    /// Its reply goes to the receiver, too.
    pub deliver: bool,
}

/// A completion that the gateway has acknowledged: an answer that said "done".
#[derive(Clone, Debug)]
pub struct Finish {
    pub id: String,
    pub attempts: u64,
    /// How far the agents' file was written when the answer was there.
    pub agents_at: u64,
}

/// A line of the agents' file.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it begins.
    pub at: u64,
    pub begins: bool,
    pub session: String,
    pub id: String,
    pub attempt: u64,
    /// The process that started the agent; 1 or so where it had died already.
    pub gateway: u64,
    pub text: String,
}

/// A delivery as the receiver saw it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub webhook_id: String,
    /// The message's text, which the reply repeats.
    pub text: String,
    pub body: String,
}

/// What the gateway says of a message in the end.
#[derive(Clone, Debug)]
pub struct Last {
    pub status: String,
    pub reply: String,
    pub attempts: u64,
    pub delivery: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub kills: usize,
    /// In the order of the acknowledgements of each session.
    pub accepted: Vec<Accepted>,
    /// Every id that an idempotency key was ever answered with.
    pub keys: BTreeMap<String, BTreeSet<String>>,
    pub finishes: Vec<Finish>,
    pub lines: Vec<Line>,
    pub deliveries: Vec<Delivery>,
    pub last: BTreeMap<String, Last>,
}

/// The agents' file, a line a step: `begin SESSION ID ATTEMPT PPID TEXT` and the same with `end`.
///
/// # Errors
/// A line that is none.
pub fn read_lines(text: &str) -> Result<Vec<Line>, String> {
    let mut at = 0;
    let mut read = |line: &str| {
        let words: Vec<&str> = line.trim_end_matches('\n').split(' ').collect();
        let [step, session, id, attempt, gateway, text] = words[..] else { return None };
        let begins = ["begin", "end"].iter().position(|word| *word == step)? == 0;
        let begin_of_line = at;
        at += line.len() as u64;
        Some(Line {
            at: begin_of_line,
            begins,
            session: session.to_owned(),
            id: id.to_owned(),
            attempt: attempt.parse().ok()?,
            gateway: gateway.parse().ok()?,
            text: text.to_owned(),
        })
    };
    text.split_inclusive('\n')
        .map(|line| read(line).ok_or_else(|| format!("no line of an agent: {line:?}")))
        .collect()
}

/// What an agent replies to a text.
pub fn reply_to(text: &str) -> String {
    format!("re {text}")
}

impl Ledger {
    /// How many turns were begun.
    pub fn dispatched(&self) -> usize {
        self.lines.iter().filter(|line| line.begins).count()
    }

    /// How many deliveries came a second time, or more often.
    pub fn duplicates(&self) -> usize {
        let ids: BTreeSet<&str> = self.deliveries.iter().map(|d| d.webhook_id.as_str()).collect();
        self.deliveries.len() - ids.len()
    }

    /// Everything that is wrong.
    pub fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.audit_acknowledgements(&mut wrong);
        self.audit_keys(&mut wrong);
        self.audit_dispatches(&mut wrong);
        self.audit_completions(&mut wrong);
        self.audit_order(&mut wrong);
        self.audit_overlaps(&mut wrong);
        self.audit_deliveries(&mut wrong);
        wrong
    }

    fn begins(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.begins)
    }

    /// Nothing acknowledged is lost, and each is answered with its own reply.
    fn audit_acknowledgements(&self, wrong: &mut Vec<String>) {
        for Accepted { id, text, deliver, .. } in &self.accepted {
            let Some(last) = self.last.get(id) else {
                wrong.push(format!("lost: {id} ({text}) was acknowledged and is not known"));
                continue;
            };
            if last.status != "done" || last.reply != reply_to(text) {
                wrong.push(format!("not done: {id} ({text}): {last:?}"));
            }
            let wanted = deliver.then_some("delivered");
            if last.delivery.as_deref() != wanted {
                wrong.push(format!("not delivered: {id} ({text}): {last:?}"));
            }
        }
    }

    /// One key, one message.
    fn audit_keys(&self, wrong: &mut Vec<String>) {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, ids) in &self.keys {
            if ids.len() != 1 {
                wrong.push(format!("key {key} was answered with {ids:?}"));
            }
            for id in ids {
                if let Some(other) = owners.insert(id, key) {
                    wrong.push(format!("{id} belongs to two keys: {key} and {other}"));
                }
            }
        }
    }

    /// An attempt is begun once, for a message that is known, in its session, with its text.
    fn audit_dispatches(&self, wrong: &mut Vec<String>) {
        let accepted: BTreeMap<&str, &Accepted> =
            self.accepted.iter().map(|accepted| (accepted.id.as_str(), accepted)).collect();
        let mut seen = BTreeSet::new();
        for line in self.begins() {
            if !seen.insert((&line.id, line.attempt)) {
                wrong.push(format!("attempt {} of {} was begun twice", line.attempt, line.id));
            }
            let Some(accepted) = accepted.get(line.id.as_str()) else {
                wrong.push(format!("invented: nobody sent what {line:?} is for"));
                continue;
            };
            // A gateway that dies before it has handed the message over leaves an agent with nothing.
            let final_attempt = self.last.get(&line.id).is_some_and(|l| l.attempts == line.attempt);
            let cut = line.text.is_empty() && !final_attempt;
            if accepted.session != line.session || (accepted.text != line.text && !cut) {
                wrong.push(format!("mixed up: {accepted:?} was begun as {line:?}"));
            }
        }
    }

    /// Once somebody was told that a message is done, it is never begun again. An agent that a dead
    /// gateway has left behind may still write its line late: its attempt is an earlier one.
    fn audit_completions(&self, wrong: &mut Vec<String>) {
        let finishes: BTreeMap<&str, &Finish> =
            self.finishes.iter().map(|finish| (finish.id.as_str(), finish)).collect();
        let mut ran = BTreeSet::new();
        for line in self.begins() {
            let Some(finish) = finishes.get(line.id.as_str()) else { continue };
            if line.attempt > finish.attempts
                || (line.attempt == finish.attempts && line.at >= finish.agents_at)
            {
                wrong.push(format!("begun again after its completion, {finish:?}: {line:?}"));
            }
            if line.attempt == finish.attempts {
                ran.insert(line.id.as_str());
            }
        }
        for Finish { id, attempts, .. } in &self.finishes {
            if !ran.contains(id.as_str()) {
                wrong.push(format!("{id} was done with attempt {attempts}, which nobody ran"));
            }
            if self.last.get(id).is_none_or(|last| last.attempts != *attempts) {
                let last = self.last.get(id);
                wrong.push(format!("{id} was done with attempt {attempts} and then {last:?}"));
            }
        }
    }

    /// In each session, messages are first begun in the order in which they were accepted.
    fn audit_order(&self, wrong: &mut Vec<String>) {
        let accepted = self.accepted.iter().map(|a| (a.session.as_str(), a.id.as_str()));
        let begun = self.begins().map(|line| (line.session.as_str(), line.id.as_str()));
        compare_orders("begun", &firsts(accepted), &firsts(begun), wrong);
    }

    /// One gateway never runs two turns of a session at once.
    fn audit_overlaps(&self, wrong: &mut Vec<String>) {
        let mut open: BTreeMap<(u64, &str), &Line> = BTreeMap::new();
        // Who does not know its gateway's pid any more was started by one that is dead.
        for line in self.lines.iter().filter(|line| line.gateway > 1) {
            let place = (line.gateway, line.session.as_str());
            if line.begins {
                if let Some(other) = open.insert(place, line) {
                    wrong.push(format!("two turns at once: {other:?} and {line:?}"));
                }
            } else if open.get(&place).is_some_and(|other| other.id == line.id) {
                open.remove(&place);
            }
        }
    }

    /// Every delivery comes, under one id, with one text; repeats are fewer than the kills, and the
    /// first ones keep their session's order.
    fn audit_deliveries(&self, wrong: &mut Vec<String>) {
        let duplicates = self.duplicates();
        if duplicates > self.kills {
            wrong.push(format!("{duplicates} duplicates after {} kills", self.kills));
        }
        let mut first: BTreeMap<&str, &Delivery> = BTreeMap::new();
        let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
        for delivery in &self.deliveries {
            let one = *first.entry(&delivery.text).or_insert(delivery);
            if one.webhook_id != delivery.webhook_id || one.body != delivery.body {
                wrong.push(format!("a repeat that differs: {one:?} and {delivery:?}"));
            }
            if *ids.entry(&delivery.webhook_id).or_insert(&delivery.text) != delivery.text {
                wrong.push(format!("one id for two deliveries: {delivery:?}"));
            }
        }
        let due: Vec<&Accepted> = self.accepted.iter().filter(|a| a.deliver).collect();
        let sessions: BTreeMap<&str, &str> =
            due.iter().map(|a| (a.text.as_str(), a.session.as_str())).collect();
        for text in first.keys().filter(|text| !sessions.contains_key(**text)) {
            wrong.push(format!("nobody wanted the delivery of {text}"));
        }
        let accepted = due.iter().map(|a| (a.session.as_str(), a.text.as_str()));
        let came = self
            .deliveries
            .iter()
            .filter_map(|d| Some((*sessions.get(d.text.as_str())?, d.text.as_str())));
        compare_orders("delivered", &firsts(accepted), &firsts(came), wrong);
    }
}

/// What happened first to each thing of each session, in order.
fn firsts<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut orders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (session, thing) in all {
        if seen.insert((session, thing)) {
            orders.entry(session).or_default().push(thing);
        }
    }
    orders
}

fn compare_orders(
    what: &str,
    wanted: &BTreeMap<&str, Vec<&str>>,
    found: &BTreeMap<&str, Vec<&str>>,
    wrong: &mut Vec<String>,
) {
    for (session, wanted) in wanted {
        let found = found.get(session).map(Vec::as_slice).unwrap_or_default();
        if found != &wanted[..] {
            let at = wanted.iter().zip(found).take_while(|(a, b)| a == b).count();
            let place = |list: &[&str]| list.get(at).map_or("nothing", |thing| *thing).to_owned();
            wrong.push(format!(
                "order: {session} accepted {} as number {} of {}; {what} was {} there, of {}",
                place(wanted),
                at + 1,
                wanted.len(),
                place(found),
                found.len()
            ));
        }
    }
}
