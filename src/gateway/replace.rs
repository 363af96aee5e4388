//! `run --replace`: one process takes the place of another. The one that comes waits at a socket of its own; the
//! one that goes sends all that it would hand over in an exec there, waits until the other is ready, and ends;
//! or takes it all back.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Plan;
use super::handover::{Handover, READY};
use crate::cancel::readable_by;
use crate::exit::{Exit, Failure};
use crate::lifecycle::signals::{Kind, Signals};
use crate::limits::{MAX_HANDOVER, WANTED_DESCRIPTORS};
use crate::sys::fd::raise_limit;
use crate::sys::poll::{Interest, wait_any_or_signal};
use crate::sys::process::{Pid, PidFd, Signal, is_gone};
use crate::sys::signal::is_stop_pending;
use crate::sys::socket::{
    MAX_DESCRIPTORS, bind_unix, connect_unix, peer, receive_descriptors, send_descriptors,
};
use crate::sys::{fs as files, user};

/// How long the other side may take for what it does at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a process that was killed may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one that has failed may take to say why, while nobody is served.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// How often it is looked whether a signal waits, while another process starts.
const SIGNAL_PROBE: Duration = Duration::from_millis(100);

/// A version is shorter.
const MAX_VERSION: u64 = 64;

/// The process that waits to take over.
pub struct Successor {
    stream: UnixStream,
    pub pid: Pid,
    process: PidFd,
    pub version: String,
}

/// Where the process `pid` waits.
fn place(runtime: &Path, pid: i32) -> PathBuf {
    runtime.join(format!("replace-{pid}.sock"))
}

