//! A restart in place, without a service manager: the same process executes the program that is there now,
//! and nobody notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use util::fault::{self, Fault, HANG, When};
use util::programs::{BROKEN, NEWER, VERSION, put, put_gateway};
use util::random::Random;
use util::{DEADLINE, Gate, Gateway, Home, eventually, pause, rounds, script};

/// What its descriptors lead to, in order. What only now and then is open is not among it.
fn descriptors(gateway: &Gateway) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().flatten();
    let mut to: Vec<String> = open
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|to| to.to_string_lossy().into_owned())
        .map(|to| if to.starts_with("socket:") { "socket".to_owned() } else { to })
        .filter(|to| !to.starts_with("/proc/"))
        .collect();
    to.sort();
    to
}

/// The inodes of the sockets that listen, as its descriptors name them.
fn listeners(gateway: &Gateway) -> Vec<String> {
    let port = format!(":{:04X} ", gateway.address().port());
    let tables = ["/proc/net/tcp", "/proc/net/unix"].map(|path| fs::read_to_string(path).unwrap());
    let tcp = tables[0].lines().filter(|line| line.contains(&port) && line.contains(" 0A "));
    let socket = gateway.home().control_socket();
    let unix = tables[1].lines().filter(|line| line.ends_with(socket.to_str().unwrap()));
    let tcp = tcp.filter_map(|line| line.split_whitespace().nth(9));
    tcp.chain(unix.filter_map(|line| line.split_whitespace().nth(6))).map(str::to_owned).collect()
}

#[track_caller]
fn restart(gateway: &Gateway) -> String {
    gateway.home().run(&["restart", "--graceful"]).assert_code(0).stdout
}

/// The last line of each run.
fn history(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap_or_default();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What the next run adds is a line of its own.
    lines.dedup_by(|later, earlier| {
        let same = later["run"] == earlier["run"];
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    lines
}

/// The numbers of the journal's records.
fn numbers(home: &Home) -> Vec<u64> {
    let text = home.journal_text();
    let records = text.lines().skip(1).filter_map(|line| line.split(' ').nth(1)?.parse().ok());
    records.collect()
}

#[test]
fn the_same_process_goes_on_with_all_that_it_had() {
    let home = Home::new();
    let gateway = home.launch().start();
    restart(&gateway);
    let before = (descriptors(&gateway), listeners(&gateway));
    let name = fs::read_to_string(format!("/proc/{}/comm", gateway.pid())).unwrap();
    assert_eq!(before.1.len(), 2);
    let mut last = Value::Null;
    for round in 0..rounds(20, 200) {
        let id = gateway.api().accepted("s", &format!("message {round}"));
        let said = restart(&gateway);
        let expected = format!(
            "default restarted in place: pid {}, version {VERSION} → {VERSION}, nobody served for ",
            gateway.pid()
        );
        assert!(said.contains(&expected), "{said}");
        assert_eq!(gateway.api().reply(&id), format!("message {round}"));
        assert_eq!(listeners(&gateway), before.1);
        let line = history(&home).pop().unwrap();
        assert_eq!((&line["verdict"], &line["pid"]), (&json!("restart"), &json!(gateway.pid())));
        assert_eq!((&line["from"], &line["to"]), (&json!(VERSION), &json!(VERSION)), "{line}");
        assert!(
            line["reason"].as_str().unwrap().contains("asked for by owner on the control socket")
        );
        assert_ne!(line["run"], last["run"]);
        last = line;
    }
    // What was open for a moment only when they were looked at is no loss.
    eventually("it has no other descriptors than before", || {
        let mut earlier = before.0.clone();
        let known = |now: &String| {
            let at = earlier.iter().position(|it| it == now);
            at.map(|at| earlier.swap_remove(at)).is_some()
        };
        descriptors(&gateway).iter().all(known).then_some(())
    });
    assert_eq!(fs::read_to_string(format!("/proc/{}/comm", gateway.pid())).unwrap(), name);
    let numbers = numbers(&home);
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    // The number of the last request; one came before the rounds.
    assert_eq!(gateway.status()["restart"]["last"]["number"], rounds(20, 200) + 1);
    // What it is called after the exec, it is for `stop` as well.
    home.run(&["stop"]).assert_code(0);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

#[test]
fn the_lock_is_held_at_any_time_and_children_get_the_limits_of_the_first_start() {
    let home = Home::new();
    home.configure(&script("ulimit -Sn"));
    let shell = ["sh", "-c", "ulimit -Sn 777; exec \"$@\"", "sh"];
    let gateway = home.launch().through(&shell).start();
    let over = AtomicBool::new(false);
    let lock = fs::File::open(home.state_dir().join("state.lock")).unwrap();
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| {
            let mut tries = 0;
            while !over.load(Ordering::SeqCst) {
                assert!(lock.try_lock().is_err(), "nobody held the lock");
                tries += 1;
            }
            tries
        });
        for _ in 0..3 {
            restart(&gateway);
        }
        over.store(true, Ordering::SeqCst);
        assert!(tries.join().unwrap() > 100);
    });
    assert_eq!(gateway.ask("x").assert_status(200).reply().trim(), "777");
}

