//! Power cuts: a state directory on a disk of its own, ext4 and XFS, that is cut off from one moment
//! to the next. Whatever the gateway has acknowledged must be known when it is started again; with
//! its syncs switched off something must be missing, else these tests would prove nothing. What a cut
//! cannot show, that directories are synced too, a trace of the system calls does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use util::fault::{self, Fault, When};
use util::random::Random;
use util::{
    Caller, DEADLINE, Disk, Gateway, Home, Launch, Private, Process, eventually, rounds, sys,
};

/// Clients at once, each with a session of its own.
const CLIENTS: usize = 4;
/// How many of the messages acknowledged before the last cut are asked for again each time.
const OLD: usize = 50;
/// Cuts between two starts with an empty state directory.
const FRESH: usize = 8;

/// Numbers that differ from run to run; a failure tells the seed, which `HERMES_SEED` sets.
fn dice() -> Random {
    let set = env::var("HERMES_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = set.unwrap_or(u64::from(now.subsec_nanos()));
    println!("seed {seed}");
    Random::new(seed)
}

/// A message that the gateway has answered for.
#[derive(Clone, Debug)]
struct Acknowledged {
    id: String,
    session: String,
    key: String,
    text: String,
    /// Its reply was shown, so its turn must not run again.
    finished: bool,
}

/// The text of a client's message: mostly short, sometimes more than a few blocks.
fn text(key: &str, number: usize) -> String {
    let length = match number % 16 {
        3 => 5_000,
        11 => 60_000,
        short => short * 20,
    };
    format!("{key} {}", "x".repeat(length))
}

/// Posts message after message until nobody answers any more. Each that is acknowledged goes to
/// `told`; what else is answered must be the word of a gateway whose disk is gone.
fn client(
    gateway: &Gateway,
    cut: usize,
    number: usize,
    told: Sender<Acknowledged>,
) -> JoinHandle<()> {
    let (address, key) = (gateway.address(), gateway.authorization());
    thread::spawn(move || {
        let mut caller = Caller::tcp(address, &key).expect("connect");
        let session = format!("client {number}");
        let path = format!("/v1/sessions/{}/messages", session.replace(' ', "%20"));
        for message in 0.. {
            let key = format!("{cut}-{number}-{message}");
            let text = text(&key, message);
            // Some wait for their reply.
            let target = if message % 4 == 2 { format!("{path}?wait=3") } else { path.clone() };
            let body = serde_json::json!({ "text": text }).to_string();
            let fields = [("Idempotency-Key", key.as_str())];
            let Ok(answer) = caller.ask("POST", &target, &fields, &body) else { break };
            match answer.status() {
                200 | 202 => {}
                503 | 507 => break,
                _ => panic!("{:?} {}", answer.head, answer.text()),
            }
            let finished = answer.status() == 200;
            let id = answer.json()["id"].as_str().expect("an id").to_owned();
            let session = session.clone();
            if told.send(Acknowledged { id, session, key, text, finished }).is_err() {
                break;
            }
        }
    })
}

/// Compacts again and again, until nobody answers any more.
fn compactor(gateway: &Gateway) -> JoinHandle<()> {
    let mut caller = Caller::unix(&gateway.home().control_socket()).expect("connect");
    thread::spawn(move || {
        while let Ok(answer) = caller.ask("POST", "/v1/journal/compact", &[], "{}") {
            assert!([200, 409, 500, 503, 507].contains(&answer.status()), "{}", answer.text());
        }
    })
}

/// A gateway and the disk that its state is on.
struct Rig {
    disk: Disk,
    home: Home,
    dice: Random,
    /// Its environment says that it shall not sync.
    careless: bool,
    acknowledged: Vec<Acknowledged>,
}

const REFUSED: &str = "it refused to start";

/// What a cut has cost: the keys of messages, or the words of a refused start.
type Lost = Vec<String>;

impl Rig {
    fn new(kind: &'static str, careless: bool) -> Rig {
        let home = Home::new();
        let disk = Disk::new(kind, home.path(), &home.path().join("s"));
        Rig { disk, home, dice: dice(), careless, acknowledged: Vec::new() }
    }

    /// `Err`: it refuses to start, and says why.
    fn start(&self) -> Result<Gateway, String> {
        let mut launch = self
            .home
            .launch()
            .set("limits.max_queue", "100000")
            .set("limits.max_queue_per_session", "100000");
        if self.careless {
            launch = launch.env("HERMES_TEST_NO_FDATASYNC", "1");
        }
        launch.try_start().map_err(|end| format!("{REFUSED} ({}): {}", end.code(), end.stderr))
    }

    /// One life of the gateway, its sudden end, and what is missing in the next.
    fn cut(&mut self, number: usize) -> Lost {
        if number.is_multiple_of(FRESH) {
            let _ = fs::remove_dir_all(self.home.path().join("s/hermes-gateway"));
            self.disk.remount();
            self.acknowledged.clear();
        }
        let gateway = match self.start() {
            Ok(gateway) => gateway,
            Err(why) => return vec![why],
        };
        let (tell, told) = mpsc::channel();
        let mut threads: Vec<_> = (0..CLIENTS)
            .map(|client_number| client(&gateway, number, client_number, tell.clone()))
            .collect();
        drop(tell);
        if number % 3 == 1 {
            threads.push(compactor(&gateway));
        }
        let before = self.acknowledged.len();
        let enough = 1 + self.dice.below(60);
        self.hear(&told, enough);
        let unaware = number.is_multiple_of(2);
        if unaware {
            gateway.signal(libc::SIGSTOP);
            wait_until_stopped(gateway.pid());
        }
        self.acknowledged.extend(told.try_iter());
        self.disk.cut_power();
        if unaware {
            gateway.signal(libc::SIGKILL);
            gateway.wait_for_exit(DEADLINE);
            // What it had sent by the time that it was stopped counts, whoever reads it when.
            self.acknowledged.extend(told.iter());
        } else {
            // It goes on and meets errors. What it acknowledges now does not count: of a sync that
            // is under way during a shutdown both file systems may say that it went well.
            for _ in 0..self.dice.below(3) {
                let _ = told.recv_timeout(DEADLINE);
            }
            if gateway.is_running() {
                gateway.signal(libc::SIGKILL);
            }
            assert_ne!(gateway.wait_for_exit(DEADLINE), 0);
        }
        drop((gateway, told));
        for thread in threads {
            thread.join().expect("a client");
        }
        self.disk.remount();
        self.look(before)
    }

    /// Waits for so many acknowledgements, or for the end of all that could bring one.
    fn hear(&mut self, told: &Receiver<Acknowledged>, count: usize) {
        for _ in 0..count {
            match told.recv_timeout(DEADLINE) {
                Ok(one) => self.acknowledged.push(one),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(error) => panic!("no acknowledgement: {error}"),
            }
        }
    }

    /// Starts it again and asks for all that was acknowledged in the life before, and for some of
    /// what was known before that.
    fn look(&mut self, before: usize) -> Lost {
        let gateway = match self.start() {
            Ok(gateway) => gateway,
            Err(why) => return vec![why],
        };
        let mut caller = Caller::unix(&self.home.control_socket()).expect("connect");
        let old = (0..OLD.min(before)).map(|_| self.dice.below(before)).collect::<Vec<_>>();
        let new = before..self.acknowledged.len();
        let mut lost = Vec::new();
        for one in old.into_iter().chain(new).map(|index| &self.acknowledged[index]) {
            let answer = caller.ask("GET", &format!("/v1/messages/{}", one.id), &[], "").unwrap();
            match answer.status() {
                200 => {
                    let message = answer.json();
                    assert_eq!(message["session"], one.session.as_str(), "{message}");
                    if one.finished && message["status"] != "done" {
                        lost.push(format!("the reply to {}", one.key));
                    }
                }
                404 => lost.push(one.key.clone()),
                _ => panic!("{:?} {}", answer.head, answer.text()),
            }
        }
        if lost.is_empty() {
            self.ask_for_replies(&mut caller);
        }
        gateway.signal(libc::SIGKILL);
        gateway.wait_for_exit(DEADLINE);
        lost
    }

    /// The newest are done, with the right reply, and under their keys nothing else can be had.
    fn ask_for_replies(&self, caller: &mut Caller) {
        for one in self.acknowledged.iter().rev().take(3) {
            let target = format!("/v1/messages/{}?wait=4", one.id);
            let message = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
            assert_eq!(message["status"], "done", "{}: {message}", one.key);
            assert!(message["reply"] == one.text.as_str(), "{}: {message}", one.key);
            let session = one.session.replace(' ', "%20");
            let again = caller.post_message(&session, &one.key, &one.text).unwrap();
            let again = again.assert_status(200);
            assert_eq!(again.field("idempotent-replayed"), Some("true"), "{again:?}");
            assert_eq!(again.json()["id"], one.id.as_str());
        }
    }

    /// All that is acknowledged since the directory was fresh, at the end.
    fn look_at_all(&mut self) -> Lost {
        self.look(0)
    }
}

/// Waits until no thread of a process that was sent SIGSTOP can do anything more on its own: one that
/// is in the kernel for the disk stops before it returns from there.
fn wait_until_stopped(pid: i32) {
    eventually("all of its threads are stopped", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let stopped = |stat: String| {
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            state.is_none_or(|state| "TDZX".contains(state))
        };
        // One that has ended meanwhile has no file.
        let mut stats = tasks.map(|task| fs::read_to_string(task.path().join("stat")));
        stats.all(|stat| stat.is_ok_and(stopped)).then_some(())
    });
}

