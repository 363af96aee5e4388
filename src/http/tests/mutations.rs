//! Thousands of damaged requests: none may panic, none may depend on how it is cut.

use super::{bodies, fake, heads};
use crate::testing::Random;

/// The same damage on every machine.
pub const SEED: u64 = 1;

/// What parsers disagree about.
const SPICE: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\"",
    b"%",
    b"/",
    b"0",
    b"\xff",
    b"\r\n\r\n",
    b"chunked",
    b"Content-Length: 1\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1",
];

/// Damages `bytes` in so many places.
pub fn damage(bytes: &mut Vec<u8>, places: usize, random: &mut Random) {
    for _ in 0..places {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                let spice = SPICE[random.below(SPICE.len())];
                bytes.splice(at..at, spice.iter().copied());
            }
        }
    }
}

#[test]
fn damage_is_judged_alike_however_it_is_cut() {
    let mut random = Random::new(SEED);
    let cases: Vec<_> = heads::all().chain(bodies::all()).collect();
    for round in 0..20 {
        for (name, bytes, _) in &cases {
            let mut bytes = bytes.to_vec();
            damage(&mut bytes, 1 + round % 3, &mut random);
            let whole = fake::run(&[&bytes]);
            let pieces: Vec<&[u8]> = bytes.chunks(1 + random.below(3)).collect();
            let text = String::from_utf8_lossy(&bytes);
            assert_eq!(fake::run(&pieces), whole, "{name}: {text:?}");
        }
    }
}
