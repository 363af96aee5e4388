//! What is sent, and what the adapter says of it.

use std::time::{Duration, Instant};

use super::subject::{Checked, NOBODY, PING, Subject, good, untried};
use crate::channel::wire::{self, Can, FailureKind, Outbound, Receipt, Unit};
use crate::limits::MAX_CHANNEL_TEXT;

/// A text to try that is longer than this only takes time.
const LONGEST: u64 = MAX_CHANNEL_TEXT as u64;

const NO_PLACE: &str = "there is no --to CONVERSATION";

/// Sends a part and waits for what becomes of it.
fn receipt(it: &mut Subject, send: &wire::Send<'_>) -> Result<Receipt, String> {
    let (play, wait) = it.play()?;
    play.send(&wire::send(send));
    let known = play.until(wait, &|said| !said.receipts.is_empty())?;
    let Some(receipt) = play.said.receipts.pop_front().filter(|_| known) else {
        let seconds = wait.as_secs();
        return Err(format!("it does not say within {seconds} s what became of a part"));
    };
    if receipt.delivery != send.delivery || receipt.part != u64::from(send.part) {
        return Err(format!("{receipt:?} is not of the part that is on its way"));
    }
    // Each part has one.
    it.pings(1, &[PING])?;
    match it.play()?.0.said.receipts.pop_front() {
        Some(receipt) => Err(format!("a second word on a part: {receipt:?}")),
        None => Ok(receipt),
    }
}

/// The same, which the platform has to take: its id, or why this cannot be gone on with. As the gateway does it,
/// what has failed for now and what may have arrived is sent again.
fn sent(it: &mut Subject, send: &wire::Send<'_>) -> Result<Result<String, String>, String> {
    let (mut send, until) = (*send, Instant::now() + it.wait);
    loop {
        let failure = match receipt(it, &send)?.result {
            Ok(id) => return Ok(Ok(id)),
            Err(failure) => failure,
        };
        let words = format!("part {} has failed: {}", send.part, failure.why);
        let pause = Duration::from_secs(failure.retry_after.unwrap_or_default().max(1));
        match failure.kind {
            FailureKind::Permanent => return Err(words),
            _ if until.saturating_duration_since(Instant::now()) <= pause => return Ok(Err(words)),
            _ => it.play()?.0.until(pause, &|_| false)?,
        };
        send.attempt += 1;
    }
}

fn can(it: &Subject, what: u8) -> bool {
    it.ready.as_ref().is_some_and(|ready| ready.can.has(what))
}

pub fn nobody(it: &mut Subject) -> Checked {
    let delivery = it.delivery();
    let receipt = receipt(it, &part(&delivery, NOBODY, "This has no recipient."))?;
    match receipt.result {
        Ok(_) => Err(format!("a part to {NOBODY:?}, which does not exist, counts as sent")),
        Err(failure) if failure.kind == FailureKind::Uncertain => {
            Err("what cannot have arrived is uncertain".to_owned())
        }
        Err(failure) => good(failure.why),
    }
}

pub fn parts(it: &mut Subject) -> Checked {
    let Some(to) = it.to.clone() else { return untried(NO_PLACE) };
    let delivery = it.delivery();
    for (n, text) in [(0, "Part one: ä, 漢, 😀."), (1, "Part two:\n\n```\nlet x = 1;\n```")] {
        let send = wire::Send { part: n, parts: 2, ..part(&delivery, &to, text) };
        if let Err(why) = sent(it, &send)? {
            return untried(why);
        }
    }
    good("")
}

/// Agents write what is no Markdown, too: it is to be sent as it is.
pub fn markdown(it: &mut Subject) -> Checked {
    let Some(to) = it.to.clone() else { return untried(NO_PLACE) };
    for text in ["**Bold**, `code` and [a link](https://example.org/).", "*a _b `c [d](e <f> \\"] {
        let delivery = it.delivery();
        let send = wire::Send { markdown: true, ..part(&delivery, &to, text) };
        if let Err(why) = sent(it, &send)? {
            return untried(why);
        }
    }
    good("")
}

pub fn longest(it: &mut Subject) -> Checked {
    let (Some(to), Some(ready)) = (it.to.clone(), &it.ready) else {
        return untried(NO_PLACE);
    };
    let (length, unit) = (ready.max_len.min(LONGEST) as usize, ready.unit);
    let (character, units) = match unit {
        Unit::Utf16 => ("😀", 2),
        Unit::Chars => ("漢", 1),
        Unit::Bytes => ("ä", 2),
    };
    let text = character.repeat(length / units) + &"x".repeat(length % units);
    let delivery = it.delivery();
    match sent(it, &part(&delivery, &to, &text))? {
        Ok(_) => good(format!("of {length} units")),
        Err(why) => untried(why),
    }
}

pub fn edit(it: &mut Subject) -> Checked {
    let Some(to) = it.to.clone() else { return untried(NO_PLACE) };
    if !can(it, Can::EDIT) {
        return untried("it cannot edit");
    }
    let delivery = it.delivery();
    let preview = wire::Send { last: false, ..part(&delivery, &to, "This is replaced.") };
    let mut id = sent(it, &preview)?;
    // The last one is an edit that changes nothing.
    for text in ["This is replaced, too.", "This stays.", "This stays."] {
        let shown = match &id {
            Ok(id) => id.clone(),
            Err(why) => return untried(why),
        };
        let send = wire::Send { replaces: Some(&shown), ..part(&delivery, &to, text) };
        id = sent(it, &send)?;
    }
    id.map_or_else(untried, |_| good(""))
}

/// A part is handed over again, as where its receipt was lost.
pub fn repeated(it: &mut Subject) -> Checked {
    let Some(to) = it.to.clone() else { return untried(NO_PLACE) };
    let delivery = it.delivery();
    let part = part(&delivery, &to, "This may be shown twice.");
    let [first, again] = match (sent(it, &part)?, sent(it, &wire::Send { attempt: 2, ..part })?) {
        (Ok(first), Ok(again)) => [first, again],
        (Err(why), _) | (_, Err(why)) => return untried(why),
    };
    let once = it.ready.as_ref().is_some_and(|ready| ready.outbound == Outbound::Key);
    if once && first != again {
        return Err(format!("a part that is shown once has the ids {first:?} and {again:?}"));
    }
    good("")
}

pub fn no_answer(it: &mut Subject) -> Checked {
    let (typing, can_delete) = (can(it, Can::TYPING), can(it, Can::DELETE));
    let to = it.to.clone().unwrap_or_else(|| NOBODY.to_owned());
    let play = it.play()?.0;
    if typing {
        play.send(&wire::typing(&to, None));
    }
    if can_delete {
        play.send(&wire::delete("01CHECK", &to, NOBODY));
    }
    it.pings(1, &[PING])?;
    match it.play()?.0.said.receipts.pop_front() {
        Some(receipt) => Err(format!("typing and delete have no answer: {receipt:?}")),
        None if typing || can_delete => good(""),
        None => untried("it can neither type nor delete"),
    }
}

/// A delivery of one part.
pub fn part<'a>(delivery: &'a str, conversation: &'a str, text: &'a str) -> wire::Send<'a> {
    wire::Send {
        delivery,
        attempt: 1,
        part: 0,
        parts: 1,
        conversation,
        thread: None,
        reply_to: None,
        text,
        markdown: false,
        buttons: &[],
        prompt: None,
        replaces: None,
        last: true,
    }
}
