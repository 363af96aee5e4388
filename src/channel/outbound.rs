//! What is to be sent to an adapter: between the hub, which has the replies, the outbox, which decides, and the
//! process.

mod handed;
mod show;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adapter::Adapter;
use super::outbox::{Abilities, Action, Delivery, Outbox, Rules, Send};
use super::wire::{self, Can, Ready, Receipt};
use crate::config::Channel;
use crate::journal::record::{Fact, Step};
use crate::limits::DISK_RETRY_DELAY;
use crate::session::{Hub, Id, Refusal, Running, ToSend};
use crate::sys::gather::Gather;
use crate::sys::random;
use handed::Handed;

/// How often replies that wait are looked at for their age.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// How long nothing is handed over once an adapter says that its platform limits it.
const LIMITED_PAUSE: Duration = Duration::from_secs(5);

/// When a reply is tried again that cannot be read.
const READ_AGAIN: Duration = Duration::from_secs(300);

/// Bytes of texts that are handed over at once: what an adapter does not read waits in memory.
const MAX_IN_FLIGHT: u64 = 1 << 20;

/// What answers a question.
const BUTTONS: [(&str, &str); 2] = [("allow", "Allow once"), ("deny", "Deny")];

/// What it is done with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub hub: &'a Arc<Hub>,
    pub channel: &'a Channel,
}

pub(super) struct Outbound {
    outbox: Outbox,
    handed: Handed,
    /// The replies that the outbox has.
    waiting: Vec<Id>,
    /// What [`Hub::channel_changes`] was when it was looked for what is new; `None`: it has to be again.
    seen: Option<usize>,
    /// What the adapter can do that is ready.
    can: Can,
    max_len: u64,
    running: Vec<Running>,
    /// The messages of which something was shown before they have a reply.
    shown: Vec<Id>,
    typing_at: Option<Instant>,
    preview_at: Option<Instant>,
    expire_at: Instant,
    /// Conversations that have moved, for whoever keeps that.
    pub moved: bool,
}

impl Outbound {
    pub fn new(channel: &Channel) -> Outbound {
        Outbound {
            outbox: Outbox::new(Rules::of(channel)),
            handed: Handed::default(),
            waiting: Vec::new(),
            seen: None,
            can: Can::default(),
            max_len: 0,
            running: Vec::new(),
            shown: Vec::new(),
            typing_at: None,
            preview_at: None,
            expire_at: Instant::now() + EXPIRE_EVERY,
            moved: false,
        }
    }

    pub fn configure(&mut self, channel: &Channel) {
        self.seen = None;
        self.outbox.configure(Rules::of(channel));
    }

    /// An adapter is ready.
    pub fn ready(&mut self, ready: &Ready, now: Instant) {
        (self.can, self.max_len, self.seen) = (ready.can, ready.max_len, None);
        // As JSON a unit may take six bytes.
        let most = usize::try_from(MAX_IN_FLIGHT / (6 * ready.max_len.max(1))).unwrap_or(1).max(1);
        let abilities = Abilities::of(ready);
        let send_window = abilities.send_window.min(most);
        self.outbox.open(now);
        self.outbox.ready(Abilities { send_window, ..abilities }, now);
    }

    /// The adapter is gone, which may have read so many bytes of what it was given: a part behind them certainly
    /// has not arrived.
    pub fn lost(&mut self, read: u64, now: Instant) {
        (self.can, self.seen) = (Can::default(), None);
        self.outbox.close();
        for (id, receipt) in self.handed.take_unread(read) {
            self.outbox.receipt(id, &receipt, random::number(), now);
        }
        self.outbox.lost(now);
    }

    /// The platform takes no more for now.
    pub fn limited(&mut self, now: Instant) {
        self.outbox.hold_channel(now + LIMITED_PAUSE);
    }

    /// Nothing more is handed over.
    pub fn close(&mut self) {
        self.outbox.close();
    }

    pub fn unanswered(&self) -> usize {
        self.outbox.unanswered()
    }

    pub fn waiting(&self) -> usize {
        self.outbox.waiting()
    }

    /// A conversation has moved, as the platform says without being sent anything.
    pub fn follow(&mut self, from: &str, to: &str, now: Instant) {
        self.seen = None;
        self.outbox.moved(from, to, now);
    }

