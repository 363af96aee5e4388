//! A gateway whose environment, memory and directories in /proc are closed to its own user, under
//! systemd: what its commands ask instead, and how it runs an agent as another user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use util::{Manager, Sandbox, UNIT, binary};

/// Starts a unit that somebody wrote by hand, with a configuration in `file`; breaks that, and asks for
/// a restart.
#[track_caller]
fn restart_is_refused(manager: &Manager, settings: &str, arguments: &str, file: &str) {
    let file = manager.home().join(file);
    manager.write(&file, "[http]\nlisten = \"127.0.0.1:0\"\n[agent]\ncommand = []\n");
    let program = binary().display().to_string();
    let text = format!("[Service]\nType=notify\n{settings}ExecStart={program} {arguments}\n");
    manager.write_unit("bot.service", &text);
    manager.systemctl(&["restart", "bot.service"]).assert_code(0);
    let unit = manager.unit("bot.service");
    let pid = unit.main_pid();
    manager.write(&file, "[http]\nlisten = 7\n");
    let outcome = manager.gateway(&["restart"]).assert_code(78);
    assert!(outcome.stderr.contains(file.to_str().unwrap()), "{outcome:?}");
    assert_eq!(unit.main_pid(), pid);
    manager.write(&file, "[http]\nlisten = \"127.0.0.1:0\"\n[agent]\ncommand = []\n");
    manager.gateway(&["restart"]).assert_code(0);
    assert_ne!(unit.main_pid(), pid);
    manager.gateway(&["stop"]).assert_code(0);
}

#[test]
fn restart_checks_the_configuration_of_a_process_whose_environment_is_closed() {
    Sandbox::user().run(|manager| {
        let moved = "Environment=XDG_CONFIG_HOME=%h/moved\n";
        restart_is_refused(manager, moved, "run", "moved/hermes-gateway/default.toml");
        let there = "WorkingDirectory=%h/work\n";
        restart_is_refused(manager, there, "--config my.toml run", "work/my.toml");
        restart_is_refused(manager, "", "--config mine/my.toml run", "mine/my.toml");
    });
}

/// Installed for root, with this agent; what the agent says.
#[track_caller]
fn ask_root(manager: &Manager, command: &[&str]) -> String {
    let config = manager.home().join(".config/hermes-gateway/default.toml");
    let command = serde_json::json!(command);
    manager.write(
        &config,
        &format!("[http]\nlisten = \"127.0.0.1:0\"\n[agent]\ncommand = {command}\n"),
    );
    manager.gateway(&["install", "--system", "--user", "root"]).assert_code(0);
    manager
        .write_unit(&format!("{UNIT}.d/secret.conf"), "[Service]\nEnvironment=SECRET_OF_OURS=x\n");
    manager.gateway(&["restart", "--system"]).assert_code(0);
    assert_eq!(manager.unit(UNIT).property("LimitCORE"), "0");
    manager.gateway(&["send", "-s", "s", "hello"]).assert_code(0).stdout
}

#[test]
fn an_agent_of_another_user_by_systemd_run_or_setpriv_reaches_nothing_of_the_gateway() {
    Sandbox::system().run(|manager| {
        let look = "id -u; cat; echo; for pid in $(pgrep -x hermes-gateway); do cat /proc/$pid/environ; \
                    done 2>/dev/null | tr '\\0' '\\n' | grep -c SECRET_OF_OURS; \
                    cat ~root/.local/state/hermes-gateway/default/api.key 2>&1 | grep -c denied";
        let shell = ["--", "sh", "-c", look];
        let setpriv = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "--no-new-privs"];
        let unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--uid=tester"];
        for words in [&setpriv[..], &unit] {
            let said = ask_root(manager, &[words, &shell].concat());
            assert_eq!(said, "4242\nhello\n0\n1\n", "{words:?}");
        }
    });
}
