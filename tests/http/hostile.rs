//! What is out to harm the gateway, or does so without meaning to: clients that do not let go of a
//! drain, an agent that runs from its group, too few descriptors, a full disk, a start that is stopped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use util::http::{self, Connection};
use util::sys::{Lease, Pidfd};
use util::{
    DEADLINE, Gate, Gateway, Home, Process, Sandbox, Service, UNIT, eventually, pause, sys,
};

const CHAT: &str = "/v1/chat/completions";

/// A gateway with one turn that waits at a gate, in the middle of its drain.
#[track_caller]
fn draining() -> (Gateway, Gate, Connection) {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let agent = gate.agent();
    home.configure(&format!("{agent}[stop]\ndrain_timeout = \"30s\"\n"));
    let gateway = home.start();
    let turn = gateway.begin("the turn", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_log("Shutdown context", DEADLINE);
    (gateway, gate, turn)
}

/// Ends it with Ctrl-C, and returns what it had said.
#[track_caller]
fn interrupt(gateway: Gateway) -> String {
    gateway.signal(libc::SIGINT);
    let outcome = gateway.into_process().finish(DEADLINE);
    outcome.assert_code(0).stderr
}

#[test]
fn the_control_socket_takes_no_work_during_a_drain_and_tells_of_it() {
    let (gateway, gate, mut turn) = draining();
    let refused = gateway.control().post(CHAT, &[], &http::chat("no", false)).assert_status(503);
    assert!(refused.field("retry-after").is_some(), "{refused:?}");
    assert!(refused.error(503).contains("stopping"));
    let status = gateway.status();
    assert_eq!(status["state"], "draining", "{status}");
    assert_eq!(status["turns"]["running"], 1, "{status}");
    gate.open();
    assert_eq!(turn.response().reply(), "begun\nthe turn");
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
}

/// How many of its connections the client below keeps: more than it makes in three seconds.
const KEPT: usize = 300;

/// A client without a key that asks again and again, each time anew, and closes nothing before it
/// has made `KEPT` more. It ends when nobody listens any more, and counts its answers.
fn ask_without_end(address: SocketAddr, answers: Arc<AtomicUsize>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut kept = VecDeque::new();
        while let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            // Fails where the gateway ends meanwhile.
            let asked = stream.write_all(&http::request("GET", "/health", &[], b""));
            if asked.is_ok() && stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
                answers.fetch_add(1, Ordering::SeqCst);
            }
            kept.push_back(stream);
            if kept.len() > KEPT {
                kept.pop_front();
            }
            // The case is a stream of requests, not a flood.
            pause(Duration::from_millis(10));
        }
    })
}

