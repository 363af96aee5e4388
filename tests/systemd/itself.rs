//! A gateway that is told to stop or restart from inside of its own control group: by an agent, and by
//! the `ExecStop=` of its unit. It must not wait for itself, and no turn may ask for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use util::{
    Caller, DEADLINE, Manager, Sandbox, Service, UNIT, binary, eventually, script, stops, sys,
};

/// A drain that waits for its own turn waits this long: longer than any test has patience.
const LONG_DRAIN: &str = "[stop]\ndrain_timeout = \"90s\"\n";

/// An agent that runs these words once, notes each of its runs, and replies with what was said.
fn agent(manager: &Manager, words: &str) -> String {
    let text =
        format!("echo run >> {}; {words} 2>&1; echo \"exit status $?\"", runs(manager).display());
    // Nothing that a command for the user's manager needs may be missing.
    let pass = "pass_env = [\"XDG_RUNTIME_DIR\", \"DBUS_SESSION_BUS_ADDRESS\"]\n";
    format!("{}{pass}", script(&text))
}

fn runs(manager: &Manager) -> PathBuf {
    manager.home().join("runs")
}

fn count_runs(manager: &Manager) -> usize {
    fs::read_to_string(runs(manager)).unwrap_or_default().lines().count()
}

/// Sends a message to the session "work" by the control socket; its id.
#[track_caller]
fn send(service: &Service, text: &str) -> String {
    let body = serde_json::json!({ "text": text }).to_string();
    let answer = service.control().post("/v1/sessions/work/messages", &[], &body);
    answer.assert_status(202).json()["id"].as_str().unwrap().to_owned()
}

/// A message's record, once it has ended, over restarts of the gateway.
#[track_caller]
fn ended(id: &str) -> Value {
    eventually("the message's end", || {
        let socket = "/run/user/4242/hermes-gateway/default/control.sock";
        // Between two gateways nobody listens there.
        let mut control = Caller::unix(socket.as_ref()).ok()?;
        let answer = control.try_ask("GET", &format!("/v1/messages/{id}"), &[], "");
        Some(answer.ok()?.json()).filter(util::api::is_finished)
    })
}

/// The first process and the second, which an agent has asked for by these words.
#[track_caller]
fn an_agent_restarts_it(manager: &Manager, words: &str) -> Value {
    let service = Service::start_with(manager, &(agent(manager, words) + LONG_DRAIN), "");
    let before = service.pid();
    let began = Instant::now();
    let id = send(&service, "restart yourself");
    eventually("another process", || {
        let pid = service.unit().main_pid();
        (pid > 0 && pid != before).then_some(())
    });
    let message = ended(&id);
    assert!(began.elapsed() < DEADLINE, "{:?}: {message}", began.elapsed());
    assert_eq!(count_runs(manager), 1, "it ran again: {message}");
    assert_eq!(
        (&message["status"], &message["attempts"]),
        (&"done".into(), &1.into()),
        "{message}"
    );
    // Another message does not bring another restart about by itself, and the process stays.
    let after = service.pid();
    service.unit().assert(&[("ActiveState", "active"), ("Result", "success")]);
    let last = service.stops().pop().unwrap();
    assert!(last["exit"] == 0 || last["exit"] == 75, "{last}");
    assert_eq!(last["verdict"], "planned", "{last}");
    assert_eq!(service.pid(), after);
    message
}

#[test]
fn an_agent_that_restarts_its_gateway_gets_its_answer_and_one_restart() {
    Sandbox::user().run(|manager| {
        let words = format!("{} restart", binary().display());
        let message = an_agent_restarts_it(manager, &words);
        let reply = message["reply"].as_str().unwrap();
        assert!(reply.contains("exit status 0"), "{reply}");
        // It is said that nobody waits here.
        assert!(reply.lines().count() > 1, "not a word: {reply}");
    });
}

#[test]
fn an_agent_that_stops_its_gateway_gets_its_answer_and_the_unit_is_inactive() {
    Sandbox::user().run(|manager| {
        let words = format!("{} stop", binary().display());
        let service = Service::start_with(manager, &(agent(manager, &words) + LONG_DRAIN), "");
        let id = send(&service, "stop yourself");
        service.unit().wait_for(&[("ActiveState", "inactive"), ("SubState", "dead")]);
        service.assert_stopped(0);
        assert_eq!(count_runs(manager), 1);
        // Its turn was over by then: the next start has its reply, and does not stop again.
        service.systemctl("start");
        let message = ended(&id);
        let reply = message["reply"].as_str().unwrap_or_default();
        assert!(reply.contains("exit status 0") && reply.lines().count() > 1, "{message}");
        assert_eq!((count_runs(manager), &message["attempts"]), (1, &1.into()), "{message}");
        service.unit().assert(&[("ActiveState", "active"), ("NRestarts", "0")]);
    });
}

