//! `install`: writes the unit in one step, has the manager read and enable it, and makes sure that
//! the manager sees what was written.

use std::{
    env, fs, io::ErrorKind, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Instant,
};

use super::args::Parsed;
use super::context::{Context, acting_as};
use super::output::say;
use super::unit_control::{Unit, own_lingering};
use super::{config, exec_path, start, starter_config, unit_dirs, unit_paths};
use crate::exit::{Exit, Failure};
use crate::gateway::{self, Plan};
use crate::limits::UNIT_FILES_TIMEOUT;
use crate::permissions;
use crate::sys::{fs as files, user};
use crate::systemd::unit_template::{self as text, Author};

/// Installs the unit, or brings it up to date.
pub fn install(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    if context.config.is_some() || !context.set.is_empty() {
        let file = context.dirs.config_file.display();
        let words = format!(
            "--config and --set hold for one run, an installed gateway reads {file}: put settings there"
        );
        return Err(Failure::new(Exit::Usage, words));
    }
    let (system, now) = (args.has("--system"), args.has("--now"));
    if !system && context.dirs.state.exists() {
        context.refuse_foreign("install")?;
    }
    let owner = owner(context, args)?;
    let as_user = owner.user.as_ref();
    let unit = Unit::new(context, owner.scope());
    // Everything that may refuse comes first, so that a refusal changes nothing.
    // Without --move these directories are the unit's already.
    let old = unit_dirs::from_unit(&context.base, &context.name).gateway(&context.name);
    let left = unit_dirs::left_behind(&old, &context.dirs, &context.name.command())?;
    // Checked with the owner's eyes: what a start would fail on.
    let demanded = Arc::new(|| false);
    let plan = || Plan { sources: owner.unit_sources(), demanded, ..config::plan(&owner) };
    let loaded = acting_as(as_user, || gateway::check(&plan()))??;
    let deadline = Instant::now() + UNIT_FILES_TIMEOUT;
    let version = unit.systemctl.version(deadline).map_err(|e| unit.refused(&e, ""))?;
    // A question that needs the manager and no unit.
    let shown = unit.show()?;
    let drain = loaded.config.stop.drain_timeout;
    let (beside, wanted) = acting_as(as_user, || {
        (start::outside_unit(&owner, shown.get("MainPID")), owner.unit_text(version, drain))
    })?;
    if now && let Some(failure) = beside {
        return Err(failure);
    }
    let wanted = wanted.map_err(Failure::failed)?;
    check_program(&owner, &wanted)?;
    let change = compare(&unit, &wanted, args.has("--force"))?;
    let port = acting_as(as_user, || starter_config::write(&owner))?.map_err(Failure::failed)?;

    let running = write_and_enable(&unit, change.map(|_| wanted.as_str()))?;
    say(&(report(&unit, &owner, change, port) + &left))?;
    for words in beside.map(|failure| failure.0.message).into_iter().chain(exec_path::warning()) {
        eprintln!("hermes-gateway: {words}");
    }
    let path = unit.variable("PATH");
    acting_as(as_user, || config::warn(&loaded, path.as_deref()))?;
    if now {
        start::start_unit(&unit)?;
    }
    let (command, flag) = (context.name.command(), if system { " --system" } else { "" });
    match (running, change) {
        (true, Some(_)) => say(&format!("it runs with its old unit: {command} restart{flag}\n")),
        (false, _) if !now => say(&format!("next: {command} start{flag}\n")),
        _ => Ok(Exit::Planned),
    }
}

/// Writes the unit where `text` says so, has its manager read and enable it, and says whether its gateway
/// runs.
fn write_and_enable(unit: &Unit<'_>, text: Option<&str>) -> Result<bool, Failure> {
    if let Some(text) = text {
        let dir = unit.file.parent().unwrap_or(&unit.file);
        files::make_dirs(dir, 0o755)
            .and_then(|()| files::replace(&unit.file, text.as_bytes(), 0o644))
            .map_err(|e| Failure::with("write", &unit.file, &e))?;
    }
    unit.act(&["daemon-reload"])?;
    let running = seen_by_manager(unit)?;
    unit.act(&["enable", "--", &unit.name])?;
    let state = unit.show()?;
    let enabled = state.get("UnitFileState");
    if enabled != "enabled" {
        return Err(Failure::failed(format!(
            "{} is written, but the service manager says that it is {enabled:?}, not enabled",
            unit.file.display()
        )));
    }
    Ok(running)
}

