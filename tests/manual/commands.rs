//! Every command in a block of the README and of the manual pages is run as it is written, and prints
//! what the block says; so are the agents that they show, and the check of a signature.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{mdoc, util};

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use mdoc::{PAGES, literal_blocks};
use util::{Home, Outcome, Process, Sandbox, Target, TempDir, binary};

/// For a whole page.
const LIMIT: Duration = Duration::from_secs(90);

/// The port that the texts name.
const PORT: &str = "8642";

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The fenced blocks of the README that begin so.
fn fenced(begin: &str) -> Vec<String> {
    let text = readme();
    let blocks = text.split("\n```").skip(1).step_by(2);
    blocks.filter_map(|block| Some(block.strip_prefix(begin)?.to_owned() + "\n")).collect()
}

/// A command with what it prints.
struct Step {
    command: String,
    output: Vec<String>,
}

/// The commands of a block: `$ ` begins one, which may have further lines: behind a backslash, and to
/// the end of a here-document. What follows is its output.
fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut goes_on, mut here) = (false, false);
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ").filter(|_| !goes_on && !here) {
            steps.push(Step { command: command.to_owned(), output: Vec::new() });
            here = command.contains("<<");
        } else if let Some(step) = steps.last_mut() {
            if goes_on || here {
                step.command += &format!("\n{line}");
                here &= line != "EOF";
            } else if !line.is_empty() {
                step.output.push(line.to_owned());
            }
        } else {
            continue;
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

fn has_commands(block: &str) -> bool {
    block.lines().any(|line| line.starts_with("$ "))
}

/// The blocks with commands: those for a shell, and those that need systemd.
#[track_caller]
fn commands_of(page: &str) -> (Vec<Step>, Vec<Step>) {
    let blocks = if page == "README.md" { fenced("console\n") } else { literal_blocks(page) };
    let blocks = blocks.into_iter().filter(|block| has_commands(block));
    let (systemd, shell): (Vec<String>, Vec<String>) =
        blocks.partition(|block| block.contains("systemctl"));
    let all = |blocks: Vec<String>| blocks.iter().flat_map(|block| steps(block)).collect();
    (all(shell), all(systemd))
}

/// Runs these in one shell, which ends with the first that fails, and holds what they print against
/// what the text says.
#[track_caller]
fn run(steps: &[Step], shell: impl FnOnce(&str) -> Outcome) {
    assert!(!steps.is_empty(), "there are no commands");
    // What runs in the background must not outlive a command that failed.
    let mut script = "trap '[ $? = 0 ] || kill 0' EXIT\nset -e\n".to_owned();
    for (n, step) in steps.iter().enumerate() {
        writeln!(script, "echo '@@{n}'\n{}", step.command).unwrap();
    }
    let outcome = shell(&script).assert_code(0);
    for (n, step) in steps.iter().enumerate() {
        let (_, printed) = outcome.stdout.split_once(&format!("@@{n}\n")).unwrap();
        let printed = printed.split("@@").next().unwrap();
        let mut lines = printed.lines();
        for line in &step.output {
            assert!(
                lines.any(|printed| printed == line),
                "no {line:?} from {}: {printed}",
                step.command
            );
        }
    }
}

/// A user's home, with the program on its `PATH` and a port of its own in its configuration.
struct User {
    dir: TempDir,
    port: String,
}

impl User {
    fn new() -> User {
        let dir = TempDir::new("");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let user = User { dir, port: port.to_string() };
        for dir in ["run", "bin", "work/target/release", ".local/bin"] {
            fs::create_dir_all(user.path(dir)).unwrap();
        }
        fs::set_permissions(user.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        user.configure(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n"));
        for program in ["bin/hermes-gateway", "work/target/release/hermes-gateway"] {
            symlink(binary(), user.path(program)).unwrap();
        }
        // The program is built; and it may take longer than a second to start where much else runs.
        user.program("bin/cargo", "exit 0");
        user.program(
            "bin/sleep",
            "[ \"$1\" = 1 ] || exec /bin/sleep \"$@\"\n\
             until hermes-gateway status > /dev/null 2>&1; do /bin/sleep 0.02; done",
        );
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, text: &str) {
        let dir = self.path(".config/hermes-gateway");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("default.toml"), text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a script with the port of this home in the place of the usual one.
    #[track_caller]
    fn shell(&self, script: &str) -> Outcome {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script.replace(PORT, &self.port)).current_dir(self.path("work"));
        command.env_clear().env("HOME", self.dir.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display()));
        Process::spawn(&mut command).finish(LIMIT)
    }

    /// Runs the commands of a page, with a gateway that runs before and one that is stopped after them.
    #[track_caller]
    fn run_beside_a_gateway(&self, steps: &[Step]) {
        run(steps, |script| {
            let begin = "hermes-gateway & sleep 1; hermes-gateway send -s first hello\n";
            self.shell(&format!("{begin}{script}\nhermes-gateway stop\n"))
        });
    }
}

#[test]
fn blocks_are_taken_apart() {
    let block = "no command\n$ a <<EOF\nb\n$ c\nEOF\n$ d \\\n    e\nf\n\n$ g\n";
    let all = steps(block);
    let all: Vec<(&str, String)> =
        all.iter().map(|step| (step.command.as_str(), step.output.join("|"))).collect();
    let none = String::new();
    assert_eq!(
        all,
        [("a <<EOF\nb\n$ c\nEOF", none.clone()), ("d \\\n    e", "f".to_owned()), ("g", none)]
    );
}

#[test]
fn the_commands_of_the_readme_work() {
    let user = User::new();
    run(&commands_of("README.md").0, |script| user.shell(script));
}

#[test]
fn the_commands_of_the_main_page_work() {
    let user = User::new();
    run(&commands_of(PAGES[0]).0, |script| user.shell(script));
}

#[test]
fn the_commands_of_the_configuration_page_make_its_example_valid() {
    let user = User::new();
    let blocks = literal_blocks(PAGES[1]);
    let example = blocks.iter().find(|block| block.contains("[keys.alice]")).unwrap();
    user.configure(example);
    let before = user.shell("hermes-gateway config check").assert_code(78);
    assert!(before.stderr.contains("alice.key"), "{}", before.stderr);
    let (steps, systemd) = commands_of(PAGES[1]);
    assert!(systemd.is_empty());
    run(&steps, |script| user.shell(script));
    // The other examples are one configuration each.
    for block in blocks.iter().filter(|block| block.contains("[agent]")) {
        user.configure(block);
        fs::write(user.path(".config/hermes-gateway/upstream.key"), "key").unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(user.path(".config/hermes-gateway/upstream.key"), mode).unwrap();
        user.program("bin/my-agent", "exit 0");
        user.shell("OPENAI_API_KEY=x hermes-gateway config check").assert_code(0);
    }
}

#[test]
fn the_commands_of_the_agent_page_work() {
    let user = User::new();
    let (steps, systemd) = commands_of(PAGES[2]);
    assert!(systemd.is_empty());
    run(&steps, |script| user.shell(script));
    // Its other agents.
    let text = "You said: two\nMessages before this one: 1";
    assert_agent(&user.path("work/agent.sh"), "text", &|said| said == text);
    let tells_the_time = |said: &str| said.starts_with("It is ") && said.len() == 12;
    assert_agent(&user.path("work/clock.sh"), "lines", &tells_the_time);
    for name in ["stay.py", "stay.mjs"] {
        assert_agent(&user.path("work").join(name), "lines", &|said| said == "You said: two");
    }
}

#[test]
fn the_commands_of_the_api_page_work_and_its_check_knows_a_signature() {
    let user = User::new();
    let (steps, systemd) = commands_of(PAGES[3]);
    assert!(systemd.is_empty());
    user.run_beside_a_gateway(&steps);

    let (home, target) = (Home::new(), Target::start());
    for (number, secret) in
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain text"].iter().enumerate()
    {
        let file = home.path().join("secret");
        fs::write(&file, secret).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        home.configure(&target.config("out", &format!("secret_file = \"{}\"", file.display())));
        let gateway = home.start();
        gateway.api().deliver("s", "hällo", "out");
        let callback = target.wait_for(number + 1).remove(number);
        let headers: serde_json::Map<_, _> =
            callback.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let body = String::from_utf8(callback.body).unwrap();
        for (secret, body, expected) in [
            (*secret, body.clone(), "True"),
            (*secret, body.replace('h', "H"), "False"),
            ("another", body.clone(), "False"),
        ] {
            let mut python = Command::new("python3");
            let line = "import json, sys, verify; a = json.loads(sys.argv[1]); \
                        print(verify.verify(a[0], a[1], a[2].encode()))";
            python.args(["-c", line, &json!([secret, headers, body]).to_string()]);
            let said =
                Process::spawn(python.current_dir(user.path("work"))).finish(LIMIT).assert_code(0);
            assert_eq!(said.stdout.trim(), expected, "{secret} {body}");
        }
    }
}

#[test]
fn the_commands_of_the_channel_page_work() {
    let user = User::new();
    let (steps, systemd) = commands_of(PAGES[4]);
    assert!(systemd.is_empty());
    run(&steps, |script| user.shell(script));
}

#[test]
fn the_commands_of_the_operation_page_work() {
    let user = User::new();
    let (steps, systemd) = commands_of(PAGES[5]);
    assert!(systemd.is_empty());
    user.run_beside_a_gateway(&steps);
}

#[test]
fn the_commands_that_need_systemd_work() {
    Sandbox::user().run(|manager| {
        let bin = manager.home().join(".local/bin");
        let shell = |script: &str| {
            let mut command = manager.command(Path::new("sh"));
            command.args(["-c", script]).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
            Process::spawn(&mut command).finish(LIMIT)
        };
        let place = binary().display().to_string();
        shell(&format!("mkdir -p ~/.local/bin && cp {place} ~/.local/bin/hermes-gateway"))
            .assert_code(0);
        for page in [PAGES[0], "README.md"] {
            run(&commands_of(page).1, shell);
            shell("rm ~/.local/bin/coder").assert_code(0);
        }
    });
}

/// What an agent says to the second message of a session is expected.
#[track_caller]
fn assert_agent(file: &Path, protocol: &str, is_expected: &dyn Fn(&str) -> bool) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    let home = Home::new();
    let command = file.display();
    home.configure(&format!("[agent]\ncommand = [\"{command}\"]\nprotocol = \"{protocol}\"\n"));
    let gateway = home.start();
    gateway.api().reply(&gateway.api().accepted("s", "one"));
    let said = gateway.api().reply(&gateway.api().accepted("s", "two"));
    assert!(is_expected(said.trim_end()), "{}: {said:?}", file.display());
}

#[test]
fn the_agents_of_the_readme_work() {
    let dir = TempDir::new("");
    let file = dir.path().join("agent");
    for (kind, expected) in [
        ("sh\n", "Message 2 of session 's': two"),
        ("python\n", "I know 2 earlier texts. You said: two"),
    ] {
        let block = fenced(kind).into_iter().find(|block| block.starts_with("#!")).unwrap();
        fs::write(&file, block).unwrap();
        assert_agent(&file, "text", &|said| said == expected);
    }
}
