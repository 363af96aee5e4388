//! Gateways of other users: whose one is, and how that user is told to ask.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::context::Context;
use super::unit_file::{read, unit_file};
use crate::dirs::{Base, Dirs};
use crate::exit::{Exit, Failure};
use crate::name::Name;
use crate::sys::user::{self, User};
use crate::systemd::{Scope, unit};

/// Refuses a verb where this gateway is another user's: its files and its socket are that user's.
///
/// # Errors
/// `Unavailable`, with `sudo -u USER hermes-gateway …`: how such a gateway is talked to.
pub fn refuse_foreign(context: &Context, verb: &str) -> Result<(), Failure> {
    let Some((user, _)) = foreign_owner(context) else { return Ok(()) };
    let words = foreign_message(&user, &context.name, verb);
    Err(Failure::new(Exit::Unavailable, words))
}

pub fn foreign_message(user: &User, name: &Name, verb: &str) -> String {
    let user = user.name.display();
    format!("gateway {name} belongs to {user}: `sudo -u '{user}' {} {verb}`", name.command())
}

/// Whose gateway is meant, where it is not our own, and where that one is: the state directory is
/// another user's (sudo with HOME kept); or there is none, and the machine's unit of this name runs as
/// another user, or the user who called sudo has one and root has no configuration for it.
pub fn foreign_owner(context: &Context) -> Option<(User, Dirs)> {
    let Context { base, dirs, name, .. } = context;
    let own = user::own_uid();
    if let Ok(meta) = fs::metadata(&dirs.state) {
        let (uid, gid, home) = (meta.uid(), meta.gid(), base.home.clone());
        let user = || User { name: user::display_name(uid).into(), uid, gid, home };
        return (uid != own).then(|| (user(), dirs.clone()));
    }
    let by_unit =
        read(unit_file(base, name, Scope::System)).ok().and_then(|text| unit::user_in(&text));
    let by_sudo = env::var("SUDO_USER").ok().filter(|_| own == 0 && !dirs.config_file.exists());
    let located = |user: User| (Base::of(&user).gateway(name), user);
    let of = |user: String| user::by_name(&user).filter(|user| user.uid != own).map(located);
    let by_sudo = || by_sudo.and_then(of).filter(|(dirs, _)| dirs.state.exists());
    by_unit.and_then(of).or_else(by_sudo).map(|(dirs, user)| (user, dirs))
}
