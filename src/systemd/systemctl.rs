//! `systemctl` as a subprocess: the one question about our unit, and the verbs of our commands.
//!
//! A subprocess, and not the bus: it uses the manager's private socket, which answers until the
//! very end while the manager goes down, and it is there wherever systemd is.

use std::env;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Scope;
use super::cgroup::{self, OwnUnit};
use crate::cancel::Cancel;
use crate::escape::one_line;
use crate::limits::QUERY_DEADLINE;
use crate::subprocess::{
    Captured, Child, ChildKind, Children, Program, RunOptions, capture, find_program,
};
use crate::sys::{proc, process::Pid, user};

/// The most that we take of what systemctl prints; `list-jobs` and `show` stay far below.
const MAX_SYSTEMCTL_OUTPUT: usize = 256 << 10;

/// A manager to ask.
#[derive(Clone, Debug)]
pub struct Systemctl {
    pub scope: Scope,
    children: Arc<Children>,
}

/// What `systemctl show` printed, by name: its order is its own.
#[derive(Clone, Debug, Default)]
pub struct Properties(pub String);

impl Properties {
    /// The value of a property; empty where systemctl did not print it.
    pub fn get(&self, name: &str) -> &str {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    }

    /// How often the manager has restarted the unit by itself.
    pub fn restarts(&self) -> u64 {
        self.get("NRestarts").parse().unwrap_or(0)
    }
}

impl Systemctl {
    pub fn new(scope: Scope, children: Arc<Children>) -> Systemctl {
        Systemctl { scope, children }
    }

    /// `systemctl show -p PROPERTIES UNIT`. A unit that does not exist gives `LoadState=not-found`
    /// and no error.
    pub fn show(
        &self,
        properties: &str,
        unit: &str,
        deadline: Instant,
    ) -> Result<Properties, String> {
        self.run(&["show", "-p", properties, "--", unit], deadline).map(Properties)
    }

    /// The type of the job with this id (`start`, `stop`, `restart`, …), `None` when it is gone.
    pub fn job_type(&self, job: u32, deadline: Instant) -> Result<Option<String>, String> {
        let answer = self.run(&LIST_JOBS, deadline)?;
        Ok(job_type_in(&answer, job))
    }

    /// Begins to list the jobs: while another question is answered.
    pub fn list_jobs(&self, deadline: Instant) -> io::Result<Child<'_>> {
        let program = self.program()?.args(LIST_JOBS);
        let (kind, cancel) = (ChildKind::Shielded, Cancel::at(deadline));
        let options = RunOptions { kind, input: None, cancel, grace: Duration::ZERO };
        self.children.spawn(&program, options)
    }

    /// The version of systemd, as a number: 252.
    pub fn version(&self, deadline: Instant) -> Result<u32, String> {
        let answer = self.run(&["--version"], deadline)?;
        let first = answer.lines().next().unwrap_or_default();
        version_in(first)
            .ok_or_else(|| format!("cannot read the version of systemd from {first:?}"))
    }

    /// Runs a verb and returns what it printed.
    ///
    /// # Errors
    /// One line: what systemctl said, or why it did not answer.
    pub fn run(&self, arguments: &[&str], deadline: Instant) -> Result<String, String> {
        match self.answer(arguments, deadline) {
            Ok(answer) if answer.success => Ok(answer.stdout),
            Ok(answer) if answer.stderr.trim().is_empty() => {
                Err("systemctl failed and gave no reason".to_owned())
            }
            Ok(answer) => Err(one_line(answer.stderr.as_bytes())),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Runs a verb and returns what came of it, success or not.
    fn answer(&self, arguments: &[&str], deadline: Instant) -> io::Result<Captured> {
        let ask = |program| capture(&self.children, &program, deadline, MAX_SYSTEMCTL_OUTPUT);
        let answer = ask(self.program()?.args(arguments))?;
        let lost = !answer.success && answer.stderr.contains(NO_PEER);
        let dir = env::var("XDG_RUNTIME_DIR").ok().filter(|_| lost && self.scope == Scope::User);
        let Some(dir) = dir else { return Ok(answer) };
        let program = self.program()?.args(arguments).env_remove("XDG_RUNTIME_DIR");
        ask(program.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={dir}/bus")))
    }

    /// systemctl up to the verb, its environment repaired where it is poor.
    fn program(&self) -> io::Result<Program> {
        Ok(self.tool("systemctl")?.args(["--no-pager", "--no-ask-password"]))
    }

    /// One of systemd's programs, for this manager.
    ///
    /// # Errors
    /// There is none.
    pub fn tool(&self, name: &str) -> io::Result<Program> {
        let mut program = Program::new(find_program(name)?);
        if self.scope == Scope::User {
            program = with_user_bus(program.args(["--user"]));
        }
        // Its words are read by our parser and quoted in our log.
        Ok(program
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("SYSTEMD_COLORS", "0")
            .env_remove("SYSTEMD_LOG_LEVEL"))
    }
}

/// What systemctl says in a pid namespace of its own (`PrivatePIDs=yes`), where the manager that it has
/// reached has no pid. A bus needs none.
const NO_PEER: &str = "No data available";

/// Whether a unit's `MainPID=` is this process. In a pid namespace of its own (`PrivatePIDs=yes`) the
/// manager knows it by another number, but there a unit's main process is the first one.
pub fn is_main_pid(main_pid: &str) -> bool {
    let own = Pid::own().get();
    main_pid.parse::<i32>().is_ok_and(|main| main == own || (own == 1 && main > 0))
}

/// Our own control group, where the manager has delegated it to this process: it is the unit's, the
/// unit has `Delegate=yes`, and this is the unit's main process. Takes as long as the manager, at
/// most [`QUERY_DEADLINE`].
pub fn delegated_cgroup(own: &OwnUnit, children: &Arc<Children>) -> Option<String> {
    let text = proc::cgroup(Pid::own())?;
    let group = cgroup::unified(&text)?;
    let systemctl = Systemctl::new(own.scope, Arc::clone(children));
    let deadline = Instant::now() + QUERY_DEADLINE;
    let shown = systemctl.show("Delegate,ControlGroup,MainPID", &own.unit, deadline);
    let warn =
        |e: &String| log::warn!("whether the control group is delegated cannot be told: {e}");
    let shown = shown.inspect_err(warn).ok()?;
    let is_ours = shown.get("Delegate") == "yes"
        && shown.get("ControlGroup") == group
        && is_main_pid(shown.get("MainPID"));
    is_ours.then(|| group.to_owned())
}

/// Gives a helper of the user manager the way to it, where a `su` or SSH shell lacks it.
fn with_user_bus(program: Program) -> Program {
    let usual = PathBuf::from(format!("/run/user/{}", user::own_uid()));
    let ours = |dir: &Path| dir.metadata().is_ok_and(|meta| meta.uid() == user::own_uid());
    let given = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if given.is_some_and(|dir| ours(&dir.join("systemd/private"))) || !ours(&usual) {
        return program;
    }
    program.env("XDG_RUNTIME_DIR", usual).env_remove("DBUS_SESSION_BUS_ADDRESS")
}

const LIST_JOBS: [&str; 4] = ["list-jobs", "--no-legend", "--plain", "--full"];

/// The type of the job with this id, where the list that was begun has it.
pub fn job_type_of(list: Child<'_>, job: u32) -> Option<String> {
    let (_, stdout, _) = list.finish(MAX_SYSTEMCTL_OUTPUT, 0).ok()?;
    job_type_in(&String::from_utf8_lossy(&stdout), job)
}

/// A row of list-jobs is `JOB UNIT TYPE STATE`.
fn job_type_in(list: &str, job: u32) -> Option<String> {
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let id: u32 = words.next()?.parse().ok()?;
        (id == job).then(|| words.nth(1).map(str::to_owned))?
    })
}

