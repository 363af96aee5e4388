//! The harness of the integration tests: it starts the real program, waits for what happens, and
//! cleans up behind it.
//!
//! - [`Home`] is a place of its own on disk for one gateway; it outlives a restart.
//! - [`Gateway`] is the real binary in the foreground, started and ready.
//! - [`Contained`] is the same as process 1 of a pid namespace.
//! - [`Process`] is any child, with its output, its notifications and its end as events.
//! - [`http`] speaks raw HTTP, so that a test can say exactly which bytes it sends.
//! - [`api`] speaks the API of messages, [`Caller`] outlives what it talks to.
//! - [`Target`] receives deliveries; [`crowd`] is a lot of clients, and [`ledger`] holds the gateway's
//!   promises against their books.
//! - [`Upstream`] is an OpenAI-compatible server that does what the test says.
//! - [`Outage`] is one that answers by itself, goes away and comes back.
//! - [`Sandbox`] runs a test's body under a real, freshly booted systemd.
//! - [`Service`] is the gateway as a unit in there.
//! - [`Private`] runs a test's body where it may mount, and [`Disk`] is one whose power can be cut.
//! - [`principals`] has a gateway with several keys, and what one principal costs the others.
//! - [`restart_clients`] are clients that must not notice a restart, and count what they notice.
//! - [`programs`] has programs that cannot take a gateway's place.
//! - [`fault`] makes single system calls of the gateway fail.
//!
//! Nothing in here waits for a time to pass: every wait is for an event, and has a deadline.

// Each test program has its own copy, and uses its part of it.
#![allow(dead_code, unused_imports)]

pub mod api;
pub mod caller;
mod contained;
pub mod crowd;
mod disk;
pub mod fault;
mod gate;
mod gateway;
pub mod http;
pub mod journal;
pub mod ledger;
mod manager;
pub mod outage;
pub mod platform;
pub mod principals;
mod private;
mod process;
pub mod programs;
pub mod random;
pub mod restart_clients;
mod sandbox;
mod service;
pub mod sys;
mod target;
pub mod telegram;
mod temp_dir;
pub mod upstream;

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use api::Api;
pub use caller::Caller;
pub use contained::Contained;
pub use disk::{Disk, Tmpfs};
pub use gate::Gate;
pub use gateway::{Gateway, Home, Launch};
pub use manager::{Manager, Unit, runtime_dir};
pub use outage::Outage;
pub use private::Private;
pub use process::{Outcome, Process};
pub use restart_clients::Clients;
pub use sandbox::Sandbox;
pub use service::{Service, UNIT, stops};
pub use target::{Answer, Received, Target};
pub use temp_dir::TempDir;
pub use upstream::Upstream;

/// How long anything may take on a loaded machine before it counts as hung.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The gateway under test: `HERMES_BIN` where it is set, else the one that cargo built.
pub fn binary() -> PathBuf {
    env::var_os("HERMES_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_hermes-gateway")), PathBuf::from)
}

/// What is in a journal, without the room behind its records.
#[track_caller]
pub fn journal_text(path: &Path) -> String {
    let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
    text.trim_end_matches('\0').to_owned()
}

/// Whether the long form of the tests was asked for (`tests/run --full`).
pub fn full() -> bool {
    env::var_os("HERMES_FULL").is_some()
}

/// How often to repeat something: `short` as a rule, `long` under `tests/run --full`.
pub fn rounds(short: usize, long: usize) -> usize {
    if full() { long } else { short }
}

/// The configuration of an agent that is this shell script.
pub fn script(text: &str) -> String {
    format!("[agent]\ncommand = [\"sh\", \"-c\", {}]\n", serde_json::json!(text))
}

/// Lets a time pass that is itself part of the case ("stop 80 ms after the kill"): never to let
/// something settle.
pub fn pause(time: Duration) {
    let (_silent, listener) = mpsc::channel::<()>();
    let _ = listener.recv_timeout(time);
}

/// Asks until there is an answer, where the kernel or a file offers no event to wait for.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    let mut between = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "this did not come: {what}");
        pause(between);
        // A wait that takes longer costs no processor that others need.
        between = (between * 2).min(Duration::from_millis(32));
    }
}

/// Says that the calling test does not run here, where nobody can overlook it; CI has no excuse.
#[track_caller]
pub fn skip(reason: &str) {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    assert!(env::var("CI").as_deref() != Ok("true"), "{test} must run in CI, but: {reason}");
    // Not eprintln!, which the test runner swallows when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Says something of a test that is worth to be read even when it passes.
pub fn report(figures: &str) {
    let test = std::thread::current();
    // Not eprintln!, which the test runner swallows when the test passes.
    let _ = writeln!(std::io::stderr(), "{}: {figures}", test.name().unwrap_or("a test"));
}
