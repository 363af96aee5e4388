//! `run`: the gateway itself.

use std::env;

use super::config;
use super::context::Context;
use crate::exit::Exit;
use crate::gateway::{self, Inherited, Plan};
use crate::lifecycle::signals::Signals;
use crate::sys::fs::can_write_in;
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::systemd::{Scope, cgroup};

/// Runs until it is stopped. `ephemeral`: messages and transcripts end with the run.
pub fn run(context: &Context, inherited: Inherited, signals: Signals, ephemeral: bool) -> Exit {
    let mut plan = Plan { ephemeral, ..config::plan(context) };
    if is_system_service() {
        // The user's runtime directory goes when that user logs out; the machine's service stays.
        plan.dirs = plan.dirs.without_runtime();
    }
    if ephemeral && !can_write_in(&plan.dirs.state) {
        // Where that fails too, the start says what is wrong with the state directory.
        plan.dirs = context.base.without_state(&plan.name).unwrap_or(plan.dirs);
    }
    gateway::run(plan, inherited, signals)
}

/// Whether the machine's service manager runs us as a service.
fn is_system_service() -> bool {
    let own = || cgroup::own_unit(&proc::cgroup(Pid::own())?);
    env::var_os("INVOCATION_ID").is_some()
        && own().is_some_and(|own| own.scope == Scope::System && own.unit.ends_with(".service"))
}
