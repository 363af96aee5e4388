//! Truncated, flipped and foreign journals: a clean prefix or a clean refusal, never anything else.

use std::os::unix::fs::FileExt;

use super::*;
use crate::journal::framing::{Header, line};
use crate::testing::full;

type Records = Vec<(u64, String)>;

/// A journal of about `size` bytes, in its two forms: as written, and after a compaction. `quiet`:
/// with a checkpoint at its end.
fn examples(size: u64, quiet: bool) -> [(Vec<u8>, Records); 2] {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    let (journal, _) = open(&dir);
    let rest = || {
        if quiet {
            journal.checkpoint().unwrap();
        }
    };
    while journal.size() < size {
        fill(&journal, 1);
    }
    rest();
    let written = (written(&path), all(&journal));
    journal.compact(&mut |number, _| number % 3 != 1).unwrap();
    (0..12).for_each(|_| fill(&journal, 1));
    rest();
    let compacted = (super::written(&path), all(&journal));
    [written, compacted]
}

/// What may come of a damaged journal; the number of records that were found.
#[track_caller]
fn clean(dir: &TempDir, bytes: &[u8], whole: &[(u64, String)]) -> Option<usize> {
    let path = dir.path().join(NAME);
    fs::write(&path, bytes).unwrap();
    let mut seen = Vec::new();
    let opened = FileJournal::open(dir.path(), CAP, &mut |number, json| {
        seen.push((number, json.to_owned()));
        Ok(())
    });
    assert!(whole.starts_with(&seen), "an invented record");
    match opened {
        Ok((mut journal, opened)) => {
            journal.disk.room = |_| 1000;
            let number = journal.append(ONE, Purpose::NewWork).unwrap();
            drop(journal);
            let (journal, again) = open(dir);
            assert_eq!(again.len(), seen.len() + 1, "{opened:?}");
            assert_eq!((journal.last(), &again[..seen.len()]), (number, &seen[..]));
            Some(seen.len())
        }
        Err(damage) => {
            let (offset, _) = damage.place.unwrap();
            assert!(offset <= bytes.len() as u64);
            assert_eq!(fs::read(&path).unwrap(), bytes, "a refused journal was changed");
            let inspected = inspect(&path, &mut |_, _| Ok(())).unwrap_err();
            assert_eq!(inspected, damage);
            None
        }
    }
}

#[test]
fn cut_off_at_every_byte() {
    for (bytes, whole) in examples(2 << 10, false) {
        let dir = TempDir::new("journal");
        let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        let kept = Header::parse(&bytes[..header]).unwrap().kept;
        for length in 0..=bytes.len() {
            let lines = bytes[..length].iter().filter(|b| **b == b'\n').count();
            let found = clean(&dir, &bytes[..length], &whole);
            let expected = match lines {
                // The beginning of a new header is a journal that never began.
                0 => Header::NEW.line().starts_with(&bytes[..length]).then_some(0),
                _ => (lines > usize::try_from(kept).unwrap()).then_some(lines - 1),
            };
            assert_eq!(found, expected, "cut at {length}");
        }
        assert_eq!(names(dir.path()), ["journal"], "what a cut left has no LF: not kept");
    }
}

/// 40 KiB in the long form, more than one read takes, which takes a release build: `tests/run --full` makes one.
#[test]
fn a_journal_with_any_bit_flipped_is_refused_or_a_prefix() {
    let size = match (full(), cfg!(debug_assertions)) {
        (true, false) => 40 << 10,
        (true, true) => 8 << 10,
        (false, _) => 1 << 10,
    };
    for (bytes, whole) in examples(size, false).into_iter().chain(examples(size / 4, true)) {
        std::thread::scope(|scope| {
            for half in 0..2 {
                let (bytes, whole) = (&bytes, &whole);
                scope.spawn(move || flip(bytes, whole, half));
            }
        });
    }
}

