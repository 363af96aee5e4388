//! What a connection needs of a socket, for TCP and unix ones alike.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// A connected stream socket in blocking mode. Used behind a `Box`, so that all that is above it
/// exists once in the binary.
pub trait Socket: AsFd {
    /// read(2)
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// write(2)
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// SO_RCVTIMEO, socket(7). Never zero.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;
    /// SO_SNDTIMEO, socket(7). Never zero.
    fn set_write_timeout(&self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }
    /// Tells the peer that nothing more will come (shutdown(2), SHUT_WR).
    fn end_writing(&self) -> io::Result<()> {
        Ok(())
    }
    /// Another hold on it; without a descriptor, where that can be.
    fn shared(&self) -> io::Result<Box<dyn AsFd>> {
        Ok(Box::new(self.as_fd().try_clone_to_owned()?))
    }
}

/// Another thread may end it (shutdown(2)) or keep it while its own waits on it.
macro_rules! shared_socket {
    ($stream:ident) => {
        impl Socket for Arc<$stream> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                (&**self).read(buffer)
            }
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (&**self).write(bytes)
            }
            fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
                $stream::set_read_timeout(self, Some(timeout))
            }
            fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
                $stream::set_write_timeout(self, Some(timeout))
            }
            fn end_writing(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
            fn shared(&self) -> io::Result<Box<dyn AsFd>> {
                Ok(Box::new(Arc::clone(self)))
            }
        }
    };
}

shared_socket!(TcpStream);
shared_socket!(UnixStream);
