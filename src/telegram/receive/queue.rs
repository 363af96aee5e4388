//! The items that have no answer of the gateway's: which of them are offered, and which wait for a file. Pure.
//!
//! They are offered in the order of the updates. One that waits for its file holds up its chat alone: what the
//! gateway has to keep in order is what is said in a conversation.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::content::{Media, add_line};
use super::senders::Senders;
use super::update::Item;
use super::values::{Action, MAX_FILE, Wanted};
use crate::escape::{escaped, first_chars};
use crate::json::object;

/// Items without an answer, those that are not offered yet too: what `ready` has as `window`.
pub(super) const WINDOW: usize = 64;

/// Files that are downloaded at once, and those of them whose senders are not known to be served.
const MAX_FETCHES: usize = 4;
const MAX_UNSERVED: usize = 2;

/// A gateway that has no room says so for seconds.
const MAX_AGAIN: u64 = 3600;

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Its file is not asked for yet.
    Waiting,
    Fetching(u64),
    Ready,
    /// By this number.
    Offered(u64),
    /// It was refused for now, and is offered again by this number.
    Refused(u64),
}

struct Held {
    item: Item,
    stage: Stage,
}

#[derive(Default)]
pub(super) struct Queue {
    /// The oldest first, but for those that were refused: these have their numbers.
    items: Vec<Held>,
    /// Numbers and tickets given so far.
    last: u64,
    tickets: u64,
    /// From this number on all are to be offered again, not before then, and once none is on its way.
    again: Option<(u64, Instant)>,
    pub senders: Senders,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn add(&mut self, item: Item) {
        let stage = if item.media.is_some() { Stage::Waiting } else { Stage::Ready };
        self.items.push(Held { item, stage });
    }

    /// Whether what comes meanwhile matters: pieces of what the gateway holds for them, and other chats where
    /// a file is slow. What the gateway has no room for does not.
    pub fn wants_more(&self) -> bool {
        let waits = |held: &Held| match held.stage {
            Stage::Waiting | Stage::Fetching(_) => true,
            Stage::Ready | Stage::Offered(_) | Stage::Refused(_) => held.item.grouped,
        };
        self.again.is_none() && self.items.iter().any(waits)
    }

    /// When something is to be offered again.
    pub fn due(&self) -> Option<Instant> {
        let (_, at) = self.again?;
        self.items.iter().all(|held| !matches!(held.stage, Stage::Offered(_))).then_some(at)
    }

    /// Takes the item that is answered.
    pub fn take(&mut self, n: u64) -> Option<Item> {
        let at = self.items.iter().position(|held| held.stage == Stage::Offered(n))?;
        Some(self.items.remove(at).item)
    }

    /// An item is to be offered again after so many seconds.
    pub fn again(&mut self, n: u64, seconds: u64, now: Instant) {
        let found = self.items.iter_mut().find(|held| held.stage == Stage::Offered(n));
        let Some(held) = found else { return };
        held.stage = Stage::Refused(n);
        let at = now + Duration::from_secs(seconds.clamp(1, MAX_AGAIN));
        let before = self.again.unwrap_or((n, at));
        self.again = Some((before.0.min(n), before.1.max(at)));
    }

    /// A download has ended.
    pub fn fetched(&mut self, ticket: u64, result: Result<(String, u64), String>, now: Instant) {
        let found = self.items.iter_mut().find(|held| held.stage == Stage::Fetching(ticket));
        let Some(Held { item, stage }) = found else { return };
        *stage = Stage::Ready;
        let Some(media) = item.media.take() else { return };
        match result {
            Ok((path, size)) => {
                if let (None, Some(sender)) = (media.size, item.sender) {
                    self.senders.count(sender, size, now);
                }
                let file = object!("path": path, "name": media.name, "type": media.media_type,
                    "size": size);
                item.line["files"] = Value::Array(vec![file]);
            }
            Err(why) => {
                let why = escaped(&first_chars(&why, 200), false);
                leave_out(&mut item.line, &media, &why);
            }
        }
    }

