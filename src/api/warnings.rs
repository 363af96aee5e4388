//! What of a request was not done: its answer says so in a header, since it is an answer all the same.

use crate::http::Response;
use crate::limits::MAX_SHOWN_VALUE;

pub const WARNING: &str = "X-Hermes-Warning";

/// Bytes of the header: room for some dozens, and within what clients take of a head.
const MAX_WARNINGS: usize = 1024;

/// Warnings about one request, in ASCII.
#[derive(Debug, Default)]
pub struct Warnings(String);

impl Warnings {
    /// A field that has no effect. A name that the client made up is shown as far as a header can.
    pub fn ignored(&mut self, field: &str, why: &str) {
        if self.0.len() >= MAX_WARNINGS {
            return;
        }
        if !self.0.is_empty() {
            self.0 += "; ";
        }
        let shown = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        self.0.extend(field.chars().take(MAX_SHOWN_VALUE).map(shown));
        self.0 += " ignored: ";
        self.0 += why;
    }

    pub fn mark(&self, response: Response) -> Response {
        if self.0.is_empty() { response } else { response.header(WARNING, self.0.clone()) }
    }
}
