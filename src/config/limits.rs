//! Every limit of the program, each with its reason: first the ones that the configuration can
//! move (default and range), then the fixed ones. Only constants live here.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const HOUR: u64 = 3600;

/// Shorter than a busy scheduler's delay: a deadline below it would only ever fire by accident.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The port that the older gateway's clients already know; `install` takes the next free one.
pub const DEFAULT_PORT: u16 = 8642;

/// An agent that thinks for longer is usually stuck.
pub const TURN_TIMEOUT: Duration = Duration::from_secs(600);
/// A week: long research turns are real, for ever is not.
pub const TURN_TIMEOUT_RANGE: RangeInclusive<Duration> =
    SHORTEST_WAIT..=Duration::from_secs(7 * 24 * HOUR);

/// Well inside systemd's default stop time-out of 90 s, with room for the kill that follows.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A day: whoever waits longer for a stop has forgotten that it was asked for.
pub const DRAIN_TIMEOUT_RANGE: RangeInclusive<Duration> =
    SHORTEST_WAIT..=Duration::from_secs(24 * HOUR);

/// Each takes a descriptor and a thread; the usual soft limit is 1024 descriptors.
pub const MAX_CONNECTIONS: usize = 1000;
/// Beyond it a thread per connection is the wrong design.
pub const MAX_CONNECTIONS_RANGE: RangeInclusive<usize> = 1..=65_536;

/// Turns per core, where `max_turns` is 0: agents wait for a network more than they compute.
pub const TURNS_PER_CORE: usize = 2;
/// Each is a process and its pipes; 0 means [`TURNS_PER_CORE`] times the cores.
pub const MAX_TURNS_RANGE: RangeInclusive<usize> = 0..=4096;

/// With a body of 1 MiB each they fill 1 GiB at the very worst.
pub const MAX_QUEUE: usize = 1000;
/// Longer queues answer later than anybody waits.
pub const MAX_QUEUE_RANGE: RangeInclusive<usize> = 1..=100_000;

/// One chatty session must not fill the queue of all the others.
pub const MAX_QUEUE_PER_SESSION: usize = 32;
/// No session may have more than the longest queue of all.
pub const MAX_QUEUE_PER_SESSION_RANGE: RangeInclusive<usize> = MAX_QUEUE_RANGE;

/// A long conversation in JSON is some 100 KiB.
pub const MAX_BODY: usize = MIB;
/// At least a short question; at most what one request may take of a small host's memory.
pub const MAX_BODY_RANGE: RangeInclusive<usize> = KIB..=256 * MIB;

/// No model writes as much in one turn; a runaway agent does.
pub const MAX_REPLY: usize = 8 * MIB;
/// As for a body.
pub const MAX_REPLY_RANGE: RangeInclusive<usize> = MAX_BODY_RANGE;

/// A head is one packet or two; whoever needs longer is slow on purpose.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than usual proxies keep a connection between two requests of one page.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// 1 MiB in 30 s is 35 kB/s, slower than any link in use.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// An hour: a connection that may stand still for longer is a leak.
pub const CONNECTION_TIMEOUT_RANGE: RangeInclusive<Duration> =
    SHORTEST_WAIT..=Duration::from_secs(HOUR);

// ---- Fixed: the configuration cannot move these.

/// Read cap of the configuration file: a hand-written one is some kilobytes, a wrong path
/// (a log, a disk image) is not read into memory.
pub const MAX_CONFIG_BYTES: usize = 256 * KIB;
/// Errors that one load reports: more than a screen helps nobody.
pub const MAX_CONFIG_PROBLEMS: usize = 50;
/// Characters of a faulty value that an error repeats.
pub const MAX_SHOWN_VALUE: usize = 60;
/// Bytes of a word that is compared with the known keys: none is half as long, and the comparison
/// is quadratic.
pub const MAX_COMPARED_WORD: usize = 64;
/// Bytes of one argument or variable, less the NUL: Linux's MAX_ARG_STRLEN (execve(2)). A longer
/// one would fail every turn.
pub const MAX_EXEC_STRING: usize = 128 * KIB - 1;
/// A host name's length in characters (RFC 1035 section 2.3.4, less the two length octets).
pub const MAX_HOST_NAME: usize = 253;
/// One label of a host name (RFC 1035 section 2.3.4).
pub const MAX_HOST_LABEL: usize = 63;
