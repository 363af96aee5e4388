//! Restarts without a service manager: the process executes its program anew and stays what it was to
//! everybody else, also as process 1 of a container; and a new process takes over from a running one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use util::http::{Connection, chat};
use util::random::Random;
use util::restart_clients::Server;
use util::restart_clients::record::{Limits, Summary};
use util::{
    Clients, Contained, DEADLINE, Gate, Gateway, Home, binary, full, pause, report, rounds, script,
    sys,
};

/// A client that counts asks so often.
const EVERY: Duration = Duration::from_millis(1);

/// Room for what comes while no turn begins.
const QUEUES: &str = "[limits]\nmax_queue_per_session = 1000\nkeep_results = 100000\n";

/// What a restart in place may cost: exactly that in the full form and of a release, with a pause between the
/// requests of each client; a debug build beside other tests on a busy machine is no measure, nor is one beside a
/// client that takes all that the processors have.
fn limits(pause: Duration) -> Limits {
    let longest = Duration::from_millis(match exact() {
        true if pause > Duration::ZERO => 100,
        true => 1000,
        false => 5000,
    });
    Limits { longest: Some(longest), longest_turn: Some(longest), repeated_turns: false }
}

fn exact() -> bool {
    full() && !cfg!(debug_assertions)
}

/// In the full form each test has the machine for itself: a neighbour's load is no part of a restart.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    full().then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A gateway in a home of its own, in the pid namespace of the test or in one where it is process 1.
enum Place {
    Plain(Gateway),
    First(Contained),
}

impl Place {
    fn all(home: impl Fn() -> Home) -> Vec<Place> {
        let mut places = vec![Place::Plain(home().start())];
        places.extend(Contained::start(&home()).map(Place::First));
        places
    }

    fn gateway(&self) -> &Gateway {
        match self {
            Place::Plain(gateway) => gateway,
            Place::First(contained) => &contained.gateway,
        }
    }

    /// As it is called out here.
    fn pid(&self) -> i32 {
        match self {
            Place::Plain(gateway) => gateway.pid(),
            Place::First(contained) => contained.pid,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Place::Plain(_) => "in a pid namespace with others",
            Place::First(_) => "as process 1",
        }
    }

    /// `restart --graceful`, from where it sees the gateway's pid as the gateway does.
    #[track_caller]
    fn restart_by_command(&self) {
        let outcome = match self {
            Place::Plain(gateway) => gateway.home().run(&["restart", "--graceful"]),
            Place::First(contained) => {
                let program = binary();
                contained.inside(&[program.to_str().unwrap(), "restart", "--graceful"])
            }
        };
        outcome.assert_code(0);
    }

    #[track_caller]
    fn restart_by_signal(&self) {
        let before = self.gateway().notifications("READY=1");
        sys::kill(self.pid(), libc::SIGUSR1).unwrap();
        self.gateway().wait_for_notifications("READY=1", before + 1, DEADLINE);
    }

    /// What its open descriptors are: of each kind how many, and which sockets listen.
    #[track_caller]
    fn descriptors(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for fd in fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            let listens = target.strip_prefix("socket:[").is_some_and(|inode| {
                let inode = inode.trim_end_matches(']');
                let tcp = fs::read_to_string("/proc/net/tcp").unwrap();
                // State 0A is LISTEN.
                tcp.lines()
                    .map(|line| line.split_whitespace().collect::<Vec<_>>())
                    .any(|fields| fields.get(3) == Some(&"0A") && fields.get(9) == Some(&inode))
            });
            let kind = if listens { &target } else { target.split('[').next().unwrap() };
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        kinds
    }
}

/// The numbers of the records of a journal have no gap but those that a compaction may leave.
#[track_caller]
fn assert_numbered(home: &Home) -> usize {
    let text = home.journal_text();
    let mut lines = text.lines().map(|line| line.split_once(' ').unwrap().1);
    let header = lines.next().unwrap().split_once(' ').unwrap().1;
    let header: Value = serde_json::from_str(header).unwrap();
    let [base, kept] = ["base", "kept"].map(|name| header[name].as_u64().unwrap());
    let numbers = lines.skip(usize::try_from(kept).unwrap());
    let mut count = 0;
    for (expected, line) in (base..).zip(numbers) {
        let number: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(number, expected, "a gap in the journal, at {line:?}");
        count += 1;
    }
    count
}

/// Its history: of each run the last word, and the ends of starts that began none.
#[track_caller]
fn history(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap_or_default();
    let mut runs: Vec<Value> = Vec::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of the history");
        // The word that comes later is behind those of other runs, too.
        runs.retain(|before| before["run"].is_null() || before["run"] != entry["run"]);
        runs.push(entry);
    }
    runs
}

/// The restarts in its history.
#[track_caller]
fn restarts(home: &Home) -> usize {
    history(home).iter().filter(|run| run["verdict"] == "restart").count()
}

#[track_caller]
fn assert_unnoticed(summary: &Summary, limits: Limits, what: &str) {
    report(&format!("{what}: {summary}"));
    let problems = summary.problems(limits);
    assert!(problems.is_empty(), "{what}: {problems:#?}\n{summary}");
}