    /// Does what can be done.
    pub fn run(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.fetch(now, actions);
        if self.due().is_some_and(|at| at <= now)
            && let Some((n, _)) = self.again.take()
        {
            self.last = n - 1;
            // Before those that could not be offered then, which are of other chats.
            self.items.sort_by_key(|held| match held.stage {
                Stage::Refused(n) => n,
                Stage::Waiting | Stage::Fetching(_) | Stage::Ready | Stage::Offered(_) => u64::MAX,
            });
        }
        if self.again.is_some() {
            return;
        }
        let is_offered = |held: &&Held| matches!(held.stage, Stage::Offered(_));
        let mut room = WINDOW.saturating_sub(self.items.iter().filter(is_offered).count());
        let mut held_up: Vec<i64> = Vec::new();
        for at in 0..self.items.len() {
            let lacks_piece = self.lacks_piece(&self.items[at].item);
            let Held { item, stage } = &mut self.items[at];
            let is_ready = match stage {
                Stage::Offered(_) => continue,
                Stage::Ready | Stage::Refused(_) if room == 0 => return,
                // It had all of its pieces then.
                Stage::Refused(_) => true,
                Stage::Ready => {
                    !lacks_piece && !item.chats.iter().any(|chat| held_up.contains(chat))
                }
                Stage::Waiting | Stage::Fetching(_) => false,
            };
            if !is_ready {
                held_up.extend(item.chats);
                continue;
            }
            room -= 1;
            self.last += 1;
            *stage = Stage::Offered(self.last);
            let mut line = item.line.clone();
            line["n"] = self.last.into();
            actions.push(Action::Line(line));
        }
    }

    /// Whether a piece of the same message waits for its file: the gateway waits for two seconds from the first one
    /// on, and so it gets all that are known at once.
    fn lacks_piece(&self, item: &Item) -> bool {
        let is_piece = |held: &Held| {
            matches!(held.stage, Stage::Waiting | Stage::Fetching(_))
                && held.item.chats == item.chats
                && held.item.line["group"] == item.line["group"]
        };
        item.grouped && self.items.iter().any(is_piece)
    }

    /// Asks for files, or says why not.
    fn fetch(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let served = |senders: &Senders, item: &Item| {
            item.sender.is_some_and(|sender| senders.served(sender) == Some(true))
        };
        let (mut all, mut unserved) = (0, 0);
        for held in self.items.iter().filter(|held| matches!(held.stage, Stage::Fetching(_))) {
            all += 1;
            unserved += usize::from(!served(&self.senders, &held.item));
        }
        for Held { item, stage } in &mut self.items {
            let Some(media) = item.media.as_ref().filter(|_| *stage == Stage::Waiting) else {
                continue;
            };
            let size = media.size.unwrap_or(0);
            let is_served = served(&self.senders, item);
            let full = all >= MAX_FETCHES || !is_served && unserved >= MAX_UNSERVED;
            let refused = match item.sender {
                _ if size > MAX_FILE => Some("larger than 20 MB"),
                None => Some("nobody is served"),
                Some(_) if full => continue,
                Some(sender) if !self.senders.may(sender, size, now) => Some("too much at once"),
                Some(_) => None,
            };
            if let Some(why) = refused {
                leave_out(&mut item.line, media, why);
                item.media = None;
                *stage = Stage::Ready;
                continue;
            }
            all += 1;
            unserved += usize::from(!is_served);
            self.tickets += 1;
            *stage = Stage::Fetching(self.tickets);
            let wanted = Wanted {
                file_id: media.file_id.clone(),
                name: format!("{}-{}", item.update, media.name),
                size: media.size,
            };
            actions.push(Action::Fetch { ticket: self.tickets, wanted });
        }
    }
}

/// Says in the text that a file is not there.
fn leave_out(line: &mut Value, media: &Media, why: &str) {
    let size = match media.size {
        Some(size) => format!(" ({}.{} MB)", size / 1_000_000, size / 100_000 % 10),
        None => String::new(),
    };
    let mut text = line["text"].as_str().unwrap_or_default().to_owned();
    let (what, name) = (media.what, &media.name);
    add_line(&mut text, &format!("{what} \"{name}\"{size} was not downloaded: {why}"));
    line["text"] = text.into();
}
