//! The unit file of a gateway: where it is.

use std::fs;
use std::path::PathBuf;

use crate::dirs::Base;
use crate::name::Name;
use crate::systemd::Scope;

/// A unit file of a gateway.
#[derive(Debug)]
pub struct Installed {
    pub scope: Scope,
    pub path: PathBuf,
}

/// Where units that an administrator installs are (systemd.unit(5)).
pub fn unit_dir(base: &Base, scope: Scope) -> PathBuf {
    match scope {
        Scope::User => base.config.join("systemd/user"),
        Scope::System => PathBuf::from("/etc/systemd/system"),
    }
}

/// The unit file of this gateway: the user's, or with `system` the machine's.
pub fn installed_unit(base: &Base, name: &Name, system: bool) -> Option<Installed> {
    let scopes: &[Scope] = if system { &[Scope::System] } else { &[Scope::User, Scope::System] };
    scopes.iter().find_map(|&scope| {
        let path = unit_dir(base, scope).join(name.unit());
        let there = fs::symlink_metadata(&path).is_ok();
        there.then_some(Installed { scope, path })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn unit_files_of_both_scopes() {
        let root = TempDir::new("report");
        let base = Base {
            home: root.path().into(),
            config: root.path().into(),
            state: root.path().into(),
            runtime: None,
        };
        let name = Name::parse("no-such-gateway-here").unwrap();
        assert!(installed_unit(&base, &name, false).is_none());
        let dir = unit_dir(&base, Scope::User);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name.unit()), "").unwrap();
        let found = installed_unit(&base, &name, false).unwrap();
        assert_eq!(found.scope, Scope::User);
        assert!(installed_unit(&base, &name, true).is_none());
    }
}
