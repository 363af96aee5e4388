//! Telegram under SIGKILLs of the gateway, of its adapter, or of both, at random moments, with answers that are lost,
//! calls that fail, Telegram away, another token and a full disk: each update is one turn, in the order of its chat,
//! each reply arrives, and what is there twice has a reason.
//!
//! Judged by the books of the server and of the agent, which are kept outside of the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::telegram::until_state;
use crate::util;
use util::fault::{Fault, When};
use util::random::Random;
use util::sys::kill;
use util::telegram::{Telegram, adapter, text_of};
use util::{DEADLINE, Gateway, Home, pause, report, rounds};

/// Lines of a long reply, which makes two messages.
const LINES: usize = 9;

const FILLER: usize = 560;

/// Seconds in which the answer to a call is recorded, and in which a call reaches the server.
const RECORDED: f64 = 0.5;
const COMES: f64 = 0.2;

/// An agent that writes down what it begins. A long reply comes in several pieces.
fn agent(book: &Path) -> String {
    let script = format!(
        "read -r text; printf 'begin %s %s %s\\n' \"$HERMES_ATTEMPT\" \"$HERMES_MESSAGE_ID\" \"$text\" >> {}; \
         f=$(printf '%{FILLER}s' '' | tr ' ' z); \
         case $text in *long) l=1; while [ $l -le {LINES} ]; do printf '%s line %s %s\\n' \"$text\" $l $f; l=$((l+1)); \
         case $l in 4|7) sleep 0.15;; esac; done;; *) printf 're %s' \"$text\";; esac",
        book.display()
    );
    util::script(&script)
}

/// One message that somebody has said.
struct Said {
    chat: i64,
    text: String,
}

impl Said {
    /// What its reply has to be, word by word.
    fn words(&self) -> Vec<String> {
        let text = if self.text.ends_with("long") {
            let line = |l| format!("{} line {l} {} ", self.text, "z".repeat(FILLER));
            (1..=LINES).map(line).collect()
        } else {
            format!("re {}", self.text)
        };
        text.split_whitespace().map(str::to_owned).collect()
    }
}

struct Soak {
    home: Home,
    telegram: Telegram,
    book: PathBuf,
    chance: Random,
    chats: usize,
    said: Vec<Said>,
    /// Where the disk is full while it is there.
    full: Option<PathBuf>,
    tokens: usize,
    kills: [usize; 2],
    /// When something was killed or away, from and until, by the clock of the server's book: what was answered just
    /// before may not have been recorded.
    killed: Vec<[f64; 2]>,
}

