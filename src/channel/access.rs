//! Who may talk on a channel, as whom and in which session: by the platform's ids alone, never by names that
//! people give themselves, and nobody who is on no list. Pure.

use std::time::Instant;

use crate::config::{Channel, Config, MAX_PRINCIPAL, SessionOf, Unknown};
use crate::escape::{escaped, first_chars, percent_encoded};
use crate::limits::{MAX_SHOWN_VALUE, MAX_STRANGERS_NAMED, STRANGER_NAMED_AGAIN};
use crate::session::{Command, Owner, digest_of};
use crate::sys::gather::Gather;

/// What is judged of a message or of a button's press.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Only the sender and the bot are in the conversation.
    pub private: bool,
    pub conversation: &'a str,
    pub thread: Option<&'a str>,
    /// `None`: the platform does not say who it was.
    pub from: Option<Sender<'a>>,
    /// It names the bot, replies to it or presses a button of its.
    pub mentioned: bool,
    pub text: &'a str,
}

/// Who the platform says it was.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    pub id: &'a str,
    pub bot: bool,
    /// The platform vouches for the id.
    pub verified: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is served. `operator`: its sender may use all slash commands and answer for others.
    Take { who: Owner, operator: bool },
    /// Nobody expects an answer: a group's own talk, another bot, a sender that is not known.
    Ignore,
    /// Its sender, or its group, of this id, is on no list. `pair`: a pairing code may be offered.
    Stranger { id: &'a str, pair: bool },
}

/// Judges one message. `paired`: who was let in by a pairing code.
pub fn judge<'a>(
    (config, channel): (&Config, &Channel),
    paired: &dyn Fn(&str) -> bool,
    asked: &Asked<'a>,
) -> Verdict<'a> {
    let Some(from) = asked.from.filter(|from| !from.bot) else { return Verdict::Ignore };
    let has = |list: &[String], id: &str| list.iter().any(|known| known == id);
    let (id, alias) = (from.id, channel.r#as.get(from.id));
    if asked.private {
        let listed = has(&channel.allow, id) || has(&channel.operators, id) || alias.is_some();
        if !from.verified || !(listed || paired(id)) {
            let pair = from.verified && channel.unknown == Unknown::Pair;
            return Verdict::Stranger { id, pair };
        }
    } else if !has(&channel.groups, asked.conversation) {
        return Verdict::Stranger { id: asked.conversation, pair: false };
    } else if !asked.mentioned && Command::parse(asked.text).is_none() {
        return Verdict::Ignore;
    } else if !from.verified {
        return Verdict::Stranger { id, pair: false };
    }
    let group = !asked.private && channel.session == SessionOf::Conversation;
    let principal = match alias {
        _ if group => name_of(&channel.name, &[asked.conversation]),
        Some(alias) => alias.clone(),
        None => name_of(&channel.name, &[id]),
    };
    let place = [asked.conversation, asked.thread.unwrap_or_default()];
    let session = name_of(&channel.name, &place[..1 + usize::from(asked.thread.is_some())]);
    let operator = has(&channel.operators, id) || alias.is_some_and(|it| config.is_operator(it));
    Verdict::Take { who: Owner::new(principal, Some(session)), operator }
}

/// `CHANNEL:ID`, or `CHANNEL:CONVERSATION:THREAD`: no two of them have the same name. In ids all but visible
/// ASCII, and `%`, `:` and `/`, is percent-encoded, so that it is good as a principal, and as a session's key
/// in a path; where that is too long, `%-` and a digest stand for the ids, which no encoded one begins with.
pub fn name_of(channel: &str, ids: &[&str]) -> String {
    let mut name = channel.to_owned();
    for id in ids {
        name.push(':');
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"%:/".contains(&byte);
        name += &percent_encoded(id.as_bytes(), &plain);
    }
    if name.len() <= MAX_PRINCIPAL {
        return name;
    }
    let digest = digest_of(&ids.iter().map(|id| id.as_bytes()).gather());
    format!("{channel}:%-{digest:032x}")
}

/// The strangers that the log has named.
#[derive(Default)]
pub struct Strangers(Vec<(String, Instant)>);

impl Strangers {
    /// The line for the log about one, an id and a name, and what he `gets`: once an hour, and about a
    /// bounded number of them in that time.
    pub fn note(
        &mut self,
        channel: &str,
        (id, name): (&str, &str),
        gets: &str,
        now: Instant,
    ) -> Option<String> {
        let age = |at: Instant| now.saturating_duration_since(at);
        self.0.retain(|(_, at)| age(*at) < STRANGER_NAMED_AGAIN);
        if self.0.len() >= MAX_STRANGERS_NAMED || self.0.iter().any(|(known, _)| known == id) {
            return None;
        }
        self.0.push((id.to_owned(), now));
        let last = self.0.len() == MAX_STRANGERS_NAMED;
        let more = if last { "; more of them are not named for an hour" } else { "" };
        let [id, name] = [id, name].map(shown);
        Some(format!("channel {channel}: \"{id}\" ({name}) is on no list and gets {gets}{more}"))
    }
}

/// What people on a platform call themselves, and ids, for a log or a terminal.
pub fn shown(text: &str) -> String {
    escaped(&first_chars(text, MAX_SHOWN_VALUE), false)
}

#[cfg(test)]
mod tests;