#[test]
fn an_agent_that_restarts_its_gateway_by_systemctl_does_not_do_so_for_ever() {
    Sandbox::user().run(|manager| {
        // systemctl itself waits for the end of the turn that it is part of.
        let words = format!("systemctl --user restart {UNIT}");
        let drain = "[stop]\ndrain_timeout = \"1s\"\n";
        let service = Service::start_with(manager, &(agent(manager, &words) + drain), "");
        let id = send(&service, "restart yourself");
        let message = ended(&id);
        assert!(count_runs(manager) <= 3, "{} runs: {message}", count_runs(manager));
        service.unit().wait_for(&[("ActiveState", "active"), ("Result", "success")]);
        assert!(service.stops().iter().all(|stop| stop["verdict"] == "planned"));
    });
}

#[test]
fn an_agent_of_another_gateway_waits_as_anybody_does() {
    Sandbox::user().run(|manager| {
        let other = manager.home().join(".config/hermes-gateway/other.toml");
        manager.write(&other, "[http]\nlisten = \"127.0.0.1:0\"\n");
        manager.gateway(&["-p", "other", "install", "--now"]).assert_code(0);
        let words = format!("{} -p other stop", binary().display());
        let service = Service::start_with(manager, &agent(manager, &words), "");
        let before = service.pid();
        let message = ended(&send(&service, "stop the other"));
        let reply = message["reply"].as_str().unwrap_or_default();
        assert!(reply.contains("has stopped") && reply.contains("exit status 0"), "{message}");
        let unit = manager.unit("hermes-gateway-other.service");
        unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
        assert_eq!(service.pid(), before);
    });
}

/// A unit whose `ExecStop=` is our own `stop`: stopped and restarted, idle and with a turn in flight;
/// killed.
#[track_caller]
fn exec_stop(manager: &Manager, unit: &str, name: &str) {
    let unit = manager.unit(unit);
    let in_time = |verb: &str| {
        let began = Instant::now();
        manager.systemctl(&[verb, unit.name]).assert_code(0);
        // Well below TimeoutStopSec=45s, at whose end it would be killed.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(15), "{verb} took {took:?}\n{}", unit.journal());
    };
    for _ in 0..3 {
        in_time("stop");
        let dead = [("ActiveState", "inactive"), ("SubState", "dead"), ("Result", "success")];
        unit.assert(&dead);
        assert_eq!(manager.systemctl(&["is-failed", unit.name]).stdout, "inactive\n");
        in_time("start");
        in_time("restart");
        unit.assert(&[("ActiveState", "active"), ("Result", "success"), ("NRestarts", "0")]);
    }
    manager.gateway(&["-p", name, "stop"]).assert_code(0);
    unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
    in_time("start");

    // A kill is still a kill, though ExecStop= runs after it too.
    let before = unit.main_pid();
    sys::kill(before, libc::SIGTERM).unwrap();
    unit.wait_for(&[("ActiveState", "active"), ("SubState", "running"), ("NRestarts", "1")]);
    assert_ne!(unit.main_pid(), before);

    let verdicts = stops(&manager.home().join(format!(".local/state/hermes-gateway/{name}")));
    let (last, stops) = verdicts.split_last().unwrap();
    assert_eq!((&last["verdict"], &last["exit"]), (&"external".into(), &143.into()), "{last}");
    for stop in stops {
        assert_eq!((&stop["verdict"], &stop["exit"]), (&"planned".into(), &0.into()), "{stop}");
    }
}

#[test]
fn our_stop_command_as_exec_stop_of_the_installed_unit_is_planned() {
    Sandbox::user().run(|manager| {
        let line = format!("[Service]\nExecStop={} -p default stop\n", binary().display());
        let service = Service::start_with(manager, "", &line);
        exec_stop(manager, service.unit().name, "default");
    });
}

#[test]
fn our_stop_command_as_exec_stop_of_a_unit_by_hand_is_planned() {
    Sandbox::user().run(|manager| {
        let config = manager.home().join(".config/hermes-gateway/mybot.toml");
        manager.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
        let run = format!("{} -p mybot", binary().display());
        let text = format!(
            "[Service]\nType=notify\nRestart=always\nRestartSec=50ms\nTimeoutStopSec=45s\n\
             ExecStart={run} run\nExecStop={run} stop\n"
        );
        manager.write_unit("mybot.service", &text);
        manager.systemctl(&["start", "mybot.service"]).assert_code(0);
        exec_stop(manager, "mybot.service", "mybot");
    });
}

#[test]
fn our_stop_command_as_exec_stop_lets_a_turn_end() {
    Sandbox::user().run(|manager| {
        let gate = util::Gate::closed(&manager.home());
        let line = format!("[Service]\nExecStop={} stop\n", binary().display());
        let service = Service::start_with(manager, &gate.agent(), &line);
        let id = send(&service, "hello");
        service.wait_for_turns(1);
        let stop = manager.command("systemctl".as_ref()).args(["--user", "stop", UNIT]).spawn();
        let mut stop = stop.unwrap();
        // Draining, and ExecStop= has done its part: what remains is SIGTERM's.
        service.unit().wait_for_journal("Shutdown context");
        gate.open();
        assert_eq!(stop.wait().unwrap().code(), Some(0));
        service.assert_stopped(0);
        service.systemctl("start");
        assert_eq!(ended(&id)["reply"], "begun\nhello");
    });
}
