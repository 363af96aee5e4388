//! The installed unit, for the commands that act on it: which one it is, what its manager says of
//! it, and a verb with a deadline.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::context::Context;
use super::output::say;
use super::unit_paths::{scopes, unit_dir};
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::lifecycle::instance_lock::{Holder, holder};
use crate::limits::UNIT_FILES_TIMEOUT;
use crate::subprocess::{Program, capture, find_program};
use crate::sys::{gather::Gather, proc, process::Pid, user};
use crate::systemd::systemctl::{Properties, Systemctl, time_span};
use crate::systemd::{Scope, cgroup, revival};

/// For a question to the manager: far above its 10 ms, and what a daemon-reload adds to them.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Beyond the manager's own time-outs: it acts, kills and reports when they are over.
const MANAGER_MARGIN: Duration = Duration::from_secs(10);

/// In place of a time-out that an operator has set to infinity: as long as anybody watches.
const LONGEST_VERB: Duration = Duration::from_secs(3600);

/// How long the journal is waited for: it is some milliseconds behind, on a busy machine more.
const JOURNAL_LAG: Duration = Duration::from_secs(1);

/// Lines of the log that explain a failure: more hide the one that counts.
const LOG_LINES: usize = 8;

/// What is taken of the journal to find those lines in.
const MAX_LOG: usize = 64 << 10;

/// The gateway's last line, however it ends.
const LAST_WORD: &str = "Exiting with code";

/// What its manager is asked about a unit, by all commands alike.
pub const PROPERTIES: &str = "LoadState,LoadError,FragmentPath,UnitFileState,Type,User,Environment,\
    ActiveState,SubState,Result,StateChangeTimestamp,NRestarts,MainPID,InvocationID,ExecMainPID,\
    ExecMainCode,ExecMainStatus,TimeoutStartUSec,TimeoutStopUSec,WorkingDirectory,Job,Restart,\
    SuccessExitStatus,RestartPreventExitStatus,RestartForceExitStatus";

/// A unit of this gateway and the manager that it belongs to.
#[derive(Debug)]
pub struct Unit<'c> {
    pub context: &'c Context,
    pub name: String,
    pub file: PathBuf,
    pub systemctl: Systemctl,
}

/// The unit that the commands act on: the user's where there is one, else the machine's; with
/// `system` only that.
pub fn find(context: &Context, system: bool) -> Option<Unit<'_>> {
    let known = |shown: Properties| shown.get("LoadState") != "not-found";
    // Its file is there, or the manager has it from elsewhere.
    let exists =
        |unit: &Unit<'_>| unit.file.symlink_metadata().is_ok() || unit.show().is_ok_and(known);
    scopes(system).iter().map(|scope| Unit::new(context, *scope)).find(exists)
}

/// The unit that runs the gateway, unless only the machine's of its name is meant.
pub fn running(context: &Context, system: bool) -> Option<Unit<'_>> {
    if system { None } else { Unit::of(context, holder(&context.dirs)?) }
}

/// How long to wait at most for a gateway that its service manager is about to have run: its unit starts,
/// or restarts, perhaps once it has stopped. `None`: it is not.
pub fn comes_back(context: &Context) -> Option<Duration> {
    let unit = find(context, false)?;
    let shown = unit.show().ok()?;
    let job_type = |job: &str| {
        let deadline = Instant::now() + QUERY_TIMEOUT;
        unit.systemctl.job_type(job.parse().ok()?, deadline).ok()?
    };
    let comes = match (shown.get("ActiveState"), shown.get("Job")) {
        ("activating", _) => true,
        // What has ended stops no more: the job is a start.
        ("inactive" | "failed", job) => !job.is_empty(),
        ("deactivating", "") => revival::after_exit(&shown, Exit::Terminated.code()),
        ("deactivating", job) => job_type(job).is_some_and(|job_type| revival::by_job(&job_type)),
        _ => false,
    };
    comes.then(|| Unit::timeout(&shown, &["TimeoutStartUSec", "TimeoutStopUSec"]))
}

