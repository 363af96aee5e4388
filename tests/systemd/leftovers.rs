//! What a turn starts ends with it, under a real systemd that delegates the unit's control group:
//! completely, whatever a process does to get away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::PathBuf;

use util::http::Connection;
use util::sys::{self, Pidfd};
use util::{Manager, Sandbox, Service, UNIT, eventually, script};

/// A shell's words that start tools with nothing by which they could be known but their control
/// group: in sessions of their own, without environment, their parents gone.
fn tools(manager: &Manager) -> String {
    let file = manager.home().join("tools");
    let file = file.display();
    format!(
        "away='echo $$ >> {file}; exec /bin/sleep 600'; \
         (env -i setsid sh -c \"$away\" &) ; setsid sh -c \"$away\" & sh -c \"trap '' TERM; $away\" & \
         while [ \"$(cat {file} 2>/dev/null | wc -l)\" -lt 3 ]; do sleep 0.01; done"
    )
}

#[track_caller]
fn running_tools(manager: &Manager) -> Vec<i32> {
    eventually("the tools", || {
        let text = fs::read_to_string(manager.home().join("tools")).ok()?;
        let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 3).then_some(pids)
    })
}

/// What begins a stop that waits for no turn.
const QUICK: &str = "[stop]\ndrain_timeout = \"100ms\"\n";

