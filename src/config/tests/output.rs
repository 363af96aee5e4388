//! What the configuration looks like written out.

use super::{FULL, good, starter_of};
use crate::config::schema::{Field, Key, SECTIONS, Section};
use crate::config::{Config, render};
use crate::named::ByName;

#[test]
#[allow(clippy::too_many_lines, reason = "a list of all keys")]
fn every_value_says_where_it_came_from() {
    let text = "[http]\nlisten = \"127.0.0.1:1\"\n[agent]\ncommand = [\"a\\u001B\\\"\"]\nenv.A = \"secret\"\n[deliver.ops]\ncommand = [\"notify\"]\n";
    let loaded = good(
        text,
        &[
            "stop.drain_timeout=90s",
            "agent.env.B=secret",
            "limits.max_turns=3",
            "deliver.ops.timeout=5",
            "deliver.ops.env.TOKEN=secret",
        ],
    );
    let expected = r#"[http]
listen = "127.0.0.1:1"                        # coder.toml:2
key_file = ""                                 # default
allowed_hosts = []                            # default
allowed_origins = []                          # default

[agent]
command = ["a\u001B\""]                       # coder.toml:4
env.A = "***"                                 # coder.toml:5; value not shown
env.B = "***"                                 # --set; value not shown
pass_env = []                                 # default
url = ""                                      # default
key_file = ""                                 # default
model = ""                                    # default
models = {}                                   # default
api = "chat"                                  # default
pass = ["embeddings", "completions"]          # default
max_history = "128KiB"                        # default
turn_timeout = "10m"                          # default
retry_for = "1h"                              # default
answer_within = "1m"                          # default
leftovers = "kill"                            # default
protocol = "text"                             # default
directory = ""                                # default
approve = "never"                             # default
approve_timeout = "10m"                       # default
processes = 4                                 # default
share = false                                 # default
preload = false                               # default
idle_timeout = "30m"                          # default
max_sessions = 100                            # default

[session]
busy = "queue"                                # default
operators = ["owner"]                         # default
keep = "30d"                                  # default

[stop]
drain_timeout = "90s"                         # --set
notify = ""                                   # default
notify_failures = ""                          # default

[restart]
start_timeout = "1m"                          # default

[update]
command = []                                  # default
rollback = []                                 # default
timeout = "15m"                               # default
trial = "1m"                                  # default

[log]
level = "info"                                # default
target = "auto"                               # default

[limits]
max_connections = 10000                       # default
max_connections_per_address = 500             # default
max_turns = 3                                 # --set
max_queue = 1000                              # default
max_queue_per_session = 32                    # default
max_share = 50                                # default
max_buffered = "64MiB"                        # default
max_body = "1MiB"                             # default
max_agent_line = "16MiB"                      # default
max_reply = "8MiB"                            # default
max_attempts = 2                              # default
max_journal = "256MiB"                        # default
max_transcript = "256KiB"                     # default
max_transcripts = "1GiB"                      # default
max_attachments = "256MiB"                    # default
keep_results = 10000                          # default
head_timeout = "10s"                          # default
idle_timeout = "1m"                           # default
body_timeout = "30s"                          # default
write_timeout = "30s"                         # default

[deliver.ops]
command = ["notify"]                          # coder.toml:7
env.TOKEN = "***"                             # --set; value not shown
leftovers = "kill"                            # default
timeout = "5s"                                # --set
expire = "1d"                                 # default
"#;
    assert_eq!(loaded.render(), expected);
}

