//! The configuration: TOML and `--set` in, one plain [`Config`] out, every mistake named with its
//! place and the way out. Nothing here acts on a value; the rooms that use one are handed it.
//!
//! [`schema`] lists the keys once, with type, range and help. [`parse`] and [`set`] find what was
//! given, [`value`] checks it and puts it in its place in a [`draft`], [`render`] writes it out again.
#![forbid(unsafe_code)]

mod builder;
mod did_you_mean;
mod enum_setting;
mod error;
mod key;
mod load;
mod parse;
mod render;
mod schema;
mod set;
mod target;
#[cfg(test)]
mod tests;
mod toml_errors;
mod units;
mod url;
mod validate;
mod value;
mod warnings;

pub use did_you_mean::nearest;
pub use enum_setting::EnumSetting;
pub use key::{ClientKey, OWNER, Role};
pub use load::{ECHO_UNASKED, Loaded, Sources, fix, load};
pub use render::starter;
pub use schema::{Agent, Http, Limits, Log, Session, Stop};
pub use target::{Secret, Target};
pub use url::Url;

use crate::limits;
use crate::named::ByName;
use crate::text::counted;

/// The effective configuration; [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub http: Http,
    pub agent: Agent,
    pub session: Session,
    pub stop: Stop,
    pub log: Log,
    pub limits: Limits,
    /// `[deliver.NAME]`: where replies can be sent.
    pub deliver: ByName<Target>,
    /// `[keys.NAME]`: who may come in, beside the owner.
    pub keys: ByName<ClientKey>,
}

impl Config {
    /// Whether this principal may steer the gateway by commands in messages.
    pub fn is_operator(&self, principal: &str) -> bool {
        let by_role = self.keys.get(principal).is_some_and(|key| key.role == Role::Operator);
        by_role || self.session.operators.iter().any(|name| name == principal)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Busy {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It ends the turn that runs.
    Interrupt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// The journal's prefixes where stderr is the journal, plain lines elsewhere.
    #[default]
    Auto,
    Stderr,
    Journal,
    Syslog,
}

impl Agent {
    /// Who answers, by what is configured. Users see these words.
    pub fn kind(&self) -> &'static str {
        match (&self.url, self.command.is_empty()) {
            (Some(_), _) => "upstream",
            (None, false) => "command",
            (None, true) => "echo",
        }
    }

    /// Whether the built-in agent answers, with the message itself.
    pub fn is_echo(&self) -> bool {
        self.url.is_none() && self.command.is_empty()
    }
}

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

/// What `max_turns = 0` stands for: by the cores that we may run on.
fn turns_for_this_machine() -> usize {
    crate::sys::process::cores()
        .saturating_mul(limits::TURNS_PER_CORE)
        .min(*limits::MAX_TURNS_RANGE.end())
}
