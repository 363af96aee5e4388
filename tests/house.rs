//! Rules for this repository, checked by tests. Each rule is a function from sources to violations; the
//! tests at the end check on small snippets that every rule can fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "house/crates.rs"]
mod crates;
#[path = "house/readme.rs"]
mod readme;
#[path = "house/scan.rs"]
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use scan::Source;

// ------------------------------------------------------------------ the tables ----

/// May be used by every module above `sys`, and use only each other and `sys`.
const BASE: &[&str] = &[
    "cancel",
    "config",
    "digest",
    "dirs",
    "exit",
    "fault_points",
    "stored_text",
    "json",
    "limits",
    "logger",
    "name",
    "named",
    "permissions",
    "shares",
    "subprocess",
    "testing",
    "escape",
    "threads",
];

/// What each module may import, beside itself, [`BASE`] and `sys`. `main` may import all. Imports run
/// downward: a module stands below all that import it.
const MODULES: &[(&str, &str)] = &[
    ("build", ""),
    ("sys", ""),
    ("systemd", ""),
    ("lifecycle", "systemd"),
    ("http", ""),
    ("outbound", "http"),
    ("agent", "outbound http"),
    ("delivery", "outbound http"),
    ("telegram", "outbound http"),
    ("journal", ""),
    ("session", "journal delivery agent outbound http"),
    ("channel", "session journal agent delivery"),
    ("api", "channel session journal agent http"),
    ("gateway", "api channel session journal agent outbound http lifecycle systemd"),
    ("cli", "gateway api channel telegram session journal agent outbound http lifecycle systemd"),
];

/// They see all.
const ROOTS: &[&str] = &["src/lib.rs", "src/main.rs"];

/// Judge and do not touch the world: values in, values out.
const PURE: &[&str] = &[
    "src/lifecycle/verdict.rs",
    "src/lifecycle/phase.rs",
    "src/session/dispatch.rs",
    "src/session/states.rs",
    "src/session/stored_file.rs",
    "src/session/clock.rs",
    "src/session/message_table.rs",
    "src/session/message_table/accounts.rs",
    "src/session/message_table/entries.rs",
    "src/session/message_table/entry.rs",
    "src/session/message_table/erase.rs",
    "src/session/message_table/facts.rs",
    "src/session/message_table/interned.rs",
    "src/session/message_table/on_channel.rs",
    "src/session/message_table/restored.rs",
    "src/session/message_table/retention.rs",
    "src/session/message_table/owner.rs",
    "src/session/message_table/record_index.rs",
    "src/session/message_table/sessions.rs",
    "src/session/delivery_queue.rs",
    "src/session/retry.rs",
    "src/session/tree.rs",
    "src/json.rs",
    "src/shares.rs",
    "src/http/head.rs",
    "src/delivery/backoff.rs",
    "src/channel/split.rs",
    "src/channel/outbox.rs",
    "src/channel/outbox/conversation.rs",
    "src/channel/outbox/conversation/steps.rs",
    "src/channel/outbox/preview.rs",
    "src/channel/outbox/values.rs",
    "src/channel/outbox/work.rs",
    "src/agent/acp/conversation.rs",
    "src/agent/acp/conversation/opening.rs",
    "src/agent/acp/updates.rs",
    "src/agent/acp/wire.rs",
    "src/channel/link.rs",
    "src/channel/wire.rs",
    "src/channel/wire/read.rs",
    "src/channel/wire/write.rs",
    "src/channel/access.rs",
    "src/channel/pairing.rs",
    "src/channel/outbound/handed.rs",
    "src/telegram/call.rs",
    "src/telegram/lines.rs",
    "src/telegram/markdown.rs",
    "src/telegram/markdown/inline.rs",
    "src/telegram/markdown/write.rs",
    "src/telegram/receive.rs",
    "src/telegram/receive/content.rs",
    "src/telegram/receive/group.rs",
    "src/telegram/receive/queue.rs",
    "src/telegram/receive/senders.rs",
    "src/telegram/receive/update.rs",
    "src/telegram/receive/values.rs",
    "src/telegram/send.rs",
    "src/telegram/send/pace.rs",
    "src/telegram/send/request.rs",
    "src/telegram/send/verdict.rs",
    "src/telegram/start.rs",
];

