//! What a turn or a delivery starts ends with it, here without a control group of its own: processes
//! in sessions of their own, double forks and storms of them included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use serde_json::json;

use util::fault::{Fault, When};
use util::sys::{self, Lease};
use util::{DEADLINE, Home, eventually, rounds, script};

/// A shell's words that start tools as agents do (in a session of their own, by a double fork, one
/// beside themselves) and wait until all of them run. The turn's own file has their pids.
fn tools(home: &Home) -> String {
    let file = format!("{}/tools-$HERMES_MESSAGE_ID", home.path().display());
    format!(
        "away='echo $$ >> {file}; exec sleep 600'; \
         setsid sh -c \"$away\" & (setsid sh -c \"$away\" &) ; sh -c \"$away\" & \
         (setsid sh -c \"trap '' TERM; $away\" &) ; \
         while [ \"$(cat {file} 2>/dev/null | wc -l)\" -lt 4 ]; do sleep 0.01; done"
    )
}

/// Waits until the tools of one turn run; their pids.
#[track_caller]
fn running_tools(home: &Home) -> Vec<i32> {
    eventually("the tools", || {
        let files = fs::read_dir(home.path()).unwrap().flatten();
        let mut files = files.filter(|f| f.file_name().to_string_lossy().starts_with("tools-"));
        let text = fs::read_to_string(files.next()?.path()).ok()?;
        let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 4).then_some(pids)
    })
}

/// Whether the process lives; one that is not reaped yet has ended.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The processes that have this home in their environment, but for gateways.
fn left(home: &Home) -> Vec<String> {
    let home = format!("HOME={}/h", home.path().display());
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let left = pids.filter_map(|entry| {
        let environ = fs::read(entry.path().join("environ")).ok()?;
        let theirs = environ.split(|byte| *byte == 0).any(|one| one == home.as_bytes());
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (theirs && !stat.contains("(hermes-gateway)")).then_some(stat)
    });
    left.filter(|stat| !stat.contains(") Z ")).collect()
}

#[track_caller]
fn assert_none_left(home: &Home) {
    let left = left(home);
    assert!(left.is_empty(), "{} outlive their turn: {left:#?}", left.len());
}

#[test]
fn a_turn_that_ends_by_itself_leaves_nothing() {
    let home = Home::new();
    home.configure(&script(&format!("{}; echo done", tools(&home))));
    let gateway = home.start();
    assert_eq!(gateway.ask("x").reply(), "done");
    assert_none_left(&home);
}

#[test]
fn a_turn_that_takes_too_long_leaves_nothing() {
    let home = Home::new();
    // The last one has cleared its environment: it is known by its parent, which still lives.
    let bare = format!(
        "env -i setsid sh -c 'echo $$ > {0}/bare; exec /bin/sleep 600' & ",
        home.path().display()
    );
    let text = format!("{bare}{}; sleep 600", tools(&home));
    home.configure(&format!("{}turn_timeout = \"1s\"\n", script(&text)));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    let pids = running_tools(&home);
    assert!(pids.iter().all(|pid| lives(*pid)));
    let message = gateway.api().finished(&id);
    assert!(message["error"].as_str().unwrap().contains("turn_timeout"), "{message}");
    assert_none_left(&home);
    let bare = fs::read_to_string(home.path().join("bare")).unwrap();
    assert!(!lives(bare.trim().parse().unwrap()), "{bare} is left");
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let home = Home::new();
    home.configure(&script(&format!("{}; sleep 600", tools(&home))));
    let gateway = home.start();
    for stream in [false, true] {
        let connection = gateway.begin("x", stream);
        running_tools(&home);
        drop(connection);
        gateway.wait_for_turns(0);
        eventually("the end of all", || left(&home).is_empty().then_some(()));
        for file in fs::read_dir(home.path()).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("tools-") {
                fs::remove_file(file.path()).unwrap();
            }
        }
    }
}

#[test]
fn a_message_that_is_cancelled_leaves_nothing() {
    let home = Home::new();
    home.configure(&script(&format!("{}; sleep 600", tools(&home))));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    running_tools(&home);
    gateway.api().delete(&format!("/v1/messages/{id}")).assert_status(200);
    eventually("the end of all", || left(&home).is_empty().then_some(()));
}

#[test]
fn a_stop_leaves_nothing() {
    let home = Home::new();
    let text = script(&format!("{}; sleep 600", tools(&home)));
    home.configure(&format!("{text}[stop]\ndrain_timeout = \"100ms\"\n"));
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let gateway = home.start();
        if signal == libc::SIGTERM {
            gateway.api().accepted("s", "x");
        }
        running_tools(&home);
        gateway.end(signal);
        assert_none_left(&home);
        // The next attempt has the same file for its own tools.
        for file in fs::read_dir(home.path()).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("tools-") {
                fs::remove_file(file.path()).unwrap();
            }
        }
    }
}

