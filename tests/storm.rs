//! SIGKILLs at random moments, under fifty busy sessions: nothing acknowledged is lost, nothing
//! finished runs again, every session keeps its order, and the gateway is back at once.
//!
//! Judged by books that are kept outside of it: see [`util::ledger`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use util::caller::PATIENCE;
use util::crowd::{Books, Client, Curtain, Stage};
use util::http::{Connection, request};
use util::ledger::{Accepted, Delivery, Last, Ledger, read_lines};
use util::random::Random;
use util::sys::kill;
use util::{DEADLINE, Home, Process, Target, eventually, pause, report, rounds};

const SESSIONS: usize = 50;

/// From exec to READY. A busy machine gets some slack for its slowest start, and no more.
const READY: Duration = Duration::from_secs(1);
const READY_AT_WORST: Duration = Duration::from_secs(3);

/// One life of so many lasts until all turns have run: a message that each of its 20 attempts was cut short of
/// is given up, and on a busy machine most are.
const LONG: usize = 8;

/// The gateway's one home, and how long its starts took.
struct Killer<'a> {
    home: Home,
    stage: &'a Stage,
    chance: Random,
    forgetful: bool,
    /// The file with the number of an agent that stays: it is killed, too.
    agent: Option<PathBuf>,
    killed_agents: usize,
    ready: Vec<Duration>,
    early: usize,
    compacted: usize,
    slowest_death: Duration,
}

impl Killer<'_> {
    /// Less than so many microseconds.
    fn moment(&mut self, bound: usize) -> Duration {
        Duration::from_micros(self.chance.below(bound) as u64)
    }

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

    /// One life of the gateway, cut short at a random moment: one in six before it is ready, and
    /// one in six while it compacts its journal.
    #[track_caller]
    fn round(&mut self) {
        let process = if self.chance.below(6) == 0 {
            let process = self.home.launch().spawn();
            self.early += 1;
            pause(self.moment(30_000));
            process
        } else {
            let process = self.start();
            if self.chance.below(LONG) == 0 {
                self.wait_for_turns();
            }
            pause(self.moment(120_000));
            self.kill_agent();
            if self.chance.below(5) == 0 {
                // In the middle of a compaction, or just behind it.
                let mut control = Connection::unix(&self.home.control_socket());
                control.send(&request("POST", "/v1/journal/compact", &[], b""));
                self.compacted += 1;
                pause(self.moment(30_000));
            }
            process
        };
        self.stage.change(|state| state.address = None);
        process.signal(libc::SIGKILL);
        let killed = Instant::now();
        assert_eq!(process.wait_for_exit(DEADLINE), 137, "{}", process.stderr());
        // Not the gateway's time, but the disk's: who waits for it in the kernel dies behind it.
        self.slowest_death = self.slowest_death.max(killed.elapsed());
        if self.forgetful {
            forget(&self.home, 3);
        }
    }

    /// Waits until all that was accepted has run.
    fn wait_for_turns(&self) {
        let mut control = Connection::unix(&self.home.control_socket());
        eventually("the end of all turns", || {
            let turns = control.get("/v1/status", &[]).assert_status(200).json()["turns"].clone();
            (turns["running"] == 0 && turns["waiting"] == 0).then_some(())
        });
    }

    /// Kills the agent that stays, half of the times, and lets another one begin its work.
    fn kill_agent(&mut self) {
        let Some(file) = self.agent.clone().filter(|_| self.chance.below(2) == 0) else { return };
        let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        let Some(pid) = pid else { return };
        if kill(pid, libc::SIGKILL).is_ok() {
            self.killed_agents += 1;
            pause(self.moment(60_000));
        }
    }

    /// The slowest start, and the one that 99 of 100 were faster than.
    fn slowest(&self) -> (Duration, Duration) {
        let mut times = self.ready.clone();
        times.sort_unstable();
        (times[times.len() - 1], times[(times.len() - 1) * 99 / 100])
    }
}

