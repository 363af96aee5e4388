//! What is short or broken for a moment costs a moment: errors of the disk at a start, threads that
//! cannot be had, a log that nobody reads, a journal without room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use util::fault::{self, Fault, When};
use util::{DEADLINE, Home};

// ------------------------------------------------------------- errors at the start ----

/// A key file of our own with this key in it.
fn key_file(path: &Path, key: char) {
    fs::write(path, format!("{}\n", key.to_string().repeat(64))).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A home whose configuration names files of keys and secrets: their paths, the configuration's and
/// that of the gateway's own key.
fn furnished() -> (Home, [String; 5]) {
    let home = Home::new();
    let place = |name: &str| home.path().join(name).display().to_string();
    let [client, upstream, secret] = ["client.key", "upstream.key", "secret"].map(place);
    home.configure(&format!(
        "[agent]\nurl = \"http://127.0.0.1:9/v1\"\nkey_file = \"{upstream}\"\n\
         [keys.alice]\nfile = \"{client}\"\n\
         [deliver.hook]\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"{secret}\"\n"
    ));
    key_file(Path::new(&client), 'a');
    key_file(Path::new(&upstream), 'b');
    let bytes = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    fs::write(&secret, format!("whsec_{bytes}\n")).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    // Makes the gateway's own key.
    drop(home.start());
    let own = home.state_dir().join("api.key").display().to_string();
    let config = home.config_file().display().to_string();
    (home, [config, own, client, upstream, secret])
}

/// What a disk, a network behind it or the system may say for a while.
const PASSING: [i32; 13] = [
    libc::EIO,
    libc::ENOMEM,
    libc::EMFILE,
    libc::ENFILE,
    libc::ESTALE,
    libc::EAGAIN,
    libc::ETIMEDOUT,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EROFS,
    libc::EBUSY,
    libc::ENOTCONN,
    libc::EREMOTEIO,
];

#[test]
fn an_error_that_may_pass_never_ends_a_start_with_78() {
    let (home, files) = furnished();
    for file in &files {
        for error in PASSING {
            for call in ["openat", "read"] {
                let fault = Fault { call, error, when: When::From(1), on: file };
                let end = fault.into(home.launch(), &home).spawn().finish(DEADLINE);
                assert!(!fault::hits(&home).is_empty(), "{fault:?} has hit nothing");
                assert!([1, 69].contains(&end.code()), "{fault:?}: {}: {}", end.code(), end.stderr);
                let place = Path::new(file).parent().unwrap().display().to_string();
                assert!(end.stderr.contains(&place), "{fault:?}: {}", end.stderr);
                assert!(!end.stderr.contains("configuration is wrong"), "{}", end.stderr);
                if file.contains("api.key") {
                    continue;
                }
                // The check says the same.
                let mut check = home.command(&["config", "check"]);
                check.envs(fault.variables(&home));
                let check = check.output().unwrap();
                assert_eq!(check.status.code(), Some(69), "{fault:?}: {check:?}");
            }
        }
        let fault = Fault { call: "statx", error: libc::ESTALE, when: When::From(1), on: file };
        let end = fault.into(home.launch(), &home).spawn().finish(DEADLINE);
        assert!([1, 69].contains(&end.code()), "{fault:?}: {}: {}", end.code(), end.stderr);
    }
    // None of it has left anything behind.
    home.start();
}

#[test]
fn an_error_that_may_pass_in_the_state_directory_never_ends_a_start_with_78() {
    let (home, _) = furnished();
    for file in ["journal", "history.jsonl", "run.json", "sessions", "lock", ""] {
        for error in [libc::EIO, libc::ENFILE, libc::ESTALE, libc::EROFS] {
            for call in ["openat", "read", "write", "fsync", "rename"] {
                let fault = Fault { call, error, when: When::From(1), on: file };
                if let Err(end) = fault.into(home.launch(), &home).try_start() {
                    let code = end.code();
                    assert!([1, 69].contains(&code), "{fault:?}: {code}: {}", end.stderr);
                }
            }
        }
    }
    home.start();
}

#[test]
fn what_the_operator_must_mend_still_ends_a_start_with_78() {
    let (home, [_, own, client, upstream, _]) = furnished();
    let ends_with_78 = |words: &str| {
        let end = home.launch().spawn().finish(DEADLINE).assert_code(78);
        assert!(end.stderr.contains(words), "{words}: {}", end.stderr);
    };
    for file in [&own, &client] {
        let kept = fs::read(file).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        ends_with_78("chmod 600");
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        fs::write(file, "short\n").unwrap();
        ends_with_78(file);
        fs::write(file, kept).unwrap();
    }
    for error in [libc::EACCES, libc::EPERM, libc::ELOOP] {
        let fault = Fault { call: "openat", error, when: When::From(1), on: &client };
        fault.into(home.launch(), &home).spawn().finish(DEADLINE).assert_code(78);
    }
    fs::remove_file(&client).unwrap();
    // One that cannot be read now beside one that is not there: somebody has to act.
    let fault = Fault { call: "read", error: libc::EIO, when: When::From(1), on: &upstream };
    fault.into(home.launch(), &home).spawn().finish(DEADLINE).assert_code(78);
    ends_with_78("client.key");
}
