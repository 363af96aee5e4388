//! The way of a reply to its client: collected, or event by event, in the words of one API or the
//! other.

use std::io;
use std::sync::Arc;

use super::buffers::Lease;
use super::error::ApiError;
use super::messages::json;
use super::{Exchange, Service, idempotency};
use crate::agent::{Native, Reply, Report};
use crate::extent::{Extent, PLACE, inside};
use crate::http::{Closed, Connection, Request, Response, Stream, sse};
use crate::limits::{SMALL_BUFFER, WRITE_PIECE};

/// How an API words a reply. `id`: the message's.
pub trait Encoder {
    /// The events before the first piece.
    fn begin(&mut self, id: &str, out: &mut Vec<u8>);
    fn piece(&mut self, id: &str, text: &str, out: &mut Vec<u8>);
    /// The events after the last piece, with [`crate::extent::PLACE`] for all of the text.
    fn end(&mut self, id: &str, report: &Report, out: &mut Vec<u8>);
    /// What takes their place where the turn has failed.
    fn fail(&mut self, id: &str, problem: &ApiError, out: &mut Vec<u8>);
    /// A reply that is not streamed, with [`crate::extent::PLACE`] for its text.
    fn whole(&mut self, id: &str, report: &Report) -> String;
    /// Whether chat completions of the agent's own server can be passed on as they are. Where not, the
    /// end of a stream says all of it again.
    fn is_native(&self) -> bool {
        false
    }
}

/// A stream begins with its first piece, so that what fails before has a status of its own.
pub struct ReplyWriter<'c> {
    shape: &'c mut dyn Encoder,
    /// The message's, once it has one.
    pub id: String,
    /// An earlier request began it.
    pub replayed: bool,
    report: Report,
    /// The shape's first events were sent.
    begun: bool,
    /// Pieces go out as they come.
    stream: bool,
    /// What was sent are the words of the agent's own server.
    native: bool,
    /// How many of the reply there were.
    bytes: usize,
    /// Why it was given up, where that was not the client's doing.
    pub refused: Option<ApiError>,
    service: &'c Service,
    lease: Lease,
    /// The inside of the text, as far as it is gathered; or all of what is native.
    text: String,
    /// All of the text, where a journal has it.
    stored: Option<Extent>,
    way: WriterState<'c>,
}

enum WriterState<'c> {
    Unsent(&'c mut Connection, &'c Request),
    Streaming(Stream<'c>),
    /// The client went away.
    Gone,
}

