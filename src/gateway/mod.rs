//! The wiring: puts the parts together, begins to listen, and runs the main loop that ends it.
//!
//! What may enter: who owns what, what the main thread waits for, and the order of start and stop.

mod accept;
mod banner;
mod connection;
mod control_socket;
mod handover;
mod main_loop;
mod proof;
mod reload;
mod replace;
mod sockets;
mod spare_thread;
mod start_check;
mod startup;
mod stop_timeout;
mod update;

pub use handover::{Handover, Inherited};
pub use main_loop::run;
pub use proof::{Proven, prove};
pub use replace::take_over;
pub use start_check::check_start;
pub use startup::{check, hub};

use std::{ffi::OsString, path::PathBuf, sync::Arc, sync::atomic::AtomicBool};

use crate::config::Sources;
use crate::dirs::Dirs;
use crate::name::Name;
use crate::subprocess::Children;

/// What the command line settled.
#[derive(Clone)]
pub struct Plan {
    pub name: Name,
    pub dirs: Dirs,
    pub sources: Sources,
    /// Whether a missing or empty file is a mistake for another reason. Not for the main thread.
    pub demanded: Arc<dyn Fn() -> bool + Send + Sync>,
    /// This run's configuration came from a file, so that a missing or empty one is a mistake.
    pub had_file: Arc<AtomicBool>,
    pub children: Arc<Children>,
    /// Messages are kept in memory, transcripts in the runtime directory (`run --ephemeral`).
    pub ephemeral: bool,
    /// What this process had before it became this program.
    pub inherited: Inherited,
    /// Where our program is, as it was called: an upgrade is found there.
    pub program: PathBuf,
    /// What we were called, and our arguments.
    pub arguments: Vec<OsString>,
}
