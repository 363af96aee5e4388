//! The adapters that the manual page shows, and what `channel check` says of the small one, and of the same
//! with a fault in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{mdoc, util};

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mdoc::{PAGES, literal_blocks};
use util::sys::kill;
use util::{Home, Outcome, Process, TempDir, eventually};

/// For one adapter.
const LIMIT: Duration = Duration::from_secs(300);

/// The small adapter of the page.
fn notes() -> String {
    let blocks = literal_blocks(PAGES[4]);
    let block = blocks.iter().find_map(|block| block.strip_prefix("$ cat > notes.py <<'EOF'\n"));
    block.unwrap().split_once("EOF\n").unwrap().0.to_owned()
}

/// Checks an adapter whose platform is a directory with so many messages.
fn check(adapter: &str, wait: &str) -> Outcome {
    let dir = TempDir::new("");
    let (_home, check) = begin(&dir, adapter, wait, 30);
    check.finish(LIMIT)
}

/// Begins such a check. It has its temporary directory in that directory.
fn begin(dir: &TempDir, adapter: &str, wait: &str, messages: usize) -> (Home, Process) {
    let home = Home::new();
    let place = |name: &str| dir.path().join(name);
    fs::create_dir(place("to")).unwrap();
    fs::write(place("to/ann"), "").unwrap();
    let mut people = OpenOptions::new().create(true).append(true).open(place("in")).unwrap();
    (0..messages).for_each(|n| writeln!(people, "ann {n}").unwrap());
    fs::write(place("adapter"), adapter).unwrap();
    fs::set_permissions(place("adapter"), fs::Permissions::from_mode(0o755)).unwrap();
    let (adapter, chat) =
        (place("adapter").display().to_string(), dir.path().display().to_string());
    let words = ["channel", "check", "--to", "ann", "--wait", wait, "--", &adapter, &chat];
    fs::create_dir(place("tmp")).unwrap();
    let check = Process::spawn(home.command(&words).env("TMPDIR", place("tmp")));
    (home, check)
}

#[test]
fn a_signal_ends_the_check_and_its_adapter_and_nothing_of_them_is_left() {
    let adapter = notes()
        .replace("hello = lines", "open(\"pid\", \"w\").write(str(os.getpid()))\nhello = lines");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let dir = TempDir::new("");
        // One of them is not even ready.
        let is_ready = signal != libc::SIGHUP;
        let adapter = if is_ready {
            adapter.clone()
        } else {
            adapter.replace("say(\"ready", "dict(op=\"ready")
        };
        let (_home, check) = begin(&dir, &adapter, "100", 0);
        let pid: i32 = eventually("the adapter", || {
            fs::read_to_string(dir.path().join("pid")).ok()?.parse().ok()
        });
        if is_ready {
            check.wait_for_log("write messages", LIMIT);
        }
        check.signal(signal);
        let outcome = check.finish(LIMIT).assert_code(128 + signal);
        assert!(!outcome.stdout.contains("wrong"), "{}", outcome.stdout);
        assert!(kill(pid, 0).is_err(), "the adapter runs");
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn the_page_has_the_adapter_for_irc() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/channels/irc.py");
    let file = fs::read_to_string(file).unwrap();
    assert!(literal_blocks(PAGES[4]).iter().any(|block| format!("{block}\n") == file));
    assert!(file.lines().count() <= 150);
}

#[test]
fn the_check_has_nothing_to_say_about_the_small_adapter() {
    let outcome = check(&notes(), "60").assert_code(0);
    let untried: Vec<&str> =
        outcome.stdout.lines().filter(|line| line.starts_with("not tried")).collect();
    assert_eq!(untried.len(), 2, "{untried:?}");
    assert!(outcome.stdout.ends_with("17 ok, 0 wrong, 2 not tried\n"), "{}", outcome.stdout);
}

#[test]
fn the_check_waits_for_messages_that_come_one_by_one() {
    let say = "say(\"message\", **flying[-1])";
    let adapter = notes().replace(say, &format!("{say}; time.sleep(0.3)"));
    let outcome = check(&adapter, "60").assert_code(0);
    assert!(outcome.stdout.ends_with("17 ok, 0 wrong, 2 not tried\n"), "{}", outcome.stdout);
}