fn queues() -> Home {
    let home = Home::new();
    home.configure(QUEUES);
    home
}

/// So many restarts under load by these means: nobody is refused, and the process is what it was.
#[track_caller]
fn restarts_under_load(place: &Place, count: usize, every: Duration, restart: impl Fn(&Place)) {
    let gateway = place.gateway();
    let (own, listening) = (gateway.status()["pid"].clone(), gateway.status()["listen"].clone());
    let before = place.descriptors();
    let clients = Clients::start(Server { pause: every, ..gateway.for_clients() });
    clients.served(&clients.steady(), 10).unwrap();
    for _ in 0..count {
        clients
            .through(|| {
                restart(place);
                None
            })
            .unwrap();
        let status = gateway.status();
        assert_eq!((&status["pid"], &status["listen"]), (&own, &listening), "{status}");
    }
    let summary = clients.finish();
    assert_unnoticed(&summary, limits(every), place.name());
    // What it has opened for its clients it closes in its own time. Less than before is no leak: that was
    // right behind a start.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let after = place.descriptors();
        let has_more = |(kind, count): (&String, &usize)| before.get(kind).unwrap_or(&0) < count;
        if !after.iter().any(has_more) {
            break;
        }
        assert!(Instant::now() < deadline, "descriptors before: {before:#?}, after: {after:#?}");
        pause(Duration::from_millis(20));
    }
    assert_eq!(gateway.notifications("READY=1"), count + 1);
    let tasks = fs::read_dir(format!("/proc/{}/task", place.pid())).unwrap().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        assert_eq!(children, "", "a child is left");
    }
    assert!(assert_numbered(gateway.home()) > 0);
}

#[test]
fn nobody_notices_a_restart_by_signal() {
    let _alone = alone();
    if sys::uid() != 0 {
        return util::skip("the descriptors of a gateway are shown to root alone");
    }
    for place in Place::all(queues) {
        restarts_under_load(&place, rounds(5, 100), Duration::ZERO, Place::restart_by_signal);
    }
}

#[test]
fn nobody_notices_a_restart_by_command() {
    let _alone = alone();
    if sys::uid() != 0 {
        return util::skip("the descriptors of a gateway are shown to root alone");
    }
    for place in Place::all(queues) {
        restarts_under_load(&place, rounds(5, 100), EVERY, Place::restart_by_command);
    }
}

/// The next image reads all of it back before it serves.
#[test]
fn nobody_notices_a_restart_however_many_messages_are_kept() {
    let _alone = alone();
    if sys::uid() != 0 {
        return util::skip("the descriptors of a gateway are shown to root alone");
    }
    let (home, kept) = (queues(), rounds(1000, 10_000));
    home.start().signal(libc::SIGTERM);
    home.write_journal(kept);
    let place = Place::Plain(home.start());
    place.gateway().wait_for_log(&format!("the journal has {kept} messages"), DEADLINE);
    restarts_under_load(&place, rounds(2, 50), EVERY, Place::restart_by_signal);
}

#[test]
fn no_sigterm_that_hits_a_restart_is_lost() {
    let _alone = alone();
    let mut random = Random::new(1);
    for contained in [false, true] {
        let home = Home::new();
        let start = || {
            if contained {
                Contained::start(&home).map(Place::First)
            } else {
                Some(Place::Plain(home.start()))
            }
        };
        // How long a restart takes here, so that the moments spread over all of it and a little more.
        let Some(place) = start() else { return };
        let began = Instant::now();
        place.restart_by_signal();
        let span = began.elapsed() + Duration::from_millis(5);
        drop(place);
        let mut at = BTreeMap::new();
        for round in 0..rounds(10, 100) {
            let place = start().unwrap();
            let runs = restarts(&home);
            sys::kill(place.pid(), libc::SIGUSR1).unwrap();
            // Any moment of it; and each other time one between its last word before the exec and READY.
            let most = if round % 2 == 0 { span } else { Duration::from_millis(5) };
            if round % 2 == 1 {
                let has_ended = || (restarts(&home) > runs).then_some(());
                util::eventually("the restart's entry in the history", has_ended);
            }
            let delay = random.below(usize::try_from(most.as_micros()).unwrap());
            // The case is the moment itself.
            pause(Duration::from_micros(delay as u64));
            let restarted = place.gateway().notifications("READY=1") > 1;
            sys::kill(place.pid(), libc::SIGTERM).unwrap();
            let code = place.gateway().wait_for_exit(DEADLINE);
            let said = format!("round {round}, after {delay} µs:\n{}", place.gateway().stderr());
            assert_eq!(code, 143, "{said}");
            let entries = history(&home);
            let stop = entries.last().unwrap();
            let found = (&stop["verdict"], &stop["signal"]);
            assert_eq!(
                found,
                (&"external".into(), &"SIGTERM".into()),
                "{:#?}\n{said}",
                &entries[runs..]
            );
            // The restart itself may have come to its end before, and then has an entry of its own.
            let restarts = restarts(&home) - runs;
            assert!(restarts <= 1, "{restarts} restarts");
            let phase = match (restarts, restarted) {
                (0, _) => "before the exec",
                (_, false) => "between the exec's preparation and READY",
                (_, true) => "after READY",
            };
            *at.entry(phase).or_insert(0) += 1;
        }
        report(&format!("contained={contained}, of {span:?}: {at:?}"));
        // No start after all this finds damage, or a lock.
        home.start();
        assert!(assert_numbered(&home) > 0);
    }
}

