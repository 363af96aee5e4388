//! A gateway whose unit this program did not write: `stop`, `restart` and `status` of a unit with
//! another name, of a transient one, and of one whose file was removed while it runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use util::sys::{self, Pidfd};
use util::{Manager, Outcome, Process, Sandbox, binary, eventually};

const NAME: &str = "mybot";

/// How somebody else has made the unit that the gateway runs in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stranger {
    /// A unit file of another name, that comes back whatever happens.
    Always,
    /// One that comes back only after a failure, and knows no notifications.
    OnFailure,
    /// `systemd-run --user --unit=…`.
    Transient,
    /// `systemd-run --user`, with the name that systemd gives.
    Nameless,
    /// A unit file that was removed under the running gateway.
    Removed,
    /// The same, and the manager knows.
    RemovedAndReloaded,
    /// This program's own unit, removed likewise.
    OwnRemoved,
}

use Stranger::{Always, Nameless, OnFailure, OwnRemoved, Removed, RemovedAndReloaded, Transient};

const ALL: [Stranger; 7] =
    [Always, OnFailure, Transient, Nameless, Removed, RemovedAndReloaded, OwnRemoved];

fn unit_text(kind: &str) -> String {
    format!("[Service]\n{kind}\nRestartSec=50ms\nExecStart={} -p {NAME} run\n", binary().display())
}

/// A gateway that runs.
struct Bot<'a> {
    manager: &'a Manager,
    stranger: Stranger,
    unit: String,
    pid: i32,
}

