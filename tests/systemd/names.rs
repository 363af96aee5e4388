//! The unit that runs a gateway is the one that is stopped and restarted, whatever its name; and from
//! inside of it nobody waits for himself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use util::http::Connection;
use util::{
    DEADLINE, Manager, Outcome, Process, Sandbox, Service, Unit, binary, eventually, script,
};

const STOPPED: [(&str, &str); 3] =
    [("ActiveState", "inactive"), ("Result", "success"), ("ExecMainStatus", "0")];

#[track_caller]
fn assert_says(outcome: &Outcome, words: &[&str]) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

/// A unit of another name, as somebody writes it by hand, that runs the gateway of this name.
#[track_caller]
fn foreign<'a>(manager: &'a Manager, unit: &'a str, name: &str, more: &str) -> Unit<'a> {
    let config = manager.user().home().join(format!(".config/hermes-gateway/{name}.toml"));
    if !config.exists() {
        manager.user().write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
    }
    let program = binary();
    let service = format!(
        "[Service]\nType=notify\nRestart=always\nRestartSec=50ms\nExecStart={} -p {name} run\n{more}\n\
         [Install]\nWantedBy=default.target\n",
        program.display()
    );
    manager.write_unit(unit, &service);
    // What nothing wants systemd forgets, with how it ended.
    manager.systemctl(&["enable", "--now", unit]).assert_code(0);
    manager.unit(unit)
}

#[test]
fn a_unit_of_another_name_is_stopped_and_restarted_through_its_manager() {
    Sandbox::user().run(|manager| {
        let unit = foreign(manager, "mybot.service", "mybot", "");
        let first = unit.main_pid();
        let refused = manager.gateway(&["-p", "mybot", "start"]).assert_code(69);
        assert_says(&refused, &["already running", "mybot.service", &format!("pid {first}")]);

        let restarted = manager.gateway(&["-p", "mybot", "restart"]).assert_code(0);
        let second = unit.main_pid();
        assert_ne!(first, second);
        assert_says(&restarted, &["mybot (mybot.service) is ready", &format!("pid {second}")]);
        let logs = manager.gateway(&["-p", "mybot", "logs"]).assert_code(0);
        assert_says(&logs, &[&format!("[{second}]: gateway mybot serves on")]);

        let stopped = manager.gateway(&["-p", "mybot", "stop"]).assert_code(0);
        assert_says(&stopped, &["mybot (mybot.service) has stopped"]);
        unit.assert(&STOPPED);
        unit.assert(&[("NRestarts", "0")]);
        let again = manager.gateway(&["-p", "mybot", "stop"]).assert_code(0);
        assert_says(&again, &["is not running"]);

        // Beside an installed one that tries and tries.
        manager.gateway(&["-p", "mybot", "install"]).assert_code(0);
        manager.systemctl(&["start", unit.name]).assert_code(0);
        let refused = manager.gateway(&["-p", "mybot", "start"]).assert_code(69);
        assert_says(&refused, &["already running", "as mybot.service"]);
        let installed = manager.unit("hermes-gateway-mybot.service");
        manager.systemctl(&["start", "--no-block", installed.name]).assert_code(0);
        installed.wait_for(&[("SubState", "auto-restart")]);
        manager.gateway(&["-p", "mybot", "stop"]).assert_code(0);
        installed.assert(&[("ActiveState", "inactive")]);
        unit.assert(&STOPPED);
    });
}

#[test]
fn a_transient_unit_and_one_whose_file_was_removed_are_stopped_through_their_manager() {
    Sandbox::user().run(|manager| {
        let program = binary();
        let program = program.to_str().unwrap();
        let run = ["--unit=loose", "-p", "Type=notify", "-p", "Restart=always", program];
        let gateway = ["-p", "loose", "run", "--set", "http.listen=127.0.0.1:0"];
        manager.systemd_run(&[&run[..], &gateway[..]].concat()).assert_code(0);
        let unit = manager.unit("loose.service");
        let first = unit.main_pid();
        manager.gateway(&["-p", "loose", "restart"]).assert_code(0);
        assert_ne!(unit.main_pid(), first);
        let stopped = manager.gateway(&["-p", "loose", "stop"]).assert_code(0);
        assert_says(&stopped, &["loose (loose.service) has stopped"]);
        unit.assert(&[("ActiveState", "inactive")]);

        let service = Service::start(manager);
        fs::remove_file(manager.unit_dir().join(util::UNIT)).unwrap();
        manager.systemctl(&["daemon-reload"]).assert_code(0);
        service.unit().assert(&[("ActiveState", "active")]);
        // What has no file cannot be started again; nothing was ended for it.
        let refused = manager.gateway(&["restart"]).assert_code(1);
        assert_says(&refused, &["not found", &format!("default goes on as pid {}", service.pid())]);
        let stopped = manager.gateway(&["stop"]).assert_code(0);
        assert_says(&stopped, &["default has stopped"]);
        service.unit().assert(&[("ActiveState", "inactive")]);
        service.assert_last_stop("planned", 0, "the service manager is stopping the unit");
        manager.gateway(&["status"]).assert_code(3);
    });
}

