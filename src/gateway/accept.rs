//! Accepts connections on TCP and on the control socket.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::{ConnectionGuard, Unread, start};
use super::sockets::Bound;
use super::spare_thread::{self, Incoming, Waiting};
use crate::api::connections::{AUTHENTICATION_GRACE, Capacity};
use crate::api::{ApiError, HandedOver, Origin, Service, source_prefix};
use crate::config::Config;
use crate::http::Socket;
use crate::shares::Shares;
use crate::sys::fd::{max_open, set_nonblocking};
use crate::sys::gather::Gather;
use crate::sys::poll::{Interest, wait_any};
use crate::sys::process::is_shortage;
use crate::sys::{proc, socket, user};

/// Connections on the control socket at once: commands of one user.
const MAX_CONTROL_CONNECTIONS: usize = 64;

/// How many connections are accepted before the main loop looks at its other duties.
const ACCEPT_BATCH: usize = 64;

/// Tasks that connections leave to others: our own threads, control connections, deliveries.
const RESERVED_TASKS: usize = 32;

/// A turn's thread, and the processes of a small agent.
const TASKS_PER_TURN: usize = 4;

/// Where descriptors allow fewer connections than these, one that is over them waits for its turn: a
/// handful of clients at once is no overload.
const FEW_CONNECTIONS: usize = 64;

/// How long a connection waits for another to end where descriptors are few, before it and those after
/// it are told that there is no room: most clients wait for as long to be connected.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// How many of those that wait when the gateway stops are told so: more would hold its end up.
const MAX_TOLD: usize = 1024;

pub struct Listeners {
    pub tcp: TcpListener,
    pub control: UnixListener,
    /// Whoever opened the TCP listener keeps it.
    pub foreign: bool,
    /// The service manager keeps ours.
    pub kept: bool,
    /// How many tasks the system lets us have.
    tasks: Option<usize>,
    spare_thread: Incoming,
    /// Accepted connections: one that waits for another to end, and those of listeners that were given up.
    next: RefCell<VecDeque<(Arc<TcpStream>, SocketAddr)>>,
    next_control: RefCell<Vec<UnixStream>>,
    /// Since when there has been no room for it.
    full: Cell<Option<Instant>>,
}

impl Listeners {
    /// # Errors
    /// No thread, or no descriptor.
    pub fn new(bound: Bound) -> io::Result<Listeners> {
        let (tasks, spare_thread) = (proc::task_limit(), spare_thread::start()?);
        let Bound { tcp, foreign, kept, control, waiting: (next, next_control) } = bound;
        let next = next.into_iter().map(|(stream, peer)| (Arc::new(stream), peer)).gather().into();
        let (next, next_control, full) = (RefCell::new(next), next_control.into(), Cell::default());
        Ok(Listeners { tcp, control, foreign, kept, tasks, spare_thread, next, next_control, full })
    }

    /// Whether an accepted connection waits; on TCP, where `tcp`.
    pub fn has_next(&self, tcp: bool) -> bool {
        (tcp && !self.next.borrow().is_empty()) || !self.next_control.borrow().is_empty()
    }

    /// Accepts what waits on the control socket and, where `tcp`, on the other listener.
    ///
    /// # Errors
    /// When accepting fails for lack of something: rest for `ACCEPT_BACK_OFF` before the next try.
    pub fn accept(&self, service: &Arc<Service>, tcp: bool) -> io::Result<()> {
        // The control socket first: its few clients are the operator.
        let accept = || self.control.accept().map(|(stream, _)| stream);
        let control = || self.next_control.borrow_mut().pop().map_or_else(accept, Ok);
        let is_awaited = || !self.next_control.borrow().is_empty() || waits(self.control.as_fd());
        let admit = |stream| self.admit_control(stream, service, None);
        let accepted = batch(&control, &is_awaited, &admit);
        let accepted = accepted.and_then(|()| {
            if !tcp {
                return Ok(());
            }
            let capacity = capacity(&service.settings().config, self.tasks);
            let next = || self.next();
            let admit = |accepted| self.admit(accepted, capacity, service, None);
            batch(&next, &|| self.is_awaited(), &admit)
        });
        accepted.inspect_err(|e| {
            if is_shortage(e) {
                service.connections.shed_load(Instant::now());
            }
        })
    }