    /// What an adapter says of a part. False: it was not waited for.
    pub fn receipt(&mut self, hub: &Hub, receipt: &Receipt, now: Instant) -> bool {
        let id = receipt.delivery.split('.').next().and_then(Id::parse);
        let known = id.filter(|id| hub.delivery_name(*id) == receipt.delivery);
        let Some(id) = known else { return false };
        self.handed.answered(id);
        self.outbox.receipt(id, receipt, random::number(), now)
    }

    /// Looks for what is new.
    pub fn look(&mut self, context: Context<'_>, now: Instant) {
        let Context { hub, channel } = context;
        // The hub's lock is not taken for each line of an adapter.
        let changes = Some(hub.channel_changes());
        let timers = [self.typing_at, self.preview_at, Some(self.expire_at)];
        let due = timers.into_iter().flatten().any(|at| at <= now);
        if std::mem::replace(&mut self.seen, changes) == changes && !due {
            return;
        }
        for id in hub.take_to_send(&channel.name) {
            self.waiting.retain(|known| *known != id);
            if let Some(it) = self.find(context, id, now) {
                self.waiting.push(id);
                self.outbox.enqueue(id, &it.place.conversation, now);
            }
        }
        if self.expire_at <= now {
            self.expire_at = now + EXPIRE_EVERY;
            // What may arrive just now is no dead letter yet.
            let idle = self.waiting.iter().filter(|id| !self.outbox.is_at_work(**id));
            for id in idle.copied().gather() {
                self.find(context, id, now);
            }
        }
        let previews = channel.preview && self.can.has(Can::EDIT);
        let wanted = previews || self.can.has(Can::TYPING) || !self.shown.is_empty();
        self.running = if wanted { hub.running_on(&channel.name) } else { Vec::new() };
        for id in self.shown.clone() {
            // It may run again, or have a reply, which takes the place of the preview.
            let runs = self.running.iter().any(|it| it.id == id);
            if runs || !hub.is_over(id) {
                continue;
            }
            self.shown.retain(|known| *known != id);
            if hub.to_send(id).is_none() {
                self.outbox.end_preview(id, now);
            }
        }
        let types = self.can.has(Can::TYPING) && !self.running.is_empty();
        self.typing_at = types.then(|| self.typing_at.unwrap_or(now));
        let shows = previews && !self.running.is_empty();
        self.preview_at = shows.then(|| self.preview_at.unwrap_or(now));
    }

    /// What is to be sent of a message. What is not, or not any more, is left out; what is to be given up stays
    /// where the journal does not take that.
    fn find(&mut self, Context { hub, .. }: Context<'_>, id: Id, now: Instant) -> Option<ToSend> {
        let found = hub.to_send(id);
        let why = found.as_ref().and_then(|it| Some((it.attempts, it.give_up.clone()?)));
        if let Some((attempts, why)) = why {
            if hub.settle(id, attempts, Step::Dead(why)).is_err() {
                return found;
            }
        } else if found.is_some() {
            return found;
        }
        self.forget(id, now);
        None
    }

    fn forget(&mut self, id: Id, now: Instant) {
        self.waiting.retain(|known| *known != id);
        self.outbox.forget(id, now);
    }

