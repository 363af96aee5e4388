//! Histories by chance: a server that shows again what is not confirmed, a gateway that is late, has no room or
//! waits for pieces, and an adapter that is killed at any time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::telegram::call::{Call, Failure, Refusal};
use crate::telegram::receive::{Action, Event, Me, Receiver};
use crate::testing::{Random, rounds};

const DAY: Duration = Duration::from_hours(24);

enum Due {
    /// The answer to the poll, and the updates in it.
    Poll(Result<Vec<Value>, Failure>),
    /// A poll that is held comes back.
    Held(usize),
    Decide(u64),
    Event(Event),
    Arrives,
    Week,
    Kill,
}

struct Update {
    id: i64,
    /// The gateway has to take it.
    matters: bool,
    json: Value,
}

/// An offer without an answer.
struct Pending {
    n: u64,
    id: String,
    due: Instant,
}

struct World {
    random: Random,
    now: Instant,
    due: Vec<(Instant, Due)>,
    receiver: Receiver,
    troubles: bool,
    // The server.
    updates: VecDeque<Update>,
    next_id: i64,
    messages: i64,
    to_come: usize,
    /// A poll is under way; with its limit where it is held.
    polling: bool,
    held: Option<usize>,
    // The gateway: what it has taken, by chat in its order; what has no answer.
    taken: BTreeMap<i64, Vec<i64>>,
    pending: VecDeque<Pending>,
    next_n: Option<u64>,
    gate: Option<(u64, Instant)>,
    /// What was refused for now, by its number.
    refused: BTreeMap<u64, String>,
    // What this adapter was shown, and what came since its last poll.
    shown: BTreeSet<i64>,
    asked_at: Instant,
    confirmed: Option<i64>,
    news: bool,
    answered_at: Option<Instant>,
    /// It is not known that all is well: a poll that is not held comes before one that is.
    failed: bool,
    polls: usize,
}

fn bot() -> Me {
    Me { id: 1, username: "bot".to_owned(), reads_all: false }
}

impl World {
    fn new(seed: u64) -> World {
        let now = Instant::now();
        let mut random = Random::new(seed);
        let to_come = if random.one_in(30) { 200 } else { 1 + random.below(30) };
        World {
            now,
            due: Vec::new(),
            receiver: Receiver::new(bot(), 65536),
            troubles: true,
            updates: VecDeque::new(),
            next_id: 1000 + i64::try_from(random.below(1_000_000)).unwrap(),
            messages: 1,
            to_come,
            polling: false,
            held: None,
            taken: BTreeMap::new(),
            pending: VecDeque::new(),
            next_n: None,
            gate: None,
            refused: BTreeMap::new(),
            shown: BTreeSet::new(),
            asked_at: now,
            confirmed: None,
            news: true,
            answered_at: None,
            failed: true,
            polls: 0,
            random,
        }
    }

    fn after(&mut self, most_millis: usize, due: Due) {
        let wait = Duration::from_millis(self.random.below(most_millis + 1) as u64);
        self.due.push((self.now + wait, due));
    }

    fn trouble(&mut self, one_in: usize) -> bool {
        self.troubles && self.random.one_in(one_in)
    }

    fn is_taken(&self, id: i64) -> bool {
        self.taken.values().flatten().any(|message| *message == id)
    }

    /// Somebody writes.
    fn arrives(&mut self) {
        if self.to_come == 0 {
            return;
        }
        self.to_come -= 1;
        let count = if self.random.one_in(4) { 1 + self.random.below(12) } else { 1 };
        for _ in 0..count {
            let chat = 10 + i64::try_from(self.random.below(4)).unwrap();
            let (id, message) = (self.next_id, self.messages);
            (self.next_id, self.messages) = (id + 1, message + 1);
            let mut json = json!({"update_id": id, "message": {"message_id": message, "date": 1_700_000_000,
                "chat": {"id": chat, "type": "private"}, "from": {"id": chat, "is_bot": false}}});
            let said = &mut json["message"];
            let matters = match self.random.below(12) {
                0 => {
                    said["new_chat_title"] = "service".into();
                    false
                }
                1 => {
                    said["chat"] = Value::Null;
                    false
                }
                2 => {
                    said["text"] = "album".into();
                    said["media_group_id"] = "9".into();
                    true
                }
                3 | 4 => {
                    said["document"] = json!({"file_id": "f", "file_size": 10});
                    true
                }
                _ => {
                    said["text"] = "text".into();
                    true
                }
            };
            self.updates.push_back(Update { id, matters, json });
        }
        if let Some(limit) = self.held.filter(|_| self.random.one_in(2)) {
            self.after(20, Due::Held(limit));
            self.held = None;
        }
        if self.to_come > 0 {
            let most = if self.random.one_in(3) { 70_000 } else { 900 };
            self.after(most, Due::Arrives);
        }
    }

