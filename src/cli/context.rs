//! Which gateway a command is about: its name, directories and user, and the unit text from them;
//! whether it is another user's, and how that user is told to ask.

use std::{
    env, ffi::OsString, fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration,
};

use super::exec_path;
use super::unit_paths::{has_unit, read, read_ours, unit_file};
use crate::config::Sources;
use crate::dirs::{Base, Dirs};
use crate::exit::{Exit, Failure};
use crate::name::Name;
use crate::subprocess::Children;
use crate::sys::gather::Gather;
use crate::sys::process::Pid;
use crate::sys::user::{self, User};
use crate::systemd::Scope;
use crate::systemd::unit_template::{Spec, program_in, render, user_in};

/// What every command knows.
#[derive(Clone, Debug)]
pub struct Context {
    pub name: Name,
    pub base: Base,
    pub dirs: Dirs,
    /// `--config FILE`, absolute.
    pub config: Option<PathBuf>,
    /// The `--set` arguments.
    pub set: Vec<String>,
    pub children: Arc<Children>,
    /// Whom the machine's service manager runs it as: then the directories are that user's. `None`: ourselves.
    pub user: Option<User>,
}

/// Does what touches the files of `user` with that user's rights; `None` is the caller.
pub fn acting_as<T>(user: Option<&User>, act: impl FnOnce() -> T) -> Result<T, Failure> {
    let Some(user) = user else { return Ok(act()) };
    let cannot = |e| Failure::cannot(&format!("act as {}", user.name.display()), &e);
    user::acting_as(user, act).map_err(cannot)
}

impl Context {
    /// The same gateway in other directories.
    pub fn at(&self, base: Base) -> Context {
        Context { dirs: base.gateway(&self.name), base, ..self.clone() }
    }

    /// Where the configuration is read from, as far as the command line tells.
    pub fn named_sources(&self) -> Sources {
        Sources {
            file: self.config.clone().unwrap_or_else(|| self.dirs.config_file.clone()),
            required: self.config.is_some(),
            demanded: false,
            set: self.set.clone(),
            home: Some(self.base.home.clone()),
        }
    }

    /// Whether a missing or empty file is a mistake. Looks at files, whose disk may hang.
    pub fn demands_file(&self) -> bool {
        // Of a unit of another name, only an empty file is a mistake: it may do without one.
        let unit = env::var("SYSTEMD_EXEC_PID").ok();
        // Or a child that proves that it could take our place.
        let is_unit = { [Some(Pid::own()), Pid::parent()] }
            .iter()
            .flatten()
            .any(|pid| unit.as_deref() == Some(&pid.to_string()));
        let agent_is_set = self.set.iter().any(|setting| setting.starts_with("agent."));
        let has_unit =
            || (is_unit && self.dirs.config_file.exists()) || has_unit(&self.base, &self.name);
        self.config.is_some() || (!agent_is_set && has_unit())
    }

    /// The arguments with which a program starts it as it was started.
    pub fn words(&self, command: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["-p".into(), self.name.as_str().into()];
        words.extend(command.iter().map(OsString::from));
        if let Some(file) = &self.config {
            words.extend(["--config".into(), file.into()]);
        }
        for setting in &self.set {
            words.extend(["--set".into(), setting.into()]);
        }
        words
    }

    /// Refuses a verb where this gateway is another user's: its files and its socket are that user's.
    ///
    /// # Errors
    /// `Unavailable`, with `sudo -u USER hermes-gateway …`: how such a gateway is talked to.
    pub fn refuse_foreign(&self, verb: &str) -> Result<(), Failure> {
        let Some((user, _)) = self.foreign_owner() else { return Ok(()) };
        let words = self.foreign_message(&user, verb);
        Err(Failure::new(Exit::Unavailable, words))
    }

    pub fn foreign_message(&self, user: &User, verb: &str) -> String {
        let (user, name) = (user.name.display(), &self.name);
        format!("gateway {name} belongs to {user}: `sudo -u '{user}' {} {verb}`", name.command())
    }

