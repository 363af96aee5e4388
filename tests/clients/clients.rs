//! Clients that others wrote, unchanged: OpenAI's own for Python and Node, litellm, llm, curl. What they
//! are asked and must get stands in tests/clients/; tests/clients/install installs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use util::{DEADLINE, Gateway, Home, Process, Upstream, skip};

/// A gateway with the agent of these tests, and what a client has to know of it.
struct Served {
    gateway: Gateway,
    clients: PathBuf,
}

impl Served {
    /// `None`, loudly, where the clients are not installed.
    fn start() -> Option<Served> {
        let Some(clients) = env::var_os("HERMES_CLIENTS") else {
            skip("there are no clients: tests/run installs them");
            return None;
        };
        let home = Home::new();
        let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/agent.sh");
        let dir = home.path().display();
        home.configure(&format!(
            "[agent]\ncommand = [\"/bin/sh\", {:?}]\nanswer_within = \"1s\"\nenv = {{ DIR = \"{dir}\" }}\n",
            agent.display().to_string()
        ));
        Some(Served { gateway: home.start(), clients: clients.into() })
    }

    /// The same before an upstream that does what it is asked for.
    fn before_upstream() -> Option<Served> {
        let clients = env::var_os("HERMES_CLIENTS");
        if clients.is_none() {
            skip("there are no clients: tests/run installs them");
        }
        let (clients, home, upstream) = (clients?, Home::new(), Upstream::start());
        home.configure(&upstream.config(""));
        upstream.obey();
        Some(Served { gateway: home.start(), clients: clients.into() })
    }

    fn base(&self) -> String {
        format!("http://{}/v1", self.gateway.address())
    }

    /// Runs a client, which must be content.
    #[track_caller]
    fn run(&self, program: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
        command.env("BASE", self.base()).env("KEY", self.gateway.home().api_key());
        command.env("DIR", self.gateway.home().path()).env("MODULES", self.clients.join("node"));
        command.env("LLM_USER_PATH", self.gateway.home().path());
        command.env("TMPDIR", self.gateway.home().path()).env("PYTHONDONTWRITEBYTECODE", "1");
        // It would ask GitHub for a list, and wait for the answer.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        Process::spawn(&mut command).finish(DEADLINE * 3).assert_code(0).stdout
    }

    #[track_caller]
    fn python(&self, cases: &[&str]) {
        let arguments = [&["check.py"], cases].concat();
        self.run(&self.clients.join("python/bin/python"), &arguments);
    }

    #[track_caller]
    fn node(&self, cases: &[&str]) {
        self.run(Path::new("node"), &[&["check.mjs"], cases].concat());
    }
}

#[test]
fn openai_for_python_lists_models_and_chats() {
    let Some(served) = Served::start() else { return };
    served.python(&["models", "chats", "at_once", "sessions"]);
}

#[test]
fn openai_for_python_hears_of_every_failure() {
    let Some(served) = Served::start() else { return };
    served.python(&["errors"]);
}

#[test]
fn openai_for_python_sends_again_in_an_outage_and_has_one_turn() {
    let Some(served) = Served::start() else { return };
    served.python(&["outage"]);
}

#[test]
fn openai_for_python_has_responses() {
    let Some(served) = Served::start() else { return };
    served.python(&["responses"]);
}

#[test]
fn openai_for_python_calls_tools_and_understands_every_event() {
    let Some(served) = Served::before_upstream() else { return };
    served.python(&["tools"]);
}

#[test]
fn openai_for_node_chats_hears_of_failures_and_has_responses() {
    let Some(served) = Served::start() else { return };
    served.node(&["chats", "errors", "responses"]);
}

#[test]
fn litellm_and_llm_chat_and_hear_of_a_wrong_key() {
    let Some(served) = Served::start() else { return };
    served.python(&["litellm"]);
    let models = format!(
        "- model_id: gateway\n  model_name: default\n  api_base: {}\n  api_key_name: gateway\n",
        served.base()
    );
    fs::write(served.gateway.home().path().join("extra-openai-models.yaml"), models).unwrap();
    let (llm, key) = (served.clients.join("python/bin/llm"), served.gateway.home().api_key());
    let said = served.run(&llm, &["-m", "gateway", "--key", &key, "--no-log", "hi"]);
    assert_eq!(said.trim_end(), "text=hi");
}

#[test]
fn curl_keeps_its_connection_and_reaches_the_control_socket() {
    let Some(served) = Served::start() else { return };
    let bearer = format!("Authorization: Bearer {}", served.gateway.home().api_key());
    let (url, body) =
        (format!("{}/chat/completions", served.base()), util::http::chat("hi", false));
    let json = "Content-Type: application/json";
    let ask =
        ["-sS", "--fail", "-H", &bearer, "-H", json, "-d", &body, "-w", "\n%{num_connects}\n"];
    let said = served.run(Path::new("curl"), &[&ask[..], &[&url, &url]].concat());
    assert_eq!(said.matches("text=hi").count(), 2, "{said}");
    assert!(said.contains("\n1\n") && said.ends_with("\n0\n"), "{said}");
    let socket = served.gateway.home().control_socket();
    let local = ["--unix-socket", socket.to_str().unwrap(), "http://localhost/v1/models"];
    let said = served.run(Path::new("curl"), &[&["-sS", "--fail"][..], &local].concat());
    assert!(said.contains("\"default\""), "{said}");
    // A large body waits for the word to go on (Expect: 100-continue).
    let large = format!("@{}", served.gateway.home().path().join("large").display());
    fs::write(&large[1..], util::http::chat(&"x".repeat(500_000), false)).unwrap();
    let ask =
        ["-sS", "--fail", "-H", &bearer, "-H", json, "-H", "Expect: 100-continue", "-d", &large];
    let said = served.run(Path::new("curl"), &[&ask[..], &[&url]].concat());
    assert!(said.len() > 500_000, "{}", said.len());
}
