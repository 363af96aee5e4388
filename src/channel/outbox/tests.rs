//! The outbox, against a journal, a platform and an adapter that are a few lines each.

mod properties;
mod world;

use super::*;
use crate::channel::wire::FailureKind;
use crate::config::Uncertain;
use std::time::Duration;
use world::{World, failure};

#[test]
fn a_reply_is_sent_part_by_part_each_behind_its_record() {
    let mut world = World::new(Uncertain::Resend);
    let id = world.enqueue("a", &"word ".repeat(30));
    let mut texts = Vec::new();
    for part in 0..3 {
        let [send] = &world.in_flight[..] else { panic!("{:?}", world.in_flight) };
        assert_eq!((send.part, send.parts, send.attempt, send.last), (part, 3, 1, true));
        let known = world.stored(id);
        assert!(known.open && known.sent.len() == part as usize && known.cuts.len() == 3);
        texts.push(send.text.clone());
        world.answer(0, None);
    }
    assert_eq!(texts.join(" "), "word ".repeat(30).trim());
    assert!(world.stored(id).is_delivered() && world.outbox.waiting() == 0);
}

#[test]
fn a_conversation_that_is_put_off_holds_up_no_other() {
    let mut world = World::new(Uncertain::Resend);
    for (conversation, text) in [("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")] {
        world.enqueue(conversation, text);
    }
    let texts =
        |world: &World| world.in_flight.iter().map(|it| it.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&world), ["1", "3"]);
    world.answer(0, Some(failure(FailureKind::Temporary, Some(7))));
    world.answer(0, None);
    assert_eq!(texts(&world), ["4"]);
    world.answer(0, None);
    let wake = world.outbox.next_wake(world.now).unwrap();
    assert_eq!(wake, world.now + Duration::from_secs(7), "what the platform asked for");
    world.pass(Duration::from_secs(6));
    assert!(texts(&world).is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!((texts(&world), world.in_flight[0].attempt), (vec!["1".to_owned()], 2));
    world.answer(0, Some(failure(FailureKind::Permanent, None)));
    assert_eq!(texts(&world), ["2"], "the next one is tried all the same");
    assert_eq!(world.stored(1.into()).dead.as_deref(), Some("refused"));
}

#[test]
fn a_channel_that_is_held_or_closed_sends_nothing() {
    let mut world = World::new(Uncertain::Resend);
    let later = world.now + Duration::from_secs(5);
    world.outbox.hold_channel(later);
    world.enqueue("a", "1");
    assert!(world.in_flight.is_empty() && world.outbox.next_wake(world.now) == Some(later));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.in_flight.len(), 1);
    world.outbox.close();
    world.enqueue("b", "2");
    world.answer(0, None);
    assert!(world.stored(1.into()).is_delivered() && world.in_flight.is_empty());
    world.outbox.open(world.now);
    world.run();
    assert_eq!(world.in_flight.len(), 1);
}

#[test]
fn a_place_gets_no_text_from_an_outbox_that_is_closed() {
    let mut world = World::new(Uncertain::Edit);
    world.enqueue("a", "text");
    world.outbox.close();
    world.answer(0, None);
    assert!(world.in_flight.is_empty() && world.outbox.unanswered() == 0);
    world.outbox.open(world.now);
    world.run();
    assert_eq!(world.in_flight[0].replaces.as_deref(), Some("m1"));
}

#[test]
fn long_replies_take_turns_within_the_window() {
    let mut world = World::new(Uncertain::Resend);
    world.can.send_window = 1;
    world.restart();
    world.enqueue("a", &"word ".repeat(60));
    world.enqueue("b", "short");
    assert_eq!((world.in_flight.len(), &*world.in_flight[0].conversation), (1, "a"));
    world.answer(0, None);
    assert_eq!((world.in_flight.len(), &*world.in_flight[0].conversation), (1, "b"));
    world.answer(0, None);
    let next = &world.in_flight[0];
    assert_eq!((&*next.conversation, next.part, next.attempt), ("a", 1, 1));
}

