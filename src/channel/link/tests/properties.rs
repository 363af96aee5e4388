//! What must hold of a connection whatever its adapter says: asked by the fuzzer (tests/fuzz), and here of random
//! adapters and of what the fuzzer found worth keeping.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::channel::link::{Action, Answer, Event, Link};
use crate::channel::wire::{FromAdapter, News, Offer, Receipt, Rejected, Sender, parse};
use crate::json::{member, value};
use crate::limits::MAX_PLATFORM_ID;

pub const READY: &str = r#"{"op":"ready","v":1,"account":"7","inbound":"ack","outbound":"id",
    "max_len":4096,"len_unit":"utf16","window":5,"send_window":3,"can":["typing","fly"]}"#;
const WINDOW: usize = 5;

/// A connection, and what has come of it.
pub struct Checked {
    link: Link,
    pub now: Instant,
    ready: bool,
    /// Its process is to be ended, or has ended.
    closed: bool,
    over: bool,
    /// Numbers that wait for an answer.
    unanswered: VecDeque<u64>,
    /// What has to be offered again: until then nothing is taken.
    gate: Option<u64>,
    /// What is to be decided on, and what was refused meanwhile.
    pub open: Vec<(u64, Offer)>,
    serial: u64,
    pub faults: usize,
    pub answered: usize,
    window: usize,
}

impl Checked {
    pub fn begin() -> Checked {
        let now = Instant::now();
        Checked {
            link: Link::begin(now),
            now,
            ready: false,
            closed: false,
            over: false,
            unanswered: VecDeque::new(),
            gate: None,
            open: Vec::new(),
            serial: 0,
            faults: 0,
            answered: 0,
            window: 0,
        }
    }

    pub fn line(&mut self, line: &str) -> Vec<String> {
        let read = parse(line);
        if let Ok(read) = &read {
            bounded(read, line);
        }
        self.step(Event::Line(read))
    }

    pub fn timer(&mut self) -> Vec<String> {
        let Some(due) = self.link.timer() else { return Vec::new() };
        self.now = self.now.max(due);
        let written = self.step(Event::Timer);
        assert!(self.link.timer().is_none_or(|next| next > self.now), "it wakes without end");
        written
    }

    /// What is written to the adapter.
    pub fn step(&mut self, event: Event) -> Vec<String> {
        let offered = match &event {
            Event::Line(Ok(FromAdapter::Offer { n, .. } | FromAdapter::Rejected { n, .. })) => {
                Some(*n)
            }
            _ => None,
        };
        let (closes, ends) = (matches!(event, Event::Close), matches!(event, Event::Ended));
        if let Event::Answer { serial, .. } = &event {
            self.open.retain(|(open, _)| open != serial);
        }
        let was_closed = self.closed;
        // Nothing is on its way that it could be refused for.
        let free = matches!(event, Event::Line(Ok(FromAdapter::Offer { .. })))
            && self.unanswered.is_empty();
        let actions = self.link.step(self.now, event);
        let fault = actions.iter().any(|action| matches!(action, Action::Fault(_)));
        if let Some(n) = offered.filter(|_| !fault && !was_closed) {
            assert!(self.ready, "an offer before it is ready");
            assert!(!self.unanswered.contains(&n), "{n} twice");
            if self.gate == Some(n) {
                self.gate = None;
            }
            let taken = actions.iter().any(|action| matches!(action, Action::Offer { .. }));
            assert!(!free || taken == self.gate.is_none(), "{n} is for the caller");
            self.unanswered.push_back(n);
        }
        assert!(self.unanswered.len() <= self.window, "more than its window");
        let mut written = Vec::new();
        for action in actions {
            assert!(!self.over, "{action:?} after its end");
            self.check(action, &mut written);
        }
        self.closed |= closes || ends;
        self.over |= ends;
        if self.closed {
            self.unanswered.clear();
            self.open.clear();
        }
        assert_eq!(self.link.unanswered(), self.unanswered.len());
        assert_eq!(self.link.timer().is_none(), self.closed);
        written
    }

