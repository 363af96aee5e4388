//! Where a gateway's files are: one place computes them, for the daemon and for every command.
//!
//! We do it ourselves instead of with `StateDirectory=`, which means other directories for user units
//! before systemd 254. The rules are those of the XDG base directory specification.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::name::Name;
use crate::sys::user::{self, User};

const OURS: &str = "hermes-gateway";
/// Below the configuration directory (systemd.unit(5)).
pub const UNITS: &str = "systemd/user";

/// The directories that do not depend on the gateway's name.
#[derive(Clone, Debug)]
pub struct Base {
    /// Empty where there is none.
    pub home: PathBuf,
    pub config: PathBuf,
    pub state: PathBuf,
    pub data: PathBuf,
    /// Where the user's unit files are, `.../systemd/user`.
    pub units: PathBuf,
    /// The user's runtime directory; `None` where there is none (containers, some `su` shells).
    pub runtime: Option<PathBuf>,
}

/// The directories of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// `$XDG_CONFIG_HOME/hermes-gateway/NAME.toml`.
    pub config_file: PathBuf,
    /// `$XDG_STATE_HOME/hermes-gateway/NAME`: key, journal, history.
    pub state: PathBuf,
    /// `$XDG_RUNTIME_DIR/hermes-gateway/NAME`, else `run` in the state directory: socket, lock.
    pub runtime: PathBuf,
    /// `$XDG_DATA_HOME/hermes-gateway/NAME`: where sessions of an agent that stays work.
    pub data: PathBuf,
}

impl Base {
    /// Our own user's directories, from the environment and, where it is silent, the password database.
    ///
    /// # Errors
    /// One line when there is no home directory, and it is needed.
    pub fn own() -> Result<Base, String> {
        let uid = user::own_uid();
        let home = absolute("HOME").or_else(|| user::by_uid(uid).map(|user| user.home));
        let place = |variable: &str, usual: &str| {
            let own = absolute(variable).or_else(|| Some(home.as_ref()?.join(usual)));
            let fault = "is set, and there is no home directory of uid";
            own.ok_or_else(|| format!("neither {variable} nor HOME {fault} {uid}: set one of them"))
        };
        let config = place("XDG_CONFIG_HOME", ".config")?;
        let state = place("XDG_STATE_HOME", ".local/state")?;
        // What has no home has its state somewhere.
        let data = place("XDG_DATA_HOME", ".local/share").unwrap_or_else(|_| state.clone());
        let runtime = runtime_dir(absolute("XDG_RUNTIME_DIR"), uid);
        let units = config.join(UNITS);
        Ok(Base { home: home.unwrap_or_default(), config, state, data, units, runtime })
    }

    /// Another user's directories, as a service that runs as that user sees them.
    pub fn of(user: &User) -> Base {
        Base {
            home: user.home.clone(),
            config: user.home.join(".config"),
            state: user.home.join(".local/state"),
            data: user.home.join(".local/share"),
            units: user.home.join(".config").join(UNITS),
            runtime: runtime_dir(None, user.uid),
        }
    }

    pub fn gateway(&self, name: &Name) -> Dirs {
        let state = self.state_dir().join(name.as_str());
        let runtime = self.run_dir().map(|dir| dir.join(name.as_str()));
        let runtime = runtime.unwrap_or_else(|| state.join("run"));
        let data = self.data.join(OURS).join(name.as_str());
        Dirs { config_file: self.config_dir().join(format!("{name}.toml")), state, runtime, data }
    }

    /// Where a gateway that keeps nothing has all its files if the state directory cannot be written: the
    /// runtime directory, or else a private one among temporary files.
    ///
    /// # Errors
    /// That of `make`, which is given the private one.
    pub fn without_state(
        &self,
        name: &Name,
        make: fn(&Path) -> io::Result<()>,
    ) -> io::Result<Dirs> {
        let mut base = self.clone();
        if base.runtime.is_none() {
            let temporary = temporary_dir(user::own_uid());
            make(&temporary)?;
            base.runtime = Some(temporary);
        }
        let dirs = base.gateway(name);
        Ok(Dirs { state: dirs.runtime.clone(), ..dirs })
    }

