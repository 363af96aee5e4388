//! What people see: every error by its exact text, where values come from, and that no input
//! brings the reader down.

use super::load::from_bytes;
use super::schema::{KEYS, Kind};
use super::{AgentKind, Config, Loaded, LogTarget, Sources, limits, load, starter};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

fn sources(set: &[&str]) -> Sources {
    Sources {
        file: PathBuf::from("/etc/coder.toml"),
        required: true,
        set: set.iter().map(|s| (*s).to_owned()).collect(),
        home: Some(PathBuf::from("/home/x")),
    }
}

#[track_caller]
fn good(text: &str, set: &[&str]) -> Loaded {
    from_bytes(Some(text.as_bytes()), &sources(set)).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// The error's lines, with the file's name cut off.
#[track_caller]
fn errors_of(bytes: &[u8], set: &[&str]) -> Vec<String> {
    let error = from_bytes(Some(bytes), &sources(set)).expect_err("should not load");
    let lines = error.lines.iter();
    lines
        .map(|line| {
            line.strip_prefix("/etc/coder.toml:")
                .unwrap_or(line)
                .to_owned()
        })
        .collect()
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
kind = "command"
command = ["my-agent", "--say", "tab\t\"quote\" \u0007 é\\", 'raw\']
pass_env = ["LANG"]
turn_timeout = "1h30m"
[agent.env]
MODEL = "small"
TOKEN = """
secret"""

[stop]
drain_timeout = 45
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
head_timeout = "500ms"
idle_timeout = 1
body_timeout = "2m"
write_timeout = "30s"
"#;

#[test]
fn an_empty_file_means_the_defaults() {
    let config = good("", &[]).config;
    assert_eq!(config, Config::default());
    assert_eq!(
        config.http.listen,
        "127.0.0.1:8642".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(config.agent.kind, AgentKind::Echo);
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(600));
    assert_eq!(config.log.level, log::LevelFilter::Info);
    assert!(config.limits.max_turns >= 2);
}

#[test]
fn every_key_is_read() {
    let config = good(FULL, &[]).config;
    assert_eq!(config.http.listen, "[::1]:0".parse::<SocketAddr>().unwrap());
    assert_eq!(config.http.key_file, Some("/home/x/keys/api".into()));
    assert_eq!(
        config.http.allowed_hosts,
        ["gateway.example.org", "10.0.0.1"]
    );
    assert_eq!(config.agent.kind, AgentKind::Command);
    let command = ["my-agent", "--say", "tab\t\"quote\" \u{7} é\\", "raw\\"];
    assert_eq!(config.agent.command, command);
    assert_eq!(config.agent.env["MODEL"], "small");
    assert_eq!(config.agent.env["TOKEN"], "secret");
    assert_eq!(config.agent.pass_env, ["LANG"]);
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(5400));
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
    ];
    assert_eq!(numbers, [10, 3, 1000, 4, 65536, 2048]);
    let times = [
        limits.head_timeout,
        limits.idle_timeout,
        limits.body_timeout,
        limits.write_timeout,
    ];
    assert_eq!(
        times.map(|time| time.as_millis()),
        [500, 1000, 120_000, 30_000]
    );
}

#[test]
fn a_command_alone_chooses_its_kind() {
    let loaded = good("[agent]\ncommand = [\"cat\"]", &[]);
    assert_eq!(loaded.config.agent.kind, AgentKind::Command);
    assert!(
        loaded
            .render()
            .contains("kind = \"command\"                              # coder.toml:2\n")
    );
}

#[test]
fn zero_turns_means_by_the_cores() {
    let config = good("[limits]\nmax_turns = 0", &[]).config;
    assert_eq!(config.limits.max_turns, Config::default().limits.max_turns);
}

#[test]
fn debug_output_hides_variables() {
    let text = format!("{:?}", good(FULL, &[]));
    assert!(text.contains("TOKEN") && !text.contains("secret"), "{text}");
}

#[test]
fn unknown_names() {
    error(
        "[http]\n\n lisen = 1",
        "3:2: unknown key \"lisen\" in [http]; did you mean \"listen\"?",
    );
    error(
        "[http]\nzebra = 1",
        "2:1: unknown key \"zebra\" in [http]; its keys are listen, key_file, allowed_hosts",
    );
    error(
        "[agent]\nlisten = 1",
        "2:1: unknown key \"listen\" in [agent]; it belongs in [http]",
    );
    error(
        "listen = 1",
        "1:1: unknown key \"listen\" outside of a section; it belongs in [http]",
    );
    error(
        "zebra = 1",
        "1:1: unknown key \"zebra\" outside of a section; \
         the sections are [http], [agent], [stop], [log], [limits]",
    );
    error(
        "[htpp]\n",
        "1:2: unknown section [htpp]; did you mean [http]?",
    );
    error(
        "http.\"li sten\" = 1",
        "1:6: unknown key \"li sten\" in [http]; did you mean \"listen\"?",
    );
    error(
        "[zebra.x]\n",
        "1:2: unknown section [zebra]; the sections are [http], [agent], [stop], [log], [limits]",
    );
    error(
        "[[http]]\n",
        "1:3: http must be a section, written [http]; got a list",
    );
    error(
        "http = 1\n",
        "1:1: http must be a section, written [http]; got an integer",
    );
    error(
        "[http]\n\"a\\u001B[0m\" = 1",
        "2:1: unknown key \"a\\u{1b}[0m\" in [http]; its keys are listen, key_file, allowed_hosts",
    );
}

#[test]
fn wrong_types() {
    error(
        "[agent]\n\n\ncommand = \"x\"",
        "4:11: agent.command must be a list of strings, like [\"my-agent\", \"--flag\"]; got a string",
    );
    error(
        "[agent]\ncommand = [\"é\", 1]",
        "2:17: agent.command[1] must be a string; got an integer",
    );
    error(
        "[http]\nlisten = 8642",
        "2:10: http.listen must be an address and port in quotes, like \"127.0.0.1:8642\"; got an integer",
    );
    error(
        "[http]\nkey_file = []",
        "2:12: http.key_file must be a path in quotes, like \"~/.config/my.key\"; got a list",
    );
    error(
        "[agent]\nenv = 1.5",
        "2:7: agent.env must be a table of strings, like { MODEL = \"small\" }; got a number with a fraction",
    );
    error(
        "[agent.env]\nA = true",
        "2:5: agent.env.A must be a string, like \"small\"; got a boolean",
    );
    error(
        "[agent]\nkind = {}",
        "2:8: agent.kind must be \"echo\" or \"command\"; got a table",
    );
    error(
        "[agent]\nturn_timeout = true",
        "2:16: agent.turn_timeout must be a time, like \"10m\"; got a boolean",
    );
    error(
        "[limits]\nmax_body = []",
        "2:12: limits.max_body must be a size, like \"1MiB\"; got a list",
    );
    error(
        "[limits]\nmax_queue = \"9\"",
        "2:13: limits.max_queue must be a whole number, like 1000; got a string",
    );
}

#[test]
fn wrong_values() {
    error(
        "[http]\nlisten = 'localhost:1'",
        "2:10: http.listen is \"localhost:1\"; it must be an IP address and a port, like \"127.0.0.1:8642\"",
    );
    error(
        "[http]\nkey_file = \"my.key\"",
        "2:12: http.key_file is \"my.key\"; it must begin with / or ~/, like \"~/.config/my.key\"",
    );
    error(
        "[http]\nkey_file = \"/a\\u0000\"",
        "2:12: http.key_file is \"/a\\0\"; it must not hold a NUL, like \"~/.config/my.key\"",
    );
    error(
        "[http]\nallowed_hosts = [\"http://a:1/\"]",
        "2:18: http.allowed_hosts has \"http://a:1/\"; it must be a host name or an IP address \
         without scheme, port, path, brackets or wildcard, like \"gateway.example.org\" or \"::1\"",
    );
    error(
        "[agent]\nkind = \"comand\"",
        "2:8: agent.kind is \"comand\"; it must be \"echo\" or \"command\"; did you mean \"command\"?",
    );
    error(
        "[log]\nlevel = \"\"",
        "2:9: log.level is \"\"; it must be \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    );
    error(
        "[agent]\nturn_timeout = \"30\"",
        "2:16: agent.turn_timeout is \"30\"; it must be a number of seconds, or one with a unit \
         (ms, s, m, h), like \"10m\"",
    );
    error(
        "[stop]\ndrain_timeout = 0",
        "2:17: stop.drain_timeout is 0; it must be between 10ms and 24h, like \"30s\"",
    );
    error(
        "[agent]\nturn_timeout = \"169h\"",
        "2:16: agent.turn_timeout is \"169h\"; it must be between 10ms and 168h, like \"10m\"",
    );
    error(
        "[limits]\nmax_body = \"1MB\"",
        "2:12: limits.max_body is \"1MB\"; it must be a number of bytes, or one with a unit \
         (B, KiB, MiB, GiB), like \"1MiB\"",
    );
    error(
        "[limits]\nmax_reply = -1",
        "2:13: limits.max_reply is -1; it must be between 1KiB and 256MiB, like \"8MiB\"",
    );
    error(
        "[limits]\nmax_queue = 0",
        "2:13: limits.max_queue is 0; it must be between 1 and 100000, like 1000",
    );
    error(
        "[limits]\nmax_queue = -9223372036854775808",
        "2:13: limits.max_queue is -9223372036854775808; it must be between 1 and 100000, like 1000",
    );
}

#[test]
fn what_an_agent_cannot_be_given() {
    error(
        "[agent.env]\nNOTIFY_SOCKET = \"x\"",
        "2:1: agent.env has \"NOTIFY_SOCKET\"; the gateway keeps that variable of its service \
         manager from agents; remove it",
    );
    error(
        "[agent]\npass_env = [\"A\", \"HERMES_ATTEMPT\"]",
        "2:18: agent.pass_env has \"HERMES_ATTEMPT\"; the gateway sets that variable itself; remove it",
    );
    error(
        "[agent.env]\n\"1A\" = \"x\"",
        "2:1: agent.env has \"1A\"; a variable's name must be of letters, digits and _, and not \
         begin with a digit",
    );
    error(
        "[agent.env]\nA = \"secret\\u0000\"",
        "2:5: agent.env.A holds a NUL, which no variable can; remove it",
    );
    error(
        "[agent]\ncommand = [\"a\\u0000b\"]",
        "2:12: agent.command has \"a\\0b\"; no argument can hold a NUL; remove it",
    );
}

#[test]
fn kind_and_command_must_agree() {
    error(
        "[agent]\nkind = \"command\"",
        "2:1: agent.kind is \"command\" but agent.command is empty; \
         say what to run, like command = [\"my-agent\", \"--flag\"]",
    );
    error(
        "[agent]\ncommand = [\"cat\"]\nkind = \"echo\"",
        "2:1: agent.command is given but agent.kind is \"echo\" (/etc/coder.toml:3:1); \
         take one of the two away, or write kind = \"command\"",
    );
    error(
        "[agent]\ncommand = [\"\", \"x\"]",
        "2:1: agent.command names no program: its first string is empty; \
         write one like [\"my-agent\", \"--flag\"]",
    );
    assert_eq!(
        errors_of(b"[agent]\nkind = \"echo\"", &["agent.command=[\"cat\"]"]),
        [
            "--set agent.command=[\"cat\"]: agent.command is given but agent.kind is \"echo\" \
          (/etc/coder.toml:2:1); take one of the two away, or write kind = \"command\""
        ]
    );
}

#[test]
fn all_problems_at_once_in_their_order() {
    let text = "[log]\nlevel = \"x\"\n[http]\nlisten = \"x\"\nlisen = 1\nallowed_hosts = [\"a/\", \"b\", 3]\n";
    let lines = errors_of(text.as_bytes(), &["z.z=1", "agent.kind=foo"]);
    let places: Vec<_> = lines
        .iter()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "2:9",
            "4:10",
            "5:1",
            "6:18",
            "6:29",
            "--set z.z=1",
            "--set agent.kind=foo"
        ]
    );
    let many: String = (0..60).map(|n| format!("k{n} = 1\n")).collect();
    let lines = errors_of(many.as_bytes(), &[]);
    assert_eq!(lines.len(), limits::MAX_CONFIG_PROBLEMS + 1);
    assert_eq!(lines.last().unwrap(), " and 10 more");
}

