//! The adapter's process: reads what the gateway says, makes calls and prints lines, as `start`, `receive` and
//! `send` decide. It waits for the gateway, for calls that are done, and for what is due, and for nothing else.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::call::Call;
use super::client::Client;
use super::jobs::{Done, For, Job, Jobs};
use super::lines::{self, FromGateway, Hello};
use super::receive::{self, Me, Receiver};
use super::send::{self, Sender};
use super::start::{self, Start};
use super::token::Token;
use crate::config::Url;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::json::object;
use crate::limits::{AGENT_READ, MAX_CHANNEL_LINE};
use crate::subprocess::{Children, LineBuffer};
use crate::sys::fd::{EventFd, STDERR, STDIN, STDOUT, write_all};
use crate::sys::fs::{read_own, replace_unsynced};
use crate::sys::poll::{Interest, wait_any};
use crate::sys::{clock::rfc3339, gather::Gather, memory::release_pages};

/// What is under way may take so long once the gateway has closed its end, which waits for a second.
const END_WITHIN: Duration = Duration::from_millis(900);

/// How long Telegram keeps updates.
const KEPT_THERE: Duration = Duration::from_secs(24 * 3600);

/// How often it is written down that it was polled, which is also looked at then.
const POLLED_EVERY: Duration = Duration::from_secs(600);

/// Without anything to do for so long it gives memory back that it has used.
const QUIET: Duration = Duration::from_secs(1);

/// For a wait that something else ends.
const LONG: Duration = Duration::from_secs(3600);

/// How the adapter is called.
pub struct Options {
    pub token_file: PathBuf,
    pub api_url: Url,
    /// There are groups in which it is to answer.
    pub groups: bool,
    /// What Telegram offers in its menu, without `/`, and what each does.
    pub commands: Vec<(&'static str, &'static str)>,
}

struct Adapter {
    options: Options,
    client: Arc<Client>,
    jobs: Jobs,
    /// What the gateway has begun with.
    hello: Option<Hello>,
    start: Start,
    /// Held until the end.
    lock: Option<UnixListener>,
    /// Once the bot is known.
    serving: Option<(Receiver, Sender)>,
    account: String,
    /// How it stands with receiving, as the gateway was told last.
    stands: Value,
    /// Why it does not work yet, as the operator was told last.
    told: String,
    /// When it was written down last that it was polled.
    polled: Option<Instant>,
    /// By when it ends, and how.
    ending: Option<(Instant, Exit)>,
}

/// Runs until the gateway has closed its end, or it cannot go on.
///
/// # Errors
/// The system has no descriptor to wait with.
pub fn run(options: Options, children: Arc<Children>) -> io::Result<Exit> {
    let token = match Token::read(&options.token_file) {
        Ok(token) => token,
        Err(why) => {
            say(&why);
            print(&lines::status("unauthorized", &why))?;
            return Ok(Exit::Config);
        }
    };
    let (url, end, kept) = (options.api_url.clone(), EventFd::new()?, Default::default());
    let client = Arc::new(Client { url, token, children, end, kept });
    let jobs = Jobs::new(Arc::clone(&client))?;
    let adapter = Adapter {
        options,
        client,
        jobs,
        hello: None,
        start: Start::new(Instant::now()),
        lock: None,
        serving: None,
        account: String::new(),
        stands: lines::status("up", ""),
        told: String::new(),
        polled: None,
        ending: None,
    };
    adapter.attend()
}

impl Adapter {
    fn attend(mut self) -> io::Result<Exit> {
        let mut stdin = File::from(STDIN.try_clone_to_owned()?);
        let (mut lines, mut buffer) = (LineBuffer::default(), [0; AGENT_READ]);
        let mut quiet_at = None;
        loop {
            let now = Instant::now();
            self.due(now);
            if let Some((by, exit)) = self.ending
                && (by <= now || self.jobs.running() == 0)
            {
                return Ok(exit);
            }
            let until = self.timer().into_iter().chain(quiet_at).min().unwrap_or(now + LONG);
            let input = Some(STDIN).filter(|_| self.ending.is_none());
            let wake = Interest::read(self.jobs.wake().as_fd());
            let left = until.saturating_duration_since(Instant::now());
            let [readable, done] = wait_any([Interest::read(input), wake], Some(left))?;
            if !readable && !done && quiet_at.is_some_and(|at| at <= Instant::now()) {
                quiet_at = None;
                self.client.close_idle();
                release_pages();
                continue;
            }
            for done in self.jobs.take() {
                self.done(done);
            }
            if readable {
                match stdin.read(&mut buffer) {
                    Ok(count @ 1..) => lines.push(&buffer[..count]),
                    Ok(0) | Err(_) => self.end(Exit::Planned),
                }
                while let Some(line) = lines.next_line() {
                    match lines::parse(line) {
                        Ok(line) => self.heard(line),
                        Err(why) => say(&format!("a line of the gateway is ignored: {why}")),
                    }
                }
                if lines.rest().len() > MAX_CHANNEL_LINE {
                    say("a line of the gateway is too long");
                    self.end(Exit::TryLater);
                }
            }
            if readable || done {
                quiet_at = Some(Instant::now() + QUIET);
            }
        }
    }