impl<'a> Bot<'a> {
    #[track_caller]
    fn start(manager: &'a Manager, stranger: Stranger) -> Bot<'a> {
        let config = manager.home().join(format!(".config/hermes-gateway/{NAME}.toml"));
        manager.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
        let program = binary();
        let program = program.to_str().unwrap();
        let run = [program, "-p", NAME, "run"];
        let mut unit = "mybot.service".to_owned();
        match stranger {
            Always | Removed | RemovedAndReloaded => {
                manager.write_unit(&unit, &unit_text("Type=notify\nRestart=always"));
                manager.systemctl(&["start", &unit]).assert_code(0);
            }
            OnFailure => {
                manager.write_unit(&unit, &unit_text("Type=exec\nRestart=on-failure"));
                manager.systemctl(&["start", &unit]).assert_code(0);
            }
            Transient => {
                let args = ["--quiet", "--unit=mybot", "-p", "Restart=always"];
                manager.systemd_run(&[&args[..], &run].concat()).assert_code(0);
            }
            Nameless => {
                let outcome = manager.systemd_run(&run).assert_code(0);
                let said = format!("{}{}", outcome.stdout, outcome.stderr);
                unit = said
                    .split_whitespace()
                    .find(|word| word.contains(".service"))
                    .unwrap_or_else(|| panic!("which unit? {said}"))
                    .trim_end_matches([';', '.', ','])
                    .to_owned();
            }
            OwnRemoved => {
                unit = format!("hermes-gateway-{NAME}.service");
                manager.gateway(&["-p", NAME, "install", "--now"]).assert_code(0);
            }
        }
        let pid = manager.unit(&unit).main_pid();
        manager.unit(&unit).wait_for_journal(&format!("[{pid}]: gateway {NAME} serves on"));
        if matches!(stranger, Removed | RemovedAndReloaded | OwnRemoved) {
            fs::remove_file(manager.unit_dir().join(&unit)).unwrap();
        }
        if matches!(stranger, RemovedAndReloaded | OwnRemoved) {
            manager.systemctl(&["daemon-reload"]).assert_code(0);
        }
        Bot { manager, stranger, unit, pid }
    }

    #[track_caller]
    fn run(&self, command: &str) -> Outcome {
        self.manager.gateway(&["-p", NAME, command])
    }

    fn state_dir(&self) -> PathBuf {
        self.manager.home().join(".local/state/hermes-gateway").join(NAME)
    }

    /// The stops that its history has.
    fn stops(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.state_dir().join("history.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What is not as it should be after a `stop`.
    #[track_caller]
    fn judge_stop(&self) -> Result<(), String> {
        let outcome = self.run("stop");
        let said = format!("exit status {}: {}{}", outcome.code(), outcome.stdout, outcome.stderr);
        if outcome.code() != 0 {
            return Err(said);
        }
        let shown = self.manager.unit(&self.unit).show();
        let is = |key: &str| shown.get(key).cloned().unwrap_or_default();
        if (is("ActiveState"), is("Result")) != ("inactive".to_owned(), "success".to_owned()) {
            return Err(format!("{}, {}; {said}", is("ActiveState"), is("Result")));
        }
        let last = self.stops().pop().unwrap_or_default();
        if last["verdict"] != "planned" || last["exit"] != 0 {
            return Err(format!("{last}; {said}"));
        }
        let after = self.run("status");
        if after.code() != 3 {
            return Err(format!("status afterwards: {}: {}", after.code(), after.stdout));
        }
        let again = self.run("stop");
        let fine = again.code() == 0 && again.stdout.contains("is not running");
        if fine { Ok(()) } else { Err(format!("stop again: {}{}", again.stdout, again.stderr)) }
    }

    /// What is not as it should be after a `restart`.
    #[track_caller]
    fn judge_restart(&self) -> Result<(), String> {
        let outcome = self.run("restart");
        let said = format!("exit status {}: {}{}", outcome.code(), outcome.stdout, outcome.stderr);
        let unit = self.manager.unit(&self.unit);
        let (state, now) = (unit.property("ActiveState"), unit.main_pid());
        // systemd starts no unit whose file is gone: then it must be left as it is, and said.
        let gone = matches!(self.stranger, RemovedAndReloaded | OwnRemoved);
        let fine = match outcome.code() {
            0 => state == "active" && now > 0 && now != self.pid,
            _ => gone && state == "active" && now == self.pid && !outcome.stderr.is_empty(),
        };
        if !fine {
            return Err(format!("{state}, pid {now} after {}; {said}", self.pid));
        }
        let unplanned = self.stops().into_iter().find(|stop| stop["verdict"] != "planned");
        unplanned.map_or(Ok(()), |stop| Err(format!("{stop}; {said}")))
    }

    /// What is not as it should be in the `status`.
    #[track_caller]
    fn judge_status(&self) -> Result<(), String> {
        let outcome = self.run("status");
        let text = &outcome.stdout;
        let wrong = |what: &str| Err(format!("{what} ({}):\n{text}", outcome.code()));
        if outcome.code() != 0 {
            return wrong("exit status");
        }
        if !text.contains(&format!("pid  {}\n", self.pid)) {
            return wrong("not this pid");
        }
        if !text.contains(&self.unit) {
            return wrong("not this unit");
        }
        // What `install` would write is no measure for somebody else's unit.
        if text.contains("`install` updates it") {
            return wrong("advice for another's unit");
        }
        Ok(())
    }
}

/// Tries every stranger, one after the other, and says all that is wrong.
#[track_caller]
fn all_strangers(manager: &Manager, judge: fn(&Bot) -> Result<(), String>) {
    let mut wrong = Vec::new();
    for stranger in ALL {
        let bot = Bot::start(manager, stranger);
        if let Err(what) = judge(&bot) {
            wrong.push(format!("{stranger:?}: {what}"));
        }
        // Whatever came of it, the next one finds nothing.
        manager.systemctl(&["stop", &bot.unit]);
        let _ = fs::remove_file(manager.unit_dir().join(&bot.unit));
        manager.systemctl(&["reset-failed", &bot.unit]);
        manager.systemctl(&["daemon-reload"]).assert_code(0);
        eventually("the gateway is gone", || (bot.run("status").code() == 3).then_some(()));
        fs::remove_dir_all(bot.state_dir()).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ALL.len(), wrong.join("\n"));
}

#[test]
fn stop_ends_whatever_unit_runs_the_gateway() {
    Sandbox::user().run(|manager| all_strangers(manager, |bot| bot.judge_stop()));
}

#[test]
fn restart_restarts_whatever_unit_runs_the_gateway() {
    Sandbox::user().run(|manager| all_strangers(manager, |bot| bot.judge_restart()));
}

#[test]
fn status_names_whatever_unit_runs_the_gateway() {
    Sandbox::user().run(|manager| all_strangers(manager, |bot| bot.judge_status()));
}

#[test]
fn a_system_unit_of_another_name_is_stopped_by_root_and_by_nobody_else() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        user.write(
            &user.home().join(format!(".config/hermes-gateway/{NAME}.toml")),
            "[http]\nlisten = \"127.0.0.1:0\"\n",
        );
        let kind = "Type=notify\nRestart=always\nUser=tester";
        manager.write_unit("mybot.service", &unit_text(kind));
        manager.systemctl(&["start", "mybot.service"]).assert_code(0);
        let unit = manager.unit("mybot.service");
        let pid = unit.main_pid();

        // The user may signal it, and must not: the unit would come back.
        let outcome = user.gateway(&["-p", NAME, "stop"]);
        assert_ne!(outcome.code(), 0, "{outcome:?}");
        assert!(!outcome.stderr.trim().is_empty(), "{outcome:?}");
        unit.assert(&[("ActiveState", "active"), ("NRestarts", "0")]);
        assert_eq!(unit.main_pid(), pid);
        let status = user.gateway(&["-p", NAME, "status"]).assert_code(0);
        assert!(status.stdout.contains(&format!("pid  {pid}\n")), "{}", status.stdout);

        // With sudo, in the user's HOME, it is stopped or said why not.
        let mut command = std::process::Command::new(binary());
        command.args(["-p", NAME, "stop"]).env("HOME", user.home()).env("SUDO_UID", "4242");
        let outcome = Process::spawn(&mut command).finish(util::DEADLINE).assert_code(0);
        unit.assert(&[("ActiveState", "inactive"), ("Result", "success"), ("NRestarts", "0")]);
        assert!(outcome.stdout.contains("stopped"), "{}", outcome.stdout);
    });
}

