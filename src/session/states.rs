//! What may become of a message and of its delivery. Pure: every pair of a state and an event has
//! its answer here, and the same tables judge what happens now and what is read back at a start. The
//! events are the steps of the journal.

use crate::journal::record::Step;

/// How far the turn of a message has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnState {
    /// Accepted; it has not run, or runs again after a cut.
    #[default]
    Queued,
    /// An attempt was begun.
    Running,
    /// An attempt failed for now; the next one waits for its time.
    Backoff,
    Done,
    Failed,
    Cancelled,
}

impl TurnState {
    /// The state after a step; `None` where that cannot happen, or is one of the delivery.
    pub fn after(self, step: &Step) -> Option<TurnState> {
        use TurnState::{Backoff, Cancelled, Done, Failed, Queued, Running};
        match (self, step) {
            // A running one is started again when the process that ran it has died.
            (Queued | Running | Backoff, Step::Started) => Some(Running),
            (Running, Step::Retry(_)) => Some(Backoff),
            // Also before it runs: the gateway answers its own commands without a turn, and what a
            // crash cut short too often fails without another attempt.
            (Queued | Running, Step::Done(..)) => Some(Done),
            (Queued | Running | Backoff, Step::Failed(..)) => Some(Failed),
            (Queued | Running | Backoff, Step::Cancelled(_)) => Some(Cancelled),
            (Failed, Step::Requeued) | (Running, Step::Released) => Some(Queued),
            (Running, Step::Approval(_)) => Some(Running),
            // What waits after a crash is running still to whoever reads the journal; a preview's receipt may
            // come when its attempt is over.
            (Queued | Running | Backoff, Step::Edited(_) | Step::Part(_)) => Some(self),
            (Backoff, Step::Done(..))
            | (Queued | Backoff, Step::Retry(_) | Step::Released | Step::Approval(_))
            | (Queued | Running | Backoff | Done | Cancelled, Step::Requeued)
            | (Done | Failed | Cancelled, Step::Started | Step::Retry(_) | Step::Done(..))
            | (Done | Failed | Cancelled, Step::Failed(..) | Step::Cancelled(_) | Step::Released)
            | (Done | Failed | Cancelled, Step::Approval(_) | Step::Part(_) | Step::Edited(_))
            | (_, Step::Sending | Step::Deferred(_) | Step::Delivered | Step::Dead(_))
            | (_, Step::Revived | Step::Dropped | Step::Forgotten) => None,
        }
    }

    pub fn is_over(self) -> bool {
        match self {
            TurnState::Queued | TurnState::Running | TurnState::Backoff => false,
            TurnState::Done | TurnState::Failed | TurnState::Cancelled => true,
        }
    }

    /// As the API calls it.
    pub fn word(self) -> &'static str {
        match self {
            TurnState::Queued | TurnState::Backoff => "queued",
            TurnState::Running => "running",
            TurnState::Done => "done",
            TurnState::Failed => "failed",
            TurnState::Cancelled => "cancelled",
        }
    }
}

/// How far the delivery of a reply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    Pending,
    /// An attempt was begun, and may have reached the receiver.
    Sending,
    Delivered,
    /// In the dead-letter list.
    Dead,
    /// Taken off that list by an operator.
    Dropped,
}

impl DeliveryState {
    /// The state after a step; `None` where that cannot happen, or is one of the turn.
    pub fn after(self, step: &Step) -> Option<DeliveryState> {
        use DeliveryState::{Dead, Delivered, Dropped, Pending, Sending};
        match (self, step) {
            (Pending | Sending, Step::Sending) => Some(Sending),
            // A version without channels does not know it: the attempt has its own record before.
            (Pending | Sending, Step::Part(_)) => Some(self),
            (Sending, Step::Deferred(_)) | (Dead, Step::Revived) => Some(Pending),
            (Sending, Step::Delivered) => Some(Delivered),
            (Pending | Sending, Step::Dead(_)) => Some(Dead),
            (Dead, Step::Dropped) => Some(Dropped),
            (Pending, Step::Deferred(_) | Step::Delivered)
            | (Pending | Sending | Delivered | Dropped, Step::Revived | Step::Dropped)
            | (Dead | Delivered | Dropped, Step::Sending | Step::Deferred(_))
            | (Dead | Delivered | Dropped, Step::Delivered | Step::Dead(_) | Step::Part(_))
            | (_, Step::Started | Step::Retry(_) | Step::Done(..) | Step::Failed(..))
            | (_, Step::Requeued | Step::Released | Step::Approval(_) | Step::Cancelled(_))
            | (_, Step::Edited(_) | Step::Forgotten) => None,
        }
    }

    /// As the API calls it.
    pub fn word(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Sending => "sending",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Dead => "dead",
            DeliveryState::Dropped => "dropped",
        }
    }
}
