//! What the limit on open descriptors leaves of the configured limits.

use super::schema::Limits;
use crate::limits;
use crate::text::counted;

impl Limits {
    /// What of it so many descriptors allow. The reserve keeps files, helpers, turns and the control socket
    /// usable.
    #[must_use]
    pub fn within(&self, descriptors: usize) -> Limits {
        let each = limits::DESCRIPTORS_PER_CONNECTION;
        let free = descriptors.saturating_sub(limits::OWN_DESCRIPTORS);
        let spare = free.saturating_sub(each.saturating_mul(self.max_connections));
        let wanted = limits::RESERVED_DESCRIPTORS + limits::DESCRIPTORS_PER_TURN * self.max_turns;
        let reserve = wanted.min(spare.max(free / limits::DESCRIPTORS_SHARED));
        let max_connections = self.max_connections.min((free - reserve) / each).max(1);
        let max_turns = self.max_turns.min(reserve / limits::DESCRIPTORS_PER_TURN).max(1);
        let few = max_connections < self.max_connections
            && (self.max_connections != limits::MAX_CONNECTIONS
                || max_connections < limits::FEW_CONNECTIONS);
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
