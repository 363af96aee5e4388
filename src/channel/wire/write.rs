//! What the gateway says to an adapter, each on one line without its end. Pure.

use super::VERSION;
use crate::escape::quoted;
use crate::json::{add, list, text_or_null};

/// A line in the making.
struct Line(String);

impl Line {
    fn new(op: &str) -> Line {
        Line("{".to_owned()).text("op", op)
    }

    fn raw(mut self, name: &str, json: &str) -> Line {
        add(&mut self.0, Some(name), json);
        self
    }

    fn text(self, name: &str, text: &str) -> Line {
        self.raw(name, &quoted(text))
    }

    /// Left out where there is none.
    fn maybe(self, name: &str, text: Option<&str>) -> Line {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    fn end(self) -> String {
        self.0 + "}"
    }
}

/// The first line to an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    pub channel: &'a str,
    pub state_dir: &'a str,
    pub files_dir: &'a str,
    /// The account that the cursor is of, and the cursor.
    pub cursor: Option<(&'a str, &'a str)>,
    /// Bytes of a text that is offered; a longer one comes as a file.
    pub max_text: usize,
}

pub fn hello(hello: &Hello<'_>) -> String {
    let (account, cursor) = hello.cursor.unzip();
    let line = Line::new("hello").raw("versions", &format!("[{VERSION}]"));
    let line = line.text("channel", hello.channel).text("state_dir", hello.state_dir);
    let line = line.text("files_dir", hello.files_dir).raw("cursor", &text_or_null(cursor));
    let line = line.raw("cursor_account", &text_or_null(account));
    line.raw("max_text", &hello.max_text.to_string()).end()
}

/// `message`: the id of what the item became; `None`: nobody is served.
pub fn ack(n: u64, message: Option<&str>, duplicate: bool) -> String {
    let line = Line::new("ack").raw("n", &n.to_string()).raw("as", &text_or_null(message));
    line.raw("duplicate", &duplicate.to_string()).end()
}

/// `retry_after`: in seconds; `None`: it is never to be offered again.
pub fn refuse(n: u64, retry_after: Option<u64>, why: &str) -> String {
    let after = retry_after.map_or("null".to_owned(), |seconds| seconds.to_string());
    let line = Line::new("refuse").raw("n", &n.to_string()).raw("retry_after", &after);
    line.text("why", why).end()
}

/// One part to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    pub delivery: &'a str,
    pub attempt: u32,
    pub part: u32,
    pub parts: u32,
    pub conversation: &'a str,
    pub thread: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    pub text: &'a str,
    pub markdown: bool,
    /// Ids and labels.
    pub buttons: &'a [(&'a str, &'a str)],
    /// The question that they answer.
    pub prompt: Option<&'a str>,
    /// What is edited to become this.
    pub replaces: Option<&'a str>,
    /// `false`: more will replace it.
    pub last: bool,
}

pub fn send(send: &Send<'_>) -> String {
    let line = Line::new("send").text("delivery", send.delivery);
    let line = line.raw("attempt", &send.attempt.to_string()).raw("part", &send.part.to_string());
    let line = line.raw("parts", &send.parts.to_string()).text("conversation", send.conversation);
    let line = line.maybe("thread", send.thread).maybe("reply_to", send.reply_to);
    let line = line.text("text", send.text);
    let mut line = line.text("format", if send.markdown { "markdown" } else { "plain" });
    if !send.buttons.is_empty() {
        let button = |(id, label): &(&str, &str)| {
            Line("{".to_owned()).text("id", id).text("label", label).end()
        };
        line = line.raw("buttons", &list(&mut send.buttons.iter().map(button)));
    }
    let line = line.maybe("prompt", send.prompt).maybe("replaces", send.replaces);
    line.raw("final", &send.last.to_string()).end()
}

/// Takes back what was shown under this id of the platform.
pub fn delete(delivery: &str, conversation: &str, id: &str) -> String {
    let line = Line::new("delete").text("delivery", delivery);
    line.text("conversation", conversation).text("id", id).end()
}

pub fn typing(conversation: &str, thread: Option<&str>) -> String {
    Line::new("typing").text("conversation", conversation).maybe("thread", thread).end()
}

pub fn ping() -> String {
    Line::new("ping").end()
}
