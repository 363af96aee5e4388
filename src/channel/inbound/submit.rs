//! A message becomes a turn, or a command is done.

use super::draft::add_files;
use super::{Context, Inbound};
use crate::channel::wire::Message;
use crate::session::{Command, Draft, Place, Refusal, Submitted};
use crate::shares::{Limit, LimitReached};

impl Inbound {
    /// Submits what these pieces are. What is `old` waits until its sender asks for it, and a command is not
    /// done. `full`: why their files are left out.
    pub(super) fn submit(
        &mut self,
        context: Context<'_>,
        pieces: &[Message],
        (place, command, old): (&Place, Option<Command>, bool),
        (mut draft, full): (Draft, Option<&str>),
    ) -> Result<Option<Submitted>, Refusal> {
        add_files(context, pieces, &mut draft, full);
        let begun = &mut self.batch.begun;
        match command {
            _ if draft.text.is_empty() => Ok(None),
            // Nobody wants what he wanted done a day ago done now.
            Some(_) if old => {
                let from = draft.origin.map_or_else(String::new, |origin| origin.from);
                let words = "A command that came too late was not done: send it again.";
                self.notices.tell_refused(context, (draft.who, place.clone(), &from), words);
                Ok(None)
            }
            Some(command) => {
                // Unless the replies of too many wait there.
                let (at, waits) = (&place.conversation, |id| context.hub.to_send(id).is_some());
                if !self.replies.has_room(command, at, &waits) {
                    let message = "The replies of too many commands wait there.".to_owned();
                    return Err(Refusal::Full(LimitReached { over: Limit::Session, message }));
                }
                let submitted = context.hub.command(command, draft)?;
                if let Submitted::New { id, .. } = submitted {
                    self.replies.add(id, at, &waits);
                }
                Ok(Some(submitted))
            }
            None if old => context.hub.hold(draft, begun).map(Some),
            None => context.hub.append(draft, begun).map(Some),
        }
    }
}
