//! Whose gateway a unit runs: the user, that user's places, and the unit text that follows from
//! them. For `install`, which writes it, and `status`, which compares.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::context::Context;
use super::unit::Unit;
use super::unit_file::{read, read_ours, unit_file};
use super::{args, config, program};
use crate::config::Sources;
use crate::dirs::{Base, Dirs};
use crate::exit::{Exit, Failure};
use crate::gateway;
use crate::name::Name;
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::sys::user::{self, User};
use crate::systemd::Scope;
use crate::systemd::systemctl::Properties;
use crate::systemd::unit::{self, Spec};

/// Who a unit's gateway belongs to.
#[derive(Debug)]
pub struct Owner {
    pub scope: Scope,
    /// For a system unit.
    pub user: Option<User>,
    /// That user's places.
    pub context: Context,
}

impl Owner {
    /// Ourselves, by our own service manager.
    pub fn own(context: &Context) -> Owner {
        Owner { scope: Scope::User, user: None, context: context.clone() }
    }

    /// A user for whom the machine's service manager runs it.
    pub fn of(context: &Context, user: User) -> Owner {
        let context = context.at(Base::of(&user));
        Owner { scope: Scope::System, user: Some(user), context }
    }

    /// Who an installed unit of this text is for; `None` where its user cannot be told.
    pub fn of_unit(context: &Context, scope: Scope, installed: &str) -> Option<Owner> {
        match scope {
            Scope::User => Some(Owner::own(context)),
            Scope::System => Some(Owner::of(context, user::by_name(&unit::user_in(installed)?)?)),
        }
    }

    /// Where the unit's gateway will read its configuration. Without any, the first `install` writes one.
    pub fn sources(&self) -> Sources {
        let Context { base, dirs, name, .. } = &self.context;
        let (file, home) = (dirs.config_file.clone(), Some(base.home.clone()));
        // A unit of somebody else's has had none of ours to read.
        let has_unit = read_ours(unit_file(base, name, self.scope)).is_some();
        let demanded = has_unit || file.symlink_metadata().is_ok();
        Sources { file, home, demanded, ..Sources::default() }
    }