#[test]
fn syntax_errors() {
    error(
        "[http]\nlisten = \"a\nb\"",
        "2:12: the string does not end on its line; add the closing quote",
    );
    error(
        "[http]\r\nlisten = \"a\r\n",
        "2:12: the string does not end on its line; add the closing quote",
    );
    error("a = '''\n\n", "1:5: the string has no closing quote");
    error(
        "[http]\nlisten = a",
        "2:10: text needs quotes, like \"text\"",
    );
    error("é = 1", "1:1: 'é' does not belong here");
    error("a\0 = 1", "1:2: character U+0000 does not belong here");
    error("# a\0", "1:4: character U+0000 does not belong here");
    error(
        "a = \"\0\"",
        "1:6: a string cannot hold character U+0000; write it as an escape, like \\u0000",
    );
    error(
        "a = \"\\d\"",
        "1:7: 'd' does not belong in a \\ escape; for a plain backslash write \\\\ or use '…' quotes",
    );
    error("a = \"\\uD800\"", "1:7: 0xd800 is no Unicode character");
    error(
        "[http]\nlisten = 127.0.0.1:8642",
        "2:15: expected the end of the line, found '.'; text goes in quotes",
    );
    let number =
        "not a number; text goes in quotes, a time like \"10m\" and a size like \"1MiB\" too";
    error("a = 10m", &format!("1:5: {number}"));
    error("a = 9223372036854775808", &format!("1:5: {number}"));
    error("a = 2026-01-01", &format!("1:5: {number}"));
    error("a 1", "1:3: expected '=', found a word");
    error("[http\n", "1:6: expected ']', found the end of the line");
    error("a = [1,", "1:8: the file ends where a value should stand");
    error(
        "[http]\nlisten = \"a\"\n\"listen\" = \"b\"",
        "3:1: \"listen\" is set twice, first in line 2; remove one",
    );
    error(
        "[http]\n[log]\n[http]\n",
        "3:1: section [http] stands twice, first in line 1; join them",
    );
    error(
        "[[a.b]]\n[[a]]\n",
        "2:1: a section cannot also be a list; write it as [name]",
    );
    error(
        "a = 1\na.b = 2",
        "2:1: this key continues one that has a value already, in line 1",
    );
    error("\"\"\"a\"\"\" = 1", "1:1: a key cannot have several lines");
}

