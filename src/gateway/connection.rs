//! One connection: its thread, its limits, and its place in the counts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::api::{self, Origin, Service};
use crate::http::{Connection, ConnectionActivity, Socket};
use crate::limits::CONNECTION_STACK;
use crate::threads::spawn;

/// What a client that shares its thread may take for its request and to read the answer: others wait.
const SPARE_TIMEOUT: Duration = Duration::from_millis(500);

/// What another process has read of a connection and not used, and whether no request had come.
pub type Unread = (Vec<u8>, bool);

/// Gives a connection its thread.
pub fn start(
    stream: Box<dyn Socket + Send>,
    guard: ConnectionGuard,
    earlier: Option<Unread>,
) -> io::Result<()> {
    let run = move || serve(stream, &guard, earlier);
    spawn("connection", CONNECTION_STACK, Box::new(run)).map(drop)
}

/// Serves a connection to its end; one that shares its thread for one request, which must come at once.
pub fn serve(stream: Box<dyn Socket>, guard: &ConnectionGuard, earlier: Option<Unread>) {
    let ConnectionGuard { service, origin, activity } = guard;
    let mut limits = service.settings().config.limits.clone();
    let mut shutdown = Arc::clone(&service.shutdown);
    if let Origin::Control { spare: true, .. } = origin {
        limits.head_timeout = SPARE_TIMEOUT;
        limits.body_timeout = SPARE_TIMEOUT;
        limits.write_timeout = SPARE_TIMEOUT;
        shutdown = Arc::default();
        shutdown.close(false);
    }
    match Connection::new(stream, limits, shutdown) {
        Ok(mut connection) => {
            connection.activity.clone_from(activity);
            if let Some((unread, new)) = earlier {
                connection.restore(unread, new);
                if !new {
                    service.begin_connection(activity.as_deref());
                }
            }
            api::serve(&mut connection, *origin, service);
            if let Some(unread) = connection.take_unread() {
                service.give_up(connection.as_fd(), *origin, activity.as_deref(), unread);
            }
        }
        Err(e) => log::debug!("a connection from {origin} could not be set up: {e}"),
    }
}

/// A connection in the count of its kind (those on TCP have an activity), for as long as it lives.
pub struct ConnectionGuard {
    pub service: Arc<Service>,
    origin: Origin,
    activity: Option<Arc<ConnectionActivity>>,
}

impl ConnectionGuard {
    pub fn new(
        service: &Arc<Service>,
        origin: Origin,
        activity: Option<Arc<ConnectionActivity>>,
    ) -> ConnectionGuard {
        service.control_connections.fetch_add(activity.is_none().into(), Ordering::SeqCst);
        service.fresh_connections.fetch_add(activity.is_some().into(), Ordering::SeqCst);
        ConnectionGuard { service: Arc::clone(service), origin, activity }
    }

    /// Gives up the socket of a connection that no thread has begun to serve, where that is asked for.
    pub fn give_up_waiting(&self, socket: BorrowedFd<'_>) -> bool {
        let asked = self.service.shutdown.is_handing_over();
        if asked {
            self.service.give_up(socket, self.origin, None, (Vec::new(), true));
        }
        asked
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        match &self.activity {
            Some(activity) => {
                self.service.begin_connection(Some(activity));
                self.service.connections.remove(activity);
            }
            None => drop(self.service.control_connections.fetch_sub(1, Ordering::SeqCst)),
        }
        if self.service.shutdown.is_handing_over() {
            self.service.wake.notify();
        }
    }
}
