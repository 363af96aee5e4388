//! Disks that refuse, tear and lie.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::*;
use crate::journal::writer::Disk;

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

fn failing() -> io::Error {
    io::Error::other("a bad disk")
}

/// A journal with three records whose disk then is `change`d.
fn with(change: impl FnOnce(&mut Disk)) -> (TempDir, FileJournal) {
    let dir = TempDir::new("journal");
    let (mut journal, _) = open(&dir);
    fill(&journal, 3);
    change(&mut journal.disk);
    journal.lock().room = None;
    (dir, journal)
}

/// As [`FileJournal::condition`] says once it was looked at again.
fn probe(journal: &FileJournal) -> Condition {
    journal.check_file();
    journal.condition()
}

#[test]
fn a_short_write_is_taken_back() {
    static SHORT: AtomicBool = AtomicBool::new(true);
    let (dir, journal) = with(|disk| {
        disk.write = |file, bytes, at| {
            let length = if SHORT.load(SeqCst) { bytes.len() / 2 } else { bytes.len() };
            file.write_at(&bytes[..length], at)
        };
    });
    let size = journal.size();
    for purpose in [Purpose::NewWork, Purpose::Completion] {
        assert!(matches!(journal.append(ONE, purpose), Err(WriteError::Full(_))));
        assert_eq!(fs::metadata(dir.path().join(NAME)).unwrap().len(), size);
    }
    assert!(matches!(journal.condition(), Condition::Degraded(_)));
    SHORT.store(false, SeqCst);
    fill(&journal, 1);
    assert_eq!((journal.last(), journal.condition()), (4, Condition::Good));
    drop(journal);
    assert_eq!(open(&dir).1.len(), 4);
}

#[test]
fn without_room_ahead_only_completions_are_taken() {
    static FULL: AtomicBool = AtomicBool::new(true);
    let (_dir, journal) = with(|disk| {
        disk.preallocate = |_, _, _| if FULL.load(SeqCst) { Err(full()) } else { Ok(true) };
    });
    journal.lock().preallocated = 0;
    assert!(matches!(journal.append(ONE, Purpose::NewWork), Err(WriteError::Full(_))));
    assert_eq!(journal.append(ONE, Purpose::Completion), Ok(4));
    assert!(matches!(probe(&journal), Condition::Degraded(_)));
    FULL.store(false, SeqCst);
    assert_eq!(probe(&journal), Condition::Good);
    assert_eq!(journal.append(ONE, Purpose::NewWork), Ok(5));
}

#[test]
fn a_file_system_that_preallocates_nothing_will_do() {
    let (_dir, journal) = with(|disk| disk.preallocate = |_, _, _| Ok(false));
    journal.lock().preallocated = 0;
    fill(&journal, 100);
    assert_eq!(probe(&journal), Condition::Good);
}

/// The length of the file, which is more than its records by the room behind them.
fn length(dir: &TempDir) -> u64 {
    fs::metadata(dir.path().join(NAME)).unwrap().len()
}

#[test]
fn records_take_the_place_of_zeros() {
    static RESERVED: AtomicU32 = AtomicU32::new(0);
    let (dir, mut journal) = with(|disk| disk.room = |_| 500);
    let whole = length(&dir);
    assert!(whole > journal.size());
    for stops in [false, true] {
        let mut lengths = Vec::new();
        while lengths.len() < 3 {
            journal.append(ONE, Purpose::NewWork).unwrap();
            lengths.push(length(&dir));
            lengths.dedup();
            assert!(written(&dir.path().join(NAME)).len() as u64 == journal.size());
        }
        assert!(lengths.windows(2).all(|pair| pair[1] > pair[0] + 500), "{lengths:?}");
        // A start behind a kill finds the room, and uses it; a rest leaves none.
        journal.disk.preallocate = |_, _, _| {
            RESERVED.fetch_add(1, SeqCst);
            Ok(true)
        };
        if stops {
            journal.checkpoint().unwrap();
        }
        let (left, size) = (length(&dir), journal.size());
        drop(journal);
        journal = open(&dir).0;
        assert_eq!((length(&dir), journal.size()), (left, size));
        assert_eq!((left == size, RESERVED.load(SeqCst)), (stops, stops.into()));
        journal.append(ONE, Purpose::NewWork).unwrap();
        assert_eq!(length(&dir) == left, !stops);
        assert_eq!(length(&dir) == journal.size(), stops, "for one record there is no room");
    }
}

