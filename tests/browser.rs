//! A real browser: a page of a foreign origin does not reach the agent, by whatever way a page has, nor
//! under a name that was rebound to our address; a page that the configuration names does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

use util::{DEADLINE, Gateway, Home, Process, skip};

/// A server of the page in tests/clients/page.html, and what the page tells it.
fn page_server() -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream.unwrap(), sender.clone());
            // Browsers open connections ahead of need, and say nothing on some.
            thread::spawn(move || {
                let (mut text, mut piece) = (String::new(), [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    text += &String::from_utf8_lossy(&piece[..count]);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    if let Some(told) =
                        serde_json::from_str(body).ok().filter(|_| head.starts_with("POST"))
                    {
                        let _ = sender.send(told);
                    } else if head.starts_with("POST") {
                        continue;
                    }
                    let page =
                        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/page.html"));
                    let page = page.unwrap();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
                         Content-Length: {}\r\nConnection: close\r\n\r\n",
                        page.len()
                    );
                    let _ = stream.write_all(&[head.as_bytes(), &page].concat());
                    return;
                }
            });
        }
    });
    (address, told)
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
    command.env("HOME", home.path());
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
    let (page, told) = page_server();
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

#[test]
fn a_name_that_was_rebound_to_us_is_not_ours() {
    let gateway = marking("");
    let url = format!("http://rebind.test:{}/v1/models", gateway.address().port());
    let rules = ["--host-resolver-rules=MAP rebind.test 127.0.0.1", "--dump-dom"];
    let Some(browser) = browser(gateway.home(), &url, &rules) else { return };
    let seen = browser.finish(DEADLINE * 2).stdout;
    assert!(seen.contains("unknown_host") && !seen.contains("\"data\""), "{seen}");
}

#[test]
fn a_page_that_is_named_comes_in_with_a_key() {
    let (page, told) = page_server();
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
