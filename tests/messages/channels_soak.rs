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
use util::fault::{self, Fault, When};
use util::platform::{Platform, private};
use util::random::Random;
use util::sys::kill;
use util::{DEADLINE, Gateway, Home, eventually, pause, report, rounds};

/// What a placeholder shows.
const PLACE: &str = "…";

const LINES: usize = 9;

/// Parts that may be on their way at once.
const WINDOW: usize = 8;

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

/// What it is done under.
#[derive(Clone, Copy)]
struct Conditions {
    /// What becomes of a part that may have arrived.
    uncertain: &'static str,
    inbound: &'static str,
    /// The disk is full now and then.
    full_disk: bool,
}

struct Soak {
    conditions: Conditions,
    home: Home,
    platform: Platform,
    book: PathBuf,
    chance: Random,
    conversations: usize,
    said: Vec<Said>,
    /// Writes of earlier gateways that have failed.
    failed_writes: usize,
    kills: [usize; 2],
    /// Adapters that earlier gateways had.
    before: usize,
}

impl Soak {
    #[track_caller]
    fn new(conditions: Conditions, conversations: usize) -> Soak {
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
             [channel.office]\n{}allow = {}\nuncertain = {:?}\npreview = true\npace = \"100ms\"\n",
            agent(&book),
            platform.command(),
            json!(allow),
            conditions.uncertain
        ));
        let soak = Soak {
            conditions,
            home,
            platform,
            book,
            chance: Random::new(seed),
            conversations,
            said: Vec::new(),
            failed_writes: 0,
            kills: [0, 0],
            before: 0,
        };
        soak.plan(&json!({ "seed": seed, "die": 0.003, "lose": 0.03 }));
        soak
    }

    fn plan(&self, random: &Value) {
        let ready = json!({ "max_len": 128, "send_window": WINDOW, "window": 32 });
        let inbound = self.conditions.inbound;
        self.platform.plan(&json!({ "inbound": inbound, "ready": ready, "random": random }));
    }

    /// The disk is full while this file is there.
    fn full(&self) -> PathBuf {
        self.home.path().join("full")
    }

    /// Writes that have failed so far.
    fn failed_writes(&self) -> usize {
        self.failed_writes + fault::hits(&self.home).len()
    }

    /// How often the platform was told to offer something again.
    fn refusals(&self) -> usize {
        let answers = self.platform.answers();
        answers.iter().filter(|it| it["answer"]["retry_after"].is_u64()).count()
    }

    fn adapters(&self) -> usize {
        self.platform.told().iter().filter(|line| line["op"] == "hello").count()
    }

    fn start(&mut self) -> Gateway {
        self.before = self.adapters();
        let launch = self.home.launch();
        if !self.conditions.full_disk {
            return launch.start();
        }
        self.failed_writes = self.failed_writes();
        let full = self.full();
        let (when, on) = (When::While(&full), "journal");
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
        let stays_full = self.conditions.full_disk && self.fill_disk();
        pause(Duration::from_micros(self.chance.below(30_000) as u64));
        let lost = self.adapters().saturating_sub(self.before);
        let what = if lost < LOST { self.chance.below(3) } else { 0 };
        if what != 0 {
            let pid = eventually("an adapter", || self.adapter());
            self.kills[1] += usize::from(kill(pid, libc::SIGKILL).is_ok());
        }
        // A start on a full disk has its own tests.
        let full = self.full();
        let empty = || stays_full.then(|| fs::remove_file(&full).unwrap());
        if what == 1 {
            empty();
            return gateway;
        }
        self.kills[0] += 1;
        let gently = !stays_full && self.chance.one_in(6);
        gateway.end(if gently { libc::SIGTERM } else { libc::SIGKILL });
        empty();
        // One that is orphaned may still show what it was told.
        eventually("its adapter ends", || self.adapter().is_none().then_some(()));
        self.start()
    }

    /// Fills the disk, at the first time until that is noticed, and now and then later. Whether it is full at the
    /// kill, too.
    fn fill_disk(&mut self) -> bool {
        let first = self.refusals() == 0;
        if !first && self.chance.one_in(2) {
            return false;
        }
        fs::write(self.full(), "").unwrap();
        self.say(1);
        if first {
            eventually("a refusal", || (self.refusals() > 0).then_some(()));
        }
        pause(Duration::from_micros(self.chance.below(200_000) as u64));
        let stays = self.chance.one_in(2);
        if !stays {
            fs::remove_file(self.full()).unwrap();
        }
        stays
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
fn audit(soak: &Soak, messages: &BTreeMap<String, Value>) -> Vec<String> {
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
    wrong.extend(audit_shown(soak, messages, &ids));
    wrong.extend(audit_dead(soak, messages));
    wrong
}

/// An adapter that has shown something, and its gateway.
type By = (u64, String);

/// All that it shows.
#[derive(Default)]
struct Display {
    shown: BTreeMap<String, Shown>,
    /// Of each part of a reply, its text, and by whom it was shown.
    parts: BTreeMap<(String, u64), (String, Vec<By>)>,
    doubled: usize,
    edits: usize,
}

/// Receipts that gateways were given, of parts: (delivery, part, adapter).
fn receipts(soak: &Soak) -> BTreeMap<(String, u64, u64), String> {
    let all = soak.platform.receipts().into_iter().filter(|it| it["final"] == true);
    all.map(|it| (sending(&it), it["parent"].as_str().unwrap().to_owned())).collect()
}

/// Which part it is about: (delivery, part, adapter).
fn sending(line: &Value) -> (String, u64, u64) {
    let delivery = line["delivery"].as_str().unwrap().to_owned();
    (delivery, line["part"].as_u64().unwrap(), line["pid"].as_u64().unwrap())
}

/// Follows what the platform is sent, and says what is out of order.
fn follow(soak: &Soak, ids: &BTreeMap<String, &Said>, wrong: &mut Vec<String>) -> Display {
    let mut display = Display::default();
    let mut at: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let receipts = receipts(soak);
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
        let (pid, parent) = (send["pid"].as_u64().unwrap(), word("parent"));
        if by.iter().any(|it| it.0 == pid) {
            wrong.push(format!("twice to one adapter: {send}"));
        }
        // A gateway reads what an adapter has printed, whatever becomes of that adapter.
        let has_receipt = |(pid, of): &By| {
            *of == parent && receipts.get(&(delivery.clone(), part, *pid)) == Some(of)
        };
        if !parent.is_empty() && by.iter().any(has_receipt) {
            wrong.push(format!("again, though its gateway has had the receipt: {send}"));
        }
        by.push((pid, parent));
        display.doubled += usize::from(by.len() > 1);
    }
    display
}

