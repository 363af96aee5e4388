//! The directories of an installed gateway. Its unit hands them on (`Environment=`): they, and not the
//! variables of whatever shell a command is typed in, say where its files are. Only
//! `install --move` changes them.

use std::os::unix::fs::MetadataExt;

use super::args::Parsed;
use super::unit_paths::read_ours;
use crate::dirs::{Base, Dirs, UNITS};
use crate::escape::shell_word;
use crate::exit::Failure;
use crate::name::Name;
use crate::sys::user;
use crate::systemd::unit_template::environment_in;

/// The directories that a command works on; says so where they are not this shell's.
pub fn for_command(own: Base, args: &Parsed) -> Base {
    let name = &args.name;
    // `run` runs with this shell's variables, and looks at no disk before signals are judged; `stop`
    // stops what does, `list` asks for each gateway.
    if ["run", "stop", "list"].contains(&args.command) {
        return own;
    }
    let kept = from_unit(&own, name);
    match args.command {
        "install" if args.has("--move") => return Base { units: kept.units, ..own },
        // They find the manager and the control socket from any shell.
        "start" | "restart" | "update" | "logs" | "send" => return kept,
        _ => {}
    }
    let (here, there, command) = (own.gateway(name), kept.gateway(name), name.command());
    for (what, here, there) in
        [("configuration", here.config_file, there.config_file), ("state", here.state, there.state)]
    {
        if here != there {
            eprintln!(
                "hermes-gateway: kept: the {what} of its unit stays in {}; this shell has {}; \
                 `{command} install --move` changes it",
                there.display(),
                here.display()
            );
        }
    }
    kept
}

/// The directories that the user's unit names, where `install` wrote it; else this shell's. The unit may
/// be where this shell's `XDG_CONFIG_HOME` does not lead.
pub fn from_unit(own: &Base, name: &Name) -> Base {
    let usual = own.home.join(".config").join(UNITS);
    // Without a home there is no usual place.
    let places = [&own.units, &usual].into_iter().filter(|units| units.is_absolute());
    let written =
        { places }.find_map(|units| Some((units.clone(), read_ours(units.join(name.unit()))?)));
    let Some((units, text)) = written else {
        return own.clone();
    };
    // What the unit is silent about is where its manager's HOME says.
    let owner = units.metadata().ok().and_then(|meta| user::by_uid(meta.uid()));
    let home = owner.map_or(own.home.clone(), |user| user.home);
    let place = |variable, usual| environment_in(&text, variable).unwrap_or(home.join(usual));
    let config = place("XDG_CONFIG_HOME", ".config");
    let state = place("XDG_STATE_HOME", ".local/state");
    Base { units, config, state, data: place("XDG_DATA_HOME", ".local/share"), ..own.clone() }
}

/// What a move leaves in the old directories, and how to take it along: it moves no files itself.
///
/// # Errors
/// `Failed` where only the old place has a configuration: a new one would answer with echo.
pub fn left_behind(old: &Dirs, new: &Dirs, command: &str) -> Result<String, Failure> {
    let [old_config, new_config, old_state, new_state] =
        [&old.config_file, &new.config_file, &old.state, &new.state].map(|path| shell_word(path));
    if old.config_file.exists() && !new.config_file.exists() {
        return Err(Failure::failed(format!(
            "--move: {new_config} is not there yet: copy it first: \
             `install -D -m 600 {old_config} {new_config}`"
        )));
    }
    let mut text = String::new();
    if old_config != new_config && old.config_file.exists() {
        text += &format!("the old configuration stays: {old_config}\n");
    }
    if old_state != new_state && old.state.exists() {
        text += &format!(
            "the old state (key, journal, history) stays: {old_state}; to take it along before it \
             runs again: `{command} stop; mkdir -p {new_state} && mv -T {old_state} {new_state}; \
             {command} start`\n"
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::args::parse;
    use super::*;
    use crate::testing::TempDir;
    use std::ffi::OsString;
    use std::fs;

    const UNIT: &str = "# Written by hermes-gateway 0.1.0; x\n\
        Environment=XDG_CONFIG_HOME=/c%%1\nEnvironment=\"XDG_STATE_HOME=/a b\"\n";

    fn shell(root: &TempDir) -> Base {
        let home = root.path().to_owned();
        let config = home.join("c");
        let units = config.join(UNITS);
        Base { state: home.join("s"), data: home.join("d"), home, config, units, runtime: None }
    }

    #[test]
    fn the_units_places_count_wherever_this_shell_would_put_it() {
        let root = TempDir::new("places");
        let (own, name) = (shell(&root), Name::parse("coder").unwrap());
        assert_eq!(from_unit(&own, &name).state, own.state);
        let usual = own.home.join(".config").join(UNITS);
        for units in [&usual, &own.units] {
            fs::create_dir_all(units).unwrap();
            fs::write(units.join(name.unit()), UNIT).unwrap();
            let kept = from_unit(&own, &name);
            assert_eq!(kept.units, *units);
            assert_eq!((kept.config.to_str(), kept.state.to_str()), (Some("/c%1"), Some("/a b")));
            assert_eq!(from_unit(&kept, &name).units, *units, "and stay");
        }
        let other = Name::parse("other").unwrap();
        assert_eq!(from_unit(&own, &other).units, own.units);
        // A unit that somebody else wrote tells nothing.
        fs::remove_file(usual.join(name.unit())).unwrap();
        fs::write(own.units.join(name.unit()), UNIT.replace('#', ";")).unwrap();
        assert_eq!(from_unit(&own, &name).state, own.state);
    }

    #[test]
    fn a_run_and_a_move_take_the_shells_places() {
        let root = TempDir::new("places");
        let (own, name) = (shell(&root), Name::parse("coder").unwrap());
        let usual = own.home.join(".config").join(UNITS);
        fs::create_dir_all(&usual).unwrap();
        fs::write(usual.join(name.unit()), UNIT).unwrap();
        for (command, kept) in [
            ("run", false),
            ("stop", false),
            ("install --move", false),
            ("install", true),
            ("uninstall", true),
            ("history", true),
        ] {
            let words = ["-p", "coder"].into_iter().chain(command.split(' '));
            let args = parse(None, words.map(OsString::from).collect(), &[]).unwrap();
            let base = for_command(own.clone(), &args);
            assert_eq!(base.state != own.state, kept, "{command:?}");
            // A move leaves the unit where its manager reads it.
            let install = args.command == "install" || kept;
            assert_eq!(base.units == usual, install, "{command:?}");
        }
    }
}