impl<'c> ReplyWriter<'c> {
    pub fn new(
        exchange: Exchange<'c>,
        shape: &'c mut dyn Encoder,
        stream: bool,
    ) -> ReplyWriter<'c> {
        let Exchange { connection, request, service, proof } = exchange;
        ReplyWriter {
            shape,
            id: String::new(),
            replayed: false,
            report: Report::default(),
            begun: false,
            stream,
            native: false,
            bytes: 0,
            refused: None,
            service,
            lease: Lease::of(service, proof),
            text: String::new(),
            stored: None,
            way: WriterState::Unsent(connection, request),
        }
    }

    /// Takes budget for so many bytes in all.
    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let grown = self.lease.grow(self.service, bytes);
        grown.map(drop).map_err(|problem| {
            self.refused = Some(problem);
            io::ErrorKind::OutOfMemory.into()
        })
    }

    /// The whole text as the journal has it: nothing is gathered from now on.
    pub fn store(&mut self, text: Extent) -> io::Result<()> {
        let buffers = usize::try_from(text.len()).unwrap_or(usize::MAX).min(2 * WRITE_PIECE);
        self.stored = Some(text);
        self.grow(buffers)
    }

    /// Whether pieces go out as they come.
    pub fn streams(&self) -> bool {
        self.stream && !matches!(self.way, WriterState::Gone)
    }

    pub fn finish(mut self) -> Result<(), Closed> {
        let text = std::mem::take(&mut self.text);
        self.stored.get_or_insert_with(|| Extent::Memory(Arc::new(text)));
        if !self.stream
            && let WriterState::Unsent(connection, request) = self.way
        {
            let all = PLACE.to_string();
            let body = if self.native { all } else { self.shape.whole(&self.id, &self.report) };
            let response = json(200, body).extents(self.stored);
            return connection.respond(request, mark_replayed(response, self.replayed));
        }
        let mut out = Vec::new();
        if self.native {
            sse::write_data(&mut out, "[DONE]");
        } else {
            self.begin(&mut out);
            self.shape.end(&self.id, &self.report, &mut out);
        }
        self.end(&out)
    }

    pub fn fail(mut self, problem: &ApiError) -> Result<(), Closed> {
        if let WriterState::Unsent(connection, request) = self.way {
            return connection.respond(request, mark_replayed(problem.response(), self.replayed));
        }
        let mut out = Vec::new();
        if !self.native {
            self.begin(&mut out);
        }
        self.shape.fail(&self.id, problem, &mut out);
        self.end(&out)
    }

    /// Sends the last events.
    fn end(mut self, events: &[u8]) -> Result<(), Closed> {
        self.send(events)?;
        match self.way {
            WriterState::Streaming(stream) => Ok(stream.finish()?),
            WriterState::Unsent(..) | WriterState::Gone => Ok(()),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.shape.begin(&self.id, out);
        }
    }

    /// Sends events, after the head of the stream where it has not begun.
    fn send(&mut self, events: &[u8]) -> io::Result<()> {
        let long = self.stored.as_ref().is_some_and(|text| text.len() > SMALL_BUFFER as u64);
        if long || events.len() > SMALL_BUFFER {
            self.grow(self.text.len() + WRITE_PIECE)?;
        }
        let mut stream = match std::mem::replace(&mut self.way, WriterState::Gone) {
            WriterState::Unsent(connection, request) => {
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                let head = mark_replayed(sse_head(), self.replayed);
                connection.start_stream(request, head).map_err(gone)?
            }
            WriterState::Streaming(stream) => stream,
            WriterState::Gone => return Ok(()),
        };
        let sent = stream.send_with(events, self.stored.as_ref());
        self.way = WriterState::Streaming(stream);
        sent
    }
}

impl Reply for ReplyWriter<'_> {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len();
        if self.stored.is_none() && (!self.stream || !self.shape.is_native()) {
            self.text += &inside(text);
            if self.text.len() > SMALL_BUFFER {
                self.grow((self.text.len() + WRITE_PIECE).next_multiple_of(WRITE_PIECE))?;
            }
        }
        if !self.stream {
            return Ok(());
        }
        for piece in super::sessions::pieces(text) {
            let mut out = Vec::new();
            self.begin(&mut out);
            self.shape.piece(&self.id, piece, &mut out);
            self.send(&out)?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn idle(&mut self) -> io::Result<()> {
        if self.streams() { self.send(b": still here\n\n") } else { Ok(()) }
    }

    fn report(&mut self, report: Report) {
        self.report = report;
    }

    fn native(&mut self) -> Option<&mut dyn Native> {
        self.shape.is_native().then_some(self)
    }
}

impl Native for ReplyWriter<'_> {
    fn streams(&self) -> bool {
        ReplyWriter::streams(self)
    }

    fn object(&mut self, json: String, bytes: usize) -> io::Result<()> {
        self.native = true;
        self.bytes += bytes;
        if !self.stream {
            self.text = json;
            return self.grow(self.text.len());
        }
        let mut out = Vec::new();
        sse::write_data(&mut out, &json);
        self.send(&out)
    }
}

/// A response, which may be the repetition of an earlier one.
pub fn mark_replayed(response: Response, replayed: bool) -> Response {
    if replayed { response.header(idempotency::REPLAYED, "true") } else { response }
}

pub fn sse_head() -> Response {
    // Asks nginx not to collect a stream before it passes it on.
    Response::empty(200)
        .header("Content-Type", "text/event-stream")
        .header("X-Accel-Buffering", "no")
}