fn disk_test() -> Private {
    let limit = Duration::from_secs(if util::full() { 600 } else { 120 });
    let needs = Disk::NEEDS.iter();
    needs.fold(Private::new().limit(limit), |private, (package, file)| private.needs(package, file))
}

fn nothing_is_lost(kind: &'static str) {
    let mut rig = Rig::new(kind, false);
    let cuts = rounds(8, 200);
    let began = Instant::now();
    let mut total = 0;
    for number in 0..cuts {
        let before = if number.is_multiple_of(FRESH) { 0 } else { rig.acknowledged.len() };
        let lost = rig.cut(number);
        assert!(lost.is_empty(), "cut {number}: lost {lost:#?}");
        total += rig.acknowledged.len() - before;
    }
    let lost = rig.look_at_all();
    assert!(lost.is_empty(), "after all: lost {lost:#?}");
    let each = began.elapsed() / u32::try_from(cuts).unwrap();
    println!("{kind}: {cuts} cuts, {total} messages acknowledged, 0 lost, {each:?} a cut");
}

#[test]
fn a_power_cut_on_ext4_loses_nothing() {
    disk_test().run(|| nothing_is_lost("ext4"));
}

#[test]
fn a_power_cut_on_xfs_loses_nothing() {
    disk_test().run(|| nothing_is_lost("xfs"));
}

