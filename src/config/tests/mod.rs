//! What people see: every error by its exact text, where values come from, and that no input
//! brings the reader down.

mod channels;
mod errors;
mod files;
mod keys;
mod output;
mod set;
mod syntax;
mod targets;
mod warnings;

use super::load::from_bytes;
use super::{Busy, Config, Loaded, LogTarget, Sources, starter};
use crate::exit::Failure;
use crate::limits;
use crate::name::Name;
use crate::subprocess::Leftovers;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

fn sources(set: &[&str]) -> Sources {
    Sources {
        file: PathBuf::from("/etc/coder.toml"),
        demanded: false,
        required: true,
        set: set.iter().map(|s| (*s).to_owned()).collect(),
        home: Some(PathBuf::from("/home/x")),
    }
}

#[track_caller]
fn good(text: &str, set: &[&str]) -> Loaded {
    from_bytes(Some(text.as_bytes()), &sources(set)).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// The starter file of the gateway of this name.
fn starter_of(port: u16, name: &str) -> String {
    starter(port, &Name::parse(name).unwrap())
}

/// The error's lines, with the file's name cut off.
#[track_caller]
fn errors_of(bytes: &[u8], set: &[&str]) -> Vec<String> {
    let error = from_bytes(Some(bytes), &sources(set)).expect_err("should not load");
    lines_of(&error)
        .iter()
        .map(|line| line.strip_prefix("/etc/coder.toml:").unwrap_or(line).to_owned())
        .collect()
}

/// The lines of an error below its first one, which says what it is about.
fn lines_of(error: &Failure) -> Vec<&str> {
    assert!(error.0.message.starts_with("the configuration "));
    error.0.message.lines().skip(1).collect()
}

#[track_caller]
fn error(text: &str, expected: &str) {
    assert_eq!(errors_of(text.as_bytes(), &[]), [expected], "for:\n{text}");
}

#[track_caller]
fn set_error(argument: &str, expected: &str) {
    assert_eq!(errors_of(b"", &[argument]), [expected]);
}

const FULL: &str = r#"# A gateway.
[http]
listen = "[::1]:0"
key_file = "~/keys/api"
allowed_hosts = ["Gateway.Example.org", "10.0.0.1"]

[agent]
command = ["my-agent", "--say", "tab\t\"quote\" \u0007 é\\", 'raw\']
pass_env = ["LANG"]
turn_timeout = "1h30m"
leftovers = "keep"
[agent.env]
MODEL = "small"
TOKEN = """
secret"""

[session]
busy = "interrupt"
operators = ["owner", "alice"]
[stop]
drain_timeout = 45
[restart]
start_timeout = "5s"
[update]
command = ["my-updater", "x"]
rollback = ["my-updater", "--undo"]
timeout = "5m"
trial = "30s"
[log]
level = "debug"
target = "syslog"
[limits]
max_connections = 10
max_turns = 3
max_queue = 1_000
max_queue_per_session = 4
max_body = "64KiB"
max_reply = 2048
max_attempts = 20
max_journal = "4GiB"
max_transcript = 4096
keep_results = 0
head_timeout = "500ms"
idle_timeout = 1
body_timeout = "2m"
write_timeout = "30s"
[deliver.hook]
url = "https://Example.org/x?secret"
secret_file = "~/hook.key"
[deliver.ops]
command = ["notify", "-"]
env = { ROOM = "x", TOKEN = "secret" }
pass_env = ["LANG"]
leftovers = "keep"
timeout = 5
expire = "720h"
[keys.alice]
file = "/alice.key"
"#;

#[test]
fn an_empty_file_means_the_defaults() {
    let config = good("", &[]).config;
    assert_eq!(config, Config::default());
    assert_eq!(config.http.listen, "127.0.0.1:8642".parse::<SocketAddr>().unwrap());
    assert!(config.agent.is_echo() && config.agent.kind() == "echo");
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(600));
    assert_eq!(config.agent.leftovers, Leftovers::Kill);
    assert_eq!(config.log.level, log::LevelFilter::Info);
    assert!(config.limits.max_turns >= 2);
    assert_eq!((config.session.busy, config.limits.max_attempts), (Busy::Queue, 2));
    assert_eq!(config.session.operators, ["owner"]);
}

#[test]
fn the_words_of_a_command_may_begin_at_home() {
    let text = "[agent]\ncommand = ['~/bin/agent', '~', 'a~/b', '~/c d']\n\
                [deliver.x]\ncommand = ['~/bin/tell']\n";
    let config = good(text, &["agent.pass_env=[]"]).config;
    assert_eq!(config.agent.command, ["/home/x/bin/agent", "~", "a~/b", "/home/x/c d"]);
    assert_eq!(config.deliver.get("x").unwrap().command, ["/home/x/bin/tell"]);
    let homeless = Sources { home: None, ..Sources::default() };
    let error = from_bytes(Some(text.as_bytes()), &homeless).unwrap_err().to_string();
    let words =
        ":2:11: agent.command is \"~/bin/agent\", but HOME is not set; write the path from /";
    assert!(error.contains(words), "{error}");
}

#[test]
fn every_key_is_read() {
    let config = good(FULL, &[]).config;
    assert_eq!(config.http.listen, "[::1]:0".parse::<SocketAddr>().unwrap());
    assert_eq!(config.http.key_file, Some("/home/x/keys/api".into()));
    assert_eq!(config.http.allowed_hosts, ["gateway.example.org", "10.0.0.1"]);
    assert_eq!(config.agent.kind(), "command");
    let command = ["my-agent", "--say", "tab\t\"quote\" \u{7} é\\", "raw\\"];
    assert_eq!(config.agent.command, command);
    assert_eq!(config.agent.env.get("MODEL").unwrap(), "small");
    assert_eq!(config.agent.env.get("TOKEN").unwrap(), "secret");
    assert_eq!(config.agent.pass_env, ["LANG"]);
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(5400));
    assert_eq!(config.agent.leftovers, Leftovers::Keep);
    assert_eq!(config.stop.drain_timeout, Duration::from_secs(45));
    assert_eq!(config.log.level, log::LevelFilter::Debug);
    assert_eq!(config.log.target, LogTarget::Syslog);
    let limits = config.limits;
    let numbers = [
        limits.max_connections,
        limits.max_turns,
        limits.max_queue,
        limits.max_queue_per_session,
        limits.max_body,
        limits.max_reply,
        limits.max_attempts,
        limits.max_journal,
        limits.max_transcript,
        limits.keep_results,
    ];
    assert_eq!(numbers, [10, 3, 1000, 4, 65536, 2048, 20, 4 << 30, 4096, 0]);
    assert_eq!(config.session.busy, Busy::Interrupt);
    assert_eq!(config.session.operators, ["owner", "alice"]);
    let times =
        [limits.head_timeout, limits.idle_timeout, limits.body_timeout, limits.write_timeout];
    assert_eq!(times.map(|time| time.as_millis()), [500, 1000, 120_000, 30_000]);
}

