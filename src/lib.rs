//! hermes-gateway: a daemon that puts an AI agent behind HTTP, keeps every message that it has accepted, and
//! tells its service manager the truth when it stops.
//!
//! This page is for those who read or change the code. It has the modules, the way of a message, the life of
//! the process, the rules that tests keep, and the words. The crate has one public function, [`main`]: the
//! program hands it its arguments and exits with what it returns.
//!
//! # Modules
//!
//! A module imports only from modules below it, and files do not import each other in cycles.
//!
//! ```text
//!                          cli                 arguments → command → exit status
//!                           │
//!                        gateway               start, main loop, connections, reload, stop
//!                  ┌────────┴────────┐
//!                 api            lifecycle     routes, keys, formats │ signals, verdict, history
//!                  │                 │
//!               channel              │         chat platforms, by adapters
//!                  │                 │
//!               session           systemd      order, turns, retries │ systemctl, sd_notify, units
//!        ┌─────────┼─────────┐
//!     journal    agent    delivery   telegram  what is durable │ who answers │ where replies go │ of cli
//!                  └────┬────┴──────────┘
//!                    outbound                  HTTP client, curl
//!                       │
//!                     http                     HTTP/1.1: server and formats
//!  ────────────────────────────────────────────────────────────────────────────────────────────
//!  cancel config digest dirs escape exit fault_points json limits logger name named permissions
//!  shares stored_text subprocess threads       used by all of the above, and by each other
//!  ────────────────────────────────────────────────────────────────────────────────────────────
//!  sys                                         system calls: the only `unsafe`, the only `libc`
//! ```
//!
//! | module | content |
//! |---|---|
//! | `cli` | one file a command; the help pages, which also list each command's options, are `help.txt`. The manual pages are `src/man/` |
//! | `gateway` | start-up in a thread of its own, the main loop, listeners of its own and handed-over ones, reload |
//! | `lifecycle` | `signals`, `evidence`, `verdict` (pure), `phase` (pure), `planned_stop_marker`, `instance_lock`, `history` |
//! | `systemd` | `systemctl` as a subprocess, `sd_notify`, `sd_listen_fds`, control groups, unit files |
//! | `http` | bytes ↔ requests and responses: strict framing, time-outs, server-sent events. It knows no routes |
//! | `api` | the table of routes, authentication, connections of each principal, wire formats. It reaches agents only through `session` |
//! | `session` | the one way in: queue, order, turns, retries, transcripts, retention |
//! | `agent` | who answers: `echo`, `command`, `upstream` (an OpenAI-compatible server) |
//! | `telegram` | the built-in adapter of a channel for Telegram, a process of its own |
//! | `channel` | accounts on chat platforms: their adapter processes, the protocol with them, and who may talk |
//! | `delivery` | one attempt to bring a reply to a target, and what its result means |
//! | `outbound` | the HTTP client: over a socket, or the system's `curl` |
//! | `journal` | the durable log: on disk and in memory, its records, verification, compaction and repair |
//! | `subprocess` | every child process, from its start to the end of all that it leaves behind |
//! | `config` | TOML → one plain value; every mistake has its place and a suggested fix |
//! | `limits` | every limit of the program, with its reason |
//! | `permissions` | which files and programs may be relied on, by who owns them and may write or read them |
//! | `cancel` | what ends a turn, a delivery or a request from outside, and the one wait for it |
//! | `fault_points` | where a test has the gateway hang; nothing in a release |
//!
//! # The way of a message
//!
//! ```text
//!  client ──HTTP──▶ http ──▶ api ──▶ session::submit
//!                             │            │ record `accepted` is appended and synced
//!                             │ 202 ◀──────┤
//!                             │            ▼
//!                             │      session::dispatch    one turn in a session, `max_turns` in all
//!                             │            │ record `started` is synced
//!                             │            ▼
//!                             │      session::worker ──▶ agent ──▶ a process, or an upstream server
//!                             │            │   chunks ◀───┘
//!                             │            ▼
//!  client ◀── api::reply_writer ◀── session::reply        the buffer that all who wait read from
//!                                          │ record `done`, with the reply, is appended
//!                                          ▼
//!                                    session::sender      one reply to a target at a time
//!                                          │ the record that an attempt begins is synced
//!                                          ▼
//!                                    delivery ──▶ a URL, or a command
//! ```
//!
//! A step is written to the journal before its effect is visible, and what is shown to anybody is synced first;
//! only the chunks of a reply that is still being made are shown before that. An *ephemeral* message, which is a
//! chat without a session and without an idempotency key, takes the same way through the same queue and limits
//! (`session::permit`), without the journal.
//!
//! The state of a message follows from its records alone: `session::message_table` applies them in the same way
//! when they are written and when a start reads them back. Texts and replies stay in the journal; the table has
//! the numbers of their records. One lock, that of `session::hub`, guards the table, the queue and the order of
//! records. Nobody waits for the disk under it: a record is appended there and synced outside, by whoever needs
//! it durable, and one sync serves all that wait.
//!
//! # The life of the process
//!
//! ```text
//!  Starting → Serving → Draining → Confirming → Stopped        any of them → Failing → Stopped
//! ```
//!
//! A restart in place goes `Serving → Pausing → HandingOver → Closing → Stopped`, and the same process executes
//! the program that is there now (`main_loop::restart`, `main_loop::execute`). A child of that program has
//! proven itself before (`gateway::proof`), and until the exec a stop comes first. Locks, listeners and
//! connections between requests go over the exec by their descriptors, whose numbers a file in memory tells
//! (`gateway::handover`). All signals are blocked but in the main loop's wait, so that over the exec they stay
//! pending with their siginfo, and the next image judges them.
//!
//! Start-up runs beside the main loop, so that a signal is judged whatever the start waits for. A signal is
//! carried out of its handler with its whole siginfo; `lifecycle::evidence` asks the service manager what it
//! means, and `lifecycle::verdict` decides. The question is asked at the signal and again just before the exit.
//! `lifecycle::phase` is a table of states and events; the main loop carries its actions out.
//!
//! A stop has one time, `main_loop::budget`: that of the unit, or the drain's and `STOP_HEADROOM`. Each step gets
//! what is left of it, less what those behind it need, and has a time-out of its own within that. Behind them is
//! the stop watchdog, a thread that ends the process at the end of that time with the status that is known, and says
//! which step was stuck: the main loop publishes it (`main_loop::progress`).
//!
//! The main loop sends WATCHDOG=1 when it has proof (`main_loop::sign_of_life`): no call to the journal's disk is
//! old, what is due in the hub is begun, the hub's lock changes hands, and no delivery is over its time. It
//! looks only when a sign is due, and again soon where proof is missing: an idle gateway wakes up for nothing else.
//! In debug builds `fault_points` makes each of them hang.
//!
//! An update is carried out by a process apart (`cli::update`), which outlives the restart that it asks for:
//! it keeps the program, runs the operator's command, has the new program prove itself, watches the new
//! version, and goes back. Whatever it does next is in `update.json` first; the gateway reads that and tells.
//!
//! The service manager keeps copies of the listeners (`gateway::sockets`). Nothing is accepted on TCP from a
//! signal on until the manager has answered, and nothing at all where the unit comes back: what connects is
//! for the next process.
//!
//! # Rules
//!
//! `tests/house.rs` holds these:
//!
//! - Imports run downward between modules, and without cycles between files.
//! - Files that decide (`PURE` there) name no I/O, no clock and no thread: values in, values out.
//! - State machines (`TOTAL` there) match `(state, event)` without a wildcard.
//! - A file has at most 400 lines without its tests; clippy holds a function to 70.
//! - Only `sys` has `unsafe` and `libc`.
//! - Every file begins by saying what it is for; nothing unfinished is committed.
//! - Dependencies and exit statuses are as the documents say; the binary has at most so many bytes.
//!
//! And these are kept by review:
//!
//! - Every queue, cache, buffer, file, thread and wait has a limit, in `limits` with its reason, and no
//!   principal may hold more than its share.
//! - No lock is held over work that grows with what a client sends.
//! - A version writes only records that the version before it reads, or can do without and keeps: another new
//!   kind is read for one version, and written from the next on (`journal::tests::records` has the lists). Else
//!   no update could go back.
//! - A failed sync is never repeated on the same descriptor: the next start reads what the disk has.
//! - Deadlines use the monotonic clock, ages that outlive the process the time since boot. The wall clock is
//!   for people and signatures.
//! - Durable state and state of a run are two types; only the first has records.
//! - A command prints no success that it did not see. Where something cannot be told, it says so.
//!
//! # Decisions
//!
//! - *Blocking I/O, a thread a connection.* A connection that waits costs some 15 kB, and code that reads from
//!   top to bottom. At the default limit of 10,000 connections that is what a small host can give.
//! - *`systemctl`, not the bus.* It uses the manager's private socket, which answers until the manager ends.
//! - *The manager's descriptor store, and no `.socket` unit.* A connection to that would start a gateway that
//!   was stopped. Listeners in the store go with a stop, by the manager's own rule.
//! - *The state directory is locked as well as the lock file*: two runtime directories must not share one state.
//!   A system unit has its socket in the state directory, since a user's runtime directory goes at logout.
//! - *Programs are started by clone(2), as posix_spawn(3) does it.* A child is in its control group and on the
//!   list of children before its exec, which may hang; std's `Command` cannot, and is 40 kB of the binary.
//! - *No TLS.* Inbound it is a reverse proxy's job. Outbound the system's `curl` does it, with URL, headers and
//!   body on its stdin, and nothing in its arguments.
//! - *No unwind tables in a release, and no reader of symbols* (`build.rs`, `sys::unwind`): a stripped program
//!   that aborts at a panic has no use for them, and they are a tenth of the binary.
//!
//! # Words
//!
//! One thing has one word, in code, messages and documents.
//!
//! | word | meaning |
//! |---|---|
//! | gateway | the process; its *name* says which one |
//! | principal | who is authenticated: `owner`, or the name of a key |
//! | session | an ordered conversation of one principal |
//! | message | what was accepted; *ephemeral*: without session and key, not in the journal |
//! | turn | one run of the agent for a message; *attempt* n of it |
//! | reply | the agent's text; *chunk*: a piece of it |
//! | transcript | what was said in a session |
//! | notice | what the gateway itself tells a session or a target: a message that has its reply already |
//! | delivery | bringing a reply to a *target*; *dead letter*: a delivery that was given up |
//! | channel | an account on a chat platform; *adapter*: the process that speaks with it; *offer*: what it brings in |
//! | part | a piece of a reply on a channel; *receipt*: that it has arrived; *preview*: a part of a reply in the making |
//! | upstream | an OpenAI-compatible server that answers as the agent |
//! | drain | ending of work before the exit; *abort*: ending a turn before it is done |
//! | verdict | whether a stop is *planned* or *external*; *evidence*: what it is made from |
//! | unclean exit | a run that left no record of its end |
//! | record | one line of the journal; *mark*: a record that says that all before it is durable |
//! | share | how much of a limit one principal may hold |
//! | temporary, permanent failure | one that may pass, and one that will not |

// Tests may panic: that is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod agent;
mod api;
mod cancel;
mod channel;
mod cli;
mod config;
mod delivery;
mod digest;
mod dirs;
mod escape;
mod exit;
mod fault_points;
mod gateway;
mod http;
mod journal;
mod json;
mod lifecycle;
mod limits;
mod logger;
mod name;
mod named;
mod outbound;
mod permissions;
mod session;
mod shares;
mod stored_text;
mod subprocess;
mod sys;
mod systemd;
mod telegram;
#[cfg(any(test, fuzzing))]
mod testing;
mod threads;

#[cfg(fuzzing)]
pub use {
    agent::acp::tests::properties as acp, api::tests::properties as bodies,
    channel::link::tests::properties as adapter, http::tests::properties as wire,
    telegram::markdown::tests::properties as formatted,
};

/// What the program does with its arguments; the status to exit with.
pub fn main() -> std::process::ExitCode {
    cli::main().code().into()
}
