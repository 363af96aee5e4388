//! `error!`, `warn!` and `info!`: the log crate's own put their place in the source beside each call, which
//! no line of ours tells, 100 bytes of the program for each.

use std::fmt::Arguments;

use log::{Level, Record};

/// Hands a line to the logger.
pub fn write(level: Level, line: Arguments<'_>) {
    if level <= log::max_level() {
        log::logger().log(&Record::builder().level(level).args(line).build());
    }
}

macro_rules! error {
    ($($line:tt)*) => { $crate::log_macros::write(log::Level::Error, format_args!($($line)*)) };
}

macro_rules! warn {
    ($($line:tt)*) => { $crate::log_macros::write(log::Level::Warn, format_args!($($line)*)) };
}

macro_rules! info {
    ($($line:tt)*) => { $crate::log_macros::write(log::Level::Info, format_args!($($line)*)) };
}