#[test]
fn the_program_that_is_there_now_runs_with_the_configuration_that_is_there_now() {
    let home = Home::new();
    let program = home.path().join("h/hermes-gateway");
    put_gateway(&program, false);
    home.configure("[stop]\ndrain_timeout = \"5s\"\n");
    let gateway = home.launch().program(&program).start();
    put_gateway(&program, true);
    home.configure(&script("echo new"));
    let said = restart(&gateway);
    assert!(said.contains(&format!("version {VERSION} → {NEWER}")), "{said}");
    assert_eq!(gateway.status()["version"], NEWER);
    assert_eq!(gateway.ask("x").assert_status(200).reply(), "new");
    // And back: it is followed where it was called.
    put_gateway(&program, false);
    restart(&gateway);
    assert_eq!(gateway.status()["version"], VERSION);
    let notified = gateway.notified();
    assert_eq!(notified.iter().filter(|line| *line == "READY=1").count(), 3, "{notified:?}");
}

/// Sent at any moment around the exec; some hit it.
#[test]
fn no_sigterm_is_lost() {
    let mut random = Random::new(7);
    for round in 0..rounds(12, 200) {
        let gateway = Home::new().start();
        gateway.signal(libc::SIGUSR1);
        if round % 2 == 0 {
            // Just after the exec it has no handler yet.
            let catches = || {
                let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
                u64::from_str_radix(caught.trim(), 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
            };
            while catches() && !gateway.stderr().contains("restarted in place") {}
        } else {
            // Around the time that the proof and the exec take here.
            pause(Duration::from_micros(random.below(200_000) as u64));
        }
        gateway.signal(libc::SIGTERM);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
        let stop = history(gateway.home()).pop().unwrap();
        assert_eq!((&stop["verdict"], &stop["signal"]), (&json!("external"), &json!("SIGTERM")));
        assert_eq!(stop["sender"]["pid"], std::process::id(), "{stop}");
    }
}

/// An idle gateway has no connection whose end is a reason to look again.
#[test]
fn nobody_is_waited_for_where_nobody_is_connected() {
    let gateway = Home::new().start();
    let mut ready = gateway.notifications("READY=1");
    let mut away = || {
        gateway.signal(libc::SIGUSR1);
        ready += 1;
        gateway.wait_for_notifications("READY=1", ready, DEADLINE);
        gateway.status()["restart"]["last"]["away_ms"].as_u64().unwrap()
    };
    // On a busy machine one of some.
    assert!((0..20).any(|_| away() < 150));
}

/// A start that hangs: it has not begun its run when the signal comes.
#[test]
fn a_sigterm_before_the_new_run_has_begun_is_in_the_history() {
    let home = Home::new();
    let hang = home.path().join("hang");
    let lock = home.runtime_dir().join("lock");
    let (when, on) = (When::While(&hang), lock.to_str().unwrap());
    let fault = Fault { call: "openat", error: HANG, when, on };
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = fault.into(home.launch(), &home).start();
    let running = gateway.begin("one", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGUSR1);
    gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
    fs::write(&hang, "").unwrap();
    gate.open();
    eventually("the next start hangs", || (!fault::hits(&home).is_empty()).then_some(()));
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    drop(running);
    let stop = history(&home).pop().unwrap();
    assert_eq!((&stop["verdict"], &stop["signal"]), (&json!("external"), &json!("SIGTERM")));
    assert_eq!(stop["sender"]["pid"], std::process::id(), "{stop}");
}

#[test]
fn a_stop_during_the_pause_begins_nothing_but_what_a_client_waits_for() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let mut running = gateway.begin("one", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGUSR1);
    gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
    let later = ["a", "b"].map(|session| gateway.api().accepted(session, "later"));
    let mut parked = gateway.begin("two", false);
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_log("Shutdown context", DEADLINE);
    gate.open();
    running.response().assert_status(200);
    parked.response();
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    let said = gateway.stderr();
    assert!(!later.iter().any(|id| said.contains(id.as_str())), "{said}");
    let next = home.start();
    later.iter().for_each(|id| drop(next.api().finished(id)));
}

