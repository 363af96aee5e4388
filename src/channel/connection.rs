//! One adapter from its start to its end.

mod news;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::access::shown;
use super::adapter::{Adapter, Heard};
use super::files::FilesDir;
use super::inbound;
use super::link::{Action, Event, Link};
use super::outbound;
use super::shared::UP;
use super::wire::{self, Offer, Ready};
use super::worker::Worker;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::limits::{MAX_CHANNEL_TEXT, MAX_SHOWN_VALUE};
use crate::sys::fs::private_dir;
use crate::sys::poll::{Interest, wait_any};
use crate::sys::process::Status;

/// How long, once no turn runs, a drain or pause waits for replies to be sent, and how long where it is to
/// end at once.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_ABORTED: Duration = Duration::from_millis(500);

/// A deadline that is looked at again when it is there.
const LONG: Duration = Duration::from_secs(3600);

/// How often it is read, at most, before it is said to have been silent.
const READS_BEFORE_TIMER: usize = 4;

/// Faults of one adapter that are said, and as much of its news.
const MAX_COMPLAINTS: usize = 20;

/// How an adapter has ended.
pub(super) enum End {
    /// It was to end.
    Asked(String),
    /// It says that it can never work like this.
    Never(String),
    Failed(String),
}

pub(super) struct Connection<'a> {
    worker: &'a mut Worker,
    adapter: Adapter,
    link: Link,
    files: FilesDir,
    /// Of the cursor that it was told.
    cursor_account: Option<String>,
    complaints: usize,
    /// Items that were rejected for what may be a stranger's doing: he uses up nothing else.
    foreign: usize,
    told: usize,
    ready_at: Option<Instant>,
    /// Why it is ended, where it is at fault.
    fault: Option<String>,
    /// Since when no turn runs, in a drain or pause.
    quiet_since: Option<Instant>,
    /// It is ended for another reason.
    asked: bool,
    /// It waits until then for receipts, before it is ended for that.
    ends_at: Option<Instant>,
}

