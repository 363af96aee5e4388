//! Every limit of the program, each with its reason: first the ones that the configuration can
//! move (default and range), then the fixed ones. Only constants live here.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::time::Duration;

/// The range of a setting that is a time.
type Times = RangeInclusive<Duration>;

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
pub const TURN_TIMEOUT_RANGE: Times = SHORTEST_WAIT..=Duration::from_secs(7 * 24 * HOUR);

/// A reboot of the agent's machine, an upgrade, most outages of a provider.
pub const RETRY_FOR: Duration = Duration::from_secs(HOUR);
/// A week, as for a turn; 0: a temporary failure is the end.
pub const RETRY_FOR_RANGE: Times = Duration::ZERO..=Duration::from_secs(7 * 24 * HOUR);

/// Proxies in front of the gateway give up after a minute or more, client libraries after ten.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// 0: at the first failed attempt. An hour: nobody holds a connection open for longer.
pub const ANSWER_WITHIN_RANGE: Times = Duration::ZERO..=Duration::from_secs(HOUR);

/// Well inside systemd's default stop time-out of 90 s, with room for the kill that follows.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A day: whoever waits longer for a stop has forgotten that it was asked for.
pub const DRAIN_TIMEOUT_RANGE: Times = SHORTEST_WAIT..=Duration::from_secs(24 * HOUR);

/// Each takes a thread and some 12 kB; where descriptors or tasks allow fewer, there are fewer.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Beyond it a thread per connection is the wrong design.
pub const MAX_CONNECTIONS_RANGE: RangeInclusive<usize> = 1..=65_536;

/// A busy office behind one address, and a twentieth of all.
pub const MAX_CONNECTIONS_PER_ADDRESS: usize = 500;

/// Turns per core, where `max_turns` is 0: agents wait for a network more than they compute.
pub const TURNS_PER_CORE: usize = 2;
/// Each is a process and its pipes; 0 means [`TURNS_PER_CORE`] times the cores.
pub const MAX_TURNS_RANGE: RangeInclusive<usize> = 0..=4096;

/// With a body of 1 MiB each they fill 1 GiB at the very worst.
pub const MAX_QUEUE: usize = 1000;
/// Longer queues answer later than anybody waits.
pub const MAX_QUEUE_RANGE: RangeInclusive<usize> = 1..=100_000;

/// Of a limit that principals share, in percent: as much again is left for the others.
pub const MAX_SHARE: usize = 50;
/// With 100 one principal may take everything.
pub const MAX_SHARE_RANGE: RangeInclusive<usize> = 1..=100;

/// Bodies and answers in flight, over all connections: a constrained host has 128 MiB to give.
pub const MAX_BUFFERED: usize = 64 * MIB;
/// One request and its answer must fit.
pub const MAX_BUFFERED_RANGE: RangeInclusive<usize> = MIB..=64 * (MIB << 10);

/// What all sessions keep on disk: four thousand transcripts of the default length.
pub const MAX_TRANSCRIPTS: usize = 1024 * MIB;
/// At least a few whole transcripts.
pub const MAX_TRANSCRIPTS_RANGE: RangeInclusive<usize> =
    MIB..=if usize::BITS < 64 { usize::MAX } else { 1024 * (MIB << 10) };

/// A conversation that nobody has gone on with for a month is over.
pub const SESSION_KEEP: Duration = Duration::from_secs(30 * 24 * HOUR);
/// Shorter than a minute forgets what its client is about to go on with.
pub const SESSION_KEEP_RANGE: Times =
    Duration::from_secs(60)..=Duration::from_secs(10 * 366 * 24 * HOUR);

/// One chatty session must not fill the queue of all the others.
pub const MAX_QUEUE_PER_SESSION: usize = 32;

/// A long conversation in JSON is some 100 KiB.
pub const MAX_BODY: usize = MIB;
/// At least a short question; at most what one request may take of a small host's memory.
pub const MAX_BODY_RANGE: RangeInclusive<usize> = KIB..=256 * MIB;

/// No model writes as much in one turn; a runaway agent does.
pub const MAX_REPLY: usize = 8 * MIB;

/// A turn that a crash cut short runs once more; one that was cut short twice is likely the reason.
pub const MAX_ATTEMPTS: usize = 2;
/// Beyond it the back-off alone takes hours.
pub const MAX_ATTEMPTS_RANGE: RangeInclusive<usize> = 1..=20;