/// Takes the last whole records out of a dead gateway's journal, as if they had never been written.
/// One that a compaction has kept would be missed at the start.
#[track_caller]
fn forget(home: &Home, records: usize) {
    let file = home.state_dir().join("journal");
    let bytes = fs::read(&file).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let header = text.lines().next().and_then(|line| line.splitn(3, ' ').nth(2));
    let header: Value = header.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let kept = header["kept"].as_u64().and_then(|kept| usize::try_from(kept).ok());
    let whole: Vec<&[u8]> =
        bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).collect();
    if let Some(kept) = kept {
        let kept = (kept + 1).max(whole.len().saturating_sub(records)).min(whole.len());
        let left: usize = whole[..kept].iter().map(|line| line.len()).sum();
        let file = fs::File::options().write(true).open(&file).unwrap();
        file.set_len(left as u64).unwrap();
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
        "read -r text; {}; case $text in *slow) sleep 0.02;; esac; {}; printf 're %s' \"$text\"",
        line("begin"),
        line("end")
    );
    format!("[agent]\ncommand = [\"sh\", \"-c\", {}]\n", json!(script))
}

/// The same by an agent that stays, and notes in a file of its own what process it is. In the books its
/// start stands in its gateway's place: a gateway outlives some of them, and numbers come again.
fn living_agent(file: &Path) -> String {
    let line = |step: &str| {
        let values = "\"$session\" \"$id\" \"$attempt\" \"$self\" \"$text\"";
        format!("printf '{step} %s %s %s %s %s\\n' {values} >> {}", file.display())
    };
    let script = format!(
        r#"self=$(date +%s%N); echo $$ > {pid}.new; mv {pid}.new {pid}
        while read -r line; do
            case $line in *'"cancel":true'*) continue;; esac
            id=${{line#*'"id":"'}} id=${{id%%'"'*}}
            session=${{line#*'"session":"'}} session=${{session%%'"'*}}
            attempt=${{line#*'"attempt":'}} attempt=${{attempt%%,*}}
            text=${{line#*'"text":"'}} text=${{text%%'"'*}}
            {begin}
            case $text in *slow) sleep 0.02;; esac
            {end}
            printf '{{"id":"%s","chunk":"re %s"}}\n{{"id":"%s","done":true}}\n' "$id" "$text" "$id"
        done"#,
        pid = agent_pid(file).display(),
        begin = line("begin"),
        end = line("end"),
    );
    format!("[agent]\nprotocol = \"lines\"\ncommand = [\"sh\", \"-c\", {}]\n", json!(script))
}

/// Where an agent that stays has its number.
fn agent_pid(file: &Path) -> PathBuf {
    file.with_extension("pid")
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

/// All that a storm leaves behind.
struct Aftermath {
    ledger: Ledger,
    surprises: Vec<String>,
    seed: u64,
    slowest: Duration,
    p99: Duration,
    attempts: u64,
}

/// Kills the gateway so many times under its clients, and lets the last one finish its work.
/// `forgetful`: the last records that a dead gateway has written are taken away.
#[track_caller]
#[allow(clippy::too_many_lines, reason = "a list of cases")]
fn storm(kills: usize, forgetful: bool, living: bool) -> Aftermath {
    let seed = env::var("HERMES_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed: u64 = seed.unwrap_or(u64::from(now.subsec_nanos()) << 20 | 1);
    report(&format!("HERMES_SEED={seed}"));

    let home = Home::new();
    let agents: PathBuf = home.path().join("agents");
    let target = Target::start();
    home.configure(&format!(
        "{}{}[limits]\nmax_attempts = 20\nmax_turns = 4\n",
        if living { living_agent(&agents) } else { agent(&agents) },
        target.config("out", "")
    ));
    let (stage, books) = (Stage::default(), Books::default());
    let mut killer = Killer {
        home,
        stage: &stage,
        chance: Random::new(seed),
        forgetful,
        agent: living.then(|| agent_pid(&agents)),
        killed_agents: 0,
        ready: Vec::new(),
        early: 0,
        compacted: 0,
        slowest_death: Duration::ZERO,
    };
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

    let last = thread::scope(|scope| {
        let _curtain = Curtain(&stage);
        let clients: Vec<_> =
            (0..SESSIONS).map(|number| scope.spawn(move || client(number).run())).collect();
        for kill in 0..kills {
            stage.change(|state| state.allowed = 2 + kill / 5);
            killer.round();
        }
        let _process = killer.start();
        stage.change(|state| state.over = true);
        for client in clients {
            client.join().expect("a client");
        }
        let accepted = books.ledger().accepted.clone();
        let last = collect(&mut client(SESSIONS), &accepted);
        killer.home.run(&["journal", "check"]).assert_code(0);
        last
    });
    let mut ledger = books.ledger().clone();
    ledger.kills = kills;
    ledger.last = last;
    ledger.lines = read_lines(&fs::read_to_string(&agents).unwrap()).unwrap();
    ledger.deliveries = target.received().iter().map(delivery).collect();

    let (slowest, p99) = killer.slowest();
    let attempts = ledger.last.values().map(|last| last.attempts).max().unwrap_or(0);
    report(&format!(
        "kills {kills} ({} before ready, {} of agents besides, {} at a compaction), acknowledged {}, dispatched {}, most \
         attempts {attempts}, deliveries {}, duplicates {}, ready within {slowest:?} (p99 {p99:?}), \
         dead within {:?}, journal {} bytes",
        killer.early,
        killer.killed_agents,
        killer.compacted,
        ledger.accepted.len(),
        ledger.dispatched(),
        ledger.deliveries.len(),
        ledger.duplicates(),
        killer.slowest_death,
        fs::metadata(killer.home.state_dir().join("journal")).map_or(0, |file| file.len()),
    ));
    // A connection ends with its process, unless the kernel holds that up for as long.
    let mut surprises = books.surprises();
    if killer.slowest_death < PATIENCE {
        surprises.extend(books.hanging());
    }
    Aftermath { ledger, surprises, seed, slowest, p99, attempts }
}

#[test]
fn nothing_is_lost_or_done_twice_however_often_it_is_killed() {
    let Aftermath { ledger, surprises, seed, slowest, p99, attempts } =
        storm(rounds(40, 1000), false, false);
    let wrong = ledger.audit();
    assert!(wrong.is_empty(), "seed {seed}, {} complaints:\n{}", wrong.len(), first_of(&wrong));
    assert!(surprises.is_empty(), "seed {seed}: {}", first_of(&surprises));
    assert!(p99 <= READY && slowest <= READY_AT_WORST, "ready within {slowest:?}, p99 {p99:?}");
    assert!(ledger.accepted.len() >= SESSIONS * 2 && attempts > 1, "too little happened");
}

/// Of the gateway or of an agent that stays.
#[test]
fn nothing_is_lost_with_an_agent_that_stays_whichever_of_the_two_is_killed() {
    let Aftermath { ledger, surprises, seed, attempts, .. } = storm(rounds(40, 1000), false, true);
    let wrong = ledger.audit();
    assert!(wrong.is_empty(), "seed {seed}, {} complaints:\n{}", wrong.len(), first_of(&wrong));
    assert!(surprises.is_empty(), "seed {seed}: {}", first_of(&surprises));
    assert!(ledger.accepted.len() >= SESSIONS * 2 && attempts > 1, "too little happened");
}

/// The same storm over a disk that does not keep its word: who could not tell the difference would
/// prove nothing.
#[test]
fn a_journal_that_forgets_is_found_out() {
    let Aftermath { ledger, seed, .. } = storm(60, true, false);
    let wrong = ledger.audit();
    let has = |what: &str| wrong.iter().any(|complaint| complaint.contains(what));
    let found = ["lost", "begun twice", "begun again after its completion"].iter().any(|w| has(w));
    assert!(found, "seed {seed}: nothing was missed in {} messages", ledger.accepted.len());
    report(&format!("{} complaints, as there have to be", wrong.len()));
}

fn first_of(complaints: &[String]) -> String {
    complaints.iter().take(20).map(|complaint| format!("  {complaint}\n")).collect()
}

fn delivery(received: &util::Received) -> Delivery {
    let body = received.json();
    let reply = body["data"]["reply"].as_str().unwrap_or_else(|| panic!("no reply: {body}"));
    Delivery {
        webhook_id: received.field("webhook-id").to_owned(),
        text: reply.strip_prefix("re ").unwrap_or_else(|| panic!("no reply: {body}")).to_owned(),
        body: String::from_utf8_lossy(&received.body).into_owned(),
    }
}
