//! The client of a running gateway's control socket. The lock tells whether one runs, and where its socket is.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::context::Context;
use super::unit_control::comes_back;
use super::unit_paths::installed_file;
use crate::dirs::Dirs;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::lifecycle::instance_lock::{Holder, Probe, probe};
use crate::limits::{CONTROL_PAUSE, CONTROL_TIMEOUT, MAX_BODY_RANGE, MAX_ERROR_BODY, MAX_WAIT};
use crate::name::Name;
use crate::outbound::client::{Client, Error, Request, Response};
use crate::sys::{gather::Gather, socket::connect_unix};
use crate::threads::pause;

/// A request head or message that a gateway does not take for so long never gets through.
const CONTROL_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks at a gateway that restarts: each asks the service manager, too.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
pub mod tests;

/// What a gateway gave, and who it is; or why it gave nothing.
pub type Contacted<T> = Result<(Option<Holder>, T), NoAnswer>;

const STATUS: &str = "/v1/status";

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// Nobody holds the lock: no gateway of this name runs.
    NotRunning,
    /// It runs and does not answer; why, in words.
    Unresponsive { holder: Option<Holder>, why: String },
    /// It cannot be told whether one runs; why, in words.
    Unreachable(String),
}

/// Connects to the gateway of these directories and asks it for `target`, nothing where that is empty, until
/// `deadline`. One that is about to listen is waited for; one that ends meanwhile hangs up, and the lock
/// tells what came of it.
pub fn contact(
    dirs: &Dirs,
    deadline: Instant,
    target: &str,
) -> Contacted<(Client<'static>, Value)> {
    loop {
        let (place, holder) = match probe(dirs) {
            Ok(Probe::Free) => return Err(NoAnswer::NotRunning),
            Ok(Probe::Held { dirs, holder }) => (dirs, holder),
            Err(e) => return Err(NoAnswer::Unreachable(e.to_string())),
        };
        match ask(&place, target, deadline) {
            Ok(answer) => return Ok((holder, answer)),
            Err(why) if Instant::now() + CONTROL_PAUSE >= deadline => {
                return Err(NoAnswer::Unresponsive { holder, why });
            }
            Err(_) => pause(CONTROL_PAUSE),
        }
    }
}

/// Asks the gateway of these directories what it is doing: an object, as `GET /v1/status` gives it.
pub fn fetch_status(dirs: &Dirs, deadline: Instant) -> Contacted<Value> {
    contact(dirs, deadline, STATUS).map(|(holder, (_, status))| (holder, status))
}

/// Asks a gateway of another user, whose lock is not for us to look at: its socket or nothing.
pub fn fetch_foreign_status(dirs: &Dirs, deadline: Instant) -> Contacted<Value> {
    let ask = |dirs: &Dirs| ask(dirs, STATUS, deadline);
    let asked = ask(dirs).or_else(|_| ask(&dirs.without_runtime()));
    asked.map(|(_, status)| (None, status)).map_err(NoAnswer::Unreachable)
}

fn connect_socket(dirs: &Dirs) -> Result<Client<'static>, String> {
    let path = dirs.control_socket();
    let client = |socket| Client::new(Arc::new(socket), "localhost", CONTROL_WRITE_TIMEOUT);
    connect_unix(&path).and_then(client).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => "it accepts no connections".to_owned(),
        _ => format!("{}: {e}", path.display()),
    })
}

/// Connects to this gateway. One that its service manager restarts is waited for.
///
/// # Errors
/// `Unavailable` where none answers, with a suggested fix.
pub fn connect_to(context: &Context) -> Result<Client<'static>, Failure> {
    let name = &context.name;
    let (mut until, mut asked) = (None, false);
    let found = loop {
        let deadline = Instant::now() + CONTROL_TIMEOUT;
        let mut found = contact(&context.dirs, deadline, "");
        let ready = |client| exchange(client, "GET", "/ready", &[], None, deadline).is_ok();
        let is_ready = found.as_mut().is_ok_and(|(_, (client, _))| ready(client));
        if !is_ready && !asked {
            if let Some(longest) = comes_back(context) {
                let until = *until.get_or_insert_with(|| say_waiting(name, longest));
                asked = Instant::now() >= until;
                pause(RESTART_PAUSE);
            } else {
                // It may have come back between the two looks.
                asked = true;
            }
            continue;
        }
        break match found {
            Ok((_, (client, _))) if client.is_reusable() => return Ok(client),
            // It said that it would hang up, as one that stops does.
            Ok(_) => contact(&context.dirs, Instant::now() + CONTROL_TIMEOUT, ""),
            Err(no_answer) => Err(no_answer),
        };
    };
    let words = match found {
        Ok((_, (client, _))) => return Ok(client),
        Err(NoAnswer::NotRunning) => {
            context.refuse_foreign("…")?;
            let unit = installed_file(&context.base, name, false);
            let verb = if unit.is_some() { "start" } else { "run" };
            format!("gateway {name} is not running; start it with `{} {verb}`", name.command())
        }
        Err(NoAnswer::Unresponsive { holder, why }) => {
            let pid = holder.map(|holder| format!(" (pid {})", holder.pid));
            format!("gateway {name}{} does not answer: {why}", pid.unwrap_or_default())
        }
        Err(NoAnswer::Unreachable(why)) => format!("gateway {name} cannot be reached: {why}"),
    };
    Err(Failure::new(Exit::Unavailable, words))
}