#[test]
fn a_unit_that_hides_its_processes_is_stopped_through_its_manager() {
    Sandbox::user().run(|manager| {
        if manager.version() < 257 {
            return util::report("PrivatePIDs= needs systemd 257");
        }
        for (number, hiding) in
            ["PrivatePIDs=yes", "ProtectControlGroups=strict"].iter().enumerate()
        {
            let (name, file) = (format!("hidden{number}"), format!("any{number}.service"));
            // What is hidden from the gateway may make a stop look like a kill to it: the installed unit
            // has this line, too.
            let hidden = format!("PrivateUsers=yes\n{hiding}\nSuccessExitStatus=143");
            let unit = foreign(manager, &file, &name, &hidden);
            // A manager that sees it before its parent has ended takes it for nobody's child, and at a stop kills
            // it without waiting.
            let said = |what: &str| unit.journal().matches(what).count();
            for starts in 1..20 {
                eventually("its start", || (said("]: Started ") >= starts).then_some(()));
                if said("which is not our child") < starts {
                    break;
                }
                manager.systemctl(&["restart", unit.name]).assert_code(0);
            }
            let pid = unit.main_pid();
            let told = manager.gateway(&["-p", &name, "status", "--json"]).assert_code(0);
            let told: Value = serde_json::from_str(&told.stdout).unwrap();
            assert_eq!((&told["pid"], &told["note"]), (&pid.into(), &Value::Null));
            let stopped = manager.gateway(&["-p", &name, "stop"]).assert_code(0);
            assert_says(&stopped, &[&format!("{name} ({file}) has stopped")]);
            unit.assert(&[("ActiveState", "inactive")]);

            if *hiding == "PrivatePIDs=yes" {
                // From in there nobody reaches the manager.
                continue;
            }
            // Nor does it wait for itself in there.
            let file = format!("hermes-gateway-{name}.service");
            let stop = format!("{hidden}\nExecStop={} -p {name} stop", binary().display());
            let unit = foreign(manager, &file, &name, &stop);
            let began = Instant::now();
            manager.systemctl(&["stop", unit.name]).assert_code(0);
            assert!(began.elapsed() < Duration::from_secs(30), "it waited for itself");
            unit.wait_for_journal("is already stopping");
            unit.assert(&[("ActiveState", "inactive")]);
        }
    });
}

/// A system unit of another name is root's to stop; its user is told how.
#[test]
fn a_unit_of_the_machine_with_another_name_is_stopped_by_root_and_its_user_is_told() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let config = user.home().join(".config/hermes-gateway/mybot.toml");
        user.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
        let unit = foreign(manager, "mybot.service", "mybot", "User=tester");
        let pid = unit.main_pid();
        let refused = user.gateway(&["-p", "mybot", "stop"]).assert_code(1);
        assert_says(
            &refused,
            &["has not stopped", "need root", "sudo systemctl stop -- mybot.service"],
        );
        assert_eq!(unit.main_pid(), pid);

        let sudo = |home: &Path, args: &[&str]| {
            let mut command = manager.command(&binary());
            command.args(args).env("SUDO_USER", "tester").env("HOME", home);
            Process::spawn(&mut command).finish(DEADLINE)
        };
        for (home, stop) in
            [(manager.home(), "stop"), (user.home(), "stop"), (user.home(), "stop --system")]
        {
            let told = sudo(&home, &["-p", "mybot", "status"]).assert_code(4);
            assert_says(&told, &["belongs to tester", "sudo -u 'tester'"]);
            let stop: Vec<&str> = ["-p", "mybot"].into_iter().chain(stop.split(' ')).collect();
            let stopped = sudo(&home, &stop).assert_code(0);
            assert_says(&stopped, &["mybot (mybot.service) has stopped"]);
            unit.assert(&STOPPED);
            let stopped = sudo(&home, &["-p", "mybot", "stop"]).assert_code(0);
            assert_says(&stopped, &["is not running"]);
            manager.systemctl(&["start", "mybot.service"]).assert_code(0);
        }

        // One that the user's own manager runs is not root's to reach.
        manager.systemctl(&["stop", "mybot.service"]).assert_code(0);
        let own = foreign(&user, "own.service", "mybot", "");
        for home in [manager.home(), user.home()] {
            for verb in ["stop", "restart"] {
                let refused = sudo(&home, &["-p", "mybot", verb]).assert_code(69);
                let words = format!("sudo -u 'tester' hermes-gateway -p mybot {verb}");
                assert_says(&refused, &["belongs to tester", &words]);
            }
            sudo(&home, &["-p", "mybot", "status"]).assert_code(4);
        }
        own.assert(&[("ActiveState", "active"), ("NRestarts", "0")]);
    });
}