    /// Does what is due, until nothing is left to do. `adapter`: the one that is ready.
    pub fn work(&mut self, context: Context<'_>, mut adapter: Option<&mut Adapter>, now: Instant) {
        self.show(context, adapter.as_deref_mut(), now);
        self.outbox.tick(now);
        loop {
            let (mut written, mut number, mut some) = (Vec::new(), None, false);
            while let Some(action) = self.outbox.next_action() {
                some = true;
                match action {
                    Action::Load(id) => self.load(context, id, now),
                    Action::Write { id, n, step, durable } => {
                        match self.write(context, (id, n), step) {
                            Ok(record) => {
                                written.push(id);
                                number = if durable { Some(record) } else { number };
                            }
                            // It was taken back, or is not what it was.
                            Err(Refusal::TooLate | Refusal::Unknown) => self.forget(id, now),
                            Err(_) => self.outbox.unwritten(id, now),
                        }
                    }
                    Action::Send(send) => {
                        let line = self.line(&send, &context.hub.delivery_name(send.id));
                        if let Some(adapter) = adapter.as_deref_mut() {
                            adapter.send(&line);
                            self.handed.add(send.id, send.part, adapter.given());
                        }
                    }
                    Action::Delete { id, conversation, message } => {
                        let name = context.hub.delivery_name(id);
                        let line = wire::delete(&name, &conversation, &message);
                        adapter.iter_mut().for_each(|adapter| adapter.send(&line));
                    }
                    Action::Moved { from, to } => {
                        let kept =
                            context.hub.keep_fact(&context.channel.name, Fact::Moved, &from, &to);
                        (self.moved, self.seen) = (self.moved | kept.is_ok(), None);
                    }
                }
            }
            if !some {
                break;
            }
            let durable = number.map_or(Ok(()), |number| context.hub.sync(number));
            for id in written {
                match durable {
                    Ok(()) => self.outbox.written(id, now),
                    Err(_) => self.outbox.unwritten(id, now),
                }
            }
        }
    }

    fn load(&mut self, context: Context<'_>, id: Id, now: Instant) {
        let Some(it) = self.find(context, id, now) else { return };
        if it.give_up.is_some() {
            return self.outbox.put_off(id, now + DISK_RETRY_DELAY, now);
        }
        let text = match context.hub.text_to_send(id) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let why = format!("the reply cannot be read back: {e}");
                let _ = context.hub.settle(id, it.attempts, Step::Dead(why));
                return self.forget(id, now);
            }
            Err(e) => {
                let (name, pause) = (&context.channel.name, READ_AGAIN);
                log::error!(
                    "the reply of message {id} for channel {name} cannot be read; trying again in {} s: {e}",
                    pause.as_secs()
                );
                return self.outbox.put_off(id, now + pause, now);
            }
        };
        let delivery = Delivery {
            id,
            thread: it.place.thread,
            reply_to: it.reply_to,
            prompt: it.prompt,
            markdown: it.markdown,
            attempts: it.attempts,
            text,
            cuts: it.parts.cuts,
            sent: it.parts.sent.len(),
            open: it.parts.open,
            preview: it.parts.preview,
        };
        self.outbox.load(delivery, now);
    }

    /// Writes a record down. Returns its number.
    fn write(
        &mut self,
        Context { hub, channel }: Context<'_>,
        (id, n): (Id, u32),
        step: Step,
    ) -> Result<u64, Refusal> {
        match step {
            Step::Part(part) => {
                // A preview has an id by now.
                self.seen = None;
                let running = self.running.iter().find(|it| it.id == id && n == 0);
                hub.write_part(id, running.map_or(n, |it| it.attempt), *part)
            }
            step => {
                if let Step::Deferred(why) = &step {
                    log::info!(
                        "channel {} did not take the reply of message {id} (attempt {n}); trying \
                         again until it expires: {why}",
                        channel.name
                    );
                }
                let over = !matches!(step, Step::Deferred(_));
                let number = hub.settle(id, n, step)?;
                self.waiting.retain(|known| !over || *known != id);
                Ok(number)
            }
        }
    }

    /// The line that hands a part over, of the delivery of this name.
    fn line(&self, send: &Send, delivery: &str) -> String {
        let asks = send.prompt.is_some() && self.can.has(Can::BUTTONS);
        wire::send(&wire::Send {
            delivery,
            attempt: send.attempt,
            part: send.part,
            parts: send.parts,
            conversation: &send.conversation,
            thread: send.thread.as_deref(),
            reply_to: send.reply_to.as_deref(),
            text: &send.text,
            markdown: send.markdown,
            buttons: if asks { &BUTTONS } else { &[] },
            prompt: send.prompt.as_deref(),
            replaces: send.replaces.as_deref(),
            last: send.last,
        })
    }

    /// When [`Outbound::work`] has something to do.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let expire = (!self.waiting.is_empty()).then_some(self.expire_at);
        let shown = [self.typing_at, self.preview_at, expire].into_iter().flatten();
        shown.chain(self.outbox.next_wake(now)).min()
    }
}
