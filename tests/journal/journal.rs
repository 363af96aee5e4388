//! The journal as an operator sees it: text that can be read, looked at without a trace, refused
//! where it is damaged, and mended on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;

use util::journal::{crc32c, line};
use util::{DEADLINE, Gateway, Home, Outcome, Target, eventually, script};

fn journal(home: &Home) -> PathBuf {
    home.state_dir().join("journal")
}

/// The lines of the journal: numbers and JSON. Every checksum must be right.
#[track_caller]
fn lines(text: &str) -> Vec<(u64, Value)> {
    let line = |line: &str| {
        let (crc, rest) = line.split_once(' ')?;
        let (number, json) = rest.split_once(' ')?;
        let right = crc == format!("{:08x}", crc32c(rest.as_bytes()));
        right.then_some((number.parse().ok()?, serde_json::from_str(json).ok()?))
    };
    let wrong = |text: &str| panic!("no line of a journal: {text:?}");
    assert!(text.ends_with('\n'), "the last line is cut short");
    text.lines().map(|text| line(text).unwrap_or_else(|| wrong(text))).collect()
}

fn is_mark(json: &Value) -> bool {
    json["t"] == "mark"
}

/// Waits until the journal's last record is a mark; its text.
#[track_caller]
fn until_marked(home: &Home) -> String {
    eventually("the journal ends in a mark", || {
        let text = home.journal_text();
        text.lines()
            .last()
            .is_some_and(|line| line.contains(r#" {"t":"mark","d":"#))
            .then_some(text)
    })
}

/// Every file below a directory, with all that a writer would change.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64, u64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            found.extend(everything(&path));
        }
        found.insert(path, (bytes, meta.mtime(), meta.mtime_nsec(), meta.ino()));
    }
    found
}

/// A home in which some messages were sent and the gateway was killed, and their ids.
#[track_caller]
fn used_home(count: usize) -> (Home, Vec<String>) {
    let gateway = Gateway::start();
    let api = gateway.api();
    let send = |number: usize| {
        let id = api.accepted(&format!("s{}", number % 3), &format!("message {number}"));
        api.reply(&id);
        id
    };
    let ids = (0..count).map(send).collect();
    (gateway.end(libc::SIGKILL), ids)
}

/// Where the line of a journal begins, counted in bytes.
fn offset_of_line(bytes: &[u8], number: usize) -> usize {
    bytes.split_inclusive(|byte| *byte == b'\n').take(number).map(<[u8]>::len).sum()
}

/// A start that must be refused, and what it said.
#[track_caller]
fn refused_start(home: &Home) -> Outcome {
    let process = home.launch().spawn();
    assert!(process.wait_for_end_or("READY=1"), "it started");
    let outcome = process.finish(DEADLINE);
    assert_ne!(outcome.code(), 0, "{outcome:?}");
    outcome
}

#[test]
fn it_is_text_a_record_a_line() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let (home, ids) = used_home(4);
    let text = home.journal_text();
    let lines = lines(&text);
    let header = serde_json::json!(
        {"format": "hermes-gateway journal", "version": 2, "base": 1, "kept": 0}
    );
    assert_eq!(lines[0], (0, header));
    assert_eq!((lines[1].0, &lines[1].1["t"]), (1, &"clock".into()));
    let records = lines[2..].iter().filter(|(_, json)| !is_mark(json));
    let words: Vec<(&str, &str)> = records
        .map(|(_, json)| (json["t"].as_str().unwrap(), json["id"].as_str().unwrap()))
        .collect();
    let steps = ["accepted", "started", "done"];
    let wanted: Vec<(&str, &str)> =
        ids.iter().flat_map(|id| steps.map(|step| (step, id.as_str()))).collect();
    assert_eq!(words, wanted);
    // The numbers have no gaps, and each record says which one before it was durable.
    for (number, (found, json)) in (1..).zip(&lines[1..]) {
        assert_eq!(*found, number);
        assert!(json["d"].as_u64().is_some_and(|durable| durable < number), "{json}");
    }
    let accepted = lines.iter().position(|(_, json)| json["t"] == "accepted").unwrap();
    let (text, (_, accepted)) = (text.lines().nth(accepted).unwrap(), &lines[accepted]);
    assert_eq!((&accepted["principal"], &accepted["session"]), (&"owner".into(), &"s0".into()));
    assert_eq!(accepted["text"], "message 0");
    assert!(text.contains("{\"t\":\"accepted\",\"id\":\""), "{text}");
    assert_eq!(fs::metadata(journal(&home)).unwrap().mode() & 0o077, 0, "others may read it");
}

