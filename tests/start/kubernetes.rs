//! In a pod as Kubernetes makes it: a uid that no passwd file knows, a read-only root, secrets and
//! configuration behind `..data` symlinks, 64 descriptors, and no control groups.
//!
//! The container is a directory: an overlay of this machine's files, read-only, with volumes as the
//! kubelet mounts them. Who writes into a ConfigMap writes from outside, where it is not read-only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::Value;
use util::{Api, Caller, DEADLINE, Outcome, Private, Process, binary, pause};

const UID: u32 = 12345;
/// Where the pod's files are: whatever is mounted there goes with the test's namespace.
const BASE: &str = "/mnt";
const ROOT: &str = "/mnt/root";
const PROGRAM: &str = "/app/hermes-gateway";
/// A key of alice's: 64 hexadecimal digits, as `openssl rand -hex 32` makes them.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// How many clients there are.
const CLIENTS: usize = 40;

/// The agent says what it was told, which attempt it is, and how many lines were said before.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[keys.alice]
file = "/secrets/alice.key"
[agent]
command = ["sh", "-c", 'echo "$(cat) after $(wc -l < "$HERMES_TRANSCRIPT")"']
"#;

/// Where the gateway looks for its files, in this environment.
struct Places {
    env: &'static [(&'static str, &'static str)],
    config: &'static str,
    state: &'static str,
}

/// No variable but HOME, which is the root: what a container without a passwd entry has.
const HOME_IS_THE_ROOT: Places =
    Places { env: &[("HOME", "/")], config: "/.config/hermes-gateway", state: "/.local/state" };

/// No HOME at all; all places are named.
const NO_HOME: Places = Places {
    env: &[
        ("XDG_CONFIG_HOME", "/config"),
        ("XDG_STATE_HOME", "/state"),
        ("XDG_RUNTIME_DIR", "/runtime"),
    ],
    config: "/config/hermes-gateway",
    state: "/state",
};

/// A pod: volumes and a container's root; what runs in it is [`Container`].
struct Pod {
    places: Places,
    /// The gateway is process 1 of a pid namespace.
    first: bool,
}

#[track_caller]
fn tool(words: &[&str]) {
    let (program, args) = words.split_first().unwrap();
    Process::spawn(Command::new(program).args(args)).finish(DEADLINE).assert_code(0);
}

#[track_caller]
fn make_dir(path: &str, mode: u32) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A volume of the kubelet's with an fsGroup: root's, and the group's to write.
#[track_caller]
fn volume(name: &str, mode: u32) -> String {
    let at = format!("{BASE}/volumes/{name}");
    fs::create_dir_all(&at).unwrap();
    tool(&["mount", "-t", "tmpfs", "-o", &format!("mode={mode:o},gid={UID}"), "volume", &at]);
    at
}

/// Writes a version of a ConfigMap or Secret as the kubelet does: a new directory, and `..data`, which
/// is replaced in one step.
#[track_caller]
fn project(volume: &str, version: &str, mode: u32, files: &[(&str, &str)]) {
    let dir = format!("{volume}/..{version}");
    make_dir(&dir, 0o2755);
    chown(&dir, Some(0), Some(UID)).unwrap();
    for (name, text) in files {
        let file = format!("{dir}/{name}");
        fs::write(&file, text).unwrap();
        chown(&file, Some(0), Some(UID)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let link = format!("{volume}/{name}");
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("..data/{name}"), &link).unwrap();
        }
    }
    let new = format!("{volume}/..data_tmp");
    symlink(format!("..{version}"), &new).unwrap();
    fs::rename(&new, format!("{volume}/..data")).unwrap();
}

#[track_caller]
fn bind(volume: &str, at: &str, read_only: bool) {
    let at = format!("{ROOT}{at}");
    fs::create_dir_all(&at).unwrap();
    tool(&["mount", "--bind", volume, &at]);
    if read_only {
        tool(&["mount", "-o", "remount,bind,ro", &at]);
    }
}

