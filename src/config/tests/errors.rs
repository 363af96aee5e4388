//! Mistakes in keys and values, by their exact text.

use super::{error, errors_of, good, set_error};
use crate::limits;

#[test]
fn unknown_names_are_errors_with_a_suggestion() {
    error("[http]\n\n lisen = 1", "3:2: unknown key \"lisen\" in [http]; did you mean \"listen\"?");
    error(
        "[http]\nzebra = 1",
        "2:1: unknown key \"zebra\" in [http]; its keys are listen, key_file, allowed_hosts, allowed_origins",
    );
    error("[agent]\nlisten = 1", "2:1: unknown key \"listen\" in [agent]; it belongs in [http]");
    error("listen = 1", "1:1: unknown key \"listen\" outside of a section; it belongs in [http]");
    error(
        "zebra = 1",
        "1:1: unknown key \"zebra\" outside of a section; \
         the sections are [http], [agent], [session], [stop], [restart], [update], [log], [limits], [deliver.NAME], [channel.NAME], [keys.NAME]",
    );
    error("[htpp]\n", "1:2: unknown section [htpp]; did you mean [http]?");
    error(
        "http.\"li sten\" = 1",
        "1:6: unknown key \"li sten\" in [http]; did you mean \"listen\"?",
    );
    error(
        "[zebra.x]\n",
        "1:2: unknown section [zebra]; the sections are [http], [agent], [session], [stop], [restart], [update], [log], [limits], [deliver.NAME], [channel.NAME], [keys.NAME]",
    );
    error("[[http]]\n", "1:3: http must be a section, written [http]; got a list");
    error("http = 1\n", "1:1: http must be a section, written [http]; got an integer");
    error(
        "[http]\n\"a\\u001B[0m\" = 1",
        "2:1: unknown key \"a\\u{1b}[0m\" in [http]; its keys are listen, key_file, allowed_hosts, allowed_origins",
    );
}

#[test]
fn a_value_of_a_wrong_type_is_an_error_that_names_both() {
    error(
        "[agent]\n\n\ncommand = \"x\"",
        "4:11: agent.command must be written like [\"my-agent\", \"--flag\"]; got a string",
    );
    error(
        "[agent]\ncommand = [\"é\", 1]",
        "2:17: agent.command[1] must be a string; got an integer",
    );
    error(
        "[http]\nlisten = 8642",
        "2:10: http.listen must be written like \"127.0.0.1:8642\"; got an integer",
    );
    error(
        "[http]\nkey_file = []",
        "2:12: http.key_file must be written like \"~/.config/my.key\"; got a list",
    );
    error(
        "[agent]\nenv = 1.5",
        "2:7: agent.env must be written like { MODEL = \"small\" }; got a number with a fraction",
    );
    error("[agent.env]\nA = true", "2:5: agent.env.A must be a string; got a boolean");
    error("[session]\nbusy = {}", "2:8: session.busy must be written like \"queue\"; got a table");
    error(
        "[agent]\nturn_timeout = true",
        "2:16: agent.turn_timeout must be written like \"10m\"; got a boolean",
    );
    error(
        "[limits]\nmax_body = []",
        "2:12: limits.max_body must be written like \"1MiB\"; got a list",
    );
    error(
        "[limits]\nmax_queue = \"9\"",
        "2:13: limits.max_queue must be written like 1000; got a string",
    );
}

