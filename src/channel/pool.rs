//! The channels that are configured, each with a thread.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::shared::{STOPPED, Shared};
use super::status::{ChannelStatus, Control, Paired};
use super::thread;
use crate::journal::record::Fact;
use crate::session::{Hub, Refusal};
use crate::subprocess::Children;
use crate::sys::gather::Gather;
use crate::threads::lock;

/// All channels of the gateway.
pub struct Channels {
    hub: Arc<Hub>,
    children: Arc<Children>,
    /// Where each has a directory of its own.
    dir: PathBuf,
    all: Mutex<Vec<Arc<Shared>>>,
}

impl Channels {
    /// None of them runs before [`Control::follow`]. `dir`: where each gets a directory of its own.
    pub fn new(hub: &Arc<Hub>, children: &Arc<Children>, dir: PathBuf) -> Channels {
        let (hub, children) = (Arc::clone(hub), Arc::clone(children));
        Channels { hub, children, dir, all: Mutex::default() }
    }

    /// Reads who was let in.
    fn read_paired(&self, shared: &Shared) {
        let paired = self.hub.facts_of(&shared.name, Fact::Paired);
        shared.lock().status.paired = paired;
    }

    /// Starts a thread where none runs.
    fn start(&self, shared: &Arc<Shared>) -> io::Result<()> {
        if std::mem::replace(&mut shared.lock().runs, true) {
            return Ok(());
        }
        self.read_paired(shared);
        let dir = self.dir.join(&shared.name);
        thread::start(&self.hub, &self.children, shared, dir).inspect_err(|e| {
            shared.lock().runs = false;
            shared.set(STOPPED, &e.to_string());
        })
    }

    /// Those that are configured.
    fn listed(&self) -> Vec<Arc<Shared>> {
        let mut all = lock(&self.all).clone();
        all.retain(|shared| !shared.lock().stop);
        all
    }

    fn find(&self, name: &str) -> Option<Arc<Shared>> {
        self.listed().into_iter().find(|shared| shared.name == name)
    }
}

impl Control for Channels {
    fn follow(&self) {
        let settings = self.hub.settings();
        let mut all = lock(&self.all);
        for shared in &*all {
            let mut state = shared.lock();
            state.stop = settings.config.channel.get(&shared.name).is_none();
            // One that was given up is tried again.
            state.restart |= state.status.state == STOPPED;
            drop(state);
            shared.wake.notify();
        }
        all.retain(|shared| {
            let state = shared.lock();
            state.runs || !state.stop
        });
        let configured = settings.config.channel.names().into_iter().map(|name| {
            let known = all.iter().find(|shared| shared.name == *name);
            let known = known.map_or_else(|| Shared::new(name), |shared| Ok(Arc::clone(shared)));
            if let Ok(shared) = &known {
                all.retain(|other| other.name != *name);
                all.push(Arc::clone(shared));
            }
            (name, known)
        });
        let configured = configured.gather();
        // To start one takes the hub's lock.
        drop(all);
        for (name, known) in configured {
            let started = known.and_then(|shared| self.start(&shared));
            started.unwrap_or_else(|e| {
                log::error!(
                    "channel {name} cannot be started: {e}; `hermes-gateway reload` tries again"
                );
            });
        }
    }

    fn trouble(&self) -> Option<String> {
        self.listed().iter().find_map(|shared| shared.trouble())
    }

    fn status(&self) -> Vec<ChannelStatus> {
        let all = self.listed();
        let status = |shared: &Arc<Shared>| {
            let mut state = shared.lock();
            state.status.pairing_codes = state.pairing.pending(Instant::now());
            state.status.clone()
        };
        let mut all = all.iter().map(status).gather();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn pair(&self, code: &str) -> Result<Option<Paired>, Refusal> {
        let now = Instant::now();
        let all = self.listed();
        let confirm = |it: &Arc<Shared>| Some((it.clone(), it.lock().pairing.confirm(code, now)?));
        let Some((shared, person)) = all.iter().find_map(confirm) else { return Ok(None) };
        let (channel, id, name) = (shared.name.clone(), person.id, person.name);
        // An empty name would say that it does not hold.
        let kept = if name.is_empty() { &id } else { &name };
        let number = self.hub.keep_fact(&channel, Fact::Paired, &id, kept)?;
        self.hub.sync(number)?;
        self.read_paired(&shared);
        Ok(Some(Paired { channel, id, name }))
    }

    fn unpair(&self, channel: &str, id: &str) -> Result<bool, Refusal> {
        let known = self.hub.facts_of(channel, Fact::Paired);
        let known = known.iter().any(|(paired, _)| paired == id);
        if known {
            let number = self.hub.keep_fact(channel, Fact::Paired, id, "")?;
            self.hub.sync(number)?;
            self.find(channel).iter().for_each(|shared| self.read_paired(shared));
        }
        Ok(known)
    }

    fn restart(&self, channel: &str) -> bool {
        let Some(shared) = self.find(channel) else { return false };
        shared.lock().restart = true;
        shared.wake.notify();
        let _ = self.start(&shared);
        true
    }
}
