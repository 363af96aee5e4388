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
    pub reason: &'static str,
}

const GUESS_BY_MANAGER: &str =
    "a guess: the service manager did not answer, but the signal is its own";
const GUESS_BY_OTHER: &str =
    "a guess: the service manager did not answer, and the signal is not its own";

const ENDED_BY_MANAGER: &str = "the service manager ended it without a stop job (RuntimeMaxSec= or \
    the watchdog, for example)";

/// Decides. Total over its input: every combination has a verdict. `marker`: there was a planned-stop
/// marker that names us, fresh and from somebody who may write it.
pub fn decide(signal: Kind, sender: Sender, supervision: Supervision, marker: bool) -> Verdict {
    let main = matches!(supervision, Supervision::Unit { main: true, .. });
    // Ctrl-C is the user in front of us. For a unit's main process SIGINT is no key but a signal
    // like any other (`systemctl kill -s INT`, KillSignal=SIGINT).
    if signal == Kind::Interrupt && !main {
        return planned(match sender {
            Sender::Terminal => "Ctrl-C",
            _ => "an interrupt (SIGINT) that a process sent",
        });
    }
    if signal == Kind::HangUp && !main {
        return external("the terminal was closed");
    }
    // Where our exit status drives a unit, its manager knows best and no file overrules it.
    if marker && !main {
        return planned("a stop that was announced");
    }
    match supervision {
        Supervision::Unit { deactivating, job, .. } => match (deactivating, job) {
            (true, Job::Stop | Job::Other) => planned("the service manager is stopping the unit"),
            (true, Job::Start) => external("the start of the unit ran out of time"),
            (true, Job::None) => external(ENDED_BY_MANAGER),
            (false, Job::Stop) => planned("a stop or restart job of the unit is queued"),
            (false, Job::Start | Job::Other) => {
                external("a signal from outside while the unit starts or reloads")
            }
            (false, Job::None) => external("a signal from outside: the unit is not being stopped"),
        },
        Supervision::Silent if sender == Sender::OurManager => planned(GUESS_BY_MANAGER),
        Supervision::Silent => external(GUESS_BY_OTHER),
        Supervision::NotOurs => {
            external("a signal that nobody announced; the gateway has no unit of its own")
        }
        Supervision::None => external("a signal that nobody announced"),
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
        matches!(self.reason, GUESS_BY_MANAGER | GUESS_BY_OTHER)
    }

    /// One word for logs and records.
    pub fn word(self) -> &'static str {
        if self.planned { "planned" } else { "external" }
    }
}

#[cfg(test)]
mod tests;