/// Says that a command waits, and returns until when.
fn say_waiting(name: &Name, longest: Duration) -> Instant {
    let seconds = longest.as_secs();
    eprintln!("hermes-gateway: gateway {name} restarts: waiting for it, at most {seconds} s");
    Instant::now() + longest
}

/// A connection, and the JSON object that is at `target`.
fn ask(dirs: &Dirs, target: &str, deadline: Instant) -> Result<(Client<'static>, Value), String> {
    let mut client = connect_socket(dirs)?;
    if target.is_empty() {
        return Ok((client, Value::Null));
    }
    match exchange(&mut client, "GET", target, &[], None, deadline) {
        Ok(answer) if answer.is_object() => Ok((client, answer)),
        Ok(_) => Err("its answer is not a JSON object".to_owned()),
        Err(failure) => Err(failure.0.message),
    }
}

/// One request without a body; the answer is JSON.
pub fn request(client: &mut Client<'_>, method: &str, target: &str) -> Result<Value, Failure> {
    let deadline = Instant::now() + MAX_WAIT + CONTROL_TIMEOUT;
    exchange(client, method, target, &[], None, deadline)
}

/// One request with headers, a body and a deadline; the answer is JSON.
pub fn exchange(
    client: &mut Client<'_>,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
    deadline: Instant,
) -> Result<Value, Failure> {
    let answer = client.send(&Request { method, target, headers, body }, deadline)?;
    if !(200..300).contains(&answer.status) {
        return Err(refused(answer, deadline));
    }
    // In JSON a byte may take six.
    let cap = MAX_BODY_RANGE.end().saturating_mul(6);
    parse(&answer.body(cap, deadline)?)
}

/// An answer, or an event of one.
pub fn parse(json: &[u8]) -> Result<Value, Failure> {
    // As text, like all JSON that is read: for bytes there would be a second parser in the binary.
    let text = String::from_utf8_lossy(json);
    serde_json::from_str(&text).map_err(|e| Failure::cannot("read the gateway's answer", &e))
}

/// The words of an answer that is no success.
pub fn refused(answer: Response<'_, '_>, deadline: Instant) -> Failure {
    let status = answer.status;
    let seconds = answer.header("retry-after").map(escaped_lines);
    let body = answer.body(MAX_ERROR_BODY, deadline).unwrap_or_default();
    let value = parse(&body).unwrap_or_default();
    let mut failure = problem(Some(status.into()), &value["error"]);
    if let Some(seconds) = seconds {
        failure.0.message += &format!(" (try again in {seconds} s)");
    }
    failure
}

/// 75 where the same may succeed later, as EX_TEMPFAIL has it; alike for every way to send a message.
pub fn exit_for(status: Option<u64>) -> Exit {
    if matches!(status, Some(429 | 503 | 507)) { Exit::TryLater } else { Exit::Failed }
}

pub fn problem(status: Option<u64>, error: &Value) -> Failure {
    let message = match (error["message"].as_str(), status) {
        (Some(message), _) => escaped_lines(message),
        (None, Some(status)) => format!("the gateway answered with status {status}"),
        (None, None) => "the gateway ended the reply with an error".to_owned(),
    };
    Failure::new(exit_for(status), message)
}

const CLOSED: &str = "the gateway closed the connection before its answer was complete";

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::failed(match error {
            Error::CutShort => CLOSED.to_owned(),
            // It had said that it would hang up, as one that stops does.
            Error::Io(e) if e.kind() == io::ErrorKind::NotConnected => CLOSED.to_owned(),
            other => format!("the request to the gateway failed: {other}"),
        })
    }
}

/// Text of several lines for a terminal: only line feed and tab act.
pub fn escaped_lines(text: &str) -> String {
    let pieces = text.split_inclusive(['\n', '\t', '\r']).map(|piece| {
        let body = piece.trim_end_matches(['\n', '\t', '\r']);
        // A carriage return would let what follows overwrite what was read.
        escaped(body, false) + piece[body.len()..].trim_start_matches('\r')
    });
    pieces.gather().concat()
}
