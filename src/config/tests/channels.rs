//! Channels: mistakes by their exact text, and what is warned of.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{error, errors_of, good, set_error};
use crate::config::{SessionOf, Unknown};
use crate::limits::{MAX_CHANNELS, MAX_PLATFORM_ID};
use crate::sys::fs::create;
use crate::testing::TempDir;

const ADAPTER: &str = "command = ['sh']\n";

/// A channel with these keys, and a client.
fn office(keys: &str) -> String {
    format!("[keys.alice]\nfile = '/a'\n[channel.office]\n{ADAPTER}{keys}")
}

#[test]
fn what_is_given_of_a_channel_is_read() {
    let text =
        office("allow = ['42', 'é @:x']\nas = { 42 = 'owner', \"a b\" = 'alice' }\nhome = '42'");
    let set = ["channel.office.as.7=alice", "channel.office.unknown=pair"];
    let config = good(&text, &set).config;
    let office = config.channel.get("office").unwrap();
    assert_eq!((office.name.as_str(), &*office.command), ("office", &["sh".to_owned()][..]));
    assert_eq!(office.r#as.names(), ["42", "7", "a b"]);
    assert_eq!(office.listed(), ["42", "é @:x", "42", "7", "a b"]);
    assert_eq!((office.unknown, office.session), (Unknown::Pair, SessionOf::Conversation));
    let shown = good(&text, &[]).render();
    assert!(shown.contains("as.\"a b\" = \"alice\" "), "{shown}");
    assert_eq!(good(&shown, &[]).config.channel, good(&text, &[]).config.channel);
}

#[test]
fn a_channel_needs_an_adapter() {
    error(
        "[channel.office]\nallow = ['1']",
        "1:10: channel.office has no command; give it one, like [\"my-adapter\", \"--flag\"], or telegram \
         = true",
    );
    error(
        "[channel.office]\ncommand = ['']",
        "2:1: channel.office.command names no program: its first string is empty; write one like \
         [\"my-adapter\", \"--flag\"]",
    );
    error(
        "[channel.office]\ncommand = ['x']\nenv.HERMES_CHANNEL = ''",
        "3:5: channel.office.env has \"HERMES_CHANNEL\"; the gateway sets that variable itself; \
         remove it",
    );
    set_error(
        "channel.x=1",
        "--set channel.x=1: channel.x must be a section, written [channel.x]; got an integer",
    );
}

#[test]
fn telegram_is_an_adapter_with_a_token() {
    let text = "[channel.x]\ntelegram = true\ntoken_file = '~/x.token'\n";
    let words = |text: &str| good(text, &[]).config.channel.get("x").unwrap().adapter();
    let least = ["channel-adapter", "telegram", "--token-file", "/home/x/x.token"];
    assert_eq!(words(text), least);
    let all = words(&format!("{text}groups = ['-1']\napi_url = 'http://127.0.0.1:8081'"));
    assert_eq!(all[..4], least);
    assert_eq!(all[4..], ["--api-url", "http://127.0.0.1:8081/", "--groups"]);
    assert_eq!(words("[channel.x]\ncommand = ['a', 'b']"), ["a", "b"]);
    let previews =
        |text: &str, set: &[&str]| good(text, set).config.channel.get("x").unwrap().preview;
    assert!(previews(text, &[]) && !previews("[channel.x]\ncommand = ['a']", &[]));
    assert!(!previews(&format!("{text}preview = false"), &[]));
    assert!(!previews(text, &["channel.x.preview=false"]));
    error(
        &format!("{text}command = ['a']"),
        "4:1: channel.x.command is set together with channel.x.telegram (/etc/coder.toml:2:1); remove one \
         of the two",
    );
    error(
        "[channel.x]\ntelegram = true",
        "2:1: channel.x.telegram has no token_file; write the bot's token into a file, and name it: \
         token_file = \"~/.config/bot.token\"",
    );
    for (key, value) in [("token_file", "/t"), ("api_url", "http://a")] {
        error(
            &format!("[channel.x]\ncommand = ['a']\n{key} = '{value}'"),
            &format!(
                "3:1: channel.x.{key} is set, but channel.x.telegram is not; add telegram = true"
            ),
        );
    }
    let wrong = format!("{text}api_url = 'http://a/?b'");
    let expected = "4:11: channel.x.api_url is \"http://a/?b\"; it must be a base, without a query, like \
                    \"http://127.0.0.1:8081\"";
    error(&wrong, expected);
    let open = good(&format!("{text}allow = ['1']\napi_url = 'http://a'"), &[]);
    let warned = open.warnings(OsStr::new(""), OsStr::new(""));
    assert!(
        warned[0].contains(":5:1: channel.x.api_url is at http://a: what is sent"),
        "{warned:?}"
    );
    assert_eq!(warned.len(), 1);
}

#[test]
fn the_file_of_a_token_is_held_to_the_rules_of_secrets_and_not_read() {
    let dir = TempDir::new("token");
    let path = dir.path().join("bot.token");
    let text = format!("[channel.x]\ntelegram = true\ntoken_file = '{}'\n", path.display());
    let start = || good(&text, &[]).with_secrets();
    let missing = start().unwrap_err().to_string();
    let place = "/etc/coder.toml:3:1: channel.x.token_file: ";
    assert!(missing.contains(place), "{missing}");
    assert!(missing.ends_with("; write the token into it that BotFather shows"), "{missing}");
    create(&path, b"\xff", 0o644).unwrap();
    let open = start().unwrap_err().to_string();
    assert!(open.contains("is open to other users"), "{open}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(start().is_ok());
}

#[test]
fn the_name_of_a_channel_is_its_own() {
    error(
        &format!("[deliver.x]\nurl = 'http://a/'\n[channel.x]\n{ADAPTER}"),
        "3:10: channel.x has the name of deliver.x: what is delivered there could go to either; \
         rename one",
    );
    for name in ["owner", "alice"] {
        error(
            &format!("[keys.alice]\nfile = '/a'\n[channel.{name}]\n{ADAPTER}"),
            &format!("3:10: channel.{name} has the name of a principal; rename it"),
        );
    }
    error(
        &format!("[channel.'a:b']\n{ADAPTER}"),
        "1:10: channel has \"a:b\"; a channel's name must be of letters, digits, _ and -, at most 64",
    );
    let channel = |number| format!("[channel.c{number:02}]\n{ADAPTER}");
    let text: String = (0..=MAX_CHANNELS).map(channel).collect();
    let errors = errors_of(text.as_bytes(), &[]);
    assert_eq!(errors, ["65:10: there are more than 32 channels; remove some"]);
}

#[test]
fn ids_and_principals_of_a_channel_are_checked() {
    let rule = "a platform's id has 1 to 1000 visible bytes";
    for bad in ["", "a\\n"] {
        for key in ["allow", "groups", "operators"] {
            error(
                &format!("[channel.x]\n{ADAPTER}{key} = [\"{bad}\"]"),
                &format!("3:{}: channel.x.{key} has \"{bad}\"; {rule}", key.len() + 5),
            );
        }
        let text = format!("[channel.x]\n{ADAPTER}as = {{ \"{bad}\" = 'owner' }}");
        error(&text, &format!("3:8: channel.x.as has \"{bad}\"; {rule}"));
    }
    let long = "x".repeat(MAX_PLATFORM_ID + 1);
    assert_eq!(errors_of(office(&format!("allow = ['{long}']")).as_bytes(), &[]).len(), 1);
    error(
        &office("as = { ann = 'alise', ben = 'owner' }"),
        "5:8: channel.office.as.ann is \"alise\", but there is no [keys.NAME] of that name; did \
         you mean \"alice\"?",
    );
    error(
        &office("as.ann = 'a b'"),
        "5:10: channel.office.as.ann: a principal's name must be of visible ASCII characters, at \
         most 128, like \"owner\"",
    );
    error(&office("as.ann = 1"), "5:10: channel.office.as.ann must be a string; got an integer");
}

#[test]
fn a_home_is_where_somebody_may_talk() {
    error(
        &office("allow = ['1']\nhome = '2'"),
        "6:1: channel.office.home is \"2\", which is not in allow, groups, operators or as; add it there",
    );
    for list in ["allow = ['2']", "groups = ['2']", "operators = ['2']", "as.2 = 'alice'"] {
        good(&office(&format!("{list}\nhome = '2'")), &[]);
    }
}

#[test]
fn a_group_and_a_person_have_different_ids() {
    for list in ["allow = ['2']", "operators = ['2']", "as.2 = 'alice'"] {
        error(
            &office(&format!("groups = ['1', '2']\n{list}")),
            "5:1: channel.office.groups has \"2\", which is in allow, operators or as too: a group \
             and a person of one id would be one principal; remove one",
        );
    }
}

#[test]
fn notices_and_clients_may_name_a_channel() {
    let with = |home: &str, stop: &str| {
        office(&format!(
            "allow = ['1']\n{home}\n[keys.bob]\nfile = '/b'\ntargets = ['office']\n[stop]\n{stop}"
        ))
    };
    let config = good(&with("home = '1'", "notify = 'office'\nnotify_failures = 'office'"), &[]);
    assert_eq!(config.config.keys.get("bob").unwrap().targets, ["office"]);
    assert_eq!(config.config.target_names(), ["office"]);
    error(
        &with("", "notify = 'office'"),
        "11:1: stop.notify is \"office\", but channel.office has no home; add it",
    );
    error(
        &with("", "notify = 'offise'"),
        "11:1: stop.notify is \"offise\", but there is no [deliver.NAME] or [channel.NAME] of that \
         name; did you mean \"office\"?",
    );
}

#[test]
fn a_channel_where_nobody_may_talk_is_warned_of() {
    let warned = |keys: &str| good(&office(keys), &[]).warnings(OsStr::new(""), OsStr::new(""));
    let expected = "/etc/coder.toml:3:10: channel.office lets nobody talk: write allow, groups or \
                    operators, or unknown = \"pair\"";
    assert_eq!(warned(""), [expected]);
    for keys in ["allow = ['1']", "groups = ['1']", "as.1 = 'owner'", "unknown = 'pair'"] {
        assert_eq!(warned(keys), [""; 0], "{keys}");
    }
    let text = "[channel.x]\ncommand = ['/nowhere']\nallow = ['1']\n";
    let warned = good(text, &[]).warnings(OsStr::new(""), OsStr::new(""));
    assert!(warned[0].contains(":2:1: channel.x.command cannot be executed"), "{warned:?}");
}
