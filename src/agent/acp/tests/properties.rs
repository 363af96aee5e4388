//! What must hold of a conversation whatever its agent says: asked by the fuzzer (tests/fuzz), and here of random
//! events and of what the fuzzer found worth keeping.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::agent::acp::conversation::{CANCEL_GRACE, Conversation};
use crate::agent::acp::events::{Action, Event};
use crate::agent::acp::requests;
use crate::agent::acp::updates::{Calls, Shown, shown};
use crate::agent::acp::wire::{self, Answer, Features, Message};
use crate::agent::{Outcome, Question};

const MAX_REPLY: usize = 200;

/// A conversation, and what has come of it.
struct Checked {
    conversation: Conversation,
    now: Instant,
    prompts: usize,
    requests: usize,
    said: usize,
    finished: Option<Outcome>,
    /// Permissions by their ids: how often each was asked for, and answered.
    permissions: BTreeMap<String, (usize, usize)>,
    asked: Vec<u32>,
}

impl Checked {
    /// `how`: bits for whether a session is known, whether it is in memory, and for what the agent can do.
    fn begin(how: u8) -> Checked {
        let session = (how & 1 != 0).then_some(("old", how & 2 != 0));
        let features = Features(u32::from(how >> 2));
        let (conversation, first) = Conversation::begin(session, features, MAX_REPLY);
        let mut checked = Checked {
            conversation,
            now: Instant::now(),
            prompts: 0,
            requests: 0,
            said: 0,
            finished: None,
            permissions: BTreeMap::new(),
            asked: Vec::new(),
        };
        checked.check(first);
        checked
    }

    fn step(&mut self, event: Event<'_>) {
        let over = self.finished.is_some();
        let late = matches!(event, Event::Timer);
        if let (true, Some(timer)) = (late, self.conversation.timer()) {
            self.now = self.now.max(timer);
        }
        if let Event::Asked { request, .. } = &event
            && !over
        {
            self.permissions.entry(request.clone()).or_default().0 += 1;
        }
        let before = self.now;
        self.now += Duration::from_millis(1);
        for action in self.conversation.step(before, event) {
            assert!(!over, "{action:?} after the end");
            self.check(action);
        }
        assert_eq!(self.conversation.is_over(), self.finished.is_some());
    }

    fn check(&mut self, action: Action<'_>) {
        assert!(self.finished.is_none(), "{action:?} behind the end");
        match action {
            Action::List(_) | Action::Resume | Action::Load | Action::Create => {
                assert!(
                    self.prompts == 0 || self.said == 0,
                    "a session is opened behind the reply"
                );
                self.requests += 1;
                assert!(self.requests < 30, "it opens sessions without end");
            }
            Action::Prompt(_) => self.prompts += 1,
            Action::Permit(request, _) => {
                let known = self.permissions.get_mut(&request).expect("an answer to nothing");
                known.1 += 1;
                assert!(known.1 <= known.0, "{request} is answered too often");
            }
            Action::Ask(number) => self.asked.push(number),
            Action::Say(text) => {
                assert!(self.prompts > 0 && self.conversation.is_prompting());
                self.said += text.len();
                assert!(!text.is_empty() && self.said <= MAX_REPLY, "{text:?}");
            }
            Action::Show(_, json) => assert!(self.prompts > 0 && !json.is_empty()),
            Action::Cancel => assert!(self.prompts > 0),
            Action::EndProcess | Action::Discard => {}
            Action::Finish(outcome) => self.finished = Some(outcome),
        }
        // A second one is for a session that is new, where one that was opened again was lost.
        assert!(self.prompts <= 2);
    }

    /// A cancel and its time end it, whatever came before.
    fn conclude(mut self) {
        let stopped = Outcome::Released("stopped".to_owned());
        self.step(Event::Cancel(stopped, CANCEL_GRACE));
        self.step(Event::Timer);
        assert!(self.finished.is_some(), "{:?}", self.conversation);
        for (request, (asked, answered)) in &self.permissions {
            assert_eq!(asked, answered, "{request}");
        }
        self.step(Event::Said("late"));
        self.step(Event::Asked { request: "9".to_owned(), allow: None, reject: None });
    }
}

/// The first byte says how it begins; each line behind is one of the agent's, or, by its first byte, something
/// else that happens.
pub fn conversation(bytes: &[u8]) {
    let Some((how, lines)) = bytes.split_first() else { return };
    let mut checked = Checked::begin(*how);
    let mut calls = Calls::default();
    for line in lines.split(|byte| *byte == b'\n') {
        match line {
            [1, ..] => checked.step(Event::Timer),
            [2, ..] => checked.step(Event::Cancel(Outcome::Done, CANCEL_GRACE)),
            [3, at, allowed, ..] => {
                let number = checked.asked.get(usize::from(*at)).copied().unwrap_or(77);
                let (allowed, note) = (allowed & 1 != 0, (allowed & 2 != 0).then(|| "note".into()));
                checked.step(Event::Decided { number, allowed, note });
            }
            [4, ..] => checked.step(Event::Ended(Outcome::Done)),
            _ => said(&mut checked, &mut calls, &String::from_utf8_lossy(line)),
        }
    }
    checked.conclude();
}