impl<'c> Unit<'c> {
    /// The unit that runs this process, whatever its name: the one that its control group names, where
    /// it is that unit's main process.
    pub fn of(context: &'c Context, holder: Holder) -> Option<Unit<'c>> {
        let own = cgroup::own_unit(&proc::cgroup(holder.pid)?)?;
        let unit = Unit::named(context, own.scope, own.unit);
        let main = unit.show().ok()?;
        (main.get("MainPID") == holder.pid.to_string()).then_some(unit)
    }

    /// What the gateway is called where its unit matters.
    pub fn label(&self) -> String {
        let name = &self.context.name;
        if self.name == name.unit() { name.to_string() } else { format!("{name} ({})", self.name) }
    }

    /// Whether this command runs inside of the unit, as an agent's or as its `ExecStop=`: it would wait
    /// for itself. By our control group, or where that is hidden, by what a unit gives its processes.
    /// `shown`: `MainPID` and `InvocationID`.
    pub fn contains_this_process(&self, shown: &Properties) -> bool {
        let own = proc::cgroup(Pid::own()).and_then(|text| cgroup::own_unit(&text));
        let invocation = shown.get("InvocationID");
        let main = shown.get("MainPID").parse().ok().and_then(Pid::new);
        own.is_some_and(|own| own.unit == self.name && own.scope == self.systemctl.scope)
            || env::var("INVOCATION_ID").is_ok_and(|id| !id.is_empty() && id == invocation)
            || main.is_some_and(proc::is_ancestor)
    }

    /// Asks for a stop or restart from inside of the unit.
    pub fn enqueue(&self, shown: &Properties, verb: &str) -> Result<Exit, Failure> {
        // Its `ExecStop=`, or an agent of one that ends: another job would change what follows.
        if shown.get("ActiveState") == "deactivating" {
            return say(&format!(
                "{} is already stopping; this command runs inside it and changes nothing\n",
                self.label()
            ));
        }
        self.act(&["--no-block", verb, "--", &self.name])?;
        say_enqueued(verb, &self.label())
    }

    pub fn new(context: &'c Context, scope: Scope) -> Unit<'c> {
        Unit::named(context, scope, context.name.unit())
    }

    fn named(context: &'c Context, scope: Scope, name: String) -> Unit<'c> {
        let file = unit_dir(&context.base, scope).join(&name);
        Unit { context, name, file, systemctl: Systemctl::new(scope, context.children.clone()) }
    }

    /// Asks the manager for [`PROPERTIES`].
    ///
    /// # Errors
    /// `Failed`, with a suggested fix where there is no manager.
    pub fn show(&self) -> Result<Properties, Failure> {
        self.systemctl
            .show(PROPERTIES, &self.name, Instant::now() + QUERY_TIMEOUT)
            .map_err(|e| self.refused(&e, "try it with sudo"))
    }

    /// A variable of the unit's process, PATH for one: by its own settings, else its manager's
    /// (systemd.exec(5), "Environment variables in spawned processes"). `None`: that cannot be asked.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let deadline = Instant::now() + QUERY_TIMEOUT;
        let theirs = self.systemctl.run(&["show-environment"], deadline).ok()?;
        let own = self.show().ok()?;
        let settings = own.get("Environment").split([' ', '"']);
        let value = |word: &str| Some(OsString::from(word.strip_prefix(name)?.strip_prefix('=')?));
        settings.filter_map(value).next_back().or_else(|| theirs.lines().find_map(value))
    }

    /// Runs a verb that acts on the manager alone.
    pub fn act(&self, arguments: &[&str]) -> Result<(), Failure> {
        self.act_within(UNIT_FILES_TIMEOUT, arguments)
    }

    /// The same for a verb that waits for the gateway.
    pub fn act_within(&self, timeout: Duration, arguments: &[&str]) -> Result<(), Failure> {
        self.systemctl
            .run(arguments, Instant::now() + timeout)
            .map(drop)
            .map_err(|e| self.refused(&e, &format!("`sudo systemctl {}`", arguments.join(" "))))
    }

    /// How long a start or stop may take by the manager's own time-outs, with a margin.
    pub fn timeout(shown: &Properties, time_outs: &[&str]) -> Duration {
        let wait = |name: &&str| time_span(shown.get(name)).unwrap_or(LONGEST_VERB);
        time_outs.iter().map(wait).sum::<Duration>() + MANAGER_MARGIN
    }

    /// The error of systemctl, and a suggested fix where one is known. `with_sudo`: the one for a user
    /// who may not do it.
    pub fn refused(&self, why: &str, with_sudo: &str) -> Failure {
        let why = escaped(why.trim(), false);
        let no_manager = why.contains("Failed to connect") || why.contains("not been booted");
        let way = match self.systemctl.scope {
            _ if why.contains("uthentication") || why.contains("Access denied") => {
                &format!("; system units need root: {with_sudo}")
            }
            Scope::User if no_manager => {
                "\n  This user has no service manager now. A login starts one; as root, \
                 `loginctl enable-linger USER`\n  has it started at boot, and `install --system` \
                 makes a system unit. `run` needs none."
            }
            Scope::System if no_manager => "\n  There is no systemd here. `run` needs none.",
            Scope::User | Scope::System => "",
        };
        Failure::failed(format!("{}: {why}{way}", self.systemctl.scope.systemctl()))
    }

    /// What the failed attempt that began at `start` as process `pid` has logged, in its own words
    /// or else in the manager's; empty where the journal does not tell. The journal is a moment
    /// behind: this waits for the last word.
    pub fn log_of_failure(&self, start: SystemTime, pid: &str) -> Vec<String> {
        let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = format!("--since=@{}.{:06}", since.as_secs(), since.subsec_micros());
        let log_of = |field: String| -> Option<String> {
            let which = ["--quiet", "--no-pager", "--output=cat", "--lines=100", &since, &field];
            let (journalctl, deadline) = (self.journalctl().ok()?, Instant::now() + QUERY_TIMEOUT);
            let answer =
                capture(&self.context.children, &journalctl.args(which), deadline, MAX_LOG);
            Some(answer.ok()?.stdout)
        };
        let deadline = Instant::now() + JOURNAL_LAG;
        let mut log = String::new();
        // By pid: of a user's process that has ended, journald cannot tell the unit any more.
        while pid != "0" && !log.contains(LAST_WORD) && Instant::now() < deadline {
            log = log_of(format!("_PID={pid}")).unwrap_or_default();
        }
        if log.is_empty() {
            let field = if self.systemctl.scope == Scope::User { "USER_UNIT" } else { "UNIT" };
            log = log_of(format!("{field}={}", self.name)).unwrap_or_default();
        }
        let lines: Vec<&str> = log.lines().gather();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].iter();
        last.map(|line| escaped(line, false)).gather()
    }

    /// `journalctl` for the journal that this unit's log is in.
    pub fn journalctl(&self) -> io::Result<Program> {
        let program = Program::new(find_program("journalctl")?);
        let user = (self.systemctl.scope == Scope::User).then_some("--user");
        Ok(program.args(user))
    }
}

/// How a unit's main process ended, by `Result`, `ExecMainCode` and `ExecMainStatus`; and the
/// exit status for a command that wanted it to run.
pub fn describe_end(shown: &Properties) -> (String, Exit) {
    let status = shown.get("ExecMainStatus");
    let (meaning, exit) = match status {
        "69" => (" (something that it needs is unavailable: `logs` says what)", Exit::Unavailable),
        "78" => (" (you must fix something: `logs` says what)", Exit::Config),
        "143" => (" (a signal that nobody planned)", Exit::Failed),
        "200" => (" (systemd could not enter its working directory)", Exit::Failed),
        "203" => (" (systemd could not execute the program)", Exit::Failed),
        "217" => (" (systemd found no such user)", Exit::Failed),
        _ => ("", Exit::Failed),
    };
    let failed = |words: &str| (words.to_owned(), Exit::Failed);
    match (shown.get("Result"), shown.get("ExecMainCode")) {
        ("timeout", _) => failed("it took longer than its time-out"),
        ("watchdog", _) => failed("it did not report to the watchdog in time"),
        ("protocol", _) => failed("it ended before it was ready"),
        ("start-limit-hit", _) => failed("it was started too often"),
        ("oom-kill", _) => failed(
            "a process of the unit was killed for lack of memory (of the machine, or by MemoryMax= of \
             the unit)",
        ),
        // The main process ended well: another command of the unit has failed.
        ("exit-code" | "signal" | "core-dump", "1") if status == "0" => failed(
            "the gateway ended with exit status 0, but another command of its unit failed \
             (ExecStopPost=, ExecReload= or the like: `systemctl status` names it)",
        ),
        // CLD_EXITED, CLD_KILLED, CLD_DUMPED (sigaction(2)).
        (_, "1") => (format!("exit status {status}{meaning}"), exit),
        (_, "2" | "3") => failed(&format!("killed by {}", signal(status))),
        (result, _) => failed(&format!("result {result}")),
    }
}

/// Says that a verb is asked for by a process of the gateway itself.
pub fn say_enqueued(verb: &str, label: &str) -> Result<Exit, Failure> {
    say(&format!(
        "the {verb} of {label} is requested; this command does not wait for it, since it runs inside \
         the gateway\n"
    ))
}

/// `SIGABRT (signal 6)`.
fn signal(number: &str) -> String {
    let name = number.parse().ok().and_then(signal_hook::low_level::signal_name);
    name.map_or_else(|| format!("signal {number}"), |name| format!("{name} (signal {number})"))
}

/// Our name, and whether our service manager runs without a login: where logind keeps it (loginctl(1),
/// enable-linger), since asking it would need the bus.
pub fn own_lingering() -> Option<(String, bool)> {
    let name = user::by_uid(user::own_uid())?.name;
    let lingers = Path::new("/var/lib/systemd/linger").join(&name).exists();
    Some((name.display().to_string(), lingers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: &[(&str, &str)]) -> Properties {
        let line = |(key, value): &(&str, &str)| format!("{key}={value}\n");
        Properties(pairs.iter().map(line).collect())
    }

    #[test]
    fn exit_statuses_are_explained() {
        let end = |result, code, status| {
            describe_end(&shown(&[
                ("Result", result),
                ("ExecMainCode", code),
                ("ExecMainStatus", status),
            ]))
        };
        let (words, exit) = end("exit-code", "1", "78");
        assert_eq!(words, "exit status 78 (you must fix something: `logs` says what)");
        assert_eq!(exit, Exit::Config);
        assert_eq!(end("exit-code", "1", "69").1, Exit::Unavailable);
        assert_eq!(end("signal", "2", "9").0, "killed by SIGKILL (signal 9)");
        assert_eq!(end("core-dump", "3", "6").0, "killed by SIGABRT (signal 6)");
        assert_eq!(end("signal", "2", "40").0, "killed by signal 40");
        assert!(end("exit-code", "1", "0").0.contains("another command of its unit failed"));
        assert!(end("timeout", "2", "15").0.contains("time-out"));
        assert_eq!(end("resources", "0", "0").0, "result resources");
    }

    #[test]
    fn waiting_for_a_unit_has_a_deadline() {
        let shown = shown(&[("A", "1min"), ("B", "infinity")]);
        assert_eq!(Unit::timeout(&shown, &["A"]), Duration::from_secs(70));
        assert_eq!(Unit::timeout(&shown, &["A", "B"]), Duration::from_secs(3670));
    }
}
