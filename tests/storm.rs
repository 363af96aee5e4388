//! SIGKILLs at random moments, under fifty busy sessions: nothing acknowledged is lost, nothing
//! finished runs again, every session keeps its order, and the gateway is back at once.
//!
//! Judged by books that are kept outside of it: see [`util::ledger`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use util::api::{is_finished, session_path};
use util::http::{Connection, Response};
use util::ledger::{Accepted, Delivery, Finish, Last, Ledger, read_lines};
use util::{Caller, DEADLINE, Home, Process, Target, eventually, pause, report, rounds};

const SESSIONS: usize = 50;

/// How many messages of a session may be on their way at once.
const WINDOW: usize = 6;

/// From exec to READY. A busy machine gets some slack for its slowest start, and no more.
const READY: Duration = Duration::from_secs(1);
const READY_AT_WORST: Duration = Duration::from_secs(3);

// --------------------------------------------------------------- the scene ----

/// Numbers by chance, the same ones for the same seed (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Where the gateway is at the moment, and how many messages each session may have sent by now.
#[derive(Default)]
struct Stage {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts the starts.
    start: usize,
    /// `None` before it is ready, and from just before it is killed.
    address: Option<SocketAddr>,
    allowed: usize,
    /// No more kills, and no more messages.
    over: bool,
    /// The killer has failed: nobody need wait for anything any more.
    closed: bool,
}