/// What a pure file must not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::os::unix::net",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "sys::fs",
    "sys::poll",
    "sys::process",
    "sys::socket",
];

/// State machines: `match (state, event)` names every pair.
const TOTAL: &[&str] = &[
    "src/lifecycle/phase.rs",
    "src/session/dispatch.rs",
    "src/session/states.rs",
    "src/agent/acp/conversation.rs",
    "src/channel/link.rs",
    "src/channel/outbox/conversation.rs",
];

/// All that the top level of the repository holds.
const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitignore",
    ".rustfmt.toml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "src",
    "systemd",
    "tests",
];

/// Home directories that may be named: `tests/with-systemd` makes the first, the others are examples.
const HOMES: &[&str] = &["tester", "me", "you", "user", "alice", "bob", "$user", "NAME", "x"];

const MAX_FILE: usize = 400;
const MAX_MEDIAN: usize = 200;
const MAX_TOTAL: usize = 45_851;
/// Of these the manual pages, which the program has in it, are 42,000.
const MAX_BINARY: u64 = 2_063_000;
/// It is for the first half an hour; what is longer belongs into the manual pages.
const MAX_README: usize = 200;

// ------------------------------------------------------------------- the rules ----

fn in_sys(source: &Source) -> bool {
    source.path.starts_with("src/sys/") || source.path == "src/sys.rs"
}

/// A file of unit tests, beside the file that it tests, or what only they use.
fn is_test(source: &Source) -> bool {
    let path = &source.path;
    path.ends_with("/tests.rs") || path.contains("/tests/") || path == "src/testing.rs"
}

/// `unsafe` is rustc's to find: see the next rule.
fn libc_only_in_sys(sources: &[Source]) -> Vec<String> {
    let outside = sources.iter().filter(|source| !in_sys(source));
    outside
        .flat_map(|source| {
            let uses = source.uses("libc");
            uses.map(|at| format!("{}: `libc` outside of src/sys", source.place(at)))
        })
        .collect()
}

/// Cargo.toml's lints deny it, which rustc checks; nobody else takes that back.
fn unsafe_allowed_in_sys_alone(sources: &[Source]) -> Vec<String> {
    let others = sources.iter().filter(|source| source.path != "src/sys/mod.rs");
    others
        .flat_map(|source| {
            let places = source.code.match_indices("unsafe_code");
            places.map(|(at, _)| format!("{}: another word on unsafe_code", source.place(at)))
        })
        .collect()
}

fn imports_run_downward(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| !ROOTS.contains(&&*source.path)) {
        let module = source.path.trim_start_matches("src/");
        let module = module.split('/').next().unwrap_or(module).trim_end_matches(".rs");
        let above = match MODULES.iter().find(|(name, _)| *name == module) {
            Some((_, below)) => *below,
            None if BASE.contains(&module) => "",
            None => {
                violations.push(format!(
                    "{}:1: the module `{module}` has no place yet: give it one in tests/house.rs",
                    source.path
                ));
                continue;
            }
        };
        for (name, at) in scan::imports(source) {
            let allowed = name == module
                || above.split(' ').any(|below| below == name)
                || (module != "sys" && (name == "sys" || BASE.contains(&name.as_str())));
            if !allowed {
                violations.push(format!(
                    "{}: `{module}` may not import `{name}`: imports run downward",
                    source.place(at)
                ));
            }
        }
    }
    violations
}

/// The table of modules itself runs downward: each names only modules above it in the table.
fn modules_are_in_order(modules: &[(&str, &str)]) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut violations = Vec::new();
    for (module, below) in modules {
        let unknown = below.split(' ').filter(|name| !name.is_empty() && !known.contains(name));
        violations
            .extend(unknown.map(|name| format!("MODULES: `{module}` names `{name}` too early")));
        known.insert(*module);
    }
    violations
}

