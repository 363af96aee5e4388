//! The pause before a restart in place, as requests see it, and the end of serving.
//!
//! The order is [`Service::prepare_handover`], [`Service::pause`], once [`Service::is_quiet`]
//! [`Service::hand_over`], once [`Service::is_handed_over`] [`Service::take_handed_over`]. Whenever something
//! may have changed, the main loop is woken. [`Service::resume`] leads back from everywhere.

use std::os::fd::BorrowedFd;

use super::auth::Origin;
use super::handover::HandedOver;
use super::service::Service;
use crate::http::ConnectionActivity;
use crate::limits::STREAM_END_TIMEOUT;

impl Service {
    /// A handover may follow. From [`crate::http::ShutdownFlag::prepare`] on it takes a moment until all who
    /// wait can be told soon; nobody notices.
    pub fn prepare_handover(&self) {
        self.shutdown.prepare();
    }

    /// Nothing new begins. Messages are accepted, reads are answered, event streams go on; a request that
    /// needs a turn at once is parked. Also leads back from [`Service::hand_over`]: what was given up by then
    /// is to be admitted again.
    pub fn pause(&self) {
        self.hub.pause();
        self.shutdown.park();
    }

    /// Whether nothing is at work, and no request is being answered but those that wait for a message
    /// which does not run.
    pub fn is_quiet(&self) -> bool {
        self.hub.busy() == 0 && self.in_flight() <= self.hub.waiting()
    }

    /// Connections give up their sockets, those that are being answered when they have their answer. Those
    /// who wait have it now, and event streams end. To be called once, when nothing is accepted any more.
    pub fn hand_over(&self) {
        self.handover.begin();
        self.shutdown.hand_over();
        self.hub.release();
    }

    /// Whether all have done so, and nothing is at work. Those whose clients are sent the end of something,
    /// and may not read it, are not waited for any more once [`STREAM_END_TIMEOUT`] has passed: to be asked
    /// again then.
    pub fn is_handed_over(&self) -> bool {
        let (left, ending) = self.connections_left();
        let late = self.handover.age().is_some_and(|age| age >= STREAM_END_TIMEOUT);
        self.hub.busy() == 0 && (left == 0 || (left <= ending && late))
    }

    /// Those that were given up. What is not among them ends with the process.
    pub fn take_handed_over(&self) -> Vec<HandedOver> {
        self.handover.take()
    }

    /// Everything goes on as before. What was given up already is to be admitted again.
    #[must_use]
    pub fn resume(&self) -> Vec<HandedOver> {
        self.shutdown.resume();
        self.hub.resume();
        self.take_handed_over()
    }

    /// A stop comes instead: what was parked goes on, what was given up is to be admitted again, and messages
    /// that wait begin no more.
    #[must_use]
    pub fn give_back(&self) -> Vec<HandedOver> {
        self.hub.pause();
        self.shutdown.resume();
        self.take_handed_over()
    }

    /// A connection's own thread gives up its socket.
    pub fn give_up(
        &self,
        socket: BorrowedFd<'_>,
        origin: Origin,
        activity: Option<&ConnectionActivity>,
        unread: (Vec<u8>, bool),
    ) {
        let principal = activity.and_then(|activity| self.connections.principal(activity));
        self.handover.add(socket, origin, principal, unread);
    }
}
