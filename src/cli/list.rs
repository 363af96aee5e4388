//! `list`: all gateways of this user.

use std::{fs, path::Path};

use serde_json::Value;

use super::context::Context;
use super::history::word;
use super::output::{say, table};
use super::status_report::gather;
use super::unit_dirs;
use super::unit_paths::unit_dir;
use crate::dirs::Base;
use crate::exit::{Exit, Failure};
use crate::name::Name;
use crate::sys::gather::Gather;
use crate::systemd::Scope;

/// The keys of `status --json` that `list --json` has too.
const KEYS: [&str; 9] =
    ["name", "state", "pid", "since", "listen", "unit", "unit_scope", "unit_state", "version"];

/// Prints a line for each gateway that has a configuration, directories or a unit.
pub fn show(context: &Context, json: bool) -> Result<Exit, Failure> {
    let gateways: Vec<Value> = names(&context.base, &unit_dir(&context.base, Scope::System))
        .into_iter()
        .map(|name| Context { name, ..context.clone() })
        .map(|named| gather(&named.at(unit_dirs::from_unit(&named.base, &named.name)), false))
        .map(|report| some_keys(report.status))
        .gather();
    if json {
        return say(&format!("{}\n", Value::Array(gateways)));
    }
    if gateways.is_empty() {
        eprintln!("hermes-gateway: there is no gateway yet; `hermes-gateway install` makes one");
        return Ok(Exit::Planned);
    }
    say(&as_table(&gateways))
}

fn some_keys(mut status: Value) -> Value {
    let mut shown = Value::Null;
    KEYS.into_iter().for_each(|key| shown[key] = status[key].take());
    shown
}

fn as_table(gateways: &[Value]) -> String {
    let keys = ["name", "state", "pid", "listen", "unit_scope"];
    let rows = gateways.iter().map(|gateway| keys.map(|key| word(&gateway[key])).to_vec()).gather();
    table(&["NAME", "STATE", "PID", "LISTEN", "UNIT"], rows)
}

/// Every gateway that left a trace, the default one first. Other file names are
/// ignored, and so is a directory that cannot be read: it holds no gateway of this user.
fn names(base: &Base, system_units: &Path) -> Vec<Name> {
    type Read = fn(&str) -> Option<Name>;
    let config: Read = |name| Name::parse(name.strip_suffix(".toml")?).ok();
    let dir: Read = |name| Name::parse(name).ok();
    let mut names = Vec::new();
    for (place, read) in [
        (Some(base.state_dir()), dir),
        (base.run_dir(), dir),
        (Some(base.config_dir()), config),
        (Some(unit_dir(base, Scope::User)), Name::of_unit),
        (Some(system_units.to_owned()), Name::of_unit),
    ] {
        let entries =
            place.and_then(|place| fs::read_dir(place).ok()).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| read(entry.file_name().to_str()?)) {
            if let Err(at) = names.binary_search(&name) {
                names.insert(at, name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use serde_json::json;

    #[test]
    fn every_trace_counts_and_foreign_names_do_not() {
        let root = TempDir::new("list");
        let base = Base {
            home: root.path().join("h"),
            config: root.path().join("c"),
            state: root.path().join("s"),
            units: root.path().join("c/systemd/user"),
            runtime: Some(root.path().join("r")),
            data: std::path::PathBuf::new(),
        };
        let units = root.path().join("etc");
        assert!(names(&base, &units).is_empty());
        for file in [
            "c/hermes-gateway/default.toml",
            "c/hermes-gateway/conf.toml",
            "c/hermes-gateway/notes.txt",
            "c/hermes-gateway/Bad.toml",
            "c/systemd/user/hermes-gateway-unit.service",
            "c/systemd/user/ssh.service",
            "etc/hermes-gateway-system.service",
            "s/hermes-gateway/state/x",
            "s/hermes-gateway/conf/x",
            "r/hermes-gateway/run/lock",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found: Vec<String> = names(&base, &units).iter().map(Name::to_string).collect();
        assert_eq!(found, ["default", "conf", "run", "state", "system", "unit"]);
    }

    #[test]
    fn each_gateway_has_a_table_row() {
        let gateways = [json!({
            "name": "a", "state": "running", "pid": 7, "listen": "127.0.0.1:1", "unit": null,
        })];
        assert_eq!(
            as_table(&gateways),
            "NAME  STATE    PID  LISTEN       UNIT\na     running  7    127.0.0.1:1  -\n"
        );
        let longest = json!({
            "name": "a-long-name-of-a-gateway", "state": "unresponsive", "pid": 4194304,
            "listen": "127.0.0.1:18642", "unit_scope": "system",
        });
        let table = as_table(&[longest]);
        assert!(table.ends_with("  system\n"), "{table}");
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        let status = json!({ "name": "a", "last_stop": {}, "pid": null });
        let some = some_keys(status);
        assert_eq!(some["name"], "a");
        assert!(some.get("last_stop").is_none() && some.get("pid").is_some());
    }
}