impl Connection<'_> {
    /// Starts an adapter, and works with it to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(worker: &mut Worker) -> io::Result<End> {
        let state = worker.dir.join("state");
        private_dir(&state)?;
        let files = worker.dir.join("files");
        let files_dir = FilesDir::open(files.clone())?;
        let adapter = Adapter::start(&worker.channel, &worker.children)?;
        let name = worker.shared.name.clone();
        log::info!("channel {name}: its adapter is started (pid {})", adapter.pid());
        let cursor = worker.hub.cursor_of(&name);
        let mut connection = Connection {
            worker,
            adapter,
            link: Link::begin(Instant::now()),
            files: files_dir,
            cursor_account: cursor.as_ref().map(|(account, _)| account.clone()),
            complaints: 0,
            foreign: 0,
            told: 0,
            ready_at: None,
            fault: None,
            quiet_since: None,
            asked: false,
            ends_at: None,
        };
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        connection.adapter.send(&wire::hello(&wire::Hello {
            channel: &name,
            state_dir: &text(&state),
            files_dir: &text(&files),
            cursor: cursor.as_ref().map(|(account, cursor)| (&**account, &**cursor)),
            max_text: MAX_CHANNEL_TEXT,
        }));
        connection.inbound(|inbound, context| inbound.refresh(context));
        let attended = connection.attend();
        Ok(connection.conclude(attended))
    }

    /// Does something with the inbound half.
    fn inbound<T>(
        &mut self,
        work: impl FnOnce(&mut inbound::Inbound, inbound::Context<'_>) -> T,
    ) -> T {
        let Worker { hub, settings, channel, shared, inbound, .. } = &mut *self.worker;
        let context = inbound::Context { hub, settings, channel, shared, files: &self.files };
        work(inbound, context)
    }

    /// Attends to it until it has ended, or has to be killed.
    fn attend(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            // What it has said in time may have waited for the disk.
            let late = self.link.timer().is_some_and(|at| at <= now);
            for _ in 0..if late { READS_BEFORE_TIMER } else { 0 } {
                if self.hear(now)? {
                    return Ok(());
                }
            }
            let Some(until) = self.step(now) else { return Ok(()) };
            if self.hear(until)? {
                return Ok(());
            }
            let fault = self.adapter.fault();
            fault.into_iter().for_each(|why| self.fail(why));
            if self.adapter.is_ending() {
                self.link.step(now, Event::Close);
                self.worker.outbound.close();
            }
        }
    }

    /// Waits until then for what it says. Whether it has ended.
    fn hear(&mut self, until: Instant) -> io::Result<bool> {
        let heard = self.adapter.wait(&self.worker.shared.wake, until)?;
        while let Some(line) = self.adapter.next_line() {
            self.line(&line);
        }
        Ok(heard == Heard::Ended)
    }

    fn line(&mut self, line: &[u8]) {
        let read = str::from_utf8(line).map_err(|_| "a line is not UTF-8".to_owned());
        let read = read.and_then(wire::parse).map_err(|why| {
            let line = String::from_utf8_lossy(&line[..line.len().min(4 * MAX_SHOWN_VALUE)]);
            format!("{why}: {}", shown(&line))
        });
        let actions = self.link.step(Instant::now(), Event::Line(read));
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Write(line) => self.adapter.send(&line),
                Action::Ready(ready) => self.ready(&ready),
                // By other lists than those that hold now: the next adapter offers it again.
                Action::Offer { serial, .. } if self.ends_at.is_some() => {
                    self.worker.inbound.put_off(serial);
                }
                Action::Offer { serial, offer } => {
                    if let Offer::Moved { from, to } = &offer {
                        self.worker.outbound.follow(from, to, Instant::now());
                    }
                    self.inbound(|inbound, context| inbound.offer(context, serial, offer));
                }
                Action::Receipt(receipt) => {
                    let Worker { hub, outbound, .. } = &mut *self.worker;
                    if !outbound.receipt(hub, &receipt, Instant::now()) {
                        let (delivery, part) = (shown(&receipt.delivery), receipt.part);
                        self.complain(&format!("nothing is known of part {part} of {delivery}"));
                    }
                }
                Action::News(news) => self.news(news),
                Action::Rejected(item) => {
                    item.files.iter().for_each(|path| self.files.remove(path));
                    let count = if item.foreign { &mut self.foreign } else { &mut self.complaints };
                    *count += 1;
                    let count = *count;
                    self.warn(count, &item.why);
                }
                Action::Complain(why) => self.complain(&why),
                Action::Fault(why) => self.fail(why),
            }
        }
    }

    fn ready(&mut self, ready: &Ready) {
        let (name, account) = (self.worker.shared.name.clone(), &ready.account);
        log::info!("channel {name} is ready (account {})", shown(account));
        if let Some(before) = self.cursor_account.take().filter(|before| before != account) {
            log::warn!(
                "channel {name}: the account is {} and was {}: what was read of that does not count",
                shown(account),
                shown(&before)
            );
        }
        let now = *self.ready_at.insert(Instant::now());
        self.worker.inbound.begin(account);
        self.worker.outbound.ready(ready, now);
        self.worker.shared.set(UP, "");
        self.worker.shared.lock().status.account.clone_from(account);
    }

    /// Says what an adapter does wrong, the first times.
    fn complain(&mut self, what: &str) {
        self.complaints += 1;
        self.warn(self.complaints, what);
    }

    /// Says what an adapter tells, the first times.
    fn tell(&mut self, what: &str) {
        self.told += 1;
        self.warn(self.told, what);
    }

    fn warn(&self, count: usize, what: &str) {
        let more = match count {
            ..MAX_COMPLAINTS => "",
            MAX_COMPLAINTS => "; more of it is not logged",
            _ => return,
        };
        log::warn!("channel {}: {}{more}", self.worker.shared.name, escaped(what, false));
    }

    /// Ends it since it cannot be used.
    fn fail(&mut self, why: String) {
        if self.fault.is_none() && !self.asked {
            log::warn!(
                "channel {}: its adapter is ended: {}",
                self.worker.shared.name,
                escaped(&why, false)
            );
            self.fault = Some(why);
        }
        self.end();
    }

    fn end(&mut self) {
        self.link.step(Instant::now(), Event::Close);
        self.worker.outbound.close();
        self.adapter.end();
    }

    /// Does what is due, and says when the next thing is; `None`: it is to be killed.
    fn step(&mut self, now: Instant) -> Option<Instant> {
        if self.worker.follow() || self.worker.shared.lock().stop {
            self.asked = true;
            self.ends_at.get_or_insert(now + LINGER);
        }
        if self.ends_at.is_some() {
            self.worker.outbound.close();
        }
        // Before it is looked for new replies, with which turns end.
        let works = self.worker.hub.work() > 0;
        let actions = self.link.step(now, Event::Timer);
        self.act(actions);
        self.inbound(|inbound, context| {
            inbound.flush_due(context, now);
            inbound.keep_cursor(context, now);
        });
        self.answer(now);
        self.send(now);
        let end = self.check_end(works, now);
        let process = self.adapter.step(now).ok()?;
        let Worker { inbound, outbound, .. } = &*self.worker;
        let waits = [end, process, self.link.timer(), inbound.next_wake(), outbound.next_wake(now)];
        Some(waits.into_iter().flatten().min().unwrap_or(now + LONG))
    }

    /// Gives the answers that were found.
    fn answer(&mut self, now: Instant) {
        for (serial, answer) in self.worker.inbound.take_answers() {
            let actions = self.link.step(now, Event::Answer { serial, answer });
            self.act(actions);
        }
    }

    /// Hands over what is to be sent.
    fn send(&mut self, now: Instant) {
        let Worker { hub, channel, outbound, shared, .. } = &mut *self.worker;
        let context = outbound::Context { hub, channel };
        outbound.look(context, now);
        outbound.work(context, Some(&mut self.adapter), now);
        let unanswered = outbound.unanswered();
        {
            let mut state = shared.lock();
            state.status.unacknowledged = self.link.unanswered();
            state.status.waiting = outbound.waiting();
        }
        if std::mem::take(&mut outbound.moved) {
            self.inbound(|inbound, context| inbound.refresh(context));
        }
        let actions = self.link.step(now, Event::Unanswered(unanswered));
        self.act(actions);
    }

    /// Where it is to end, or in a drain or a pause, ends it once nothing more is to be sent; says when to
    /// look again.
    fn check_end(&mut self, works: bool, now: Instant) -> Option<Instant> {
        if let Some(at) = self.ends_at.filter(|_| !self.adapter.is_ending()) {
            if at <= now || self.worker.outbound.unanswered() == 0 {
                self.end();
            }
            return Some(at);
        }
        let hub = &self.worker.hub;
        let ends = hub.is_draining() || hub.is_paused();
        if !ends || works || self.adapter.is_ending() {
            self.quiet_since = None;
            return None;
        }
        let since = *self.quiet_since.get_or_insert(now);
        let aborted = wait_any([Interest::read(hub.abort.as_fd())], Some(Duration::ZERO));
        let aborted = aborted.is_ok_and(|[aborted]| aborted);
        let until = since + if aborted { LINGER_ABORTED } else { LINGER };
        let notified = self.worker.settings.config.stop.notify == self.worker.shared.name;
        let told = notified && hub.is_draining();
        let idle = self.worker.outbound.waiting() == 0 && self.worker.outbound.unanswered() == 0;
        if until <= now || (idle && !told) {
            self.asked = true;
            self.end();
        }
        Some(until)
    }

    /// What it has left open is the next one's.
    fn conclude(mut self, attended: io::Result<()>) -> End {
        self.inbound(|inbound, context| {
            inbound.flush_all(context);
            inbound.keep_cursor(context, Instant::now() + LONG);
        });
        let now = Instant::now();
        self.link.step(now, Event::Ended);
        let (status, mut how, read) = self.adapter.finish();
        let Worker { hub, channel, outbound, shared, .. } = &mut *self.worker;
        outbound.lost(read, now);
        outbound.work(outbound::Context { hub, channel }, None, now);
        shared.lock().status.unacknowledged = 0;
        let good_for = self.ready_at.map_or(Duration::ZERO, |at| at.elapsed());
        self.worker.deaths.survived(good_for);
        if let Err(e) = attended {
            how = format!("an error of the system: {e}");
        }
        if let Some(fault) = self.fault {
            return End::Failed(format!("{}; {how}", shown(&fault)));
        }
        match status {
            _ if self.asked => End::Asked(how),
            Ok(Status::Exited(code)) if code == i32::from(Exit::Config.code()) => End::Never(how),
            Ok(_) | Err(_) => End::Failed(how),
        }
    }
}
