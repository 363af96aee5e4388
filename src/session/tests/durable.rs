//! A disk that keeps nothing from one record on: what that record says is shown to nobody, and
//! neither an agent nor a target sees anything of it.

use super::*;
use crate::config::Target;
use crate::journal::WriteError;
use crate::session::commands::Command;

/// A house whose journal keeps nothing from the first record on that contains this.
fn losing_from(word: &'static str, script: Option<&str>, delivery: &str) -> House {
    let house = House::with(script, |config| {
        let command = ["/bin/sh", "-c", delivery].map(str::to_owned).to_vec();
        let target = Target { command, ..Target::new("out") };
        config.deliver.insert("out".to_owned(), target);
    });
    *house.journal.lost_from.lock().unwrap() = Some(word);
    house
}

impl House {
    /// Waits for a record that contains this.
    fn until_recorded(&self, word: &str) {
        let is_there = || self.journal.all().iter().any(|(_, json)| json.contains(word));
        self.until(word, is_there);
    }
}

#[track_caller]
fn assert_denied<T: std::fmt::Debug>(result: &Result<T, Refusal>) {
    let broken = matches!(result, Err(Refusal::Journal(WriteError::Broken(_))));
    assert!(broken, "said, and not durable: {result:?}");
}

#[track_caller]
fn assert_refused(result: &Result<Submitted, Refusal>) {
    let broken = matches!(result, Err(Refusal::Journal(WriteError::Broken(_))));
    assert!(broken, "answered, and not durable: {result:?}");
}

#[test]
fn a_message_is_answered_for_when_it_is_durable() {
    let house = losing_from("accepted", None, "true");
    assert_refused(&house.hub.submit(draft("s", "x")));
}

#[test]
fn an_agent_runs_when_its_message_and_its_attempt_are_durable() {
    let house = losing_from("started", Some("true"), "true");
    assert_refused(&house.hub.submit(draft("s", "x")));
    house.until_recorded("started");
    house.until_idle();
    assert!(house.log().is_empty(), "an agent ran: {:?}", house.log());
}

#[test]
fn a_reply_is_sent_when_its_attempt_is_durable() {
    let sent = TempDir::new("sent");
    let file = sent.path().join("file");
    let house = losing_from("\"sending\"", None, &format!("echo >> {}", file.display()));
    let draft = Draft { deliver: Some("out".to_owned()), ..draft("s", "x") };
    house.hub.submit(draft).unwrap();
    house.until_recorded("\"sending\"");
    house.until_idle();
    assert!(!file.exists(), "a reply was sent");
}

#[test]
fn a_key_is_answered_again_when_its_message_is_durable() {
    let house = losing_from("accepted", None, "true");
    for _ in 0..2 {
        assert_refused(&house.hub.submit(keyed("s", "x", 5)));
    }
}

#[test]
fn the_key_of_a_command_is_answered_again_when_it_is_durable() {
    let house = losing_from("accepted", None, "true");
    for _ in 0..2 {
        assert_refused(&house.hub.command(Command::Help, keyed("s", "/help", 5)));
    }
}

#[test]
fn the_answer_to_a_command_is_given_when_it_is_durable() {
    let house = losing_from("\"done\"", None, "true");
    assert_refused(&house.hub.command(Command::Help, draft("s", "/help")));
}

#[test]
fn a_cancellation_is_confirmed_when_it_is_durable() {
    for waiting in [false, true] {
        let house = losing_from("\"cancelled\"", Some(GATE), "true");
        let ids = ["1", "2"].map(|text| house.send("s", text));
        house.until_logged(1);
        assert_denied(&house.hub.cancel(ids[usize::from(waiting)], "no more"));
    }
}

#[test]
fn a_message_is_withdrawn_when_that_is_durable() {
    let house = losing_from("\"cancelled\"", Some(GATE), "true");
    let ids = ["1", "2"].map(|text| house.send("s", text));
    house.until_logged(1);
    let result = house.hub.withdraw(ids[1], "no more");
    let broken = matches!(result, Err(Refusal::Journal(WriteError::Broken(_))));
    assert!(broken, "its client is told to send it again: {result:?}");
}

#[test]
fn a_deletion_is_confirmed_when_it_is_durable() {
    let house = losing_from("\"forgotten\"", None, "true");
    let id = house.send("s", "1");
    house.wait(id);
    assert_denied(&house.hub.delete(id, "no more"));
}

#[test]
fn a_reset_is_confirmed_when_it_is_durable() {
    let house = losing_from("\"reset\"", None, "true");
    let id = house.send("s", "1");
    house.wait(id);
    assert_denied(&house.hub.reset(&who("s"), "anew"));
    assert_eq!(house.said("s"), [id], "what was said is gone, and the reset may be lost");
}

#[test]
fn what_is_done_with_a_dead_letter_is_confirmed_when_it_is_durable() {
    type Operate = fn(&Hub, Id) -> Result<(), Refusal>;
    for (word, operate) in
        [("\"revived\"", Hub::revive as Operate), ("\"dropped\"", Hub::drop_dead_letter as Operate)]
    {
        let house = losing_from(word, None, "exit 3");
        let draft = Draft { deliver: Some("out".to_owned()), ..draft("s", "x") };
        let Ok(Submitted::New { id, .. }) = house.hub.submit(draft) else { panic!("not taken") };
        house.until("it is a dead letter", || house.counts().dead_letters == 1);
        assert_denied(&operate(&house.hub, id));
    }
}
