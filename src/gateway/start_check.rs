//! `run --check`: a whole start that takes nothing and changes nothing, beside a gateway that runs. By it
//! a program proves that it could take that one's place ([`super::proof`]).

use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::Plan;
use super::startup::{cannot_listen, check, hub_of, refuse_without_saved, warnings};
use crate::config::{Limits, Loaded, LogTarget};
use crate::exit::{Exit, Failure};
use crate::http::{Connection, Method, Response};
use crate::journal::{self, MemoryJournal};
use crate::lifecycle::instance_lock::check_directories;
use crate::limits::{CONNECTION_STACK, WANTED_DESCRIPTORS};
use crate::logger;
use crate::session::MessageTable;
use crate::sys::fd::{EventFd, STDIN, STDOUT, raise_limit, write_all};
use crate::sys::fs::{if_exists, may_write};
use crate::sys::poll::{Interest, wait_any};
use crate::threads::spawn;

/// What a gateway hands to the program that it executes in its place, by number: 1 is the first kind. A
/// program takes its own and all before it.
pub const HANDOVER: u64 = 1;

/// Connections that a check serves at once: one asks, and strangers must not cost it more than this.
const MAX_CONNECTIONS: usize = 16;

/// Goes through a start and says in a line of JSON that it could serve. `hold`: serves `/health` on a port of
/// its own until its stdin ends.
///
/// # Errors
/// Those of a start.
pub fn check_start(plan: &Plan, hold: bool) -> Result<Exit, Failure> {
    let began = Instant::now();
    logger::set(log::LevelFilter::Warn, LogTarget::Stderr, "hermes-gateway");
    check_directories(&plan.dirs)?;
    let loaded = check(plan)?;
    let limits = loaded.config.limits.clone();
    if let Err(e) = raise_limit(WANTED_DESCRIPTORS) {
        log::warn!("the limit on open descriptors cannot be raised: {e}");
    }
    let listener = bind(&loaded)?;
    let table = read_journal(plan)?;
    // Nothing is written to it: the hub is never opened.
    let journal = Box::new(MemoryJournal::new(limits.max_journal as u64));
    let wake = EventFd::new().map_err(|e| Failure::cannot("make an event counter", &e))?;
    let _hub = hub_of((journal, table), plan, loaded.config.clone(), Arc::new(wake))?;
    warnings(&loaded);
    let failed = |e: io::Error| Failure::cannot("say that it is ready", &e);
    let (version, took) = (env!("CARGO_PKG_VERSION"), began.elapsed().as_millis());
    let listen = listener.local_addr().map_err(failed)?;
    let line = format!(
        "{{\"ready\":true,\"version\":\"{version}\",\"listen\":\"{listen}\",\"handover\":{HANDOVER},\
         \"took_ms\":{took}}}\n"
    );
    write_all(STDOUT, line.as_bytes()).map_err(failed)?;
    if hold {
        serve(&listener, &limits).map_err(|e| Failure::cannot("serve", &e))?;
    }
    Ok(Exit::Planned)
}

/// Listens on the configured address, at a port that the kernel chooses.
fn bind(loaded: &Loaded) -> Result<TcpListener, Failure> {
    let configured = loaded.config.http.listen;
    let mut address = configured;
    address.set_port(0);
    TcpListener::bind(address).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            let words = format!("no port of {} is free: {e}", address.ip());
            Failure::new(Exit::Unavailable, words)
        }
        _ => cannot_listen(configured, loaded, &e),
    })
}

/// What the journal holds, as a start would read it. A gateway may be writing it.
fn read_journal(plan: &Plan) -> Result<MessageTable, Failure> {
    let mut table = MessageTable::default();
    if plan.ephemeral {
        return Ok(table);
    }
    let unmade = plan.dirs.state.symlink_metadata();
    if unmade.is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Ok(table);
    }
    refuse_without_saved(&plan.dirs.state)?;
    let path = plan.dirs.state.join(journal::NAME);
    let unusable = |e: io::Error| Failure::from(journal::Corruption::io(&path, &e));
    // A first start makes it.
    if if_exists(path.symlink_metadata()).map_err(unusable)?.is_some() {
        may_write(&path).map_err(unusable)?;
        let mut apply = |number, record: &_, length| table.apply(number, record, length);
        journal::inspect_records(&path, &mut apply)?;
    }
    Ok(table)
}

/// Answers `/health`, and nothing else, until stdin ends.
fn serve(listener: &TcpListener, limits: &Limits) -> io::Result<()> {
    let mut stdin = File::from(STDIN.try_clone_to_owned()?);
    let open = Arc::<AtomicUsize>::default();
    listener.set_nonblocking(true)?;
    loop {
        let interests = [Interest::read(stdin.as_fd()), Interest::read(listener.as_fd())];
        let [input, connection] = wait_any(interests, None)?;
        if input {
            match stdin.read(&mut [0; 4096]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        let Some((stream, _)) = connection.then(|| listener.accept().ok()).flatten() else {
            continue;
        };
        if open.fetch_add(1, Ordering::SeqCst) < MAX_CONNECTIONS {
            let (limits, open) = (limits.clone(), Arc::clone(&open));
            let work = move || {
                answer(stream, limits);
                open.fetch_sub(1, Ordering::SeqCst);
            };
            spawn("connection", CONNECTION_STACK, Box::new(work))?;
        } else {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Answers one request.
fn answer(stream: TcpStream, limits: Limits) {
    let connection = Connection::new(Box::new(Arc::new(stream)), limits, Arc::default());
    let Ok(mut connection) = connection else { return };
    let Ok(Some(request)) = connection.next_request() else { return };
    let response = match (request.method, &*request.path) {
        (Method::Get | Method::Head, "/health") => {
            let version = env!("CARGO_PKG_VERSION");
            let body = format!("{{\"status\":\"ok\",\"version\":\"{version}\"}}");
            Response::new(200, "application/json", body.into_bytes())
        }
        _ => Response::text(503, "This is a check of a start: it serves /health alone."),
    };
    let _ = connection.respond(&request, response.close());
}