/// What a cut gives back for a moment may be gone then.
#[test]
fn room_is_cut_off_only_where_what_is_reserved_comes_back() {
    static SCARCE: AtomicBool = AtomicBool::new(true);
    let (dir, journal) = with(|disk| {
        disk.room = |_| 500;
        disk.free = |_| if SCARCE.load(SeqCst) { 1 << 20 } else { u64::MAX };
    });
    let some = || fill(&journal, 3);
    some();
    journal.checkpoint().unwrap();
    assert!(length(&dir) > journal.size());
    SCARCE.store(false, SeqCst);
    some();
    journal.checkpoint().unwrap();
    assert_eq!((length(&dir), journal.condition()), (journal.size(), Condition::Good));
}

#[test]
fn what_is_reserved_and_does_not_come_back_is_said() {
    static FULL: AtomicBool = AtomicBool::new(false);
    let (_dir, journal) = with(|disk| {
        disk.room = |_| 500;
        disk.preallocate = |_, _, _| if FULL.load(SeqCst) { Err(full()) } else { Ok(true) };
    });
    fill(&journal, 3);
    FULL.store(true, SeqCst);
    journal.checkpoint().unwrap();
    assert!(matches!(journal.condition(), Condition::Degraded(_)));
}

/// What cannot be written there costs nothing but time.
#[test]
fn zeros_go_no_further_than_what_is_reserved_and_may_fail() {
    static FAILS: AtomicBool = AtomicBool::new(false);
    let (dir, journal) = with(|disk| {
        disk.preallocate = |_, _, _| Err(full());
        disk.room = |_| 4096;
        disk.write = |file, bytes, at| match bytes {
            [0, ..] if FAILS.load(SeqCst) => Err(full()),
            _ => file.write_at(bytes, at),
        };
    });
    let reserved = journal.size() + 2000;
    (journal.lock().preallocated, journal.lock().zeros) = (reserved, 0);
    let completed = |count| {
        (0..count).for_each(|_| {
            let number = journal.append(&json(50), Purpose::Completion).unwrap();
            journal.sync(number).unwrap();
        });
    };
    completed(1);
    assert_eq!(length(&dir), reserved);
    completed(40);
    assert_eq!(length(&dir), journal.size(), "nothing was reserved behind it");
    FAILS.store(true, SeqCst);
    journal.lock().preallocated = u64::MAX;
    completed(3);
    assert_eq!((length(&dir), journal.condition()), (journal.size(), Condition::Good));
    drop(journal);
    assert_eq!(open(&dir).1.len(), 47);
}

#[test]
fn other_errors_are_for_now() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let (_dir, journal) = with(|disk| {
        disk.write = |file, bytes, at| match ASKED.fetch_add(1, SeqCst) {
            0 => Err(failing()),
            1 => Err(io::ErrorKind::Interrupted.into()),
            _ => file.write_at(bytes, at),
        };
        disk.room = |_| 0;
    });
    assert!(matches!(journal.append(ONE, Purpose::NewWork), Err(WriteError::Unavailable(_))));
    assert_eq!(journal.append(ONE, Purpose::NewWork), Ok(4));
    assert_eq!(ASKED.load(SeqCst), 3);
}

#[test]
fn a_record_that_cannot_be_taken_back_breaks_it() {
    let (_dir, journal) = with(|disk| {
        disk.write = |file, bytes, at| file.write_at(&bytes[..3], at);
        disk.truncate = |_, _| Err(failing());
    });
    assert!(matches!(journal.append(ONE, Purpose::NewWork), Err(WriteError::Broken(_))));
    assert!(matches!(journal.append(ONE, Purpose::Completion), Err(WriteError::Broken(_))));
    assert!(matches!(journal.condition(), Condition::Broken(_)));
    assert_eq!(journal.sync(3), Ok(()), "what was durable stays so");
    assert!(journal.compact(&mut |_, _| true).is_err());
    assert!(matches!(journal.condition(), Condition::Broken(why) if why.contains("taken back")));
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    static SYNCS: AtomicU32 = AtomicU32::new(0);
    let (dir, journal) = with(|disk| {
        disk.sync = |_| {
            SYNCS.fetch_add(1, SeqCst);
            Err(failing())
        };
    });
    assert_eq!(journal.sync(3), Ok(()));
    assert_eq!(journal.append(ONE, Purpose::NewWork), Ok(4));
    for _ in 0..2 {
        assert!(matches!(journal.sync(4), Err(WriteError::Broken(_))));
    }
    assert_eq!(SYNCS.load(SeqCst), 1);
    assert!(matches!(journal.condition(), Condition::Broken(why) if why.contains("a bad disk")));
    assert!(matches!(journal.append(ONE, Purpose::Completion), Err(WriteError::Broken(_))));
    assert!(journal.compact(&mut |_, _| true).is_err());
    assert_eq!(names(dir.path()), ["journal"]);
}