#[test]
fn what_may_have_arrived_is_treated_as_the_configuration_says() {
    for (policy, key, can_edit) in [
        (Uncertain::Resend, false, true),
        (Uncertain::Hold, false, true),
        (Uncertain::Hold, true, true),
        (Uncertain::Edit, false, true),
        (Uncertain::Edit, false, false),
    ] {
        for crash in [false, true] {
            let mut world = World::new(policy);
            (world.can.key, world.can.edit) = (key, can_edit);
            world.restart();
            world.enqueue("a", "text");
            let edits = policy == Uncertain::Edit && can_edit;
            if edits {
                assert_eq!((&*world.in_flight[0].text, world.in_flight[0].last), ("…", false));
                world.answer(0, None);
                assert_eq!(world.in_flight[0].replaces.as_deref(), Some("m1"));
            }
            world.apply(0).unwrap();
            if crash {
                world.restart();
            } else {
                world.lose();
                world.pass(Duration::from_secs(1));
            }
            let known = world.stored(1.into()).clone();
            let why = known.dead.clone().unwrap_or_default();
            match (policy, edits || key) {
                (Uncertain::Hold, false) => assert!(why.contains("nothing twice"), "{why}"),
                (Uncertain::Edit, false) => assert!(why.contains("cannot edit"), "{why}"),
                (Uncertain::Resend | Uncertain::Hold | Uncertain::Edit, _) => {
                    world.answer(0, None);
                    assert!(world.stored(1.into()).is_delivered(), "{policy:?}");
                    let doubled = policy == Uncertain::Resend;
                    assert_eq!(world.shown().len(), 1 + usize::from(doubled), "{policy:?}");
                }
            }
        }
    }
}

#[test]
fn a_part_that_ends_adapter_after_adapter_is_shown_five_times_at_most() {
    let mut world = World::new(Uncertain::Resend);
    let id = world.enqueue("a", "poison");
    for seconds in [1, 2, 4, 8] {
        world.apply(0).unwrap();
        world.lose();
        assert!(world.in_flight.is_empty(), "not at once");
        world.pass(Duration::from_secs(seconds));
    }
    world.apply(0).unwrap();
    world.lose();
    assert!(world.stored(id).dead.as_deref().unwrap().contains("several times"));
    assert_eq!(world.shown().len(), 5);
}

#[test]
fn attempts_that_ended_with_their_gateway_lengthen_no_pause() {
    let mut world = World::new(Uncertain::Resend);
    world.enqueue("a", "1");
    (0..8).for_each(|_| world.restart());
    assert_eq!(world.in_flight[0].attempt, 9);
    world.lose();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.in_flight[0].attempt, 10, "its first loss in this process");
    world.answer(0, Some(failure(FailureKind::Temporary, None)));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.in_flight[0].attempt, 11, "its first refusal");
    world.answer(0, Some(failure(FailureKind::Temporary, None)));
    world.pass(Duration::from_millis(999));
    assert!(world.in_flight.is_empty(), "its second one is waited out for longer");
    world.pass(Duration::from_millis(1001));
    world.answer(0, None);
    assert_eq!(world.shown(), ["1"]);
}

#[test]
fn a_receipt_that_never_comes_is_waited_for_in_its_conversation_alone() {
    let mut world = World::new(Uncertain::Resend);
    world.enqueue("a", "1");
    world.pass(Duration::from_secs(100));
    world.enqueue("b", "2");
    world.in_flight.remove(0);
    world.now = world.outbox.next_wake(world.now).unwrap();
    world.tick();
    assert_eq!((world.outbox.unanswered(), &*world.in_flight[0].text), (1, "2"));
    world.pass(Duration::from_secs(1));
    assert_eq!((&*world.in_flight[1].text, world.in_flight[1].attempt), ("1", 2));
}

