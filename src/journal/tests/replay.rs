//! Records that one thread reads and another takes.

use super::*;
use crate::journal::record::{Record, Step};

const COUNT: u64 = 5000;

/// A journal of so many records that many batches are handed over.
fn filled(dir: &TempDir) -> Vec<Record> {
    let (journal, _) = open(dir);
    let records = (1..=COUNT).map(|number| Record::step("1", 1, number, Step::Sending));
    let records: Vec<Record> = records.collect();
    for record in &records {
        let number = journal.append(&record.to_json(), Purpose::NewWork).unwrap();
        if number.is_multiple_of(500) {
            journal.sync(number).unwrap();
        }
    }
    records
}

#[test]
fn every_record_is_taken_in_order() {
    let dir = TempDir::new("journal");
    let (records, mut taken) = (filled(&dir), Vec::new());
    let mut take = |number, record: &Record, length| {
        assert_eq!((number, length), (taken.len() as u64 + 1, record.to_json().len()));
        taken.push(record.clone());
        Ok(())
    };
    let (journal, _) = FileJournal::open_records(dir.path(), CAP, &mut take).unwrap();
    assert_eq!((journal.last(), taken), (COUNT, records));
}

#[test]
fn what_is_wrong_first_is_told_with_its_place_and_nothing_is_changed() {
    let dir = TempDir::new("journal");
    filled(&dir);
    let path = dir.path().join(NAME);
    let whole = text(&dir);
    // Cut short at the end, which a start cuts off; and corrupt in the middle.
    let cut = whole[..whole.len() - 5].to_owned();
    let corrupt = whole.replacen("\"at\":3000,", "\"at\":3001,", 1);
    for (bytes, corrupt) in [(cut, COUNT), (corrupt, 3000)] {
        for odd in [1, 2, 1500, 2999, 3000, 4999] {
            fs::write(&path, &bytes).unwrap();
            let wrong = || Err("odd".to_owned());
            let mut take = |number, _: &_, _| if number == odd { wrong() } else { Ok(()) };
            let found = FileJournal::open_records(dir.path(), CAP, &mut take).unwrap_err();
            assert_eq!(found.place.unwrap().1, odd.min(corrupt));
            let mut visit = |number, _: &str| if number == odd { wrong() } else { Ok(()) };
            assert_eq!(inspect(&path, &mut visit).unwrap_err(), found);
            assert_eq!(fs::read_to_string(&path).unwrap(), bytes);
        }
    }
}
