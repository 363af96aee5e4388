//! Message ids: 26 characters that sort by time and are safe in file names and URLs.
#![forbid(unsafe_code)]

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::random;

/// Crockford's alphabet: no I, L, O, U, so that an id survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes an id as ULID has it: 48 bits of milliseconds since 1970, 80 bits of chance.
pub fn new() -> io::Result<String> {
    let mut chance = [0; 10];
    random::fill(&mut chance)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(encode(since.as_millis(), chance))
}

fn encode(millis: u128, chance: [u8; 10]) -> String {
    let low = chance.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    let bits = millis << 80 | low;
    let digit = |place: u32| {
        let value = bits >> (5 * place) & 31;
        char::from(ALPHABET[usize::try_from(value).unwrap_or(0)])
    };
    (0..26).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_have_26_characters() {
        assert_eq!(encode(0, [0; 10]), "0".repeat(26));
        assert_eq!(encode((1 << 48) - 1, [255; 10]), format!("7{}", "Z".repeat(25)));
        assert!(encode(1, [0; 10]) > encode(0, [255; 10]));
        let (a, b) = (new().unwrap(), new().unwrap());
        assert!(a != b && a.len() == 26);
    }
}
