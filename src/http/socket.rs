//! What a connection needs of a socket, for TCP and unix ones alike.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connected stream socket in blocking mode. Used behind a `Box`, so that all that is above it
/// exists once in the binary.
pub trait Socket: Read + Write + AsFd {
    /// Sends each write at once: ours are whole already (TCP_NODELAY, tcp(7)).
    fn no_delay(&self) -> io::Result<()>;
    /// SO_RCVTIMEO, socket(7). Never zero.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;
    /// SO_SNDTIMEO, socket(7). Never zero.
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()>;
    /// Tells the peer that nothing more will come (shutdown(2), SHUT_WR).
    fn end_writing(&self) -> io::Result<()>;
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

impl Socket for UnixStream {
    fn no_delay(&self) -> io::Result<()> {
        Ok(())
    }
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
