//! Talking with systemd: where we stand in it, what it says of our unit, what we tell it, and the
//! unit files that we give it.
//!
//! What belongs here: the forms of systemd's interfaces. What an answer means for us is decided in
//! `lifecycle`.

pub mod cgroup;
pub mod listen_fds;
pub mod notify;
pub mod revival;
pub mod stop_waiters;
pub mod systemctl;
pub mod unit_template;

pub use systemctl::delegated_cgroup;

/// Which service manager: a user's own (`systemctl --user`) or the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    User,
    System,
}

impl Scope {
    /// The word for people and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::User => "user",
            Scope::System => "system",
        }
    }

    /// The word and flag for `systemctl` lines that people shall type.
    pub fn systemctl(self) -> &'static str {
        match self {
            Scope::User => "systemctl --user",
            Scope::System => "systemctl",
        }
    }
}
