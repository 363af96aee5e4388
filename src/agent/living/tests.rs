//! Processes that stay, with shell scripts that speak lines.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::process::{Phase, Work};
use super::{Living, Process, ProcessStatus, Protocol};
use crate::agent::acp::ACP;
use crate::agent::lines::LINES;
use crate::agent::{Outcome, Reply, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::config;
use crate::subprocess::Children;
use crate::sys::fd::EventFd;
use crate::testing::TempDir;
use crate::threads::{Slot, pause};
use std::os::fd::AsFd;

const LONG: Duration = Duration::from_secs(120);

/// Answers each turn with the process's number; on `die` it dies, on `hang` it says nothing more, and on
/// `long` it prints a line without end.
const SCRIPT: &str = r#"
while read -r line; do
    id=${line#*'"id":"'} id=${id%%'"'*}
    case $line in
        *'"text":"die"'*) echo "it hurts" >&2; exit 3;;
        *'"text":"hang"'*) ;;
        *'"text":"mine"'*) printf '{"id":"%s","chunk":"' "$id"; head -c 200000 /dev/zero | tr '\0' x; sleep 600;;
        *'"text":"long"'*) head -c 200000 /dev/zero | tr '\0' x; sleep 600;;
        *'"cancel":true'*) ;;
        *) printf '{"id":"%s","chunk":"%s"}\n{"id":"%s","done":true}\n' "$id" "$$" "$id";;
    esac
done"#;

impl Process {
    /// One that is ready and has no program behind it: what it is sent is read from the pipe.
    pub fn scripted(protocol: &'static dyn Protocol) -> (Arc<Process>, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let process = Process::new("", protocol, (1 << 20, 1 << 20), Work::default()).unwrap();
        let mut state = process.lock();
        (state.stdin, state.phase) = (Some(Arc::new(writer)), Phase::Ready);
        drop(state);
        (process, reader)
    }

    /// Closes that pipe.
    pub fn close_stdin(&self) {
        self.lock().stdin = None;
    }
}

struct House(Arc<Living>);

#[derive(Default)]
struct Text(String);

impl Reply for Text {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        self.0.push_str(text);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl House {
    fn new(script: &str, change: fn(&mut config::Agent)) -> House {
        House::speaking(&LINES, script, change)
    }

    fn speaking(
        protocol: &'static dyn Protocol,
        script: &str,
        change: fn(&mut config::Agent),
    ) -> House {
        House::working(protocol, script, PathBuf::new(), change)
    }

    fn working(
        protocol: &'static dyn Protocol,
        script: &str,
        data: PathBuf,
        change: fn(&mut config::Agent),
    ) -> House {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let mut agent = config::Agent { command, ..config::Agent::default() };
        change(&mut agent);
        let (children, limits) = (Children::new(None), (100_000, 100_000));
        House(Living::new(&agent, protocol, &children, limits, data))
    }

    fn turn_within(&self, whose: &str, text: &str, cancel: Cancel<'_>) -> (Outcome, String) {
        let mut reply = Text::default();
        (self.turn_into(&mut reply, whose, text, cancel), reply.0)
    }

    fn turn_into(
        &self,
        reply: &mut dyn Reply,
        whose: &str,
        text: &str,
        cancel: Cancel<'_>,
    ) -> Outcome {
        static TURNS: AtomicU64 = AtomicU64::new(0);
        let turn = Turn {
            message_id: &TURNS.fetch_add(1, Ordering::Relaxed).to_string(),
            session: "",
            principal: whose,
            attempt: 1,
            text,
            context: None,
            transcript: None,
            attachments: &[],
            earlier: &[],
            max_reply: 1000,
            process: whose,
            session_name: "",
            agent_session: None,
        };
        self.0.run(&turn, &RefCell::new(reply), cancel)
    }

    fn turn(&self, whose: &str, text: &str) -> (Outcome, String) {
        self.turn_within(whose, text, Cancel::at(Instant::now() + LONG))
    }

