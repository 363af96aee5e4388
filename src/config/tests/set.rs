//! `--set` arguments.

use super::{FULL, errors_of, good, set_error, sources};
use crate::config::load::from_bytes;
use std::time::Duration;

#[test]
fn set_takes_toml_or_plain_text() {
    let config = good(
        FULL,
        &[
            "http.listen=127.0.0.1:1",
            "http.listen=127.0.0.1:9000",
            "http.key_file=",
            " agent.command =[\"cat\", \"-\"]",
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
    let env: Vec<_> = config.agent.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        env,
        ["EQUALS=a=b", "HASH=1 # 2", "MODEL=big", "NUMBER=5", "QUOTED=a\tb", "TOKEN=secret"]
    );
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(90));
    assert_eq!(config.stop.drain_timeout, Duration::from_secs(5));
    assert_eq!((config.limits.max_body, config.limits.max_reply), (1 << 20, 1024));
    assert_eq!(config.log.level, log::LevelFilter::Warn);
    let config = good(FULL, &["agent.env={ONLY='x'}"]).config;
    assert_eq!(config.agent.env.iter().count(), 1);
    let upstream = ["agent.url=http://a", "agent.models={a='b'}", "agent.models.c=5"];
    let agent = good("", &upstream).config.agent;
    assert_eq!(agent.models.names(), ["a", "c"]);
    assert_eq!(agent.url[0].models.names(), ["a", "c"]);
    let two = "agent.url=['http://a', { url = 'http://b', model = 'n' }]";
    let agent = good("[agent]\nmodel = 'm'\nurl = [{ url = 'http://c', model = 'c' }]", &[two])
        .config
        .agent;
    let models: Vec<&str> = agent.url.iter().map(|server| server.model.as_str()).collect();
    assert_eq!(models, ["m", "n"]);
}

#[test]
fn a_value_of_set_may_have_several_lines() {
    let many = ["agent.command=[\n\"a\",\n\"b\"]\n", "agent.turn_timeout=90\n"];
    let config = good(FULL, &many).config;
    assert_eq!(config.agent.command, ["a", "b"]);
    assert_eq!(config.agent.turn_timeout, Duration::from_secs(90));
    let config = good(FULL, &["agent.env.P=\"\"\"a\nb\"\"\""]).config;
    assert_eq!(config.agent.env.get("P").map(String::as_str), Some("a\nb"));
    // But no second key.
    let config = good(FULL, &["agent.env.P=1\nlog.level = 'warn'"]).config;
    assert_eq!(config.agent.env.get("P").map(String::as_str), Some("1\nlog.level = 'warn'"));
}

#[test]
fn set_reaches_the_key_that_it_names_and_no_other() {
    let way = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
    for name in ["#http.listen", "agent.\"env\".A", "agent . env . A", "agent", "agent..model"] {
        let lines = errors_of(FULL.as_bytes(), &[&format!("{name}=x")]);
        assert!(lines.len() == 1 && lines[0].ends_with(way), "{lines:?}");
    }
    for name in ["agent.model.x", "http.listen.port", "agent.env.A.B", "agent.models.gpt-4.1"] {
        let lines = errors_of(FULL.as_bytes(), &[&format!("{name}=127.0.0.1:1")]);
        assert!(lines.len() == 1 && lines[0].contains(" must be "), "{lines:?}");
    }
    let lines = errors_of(b"", &["agent={env={TOKEN=\"s3cret\"},modle=\"x\"}"]);
    assert!(!lines.concat().contains("s3cret"), "{lines:?}");
}

#[test]
fn errors_of_set_name_the_option() {
    let way = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
    set_error("agent.url", &format!("--set agent.url: {way}"));
    set_error("", &format!("--set : {way}"));
    set_error("a b=x", &format!("--set a b=x: {way}"));
    set_error(
        "url=x",
        "--set url=x: unknown key \"url\" outside of a section; it belongs in [agent]",
    );
    set_error("htp.listen=1", "--set htp.listen=1: unknown section [htp]; did you mean [http]?");
    set_error(
        "http.lisen=1",
        "--set http.lisen=1: unknown key \"lisen\" in [http]; did you mean \"listen\"?",
    );
    set_error(
        "session.busy=foo",
        "--set session.busy=foo: session.busy is \"foo\"; it must be one of \"queue\", \"interrupt\"",
    );
    set_error(
        "agent.command=cat",
        "--set agent.command=cat: agent.command must be written \
         like [\"my-agent\", \"--flag\"]; got text that is not TOML",
    );
    set_error(
        "limits.max_queue=many",
        "--set limits.max_queue=many: limits.max_queue must be written like 1000; \
         got text that is not TOML",
    );
    set_error(
        "http.listen=x\n[http]\u{1b}[2J",
        "--set http.listen=x\\n[http]\\u{1b}[2J: http.listen is \"x\\n[http]\\u{1b}[2J\"; \
         it must be an IP address and a port, like \"127.0.0.1:8642\"",
    );
    set_error(
        "limits.max_queue=1\nw = 2",
        "--set limits.max_queue=1\\nw = 2: limits.max_queue must be written like 1000; \
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
        "agent.\"env\".A=\"secret\\u0000\"",
        "agent . env . LISTEN_FDS = secret",
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
