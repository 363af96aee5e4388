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

/// What came of talking to a gateway.
#[derive(Debug)]
pub enum Contact<T> {
    /// Nobody holds the lock: no gateway of this name runs.
    Free,
    /// It runs and does not answer; why, in words.
    Silent { holder: Option<Holder>, why: String },
    /// It gave this.
    Answers { holder: Option<Holder>, with: T },
    /// It cannot be told whether one runs; why, in words.
    Hidden(String),
}

/// Connects to the gateway of these directories, until `deadline`. A gateway that is about to listen
/// is waited for.
pub fn knock(dirs: &Dirs, deadline: Instant) -> Contact<Client<'static>> {
    loop {
        let (place, holder) = match probe(dirs) {
            Ok(Probe::Free) => return Contact::Free,
            Ok(Probe::Held { dirs, holder }) => (dirs, holder),
            Err(e) => return Contact::Hidden(e.to_string()),
        };
        let why = match open(&place.control_socket()) {
            Ok(client) => return Contact::Answers { holder, with: client },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => "it accepts no connections".into(),
            Err(e) => format!("{}: {e}", place.control_socket().display()),
        };
        if Instant::now() + CONTROL_PAUSE >= deadline {
            return Contact::Silent { holder, why };
        }
        thread::sleep(CONTROL_PAUSE);
    }
}

/// Asks the gateway of these directories what it is doing: an object, as `GET /v1/status` gives it.
pub fn contact(dirs: &Dirs, deadline: Instant) -> Contact<Value> {
    loop {
        let (holder, mut client) = match knock(dirs, deadline) {
            Contact::Free => return Contact::Free,
            Contact::Hidden(why) => return Contact::Hidden(why),
            Contact::Silent { holder, why } => return Contact::Silent { holder, why },
            Contact::Answers { holder, with } => (holder, with),
        };
        match status(&mut client, deadline) {
            Ok(status) => return Contact::Answers { holder, with: status },
            // One that ends while we ask hangs up: the lock tells what came of it.
            Err(_) if Instant::now() + CONTROL_PAUSE < deadline => thread::sleep(CONTROL_PAUSE),
            Err(why) => return Contact::Silent { holder, why },
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
            Ok(status) => return Contact::Answers { holder: None, with: status },
            Err(e) => why = e,
        }
    }
    Contact::Hidden(why)
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

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::lifecycle::instance::Instance;
    use crate::name::Name;
    use crate::testing::TempDir;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;
    use std::time::Duration;

    pub fn dirs(root: &TempDir) -> Dirs {
        Dirs {
            config_file: root.path().join("c.toml"),
            state: root.path().join("state/gw/coder"),
            runtime: root.path().join("run/gw/coder"),
        }
    }

    pub fn hold(dirs: &Dirs) -> Instance {
        Instance::take(&Name::parse("coder").unwrap(), dirs).unwrap()
    }

    /// A gateway that answers one request after the other with these bytes and hangs up; gives the
    /// requests.
    pub fn fake(dirs: &Dirs, answers: &[&str]) -> JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(dirs.control_socket()).unwrap();
        let answers: Vec<String> = answers.iter().map(|&a| a.to_owned()).collect();
        thread::spawn(move || {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                seen.push(request(&mut stream));
                let _ = stream.write_all(answer.as_bytes());
            }
            seen
        })
    }

    fn request(stream: &mut impl Read) -> String {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let count = stream.read(&mut piece).unwrap();
            bytes.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(count > 0, "{text}");
                continue;
            };
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("Content-Length: "))
                .map_or(0, |l| l.parse().unwrap());
            if body.len() >= length || count == 0 {
                return text;
            }
        }
    }

    pub fn json(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn nobody_there() {
        let root = TempDir::new("control");
        let dirs = dirs(&root);
        assert!(matches!(contact(&dirs, soon()), Contact::Free));
        // What a dead gateway left behind is no gateway.
        drop(hold(&dirs));
        drop(UnixListener::bind(dirs.control_socket()).unwrap());
        assert!(matches!(contact(&dirs, soon()), Contact::Free));
        assert!(matches!(knock(&dirs, soon()), Contact::Free));
    }

    #[test]
    fn one_that_answers() {
        let root = TempDir::new("control");
        let dirs = dirs(&root);
        let _held = hold(&dirs);
        let server = fake(&dirs, &[&json("200 OK", r#"{"state":"serving"}"#)]);
        let Contact::Answers { holder, with: status } = contact(&dirs, soon()) else {
            panic!();
        };
        assert_eq!(status["state"], "serving");
        assert!(holder.is_some());
        let seen = server.join().unwrap();
        assert!(seen[0].starts_with("GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"));
    }

    #[test]
    fn one_that_is_not_listening_yet_is_waited_for() {
        let root = TempDir::new("control");
        let dirs = dirs(&root);
        let _held = hold(&dirs);
        let place = dirs.clone();
        let asking = thread::spawn(move || contact(&place, soon()));
        let server = fake(&dirs, &["", &json("200 OK", "{}")]);
        assert!(matches!(asking.join().unwrap(), Contact::Answers { .. }));
        assert_eq!(server.join().unwrap().len(), 2, "hung up on once");
    }

    #[test]
    fn one_that_does_not_answer() {
        let root = TempDir::new("control");
        let dirs = dirs(&root);
        let _held = hold(&dirs);
        let short = || Instant::now() + Duration::from_millis(60);
        assert!(matches!(contact(&dirs, short()), Contact::Silent { .. }));
        let _listener = UnixListener::bind(dirs.control_socket()).unwrap();
        let Contact::Silent { why, holder } = contact(&dirs, short()) else {
            panic!();
        };
        assert!(why.contains("no answer in time"), "{why}");
        assert!(holder.is_some());
    }

    #[test]
    fn answers_that_say_nothing() {
        for answer in [json("200 OK", "[]"), json("500 No", "{}"), "x".into()] {
            let root = TempDir::new("control");
            let dirs = dirs(&root);
            let _held = hold(&dirs);
            let _server = fake(&dirs, &[&answer]);
            let deadline = Instant::now() + Duration::from_millis(60);
            assert!(matches!(contact(&dirs, deadline), Contact::Silent { .. }));
        }
    }
}
