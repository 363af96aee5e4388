//! The harness holds itself to its word, on small stand-ins for the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;
use std::time::Duration;

use util::http::Connection;
use util::sys::{self, Pidfd};
use util::{DEADLINE, Process, Sandbox, TempDir};

fn shell(script: &str) -> Process {
    Process::spawn(Command::new("bash").args(["-c", script]))
}

/// The message of the panic that `body` must end with.
fn failure_of(body: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(body)).expect_err("a failure");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn output_and_exit_status_of_a_child_are_seen() {
    let outcome = shell("echo out; echo err >&2; exit 7").finish(DEADLINE);
    assert_eq!(outcome.code(), 7);
    assert_eq!(outcome.stdout, "out\n");
    assert_eq!(outcome.stderr, "err\n");
}

#[test]
fn a_death_by_signal_reads_as_in_a_shell() {
    let process = shell("echo up; read -r < <(sleep 60)");
    process.wait_for_output("up", DEADLINE);
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_for_exit(DEADLINE), 143);
    assert!(failure_of(|| process.signal(libc::SIGTERM)).contains("too late"));
}

#[test]
fn a_log_line_is_waited_for_until_it_is_whole() {
    let process = shell(
        "printf 'half ' >&2; echo go; read -r -t 0.2 < <(sleep 60); echo 'and half' >&2; sleep 60",
    );
    process.wait_for_output("go", DEADLINE);
    assert_eq!(process.wait_for_log("half", DEADLINE), "half and half");
    let message = failure_of(|| {
        process.wait_for_log("never", Duration::from_millis(10));
    });
    assert!(message.contains("did not come within 10ms"), "{message}");
}

#[test]
fn who_waits_for_a_dead_child_learns_it_at_once() {
    let process = shell("echo last words >&2; exit 3");
    let message = failure_of(|| {
        process.wait_for_log("never", Duration::from_secs(3600));
    });
    assert!(message.contains("ended with 3"), "{message}");
    assert!(message.contains("last words"), "{message}");
}

#[test]
fn notifications_are_seen_even_from_a_child_that_ends_at_once() {
    let dir = TempDir::with_mode("", 0o700);
    let script = "import os, socket\n\
                  s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                  s.connect(os.environ['NOTIFY_SOCKET'])\n\
                  s.send(b'READY=1\\nSTATUS=up')\n\
                  s.send(b'STOPPING=1')";
    for _ in 0..5 {
        let mut command = Command::new("python3");
        let process = Process::spawn_notifying(command.args(["-c", script]), &dir.path().join("n"));
        process.wait_for_notification("STOPPING=1", DEADLINE);
        assert_eq!(process.notified(), ["READY=1", "STATUS=up", "STOPPING=1"]);
    }
}

#[test]
fn a_dropped_child_is_gone_with_its_group() {
    let process = shell("sleep 60 & echo $!; wait");
    let grandchild = process.wait_for_output("", DEADLINE).parse().unwrap();
    let pid = process.pid();
    drop(process);
    assert!(sys::kill(pid, 0).is_err());
    // Killed too, though its new parent may not have reaped it yet.
    let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || sys::kill(grandchild, 0).is_err() || !stat.contains(") S "));
}

/// Against a port where one of its connections comes about, and against one where none does.
#[test]
fn a_client_of_the_benchmark_that_cannot_connect_ends_at_once() {
    let dir = TempDir::with_mode("", 0o700);
    let program = dir.path().join("post");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/post.rs");
    let mut build = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    build.args(["--edition", "2024", "-o"]).arg(&program).arg(source);
    Process::spawn(&mut build).finish(Duration::from_secs(120)).assert_code(0);
    let post = |address: String| {
        let mut post = Command::new(&program);
        post.args([address.as_str(), "key", "4", "10", "10", ""]);
        Process::spawn(&mut post).finish(Duration::from_secs(60))
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Some connections come about and others do not.
    let one = thread::spawn(move || drop(listener.accept()));
    let ended = post(address.clone());
    assert_eq!(ended.code(), 1, "{}", ended.stderr);
    one.join().unwrap();
    let ended = post(address);
    assert!(ended.code() == 1 && ended.stderr.contains("refused"), "{}", ended.stderr);
}

#[test]
fn a_temporary_directory_is_removed_when_its_test_ends_or_fails() {
    for fails in [false, true] {
        let dir = TempDir::new("");
        let path = dir.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        let end = catch_unwind(AssertUnwindSafe(|| {
            let _dir = dir;
            assert!(!fails);
        }));
        assert_eq!(end.is_err(), fails);
        assert!(!path.exists());
    }
}

/// Run by the next test in a process of its own: leaves a directory behind, as a test that is killed does.
#[test]
fn a_directory_is_left_where_the_parent_asks_for_it() {
    if std::env::var_os("HERMES_TEST_LEAVES").is_some() {
        std::mem::forget(TempDir::new("left"));
    }
}

#[test]
fn what_a_killed_test_left_is_removed_by_the_next_test_program_and_what_is_used_stays() {
    let place = TempDir::new("");
    let run = |name: &str, leaves: bool| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("harness::{name}")]).env("TMPDIR", place.path());
        if leaves {
            command.env("HERMES_TEST_LEAVES", "1");
        }
        Process::spawn(&mut command).finish(DEADLINE).assert_code(0);
    };
    let left = || {
        let entries = std::fs::read_dir(place.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    run("a_directory_is_left_where_the_parent_asks_for_it", true);
    assert_eq!(left().len(), 2, "a directory and its lock");
    let used = place.path().join("hgt-used.lock");
    let lock = std::fs::File::create_new(&used).unwrap();
    lock.lock().unwrap();
    run("a_temporary_directory_is_removed_when_its_test_ends_or_fails", false);
    assert_eq!(left(), [used]);
}

/// Answers one connection with these bytes, whatever it is asked.
fn answering(response: &'static [u8]) -> Connection {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(response).unwrap();
    });
    Connection::tcp(address)
}