    /// Has connections give up their sockets: see [`Service::hand_over`].
    pub fn hand_over(&self, service: &Service) {
        service.hand_over();
        for (stream, peer) in self.next.take() {
            service.give_up(stream.as_fd(), Origin::Tcp(peer), None, (Vec::new(), true));
        }
    }

    /// Goes on with connections that were handed over, within the limits of those that are accepted.
    pub fn resume(&self, connections: Vec<HandedOver>, service: &Arc<Service>) {
        let capacity = capacity(&service.settings().config, self.tasks);
        for HandedOver { socket, control, unread, new, principal } in connections {
            let earlier = Some((unread, new));
            let admitted = if control {
                self.admit_control(socket.into(), service, earlier)
            } else {
                let stream = TcpStream::from(socket);
                let peer = stream.peer_addr();
                peer.and_then(|peer| {
                    let accepted = (Arc::new(stream), peer);
                    self.admit(accepted, capacity, service, earlier.map(|it| (it, principal)))
                })
            };
            if let Err(e) = admitted {
                log::debug!("a connection that was handed over has ended: {e}");
            }
        }
    }

    fn next(&self) -> io::Result<(Arc<TcpStream>, SocketAddr)> {
        let accept = || self.tcp.accept().map(|(stream, peer)| (Arc::new(stream), peer));
        self.next.borrow_mut().pop_front().map_or_else(accept, Ok)
    }

    /// Those that wait on TCP, for another listener to go on with.
    pub fn waiting(&self) -> Vec<HandedOver> {
        let waiting = std::iter::from_fn(|| self.tcp.accept().ok()).take(MAX_TOLD);
        let handed_over = |(stream, _): (TcpStream, SocketAddr)| HandedOver {
            socket: stream.into(),
            control: false,
            unread: Vec::new(),
            new: true,
            principal: None,
        };
        waiting.map(handed_over).gather()
    }

    /// Whether somebody waits on TCP.
    pub fn is_awaited(&self) -> bool {
        self.has_next(true) || waits(self.tcp.as_fd())
    }

    /// Tells those that wait on TCP that the gateway stops: just before it does.
    pub fn refuse_waiting(&self) {
        let waiting = std::iter::from_fn(|| self.next().ok()).take(MAX_TOLD);
        waiting.for_each(|(mut stream, _)| refuse(&mut stream, &ApiError::stopping()));
    }

    /// `earlier`: of one that was handed over, and its principal.
    fn admit(
        &self,
        (mut stream, peer): (Arc<TcpStream>, SocketAddr),
        capacity: Capacity,
        service: &Arc<Service>,
        earlier: Option<(Unread, Option<String>)>,
    ) -> io::Result<()> {
        let now = Instant::now();
        let source = source_prefix(peer.ip());
        let Some(activity) = service.connections.admit(&stream, source, capacity, now) else {
            if earlier.is_some() {
                return Err(io::Error::other("there is no room for it"));
            }
            let full = self.full.get().unwrap_or(now);
            self.full.set(Some(full));
            // Those that have just come may be evicted within a moment.
            let short = service.settings().config.limits.within(max_open()).short_of.is_some();
            let timeout = if capacity.few { ROOM_TIMEOUT } else { AUTHENTICATION_GRACE };
            if (capacity.few || !short) && now - full < timeout {
                self.next.borrow_mut().push_front((stream, peer));
                let words = "no connection is free, and none can be closed yet (see `status`)";
                return Err(io::Error::other(words));
            }
            refuse(&mut stream, &too_many());
            return Ok(());
        };
        self.full.set(None);
        // Each write goes at once: ours are whole already (TCP_NODELAY, tcp(7)).
        let _ = stream.set_nodelay(true);
        let (earlier, principal) = earlier.unzip();
        principal.flatten().iter().for_each(|name| service.restore_principal(&activity, name));
        let guard = ConnectionGuard::new(service, Origin::Tcp(peer), Some(activity));
        start(Box::new(Arc::clone(&stream)), guard, earlier)
            .inspect_err(|_| refuse(&mut stream, &too_many()))
    }

