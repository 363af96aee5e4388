//! Which process a turn has: one for each principal, few at once, and none when the gateway has ended.

use super::{
    agent, alive, got, home, lives, log, noted, say, started, until_ended, until_got,
    until_prompted,
};
use crate::util::{DEADLINE, Gateway, Home, eventually, principals};

/// A gateway with the users alice and bob before agent.py.
fn shared(modes: &str, more: &str) -> Gateway {
    let home = Home::new();
    let keys = [("alice", ""), ("bob", "")];
    let text = principals::configuration(&home, &keys, &(agent(&home, modes) + more));
    home.configure(&text);
    home.start()
}

/// One turn of a principal's; its reply.
#[track_caller]
fn ask(gateway: &Gateway, who: &str, text: &str) -> String {
    let api = principals::api(gateway, who);
    api.reply(&api.accepted("s", text))
}

#[test]
fn principals_have_processes_of_their_own_and_operators_share_one() {
    let gateway = shared("", "");
    let pids: Vec<String> =
        ["alice", "bob", "owner", "alice"].iter().map(|who| ask(&gateway, who, "pid")).collect();
    assert_eq!(pids[0], pids[3]);
    assert!(pids[0] != pids[1] && pids[1] != pids[2] && pids[0] != pids[2], "{pids:?}");
    // The same name of a session is not the same session.
    ask(&gateway, "alice", "remember 7");
    assert_eq!(ask(&gateway, "bob", "what number"), "none");
    assert_eq!(started(gateway.home()).len(), 3);
}

#[test]
fn one_principals_crash_costs_another_nothing() {
    let gateway = shared("", "[limits]\nmax_attempts = 1\n");
    let (alice, bob) = (principals::api(&gateway, "alice"), principals::api(&gateway, "bob"));
    let waits = alice.accepted("s", "wait");
    until_prompted(gateway.home(), "wait", 1);
    let crashes = bob.accepted("s", "crash");
    assert_eq!(bob.finished(&crashes)["status"], "failed");
    assert_eq!(alice.message(&waits)["status"], "running");
    alice.delete(&format!("/v1/messages/{waits}")).assert_status(200);
    assert_eq!(ask(&gateway, "alice", "history"), "1");
    assert_eq!(ask(&gateway, "bob", "history"), "0");
}

#[test]
fn one_process_is_shared_where_the_configuration_says_so() {
    let gateway = shared("", "share = true\n");
    assert_eq!(ask(&gateway, "alice", "pid"), ask(&gateway, "bob", "pid"));
    ask(&gateway, "alice", "remember 7");
    assert_eq!(ask(&gateway, "bob", "what number"), "none");
}

#[test]
fn at_the_cap_the_one_idle_for_longest_makes_room_or_the_turn_waits() {
    let gateway = shared("", "processes = 2\n");
    let (alice, bob) = (ask(&gateway, "alice", "pid"), ask(&gateway, "bob", "pid"));
    assert_eq!(ask(&gateway, "alice", "pid"), alice);
    // Bob's was idle for longer.
    ask(&gateway, "owner", "on");
    until_ended(bob.parse().unwrap());
    assert!(lives(alice.parse().unwrap()));
    // Both are busy: bob waits for one of them.
    let waiting = ["alice", "owner"].map(|who| {
        let api = principals::api(&gateway, who);
        let id = api.accepted("s", "wait");
        (api, id)
    });
    until_prompted(gateway.home(), "wait", 2);
    let bob = principals::api(&gateway, "bob");
    let id = bob.accepted("s", "on");
    let (api, first) = &waiting[0];
    api.delete(&format!("/v1/messages/{first}")).assert_status(200);
    assert_eq!(bob.reply(&id), "on");
    let (api, second) = &waiting[1];
    assert_eq!(api.message(second)["status"], "running");
    api.delete(&format!("/v1/messages/{second}")).assert_status(200);
    eventually("two processes", || (alive(gateway.home()) == 2).then_some(()));
}

/// However long that takes: nothing was done for it yet.
#[test]
fn a_turn_that_waits_for_a_process_does_not_fail() {
    let more =
        "processes = 1\napprove = \"ask\"\nturn_timeout = \"1s\"\n[limits]\nmax_attempts = 1\n";
    let gateway = shared("", more);
    let [alice, bob] = ["alice", "bob"].map(|who| principals::api(&gateway, who));
    let asks = alice.accepted("s", "ask");
    alice.until(&asks, "a question", |it| it["status"] == "waiting");
    let waits = bob.accepted("s", "on");
    gateway.wait_for_log("no process of the agent's came free", DEADLINE);
    assert_eq!(alice.message(&asks)["status"], "waiting");
    let allow = serde_json::json!({ "allow": true });
    alice.post(&format!("/v1/messages/{asks}/approval"), &allow).assert_status(200);
    assert_eq!(alice.reply(&asks), "allowed");
    assert_eq!(bob.reply(&waits), "on");
}