#[test]
fn nothing_of_a_killed_gateway_is_left_beside_the_next_attempt() {
    let home = Home::new();
    let here = home.path().display().to_string();
    // Every tool of the first attempt has this home in its environment, as `left` sees it.
    let second = format!(
        "for pid in $(cat {here}/tools-*); do [ -d /proc/$pid ] && ! grep -q '^State:.Z' /proc/$pid/status && echo beside; done; echo alone"
    );
    let text =
        format!("if [ $HERMES_ATTEMPT = 1 ]; then {}; sleep 600; else {second}; fi", tools(&home));
    home.configure(&script(&text));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    running_tools(&home);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(gateway.api().reply(&id), "alone");
    assert_none_left(&home);
}

#[test]
fn a_storm_of_forks_is_put_down() {
    let home = Home::new();
    let storm = home.path().join("storm");
    // 2 to the power of 8 processes, each in a session of its own, and a few hundred more on the way.
    let text = format!(
        "#!/bin/sh\n[ $1 -eq 0 ] || for n in 1 2; do (setsid {} $(($1 - 1)) &); done\nexec sleep 600\n",
        storm.display()
    );
    fs::write(&storm, text).unwrap();
    fs::set_permissions(&storm, fs::Permissions::from_mode(0o755)).unwrap();
    let text = script(&format!("{} 8 & sleep 600", storm.display()));
    home.configure(&format!("{text}turn_timeout = \"500ms\"\n"));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    gateway.api().finished(&id);
    assert_none_left(&home);
    // And the gateway has reaped what it inherited.
    eventually("no child is left", || gateway.children().is_empty().then_some(()));
}

#[test]
fn what_a_command_keeps_lives_on() {
    let home = Home::new();
    let text = format!(
        "setsid sh -c 'echo $$ > {}/pid; exec sleep 600' & echo done",
        home.path().display()
    );
    home.configure(&format!("{}leftovers = \"keep\"\n", script(&text)));
    let gateway = home.start();
    assert_eq!(gateway.ask("x").reply(), "done");
    let pid: i32 = eventually("a pid", || {
        fs::read_to_string(home.path().join("pid")).ok()?.trim().parse().ok()
    });
    assert_eq!(gateway.ask("x").reply(), "done");
    assert!(lives(pid));
    gateway.end(libc::SIGTERM);
    assert!(lives(pid), "a stop has ended it");
    for stat in left(&home) {
        let pid = stat.split(' ').next().unwrap().parse().unwrap();
        sys::kill(pid, libc::SIGKILL).unwrap();
    }
}

#[test]
fn what_a_delivery_forks_ends_with_it_or_is_kept() {
    let home = Home::new();
    let dir = home.path().display().to_string();
    let target = |name: &str, more: &str| {
        let text = format!(
            "(setsid sh -c 'sleep 1; cat > {dir}/{name}' & sleep 2; cat >> {dir}/{name}) & exit 0"
        );
        format!("[deliver.{name}]\ncommand = [\"sh\", \"-c\", {}]\n{more}\n", json!(text))
    };
    home.configure(&format!("{}{}", target("ends", ""), target("stays", "leftovers = \"keep\"")));
    let gateway = home.start();
    let api = gateway.api();
    let ends = api.deliver("a", "x", "ends");
    api.until_delivery(&ends, "delivered");
    assert_none_left(&home);
    let stays = api.deliver("b", "x", "stays");
    api.until_delivery(&stays, "delivered");
    eventually("what was kept", || home.path().join("stays").exists().then_some(()));
    assert!(!home.path().join("ends").exists());
}

/// The shell between the turn and its tool ends while the gateway looks for what is left: the tool is
/// handed to the gateway after that has listed its children.
#[test]
fn what_is_handed_over_during_the_search_is_found() {
    let home = Home::new();
    let file = format!("{}/tools-$HERMES_MESSAGE_ID", home.path().display());
    // It sees the gateway reap the turn, and ends then.
    let between = "setsid sh -c \"$away\" & while kill -0 $PPID 2>/dev/null; do sleep 0.01; done";
    let text = format!(
        "export away='echo $$ >> {file}; exec sleep 600'; setsid sh -c '{between}' & \
         while [ ! -s {file} ]; do sleep 0.01; done; echo done"
    );
    home.configure(&script(&text));
    let fault = Fault { call: "waitid", error: 50, when: When::From(1), on: "journal" };
    let gateway = fault.into(home.launch(), &home).start();
    for _ in 0..5 {
        assert_eq!(gateway.ask("x").reply(), "done");
        assert_none_left(&home);
    }
}

