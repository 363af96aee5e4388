//! A program that a gateway is told to go over to, and that fails in one of many ways; see
//! tests/util/programs.rs, which builds it. Which way is at the end of its own file, behind the last line
//! feed. Called without `--check` it exits with status 1, whatever else it does.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::exit;
use std::thread;

fn main() {
    let file = fs::read("/proc/self/exe").unwrap();
    let at = file.iter().rposition(|byte| *byte == b'\n').unwrap();
    let kind = String::from_utf8_lossy(&file[at + 1..]).into_owned();
    if !std::env::args().any(|word| word == "--check") {
        eprintln!("this program can only be checked");
        exit(1);
    }
    match kind.as_str() {
        "environment" => {
            let mut names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
            names.sort();
            let words: Vec<String> = std::env::args().collect();
            let stat = fs::read_to_string("/proc/self/stat").unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            let leads = fields[2] == std::process::id().to_string();
            eprintln!("{} | {} | leads: {leads}", names.join(" "), words.join(" "));
            exit(1)
        }
        "exit-1" => {
            eprintln!("warning: an old tree\nhermes-gateway: no\u{1b}[31m luck\nin a second line");
            exit(1)
        }
        "exit-78" => {
            eprintln!("hermes-gateway: the configuration is wrong\nx.toml:2:1: unknown key \"novel\"");
            exit(78)
        }
        "old-journal" => {
            eprintln!("hermes-gateway: /s/journal: it has version 9: use the gateway that wrote it");
            exit(78)
        }
        "usage" => {
            eprintln!("hermes-gateway: unknown option \"--check\"");
            exit(64)
        }
        "hang" => {
            eprintln!("pid {}.", std::process::id());
            hang()
        }
        "crash" => crash(),
        "junk" => println!("{{\"ready\":\"\u{1b}yes\"}}"),
        "flood" => loop {
            print!("{}", "x".repeat(4096));
        },
        "silent" => return,
        "deleted" => fs::remove_file(fs::read_link("/proc/self/exe").unwrap()).unwrap(),
        _ => {}
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handover = if kind == "no-handover" { "" } else { ",\"handover\":1" };
    if kind != "junk" {
        println!("{{\"ready\":true,\"version\":\"9.9.9\",\"listen\":\"{address}\"{handover}}}");
    }
    match kind.as_str() {
        "ready-crash" => crash(),
        "no-health" => drop(listener),
        _ => drop(thread::spawn({
            let kind = kind.clone();
            move || serve(&listener, &kind)
        })),
    }
    if kind == "stays" {
        hang();
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    match kind.as_str() {
        "end-crash" => crash(),
        "end-exit-3" => exit(3),
        _ => {}
    }
}

fn serve(listener: &TcpListener, kind: &str) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 2048]);
        let version = if kind == "other-version" { "1.2.3" } else { "9.9.9" };
        let status = if kind == "unhealthy" { "500 No" } else { "200 OK" };
        let body = format!("{{\"status\":\"ok\",\"version\":\"{version}\"}}");
        let length = body.len();
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    }
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

fn crash() -> ! {
    // SAFETY: there is none: this is to end the process by SIGSEGV.
    unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
    exit(99)
}