#[test]
fn whoever_looks_leaves_no_trace() {
    let target = Target::answering(|_, _| 400.into());
    let home = Home::new();
    home.configure(&target.config("out", ""));
    let gateway = home.start();
    let body = serde_json::json!({"text": "x", "deliver": "out"});
    let answer = gateway.api().send_json("s", &body).assert_status(202).json();
    let id = answer["id"].as_str().unwrap().to_owned();
    gateway.api().until_delivery(&id, "dead");
    until_marked(&home);
    let look = |what: &str| {
        let before = everything(&home.state_dir());
        let summary = home.run(&["journal"]).assert_code(0).stdout;
        assert!(summary.contains(&id), "{what}: {summary}");
        home.run(&["journal", "check"]).assert_code(0);
        let dump = home.run(&["journal", "dump"]).assert_code(0).stdout;
        let text = home.journal_text();
        let records = lines(&text)[1..].iter().filter(|(_, json)| !is_mark(json)).count();
        assert!(dump.lines().count() >= records && dump.contains(&id), "{what}: {dump}");
        let after = everything(&home.state_dir());
        assert!(before == after, "{what}: {:?}", after.keys());
    };
    look("beside a gateway that lives");
    gateway.end(libc::SIGKILL);
    look("behind a dead one");
    let mut bytes = home.journal_text().into_bytes();
    bytes.extend(b"0123abcd 99 {\"t\":\"acc");
    fs::write(journal(&home), bytes).unwrap();
    look_at_torn(&home);
}

/// An end that is incomplete is said, and left as it is.
#[track_caller]
fn look_at_torn(home: &Home) {
    let before = everything(&home.state_dir());
    let said = home.run(&["journal", "check"]).assert_code(0).stdout;
    assert!(said.contains("incomplete"), "{said}");
    home.run(&["journal", "dump"]).assert_code(0);
    assert!(before == everything(&home.state_dir()));
}

#[test]
fn it_can_be_checked_while_it_is_written() {
    let gateway = Gateway::start();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let ids: Vec<String> =
                (0..300).map(|n| gateway.api().accepted(&format!("s{}", n % 40), "x")).collect();
            ids.iter().for_each(|id| drop(gateway.api().reply(id)));
        });
        while !writer.is_finished() {
            gateway.home().run(&["journal", "check"]).assert_code(0);
        }
    });
}

#[test]
fn where_there_is_no_journal_nothing_is_made() {
    let home = Home::new();
    home.configure("");
    for args in [&["journal"][..], &["journal", "check"], &["journal", "dump"]] {
        let outcome = home.run(args);
        assert!(!outcome.stdout.is_empty() || !outcome.stderr.is_empty(), "{args:?}");
    }
    assert!(!journal(&home).exists());
}

#[test]
fn an_incomplete_end_is_cut_off_at_the_start() {
    let (home, ids) = used_home(3);
    let mut whole = home.journal_text().into_bytes();
    let lines_then = lines(&String::from_utf8_lossy(&whole));
    // All the ways in which the last record, the end of the last message, can be cut short.
    let last_record = lines_then.iter().rposition(|(_, json)| !is_mark(json)).unwrap();
    whole.truncate(offset_of_line(&whole, last_record + 1));
    let last = offset_of_line(&whole, last_record);
    for length in [last + 1, last + 9, (last + whole.len()) / 2, whole.len() - 1] {
        fs::write(journal(&home), &whole[..length]).unwrap();
        let gateway = home.start();
        for id in &ids {
            assert_eq!(gateway.api().finished(id)["status"], "done", "{length}");
        }
        assert_eq!(gateway.api().message(&ids[2])["attempts"], 2, "{length}");
        gateway.end(libc::SIGKILL);
        lines(&home.journal_text());
    }
}

