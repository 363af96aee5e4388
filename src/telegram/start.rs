//! The start of the adapter: its lock, then who the bot is; both are tried again. Pure.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::{Call, Failure, Outcome};
use super::receive::Me;
use crate::json::object;

/// How long another adapter that holds the lock may take to end before it is said.
const LOCK_GRACE: Duration = Duration::from_secs(2);

/// Between two tries, doubled from the first to the second.
const LOCK_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
const CALL_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// In a long wait its reason is told so often: the gateway ends an adapter that is silent for 120 s before it is ready.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The lock is to be had then.
    Lock(Instant),
    /// `getMe` is to be called then.
    Ask(Instant),
    Asked,
    Done,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Take the lock, and say whether it was free.
    Lock,
    Call(Call),
    /// The bot is known.
    Begin(Me),
    /// What the gateway and the operator are told: a state of the protocol, and why.
    Status(&'static str, String),
    /// It can never work like this.
    Never(String),
}

pub struct Start {
    stage: Stage,
    pause: Duration,
    begun: Instant,
    /// Why the bot is not known yet, and when that is told again.
    why: String,
    tell_at: Instant,
}

impl Start {
    pub fn new(now: Instant) -> Start {
        let (stage, pause) = (Stage::Lock(now), LOCK_PAUSE[0]);
        Start { stage, pause, begun: now, why: String::new(), tell_at: now + TELL_EVERY }
    }

    /// When [`Start::due`] is to be asked.
    pub fn timer(&self) -> Option<Instant> {
        match self.stage {
            Stage::Lock(at) => Some(at),
            Stage::Ask(at) => Some(at.min(self.tell_at)),
            Stage::Asked | Stage::Done => None,
        }
    }

    /// What is due.
    pub fn due(&mut self, now: Instant) -> Option<Action> {
        match self.stage {
            Stage::Lock(at) if at <= now => Some(Action::Lock),
            Stage::Ask(at) if at <= now => {
                self.stage = Stage::Asked;
                let parameters = object!();
                Some(Action::Call(Call { method: "getMe", parameters, files: Vec::new() }))
            }
            Stage::Ask(_) if self.tell_at <= now => Some(self.tell(now)),
            Stage::Lock(_) | Stage::Ask(_) | Stage::Asked | Stage::Done => None,
        }
    }

    /// Whether the lock was free; else why it is not held.
    pub fn locked(&mut self, locked: Result<(), String>, now: Instant) -> Option<Action> {
        match locked {
            Ok(()) => {
                (self.stage, self.pause) = (Stage::Ask(now), CALL_PAUSE[0]);
                None
            }
            Err(why) => {
                self.stage = Stage::Lock(now + self.pause);
                self.pause = (self.pause * 2).min(LOCK_PAUSE[1]);
                let late = now.saturating_duration_since(self.begun) >= LOCK_GRACE;
                late.then_some(Action::Status("conflict", why))
            }
        }
    }

    /// The answer to `getMe`.
    pub fn answered(&mut self, outcome: Outcome, now: Instant) -> Action {
        let (why, after) = match outcome {
            Ok(me) => match read(&me) {
                Some(me) => {
                    self.stage = Stage::Done;
                    return Action::Begin(me);
                }
                None => ("it does not say which bot this is".to_owned(), None),
            },
            Err(Failure::Refused(refusal)) if [401, 404].contains(&refusal.code) => {
                self.stage = Stage::Done;
                return Action::Never(format!(
                    "Telegram does not know this token ({} {}): write the one that BotFather shows at \
                     /token into the token file; with api_url, see that it is right, and that the bot has \
                     logged out of the other server",
                    refusal.code, refusal.description
                ));
            }
            Err(Failure::Refused(refusal)) => (refusal.description, refusal.retry_after),
            Err(Failure::NotSent(why) | Failure::Unknown(why)) => (why, None),
        };
        // What Telegram asks for is waited for, however long it is.
        let pause = after.map_or(self.pause, |seconds| Duration::from_secs(seconds.max(1)));
        self.stage = Stage::Ask(now + pause);
        self.pause = (self.pause * 2).min(CALL_PAUSE[1]);
        self.why = why;
        self.tell(now)
    }

