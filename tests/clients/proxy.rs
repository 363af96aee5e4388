//! Two gateways behind nginx and behind HAProxy, with TLS: sessions stay with their gateway, streams come
//! through as they are made, and a gateway that is stopped loses nothing that was acknowledged. The
//! configurations are those of hermes-gateway-operation(7).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use util::{DEADLINE, Gate, Gateway, Home, Process, eventually, skip};

const HOST: &str = "gateway.example.org";
/// So many that neither gateway gets none of them by chance, whatever their ports are.
const SESSIONS: usize = 24;
const MESSAGES: usize = 10;

/// A free address for a gateway that comes back to the one that it had: its port is below those that the
/// kernel gives to whoever binds port 0 (ip(7), ip_local_port_range).
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let lowest: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    // Test programs beside this one begin elsewhere.
    let first = (std::process::id() % 8000) as u16;
    loop {
        let at = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 8000;
        let address = SocketAddr::from(([127, 0, 0, 1], lowest - 1 - at));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A gateway at an address of its own, with the key that both have.
struct Half {
    home: Home,
    address: SocketAddr,
}

impl Half {
    fn new(agent: &str, key: &str) -> Half {
        let half = Half { home: Home::new(), address: free() };
        let file = half.home.path().join("key");
        fs::write(&file, key).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let file = file.display();
        half.home.configure(&format!(
            "{agent}[http]\nallowed_hosts = [\"{HOST}\"]\nkey_file = \"{file}\"\n[limits]\nmax_turns = 8\n"
        ));
        half
    }

    fn start(&self) -> Gateway {
        self.home.launch().set("http.listen", &self.address.to_string()).start()
    }
}

/// What stands in front: `nginx` or `haproxy`, with a certificate for [`HOST`].
struct Front {
    address: SocketAddr,
    certificate: PathBuf,
    _process: Process,
}

impl Front {
    fn start(program: &str, dir: &Path, halves: [SocketAddr; 2]) -> Front {
        let address = free();
        let (certificate, key) = (dir.join("gateway.pem"), dir.join("gateway.key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2", "-subj", "/CN=test"]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{HOST},IP:127.0.0.1")]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        Process::spawn(&mut openssl).finish(DEADLINE).assert_code(0);
        let both = dir.join("gateway-with-key.pem");
        let pem = |path| fs::read_to_string(path).unwrap();
        fs::write(&both, pem(&certificate) + &pem(&key)).unwrap();

        let name = if program == "nginx" { "nginx.conf" } else { "haproxy.cfg" };
        let [one, two] = halves.map(|half| half.to_string());
        let text = example(name).replace("/etc/ssl", dir.to_str().unwrap());
        let text = text.replace("127.0.0.1:8642", &one).replace("127.0.0.1:8643", &two);
        let text = text.replace("listen 443", &format!("listen {address}"));
        let text = text.replace("bind :443", &format!("bind {address}"));
        let config = dir.join(name);
        let mut command = Command::new(program);
        if program == "nginx" {
            let own = format!("daemon off;\nerror_log stderr;\npid {0}/pid;\n", dir.display());
            let log = "http {\n    access_log off;";
            fs::write(&config, own + &text.replace("http {", log)).unwrap();
            command.arg("-p").arg(dir).arg("-c").arg(&config);
        } else {
            fs::write(&config, text).unwrap();
            command.arg("-db").arg("-f").arg(&config);
        }
        let process = Process::spawn(&mut command);
        eventually("the proxy listens", || TcpStream::connect(address).ok());
        Front { address, certificate, _process: process }
    }
}

/// Whether a program of these is installed; openssl comes with both.
fn is_there(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

fn example(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy");
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn the_manual_has_the_configurations_that_are_tested() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/src/man/hermes-gateway-operation.7");
    let page = fs::read_to_string(page).unwrap();
    for name in ["nginx.conf", "haproxy.cfg"] {
        assert!(page.contains(&example(name)), "{name}");
    }
}

/// The sessions that a gateway knows.
fn sessions(gateway: &Gateway, key: &str) -> Vec<String> {
    let listed =
        util::Api::new(gateway.address(), key).get("/v1/sessions").assert_status(200).json();
    let listed = listed["sessions"].as_array().unwrap().iter();
    listed.map(|session| session["session"].as_str().unwrap().to_owned()).collect()
}

fn two_gateways_behind(program: &str) {
    if !is_there(program) {
        return skip("a proxy is missing: tests/run installs it");
    }
    let key = "k".repeat(40);
    let agent = "[agent]\ncommand = [\"cat\"]\n";
    let halves = [Half::new(agent, &key), Half::new(agent, &key)];
    let mut gateways = [Some(halves[0].start()), Some(halves[1].start())];
    let dir = halves[0].home.path().join("front");
    fs::create_dir(&dir).unwrap();
    let front = Front::start(program, &dir, [halves[0].address, halves[1].address]);

    let mut client = Command::new("python3");
    client.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxy/ask.py"));
    client.arg(format!("https://{}", front.address)).arg(&front.certificate).arg(&key);
    client.args([SESSIONS, MESSAGES].map(|count| count.to_string())).stdout(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut answered: BTreeMap<(String, String), String> = BTreeMap::new();
    for (number, line) in BufReader::new(client.stdout.take().unwrap()).lines().enumerate() {
        let told: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let word = |name: &str| told[name].as_str().unwrap().to_owned();
        assert_eq!(word("said"), word("text"));
        let twice = answered.insert((word("session"), word("text")), word("id"));
        assert_eq!(twice, None);
        // Each of the two is stopped and comes back once, in the middle of it all.
        for (at, gateway) in gateways.iter_mut().enumerate() {
            if number == (at + 1) * SESSIONS * MESSAGES / 3 {
                gateway.take().unwrap().end(libc::SIGTERM);
                *gateway = Some(halves[at].start());
            }
        }
    }
    assert!(client.wait().unwrap().success());
    assert_eq!(answered.len(), SESSIONS * MESSAGES);

    // Each session lives with one gateway alone, which has all of its messages, each once.
    let gateways = gateways.map(Option::unwrap);
    let known = [sessions(&gateways[0], &key), sessions(&gateways[1], &key)];
    assert_eq!(known[0].len() + known[1].len(), SESSIONS, "{known:?}");
    for (gateway, known) in gateways.iter().zip(&known) {
        assert!(!known.is_empty(), "a gateway without a session");
        let api = util::Api::new(gateway.address(), &key);
        for session in known {
            let session_json =
                api.get(&format!("/v1/sessions/{session}")).assert_status(200).json();
            let messages = session_json["messages"].as_array().unwrap();
            assert_eq!(messages.len(), MESSAGES, "{session}");
            for message in messages {
                assert_eq!(message["status"], "done", "{session}: {message}");
                let id = format!("chatcmpl-{}", message["id"].as_str().unwrap());
                assert!(answered.values().any(|known| *known == id), "{session}: {message}");
            }
        }
    }
}

/// A client that tries again must find what it began, with a session or without.
fn keyed_retries_behind(program: &str) {
    if !is_there(program) {
        return skip("a proxy is missing: tests/run installs it");
    }
    let key = "k".repeat(40);
    let halves = [0, 1].map(|_| Half::new("[agent]\ncommand = [\"cat\"]\n", &key));
    let gateways = [halves[0].start(), halves[1].start()];
    let dir = halves[0].home.path().join("front");
    fs::create_dir(&dir).unwrap();
    let front = Front::start(program, &dir, [halves[0].address, halves[1].address]);
    let begun: usize = 24;
    for number in 0..begun {
        let replies = [0; 3].map(|_| {
            let mut client = Command::new("curl");
            client.args(["-sS", "--fail", "--cacert"]).arg(&front.certificate);
            client.args(["-H", &format!("Authorization: Bearer {key}")]);
            client.args(["-H", "Content-Type: application/json"]);
            client.args(["-H", &format!("Idempotency-Key: key-{number}")]);
            client.args(["-d", &util::http::chat("once", false)]);
            client.arg(format!("https://{}/v1/chat/completions", front.address));
            let said = Process::spawn(&mut client).finish(DEADLINE).assert_code(0).stdout;
            serde_json::from_str::<Value>(&said).unwrap()["id"].clone()
        });
        assert!(replies.iter().all(|id| *id == replies[0]), "{program}: {replies:?}");
    }
    let kept = gateways.each_ref().map(|gateway| gateway.status()["journal"]["kept"].clone());
    let both = kept.each_ref().map(|kept| kept.as_u64().unwrap());
    assert_eq!(both[0] + both[1], begun as u64, "{program}: {kept:?}");
    assert!(both[0] > 0 && both[1] > 0, "{program}: one gateway does all of it: {kept:?}");
}

fn streams_behind(program: &str) {
    if !is_there(program) {
        return skip("a proxy is missing: tests/run installs it");
    }
    let key = "k".repeat(40);
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let half = Half::new(&gate.agent(), &key);
    let _gateway = half.start();
    let front = Front::start(program, home.path(), [half.address, half.address]);
    let mut client = Command::new("curl");
    client.args(["-sSN", "--cacert"]).arg(&front.certificate);
    client.args([
        "-H",
        &format!("Authorization: Bearer {key}"),
        "-H",
        "Content-Type: application/json",
    ]);
    client.args(["-d", &util::http::chat("x", true)]);
    client.arg(format!("https://{}/v1/chat/completions", front.address));
    let client = Process::spawn(&mut client);
    // The agent has said this, and waits.
    client.wait_for_output("\"content\":\"begun\"", DEADLINE);
    assert!(!client.stdout().contains("[DONE]"));
    gate.open();
    assert!(client.finish(DEADLINE).assert_code(0).stdout.ends_with("data: [DONE]\n\n"));
}

#[test]
fn each_session_lives_with_one_gateway_behind_nginx_and_no_message_is_lost_while_both_restart() {
    two_gateways_behind("nginx");
}

#[test]
fn each_session_lives_with_one_gateway_behind_haproxy_and_no_message_is_lost_while_both_restart() {
    two_gateways_behind("haproxy");
}

#[test]
fn what_is_tried_again_under_a_key_runs_once_behind_nginx_and_haproxy() {
    keyed_retries_behind("nginx");
    keyed_retries_behind("haproxy");
}

#[test]
fn streams_come_through_nginx_and_haproxy() {
    streams_behind("nginx");
    streams_behind("haproxy");
}