/// Starts the gateway as a child of a shell by `systemd-run` with these options; the shell has another
/// child and outlives the gateway. Returns both pids, the gateway's first.
#[track_caller]
fn start_as_a_child(manager: &Manager, options: &[&str]) -> (Process, [i32; 2]) {
    let config = manager.home().join(format!(".config/hermes-gateway/{NAME}.toml"));
    manager.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
    let pids = manager.home().join("pids");
    let script = format!(
        "{} -p {NAME} run & gateway=$!; sleep 1000 & echo $gateway $! > {1}.new
        mv {1}.new {1}; wait $gateway; wait",
        binary().display(),
        pids.display()
    );
    let mut command = manager.command("systemd-run".as_ref());
    command.args(["--user", "--quiet"]).args(options).args(["sh", "-c", &script]);
    let shell = Process::spawn(&mut command);
    let both = eventually("the pids", || {
        let text = fs::read_to_string(&pids).ok()?;
        let mut both = text.split_whitespace().map(|pid| pid.parse::<i32>().unwrap());
        Some([both.next()?, both.next()?])
    });
    fs::remove_file(&pids).unwrap();
    let runs = || manager.gateway(&["-p", NAME, "status"]).code() == 0;
    eventually("the gateway runs", || runs().then_some(()));
    (shell, both)
}

#[test]
fn stop_of_a_gateway_that_is_a_mere_child_leaves_the_rest_of_its_unit_alone() {
    Sandbox::user().run(|manager| {
        // A terminal's scope, and the service of a supervisor.
        for options in [&["--scope", "--unit=term"][..], &["--unit=supervisor"]] {
            let (_shell, [gateway, other]) = start_as_a_child(manager, options);
            let process = Pidfd::open(gateway).unwrap();
            let outcome = manager.gateway(&["-p", NAME, "stop"]).assert_code(0);
            assert!(outcome.stdout.contains("has stopped"), "{options:?}: {outcome:?}");
            assert!(process.wait(Duration::ZERO).unwrap(), "{options:?}: {outcome:?}");
            sys::kill(other, 0).expect("the other process must live");
            let unit = if options.len() > 1 { "term.scope" } else { "supervisor.service" };
            manager.unit(unit).assert(&[("ActiveState", "active")]);
            let history = ".local/state/hermes-gateway/mybot/history.jsonl";
            let text = fs::read_to_string(manager.home().join(history)).unwrap();
            let last: serde_json::Value =
                serde_json::from_str(text.lines().last().unwrap()).unwrap();
            assert_eq!((&last["verdict"], &last["exit"]), (&"planned".into(), &0.into()), "{last}");
            manager.systemctl(&["stop", unit]).assert_code(0);
        }
    });
}