/// Removes what processes that were killed while they waited have left. For whoever has the lock.
pub fn remove_leftovers(runtime: &Path) {
    for entry in fs::read_dir(runtime).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with("replace-") && name.ends_with(".sock");
        // Of the wrong kind: where somebody has the socket, of whatever namespace, it is not disturbed.
        let connect = || UnixDatagram::unbound()?.connect(entry.path());
        if ours && connect().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Successor {
    /// Connects to the process that has asked.
    ///
    /// # Errors
    /// One sentence.
    pub fn connect(runtime: &Path, pid: i32) -> Result<Successor, String> {
        let failed = |e: io::Error| format!("pid {pid}, which was to take over, is not there: {e}");
        let stream = connect_unix(&place(runtime, pid)).map_err(failed)?;
        let (peer, uid) = peer(&stream).map_err(failed)?;
        let pid = peer.filter(|_| uid == user::own_uid());
        let pid = pid.ok_or("another user's process wants to take over")?;
        // It has yet to say its version: the number is not another's meanwhile.
        let process = PidFd::open(pid).map_err(failed)?;
        stream.set_read_timeout(Some(GREETING_TIMEOUT)).map_err(failed)?;
        let (mut version, mut byte) = (String::new(), [0]);
        while (version.len() as u64) < MAX_VERSION {
            (&stream).read_exact(&mut byte).map_err(failed)?;
            if byte == *b"\n" {
                return Ok(Successor { stream, pid, process, version });
            }
            version.push(char::from(byte[0]));
        }
        Err("what wants to take over does not say its version".to_owned())
    }

    /// Sends copies of these descriptors, the first of which tells of the others, and waits until the process
    /// serves.
    ///
    /// # Errors
    /// Why it does not: by then it has ended, and nobody but us has the journal.
    pub fn hand_over(
        &mut self,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(), String> {
        let handed_over = self.try_hand_over(descriptors, timeout);
        handed_over.map_err(|why| {
            let pid = self.pid;
            match self.kill() {
                Ok(()) => format!("pid {pid} {why}"),
                Err(e) => format!("pid {pid} {why}, and does not end: {e}"),
            }
        })
    }

    fn try_hand_over(
        &mut self,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(), String> {
        let failed = |e: io::Error| format!("cannot be sent what it needs: {e}");
        self.stream.set_write_timeout(Some(GREETING_TIMEOUT)).map_err(failed)?;
        for some in descriptors.chunks(MAX_DESCRIPTORS) {
            send_descriptors(self.stream.as_fd(), b"D", some).map_err(failed)?;
        }
        let deadline = Instant::now() + timeout;
        let is_ready = || readable_by(self.stream.as_fd(), Instant::now() + SIGNAL_PROBE);
        while !is_ready().map_err(failed)? {
            // Signals are blocked here, and wait for whoever goes on.
            if is_stop_pending() {
                return Err("is not waited for: a signal came that ends the gateway".to_owned());
            }
            if Instant::now() >= deadline {
                return Err(format!("was not ready within {} s", timeout.as_secs()));
            }
        }
        let mut said = [0];
        match self.stream.read(&mut said) {
            Ok(1) if said == [READY] => Ok(()),
            Ok(_) | Err(_) => {
                // It may have a word to say about it.
                let _ = self.has_ended(END_TIMEOUT);
                Err("ended before it was ready".to_owned())
            }
        }
    }

    fn has_ended(&self, within: Duration) -> io::Result<bool> {
        readable_by(self.process.as_fd(), Instant::now() + within)
    }

    fn kill(&self) -> io::Result<()> {
        match self.process.send(Signal::Kill) {
            Err(e) if is_gone(&e) => return Ok(()),
            sent => sent?,
        }
        match self.has_ended(KILL_TIMEOUT)? {
            true => Ok(()),
            false => Err(ErrorKind::TimedOut.into()),
        }
    }
}

/// Takes over what the gateway that runs has, which `ask` asks for it with our number. Waits as long as that
/// needs for its turns.
///
/// # Errors
/// Why not: that gateway goes on. `Terminated` and `Planned` for a signal that ends the wait.
pub fn take_over(
    plan: &Plan,
    signals: &mut Signals,
    ask: impl FnOnce(i32) -> Result<(), Failure>,
) -> Result<Handover, Failure> {
    let (own, version) = (Pid::own().get(), env!("CARGO_PKG_VERSION"));
    let path = place(&plan.dirs.runtime, own);
    let failed = |e: io::Error| Failure::cannot("take over", &e);
    let listener = bind_unix(&path).map_err(failed)?;
    // The other may have more connections than a start may have open.
    raise_limit(WANTED_DESCRIPTORS).map_err(failed)?;
    let asked = ask(own);
    let accepted = asked.and_then(|()| {
        wait(signals, listener.as_fd(), Some(Instant::now() + GREETING_TIMEOUT))?;
        listener.set_nonblocking(true).map_err(failed)?;
        listener.accept().map_err(failed)
    });
    let _ = fs::remove_file(&path);
    let (mut stream, _) = accepted?;
    stream.set_nonblocking(false).map_err(failed)?;
    stream.write_all(format!("{version}\n").as_bytes()).map_err(failed)?;
    let given_up = |_| {
        let words = "the gateway that runs does not hand over";
        Failure::new(Exit::TryLater, words)
    };
    wait(signals, stream.as_fd(), None)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT)).map_err(failed)?;
    let mut descriptors = receive(&stream).map_err(given_up)?;
    let first = descriptors.remove(0);
    let text = files::read_text(first.into(), MAX_HANDOVER);
    let mut value: Value = text
        .map_err(given_up)
        .and_then(|text| serde_json::from_str(&text).map_err(|e| given_up(e.into())))?;
    let count = numbers_in(&mut value).len();
    while descriptors.len() < count {
        descriptors.append(&mut receive(&stream).map_err(given_up)?);
    }
    // From here on they are known by their numbers here.
    for (number, fd) in numbers_in(&mut value).into_iter().zip(descriptors) {
        *number = fd.into_raw_fd().into();
    }
    value["pid"] = own.into();
    value["generation"] = 0.into();
    value["restart"] = Value::Null;
    let mut handover = Handover::parse(&value, -1).map_err(Failure::failed)?;
    handover.predecessor = Some(stream);
    Ok(handover)
}

/// One message: at least one descriptor.
fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    match receive_descriptors(stream.as_fd(), &mut [0])? {
        (1, descriptors) if !descriptors.is_empty() => Ok(descriptors),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// The numbers of all descriptors that a handover names, in the order in which they are sent.
fn numbers_in(value: &mut Value) -> Vec<&mut Value> {
    let Some(all) = value.as_object_mut() else { return Vec::new() };
    let mut numbers = (Vec::new(), Vec::new());
    for (name, part) in all {
        match part {
            Value::Object(named) if name == "descriptors" => numbers.0.extend(named.values_mut()),
            Value::Array(connections) if name == "connections" => {
                numbers.1.extend(connections.iter_mut().map(|one| &mut one["fd"]));
            }
            _ => {}
        }
    }
    numbers.0.append(&mut numbers.1);
    numbers.0
}

/// Waits until something comes, or a signal that ends us.
fn wait(
    signals: &mut Signals,
    on: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let interests = [Interest::read(on), Interest::read(signals.as_fd())];
        let waited = wait_any_or_signal(interests, left);
        let [ready, _] = waited.map_err(|e| Failure::cannot("wait", &e))?;
        for caught in signals.take() {
            let exit = match caught.kind {
                Kind::Interrupt => Exit::Planned,
                Kind::Terminate | Kind::HangUp | Kind::Other(_) => Exit::Terminated,
                Kind::Reload | Kind::Restart | Kind::Child => continue,
            };
            let words = format!("ended by {} before it took over", caught.kind.name());
            return Err(Failure::new(exit, words));
        }
        if ready {
            return Ok(());
        }
        if left.is_some_and(|left| left.is_zero()) {
            let words = "the gateway that runs does not answer";
            return Err(Failure::new(Exit::Unavailable, words));
        }
    }
}
