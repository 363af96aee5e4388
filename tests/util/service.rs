//! The gateway as a unit of the service manager: installed, asked, and judged by what systemd and
//! its own history say of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::http::Connection;
use super::manager::runtime_dir;
use super::restart_clients::Server;
use super::{Manager, Unit, binary, eventually};

pub const UNIT: &str = "hermes-gateway.service";

/// What every gateway under test has, so that many can run: a free port.
const CONFIG: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// The default gateway as a service of a user's manager.
pub struct Service<'a> {
    manager: &'a Manager,
    unit: Unit<'a>,
}

impl<'a> Service<'a> {
    /// Installs it with this further configuration and this drop-in.
    #[track_caller]
    pub fn install(manager: &'a Manager, config: &str, drop_in: &str) -> Service<'a> {
        Service::install_program(manager, &binary(), config, drop_in)
    }

    /// The same, of another program.
    #[track_caller]
    pub fn install_program(
        manager: &'a Manager,
        program: &Path,
        config: &str,
        drop_in: &str,
    ) -> Service<'a> {
        let service = Service { manager, unit: manager.unit(UNIT) };
        service.configure(config);
        // Enabled, too: what nothing wants systemd forgets when it stops, with how its process ended.
        manager.run(program, &["install"]).assert_code(0);
        // Rounds are fast, and stay so (from systemd 254 on, the delay would grow).
        let fast = "[Service]\nRestartSec=50ms\nRestartSteps=0\n";
        manager.write_unit(&format!("{UNIT}.d/10-fast.conf"), fast);
        if !drop_in.is_empty() {
            manager.write_unit(&format!("{UNIT}.d/20-case.conf"), drop_in);
        }
        service
    }

    /// Installs it with the defaults and starts it.
    #[track_caller]
    pub fn start(manager: &'a Manager) -> Service<'a> {
        Service::start_with(manager, "", "")
    }

    /// [`Service::install`], and the start.
    #[track_caller]
    pub fn start_with(manager: &'a Manager, config: &str, drop_in: &str) -> Service<'a> {
        let service = Service::install(manager, config, drop_in);
        service.systemctl("start");
        service.unit.assert(&[("ActiveState", "active")]);
        service
    }

    /// Rewrites its configuration file: this behind what every gateway has, unless it says that itself.
    #[track_caller]
    pub fn configure(&self, config: &str) {
        let common = if config.contains("[http]") { "" } else { CONFIG };
        self.manager.write(&self.config_file(), &format!("{common}{config}"));
    }

    /// `systemctl VERB` of this unit, which must succeed.
    #[track_caller]
    pub fn systemctl(&self, verb: &str) {
        self.manager.systemctl(&[verb, UNIT]).assert_code(0);
    }

    pub fn unit(&self) -> Unit<'a> {
        self.unit
    }

    /// The pid of its main process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let pid = self.unit.main_pid();
        assert!(pid > 0, "it does not run\n{}", self.unit.journal());
        pid
    }

    pub fn config_file(&self) -> PathBuf {
        self.manager.home().join(".config/hermes-gateway/default.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.manager.home().join(".local/state/hermes-gateway/default")
    }

    /// A connection to its control socket.
    #[track_caller]
    pub fn control(&self) -> Connection {
        Connection::unix(&runtime_dir().join("hermes-gateway/default/control.sock"))
    }

    /// What it says of itself.
    #[track_caller]
    pub fn status(&self) -> Value {
        let mut control = self.control();
        control.get("/v1/status", &[]).assert_status(200).json()
    }

    /// Where it listens.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let status = self.status();
        let listen = status["listen"].as_str().expect("listen");
        listen.parse().expect("an address")
    }

    /// The key that it has made at its first start.
    #[track_caller]
    pub fn api_key(&self) -> String {
        let key = fs::read_to_string(self.state_dir().join("api.key")).expect("a key");
        key.trim_end().to_owned()
    }

