//! What a program is good for: its version, and the proof that it can take the gateway's place.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::Site;
use crate::cli::config;
use crate::escape::{escaped, one_line};
use crate::exit::Failure;
use crate::gateway::{self, Plan};
use crate::limits::CONTROL_TIMEOUT;
use crate::subprocess::{Captured, capture};

/// What is taken of a program's output: a line.
const MAX_PROOF: usize = 16 << 10;

/// Has a program prove that it can start with this configuration and journal: its version.
pub fn prove(site: &Site<'_>, path: &Path) -> Result<String, String> {
    let timeout = site.config.restart.start_timeout;
    let mut words = site.arguments();
    words.push("run".to_owned());
    let proven = if site.user.is_none() {
        words.insert(0, path.display().to_string());
        let arguments = words.into_iter().map(Into::into).collect();
        let plan = Plan { arguments, ..config::plan(&site.owner) };
        gateway::prove(&plan, path, timeout, None).map(|it| it.version)
    } else {
        // Another user's, with that user's rights from the first instruction on.
        words.push("--check".to_owned());
        let ready = |proof: Captured| {
            let said: Value = serde_json::from_str(proof.stdout.trim()).unwrap_or_default();
            match said["version"].as_str().filter(|_| proof.success && said["ready"] == true) {
                Some(version) => Ok(escaped(version, true)),
                None => Err(format!("{}: {}", path.display(), one_line(proof.stderr.as_bytes()))),
            }
        };
        ask(site, path, &words, timeout).map_err(|e| e.to_string()).and_then(ready)
    };
    proven.map_err(|why| format!("the new program failed its proof: {why}"))
}

/// The version that runs, or that would.
pub fn version_now(site: &Site<'_>, path: &Path) -> Result<String, Failure> {
    let running = site.status().unwrap_or_default();
    let version = running["version"].as_str().map(|version| escaped(version, true));
    version.map_or_else(|| version_of(site, path), Ok)
}

/// The version that a program says it is.
pub fn version_of(site: &Site<'_>, path: &Path) -> Result<String, Failure> {
    let said = ask(site, path, &["version".to_owned()], CONTROL_TIMEOUT);
    let what = format!("ask {} for its version", path.display());
    let said = said.map_err(|e| Failure::cannot(&what, &e))?;
    let version = said.stdout.trim().strip_prefix("hermes-gateway ").map(|it| escaped(it, true));
    version.ok_or_else(|| Failure::cannot(&what, &one_line(said.stderr.as_bytes())))
}

fn ask(site: &Site<'_>, path: &Path, words: &[String], time: Duration) -> io::Result<Captured> {
    let program = site.as_user(path, words)?;
    capture(&site.owner.children, &program, Instant::now() + time, MAX_PROOF)
}
