//! Transcripts: whole turns, within a cap, in agreement with the journal whatever a power cut left.

use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::session::message_table::session_digest;
use crate::testing::TempDir;

const CAP: usize = 16 << 10;

/// One session of one principal and its file.
struct Page {
    transcripts: Transcripts,
    owner: Owner,
    session: Digest,
    dir: TempDir,
}

impl Transcripts {
    fn is_settled(&self, session: Digest) -> bool {
        lock(&self.reconciled).contains_key(&session)
    }
}

fn who(principal: &str, session: &str) -> Owner {
    Owner::new(principal.to_owned(), Some(session.to_owned()))
}

fn page() -> Page {
    let dir = TempDir::new("transcript");
    let transcripts = Transcripts::new(dir.path().join("sessions"));
    Page { transcripts, owner: who("owner", "work"), session: session_digest("owner", "work"), dir }
}

fn turn(id: u32) -> Turn {
    Turn {
        id: Id::from(id),
        asked_at: u64::from(id) * 10,
        text: format!("question {id}\n\"ä\\"),
        answered_at: u64::from(id) * 10 + 1,
        reply: format!("answer {id}\t\u{1}"),
    }
}

fn long(id: u32, bytes: usize) -> Turn {
    let mut turn = turn(id);
    let more = bytes - turn.lines().len();
    turn.reply.push_str(&"x".repeat(more));
    assert_eq!(turn.lines().len(), bytes);
    turn
}

impl Page {
    fn path(&self) -> PathBuf {
        self.transcripts.path(self.session)
    }

