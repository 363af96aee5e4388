//! Power cuts over a disk that writes its sectors in any order: of what was not synced, any part may
//! be there. Nothing acknowledged is lost, every start goes on by itself, and rot is still found.

use super::*;
use crate::testing::rounds;

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit as u64).unwrap()
    }
}

/// No room, less than most records, and more than a life takes.
const ROOMS: [fn(&fs::File) -> u64; 3] = [|_| 0, |_| 1000, |_| 32 << 10];

/// A journal and its disk: what is on it for certain, and all states of the file since.
struct Rig {
    dir: TempDir,
    dice: Dice,
    synced: Vec<u8>,
    states: Vec<Vec<u8>>,
    /// Records whose sync has returned.
    acknowledged: Vec<(u64, String)>,
    unsynced: Vec<(u64, String)>,
    /// Of records up to this one the disk itself says that they were durable.
    known_durable: u64,
}

impl Rig {
    fn bytes(&self) -> Vec<u8> {
        fs::read(self.dir.path().join(NAME)).unwrap()
    }

    fn settled(&mut self) {
        self.synced = self.bytes();
        self.states.clear();
        self.acknowledged.append(&mut self.unsynced);
    }

    /// Some writes, syncs, checkpoints and compactions.
    fn live(&mut self, journal: &FileJournal) {
        for _ in 0..=self.dice.below(5) {
            self.write(journal);
            match self.dice.below(8) {
                0..3 => journal.sync(journal.last()).unwrap(),
                3..5 => {
                    journal.checkpoint().unwrap();
                    self.known_durable = journal.last();
                }
                5 => {
                    let from = journal.last().saturating_sub(20);
                    journal.compact(&mut |number, _| number > from).unwrap();
                    self.acknowledged.retain(|(number, _)| *number > from);
                    self.unsynced.retain(|(number, _)| *number > from);
                    self.known_durable = journal.last();
                }
                _ => continue,
            }
            self.settled();
        }
        self.write(journal);
    }

    fn write(&mut self, journal: &FileJournal) {
        for _ in 0..=self.dice.below(9) {
            let length = [3, 30, 300, 3000][self.dice.below(4)];
            let json = format!(r#"{{"n":"{}"}}"#, "x".repeat(length));
            let number = journal.append(&json, Purpose::NewWork).unwrap();
            self.unsynced.push((number, json));
            let bytes = self.bytes();
            let size = usize::try_from(journal.size()).unwrap();
            assert!(bytes[size..].iter().all(|byte| *byte == 0), "old records are in the room");
            self.states.push(bytes);
        }
    }

    /// What is on the disk when the power goes: each sector as it was at some time since the sync.
    fn cut(&mut self) -> Vec<u8> {
        let sector = [512, 4096][self.dice.below(2)];
        self.states.insert(0, self.synced.clone());
        let mut disk = self.states[self.dice.below(self.states.len())].clone();
        for (at, part) in disk.chunks_mut(sector).enumerate().map(|(n, part)| (n * sector, part)) {
            let state = &self.states[self.dice.below(self.states.len())];
            let there = state.get(at..).unwrap_or_default();
            let length = there.len().min(part.len());
            part.fill(0);
            part[..length].copy_from_slice(&there[..length]);
        }
        disk
    }

    /// A bit of a record of which the disk says that it was durable turns over: the start refuses
    /// and names the place.
    fn rot(&mut self, disk: &[u8]) {
        let Some((number, _)) = self.acknowledged.iter().rfind(|(n, _)| *n <= self.known_durable)
        else {
            return;
        };
        let numbers: Vec<u64> =
            self.acknowledged.iter().map(|(number, _)| *number).filter(|n| n <= number).collect();
        // The last one, and any.
        for number in [*number, numbers[self.dice.below(numbers.len())]] {
            let mut lines = disk.split_inclusive(|byte| *byte == b'\n');
            let mut start = 0;
            let is_it = |line: &&[u8]| line[8..].starts_with(format!(" {number} ").as_bytes());
            let line = lines
                .find(|line| {
                    is_it(line) || {
                        start += line.len();
                        false
                    }
                })
                .unwrap();
            let at = start + self.dice.below(line.len());
            let mut rotten = disk.to_vec();
            rotten[at] ^= 1 << self.dice.below(8);
            let path = self.dir.path().join("rotten");
            fs::write(&path, &rotten).unwrap();
            let refused = inspect(&path, &mut |_, _| Ok(()));
            let place = refused.expect_err("rot went unnoticed").place.unwrap();
            assert_eq!(place.0, start as u64, "record {number}, byte {at}");
        }
    }
}

#[test]
fn any_part_of_what_was_not_synced_may_be_there_after_a_power_cut() {
    let cuts = rounds(500, 5000);
    let mut torn = 0;
    for life in 0..cuts / 5 {
        let dir = TempDir::new("journal");
        let dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (life + 1));
        let (acknowledged, unsynced) = (Vec::new(), Vec::new());
        let (synced, states) = (Vec::new(), Vec::new());
        let mut rig = Rig { dir, dice, synced, states, acknowledged, unsynced, known_durable: 0 };
        let mut journal = open(&rig.dir).0;
        rig.settled();
        for _ in 0..5 {
            rig.live(&journal);
            let disk = rig.cut();
            rig.rot(&disk);
            let path = rig.dir.path().join(NAME);
            fs::write(&path, &disk).unwrap();
            let mut seen = Vec::new();
            let note = &mut |number, json: &str| {
                seen.push((number, json.to_owned()));
                Ok(())
            };
            let opened = FileJournal::open(rig.dir.path(), CAP, note);
            let (mut started, opened) =
                opened.unwrap_or_else(|e| panic!("life {life}: refused: {e}"));
            started.disk.room = ROOMS[rig.dice.below(ROOMS.len())];
            let behind = seen.split_off(rig.acknowledged.len().min(seen.len()));
            assert!(seen == rig.acknowledged, "life {life}: something acknowledged is lost");
            assert!(rig.unsynced.starts_with(&behind), "life {life}: an invented record");
            torn += u32::from(opened.concat().contains("journal.torn"));
            // What this start has found is on the disk, and is so before anybody hears of it.
            rig.unsynced = behind;
            rig.settled();
            journal = started;
        }
    }
    assert!(u64::from(torn) > cuts / 10, "{torn} of {cuts} cuts left a record behind a hole");
}
