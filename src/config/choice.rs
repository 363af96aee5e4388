//! Settings with a fixed set of words.

use super::{AgentKind, Busy, LogTarget, Role, TargetKind};
use crate::subprocess::Leftovers;
use log::LevelFilter;

/// A setting with a fixed set of words.
pub trait Choice {
    fn words(&self) -> Vec<&'static str>;
    fn word(&self) -> &'static str;
    /// Takes the value that the word names; false if no value has that name.
    fn choose(&mut self, word: &str) -> bool;
}

/// The names of an enum's values.
trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Named> Choice for T {
    fn words(&self) -> Vec<&'static str> {
        T::NAMES.iter().map(|(name, _)| *name).collect()
    }

    fn word(&self) -> &'static str {
        let named = T::NAMES.iter().find(|(_, value)| value == self);
        named.map_or("", |(name, _)| name)
    }

    fn choose(&mut self, word: &str) -> bool {
        let named = T::NAMES.iter().find(|(name, _)| *name == word);
        named.map(|(_, value)| *self = *value).is_some()
    }
}

impl Named for AgentKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("echo", AgentKind::Echo),
        ("command", AgentKind::Command),
        ("upstream", AgentKind::Upstream),
    ];
}

impl Named for TargetKind {
    const NAMES: &'static [(&'static str, Self)] =
        &[("callback", TargetKind::Callback), ("command", TargetKind::Command)];
}

impl Named for Role {
    const NAMES: &'static [(&'static str, Self)] =
        &[("user", Role::User), ("operator", Role::Operator)];
}

impl Named for Busy {
    const NAMES: &'static [(&'static str, Self)] =
        &[("queue", Busy::Queue), ("interrupt", Busy::Interrupt)];
}

impl Named for Leftovers {
    const NAMES: &'static [(&'static str, Self)] =
        &[("kill", Leftovers::Kill), ("keep", Leftovers::Keep)];
}

impl Named for LogTarget {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", LogTarget::Auto),
        ("stderr", LogTarget::Stderr),
        ("journal", LogTarget::Journal),
        ("syslog", LogTarget::Syslog),
    ];
}

impl Named for LevelFilter {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
}