fn forget_tools(manager: &Manager) {
    fs::remove_file(manager.home().join("tools")).unwrap();
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn group_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// The control groups below the unit's own.
fn groups(service: &Service) -> Vec<PathBuf> {
    let own = format!("/sys/fs/cgroup{}", service.unit().property("ControlGroup"));
    let entries = fs::read_dir(own).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// One turn, whose answer is the caller's.
#[track_caller]
fn begin(service: &Service) -> Connection {
    let key = fs::read_to_string(service.state_dir().join("api.key")).unwrap();
    let authorization = format!("Bearer {}", key.trim());
    let fields = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let body = r#"{"messages":[{"role":"user","content":"x"}]}"#;
    let mut connection = Connection::tcp(service.address());
    let request = util::http::request("POST", "/v1/chat/completions", &fields, body.as_bytes());
    connection.send(&request);
    connection
}

/// A turn that runs, in a control group of its own: the pids of its tools.
#[track_caller]
fn begin_tools(manager: &Manager, service: &Service) -> (Connection, Vec<i32>) {
    let open = begin(service);
    let pids = running_tools(manager);
    for pid in &pids {
        let own = service.unit().property("ControlGroup");
        assert!(group_of(*pid).starts_with(&format!("{own}/turn-")), "{}", group_of(*pid));
    }
    (open, pids)
}

#[test]
fn each_turn_has_a_control_group_that_ends_with_it() {
    Sandbox::user().run(|manager| {
        let text = script(&format!("{}; sleep 600", tools(manager)));
        let service = Service::start_with(manager, &format!("{text}turn_timeout = \"2s\"\n"), "");
        let own = service.unit().property("ControlGroup");
        assert_eq!(service.unit().property("Delegate"), "yes");
        let (_open, pids) = begin_tools(manager, &service);
        assert_eq!(group_of(service.pid()), own);
        let controllers = fs::read_to_string(format!("/sys/fs/cgroup{own}/cgroup.subtree_control"));
        assert_eq!(controllers.unwrap().trim(), "");
        assert_eq!(groups(&service).len(), 1);
        service.wait_for_turns(0);
        for pid in pids {
            assert!(!lives(pid), "{pid} is left");
        }
        assert_eq!(groups(&service), Vec::<PathBuf>::new());
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

#[test]
fn a_turn_that_ends_by_itself_ends_what_it_has_started() {
    Sandbox::user().run(|manager| {
        let service =
            Service::start_with(manager, &script(&format!("{}; cat", tools(manager))), "");
        begin(&service).response().assert_status(200);
        let pids = running_tools(manager);
        assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
        assert_eq!(groups(&service), Vec::<PathBuf>::new());
    });
}

#[test]
fn neither_a_stop_nor_a_kill_leaves_anything() {
    Sandbox::user().run(|manager| {
        let config = script(&format!("{}; sleep 600", tools(manager)));
        let service = Service::start_with(manager, &format!("{config}{QUICK}"), "");
        let mut restarts = 0;
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let (_open, pids) = begin_tools(manager, &service);
            let before = service.pid();
            Pidfd::open(before).unwrap().signal(signal).unwrap();
            restarts += 1;
            service.wait_for_return(before, restarts);
            for pid in pids {
                assert!(!lives(pid), "{pid} is left after signal {signal}");
            }
            forget_tools(manager);
        }
        let (_open, pids) = begin_tools(manager, &service);
        service.systemctl("stop");
        service.assert_stopped(restarts);
        for pid in pids {
            assert!(sys::kill(pid, 0).is_err(), "{pid} is left");
        }
    });
}

/// Eight at once, beside another gateway of the same user whose turn runs on.
#[test]
fn two_hundred_turns_leave_nothing_and_touch_no_neighbour() {
    Sandbox::user().run(|manager| {
        let other = manager.home().join(".config/hermes-gateway/other.toml");
        let text = script(&format!("{}; sleep 600", tools(manager)));
        manager.write(&other, &format!("[http]\nlisten = \"127.0.0.1:0\"\n{text}{QUICK}"));
        manager.gateway(&["-p", "other", "install", "--now"]).assert_code(0);
        manager.gateway(&["-p", "other", "send", "-s", "a", "--async", "x"]).assert_code(0);
        let theirs = running_tools(manager);

        let away = "env -i setsid /bin/sleep 600";
        let config = script(&format!("({away} & {away} &) ; {away} & {away} & echo done"));
        let config = format!("{config}[limits]\nmax_turns = 8\n");
        let service = Service::start_with(manager, &config, "");
        for _ in 0..25 {
            let turns: Vec<_> = (0..8).map(|_| begin(&service)).collect();
            for mut turn in turns {
                turn.response().assert_status(200);
            }
        }
        assert_eq!(service.processes(), [service.pid()]);
        assert_eq!(groups(&service), Vec::<PathBuf>::new());
        assert!(theirs.iter().all(|pid| lives(*pid)), "one of the neighbour's is gone");
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

#[test]
fn a_filter_that_knows_no_clone3_hinders_no_group() {
    Sandbox::user().run(|manager| {
        let config = script(&format!("{}; sleep 600", tools(manager)));
        let filter = "[Service]\nRestrictNamespaces=yes\n";
        let service = Service::start_with(manager, &format!("{config}{QUICK}"), filter);
        let _turn = begin_tools(manager, &service);
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

#[test]
fn without_delegation_no_group_is_made() {
    Sandbox::user().run(|manager| {
        let config = script("setsid sh -c 'cat /proc/self/cgroup; exec sleep 600' & sleep 0.2");
        let service = Service::start_with(manager, &config, "[Service]\nDelegate=no\n");
        let own = service.unit().property("ControlGroup");
        for _ in 0..20 {
            let text = begin(&service).response().assert_status(200).text();
            assert!(text.contains(&own) && !text.contains("turn-"), "{text}");
        }
        let procs = fs::read_to_string(format!("/sys/fs/cgroup{own}/cgroup.procs")).unwrap();
        assert_eq!(procs.lines().count(), 1, "something is left");
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

#[test]
fn a_unit_of_the_machine_has_control_groups_for_its_turns_too() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let text = script(&format!("cat /proc/self/cgroup; {}", tools(&user)));
        let config = user.home().join(".config/hermes-gateway/default.toml");
        user.write(&config, &format!("[http]\nlisten = \"127.0.0.1:0\"\n{text}"));
        manager.gateway(&["install", "--system", "--user", "tester"]).assert_code(0);
        manager.systemctl(&["start", UNIT]).assert_code(0);
        let reply = user.gateway(&["send", "-s", "a", "x"]).assert_code(0).stdout;
        assert!(reply.contains("/system.slice/hermes-gateway.service/turn-"), "{reply}");
        let pids = running_tools(&user);
        assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
        manager.systemctl(&["stop", UNIT]).assert_code(0);
        manager.unit(UNIT).assert(&[("ActiveState", "inactive"), ("Result", "success")]);
    });
}
