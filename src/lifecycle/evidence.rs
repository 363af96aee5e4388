//! Gathers what the verdict looks at: asks the service manager, reads the marker, names the sender.
//! Runs in a thread of its own, since the manager may let us wait.

use std::env;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::planned_stop_marker;
use super::signals::{Caught, Kind};
use super::verdict::{self, Job, Sender, Supervision, Verdict};
use crate::escape::escaped;
use crate::exit::Exit;
use crate::limits::QUERY_DEADLINE;
use crate::subprocess::Children;
use crate::sys::{proc, process::Pid, signal};
use crate::systemd::cgroup::{self, OwnUnit};
use crate::systemd::systemctl::{self, Properties, Systemctl, is_main_pid, job_type_of};
use crate::systemd::{Scope, revival};
use crate::threads::pause;

/// How long after a failure the question is asked again: at a daemon-reexec the manager is gone
/// for about 0.1 s.
const QUESTION_RETRY: Duration = Duration::from_millis(150);

/// With [`revival::PROPERTIES`].
const PROPERTIES: &str = "ActiveState,Job,MainPID,InvocationID,Result,TimeoutStopUSec,\
    FileDescriptorStoreMax,NFileDescriptorStore,";

/// Which service manager runs this process, if any, and in which unit: known from the start on.
#[derive(Clone, Debug)]
pub struct Supervisor {
    invocation: Option<String>,
    /// The unit that we run in, as far as our control group tells, or [`Supervisor::locate`] did.
    pub own: Arc<OnceLock<OwnUnit>>,
    /// Whether its manager keeps descriptors for it, once it was asked.
    stores: Arc<AtomicBool>,
    /// The unit that `install` makes for a gateway of this name.
    installed: String,
    marker: PathBuf,
    children: Arc<Children>,
}

/// When the question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryPoint {
    /// The signal has just arrived. `started`: READY=1 was sent before it. `clients`: somebody is connected,
    /// for whom it matters at once whether the unit comes back.
    Signal { started: bool, clients: bool },
    /// The process is about to end. `marker`: one was found the first time, and consumed.
    Exit { marker: bool },
}

/// The evidence with the verdict over it, and the words for the log.
#[derive(Clone, Debug)]
pub struct Finding {
    pub verdict: Verdict,
    /// Who sent the signal, for people.
    pub sender: String,
    pub marker: bool,
    /// Whether the service manager might say something else a moment later.
    pub may_change: bool,
    /// The unit's settings, where this is its main process.
    pub unit: Option<UnitSettings>,
    pub comes_back: Revival,
    /// The fields of the `Shutdown context` line, in order, but for the reason.
    pub context: String,
}

/// Whether the unit comes back after this stop, with the descriptors that its manager keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revival {
    No,
    Yes,
    /// As the type of this job says, which nobody was there to need: see [`Supervisor::comes_back`].
    ByJob(u32),
}

/// What our unit is set to, drop-ins included.
#[derive(Clone, Copy, Debug)]
pub struct UnitSettings {
    /// The time that it gives a stop; `Duration::MAX` for infinity.
    pub stop_timeout: Duration,
    /// Whether its manager keeps descriptors for it.
    pub stores: bool,
}

/// What the manager said, beside its meaning: for the log.
#[derive(Default)]
struct Shown {
    properties: Properties,
    job_type: String,
    failure: String,
    /// It keeps descriptors for the next process of our unit.
    keeps: bool,
    /// The job whose type was not asked for.
    job: Option<u32>,
}

/// Whether a number that systemctl shows is one, and not 0.
fn counts(number: &str) -> bool {
    number.parse::<u64>().is_ok_and(|number| number > 0)
}

impl Supervisor {
    /// Finds out where this process stands. `INVOCATION_ID` is a gate only: every child of any
    /// unit inherits it, so which unit is ours is read from our own control group.
    pub fn find(marker: PathBuf, installed: String, children: Arc<Children>) -> Supervisor {
        let invocation = env::var("INVOCATION_ID").ok().filter(|id| !id.is_empty());
        let own = invocation.as_ref().and_then(|_| cgroup::own_unit(&proc::cgroup(Pid::own())?));
        let found = Arc::<OnceLock<_>>::default();
        own.into_iter().for_each(|own| _ = found.set(own));
        Supervisor { invocation, own: found, stores: Arc::default(), installed, marker, children }
    }

