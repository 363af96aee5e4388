//! The table: a row for every cause that was measured on systemd 247, 252, 257 and 262, with what
//! `systemctl show` and `list-jobs` said at the signal, and whether the stop was planned.

use super::*;
use Sender::{Forged, OurManager, Outside, Terminal};

const FROM_OTHER: Sender = Sender::Other;
const DEACTIVATING: bool = true;
const ACTIVE: bool = false;

/// cause, ActiveState, Job, sender, planned.
type Row = (&'static str, bool, Job, Sender, bool);

/// What a manager that answered says of a unit whose main process we are.
#[rustfmt::skip]
const MEASURED: &[Row] = &[
    ("stop",                                        DEACTIVATING, Job::Stop,  OurManager, true),
    ("restart",                                     DEACTIVATING, Job::Stop,  OurManager, true),
    ("try-restart",                                 DEACTIVATING, Job::Stop,  OurManager, true),
    ("reload-or-restart",                           DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop --no-block",                             DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop --job-mode=replace-irreversibly",        DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop --job-mode=ignore-dependencies",         DEACTIVATING, Job::Stop,  OurManager, true),
    ("restart --no-block",                          DEACTIVATING, Job::Stop,  OurManager, true),
    ("isolate other target",                        DEACTIVATING, Job::Stop,  OurManager, true),
    ("systemctl kill",                              ACTIVE,       Job::None,  OurManager, false),
    ("systemctl kill --kill-who=main -s TERM",      ACTIVE,       Job::None,  OurManager, false),
    ("kill PID (same user)",                        ACTIVE,       Job::None,  FROM_OTHER, false),
    ("kill PID (root)",                             ACTIVE,       Job::None,  FROM_OTHER, false),
    ("kill; systemctl stop",                        DEACTIVATING, Job::Stop,  FROM_OTHER, true),
    ("kill; systemctl stop (247, 257, 262)",        ACTIVE,       Job::None,  FROM_OTHER, false),
    ("kill; systemctl restart",                     ACTIVE,       Job::None,  FROM_OTHER, false),
    ("kill; systemctl restart (247)",               DEACTIVATING, Job::Stop,  FROM_OTHER, true),
    ("systemctl stop --no-block; kill",             DEACTIVATING, Job::Stop,  OurManager, true),
    ("kill; 0.5 s; stop (daemon drains 1 s)",       ACTIVE,       Job::None,  FROM_OTHER, false),
    ("kill PID during slow ExecReload",             ACTIVE,       Job::Other, FROM_OTHER, false),
    ("systemctl kill during slow ExecReload",       ACTIVE,       Job::None,  OurManager, false),
    ("stop during slow ExecReload",                 DEACTIVATING, Job::Stop,  OurManager, true),
    ("restart during slow ExecReload",              DEACTIVATING, Job::Stop,  OurManager, true),
    ("kill PID during self RELOADING=1",            ACTIVE,       Job::None,  FROM_OTHER, false),
    ("stop during self RELOADING=1",                DEACTIVATING, Job::Stop,  OurManager, true),
    ("systemctl kill during self RELOADING=1",      ACTIVE,       Job::None,  OurManager, false),
    ("kill PID while activating (start job)",       ACTIVE,       Job::Start, FROM_OTHER, false),
    ("systemctl kill while activating (start job)", ACTIVE,       Job::Start, OurManager, false),
    ("stop while activating",                       DEACTIVATING, Job::Stop,  OurManager, true),
    ("restart while activating",                    DEACTIVATING, Job::Stop,  OurManager, true),
    ("TimeoutStartSec expiry",                      DEACTIVATING, Job::Start, OurManager, false),
    ("kill PID while a stop job waits",             ACTIVE,       Job::Stop,  FROM_OTHER, true),
    ("kill PID while a restart job waits",          DEACTIVATING, Job::Stop,  OurManager, true),
    ("kill PID while a restart job waits (262)",    ACTIVE,       Job::Stop,  FROM_OTHER, true),
    ("RuntimeMaxSec=1 expiry",                      DEACTIVATING, Job::None,  OurManager, false),
    ("RuntimeMaxSec=1 expiry, on-failure",          DEACTIVATING, Job::None,  OurManager, false),
    ("WatchdogSec=1 expiry, WatchdogSignal=SIGTERM", DEACTIVATING, Job::None, OurManager, false),
    ("TimeoutStopSec=1 expiry (SIGTERM ignored)",   DEACTIVATING, Job::Stop,  OurManager, true),
    ("restart, TimeoutStopSec=1 expiry",            DEACTIVATING, Job::Stop,  OurManager, true),
    ("Conflicts= unit started",                     DEACTIVATING, Job::Stop,  OurManager, true),
    ("PartOf= unit stopped",                        DEACTIVATING, Job::Stop,  OurManager, true),
    ("PartOf= unit restarted",                      DEACTIVATING, Job::Stop,  OurManager, true),
    ("Requires= unit stopped",                      DEACTIVATING, Job::Stop,  OurManager, true),
    ("Requires= unit restarted",                    DEACTIVATING, Job::Stop,  OurManager, true),
    ("BindsTo= unit stopped",                       DEACTIVATING, Job::Stop,  OurManager, true),
    ("BindsTo= unit restarted",                     DEACTIVATING, Job::Stop,  OurManager, true),
    ("BindsTo= unit dies",                          DEACTIVATING, Job::Stop,  OurManager, true),
    ("StopWhenUnneeded= (wanter stopped)",          DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, ExecStop=/bin/true",                    DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, ExecStop=/bin/kill -TERM $MAINPID",     DEACTIVATING, Job::Stop,  FROM_OTHER, true),
    ("restart, ExecStop=/bin/kill -TERM $MAINPID",  DEACTIVATING, Job::Stop,  FROM_OTHER, true),
    ("stop, ExecStop=/bin/sleep 9, TimeoutStopSec=1", DEACTIVATING, Job::Stop, OurManager, true),
    ("kill PID during ExecStop=/bin/sleep 2 of a stop", DEACTIVATING, Job::Stop, FROM_OTHER, true),
    ("stop, Type=simple",                           DEACTIVATING, Job::Stop,  OurManager, true),
    ("kill PID, ExecStop=/bin/sleep 1",             ACTIVE,       Job::None,  FROM_OTHER, false),
    ("stop, KillMode=mixed, with a child",          DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, KillMode=control-group, with a child",  DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, KillMode=process, with a child",        DEACTIVATING, Job::Stop,  OurManager, true),
    ("systemctl kill, KillMode=mixed, with a child", ACTIVE,      Job::None,  OurManager, false),
    ("stop, SendSIGHUP=yes",                        DEACTIVATING, Job::Stop,  OurManager, true),
    ("freeze; kill PID; thaw",                      ACTIVE,       Job::None,  FROM_OTHER, false),
    ("freeze; stop; thaw",                          DEACTIVATING, Job::Stop,  OurManager, true),
    ("freeze; restart; thaw",                       DEACTIVATING, Job::Stop,  OurManager, true),
    ("daemon-reexec; then kill PID",                ACTIVE,       Job::None,  FROM_OTHER, false),
    ("daemon-reexec; then stop",                    DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, then daemon-reexec while stopping",     DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, then daemon-reload while stopping",     DEACTIVATING, Job::Stop,  OurManager, true),
    ("daemon-reload & kill PID at once",            ACTIVE,       Job::None,  FROM_OTHER, false),
    ("stop, job cancelled while stopping",          DEACTIVATING, Job::Stop,  OurManager, true),
    ("stop, then start while stopping",             DEACTIVATING, Job::Stop,  OurManager, true),
    ("env: XDG_RUNTIME_DIR unset",                  DEACTIVATING, Job::Stop,  OurManager, true),
    ("env: DBUS_SESSION_BUS_ADDRESS unset",         DEACTIVATING, Job::Stop,  OurManager, true),
    ("env: PATH unset",                             DEACTIVATING, Job::Stop,  OurManager, true),
    ("env: PrivateUsers, ProtectSystem=strict",     DEACTIVATING, Job::Stop,  OurManager, true),
    // Behind the measured rows: what the second question, or an unlucky instant, can meet.
    ("a kill, then our own STOPPING=1",             DEACTIVATING, Job::None,  FROM_OTHER, false),
    ("a kill, then a start behind STOPPING=1",      DEACTIVATING, Job::Start, FROM_OTHER, false),
    ("a job that ended before it could be typed",   ACTIVE,       Job::Other, FROM_OTHER, false),
    ("a forged siginfo in a quiet unit",            ACTIVE,       Job::None,  Forged,     false),
    ("a forged siginfo during a stop",              DEACTIVATING, Job::Stop,  Forged,     true),
    ("a kill from outside the namespace",           ACTIVE,       Job::None,  Outside,    false),
];

fn unit(deactivating: bool, job: Job, main: bool) -> Supervision {
    Supervision::Unit { deactivating, job, main }
}

#[test]
fn verdicts_follow_the_measured_table() {
    for &(cause, active, job, sender, planned) in MEASURED {
        // As the evidence is gathered at the signal: typed only where the rule asks for it.
        let starting = cause.contains("activating") || cause.contains("TimeoutStartSec");
        let typed = needs_job_type(active, job != Job::None, !starting, cause.contains("STOPPING"));
        let job = if typed || job == Job::None { job } else { Job::Other };
        let found = decide(Kind::Terminate, sender, unit(active, job, true), false);
        assert_eq!(found.planned, planned, "{cause}: {found:?}");
        assert!(!found.is_guess(), "{cause}");
    }
}

#[test]
fn a_manager_that_does_not_answer_leaves_it_to_the_sender() {
    let rows = [(OurManager, true), (FROM_OTHER, false), (Outside, false), (Forged, false)];
    for (sender, planned) in rows {
        let found = decide(Kind::Terminate, sender, Supervision::Silent, false);
        assert_eq!((found.planned, found.is_guess()), (planned, true), "{sender:?}");
    }
}

#[test]
fn without_a_manager_only_a_marker_plans() {
    for supervision in [Supervision::None, Supervision::NotOurs] {
        for sender in [OurManager, FROM_OTHER, Outside, Forged] {
            let kill = |marker| decide(Kind::Terminate, sender, supervision, marker);
            assert!(!kill(false).planned, "{supervision:?} {sender:?}");
            assert_eq!(kill(true), Verdict { planned: true, reason: "a stop that was announced" });
        }
    }
}

#[test]
fn a_process_in_somebody_elses_unit_follows_that_unit_and_its_own_marker() {
    let shell = |active, job, marker| {
        decide(Kind::Terminate, FROM_OTHER, unit(active, job, false), marker).planned
    };
    assert!(shell(DEACTIVATING, Job::Stop, false));
    assert!(!shell(ACTIVE, Job::None, false));
    assert!(shell(ACTIVE, Job::None, true));
}

#[test]
fn a_marker_does_not_overrule_the_manager_of_our_own_unit() {
    assert!(!decide(Kind::Terminate, FROM_OTHER, unit(ACTIVE, Job::None, true), true).planned);
}

#[test]
fn an_interrupt_is_the_user_in_front_of_us_unless_we_are_a_unit() {
    for supervision in [Supervision::None, Supervision::NotOurs, Supervision::Silent] {
        assert!(decide(Kind::Interrupt, Terminal, supervision, false).planned);
    }
    assert!(decide(Kind::Interrupt, Terminal, unit(ACTIVE, Job::None, false), false).planned);
    assert!(!decide(Kind::Interrupt, OurManager, unit(ACTIVE, Job::None, true), false).planned);
    assert!(
        decide(Kind::Interrupt, OurManager, unit(DEACTIVATING, Job::Other, true), false).planned
    );
}

#[test]
fn the_type_is_asked_for_only_where_the_job_does_not_settle_it() {
    assert!(!needs_job_type(DEACTIVATING, true, true, false));
    assert!(needs_job_type(DEACTIVATING, true, false, false));
    assert!(needs_job_type(DEACTIVATING, true, true, true));
    assert!(needs_job_type(ACTIVE, true, true, false));
    assert!(!needs_job_type(ACTIVE, false, false, true));
}

#[test]
fn an_interrupt_that_a_process_sent_is_not_called_a_key() {
    let interrupt = |sender| decide(Kind::Interrupt, sender, Supervision::None, false).reason;
    assert_eq!(interrupt(Terminal), "Ctrl-C");
    for sender in [OurManager, FROM_OTHER, Outside, Forged] {
        assert_eq!(interrupt(sender), "an interrupt (SIGINT) that a process sent");
    }
}

#[test]
fn a_closed_terminal_plans_nothing_and_is_no_reason_for_a_unit() {
    let closed = |supervision| decide(Kind::HangUp, Terminal, supervision, false);
    let expected = Verdict { planned: false, reason: "the terminal was closed" };
    for supervision in [Supervision::None, Supervision::NotOurs, unit(ACTIVE, Job::None, false)] {
        assert_eq!(closed(supervision), expected);
    }
    assert_eq!(
        closed(unit(ACTIVE, Job::None, true)).reason,
        "a signal from outside: the unit is not being stopped"
    );
    assert!(closed(unit(DEACTIVATING, Job::Stop, true)).planned);
}

#[test]
fn every_other_signal_is_judged_like_sigterm() {
    let quit = |supervision| decide(Kind::Other("SIGQUIT"), OurManager, supervision, false);
    assert!(quit(unit(DEACTIVATING, Job::Stop, true)).planned);
    assert!(!quit(unit(ACTIVE, Job::None, true)).planned);
    assert!(!quit(Supervision::None).planned);
}

#[test]
fn the_first_reason_stays_unless_the_verdict_changes_or_it_was_a_guess() {
    let found = |planned, reason| Verdict { planned, reason };
    let (kill, stop) = (
        found(false, "a signal from outside: the unit is not being stopped"),
        found(true, "the service manager is stopping the unit"),
    );
    let coloured = found(false, ENDED_BY_MANAGER);
    assert_eq!(coloured.after(kill), kill);
    assert_eq!(stop.after(kill), stop);
    assert_eq!(kill.after(stop), kill);
    assert_eq!(kill.after(found(false, GUESS_BY_OTHER)), kill);
    assert_eq!(found(false, GUESS_BY_OTHER).after(kill), kill);
}
