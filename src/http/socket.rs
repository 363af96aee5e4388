//! What a connection needs of a socket, for TCP and unix ones alike.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// A connected stream socket in blocking mode. Used behind a `Box`, so that all that is above it
/// exists once in the binary.
pub trait Socket: Read + Write + AsFd {
    /// Sends each write at once: ours are whole already (TCP_NODELAY, tcp(7)).
    fn no_delay(&self) -> io::Result<()> {
        Ok(())
    }
    /// SO_RCVTIMEO, socket(7). Never zero.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;
    /// SO_SNDTIMEO, socket(7). Never zero.
    fn set_write_timeout(&self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }
    /// Tells the peer that nothing more will come (shutdown(2), SHUT_WR).
    fn end_writing(&self) -> io::Result<()>;
    /// Another hold on it, where that takes no descriptor.
    fn shared(&self) -> Option<Shared> {
        None
    }
}

impl Socket for TcpStream {
    fn no_delay(&self) -> io::Result<()> {
        self.set_nodelay(true)
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(self, Some(timeout))
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_write_timeout(self, Some(timeout))
    }
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// One that somebody else may end (shutdown(2)) while its thread waits on it.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<TcpStream>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket for Shared {
    fn no_delay(&self) -> io::Result<()> {
        self.0.no_delay()
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        Socket::set_read_timeout(&*self.0, timeout)
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        Socket::set_write_timeout(&*self.0, timeout)
    }
    fn end_writing(&self) -> io::Result<()> {
        self.0.end_writing()
    }
    fn shared(&self) -> Option<Shared> {
        Some(self.clone())
    }
}

impl Socket for UnixStream {
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        UnixStream::set_read_timeout(self, Some(timeout))
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        UnixStream::set_write_timeout(self, Some(timeout))
    }
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}
