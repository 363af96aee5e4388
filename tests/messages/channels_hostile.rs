//! Adapters that do what they must not, and people who do what they like: the gateway stays up and bounded,
//! says what is wrong, and its other channels go on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::util;
use util::platform::{Platform, private};
use util::sys::kill;
use util::{DEADLINE, Gateway, Home, eventually, full, report, rounds};

/// Bytes that the gateway of these tests may hold: an unoptimized one has 20 MB of itself in memory.
const MAX_RSS: u64 = 64 << 20;

const ADAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/channels/scripted.py");
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/turns/living/agent.py");

/// A gateway with a channel of which nothing bad is known, `good`, and others.
struct Zoo {
    gateway: Gateway,
    good: Platform,
    others: Vec<Platform>,
}

impl Zoo {
    /// One with a channel for each of these: its name, how its platform behaves, and more of its section. The
    /// adapter runs behind the `sh` commands in front of its name, if there are some.
    #[track_caller]
    fn start(agent: &str, others: &[(&str, Value, &str)]) -> Zoo {
        let home = Home::new();
        let good = Platform::new(&home, "good");
        let mut config = format!("{agent}[channel.good]\n{}allow = [\"ann\"]\n", good.command());
        let mut platforms = Vec::new();
        for (name, plan, more) in others {
            let (name, shell) = name.split_once(' ').unwrap_or((name, ""));
            let platform = Platform::new(&home, name);
            platform.plan(plan);
            let script = format!("{shell} exec python3 {ADAPTER} {}", platform.path().display());
            let command = json!(["sh", "-c", script]);
            config += &format!(
                "[channel.{name}]\ncommand = {command}\nallow = [\"ann\", \"bob\"]\n{more}"
            );
            platforms.push(platform);
        }
        home.configure(&config);
        let zoo = Zoo { gateway: home.start(), good, others: platforms };
        for (name, ..) in others {
            let name = name.split(' ').next().unwrap();
            eventually(&format!("{name} is up"), || {
                (zoo.channel(name)["state"] == "up").then_some(())
            });
        }
        zoo
    }

    fn channel(&self, name: &str) -> Value {
        let status = self.gateway.status();
        let mut all = status["channels"].as_array().unwrap().iter();
        all.find(|it| it["name"] == name).cloned().unwrap_or_default()
    }

    /// Its log about a channel.
    fn log(&self, name: &str) -> Vec<String> {
        let of = format!("channel {name}");
        let log = self.gateway.stderr();
        log.lines().filter(|line| line.contains(&of)).map(str::to_owned).collect()
    }

    #[track_caller]
    fn until_log(&self, name: &str, text: &str) {
        eventually(&format!("{text:?} of {name} in {:#?}", self.log(name)), || {
            self.log(name).iter().any(|line| line.contains(text)).then_some(())
        });
    }

    /// The gateway is well: another channel is answered, and it holds no more than it may.
    #[track_caller]
    fn assert_well(&self) {
        let count = self.good.sent().len();
        self.good.say(&format!("well-{count}"), "ann", "well?");
        self.good.shown("ann", count + 1);
        let used = resident(self.gateway.pid());
        assert!(used <= MAX_RSS, "it holds {used} bytes");
    }
}

/// Bytes of a process that are in memory.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn offer(n: u64) -> String {
    let mut item = private(&format!("x{n}"), "ann", "x");
    (item["op"], item["n"]) = (json!("message"), json!(n));
    item.to_string()
}

