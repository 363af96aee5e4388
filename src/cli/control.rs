//! The way to a running gateway: its lock tells whether there is one and where, its control socket
//! what it says of itself.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::dirs::Dirs;
use crate::http::Client;
use crate::lifecycle::instance::{Holder, Probe, probe};
use crate::limits::{CONTROL_PAUSE, CONTROL_WRITE_PATIENCE, MAX_STATUS};
use crate::sys::socket::connect_unix;

#[cfg(test)]
pub mod tests;

/// What a gateway gave, and who it is; or why it gave nothing.
pub type Contact<T> = Result<(Option<Holder>, T), NoAnswer>;

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// Nobody holds the lock: no gateway of this name runs.
    Free,
    /// It runs and does not answer; why, in words.
    Silent { holder: Option<Holder>, why: String },
    /// It cannot be told whether one runs; why, in words.
    Hidden(String),
}

/// The process that holds the lock, as far as that can be told.
pub fn holder(dirs: &Dirs) -> Option<Holder> {
    let Ok(Probe::Held { holder, .. }) = probe(dirs) else { return None };
    holder
}

/// Connects to the gateway of these directories, until `deadline`. A gateway that is about to listen
/// is waited for.
pub fn knock(dirs: &Dirs, deadline: Instant) -> Contact<Client<'static>> {
    loop {
        let (place, holder) = match probe(dirs) {
            Ok(Probe::Free) => return Err(NoAnswer::Free),
            Ok(Probe::Held { dirs, holder }) => (dirs, holder),
            Err(e) => return Err(NoAnswer::Hidden(e.to_string())),
        };
        let why = match open(&place.control_socket()) {
            Ok(client) => return Ok((holder, client)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => "it accepts no connections".into(),
            Err(e) => format!("{}: {e}", place.control_socket().display()),
        };
        if Instant::now() + CONTROL_PAUSE >= deadline {
            return Err(NoAnswer::Silent { holder, why });
        }
        thread::sleep(CONTROL_PAUSE);
    }
}

/// Asks the gateway of these directories what it is doing: an object, as `GET /v1/status` gives it.
pub fn contact(dirs: &Dirs, deadline: Instant) -> Contact<Value> {
    loop {
        let (holder, mut client) = knock(dirs, deadline)?;
        match status(&mut client, deadline) {
            Ok(status) => return Ok((holder, status)),
            // One that ends while we ask hangs up: the lock tells what came of it.
            Err(_) if Instant::now() + CONTROL_PAUSE < deadline => thread::sleep(CONTROL_PAUSE),
            Err(why) => return Err(NoAnswer::Silent { holder, why }),
        }
    }
}

/// Asks a gateway of another user, whose lock is not for us to look at: its socket or nothing.
pub fn contact_foreign(dirs: &Dirs, deadline: Instant) -> Contact<Value> {
    let mut why = String::new();
    for place in [dirs.clone(), dirs.without_runtime()] {
        let path = place.control_socket();
        let opened = open(&path).map_err(|e| format!("{}: {e}", path.display()));
        match opened.and_then(|mut client| status(&mut client, deadline)) {
            Ok(status) => return Ok((None, status)),
            Err(e) => why = e,
        }
    }
    Err(NoAnswer::Hidden(why))
}

fn open(path: &Path) -> io::Result<Client<'static>> {
    Client::new(connect_unix(path)?, "localhost", CONTROL_WRITE_PATIENCE)
}

/// `GET /v1/status`.
fn status(client: &mut Client<'_>, deadline: Instant) -> Result<Value, String> {
    let answer =
        client.send("GET", "/v1/status", &[], None, deadline).map_err(|e| e.to_string())?;
    let code = answer.status;
    let body = answer.body(MAX_STATUS, deadline).map_err(|e| e.to_string())?;
    if code != 200 {
        return Err(format!("it answered with status {code}"));
    }
    serde_json::from_slice(&body)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| "its answer is no JSON object".to_owned())
}
