//! A real service manager, as seen by a test that runs inside a [`super::Sandbox`].

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{DEADLINE, Outcome, Process, binary, pause, sys};

/// The user that `tests/with-systemd` makes.
const USER: &str = "tester";
const UID: u32 = 4242;

/// As long as a slow stop may take, and more than a client's own patience of 90 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two questions: each starts a program, which costs a processor more than the wait does.
const BETWEEN: Duration = Duration::from_millis(20);

/// The manager that a sandboxed test talks to: the user's, or the system's.
pub struct Manager {
    pub(super) system: bool,
}

impl Manager {
    /// The user's manager, for a test that runs as root: what this one runs, it runs as the user.
    pub fn user(&self) -> Manager {
        Manager { system: false }
    }

    /// Runs `systemctl`, with `--user` where it is the user's manager.
    #[track_caller]
    pub fn systemctl(&self, args: &[&str]) -> Outcome {
        self.tool("systemctl", args)
    }

    /// Runs `systemd-run`, likewise.
    #[track_caller]
    pub fn systemd_run(&self, args: &[&str]) -> Outcome {
        self.tool("systemd-run", args)
    }

    /// Runs the gateway's program, with the environment of the session.
    #[track_caller]
    pub fn gateway(&self, args: &[&str]) -> Outcome {
        self.run(&binary(), args)
    }

    /// Runs any program (the gateway by another name, say) with the environment of the session.
    #[track_caller]
    pub fn run(&self, program: &Path, args: &[&str]) -> Outcome {
        Process::spawn(self.command(program).args(args)).finish(PATIENCE)
    }

    /// A program, to be run as the user whose manager this is.
    pub fn command(&self, program: &Path) -> Command {
        if self.system || sys::uid() != 0 {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={UID}"), format!("--regid={UID}")])
            .args(["--clear-groups", "--"])
            .arg(program)
            .envs([("HOME", self.home()), ("XDG_RUNTIME_DIR", runtime_dir())])
            .envs([("USER", USER), ("LOGNAME", USER)]);
        command
    }

    /// The file that a process runs, as journald has seen it: a gateway's /proc/PID/exe is closed to others.
    #[track_caller]
    pub fn program_of(&self, pid: i32) -> PathBuf {
        let process = format!("_PID={pid}");
        super::eventually("a line of the process in the journal", || {
            let mut command = self.command(Path::new("journalctl"));
            command.args([&process, "--quiet", "--lines=1", "--output=json"]);
            let said = Process::spawn(&mut command).finish(DEADLINE).stdout;
            let line: serde_json::Value = serde_json::from_str(said.trim()).ok()?;
            Some(PathBuf::from(line["_EXE"].as_str()?))
        })
    }

    /// The unit of this name, which need not exist yet.
    pub fn unit<'a>(&'a self, name: &'a str) -> Unit<'a> {
        Unit { manager: self, name }
    }

    /// Writes a unit file, or with `NAME.d/x.conf` a drop-in, and has the manager read it.
    #[track_caller]
    pub fn write_unit(&self, file: &str, text: &str) {
        self.write(&self.unit_dir().join(file), text);
        self.systemctl(&["daemon-reload"]).assert_code(0);
    }

    /// Writes a file of the user whose manager this is, and makes the directories on the way.
    #[track_caller]
    pub fn write(&self, file: &Path, text: &str) {
        let dir = file.parent().unwrap();
        let made: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
        fs::create_dir_all(dir).expect("make the directories");
        fs::write(file, text).expect("write a file");
        if !self.system && sys::uid() == 0 {
            for path in made.into_iter().chain([file]) {
                chown(path, Some(UID), Some(UID)).expect("chown");
            }
        }
    }

    /// Where its administrator's unit files are.
    pub fn unit_dir(&self) -> PathBuf {
        if self.system {
            "/etc/systemd/system".into()
        } else {
            self.home().join(".config/systemd/user")
        }
    }

    /// The home directory of the user that its services run as.
    pub fn home(&self) -> PathBuf {
        if self.system { "/root".into() } else { Path::new("/home").join(USER) }
    }

    /// The pid of the manager itself, to be stopped (SIGSTOP) for example.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        if self.system {
            return 1;
        }
        let own = format!("user@{UID}.service");
        let system = Manager { system: true };
        let pid = system.unit(&own).main_pid();
        assert!(pid > 0, "{own} is not running");
        pid
    }

    /// The version of the manager's systemd.
    #[track_caller]
    pub fn version(&self) -> u32 {
        let words = self.systemctl(&["--version"]).assert_code(0).stdout;
        words
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.split(['.', '~']).next()?.parse().ok())
            .unwrap_or_else(|| panic!("which version is this? {words}"))
    }

    #[track_caller]
    fn tool(&self, program: &str, args: &[&str]) -> Outcome {
        let mut command = self.command(Path::new(program));
        if !self.system {
            command.arg("--user");
        }
        Process::spawn(command.args(args)).finish(PATIENCE)
    }
}

