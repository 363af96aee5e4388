//! What an agent's answers mean for a turn beside its text.

use std::sync::atomic::Ordering;

use super::driver::Driver;
use super::updates;
use super::wire::{self, Answer, Features, Refusal};
use crate::agent::{AgentSession, ErrorResponse, Outcome, Report};
use crate::config;
use crate::digest::{hex, sha256_framed};
use crate::escape::{escaped, first_chars, quoted};
use crate::sys::gather::Gather;

/// Of an agent's error message, for whoever gets it.
const MAX_ERROR: usize = 1000;

/// An error's message for logs and people.
pub fn shortened(message: &str) -> String {
    escaped(&first_chars(message, MAX_ERROR), false)
}

impl Driver<'_, '_> {
    /// Which agent it is: with another command or directory, ids of sessions mean something else.
    pub fn name(config: &config::Agent) -> String {
        let directory =
            config.directory.as_ref().map_or(&b""[..], |it| it.as_os_str().as_encoded_bytes());
        let command = config.command.iter().map(|part| part.as_bytes());
        hex(&sha256_framed(&std::iter::once(directory).chain(command).gather())[..12])
    }

    /// The agent has taken its first prompt, and with it what was said before: its session is worth keeping.
    pub fn keep(&mut self) {
        if self.is_new && !self.turn.session_name.is_empty() {
            let id = self.conversation.session().to_owned();
            let session = AgentSession { agent: self.agent.clone(), id };
            self.living.reply.borrow_mut().keep_session(&session);
            self.is_new = false;
        }
    }

    /// The agent has answered a cancel with something else, and may take the turn for one that still runs: no
    /// later one may be given to this process.
    pub fn distrust(&self) {
        let id = self.turn.message_id;
        log::info!(
            "turn {id}: its cancel was answered wrongly; the agent's process takes no more turns"
        );
        self.process.retire();
    }

    /// What the answer to the prompt tells beside the reply.
    pub fn report(&mut self, answer: &Answer<'_>) {
        let reason = answer.stop_reason.get();
        let finish =
            matches!(reason, "max_tokens" | "max_turn_requests").then(|| "length".to_owned());
        let usage = answer.tokens().and_then(|(used, in_all)| {
            let id = self.conversation.session();
            let before = self.process.used(id);
            self.process.add_session(id, Some(used));
            let [input, output, all] = if in_all && !self.features.has(Features::OWN_USAGE) {
                updates::difference(before?, used).unwrap_or_else(|| {
                    self.process.features.fetch_or(Features::OWN_USAGE, Ordering::Relaxed);
                    used
                })
            } else {
                used
            };
            Some(format!(
                r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{all}}}"#
            ))
        });
        if usage.is_some() || finish.is_some() {
            let report = Report { usage, finish, ..Report::default() };
            self.living.reply.borrow_mut().report(report);
        }
    }

    /// How a turn ends by an error of the agent's.
    pub fn refused(&self, refusal: &Refusal) -> Outcome {
        let Refusal { code, message, status } = refusal;
        let message = shortened(message);
        if let Some(status) = *status {
            let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
            let response = ErrorResponse::new(status, &message, (&quoted(kind), "null", "null"));
            return Outcome::ErrorResponse(Box::new(response));
        }
        let words = format!("the agent answered with the error {code}: {message}");
        match *code {
            wire::AUTHENTICATION_REQUIRED => Outcome::Failed(format!(
                "{words}; log it in as the user that runs the gateway, by its own command for that, or \
                 give it its key with agent.env or agent.pass_env"
            )),
            wire::NOT_FOUND => {
                // It may have forgotten the session: then that is opened anew.
                self.process.remove_session(self.conversation.session());
                Outcome::Temporary(words)
            }
            wire::REQUEST_CANCELLED | wire::WRONG_PARAMETERS..=wire::WRONG_REQUEST => {
                Outcome::Failed(words)
            }
            _ => Outcome::Temporary(words),
        }
    }
}
