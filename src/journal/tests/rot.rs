//! Damage that is found while the journal is used: it costs the record that it hits, and no other.

use std::os::unix::fs::FileExt;

use super::*;

/// A record of message `n`, as the gateway writes them.
fn of(n: u64, kind: &str) -> String {
    format!(r#"{{"t":"{kind}","id":"01JD00000000000000000000{n:02}","text":"{}"}}"#, json(n).len())
}

/// A journal in which each of 40 messages has two records, and where each record begins.
fn messages() -> (TempDir, FileJournal, Vec<usize>) {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    for n in 0..40 {
        for kind in ["accepted", "done"] {
            journal.append(&of(n, kind), Purpose::NewWork).unwrap();
        }
    }
    journal.checkpoint().unwrap();
    let bytes = fs::read(dir.path().join(NAME)).unwrap();
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    (dir, journal, ends.map(|(at, _)| at + 1).collect())
}

/// Changes bytes of a file that is open.
fn overwrite(dir: &TempDir, at: usize, with: &[u8]) {
    let file = fs::File::options().write(true).open(dir.path().join(NAME)).unwrap();
    file.write_all_at(with, at as u64).unwrap();
}

#[track_caller]
fn degraded(journal: &FileJournal, at: usize) {
    let Condition::Degraded(why) = journal.condition() else { panic!("not degraded") };
    assert!(why.contains(&format!("damaged at byte {at}:")), "{why}");
}

#[test]
fn one_damaged_record_takes_no_other_with_it() {
    // In its checksum, its number, its text; its line feed; a line feed in its middle; all of it.
    for (from, with) in
        [(3, "?"), (9, "7"), (60, "\u{1}"), (usize::MAX, "J"), (50, "\n"), (1, "\0\0\0\0\0\0")]
    {
        let (dir, journal, starts) = messages();
        let (record, start) = (21, starts[20]);
        let before: Vec<_> =
            all(&journal).into_iter().filter(|(number, _)| *number != record).collect();
        let at = if from == usize::MAX { starts[21] - 1 } else { start + from };
        overwrite(&dir, at, with.as_bytes());
        assert_eq!(journal.condition(), Condition::Good, "nobody has looked yet");
        let error = journal.read(record).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(&format!("byte {start}:")), "{error}");
        degraded(&journal, start);
        for (number, json) in &before {
            assert_eq!(journal.read(*number).unwrap(), *json);
        }
        assert_eq!(all(&journal), before);
        fill(&journal, 1);
        degraded(&journal, start);
        assert_eq!(journal.read(500).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn a_compaction_keeps_the_bytes_of_a_forgotten_message_beside_the_journal() {
    let (dir, journal, starts) = messages();
    overwrite(&dir, starts[20] + 64, b"?");
    let damaged = fs::read(dir.path().join(NAME)).unwrap()[starts[20]..starts[21]].to_vec();
    journal.read(21).unwrap_err();
    journal.compact(&mut |number, _| number > 40).unwrap();
    assert_eq!(journal.condition(), Condition::Good);
    let kept = format!("journal.damaged-{}", starts[20]);
    assert_eq!(names(dir.path()), ["journal", &kept]);
    assert_eq!(fs::read(dir.path().join(kept)).unwrap(), damaged);
    fill(&journal, 1);
    drop(journal);
    assert_eq!(open(&dir).1.len(), 41);
}

#[test]
fn a_compaction_leaves_what_may_be_needed_where_it_is() {
    // A message that is known; one whose id is damaged; and the last record that is kept.
    for (record, from) in [(21, 64), (21, 35), (80, 60)] {
        let (dir, journal, starts) = messages();
        let start = starts[record - 1];
        overwrite(&dir, start + from, b"?");
        journal.compact(&mut |number, _| number > 10).unwrap();
        assert_eq!(names(dir.path()), ["journal"]);
        let seen = all(&journal);
        assert_eq!(seen.len(), 69);
        let error = journal.read(record as u64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let Condition::Degraded(why) = journal.condition() else { panic!("not degraded") };
        fill(&journal, 3);
        journal.compact(&mut |number, _| number > 10).unwrap();
        assert_eq!(all(&journal).len(), 72);
        drop(journal);
        let damage = FileJournal::open(dir.path(), CAP, &mut |_, _| Ok(())).unwrap_err();
        let (at, _) = damage.place.unwrap();
        assert!(why.contains(&format!("byte {at}:")), "{why}, not {at}");
        assert!(why.contains("until a compaction"), "what to do about it: {why}");
        let repaired = repair(dir.path(), &mut |_, _| Ok(())).unwrap().unwrap();
        assert_eq!(repaired.records + repaired.left_out, 72);
    }
}

#[test]
fn a_compaction_gives_up_where_the_disk_fails() {
    let (dir, journal, starts) = messages();
    starts[10..27].iter().for_each(|start| overwrite(&dir, start + 64, b"?"));
    let before = fs::read(dir.path().join(NAME)).unwrap();
    let error = journal.compact(&mut |_, _| true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), before);
    assert_eq!((names(dir.path()), all(&journal).len()), (vec![NAME.to_owned()], 63));
}

#[test]
fn a_checkpoint_is_written_once_and_no_more() {
    let dir = TempDir::new("journal");
    let size = || written(&dir.path().join(NAME)).len();
    let (journal, _) = open(&dir);
    let empty = size();
    journal.checkpoint().unwrap();
    assert_eq!(size(), empty, "there is nothing to say");
    fill(&journal, 3);
    journal.checkpoint().unwrap();
    let written = size();
    assert_eq!((journal.last(), all(&journal).len()), (4, 3));
    journal.checkpoint().unwrap();
    drop(journal);
    let (journal, seen) = open(&dir);
    journal.checkpoint().unwrap();
    assert_eq!((seen.len(), size()), (3, written));
    assert!(journal.read(4).is_err());
    // What a killed process left is synced and has a checkpoint by the next.
    journal.append(ONE, Purpose::NewWork).unwrap();
    drop(journal);
    let (journal, _) = open(&dir);
    journal.checkpoint().unwrap();
    assert!(text(&dir).ends_with(" 6 {\"t\":\"mark\",\"d\":5}\n"));
    // A compaction keeps no checkpoint, and needs none.
    journal.compact(&mut |_, _| true).unwrap();
    let before = text(&dir);
    assert!(!before.contains("mark"), "{before}");
    journal.checkpoint().unwrap();
    assert_eq!(text(&dir), before);
}
