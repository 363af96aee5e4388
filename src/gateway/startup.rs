//! From nothing to ready, in a thread of its own: whatever blocks here, the main loop goes on
//! judging signals.

use std::env;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Plan;
use super::accept::Listeners;
use super::sockets::{CONTROL, Earlier, HTTP, bind};
use super::{handover, replace};
use crate::agent::Agent;
use crate::api::{Facts, Keyring, Service};
use crate::channel::Channels;
use crate::config::{self, Config, Loaded, Secret};
use crate::escape::{counted, escaped};
use crate::exit::{Exit, Failed, Failure};
use crate::journal::{self, Corruption, FileJournal, Journal, MemoryJournal, WriteError};
use crate::lifecycle::evidence::Supervisor;
use crate::lifecycle::history::{self, Begun, Run};
use crate::lifecycle::instance_lock::InstanceLock;
use crate::limits::{MAX_KEY_FILE, QUERY_DEADLINE, THREAD_STACK, WANTED_DESCRIPTORS};
use crate::session::{Hub, MessageTable, RunBefore, Settings, SystemClocks, Transcripts};
use crate::sys::{fd::EventFd, fs as files, proc, random, socket};
use crate::threads::{Slot, lock, spawn};
use crate::{digest, logger, permissions, sys, systemd};

/// Connections that may wait for their accept: as many as come in a burst, and the kernel's own bound
/// (net.core.somaxconn) since Linux 5.4.
const BACKLOG: i32 = 4096;

/// Bytes of chance in a key that we make.
const KEY_BYTES: usize = 32;

/// How long a start waits for what the files of agents' programs tell, which is only warned of: they
/// may be on a disk that hangs.
const PROGRAM_TIMEOUT: Duration = Duration::from_millis(500);

/// A gateway that can serve.
pub struct Started {
    pub service: Arc<Service>,
    pub listeners: Listeners,
    /// Held until the process ends.
    pub instance: InstanceLock,
}

/// Starts everything that has to be there before READY=1.
///
/// # Errors
/// `Config` for a wrong configuration or key, `Unavailable` when another gateway or program is in
/// the way, `Failed` for what the system refuses.
pub fn start(
    plan: &Plan,
    supervisor: &Supervisor,
    wake: &Arc<EventFd>,
    begun: &Begun,
) -> Result<Started, Failure> {
    let failed = |run: Option<&Run>, failure: &Failure| {
        let Failed { exit, message } = &*failure.0;
        if let Err(e) = history::record_failed_start(&plan.dirs, run, *exit, message) {
            log::warn!("the history could not be written: {e}");
        }
    };
    let held = lock(&plan.inherited).take_locks();
    let instance = InstanceLock::take(&plan.name, &plan.dirs, held).inspect_err(|failure| {
        if failure.0.exit != Exit::Unavailable && files::private_dir(&plan.dirs.state).is_ok() {
            failed(None, failure);
        }
    })?;
    let run = Arc::new(Run::new(handover::generation(&plan.inherited)));
    if begun.set(Some(Arc::clone(&run))).is_err() {
        return Err(Failure::failed("a stop came before the start was complete"));
    }
    run.begin(&plan.dirs);
    let opened = open(plan, supervisor, wake, &run).inspect_err(|e| failed(Some(&run), e));
    let (service, listeners) = opened?;
    Ok(Started { service, listeners, instance })
}

