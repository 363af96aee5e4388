//! Agents that speak the Agent Client Protocol, version 1: JSON-RPC on their stdin and stdout.
//!
//! What may enter: what is said to such an agent and what its words mean. Which process it is, and whether it
//! lives, is `living`'s to know.

mod asking;
mod conversation;
mod directories;
mod driver;
mod events;
mod prompt;
mod reply_text;
mod requests;
mod results;
#[cfg(any(test, fuzzing))]
pub mod tests;
mod updates;
mod wire;

use std::sync::atomic::Ordering;

use self::wire::{Features, Route};
use super::Outcome;
use super::living::{Address, LivingTurn, Process, Protocol, text_behind};

/// The protocol; its state is with each process.
#[derive(Debug)]
pub struct Acp;

pub static ACP: Acp = Acp;

impl Protocol for Acp {
    fn greeting(&self) -> Option<String> {
        Some(requests::initialize())
    }

    fn line(&self, process: &Process, line: &str) -> Result<(), String> {
        match wire::route(line) {
            None if line.trim_ascii().is_empty() => {}
            None => process.complain("this line of its is no message of the protocol", line),
            Some(Route::Request(0)) if process.features.load(Ordering::Relaxed) == 0 => {
                let features = Features::read(line).map_err(|why| results::shortened(&why))?;
                process.features.store(features.0, Ordering::Relaxed);
                process.set_ready();
            }
            Some(Route::Request(number)) => {
                if !process.deliver(&Address::Request(number), line) {
                    process.complain("nobody waits for this answer of its", line);
                }
            }
            Some(Route::Session(id, request)) => {
                let taken = process.deliver(&Address::Session(id.into_owned()), line);
                match request.filter(|_| !taken) {
                    Some(request) => {
                        process.complain("it asks for leave outside of any turn", line);
                        process.answer(requests::permit(request, None));
                    }
                    None if !taken && line.contains("\"agent_message_chunk\"") => {
                        process.complain("it says something outside of any turn", line);
                    }
                    None => {}
                }
            }
            Some(Route::Unknown(id)) => {
                let words = "The gateway offers no such method.";
                process.answer(requests::error(id, wire::UNKNOWN_METHOD, words));
            }
            Some(Route::Nobody | Route::Notification) => {}
        }
        Ok(())
    }

    fn address(&self, beginning: &str) -> Option<Address> {
        text_behind(beginning, "\"sessionId\"").map(Address::Session)
    }

    fn run(&self, process: &Process, turn: &LivingTurn<'_, '_>) -> Outcome {
        driver::run(process, turn)
    }
}