#[test]
fn a_client_that_asks_without_end_does_not_stretch_the_drain() {
    let (gateway, gate, mut turn) = draining();
    let answers = Arc::default();
    let client = ask_without_end(gateway.address(), Arc::clone(&answers));
    eventually("answers before the gate opens", || {
        (answers.load(Ordering::SeqCst) >= 50).then_some(())
    });
    let opened = Instant::now();
    gate.open();
    assert_eq!(turn.response().reply(), "begun\nthe turn");
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    let took = opened.elapsed();
    client.join().unwrap();
    assert!(took <= Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_agent_that_leaves_its_process_group_is_ended_all_the_same() {
    let home = Home::new();
    let file = home.path().join("pid");
    // Into the gateway's own group: to signal that one would be to end the gateway.
    let script = format!(
        "$g = getpgrp(getppid); setpgrp(0, $g) or die \"setpgrp: $!\"; \
         open(F, '>', '{}') or die; print F \"$$ $g\\n\"; close F; sleep 60",
        file.display()
    );
    home.configure(&format!(
        "[agent]\ncommand = [\"perl\", \"-e\", {script:?}]\nturn_timeout = \"1s\"\n"
    ));
    let gateway = home.start();
    let began = Instant::now();
    let mut turn = gateway.begin("x", false);
    let (pid, group): (i32, i32) = eventually("a pid", || {
        let text = fs::read_to_string(&file).ok()?;
        let (pid, group) = text.strip_suffix('\n')?.split_once(' ')?;
        Some((pid.parse().ok()?, group.parse().ok()?))
    });
    let agent = Pidfd::open(pid).unwrap();
    assert_eq!(group, gateway.pid(), "it is in the gateway's group");
    turn.response().assert_status(504);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(agent.wait(Duration::ZERO).unwrap(), "it is still there");
    // And the gateway has not hit itself.
    assert_eq!(gateway.status()["turns"]["running"], 0);
    interrupt(gateway);
}

/// More connections than 512 descriptors have room for.
const CROWD: usize = 240;
/// As many of them at least must be let in.
const LET_IN: u64 = 170;

#[test]
fn many_queued_turns_do_not_use_the_descriptors_up() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home
        .launch()
        .through(&["prlimit", "--nofile=512:512"])
        .set("limits.max_turns", "2")
        .set("limits.max_queue", "1000")
        .start();
    let key = gateway.authorization();
    let ask = |number| {
        let session = format!("session-{number}");
        let fields = [
            ("Authorization", key.as_str()),
            ("Content-Type", "application/json"),
            ("X-Hermes-Session-Id", &session),
        ];
        let body = http::chat(&session, false);
        let mut connection = gateway.connect();
        connection.send(&http::request("POST", CHAT, &fields, body.as_bytes()));
        connection
    };
    let mut crowd: Vec<Connection> = (0..CROWD).map(ask).collect();
    // They are let in in their order: the last one's refusal means that all have been looked at.
    let last = crowd.pop().unwrap().response().assert_status(503);
    assert!(last.field("retry-after").is_some(), "{last:?}");
    eventually("all that were let in run or wait", || {
        let turns = &gateway.status()["turns"];
        let all = turns["running"].as_u64()? + turns["waiting"].as_u64()?;
        (turns["running"] == 2 && all >= LET_IN).then_some(())
    });
    gate.open();
    let mut answered = 0;
    for (number, connection) in crowd.iter_mut().enumerate() {
        let response = connection.response();
        match response.status() {
            503 | 429 => assert!(response.field("retry-after").is_some(), "{response:?}"),
            _ => {
                assert_eq!(response.reply(), format!("begun\nsession-{number}"));
                answered += 1;
            }
        }
    }
    assert!(answered >= LET_IN, "{answered}");
    let told = interrupt(gateway);
    assert!(!told.contains("Too many open files"), "{told}");
}

/// A state directory on a disk of 64 KiB, in a mount namespace of its own.
struct SmallDisk {
    home: Home,
    holder: Process,
}

impl SmallDisk {
    fn new() -> SmallDisk {
        let home = Home::new();
        let script =
            "mount -t tmpfs -o size=64k,mode=700 tmpfs \"$0\" && echo mounted && exec sleep 600";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(home.path().join("s"));
        let holder = Process::spawn(&mut command);
        holder.wait_for_output("mounted", DEADLINE);
        SmallDisk { home, holder }
    }

    /// How to reach a file of the state directory from out here.
    fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        let dir = self.home.state_dir();
        root.join(dir.strip_prefix("/").unwrap()).join(name)
    }

    fn start(&self) -> Gateway {
        let target = format!("--target={}", self.holder.pid());
        let words = ["nsenter", &target, "--mount", "--"];
        self.home.launch().through(&words).start()
    }

    /// Leaves no room, not even for a line in the history.
    fn fill(&self) {
        fs::remove_file(self.file("history.jsonl")).unwrap();
        let mut file = File::create(self.file("fill")).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 512]) {
                break error;
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    }
}

