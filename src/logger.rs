//! Where log lines go: the journal's priority prefixes, plain lines with times, or syslog.
//!
//! Every line is made safe here, whatever is in it: one line, no control characters.
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, LogFormat, LoggerBackend, Severity};

use crate::config::LogTarget;
use crate::limits::{LOG_PATIENCE, MAX_LOG_LINE, SYSLOG_PATIENCE, SYSLOG_RECONNECT};
use crate::sys::clock::Utc;
use crate::sys::fd::device_and_inode;
use crate::sys::poll::{Interest, poll};
use crate::sys::process::Pid;
use crate::text::escaped;

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    sink: Mutex<Sink>,
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
    connection: Option<syslog::Logger<LoggerBackend, Format>>,
    tried: Option<Instant>,
}

/// RFC 3164 without the time, which every local syslog daemon adds itself: the crate's own format
/// would bring a parser of time formats, and the local offset that threads cannot ask for safely.
#[derive(Clone)]
struct Format {
    process: String,
    pid: Pid,
}

impl LogFormat<&str> for Format {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: &str) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 + severity as u8;
        write!(w, "<{priority}>{}[{}]: {message}", self.process, self.pid)
            .map_err(syslog::Error::Write)
    }
}

/// Starts logging, or changes where it goes. `name`: what syslog calls us.
pub fn set(level: LevelFilter, target: LogTarget, name: &str) {
    let sink = match target {
        LogTarget::Auto if stderr_is_journal() => Sink::Journal,
        LogTarget::Auto | LogTarget::Stderr => Sink::Plain,
        LogTarget::Journal => Sink::Journal,
        LogTarget::Syslog => {
            let process = name.to_owned();
            Sink::Syslog(Box::new(Syslog { process, connection: None, tried: None }))
        }
    };
    let mut sink = Some(sink);
    let logger = LOGGER.get_or_init(|| {
        let first = sink.take().unwrap_or(Sink::Plain);
        Logger { sink: Mutex::new(first) }
    });
    match sink {
        Some(sink) => *logger.sink.lock().unwrap_or_else(PoisonError::into_inner) = sink,
        // The first call: an error would mean that somebody else has set a logger, and nobody does.
        None => drop(log::set_logger(logger)),
    }
    log::set_max_level(level);
}

/// Changes what is written down.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Whether stderr goes to the journal: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok((device, inode)) = device_and_inode(io::stderr().as_fd()) else {
        return false;
    };
    stream == format!("{device}:{inode}")
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let mut message = escaped(&record.args().to_string(), false);
        if message.len() > MAX_LOG_LINE {
            let end = (0..=MAX_LOG_LINE).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
        }
        let level = record.level();
        match &mut *self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Journal => to_stderr(&format!("<{}>{message}\n", priority(level))),
            Sink::Plain => plain(level, &message),
            Sink::Syslog(syslog) => {
                if syslog.send(level, &message).is_err() {
                    plain(level, &message);
                }
            }
        }
    }

    fn flush(&self) {}
}

fn plain(level: Level, message: &str) {
    let time = Utc::new(SystemTime::now()).rfc3339();
    to_stderr(&format!("{time} {level:<5} {message}\n"));
}

/// One write a line, so that lines of several processes do not mix. A reader that does not read
/// costs a line, not the gateway: it may hold us up for `LOG_PATIENCE` only. Nobody could be told of
/// an error.
fn to_stderr(line: &str) {
    let mut stderr = io::stderr().lock();
    let room = poll(&mut [Interest::write(stderr.as_fd())], Some(LOG_PATIENCE));
    if room.is_ok_and(|ready| ready > 0) {
        let _ = stderr.write_all(line.as_bytes());
    }
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
    /// Sends one message; where the daemon has gone, connects once more.
    fn send(&mut self, level: Level, message: &str) -> Result<(), ()> {
        if self.connection.is_some() && self.try_send(level, message).is_ok() {
            return Ok(());
        }
        self.connect()?;
        self.try_send(level, message)
    }

    fn try_send(&mut self, level: Level, message: &str) -> Result<(), ()> {
        let connection = self.connection.as_mut().ok_or(())?;
        let sent = match level {
            Level::Error => connection.err(message),
            Level::Warn => connection.warning(message),
            Level::Info => connection.info(message),
            Level::Debug | Level::Trace => connection.debug(message),
        };
        if sent.is_err() {
            self.connection = None;
        }
        sent.map_err(drop)
    }

    fn connect(&mut self) -> Result<(), ()> {
        if self.tried.is_some_and(|tried| tried.elapsed() < SYSLOG_RECONNECT) {
            return Err(());
        }
        self.tried = Some(Instant::now());
        let formatter = Format { process: self.process.clone(), pid: Pid::own() };
        let connection = syslog::unix(formatter).map_err(drop)?;
        if let LoggerBackend::Unix(socket) = &connection.backend {
            socket.set_write_timeout(Some(SYSLOG_PATIENCE)).map_err(drop)?;
        }
        self.connection = Some(connection);
        // A daemon that took the connection may go away at once: then try again without waiting.
        self.tried = None;
        Ok(())
    }
}