/// Who it is for. A system unit never runs as root because nobody thought of another user.
fn owner(context: &Context, args: &Parsed) -> Result<Context, Failure> {
    if !args.has("--system") {
        return Ok(context.clone());
    }
    if user::own_uid() != 0 {
        return Err(Failure::failed("a system unit needs root: try it with sudo"));
    }
    let caller = env::var("SUDO_USER").ok().filter(|name| name != "root");
    let name = args.value("--user").map(str::to_owned).or(caller).ok_or_else(|| {
        Failure::failed(
            "--user USER is missing: the user that the system unit runs as (--user root if you mean \
             root)",
        )
    })?;
    let user = user::by_name(&name)
        .ok_or_else(|| Failure::failed(format!("there is no user {name:?}")))?;
    Ok(context.of_user(&user))
}

/// What a system unit runs must be its user's to reach, and nobody else's to replace.
fn check_program(owner: &Context, unit: &str) -> Result<(), Failure> {
    let program = text::program_in(unit, &owner.name);
    let (Some(program), Some(user)) = (program, &owner.user) else { return Ok(()) };
    acting_as(Some(user), || permissions::check_program(&program))?.map_err(|e| {
        let (program, user) = (program.display(), user.name.display());
        Failure::failed(if e.kind() == ErrorKind::PermissionDenied {
            format!(
                "{user} may not reach {program}: put the program where everybody may run it, \
                 /usr/local/bin"
            )
        } else {
            format!(
                "a system unit must not run {program}, which others could replace: {e}, or \
                 move the program to /usr/local/bin"
            )
        })
    })
}

/// Compares what is there with what is wanted, and says what becomes of it, in a word; refuses to
/// overwrite another's work.
fn compare(unit: &Unit<'_>, wanted: &str, force: bool) -> Result<Option<&'static str>, Failure> {
    let file = unit.file.display();
    let words = unit.systemctl.scope.systemctl();
    let link = fs::read_link(&unit.file).ok();
    if link.as_deref() == Some(Path::new("/dev/null")) {
        let name = &unit.name;
        return Err(Failure::failed(format!("{name} is masked: `{words} unmask {name}` first")));
    }
    let why = match unit_paths::read(&unit.file) {
        Ok(installed) if installed == wanted => return Ok(None),
        Ok(installed) => match text::author(&installed) {
            Author::Ours if link.is_some() => "is a symlink",
            Author::Ours => return Ok(Some("updated")),
            Author::Edited => "was changed by hand",
            Author::Foreign => "was not written by hermes-gateway",
        },
        Err(e) if e.kind() == ErrorKind::NotFound && link.is_none() => return Ok(Some("wrote")),
        Err(e) if e.kind() == ErrorKind::InvalidData => "was not written by hermes-gateway",
        Err(e) => return Err(Failure::with("read", &unit.file, &e)),
    };
    if force {
        return Ok(Some("updated"));
    }
    Err(Failure::failed(format!(
        "{file} {why}: it stays as it is. Move changes into a drop-in (`{words} edit {}`), then \
         `install --force` overwrites it",
        unit.name
    )))
}

/// Whether the manager reads the file that was written; says whether its gateway runs.
fn seen_by_manager(unit: &Unit<'_>) -> Result<bool, Failure> {
    let shown = unit.show()?;
    let fragment = shown.get("FragmentPath");
    let same = || {
        let (ours, theirs) = (fs::metadata(&unit.file).ok()?, fs::metadata(fragment).ok()?);
        Some((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    };
    let words = unit.systemctl.scope.systemctl();
    let why = match shown.get("LoadState") {
        "loaded" if same() == Some(true) => {
            return Ok(matches!(shown.get("ActiveState"), "active" | "reloading"));
        }
        "loaded" => format!("the service manager reads {fragment} in its place: remove that"),
        "masked" => format!("masked: `{words} unmask {}`", unit.name),
        "not-found" => format!(
            "the service manager does not look there: it was started with another HOME or \
             XDG_CONFIG_HOME than this shell (`{words} show -p UnitPath` tells where it looks)"
        ),
        state => {
            let error = shown.get("LoadError");
            format!("the service manager does not take it ({state}): {error}")
        }
    };
    Err(Failure::failed(format!("{} is written, but {why}", unit.file.display())))
}

fn report(unit: &Unit<'_>, owner: &Context, change: Option<&str>, port: Option<u16>) -> String {
    let (what, file) = (change.unwrap_or("unchanged:"), unit.file.display());
    let mut out = format!("{what} {file}, enabled\n");
    let config = owner.dirs.config_file.display();
    out += &match port {
        None => format!("configuration: {config}\n"),
        Some(port) => format!("wrote {config}: listens on 127.0.0.1:{port}, answers with echo\n"),
    };
    if let Some(user) = &owner.user {
        out += &format!("{} runs as {}\n", owner.name, user.name.display());
    } else if let Some((name, lingers)) = own_lingering() {
        out += &if lingers {
            format!("lingering is on: it runs while {name} is logged out, too\n")
        } else {
            format!(
                "lingering is off: it stops when {name} logs out; `loginctl enable-linger {name}` \
                 turns it on\n"
            )
        };
    }
    out
}