    /// Accepts our own uid and root, by the kernel's word.
    fn admit_control(
        &self,
        stream: UnixStream,
        service: &Arc<Service>,
        earlier: Option<Unread>,
    ) -> io::Result<()> {
        let Ok((_, uid)) = socket::peer(&stream) else { return Ok(()) };
        if uid != user::own_uid() && uid != 0 {
            log::warn!(
                "rejected uid {uid} on the control socket: only the gateway's own user and root may \
                 use it"
            );
            return Ok(());
        }
        let mut stream = Arc::new(stream);
        if service.control_connections.load(Ordering::SeqCst) >= MAX_CONTROL_CONNECTIONS {
            refuse(&mut stream, &too_many());
            return Ok(());
        }
        let guard = |spare| ConnectionGuard::new(service, Origin::Control { uid, spare }, None);
        let is_new = earlier.is_none();
        if let Err(e) = start(Box::new(Arc::clone(&stream)), guard(false), earlier) {
            service.connections.shed_load(Instant::now());
            if !is_new {
                return Err(e);
            }
            let since = Instant::now();
            let waiting = Waiting { stream, guard: guard(true), since };
            self.spare_thread.update(|slot| slot.get_or_insert_default().push(waiting));
        }
        Ok(())
    }
}

/// Whether somebody waits on this listener.
fn waits(listener: BorrowedFd<'_>) -> bool {
    let pending = wait_any([Interest::read(listener)], Some(Duration::ZERO));
    pending.is_ok_and(|[pending]| pending)
}

/// Accepts what waits on one listener. Without a free descriptor accept(2) fails also where nobody does.
fn batch<T>(
    accept: &dyn Fn() -> io::Result<T>,
    is_awaited: &dyn Fn() -> bool,
    admit: &dyn Fn(T) -> io::Result<()>,
) -> io::Result<()> {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    for _ in 0..ACCEPT_BATCH {
        match accept().map_err(|e| (e.kind(), e)) {
            Ok(accepted) => admit(accepted)?,
            // Of one connection that went away before it was accepted (accept(2)).
            Err((ConnectionAborted | ConnectionReset | Interrupted, _)) => {}
            Err((WouldBlock, _)) => break,
            Err((_, e)) => return if is_awaited() { Err(e) } else { Ok(()) },
        }
    }
    Ok(())
}

/// What a connection over the cap is told.
fn too_many() -> ApiError {
    ApiError::new(503, "overloaded", "Too many connections; try again later.").after(1)
}

/// Answers a connection that gets no thread, without waiting for it: the answer is short.
fn refuse(stream: &mut dyn Socket, error: &ApiError) {
    let _ = set_nonblocking(stream.as_fd());
    let _ = stream.write(&error.response().close().into_bytes());
    // What the client has sent already is read, or closing would reset the answer away.
    let _ = stream.read(&mut [0; 2048]);
}

/// The most connections that the configuration, descriptors and tasks allow: each needs some of both.
fn capacity(config: &Config, tasks: Option<usize>) -> Capacity {
    let limits = config.limits.within(max_open());
    let taken = RESERVED_TASKS + TASKS_PER_TURN * limits.max_turns;
    let by_tasks = tasks.map_or(usize::MAX, |tasks| tasks.saturating_sub(taken));
    let all = limits.max_connections.min(by_tasks).max(1);
    let few = limits.short_of.is_some() && all < FEW_CONNECTIONS;
    let shares = Shares::of(config);
    Capacity { all, from_one: limits.max_connections_per_address, few, shares }
}

#[cfg(test)]
mod tests;
