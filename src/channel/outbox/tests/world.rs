//! What is around the outbox.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::super::values::Send;
use super::super::{Abilities, Action, Delivery, Draft, Outbox, Rules};
use crate::channel::wire::{Failure, FailureKind, Receipt, Unit};
use crate::config::Uncertain;
use crate::journal::record::{Part, Step};
use crate::session::Id;

/// What the journal has of a reply.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub conversation: String,
    pub text: String,
    /// The turn is over.
    pub done: bool,
    pub attempts: u32,
    pub cuts: Vec<u32>,
    pub sent: Vec<String>,
    pub open: bool,
    pub preview: Option<String>,
    delivered: bool,
    pub dead: Option<String>,
}

impl Stored {
    pub fn is_delivered(&self) -> bool {
        self.delivered
    }

    pub fn is_settled(&self) -> bool {
        self.delivered || self.dead.is_some()
    }

    fn apply(&mut self, n: u32, step: &Step) {
        assert!(!self.is_settled(), "{step:?} of what is settled");
        self.attempts = self.attempts.max(n);
        match step {
            Step::Part(part) => self.apply_part(part),
            Step::Delivered => {
                assert!(self.sent.len() == self.cuts.len() && !self.open);
                self.delivered = true;
            }
            Step::Dead(why) => self.dead = Some(why.clone()),
            _ => self.open = false,
        }
    }

    fn apply_part(&mut self, part: &Part) {
        if !part.cuts.is_empty() {
            self.cuts.clone_from(&part.cuts);
        }
        self.open = part.sent.is_none();
        assert_eq!(part.part as usize, self.sent.len());
        match &part.sent {
            Some(id) if part.preview => self.preview = Some(id.clone()),
            Some(id) => {
                self.preview = None;
                self.sent.push(id.clone());
            }
            None => {}
        }
    }
}

/// What a platform shows.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: String,
    pub of: (Id, u32),
    pub text: String,
    pub gone: bool,
}

pub struct World {
    pub now: Instant,
    pub outbox: Outbox,
    pub rules: Rules,
    pub can: Abilities,
    pub journal: BTreeMap<u32, Stored>,
    pub platform: Vec<Shown>,
    /// Handed over, and not answered.
    pub in_flight: Vec<Send>,
    /// The disk is.
    pub full: bool,
    /// Where conversations go on, and what of that the gateway was told.
    pub moved: HashMap<String, String>,
    known: HashMap<String, String>,
    /// The order in which the replies came, and that of the texts that were handed over.
    pub finished: Vec<Id>,
    pub history: Vec<(Id, u32)>,
    random: u64,
}

pub fn failure(kind: FailureKind, retry_after: Option<u64>) -> Failure {
    Failure { kind, retry_after, moved_to: None, why: "refused".to_owned() }
}

fn number(id: Id) -> u32 {
    u32::try_from(id.0).unwrap()
}

impl World {
    pub fn new(uncertain: Uncertain) -> World {
        let rules = Rules { uncertain, pace: Duration::from_secs(1) };
        let can = Abilities {
            edit: true,
            delete: true,
            key: false,
            max_len: 64,
            unit: Unit::Chars,
            send_window: 4,
        };
        let mut world = World {
            now: Instant::now(),
            outbox: Outbox::new(rules),
            rules,
            can,
            journal: BTreeMap::new(),
            platform: Vec::new(),
            in_flight: Vec::new(),
            full: false,
            moved: HashMap::new(),
            known: HashMap::new(),
            finished: Vec::new(),
            history: Vec::new(),
            random: 0,
        };
        world.outbox.ready(can, world.now);
        world
    }

    pub fn stored(&self, id: Id) -> &Stored {
        &self.journal[&number(id)]
    }

    fn place(&self, conversation: &str) -> String {
        self.known.get(conversation).map_or_else(|| conversation.to_owned(), String::clone)
    }

    /// A turn begins, whose reply goes there.
    pub fn begin(&mut self, conversation: &str) -> Id {
        let id = u32::try_from(self.journal.len()).unwrap() + 1;
        let stored = Stored { conversation: conversation.to_owned(), ..Stored::default() };
        self.journal.insert(id, stored);
        Id::from(id)
    }

    pub fn finish(&mut self, id: Id, text: &str) {
        let conversation = self.place(&self.stored(id).conversation);
        let stored = self.journal.get_mut(&number(id)).unwrap();
        (stored.done, stored.text) = (true, text.to_owned());
        self.finished.push(id);
        self.outbox.enqueue(id, &conversation, self.now);
        self.run();
    }

    pub fn enqueue(&mut self, conversation: &str, text: &str) -> Id {
        let id = self.begin(conversation);
        self.finish(id, text);
        id
    }

