//! What a connection needs of a socket, for TCP and unix ones alike.

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
    fn shared(&self) -> Option<Box<dyn AsFd>> {
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

/// One that somebody else may end (shutdown(2)) or keep while its thread waits on it.
#[derive(Debug)]
pub struct Shared<S>(pub Arc<S>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Shared<S> {
        Shared(Arc::clone(&self.0))
    }
}

impl<S> Read for Shared<S>
where
    for<'a> &'a S: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl<S> Write for Shared<S>
where
    for<'a> &'a S: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: AsFd> AsFd for Shared<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<S: Socket + 'static> Socket for Shared<S>
where
    for<'a> &'a S: Read + Write,
{
    fn no_delay(&self) -> io::Result<()> {
        self.0.no_delay()
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }
    fn end_writing(&self) -> io::Result<()> {
        self.0.end_writing()
    }
    fn shared(&self) -> Option<Box<dyn AsFd>> {
        Some(Box::new(self.clone()))
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
