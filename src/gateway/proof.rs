//! Whether another program could take our place: a child of it goes through a whole start
//! ([`super::start_check`]) beside us, while we serve as before. What was proven is what will be executed:
//! the file is opened before, and stays open.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Plan;
use super::start_check::HANDOVER;
use crate::cancel::Cancel;
use crate::config::{TIME, millis};
use crate::escape::{escaped, first_chars, one_line};
use crate::limits::AGENT_READ;
use crate::outbound::client::{Client, Request};
use crate::outbound::tcp::connect_to;
use crate::permissions;
use crate::subprocess::{
    Child, ChildEvent, ChildKind, ExitReason, Leftovers, Program, RunOptions, keep_tail,
};
use crate::sys::process::{Status, own_image};

/// The line that says that it is ready has some 120 bytes.
const MAX_LINE: usize = 1024;

/// What is kept of its stderr, and shown of that: a wrong configuration has a line for each mistake.
const MAX_STDERR: usize = 4096;
const MAX_WORDS: usize = 1000;

/// How long an answer of `/health` may take, and then its end: it has nothing to do but these.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// `{"status":"ok","version":"…"}` and some room.
const MAX_HEALTH: usize = 1024;

/// A program that could take our place.
#[derive(Debug)]
pub struct Proven {
    /// To be executed by this descriptor (execveat(2)).
    pub file: File,
    pub version: String,
    /// The newest handover that it takes: ours at least.
    pub handover: u64,
    stamp: Stamp,
}

/// What changes with the content of a file: its size, and when it was written.
type Stamp = (u64, i64, i64);

impl Proven {
    /// Whether the file still holds what was proven: while it ran the kernel saw to that.
    ///
    /// # Errors
    /// One sentence where it was written to since.
    pub fn check_unchanged(&self) -> Result<(), String> {
        match stamp(&self.file) {
            Ok(stamp) if stamp == self.stamp => Ok(()),
            Ok(_) => Err("the program was written to after it had proved itself".to_owned()),
            Err(e) => Err(format!("the program cannot be looked at again: {e}")),
        }
    }
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let meta = file.metadata()?;
    Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// Has a program prove that it could take our place, with our arguments and environment. It may take
/// `timeout` to be ready; `abort` is readable once nobody waits any more.
///
/// # Errors
/// One sentence that names the program and what is wrong with it. Nothing of it is left.
pub fn prove(
    plan: &Plan,
    program: &Path,
    timeout: Duration,
    abort: Option<BorrowedFd<'_>>,
) -> Result<Proven, String> {
    let shown = escaped(&program.display().to_string(), false);
    let cancel = Cancel { abort, ..Cancel::at(Instant::now() + timeout) };
    let proven = open(program).and_then(|file| try_start(plan, file, timeout, &cancel));
    proven.map_err(|why| format!("{shown} cannot take over: {why}"))
}

fn open(program: &Path) -> Result<File, String> {
    // Who owns what we run is trusted already: Homebrew's programs have a user of their own.
    let own = own_image().and_then(|image| image.metadata());
    let file = own.and_then(|own| permissions::open_program(program, own.uid()));
    let file = file.map_err(|e| escaped(&e.to_string(), false))?;
    let mut head = [0; 2];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) if &head == b"#!" => {
            Err("it is a script, and only a program can be executed by its open file".to_owned())
        }
        _ => Ok(file),
    }
}

/// What a child has said so far.
#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Said {
    /// Whether it has said a line, or more than the line that it should say.
    fn has_line(&self) -> bool {
        self.stdout.contains(&b'\n') || self.stdout.len() == MAX_LINE
    }

    /// The error with which a command ended, on one line, behind a colon: what came before are warnings.
    fn words(&self) -> String {
        const PREFIX: &[u8] = b"hermes-gateway: ";
        let error = self.stderr.windows(PREFIX.len()).rposition(|part| part == PREFIX);
        let said = one_line(&self.stderr[error.map_or(0, |at| at + PREFIX.len())..]);
        let said = first_chars(&said, MAX_WORDS);
        if said.is_empty() { said } else { format!(": {}", escaped(&said, false)) }
    }
}

/// What the line says.
struct Ready {
    version: String,
    listen: SocketAddr,
    handover: u64,
}