#[test]
fn a_reply_of_too_many_parts_ends_with_where_the_rest_is() {
    let mut world = World::new(Uncertain::Resend);
    let id = world.enqueue("a", &"word ".repeat(3000));
    for part in 0..101 {
        if part == 50 || part == 100 {
            world.restart();
        }
        assert_eq!((world.in_flight[0].part, world.in_flight[0].parts), (part, 101));
        world.answer(0, None);
    }
    assert!(world.in_flight.is_empty() && world.stored(id).is_delivered());
    assert_eq!(world.shown()[100], format!("Rest: hermes-gateway send --result {id}"));
}

#[test]
fn a_preview_is_edited_and_becomes_the_reply() {
    for policy in [Uncertain::Resend, Uncertain::Edit] {
        let mut world = World::new(policy);
        let id = world.begin("a");
        world.preview(id, "Hel");
        let first = if policy == Uncertain::Resend { "Hel" } else { "…" };
        assert_eq!((&*world.in_flight[0].text, world.in_flight[0].last), (first, false));
        world.preview(id, "Hello");
        assert_eq!(world.in_flight.len(), 1, "one at a time");
        world.answer(0, None);
        if policy == Uncertain::Resend {
            assert!(world.in_flight.is_empty(), "not before its time");
            world.pass(Duration::from_secs(1));
        }
        let edit = &world.in_flight[0];
        assert_eq!((&*edit.text, edit.replaces.as_deref()), ("Hello", Some("m1")));
        world.answer(0, None);
        world.preview(id, "Hello");
        world.pass(Duration::from_secs(9));
        assert!(world.in_flight.is_empty(), "equal texts are skipped");
        world.preview(id, "Hello, w");
        world.finish(id, "Hello, world");
        world.answer(0, None);
        let last = &world.in_flight[0];
        assert_eq!((&*last.text, last.last), ("Hello, world", true));
        world.answer(0, None);
        assert_eq!(world.shown(), ["Hello, world"]);
        assert!(world.stored(id).is_delivered());
    }
}

#[test]
fn previews_of_one_conversation_share_its_pace_and_no_last_text_waits_for_it() {
    let mut world = World::new(Uncertain::Resend);
    let ids = [world.begin("a"), world.begin("a")];
    for at in 0..4 {
        ids.iter().for_each(|id| world.preview(*id, &at.to_string()));
        let [send] = &world.in_flight[..] else { panic!("{:?}", world.in_flight) };
        assert_eq!(send.id, ids[at % 2], "they take turns");
        world.answer(0, None);
        assert!(world.in_flight.is_empty(), "not before its time");
        world.pass(Duration::from_secs(1));
    }
    world.answer(0, None);
    world.finish(ids[1], "done");
    assert_eq!((&*world.in_flight[0].text, world.in_flight[0].last), ("done", true));
}

#[test]
fn a_preview_without_a_reply_is_taken_back() {
    let mut world = World::new(Uncertain::Resend);
    for (answered, times) in [(true, 1), (false, 1), (false, 2)] {
        let id = world.begin("a");
        world.preview(id, "Hel");
        if answered {
            world.answer(0, None);
        }
        for _ in 1..times {
            world.outbox.forget(id, world.now);
        }
        world.outbox.end_preview(id, world.now);
        world.outbox.forget(id, world.now);
        world.run();
        if !answered {
            world.answer(0, None);
        }
        assert!(world.shown().is_empty() && world.outbox.conversations.is_empty());
    }
}

#[test]
fn what_was_to_be_edited_and_is_gone_is_sent_anew_once() {
    let mut world = World::new(Uncertain::Hold);
    let id = world.begin("a");
    world.preview(id, "Hel");
    world.answer(0, None);
    world.answer(0, None);
    world.finish(id, "Hello");
    world.delete("m1");
    world.answer(0, None);
    assert_eq!((&*world.in_flight[0].text, &world.in_flight[0].replaces), ("Hello", &None));
    world.apply(0).unwrap();
    world.restart();
    assert!(world.stored(id).dead.is_some(), "and not again");
    assert_eq!(world.shown(), ["Hello"]);
}