    fn tell(&mut self, now: Instant) -> Action {
        self.tell_at = now + TELL_EVERY;
        Action::Status("connecting", self.why.clone())
    }
}

fn read(me: &Value) -> Option<Me> {
    Some(Me {
        id: me["id"].as_i64()?,
        username: me["username"].as_str()?.to_owned(),
        reads_all: me["can_read_all_group_messages"] == true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telegram::call::Refusal;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn asked(start: &mut Start, now: Instant) -> bool {
        let due = start.due(now);
        matches!(due, Some(Action::Call(Call { method: "getMe", .. })))
    }

    #[test]
    fn a_lock_that_another_holds_is_tried_again_and_said_once_it_takes_long() {
        let mut now = Instant::now();
        let (mut start, begun, mut said) = (Start::new(now), now, 0);
        for _ in 0..10 {
            assert_eq!(start.due(now), Some(Action::Lock));
            match start.locked(Err("held".to_owned()), now) {
                None => assert!(now - begun < LOCK_GRACE),
                Some(Action::Status("conflict", why)) if why == "held" => said += 1,
                other => panic!("{other:?}"),
            }
            let next = start.timer().unwrap();
            assert!(next - now <= secs(5) && start.due(now).is_none());
            now = next;
        }
        assert_eq!((said, start.pause), (5, secs(5)));
        assert_eq!(start.locked(Ok(()), now), None);
        assert!(asked(&mut start, now));
    }

    #[test]
    fn who_the_bot_is_is_asked_until_it_is_known() {
        let mut now = Instant::now();
        let mut start = Start::new(now);
        start.locked(Ok(()), now);
        for (outcome, pause) in [
            (Err(Failure::NotSent("away".to_owned())), 1),
            (Err(Failure::Unknown("away".to_owned())), 2),
            (
                Err(Failure::Refused(Refusal {
                    code: 429,
                    retry_after: Some(7),
                    ..Refusal::default()
                })),
                7,
            ),
            (Err(Failure::Refused(Refusal { code: 502, ..Refusal::default() })), 8),
            (Ok(object!("id": 1)), 16),
            (Ok(Value::Null), 32),
            (Ok(Value::Null), 60),
            (
                Err(Failure::Refused(Refusal {
                    code: 429,
                    retry_after: Some(250),
                    description: "wait".to_owned(),
                    ..Refusal::default()
                })),
                250,
            ),
        ] {
            assert!(asked(&mut start, now) && start.due(now).is_none());
            assert!(matches!(start.answered(outcome, now), Action::Status("connecting", _)));
            let end = now + secs(pause);
            // The gateway hears of it meanwhile.
            while end - now > secs(60) {
                now += secs(60);
                assert_eq!(start.timer(), Some(now));
                let told = Action::Status("connecting", "wait".to_owned());
                assert_eq!((start.due(now), start.due(now)), (Some(told), None));
            }
            assert_eq!(start.timer(), Some(end));
            now = end;
        }
        assert!(asked(&mut start, now));
        let me = object!("id": 7, "username": "ann_bot", "can_read_all_group_messages": true);
        let expected = Me { id: 7, username: "ann_bot".to_owned(), reads_all: true };
        assert_eq!(start.answered(Ok(me), now), Action::Begin(expected));
        assert_eq!((start.timer(), start.due(now)), (None, None));
    }

    #[test]
    fn a_token_that_telegram_does_not_know_ends_it() {
        for code in [401, 404] {
            let now = Instant::now();
            let mut start = Start::new(now);
            start.locked(Ok(()), now);
            start.due(now);
            let refusal = Refusal { code, description: "No".to_owned(), ..Refusal::default() };
            match start.answered(Err(Failure::Refused(refusal)), now) {
                Action::Never(why) => assert!(why.contains(&format!("({code} No)")), "{why}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(start.timer(), None);
        }
    }
}
