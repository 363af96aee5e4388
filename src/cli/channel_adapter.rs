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
    let file = match (args.words.first().map(String::as_str), args.value("--token-file")) {
        (Some("telegram"), Some(file)) => file,
        (Some("telegram"), None) => return Err(usage("--token-file is missing")),
        (Some(_) | None, _) => {
            return Err(usage("the adapter's name is missing: there is telegram"));
        }
    };
    set_name("hermes-telegram");
    protect_memory().map_err(|e| Failure::cannot("protect its memory", &e))?;
    let url = args.value("--api-url").unwrap_or(API);
    let wrong = |why: String| usage(&format!("--api-url is {url:?}; {why}"));
    let options = Options {
        token_file: PathBuf::from(file),
        api_url: Url::api(url).map_err(wrong)?,
        groups: args.has("--groups"),
        commands: menu(),
    };
    telegram::run(options, Children::new(None)).map_err(|e| Failure::cannot("wait", &e))
}

fn usage(what: &str) -> Failure {
    let more = "see `hermes-gateway channel-adapter --help`";
    Failure::new(Exit::Usage, format!("{what}; {more}"))
}