/// A file uses what another defines, and that, perhaps through more files, what the first defines.
fn files_have_no_cycles(sources: &[Source]) -> Vec<String> {
    let files = sources.iter().filter(|source| !is_test(source) && !ROOTS.contains(&&*source.path));
    let mut uses: BTreeMap<String, BTreeSet<String>> =
        files.clone().map(|source| (scan::module(&source.path), BTreeSet::new())).collect();
    for source in files {
        let own = scan::module(&source.path);
        for path in scan::paths(source) {
            let mut file = path.as_str();
            while !file.is_empty() && !uses.contains_key(file) {
                file = file.rsplit_once("::").map_or("", |(above, _)| above);
            }
            if !file.is_empty() && file != own {
                let file = file.to_owned();
                uses.entry(own.clone()).or_default().insert(file);
            }
        }
    }
    let reaches_itself = |file: &&String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![*file]);
        while let Some(at) = next.pop() {
            next.extend(uses[at].iter().filter(|used| seen.insert(*used)));
        }
        seen.contains(*file)
    };
    let within: Vec<&String> = uses.keys().filter(reaches_itself).collect();
    let cycle = |file: &&String| {
        let used: Vec<&str> =
            uses[*file].iter().filter(|used| within.contains(used)).map(String::as_str).collect();
        format!("{file}: is in a cycle of imports by way of {}", used.join(", "))
    };
    within.iter().map(cycle).collect()
}

fn pure_files_are_pure(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for path in PURE {
        let Some(source) = sources.iter().find(|source| source.path == *path) else {
            violations
                .push(format!("{path}: is missing, or PURE in tests/house.rs is out of date"));
            continue;
        };
        for word in IMPURE {
            let uses = scan::words(source.production(), word);
            violations
                .extend(uses.map(|at| format!("{}: `{word}` in a pure file", source.place(at))));
        }
        // `use std::{fs, io}` and `use crate::sys::{fs}` hide the same names.
        for (group, names) in [
            ("std::{", &["fs", "net", "process", "thread", "env"][..]),
            ("sys::{", &["fs", "poll", "process", "socket"][..]),
        ] {
            for (at, _) in source.production().match_indices(group) {
                let end = scan::close_of(&source.code, at + group.len() - 1);
                let inside = &source.code[at..end];
                for name in names.iter().filter(|name| scan::words(inside, name).next().is_some()) {
                    violations
                        .push(format!("{}: `{group}{name}}}` in a pure file", source.place(at)));
                }
            }
        }
    }
    violations
}

fn state_tables_are_total(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for path in TOTAL {
        let Some(source) = sources.iter().find(|source| source.path == *path) else {
            violations
                .push(format!("{path}: is missing, or TOTAL in tests/house.rs is out of date"));
            continue;
        };
        violations.extend(scan::wildcard_arms(source.production()).into_iter().map(|at| {
            format!(
                "{}: an arm for everything in a match over a pair: name the cases",
                source.place(at)
            )
        }));
    }
    violations
}

fn files_are_small(sources: &[Source]) -> Vec<String> {
    let counted: Vec<(&str, usize)> = sources
        .iter()
        .filter(|source| !is_test(source))
        .map(|source| (source.path.as_str(), source.lines()))
        .collect();
    let mut violations: Vec<String> = counted
        .iter()
        // Every limit stands in one file, whatever its length: that is its use.
        .filter(|(path, lines)| *lines > MAX_FILE && *path != "src/limits.rs")
        .map(|(path, lines)| {
            format!("{path}:{lines}: {lines} lines without tests, {MAX_FILE} at most")
        })
        .collect();
    let mut lines: Vec<usize> = counted.iter().map(|(_, lines)| *lines).collect();
    lines.sort_unstable();
    let median = lines.get(lines.len() / 2);
    let all = sources.iter().filter(|source| !is_test(source));
    let total: usize = all.map(Source::lines_of_code).sum();
    if median.is_some_and(|median| *median > MAX_MEDIAN) {
        violations.push(format!("src: the median file has {median:?} lines, {MAX_MEDIAN} at most"));
    }
    if total > MAX_TOTAL {
        violations.push(format!("src: {total} lines of code without tests, {MAX_TOTAL} at most"));
    }
    violations
}

