//! Many writers, readers and compactions at once.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::*;
use crate::threads::{lock, pause};

const WRITERS: u64 = 16;
const EACH: u64 = 40;

#[test]
fn nothing_is_lost_while_the_journal_is_compacted() {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    let done = AtomicBool::new(false);
    let dead = |json: &str| json.starts_with("{\"dead");
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let journal = &journal;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let purpose = Purpose::NewWork;
                        journal.append(&format!("{{\"dead\":\"{writer} {n}\"}}"), purpose).unwrap();
                        let text = format!("{{\"live\":\"{writer} {n}\"}}");
                        let number = journal.append(&text, purpose).unwrap();
                        journal.sync(number).unwrap();
                        assert_eq!(journal.read(number).unwrap(), text);
                    }
                })
            })
            .collect();
        let (journal, done) = (&journal, &done);
        let compactor = scope.spawn(move || {
            let mut let_go = BTreeSet::new();
            let mut rounds = 0;
            while !done.load(SeqCst) {
                let keep = &mut |number, json: &str| !dead(json) || !let_go.insert(number);
                journal.compact(keep).unwrap();
                rounds += 1;
            }
            rounds
        });
        scope.spawn(move || {
            while !done.load(SeqCst) {
                let mut before = 0;
                let order = &mut |number, _: &str| std::mem::replace(&mut before, number) < number;
                journal.scan(0, order).unwrap();
            }
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // Also when a writer has failed: the others go on until they are told.
        done.store(true, SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a writer has failed");
        assert!(compactor.join().unwrap() > 1);
    });
    assert_eq!(journal.last(), WRITERS * EACH * 2);
    let seen = all(&journal);
    drop(journal);
    assert_eq!(open(&dir).1, seen);
    for writer in 0..WRITERS {
        let own = format!("{{\"live\":\"{writer} ");
        let own: Vec<&str> =
            seen.iter().map(|(_, json)| json.as_str()).filter(|j| j.starts_with(&own)).collect();
        let expected: Vec<String> =
            (0..EACH).map(|n| format!("{{\"live\":\"{writer} {n}\"}}")).collect();
        assert_eq!(own, expected, "lost, or out of order");
    }
}

/// However those that wait come together, each hears of its record.
#[test]
fn nobody_is_left_waiting() {
    let dir = TempDir::new("journal");
    let mut journal = open(&dir).0;
    // So long that most come while it is under way.
    journal.disk.sync = |_| {
        pause(Duration::from_micros(200));
        Ok(())
    };
    let (journal, (told, heard)) = (Arc::new(journal), mpsc::channel());
    // Each crowd has an end, behind which nobody comes who would sync for those that still wait.
    for _ in 0..20 {
        for writer in 0..4 * WRITERS {
            let (journal, told) = (Arc::clone(&journal), told.clone());
            thread::spawn(move || {
                for n in 0..EACH / 4 {
                    let number = journal.append(ONE, Purpose::NewWork).unwrap();
                    if (n + writer) % 7 > 0 {
                        journal.sync(number).unwrap();
                        assert!(journal.lock().durable >= number);
                    }
                }
                told.send(()).unwrap();
            });
        }
        for _ in 0..4 * WRITERS {
            heard.recv_timeout(Duration::from_secs(20)).expect("somebody waits for ever");
        }
    }
    assert_eq!(journal.last(), 20 * WRITERS * EACH);
}

/// How many threads of this name sleep.
fn sleeping(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter(|stat| stat.contains(&format!("({name}) S "))).count()
}

/// Who was woken to sync for the others learns first that it is of no use, and goes.
#[test]
fn a_journal_that_breaks_between_two_syncs_lets_nobody_wait() {
    // It may also be so quick that it syncs before.
    assert!((0..100).any(|_| breaks_between_two_syncs()), "who was woken always syncs");
}