impl Soak {
    #[track_caller]
    fn new(policy: &str, full: bool) -> Soak {
        let seed = std::env::var("HERMES_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed: u64 = seed.unwrap_or(u64::from(now.subsec_nanos()));
        report(&format!("HERMES_SEED={seed}"));
        let home = Home::new();
        let telegram = Telegram::start(&home);
        let book = home.path().join("agents");
        fs::write(&book, "").unwrap();
        let chats = rounds(10, 50);
        let allow: Vec<String> = (0..chats).map(|it| (1000 + it).to_string()).collect();
        let config = telegram
            .config("preview = true\n")
            .replace("[\"42\", \"43\"]", &json!(allow).to_string());
        home.configure(&format!(
            "{}[limits]\nmax_attempts = 20\nmax_turns = 4\nmax_queue_per_session = 100\n\
             {config}uncertain = {policy:?}\npace = \"1s\"\n",
            agent(&book),
        ));
        let full = full.then(|| home.path().join("full"));
        let (said, chance) = (Vec::new(), Random::new(seed));
        let soak = Soak {
            home,
            telegram,
            book,
            chance,
            chats,
            said,
            full,
            tokens: 0,
            kills: [0, 0],
            killed: Vec::new(),
        };
        soak.plan(&json!({ "seed": seed, "lose": 0.03, "drop": 0.01, "cut": 0.02, "fail": 0.02, "flood": 0.003 }));
        soak
    }

    fn good_token(&self) -> String {
        format!("{}-{}", self.telegram.secret, self.tokens)
    }

    fn plan(&self, random: &Value) {
        let token = self.good_token();
        self.telegram.plan(&json!({ "tokens": [token], "random": random, "poll": 5 }));
        self.telegram.token(&token);
    }

    fn start(&self) -> Gateway {
        let launch = self.home.launch();
        let Some(full) = &self.full else { return launch.start() };
        let (when, on) = (When::While(full), "journal");
        let fault = Fault { call: "write+fallocate", error: libc::ENOSPC, when, on };
        fault.into(launch, &self.home).start()
    }

    fn say(&mut self, count: usize) {
        for _ in 0..count {
            let chat = 1000 + i64::try_from(self.chance.below(self.chats)).unwrap();
            let number = self.said.iter().filter(|it| it.chat == chat).count();
            let long = if self.chance.one_in(5) { " long" } else { "" };
            let text = format!("c{chat} {number}{long}");
            self.telegram.say(chat, &text);
            self.said.push(Said { chat, text });
        }
    }

    /// How much the server has seen.
    fn seen(&self) -> u64 {
        let size =
            |name: &str| fs::metadata(self.telegram.path().join(name)).map_or(0, |it| it.len());
        size("confirmed.jsonl") + size("sent.jsonl")
    }

    /// Kills something at a random moment, and starts the gateway again if that was it.
    fn round(&mut self, gateway: Gateway) -> Gateway {
        // Some die before anything has come of them.
        let more = if self.chance.one_in(4) { 0 } else { 1 + self.chance.below(3000) as u64 };
        let (before, begun) = (self.seen(), Instant::now());
        let enough = |seen: u64| {
            let limit = Duration::from_secs(if seen == before { 5 } else { 1 });
            seen >= before + more || begun.elapsed() > limit
        };
        while !enough(self.seen()) {
            pause(Duration::from_millis(3));
        }
        let from = util::sys::monotonic();
        if let Some(full) = self.full.clone().filter(|_| self.chance.one_in(2)) {
            fs::write(&full, "").unwrap();
            pause(Duration::from_micros(self.chance.below(200_000) as u64));
            // A start on a full disk has its own tests.
            fs::remove_file(&full).unwrap();
        }
        pause(Duration::from_micros(self.chance.below(30_000) as u64));
        let what = self.chance.below(3);
        if what != 0 {
            // It may be between two adapters.
            let killed = adapter(&gateway).is_some_and(|pid| kill(pid, libc::SIGKILL).is_ok());
            self.kills[1] += usize::from(killed);
        }
        if what == 1 {
            self.killed.push([from, util::sys::monotonic()]);
            return gateway;
        }
        self.kills[0] += 1;
        let signal = if self.chance.one_in(6) { libc::SIGTERM } else { libc::SIGKILL };
        gateway.end(signal);
        self.killed.push([from, util::sys::monotonic()]);
        self.start()
    }

    /// Telegram is away for several pauses of the adapter's, of 1, 2, 4 s and so on; people write meanwhile.
    fn away(&mut self, gateway: &Gateway) {
        let from = util::sys::monotonic();
        self.telegram.away();
        self.killed.push([from, util::sys::monotonic()]);
        until_state(gateway, "connecting");
        self.say(rounds(10, 100));
        pause(Duration::from_secs(rounds(8, 60) as u64));
        assert_eq!(gateway.status()["channels"][0]["state"], "connecting");
        self.telegram.back();
    }

    /// The token is another one of the same bot.
    fn change_token(&mut self, gateway: &Gateway) {
        self.tokens += 1;
        self.plan(&json!({}));
        // One that was just started may know it already.
        util::eventually("it is started again", || {
            (gateway.home().run(&["channel", "restart", "family"]).code() == 0).then_some(())
        });
        until_state(gateway, "up");
    }

    /// Waits until all is answered and sent, as long as there is progress.
    #[track_caller]
    fn settle(&self, gateway: &Gateway) -> Vec<Value> {
        let mut last = (self.seen(), Instant::now());
        let mut messages = BTreeMap::new();
        loop {
            let book = fs::read_to_string(&self.book).unwrap();
            let begun = book.lines().filter_map(|line| line.strip_prefix("begin "));
            let begun = begun.filter_map(|line| line.split_once(' ')?.1.split_once(' '));
            let taken: BTreeMap<&str, &str> = begun.map(|(id, text)| (text, id)).collect();
            for (at, said) in self.said.iter().enumerate() {
                let id = taken.get(&*said.text).filter(|_| !messages.contains_key(&at));
                let Some(id) = id else { continue };
                let message = gateway.api().message(id);
                let status = message["deliveries"][0]["status"].as_str().unwrap_or_default();
                if ["delivered", "dead"].contains(&status) {
                    messages.insert(at, message);
                }
            }
            if messages.len() == self.said.len() {
                return messages.into_values().collect();
            }
            if self.seen() != last.0 {
                last = (self.seen(), Instant::now());
            }
            if last.1.elapsed() > DEADLINE {
                let open = (0..self.said.len()).filter(|at| !messages.contains_key(at));
                let open: Vec<_> = open
                    .map(|at| {
                        let text = &*self.said[at].text;
                        let message = taken.get(text).map(|id| gateway.api().message(id));
                        format!("{text}: {message:?}")
                    })
                    .collect();
                let status = gateway.status()["channels"].to_string();
                let some = &open[..open.len().min(20)];
                panic!("no progress; {status}; open: {}\n{}", open.len(), some.join("\n"));
            }
            pause(Duration::from_millis(100));
        }
    }
}

/// Holds the agent's book against what is promised: one turn each, in order.
fn audit_turns(soak: &Soak, messages: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let book = fs::read_to_string(&soak.book).unwrap();
    let mut turns: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut last: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (at, line) in book.lines().enumerate() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [_, attempt, id, text] = words[..] else { panic!("{line}") };
        turns.entry(text).or_default().insert(id);
        let attempt: u64 = attempt.parse().unwrap();
        if last.get(text).is_none_or(|known| known.0 < attempt) {
            last.insert(text, (attempt, at));
        }
    }
    let mut before: BTreeMap<i64, usize> = BTreeMap::new();
    for (Said { chat, text }, message) in soak.said.iter().zip(messages) {
        let id = message["id"].as_str().unwrap_or_default();
        if message["status"] != "done" {
            wrong.push(format!("{text} is {}", message["status"]));
        }
        let of: Vec<_> = turns.get(&**text).into_iter().flatten().collect();
        if of != [&id] {
            wrong.push(format!("{text} ({id}) became {of:?}"));
        }
        let at = last.get(&**text).map_or(0, |it| it.1);
        if before.insert(*chat, at).is_some_and(|earlier| earlier > at) {
            wrong.push(format!("{text} had its turn before an earlier one"));
        }
    }
    // An agent that was killed with its gateway may have read nothing.
    let strange = turns
        .keys()
        .filter(|text| !text.is_empty())
        .filter(|text| !soak.said.iter().any(|it| it.text == **text));
    wrong.extend(strange.map(|text| format!("nobody said {text}")));
    wrong
}

