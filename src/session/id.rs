//! Message ids: 26 characters that sort by time and are safe in file names and URLs.

use std::{fmt, io};

use super::time::now;
use crate::sys::random;

/// Crockford's alphabet: no I, L, O, U, so that an id survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The place of each byte in the alphabet: a start reads the ids of all records.
const DIGITS: [u8; 256] = {
    let (mut digits, mut digit) = ([NONE; 256], 0);
    while digit < 32 {
        digits[ALPHABET[digit as usize] as usize] = digit;
        digit += 1;
    }
    digits
};
const NONE: u8 = 255;

/// An id as ULID has it: 48 bits of milliseconds since 1970, 80 bits of chance. Printed as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u128);

impl Id {
    /// The chance of the next ids: for many at once, since it takes a system call.
    pub fn chances() -> io::Result<Vec<[u8; 10]>> {
        let mut bytes = [0; 250];
        random::fill(&mut bytes)?;
        Ok(bytes.as_chunks().0.to_vec())
    }

    /// A new id, greater than `last` also where the clock was set back: ids sort in the order in
    /// which they were given.
    pub fn after(last: Option<Id>, chance: [u8; 10]) -> Id {
        let id = Id::made_of(now().into(), chance);
        match last {
            // By a random step, so that the next one cannot be guessed from this one either.
            Some(last) if last >= id => Id(last.0 + 1 + (id.0 & u128::from(u64::MAX))),
            Some(_) | None => id,
        }
    }

    fn made_of(millis: u128, chance: [u8; 10]) -> Id {
        let low = chance.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        Id(millis << 80 | low)
    }

    /// Reads the text of an id; `None` for anything else.
    pub fn parse(text: &str) -> Option<Id> {
        let sound = text.len() == 26 && text.as_bytes()[0] <= b'7';
        let mut bits = 0;
        for byte in text.bytes().filter(|_| sound) {
            let digit = DIGITS[usize::from(byte)];
            if digit == NONE {
                return None;
            }
            bits = bits << 5 | u128::from(digit);
        }
        sound.then_some(Id(bits))
    }
}

/// Six characters of this alphabet, for people to type.
pub fn code(chance: u64) -> String {
    Id(u128::from(chance) & ((1 << 30) - 1)).to_string().split_off(20)
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut text, mut rest) = ([0; 26], self.0);
        for place in text.iter_mut().rev() {
            *place = ALPHABET[usize::try_from(rest & 31).unwrap_or(0)];
            rest >>= 5;
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl From<u32> for Id {
        fn from(number: u32) -> Id {
            Id(u128::from(number))
        }
    }

    #[test]
    fn ids_sort_by_time_and_have_26_characters() {
        let text = |millis, chance| Id::made_of(millis, chance).to_string();
        assert_eq!(text(0, [0; 10]), "0".repeat(26));
        assert_eq!(text((1 << 48) - 1, [255; 10]), format!("7{}", "Z".repeat(25)));
        assert!(text(1, [0; 10]) > text(0, [255; 10]));
        let first = Id::after(None, [1; 10]);
        let second = Id::after(Some(first), [0; 10]);
        assert!(second > first && second.to_string() > first.to_string());
        let ahead = Id::made_of(1 << 47, [7; 10]);
        assert!(Id::after(Some(ahead), [0; 10]) > ahead, "the clock was set back");
    }

    #[test]
    fn ids_are_parsed_from_their_text() {
        let id = Id::after(None, [200; 10]);
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        for bad in ["", "01J", &"8".repeat(26), &"I".repeat(26), &"0".repeat(27), &"é".repeat(13)]
        {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
    }
}
