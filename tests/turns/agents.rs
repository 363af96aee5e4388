//! The command agent from outside: what it gets, what becomes of its words, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use util::api::id_of;
use util::{DEADLINE, Gate, Gateway, Home, eventually};

/// What an agent has between SIGTERM and SIGKILL, with a loaded machine's delay.
const KILLED: Duration = Duration::from_secs(8);

/// The configuration of an agent that is this shell script.
fn script(text: &str) -> String {
    format!("[agent]\ncommand = [\"sh\", \"-c\", {text:?}]\n")
}

/// A gateway whose agent is this shell script.
#[track_caller]
fn gateway(text: &str) -> Gateway {
    let home = Home::new();
    home.configure(&script(text));
    home.start()
}

/// The pid that an agent has written into this file.
#[track_caller]
fn pid_in(file: &Path) -> i32 {
    eventually("a pid", || {
        let text = fs::read_to_string(file).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}

/// Whether the process lives; one that is not reaped yet has ended.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn echo_says_what_it_hears() {
    let gateway = Gateway::start();
    for text in ["hello", "zwei\nZeilen", "ünïcode 🦀", "\u{1b}[2J", "  "] {
        assert_eq!(gateway.ask(text).reply(), text);
    }
}

#[test]
fn the_message_goes_to_stdin_and_the_reply_comes_from_stdout() {
    let gateway = gateway("cat; echo");
    let long = "x".repeat(900_000);
    for text in ["hello", "zwei\nZeilen", "ünïcode 🦀", &long] {
        assert_eq!(gateway.ask(text).reply(), text);
    }
}

#[test]
fn a_reply_is_streamed_as_it_comes() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = format!("echo first; {}; echo last", gate.wait());
    home.configure(&script(&text));
    let gateway = home.start();
    let mut connection = gateway.begin("x", true);
    let head = connection.head();
    assert_eq!(head.status, 200);
    assert!(head.field("content-type").unwrap().starts_with("text/event-stream"));
    let mut events = String::new();
    while !events.contains("first") {
        events += &String::from_utf8(connection.chunk().unwrap()).unwrap();
    }
    assert!(!events.contains("last"), "{events}");
    gate.open();
    while let Some(chunk) = connection.chunk() {
        events += &String::from_utf8(chunk).unwrap();
    }
    assert!(events.contains("last"), "{events}");
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
}

#[test]
fn an_agents_exit_status_75_is_a_temporary_failure_and_any_other_a_failure() {
    let gateway = gateway("read -r code; echo half a reply; echo why >&2; exit $code");
    let temporary = gateway.ask("75\n");
    assert!(temporary.field("retry-after").is_some(), "{temporary:?}");
    assert!(temporary.error(503).contains("why"));
    let failed = gateway.ask("3\n").error(502);
    assert!(failed.contains("exit status 3") && failed.contains("why"), "{failed}");
    let failed = gateway.ask("143\n").error(502);
    assert!(failed.contains("exit status 143"), "{failed}");
    assert_eq!(gateway.ask("0\n").reply(), "half a reply");
}

#[test]
fn an_error_has_what_the_agent_printed_and_of_a_traceback_the_last_line_without_paths() {
    let traceback = r#"printf 'I looked into /srv/x\nand gave up'; cat >&2 <<'END'
Traceback (most recent call last):
  File "/srv/op/agent.py", line 7, in <module>
    open("/srv/op/.secret/db")
PermissionError: [Errno 13] Permission denied: '/srv/op/.secret/db'

END
exit 1"#;
    let gateway = gateway(traceback);
    assert_eq!(
        gateway.ask("x").error(502),
        "the agent failed with exit status 1: PermissionError: [Errno 13] Permission denied: 'db'; \
         it had printed: I looked into /srv/x / and gave up"
    );
    // The operator's log has all of it.
    gateway.wait_for_log("/srv/op/agent.py", DEADLINE);
    let api = gateway.api();
    let id = id_of(&api.send("s", "x").json());
    let message = api.finished(&id);
    assert!(message["error"].as_str().unwrap().ends_with("/ and gave up"), "{message}");
    assert!(!message.to_string().contains("/srv/op"), "{message}");
}

