//! The configuration that a new gateway starts with: commented, and on a port of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use super::context::Context;
use crate::config::{self, Sources};
use crate::limits::STARTER_PORTS;
use crate::sys::{fs as files, gather::Gather};

/// Writes a starter configuration where there is none. Returns its port.
///
/// # Errors
/// One line that names the file or directory.
pub fn write(context: &Context) -> Result<Option<u16>, String> {
    let file = &context.dirs.config_file;
    if file.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let port = free_port(&claimed(context))?;
    let text = config::starter(port, &context.name);
    let written = files::private_dir(&context.base.config_dir())
        .and_then(|()| files::create(file, text.as_bytes(), 0o600));
    // Where somebody was faster, theirs counts.
    let own = written.map(|new| new.then_some(port));
    own.map_err(|e| format!("cannot write {}: {e}", file.display()))
}

/// The ports in the configurations of this user's other gateways, whether they run or not.
fn claimed(context: &Context) -> Vec<u16> {
    let port = |file: PathBuf| {
        let home = Some(context.base.home.clone());
        // One that does not load claims nothing that could be known.
        let sources = Sources { file, required: true, home, ..Sources::default() };
        Some(config::load(&sources).ok()?.config.http.listen.port())
    };
    let entries = fs::read_dir(context.base.config_dir()).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "toml")).filter_map(port).gather()
}

fn free_port(claimed: &[u16]) -> Result<u16, String> {
    let free = |port: &u16| {
        !claimed.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
    };
    let (first, last) = (STARTER_PORTS.start(), STARTER_PORTS.end());
    STARTER_PORTS.clone().find(free).ok_or_else(|| {
        format!(
            "no port from {first} to {last} is free: set http.listen in a configuration of your own"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_held_or_claimed_is_passed_over() {
        // Whichever ports are held on this machine: the rules hold between two answers.
        let first = free_port(&[]).unwrap();
        let second = free_port(&[first]).unwrap();
        assert!(second > first && STARTER_PORTS.contains(&second));
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).unwrap();
        assert_ne!(free_port(&[first]).unwrap(), second);
        drop(held);
        let error = free_port(&STARTER_PORTS.collect::<Vec<_>>()).unwrap_err();
        assert!(error.contains("8642"), "{error}");
    }
}
