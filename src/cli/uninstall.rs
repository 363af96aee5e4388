//! `uninstall`: stops the gateway, disables it and removes the unit that `install` wrote.

use std::{fs, io::ErrorKind};

use super::context::Context;
use super::output::say;
use super::start::outside_unit;
use super::unit_control::{Unit, own_lingering};
use super::{stop, unit_paths};
use crate::escape::shell_word;
use crate::exit::{Exit, Failure};
use crate::limits::UNIT_FILES_TIMEOUT;
use crate::sys::fs as files;
use crate::systemd::Scope;
use crate::systemd::unit_template::{self as text, Author};

/// Removes the unit; what was made with it stays, and is named.
pub fn uninstall(context: &Context, system: bool) -> Result<Exit, Failure> {
    let scope = if system { Scope::System } else { Scope::User };
    let unit = Unit::new(context, scope);
    let file = unit.file.display();
    let installed = match unit_paths::read(&unit.file) {
        Ok(installed) => installed,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let machine = Unit::new(context, Scope::System).file;
            if !system && machine.exists() {
                let (file, command) = (machine.display(), context.name.command());
                return Err(Failure::failed(format!(
                    "{file} is a system unit: `{command} uninstall --system` removes it"
                )));
            }
            let stays = if system { String::new() } else { kept_files(context, &unit) };
            return say(&format!("there is no {file}: nothing to remove\n{stays}"));
        }
        Err(e) => return Err(Failure::with("read", &unit.file, &e)),
    };
    let author = text::author(&installed);
    if author == Author::Foreign {
        return Err(Failure::failed(format!(
            "{file} was not written by hermes-gateway: remove it yourself if you mean it"
        )));
    }
    if !system {
        context.refuse_foreign("uninstall")?;
    }
    let shown = unit.show()?;
    if unit.contains_this_process(&shown) {
        return Err(Failure::failed(
            "this command runs inside the gateway, which it would end: run it from elsewhere",
        ));
    }
    let timeout = Unit::timeout(&shown, &["TimeoutStopUSec"]) + UNIT_FILES_TIMEOUT;
    let done = unit.act_within(timeout, &["disable", "--now", "--", &unit.name]);
    match (shown.get("ActiveState"), done) {
        // Written where the manager does not look: there is nothing to disable.
        _ if shown.get("LoadState") == "not-found" => {}
        ("inactive" | "failed", done) => done?,
        // A failed stop does not keep the unit: what failed is said, and that it is gone.
        (_, done) => match stop::report_unit(&unit, done) {
            Err(failure) if unit.show()?.get("ActiveState") == "failed" => {
                say(&format!("{failure}\n"))?;
            }
            other => other?,
        },
    }
    fs::remove_file(&unit.file)
        .and_then(|()| files::sync_dir_of(&unit.file))
        .map_err(|e| Failure::with("remove", &unit.file, &e))?;
    unit.act(&["daemon-reload"])?;
    // A unit that failed would stay in the manager's lists without a file. It may not be there.
    let _ = unit.act(&["reset-failed", "--", &unit.name]);
    let edited = if author == Author::Edited { " (it had been changed by hand)" } else { "" };
    say(&format!("removed {file}{edited}\n"))?;
    let owner = context.of_unit(scope, &installed);
    say(&kept_files(owner.as_ref().unwrap_or(context), &unit))
}

/// What was made with the unit or for it and stays, and the command that removes it.
fn kept_files(owner: &Context, unit: &Unit<'_>) -> String {
    let dirs = &owner.dirs;
    let drop_ins = unit.file.with_file_name(format!("{}.d", unit.name));
    let (mut text, mut paths) = (String::new(), String::new());
    for (what, path) in [
        ("drop-ins", &drop_ins),
        ("configuration", &dirs.config_file),
        ("state (key, journal, history)", &dirs.state),
        ("runtime directory (lock, socket)", &dirs.runtime),
    ] {
        let inside = path == &dirs.runtime && path.starts_with(&dirs.state);
        if path.symlink_metadata().is_ok() && !inside {
            text += &format!("kept the {what}: {}\n", path.display());
            paths += &format!(" {}", shell_word(path));
        }
    }
    if let Some(words) = outside_unit(owner, "") {
        text += &format!("{words}\n");
    }
    if !paths.is_empty() {
        text += &format!("to remove all of these: `rm -r{paths}`\n");
    }
    if let (None, Some((name, true))) = (&owner.user, own_lingering()) {
        text += &format!(
            "lingering stays on for {name}; `loginctl disable-linger {name}` turns it off\n"
        );
    }
    text
}
