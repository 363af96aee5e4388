//! The updater: a process of its own that outlives the restarts of the gateway. It keeps the program, has
//! the new one brought and proven, restarts the gateway into it, watches it, and goes back where it must.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::command::{self, Late};
use super::program::{self, Installed};
use super::proof;
use super::restart::{self, BETWEEN, MARGIN, NotReady};
use super::site::Site;
use super::trial::{Trial, Verdict};
use crate::cli::control_client::escaped_lines;
use crate::cli::unit_control::Unit;
use crate::config::seconds;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::limits::CONTROL_TIMEOUT;
use crate::session::update_record::{self, LOCK, UpdateRecord, UpdateStage, pid_in};
use crate::subprocess::{explain_failure, find_program};
use crate::sys::clock::Utc;
use crate::sys::fd::{STDOUT, write_all};
use crate::sys::fs as files;
use crate::sys::lock::try_hold_visibly;
use crate::sys::process::{Pid, Status};
use crate::threads::pause;

/// Who asked for an update.
pub struct Request {
    pub id: String,
    pub by: String,
}

/// How an update ends.
struct End {
    stage: UpdateStage,
    why: String,
}

struct Updater<'s, 'c> {
    site: &'s Site<'c>,
    installed: Installed,
    /// The program is put back with our own rights, and not with those of the gateway's user.
    as_root: bool,
    record: UpdateRecord,
}

/// Says that one update runs at a time.
pub fn busy(pid: i32) -> Failure {
    Failure::new(
        Exit::TryLater,
        format!("an update is under way: pid {pid}; try again when it has ended"),
    )
}

/// Carries an update out, and says what came of it.
///
/// # Errors
/// It did not begin.
pub fn update(site: &Site<'_>, request: Request) -> Result<Exit, Failure> {
    let _lock = take_lock(site)?;
    let state = &site.owner.dirs.state;
    let left = site.as_owner(|| update_record::read(state))?;
    let path = site.program()?;
    if let Some((left, words)) = left.and_then(|it| it.left_behind().map(|words| (it, words))) {
        say(&words);
        restore(site, &path, &left)?;
    }
    let from = proof::version_now(site, &path)?;
    let failed = |e: io::Error| Failure::with("find the program", &path, &e);
    // With the rights of the gateway's user, who could lead root anywhere else by a link. What only root can
    // change is root's to keep.
    let mut installed = site.as_owner(|| Installed::keep(&path))?.map_err(failed)?;
    let as_root = installed.kept.is_err() && installed.is_roots();
    if as_root {
        installed = Installed::keep(&path).map_err(failed)?;
    }
    let record = UpdateRecord {
        id: request.id,
        by: request.by,
        pid: Pid::own().get(),
        from,
        began: now(),
        program: path.display().to_string(),
        previous: installed.kept.as_ref().map_or(String::new(), |kept| kept.display().to_string()),
        ..UpdateRecord::default()
    };
    let mut updater = Updater { site, installed, as_root, record };
    say(&updater.way_back());
    updater.enter(UpdateStage::Command);
    let end = updater.carry_out();
    updater.record.why.clone_from(&end.why);
    updater.enter(end.stage);
    say(&format!("{}: {}", site.owner.name, end.why));
    let good = matches!(end.stage, UpdateStage::Updated | UpdateStage::NothingNew);
    Ok(if good { Exit::Planned } else { Exit::Failed })
}

/// Puts back what an updater that was ended has kept, where it has left a program that fails its proof: that
/// must not be kept in the place of the copy.
fn restore(site: &Site<'_>, path: &Path, left: &UpdateRecord) -> Result<(), Failure> {
    let unproven = matches!(left.stage, UpdateStage::Command | UpdateStage::Proof);
    if !unproven || left.previous.is_empty() || Path::new(&left.program) != path {
        return Ok(());
    }
    let Err(why) = proof::prove(site, path) else { return Ok(()) };
    let put_back = || program::put_copy_back(Path::new(&left.previous), path);
    let failed = |e: io::Error| Failure::with("put the version before back at", path, &e);
    site.as_owner(put_back)?.map_err(failed)?;
    say(&format!("{why}; {} is version {} again", path.display(), left.from));
    Ok(())
}