#[test]
fn an_adapter_that_breaks_the_protocol_is_ended_and_the_log_says_why() {
    let none = || json!({ "inbound": "none" });
    let small = json!({ "inbound": "none", "ready": { "window": 2 } });
    let long = rounds(4, 1024);
    // Each is refused for good, with its name.
    let unread = |n| format!(r#"{{"op":"{}","n":{n}}}"#, "o".repeat(64));
    let unread = (1..32_000).map(unread).collect::<Vec<_>>().join("\n");
    let cases: [(&str, Value, Vec<Value>, &str); 8] = [
        ("unread", none(), vec![json!({ "raw": unread })], "does not read what it is sent"),
        (
            "window",
            small,
            vec![json!({ "raw": (1..=6).map(offer).collect::<Vec<_>>().join("\n") })],
            "over its window of 2",
        ),
        ("long", none(), vec![json!({ "bytes": 1 << 20 }); long], "longer than 1048576 bytes"),
        ("bytes", none(), vec![json!({ "hex": "7b22fffe0a" })], "not UTF-8"),
        (
            "jumps",
            none(),
            vec![json!({ "raw": offer(7) }), json!({ "raw": offer(9) })],
            "number 9 where 8 is due",
        ),
        (
            "repeats",
            none(),
            vec![json!({ "raw": offer(7) }), json!({ "raw": offer(7) })],
            "number 7 where 8 is due",
        ),
        ("twice", none(), vec![json!({ "raw": r#"{"op":"ready","v":1}"# })], "ready"),
        ("types", none(), vec![json!({ "raw": r#"{"op":"message","n":"1"}"# })], "number from 0"),
    ];
    let channels: Vec<_> = cases.iter().map(|(name, plan, ..)| (*name, plan.clone(), "")).collect();
    let zoo = Zoo::start("", &channels);
    for ((name, _, items, why), platform) in cases.iter().zip(&zoo.others) {
        let pid = platform.pid();
        if *name == "unread" {
            platform.plan(&json!({ "inbound": "none", "reads": false }));
        }
        items.iter().for_each(|item| platform.put(item));
        zoo.until_log(name, why);
        if *name == "unread" {
            platform.plan(&none());
        }
        eventually("another one", || (platform.pid() != pid).then_some(()));
        eventually("it is up again", || (zoo.channel(name)["state"] == "up").then_some(()));
        let said = zoo.log(name).iter().filter(|it| it.contains("its adapter is ended")).count();
        assert_eq!(said, 1, "{:#?}", zoo.log(name));
        platform.say("later", "ann", "later");
        assert!(platform.answer("later")["as"].is_string());
        zoo.assert_well();
    }
    report(&format!("resident: {} kB", resident(zoo.gateway.pid()) >> 10));
}

#[test]
fn what_an_adapter_claims_to_have_sent_counts_for_its_own_sends_alone() {
    let hang = json!({ "rules": [{ "text": "x", "do": "hang" }] });
    let zoo = Zoo::start("", &[("forger", json!({ "inbound": "none" }), ""), ("victim", hang, "")]);
    let [forger, victim] = &zoo.others[..] else { panic!() };
    victim.say("v1", "ann", "x1");
    forger.say("f1", "ann", "f1");
    let id = victim.answer("v1")["as"].as_str().unwrap().to_owned();
    let sends = |it: &Platform| it.told().iter().filter(|it| it["op"] == "send").count();
    eventually("it is handed over", || (sends(victim) == 1).then_some(()));
    for part in 0..40 {
        let line = json!({ "op": "sent", "delivery": id, "part": part, "id": "forged" });
        forger.put(&json!({ "raw": line.to_string() }));
    }
    let line = json!({ "op": "sent", "delivery": id, "part": 1, "id": "forged" });
    victim.put(&json!({ "raw": line.to_string() }));
    victim.put(&json!({ "raw": line.to_string().replace("sent", "failed") }));
    zoo.until_log("forger", "more of it is not logged");
    zoo.until_log("victim", "nothing is known of part 1");
    let message = zoo.gateway.api().message(&id);
    assert_eq!(message["deliveries"][0]["status"], "sending", "{message}");
    let said = zoo.log("forger").iter().filter(|it| it.contains("nothing is known")).count();
    assert!(said <= 20, "{said}");
    zoo.assert_well();
}

#[test]
fn files_outside_of_their_directory_are_not_read() {
    let home_agent = util::script("cat");
    let zoo = Zoo::start(&home_agent, &[("files", json!({}), "")]);
    let [platform] = &zoo.others[..] else { panic!() };
    let hello = platform.told()[0].clone();
    let dir = PathBuf::from(hello["files_dir"].as_str().unwrap());
    let secret = dir.parent().unwrap().join("secret");
    fs::write(&secret, "SECRET").unwrap();
    symlink(&secret, dir.join("symlink")).unwrap();
    fs::hard_link(&secret, dir.join("hard")).unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    assert!(Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap().success());
    symlink("/dev/zero", dir.join("zero")).unwrap();
    let long = "f".repeat(100_000);
    let paths = [
        "..",
        ".",
        "/",
        "",
        "../secret",
        "/etc/passwd",
        "symlink",
        "hard",
        "directory",
        "fifo",
        "zero",
        "nul\0",
        &long,
    ];
    for (n, path) in paths.iter().enumerate() {
        let mut item = private(&format!("m{n}"), "ann", "look");
        item["files"] = json!([{ "path": path, "name": "a\u{202e}b\n", "type": "text/plain" }]);
        platform.put(&item);
    }
    for text in platform.shown("ann", paths.len()) {
        assert!(!text.contains("SECRET") && text.contains("not taken"), "{text}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "SECRET");
    assert!(!zoo.gateway.stderr().contains('\u{202e}'));
    zoo.assert_well();
}

#[test]
fn an_adapter_that_does_not_end_is_ended() {
    let stays = json!({ "eof": false });
    let zoo = Zoo::start(
        "",
        &[
            ("eof", stays.clone(), ""),
            ("deaf trap '' TERM;", stays, ""),
            ("mute", json!({ "reads": true }), ""),
        ],
    );
    let pids: Vec<_> = zoo.others.iter().map(Platform::pid).collect();
    // In the middle of a line.
    let half = "7b226f70223a226d657373616765222c226e223a31";
    zoo.others[2].put(&json!({ "hex": half }));
    zoo.others[2].say("m1", "ann", "never whole");
    zoo.until_log("mute", "no JSON");
    eventually("another one", || (zoo.others[2].pid() != pids[2]).then_some(()));
    zoo.assert_well();
    zoo.gateway.signal(libc::SIGTERM);
    zoo.gateway.wait_for_exit(DEADLINE);
    for pid in pids {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&words).contains("scripted.py"), "{pid} runs");
    }
}

#[test]
fn what_an_adapter_that_dies_within_a_line_has_printed_of_it_is_nothing() {
    let zoo = Zoo::start("", &[("office", json!({}), "")]);
    let platform = &zoo.others[0];
    // Of the second one the line feed alone is missing.
    for (n, cut) in [0.5, 1.0].into_iter().enumerate() {
        let pid = platform.pid();
        let (id, text) = (format!("m{n}"), format!("text {n}"));
        let mut item = private(&id, "ann", &text);
        item["cut"] = json!(cut);
        platform.put(&item);
        let answer = platform.answer(&id);
        assert!(platform.path().join(format!("cut-{n}")).exists(), "all of it was printed");
        assert_ne!(platform.pid(), pid);
        assert_eq!(answer["duplicate"], false, "{answer}");
        zoo.gateway.api().until_delivery(answer["as"].as_str().unwrap(), "delivered");
    }
    assert_eq!(platform.shown("ann", 2), ["text 0", "text 1"]);
    let kept = zoo.gateway.api().get("/v1/messages?principal=office%3Aann").assert_status(200);
    assert_eq!(kept.json()["messages"].as_array().map(Vec::len), Some(2));
    let log = zoo.log("office");
    assert_eq!(log.iter().filter(|line| line.contains("signal 9")).count(), 2, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("JSON")), "{log:#?}");
    zoo.assert_well();
}

fn kill_adapter(platform: &Platform, pid: i32) {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = platform.path().to_str().unwrap();
    assert!(String::from_utf8_lossy(&words).contains(own), "it has ended by itself");
    kill(pid, libc::SIGKILL).unwrap();
}

/// Its stdout is closed while it lives, and its stderr never ends.
#[test]
fn an_adapter_without_a_stdout_or_that_floods_its_log_costs_little() {
    let home = Home::new();
    let good = Platform::new(&home, "good");
    let loud = Platform::new(&home, "loud");
    let script = format!("yes 1>&2 & exec python3 {ADAPTER} {}", loud.path().display());
    home.configure(&format!(
        "[channel.good]\n{}allow = [\"ann\"]\n\
         [channel.silent]\ncommand = [\"sh\", \"-c\", \"exec >&-; exec sleep 100\"]\nallow = [\"ann\"]\n\
         [channel.loud]\ncommand = {}\nallow = [\"ann\"]\n",
        good.command(),
        json!(["sh", "-c", script])
    ));
    let zoo = Zoo { gateway: home.start(), good, others: vec![loud] };
    zoo.others[0].say("m1", "ann", "among noise");
    assert_eq!(zoo.others[0].shown("ann", 1), ["among noise"]);
    zoo.assert_well();
    zoo.until_log("loud", "it is not logged for now");
    let lines = zoo.log("loud").len();
    assert!(lines < 1100, "{lines} lines in the log");
    kill_adapter(&zoo.others[0], zoo.others[0].pid());
    zoo.until_log("loud", " lines of stderr left out");
    report(&format!("{lines} lines of noise in the log; silent: {}", zoo.channel("silent")));
}

#[test]
fn another_account_is_read_anew_and_the_log_says_so() {
    let plan = |account: &str| json!({ "inbound": "cursor", "account": account });
    let zoo = Zoo::start("", &[("office", plan("robot"), "")]);
    let platform = &zoo.others[0];
    platform.say("m1", "ann", "one");
    assert_eq!(platform.shown("ann", 1), ["one"]);
    platform.plan(&plan("other"));
    kill_adapter(platform, platform.pid());
    zoo.until_log("office", "the account is other and was robot");
    platform.say("m2", "ann", "two");
    let shown = platform.shown("ann", 3);
    assert_eq!(shown, ["one", "one", "two"], "another account's ids are other ones");
    zoo.assert_well();
}

#[test]
fn strangers_reach_nobody_however_many_they_are_and_whatever_they_are_called() {
    let zoo = Zoo::start("", &[("office", json!({}), "unknown = \"pair\"\n")]);
    let platform = &zoo.others[0];
    let count = rounds(500, 10_000);
    let name = "\u{202e}\u{1b}[31m\u{0}evil\n".repeat(5000);
    for n in 0..count {
        let mut item = private(&format!("m{n}"), &format!("eve{n}\u{202e}"), "let me in");
        item["from"]["name"] = json!(if n < 5 { &*name } else { "Eve" });
        platform.put(&item);
    }
    platform.say("last", "ann", "done");
    platform.answer("last");
    platform.shown("ann", 1);
    let answers = platform.answers();
    assert!(answers.iter().filter(|it| it["id"] != "last").all(|it| it["answer"]["as"].is_null()));
    let log = zoo.log("office");
    let named = log.iter().filter(|line| line.contains("on no list")).count();
    assert!((1..=20).contains(&named), "{named}");
    assert!(platform.sent().len() <= 4, "three codes and an answer");
    let hostile = |c: char| c == '\u{202e}' || c == '\u{1b}' || c == '\0';
    assert!(!zoo.gateway.stderr().contains(hostile));
    assert!(log.iter().all(|line| line.len() < 2000));
    zoo.assert_well();
}

#[test]
fn texts_and_names_are_passed_on_and_never_shown_as_they_are() {
    let zoo = Zoo::start("", &[("office", json!({}), "groups = [\"team\"]\n")]);
    let platform = &zoo.others[0];
    let text = "a\u{202e}b\u{1b}[31mc\u{7}d e\u{300}\u{fe0f}";
    let mut item = private("m1", "ann", text);
    item["from"]["name"] = json!("n".repeat(64 << 10));
    platform.put(&item);
    assert_eq!(platform.shown("ann", 1), [text]);
    // Ids that nobody has.
    let long = "i".repeat(64 << 10);
    for (n, id) in ["a\nb", &long, "\u{0}"].iter().enumerate() {
        let id_of = format!("bad{n}");
        let mut item = private(&id_of, "ann", "hello");
        item["conversation"] = json!(id);
        platform.put(&item);
        let answer = platform.answer(&id_of);
        assert_eq!(answer["op"], "refuse", "{answer}");
    }
    let large = "w ".repeat(250_000);
    platform.say("large", "bob", &large);
    let answer = platform.answer("large");
    report(&format!("a text of {} bytes: {answer}", large.len()));
    let mut item = private("many", "ann", "hello");
    item["files"] = json!(vec![json!({ "path": "x" }); 1000]);
    platform.put(&item);
    platform.answer("many");
    assert!(!zoo.gateway.stderr().contains(['\u{202e}', '\u{1b}', '\u{7}']));
    zoo.assert_well();
}

#[test]
fn a_large_group_is_one_conversation_and_its_own_talk_costs_nothing() {
    let zoo = Zoo::start("", &[("office", json!({}), "groups = [\"team\"]\n")]);
    let platform = &zoo.others[0];
    let (people, asked) = (rounds(1000, 10_000), rounds(20, 100));
    for n in 0..people {
        let mut item = private(&format!("m{n}"), &format!("p{n}"), &format!("say {n}"));
        item["conversation"] = json!("team");
        item["kind"] = json!("group");
        item["mentioned"] = json!(n % (people / asked) == 0);
        platform.put(&item);
    }
    let last = answer_slowly(platform, &format!("m{}", people - 1));
    assert!(last["as"].is_null());
    let shown = platform.shown("team", asked);
    let whole: Vec<_> = (0..asked).map(|n| format!("say {}", n * (people / asked))).collect();
    assert_eq!(shown, whole);
    let sessions = zoo.gateway.api().get("/v1/sessions?principal=office%3Ateam");
    let sessions = sessions.assert_status(200).json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{sessions}");
    zoo.assert_well();
}

/// The same as [`Platform::answer`], as long as there are new answers.
#[track_caller]
fn answer_slowly(platform: &Platform, id: &str) -> Value {
    let mut count = 0;
    loop {
        let more = eventually("more answers", || {
            let answers = platform.answers();
            let found = answers.iter().find(|it| it["id"] == id).map(|it| it["answer"].clone());
            (found.is_some() || answers.len() > count).then_some((found, answers.len()))
        });
        count = more.1;
        if let Some(answer) = more.0 {
            return answer;
        }
    }
}

#[test]
fn nobody_answers_what_another_member_was_asked() {
    let home = Home::new();
    let good = Platform::new(&home, "good");
    let office = Platform::new(&home, "office");
    home.configure(&format!(
        "[agent]\ncommand = [\"python3\", \"-I\", \"-S\", {AGENT:?}, \"\"]\nprotocol = \"acp\"\n\
         approve = \"ask\"\nenv = {{ HERMES_TEST_DIR = \"{}\" }}\n\
         [channel.good]\n{}allow = [\"ann\"]\n\
         [channel.office]\n{}allow = [\"ann\", \"bob\"]\ngroups = [\"team\"]\noperators = [\"op\"]\n",
        home.path().display(),
        good.command(),
        office.command()
    ));
    let zoo = Zoo { gateway: home.start(), good, others: vec![office] };
    let office = &zoo.others[0];
    // Where she asked, and who may answer, from where.
    let cases = [
        ("team", "ann", "team", "allow", "allowed"),
        ("team", "op", "team", "deny", "denied"),
        ("ann", "ann", "ann", "allow", "allowed"),
        ("ann", "op", "op", "deny", "denied"),
    ];
    for (n, (place, who, from, choice, said)) in cases.into_iter().enumerate() {
        let mut ask = private(&format!("ask{n}"), "ann", "ask 1 delete all");
        if place == "team" {
            (ask["conversation"], ask["kind"]) = (json!(place), json!("group"));
            ask["mentioned"] = json!(true);
        }
        office.put(&ask);
        let question = eventually("a question", || {
            office
                .sent()
                .into_iter()
                .rfind(|it| it["buttons"].is_array())
                .filter(|it| zoo_new(office, it, n))
        });
        let press = |id: &str, who: &str, prompt: &Value, conversation: &str| {
            json!({ "op": "press", "id": format!("{id}{n}"), "conversation": conversation,
                "prompt": prompt, "choice": choice, "from": { "id": who, "name": who } })
        };
        // Of somebody else, there and from his own conversation, of a stranger, of no question, of nobody, of
        // a bot.
        office.put(&press("p1", "bob", &question["prompt"], place));
        office.put(&press("p7", "bob", &question["prompt"], "bob"));
        office.put(&press("p2", "eve", &question["prompt"], "eve"));
        if place != "team" {
            office.put(&press("p8", "eve", &question["prompt"], place));
        }
        office.put(&press("p3", "ann", &json!("nonsense"), place));
        let mut nobody = press("p4", "x", &question["prompt"], place);
        nobody["from"] = Value::Null;
        office.put(&nobody);
        let mut bot = press("p5", "ann", &question["prompt"], place);
        bot["from"]["bot"] = json!(true);
        office.put(&bot);
        zoo.good.put(&press("p6", "ann", &question["prompt"], "team"));
        for id in ["p1", "p7", "p2", "p3", "p4", "p5"] {
            office.answer(&format!("{id}{n}"));
        }
        zoo.good.answer(&format!("p6{n}"));
        let asked = office.answer(&format!("ask{n}"))["as"].as_str().unwrap().to_owned();
        assert_eq!(zoo.gateway.api().message(&asked)["status"], "waiting");
        office.put(&press("right", who, &question["prompt"], from));
        let message = zoo.gateway.api().finished(&asked);
        assert_eq!(message["reply"], said, "{message}");
    }
}

/// This question is the `n`-th.
fn zoo_new(platform: &Platform, question: &Value, n: usize) -> bool {
    let mut prompts: Vec<String> = Vec::new();
    for send in platform.sent().iter().filter(|it| it["buttons"].is_array()) {
        let prompt = send["prompt"].to_string();
        if !prompts.contains(&prompt) {
            prompts.push(prompt);
        }
    }
    prompts.get(n) == Some(&question["prompt"].to_string())
}

/// With large counts alone: it takes the two minutes of the protocol. The unit tests of the connection's state
/// have a clock of their own.
#[test]
fn an_adapter_that_does_not_answer_a_ping_is_ended() {
    if !full() {
        return;
    }
    let zoo = Zoo::start("", &[("office", json!({ "pongs": false }), "")]);
    let pid = zoo.others[0].pid();
    let limit = std::time::Duration::from_secs(150);
    zoo.gateway.wait_for_log("has not answered a ping within 60 s", limit);
    eventually("another one", || (zoo.others[0].pid() != pid).then_some(()));
    zoo.assert_well();
}

/// Each conversation's order holds where something in front does not fit and what is behind it would.
#[test]
fn what_is_behind_an_offer_that_is_to_come_again_comes_again_too() {
    let home = Home::new();
    let gate = util::Gate::closed(home.path());
    let platform = Platform::new(&home, "platform");
    let agent = util::script(&format!("read -r n rest; {}; printf 'begun\\n%s' $n", gate.wait()));
    home.configure(&format!(
        "{agent}[limits]\nkeep_results = 10\nmax_share = 100\nmax_journal = \"1MiB\"\nmax_queue_per_session = 1000\n\
         [channel.office]\n{}allow = [\"ann\"]\n",
        platform.command()
    ));
    platform.plan(&json!({ "inbound": "cursor", "ready": { "window": 500 } }));
    let large = "l".repeat(3500);
    let count = 250;
    // Before there is an adapter, so that they come at once.
    for n in 0..count {
        let text = if n % 2 == 0 { format!("{n} {large}") } else { format!("{n} small") };
        platform.say(&format!("m{n}"), "ann", &text);
    }
    let gateway = home.start();
    let (mut count_of, mut refused) = (0, false);
    while !refused {
        (count_of, refused) = eventually("more answers", || {
            let all = platform.answers();
            let refused = all.iter().any(|it| it["answer"]["retry_after"].is_u64());
            (refused || all.len() > count_of).then_some((all.len(), refused))
        });
    }
    let mut open = true;
    let mut taken: Vec<String> = Vec::new();
    for answer in platform.answers() {
        let (id, answer) = (answer["id"].as_str().unwrap().to_owned(), &answer["answer"]);
        open &= answer["retry_after"].is_null();
        if answer["as"].is_string() {
            assert!(open || answer["duplicate"] == true, "{id}: {answer}");
            taken.push(id);
        }
    }
    let kept = gateway.api().get("/v1/messages?principal=office%3Aann&limit=1000");
    let kept = kept.assert_status(200).json()["messages"].as_array().unwrap().len();
    report(&format!("{} taken, {kept} in the journal", taken.len()));
    assert!(taken.len() < count, "the journal was not full");
    assert_eq!(kept, taken.len(), "more is in the journal than was said to be");
    // It is full for a while.
    gate.open();
    answer_slowly(&platform, &format!("m{}", count - 1));
    let mut numbers: Vec<usize> = Vec::new();
    while numbers.len() < count {
        numbers = eventually("more replies", || {
            let sent = platform.sent();
            let texts = sent.iter().filter(|it| it["final"] == true).map(|it| &it["text"]);
            let numbers_of = texts.filter_map(|text| {
                text.as_str()?.strip_prefix("begun\n")?.split(' ').next()?.parse().ok()
            });
            Some(numbers_of.collect()).filter(|now: &Vec<usize>| now.len() > numbers.len())
        });
    }
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

#[test]
fn pieces_of_one_message_stay_one_when_they_are_offered_again() {
    let zoo = Zoo::start("", &[("office", json!({ "die_answers": 1 }), "")]);
    let platform = &zoo.others[0];
    for n in 0..3 {
        let mut piece = private(&format!("m{n}"), "ann", &format!("piece {n}"));
        piece["group"] = json!("album");
        platform.put(&piece);
    }
    let pid = platform.pid();
    eventually("another one", || (platform.pid() != pid).then_some(()));
    platform.plan(&json!({}));
    let ids: Vec<Value> = (0..3).map(|n| platform.answer(&format!("m{n}"))["as"].clone()).collect();
    assert!(ids[0].is_string() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    platform.say("last", "ann", "last");
    assert_eq!(platform.shown("ann", 2), ["piece 0\npiece 1\npiece 2", "last"]);
}

#[test]
fn a_command_that_is_offered_again_is_done_once() {
    let zoo = Zoo::start("", &[("office", json!({ "die_answers": 1 }), "")]);
    let platform = &zoo.others[0];
    let pid = platform.pid();
    platform.say("m1", "ann", "/whoami");
    eventually("another one", || (platform.pid() != pid).then_some(()));
    platform.plan(&json!({}));
    assert_eq!(platform.answer("m1")["duplicate"], true);
    platform.say("m2", "ann", "last");
    let shown = platform.shown("ann", 2);
    assert!(shown[0].contains("office:ann"), "{shown:?}");
    // The platform had it before its adapter died, or has it twice.
    assert!(shown[1..].iter().all(|text| *text == "last" || *text == shown[0]), "{shown:?}");
    let kept = zoo.gateway.api().get("/v1/messages?principal=office%3Aann").assert_status(200);
    assert_eq!(kept.json()["messages"].as_array().map(Vec::len), Some(2));
    zoo.assert_well();
}

#[test]
fn a_conversation_that_is_stuck_holds_up_no_other() {
    let plan = json!({ "ready": { "send_window": 2 }, "rules": [
        { "conversation": "bob", "text": "stuck", "do": "hang" },
        { "conversation": "bob", "do": { "failed": { "kind": "temporary", "retry_after": 3600, "why": "slow" } } },
    ] });
    let zoo = Zoo::start("", &[("office", plan.clone(), ""), ("other", plan, "")]);
    zoo.others[0].say("b", "bob", "stuck");
    zoo.others[1].say("b", "bob", "slowly");
    for platform in &zoo.others {
        platform.answer("b");
        platform.say("b2", "bob", "behind it");
        (0..20).for_each(|n| platform.say(&format!("a{n}"), "ann", &n.to_string()));
        let whole: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(platform.shown("ann", 20), whole);
        assert!(platform.sent().iter().all(|it| it["conversation"] == "ann"));
    }
    zoo.assert_well();
}

#[test]
fn an_item_that_a_stranger_has_spoilt_leaves_no_file_and_hides_no_fault_of_the_adapter() {
    let zoo = Zoo::start("", &[("office", json!({ "inbound": "none" }), "")]);
    let platform = &zoo.others[0];
    let dir = PathBuf::from(platform.told()[0]["files_dir"].as_str().unwrap());
    let outside = dir.parent().unwrap().join("outside");
    fs::write(&outside, "kept").unwrap();
    for n in 0..30 {
        let file = dir.join(format!("file{n}"));
        fs::write(&file, "theirs").unwrap();
        let mut item = private(&format!("m{n}"), "eve\u{1}", "look");
        // The second is another way to name the first.
        item["files"] = json!([{ "path": file }, { "path": "../outside" }, { "path": 7 }]);
        platform.put(&item);
        let answer = platform.answer(&format!("m{n}"));
        assert_eq!(answer["op"], "refuse", "{answer}");
        assert!(!file.exists());
    }
    assert!(outside.exists());
    let forged = json!({ "op": "sent", "delivery": "x", "part": 0, "id": "forged" });
    platform.put(&json!({ "raw": forged.to_string() }));
    zoo.until_log("office", "nothing is known of part 0");
    let said = zoo.log("office").iter().filter(|it| it.contains("control characters")).count();
    assert!((1..=20).contains(&said), "{said}");
    zoo.assert_well();
}

#[test]
fn news_without_end_are_bounded_in_the_log_and_in_memory() {
    let zoo = Zoo::start("", &[("news", json!({ "inbound": "none" }), "")]);
    let platform = &zoo.others[0];
    let why = "w".repeat(200);
    let news = |n: usize| {
        let state = ["connecting", "up", "conflict", "unauthorized"][n % 4];
        format!(
            "{{\"op\":\"status\",\"state\":\"{state}\",\"why\":\"{why}{n}\"}}\n\
             {{\"op\":\"gap\",\"since\":\"{n}\",\"why\":\"{why}\"}}"
        )
    };
    let count = rounds(4, 100);
    for round in 0..count {
        let all = (0..1000).map(|n| news(1000 * round + n)).collect::<Vec<_>>().join("\n");
        platform.put(&json!({ "raw": all }));
    }
    platform.put(&json!({ "op": "gap", "since": "the last one", "why": "g".repeat(100_000) }));
    platform.put(&json!({ "op": "status", "state": "up" }));
    platform.say("m1", "ann", "among news");
    assert_eq!(platform.shown("ann", 1), ["among news"]);
    let channel = zoo.channel("news");
    assert_eq!(channel["state"], "up");
    let gap = channel["gap"].as_str().unwrap();
    assert!(gap.starts_with("since the last one") && gap.len() < 1000, "{gap}");
    let log = zoo.log("news");
    assert!(log.len() < 40 && log.iter().all(|line| line.len() < 1000), "{} lines", log.len());
    assert!(log.iter().any(|line| line.contains("more of it is not logged")));
    zoo.assert_well();
}

#[test]
fn an_adapter_that_ends_right_after_it_is_ready_is_started_with_growing_pauses() {
    let home = Home::new();
    let starts = home.path().join("starts");
    let ready = json!({ "op": "ready", "v": 1, "account": "a", "inbound": "none", "outbound": "none",
        "max_len": 1000, "len_unit": "chars", "window": 1, "send_window": 1 });
    let script =
        format!("date +%s%N >> {}; read -r hello; echo '{ready}'; exit 3", starts.display());
    let command = json!(["sh", "-c", script]);
    home.configure(&format!("[channel.office]\ncommand = {command}\nallow = [\"ann\"]\n"));
    let gateway = home.start();
    let times: Vec<u64> = eventually("four starts", || {
        let text = fs::read_to_string(&starts).unwrap_or_default();
        let times: Vec<_> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (times.len() >= 4).then_some(times)
    });
    let pauses: Vec<u64> = times.windows(2).map(|two| (two[1] - two[0]) / 1_000_000).collect();
    let least = [500, 1000, 2000];
    assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least), "{pauses:?}");
    assert!(gateway.stderr().contains("channel office is ready"));
}
