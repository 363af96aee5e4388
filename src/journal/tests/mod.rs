//! What both journals promise, and helpers for what only the file can get wrong.

mod cuts;
mod damage;
mod disk;
mod format;
mod long;
mod records;
mod replay;
mod rot;
mod threads;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::*;
use crate::limits::COMPACT_TAIL;
use crate::testing::TempDir;

/// A rewrite that only drops.
pub trait Compact {
    /// Drops the records that `keep` says no to.
    fn compact(&self, keep: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()>;
}

impl<T: Journal + ?Sized> Compact for T {
    fn compact(&self, keep: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        self.rewrite(&mut |number, json| {
            if keep(number, json) { Decision::Keep } else { Decision::Drop }
        })
    }
}

const CAP: u64 = 64 << 20;
/// A small record.
const ONE: &str = r#"{"n":1}"#;

/// With little room, whatever the file system: its end comes often.
fn open(dir: &TempDir) -> (FileJournal, Vec<(u64, String)>) {
    let mut seen = Vec::new();
    let (mut journal, _) = FileJournal::open(dir.path(), CAP, &mut |number, json| {
        seen.push((number, json.to_owned()));
        Ok(())
    })
    .unwrap();
    journal.disk.room = |_| 1000;
    (journal, seen)
}

/// The bytes of a journal without the room at its end.
fn written(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

fn text(dir: &TempDir) -> String {
    String::from_utf8(written(&dir.path().join(NAME))).unwrap()
}

fn all(journal: &dyn Journal) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    let mut note = |number, json: &str| {
        seen.push((number, json.to_owned()));
        true
    };
    journal.scan(0, &mut note).unwrap();
    seen
}

fn json(n: u64) -> String {
    format!(r#"{{"n":{n},"text":"ä{}"}}"#, "x".repeat(usize::try_from(n * 7 % 90).unwrap()))
}

fn fill(journal: &dyn Journal, count: u64) {
    for _ in 0..count {
        let number = journal.append(&json(journal.last() + 1), Purpose::NewWork).unwrap();
        assert_eq!(number, journal.last());
    }
    journal.sync(journal.last()).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The same test for each implementation.
fn for_both(test: impl Fn(&dyn Journal)) {
    test(&MemoryJournal::new(CAP));
    let dir = TempDir::new("journal");
    test(&open(&dir).0);
}

#[test]
fn records_come_back_in_order() {
    for_both(|journal| {
        assert_eq!((journal.last(), all(journal).len()), (0, 0));
        fill(journal, 2000);
        let seen = all(journal);
        assert_eq!(seen.len(), 2000);
        for (place, (number, text)) in (1..).zip(&seen) {
            assert_eq!((place, &json(place)), (*number, text));
        }
        for number in [1, 2, 777, 1999, 2000] {
            assert_eq!(journal.read(number).unwrap(), json(number));
        }
        for number in [0, 2001, u64::MAX] {
            assert_eq!(journal.read(number).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let mut after = Vec::new();
        let mut three = |number, _: &str| {
            after.push(number);
            after.len() < 3
        };
        journal.scan(1500, &mut three).unwrap();
        assert_eq!(after, [1501, 1502, 1503]);
        journal.scan(u64::MAX, &mut |_, _| panic!("nothing is there")).unwrap();
    });
}

#[test]
fn compaction_keeps_numbers_and_the_next_one() {
    for_both(|journal| {
        fill(journal, 3000);
        let before = journal.size();
        journal.compact(&mut |number, text| text == json(number) && number % 10 == 3).unwrap();
        assert!(journal.size() < before / 5);
        let kept: Vec<u64> = all(journal).into_iter().map(|(number, _)| number).collect();
        assert_eq!(kept, (1..=3000).filter(|n| n % 10 == 3).collect::<Vec<_>>());
        assert_eq!(journal.read(2993).unwrap(), json(2993));
        assert_eq!(journal.read(2994).unwrap_err().kind(), io::ErrorKind::NotFound);
        fill(journal, 1);
        assert_eq!(journal.read(3001).unwrap(), json(3001));
        let mut asked = Vec::new();
        let mut none = |number, _: &str| {
            asked.push(number);
            false
        };
        journal.compact(&mut none).unwrap();
        assert_eq!((asked.len(), asked[300]), (301, 3001));
        assert_eq!((all(journal).len(), journal.last()), (0, 3001));
        fill(journal, 1);
        assert_eq!(all(journal), [(3002, json(3002))]);
    });
}

#[test]
fn what_is_appended_during_a_compaction_is_kept() {
    for_both(|journal| {
        // Little comes while writers wait for it, a lot before that.
        for more in [1, COMPACT_TAIL / 10] {
            fill(journal, 3);
            let before = journal.last();
            journal
                .compact(&mut |number, _| {
                    number < before || {
                        fill(journal, more);
                        true
                    }
                })
                .unwrap();
            fill(journal, 1);
            let expected: Vec<_> = (1..=before + more + 1).map(|n| (n, json(n))).collect();
            assert_eq!(all(journal), expected);
        }
    });
}

#[test]
fn new_work_leaves_a_reserve() {
    let cap = 64 << 10;
    let dir = TempDir::new("journal");
    let file = FileJournal::open(dir.path(), cap, &mut |_, _| Ok(())).unwrap().0;
    let memory = MemoryJournal::new(cap);
    for journal in [&file as &dyn Journal, &memory] {
        assert_eq!(journal.condition(), Condition::Good);
        let text = format!("{{\"x\":\"{}\"}}", "x".repeat(1000));
        // Each takes a kilobyte: without a cap none would ever be refused.
        let refused = (0..cap >> 10).find_map(|_| journal.append(&text, Purpose::NewWork).err());
        let refused = refused.expect("the cap refuses new work");
        assert!(
            matches!(&refused, WriteError::Full(why) if why.contains("max_journal")),
            "{refused}"
        );
        assert!((31 << 10..=32 << 10).contains(&journal.size()), "{}", journal.size());
        while journal.size() < 100 << 10 {
            journal.append(&text, Purpose::Completion).unwrap();
        }
        assert!(matches!(journal.condition(), Condition::Degraded(_)));
        journal.compact(&mut |_, _| false).unwrap();
        assert_eq!(journal.condition(), Condition::Good);
        journal.append(&text, Purpose::NewWork).unwrap();
        let long = "x".repeat(MAX_RECORD + 1);
        assert_eq!(journal.append(&long, Purpose::Completion), Err(WriteError::TooLong));
    }
    let last = file.last();
    file.set_cap(1 << 10);
    assert!(matches!(file.condition(), Condition::Degraded(_)));
    assert!(matches!(file.append(ONE, Purpose::NewWork), Err(WriteError::Full(_))));
    file.set_cap(CAP);
    assert_eq!(file.append(ONE, Purpose::NewWork), Ok(last + 1));
    assert!(file.append("{\"n\":1\n}", Purpose::NewWork).is_err());
}

#[test]
fn a_start_finds_every_record() {
    let dir = TempDir::new("journal");
    let (journal, seen) = open(&dir);
    assert!(seen.is_empty());
    fill(&journal, 500);
    drop(journal);
    let (journal, seen) = open(&dir);
    assert_eq!((journal.last(), seen.len(), &seen[499]), (500, 500, &(500, json(500))));
    journal.compact(&mut |number, _| number > 490).unwrap();
    fill(&journal, 20);
    fs::write(dir.path().join("journal.new"), "left over").unwrap();
    drop(journal);
    let (journal, seen) = open(&dir);
    assert_eq!(names(dir.path()), ["journal"]);
    let numbers: Vec<u64> = seen.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (491..=520).collect::<Vec<_>>());
    assert_eq!(seen, all(&journal));
    journal.compact(&mut |_, _| false).unwrap();
    drop(journal);
    let (journal, seen) = open(&dir);
    assert_eq!((journal.last(), seen.len(), journal.size()), (520, 0, journal.size()));
    fill(&journal, 2);
    drop(journal);
    assert_eq!(open(&dir).1, [(521, json(521)), (522, json(522))]);
}

#[test]
fn what_a_caller_cannot_read_stops_the_start() {
    let dir = TempDir::new("journal");
    fill(&open(&dir).0, 3);
    let refuse =
        &mut |number, _: &str| if number == 2 { Err("nonsense".to_owned()) } else { Ok(()) };
    let damage = FileJournal::open(dir.path(), CAP, refuse).unwrap_err();
    assert_eq!(damage.place.unwrap().1, 2);
    let words = damage.to_string();
    assert!(words.contains("nonsense"), "{words}");
}

#[test]
fn only_a_file_of_ours_is_opened() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = TempDir::new("journal");
    let refused =
        |dir: &TempDir| FileJournal::open(dir.path(), CAP, &mut |_, _| Ok(())).unwrap_err();
    let path = dir.path().join(NAME);
    symlink(dir.path().join("elsewhere"), &path).unwrap();
    assert!(refused(&dir).to_string().contains("symlink"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(refused(&dir).place, None);
    fs::remove_dir(&path).unwrap();
    drop(open(&dir));
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&dir));
    assert_eq!(mode(), 0o600);
}

/// Tests need one number for both clocks.
impl From<u64> for record::Timestamp {
    fn from(at: u64) -> record::Timestamp {
        record::Timestamp { at, age: at, off: 0 }
    }
}