    pub fn preview(&mut self, id: Id, text: &str) {
        let stored = self.stored(id).clone();
        let conversation = self.place(&stored.conversation);
        let preview = stored.preview.as_deref();
        let draft =
            Draft { id, conversation: &conversation, thread: None, reply_to: None, preview, text };
        self.outbox.preview(&draft, self.now);
        self.run();
    }

    /// Does all that the outbox wants.
    pub fn run(&mut self) {
        loop {
            let mut synced = Vec::new();
            while let Some(action) = self.outbox.next_action() {
                match action {
                    Action::Load(id) => self.load(id),
                    Action::Write { id, .. } if self.full => self.outbox.unwritten(id, self.now),
                    Action::Write { id, n, step, durable } => {
                        self.journal.get_mut(&number(id)).unwrap().apply(n, &step);
                        if durable {
                            synced.push(id);
                        } else {
                            self.outbox.written(id, self.now);
                        }
                    }
                    Action::Send(send) => self.hand_over(*send),
                    Action::Delete { message, .. } => self.delete(&message),
                    Action::Moved { from, to } => {
                        assert_eq!(self.moved[&from], to);
                        self.known.insert(from, to);
                    }
                }
            }
            if synced.is_empty() {
                return;
            }
            for id in synced {
                self.outbox.written(id, self.now);
            }
        }
    }

    fn load(&mut self, id: Id) {
        let stored = self.stored(id);
        let delivery = Delivery {
            id,
            attempts: stored.attempts,
            text: stored.text.clone(),
            cuts: stored.cuts.clone(),
            sent: stored.sent.len(),
            open: stored.open,
            preview: stored.preview.clone(),
            ..Delivery::default()
        };
        self.outbox.load(delivery, self.now);
    }

    fn hand_over(&mut self, send: Send) {
        let stored = self.stored(send.id);
        assert!(!stored.is_settled());
        if send.last {
            assert!(
                stored.open && send.part as usize == stored.sent.len(),
                "its record is durable"
            );
            self.history.push((send.id, send.part));
        }
        assert!(send.text.chars().count() <= 64 || self.can.max_len > 64);
        let same = |it: &&Send| it.conversation == send.conversation;
        assert_eq!(self.in_flight.iter().find(same), None, "one in a conversation");
        self.in_flight.push(send);
        assert!(self.in_flight.len() <= self.can.send_window);
    }

    /// The adapter has the platform show it. The platform's id of it.
    pub fn apply(&mut self, at: usize) -> Result<String, Failure> {
        let send = self.in_flight[at].clone();
        if let Some(to) = self.moved.get(&send.conversation) {
            let moved_to = Some(to.clone());
            return Err(Failure { moved_to, ..failure(FailureKind::Permanent, None) });
        }
        let old = |it: &&mut Shown| match &send.replaces {
            Some(replaces) => it.name == *replaces,
            None => self.can.key && it.of == (send.id, send.part),
        };
        if let Some(shown) = self.platform.iter_mut().find(old) {
            if shown.gone {
                return Err(failure(FailureKind::Permanent, None));
            }
            shown.text = send.text;
            return Ok(shown.name.clone());
        }
        assert_eq!(send.replaces, None);
        let name = format!("m{}", self.platform.len() + 1);
        let Send { id, part, text, .. } = send;
        let of = (id, part);
        self.platform.push(Shown { name: name.clone(), of, text, gone: false });
        Ok(name)
    }

    /// The adapter answers: with this failure, or as the platform did.
    pub fn answer(&mut self, at: usize, failure: Option<Failure>) {
        let result = failure.map_or_else(|| self.apply(at), Err);
        let send = self.in_flight.remove(at);
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let receipt = Receipt { delivery: String::new(), part: send.part.into(), result };
        assert!(self.outbox.receipt(send.id, &receipt, self.random, self.now));
        self.run();
    }

    pub fn delete(&mut self, name: &str) {
        let shown = self.platform.iter_mut().filter(|it| it.name == name);
        shown.for_each(|it| it.gone = true);
    }

    /// What people see.
    pub fn shown(&self) -> Vec<String> {
        let shown = self.platform.iter().filter(|it| !it.gone);
        shown.map(|it| it.text.clone()).collect()
    }

    /// The adapter dies, and the next one is ready.
    pub fn lose(&mut self) {
        self.in_flight.clear();
        self.outbox.lost(self.now);
        self.run();
        self.outbox.ready(self.can, self.now);
        self.run();
    }

    /// The gateway does.
    pub fn restart(&mut self) {
        self.in_flight.clear();
        self.outbox = Outbox::new(self.rules);
        for id in self.finished.clone() {
            if !self.stored(id).is_settled() {
                let conversation = self.place(&self.stored(id).conversation);
                self.outbox.enqueue(id, &conversation, self.now);
            }
        }
        self.outbox.ready(self.can, self.now);
        self.run();
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tick();
    }

    pub fn tick(&mut self) {
        self.outbox.tick(self.now);
        self.run();
    }
}