// Out of line: a frame of its own is smaller code.
#[inline(never)]
fn try_start(
    plan: &Plan,
    file: File,
    timeout: Duration,
    cancel: &Cancel<'_>,
) -> Result<Proven, String> {
    let failed = |e: io::Error| format!("it cannot be attended to: {e}");
    let stamp = stamp(&file).map_err(failed)?;
    let file = Arc::new(file);
    let all = Cancel { deadline: cancel.deadline + HEALTH_TIMEOUT + END_TIMEOUT, ..*cancel };
    let (kind, input) = (ChildKind::Tree(Leftovers::Kill), Some((&[]).into()));
    let options = RunOptions { kind, input, cancel: all, grace: Duration::ZERO };
    let (called, arguments) = check_arguments(&plan.arguments);
    let mut program = Program::new(called.into()).opened(Arc::clone(&file)).args(arguments);
    // Which unit it would run in: what else is said to us alone it could use to speak in our name.
    for name in ["INVOCATION_ID", "SYSTEMD_EXEC_PID"] {
        program = env::var_os(name).into_iter().fold(program, |it, value| it.env(name, value));
    }
    let mut child = plan.children.spawn(&program, options).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("the loader that it names is missing: {e}"),
        _ => format!("it cannot be executed: {e}"),
    })?;
    child.hold_input(true);
    let mut said = Said::default();
    if let Some(end) = attend(&mut child, &mut said, cancel.deadline, true).map_err(failed)? {
        return Err(why_ended(end, &said, "before it was ready"));
    }
    if !said.has_line() {
        let (time, words) = (TIME.show(millis(timeout)), said.words());
        return Err(format!("it was not ready within {time} (restart.start_timeout){words}"));
    }
    let ready = read_line(&said.stdout)?;
    let healthy = check_health(&ready);
    child.hold_input(false);
    let until = Instant::now() + END_TIMEOUT;
    let end = attend(&mut child, &mut said, until, false).map_err(failed)?;
    match end {
        Some(ExitReason::Exited(Status::Exited(0))) => healthy?,
        Some(end) => return Err(why_ended(end, &said, "after it was ready")),
        None => {
            healthy?;
            let seconds = END_TIMEOUT.as_secs();
            return Err(format!("it did not end within {seconds} s after its input had ended"));
        }
    }
    let Ready { version, handover, .. } = ready;
    let file = file.try_clone().map_err(failed)?;
    Ok(Proven { file, version, handover, stamp })
}

/// What the program is called, and its arguments: ours, for a check. What follows `--` is text.
fn check_arguments(own: &[OsString]) -> (OsString, Vec<OsString>) {
    let called = own.first().cloned().unwrap_or_else(|| "hermes-gateway".into());
    let own = own.get(1..).unwrap_or_default();
    let end = own.iter().position(|word| word == "--").unwrap_or(own.len());
    let mut arguments = own.to_vec();
    arguments.splice(end..end, ["--check".into(), "--hold".into()]);
    (called, arguments)
}

/// Keeps what a child says, until it has ended, which is returned; until `until`; or until there is a line.
fn attend(
    child: &mut Child<'_>,
    said: &mut Said,
    until: Instant,
    line: bool,
) -> io::Result<Option<ExitReason>> {
    let mut buffer = [0; AGENT_READ];
    loop {
        match child.next(&mut buffer, Some(until))? {
            ChildEvent::Stdout(count) => {
                let room = MAX_LINE.saturating_sub(said.stdout.len());
                said.stdout.extend_from_slice(&buffer[..count.min(room)]);
                if line && said.has_line() {
                    return Ok(None);
                }
            }
            ChildEvent::Stderr(count) => {
                keep_tail(&mut said.stderr, &buffer[..count], MAX_STDERR);
            }
            ChildEvent::TimedOut => return Ok(None),
            ChildEvent::Ended(reason) => return Ok(Some(reason)),
        }
    }
}

fn why_ended(end: ExitReason, said: &Said, when: &str) -> String {
    let words = said.words();
    match end {
        // One that knows no such option.
        ExitReason::Exited(Status::Exited(64)) if words.contains("--check") => older(),
        ExitReason::Exited(Status::Exited(status)) => {
            format!("it exited with status {status} {when}{words}")
        }
        ExitReason::Exited(Status::Signalled(signal)) => {
            format!("it was ended by signal {signal} {when}{words}")
        }
        ExitReason::Cancelled(_) => "the gateway does not wait for it any more".to_owned(),
    }
}

fn older() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("it is older than {version}: restart the gateway to go back to it")
}

fn read_line(line: &[u8]) -> Result<Ready, String> {
    let value = read_object(line);
    let listen = value["listen"].as_str().and_then(|listen| listen.parse().ok());
    let version = value["version"].as_str().filter(|version| version.len() <= 64);
    let (Some(true), Some(version), Some(listen)) = (value["ready"].as_bool(), version, listen)
    else {
        let said = String::from_utf8_lossy(line);
        let said = first_chars(said.trim(), 100);
        return Err(format!("it did not say that it is ready, but: {}", escaped(&said, false)));
    };
    match value["handover"].as_u64() {
        Some(handover) if handover >= HANDOVER => {
            Ok(Ready { version: escaped(version, false), listen, handover })
        }
        _ => Err(older()),
    }
}

