//! People who talk to the agent over IRC: a real ngircd, and the adapter that the manual page shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use util::{DEADLINE, Gateway, Home, Process, TempDir, eventually, pause, script, skip};

const NGIRCD: &str = "/usr/sbin/ngircd";
const ADAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/channels/irc.py");
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/turns/living/agent.py");

/// An IRC server takes some ten lines a second of anybody.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server.
struct Server {
    dir: TempDir,
    port: u16,
    process: Option<Process>,
}

impl Server {
    /// `None`: ngircd is not installed.
    fn start() -> Option<Server> {
        if !Path::new(NGIRCD).exists() {
            skip("needs the package ngircd");
            return None;
        }
        // It takes no port 0.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = TempDir::new("");
        let config = format!(
            "[Global]\nName = irc.test\nInfo = test\nListen = 127.0.0.1\nPorts = {port}\n\
             [Limits]\nMaxConnectionsIP = 0\nMaxNickLength = 30\n\
             [Options]\nIdent = no\nDNS = no\nPAM = no\n"
        );
        fs::write(dir.path().join("ngircd.conf"), config).unwrap();
        let mut server = Server { dir, port, process: None };
        server.run();
        Some(server)
    }

    fn run(&mut self) {
        let mut command = Command::new(NGIRCD);
        command.arg("-n").arg("-f").arg(self.dir.path().join("ngircd.conf"));
        self.process = Some(Process::spawn(&mut command));
        eventually("the server", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    fn kill(&mut self) {
        let process = self.process.take().unwrap();
        process.signal(libc::SIGKILL);
        process.wait_for_exit(DEADLINE);
    }

    /// The adapter's command.
    fn adapter(&self) -> Vec<String> {
        let python = ["/usr/bin/python3", "python3"].into_iter().find(|it| Path::new(it).exists());
        let server = format!("127.0.0.1:{}", self.port);
        let words = [python.unwrap_or("python3"), ADAPTER, "--trust-nicks", "--pace", "0"];
        words.iter().chain(&[&*server, "bot", "#ops"]).map(|word| (*word).to_owned()).collect()
    }

    /// A channel with these people on it, and an agent.
    fn configure(&self, home: &Home, agent: &str, people: &str) {
        let command = json!(self.adapter());
        home.configure(&format!("{agent}[channel.office]\ncommand = {command}\n{people}"));
    }
}

/// Somebody on the server.
struct User {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl User {
    /// Comes to `#ops`, and waits for the bot there.
    fn join(server: &Server, nick: &str) -> User {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut user = User { stream, lines };
        user.write(&format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}"));
        user.until(" 001 ");
        user.write("JOIN #ops");
        let names = user.until(" 353 ");
        if !names.contains("bot") {
            user.until(":bot!");
        }
        user
    }

    fn write(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn say(&mut self, to: &str, text: &str) {
        self.write(&format!("PRIVMSG {to} :{text}"));
    }

    /// The next line that has this; each has to be UTF-8 and within the limit.
    #[track_caller]
    fn until(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no {part:?}");
            let mut line = Vec::new();
            self.lines.read_until(b'\n', &mut line).unwrap_or_else(|e| panic!("{part:?}: {e}"));
            assert!(line.ends_with(b"\r\n"), "the server has gone, before {part:?}");
            assert!(line.len() <= 512);
            let line = String::from_utf8(line).expect("whole characters");
            if let Some(token) = line.strip_prefix("PING ") {
                self.write(&format!("PONG {}", token.trim_end()));
            } else if line.contains(part) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// What the bot says next to somebody.
    #[track_caller]
    fn heard(&mut self, to: &str) -> String {
        let said = format!(" PRIVMSG {to} :");
        loop {
            let line = self.until(&said);
            if line.starts_with(":bot!") {
                return line.split_once(&said).unwrap().1.to_owned();
            }
        }
    }
}

fn channel(gateway: &Gateway) -> serde_json::Value {
    gateway.api().get("/v1/channels").assert_status(200).json()["channels"][0].clone()
}

#[test]
fn people_on_irc_are_answered_where_they_ask_and_strangers_are_not() {
    let Some(server) = Server::start() else { return };
    let home = Home::new();
    server.configure(&home, "", "allow = [\"ann\"]\ngroups = [\"#ops\"]\n");
    let gateway = home.start();
    let [mut ann, mut bob] = ["Ann", "Bob"].map(|nick| User::join(&server, nick));
    ann.say("#ops", "not for the agent");
    ann.say("#ops", "bot: one");
    assert_eq!((ann.heard("#ops"), bob.heard("#ops")), ("one".to_owned(), "one".to_owned()));
    bob.say("#ops", "BOT, zwei ä");
    assert_eq!(ann.heard("#ops"), "zwei ä");
    // He is not on the list: once the server has his line, the bot gets it before that of anybody else.
    bob.say("bot", "a stranger's words");
    bob.write("PING :through");
    bob.until("PONG");
    ann.say("bot", "three");
    assert_eq!(ann.heard("Ann"), "three");
    bob.say("#ops", "bot: four");
    assert_eq!((ann.heard("#ops"), bob.heard("#ops")), ("four".to_owned(), "four".to_owned()));
    assert!(!home.journal_text().contains("stranger"));
    // Somebody else may be told, too.
    let body = json!({"text": "five", "deliver": "office", "to": "#ops"});
    gateway.api().post("/v1/messages", &body).assert_status(202);
    assert_eq!(ann.heard("#ops"), "five");
}

#[test]
fn a_long_reply_comes_over_irc_in_lines_with_whole_characters() {
    let Some(server) = Server::start() else { return };
    let words: String = (0..400).map(|n| format!("wört{n} \u{1f980}漢字 ")).collect();
    let text = words + &"ä漢\u{1f980}".repeat(200);
    let home = Home::new();
    fs::write(home.path().join("text"), format!("{text}\n\n  last paragraph")).unwrap();
    let agent = script(&format!("cat {}", home.path().join("text").display()));
    server.configure(&home, &agent, "allow = [\"ann\"]\n");
    let _gateway = home.start();
    let mut ann = User::join(&server, "ann");
    ann.say("bot", "tell me");
    let mut heard = String::new();
    while !heard.ends_with("last paragraph") {
        heard = format!("{heard} {}", ann.heard("ann"));
    }
    let solid = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(solid(&heard), solid(&format!("{text} last paragraph")));
}

#[test]
fn a_server_that_was_away_is_a_gap_and_the_talk_goes_on() {
    let Some(mut server) = Server::start() else { return };
    let home = Home::new();
    server.configure(&home, "", "groups = [\"#ops\"]\n");
    let gateway = home.start();
    let mut ann = User::join(&server, "ann");
    ann.say("#ops", "bot: before");
    assert_eq!(ann.heard("#ops"), "before");
    assert!(channel(&gateway)["gap"].is_null());
    // Else it may have come or not, and is sent again.
    eventually("the receipt", || (channel(&gateway)["waiting"] == 0).then_some(()));
    server.kill();
    eventually("the loss", || (channel(&gateway)["state"] != "up").then_some(()));
    server.run();
    let mut ann = User::join(&server, "ann");
    ann.say("#ops", "bot: after");
    assert_eq!(ann.heard("#ops"), "after");
    let channel = channel(&gateway);
    assert_eq!(channel["state"], "up");
    assert!(channel["gap"].is_string(), "{channel}");
}

#[test]
fn a_flood_over_irc_is_answered_in_its_order() {
    let Some(server) = Server::start() else { return };
    let home = Home::new();
    server.configure(&home, "", "allow = [\"ann\"]\n");
    let _gateway = home.start();
    let mut ann = User::join(&server, "ann");
    (0..80).for_each(|n| ann.say("bot", &n.to_string()));
    for n in 0..80 {
        assert_eq!(ann.heard("ann"), n.to_string());
    }
}

#[test]
fn a_question_in_a_group_is_answered_in_words_by_who_caused_it() {
    let Some(server) = Server::start() else { return };
    let home = Home::new();
    let agent = format!(
        "[agent]\ncommand = [\"python3\", \"-I\", \"-S\", {AGENT:?}, \"\"]\nprotocol = \"acp\"\n\
         approve = \"ask\"\nenv = {{ HERMES_TEST_DIR = \"{}\" }}\n",
        home.path().display()
    );
    server.configure(&home, &agent, "groups = [\"#ops\"]\noperators = [\"bob\"]\n");
    let _gateway = home.start();
    let [mut ann, mut bob, mut eve] = ["ann", "bob", "eve"].map(|nick| User::join(&server, nick));
    for (by_operator, allow, said) in [(false, true, "allowed"), (true, false, "denied")] {
        ann.say("#ops", "bot: ask 1 delete all");
        let mut question = String::new();
        while !question.contains("/approve ") {
            question += &ann.heard("#ops");
        }
        let id = question.split("/approve ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(question.contains("delete all"), "{question}");
        // Whoever else is there cannot, and gets to know it.
        eve.say("#ops", &format!("bot: /approve {id}"));
        let refused = ann.heard("#ops");
        assert!(!refused.contains("allowed"), "{refused}");
        let word = if allow { "approve" } else { "deny" };
        let who = if by_operator { &mut bob } else { &mut ann };
        who.say("#ops", &format!("bot: /{word} {id}"));
        while ann.heard("#ops") != said {}
    }
}

#[test]
fn the_check_has_nothing_to_say_about_the_adapter_for_irc() {
    let Some(server) = Server::start() else { return };
    let (home, adapter) = (Home::new(), server.adapter());
    let mut words = vec!["channel", "check", "--to", "#ops", "--wait", "60", "--"];
    words.extend(adapter.iter().map(String::as_str));
    let check = Process::spawn(&mut home.command(&words));
    let mut ann = User::join(&server, "ann");
    // Until the last adapter has filled its window.
    let mut number = 0;
    while check.is_running() {
        ann.say("#ops", &number.to_string());
        number += 1;
        pause(Duration::from_millis(20));
    }
    let outcome = check.finish(PATIENCE * 2).assert_code(0);
    let untried = outcome.stdout.lines().filter(|line| line.starts_with("not tried")).count();
    assert_eq!(untried, 2, "{}", outcome.stdout);
}
