//! The server's side of a connection: requests come out in order, responses go in.
//!
//! It answers what it refuses, keeps every deadline, and leaves the connection only where the next
//! request's first byte is certain. One read and one write serve an ordinary request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::activity::{ConnectionActivity, Stage};
use super::body_reader::BodyReader;
use super::head;
use super::request::{BodyFraming, Method, Request, Version};
use super::response::Response;
use super::scan::{Scan, is_blank};
use super::shutdown_flag::ShutdownFlag;
use super::socket::Socket;
use super::transport::Transport;
use super::{Error, Refusal};
use crate::config::Limits;
use crate::limits::{MAX_SKIPPED_BODY, SKIP_TIMEOUT, SMALL_BUFFER, WRITE_CHUNK};
use crate::sys::poll::{Interest, wait_any};

/// A body must come at this rate or faster, once `body_timeout` has passed: a slow line manages
/// it, and a body of 1 MiB cannot hold a thread for more than 17 minutes.
const MIN_BODY_RATE: u64 = 1 << 10;

/// How much quicker a client has to be whose principal holds more than a quarter of `max_buffered`: a
/// body of 1 MiB is cut off after a minute and a half.
const HURRY: u32 = 16;

/// After a refusal, input is dropped up to here so that the answer gets through.
const MAX_LINGER: usize = 1 << 20;

/// How long that takes at the most: a client that still sends by then has been told often enough.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a parked request looks whether it goes on, where it cannot be told.
const PARKED_PAUSE: Duration = Duration::from_secs(1);

/// The server's side of a connection.
pub struct Connection {
    pub(super) transport: Transport<'static>,
    limits: Limits,
    pub(super) shutdown: Arc<ShutdownFlag>,
    /// The body of the present request, as far as it was not read.
    unread: BodyFraming,
    /// Go out with each response to the present request.
    pub extra: Vec<(&'static str, String)>,
    /// For the table of connections; `None` on the control socket.
    pub activity: Option<Arc<ConnectionActivity>>,
    /// No request has come yet.
    new: bool,
    /// The present request is the first.
    pub first: bool,
    /// The length of the present request's head.
    head: usize,
    pub(super) open: bool,
    /// It has ended so that another process can go on with it.
    handed_over: bool,
    /// Its client has to be quick: its principal holds much that others want.
    pub hurry: bool,
    /// Words the answer to a request that cannot be answered.
    pub error_response: fn(Refusal) -> Response,
}

impl Connection {
    /// # Errors
    /// What the first setting of socket options says.
    pub fn new(
        socket: Box<dyn Socket>,
        limits: Limits,
        shutdown: Arc<ShutdownFlag>,
    ) -> io::Result<Connection> {
        Ok(Connection {
            transport: Transport::new(socket, limits.write_timeout)?,
            limits,
            shutdown,
            unread: BodyFraming::None,
            extra: Vec::new(),
            activity: None,
            new: true,
            first: true,
            head: 0,
            open: true,
            handed_over: false,
            hurry: false,
            error_response: |refusal| Response::text(refusal.status, refusal.reason),
        })
    }

    /// Goes on with a connection that was handed over. Its idle time begins anew.
    pub fn restore(&mut self, unread: Vec<u8>, new: bool) {
        self.transport.restore(unread);
        self.new = new;
    }

    /// What was read and not used, and whether no request has come: for the process that goes on with the
    /// socket, where the connection has ended for that.
    pub fn take_unread(&mut self) -> Option<(Vec<u8>, bool)> {
        self.handed_over.then(|| (self.transport.take(), self.new))
    }

    /// For waiting until the client goes away while its answer is written.
    ///
    /// # Errors
    /// No descriptor.
    pub fn watch(&self) -> io::Result<Box<dyn AsFd>> {
        self.transport.socket.shared()
    }

    /// Whether the key of the present request was taken away: nothing more is to be sent.
    pub(super) fn is_revoked(&self) -> bool {
        self.activity.as_ref().is_some_and(|activity| activity.is_revoked())
    }