#[test]
fn an_agent_that_a_signal_ends_or_that_is_missing_may_do_better_later() {
    let gateway = gateway("kill -KILL $$");
    assert!(gateway.ask("x").error(503).contains("signal 9"));
    let home = Home::new();
    home.configure("[agent]\ncommand = [\"/nonexistent/agent\"]\n");
    let message = home.start().ask("x").error(503);
    assert!(message.contains("/nonexistent/agent"), "{message}");
}

#[test]
fn the_environment_is_exactly_the_allow_list() {
    let home = Home::new();
    home.configure(
        "[agent]\ncommand = [\"env\"]\nenv = { MODEL = \"small\", LANG = \"C\" }\n\
         pass_env = [\"EXTRA\", \"MISSING\"]\n",
    );
    let mut launch = home.launch();
    for name in [
        "INVOCATION_ID",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "SYSTEMD_EXEC_PID",
        "JOURNAL_STREAM",
        "DBUS_SESSION_BUS_ADDRESS",
        "API_TOKEN",
        "LD_LIBRARY_PATH",
        "EXTRA",
        "LANG",
        "TZ",
    ] {
        launch = launch.env(name, "1");
    }
    let reply = launch.start().ask("x").reply();
    let mut lines: Vec<&str> = reply.lines().collect();
    lines.sort_unstable();
    let names: Vec<&str> = lines.iter().map(|l| l.split('=').next().unwrap()).collect();
    let expected = [
        "EXTRA",
        "HERMES_ATTEMPT",
        "HERMES_GATEWAY_PROFILE",
        "HERMES_MARK",
        "HERMES_MESSAGE_ID",
        "HERMES_PRINCIPAL",
        "HERMES_SESSION",
        "HERMES_TRANSCRIPT",
        "HOME",
        "LANG",
        "MODEL",
        "PATH",
        "TZ",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    ];
    assert_eq!(names, expected, "{reply}");
    assert!(lines.contains(&"HERMES_ATTEMPT=1") && lines.contains(&"LANG=C"), "{reply}");
}

#[test]
fn an_agent_reaches_its_own_gateway_whatever_hermes_agent_is_told() {
    let (home, other) = (Home::named("coder"), Home::named("writer"));
    let _other = other.start();
    let nested = "read -r text; case $text in ask) exec \"$0\" send nested;; *) echo \"at coder: $text\";; esac";
    let program = util::binary();
    home.configure(&format!(
        "[agent]\ncommand = {}\nenv = {{ HERMES_PROFILE = \"writer\" }}\n",
        serde_json::json!(["sh", "-c", nested, program])
    ));
    let gateway = home.start();
    assert_eq!(gateway.ask("ask\n").reply().trim_end(), "at coder: nested");
}

#[test]
fn variables_of_the_service_manager_cannot_be_passed_on() {
    for line in [
        "pass_env = [\"NOTIFY_SOCKET\"]",
        "pass_env = [\"INVOCATION_ID\"]",
        "env = { NOTIFY_SOCKET = \"/x\" }",
    ] {
        let home = Home::new();
        home.configure(&format!("[agent]\ncommand = [\"env\"]\n{line}\n"));
        let process = home.launch().spawn();
        if process.wait_for_end_or("READY=1") {
            assert_eq!(process.wait_for_exit(DEADLINE), 78, "{line}");
            continue;
        }
        panic!("{line} was accepted");
    }
}

#[test]
fn it_has_no_descriptors_of_ours_and_a_group_of_its_own() {
    let home = Home::new();
    home.configure("[agent]\ncommand = [\"ls\", \"/proc/self/fd\"]\n");
    // One that we were started with by mistake, too.
    let through = ["sh", "-c", "exec 7</dev/null; exec \"$@\"", "sh"];
    let gateway = home.launch().through(&through).start();
    assert_eq!(gateway.ask("x").reply(), "0\n1\n2\n3");
    home.configure(&script("read -r _ _ _ _ group _ < /proc/$$/stat; echo $$ $group"));
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("read again", DEADLINE);
    let reply = gateway.ask("x").reply();
    let (pid, group) = reply.split_once(' ').unwrap();
    assert_eq!(pid, group);
}

