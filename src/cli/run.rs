//! `run`: the gateway itself.
#![forbid(unsafe_code)]

use super::Context;
use crate::exit::{Exit, Failure};
use crate::gateway::{self, Plan};
use crate::lifecycle::signals::Signals;
use crate::sys::process::Pid;

/// Installs the signal handlers.
pub fn catch_signals() -> Result<Signals, Failure> {
    let reap = Pid::own().get() == 1;
    Signals::catch(reap).map_err(|e| Failure::cannot("catch signals", &e))
}

/// Runs until it is stopped.
pub fn run(context: Context, signals: Signals) -> Exit {
    let sources = context.sources();
    let Context {
        name,
        dirs,
        children,
        ..
    } = context;
    gateway::run(
        Plan {
            name,
            dirs,
            sources,
            children,
        },
        signals,
    )
}
