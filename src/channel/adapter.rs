//! An adapter's process: started as agents are, written to and read without being waited for, and ended step
//! by step.

use std::borrow::Cow;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::config;
use crate::escape::escaped;
use crate::limits::{AGENT_READ, MAX_CHANNEL_LINE, MAX_LAST_READS};
use crate::subprocess::{
    Child, ChildKind, Children, LineBuffer, LivingEvent, Program, RunOptions, StderrTail,
    environment,
};
use crate::sys::fd::{self, EventFd};
use crate::sys::process::{Status, own_image};

/// How long it may take for what it has not read yet, then to end after its stdin has, and then after SIGTERM.
const END_GRACE: Duration = Duration::from_secs(1);

/// For a deadline that never comes: a week is longer than any wait here.
const NEVER: Duration = Duration::from_secs(7 * 86400);

/// Bytes that wait for it to read, from which on it is given no more to send: a few long parts.
const ROOM: usize = 64 << 10;

/// Bytes that it does not read, with which it is ended: answers are some 80 bytes each.
const MAX_OUTBOX: usize = 4 * MAX_CHANNEL_LINE;

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Bytes of its stdout.
    Read,
    /// Nothing: it is to be looked at what is due.
    Nothing,
    /// It has ended, and all that it had printed was read.
    Ended,
}

/// How far its end has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Running,
    /// It reads what waits for it; then its stdin is closed.
    Flushing(Instant),
    /// Its stdin is closed; then it is sent SIGTERM.
    Closed(Instant),
    /// Then it is killed.
    Terminated(Instant),
}

/// A running adapter. Dropping it kills it.
pub struct Adapter {
    child: Child<'static>,
    channel: String,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    last_reads: usize,
    /// What its stdin has not taken yet.
    outbox: Vec<u8>,
    /// Bytes that it was given, and those of them that its stdin has taken.
    given: u64,
    taken: u64,
    lines: LineBuffer,
    stderr: StderrTail,
    stage: Stage,
}

impl Adapter {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(config: &config::Channel, children: &Arc<Children>) -> io::Result<Adapter> {
        let mut variables = environment(&config.env, &config.pass_env);
        variables.push(("HERMES_CHANNEL".into(), (&config.name).into()));
        let options = RunOptions {
            kind: ChildKind::Tree(config.leftovers),
            input: Some(Cow::Borrowed(b"")),
            cancel: Cancel::at(Instant::now() + NEVER),
            grace: Duration::ZERO,
        };
        let words = config.adapter();
        let program = if config.telegram {
            // This very program, whatever is in its file now.
            let own = Program::with_environment("hermes-gateway".into(), variables).args(words);
            own.opened(Arc::new(own_image()?))
        } else {
            Program::configured(&words, variables)?
        };
        let mut child = children.spawn(&program, options)?;
        let (stdin, stdout) = (child.take_stdin(), child.take_stdout());
        Ok(Adapter {
            child,
            channel: config.name.clone(),
            stdin,
            stdout,
            last_reads: 0,
            outbox: Vec::new(),
            given: 0,
            taken: 0,
            lines: LineBuffer::default(),
            stderr: StderrTail::default(),
            stage: Stage::Running,
        })
    }

    pub fn pid(&self) -> i32 {
        self.child.pid().get()
    }

    /// Gives it a line.
    pub fn send(&mut self, line: &str) {
        self.write(&[line.as_bytes(), b"\n"].concat());
    }

    /// Gives it bytes. What its pipe does not take at once is written later.
    pub fn write(&mut self, bytes: &[u8]) {
        self.given += bytes.len() as u64;
        if self.stdin.is_none() {
            return;
        }
        let waits = !self.outbox.is_empty();
        self.outbox.extend_from_slice(bytes);
        if !waits {
            self.flush();
        }
    }

    /// Bytes that it was given so far.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Whether it reads what it is sent, and is to have more.
    pub fn has_room(&self) -> bool {
        self.stdin.is_some() && self.outbox.len() < ROOM
    }

    /// Waits for what it does next, or for `wake`, until `until` at most.
    ///
    /// # Errors
    /// What keeps it from being attended to.
    pub fn wait(&mut self, wake: &EventFd, until: Instant) -> io::Result<Heard> {
        let mut buffer = [0; AGENT_READ];
        let stdin = self.stdin.as_ref().filter(|_| !self.outbox.is_empty());
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        let also = (wake.as_fd(), stdout, stdin.map(AsFd::as_fd));
        match self.child.next_of_living(&mut buffer, also, until)? {
            LivingEvent::Readable if self.read(&mut buffer) => return Ok(Heard::Read),
            LivingEvent::Readable => {}
            LivingEvent::Stderr(count) => self.log(&buffer[..count]),
            LivingEvent::Woken => drop(wake.clear()),
            LivingEvent::Writable => self.flush(),
            LivingEvent::TimedOut => {}
            // What it has left behind may print without end.
            LivingEvent::Ended if self.last_reads < MAX_LAST_READS && self.read(&mut buffer) => {
                self.last_reads += 1;
                return Ok(Heard::Read);
            }
            LivingEvent::Ended => return Ok(Heard::Ended),
        }
        Ok(Heard::Nothing)
    }

