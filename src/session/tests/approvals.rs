//! Agents that ask: their turns are driven here, with the reply that a worker gives them.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::agent::{AgentSession, Answer, Leave, Outcome, Question, Reply};
use crate::cancel::{Cancel, CancelReason};
use crate::config::Approve;
use crate::journal::record::{Approval, Record};
use crate::limits::MAX_APPROVALS;
use crate::session::asking::Slot;
use crate::session::commands::Command;
use crate::session::durable_reply::DurableReply;
use crate::session::message_table::Entry;
use crate::session::reply::ReplyBuffer;

/// A turn that has begun, and whose agent is the test.
struct Turn {
    hub: Arc<Hub>,
    id: Id,
    entry: Entry,
    run: Arc<ReplyBuffer>,
    begun: Rc<RefCell<Vec<Id>>>,
}

impl Turn {
    fn reply(&self) -> DurableReply<'_> {
        let Turn { hub, id, entry, run, .. } = self;
        DurableReply { hub, id: *id, entry, run, known: None, asked: 0, unanswered: false }
    }

    fn finish(&self, outcome: &Outcome) -> Vec<Id> {
        self.begun.borrow_mut().retain(|id| *id != self.id);
        let next = self.hub.finish_turn(self.id, outcome);
        self.begun.borrow_mut().extend(&next);
        next
    }
}

/// What a test begins runs nowhere; where a slot comes free for another, a shell waits for the gate.
struct Desk {
    house: House,
    /// Begun by the test, and not over.
    begun: Rc<RefCell<Vec<Id>>>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        for id in self.begun.take() {
            self.house.hub.finish_turn(id, &Outcome::Ended(CancelReason::Aborted));
        }
    }
}

impl Desk {
    fn new(change: impl Fn(&mut Config)) -> Desk {
        let dir = TempDir::new("hub");
        let mut config = config(&dir, Some(GATE));
        config.limits.max_turns = 1;
        change(&mut config);
        let house = House::closed(dir, Testing::new(), &config);
        house.hub.lock().dispatch.limits = super::super::hub::queue_limits(&config);
        Desk { house, begun: Rc::default() }
    }

    /// Takes a message as [`Hub::submit`] does, without giving it a worker.
    fn accept(&self, draft: Draft) -> Id {
        let (hub, mut state) = (&self.house.hub, self.house.hub.lock());
        let id = state.next_id().unwrap();
        let (principal, session) = (draft.who.principal.clone(), draft.who.digest());
        state.dispatch.submit(id, &principal, session).unwrap();
        let attended = draft.attended;
        let record = Record::Accepted(Box::new(draft.accept(id, hub.stamp())));
        hub.write(&mut state, &record).unwrap();
        if attended {
            state.replies.of(id).lock().attended = true;
        }
        id
    }

    /// Those that begin now.
    fn begin(&self) -> Vec<Id> {
        let mut state = self.house.hub.lock();
        let begun = self.house.hub.begin_attempts(&mut state);
        self.begun.borrow_mut().extend(&begun);
        begun
    }

    fn turn(&self, id: Id) -> Turn {
        let (hub, mut state) = (&self.house.hub, self.house.hub.lock());
        let entry = state.table.get(id).unwrap().clone();
        assert_eq!(entry.turn, TurnState::Running);
        let (run, begun) = (state.replies.of(id), Rc::clone(&self.begun));
        Turn { hub: Arc::clone(hub), id, entry, run, begun }
    }

    /// Takes a message and begins it.
    fn run(&self, session: &str) -> Turn {
        let id = self.accept(draft(session, "x"));
        assert_eq!(self.begin(), [id]);
        self.turn(id)
    }

    /// The approvals in the journal.
    fn written(&self) -> Vec<Approval> {
        let records = self.house.journal.all().into_iter();
        let records = records.map(|(_, json)| Record::parse(&json).unwrap());
        records
            .filter_map(|record| match record {
                Record::Step { step: Step::Approval(approval), .. } => Some(*approval),
                _ => None,
            })
            .collect()
    }

    /// What a command in a session is answered.
    fn say(&self, who: &Owner, text: &str) -> String {
        let command = Command::parse(text).unwrap();
        let draft = Draft { who: who.clone(), ..draft("", text) };
        let submitted = self.house.hub.command(command, draft).unwrap();
        let Submitted::New { id, .. } = submitted else { panic!("{submitted:?}") };
        self.house.message(id).reply.unwrap()
    }
}