#[test]
fn what_only_a_newer_version_understands_is_refused_and_is_no_damage() {
    let (home, _) = used_home(1);
    let text = home.journal_text();
    let (_, rest) = text.split_once('\n').unwrap();
    let header = r#"{"format":"hermes-gateway journal","version":3,"base":1,"kept":0}"#;
    let last = lines(&text).last().unwrap().0;
    let essential = format!(r#"{{"t":"novel","essential":true,"d":{last}}}"#);
    for (text, what) in [
        (line(0, header) + rest, "version 3"),
        (text.clone() + &line(last + 1, &essential), "novel"),
    ] {
        fs::write(journal(&home), &text).unwrap();
        let refused = refused_start(&home).assert_code(78).stderr;
        let file = journal(&home).display().to_string();
        assert!(refused.contains(&file) && refused.contains(what), "{refused}");
        for said in [
            &refused,
            &home.run(&["journal", "check"]).assert_code(78).stderr,
            &home.run(&["journal", "repair"]).assert_code(78).stderr,
        ] {
            assert!(
                said.contains("the gateway that wrote it") && !said.contains("repair"),
                "{said}"
            );
        }
        assert_eq!(home.journal_text(), text);
    }
}

#[test]
fn a_journal_of_version_1_is_taken_over_whole() {
    let (home, ids) = used_home(5);
    let records = lines(&home.journal_text());
    let records = records[1..].iter().map(|(_, json)| json).filter(|json| !is_mark(json));
    let header = r#"{"format":"hermes-gateway journal","version":1,"base":1,"kept":0}"#;
    let mut text = line(0, header);
    for (number, json) in (1..).zip(records) {
        let mut json = json.clone();
        json.as_object_mut().unwrap().remove("d");
        // `t` and `id` come first, as a gateway writes them.
        let (kind, id) = (json["t"].take(), json["id"].take());
        let rest = json.to_string().replace(r#""id":null"#, "").replace(r#""t":null"#, "");
        let rest = rest.trim_matches(['{', '}', ',']).replace(",,", ",");
        text += &line(number, &format!(r#"{{"t":{kind},"id":{id},{rest}}}"#));
    }
    fs::write(journal(&home), &text).unwrap();
    let check = home.run(&["journal", "check"]).assert_code(0).stdout;
    assert!(check.contains("version 1"), "{check}");
    let gateway = home.start();
    for id in &ids {
        assert_eq!(gateway.api().message(id)["status"], "done");
    }
    assert!(home.journal_text().contains("\"version\":2,"));
    let id = gateway.api().accepted("s", "new");
    gateway.api().reply(&id);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    for id in ids.iter().chain([&id]) {
        assert_eq!(gateway.api().message(id)["status"], "done");
    }
}

#[test]
fn what_was_never_acknowledged_is_cut_off_by_the_start() {
    let (home, ids) = used_home(3);
    let whole = home.journal_text();
    let last = lines(&whole).last().unwrap().0;
    // A power cut has let a later record through and an earlier one not.
    let later = |durable| {
        let json = format!(r#"{{"t":"started","id":"{}","n":2,"at":1,"d":{durable}}}"#, ids[0]);
        format!("{whole}{}\nlost\n{}", "\0".repeat(600), line(last + 3, &json))
    };
    fs::write(journal(&home), later(last)).unwrap();
    let check = home.run(&["journal", "check"]).assert_code(0).stdout;
    assert!(check.contains(&format!("from {} on", whole.len())), "{check}");
    let gateway = home.start();
    for id in &ids {
        assert_eq!(gateway.api().message(id)["attempts"], 1);
    }
    let kept = home.state_dir().join(format!("journal.torn-{}", whole.len()));
    assert_eq!(fs::read_to_string(kept).unwrap(), later(last)[whole.len()..]);
    gateway.end(libc::SIGKILL);
    // The same bytes, but the record behind says that the lost one was durable.
    fs::write(journal(&home), later(last + 1)).unwrap();
    let said = refused_start(&home);
    let place = format!("byte {}", whole.len());
    assert!(said.code() == 78 && said.stderr.contains(&place), "{said:?}");
    let check = home.run(&["journal", "check"]);
    assert!(check.code() == 78 && check.stderr.contains(&place), "{check:?}");
}

#[test]
fn the_last_batch_is_marked_in_quiet_and_at_a_stop_and_its_damage_is_found() {
    for stop in [false, true] {
        let home = Home::new();
        let gateway = home.start();
        let id = gateway.api().accepted("s", "x");
        gateway.api().reply(&id);
        let text = if stop {
            gateway.signal(libc::SIGINT);
            gateway.into_process().finish(DEADLINE).assert_code(0);
            fs::read_to_string(journal(&home)).unwrap()
        } else {
            let text = until_marked(&home);
            // Nothing more is written: not while it rests, and not by those who only look.
            gateway.api().message(&id);
            gateway.end(libc::SIGKILL);
            assert_eq!(home.journal_text(), text);
            text
        };
        let (number, mark) = lines(&text).pop().unwrap();
        assert_eq!(mark, serde_json::json!({"t": "mark", "d": number - 1}));
        let offset = text.find(r#"{"t":"done""#).unwrap();
        let mut bytes = text.into_bytes();
        bytes[offset + 50] ^= 1;
        fs::write(journal(&home), &bytes).unwrap();
        assert_eq!(refused_start(&home).code(), 78);
    }
}

#[test]
fn a_damaged_record_costs_its_own_message_and_is_named() {
    let gateway = Gateway::start();
    let (api, home) = (gateway.api(), gateway.home());
    let ids: Vec<String> = (0..6).map(|n| api.accepted("s", &format!("message {n}"))).collect();
    ids.iter().for_each(|id| drop(api.reply(id)));
    let text = until_marked(home);
    let done = format!(r#"{{"t":"done","id":"{}""#, ids[2]);
    let at = text.find(&done).unwrap();
    let offset = text[..at].rfind('\n').unwrap() + 1;
    let file = fs::File::options().write(true).open(journal(home)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"?", at as u64 + 60).unwrap();
    let place = format!("byte {offset}");
    for (n, id) in ids.iter().enumerate() {
        let message = api.message(id);
        if n == 2 {
            assert!(message["error"].to_string().contains(&place), "{message}");
        } else {
            assert_eq!(message["reply"], format!("message {n}"), "{message}");
        }
    }
    let ready = api.call("GET", "/ready", &[], "").assert_status(503).text();
    assert!(ready.contains(&place), "{ready}");
    let id = api.accepted("s", "and on");
    assert_eq!(api.reply(&id), "and on");
    // It is still known, so a compaction leaves the record where it is.
    api.call("POST", "/v1/journal/compact", &[], "").assert_status(200);
    assert!(api.message(&ids[2])["error"].to_string().contains("damaged at byte"));
    assert_eq!(api.message(&ids[3])["reply"], "message 3");
}

#[test]
fn what_is_no_journal_is_refused_and_left_alone() {
    for text in ["hello\n", "hello", "{\"format\":\"hermes-gateway journal\"}\n", "\0\0\0\0\n"] {
        let home = Home::new();
        home.start().end(libc::SIGKILL);
        fs::write(journal(&home), text).unwrap();
        let said = refused_start(&home).stderr;
        assert!(said.contains(&journal(&home).display().to_string()), "{text:?}: {said}");
        assert_eq!(home.journal_text(), text);
    }
}

#[test]
fn damage_in_the_middle_stops_the_start_until_it_is_repaired() {
    let (home, ids) = used_home(6);
    let whole = home.journal_text().into_bytes();
    // The acceptance of the fourth message.
    let accepted = |json: &Value| json["t"] == "accepted" && json["id"] == ids[3].as_str();
    let text = String::from_utf8_lossy(&whole);
    let damaged_line = lines(&text).iter().position(|(_, json)| accepted(json)).unwrap();
    let (offset, next) =
        (offset_of_line(&whole, damaged_line), offset_of_line(&whole, damaged_line + 1));
    let mut damaged = whole.clone();
    damaged[usize::midpoint(offset, next)] ^= 0x04;
    fs::write(journal(&home), &damaged).unwrap();

    let said = refused_start(&home).stderr;
    let file = journal(&home).display().to_string();
    assert!(said.contains(&offset.to_string()) && said.contains(&file), "{offset}: {said}");
    assert!(said.contains("journal repair"), "{said}");
    let check = home.run(&["journal", "check"]);
    assert!(check.code() != 0 && check.stderr.contains(&offset.to_string()), "{check:?}");
    assert_eq!(home.journal_text().into_bytes(), damaged, "a refusal changes nothing");

    let said = home.run(&["journal", "repair"]).assert_code(0);
    let kept = everything(&home.state_dir());
    let cut = &damaged[offset..next];
    let holds = |bytes: &[u8]| bytes.windows(cut.len()).any(|window| window == cut);
    let beside = kept.iter().filter(|(path, (bytes, ..))| *path != &journal(&home) && holds(bytes));
    assert_eq!(beside.count(), 1, "{:?}\n{said:?}", kept.keys());
    home.run(&["journal", "check"]).assert_code(0);
    let gateway = home.start();
    for id in &ids[..3] {
        assert_eq!(gateway.api().message(id)["status"], "done");
    }
    let id = gateway.api().accepted("s", "new");
    assert_eq!(gateway.api().reply(&id), "new");
    assert!(!ids.contains(&id));
}

#[test]
fn a_repair_needs_a_gateway_that_is_away_and_a_reason() {
    let (home, _) = used_home(2);
    let before = home.journal_text().into_bytes();
    home.run(&["journal", "repair"]);
    assert_eq!(home.journal_text().into_bytes(), before, "there was nothing to repair");
    let gateway = home.start();
    assert_ne!(home.run(&["journal", "repair"]).code(), 0);
    assert!(gateway.is_running());
}

#[test]
fn compaction_keeps_what_counts() {
    let home = Home::new();
    home.configure(&format!("{}[limits]\nkeep_results = 3\n", script("cat; echo")));
    let gateway = home.start();
    let send = |gateway: &Gateway, text: &str| {
        let id = gateway.api().accepted("s", text);
        assert_eq!(gateway.api().reply(&id), text);
        id
    };
    let ids: Vec<String> =
        (0..60).map(|n| send(&gateway, &format!("{n} {}", "x".repeat(500)))).collect();
    let keyed = gateway.api().send_keyed("s", "k", "keyed").assert_status(202).json();
    gateway.api().reply(keyed["id"].as_str().unwrap());
    let check = |gateway: &Gateway, what: &str| {
        for id in &ids[57..] {
            assert_eq!(gateway.api().message(id)["status"], "done", "{what}");
        }
        let again = gateway.api().send_keyed("s", "k", "keyed").assert_status(200).json();
        assert_eq!(again["id"], keyed["id"], "{what}");
        home.run(&["journal", "check"]).assert_code(0);
    };
    let size = || home.journal_text().len();
    let before = size();
    home.run(&["journal", "compact"]).assert_code(0);
    let after = size();
    assert!(after < before / 2, "{before} → {after}");
    check(&gateway, "alive");
    let sizes =
        gateway.api().call("POST", "/v1/journal/compact", &[], "").assert_status(200).json();
    assert!(sizes["before"].is_u64() && sizes["after"].is_u64(), "{sizes}");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    check(&gateway, "after a kill");
    let last: Vec<String> = (0..10).map(|n| send(&gateway, &format!("later {n}"))).collect();
    gateway.end(libc::SIGKILL);
    let before = size();
    home.run(&["journal", "compact"]).assert_code(0);
    // Without its gateway nothing is forgotten, only written anew.
    assert!(size() <= before);
    let gateway = home.start();
    assert_eq!(gateway.api().message(&last[9])["reply"], "later 9");
    // Numbers go on, whatever was let go.
    let text = home.journal_text();
    let numbers: Vec<u64> = lines(&text)[1..].iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.last() > Some(&180), "{numbers:?}");
}