    pub fn config_dir(&self) -> PathBuf {
        self.config.join(OURS)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.state.join(OURS)
    }

    /// What has the gateways' runtime directories in it, where the user has one.
    pub fn run_dir(&self) -> Option<PathBuf> {
        self.runtime.as_ref().map(|runtime| runtime.join(OURS))
    }
}

impl Dirs {
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("lock")
    }

    /// Held as well; it also tells which runtime directory its gateway has. Both may be one directory.
    pub fn state_lock(&self) -> PathBuf {
        self.state.join("state.lock")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    pub fn planned_stop(&self) -> PathBuf {
        self.runtime.join("planned-stop")
    }

    pub fn key(&self) -> PathBuf {
        self.state.join("api.key")
    }

    pub fn history(&self) -> PathBuf {
        self.state.join("history.jsonl")
    }

    /// The transcripts of sessions.
    pub fn sessions(&self) -> PathBuf {
        self.state.join("sessions")
    }

    /// What an ephemeral run has of the same, which goes with it: apart, since the runtime directory may be the
    /// state directory of one that keeps its own.
    pub fn ephemeral(&self) -> PathBuf {
        self.runtime.join("ephemeral")
    }

    pub fn run_record(&self) -> PathBuf {
        self.state.join("run.json")
    }

    /// The same gateway as a process without a runtime directory sees it (a system unit at boot,
    /// while this shell has one): the other place where it may be found.
    pub fn without_runtime(&self) -> Dirs {
        Dirs { runtime: self.state.join("run"), ..self.clone() }
    }
}

/// The user's runtime directory: `XDG_RUNTIME_DIR`, or where logind puts it (pam_systemd(8)) when
/// the variable is missing (SSH without PAM) or another user's (`su` without `-`).
fn runtime_dir(from_environment: Option<PathBuf>, uid: u32) -> Option<PathBuf> {
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let known = from_environment.into_iter().chain([usual]).find(|dir| is_owned_dir(dir, uid));
    let is_made = |dir: &PathBuf| !dir.is_symlink() && is_owned_dir(dir, uid);
    known.or_else(|| Some(temporary_dir(uid)).filter(is_made))
}

/// What stands for the runtime directory where a gateway had none, nor a state directory that it could
/// write: other commands find that gateway by it.
fn temporary_dir(uid: u32) -> PathBuf {
    env::temp_dir().join(format!("{OURS}-{uid}"))
}

fn is_owned_dir(dir: &Path, uid: u32) -> bool {
    fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
}

/// A variable that names a directory; a relative one is to be ignored (XDG specification).
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_the_name_of_a_gateway() {
        let base = Base {
            home: "/h".into(),
            config: "/h/.config".into(),
            state: "/h/.local/state".into(),
            units: "/h/.config/systemd/user".into(),
            runtime: Some("/run/user/7".into()),
            data: PathBuf::new(),
        };
        let dirs = base.gateway(&Name::parse("coder").unwrap());
        assert_eq!(dirs.config_file, Path::new("/h/.config/hermes-gateway/coder.toml"));
        assert_eq!(dirs.state, Path::new("/h/.local/state/hermes-gateway/coder"));
        assert_eq!(dirs.runtime, Path::new("/run/user/7/hermes-gateway/coder"));
        let bare = Base { runtime: None, ..base }.gateway(&Name::parse("coder").unwrap());
        assert_eq!(bare.runtime, Path::new("/h/.local/state/hermes-gateway/coder/run"));
        assert_eq!(dirs.without_runtime(), bare);
    }

    #[test]
    fn a_runtime_directory_of_somebody_else_does_not_count() {
        let foreign = runtime_dir(Some("/proc/1/root-that-is-not-there".into()), u32::MAX - 7);
        assert_eq!(foreign, None);
    }
}