fn question(title: &str) -> Question {
    let input = r#"{"command":"ls"}"#.to_owned();
    Question { title: title.to_owned(), kind: "execute".to_owned(), input }
}

/// Asks, and is told the question's id and what tells of answers.
#[track_caller]
fn ask(reply: &mut DurableReply<'_>, title: &str) -> (String, Arc<EventFd>) {
    match reply.ask(&question(title), Approve::Ask) {
        Leave::Asked { id, event } => (id, event),
        other => panic!("{other:?}"),
    }
}

fn soon() -> Cancel<'static> {
    Cancel::at(Instant::now() + PATIENCE)
}

#[test]
#[allow(clippy::too_many_lines, reason = "one life from the question to the end")]
fn a_question_is_shown_gives_the_slot_away_and_its_answer_is_durable_before_it_is_given() {
    let desk = Desk::new(|_| {});
    let house = &desk.house;
    let (turn, other) = (desk.run("a"), desk.accept(draft("b", "y")));
    let behind = desk.accept(draft("a", "z"));
    assert!(desk.begin().is_empty(), "one slot");
    let mut reply = turn.reply();
    reply.chunk("first ").unwrap();
    let (id, event) = ask(&mut reply, "ls -l");
    assert_eq!(house.hub.lock().dispatch.counts(), (1, 1), "parked, running, waiting behind it");
    assert_eq!(house.turn(other), TurnState::Running);
    let shown = house.message(turn.id);
    assert_eq!((shown.status(), shown.approvals.len()), ("waiting", 1));
    let json: serde_json::Value = serde_json::from_str(&shown.to_json()).unwrap();
    let open = &json["approvals"][0];
    assert_eq!((json["status"].as_str(), open["id"].as_str()), (Some("waiting"), Some(&*id)));
    assert_eq!((open["title"].as_str(), open["kind"].as_str()), (Some("ls -l"), Some("execute")));
    assert_eq!((open["input"]["command"].as_str()), Some("ls"));
    assert_eq!(open["message"].as_str(), Some(&*turn.id.to_string()));
    assert!(id.len() == 6 && open["expires_at"].as_str().unwrap().ends_with('Z'), "{open}");
    let live = turn.run.snapshot_with_events(1, 0, 0);
    let event_shown = live.event.unwrap();
    assert_eq!((live.text.as_str(), event_shown.word), ("first ", "approval"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&event_shown.json).unwrap(), *open);
    // The session is told of it in words.
    let notices: Vec<String> = house
        .hub
        .messages_of(&who("a"))
        .into_iter()
        .filter(|(id, _)| *id > behind)
        .map(|(id, _)| house.message(id).reply.unwrap())
        .collect();
    assert!(
        matches!(&notices[..], [text] if text.contains(&format!("/approve {id}")) && text.contains("ls -l")),
        "{notices:?}"
    );
    assert!(reply.answers().is_empty() && !event.clear());
    // An answer: durable, and then given.
    let wrong = house.hub.approve(turn.id, Some("ZZZZZZ"), true, "owner");
    assert_eq!(wrong.unwrap_err(), Refusal::NotAsked);
    let done = house.hub.approve(turn.id, Some(&id.to_lowercase()), true, "owner").unwrap();
    assert_eq!((done.id.as_str(), done.title.as_str(), done.allowed), (&*id, "ls -l", true));
    let durable = house.journal.durable();
    assert!(durable.last().unwrap().1.contains(r#""t":"approval""#), "{durable:?}");
    assert!(event.clear(), "the turn is told");
    let again = house.hub.approve(turn.id, Some(&id), false, "owner");
    assert_eq!(again.unwrap_err(), Refusal::NotAsked, "once");
    assert_eq!(house.message(turn.id).status(), "running");
    assert!(turn.run.snapshot_with_events(1, 0, 0).event.is_none(), "an answered one is no news");
    assert_eq!(reply.answers(), [Answer::Given(id.clone(), true)]);
    assert!(reply.answers().is_empty());
    // It waits for a slot, and comes before what is behind it.
    std::thread::scope(|scope| {
        let resumed = scope.spawn(|| reply.resume(&soon()));
        house.until("it waits", || {
            house.hub.lock().asking.iter().any(|asking| asking.slot == Slot::Wanted)
        });
        assert!(!resumed.is_finished());
        house.open_gate();
        assert_eq!(resumed.join().unwrap(), Ok(()));
    });
    drop(reply);
    assert_eq!(house.turn(other), TurnState::Done);
    assert_eq!(house.hub.lock().dispatch.counts(), (1, 1), "nothing else has begun");
    assert_eq!(turn.finish(&Outcome::Done), [behind]);
    assert_eq!(house.message(turn.id).reply.as_deref(), Some("first "));
    let [written] = &desk.written()[..] else { panic!("{:?}", desk.written()) };
    let question = question("ls -l");
    let expected = Approval {
        question: id,
        title: question.title,
        kind: question.kind,
        input: question.input,
        allowed: true,
        by: "owner".to_owned(),
    };
    assert_eq!(*written, expected);
    assert!(house.hub.lock().asking.is_empty());
}

#[test]
fn what_the_configuration_answers_is_written_down() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let mut reply = turn.reply();
    let never = reply.ask(&question("1"), Approve::Never);
    assert!(matches!(never, Leave::Denied(why) if why.is_empty()));
    assert!(desk.written().is_empty(), "nobody allowed or refused it");
    assert!(matches!(reply.ask(&question("2"), Approve::Always), Leave::Allowed));
    assert!(desk.house.journal.durable().last().unwrap().1.contains(r#""allowed":true"#));
    // One whose client cannot answer.
    drop(reply);
    turn.finish(&Outcome::Done);
    let id = desk.accept(Draft { attended: true, ..draft("a", "x") });
    assert_eq!(desk.begin(), [id]);
    let chat = desk.turn(id);
    let denied = chat.reply().ask(&question("3"), Approve::Ask);
    assert!(matches!(&denied, Leave::Denied(why) if why == "a chat completion cannot be asked"));
    let by: Vec<_> = desk.written().into_iter().map(|it| (it.title, it.allowed, it.by)).collect();
    let policy = "agent.approve".to_owned();
    assert_eq!(by, [("2".to_owned(), true, policy.clone()), ("3".to_owned(), false, policy)]);
    // Nothing is allowed that the journal does not take.
    desk.house.hub.cancel(id, "no more").unwrap();
    assert!(
        matches!(chat.reply().ask(&question("4"), Approve::Always), Leave::Denied(why) if why.contains("written down"))
    );
}

#[test]
fn only_so_many_questions_are_open_and_one_without_its_id_must_be_the_only_one() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let mut reply = turn.reply();
    assert_eq!(desk.house.hub.approve(turn.id, None, true, "owner"), Err(Refusal::NotAsked));
    assert_eq!(desk.house.hub.approve(Id(7), None, true, "owner"), Err(Refusal::Unknown));
    let ids: Vec<String> = (0..8).map(|at| ask(&mut reply, &at.to_string()).0).collect();
    assert_eq!(BTreeSet::from_iter(&ids).len(), 8);
    let ninth = reply.ask(&question("9"), Approve::Ask);
    assert!(matches!(&ninth, Leave::Denied(why) if why.contains("open")), "{ninth:?}");
    let many = desk.house.hub.approve(turn.id, None, true, "owner").unwrap_err();
    assert!(many.to_string().contains(&ids[7]), "{many}");
    for id in &ids[1..] {
        desk.house.hub.approve(turn.id, Some(id), false, "owner").unwrap();
    }
    assert_eq!(desk.house.hub.approve(turn.id, None, true, "owner").unwrap().id, ids[0]);
    assert_eq!(reply.answers().len(), 8);
    assert_eq!(reply.resume(&soon()), Ok(()));
}

/// Each answer is a record of a journal that all share.
#[test]
fn a_turn_that_asks_without_end_is_answered_only_so_often_and_in_few_bytes() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let mut reply = turn.reply();
    let long = Question { input: format!("[\"{}\"]", "ä".repeat(4 << 10)), ..question("x") };
    for at in 0..MAX_APPROVALS {
        assert!(matches!(reply.ask(&long, Approve::Always), Leave::Allowed), "{at}");
    }
    for policy in [Approve::Always, Approve::Ask] {
        let denied = reply.ask(&long, policy);
        let words = "too many questions in one turn";
        assert!(matches!(&denied, Leave::Denied(why) if why == words), "{denied:?}");
    }
    assert!(desk.house.message(turn.id).approvals.is_empty());
    let written = desk.written();
    assert_eq!(written.len(), MAX_APPROVALS);
    assert!((490..=500).contains(&written[0].input.len()), "{}", written[0].input.len());
    let (page, _) = desk.house.hub.approvals(&|_| true, None, 1).unwrap();
    let json: serde_json::Value = serde_json::from_str(&page[0].to_json()).unwrap();
    assert!(json["input"].as_str().unwrap().ends_with("ä…"), "{json}");
    // Another attempt begins anew.
    assert!(matches!(turn.reply().ask(&long, Approve::Always), Leave::Allowed));
}

/// It would hold its process for as long as it likes.
#[test]
fn after_a_question_that_nobody_has_answered_no_more_are_put_in_that_attempt() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let mut reply = turn.reply();
    let (withdrawn, _) = ask(&mut reply, "withdrawn");
    reply.withdraw(&withdrawn, "");
    let (late, _) = ask(&mut reply, "late");
    reply.withdraw(&late, "agent.approve_timeout");
    let denied = reply.ask(&question("again"), Approve::Ask);
    let words = "nobody has answered an earlier question";
    assert!(matches!(&denied, Leave::Denied(why) if why == words), "{denied:?}");
    assert!(desk.house.message(turn.id).approvals.is_empty());
    let by: Vec<_> = desk.written().into_iter().map(|it| (it.title, it.allowed, it.by)).collect();
    let by_policy = ("again".to_owned(), false, "agent.approve".to_owned());
    assert_eq!(by[1..], [by_policy]);
    drop(reply);
    ask(&mut turn.reply(), "in another attempt");
}

