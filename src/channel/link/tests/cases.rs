//! The connection with an adapter, case by case.

use std::time::{Duration, Instant};

use super::properties::READY;
use crate::channel::link::{Action, Answer, Event, Link};
use crate::channel::wire::{FromAdapter, Offer, Rejected, parse};

struct Case {
    link: Link,
    now: Instant,
}

impl Case {
    fn opening() -> Case {
        let now = Instant::now();
        Case { link: Link::begin(now), now }
    }

    fn ready() -> Case {
        let mut case = Case::opening();
        let said = case.line(READY);
        assert!(matches!(&said[..], [Action::Ready(ready)] if ready.account == "7"), "{said:?}");
        case
    }

    fn line(&mut self, line: &str) -> Vec<Action> {
        self.link.step(self.now, Event::Line(parse(line)))
    }

    /// The serial of an offer that is passed on; 0: it is answered already, or not yet.
    fn offer(&mut self, n: u64) -> u64 {
        match &self.cursor(n)[..] {
            [Action::Offer { serial, offer: Offer::Cursor(_) }] => *serial,
            [] | [Action::Write(_)] => 0,
            other => panic!("{other:?}"),
        }
    }

    fn cursor(&mut self, n: u64) -> Vec<Action> {
        self.line(&format!(r#"{{"op":"cursor","n":{n},"cursor":"x"}}"#))
    }

    /// What is written after an answer.
    fn answer(&mut self, serial: u64, answer: Answer) -> String {
        let actions = self.link.step(self.now, Event::Answer { serial, answer });
        let mut lines = Vec::new();
        for action in actions {
            let Action::Write(line) = action else { panic!("{action:?}") };
            lines.push(line.replace(['"', '{', '}'], ""));
        }
        lines.join(" | ")
    }

    fn fault(&mut self, line: &str) -> String {
        fault(self.line(line))
    }

    /// At the time that the link has asked for, so many seconds from the start.
    fn timer(&mut self) -> (u64, Vec<Action>) {
        let due = self.link.timer().unwrap();
        let after = due - self.now;
        assert!(self.link.step(due - Duration::from_millis(1), Event::Timer).is_empty());
        self.now = due;
        (after.as_secs(), self.link.step(due, Event::Timer))
    }
}

fn fault(mut actions: Vec<Action>) -> String {
    match actions.pop() {
        Some(Action::Fault(why)) if actions.is_empty() => why,
        other => panic!("{other:?} behind {actions:?}"),
    }
}

fn taken() -> Answer {
    Answer::Taken { message: Some("01J".to_owned()), duplicate: false }
}

fn later() -> Answer {
    Answer::Later { retry_after: 5, why: "full".to_owned() }
}

#[test]
fn answers_go_out_in_the_order_of_the_offers() {
    let mut case = Case::ready();
    let [one, two, three] = [17, 18, 19].map(|n| case.offer(n));
    assert_eq!(case.answer(three, Answer::Never("old".to_owned())), "");
    assert_eq!(case.answer(two, Answer::Taken { message: None, duplicate: false }), "");
    assert_eq!(case.link.unanswered(), 3);
    assert_eq!(
        case.answer(one, Answer::Taken { message: Some("01J".to_owned()), duplicate: true }),
        "op:ack,n:17,as:01J,duplicate:true | op:ack,n:18,as:null,duplicate:false | \
         op:refuse,n:19,retry_after:null,why:old"
    );
    assert_eq!((case.link.unanswered(), case.answer(one, taken())), (0, String::new()));
}

#[test]
fn what_is_behind_a_temporary_refusal_waits_for_its_number() {
    let mut case = Case::ready();
    let [one, two, three] = [1, 2, 3].map(|n| case.offer(n));
    // The last was taken already: it has to come again all the same.
    assert_eq!(case.answer(three, taken()), "");
    assert_eq!(case.answer(two, later()), "");
    assert_eq!(
        case.answer(one, taken()),
        "op:ack,n:1,as:01J,duplicate:false | op:refuse,n:2,retry_after:5,why:full | \
         op:refuse,n:3,retry_after:5,why:number 2 has to be offered again first"
    );
    let gated =
        r#"{"op":"refuse","n":4,"retry_after":5,"why":"number 2 has to be offered again first"}"#;
    assert_eq!(case.cursor(4), [Action::Write(gated.to_owned())]);
    // An unknown op, which is refused for good elsewhere, too: it would be settled before what is in front of it.
    let unknown = case.line(r#"{"op":"x","n":5}"#);
    assert_eq!(unknown, [Action::Write(gated.replace('4', "5"))]);
    let two = case.offer(2);
    assert_ne!(two, 0);
    assert_eq!(case.answer(two, taken()), "op:ack,n:2,as:01J,duplicate:false");
    let three = case.offer(3);
    assert_eq!(case.answer(three, taken()), "op:ack,n:3,as:01J,duplicate:false");
    assert_eq!(case.fault(r#"{"op":"cursor","n":6,"cursor":"x"}"#), "number 6 where 4 is due");
}

#[test]
fn of_two_temporary_refusals_the_first_number_counts() {
    let mut case = Case::ready();
    let [one, two] = [1, 2].map(|n| case.offer(n));
    assert_eq!(case.answer(two, later()), "");
    assert!(case.answer(one, later()).starts_with("op:refuse,n:1,retry_after:5,why:full | "));
    assert_eq!(case.offer(3), 0);
    let why = case.fault(r#"{"op":"cursor","n":2,"cursor":"x"}"#);
    assert_eq!(why, "number 2 where 4 or again 1 is due");

    // It cannot know yet that it is to offer the second again.
    let mut case = Case::ready();
    let [_, two] = [1, 2].map(|n| case.offer(n));
    assert_eq!(case.answer(two, later()), "");
    assert_eq!(fault(case.cursor(2)), "number 2 where 3 is due");
}

#[test]
fn an_answer_that_is_late_does_not_count_for_the_same_number() {
    let mut case = Case::ready();
    let [one, two] = [1, 2].map(|n| case.offer(n));
    case.answer(one, later());
    let again = case.offer(1);
    let next = case.offer(2);
    assert_eq!(case.answer(two, later()), "");
    assert_eq!(case.answer(one, taken()), "");
    assert_eq!(case.answer(next, taken()), "");
    assert!(case.answer(again, taken()).ends_with("op:ack,n:2,as:01J,duplicate:false"));
}

#[test]
fn a_number_is_one_more_than_the_last() {
    for (n, why) in [
        (7, "number 7 where 8 is due"),
        (9, "number 9 where 8 is due"),
        (0, "number 0 where 8 is due"),
    ] {
        for answered in [false, true] {
            let mut case = Case::ready();
            let seven = case.offer(7);
            if answered {
                case.answer(seven, taken());
            }
            assert_eq!(fault(case.cursor(n)), why);
            assert!(case.cursor(8).is_empty() && case.answer(seven, taken()).is_empty());
        }
    }
    assert_eq!(
        fault(Case::ready().cursor(u64::MAX)),
        format!("number {} is the last one", u64::MAX)
    );
}

#[test]
fn an_adapter_keeps_its_window() {
    let mut case = Case::ready();
    let first = case.offer(1);
    (2..=5).for_each(|n| assert_ne!(case.offer(n), 0));
    case.answer(first, taken());
    assert_ne!(case.offer(6), 0);
    assert_eq!(fault(case.cursor(7)), "number 7 is over its window of 5");
}

#[test]
fn an_adapter_is_ready_first_and_once() {
    let first = "its first line has to be ready";
    for line in [
        r#"{"op":"cursor","n":1,"cursor":"x"}"#,
        r#"{"op":"x","n":1}"#,
        r#"{"op":"sent","delivery":"d","part":0,"id":"5"}"#,
    ] {
        assert_eq!(Case::opening().fault(line), first, "{line}");
    }
    let mut case = Case::opening();
    assert!(case.line(r#"{"op":"pong"}"#).is_empty());
    let news = case.line(r#"{"op":"status","state":"connecting"}"#);
    assert!(matches!(news[..], [Action::News(_)]), "{news:?}");
    assert_eq!(Case::ready().fault(READY), "it says ready twice");
    for (good, bad, why) in [
        ("\"v\":1", "\"v\":2", "it speaks version 2 of the protocol, and the gateway version 1"),
        (":5,", ":0,", "ready: \"window\" is 0, and has to be 1 to 1024"),
        (":5,", ":1025,", "ready: \"window\" is 1025, and has to be 1 to 1024"),
        (":3,", ":257,", "ready: \"send_window\" is 257, and has to be 1 to 256"),
        (":4096", ":63", "ready: \"max_len\" is 63, and has to be 64 to 18446744073709551615"),
    ] {
        assert_eq!(Case::opening().fault(&READY.replace(good, bad)), why);
    }
    let said = Case::opening().line(&READY.replace("4096", "99999999"));
    assert!(matches!(&said[..], [Action::Ready(ready)] if ready.max_len == 131_072), "{said:?}");
}

#[test]
fn an_adapter_that_does_not_become_ready_is_ended() {
    let mut case = Case::opening();
    case.now += Duration::from_secs(100);
    case.line(r#"{"op":"status","state":"connecting"}"#);
    let (after, actions) = case.timer();
    assert_eq!((after, &*fault(actions)), (120, "it does not become ready"));
}

#[test]
fn a_silent_adapter_is_asked_whether_it_lives() {
    let mut case = Case::ready();
    let ping = [Action::Write(r#"{"op":"ping"}"#.to_owned())];
    assert_eq!(case.timer(), (30, ping.into()));
    assert!(case.line(r#"{"op":"pong"}"#).is_empty());
    assert_eq!(case.timer().0, 30);
    // Half of it may hang: what it offers is no pong.
    case.now += Duration::from_secs(20);
    assert_ne!(case.offer(1), 0);
    let (after, actions) = case.timer();
    assert_eq!((after, &*fault(actions)), (40, "it has not answered a ping within 60 s"));
    assert_eq!(case.link.timer(), None);
}

#[test]
fn an_adapter_says_what_became_of_what_it_was_given() {
    let mut case = Case::ready();
    case.link.step(case.now, Event::Unanswered(2));
    for wait in [100, 100] {
        case.now += Duration::from_secs(wait);
        // One more does not put it off, nor does a sign of life.
        case.link.step(case.now, Event::Unanswered(3));
        case.line(r#"{"op":"pong"}"#);
        assert_eq!(case.link.timer().unwrap() - case.now, Duration::from_secs(20));
        let receipt = case.line(r#"{"op":"sent","delivery":"d","part":0,"id":"5"}"#);
        assert!(matches!(receipt[..], [Action::Receipt(_)]));
        case.link.step(case.now, Event::Unanswered(2));
    }
    case.now += Duration::from_secs(100);
    case.line(r#"{"op":"pong"}"#);
    let (after, actions) = case.timer();
    let why = fault(actions);
    assert_eq!((after, &*why), (20, "it has not said within 120 s what became of a send"));

    let mut case = Case::ready();
    case.link.step(case.now, Event::Unanswered(1));
    case.link.step(case.now, Event::Unanswered(0));
    assert_eq!(case.link.timer().unwrap() - case.now, Duration::from_secs(30));
}

#[test]
fn of_an_adapter_that_is_being_ended_receipts_and_news_count() {
    for ends in [Event::Close, Event::Line(Ok(parse(READY).unwrap()))] {
        let mut case = Case::ready();
        let one = case.offer(1);
        case.link.step(case.now, ends);
        assert_eq!((case.answer(one, taken()), case.link.unanswered()), (String::new(), 0));
        let receipt = case.line(r#"{"op":"failed","delivery":"d","part":0,"kind":"permanent"}"#);
        assert!(matches!(receipt[..], [Action::Receipt(_)]));
        assert!(matches!(case.line(r#"{"op":"gap"}"#)[..], [Action::News(_)]));
        assert!(case.cursor(2).is_empty() && case.cursor(2).is_empty());
        assert!(matches!(case.line("{")[..], [Action::Complain(_)]));
        case.link.step(case.now, Event::Ended);
        assert!(case.line(r#"{"op":"gap"}"#).is_empty());
    }
}

#[test]
fn what_is_unknown_is_refused_for_good_and_a_broken_line_is_a_fault() {
    let mut case = Case::ready();
    let actions = case.line(r#"{"op":"react","n":1,"id":"5","files":[{"path":"a"},{"path":7},7]}"#);
    let why = r#"the op \"react\" is unknown"#;
    let refusal = format!(r#"{{"op":"refuse","n":1,"retry_after":null,"why":"{why}"}}"#);
    let why = "the op \"react\" is unknown".to_owned();
    let item = Rejected { why, files: vec!["a".to_owned()], foreign: false };
    assert_eq!(actions, [Action::Rejected(item), Action::Write(refusal)]);
    assert!(matches!(case.line("DEBUG: connected")[..], [Action::Complain(_)]));
    assert!(matches!(case.line(r#"{"op":"react"}"#)[..], [Action::Complain(_)]));
    let good = FromAdapter::Offer { n: 2, offer: Offer::Cursor("c".to_owned()) };
    assert!(matches!(
        case.link.step(case.now, Event::Line(Ok(good)))[..],
        [Action::Offer { serial: 2, .. }]
    ));
    assert!(case.fault(r#"{"op":"cursor","n":3,"cursor":"#).starts_with("a line is no JSON: EOF"));
}
