//! Where log lines go: the journal's priority prefixes, plain lines with times, or syslog.
//!
//! Every line is made safe here, whatever is in it: one line, no control characters.

use std::env;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, LoggerBackend};

use crate::config::LogTarget;
use crate::escape::escaped;
use crate::limits::LOG_TIMEOUT;
use crate::sys::clock;
use crate::sys::fd::{STDERR, write_all};
use crate::sys::poll::{Interest, wait_any};
use crate::sys::process::Pid;
use crate::threads::lock;

/// The most bytes of a log line: less than PIPE_BUF (4096, pipe(7)), so that a pipe which takes a
/// line takes it whole and at once.
const MAX_LOG_LINE: usize = 4000;

/// How long a syslog daemon that went away is left alone before the next try to reach it.
const SYSLOG_RECONNECT: Duration = Duration::from_millis(100);

/// How long a syslog daemon that does not read may hold up the thread that logs.
const SYSLOG_TIMEOUT: Duration = Duration::from_millis(200);

/// How long it is left alone then; lines go to standard error meanwhile.
const SYSLOG_BACK_OFF: Duration = Duration::from_secs(5);

static LOGGER: Logger = Logger(Mutex::new(State { sink: Sink::Plain, lost: 0 }));

struct Logger(Mutex<State>);

struct State {
    sink: Sink,
    /// Lines that were lost since the last one that was written. While there are any, none is waited for.
    lost: u64,
}

enum Sink {
    /// `<N>` before each line (sd-daemon(3)).
    Journal,
    /// Time and level before each line.
    Plain,
    Syslog(Box<Syslog>),
}

struct Syslog {
    process: String,
    connection: Option<LoggerBackend>,
    /// It is left alone until then.
    again: Option<Instant>,
}

/// Starts logging, or changes where it goes. `name`: what syslog calls us.
pub fn set(level: LevelFilter, target: LogTarget, name: &str) {
    let sink = match target {
        LogTarget::Auto if stderr_is_journal() => Sink::Journal,
        LogTarget::Auto | LogTarget::Stderr => Sink::Plain,
        LogTarget::Journal => Sink::Journal,
        LogTarget::Syslog => {
            let process = name.to_owned();
            Sink::Syslog(Box::new(Syslog { process, connection: None, again: None }))
        }
    };
    lock(&LOGGER.0).sink = sink;
    // An error means that this is not the first call: no other logger is set.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Whether stderr goes to the journal: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let stderr = STDERR.try_clone_to_owned().map(File::from);
    let stream = stderr.and_then(|stderr| stderr.metadata());
    let stream = stream.map(|meta| format!("{}:{}", meta.dev(), meta.ino()));
    stream.is_ok_and(|stream| env::var("JOURNAL_STREAM") == Ok(stream))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let message = escaped(&record.args().to_string(), false);
        lock(&self.0).write(record.level(), &message[..message.floor_char_boundary(MAX_LOG_LINE)]);
    }

    /// Says what was lost, where that can be said by now.
    fn flush(&self) {
        lock(&self.0).report_lost();
    }
}

impl State {
    /// Writes a line, or counts it as lost. Only the first that is lost is waited for: a reader that does
    /// not read costs lines, and neither turns nor a stop their time.
    fn write(&mut self, level: Level, message: &str) {
        let timeout = if self.lost == 0 { LOG_TIMEOUT } else { Duration::ZERO };
        self.report_lost();
        if self.lost > 0 || !self.sink.write(level, message, timeout) {
            self.lost += 1;
        }
    }

    /// Says how many lines were lost, if there is room for that.
    fn report_lost(&mut self) {
        if self.lost == 0 {
            return;
        }
        let were = if self.lost == 1 { "line was" } else { "lines were" };
        let words = format!("{} {were} lost: the log could not be written", self.lost);
        if self.sink.write(Level::Warn, &words, Duration::ZERO) {
            self.lost = 0;
        }
    }
}

impl Sink {
    /// Says whether it was written.
    fn write(&mut self, level: Level, message: &str, timeout: Duration) -> bool {
        if let Sink::Syslog(syslog) = self
            && syslog.send(level, message)
        {
            return true;
        }
        let line = if let Sink::Journal = self {
            format!("<{}>{message}\n", priority(level))
        } else {
            let time = clock::now();
            format!("{time} {level:<5} {message}\n")
        };
        write_within(STDERR, &line, timeout)
    }
}

/// One write, so that lines of several processes do not mix. A reader that does not read holds us up for
/// this long only. Says whether it was written.
pub fn write_within(out: BorrowedFd<'_>, text: &str, timeout: Duration) -> bool {
    let room = wait_any([Interest::write(out)], Some(timeout));
    room.is_ok_and(|[room]| room) && write_all(out, text.as_bytes()).is_ok()
}

/// The priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Syslog {
    /// Sends one message; where the daemon has gone, connects once more. Says whether it was sent.
    ///
    /// RFC 3164 without the time, which every local syslog daemon adds itself: the crate's own format
    /// would bring a parser of time formats, and the local offset that threads cannot ask for safely.
    fn send(&mut self, level: Level, message: &str) -> bool {
        let priority = Facility::LOG_DAEMON as u8 + priority(level);
        let line = format!("<{priority}>{}[{}]: {message}", self.process, Pid::own());
        for _ in 0..2 {
            let Some(connection) = self.connected() else { return false };
            let Err(e) = write!(connection, "{line}") else { return true };
            self.connection = None;
            if e.kind() == ErrorKind::WouldBlock {
                // It is there and does not read: the next line does not wait for it again.
                self.again = Some(Instant::now() + SYSLOG_BACK_OFF);
                return false;
            }
        }
        false
    }

    /// The connection, made anew where there is none.
    fn connected(&mut self) -> Option<&mut LoggerBackend> {
        if self.connection.is_none() && self.again.is_none_or(|again| Instant::now() >= again) {
            self.again = Some(Instant::now() + SYSLOG_RECONNECT);
            let connection = syslog::unix(()).ok()?.backend;
            let timeout = Some(SYSLOG_TIMEOUT);
            match &connection {
                LoggerBackend::Unix(socket) => socket.set_write_timeout(timeout),
                LoggerBackend::UnixStream(socket) => socket.get_ref().set_write_timeout(timeout),
                LoggerBackend::Udp(..) | LoggerBackend::Tcp(_) => Ok(()),
            }
            .ok()?;
            // A daemon that took the connection may go away at once: then try again without waiting.
            self.again = None;
            self.connection = Some(connection);
        }
        self.connection.as_mut()
    }
}
