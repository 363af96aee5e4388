//! Which gateway is updated: what runs it and as whom, its configuration, and the program it is started
//! from.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::context::Context;
use super::super::control_client::{Contacted, NoAnswer, contact, fetch_status};
use super::super::unit_control::{Unit, find};
use super::super::{args, config, exec_path, start};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::gateway::Plan;
use crate::lifecycle::instance_lock::{Holder, Probe, holder, probe};
use crate::limits::{CONTROL_TIMEOUT, MAX_ERROR_BODY};
use crate::outbound::client::Request;
use crate::subprocess::{Program, find_on, find_program};
use crate::sys::proc;
use crate::sys::user::{self, User};
use crate::systemd::Scope;
use crate::systemd::systemctl::Properties;

/// For a request that is not to be given up lightly: else the service manager restarts the gateway.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The gateway that is updated.
pub struct Site<'c> {
    /// It with its own arguments and directories.
    pub owner: Context,
    /// Whose it is, where it is not ours: then we are root.
    user: Option<User>,
    /// The unit that runs it, or would, where we may act on it.
    pub unit: Option<Unit<'c>>,
    /// The process that runs it.
    pub holder: Option<Holder>,
    pub config: Config,
}

impl<'c> Site<'c> {
    /// Finds the gateway and reads its configuration.
    ///
    /// # Errors
    /// `Config` for a wrong configuration, `Unavailable` for another user's gateway, `Failed` where there
    /// is none.
    pub fn find(context: &'c Context, system: bool) -> Result<Site<'c>, Failure> {
        if !system {
            context.refuse_foreign("update")?;
        }
        let mut unit = find(context, system);
        let (mut owner, mut user) = (context.clone(), None);
        if system {
            let known = || find_owner(context, unit.as_ref()?);
            (owner, user) = known().ok_or_else(|| no_unit(context))?;
        }
        let holder = with_rights_of(user.as_ref(), || holder(&owner.dirs))?;
        if let Some(holder) = holder.filter(|_| !system) {
            // What runs counts: a unit that is installed may have nothing to do with it.
            unit = Unit::of(context, holder);
            let shown = unit.as_ref().and_then(|unit| unit.show().ok());
            let known = unit.as_ref().zip(shown.as_ref());
            let by_unit = known.and_then(|(unit, shown)| start::main_process(unit, shown));
            let alone = || started_by_hand(context, holder);
            owner = by_unit.map(|(owner, _)| owner).or_else(alone).unwrap_or(owner);
        }
        // A user's own gateway may be the machine's service: that manager is root's to command.
        let is_ours = |unit: &Unit<'_>| unit.systemctl.scope == Scope::User || user::own_uid() == 0;
        let unit = unit.filter(|unit| is_ours(unit) && unit.show().is_ok());
        let loaded = with_rights_of(user.as_ref(), || config::load(&owner))??;
        Ok(Site { owner, user, unit, holder, config: loaded.config })
    }

    /// Does something with the rights of the gateway's user.
    pub fn as_owner<T>(&self, act: impl FnOnce() -> T) -> Result<T, Failure> {
        with_rights_of(self.user.as_ref(), act)
    }

    /// Whether a process runs it, whatever state that is in.
    pub fn is_running(&self) -> bool {
        self.as_owner(|| probe(&self.owner.dirs)).is_ok_and(|it| !matches!(it, Ok(Probe::Free)))
    }

    /// What a start of this program would go by, with the arguments that the gateway has; `None`: it is another
    /// user's.
    pub fn plan(&self, path: &Path) -> Option<Plan> {
        let words = [vec![path.display().to_string()], self.arguments(), vec!["run".to_owned()]];
        let arguments = words.concat().into_iter().map(Into::into).collect();
        let plan = || Plan { arguments, ..config::plan(&self.owner) };
        self.user.is_none().then(plan)
    }

    /// What a service manager says of the unit.
    pub fn shown(&self) -> Option<Properties> {
        self.unit.as_ref()?.show().ok()
    }

    /// What the gateway says of itself.
    pub fn status(&self, timeout: Duration) -> Contacted<Value> {
        let ask = || fetch_status(&self.owner.dirs, Instant::now() + timeout);
        let asked = self.as_owner(ask);
        asked.unwrap_or_else(|failure| Err(NoAnswer::Unreachable(failure.message)))
    }

    /// One request to its control socket: the status of the answer, and what it says.
    pub fn request(&self, method: &str, target: &str) -> Result<(u16, Value), Failure> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let ask = || {
            let failed = |why: &str| Failure::failed(format!("the gateway cannot be asked: {why}"));
            let (_, mut client) = match contact(&self.owner.dirs, deadline, Ok) {
                Ok(contacted) => contacted,
                Err(NoAnswer::NotRunning) => return Err(failed("it does not run")),
                Err(NoAnswer::Unresponsive { why, .. } | NoAnswer::Unreachable(why)) => {
                    return Err(failed(&why));
                }
            };
            let answer =
                client.send(&Request { method, target, headers: &[], body: None }, deadline)?;
            let (status, body) = (answer.status, answer.body(MAX_ERROR_BODY, deadline)?);
            Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        self.as_owner(ask)?
    }

    /// The path that the gateway is started from.
    ///
    /// # Errors
    /// One line where that cannot be told.
    pub fn program(&self) -> Result<PathBuf, Failure> {
        if let Some(unit) = &self.unit {
            let deadline = Instant::now() + CONTROL_TIMEOUT;
            let shown = unit.systemctl.show("ExecStart", &unit.name, deadline);
            let shown = shown.map_err(|e| unit.refused(&e, "try it with sudo"))?;
            let path = program_of(shown.get("ExecStart"));
            let unknown = || Failure::failed(format!("{} names no program", unit.name));
            return path.ok_or_else(unknown);
        }
        let Some(holder) = self.holder else {
            return exec_path::for_unit(None, user::own_uid()).map_err(Failure::failed);
        };
        let called = proc::arguments(holder.pid).and_then(|words| words.into_iter().next());
        let called = PathBuf::from(called.unwrap_or_default());
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path = || find_on(&called.to_string_lossy(), &path).ok();
        let found = if called.components().count() == 1 { on_path() } else { Some(called.clone()) };
        found.filter(|path| path.is_absolute()).ok_or_else(|| {
            Failure::failed(format!(
                "which program gateway {} (pid {}) runs cannot be told from here: it was called as {}; \
                 start it by its absolute path",
                self.owner.name,
                holder.pid,
                called.display()
            ))
        })
    }

    /// A program to be run as the gateway's user, with that user's directories.
    pub fn as_user(&self, path: PathBuf, words: &[String]) -> io::Result<Program> {
        let base = &self.owner.base;
        let program = match &self.user {
            None => Program::new(path).args(words),
            Some(user) => Program::new(find_program("setpriv")?)
                .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)])
                .args(["--init-groups", "--"])
                .args([path])
                .args(words)
                .env("USER", user.name.clone())
                .env("LOGNAME", user.name.clone()),
        };
        let runtime = base.runtime.as_ref().map(|dir| ("XDG_RUNTIME_DIR", dir));
        let dirs = [("HOME", &base.home), ("XDG_CONFIG_HOME", &base.config)];
        let dirs = dirs.into_iter().chain([("XDG_STATE_HOME", &base.state)]).chain(runtime);
        Ok(dirs.fold(program, |program, (name, dir)| program.env(name, dir)))
    }

    /// The arguments with which it is started, up to the command.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = vec!["-p".to_owned(), self.owner.name.to_string()];
        let config = self.owner.config.as_ref();
        words.extend(config.map(|file| format!("--config={}", file.display())));
        words.extend(self.owner.set.iter().map(|setting| format!("--set={setting}")));
        words
    }
}

