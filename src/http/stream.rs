//! A response that is written as it comes into being.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::Error;
use super::connection::Connection;
use super::request::{Method, Request, Version};
use super::response::Response;
use crate::limits::MAX_CHUNK;
use crate::stored_text::{PLACEHOLDER, StoredText};
use crate::sys::socket::reset_on_close;

/// A response in pieces. Dropped without [`Stream::finish`] it ends the connection in a way that
/// the client can tell from a whole response.
pub struct Stream<'c> {
    connection: &'c mut Connection,
    /// In HTTP/1.0 it ends with the connection.
    chunked: bool,
    /// The request was HEAD: the head is all there is.
    silent: bool,
    /// The connection ends after it.
    last: bool,
    finished: bool,
}

impl Connection {
    /// Begins a response that comes in pieces: chunked, or up to the end of the connection where
    /// the client speaks HTTP/1.0. Status and fields are those of `head`, which goes out at once.
    pub fn start_stream(&mut self, request: &Request, head: Response) -> Result<Stream<'_>, Error> {
        if self.is_revoked() {
            self.respond(request, head)?;
            return Err(Error::Io(io::ErrorKind::PermissionDenied.into()));
        }
        let mut head = head.fields(self.extra.drain(..));
        let chunked = request.version == Version::Http11;
        head.close = self.is_last(request, head.close || !chunked);
        let mut out = Vec::new();
        head.write_head(&mut out, request.version, true);
        // Until it is finished, nothing may follow.
        self.open = false;
        self.transport.write(&out)?;
        let silent = request.method == Method::Head;
        Ok(Stream { connection: self, chunked, silent, last: head.close, finished: false })
    }
}

impl Stream<'_> {
    /// Sends `piece` at once, in one write where it is small. An empty piece sends nothing: in the
    /// chunked coding it would mean the end.
    ///
    /// # Errors
    /// The client has gone, or reads too slowly and has been cut off.
    pub fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        if piece.is_empty() || self.silent {
            return Ok(());
        }
        if !self.chunked {
            return self.connection.write(piece);
        }
        let size = format!("{:X}\r\n", piece.len());
        self.connection.write(&[size.as_bytes(), piece, b"\r\n"].concat())
    }

    /// Sends `text`, with an extent in each of its places piece by piece.
    ///
    /// # Errors
    /// As above, or what reading it says.
    pub fn send_with(&mut self, text: &[u8], extent: Option<&StoredText>) -> io::Result<()> {
        let Some(extent) = extent else { return self.send(text) };
        for (part, text) in text.split(|byte| *byte == PLACEHOLDER as u8).enumerate() {
            if part > 0 {
                extent.chunks(MAX_CHUNK, &mut |piece| self.send(piece))?;
            }
            self.send(text)?;
        }
        Ok(())
    }

    /// Whether the key of its request was taken away: nothing more can be sent.
    pub fn is_revoked(&self) -> bool {
        self.connection.is_revoked()
    }

    /// Ends the response; the connection is ready for the next request where it may go on.
    pub fn finish(mut self) -> io::Result<()> {
        if self.chunked && !self.silent {
            self.connection.transport.write(b"0\r\n\r\n")?;
        }
        self.finished = true;
        self.connection.open = true;
        if self.last {
            self.connection.close_gracefully();
        }
        Ok(())
    }
}

impl AsFd for Stream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Without the last chunk the client sees that something is missing. Without chunks only
        // a reset tells: an orderly end would look like the whole.
        match self.chunked {
            true => self.connection.transport.end_writing(),
            false => reset_on_close(self.connection.as_fd()),
        }
    }
}
