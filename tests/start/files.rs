//! Files as real hosts have them: configuration and secrets behind symlinks, secrets of containers,
//! no home directory, a root that cannot be written, few descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use util::{DEADLINE, Home, Launch, Private, Tmpfs, skip, sys};

/// A user and group that nobody else is.
const UID: u32 = 12_345;

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

fn key() -> String {
    "k".repeat(40) + "\n"
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Gives a home to the user, with all that is in it.
fn hand_over(home: &Home) {
    let mut places = vec![home.path().to_owned()];
    while let Some(place) = places.pop() {
        chown(&place, Some(UID), Some(UID)).unwrap();
        if place.is_dir() {
            places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

/// A start as that user, through these words.
fn as_user(home: &Home, through: &str) -> Launch {
    // The supervisor's socket is the test's own.
    let script = format!(
        "chown {UID} \"$NOTIFY_SOCKET\"; \
         exec setpriv --reuid={UID} --regid={UID} --clear-groups {through} \"$@\""
    );
    home.launch().through(&["sh", "-c", &script, "sh"])
}

/// A directory as Kubernetes mounts secrets: `NAME -> ..data/NAME`, `..data -> ..DATE`.
fn projected(dir: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let file = write(&dir.join("..2026_11_29").join(name), content, mode);
    chown(&file, Some(0), Some(if mode & 0o040 != 0 { UID } else { 0 })).unwrap();
    if fs::symlink_metadata(dir.join("..data")).is_err() {
        symlink("..2026_11_29", dir.join("..data")).unwrap();
    }
    symlink(format!("..data/{name}"), dir.join(name)).unwrap();
    dir.join(name)
}

#[test]
fn a_configuration_and_a_key_behind_symlinks_are_used() {
    let home = Home::new();
    let real = write(&home.path().join("dotfiles/gw.toml"), "[limits]\nmax_queue = 77\n", 0o644);
    let hidden = write(&home.path().join("dotfiles/key"), &key(), 0o600);
    fs::create_dir_all(home.config_file().parent().unwrap()).unwrap();
    symlink(&real, home.config_file()).unwrap();
    let link = home.path().join("h/key");
    symlink(&hidden, &link).unwrap();
    let launch = home.launch().set("http.key_file", text(&link));
    let gateway = launch.start();
    assert!(home.run(&["config"]).assert_code(0).stdout.contains("max_queue = 77"));
    let fields = [("Authorization", format!("Bearer {}", key().trim()))];
    let fields = [(fields[0].0, fields[0].1.as_str())];
    gateway.connect().get("/v1/models", &fields).assert_status(200);
    drop(gateway);
    for (file, mode, advice) in [(&real, 0o646, "chmod go-w"), (&hidden, 0o644, "chmod 600")] {
        fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
        let end = home.launch().set("http.key_file", text(&link)).spawn().finish(DEADLINE);
        let link = if file == &real { home.config_file() } else { link.clone() };
        let end = end.assert_code(78);
        for words in [text(&link), &format!("its target {}", file.display()), advice] {
            assert!(end.stderr.contains(words), "{words}: {}", end.stderr);
        }
        assert!(end.stderr.contains(&format!("{advice} {}", file.display())), "{}", end.stderr);
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_secret_of_root_that_our_group_may_read_is_used() {
    if sys::uid() != 0 {
        return skip("it takes root to be another user");
    }
    let home = Home::new();
    home.configure("");
    hand_over(&home);
    let dir = home.path().join("secrets");
    let file = projected(&dir, "key", &key(), 0o440);
    let config = projected(&dir, "gw.toml", "[limits]\nmax_queue = 77\n", 0o440);
    let start = || {
        let launch = as_user(&home, "").set("http.key_file", text(&file));
        launch.arg("--config").arg(text(&config))
    };
    drop(start().start());
    // Not where all others may read it too, whose mode we cannot change.
    let target = fs::canonicalize(&file).unwrap();
    fs::set_permissions(&target, Permissions::from_mode(0o444)).unwrap();
    let end = start().spawn().finish(DEADLINE).assert_code(78);
    let words = format!("as root, chmod 640 {}", target.display());
    assert!(end.stderr.contains(&words), "{}", end.stderr);
}

#[test]
fn a_configuration_may_be_written_by_the_private_group_of_its_owner() {
    if sys::uid() != 0 {
        return skip("it takes root to be another user");
    }
    let home = Home::new();
    home.configure("");
    hand_over(&home);
    let file = home.config_file();
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    drop(as_user(&home, "").start());
    chown(&file, None, Some(UID + 1)).unwrap();
    let end = as_user(&home, "").spawn().finish(DEADLINE).assert_code(78);
    let words = format!("chmod go-w {}", file.display());
    assert!(end.stderr.contains(&words), "{}", end.stderr);
}

#[test]
fn a_secret_that_all_may_read_is_used_on_a_mount_of_its_own_only() {
    Private::new().run(|| {
        let home = Home::new();
        home.configure("");
        hand_over(&home);
        let dir = home.path().join("secrets");
        fs::create_dir(&dir).unwrap();
        let mount = Tmpfs::new(&dir, c"mode=755");
        let plain = write(&dir.join("plain"), &key(), 0o444);
        let dated = projected(&dir, "dated", &key(), 0o444);
        let ends = |file: &Path, words: &str| {
            let launch = as_user(&home, "").set("http.key_file", text(file));
            let end = launch.spawn().finish(DEADLINE).assert_code(78);
            assert!(end.stderr.contains(words), "{words}: {}", end.stderr);
        };
        for file in [&plain, &dated] {
            let gateway = as_user(&home, "").set("http.key_file", text(file)).start();
            let line = gateway.wait_for_log("can be read by other users", DEADLINE);
            assert!(line.contains(" WARN ") && line.contains(text(file)), "{line}");
            // A check warns of what a start warns of.
            let given = format!("http.key_file={}", text(file));
            let check = Home::new().run(&["config", "check", "--set", &given]).assert_code(0);
            assert!(check.stderr.contains("can be read by other users"), "{}", check.stderr);
        }
        // Not where others may put files.
        fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
        ends(&plain, "is open to other users");
        ends(&dated, "is open to other users");
        // Nobody puts anything where the mount is read-only, whatever its mode says.
        let remount = |how: &str| {
            let mut mount = std::process::Command::new("mount");
            assert!(mount.args(["-o", how, text(&dir)]).status().unwrap().success());
        };
        remount("remount,ro");
        drop(as_user(&home, "").set("http.key_file", text(&dated)).start());
        remount("remount,rw");
        // Nor is it a mount of its own for what is deeper in it.
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        ends(&write(&dir.join("deep/key"), &key(), 0o444), "is open to other users");
        drop(mount);
        // Docker mounts the file itself.
        let mount = Tmpfs::new(&dir, c"mode=755");
        let source = write(&dir.join("key"), &key(), 0o444);
        let target = write(&home.path().join("key"), "", 0o444);
        let bind = ["mount", "--bind", text(&source), text(&target)];
        let status = std::process::Command::new(bind[0]).args(&bind[1..]).status().unwrap();
        assert!(status.success());
        let start = as_user(&home, "").set("http.key_file", text(&target)).start();
        start.wait_for_log("can be read by other users", DEADLINE);
        drop((start, mount));
        let _ = sys::unmount(&target, true);
    });
}

#[test]
fn a_key_file_that_is_missing_is_said_how_to_make() {
    let home = Home::new();
    let file = home.path().join("my.key");
    let end = home.launch().set("http.key_file", text(&file)).spawn().finish(DEADLINE);
    let words = format!("make it: `openssl rand -hex 32 > {0}; chmod 600 {0}`", file.display());
    let end = end.assert_code(78);
    assert!(end.stderr.contains(&words), "{}", end.stderr);
}

// ------------------------------------------------------------------- few descriptors ----

#[test]
fn with_64_descriptors_40_clients_at_once_are_served_and_the_limit_is_said() {
    let home = Home::new();
    home.configure(&util::script("sleep 0.05; cat"));
    let few = ["prlimit", "--nofile=64:64"];
    let launch = || home.launch().through(&few).set("limits.max_turns", "8");
    let mut gateway = launch().start();
    let words = "the limit of 64 open descriptors allows 15 connections and 2 turns at once";
    let line = gateway.wait_for_log(words, DEADLINE);
    for part in [" WARN ", "max_connections is 10000", "max_turns 8", "LimitNOFILE="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    for round in 0..2 {
        let mut clients: Vec<_> = (0..40)
            .map(|client| {
                let mut connection = gateway.connect();
                let session = format!("{round}-{client}");
                let (body, key) = (util::http::chat("hi", false), gateway.authorization());
                let mut fields = vec![("Authorization", key.as_str())];
                fields.push(("Content-Type", "application/json"));
                // Every other one is durable.
                fields.extend((client % 2 == 0).then_some(("X-Hermes-Session-Id", &*session)));
                let target = "/v1/chat/completions";
                connection.send(&util::http::request("POST", target, &fields, body.as_bytes()));
                connection
            })
            .collect();
        let status = home.run(&["status"]).assert_code(0).stdout;
        assert!(status.contains(words), "{status}");
        let limits = &gateway.status()["limits"];
        assert_eq!((&limits["max_connections"], &limits["max_turns"]), (&15.into(), &2.into()));
        assert_eq!(limits["descriptors"], 64);
        for (number, client) in clients.iter_mut().enumerate() {
            let response = client.response();
            assert_eq!(response.status(), 200, "{number}: {response:?}: {}", gateway.stderr());
        }
        drop(clients);
        gateway.signal(libc::SIGINT);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
        gateway = launch().start();
    }
    drop(gateway);
    let mut config = std::process::Command::new(few[0]);
    let shown = config.args(&few[1..]).arg(util::binary()).arg("config");
    for (name, value) in home.command(&[]).get_envs() {
        shown.env(name, value.unwrap());
    }
    let shown = String::from_utf8(shown.output().unwrap().stdout).unwrap();
    assert!(shown.contains("max_connections = 10000"), "{shown}");
    assert!(shown.contains("\n# Here the limit of 64 open descriptors allows "), "{shown}");
}

#[test]
fn enough_descriptors_are_not_spoken_of() {
    let home = Home::new();
    let gateway = home.start();
    let limits = &gateway.status()["limits"];
    assert!(limits["max_turns"].is_u64() && limits["shortage"].is_null(), "{limits}");
    assert!(!home.run(&["status"]).stdout.contains("descriptors"));
    assert!(!gateway.stderr().contains("descriptors"), "{}", gateway.stderr());
}

// ------------------------------------------------------- no home, no state directory ----

#[test]
fn a_home_is_not_needed_where_all_places_are_named() {
    if sys::uid() != 0 {
        return skip("it takes root to be a user without a password entry");
    }
    for home_of in ["-u HOME", "HOME=/"] {
        let home = Home::new();
        home.configure("");
        hand_over(&home);
        let gateway = as_user(&home, &format!("env {home_of}")).start();
        assert_eq!(gateway.ask("hi").reply(), "hi");
    }
    // What is missing is said where it is needed.
    let home = Home::new();
    let script = format!("env -u HOME -u XDG_STATE_HOME setpriv --reuid={UID} --clear-groups");
    let words: Vec<&str> = script.split(' ').collect();
    let end = home.launch().through(&words).spawn().finish(DEADLINE).assert_code(1);
    assert!(end.stderr.contains("neither XDG_STATE_HOME nor HOME is set"), "{}", end.stderr);
}

#[test]
fn an_ephemeral_gateway_needs_no_state_directory() {
    Private::new().run(|| {
        let home = Home::new();
        home.configure("");
        hand_over(&home);
        let state = home.path().join("s");
        let _mount = Tmpfs::new(&state, c"ro");
        let gateway = as_user(&home, "").arg("--ephemeral").start();
        let line = gateway.wait_for_log("the state directory cannot be written", DEADLINE);
        assert!(line.contains(text(&home.runtime_dir())), "{line}");
        let key = fs::read_to_string(home.runtime_dir().join("api.key")).unwrap();
        let bearer = format!("Bearer {}", key.trim());
        let fields = [("Authorization", bearer.as_str())];
        gateway.connect().get("/v1/models", &fields).assert_status(200);
        drop(gateway);
        // A key that the configuration names is used, and the other is not made.
        fs::remove_file(home.runtime_dir().join("api.key")).unwrap();
        let named = write(&home.path().join("key"), &key, 0o440);
        chown(&named, Some(0), Some(UID)).unwrap();
        let launch = as_user(&home, "").arg("--ephemeral").set("http.key_file", text(&named));
        drop(launch.start());
        assert!(!home.runtime_dir().join("api.key").exists());
        // Nor a runtime directory: commands find the place that stands for both.
        let places = format!("env -u XDG_RUNTIME_DIR TMPDIR={}", home.path().display());
        let gateway = as_user(&home, &places).arg("--ephemeral").spawn();
        gateway.wait_for_notification("READY=1", DEADLINE);
        let place = home.path().join(format!("hermes-gateway-{UID}/hermes-gateway/default"));
        assert!(place.join("api.key").exists() && place.join("control.sock").exists());
        let id = format!("--reuid={UID}");
        let ask = |verb: &str| {
            let mut command = std::process::Command::new("setpriv");
            command.args([id.as_str(), "--regid=0", "--clear-groups"]);
            command.arg(util::binary()).arg(verb);
            for (name, value) in home.command(&[]).get_envs() {
                command.env(name, value.unwrap());
            }
            command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", home.path());
            util::Process::spawn(&mut command).finish(DEADLINE)
        };
        ask("status").assert_code(0);
        let stopped = ask("stop").assert_code(0);
        assert!(stopped.stdout.contains("has stopped"), "{}", stopped.stdout);
        let history = ask("history").assert_code(0);
        assert!(history.stdout.contains("a stop that was announced"), "{}", history.stdout);
        // Without --ephemeral it is the mistake that it was.
        let end = as_user(&home, "").spawn().finish(DEADLINE);
        assert!(end.code() != 0 && end.stderr.contains(text(&state)), "{}", end.stderr);
    });
}

#[test]
fn an_agent_in_the_home_directory_is_named_by_its_tilde() {
    let home = Home::new();
    let agent = "#!/bin/sh\ncat \"$1\"; cat > /dev/null\n";
    write(&home.path().join("h/bin/agent"), agent, 0o755);
    write(&home.path().join("h/words"), "from home", 0o600);
    home.configure("[agent]\ncommand = [\"~/bin/agent\", \"~/words\"]\n");
    assert_eq!(home.start().ask("x").reply(), "from home");
}

/// As Kubernetes runs it: a user without an entry, HOME=/, a root that cannot be written, secrets of root's
/// for the group behind `..data`, and 64 descriptors.
#[test]
fn a_container_without_anything_starts_serves_and_restarts() {
    Private::new().run(|| {
        let home = Home::new();
        hand_over(&home);
        let secrets = home.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        let _mount = Tmpfs::new(&secrets, c"mode=1777");
        let _state = Tmpfs::new(&home.path().join("s"), c"mode=755,uid=12345,gid=12345");
        let file = projected(&secrets, "key", &key(), 0o440);
        let config = projected(&secrets, "gw.toml", "[limits]\nmax_queue = 77\n", 0o440);
        let inner = format!(
            "mount -o remount,bind,ro / && ! touch / 2> /dev/null && exec setpriv --reuid={UID} \
             --regid={UID} --clear-groups env -u XDG_RUNTIME_DIR HOME=/ prlimit --nofile=64:64 \"$@\""
        );
        let script = format!("chown {UID} $NOTIFY_SOCKET; exec unshare --mount sh -c '{inner}' sh \"$@\"");
        let bearer = format!("Bearer {}", key().trim());
        let fields = [("Authorization", bearer.as_str())];
        for _ in 0..2 {
            let launch = home.launch().through(&["sh", "-c", &script, "sh"]);
            let launch = launch.set("http.key_file", text(&file)).arg("--config");
            let gateway = launch.arg(text(&config)).spawn();
            gateway.wait_for_notification("READY=1", DEADLINE);
            let line = gateway.wait_for_log(" serves on ", DEADLINE);
            let address = line.split_whitespace().last().unwrap();
            let connect = |_| util::http::Connection::tcp(address);
            let mut clients: Vec<_> = (0..40).map(connect).collect();
            for client in &mut clients {
                client.send(&util::http::request("GET", "/v1/models", &fields, b""));
            }
            for client in &mut clients {
                client.response().assert_status(200);
            }
            gateway.signal(libc::SIGINT);
            assert_eq!(gateway.wait_for_exit(DEADLINE), 0, "{}", gateway.stderr());
        }
    });
}
