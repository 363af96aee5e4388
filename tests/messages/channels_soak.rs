//! Channels under SIGKILLs of the gateway, of adapters, or of both, at random moments, with some restarts: what people say is one
//! turn each, in order, and each reply arrives, as often as the policy for what is uncertain allows.
//!
//! Judged by the books of the platform and of the agent, which are kept outside of the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::util;
use util::fault::{Fault, When};
use util::platform::{Platform, private};
use util::random::Random;
use util::sys::kill;
use util::{DEADLINE, Gateway, Home, eventually, pause, report, rounds};

/// What a placeholder shows.
const PLACE: &str = "…";

const LINES: usize = 9;

/// How many adapters of one gateway may be lost in a row: it pauses for twice as long after each, 8 s here.
const LOST: usize = 5;

/// An agent that writes down what it begins and ends. A long reply comes in several pieces.
fn agent(book: &Path) -> String {
    let line = |step: &str| {
        let values = "\"$HERMES_ATTEMPT\" \"$HERMES_MESSAGE_ID\" \"$text\"";
        format!("printf '{step} %s %s %s\\n' {values} >> {}", book.display())
    };
    let script = format!(
        "read -r text; {}; case $text in *long) l=1; while [ $l -le {LINES} ]; do \
         printf '%s line %s of a reply that does not fit\\n' \"$text\" $l; l=$((l+1)); \
         case $l in 4|7) sleep 0.15;; esac; done;; *) printf 're %s' \"$text\";; esac; {}",
        line("begin"),
        line("end")
    );
    util::script(&script)
}

/// One message that somebody has said.
struct Said {
    id: String,
    conversation: String,
    text: String,
}

impl Said {
    /// What its reply has to be, word by word.
    fn words(&self) -> Vec<String> {
        let text = if self.text.ends_with("long") {
            let line = |l| format!("{} line {l} of a reply that does not fit ", self.text);
            (1..=LINES).map(line).collect()
        } else {
            format!("re {}", self.text)
        };
        text.split_whitespace().map(str::to_owned).collect()
    }
}

struct Soak {
    home: Home,
    platform: Platform,
    book: PathBuf,
    chance: Random,
    conversations: usize,
    said: Vec<Said>,
    /// Where the disk is full while it is there.
    full: Option<PathBuf>,
    kills: [usize; 2],
    /// Adapters that earlier gateways had.
    before: usize,
}

impl Soak {
    #[track_caller]
    fn new(policy: &str, inbound: &str, conversations: usize, full: bool) -> Soak {
        let seed = std::env::var("HERMES_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed: u64 = seed.unwrap_or(u64::from(now.subsec_nanos()));
        report(&format!("HERMES_SEED={seed}"));
        let home = Home::new();
        let platform = Platform::new(&home, "platform");
        let book = home.path().join("agents");
        fs::write(&book, "").unwrap();
        let allow: Vec<String> = (0..conversations).map(|it| format!("c{it:02}")).collect();
        home.configure(&format!(
            "{}[limits]\nmax_attempts = 20\nmax_turns = 4\nmax_queue_per_session = 100\n\
             [channel.office]\n{}allow = {}\nuncertain = {policy:?}\npreview = true\npace = \"100ms\"\n",
            agent(&book),
            platform.command(),
            json!(allow)
        ));
        let full = full.then(|| home.path().join("full"));
        let soak = Soak {
            home,
            platform,
            book,
            chance: Random::new(seed),
            conversations,
            said: Vec::new(),
            full,
            kills: [0, 0],
            before: 0,
        };
        soak.plan(&json!({ "seed": seed, "die": 0.003, "lose": 0.03 }), inbound);
        soak
    }

    fn plan(&self, random: &Value, inbound: &str) {
        let ready = json!({ "max_len": 128, "send_window": 8, "window": 32 });
        self.platform.plan(&json!({ "inbound": inbound, "ready": ready, "random": random }));
    }

    fn adapters(&self) -> usize {
        self.platform.told().iter().filter(|line| line["op"] == "hello").count()
    }

    fn start(&mut self) -> Gateway {
        self.before = self.adapters();
        let launch = self.home.launch();
        let Some(full) = &self.full else { return launch.start() };
        let (when, on) = (When::While(full), "journal");
        let fault = Fault { call: "write+fallocate", error: libc::ENOSPC, when, on };
        fault.into(launch, &self.home).start()
    }

    fn say(&mut self, count: usize) {
        for _ in 0..count {
            let conversation = format!("c{:02}", self.chance.below(self.conversations));
            let number = self.said.iter().filter(|it| it.conversation == conversation).count();
            let long = if self.chance.one_in(4) { " long" } else { "" };
            let text = format!("{conversation} {number}{long}");
            let id = format!("m{}", self.said.len());
            self.platform.put(&private(&id, &conversation, &text));
            self.said.push(Said { id, conversation, text });
        }
    }

    /// How much the platform has seen.
    fn seen(&self) -> u64 {
        let size =
            |name: &str| fs::metadata(self.platform.path().join(name)).map_or(0, |it| it.len());
        size("answers.jsonl") + size("sent.jsonl")
    }

    /// The adapter that runs, if one does.
    fn adapter(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.platform.path().join("pid")).ok()?.parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains(self.platform.path().to_str()?).then_some(pid)
    }