    /// Waits until the processes are like this.
    #[track_caller]
    fn until(&self, like: impl Fn(&[ProcessStatus]) -> bool) -> Vec<ProcessStatus> {
        let deadline = Instant::now() + LONG;
        loop {
            let processes = self.0.processes();
            if like(&processes) {
                return processes;
            }
            assert!(Instant::now() < deadline, "{processes:?}");
            pause(Duration::from_millis(1));
        }
    }

    /// Has a turn hang in a process, in a thread of its own, until the event is raised.
    fn hang(self: &Arc<Self>, whose: &'static str) -> (Arc<EventFd>, thread::JoinHandle<Outcome>) {
        let (event, house) = (Arc::new(EventFd::new().unwrap()), Arc::clone(self));
        let cancelled = Arc::clone(&event);
        let work = move || {
            let cancel =
                Cancel { cancel: Some(cancelled.as_fd()), ..Cancel::at(Instant::now() + LONG) };
            house.turn_within(whose, "hang", cancel).0
        };
        let thread = thread::spawn(work);
        self.until(|all| all.iter().any(|it| it.principal == whose && it.turns > 0));
        (event, thread)
    }
}

#[test]
fn each_principal_has_a_process_and_its_turns_share_it() {
    let house = House::new(SCRIPT, |_| {});
    let (outcome, first) = house.turn("ann", "a");
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(house.turn("ann", "b").1, first);
    let other = house.turn("bob", "a").1;
    assert_ne!(other, first);
    let shown = house.0.processes();
    let shown: Vec<_> = shown.iter().map(|it| (&*it.principal, it.turns, it.served)).collect();
    assert_eq!(shown, [("ann", 0, 2), ("bob", 0, 1)]);
    let shared = House::new(SCRIPT, |agent| agent.share = true);
    assert_eq!(shared.turn("ann", "a").1, shared.turn("bob", "a").1);
}

/// A client that takes nothing until it may.
struct Slow(Arc<Slot<()>>, Arc<Slot<()>>);

impl Reply for Slow {
    fn chunk(&mut self, _: &str) -> io::Result<()> {
        self.0.send(());
        self.1.wait(LONG).ok_or(io::ErrorKind::TimedOut.into())
    }

    fn bytes(&self) -> usize {
        0
    }
}

#[test]
fn a_turn_that_its_client_holds_up_holds_up_no_other_of_its_process() {
    let house = Arc::new(House::new(SCRIPT, |_| {}));
    // The next turn has it for itself, and reads it.
    let (outcome, pid) = house.turn("ann", "a");
    assert_eq!(outcome, Outcome::Done);
    let (stuck, go) = (Arc::<Slot<()>>::default(), Arc::<Slot<()>>::default());
    let (slow, other) = (Slow(Arc::clone(&stuck), Arc::clone(&go)), Arc::clone(&house));
    let first = thread::spawn(move || {
        let (mut slow, cancel) = (slow, Cancel::at(Instant::now() + LONG));
        other.turn_into(&mut slow, "ann", "b", cancel)
    });
    stuck.wait(LONG).unwrap();
    for _ in 0..3 {
        assert_eq!(house.turn("ann", "c"), (Outcome::Done, pid.clone()));
    }
    go.send(());
    assert_eq!(first.join().unwrap(), Outcome::Done);
    assert_eq!(house.turn("ann", "d"), (Outcome::Done, pid));
}

/// Speaks the Agent Client Protocol; on `write` it leaves a file.
const ACP_SCRIPT: &str = r#"
while read -r line; do
    id=${line#*'"id":'} id=${id%%,*} result='{"stopReason":"end_turn"}'
    case $line in
        *'"initialize"'*) result='{"protocolVersion":1}';;
        *'"session/new"'*) result='{"sessionId":"s"}' cwd=${line#*'"cwd":"'} cwd=${cwd%%'"'*};;
        *'"text":"write"'*) : >"$cwd/file";;
    esac
    printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$result"
done"#;

