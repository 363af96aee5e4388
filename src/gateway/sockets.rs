//! What a start listens on: sockets that were handed over, and those that it binds itself.
//!
//! The service manager keeps copies of our listeners in its file descriptor store and hands them to the
//! next process of the unit: what connects while nobody runs waits in their backlogs. Other parents, a
//! `.socket` unit for example, may have opened sockets for us, too.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use super::control_socket;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::limits::QUERY_DEADLINE;
use crate::sys::socket::Listener;
use crate::systemd::listen_fds::Given;
use crate::systemd::notify::Notifier;

/// The names under which the service manager keeps our listeners.
pub const HTTP: &str = "http";
pub const CONTROL: &str = "control";

/// How many connections are taken over from a listener that is given up: a burst, and far fewer than
/// there are descriptors.
const MAX_TAKEN_OVER: usize = 512;

/// What this process listened on before it became this program.
pub struct Earlier {
    pub tcp: Option<TcpListener>,
    /// It was bound for the address that is configured now.
    pub same: bool,
    pub foreign: bool,
    /// The service manager has copies of them.
    pub kept: bool,
    pub control: Option<UnixListener>,
}

/// A listener, and whether it is our own that comes back, by its name.
struct Handed<L> {
    listener: L,
    own: bool,
}

/// The same, for the two that a gateway has.
struct Sorted {
    http: Option<Handed<(TcpListener, SocketAddr)>>,
    control: Option<Handed<UnixListener>>,
    /// The service manager has a listener for HTTP that is not used.
    stale: bool,
}

/// What a gateway listens on.
pub struct Bound {
    pub tcp: TcpListener,
    /// Whoever opened the TCP listener keeps it: it is not for the service manager's store.
    pub foreign: bool,
    /// One of ours came back: the service manager keeps them.
    pub kept: bool,
    pub control: UnixListener,
    /// What waited on listeners that were given up.
    pub waiting: (Vec<(TcpStream, SocketAddr)>, Vec<UnixStream>),
}

/// Listens: on what was handed over where it fits, else on what `listen` and [`control_socket::bind`]
/// bind. A changed `wanted` address counts for a listener of our own; another's is taken as it is.
///
/// # Errors
/// `Config` for a descriptor that is none of the two, and what the two ways to bind say.
pub fn bind(
    given: Result<Vec<Given>, String>,
    earlier: Earlier,
    wanted: SocketAddr,
    control_path: &Path,
    listen: impl FnOnce() -> Result<TcpListener, Failure>,
) -> Result<Bound, Failure> {
    let given = given.map_err(|e| Failure::new(Exit::Config, e))?;
    let Sorted { http, control, stale } = sort(given, control_path)?;
    let kept = earlier.kept
        || http.as_ref().is_some_and(|http| http.own)
        || control.as_ref().is_some_and(|control| control.own);
    if stale {
        give_up(HTTP);
    }
    let failed = |e: io::Error| Failure::cannot("use a socket that was handed over", &e);
    let (mut tcp_waiting, mut control_waiting) = (Vec::new(), Vec::new());
    let (tcp, foreign) = match (earlier.tcp, http) {
        (None, None) => (listen()?, false),
        (Some(listener), _) if earlier.same || earlier.foreign => (listener, earlier.foreign),
        (Some(listener), _) => {
            // The new address may overlap with its own.
            give_up(HTTP);
            tcp_waiting = taken_over(|| listener.accept());
            drop(listener);
            (listen()?, false)
        }
        (None, Some(Handed { listener: (listener, address), own })) => {
            listener.set_nonblocking(true).map_err(failed)?;
            let mut wanted = wanted;
            // Any free port: also the one that it has.
            wanted.set_port(if wanted.port() == 0 { address.port() } else { wanted.port() });
            match (own, address == wanted) {
                (true, false) => {
                    log::info!("http.listen was {address} before, and is {wanted} now");
                    give_up(HTTP);
                    tcp_waiting = taken_over(|| listener.accept());
                    drop(listener);
                    (listen()?, false)
                }
                (false, false) => {
                    log::info!("listens on {address}, which was handed over, not on {wanted}");
                    (listener, true)
                }
                (own, true) => (listener, !own),
            }
        }
    };
    let bind = || {
        control_socket::bind(control_path).map_err(|e| Failure::with("listen on", control_path, &e))
    };
    let control = match (earlier.control, control) {
        (Some(listener), _) => listener,
        (None, None) => bind()?,
        (None, Some(Handed { listener, own })) => {
            listener.set_nonblocking(true).map_err(failed)?;
            if own {
                // Its path may lead elsewhere by now: what comes from here on takes the new one.
                let new = bind()?;
                control_waiting = taken_over(|| listener.accept().map(|(stream, _)| stream));
                new
            } else {
                listener
            }
        }
    };
    Ok(Bound { tcp, foreign, kept, control, waiting: (tcp_waiting, control_waiting) })
}

/// Tells the service manager to close what it has of this name, and waits until it has.
fn give_up(name: &str) {
    let notifier = Notifier::from_environment();
    notifier.remove(name);
    if let Err(e) = notifier.barrier(Instant::now() + QUERY_DEADLINE) {
        log::warn!("the service manager may still have the {name} listener of before: {e}");
    }
}

/// The connections that wait on a listener.
fn taken_over<T>(accept: impl Fn() -> io::Result<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let (true, Ok(one)) = (all.len() < MAX_TAKEN_OVER, accept()) {
        all.push(one);
    }
    all
}

/// Finds out which descriptor is which.
fn sort(given: Vec<Given>, control_path: &Path) -> Result<Sorted, Failure> {
    let mut sorted = Sorted { http: None, control: None, stale: false };
    for Given { number, name, descriptor } in given {
        let refused = |what: &str| {
            let (name, path) = (escaped(&name, false), control_path.display());
            Failure::new(
                Exit::Config,
                format!(
                    "descriptor {number} ({name}), which was handed over (LISTEN_FDS), is {what}. The \
                     gateway takes one listening TCP socket, and a listening unix socket at {path}: \
                     correct the .socket unit or whatever else started it"
                ),
            )
        };
        match Listener::of(descriptor).map_err(|what| refused(&what))? {
            Listener::Tcp(listener, address) if name != CONTROL => {
                let own = name == HTTP;
                match &sorted.http {
                    Some(other) if !other.own && !own => {
                        return Err(refused(&format!("a second TCP socket, {address}")));
                    }
                    // What another opened is meant; of two of our own the later is the newer.
                    Some(other) => sorted.stale |= other.own || own,
                    None => {}
                }
                if !own || sorted.http.as_ref().is_none_or(|other| other.own) {
                    sorted.http = Some(Handed { listener: (listener, address), own });
                }
            }
            Listener::Unix(listener, path) => {
                let own = name == CONTROL;
                if !own && path.as_deref() != Some(control_path) {
                    let path = path.unwrap_or_default();
                    return Err(refused(&format!("a unix socket at {:?}", path.display())));
                }
                if !own || sorted.control.as_ref().is_none_or(|other| other.own) {
                    sorted.control = Some(Handed { listener, own });
                }
            }
            Listener::Tcp(_, address) => {
                return Err(refused(&format!("a TCP socket, {address}")));
            }
        }
    }
    Ok(sorted)
}
