//! A message as its sender may see it, and its JSON.

use std::sync::Arc;

use super::asking::OpenApproval;
use super::id::Id;
use super::message_table::Entry;
use super::pending_retry::PendingRetry;
use super::states::DeliveryState;
use super::stored_file::StoredFile;
use crate::agent::{ErrorResponse, Report};
use crate::escape::quoted;
use crate::json;
use crate::stored_text::{PLACEHOLDER, StoredText, inside};
pub use crate::sys::clock::rfc3339;
use crate::sys::gather::Gather;

/// A message as its sender may see it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub id: Id,
    pub entry: Entry,
    pub reply: Option<String>,
    /// The inside of the reply where it is so long that it was not loaded; `reply` is empty then.
    pub long: Option<StoredText>,
    /// What its record says of what came with it, where there are files among that.
    pub attachments: Vec<String>,
    /// What its agent told beside it.
    pub report: Report,
    pub error: Option<String>,
    /// That error as the agent's server put it, or as one whose turn may succeed another time.
    pub refused: Option<ErrorResponse>,
    /// What it waits for between two attempts.
    pub waiting: Option<PendingRetry>,
    /// Its agent's questions that wait for an answer; of one that does not run there are none.
    pub approvals: Vec<OpenApproval>,
    /// Its position in its session's queue, from 1, while it is not over.
    pub position: Option<usize>,
    /// Why the last attempt of its delivery failed.
    pub delivery_error: Option<String>,
}

impl Message {
    /// The inside of its reply.
    pub fn extent(&self) -> StoredText {
        let short = || inside(self.reply.as_deref().unwrap_or_default());
        self.long.clone().unwrap_or_else(|| StoredText::Memory(Arc::new(short())))
    }

    /// As the API calls its state.
    pub fn status(&self) -> &'static str {
        if self.approvals.is_empty() { self.entry.turn.word() } else { "waiting" }
    }

    /// The message as JSON, as `GET /v1/messages/{id}` gives it, with [`PLACEHOLDER`] for a long reply.
    pub fn to_json(&self) -> String {
        let text = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quoted);
        let (entry, over) = (&self.entry, self.entry.turn.is_over());
        let deliveries = entry.delivery.iter().filter_map(|delivery| {
            // Before there is a reply it is pending too; of what was cancelled there is none.
            let later = (!over).then_some(DeliveryState::Pending);
            Some(format!(
                r#"{{"target":{},"status":"{}","attempts":{},"error":{}}}"#,
                quoted(&delivery.target),
                delivery.state.or(later)?.word(),
                delivery.attempts,
                text(self.delivery_error.as_deref()),
            ))
        });
        let deliveries: Vec<String> = deliveries.gather();
        let rest = [("usage", &self.report.usage), ("tool_calls", &self.report.calls)];
        let rest = rest.map(|(name, it)| it.as_ref().map(|it| format!(r#","{name}":{it}"#)));
        let rest = rest.map(Option::unwrap_or_default).concat();
        // Where they are is nobody's business.
        let files = self.attachments.iter().filter_map(|it| StoredFile::parse(it));
        let files = files.filter(|file| file.file().is_some());
        let files = json::list(&mut files.map(|file| {
            let (name, media) = (quoted(file.name), quoted(file.media));
            format!(r#"{{"name":{name},"type":{media},"bytes":{}}}"#, file.bytes)
        }));
        let open = json::list(&mut self.approvals.iter().map(|it| it.json.to_string()));
        let waiting = self.waiting.as_ref().and_then(PendingRetry::to_json);
        format!(
            r#"{{"id":"{}","session":{},"principal":{},"status":"{}","reply":{},"error":{},"error_status":{},"attempts":{},"created_at":"{}","finished_at":{},"position":{},"waiting":{},"deliveries":[{}]{}{}{}}}"#,
            self.id,
            text(entry.owner.session.as_deref()),
            quoted(&entry.owner.principal),
            self.status(),
            match &self.long {
                Some(_) => format!("\"{PLACEHOLDER}\""),
                None => text(self.reply.as_deref()),
            },
            text(self.error.as_deref()),
            self.refused.as_ref().map_or_else(|| "null".to_owned(), |it| it.status.to_string()),
            entry.attempts,
            rfc3339(entry.at),
            text(over.then(|| rfc3339(entry.ended.at)).as_deref()),
            self.position.map_or_else(|| "null".to_owned(), |position| position.to_string()),
            waiting.unwrap_or_else(|| "null".to_owned()),
            deliveries.join(","),
            rest,
            if open == "[]" { String::new() } else { format!(r#","approvals":{open}"#) },
            if files == "[]" { String::new() } else { format!(r#","attachments":{files}"#) },
        )
    }
}
