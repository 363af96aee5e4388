//! An update that a message asks for: starts it, as the command of that name does, and tells what came of
//! it, in this run or in a later one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Plan;
use crate::api::Service;
use crate::cancel::Cancel;
use crate::escape::one_line;
use crate::limits::{KILL_AFTER, MAX_STDERR_TAIL, THREAD_STACK};
use crate::session::Hub;
use crate::session::update_record::{self, REQUEST_VARIABLE, UpdateStage};
use crate::subprocess::{
    ChildKind, ExitReason, Program, RunOptions, is_service_manager_variable, own_variables,
};
use crate::sys::process::{Status, own_image};
use crate::threads::{pause, spawn};

/// Between two looks at an updater that runs.
const BETWEEN: Duration = Duration::from_secs(1);

/// Beyond what an update may take by its own limits.
const MARGIN: Duration = Duration::from_secs(600);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Starts the update that was asked for, if there is one.
pub fn begin(plan: &Plan, service: &Arc<Service>) {
    let Some(request) = service.hub.restarts.take_update() else { return };
    let (plan, service) = (plan.clone(), Arc::clone(service));
    let told = Arc::clone(&service.hub);
    let work = move || {
        log::info!("an update was asked for by {}", request.by);
        match run(&plan, &service, &request.by) {
            Ok(()) => conclude(&plan.dirs.state, &service.hub),
            Err(why) => service.hub.tell_update(&format!("not updated: {why}")),
        }
    };
    if let Err(e) = spawn("update", THREAD_STACK, Box::new(work)) {
        told.tell_update(&format!("not updated: there is no thread for it: {e}"));
    }
}

/// Runs the command, which starts the updater and waits for it; that one outlives both. An error: no
/// update has begun.
fn run(plan: &Plan, service: &Service, by: &str) -> Result<(), String> {
    let state = &plan.dirs.state;
    let id = || update_record::read(state).map(|record| record.id);
    let before = id();
    let config = &service.settings().config;
    let longest =
        (config.update.timeout + config.restart.start_timeout + config.stop.drain_timeout) * 4
            + config.update.trial
            + MARGIN;
    let cancel = Cancel::at(Instant::now() + longest);
    let options = RunOptions { kind: ChildKind::Helper, input: None, cancel, grace: KILL_AFTER };
    let ended = command(plan, by)
        .and_then(|program| plan.children.spawn(&program, options))
        .and_then(|child| child.finish(0, MAX_STDERR_TAIL));
    let (ended, stderr) = match ended {
        Ok((reason, _, stderr)) => (reason, one_line(&stderr)),
        Err(e) => return Err(format!("the updater cannot be run: {e}")),
    };
    match ended {
        _ if id() != before => Ok(()),
        ExitReason::Exited(Status::Exited(_)) => Err(stderr),
        _ => Err(format!("the updater was ended before it began: {stderr}")),
    }
}

/// `hermes-gateway update` by this very program, whatever is in its file now.
fn command(plan: &Plan, by: &str) -> io::Result<Program> {
    let image = Arc::new(own_image()?);
    let variables = own_variables(is_service_manager_variable);
    let program = Program::opened(image, "hermes-gateway".into(), variables);
    Ok(program.args(["-p", plan.name.as_str(), "update"]).env(REQUEST_VARIABLE, by))
}

/// Looks after an update that another run has left: it may have come to its end, or still be under way.
pub fn look_after(plan: &Plan, service: &Arc<Service>) {
    let state = plan.dirs.state.clone();
    if plan.ephemeral || update_record::read(&state).is_none() {
        return;
    }
    let hub = Arc::clone(&service.hub);
    let work = move || conclude(&state, &hub);
    if let Err(e) = spawn("update", THREAD_STACK, Box::new(work)) {
        log::warn!("what came of the last update is not told: there is no thread for it: {e}");
    }
}

/// Waits for the end of the update that is on record, and tells it.
fn conclude(state: &Path, hub: &Arc<Hub>) {
    loop {
        // An updater writes its end before it goes, and its beginning after it has come.
        let was_alive = update_record::updater(state).is_some();
        let Some(mut record) = update_record::read(state) else { return };
        if record.stage.is_end() {
            return hub.tell_update(&record.words());
        }
        if was_alive || update_record::updater(state).is_some() {
            pause(BETWEEN);
            continue;
        }
        // Without a service manager it ends with the process that it has restarted.
        if record.stage == UpdateStage::Restart && record.to == VERSION {
            record.stage = UpdateStage::Updated;
            record.why = format!("updated, version {} \u{2192} {VERSION}", record.from);
            if let Err(e) = update_record::write(state, &record) {
                log::warn!("the end of the update cannot be written down: {e}");
            }
            return hub.tell_update(&record.why);
        }
        let Some(words) = record.left_behind() else { return };
        log::warn!("{words}");
        return hub.tell_update(&words);
    }
}
