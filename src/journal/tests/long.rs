//! Records whose long reply stays in the file.

use std::os::unix::fs::FileExt;

use super::*;
use crate::journal::record::{Record, Step};
use crate::stored_text::inside;

fn done(n: u64, reply: &str, report: Option<String>) -> Record {
    Record::step(format!("M{n}"), 1, n, Step::Done(reply.to_owned(), report))
}

#[test]
fn a_long_reply_is_left_in_the_file_wherever_its_record_stands() {
    let report = Some(r#"{"finish":"","report":"\","reply":""}"#.to_owned());
    let text = "ä\"\\,\"report\":\"\n\u{1}".repeat(6_000);
    let mut records = Vec::new();
    for before in [0, 1, 60, 130, 200] {
        records.extend((0..before).map(|n| done(n, r#","reply":"x""#, report.clone())));
        records.push(done(1, &text, None));
        records.push(done(2, &text, report.clone()));
        records.push(done(3, &text[..60_000], report.clone()));
        // One that is long by its report.
        records.push(done(4, "short", Some(text.clone())));
        records.push(done(5, &text, Some(text.clone())));
        records.push(Record::step("M6", 1, 6, Step::Failed(text.clone(), None)));
    }
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    let mut numbered = Vec::new();
    for record in records {
        let json = record.to_json();
        numbered.push((journal.append(&json, Purpose::NewWork).unwrap(), record));
        if json.len() > 1000 {
            journal.checkpoint().unwrap();
        }
    }
    let check = |journal: &FileJournal| {
        let mut long = 0;
        for (number, record) in &numbered {
            let (json, text) = journal.read_without_reply(*number, &mut |_| Ok(())).unwrap();
            long += usize::from(text.is_some());
            let Some(text) = text else {
                assert!(Record::parse(&json).as_ref() == Ok(record), "record {number}");
                continue;
            };
            let mut whole = String::new();
            let mut add = |piece: &str| {
                whole += piece;
                Ok(())
            };
            text.text_chunks(&mut add).unwrap();
            let json =
                json.replacen(r#""reply":"""#, &format!(r#""reply":"{}""#, inside(&whole)), 1);
            assert!(Record::parse(&json).as_ref() == Ok(record), "record {number}");
        }
        long
    };
    assert_eq!(check(&journal), 15);
    drop(journal);
    assert_eq!(check(&open(&dir).0), 15, "after a start");
}

#[test]
fn a_damaged_long_reply_is_not_sent() {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    let record = done(1, &"x".repeat(200_000), None);
    journal.append(&record.to_json(), Purpose::NewWork).unwrap();
    journal.checkpoint().unwrap();
    assert!(journal.read_without_reply(1, &mut |_| Ok(())).unwrap().1.is_some());
    let file = fs::File::options().write(true).open(dir.path().join(NAME)).unwrap();
    file.write_all_at(b"y", 100_000).unwrap();
    assert_eq!(
        journal.read_without_reply(1, &mut |_| Ok(())).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(matches!(journal.condition(), Condition::Degraded(_)));
}