#[test]
fn a_value_out_of_range_is_an_error_that_names_the_range() {
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
        "[log]\ntarget = \"jurnal\"",
        "2:10: log.target is \"jurnal\"; it must be one of \"auto\", \"stderr\", \"journal\", \"syslog\"; did you mean \"journal\"?",
    );
    error(
        "[log]\nlevel = \"\"",
        "2:9: log.level is \"\"; it must be one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
    );
    error(
        "[agent]\nturn_timeout = \"30\"",
        "2:16: agent.turn_timeout is \"30\"; it must be a number with a unit (d, h, m, s, ms), like \"10m\"",
    );
    error(
        "[stop]\ndrain_timeout = 0",
        "2:17: stop.drain_timeout is 0; it must be between 10ms and 1d, like \"30s\"",
    );
    error(
        "[update]\ntrial = \"2h\"",
        "2:9: update.trial is \"2h\"; it must be between 10ms and 1h, like \"60s\"",
    );
    error(
        "[update]\nrollback = [\"\"]",
        "2:1: update.rollback names no program: its first string is empty; write one like [\"my-updater\", \"--flag\"]",
    );
    error(
        "[agent]\nturn_timeout = \"169h\"",
        "2:16: agent.turn_timeout is \"169h\"; it must be between 10ms and 7d, like \"10m\"",
    );
    error(
        "[limits]\nmax_body = \"1MB\"",
        "2:12: limits.max_body is \"1MB\"; it must be a number with a unit (GiB, MiB, KiB, B), like \"1MiB\"",
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
        "2:5: agent.env.A: no program can be given a NUL; remove it",
    );
    error(
        "[agent]\ncommand = [\"a\\u0000b\"]",
        "2:12: agent.command has \"a\\0b\"; no program can be given a NUL; remove it",
    );
}

#[test]
fn what_is_too_long_to_exec() {
    let long = "x".repeat(limits::MAX_EXEC_STRING - 1);
    good(&format!("[agent]\ncommand = [\"{long}x\"]\n"), &[]);
    good(&format!("[agent]\nenv.A = \"{}\"\n", &long[1..]), &[]);
    error(
        &format!("[agent]\nenv.A = \"{long}\"\n"),
        "2:9: agent.env.A: no program can be given more than 131071 bytes; put it into a file",
    );
    error(
        &format!("[agent]\ncommand = [\"{long}xx\"]\n"),
        &format!(
            "2:12: agent.command has \"{}…\"; no program can be given more than 131071 bytes; \
             put it into a file",
            &long[..60]
        ),
    );
}

#[test]
fn an_agent_has_a_command_or_a_url() {
    error(
        "[agent]\nurl = \"http://a\"\ncommand = [\"cat\"]",
        "3:1: agent.command is set together with agent.url (/etc/coder.toml:2:1); \
         remove one of the two",
    );
    error(
        "[agent]\ncommand = [\"\", \"x\"]",
        "2:1: agent.command names no program: its first string is empty; \
         write one like [\"my-agent\", \"--flag\"]",
    );
    assert_eq!(
        errors_of(b"[agent]\nurl = \"http://a\"", &["agent.command=[\"cat\"]"]),
        ["--set agent.command=[\"cat\"]: agent.command is set together with agent.url \
          (/etc/coder.toml:2:1); remove one of the two"]
    );
    for text in ["kind = \"command\"\ncommand = [\"cat\"]", "kind = \"echo\"", "kind = 1"] {
        error(
            &format!("[agent]\n{text}"),
            "2:1: unknown key \"kind\" in [agent]; its keys are command, env, pass_env, url, \
             key_file, model, models, api, pass, max_history, turn_timeout, retry_for, \
             answer_within, leftovers, protocol, directory, approve, approve_timeout, processes, \
             share, preload, idle_timeout, max_sessions",
        );
    }
    for (name, value) in [
        ("key_file", "\"/k\""),
        ("model", "\"m\""),
        ("models", "{ a = \"b\" }"),
        ("api", "\"responses\""),
    ] {
        let fault = format!("2:1: agent.{name} is set, but agent.url is not; add it");
        error(&format!("[agent]\n{name} = {value}"), &fault);
    }
}

