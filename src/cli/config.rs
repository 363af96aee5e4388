//! `config`: the effective configuration, or a check of it.
#![forbid(unsafe_code)]

use super::{Context, say};
use crate::config::{self, ConfigError};
use crate::exit::{Exit, Failure};

/// Prints the configuration with where each value came from; with `check` only what is wrong.
pub fn show(context: &Context, check: bool) -> Result<Exit, Failure> {
    let loaded = load(context)?;
    if !check {
        return say(&loaded.render());
    }
    loaded.with_secrets().map_err(|e| wrong(&e))?;
    Ok(Exit::Planned)
}

/// Loads the configuration.
pub fn load(context: &Context) -> Result<config::Loaded, Failure> {
    config::load(&context.sources()).map_err(|e| wrong(&e))
}

/// `Config`, with a line for everything that is wrong.
pub fn wrong(e: &ConfigError) -> Failure {
    Failure::new(Exit::Config, format!("the configuration is wrong\n{e}"))
}