    /// The unit that this program writes for this owner, on this version of systemd.
    ///
    /// # Errors
    /// One line when there is a path in it that systemd would not take.
    pub fn unit_text(&self, version: u32, drain_timeout: Duration) -> Result<String, String> {
        let why = "a user's name is not UTF-8";
        let user = self.user.as_ref().map(|user| user.name.to_str().ok_or(why)).transpose()?;
        let Context { base, name, .. } = &self.context;
        let installed = read(unit_file(base, name, self.scope)).unwrap_or_default();
        let installed = unit::program_in(&installed, name);
        let uid = self.user.as_ref().map_or_else(user::own_uid, |user| user.uid);
        unit::expected(&Spec {
            name,
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
        let base = &self.context.base;
        let home = user::by_uid(user::own_uid()).map_or(base.home.clone(), |user| user.home);
        let given = [
            ("XDG_CONFIG_HOME", &base.config, ".config"),
            ("XDG_STATE_HOME", &base.state, ".local/state"),
        ];
        let given = given.into_iter().filter(|(_, dir, usual)| **dir != home.join(usual));
        given.map(|(name, dir, _)| (name, dir.clone())).collect()
    }
}

/// Refuses a verb where this gateway is another user's: its files and its socket are that user's.
///
/// # Errors
/// `Unavailable`, with `sudo -u USER hermes-gateway …`: how such a gateway is talked to.
pub fn refuse_foreign(context: &Context, verb: &str) -> Result<(), Failure> {
    let Some((user, _)) = somebody_else(context) else { return Ok(()) };
    let words = foreign_words(&user, &context.name, verb);
    Err(Failure::new(Exit::Unavailable, words))
}

pub fn foreign_words(user: &User, name: &Name, verb: &str) -> String {
    let user = user.name.display();
    format!("gateway {name} belongs to {user}: `sudo -u '{user}' {} {verb}`", name.command())
}

/// Whose gateway is meant, where it is not our own, and where that one is: the state directory is
/// another user's (sudo with HOME kept); or there is none, and the machine's unit of this name runs as
/// another user, or the user who called sudo has one and root has no configuration for it.
pub fn somebody_else(context: &Context) -> Option<(User, Dirs)> {
    let Context { base, dirs, name, .. } = context;
    let own = user::own_uid();
    if let Ok(meta) = fs::metadata(&dirs.state) {
        let (uid, gid, home) = (meta.uid(), meta.gid(), base.home.clone());
        let user = || User { name: user::named(uid).into(), uid, gid, home };
        return (uid != own).then(|| (user(), dirs.clone()));
    }
    let by_unit =
        read(unit_file(base, name, Scope::System)).ok().and_then(|text| unit::user_in(&text));
    let by_sudo = env::var("SUDO_USER").ok().filter(|_| own == 0 && !dirs.config_file.exists());
    let located = |user: User| (Base::of(&user).gateway(name), user);
    let of = |user: String| user::by_name(&user).filter(|user| user.uid != own).map(located);
    let by_sudo = || by_sudo.and_then(of).filter(|(dirs, _)| dirs.state.exists());
    by_unit.and_then(of).or_else(by_sudo).map(|(dirs, user)| (user, dirs))
}

/// Checks what the main process of a unit, `MainPID` of `shown`, would read at its next start: with its
/// own arguments and places. Where none runs there is nothing to lose, and where it is neither ours nor
/// are we root, systemd refuses anyway.
///
/// # Errors
/// What `config check` says.
pub fn check_config(context: &Context, unit: &Unit, shown: &Properties) -> Result<(), Failure> {
    let Some(pid) = shown.get("MainPID").parse().ok().and_then(Pid::new) else {
        return Ok(());
    };
    // Whose it is says `status`: its directory in /proc is root's (PR_SET_DUMPABLE).
    let other = proc::uid(pid).filter(|uid| *uid != user::own_uid()).and_then(user::by_uid);
    let Some(context) = context_of(context, unit, (pid, other.as_ref()), shown) else {
        return Ok(());
    };
    let check = || gateway::check(&config::plan(&context)).map(drop);
    match other {
        Some(user) => user::acting_as(&user, check).unwrap_or(Ok(())),
        None => check(),
    }
}

/// What a process that runs a gateway goes by: what it was started with, where we may read that, else
/// what its service manager starts it with.
fn context_of(
    context: &Context,
    unit: &Unit,
    (pid, other): (Pid, Option<&User>),
    shown: &Properties,
) -> Option<Context> {
    let started_with = |name| proc::variable(pid, name).map(OsString::from);
    let variable = |name| started_with(name).or_else(|| unit.variable(name));
    let home = other.map(|user| user.home.clone());
    let home = home.or_else(|| variable("HOME").map(PathBuf::from))?;
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.filter(|path| path.is_absolute()).unwrap_or(home.join(".config"));
    // The installed unit may have been written anew since: its places are those of this command.
    let installed = unit.systemctl.scope == Scope::User && unit.name == context.name.unit();
    // A relative `--config` is relative to where that process is.
    let start = home.join(shown.get("WorkingDirectory").trim_start_matches(['!', '~']));
    let _ =
        env::set_current_dir(format!("/proc/{pid}/cwd")).or_else(|_| env::set_current_dir(start));
    let theirs = Base { home, config, ..context.base.clone() };
    let base = if installed { context.base.clone() } else { theirs };
    let words = proc::arguments(pid)?.into_iter().skip(1).collect();
    let args::Parsed { config, set, .. } = args::parse(None, words, &[]).ok()?;
    Some(Context { config, set, ..context.at(base) })
}

/// Our name, and whether our service manager runs without a login: where logind keeps it (loginctl(1),
/// enable-linger), since asking it would need the bus.
pub fn own_lingering() -> Option<(String, bool)> {
    let name = user::by_uid(user::own_uid())?.name;
    let lingers = Path::new("/var/lib/systemd/linger").join(&name).exists();
    Some((name.display().to_string(), lingers))
}
