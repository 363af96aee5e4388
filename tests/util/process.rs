//! A child process as a source of events: lines of output, notifications, its end. All of them
//! arrive under one lock with one condition variable, so that any wait is a wait for an event.

use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{DEADLINE, sys};

/// What has been seen of a child so far.
#[derive(Default)]
struct Seen {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Every `NAME=VALUE` that it sent to its notification socket, in order.
    notified: Vec<String>,
    /// Streams that may still bring something: two of output, and the notifications.
    open: usize,
    end: Option<ExitStatus>,
}

#[derive(Default)]
struct Watch {
    seen: Mutex<Seen>,
    news: Condvar,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A test that fails while it looks on leaves nothing half done.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    /// Waits until `found` finds something; `None` when the time is over.
    fn wait<T>(&self, limit: Duration, mut found: impl FnMut(&Seen) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut seen = self.lock();
        loop {
            if let Some(thing) = found(&seen) {
                return Some(thing);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.news.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running child, killed with its process group when dropped. If the test is failing by then, its output is shown.
pub struct Process {
    pid: i32,
    what: String,
    watch: Arc<Watch>,
}

/// How a child ended and all that it said.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The exit status; a death by signal N counts as 128 + N, as in a shell.
    pub fn code(&self) -> i32 {
        code(self.status)
    }

    /// Fails the test, with everything that the child said, unless it ended with this status.
    #[track_caller]
    pub fn assert_code(self, expected: i32) -> Outcome {
        assert!(
            self.code() == expected,
            "expected exit status {expected}, got {}\n--- stdout\n{}--- stderr\n{}",
            self.code(),
            self.stdout,
            self.stderr
        );
        self
    }
}

/// The exit status; a death by signal N counts as 128 + N, as in a shell.
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

impl Process {
    /// Starts the command in a process group of its own, standard input empty.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Process {
        Process::start(command, None)
    }

    /// Starts the command with a `NOTIFY_SOCKET` bound at this path.
    #[track_caller]
    pub fn spawn_notifying(command: &mut Command, socket: &Path) -> Process {
        let _ = std::fs::remove_file(socket);
        let receiver = UnixDatagram::bind(socket).expect("bind the notification socket");
        Process::start(command.env("NOTIFY_SOCKET", socket), Some(receiver))
    }

    #[track_caller]
    fn start(command: &mut Command, notify: Option<UnixDatagram>) -> Process {
        sys::stop_ignoring_signals();
        let what = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        let watch = Arc::new(Watch::default());
        watch.lock().open = if notify.is_some() { 3 } else { 2 };
        follow(&watch, child.stdout.take().unwrap(), |seen| &mut seen.stdout);
        follow(&watch, child.stderr.take().unwrap(), |seen| &mut seen.stderr);
        let last_word = notify.map(|socket| listen(&watch, socket));
        let pid = child.id().cast_signed();
        reap(&watch, child, last_word);
        Process { pid, what, watch }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The pids of its own children, in order of age: of a wrapper's, the first is what it wraps.
    #[track_caller]
    pub fn children(&self) -> Vec<i32> {
        let file = format!("/proc/{0}/task/{0}/children", self.pid);
        let pids = std::fs::read_to_string(&file).unwrap_or_default();
        pids.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
    }

    /// Sends a signal to the child; fails the test if it has ended.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        // Under the lock, so that the pid cannot be reaped, and used again, meanwhile.
        let seen = self.watch.lock();
        assert!(
            seen.end.is_none(),
            "signal {signal} comes too late: {} has ended\n{}",
            self.what,
            said(&seen)
        );
        sys::kill(self.pid, signal).expect("kill");
    }

    /// Whether the child has not ended yet.
    pub fn is_running(&self) -> bool {
        self.watch.lock().end.is_none()
    }

    /// What came on standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.watch.lock().stdout).into_owned()
    }

    /// What came on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.watch.lock().stderr).into_owned()
    }

    /// Every `NAME=VALUE` that came on the notification socket so far.
    pub fn notified(&self) -> Vec<String> {
        self.watch.lock().notified.clone()
    }