impl Updater<'_, '_> {
    fn carry_out(&mut self) -> End {
        if let Err(why) = self.run_command() {
            return self.give_up(&why);
        }
        self.enter(UpdateStage::Proof);
        let version = match proof::prove(self.site, &self.installed.path) {
            Ok(version) => version,
            Err(why) => return self.give_up(&why),
        };
        self.record.to.clone_from(&version);
        let path = self.installed.path.display();
        if self.installed.is_unchanged() && version == self.record.from {
            let why = format!("nothing new: {path} is version {version} as before");
            return End { stage: UpdateStage::NothingNew, why };
        }
        let change = format!("version {} → {version}", self.record.from);
        if self.site.status(CONTROL_TIMEOUT).is_err() && !self.runs_as_unit() {
            let why = format!("updated, {change}: it does not run, and its next start runs {path}");
            return End { stage: UpdateStage::Updated, why };
        }
        self.enter(UpdateStage::Restart);
        match restart::restart(self.site, &version) {
            Ok(()) => {}
            Err(NotReady::Stopped) => {
                let words =
                    "it was stopped before the new version was ready, and its next start runs that";
                return End {
                    stage: UpdateStage::Updated,
                    why: format!("updated, {change}; {words}"),
                };
            }
            Err(NotReady::Untouched(why)) => return self.give_up(&why),
            Err(NotReady::Down(why)) => return self.roll_back(&why),
        }
        let Some(unit) = &self.site.unit else {
            let words = "no service manager runs it, so nobody watches it and goes back: the proof that \
                         it can start is all there is";
            return End { stage: UpdateStage::Updated, why: format!("updated, {change}; {words}") };
        };
        let trial = self.site.config.update.trial;
        self.enter(UpdateStage::Trial);
        let (label, time) = (unit.label(), seconds(trial));
        say(&format!("{label} is ready as version {version}; it is watched for {time}"));
        match self.watch(unit, trial) {
            Verdict::Failed(why) => self.roll_back(&why),
            Verdict::Stopped => {
                let words =
                    "it was stopped during its trial, so the new version is not tried to the end";
                End { stage: UpdateStage::Updated, why: format!("updated, {change}; {words}") }
            }
            Verdict::Passed | Verdict::GoesOn => {
                End { stage: UpdateStage::Updated, why: format!("updated, {change}") }
            }
        }
    }

    /// How long a start of the new version may take.
    fn start_timeout(&self) -> Duration {
        self.site.config.restart.start_timeout
    }

    /// What the operator will be able to go back to.
    fn way_back(&self) -> String {
        let has_rollback = !self.site.config.update.rollback.is_empty();
        match &self.installed.kept {
            Ok(kept) => format!("the version before is kept as {}", kept.display()),
            Err(why) if has_rollback => {
                format!(
                    "no copy of the program can be kept ({why}): update.rollback is the way back"
                )
            }
            Err(why) => format!(
                "no copy of the program can be kept ({why}), and update.rollback is not set: there is \
                 no way back"
            ),
        }
    }

    /// Runs one of the commands of `[update]`.
    fn run_configured(&mut self, key: &str, words: &[String]) -> Result<(), String> {
        let timeout = self.site.config.update.timeout;
        let program = match words {
            [program, words @ ..] => {
                let path =
                    if program.contains('/') { Ok(program.into()) } else { find_program(program) };
                path.and_then(|path| self.site.as_user(path, words))
            }
            [] => Err(io::Error::other("it is not set")),
        };
        let program = program.map(|it| it.env("HERMES_GATEWAY_PROGRAM", &self.installed.path));
        say(&format!("{key} runs: {}", escaped(&words.join(" "), false)));
        let mut tail = Vec::new();
        let children = &self.site.owner.children;
        let ended = program.and_then(|program| {
            command::run(children, &program, Instant::now() + timeout, Late::Kill, &mut tail)
        });
        self.record.output += &escaped_lines(&String::from_utf8_lossy(&tail));
        match ended {
            Ok(Some(Status::Exited(0))) => Ok(()),
            Ok(Some(Status::Exited(code))) => Err(format!("{key} failed with exit status {code}")),
            Ok(Some(Status::Signalled(signal))) => {
                Err(format!("{key} was ended by signal {signal}"))
            }
            Ok(None) => {
                Err(format!("{key} did not end within update.timeout, {}", seconds(timeout)))
            }
            Err(e) => Err(format!("{key} cannot be run: {}", explain_failure(words, &e))),
        }
    }

    fn run_command(&mut self) -> Result<(), String> {
        let words = self.site.config.update.command.clone();
        self.run_configured("update.command", &words)
    }

    fn runs_as_unit(&self) -> bool {
        let shown = self.site.shown();
        shown.is_some_and(|shown| !matches!(shown.get("ActiveState"), "inactive" | "failed"))
    }

