//! The real gateway in the foreground, in a home of its own.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::http::{self, Connection, Response};
use super::restart_clients::Server;
use super::{DEADLINE, Outcome, Process, TempDir, binary, eventually, sys};

/// Where one gateway keeps its files: configuration, state and runtime directories that nobody
/// else uses. It outlives the process, so a second start finds what the first has left.
#[derive(Clone)]
pub struct Home {
    dir: Arc<TempDir>,
    profile: Option<String>,
}

impl Home {
    /// The home of the default gateway.
    #[track_caller]
    pub fn new() -> Home {
        Home::make(None)
    }

    /// The home of the gateway with this name.
    #[track_caller]
    pub fn named(profile: &str) -> Home {
        Home::make(Some(profile.to_owned()))
    }

    #[track_caller]
    fn make(profile: Option<String>) -> Home {
        let dir = Arc::new(TempDir::with_mode("", 0o700));
        // One letter each: socket paths hold 107 bytes.
        for name in ["h", "c", "s", "r"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        Home { dir, profile }
    }

    /// The name under which its files are kept.
    pub fn name(&self) -> &str {
        self.profile.as_deref().unwrap_or("default")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_file(&self) -> PathBuf {
        let file = format!("c/hermes-gateway/{}.toml", self.name());
        self.path().join(file)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path().join("s/hermes-gateway").join(self.name())
    }

    /// What is in the journal, without the room behind its records.
    #[track_caller]
    pub fn journal_text(&self) -> String {
        super::journal_text(&self.state_dir().join("journal"))
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.path().join("r/hermes-gateway").join(self.name())
    }

    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir().join("control.sock")
    }

    /// The key that the gateway has made at its first start.
    #[track_caller]
    pub fn api_key(&self) -> String {
        let file = self.state_dir().join("api.key");
        let key = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        key.trim_end().to_owned()
    }

    /// Writes the configuration file.
    #[track_caller]
    pub fn configure(&self, toml: &str) {
        let file = self.config_file();
        let dir = file.parent().unwrap();
        fs::create_dir_all(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&file, toml).unwrap();
    }

    /// The gateway's program with these arguments, in this home, with nothing in its environment
    /// that could tell it of a service manager.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(&binary(), args)
    }

    /// The same of another build of it.
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        self.furnish(&mut command);
        self.name_itself(&mut command);
        command.args(args);
        command
    }

    /// Runs a command of the gateway's to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        Process::spawn(&mut self.command(args)).finish(DEADLINE)
    }

    /// Prepares a start, to be completed with [`Launch::start`] or [`Launch::spawn`].
    pub fn launch(&self) -> Launch {
        Launch {
            home: self.clone(),
            program: binary(),
            through: Vec::new(),
            settings: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            descriptors: Vec::new(),
            as_configured: false,
        }
    }

    /// Starts the gateway as it is configured, and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Gateway {
        self.launch().start()
    }

    fn furnish(&self, command: &mut Command) {
        let dir = self.path();
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir.join("h"))
            .env("XDG_CONFIG_HOME", dir.join("c"))
            .env("XDG_STATE_HOME", dir.join("s"))
            .env("XDG_RUNTIME_DIR", dir.join("r"))
            .current_dir(dir.join("h"));
    }

    fn name_itself(&self, command: &mut Command) {
        if let Some(profile) = &self.profile {
            command.args(["-p", profile]);
        }
    }
}

/// A start in the making.
pub struct Launch {
    home: Home,
    program: PathBuf,
    through: Vec<String>,
    settings: Vec<(String, String)>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    descriptors: Vec<OwnedFd>,
    as_configured: bool,
}