    /// Waits for a line on standard error that contains `text`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> String {
        self.wait(&format!("{text:?} in its log"), limit, |seen| {
            complete_line_with(&seen.stderr, text)
        })
    }

    /// Waits for a line on standard output that contains `text`, and returns it.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str, limit: Duration) -> String {
        self.wait(&format!("{text:?} in its output"), limit, |seen| {
            complete_line_with(&seen.stdout, text)
        })
    }

    /// Waits for a notification that starts with `text` (`READY=1`, `STATUS=`), and returns it.
    #[track_caller]
    pub fn wait_for_notification(&self, text: &str, limit: Duration) -> String {
        self.wait(&format!("the notification {text}"), limit, |seen| {
            seen.notified.iter().find(|line| line.starts_with(text)).cloned()
        })
    }

    /// Waits until so many notifications have come that start with `text`.
    #[track_caller]
    pub fn wait_for_notifications(&self, text: &str, count: usize, limit: Duration) {
        self.wait(&format!("{count} notifications {text}"), limit, |seen| {
            let came = seen.notified.iter().filter(|line| line.starts_with(text)).count();
            (came >= count).then_some(())
        });
    }

    /// How many notifications have come that start with `text`.
    pub fn notifications(&self, text: &str) -> usize {
        self.watch.lock().notified.iter().filter(|line| line.starts_with(text)).count()
    }

    /// Waits for its end (true) or for a notification that starts with `text`, whichever comes first.
    #[track_caller]
    pub fn wait_for_end_or(&self, text: &str) -> bool {
        let found = self.watch.wait(DEADLINE, |seen| {
            let notified = seen.notified.iter().any(|line| line.starts_with(text));
            (notified || seen.end.is_some()).then_some(!notified)
        });
        found.unwrap_or_else(|| self.gave_up("its end or a notification", DEADLINE))
    }

    /// Waits for the end, and returns the exit status as [`code`] gives it.
    #[track_caller]
    pub fn wait_for_exit(&self, limit: Duration) -> i32 {
        match self.watch.wait(limit, |seen| seen.end) {
            Some(status) => code(status),
            None => self.gave_up("its exit", limit),
        }
    }

    /// Waits for the end and the last word, and returns both.
    #[track_caller]
    pub fn finish(self, limit: Duration) -> Outcome {
        let outcome = self.watch.wait(limit, |seen| {
            let status = seen.end.filter(|_| seen.open == 0)?;
            Some(Outcome {
                status,
                stdout: String::from_utf8_lossy(&seen.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&seen.stderr).into_owned(),
            })
        });
        match outcome {
            Some(outcome) => outcome,
            None => self.gave_up("its end and that of all who hold its output", limit),
        }
    }

    /// Waits for something that a child which has ended and closed its output cannot bring any more.
    #[track_caller]
    fn wait<T>(&self, what: &str, limit: Duration, mut find: impl FnMut(&Seen) -> Option<T>) -> T {
        let found = self.watch.wait(limit, |seen| match find(seen) {
            None if seen.end.is_some() && seen.open == 0 => Some(None),
            None => None,
            found => Some(found),
        });
        match found.flatten() {
            Some(thing) => thing,
            None => self.gave_up(what, limit),
        }
    }

    #[track_caller]
    fn gave_up(&self, what: &str, limit: Duration) -> ! {
        let seen = self.watch.lock();
        let why = match seen.end {
            Some(status) => format!("it has ended with {}", code(status)),
            None => format!("it did not come within {limit:?}"),
        };
        panic!("waited for {what} of {}: {why}\n{}", self.what, said(&seen));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let running = {
            let seen = self.watch.lock();
            if seen.end.is_none() {
                // The group too: its agents and helpers.
                let _ = sys::kill(-self.pid, libc::SIGKILL);
                let _ = sys::kill(self.pid, libc::SIGKILL);
            }
            seen.end.is_none()
        };
        if running {
            self.watch.wait(DEADLINE, |seen| seen.end);
        }
        if thread::panicking() {
            eprintln!("{} said:\n{}", self.what, said(&self.watch.lock()));
        }
    }
}

/// The first complete line that contains `text`: half a line is no event.
fn complete_line_with(output: &[u8], text: &str) -> Option<String> {
    output
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .map(String::from_utf8_lossy)
        .find(|line| line.contains(text))
        .map(std::borrow::Cow::into_owned)
}

/// For failure messages. Indented: what a test runner inside says is not this runner's word.
fn said(seen: &Seen) -> String {
    let mut text = String::new();
    for (name, bytes) in [("stdout", &seen.stdout), ("stderr", &seen.stderr)] {
        for line in String::from_utf8_lossy(bytes).lines() {
            let _ = writeln!(text, "  {name}| {line}");
        }
    }
    text
}

fn follow(
    watch: &Arc<Watch>,
    stream: impl Read + Send + 'static,
    into: fn(&mut Seen) -> &mut Vec<u8>,
) {
    let watch = Arc::clone(watch);
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            let bytes = match stream.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => break,
            };
            let length = bytes.len();
            watch.post(|seen| into(seen).extend_from_slice(bytes));
            stream.consume(length);
        }
        watch.post(|seen| seen.open -= 1);
    });
}

/// Collects notifications until an empty one, which the socket that is returned can send: queued
/// behind all that the child has sent, it says that this was all.
fn listen(watch: &Arc<Watch>, socket: UnixDatagram) -> UnixDatagram {
    let last_word = UnixDatagram::unbound().expect("a socket");
    last_word
        .connect_addr(&socket.local_addr().expect("its own address"))
        .expect("connect to the notification socket");
    let watch = Arc::clone(watch);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            watch.post(|seen| seen.notified.extend(text.lines().map(str::to_owned)));
        }
        watch.post(|seen| seen.open -= 1);
    });
    last_word
}

fn reap(watch: &Arc<Watch>, mut child: Child, last_word: Option<UnixDatagram>) {
    let watch = Arc::clone(watch);
    thread::spawn(move || {
        sys::wait_for_end(child.id().cast_signed()).expect("waitid");
        // The child has ended, so this does not block; see Process::signal for the lock.
        watch.post(|seen| seen.end = Some(child.wait().expect("wait")));
        if let Some(socket) = last_word {
            socket.send(b"").expect("end the notifications");
        }
    });
}