/// All that the start does while it holds the lock.
// Out of line: a frame of its own is smaller code.
#[inline(never)]
fn open(
    plan: &Plan,
    supervisor: &Supervisor,
    wake: &Arc<EventFd>,
    run: &Run,
) -> Result<(Arc<Service>, Listeners), Failure> {
    let loaded = load(plan)?;
    let config = &loaded.config;
    let log_name = plan.name.unit().trim_end_matches(".service").to_owned();
    logger::set(config.log.level, config.log.target, &log_name);
    let keys = keys(plan, config.http.key_file.as_deref(), &loaded)?;

    if let Err(e) = sys::fd::raise_limit(WANTED_DESCRIPTORS) {
        log::warn!("the limit on open descriptors cannot be raised: {e}");
    }
    if plan.ephemeral && plan.dirs.state == plan.dirs.runtime {
        let place = plan.dirs.state.display();
        log::warn!("the state directory cannot be written: key and history are in {place} instead");
    }
    // From now on what agents leave is ours. The gateway is known by its state directory, whose lock it
    // holds: no other that runs on this machine has the same, and its next run has.
    let state = fs::metadata(&plan.dirs.state);
    let mark = state.map(|state| format!("{}-{:x}-{:x}", plan.name, state.dev(), state.ino()));
    mark.and_then(|mark| plan.children.begin_run(plan.name.as_str(), &mark))
        .map_err(|e| Failure::cannot("prepare for agents", &e))?;
    let wanted = config.http.listen;
    let (earlier, sockets) = {
        let mut inherited = lock(&plan.inherited);
        let (tcp, control) =
            (inherited.take_descriptor::<TcpListener>(HTTP), inherited.take_descriptor(CONTROL));
        let same = inherited.listen.as_ref().is_none_or(|it| *it == wanted.to_string())
            || tcp.as_ref().is_some_and(|tcp| tcp.local_addr().is_ok_and(|it| it == wanted));
        let earlier =
            Earlier { tcp, same, foreign: inherited.foreign, kept: inherited.kept, control };
        (earlier, inherited.sockets.take().unwrap_or(Ok(Vec::new())))
    };
    let listen = || listen(wanted, &loaded);
    let bound = bind(sockets, earlier, wanted, &plan.dirs.control_socket(), listen)?;
    let listen = bound.tcp.local_addr().unwrap_or(wanted);
    let unit = supervisor.own.get().map(|own| own.unit.clone().into());
    let facts = Facts {
        name: plan.name.to_string(),
        listen: listen.to_string(),
        unit: unit.unwrap_or_default(),
        since: run.started.clone(),
        began: Instant::now(),
    };
    let hub = hub(plan, config.clone(), Arc::clone(wake))?;
    if let Err(WriteError::Broken(why)) = hub.write_clock() {
        let dir = plan.dirs.state.display();
        return Err(Failure::failed(format!(
            "the journal in {dir} cannot be written: {why}; the next start reads it anew"
        )));
    }
    let _ = hub.gateway.set(plan.name.to_string());
    if !plan.ephemeral {
        hub.restart_record.open(plan.dirs.state.clone());
    }
    let service = Service::new(facts, keys, hub, Arc::clone(wake));
    *lock(&service.warnings) = warnings(&loaded);
    let listeners = Listeners::new(bound).map_err(|e| Failure::cannot("start a thread", &e))?;
    Ok((Arc::new(service), listeners))
}

/// What the journal has, in a hub that begins nothing before it is opened. The lock is held.
pub fn hub(plan: &Plan, config: Config, wake: Arc<EventFd>) -> Result<Arc<Hub>, Failure> {
    let held = open_journal(plan, &config)?;
    // An ephemeral run that was killed has left its own.
    let _ = fs::remove_dir_all(plan.dirs.ephemeral());
    hub_of(held, plan, config, wake)
}

/// A hub of what was read back.
pub fn hub_of(
    (journal, table): (Box<dyn Journal>, MessageTable),
    plan: &Plan,
    config: Config,
    wake: Arc<EventFd>,
) -> Result<Arc<Hub>, Failure> {
    let ephemeral = plan.ephemeral.then(|| plan.dirs.ephemeral().join("sessions"));
    let transcripts = Transcripts::new(ephemeral.unwrap_or_else(|| plan.dirs.sessions()));
    let shared = (Arc::clone(&plan.children), wake);
    Hub::new(journal, table, transcripts, settings(plan, config), shared, Box::new(SystemClocks))
        .map_err(|e| Failure::cannot("make an event counter", &e))
}

/// Opens the journal and reads it back.
fn open_journal(plan: &Plan, config: &Config) -> Result<(Box<dyn Journal>, MessageTable), Failure> {
    let (cap, mut table) = (config.limits.max_journal as u64, MessageTable::default());
    if plan.ephemeral {
        return Ok((Box::new(MemoryJournal::new(cap)), table));
    }
    let dir = &plan.dirs.state;
    refuse_without_saved(dir)?;
    let began = Instant::now();
    let mut apply = |number, record: &_, length| table.apply(number, record, length);
    let (journal, changed) = FileJournal::open_records(dir, cap, &mut apply)?;
    changed.iter().for_each(|words| log::warn!("{words}"));
    let counts = table.counts;
    if counts.kept > 0 {
        let (queued, took) = (counts.queued + counts.running, began.elapsed().as_millis());
        log::info!(
            "the journal has {}, {queued} of them to run, replies to deliver: {} (read in {took} ms)",
            counted(&counts.kept, "message"),
            counts.outbox
        );
    }
    Ok((Box::new(journal), table))
}

