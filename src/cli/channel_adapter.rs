//! `channel-adapter`: an adapter that is built in, as the gateway starts it.

use std::path::PathBuf;

use super::args::Parsed;
use crate::config::Url;
use crate::exit::{Exit, Failure};
use crate::session::menu;
use crate::subprocess::Children;
use crate::sys::exec::set_name;
use crate::sys::process::protect_memory;
use crate::telegram::{self, Options};

/// Where the Bot API is.
const API: &str = "https://api.telegram.org";

/// Runs until standard input ends.
///
/// # Errors
/// Wrong usage, and what the system does not give.
pub fn run(args: &Parsed) -> Result<Exit, Failure> {
    set_name("hermes-telegram");
    protect_memory().map_err(|e| Failure::cannot("protect its memory", &e))?;
    let url = args.value("--api-url").unwrap_or(API);
    let wrong = |why| Failure::new(Exit::Usage, format!("--api-url is {url:?}; {why}"));
    let options = Options {
        token_file: PathBuf::from(args.value("--token-file").unwrap_or_default()),
        api_url: Url::api(url).map_err(wrong)?,
        groups: args.has("--groups"),
        commands: menu(),
    };
    telegram::run(options, Children::new(None)).map_err(|e| Failure::cannot("wait", &e))
}