/// Tells the clients when their killer fails.
struct Curtain<'a>(&'a Stage);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.change(|state| state.closed = true);
        }
    }
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            if state.closed {
                // Without another word: what went wrong is said already.
                resume_unwind(Box::new("closed"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(left > Duration::ZERO, "this did not come: {what}");
            state = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What all clients note down.
#[derive(Default)]
struct Books {
    ledger: Mutex<Ledger>,
    /// What they had no reason to expect.
    surprises: Mutex<Vec<String>>,
}

impl Books {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn surprise(&self, what: String) {
        self.surprises.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

// -------------------------------------------------------------- the clients ----

/// One session's client: it sends in order, under keys of its own, and asks again when the
/// connection breaks.
struct Client<'a> {
    session: String,
    stage: &'a Stage,
    books: &'a Books,
    agents: &'a Path,
    authorization: &'a str,
    connection: Option<(usize, Caller)>,
}

impl Client<'_> {
    /// One request and its answer, however often the gateway dies over it.
    #[track_caller]
    fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
        loop {
            let stage = self.stage;
            let (start, address) =
                stage.wait("a gateway", |state| Some((state.start, state.address?)));
            if self.connection.as_ref().is_none_or(|(of, _)| *of != start) {
                self.connection =
                    Caller::tcp(address, self.authorization).ok().map(|caller| (start, caller));
            }
            let answer = match &mut self.connection {
                Some((_, caller)) => caller.ask(method, target, fields, body),
                None => Err(std::io::ErrorKind::NotConnected.into()),
            };
            match answer {
                Ok(answer) => return answer,
                Err(error) => {
                    self.connection = None;
                    let lives = self.stage.lock();
                    if lives.start == start && lives.address.is_some() {
                        let what = format!("{method} {target}: {error}, while the gateway lived");
                        self.books.surprise(what);
                    }
                }
            }
        }
    }

    /// Sends a message until it is acknowledged; false where there is no room for it yet.
    fn send(&mut self, text: &str, deliver: bool, key: &str) -> Option<String> {
        let body =
            if deliver { json!({"text": text, "deliver": "out"}) } else { json!({"text": text}) };
        let target = format!("{}/messages", session_path(&self.session));
        loop {
            let answer = self.ask("POST", &target, &[("Idempotency-Key", key)], &body.to_string());
            match answer.status() {
                200 | 202 => {
                    let json = answer.json();
                    let id = json["id"].as_str().expect("an id").to_owned();
                    self.books.ledger().keys.entry(key.to_owned()).or_default().insert(id.clone());
                    return Some(id);
                }
                429 => return None,
                status => {
                    self.books.surprise(format!("POST {target}: {status} {}", answer.text()));
                    pause(Duration::from_millis(20));
                }
            }
        }
    }

    /// Waits a moment for the end of a message; notes it down when it is there.
    fn look_after(&mut self, id: &str) -> bool {
        let answer = self.ask("GET", &format!("/v1/messages/{id}?wait=1"), &[], "");
        if answer.status() != 200 {
            let what = format!("GET {id}: {} {}", answer.status(), answer.text());
            self.books.surprise(what);
            // It stays lost: the audit says so.
            return true;
        }
        let agents_at = fs::metadata(self.agents).map_or(0, |file| file.len());
        let message = answer.json();
        if message["status"] == "done" {
            let attempts = message["attempts"].as_u64().unwrap_or(0);
            let finish = Finish { id: id.to_owned(), attempts, agents_at };
            self.books.ledger().finishes.push(finish);
        }
        is_finished(&message)
    }

    fn run(mut self) {
        let mut waiting: VecDeque<String> = VecDeque::new();
        let mut sent = 0;
        loop {
            let (allowed, over) = {
                let state = self.stage.lock();
                (state.allowed, state.over)
            };
            let mut full = waiting.len() >= WINDOW;
            if sent < allowed && !full {
                // One in eight takes longer than the gateway lives, as a rule.
                let kind = if sent % 8 == 3 { "slow" } else { "fast" };
                let text = format!("{}-{sent}-{kind}", self.session);
                let (deliver, key) = (sent % 2 == 0, format!("key-{text}"));
                match self.send(&text, deliver, &key) {
                    None => full = true,
                    Some(id) => {
                        let session = self.session.clone();
                        let accepted =
                            Accepted { session, id: id.clone(), text: text.clone(), deliver };
                        self.books.ledger().accepted.push(accepted);
                        waiting.push_back(id);
                        sent += 1;
                        if sent % 16 == 5 {
                            // Who has its answer may still ask twice.
                            self.send(&text, deliver, &key);
                        }
                    }
                }
            }
            let must_wait = full || sent >= allowed;
            match waiting.front().cloned() {
                Some(id) if must_wait => {
                    let finished = self.look_after(&id);
                    waiting.drain(..usize::from(finished));
                }
                None if over && sent >= allowed => return,
                None if must_wait => {
                    let more = |state: &State| (state.allowed > sent || state.over).then_some(());
                    self.stage.wait("leave to send more", more);
                }
                _ => {}
            }
        }
    }
}

// --------------------------------------------------------------- the killer ----

/// The gateway's one home, and how long its starts took.
struct Killer<'a> {
    home: Home,
    stage: &'a Stage,
    chance: Chance,
    ready: Vec<Duration>,
    early: usize,
}

impl Killer<'_> {
    /// Starts it and tells the clients where it is.
    #[track_caller]
    fn start(&mut self) -> Process {
        let began = Instant::now();
        let process = self.home.launch().spawn();
        process.wait_for_notification("READY=1", DEADLINE);
        self.ready.push(began.elapsed());
        let mut control = Connection::unix(&self.home.control_socket());
        let status = control.get("/v1/status", &[]).assert_status(200).json();
        let address = status["listen"].as_str().and_then(|listen| listen.parse().ok());
        let address = address.unwrap_or_else(|| panic!("where does it listen? {status}"));
        self.stage.change(|state| {
            state.start += 1;
            state.address = Some(address);
        });
        process
    }

    /// One life of the gateway, cut short at a random moment: one in six before it is ready.
    #[track_caller]
    fn round(&mut self) {
        let process = if self.chance.below(6) == 0 {
            let process = self.home.launch().spawn();
            self.early += 1;
            pause(Duration::from_micros(self.chance.below(30_000)));
            process
        } else {
            let process = self.start();
            pause(Duration::from_micros(self.chance.below(120_000)));
            process
        };
        self.stage.change(|state| state.address = None);
        process.signal(libc::SIGKILL);
        assert_eq!(process.wait_for_exit(DEADLINE), 137, "{}", process.stderr());
    }

    /// The slowest start, and the one that 99 of 100 were faster than.
    fn slowest(&self) -> (Duration, Duration) {
        let mut times = self.ready.clone();
        times.sort_unstable();
        (times[times.len() - 1], times[(times.len() - 1) * 99 / 100])
    }
}

/// An agent that notes its begin and its end, with what a shell has built in: cheap.
fn agent(file: &Path) -> String {
    let line = |step: &str| {
        let values =
            "\"$HERMES_SESSION\" \"$HERMES_MESSAGE_ID\" \"$HERMES_ATTEMPT\" \"$PPID\" \"$text\"";
        format!("printf '{step} %s %s %s %s %s\\n' {values} >> {}", file.display())
    };
    let script = format!(
        "read -r text; {}; case $text in *slow) sleep 0.05;; esac; {}; printf 're %s' \"$text\"",
        line("begin"),
        line("end")
    );
    format!("[agent]\ncommand = [\"sh\", \"-c\", {}]\n", json!(script))
}

