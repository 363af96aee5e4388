//! What a user in the foreground sees first: where it listens and what to try next.

use std::env;
use std::io;

use super::Plan;
use super::startup::Started;
use crate::limits::LOG_PATIENCE;
use crate::logger;

/// Prints the greeting, unless a service manager reads our output.
pub fn greet(plan: &Plan, started: &Started) {
    if env::var_os("NOTIFY_SOCKET").is_some() || env::var_os("JOURNAL_STREAM").is_some() {
        return;
    }
    let facts = &started.service.facts;
    let config = match &started.config_file {
        Some(file) => file.display().to_string(),
        None => format!("{} (not there: defaults)", plan.sources.file.display()),
    };
    let called = env::args_os().next().map(|word| word.to_string_lossy().into_owned());
    let called = called.unwrap_or_else(|| plan.name.command());
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
        key = started.key_file.display(),
    );
    // A greeting that nobody reads is no reason to stop.
    logger::write_within(io::stdout().lock(), &text, LOG_PATIENCE);
}