/// A hundred thousand short messages, and still read within a second or two at the start.
pub const MAX_JOURNAL: usize = 256 * MIB;
/// At most what a start can still read within its unit's `TimeoutStartSec=`, at 100 MB/s and more.
pub const MAX_JOURNAL_RANGE: RangeInclusive<usize> =
    MIB..=if usize::BITS < 64 { usize::MAX } else { 4 * (MIB << 10) };

/// More than a model's context holds of text that is worth its place.
pub const MAX_TRANSCRIPT: usize = 256 * KIB;
/// At least a few turns; at most what an agent may be asked to read for each turn.
pub const MAX_TRANSCRIPT_RANGE: RangeInclusive<usize> = 4 * KIB..=64 * MIB;

/// What a model of 32k tokens takes of plain text, and some room for its answer.
pub const MAX_HISTORY_SENT: usize = 128 * KIB;
/// 0: each message stands alone. At most the longest transcript there is.
pub const MAX_HISTORY_SENT_RANGE: RangeInclusive<usize> = 0..=64 * MIB;

/// A day of a busy gateway; each takes a record's place in memory.
pub const KEEP_RESULTS: usize = 10_000;
/// 0: a result is gone once it was delivered. At most 100 MB of index.
pub const KEEP_RESULTS_RANGE: RangeInclusive<usize> = 0..=1_000_000;

/// A receiver that works on a reply before it answers should queue it instead.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// One slow receiver holds up only its own target, but a stop waits for nobody for an hour.
pub const DELIVERY_TIMEOUT_RANGE: Times = SHORTEST_WAIT..=Duration::from_secs(HOUR);

/// A receiver that was down for a night gets its replies; one that is gone does not pile them up.
pub const DELIVERY_EXPIRE: Duration = Duration::from_secs(24 * HOUR);
/// 30 days: what nobody fetched for so long nobody misses.
pub const DELIVERY_EXPIRE_RANGE: Times =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * HOUR);

/// A head is one packet or two; whoever needs longer is slow on purpose.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than usual proxies keep a connection between two requests of one page.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// 1 MiB in 30 s is 35 kB/s, slower than any link in use.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// An hour: a connection that may stand still for longer is a leak.
pub const CONNECTION_TIMEOUT_RANGE: Times = SHORTEST_WAIT..=Duration::from_secs(HOUR);

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

/// Targets of deliveries: each has a thread of its own.
pub const MAX_TARGETS: usize = 32;
/// Clients' keys: each request is compared with all of them, which takes some 10 µs.
pub const MAX_CLIENT_KEYS: usize = 256;
/// Characters of a target's name: it stands in records, logs and variables.
pub const MAX_TARGET_NAME: usize = 64;
/// Characters of a principal's name, with the room for a platform and an id on it.
pub const MAX_PRINCIPAL: usize = 128;
/// Bytes of a model's name: a path in a registry with its tag.
pub const MAX_MODEL: usize = 256;
/// Bytes of a URL; its path and query also keep to what servers take ([`MAX_TARGET`]).
pub const MAX_URL: usize = 4 << 10;

// ---- The stop.

/// How long one question may take in all, its retry included: a manager that hangs would hold
/// systemctl for 90 s, and the drain must fit into `TimeoutStopSec=`.
pub const QUESTION_DEADLINE: Duration = Duration::from_secs(2);

/// How long after a failure the question is asked again: at a daemon-reexec the manager is gone
/// for about 0.1 s.
pub const QUESTION_RETRY: Duration = Duration::from_millis(150);

/// How long an announcement holds: far longer than a signal takes, far shorter than a pid's return.
pub const MARKER_FRESH: Duration = Duration::from_secs(60);

/// How long an agent has between SIGTERM and SIGKILL to put its things in order. Part of the stop
/// budget: the unit's `TimeoutStopSec=` counts it in.
pub const KILL_AFTER: Duration = Duration::from_secs(3);

/// What cut turns have beyond their agents' SIGKILL to tell their clients: part of the stop budget.
pub const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// What a stop takes beside the drain: two questions to the service manager of 2 s each, 3 s from
/// SIGTERM to SIGKILL for agents, the last words to clients; and as much again for a busy machine.
pub const STOP_HEADROOM: Duration = Duration::from_secs(15);

/// How long a service manager that does not read may hold the main loop up for a message.
pub const NOTIFY_PATIENCE: Duration = Duration::from_millis(200);

/// How long the exit waits for the last words of event streams: they are on their way by then.
pub const STREAM_PATIENCE: Duration = Duration::from_millis(200);