    /// Kills something at a random moment, and starts the gateway again if that was it.
    fn round(&mut self, gateway: Gateway) -> Gateway {
        // Some die before anything has come of them.
        let more = if self.chance.one_in(4) { 0 } else { 1 + self.chance.below(3000) as u64 };
        let (before, begun) = (self.seen(), Instant::now());
        let enough = |seen: u64| {
            let limit = Duration::from_secs(if seen == before { 10 } else { 2 });
            seen >= before + more || begun.elapsed() > limit
        };
        while !enough(self.seen()) {
            pause(Duration::from_millis(3));
        }
        if let Some(full) = self.full.clone().filter(|_| self.chance.one_in(2)) {
            fs::write(&full, "").unwrap();
            pause(Duration::from_micros(self.chance.below(200_000) as u64));
            // A start on a full disk has its own tests.
            fs::remove_file(&full).unwrap();
        }
        pause(Duration::from_micros(self.chance.below(30_000) as u64));
        let lost = self.adapters().saturating_sub(self.before);
        let what = if lost < LOST { self.chance.below(3) } else { 0 };
        if what != 0 {
            let pid = eventually("an adapter", || self.adapter());
            self.kills[1] += usize::from(kill(pid, libc::SIGKILL).is_ok());
        }
        if what == 1 {
            return gateway;
        }
        self.kills[0] += 1;
        let signal = if self.chance.one_in(6) { libc::SIGTERM } else { libc::SIGKILL };
        gateway.end(signal);
        // One that is orphaned may still show what it was told.
        eventually("its adapter ends", || self.adapter().is_none().then_some(()));
        self.start()
    }

    /// For how long the gateway may pause: after each of its adapters the next one waits for twice as long, and
    /// so does a part that each of them was lost with.
    fn longest_pause(&self) -> Duration {
        let lost = self.adapters().saturating_sub(self.before).clamp(1, 10);
        let whole = Duration::from_secs(1 << (lost - 1));
        (whole / 2).min(Duration::from_secs(30)) + whole.min(Duration::from_secs(300))
    }

    /// Waits until all is answered and sent, as long as there is progress.
    #[track_caller]
    fn settle(&self, gateway: &Gateway) -> BTreeMap<String, Value> {
        let mut last = (self.seen(), Instant::now());
        let patience = DEADLINE + self.longest_pause();
        let mut messages = BTreeMap::new();
        loop {
            let book = fs::read_to_string(&self.book).unwrap();
            let begun = book.lines().filter_map(|line| line.strip_prefix("begin "));
            let begun = begun.filter_map(|line| line.split_once(' ')?.1.split_once(' '));
            let taken: BTreeMap<&str, &str> = begun.map(|(id, text)| (text, id)).collect();
            for said in &self.said {
                let id = taken.get(&*said.text).filter(|_| !messages.contains_key(&said.id));
                let Some(id) = id else { continue };
                let message = gateway.api().message(id);
                let status = message["deliveries"][0]["status"].as_str().unwrap_or_default();
                if ["delivered", "dead"].contains(&status) {
                    messages.insert(said.id.clone(), message);
                }
            }
            if messages.len() == self.said.len() {
                return messages;
            }
            if self.seen() != last.0 {
                last = (self.seen(), Instant::now());
            }
            if last.1.elapsed() > patience {
                let open = self.said.iter().filter(|it| !messages.contains_key(&it.id));
                let open: Vec<_> = open
                    .map(|it| {
                        let message = taken.get(&*it.text).map(|id| gateway.api().message(id));
                        format!("{}: {message:?}", it.id)
                    })
                    .collect();
                let status = gateway.status()["channels"].to_string();
                panic!("no progress; {status}; open: {}\n{}", open.len(), open.join("\n"));
            }
            pause(Duration::from_millis(30));
        }
    }
}