    /// Watches the new version for the time of its trial.
    fn watch(&self, unit: &Unit<'_>, length: Duration) -> Verdict {
        let (began, start_timeout) = (Instant::now(), self.start_timeout());
        let first = unit.show().unwrap_or_default();
        let mut trial = Trial::new(&first, began, length, start_timeout);
        let latest = began + length + start_timeout * 4;
        while Instant::now() < latest {
            pause(BETWEEN);
            // A manager that is re-executed does not answer for a moment.
            let Ok(shown) = unit.show() else { continue };
            match trial.judge(&shown, Instant::now()) {
                Verdict::GoesOn => {}
                Verdict::Passed => {
                    return match self.site.status(MARGIN) {
                        Ok(_) => Verdict::Passed,
                        Err(_) => {
                            Verdict::Failed("it does not answer on its control socket".to_owned())
                        }
                    };
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
        End { stage: UpdateStage::Failed, why: format!("not updated: {why}; {words}") }
    }

    /// Puts the version before back and starts it: once.
    fn roll_back(&mut self, why: &str) -> End {
        let stage = UpdateStage::RolledBack;
        let (to, from) = (self.record.to.clone(), self.record.from.clone());
        let failed = format!("version {to} failed: {why}");
        say(&failed);
        let how = match self.put_back() {
            Ok(how) => how,
            Err(not) => return End { stage: UpdateStage::Failed, why: format!("{failed}; {not}") },
        };
        let why = format!("rolled back to version {from}: {failed}");
        // The gateway that comes reads it.
        self.record.why.clone_from(&why);
        self.enter(stage);
        let Some(unit) = &self.site.unit else {
            let why = format!("{why}; {how}; no service manager runs it: start it yourself");
            return End { stage, why };
        };
        // What has failed too often is not started before that.
        let _ = unit.act(&["reset-failed", "--", &unit.name]);
        match restart::by_manager(unit) {
            Ok(()) | Err(NotReady::Stopped) => End { stage, why },
            Err(NotReady::Down(not) | NotReady::Untouched(not)) => End {
                stage,
                why: format!(
                    "{why}; {how}, and it is not ready either: {not}; see `{} logs`",
                    self.site.owner.name.command()
                ),
            },
        }
    }

    /// Puts the program back, by what was kept or by the operator's command; says how, or why not.
    fn put_back(&mut self) -> Result<String, String> {
        let path = self.installed.path.display().to_string();
        let put_back = || self.installed.put_back();
        let put = if self.as_root { Ok(put_back()) } else { self.site.as_owner(put_back) };
        let not = match put.map_err(|failure| failure.message).flatten() {
            Ok(()) if self.installed.is_unchanged() => {
                return Ok(format!("{path} is version {} again", self.record.from));
            }
            Ok(()) => "it is another one all the same".to_owned(),
            Err(not) => not,
        };
        let words = self.site.config.update.rollback.clone();
        if words.is_empty() {
            return Err(format!("{path} could not be put back: {not}; update.rollback is not set"));
        }
        self.run_configured("update.rollback", &words)?;
        match proof::version_of(self.site, &self.installed.path) {
            Ok(version) if version == self.record.from => {
                Ok(format!("{path} is version {version} again"))
            }
            Ok(version) => Err(format!("update.rollback has left version {version} in {path}")),
            Err(why) => Err(format!("after update.rollback: {why}")),
        }
    }

    /// Makes the step durable before it is done.
    fn enter(&mut self, stage: UpdateStage) {
        self.record.stage = stage;
        if stage.is_end() {
            self.record.ended = now();
        }
        let state = &self.site.owner.dirs.state;
        let written = self.site.as_owner(|| update_record::write(state, &self.record));
        let failed = match written {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(failure) => failure.message,
        };
        let path = state.join(update_record::NAME);
        say(&format!("warning: {} cannot be written: {failed}", path.display()));
    }
}

fn take_lock(site: &Site<'_>) -> Result<File, Failure> {
    let path = site.owner.dirs.state.join(LOCK);
    let failed = |e: io::Error| Failure::with("use", &path, &e);
    let open = || {
        files::private_dir(&site.owner.dirs.state)?;
        files::open_or_create(&path)
    };
    let file = site.as_owner(open)?.map_err(failed)?;
    if !try_hold_visibly(&file).map_err(failed)? {
        return Err(busy(pid_in(file)));
    }
    file.set_len(0)
        .and_then(|()| file.write_all_at(format!("{}\n", Pid::own()).as_bytes(), 0))
        .map_err(failed)?;
    Ok(file)
}

fn now() -> String {
    Utc::new(SystemTime::now()).rfc3339()
}

/// Says how it goes, to whoever still listens.
fn say(words: &str) {
    let _ = write_all(STDOUT, format!("{words}\n").as_bytes());
}
