//! A child of the program that is to be executed proves that it can.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Plan;
use crate::subprocess::{Program, capture, find_program};

pub struct Proven {
    pub file: File,
    pub version: String,
}

pub fn program() -> PathBuf {
    let called = env::args_os().next().unwrap_or_default();
    let path = Path::new(&called);
    if path.components().count() > 1 {
        return std::path::absolute(path).unwrap_or_default();
    }
    find_program(&called.to_string_lossy()).unwrap_or_default()
}

pub fn prove(plan: &Plan, program: &Path) -> Result<Proven, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", program.display());
    let file = File::open(program).map_err(failed)?;
    let command = Program::new(program.to_owned()).args(["version"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let said = capture(&plan.children, &command, deadline, 1000).map_err(failed)?;
    let version = said.stdout.trim().strip_prefix("hermes-gateway ").map(str::to_owned);
    let version = version.filter(|_| said.success);
    Ok(Proven { file, version: version.ok_or_else(|| format!("{}: no", program.display()))? })
}
