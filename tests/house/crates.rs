//! What `tests/deny.toml` allows, held against the crates that `cargo metadata` names: what
//! `cargo deny check bans licenses sources` makes of that file, without building cargo-deny.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use toml_span::value::Value as Rules;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// With `all_needed`, each exception that the rules make must be needed.
pub fn allowed(rules: &str, metadata: &Value, all_needed: bool) -> Vec<String> {
    let rules = toml_span::parse(rules).expect("TOML");
    let licenses = strings(rules.pointer("/licenses/allow"));
    let exceptions = by_crate(&rules, "/licenses/exceptions", "allow");
    let banned = by_crate(&rules, "/bans/deny", "wrappers");
    let dependents = dependents(metadata);
    let mut needed = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut violations = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let mut fail = |what: &str| violations.push(format!("{name}: {what}"));
        if !names.insert(name) {
            fail("is there in two versions");
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| source != CRATES_IO) {
            fail(&format!("is from {source:?}"));
        }
        for dependency in list(&package["dependencies"]) {
            if dependency["req"] == "*" && dependency["kind"] != "dev" {
                fail(&format!("takes any version of {}", dependency["name"]));
            }
        }
        let license = text(&package["license"]);
        if !satisfied(license, &licenses) {
            let more = exceptions.get(name).map_or(&[][..], |more| more);
            needed.extend(more.iter().map(|license| (name, *license)));
            if !satisfied(license, &[&licenses, more].concat()) {
                fail(&format!("has the licence {license:?}"));
            }
        }
        if let Some(wrappers) = banned.get(name) {
            let by = dependents.get(text(&package["id"])).into_iter().flatten();
            let (wrapped, others): (Vec<&str>, Vec<&str>) =
                by.partition(|by| wrappers.contains(*by));
            if wrapped.is_empty() || !others.is_empty() {
                fail(&format!("is forbidden, and {others:?} use it"));
            }
            needed.extend(wrapped.into_iter().map(|by| (name, by)));
        }
    }
    for (name, words) in exceptions.iter().chain(&banned).filter(|_| all_needed) {
        let unused = words.iter().filter(|word| !needed.contains(&(*name, **word)));
        violations.extend(unused.map(|word| format!("{name}: needs no exception for {word}")));
    }
    violations
}

/// The names of the crates that use each, by its id.
fn dependents(metadata: &Value) -> BTreeMap<&str, Vec<&str>> {
    let packages = list(&metadata["packages"]).iter();
    let name: BTreeMap<_, _> = packages.map(|one| (text(&one["id"]), text(&one["name"]))).collect();
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        for used in list(&node["dependencies"]) {
            all.entry(text(used)).or_default().push(name[text(&node["id"])]);
        }
    }
    all
}

/// A list of tables: the strings that each has under `key`, by its crate.
fn by_crate<'a>(rules: &'a Rules, list: &str, key: &str) -> BTreeMap<&'a str, Vec<&'a str>> {
    let tables = rules.pointer(list).and_then(Rules::as_array).into_iter().flatten();
    let one = |table: &'a Rules| {
        let name = table.pointer("/crate").and_then(Rules::as_str).expect("crate = \"NAME\"");
        (name, strings(table.pointer(&format!("/{key}"))))
    };
    tables.map(one).collect()
}

fn strings<'a>(array: Option<&'a Rules>) -> Vec<&'a str> {
    let values = array.and_then(Rules::as_array).into_iter().flatten();
    values.map(|value| value.as_str().expect("a string")).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether an SPDX expression holds with these licences. AND binds closer than OR.
fn satisfied(expression: &str, licenses: &[&str]) -> bool {
    if let Some((before, after)) = expression.split_once(')') {
        let (before, inside) = before.rsplit_once('(').unwrap_or_default();
        // One licence stands for all inside: one that is allowed, or none.
        let word = if satisfied(inside, licenses) { licenses[0] } else { "" };
        return satisfied(&format!("{before}{word}{after}"), licenses);
    }
    let mut ways = expression.split(" OR ");
    ways.any(|way| way.split(" AND ").all(|license| licenses.contains(&license.trim())))
}