fn files_say_what_they_are_for(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| format!("{}:1: does not begin with //!", source.path))
        .collect()
}

fn nothing_is_left_behind(sources: &[Source]) -> Vec<String> {
    // In pieces, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut violations = Vec::new();
    for source in sources {
        for mark in marks {
            let uses = scan::words(&source.text, mark);
            violations.extend(uses.map(|at| format!("{}: {mark}", source.place(at))));
        }
    }
    violations
}

/// Paths that exist on one machine only.
fn no_machine_paths(files: &[(String, String)]) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in files {
        for prefix in [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")] {
            for (at, _) in text.match_indices(prefix) {
                let rest = &text[at + prefix.len()..];
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || "_-$".contains(*c))
                    .collect();
                let home = prefix.len() == 6 && prefix.ends_with("me/");
                let example = home && (name.is_empty() || HOMES.contains(&name.as_str()));
                // "a/root/b" is a path of somebody's own making.
                let inner =
                    text[..at].ends_with(|c: char| c.is_alphanumeric() || "}>.*)".contains(c));
                if !example && !inner {
                    let line = scan::line_at(text, at);
                    violations
                        .push(format!("{path}:{line}: a path of one machine: {prefix}{name}"));
                }
            }
        }
    }
    violations
}

fn top_level_is_tidy(names: &BTreeSet<String>) -> Vec<String> {
    let strange = names.iter().filter(|name| !TOP_LEVEL.contains(&name.as_str()));
    let strange = strange.map(|name| format!("{name}: has no place at the top level"));
    let missing = TOP_LEVEL.iter().filter(|name| !names.contains(**name));
    let missing = missing.map(|name| format!("{name}: is missing at the top level"));
    strange.chain(missing).collect()
}

// ---------------------------------------------------------- the repository as it is ----

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is, or is about to be, committed.
fn committed() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()
        .expect("git");
    assert!(listed.status.success(), "git ls-files failed");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let names = names.split_terminator('\0').map(str::to_owned);
    names.filter(|name| top().join(name).exists()).collect()
}

fn rust_files(under: &str) -> Vec<Source> {
    let files = committed();
    let ours = files.iter().filter(|path| path.starts_with(under) && path.ends_with(".rs"));
    ours.map(|path| Source::new(path, &read(path))).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Where cargo puts what it builds for release.
fn release_binary() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_hermes-gateway"));
    let target = built.ancestors().nth(2).expect("target directory");
    target.join("release/hermes-gateway")
}

