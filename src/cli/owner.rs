//! Whose gateway a unit runs: the user, that user's places, and the unit text that follows from
//! them. For `install`, which writes it, and `status`, which compares.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::program;
use super::unit::{installed_file, unit_dir};
use crate::config::{self, ConfigError, Loaded, Sources};
use crate::dirs::{Base, Dirs};
use crate::exit::{Exit, Failure};
use crate::limits::MAX_UNIT_FILE;
use crate::name::Name;
use crate::sys::fs::read_any;
use crate::sys::user::{self, User};
use crate::systemd::Scope;
use crate::systemd::unit::{self, Spec};

/// Who a unit's gateway belongs to.
#[derive(Debug)]
pub struct Owner {
    pub scope: Scope,
    /// For a system unit.
    pub user: Option<User>,
    pub base: Base,
    pub dirs: Dirs,
}

impl Owner {
    /// Ourselves, by our own service manager.
    pub fn own(context: &Context) -> Owner {
        Owner {
            scope: Scope::User,
            user: None,
            base: context.base.clone(),
            dirs: context.dirs.clone(),
        }
    }

    /// A user for whom the machine's service manager runs it.
    pub fn of(context: &Context, user: User) -> Owner {
        let base = Base::of(&user);
        Owner { scope: Scope::System, dirs: base.gateway(&context.name), user: Some(user), base }
    }

    /// The configuration that the unit's gateway will read.
    pub fn config(&self) -> Result<Loaded, ConfigError> {
        config::load(&self.sources())
    }

    pub fn sources(&self) -> Sources {
        let (file, home) = (self.dirs.config_file.clone(), Some(self.base.home.clone()));
        // Where there is none, `install` writes one.
        let demanded = file.symlink_metadata().is_ok();
        Sources { file, home, demanded, ..Sources::default() }
    }

    /// The unit that this program writes for this owner, on this version of systemd.
    ///
    /// # Errors
    /// One line when there is a path in it that systemd would not take.
    pub fn unit_text(
        &self,
        context: &Context,
        version: u32,
        drain_timeout: Duration,
    ) -> Result<String, String> {
        let user = match &self.user {
            None => None,
            Some(user) => Some(user.name.to_str().ok_or("a user's name is not UTF-8")?),
        };
        let file = unit_dir(&self.base, self.scope).join(context.name.unit());
        let installed = read_any(file, MAX_UNIT_FILE).unwrap_or_default();
        let installed = unit::program_in(&installed, &context.name);
        let uid = self.user.as_ref().map_or_else(user::own_uid, |user| user.uid);
        unit::expected(&Spec {
            name: &context.name,
            scope: self.scope,
            version,
            program: &program::for_unit(installed, uid)?,
            user,
            environment: &self.environment(),
            drain_timeout,
        })
    }

    /// What this shell has set and the manager may not have.
    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        if self.user.is_some() {
            return Vec::new();
        }
        let home = user::by_uid(user::own_uid()).map_or(self.base.home.clone(), |user| user.home);
        let given = [
            ("XDG_CONFIG_HOME", &self.base.config, ".config"),
            ("XDG_STATE_HOME", &self.base.state, ".local/state"),
        ];
        given
            .into_iter()
            .filter(|(_, dir, usual)| **dir != home.join(usual))
            .map(|(name, dir, _)| (name, dir.clone()))
            .collect()
    }
}

/// Whether an installed unit of this text is what this program would write. For `status`.
///
/// # Errors
/// One line when that cannot be told.
pub fn is_current(
    context: &Context,
    scope: Scope,
    version: u32,
    installed: &str,
) -> Result<bool, String> {
    let owner = match scope {
        Scope::User => Owner::own(context),
        Scope::System => {
            let name = unit::user_in(installed).ok_or("it names no user")?;
            let user = user::by_name(&name).ok_or(format!("there is no user {name:?}"))?;
            Owner::of(context, user)
        }
    };
    let loaded = owner.config().map_err(|e| e.to_string())?;
    let text = owner.unit_text(context, version, loaded.config.stop.drain_timeout)?;
    Ok(text == installed)
}

/// Refuses a verb where this gateway is not our own but that of the user whom the machine's unit of
/// this name runs as: its files and its socket are that user's.
///
/// # Errors
/// `Unavailable`, with `sudo -u USER hermes-gateway …`: how such a gateway is talked to.
pub fn refuse_foreign(context: &Context, verb: &str) -> Result<(), Failure> {
    let Some(user) = somebody_else(context) else {
        return Ok(());
    };
    let (name, command) = (&context.name, context.name.command());
    let words = format!("gateway {name} runs as {user}: `sudo -u {user} {command} {verb}`");
    Err(Failure::new(Exit::Unavailable, words))
}

/// Whether a unit of this gateway is installed that runs as ourselves: `install` gives each of them a
/// configuration.
pub fn has_unit(base: &Base, name: &Name) -> bool {
    let Some((scope, file)) = installed_file(base, name, false) else { return false };
    let user = || unit::user_in(&read_any(file, MAX_UNIT_FILE).ok()?);
    let uid = || user().map_or(Some(0), |name| Some(user::by_name(&name)?.uid));
    scope == Scope::User || uid() == Some(user::own_uid())
}

fn somebody_else(context: &Context) -> Option<String> {
    if context.dirs.state.exists() {
        return None;
    }
    let file = unit_dir(&context.base, Scope::System).join(context.name.unit());
    let user = unit::user_in(&read_any(file, MAX_UNIT_FILE).ok()?)?;
    user::by_name(&user).filter(|user| user.uid != user::own_uid())?;
    Some(user)
}

/// Whether this user's service manager runs without a login: where logind keeps it (loginctl(1),
/// enable-linger), since asking it would need the bus.
pub fn lingers(user: &OsStr) -> bool {
    Path::new("/var/lib/systemd/linger").join(user).exists()
}
