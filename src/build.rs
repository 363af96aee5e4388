//! Cargo's build script: compresses the manual pages and the API's description, and leaves the unwind tables out of a release.
//!
//! A panic aborts, so nothing unwinds, yet std's own code and the compiler bring tables for it, a
//! tenth of the binary, and stable Rust has no profile setting that says no. The linker has: this
//! hands it a script of one rule beside its own (GNU ld and lld read the same).

use std::path::Path;
use std::{env, fs, io};

use miniz_oxide::deflate::{CompressionLevel, compress_to_vec};

const BEST: u8 = CompressionLevel::UberCompression as u8;

const SCRIPT: &str = "\
SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame.* .gcc_except_table .gcc_except_table.* .comment) } }
INSERT AFTER .text;
";

/// In the order of `PAGES` in src/cli/man.rs.
const PAGES: [&str; 7] = [
    "hermes-gateway.1",
    "hermes-gateway.toml.5",
    "hermes-gateway-agent.7",
    "hermes-gateway-api.7",
    "hermes-gateway-channel.7",
    "hermes-gateway-operation.7",
    "hermes-gateway-telegram.7",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=src/man");
    println!("cargo::rerun-if-changed=src/api/openapi.json");
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let out = Path::new(&out);
    // One stream for all, since they share their words; a NUL byte ends each.
    let mut pages = Vec::new();
    for page in PAGES {
        pages.extend(fs::read(Path::new("src/man").join(page))?);
        pages.push(0);
    }
    fs::write(out.join("pages"), compress_to_vec(&pages, BEST))?;
    let api = fs::read_to_string("src/api/openapi.json")?;
    let api = api.lines().map(str::trim).collect::<String>();
    let api = api.replace("VERSION", env!("CARGO_PKG_VERSION"));
    fs::write(out.join("openapi"), compress_to_vec(api.as_bytes(), BEST))?;
    let is = |name: &str, wanted: &str| env::var(name).is_ok_and(|value| value == wanted);
    // The start code of a static program registers its tables, so there they stay.
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let dynamic = is("CARGO_CFG_TARGET_ENV", "gnu") && !features.contains("crt-static");
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && dynamic {
        let script = out.join("tables.ld");
        fs::write(&script, SCRIPT)?;
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
    Ok(())
}
