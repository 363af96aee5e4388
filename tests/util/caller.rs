//! A client that outlives what it talks to: no answer is a result too, and no reason to panic.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::http::{self, Connection, Response};

/// A request that takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// One connection to the gateway, kept alive.
pub struct Caller {
    connection: Connection,
    authorization: String,
}

impl Caller {
    /// Over TCP, with the value of its `Authorization`.
    pub fn tcp(address: SocketAddr, authorization: &str) -> io::Result<Caller> {
        let connection = Connection::try_tcp(address, PATIENCE)?;
        Ok(Caller { connection, authorization: authorization.to_owned() })
    }

    /// Over the control socket.
    pub fn unix(path: &Path) -> io::Result<Caller> {
        let connection = Connection::try_unix(path, PATIENCE)?;
        Ok(Caller { connection, authorization: String::new() })
    }

    /// One request, and its whole answer. An error means that none came; the test fails where none
    /// came because the gateway took too long.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        json: &str,
    ) -> io::Result<Response> {
        let answer = self.try_ask(method, target, fields, json);
        if let Err(error) = &answer {
            assert!(!is_late(error), "{method} {target} hangs for {PATIENCE:?}");
        }
        answer
    }

    /// The same, where the caller judges what takes too long: see [`is_late`].
    pub fn try_ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        json: &str,
    ) -> io::Result<Response> {
        let mut all = fields.to_vec();
        if !json.is_empty() {
            all.push(("Content-Type", "application/json"));
        }
        if !self.authorization.is_empty() {
            all.push(("Authorization", &self.authorization));
        }
        let request = http::request(method, target, &all, json.as_bytes());
        self.connection.try_send(&request)?;
        self.connection.try_response()
    }

    /// A message, under a key of its own.
    #[track_caller]
    pub fn post_message(&mut self, session: &str, key: &str, text: &str) -> io::Result<Response> {
        let body = serde_json::json!({ "text": text }).to_string();
        let target = format!("/v1/sessions/{session}/messages");
        self.ask("POST", &target, &[("Idempotency-Key", key)], &body)
    }
}

/// Whether no answer came for as long as [`PATIENCE`].
pub fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