/// Holds what the platform shows against what is promised.
fn audit_shown(
    soak: &Soak,
    messages: &BTreeMap<String, Value>,
    ids: &BTreeMap<String, &Said>,
) -> Vec<String> {
    let (mut wrong, policy) = (Vec::new(), soak.conditions.uncertain);
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
    let [gateways, adapters] = soak.kills;
    report(&format!(
        "{policy}: {} messages, {gateways} kills of gateways, {adapters} of adapters, {} parts, {edits} edits, \
         {doubled} sent again; {} refused for now, {} writes failed",
        soak.said.len(),
        parts.len(),
        soak.refusals(),
        soak.failed_writes()
    ));
    wrong
}

/// Each dead letter has its reason: an adapter has read a part of it and given no receipt, or its gateway was
/// ended while it was at it. Each process is at a window of parts at most.
fn audit_dead(soak: &Soak, messages: &BTreeMap<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    let receipts = receipts(soak);
    let mut open: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for line in soak.platform.told() {
        if line["op"] == "send" && line["final"] == true && !receipts.contains_key(&sending(&line))
        {
            let (delivery, _, adapter) = sending(&line);
            open.entry(adapter).or_default().insert(delivery);
        }
    }
    let dead = messages.values().filter(|it| it["deliveries"][0]["status"] == "dead");
    let dead: Vec<&str> = dead.map(|it| it["id"].as_str().unwrap()).collect();
    let no_receipt = |id: &&&str| open.values().any(|of| of.contains(**id));
    let by_adapters = dead.iter().filter(no_receipt).count();
    let by_gateways = dead.len() - by_adapters;
    report(&format!(
        "{} dead letters: {by_adapters} without a receipt of {} adapters, {by_gateways} at {} ends of gateways",
        dead.len(),
        soak.adapters(),
        soak.kills[0]
    ));
    for (adapter, open) in open.iter().filter(|it| it.1.len() > WINDOW) {
        wrong.push(format!("adapter {adapter} was given {} at once", open.len()));
    }
    if by_gateways > WINDOW * soak.kills[0] {
        wrong.push(format!("{by_gateways} dead letters without a reason"));
    }
    // With "hold" each kill may cost what was in flight.
    if dead.len() * 5 > soak.said.len() * 4 {
        wrong.push("too little arrived".to_owned());
    }
    wrong
}

#[track_caller]
fn soak(conditions: Conditions) {
    let (messages, kills) = (rounds(150, 2000), rounds(12, 500));
    let mut soak = Soak::new(conditions, rounds(10, 50));
    let mut gateway = soak.start();
    for _ in 0..kills {
        soak.say(messages / kills);
        gateway = soak.round(gateway);
    }
    soak.say(messages.saturating_sub(soak.said.len()));
    soak.plan(&json!({}));
    // What its receipts are missing for is uncertain when it is gone.
    soak.platform.pid();
    if let Some(pid) = soak.adapter() {
        let _ = kill(pid, libc::SIGKILL);
    }
    let settled = soak.settle(&gateway);
    let wrong = audit(&soak, &settled);
    let first: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), first.join("\n"));
    assert!(!conditions.full_disk || soak.refusals() > 0, "no message was refused");
    assert!(!conditions.full_disk || soak.failed_writes() > 0, "no write has failed");
    soak.home.run(&["journal", "check"]).assert_code(0);
}

const AMPLE: Conditions = Conditions { uncertain: "edit", inbound: "cursor", full_disk: false };

#[test]
fn under_kills_each_message_is_one_turn_and_each_reply_arrives() {
    soak(Conditions { uncertain: "resend", ..AMPLE });
}

#[test]
fn under_kills_no_content_is_shown_twice_where_it_enters_by_edits() {
    soak(Conditions { inbound: "ack", ..AMPLE });
}

#[test]
fn under_kills_nothing_is_sent_twice_that_is_to_be_held() {
    soak(Conditions { uncertain: "hold", ..AMPLE });
}

#[test]
fn the_same_holds_where_the_disk_is_full_for_a_while() {
    soak(Conditions { full_disk: true, ..AMPLE });
}
