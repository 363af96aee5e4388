//! `restart`: through the service manager, to the READY of the new process.
#![forbid(unsafe_code)]

use super::{Context, start, unit};
use crate::exit::{Exit, Failure};

/// Restarts the installed unit, or starts it where it does not run, and waits until it is ready.
pub fn restart(context: &Context, system: bool) -> Result<Exit, Failure> {
    let unit = unit::find(context, system).ok_or_else(|| unit::not_installed(context, system))?;
    start::bring_up(context, &unit, "restart")
}
