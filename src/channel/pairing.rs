//! Pairing codes: a stranger is told one, and an operator who hears it from that person lets him in by it.
//! In memory only: after a restart a new code is asked for. Pure.
//!
//! Only operators can name codes, and whoever is one could write a list as well, so that wrong ones are not
//! counted.

use std::time::Instant;

use super::access::shown;
use crate::limits::{MAX_PAIRING_CODES, PAIRING_CODE_AGAIN, PAIRING_CODE_VALID};

/// 32 characters of which no two look alike: a byte's lower five bits choose one.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

const CODE_LENGTH: usize = 8;

/// The codes of one channel.
#[derive(Default)]
pub struct Pairing(Vec<Pending>);

struct Pending {
    code: String,
    person: Person,
    made: Instant,
    told: Instant,
}

/// Who asks to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The platform's.
    pub id: String,
    /// What he calls himself, safe to show.
    pub name: String,
}

impl Pairing {
    /// The code that this person is to be told now. `None`: he knows it, or too many others wait. `random`:
    /// unpredictable bytes.
    pub fn offer(
        &mut self,
        (id, name): (&str, &str),
        now: Instant,
        random: [u8; CODE_LENGTH],
    ) -> Option<String> {
        self.forget_old(now);
        if let Some(known) = self.0.iter_mut().find(|pending| pending.person.id == id) {
            let again = now.saturating_duration_since(known.told) >= PAIRING_CODE_AGAIN;
            return again.then(|| {
                known.told = now;
                known.code.clone()
            });
        }
        let code: String =
            random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        // A code that another person has would let in the wrong one.
        if self.0.len() >= MAX_PAIRING_CODES || self.0.iter().any(|other| other.code == code) {
            return None;
        }
        let person = Person { id: id.to_owned(), name: shown(name) };
        self.0.push(Pending { code: code.clone(), person, made: now, told: now });
        Some(code)
    }

    /// Takes out the person of a code, in letters of either case, if it is valid.
    pub fn confirm(&mut self, code: &str, now: Instant) -> Option<Person> {
        self.forget_old(now);
        let at = self.0.iter().position(|pending| pending.code.eq_ignore_ascii_case(code))?;
        Some(self.0.remove(at).person)
    }

    /// How many wait for an operator.
    pub fn pending(&mut self, now: Instant) -> usize {
        self.forget_old(now);
        self.0.len()
    }

    fn forget_old(&mut self, now: Instant) {
        self.0.retain(|it| now.saturating_duration_since(it.made) < PAIRING_CODE_VALID);
    }
}

/// What a stranger is told with his code.
pub fn invitation(code: &str) -> String {
    format!(
        "This bot does not know you. If its operator is to let you in, tell him this code, which is valid \
         for an hour: {code}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ANN: (&str, &str) = ("42", "Ann\u{202e}\n");

    fn random(number: u8) -> [u8; CODE_LENGTH] {
        [number; CODE_LENGTH]
    }

    #[test]
    fn a_code_lets_in_whom_it_was_told_to_once() {
        let (mut codes, now) = (Pairing::default(), Instant::now());
        let code = codes.offer(ANN, now, [255, 0, 31, 32, 63, 64, 7, 8]).unwrap();
        assert_eq!(code, "9A9A9AHJ");
        assert_eq!(codes.confirm("9A9A9AHH", now), None);
        let person = Person { id: "42".to_owned(), name: "Ann\\u{202e}\\u{a}".to_owned() };
        assert_eq!(codes.confirm("9a9a9ahj", now), Some(person));
        assert_eq!((codes.confirm(&code, now), codes.pending(now)), (None, 0));
    }

    #[test]
    fn a_person_is_told_the_same_code_at_most_every_ten_minutes() {
        let (mut codes, now) = (Pairing::default(), Instant::now());
        let code = codes.offer(ANN, now, random(1));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(codes.offer(ANN, at(599), random(2)), None);
        assert_eq!(codes.offer(ANN, at(600), random(3)), code);
        assert_eq!(codes.offer(ANN, at(1199), random(4)), None);
        // It is told again, and not valid for longer.
        assert_eq!(codes.offer(ANN, at(3599), random(5)), code);
        assert_eq!(codes.confirm(code.as_deref().unwrap(), at(3600)), None);
        assert_ne!(codes.offer(ANN, at(3600), random(6)), code);
    }

    #[test]
    fn a_channel_has_three_codes_at_most_and_no_two_alike() {
        let (mut codes, now) = (Pairing::default(), Instant::now());
        for number in 1..=3 {
            assert!(codes.offer((&number.to_string(), ""), now, random(number)).is_some());
            assert_eq!(codes.offer(("other", ""), now, random(number)), None);
        }
        assert_eq!(codes.offer(ANN, now, random(9)), None);
        assert_eq!(codes.pending(now), 3);
        codes.confirm("BBBBBBBB", now).unwrap();
        assert_eq!(codes.offer(("other", ""), now, random(2)), None, "of another person");
        assert!(codes.offer(ANN, now, random(9)).is_some());
        assert_eq!(codes.pending(now + PAIRING_CODE_VALID), 0);
    }
}