    /// Whose gateway is meant, where it is not our own, and where that one is: the state directory is
    /// another user's (sudo with HOME kept); or there is none, and the system unit of this name runs as
    /// another user, or the user who called sudo has one and root has no configuration for it.
    pub fn foreign_owner(&self) -> Option<(User, Dirs)> {
        let Context { base, dirs, name, .. } = self;
        let own = user::own_uid();
        if let Ok(meta) = fs::metadata(&dirs.state) {
            let (uid, gid, home) = (meta.uid(), meta.gid(), base.home.clone());
            let user = || User { name: user::display_name(uid).into(), uid, gid, home };
            return (uid != own).then(|| (user(), dirs.clone()));
        }
        let by_unit =
            read(unit_file(base, name, Scope::System)).ok().and_then(|text| user_in(&text));
        let by_sudo = env::var("SUDO_USER").ok().filter(|_| own == 0 && !dirs.config_file.exists());
        let located = |user: User| (Base::of(&user).gateway(name), user);
        let of = |user: String| user::by_name(&user).filter(|user| user.uid != own).map(located);
        let by_sudo = || by_sudo.and_then(of).filter(|(dirs, _)| dirs.state.exists());
        by_unit.and_then(of).or_else(by_sudo).map(|(dirs, user)| (user, dirs))
    }

    /// The same gateway, run by the machine's service manager as this user.
    pub fn of_user(&self, user: &User) -> Context {
        Context { user: Some(user.clone()), ..self.at(Base::of(user)) }
    }

    /// The gateway that an installed unit of this text runs; `None` where its user cannot be told.
    pub fn of_unit(&self, scope: Scope, installed: &str) -> Option<Context> {
        match scope {
            Scope::User => Some(self.clone()),
            Scope::System => Some(self.of_user(&user::by_name(&user_in(installed)?)?)),
        }
    }

    /// The service manager that is to run it.
    pub fn scope(&self) -> Scope {
        if self.user.is_some() { Scope::System } else { Scope::User }
    }

    /// Where its unit will read the configuration. Without any, the first `install` writes one.
    pub fn unit_sources(&self) -> Sources {
        let (file, home) = (self.dirs.config_file.clone(), Some(self.base.home.clone()));
        // A unit of somebody else's has had none of ours to read.
        let has_unit = read_ours(unit_file(&self.base, &self.name, self.scope())).is_some();
        let demanded = has_unit || file.symlink_metadata().is_ok();
        Sources { file, home, demanded, ..Sources::default() }
    }

    /// The unit that this program writes for it, on this version of systemd.
    ///
    /// # Errors
    /// One line when there is a path in it that systemd would not take.
    pub fn unit_text(&self, version: u32, drain_timeout: Duration) -> Result<String, String> {
        let why = "a user's name is not UTF-8";
        let user = self.user.as_ref().map(|user| user.name.to_str().ok_or(why)).transpose()?;
        let (name, scope) = (&self.name, self.scope());
        let installed = read(unit_file(&self.base, name, scope)).unwrap_or_default();
        let installed = program_in(&installed, name);
        let uid = self.user.as_ref().map_or_else(user::own_uid, |user| user.uid);
        let (program, environment) = (&exec_path::for_unit(installed, uid)?, &self.environment());
        render(&Spec { name, scope, version, program, user, environment, drain_timeout })
    }

    /// What this shell has set and the manager may not have.
    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let base = &self.base;
        let home = user::by_uid(user::own_uid()).map_or(base.home.clone(), |user| user.home);
        let given = [
            ("XDG_CONFIG_HOME", &base.config, ".config"),
            ("XDG_STATE_HOME", &base.state, ".local/state"),
            ("XDG_DATA_HOME", &base.data, ".local/share"),
        ];
        let given = given.into_iter().filter(|(_, dir, usual)| **dir != home.join(usual));
        given.filter(|_| self.user.is_none()).map(|(name, dir, _)| (name, dir.clone())).gather()
    }
}
