//! Every limit of the program, each with its reason: first the ones that the configuration can
//! move (default and range), then the fixed ones. Only constants live here.

use std::{ops::RangeInclusive, time::Duration};

/// What the configuration can move: first the reason for the default, then the one for the range.
pub struct Setting<T> {
    pub default: T,
    pub range: RangeInclusive<T>,
}

type Time = Setting<Duration>;
type Number = Setting<usize>;

const fn setting<T>(default: T, range: RangeInclusive<T>) -> Setting<T> {
    Setting { default, range }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Shorter than a busy scheduler's delay: a deadline below it would only ever fire by accident.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The port that the older gateway's clients already know; `install` takes the next free one.
pub const DEFAULT_PORT: u16 = 8642;

/// An agent that thinks for longer is usually stuck.
/// A week: long research turns are real, for ever is not.
pub const TURN_TIMEOUT: Time = setting(secs(600), SHORTEST_WAIT..=secs(7 * DAY));

/// A reboot of the agent's machine, an upgrade, most outages of a provider.
/// A week, as for a turn; 0: a temporary failure is the end.
pub const RETRY_FOR: Time = setting(secs(HOUR), Duration::ZERO..=secs(7 * DAY));

/// Proxies in front of the gateway give up after a minute or more, client libraries after ten.
/// 0: at the first failed attempt. An hour: nobody holds a connection open for longer.
pub const ANSWER_WITHIN: Time = setting(secs(60), Duration::ZERO..=secs(HOUR));

/// Well inside systemd's default stop time-out of 90 s, with room for the kill that follows.
/// A day: whoever waits longer for a stop has forgotten that it was asked for.
pub const DRAIN_TIMEOUT: Time = setting(secs(30), SHORTEST_WAIT..=secs(DAY));

/// A start that reads the largest journal from a slow disk; while it lasts the old process serves.
/// An hour: whoever waits longer for a restart has forgotten that it was asked for.
pub const START_TIMEOUT: Time = setting(secs(60), secs(1)..=secs(HOUR));

/// A download over a slow line, or a build of the program on a small machine.
/// A day: whatever takes longer has stopped to move.
pub const UPDATE_TIMEOUT: Time = setting(secs(900), SHORTEST_WAIT..=secs(DAY));

/// A program that dies of its first work does so within seconds; with systemd's delays three deaths take
/// less than this.
/// An hour: whoever waits for it is not to wait for longer.
pub const UPDATE_TRIAL: Time = setting(secs(60), SHORTEST_WAIT..=secs(HOUR));

/// Each takes a thread and some 15 kB; where descriptors or tasks allow fewer, there are fewer.
pub const MAX_CONNECTIONS: Number = setting(10_000, MAX_CONNECTIONS_RANGE);
/// Beyond it a thread per connection is the wrong design.
pub const MAX_CONNECTIONS_RANGE: RangeInclusive<usize> = 1..=65_536;

/// A busy office behind one address, and a twentieth of all.
pub const MAX_CONNECTIONS_PER_ADDRESS: Number = setting(500, MAX_CONNECTIONS_RANGE);

/// Turns per core, where `max_turns` is 0: agents wait for a network more than they compute.
pub const TURNS_PER_CORE: usize = 2;
/// Each is a process and its pipes; 0 means [`TURNS_PER_CORE`] times the cores.
pub const MAX_TURNS_RANGE: RangeInclusive<usize> = 0..=4096;

/// With a body of 1 MiB each they fill 1 GiB at the very worst.
pub const MAX_QUEUE: Number = setting(1000, MAX_QUEUE_RANGE);
/// Longer queues answer later than anybody waits.
pub const MAX_QUEUE_RANGE: RangeInclusive<usize> = 1..=100_000;

/// Of a limit that principals share, in percent: as much again is left for the others.
/// With 100 one principal may take everything.
pub const MAX_SHARE: Number = setting(50, 1..=100);

/// Bodies and answers in flight, over all connections: a constrained host has 128 MiB to give.
/// One request and its answer must fit.
pub const MAX_BUFFERED: Number = setting(64 * MIB, MIB..=GIB.saturating_mul(64));

/// What all sessions keep on disk: four thousand transcripts of the default length.
/// At least a few whole transcripts.
pub const MAX_TRANSCRIPTS: Number = setting(GIB, MIB..=GIB.saturating_mul(1024));

/// A conversation that nobody has gone on with for a month is over.
/// Shorter than a minute forgets what its client is about to go on with.
pub const SESSION_KEEP: Time = setting(secs(30 * DAY), secs(60)..=secs(10 * 366 * DAY));

/// One chatty session must not fill the queue of all the others.
pub const MAX_QUEUE_PER_SESSION: Number = setting(32, MAX_QUEUE_RANGE);

/// A long conversation in JSON is some 100 KiB.
pub const MAX_BODY: Number = setting(MIB, MAX_BODY_RANGE);
/// At least a short question; at most what one request may take of a small host's memory.
pub const MAX_BODY_RANGE: RangeInclusive<usize> = KIB..=256 * MIB;

/// No model writes as much in one turn; a runaway agent does.
pub const MAX_REPLY: Number = setting(8 * MIB, MAX_BODY_RANGE);

/// A tool call with a whole file in it, and a long reply that comes in one piece.
/// At least a long message; at most what one process may take of a small host's memory.
pub const MAX_AGENT_LINE: Number = setting(16 * MIB, 64 * KIB..=256 * MIB);

/// Each takes 100 MB and more: as many as a small host has room for.
/// Beyond it processes a turn are the better design.
pub const AGENT_PROCESSES: Number = setting(4, 1..=256);

/// A coffee break and a meeting; a new process takes seconds to begin.
/// A week: one that nobody uses for longer is a leak.
pub const AGENT_IDLE_TIMEOUT: Time = setting(secs(1800), SHORTEST_WAIT..=secs(7 * DAY));

/// Agents keep what their sessions said in memory, and few of them let it go.
/// 1: a process for each session.
pub const AGENT_SESSIONS: Number = setting(100, 1..=100_000);

/// Long enough to come back to a terminal, short enough that nobody is surprised by what is done then.
/// A day: the turn's agent waits as long.
pub const APPROVE_TIMEOUT: Time = setting(secs(600), SHORTEST_WAIT..=secs(DAY));

/// A turn that a crash cut short runs once more; one that was cut short twice is likely the reason.
/// Beyond it the back-off alone takes hours.
pub const MAX_ATTEMPTS: Number = setting(2, 1..=20);

/// A hundred thousand short messages, and still read within a second or two at the start.
/// At most what a start can still read within its unit's `TimeoutStartSec=`, at 100 MB/s and more.
pub const MAX_JOURNAL: Number = setting(256 * MIB, MIB..=GIB.saturating_mul(4));

/// More than a model's context holds of text that is worth its place.
pub const MAX_TRANSCRIPT: Number = setting(256 * KIB, MAX_TRANSCRIPT_RANGE);
/// At least a few turns; at most what an agent may be asked to read for each turn.
pub const MAX_TRANSCRIPT_RANGE: RangeInclusive<usize> = 4 * KIB..=64 * MIB;

/// What a model of 32k tokens takes of plain text, and some room for its answer.
/// 0: each message stands alone. At most the longest transcript there is.
pub const MAX_HISTORY_SENT: Number = setting(128 * KIB, 0..=64 * MIB);

/// Some hundred pictures as cameras take them, and a small host's disk has room for them.
/// 0: none are taken. At least a page each, so a start looks at no more than 65,536 files at the default.
pub const MAX_ATTACHMENTS: Number = setting(256 * MIB, 0..=GIB.saturating_mul(1024));

/// A day of a busy gateway; each takes a record's place in memory.
/// 0: a result is gone once it was delivered. At most 100 MB of index.
pub const KEEP_RESULTS: Number = setting(10_000, 0..=1_000_000);

/// A receiver that works on a reply before it answers should queue it instead.
/// One slow receiver holds up only its own target, but a stop waits for nobody for an hour.
pub const DELIVERY_TIMEOUT: Time = setting(secs(30), SHORTEST_WAIT..=secs(HOUR));

/// A receiver that was down for a night gets its replies; one that is gone does not pile them up.
/// 30 days: what nobody fetched for so long nobody misses.
pub const DELIVERY_EXPIRE: Time = setting(secs(DAY), secs(1)..=secs(30 * DAY));

/// A head is one packet or two; whoever needs longer is slow on purpose.
pub const HEAD_TIMEOUT: Time = setting(secs(10), CONNECTION_TIMEOUT_RANGE);
/// Longer than usual proxies keep a connection between two requests of one page.
pub const IDLE_TIMEOUT: Time = setting(secs(60), CONNECTION_TIMEOUT_RANGE);
/// 1 MiB in 30 s is 35 kB/s, slower than any link in use.
pub const BODY_TIMEOUT: Time = setting(secs(30), CONNECTION_TIMEOUT_RANGE);
/// A client that takes nothing for so long is gone.
pub const WRITE_TIMEOUT: Time = setting(secs(30), CONNECTION_TIMEOUT_RANGE);
/// An hour: a connection that may stand still for longer is a leak.
pub const CONNECTION_TIMEOUT_RANGE: RangeInclusive<Duration> = SHORTEST_WAIT..=secs(HOUR);

// ---- Fixed: the configuration cannot move these.

/// Read cap of the configuration file: a hand-written one is some kilobytes, a wrong path
/// (a log, a disk image) is not read into memory.
pub const MAX_CONFIG_BYTES: usize = 256 * KIB;
/// Errors that one load reports: more than a screen helps nobody.
pub const MAX_CONFIG_PROBLEMS: usize = 50;
/// Characters of a faulty value that an error repeats.
pub const MAX_SHOWN_VALUE: usize = 60;
/// Bytes of one argument or variable, less the NUL: Linux's MAX_ARG_STRLEN (execve(2)). A longer
/// one would fail every turn.
pub const MAX_EXEC_STRING: usize = 128 * KIB - 1;

/// Servers that `agent.url` names: whoever has more has a balancer before them. What is remembered of each
/// is when it failed.
pub const MAX_UPSTREAMS: usize = 16;

/// Targets of deliveries: each has a thread of its own.
pub const MAX_TARGETS: usize = 32;
/// Channels: each has an adapter, and a thread of its own.
pub const MAX_CHANNELS: usize = 32;
/// Ids of chat platforms: a mail's Message-ID, the longest in use, has no more than a line of 998.
pub const MAX_PLATFORM_ID: usize = 1000;
/// One line of an adapter's: the protocol's own limit.
pub const MAX_CHANNEL_LINE: usize = 1 << 20;
/// Platforms allow about one edit a second in a conversation.
pub const CHANNEL_PACE: Time = setting(secs(1), Duration::from_millis(100)..=secs(60));
/// What was asked yesterday may have been answered elsewhere. 30 days: none keeps more.
pub const CHANNEL_MAX_AGE: Time = setting(secs(DAY), secs(60)..=secs(30 * DAY));
/// Bytes of one text that an adapter offers; a longer one comes as a file.
pub const MAX_CHANNEL_TEXT: usize = 64 << 10;
/// When a platform offers again what could not be taken: room in a queue or on a disk comes in seconds.
pub const CHANNEL_OFFER_AGAIN: Duration = Duration::from_secs(5);

/// Somebody who is on no list is named in the log, so that an operator sees whom to let in, and floods it not.
pub const STRANGER_NAMED_AGAIN: Duration = secs(3600);
pub const MAX_STRANGERS_NAMED: usize = 20;
/// Pairing codes that wait for an operator on a channel: more of them nobody looks through.
pub const MAX_PAIRING_CODES: usize = 3;
/// An operator is at hand, or is asked again. Of 40 bits nobody guesses one meanwhile.
pub const PAIRING_CODE_VALID: Duration = secs(3600);
/// Between two times that somebody is told a code.
pub const PAIRING_CODE_AGAIN: Duration = secs(600);

/// Clients' keys: each request is compared with all of them, which takes some 10 µs.
pub const MAX_CLIENT_KEYS: usize = 256;

// ---- The stop.

/// How long one question may take in all, its retry included: a manager that hangs would hold
/// systemctl for 90 s, and the drain must fit into `TimeoutStopSec=`.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(2);

/// How long an agent has between SIGTERM and SIGKILL to put its things in order. Part of the stop
/// budget: the unit's `TimeoutStopSec=` counts it in.
pub const KILL_AFTER: Duration = Duration::from_secs(3);

/// What cut turns have beyond their agents' SIGKILL to tell their clients: part of the stop budget.
pub const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a stop takes beside the drain: two questions to the service manager of 2 s each, 3 s from
/// SIGTERM to SIGKILL for agents, the last words to clients; and as much again for a busy machine.
pub const STOP_HEADROOM: Duration = Duration::from_secs(15);

/// How long the exit waits for the last events of event streams: they are on their way by then.
pub const STREAM_END_TIMEOUT: Duration = Duration::from_millis(200);

/// How long the exit waits for the journal's last sync: what was acknowledged is durable without it.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the exit waits for its line in the history: far above what a busy disk takes for one sync.
pub const HISTORY_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Connections and threads.

/// A connection's stack: reading and answering took 40 kB of it, and 140 kB in a debug build; only what
/// is touched takes memory.
pub const CONNECTION_STACK: usize = 256 << 10;

/// The stack of a thread that there is one of: only what is touched takes memory.
pub const THREAD_STACK: usize = 1 << 20;

/// How long accepting rests after an error that would come again at once (EMFILE).
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// What connections that are handed over have sent of requests that were not begun, all together: a
/// thousand of the largest heads, and much more of usual ones. The next process reads it before it serves.
pub const MAX_HANDED_OVER: usize = 16 * MIB;

/// As far as the soft limit on descriptors is raised at the start, if the hard one allows it.
pub const WANTED_DESCRIPTORS: u64 = 65_536;

// ---- HTTP.

/// All of a head: request line, fields and the empty line. Browsers and client libraries stay
/// below 8 KiB; nginx allows 32 KiB, Apache about 800 KiB.
pub const MAX_HEAD: usize = 16 << 10;

/// The target of a request: RFC 9112 section 3 asks for at least 8,000 bytes.
pub const MAX_TARGET: usize = 8 << 10;

/// Fields in a head; the same bound as hyper and httparse's usual array.
pub const MAX_FIELDS: usize = 100;

/// A body that its handler did not want is read and dropped up to here, so that the connection can
/// go on; a longer one costs more than a new connection.
pub const MAX_SKIPPED_BODY: usize = 64 << 10;

/// How long the rest of such a body may take.
pub const SKIP_TIMEOUT: Duration = Duration::from_secs(2);

/// The buffer of a connection that waits: room for an ordinary head in one read.
pub const SMALL_BUFFER: usize = 2 << 10;

/// How much is written at a time, and what must be taken within the write time-out.
pub const WRITE_CHUNK: usize = 64 << 10;

/// Longest event that a reader keeps, all its lines together.
pub const MAX_EVENT: usize = 1 << 20;

/// Questions of one turn that wait for an answer: an agent asks for one thing at a time, and for some tools that
/// it calls at once.
pub const MAX_OPEN_APPROVALS: usize = 8;

/// Questions of one attempt that are answered, by whomever: each answer is a record, and no work that somebody
/// follows needs more.
pub const MAX_APPROVALS: usize = 200;

/// What the record of an answer by the configuration has of what the tool is given, in bytes: nobody has read it.
pub const MAX_POLICY_INPUT: usize = 500;

/// What a living agent does beside its reply, of each turn: those who follow it live see all, and whoever comes
/// later the newest.
pub const MAX_LIVE_EVENTS: usize = 256;

/// The same in bytes: as much as a connection's buffers hold.
pub const MAX_LIVE_EVENT_BYTES: usize = 256 << 10;

/// The most bytes of text in one event: clients bound what they take for one.
pub const MAX_CHUNK: usize = 32 << 10;

// ---- Agents and helpers.

/// What one read takes; also the most that a piece of a reply has.
pub const AGENT_READ: usize = 8 << 10;
/// Reads of a child's stdout once it has ended: all that a pipe holds (pipe(7): 1 MiB at most without
/// privileges), though what it has left behind may print without end.
pub const MAX_LAST_READS: usize = (2 << 20) / AGENT_READ;

/// How long a child that was killed may take to end before it is left behind: the kernel needs no
/// time for that, unless the child belongs to another user or hangs in a system call.
pub const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it looks.
pub const LEFTOVERS_PAUSE: Duration = Duration::from_millis(1);

/// How much of the end an error message quotes.
pub const MAX_STDERR_TAIL: usize = 1024;

/// How long a reader of our log that does not read may hold us up, once: then lines are lost and counted.
pub const LOG_TIMEOUT: Duration = Duration::from_millis(500);

// ---- Messages.

/// How long a settled message is known: idempotency keys hold for a day, as the usual APIs have it.
pub const KEEP_RESULTS_FOR: Duration = Duration::from_secs(24 * HOUR);

/// What a channel has offered is known for longer, by its id: platforms repeat what was not acknowledged for
/// days, and none for a month.
pub const KEEP_OFFERED: Duration = Duration::from_secs(30 * 24 * HOUR);
/// The same in number: 5 MB of memory.
pub const MAX_OFFERED: usize = 10_000;
/// Facts of each kind about a channel: 1,000 conversations that have moved, or people that were let in.
pub const MAX_FACTS: usize = 1000;

/// A month: whoever has not looked at a dead letter by then never will.
pub const KEEP_DEAD_LETTERS: Duration = Duration::from_secs(30 * 24 * HOUR);

/// Dead letters at once; beyond them the oldest go.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// What a record takes beside its JSON: checksum, number, two spaces, the journal's own member, a
/// line feed.
pub const RECORD_OVERHEAD: u64 = 30;

/// Between two tries to write a record that a disk has no room for.
pub const DISK_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Between two tries to start a thread that the system did not have: work goes on within a moment.
pub const THREAD_RETRY_DELAY: Duration = Duration::from_millis(250);

/// How long a shortage is said after work last had to wait for it: some of these pauses.
pub const SHORTAGE_VALID: Duration = Duration::from_secs(2);

/// The longest pause between two attempts of a turn: its session waits as long.
pub const MAX_TURN_RETRY_DELAY: Duration = Duration::from_secs(30);

/// What a compaction copies while writers wait.
pub const COMPACT_TAIL: u64 = 64 << 10;

/// The longest wait for a message that a request may ask for: proxies give up earlier.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// Sessions or messages in one answer.
pub const MAX_LISTED: usize = 1000;

/// Replies in one answer, beyond which no more messages are listed.
pub const MAX_LISTED_BYTES: usize = 8 * MIB;

/// A comment on an event stream where nothing happens: proxies cut what is silent for a minute.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a small file takes on a disk: each session has two, and one of them grows.
pub const SESSION_PAGE: u64 = 4 << 10;

/// Messages that are erased before the hub's lock is given back: a millisecond.
pub const ERASED_AT_ONCE: usize = 256;

/// What is left in the journal of a message whose session was reset: ids, digests, stamps.
pub const ERASED_BYTES: u64 = 400;

// ---- Deliveries.

/// For one address of a receiver's: the second of two lost SYNs is sent again after 3 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

// ---- Notices.

/// How long after a notice to `stop.notify` another end is only counted: a unit that dies in a loop would
/// fill a mailbox.
pub const NOTIFY_COOL_DOWN: Duration = secs(60);

/// The same for `stop.notify_failures`: an agent that is away fails one turn after the other.
pub const FAILURE_COOL_DOWN: Duration = secs(5 * 60);

/// How long a stop waits for a target that is told of it.
pub const MAX_DRAIN_SEND: Duration = secs(5);

/// How soon after a restart that was asked for none is made for another message: requests that were sent
/// at once come late when the gateway was away.
pub const RESTART_PAUSE: Duration = secs(10);

/// So many restarts that were asked for in so short a time are a storm, which no message prolongs.
pub const RESTART_STORM: (usize, Duration) = (5, secs(2 * 60));

// ---- Upstreams.

/// What is quoted of an error that is not in JSON: a page of HTML says nothing further down.
pub const MAX_QUOTED_ERROR: usize = 500;

// ---- Files.

/// A key file has one line.
pub const MAX_KEY_FILE: u64 = 4096;

// ---- The journal.

/// Longest record: far above the default body and reply; the memory that one damaged length can take.
pub const MAX_RECORD: usize = 64 * MIB;

/// Room on the disk that is set aside beyond the journal's end before new work is taken: thousands
/// of completions with short replies.
pub const JOURNAL_PREALLOCATED: u64 = 1 << 20;

/// Where records take more, a reply is not loaded but sent from the file: as much as a connection that
/// sends one holds for it.
pub const LONG_RECORD: u64 = 64 << 10;

/// A call to the disk that takes longer degrades the gateway: readers of `/ready` wait for some seconds
/// at most, and a disk that works answers within a few hundred milliseconds.
pub const DISK_SLOW: Duration = Duration::from_millis(1500);

/// How many messages or records are looked at before the hub's lock is given back: some hundred
/// microseconds.
pub const LOCK_BATCH: usize = 1000;

/// What one read of the journal takes: some steps of the index.
pub const JOURNAL_BUFFER: usize = 32 * KIB;

// ---- Commands.

/// For a reload that somebody waits for, from the request to its outcome: a slow disk's time, and less
/// than the 60 s that the unit's `TimeoutStartSec=` gives `ExecReload=`.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(40);

/// What one image of the process tells the next: some hundred bytes for each connection that it hands over,
/// and the heads that were not read yet.
pub const MAX_HANDOVER: u64 = 64 << 20;

/// A gateway that lives answers in a few milliseconds; this is how long a loaded machine may need.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at a gateway that holds its lock and does not listen yet, or not any more:
/// it binds its socket some milliseconds after it has taken the lock.
pub const CONTROL_PAUSE: Duration = Duration::from_millis(20);

/// What an adapter that is checked has for anything: platforms are asked, and people write messages meanwhile.
pub const CHECK_WAIT: Duration = Duration::from_secs(30);

/// An error's body is a sentence or the tail of an agent's stderr.
pub const MAX_ERROR_BODY: usize = 256 << 10;

/// The longest wait for a turn to begin, and as much for the turn itself. The configuration that we
/// could read may not be the one that the gateway runs with; one that dies ends the wait at once.
pub const LONGEST_REPLY: Duration = TURN_TIMEOUT.range.end().saturating_mul(2);

/// For what makes the manager read or write unit files: some hundred of them on a slow disk.
pub const UNIT_FILES_TIMEOUT: Duration = Duration::from_secs(60);

/// A hundred gateways of one user are more than any machine runs; a search that goes further would
/// hide that something else is wrong.
pub const STARTER_PORTS: RangeInclusive<u16> = DEFAULT_PORT..=DEFAULT_PORT + 99;
