//! What offers are taken with.

use std::sync::Arc;

use crate::channel::files::FilesDir;
use crate::channel::shared::Shared;
use crate::config::Channel;
use crate::session::{Hub, Owner, Place, Settings, digest_of, now};

#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub hub: &'a Arc<Hub>,
    pub settings: &'a Settings,
    pub channel: &'a Channel,
    pub shared: &'a Shared,
    pub files: &'a FilesDir,
}

impl Context<'_> {
    /// Has the gateway itself say something.
    pub fn say(&self, who: Owner, place: Place, what: &str, text: String) {
        let Place { conversation, thread } = &place;
        let thread = thread.as_deref().unwrap_or_default();
        let at = now().to_be_bytes();
        let about = [&self.channel.name, conversation, thread, what].map(str::as_bytes);
        let about = digest_of(&[&about[..], &[b"say", &at]].concat());
        self.hub.say(&self.channel.name, (who, place), about, text);
    }
}