#[test]
fn what_is_asked_in_the_session_has_nothing_out_of_sight() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let asked = |reply: &mut DurableReply<'_>, title: &str, input: &str| {
        let question = Question { title: title.into(), input: input.into(), ..question("") };
        let Leave::Asked { id, .. } = reply.ask(&question, Approve::Ask) else { panic!() };
        reply.withdraw(&id, "");
        let (notice, _) = desk.house.hub.messages_of(&who("a")).pop().unwrap();
        desk.house.message(notice).reply.unwrap()
    };
    let mut reply = turn.reply();
    let hidden = format!("\"cargo test{}; rm -rf ~ #\"", " ".repeat(520));
    let text = asked(&mut reply, "a\u{202e}b \u{a0}\u{3000} c", &hidden);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("asks for leave: a\\u{202e}b c (execute)"), "{text}");
    assert_eq!((lines[1], lines.len()), ("\"cargo test ; rm -rf ~ #\"", 3), "{text}");
    let text = asked(&mut reply, "x", &format!("\"\u{9b}{}\"", "y".repeat(600)));
    let cut = "y… (103 more characters: see `hermes-gateway approvals`)";
    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with("\"\\u{9b}yy") && line.ends_with(cut), "{text}");
}

#[test]
fn a_question_that_is_withdrawn_is_answered_by_nobody_else() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let mut reply = turn.reply();
    let [(late, _), (gone, _)] = ["late", "gone"].map(|title| ask(&mut reply, title));
    let (answered, _) = ask(&mut reply, "answered");
    assert_eq!(reply.withdraw(&late, "agent.approve_timeout"), None);
    assert_eq!(desk.house.hub.approve(turn.id, Some(&late), true, "owner"), Err(Refusal::NotAsked));
    assert_eq!(reply.withdraw(&gone, ""), None);
    desk.house.hub.approve(turn.id, None, true, "owner").unwrap();
    assert_eq!(reply.withdraw(&answered, "agent.approve_timeout"), Some(true), "it came before");
    assert!(reply.answers().is_empty());
    let by: Vec<_> = desk.written().into_iter().map(|it| (it.title, it.allowed, it.by)).collect();
    let late = ("late".to_owned(), false, "agent.approve_timeout".to_owned());
    assert_eq!(by, [late, ("answered".to_owned(), true, "owner".to_owned())]);
    assert!(desk.house.message(turn.id).approvals.is_empty());
}