/// Whether the journal broke before who was woken began to sync; nobody waits for ever in any case.
fn breaks_between_two_syncs() -> bool {
    static FAILS: AtomicBool = AtomicBool::new(false);
    static SYNCS: AtomicU64 = AtomicU64::new(0);
    static MAY_END: AtomicU64 = AtomicU64::new(0);
    FAILS.store(false, SeqCst);
    SYNCS.store(0, SeqCst);
    MAY_END.store(0, SeqCst);
    let dir = TempDir::new("journal");
    let mut journal = open(&dir).0;
    journal.disk.write = |file, bytes, at| match FAILS.load(SeqCst) {
        true => Err(io::ErrorKind::Other.into()),
        false => file.write_at(bytes, at),
    };
    journal.disk.truncate = |_, _| Err(io::ErrorKind::Other.into());
    journal.disk.sync = |_| {
        let own = SYNCS.fetch_add(1, SeqCst);
        while MAY_END.load(SeqCst) <= own {
            thread::yield_now();
        }
        Ok(())
    };
    let journal = Arc::new(journal);
    let (told, heard) = mpsc::channel();
    for _ in 0..4 {
        let number = journal.append(ONE, Purpose::NewWork).unwrap();
        let (waiting, told) = (Arc::clone(&journal), told.clone());
        let work = move || told.send(waiting.sync(number)).unwrap();
        thread::Builder::new().name("waits".to_owned()).spawn(work).unwrap();
        while !journal.lock().syncing {
            thread::yield_now();
        }
    }
    // Who does not wait by then has nothing to miss; the first one syncs.
    while sleeping("waits") < 3 {
        pause(Duration::from_millis(1));
    }
    // The sync of the first has ended, and nobody has heard of it yet.
    MAY_END.store(1, SeqCst);
    let held = loop {
        let told = lock(&journal.told);
        if told.ended == 1 {
            break told;
        }
        drop(told);
        thread::yield_now();
    };
    let in_time = !journal.lock().syncing;
    FAILS.store(true, SeqCst);
    let breaks = thread::spawn({
        let journal = Arc::clone(&journal);
        move || journal.append(ONE, Purpose::NewWork)
    });
    while !matches!(journal.condition(), Condition::Broken(_)) {
        thread::yield_now();
    }
    drop(held);
    MAY_END.store(9, SeqCst);
    assert!(matches!(breaks.join().unwrap(), Err(WriteError::Broken(_))));
    for _ in 0..4 {
        let result = heard.recv_timeout(Duration::from_secs(20)).expect("somebody waits for ever");
        assert!(matches!(result, Ok(()) | Err(WriteError::Broken(_))));
    }
    in_time
}

/// What hangs is called by its name: a checkpoint is written, and then synced.
#[test]
fn a_checkpoint_that_hangs_in_its_sync_is_no_write() {
    static SYNCS: AtomicU64 = AtomicU64::new(0);
    static MAY_END: AtomicBool = AtomicBool::new(false);
    let dir = TempDir::new("journal");
    let mut journal = open(&dir).0;
    journal.disk.sync = |_| {
        let own = SYNCS.fetch_add(1, SeqCst);
        while own > 0 && !MAY_END.load(SeqCst) {
            thread::yield_now();
        }
        Ok(())
    };
    journal.append(ONE, Purpose::NewWork).unwrap();
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| journal.checkpoint());
        while SYNCS.load(SeqCst) < 2 {
            thread::yield_now();
        }
        let hangs = journal.health().stalled(Duration::ZERO).unwrap();
        MAY_END.store(true, SeqCst);
        assert!(hangs.contains("a sync of the journal"), "{hangs}");
        checkpoint.join().unwrap().unwrap();
    });
}

/// Records come into the room while somebody looks at what was zeros a moment ago.
#[test]
fn whoever_looks_at_a_file_that_is_written_finds_nothing_wrong() {
    let dir = TempDir::new("journal");
    let mut journal = open(&dir).0;
    journal.disk.room = |_| 256 << 10;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..20 * WRITERS * EACH {
                let number = journal.append(&json(n), Purpose::NewWork).unwrap();
                journal.sync(if n % 8 == 0 { number } else { 0 }).unwrap();
            }
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) {
            let mut next = 0;
            let report = inspect(&dir.path().join(NAME), &mut |number, json| {
                next += 1;
                (number == next && json == super::json(next - 1))
                    .then_some(())
                    .ok_or_else(|| format!("{number}: {json}"))
            });
            assert_eq!(report.unwrap().records, next);
        }
    });
}