/// A process executes another program between two reads of its environment: the second finds no more.
#[test]
fn a_process_whose_environment_is_read_in_part_is_looked_at_again() {
    let home = Home::new();
    // Handed to the gateway before the turn ends, and in a session of its own: its mark alone says whose it is.
    let file = format!("{}/tools-$HERMES_MESSAGE_ID", home.path().display());
    let text = format!(
        "(setsid sh -c 'echo $$ >> {file}; exec sleep 600' &); \
         while [ ! -s {file} ]; do sleep 0.01; done; echo done"
    );
    home.configure(&script(&text));
    let fault = Fault { call: "environ", error: 0, when: When::From(1), on: "journal" };
    let gateway = fault.into(home.launch(), &home).start();
    for _ in 0..10 {
        assert_eq!(gateway.ask("x").reply(), "done");
        assert_none_left(&home);
    }
}

/// A program that is replaced by itself all the time has no environment for much of that.
#[test]
fn what_executes_all_the_time_is_found() {
    let home = Home::new();
    let program = home.path().join("again");
    let file = format!("{}/tools-$HERMES_MESSAGE_ID", home.path().display());
    let text = format!("#!/bin/sh\n[ -e {file} ] || echo > {file}\nexec \"$0\"\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let wait = format!("while [ ! -e {file} ]; do sleep 0.01; done");
    home.configure(&script(&format!("setsid {} & {wait}; echo done", program.display())));
    let gateway = home.start();
    for _ in 0..rounds(100, 3000) {
        assert_eq!(gateway.ask("x").reply(), "done");
        assert_none_left(&home);
    }
}

/// Turns with such tools, eight at once, beside a gateway of another name whose turn runs on.
#[test]
fn two_hundred_turns_leave_nothing_and_touch_no_neighbour() {
    let neighbour = Home::named("neighbour");
    neighbour.configure(&script(&format!("{}; sleep 600", tools(&neighbour))));
    let beside = neighbour.start();
    let open = beside.begin("x", false);
    let theirs = running_tools(&neighbour);

    let home = Home::new();
    let text = script(&format!("{}; echo done", tools(&home)));
    home.configure(&format!("{text}[limits]\nmax_turns = 8\n"));
    let gateway = home.start();
    let (turns, began) = (rounds(200, 2000), Instant::now());
    for _ in 0..turns / 8 {
        let turns: Vec<_> = (0..8).map(|_| gateway.begin("x", false)).collect();
        for mut turn in turns {
            assert_eq!(turn.response().reply(), "done");
        }
    }
    assert_none_left(&home);
    util::report(&format!("{turns} turns in {:?}", began.elapsed()));
    for pid in theirs {
        assert!(lives(pid), "{pid} of the neighbour's is gone");
    }
    drop(open);
    beside.wait_for_turns(0);
    eventually("no child is left", || gateway.children().is_empty().then_some(()));
}

/// A command whose exec waits for as long as the test likes.
fn held_up(home: &Home) -> (Lease, String) {
    let program = home.path().join("held");
    fs::copy("/bin/true", &program).unwrap();
    let lease = Lease::take(&program).unwrap();
    (lease, program.display().to_string())
}

/// As an ordinary process, and as process 1, which has to tell its children from orphans.
#[test]
fn an_exec_that_hangs_holds_nobody_up() {
    for process_one in [false, true] {
        let home = Home::new();
        let (mut lease, program) = held_up(&home);
        let target = format!("[deliver.held]\ncommand = [{program:?}]\n");
        let quick = "[stop]\ndrain_timeout = \"500ms\"\n";
        home.configure(&format!("{}{target}{quick}", script("(setsid true &); echo done")));
        let mut launch = home.launch();
        if process_one && sys::uid() != 0 {
            return util::skip("a pid namespace needs root");
        } else if process_one {
            let words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
            launch = launch.through(&words);
        }
        let gateway = launch.start();
        gateway.api().deliver("s", "x", "held");
        lease.wait_until_asked(DEADLINE).unwrap();
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(gateway.ask("x").reply(), "done");
        }
        let pid = if process_one { gateway.children()[0] } else { gateway.pid() };
        sys::kill(pid, libc::SIGINT).unwrap();
        assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
        // A lease is broken after 45 s at the latest (/proc/sys/fs/lease-break-time).
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    }
}