/// What a start reads may be in the page cache only.
#[test]
fn what_a_start_finds_is_durable_only_when_it_was_synced() {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    journal.append(ONE, Purpose::NewWork).unwrap();
    drop(journal);
    let (mut journal, seen) = open(&dir);
    assert_eq!(seen.len(), 1);
    journal.disk.sync = |_| Err(failing());
    assert!(matches!(journal.sync(1), Err(WriteError::Broken(_))), "it was not synced");
}

#[test]
fn one_sync_serves_all_that_wait() {
    static SYNCS: AtomicU32 = AtomicU32::new(0);
    static GATE: Mutex<()> = Mutex::new(());
    let (_dir, journal) = with(|disk| {
        disk.sync = |file: &File| {
            SYNCS.fetch_add(1, SeqCst);
            drop(GATE.lock());
            file.sync_data()
        };
    });
    let journal = Arc::new(journal);
    // The first sync is held up until all have appended: then one more has to do for all others.
    let held = GATE.lock().unwrap();
    let (appended, all_appended) = mpsc::channel();
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let (journal, appended) = (Arc::clone(&journal), appended.clone());
            std::thread::spawn(move || {
                let number = journal.append(ONE, Purpose::NewWork).unwrap();
                appended.send(()).unwrap();
                journal.sync(number).unwrap();
                assert!(journal.lock().durable >= number);
            })
        })
        .collect();
    (0..16).for_each(|_| all_appended.recv().unwrap());
    drop(held);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!((1..=2).contains(&SYNCS.load(SeqCst)), "{SYNCS:?}");
}

/// One that comes while a sync is under way waits for the next one; where the sync fails, all hear of it.
#[test]
fn those_that_come_during_a_sync_are_in_the_next_one() {
    static GATE: Mutex<Option<mpsc::Receiver<io::Result<()>>>> = Mutex::new(None);
    static STARTED: Mutex<Option<mpsc::Sender<()>>> = Mutex::new(None);
    let (_dir, journal) = with(|disk| {
        disk.sync = |_| {
            STARTED.lock().unwrap().as_ref().unwrap().send(()).unwrap();
            let go_on = GATE.lock().unwrap().as_ref().unwrap().recv_timeout(DEADLINE);
            // A test that has failed waits for nobody.
            go_on.unwrap_or_else(|e| Err(io::Error::other(e)))
        };
    });
    let ((begun, started), (go_on, gate)) = (mpsc::channel(), mpsc::channel());
    *STARTED.lock().unwrap() = Some(begun);
    *GATE.lock().unwrap() = Some(gate);
    let (told, heard) = mpsc::channel();
    std::thread::scope(|scope| {
        // Dropped where the test fails.
        let (journal, go_on) = (&journal, go_on);
        let writer = || {
            let (told, number) = (told.clone(), journal.append(ONE, Purpose::NewWork).unwrap());
            scope.spawn(move || told.send((number, journal.sync(number).is_ok())).unwrap());
        };
        writer();
        started.recv_timeout(DEADLINE).unwrap();
        (0..8).for_each(|_| writer());
        while journal.waits.load(SeqCst) < 8 {
            crate::threads::pause(Duration::from_millis(1));
        }
        go_on.send(Ok(())).unwrap();
        assert_eq!(heard.recv_timeout(DEADLINE), Ok((4, true)));
        // One of the eight syncs for all of them, whether it waited already or came just now.
        started.recv_timeout(DEADLINE).unwrap();
        assert!(heard.try_recv().is_err(), "told of what is not durable");
        (0..4).for_each(|_| writer());
        go_on.send(Ok(())).unwrap();
        let durable: Vec<u64> = (0..8).map(|_| heard.recv_timeout(DEADLINE).unwrap().0).collect();
        assert!(durable.iter().all(|number| (5..=12).contains(number)), "{durable:?}");
        started.recv_timeout(DEADLINE).unwrap();
        writer();
        go_on.send(Err(failing())).unwrap();
        for _ in 0..5 {
            let (number, good) = heard.recv_timeout(DEADLINE).unwrap();
            assert!((13..=17).contains(&number) && !good);
        }
    });
    assert!(started.try_recv().is_err(), "a failed sync was tried again");
}

