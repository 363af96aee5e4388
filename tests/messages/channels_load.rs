//! What channels cost: time from an offer to the agent and from its reply to the adapter, syncs, a processor,
//! memory.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::util;
use util::fault::{Fault, HANG, When};
use util::platform::{Platform, private};
use util::{Gate, Gateway, Home, eventually, pause, report, rounds};

/// Offers one message after the other, and writes down in nanoseconds of the monotonic clock when it did, when
/// the acknowledgement came and when the reply; and how long a sync and a round trip to another process took just
/// before, on this disk and beside the same other work.
const ADAPTER: &str = r#"
import json, os, subprocess, sys, time
out, disk = open(sys.argv[1], "w"), open(sys.argv[1] + ".sync", "wb", buffering=0)
cat = subprocess.Popen(["cat"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def measure():
    begun = time.monotonic_ns()
    disk.write(b"x" * 300)
    os.fdatasync(disk.fileno())
    cat.stdin.write(b"x")
    cat.stdout.read(1)
    return time.monotonic_ns() - begun
def say(**members):
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()
sys.stdin.readline()
say(op="ready", v=1, account="a", inbound="ack", outbound="id", max_len=4096, len_unit="chars",
    window=64, send_window=16, can=[])
for n in range(int(sys.argv[2])):
    base = measure()
    begun = time.monotonic_ns()
    say(op="message", n=n, id=str(n), conversation="ann", kind="private", text=str(n), **{"from": {"id": "ann"}})
    acked = None
    while True:
        line = json.loads(sys.stdin.readline())
        if line["op"] == "ack":
            acked = time.monotonic_ns()
        if line["op"] == "send":
            out.write(f"{begun} {acked} {time.monotonic_ns()} {base}\n")
            say(op="sent", delivery=line["delivery"], part=0, id=str(n))
            break
out.close()
sys.stdin.read()
"#;

/// An agent that stays, and writes down when a message came and when its reply is out.
const AGENT: &str = r#"
import json, sys, time
out = open(sys.argv[1], "w")
for line in sys.stdin:
    begun = time.monotonic_ns()
    id = json.loads(line)["id"]
    line = json.dumps({"id": id, "chunk": "re"}) + "\n" + json.dumps({"id": id, "done": True}) + "\n"
    out.write(f"{begun} {time.monotonic_ns()}\n")
    out.flush()
    sys.stdout.write(line)
    sys.stdout.flush()
"#;

fn numbers(path: &Path) -> Vec<Vec<u64>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let read = |line: &str| line.split(' ').map(|word| word.parse().unwrap_or(0)).collect();
    text.lines().map(read).collect()
}

/// The median and the least, in milliseconds: on a busy machine the least says more.
fn times(times: impl Iterator<Item = u64>) -> (f64, f64) {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    let millis = |time| Duration::from_nanos(time).as_secs_f64() * 1000.0;
    (millis(times[times.len() / 2]), millis(times[0]))
}

#[test]
fn a_message_is_with_the_agent_and_its_reply_with_the_adapter_at_once() {
    let home = Home::new();
    let (seen, said) = (home.path().join("seen"), home.path().join("said"));
    let count = rounds(50, 1000);
    home.configure(&format!(
        "[agent]\nprotocol = \"lines\"\ncommand = {}\n[channel.office]\ncommand = {}\nallow = [\"ann\"]\n",
        json!(["python3", "-c", AGENT, said]),
        json!(["python3", "-c", ADAPTER, seen, count.to_string()])
    ));
    let gateway = home.start();
    let seen = eventually("all of it", || Some(numbers(&seen)).filter(|all| all.len() == count));
    let said = numbers(&said);
    assert_eq!(said.len(), count);
    let both = || seen.iter().zip(&said);
    let to_agent = times(both().map(|(seen, said)| said[0] - seen[0]));
    let to_adapter = times(both().map(|(seen, said)| seen[2] - said[1]));
    let base = times(seen.iter().map(|seen| seen[3]));
    let show = |(median, least): (f64, f64)| format!("{median:.2} ms ({least:.2} at least)");
    let [first, second, third] = [to_agent, to_adapter, base].map(show);
    let all =
        format!("offer to agent {first}, reply to send {second}, a sync and a round trip {third}");
    report(&all);
    // The way to the agent has one sync, the way back two, and each has more processes that wait for their turn.
    assert!(to_agent.0 < 5.0 + 2.0 * base.0 && to_adapter.0 < 5.0 + 3.0 * base.0, "{all}");
    drop(gateway);
}

/// Offers fifty messages in each write, the first ones once there is a file, and writes down when it did and when
/// the last acknowledgement came.
const FLOOD: &str = r#"
import json, os, sys, time
out = open(sys.argv[1], "w")
print(json.dumps({"op": "ready", "v": 1, "account": "a", "inbound": "ack", "outbound": "id", "max_len": 4096,
                  "len_unit": "chars", "window": 64, "send_window": 16, "can": []}), flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
for begin in range(0, int(sys.argv[3]), 50):
    offers = [{"op": "message", "n": n, "id": str(n), "conversation": "ann", "kind": "private",
               "text": f"text-{n}.", "from": {"id": "ann"}} for n in range(begin, begin + 50)]
    begun = time.monotonic_ns()
    os.write(1, "".join(json.dumps(it, separators=(",", ":")) + "\n" for it in offers).encode())
    acked = 0
    while acked < 50:
        acked += json.loads(sys.stdin.readline())["op"] == "ack"
    out.write(f"{begun} {time.monotonic_ns()}\n")
    out.flush()
sys.stdin.read()
"#;

#[test]
fn offers_that_come_together_are_synced_together_and_acknowledged_after_that() {
    let home = Home::new();
    let (gate, seen, hang) =
        (Gate::closed(home.path()), home.path().join("seen"), home.path().join("hang"));
    home.configure(&format!(
        "{}[limits]\nmax_turns = 1\nmax_queue = 10000\nmax_queue_per_session = 10000\n\
         [channel.office]\ncommand = {}\nallow = [\"ann\"]\n",
        gate.agent(),
        json!(["python3", "-c", FLOOD, seen, hang, "1000"])
    ));
    let fault = Fault { call: "fdatasync", error: HANG, when: When::While(&hang), on: "journal" };
    let gateway = fault.into(home.launch(), &home).start();
    eventually("it is up", || (gateway.status()["channels"][0]["state"] == "up").then_some(()));
    // No sync returns from now on.
    fs::write(&hang, "").unwrap();
    eventually("all that came at once is written", || {
        let text = home.journal_text();
        (0..50).all(|n| text.contains(&format!("text-{n}."))).then_some(())
    });
    // Time for an acknowledgement that comes too early.
    pause(Duration::from_millis(200));
    assert!(numbers(&seen).is_empty(), "nothing is acknowledged before the sync");
    fs::remove_file(&hang).unwrap();
    let seen = eventually("all", || Some(numbers(&seen)).filter(|all| all.len() == 20));
    let (median, least) = times(seen.iter().map(|it| it[1] - it[0]));
    report(&format!("fifty offers {median:.2} ms ({least:.2} at least)"));
}

/// Clock ticks that a process has used, and how often its threads have waited.
fn used(gateway: &Gateway) -> (u64, u64) {
    let dir = format!("/proc/{}", gateway.pid());
    let stat = fs::read_to_string(format!("{dir}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let tasks = fs::read_dir(format!("{dir}/task")).unwrap();
    let waits = tasks.map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |number| number.trim().parse::<u64>().unwrap())
    });
    (ticks, waits.sum())
}

#[test]
fn twenty_channels_are_served_at_once_and_idle_ones_use_no_processor() {
    let home = Home::new();
    let platforms: Vec<_> = (0..20).map(|n| Platform::new(&home, &format!("p{n}"))).collect();
    let mut config = String::new();
    for (n, platform) in platforms.iter().enumerate() {
        let command = platform.command();
        let _ = write!(config, "[channel.c{n}]\n{command}allow = [\"ann\"]\n");
    }
    home.configure(&config);
    let gateway = home.start();
    let up = |it: &Value| it["state"] == "up";
    eventually("all are up", || {
        let status = gateway.status();
        status["channels"].as_array().unwrap().iter().all(up).then_some(())
    });
    for (n, platform) in platforms.iter().enumerate() {
        (0..10).for_each(|m| platform.say(&format!("m{m}"), "ann", &format!("{n} {m}")));
    }
    for (n, platform) in platforms.iter().enumerate() {
        let whole: Vec<_> = (0..10).map(|m| format!("{n} {m}")).collect();
        assert_eq!(platform.shown("ann", 10), whole);
    }
    let waiting = |it: &Value| it["waiting"] == 0 && it["unacknowledged"] == 0;
    eventually("nothing is on its way", || {
        let status = gateway.status();
        status["channels"].as_array().unwrap().iter().all(waiting).then_some(())
    });
    // Cursors, syncs and the like are written within two seconds.
    pause(Duration::from_secs(2));
    let before = used(&gateway);
    pause(Duration::from_secs(3));
    let after = used(&gateway);
    let (ticks, wakes) = (after.0 - before.0, after.1 - before.1);
    report(&format!("in 3 s: {ticks} ticks of a processor, {wakes} wakes"));
    assert!(ticks <= 1 && wakes <= 10, "{ticks} ticks, {wakes} wakes");
}

/// Bytes of memory that an idle process has for itself.
fn memory(gateway: &Gateway) -> u64 {
    // What is free goes back to the system every 1.5 s, where nobody uses it.
    pause(Duration::from_secs(4));
    let file = format!("/proc/{}/smaps_rollup", gateway.pid());
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// People who say something at once.
const AT_ONCE: usize = 50;

#[test]
fn an_idle_conversation_takes_a_kilobyte_at_the_most() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    let count = rounds(1000, 10_000);
    let warm = count / 2;
    let allow: Vec<_> = (0..count + warm).map(|n| format!("user-{n:06}")).collect();
    home.configure(&format!(
        "[channel.office]\n{}allow = {}\n[limits]\nmax_turns = 4\n",
        platform.command(),
        json!(allow)
    ));
    let gateway = home.start();
    let sent = platform.path().join("sent.jsonl");
    let say = |from: usize, to: usize| {
        // Some at once, as people do: what many at once leave is not what a conversation takes.
        for begin in (from..to).step_by(AT_ONCE) {
            let end = to.min(begin + AT_ONCE);
            for (n, who) in allow.iter().enumerate().take(end).skip(begin) {
                platform.put(&private(&format!("m{n}"), who, "hello"));
            }
            eventually("the replies", || {
                let text = fs::read(&sent).unwrap_or_default();
                (text.iter().filter(|byte| **byte == b'\n').count() >= end).then_some(())
            });
        }
    };
    // What is there once, and what the allocator keeps, is there by then.
    say(0, warm);
    let before = memory(&gateway);
    say(warm, warm + count);
    eventually("nothing is on its way", || {
        (gateway.status()["channels"][0]["waiting"] == 0).then_some(())
    });
    let each = memory(&gateway).saturating_sub(before) / count as u64;
    report(&format!("{each} bytes for each of {count} conversations, of {before} before"));
    // Of few of them, the steps in which tables grow count for much.
    assert!(each <= if util::full() { 1024 } else { 3072 }, "{each} bytes");
}