/// How long the exit waits for the journal's last sync: what was acknowledged is durable without it.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// How long the exit waits for its line in the history: far above what a busy disk takes for one sync.
pub const HISTORY_PATIENCE: Duration = Duration::from_secs(2);

/// How long a verdict waits for the planned-stop marker: it is in a memory file system as a rule.
pub const MARKER_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of what a child says of its work: an error of the system with a path.
pub const MAX_CHILD_WORDS: u64 = 8 << 10;

/// How often STATUS= tells what a drain waits for.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);

// ---- Connections and threads.

/// A connection's stack: reading and answering took 40 kB of it, and 140 kB in a debug build; only what
/// is touched takes memory.
pub const CONNECTION_STACK: usize = 256 << 10;

/// The stack of a thread that there is one of: only what is touched takes memory.
pub const THREAD_STACK: usize = 1 << 20;

/// Connections that may wait for their accept: as many as come in a burst, and the kernel's own bound
/// (net.core.somaxconn) since Linux 5.4.
pub const BACKLOG: i32 = 4096;

/// How many connections are accepted before the main loop looks at its other duties.
pub const ACCEPT_BATCH: usize = 64;

/// How long accepting rests after an error that would come again at once (EMFILE).
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Connections on the control socket at once: commands of one user.
pub const MAX_CONTROL_CONNECTIONS: usize = 64;

/// Connections that have shown no key. Each may be one of an attack; 1,000 of them are some 12 MB.
pub const MAX_STRANGERS: usize = 1000;

/// Connections kept for requests without a key (`/health`, `/ready`) and for those that are about to show
/// one: each takes moments.
pub const KEPT_CONNECTIONS: usize = 16;

/// How long a connection has to show one before it may have to leave for others: many times what a
/// request takes on a loaded machine, and over a slow line.
pub const STRANGERS_MOMENT: Duration = Duration::from_millis(500);

/// How long a connection that has to leave may take without counting: its thread needs some
/// microseconds, unless it hangs.
pub const LEAVING_MOMENT: Duration = Duration::from_secs(1);

/// How many connections leave when the system is short of descriptors or threads: enough for the
/// control socket and a turn or two. Also how many may leave for one that comes.
pub const SHORTAGE_ROOM: usize = 16;

/// How long a shortage counts, and fewer are let in: accepting is tried again much sooner, so that one
/// which lasts is seen again within it, and one that has passed keeps nobody out for long.
pub const SHORTAGE_LASTS: Duration = Duration::from_millis(600);

/// How often it is said that connections cannot be accepted: twenty lines a second would hide all others.
pub const SHORTAGE_LOG_EVERY: Duration = Duration::from_secs(10);

/// What a client of the spare thread may take for its request and to read the answer: others wait.
pub const SPARE_TIMEOUT: Duration = Duration::from_millis(500);

/// Tasks that connections leave to others: our own threads, control connections, deliveries.
pub const RESERVED_TASKS: usize = 32;

/// A turn's thread, and the processes of a small agent.
pub const TASKS_PER_TURN: usize = 4;

/// How many of those may be messages that wait for their reply: the rest is for `status`.
pub const MAX_CONTROL_TURNS: usize = 48;

/// What an idle gateway has open: 14 were measured (signals, wake-ups, listeners, locks, journal,
/// log), and one or two for the service manager.
pub const OWN_DESCRIPTORS: usize = 16;

/// The control socket's clients, helpers' pipes, senders to targets, files that are read or written.
pub const RESERVED_DESCRIPTORS: usize = 112;

/// A command's turn: its pidfd and pipes (4 were measured, 7 while it is being started), what cancels it.
pub const DESCRIPTORS_PER_TURN: usize = 7;

/// A connection's socket, and an event while it waits for a turn.
pub const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Where descriptors are few, the reserve for turns and the rest is this part of them, one in so many:
/// at 64 two turns run, and 16 connections at once are served.
pub const DESCRIPTORS_SHARED: usize = 3;

/// Fewer connections than these are said to be few, though nobody configured more.
pub const FEW_CONNECTIONS: usize = 1000;

/// Where descriptors allow fewer connections than these, one that is over them waits for its turn: a
/// handful of clients at once is no overload.
pub const FEW_SEATS: usize = 64;

/// How long a connection waits for another to end where descriptors are few, before it and those after
/// it are told that there is no room: most clients wait for as long to be connected.
pub const ROOM_PATIENCE: Duration = Duration::from_secs(30);

