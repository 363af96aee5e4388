//! What a program is good for: its version, and the proof that it can take the gateway's place.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::restart::MARGIN;
use super::site::Site;
use crate::escape::{escaped, one_line};
use crate::exit::Failure;
use crate::gateway;
use crate::limits::CONTROL_TIMEOUT;
use crate::subprocess::capture;

/// What is taken of a program's output: a line.
const MAX_PROOF: usize = 16 << 10;

/// Has a program prove that it can start with this configuration and journal: its version.
pub fn prove(site: &Site<'_>, path: &Path) -> Result<String, String> {
    let timeout = site.config.restart.start_timeout;
    let proven = match site.plan(path) {
        Some(plan) => gateway::prove(&plan, path, timeout, None).map(|it| it.version),
        None => prove_as_user(site, path),
    };
    proven.map_err(|why| format!("the new program failed its proof: {why}"))
}

/// The same of another user's gateway, with that user's rights from the first instruction on.
fn prove_as_user(site: &Site<'_>, path: &Path) -> Result<String, String> {
    let words = [site.arguments(), ["run", "--check"].map(str::to_owned).to_vec()].concat();
    let program = site.as_user(path.to_owned(), &words);
    let deadline = Instant::now() + site.config.restart.start_timeout;
    let children = &site.owner.children;
    let proof = program.and_then(|program| capture(children, &program, deadline, MAX_PROOF));
    let proof = proof.map_err(|e| format!("{}: {e}", path.display()))?;
    let said: Value = serde_json::from_str(proof.stdout.trim()).unwrap_or_default();
    match said["version"].as_str().filter(|_| proof.success && said["ready"] == true) {
        Some(version) => Ok(escaped(version, true)),
        None => Err(format!("{}: {}", path.display(), one_line(proof.stderr.as_bytes()))),
    }
}

/// The version that runs, or that would.
pub fn version_now(site: &Site<'_>, path: &Path) -> Result<String, Failure> {
    let running = site.status(CONTROL_TIMEOUT).map(|(_, status)| status).unwrap_or_default();
    let version = running["version"].as_str().map(|version| escaped(version, true));
    version.map_or_else(|| version_of(site, path), Ok)
}

/// The version that a program says it is.
pub fn version_of(site: &Site<'_>, path: &Path) -> Result<String, Failure> {
    let program = site.as_user(path.to_owned(), &["version".to_owned()]);
    let deadline = Instant::now() + MARGIN;
    let said = program.and_then(|it| capture(&site.owner.children, &it, deadline, MAX_PROOF));
    let what = format!("ask {} for its version", path.display());
    let said = said.map_err(|e| Failure::cannot(&what, &e))?;
    let version = said.stdout.trim().strip_prefix("hermes-gateway ").map(|it| escaped(it, true));
    version.ok_or_else(|| Failure::cannot(&what, &one_line(said.stderr.as_bytes())))
}