#[test]
fn a_hundred_requests_at_once_are_one_restart() {
    let _alone = alone();
    let home = queues();
    let gateway = home.start();
    let api = gateway.api();
    let ids: Vec<String> = thread::scope(|scope| {
        let ask = |number| {
            let api = &api;
            move || util::api::id_of(&api.send(&format!("s{number}"), "/restart").json())
        };
        let asked: Vec<_> = (0..100).map(|number| scope.spawn(ask(number))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    gateway.wait_for_notifications("READY=1", 2, DEADLINE);
    for id in &ids {
        assert_eq!(api.finished(id)["status"], "done");
    }
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    assert_eq!(gateway.notifications("READY=1"), 2, "{}", gateway.stderr());
    assert_eq!(restarts(&home), 1, "{:#?}", history(&home));
    // Nothing of it runs again.
    let gateway = home.start();
    for id in &ids {
        assert_eq!(gateway.api().message(id)["status"], "done");
    }
    assert_eq!(gateway.notifications("READY=1"), 1);
}

/// While a turn is in flight, new work is accepted and reads are answered; what has to wait for the
/// restart waits no longer than the turn and a moment.
#[test]
fn a_turn_in_flight_holds_up_nobody_but_those_who_want_a_turn() {
    let _alone = alone();
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = format!("t=$(cat); case $t in hold*) {};; esac; printf %s \"$t\"", gate.wait());
    home.configure(&format!("{}{QUEUES}", script(&text)));
    let gateway = home.start();
    let mut held = gateway.begin("hold", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGUSR1);
    gateway.wait_for_log("waits for the turns in flight", DEADLINE);

    let (api, mut longest) = (gateway.api(), Duration::ZERO);
    let mut ids = Vec::new();
    let mut kept = gateway.connect();
    let mut parked: Vec<Connection> = Vec::new();
    for number in 0..40 {
        let began = Instant::now();
        assert_eq!(gateway.connect().get("/health", &[]).status(), 200);
        assert_eq!(kept.get("/health", &[]).status(), 200);
        assert_eq!(gateway.status()["turns"]["running"], 1);
        let answer = api.send(&format!("s{}", number % 4), &format!("m{number}"));
        assert_eq!(answer.status(), 202);
        ids.push((util::api::id_of(&answer.json()), format!("m{number}")));
        longest = longest.max(began.elapsed());
        if number % 4 == 0 {
            parked.push(gateway.begin(&format!("p{number}"), false));
        }
    }
    // One more, of which only the head and half of the body have come.
    let body = chat("half", false);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        gateway.authorization(),
        body.len()
    );
    let (first, second) = body.split_at(20);
    let mut half = gateway.connect();
    half.send(format!("{head}{first}").as_bytes());
    assert_eq!(gateway.notifications("READY=1"), 1, "it has restarted over a turn in flight");

    let began = Instant::now();
    gate.open();
    assert_eq!(held.response().reply(), "hold");
    gateway.wait_for_notifications("READY=1", 2, DEADLINE);
    for (number, mut connection) in parked.into_iter().enumerate() {
        assert_eq!(connection.response().reply(), format!("p{}", number * 4));
    }
    let beyond = began.elapsed();
    half.send(second.as_bytes());
    assert_eq!(half.response().reply(), "half");
    assert_eq!(kept.get("/health", &[]).status(), 200);
    for (id, text) in ids {
        let message = api.finished(&id);
        let found = (&message["reply"], &message["attempts"]);
        assert_eq!(found, (&text.into(), &1.into()), "{message}");
    }
    report(&format!(
        "in the pause four requests took {longest:?} at most; the last of ten parked chats was \
         answered {beyond:?} after the turn's end"
    ));
    if exact() {
        assert!(longest < Duration::from_millis(100), "{longest:?}");
    }
}

#[test]
fn a_replacement_takes_over_without_a_refused_connection() {
    let _alone = alone();
    let home = queues();
    let mut running = home.start();
    let address = running.address().to_string();
    let clients = Clients::start(running.for_clients());
    clients.served(&clients.steady(), 10).unwrap();
    for _ in 0..rounds(3, 50) {
        let mut next = None;
        clients
            .through(|| {
                let launch = home.launch().arg("--replace").set("http.listen", &address);
                next = Some(launch.start());
                None
            })
            .unwrap();
        assert_eq!(running.wait_for_exit(DEADLINE), 0, "{}", running.stderr());
        running = next.unwrap();
    }
    let summary = clients.finish();
    assert_unnoticed(
        &summary,
        Limits { longest: None, longest_turn: None, ..limits(Duration::ZERO) },
        "--replace",
    );
    assert_numbered(&home);
}