#[test]
fn a_compaction_that_fails_changes_nothing() {
    let (dir, journal) = with(|_| {});
    // Its temporary file cannot be made.
    fs::create_dir(dir.path().join("journal.new")).unwrap();
    journal.compact(&mut |_, _| false).unwrap_err();
    fs::remove_dir(dir.path().join("journal.new")).unwrap();
    fill(&journal, 1);
    journal.compact(&mut |number, _| number > 2).unwrap();
    assert_eq!(all(&journal), [(3, json(3)), (4, json(4))]);
    assert_eq!(journal.lock().durable, 4);
}

/// Gates for the sync of one file: it was reached, and may go on.
struct Gates(Mutex<mpsc::Receiver<io::Result<()>>>, Mutex<mpsc::Sender<()>>);

/// A compaction whose sync does not come back before something was appended, and then does so with this.
fn appended_meanwhile(gates: &'static OnceLock<Gates>, result: io::Result<()>, sync: SyncOf) {
    let (dir, journal) = with(|disk| disk.sync = sync);
    journal.sync(3).unwrap();
    let ((go_on, wait), (tell, reached)) = (mpsc::channel(), mpsc::channel());
    assert!(gates.set(Gates(Mutex::new(wait), Mutex::new(tell))).is_ok());
    let fails = result.is_err();
    let written = std::thread::scope(|scope| {
        let compaction = scope.spawn(|| journal.compact(&mut |number, _| number != 2));
        reached.recv_timeout(DEADLINE).expect("a sync of the new file");
        // In a thread of its own: it must not wait for that sync.
        let (journal, (done, appended)) = (&journal, mpsc::channel());
        scope.spawn(move || {
            done.send(
                (4..=40).map(|n| journal.append(&json(n), Purpose::NewWork)).collect::<Vec<_>>(),
            )
        });
        let written = appended.recv_timeout(DEADLINE);
        // A round of the watch finds nothing wrong meanwhile.
        journal.check_file();
        let seen = all(journal).len();
        go_on.send(result).unwrap();
        assert_eq!(compaction.join().unwrap().is_err(), fails);
        (written, seen)
    });
    assert_eq!(written.0.unwrap(), (4..=40).map(Ok).collect::<Vec<_>>());
    assert_eq!(written.1, 2 + 37, "read while the file has no name");
    assert!(journal.health.loss().is_none());
    let numbers = |found: Vec<(u64, String)>| found.into_iter().map(|found| found.0).collect();
    let mut kept: Vec<u64> = (1..=40).filter(|number| *number != 2).collect();
    if fails {
        // None of what came since was ever durable.
        assert!(matches!(journal.condition(), Condition::Broken(_)));
        assert!(matches!(journal.sync(4), Err(WriteError::Broken(_))) && journal.sync(3).is_ok());
        kept = vec![1, 2, 3];
    } else {
        assert_eq!(journal.condition(), Condition::Good);
        assert_eq!(numbers(all(&journal)), kept);
        assert!((4..=40).all(|number| journal.read(number).unwrap() == json(number)));
        assert_eq!(journal.sync(40), Ok(()));
    }
    drop(journal);
    let again: Vec<u64> = numbers(open(&dir).1);
    assert_eq!(again, kept);
    assert_eq!(names(dir.path()), [NAME]);
}

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

type SyncOf = fn(&File) -> io::Result<()>;

fn gated(gates: &OnceLock<Gates>, file: &File) -> io::Result<()> {
    let Some(Gates(wait, tell)) = gates.get() else { return file.sync_data() };
    tell.lock().unwrap().send(()).unwrap();
    wait.lock().unwrap().recv_timeout(DEADLINE).unwrap_or(Ok(()))
}

#[test]
fn nobody_who_writes_waits_for_the_sync_of_a_compaction() {
    static GATES: OnceLock<Gates> = OnceLock::new();
    appended_meanwhile(&GATES, Ok(()), |file| gated(&GATES, file));
}

#[test]
fn a_compaction_whose_last_sync_fails_leaves_the_old_file_and_nothing_that_anybody_was_told_of() {
    static GATES: OnceLock<Gates> = OnceLock::new();
    appended_meanwhile(&GATES, Err(failing()), |file| gated(&GATES, file));
}