#[test]
fn the_keys_of_an_agent_that_stays_need_one() {
    error(
        "[agent]\nprotocol = \"acp\"",
        "2:1: agent.protocol is set, but agent.command is not; add it, like command = \
         [\"hermes\", \"acp\"]",
    );
    error(
        "[agent]\nurl = \"http://a\"\nprotocol = \"lines\"",
        "3:1: agent.protocol is set, but agent.command is not; add it, like command = \
         [\"hermes\", \"acp\"]",
    );
    for (name, value) in
        [("directory", "'/w'"), ("approve", "'ask'"), ("share", "true"), ("preload", "true")]
    {
        let fix = "is for agents that stay; add agent.protocol = \"acp\", or remove it";
        let fault = format!("3:1: agent.{name} {fix}");
        error(&format!("[agent]\ncommand = ['x']\n{name} = {value}"), &fault);
    }
    error(
        "[agent]\nprotocol = \"apc\"",
        "2:12: agent.protocol is \"apc\"; it must be one of \"text\", \"acp\", \"lines\"; did you \
         mean \"acp\"?",
    );
    error(
        "[agent]\napprove = true",
        "2:11: agent.approve must be written like \"ask\"; got a boolean",
    );
    error("[agent]\nshare = \"yes\"", "2:9: agent.share must be written like true; got a string");
    error(
        "[agent]\nprocesses = 0",
        "2:13: agent.processes is 0; it must be between 1 and 256, like 4",
    );
    set_error(
        "agent.share=1",
        "--set agent.share=1: agent.share must be written like true; got an integer",
    );
    error(
        "[limits]\nmax_agent_line = \"1KiB\"",
        "2:18: limits.max_agent_line is \"1KiB\"; it must be between 64KiB and 256MiB, like \"16MiB\"",
    );
}

#[test]
fn what_is_wrong_with_one_of_several_servers_has_its_place() {
    error(
        "[agent]\nurl = [\"http://a\", \"b\"]",
        "2:20: agent.url[1] is \"b\"; it must begin with http:// or https://, like \
         \"http://127.0.0.1:11434/v1\"",
    );
    error(
        "[agent]\nurl = [{ url = \"http://a\", model = 1 }]",
        "2:36: agent.url[0].model must be written like \"qwen2.5:3b\"; got an integer",
    );
    error(
        "[agent]\nurl = [{ url = \"http://a\", modle = \"m\" }]",
        "2:28: agent.url[0] has an unknown key \"modle\"; its keys are url, key_file, model, models",
    );
    error(
        "[agent]\nurl = [{ model = \"m\" }]",
        "2:8: agent.url[0] has no url; give it one, like \"http://127.0.0.1:11434/v1\"",
    );
    error(
        "[agent]\nurl = [\"\"]",
        "2:8: agent.url[0] has no url; give it one, like \"http://127.0.0.1:11434/v1\"",
    );
    let many = format!("[agent]\nurl = [{}]", "\"http://a\", ".repeat(17));
    error(&many, "2:7: agent.url has more than 16 servers; remove some");
    error(
        "[agent]\npass = [\"embedding\"]",
        "2:9: agent.pass has \"embedding\"; there are embeddings, completions, audio, images, \
         moderations, anthropic",
    );
}

#[test]
fn the_url_of_an_endpoint_is_no_base() {
    error(
        "[agent]\nurl = \"http://a:1/v1/chat/completions\"",
        "2:7: agent.url is \"http://a:1/v1/chat/completions\"; it must be a base, without \
         /chat/completions (write \"http://a:1/v1\"), like \"http://127.0.0.1:11434/v1\"",
    );
    // What is added where only an origin is given is shown.
    let text = good("[agent]\nurl = \"http://127.0.0.1:11434\"", &[]).render();
    assert!(text.contains("\nurl = \"http://127.0.0.1:11434/v1\" "), "{text}");
    // A callback is whatever its receiver made it.
    let hook =
        "[deliver.a]\nurl = \"https://a/chat/completions\"\n[deliver.b]\nurl = \"https://b\"";
    let text = good(hook, &[]).render();
    assert!(text.contains("\"https://a/chat/completions\"") && text.contains("\"https://b/\""));
}

#[test]
fn models_are_named_in_text() {
    error(
        "[agent]\nurl = \"http://a\"\nmodel = \"a\\n\"",
        "3:9: agent.model is \"a\\n\"; a model's name has 1 to 256 bytes and no control characters, \
         like \"qwen2.5:3b\"",
    );
    error(
        "[agent]\nurl = \"http://a\"\nmodels = { a = 1 }",
        "3:16: agent.models.a must be a string; got an integer",
    );
    error(
        "[agent]\nurl = \"http://a\"\nmodels = { a = \"\" }",
        "3:16: agent.models.a: a model's name has 1 to 256 bytes and no control characters",
    );
    error(
        "[agent]\nmodels = []",
        "2:10: agent.models must be written like { fast = \"qwen2.5:3b\" }; got a list",
    );
}
