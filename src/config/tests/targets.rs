//! Targets of deliveries: mistakes by their exact text, and `--set`.

use super::{error, errors_of, good, lines_of, set_error, sources};
use crate::config::load::from_bytes;
use crate::limits::MAX_TARGETS;
use crate::sys::fs::create;
use crate::testing::TempDir;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn names_and_settings_of_targets_are_checked() {
    error(
        "[deliver.\"a b\"]\nurl = 'http://a'",
        "1:10: deliver has \"a b\"; a target's name must be of letters, digits, _ and -, at most 64",
    );
    error(
        "[deliver.x]\nurl = 'http://a'\nsecret = 1",
        "3:1: unknown key \"secret\" in [deliver.x]; its keys are url, secret_file, command, env, \
         pass_env, leftovers, timeout, expire",
    );
    error(
        "[deliver.x]\nurl = 'http://a'\ntimout = 1",
        "3:1: unknown key \"timout\" in [deliver.x]; did you mean \"timeout\"?",
    );
    error(
        "[deliver.x]\nurl = 'http://a'\nlisten = 1",
        "3:1: unknown key \"listen\" in [deliver.x]; it belongs in [http]",
    );
    let elsewhere = "2:1: unknown key \"secret_file\" in [agent]; it belongs in [deliver.NAME]";
    error("[agent]\nsecret_file = 1", elsewhere);
    error("[deliver]\nurl = 1", "2:1: url belongs to a target: write it in [deliver.NAME]");
    error(
        "[deliver]\nx = 1",
        "2:1: deliver.x must be a section, written [deliver.x]; got an integer",
    );
    error("deliver = 1", "1:1: targets are sections, written [deliver.NAME]; got an integer");
    error("[delivery.x]\n", "1:2: unknown section [delivery]; did you mean [deliver.NAME]?");
}

#[test]
fn values_of_a_target_are_checked() {
    let url = |value: &str, reason: &str| {
        let text = format!("[deliver.x]\nurl = '{value}'");
        let like = "like \"https://example.org/hook\"";
        error(&text, &format!("2:7: deliver.x.url is \"{value}\"; {reason}, {like}"));
    };
    url("ftp://a", "it must begin with http:// or https://");
    url("http://u:p@a/", "it must not hold credentials: they belong in a file");
    url("http://a/#b", "it must not have a #fragment, which no server sees");
    url("http://a/ ", "' ' in it must be percent-encoded");
    error(
        "[deliver.x]\nurl = 1",
        "2:7: deliver.x.url must be written like \"https://example.org/hook\"; \
         got an integer",
    );
    error(
        "[deliver.x]\nurl = 'http://a'\nexpire = 0",
        "3:10: deliver.x.expire is 0; it must be between 1s and 30d, like \"1d\"",
    );
    error(
        "[deliver.x]\ncommand = ['a']\nenv.HERMES_DELIVERY_ID = ''",
        "3:5: deliver.x.env has \"HERMES_DELIVERY_ID\"; the gateway sets that variable itself; \
         remove it",
    );
    error(
        "[session]\noperators = ['a b']",
        "2:14: session.operators has \"a b\"; a principal's name must be of visible ASCII \
         characters, at most 128, like \"owner\"",
    );
}

#[test]
fn keys_of_a_target_must_agree() {
    error(
        "\n[deliver.x]\n",
        "2:10: deliver.x has no address; give it a url, like \"https://example.org/hook\", \
         or a command, like [\"my-notifier\", \"--flag\"]",
    );
    error(
        "[deliver.x]\nurl = 'http://a'\ncommand = ['a']",
        "3:1: deliver.x.command is set together with deliver.x.url (/etc/coder.toml:2:1); \
         remove one of the two",
    );
    error(
        "[deliver.x]\nkind = 'callback'\nurl = 'http://a'",
        "2:1: unknown key \"kind\" in [deliver.x]; its keys are url, secret_file, command, env, \
         pass_env, leftovers, timeout, expire",
    );
    error(
        "[deliver.x]\ncommand = ['']",
        "2:1: deliver.x.command names no program: its first string is empty; \
         write one like [\"my-notifier\", \"--flag\"]",
    );
    error(
        "[deliver.x]\ncommand = ['a']\nsecret_file = '/s'",
        "3:1: deliver.x.secret_file is set, but deliver.x is a command, and only callbacks are \
         signed; remove it",
    );
}

