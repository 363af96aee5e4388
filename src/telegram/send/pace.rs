//! How fast Telegram is called, so that it need not refuse, and who is left alone after it has. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Calls of all chats in any second; Telegram allows about 30.
const MOST: usize = 25;
const MOST_WITHIN: Duration = Duration::from_secs(1);

/// In a private chat: so many at once, and one more each second.
const PRIVATE: (u32, Duration) = (3, Duration::from_secs(1));

/// In a group: never more than 20 in a minute.
const GROUP: (u32, Duration) = (5, Duration::from_secs(4));

/// Between two previews: in a private chat, and in a group.
const PREVIEWS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Of a burst, what previews and typing leave for the reply.
const SPARE: u8 = 1;

/// What no chat counts has this one.
pub const NO_CHAT: i64 = 0;

/// Two chats that are refused within this time are no chance: it is the bot.
const TOGETHER: Duration = Duration::from_secs(1);

/// Chats whose pace is known. As fast as [`MOST`], no more than 500 are written to before the first is as good as
/// unknown; others Telegram has refused.
const MAX_CHATS: usize = 1024;

#[derive(Debug)]
struct Chat {
    id: i64,
    /// All of its burst is free again.
    whole: Option<Instant>,
    held: Option<Instant>,
    /// When the last preview was shown.
    preview: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Pace {
    chats: Vec<Chat>,
    /// The last calls.
    recent: VecDeque<Instant>,
    /// No chat is written to before then.
    held: Option<Instant>,
    /// The chat that was refused last, and when.
    refused: Option<(i64, Instant)>,
}

impl Pace {
    fn chat(&self, id: i64) -> Option<&Chat> {
        self.chats.iter().find(|chat| chat.id == id)
    }

    fn chat_mut(&mut self, id: i64) -> &mut Chat {
        let at = self.chats.iter().position(|chat| chat.id == id).unwrap_or_else(|| {
            if self.chats.len() >= MAX_CHATS {
                self.chats.remove(0);
            }
            self.chats.push(Chat { id, whole: None, held: None, preview: None });
            self.chats.len() - 1
        });
        &mut self.chats[at]
    }

    /// When the next call in this chat may be made; `None`: at any time.
    pub fn free_at(&self, id: i64) -> Option<Instant> {
        self.own_at(id, 0).max(self.all_at(id, 0))
    }

    /// The same of a preview.
    pub fn preview_at(&self, id: i64) -> Option<Instant> {
        let last = self.chat(id).and_then(|chat| chat.preview);
        let next = last.map(|at| at + PREVIEWS[usize::from(id < 0)]);
        next.max(self.own_at(id, SPARE)).max(self.all_at(id, SPARE))
    }

    /// The same of typing, which the chat does not count.
    pub fn typing_at(&self, id: i64) -> Option<Instant> {
        self.all_at(id, SPARE)
    }

    /// When this chat allows one more, and `spare` more at once.
    fn own_at(&self, id: i64, spare: u8) -> Option<Instant> {
        let (burst, each) = rule(id);
        let whole = self.chat(id).and_then(|chat| chat.whole);
        whole.and_then(|at| at.checked_sub(each * (burst - 1 - u32::from(spare))))
    }

    /// When the limit of all chats does, and whatever else Telegram has asked for.
    fn all_at(&self, id: i64, spare: u8) -> Option<Instant> {
        let most = MOST - usize::from(spare);
        let all = self.recent.len().checked_sub(most).map(|at| self.recent[at] + MOST_WITHIN);
        all.max(self.held(id))
    }

    /// Telegram has asked not to write to it before then.
    pub fn held(&self, id: i64) -> Option<Instant> {
        self.held.max(self.chat(id).and_then(|chat| chat.held))
    }

    /// The same of the bot.
    pub fn all_held(&self) -> Option<Instant> {
        self.held
    }

    /// A call is made that no chat counts.
    pub fn take_unseen(&mut self, now: Instant) {
        if self.recent.len() == MOST {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
    }

    pub fn take(&mut self, id: i64, preview: bool, now: Instant) {
        self.take_unseen(now);
        let chat = self.chat_mut(id);
        chat.preview = Some(now).filter(|_| preview).or(chat.preview);
        chat.whole = Some(chat.whole.max(Some(now)).unwrap_or(now) + rule(id).1);
    }

    /// Telegram has refused a call in this chat for so long. Whether it is the bot that is left alone.
    pub fn hold(&mut self, id: i64, seconds: u64, now: Instant) -> bool {
        let until = Some(now + Duration::from_secs(seconds));
        let chat = self.chat_mut(id);
        chat.held = chat.held.max(until);
        let before = self.refused.replace((id, now));
        let all = before.is_some_and(|(other, at)| other != id && now - at <= TOGETHER);
        if all {
            self.held = self.held.max(until);
        }
        all
    }

    /// Forgets what changes nothing any more. A call counts for as long as the next preview waits, or longer.
    pub fn forget(&mut self, now: Instant) {
        for chat in &mut self.chats {
            chat.whole.take_if(|at| *at <= now);
            chat.held.take_if(|at| *at <= now);
        }
        self.chats.retain(|chat| chat.whole.is_some() || chat.held.is_some());
        self.held.take_if(|at| *at <= now);
    }

    #[cfg(test)]
    pub fn chats(&self) -> usize {
        self.chats.len()
    }
}

/// Groups and channels have ids below zero.
fn rule(id: i64) -> (u32, Duration) {
    if id > 0 { PRIVATE } else { GROUP }
}
