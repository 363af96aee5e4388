//! The text of a reply, put together from an agent's pieces. Pure.

use std::borrow::Cow;

/// The reply so far: what is put between its pieces, and how long it is.
#[derive(Debug, Default)]
pub struct ReplyText {
    pub bytes: usize,
    /// Line feeds at its end, up to two.
    line_feeds: usize,
    /// Something else has come after it.
    interrupted: bool,
}

impl ReplyText {
    /// What comes next begins behind a blank line.
    pub fn interrupt(&mut self, does: bool) {
        self.interrupted |= does;
    }

    /// A piece, as it goes into the reply.
    pub fn next<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        let mut piece = Cow::Borrowed(text);
        if self.interrupted {
            // Some put a blank line there themselves.
            let rest = text.trim_start_matches('\n');
            piece = Cow::Borrowed(rest);
            if !rest.is_empty() && self.bytes > 0 {
                piece = Cow::Owned("\n\n"[self.line_feeds..].to_owned() + rest);
            }
        }
        if !piece.is_empty() {
            self.interrupted = false;
            self.bytes += piece.len();
            let own = piece.len() - piece.trim_end_matches('\n').len();
            let all = if own == piece.len() { self.line_feeds + own } else { own };
            self.line_feeds = all.min(2);
        }
        piece
    }
}