#[test]
fn set_makes_and_changes_targets() {
    let text = "[deliver.x]\nurl = 'http://a'";
    let config = good(text, &["deliver.x.url=http://b/c", "deliver.y.command=['z']"]).config;
    assert_eq!(config.deliver.get("x").unwrap().url.as_ref().unwrap().host, "b");
    assert_eq!(config.deliver.get("y").unwrap().command, ["z"]);
    set_error(
        "deliver.x=1",
        "--set deliver.x=1: deliver.x must be a section, written [deliver.x]; got an integer",
    );
    set_error(
        "deliver.x.urk=1",
        "--set deliver.x.urk=1: unknown key \"urk\" in [deliver.x]; did you mean \"url\"?",
    );
    for argument in ["deliver.x.env.1=hidden", "deliver.x.evn.A=hidden"] {
        let error = from_bytes(Some(text.as_bytes()), &sources(&[argument])).unwrap_err();
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
}

#[test]
fn secrets_are_read_apart_and_as_strictly_as_the_key() {
    let dir = TempDir::new("secrets");
    let path = dir.path().join("hook.secret");
    let text = format!("[deliver.x]\nurl = 'http://a'\nsecret_file = '{}'\n", path.display());
    let load = || good(&text, &[]).with_secrets();
    let rejected = |why: &str| {
        let failure = load().unwrap_err();
        let error = lines_of(&failure).join("\n");
        let place = format!("/etc/coder.toml:3:1: deliver.x.secret_file: {} ", path.display());
        assert!(error.starts_with(&place) && error.contains(why), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    };
    rejected("No such file");
    for (content, mode, why) in [
        ("hidden", 0o644, "it is open to other users (mode 644): chmod 600 "),
        ("\n", 0o600, "it is empty"),
        ("whsec_hidden!", 0o600, "not base64"),
    ] {
        let _ = fs::remove_file(&path);
        create(&path, content.as_bytes(), mode).unwrap();
        rejected(why);
    }
    fs::write(&path, "whsec_c2VjcmV0\n").unwrap();
    let config = load().unwrap().config;
    assert_eq!(config.deliver.get("x").unwrap().secret.as_ref().unwrap().bytes(), b"secret");
    assert!(!load().unwrap().render().contains("c2Vj"));
    let link = path.with_extension("link");
    fs::rename(&path, &link).unwrap();
    symlink(&link, &path).unwrap();
    assert!(load().is_ok());
    fs::set_permissions(&link, fs::Permissions::from_mode(0o604)).unwrap();
    let target = link.display();
    rejected(&format!("its target {target} is open to other users (mode 604): chmod 600 {target}"));
}

#[test]
fn the_key_of_an_upstream_is_one_word() {
    let dir = TempDir::new("upstream");
    let path = dir.path().join("key");
    let text = format!("[agent]\nurl = 'http://a'\nkey_file = '{}'\n", path.display());
    let load = || good(&text, &[]).with_secrets();
    for (content, mode, why) in [
        ("hidden", 0o644, "it is open to other users"),
        ("\n", 0o600, "it is empty"),
        ("hidden key", 0o600, "one word"),
        ("hidden\nX: y", 0o600, "one word"),
    ] {
        let _ = fs::remove_file(&path);
        create(&path, content.as_bytes(), mode).unwrap();
        let failure = load().unwrap_err();
        let error = lines_of(&failure).join("\n");
        let place = "/etc/coder.toml:3:1: agent.key_file: ";
        assert!(error.starts_with(place) && error.contains(why), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    fs::write(&path, "whsec_c2VjcmV0\n").unwrap();
    let loaded = load().unwrap();
    assert_eq!(loaded.config.agent.url[0].key.as_ref().unwrap().bytes(), b"whsec_c2VjcmV0");
    assert!(!loaded.render().contains("c2Vj") && !format!("{loaded:?}").contains("99, 50, 86"));
}

#[test]
fn their_number_is_bounded() {
    let target = |n| format!("[deliver.t{n:02}]\nurl = 'http://a'\n");
    let text: String = (0..MAX_TARGETS).map(target).collect();
    assert_eq!(good(&text, &[]).config.deliver.iter().count(), MAX_TARGETS);
    assert_eq!(
        errors_of((text + &target(99)).as_bytes(), &[]),
        ["65:10: there are more than 32 targets; remove some"]
    );
}
