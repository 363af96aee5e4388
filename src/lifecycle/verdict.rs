//! Is this signal a planned stop? A pure function over the evidence; `verdict/tests.rs` holds a row
//! for every case that was measured on real service managers.

use super::signals::Kind;

/// Who sent the signal, as far as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The service manager that runs our unit.
    OurManager,
    /// Another process.
    Other,
    /// A process outside of our pid namespace (pid 0).
    Outside,
    /// The sender wrote the siginfo itself (negative `si_code`): it says nothing.
    Forged,
    /// The kernel, for a key at the terminal.
    Terminal,
}

/// What the service manager says of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervision {
    /// `INVOCATION_ID` is absent: not under systemd, nobody was asked.
    None,
    /// There is a manager, but no unit whose invocation is ours.
    NotOurs,
    /// The unit that we run in, as `systemctl show` and `list-jobs` describe it. `deactivating`: by its
    /// `ActiveState=`; all other states, known or to come, end the same way for us. `main`: whether we are
    /// its `MainPID`; only then does our exit status drive `Restart=`.
    Unit { deactivating: bool, job: Job, main: bool },
    /// The manager did not answer in time.
    Silent,
}

/// `Job=` and, where it was needed, the job's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// No job is queued for the unit.
    None,
    /// stop, restart, try-restart: it ends the unit.
    Stop,
    /// start, or verify-active.
    Start,
    /// reload, and whatever else leaves the unit running; or its type was not asked for, or is not known
    /// any more.
    Other,
}

/// Planned or not, and the reason in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub planned: bool,
    /// One of [`reason`].
    pub reason: &'static str,
}

/// Why a verdict is what it is.
pub mod reason {
    pub const STOP_JOB: &str = "the service manager is stopping the unit";
    pub const STOP_JOB_WAITING: &str = "a stop of the unit is waiting for its turn";
    pub const START_TIMED_OUT: &str = "the start of the unit ran out of time";
    pub const OTHER_JOB: &str = "a signal from outside while the unit starts or reloads";
    pub const MANAGER_WITHOUT_JOB: &str = "the service manager ended it on its own account";
    pub const NO_JOB: &str = "a signal from outside: the unit is not being stopped";
    pub const NOT_UNDER_A_MANAGER: &str = "a signal that nobody announced";
    pub const UNIT_NOT_OURS: &str = "a signal that nobody announced, outside of any unit of ours";
    pub const MARKER: &str = "a stop that was announced";
    pub const INTERRUPT: &str = "Ctrl-C";
    pub const INTERRUPT_BY_PROCESS: &str = "an interrupt (SIGINT) that a process sent";
    pub const TERMINAL_CLOSED: &str = "the terminal was closed";
    pub const GUESS_BY_MANAGER: &str =
        "a guess: the service manager did not answer, but the signal is its own";
    pub const GUESS_BY_OTHER: &str =
        "a guess: the service manager did not answer, and the signal is not its own";
}

/// Decides. Total over its input: every combination has a verdict. `marker`: there was a planned-stop
/// marker that names us, fresh and from somebody who may write it.
pub fn decide(signal: Kind, sender: Sender, supervision: Supervision, marker: bool) -> Verdict {
    let main = matches!(supervision, Supervision::Unit { main: true, .. });
    // Ctrl-C is the user in front of us. For a unit's main process SIGINT is no key but a signal
    // like any other (`systemctl kill -s INT`, KillSignal=SIGINT).
    if signal == Kind::Interrupt && !main {
        let by_key = sender == Sender::Terminal;
        return planned(if by_key { reason::INTERRUPT } else { reason::INTERRUPT_BY_PROCESS });
    }
    if signal == Kind::HangUp && !main {
        return external(reason::TERMINAL_CLOSED);
    }
    // Where our exit status drives a unit, its manager knows best and no file overrules it.
    if marker && !main {
        return planned(reason::MARKER);
    }
    match supervision {
        Supervision::Unit { deactivating, job, .. } => match (deactivating, job) {
            (true, Job::Stop | Job::Other) => planned(reason::STOP_JOB),
            (true, Job::Start) => external(reason::START_TIMED_OUT),
            (true, Job::None) => external(reason::MANAGER_WITHOUT_JOB),
            (false, Job::Stop) => planned(reason::STOP_JOB_WAITING),
            (false, Job::Start | Job::Other) => external(reason::OTHER_JOB),
            (false, Job::None) => external(reason::NO_JOB),
        },
        Supervision::Silent if sender == Sender::OurManager => planned(reason::GUESS_BY_MANAGER),
        Supervision::Silent => external(reason::GUESS_BY_OTHER),
        Supervision::NotOurs => external(reason::UNIT_NOT_OURS),
        Supervision::None => external(reason::NOT_UNDER_A_MANAGER),
    }
}

/// Whether the job's type has to be asked for: only where the job alone does not settle it. While
/// the unit goes down its job is the stop, unless it never finished starting (`TimeoutStartSec=`) or
/// we ask for the second time, when somebody may have queued a start behind a kill.
pub fn needs_job_type(deactivating: bool, job: bool, started: bool, again: bool) -> bool {
    job && (!deactivating || !started || again)
}

const fn planned(reason: &'static str) -> Verdict {
    Verdict { planned: true, reason }
}

const fn external(reason: &'static str) -> Verdict {
    Verdict { planned: false, reason }
}

impl Verdict {
    /// This verdict after an `earlier` one about the same stop: while it is the same, the earlier reason
    /// stays, since our own STOPPING=1 colours later answers. A guess gives way to an answer.
    pub fn after(self, earlier: Verdict) -> Verdict {
        if self.planned == earlier.planned && !earlier.is_guess() { earlier } else { self }
    }

    /// Whether the verdict was made without an answer from the manager.
    pub fn is_guess(self) -> bool {
        matches!(self.reason, reason::GUESS_BY_MANAGER | reason::GUESS_BY_OTHER)
    }

    /// One word for logs and records.
    pub fn word(self) -> &'static str {
        if self.planned { "planned" } else { "external" }
    }
}

#[cfg(test)]
mod tests;
