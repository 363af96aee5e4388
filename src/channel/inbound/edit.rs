//! Somebody has changed what he said.

use super::context::Context;
use super::draft::taken;
use super::{Inbound, NOBODY};
use crate::channel::link::Answer;
use crate::limits::MAX_CHANNEL_TEXT;
use crate::session::Refusal;

impl Inbound {
    /// The message of this id has another text: it counts while its turn has not begun.
    pub(super) fn edit(
        &mut self,
        context: Context<'_>,
        id: &str,
        text: String,
    ) -> Result<Answer, Refusal> {
        if text.len() > MAX_CHANNEL_TEXT {
            return Ok(Answer::Never("the text has more bytes than max_text".to_owned()));
        }
        // It is answered behind the piece that it edits.
        if self.groups.edit(id, &text) {
            return Ok(NOBODY);
        }
        let known = context.hub.find_offered(&context.channel.name, &self.account, id);
        let Some(id) = known else { return Ok(NOBODY) };
        context.hub.edit(id, text)?;
        Ok(taken(id, false))
    }
}
