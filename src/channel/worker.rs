//! What the thread of a channel has, whatever becomes of its adapters.

use std::path::PathBuf;
use std::sync::Arc;

use super::inbound::Inbound;
use super::outbound::Outbound;
use super::shared::Shared;
use crate::config::Channel;
use crate::session::{Hub, Settings};
use crate::subprocess::{Children, Deaths};

pub(super) struct Worker {
    pub hub: Arc<Hub>,
    pub children: Arc<Children>,
    pub shared: Arc<Shared>,
    /// What is the channel's own on the disk.
    pub dir: PathBuf,
    pub settings: Arc<Settings>,
    pub channel: Channel,
    pub inbound: Inbound,
    pub outbound: Outbound,
    /// Of its adapters, since a good one.
    pub deaths: Deaths,
    /// Its adapter is not started again before somebody asks for that.
    pub given_up: bool,
}

impl Worker {
    pub fn new(
        hub: Arc<Hub>,
        children: Arc<Children>,
        shared: Arc<Shared>,
        dir: PathBuf,
    ) -> Worker {
        let settings = hub.settings();
        let channel = settings.config.channel.get(&shared.name).cloned().unwrap_or_default();
        let outbound = Outbound::new(&channel);
        let (inbound, deaths, given_up) = (Inbound::default(), Deaths::default(), false);
        Worker {
            hub,
            children,
            shared,
            dir,
            settings,
            channel,
            inbound,
            outbound,
            deaths,
            given_up,
        }
    }

    /// Takes a configuration that was read again. Whether its adapter has to be another one.
    pub fn follow(&mut self) -> bool {
        let asked = std::mem::take(&mut self.shared.lock().restart);
        if asked {
            (self.given_up, self.deaths) = (false, Deaths::default());
        }
        let settings = self.hub.settings();
        if Arc::ptr_eq(&settings, &self.settings) {
            return asked;
        }
        self.settings = settings;
        let Some(new) = self.settings.config.channel.get(&self.shared.name) else { return asked };
        let old = std::mem::replace(&mut self.channel, new.clone());
        // It was taken out and put back before its thread had ended.
        if !self.hub.is_channel_attached(&self.shared.name) {
            self.hub.attach_channel(&self.shared.name, &self.shared.wake);
        }
        self.outbound.configure(&self.channel);
        let of = |it: &Channel| (it.adapter(), it.env.clone(), it.pass_env.clone(), it.leftovers);
        let changed = of(&old) != of(&self.channel);
        if changed {
            (self.given_up, self.deaths) = (false, Deaths::default());
        }
        asked || changed
    }
}
