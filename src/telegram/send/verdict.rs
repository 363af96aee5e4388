//! What became of a part whose call was answered. Pure.

use std::time::Duration;

use crate::telegram::call::{Failure, Outcome, Refusal};
use crate::telegram::lines::{Failed, Kind};

/// Seconds, where Telegram asks to wait and does not say how long.
pub const RETRY_AFTER: u64 = 5;

/// The id of the message that shows it, or why none does. `edits`: the id of the message that the call has edited,
/// which may be done twice.
pub fn of(outcome: &Outcome, edits: Option<i64>) -> Result<i64, Failed> {
    let failed =
        |kind, why: &str| Failed { kind, retry_after: None, moved_to: None, why: why.to_owned() };
    let unknown = if edits.is_some() { Kind::Temporary } else { Kind::Uncertain };
    match outcome {
        Ok(message) => {
            let id = message["message_id"].as_i64().or(edits);
            id.ok_or_else(|| failed(unknown, "Telegram has not said the id of the message"))
        }
        Err(Failure::NotSent(why)) => Err(failed(Kind::Temporary, why)),
        Err(Failure::Unknown(why)) => Err(failed(unknown, why)),
        Err(Failure::Refused(refusal)) => match edits {
            Some(id) if is_unchanged(refusal) => Ok(id),
            Some(_) | None => Err(refused(refusal)),
        },
    }
}

/// Whether the message may be taken without its entities: of links Telegram says what is wrong with the URL.
pub fn blames_entities(outcome: &Outcome) -> bool {
    let Err(Failure::Refused(refusal)) = outcome else { return false };
    let said = refusal.description.to_ascii_lowercase();
    refusal.code == 400 && (said.contains("entit") || said.contains("url"))
}

/// After which pause, at least, a call that has no receipt is made again; `None`: it is not. `failed`: the pause where
/// it may have come to nothing.
pub fn again(outcome: &Outcome, failed: Option<Duration>) -> Option<Duration> {
    match outcome {
        Err(Failure::Refused(refusal)) if refusal.code == 429 => Some(Duration::ZERO),
        Err(Failure::Refused(refusal)) if refusal.code < 500 => None,
        Err(_) => failed,
        Ok(_) => None,
    }
}

fn is_unchanged(refusal: &Refusal) -> bool {
    refusal.code == 400 && refusal.description.contains("message is not modified")
}

fn refused(refusal: &Refusal) -> Failed {
    let moved_to = refusal.migrate_to;
    let kind = match refusal.code {
        400 | 403 | 413 if moved_to.is_none() => Kind::Permanent,
        _ => Kind::Temporary,
    };
    let retry_after = match refusal.code {
        429 => Some(refusal.retry_after.unwrap_or(RETRY_AFTER)),
        _ => None,
    };
    let why = format!("Telegram: {} ({})", refusal.description, refusal.code);
    Failed { kind, retry_after, moved_to, why }
}
