//! Who am I: the unit and the manager that a control group's path names. Pure.

use super::Scope;
use crate::sys::gather::Gather;

/// The unit that a process belongs to, as its control group tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnUnit {
    pub unit: String,
    pub scope: Scope,
    /// The control group of the manager itself, when it is a user's.
    pub manager_cgroup: Option<String>,
}

/// Reads the text of /proc/PID/cgroup (cgroups(7)). The unified hierarchy tells, else systemd's own.
pub fn own_unit(cgroup: &str) -> Option<OwnUnit> {
    hierarchies(cgroup).find_map(unit_in)
}

/// Our place in version 2 of control groups, where it is more than its root.
pub fn unified(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| *path != "/")
}

/// The groups that systemd keeps, by the text of a process's /proc/PID/cgroup: in version 2 and 1.
pub fn hierarchies(cgroup: &str) -> impl Iterator<Item = &str> {
    let line =
        |prefix| cgroup.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(prefix));
    [line(":"), line("name=systemd:")].into_iter().flatten()
}

fn unit_in(path: &str) -> Option<OwnUnit> {
    let parts: Vec<&str> = path.split('/').gather();
    let manager = parts.iter().rposition(|p| p.starts_with("user@") && p.ends_with(".service"));
    let (scope, below) = match manager {
        Some(at) => (Scope::User, at + 1),
        None => (Scope::System, 0),
    };
    // What is deeper than the first unit is delegated to that unit: not the manager's business.
    let unit = parts[below..].iter().find(|p| p.ends_with(".service") || p.ends_with(".scope"))?;
    Some(OwnUnit {
        // systemd puts a `_` before names that the kernel would take for its own files.
        unit: unit.strip_prefix('_').unwrap_or(unit).to_owned(),
        scope,
        manager_cgroup: manager.map(|at| format!("{}/init.scope", parts[..=at].join("/"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(cgroup: &str) -> Option<(String, Scope)> {
        own_unit(cgroup).map(|own| (own.unit, own.scope))
    }

    #[test]
    fn user_units_and_system_units() {
        let user =
            "0::/user.slice/user-7.slice/user@7.service/app.slice/hermes-gateway-a.service\n";
        assert_eq!(unit(user), Some(("hermes-gateway-a.service".into(), Scope::User)));
        let manager = own_unit(user).unwrap().manager_cgroup.unwrap();
        assert_eq!(manager, "/user.slice/user-7.slice/user@7.service/init.scope");
        let is_in = |text: &str| hierarchies(text).any(|path| path == manager);
        assert!(is_in("0::/user.slice/user-7.slice/user@7.service/init.scope\n") && !is_in(user));
        let system = "0::/system.slice/x.service/deeper/y.service\n";
        assert_eq!(unit(system), Some(("x.service".into(), Scope::System)));
    }

    #[test]
    fn groups_are_found_in_older_hierarchies() {
        let hybrid = "9:name=systemd:/system.slice/x.service\n4:memory:/m.service\n0::/\n";
        assert_eq!(unit(hybrid), Some(("x.service".into(), Scope::System)));
        let legacy = "4:memory:/\n1:name=systemd:/user.slice/user@7.service/_x.scope\n";
        assert_eq!(unit(legacy), Some(("x.scope".into(), Scope::User)));
    }

    #[test]
    fn without_a_group_none_is_found() {
        for text in ["", "0::/\n", "0::/init.scop\n", "garbled", "0::/user.slice/user@7.service\n"]
        {
            let found = unit(text);
            assert!(found.is_none(), "{text:?} gave {found:?}");
        }
    }

    #[test]
    fn only_the_last_manager_counts() {
        let nested = "0::/user@0.service/a.service/user@7.service/b.service";
        assert_eq!(unit(nested), Some(("b.service".into(), Scope::User)));
    }
}
