//! Whatever happens, in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{World, failure};
use crate::channel::split::{Cursor, piece};
use crate::channel::wire::FailureKind;
use crate::config::Uncertain;
use crate::session::Id;
use crate::testing::{Random, rounds};

const POLICIES: [Uncertain; 3] = [Uncertain::Resend, Uncertain::Edit, Uncertain::Hold];

struct Run {
    world: World,
    random: Random,
    /// How often a part may have arrived without a receipt.
    losses: BTreeMap<(Id, u32), usize>,
    running: Vec<Id>,
    /// Something was refused for good, or deleted by somebody.
    refused: Vec<Id>,
    deleted: Vec<Id>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random::new(seed);
        let mut world = World::new(*random.pick(&POLICIES));
        world.can.send_window = 1 + random.below(4);
        world.can.key = random.one_in(5);
        world.can.edit = !random.one_in(6);
        world.can.delete = !random.one_in(4);
        world.restart();
        Run {
            world,
            random,
            losses: BTreeMap::new(),
            running: Vec::new(),
            refused: Vec::new(),
            deleted: Vec::new(),
        }
    }

    /// One thing in flight gets somewhere, or not, and nobody hears of it.
    fn lose(&mut self, at: usize) {
        let send = self.world.in_flight[at].clone();
        *self.losses.entry((send.id, send.part)).or_default() += 1;
        if self.random.one_in(2) {
            let _ = self.world.apply(at);
        }
    }

    fn lose_all(&mut self) {
        (0..self.world.in_flight.len()).for_each(|at| self.lose(at));
    }

    fn answer(&mut self) {
        let Some(last) = self.world.in_flight.len().checked_sub(1) else { return };
        let at = self.random.below(last + 1);
        let send = self.world.in_flight[at].clone();
        let result = match self.random.below(12) {
            0 => {
                let after = self.random.one_in(2).then_some(3);
                Some(failure(FailureKind::Temporary, after))
            }
            1 => {
                self.lose(at);
                Some(failure(FailureKind::Uncertain, None))
            }
            2 if self.random.one_in(3) => {
                self.refused.push(send.id);
                Some(failure(FailureKind::Permanent, None))
            }
            _ => None,
        };
        self.world.answer(at, result);
    }

    fn finish(&mut self, id: Id) {
        let count = if self.random.one_in(3) { self.random.below(50) } else { 1 };
        let text: String = (0..=count).map(|word| format!("{}-{word} ", id.0)).collect();
        self.world.finish(id, &text);
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..=3 => {
                let conversation = *self.random.pick(&["a", "b", "c", "d", "e"]);
                let id = self.world.begin(conversation);
                self.running.push(id);
            }
            4..=6 if !self.running.is_empty() => {
                let at = self.random.below(self.running.len());
                let id = self.running.remove(at);
                self.finish(id);
            }
            7..=9 if !self.running.is_empty() => {
                let id = *self.random.pick(&self.running);
                let text = "x".repeat(1 + self.random.below(90));
                self.world.preview(id, &text);
            }
            10 => {
                self.lose_all();
                self.world.lose();
            }
            11 => {
                self.lose_all();
                // A receipt that the disk had no room for goes with the gateway.
                for (id, stored) in &self.world.journal {
                    let heard = !self.world.in_flight.iter().any(|it| it.id == Id::from(*id));
                    if stored.open && heard {
                        let part = u32::try_from(stored.sent.len()).unwrap();
                        *self.losses.entry((Id::from(*id), part)).or_default() += 1;
                    }
                }
                self.world.restart();
            }
            12 => self.world.full = self.random.one_in(2),
            13 if self.random.one_in(4) && !self.world.platform.is_empty() => {
                let at = self.random.below(self.world.platform.len());
                self.world.platform[at].gone = true;
                self.deleted.push(self.world.platform[at].of.0);
            }
            14 | 15 => self.world.pass(Duration::from_millis(self.random.below(3000) as u64)),
            16 if self.random.one_in(4) && self.world.moved.is_empty() => {
                self.world.moved.insert("a".to_owned(), "b".to_owned());
            }
            _ => self.answer(),
        }
    }

    /// From now on nothing fails.
    fn settle(&mut self) {
        self.world.full = false;
        self.world.tick();
        for id in std::mem::take(&mut self.running) {
            self.finish(id);
        }
        for _ in 0..20_000 {
            if !self.world.in_flight.is_empty() {
                self.world.answer(0, None);
            } else if let Some(wake) = self.world.outbox.next_wake(self.world.now) {
                self.world.now = wake;
                self.world.tick();
            } else {
                break;
            }
        }
        assert_eq!(self.world.outbox.waiting(), 0, "something is never sent");
        assert_eq!(self.world.outbox.next_action(), None);
    }

    fn check(&self, seed: u64) {
        let World { rules, can, .. } = &self.world;
        for (id, stored) in &self.world.journal {
            let id = Id::from(*id);
            let mut cursor = Cursor::default();
            for (part, end) in (0..).zip(&stored.cuts) {
                let text = piece(&stored.text, &cursor, *end as usize).unwrap();
                cursor.advance(&stored.text, *end as usize);
                let own = |it: &&super::world::Shown| it.of == (id, part) && it.text == text;
                let times = self.world.platform.iter().filter(own).count();
                let why = format!("seed {seed}, {rules:?} {can:?} {id:?} part {part}: {stored:?}");
                let losses = self.losses.get(&(id, part)).copied().unwrap_or(0);
                let gone = self.deleted.iter().chain(&self.refused).filter(|it| **it == id).count();
                let most = match rules.uncertain {
                    _ if can.key => 1,
                    Uncertain::Hold => 1,
                    Uncertain::Edit => 1,
                    Uncertain::Resend => 1 + losses,
                };
                // Who deletes what he has read gets it again, if its receipt was lost.
                assert!(times <= most + gone, "{times} times: {why}");
                assert!(times >= 1 || !stored.is_delivered(), "it never came: {why}");
            }
            let of = |it: &&super::world::Shown| it.of.0 == id && !it.gone;
            let left = self.world.platform.iter().filter(of).any(|it| it.text.starts_with('x'));
            let touched = self.deleted.contains(&id) || self.refused.contains(&id);
            assert!(
                !left || rules.uncertain == Uncertain::Resend || !stored.is_delivered() || touched,
                "seed {seed}, {rules:?} {can:?} {id:?}: a preview is left beside the reply"
            );
            let often = self.losses.iter().any(|((lost, _), times)| *lost == id && *times >= 5);
            let doubtful = match rules.uncertain {
                Uncertain::Resend => often,
                Uncertain::Edit => often || !can.edit && !can.key,
                Uncertain::Hold => !can.key,
            };
            let doubtful = doubtful && self.losses.keys().any(|(lost, _)| *lost == id);
            let may_die = touched || doubtful;
            assert!(
                stored.is_delivered() || may_die,
                "seed {seed}, {rules:?} {can:?} {id:?}: {stored:?}"
            );
        }
        let mut last: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
        for (id, part) in &self.world.history {
            let at = self.world.finished.iter().position(|it| it == id).unwrap();
            let before = last.entry(&self.world.stored(*id).conversation).or_default();
            assert!(*before <= (at, *part), "seed {seed}, {id:?} is behind a later one");
            *before = (at, *part);
        }
    }
}

#[test]
fn whatever_happens_every_reply_arrives_in_order_and_no_more_often_than_it_may() {
    for seed in 0..rounds(400, 20_000) {
        let mut run = Run::new(seed);
        for _ in 0..run.random.below(300) {
            run.step();
        }
        run.settle();
        run.check(seed);
    }
}
