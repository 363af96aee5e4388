//! Settings with a fixed set of words.

use super::{Busy, LogTarget, Role};
use crate::subprocess::Leftovers;
use log::LevelFilter;

/// A setting with a fixed set of words.
pub trait EnumSetting {
    fn words(&self) -> &'static [&'static str];
    fn word(&self) -> &'static str;
    /// Takes the value that the word names; false if no value has that name.
    fn choose(&mut self, word: &str) -> bool;
}

macro_rules! named {
    ($($kind:ident: $($name:literal = $value:ident),*;)*) => {
        $(impl EnumSetting for $kind {
            fn words(&self) -> &'static [&'static str] {
                &[$($name),*]
            }

            fn word(&self) -> &'static str {
                match self { $($kind::$value => $name),* }
            }

            fn choose(&mut self, word: &str) -> bool {
                match word {
                    $($name => *self = $kind::$value,)*
                    _ => return false,
                }
                true
            }
        })*
    };
}

named! {
    Role: "user" = User, "operator" = Operator;
    Busy: "queue" = Queue, "interrupt" = Interrupt;
    Leftovers: "kill" = Kill, "keep" = Keep;
    LogTarget: "auto" = Auto, "stderr" = Stderr, "journal" = Journal, "syslog" = Syslog;
    LevelFilter: "off" = Off, "error" = Error, "warn" = Warn, "info" = Info, "debug" = Debug,
        "trace" = Trace;
}