#[test]
fn a_turn_that_is_cancelled_while_it_waits_for_its_slot_gives_it_to_nobody_twice() {
    let desk = Desk::new(|_| {});
    let (turn, other) = (desk.run("a"), desk.accept(draft("b", "y")));
    let behind = desk.accept(draft("a", "z"));
    let mut reply = turn.reply();
    ask(&mut reply, "x");
    desk.house.hub.approve(turn.id, None, true, "owner").unwrap();
    let cancelled = EventFd::new().unwrap();
    cancelled.notify();
    let cancel = Cancel { cancel: Some(cancelled.as_fd()), ..soon() };
    assert_eq!(reply.resume(&cancel), Err(CancelReason::Cancelled));
    drop(reply);
    // The slot that comes free now is for nobody but the next.
    desk.house.open_gate();
    desk.house.until("it is over", || desk.house.turn(other) == TurnState::Done);
    assert_eq!(desk.house.hub.lock().dispatch.counts(), (0, 1), "parked, and one behind it");
    desk.house.hub.cancel(turn.id, "enough").unwrap();
    assert_eq!(turn.finish(&Outcome::Ended(CancelReason::Cancelled)), [behind]);
    assert_eq!(desk.house.hub.lock().dispatch.counts(), (1, 0));
}

#[test]
fn a_drain_and_a_pause_end_what_waits_for_an_answer_and_it_runs_again() {
    for pauses in [true, false] {
        let desk = Desk::new(|_| {});
        let hub = &desk.house.hub;
        let turn = desk.run("a");
        let mut reply = turn.reply();
        let (_, event) = ask(&mut reply, "x");
        if pauses {
            hub.pause();
        } else {
            hub.drain();
        }
        let told = poll(&mut [Interest::read(event.as_fd())], Some(PATIENCE)).unwrap();
        assert_eq!((told, reply.answers()), (1, vec![Answer::Stopping]));
        drop(reply);
        let released = Outcome::Released("the gateway restarts".to_owned());
        assert!(turn.finish(&released).is_empty(), "not now");
        let message = desk.house.message(turn.id);
        assert_eq!((message.status(), message.entry.attempts), ("queued", 1));
        assert_eq!(message.entry.crashes, 0, "it costs no attempt");
        assert_eq!(hub.busy(), 0);
        if pauses {
            desk.house.open_gate();
            hub.resume();
            desk.house.until("it runs again", || desk.house.turn(turn.id) == TurnState::Done);
            assert_eq!(desk.house.message(turn.id).entry.attempts, 2);
        } else {
            let next = read_back(&desk.house.journal);
            let entry = next.get(turn.id).unwrap();
            assert_eq!((entry.turn, entry.crashes), (TurnState::Queued, 0));
        }
    }
}

