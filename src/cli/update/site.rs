//! Which gateway is updated: what runs it and as whom, its configuration, and the program it is started
//! from.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::super::context::{Context, acting_as};
use super::super::control_client::{NoAnswer, contact, fetch_status};
use super::super::unit_control::{Unit, find};
use super::super::{config, exec_path, start};
use crate::config::Config;
use crate::exit::Failure;
use crate::lifecycle::instance_lock::{Holder, holder};
use crate::limits::CONTROL_TIMEOUT;
use crate::outbound::client::Client;
use crate::subprocess::{Program, find_program};
use crate::sys::proc;
use crate::sys::user::{self, User};
use crate::systemd::Scope;
use crate::systemd::systemctl::Properties;

/// The gateway that is updated.
pub struct Site<'c> {
    /// It with its own arguments and directories.
    pub owner: Context,
    /// Whose it is, where it is not ours: then we are root.
    pub user: Option<User>,
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
        let mut unit = find(context, system);
        let (mut owner, mut user) = (context.clone(), None);
        if system {
            let shown = unit.as_ref().and_then(|unit| unit.show().ok());
            let name = shown.as_ref().map(|shown| shown.get("User"));
            let found = name.and_then(|it| user::by_name(if it.is_empty() { "root" } else { it }));
            let found = found.ok_or_else(|| no_unit(context))?;
            owner = context.of_user(&found);
            user = Some(found).filter(|user| user.uid != user::own_uid());
        } else {
            context.refuse_foreign("update")?;
        }
        let holder = acting_as(user.as_ref(), || holder(&owner.dirs))?;
        if let Some(holder) = holder {
            // What runs counts: a unit that is installed may have nothing to do with it.
            unit = if system { unit } else { Unit::of(context, holder) };
            if unit.is_some() {
                // There a unit begins.
                let _ = env::set_current_dir(&owner.base.home);
            }
            if let Some(running) = start::arguments_of(holder.pid) {
                (owner.config, owner.set) = (running.config, running.set);
            }
        }
        // A user's own gateway may be the machine's service: that manager is root's to command.
        let is_ours = |unit: &Unit<'_>| unit.systemctl.scope == Scope::User || user::own_uid() == 0;
        let unit = unit.filter(|unit| is_ours(unit) && unit.show().is_ok());
        let config = acting_as(user.as_ref(), || config::load(&owner))??.config;
        Ok(Site { owner, user, unit, holder, config })
    }

    /// Does something with the rights of the gateway's user.
    pub fn as_owner<T>(&self, act: impl FnOnce() -> T) -> Result<T, Failure> {
        acting_as(self.user.as_ref(), act)
    }

    /// What a service manager says of the unit.
    pub fn shown(&self) -> Option<Properties> {
        self.unit.as_ref()?.show().ok()
    }

    /// What the gateway says of itself.
    pub fn status(&self) -> Result<Value, NoAnswer> {
        let deadline = Instant::now() + CONTROL_TIMEOUT;
        let asked = self.as_owner(|| fetch_status(&self.owner.dirs, deadline));
        let asked = asked.map_err(|failure| NoAnswer::Unreachable(failure.0.message))?;
        asked.map(|(_, status)| status)
    }

    /// A connection to its control socket.
    pub fn connect(&self) -> Result<Client<'static>, String> {
        let deadline = Instant::now() + CONTROL_TIMEOUT;
        let asked = self.as_owner(|| contact(&self.owner.dirs, deadline, ""));
        match asked.map_err(|failure| failure.0.message)? {
            Ok((_, (client, _))) => Ok(client),
            Err(NoAnswer::NotRunning) => Err("the gateway does not run".to_owned()),
            Err(NoAnswer::Unresponsive { why, .. } | NoAnswer::Unreachable(why)) => {
                Err(format!("the gateway cannot be asked: {why}"))
            }
        }
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
        let Some(Holder { pid, .. }) = self.holder else {
            return exec_path::for_unit(None, user::own_uid()).map_err(Failure::failed);
        };
        let words = proc::arguments(pid).unwrap_or_default();
        let called = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let path =
            if called.contains('/') { Some((&*called).into()) } else { find_program(&called).ok() };
        path.filter(|path: &PathBuf| path.is_absolute()).ok_or_else(|| {
            Failure::failed(format!(
                "which program gateway {} (pid {pid}) runs cannot be told from here: it was called as \
                 {called}; start it by its absolute path",
                self.owner.name
            ))
        })
    }

    /// A program to be run as the gateway's user, with that user's directories.
    pub fn as_user(&self, path: &Path, words: &[OsString]) -> io::Result<Program> {
        let base = &self.owner.base;
        let mut program = Program::new(path.to_owned());
        if let Some(user) = &self.user {
            program = Program::new(find_program("setpriv")?)
                .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)])
                .args(["--init-groups", "--"])
                .args([path])
                .env("USER", &user.name)
                .env("LOGNAME", &user.name);
        }
        if let Some(dir) = &base.runtime {
            program = program.env("XDG_RUNTIME_DIR", dir);
        }
        let program = program.args(words).env("HOME", &base.home);
        Ok(program.env("XDG_CONFIG_HOME", &base.config).env("XDG_STATE_HOME", &base.state))
    }
}

fn no_unit(context: &Context) -> Failure {
    let (unit, command) = (context.name.unit(), context.name.command());
    Failure::failed(format!(
        "the machine has no unit {unit} that can be updated: see `{command} status`"
    ))
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
