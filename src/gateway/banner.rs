//! The banner: what a user in the foreground sees first: where it listens and what to try next.

use std::{env, io::IsTerminal, path::PathBuf, sync::atomic::Ordering};

use super::Plan;
use super::startup::Started;
use crate::escape::shell_word;
use crate::limits::LOG_TIMEOUT;
use crate::logger;
use crate::sys::fd::STDOUT;

/// Prints it on a terminal. Elsewhere nobody reads it, and the log has what counts.
pub fn print(plan: &Plan, started: &Started) {
    if !STDOUT.is_terminal() {
        return;
    }
    let (facts, settings) = (&started.service.facts, started.service.settings());
    let file = plan.sources.file.display();
    let defaults =
        if plan.had_file.load(Ordering::SeqCst) { "" } else { " (sets nothing: defaults)" };
    // By a name `PATH` leads to it; any other place holds from every directory if it is absolute.
    let called = PathBuf::from(env::args_os().next().unwrap_or_else(|| "hermes-gateway".into()));
    let place = std::path::absolute(&called).ok().filter(|_| called.components().count() > 1);
    let called = shell_word(&place.unwrap_or(called));
    let command = plan.name.command().replacen("hermes-gateway", &called, 1);
    let key = settings.config.http.key_file.clone().unwrap_or_else(|| plan.dirs.key());
    let key = shell_word(&key);
    let text = format!(
        "\
hermes-gateway {version}, gateway {name}, on http://{listen}
  agent          {agent}
  configuration  {file}{defaults}
  key            {key}
Try in another terminal:
  {command} send \"hello\"
  {command} send --session work --async \"remember this\"
  curl -H \"Authorization: Bearer $(cat {key})\" -H 'Content-Type: application/json' \\
       -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}' http://{listen}/v1/chat/completions
Ctrl-C stops it.
",
        version = env!("CARGO_PKG_VERSION"),
        name = facts.name,
        listen = facts.listen,
        agent = settings.agent.kind(),
    );
    // A terminal that takes no text is no reason to stop.
    logger::write_within(STDOUT, &text, LOG_TIMEOUT);
}