#[test]
fn one_that_asks_during_a_pause_is_told_at_once() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    desk.house.hub.pause();
    let mut reply = turn.reply();
    let (_, event) = ask(&mut reply, "x");
    assert!(event.clear());
    let answers = reply.answers();
    assert_eq!(answers, [Answer::Stopping]);
    assert_eq!(desk.house.hub.messages_of(&who("a")).len(), 1, "nobody is asked in words");
}

/// It would ask again, time and again.
#[test]
fn one_that_a_pause_has_released_does_not_run_for_a_chat_behind_it() {
    let desk = Desk::new(|_| {});
    let hub = &desk.house.hub;
    let turn = desk.run("a");
    let chat = desk.accept(Draft { attended: true, ..draft("a", "y") });
    let attended = hub.attend(chat);
    let watches = [turn.id, chat].map(|id| hub.watch(id, EventFd::new().unwrap()).unwrap());
    let news = || watches.each_ref().map(|watch| watch.event.clear());
    let put_off = || [turn.id, chat].map(|id| hub.is_put_off(id));
    hub.pause();
    desk.house.until("they look", || news() == [true, true]);
    assert_eq!(put_off(), [false, false]);
    assert!(turn.finish(&Outcome::Released("x".to_owned())).is_empty());
    // The restart does not wait for those who wait for what does not begin before it.
    assert_eq!((news(), put_off()), ([true, true], [true, true]));
    assert_eq!(desk.begin(), []);
    assert_eq!(desk.house.turn(turn.id), TurnState::Queued);
    drop(attended);
    desk.house.open_gate();
    hub.resume();
    for id in [turn.id, chat] {
        assert_eq!(desk.house.wait(id).entry.turn, TurnState::Done);
    }
}

