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
use crate::session::update_record::{self, LONGEST, REQUEST_VARIABLE, RESTART, UPDATED};
use crate::subprocess::{ChildKind, Program, RunOptions};
use crate::sys::process::own_image;
use crate::threads::{pause, spawn};

/// Between two looks at an updater that runs.
const BETWEEN: Duration = Duration::from_secs(1);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Starts the update that was asked for, if there is one.
pub fn begin(plan: &Plan, service: &Arc<Service>) {
    if let Some(request) = service.hub.restarts.take_update() {
        log::info!("an update was asked for by {}", request.by);
        attend(plan, service, Some(request.by));
    }
}

/// Looks after an update that another run has left: it may have come to its end, or still be under way.
pub fn look_after(plan: &Plan, service: &Arc<Service>) {
    if !plan.ephemeral && update_record::read(&plan.dirs.state).is_some() {
        attend(plan, service, None);
    }
}

/// Begins an update where somebody asks for one, waits for its end, and tells it.
fn attend(plan: &Plan, service: &Arc<Service>, by: Option<String>) {
    let (plan, hub) = (plan.clone(), Arc::clone(&service.hub));
    let work = move || match by.map_or(Ok(()), |by| run(&plan, &by)) {
        Ok(()) => conclude(&plan.dirs.state, &hub),
        Err(why) => hub.tell_update(&format!("not updated: {why}")),
    };
    if let Err(e) = spawn("update", THREAD_STACK, Box::new(work)) {
        service.hub.tell_update(&format!("not updated: there is no thread for it: {e}"));
    }
}

/// Runs the command, which starts the updater and waits for it; that one outlives both. An error: no
/// update has begun.
fn run(plan: &Plan, by: &str) -> Result<(), String> {
    let state = &plan.dirs.state;
    let before = update_record::read(state);
    let cancel = Cancel::at(Instant::now() + LONGEST);
    let options = RunOptions { kind: ChildKind::Helper, input: None, cancel, grace: KILL_AFTER };
    let ended = command(plan, by)
        .and_then(|program| plan.children.spawn(&program, options))
        .and_then(|child| child.finish(0, MAX_STDERR_TAIL));
    match ended {
        _ if update_record::read(state) != before => Ok(()),
        Ok((_, _, stderr)) => Err(one_line(&stderr)),
        Err(e) => Err(format!("the updater cannot be run: {e}")),
    }
}

/// `hermes-gateway update` by this very program, whatever is in its file now.
fn command(plan: &Plan, by: &str) -> io::Result<Program> {
    let image = Arc::new(own_image()?);
    let program = Program::new("hermes-gateway".into()).opened(image);
    Ok(program.args(["-p", plan.name.as_str(), "update"]).env(REQUEST_VARIABLE, by))
}

/// Waits for the end of the update that is on record, and tells it.
fn conclude(state: &Path, hub: &Arc<Hub>) {
    loop {
        // An updater writes its end before it goes, and its beginning after it has come.
        let was_alive = update_record::is_under_way(state);
        let Some(mut record) = update_record::read(state) else { return };
        let Some(left) = record.left_behind() else { return hub.tell_update(&record.words()) };
        if was_alive || update_record::is_under_way(state) {
            pause(BETWEEN);
            continue;
        }
        // Without a service manager it ends with the process that it has restarted.
        if (record.get("stage"), record.get("to")) != (RESTART, VERSION) {
            log::warn!("{left}");
            return hub.tell_update(&left);
        }
        let why = format!("updated, version {} \u{2192} {VERSION}", record.get("from"));
        record.set("stage", UPDATED);
        record.set("why", &why);
        if let Err(e) = update_record::write(state, &record) {
            log::warn!("the end of the update cannot be written down: {e}");
        }
        return hub.tell_update(&why);
    }
}