#[track_caller]
fn assert_kept(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Says that a test does not run here; whether that is an excuse, which it is not in CI.
fn skip(reason: &str) -> bool {
    let excused = env::var("CI").as_deref() != Ok("true");
    if excused {
        // Not eprintln!, which the test runner swallows when the test passes.
        let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
    }
    excused
}

#[test]
fn only_sys_has_libc() {
    assert_kept(&libc_only_in_sys(&rust_files("src/")));
}

#[test]
fn only_sys_may_have_unsafe_code() {
    let cargo = fs::read_to_string(top().join("Cargo.toml")).unwrap();
    assert!(cargo.contains("\nunsafe_code = \"deny\"\n"));
    assert_kept(&unsafe_allowed_in_sys_alone(&rust_files("src/")));
}

#[test]
fn every_import_runs_downward() {
    assert_kept(&modules_are_in_order(MODULES));
    assert_kept(&imports_run_downward(&rust_files("src/")));
}

#[test]
fn no_files_import_each_other() {
    assert_kept(&files_have_no_cycles(&rust_files("src/")));
}

#[test]
fn modules_that_decide_do_no_io() {
    assert_kept(&pure_files_are_pure(&rust_files("src/")));
}

#[test]
fn every_state_machine_is_total() {
    assert_kept(&state_tables_are_total(&rust_files("src/")));
}

#[test]
fn every_file_is_small() {
    assert_kept(&files_are_small(&rust_files("src/")));
}

#[test]
fn every_file_says_what_it_is_for() {
    assert_kept(&files_say_what_they_are_for(&rust_files("src/")));
    assert_kept(&files_say_what_they_are_for(&rust_files("tests/")));
}

#[test]
fn nothing_unfinished_is_committed() {
    assert_kept(&nothing_is_left_behind(&rust_files("src/")));
    assert_kept(&nothing_is_left_behind(&rust_files("tests/")));
}

#[test]
fn no_file_names_this_machine() {
    let files: Vec<(String, String)> = committed()
        .into_iter()
        .filter_map(|path| Some((path.clone(), fs::read_to_string(top().join(path)).ok()?)))
        .collect();
    assert_kept(&no_machine_paths(&files));
}

#[test]
fn the_top_level_is_tidy() {
    let files = committed();
    let names = files.iter().filter_map(|path| path.split('/').next());
    assert_kept(&top_level_is_tidy(&names.map(str::to_owned).collect()));
}

#[test]
fn the_fuzzer_builds_with_the_dependencies_of_the_gateway() {
    let [own, of_fuzzer] = ["Cargo.toml", "tests/fuzz/Cargo.toml"]
        .map(|manifest| readme::manifest_dependencies(&read(manifest)));
    let missing: Vec<_> = own.iter().filter(|name| !of_fuzzer.contains(*name)).collect();
    assert!(missing.is_empty() && !own.is_empty(), "not in tests/fuzz/Cargo.toml: {missing:?}");
}

#[test]
fn no_crate_is_built_that_is_not_allowed() {
    let rules = read("tests/deny.toml");
    // Of the fuzzer's crates, which have all of the gateway's among them, every exception is needed.
    for (manifest, all_needed) in [("Cargo.toml", false), ("tests/fuzz/Cargo.toml", true)] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["metadata", "--locked", "--format-version=1", "--manifest-path", manifest]);
        let said = cargo.current_dir(top()).output().expect("cargo metadata");
        let error = String::from_utf8_lossy(&said.stderr);
        // Cargo reads the crates of all platforms.
        if error.contains("download") && skip("dependencies: crates cannot be downloaded") {
            continue;
        }
        assert!(said.status.success(), "{manifest}: {error}");
        let metadata = serde_json::from_slice(&said.stdout).expect("JSON");
        assert_kept(&crates::allowed(&rules, &metadata, all_needed));
    }
}

#[test]
fn the_dependencies_are_listed_with_their_reasons() {
    let direct = readme::manifest_dependencies(&read("Cargo.toml"));
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-e", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--format", "{p}"])
        .current_dir(top())
        .output()
        .expect("cargo tree");
    let words = String::from_utf8_lossy(&tree.stdout).into_owned();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let linked = words.lines().filter_map(|line| line.split(' ').next());
    let linked = linked.filter(|name| *name != env!("CARGO_PKG_NAME"));
    let linked = linked.map(str::to_owned).collect();
    assert_kept(&readme::dependencies(&read("CONTRIBUTING.md"), &direct, &linked));
}

#[test]
fn the_readme_lists_the_exit_statuses() {
    assert_kept(&readme::exit_statuses(&read("README.md"), &read("src/exit.rs")));
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MAX_README, "README.md: {lines} lines, {MAX_README} at most");
}

#[test]
fn the_binary_is_small() {
    let file = release_binary();
    match fs::metadata(&file) {
        Ok(found) if found.len() <= MAX_BINARY => {}
        Ok(found) => panic!("{}: {} bytes, {MAX_BINARY} at most", file.display(), found.len()),
        Err(error) => {
            let skipped = skip(&format!("the binary's size: there is no {}", file.display()));
            assert!(skipped, "{}: {error}", file.display());
        }
    }
}