/// The gateway that the machine's unit runs, with its own arguments where it runs now, and its user.
fn find_owner(context: &Context, unit: &Unit<'_>) -> Option<(Context, Option<User>)> {
    let shown = unit.show().ok()?;
    let user = shown.get("User");
    let user = user::by_name(if user.is_empty() { "root" } else { user })?;
    let running = start::main_process(unit, &shown);
    let (config, set) = running.map(|(it, _)| (it.config, it.set)).unwrap_or_default();
    let owner = Context { config, set, ..context.of_user(&user) };
    Some((owner, Some(user).filter(|user| user.uid != user::own_uid())))
}

fn no_unit(context: &Context) -> Failure {
    let (unit, command) = (context.name.unit(), context.name.command());
    Failure::failed(format!(
        "the machine has no unit {unit} that can be updated: see `{command} status`"
    ))
}

/// A gateway that no unit runs, with what its command line says.
fn started_by_hand(context: &Context, holder: Holder) -> Option<Context> {
    let words = proc::arguments(holder.pid)?.into_iter().skip(1).collect();
    let args::Parsed { config, set, .. } = args::parse(None, words, &[]).ok()?;
    Some(Context { config, set, ..context.clone() })
}

fn with_rights_of<T>(user: Option<&User>, act: impl FnOnce() -> T) -> Result<T, Failure> {
    match user {
        None => Ok(act()),
        Some(user) => {
            let cannot = |e| {
                Failure::new(Exit::Failed, format!("cannot act as {}: {e}", user.name.display()))
            };
            user::acting_as(user, act).map_err(cannot)
        }
    }
}

/// The path in `{ path=/usr/bin/x ; argv[]=/usr/bin/x run ; … }`, as `systemctl show` prints it.
fn program_of(exec_start: &str) -> Option<PathBuf> {
    let (_, path) = exec_start.split_once("path=")?;
    let (path, _) = path.split_once(" ; argv[]=")?;
    Some(Path::new(path).to_owned()).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_unit_is_read() {
        let shown =
            "{ path=/opt/a b/gw ; argv[]=/opt/a b/gw -p default run ; ignore_errors=no ; pid=7 }";
        assert_eq!(program_of(shown), Some("/opt/a b/gw".into()));
        assert_eq!(program_of(""), None);
        assert_eq!(program_of("{ path=x ; argv[]=x }"), None);
    }
}