fn said(checked: &mut Checked, calls: &mut Calls, line: &str) {
    let _ = Features::read(line);
    let route = wire::route(line);
    let Ok(message) = wire::read(line) else { return };
    match message {
        Message::Answer(Ok(answer)) => {
            let _ = answer.tokens();
            checked.step(Event::Answered(&answer));
        }
        Message::Answer(Err(refusal)) => {
            assert!(refusal.status.is_none_or(|status| (400..600).contains(&status)));
            checked.step(Event::Refused(Outcome::Failed(refusal.message)));
        }
        Message::Update(update) => match shown(&update, calls) {
            Shown::Text => checked.step(Event::Said(&update.text())),
            Shown::Aside => checked.step(Event::Aside),
            Shown::Event(word, json) => {
                assert!(json.is_empty() || sound(&json), "{json}");
                let begins = update.session_update.get() == "tool_call";
                checked.step(Event::Shown(word, json, begins));
            }
            Shown::Nothing => {}
        },
        Message::Permission(id, call, options) => {
            assert!(matches!(route, Some(wire::Route::Session(_, Some(own))) if own == id));
            let Question { title, kind, input } = calls.question(&call);
            assert!(!title.is_empty() && !(title + &kind).contains(char::is_control));
            assert!(input.is_empty() || sound(&input), "{input}");
            let [allow, reject] = ["allow_once", "reject_once"]
                .map(|kind| wire::option(options, kind).map(str::to_owned));
            for option in [&allow, &reject] {
                assert!(sound(&requests::permit(id, option.as_deref())), "{id} {option:?}");
            }
            checked.step(Event::Asked { request: id.to_owned(), allow, reject });
        }
        Message::Other => {}
    }
}

/// Whether it is JSON on one line.
fn sound(json: &str) -> bool {
    !json.contains(['\n', '\r']) && crate::json::value(json.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::acp::wire::Text;

    /// Random numbers (xorshift64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % most
        }
    }

    #[test]
    fn any_events_come_to_an_end_and_every_permission_to_one_answer() {
        let (mut prompted, mut ended, mut permitted) = (0, 0, 0);
        for seed in 1_u64..20_000 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut checked = Checked::begin(u8::try_from(random.below(64)).unwrap());
            for _ in 0..random.below(40) {
                let id = ["", "s", "old"][usize::try_from(random.below(3)).unwrap()];
                let stop = ["end_turn", "cancelled", "refusal", ""];
                let stop = stop[usize::try_from(random.below(4)).unwrap()];
                let text = |it: &'static str| Text(Some(it.into()));
                let answer =
                    Answer { session_id: text(id), stop_reason: text(stop), ..Answer::default() };
                let request = random.below(3).to_string();
                let option = (random.below(2) == 0).then(|| "1".to_owned());
                let said = ["", "\n", "text", "\n\ntext\n"];
                let number = u32::try_from(random.below(4)).unwrap();
                let event = match random.below(36) {
                    0..=2 => Event::Answered(&answer),
                    3 => Event::Refused(Outcome::Done),
                    4..=15 => Event::Said(said[usize::try_from(random.below(4)).unwrap()]),
                    16..=18 => Event::Shown("tool", "{}".to_owned(), true),
                    19 => Event::Shown("plan", String::new(), false),
                    20 => Event::Aside,
                    21..=27 => Event::Asked { request, allow: option.clone(), reject: option },
                    28..=31 => {
                        let note = (random.below(3) == 0).then(|| "note".to_owned());
                        Event::Decided { number, allowed: random.below(2) == 0, note }
                    }
                    32 | 33 => Event::Timer,
                    34 => Event::Cancel(Outcome::Done, CANCEL_GRACE),
                    _ => Event::Ended(Outcome::Done),
                };
                checked.step(event);
            }
            prompted += checked.prompts;
            ended += usize::from(checked.finished.is_some());
            permitted += checked.permissions.len();
            checked.conclude();
        }
        assert!(
            prompted > 5_000 && ended > 5_000 && permitted > 5_000,
            "{prompted} {ended} {permitted}"
        );
    }

    #[test]
    fn what_the_fuzzer_kept_holds() {
        let seeds = include_str!("../../../../tests/fuzz/seeds/acp");
        for line in seeds.lines() {
            let digits = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
            conversation(&bytes);
        }
        assert!(seeds.lines().count() > 10);
    }
}