/// Where a test can have the gateway hang, a release must not be able to.
#[test]
fn a_release_has_no_fault_points() {
    let mark = b"HERMES_GATEWAY_FAULT";
    let has = |binary: &Path| {
        let bytes = fs::read(binary).unwrap_or_default();
        bytes.windows(mark.len()).any(|window| window == mark)
    };
    assert!(has(Path::new(env!("CARGO_BIN_EXE_hermes-gateway"))), "a debug build has them");
    assert!(!has(&release_binary()), "the release has fault points");
}

// --------------------------------------------------- each rule can fail ----

/// One snippet, as the file of this name.
fn file(path: &str, text: &str) -> Vec<Source> {
    vec![Source::new(path, text)]
}

/// Exactly one violation, which says this.
#[track_caller]
fn violates(violations: &[String], of: &str) {
    assert!(
        violations.len() == 1 && violations[0].contains(of),
        "expected one violation with {of:?}, got {violations:#?}"
    );
}

#[test]
fn rule_unsafe_can_fail() {
    violates(&libc_only_in_sys(&file("src/a.rs", "\nuse libc::pid_t;")), "src/a.rs:2: `libc`");
    let allowed = "//! A\n#![allow(unsafe_code)]";
    violates(&unsafe_allowed_in_sys_alone(&file("src/a.rs", allowed)), "src/a.rs:2");
    assert_kept(&unsafe_allowed_in_sys_alone(&file("src/sys/mod.rs", allowed)));
    let said = "// libc, unsafe_code\nconst A: &str = \"libc\";";
    assert_kept(&libc_only_in_sys(&file("src/a.rs", said)));
    assert_kept(&unsafe_allowed_in_sys_alone(&file("src/a.rs", said)));
    assert_kept(&libc_only_in_sys(&file("src/sys/a.rs", "fn f() { libc::getpid() }")));
}

#[test]
fn rule_imports_can_fail() {
    let up = |text| imports_run_downward(&file("src/agent/echo.rs", text));
    violates(&up("use crate::session::Turn;"), "`agent` may not import `session`");
    violates(&up("use crate::{config::Config, api};"), "`api`");
    violates(&up("fn f() { crate::cli::main() }"), "`cli`");
    violates(&up("use super::super::gateway::Gateway;"), "`gateway`");
    assert_kept(&up("use crate::{config::{Config, api}, http, sys::fs};\nuse super::Agent;"));
    assert_kept(&up("// crate::cli\n#[cfg(test)]\nmod tests {\n    use crate::cli::x;\n}\n"));
    violates(
        &imports_run_downward(&file("src/sys/fs.rs", "use crate::config::Config;")),
        "`sys` may not import `config`",
    );
    violates(&imports_run_downward(&file("src/novel.rs", "")), "no place yet");
    violates(&modules_are_in_order(&[("a", "b"), ("b", "")]), "`a` names `b`");
}

#[test]
fn rule_cycles_can_fail() {
    let with = |a: &str, b: &str, c: &str| {
        let files = [("src/x/a.rs", a), ("src/x/b.rs", b), ("src/x/mod.rs", c)];
        let files: Vec<Source> = files.iter().flat_map(|(path, text)| file(path, text)).collect();
        files_have_no_cycles(&files).len()
    };
    assert_eq!(with("use super::b::B;", "use crate::x::a::{self, C};", ""), 2);
    assert_eq!(with("fn f() { super::b::g() }", "use super::{f, Own};", "use a::{\n    f,\n};"), 3);
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::x::a::A;\n}";
    assert_eq!(with("use super::b::B;", tests, "pub use a::A;\npub(super) use b::B;"), 0);
    assert_eq!(with("use super::b::B;", "use super::Own;", "mod a;\nmod b;\npub use a::A;"), 0);
}

#[test]
fn rule_purity_can_fail() {
    let with = |text| {
        let mut sources: Vec<Source> = PURE[1..].iter().flat_map(|path| file(path, "")).collect();
        sources.extend(file(PURE[0], text));
        pure_files_are_pure(&sources)
    };
    violates(&with("use std::fs;"), "verdict.rs:1: `std::fs`");
    violates(&with("\nlet t = Instant::now();"), "verdict.rs:2: `Instant::now`");
    violates(&with("use std::{fmt, process::Command};"), "process");
    violates(&with("use crate::sys::socket::peer;"), "sys::socket");
    assert_kept(&with(
        "use std::time::Instant; // not std::fs\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}",
    ));
    assert_eq!(pure_files_are_pure(&[]).len(), PURE.len());
}