    /// Reads once; says whether there was anything.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        let Some(mut stdout) = self.stdout.as_ref() else { return false };
        match stdout.read(buffer) {
            Ok(count @ 1..) => {
                self.lines.push(&buffer[..count]);
                return true;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // Without it nothing can come.
            Ok(0) | Err(_) => {
                self.stdout = None;
                self.end();
            }
        }
        false
    }

    /// The next line that it has printed.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        self.lines.next_line().map(<[u8]>::to_vec)
    }

    /// Why it cannot be gone on with, whatever it says: once no line is left.
    pub fn fault(&mut self) -> Option<String> {
        if self.lines.rest().len() > MAX_CHANNEL_LINE {
            let beginning = String::from_utf8_lossy(&self.lines.rest()[..80]).into_owned();
            self.lines = LineBuffer::default();
            return Some(format!("a line is longer than {MAX_CHANNEL_LINE} bytes: {beginning}"));
        }
        let unread = "it does not read what it is sent";
        (self.outbox.len() > MAX_OUTBOX).then(|| unread.to_owned())
    }

    fn flush(&mut self) {
        let Some(mut stdin) = self.stdin.as_ref() else { return };
        match stdin.write(&self.outbox) {
            Ok(count) => {
                self.outbox.drain(..count);
                self.taken += count as u64;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // Nobody reads it any more.
            Err(_) => self.outbox.clear(),
        }
        if self.outbox.is_empty() {
            // A part may have been long.
            self.outbox = Vec::new();
        }
    }

    /// Begins its end: it reads what waits for it, and then the end of its stdin.
    pub fn end(&mut self) {
        if let Stage::Running = self.stage {
            self.stage = Stage::Flushing(Instant::now() + END_GRACE);
        }
    }

    pub fn is_ending(&self) -> bool {
        !matches!(self.stage, Stage::Running)
    }

    /// Goes on with its end. When the next step is; `None` where there is none. `Err`: it is to be killed.
    pub fn step(&mut self, now: Instant) -> Result<Option<Instant>, ()> {
        let next = now + END_GRACE;
        match self.stage {
            Stage::Running => return Ok(None),
            // One without stdout is dead, as a rule: what it has not read can be told once it is reaped.
            Stage::Flushing(at) if at <= now || self.outbox.is_empty() && self.stdout.is_some() => {
                self.child.note_descendants();
                self.close();
                self.stage = Stage::Closed(next);
            }
            Stage::Closed(at) if at <= now => {
                self.child.terminate();
                self.stage = Stage::Terminated(next);
            }
            Stage::Terminated(at) if at <= now => return Err(()),
            Stage::Flushing(at) | Stage::Closed(at) | Stage::Terminated(at) => return Ok(Some(at)),
        }
        Ok(Some(next))
    }

    /// Closes its stdin. What is in that of one that is dead was not taken.
    fn close(&mut self) {
        let unread = self.stdin.take().map_or(0, |stdin| fd::unread(stdin.as_fd()));
        self.taken = self.taken.saturating_sub(unread as u64);
    }

    fn log(&mut self, bytes: &[u8]) {
        let name = &self.channel;
        self.stderr.push(bytes, &mut |line| log_line(name, line));
    }

    /// Kills what is left of it, and reaps it. How it ended, with its last words, and how many of the bytes that
    /// it was given may have been read.
    pub fn finish(mut self) -> (io::Result<Status>, String, u64) {
        let status = self.child.kill();
        self.close();
        let name = &self.channel;
        self.stderr.finish(&mut |line| log_line(name, line));
        let how = match &status {
            Ok(Status::Exited(code)) => format!("exit status {code}"),
            Ok(Status::Signalled(signal)) => format!("signal {signal}"),
            Err(e) => format!("an error of the system: {e}"),
        };
        let tail = self.stderr.tail();
        let colon = if tail.is_empty() { "" } else { ": " };
        (status, escaped(&format!("{how}{colon}{tail}"), false), self.taken)
    }
}

fn log_line(channel: &str, line: &str) {
    log::info!("channel {channel}: {}", escaped(line, false));
}