    fn check(&mut self, action: Action, written: &mut Vec<String>) {
        match action {
            Action::Write(line) => {
                assert!(!self.closed && self.ready, "{line} to nobody");
                assert!(!line.contains(['\n', '\r']) && value(line.as_bytes()).is_ok(), "{line}");
                self.written(&line);
                written.push(line);
            }
            Action::Ready(ready) => {
                assert!(!self.ready && !self.closed && (64..=131_072).contains(&ready.max_len));
                assert!((1..=1024).contains(&ready.window) && ready.send_window <= 256);
                (self.ready, self.window) = (true, usize::try_from(ready.window).unwrap());
            }
            Action::Offer { serial, offer } => {
                assert!(!self.closed && self.gate.is_none() && serial > self.serial);
                self.serial = serial;
                self.open.push((serial, offer));
            }
            Action::Receipt(_) => assert!(self.ready || self.closed),
            Action::News(_) | Action::Rejected(_) | Action::Complain(_) => {}
            Action::Fault(why) => {
                assert!(!self.closed && !why.is_empty());
                self.closed = true;
                self.faults += 1;
            }
        }
    }

    fn written(&mut self, line: &str) {
        let op = member(line, "op").unwrap();
        if op == "\"ping\"" {
            return;
        }
        let n: u64 = member(line, "n").unwrap().parse().unwrap();
        assert_eq!(self.unanswered.pop_front(), Some(n), "{line}: out of order");
        let later = op == "\"refuse\"" && member(line, "retry_after").is_some();
        assert!(later || self.gate.is_none(), "{line}, and {:?} is due", self.gate);
        if later {
            self.gate.get_or_insert(n);
        }
        self.answered += 1;
    }

