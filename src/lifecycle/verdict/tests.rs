//! The table: a row for every cause that was measured on systemd 247, 252, 257 and 262, with what
//! `systemctl show` and `list-jobs` said at the signal, and whether the stop was planned.

use super::*;
use ActiveState::{Deactivating, Other as Active};
use Sender::{Forged, OurManager, Outside, Terminal};

const FROM_OTHER: Sender = Sender::Other;

/// cause, ActiveState, Job, sender, planned.
type Row = (&'static str, ActiveState, Job, Sender, bool);

/// What a manager that answered says of a unit whose main process we are.
#[rustfmt::skip]
const MEASURED: &[Row] = &[
    ("stop",                                        Deactivating, Job::Stop,  OurManager, true),
    ("restart",                                     Deactivating, Job::Stop,  OurManager, true),
    ("try-restart",                                 Deactivating, Job::Stop,  OurManager, true),
    ("reload-or-restart",                           Deactivating, Job::Stop,  OurManager, true),
    ("stop --no-block",                             Deactivating, Job::Stop,  OurManager, true),
    ("stop --job-mode=replace-irreversibly",        Deactivating, Job::Stop,  OurManager, true),
    ("stop --job-mode=ignore-dependencies",         Deactivating, Job::Stop,  OurManager, true),
    ("restart --no-block",                          Deactivating, Job::Stop,  OurManager, true),
    ("isolate other target",                        Deactivating, Job::Stop,  OurManager, true),
    ("systemctl kill",                              Active,       Job::None,  OurManager, false),
    ("systemctl kill --kill-who=main -s TERM",      Active,       Job::None,  OurManager, false),
    ("kill PID (same user)",                        Active,       Job::None,  FROM_OTHER, false),
    ("kill PID (root)",                             Active,       Job::None,  FROM_OTHER, false),
    ("kill; systemctl stop",                        Deactivating, Job::Stop,  FROM_OTHER, true),
    ("kill; systemctl stop (247, 257, 262)",        Active,       Job::None,  FROM_OTHER, false),
    ("kill; systemctl restart",                     Active,       Job::None,  FROM_OTHER, false),
    ("kill; systemctl restart (247)",               Deactivating, Job::Stop,  FROM_OTHER, true),
    ("systemctl stop --no-block; kill",             Deactivating, Job::Stop,  OurManager, true),
    ("kill; 0.5 s; stop (daemon drains 1 s)",       Active,       Job::None,  FROM_OTHER, false),
    ("kill PID during slow ExecReload",             Active,       Job::Other, FROM_OTHER, false),
    ("systemctl kill during slow ExecReload",       Active,       Job::None,  OurManager, false),
    ("stop during slow ExecReload",                 Deactivating, Job::Stop,  OurManager, true),
    ("restart during slow ExecReload",              Deactivating, Job::Stop,  OurManager, true),
    ("kill PID during self RELOADING=1",            Active,       Job::None,  FROM_OTHER, false),
    ("stop during self RELOADING=1",                Deactivating, Job::Stop,  OurManager, true),
    ("systemctl kill during self RELOADING=1",      Active,       Job::None,  OurManager, false),
    ("kill PID while activating (start job)",       Active,       Job::Start, FROM_OTHER, false),
    ("systemctl kill while activating (start job)", Active,       Job::Start, OurManager, false),
    ("stop while activating",                       Deactivating, Job::Stop,  OurManager, true),
    ("restart while activating",                    Deactivating, Job::Stop,  OurManager, true),
    ("TimeoutStartSec expiry",                      Deactivating, Job::Start, OurManager, false),
    ("kill PID while a stop job waits",             Active,       Job::Stop,  FROM_OTHER, true),
    ("kill PID while a restart job waits",          Deactivating, Job::Stop,  OurManager, true),
    ("kill PID while a restart job waits (262)",    Active,       Job::Stop,  FROM_OTHER, true),
    ("RuntimeMaxSec=1 expiry",                      Deactivating, Job::None,  OurManager, false),
    ("RuntimeMaxSec=1 expiry, on-failure",          Deactivating, Job::None,  OurManager, false),
    ("WatchdogSec=1 expiry, WatchdogSignal=SIGTERM", Deactivating, Job::None, OurManager, false),
    ("TimeoutStopSec=1 expiry (SIGTERM ignored)",   Deactivating, Job::Stop,  OurManager, true),
    ("restart, TimeoutStopSec=1 expiry",            Deactivating, Job::Stop,  OurManager, true),
    ("Conflicts= unit started",                     Deactivating, Job::Stop,  OurManager, true),
    ("PartOf= unit stopped",                        Deactivating, Job::Stop,  OurManager, true),
    ("PartOf= unit restarted",                      Deactivating, Job::Stop,  OurManager, true),
    ("Requires= unit stopped",                      Deactivating, Job::Stop,  OurManager, true),
    ("Requires= unit restarted",                    Deactivating, Job::Stop,  OurManager, true),
    ("BindsTo= unit stopped",                       Deactivating, Job::Stop,  OurManager, true),
    ("BindsTo= unit restarted",                     Deactivating, Job::Stop,  OurManager, true),
    ("BindsTo= unit dies",                          Deactivating, Job::Stop,  OurManager, true),
    ("StopWhenUnneeded= (wanter stopped)",          Deactivating, Job::Stop,  OurManager, true),
    ("stop, ExecStop=/bin/true",                    Deactivating, Job::Stop,  OurManager, true),
    ("stop, ExecStop=/bin/kill -TERM $MAINPID",     Deactivating, Job::Stop,  FROM_OTHER, true),
    ("restart, ExecStop=/bin/kill -TERM $MAINPID",  Deactivating, Job::Stop,  FROM_OTHER, true),
    ("stop, ExecStop=/bin/sleep 9, TimeoutStopSec=1", Deactivating, Job::Stop, OurManager, true),
    ("kill PID during ExecStop=/bin/sleep 2 of a stop", Deactivating, Job::Stop, FROM_OTHER, true),
    ("stop, Type=simple",                           Deactivating, Job::Stop,  OurManager, true),
    ("kill PID, ExecStop=/bin/sleep 1",             Active,       Job::None,  FROM_OTHER, false),
    ("stop, KillMode=mixed, with a child",          Deactivating, Job::Stop,  OurManager, true),
    ("stop, KillMode=control-group, with a child",  Deactivating, Job::Stop,  OurManager, true),
    ("stop, KillMode=process, with a child",        Deactivating, Job::Stop,  OurManager, true),
    ("systemctl kill, KillMode=mixed, with a child", Active,      Job::None,  OurManager, false),
    ("stop, SendSIGHUP=yes",                        Deactivating, Job::Stop,  OurManager, true),
    ("freeze; kill PID; thaw",                      Active,       Job::None,  FROM_OTHER, false),
    ("freeze; stop; thaw",                          Deactivating, Job::Stop,  OurManager, true),
    ("freeze; restart; thaw",                       Deactivating, Job::Stop,  OurManager, true),
    ("daemon-reexec; then kill PID",                Active,       Job::None,  FROM_OTHER, false),
    ("daemon-reexec; then stop",                    Deactivating, Job::Stop,  OurManager, true),
    ("stop, then daemon-reexec while stopping",     Deactivating, Job::Stop,  OurManager, true),
    ("stop, then daemon-reload while stopping",     Deactivating, Job::Stop,  OurManager, true),
    ("daemon-reload & kill PID at once",            Active,       Job::None,  FROM_OTHER, false),
    ("stop, job cancelled while stopping",          Deactivating, Job::Stop,  OurManager, true),
    ("stop, then start while stopping",             Deactivating, Job::Stop,  OurManager, true),
    ("env: XDG_RUNTIME_DIR unset",                  Deactivating, Job::Stop,  OurManager, true),
    ("env: DBUS_SESSION_BUS_ADDRESS unset",         Deactivating, Job::Stop,  OurManager, true),
    ("env: PATH unset",                             Deactivating, Job::Stop,  OurManager, true),
    ("env: PrivateUsers, ProtectSystem=strict",     Deactivating, Job::Stop,  OurManager, true),
    // Behind the measured rows: what the second question, or an unlucky instant, can meet.
    ("a kill, then our own STOPPING=1",             Deactivating, Job::None,  FROM_OTHER, false),
    ("a kill, then a start behind STOPPING=1",      Deactivating, Job::Start, FROM_OTHER, false),
    ("a job that ended before it could be typed",   Active,       Job::Untyped, FROM_OTHER, false),
    ("a forged siginfo in a quiet unit",            Active,       Job::None,  Forged,     false),
    ("a forged siginfo during a stop",              Deactivating, Job::Stop,  Forged,     true),
    ("a kill from outside the namespace",           Active,       Job::None,  Outside,    false),
];

fn unit(active: ActiveState, job: Job, main: bool) -> Supervision {
    Supervision::Unit(Unit { active, job, main })
}

fn verdict(signal: Kind, sender: Sender, supervision: Supervision, marker: bool) -> Verdict {
    judge(&Evidence { signal, sender, supervision, marker })
}

#[test]
fn the_measured_table() {
    for &(cause, active, job, sender, planned) in MEASURED {
        // As the evidence is gathered at the signal: typed only where the rule asks for it.
        let starting = cause.contains("activating") || cause.contains("TimeoutStartSec");
        let typed = needs_job_type(active, job != Job::None, !starting, cause.contains("STOPPING"));
        let job = if typed || job == Job::None { job } else { Job::Untyped };
        let found = verdict(Kind::Terminate, sender, unit(active, job, true), false);
        assert_eq!(found.planned, planned, "{cause}: {found:?}");
        assert!(!found.is_guess(), "{cause}");
    }
}

#[test]
fn a_manager_that_does_not_answer_leaves_it_to_the_sender() {
    let rows = [(OurManager, true), (FROM_OTHER, false), (Outside, false), (Forged, false)];
    for (sender, planned) in rows {
        let found = verdict(Kind::Terminate, sender, Supervision::Silent, false);
        assert_eq!((found.planned, found.is_guess()), (planned, true), "{sender:?}");
    }
}

#[test]
fn without_a_manager_only_a_marker_plans() {
    for supervision in [Supervision::None, Supervision::NotOurs] {
        for sender in [OurManager, FROM_OTHER, Outside, Forged] {
            let kill = |marker| verdict(Kind::Terminate, sender, supervision.clone(), marker);
            assert!(!kill(false).planned, "{supervision:?} {sender:?}");
            assert_eq!(kill(true), Verdict { planned: true, reason: reason::MARKER });
        }
    }
}

#[test]
fn a_process_in_somebody_elses_unit_follows_that_unit_and_its_own_marker() {
    let shell = |active, job, marker| {
        verdict(Kind::Terminate, FROM_OTHER, unit(active, job, false), marker).planned
    };
    assert!(shell(Deactivating, Job::Stop, false));
    assert!(!shell(Active, Job::None, false));
    assert!(shell(Active, Job::None, true));
}

#[test]
fn a_marker_does_not_overrule_the_manager_of_our_own_unit() {
    assert!(!verdict(Kind::Terminate, FROM_OTHER, unit(Active, Job::None, true), true).planned);
}

#[test]
fn an_interrupt_is_the_user_in_front_of_us_unless_we_are_a_unit() {
    for supervision in [Supervision::None, Supervision::NotOurs, Supervision::Silent] {
        assert!(verdict(Kind::Interrupt, Terminal, supervision, false).planned);
    }
    assert!(verdict(Kind::Interrupt, Terminal, unit(Active, Job::None, false), false).planned);
    assert!(!verdict(Kind::Interrupt, OurManager, unit(Active, Job::None, true), false).planned);
    assert!(
        verdict(Kind::Interrupt, OurManager, unit(Deactivating, Job::Untyped, true), false).planned
    );
}

#[test]
fn the_type_is_asked_for_only_where_the_job_does_not_settle_it() {
    assert!(!needs_job_type(Deactivating, true, true, false));
    assert!(needs_job_type(Deactivating, true, false, false));
    assert!(needs_job_type(Deactivating, true, true, true));
    assert!(needs_job_type(Active, true, true, false));
    assert!(!needs_job_type(Active, false, false, true));
}

#[test]
fn an_interrupt_that_a_process_sent_is_not_called_a_key() {
    let interrupt = |sender| verdict(Kind::Interrupt, sender, Supervision::None, false).reason;
    assert_eq!(interrupt(Terminal), reason::INTERRUPT);
    for sender in [OurManager, FROM_OTHER, Outside, Forged] {
        assert_eq!(interrupt(sender), reason::INTERRUPT_BY_PROCESS);
    }
}

#[test]
fn a_closed_terminal_plans_nothing_and_is_no_reason_for_a_unit() {
    let closed = |supervision| verdict(Kind::HangUp, Terminal, supervision, false);
    let expected = Verdict { planned: false, reason: reason::TERMINAL_CLOSED };
    for supervision in [Supervision::None, Supervision::NotOurs, unit(Active, Job::None, false)] {
        assert_eq!(closed(supervision), expected);
    }
    assert_eq!(closed(unit(Active, Job::None, true)).reason, reason::NO_JOB);
    assert!(closed(unit(Deactivating, Job::Stop, true)).planned);
}

#[test]
fn every_other_signal_is_judged_like_sigterm() {
    let quit = |supervision| verdict(Kind::Other("SIGQUIT"), OurManager, supervision, false);
    assert!(quit(unit(Deactivating, Job::Stop, true)).planned);
    assert!(!quit(unit(Active, Job::None, true)).planned);
    assert!(!quit(Supervision::None).planned);
}

#[test]
fn the_first_reason_stays_unless_the_verdict_changes_or_it_was_a_guess() {
    let found = |planned, reason| Verdict { planned, reason };
    let (kill, stop) = (found(false, reason::NO_JOB), found(true, reason::STOP_JOB));
    let coloured = found(false, reason::MANAGER_WITHOUT_JOB);
    assert_eq!(coloured.after(kill), kill);
    assert_eq!(stop.after(kill), stop);
    assert_eq!(kill.after(stop), kill);
    assert_eq!(kill.after(found(false, reason::GUESS_BY_OTHER)), kill);
    assert_eq!(found(false, reason::GUESS_BY_OTHER).after(kill), kill);
}
