//! The manual pages against the code, in both directions: what the program has is in a page, and what
//! a page says the program has. Commands of the pages are run in `commands.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{mdoc, scan, util};

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use mdoc::{Lines, PAGES};
use scan::Source;
use util::api::id_of;
use util::{DEADLINE, Home, Process, Target, TempDir, binary, eventually, script, skip, sys};

type Set = BTreeSet<String>;

fn set<S: ToString>(all: impl IntoIterator<Item = S>) -> Set {
    all.into_iter().map(|one| one.to_string()).collect()
}

/// Fails the test unless both have the same.
#[track_caller]
fn assert_same(what: &str, page: &Set, code: &Set) {
    let missing: Vec<&String> = code.difference(page).collect();
    let invented: Vec<&String> = page.difference(code).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "{what}: not in the page: {missing:?}; not in the code: {invented:?}"
    );
}

/// The sources, without tests.
fn sources() -> Vec<Source> {
    let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::from("src")]);
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(top.join(&dir)).unwrap().flatten() {
            let path = dir.join(entry.file_name());
            let name = path.to_str().unwrap();
            if entry.path().is_dir() && !name.ends_with("/tests") {
                dirs.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("/tests.rs") {
                found.push(Source::new(name, &fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    found
}

/// The text of the one source that has this.
#[track_caller]
fn source_with(words: &str) -> String {
    let production = |source: Source| source.text[..source.production().len()].to_owned();
    let mut all = sources().into_iter().map(production).filter(|text| text.contains(words));
    let found = all.next().unwrap_or_else(|| panic!("no source has {words:?}"));
    assert!(all.next().is_none(), "several sources have {words:?}");
    found
}

/// A file below src, by its name.
#[track_caller]
fn file_named(name: &str) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut dirs = vec![top];
    while let Some(dir) = dirs.pop() {
        let path = dir.join(name);
        if path.is_file() {
            return fs::read_to_string(path).unwrap();
        }
        let below = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
        dirs.extend(below.filter(|path| path.is_dir()));
    }
    panic!("there is no {name} below src");
}

/// The plain string literals of a source.
fn literals(source: &Source) -> Vec<&str> {
    let code = source.production();
    let quotes: Vec<usize> = code.match_indices('"').map(|(at, _)| at).collect();
    quotes.chunks_exact(2).map(|pair| &source.text[pair[0] + 1..pair[1]]).collect()
}

// -------------------------------------------------------------------- the pages ----

#[test]
fn mandoc_has_nothing_to_say_about_the_pages() {
    let mut lint = Command::new("mandoc");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/man");
    // Where the pages are, so that it finds what they refer to.
    let said = match lint.arg("-Tlint").args(PAGES).current_dir(dir).output() {
        Err(e) if e.kind() == ErrorKind::NotFound => return skip("needs the package mandoc"),
        said => said.unwrap(),
    };
    let words = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && words.is_empty(), "{words}");
}

#[test]
fn man_prints_the_source_of_a_page_where_no_terminal_is() {
    let home = Home::new();
    for (words, page, short) in [
        (&["man"][..], PAGES[0], ""),
        (&["man", "toml"], PAGES[1], " toml"),
        (&["man", "hermes-gateway-agent(7)"], PAGES[2], " agent"),
        (&["man", "api.7"], PAGES[3], " api"),
        (&["man", "channel(7)"], PAGES[4], " channel"),
        (&["gateway", "man", "operation"], PAGES[5], " operation"),
    ] {
        let outcome = home.run(words).assert_code(0);
        assert_eq!(outcome.stdout, mdoc::text(page), "{words:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        // What it says can be pasted into a shell.
        let hint = format!("`hermes-gateway man{short} | man -l -`");
        assert!(outcome.stderr.contains(&hint), "{}", outcome.stderr);
    }
    let unknown = home.run(&["man", "config"]).assert_code(64);
    for page in PAGES {
        let (name, section) = page.rsplit_once('.').unwrap();
        assert!(unknown.stderr.contains(&format!("{name}({section})")), "{}", unknown.stderr);
    }
}

#[test]
fn man_shows_a_page_on_a_terminal() {
    let dir = TempDir::new("");
    let fake = dir.path().join("man");
    fs::write(&fake, "#!/bin/sh\necho \"formatted by man $*\"; sed -n 2p \"$1\"\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let (mut ours, theirs) = sys::terminal().expect("a terminal");
    let home = Home::new();
    let mut command = home.command(&["man", "api"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()));
    command.stdin(Stdio::null()).stderr(theirs.try_clone().unwrap()).stdout(theirs);
    let mut child = command.spawn().expect("start it");
    // The command holds the terminal's other end, which must go with the child.
    drop(command);
    let mut said = Vec::new();
    // The other end of a terminal that is closed is an I/O error.
    let _ = ours.read_to_end(&mut said);
    assert!(child.wait().unwrap().success());
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said, "formatted by man /dev/stdin\r\n.Dt HERMES-GATEWAY-API 7\r\n");
}

#[test]
fn install_man_writes_the_pages_and_nothing_else() {
    let dir = TempDir::new("");
    let place = dir.path().join("usr/share/man");
    let install = || {
        // As a package is built: without a home, and with whatever umask.
        let mut command = Command::new("sh");
        let line = "umask 077; exec \"$0\" install --man usr/share/man";
        command.args(["-c", line]).arg(binary()).env_clear().current_dir(dir.path());
        Process::spawn(&mut command).finish(DEADLINE)
    };
    let first = install().assert_code(0);
    assert_eq!(first.stderr, "");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let files = PAGES.map(|page| {
        let file = place.join(format!("man{}", page.rsplit_once('.').unwrap().1)).join(page);
        assert_eq!(fs::read_to_string(&file).unwrap(), mdoc::text(page));
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o644, 0o755));
        assert!(first.stdout.contains(&format!("wrote {}\n", file.display())), "{}", first.stdout);
        file
    });
    assert_eq!(first.stdout.lines().count(), PAGES.len());
    let count = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let found = ["man1", "man5", "man7"].map(|section| count(&place.join(section)));
    assert_eq!((count(dir.path()), count(&place), found), (1, 3, [1, 1, 5]));
    // An older page, which somebody reads, is replaced in one step.
    fs::write(&files[1], "old").unwrap();
    let mut open = File::open(&files[1]).unwrap();
    install().assert_code(0);
    let mut read = String::new();
    open.read_to_string(&mut read).unwrap();
    assert_eq!(
        (read.as_str(), fs::read_to_string(&files[1]).unwrap()),
        ("old", mdoc::text(PAGES[1]))
    );
    // What cannot be written is named.
    fs::remove_dir_all(place.join("man5")).unwrap();
    fs::write(place.join("man5"), "").unwrap();
    let failed = install().assert_code(1);
    assert!(failed.stderr.contains("man5/hermes-gateway.toml.5"), "{}", failed.stderr);
}

// -------------------------------------------------------- commands and options ----

/// An option: short and long name, value.
type Opt = (Option<String>, String, Option<String>);

/// The options of each command, as the program parses them.
fn commands() -> BTreeMap<String, Vec<Opt>> {
    let text = file_named("help.txt");
    let heads = text.lines().filter_map(|line| line.strip_prefix("== "));
    let option = |word: &str| {
        let (names, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        let (short, long) = names.split_once(',').map_or((None, names), |(s, l)| (Some(s), l));
        (short.map(str::to_owned), long.to_owned(), value.map(str::to_owned))
    };
    let command = |head: &str| {
        let mut words = head.split(' ');
        let name = words.next().unwrap().to_owned();
        (name, words.map(option).collect())
    };
    heads.map(command).collect()
}

const GENERAL: [&str; 5] = ["--profile", "--config", "--set", "--help", "--version"];

/// Without those that each command takes.
fn own(options: &[Opt]) -> impl Iterator<Item = &Opt> {
    options.iter().filter(|(_, long, _)| !GENERAL.contains(&long.as_str()))
}

/// An option as the pages write it: `Fl n , -lines Ar N`.
fn described(item: &str) -> Option<Opt> {
    let names = mdoc::marked(item, "Fl").into_iter().map(|name| format!("-{name}"));
    let (long, short): (Vec<String>, Vec<String>) = names.partition(|name| name.starts_with("--"));
    let value = mdoc::marked(item, "Ar").into_iter().next();
    Some((short.into_iter().next(), long.into_iter().next()?, value))
}

#[test]
fn the_page_describes_the_options_of_every_command() {
    let page = Lines::of(PAGES[0]);
    let section = page.section("COMMANDS");
    let titles: Set = set(section.subsections().into_iter().filter(|title| !title.contains(' ')));
    let code = commands();
    assert_same("commands", &titles, &set(code.keys()));
    // Described once for all that have it.
    let shared = section.subsection("Which unit a command acts on").0;
    let mut shared = shared.iter().skip_while(|line| *line != ".Fl -system").skip(1);
    let shared: Vec<String> =
        shared.by_ref().take_while(|line| !line.starts_with("select")).cloned().collect();
    let shared = set(Lines(shared).marked("Cm"));
    for (name, options) in &code {
        let mut page: BTreeSet<Opt> =
            section.subsection(name).items().filter_map(described).collect();
        if shared.contains(name) {
            page.insert((None, "--system".to_owned(), None));
        }
        let code: BTreeSet<Opt> = own(options).cloned().collect();
        assert_eq!(page, code, "{name}: the page, the code");
    }
}

#[test]
fn the_synopsis_has_every_command_with_its_options() {
    let code = commands();
    let mut page: BTreeMap<String, Set> = BTreeMap::new();
    let synopsis = Lines::of(PAGES[0]).section("SYNOPSIS").0.join("\n");
    for form in synopsis.split(".Nm").skip(1) {
        let form = Lines(form.lines().map(str::to_owned).collect());
        let line = form.0.iter().find(|line| line.contains("Cm ")).expect("a command");
        let words = mdoc::marked(line.trim_start_matches('.'), "Cm");
        let all = if line.contains(" | ") { &words[..] } else { &words[..1] };
        for name in all {
            let options = code.get(name).unwrap_or_else(|| panic!("no command {name}"));
            let long = |word: String| {
                let word = format!("-{word}");
                let known = options.iter().find(|(short, ..)| short.as_ref() == Some(&word));
                known.map_or(word, |(_, long, _)| long.clone())
            };
            let general = ["-p", "--config", "--set"];
            let found = form.marked("Fl").into_iter().map(long);
            let found = found.filter(|option| !general.contains(&option.as_str()));
            page.entry(name.clone()).or_default().extend(found);
        }
    }
    let code: BTreeMap<String, Set> = code
        .iter()
        .map(|(name, options)| (name.clone(), set(own(options).map(|(_, long, _)| long))))
        .collect();
    assert_eq!(page, code, "the synopsis, the code");
}

#[test]
fn the_page_has_the_general_options_and_says_who_takes_them() {
    let general = Lines::of(PAGES[0]).subsection("General options");
    let described: Vec<Opt> = general.items().filter_map(described).collect();
    assert_same("options", &set(described.iter().map(|(_, long, _)| long)), &set(GENERAL));
    let (home, values) = (
        Home::new(),
        BTreeMap::from([("NAME", "a"), ("FILE", "/x"), ("KEY=VALUE", "log.level=info")]),
    );
    for (short, long, value) in &described {
        for name in [short.as_ref(), Some(long)].into_iter().flatten() {
            let mut words = vec![name.as_str()];
            words.extend(value.as_deref().map(|value| values[value]));
            words.push("version");
            home.run(&words).assert_code(0);
        }
    }
    let at = general.0.iter().rposition(|line| line == ".Fl -set").unwrap();
    let page = set(Lines(general.0[at..].to_vec())
        .marked("Cm")
        .into_iter()
        .take_while(|word| word != "reload"));
    // These accept what they have no use for, and `install` has an error of its own for it.
    let takes = |name: &str| !["install", "help", "version"].contains(&name);
    let code = commands().into_iter().filter(|(name, options)| {
        takes(name) && options.iter().any(|(_, long, _)| long == "--config")
    });
    assert_same("--config and --set", &page, &set(code.map(|(name, _)| name)));
}

#[test]
fn the_page_has_what_journal_and_config_take() {
    let home = Home::new();
    let section = Lines::of(PAGES[0]).section("COMMANDS");
    let journal = section.subsection("journal");
    let page = journal.items().filter_map(|item| mdoc::marked(item, "Cm").into_iter().next());
    let help = home.run(&["journal", "--help"]).assert_code(0).stdout;
    let word = |line: &str| {
        let word = line.strip_prefix("  ")?.split(' ').next()?;
        word.starts_with(char::is_alphabetic).then(|| word.to_owned())
    };
    assert_same("journal", &set(page), &set(help.lines().filter_map(word)));
    let pages = home.run(&["man", "x"]).assert_code(64).stderr;
    for page in section.subsection("man").marked("Cm") {
        assert!(pages.contains(&page) || page == "man", "man takes no {page:?}");
    }
}

#[test]
fn the_page_has_every_exit_status() {
    let page = Lines::of(PAGES[0]).section("EXIT STATUS");
    let code = source_with("pub enum Exit {");
    let number = |line: &str| line.strip_suffix(',')?.split_once(" = ")?.1.parse::<u8>().ok();
    assert_same("exit statuses", &set(page.items()), &set(code.lines().filter_map(number)));
}

// ---------------------------------------------------------------- environment ----

/// Variables that the code names and no page: they are not the user's business.
const UNDOCUMENTED: [&str; 13] = [
    // A field of the system's log.
    "USER_UNIT",
    // Of the build.
    "CARGO_CFG_TARGET_ENV",
    "CARGO_CFG_TARGET_FEATURE",
    "CARGO_CFG_TARGET_OS",
    "CARGO_PKG_VERSION",
    "OUT_DIR",
    // Set for systemctl and journalctl.
    "DBUS_SESSION_BUS_ADDRESS",
    "SYSTEMD_COLORS",
    "SYSTEMD_LOG_LEVEL",
    // A member of a notification.
    "EXTEND_TIMEOUT_USEC",
    // For the tests.
    "HERMES_FULL",
    "HERMES_GATEWAY_FAULT",
    "HERMES_TEST_NO_FDATASYNC",
];

#[test]
fn the_pages_have_every_environment_variable() {
    let is_name = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    let pages: Set = PAGES
        .iter()
        .flat_map(|page| Lines::of(page).marked("Ev"))
        // The beginning of several names, and a variable of curl's.
        .filter(|name| !name.ends_with('_') && name != "CURL_CA_BUNDLE")
        .collect();
    let sources = sources();
    let all: Vec<&str> = sources.iter().flat_map(literals).collect();
    let words: Set = set(all
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')));
    let invented: Vec<&String> = pages.iter().filter(|name| !words.contains(*name)).collect();
    assert!(invented.is_empty(), "not in the code: {invented:?}");
    // Described, and not only named: where a reader looks for them.
    let described: Set = [PAGES[0], PAGES[2], PAGES[4]]
        .iter()
        .flat_map(|page| Lines::of(page).section("ENVIRONMENT").marked("Ev"))
        .collect();
    // A literal that is the name of a variable, or a list of them.
    let names = all.iter().filter(|text| text.split_whitespace().all(is_name));
    let names = names.flat_map(|text| text.split_whitespace());
    let missing: Set = set(names.filter(|name| {
        // What the names of some begin with is none.
        name.contains('_')
            && !name.ends_with('_')
            && !described.contains(*name)
            && !UNDOCUMENTED.contains(name)
    }));
    assert!(missing.is_empty(), "in no section ENVIRONMENT: {missing:?}");
    for name in UNDOCUMENTED {
        assert!(words.contains(name), "{name} is not in the code any more");
    }
}

// -------------------------------------------------------------- configuration ----

/// A key's section, its name, and the line that says its type, default and limits.
fn keys_of_the_page() -> Vec<(String, String, String)> {
    let (mut section, mut keys) = (String::new(), Vec::new());
    let lines = Lines::of(PAGES[1]).section("KEYS").0;
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix(".Ss [") {
            let title = title.split_once(']').expect("a section in brackets").0;
            section =
                title.replace("channel.NAME", "channel.CHANNEL").replace("keys.NAME", "keys.KEY");
        } else if let Some(name) = line.strip_prefix(".It Ic ") {
            let said: Vec<&str> =
                lines.by_ref().take_while(|line| *line != ".br").map(String::as_str).collect();
            keys.push((section.clone(), name.to_owned(), said.join(" ")));
        }
    }
    keys
}

/// A section of each kind that has a name, which no two kinds may share.
const CONFIGURED: &str = "[deliver.NAME]\nurl = \"http://x/\"\n[channel.CHANNEL]\n\
                          command = [\"x\"]\n[keys.KEY]\nfile = \"/x\"\n";

#[test]
fn the_page_has_every_key_with_its_default_and_limits() {
    let home = Home::new();
    home.configure(CONFIGURED);
    let shown = home.run(&["config"]).assert_code(0).stdout;
    let (mut section, mut defaults) = ("", BTreeMap::new());
    for line in shown.lines() {
        if let Some(head) = line.strip_prefix('[') {
            section = head.trim_end_matches(']');
        } else if let Some((name, rest)) = line.split_once(" = ") {
            let (value, origin) = rest.rsplit_once('#').expect("an origin");
            let place = (section.to_owned(), name.to_owned());
            defaults.insert(place, (value.trim().to_owned(), origin.trim() == "default"));
        }
    }
    // The file that `install` writes, which has each key, and no other (a unit test of its own).
    let starter = file_named("starter.toml");
    let known = starter.lines().filter_map(|line| {
        let line = line.strip_prefix("#   ").or(line.strip_prefix("# ")).unwrap_or(line);
        let (name, _) = line.split_once(" = ")?;
        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then(|| name.to_owned())
    });
    let page = keys_of_the_page();
    let names: Vec<&String> = page.iter().map(|(_, name, _)| name).collect();
    assert_eq!(
        names,
        known.collect::<Vec<_>>().iter().collect::<Vec<_>>(),
        "keys of the page, of the code"
    );
    for (section, name, line) in &page {
        let place = format!("{section}.{name}");
        let of = |value: &str| home.run(&["--set", &format!("{place}={value}"), "config"]);
        if line.ends_with("; required.") {
            assert!(!defaults[&(section.clone(), name.clone())].1, "{place}");
            continue;
        }
        let (_, rest) = line.split_once("; default ").unwrap_or_else(|| panic!("{place}: {line}"));
        let rest = rest.strip_suffix('.').unwrap();
        let (default, range) =
            rest.split_once("; from ").map_or((rest, None), |(d, r)| (d, Some(r)));
        match defaults.get(&(section.clone(), name.clone())) {
            // The one that depends on the machine is shown as what comes of it.
            Some((_, true)) if place == "limits.max_turns" => assert_eq!(default, "0"),
            Some((value, true)) => assert_eq!(value, default, "{place}"),
            // Only what is set is shown of a section with a name, with some defaults.
            Some((_, false)) | None => {
                assert!(["\"\"", "[]", "{}"].contains(&default), "{place}: {default}");
            }
        }
        let wrong = of("99999999999999").assert_code(78).stderr;
        // No time is shown in the smallest unit.
        let bounds = wrong
            .split_once("between")
            .map(|(_, bounds)| bounds.replacen(" 0ms and", " 0s and", 1));
        match (range, bounds) {
            (Some(range), Some(bounds)) => {
                let range = range.replace(" to ", " and ").replace('"', "");
                assert!(bounds.starts_with(&format!(" {range},")), "{place}: {range}, not {wrong}");
                let (least, most) = range.split_once(" and ").unwrap();
                of(least).assert_code(0);
                of(most).assert_code(0);
            }
            (None, None) => {}
            (range, _) => panic!("{place}: {range:?}, but the code says {wrong}"),
        }
    }
}

// ------------------------------------------------------------------------ HTTP ----

#[test]
fn the_page_has_every_route() {
    let code = source_with("static ROUTES");
    let mut routes = Set::new();
    for line in code.lines().filter_map(|line| line.trim().strip_prefix("Route(")) {
        let parts: Vec<&str> = line.splitn(5, ", ").collect();
        let [method, path, scope, class, handler] = parts[..] else { continue };
        if !path.starts_with('"') {
            continue;
        }
        let path = path.trim_matches('"').replace("sessions/*", "sessions/{session}");
        let path = path.replace("models/*", "models/{model}");
        let access = match (handler.starts_with("Open"), class) {
            (true, _) => "no key",
            (false, "Reload" | "Process") => "control socket",
            _ => scope.trim_matches('"'),
        };
        routes.insert(format!("{} {path}: {access}", method.to_uppercase()));
    }
    let lines = Lines::of(PAGES[3]).section("ROUTES").0;
    let (mut page, mut open) = (Set::new(), Vec::new());
    for (n, line) in lines.iter().enumerate() {
        if let Some(route) = line.strip_prefix(".It Ic ") {
            open.push(route);
        }
        let access = match line.as_str() {
            "No key." => "no key",
            "On the control socket only." => "control socket",
            "Scope" => lines[n + 1].trim_start_matches(".Dv ").trim_end_matches(" ."),
            _ => continue,
        };
        page.extend(open.drain(..).map(|route| format!("{route}: {access}")));
    }
    assert!(open.is_empty(), "without a scope: {open:?}");
    assert_same("routes", &page, &routes);
}

#[test]
fn the_page_has_every_error_code() {
    let mut page = BTreeMap::new();
    let lines = Lines::of(PAGES[3]).section("ERROR CODES");
    for item in lines.items() {
        let (statuses, code) = item.split_once(" Dv ").expect("a code");
        page.insert(code.to_owned(), set(statuses.split(", ")));
    }
    let (sources, mut code) = (sources(), BTreeMap::<String, Set>::new());
    for source in &sources {
        for (at, _) in source.production().match_indices(", \"") {
            let before = &source.text[..at];
            let status = before.get(at.saturating_sub(3)..).unwrap_or_default();
            let (word, _) = source.text[at + 3..].split_once('"').unwrap();
            let is_code = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if status.parse::<u16>().is_ok_and(|n| (400..600).contains(&n))
                && is_code
                && !word.is_empty()
            {
                code.entry(word.to_owned()).or_default().insert(status.to_owned());
            }
        }
    }
    // Limits: their status comes with what is full.
    for word in ["session_queue_full", "share_reached"] {
        assert!(sources.iter().any(|source| literals(source).contains(&word)), "{word}");
        code.insert(word.to_owned(), page.get(word).cloned().unwrap_or_default());
    }
    assert_eq!(page, code, "codes and their statuses: the page, the code");
}

#[test]
fn the_page_has_every_event() {
    let page = Lines::of(PAGES[3]);
    let records = source_with("pub enum Step {");
    let parser = source_with("fn record(&mut self)");
    let (_, parse) = parser.split_once("match self.kind {").expect("where records are read");
    let kinds =
        parse.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => "));
    let kinds = kinds.flat_map(|(words, _)| words.split("\" | \""));
    let mut kinds = set(kinds.filter(|word| !["", "channel", "clock"].contains(word)));
    // Those that are in no record.
    kinds.extend(["delta", "tool", "plan"].map(str::to_owned));
    let session = page.section("SESSION EVENTS");
    let (events, rest): (Vec<&str>, Vec<&str>) =
        session.items().partition(|item| item.starts_with("Dv "));
    assert!(rest.is_empty(), "{rest:?}");
    assert_same("session events", &set(events.iter().map(|item| &item[3..])), &kinds);

    // What they have: members of records, but for those that only the gateway needs.
    let hidden = ["key", "body", "erased", "essential", "boot", "since_boot"];
    // Of records that are no session's.
    let others = ["channel", "fact", "value"];
    let mut fields = Set::new();
    for name in ["Accepted", "Approval", "Retry", "Origin", "Part"] {
        let name = format!("pub struct {name} {{");
        let source = source_with(&name);
        let (_, body) = source.split_once(&name).unwrap();
        let lines = body.split_once("\n}").unwrap().0.lines();
        fields.extend(lines.filter_map(|line| {
            Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0.to_owned())
        }));
    }
    for (_, rest) in ["put(\"", "add(\""]
        .iter()
        .flat_map(|call| records.split(call).skip(1).map(move |rest| (call, rest)))
    {
        fields.insert(rest.split_once('"').unwrap().0.to_owned());
    }
    fields.extend(["t", "age", "off", "attempt", "offset"].map(str::to_owned));
    // Of live events.
    fields.extend(["how", "message", "expires_at", "entries"].map(str::to_owned));
    fields.retain(|field| !hidden.iter().chain(&others).any(|name| name == field));
    // Inside of `report`, `detail` and `entries`.
    let inner = ["usage", "finish", "status", "retry_after", "content", "priority"];
    let marked = session.marked("Va").into_iter().filter(|word| !inner.contains(&word.as_str()));
    assert_same("fields of session events", &set(marked), &fields);

    let responses = source_with("\"response.created\"");
    let streams = page.section("STREAMS").subsection("Responses");
    let named = |source: &str| {
        let words = source.split('"').filter(|word| word.starts_with("response."));
        set(words
            .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b".{}_".contains(&b))))
    };
    let mut code = named(&responses);
    // `response.` and what a response is in the end.
    assert!(code.remove("response.{status}"), "{code:?}");
    code.extend(["response.completed", "response.incomplete", "error"].map(str::to_owned));
    assert_same(
        "response events",
        &set(streams.items().map(|item| item.trim_start_matches("Dv "))),
        &code,
    );
}