fn read_object(bytes: &[u8]) -> Value {
    String::from_utf8_lossy(bytes).parse().unwrap_or_default()
}

/// Whether it answers on the port that it named.
fn check_health(ready: &Ready) -> Result<(), String> {
    let mut address = ready.listen;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let failed =
        |why: &str| format!("it said that it is ready, and /health at {address} failed: {why}");
    let ask = || -> Result<(u16, Vec<u8>), crate::http::Closed> {
        let deadline = Instant::now() + HEALTH_TIMEOUT;
        let stream = Arc::new(connect_to(address, &Cancel::at(deadline))?);
        let mut client = Client::new(stream, &address.to_string(), HEALTH_TIMEOUT)?;
        let (method, target) = ("GET", "/health");
        let request = Request { method, target, headers: &[], body: None };
        let response = client.send(&request, deadline)?;
        Ok((response.status, response.body(MAX_HEALTH, deadline)?))
    };
    let (status, body) = ask().map_err(|e| failed(&e.to_string()))?;
    let health = read_object(&body);
    match (status, health["version"].as_str()) {
        (200, Some(version)) if version == ready.version => Ok(()),
        (200, _) => Err(failed("another version answers there")),
        (status, _) => Err(failed(&format!("status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::dirs::Dirs;
    use crate::name::Name;
    use crate::subprocess::Children;
    use crate::sys::fd::EventFd;
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    /// What a shell as the new program says to this script.
    fn shell(script: &str, abort: Option<&EventFd>) -> Result<Proven, String> {
        let (path, file) = (PathBuf::new(), PathBuf::from("/no/such.toml"));
        let (required, demanded, set, home) = (false, false, Vec::new(), None);
        let plan = Plan {
            name: Name::parse("x").unwrap(),
            dirs: Dirs {
                config_file: file.clone(),
                state: path.clone(),
                data: path.clone(),
                runtime: path,
            },
            sources: Sources { file, required, demanded, set, home },
            demanded: Arc::new(|| false),
            had_file: Arc::default(),
            children: Children::new(None),
            ephemeral: false,
            inherited: crate::gateway::Inherited::default(),
            program: PathBuf::new(),
            arguments: ["sh", "-c", script].map(OsString::from).into(),
        };
        let sh = Path::new("/bin/sh");
        let proven = prove(&plan, sh, Duration::from_secs(20), abort.map(AsFd::as_fd));
        assert!(plan.children.are_gone());
        proven
    }

    #[test]
    fn a_proof_that_nobody_waits_for_ends_at_once() {
        let abort = EventFd::new().unwrap();
        abort.notify();
        let why = shell("exec sleep 600", Some(&abort)).unwrap_err();
        assert_eq!(why, "/bin/sh cannot take over: the gateway does not wait for it any more");
    }

    #[test]
    fn only_the_error_of_what_a_program_says_is_told() {
        let why =
            |script: &str| shell(script, None).unwrap_err().split_off("/bin/sh cannot ".len());
        assert_eq!(
            why(
                "echo warning >&2; echo 'hermes-gateway: a'; printf 'hermes-gateway: b\\nc\\n' >&2; read x; exit 9"
            ),
            "take over: it did not say that it is ready, but: hermes-gateway: a"
        );
        assert_eq!(
            why("echo warning >&2; printf 'hermes-gateway: b\\nc\\n' >&2; exit 9"),
            "take over: it exited with status 9 before it was ready: b / c"
        );
        let long = why("head -c 100000 /dev/zero | tr '\\0' y >&2; exit 9");
        assert_eq!(long.matches('y').count(), MAX_WORDS + " ready".matches('y').count());
    }

    #[test]
    fn the_options_of_a_check_come_before_what_is_text() {
        let words = |text: &str| {
            let all: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            let (called, rest) = check_arguments(&all);
            [&[called], &rest[..]].concat().join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(words("/bin/hg -p x run"), "/bin/hg -p x run --check --hold");
        assert_eq!(words("coder"), "coder --check --hold");
        assert_eq!(words("coder run --"), "coder run --check --hold --");
    }

    #[test]
    fn what_is_written_to_after_its_proof_is_noticed() {
        let dir = crate::testing::TempDir::new("proof");
        let path = dir.path().join("program");
        std::fs::write(&path, "one").unwrap();
        let file = File::open(&path).unwrap();
        let stamp = stamp(&file).unwrap();
        let proven = Proven { file, version: String::new(), handover: 1, stamp };
        std::fs::rename(&path, dir.path().join("other")).unwrap();
        assert_eq!(proven.check_unchanged(), Ok(()));
        std::fs::write(dir.path().join("other"), "three").unwrap();
        assert!(proven.check_unchanged().is_err());
    }
}
