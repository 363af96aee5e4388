//! The phases of the process and what moves it from one to the next. Pure: the main loop feeds
//! events in and carries the actions out.
//!
//! ```text
//! Starting → Serving → Draining → Confirming → Stopped
//!            Serving → Pausing → HandingOver → Closing → Stopped, to be executed anew
//! any of them → Failing → Stopped
//! ```
//! A drain ends when nothing is in flight *and* the first question is answered. Confirming is the
//! second question, asked only where a service manager could meanwhile say something else. A restart in
//! place is given up for a stop at any moment: until the exec the signal comes first.

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before READY=1.
    Starting,
    /// Taking work.
    Serving,
    /// Messages are accepted and nothing begins; what is in flight ends, for a restart in place.
    Pausing {
        /// The turns that were still running have been told to end.
        aborting: bool,
    },
    /// Nothing is in flight, and nothing is accepted: connections give up their sockets. `aborted`: what was
    /// told to end does not go on in this process.
    HandingOver { aborted: bool },
    /// All have done so; the journal is closed.
    Closing { aborted: bool },
    /// No new work; what is in flight ends.
    Draining(Drain),
    /// Nothing is in flight; the manager is asked once more. `again`: a signal came meanwhile.
    Confirming { again: bool },
    /// The journal broke: nothing is accepted, and what is in flight is told so and ends.
    Failing,
    /// Over: exit with this outcome.
    Stopped(Outcome),
}

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// The first verdict, once it is there.
    pub verdict: Option<VerdictKind>,
    /// Nothing is in flight.
    pub quiet: bool,
    /// The turns that were still running have been told to end.
    pub aborting: bool,
    /// A second signal came: perhaps an operator's stop after somebody's kill.
    pub again: bool,
}

/// A verdict as far as the phases care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    Planned,
    /// `may_change`: the manager could say something else a moment later.
    External {
        may_change: bool,
    },
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Planned,
    Terminated,
    /// The process executes the gateway anew.
    Restarted,
    /// It cannot, nor go on: its service manager starts it again.
    RestartFailed,
    /// The gateway cannot go on.
    Failed,
}

/// What happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Listeners are bound, all is recovered.
    Started,
    /// SIGTERM or SIGINT.
    Signal,
    /// The answer to the open question.
    Verdict(VerdictKind),
    /// Nothing is in flight any more; where connections are handed over, none is left.
    Quiet,
    /// The journal is broken: only a new start can read it back.
    Broken,
    /// The time that the drain or the pause has, or that aborted turns have to end, is over.
    Expired,
    /// The program that is to be executed has proven itself.
    Proven,
    /// What it will read still lets it start.
    Checked,
    /// The journal is closed for the restart.
    Closed,
    /// The restart cannot go on; the journal is open.
    GivenUp,
}

/// What the main loop has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Tell the service manager READY=1.
    AnnounceReady,
    /// Stop taking work, start the drain's clock, ask the first question.
    BeginDrain,
    /// Tell the service manager STOPPING=1: only after the first answer, which it would change.
    AnnounceStopping,
    /// End the turns in flight and start the clock for that.
    AbortTurns,
    /// Begin nothing, and start the pause's clock.
    Pause,
    /// Look once more whether the next image could start, before anything is told to end for it.
    Check,
    /// Accept nothing, have connections give up their sockets, and start the clock for that.
    HandOver,
    /// Close the journal.
    Close,
    /// Give them back, and wait for what is in flight again.
    PauseAgain,
    /// Go on as if no restart had been asked for.
    Resume,
    /// Ask the manager once more.
    AskAgain,
    /// Write the record and exit.
    Exit,
}