/// The control: so many cuts at most until one that costs something.
const CONTROL: usize = 30;

fn something_is_lost(kind: &'static str) {
    let mut rig = Rig::new(kind, true);
    for number in 0..CONTROL {
        let lost = rig.cut(number);
        // A refused start would be a word of warning: to be silent about a loss is the worst.
        if let Some(first) = lost.first().filter(|first| !first.starts_with(REFUSED)) {
            println!("{kind}: without syncs, cut {number} lost {}, {first:.200}", lost.len());
            return;
        }
    }
    panic!("{CONTROL} cuts on {kind} without syncs lost nothing: these tests prove nothing");
}

/// Whether the gateway knows the switch: a debug build is asked to.
fn can_be_careless() -> bool {
    env::var_os("HERMES_BIN").is_none() && cfg!(debug_assertions)
}

#[test]
fn without_syncs_a_power_cut_on_ext4_loses() {
    if can_be_careless() {
        disk_test().run(|| something_is_lost("ext4"));
    }
}

#[test]
fn without_syncs_a_power_cut_on_xfs_loses() {
    if can_be_careless() {
        disk_test().run(|| something_is_lost("xfs"));
    }
}

/// Waits until the journal says that all is durable, or the gateway has ended.
fn until_quiet(home: &Home, gateway: &Process) {
    let journal = home.state_dir().join("journal");
    eventually("the journal is quiet", || {
        let text = fs::read_to_string(&journal).unwrap_or_default();
        let last = text.trim_end_matches('\0').lines().last().unwrap_or_default();
        let quiet = last.contains(r#""t":"mark""#) || last.contains(r#""version":2"#);
        (quiet || !gateway.is_running()).then_some(())
    });
}

/// A record that reached the file and not the disk is read by the next start. What that shows of it
/// must not be taken away by the next cut: neither the message nor its end.
fn what_a_start_shows_is_synced(kind: &'static str) {
    let home = Home::new();
    let disk = Disk::new(kind, home.path(), &home.path().join("s"));
    drop(home.start());
    let control = || Caller::unix(&home.control_socket()).unwrap();
    let body = r#"{"text":"text"}"#;
    let mut shown_done = 0;
    // A start syncs what it finds, the acceptance and the attempt follow, then the end.
    for (round, number) in [1, 2, 3, 4, 5, 3, 4, 5, 6].into_iter().enumerate() {
        let when = When::Once(number);
        let fault = Fault { call: "fdatasync", error: libc::EIO, when, on: "journal" };
        // One that breaks at its first sync answers nobody.
        let gateway = fault.into(home.launch(), &home).spawn();
        gateway.wait_for_end_or("READY=1");
        let key = format!("k{round}");
        let fields = [("Idempotency-Key", key.as_str())];
        until_quiet(&home, &gateway);
        if let Ok(mut caller) = Caller::unix(&home.control_socket()) {
            let _ = caller.ask("POST", "/v1/messages?wait=1", &fields, body);
        }
        if gateway.is_running() {
            let _ = sys::kill(gateway.pid(), libc::SIGKILL);
        }
        gateway.wait_for_exit(DEADLINE);
        if fault::hits(&home).is_empty() {
            continue;
        }
        let gateway = home.start();
        let shown = control().ask("POST", "/v1/messages", &fields, body).unwrap();
        gateway.signal(libc::SIGSTOP);
        wait_until_stopped(gateway.pid());
        disk.cut_power();
        gateway.signal(libc::SIGKILL);
        gateway.wait_for_exit(DEADLINE);
        disk.remount();
        assert!([200, 202].contains(&shown.status()), "{}", shown.text());
        let target = format!("/v1/messages/{}", shown.json()["id"].as_str().unwrap());
        let gateway = home.start();
        let found = control().ask("GET", &target, &[], "").unwrap();
        assert_eq!(found.status(), 200, "{kind}: {key} is lost, behind sync {number}");
        if shown.status() == 200 {
            shown_done += 1;
            let found = found.json();
            assert_eq!(found, shown.json(), "{kind}: {key}, behind sync {number}");
        }
        until_quiet(&home, &gateway);
    }
    assert!(shown_done > 0, "no start has shown an end");
}

#[test]
fn what_a_start_finds_unsynced_is_synced_before_anybody_hears_of_it() {
    disk_test().run(|| {
        what_a_start_shows_is_synced("ext4");
        what_a_start_shows_is_synced("xfs");
    });
}

/// What the disk keeps, with nothing of the gateway in it.
fn only_what_is_synced_stays(kind: &'static str) {
    let home = Home::new();
    let disk = Disk::new(kind, home.path(), &home.path().join("s"));
    let path = |name: &str| home.path().join("s").join(name);
    for round in 0..rounds(3, 30) {
        let (synced, loose) = (path(&format!("synced{round}")), path(&format!("loose{round}")));
        let mut file = File::create(&synced).unwrap();
        for _ in 0..20 {
            file.write_all(b"a line\n").unwrap();
            file.sync_data().unwrap();
        }
        File::create(&loose).unwrap().write_all(b"a line\n").unwrap();
        disk.cut_power();
        file.write_all(b"too late").and_then(|()| file.sync_data()).expect_err("the power is off");
        drop(file);
        disk.remount();
        assert_eq!(fs::read(&synced).unwrap(), b"a line\n".repeat(20));
        let left = fs::read(&loose).unwrap_or_default();
        assert!(left.is_empty(), "{kind}: what nobody synced stayed: {left:?}");
    }
}

#[test]
fn the_disk_of_these_tests_forgets_what_is_not_synced() {
    disk_test().run(|| {
        only_what_is_synced_stays("ext4");
        only_what_is_synced_stays("xfs");
    });
}

// ----------------------------------------------------------------- the trace ----

/// A system call, with the lines of the trace at which it began and ended.
#[derive(Debug)]
struct Call {
    name: String,
    /// Descriptors with their paths, and the beginnings of what is written.
    args: String,
    began: usize,
    ended: usize,
}

impl Call {
    /// The path behind its first argument, a descriptor: `5</the/path>`.
    fn path(&self) -> &str {
        let path = self.args.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        path.map_or("", |(path, _)| path)
    }

    fn syncs(&self, path: &str) -> bool {
        (self.name == "fsync" || self.name == "fdatasync") && self.path() == path
    }

    fn writes_to(&self, path: &str) -> bool {
        (self.name.starts_with("write") || self.name.starts_with("pwrite")) && self.path() == path
    }
}

/// The calls that succeeded, by their beginning. `strace -f -y` interleaves threads: "write(…
/// <unfinished ...>" and later "<... write resumed>…) = 5".
fn parse(trace: &str) -> Vec<Call> {
    let mut open: Vec<(&str, usize, &str)> = Vec::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (began, text) = if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            open.push((thread, at, begun));
            continue;
        } else if let Some(end) = rest.strip_prefix("<... ") {
            let Some(index) = open.iter().position(|(of, ..)| *of == thread) else { continue };
            let (_, began, begun) = open.remove(index);
            let end = end.split_once(" resumed>").map_or("", |(_, end)| end);
            (began, format!("{begun}{end}"))
        } else {
            (at, rest.to_owned())
        };
        let Some((call, result)) = text.rsplit_once(" = ") else { continue };
        let Some((name, args)) = call.split_once('(') else { continue };
        if !result.starts_with('-') {
            let (name, args) = (name.to_owned(), args.to_owned());
            calls.push(Call { name, args, began, ended: at });
        }
    }
    calls.sort_by_key(|call| call.began);
    calls
}