    /// For clients that must not notice a restart.
    #[track_caller]
    pub fn for_clients(&self) -> Server {
        let key = Some(self.api_key());
        Server {
            address: self.address(),
            key,
            chats: true,
            messages: true,
            pause: std::time::Duration::ZERO,
        }
    }

    /// The processes in the unit's control group and in those below it.
    #[track_caller]
    pub fn processes(&self) -> Vec<i32> {
        let group = format!("/sys/fs/cgroup{}", self.unit.property("ControlGroup"));
        let below = fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path());
        let groups = below.chain([group.into()]);
        let texts = groups.filter_map(|at| fs::read_to_string(at.join("cgroup.procs")).ok());
        texts
            .flat_map(|text| text.lines().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
            .collect()
    }

    /// Waits until so many turns run.
    #[track_caller]
    pub fn wait_for_turns(&self, running: u64) {
        eventually("the turns run", || {
            (self.status()["turns"]["running"] == running).then_some(())
        });
    }

    /// The stops that its history has, oldest first.
    #[track_caller]
    pub fn stops(&self) -> Vec<Value> {
        stops(&self.state_dir())
    }

    /// Fails the test unless the last stop has this verdict, exit status and reason.
    #[track_caller]
    pub fn assert_last_stop(&self, verdict: &str, exit: i64, reason: &str) {
        let stop = self.stops().pop().unwrap_or_default();
        let said = stop["reason"].as_str().unwrap_or("");
        assert!(
            stop["verdict"] == verdict && stop["exit"] == exit && said.contains(reason),
            "expected {verdict}, {exit}, {reason:?}: {stop}\n{}",
            self.unit.journal()
        );
    }

    /// Fails the test unless it was stopped as planned: `inactive`, and no word of a failure.
    #[track_caller]
    pub fn assert_stopped(&self, restarts: u32) {
        self.assert_inactive(restarts);
        self.assert_last_stop("planned", 0, "");
        self.unit.wait_for_journal("Exiting with code 0 (");
        self.unit.wait_for_journal("verdict=planned");
    }

    /// Fails the test unless systemd calls it stopped, its last process having ended with 0.
    #[track_caller]
    pub fn assert_inactive(&self, restarts: u32) {
        self.unit.assert(&[
            ("ActiveState", "inactive"),
            ("SubState", "dead"),
            ("Result", "success"),
            ("ExecMainCode", "1"),
            ("ExecMainStatus", "0"),
            ("NRestarts", &restarts.to_string()),
        ]);
        let word = self.manager.systemctl(&["is-active", UNIT]).stdout;
        assert_eq!(word, "inactive\n");
    }

    /// Waits until it is back after `restarts` restarts, as another process.
    #[track_caller]
    pub fn wait_for_return(&self, before: i32, restarts: u32) {
        // As long as the old one is there, its unit may look the same.
        eventually("another process", || (self.unit.main_pid() != before).then_some(()));
        self.unit.wait_for(&[
            ("ActiveState", "active"),
            ("SubState", "running"),
            ("Result", "success"),
            ("NRestarts", &restarts.to_string()),
        ]);
        assert_ne!(self.pid(), before);
    }

    /// Waits for its return after a kill, and fails the test unless it was one for the gateway
    /// and for systemd alike.
    #[track_caller]
    pub fn assert_killed(&self, before: i32, restarts: u32) {
        self.wait_for_return(before, restarts);
        self.assert_last_stop("external", 143, "");
        self.unit.wait_for_journal("Exiting with code 143 (");
        self.unit.wait_for_journal("verdict=external");
    }
}

/// The stops that the history in this state directory has, oldest first.
/// The ends of runs in a history, each once.
#[track_caller]
pub fn stops(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("history.jsonl")).unwrap_or_default();
    let mut stops = Vec::<Value>::new();
    for line in text.lines() {
        let stop: Value = serde_json::from_str(line).expect("a line of the history");
        // A start enters the end before it once more, with itself in it.
        match stops.iter_mut().find(|known| stop["run"].is_string() && known["run"] == stop["run"])
        {
            Some(known) => *known = stop,
            None => stops.push(stop),
        }
    }
    stops
}
