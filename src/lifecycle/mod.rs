//! When the gateway starts and stops, why it is being stopped, and what it records about that.
//!
//! What belongs here: signals, the evidence about them, the verdict, the phases, and the files that
//! carry these from one process to the next (lock, marker, history). Requests and turns are not
//! known here.

pub mod evidence;
pub mod history;
pub mod instance_lock;
pub mod phase;
pub mod planned_stop_marker;
pub mod signals;
mod state_file;
pub mod verdict;
