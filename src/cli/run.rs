//! `run`: the gateway itself.

use std::env;
use std::sync::Arc;

use super::Context;
use crate::exit::Exit;
use crate::gateway::{self, Plan};
use crate::lifecycle::signals::Signals;
use crate::sys::fs::can_write_in;
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::systemd::{Scope, cgroup};

/// Runs until it is stopped. `ephemeral`: messages are kept in memory only.
pub fn run(context: Context, signals: Signals, ephemeral: bool) -> Exit {
    let (sources, asked) = (context.named_sources(), context.clone());
    let demanded = Arc::new(move || asked.demands_file());
    let Context { name, base, mut dirs, children, .. } = context;
    if is_system_service() {
        // The user's runtime directory goes when that user logs out; the machine's service stays.
        dirs = dirs.without_runtime();
    }
    if ephemeral && !can_write_in(&dirs.state) {
        // Where that fails too, the start says what is wrong with the state directory.
        dirs = base.without_state(&name).unwrap_or(dirs);
    }
    let plan =
        Plan { name, dirs, sources, demanded, had_file: Arc::default(), children, ephemeral };
    gateway::run(plan, signals)
}

/// Whether the machine's service manager runs us as a service.
fn is_system_service() -> bool {
    let own = || cgroup::own_unit(&proc::cgroup(Pid::own())?);
    env::var_os("INVOCATION_ID").is_some()
        && own().is_some_and(|own| own.scope == Scope::System && own.unit.ends_with(".service"))
}
