//! The framing rules, held by raw bytes; and both sides over real sockets.

mod bodies;
mod corpus;
mod differential;
pub mod fake;
mod handover;
mod heads;
mod limits;
mod mutations;
pub mod properties;
pub mod server;
pub mod streams;

use std::sync::LazyLock;
use std::time::Duration;

use crate::config::Limits;

/// Short enough that a test which runs into one still ends soon, long enough for a busy machine. Made once:
/// the default asks the system for its cores.
static LIMITS: LazyLock<Limits> = LazyLock::new(|| {
    let time = Duration::from_secs(10);
    Limits {
        max_body: 1 << 20,
        head_timeout: time,
        idle_timeout: time,
        body_timeout: time,
        write_timeout: time,
        ..Limits::default()
    }
});

pub fn test_limits() -> Limits {
    LIMITS.clone()
}

/// A case: its name, what is sent before the client's side ends, and what comes of it, as
/// [`fake::Run::outcome`] puts it.
type Case = (&'static str, &'static [u8], &'static str);

/// Runs each case whole, byte by byte and cut in two at every place: the outcome must be the
/// expected one, and everything that comes out must be the same each time.
#[track_caller]
fn hold(cases: &[Case]) {
    let mut wrong = Vec::new();
    for &(name, bytes, expected) in cases {
        let whole = fake::run(&[bytes]);
        if whole.outcome() != expected {
            wrong.push(format!("{name}: {} instead of {expected}", whole.outcome()));
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        if fake::run(&single) != whole {
            wrong.push(format!("{name}: differs byte by byte"));
        }
        for at in 1..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            if fake::run(&[head, tail]) != whole {
                wrong.push(format!("{name}: differs when cut at {at}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
