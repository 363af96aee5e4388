//! What is shown of turns that run: that they do, and their replies so far.

use std::time::{Duration, Instant};

use super::{Context, Outbound};
use crate::channel::adapter::Adapter;
use crate::channel::outbox::Draft;
use crate::channel::wire;
use crate::session::{Place, Running};

/// Platforms show that somebody types for five seconds.
const TYPING_EVERY: Duration = Duration::from_secs(4);

/// When an adapter is asked again whether it reads.
const ROOM_AGAIN: Duration = Duration::from_secs(1);

impl Outbound {
    /// Shows that turns run, and what they have said so far.
    pub(super) fn show(
        &mut self,
        context: Context<'_>,
        adapter: Option<&mut Adapter>,
        now: Instant,
    ) {
        let Some(adapter) = adapter.filter(|adapter| adapter.has_room()) else {
            // It is looked at again once it reads.
            let later = |at: &mut Option<Instant>| *at = at.map(|at| at.max(now + ROOM_AGAIN));
            return [&mut self.typing_at, &mut self.preview_at].into_iter().for_each(later);
        };
        if self.typing_at.take_if(|at| *at <= now).is_some() {
            self.typing_at = Some(now + TYPING_EVERY);
            let mut shown: Vec<&Place> = Vec::new();
            for Running { place, .. } in self.running.iter().filter(|it| !it.asks) {
                if !shown.contains(&place) {
                    adapter.send(&wire::typing(&place.conversation, place.thread.as_deref()));
                    shown.push(place);
                }
            }
        }
        if self.preview_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        self.preview_at = Some(now + context.channel.pace);
        for it in &self.running {
            let (mut text, mut more) = (String::new(), true);
            // The first message of several is shown, and no more than that.
            while more && (text.len() as u64) < 4 * self.max_len {
                let piece = it.reply.snapshot(it.attempt, text.len());
                text += &piece.text;
                more = piece.more && piece.attempt == it.attempt;
            }
            if text.is_empty() {
                continue;
            }
            if !self.shown.contains(&it.id) {
                self.shown.push(it.id);
            }
            let draft = Draft {
                id: it.id,
                conversation: &it.place.conversation,
                thread: it.place.thread.as_deref(),
                reply_to: it.reply_to.as_deref(),
                preview: it.preview.as_deref(),
                text: &text,
            };
            self.outbox.preview(&draft, now);
        }
    }
}
