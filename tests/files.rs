//! Files as real hosts have them: configuration and secrets behind symlinks, secrets of containers,
//! no home directory, a root that cannot be written, few descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

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
        }
        // Others may put files there.
        fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
        ends(&plain, "is open to other users");
        ends(&dated, "is open to other users");
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