#[test]
fn targets_are_read() {
    let config = good(FULL, &[]).config;
    assert_eq!(config.deliver.names(), ["hook", "ops"]);
    let (hook, ops) = (config.deliver.get("hook").unwrap(), config.deliver.get("ops").unwrap());
    assert_eq!((hook.command.len(), hook.name.as_str()), (0, "hook"));
    let url = hook.url.as_ref().unwrap();
    assert_eq!(url.to_string(), "https://example.org/x?secret");
    assert_eq!((url.secure, url.port, url.target.as_str()), (true, 443, "/x?secret"));
    assert_eq!(hook.secret_file, Some("/home/x/hook.key".into()));
    assert_eq!(
        (hook.timeout, hook.expire),
        (limits::DELIVERY_TIMEOUT.default, limits::DELIVERY_EXPIRE.default)
    );
    assert_eq!(ops.url, None);
    assert_eq!((ops.command.len(), ops.pass_env.len()), (2, 1));
    assert_eq!(ops.env.get("TOKEN").unwrap(), "secret");
    assert_eq!((hook.leftovers, ops.leftovers), (Leftovers::Kill, Leftovers::Keep));
    let times = (ops.timeout, ops.expire);
    assert_eq!(times, (Duration::from_secs(5), Duration::from_secs(30 * 24 * 3600)));
}

#[test]
fn a_command_or_a_url_says_who_answers() {
    for (text, kind) in [
        ("", "echo"),
        ("[agent]\ncommand = []\nurl = ''", "echo"),
        ("[agent]\ncommand = ['cat']\nurl = ''", "command"),
        ("[agent]\nurl = 'http://a/v1'", "upstream"),
    ] {
        assert_eq!(good(text, &[]).config.agent.kind(), kind, "{text}");
    }
}

#[test]
fn places_of_values_are_kept() {
    let loaded = good("[http]\nlisten = \"127.0.0.1:1\"", &["log.level=warn"]);
    let place = |name| loaded.place(name);
    assert_eq!(place("http.listen").as_deref(), Some("/etc/coder.toml:2:1"));
    assert_eq!(place("log.level").as_deref(), Some("--set log.level=warn"));
    assert_eq!(place("log.target"), None);
}

#[test]
fn zero_turns_means_by_the_cores() {
    let config = good("[limits]\nmax_turns = 0", &[]).config;
    assert_eq!(config.limits.max_turns, Config::default().limits.max_turns);
}

#[test]
fn debug_output_hides_variables() {
    let text = format!("{:?}", good(FULL, &[]));
    assert!(
        text.contains("TOKEN") && !text.replace("secret_file", "").contains("secret"),
        "{text}"
    );
}

#[test]
fn all_problems_at_once_in_their_order() {
    let text = "[log]\nlevel = \"x\"\n[http]\nlisten = \"x\"\nlisen = 1\nallowed_hosts = [\"a/\", \"b\", 3]\n";
    let lines = errors_of(text.as_bytes(), &["z.z=1", "stop.x=foo"]);
    let places: Vec<_> = lines.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["2:9", "4:10", "5:1", "6:18", "6:29", "--set z.z=1", "--set stop.x=foo"]);
    let many: String = (0..60).map(|n| format!("k{n} = 1\n")).collect();
    let lines = errors_of(many.as_bytes(), &[]);
    assert_eq!(lines.len(), limits::MAX_CONFIG_PROBLEMS + 1);
    assert_eq!(lines.last().unwrap(), " and 10 more");
}