/// What is out of order, and how often something else was to be seen.
#[derive(Default)]
struct Tally {
    wrong: Vec<String>,
    doubled: usize,
    unexplained: usize,
    strays: usize,
}

impl Tally {
    /// Holds what a chat shows of one reply against what is promised. Where it begins.
    fn judge(
        &mut self,
        (said, message): (&Said, &Value),
        seen: &[String],
        policy: &str,
        lost: &dyn Fn(&str) -> bool,
    ) -> Option<usize> {
        let (bare, long) = (format!("re {}", said.text), format!("{} line ", said.text));
        let is_of = |it: &String| *it == bare || it.starts_with(&long);
        let its: Vec<(usize, &String)> =
            seen.iter().enumerate().filter(|(_, it)| is_of(it)).collect();
        let mut parts: Vec<&String> = Vec::new();
        for (_, text) in &its {
            let holds = |other: &String| other.len() > text.len() && other.starts_with(&***text);
            if its.iter().any(|(_, other)| holds(other)) {
                self.strays += 1;
            } else if parts.contains(text) {
                self.doubled += 1;
                if !lost(text) {
                    self.unexplained += 1;
                    let short = &text[..text.len().min(60)];
                    self.wrong.push(format!("without a reason twice in {}: {short}", said.chat));
                }
            } else {
                parts.push(text);
            }
        }
        let words = parts.iter().flat_map(|it| it.split_whitespace());
        let words: Vec<String> = words.map(str::to_owned).collect();
        let dead = message["deliveries"][0]["status"] == "dead";
        if words != said.words() && !dead {
            let short: Vec<_> =
                its.iter().map(|(_, it)| (it.len(), &it[..it.len().min(40)])).collect();
            self.wrong.push(format!("the reply to {} is {short:?}", said.text));
        }
        if dead && policy != "hold" {
            let delivery = &message["deliveries"][0];
            self.wrong.push(format!("{} is a dead letter: {delivery}", said.text));
        }
        if policy == "edit" && its.len() > parts.len() {
            self.wrong.push(format!("{} is there more than once", said.text));
        }
        its.first().map(|(at, _)| *at)
    }
}

