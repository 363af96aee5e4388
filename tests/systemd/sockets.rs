//! The listeners outlive the process: the service manager keeps them, so that nobody who connects while the
//! unit restarts is refused. After a stop the port is closed. And sockets of a `.socket` unit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use util::{DEADLINE, Manager, Sandbox, Service, UNIT, eventually, pause, report, rounds};

/// Between the end of one request and the next connection.
const BETWEEN: Duration = Duration::from_millis(2);

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// What a client has seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    answered: usize,
    refused: usize,
    /// The connection ended before the first byte of an answer.
    reset: usize,
    /// 503, or anything else that is no 200.
    rejected: usize,
    /// A connection that had been answered ended before the first byte of the next answer: that request is
    /// to be sent again (RFC 9112, section 9.3.1).
    retried: usize,
    longest: Duration,
}

/// A client with a new connection for each request, one after the other.
struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Client {
    fn start(address: SocketAddr) -> Client {
        Client::repeat(BETWEEN, move |seen| request(address, seen))
    }

    /// One that keeps its connection, and asks again as soon as it is answered.
    fn keep_alive(address: SocketAddr) -> Client {
        let mut kept = None;
        Client::repeat(Duration::ZERO, move |seen| request_again(address, &mut kept, seen))
    }

    fn repeat(between: Duration, mut request: impl FnMut(&mut Seen) + Send + 'static) -> Client {
        let stop = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&stop);
        let work = move || {
            let mut seen = Seen::default();
            while !ended.load(Ordering::SeqCst) {
                let began = Instant::now();
                request(&mut seen);
                seen.longest = seen.longest.max(began.elapsed());
                if !between.is_zero() {
                    pause(between);
                }
            }
            seen
        };
        Client { stop, thread: thread::spawn(work) }
    }

    fn end(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn request(address: SocketAddr, seen: &mut Seen) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        seen.refused += 1;
        return;
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = Vec::new();
    let sent = stream.write_all(REQUEST).and_then(|()| stream.read_to_end(&mut answer));
    match sent {
        _ if answer.starts_with(b"HTTP/1.1 200 ") => seen.answered += 1,
        _ if answer.is_empty() => seen.reset += 1,
        _ => seen.rejected += 1,
    }
}

