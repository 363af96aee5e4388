//! What may become of a message and of its delivery. Pure: every pair of a state and an event has
//! its answer here, and the same tables judge what happens now and what is read back at a start.

/// How far the turn of a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Accepted; it has not run, or runs again after a cut.
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

impl Turn {
    /// The state after an event; `None` where it cannot happen.
    pub fn after(self, event: TurnEvent) -> Option<Turn> {
        match (self, event) {
            // A running one is started again when the process that ran it has died.
            (Turn::Queued | Turn::Running | Turn::Resting, TurnEvent::Started) => {
                Some(Turn::Running)
            }
            (Turn::Running, TurnEvent::Retry) => Some(Turn::Resting),
            (Turn::Running, TurnEvent::Done) => Some(Turn::Done),
            // Also before it runs: what a crash cut short too often fails without another attempt.
            (Turn::Queued | Turn::Running | Turn::Resting, TurnEvent::Failed) => Some(Turn::Failed),
            (Turn::Queued | Turn::Running | Turn::Resting, TurnEvent::Cancelled) => {
                Some(Turn::Cancelled)
            }
            // The gateway answers its own commands without a turn.
            (Turn::Queued, TurnEvent::Done) => Some(Turn::Done),
            (Turn::Failed, TurnEvent::Requeued) | (Turn::Running, TurnEvent::Released) => {
                Some(Turn::Queued)
            }
            (Turn::Resting, TurnEvent::Done)
            | (Turn::Queued | Turn::Resting, TurnEvent::Retry)
            | (
                Turn::Queued | Turn::Running | Turn::Resting | Turn::Done | Turn::Cancelled,
                TurnEvent::Requeued,
            )
            | (Turn::Queued | Turn::Resting, TurnEvent::Released)
            | (
                Turn::Done | Turn::Failed | Turn::Cancelled,
                TurnEvent::Started
                | TurnEvent::Retry
                | TurnEvent::Done
                | TurnEvent::Failed
                | TurnEvent::Cancelled
                | TurnEvent::Released,
            ) => None,
        }
    }

    pub fn is_over(self) -> bool {
        match self {
            Turn::Queued | Turn::Running | Turn::Resting => false,
            Turn::Done | Turn::Failed | Turn::Cancelled => true,
        }
    }

    /// As the API calls it.
    pub fn word(self) -> &'static str {
        match self {
            Turn::Queued | Turn::Resting => "queued",
            Turn::Running => "running",
            Turn::Done => "done",
            Turn::Failed => "failed",
            Turn::Cancelled => "cancelled",
        }
    }
}

/// How far the delivery of a reply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
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

impl Delivery {
    /// The state after an event; `None` where it cannot happen.
    pub fn after(self, event: DeliveryEvent) -> Option<Delivery> {
        match (self, event) {
            (Delivery::Pending | Delivery::Sending, DeliveryEvent::Sending) => {
                Some(Delivery::Sending)
            }
            (Delivery::Sending, DeliveryEvent::Deferred) => Some(Delivery::Pending),
            (Delivery::Sending, DeliveryEvent::Delivered) => Some(Delivery::Delivered),
            (Delivery::Pending | Delivery::Sending, DeliveryEvent::Dead) => Some(Delivery::Dead),
            (Delivery::Dead, DeliveryEvent::Revived) => Some(Delivery::Pending),
            (Delivery::Dead, DeliveryEvent::Dropped) => Some(Delivery::Dropped),
            (Delivery::Pending, DeliveryEvent::Deferred | DeliveryEvent::Delivered)
            | (
                Delivery::Pending | Delivery::Sending,
                DeliveryEvent::Revived | DeliveryEvent::Dropped,
            )
            | (
                Delivery::Dead,
                DeliveryEvent::Sending
                | DeliveryEvent::Deferred
                | DeliveryEvent::Delivered
                | DeliveryEvent::Dead,
            )
            | (
                Delivery::Delivered | Delivery::Dropped,
                DeliveryEvent::Sending
                | DeliveryEvent::Deferred
                | DeliveryEvent::Delivered
                | DeliveryEvent::Dead
                | DeliveryEvent::Revived
                | DeliveryEvent::Dropped,
            ) => None,
        }
    }

    /// As the API calls it.
    pub fn word(self) -> &'static str {
        match self {
            Delivery::Pending => "pending",
            Delivery::Sending => "sending",
            Delivery::Delivered => "delivered",
            Delivery::Dead => "dead",
            Delivery::Dropped => "dropped",
        }
    }
}