/// Holds what is to be seen against what is promised: each reply is there, whole and in order.
fn audit_shown(soak: &Soak, messages: &[Value], policy: &str) -> Vec<String> {
    let (mut tally, calls) = (Tally::default(), soak.telegram.calls());
    let sent = soak.telegram.sent();
    let lost = |text: &str| {
        let sends = |it: &&Value| {
            let method = it["method"] == "sendMessage" || it["method"] == "editMessageText";
            method && it["parameters"]["text"].as_str().is_some_and(|it| it.trim() == text)
        };
        let killed = |at: f64, done: f64| {
            soak.killed.iter().any(|[from, until]| *from < done + RECORDED && *until > at - COMES)
        };
        // A server that was killed in between has no call in its book.
        sent.iter().filter(|it| it["text"] == text).any(|it| {
            let at = it["at"].as_f64().unwrap();
            killed(at, at)
        }) || calls.iter().filter(sends).any(|it| {
            let (at, done) = (it["at"].as_f64().unwrap(), it["done"].as_f64().unwrap());
            ["lose", "cut"].iter().any(|what| it["do"] == *what) || killed(at, done)
        })
    };
    let chats: BTreeSet<i64> = soak.said.iter().map(|it| it.chat).collect();
    for chat in chats {
        let seen: Vec<String> = soak.telegram.seen(chat).iter().map(text_of).collect();
        let mut at = 0;
        for of in soak.said.iter().zip(messages).filter(|(it, _)| it.chat == chat) {
            let Some(first) = tally.judge(of, &seen, policy, &lost) else { continue };
            if first < at {
                let text = &of.0.text;
                tally.wrong.push(format!("the reply to {text} is in front of an earlier one"));
            }
            at = first;
        }
    }
    let [gateways, adapters] = soak.kills;
    let of = |what: &str| calls.iter().filter(|it| it["do"] == what).count();
    report(&format!(
        "{policy}: {} messages, {gateways} kills of gateways, {adapters} of adapters, {} calls, {} answers lost, {} cut, \
         {} parts twice, {} of them without a reason, {} previews left",
        soak.said.len(),
        calls.len(),
        of("lose"),
        of("cut"),
        tally.doubled,
        tally.unexplained,
        tally.strays,
    ));
    // A preview whose answer nobody has.
    let most = soak.killed.len() + of("lose") + of("cut");
    if tally.strays > most {
        tally.wrong.push(format!("{} previews are left, {most} at most", tally.strays));
    }
    tally.wrong
}

#[track_caller]
fn soak(policy: &str, full: bool) {
    let (messages, kills) = (rounds(100, 2000), rounds(10, 500));
    let mut soak = Soak::new(policy, full);
    let mut gateway = soak.start();
    for round in 0..kills {
        soak.say(messages / kills);
        gateway = soak.round(gateway);
        if round == kills / 3 {
            soak.away(&gateway);
        }
        if round == kills / 2 {
            soak.change_token(&gateway);
            let seed = soak.chance.below(1000);
            soak.plan(&json!({ "seed": seed, "lose": 0.03, "drop": 0.01, "cut": 0.02, "fail": 0.02, "flood": 0.003 }));
        }
    }
    soak.say(messages.saturating_sub(soak.said.len()));
    soak.plan(&json!({}));
    let settled = soak.settle(&gateway);
    soak.telegram.until_confirmed();
    let mut wrong = audit_turns(&soak, &settled);
    wrong.extend(audit_shown(&soak, &settled, policy));
    let first: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), first.join("\n"));
    assert!(soak.telegram.calls().iter().filter(|it| it["method"] == "getUpdates").count() > 0);
    soak.home.run(&["journal", "check"]).assert_code(0);
}

#[test]
fn under_kills_each_update_is_one_turn_and_each_reply_arrives() {
    soak("resend", false);
}

#[test]
fn under_kills_no_reply_is_there_twice_where_it_enters_by_edits() {
    soak("edit", false);
}

#[test]
fn the_same_holds_while_the_journal_is_full_for_a_while() {
    soak("resend", true);
}