/// As far as the soft limit on descriptors is raised at the start, if the hard one allows it.
pub const WANTED_DESCRIPTORS: u64 = 65_536;

// ---- HTTP.

/// All of a head: request line, fields and the empty line. Browsers and client libraries stay
/// below 8 KiB; nginx allows 32 KiB, Apache about 800 KiB.
pub const MAX_HEAD: usize = 16 << 10;

/// The target of a request: RFC 9112 section 3 asks for at least 8,000 bytes.
pub const MAX_TARGET: usize = 8 << 10;

/// Beyond the target, a request line holds a method, two spaces and the version.
pub const MAX_FIRST_LINE: usize = MAX_TARGET + 64;

/// Fields in a head; the same bound as hyper and httparse's usual array.
pub const MAX_FIELDS: usize = 100;

/// Digits of a chunk's size: as many as a u64 has.
pub const MAX_SIZE_DIGITS: u8 = 16;

/// Bytes of extensions in a whole body. They are overhead that a sender can make us read for
/// every byte of content (CVE-2023-39326), and nobody uses them.
pub const MAX_EXTENSIONS: usize = 4 << 10;

/// Bytes of trailers.
pub const MAX_TRAILERS: usize = 8 << 10;

/// A body must come at this rate or faster, once `body_timeout` has passed: a slow line manages
/// it, and a body of 1 MiB cannot hold a thread for more than 17 minutes.
pub const MIN_BODY_RATE: u64 = 1 << 10;

/// How long a body or reply waits for its part of `max_buffered`: who holds much and stands still is
/// cut off sooner ([`HURRY`]).
pub const BUFFER_PATIENCE: Duration = Duration::from_secs(10);

/// Requests of one principal that wait for it: each is woken whenever some comes free.
pub const MAX_BUFFER_WAITS: usize = 64;

/// How much quicker a client has to be whose principal holds more than a quarter of `max_buffered`: a
/// body of 1 MiB is cut off after a minute and a half.
pub const HURRY: u32 = 16;

/// A body that its handler did not want is read and dropped up to here, so that the connection can
/// go on; a longer one costs more than a new connection.
pub const MAX_SKIPPED_BODY: usize = 64 << 10;

/// How long the rest of such a body may take.
pub const SKIP_TIMEOUT: Duration = Duration::from_secs(2);

/// After a refusal, input is dropped up to here so that the answer gets through.
pub const MAX_LINGER: usize = 1 << 20;

/// How long that takes at the most: a client that still sends by then has been told often enough.
pub const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// The response buffer that an idle connection keeps: an ordinary head and a small body.
pub const KEPT_RESPONSE_BUFFER: usize = 1 << 10;

/// The buffer of a connection that waits: room for an ordinary head in one read.
pub const SMALL_BUFFER: usize = 2 << 10;

/// The largest read: as much as a pipe or a loopback segment usually carries.
pub const LARGE_READ: usize = 64 << 10;

/// How much is written at a time, and what must be taken within the write time-out.
pub const WRITE_PIECE: usize = 64 << 10;

/// A wait may end this much later than its deadline. Setting the socket's time-out anew for less
/// would cost a system call on each read.
pub const TIMEOUT_SLACK: Duration = Duration::from_millis(10);

/// Longest event that a reader keeps, all its lines together.
pub const MAX_EVENT: usize = 1 << 20;

/// Interim responses (1xx) that may precede one response; one is usual, more is a game.
pub const MAX_INTERIM: usize = 4;

/// The most bytes of text in one event: clients bound what they take for one.
pub const MAX_PIECE: usize = 32 << 10;

// ---- Names, keys, sessions.

/// The most bytes in a name; with its fixed parts a unit's name stays far below systemd's 255.
pub const MAX_NAME: usize = 64;

/// Bytes of a response's metadata: OpenAI takes 16 pairs of 64 and 512 characters, four bytes each at
/// most. Each event of its stream repeats them.
pub const MAX_METADATA: usize = 40 * KIB;

/// Lists and objects in a body that may be open at once. A body is read without values being made of
/// it, but who gets its parts may read no more than 128, serde_json among them, with some of ours around.
pub const MAX_JSON_DEPTH: usize = 100;

/// Bytes of chance in a key that we make.
pub const KEY_BYTES: usize = 32;

/// The fewest characters of a key: 128 bits in hex. Ours has 64.
pub const MIN_KEY: usize = 32;