#[test]
fn bytes_that_are_no_text() {
    let byte = "byte 0xff is not UTF-8; save the file as UTF-8";
    assert_eq!(
        errors_of(b"# \xc3\xa9\n# \xc3\xa9 \xff", &[]),
        [format!("2:5: {byte}")]
    );
    assert_eq!(errors_of(b"\xff\xfea", &[]), [format!("1:1: {byte}")]);
    // UTF-16 without anything above ASCII is text with NULs.
    assert_eq!(
        errors_of(b"a\0=\0", &[]),
        ["1:2: character U+0000 does not belong here"]
    );
}

#[test]
fn marks_and_line_ends_of_other_systems() {
    let windows = "\u{feff}".to_owned() + &FULL.replace('\n', "\r\n");
    assert_eq!(good(&windows, &[]).config, good(FULL, &[]).config);
    error(
        "\u{feff}a = ",
        "1:5: the file ends where a value should stand",
    );
    error(
        "[http]\r\nlisten = 1.\r\n",
        "2:12: not a number; text goes in quotes, a time like \"10m\" and a size like \"1MiB\" too",
    );
}

#[test]
fn places_of_strings_in_every_quote() {
    let fault =
        "http.listen is \"x\"; it must be an IP address and a port, like \"127.0.0.1:8642\"";
    for text in [
        "\"x\"",
        "'x'",
        "\"\"\"x\"\"\"",
        "'''\nx'''",
        "\"\"\"\r\nx\"\"\"",
        "\"\\u0078\"",
    ] {
        error(
            &format!("[http]\nlisten =  {text}"),
            &format!("2:11: {fault}"),
        );
    }
    error(
        "[http]\nlisten =  \"\"",
        &format!("2:11: {}", fault.replace("\"x\"", "\"\"")),
    );
    error(
        "[http]\nallowed_hosts = [ # \"\n\"\"]",
        "3:1: http.allowed_hosts has \"\"; it must be a host name or an IP address without scheme, \
         port, path, brackets or wildcard, like \"gateway.example.org\" or \"::1\"",
    );
}