/// A gateway's life under strace, its state directory new: messages, a compaction, messages.
struct Trace {
    calls: Vec<Call>,
    /// The directory that the state directory was made in.
    root: String,
    journal: String,
}

impl Trace {
    /// Recorded once for all tests; `None`, said aloud, without strace.
    fn get() -> Option<&'static Trace> {
        static TRACE: OnceLock<Trace> = OnceLock::new();
        has_strace().then(|| TRACE.get_or_init(Trace::record))
    }

    fn record() -> Trace {
        let home = Home::new();
        Trace::of(&home, home.launch(), |gateway| {
            let key = gateway.authorization();
            let mut callers: Vec<_> =
                (0..3).map(|_| Caller::tcp(gateway.address(), &key).unwrap()).collect();
            let mut post = |from: usize, to: usize| {
                thread::scope(|scope| {
                    for (number, caller) in callers.iter_mut().enumerate() {
                        scope.spawn(move || {
                            for message in from..to {
                                let (session, key) =
                                    (format!("s{number}"), format!("{number}-{message}"));
                                let answer = caller.post_message(&session, &key, "hi").unwrap();
                                answer.assert_status(202);
                            }
                        });
                    }
                });
            };
            post(0, 8);
            let mut control = gateway.control();
            control.post("/v1/journal/compact", &[], "{}").assert_status(200);
            post(8, 12);
        })
    }

    /// The trace of a start and what is done with it, until it is stopped.
    fn of(home: &Home, launch: Launch, work: impl FnOnce(&Gateway)) -> Trace {
        let trace = home.path().join("trace");
        let calls = "trace=openat,mkdir,mkdirat,fsync,fdatasync,rename,renameat,renameat2,write,\
                     writev,pwrite64,sendto,sendmsg,link,linkat,ftruncate";
        let strace =
            ["strace", "-f", "-y", "-s", "400", "-e", calls, "-o", trace.to_str().unwrap()];
        let gateway = launch.through(&strace).start();
        work(&gateway);
        home.run(&["stop"]).assert_code(0);
        assert_eq!(gateway.into_process().finish(DEADLINE).code(), 0);
        Trace {
            calls: parse(&fs::read_to_string(trace).unwrap()),
            root: home.path().join("s").to_str().unwrap().to_owned(),
            journal: home.state_dir().join("journal").to_str().unwrap().to_owned(),
        }
    }

    /// The acknowledgements, each with its message's id.
    fn answers(&self) -> Vec<(&Call, &str)> {
        let sent = self.calls.iter().filter(|call| call.args.contains("HTTP/1.1 202"));
        sent.map(|call| (call, id_in(&call.args))).collect()
    }

    fn assert_answers_synced(&self, count: usize) {
        let answers = self.answers();
        assert_eq!(answers.len(), count, "answers in the trace");
        for (answer, id) in answers {
            let record = self.calls.iter().find(|call| {
                call.writes_to(&self.journal)
                    && [id, "accepted"].iter().all(|word| call.args.contains(word))
            });
            let record = record.unwrap_or_else(|| panic!("no record of {id}"));
            assert!(
                self.is_synced(&self.journal, record.ended, answer.began),
                "{id} was acknowledged before a sync: {record:?} {answer:?}"
            );
        }
    }

    fn first_answer(&self) -> usize {
        self.answers().iter().map(|(answer, _)| answer.began).min().unwrap()
    }

    /// Whether a sync of this path began after one line and ended before another.
    fn is_synced(&self, path: &str, after: usize, before: usize) -> bool {
        self.calls.iter().any(|call| call.syncs(path) && call.began > after && call.ended < before)
    }

    /// The replacements of the journal by another file.
    fn swaps(&self) -> impl Iterator<Item = &Call> {
        let to = format!(" \"{}\"", self.journal);
        let renames = self.calls.iter().filter(|call| call.name.starts_with("rename"));
        renames.filter(move |call| call.args.contains(&to))
    }
}