    /// Answered and ended, it is at rest.
    pub fn conclude(mut self) {
        while let Some((serial, _)) = self.open.first() {
            let answer = Answer::Taken { message: None, duplicate: false };
            self.step(Event::Answer { serial: *serial, answer });
        }
        assert!(self.unanswered.is_empty(), "{:?} have no answer", self.unanswered);
        self.step(Event::Close);
        self.line(READY);
        self.line(r#"{"op":"cursor","n":1,"cursor":"9"}"#);
        self.step(Event::Ended);
        self.line(READY);
        self.step(Event::Timer);
    }
}

/// What is read is no larger than the line, nor than its limits.
fn bounded(read: &FromAdapter, line: &str) {
    let id = |id: &str| {
        assert!((1..=MAX_PLATFORM_ID).contains(&id.len()) && !id.contains(char::is_control));
    };
    let maybe = |found: &Option<String>| found.iter().for_each(|found| id(found));
    let words = |words: &str| assert!(words.chars().count() <= 256);
    let sender = |from: &Option<Sender>| {
        from.iter().for_each(|Sender { id: its, name, .. }| {
            id(its);
            words(name);
        });
    };
    match read {
        FromAdapter::Ready(ready) => id(&ready.account),
        FromAdapter::Offer { offer, .. } => match offer {
            Offer::Message(message) => {
                [&message.id, &message.conversation].into_iter().for_each(|it| id(it));
                for it in [&message.thread, &message.reply_to, &message.group, &message.cursor] {
                    maybe(it);
                }
                sender(&message.from);
                assert!(message.text.len() <= line.len() && message.files.len() <= 32);
                message.files.iter().for_each(|file| words(&file.name));
            }
            Offer::Edit { id: its, text } => {
                id(its);
                assert!(text.len() <= line.len());
            }
            Offer::Cursor(cursor) => id(cursor),
            Offer::Press(press) => {
                for it in [&press.id, &press.conversation, &press.prompt, &press.choice] {
                    id(it);
                }
                sender(&press.from);
                maybe(&press.cursor);
            }
            Offer::Moved { from, to } => [from, to].into_iter().for_each(|it| id(it)),
        },
        FromAdapter::Receipt(Receipt { delivery, result, .. }) => {
            id(delivery);
            match result {
                Ok(sent) => id(sent),
                Err(failure) => {
                    maybe(&failure.moved_to);
                    words(&failure.why);
                    assert!(failure.retry_after.is_none_or(|seconds| seconds <= 86_400));
                }
            }
        }
        FromAdapter::News(News::Gap { since, why }) => {
            [since, why].into_iter().for_each(|it| words(it));
        }
        FromAdapter::News(News::Status { why, .. }) => words(why),
        FromAdapter::Rejected { item: Rejected { why, .. }, .. } | FromAdapter::Unknown(why) => {
            assert!(why.len() < 1000 && !why.contains('\n'));
        }
        FromAdapter::Pong => {}
    }
}

/// The first byte says whether it is ready at once; each line behind is one of the adapter's, or, by its first
/// byte, something else that happens.
pub fn connection(bytes: &[u8]) {
    let Some((how, lines)) = bytes.split_first() else { return };
    let mut checked = Checked::begin();
    if how & 1 != 0 {
        checked.line(READY);
    }
    for line in lines.split(|byte| *byte == b'\n') {
        match line {
            [1, ..] => {
                checked.timer();
            }
            [2, at, how, ..] => {
                let open = checked.open.get(usize::from(*at)).map_or(77, |(serial, _)| *serial);
                let serial = if how & 8 != 0 { u64::from(*at) } else { open };
                checked.step(Event::Answer { serial, answer: answer(usize::from(*how)) });
            }
            [3, ..] => {
                checked.step(Event::Close);
            }
            [4, ..] => {
                checked.step(Event::Ended);
            }
            [5, count, ..] => {
                checked.step(Event::Unanswered(usize::from(*count)));
            }
            [6, seconds, ..] => checked.now += Duration::from_secs(u64::from(*seconds)),
            _ => {
                checked.line(&String::from_utf8_lossy(line));
            }
        }
    }
    checked.conclude();
}

fn answer(how: usize) -> Answer {
    match how % 4 {
        0 | 1 => Answer::Taken { message: Some("01J".to_owned()), duplicate: how % 4 == 1 },
        2 => Answer::Later { retry_after: 5, why: "it is full".to_owned() },
        _ => Answer::Never("it is too long\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::string;
    use crate::testing::{Random, rounds};

    /// An adapter that keeps the protocol, and a platform that repeats what is not acknowledged.
    struct Adapter {
        /// The next item to be offered.
        at: usize,
        /// What it has offered: the item, and in which round.
        flying: VecDeque<(usize, usize)>,
        /// A refusal begins another.
        round: usize,
        /// Its first number.
        base: u64,
        to_gateway: VecDeque<String>,
        to_adapter: VecDeque<String>,
    }

    impl Adapter {
        fn start(at: usize, base: u64) -> Adapter {
            let to_gateway = [READY.to_owned()].into();
            let none = VecDeque::new;
            Adapter { at, flying: VecDeque::new(), round: 0, base, to_gateway, to_adapter: none() }
        }

        fn offer(&mut self, items: usize) {
            if self.at < items && self.flying.len() < WINDOW {
                let n = self.base + self.at as u64;
                self.to_gateway.push_back(match self.at % 7 {
                    6 => format!(r#"{{"op":"from tomorrow","n":{n}}}"#),
                    _ => format!(
                        r#"{{"op":"message","n":{n},"id":"{}","conversation":"c","kind":"private"}}"#,
                        self.at
                    ),
                });
                self.flying.push_back((self.at, self.round));
                self.at += 1;
            }
        }

        fn hear(&mut self, settled: &mut usize) {
            let Some(line) = self.to_adapter.pop_front() else { return };
            if string(&line, "op").unwrap() == "ping" {
                return self.to_gateway.push_back(r#"{"op":"pong"}"#.to_owned());
            }
            let (item, round) = self.flying.pop_front().unwrap();
            let n: u64 = member(&line, "n").unwrap().parse().unwrap();
            assert_eq!(n, self.base + item as u64);
            if line.starts_with(r#"{"op":"refuse""#) && member(&line, "retry_after").is_some() {
                if round == self.round {
                    (self.at, self.round) = (item, self.round + 1);
                }
            } else {
                assert_eq!(item, *settled, "settled before what is in front of it");
                *settled += 1;
            }
        }
    }

    #[test]
    fn every_item_is_settled_once_and_in_order_by_an_adapter_that_keeps_the_protocol() {
        const ITEMS: usize = 60;
        let (mut refused, mut restarts) = (0, 0);
        for seed in 1..=rounds(150, 20_000) {
            let mut random = Random::new(seed);
            let (mut settled, mut taken) = (0, vec![0; ITEMS]);
            let mut base = random.below(100) as u64;
            let (mut link, mut adapter) = (Checked::begin(), Adapter::start(0, base));
            let (mut steps, mut stops) = (0, 3);
            while settled < ITEMS {
                steps += 1;
                assert!(steps < 100_000, "seed {seed}: it stands still at {settled}");
                let mut written = Vec::new();
                match random.below(40) {
                    0..14 => adapter.offer(ITEMS),
                    14..22 => adapter.hear(&mut settled),
                    22..30 => {
                        if let Some(line) = adapter.to_gateway.pop_front() {
                            written = link.line(&line);
                        }
                    }
                    30..38 if !link.open.is_empty() => {
                        let at = random.below(link.open.len());
                        let (serial, offer) = link.open[at].clone();
                        let Offer::Message(message) = offer else { panic!("{offer:?}") };
                        let item: usize = message.id.parse().unwrap();
                        let answer = answer([0, 0, 0, 0, 0, 2, 2, 3][random.below(8)]);
                        refused += usize::from(matches!(answer, Answer::Later { .. }));
                        taken[item] += usize::from(matches!(answer, Answer::Taken { .. }));
                        written = link.step(Event::Answer { serial, answer });
                    }
                    38 => link.now += Duration::from_secs(1),
                    39 if random.one_in(20) && stops > 0 => {
                        stops -= 1;
                        restarts += 1;
                        link.step(
                            [Event::Ended, Event::Close].into_iter().nth(random.below(2)).unwrap(),
                        );
                        base = random.below(100) as u64;
                        (link, adapter) = (Checked::begin(), Adapter::start(settled, base));
                    }
                    _ => {}
                }
                adapter.to_adapter.extend(written);
                assert_eq!(link.faults, 0, "seed {seed}");
            }
            assert!((0..ITEMS).filter(|item| item % 7 != 6).all(|item| taken[item] < 50));
        }
        assert!(refused > 1_000 && restarts > 100, "{refused} {restarts}");
    }

    #[test]
    fn whatever_an_adapter_says_each_number_has_one_answer_in_order() {
        let (mut answered, mut faults, mut kept) = (0, 0, 0);
        for seed in 1..=rounds(2_000, 200_000) {
            let mut random = Random::new(seed);
            let mut link = Checked::begin();
            if !random.one_in(10) {
                link.line(READY);
            }
            let mut n = random.below(3) as u64;
            for _ in 0..random.below(80) {
                match random.below(24) {
                    0..10 => {
                        n = if random.one_in(40) {
                            random.below(5) as u64
                        } else {
                            n.wrapping_add(1)
                        };
                        n = if random.one_in(60) { u64::MAX - random.below(2) as u64 } else { n };
                        // Mostly it goes back where it has to.
                        n = link.gate.filter(|_| random.one_in(3)).unwrap_or(n);
                        link.line(&format!(r#"{{"op":"cursor","n":{n},"cursor":"x"}}"#));
                    }
                    10..18 if !link.open.is_empty() => {
                        let (serial, _) = link.open[random.below(link.open.len())];
                        let answer = answer(random.below(4));
                        link.step(Event::Answer { serial, answer });
                    }
                    18 => drop(link.timer()),
                    19 => drop(link.step(Event::Unanswered(random.below(3)))),
                    20 => drop(link.line(r#"{"op":"pong"}"#)),
                    21 => drop(link.line(r#"{"op":"sent","delivery":"d","part":0,"id":"1"}"#)),
                    22 if random.one_in(8) => {
                        let lines = [READY, "{", "x", r#"{"op":"x"}"#, r#"{"op":"moved","n":"1"}"#];
                        link.line(lines[random.below(lines.len())]);
                    }
                    23 if random.one_in(20) => drop(link.step(Event::Close)),
                    _ => link.now += Duration::from_secs(random.below(20) as u64),
                }
            }
            answered += link.answered;
            faults += link.faults;
            kept += usize::from(!link.closed);
            link.conclude();
        }
        let all = (answered, faults, kept);
        assert!(answered > 5_000 && faults > 300 && kept > 300, "{all:?}");
    }

    #[test]
    fn what_the_fuzzer_kept_holds() {
        let seeds = include_str!("../../../../tests/fuzz/seeds/channel");
        for line in seeds.lines() {
            let digits = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
            connection(&bytes);
        }
        assert!(seeds.lines().count() > 10);
    }
}
