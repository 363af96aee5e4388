//! What clients meet: connections, keys, bodies, errors, shares, and what each route answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod asked;
mod bodies;
mod connections;
mod corpus;
mod entry;
mod events;
mod fair_shares;
mod hostile;
mod http;
mod keys;
mod openapi;
mod responses;
mod revoked;
mod tickets;
#[path = "../util/mod.rs"]
mod util;
mod waiting;
