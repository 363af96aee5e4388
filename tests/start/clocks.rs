//! Clocks that are set, and machines that are switched off, under the real program: the wall clock is
//! libfaketime's, CLOCK_BOOTTIME that of a time namespace, and a file is mounted over the boot's id.
//! The whole table of steps is in `src/session/tests/clocks.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use util::api::{Api, id_of};
use util::{Gateway, Home, Private, Target, script};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const TERM: i32 = 15;
const KILL: i32 = 9;

/// Hours since boot at the first start.
const BOOTED: u64 = 3;

/// Where the test is who sets the clocks.
fn private() -> Private {
    Private::new().needs("faketime", "/usr/bin/faketime")
}

/// A machine: its clocks, and the home of the gateway on it.
struct Machine {
    home: Home,
    boots: u32,
    hours: u64,
    settings: Vec<(&'static str, &'static str)>,
}

impl Machine {
    /// One whose wall clock is right, or off by so much (as faketime has it: "+2d").
    fn new(config: &str, wall: &str) -> Machine {
        let home = Home::new();
        home.configure(config);
        // libfaketime leaves files there that have the names of processes.
        mount(&["-t", "tmpfs", "tmpfs", "/dev/shm"]);
        let mut machine = Machine { home, boots: 0, hours: BOOTED, settings: Vec::new() };
        machine.set(wall);
        machine.reboot();
        machine
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Somebody sets the wall clock.
    fn set(&self, wall: &str) {
        fs::write(self.file("wall.new"), wall).unwrap();
        fs::rename(self.file("wall.new"), self.file("wall")).unwrap();
    }

    /// The next start is in another boot.
    fn reboot(&mut self) {
        if self.boots > 0 {
            assert!(Command::new("umount").arg(BOOT_ID).status().unwrap().success());
        }
        self.boots += 1;
        fs::write(self.file("boot"), format!("boot-{}\n", self.boots)).unwrap();
        mount(&["--bind", self.file("boot").to_str().unwrap(), BOOT_ID]);
    }

    fn start(&self) -> Gateway {
        let since_boot = (self.hours * 3600).to_string();
        let launch = self.home.launch().through(&["unshare", "--time", "--boottime", &since_boot]);
        let launch = launch
            // The dynamic linker knows what $LIB is here.
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1")
            .env("FAKETIME_TIMESTAMP_FILE", self.file("wall").to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let settings = self.settings.iter();
        settings.fold(launch, |launch, (key, value)| launch.set(key, value)).start()
    }
}

#[track_caller]
fn mount(args: &[&str]) {
    assert!(Command::new("mount").args(args).status().unwrap().success(), "mount {args:?}");
}

/// Says how many lines its transcript has.
fn counting() -> String {
    script("cat > /dev/null; wc -l < \"$HERMES_TRANSCRIPT\"")
}

fn year(api: &Api, id: &str) -> u32 {
    let message = api.message(id);
    message["created_at"].as_str().and_then(|time| time[..4].parse().ok()).expect("a year")
}

fn is_known(api: &Api, id: &str) -> bool {
    api.post("/v1/journal/compact", &json!({})).assert_status(200);
    api.get(&format!("/v1/messages/{id}")).head.status == 200
}

/// One message of each kind, and what was said in their session.
struct Kinds {
    keyed: String,
    late: String,
    dead: String,
    said: Vec<String>,
}

impl Kinds {
    #[track_caller]
    fn of(api: &Api) -> Kinds {
        let keyed = id_of(&api.send_keyed("s", "key", "keyed").assert_status(202).json());
        let plain = api.accepted("s", "plain");
        assert_eq!((api.reply(&keyed), api.reply(&plain)), ("0".into(), "2".into()));
        let (late, dead) = (api.deliver("l", "late", "late"), api.deliver("d", "dead", "never"));
        api.until_delivery(&dead, "dead");
        api.until(&late, "an attempt", |m| m["deliveries"][0]["attempts"] != 0);
        Kinds { said: vec![keyed.clone(), plain], keyed, late, dead }
    }

    /// Nothing is lost, doubled or blocked; and one more message is taken.
    #[track_caller]
    fn are_whole(&mut self, api: &Api, cell: &str) {
        for id in self.said.iter().chain([&self.late, &self.dead]) {
            assert!(is_known(api, id), "{cell}: {id} is lost");
            assert_eq!(api.message(id)["attempts"], 1, "{cell}");
        }
        let again = api.send_keyed("s", "key", "keyed").assert_status(200);
        assert_eq!(again.field("idempotent-replayed"), Some("true"), "{cell}");
        assert_eq!(
            (id_of(&again.json()), &again.json()["reply"]),
            (self.keyed.clone(), &"0".into())
        );
        let way = |id: &str| api.message(id)["deliveries"][0]["status"].clone();
        assert_ne!(way(&self.late), "dead", "{cell}: it expired");
        assert_eq!(way(&self.dead), "dead", "{cell}");
        let next = api.accepted("s", "more");
        let lines = 2 * self.said.len();
        assert_eq!(api.reply(&next), lines.to_string(), "{cell}: its transcript");
        self.said.push(next);
    }
}

/// The wall clock goes on in steps over one life, while it runs, over restarts and over reboots.
#[test]
fn no_step_of_the_clock_loses_doubles_or_blocks_anything() {
    private().run(|| {
        let (late, never) =
            (Target::answering(|_, _| 503.into()), Target::answering(|_, _| 400.into()));
        let config = counting() + &late.config("late", "") + &never.config("never", "");
        // A board without a clock of its own.
        let mut machine = Machine::new(&config, "@1970-01-01 00:00:09");
        let mut gateway = machine.start();
        let mut kinds = Kinds::of(&gateway.api());
        assert_eq!(year(&gateway.api(), &kinds.keyed), 1970);
        let walls = ["+0d", "-2d", "+0d", "+2d", "+40d", "+3652d", "+0d"];
        for wall in walls {
            machine.set(wall);
            kinds.are_whole(&gateway.api(), &format!("{wall}, running"));
        }
        for wall in walls {
            machine.set(wall);
            let _ = gateway.end(KILL);
            gateway = machine.start();
            kinds.are_whole(&gateway.api(), &format!("{wall}, restarted"));
        }
        for wall in ["@1970-01-01 00:00:09", "-2d", "+0d", "+2d", "+40d", "+3652d", "+0d"] {
            machine.set(wall);
            machine.reboot();
            let _ = gateway.end(TERM);
            gateway = machine.start();
            kinds.are_whole(&gateway.api(), &format!("{wall}, rebooted"));
        }
        // And all of it is forgotten after its time, which has begun anew in no step. The undelivered
        // one is tried once more first.
        let _ = gateway.end(TERM);
        machine.hours += 25;
        let gateway = machine.start();
        let api = gateway.api();
        api.accepted("n", "the newest, which is always known");
        for id in &kinds.said {
            assert!(!is_known(&api, id), "expiry is blocked");
        }
        let error = api.until_delivery(&kinds.late, "dead")["error"].to_string();
        assert!(error.contains("expired"), "{error}");
        assert!(is_known(&api, &kinds.dead));
        let new = id_of(&api.send_keyed("s", "key", "keyed").assert_status(202).json());
        assert_ne!(new, kinds.keyed);
        let _ = gateway.end(TERM);
        machine.hours += 31 * 24;
        let gateway = machine.start();
        gateway.api().accepted("n", "the newest, which is always known");
        assert!(!is_known(&gateway.api(), &kinds.dead) && !is_known(&gateway.api(), &kinds.late));
    });
}

/// A journal that is filled while the clock is ten years ahead has room again a day later.
#[test]
fn a_clock_that_was_ten_years_ahead_blocks_no_expiry() {
    private().run(|| {
        let mut machine = Machine::new("", "+0d");
        machine.settings = vec![("limits.max_journal", "1MiB")];
        let gateway = machine.start();
        let api = gateway.api();
        let first = api.accepted("n", "in our time");
        machine.set("+3652d");
        let text = "x".repeat(50_000);
        let full = (0..100).find(|number| {
            let answer = api.send_keyed("s", &format!("key{number}"), &text);
            let is_full = answer.head.status == 507;
            // What is left to run would take room of what comes a day later.
            if !is_full {
                api.finished(&id_of(&answer.json()));
            }
            is_full
        });
        let full = full.expect("the journal fills");
        let ahead = id_of(&api.send_keyed("s", "key0", &text).assert_status(200).json());
        assert!(year(&api, &ahead) > year(&api, &first) + 8, "the clock was not ahead");
        machine.set("+0d");
        assert_eq!(api.send_keyed("s", "later", &text).head.status, 507, "no day has passed");
        // Over two restarts: the first in time for nothing.
        let _ = gateway.end(TERM);
        let gateway = machine.start();
        assert_eq!(gateway.api().send_keyed("s", "later", &text).head.status, 507);
        let _ = gateway.end(TERM);
        machine.hours += 25;
        let gateway = machine.start();
        let api = gateway.api();
        api.post("/v1/journal/compact", &json!({})).assert_status(200);
        for number in 0..full / 2 {
            // The same keys, and it is a turn again.
            let answer = api.send_keyed("s", &format!("key{number}"), &text).assert_status(202);
            let message: Value = api.finished(&id_of(&answer.json()));
            assert_eq!(message["status"], "done", "{message}");
        }
    });
}