/// Wrong keys from one address within [`FAILURE_WINDOW`] before they are answered with 429: a client
/// with a stale key shows it a few times.
pub const MAX_FAILURES: u32 = 10;

/// How long wrong keys are counted together, and how long an address is told to wait at most.
pub const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose wrong keys are counted at one time; 40 kB.
pub const MAX_FAILING_ADDRESSES: usize = 1024;

/// Seconds for which a browser need not ask again what a page may send; they cap it at two hours.
pub const PREFLIGHT_AGE: u32 = 7200;

/// The most bytes of a session's key: free text, but no document.
pub const MAX_SESSION: usize = 256;

// ---- Agents and helpers.

/// What one read takes; also the most that a piece of a reply has.
pub const AGENT_READ: usize = 8 << 10;

/// How many reads follow one wait. More than a pipe holds (pipe(7): 1 MiB at most without
/// privileges), so that all of a reply is taken when the agent has ended; and not more, so that
/// one that prints without end is looked at between.
pub const AGENT_READS: usize = (1 << 20) / AGENT_READ + 1;

/// How long a child that was killed may take to end before it is left behind: the kernel needs no
/// time for that, unless the child belongs to another user or hangs in a system call.
pub const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of a turn waits for the end of what was killed with it: time for a storm of new
/// processes to be put down, and little enough for the stop budget.
pub const LEFTOVERS_PATIENCE: Duration = Duration::from_secs(1);

/// How often it looks.
pub const LEFTOVERS_PAUSE: Duration = Duration::from_millis(1);

/// Searches for what turns have left, at once: each is a thread for as long as a process hangs that
/// it looks at. More than turns end at one time, and no more.
pub const MAX_SWEEPS: usize = 64;

/// How long one client that reads slowly may keep an agent's deadline from being looked at.
pub const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Instructions that an agent gets as a variable: with its name and NUL it stays below the system's
/// bound for one ([`MAX_EXEC_STRING`]).
pub const MAX_INSTRUCTIONS: usize = 120 * KIB;

/// Longer lines are cut: a log line, not a document.
pub const MAX_STDERR_LINE: usize = 2048;

/// How much of the end an error message quotes.
pub const MAX_STDERR_TAIL: usize = 1024;

/// What the kernel reads of a program to find its interpreter (BINPRM_BUF_SIZE).
pub const MAX_SCRIPT_HEAD: u64 = 256;

/// How long a start waits for what the files of agents' programs tell, which is only warned of: they
/// may be on a disk that hangs.
pub const PROGRAM_PATIENCE: Duration = Duration::from_millis(500);

/// How much one turn may put into the log.
pub const MAX_STDERR_LOGGED: usize = 64 << 10;

/// The most that we take of what systemctl prints; `list-jobs` and `show` stay far below.
pub const MAX_SYSTEMCTL_OUTPUT: usize = 256 << 10;

/// How long a reader of our log that does not read may hold us up, once: then lines are lost and counted.
pub const LOG_PATIENCE: Duration = Duration::from_millis(500);

/// The most bytes of a log line: less than PIPE_BUF (4096, pipe(7)), so that a pipe which takes a
/// line takes it whole and at once.
pub const MAX_LOG_LINE: usize = 4000;

/// How long a syslog daemon that went away is left alone before the next try to reach it.
pub const SYSLOG_RECONNECT: Duration = Duration::from_millis(100);

/// How long a syslog daemon that does not read may hold up the thread that logs.
pub const SYSLOG_PATIENCE: Duration = Duration::from_millis(200);

/// How long it is left alone then; lines go to standard error meanwhile.
pub const SYSLOG_BACK_OFF: Duration = Duration::from_secs(5);

// ---- Messages.

/// How long a settled message is known: idempotency keys hold for a day, as the usual APIs have it.
pub const KEEP_RESULTS_FOR: Duration = Duration::from_secs(24 * HOUR);

/// A month: whoever has not looked at a dead letter by then never will.
pub const KEEP_DEAD_LETTERS: Duration = Duration::from_secs(30 * 24 * HOUR);

/// What was ended for less than this while the machine was on is not old, whatever the clocks say of
/// the time in between: a wrong clock at one start after the other must not make a client's repeat of
/// a request a second turn.
pub const KEEP_UPTIME: Duration = Duration::from_secs(HOUR);

/// What a reboot may add to ages: off every night counts in full, a clock that is years off does not.
pub const MAX_OFF: Duration = Duration::from_secs(24 * HOUR);