fn request_again(address: SocketAddr, kept: &mut Option<TcpStream>, seen: &mut Seen) {
    let is_new = kept.is_none();
    let Some(mut stream) = kept.take().or_else(|| TcpStream::connect(address).ok()) else {
        seen.refused += 1;
        return;
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    let request = String::from_utf8_lossy(REQUEST).replace("Connection: close\r\n", "");
    let _ = stream.write_all(request.as_bytes());
    while !answer.ends_with(b"}") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    if text.starts_with("HTTP/1.1 200 ") && text.ends_with('}') {
        seen.answered += 1;
        *kept = Some(stream).filter(|_| !text.contains("Connection: close"));
    } else if answer.is_empty() {
        *if is_new { &mut seen.reset } else { &mut seen.retried } += 1;
    } else {
        seen.rejected += 1;
    }
}

/// Waits until the manager keeps both listeners.
#[track_caller]
fn wait_for_store(service: &Service<'_>) {
    service.unit().wait_for(&[("NFileDescriptorStore", "2")]);
}

#[track_caller]
fn assert_closed(address: SocketAddr) {
    let refused = TcpStream::connect(address).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[track_caller]
fn wait_for_another(service: &Service<'_>, before: i32) {
    eventually("another process", || {
        let pid = service.unit().main_pid();
        (pid != before && pid != 0).then_some(())
    });
    service.unit().wait_for(&[("ActiveState", "active"), ("SubState", "running")]);
}

#[test]
fn a_restart_a_kill_and_a_crash_refuse_nobody_and_a_stop_closes_the_port() {
    Sandbox::user().limit(Duration::from_secs(240)).run(|manager| {
        let service = Service::start(manager);
        wait_for_store(&service);
        let address = service.address();
        for (what, violent) in
            [("restart", false), ("SIGTERM", false), ("SIGKILL", true), ("SIGSEGV", true)]
        {
            let mut all = [Seen::default(), Seen::default()];
            for _ in 0..rounds(3, 20) {
                let before = service.pid();
                let clients = [Client::start(address), Client::keep_alive(address)];
                pause(Duration::from_millis(30));
                match what {
                    "restart" => service.systemctl("restart"),
                    "SIGTERM" => util::sys::kill(before, libc::SIGTERM).unwrap(),
                    "SIGKILL" => util::sys::kill(before, libc::SIGKILL).unwrap(),
                    signal => drop(manager.systemctl(&["kill", "--signal", signal, UNIT])),
                }
                wait_for_another(&service, before);
                pause(Duration::from_millis(30));
                for (seen, all) in clients.map(Client::end).iter().zip(&mut all) {
                    all.answered += seen.answered;
                    all.refused += seen.refused;
                    all.reset += seen.reset;
                    all.rejected += seen.rejected;
                    all.retried += seen.retried;
                    all.longest = all.longest.max(seen.longest);
                    assert!(seen.answered > 1, "{what}: {seen:?}");
                    // One that was being answered ends with its process.
                    assert!(seen.reset <= usize::from(violent), "{what}: {seen:?}");
                    assert!(seen.retried <= 1, "{what}: {seen:?}");
                }
            }
            report(&format!("{what}: a connection each {:?}; kept {:?}", all[0], all[1]));
            for all in all {
                assert_eq!((all.refused, all.rejected), (0, 0), "{what}: {all:?}");
            }
            assert_eq!(service.address(), address);
            wait_for_store(&service);
        }
        assert_eq!(service.unit().journal().matches("Cannot store more").count(), 0);

        // Also those that are connected and say nothing: a stop is told to all.
        service.systemctl("stop");
        service.unit().assert(&[("ActiveState", "inactive"), ("NFileDescriptorStore", "0")]);
        assert_closed(address);
        pause(Duration::from_millis(200));
        assert_closed(address);
        service.unit().assert(&[("ActiveState", "inactive")]);
    });
}

#[test]
fn during_a_stop_who_connects_is_told_and_during_a_restart_waits_for_the_next_process() {
    Sandbox::user().run(|manager| {
        let dir = manager.home().join("go");
        let go = dir.display().to_string();
        let agent = format!("while ! [ -e {go} ]; do sleep 0.02; done; echo done");
        let service = Service::start_with(manager, &util::script(&agent), "");
        wait_for_store(&service);
        let address = service.address();
        for (verb, status) in [("restart", "200"), ("stop", "503")] {
            let _ = fs::remove_file(&dir);
            let before = service.pid();
            let mut control = service.control();
            let message = serde_json::json!({ "text": "x" }).to_string();
            control.post("/v1/messages", &[], &message).assert_status(202);
            service.wait_for_turns(1);
            manager.systemctl(&[verb, "--no-block", UNIT]).assert_code(0);
            eventually("the drain", || (service.status()["state"] == "draining").then_some(()));
            let verdicts = || service.unit().journal().matches("verdict=planned").count();
            let expected = if verb == "restart" { 1 } else { 2 };
            eventually("the verdict", || (verdicts() >= expected).then_some(()));
            let mut waiting = TcpStream::connect(address).unwrap();
            waiting.write_all(REQUEST).unwrap();
            if verb == "restart" {
                waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let kind = waiting.read(&mut [0]).unwrap_err().kind();
                assert_eq!(kind, ErrorKind::WouldBlock, "nobody has answered");
                assert_eq!(service.pid(), before);
            } else {
                waiting.set_read_timeout(Some(DEADLINE)).unwrap();
            }
            let mut answer = [0; 12];
            if verb == "stop" {
                waiting.read_exact(&mut answer).unwrap();
            }
            manager.write(&dir, "");
            if verb == "restart" {
                wait_for_another(&service, before);
                waiting.set_read_timeout(Some(DEADLINE)).unwrap();
                waiting.read_exact(&mut answer).unwrap();
            }
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));
        }
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        assert_closed(address);
    });
}

