//! A journal that is removed, replaced or moved under a running gateway: it is noticed within seconds,
//! nothing more is taken, what was acknowledged has a file again, and no start forgets it silently.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use util::{Caller, DEADLINE, Gateway, Home, eventually};

const NOTICED_WITHIN: Duration = Duration::from_secs(5);

#[track_caller]
fn post(gateway: &Gateway, key: &str) -> (u16, String, String) {
    let mut caller = Caller::tcp(gateway.address(), &gateway.authorization()).unwrap();
    let answer = caller.post_message("s", key, key).unwrap();
    let id = answer.json()["id"].as_str().unwrap_or_default().to_owned();
    (answer.status(), id, answer.text())
}

/// A gateway that has acknowledged a message before the journal is lost, and as a rule more until that
/// is noticed; their ids.
#[track_caller]
fn lose(home: &Home, what: &str, lose: impl Fn(&Path)) -> (Gateway, Vec<String>) {
    let gateway = home.start();
    // Once the path is gone nobody reads the key from it.
    let authorization = gateway.authorization();
    let mut caller = Caller::tcp(gateway.address(), &authorization).unwrap();
    let id = |key: &str, caller: &mut Caller| {
        let answer = caller.post_message("s", key, key).unwrap();
        let refusal = answer.text();
        (answer.status() == 202)
            .then(|| answer.json()["id"].as_str().unwrap().to_owned())
            .ok_or(refusal)
    };
    let mut ids = vec![id("before", &mut caller).unwrap()];
    lose(&home.state_dir().join("journal"));
    let began = Instant::now();
    let refusal = eventually("it is noticed", || match id(&ids.len().to_string(), &mut caller) {
        Ok(id) => {
            ids.push(id);
            None
        }
        // While a directory is being removed a first copy may fail.
        Err(refusal) => refusal.contains("is saved as").then_some(refusal),
    });
    assert!(began.elapsed() < NOTICED_WITHIN, "{:?}", began.elapsed());
    let ready = gateway.control().get("/ready", &[]).assert_status(503).text();
    let status = gateway.status()["degraded"].as_str().unwrap().to_owned();
    let journal = home.state_dir().join("journal").display().to_string();
    for words in [&refusal, &ready, &status] {
        assert!(words.contains(&journal), "{words}");
        assert!(words.contains(what), "{words}");
        assert!(words.contains("is saved as"), "{words}");
        assert!(words.contains("give the copy its old name, and start it again"), "{words}");
        let whole_words = words.split([' ', ',', ';', '"']).filter(|word| **word == journal);
        assert_eq!(whole_words.count(), 1, "once is enough: {words}");
    }
    (gateway, ids)
}

#[track_caller]
fn saved_in(dir: &Path) -> PathBuf {
    let copy = dir.join("journal.saved");
    let meta = fs::symlink_metadata(&copy).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o600);
    copy
}

#[track_caller]
fn is_saved(home: &Home) {
    let copy = home.state_dir().join("journal.saved");
    eventually("it is saved", || copy.exists().then_some(()));
}

#[track_caller]
fn stop(gateway: Gateway) {
    gateway.signal(libc::SIGINT);
    let end = gateway.into_process().finish(DEADLINE).assert_code(0);
    let exit = end.stderr.lines().find(|line| line.contains("Exiting with code 0")).unwrap();
    assert!(exit.contains("under the running gateway"), "{exit}");
}

/// Nothing starts without the operator's word, and with the copy in its place all is known.
#[track_caller]
fn comes_back(home: &Home, ids: &[String]) {
    let history = home.run(&["history", "--json"]).stdout;
    assert!(history.contains("under the running gateway"), "{history}");
    let refused = home.launch().try_start().err().expect("a start without what was acknowledged");
    let refused = refused.assert_code(78);
    let copy = saved_in(&home.state_dir());
    let journal = home.state_dir().join("journal");
    let remedy = format!("mv {} {}", copy.display(), journal.display());
    assert!(refused.stderr.contains(&remedy), "{}", refused.stderr);
    home.run(&["journal", "compact"]).assert_code(78);
    // What refused to start is known as that, and not as a run that was killed.
    let status = home.run(&["status"]).assert_code(3).stdout;
    assert!(status.contains("failed") && status.contains(&remedy), "{status}");
    // However often it is tried: it pushes out nothing else.
    home.launch().try_start().err().expect("another start without it").assert_code(78);
    let history = home.run(&["history", "--json"]).stdout;
    assert_eq!(history.matches(&remedy).count(), 1, "{history}");
    fs::rename(copy, journal).unwrap();
    knows(home, ids);
    let history = home.run(&["history", "--json"]).stdout;
    assert!(!history.contains("unclean exit"), "{history}");
}