    fn append(&self, turn: &Turn, cap: usize) {
        self.transcripts.append(self.session, &self.owner, turn, (cap, false), &|| true).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// The turns in the file, which has nothing but whole ones.
    fn ids(&self) -> Vec<u32> {
        ids(&self.bytes())
    }

    /// What a start does: `said` and `unsaid` are what the journal knows.
    fn reconcile(&self, said: &[u32], unsaid: &[u32], cap: usize) -> Vec<u32> {
        let known = || {
            let mut known = Known {
                answered: said.iter().map(|id| Id::from(*id)).collect(),
                ..Known::default()
            };
            known.unanswered.extend(unsaid.iter().map(|id| Id::from(*id)));
            known
        };
        let loaded = Cell::new(0);
        let load = |id: Id| {
            loaded.set(loaded.get() + 1);
            Ok(turn(u32::try_from(id.0).unwrap()))
        };
        self.transcripts.mark_stale(self.session);
        self.transcripts.reconcile((self.session, true), &self.owner, cap, &known, &load).unwrap();
        assert!(self.transcripts.is_settled(self.session));
        assert!(loaded.get() <= said.len());
        self.ids()
    }
}

/// Every line is JSON, and each two of them a turn, in order.
fn ids(bytes: &[u8]) -> Vec<u32> {
    let text = std::str::from_utf8(bytes).expect("text");
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let number =
        |line: &Value| u32::try_from(Id::parse(line["id"].as_str().unwrap()).unwrap().0).unwrap();
    assert_eq!(lines.len() % 2, 0);
    let turns: Vec<u32> = lines
        .chunks(2)
        .map(|pair| {
            let id = number(&pair[0]);
            let whole = turn(id);
            assert_eq!((&pair[0]["role"], &pair[1]["role"]), (&"user".into(), &"assistant".into()));
            assert_eq!(pair[0]["content"], whole.text);
            assert!(pair[1]["content"].as_str().unwrap().starts_with(&whole.reply));
            assert_eq!(
                (&pair[0]["at"], &pair[1]["at"]),
                (&(id * 10).into(), &(id * 10 + 1).into())
            );
            assert_eq!(number(&pair[1]), id);
            id
        })
        .collect();
    assert!(turns.is_sorted_by(|a, b| a < b), "{turns:?}");
    turns
}

#[test]
fn turns_are_appended() {
    let page = page();
    for id in 1..=3 {
        page.append(&turn(id), CAP);
    }
    assert_eq!(page.ids(), [1, 2, 3]);
    let gone =
        page.transcripts.append(page.session, &page.owner, &turn(4), (CAP, false), &|| false);
    gone.unwrap();
    assert_eq!(page.ids(), [1, 2, 3], "its session was reset meanwhile");
}

#[test]
fn files_are_private_and_their_names_say_nothing() {
    let page = page();
    let key = "Sekret../é\0\n";
    let session = session_digest("owner", key);
    page.transcripts.append(session, &who("owner", key), &turn(1), (CAP, false), &|| true).unwrap();
    let dir = page.dir.path().join("sessions");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (stem, _) = name.split_once('.').unwrap();
        assert!(stem.len() == 32 && stem.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        assert_eq!(mode(file), 0o600, "{name}");
    }
    // Also when it was written anew.
    for id in 2..200 {
        page.transcripts
            .append(session, &who("owner", key), &turn(id), (4096, false), &|| true)
            .unwrap();
    }
    assert_eq!(mode(&page.transcripts.path(session)), 0o600);
    let about = page.transcripts.find(session).unwrap();
    assert_eq!(about.owner, who("owner", key));
    assert_eq!(about.bytes, fs::metadata(page.transcripts.path(session)).unwrap().len());
}

#[test]
fn a_link_is_not_followed() {
    let page = page();
    page.append(&turn(1), CAP);
    let elsewhere = page.dir.path().join("elsewhere");
    fs::rename(page.path(), &elsewhere).unwrap();
    symlink(&elsewhere, page.path()).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    let append =
        page.transcripts.append(page.session, &page.owner, &turn(2), (CAP, false), &|| true);
    append.unwrap_err();
    page.transcripts.remove_turn(page.session, Id::from(1)).unwrap_err();
    let reconcile = page.transcripts.reconcile(
        (page.session, true),
        &page.owner,
        CAP,
        &|| Known { answered: vec![Id::from(2)], ..Known::default() },
        &|_| Ok(turn(2)),
    );
    reconcile.unwrap_err();
    assert_eq!(fs::read(&elsewhere).unwrap(), before);
}

/// A reset removes the files while a compaction is about to look at them.
#[test]
fn a_transcript_that_is_gone_is_made_anew_only_for_a_turn() {
    let page = page();
    let reconcile = |create: bool| {
        let (known, load) = (&|| Known::default(), &|_| Ok(turn(1)));
        page.transcripts.reconcile((page.session, create), &page.owner, CAP, known, load).unwrap();
        page.transcripts.find(page.session).is_some()
    };
    assert!(!reconcile(false));
    assert!(!page.transcripts.is_settled(page.session));
    assert!(reconcile(true));
}

#[test]
fn the_oldest_turns_go_by_whole_turns() {
    for cap in [4096, 5000, 8191] {
        let page = page();
        let mut appended = 0;
        for id in 1..400 {
            page.append(&turn(id), cap);
            appended += 1;
            let ids = page.ids();
            let bytes = page.bytes().len();
            assert!(bytes <= cap, "{bytes} > {cap}");
            assert_eq!(ids.last(), Some(&appended));
            let first = ids[0];
            assert_eq!(ids, (first..=appended).collect::<Vec<_>>(), "without a gap");
            assert!(first == 1 || bytes > cap / 2, "no more goes than has to: {bytes} of {cap}");
        }
    }
}

#[test]
fn a_turn_of_the_size_of_the_cap_is_kept_alone() {
    let page = page();
    page.append(&turn(1), CAP);
    page.append(&long(2, CAP), CAP);
    assert_eq!((page.ids(), page.bytes().len()), (vec![2], CAP));
    page.append(&turn(3), CAP);
    assert_eq!(page.ids(), [3]);
}

#[test]
fn a_turn_larger_than_the_cap_is_left_out() {
    let page = page();
    page.append(&long(1, CAP + 1), CAP);
    assert!(page.ids().is_empty());
    page.append(&turn(2), CAP);
    page.append(&long(3, CAP + 1), CAP);
    assert!(!page.ids().contains(&3));
    page.append(&turn(4), CAP);
    assert_eq!(page.ids().last(), Some(&4));
}

#[test]
fn a_start_makes_an_empty_file_for_the_first_turn() {
    let page = page();
    assert!(page.reconcile(&[], &[], CAP).is_empty());
    assert!(page.path().exists());
    assert_eq!(page.transcripts.find(page.session).unwrap().bytes, 0);
    page.append(&turn(1), CAP);
    assert_eq!(page.ids(), [1]);
}

#[test]
fn a_start_puts_back_what_is_missing() {
    let page = page();
    assert_eq!(page.reconcile(&[1, 2, 3], &[], CAP), [1, 2, 3]);
    fs::write(page.path(), turn(1).lines()).unwrap();
    assert_eq!(page.reconcile(&[1, 2, 3], &[], CAP), [1, 2, 3]);
    fs::remove_file(page.path()).unwrap();
    assert_eq!(page.reconcile(&[1, 2, 3], &[], CAP), [1, 2, 3]);
    // What the journal has forgotten stays.
    assert_eq!(page.reconcile(&[4], &[], CAP), [1, 2, 3, 4]);
    assert_eq!(page.reconcile(&[], &[], CAP), [1, 2, 3, 4]);
}

#[test]
fn a_start_puts_back_no_more_than_has_room() {
    let page = page();
    let said: Vec<u32> = (1..=300).collect();
    let ids = page.reconcile(&said, &[], 4096);
    assert_eq!(ids.last(), Some(&300));
    assert_eq!(ids, (ids[0]..=300).collect::<Vec<_>>());
    assert!((2048..=4096).contains(&page.bytes().len()), "{}", page.bytes().len());
}

#[test]
fn a_start_takes_out_what_was_never_said() {
    let page = page();
    for id in 1..=4 {
        page.append(&turn(id), CAP);
    }
    assert_eq!(page.reconcile(&[1, 3], &[4], CAP), [1, 2, 3]);
    assert_eq!(page.reconcile(&[1, 3], &[2], CAP), [1, 3]);
    assert_eq!(page.reconcile(&[1, 5], &[3], CAP), [1, 5]);
}

#[test]
fn a_start_repairs_what_a_power_cut_left() {
    let (one, two) = (turn(1).lines(), turn(2).lines());
    let asked = two.split_inclusive('\n').next().unwrap().to_owned();
    let torn = [
        two[..two.len() - 1].to_owned(),
        two[..10].to_owned(),
        asked.clone(),
        "\0".repeat(4096),
        format!("{asked}\0\0\0\0\n"),
        format!("{asked}{asked}"),
        format!("{}{}", asked, one.split_inclusive('\n').nth(1).unwrap()),
        "null\nnull\n".to_owned(),
        "\n\n".to_owned(),
        "{}\n{}\n".to_owned(),
    ];
    for junk in &torn {
        for said in [&[1, 2][..], &[1, 2, 3], &[1]] {
            let page = page();
            page.append(&turn(1), CAP);
            fs::write(page.path(), format!("{one}{junk}")).unwrap();
            assert_eq!(page.reconcile(said, &[], CAP), said, "{junk:?}");
            page.append(&turn(9), CAP);
            assert_eq!(page.ids().last(), Some(&9), "{junk:?}");
        }
    }
    // At every byte.
    for length in 0..(one.len() + two.len()) {
        let page = page();
        page.append(&turn(1), CAP);
        let whole = format!("{one}{two}");
        fs::write(page.path(), &whole.as_bytes()[..length]).unwrap();
        assert_eq!(page.reconcile(&[1, 2], &[], CAP), [1, 2], "cut at {length}");
    }
}

#[test]
fn a_start_repairs_what_is_no_text() {
    for junk in [&[0xff_u8, 0xfe][..], b"\xc3", b"\xff\n", b"{\"role\":\"user\",\"content\":\"\xff"]
    {
        for said in [&[1_u32][..], &[1, 2]] {
            let page = page();
            page.append(&turn(1), CAP);
            fs::write(page.path(), [turn(1).lines().as_bytes(), junk].concat()).unwrap();
            page.transcripts.mark_stale(page.session);
            let known = || Known {
                answered: said.iter().map(|id| Id::from(*id)).collect(),
                ..Known::default()
            };
            let load = |id: Id| Ok(turn(u32::try_from(id.0).unwrap()));
            page.transcripts
                .reconcile((page.session, true), &page.owner, CAP, &known, &load)
                .unwrap();
            let left = page.bytes();
            let clean: String = said.iter().map(|id| turn(*id).lines()).collect();
            assert_eq!(left, clean.as_bytes(), "{junk:?} is there: the next turn comes behind it");
            assert_eq!(ids(&left), said);
        }
    }
}

#[test]
fn a_start_that_cannot_read_a_turn_is_tried_again() {
    let page = page();
    let known = || Known { answered: vec![Id::from(1)], ..Known::default() };
    let fails = |_: Id| Err(ErrorKind::Other.into());
    page.transcripts.reconcile((page.session, true), &page.owner, CAP, &known, &fails).unwrap_err();
    assert!(!page.transcripts.is_settled(page.session));
    assert_eq!(page.reconcile(&[1], &[], CAP), [1]);
    let again = |_: Id| panic!("it is reconciled");
    page.transcripts.reconcile((page.session, true), &page.owner, CAP, &known, &again).unwrap();
}

#[test]
fn a_turn_whose_record_is_damaged_is_left_out_and_no_other() {
    let page = page();
    let known = || Known { answered: [1, 2, 3].map(Id::from).to_vec(), ..Known::default() };
    let load = |id: Id| match u32::try_from(id.0).unwrap() {
        2 => Err(ErrorKind::InvalidData.into()),
        number => Ok(turn(number)),
    };
    page.transcripts.reconcile((page.session, true), &page.owner, CAP, &known, &load).unwrap();
    assert!(page.transcripts.is_settled(page.session));
    assert_eq!(ids(&page.bytes()), [1, 3]);
}

#[test]
fn an_attempt_without_an_end_is_taken_back() {
    let page = page();
    page.transcripts.remove_turn(page.session, Id::from(1)).unwrap();
    for id in [1, 2, 5] {
        page.append(&turn(id), CAP);
    }
    page.transcripts.remove_turn(page.session, Id::from(6)).unwrap();
    assert_eq!(page.ids(), [1, 2, 5]);
    page.transcripts.remove_turn(page.session, Id::from(5)).unwrap();
    assert_eq!(page.ids(), [1, 2]);
    page.append(&turn(5), CAP);
    assert_eq!(page.ids(), [1, 2, 5]);
    // A failed turn may run again when later ones have their replies: those stay.
    page.transcripts.remove_turn(page.session, Id::from(2)).unwrap();
    assert_eq!(page.ids(), [1, 5]);
    for id in [5, 1] {
        page.transcripts.remove_turn(page.session, Id::from(id)).unwrap();
    }
    assert!(page.ids().is_empty());
}

#[test]
fn a_late_reply_stands_where_its_message_was_accepted() {
    let page = page();
    for id in [2, 5, 7] {
        page.append(&turn(id), CAP);
    }
    let late = |id: u32| {
        let turn = turn(id);
        page.transcripts.append(page.session, &page.owner, &turn, (CAP, true), &|| true).unwrap();
    };
    late(3);
    assert_eq!(page.ids(), [2, 3, 5, 7]);
    // Also where a crash took it from the file; what is older than the first made room for others.
    page.transcripts.remove_turn(page.session, Id::from(3)).unwrap();
    assert_eq!(page.reconcile(&[1, 2, 3, 5, 7], &[], CAP), [2, 3, 5, 7]);
}

#[test]
fn taking_back_leaves_whole_turns_also_where_the_last_line_is_torn() {
    let page = page();
    page.append(&turn(1), CAP);
    let text = format!("{}{}{}", turn(1).lines(), turn(2).lines(), "{\"role\":\"us");
    fs::write(page.path(), text).unwrap();
    page.transcripts.remove_turn(page.session, Id::from(2)).unwrap();
    assert_eq!(page.ids(), [1]);
}

#[test]
fn a_reset_forgets_what_was_said() {
    let page = page();
    page.reconcile(&[1, 2], &[], CAP);
    page.transcripts.remove(page.session, true, &|| true).unwrap();
    assert!(page.transcripts.find(page.session).is_none());
    assert!(!page.transcripts.is_settled(page.session));
    assert_eq!(fs::read_dir(page.dir.path().join("sessions")).unwrap().count(), 0);
    page.transcripts.remove(page.session, true, &|| true).unwrap();
    assert_eq!(page.reconcile(&[3], &[], CAP), [3]);
}

#[test]
fn principals_do_not_see_each_other() {
    let page = page();
    let (mine, theirs) = (who("a", "bc"), who("ab", "c"));
    for (at, who) in [&mine, &theirs, &who("b", "bc")].into_iter().enumerate() {
        let id = u32::try_from(at).unwrap() + 1;
        let session = who.digest().unwrap();
        page.transcripts.append(session, who, &turn(id), (CAP, false), &|| true).unwrap();
        assert_eq!(ids(&fs::read(page.transcripts.path(session)).unwrap()), [id]);
        assert_eq!(page.transcripts.find(session).unwrap().owner, *who);
    }
    page.transcripts.remove(mine.digest().unwrap(), true, &|| true).unwrap();
    assert!(page.transcripts.find(mine.digest().unwrap()).is_none());
    assert!(page.transcripts.find(theirs.digest().unwrap()).is_some());
}

#[test]
fn all_sessions_are_listed() {
    let page = page();
    let listed = |principal: &str| {
        let mut listed = Vec::new();
        page.transcripts.list(&|it| it == principal, &mut |about| listed.push(about)).unwrap();
        listed.sort_by(|a, b| a.owner.session.cmp(&b.owner.session));
        listed
    };
    assert!(listed("owner").is_empty(), "the directory is not there yet");
    let all: Vec<Owner> = (0..5).map(|at| who("owner", &format!("s{at}"))).collect();
    for who in &all {
        let session = who.digest().unwrap();
        page.transcripts.append(session, who, &turn(1), (CAP, false), &|| true).unwrap();
    }
    let dir = page.dir.path().join("sessions");
    for (name, text) in [("junk", "x"), ("zz.json", "{}"), ("1.json", "{}"), (".json", "{}")] {
        fs::write(dir.join(name), text).unwrap();
    }
    let owners = listed("owner");
    assert_eq!(owners.iter().map(|about| about.owner.clone()).collect::<Vec<_>>(), all);
    assert!(owners.iter().all(|about| about.bytes == turn(1).lines().len() as u64));
    // A file that is known to be another's is not opened.
    let about = dir.join(format!("{:032x}.json", all[0].digest().unwrap()));
    fs::write(about, r#"{"principal":"alice","session":"s0"}"#).unwrap();
    assert!(listed("alice").is_empty());
}

/// A power cut leaves a new file empty, or with anything in it.
#[test]
fn what_names_a_session_is_written_again_where_it_is_spoiled() {
    for junk in ["", "\0\0\0\0", "{\"principal\":\"own"] {
        let page = page();
        page.append(&turn(1), CAP);
        fs::write(page.transcripts.info_path(page.session), junk).unwrap();
        fs::write(page.path(), "").unwrap();
        assert_eq!(page.reconcile(&[1], &[], CAP), [1]);
        let found = page.transcripts.find(page.session);
        assert_eq!(found.map(|about| about.owner), Some(page.owner.clone()), "{junk:?}");
    }
}

#[test]
fn a_transcript_can_be_made_durable() {
    let page = page();
    page.transcripts.sync(page.session).unwrap();
    page.append(&turn(1), CAP);
    page.transcripts.sync(page.session).unwrap();
}

#[test]
fn threads_do_not_mix_their_lines() {
    let page = page();
    page.append(&turn(1), 1 << 20);
    std::thread::scope(|scope| {
        for part in 0..4_u32 {
            let page = &page;
            scope.spawn(move || {
                let who = who("owner", &format!("t{part}"));
                let session = who.digest().unwrap();
                for id in 1..=100 {
                    page.transcripts
                        .append(session, &who, &turn(id), (4096, false), &|| true)
                        .unwrap();
                }
            });
        }
    });
    for part in 0..4 {
        let session = session_digest("owner", &format!("t{part}"));
        let ids = ids(&fs::read(page.transcripts.path(session)).unwrap());
        assert_eq!(ids, (ids[0]..=100).collect::<Vec<_>>());
    }
}