impl From<Corruption> for Failure {
    /// A corrupt file needs an operator and no other start, and so does one of a newer gateway.
    fn from(found: Corruption) -> Failure {
        let (exit, advice) = match found.place {
            Some(_) => (
                Exit::Config,
                ". Nothing was changed. `journal repair` keeps the records before that byte, drops \
                 all behind it, and leaves the old file beside the journal",
            ),
            None if found.newer => (Exit::Config, ": use the gateway that wrote it or a newer one"),
            None => (Exit::Failed, ""),
        };
        Failure::new(exit, format!("{found}{advice}"))
    }
}

/// What a run saved of a journal that was removed under it was acknowledged: no start goes on without
/// the operator's word.
pub fn refuse_without_saved(dir: &Path) -> Result<(), Failure> {
    let saved = journal::saved(dir).map_err(|e| Failure::with("read", dir, &e))?;
    let Some(copy) = saved.last() else { return Ok(()) };
    let (copy, journal) = (copy.display(), dir.join(journal::NAME));
    let journal = journal.display();
    let words = format!(
        "{journal} was removed or replaced under a running gateway, which saved what it had accepted \
         as {copy}. To go on with that, `mv {copy} {journal}`; to go on without it, move it to \
         another directory"
    );
    Err(Failure::new(Exit::Config, words))
}

/// What can wait until READY=1 was said: makes the run's entry durable and looks back at how the
/// one before it ended.
pub fn after_ready(plan: &Plan, started: &Service, run: &Run, supervisor: &Supervisor) {
    let own = supervisor.locate(Instant::now() + QUERY_DEADLINE);
    let _ = own.map(|own| started.facts.unit.set(own.unit.clone()));
    let delegated = own.and_then(|own| systemd::delegated_cgroup(own, &plan.children));
    plan.children.end_earlier_runs(delegated.as_deref());
    replace::remove_leftovers(&plan.dirs.runtime);
    let followed = history::followed(&plan.dirs, run);
    let stop = followed.as_ref();
    // The main thread wants it, too, and what follows may wait for a disk that hangs.
    let failed = lock(&plan.inherited).restart["failed"].as_str().map(str::to_owned);
    started.hub.tell_of_run_before(RunBefore {
        version: stop.and_then(|stop| stop["version"].as_str()).map(str::to_owned),
        how: stop.map_or_else(|| "nobody knows how".to_owned(), history::in_words),
        away: stop.and_then(|it| it["next"]["away_ms"].as_u64()).map(Duration::from_millis),
        failed,
    });
    started.hub.open();
    let dir = if plan.ephemeral { plan.dirs.ephemeral() } else { plan.dirs.state.clone() };
    let channels = Channels::new(&started.hub, &plan.children, dir.join("channels"));
    started.channels.get_or_init(|| Arc::new(channels)).follow();
    if let Some(line) = run.silent.get() {
        let text = |key: &str| escaped(line[key].as_str().unwrap_or("?"), false);
        let (started, reason) = (text("started"), text("reason"));
        log::warn!("the run before this one (started {started}) had an unclean exit: {reason}");
    }
    if let Err(e) = run.make_durable(&plan.dirs) {
        log::warn!("the history in {} cannot be kept: {e}", plan.dirs.state.display());
    }
    let entered = followed.map_or(Ok(()), |stop| history::append(&plan.dirs, &stop, true));
    entered.unwrap_or_else(|e| log::warn!("the history could not be written: {e}"));
    if let Ok(mut stops) = history::stops(&plan.dirs) {
        *lock(&started.last_stop) = stops.pop().unwrap_or_default();
    }
}

/// Loads the configuration with the secrets that it names, and checks all that a start would refuse it
/// for; changes nothing.
pub fn check(plan: &Plan) -> Result<Loaded, Failure> {
    let loaded = load(plan)?;
    let named = loaded.config.http.key_file.as_deref();
    // The gateway's own key is made at its first start.
    if named.is_some() || plan.dirs.key().symlink_metadata().is_ok() {
        keys(plan, named, &loaded)?;
    }
    Ok(loaded)
}

/// The same without the gateway's own key.
fn load(plan: &Plan) -> Result<Loaded, Failure> {
    let mut sources = plan.sources.clone();
    sources.demanded |= plan.had_file.load(Ordering::SeqCst) || (plan.demanded)();
    let loaded = config::load(&sources).and_then(Loaded::with_secrets)?;
    plan.had_file.fetch_or(loaded.from_file, Ordering::SeqCst);
    Ok(loaded)
}

