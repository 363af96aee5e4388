//! What a user in the foreground sees first: where it listens and what to try next.

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::Plan;
use super::startup::Started;
use crate::limits::LOG_PATIENCE;
use crate::logger;
use crate::subprocess::find_program;
use crate::text::escaped;

/// Prints the greeting on a terminal. Elsewhere nobody reads it, and the log has what counts.
pub fn greet(plan: &Plan, started: &Started) {
    if !io::stdout().is_terminal() {
        return;
    }
    let facts = &started.service.facts;
    let config = match &started.config_file {
        Some(file) => file.display().to_string(),
        None => format!("{} (not there: defaults)", plan.sources.file.display()),
    };
    let called = env::args_os().next().and_then(|word| callable(Path::new(&word)));
    let called = called.map_or_else(|| "hermes-gateway".to_owned(), |path| shell_word(&path));
    let key = shell_word(&started.key_file);
    let profile = match plan.name.as_str() {
        "default" => String::new(),
        name => format!(" -p {name}"),
    };
    let text = format!(
        "\
hermes-gateway {version}, gateway {name}, on http://{listen}
  agent          {agent}
  configuration  {config}
  key            {key}
Try in another terminal:
  {called}{profile} send \"hello\"
  {called}{profile} send --session work --async \"remember this\"
  curl -H \"Authorization: Bearer $(cat {key})\" -H 'Content-Type: application/json' \\
       -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}' http://{listen}/v1/chat/completions
Ctrl-C stops it.
",
        version = env!("CARGO_PKG_VERSION"),
        name = facts.name,
        listen = facts.listen,
        agent = started.service.settings().agent.kind(),
    );
    // A greeting that nobody reads is no reason to stop.
    logger::write_within(io::stdout().lock(), &text, LOG_PATIENCE);
}

/// How to call this program again from any directory: by its name where `PATH` leads to it, else by
/// its place. `None`: its name says no place, and is not on `PATH`.
fn callable(called: &Path) -> Option<PathBuf> {
    let name = called.file_name()?;
    let on_path = find_program(name.to_str()?).ok().and_then(|path| path.canonicalize().ok());
    if name == called {
        return on_path.map(|_| called.to_owned()).or_else(|| env::current_exe().ok());
    }
    let place = std::path::absolute(called).ok()?;
    let same = on_path.is_some_and(|path| place.canonicalize().is_ok_and(|own| own == path));
    Some(if same { name.into() } else { place })
}

/// A path as a shell reads it.
fn shell_word(path: &Path) -> String {
    let text = escaped(&path.display().to_string(), false);
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