#[test]
fn a_principal_whose_share_of_the_journal_is_full_is_allowed_nothing_more() {
    let desk = Desk::new(|config| {
        config.keys.insert("guest".to_owned(), crate::config::ClientKey::new("guest"));
        (config.limits.max_share, config.limits.max_journal) = (50, 200 << 10);
    });
    let guest = Owner::new("guest".to_owned(), Some("s".to_owned()));
    let id = desk.accept(Draft { who: guest, ..draft("", "x") });
    assert_eq!(desk.begin(), [id]);
    let turn = desk.turn(id);
    let mut reply = turn.reply();
    let long = question(&"x".repeat(20 << 10));
    let asked = std::iter::repeat_with(|| reply.ask(&long, Approve::Always)).take(20);
    let allowed = asked.take_while(|leave| matches!(leave, Leave::Allowed)).count();
    assert!((1..8).contains(&allowed), "{allowed}");
    let denied = reply.ask(&long, Approve::Always);
    assert!(matches!(&denied, Leave::Denied(why) if why.contains("share")), "{denied:?}");
}

/// The ends of turns need what is left of it.
#[test]
fn nothing_is_allowed_where_the_journal_takes_no_new_work() {
    let desk = Desk::new(|_| {});
    let turn = desk.run("a");
    let size = desk.house.hub.journal_size().0;
    desk.house.hub.journal.set_cap(2 * size);
    let denied = turn.reply().ask(&question("x"), Approve::Always);
    assert!(matches!(&denied, Leave::Denied(why) if why.contains("written down")), "{denied:?}");
    turn.finish(&Outcome::Done);
    assert_eq!(desk.house.turn(turn.id), TurnState::Done);
}

#[test]
fn a_turn_that_is_answered_goes_on_during_a_pause() {
    let desk = Desk::new(|_| {});
    let (turn, _) = (desk.run("a"), desk.accept(draft("b", "y")));
    let mut reply = turn.reply();
    ask(&mut reply, "x");
    desk.house.hub.approve(turn.id, None, true, "owner").unwrap();
    desk.house.until_logged(1);
    desk.house.hub.pause();
    desk.house.open_gate();
    assert_eq!(reply.resume(&soon()), Ok(()));
    desk.house.hub.resume();
}

#[test]
fn a_turn_that_is_released_time_and_again_pauses() {
    let desk = Desk::new(|_| {});
    let first = desk.run("a").id;
    let released = Outcome::Released("another turn ended its agent".to_owned());
    for _ in 0..20 {
        assert_eq!(desk.turn(first).finish(&released), [first], "at once");
    }
    assert!(desk.turn(first).finish(&released).is_empty());
    let message = desk.house.message(first);
    assert_eq!(message.entry.turn, TurnState::Backoff);
    assert!(message.error.unwrap().contains("another turn"));
    assert_eq!((message.entry.attempts, message.entry.crashes), (21, 0));
    // One that ended otherwise begins to count anew.
    assert_eq!(desk.house.hub.lock().replies.of(first).lock().releases, 21);
    let failed = Outcome::Failed("x".to_owned());
    desk.house.hub.lock().replies.of(first).count_release(&failed);
    assert_eq!(desk.house.hub.lock().replies.of(first).lock().releases, 0);
}