/// What the configuration is warned of, said in the log. A disk that hangs is not waited for long.
pub fn warnings(loaded: &Loaded) -> Vec<String> {
    let found = Arc::<Slot<_>>::default();
    let (copy, path) = (loaded.clone(), env::var_os("PATH").unwrap_or_default());
    let answer = found.clone();
    let look = Box::new(move || answer.send(copy.warnings(&path, &path)));
    if loaded.config.agent.is_echo() && loaded.config.deliver.is_empty() {
        look();
    } else if let Err(e) = spawn("warnings", THREAD_STACK, look) {
        found.send(vec![format!("the configured programs cannot be looked at: {e}")]);
    }
    let unknown = || vec!["the disk with the configured programs does not answer".to_owned()];
    let found = found.wait(PROGRAM_TIMEOUT).unwrap_or_else(unknown);
    found.iter().for_each(|warning| log::warn!("{warning}"));
    found
}

/// A configuration, as far as there are descriptors for it, with what is made from it.
pub fn settings(plan: &Plan, mut config: Config) -> Settings {
    let (connections, turns) = (config.limits.max_connections, config.limits.max_turns);
    config.limits = config.limits.within(sys::fd::max_open());
    if let Some(words) = config.limits.shortage() {
        log::warn!(
            "limits.max_connections is {connections} and limits.max_turns {turns}, but {words}"
        );
    }
    let limits = (config.limits.max_agent_line, config.limits.max_reply);
    let (children, data) = (Arc::clone(&plan.children), &plan.dirs.data);
    let agent = Agent::new(config.agent.clone(), children, data, limits);
    Settings { config, agent }
}

/// Reads the gateway's own key, or makes it at the first start, and puts the clients' beside it. A
/// file that was `named` must exist.
pub fn keys(plan: &Plan, named: Option<&Path>, loaded: &Loaded) -> Result<Keyring, Failure> {
    let (path, configured) = (named.map_or(plan.dirs.key(), PathBuf::from), named.is_some());
    let path = path.as_path();
    let wrong = |e: io::Error| {
        let fix = if configured { config::fix(&e, path) } else { String::new() };
        let words = format!("the key file {} cannot be used: {e}{fix}", path.display());
        Failure::new(if files::is_temporary(&e) { Exit::Unavailable } else { Exit::Config }, words)
    };
    let read = || match configured {
        true => permissions::read_secret(path, MAX_KEY_FILE),
        false => files::read_own_secret(path, MAX_KEY_FILE),
    };
    let text = match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !configured => {
            make_key(path).map_err(wrong)?;
            log::info!("a new API key was made: {}", path.display());
            read()
        }
        found => found,
    };
    let text = text.map_err(wrong)?;
    let remedy = if configured { "" } else { "; remove the file and a new key is made" };
    let owner =
        Secret::client(&text).map_err(|why| wrong(io::Error::other(format!("{why}{remedy}"))))?;
    Keyring::new(&owner, &loaded.config).map_err(|name| {
        let place = loaded.place(&format!("keys.{name}.file")).unwrap_or_default();
        let fault = format!("keys.{name} has the gateway's own key ({})", path.display());
        Failure::new(Exit::Config, format!("the configuration is wrong\n{place}: {fault}"))
    })
}

fn make_key(path: &Path) -> io::Result<()> {
    let mut bytes = [0; KEY_BYTES];
    random::fill(&mut bytes)?;
    // An existing file wins: two first starts must not hand out two keys.
    files::create(path, format!("{}\n", digest::hex(&bytes)).as_bytes(), 0o600).map(drop)
}

/// # Errors
/// `Unavailable`, naming whoever is there, else `Failed`.
pub fn listen(address: SocketAddr, loaded: &Loaded) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        socket::set_backlog(listener.as_fd(), BACKLOG)?;
        Ok(listener)
    });
    bound.map_err(|e| cannot_listen(address, loaded, &e))
}

pub fn cannot_listen(address: SocketAddr, loaded: &Loaded, e: &io::Error) -> Failure {
    let place = loaded.place("http.listen").map(|place| format!("it was set by {place}"));
    let place = place.unwrap_or_else(|| "it is the default".to_owned());
    let words = match e.kind() {
        io::ErrorKind::AddrInUse => {
            let name = |pid| escaped(&proc::name(pid).unwrap_or_default(), false);
            let holder = proc::listener(address).map(|pid| format!("pid {pid} ({})", name(pid)));
            let holder = holder.as_deref().unwrap_or("another program");
            format!("{address} is taken by {holder}; choose another http.listen ({place})")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{address} is not an address of this machine; see http.listen ({place})")
        }
        _ => return Failure::failed(format!("cannot listen on {address} ({place}): {e}")),
    };
    Failure::new(Exit::Unavailable, words)
}