#[test]
fn empty_directories_serve_one_principal_and_go_with_the_process() {
    let dir = TempDir::new("directories");
    let house = House::working(&ACP, ACP_SCRIPT, dir.path().to_owned(), |_| {});
    let there = || {
        let entries = std::fs::read_dir(dir.path().join("work")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    assert_eq!(house.turn("ann", "a").0, Outcome::Done);
    let anns = there();
    assert_eq!(house.turn("ann", "b").0, Outcome::Done);
    assert_eq!((there(), anns.len()), (anns.clone(), 1));
    assert_eq!(house.turn("bob", "a").0, Outcome::Done);
    assert_eq!(there().len(), 2);
    assert_eq!(house.turn("ann", "write").0, Outcome::Done);
    assert_eq!(house.turn("ann", "c").0, Outcome::Done);
    assert_eq!(there().len(), 3);
    house.0.set_closing(true);
    house.until(<[_]>::is_empty);
    assert_eq!(there(), anns, "what has something in it stays");
    let dir = TempDir::new("shared");
    let shared =
        House::working(&ACP, ACP_SCRIPT, dir.path().to_owned(), |agent| agent.share = true);
    assert_eq!(shared.turn("ann", "a").0, Outcome::Done);
    assert_eq!(std::fs::read_dir(dir.path().join("work")).unwrap().count(), 0);
}

#[test]
fn a_process_that_dies_costs_nobody_else_anything() {
    let house = House::new(SCRIPT, |_| {});
    let other = house.turn("bob", "a").1;
    assert_eq!(house.turn("ann", "a").0, Outcome::Done);
    let (outcome, _) = house.turn("ann", "die");
    let Outcome::Crashed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("exit status 3") && why.contains("it hurts"), "{why}");
    assert_eq!(house.turn("bob", "b").1, other);
    assert_eq!(house.turn("ann", "a").0, Outcome::Done);
}

#[test]
fn at_the_limit_the_one_idle_for_longest_goes_and_a_busy_one_after_its_turn() {
    let house = Arc::new(House::new(SCRIPT, |agent| agent.processes = 2));
    let (ann, bob) = (house.turn("ann", "a").1, house.turn("bob", "a").1);
    assert_eq!(house.turn("eve", "a").0, Outcome::Done);
    assert_eq!(house.turn("bob", "b").1, bob, "the other one was idle for longer");
    // Both are at work: a third waits, one of them takes no new turns, and whichever is idle first goes.
    let (bob, eve) = (house.hang("bob"), house.hang("eve"));
    let late = Arc::clone(&house);
    let waits = thread::spawn(move || late.turn("ann", "c"));
    let retiring = loop {
        match &house.0.retiring()[..] {
            [one] => break one.clone(),
            _ => pause(Duration::from_millis(1)),
        }
    };
    let ((end, ended), (end_last, last)) = if retiring == "bob" { (eve, bob) } else { (bob, eve) };
    end.notify();
    let (outcome, again) = waits.join().unwrap();
    assert_eq!(outcome, Outcome::Done);
    assert_ne!(again, ann);
    end_last.notify();
    for ended in [ended, last] {
        assert_eq!(ended.join().unwrap(), Outcome::Ended(CancelReason::Cancelled));
    }
}

#[test]
fn a_start_that_hangs_holds_up_nobody_else() {
    let house = Arc::new(House::speaking(&ACP, "sleep 600", |_| {}));
    let (ann, bob) = (house.hang("ann"), house.hang("bob"));
    house.until(|all| all.len() == 2);
    for (end, ended) in [ann, bob] {
        end.notify();
        assert_eq!(ended.join().unwrap(), Outcome::Ended(CancelReason::Cancelled));
    }
    house.0.set_closing(true);
    house.until(<[_]>::is_empty);
}

#[test]
fn a_turn_that_gets_no_process_in_its_time_is_tried_again() {
    let house = Arc::new(House::new(SCRIPT, |agent| agent.processes = 1));
    let (end, ended) = house.hang("ann");
    let soon = Cancel::at(Instant::now() + Duration::from_millis(50));
    let (outcome, _) = house.turn_within("bob", "a", soon);
    assert!(matches!(outcome, Outcome::Temporary(_)), "{outcome:?}");
    end.notify();
    assert_eq!(ended.join().unwrap(), Outcome::Ended(CancelReason::Cancelled));
}

#[test]
fn what_keeps_one_principals_process_from_starting_is_told_to_no_other() {
    let script =
        format!("[ \"$HERMES_PRINCIPAL\" != ann ] || {{ echo secret >&2; exit 1; }}\n{SCRIPT}");
    let house = House::new(&script, |_| {});
    let deadline = Instant::now() + LONG;
    while house.0.trouble().is_none() {
        let (outcome, _) = house.turn("ann", "a");
        assert!(outcome.to_string().contains("secret"), "{outcome:?}");
        assert!(Instant::now() < deadline);
        let (outcome, _) = house.turn("bob", "a");
        assert_eq!(outcome, Outcome::Done);
    }
    assert!(house.0.trouble().is_some(), "it is told until it has started");
}

#[test]
fn one_that_does_not_end_a_turn_is_ended_and_its_other_turn_runs_again() {
    let house = Arc::new(House::new(SCRIPT, |_| {}));
    // It is ready: both turns are with it.
    assert_eq!(house.turn("ann", "a").0, Outcome::Done);
    let (end, first) = house.hang("ann");
    let other = Arc::clone(&house);
    let second = thread::spawn(move || other.turn("ann", "hang").0);
    house.until(|all| all.iter().any(|it| it.turns == 2));
    end.notify();
    assert_eq!(first.join().unwrap(), Outcome::Ended(CancelReason::Cancelled));
    let outcome = second.join().unwrap();
    assert!(matches!(outcome, Outcome::Released(_)), "{outcome:?}");
}

#[test]
fn an_idle_one_ends_and_so_does_each_once_the_gateway_is_closing() {
    let house = House::new(SCRIPT, |agent| agent.idle_timeout = Duration::from_millis(20));
    let first = house.turn("ann", "a").1;
    house.until(<[_]>::is_empty);
    assert_ne!(house.turn("ann", "b").1, first);
    let house = House::new(SCRIPT, |_| {});
    house.turn("ann", "a");
    house.0.set_closing(true);
    house.until(<[_]>::is_empty);
    assert_eq!(house.turn("ann", "b").0, Outcome::Done, "a last turn is served all the same");
    house.until(<[_]>::is_empty);
}

#[test]
fn one_that_ignores_its_end_and_sigterm_is_killed() {
    let script = format!("trap '' TERM\n{SCRIPT}\nwhile :; do sleep 1; done");
    let house = House::new(&script, |_| {});
    assert_eq!(house.turn("ann", "a").0, Outcome::Done);
    house.0.set_closing(true);
    house.until(<[_]>::is_empty);
}

#[test]
fn one_that_does_not_start_is_reported_and_not_tried_at_once() {
    let house = House::new("", |agent| {
        agent.command = ["/bin/sh", "-c", "exec /dev/null/nothing"].map(str::to_owned).to_vec();
    });
    let (outcome, _) = house.turn("ann", "a");
    assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome:?}");
    let house = House::new("", |agent| agent.command = vec!["/nothing/here".to_owned()]);
    let deadline = Instant::now() + LONG;
    while house.0.trouble().is_none() {
        let (outcome, _) = house.turn("ann", "a");
        let Outcome::Temporary(why) = outcome else { panic!("{outcome:?}") };
        assert!(why.contains("/nothing/here"), "{why}");
        assert!(Instant::now() < deadline);
    }
    let trouble = house.0.trouble().unwrap();
    assert!(trouble.contains("does not start") && trouble.contains("/nothing/here"), "{trouble}");
}

#[test]
fn a_line_that_is_too_long_ends_it() {
    let house = House::new(SCRIPT, |_| {});
    let (outcome, _) = house.turn("ann", "long");
    let Outcome::Crashed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("limits.max_agent_line"), "{why}");
    // Where it is told whose it is, the others are not the ones that fail.
    let (outcome, _) = house.turn("ann", "mine");
    let Outcome::Failed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("limits.max_agent_line"), "{why}");
    assert_eq!(house.turn("ann", "a").0, Outcome::Done);
}
