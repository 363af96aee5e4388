//! Channels as sessions know them: what is offered, sent, edited, held and kept, and who may command.

use super::*;
use crate::config::{Channel, Target};
use crate::journal::Decision;
use crate::journal::record::{Fact, Origin, Part};
use crate::session::channel_key;
use crate::session::commands::Command;
use crate::session::notices::Notice;
use crate::session::restarts::Requester;
use crate::session::{Parts, Place, ToSend};

const HOUR: u64 = 3_600_000;

/// The channel `office`, on which `ann` is an operator, `bob` the owner, and `eve` may talk.
pub(super) fn office(config: &mut Config) {
    let mut channel = Channel::new("office");
    channel.home = "home".to_owned();
    channel.operators = vec!["ann".to_owned()];
    channel.allow = vec!["eve".to_owned()];
    channel.groups = vec!["room".to_owned()];
    channel.r#as.insert("bob".to_owned(), "owner".to_owned());
    channel.expire = Duration::from_secs(24 * 3600);
    config.channel.insert("office".to_owned(), channel);
    config.session.operators = vec!["owner".to_owned()];
}

pub(super) fn origin(ids: &[&str], from: &str, group: bool) -> Origin {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let [conversation, account] = ["room", "bot"].map(str::to_owned);
    Origin { conversation, account, ids, from: from.to_owned(), group, ..Origin::default() }
}

/// What the channel offers under these ids.
pub(super) fn offered(origin: Origin, text: &str) -> Draft {
    let key = channel_key("office", &origin.account, &origin.ids[0]);
    Draft {
        who: Owner::new("office:room".to_owned(), Some("office:room".to_owned())),
        deliver: Some("office".to_owned()),
        key: Some((key, 0)),
        origin: Some(Box::new(origin)),
        ..draft("", text)
    }
}

fn submit(house: &House, id: &str, text: &str) -> Id {
    new(house.hub.submit(offered(origin(&[id], "eve", false), text)))
}

#[track_caller]
fn new(submitted: Result<Submitted, Refusal>) -> Id {
    match submitted {
        Ok(Submitted::New { id, .. }) => id,
        other => panic!("{other:?}"),
    }
}

/// What a command of this sender is answered.
#[track_caller]
fn say(house: &House, id: &str, from: &str, text: &str) -> String {
    let command = Command::parse(text).unwrap();
    let id = new(house.hub.command(command, offered(origin(&[id], from, false), text)));
    house.message(id).reply.unwrap()
}

/// One whose channel is attached.
fn attached(house: &House) -> Arc<EventFd> {
    let wake = Arc::new(EventFd::new().unwrap());
    house.hub.attach_channel("office", &wake);
    wake
}

fn part(part: u32, sent: Option<&str>) -> Part {
    Part { part, sent: sent.map(str::to_owned), ..Part::default() }
}

/// The words of the records of a message from this one on.
fn words(house: &House, id: Id, from: &str) -> Vec<&'static str> {
    let all = house.journal.all().into_iter().map(|(_, json)| Record::parse(&json).unwrap());
    let mine = all.filter(|record| record.id().and_then(Id::parse) == Some(id));
    let words: Vec<&'static str> = mine.map(|record| record.word()).collect();
    let at = words.iter().position(|word| *word == from).unwrap();
    words[at..].to_vec()
}

fn restarted(house: &House, change: impl Fn(&mut Config)) -> House {
    house.until_idle();
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    office(&mut config);
    change(&mut config);
    House::closed(dir, Testing::of(&house.journal.all()), &config)
}

#[test]
fn what_is_offered_again_is_known_by_any_of_its_ids_whatever_it_says_by_then() {
    let house = House::with(None, office);
    let joined = origin(&["1", "2", "3"], "eve", false);
    let id = new(house.hub.submit(offered(joined, "x")));
    let known = |house: &House| {
        ["1", "2", "3", "4"].map(|known| house.hub.find_offered("office", "bot", known))
    };
    assert_eq!(known(&house), [Some(id), Some(id), Some(id), None]);
    assert_eq!(house.hub.find_offered("office", "other", "1"), None, "of another account");
    assert_eq!(house.hub.find_offered("other", "bot", "1"), None, "of another channel");
    let again = house.hub.submit(offered(origin(&["1"], "eve", false), "edited since"));
    assert_eq!(again, Ok(Submitted::Known(id)));
    let next = restarted(&house, |_| {});
    assert_eq!(known(&next), [Some(id), Some(id), Some(id), None]);
    // And when what it said is forgotten by a reset.
    next.hub.reset(&offered(origin(&["1"], "", false), "").who, "/new").unwrap();
    next.hub.compact().unwrap();
    assert!(!next.journal.all().iter().any(|(_, json)| json.contains("eve")));
    let next = restarted(&next, |_| {});
    assert_eq!(known(&next), [Some(id), Some(id), Some(id), None]);
    let again = next.hub.submit(offered(origin(&["1"], "eve", false), "x"));
    assert_eq!(again, Ok(Submitted::Known(id)));
}