#[test]
fn what_is_written_loads_to_the_same() {
    let upstream = "[agent]\nurl = 'http://a/v1'\nkey_file = '/k'\nmodel = 'a\\\"b'\n\
                    models = { fast = 'x:3b', 'a b.c' = 'd' }\nmax_history = 0";
    let echo = "[agent]\ncommand = []\nenv = {}";
    let several = "[agent]\nkey_file = '/k'\nmodel = 'm'\nurl = ['http://a', { url = 'http://b', key_file = '', \
                   models = { 'x y' = 'z' } }, { url = 'http://c' }]\napi = 'responses'\npass = []";
    let living = "[agent]\ncommand = ['x']\nprotocol = 'acp'\ndirectory = '/w'\napprove = 'ask'\n\
                  share = true\npreload = true\nidle_timeout = '7d'\nmax_sessions = 1";
    for (text, has_command) in [
        ("", true),
        (FULL, true),
        (echo, true),
        (living, true),
        (upstream, false),
        (several, false),
    ] {
        let mut first = good(text, &[]).config;
        let rendered = good(text, &[]).render();
        let mut second = good(&rendered, &[]).config;
        assert_eq!(first.agent.env.names(), second.agent.env.names());
        assert!(second.agent.env.iter().all(|(_, value)| value == "***"));
        for target in first.deliver.values_mut().chain(second.deliver.values_mut()) {
            target.env = ByName::default();
        }
        first.agent.env = ByName::default();
        second.agent.env = ByName::default();
        assert_eq!(first, second, "{rendered}");
        let model = "models.\"a b.c\" = \"d\" ";
        let mut lines = rendered.lines();
        let model = lines.any(|it| it.starts_with(model) && it.ends_with("# coder.toml:5"));
        assert_eq!(model, text == upstream, "{rendered}");
        // Where it is written, a reload takes echo as meant.
        assert_eq!(rendered.contains("[agent]\ncommand = "), has_command, "{rendered}");
    }
}

#[test]
fn a_file_name_cannot_leave_its_comment() {
    let mut loaded = good("[http]\nlisten = \"127.0.0.1:1\"", &[]);
    loaded.file = Some("/x/a\n[log]\u{1b}".into());
    assert!(loaded.render().contains("# a\\n[log]\\u{1b}:2\n"));
}

#[test]
fn the_starter_changes_nothing_but_the_port() {
    let text = starter_of(8650, "coder");
    let mut expected = Config::default();
    expected.http.listen.set_port(8650);
    assert_eq!(good(&text, &[]).config, expected, "{text}");
    assert!(text.contains("hermes-gateway -p coder config check\n"));
    assert!(starter_of(8642, "default").contains("hermes-gateway config check\n"));
    let digits = starter_of(8650, "p8642");
    assert!(digits.contains("hermes-gateway -p p8642 config check\n"), "{digits}");
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
}

#[test]
fn the_starter_has_each_key_with_its_value_and_a_sentence_on_it() {
    let text = starter_of(8642, "default");
    let mut lines = text.lines().skip_while(|line| !line.starts_with('['));
    let mut config = Config::default();
    for section in &SECTIONS {
        let named = section.named_table.is_some();
        let (head, gap) = if named { ("# [", "  ") } else { ("[", "") };
        let line = lines.find(|line| line.starts_with(head)).unwrap();
        assert!(line.contains(&format!("[{}", section.name)), "{line}");
        for key in section.keys {
            let help = lines.next().unwrap();
            assert!(help.starts_with(&format!("## {gap}")) && help.ends_with('.'), "{help}");
            let value = match (key.field)(&mut config, "") {
                // It stands for the cores of whichever machine the file is moved to.
                _ if key.name == "max_turns" => "0".to_owned(),
                Some(field) => render::value(field),
                None => key.example.to_owned(),
            };
            let mark = if key.name == "listen" { "" } else { "# " };
            let setting = format!("{mark}{gap}{} = {value}", key.name);
            assert_eq!(lines.next(), Some(setting.as_str()));
        }
    }
    assert_eq!(lines.next(), None);
}

/// Each key that is not in a named table, with its full name.
fn every_key() -> impl Iterator<Item = (String, &'static Key)> {
    SECTIONS.iter().filter(|section| section.named_table.is_none()).flat_map(|section| {
        section.keys.iter().map(|key| (format!("{}.{}", section.name, key.name), key))
    })
}