    /// Waits for the next request. `None`: the connection has ended as it should, by either side,
    /// by the idle time-out or by its [`ShutdownFlag`], or is handed over.
    pub fn next_request(&mut self) -> Result<Option<Request>, Error> {
        if !self.open || !self.skip_unread()? {
            return Ok(None);
        }
        self.transport.begin_message();
        self.activity.iter().for_each(|activity| activity.enter(Stage::Idle(Instant::now())));
        let mut scan = Scan::default();
        let mut deadline = None;
        loop {
            if self.shutdown.is_handing_over() {
                (self.open, self.handed_over) = (false, true);
                return Ok(None);
            }
            match head::parse(&mut scan, self.transport.data()) {
                Ok(None) => {}
                Err(refusal) => return Err(self.refuse(refusal)),
                Ok(Some((request, length))) => {
                    self.transport.consume(length);
                    self.unread = request.framing;
                    self.extra.clear();
                    (self.head, self.first) = (length, std::mem::take(&mut self.new));
                    self.activity.iter().for_each(|activity| activity.enter(Stage::Received));
                    return Ok(Some(request));
                }
            }
            // A new connection sends a request at once: only between requests a client may take its time.
            let until = if self.transport.data().is_empty() && !self.new {
                self.transport.shrink();
                Instant::now() + self.limits.idle_timeout
            } else {
                let latest = || Instant::now() + self.limits.head_timeout;
                *deadline.get_or_insert_with(latest)
            };
            let filled = self.transport.await_more(until, &self.shutdown);
            let is_silent = is_blank(self.transport.data()) || self.shutdown.is_closing();
            match filled {
                Ok(()) => {}
                Err(Error::CutShort | Error::TimedOut) if is_silent => {
                    self.open = false;
                    return Ok(None);
                }
                Err(error) => return Err(self.answer_error(error, HEAD_CUT_SHORT, HEAD_TOO_SLOW)),
            }
        }
    }

    /// Parks the request that has just come: it is put back from its first byte on, to be read again once
    /// requests are not parked any more. The main thread bounds that time. A client that goes away is
    /// noticed as usual then.
    pub fn park(&mut self) -> Result<(), Error> {
        self.transport.put_back(self.head);
        (self.unread, self.new) = (BodyFraming::None, self.first);
        self.shutdown.parked.fetch_add(1, Ordering::SeqCst);
        let goes_on = self.await_end_of_pause();
        self.shutdown.parked.fetch_sub(1, Ordering::SeqCst);
        goes_on
    }

    fn await_end_of_pause(&self) -> Result<(), Error> {
        while self.shutdown.is_parking() {
            let socket = Interest::end(self.transport.socket.as_fd());
            let news = [socket, Interest::read(self.shutdown.goes_on_event())];
            if let [true, _] = wait_any(news, Some(PARKED_PAUSE))? {
                // Both sides have ended: it was evicted, or reset.
                return Err(Error::CutShort);
            }
        }
        Ok(())
    }

    /// Where the present request is for another process, ends the connection without an answer; says whether.
    /// The first is not: clients send again only what they sent on a connection that was kept.
    pub fn leave(&mut self) -> bool {
        let leaves = !self.first && self.shutdown.is_silent();
        self.open &= !leaves;
        leaves
    }

    /// Reads the body of `request`, at most `cap` bytes (and never more than `max_body`).
    ///
    /// # Errors
    /// The client has been told: 413 too large, 408 too slow, 400 malformed or cut short.
    pub fn read_body(&mut self, request: &Request, cap: usize) -> Result<Vec<u8>, Error> {
        let cap = cap.min(self.limits.max_body);
        let (mut body, begun) = (Vec::new(), Instant::now());
        let fits = !matches!(self.unread, BodyFraming::Length(length) if length > cap as u64);
        if fits && request.expect_continue && self.transport.data().is_empty() {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.transport.write(go_on)?;
        }
        let hurry = if self.hurry { HURRY } else { 1 };
        let (timeout, rate) = (self.limits.body_timeout / hurry, MIN_BODY_RATE * u64::from(hurry));
        let latest = |received: usize| {
            begun + timeout + Duration::from_millis(received as u64 * 1000 / rate)
        };
        match self.read_all(&mut body, cap, latest) {
            Ok(()) => Ok(body),
            Err(error) => Err(self.answer_error(error, BODY_CUT_SHORT, BODY_TOO_SLOW)),
        }
    }

    /// Reads and drops what the handler left of the last request's body. Says whether the
    /// connection can go on.
    fn skip_unread(&mut self) -> Result<bool, Error> {
        let deadline = Instant::now() + SKIP_TIMEOUT;
        match self.read_all(&mut Vec::new(), MAX_SKIPPED_BODY, |_| deadline) {
            Err(error @ Error::Io(_)) => Err(error),
            Ok(()) | Err(_) => Ok(self.open),
        }
    }

    /// Appends all of the present request's body to `body`.
    fn read_all(
        &mut self,
        body: &mut Vec<u8>,
        cap: usize,
        latest: impl Fn(usize) -> Instant,
    ) -> Result<(), Error> {
        let mut reader = BodyReader::new(Some(self.unread));
        let read = reader.read_all(&mut self.transport, body, cap, latest);
        match &read {
            Ok(()) => self.unread = BodyFraming::None,
            Err(_) => self.open = false,
        }
        read
    }

