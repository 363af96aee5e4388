//! `config`: the effective configuration, or a check of it.

use super::{Context, say};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::limits::WANTED_DESCRIPTORS;
use crate::sys::fd::{most_open, raise_limit};

/// Prints the configuration with where each value came from; with `check` only what is wrong.
pub fn show(context: &Context, check: bool) -> Result<Exit, Failure> {
    let loaded = load(context)?;
    if !check {
        let mut text = loaded.render();
        // As the gateway does, so that the same limit counts.
        let _ = raise_limit(WANTED_DESCRIPTORS);
        let shortage = loaded.config.limits.within(most_open()).shortage();
        text.extend(shortage.map(|words| format!("\n# Here {words}.\n")));
        return say(&text);
    }
    loaded.with_secrets()?;
    Ok(Exit::Planned)
}

/// Loads the configuration.
pub fn load(context: &Context) -> Result<config::Loaded, Failure> {
    Ok(config::load(&context.sources())?)
}