    /// A call of `getUpdates` has come to the adapter's end of the line.
    fn poll(&mut self, call: &Call) {
        assert!(!self.polling, "two polls at once");
        let quick = self.now.saturating_duration_since(self.asked_at) < Duration::from_millis(400);
        // One that confirms more goes on as well: what was forgotten as confirmed long ago comes once more.
        let offset = call.parameters.get("offset").and_then(Value::as_i64);
        self.news |= offset > std::mem::replace(&mut self.confirmed, offset);
        assert!(!quick || self.news, "a poll at once, and nothing has happened since the last");
        (self.polling, self.asked_at, self.news) = (true, self.now, false);
        self.polls += 1;
        let limit = usize::try_from(call.parameters["limit"].as_u64().unwrap()).unwrap();
        assert!((1..=100).contains(&limit));
        assert_eq!(call.parameters["allowed_updates"].as_array().unwrap().len(), 4);
        if self.trouble(12) {
            let failure = match self.random.below(3) {
                0 => Failure::NotSent("no route".to_owned()),
                1 => Failure::Refused(Refusal { code: 502, ..Refusal::default() }),
                _ => Failure::Refused(Refusal {
                    code: 429,
                    retry_after: Some(3),
                    ..Refusal::default()
                }),
            };
            return self.after(300, Due::Poll(Err(failure)));
        }
        let stale = self.trouble(25);
        let before: Vec<Value> = self.updates.iter().map(|it| it.json.clone()).collect();
        if let Some(offset) = call.parameters.get("offset") {
            let offset = offset.as_i64().unwrap();
            assert!(offset > 0, "a negative offset forgets");
            while let Some(at) = self.updates.iter().position(|it| it.id < offset) {
                let update = self.updates.remove(at).unwrap();
                let message = update.json["message"]["message_id"].as_i64().unwrap();
                assert!(!update.matters || self.is_taken(message), "{} was lost", update.id);
            }
        }
        if self.trouble(12) {
            let why = if self.random.one_in(2) { "cut" } else { "the answer is too large" };
            return self.after(300, Due::Poll(Err(Failure::Unknown(why.to_owned()))));
        }
        if stale && !before.is_empty() {
            let some = before.into_iter().take(limit).collect();
            return self.after(300, Due::Poll(Ok(some)));
        }
        if self.updates.is_empty() && call.parameters["timeout"] == 50 {
            self.held = Some(limit);
            self.due.push((self.now + Duration::from_secs(50), Due::Held(limit)));
        } else {
            self.after(100, Due::Held(limit));
        }
    }

    /// The answer to a poll reaches the adapter.
    fn polled(&mut self, answer: Result<Vec<Value>, Failure>) {
        self.polling = false;
        self.held = None;
        self.answered_at = Some(self.now);
        self.news |= self.failed && answer.is_ok();
        self.failed = answer.is_err();
        let mut answer = answer;
        if let Ok(updates) = &mut answer {
            for update in &*updates {
                self.news |= self.shown.insert(update["update_id"].as_i64().unwrap());
            }
            if self.random.one_in(10) && !updates.is_empty() {
                updates.push(updates[0].clone());
            }
        }
        self.step(Event::Updates(answer.map(Value::from)));
    }