/// The words in a lock are its user's, and so may name any process.
#[test]
fn a_lock_that_names_another_users_process_has_root_stop_nothing() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let service =
            "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
        manager.write_unit("victim.service", service);
        manager.systemctl(&["enable", "--now", "victim.service"]).assert_code(0);
        let victim = manager.unit("victim.service");
        let pid = victim.main_pid();
        foreign(&user, "own.service", "mybot", "");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap();
        let state = user.home().join(".local/state/hermes-gateway/mybot");
        fs::write(state.join("state.lock"), format!("{{\"pid\":{pid},\"start\":{start}}}\n"))
            .unwrap();
        for home in [manager.home(), user.home()] {
            let mut command = manager.command(&binary());
            command.args(["-p", "mybot", "stop"]).env("SUDO_USER", "tester").env("HOME", home);
            let refused = Process::spawn(&mut command).finish(DEADLINE).assert_code(69);
            assert_says(&refused, &["belongs to tester"]);
            assert_eq!(victim.main_pid(), pid);
        }
    });
}

#[test]
fn root_restarts_the_machines_unit_only_into_a_configuration_that_its_user_can_use() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let config = user.home().join(".config/hermes-gateway/default.toml");
        user.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
        manager.gateway(&["install", "--system", "--user", "tester", "--now"]).assert_code(0);
        let unit = manager.unit(util::UNIT);
        let pid = unit.main_pid();
        user.write(&config, "[htp]\n");
        let refused = manager.gateway(&["restart"]).assert_code(78);
        assert_says(&refused, &["default.toml:1", "is not restarted"]);
        assert_eq!(unit.main_pid(), pid);
        // Its user reads this key by a supplementary group, as the unit does.
        let (key, group) = (Path::new("/etc/hermes.key"), 7000);
        let groups = fs::read_to_string("/etc/group").unwrap();
        fs::write("/etc/group", format!("{groups}keepers:x:{group}:tester\n")).unwrap();
        fs::write(key, "0123456789abcdef".repeat(4)).unwrap();
        chown(key, None, Some(group)).unwrap();
        fs::set_permissions(key, fs::Permissions::from_mode(0o440)).unwrap();
        user.write(&config, &format!("[http]\nlisten = \"127.0.0.1:0\"\nkey_file = {key:?}\n"));
        manager.gateway(&["restart"]).assert_code(0);
        assert_ne!(unit.main_pid(), pid);
    });
}

// ------------------------------------------------------- from inside of it ----

