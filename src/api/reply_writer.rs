//! Writing a reply to its client: as a whole or as a stream of events, in the format of one API or the
//! other.

use std::{io, sync::Arc};

use super::buffers::Lease;
use super::error::ApiError;
use super::request::LIVE_EVENTS;
use super::response::{json, mark_replayed, mark_upstream, sse_head};
use super::service::Exchange;
use super::warnings::Warnings;
use crate::agent::{Reply, Report, ToolCall};
use crate::http::{Closed, Connection, Request, Stream, sse};
use crate::limits::{SMALL_BUFFER, WRITE_CHUNK};
use crate::stored_text::{PLACEHOLDER, StoredText, inside};

/// The format of an API's replies. `id`: the message's.
pub trait Encoder {
    /// The events before the first chunk.
    fn begin(&mut self, id: &str, out: &mut Vec<u8>);
    fn chunk(&mut self, id: &str, text: &str, out: &mut Vec<u8>);
    /// The events of a piece of a tool call, see [`Reply::call`]; with the placeholder as below.
    fn call(&mut self, _id: &str, _call: (&[ToolCall], usize, &str), _out: &mut Vec<u8>) {}
    /// The events after the last chunk, with [`crate::stored_text::PLACEHOLDER`] for all of the text.
    /// `silent`: there is none.
    fn end(&mut self, id: &str, report: &Report, silent: bool, out: &mut Vec<u8>);
    /// The events instead of these where the turn has failed.
    fn fail(&mut self, id: &str, problem: &ApiError, out: &mut Vec<u8>);
    /// A reply that is not streamed, likewise.
    fn whole(&mut self, id: &str, report: &Report, silent: bool) -> String;
    /// Whether chat completions of the agent's own server can be passed on as they are. Where not, the
    /// end of a stream repeats the whole text.
    fn is_native(&self) -> bool {
        false
    }
}

/// A stream begins with its first chunk, so that errors before it return a normal HTTP error.
pub struct ReplyWriter<'c> {
    encoder: &'c mut dyn Encoder,
    /// The message's, once it has one.
    pub id: String,
    /// An earlier request began it.
    pub replayed: bool,
    warnings: Warnings,
    /// Which of several upstreams answers.
    upstream: Option<String>,
    report: Report,
    /// The encoder's first events were written.
    begun: bool,
    /// Chunks are sent as they come.
    stream: bool,
    /// So is what the agent does beside them.
    pub live: bool,
    /// What was sent is what the agent's own server sent.
    native: bool,
    /// Of the reply so far.
    bytes: usize,
    /// Why the reply was given up, unless the client went away.
    pub refused: Option<ApiError>,
    lease: Lease,
    /// The inside of the text, as far as it is gathered; or all of what is native.
    text: String,
    /// All of the text, where a journal has it.
    stored: Option<StoredText>,
    state: WriterState<'c>,
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
        encoder: &'c mut dyn Encoder,
        (stream, warnings): (bool, Warnings),
    ) -> Self {
        let lease = exchange.lease();
        let Exchange { connection, request, .. } = exchange;
        ReplyWriter {
            encoder,
            id: String::new(),
            replayed: false,
            warnings,
            upstream: None,
            report: Report::default(),
            begun: false,
            stream,
            live: stream && request.header(LIVE_EVENTS).is_some(),
            native: false,
            bytes: 0,
            refused: None,
            lease,
            text: String::new(),
            stored: None,
            state: WriterState::Unsent(connection, request),
        }
    }

    /// Whether what comes goes to the client at once.
    pub fn streams(&self) -> bool {
        self.stream && !matches!(self.state, WriterState::Gone)
    }

    /// Takes budget for so many bytes in all.
    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let grown = self.lease.grow(bytes);
        grown.map(drop).map_err(|problem| {
            self.refused = Some(problem);
            io::ErrorKind::OutOfMemory.into()
        })
    }

    /// The whole text as the journal has it: nothing is gathered from now on.
    pub fn store(&mut self, text: StoredText) -> io::Result<()> {
        let buffers = usize::try_from(text.len()).unwrap_or(usize::MAX).min(2 * WRITE_CHUNK);
        self.stored = Some(text);
        self.grow(buffers)
    }

    /// Sends what is left of the reply, or the error instead of it.
    pub fn finish(mut self, failed: Option<&ApiError>) -> Result<(), Closed> {
        let mut silent = false;
        if failed.is_none() {
            let text = std::mem::take(&mut self.text);
            let stored = self.stored.get_or_insert_with(|| StoredText::Memory(Arc::new(text)));
            silent = stored.len() == 0;
        }
        match self.state {
            WriterState::Unsent(connection, request) if failed.is_some() || !self.stream => {
                let response = match failed {
                    Some(problem) => problem.response(),
                    None if self.native => json(200, PLACEHOLDER.to_string()),
                    None => json(200, self.encoder.whole(&self.id, &self.report, silent)),
                };
                let response = self.warnings.mark(response.extents(&mut self.stored.into_iter()));
                let response = mark_replayed(mark_upstream(response, self.upstream), self.replayed);
                return connection.respond(request, response);
            }
            state => self.state = state,
        }
        let mut out = Vec::new();
        if !self.native {
            self.begin(&mut out);
        }
        match failed {
            Some(problem) => self.encoder.fail(&self.id, problem, &mut out),
            None if self.native => sse::write_data(&mut out, "[DONE]"),
            None => self.encoder.end(&self.id, &self.report, silent, &mut out),
        }
        self.send(&out)?;
        match self.state {
            WriterState::Streaming(stream) => Ok(stream.finish()?),
            WriterState::Unsent(..) | WriterState::Gone => Ok(()),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.encoder.begin(&self.id, out);
        }
    }

    /// Sends events, after the head of the stream where it has not begun.
    fn send(&mut self, events: &[u8]) -> io::Result<()> {
        let long = self.stored.as_ref().is_some_and(|text| text.len() > SMALL_BUFFER as u64);
        if long || events.len() > SMALL_BUFFER {
            self.grow(self.text.len() + events.len().max(WRITE_CHUNK))?;
        }
        let mut stream = match std::mem::replace(&mut self.state, WriterState::Gone) {
            WriterState::Unsent(connection, request) => {
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                let head = mark_upstream(sse_head(), self.upstream.take());
                let head = self.warnings.mark(mark_replayed(head, self.replayed));
                connection.start_stream(request, head).map_err(gone)?
            }
            WriterState::Streaming(stream) => stream,
            WriterState::Gone => return Ok(()),
        };
        let sent = stream.send_with(events, self.stored.as_ref());
        self.state = WriterState::Streaming(stream);
        sent
    }
}

