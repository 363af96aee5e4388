//! The sections that operators name themselves: targets, channels and clients' keys.

use super::{Field, Key, NamedTable, Section, plain};
use crate::config::enum_setting::{Role, SessionOf, Uncertain, Unknown};
use crate::config::secret::Secret;
use crate::config::url::Url;
use crate::config::validate;
use crate::limits;
use crate::named::ByName;
use crate::subprocess::Leftovers;
use std::path::PathBuf;
use std::time::Duration;

const TARGETS: NamedTable = NamedTable {
    noun: "target",
    most: limits::MAX_TARGETS,
    names: |config| config.deliver.names(),
    add: |config, name| config.deliver.insert(name.to_owned(), Target::new(name)),
};

const CHANNELS: NamedTable = NamedTable {
    noun: "channel",
    most: limits::MAX_CHANNELS,
    names: |config| config.channel.names(),
    add: |config, name| config.channel.insert(name.to_owned(), Channel::new(name)),
};

const CLIENT_KEYS: NamedTable = NamedTable {
    noun: "key",
    most: limits::MAX_CLIENT_KEYS,
    names: |config| config.keys.names(),
    add: |config, name| config.keys.insert(name.to_owned(), ClientKey::new(name)),
};

section! {
    TARGET = "deliver" of TARGETS: |c, own| c.deliver.get_mut(own)?;
    /// `[deliver.NAME]`: a place where replies can be sent.
    pub struct Target {
        /// There if `command` is empty, and only then.
        url: Option<Url>, Url(Url::parse), "\"https://example.org/hook\"";
        /// Absolute. `None`: callbacks are not signed.
        secret_file: Option<PathBuf>, Path, "\"~/.config/hook.secret\"";
        /// Without NUL, as with an agent.
        command: Vec<String>, List(validate::argument), "[\"my-notifier\", \"--flag\"]";
        env: ByName<String>, Env, "{ ROOM = \"ops\" }";
        pass_env: Vec<String>, List(validate::variable), "[\"LANG\", \"TZ\"]";
        leftovers: Leftovers, Enum, "\"kill\"";
        /// For one attempt.
        timeout: Duration => limits::DELIVERY_TIMEOUT, Time, "\"30s\"";
        /// The age at which an undelivered reply becomes a dead letter.
        expire: Duration => limits::DELIVERY_EXPIRE, Time, "\"1d\"";
    }
    beside {
        name: String,
        /// What the file holds, once [`Loaded::with_secrets`](crate::config::Loaded::with_secrets) has read it.
        secret: Option<Secret>,
    }
}

section! {
    CHANNEL = "channel" of CHANNELS: |c, own| c.channel.get_mut(own)?;
    /// `[channel.NAME]`: one account on a chat platform, and who may talk there.
    pub struct Channel {
        /// The adapter: program and arguments, without NUL. There unless `telegram` is set, and only then.
        command: Vec<String>, List(validate::argument), "[\"my-adapter\", \"--flag\"]";
        /// The adapter is the built-in one for Telegram.
        telegram: bool, Flag, "true";
        /// What has the bot's token. Absolute. There if `telegram` is set, and only then.
        token_file: Option<PathBuf>, Path, "\"~/.config/office.token\"";
        /// Another server of the Bot API.
        api_url: Option<Url>, Url(Url::api), "\"http://127.0.0.1:8081\"";
        env: ByName<String>, Env, "{ ROOM = \"ops\" }";
        pass_env: Vec<String>, List(validate::variable), "[\"LANG\", \"TZ\"]";
        leftovers: Leftovers, Enum, "\"kill\"";
        /// Who may talk in private, by the platform's ids.
        allow: Vec<String>, List(validate::platform_id), "[\"4242\"]";
        /// Conversations of several people in which it answers, when it is mentioned.
        groups: Vec<String>, List(validate::platform_id), "[\"-100987\"]";
        /// Who may use all slash commands, and answer for others.
        operators: Vec<String>, List(validate::platform_id), "[\"4242\"]";
        /// Principals that senders are, by their ids: one conversation with the terminal's.
        r#as: ByName<String>, Names(validate::platform_id, validate::principal), "{ 4242 = \"owner\" }";
        /// The conversation that replies go to which name none; empty: they have to.
        home: String, Text(validate::platform_id), "\"4242\"";
        /// What becomes of somebody who is on no list.
        unknown: Unknown, Enum, "\"pair\"";
        /// Whose conversation with the agent it is.
        session: SessionOf, Enum, "\"conversation\"";
        /// What becomes of a part that may have arrived.
        uncertain: Uncertain, Enum, "\"resend\"";
        /// Replies are shown while they are made. Without a value it is so with `telegram`.
        preview: bool, Flag, "true";
        /// Between two states of such a reply.
        pace: Duration => limits::CHANNEL_PACE, Time, "\"1s\"";
        /// Messages that are older when they come are not answered one by one.
        max_age: Duration => limits::CHANNEL_MAX_AGE, Time, "\"1d\"";
        /// The age at which an undelivered reply becomes a dead letter.
        expire: Duration => limits::DELIVERY_EXPIRE, Time, "\"1d\"";
    }
    beside {
        name: String,
    }
}

section! {
    CLIENT_KEY = "keys" of CLIENT_KEYS: |c, own| c.keys.get_mut(own)?;
    /// `[keys.NAME]`: a key of its own for the principal of this name.
    pub struct ClientKey {
        /// Absolute; always there once the configuration has been loaded.
        file: Option<PathBuf>, Path, "\"~/.config/hermes-gateway/alice.key\"";
        role: Role, Enum, "\"user\"";
        /// Sessions that it may touch, `*` at the end for all that begin so. Empty: any of its own.
        sessions: Vec<String>, List(validate::argument), "[\"support-*\"]";
        /// Routes that it may use, by their scopes. Empty: all of its role.
        routes: Vec<String>, List(validate::scope), "[\"chat\"]";
        /// Delivery targets and channels that it may name. Empty: none for a user, any for an operator.
        targets: Vec<String>, List(validate::argument), "[\"example\"]";
    }
    beside {
        name: String,
        /// What the file holds, once [`Loaded::with_secrets`](crate::config::Loaded::with_secrets) has read it.
        key: Option<Secret>,
    }
}