    /// The gateway gets an item.
    fn offered(&mut self, line: &Value) {
        let n = line["n"].as_u64().unwrap();
        let again = self
            .gate
            .filter(|(first, at)| *first == n && *at <= self.now && self.pending.is_empty());
        assert!(again.is_some() || self.next_n.is_none_or(|next| next == n), "number {n}");
        assert!(self.pending.len() < 64, "the window");
        if again.is_some() {
            self.gate = None;
        }
        let id = line["id"].as_str().unwrap().to_owned();
        assert!(self.refused.remove(&n).is_none_or(|it| it == id), "number {n} was another's");
        if let Some((_, at)) = self.gate {
            let unheard = |due: &Due| matches!(due, Due::Event(Event::Refuse { .. }));
            assert!(
                self.due.iter().any(|(_, due)| unheard(due)),
                "offered behind what was refused"
            );
            self.next_n = Some(n + 1);
            self.refused.insert(n, id);
            let seconds = at.saturating_duration_since(self.now).as_secs();
            let refuse = Event::Refuse { n, retry_after: Some(seconds), why: "full".to_owned() };
            return self.due.push((self.now, Due::Event(refuse)));
        }
        self.next_n = Some(n + 1);
        let late = if self.random.one_in(5) { 3000 } else { 30 };
        let hold = if line.get("group").is_some() { 2000 } else { self.random.below(late) };
        // A piece waits; all answers are in order.
        let mut due = self.now + Duration::from_millis(hold as u64);
        if let Some(last) = self.pending.back() {
            due = due.max(last.due);
        }
        self.pending.push_back(Pending { n, id, due });
        self.due.push((due, Due::Decide(n)));
    }

    /// The gateway answers an item, after it is durable.
    fn decide(&mut self, n: u64) {
        let Some(pending) = self.pending.pop_front() else { return };
        assert_eq!(pending.n, n);
        if self.gate.is_none() && self.trouble(15) {
            let after = if self.random.one_in(40) { 700_000 } else { 5 };
            self.gate = Some((n, self.now + Duration::from_secs(after.min(3600))));
        }
        let event = match self.gate {
            Some((_, at)) => {
                let seconds = at.saturating_duration_since(self.now).as_secs();
                // Those behind are refused in the same moment.
                let rest = std::mem::take(&mut self.pending);
                let ids = rest.iter().map(|it| (it.n, it.id.clone()));
                self.refused.extend(ids.chain([(n, pending.id)]));
                self.due.retain(|(_, due)| !matches!(due, Due::Decide(_)));
                let refuse =
                    |n| Event::Refuse { n, retry_after: Some(seconds), why: "full".to_owned() };
                let rest = rest.iter().map(|it| (self.now, Due::Event(refuse(it.n))));
                let all: Vec<_> =
                    std::iter::once((self.now, Due::Event(refuse(n)))).chain(rest).collect();
                return self.due.extend(all);
            }
            None => {
                let (chat, message) = pending.id.split_once(':').unwrap();
                let (chat, message): (i64, i64) = (chat.parse().unwrap(), message.parse().unwrap());
                let list = self.taken.entry(chat).or_default();
                if !list.contains(&message) {
                    list.push(message);
                }
                if self.random.one_in(10) {
                    Event::Refuse { n, retry_after: None, why: "never".to_owned() }
                } else {
                    Event::Ack { n, served: self.random.one_in(2) }
                }
            }
        };
        self.due.push((self.now, Due::Event(event)));
    }

