//! The gateway under a real, freshly booted systemd: `tests/run --full` runs these on other versions, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod disk;
mod failure;
mod graceful;
mod hangs;
mod hardened;
mod install;
mod itself;
mod kill;
mod leftovers;
mod load;
mod manager;
mod names;
mod place;
mod protected;
mod refused;
mod reload;
mod restarts;
mod sockets;
mod stop;
mod strangers;
mod sudo;
mod system;
mod turns;
mod unit;
mod update;
mod upgrade;
#[path = "../util/mod.rs"]
mod util;
mod verdict;