/// It has had nothing of its answer yet, so it can have another.
#[test]
fn a_chat_whose_process_ended_for_another_s_sake_is_answered() {
    let home = home("", "");
    let gateway = home.start();
    let deaf = gateway.api().accepted("s", "deaf");
    until_prompted(&home, "deaf", 1);
    let mut chat = gateway.begin("quiet-once", false);
    until_prompted(&home, "quiet-once", 1);
    gateway.api().delete(&format!("/v1/messages/{deaf}")).assert_status(200);
    assert_eq!(chat.response().reply(), "second");
    assert_eq!(started(&home).len(), 2);
}

#[test]
fn an_idle_process_ends_and_its_sessions_come_back() {
    let home = home("", "idle_timeout = \"1s\"\n");
    let gateway = home.start();
    say(&gateway, "s", "remember 7");
    until_ended(started(&home)[0]);
    assert_eq!(say(&gateway, "s", "what number"), "7");
    assert_eq!(started(&home).len(), 2);
}

#[test]
fn a_process_is_replaced_after_so_many_sessions() {
    let home = home("", "max_sessions = 3\n");
    let gateway = home.start();
    for at in 0..7 {
        assert_eq!(say(&gateway, &format!("s{at}"), "on"), "on");
    }
    let count = started(&home).len();
    assert!((2..=3).contains(&count), "{count}");
    assert_eq!(say(&gateway, "s0", "history"), "1");
}

#[test]
fn the_operators_process_can_start_with_the_gateway() {
    let home = home("", "preload = true\n");
    let gateway = home.start();
    until_got(&home, "initialize", 1);
    let params = got(&home, "initialize").remove(0)["got"]["params"].clone();
    assert_eq!(params["protocolVersion"], 1);
    let able = &params["clientCapabilities"];
    assert_eq!(able["fs"]["readTextFile"], false, "{params}");
    assert_eq!(able["terminal"], false, "{params}");
    say(&gateway, "s", "on");
    assert_eq!(started(&home).len(), 1);
}

#[test]
fn status_shows_the_processes() {
    let home = home("", "");
    let gateway = home.start();
    say(&gateway, "s", "on");
    let pid = started(&home)[0];
    let status = gateway.status();
    let process = &status["processes"][0];
    assert_eq!(process["pid"], pid, "{status}");
    assert_eq!(process["sessions"], 1, "{status}");
    let shown = home.run(&["status"]).stdout;
    assert!(shown.contains(&pid.to_string()), "{shown}");
}

#[test]
fn an_agent_sees_none_of_the_gateways_secrets() {
    let home = home("", "");
    let gateway = home.launch().env("SECRET_OF_TESTS", "x").start();
    let names = say(&gateway, "s", "environment");
    assert!(names.contains("HERMES_TEST_DIR") && !names.contains("SECRET"), "{names}");
}

/// The turns come to their end, and no process is left: by a drain, and by a kill of the gateway, whose
/// agents see the end of their input.
#[test]
fn no_process_outlives_the_gateway() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
        let home = home("", "[stop]\ndrain_timeout = \"500ms\"\n");
        let gateway = home.start();
        let id = gateway.api().accepted("s", "wait");
        until_prompted(&home, "wait", 1);
        say(&gateway, "t", "remember 7");
        let pid = started(&home)[0];
        gateway.end(signal);
        until_ended(pid);
        noted(&home, "the end of its input", |entry| entry["did"] == "end of input");
        // The message runs again, and what was known is known.
        let gateway = home.start();
        until_prompted(&home, "wait", 2);
        assert_eq!(gateway.api().message(&id)["status"], "running");
        assert_eq!(say(&gateway, "t", "what number"), "7");
    }
}

#[test]
fn a_reload_lets_turns_end_with_the_agent_that_they_have() {
    let home = home("", "");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "wait");
    until_prompted(&home, "wait", 1);
    home.configure(&agent(&home, "list"));
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("was read again", DEADLINE);
    eventually("a turn of the new agent", || {
        (say(&gateway, "t", "on") == "on" && started(&home).len() == 2).then_some(())
    });
    assert_eq!(gateway.api().message(&id)["status"], "running");
    let mut shown: Vec<i64> = gateway.status()["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["pid"].as_i64().unwrap())
        .collect();
    let mut expected: Vec<i64> = started(&home).into_iter().map(i64::from).collect();
    shown.sort_unstable();
    expected.sort_unstable();
    assert_eq!(shown, expected);
    gateway.api().delete(&format!("/v1/messages/{id}")).assert_status(200);
    until_ended(started(&home)[0]);
    let modes = log(&home).iter().rfind(|it| it["did"] == "start").unwrap()["modes"].clone();
    assert_eq!(modes, serde_json::json!(["list"]));
}