#[test]
fn rule_total_can_fail() {
    let with = |text: &str| {
        let mut sources: Vec<Source> = TOTAL[1..].iter().flat_map(|path| file(path, "")).collect();
        sources.extend(file(TOTAL[0], text));
        state_tables_are_total(&sources)
    };
    let arms = |last: &str| {
        let text = "fn f() {\n    match (self, event) {\n        (A, B) | (A, C) => { g(|_| 1) }\n        \
             (B { x }, _) if x => match x { _ => 1 },\n        ARM\n    }\n}\n";
        with(&text.replace("ARM", last))
    };
    violates(&arms("_ => 2,"), "phase.rs:5");
    violates(&arms("_ if late => 2,"), "phase.rs:5");
    violates(&arms("(_, _) => {}"), "phase.rs:5");
    assert_kept(&arms("(B, C) => 2,"));
    assert_kept(&with("match event { _ => 1 }"));
}

#[test]
fn rule_size_can_fail() {
    let lines = |count: usize| "x\n".repeat(count);
    let mut sources = file("src/a.rs", &lines(401));
    sources.extend(file("src/b.rs", ""));
    sources.extend(file("src/b.rs", ""));
    violates(&files_are_small(&sources), "src/a.rs:401");
    violates(&files_are_small(&file("src/a.rs", &lines(201))), "median");
    let many: Vec<Source> =
        (0..=MAX_TOTAL / 200).flat_map(|_| file("src/a.rs", &lines(200))).collect();
    violates(&files_are_small(&many), "lines of code without tests");
    assert_kept(&files_are_small(&file("src/a/tests.rs", &lines(900))));
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(900));
    assert_kept(&files_are_small(&file("src/a.rs", &tests)));
}

#[test]
fn rule_left_behind_can_fail() {
    for mark in [concat!("// TO", "DO: x"), concat!("// XX", "X")] {
        violates(&nothing_is_left_behind(&file("src/a.rs", mark)), "src/a.rs:1");
    }
    assert_kept(&nothing_is_left_behind(&file("src/a.rs", "let todos = METHODOLOGY;")));
    violates(&files_say_what_they_are_for(&file("src/a.rs", "use x;")), "src/a.rs:1");
}

#[test]
fn rule_machine_paths_can_fail() {
    let with = |text: &str| no_machine_paths(&[("README.md".to_owned(), text.to_owned())]);
    violates(&with(concat!("a\nsee /ro", "ot/.cargo")), "README.md:2");
    violates(&with(concat!("see /ho", "me/karl/x")), "karl");
    assert_kept(&with(concat!("see /ho", "me/tester/x and target/ro", "ots and $dir/x")));
}

#[test]
fn rule_top_level_can_fail() {
    let mut names: BTreeSet<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    assert_kept(&top_level_is_tidy(&names));
    names.insert("notes.txt".to_owned());
    violates(&top_level_is_tidy(&names), "notes.txt: has no place");
    names.remove("notes.txt");
    names.remove("README.md");
    violates(&top_level_is_tidy(&names), "README.md: is missing");
}