impl Reply for ReplyWriter<'_> {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len();
        if self.stored.is_none() && (!self.stream || !self.encoder.is_native()) {
            self.text += &inside(text);
            if self.text.len() > SMALL_BUFFER {
                self.grow((self.text.len() + WRITE_CHUNK).next_multiple_of(WRITE_CHUNK))?;
            }
        }
        if !self.stream {
            return Ok(());
        }
        for piece in sse::chunks(text) {
            let mut out = Vec::new();
            self.begin(&mut out);
            self.encoder.chunk(&self.id, piece, &mut out);
            self.send(&out)?;
        }
        Ok(())
    }

    fn call(&mut self, calls: &[ToolCall], at: usize, piece: &str) -> io::Result<()> {
        if !self.stream {
            return Ok(());
        }
        // The client was told that it is whole, and may have run it.
        if at + 1 < calls.len() && !piece.is_empty() {
            let words =
                "The upstream mixes the pieces of its tool calls; this takes \"stream\": false.";
            self.refused = Some(ApiError::new(502, "agent_failed", words));
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut out = Vec::new();
        self.begin(&mut out);
        self.encoder.call(&self.id, (calls, at, piece), &mut out);
        // The end of the message before it has the text.
        self.stored = Some(StoredText::Memory(Arc::new(std::mem::take(&mut self.text))));
        let sent = self.send(&out);
        if let Some(StoredText::Memory(text)) = self.stored.take() {
            self.text = Arc::unwrap_or_clone(text);
        }
        sent
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn idle(&mut self) -> io::Result<()> {
        if self.streams() { self.send(b": still here\n\n") } else { Ok(()) }
    }

    fn event(&mut self, word: &'static str, json: &str) {
        if self.live {
            let mut out = Vec::new();
            sse::write_event(&mut out, word, "", json);
            // Whether the client is still there, the next chunk finds out.
            let _ = self.send(&out);
        }
    }

    fn upstream(&mut self, name: &str) {
        self.upstream = Some(name.to_owned());
    }

    fn report(&mut self, report: Report) {
        self.report = report;
    }

    fn native(&self) -> Option<bool> {
        self.encoder.is_native().then(|| self.streams())
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
