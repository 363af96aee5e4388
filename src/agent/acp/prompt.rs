//! What an agent is given to answer: the turn's text, what has to be known before it, and what came with it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::driver::{Driver, temporary};
use super::events::{Event, Opened};
use super::requests;
use super::wire::Features;
use crate::agent::context::{history, instructions, is_instruction, message};
use crate::agent::{Attachment, Turn};
use crate::digest::to_base64;
use crate::escape::{percent_encoded, quoted};
use crate::json::add;
use crate::limits::MAX_BODY_RANGE;
use crate::sys::fs::{is_temporary, open_own, read_bytes};

impl Driver<'_, '_> {
    /// Sends the prompt to a session that was opened like this.
    pub fn prompt(&mut self, opened: Opened) -> Option<Event<'static>> {
        self.listen();
        let id = self.conversation.session().to_owned();
        let images = self.features.has(Features::IMAGE);
        let mut before = None;
        self.is_new = matches!(opened, Opened::New | Opened::Doubtful);
        if self.is_new {
            match said_before(self.turn, self.living.config.max_history) {
                Ok(said) => before = Some(said),
                Err(e) => return Some(unreadable(&e)),
            }
        }
        let first = before.as_ref().map(Option::as_deref);
        let blocks = match blocks(self.turn, first, images) {
            Ok(blocks) => blocks,
            Err(e) => return Some(unreadable(&e)),
        };
        let how = match opened {
            Opened::Known => "",
            _ if first.flatten().is_some() => "restored",
            Opened::New => "new",
            Opened::Resumed | Opened::Doubtful => "resumed",
            Opened::Loaded => "loaded",
        };
        if !how.is_empty() {
            let used = (opened == Opened::New).then_some([0; 3]);
            self.process.add_session(&id, used);
            log::debug!("turn {}: the agent's session {id:?} is {how}", self.turn.message_id);
            let json = format!(r#"{{"how":"{how}","agent_session_id":{}}}"#, quoted(&id));
            self.living.reply.borrow_mut().event("agent_session", &json);
        }
        let meta = meta(self.turn);
        self.request(|number, _| requests::prompt(number, &id, &blocks, &meta));
        None
    }
}

fn unreadable(e: &io::Error) -> Event<'static> {
    Event::Ended(temporary(&format!("what was said or attached cannot be read: {e}"), e))
}

/// What the agent's session does not know yet, as text; `None` where that is nothing. `max_history`: bytes of
/// what was said before.
///
/// # Errors
/// The transcript cannot be read.
fn said_before(turn: &Turn<'_>, max_history: usize) -> io::Result<Option<String>> {
    let lines = match (turn.transcript, turn.context) {
        (Some(transcript), _) => {
            let mut lines = String::new();
            for (role, text, _) in history(transcript, max_history)? {
                lines += &message(role, &text);
                lines.push('\n');
            }
            lines
        }
        (None, Some(context)) => {
            let lines = context.lines();
            let mut said = String::new();
            for line in lines.lines().filter(|line| !is_instruction(line)) {
                said += line;
                said.push('\n');
            }
            said
        }
        (None, None) => String::new(),
    };
    Ok((!lines.is_empty()).then_some(lines))
}

/// The elements of `prompt`. `first`: it is the first one of the agent's session, to which this was said
/// before. `images`: the agent takes them.
///
/// # Errors
/// An attachment cannot be read now.
fn blocks(turn: &Turn<'_>, first: Option<Option<&str>>, images: bool) -> io::Result<String> {
    let mut text = String::new();
    if let Some(before) = first {
        let instructions = instructions(turn.context.map_or("", |context| &context.messages));
        if !instructions.is_empty() {
            text = instructions + "\n\n";
        }
        if let Some(before) = before {
            text += "This conversation began elsewhere. What was said in it so far, each message as a \
                     line of JSON:\n";
            text += before;
            text += "\nThe message to answer now:\n";
        }
    }
    text += turn.text;
    let mut blocks = text_block(&text);
    for attachment in turn.attachments {
        blocks.push(',');
        blocks += &block(attachment, images)?;
    }
    Ok(blocks)
}

fn text_block(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

/// An attachment: an image itself where the agent takes images, else where its file is; a reference is told of.
fn block(attachment: &Attachment, images: bool) -> io::Result<String> {
    let Attachment { name, media, path } = attachment;
    let Some(path) = path else { return Ok(text_block(&format!("Attachment: {name}"))) };
    if images && media.starts_with("image/") {
        let most = *MAX_BODY_RANGE.end() as u64;
        match open_own(path).and_then(|file| read_bytes(file, most)) {
            Ok(bytes) => {
                let (media, data) = (quoted(media), to_base64(&bytes));
                return Ok(format!(r#"{{"type":"image","mimeType":{media},"data":"{data}"}}"#));
            }
            Err(e) if is_temporary(&e) => return Err(e),
            Err(_) => {}
        }
    }
    let mut link = r#"{"type":"resource_link""#.to_owned();
    add(&mut link, Some("uri"), &quoted(&file_uri(path)));
    add(&mut link, Some("name"), &quoted(name));
    if !media.is_empty() {
        add(&mut link, Some("mimeType"), &quoted(media));
    }
    Ok(link + "}")
}

/// The `file` URI of an absolute path (RFC 8089).
fn file_uri(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    "file://".to_owned() + &percent_encoded(path.as_os_str().as_bytes(), &plain)
}

/// Whose message it is, for the agent's own use.
fn meta(turn: &Turn<'_>) -> String {
    let [principal, id, session] = [turn.principal, turn.message_id, turn.session].map(quoted);
    let attempt = turn.attempt;
    format!(
        r#"{{"principal":{principal},"messageId":{id},"session":{session},"attempt":{attempt}}}"#
    )
}