/// How long the journal may go without a record before one says the time: a part of [`MAX_OFF`], so
/// that with a night behind it no time is lost.
pub const CLOCK_ROUND: Duration = Duration::from_secs(6 * HOUR);

/// Ages do not differ by more from one record to the next: those of [`CLOCK_ROUND`] are in between.
pub const MAX_AGE_STEP: Duration = Duration::from_secs(366 * 24 * HOUR);

/// Dead letters at once; beyond them the oldest go.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// What a record takes beside its JSON: checksum, number, two spaces, the journal's own member, a
/// line feed.
pub const RECORD_OVERHEAD: u64 = 30;

/// Senders whose names are shared by their messages: the sessions that are busy at one time. Others
/// are right too, and take some more memory.
pub const RECENT_PARTIES: usize = 64;

/// Between two tries to write a record that a disk has no room for.
pub const DISK_PAUSE: Duration = Duration::from_millis(500);

/// Between two tries to start a thread that the system did not have: work goes on within a moment.
pub const THREAD_PAUSE: Duration = Duration::from_millis(250);

/// How long a shortage is said after work last had to wait for it: some of these pauses.
pub const SHORTAGE_VALID: Duration = Duration::from_secs(2);

/// How long a record that nobody waits for may stay unsynced: the next message usually takes it
/// along, for nothing.
pub const LAZY_SYNC: Duration = Duration::from_millis(50);

/// How long nothing is written before the journal says that all is durable: within twice this after
/// the last record.
pub const MARK_AFTER: Duration = Duration::from_millis(25);

/// The longest pause between two attempts of a turn: its session waits as long.
pub const MAX_TURN_PAUSE: Duration = Duration::from_secs(30);

/// Within this time all turns that wait for the agent are tried again once it has answered one of
/// them: not all at the same moment.
pub const AGENT_BACK: Duration = Duration::from_secs(1);

/// The longest pause between two attempts of a delivery that did not ask for more.
pub const MAX_DELIVERY_PAUSE: Duration = Duration::from_secs(300);

/// How often the keeper looks for results that are old.
pub const KEEPER_ROUND: Duration = Duration::from_secs(60);

/// How often it looks while there are too many, which a compaction under way keeps it from.
pub const KEEPER_SOON: Duration = Duration::from_millis(200);

/// A smaller journal is not worth a compaction.
pub const COMPACT_FROM: u64 = MIB as u64;

/// What a compaction copies while writers wait.
pub const COMPACT_TAIL: u64 = 64 << 10;

/// How often it copies what came meanwhile, before it makes writers wait for all that is left.
pub const COMPACT_ROUNDS: u32 = 16;

/// After a compaction that failed.
pub const COMPACT_PAUSE: Duration = Duration::from_secs(30);

/// The stack of a turn's or a delivery's thread; only what is touched takes memory.
pub const WORKER_STACK: usize = 256 << 10;

/// Messages that one may build upon; a conversation of more turns is longer than any model's context.
pub const MAX_CHAIN: usize = 1000;

/// The longest wait for a message that a request may ask for: proxies give up earlier.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// Bytes of an idempotency key: a UUID has 36.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// References that may come with a message, and the bytes of each: a URL.
pub const MAX_ATTACHMENTS: usize = 16;
pub const MAX_ATTACHMENT: usize = 2048;

/// Sessions or dead letters in one answer.
pub const MAX_LISTED: usize = 1000;

/// Replies in one answer, beyond which no more dead letters are listed.
pub const MAX_LISTED_BYTES: usize = 8 * MIB;

/// A comment on an event stream where nothing happens: proxies cut what is silent for a minute.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sessions whose transcripts are known to be right; the list begins anew beyond that.
pub const MAX_SETTLED: usize = 10_000;

/// What a small file takes on a disk: each session has two, and one of them grows.
pub const SESSION_PAGE: u64 = 4 << 10;

/// How far the time at which a session was last used may be off after a restart: that of each turn
/// would cost a file.
pub const SESSION_USE: Duration = Duration::from_secs(60);

/// One session may take this part of what all may: many have room.
pub const SESSIONS_PART: usize = 16;

/// Where sessions have to go for others, this part of what their principal has goes at once: who
/// fills the disk pays with a look at all sessions for each so many.
pub const EVICTED_PART: u64 = 16;

/// Between the compactions that resets ask for, at the least; and so many times what the last took,
/// so that resets keep no disk busy.
pub const ERASE_PAUSE: Duration = Duration::from_secs(5);
pub const ERASE_FACTOR: u32 = 20;