/// Whether there can be traces; said aloud where there cannot.
fn has_strace() -> bool {
    let there = Path::new("/usr/bin/strace").exists();
    if !there {
        util::skip("needs the package strace");
    }
    there
}

/// The directory of a path.
fn parent(path: &str) -> &str {
    Path::new(path).parent().unwrap().to_str().unwrap()
}

#[test]
fn every_acknowledgement_comes_after_its_sync() {
    let Some(trace) = Trace::get() else { return };
    trace.assert_answers_synced(36);
}

/// All other tests of durability run what cargo has built for them: a debug build.
#[test]
fn every_acknowledgement_of_a_release_comes_after_its_sync() {
    if !has_strace() {
        return;
    }
    // `tests/run` builds it before all tests.
    let debug = Path::new(env!("CARGO_BIN_EXE_hermes-gateway"));
    let release = debug.ancestors().nth(2).unwrap().join("release/hermes-gateway");
    if !release.exists() {
        return util::skip(&format!("needs {} (cargo build --release)", release.display()));
    }
    let home = Home::new();
    let trace = Trace::of(&home, home.launch().program(&release), |gateway| {
        let mut caller = Caller::unix(&gateway.home().control_socket()).unwrap();
        for number in 0..4 {
            caller.post_message("s", &format!("k{number}"), "hi").unwrap().assert_status(202);
        }
    });
    trace.assert_answers_synced(4);
}