#[test]
fn what_an_adapter_is_told_is_durable() {
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    office(&mut config);
    let house = House::closed(dir, Testing::new(), &config);
    let durable = |house: &House| house.journal.durable().len() == house.journal.all().len();
    let hub = &house.hub;
    hub.admit(offered(origin(&["1"], "eve", false), "x")).unwrap();
    assert!(!durable(&house));
    assert!(hub.find_offered("office", "bot", "1").is_some() && durable(&house));
    hub.keep_fact("office", Fact::Cursor, "bot", "c").unwrap();
    assert!(!durable(&house));
    assert!(hub.cursor_of("office").is_some() && durable(&house));
    let mut begun = Vec::new();
    new(hub.hold(offered(origin(&["2"], "eve", false), "x"), &mut begun));
    new(hub.append(offered(origin(&["3"], "eve", false), "x"), &mut begun));
    assert!(!durable(&house), "several are to be synced at once");
    hub.start(begun).unwrap();
    assert!(durable(&house));
    // A journal that broke tells nothing.
    *house.journal.lost_from.lock().unwrap() = Some("\"d\"");
    hub.keep_fact("office", Fact::Cursor, "bot", "d").unwrap();
    assert_eq!(hub.cursor_of("office"), None);
}

#[test]
fn the_newest_cursor_counts_and_outlives_its_message() {
    let house = House::with(None, office);
    let cursor = |house: &House| house.hub.cursor_of("office");
    let of = |account: &str, cursor: &str| Some((account.to_owned(), cursor.to_owned()));
    assert_eq!(cursor(&house), None);
    let at = |ids: &[&str], cursor: &str| {
        offered(Origin { cursor: Some(cursor.to_owned()), ..origin(ids, "eve", false) }, "secret")
    };
    new(house.hub.submit(at(&["1"], "c1")));
    assert_eq!(cursor(&house), of("bot", "c1"));
    house.hub.keep_fact("office", Fact::Cursor, "bot", "c2").unwrap();
    assert_eq!(cursor(&house), of("bot", "c2"));
    let id = new(house.hub.submit(at(&["2"], "c3")));
    let last = submit(&house, "3", "without one");
    house.wait(last);
    assert_eq!(cursor(&house), of("bot", "c3"));
    // Its message goes: first what it says, then all of it.
    let who = house.message(id).entry.owner;
    attached(&house);
    house.until_idle();
    house.hub.reset(&who, "/new").unwrap();
    let mut next = restarted(&house, |_| {});
    for _ in 0..2 {
        next.hub.compact().unwrap();
        let texts = next.journal.all();
        assert!(!texts.iter().any(|(_, json)| json.contains("secret") || json.contains("\"c1\"")));
        next = restarted(&next, |_| {});
        assert_eq!(cursor(&next), of("bot", "c3"));
        let mut state = next.hub.lock();
        for _ in 0..2 {
            state.table.forget(&[id]);
        }
        assert!(state.table.get(id).is_none());
    }
    assert!(next.journal.all().iter().any(|(_, json)| json.contains(r#""fact":"cursor""#)));
    // One of another account takes its place.
    next.hub.keep_fact("office", Fact::Cursor, "other", "d1").unwrap();
    assert_eq!(cursor(&next), of("other", "d1"));
    next.hub.compact().unwrap();
    assert!(!next.journal.all().iter().any(|(_, json)| json.contains("\"c3\"")));
}

#[test]
fn facts_are_bounded_and_the_oldest_make_room() {
    let house = House::with(None, office);
    let most = crate::limits::MAX_FACTS;
    for at in 0..most + 2 {
        let key = at.to_string();
        house.hub.keep_fact("office", Fact::Paired, &key, "somebody").unwrap();
    }
    let last = house.journal.all().len();
    house.hub.keep_fact("office", Fact::Paired, "7", "somebody").unwrap();
    assert_eq!(house.journal.all().len(), last, "what is known already is not written again");
    house.hub.keep_fact("office", Fact::Paired, "7", "").unwrap();
    house.hub.keep_fact("office", Fact::Moved, "a", "b").unwrap();
    let keys = |house: &House, fact| {
        let facts = house.hub.facts_of("office", fact);
        facts.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    let paired = keys(&house, Fact::Paired);
    assert_eq!((paired.len(), &*paired[0], &*paired[5]), (most - 1, "2", "8"));
    house.hub.compact().unwrap();
    let facts = house.journal.all();
    let facts = facts.iter().filter(|(_, json)| json.contains(r#""t":"channel""#)).count();
    assert_eq!(facts, most, "with the one that moved");
    assert_eq!(keys(&restarted(&house, |_| {}), Fact::Paired), paired);
    assert_eq!(keys(&house, Fact::Moved), ["a"]);
}

#[test]
fn a_reply_goes_to_its_channel_part_by_part_and_a_start_goes_on_where_it_was() {
    let house = House::with(None, office);
    let first = submit(&house, "1", "first");
    house.wait(first);
    let wake = attached(&house);
    let second = submit(&house, "2", "second");
    house.wait(second);
    house.until_idle();
    assert!(wake.clear());
    assert_eq!(house.hub.take_to_send("office"), [first, second], "in their order");
    assert!(house.hub.take_to_send("office").is_empty(), "once");
    let place = Place { conversation: "room".to_owned(), thread: None };
    let reply_to = Some("1".to_owned());
    let expected = ToSend { place, reply_to, markdown: true, ..ToSend::default() };
    let to_send = house.hub.to_send(first).unwrap();
    assert_eq!(format!("{to_send:?}"), format!("{expected:?}"));
    assert_eq!(house.hub.text_to_send(first).unwrap(), "first");
    let begun = Part { cuts: vec![2, 5], ..part(0, None) };
    let number = house.hub.write_part(first, 1, begun).unwrap();
    house.hub.sync(number).unwrap();
    assert_eq!(words(&house, first, "done"), ["done", "sending", "part"]);
    house.hub.write_part(first, 1, part(0, Some("m1"))).unwrap();
    house.hub.write_part(first, 1, part(1, None)).unwrap();
    // Whoever starts now knows what has arrived, and what may have.
    let next = restarted(&house, |_| {});
    attached(&next);
    assert_eq!(next.hub.take_to_send("office"), [first, second]);
    let ToSend { parts, attempts, .. } = next.hub.to_send(first).unwrap();
    let sent = vec!["m1".to_owned()];
    assert_eq!((parts, attempts), (Parts { cuts: vec![2, 5], sent, open: true, preview: None }, 1));
    next.hub.settle(first, 1, Step::Deferred("not now".to_owned())).unwrap();
    assert!(!next.hub.to_send(first).unwrap().parts.open, "it did not arrive");
    next.hub.write_part(first, 2, part(1, None)).unwrap();
    assert_eq!(words(&next, first, "deferred"), ["deferred", "sending", "part"]);
    next.hub.write_part(first, 2, part(1, Some("m2"))).unwrap();
    next.hub.settle(first, 2, Step::Delivered).unwrap();
    assert!(next.hub.to_send(first).is_none());
    assert_eq!(next.hub.write_part(first, 2, part(1, Some("m3"))), Err(Refusal::TooLate));
    assert_eq!(next.hub.settle(first, 2, Step::Delivered), Err(Refusal::TooLate), "once");
    let shown: serde_json::Value = serde_json::from_str(&next.message(first).to_json()).unwrap();
    assert_eq!(shown["deliveries"][0]["status"], "delivered");
    assert_eq!(
        (&shown["deliveries"][0]["attempts"], &shown["id"]),
        (&2.into(), &first.to_string().into())
    );
}

#[test]
fn a_dead_letter_that_is_tried_again_goes_on_and_a_new_reply_begins_anew() {
    let house = House::with(Some("printf %s \"$m\"; [ \"$m\" = good ]"), office);
    let (good, bad) = (submit(&house, "1", "good"), submit(&house, "2", "bad"));
    let wake = attached(&house);
    for id in [good, bad] {
        house.wait(id);
        house.hub.write_part(id, 1, part(0, None)).unwrap();
        house.hub.write_part(id, 1, part(0, Some("m1"))).unwrap();
        house.hub.write_part(id, 1, part(1, None)).unwrap();
        house.hub.settle(id, 1, Step::Dead("blocked".to_owned())).unwrap();
        assert!(house.hub.to_send(id).is_none());
    }
    house.hub.take_to_send("office");
    wake.clear();
    house.hub.revive(good).unwrap();
    assert!(wake.clear());
    assert_eq!(house.hub.take_to_send("office"), [good]);
    let parts = house.hub.to_send(good).unwrap().parts;
    assert_eq!((parts.sent, parts.open), (vec!["m1".to_owned()], false));
    assert!(house.hub.text_to_send(bad).unwrap().starts_with("This could not be answered."));
    house.hub.retry(bad).unwrap();
    house.wait(bad);
    assert_eq!(house.hub.to_send(bad).unwrap().parts, Parts::default());
}

#[test]
fn a_preview_is_kept_over_the_attempts_of_its_turn() {
    let house = House::with(Some(&format!("{GATE}printf %s reply")), office);
    let id = submit(&house, "1", "x");
    house.until_logged(1);
    let running = house.hub.running_on("office");
    assert_eq!((running.len(), running[0].id, &*running[0].place.conversation), (1, id, "room"));
    assert!(house.hub.running_on("other").is_empty());
    let preview = |sent: Option<&str>| Part { preview: true, ..part(0, sent) };
    assert_eq!(house.hub.write_part(id, 1, part(0, None)), Err(Refusal::TooLate), "no reply yet");
    assert_eq!(house.hub.write_part(id, 2, preview(None)), Err(Refusal::TooLate));
    house.hub.write_part(id, 1, preview(None)).unwrap();
    // A crash comes, and the receipt after it.
    let next = House::closed(TempDir::new("hub"), Testing::of(&house.journal.all()), &{
        let mut config = Config::default();
        office(&mut config);
        config
    });
    next.hub.write_part(id, 1, preview(Some("p1"))).unwrap();
    assert!(next.hub.to_send(id).is_none(), "it is not over");
    next.hub.open();
    next.wait(id);
    let parts = next.hub.to_send(id).unwrap().parts;
    assert_eq!((parts.preview.as_deref(), parts.open), (Some("p1"), false));
    next.hub.write_part(id, 1, part(0, None)).unwrap();
    next.hub.write_part(id, 1, part(0, Some("p1"))).unwrap();
    assert_eq!(next.hub.to_send(id).unwrap().parts.preview, None);
    house.open_gate();
}

#[test]
fn an_empty_reply_says_so_and_a_failure_tells_nothing_from_within() {
    let house =
        House::with(Some("case $m in empty) ;; *) echo /secret/path >&2; exit 1;; esac"), office);
    let (empty, failed) = (submit(&house, "1", "empty"), submit(&house, "2", "x"));
    for id in [empty, failed] {
        house.wait(id);
    }
    assert_eq!(house.hub.text_to_send(empty).unwrap(), "(The reply is empty.)");
    let text = house.hub.text_to_send(failed).unwrap();
    assert!(!text.contains("secret") && text.contains(&failed.to_string()), "{text}");
    assert!(!text.contains('\n'));
}

#[test]
fn what_waits_is_edited_and_what_runs_is_not() {
    let house = House::with(Some(&format!("{GATE}printf %s \"$m\"")), |config| {
        office(config);
        config.limits.max_turns = 1;
    });
    let (runs, waits) = (submit(&house, "1", "one"), submit(&house, "2", "two"));
    house.until_logged(1);
    let edit = |id, text: &str| house.hub.edit(id, text.to_owned());
    assert_eq!(edit(runs, "no"), Ok(false));
    assert_eq!(edit(waits, "three"), Ok(true));
    assert_eq!(edit(waits, "/new"), Ok(false), "a command comes by itself");
    let pieces = new(house.hub.submit(offered(origin(&["3", "4"], "eve", false), "a\nb")));
    assert_eq!(edit(pieces, "c"), Ok(false), "nobody knows which part of it is meant");
    assert_eq!(edit(waits, "four"), Ok(true));
    let durable = house.journal.durable();
    assert!(durable.last().unwrap().1.contains("four"), "{durable:?}");
    house.hub.compact().unwrap();
    let has = |text: &str| house.journal.all().iter().any(|(_, json)| json.contains(text));
    assert!(has("four") && !has("three"), "the newest text alone stays");
    house.open_gate();
    assert_eq!(house.wait(waits).reply.as_deref(), Some("four"));
    house.until_idle();
    assert_eq!(edit(waits, "five"), Ok(false));
    let entry = house.message(waits).entry;
    assert_eq!(house.hub.accepted(&entry).unwrap().text, "four");
    let path = house.hub.transcripts.path(entry.session().unwrap());
    let said = fs::read_to_string(path).unwrap();
    assert!(said.contains("four") && !said.contains("two"), "{said}");
    // One that ran when a crash came waits again, and the journal has it as one that runs.
    let next = restarted(&house, |_| {});
    assert_eq!(next.hub.accepted(&next.message(waits).entry).unwrap().text, "four");
}

#[test]
fn an_edit_after_a_crash_can_be_read_back() {
    let house = House::with(Some(GATE), office);
    let id = submit(&house, "1", "one");
    house.until_logged(1);
    let again = |records: &[(u64, String)]| {
        let mut config = Config::default();
        office(&mut config);
        House::closed(TempDir::new("hub"), Testing::of(records), &config)
    };
    let next = again(&house.journal.all());
    assert_eq!(next.hub.edit(id, "two".to_owned()), Ok(true));
    let last = again(&next.journal.all());
    last.hub.open();
    assert_eq!(last.wait(id).reply.as_deref(), Some("two"));
    house.open_gate();
}

fn hold(house: &House, id: &str, text: &str) -> Result<Submitted, Refusal> {
    let mut begun = Vec::new();
    let held = house.hub.hold(offered(origin(&[id], "eve", false), text), &mut begun);
    house.hub.start(begun).unwrap();
    held
}

#[test]
fn what_is_held_runs_when_its_sender_asks_for_it_each_once_and_in_order() {
    let house = House::with(None, office);
    let held: Vec<Id> = ["1", "2"].map(|id| new(hold(&house, id, id))).to_vec();
    assert_eq!(hold(&house, "1", "1"), Ok(Submitted::Known(held[0])));
    assert_eq!(house.turn(held[0]), TurnState::Cancelled);
    assert!(house.journal.durable().iter().any(|(_, json)| json.contains("held: ")));
    let cancelled = submit(&house, "3", "x");
    house.wait(cancelled);
    assert_eq!(say(&house, "4", "eve", "/missed"), "Messages taken: 2.");
    assert_eq!(say(&house, "5", "eve", "/missed"), "Nothing was missed.");
    let all = house.hub.messages_of(&house.message(held[0]).entry.owner);
    house.until("all are over", || all.iter().all(|(id, _)| house.turn(*id).is_over()));
    house.until_idle();
    let text = |id: &Id| house.hub.accepted_of(*id).unwrap().0;
    let again: Vec<Id> =
        all.iter().map(|(id, _)| *id).filter(|id| *id > cancelled && text(id).len() == 1).collect();
    assert_eq!(again.iter().map(text).collect::<Vec<_>>(), ["1", "2"]);
    let to_send = house.hub.to_send(again[1]).unwrap();
    assert_eq!((&*to_send.place.conversation, to_send.reply_to.as_deref()), ("room", Some("2")));
    assert_eq!(house.hub.find_offered("office", "bot", "2"), Some(held[1]), "it stays the first");
}

#[test]
fn what_is_held_is_so_after_a_crash_between_its_two_records() {
    let house = House::with(None, office);
    let held = new(hold(&house, "1", "old"));
    let mut records = house.journal.all();
    let (_, last) = records.pop().unwrap();
    assert!(last.contains("held: "), "{last}");
    let mut config = config(&house.dir, None);
    office(&mut config);
    let next = House::open(TempDir::new("hub"), Testing::of(&records), &config);
    assert_eq!(next.turn(held), TurnState::Cancelled);
    assert_eq!(say(&next, "2", "eve", "/missed"), "Messages taken: 1.");
    next.until_idle();
    assert!(next.journal.all().iter().any(|(_, json)| json.contains("done")), "it is held again");
}

/// What the channel is to be told of what was held.
fn told(house: &House) -> Vec<String> {
    let state = house.hub.lock();
    let notices = state.table.entries().filter(|(_, entry)| entry.is_to_be_sent());
    let ids: Vec<Id> = notices.map(|(id, _)| id).collect();
    drop(state);
    let texts = ids.iter().map(|id| house.hub.text_to_send(*id).unwrap());
    texts.filter(|text| text.contains("came here")).collect()
}

#[test]
fn what_was_held_is_told_once_by_the_next_process_where_a_crash_came_before() {
    let house = House::with(None, office);
    let hold = |house: &House, id: &str| {
        new(house.hub.hold(offered(origin(&[id], "eve", false), "old"), &mut Vec::new()));
    };
    ["1", "2"].iter().for_each(|id| hold(&house, id));
    assert!(told(&house).is_empty());
    let next = restarted(&house, |_| {});
    attached(&next);
    attached(&next);
    assert_eq!(told(&next).len(), 1, "{:?}", told(&next));
    assert!(told(&next)[0].starts_with("2 messages came here"), "{:?}", told(&next));
    hold(&next, "3");
    let last = restarted(&next, |_| {});
    attached(&last);
    assert!(told(&last)[1].starts_with("1 message came here"), "{:?}", told(&last));
    hold(&last, "4");
    say(&last, "5", "eve", "/missed");
    attached(&last);
    assert_eq!(told(&last).len(), 2, "who has asked for it need not be told");
}

#[test]
fn what_is_held_is_sent_again_by_one_command_and_not_by_two() {
    let house = House::with(None, office);
    new(house.hub.hold(offered(origin(&["1"], "eve", false), "old"), &mut Vec::new()));
    let again = say(&house, "2", "ann", "/retry");
    assert!(again.starts_with("Sent again: "), "{again}");
    assert_eq!(say(&house, "3", "eve", "/missed"), "Nothing was missed.");
}

#[test]
fn an_empty_place_that_is_refused_is_an_attempt_that_may_be_repeated() {
    let house = House::with(None, office);
    for (id, end) in
        [("1", Step::Deferred("not now".to_owned())), ("2", Step::Dead("no".to_owned()))]
    {
        let id = submit(&house, id, "x");
        house.wait(id);
        house.hub.write_part(id, 1, Part { sent: Some(String::new()), ..part(0, None) }).unwrap();
        house.hub.settle(id, 1, end.clone()).unwrap();
        let attempts = house.hub.to_send(id).map(|it| it.attempts);
        assert_eq!(attempts, matches!(end, Step::Deferred(_)).then_some(1));
    }
}

#[test]
fn what_is_known_by_its_id_alone_cannot_be_deleted() {
    let house = House::with(None, office);
    let id = submit(&house, "1", "x");
    house.wait(id);
    house.hub.write_part(id, 1, part(0, None)).unwrap();
    house.hub.settle(id, 1, Step::Delivered).unwrap();
    assert_eq!(house.hub.delete(id, "why"), Ok(()));
    assert_eq!(house.hub.delete(id, "why"), Err(Refusal::Unknown));
    assert_eq!(house.hub.find_offered("office", "bot", "1"), Some(id));
}

#[test]
fn the_word_of_a_stop_to_one_that_is_still_a_channel_is_sent_by_that() {
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    let file = dir.path().join("sent").to_str().unwrap().to_owned();
    let command = ["/usr/bin/touch", &file].map(str::to_owned).to_vec();
    config.deliver.insert("office".to_owned(), Target { command, ..Target::new("office") });
    config.stop.notify = "office".to_owned();
    let house = House::open(dir, Testing::new(), &config);
    attached(&house);
    house.hub.announce_down("for a test".to_owned());
    house.until_idle();
    assert_eq!(house.hub.take_to_send("office").len(), 1);
    assert!(!std::path::Path::new(&file).exists(), "it is sent twice");
}

#[test]
fn no_more_than_twenty_that_were_held_run_at_once() {
    let house = House::with(None, office);
    for at in 0..22 {
        new(hold(&house, &at.to_string(), "x"));
    }
    let first = say(&house, "a", "eve", "/missed");
    assert_eq!(first, "Messages taken: 20. Left: 2, for another /missed.");
    assert_eq!(say(&house, "b", "eve", "/missed"), "Messages taken: 2.");
}

#[test]
fn what_waits_of_somebody_who_may_not_talk_any_more_is_cancelled() {
    let house = House::with(Some(&format!("{GATE}printf %s \"$m\"")), |config| {
        office(config);
        config.limits.max_turns = 1;
    });
    house.hub.keep_fact("office", Fact::Paired, "pat", "Pat").unwrap();
    let runs = submit(&house, "1", "one");
    house.until_logged(1);
    let from = |id: &str, from: &str, group| {
        new(house.hub.submit(offered(origin(&[id], from, group), "x")))
    };
    let [listed, paired, group] =
        [from("2", "eve", false), from("3", "pat", false), from("4", "eve", true)];
    let mut config = house.hub.settings().config.clone();
    let channel = config.channel.get_mut("office").unwrap();
    (channel.allow, channel.groups) = (Vec::new(), vec!["before".to_owned()]);
    house.hub.reload(settings(&config).0);
    let ann = from("5", "ann", false);
    house.hub.keep_fact("office", Fact::Moved, "before", "room").unwrap();
    house.open_gate();
    for (id, turn) in [
        (runs, TurnState::Done),
        (listed, TurnState::Cancelled),
        (paired, TurnState::Done),
        (group, TurnState::Done),
        (ann, TurnState::Done),
    ] {
        house.wait(id);
        assert_eq!(house.turn(id), turn, "{id}");
    }
}

#[test]
fn everybody_may_ask_what_this_is_and_operators_of_the_channel_may_command() {
    let house = House::with(None, office);
    let start = say(&house, "1", "eve", "/start");
    assert!(start.contains("/help") && !start.contains('\n'), "{start}");
    let help = say(&house, "2", "eve", "/help");
    assert!(help.contains("/missed") && !help.contains("/restart"), "{help}");
    assert!(say(&house, "3", "ann", "/help").contains("/restart"));
    assert_eq!(say(&house, "4", "eve", "/whoami"), "You are office:room (eve on office).");
    assert_eq!(
        say(&house, "5", "bob", "/whoami"),
        "You are office:room (bob on office), an operator of this gateway."
    );
    let refused = say(&house, "6", "eve", "/new");
    assert_eq!(refused, "/new is for operators; eve is not in channel.office.operators.");
    // Whoever says so over the API is nobody there.
    let near = Origin { account: String::new(), ..origin(&["7"], "ann", false) };
    let id = new(house.hub.command(Command::New, offered(near, "/new")));
    assert!(house.message(id).reply.unwrap().contains("is for operators"));
    assert!(say(&house, "8", "ann", "/new").starts_with("A fresh session"));
}

#[test]
fn a_channel_counts_as_work_only_while_it_is_to_end() {
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    office(&mut config);
    // Without maintenance, which counts as work for moments.
    let house = House::closed(dir, Testing::new(), &config);
    let wake = attached(&house);
    wake.clear();
    assert_eq!((house.hub.busy(), house.hub.work()), (0, 0));
    house.hub.pause();
    assert!(wake.clear());
    assert_eq!((house.hub.busy(), house.hub.work()), (1, 0));
    house.hub.resume();
    assert!(wake.clear());
    assert_eq!(house.hub.busy(), 0);
    house.hub.drain();
    assert!(wake.clear());
    assert_eq!(house.hub.busy(), 1);
    house.quiet.clear();
    house.hub.detach_channel("office");
    assert!(house.quiet.clear(), "the main loop is told");
    assert_eq!(house.hub.busy(), 0);
}

#[test]
fn a_channel_that_is_configured_no_more_leaves_dead_letters_and_one_that_comes_takes_all() {
    let house = House::with(None, |config| {
        let target = Target { command: vec!["/bin/false".to_owned()], ..Target::new("out") };
        config.deliver.insert("out".to_owned(), target);
        office(config);
    });
    let id = submit(&house, "1", "x");
    house.wait(id);
    house.until_idle();
    attached(&house);
    house.hub.take_to_send("office");
    let [none, with] = [false, true].map(|with| {
        let mut config = Config::default();
        with.then(|| office(&mut config));
        settings(&config).0
    });
    house.hub.reload(none.clone());
    // What is at work ends there, and one that is back in time has all of it.
    assert!(house.hub.to_send(id).is_some());
    let late = submit(&house, "2", "late");
    house.wait(late);
    house.hub.reload(with);
    assert_eq!(house.hub.take_to_send("office"), [id, late]);
    house.hub.write_part(late, 1, part(0, None)).unwrap();
    house.hub.settle(late, 1, Step::Delivered).unwrap();
    house.hub.reload(none);
    assert_eq!(house.counts().dead_letters, 0);
    house.hub.detach_channel("office");
    house.until("it is a dead letter", || house.counts().dead_letters == 1);
    assert!(house.hub.to_send(id).is_none());
    assert!(house.message(id).delivery_error.unwrap().contains("no target \"office\""));
    house.until_idle();
    let next = restarted(&house, |_| {});
    next.hub.open();
    attached(&next);
    next.hub.revive(id).unwrap();
    assert_eq!(next.hub.take_to_send("office"), [id]);
    next.until_idle();
    assert_eq!(next.message(id).entry.delivery_state(), Some(super::super::DeliveryState::Pending));
}

#[test]
fn what_is_old_or_has_no_place_is_given_up() {
    let clocks = Fake::booted("a", 1_795_000_000_000, 5000);
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    office(&mut config);
    let house = House::by(&clocks, dir, Testing::new(), &config);
    house.hub.open();
    let plain = Draft { deliver: Some("office".to_owned()), ..draft("s", "x") };
    let id = new(house.hub.submit(plain));
    house.wait(id);
    let to_send = house.hub.to_send(id).unwrap();
    assert_eq!((&*to_send.place.conversation, to_send.give_up), ("home", None));
    house.hub.keep_fact("office", Fact::Moved, "home", "new").unwrap();
    house.hub.keep_fact("office", Fact::Moved, "new", "newer").unwrap();
    assert_eq!(house.hub.to_send(id).unwrap().place.conversation, "newer");
    house.hub.keep_fact("office", Fact::Moved, "newer", "home").unwrap();
    house.hub.to_send(id).unwrap();
    clocks.pass(24 * HOUR);
    let why = house.hub.to_send(id).unwrap().give_up.unwrap();
    assert!(why.starts_with("it expired after 0 attempts"), "{why}");
    config.channel.get_mut("office").unwrap().home = String::new();
    house.hub.keep_fact("office", Fact::Moved, "home", "").unwrap();
    house.hub.reload(settings(&config).0);
    let why = house.hub.to_send(id).unwrap().give_up.unwrap();
    assert!(why.contains("has no home"), "{why}");
}

#[test]
fn notices_go_to_the_place_of_whoever_asked_or_home() {
    let house = House::with(None, |config| {
        office(config);
        config.stop.notify = "office".to_owned();
    });
    let room = Place { conversation: "room".to_owned(), thread: Some("7".to_owned()) };
    let place = Some(room.clone());
    let [principal, message] = ["owner", "1"].map(str::to_owned);
    let deliver = Some("office".to_owned());
    let requester = Requester { principal, session: None, message, deliver, place };
    assert!(house.hub.tell(Notice::to_requester(&requester, "back", "it is back".to_owned())));
    attached(&house);
    house.hub.announce_down("for a test".to_owned());
    house.until_idle();
    let ids = house.hub.take_to_send("office");
    let all: Vec<_> = ids.iter().map(|id| house.hub.to_send(*id).unwrap().place).collect();
    let home = Place { conversation: "home".to_owned(), thread: None };
    assert_eq!(all, [room, home]);
    assert!(ids.iter().all(|id| !house.hub.to_send(*id).unwrap().markdown), "no agent's text");
    assert!(house.hub.text_to_send(ids[1]).unwrap().contains("goes down"));
}

#[test]
fn a_days_texts_of_a_channel_are_forgotten_and_a_months_ids_known() {
    let clocks = Fake::booted("a", 1_795_000_000_000, 5000);
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    office(&mut config);
    let start = |dir, journal: Testing| {
        let house = House::by(&clocks, dir, journal, &config);
        house.hub.open();
        house
    };
    let mut house = start(dir, Testing::new());
    let joined = origin(&["1", "2"], "eve", false);
    let id = new(house.hub.submit(offered(joined, "secret")));
    house.wait(id);
    house.hub.write_part(id, 1, part(0, None)).unwrap();
    house.hub.settle(id, 1, Step::Delivered).unwrap();
    let last = house.send("s", "the last one stays");
    house.wait(last);
    house.until_idle();
    let known = |house: &House| ["1", "2"].map(|id| house.hub.find_offered("office", "bot", id));
    for days in 1..30 {
        clocks.pass(24 * HOUR);
        house.hub.compact().unwrap();
        let entry = house.hub.lock().table.copy(id).unwrap();
        assert!(entry.erased && entry.session().is_none(), "day {days}");
        assert_eq!(known(&house), [Some(id); 2], "day {days}");
        let journal = house.journal.all();
        assert!(!journal.iter().any(|(_, json)| json.contains("secret") || json.contains("eve")));
        if days % 7 == 0 {
            house.until_idle();
            house = start(TempDir::new("hub"), Testing::of(&journal));
            let decide =
                |(number, json): &(u64, String)| house.hub.lock().table.decide(*number, json);
            let kept = journal.iter().filter(|it| it.1.contains(&id.to_string()));
            kept.for_each(|it| assert_eq!(decide(it), Decision::Replace(it.1.clone())));
        }
    }
    clocks.pass(24 * HOUR + 1);
    house.hub.compact().unwrap();
    assert_eq!(known(&house), [None; 2]);
    assert!(!house.journal.all().iter().any(|(_, json)| json.contains(&id.to_string())));
}

#[test]
fn a_dead_letter_of_a_channel_that_is_forgotten_keeps_its_session_no_more() {
    let clocks = Fake::booted("a", 1_795_000_000_000, 5000);
    let (dir, mut config) = (TempDir::new("hub"), Config::default());
    office(&mut config);
    let house = House::by(&clocks, dir, Testing::new(), &config);
    house.hub.open();
    let id = submit(&house, "1", "x");
    house.wait(id);
    house.hub.write_part(id, 1, part(0, None)).unwrap();
    house.hub.settle(id, 1, Step::Dead("why".to_owned())).unwrap();
    let last = house.send("s", "the last one stays");
    house.wait(last);
    house.until_idle();
    let session = house.message(id).entry.session().unwrap();
    let is_idle = || house.hub.lock().table.is_idle(session);
    assert!(!is_idle());
    clocks.pass(40 * 24 * HOUR);
    house.hub.compact().unwrap();
    assert!(is_idle() && house.counts().dead_letters == 0);
}