#[track_caller]
fn knows(home: &Home, ids: &[String]) {
    let gateway = home.start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    for id in ids {
        let answer = caller.ask("GET", &format!("/v1/messages/{id}?wait=5"), &[], "").unwrap();
        assert_eq!(answer.status(), 200, "{id}: {}", answer.text());
        assert_eq!(answer.json()["status"], "done", "{id}: {}", answer.text());
    }
    assert_eq!(post(&gateway, "after").0, 202);
}

#[test]
fn a_removed_journal_stops_intake_and_is_saved_beside_its_path() {
    let home = Home::new();
    let (gateway, ids) = lose(&home, "was removed", |journal| fs::remove_file(journal).unwrap());
    stop(gateway);
    comes_back(&home, &ids);
}

#[test]
fn a_journal_that_another_file_replaces_is_saved_and_neither_is_taken_silently() {
    let home = Home::new();
    let (gateway, ids) = lose(&home, "replaced by another file", |journal| {
        let other = journal.with_file_name("other");
        fs::copy(journal, &other).unwrap();
        fs::rename(other, journal).unwrap();
    });
    stop(gateway);
    comes_back(&home, &ids);
}

#[test]
fn a_journal_that_becomes_a_symlink_to_itself_is_noticed_too() {
    let home = Home::new();
    let (gateway, ids) = lose(&home, "replaced by a symlink", |journal| {
        let elsewhere = journal.with_file_name("elsewhere");
        fs::rename(journal, &elsewhere).unwrap();
        symlink(elsewhere, journal).unwrap();
    });
    stop(gateway);
    comes_back(&home, &ids);
}

#[test]
fn a_state_directory_that_moves_leaves_a_copy_where_the_next_start_looks() {
    let home = Home::new();
    let (gateway, ids) = lose(&home, "with its directory", |journal| {
        fs::rename(journal.parent().unwrap(), home.path().join("moved")).unwrap();
    });
    stop(gateway);
    comes_back(&home, &ids);
}

#[test]
fn what_was_accepted_survives_the_removal_of_the_whole_state_directory() {
    let home = Home::new();
    // It may be noticed before the directory is gone, and the copy be removed with that.
    let (gateway, ids) = lose(&home, "removed", |journal| {
        // A turn may be writing its transcript.
        eventually("all is removed", || fs::remove_dir_all(journal.parent().unwrap()).ok());
    });
    is_saved(&home);
    stop(gateway);
    comes_back(&home, &ids);
}

#[test]
fn a_copy_that_is_removed_as_well_is_made_again() {
    let home = Home::new();
    let (gateway, ids) = lose(&home, "was removed", |journal| fs::remove_file(journal).unwrap());
    fs::remove_file(saved_in(&home.state_dir())).unwrap();
    is_saved(&home);
    stop(gateway);
    comes_back(&home, &ids);
}

#[test]
fn a_gateway_that_lost_its_journal_ends_by_itself_with_a_status_that_starts_nothing_anew() {
    let home = Home::new();
    let (gateway, ids) = lose(&home, "was removed", |journal| fs::remove_file(journal).unwrap());
    let end = gateway.into_process().finish(3 * DEADLINE).assert_code(78);
    assert!(end.stderr.contains("Exiting with code 78 (the journal"), "{}", end.stderr);
    comes_back(&home, &ids);
}

#[test]
fn a_journal_removed_at_the_last_moment_is_saved_by_the_stop() {
    let home = Home::new();
    let gateway = home.start();
    let (status, id, _) = post(&gateway, "k");
    assert_eq!(status, 202);
    fs::remove_file(home.state_dir().join("journal")).unwrap();
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    comes_back(&home, &[id]);
}

#[test]
fn a_copy_that_cannot_be_made_is_said_plainly_and_made_when_it_can() {
    let home = Home::new();
    let fault = util::fault::Fault {
        call: "openat",
        error: libc::ENOSPC,
        when: util::fault::When::While(&home.path().join("full")),
        on: "journal.saved",
    };
    let gateway = fault.into(home.launch(), &home).start();
    let (status, id, _) = post(&gateway, "k");
    assert_eq!(status, 202);
    fs::write(home.path().join("full"), "").unwrap();
    fs::remove_file(home.state_dir().join("journal")).unwrap();
    let said = |words: &str| {
        let ready = gateway.control().get("/ready", &[]);
        (ready.status() == 503 && ready.text().contains(words)).then_some(())
    };
    eventually("it says that the copy fails", || said("it could not be saved"));
    eventually("and what to copy", || said(&format!("copy /proc/{}/fd/", gateway.pid())));
    fs::remove_file(home.path().join("full")).unwrap();
    eventually("it is saved", || said("is saved as"));
    stop(gateway);
    comes_back(&home, &[id]);
}