/// A key that was handed out must not be another one after a power cut.
#[test]
fn the_name_of_a_new_key_is_synced_before_anything_else_is_named() {
    let Some(trace) = Trace::get() else { return };
    let dir = parent(&trace.journal);
    let key = format!("\"{dir}/api.key\"");
    let links = |call: &&Call| call.name.starts_with("link") && call.args.contains(&key);
    let link = trace.calls.iter().find(links).expect("the key's name");
    let names = ["openat", "link", "rename", "mkdir"];
    let next = trace.calls.iter().find(|call| {
        let named = call.name != "openat" || call.args.contains("O_CREAT");
        let within = call.args.contains(&format!("\"{dir}/"));
        call.began > link.ended && within && named && names.iter().any(|n| call.name.starts_with(n))
    });
    let next = next.expect("the journal is made later");
    assert!(trace.is_synced(dir, link.ended, next.began), "{dir} was not synced before {next:?}");
}

/// What was cut off must not come back behind the records that follow.
#[test]
fn a_torn_end_is_cut_off_durably_before_the_start_is_over() {
    if !has_strace() {
        return;
    }
    let home = Home::new();
    drop(home.start());
    let journal = home.state_dir().join("journal");
    File::options().append(true).open(journal).unwrap().write_all(b"0000").unwrap();
    let trace = Trace::of(&home, home.launch(), |_| {});
    let journal = &trace.journal;
    let cut = trace.calls.iter().find(|call| call.name == "ftruncate" && call.path() == journal);
    let cut = cut.expect("the torn end is cut off");
    let over = |call: &&Call| call.writes_to(journal) || call.args.contains("READY=1");
    let next = trace.calls.iter().find(|call| call.began > cut.ended && over(call)).unwrap();
    assert!(trace.is_synced(journal, cut.ended, next.began), "not synced before {next:?}");
}