/// One thing that the platform shows.
struct Shown {
    last: String,
    part: u64,
    delivery: String,
}

/// Holds what happened against what is promised.
fn audit(soak: &Soak, messages: &BTreeMap<String, Value>, policy: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    // The agent's book.
    let book = fs::read_to_string(&soak.book).unwrap();
    let mut turns: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut last: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (at, line) in book.lines().enumerate() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [step, attempt, id, text] = words[..] else { panic!("{line}") };
        turns.entry(text).or_default().insert(id);
        let attempt: u64 = attempt.parse().unwrap();
        if step == "begin" && last.get(text).is_none_or(|known| known.0 < attempt) {
            last.insert(text, (attempt, at));
        }
    }
    let mut ids = BTreeMap::new();
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    for said in &soak.said {
        let Said { id, conversation, text } = said;
        let message = &messages[id];
        let its = message["id"].as_str().unwrap_or_default().to_owned();
        if message["status"] != "done" {
            wrong.push(format!("{id} is {}", message["status"]));
        }
        let of: Vec<_> = turns.get(&**text).into_iter().flatten().collect();
        if of != [&&*its] {
            wrong.push(format!("{id} ({its}) became {of:?}"));
        }
        let at = last.get(&**text).map_or(0, |it| it.1);
        if before.insert(conversation, at).is_some_and(|earlier| earlier > at) {
            wrong.push(format!("{id} had its turn before an earlier one in {conversation}"));
        }
        ids.insert(its, said);
    }
    wrong.extend(audit_shown(soak, messages, policy, &ids));
    wrong
}

/// All that it shows.
#[derive(Default)]
struct Display {
    shown: BTreeMap<String, Shown>,
    /// Of each part of a reply, its text, and the processes that have shown it.
    parts: BTreeMap<(String, u64), (String, Vec<u64>)>,
    doubled: usize,
    edits: usize,
}

/// Follows what the platform is sent, and says what is out of order.
fn follow(soak: &Soak, ids: &BTreeMap<String, &Said>, wrong: &mut Vec<String>) -> Display {
    let mut display = Display::default();
    let mut at: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for send in soak.platform.sent() {
        let word = |name: &str| send[name].as_str().unwrap_or_default().to_owned();
        let (delivery, text, part) =
            (word("delivery"), word("text"), send["part"].as_u64().unwrap());
        let Some(said) = ids.get(&delivery) else {
            wrong.push(format!("nobody asked for {send}"));
            continue;
        };
        if send["conversation"] != *said.conversation {
            wrong.push(format!("in the wrong place: {send}"));
        }
        display.edits += usize::from(!send["replaces"].is_null());
        let last = Shown { last: text.clone(), part, delivery: delivery.clone() };
        display.shown.insert(word("id"), last);
        if send["final"] != true {
            continue;
        }
        let number = soak.said.iter().position(|it| it.id == said.id).unwrap();
        let place = (number, part);
        if at.insert(&said.conversation, place).is_some_and(|earlier| earlier > place) {
            wrong.push(format!("behind what followed it: {send}"));
        }
        let known = display.parts.entry((delivery.clone(), part));
        let (known, by) = known.or_insert_with(|| (text.clone(), Vec::new()));
        if *known != text {
            wrong.push(format!("part {part} of {} was {known:?} and is {text:?}", said.id));
        }
        let pid = send["pid"].as_u64().unwrap();
        if by.contains(&pid) {
            wrong.push(format!("twice to one adapter: {send}"));
        }
        by.push(pid);
        display.doubled += usize::from(by.len() > 1);
    }
    display
}

