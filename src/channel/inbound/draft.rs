//! What a message from a platform is to the gateway.

use super::context::Context;
use crate::channel::access::{self, Asked, shown};
use crate::channel::files::MAX_FILE_BYTES;
use crate::channel::link::Answer;
use crate::channel::wire::{self, Kind, Message};
use crate::journal::WriteError;
use crate::journal::record::Origin;
use crate::limits::{CHANNEL_OFFER_AGAIN, MAX_CHANNEL_TEXT};
use crate::session::{Draft, Id, Place, Refusal};
use crate::shares::{Limit, Shares};
use crate::sys::gather::Gather;

/// Files of one message, as the API has it.
const MAX_FILES: usize = 16;

/// It became this message.
pub(super) fn taken(id: Id, duplicate: bool) -> Answer {
    Answer::Taken { message: Some(id.to_string()), duplicate }
}

/// Whether a text is more than an adapter may offer as one.
pub(super) fn is_long(it: &Message) -> bool {
    it.text.len().max(it.subject.as_ref().map_or(0, String::len)) > MAX_CHANNEL_TEXT
}

/// It is to be offered again.
pub(super) fn later(why: &str) -> Answer {
    Answer::Later { retry_after: CHANNEL_OFFER_AGAIN.as_secs(), why: why.to_owned() }
}

pub(super) fn place_of(conversation: &str, thread: Option<&str>) -> Place {
    Place { conversation: conversation.to_owned(), thread: thread.map(str::to_owned) }
}

/// What is judged of it.
pub(super) fn asked(message: &Message) -> Asked<'_> {
    Asked {
        private: message.kind == Kind::Private,
        conversation: &message.conversation,
        thread: message.thread.as_deref(),
        from: message.from.as_ref().map(sender),
        mentioned: message.mentioned,
        text: &message.text,
    }
}

pub(super) fn sender(from: &wire::Sender) -> access::Sender<'_> {
    access::Sender { id: &from.id, bot: from.bot, verified: from.verified }
}

/// The text of a piece, with what stands above it.
pub(super) fn text_of(piece: &Message) -> String {
    match &piece.subject {
        Some(subject) if !subject.is_empty() => format!("{subject}\n\n{}", piece.text),
        Some(_) | None => piece.text.clone(),
    }
}

/// Where pieces that are one message came from.
pub(super) fn origin(account: &str, pieces: &[Message], cursor: Option<String>) -> Origin {
    let Some(last) = pieces.last() else { return Origin::default() };
    let (from, name) =
        last.from.as_ref().map(|from| (from.id.clone(), from.name.clone())).unwrap_or_default();
    Origin {
        conversation: last.conversation.clone(),
        thread: last.thread.clone(),
        account: account.to_owned(),
        ids: pieces.iter().map(|piece| piece.id.clone()).gather(),
        from,
        name,
        group: last.kind != Kind::Private,
        cursor,
        ..Origin::default()
    }
}

/// Reads the files of a message. What is not taken is named in its text, for the agent.
/// `full`: why none is.
pub(super) fn add_files(
    context: Context<'_>,
    pieces: &[Message],
    draft: &mut Draft,
    full: Option<&str>,
) {
    let config = &context.settings.config;
    let limit = config.limits.max_attachments as u64;
    let mut room = Shares::of(config).most(limit).min(MAX_FILE_BYTES);
    let (mut bad, mut first) = (0, String::new());
    let refuses = match () {
        () if limit == 0 => Some("limits.max_attachments is 0"),
        () if config.agent.is_echo() => Some("the agent is echo"),
        () => full,
    };
    for file in pieces.iter().flat_map(|piece| &piece.files) {
        let read = match refuses {
            Some(why) => Err(why.to_owned()),
            None if draft.files.len() >= MAX_FILES => {
                Err(format!("a message has {MAX_FILES} at most"))
            }
            None => context.files.read((&file.path, &file.name, &file.media_type), room),
        };
        let line = match read {
            Ok(upload) => {
                room -= upload.data.len() as u64;
                draft.attachments.push(String::new());
                let line = format!("(A file came: {}.)", upload.name);
                draft.files.push(upload);
                // An agent is asked something, if only by this.
                if draft.text.is_empty() { line } else { continue }
            }
            Err(why) => {
                let plain = file.path.rsplit('/').next().unwrap_or_default();
                let name = shown(if file.name.is_empty() { plain } else { &file.name });
                let line = format!("the file \"{name}\" was not taken: {why}");
                bad += 1;
                if bad == 1 {
                    first.clone_from(&line);
                }
                format!("({line})")
            }
        };
        draft.text += if draft.text.is_empty() { "" } else { "\n" };
        draft.text += &line;
    }
    if bad > 0 {
        let more = match bad {
            1 => String::new(),
            _ => format!("; nor were {} more of this message", bad - 1),
        };
        log::warn!("channel {}: {first}{more}", context.channel.name);
    }
}

/// What is answered where nobody is told of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    match final_refusal(refusal) {
        Some(_) => Answer::Never(refusal.to_string()),
        None => later(&refusal.to_string()),
    }
}

/// What the sender is told of a refusal that is final; `None`: it may pass. What one principal has too much of
/// is final, or he would hold up everybody else of the channel.
pub(super) fn final_refusal(refusal: &Refusal) -> Option<&'static str> {
    Some(match refusal {
        Refusal::Full(reached) if reached.over == Limit::Session => {
            "As many messages wait here as may. This one was not taken: send it again later."
        }
        Refusal::Full(reached) | Refusal::Share(reached) | Refusal::Transcripts(reached)
            if reached.over == Limit::Principal =>
        {
            "The gateway keeps as much from here as it may. This message was not taken: send it again \
             later."
        }
        Refusal::Journal(WriteError::TooLong) => "This message is too long, and was not taken.",
        _ => return None,
    })
}