/// What the gateway says of every message in the end, delivered as it has to be.
#[track_caller]
fn collect(client: &mut Client, accepted: &[Accepted]) -> BTreeMap<String, Last> {
    let mut known = BTreeMap::new();
    for Accepted { id, deliver, .. } in accepted {
        let last = eventually("a delivery", || {
            let answer = client.ask("GET", &format!("/v1/messages/{id}"), &[], "");
            let message = if answer.status() == 200 { answer.json() } else { Value::Null };
            let delivery = message["deliveries"][0]["status"].as_str().map(str::to_owned);
            let moves =
                delivery.as_deref().is_none_or(|word| word == "pending" || word == "sending");
            (!*deliver || !moves || message.is_null()).then_some((message, delivery))
        });
        let (message, delivery) = last;
        if let Some(status) = message["status"].as_str() {
            let last = Last {
                status: status.to_owned(),
                reply: message["reply"].as_str().unwrap_or("").to_owned(),
                attempts: message["attempts"].as_u64().unwrap_or(0),
                delivery,
            };
            known.insert(id.clone(), last);
        }
    }
    known
}

#[test]
fn nothing_is_lost_or_done_twice_however_often_it_is_killed() {
    let kills = rounds(60, 1000);
    let seed = env::var("HERMES_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed: u64 = seed.unwrap_or(u64::from(now.subsec_nanos()) << 20 | 1);
    report(&format!("HERMES_SEED={seed}"));

    let home = Home::new();
    let agents: PathBuf = home.path().join("agents");
    let target = Target::start();
    home.configure(&format!(
        "{}{}[limits]\nmax_attempts = 100\nmax_turns = 8\n",
        agent(&agents),
        target.config("out", "")
    ));
    let (stage, books) = (Stage::default(), Books::default());
    let mut killer =
        Killer { home, stage: &stage, chance: Chance(seed | 1), ready: Vec::new(), early: 0 };
    drop(killer.start());
    let authorization = format!("Bearer {}", killer.home.api_key());
    let client = |number: usize| Client {
        session: format!("s{number:02}"),
        stage: &stage,
        books: &books,
        agents: &agents,
        authorization: &authorization,
        connection: None,
    };
    stage.change(|state| state.address = None);

    let (last_run, last) = thread::scope(|scope| {
        let _curtain = Curtain(&stage);
        let clients: Vec<_> =
            (0..SESSIONS).map(|number| scope.spawn(move || client(number).run())).collect();
        for kill in 0..kills {
            stage.change(|state| state.allowed = 2 + kill / 5);
            killer.round();
        }
        let process = killer.start();
        stage.change(|state| state.over = true);
        for client in clients {
            client.join().expect("a client");
        }
        let accepted = books.ledger().accepted.clone();
        (process, collect(&mut client(SESSIONS), &accepted))
    });
    let mut ledger = books.ledger().clone();
    ledger.kills = kills;
    ledger.last = last;
    ledger.lines = read_lines(&fs::read_to_string(&agents).unwrap()).unwrap();
    ledger.deliveries = target.received().iter().map(delivery).collect();

    let (slowest, p99) = killer.slowest();
    let attempts = ledger.last.values().map(|last| last.attempts).max().unwrap_or(0);
    report(&format!(
        "kills {kills} ({} before ready), acknowledged {}, dispatched {}, most attempts {attempts}, \
         deliveries {}, duplicates {}, ready within {slowest:?} (p99 {p99:?}), journal {} bytes",
        killer.early,
        ledger.accepted.len(),
        ledger.dispatched(),
        ledger.deliveries.len(),
        ledger.duplicates(),
        fs::metadata(killer.home.state_dir().join("journal")).map_or(0, |file| file.len()),
    ));
    let wrong = ledger.audit();
    assert!(wrong.is_empty(), "seed {seed}, {} complaints:\n{}", wrong.len(), first_of(&wrong));
    let surprises = books.surprises.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(surprises.is_empty(), "seed {seed}: {}", first_of(&surprises));
    assert!(p99 <= READY && slowest <= READY_AT_WORST, "ready within {slowest:?}, p99 {p99:?}");
    assert!(ledger.accepted.len() >= SESSIONS * 2 && attempts > 1, "a storm in a glass of water");
    drop(last_run);
}

fn first_of(complaints: &[String]) -> String {
    complaints.iter().take(20).map(|complaint| format!("  {complaint}\n")).collect()
}

fn delivery(received: &util::Received) -> Delivery {
    let body = received.json();
    let reply = body["reply"].as_str().unwrap_or_else(|| panic!("no reply: {body}"));
    Delivery {
        webhook_id: received.field("webhook-id").to_owned(),
        text: reply.strip_prefix("re ").unwrap_or_else(|| panic!("no reply: {body}")).to_owned(),
        body: body.to_string(),
    }
}
