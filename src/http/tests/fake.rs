//! A socket in memory that hands out its input in given pieces and counts what is asked of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use super::super::{Closed, Connection, Method, Response, ShutdownFlag, Socket};
use super::test_limits;

/// `Socket` wants a descriptor; nothing happens on this one.
static DESCRIPTOR: LazyLock<UnixStream> = LazyLock::new(|| UnixStream::pair().unwrap().0);

#[derive(Default)]
pub struct Log {
    pub written: Vec<u8>,
    pub reads: usize,
    /// Bytes that were handed out.
    pub given: usize,
    pub writes: usize,
    pub settings: usize,
}

pub struct Fake {
    input: VecDeque<Vec<u8>>,
    pub log: Arc<Mutex<Log>>,
}

impl Fake {
    pub fn new(pieces: &[&[u8]]) -> Fake {
        // A read of nothing would be the end.
        let input = pieces.iter().filter(|p| !p.is_empty()).map(|p| p.to_vec());
        Fake { input: input.collect(), log: Arc::default() }
    }

    fn setting(&self) -> io::Result<()> {
        self.log.lock().unwrap().settings += 1;
        Ok(())
    }
}

impl Socket for Fake {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut log = self.log.lock().unwrap();
        log.reads += 1;
        let Some(piece) = self.input.front_mut() else {
            return Ok(0);
        };
        let count = piece.len().min(room.len());
        room[..count].copy_from_slice(&piece[..count]);
        piece.drain(..count);
        log.given += count;
        if piece.is_empty() {
            self.input.pop_front();
        }
        Ok(count)
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.log.lock().unwrap();
        log.writes += 1;
        log.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn set_read_timeout(&self, _: Duration) -> io::Result<()> {
        self.setting()
    }
    fn set_write_timeout(&self, _: Duration) -> io::Result<()> {
        self.setting()
    }
    fn end_writing(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Fake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        DESCRIPTOR.as_fd()
    }
}

/// Bodies larger than this get a 413 in the tables.
pub const CAP: usize = 64;

/// What came of an input: the requests that a handler saw, how it ended, and what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    requests: Vec<String>,
    end: String,
    written: Vec<String>,
}

impl Run {
    /// The requests (`GET /path?query body`) and the status of a refusal, with ` | ` between;
    /// `-` where nothing at all came of it.
    pub fn outcome(&self) -> String {
        let mut all = self.requests.clone();
        all.extend(self.end.get(..3).map(str::to_owned));
        if all.is_empty() { "-".to_owned() } else { all.join(" | ") }
    }
}

/// Runs a connection over `pieces`, with a handler that reads the body and says 200.
pub fn run(pieces: &[&[u8]]) -> Run {
    let fake = Fake::new(pieces);
    let log = Arc::clone(&fake.log);
    let mut requests = Vec::new();
    let mut connection =
        Connection::new(Box::new(fake), test_limits(), Arc::<ShutdownFlag>::default()).unwrap();
    let end = match serve(&mut connection, &mut requests) {
        Ok(()) => String::new(),
        Err(Closed::Refused(refusal)) => format!("{} {}", refusal.status, refusal.reason),
        Err(closed) => closed.to_string(),
    };
    let written = String::from_utf8(log.lock().unwrap().written.clone()).unwrap();
    // 100 Continue is left out: it is sent only where the body has not come along.
    let written = written.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    let lines = written.lines().filter(|l| !l.starts_with("Date: "));
    let written = lines.filter(|l| !l.is_empty()).map(str::to_owned).collect();
    Run { requests, end, written }
}

fn serve(connection: &mut Connection, requests: &mut Vec<String>) -> Result<(), Closed> {
    while let Some(request) = connection.next_request()? {
        let body = connection.read_body(&request, CAP)?;
        let name = match request.method {
            Method::Other => "other".to_owned(),
            known => format!("{known:?}").to_uppercase(),
        };
        let mut line = format!("{name} {}", &request.path);
        if let Some(query) = request.query.as_deref() {
            line += &format!("?{query}");
        }
        if !body.is_empty() {
            line += &format!(" {}", String::from_utf8_lossy(&body));
        }
        requests.push(line);
        connection.respond(&request, Response::text(200, "fine"))?;
    }
    Ok(())
}