#[test]
fn rule_dependencies_can_fail() {
    let readme = "# X\n## Dependencies\n\n| crate | why | brings | bytes |\n|---|---|---|---|\n\
                  | `log` | logging | – | 1 |\n| [serde_json](x) | bodies | `itoa`, memchr | 2 |\n\n## Next\n";
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let check = |direct: &[&str], linked: &[&str]| {
        readme::dependencies(readme, &names(direct), &names(linked))
    };
    let direct = ["log", "serde_json"];
    let linked = ["log", "serde_json", "itoa", "memchr"];
    assert_kept(&check(&direct, &linked));
    violates(&check(&["log", "serde_json", "libc"], &linked), "`libc` is in Cargo.toml");
    violates(&check(&["log"], &linked), "`serde_json` is not in Cargo.toml");
    violates(&check(&direct, &["log", "serde_json", "itoa", "memchr", "zmij"]), "`zmij` is linked");
    violates(&check(&direct, &["log", "serde_json", "itoa"]), "`memchr` is not linked");
    violates(&readme::dependencies("# X", &names(&direct), &names(&linked)), "no section");
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\na-b = \"1\"\nc = { version = \"2\" }\n[lints.rust]\nd = 1\n";
    assert_eq!(readme::manifest_dependencies(manifest), names(&["a-b", "c"]));
}

#[test]
fn rule_crates_can_fail() {
    let rules = "[bans]\ndeny = [{ crate = \"tls\" }, { crate = \"cc\", wrappers = [\"fuzz\"] }]\n\
                 [licenses]\nallow = [\"MIT\"]\nexceptions = [{ crate = \"fuzz\", allow = [\"NCSA\"] }]\n";
    let package = |name: &str, license: &str, source: &str, req: &str| {
        serde_json::json!({
            "id": name, "name": name, "license": license, "source": source,
            "dependencies": [{ "name": "x", "req": req, "kind": null }],
        })
    };
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let check = |more: &[serde_json::Value], user: &str| {
        let fuzz = package("fuzz", "(Zlib OR MIT) AND NCSA", registry, "^1");
        let packages = [&[fuzz, package("cc", "Zlib OR MIT", registry, "^1")], more].concat();
        let nodes = serde_json::json!([{ "id": user, "dependencies": ["cc"] }]);
        let metadata = serde_json::json!({ "packages": packages, "resolve": { "nodes": nodes } });
        crates::allowed(rules, &metadata, true)
    };
    let with = |name: &str, license: &str, source: &str, req: &str| {
        check(&[package(name, license, source, req)], "fuzz")
    };
    assert_kept(&with("a", "MIT", registry, "^1"));
    violates(&with("tls", "MIT", registry, "^1"), "tls: is forbidden");
    violates(&with("fuzz", "MIT", registry, "^1"), "fuzz: is there in two versions");
    violates(&with("a", "MIT", registry, "*"), "a: takes any version of \"x\"");
    violates(&with("a", "MIT", "git+https://example.org/a", "^1"), "a: is from ");
    for license in ["", "NCSA", "MIT AND NCSA", "MIT AND (NCSA OR Zlib)", "Zlib OR NCSA AND MIT"] {
        violates(&with("a", license, registry, "^1"), "a: has the licence ");
    }
    let other = check(&[package("a", "MIT", registry, "^1")], "a");
    assert_eq!(other.len(), 2, "{other:?}");
    assert!(other[0].contains("[\"a\"] use it") && other[1].contains("cc: needs no exception"));
}

#[test]
fn rule_exit_statuses_can_fail() {
    let code = "pub enum Exit {\n    Planned = 0,\n    Config = 78,\n}";
    let readme = |rows: &str| format!("## Exit codes\n\n| exit | meaning |\n|---|---|\n{rows}\n");
    let check = |rows: &str| readme::exit_statuses(&readme(rows), code);
    assert_kept(&check("| 0 | fine |\n| `78` | configuration |"));
    violates(&check("| 0 | fine |"), "78 of src/exit.rs is not in the README");
    violates(
        &check("| 0 | fine |\n| 78 | x |\n| 9 | y |"),
        "9 of the README is not in src/exit.rs",
    );
    violates(&readme::exit_statuses("# X", code), "no section");
}

#[test]
fn literals_and_comments_are_blanked() {
    let text = "a /* b /* c */ d */ e // f\n'g' '\\'' 'h \"i\\\"j\" r#\"k\"l\"# m b\"n\" '→' o";
    let code = scan::blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches('\n').count(), 1);
    let left: String = code.chars().filter(|c| c.is_alphabetic()).collect();
    assert_eq!(left, "aehrmbo");
}