    /// The unit that we run in. Where our control group names none (`ProtectControlGroups=strict` or
    /// `private`) the service managers are asked: one that they name, or that has the installed unit's
    /// name, is ours if its invocation is. Takes as long as they, at most until `deadline`.
    pub fn locate(&self, deadline: Instant) -> Option<&OwnUnit> {
        let invocation = self.invocation.as_deref()?;
        if let Some(own) = self.own.get() {
            return Some(own);
        }
        let mut scopes = [Scope::System, Scope::User];
        // A user's manager gives it to its units; the machine's does not as a rule.
        if env::var_os("XDG_RUNTIME_DIR").is_some() {
            scopes.reverse();
        }
        let found = scopes.into_iter().find_map(|scope| {
            let systemctl = Systemctl::new(scope, Arc::clone(&self.children));
            let is_ours = |unit: &String| {
                let shown = systemctl.show("InvocationID", unit, deadline);
                shown.is_ok_and(|shown| shown.get("InvocationID") == invocation)
            };
            let named =
                systemctl.run(&["whoami"], deadline).ok().map(|unit| unit.trim().to_owned());
            let installed = || Some(self.installed.clone()).filter(is_ours);
            let unit = named.filter(is_ours).or_else(installed)?;
            Some(OwnUnit { unit, scope, manager_cgroup: None })
        });
        found.map(|own| self.own.get_or_init(|| own))
    }

    /// The settings of our unit. `None` where we are no unit's main process, or its manager does not say.
    pub fn unit_settings(&self) -> Option<UnitSettings> {
        let deadline = Instant::now() + QUERY_DEADLINE;
        let own = self.locate(deadline)?;
        let systemctl = Systemctl::new(own.scope, Arc::clone(&self.children));
        let settings = self.settings_in(&systemctl.show(PROPERTIES, &own.unit, deadline).ok()?)?;
        self.stores.store(settings.stores, Ordering::SeqCst);
        Some(settings)
    }

    fn settings_in(&self, shown: &Properties) -> Option<UnitSettings> {
        let text = shown.get("TimeoutStopUSec");
        let is_ours = shown.get("InvocationID") == self.invocation.as_deref()?;
        let known = is_ours && is_main_pid(shown.get("MainPID")) && !text.is_empty();
        known.then(|| UnitSettings {
            stop_timeout: systemctl::time_span(text).unwrap_or(Duration::MAX),
            stores: counts(shown.get("FileDescriptorStoreMax")),
        })
    }

    /// Gathers the evidence and decides. Takes as long as the manager, at most `within`.
    pub fn examine(&self, caught: Caught, point: QueryPoint, within: Duration) -> Finding {
        // The sender first: it may be gone by the time the manager has answered.
        let (sender, name) = self.sender(caught);
        let mut shown = Shown::default();
        let deadline = Instant::now() + within;
        let supervision = self.supervision(point, sender, deadline, &mut shown);
        let marker = match point {
            QueryPoint::Signal { .. } => planned_stop_marker::consume(&self.marker),
            QueryPoint::Exit { marker } => marker || planned_stop_marker::consume(&self.marker),
        };
        let verdict = verdict::decide(caught.kind, sender, supervision, marker);
        let may_change = !verdict.planned
            && matches!(supervision, Supervision::Unit { .. } | Supervision::Silent);
        let context = self.context(caught, &name, &shown, verdict);
        let unit = self.settings_in(&shown.properties);
        let exit = if verdict.planned { Exit::Planned } else { Exit::Terminated };
        let again = || revival::after_exit(&shown.properties, exit.code());
        let comes_back = match (shown.job, shown.job_type.as_str()) {
            (Some(job), _) => Revival::ByJob(job),
            (None, "stop") => Revival::No,
            (None, job) if shown.keeps && (revival::by_job(job) || again()) => Revival::Yes,
            (None, _) => Revival::No,
        };
        Finding { verdict, sender: name, marker, may_change, unit, comes_back, context }
    }