#[test]
fn a_full_disk_stops_nothing_and_leaves_no_wrong_word() {
    if sys::uid() != 0 {
        return util::skip("only root can mount a small disk");
    }
    for full_before_the_start in [true, false] {
        let disk = SmallDisk::new();
        // The key is made here.
        interrupt(disk.start());
        if full_before_the_start {
            disk.fill();
        }
        let gateway = disk.start();
        if !full_before_the_start {
            eventually("it has looked back", || {
                gateway.status()["last_stop"].is_object().then_some(())
            });
            disk.fill();
        }
        gateway.connect().get("/health", &[]).assert_status(200);
        let chat = http::chat("hello", false);
        assert_eq!(gateway.control().post(CHAT, &[], &chat).reply(), "hello");
        let told = interrupt(gateway);
        assert!(told.contains("could not be written"), "it was full: {told}");
        fs::remove_file(disk.file("fill")).unwrap();
        let told = interrupt(disk.start());
        assert!(!told.contains("unclean exit"), "{told}");
        let history = fs::read_to_string(disk.file("history.jsonl")).unwrap();
        assert!(history.contains("\"planned\""), "{history}");
        assert!(!history.contains("unclean exit"), "{history}");
    }
}

/// Puts a systemctl in front of the real one that waits at the gate, and returns its directory.
fn slow_systemctl(dir: &Path, gate: &Gate) -> PathBuf {
    let path = dir.join("slow");
    fs::create_dir(&path).unwrap();
    let script = format!(
        "#!/bin/sh\nPATH=/usr/bin:/bin\n: > {}\n{}\nexec systemctl \"$@\"\n",
        path.join("asked").display(),
        gate.wait()
    );
    fs::write(path.join("systemctl"), script).unwrap();
    fs::set_permissions(path.join("systemctl"), Permissions::from_mode(0o700)).unwrap();
    path
}

/// What a chat with this key gets: nothing at all where the connection is refused or closed.
fn ask_if_it_listens(address: SocketAddr, key_file: &Path) -> String {
    let key = fs::read_to_string(key_file).unwrap();
    let bearer = format!("Bearer {}", key.trim_end());
    let json = ("Content-Type", "application/json");
    let fields = [("Authorization", bearer.as_str()), json, ("Connection", "close")];
    let request = http::request("POST", CHAT, &fields, http::chat("no", false).as_bytes());
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // Errors are refusals too: what came before them counts.
        let _ = stream.write_all(&request);
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_start_that_is_complete_after_its_stop_takes_no_work() {
    Sandbox::user().run(|manager| {
        let gate = Gate::closed(&manager.home());
        let slow = slow_systemctl(&manager.home(), &gate);
        let path = format!(
            "[Service]\nRestart=no\nRestartForceExitStatus=\nEnvironment=PATH={}:/usr/bin:/bin\n",
            slow.display()
        );
        let service = Service::install(manager, "", &path);
        // A free port that is known before it listens.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = format!("[http]\nlisten = \"{address}\"\n");
        manager.write(&service.config_file(), &config);
        let mut lease = Lease::take(&service.config_file()).unwrap();
        let args = ["start", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        lease.wait_until_asked(DEADLINE).unwrap();
        sys::kill(service.pid(), libc::SIGTERM).unwrap();
        // From here on the drain has begun, and the question takes two seconds at most.
        eventually("the question", || slow.join("asked").exists().then_some(()));
        drop(lease);
        // Bound after the port and after the key was made: the start is as good as complete.
        let runtime = format!("/run/user/{}/hermes-gateway/default", sys::uid());
        let socket = Path::new(&runtime).join("control.sock");
        eventually("it listens", || UnixStream::connect(&socket).ok());
        let answer = ask_if_it_listens(address, &service.state_dir().join("api.key"));
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 503 "),
            "{answer}\n{}",
            service.unit().journal()
        );
        gate.open();
        service.unit().wait_for_journal("Exiting with code 143");
        let journal = service.unit().journal();
        assert!(!journal.contains("serves on"), "{journal}");
    });
}
