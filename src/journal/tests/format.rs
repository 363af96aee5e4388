//! The versions of the format: what an older gateway wrote is taken over whole.

use super::*;
use crate::journal::framing::{Header, VERSION, line};
use crate::journal::record::Record;

/// A journal of version 1: a header, then these records.
fn old(base: u64, kept: u64, records: &[(u64, String)]) -> Vec<u8> {
    let header = Header { version: 1, base, kept }.line();
    let lines = records.iter().map(|(number, json)| line(*number, json, None));
    [header].into_iter().chain(lines).flatten().collect()
}

fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    numbers.into_iter().map(|number| (number, json(number))).collect()
}

#[test]
fn a_journal_of_version_1_is_rewritten_with_all_its_records() {
    let whole = records([3, 7, 11, 12, 13]);
    for (base, kept, records) in
        [(1, 0, records(1..=300)), (11, 2, whole), (9, 0, Vec::new()), (1, 0, Vec::new())]
    {
        let dir = TempDir::new("journal");
        let path = dir.path().join(NAME);
        let bytes = old(base, kept, &records);
        for torn in [&b""[..], b"0123 99 {\"t", b"00000000 99 {}\n", b"\0\0\0"] {
            fs::write(&path, [&bytes[..], torn].concat()).unwrap();
            // An upgrade that was cut short has left the old one as it was.
            fs::write(dir.path().join("journal.new"), "half of it").unwrap();
            let (journal, seen) = open(&dir);
            assert_eq!((seen, all(&journal)), (records.clone(), records.clone()));
            let last = records.last().map_or(base - 1, |(number, _)| *number);
            assert_eq!(journal.last(), last);
            fill(&journal, 2);
            journal.checkpoint().unwrap();
            drop(journal);
            let text = text(&dir);
            assert!(text.starts_with(&String::from_utf8(first(&path)).unwrap()));
            assert!(text.lines().skip(1).all(|line| line.contains(",\"d\":")), "{text}");
            let (journal, seen) = open(&dir);
            assert_eq!((seen.len(), journal.last()), (records.len() + 2, last + 3));
            assert!(!dir.path().join("journal.new").exists());
        }
    }
}

/// The header of a file, which must be of today's version.
fn first(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    assert_eq!(Header::parse(&bytes[..end]).unwrap().version, VERSION);
    bytes[..end].to_vec()
}

