//! Sockets that a parent has opened (sd_listen_fds(3)), without a service manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use util::{DEADLINE, Home, Process, eventually};

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn tcp() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A client that has connected and asked before anybody could serve it.
fn early(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(REQUEST).unwrap();
    stream
}

#[track_caller]
fn assert_answered(mut stream: impl Read) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

/// Waits until nobody listens there: a child that another test is about to start has copies of what this
/// program has open, for a moment.
#[track_caller]
fn assert_closed(address: SocketAddr) {
    let refused = |kind| (kind == ErrorKind::ConnectionRefused).then_some(());
    eventually("a closed port", || {
        TcpStream::connect(address).map(drop).map_or_else(|e| refused(e.kind()), |()| None)
    });
}

#[test]
fn sockets_of_a_parent_are_used_and_no_child_of_ours_gets_them() {
    let home = Home::new();
    let agent = "ls -l /proc/self/fd; env | grep ^LISTEN; echo end";
    home.configure(&util::script(agent));
    fs::create_dir_all(home.runtime_dir()).unwrap();
    let (listener, address) = tcp();
    let control = UnixListener::bind(home.control_socket()).unwrap();
    let (waiting, mut local) =
        (early(address), UnixStream::connect(home.control_socket()).unwrap());
    local.write_all(REQUEST).unwrap();
    local.set_read_timeout(Some(DEADLINE)).unwrap();
    let given = vec![control.into(), listener.into()];
    let gateway = home.launch().set("http.listen", "127.0.0.1:9").descriptors(given, "a.socket:b");
    let gateway = gateway.start();
    assert_eq!(gateway.address(), address);
    assert_answered(waiting);
    assert_answered(local);
    gateway.wait_for_log("which was handed over, not on 127.0.0.1:9", DEADLINE);
    let reply = gateway.ask("x").reply();
    assert!(reply.ends_with("end\n") || reply.ends_with("end"), "{reply}");
    assert!(!reply.contains("socket:") && !reply.contains("LISTEN"), "{reply}");
    // Somebody else's: not for our service manager to keep.
    assert!(!gateway.notified().iter().any(|line| line.contains("FDNAME=http")));
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_exit(DEADLINE);
    assert_closed(address);
}

#[test]
fn descriptors_for_another_process_are_none_of_ours() {
    let home = Home::new();
    let (listener, address) = tcp();
    let launch = home.launch().descriptors(vec![listener.into()], "http");
    // The shell is the process that they are for: it goes on as our parent.
    let gateway = launch.through(&["sh", "-c", "LISTEN_PID=$$ \"$@\"; true", "sh"]).start();
    assert_ne!(gateway.address(), address);
}

#[test]
fn anything_else_is_refused_by_number_name_and_type() {
    let stream = || {
        let (listener, address) = tcp();
        OwnedFd::from(TcpStream::connect(address).map(|stream| (stream, listener)).unwrap().0)
    };
    let dir = util::TempDir::new("elsewhere");
    let unix = UnixListener::bind(dir.path().join("s")).unwrap();
    let elsewhere = format!("is a unix socket at {:?}", dir.path().join("s").display());
    let (second, address) = tcp();
    let cases: Vec<(Vec<OwnedFd>, &str, String)> = vec![
        (
            vec![File::open("/dev/null").unwrap().into()],
            "x",
            "descriptor 3 (x), which was handed over (LISTEN_FDS), is a device".into(),
        ),
        (
            vec![tcp().0.into(), UdpSocket::bind("127.0.0.1:0").unwrap().into()],
            "http:web\u{1b}",
            "descriptor 4 (web\\u{1b}), which was handed over (LISTEN_FDS), is an IPv4 socket for \
             datagrams"
                .into(),
        ),
        (vec![stream()], "unknown", "is an IPv4 socket that does not listen".into()),
        (vec![unix.into()], "a.socket", elsewhere),
        (
            vec![tcp().0.into(), second.into()],
            "a.socket:a.socket",
            format!(
                "descriptor 4 (a.socket), which was handed over (LISTEN_FDS), is a second TCP socket, {address}"
            ),
        ),
        (vec![tcp().0.into()], "control", "is a TCP socket, 127.0.0.1:".into()),
        (vec![tcp().0.into()], "a:b", "LISTEN_FDS=1, but LISTEN_FDNAMES=\"a:b\"".into()),
    ];
    for (given, names, words) in cases {
        let home = Home::new();
        let refused = home.launch().descriptors(given, names).try_start().map(drop).unwrap_err();
        let refused = refused.assert_code(78);
        assert!(refused.stderr.contains(&words), "no {words:?} in:\n{}", refused.stderr);
        assert!(!home.control_socket().exists(), "nothing was bound");
    }
    let home = Home::new();
    let closed = home.launch().env("LISTEN_FDS", "2000").through(&[
        "sh",
        "-c",
        "ulimit -n 4096; LISTEN_PID=$$ exec \"$@\"",
        "sh",
    ]);
    let refused = closed.try_start().map(drop).unwrap_err().assert_code(78);
    assert!(refused.stderr.contains("is not open"), "{}", refused.stderr);
}