#[test]
fn who_was_accepted_before_a_restart_is_answered_though_the_request_comes_late() {
    // On a busy machine a client, or the thread that serves it, waits for a processor.
    const LATE: Duration = Duration::from_millis(500);
    const TOO_LATE: Duration = Duration::from_millis(900);
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "");
        let mut sent = Duration::MAX;
        for _ in 0..20 {
            wait_for_store(&service);
            let before = service.pid();
            let mut early = TcpStream::connect(service.address()).unwrap();
            eventually("accepted", || {
                (service.status()["connections"].as_u64()? >= 1).then_some(())
            });
            let began = Instant::now();
            manager.systemctl(&["restart", "--no-block", UNIT]).assert_code(0);
            pause(LATE.saturating_sub(began.elapsed()));
            sent = began.elapsed();
            let _ = early.write_all(REQUEST);
            let mut answer = [0; 12];
            early.set_read_timeout(Some(DEADLINE)).unwrap();
            let read = early.read_exact(&mut answer);
            wait_for_another(&service, before);
            // Where this program had to wait for so long itself, it has shown nothing.
            if sent < TOO_LATE {
                read.unwrap();
                assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200");
                return;
            }
        }
        panic!("no request was sent in time; the last came after {sent:?}");
    });
}

#[test]
fn until_the_manager_has_answered_nobody_is_accepted_and_then_all_are_told_or_served() {
    Sandbox::user().run(|manager| {
        let dir = manager.home().join("bin");
        let (go, asked) = (dir.join("go"), dir.join("asked"));
        let (shown_go, shown_asked) = (go.display(), asked.display());
        let wrapper = format!(
            "#!/bin/sh\nif ! [ -e {shown_go} ]; then : > {shown_asked}; fi\n\
             while ! [ -e {shown_go} ]; do sleep 0.01; done\nPATH=/usr/bin:/bin exec systemctl \"$@\"\n"
        );
        manager.write(&dir.join("systemctl"), &wrapper);
        fs::set_permissions(dir.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        manager.write(&go, "");
        let path = format!("[Service]\nEnvironment=\"PATH={}:/usr/bin:/bin\"\n", dir.display());
        let service = Service::start_with(manager, "", &path);
        wait_for_store(&service);
        let address = service.address();
        for (verb, status) in [("restart", "200"), ("stop", "503")] {
            let before = service.pid();
            fs::remove_file(&go).unwrap();
            manager.systemctl(&[verb, "--no-block", UNIT]).assert_code(0);
            eventually("the question", || asked.exists().then_some(()));
            let mut waiting = TcpStream::connect(address).unwrap();
            waiting.write_all(REQUEST).unwrap();
            waiting.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            manager.write(&go, "");
            fs::remove_file(&asked).unwrap();
            let mut answer = [0; 12];
            waiting.set_read_timeout(Some(DEADLINE)).unwrap();
            waiting.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{verb}");
            if verb == "restart" {
                wait_for_another(&service, before);
                wait_for_store(&service);
            }
        }
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        assert_closed(address);
    });
}

#[test]
fn a_stop_asks_for_more_than_its_verdict_only_where_a_client_needs_it() {
    Sandbox::user().run(|manager| {
        let dir = manager.home().join("bin");
        let asked = dir.join("asked");
        let wrapper = format!(
            "#!/bin/sh\necho \"$@\" >> {}\nPATH=/usr/bin:/bin exec systemctl \"$@\"\n",
            asked.display()
        );
        manager.write(&dir.join("systemctl"), &wrapper);
        fs::set_permissions(dir.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("[Service]\nEnvironment=\"PATH={}:/usr/bin:/bin\"\n", dir.display());
        let service = Service::start_with(manager, "", &path);
        for (connected, verb) in
            [(false, "restart"), (true, "restart"), (false, "stop"), (true, "stop")]
        {
            service.systemctl("start");
            wait_for_store(&service);
            let client = connected.then(|| {
                let mut client = TcpStream::connect(service.address()).unwrap();
                client.write_all(REQUEST).unwrap();
                client.read_exact(&mut [0; 12]).unwrap();
                client
            });
            let stops = service.unit().journal().matches("Shutdown context").count();
            fs::remove_file(&asked).unwrap();
            // What the next start asks comes behind it.
            manager
                .write_unit(&format!("{UNIT}.d/30-wait.conf"), "[Service]\nExecStartPre=false\n");
            let _ = manager.systemctl(&[verb, UNIT]);
            drop(client);
            let journal = service.unit().journal();
            assert_eq!(journal.matches("Shutdown context").count(), stops + 1);
            let questions = fs::read_to_string(&asked).unwrap();
            let asks = questions.matches("list-jobs").count();
            assert_eq!(asks, usize::from(connected), "{verb} {connected}: {questions}");
            manager.write_unit(&format!("{UNIT}.d/30-wait.conf"), "");
            service.systemctl("reset-failed");
        }
    });
}

#[test]
fn a_restart_that_the_operator_must_act_upon_closes_the_port() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        wait_for_store(&service);
        let address = service.address();
        service.configure("[agent]\nmodle = \"echo\"\n");
        assert_ne!(manager.systemctl(&["restart", UNIT]).code(), 0);
        service.unit().assert(&[
            ("ActiveState", "failed"),
            ("ExecMainStatus", "78"),
            ("NFileDescriptorStore", "0"),
        ]);
        assert_closed(address);
        service.configure("");
        service.systemctl("start");
        assert_eq!(service.status()["state"], "serving");
    });
}