#[test]
fn a_mark_that_finds_no_room_breaks_nothing() {
    static FULL: AtomicBool = AtomicBool::new(true);
    let (_dir, journal) = with(|disk| {
        disk.write = |file, bytes, at| {
            if FULL.load(SeqCst) { Err(full()) } else { file.write_at(bytes, at) }
        };
    });
    assert!(matches!(journal.checkpoint(), Err(WriteError::Full(_))));
    assert!(matches!(journal.condition(), Condition::Degraded(_)));
    FULL.store(false, SeqCst);
    assert_eq!((journal.checkpoint(), journal.last(), journal.checkpoint()), (Ok(()), 4, Ok(())));
    assert_eq!((journal.last(), journal.lock().durable), (4, 4));
}

#[test]
fn a_mark_that_is_not_synced_breaks_the_journal() {
    let (_dir, journal) = with(|disk| disk.sync = |_| Err(failing()));
    assert!(matches!(journal.checkpoint(), Err(WriteError::Broken(_))));
    assert!(matches!(journal.condition(), Condition::Broken(_)));
}

/// What others have appended while a sync is under way is not said to be durable by anybody.
#[test]
fn no_record_says_more_than_the_disk_has_kept() {
    static GATE: Mutex<()> = Mutex::new(());
    static STARTED: Mutex<Option<mpsc::Sender<()>>> = Mutex::new(None);
    let (dir, journal) = with(|disk| {
        disk.sync = |file: &File| {
            STARTED.lock().unwrap().take().map(|started| started.send(()));
            drop(GATE.lock());
            file.sync_data()
        };
    });
    let (started, begun) = mpsc::channel();
    *STARTED.lock().unwrap() = Some(started);
    let held = GATE.lock().unwrap();
    journal.append(ONE, Purpose::NewWork).unwrap();
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| journal.sync(4));
        begun.recv().unwrap();
        journal.append(ONE, Purpose::NewWork).unwrap();
        drop(held);
        syncing.join().unwrap().unwrap();
    });
    // Record 5 came during the sync of 4, 6 comes after it, and 5 is not durable yet.
    journal.append(ONE, Purpose::NewWork).unwrap();
    journal.checkpoint().unwrap();
    let text = text(&dir);
    let said: Vec<&str> =
        text.lines().skip(4).filter_map(|line| line.split_once("\"d\":")).map(|l| l.1).collect();
    assert_eq!(said, ["3}", "3}", "4}", "6}"]);
}

/// On a file system of some MiB that is full of others' files, work that was begun is completed.
#[test]
#[ignore = "needs a small file system, its directory in HERMES_SMALL_DISK"]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let disk = PathBuf::from(std::env::var_os("HERMES_SMALL_DISK").unwrap());
    let open = || FileJournal::open(&disk, 1 << 30, &mut |_, _| Ok(()));
    let journal = open().unwrap().0;
    let text = format!("{{\"x\":\"{}\"}}", "x".repeat(1000));
    fill(&journal, 100);
    let filler = disk.join("filler");
    let mut other = File::create(&filler).unwrap();
    while io::Write::write_all(&mut other, &[1; 4096]).is_ok() {}
    let _ = other.sync_all();
    // What was preallocated is used up, then no more is taken in.
    let refused = loop {
        if let Err(refused) = journal.append(&text, Purpose::NewWork) {
            break refused;
        }
    };
    assert!(matches!(refused, WriteError::Full(_)), "{refused:?}");
    let Condition::Degraded(why) = journal.condition() else { panic!("not degraded") };
    println!("{why} (at {})", journal.size());
    for n in 0..800 {
        let number = journal.append(&text, Purpose::Completion);
        journal.sync(number.unwrap_or_else(|e| panic!("completion {n}: {e}"))).unwrap();
    }
    let refused = loop {
        if let Err(refused) = journal.append(&text, Purpose::Completion) {
            break refused;
        }
    };
    println!("{refused}");
    assert!(matches!(refused, WriteError::Full(_)), "{refused:?}");
    journal.append(ONE, Purpose::Completion).unwrap();
    let (last, size) = (journal.last(), journal.size());
    journal.sync(last).unwrap();
    assert_eq!(written(&disk.join(NAME)).len() as u64, size);
    assert!(journal.compact(&mut |_, _| true).is_err());
    assert!(!disk.join("journal.new").exists());
    drop(other);
    fs::remove_file(&filler).unwrap();
    assert_eq!(probe(&journal), Condition::Good);
    assert_eq!(journal.append(&text, Purpose::NewWork), Ok(last + 1));
    journal.compact(&mut |number, _| number % 2 == 0).unwrap();
    journal.sync(journal.last()).unwrap();
    drop(journal);
    let (journal, opened) = open().unwrap();
    assert_eq!(
        (journal.last(), all(&journal).len() as u64, opened),
        (last + 1, last.div_ceil(2), Vec::new())
    );
}
