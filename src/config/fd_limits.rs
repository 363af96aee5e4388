//! What the limit on open descriptors leaves of the configured limits.

use super::schema::Limits;
use crate::escape::counted;
use crate::limits::MAX_CONNECTIONS;

/// What an idle gateway has open: 18 were measured (signals, wake-ups, listeners, locks, journal,
/// log), and one or two for the service manager.
const OWN_DESCRIPTORS: usize = 20;

/// The control socket's clients, helpers' pipes, senders to targets, files that are read or written.
const RESERVED_DESCRIPTORS: usize = 112;

/// A command's turn: its pidfd and pipes (4 were measured, 7 while it is being started), what cancels it.
const DESCRIPTORS_PER_TURN: usize = 7;

/// A connection's socket, and an event while it waits for a turn.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Where descriptors are few, the reserve for turns and the rest is this part of them, one in so many:
/// at 64 two turns run, and 15 connections at once are served.
const DESCRIPTORS_SHARED: usize = 3;

/// Fewer connections than these are said to be few, though nobody configured more.
const FEW_CONNECTIONS: usize = 1000;

impl Limits {
    /// What of it so many descriptors allow. The reserve keeps files, helpers, turns and the control socket
    /// usable.
    #[must_use]
    pub fn within(&self, descriptors: usize) -> Limits {
        let each = DESCRIPTORS_PER_CONNECTION;
        let free = descriptors.saturating_sub(OWN_DESCRIPTORS);
        let spare = free.saturating_sub(each.saturating_mul(self.max_connections));
        let wanted = RESERVED_DESCRIPTORS + DESCRIPTORS_PER_TURN * self.max_turns;
        let reserve = wanted.min(spare.max(free / DESCRIPTORS_SHARED));
        let max_connections = self.max_connections.min((free - reserve) / each).max(1);
        let max_turns = self.max_turns.min(reserve / DESCRIPTORS_PER_TURN).max(1);
        let few = max_connections < self.max_connections
            && (self.max_connections != MAX_CONNECTIONS.default
                || max_connections < FEW_CONNECTIONS);
        let short_of = (few || max_turns < self.max_turns).then_some(descriptors);
        Limits { max_connections, max_turns, short_of: short_of.or(self.short_of), ..self.clone() }
    }

    /// What there is to say of limits that are lower than wanted.
    pub fn shortage(&self) -> Option<String> {
        let descriptors = self.short_of?;
        let connections = counted(&self.max_connections, "connection");
        let turns = counted(&self.max_turns, "turn");
        Some(format!(
            "the limit of {descriptors} open descriptors allows {connections} and {turns} at once; \
             LimitNOFILE= in the unit raises it, or ulimit -n"
        ))
    }
}
