//! What every command knows.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use super::unit_file::has_unit;
use crate::config::Sources;
use crate::dirs::{Base, Dirs};
use crate::name::Name;
use crate::subprocess::Children;
use crate::sys::process::Pid;

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
}

impl Context {
    /// The same gateway in other places.
    pub fn at(&self, base: Base) -> Context {
        Context { dirs: base.gateway(&self.name), base, ..self.clone() }
    }

    /// Where the configuration is read from.
    pub fn sources(&self) -> Sources {
        Sources { demanded: self.demands_file(), ..self.named_sources() }
    }

    /// The same as far as the command line tells.
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
        let is_unit = env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == Pid::own().to_string());
        let agent_is_set = self.set.iter().any(|setting| setting.starts_with("agent."));
        let has_unit =
            || (is_unit && self.dirs.config_file.exists()) || has_unit(&self.base, &self.name);
        self.config.is_some() || (!agent_is_set && has_unit())
    }
}
