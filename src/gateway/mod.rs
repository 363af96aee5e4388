//! The wiring: puts the parts together, opens the doors, and runs the main loop that closes them.
//!
//! What may enter: who owns what, what the main thread waits for, and the order of start and stop.
#![forbid(unsafe_code)]

mod control;
mod doors;
mod greeting;
mod guests;
mod main_loop;
mod reload;
mod spare;
mod startup;
mod timers;

pub use main_loop::run;

use std::sync::Arc;

use crate::config::Sources;
use crate::dirs::Dirs;
use crate::name::Name;
use crate::subprocess::Children;

/// What the command line settled.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: Name,
    pub dirs: Dirs,
    pub sources: Sources,
    pub children: Arc<Children>,
    /// Messages are kept in memory only (`run --ephemeral`).
    pub ephemeral: bool,
}