#[test]
fn turns_in_flight_finish_and_what_comes_meanwhile_waits_for_nobody() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let running = gateway.begin("one", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGUSR1);
    gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
    // Accepted and not begun; and a chat, which waits for its answer.
    let later = gateway.api().accepted("s", "two");
    let parked = gateway.begin("three", false);
    assert_eq!(gateway.status()["turns"]["running"], 1);
    let refused = home.launch().try_start().err().expect("the lock is held").assert_code(69);
    assert!(refused.stderr.contains("already running"), "{}", refused.stderr);
    gate.open();
    let mut running = running;
    running.response().assert_status(200);
    gateway.wait_for_log("restarted in place", DEADLINE);
    gateway.api().finished(&later);
    let mut parked = parked;
    parked.response().assert_status(200);
    assert_eq!(history(&home).last().unwrap()["in_flight"], 1);
}

#[test]
fn a_turn_that_takes_too_long_is_interrupted_and_runs_again() {
    let home = Home::new();
    let once = home.path().join("once");
    let agent =
        format!("test -e {0} || {{ touch {0}; exec sleep 600; }}; echo again", once.display());
    home.configure(&format!(
        "{}[stop]\ndrain_timeout = \"300ms\"\n[limits]\nmax_attempts = 1\n",
        script(&agent)
    ));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    eventually("the turn runs", || once.exists().then_some(()));
    restart(&gateway);
    // That costs none of its attempts.
    assert_eq!(gateway.api().reply(&id).trim(), "again");
    let line = history(&home).pop().unwrap();
    assert_eq!((&line["in_flight"], &line["cut"]), (&json!(1), &json!(1)), "{line}");
}

#[test]
fn with_a_broken_program_the_old_one_goes_on() {
    let home = Home::new();
    let program: PathBuf = home.path().join("h/hermes-gateway");
    put_gateway(&program, false);
    home.configure("[restart]\nstart_timeout = \"3s\"\n");
    let gateway = home.launch().program(&program).start();
    let number = if util::full() { BROKEN.len() } else { 11 };
    for (kind, words) in &BROKEN[..number] {
        put(kind, &program);
        let failed = home.run(&["restart", "--graceful"]).assert_code(1);
        let said = format!("default is not restarted, pid {} goes on as it is: ", gateway.pid());
        assert!(
            failed.stderr.contains(&said) && failed.stderr.contains(words),
            "{kind}: {failed:?}"
        );
        assert_eq!(gateway.ask("still there?").assert_status(200).reply(), "still there?");
        eventually("what it says of itself", || {
            let status = gateway.notified().pop().unwrap();
            (status.starts_with("STATUS=Serving") && status.contains("no restart: ")).then_some(())
        });
        let _ = fs::remove_dir(&program);
    }
    assert!(history(&home).is_empty());
    put_gateway(&program, true);
    restart(&gateway);
    assert_eq!(gateway.status()["version"], NEWER);
}

#[test]
fn what_is_in_memory_only_is_not_given_up() {
    let home = Home::new();
    let gateway = home.launch().arg("--ephemeral").start();
    let failed = home.run(&["restart", "--graceful"]).assert_code(1);
    assert!(failed.stderr.contains("its messages are in memory"), "{failed:?}");
    assert_eq!(gateway.ask("x").assert_status(200).reply(), "x");
}

#[test]
fn an_agent_asks_for_it_and_is_not_waited_for_by_itself() {
    let home = Home::new();
    let command = format!("{} restart --graceful", util::binary().display());
    let agent = script(&format!("{command} 2>&1")).replace("[agent]\n", "");
    let pass = "pass_env = [\"XDG_CONFIG_HOME\", \"XDG_STATE_HOME\", \"XDG_RUNTIME_DIR\"]\n";
    home.configure(&format!("[agent]\n{agent}{pass}"));
    let gateway = home.start();
    let reply = gateway.ask("restart").assert_status(200).reply();
    assert!(reply.contains("does not wait"), "{reply}");
    gateway.wait_for_log("restarted in place", DEADLINE);
    home.run(&["stop"]).assert_code(0);
    let failed = home.run(&["restart", "--graceful"]).assert_code(69);
    assert!(failed.stderr.contains("gateway default is not running"), "{failed:?}");
}

#[test]
fn a_variable_that_names_no_handover_is_an_error() {
    let home = Home::new();
    for (value, words) in [("x", "that is no descriptor"), ("99", "the descriptor cannot be read")]
    {
        let refused = home.launch().env("HERMES_GATEWAY_HANDOVER", value).try_start();
        let said = refused.err().expect("a start that is refused").assert_code(78).stderr;
        assert!(said.contains(&format!("HERMES_GATEWAY_HANDOVER={value}: {words}")), "{said}");
    }
}

