//! Frameworks that others wrote, unchanged and with their defaults, before an upstream that takes nothing
//! which OpenAI's own types do not have: each with tools, schemas, pictures and errors of each kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::util::http::Connection;
use crate::util::{DEADLINE, Gateway, Home, Process, full, skip};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// The only key that the upstream takes.
const KEY: &str = "the-key-of-the-upstream";

/// A gateway before tests/clients/upstream.py.
pub struct Strict {
    pub gateway: Gateway,
    pub clients: PathBuf,
    upstream: String,
    _upstream: Process,
}

impl Strict {
    /// `None`, loudly, where the clients are not installed.
    #[track_caller]
    pub fn start() -> Option<Strict> {
        let Some(clients) = env::var_os("HERMES_CLIENTS").map(PathBuf::from) else {
            skip("there are no clients: tests/run installs them");
            return None;
        };
        let mut python = Command::new(clients.join("python/bin/python"));
        python.args(["-B", "upstream.py", KEY]).current_dir(HERE);
        let process = Process::spawn(&mut python);
        // It imports much.
        let line = process.wait_for_output("port ", DEADLINE * 3);
        let upstream = format!("127.0.0.1:{}", line.trim().rsplit(' ').next().unwrap());
        let home = Home::new();
        let file = home.path().join("upstream.key");
        fs::write(&file, KEY).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        home.configure(&format!(
            "[agent]\nurl = \"http://{upstream}/v1\"\nkey_file = {file:?}\nmodel = \"m\"\n\
             answer_within = \"1s\"\n"
        ));
        Some(Strict { gateway: home.start(), clients, upstream, _upstream: process })
    }

    /// Runs a client, which must be content, as the upstream must with all that it got from it.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> String {
        let home = self.gateway.home();
        command.current_dir(HERE).env("KEY", home.api_key());
        command.env("BASE", format!("http://{}/v1", self.gateway.address()));
        command.env("HOME", home.path()).env("TMPDIR", home.path());
        command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("OPENAI_API_KEY");
        let said = Process::spawn(command).finish(DEADLINE * 9).assert_code(0).stdout;
        let told = Connection::tcp(&*self.upstream).get("/violations", &[]).json();
        assert_eq!(told["violations"], serde_json::json!([]), "{told:#}");
        assert!(told["requests"].as_u64() > Some(0), "the upstream was not asked");
        said
    }
}

/// Under `--full` all of them, each before a gateway of its own, which limits how often a key may be wrong.
#[test]
fn frameworks_for_python_do_all_that_they_can() {
    let rest = [
        ("python-frameworks", "langchain_check.py"),
        ("python-frameworks", "pydantic_ai_check.py"),
        ("python-instructor", "instructor_check.py"),
    ];
    let rest = if full() { &rest[..] } else { &[] };
    for (environment, file) in [&[("python", "agents_sdk.py")][..], rest].concat() {
        let Some(strict) = Strict::start() else { return };
        let python: &Path = &strict.clients.join(environment).join("bin/python");
        strict.run(Command::new(python).arg(file));
    }
}