/// A message in a session of the running gateway; its id.
#[track_caller]
fn send(service: &Service) -> String {
    let mut control = service.control();
    let answer = control.post("/v1/sessions/a/messages", &[], r#"{"text":"go"}"#);
    answer.assert_status(202).json()["id"].as_str().unwrap().to_owned()
}

/// The message, once the gateway is done with it, over restarts.
#[track_caller]
fn finished(id: &str) -> Value {
    let socket = "/run/user/4242/hermes-gateway/default/control.sock";
    eventually("the reply", || {
        std::os::unix::net::UnixStream::connect(socket).ok()?;
        let answer = Connection::unix(Path::new(socket)).get(&format!("/v1/messages/{id}"), &[]);
        let message = answer.assert_status(200).json();
        (message["status"] == "done" || message["status"] == "failed").then_some(message)
    })
}

/// Fails the test unless an agent that runs this in its turn is replied for once, and the gateway
/// restarted once, well before the drain is over.
#[track_caller]
fn assert_restarts_once(manager: &Manager, command: &str, reply: &str) {
    let calls = manager.home().join("calls");
    let agent = script(&format!("echo x >> {}; {command}", calls.display()));
    let config = format!("{agent}[stop]\ndrain_timeout = \"100s\"\n");
    let service = Service::start_with(manager, &config, "");
    let (first, began) = (service.pid(), Instant::now());
    let id = send(&service);
    eventually("the restart", || (![0, first].contains(&service.unit().main_pid())).then_some(()));
    service.unit().wait_for(&[("ActiveState", "active"), ("NRestarts", "0")]);
    let message = finished(&id);
    assert!(began.elapsed() < Duration::from_secs(50), "{message}");
    assert_eq!(
        (&message["status"], &message["attempts"]),
        (&"done".into(), &1.into()),
        "{message}"
    );
    assert!(message["reply"].as_str().unwrap().contains(reply), "{message}");
    let second = service.pid();
    // Nothing is left to run that could ask again.
    assert_eq!(service.status()["turns"]["running"], 0);
    service.systemctl("stop");
    assert_eq!(fs::read_to_string(&calls).unwrap(), "x\n");
    let stops = service.stops();
    assert_eq!((stops.len(), &stops[0]["cut"]), (2, &0.into()), "{stops:?} {second}");
    service.assert_stopped(0);
}

#[test]
fn an_agent_that_restarts_its_own_gateway_does_it_once_and_replies() {
    Sandbox::user().run(|manager| {
        let command = format!("{} restart && echo so be it", binary().display());
        assert_restarts_once(manager, &command, "inside the gateway\nso be it");
    });
}

#[test]
fn an_agent_that_has_systemctl_restart_its_own_gateway_does_it_once_and_replies() {
    Sandbox::user().run(|manager| {
        let command = "export XDG_RUNTIME_DIR=/run/user/4242
            systemctl --user restart hermes-gateway; echo so be it";
        assert_restarts_once(manager, command, "so be it");
        manager.unit(util::UNIT).wait_for_journal("a turn waits for this stop with `systemctl --user restart hermes-gateway`: ending that call");
    });
}

#[test]
fn an_agent_that_stops_its_own_gateway_replies_and_it_is_stopped() {
    Sandbox::user().run(|manager| {
        let config = script(&format!("{} stop && echo so be it", binary().display()));
        let service = Service::start_with(manager, &config, "");
        send(&service);
        service.unit().wait_for(&STOPPED);
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!(stop["cut"], 0, "{stop}");
    });
}

#[test]
fn an_agent_that_uninstalls_its_own_gateway_is_refused_and_nothing_ends() {
    Sandbox::user().run(|manager| {
        let config = script(&format!("{} uninstall 2>&1 || true", binary().display()));
        let service = Service::start_with(manager, &config, "");
        let (pid, id) = (service.pid(), send(&service));
        let message = finished(&id);
        assert!(message["reply"].as_str().unwrap().contains("run it from elsewhere"), "{message}");
        assert_eq!(service.pid(), pid);
        assert!(manager.unit_dir().join(util::UNIT).exists());
    });
}

#[test]
fn a_stop_as_the_units_own_exec_stop_does_not_wait_for_itself() {
    Sandbox::user().run(|manager| {
        let stop = format!("ExecStop={} -p mybot stop\nTimeoutStopSec=60s", binary().display());
        for unit in ["mybot.service", "hermes-gateway-mybot.service"] {
            let unit = foreign(manager, unit, "mybot", &stop);
            let began = Instant::now();
            manager.systemctl(&["stop", unit.name]).assert_code(0);
            assert!(began.elapsed() < Duration::from_secs(30), "it waited for itself");
            unit.assert(&STOPPED);
            unit.wait_for_journal("is already stopping");
            // After a kill it comes back all the same.
            manager.systemctl(&["start", unit.name]).assert_code(0);
            util::sys::kill(unit.main_pid(), libc::SIGTERM).unwrap();
            unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
            manager.gateway(&["-p", "mybot", "stop"]).assert_code(0);
            unit.assert(&STOPPED);
        }
    });
}

#[test]
fn a_restart_into_a_wrong_configuration_leaves_the_good_process_running() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let pid = service.pid();
        service.configure("[agent]\nkidn = \"echo\"\n");
        let refused = manager.gateway(&["restart"]).assert_code(78);
        assert_says(&refused, &["default.toml:4", "kidn", "is not restarted"]);
        service
            .configure("[agent]\nurl = \"http://127.0.0.1:1/v1\"\nkey_file = \"no-such-file\"\n");
        let refused = manager.gateway(&["restart"]).assert_code(78);
        assert_says(&refused, &["no-such-file", "is not restarted"]);
        assert_eq!(service.pid(), pid);
        service.configure("");
        manager.gateway(&["restart"]).assert_code(0);

        // The unit's own configuration counts, not what this shell would read.
        let config = manager.home().join("elsewhere.toml");
        manager.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
        let line = format!(
            "ExecStart=\nExecStart={} -p else run --config %h/elsewhere.toml",
            binary().display()
        );
        let unit = foreign(manager, "else.service", "else", &line);
        let pid = unit.main_pid();
        let own = manager.home().join(".config/hermes-gateway/else.toml");
        manager.write(&own, "[htp]\n");
        manager.gateway(&["-p", "else", "restart"]).assert_code(0);
        assert_ne!(unit.main_pid(), pid);
        let pid = unit.main_pid();
        manager.write(&config, "[htp]\n");
        let refused = manager.gateway(&["-p", "else", "restart"]).assert_code(78);
        assert_says(&refused, &["elsewhere.toml:1", "is not restarted"]);
        assert_eq!(unit.main_pid(), pid);
    });
}