    fn supervision(
        &self,
        point: QueryPoint,
        sender: Sender,
        deadline: Instant,
        shown: &mut Shown,
    ) -> Supervision {
        let Some(invocation) = &self.invocation else { return Supervision::None };
        let Some(own) = self.locate(deadline) else {
            let silent = Instant::now() >= deadline;
            return if silent { Supervision::Silent } else { Supervision::NotOurs };
        };
        let systemctl = Systemctl::new(own.scope, Arc::clone(&self.children));
        // What the manager signals has a job as a rule, whose type tells a stop from a restart: asked for at the
        // same time where clients wait for it.
        let clients = !matches!(point, QueryPoint::Signal { clients: false, .. });
        let asks = clients && sender == Sender::OurManager && self.stores.load(Ordering::SeqCst);
        let jobs = asks.then(|| systemctl.list_jobs(deadline)).and_then(Result::ok);
        let properties = format!("{PROPERTIES}{}", revival::PROPERTIES);
        let mut answer = systemctl.show(&properties, &own.unit, deadline);
        if answer.is_err() && Instant::now() + QUESTION_RETRY < deadline {
            pause(QUESTION_RETRY);
            answer = systemctl.show(&properties, &own.unit, deadline);
        }
        match answer {
            Ok(properties) => shown.properties = properties,
            Err(e) => {
                shown.failure = e;
                return Supervision::Silent;
            }
        }
        let get = |key: &str| shown.properties.get(key);
        if get("InvocationID") != *invocation {
            return Supervision::NotOurs;
        }
        let (main, deactivating) =
            (is_main_pid(get("MainPID")), get("ActiveState") == "deactivating");
        let again = matches!(point, QueryPoint::Exit { .. });
        let started = again || matches!(point, QueryPoint::Signal { started: true, .. });
        let id: Option<u32> = get("Job").parse().ok();
        let typed = verdict::needs_job_type(deactivating, id.is_some(), started, again);
        shown.keeps = main && counts(get("NFileDescriptorStore"));
        if !typed && !clients {
            shown.job = id.filter(|_| shown.keeps);
        } else if let Some(id) = id.filter(|_| typed || shown.keeps) {
            // What the verdict goes by is asked for behind the other answer.
            let known = jobs.filter(|_| !typed).and_then(|jobs| job_type_of(jobs, id));
            match known.map_or_else(|| systemctl.job_type(id, deadline), |it| Ok(Some(it))) {
                Ok(kind) => shown.job_type = kind.unwrap_or_default(),
                Err(e) => (shown.failure, shown.keeps) = (e, false),
            }
        }
        // The words of list-jobs (systemd's `job_type`).
        let job = match shown.job_type.as_str() {
            _ if id.is_none() => Job::None,
            _ if !typed => Job::Other,
            "stop" | "restart" | "try-restart" => Job::Stop,
            "start" | "verify-active" => Job::Start,
            _ => Job::Other,
        };
        Supervision::Unit { deactivating, job, main }
    }

    /// Whether the unit comes back, by the type of its job: where somebody needs it after all. Takes as long
    /// as the manager, at most `within`; one that does not answer says no.
    pub fn comes_back(&self, job: u32, within: Duration) -> bool {
        let Some(own) = self.own.get() else { return false };
        let systemctl = Systemctl::new(own.scope, Arc::clone(&self.children));
        let found = systemctl.job_type(job, Instant::now() + within);
        found.is_ok_and(|found| found.is_some_and(|job_type| revival::by_job(&job_type)))
    }

    /// Who sent it, and its name where the kernel vouches for its pid.
    fn sender(&self, caught: Caught) -> (Sender, String) {
        let (sender, name) = match (caught.code, Pid::new(caught.pid)) {
            (signal::SI_KERNEL, _) => match caught.kind {
                Kind::Other(name) if name != "SIGQUIT" => (Sender::Terminal, "(kernel)"),
                _ => (Sender::Terminal, "(terminal)"),
            },
            (signal::SI_USER, None) => (Sender::Outside, "(outside)"),
            (signal::SI_USER, Some(pid)) => {
                let manager = self.is_our_manager(pid);
                let name = proc::name(pid).unwrap_or_else(|| "(gone)".to_owned());
                return (if manager { Sender::OurManager } else { Sender::Other }, name);
            }
            (_, _) => (Sender::Forged, "(forged)"),
        };
        (sender, name.to_owned())
    }

    fn is_our_manager(&self, pid: Pid) -> bool {
        let Some(own) = self.own.get() else { return false };
        match &own.manager_cgroup {
            None => pid.get() == 1,
            Some(group) => proc::cgroup(pid)
                .is_some_and(|text| cgroup::hierarchies(&text).any(|path| path == group)),
        }
    }

    fn context(&self, caught: Caught, sender: &str, shown: &Shown, verdict: Verdict) -> String {
        let under = if self.invocation.is_some() { "yes" } else { "no" };
        let parent = Pid::parent();
        let mut line = format!("signal={} under_systemd={under}", caught.kind.name());
        let mut add = |key: &str, value: &str| {
            let value = if value.is_empty() { "-" } else { value };
            let _ = write!(line, " {key}={}", escaped(value, true));
        };
        add("unit", self.own.get().map_or("-", |own| &own.unit));
        add("active_state", shown.properties.get("ActiveState"));
        add("job", shown.properties.get("Job"));
        add("sender_pid", &caught.pid.to_string());
        add("sender_name", sender);
        add("sender_uid", &caught.uid.to_string());
        add("parent_pid", &parent.map_or(0, Pid::get).to_string());
        add("parent_name", &parent.and_then(proc::name).unwrap_or_default());
        add("verdict", verdict.word());
        add("job_type", &shown.job_type);
        add("main_pid", shown.properties.get("MainPID"));
        add("result", shown.properties.get("Result"));
        add("si_code", &caught.code.to_string());
        if !shown.failure.is_empty() {
            add("no_answer", &shown.failure);
        }
        line
    }
}
