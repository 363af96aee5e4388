//! The file of an installed unit: where it is, and whose gateway it runs.

use std::io;
use std::path::{Path, PathBuf};

use crate::dirs::Base;
use crate::name::Name;
use crate::sys::{fs::read_any, user};
use crate::systemd::Scope;
use crate::systemd::unit_template::{Author, author, user_in};

/// A unit file of ours has 4 kB; one that is larger is somebody else's.
const MAX_UNIT_FILE: u64 = 1 << 20;

/// Where units that an administrator installs are (systemd.unit(5)).
pub fn unit_dir(base: &Base, scope: Scope) -> PathBuf {
    match scope {
        Scope::User => base.units.clone(),
        Scope::System => PathBuf::from("/etc/systemd/system"),
    }
}

/// The service managers in the order in which a unit is looked for; with `system` only the machine's.
pub fn scopes(system: bool) -> &'static [Scope] {
    &[Scope::User, Scope::System][usize::from(system)..]
}

/// Where the unit of this gateway is, if it is installed.
pub fn unit_file(base: &Base, name: &Name, scope: Scope) -> PathBuf {
    unit_dir(base, scope).join(name.unit())
}

/// The text of a unit file.
pub fn read(file: impl AsRef<Path>) -> io::Result<String> {
    read_any(file, MAX_UNIT_FILE)
}

/// The text of a unit file that `install` wrote, whoever has edited it since.
pub fn read_ours(file: impl AsRef<Path>) -> Option<String> {
    read(file).ok().filter(|text| author(text) != Author::Foreign)
}

/// The unit file of this gateway: the user's, or with `system` the machine's.
pub fn installed_file(base: &Base, name: &Name, system: bool) -> Option<(Scope, PathBuf)> {
    let file = |scope: &Scope| (*scope, unit_file(base, name, *scope));
    scopes(system).iter().map(file).find(|(_, path)| path.symlink_metadata().is_ok())
}

/// Whether a unit of this gateway is installed that runs as ourselves: `install` gives each of them a
/// configuration.
pub fn has_unit(base: &Base, name: &Name) -> bool {
    let Some((scope, file)) = installed_file(base, name, false) else { return false };
    let user = || user_in(&read(file).ok()?);
    let uid = || user().map_or(Some(0), |name| Some(user::by_name(&name)?.uid));
    scope == Scope::User || uid() == Some(user::own_uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;

    #[test]
    fn unit_files_of_both_scopes() {
        let root = TempDir::new("report");
        let base = Base {
            home: root.path().into(),
            config: root.path().into(),
            state: root.path().into(),
            units: root.path().join("systemd/user"),
            runtime: None,
            data: PathBuf::new(),
        };
        let name = Name::parse("no-such-gateway-here").unwrap();
        assert!(installed_file(&base, &name, false).is_none());
        let dir = unit_dir(&base, Scope::User);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name.unit()), "").unwrap();
        let (scope, _) = installed_file(&base, &name, false).unwrap();
        assert_eq!(scope, Scope::User);
        assert!(installed_file(&base, &name, true).is_none());
    }
}
