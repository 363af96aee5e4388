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

macro_rules! named {
    ($($kind:ident: $($name:literal = $value:ident),*;)*) => {
        $(impl Named for $kind {
            const NAMES: &'static [(&'static str, Self)] = &[$(($name, $kind::$value)),*];
        })*
    };
}

named! {
    AgentKind: "echo" = Echo, "command" = Command, "upstream" = Upstream;
    TargetKind: "callback" = Callback, "command" = Command;
    Role: "user" = User, "operator" = Operator;
    Busy: "queue" = Queue, "interrupt" = Interrupt;
    Leftovers: "kill" = Kill, "keep" = Keep;
    LogTarget: "auto" = Auto, "stderr" = Stderr, "journal" = Journal, "syslog" = Syslog;
    LevelFilter: "off" = Off, "error" = Error, "warn" = Warn, "info" = Info, "debug" = Debug,
        "trace" = Trace;
}
