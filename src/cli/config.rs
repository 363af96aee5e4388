//! `config`: the effective configuration, or a check of it.

use std::{env, ffi::OsStr, path::PathBuf, sync::Arc};

use super::context::Context;
use super::output::say;
use super::unit_control::Unit;
use super::unit_paths::installed_file;
use crate::config::{self, Loaded, LogTarget, Sources};
use crate::exit::{Exit, Failure};
use crate::gateway::{self, Inherited, Plan};
use crate::limits::WANTED_DESCRIPTORS;
use crate::logger;
use crate::sys::fd::{max_open, raise_limit};

/// Prints the configuration with where each value came from; with `check` only what is wrong.
pub fn show(context: &Context, check: bool) -> Result<Exit, Failure> {
    if !check {
        let loaded = load(context)?;
        let mut text = loaded.render();
        // As the gateway does, so that the same limit counts.
        let _ = raise_limit(WANTED_DESCRIPTORS);
        let shortage = loaded.config.limits.within(max_open()).shortage();
        text.extend(shortage.map(|words| format!("\n# Here {words}.\n")));
        return say(&text);
    }
    // What a start says in its log while it reads files.
    logger::set(log::LevelFilter::Warn, LogTarget::Stderr, "hermes-gateway");
    let loaded = gateway::check(&plan(context))?;
    let unit = installed_file(&context.base, &context.name, false);
    let unit = unit.filter(|_| context.config.is_none());
    let path = unit.and_then(|(scope, _)| Unit::new(context, scope).variable("PATH"));
    warn(&loaded, path.as_deref());
    Ok(Exit::Planned)
}

/// Loads the configuration.
pub fn load(context: &Context) -> Result<Loaded, Failure> {
    config::load(&Sources { demanded: context.demands_file(), ..context.named_sources() })
}

/// What a start of this gateway would go by.
pub fn plan(context: &Context) -> Plan {
    let Context { name, dirs, children, .. } = context.clone();
    let asked = context.clone();
    Plan {
        name,
        dirs,
        sources: context.named_sources(),
        demanded: Arc::new(move || asked.demands_file()),
        had_file: Arc::default(),
        children,
        ephemeral: false,
        inherited: Inherited::default(),
        program: PathBuf::new(),
        arguments: Vec::new(),
    }
}

/// Prints the warnings. `path`: where the unit would look for programs, if there is one.
pub fn warn(loaded: &Loaded, path: Option<&OsStr>) {
    let here = env::var_os("PATH").unwrap_or_default();
    for warning in loaded.warnings(path.unwrap_or(&here), &here) {
        eprintln!("hermes-gateway: warning: {warning}");
    }
}