#[test]
fn answers_come_by_commands_from_whoever_has_asked_and_from_operators() {
    let desk = Desk::new(|config| {
        for name in ["guest", "other"] {
            let key = crate::config::ClientKey::new(name);
            config.keys.insert(name.to_owned(), key);
        }
        config.limits.max_turns = 4;
        config.limits.max_share = 90;
    });
    let guest = |session: &str| Owner::new("guest".to_owned(), Some(session.to_owned()));
    let run = || {
        let id = desk.accept(Draft { who: guest("s"), ..draft("", "x") });
        assert_eq!(desk.begin(), [id]);
        desk.turn(id)
    };
    let turn = run();
    let mut reply = turn.reply();
    assert_eq!(desk.say(&guest("s"), "/approve"), "Nothing is asked here.");
    let (id, _) = ask(&mut reply, "one");
    assert_eq!(desk.say(&guest("t"), "/approve"), "Nothing is asked here.");
    let other = Owner::new("other".to_owned(), Some("s".to_owned()));
    let refused = desk.say(&other, &format!("/approve {id}"));
    assert!(refused.contains("No such question"), "{refused}");
    assert_eq!(desk.say(&who("s"), "/deny"), "Nothing is asked here.", "another's session");
    assert_eq!(desk.say(&guest("s"), "/approve"), "Allowed: one");
    let (id, _) = ask(&mut reply, "two");
    assert_eq!(desk.say(&guest("t"), &format!("/deny {}", id.to_lowercase())), "Denied: two");
    let (first, _) = ask(&mut reply, "three");
    let (second, _) = ask(&mut reply, "four");
    let list = desk.say(&guest("s"), "/approve");
    assert!(list.contains(&first) && list.contains(&second) && list.contains("four"), "{list}");
    assert_eq!(desk.say(&who("ops"), &format!("/approve {second}")), "Allowed: four");
    assert_eq!(desk.say(&guest("s"), "/deny"), "Denied: three");
    let by: Vec<String> = desk.written().into_iter().map(|it| it.by).collect();
    assert_eq!(by, ["guest", "guest", "owner", "guest"]);
    assert!(desk.say(&guest("s"), "/status").contains("operators"), "other commands are not open");
}

#[test]
fn who_allowed_what_is_listed_newest_first() {
    let desk = Desk::new(|_| {});
    let hub = &desk.house.hub;
    let turn = desk.run("a");
    let mut reply = turn.reply();
    for title in ["1", "2", "3"] {
        ask(&mut reply, title);
        let open = hub.open_approvals(&|owner| *owner == who("a"));
        assert_eq!(open.len(), 1);
        assert!(hub.open_approvals(&|owner| *owner == who("b")).is_empty());
        hub.approve(turn.id, None, title != "2", "owner").unwrap();
    }
    let all = |before, limit| {
        let (page, next) = hub.approvals(&|_| true, before, limit).unwrap();
        let titles: Vec<String> = page.into_iter().map(|it| it.approval.title).collect();
        (titles.concat(), next)
    };
    assert_eq!(all(None, 10), ("321".to_owned(), None));
    let (page, next) = all(None, 2);
    assert_eq!((page.as_str(), next.is_some()), ("32", true));
    assert_eq!(all(next, 2), ("1".to_owned(), None));
    assert!(hub.approvals(&|owner| *owner == who("b"), None, 10).unwrap().0.is_empty());
    let (page, _) = hub.approvals(&|_| true, None, 1).unwrap();
    let json: serde_json::Value = serde_json::from_str(&page[0].to_json()).unwrap();
    assert_eq!((json["title"].as_str(), json["by"].as_str()), (Some("3"), Some("owner")));
    assert_eq!((json["session"].as_str(), json["allowed"].as_bool()), (Some("a"), Some(true)));
    assert_eq!(json["input"]["command"].as_str(), Some("ls"));
    drop(reply);
    turn.finish(&Outcome::Done);
    hub.reset(&who("a"), "test").unwrap();
    assert!(hub.approvals(&|_| true, None, 10).unwrap().0.is_empty(), "a reset forgets them");
}

#[test]
fn an_agents_session_is_kept_until_its_own_is_reset_or_forgotten() {
    let desk = Desk::new(|_| {});
    let hub = &desk.house.hub;
    let digest = who("a").digest().unwrap();
    let session = |id: &str| AgentSession { agent: "digest".to_owned(), id: id.to_owned() };
    let turn = desk.run("a");
    let mut reply = turn.reply();
    reply.keep_session(&session("1"));
    let records = desk.house.journal.all().len();
    reply.keep_session(&session("1"));
    assert_eq!(desk.house.journal.all().len(), records, "it is there already");
    reply.keep_session(&session("2"));
    assert_eq!(hub.agent_session(digest).unwrap(), Some(session("2")));
    drop(reply);
    // Its followers see it, and the next process has it.
    let mut seen = Vec::new();
    hub.records_of(digest, 0, &mut |_| Ok(()), &mut |_, record, _| {
        seen.push(record.word());
        true
    })
    .unwrap();
    assert_eq!(seen, ["accepted", "started", "agent_session"]);
    let all = desk.house.journal.all();
    assert_ne!(read_back(&desk.house.journal).agent_session_of(digest), 0);
    // A reset that comes while the turn runs is the end of it.
    hub.reset(&who("a"), "test").unwrap();
    assert_eq!(hub.agent_session(digest).unwrap(), None);
    turn.reply().keep_session(&session("3"));
    assert_eq!(hub.agent_session(digest).unwrap(), None, "it was forgotten");
    assert_eq!(read_back(&desk.house.journal).agent_session_of(digest), 0);
    assert!(desk.house.journal.all().len() > all.len());
    let ephemeral = desk.accept(draft("", "x"));
    turn.finish(&Outcome::Done);
    desk.begin();
    desk.turn(ephemeral).reply().keep_session(&session("4"));
    assert_eq!(hub.lock().table.agent_session_bytes(), 0);
}