#[test]
fn a_connection_that_has_sent_nothing_yet_is_served_after_it() {
    let gateway = Gateway::start();
    let mut idle = gateway.connect();
    idle.get("/health", &[]).assert_status(200);
    let silent = TcpStream::connect(gateway.address()).unwrap();
    restart(&gateway);
    idle.get("/health", &[]).assert_status(200);
    drop(silent);
}

/// Waits for the proof, and for a turn that has begun before it.
#[track_caller]
fn waiting(gateway: &Gateway) -> util::http::Connection {
    let running = gateway.begin("x", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGUSR1);
    gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
    running
}

#[test]
fn a_configuration_that_was_made_wrong_after_the_proof_keeps_the_old_one() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let mut running = waiting(&gateway);
    let mut parked = gateway.begin("parked", false);
    home.configure("[agent]\nmodle = \"echo\"\n");
    gate.open();
    gateway.wait_for_log("no restart: the configuration is wrong", DEADLINE);
    running.response().assert_status(200);
    parked.response().assert_status(200);
    // Nothing is left of it: work goes on, and the next one happens.
    let id = gateway.api().accepted("s", "later");
    gateway.api().finished(&id);
    home.configure("[agent]\ncommand = []\n");
    restart(&gateway);
    assert_eq!(history(&home).len(), 1);
}

/// What was told to end could not go on in this process.
#[test]
fn no_turn_is_interrupted_for_a_configuration_that_is_wrong_by_then() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let good = format!("{}[stop]\ndrain_timeout = \"1s\"\n", gate.agent());
    home.configure(&good);
    let gateway = home.start();
    let mut running = gateway.begin("one", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGUSR1);
    gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
    let later = gateway.api().accepted("s", "two");
    let mut parked = gateway.begin("three", false);
    home.configure(&format!("{good}[nonsense]\n"));
    gateway.wait_for_log("no restart: the configuration is wrong", DEADLINE);
    gate.open();
    running.response().assert_status(200);
    parked.response().assert_status(200);
    gateway.api().finished(&later);
    assert!(history(&home).is_empty());
    home.configure(&good);
    restart(&gateway);
}

#[test]
fn a_program_that_was_written_to_after_the_proof_is_not_executed() {
    let home = Home::new();
    let program = home.path().join("h/hermes-gateway");
    put_gateway(&program, false);
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.launch().program(&program).start();
    put_gateway(&program, true);
    let mut running = waiting(&gateway);
    fs::OpenOptions::new().append(true).open(&program).unwrap().write_all(b"x").unwrap();
    gate.open();
    running.response().assert_status(200);
    gateway.wait_for_log(
        "the new program could not be executed, the old one was: the program was written to",
        DEADLINE,
    );
    gateway.ask("x").assert_status(200);
    assert_eq!(gateway.status()["version"], VERSION);
}

#[test]
fn another_address_is_listened_at_before_the_old_one_is_given_up() {
    let home = Home::new();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (old, new) = (free(), free());
    let listen = |address: std::net::SocketAddr| format!("[http]\nlisten = \"{address}\"\n");
    home.configure(&listen(old));
    let gateway = home.launch().listen_as_configured().start();
    assert_eq!(gateway.address(), old);
    let taken = std::net::TcpListener::bind(new).unwrap();
    home.configure(&listen(new));
    let failed = home.run(&["restart", "--graceful"]).assert_code(1);
    assert!(failed.stderr.contains(&format!("{new} is taken by pid ")), "{failed:?}");
    assert_eq!(gateway.ask("x").assert_status(200).reply(), "x");
    drop(taken);
    restart(&gateway);
    assert_eq!(gateway.status()["listen"], new.to_string());
    assert!(TcpStream::connect(old).is_err());
    TcpStream::connect(new).unwrap();
    // One that overlaps with the present one cannot be had beside it.
    home.configure(&listen(format!("0.0.0.0:{}", new.port()).parse().unwrap()));
    let failed = home.run(&["restart", "--graceful"]).assert_code(1);
    assert!(
        failed.stderr.contains("only be changed by a restart that is not in place"),
        "{failed:?}"
    );
    assert_eq!(gateway.status()["listen"], new.to_string());
}

#[test]
fn one_that_is_asked_for_during_the_start_follows_it() {
    let home = Home::new();
    home.configure("");
    let mut lease = util::sys::Lease::take(&home.config_file()).unwrap();
    let starting = home.launch().spawn();
    lease.wait_until_asked(DEADLINE).unwrap();
    starting.signal(libc::SIGUSR1);
    starting.wait_for_log("a restart was asked for during the start", DEADLINE);
    drop(lease);
    starting.wait_for_log("restarted in place", DEADLINE);
    starting.signal(libc::SIGINT);
    assert_eq!(starting.wait_for_exit(DEADLINE), 0);
}
