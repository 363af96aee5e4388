//! Clients for Node and Rust that others wrote, and coding agents that run tools, before the same upstream
//! as in `matrix.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use crate::matrix::Strict;
use crate::util::full;

/// Under `--full` all of them.
#[test]
fn clients_for_node_and_rust_and_coding_agents_do_all_that_they_can() {
    let node: &[&str] = &["node", "vercel.mjs"];
    let rest: &[&[&str]] = &[&["async-openai-check"], &["sh", "codex.sh"], &["sh", "opencode.sh"]];
    let rest = if full() { rest } else { &[] };
    // Each before a gateway of its own, which limits how often a key may be wrong.
    for client in [&[node][..], rest].concat() {
        let Some(strict) = Strict::start() else { return };
        let mut command = Command::new(client[0]);
        if client.len() == 1 {
            command = Command::new(strict.clients.join("async-openai/bin").join(client[0]));
        }
        command.args(&client[1..]).env("CLIENTS", &strict.clients);
        strict.run(command.env("MODULES", strict.clients.join("node")));
    }
}