impl Pod {
    /// Mounts everything. To be called in the namespaces of [`Private`] alone.
    #[track_caller]
    fn make(places: Places, first: bool, config: &str) -> Pod {
        tool(&["mount", "-t", "tmpfs", "-o", "mode=755", "pod", BASE]);
        for name in ["root", "upper", "work"] {
            fs::create_dir(format!("{BASE}/{name}")).unwrap();
        }
        let layers = format!("lowerdir=/,upperdir={BASE}/upper,workdir={BASE}/work");
        tool(&["mount", "-t", "overlay", "-o", &layers, "overlay", ROOT]);
        tool(&["mount", "-t", "proc", "proc", &format!("{ROOT}/proc")]);
        tool(&["mount", "--rbind", "/dev", &format!("{ROOT}/dev")]);
        make_dir(&format!("{ROOT}/app"), 0o755);
        fs::copy(binary(), format!("{ROOT}{PROGRAM}")).unwrap();
        fs::set_permissions(format!("{ROOT}{PROGRAM}"), fs::Permissions::from_mode(0o755)).unwrap();

        // An emptyDir each for state and run; a ConfigMap, and Secrets.
        bind(&volume("state", 0o2777), places.state, false);
        bind(&volume("runtime", 0o2777), "/runtime", false);
        let (map, secrets) = (volume("config", 0o2777), volume("secrets", 0o3777));
        project(&map, "2026_11_28", 0o644, &[("default.toml", config)]);
        bind(&map, places.config, true);
        project(&secrets, "2026_11_28", 0o440, &[("alice.key", KEY)]);
        bind(&secrets, "/secrets", true);
        // Root file system and /tmp: read-only (readOnlyRootFilesystem).
        tool(&["mount", "-o", "remount,ro", ROOT]);
        assert!(fs::write(format!("{ROOT}/tmp/x"), "").is_err(), "the root must be read-only");
        Pod { places, first }
    }

    /// A new version of the configuration, as `kubectl apply` brings it.
    #[track_caller]
    fn apply(&self, version: &str, config: &str) {
        project(&format!("{BASE}/volumes/config"), version, 0o644, &[("default.toml", config)]);
    }

    /// What a command in the container is run through, from the container's root on.
    fn wrapped(&self, words: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = ["env", "-i", "PATH=/usr/bin:/bin"].map(str::to_owned).into();
        all.extend(self.places.env.iter().map(|(name, value)| format!("{name}={value}")));
        let ids = format!("--reuid={UID} --regid={UID} --groups={UID}");
        all.push("setpriv".to_owned());
        all.extend(ids.split(' ').map(str::to_owned));
        let bare = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];
        all.extend(bare.map(str::to_owned));
        all.extend(["prlimit", "--nofile=64:64", "--"].map(str::to_owned));
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    }

    /// Starts the gateway and waits until it serves.
    #[track_caller]
    fn start(&self) -> Container<'_> {
        let mut command = Command::new("chroot");
        command.arg(ROOT);
        if self.first {
            command.args(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        }
        command.args(self.wrapped(&[PROGRAM, "run"]));
        let process = Process::spawn(&mut command);
        process.wait_for_log("serves on", DEADLINE);
        let pid = if self.first { process.children()[0] } else { process.pid() };
        let mut container = Container { pod: self, process, pid, address: None };
        container.address = container.status()["listen"].as_str().map(|at| at.parse().unwrap());
        container
    }
}

/// A gateway that runs in a pod. Dropped, it is killed.
struct Container<'a> {
    pod: &'a Pod,
    process: Process,
    pid: i32,
    address: Option<SocketAddr>,
}