/// `systemd 257.8-1` or `systemd 252 (252.38-1)`.
fn version_in(line: &str) -> Option<u32> {
    let version = line.strip_prefix("systemd ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit());
    version[..digits.unwrap_or(version.len())].parse().ok()
}

/// Reads a span of time as `show` prints it (systemd.time(7)): `45s`, `1min 30s`. `None` for
/// `infinity`.
pub fn time_span(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    for part in text.split_whitespace() {
        let unit = part.find(|c: char| c.is_ascii_alphabetic())?;
        let number: f64 = part[..unit].parse().ok()?;
        let seconds = match &part[unit..] {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return None,
        };
        sum += Duration::try_from_secs_f64(number * seconds).ok()?;
    }
    (sum > Duration::ZERO).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_in_any_order_and_empty() {
        let shown = Properties("Job=\nActiveState=active\nExecStart={ a=b }\n".to_owned());
        assert_eq!(shown.get("Job"), "");
        assert_eq!(shown.get("ActiveState"), "active");
        assert_eq!(shown.get("ExecStart"), "{ a=b }");
    }

    #[test]
    fn versions_of_systemd_are_read() {
        assert_eq!(version_in("systemd 252 (252.38-1~deb12u1)"), Some(252));
        assert_eq!(version_in("systemd 257.8-1"), Some(257));
        assert_eq!(version_in("systemd 258~rc1"), Some(258));
        assert_eq!(version_in("elogind 252"), None);
        assert_eq!(version_in("systemd x"), None);
    }

    #[test]
    fn times_of_systemd_are_read() {
        assert_eq!(time_span("1min 30s"), Some(Duration::from_secs(90)));
        assert_eq!(time_span("1.500s"), Some(Duration::from_millis(1500)));
        assert_eq!(time_span("1d 15s"), Some(Duration::from_secs(86_415)));
        for none in ["infinity", "", "0", "5 parsecs", "-1s"] {
            assert_eq!(time_span(none), None, "{none}");
        }
    }

    #[test]
    fn the_type_of_a_job_is_read_from_the_list() {
        let list = "12 a.service start waiting\n 7 b.service restart running\n";
        assert_eq!(job_type_in(list, 7).as_deref(), Some("restart"));
        assert_eq!(job_type_in(list, 12).as_deref(), Some("start"));
        assert_eq!(job_type_in(list, 1), None);
        assert_eq!(job_type_in("No jobs running.", 1), None);
    }
}
