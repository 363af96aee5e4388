//! One connection: its thread, its limits, and its place in the counts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::api::{self, Origin, Service};
use crate::http::{Connection, ConnectionActivity, Limits, ShutdownFlag, Socket};
use crate::limits::CONNECTION_STACK;
use crate::threads::spawn;

/// Gives a connection its thread.
pub fn start(stream: Box<dyn Socket + Send>, guard: ConnectionGuard) -> io::Result<()> {
    let (limits, shutdown) = (limits(&guard.service), Arc::clone(&guard.service.shutdown));
    let run = move || serve(stream, &guard, limits, shutdown);
    spawn("connection", CONNECTION_STACK, Box::new(run)).map(drop)
}

/// Serves a connection to its end.
pub fn serve(
    stream: Box<dyn Socket>,
    guard: &ConnectionGuard,
    limits: Limits,
    shutdown: Arc<ShutdownFlag>,
) {
    let (service, origin, activity) = (&guard.service, guard.origin, guard.activity.clone());
    match Connection::new(stream, limits, shutdown) {
        Ok(mut connection) => {
            connection.activity = activity;
            api::serve(connection, origin, service);
        }
        Err(e) => log::debug!("a connection from {origin} could not be set up: {e}"),
    }
}

pub fn limits(service: &Service) -> Limits {
    let settings = service.settings();
    let limits = &settings.config.limits;
    Limits {
        max_body: limits.max_body,
        head_timeout: limits.head_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        write_timeout: limits.write_timeout,
    }
}

/// A connection in the count of its kind (those on TCP have an activity), for as long as it lives.
pub struct ConnectionGuard {
    pub service: Arc<Service>,
    pub origin: Origin,
    activity: Option<Arc<ConnectionActivity>>,
}

impl ConnectionGuard {
    pub fn new(
        service: &Arc<Service>,
        origin: Origin,
        activity: Option<Arc<ConnectionActivity>>,
    ) -> ConnectionGuard {
        service.control_connections.fetch_add(activity.is_none().into(), Ordering::SeqCst);
        ConnectionGuard { service: Arc::clone(service), origin, activity }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        match &self.activity {
            Some(activity) => self.service.connections.remove(activity),
            None => drop(self.service.control_connections.fetch_sub(1, Ordering::SeqCst)),
        }
    }
}