#[test]
fn a_changed_address_wins_over_the_socket_of_before_whose_clients_are_served() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        wait_for_store(&service);
        let port = service.address().port();
        let configure = |listen: &str| {
            manager.write(&service.config_file(), &format!("[http]\nlisten = {listen:?}\n"));
        };
        // The same port, once on all addresses and once on one: both at a time cannot be bound.
        for listen in [format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}")] {
            configure(&listen);
            service.systemctl("restart");
            assert_eq!(service.address().to_string(), listen);
            wait_for_store(&service);
        }
        let old = service.address();
        let before = service.pid();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        configure(&free.to_string());
        // It has come when nobody runs: the next process serves it, and closes that port.
        let slow = "[Service]\nRestartSec=1s\n";
        manager.write_unit(&format!("{UNIT}.d/30-slow.conf"), slow);
        util::sys::kill(before, libc::SIGKILL).unwrap();
        eventually("its end", || (service.unit().main_pid() == 0).then_some(()));
        let mut early = TcpStream::connect(old).unwrap();
        early.write_all(REQUEST).unwrap();
        wait_for_another(&service, before);
        assert_eq!(service.address(), free);
        let mut answer = String::new();
        early.set_read_timeout(Some(DEADLINE)).unwrap();
        early.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_closed(old);
        wait_for_store(&service);
        configure("127.0.0.1:0");
        service.systemctl("restart");
        assert_eq!(service.address(), free, "any free port: the one that it has");
    });
}

#[test]
fn the_control_socket_comes_back_and_who_waited_on_it_is_answered_once() {
    Sandbox::user().run(|manager| {
        let slow = "[Service]\nRestartSec=1s\n";
        let service = Service::start_with(manager, "", slow);
        manager.write_unit(&format!("{UNIT}.d/30-slow.conf"), slow);
        wait_for_store(&service);
        let dir = util::runtime_dir().join("hermes-gateway/default");
        let path = dir.join("control.sock");
        let cases = [(libc::SIGKILL, false), (libc::SIGTERM, false), (libc::SIGKILL, true)];
        for (signal, gone) in cases {
            let before = service.pid();
            util::sys::kill(before, signal).unwrap();
            eventually("its end", || (service.unit().main_pid() == 0).then_some(()));
            let mut waiting = UnixStream::connect(&path).unwrap();
            waiting.write_all(REQUEST).unwrap();
            let began = Instant::now();
            let status = manager.gateway(&["status"]).assert_code(3).stdout;
            assert!(status.contains("state  restarting"), "{status}");
            assert!(began.elapsed() < Duration::from_secs(5));
            if gone {
                fs::remove_dir_all(&dir).unwrap();
            }
            wait_for_another(&service, before);
            let mut answer = String::new();
            waiting.set_read_timeout(Some(DEADLINE)).unwrap();
            waiting.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1);
            assert_eq!(service.status()["state"], "serving");
            wait_for_store(&service);
        }
        // One that was made again while it ran is kept in the place of the other.
        fs::remove_file(&path).unwrap();
        eventually("the control socket", || path.exists().then_some(()));
        wait_for_store(&service);
        let before = service.pid();
        util::sys::kill(before, libc::SIGKILL).unwrap();
        eventually("its end", || (service.unit().main_pid() == 0).then_some(()));
        UnixStream::connect(&path).expect("somebody keeps it");
        wait_for_another(&service, before);
    });
}

