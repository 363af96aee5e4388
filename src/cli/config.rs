//! `config`: the effective configuration, or a check of it.

use super::{Context, say};
use crate::config;
use crate::exit::{Exit, Failure};

/// Prints the configuration with where each value came from; with `check` only what is wrong.
pub fn show(context: &Context, check: bool) -> Result<Exit, Failure> {
    let loaded = load(context)?;
    if !check {
        return say(&loaded.render());
    }
    loaded.with_secrets()?;
    Ok(Exit::Planned)
}

/// Loads the configuration.
pub fn load(context: &Context) -> Result<config::Loaded, Failure> {
    Ok(config::load(&context.sources())?)
}