#[test]
fn the_starter_loads_with_everything_switched_on() {
    let mut on = 0;
    let lines = starter_of(8642, "default");
    let lines = lines.lines().map(|line| {
        let mut keys = every_key();
        let setting = keys.any(|(_, key)| line.starts_with(&format!("# {} = ", key.name)));
        on += usize::from(setting);
        if setting { &line[2..] } else { line }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(good(&text, &[]).config, Config::default(), "{text}");
    assert_eq!(on, every_key().count() - 1);
}

#[test]
fn the_example_of_a_target_loads() {
    let text = starter_of(8642, "default");
    let (_, example) = text.split_once("# [deliver.example]\n").unwrap();
    let (example, keys) = example.split_once("# [keys.alice]\n").unwrap();
    let (example, channel) = example.split_once("# [channel.office]\n").unwrap();
    let lines = example.lines().filter_map(|line| line.strip_prefix("#   "));
    let command = ["command = ", "env = ", "pass_env = "];
    let lines = lines.filter(|line| !command.iter().any(|key| line.starts_with(key)));
    let config =
        good(&format!("[deliver.example]\n{}", lines.collect::<Vec<_>>().join("\n")), &[]).config;
    assert!(config.deliver.get("example").unwrap().secret_file.is_some());
    let lines = keys.lines().filter_map(|line| line.strip_prefix("#   ")).collect::<Vec<_>>();
    let office = channel.lines().filter_map(|line| line.strip_prefix("#   ")).collect::<Vec<_>>();
    let (telegram, other): (Vec<&str>, Vec<&str>) = office.iter().partition(|line| {
        ["telegram = ", "token_file = ", "api_url = "].iter().any(|key| line.starts_with(key))
    });
    let family = format!("[channel.family]\n{}", telegram.join("\n"));
    good(&family, &["channel.family.allow=['4242']"]);
    let office = good(&format!("[channel.office]\n{}", other.join("\n")), &[]).config;
    assert_eq!(office.channel.get("office").unwrap().r#as.get("4242").unwrap(), "owner");
    let target = "[deliver.example]\nurl = 'http://127.0.0.1/'";
    let config = good(&format!("{target}\n[keys.alice]\n{}", lines.join("\n")), &[]).config;
    let alice = config.keys.get("alice").unwrap();
    assert_eq!(
        (&*alice.sessions, &*alice.targets),
        (&["support-*".into()][..], &["example".into()][..])
    );
}

#[test]
fn the_table_of_keys_is_sound() {
    for (number, (full_name, key)) in every_key().enumerate() {
        let twin = every_key().take(number).find(|(name, _)| *name == full_name);
        assert!(twin.is_none(), "{full_name}");
        // The example is good, and goes where it should.
        let (section, name) = full_name.split_once('.').unwrap();
        let text = format!("[{section}]\n{name} = {}\n", key.example);
        let set: &[&str] = match full_name.as_str() {
            "stop.notify" | "stop.notify_failures" => &["deliver.ops.url=http://a/"],
            "agent.key_file" | "agent.model" | "agent.models" => &["agent.url=http://a/v1"],
            "agent.protocol" => &["agent.command=['x']"],
            "agent.directory" | "agent.approve" | "agent.share" | "agent.preload" => {
                &["agent.command=['x']", "agent.protocol=acp"]
            }
            _ => &[],
        };
        let mut config = good(&text, set).config;
        let field = (key.field)(&mut config, "").unwrap();
        if !matches!(field, Field::Env(_) | Field::Names(..)) {
            let shown = render::value(field);
            let same = [key.example.to_owned(), key.example.replace("60s", "1m")];
            let home = key.example.replace('~', "/home/x");
            assert!(same.contains(&shown) || shown == home, "{shown}");
        }
    }
    for key in Section::of("channel").unwrap().keys {
        let needed = ["channel.x.command=['x']", "channel.x.allow=['4242']"];
        let needed: &[&str] = match key.name {
            "command" => &needed[1..],
            "telegram" => &["channel.x.token_file='/t'", "channel.x.allow=['4242']"],
            "token_file" => &["channel.x.telegram=true", "channel.x.allow=['4242']"],
            "api_url" => {
                let telegram = ["channel.x.telegram=true", "channel.x.token_file='/t'"];
                &[telegram[0], telegram[1], "channel.x.allow=['4242']"]
            }
            _ => &needed,
        };
        good(&format!("[channel.x]\n{} = {}\n", key.name, key.example), needed);
    }
    for key in Section::of("deliver").unwrap().keys {
        let needed = match key.name {
            "url" => &["deliver.x.timeout=5"],
            "secret_file" | "timeout" | "expire" => &["deliver.x.url=http://a/"],
            _ => &["deliver.x.timeout=5", "deliver.x.command=['x']"][..],
        };
        let text = format!("[deliver.x]\n{} = {}\n", key.name, key.example);
        let set = if key.name == "command" { &needed[..1] } else { needed };
        good(&text, set);
    }
}