    /// When something is due.
    fn timer(&self) -> Option<Instant> {
        let start = self.hello.as_ref().and_then(|_| self.start.timer());
        let serving = self.serving.as_ref().filter(|_| self.ending.is_none());
        let (receiver, sender) = serving.map(|(one, other)| (one.timer(), other.timer())).unzip();
        let end = self.ending.map(|(at, _)| at);
        [start.filter(|_| end.is_none()), receiver.flatten(), sender.flatten(), end]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    fn due(&mut self, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        if self.hello.is_some()
            && let Some(action) = self.start.due(now)
        {
            self.begin(action);
        }
        let Some((receiver, sender)) = &self.serving else { return };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (receiver, sender) = (is_due(receiver.timer()), is_due(sender.timer()));
        if receiver {
            self.receive(receive::Event::Timer);
        }
        if sender {
            self.send(send::Event::Timer);
        }
    }

    fn heard(&mut self, line: FromGateway) {
        match line {
            FromGateway::Hello(hello) => {
                self.jobs.files = PathBuf::from(&hello.files_dir);
                self.hello = Some(hello);
            }
            FromGateway::Ack { n, served, .. } => self.receive(receive::Event::Ack { n, served }),
            FromGateway::Refuse { n, retry_after, why } => {
                self.receive(receive::Event::Refuse { n, retry_after, why });
            }
            line @ (FromGateway::Send(_)
            | FromGateway::Delete { .. }
            | FromGateway::Typing { .. }) => self.send(send::Event::Line(line)),
            FromGateway::Ping => self.print(&lines::pong()),
            FromGateway::Other => {}
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Called(For::Start, outcome) => {
                let action = self.start.answered(outcome, Instant::now());
                self.begin(action);
            }
            Done::Called(For::Poll, outcome) => {
                if outcome.is_ok() {
                    self.note_poll();
                }
                self.receive(receive::Event::Updates(outcome));
            }
            Done::Called(For::Send(ticket), outcome) => {
                self.send(send::Event::Answer { ticket, outcome });
            }
            Done::Fetched(ticket, result) => {
                self.receive(receive::Event::Fetched { ticket, result });
            }
        }
    }

    fn begin(&mut self, action: start::Action) {
        match action {
            start::Action::Lock => {
                let locked = self.client.token.lock().map(|lock| self.lock = Some(lock));
                let locked = locked.map_err(|e| match e.kind() {
                    io::ErrorKind::AddrInUse => "another process here works for this bot: two \
                        channels, or two gateways, need a bot each"
                        .to_owned(),
                    _ => format!("the lock on this bot: {e}"),
                });
                let action = self.start.locked(locked, Instant::now());
                action.into_iter().for_each(|action| self.begin(action));
            }
            start::Action::Call(call) => self.jobs.add(Job::Call(For::Start, call)),
            start::Action::Status(state, why) => self.tell(state, why),
            start::Action::Never(why) => {
                self.tell("unauthorized", why);
                self.end(Exit::Config);
            }
            start::Action::Begin(me) => self.serve(me),
        }
    }

    /// Begins to serve as this bot.
    fn serve(&mut self, me: Me) {
        let Some(hello) = &self.hello else { return };
        let (max_text, now) = (hello.max_text, Instant::now());
        self.account = me.id.to_string();
        self.print(&lines::ready(me.id));
        if self.options.groups && !me.reads_all {
            say(&format!(
                "@{} is in privacy mode: in groups only commands and replies that are meant for it arrive. For \
                 mentions, too, make it an administrator there, or turn the mode off (BotFather, /setprivacy) \
                 and add it to the group again",
                me.username
            ));
        }
        let command = |(name, what): &(&str, &str)| object!("command": *name, "description": *what);
        let commands: Vec<Value> = self.options.commands.iter().map(command).gather();
        let parameters = object!("commands": commands);
        let call = Call { method: send::MENU, parameters, files: Vec::new() };
        let mut receiver = Receiver::new(me, max_text);
        let actions = receiver.begin(now);
        self.serving = Some((receiver, Sender::default()));
        self.carry_out(actions);
        self.send(send::Event::Call(call));
    }

    fn receive(&mut self, event: receive::Event) {
        if let Some((receiver, _)) = &mut self.serving
            && self.ending.is_none()
        {
            let actions = receiver.step(event, Instant::now());
            self.carry_out(actions);
        }
    }

    fn carry_out(&mut self, actions: Vec<receive::Action>) {
        for action in actions {
            match action {
                receive::Action::Poll(call) => self.jobs.add(Job::Call(For::Poll, call)),
                receive::Action::Fetch { ticket, wanted } => {
                    self.jobs.add(Job::Fetch(ticket, wanted));
                }
                receive::Action::Call(call) => self.send(send::Event::Call(call)),
                receive::Action::Line(line) => {
                    if line["op"] == "status" {
                        self.stands.clone_from(&line);
                    }
                    self.print(&line);
                }
                receive::Action::Say(words) => say(&words),
                receive::Action::Exit(status) => self.end(exit_of(status)),
            }
        }
    }

    /// Also while it ends: what comes of a part is still told.
    fn send(&mut self, event: send::Event) {
        let Some((_, sender)) = &mut self.serving else { return };
        for action in sender.step(event, Instant::now()) {
            match action {
                send::Action::Call { ticket, call } => {
                    self.jobs.add(Job::Call(For::Send(ticket), call));
                }
                // What is no limit any more may still be no connection.
                send::Action::Line(line) if line["state"] == "up" => {
                    self.print(&self.stands.clone());
                }
                send::Action::Line(line) => self.print(&line),
                send::Action::Say(words) => say(&words),
                send::Action::Exit(status) => self.end(exit_of(status)),
            }
        }
    }

    /// Begins the end: what is under way is waited for, and nothing new is begun.
    fn end(&mut self, exit: Exit) {
        if self.ending.is_none() {
            self.ending = Some((Instant::now() + END_WITHIN, exit));
            self.send(send::Event::End);
            self.jobs.close();
        }
    }

    /// Prints a line for the gateway. Without one it ends.
    fn print(&mut self, line: &Value) {
        if print(line).is_err() {
            self.end(Exit::Planned);
        }
    }

    /// Tells how it stands with Telegram: the gateway each time, since one that says nothing is taken for dead.
    fn tell(&mut self, state: &str, why: String) {
        self.print(&lines::status(state, &why));
        if self.told != why {
            say(&why);
            self.told = why;
        }
    }

    /// The file that tells when Telegram was asked last.
    fn marker(&self) -> Option<PathBuf> {
        self.hello.as_ref().map(|hello| Path::new(&hello.state_dir).join("polled"))
    }

    /// Telegram has answered a poll; what it has forgotten before is told.
    fn note_poll(&mut self) {
        if self.polled.is_none_or(|at| at.elapsed() >= POLLED_EVERY)
            && let Some(path) = self.marker()
        {
            self.polled = Some(Instant::now());
            if let Some(since) = gap(&path, &self.account) {
                let why = "nobody asked Telegram since then, and it keeps updates for 24 hours";
                self.print(&lines::gap(&since, why));
            }
            if let Err(e) = replace_unsynced(&path, self.account.as_bytes(), 0o600) {
                say(&format!("{} cannot be written: {e}", path.display()));
            }
        }
    }
}

/// Since when this account was not asked for updates, where that is longer than Telegram keeps them.
fn gap(marker: &Path, account: &str) -> Option<String> {
    read_own(marker, 64).ok().filter(|text| text == account)?;
    let at = fs::metadata(marker).and_then(|meta| meta.modified()).ok()?;
    SystemTime::now().duration_since(at).ok().filter(|age| *age > KEPT_THERE)?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(rfc3339(u64::try_from(since.as_millis()).ok()?))
}

fn print(line: &Value) -> io::Result<()> {
    write_all(STDOUT, format!("{line}\n").as_bytes())
}

/// A line for the operator.
fn say(words: &str) {
    let _ = write_all(STDERR, format!("{}\n", escaped(words, false)).as_bytes());
}

fn exit_of(status: u8) -> Exit {
    if status == Exit::Config.code() { Exit::Config } else { Exit::TryLater }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_telegram_has_forgotten_by_now_is_a_gap_of_the_same_account() {
        let dir = TempDir::new("gap");
        let path = dir.path().join("polled");
        assert_eq!(gap(&path, "42"), None, "a first start");
        replace_unsynced(&path, b"42", 0o600).unwrap();
        assert_eq!(gap(&path, "42"), None);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)).unwrap();
        assert_eq!(gap(&path, "42").unwrap(), "1994-11-06T08:49:37.000Z");
        assert_eq!(gap(&path, "43"), None, "another bot");
        file.set_modified(SystemTime::now() - KEPT_THERE + Duration::from_secs(60)).unwrap();
        assert_eq!(gap(&path, "42"), None);
    }
}