/// The next phase and what to do on the way.
pub fn next(phase: Phase, event: Event) -> (Phase, Action) {
    use Action::{AbortTurns, AskAgain, Exit, Nothing};
    use Event::{
        Broken, Checked, Closed, Expired, GivenUp, Proven, Quiet, Signal, Started, Verdict,
    };
    use Phase::{
        Closing, Confirming, Draining, Failing, HandingOver, Pausing, Serving, Starting, Stopped,
    };
    use VerdictKind::{External, Planned};
    match (phase, event) {
        (Starting, Started) => (Serving, Action::AnnounceReady),
        (Starting | Serving | Pausing { .. } | HandingOver { .. } | Closing { .. }, Signal) => {
            (Draining(Drain::default()), Action::BeginDrain)
        }
        (
            Starting
            | Serving
            | Pausing { .. }
            | HandingOver { .. }
            | Closing { .. }
            | Draining(_)
            | Confirming { .. },
            Broken,
        ) => (Failing, AbortTurns),
        (Failing, Quiet | Expired) => (Stopped(Outcome::Failed), Exit),

        (Serving, Proven) => (Pausing { aborting: false }, Action::Pause),
        (Pausing { aborting: false }, Expired) => (phase, Action::Check),
        (Pausing { aborting: false }, Checked) => (Pausing { aborting: true }, AbortTurns),
        (Pausing { aborting: false }, GivenUp) => (Serving, Action::Resume),
        // Turns that do not end when they are aborted end with the exec.
        (Pausing { aborting: true }, Expired) => (HandingOver { aborted: true }, Action::HandOver),
        (Pausing { aborting }, Quiet) => (HandingOver { aborted: aborting }, Action::HandOver),
        (HandingOver { aborted }, Quiet) => (Closing { aborted }, Action::Close),
        // A client that does not read its answer: others wait for that no longer.
        (HandingOver { aborted: false }, Expired) => {
            (Pausing { aborting: false }, Action::PauseAgain)
        }
        (HandingOver { aborted: true }, Expired) => (Closing { aborted: true }, Action::Close),
        (Closing { .. }, Closed) => (Stopped(Outcome::Restarted), Exit),
        (Closing { aborted: false }, Expired | GivenUp) => (Serving, Action::Resume),
        (Closing { aborted: true }, Expired | GivenUp) => (Stopped(Outcome::RestartFailed), Exit),

        (Draining(drain), Verdict(verdict)) => {
            match end_if_done(Drain { verdict: Some(verdict), ..drain }) {
                (phase, Nothing) => (phase, Action::AnnounceStopping),
                ended => ended,
            }
        }
        (Draining(drain), Quiet) => end_if_done(Drain { quiet: true, ..drain }),
        (Draining(drain), Signal) => abort_turns(Drain { again: true, ..drain }),
        // Turns that do not end when they are aborted are left behind.
        (Draining(drain), Expired) if drain.aborting => end_if_done(Drain { quiet: true, ..drain }),
        (Draining(drain), Expired) => abort_turns(drain),

        (Confirming { .. }, Verdict(Planned)) => (Stopped(Outcome::Planned), Exit),
        // A signal came while the manager answered: perhaps the stop that its answer missed.
        (Confirming { again: true }, Verdict(External { .. })) => {
            (Confirming { again: false }, AskAgain)
        }
        (Confirming { again: false }, Verdict(External { .. })) => {
            (Stopped(Outcome::Terminated), Exit)
        }
        (Confirming { .. }, Signal) => (Confirming { again: true }, Nothing),

        (_, Checked)
        | (Starting, Verdict(_) | Quiet | Expired | Proven | Closed | GivenUp)
        | (Serving, Started | Verdict(_) | Quiet | Expired | Closed | GivenUp)
        | (Pausing { .. }, Started | Verdict(_) | Proven | Closed | GivenUp)
        | (HandingOver { .. }, Started | Verdict(_) | Proven | Closed | GivenUp)
        | (Closing { .. }, Started | Verdict(_) | Quiet | Proven)
        | (Draining(_), Started | Proven | Closed | GivenUp)
        | (Confirming { .. }, Started | Quiet | Expired | Proven | Closed | GivenUp)
        | (Failing, Started | Signal | Verdict(_) | Broken | Proven | Closed | GivenUp)
        | (
            Stopped(_),
            Started | Signal | Verdict(_) | Quiet | Broken | Expired | Proven | Closed | GivenUp,
        ) => (phase, Nothing),
    }
}

