//! The updater: a process of its own that outlives the restarts of the gateway. It keeps the program, has
//! the new one brought and proven, restarts the gateway into it, watches it, and goes back where it must.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::command::run;
use super::program::{self, Installed};
use super::proof;
use super::restart::{self, BETWEEN};
use super::site::Site;
use super::trial::{Trial, Verdict};
use crate::cli::control_client::escaped_lines;
use crate::cli::unit_control::Unit;
use crate::config::{TIME, millis};
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::lifecycle::history;
use crate::session::update_record::{
    self, COMMAND, FAILED, LOCK, NAME, NOTHING_NEW, PROOF, RESTART, ROLLED_BACK, TRIAL, UPDATED,
    UpdateRecord,
};
use crate::subprocess::{ChildKind, explain_failure, find_program};
use crate::sys::clock;
use crate::sys::fs as files;
use crate::sys::gather::Gather;
use crate::sys::lock::try_hold_visibly;
use crate::sys::process::{Pid, Status};
use crate::threads::pause;

/// How an update ends: the last stage of its record, and why.
type End = (&'static str, String);

struct Updater<'s, 'c> {
    site: &'s Site<'c>,
    installed: Installed,
    record: UpdateRecord,
}

/// Says that one update runs at a time.
pub fn busy(site: &Site<'_>) -> Failure {
    // It may be about to write its own.
    let record = read_record(site).filter(|record| !record.is_end());
    let pid = record.map_or(String::new(), |record| format!(": pid {}", record.0["pid"]));
    let words = format!("an update is under way{pid}; try again when it has ended");
    Failure::new(Exit::TryLater, words)
}

/// Carries an update out, and says what came of it.
///
/// # Errors
/// It did not begin.
pub fn update(site: &Site<'_>, by: &str) -> Result<Exit, Failure> {
    let _lock = take_lock(site)?;
    let path = site.program()?;
    if let Some(left) = read_record(site)
        && let Some(words) = left.left_behind()
    {
        say(&words);
        restore(site, &path, &left)?;
    }
    let from = proof::version_now(site, &path).map_err(Failure::failed)?;
    // With the rights of the gateway's user, who could lead root anywhere else by a link.
    let installed = site.as_owner(|| Installed::keep(&path))?;
    let installed = installed.map_err(|e| Failure::with("find the program", &path, &e))?;
    let mut record = UpdateRecord(Value::Null);
    record.0["pid"] = Pid::own().get().into();
    let program = path.to_string_lossy();
    let previous = installed.kept.as_ref().map(|kept| kept.to_string_lossy()).unwrap_or_default();
    for (key, text) in [
        ("by", by),
        ("from", &from),
        ("began", &clock::now()),
        ("program", &program),
        ("previous", &previous),
    ] {
        record.set(key, text);
    }
    let mut updater = Updater { site, installed, record };
    say(&updater.way_back());
    updater.enter(COMMAND);
    let (stage, why) = match updater.carry_out() {
        Ok(end) => end,
        Err(why) => updater.give_up(&why),
    };
    updater.record.set("why", &why);
    updater.record.set("ended", &clock::now());
    updater.enter(stage);
    say(&format!("{}: {why}", site.owner.name));
    if [UPDATED, NOTHING_NEW].contains(&stage) {
        return Ok(Exit::Planned);
    }
    // What has led nowhere is no restart, which would have a line of its own.
    let verdict = if stage == FAILED { "failed update" } else { stage };
    let versions = ["from", "to"].map(|key| updater.record.get(key));
    let enter = || history::record_update(&site.owner.dirs, verdict, &why, versions);
    let entered = site
        .as_owner(enter)
        .and_then(|entered| entered.map_err(|e| Failure::cannot("write the history", &e)));
    entered.unwrap_or_else(|failure| say(&format!("warning: {failure}")));
    Ok(Exit::Failed)
}

/// Puts back what an updater that was ended has kept, where it has left a program that fails its proof: that
/// must not be kept in the place of the copy.
fn restore(site: &Site<'_>, path: &Path, left: &UpdateRecord) -> Result<(), Failure> {
    let [stage, previous, program, from] =
        ["stage", "previous", "program", "from"].map(|key| left.get(key));
    if ![COMMAND, PROOF].contains(&stage) || previous.is_empty() || Path::new(program) != path {
        return Ok(());
    }
    let Err(why) = proof::prove(site, path) else { return Ok(()) };
    site.as_owner(|| program::put_copy_back(Path::new(previous), path))?
        .map_err(|e| Failure::with("put the version before back at", path, &e))?;
    say(&format!("{why}; {program} is version {from} again"));
    Ok(())
}

impl Updater<'_, '_> {
    /// An error: the gateway has seen nothing of the update.
    // Out of line: a frame of its own is smaller code.
    #[inline(never)]
    fn carry_out(&mut self) -> Result<End, String> {
        let site = self.site;
        self.run_configured("update.command", &site.config.update.command)?;
        self.enter(PROOF);
        let path = self.installed.path.clone();
        let (version, path) = (proof::prove(site, &path)?, path.display());
        self.record.set("to", &version);
        let from = self.record.get("from");
        if version == from && self.installed.is_unchanged() {
            return Ok((
                NOTHING_NEW,
                format!("nothing new: {path} is version {version} as before"),
            ));
        }
        let change = format!("updated, version {from} → {version}");
        let updated = |words: &str| Ok((UPDATED, format!("{change}{words}")));
        if site.status().is_err() && !self.runs_as_unit() {
            return updated(&format!(": it does not run, and its next start runs {path}"));
        }
        self.enter(RESTART);
        let mut verdict = restart::restart(site, &version)?;
        if verdict == Verdict::Passed
            && let Some(unit) = &site.unit
        {
            self.enter(TRIAL);
            let time = TIME.show(millis(site.config.update.trial));
            let label = unit.label();
            say(&format!("{label} is ready as version {version}; it is watched for {time}"));
            verdict = self.watch(unit);
        }
        match verdict {
            Verdict::Failed(why) => Ok(self.roll_back(&why)),
            Verdict::Stopped => updated(
                "; it was stopped during its trial, so that says nothing of the new version",
            ),
            _ if site.unit.is_none() => updated(
                "; no service manager runs it, so nobody watches it and goes back: the proof that it \
                 can start is all there is",
            ),
            _ => updated(""),
        }
    }

    /// What the operator will be able to go back to.
    fn way_back(&self) -> String {
        let why = match &self.installed.kept {
            Ok(kept) => return format!("the version before is kept as {}", kept.display()),
            Err(why) => why,
        };
        let way = match self.site.config.update.rollback.is_empty() {
            false => ": update.rollback is the way back",
            true => ", and update.rollback is not set: there is no way back",
        };
        format!("no copy of the program can be kept ({why}){way}")
    }

    /// Runs one of the commands of `[update]`.
    fn run_configured(&mut self, key: &str, words: &[String]) -> Result<(), String> {
        let timeout = self.site.config.update.timeout;
        // Not empty: that was looked at before.
        let (name, rest) = (&words[0], words[1..].iter().map(OsString::from).gather());
        let path = if name.contains('/') { Ok(name.into()) } else { find_program(name) };
        let program = path.and_then(|path| self.site.as_user(&path, &rest));
        say(&format!("{key} runs: {}", escaped(&words.join(" "), false)));
        let (mut tail, children) = (Vec::new(), &self.site.owner.children);
        let ended = program.and_then(|program| {
            let program = program.env("HERMES_GATEWAY_PROGRAM", &self.installed.path);
            run(children, &program, ChildKind::Helper, timeout, &mut tail)
        });
        let tail = escaped_lines(&String::from_utf8_lossy(&tail));
        let output = format!("{}{tail}", self.record.get("output"));
        self.record.set("output", &output);
        Err(match ended {
            Ok(Some(Status::Exited(0))) => return Ok(()),
            Ok(Some(Status::Exited(code))) => format!("{key} failed with exit status {code}"),
            Ok(Some(Status::Signalled(signal))) => format!("{key} was ended by signal {signal}"),
            Ok(None) => {
                let time = TIME.show(millis(timeout));
                format!("{key} did not end within update.timeout, {time}")
            }
            Err(e) => format!("{key} cannot be run: {}", explain_failure(words, &e)),
        })
    }

    fn runs_as_unit(&self) -> bool {
        let shown = self.site.shown();
        shown.is_some_and(|shown| !matches!(shown.get("ActiveState"), "inactive" | "failed"))
    }

    /// Watches the new version for the time of its trial.
    fn watch(&self, unit: &Unit<'_>) -> Verdict {
        let config = &self.site.config;
        let (ends, start) = (Instant::now() + config.update.trial, config.restart.start_timeout);
        let mut trial = Trial::new(&unit.show().unwrap_or_default(), ends, start);
        while Instant::now() < ends + start * 4 {
            pause(BETWEEN);
            // A manager that is re-executed does not answer for a moment.
            let Ok(shown) = unit.show() else { continue };
            match trial.judge(&shown, Instant::now()) {
                Verdict::GoesOn => {}
                Verdict::Passed if self.site.status().is_err() => {
                    return Verdict::Failed("it does not answer on its control socket".to_owned());
                }
                verdict => return verdict,
            }
        }
        Verdict::Failed("its service manager did not say how it does".to_owned())
    }

    /// Ends an update of which the gateway has seen nothing.
    fn give_up(&mut self, why: &str) -> End {
        let words = if self.installed.is_unchanged() {
            "the program and the gateway are as they were".to_owned()
        } else {
            match self.put_back() {
                Ok(how) => format!("{how}; the gateway was not restarted"),
                Err(not) => format!(
                    "the gateway was not restarted, but its next start runs what is there: {not}"
                ),
            }
        };
        (FAILED, format!("not updated: {why}; {words}"))
    }

    /// Puts the version before back and starts it: once.
    fn roll_back(&mut self, why: &str) -> End {
        let [to, from] = ["to", "from"].map(|key| self.record.get(key).to_owned());
        let failed = format!("version {to} failed: {why}");
        say(&failed);
        let how = match self.put_back() {
            Ok(how) => how,
            Err(not) => return (FAILED, format!("{failed}; {not}")),
        };
        let why = format!("rolled back to version {from}: {failed}");
        let Some(unit) = &self.site.unit else {
            let words = "no service manager runs it: start it yourself";
            return (ROLLED_BACK, format!("{why}; {how}; {words}"));
        };
        // What has failed too often is not started before that.
        let _ = unit.act(&["reset-failed", "--", &unit.name]);
        let Verdict::Failed(not) = restart::by_manager(unit) else { return (ROLLED_BACK, why) };
        let logs = format!("see `{} logs`", self.site.owner.name.command());
        (ROLLED_BACK, format!("{why}; {how}, and it is not ready either: {not}; {logs}"))
    }

    /// Puts the program back, by what was kept or by the operator's command; says how, or why not.
    fn put_back(&mut self) -> Result<String, String> {
        let (path, from) = (self.installed.path.clone(), self.record.get("from").to_owned());
        let again = format!("{} is version {from} again", path.display());
        let put = self.site.as_owner(|| self.installed.put_back());
        let Err(not) = put.map_err(|failure| failure.0.message)? else { return Ok(again) };
        let words = &self.site.config.update.rollback;
        let path_shown = path.display();
        if words.is_empty() {
            return Err(format!(
                "{path_shown} could not be put back: {not}; update.rollback is not set"
            ));
        }
        self.run_configured("update.rollback", words)?;
        match proof::version_of(self.site, &path) {
            Ok(version) if version == from => Ok(again),
            Ok(version) => {
                Err(format!("update.rollback has left version {version} in {path_shown}"))
            }
            Err(why) => Err(format!("after update.rollback: {why}")),
        }
    }

    /// Makes the step durable before it is done.
    fn enter(&mut self, stage: &str) {
        self.record.set("stage", stage);
        let state = &self.site.owner.dirs.state;
        if let Ok(Err(e)) = self.site.as_owner(|| update_record::write(state, &self.record)) {
            let path = state.join(NAME);
            say(&format!("warning: {} cannot be written: {e}", path.display()));
        }
    }
}

fn take_lock(site: &Site<'_>) -> Result<File, Failure> {
    let (state, path) = (&site.owner.dirs.state, site.owner.dirs.state.join(LOCK));
    let open = || files::private_dir(state).and_then(|()| files::open_or_create(&path));
    let file = site.as_owner(open)?;
    let held = file.and_then(|file| Ok(try_hold_visibly(&file)?.then_some(file)));
    held.map_err(|e| Failure::with("use", &path, &e))?.ok_or_else(|| busy(site))
}

fn read_record(site: &Site<'_>) -> Option<UpdateRecord> {
    site.as_owner(|| update_record::read(&site.owner.dirs.state)).ok()?
}

/// Says how it goes, to whoever still listens.
fn say(words: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(format!("{words}\n").as_bytes()).and_then(|()| out.flush());
}