#[test]
fn a_compaction_is_not_taken_for_a_replacement_of_the_file() {
    let dir = TempDir::new("journal");
    let (journal, _) = open(&dir);
    fill(&journal, 3);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (journal, done) = (&journal, &done);
        let watch = scope.spawn(move || {
            while !done.load(SeqCst) {
                journal.check_file();
            }
        });
        for _ in 0..50 {
            journal.compact(&mut |_, _| true).unwrap();
        }
        done.store(true, SeqCst);
        watch.join().unwrap();
    });
    assert_eq!(journal.condition(), Condition::Good);
    fs::remove_file(dir.path().join(NAME)).unwrap();
    journal.check_file();
    assert!(matches!(journal.condition(), Condition::Degraded(why) if why.contains("removed")));
    assert!(matches!(
        journal.append(r#"{"n":1}"#, Purpose::Completion),
        Err(WriteError::Broken(_))
    ));
    assert!(journal.compact(&mut |_, _| true).is_err(), "nothing takes the lost file's place");
}

/// Not a test of right or wrong: what it costs, with `--ignored --nocapture`, for release builds.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::too_many_lines, reason = "a list of cases")]
fn figures() {
    use std::time::Instant;
    let dir = TempDir::new("journal");
    let base = std::env::var_os("HERMES_FIGURES_DIR").map(PathBuf::from);
    let at = base.as_deref().unwrap_or(dir.path());
    let (journal, _) = FileJournal::open(at, 1 << 30, &mut |_, _| Ok(())).unwrap();
    let (fill, id) = ("x".repeat(170), "01JD0000000000000000000000");
    for _ in 0..100_000 {
        let json = format!(
            r#"{{"t":"accepted","id":"{id}","at":1700000000000,"principal":"owner","session":"work","text":"{fill}\n"}}"#
        );
        journal.append(&json, Purpose::NewWork).unwrap();
    }
    let start = Instant::now();
    journal.sync(journal.last()).unwrap();
    println!("{} bytes, synced in {:?}", journal.size(), start.elapsed());
    drop(journal);
    for _ in 0..3 {
        let start = Instant::now();
        FileJournal::open(at, CAP, &mut |_, _| Ok(())).unwrap();
        let bare = start.elapsed();
        let start = Instant::now();
        let mut texts = 0;
        let parse = &mut |_, json: &str| {
            record::Record::parse(json)
                .map(|record| texts += usize::from(record.to_json().is_empty()))
        };
        FileJournal::open(at, CAP, parse).unwrap();
        let round_trip = start.elapsed();
        let start = Instant::now();
        let mut records = Vec::new();
        let parse = &mut |_, json: &str| record::Record::parse(json).map(|r| records.push(r));
        FileJournal::open(at, CAP, parse).unwrap();
        println!(
            "open {bare:?}, parsing and kept {:?}, and to_json {round_trip:?}",
            start.elapsed()
        );
    }
    let (journal, _) = FileJournal::open(at, CAP, &mut |_, _| Ok(())).unwrap();
    let start = Instant::now();
    journal.compact(&mut |number, _| number % 2 == 0).unwrap();
    println!("compaction to half {:?}", start.elapsed());
    let start = Instant::now();
    for n in 0..1000 {
        journal.read(2 + n * 98).unwrap();
    }
    println!("read {:?}", start.elapsed() / 1000);
    for writers in [1, 4, 16, 64] {
        let (each, text) = (2000 / writers, format!("{{\"x\":\"{}\"}}", "x".repeat(280)));
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..writers {
                scope.spawn(|| {
                    for _ in 0..each {
                        let number = journal.append(&text, Purpose::NewWork).unwrap();
                        journal.sync(number).unwrap();
                    }
                });
            }
        });
        let rate = f64::from(each * writers) / start.elapsed().as_secs_f64();
        println!("{writers} writers: {rate:.0} durable records a second");
    }
    let path = at.join("bare");
    let mut bare = fs::File::create(&path).unwrap();
    let start = Instant::now();
    for _ in 0..1000 {
        io::Write::write_all(&mut bare, &[b'x'; 300]).unwrap();
        bare.sync_data().unwrap();
    }
    println!("bare: {:.0} writes with fdatasync a second", 1000.0 / start.elapsed().as_secs_f64());
    fs::remove_file(path).unwrap();
}