#[test]
fn deep_nesting_is_refused() {
    for (before, deep, line) in [
        ("x = ", "[", 1),
        ("x = ", "{a=", 1),
        ("", "[", 1),
        ("", "a.", 1),
    ] {
        let text = before.to_owned() + &deep.repeat(100_000);
        let lines = errors_of(text.as_bytes(), &[]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with(&format!("{line}:")), "{lines:?}");
    }
    let text = format!("x = {}", "[".repeat(100_000));
    assert_eq!(
        errors_of(text.as_bytes(), &[]),
        ["1:133: nested too deeply"]
    );
    set_error(
        &format!("agent.command={}", "[".repeat(100_000)),
        &format!(
            "--set agent.command={}…: agent.command must be a list of strings, \
             like [\"my-agent\", \"--flag\"]; got text that is not TOML",
            "[".repeat(limits::MAX_SHOWN_VALUE - "agent.command=".len())
        ),
    );
}

#[test]
fn set_takes_toml_or_plain_text() {
    let config = good(
        FULL,
        &[
            "http.listen=127.0.0.1:1",
            "http.listen=127.0.0.1:9000",
            "http.key_file=",
            " agent.command =[\"cat\", \"-\"]",
            "agent.kind=command",
            "agent.env.MODEL=big",
            "agent.env.NUMBER=5",
            "agent.env.HASH=1 # 2",
            "agent.env.QUOTED=\"a\\tb\"",
            "agent.env.EQUALS=a=b",
            "agent.turn_timeout=90",
            "stop.drain_timeout=5s",
            "limits.max_body=1MiB",
            "limits.max_reply=1024",
            "log.level='warn'",
        ],
    )
    .config;
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.http.key_file, None);
    assert_eq!(config.agent.command, ["cat", "-"]);
    let env: Vec<_> = config
        .agent
        .env
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        env,
        [
            "EQUALS=a=b",
            "HASH=1 # 2",
            "MODEL=big",
            "NUMBER=5",
            "QUOTED=a\tb",
            "TOKEN=secret"
        ]
    );
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(90));
    assert_eq!(config.stop.drain_timeout, Duration::from_secs(5));
    assert_eq!(
        (config.limits.max_body, config.limits.max_reply),
        (1 << 20, 1024)
    );
    assert_eq!(config.log.level, log::LevelFilter::Warn);
    let config = good(FULL, &["agent.env={ONLY='x'}"]).config;
    assert_eq!(config.agent.env.len(), 1);
}

