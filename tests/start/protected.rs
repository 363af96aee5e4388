//! What an agent can reach of its gateway: of the same user, neither memory nor environment nor
//! descriptors; of another user, nothing. And what a state directory can make the gateway write to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::process::Command;
use std::thread;

use util::{DEADLINE, Home, Launch, Outcome, Process, eventually, script, skip, sys};

/// A user and group that nobody else is.
const UID: u32 = 12_346;

/// A start as that user, where we are root; its files are handed over.
#[track_caller]
fn as_user(home: &Home) -> Launch {
    if sys::uid() != 0 {
        return home.launch();
    }
    let mut places = vec![home.path().to_owned()];
    while let Some(place) = places.pop() {
        chown(&place, Some(UID), Some(UID)).unwrap();
        if place.is_dir() {
            places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let script = format!(
        "chown {UID} \"$NOTIFY_SOCKET\"; \
         exec setpriv --reuid={UID} --regid={UID} --clear-groups \"$@\""
    );
    home.launch().through(&["sh", "-c", &script, "sh"])
}

/// Runs a command of the gateway's as that user.
#[track_caller]
fn command_as_user(home: &Home, args: &[&str]) -> Outcome {
    let plain = home.command(args);
    let mut command = Command::new("setpriv");
    if sys::uid() == 0 {
        command.args([format!("--reuid={UID}"), format!("--regid={UID}")]).arg("--clear-groups");
    }
    command.arg(plain.get_program()).args(plain.get_args()).current_dir("/").env_clear();
    let set = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    Process::spawn(command.envs(set)).finish(DEADLINE)
}

/// What an agent may find out of its parent: a word for each thing that it can read.
const LOOK: &str = "for file in environ mem maps cwd/. fd/0 exe; do \
     head -c 1 /proc/$PPID/$file >/dev/null 2>&1 && printf '%s ' $file; done; \
     ls /proc/$PPID/fd >/dev/null 2>&1 && printf 'fds '; \
     cat /proc/$PPID/environ 2>/dev/null | tr '\\0' '\\n' | grep -c SECRET_OF_OURS; \
     printf 'cores %s %s' \"$(ulimit -Sc)\" \"$(ulimit -Hc)\"";

#[test]
fn an_agent_of_the_same_user_reads_neither_memory_nor_environment_of_its_gateway() {
    let home = Home::new();
    home.configure(&script(LOOK));
    let gateway = as_user(&home).env("SECRET_OF_OURS", "x").start();
    assert_eq!(gateway.ask("x").reply(), "0\ncores 0 0");
    // The gateway itself still sees all that it needs: what it is, and what a turn has left.
    assert_eq!(gateway.status()["state"], "serving");
    let outcome = command_as_user(&home, &["status"]).assert_code(0);
    assert!(outcome.stdout.contains(&format!("pid  {}", gateway.pid())), "{outcome:?}");
    let outcome = command_as_user(&home, &["logs"]).assert_code(1);
    assert!(outcome.stderr.contains(&format!("that of pid {} is ", gateway.pid())), "{outcome:?}");
    let outcome = command_as_user(&home, &["stop"]).assert_code(0);
    assert!(outcome.stdout.contains("has stopped"), "{outcome:?}");
}

#[test]
fn what_an_agent_of_the_same_user_leaves_is_still_found() {
    let home = Home::new();
    let left = home.path().join("h/left");
    let text = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 600' >/dev/null 2>&1 & \
                        until [ -s {0} ]; do sleep 0.01; done; cat {0}",
        left.display()
    );
    home.configure(&script(&text));
    let gateway = as_user(&home).start();
    let pid = gateway.ask("x").reply();
    eventually("the end of what was left", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn an_agent_of_another_user_reads_neither_the_key_nor_the_journal() {
    if sys::uid() != 0 {
        return skip("only root may run an agent as another user");
    }
    let home = Home::new();
    // As SECURITY.md has it.
    let look = format!(
        "id -u; cat {}/api.key {}/journal 2>&1 | grep -c denied; {LOOK}",
        home.state_dir().display(),
        home.state_dir().display()
    );
    let words = [
        "setpriv",
        "--reuid=12346",
        "--regid=12346",
        "--clear-groups",
        "--no-new-privs",
        "--",
        "sh",
        "-c",
        look.as_str(),
    ];
    home.configure(&format!("[agent]\ncommand = {}\n", serde_json::json!(words)));
    let gateway = home.launch().env("SECRET_OF_OURS", "x").start();
    assert_eq!(gateway.ask("x").reply(), "12346\n2\n0\ncores 0 0");
}

#[test]
fn on_a_kernel_without_close_on_exec_for_ranges_an_agent_inherits_nothing() {
    let home = Home::new();
    home.configure(&script(
        "for n in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && printf '%s ' $n; done; echo none",
    ));
    let through = ["sh", "-c", "exec 7</dev/null 9</dev/null; exec \"$@\"", "sh"];
    let start = || home.launch().through(&through).start().ask("x").reply();
    // A filter holds for the thread that asks for it, and what that starts.
    let refused = thread::spawn({
        let home = home.clone();
        move || {
            sys::refuse_close_range_cloexec().unwrap();
            home.launch().through(&through).start().ask("x").reply()
        }
    });
    assert_eq!(refused.join().unwrap(), "none");
    assert_eq!(start(), "none");
}

#[test]
fn no_file_of_the_state_is_written_through_a_symlink() {
    for name in ["history.jsonl", "journal", "run.json", "api.key", "lock", "sessions"] {
        let home = Home::new();
        home.configure("[agent]\ncommand = []\n");
        let victim = home.path().join("victim");
        fs::write(&victim, "").unwrap();
        drop(home.start());
        let file = home.state_dir().join(name);
        let _ = fs::remove_file(&file);
        let _ = fs::remove_dir_all(&file);
        symlink(&victim, &file).unwrap();
        // It may refuse to start; if it does not, it goes on without the file, or with one of its own.
        if let Ok(gateway) = home.launch().try_start() {
            gateway.api().send("s", "x");
            gateway.signal(libc::SIGTERM);
            let outcome = gateway.into_process().finish(DEADLINE);
            assert!(name != "history.jsonl" || outcome.stderr.contains("symlink"), "{outcome:?}");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "", "{name}");
    }
}
