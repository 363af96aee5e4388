//! Clients through every kind of restart under a real systemd: whatever the restart is, they notice at most a
//! pause.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use util::programs;
use util::restart_clients::record::Limits;
use util::sys::{self, Pidfd};
use util::{
    Api, Clients, DEADLINE, Manager, Sandbox, Service, binary, eventually, full, pause, report,
    rounds,
};

/// A port of its own, since a restart that lost the socket would not find a free one again. Below those
/// that clients get.
const CONFIG: &str = "[http]\nlisten = \"127.0.0.1:18642\"\n\
                      [limits]\nmax_queue_per_session = 1000\nkeep_results = 100000\n";

/// As long as the installed unit has it, in the full form; otherwise a moment.
fn restart_sec() -> Duration {
    Duration::from_millis(if full() { 1000 } else { 50 })
}

/// The longest wait: this, in the full form and of a release; else some seconds more, since a debug build
/// beside other tests on a busy machine is no measure.
fn at_most(longest: Duration) -> Option<Duration> {
    let exact = full() && !cfg!(debug_assertions);
    Some(longest + Duration::from_secs(if exact { 0 } else { 5 }))
}

/// What the end of one process and the start of another may cost.
fn for_a_start() -> Limits {
    let longest = at_most(restart_sec() + Duration::from_millis(500));
    Limits { longest, longest_turn: longest, repeated_turns: false }
}

/// The same where turns are cut short.
fn for_a_death() -> Limits {
    Limits { repeated_turns: true, ..for_a_start() }
}

/// What a restart in place may cost.
fn for_an_exec() -> Limits {
    let longest = at_most(Duration::from_millis(100));
    Limits { longest, longest_turn: longest, repeated_turns: false }
}

/// Runs the clients through so many restarts of this kind; `restart` returns when the new one is ready, with
/// when the old one was seen dead if it had no time for a last word.
#[track_caller]
fn through(
    service: &Service,
    count: usize,
    limits: Limits,
    mut restart: impl FnMut(&Service) -> Option<Instant>,
) {
    let clients = Clients::start(service.for_clients());
    clients.served(&clients.steady(), 10).unwrap();
    for _ in 0..count {
        if let Err(missing) = clients.through(|| restart(service)) {
            panic!("{missing}\n{}", journal(service));
        }
    }
    let summary = clients.finish();
    // A line each, so that all of them come out of the sandbox.
    summary.to_string().lines().for_each(report);
    let problems = summary.problems(limits);
    assert!(problems.is_empty(), "{problems:#?}\n{summary}\n{}", journal(service));
}

/// What it has logged, but for the hundreds of turns.
fn journal(service: &Service) -> String {
    let journal = service.unit().journal();
    journal.lines().filter(|line| !line.ends_with("is done")).collect::<Vec<_>>().join("\n")
}

/// The gateway as it is installed, but for its port and how soon it comes back.
#[track_caller]
fn start(manager: &Manager) -> Service<'_> {
    let drop_in = format!("[Service]\nRestartSec={}ms\n", restart_sec().as_millis());
    Service::start_with(manager, CONFIG, &drop_in)
}

fn sandbox() -> Sandbox {
    Sandbox::user().limit(Duration::from_secs(if full() { 1500 } else { 240 }))
}

/// Waits until another process is ready, after this many deaths in all.
#[track_caller]
fn wait_for_return(service: &Service, before: i32, deaths: &mut u32) {
    *deaths += 1;
    service.wait_for_return(before, *deaths);
}

/// A signal that leaves no time for a last word.
#[track_caller]
fn die_of(signal: i32, service: &Service, deaths: &mut u32) -> Option<Instant> {
    let before = service.pid();
    let end = Pidfd::open(before).unwrap();
    end.signal(signal).unwrap();
    assert!(end.wait(DEADLINE).unwrap(), "signal {signal} did not end it");
    let dead = Instant::now();
    wait_for_return(service, before, deaths);
    Some(dead)
}

/// Fails the test unless the process, and what systemd says of it, is as before.
#[track_caller]
fn assert_in_place(service: &Service, before: i32) {
    assert_eq!(service.pid(), before, "another process\n{}", journal(service));
    let running = [("ActiveState", "active"), ("SubState", "running"), ("NRestarts", "0")];
    service.unit().assert(&running);
}

/// Waits until the restart that was asked for is in the history, and then for an answer of the image behind it.
#[track_caller]
fn wait_for_restart(service: &Service, before: usize) {
    eventually("a restart in the history", || (restarts(service) > before).then_some(()));
    service.status();
}

/// The runs that a restart in place has ended: what follows is written into their entries later.
fn restarts(service: &Service) -> usize {
    let stops = service.stops();
    let restarts = stops.iter().filter(|stop| stop["verdict"] == "restart");
    restarts.map(|stop| stop["run"].to_string()).collect::<BTreeSet<_>>().len()
}

