//! A real browser: a page of a foreign origin does not reach the agent, by whatever way a page has, nor
//! under a name that was rebound to our address; a page that the configuration names does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use serde_json::Value;

use util::{DEADLINE, Gateway, Home, Process, skip};

/// A server of the page in tests/clients/page.html, and what the page tells it. What asks for anything
/// else gets to the gateway, where there is one: as behind a name that now means its address.
fn page_server(gateway: Option<SocketAddr>) -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, sender) = (stream.unwrap(), sender.clone());
            // Browsers open connections ahead of need, and say nothing on some.
            thread::spawn(move || serve_page(stream, gateway, &sender));
        }
    });
    (address, told)
}

/// Answers one request.
fn serve_page(mut stream: TcpStream, gateway: Option<SocketAddr>, told: &Sender<Value>) {
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        text += &String::from_utf8_lossy(&piece[..count]);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
            continue;
        }
        let (is_page, is_word) = (head.starts_with("GET /?"), head.starts_with("POST /told "));
        if let Some(gateway) = gateway.filter(|_| !is_page && !is_word) {
            let mut ours = TcpStream::connect(gateway).unwrap();
            let request = text.replacen("Connection: keep-alive", "Connection: close", 1);
            ours.write_all(request.as_bytes()).unwrap();
            let _ = std::io::copy(&mut ours, &mut stream);
            return;
        }
        if is_word {
            let _ = told.send(serde_json::from_str(body).unwrap());
        }
        let page =
            fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/page.html")).unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            page.len()
        );
        let _ = stream.write_all(&[head.as_bytes(), &page].concat());
        return;
    }
}

/// A headless browser at this address; `None`, loudly, where there is none.
fn browser(home: &Home, url: &str, more: &[&str]) -> Option<Process> {
    let chromium = "/usr/bin/chromium";
    if !Path::new(chromium).exists() {
        skip("there is no chromium: tests/run installs it");
        return None;
    }
    let profile = format!("--user-data-dir={}", home.path().join("profile").display());
    let mut command = Command::new(chromium);
    let flags = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run \
                 --disable-background-networking --disable-component-update --disable-sync";
    command.args(flags.split_whitespace()).arg(profile).args(more).arg(url);
    command.env("HOME", home.path()).env("TMPDIR", home.path());
    Some(Process::spawn(&mut command))
}

/// A gateway whose agent leaves a mark for each turn.
fn marking(more: &str) -> Gateway {
    let home = Home::new();
    let marks = home.path().join("marks");
    let script = format!("cat; echo turn >> '{}'", marks.display());
    home.configure(&format!("{}{more}", util::script(&script)));
    home.start()
}

fn marks(gateway: &Gateway) -> usize {
    let marks = fs::read_to_string(gateway.home().path().join("marks"));
    marks.map_or(0, |marks| marks.lines().count())
}

#[test]
fn a_foreign_page_reaches_nothing() {
    let (page, told) = page_server(None);
    let gateway = marking("");
    // Even with the key, which no page should have.
    let key = gateway.home().api_key();
    for asked in [String::new(), format!("&key={key}")] {
        let url = format!("http://{page}/?gateway=http://{}{asked}", gateway.address());
        let Some(browser) = browser(gateway.home(), &url, &[]) else { return };
        let told = told.recv_timeout(DEADLINE * 2).expect("the page tells");
        for way in ["simple", "json", "list"] {
            assert_eq!(told[way], "TypeError", "{told}");
        }
        for (way, result) in [
            ("blind", "opaque"),
            ("form", "not readable"),
            ("image", "error"),
            ("script", "error"),
            ("events", "error"),
            ("socket", "error"),
        ] {
            assert!(told[way] == result || told[way] == "TypeError", "{way}: {told}");
        }
        browser.signal(libc::SIGKILL);
    }
    assert_eq!(marks(&gateway), 0);
    // The agent is there for who may ask.
    assert_eq!(gateway.ask("x").reply(), "x");
    assert_eq!(marks(&gateway), 1);
}

/// A page whose name first means its own server and then the gateway: to the browser they are one
/// origin, so that only the name in Host tells (DNS rebinding).
#[test]
fn a_name_that_was_rebound_to_us_is_not_ours() {
    let rules = ["--host-resolver-rules=MAP rebind.test 127.0.0.1"];
    for (more, status, turns) in
        [("", "421 ", 0), ("[http]\nallowed_hosts = [\"rebind.test\"]\n", "200 ", 1)]
    {
        let gateway = marking(more);
        let (page, told) = page_server(Some(gateway.address()));
        let (here, key) = (format!("http://rebind.test:{}", page.port()), gateway.home().api_key());
        let url = format!("{here}/?gateway={here}&key={key}");
        let Some(browser) = browser(gateway.home(), &url, &rules) else { return };
        let told = told.recv_timeout(DEADLINE * 2).expect("the page tells");
        for way in ["json", "list"] {
            assert!(told[way].as_str().unwrap().starts_with(status), "{told}");
        }
        assert_eq!(marks(&gateway), turns, "{told}");
        browser.signal(libc::SIGKILL);
    }
}

#[test]
fn a_page_that_is_named_comes_in_with_a_key() {
    let (page, told) = page_server(None);
    let gateway = marking(&format!("[http]\nallowed_origins = [\"http://{page}\"]\n"));
    let (address, key) = (gateway.address(), gateway.home().api_key());
    let url = format!("http://{page}/?gateway=http://{address}&key={key}");
    let Some(_browser) = browser(gateway.home(), &url, &[]) else { return };
    let told = told.recv_timeout(DEADLINE * 2).expect("the page tells");
    for way in ["json", "list"] {
        assert!(told[way].as_str().unwrap().starts_with("200 {"), "{told}");
    }
    assert!(told["json"].as_str().unwrap().contains("from a page"), "{told}");
    // Without a key, or as something that is no JSON, it does not, page or not.
    assert!(told["simple"].as_str().unwrap().starts_with("401 "), "{told}");
    assert_eq!(marks(&gateway), 1);
}