/// Holds what the platform shows against what is promised.
fn audit_shown(
    soak: &Soak,
    messages: &BTreeMap<String, Value>,
    policy: &str,
    ids: &BTreeMap<String, &Said>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let Display { shown, parts, doubled, edits } = follow(soak, ids, &mut wrong);
    for said in &soak.said {
        let message = &messages[&said.id];
        let id = message["id"].as_str().unwrap().to_owned();
        let dead = message["deliveries"][0]["status"] == "dead";
        let all = parts.range((id.clone(), 0)..=(id.clone(), u64::MAX));
        let words = all.flat_map(|(_, (text, _))| text.split_whitespace());
        let words: Vec<String> = words.map(str::to_owned).collect();
        let whole = said.words();
        if !dead && words != whole || dead && !whole.starts_with(&words) {
            wrong.push(format!("the reply of {} is {words:?}", said.id));
        }
        if dead && policy != "hold" {
            wrong.push(format!("{} is a dead letter: {}", said.id, message["deliveries"][0]));
        }
        if policy == "resend" {
            continue;
        }
        let mut seen = BTreeSet::new();
        for (message, it) in shown.iter().filter(|(_, it)| it.delivery == id && it.last != PLACE) {
            let part = parts.get(&(id.clone(), it.part));
            let is_part = part.is_some_and(|(text, _)| *text == it.last);
            if !dead && !is_part || is_part && !seen.insert(it.part) {
                wrong.push(format!(
                    "{message} shows part {} of {}: {:?}",
                    it.part, said.id, it.last
                ));
            }
        }
    }
    let dead = messages.values().filter(|it| it["deliveries"][0]["status"] == "dead");
    let dead: Vec<&Value> = dead.collect();
    // Recorded and never read by an adapter: known to be so unless its gateway was killed, too.
    let told = soak.platform.told();
    let unread = dead.iter().filter(|it| {
        let why = it["deliveries"][0].to_string();
        let part = why.split("part ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let is = |line: &&Value| line["delivery"] == it["id"] && line["final"] == true;
        let mut read = told.iter().filter(is).filter_map(|line| line["part"].as_u64());
        !read.any(|read| Some(read + 1) == part)
    });
    let (unread, dead) = (unread.count(), dead.len());
    let [gateways, adapters] = soak.kills;
    report(&format!(
        "{policy}: {} messages, {gateways} kills of gateways, {adapters} of adapters, {} parts, {edits} edits, \
         {doubled} sent again, {dead} dead, {unread} of them never read",
        soak.said.len(),
        parts.len()
    ));
    // With "hold" each kill may cost what was in flight.
    if dead * 5 > soak.said.len() * 4 {
        wrong.push("too little arrived".to_owned());
    }
    wrong
}

#[track_caller]
fn soak(policy: &str, inbound: &str, full: bool) {
    let (messages, kills) = (rounds(150, 2000), rounds(12, 500));
    let mut soak = Soak::new(policy, inbound, rounds(10, 50), full);
    let mut gateway = soak.start();
    for _ in 0..kills {
        soak.say(messages / kills);
        gateway = soak.round(gateway);
    }
    soak.say(messages - soak.said.len());
    soak.plan(&json!({}), inbound);
    // What its receipts are missing for is uncertain when it is gone.
    soak.platform.pid();
    if let Some(pid) = soak.adapter() {
        let _ = kill(pid, libc::SIGKILL);
    }
    let settled = soak.settle(&gateway);
    let wrong = audit(&soak, &settled, policy);
    let first: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), first.join("\n"));
    soak.home.run(&["journal", "check"]).assert_code(0);
}

#[test]
fn under_kills_each_message_is_one_turn_and_each_reply_arrives() {
    soak("resend", "cursor", false);
}

#[test]
fn under_kills_no_content_is_shown_twice_where_it_enters_by_edits() {
    soak("edit", "ack", false);
}

#[test]
fn under_kills_nothing_is_sent_twice_that_is_to_be_held() {
    soak("hold", "cursor", false);
}

#[test]
fn the_same_holds_where_the_disk_is_full_for_a_while() {
    soak("edit", "cursor", true);
}
