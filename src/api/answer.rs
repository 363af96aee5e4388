//! The way of a reply to its client: collected, or event by event, in the words of one API or the
//! other.

use std::io;

use super::error::Problem;
use super::idempotency;
use crate::agent::{Native, Reply, Report};
use crate::http::{Closed, Connection, Request, Response, Stream, sse};

/// How an API words a reply. `id`: the message's.
pub trait Shape {
    /// The events before the first piece.
    fn begin(&mut self, id: &str, out: &mut Vec<u8>);
    fn piece(&mut self, id: &str, text: &str, out: &mut Vec<u8>);
    /// The events after the last piece.
    fn end(&mut self, id: &str, report: &Report, out: &mut Vec<u8>);
    /// What takes their place where the turn has failed.
    fn fail(&mut self, id: &str, problem: &Problem, out: &mut Vec<u8>);
    /// A reply that is not streamed.
    fn whole(&mut self, id: &str, text: &str, report: &Report) -> String;
    /// Whether chat completions of the agent's own server can be passed on as they are.
    fn is_native(&self) -> bool {
        false
    }
}

/// A stream begins with its first piece, so that what fails before has a status of its own.
pub struct Answer<'c> {
    shape: &'c mut dyn Shape,
    /// The message's, once it has one.
    pub id: String,
    /// An earlier request began it.
    pub replayed: bool,
    report: Report,
    /// The shape's first events were sent.
    begun: bool,
    /// What was sent are the words of the agent's own server.
    native: bool,
    /// How many of the reply there were.
    pub bytes: usize,
    way: Way<'c>,
}

enum Way<'c> {
    Waiting(&'c mut Connection, &'c Request),
    Collecting(&'c mut Connection, &'c Request, String),
    Streaming(Stream<'c>),
    /// The client went away.
    Gone,
}

impl<'c> Answer<'c> {
    pub fn new(
        connection: &'c mut Connection,
        request: &'c Request,
        shape: &'c mut dyn Shape,
        stream: bool,
    ) -> Answer<'c> {
        let way = if stream {
            Way::Waiting(connection, request)
        } else {
            Way::Collecting(connection, request, String::new())
        };
        let (id, report) = (String::new(), Report::default());
        Answer { shape, id, replayed: false, report, begun: false, native: false, bytes: 0, way }
    }

    /// Whether pieces go out as they come.
    pub fn streams(&self) -> bool {
        matches!(self.way, Way::Waiting(..) | Way::Streaming(_))
    }

    pub fn finish(mut self) -> Result<(), Closed> {
        if let Way::Collecting(connection, request, text) = self.way {
            let whole =
                if self.native { text } else { self.shape.whole(&self.id, &text, &self.report) };
            let response = Response::new(200, "application/json", whole.into_bytes());
            return connection.respond(request, marked(response, self.replayed));
        }
        let mut out = Vec::new();
        if self.native {
            sse::write_data(&mut out, "[DONE]");
        } else {
            self.begin(&mut out);
            self.shape.end(&self.id, &self.report, &mut out);
        }
        self.send(&out)?;
        self.end_stream()
    }

    pub fn fail(mut self, problem: &Problem) -> Result<(), Closed> {
        match self.way {
            Way::Waiting(connection, request) | Way::Collecting(connection, request, _) => {
                connection.respond(request, marked(problem.response(), self.replayed))
            }
            Way::Streaming(_) => {
                let mut out = Vec::new();
                if !self.native {
                    self.begin(&mut out);
                }
                self.shape.fail(&self.id, problem, &mut out);
                self.send(&out)?;
                self.end_stream()
            }
            Way::Gone => Ok(()),
        }
    }

    fn end_stream(self) -> Result<(), Closed> {
        match self.way {
            Way::Streaming(stream) => Ok(stream.finish()?),
            Way::Waiting(..) | Way::Collecting(..) | Way::Gone => Ok(()),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.shape.begin(&self.id, out);
        }
    }

    /// Sends events, after the head of the stream where it has not begun.
    fn send(&mut self, events: &[u8]) -> io::Result<()> {
        if let Way::Waiting(..) = self.way
            && let Way::Waiting(connection, request) = std::mem::replace(&mut self.way, Way::Gone)
        {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            let stream = connection.start_stream(request, marked(sse_head(), self.replayed));
            self.way = Way::Streaming(stream.map_err(gone)?);
        }
        match &mut self.way {
            Way::Streaming(stream) => stream.send(events),
            Way::Waiting(..) | Way::Collecting(..) | Way::Gone => Ok(()),
        }
    }
}

impl Reply for Answer<'_> {
    fn piece(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len();
        if let Way::Collecting(_, _, whole) = &mut self.way {
            whole.push_str(text);
            return Ok(());
        }
        let mut out = Vec::new();
        self.begin(&mut out);
        for piece in super::sessions::pieces(text) {
            self.shape.piece(&self.id, piece, &mut out);
        }
        self.send(&out)
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

impl Native for Answer<'_> {
    fn streams(&self) -> bool {
        Answer::streams(self)
    }

    fn object(&mut self, json: String, bytes: usize) -> io::Result<()> {
        self.native = true;
        self.bytes += bytes;
        if let Way::Collecting(_, _, whole) = &mut self.way {
            *whole = json;
            return Ok(());
        }
        let mut out = Vec::new();
        sse::write_data(&mut out, &json);
        self.send(&out)
    }
}

/// A response, which may be the repetition of an earlier one.
pub fn marked(response: Response, replayed: bool) -> Response {
    if replayed { response.header(idempotency::REPLAYED, "true") } else { response }
}

pub fn sse_head() -> Response {
    // Asks nginx not to collect a stream before it passes it on.
    Response::empty(200)
        .header("Content-Type", "text/event-stream")
        .header("X-Accel-Buffering", "no")
}