    /// Sends the whole response to `request`; small ones in one write.
    ///
    /// # Errors
    /// The client has gone or reads too slowly; the connection has ended.
    pub fn respond(&mut self, request: &Request, mut response: Response) -> Result<(), Error> {
        if self.is_revoked() {
            response = (self.error_response)(KEY_IS_GONE).close();
        }
        let mut response = response.fields(self.extra.drain(..));
        response.close = self.is_last(request, response.close);
        self.send(&response, request.method == Method::Head, request.version)?;
        if response.close {
            self.close_gracefully();
        }
        Ok(())
    }

    /// Whether no other request may follow this one, whose response says `close` or not.
    pub(super) fn is_last(&self, request: &Request, close: bool) -> bool {
        let can_skip = match self.unread {
            BodyFraming::None => true,
            // A client that waits for 100 may send the body or not: what comes next would be a guess.
            BodyFraming::Length(length) => {
                length <= MAX_SKIPPED_BODY as u64 && !request.expect_continue
            }
            BodyFraming::Chunked => false,
        };
        let goes_on = request.keep_alive && self.open && can_skip;
        close || !goes_on || self.shutdown.is_closing()
    }

    fn send(&mut self, response: &Response, head_only: bool, version: Version) -> io::Result<()> {
        let mut out = Vec::with_capacity(SMALL_BUFFER);
        response.write_head(&mut out, version, false);
        let sent = response.parts(head_only).try_for_each(|(extent, part)| {
            let mut add = |piece: &[u8]| self.add(&mut out, piece);
            extent.map_or(Ok(()), |extent| extent.chunks(WRITE_CHUNK, &mut add))?;
            part.chunks(WRITE_CHUNK).try_for_each(add)
        });
        let sent = sent.and_then(|()| match response.parts(head_only).nth(1) {
            Some(_) => self.write(&out),
            None => self.transport.write(&out),
        });
        self.open &= sent.is_ok();
        sent
    }

    /// Appends a piece to `out`, which is sent first where both are too long for one write.
    fn add(&mut self, out: &mut Vec<u8>, piece: &[u8]) -> io::Result<()> {
        if out.len() + piece.len() > WRITE_CHUNK {
            self.write(out)?;
            out.clear();
        }
        out.extend_from_slice(piece);
        Ok(())
    }

    /// Writes what only the key of the present request opens: it is looked at before each piece.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for (number, piece) in bytes.chunks(WRITE_CHUNK).enumerate() {
            if self.is_revoked() {
                // What ends within must not look whole, nor have anything behind it.
                if number > 0 {
                    self.transport.end_writing();
                }
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.transport.write(piece)?;
        }
        Ok(())
    }

    /// Answers what was not read whole, where that can be, and ends the connection.
    fn answer_error(&mut self, error: Error, cut_short: Refusal, too_slow: Refusal) -> Error {
        match error {
            Error::Refused(refusal) => self.refuse(refusal),
            Error::CutShort => self.refuse(cut_short),
            Error::TimedOut => self.refuse(too_slow),
            Error::Io(_) => error,
        }
    }

    /// Answers a broken rule and ends the connection.
    fn refuse(&mut self, refusal: Refusal) -> Error {
        let response = (self.error_response)(refusal).fields(self.extra.drain(..)).close();
        match self.send(&response, false, Version::Http11) {
            Ok(()) => {
                self.close_gracefully();
                Error::Refused(refusal)
            }
            Err(error) => Error::Io(error),
        }
    }

    pub(super) fn close_gracefully(&mut self) {
        self.open = false;
        self.activity.iter().for_each(|activity| activity.enter(Stage::Closing));
        self.transport.linger(MAX_LINGER, Instant::now() + LINGER_TIMEOUT);
    }
}

impl AsFd for Connection {
    /// For waiting until the client goes away while its answer is in the making.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.socket.as_fd()
    }
}

/// For a client whose key was valid when the request came.
const KEY_IS_GONE: Refusal = Refusal::new(401, "The key of this request was revoked or changed.");
const HEAD_CUT_SHORT: Refusal = Refusal::new(400, "The request ended within its head.");
const HEAD_TOO_SLOW: Refusal = Refusal::new(408, "The request head took too long.");
const BODY_CUT_SHORT: Refusal = Refusal::new(400, "The message ended within its body.");
const BODY_TOO_SLOW: Refusal = Refusal::new(408, "The body took too long.");