#[test]
fn commands_wait_for_a_unit_that_restarts() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "[Service]\nRestartSec=2s\n");
        wait_for_store(&service);
        for words in [&["send", "hello"][..], &["reload"]] {
            let before = service.pid();
            util::sys::kill(before, libc::SIGKILL).unwrap();
            eventually("its end", || (service.unit().main_pid() == 0).then_some(()));
            let sent = manager.gateway(words).assert_code(0);
            assert!(sent.stderr.contains("restarts: waiting"), "{}", sent.stderr);
            assert_ne!(service.pid(), before);
        }
        service.systemctl("stop");
        let sent = manager.gateway(&["send", "hello"]).assert_code(69);
        assert!(sent.stderr.contains("is not running"), "{}", sent.stderr);
    });
}

#[test]
fn a_unit_without_the_setting_works_as_before() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "[Service]\nFileDescriptorStoreMax=0\n");
        let before = service.pid();
        service.systemctl("restart");
        assert_ne!(service.pid(), before);
        let before = service.pid();
        util::sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        let address = service.address();
        service.unit().assert(&[("NFileDescriptorStore", "0")]);
        service.systemctl("stop");
        service.assert_stopped(1);
        assert_closed(address);
        let journal = service.unit().journal();
        assert!(!journal.contains("store more fds"), "{journal}");
    });
}

#[test]
fn uninstall_leaves_nothing_in_the_store() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        wait_for_store(&service);
        let address = service.address();
        manager.gateway(&["uninstall"]).assert_code(0);
        assert_closed(address);
        let left = service.unit().property("NFileDescriptorStore");
        assert!(left.is_empty() || left == "0", "{left}");
    });
}

/// A `.socket` unit beside the gateway's own, with these lines.
fn socket_unit(manager: &Manager, lines: &str) {
    let name = UNIT.replace(".service", ".socket");
    let text = format!("[Socket]\n{lines}");
    manager.write_unit(&name, &text);
    manager.systemctl(&["start", &name]).assert_code(0);
}

#[test]
fn sockets_of_a_socket_unit_are_used_and_others_are_refused() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        manager.write(&service.config_file(), "[http]\nlisten = \"127.0.0.1:18997\"\n");
        let control = util::runtime_dir().join("hermes-gateway/default/control.sock");
        socket_unit(
            manager,
            &format!("ListenStream=127.0.0.1:18999\nListenStream={}\n", control.display()),
        );
        service.systemctl("start");
        assert_eq!(service.status()["listen"], "127.0.0.1:18999");
        service.unit().wait_for_journal("127.0.0.1:18999, which was handed over, not on 127.0.0.1:18997");
        // The control socket: the other is kept by its own unit.
        service.unit().wait_for(&[("NFileDescriptorStore", "1")]);
        let client = Client::start("127.0.0.1:18999".parse().unwrap());
        service.systemctl("restart");
        let seen = client.end();
        assert_eq!((seen.refused, seen.reset, seen.rejected), (0, 0, 0), "{seen:?}");
        service.systemctl("stop");
        manager.systemctl(&["stop", &UNIT.replace(".service", ".socket")]).assert_code(0);

        socket_unit(manager, "ListenDatagram=127.0.0.1:18998\n");
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        service.unit().assert(&[("ExecMainStatus", "78")]);
        let words = "descriptor 3 (hermes-gateway.socket), which was handed over (LISTEN_FDS), is an \
                     IPv4 socket for datagrams";
        service.unit().wait_for_journal(words);
    });
}
