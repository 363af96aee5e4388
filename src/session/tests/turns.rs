//! Turns as their senders see them.

use super::*;
use crate::shares::Limit;

#[test]
fn sessions_keep_their_order_whoever_sends() {
    let house = House::with(None, |config| config.limits.max_queue_per_session = 1000);
    let ids: Vec<(Id, String)> = std::thread::scope(|scope| {
        let send = |part: usize| {
            let house = &house;
            scope.spawn(move || {
                let one = |at: usize| {
                    let text = format!("{part}-{at}");
                    (house.send(["a", "b", "c", "d", ""][at % 5], &text), text)
                };
                (0..50).map(one).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..8).map(send).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for (id, text) in &ids {
        let message = house.wait(*id);
        assert_eq!((message.entry.turn, message.reply.as_ref()), (TurnState::Done, Some(text)));
        assert_eq!((message.entry.attempts, message.position), (1, None));
    }
    let ends = house.audit();
    assert!(ends.len() == 400 && ends.values().all(|turn| *turn == TurnState::Done));
    // A message is durable when its sender knows of it, and so is every end that was shown.
    assert_eq!(house.journal.durable().len(), 1200);
    for session in ["a", "b", "c", "d"] {
        let said = house.said(session);
        assert!(said.is_sorted() && said.len() == 80, "{}", said.len());
    }
    assert_eq!(house.counts().kept, 400);
}

#[test]
fn an_agent_in_shell_sees_its_turns_in_order() {
    let house = House::new(Some(r#"printf %s "re: $m""#));
    let sent: Vec<(Id, String)> = (0..24)
        .map(|at| {
            let text = format!("{}{at:02}", ["a", "b", "c"][at % 3]);
            (house.send(&text[..1], &text), text)
        })
        .collect();
    for (id, text) in &sent {
        assert_eq!(house.wait(*id).reply, Some(format!("re: {text}")));
    }
    house.audit();
    for session in ["a", "b", "c"] {
        let log = house.log().into_iter().filter(|line| line.starts_with(session));
        let mine = sent.iter().filter(|(_, text)| text.starts_with(session));
        let expected = mine.map(|(_, text)| format!("{text} 1"));
        assert_eq!(log.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

#[test]
fn one_key_is_one_message() {
    let house = House::new(None);
    for round in 0..20 {
        let key = round + 1;
        let results: Vec<Submitted> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| house.hub.submit(keyed("s", "text", key)).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let new: Vec<Id> = results
            .iter()
            .filter_map(|result| match result {
                Submitted::New { id, .. } => Some(*id),
                Submitted::Known(_) => None,
            })
            .collect();
        let [id] = new[..] else { panic!("{results:?}") };
        assert_eq!(results.iter().filter(|r| **r == Submitted::Known(id)).count(), 15);
        let other = house.hub.submit(keyed("s", "another", key));
        assert_eq!(other, Err(Refusal::Conflict));
        house.wait(id);
        assert_eq!(house.hub.submit(keyed("s", "text", key)), Ok(Submitted::Known(id)));
    }
    assert_eq!(house.audit().len(), 20);
}

#[test]
fn positions_count_the_line() {
    let house = House::with(Some(GATE), |config| config.limits.max_queue_per_session = 3);
    let submit = |text| match house.hub.submit(draft("s", text)) {
        Ok(Submitted::New { id, position, interrupted: None }) => Ok((id, position)),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal),
    };
    let line: Vec<(Id, usize)> = ["1", "2", "3", "4"].map(|text| submit(text).unwrap()).to_vec();
    assert_eq!(line.iter().map(|(_, position)| *position).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let full = submit("5").unwrap_err();
    assert!(matches!(&full, Refusal::Full(reached) if reached.over == Limit::Session), "{full:?}");
    let place = |at: usize| house.message(line[at].0).position;
    assert_eq!([place(0), place(1), place(2), place(3)], [Some(1), Some(2), Some(3), Some(4)]);
    house.hub.cancel(line[1].0, "no more").unwrap();
    assert_eq!([place(0), place(1), place(2), place(3)], [Some(1), None, Some(2), Some(3)]);
    assert_eq!(submit("6").unwrap().1, 4);
    let session = house.hub.session(&who("s")).unwrap();
    assert_eq!((session.running, session.queued), (Some(line[0].0), 3));
    house.open_gate();
    house.until("all are over", || house.counts().queued == 0);
    assert_eq!(house.audit().len(), 5);
    assert_eq!(house.log(), ["1 1", "3 1", "4 1", "6 1"]);
}

#[test]
fn queues_are_bounded_in_all() {
    let house = House::with(Some(GATE), |config| {
        (config.limits.max_turns, config.limits.max_queue) = (1, 2);
    });
    let ids = ["a", "b", ""].map(|session| house.send(session, "x"));
    let refused = house.hub.submit(draft("c", "x")).unwrap_err();
    let Refusal::Full(reached) = refused else { panic!("{refused:?}") };
    assert_eq!(reached.over, Limit::Gateway);
    assert_eq!(house.journal.all().len(), 4, "what is refused leaves no trace");
    house.open_gate();
    ids.iter().for_each(|id| drop(house.wait(*id)));
    house.send("c", "x");
    house.until_idle();
    assert_eq!(house.audit().len(), 4);
}

#[test]
fn a_message_can_interrupt() {
    let house = House::new(Some(r#"case $m in block*) sleep 600;; esac; printf %s "$m""#));
    let first = house.send("s", "block");
    let second = house.send("s", "next");
    house.until_logged(1);
    let draft = Draft { mode: Busy::Interrupt, ..draft("s", "now") };
    let Ok(Submitted::New { id, position, interrupted }) = house.hub.submit(draft.clone()) else {
        panic!("it was not taken");
    };
    assert_eq!((position, interrupted), (3, Some(first)));
    let ended = house.wait(first);
    assert_eq!(ended.entry.turn, TurnState::Cancelled);
    assert_eq!(ended.error, Some(format!("interrupted by message {id}")));
    assert_eq!(house.wait(id).reply.as_deref(), Some("now"));
    assert_eq!(house.turn(second), TurnState::Done);
    house.until_idle();
    let Ok(Submitted::New { position, interrupted, .. }) = house.hub.submit(draft) else {
        panic!("it was not taken");
    };
    assert_eq!((position, interrupted), (1, None), "nobody is there to interrupt");
    house.until_idle();
    house.audit();
    assert_eq!(house.log(), ["block 1", "next 1", "now 1", "now 1"]);
}

#[test]
fn messages_can_be_taken_back() {
    let house = House::new(Some(GATE));
    let [first, second, third] = ["1", "2", "3"].map(|text| house.send("s", text));
    house.until_logged(1);
    house.hub.cancel(second, "changed my mind").unwrap();
    let taken = house.wait(second);
    assert_eq!((taken.entry.turn, taken.entry.attempts), (TurnState::Cancelled, 0));
    assert_eq!(taken.error.as_deref(), Some("changed my mind"));
    house.hub.cancel(first, "one").unwrap();
    house.hub.cancel(first, "two").unwrap_or_else(|denied| assert_eq!(denied, Refusal::TooLate));
    let taken = house.wait(first);
    assert_eq!((taken.entry.turn, taken.error.as_deref()), (TurnState::Cancelled, Some("one")));
    house.open_gate();
    assert_eq!(house.wait(third).entry.turn, TurnState::Done);
    for over in [first, second, third] {
        assert_eq!(house.hub.cancel(over, "late"), Err(Refusal::TooLate));
    }
    assert_eq!(house.hub.cancel(Id::from(1), "x"), Err(Refusal::Unknown));
    house.audit();
    assert_eq!(house.log(), ["1 1", "3 1"]);
    assert_eq!(house.said("s"), [third]);
}

#[test]
fn a_turn_between_two_attempts_can_be_taken_back() {
    let house = House::with(Some("exit 75"), |config| config.limits.max_attempts = 10);
    let (first, second) = (house.send("s", "1"), house.send("s", "2"));
    let in_backoff = |id: Id| house.hub.lock().table.get(id).unwrap().turn == TurnState::Backoff;
    house.until("it waits for its retry", || in_backoff(first));
    house.hub.cancel(first, "enough").unwrap();
    assert_eq!(house.wait(first).entry.turn, TurnState::Cancelled);
    house.until("the next one has its turn", || in_backoff(second));
    assert_eq!(house.hub.reset(&who("s"), "anew"), Ok(1));
    assert!(house.wait(second).entry.erased);
    house.audit();
    assert_eq!(house.log(), ["1 1", "2 1"]);
}

#[test]
fn a_reset_ends_and_forgets_all() {
    let house = House::new(Some(r#"case $m in block*) sleep 600;; esac; printf %s "$m""#));
    let before = house.send("s", "before");
    house.wait(before);
    assert_eq!(house.said("s"), [before]);
    let elsewhere = house.send("t", "block");
    let ids = ["block", "2", "3"].map(|text| house.send("s", text));
    house.until_logged(3);
    assert_eq!(house.hub.reset(&who("s"), "anew"), Ok(3));
    assert!(house.said("s").is_empty());
    for id in ids {
        let message = house.wait(id);
        assert_eq!(
            (message.entry.turn, message.error, message.entry.erased),
            (TurnState::Cancelled, None, true)
        );
    }
    let after = house.send("s", "after");
    assert_eq!(house.wait(after).reply.as_deref(), Some("after"));
    assert_eq!(house.said("s"), [after]);
    assert_eq!(house.turn(elsewhere), TurnState::Running);
    house.hub.cancel(elsewhere, "end").unwrap();
    house.wait(elsewhere);
    assert_eq!(house.hub.reset(&who("s"), "again"), Ok(0));
    assert!(house.said("s").is_empty());
    assert_eq!(house.hub.reset(&who(""), "x"), Err(Refusal::Unknown));
    house.audit();
    assert_eq!(house.log(), ["before 1", "block 1", "block 1", "after 1"]);
}

#[test]
fn what_was_said_during_a_reset_is_forgotten_too() {
    // It answers in spite of its SIGTERM.
    let house = House::new(Some(&format!("trap '' TERM; {GATE}printf %s \"$m\"")));
    let first = house.send("s", "1");
    house.until_logged(1);
    assert_eq!(house.hub.reset(&who("s"), "anew"), Ok(1));
    house.open_gate();
    house.wait(first);
    let second = house.send("s", "2");
    house.wait(second);
    assert_eq!(house.said("s"), [second]);
    house.audit();
}

#[test]
fn a_retry_keeps_the_order() {
    let script = r#"case $m$HERMES_ATTEMPT in flaky*1) echo lost; exit 75;; esac; printf %s "$m""#;
    let house = House::new(Some(script));
    let sent = ["flaky1", "next", "flaky2", "last"].map(|text| (house.send("s", text), text));
    let free = house.send("t", "other");
    assert_eq!(house.wait(free).entry.turn, TurnState::Done);
    for (id, text) in &sent {
        let message = house.wait(*id);
        assert_eq!((message.entry.turn, message.reply.as_deref()), (TurnState::Done, Some(*text)));
        assert_eq!(message.entry.attempts, if text.starts_with("flaky") { 2 } else { 1 });
        assert_eq!(message.error, None);
    }
    house.audit();
    let log = house.log().into_iter().filter(|line| !line.starts_with("other"));
    let expected = ["flaky1 1", "flaky1 2", "next 1", "flaky2 1", "flaky2 2", "last 1"];
    assert_eq!(log.collect::<Vec<_>>(), expected);
    assert_eq!(house.said("s"), sent.map(|(id, _)| id));
}

#[test]
fn attempts_come_to_an_end() {
    let script = "case $m in bad) echo why >&2; exit 3;; killed) kill -9 $$;; esac; exit 75";
    let house = House::with(Some(script), |config| {
        config.agent.retry_for = Duration::from_millis(100);
    });
    let temporary = house.send("a", "busy");
    let killed = house.send("b", "killed");
    let permanent = house.send("c", "bad");
    let message = house.wait(permanent);
    assert_eq!(
        (message.entry.turn, message.entry.attempts, message.reply),
        (TurnState::Failed, 1, None)
    );
    assert!(message.error.unwrap().contains("why"));
    for (id, why) in [(temporary, "agent.retry_for is over"), (killed, "signal 9")] {
        let message = house.wait(id);
        assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Failed, 2));
        let error = message.error.unwrap();
        assert!(error.contains(why), "{error}");
    }
    house.audit();
    assert!(house.said("a").is_empty() && house.said("c").is_empty());
}

#[test]
fn an_agent_that_is_not_there_may_come_back() {
    let house = House::new(Some("true"));
    let mut config = config(&house.dir, Some("printf back"));
    let good = settings(&config).0;
    config.agent.command = vec![house.dir.path().join("no").to_str().unwrap().to_owned()];
    house.hub.reload(settings(&config).0);
    let id = house.send("s", "x");
    house.until("its first attempt failed", || house.message(id).error.is_some());
    house.hub.reload(good);
    let message = house.wait(id);
    assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Done, 2));
    assert_eq!(message.reply.as_deref(), Some("back"));
    house.audit();
}

#[test]
fn more_places_begin_turns_at_once() {
    let house = House::with(Some(GATE), |config| config.limits.max_turns = 1);
    let ids = ["a", "b", "c"].map(|session| house.send(session, session));
    house.until_logged(1);
    assert_eq!(house.hub.try_status().unwrap().1, (1, 2, 3));
    let config = config(&house.dir, Some(GATE));
    house.hub.reload(settings(&config).0);
    house.until_logged(3);
    house.open_gate();
    ids.iter().for_each(|id| drop(house.wait(*id)));
    house.audit();
}

#[test]
fn a_drain_begins_nothing_and_says_when_all_is_quiet() {
    let house = House::with(Some(GATE), |config| config.limits.max_turns = 2);
    let running = ["a", "b"].map(|session| house.send(session, session));
    let queued = ["a", "c", ""].map(|session| house.send(session, "later"));
    house.until_logged(2);
    let waiter = |id: Id| {
        let (hub, client) = (Arc::clone(&house.hub), house.client.0.try_clone().unwrap());
        std::thread::spawn(move || hub.wait(id, client.as_fd(), PATIENCE).unwrap())
    };
    let (held, put_off) = (waiter(running[0]), waiter(queued[0]));
    assert!(!house.quiet.clear());
    house.hub.drain();
    assert!(!put_off.join().unwrap(), "it does not run any more");
    assert_eq!(house.hub.submit(draft("d", "x")), Err(Refusal::Stopping));
    // The keeper's last round, and the look for what could begin, count as work for a moment: so
    // does the main loop look again whenever it is told.
    house.until("only the two turns are at work", || house.hub.busy() == 2);
    house.quiet.clear();
    house.open_gate();
    loop {
        let told = poll(&mut [Interest::read(house.quiet.as_fd())], Some(PATIENCE)).unwrap();
        assert_eq!(told, 1, "nobody says that all is quiet");
        house.quiet.clear();
        if house.hub.busy() == 0 {
            break;
        }
    }
    assert!(held.join().unwrap());
    running.iter().for_each(|id| assert_eq!(house.turn(*id), TurnState::Done));
    for id in queued {
        assert_eq!((house.turn(id), house.message(id).entry.attempts), (TurnState::Queued, 0));
    }
    let ends = audit(&house.journal.all());
    assert_eq!(ends.len(), 2);
    house.hub.close(false);
    assert_eq!(house.journal.durable(), house.journal.all());
    // The next process has them.
    fs::remove_file(house.dir.path().join("LOG")).unwrap();
    let dir = TempDir::new("hub");
    let next = House::open(dir, Testing::of(&house.journal.durable()), &Config::default());
    for id in queued {
        let message = next.wait(id);
        assert_eq!((message.entry.attempts, message.reply.as_deref()), (1, Some("later")));
    }
    next.audit();
    assert!(house.log().is_empty());
}

/// Who waits for it would be told that it comes later, and a stream would end before its last words.
#[test]
fn what_ended_during_a_drain_is_not_put_off() {
    let house = House::new(None);
    let id = house.send("s", "x");
    house.wait(id);
    house.hub.drain();
    assert!(!house.hub.is_put_off(id));
}

/// Whoever sees a drain with nothing at work ends the process: nothing may begin after that.
#[test]
fn nothing_begins_once_a_drain_has_seen_that_nothing_is_at_work() {
    let house = House::new(None);
    let hub = Arc::downgrade(&house.hub);
    let quiet = Arc::new(std::sync::Mutex::new(false));
    let seen = Arc::clone(&quiet);
    house.journal.on_append(move |json| {
        // The stop comes while a turn is about to begin.
        if let (Some(hub), true) = (hub.upgrade(), json.contains("started")) {
            hub.drain();
            *seen.lock().unwrap() = hub.busy() == 0;
        }
    });
    let id = house.send("s", "x");
    let quiet = *quiet.lock().unwrap();
    assert!(
        !quiet,
        "the process may end by now, and attempt {} began",
        house.message(id).entry.attempts
    );
}

#[test]
fn a_cut_leaves_its_turns_to_the_next_start() {
    let house = House::new(Some(GATE));
    let (first, second) = (house.send("s", "1"), house.send("s", "2"));
    house.until_logged(1);
    house.hub.drain();
    house.hub.abort.notify();
    house.until_idle();
    poll(&mut [Interest::read(house.quiet.as_fd())], Some(PATIENCE)).unwrap();
    assert!(house.quiet.clear());
    assert!(!house.hub.wait(second, house.client.0.as_fd(), PATIENCE).unwrap());
    let dir = TempDir::new("hub");
    let next = House::open(dir, Testing::of(&house.journal.all()), &Config::default());
    assert_eq!(next.wait(first).entry.attempts, 2);
    assert_eq!(next.wait(second).entry.attempts, 1);
    next.audit();
}

#[test]
fn a_message_that_nobody_knows_is_over() {
    let house = House::new(None);
    assert!(house.hub.wait(Id::from(1), house.client.0.as_fd(), PATIENCE).unwrap());
    assert!(house.hub.message(Id::from(1)).unwrap().is_none());
    assert!(house.hub.watch(Id::from(1), EventFd::new().unwrap()).is_none());
    assert!(house.hub.lock().replies.is_empty());
}

#[test]
fn a_wait_ends_with_its_client_or_its_time() {
    let house = House::new(Some(GATE));
    let id = house.send("s", "1");
    let (client, other) = UnixStream::pair().unwrap();
    let short = Duration::from_millis(20);
    let began = Instant::now();
    assert!(!house.hub.wait(id, client.as_fd(), short).unwrap());
    assert!(began.elapsed() >= short);
    drop(other);
    assert!(!house.hub.wait(id, client.as_fd(), PATIENCE).unwrap());
    assert!(began.elapsed() < PATIENCE, "its client is gone");
    house.open_gate();
    house.wait(id);
    house.audit();
}

#[test]
fn forgetting_and_compacting_leave_what_is_needed() {
    let house = House::with(None, |config| {
        (config.limits.keep_results, config.limits.max_queue_per_session) = (5, 1000);
    });
    let ids: Vec<Id> = (0..200).map(|at| house.send("s", &format!("{at}"))).collect();
    house.wait(ids[199]);
    house.until("the keeper forgets", || house.counts().kept <= 5 + 64 + 1);
    let before = house.said("s");
    let (size, left) = house.hub.compact().unwrap();
    assert!(left < size / 2, "{size} {left}");
    assert_eq!(house.message(ids[199]).reply.as_deref(), Some("199"));
    assert!(house.hub.message(ids[0]).unwrap().is_none());
    assert_eq!(house.said("s"), before);
    assert_eq!(before, ids);
    let table = read_back(&house.journal);
    assert_eq!(table.counts, house.counts());
    assert_eq!(table.counts.bytes, house.hub.lock().table.counts.bytes);
}

#[test]
fn what_somebody_is_about_to_read_is_not_forgotten() {
    let house = House::with(None, |config| config.limits.keep_results = 5);
    // While there are so few nothing is forgotten yet.
    let mut ids: Vec<Id> = (0..3).map(|at| house.send("s", &format!("{at}"))).collect();
    let held = house.hub.pin_reply(ids[2]);
    ids.extend((3..10).map(|at| house.send("s", &format!("{at}"))));
    house.wait(ids[9]);
    house.hub.compact().unwrap();
    let known = |id: Id| house.hub.message(id).unwrap().is_some();
    assert!(!known(ids[0]) && known(ids[2]) && known(ids[9]));
    drop(held);
    house.hub.compact().unwrap();
    assert!(!known(ids[2]) && known(ids[9]));
}

#[test]
fn an_end_during_a_drain_is_durable_while_others_still_run() {
    let script = r#"until [ -e "$GATE.$m" ]; do sleep 0.01; done; "#;
    let house = House::with(Some(script), |config| config.limits.max_turns = 2);
    let open = |name: &str| fs::write(house.dir.path().join(format!("GATE.{name}")), "").unwrap();
    for session in ["a", "b"] {
        house.send(session, session);
    }
    house.until_logged(2);
    house.hub.drain();
    open("a");
    house.until("one has ended", || house.hub.busy() == 1);
    house.until("its end is durable", || house.journal.durable() == house.journal.all());
    assert_eq!(house.hub.busy(), 1);
    open("b");
    house.until_idle();
}
