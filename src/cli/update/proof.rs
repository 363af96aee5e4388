//! What a program is good for: its version, and the proof that it can take the gateway's place.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::Site;
use crate::cli::config;
use crate::escape::{escaped, one_line};
use crate::gateway::{self, Plan};
use crate::limits::CONTROL_TIMEOUT;
use crate::subprocess::{Captured, capture};

/// What is taken of a program's output: a line.
const MAX_PROOF: usize = 16 << 10;

/// Has a program prove that it can start with this configuration and journal: its version.
pub fn prove(site: &Site<'_>, path: &Path) -> Result<String, String> {
    let timeout = site.config.restart.start_timeout;
    let proven = if site.user.is_none() {
        let mut arguments = site.owner.words(&["run"]);
        arguments.insert(0, path.into());
        let plan = Plan { arguments, ..config::plan(&site.owner) };
        gateway::prove(&plan, path, timeout, None).map(|it| it.version)
    } else {
        // Another user's, with that user's rights from the first instruction on.
        ask(site, path, &site.owner.words(&["run", "--check"]), timeout).and_then(|proof| {
            let said: Value = serde_json::from_str(proof.stdout.trim()).unwrap_or_default();
            match said["version"].as_str().filter(|_| proof.success && said["ready"] == true) {
                Some(version) => Ok(escaped(version, true)),
                None => Err(format!("{}: {}", path.display(), one_line(proof.stderr.as_bytes()))),
            }
        })
    };
    proven.map_err(|why| format!("the new program failed its proof: {why}"))
}

/// The version that runs, or that would.
pub fn version_now(site: &Site<'_>, path: &Path) -> Result<String, String> {
    let running = site.status().unwrap_or_default();
    let version = running["version"].as_str().map(|version| escaped(version, true));
    version.map_or_else(|| version_of(site, path), Ok)
}

/// The version that a program says it is.
pub fn version_of(site: &Site<'_>, path: &Path) -> Result<String, String> {
    let said = ask(site, path, &["version".into()], CONTROL_TIMEOUT)?;
    let version = said.stdout.trim().strip_prefix("hermes-gateway ").map(|it| escaped(it, true));
    let unknown = || format!("{}: {}", path.display(), one_line(said.stderr.as_bytes()));
    version.ok_or_else(unknown)
}

fn ask(
    site: &Site<'_>,
    path: &Path,
    words: &[OsString],
    time: Duration,
) -> Result<Captured, String> {
    let (children, deadline) = (&site.owner.children, Instant::now() + time);
    let program = site.as_user(path, words);
    let said = program.and_then(|program| capture(children, &program, deadline, MAX_PROOF));
    said.map_err(|e| format!("{}: {e}", path.display()))
}