#[test]
fn the_check_sends_again_what_has_failed_for_now_and_what_is_uncertain() {
    for kind in ["temporary", "uncertain"] {
        let person = "m[\"conversation\"] in os.listdir(\"to\")";
        let first = format!("m[\"attempt\"] > 1 and {person}");
        let failed = format!("kind=\"{kind}\" if {person} else \"permanent\", retry_after=1");
        let adapter = notes().replace(person, &first).replace("kind=\"permanent\"", &failed);
        let outcome = check(&adapter, "60").assert_code(0);
        assert!(outcome.stdout.ends_with("17 ok, 0 wrong, 2 not tried\n"), "{}", outcome.stdout);
        // What lasts is said.
        let never = adapter.replace("m[\"attempt\"] > 1", "m[\"attempt\"] > 90");
        let outcome = check(&never, "3").assert_code(0);
        let why = "not tried  parts: part 0 has failed: there is no such person";
        assert!(outcome.stdout.contains(why), "{}", outcome.stdout);
    }
}

#[test]
fn the_check_finds_each_fault_of_an_adapter() {
    // The check that finds it, or what it says; what is replaced, and by what.
    let faults: [(&str, &[(&str, &str)]); 23] = [
        ("start", &[("v=1", "v=2")]),
        ("start", &[("window=8,", "window=0,")]),
        ("start", &[("flush=True", "flush=False")]),
        ("start", &[("hello = lines.get()", "hello = lines.get(); print('starting', flush=True)")]),
        ("ping", &[("        say(\"pong\")", "        print(\"debug\")")]),
        ("many lines", &[("lines.put(json", "lines.qsize() > 100 or lines.put(json")]),
        ("unknown", &[("elif m[\"op\"] == \"send\":", "else:")]),
        ("nobody", &[("m[\"conversation\"] in os.listdir(\"to\")", "True")]),
        ("nobody", &[("kind=\"permanent\"", "kind=\"uncertain\"")]),
        ("parts", &[("\"part\": m[\"part\"]", "\"part\": 0")]),
        (
            "markdown",
            &[(
                "m[\"conversation\"] in os",
                "m[\"text\"][:2] != \"*a\" and m[\"conversation\"] in os",
            )],
        ),
        ("parts", &[("box.write", "say(\"sent\", **which, id=\"1\"); box.write")]),
        ("repeated", &[("== \"send\":", "== \"send\" and m[\"attempt\"] < 2:")]),
        ("repeated", &[("outbound=\"id\"", "outbound=\"key\"")]),
        ("number 4 where 3 is due", &[("n + 1", "n + 2")]),
        ("refused for now", &[("        again.append(item)", "        pass")]),
        ("refused for now", &[(">= again_at", ">= 0")]),
        (
            "is over its window of 8",
            &[("len(waiting) < 8", "len(waiting) < 80"), ("len(flying) < 8", "len(flying) < 80")],
        ),
        ("killed", &[("people.seek(int(hello[\"cursor\"]))", "pass")]),
        ("killed", &[("\"id\": cursor", "\"id\": str(time.time())")]),
        ("other account", &[("hello[\"cursor_account\"] == \"notes\"", "hello[\"cursor\"]")]),
        ("end", &[("    lines.put({\"op\": \"end\"})", "    pass")]),
        ("end", &[("        break\n    elif", "        sys.exit(1)\n    elif")]),
    ];
    let adapter = notes();
    thread::scope(|scope| {
        let all = faults.map(|(name, changes)| {
            let mut adapter = adapter.clone();
            for (of, to) in changes {
                assert!(adapter.contains(of), "{of}");
                adapter = adapter.replacen(of, to, 1);
            }
            scope.spawn(move || (name, changes, check(&adapter, "5")))
        });
        for one in all {
            let (name, changes, outcome) = one.join().unwrap();
            let outcome = outcome.assert_code(1);
            let expected = format!(" {name}: ");
            let mut wrong = outcome.stdout.lines().filter(|line| line.starts_with("wrong"));
            let is_found = wrong.any(|line| line.contains(&expected));
            assert!(is_found, "{changes:?}: {}", outcome.stdout);
        }
    });
}