#[test]
fn a_turn_that_takes_too_long_ends_with_its_group() {
    let home = Home::new();
    let file = home.path().join("pid");
    // The shell obeys SIGTERM; what it waits for does not.
    let text = format!(
        "(trap '' TERM; sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600')",
        file.display()
    );
    home.configure(&format!("{}turn_timeout = \"500ms\"\n", script(&text)));
    let gateway = home.start();
    let began = Instant::now();
    let message = gateway.ask("x").error(504);
    assert!(message.contains("turn_timeout"), "{message}");
    assert!(began.elapsed() < KILLED, "{:?}", began.elapsed());
    let pid = pid_in(&file);
    eventually("the end of the group", || (!lives(pid)).then_some(()));
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed() {
    let home = Home::new();
    let file = home.path().join("pid");
    let text = format!(
        "trap '' TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1; done",
        file.display()
    );
    home.configure(&format!("{}turn_timeout = \"300ms\"\n", script(&text)));
    let gateway = home.start();
    let began = Instant::now();
    gateway.ask("x").error(504);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1) && took < KILLED, "{took:?}");
    assert!(!lives(pid_in(&file)));
}

#[test]
fn a_client_that_goes_away_takes_its_agent_along() {
    let home = Home::new();
    let file = home.path().join("pid");
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600 & wait", file.display());
    home.configure(&script(&text));
    let gateway = home.start();
    for stream in [false, true] {
        let connection = gateway.begin("x", stream);
        let pid = pid_in(&file);
        assert!(lives(pid));
        drop(connection);
        eventually("the end of the agent", || (!lives(pid)).then_some(()));
        gateway.wait_for_turns(0);
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_grandchild_with_the_output_open_holds_nothing_up() {
    let gateway = gateway("sleep 600 & echo $!; echo done");
    let began = Instant::now();
    let reply = gateway.ask("x").reply();
    assert!(began.elapsed() < Duration::from_secs(5));
    let (pid, rest) = reply.split_once('\n').unwrap();
    assert_eq!(rest, "done");
    let pid = pid.parse().unwrap();
    eventually("the end of the group", || (!lives(pid)).then_some(()));
}

#[test]
fn a_grandchild_that_left_the_group_holds_nothing_up_either() {
    let home = Home::new();
    let file = home.path().join("away");
    let text = format!(
        "setsid sh -c 'touch {0}; exec sleep 600' & while ! [ -e {0} ]; do :; done; echo $!",
        file.display()
    );
    home.configure(&script(&text));
    let gateway = home.start();
    let reply = gateway.ask("x").reply();
    assert!(!lives(reply.parse().unwrap()), "{reply} outlives its turn");
}

#[test]
fn what_it_complains_of_is_logged_line_by_line_and_harmless() {
    let gateway = gateway("printf 'one \\033[2J two\\nthree\\rfour\\n\\n<3>five' >&2; echo ok");
    assert_eq!(gateway.ask("x").reply(), "ok");
    gateway.wait_for_log("one \\u{1b}[2J two", DEADLINE);
    gateway.wait_for_log("three\\u{d}four", DEADLINE);
    gateway.wait_for_log("<3>five", DEADLINE);
    let log = gateway.stderr();
    let controls = |c: char| c.is_control() && c != '\n';
    assert!(!log.contains(controls), "{log:?}");
    for line in log.lines() {
        assert!(!line.starts_with("<3>"), "{log}");
    }
}

#[test]
fn a_reply_beyond_the_limit_is_an_error() {
    let home = Home::new();
    let text = "head -c 5000 /dev/zero | tr '\\0' x";
    home.configure(&format!("{}[limits]\nmax_reply = 4096\n", script(text)));
    let message = home.start().ask("x").error(502);
    assert!(message.contains("limits.max_reply"), "{message}");
    // One that never ends, too.
    let home = Home::new();
    home.configure(&format!("{}[limits]\nmax_reply = 4096\n", script("exec yes")));
    let message = home.start().ask("x").error(502);
    assert!(message.contains("limits.max_reply"), "{message}");
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let gateway = gateway("printf 'a\\377b\\303'");
    assert_eq!(gateway.ask("x").reply(), "a\u{fffd}b\u{fffd}");
}

#[test]
fn a_message_that_nobody_reads_is_no_error() {
    let gateway = gateway("exec <&-; echo deaf");
    assert_eq!(gateway.ask(&"x".repeat(900_000)).reply(), "deaf");
    let gateway = gateway_that_ends_first();
    assert_eq!(gateway.ask(&"x".repeat(900_000)).reply(), "brief");
}

/// Its agent has ended before a long message is written.
#[track_caller]
fn gateway_that_ends_first() -> Gateway {
    gateway("echo brief")
}