/// Flips every bit of each second byte.
fn flip(bytes: &[u8], whole: &[(u64, String)], half: usize) {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
    let last_but_one = ends[ends.len() - 2];
    let mut flipped = bytes.to_vec();
    for at in (half..bytes.len()).step_by(2) {
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        for bit in 0..8 {
            flipped[at] ^= 1 << bit;
            file.write_all_at(&flipped[at..=at], at as u64).unwrap();
            let mut seen = 0;
            let mut note = |number, json: &str| {
                let real = whole.get(seen).is_some_and(|(n, j)| *n == number && j == json);
                assert!(real, "byte {at}, bit {bit}: an invented record");
                seen += 1;
                Ok(())
            };
            let found = inspect(&path, &mut note);
            // Only of the last line nothing says that it was durable. Behind a checkpoint that is the checkpoint.
            let tail = (at > last_but_one).then_some(last_but_one + 1);
            match found {
                Err(damage) => {
                    assert_eq!(tail, None, "byte {at}, bit {bit}");
                    let start = ends.iter().rposition(|end| *end < at).map_or(0, |n| ends[n] + 1);
                    assert_eq!(damage.place.unwrap().0, start as u64, "byte {at}, bit {bit}");
                }
                Ok(report) => {
                    let torn = report.torn.map(|(offset, _)| offset);
                    assert_eq!(torn, tail.map(|tail| tail as u64), "byte {at}, bit {bit}");
                    assert!(torn.is_some(), "byte {at}, bit {bit} went unnoticed");
                }
            }
            // A start costs more than a look, and comes to the same.
            if bit == 7 && at % 16 == half {
                assert_eq!(clean(&dir, &flipped, whole), tail.map(|_| seen));
            }
            flipped[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_whole_last_record_that_is_wrong_is_kept() {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    fill(&open(&dir).0, 3);
    let good = written(&path);
    for expected in ["journal.torn-", "journal.torn-"] {
        let mut bytes = good.clone();
        bytes.extend_from_slice(b"00000000 4 {\"what\":1}\n");
        fs::write(&path, &bytes).unwrap();
        let mut records = 0;
        let mut count = |_: u64, _: &str| {
            records += 1;
            Ok(())
        };
        let (_, changed) = FileJournal::open(dir.path(), CAP, &mut count).unwrap();
        assert_eq!(records, 3);
        let words = changed.concat();
        assert!(words.contains(expected) && words.contains(&good.len().to_string()), "{words}");
        assert_eq!(written(&path), good);
    }
    let torn = format!("journal.torn-{}", good.len());
    assert_eq!(names(dir.path()), ["journal", &torn, &format!("{torn}.1")]);
    assert_eq!(fs::read(dir.path().join(torn)).unwrap(), b"00000000 4 {\"what\":1}\n");
}

#[test]
fn gaps_and_what_a_file_system_leaves_behind() {
    let dir = TempDir::new("journal");
    fill(&open(&dir).0, 3);
    let good = written(&dir.path().join(NAME));
    let with = |more: &[u8]| [&good[..], more].concat();
    let whole: Vec<(u64, String)> = (1..=4).map(|n| (n, json(n))).collect();
    let next = |number, durable| line(number, &json(4), Some(durable));
    assert_eq!(clean(&dir, &with(&next(4, 3)), &whole), Some(4));
    for more in [&b"\0"[..], &[0; 5000], b"junk", b"\xff\xfe", b"12345678 4 {"] {
        assert_eq!(clean(&dir, &with(more), &whole), Some(3));
    }
    // What follows says whether a fourth record was ever durable.
    for number in [0, 1, 3, 5, u64::MAX] {
        assert_eq!(clean(&dir, &with(&next(number, 3)), &whole), Some(3), "{number}");
        let durable = if number > 4 { None } else { Some(3) };
        assert_eq!(clean(&dir, &with(&next(number, 4)), &whole), durable, "{number}");
    }
    for more in [&b"a\nb\n"[..], b"\n\n", b"00000000 4 {}\n00000000 5 {}\n", &[0; 70_000], b"junk"]
    {
        let with = |durable| [&good[..], more, &next(6, durable), b"\0\0\0", b"more"].concat();
        assert_eq!(clean(&dir, &with(3), &whole), Some(3), "{more:?}");
        assert_eq!(clean(&dir, &with(4), &whole), None, "{more:?}");
    }
}

#[test]
fn nuls_behind_the_last_record_are_the_end() {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    fill(&open(&dir).0, 3);
    let good = written(&path);
    fs::write(&path, [&good[..], &[0; 5000]].concat()).unwrap();
    let report = inspect(&path, &mut |_, _| Ok(())).unwrap();
    assert_eq!((report.records, report.torn), (3, None));
    let mut records = 0;
    let mut count = |_: u64, _: &str| {
        records += 1;
        Ok(())
    };
    let (_, changed) = FileJournal::open(dir.path(), CAP, &mut count).unwrap();
    assert_eq!((records, changed), (3, Vec::new()));
    assert_eq!((written(&path), names(dir.path())), (good, vec![NAME.to_owned()]));
}

#[test]
fn a_foreign_file_is_left_alone() {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    let future = Header { version: 3, ..Header::NEW }.line();
    fs::write(&path, &future).unwrap();
    let refused = FileJournal::open(dir.path(), CAP, &mut |_, _| Ok(())).unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("version 3") && !words.contains("repair"), "{words}");
    assert!(repair(dir.path(), &mut |_, _| Ok(())).is_err());
    assert_eq!(fs::read(&path).unwrap(), future);
    for text in ["a text\n", "00000000 0 {}\n"] {
        fs::write(&path, text).unwrap();
        let refused = FileJournal::open(dir.path(), CAP, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(refused.place, Some((0, 0)), "{refused}");
    }
}

#[test]
fn a_repair_cuts_and_keeps() {
    for (bytes, whole) in examples(4 << 10, false) {
        let starts: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        // In the header, in the first record, in the middle, in the last but one.
        for place in [None, Some(0), Some(whole.len() / 2), Some(whole.len() - 2)] {
            let dir = TempDir::new("journal");
            let path = dir.path().join(NAME);
            let at = place.map_or(0, |place| starts[place]);
            let mut damaged = bytes.clone();
            damaged[at + 10] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let repaired = repair(dir.path(), &mut |_, _| Ok(())).unwrap().unwrap();
            let good = place.unwrap_or(whole.len());
            assert_eq!(repaired.found.place.unwrap().0, at as u64);
            assert_eq!(repaired.records, good as u64);
            assert_eq!(repaired.left_out, place.map_or(0, |place| whole.len() - place - 1) as u64);
            assert_eq!(repaired.kept, dir.path().join(format!("journal.damaged-{at}")));
            assert_eq!(fs::read(&repaired.kept).unwrap(), damaged);
            assert_eq!(names(dir.path()).len(), 2);
            let (journal, seen) = open(&dir);
            assert_eq!(seen, whole[..good]);
            // Numbers that were given once are not given again.
            assert_eq!(journal.last(), whole[whole.len() - 1].0);
            fill(&journal, 1);
            drop(journal);
            assert!(repair(dir.path(), &mut |_, _| Ok(())).unwrap().is_none());
            assert_eq!(open(&dir).1.len(), good + 1);
        }
    }
}

#[test]
fn verification_changes_no_file() {
    let dir = TempDir::new("journal");
    let path = dir.path().join(NAME);
    let (journal, _) = open(&dir);
    fill(&journal, 30);
    let report = inspect(&path, &mut |_, _| Ok(())).unwrap();
    assert_eq!((report.records, report.last), (30, 30));
    assert_eq!((report.bytes, report.torn), (journal.size(), None));
    let mut bytes = written(&path);
    bytes.truncate(bytes.len() - 3);
    fs::write(&path, &bytes).unwrap();
    let report = inspect(&path, &mut |_, _| Ok(())).unwrap();
    let (offset, length) = report.torn.unwrap();
    assert_eq!((report.records, report.last, report.bytes), (29, 29, offset));
    assert_eq!(offset + length, bytes.len() as u64);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