    fn step(&mut self, event: Event) {
        let actions = self.receiver.step(event, self.now);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Poll(call) => self.poll(&call),
                Action::Line(line) if line["op"] == "status" => {}
                Action::Line(line) => self.offered(&line),
                Action::Fetch { ticket, .. } => {
                    let good = !self.random.one_in(3);
                    let result =
                        if good { Ok(("/f".to_owned(), 10)) } else { Err("cut".to_owned()) };
                    let slow = if self.random.one_in(4) { 30_000 } else { 300 };
                    self.after(slow, Due::Event(Event::Fetched { ticket, result }));
                }
                Action::Say(_) => {}
                Action::Call(_) | Action::Exit(_) => panic!("{action:?}"),
            }
        }
        let timer = self.receiver.timer();
        assert!(timer.is_none_or(|at| at > self.now), "a timer that is due already");
    }

    /// The adapter's process is another one, at once.
    fn kill(&mut self) {
        let stays = |due: &Due| matches!(due, Due::Arrives | Due::Week | Due::Kill);
        self.due.retain(|(_, due)| stays(due));
        self.pending.clear();
        self.refused.clear();
        (self.next_n, self.gate, self.polling, self.held) = (None, None, false, None);
        self.shown.clear();
        (self.news, self.failed) = (true, true);
        self.receiver = Receiver::new(bot(), 65536);
        let actions = self.receiver.begin(self.now);
        self.carry_out(actions);
    }

    /// A week without updates: what Telegram has kept is gone, and ids go on anywhere.
    fn week(&mut self) {
        let left = |it: &Update| {
            it.matters && !self.is_taken(it.json["message"]["message_id"].as_i64().unwrap())
        };
        if self.updates.iter().any(left) || !self.pending.is_empty() {
            return;
        }
        self.updates.clear();
        let on_the_way = |due: &Due| matches!(due, Due::Poll(_) | Due::Held(_));
        self.due.retain(|(_, due)| !on_the_way(due));
        self.now += 8 * DAY;
        self.due.iter_mut().for_each(|(at, _)| *at = self.now.max(*at));
        self.next_id = 1 + i64::try_from(self.random.below(1_000_000)).unwrap();
        self.to_come += 1;
        self.arrives();
        if self.polling {
            let away = Failure::Unknown("away".to_owned());
            let answer = if self.random.one_in(2) { Ok(Vec::new()) } else { Err(away) };
            self.due.push((self.now, Due::Poll(answer)));
        }
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Poll(answer) => self.polled(answer),
            Due::Held(limit) => {
                if self.polling {
                    self.due.retain(|(_, due)| !matches!(due, Due::Held(_)));
                    let some = self.updates.iter().take(limit).map(|it| it.json.clone()).collect();
                    self.polled(Ok(some));
                }
            }
            Due::Decide(n) => self.decide(n),
            Due::Event(event) => {
                self.news = true;
                self.step(event);
            }
            Due::Arrives => self.arrives(),
            Due::Week => self.week(),
            Due::Kill => self.kill(),
        }
    }

    fn run(&mut self) {
        let begun = self.receiver.begin(self.now);
        self.carry_out(begun);
        self.after(100, Due::Arrives);
        for _ in 0..self.random.below(4) {
            self.after(60_000, Due::Kill);
        }
        if self.random.one_in(3) {
            self.after(90_000, Due::Week);
        }
        for _ in 0..100_000 {
            if self.to_come == 0 && self.updates.is_empty() {
                return self.finish();
            }
            let timer = self.receiver.timer();
            let next = self.due.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            let next = next.map(|(at, (time, _))| (at, *time));
            match (next, timer) {
                (Some((_, time)), Some(timer)) if timer < time => {
                    self.now = self.now.max(timer);
                    self.step(Event::Timer);
                }
                (None, Some(timer)) => {
                    self.now = self.now.max(timer);
                    self.step(Event::Timer);
                }
                (Some((at, time)), _) => {
                    self.now = self.now.max(time);
                    let (_, due) = self.due.remove(at);
                    self.happens(due);
                }
                (None, None) => {
                    panic!("nothing happens any more, and {} are left", self.updates.len())
                }
            }
        }
        panic!(
            "it does not end: {} updates are left after {} polls",
            self.updates.len(),
            self.polls
        );
    }

    /// All is confirmed, so all was taken, and in order.
    fn finish(&self) {
        for list in self.taken.values() {
            assert!(list.is_sorted(), "{list:?}");
        }
        assert!(self.taken.values().flatten().count() < usize::try_from(self.messages).unwrap());
    }
}

#[test]
fn every_update_is_taken_in_order_and_confirmed_only_then() {
    let only = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..rounds(1_500, 50_000), |seed: u64| seed..seed + 1);
    let (mut polls, mut taken) = (0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            (world.polls, world.taken.values().flatten().count())
        });
        let Ok((more, count)) = result else { panic!("history {seed}") };
        polls += more;
        taken += count;
    }
    println!("{polls} polls, {taken} messages");
}