/// The user's runtime directory.
pub fn runtime_dir() -> PathBuf {
    format!("/run/user/{UID}").into()
}

/// A unit, by name.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    manager: &'a Manager,
    pub name: &'a str,
}

impl Unit<'_> {
    /// All properties that `systemctl show` tells.
    #[track_caller]
    pub fn show(&self) -> BTreeMap<String, String> {
        self.show_only(&[])
    }

    /// Those of these names alone, which is less work; all where none is named.
    #[track_caller]
    fn show_only(&self, names: &[&str]) -> BTreeMap<String, String> {
        let names: Vec<String> = names.iter().map(|name| format!("--property={name}")).collect();
        let words = ["show", self.name].into_iter().chain(names.iter().map(String::as_str));
        let shown = self.manager.systemctl(&words.collect::<Vec<_>>()).assert_code(0);
        shown
            .stdout
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// One property; empty where the unit has none of this name.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.show_only(&[name]).remove(name).unwrap_or_default()
    }

    /// The pid of the main process; 0 when there is none.
    #[track_caller]
    pub fn main_pid(&self) -> i32 {
        self.property("MainPID").parse().expect("MainPID")
    }

    /// Waits until every property has its value.
    #[track_caller]
    pub fn wait_for(&self, expected: &[(&str, &str)]) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let wrong = self.differences(expected);
            if wrong.is_empty() {
                return;
            }
            pause(BETWEEN);
            assert!(
                Instant::now() < deadline,
                "{} did not come to this: {}\n{}",
                self.name,
                wrong.join(", "),
                self.journal()
            );
        }
    }

    /// Fails the test, with the unit's journal, unless every property has its value now.
    #[track_caller]
    pub fn assert(&self, expected: &[(&str, &str)]) {
        let wrong = self.differences(expected);
        assert!(wrong.is_empty(), "{}: {}\n{}", self.name, wrong.join(", "), self.journal());
    }

    #[track_caller]
    fn differences(&self, expected: &[(&str, &str)]) -> Vec<String> {
        let names: Vec<&str> = expected.iter().map(|(key, _)| *key).collect();
        let shown = self.show_only(&names);
        expected
            .iter()
            .filter_map(|(key, value)| {
                let found = shown.get(*key).map_or("", String::as_str);
                (found != *value).then(|| format!("{key}={found} instead of {value}"))
            })
            .collect()
    }

    /// Waits for a line of its journal that contains `text`: journald reads what a process has
    /// printed in its own time.
    #[track_caller]
    pub fn wait_for_journal(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let journal = self.journal();
            if journal.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in:\n{journal}");
            pause(BETWEEN);
        }
    }

    /// What the unit's processes, and the manager about it, have logged.
    #[track_caller]
    pub fn journal(&self) -> String {
        let mut command = self.manager.command(Path::new("journalctl"));
        let fields = if self.manager.system {
            ["_SYSTEMD_UNIT", "UNIT"]
        } else {
            ["_SYSTEMD_USER_UNIT", "USER_UNIT"]
        };
        let [by, about] = fields.map(|field| format!("{field}={}", self.name));
        // journald loses the unit of a process that ends at once, but not its name.
        command.args([&by, "+", &about, "+", "SYSLOG_IDENTIFIER=hermes-gateway"]);
        let args = ["--no-pager", "--quiet", "-o", "short-monotonic"];
        Process::spawn(command.args(args)).finish(DEADLINE).stdout
    }
}
