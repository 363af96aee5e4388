//! `run`: the gateway itself.

use std::cell::Cell;
use std::env;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::args::Parsed;
use super::config;
use super::context::Context;
use super::control_client::{connect_to, exchange, request};
use super::exec_path;
use super::output::say;
use super::unit_control::comes_back;
use crate::dirs::Dirs;
use crate::escape::{escaped, quoted};
use crate::exit::{Exit, Failure};
use crate::gateway::{self, Handover, Plan, Proven};
use crate::lifecycle::history;
use crate::lifecycle::instance_lock::{Probe, probe};
use crate::lifecycle::signals::Signals;
use crate::limits::{CONTROL_PAUSE, CONTROL_TIMEOUT};
use crate::sys::fs::{can_write_in, check_private_dir, private_dir};
use crate::sys::gather::Gather;
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::systemd::{Scope, cgroup};
use crate::threads::pause;

/// How long the kernel may take to give the locks of a killed process back: moments.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs until it is stopped. `ephemeral`: messages and transcripts end with the run.
/// `inherited`: what this process had before it became this program.
pub fn run(context: &Context, signals: Signals, inherited: Handover, ephemeral: bool) -> Exit {
    let had_file = Arc::new(inherited.had_file.into());
    let inherited = Arc::new(Mutex::new(inherited));
    let plan = plan(context, ephemeral, can_write_in, private_dir);
    gateway::run(Plan { inherited, had_file, ..plan }, signals)
}

/// What the gateway that runs has, once it gives that up for this one; nothing where none runs.
///
/// # Errors
/// Why it does not. It goes on.
pub fn replace(context: &Context, signals: &mut Signals) -> Result<Handover, Failure> {
    let plan = plan(context, false, can_write_in, private_dir);
    if probe(&plan.dirs).is_ok_and(|found| found == Probe::Free) {
        return Ok(Handover::default());
    }
    // What would stop the start stops nothing else.
    gateway::check(&plan)?;
    let number = Cell::new(Value::Null);
    let taken = gateway::take_over(&plan, signals, |pid| {
        let mut client = connect_to(context)?;
        let (target, deadline) =
            (format!("/v1/restart?kind=replace&pid={pid}"), Instant::now() + CONTROL_TIMEOUT);
        let asked = exchange(&mut client, "POST", &target, &[], None, deadline)?;
        number.set(asked["number"].clone());
        match asked["joined"] == true {
            true => Err(Failure::new(Exit::TryLater, "a restart is under way already")),
            false => Ok(()),
        }
    });
    taken.or_else(|mut failure| {
        // It has said why, if it goes on.
        let number = number.take();
        if !number.is_null()
            && let Ok(mut client) = connect_to(context)
            && let Ok(state) = request(&mut client, "GET", "/v1/status")
            && let failed = &state["restart"]["failed"]
            && failed["number"] == number
            && let Some(why) = failed["why"].as_str()
        {
            failure.0.message = format!("{}: {}", failure.0.message, escaped(why, false));
        } else if ![Exit::Planned, Exit::Terminated].contains(&failure.0.exit)
            && was_killed(&plan.dirs)
            && comes_back(context).is_none()
        {
            // What was killed over it hands nothing over: that makes it a start.
            return Ok(Handover::default());
        }
        Err(failure)
    })
}

/// Whether nobody has the lock, of which the last holder has not entered its end: at most that it hands over.
fn was_killed(dirs: &Dirs) -> bool {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    while !probe(dirs).is_ok_and(|found| found == Probe::Free) {
        if Instant::now() >= deadline {
            return false;
        }
        pause(CONTROL_PAUSE);
    }
    let left = &history::run_record(dirs)["id"];
    history::stops(dirs).is_ok_and(|mut stops| {
        let last = stops.pop().unwrap_or_default();
        last["verdict"] == "restart" || left.is_string() && last["run"] != *left
    })
}

/// Goes through a start beside what runs, and takes nothing; or has another program do so.
pub fn check(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    let usable = |dir: &Path| check_private_dir(dir).is_ok();
    let plan = plan(context, args.has("--ephemeral"), usable, check_private_dir);
    match args.value("--program") {
        None => gateway::check_start(&plan, args.has("--hold")),
        Some(program) => prove(context, plan, program),
    }
}

/// Has another program go through a start with these arguments, and says that it can.
fn prove(context: &Context, mut plan: Plan, program: &str) -> Result<Exit, Failure> {
    let command: &[&str] = if plan.ephemeral { &["run", "--ephemeral"] } else { &["run"] };
    plan.arguments.truncate(1);
    plan.arguments.extend(context.words(command));
    let timeout = config::load(context)?.config.restart.start_timeout;
    let proven = gateway::prove(&plan, Path::new(program), timeout, None);
    let proven = proven.and_then(|proven| proven.check_unchanged().map(|()| proven));
    let Proven { version, handover, .. } = proven.map_err(Failure::failed)?;
    say(&format!("{{\"ready\":true,\"version\":{},\"handover\":{handover}}}\n", quoted(&version)))
}

fn plan(
    context: &Context,
    ephemeral: bool,
    usable: fn(&Path) -> bool,
    make: fn(&Path) -> io::Result<()>,
) -> Plan {
    let (program, arguments) = (exec_path::called(), env::args_os().gather());
    let mut plan = Plan { ephemeral, program, arguments, ..config::plan(context) };
    if is_system_service() {
        // The user's runtime directory goes when that user logs out; the machine's service stays.
        plan.dirs = plan.dirs.without_runtime();
    }
    if ephemeral && !usable(&plan.dirs.state) {
        // Where that fails too, the start says what is wrong with the state directory.
        plan.dirs = context.base.without_state(&plan.name, make).unwrap_or(plan.dirs);
    }
    plan
}

/// Whether the machine's service manager runs us as a service.
fn is_system_service() -> bool {
    let own = || cgroup::own_unit(&proc::cgroup(Pid::own())?);
    env::var_os("INVOCATION_ID").is_some()
        && own().is_some_and(|own| own.scope == Scope::System && own.unit.ends_with(".service"))
}