#[test]
fn damage_in_a_journal_of_version_1_is_judged_by_its_own_rules() {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    let good = old(1, 0, &records(1..=4));
    let third = good.len() - line(4, &json(4), None).len() - line(3, &json(3), None).len();
    for (bytes, at) in [
        ([&good[..third + 5], b"?", &good[third + 6..]].concat(), third),
        ([&good[..], b"a\nb\n"].concat(), good.len()),
        ([&good[..], &line(6, &json(6), None), b"a"].concat(), good.len()),
    ] {
        fs::write(&path, &bytes).unwrap();
        let damage = FileJournal::open(dir.path(), CAP, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(damage.place.unwrap().0, at as u64, "{damage}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    assert!(repair(dir.path(), &mut |_, _| Ok(())).unwrap().is_some());
    assert_eq!(open(&dir).1, records(1..=4));
    first(&path);
}

#[test]
fn every_record_says_what_was_durable_when_it_was_written() {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    for n in 1..=6 {
        journal.append(ONE, Purpose::NewWork).unwrap();
        if n % 3 == 0 {
            journal.sync(n - 1).unwrap();
        }
    }
    journal.compact(&mut |number, _| number > 4).unwrap();
    journal.append(ONE, Purpose::NewWork).unwrap();
    let text = text(&dir);
    let said: Vec<&str> =
        text.lines().skip(1).map(|line| line.split_once("\"d\":").unwrap().1).collect();
    assert_eq!(said, ["3}", "3}", "6}"]);
    drop(journal);
    // What a start reads may be in the page cache only.
    let (journal, _) = open(&dir);
    journal.append(ONE, Purpose::NewWork).unwrap();
    assert!(super::text(&dir).ends_with(",\"d\":0}\n"));
}

#[test]
fn a_text_that_looks_like_a_record_is_a_text() {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    let forged = String::from_utf8(line(9, r#"{"t":"x"}"#, Some(8))).unwrap();
    let quoted = serde_json::to_string(&format!("{forged},\"d\":7}}{forged}")).unwrap();
    let text = format!(r#"{{"t":"accepted","text":{quoted},"x":{{"d":5}}}}"#);
    journal.append(&text, Purpose::NewWork).unwrap();
    assert_eq!(journal.read(1).unwrap(), text);
    drop(journal);
    let path = dir.path().join(NAME);
    let mut bytes = written(&path);
    let middle = bytes.len() - 30;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(open(&dir).1, [], "the only record was never durable");
}

/// A repair would throw away what is good.
#[test]
fn what_only_a_newer_gateway_understands_is_no_damage() {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    let (journal, _) = open(&dir);
    for json in [
        r#"{"t":"clock","boot":"","at":1}"#,
        r#"{"t":"novel","n":"a","at":"2027-01-01"}"#,
        r#"{"t":"novel","id":1,"n":-1,"essential":true}"#,
    ] {
        journal.append(json, Purpose::NewWork).unwrap();
    }
    journal.checkpoint().unwrap();
    drop(journal);
    let newer = Header { version: VERSION + 1, base: 1, kept: 0 }.line();
    for bytes in [fs::read(&path).unwrap(), newer] {
        fs::write(&path, &bytes).unwrap();
        let mut read = |_: u64, json: &str| Record::parse(json).map(drop);
        for damage in [
            FileJournal::open(dir.path(), CAP, &mut read).unwrap_err(),
            repair(dir.path(), &mut read).unwrap_err(),
        ] {
            let words = damage.to_string();
            assert_eq!((damage.newer, damage.place), (true, None), "{words}");
            assert!(words.contains("version"), "{words}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

/// Its version is what a header says first, wherever it stands.
#[test]
fn the_header_of_a_newer_version_may_say_all_else_in_its_own_way() {
    const FORMAT: &str = r#""format":"hermes-gateway journal""#;
    let parse = |json: &str| Header::parse(&line(0, &format!("{{{json}}}"), None));
    for (rest, found) in [
        (r#""version":3"#, "3"),
        (r#""version":3,"base":"a","kept":0"#, "3"),
        (r#""version":3,"base":1,"kept":[1,2]"#, "3"),
        (r#""base":{},"kept":-1,"version":"3.1""#, r#""3.1""#),
        (r#""version":0,"base":1,"kept":0"#, "0"),
    ] {
        let spaced = format!(" {FORMAT} , {rest} ");
        for json in [format!("{FORMAT},{rest}"), format!("{rest},{FORMAT}"), spaced] {
            let (newer, why) = parse(&json).unwrap_err();
            assert!(newer && why.contains(&format!("version {found};")), "{json}: {why}");
        }
    }
    let known = Header { version: 2, base: 2, kept: 1 };
    assert_eq!(parse(&format!(r#""kept":1,"x":[],"base":2,"version":2,{FORMAT}"#)), Ok(known));
    for json in [
        format!(r#"{FORMAT},"version":2,"base":"a","kept":0"#),
        format!(r#"{FORMAT},"version":2,"base":1,"kept":-1"#),
        format!(r#"{FORMAT},"version":2,"base":1,"kept":1"#),
        format!(r#"{FORMAT},"version":2,"base":1"#),
        format!(r#"{FORMAT},"version":2,"kept":0"#),
        format!(r#"{FORMAT},"version":3,"base""#),
        r#""format":"another","version":3"#.to_owned(),
        r#""version":3"#.to_owned(),
    ] {
        assert!(!parse(&json).unwrap_err().0, "{json}");
    }
}