#[test]
fn an_idle_session_takes_its_agents_session_with_it_also_where_its_messages_are_forgotten() {
    let house = House::with(None, |config| {
        config.limits.max_transcripts = 1 << 20;
        config.limits.keep_results = 0;
    });
    let id = house.send("a", "x");
    house.wait(id);
    house.until_idle();
    let (hub, digest) = (&house.hub, who("a").digest().unwrap());
    let turn = Turn {
        hub: Arc::clone(hub),
        id,
        entry: hub.lock().table.get(id).unwrap().clone(),
        run: Arc::default(),
        begun: Rc::default(),
    };
    turn.reply().keep_session(&AgentSession { agent: "d".to_owned(), id: "1".to_owned() });
    let last = house.send("b", "y");
    house.wait(last);
    hub.lock().table.forget(&[id]);
    hub.compact().unwrap();
    assert_ne!(hub.lock().table.agent_session_of(digest), 0);
    hub.make_room(&who("other"), crate::shares::Limit::Gateway);
    assert_eq!(hub.lock().table.agent_session_of(digest), 0);
    assert_eq!(read_back(&house.journal).agent_session_of(digest), 0);
    hub.compact().unwrap();
    assert!(!house.journal.all().iter().any(|(_, json)| json.contains("agent_session")));
}

#[test]
fn in_a_group_whoever_asked_answers_and_an_operator_may() {
    use super::channels::{offered, office, origin};
    let desk = Desk::new(office);
    let answers = |id: &str, from: &str, text: &str| {
        let (command, origin) = (Command::parse(text).unwrap(), origin(&[id], from, true));
        match desk.house.hub.command(command, offered(origin, text)).unwrap() {
            Submitted::New { id, .. } => desk.house.message(id).reply.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    for (n, from) in [(0, "eve"), (1, "ann"), (2, "bob")] {
        let id = desk.accept(offered(origin(&[&format!("m{n}")], "eve", true), "x"));
        assert_eq!(desk.begin(), [id]);
        let turn = desk.turn(id);
        let mut reply = turn.reply();
        let (question, _) = ask(&mut reply, "ls");
        // It is asked where the message was.
        let asked = desk.house.hub.messages_of(&turn.entry.owner);
        let (notice, _) = asked.iter().rfind(|(it, _)| *it > id).unwrap();
        let to_send = desk.house.hub.to_send(*notice).unwrap();
        assert_eq!(
            (&*to_send.place.conversation, to_send.prompt.as_ref()),
            ("room", Some(&question))
        );
        assert!(!to_send.markdown && desk.house.hub.running_on("office")[0].asks);
        for text in ["/approve".to_owned(), format!("/approve {question}")] {
            let other = answers(&format!("x{n}{}", text.len()), "joe", &text);
            assert!(other.contains("Whoever sent the message is asked"), "{other}");
        }
        assert_eq!(answers(&format!("a{n}"), from, &format!("/approve {question}")), "Allowed: ls");
        assert_eq!(reply.answers(), [Answer::Given(question, true)]);
        assert_eq!(reply.resume(&soon()), Ok(()));
        assert!(!desk.house.hub.running_on("office")[0].asks);
        drop(reply);
        turn.finish(&Outcome::Done);
    }
    let by: Vec<String> = desk.written().into_iter().map(|it| it.by).collect();
    assert_eq!(by, ["office:eve", "office:ann", "office:bob"]);
}