#[test]
fn the_name_of_a_new_journal_is_synced_before_the_first_acknowledgement() {
    let Some(trace) = Trace::get() else { return };
    let first = trace.first_answer();
    let dir = parent(&trace.journal);
    let created = trace.calls.iter().filter(|call| {
        call.name == "openat"
            && call.args.contains("O_CREAT")
            && quoted(&call.args).starts_with(&trace.journal)
    });
    let named = created.chain(trace.swaps()).filter(|call| call.ended < first);
    let named = named.map(|call| call.ended).max().expect("the journal's creation");
    assert!(trace.is_synced(dir, named, first), "{dir} was not synced behind it");
}

/// Each directory that was made on the way to the journal is a name in another one.
#[test]
fn new_directories_are_synced_before_the_first_acknowledgement() {
    let Some(trace) = Trace::get() else { return };
    let first = trace.first_answer();
    let made = trace.calls.iter().filter(|call| {
        let path = quoted(&call.args);
        call.name.starts_with("mkdir")
            && path.starts_with(&trace.root)
            && trace.journal.starts_with(&format!("{path}/"))
    });
    let mut count = 0;
    for call in made {
        let dir = parent(quoted(&call.args));
        assert!(trace.is_synced(dir, call.ended, first), "{dir} was not synced behind {call:?}");
        count += 1;
    }
    assert!(count > 0, "no directory was made");
}

/// The new file is synced, takes the old one's name, and the directory is synced; nothing that only
/// the new file has is acknowledged before that.
#[test]
fn a_compaction_is_synced_at_each_step() {
    let Some(trace) = Trace::get() else { return };
    let (first, journal) = (trace.first_answer(), &trace.journal);
    let mut count = 0;
    for swap in trace.swaps().filter(|swap| swap.began > first) {
        count += 1;
        let new = quoted(&swap.args);
        // The next compaction writes to a file of the same name.
        let before = |call: &&Call| call.writes_to(new) && call.ended < swap.began;
        let written = trace.calls.iter().filter(before);
        let last = written.map(|call| call.ended).max().expect("the new file was written");
        assert!(trace.is_synced(new, last, swap.began), "{new} got its name before it was synced");
        let dir = parent(journal);
        let synced = trace.calls.iter().find(|call| call.syncs(dir) && call.began > swap.ended);
        let synced = synced.expect("a sync of the directory behind the compaction");
        let between = |answer: &Call| answer.began > swap.ended && answer.began < synced.ended;
        for (answer, id) in trace.answers().iter().filter(|(answer, _)| between(answer)) {
            let old = trace.calls.iter().any(|call| {
                call.writes_to(journal) && call.args.contains(id) && call.ended < swap.began
            });
            assert!(old, "{id} was acknowledged from a file whose name was not synced: {answer:?}");
        }
    }
    assert!(count > 0, "the compaction is not in the trace");
}

/// The id in an answer that strace has quoted: `\"id\":\"…\"`.
fn id_in(args: &str) -> &str {
    let (_, rest) = args.split_once("\\\"id\\\":\\\"").expect("an id in the answer");
    rest.split('\\').next().unwrap()
}

/// The first quoted argument.
fn quoted(args: &str) -> &str {
    args.split('"').nth(1).unwrap_or("")
}