/// Messages that are erased before the hub's lock is given back: a millisecond.
pub const ERASED_AT_ONCE: usize = 256;

/// What is left in the journal of a message whose session was reset: ids, digests, stamps.
pub const ERASED_BYTES: u64 = 400;

/// A session's key and principal in JSON are some hundred bytes.
pub const MAX_ABOUT_FILE: u64 = 8 << 10;

// ---- Deliveries.

/// For one address of a receiver's: the second of two lost SYNs is sent again after 3 s.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait that a receiver can ask for: one that says "tomorrow" is asked in between.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(HOUR);

/// Between the end that we make and curl's own time-out, which is for a gateway that has died.
pub const CURL_MARGIN: Duration = Duration::from_secs(1);

/// Bytes of a body in one line of curl's configuration: twice as many in quotes, where lines have
/// ended at 100 KiB.
pub const CURL_PIECE: usize = 48 << 10;

// ---- Upstreams.

/// How often a request is sent again that got nothing back: a server that is being restarted.
pub const UPSTREAM_RETRIES: u32 = 2;

/// Before each of them.
pub const UPSTREAM_PAUSE: Duration = Duration::from_millis(150);

/// Connections that are kept for the next turn: no more than there are turns at once, as a rule.
pub const UPSTREAM_KEPT: usize = 256;

/// How long one is kept: usual servers close theirs after 5 to 75 s. It is looked at now and then.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(20);

/// How long the end of a stream is waited for that has said that it is over: a connection is worth
/// no more.
pub const UPSTREAM_TAIL: Duration = Duration::from_millis(20);

/// For the list of its models: somebody waits who asked for something else.
pub const MODELS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the list is remembered.
pub const MODELS_KEPT: Duration = Duration::from_secs(60);

/// The list itself: some hundred bytes a model, and the largest traders have hundreds.
pub const MAX_MODELS_BODY: usize = 1 << 20;

/// The models of it that are told: a server that lists more means no choice.
pub const MAX_MODELS: usize = 2000;

/// What an event of a stream has beside its delta without counting as reply: ids, model and usage.
pub const EVENT_FRAME: usize = 1 << 10;

/// What is quoted of an error that is not in JSON: a page of HTML says nothing further down.
pub const MAX_QUOTED_ERROR: usize = 500;

// ---- Files.

/// How many stops are kept: months of a gateway's life, and a screen or two to read.
pub const KEPT_STOPS: usize = 200;

/// The file is pruned to `KEPT_STOPS` lines of about 400 bytes at each start; beyond this it is not ours.
pub const MAX_HISTORY: u64 = 16 << 20;

/// How long a start waits for a lock whose holder is dead: for as long as an exec may take.
pub const LOCK_ORPHANED: Duration = Duration::from_secs(2);

/// What the holder writes is about 50 bytes and a path, of 4,096 bytes at most.
pub const MAX_LOCK_FILE: u64 = 8 << 10;

/// A marker is about 100 bytes; what is larger was not written by us.
pub const MAX_MARKER: u64 = 4096;

/// A key file has one line.
pub const MAX_KEY_FILE: u64 = 4096;

/// A unit file of ours has 4 kB; one that is larger is somebody else's.
pub const MAX_UNIT_FILE: u64 = 1 << 20;

/// The record of a run is about 250 bytes, and names the file of its log by a path of 4,096 at most, each of
/// which JSON may write as six.
pub const MAX_RUN_RECORD: u64 = 32 << 10;

// ---- The journal.

/// Longest record: far above the default body and reply; the memory that one damaged length can take.
pub const MAX_RECORD: usize = 64 * MIB;

/// The part of `max_journal` that new work leaves to what completes the work there is, as a divisor;
/// at least [`JOURNAL_AHEAD`], but never more than half of a small journal.
pub const JOURNAL_RESERVE: u64 = 8;

/// Room on the disk that is set aside beyond the journal's end before new work is taken: thousands
/// of completions with short replies.
pub const JOURNAL_AHEAD: u64 = 1 << 20;

/// Bytes of journal between two places that are remembered: what a read has to walk at most, beside
/// the record itself; 16 bytes of memory each.
pub const JOURNAL_STEP: u64 = 16 << 10;

/// Where records take more, a reply is not loaded but sent from the file: as much as a connection that
/// sends one holds for it.
pub const LONG_RECORD: u64 = 64 << 10;

/// How often it is looked whether a journal that lacks room has some again, and whether its path still
/// leads to it.
pub const JOURNAL_PROBE: Duration = Duration::from_secs(2);

