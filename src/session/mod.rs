//! Sessions: what wants a turn comes in here, waits for a slot, in order within its session and
//! fairly among sessions, and is carried to its end and to its target.
//!
//! What may enter: messages and what becomes of them, in the journal and out of it. What a turn does is
//! `agent`'s, how a reply travels `delivery`'s.

mod approvals;
mod asking;
mod attached;
mod attachments;
mod cancel;
mod channels;
mod clock;
mod commands;
mod conversation;
mod delivery_queue;
mod delivery_worker;
mod dispatch;
mod durable_reply;
mod events;
mod failures;
mod hang;
mod held;
mod hub;
mod id;
mod lock;
mod maintenance;
mod message;
mod message_table;
mod notices;
mod pause;
mod pending_retry;
mod permit;
mod queries;
mod records;
mod reply;
pub mod restart_record;
mod restarts;
mod retry;
mod return_notices;
mod served;
mod session_eviction;
mod states;
mod stored_file;
mod submit;
#[cfg(test)]
mod tests;
mod time;
mod transcript;
mod transcript_usage;
mod tree;
mod turns;
pub mod update_record;
mod wait;
mod worker;

pub use approvals::Sender;
pub use asking::{OpenApproval, PastApproval};
pub use channels::{Running, ToSend};
pub use commands::{Command, menu};
pub use hang::Probe;
pub use hub::{Hub, Settings};
pub use id::Id;
pub use message::{Message, rfc3339};
#[cfg(test)]
pub use message_table::Parts;
pub use message_table::{Counts, Entry, MessageTable, Place, Usage, channel_key};
pub use message_table::{Digest, Owner, digest_of, session_digest};
pub use pending_retry::PendingRetry;
pub use permit::AcquireError;
pub use queries::Session;
pub use reply::{ReplyBuffer, Watch};
pub use restarts::{LastRestart, RestartAccepted, RestartKind, RestartRequest, RestartStage};
pub use return_notices::RunBefore;
pub use states::{DeliveryState, TurnState};
pub use stored_file::{StoredFile, Upload};
pub use submit::{Draft, Refusal, Submitted};
pub use time::{SystemClocks, now};
pub use transcript::Transcripts;