/// Ends the turns in flight, once.
fn abort_turns(drain: Drain) -> (Phase, Action) {
    let action = if drain.aborting { Action::Nothing } else { Action::AbortTurns };
    (Phase::Draining(Drain { aborting: true, ..drain }), action)
}

/// Ends the drain when it can end.
fn end_if_done(drain: Drain) -> (Phase, Action) {
    match (drain.quiet, drain.verdict) {
        (true, Some(VerdictKind::Planned)) => (Phase::Stopped(Outcome::Planned), Action::Exit),
        (true, Some(VerdictKind::External { may_change })) if may_change || drain.again => {
            (Phase::Confirming { again: false }, Action::AskAgain)
        }
        (true, Some(VerdictKind::External { .. })) => {
            (Phase::Stopped(Outcome::Terminated), Action::Exit)
        }
        (true, None) | (false, Some(_) | None) => (Phase::Draining(drain), Action::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{
        Broken, Checked, Closed, Expired, GivenUp, Proven, Quiet, Signal, Started, Verdict as J,
    };
    use VerdictKind::{External, Planned};

    const MAY: VerdictKind = External { may_change: true };
    const FINAL: VerdictKind = External { may_change: false };

    /// Plays events from Starting on; returns the end and every action that is not `Nothing`.
    fn play(events: &[Event]) -> (Phase, Vec<Action>) {
        let mut phase = Phase::Starting;
        let mut actions = Vec::new();
        for &event in events {
            let (after, action) = next(phase, event);
            phase = after;
            actions.extend((action != Action::Nothing).then_some(action));
        }
        (phase, actions)
    }

    #[test]
    fn a_planned_stop_asks_once() {
        let (phase, actions) = play(&[Started, Signal, J(Planned), Quiet]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
        use Action::*;
        assert_eq!(actions, [AnnounceReady, BeginDrain, AnnounceStopping, Exit]);
    }

    #[test]
    fn an_idle_stop_waits_for_the_answer_and_skips_stopping() {
        let (phase, actions) = play(&[Started, Signal, Quiet, J(Planned)]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
        assert_eq!(actions.last(), Some(&Action::Exit));
        assert!(!actions.contains(&Action::AnnounceStopping));
    }

    #[test]
    fn a_kill_is_asked_about_again_just_before_the_exit() {
        let killed = [Started, Signal, J(MAY), Quiet];
        assert_eq!(play(&killed).0, Phase::Confirming { again: false });
        let end = |answer| play(&[Started, Signal, J(MAY), Quiet, J(answer)]).0;
        assert_eq!(end(MAY), Phase::Stopped(Outcome::Terminated));
        assert_eq!(end(Planned), Phase::Stopped(Outcome::Planned));
    }

    #[test]
    fn a_signal_during_the_last_question_asks_once_more() {
        let (phase, actions) = play(&[Started, Signal, Quiet, J(MAY), Signal, J(MAY), J(Planned)]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
        assert_eq!(actions.iter().filter(|a| **a == Action::AskAgain).count(), 2);
    }

    #[test]
    fn without_a_manager_nobody_is_asked_again() {
        let (phase, _) = play(&[Started, Signal, J(FINAL), Quiet]);
        assert_eq!(phase, Phase::Stopped(Outcome::Terminated));
    }

    #[test]
    fn a_second_signal_is_reason_enough_to_look_again() {
        let (phase, _) = play(&[Started, Signal, J(FINAL), Signal, Quiet, J(Planned)]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
    }

    #[test]
    fn a_signal_before_ready_is_judged_too() {
        let (phase, actions) = play(&[Signal, Started, Quiet, J(Planned)]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
        assert!(!actions.contains(&Action::AnnounceReady));
    }

    #[test]
    fn the_second_signal_aborts_turns_and_those_that_do_not_end_are_left() {
        let (phase, actions) = play(&[Started, Signal, J(Planned), Signal, Expired]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
        assert!(actions.contains(&Action::AbortTurns));
        let (phase, _) = play(&[Started, Signal, J(Planned), Expired, Signal, Signal, Quiet]);
        assert_eq!(phase, Phase::Stopped(Outcome::Planned));
    }

    #[test]
    fn a_restart_waits_for_what_is_in_flight_and_closes_the_journal_last() {
        let (phase, actions) = play(&[Started, Proven, Quiet, Quiet, Closed]);
        assert_eq!(phase, Phase::Stopped(Outcome::Restarted));
        use Action::*;
        assert_eq!(actions, [AnnounceReady, Pause, HandOver, Close, Exit]);
        // Turns that take too long are told to end, and those that do not are left behind.
        let (phase, actions) = play(&[Started, Proven, Expired, Checked, Expired, Expired, Closed]);
        assert_eq!(phase, Phase::Stopped(Outcome::Restarted));
        assert_eq!(actions, [AnnounceReady, Pause, Check, AbortTurns, HandOver, Close, Exit]);
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody_but_the_restart() {
        let (phase, actions) = play(&[Started, Proven, Quiet, Expired, Quiet, Quiet]);
        assert_eq!(phase, Phase::Closing { aborted: false });
        use Action::*;
        assert_eq!(actions, [AnnounceReady, Pause, HandOver, PauseAgain, HandOver, Close]);
    }

    #[test]
    fn a_restart_that_cannot_go_on_is_given_up_where_nothing_was_told_to_end() {
        for event in [Expired, GivenUp] {
            let (phase, actions) = play(&[Started, Proven, Quiet, Quiet, event]);
            assert_eq!((phase, actions.last()), (Phase::Serving, Some(&Action::Resume)));
            let aborted = [Started, Proven, Expired, Checked, Quiet, Quiet, event];
            assert_eq!(play(&aborted).0, Phase::Stopped(Outcome::RestartFailed));
        }
    }

    #[test]
    fn nothing_is_told_to_end_for_a_program_that_could_not_start_by_now() {
        let (phase, actions) = play(&[Started, Proven, Expired, GivenUp, Checked]);
        assert_eq!((phase, actions.last()), (Phase::Serving, Some(&Action::Resume)));
        // All may have ended meanwhile.
        let (phase, actions) = play(&[Started, Proven, Expired, Quiet, Checked]);
        assert_eq!(phase, Phase::HandingOver { aborted: false });
        assert!(!actions.contains(&Action::AbortTurns));
    }

    #[test]
    fn a_stop_or_a_broken_journal_comes_before_a_restart_at_any_moment() {
        let restart = [Started, Proven, Quiet, Quiet, Closed];
        for steps in 1..restart.len() {
            let begun = |event| [&restart[..steps], &[event]].concat();
            let (phase, actions) = play(&begun(Signal));
            assert_eq!(phase, Phase::Draining(Drain::default()), "{steps}");
            assert_eq!(actions.last(), Some(&Action::BeginDrain));
            assert_eq!(play(&begun(Broken)).0, Phase::Failing, "{steps}");
            // And what was on its way then changes nothing.
            for late in [Proven, Closed, GivenUp] {
                let (phase, _) = play(&[begun(Signal), vec![late]].concat());
                assert_eq!(phase, Phase::Draining(Drain::default()));
            }
        }
    }

    #[test]
    fn every_sequence_of_six_events_that_ends_had_a_verdict() {
        let events = [Started, Signal, J(Planned), J(MAY), J(FINAL), Quiet, Expired];
        let count = events.len().pow(6);
        for number in 0..count {
            let pick = |place: u32| events[number / events.len().pow(place) % events.len()];
            let sequence: Vec<Event> = (0..6).map(pick).collect();
            let (phase, actions) = play(&sequence);
            let judged = sequence.iter().any(|e| matches!(e, J(_)));
            let signalled = sequence.contains(&Signal);
            if let Phase::Stopped(outcome) = phase {
                assert!(judged && signalled, "{sequence:?}");
                let all_external = !sequence.contains(&J(Planned));
                assert!(!(all_external && outcome == Outcome::Planned), "{sequence:?}");
                assert_eq!(actions.iter().filter(|a| **a == Action::Exit).count(), 1);
            }
        }
    }
}