impl Launch {
    /// `--set KEY=VALUE`. Without a `http.listen` the gateway listens on a free loopback port.
    pub fn set(mut self, key: &str, value: &str) -> Launch {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Listens where its configuration says.
    pub fn listen_as_configured(mut self) -> Launch {
        self.as_configured = true;
        self
    }

    /// A further argument.
    pub fn arg(mut self, arg: &str) -> Launch {
        self.args.push(arg.to_owned());
        self
    }

    /// A further environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Hands descriptors over, from 3 on, by a parent that sets `LISTEN_PID` right.
    pub fn descriptors(mut self, descriptors: Vec<OwnedFd>, names: &str) -> Launch {
        self = self.env("LISTEN_FDS", &descriptors.len().to_string()).env("LISTEN_FDNAMES", names);
        self.descriptors = descriptors;
        self.through(&["sh", "-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
    }

    /// Starts another build of the gateway.
    pub fn program(mut self, program: &Path) -> Launch {
        self.program = program.to_owned();
        self
    }

    /// Starts it through another program, as in `unshare --pid --fork hermes-gateway`.
    pub fn through(mut self, words: &[&str]) -> Launch {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the gateway and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        self.try_start().unwrap_or_else(|refused| panic!("it did not start: {refused:#?}"))
    }

    /// Starts the gateway; where it ends before it is ready, how it did.
    #[track_caller]
    pub fn try_start(self) -> Result<Gateway, Outcome> {
        let home = self.home.clone();
        let process = self.spawn();
        if process.wait_for_end_or("READY=1") {
            return Err(process.finish(DEADLINE));
        }
        let status = Connection::unix(&home.control_socket())
            .get("/v1/status", &[])
            .assert_status(200)
            .json();
        let address = status["listen"]
            .as_str()
            .and_then(|listen| listen.parse().ok())
            .unwrap_or_else(|| panic!("no \"listen\" in the status: {status}"));
        Ok(Gateway { process, home, address })
    }

    /// Starts the gateway and waits for nothing.
    #[track_caller]
    pub fn spawn(mut self) -> Process {
        let set = self.settings.iter().any(|(key, _)| key == "http.listen");
        if !set && !self.as_configured {
            self = self.set("http.listen", "127.0.0.1:0");
        }
        let mut command = match self.through.split_first() {
            None => Command::new(&self.program),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.program);
                command
            }
        };
        self.home.furnish(&mut command);
        command.envs(self.env);
        if !self.descriptors.is_empty() {
            sys::hand_over(&mut command, self.descriptors);
        }
        self.home.name_itself(&mut command);
        command.arg("run").args(self.args);
        for (key, value) in &self.settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        Process::spawn_notifying(&mut command, &self.home.path().join("n"))
    }
}

/// A gateway that is ready. It is a [`Process`] too: `signal`, `wait_for_log`, `wait_for_exit` and
/// the rest are there. Dropped, it is killed.
pub struct Gateway {
    process: Process,
    home: Home,
    address: SocketAddr,
}

impl Gateway {
    /// A default gateway in a new home.
    #[track_caller]
    pub fn start() -> Gateway {
        Home::new().start()
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new TCP connection.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::tcp(self.address)
    }

    /// A new connection to the control socket.
    #[track_caller]
    pub fn control(&self) -> Connection {
        Connection::unix(&self.home.control_socket())
    }

    /// The value of an `Authorization` field that lets its bearer in.
    #[track_caller]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.home.api_key())
    }

    /// For clients that must not notice a restart.
    #[track_caller]
    pub fn for_clients(&self) -> Server {
        let key = Some(self.home.api_key());
        Server {
            address: self.address,
            key,
            chats: true,
            messages: true,
            pause: std::time::Duration::ZERO,
        }
    }

    /// `GET /v1/status`, as the control socket tells it.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        self.control().get("/v1/status", &[]).assert_status(200).json()
    }

    /// One turn with this message, on a connection of its own.
    #[track_caller]
    pub fn ask(&self, text: &str) -> Response {
        self.begin(text, false).response()
    }

    /// Sends a message, and leaves the answer to the caller.
    #[track_caller]
    pub fn begin(&self, text: &str, stream: bool) -> Connection {
        let fields = [
            ("Authorization", self.authorization()),
            ("Content-Type", "application/json".to_owned()),
        ];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        let body = http::chat(text, stream);
        let mut connection = self.connect();
        connection.send(&http::request("POST", "/v1/chat/completions", &fields, body.as_bytes()));
        connection
    }

    /// Waits until so many turns run.
    #[track_caller]
    pub fn wait_for_turns(&self, running: u64) {
        eventually("the turns run", || {
            (self.status()["turns"]["running"] == running).then_some(())
        });
    }

    /// The process, to be waited for to its last word.
    pub fn into_process(self) -> Process {
        self.process
    }
}

impl Deref for Gateway {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}
