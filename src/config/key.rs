//! `[keys.NAME]`: a client's key, and what it opens.

use super::error::{Problems, place, quoted};
use super::load::Loaded;
use super::schema::{Field, Key, section};
use super::target::Secret;
use super::value::Diagnostics;
use super::{Config, did_you_mean, validate};
use std::path::PathBuf;

section! {CLIENT_KEY: |c, own| c.keys.get_mut(own)?;
    /// A key of its own for the principal of this name.
    pub struct ClientKey {
        /// Absolute; always there once the configuration has been loaded.
        file: Option<PathBuf> = None, Path, "\"~/.config/hermes-gateway/alice.key\"",
            "The key, on one line of a file that is yours alone to read.";
        role: Role = Role::default(), Choice, "\"user\"",
            "\"user\", or \"operator\", who also sees status, compacts, and steers by commands.";
        /// Sessions that it may touch, `*` at the end for all that begin so. Empty: any of its own.
        sessions: Vec<String> = Vec::new(), List(validate::argument), "[\"support-*\"]",
            "Sessions that it may touch, * at the end for all that begin so; empty: any.";
        /// Routes that it may use, by their groups. Empty: all of its role.
        routes: Vec<String> = Vec::new(), List(validate::route), "[\"chat\"]",
            "What it opens: chat, messages, and for operators status, journal; empty: all of these.";
        /// Delivery targets that it may name. Empty: none for a user, any for an operator.
        targets: Vec<String> = Vec::new(), List(validate::argument), "[\"example\"]",
            "Delivery targets that it may name; empty: none for a user, any for an operator.";
    }
    beside {
        name: String,
        /// What the file holds, once [`super::Loaded::with_secrets`] has read it.
        key: Option<Secret>,
    }
}

/// What a principal is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Has turns and messages of its own.
    #[default]
    User,
    /// Sees and steers the gateway as well.
    Operator,
}

/// The groups of routes: the first ones are for everybody, the others for operators.
pub const USER_ROUTES: [&str; 2] = ["chat", "messages"];
pub const OPERATOR_ROUTES: [&str; 2] = ["status", "journal"];

/// The principal of the gateway's own key and of the control socket.
pub const OWNER: &str = "owner";

impl ClientKey {
    pub fn new(name: &str) -> ClientKey {
        ClientKey { name: name.to_owned(), ..ClientKey::default() }
    }

    /// What the gateway's own key opens: everything.
    pub fn owner(key: Secret) -> ClientKey {
        ClientKey { key: Some(key), role: Role::Operator, ..ClientKey::new(OWNER) }
    }

    /// Whether it opens this group of routes.
    pub fn opens(&self, group: &str) -> bool {
        let of_role = self.role == Role::Operator || USER_ROUTES.contains(&group);
        of_role && (self.routes.is_empty() || self.routes.iter().any(|route| route == group))
    }

    /// Whether it may touch a session of this key.
    pub fn may_touch(&self, session: &str) -> bool {
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => session.starts_with(prefix),
            None => session == pattern,
        };
        self.sessions.is_empty() || self.sessions.iter().any(covers)
    }

    /// Whether it may have replies sent to the delivery target of this name.
    pub fn may_name(&self, target: &str) -> bool {
        let any = self.targets.is_empty() && self.role == Role::Operator;
        any || self.targets.iter().any(|known| known == target)
    }
}

/// The checks between the keys of a section, each of which has passed its own.
fn settle(key: &ClientKey, notes: &mut Diagnostics) {
    let name = format!("keys.{}", key.name);
    if key.file.is_none() {
        let fault = format!(
            "has no file; make one, `openssl rand -hex 32 > FILE; chmod 600 FILE`, and name \
             it: file = \"~/.config/hermes-gateway/{}.key\"",
            key.name
        );
        notes.fault(&name, &fault);
    }
    let beyond = key.routes.iter().find(|route| OPERATOR_ROUTES.contains(&route.as_str()));
    if let Some(route) = beyond.filter(|_| key.role == Role::User) {
        let way = "take it away, or write role = \"operator\"";
        let fault = format!("has \"{route}\", which is for operators; {way}");
        notes.fault(&format!("{name}.routes"), &fault);
    }
}

/// The same for all sections. Operators must exist: a misspelt name would take somebody's commands away
/// without a word. So must the targets that keys name.
pub fn settle_all(config: &Config, notes: &mut Diagnostics) {
    let keys: Vec<&str> = [OWNER].into_iter().chain(config.keys.names()).collect();
    let (at, why) = ("session.operators", "of whom there is no [keys.NAME]");
    check(&config.session.operators, at, why, &keys, notes);
    for (name, key) in config.keys.iter() {
        settle(key, notes);
        let (at, why) = (format!("keys.{name}.targets"), "for which there is no [deliver.NAME]");
        check(&key.targets, &at, why, &config.deliver.names(), notes);
    }
}

/// Notes each name of a list of which there is no section.
fn check(names: &[String], at: &str, why: &str, known: &[&str], notes: &mut Diagnostics) {
    for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
        let hint = did_you_mean::nearest(name, known.iter().copied());
        let hint = hint.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        notes.fault(at, &format!("has {}, {why}{hint}", quoted(name)));
    }
}

/// Two principals must not share a key: which of them came would be a guess.
pub fn check_twins(loaded: &Loaded, problems: &mut Problems, file: &str) {
    let of = |key: &ClientKey| loaded.origin(&format!("keys.{}.file", key.name)).clone();
    let keys: Vec<&ClientKey> = loaded.config.keys.values().collect();
    for (at, key) in keys.iter().enumerate() {
        let twin = keys[..at].iter().find(|other| other.key.is_some() && other.key == key.key);
        if let Some(twin) = twin {
            let (own, other) = (&key.name, &twin.name);
            let place = place(&of(twin), file);
            problems
                .push(of(key), format!("keys.{own} has the same key as keys.{other} ({place})"));
        }
    }
}