#[test]
fn of_our_own_a_changed_address_wins_and_what_waited_is_served() {
    let home = Home::new();
    let (listener, address) = tcp();
    let copy = listener.try_clone().unwrap();
    let again = home.launch().descriptors(vec![copy.into()], "http").start();
    assert_eq!(again.address(), address, "any free port: the one that it has");
    again.signal(libc::SIGKILL);
    again.wait_for_exit(DEADLINE);
    let waiting = early(address);
    let (free, new) = tcp();
    drop(free);
    let launch = home.launch().set("http.listen", &new.to_string());
    let gateway = launch.descriptors(vec![listener.into()], "http").start();
    assert_eq!(gateway.address(), new);
    assert_answered(waiting);
    assert_closed(address);
    let told = gateway.notified();
    let at = |line: &str| told.iter().position(|told| told == line);
    assert!(at("FDSTOREREMOVE=1").is_some() && at("FDSTOREREMOVE=1") < at("BARRIER=1"), "{told:?}");
    // What came back was kept, and what takes its place is to be kept before it is called ready.
    assert!(at("FDSTORE=1").is_some() && at("FDSTORE=1") < at("READY=1"), "{told:?}");
}

#[test]
fn the_control_socket_of_before_is_replaced_once_its_clients_are_answered() {
    let home = Home::new();
    fs::create_dir_all(home.runtime_dir()).unwrap();
    let old = UnixListener::bind(home.control_socket()).unwrap();
    let mut waiting = UnixStream::connect(home.control_socket()).unwrap();
    waiting.write_all(REQUEST).unwrap();
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    fs::remove_file(home.control_socket()).unwrap();
    let gateway = home.launch().descriptors(vec![old.into()], "control").start();
    assert_answered(waiting);
    assert_eq!(gateway.status()["state"], "serving");
}

#[test]
fn systemd_socket_activate_can_start_it() {
    let activate = Path::new("/usr/bin/systemd-socket-activate");
    if !activate.exists() {
        return util::skip("needs systemd-socket-activate, of the package systemd");
    }
    let home = Home::new();
    let (free, address) = tcp();
    drop(free);
    let command = home.command(&["run", "--set", "http.listen=127.0.0.1:9"]);
    let program = command.get_program().to_owned();
    let mut through = Command::new(activate);
    through.args(["-l", &address.to_string()]).arg(program).args(command.get_args());
    through.env_clear();
    for (name, value) in command.get_envs() {
        through.env(name, value.unwrap());
    }
    let process = Process::spawn(&mut through);
    // It starts the gateway at the first connection, which waits for that.
    let mut stream = eventually("the activator", || TcpStream::connect(address).ok());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(REQUEST).unwrap();
    assert_answered(stream);
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_for_exit(DEADLINE), 143);
}