/// How often it is looked whether the control socket's path still leads to it: a command waits for
/// [`CONTROL_PATIENCE`].
pub const CONTROL_PROBE: Duration = Duration::from_millis(1500);

/// A call to the disk that takes longer degrades the gateway: readers of `/ready` wait for some seconds
/// at most, and a disk that works answers within a few hundred milliseconds.
pub const DISK_SLOW: Duration = Duration::from_millis(1500);

/// From then on requests are refused that would wait for the disk: until then it may be a slow one, such
/// as a memory card under load.
pub const DISK_HANGS: Duration = Duration::from_secs(5);

/// How long `/v1/status` waits for what a hung disk may keep from being told: its readers wait for
/// [`CONTROL_PATIENCE`].
pub const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// How many messages or records are looked at before the hub's lock is given back: some hundred
/// microseconds.
pub const LOCK_BATCH: usize = 1000;

/// For how long the lock is left to those who wait for it, between two such batches.
pub const LOCK_TURN: Duration = Duration::from_micros(100);

/// A session's next record that is no further behind the last one is read in the same walk: others of
/// so many are passed over sooner than a walk from a remembered place takes.
pub const NEAR_RECORDS: u64 = 16;

/// Between two tries to take a lock with a deadline; one is held for some microseconds.
pub const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// How long the main thread tries, for a figure in the status line or the history.
pub const HINT_PATIENCE: Duration = Duration::from_millis(20);

/// How long a gateway whose journal was removed says so before it ends: a monitor that looks every ten
/// seconds sees it.
pub const LOSS_SHOWN: Duration = Duration::from_secs(20);

/// What one read of the journal takes: some steps of the index.
pub const JOURNAL_BUFFER: usize = 32 * KIB;

/// Damaged places over which a compaction goes on: more are a disk that fails.
pub const MAX_DAMAGED: usize = 16;

/// Pieces of damaged journals that are kept under one name: who has more should look at the disk.
pub const MAX_KEPT_PIECES: u32 = 100;

// ---- Commands.

/// For a reload that somebody waits for, from the request to its outcome: a slow disk's time, and less
/// than the 60 s that the unit's `TimeoutStartSec=` gives `ExecReload=`.
pub const RELOAD_PATIENCE: Duration = Duration::from_secs(40);

/// A gateway that lives answers in a few milliseconds; this is how long a loaded machine may need.
pub const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at a gateway that holds its lock and does not listen yet, or not any more:
/// it binds its socket some milliseconds after it has taken the lock.
pub const CONTROL_PAUSE: Duration = Duration::from_millis(20);

/// A request head or message that a gateway does not take for so long never gets through.
pub const CONTROL_WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// An error's body is a sentence or the tail of an agent's stderr.
pub const MAX_ERROR_BODY: usize = 256 << 10;

/// The longest wait for a turn to begin, and as much for the turn itself. The configuration that we
/// could read may not be the one that the gateway runs with; one that dies ends the wait at once.
pub const LONGEST_REPLY: Duration = TURN_TIMEOUT_RANGE.end().saturating_mul(2);

/// For a question to the manager: far above its 10 ms, and what a daemon-reload adds to them.
pub const ASK_PATIENCE: Duration = Duration::from_secs(10);

/// For what makes the manager read or write unit files: some hundred of them on a slow disk.
pub const ACT_PATIENCE: Duration = Duration::from_secs(60);

/// Beyond the manager's own time-outs: it acts, kills and reports when they are over.
pub const MANAGER_MARGIN: Duration = Duration::from_secs(10);

/// In place of a time-out that an operator has set to infinity: as long as anybody watches.
pub const LONGEST_VERB: Duration = Duration::from_secs(3600);

/// How long the journal is waited for: it is some milliseconds behind, on a busy machine more.
pub const JOURNAL_LAG: Duration = Duration::from_secs(1);

/// Messages that `journal` lists: more than anybody reads.
pub const MAX_JOURNAL_ROWS: usize = 1000;

/// Lines of the log that explain a failure: more hide the one that counts.
pub const LOG_LINES: usize = 8;

/// What is taken of the journal to find those lines in.
pub const MAX_LOG: usize = 64 << 10;

/// A hundred gateways of one user are more than any machine runs; a search that goes further would
/// hide that something else is wrong.
pub const STARTER_PORTS: RangeInclusive<u16> = DEFAULT_PORT..=DEFAULT_PORT + 99;
