//! What we tell the service manager: sd_notify(3), a datagram to `NOTIFY_SOCKET`.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::cancel::readable_by;
use crate::sys::{process::Pid, socket::send_descriptors};

/// How long a service manager that does not read may hold the main loop up for a message.
const NOTIFY_TIMEOUT: Duration = Duration::from_millis(200);

/// The way to the service manager; silent where there is none.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    /// Connects to `NOTIFY_SOCKET`; an abstract name starts with `@`.
    pub fn from_environment() -> Notifier {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|address| {
            let warn = |e: &io::Error| {
                log::warn!("NOTIFY_SOCKET={} cannot be reached: {e}", address.display());
            };
            connect(&address).inspect_err(warn).ok()
        });
        Notifier { socket }
    }

    /// Sends one message of `KEY=VALUE` lines. A failure is logged: the manager's own time-outs
    /// decide what comes of it.
    pub fn send(&self, message: &str) {
        self.send_with(message, &[]);
    }

    fn send_with(&self, message: &str, descriptors: &[BorrowedFd<'_>]) {
        let send = |socket: &UnixDatagram| {
            send_descriptors(socket.as_fd(), message.as_bytes(), descriptors)
        };
        if let Some(Err(e)) = self.socket.as_ref().map(send) {
            log::warn!("the service manager was not told {message:?}: {e}");
        }
    }

    /// Has the service manager keep a copy of a descriptor under this name, and hand it to the next
    /// process of the unit (`FileDescriptorStoreMax=`, systemd.service(5)). One that it has it keeps once.
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.send_with(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor]);
    }

    /// Has the service manager close what it keeps under this name.
    pub fn remove(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// Waits until the service manager has done what it was told before: it closes what comes with
    /// `BARRIER=1` (sd_notify_barrier(3)).
    ///
    /// # Errors
    /// TimedOut: it has not by the deadline.
    pub fn barrier(&self, deadline: Instant) -> io::Result<()> {
        if self.socket.is_none() {
            return Ok(());
        }
        let (reader, writer) = io::pipe()?;
        self.send_with("BARRIER=1", &[writer.as_fd()]);
        drop(writer);
        if readable_by(reader.as_fd(), deadline)? {
            Ok(())
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    /// `STATUS=`, for `systemctl status`: one line, no controls.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }
}

fn connect(address: &OsString) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // The main loop sends: a manager that does not read may not hold it for long.
    socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
    Ok(socket)
}

/// How often the service manager wants a sign of life: half of `WATCHDOG_USEC` (sd_watchdog_enabled(3)),
/// when `WATCHDOG_PID` is us or absent.
pub fn watchdog_interval() -> Option<Duration> {
    let for_us = env::var("WATCHDOG_PID").map_or(true, |pid| pid == Pid::own().to_string());
    let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (for_us && micros > 0).then(|| Duration::from_micros(micros) / 2)
}
