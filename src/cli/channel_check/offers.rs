//! What the adapter offers, and how it takes the answers.

use std::time::{Duration, Instant};

use super::play::Item;
use super::subject::{Checked, PING, Subject, good, untried};
use crate::channel::link::Answer;
use crate::channel::wire::Inbound;
use crate::escape::counted;

const NONE_CAME: &str = "no message has come";

/// An item has its last answer.
fn took(it: &mut Subject, item: &Item) {
    let (id, cursor) = item.marks();
    it.taken.extend(id.map(str::to_owned));
    if let (Some(cursor), Some(ready)) = (cursor, &it.ready) {
        it.cursor = Some((ready.account.clone(), cursor.to_owned()));
    }
}

pub fn message(it: &mut Subject) -> Checked {
    let (play, wait) = it.play()?;
    if play.said.offers.is_empty() {
        let seconds = wait.as_secs();
        eprintln!("hermes-gateway: write messages to the account now; this waits {seconds} s");
    }
    play.until(wait, &|said| !said.offers.is_empty())?;
    let Some(item) = play.said.offers.front() else { return untried(NONE_CAME) };
    good(format!("number {}, id {:?}", item.n, item.marks().0.unwrap_or_default()))
}

/// The first item is to be offered again, and with it all others.
pub fn later(it: &mut Subject) -> Checked {
    let (play, wait) = it.play()?;
    let Some(first) = play.said.offers.pop_front() else { return untried(NONE_CAME) };
    play.said.offers.clear();
    let (why, began) = ("a check".to_owned(), Instant::now());
    play.answer(first.serial, Answer::Later { retry_after: 1, why })?;
    play.until(wait + Duration::from_secs(1), &|said| !said.offers.is_empty())?;
    let Some(again) = play.said.offers.front() else {
        return Err(format!("number {} is not offered again", first.n));
    };
    let after = began.elapsed().as_millis();
    if again.offer != first.offer {
        return Err(format!("number {} is another item when it is offered again", first.n));
    }
    if after < 900 {
        return Err(format!("it is offered again after {after} ms, and not after 1 s"));
    }
    good(format!("offered again after {after} ms"))
}

pub fn never(it: &mut Subject) -> Checked {
    let play = it.play()?.0;
    let Some(first) = play.said.offers.pop_front() else { return untried(NONE_CAME) };
    play.answer(first.serial, Answer::Never("a check".to_owned()))?;
    took(it, &first);
    good("")
}

/// As many as it may offer are left without an answer; then all but the last one have one.
pub fn window(it: &mut Subject) -> Checked {
    let window =
        it.ready.as_ref().map_or(0, |ready| usize::try_from(ready.window).unwrap_or(usize::MAX));
    if it.taken.is_empty() && it.play()?.0.said.offers.is_empty() {
        return untried(NONE_CAME);
    }
    let (play, wait) = it.play()?;
    play.until(wait, &|said| said.offers.len() >= window)?;
    play.until(Duration::from_secs(1), &|_| false)?;
    let came = play.said.offers.len();
    while it.play()?.0.said.offers.len() > 1 {
        let play = it.play()?.0;
        let Some(item) = play.said.offers.pop_front() else { break };
        let message = Some("01CHECK".to_owned());
        play.answer(item.serial, Answer::Taken { message, duplicate: false })?;
        took(it, &item);
    }
    it.pings(1, &[PING])?;
    if came < window {
        return untried(format!("{}, and its window is {window}", counted(&came, "message")));
    }
    good(format!("of {window}"))
}

/// It is killed while it waits for an answer, and started again.
pub fn killed(it: &mut Subject) -> Checked {
    let waiting = it.play()?.0.said.offers.pop_front();
    let (cursor, taken) = (it.cursor.clone(), it.taken.clone());
    it.start(cursor.as_ref().map(|(account, cursor)| (&**account, &**cursor)))?;
    let inbound = it.ready.as_ref().map(|ready| ready.inbound);
    let (play, wait) = it.play()?;
    if inbound == Some(Inbound::None) {
        let told = play.until(wait, &|said| said.gap)?;
        let why = "it does not say that there was a gap";
        return if told { good("it says that there was a gap") } else { Err(why.to_owned()) };
    }
    let Some(waiting) = waiting else { return untried("no message was without an answer") };
    let is_same = |item: &Item| item.marks().0 == waiting.marks().0;
    play.until(wait, &|said| said.offers.iter().any(is_same))?;
    let mut ids = play.said.offers.iter().map(|item| item.marks().0);
    let again = ids.any(|id| id.is_some_and(|id| taken.iter().any(|it| it == id)));
    match play.said.offers.iter().any(is_same) {
        false => Err(format!("number {} had no answer and is not offered again", waiting.n)),
        true if again && inbound == Some(Inbound::Cursor) => {
            Err("what its cursor covers is offered again, or no item had one".to_owned())
        }
        true if again => good("so is what had an answer; the gateway drops it"),
        true => good("what had no answer is offered again"),
    }
}
