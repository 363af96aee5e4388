//! The environment that agents and targets get: nothing of ours but what is listed here or
//! configured.

use std::env;

use super::program::Environment;
use crate::named::ByName;

/// What any program may need to find its files, its language and its time zone; none of it secret.
const ALLOWED: &str = "HOME USER LOGNAME SHELL PATH LANG LANGUAGE LC_ALL LC_CTYPE LC_MESSAGES \
    LC_COLLATE TZ TMPDIR XDG_CONFIG_HOME XDG_STATE_HOME XDG_RUNTIME_DIR";

/// The allow list, `pass_env` and `env`. Later ones win where a name comes twice.
pub fn environment(env: &ByName<String>, pass_env: &[String]) -> Environment {
    let inherited = ALLOWED.split(' ').chain(pass_env.iter().map(String::as_str));
    let inherited = inherited.filter_map(|name| Some((name.into(), env::var_os(name)?)));
    let configured = env.iter().map(|(name, value)| (name.into(), value.into()));
    inherited.chain(configured).collect()
}
