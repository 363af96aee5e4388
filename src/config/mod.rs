//! The configuration: TOML and `--set` in, one plain [`Config`] out, every mistake named with its
//! place and a suggested fix. Nothing here acts on a value; the modules that use one are handed it.
//!
//! [`schema`] lists the keys once, with type and range. [`builder`] and [`set_option`] find what was given,
//! [`value`] checks it and puts it in its place, [`consistency`] has the checks between keys, [`render`]
//! writes all out again.

mod agent;
mod builder;
mod client_key;
mod consistency;
mod did_you_mean;
mod enum_setting;
mod error;
mod fd_limits;
mod host;
mod load;
mod render;
mod schema;
mod secret;
mod set_option;
mod starter;
mod target;
#[cfg(test)]
mod tests;
mod toml_errors;
mod units;
mod upstream;
mod url;
mod validate;
mod value;
mod warnings;

pub use did_you_mean::hint;
#[cfg(test)]
pub use enum_setting::Role;
pub use enum_setting::{
    Approve, Busy, EnumSetting, LogTarget, Protocol, SessionOf, Uncertain, Unknown,
};
pub use load::{ECHO_UNASKED, Loaded, Sources, fix, load};
pub use schema::{Agent, Channel, ClientKey, Config, Http, Limits, Target};
pub use secret::Secret;
pub use starter::starter;
pub use units::{TIME, millis};
pub use upstream::Upstream;
pub use url::Url;
pub use validate::{MAX_PRINCIPAL, OWNER};
