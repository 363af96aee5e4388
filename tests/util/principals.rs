//! A gateway with the keys of several principals, and what one of them costs the others.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{Api, DEADLINE, Gateway, Home, Launch, eventually, http, pause};

/// The key of a principal with this name.
pub fn key_of(name: &str) -> String {
    format!("{name}-key-").repeat(12)[..60].to_owned()
}

/// A configuration with these principals, each with further lines of its section, behind `more`.
#[track_caller]
pub fn configuration(home: &Home, keys: &[(&str, &str)], more: &str) -> String {
    let mut text = format!("{more}\n");
    for (name, lines) in keys {
        let path = home.path().join(format!("{name}.key"));
        fs::write(&path, key_of(name)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        text += &format!("[keys.{name}]\nfile = \"{}\"\n{lines}\n", path.display());
    }
    text
}

/// The start of a gateway with these principals.
#[track_caller]
pub fn launch(keys: &[(&str, &str)], more: &str) -> Launch {
    let home = Home::new();
    home.configure(&configuration(&home, keys, more));
    home.launch()
}

/// The start of a gateway with the users alice and bob.
#[track_caller]
pub fn alice_and_bob(more: &str) -> Launch {
    launch(&[("alice", ""), ("bob", "")], more)
}

/// The API with the key of this principal.
#[track_caller]
pub fn api(gateway: &Gateway, name: &str) -> Api {
    let owners = || Api::new(gateway.address(), &gateway.home().api_key());
    if name == "owner" { owners() } else { Api::new(gateway.address(), &key_of(name)) }
}

/// A number of /proc/PID/status, in kB: "VmRSS:" or "VmHWM:", say.
#[track_caller]
pub fn memory(gateway: &Gateway, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// What is resident now, in kB; the peak (`VmHWM`) counts anew from here.
#[track_caller]
pub fn reset_peak(gateway: &Gateway) -> u64 {
    fs::write(format!("/proc/{}/clear_refs", gateway.pid()), "5").expect("reset the peak");
    memory(gateway, "VmRSS:")
}

/// What the process has used of a processor so far (proc(5), fields 14 and 15 of its stat).
#[track_caller]
pub fn used(gateway: &Gateway) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>() * 10)
}

/// Waits until no more than this is resident, and says what it was.
#[track_caller]
pub fn until_resident(gateway: &Gateway, most: u64, limit: Duration) -> u64 {
    let deadline = Instant::now() + limit;
    loop {
        let resident = memory(gateway, "VmRSS:");
        if resident <= most || Instant::now() > deadline {
            return resident;
        }
        pause(Duration::from_millis(20));
    }
}

/// A request that nobody's test depends on: the connection, or nothing where it is not taken.
pub fn offer(
    gateway: &Gateway,
    name: &str,
    line: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Option<TcpStream> {
    let (method, target) = line.split_once(' ')?;
    let authorization = format!("Bearer {}", key_of(name));
    let mut all = vec![("Authorization", authorization.as_str())];
    if !body.is_empty() {
        all.push(("Content-Type", "application/json"));
    }
    all.extend_from_slice(fields);
    let mut stream = TcpStream::connect(gateway.address()).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    stream.set_write_timeout(Some(DEADLINE)).ok()?;
    stream.write_all(&http::request(method, target, &all, body.as_bytes())).ok()?;
    Some(stream)
}

/// What has come on a connection: the status and as much behind it as one read brings; nothing where the
/// peer closed it.
pub fn first_words(stream: &mut TcpStream) -> Option<(u16, String)> {
    let mut bytes = [0; 4096];
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
    let status = text.get(9..12)?.parse().ok()?;
    if status >= 400 && text.ends_with("\r\n\r\n") {
        let count = stream.read(&mut bytes).ok()?;
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
    Some((status, text))
}

/// Does this on so many threads, each of which gets its number, and waits for all.
pub fn at_once(threads: usize, what: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for number in 0..threads {
            let what = &what;
            scope.spawn(move || what(number));
        }
    });
}

/// The time within which 99 of 100 of these ended.
pub fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// All files below a directory in which one of these texts stands.
#[track_caller]
pub fn files_with(dir: &Path, texts: &[&str]) -> Vec<String> {
    let (mut found, mut places) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(place) = places.pop() {
        if place.is_dir() {
            // What goes while it is looked at is gone.
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            places.extend(entries.map(|entry| entry.path()));
        } else if let Ok(bytes) = fs::read(&place) {
            let is_in = |text: &&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            if texts.iter().any(is_in) {
                found.push(place.display().to_string());
            }
        }
    }
    found
}

/// The number of all files below a directory, and what they take on the disk in bytes.
pub fn files_of(dir: &Path) -> (usize, u64) {
    let (mut count, mut bytes, mut places) = (0, 0, vec![dir.to_owned()]);
    while let Some(place) = places.pop() {
        if place.is_dir() {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            places.extend(entries.map(|entry| entry.path()));
        } else if let Ok(data) = fs::metadata(&place) {
            (count, bytes) = (count + 1, bytes + data.blocks() * 512);
        }
    }
    (count, bytes)
}

/// Waits until nothing of these sessions waits or runs any more.
#[track_caller]
pub fn until_quiet(gateway: &Gateway) {
    eventually("all turns are over", || {
        let status = gateway.status();
        let none = |name: &str| status["journal"][name].as_u64().is_none_or(|left| left == 0);
        (none("queued") && none("running") && status["turns"]["running"] == 0).then_some(())
    });
}