#[test]
fn a_conversation_that_has_moved_is_followed() {
    let mut world = World::new(Uncertain::Hold);
    world.enqueue("old", "1");
    world.enqueue("old", "2");
    world.enqueue("new", "3");
    world.moved.insert("old".to_owned(), "new".to_owned());
    world.answer(0, None);
    world.enqueue("new", "4");
    while !world.in_flight.is_empty() {
        assert_eq!(world.in_flight.len(), 1);
        world.answer(0, None);
    }
    assert_eq!(world.shown(), ["3", "1", "2", "4"]);
}

#[test]
fn a_preview_follows_its_conversation() {
    let mut world = World::new(Uncertain::Resend);
    let id = world.begin("old");
    world.preview(id, "Hel");
    world.moved.insert("old".to_owned(), "new".to_owned());
    world.answer(0, None);
    world.pass(Duration::from_secs(1));
    assert_eq!((&*world.in_flight[0].conversation, &*world.in_flight[0].text), ("new", "Hel"));
}

#[test]
fn cuts_stay_unless_a_piece_is_too_long_for_the_adapter() {
    let mut world = World::new(Uncertain::Resend);
    world.can.max_len = 100;
    world.restart();
    let text = "word ".repeat(60);
    let id = world.enqueue("a", &text);
    world.answer(0, None);
    let before = world.stored(id).cuts.clone();
    world.can.max_len = 400;
    world.restart();
    assert_eq!((world.in_flight[0].part, &world.stored(id).cuts), (1, &before));
    world.can.max_len = 64;
    world.restart();
    let now = world.stored(id).cuts.clone();
    assert!(now[0] == before[0] && now.len() > before.len(), "{before:?} {now:?}");
    while !world.in_flight.is_empty() {
        world.answer(0, None);
    }
    assert_eq!(world.shown().join(" ").matches("word").count(), 60);
}

#[test]
fn what_cannot_be_written_is_not_handed_over_and_what_was_heard_is_kept() {
    let mut world = World::new(Uncertain::Hold);
    world.full = true;
    let id = world.enqueue("a", "1");
    world.enqueue("a", "2");
    assert!(world.in_flight.is_empty());
    (world.full, world.now) = (false, world.outbox.next_wake(world.now).unwrap());
    world.tick();
    world.full = true;
    world.answer(0, None);
    world.lose();
    assert!(world.in_flight.is_empty() && !world.stored(id).is_delivered());
    (world.full, world.now) = (false, world.outbox.next_wake(world.now).unwrap());
    world.tick();
    assert!(world.stored(id).is_delivered() && world.in_flight[0].text == "2");
}

#[test]
fn receipts_that_nobody_waits_for_are_faults() {
    let mut world = World::new(Uncertain::Resend);
    let id = world.enqueue("a", "1");
    let receipt = |part| Receipt { delivery: String::new(), part, result: Ok("m9".to_owned()) };
    let now = world.now;
    assert!(!world.outbox.receipt(id, &receipt(1), 0, now));
    assert!(!world.outbox.receipt(9.into(), &receipt(0), 0, now));
    assert!(world.outbox.receipt(id, &receipt(0), 0, now));
    assert!(!world.outbox.receipt(id, &receipt(0), 0, now), "a second one");
}

#[test]
fn a_reply_that_is_forgotten_in_flight_leaves_its_place_to_the_next() {
    let mut world = World::new(Uncertain::Resend);
    let first = world.enqueue("a", "1");
    let second = world.enqueue("a", "2");
    world.enqueue("a", "3");
    world.outbox.forget(first, world.now);
    world.outbox.forget(second, world.now);
    world.run();
    assert_eq!(world.in_flight.len(), 1, "it is still to be answered");
    world.answer(0, None);
    assert_eq!(world.in_flight[0].text, "3");
}
