//! What may become of a message and of its delivery. Pure: every pair of a state and an event has
//! its answer here, and the same tables judge what happens now and what is read back at a start.

/// How far the turn of a message has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnState {
    /// Accepted; it has not run, or runs again after a cut.
    #[default]
    Queued,
    /// An attempt was begun.
    Running,
    /// An attempt failed for now; the next one waits for its time.
    Resting,
    Done,
    Failed,
    Cancelled,
}

/// What happens to a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEvent {
    Started,
    Retry,
    Done,
    Failed,
    Cancelled,
    /// An operator has a failed one run again.
    Requeued,
    /// The gateway's own stop has ended the attempt: it runs again, and that counts as no cut.
    Released,
}

impl TurnState {
    /// The state after an event; `None` where it cannot happen.
    pub fn after(self, event: TurnEvent) -> Option<TurnState> {
        use TurnEvent as Event;
        use TurnState::{Cancelled, Done, Failed, Queued, Resting, Running};
        match (self, event) {
            // A running one is started again when the process that ran it has died.
            (Queued | Running | Resting, Event::Started) => Some(Running),
            (Running, Event::Retry) => Some(Resting),
            // Also before it runs: the gateway answers its own commands without a turn, and what a
            // crash cut short too often fails without another attempt.
            (Queued | Running, Event::Done) => Some(Done),
            (Queued | Running | Resting, Event::Failed) => Some(Failed),
            (Queued | Running | Resting, Event::Cancelled) => Some(Cancelled),
            (Failed, Event::Requeued) | (Running, Event::Released) => Some(Queued),
            (Resting, Event::Done)
            | (Queued | Resting, Event::Retry | Event::Released)
            | (Queued | Running | Resting | Done | Cancelled, Event::Requeued)
            | (Done | Failed | Cancelled, Event::Started | Event::Retry | Event::Done)
            | (Done | Failed | Cancelled, Event::Failed | Event::Cancelled | Event::Released) => {
                None
            }
        }
    }

    pub fn is_over(self) -> bool {
        match self {
            TurnState::Queued | TurnState::Running | TurnState::Resting => false,
            TurnState::Done | TurnState::Failed | TurnState::Cancelled => true,
        }
    }

    /// As the API calls it.
    pub fn word(self) -> &'static str {
        match self {
            TurnState::Queued | TurnState::Resting => "queued",
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

/// What happens to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryEvent {
    Sending,
    Deferred,
    Delivered,
    Dead,
    Revived,
    Dropped,
}

impl DeliveryState {
    /// The state after an event; `None` where it cannot happen.
    pub fn after(self, event: DeliveryEvent) -> Option<DeliveryState> {
        use DeliveryEvent as Event;
        use DeliveryState::{Dead, Delivered, Dropped, Pending, Sending};
        match (self, event) {
            (Pending | Sending, Event::Sending) => Some(Sending),
            (Sending, Event::Deferred) | (Dead, Event::Revived) => Some(Pending),
            (Sending, Event::Delivered) => Some(Delivered),
            (Pending | Sending, Event::Dead) => Some(Dead),
            (Dead, Event::Dropped) => Some(Dropped),
            (Pending, Event::Deferred | Event::Delivered)
            | (Pending | Sending | Delivered | Dropped, Event::Revived | Event::Dropped)
            | (Dead | Delivered | Dropped, Event::Sending | Event::Deferred)
            | (Dead | Delivered | Dropped, Event::Delivered | Event::Dead) => None,
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
