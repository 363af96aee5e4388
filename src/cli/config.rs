//! `config`: the effective configuration, or a check of it.

use super::{Context, say};
use crate::config::{self, Sources};
use crate::exit::{Exit, Failure};

/// Prints the configuration with where each value came from; with `check` only what is wrong.
pub fn show(context: &Context, check: bool) -> Result<Exit, Failure> {
    if !check {
        return say(&load(context)?.render());
    }
    self::check(&context.sources())?;
    Ok(Exit::Planned)
}

/// What a start would find wrong.
pub fn check(sources: &Sources) -> Result<(), Failure> {
    config::load(sources)?.with_secrets()?;
    Ok(())
}

/// Loads the configuration.
pub fn load(context: &Context) -> Result<config::Loaded, Failure> {
    Ok(config::load(&context.sources())?)
}