impl Container<'_> {
    /// `kubectl exec`: the gateway's program in the container.
    #[track_caller]
    fn exec(&self, args: &[&str]) -> Outcome {
        let target = format!("--target={}", self.pid);
        let mut command = Command::new("nsenter");
        command.args([&target, "--pid", "--mount", "--", "chroot", ROOT]);
        let words: Vec<&str> = [PROGRAM].iter().chain(args).copied().collect();
        command.args(self.pod.wrapped(&words));
        Process::spawn(&mut command).finish(DEADLINE)
    }

    #[track_caller]
    fn status(&self) -> Value {
        let said = self.exec(&["status", "--json"]).assert_code(0).stdout;
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    fn api(&self) -> Api {
        Api::new(self.address.expect("it listens"), KEY)
    }

    /// One message of a session and its reply.
    #[track_caller]
    fn turn(&self, text: &str) -> String {
        let api = self.api();
        api.reply(&api.accepted("work", text))
    }

    /// Ends it as the kubelet does; it must have ended in its own time, and as it says.
    #[track_caller]
    fn terminate(self) {
        util::sys::kill(self.pid, libc::SIGTERM).unwrap();
        let line = self.process.wait_for_log("Exiting with code 143", DEADLINE);
        assert_eq!(self.process.wait_for_exit(DEADLINE), 143, "{line}");
    }
}

/// Asks for the models until the answer is a 200, on connections of its own; how many it took. What it
/// gets instead must be a 503, or an end of the connection.
#[track_caller]
fn served(address: SocketAddr) -> usize {
    let deadline = Instant::now() + DEADLINE;
    let key = format!("Bearer {KEY}");
    for tries in 1.. {
        let answer = Caller::tcp(address, &key)
            .and_then(|mut caller| caller.try_ask("GET", "/v1/models", &[], ""));
        match answer.map(|answer| answer.status()) {
            Ok(200) => return tries,
            Ok(503) | Err(_) => {}
            Ok(other) => panic!("status {other}"),
        }
        assert!(Instant::now() < deadline, "not served after {tries} connections");
        pause(Duration::from_millis(5));
    }
    unreachable!()
}

/// The whole life of a pod.
#[track_caller]
fn live(places: Places, first: bool) {
    let pod = Pod::make(places, first, CONFIG);
    let gateway = pod.start();
    assert_eq!(gateway.status()["state"], "running");
    // The limit on descriptors is told wherever somebody may look for it.
    let [status, config] = ["status", "config"].map(|command| gateway.exec(&[command]).stdout);
    for (place, text) in [("log", gateway.process.stderr()), ("status", status), ("config", config)]
    {
        let told = text.lines().any(|line| line.contains("64") && line.contains("descriptors"));
        assert!(told, "not a word about 64 descriptors in {place}:\n{text}");
    }
    assert_eq!(gateway.turn("one"), "one after 0");

    // One after the other: each at the first try.
    for _ in 0..CLIENTS {
        assert_eq!(served(gateway.address.unwrap()), 1);
    }
    // All at once: each in the end.
    let gate = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                gate.wait();
                served(gateway.address.unwrap())
            });
        }
    });
    assert_eq!(gateway.turn("two"), "two after 2");
    gateway.terminate();

    let gateway = pod.start();
    assert_eq!(gateway.turn("three"), "three after 4");

    // A new version of the ConfigMap.
    pod.apply("2026_11_29", &CONFIG.replace(" after ", " behind "));
    gateway.exec(&["reload"]).assert_code(0);
    assert_eq!(gateway.turn("four"), "four behind 6");
    gateway.terminate();
    pod.start().terminate();
}

#[test]
fn a_pod_whose_home_is_the_root_runs() {
    Private::new().run(|| live(HOME_IS_THE_ROOT, false));
}

#[test]
fn a_pod_without_a_home_directory_runs() {
    Private::new().run(|| live(NO_HOME, false));
}

#[test]
fn a_pod_whose_first_process_is_the_gateway_runs() {
    Private::new().run(|| live(NO_HOME, true));
}