#[test]
fn set_errors() {
    let way = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
    set_error(
        "agent.kind",
        &format!("--set agent.kind: there is no = in it; {way}"),
    );
    set_error("", &format!("--set : there is no = in it; {way}"));
    set_error(
        "kind=echo",
        &format!("--set kind=echo: there is no section in it; {way}"),
    );
    set_error(
        "htp.listen=1",
        "--set htp.listen=1: unknown section [htp]; did you mean [http]?",
    );
    set_error(
        "http.lisen=1",
        "--set http.lisen=1: unknown key \"lisen\" in [http]; did you mean \"listen\"?",
    );
    set_error(
        "agent.kind=foo",
        "--set agent.kind=foo: agent.kind is \"foo\"; it must be \"echo\" or \"command\"",
    );
    set_error(
        "agent.command=cat",
        "--set agent.command=cat: agent.command must be a list of strings, \
         like [\"my-agent\", \"--flag\"]; got text that is not TOML",
    );
    set_error(
        "limits.max_queue=many",
        "--set limits.max_queue=many: limits.max_queue must be a whole number, like 1000; \
         got text that is not TOML",
    );
    set_error(
        "http.listen=x\n[http]\u{1b}[2J",
        "--set http.listen=x\\n[http]\\u{1b}[2J: http.listen is \"x\\n[http]\\u{1b}[2J\"; \
         it must be an IP address and a port, like \"127.0.0.1:8642\"",
    );
    set_error(
        "limits.max_queue=1\nw = 2",
        "--set limits.max_queue=1\\nw = 2: limits.max_queue must be a whole number, like 1000; \
         got text that is not TOML",
    );
}

#[test]
fn no_error_shows_a_variable() {
    for argument in [
        "agent.env.LISTEN_FDS=secret",
        "agent.env.A=[\"secret\\u0000\"]",
        "agent.env.A=\"secret\\u0000\"",
        "agent.env=[\"secret\"]",
        "agent.env={A = 1, B = \"secret\\u0000\"}",
        "agent.envs.A=secret",
        "agnt.env.A=secret",
    ] {
        match from_bytes(None, &sources(&[argument])) {
            Err(error) => assert!(!error.to_string().contains("secret"), "{error}"),
            Ok(loaded) => assert!(!loaded.render().contains("secret")),
        }
    }
    set_error(
        "agent.env.1=secret",
        "--set agent.env.1=…: agent.env has \"1\"; a variable's name must be of letters, digits \
         and _, and not begin with a digit",
    );
}