#[test]
fn a_response_is_read_by_its_length() {
    let mut connection = answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A:  b \r\n\r\nokHTTP/1.1 204 No\r\n\r\n",
    );
    let response = connection.get("/", &[]).assert_status(200);
    assert_eq!(response.text(), "ok");
    assert_eq!(response.field("X-A"), Some("b"));
    assert_eq!(connection.response().status(), 204);
    connection.assert_closed();
}

#[test]
fn a_response_is_read_by_chunks() {
    let response =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
    let mut connection = answering(response);
    assert_eq!(connection.post("/", &[], "{}").text(), "abcd");
}

#[test]
fn a_response_is_read_until_the_peer_closes() {
    let mut connection = answering(b"HTTP/1.1 200 OK\r\n\r\nall of it");
    assert_eq!(connection.get("/", &[]).text(), "all of it");
}

#[test]
fn a_response_that_is_cut_short_is_a_failure() {
    let message = failure_of(|| {
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").get("/", &[]);
    });
    assert!(message.contains("closed in the middle"), "{message}");
}

#[test]
fn a_forged_signal_says_what_it_was_told_to_say() {
    let script = "import os, signal\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
                  print('up', flush=True)\n\
                  i = signal.sigwaitinfo([signal.SIGTERM])\n\
                  print(i.si_code, i.si_pid, i.si_uid)";
    let process = Process::spawn(Command::new("python3").args(["-c", script]));
    process.wait_for_output("up", DEADLINE);
    sys::forge_signal(process.pid(), libc::SIGTERM, -1, 1, 77).unwrap();
    assert_eq!(process.wait_for_output(" ", DEADLINE), "-1 1 77");
}

#[test]
fn inside_a_sandbox_there_is_a_real_user_manager() {
    Sandbox::user().run(|manager| {
        assert_eq!(sys::uid(), 4242);
        assert!(manager.version() >= 247);
        let unit = manager.unit("stand-in.service");
        manager
            .systemd_run(&["--unit", unit.name, "-p", "Restart=always", "sleep", "600"])
            .assert_code(0);
        unit.wait_for(&[("ActiveState", "active"), ("SubState", "running")]);
        sys::kill(unit.main_pid(), libc::SIGKILL).unwrap();
        unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
        assert!(unit.journal().contains("status=9/KILL"), "{}", unit.journal());
        manager.systemctl(&["stop", unit.name]).assert_code(0);
        unit.assert(&[("ActiveState", "inactive")]);
    });
}

#[test]
fn inside_a_sandbox_root_reaches_both_managers() {
    Sandbox::system().run(|system| {
        assert_eq!(sys::uid(), 0);
        let own = system.unit("with-systemd.target");
        own.wait_for(&[("ActiveState", "active")]);
        let user = system.user();
        user.write_unit("a.service", "[Service]\nExecStart=sleep 600\n");
        user.write_unit("a.service.d/x.conf", "[Service]\nRestart=always\n");
        user.systemctl(&["start", "a.service"]).assert_code(0);
        let unit = user.unit("a.service");
        unit.assert(&[("ActiveState", "active"), ("Restart", "always")]);
        assert!(unit.journal().contains("Started"), "{}", unit.journal());
        system.systemctl(&["stop", "user@4242.service"]).assert_code(0);
        system.unit("user@4242.service").assert(&[("ActiveState", "inactive")]);
    });
}

#[test]
fn inside_a_sandbox_the_manager_can_be_made_to_hang() {
    Sandbox::user().run(|manager| {
        let unit = manager.unit("stand-in.service");
        manager.systemd_run(&["--unit", unit.name, "sleep", "600"]).assert_code(0);
        let service = Pidfd::open(unit.main_pid()).unwrap();
        let pid = manager.pid();
        sys::kill(pid, libc::SIGSTOP).unwrap();
        service.signal(libc::SIGTERM).unwrap();
        assert!(service.wait(DEADLINE).unwrap());
        sys::kill(pid, libc::SIGCONT).unwrap();
        unit.wait_for(&[("ActiveState", "inactive")]);
    });
}

#[test]
fn a_process_is_held_by_its_pidfd() {
    let process = shell("echo up; sleep 600");
    process.wait_for_output("up", DEADLINE);
    let held = Pidfd::open(process.pid()).unwrap();
    assert!(!held.wait(Duration::from_millis(1)).unwrap());
    held.signal(libc::SIGKILL).unwrap();
    assert!(held.wait(DEADLINE).unwrap());
    assert_eq!(process.wait_for_exit(DEADLINE), 137);
    assert!(held.signal(libc::SIGKILL).is_err());
}

#[test]
fn what_a_wrapper_wraps_is_found() {
    let process = shell("sleep 600 & echo up $!; wait");
    let line = process.wait_for_output("up", DEADLINE);
    assert_eq!(line, format!("up {}", process.children()[0]));
}

#[test]
fn a_failure_inside_a_sandbox_is_a_failure() {
    let inside = std::env::var_os("HERMES_SANDBOX").is_some();
    let sandbox = AssertUnwindSafe(|| {
        Sandbox::user().run(|_| panic!("as it should"));
    });
    if inside || sys::uid() != 0 {
        return sandbox.0();
    }
    let message = failure_of(sandbox.0);
    assert!(message.contains("as it should"), "{message}");
}
