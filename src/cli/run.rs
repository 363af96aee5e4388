//! `run`: the gateway itself.

use std::env;
use std::sync::{Arc, Mutex};

use super::config;
use super::context::Context;
use crate::exit::Exit;
use crate::gateway::{self, Handover, Plan};
use crate::lifecycle::signals::Signals;
use crate::sys::fs::can_write_in;
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::systemd::{Scope, cgroup};

/// Runs until it is stopped. `ephemeral`: messages and transcripts end with the run.
/// `inherited`: what this process had before it became this program.
pub fn run(context: &Context, signals: Signals, inherited: Handover, ephemeral: bool) -> Exit {
    let had_file = Arc::new(inherited.had_file.into());
    let inherited = Arc::new(Mutex::new(inherited));
    let mut plan = Plan { ephemeral, inherited, had_file, ..config::plan(context) };
    if is_system_service() {
        // The user's runtime directory goes when that user logs out; the machine's service stays.
        plan.dirs = plan.dirs.without_runtime();
    }
    if ephemeral && !can_write_in(&plan.dirs.state) {
        // Where that fails too, the start says what is wrong with the state directory.
        plan.dirs = context.base.without_state(&plan.name).unwrap_or(plan.dirs);
    }
    gateway::run(plan, signals)
}

/// Whether the machine's service manager runs us as a service.
fn is_system_service() -> bool {
    let own = || cgroup::own_unit(&proc::cgroup(Pid::own())?);
    env::var_os("INVOCATION_ID").is_some()
        && own().is_some_and(|own| own.scope == Scope::System && own.unit.ends_with(".service"))
}