/// The names of an object's members, those of objects in it too.
fn members(value: &Value, found: &mut Set) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                members(value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| members(value, found)),
        _ => {}
    }
}

fn top(value: &Value) -> Set {
    set(value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys())
}

#[test]
fn the_pages_have_the_members_of_messages_status_and_callbacks() {
    let (home, target) = (Home::new(), Target::start());
    let secret = home.path().join("secret");
    fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let agent = "case $(cat) in later) exit 75;; hold*) exec sleep 60;; esac; echo 'hermes-usage: {\"total_tokens\":8}' >&2; echo hi";
    let more = format!("secret_file = \"{}\"", secret.display());
    home.configure(&format!("{}{}", script(agent), target.config("out", &more)));
    let gateway = home.start();
    let (api, page) = (gateway.api(), Lines::of(PAGES[3]));

    let file = json!({ "type": "text/plain", "data": "AAAA" });
    let body = json!({ "text": "x", "deliver": "out", "attachments": [file] });
    let id = id_of(&api.send_json("s", &body).assert_status(202).json());
    api.until_delivery(&id, "delivered");
    let mut message = api.message(&id);
    // An upstream's reply may have them; tests/turns/tools.rs has one that has.
    message["tool_calls"] = Value::Null;
    // Nor has it open questions; tests/turns/living has one that has.
    message["approvals"] = json!([
        { "message": 1, "id": 1, "title": 1, "kind": 1, "input": 1, "expires_at": 1 }
    ]);
    let object = page.after("The message object:", &[".El"]);
    let items = object.items().map(|item| item.trim_start_matches("Va ").to_owned());
    assert_same("the message", &items.collect(), &top(&message));
    let later = api.accepted("t", "later");
    let waits = api.until(&later, "another try", |message| message["waiting"].is_object());
    let mut all = Set::new();
    members(&message, &mut all);
    members(&waits, &mut all);
    all.remove("total_tokens");
    // Keys of the configuration are marked, too.
    let marked = object.marked("Va").into_iter().filter(|word| !word.contains('.'));
    assert_same("the message, with what it has inside", &marked.collect(), &all);

    let callback = target.wait_for(1).remove(0);
    let body = page.after("The body, the same in each attempt:", &[".El"]);
    let mut all = Set::new();
    members(&callback.json(), &mut all);
    let marked = body.marked("Va");
    assert_same("a callback", &set(marked), &all);
    let header = page.after(".Ql POST", &[".El"]);
    for item in header.items() {
        callback.field(item.trim_start_matches("Ic "));
    }
    let sent = callback.fields.iter().filter(|(name, _)| name.starts_with("webhook-"));
    assert_eq!(header.items().count(), sent.count(), "{callback:?}");

    home.configure("[agent]\nx = 1\n");
    home.run(&["reload"]).assert_code(78);
    // Small buffers are not counted.
    let _holds = gateway.begin(&format!("hold{}", "x".repeat(100_000)), false);
    gateway.wait_for_turns(1);
    let status = gateway.status();
    let route = page.after(".It Ic GET /v1/status", &[".El"]);
    let living = Home::new();
    living.configure(
        "[agent]\ncommand = [\"cat\"]\nprotocol = \"lines\"\npreload = true\n\
         [channel.office]\ncommand = [\"cat\"]\n",
    );
    let mut all = Set::new();
    let living = living.start();
    eventually("a process", || {
        members(&living.status()["processes"], &mut all);
        (!all.is_empty()).then_some(())
    });
    members(&living.status()["channels"], &mut all);
    members(&status, &mut all);
    let words = set(route.marked("Va"));
    assert_same("the status", &words, &all);
    let own = Lines::of(PAGES[0]).section("COMMANDS").subsection("status");
    let own = own.after("The members of the object are", &[".Pp"]);
    let outcome = home.run(&["status", "--json"]).assert_code(0);
    let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
    // Only where the versions differ.
    let code = top(&json).into_iter().chain(["client_version".to_owned()]).collect();
    assert_same("status --json", &set(own.marked("Ic")), &code);
    assert_eq!(json["state"], json!("running"));
}