#[test]
fn nobody_notices_a_restart_by_systemctl() {
    sandbox().run(|manager| {
        let service = start(manager);
        through(&service, rounds(2, 20), for_a_start(), |service| {
            let before = service.pid();
            service.systemctl("restart");
            assert_ne!(service.pid(), before);
            None
        });
        // A stop is one: nobody answers any more, and nothing is kept.
        let address = service.address();
        service.systemctl("stop");
        let refused = TcpStream::connect(address).unwrap_err().kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        assert!(["", "0"].contains(&&*service.unit().property("NFileDescriptorStore")));
        service.assert_inactive(0);
        // Nor by what is installed no more.
        service.systemctl("start");
        manager.gateway(&["uninstall"]).assert_code(0);
        let refused = TcpStream::connect(address).unwrap_err().kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        assert!(["", "0"].contains(&&*service.unit().property("NFileDescriptorStore")));
    });
}

#[test]
fn nobody_notices_a_kill() {
    sandbox().run(|manager| {
        let (service, mut deaths) = (start(manager), 0);
        through(&service, rounds(2, 20), for_a_start(), |service| {
            let before = service.pid();
            sys::kill(before, libc::SIGTERM).unwrap();
            wait_for_return(service, before, &mut deaths);
            None
        });
    });
}

#[test]
fn a_kill_dash_nine_takes_with_it_what_was_in_its_hands_and_no_more() {
    sandbox().run(|manager| {
        let (service, mut deaths) = (start(manager), 0);
        through(&service, rounds(2, 20), for_a_death(), |service| {
            die_of(libc::SIGKILL, service, &mut deaths)
        });
    });
}

#[test]
fn a_crash_takes_with_it_what_was_in_its_hands_and_no_more() {
    sandbox().run(|manager| {
        let (service, mut deaths) = (start(manager), 0);
        through(&service, rounds(2, 20), for_a_death(), |service| {
            die_of(libc::SIGSEGV, service, &mut deaths)
        });
    });
}

#[test]
fn nobody_notices_a_graceful_restart() {
    sandbox().run(|manager| {
        let service = start(manager);
        through(&service, rounds(2, 20), for_an_exec(), |service| {
            let before = service.pid();
            manager.gateway(&["restart", "--graceful"]).assert_code(0);
            assert_in_place(service, before);
            None
        });
    });
}

#[test]
fn nobody_notices_a_restart_by_sigusr1() {
    sandbox().run(|manager| {
        let service = start(manager);
        through(&service, rounds(2, 20), for_an_exec(), |service| {
            let (before, so_far) = (service.pid(), restarts(service));
            sys::kill(before, libc::SIGUSR1).unwrap();
            wait_for_restart(service, so_far);
            assert_in_place(service, before);
            None
        });
    });
}

#[test]
fn nobody_notices_a_restart_by_message() {
    sandbox().run(|manager| {
        let service = start(manager);
        // More than four in two minutes are refused by intent.
        through(&service, rounds(2, 4), for_an_exec(), |service| {
            let (before, so_far) = (service.pid(), restarts(service));
            let api = Api::new(service.address(), &service.api_key());
            let deadline = Instant::now() + DEADLINE;
            // So is one at once behind another: the reply says so.
            while restarts(service) == so_far {
                let answer = api.send("operator", "/restart").assert_status(200).json();
                let reply = answer["reply"].as_str().unwrap().to_owned();
                if !reply.contains("not again") {
                    wait_for_restart(service, so_far);
                    break;
                }
                assert!(Instant::now() < deadline, "still: {reply}");
                pause(Duration::from_millis(500));
            }
            assert_in_place(service, before);
            None
        });
    });
}

#[test]
fn nobody_notices_an_update() {
    sandbox().run(|manager| {
        let program: PathBuf = manager.home().join(".local/bin/hermes-gateway");
        let next = manager.home().join("next");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::copy(binary(), &program).unwrap();
        let script = format!("cp {0} {1}.new && mv {1}.new {1}", next.display(), program.display());
        let update = format!("[update]\ncommand = [\"sh\", \"-c\", {script:?}]\ntrial = \"1s\"\n");
        let drop_in = format!("[Service]\nRestartSec={}ms\n", restart_sec().as_millis());
        let config = format!("{CONFIG}{update}");
        let service = Service::install_program(manager, &program, &config, &drop_in);
        service.systemctl("start");
        let mut newer = false;
        through(&service, rounds(2, 20), for_an_exec(), |service| {
            let before = service.pid();
            newer = !newer;
            programs::put_gateway(&next, newer);
            manager.run(&program, &["update"]).assert_code(0);
            let version = if newer { programs::NEWER } else { programs::VERSION };
            assert_eq!(service.status()["version"], version);
            assert_in_place(service, before);
            None
        });
    });
}
