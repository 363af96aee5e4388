//! Which path of this program a unit runs. An upgrade replaces a versioned file (Homebrew, Nix, a
//! directory a release) and moves the link that leads to it: so the link, where it can be trusted to
//! stay, and else the file.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::subprocess::find_program;

/// The path for `ExecStart=`. `installed`: the one that the unit has now, which stays while it is a
/// link that leads here, from whichever way this is called. `owner`: whose unit it is.
///
/// # Errors
/// One line when it cannot be told where this program is.
pub fn for_unit(installed: Option<PathBuf>, owner: u32) -> Result<PathBuf, String> {
    let exe = this()?;
    let trusted = [0, owner, exe.metadata().map_or(0, |meta| meta.uid())];
    let called_by = env::args_os().next().unwrap_or_default();
    let links = links(&exe, &called_by, &on_path);
    let leads_here = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|real| real == exe);
    let installed = installed.filter(|path| *path != exe && leads_here(path));
    let link =
        links.into_iter().flatten().find(|link| leads_here(link) && is_permanent(link, &trusted));
    Ok(installed.or(link).unwrap_or(exe))
}

/// Where this program is, by the path or the name that it was called by, as far as that leads here; links
/// are left as they are.
pub fn called() -> PathBuf {
    let called_by = env::args_os().next().unwrap_or_default();
    let path = as_called(&called_by, &on_path);
    let file = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let own = Path::new("/proc/self/exe");
    let path = path.filter(|path| file(path) == file(own));
    path.or_else(|| this().ok()).unwrap_or_else(|| own.to_owned())
}

fn on_path(name: &OsStr) -> Option<PathBuf> {
    find_program(&name.to_string_lossy()).ok()
}

/// Finds a name on PATH.
type OnPath<'a> = &'a dyn Fn(&OsStr) -> Option<PathBuf>;

/// What may be a link to `exe`, best first: by the program's own name, found on PATH; by that of the
/// file; as it was called, which may be by an alias that goes one day.
fn links(exe: &Path, called_by: &OsStr, on_path: OnPath<'_>) -> [Option<PathBuf>; 3] {
    let same_name = exe.file_name().and_then(on_path).filter(|path| path != exe);
    // With `..` in it, it is not what one wants to read in a unit.
    let plain = |path: &PathBuf| !path.to_string_lossy().contains("/../");
    let called_by = as_called(called_by, on_path).filter(plain);
    [on_path("hermes-gateway".as_ref()), same_name, called_by]
}

/// Where the name or path leads that a program was called by.
fn as_called(called_by: &OsStr, on_path: OnPath<'_>) -> Option<PathBuf> {
    match called_by.as_bytes().contains(&b'/') {
        true => std::path::absolute(called_by).ok(),
        false => on_path(called_by),
    }
}

/// Whether nobody but the trusted may turn a link to another program, and no build or clean-up
/// removes it.
fn is_permanent(link: &Path, trusted: &[u32]) -> bool {
    let safe =
        |dir: &Path| dir.metadata().is_ok_and(|m| trusted.contains(&m.uid()) && m.mode() & 2 == 0);
    temporary_parent(link).is_none() && link.ancestors().skip(1).all(safe)
}

/// Says that a build or a clean-up breaks the unit, where this program is in its way.
pub fn warning() -> Option<String> {
    let exe = this().ok()?;
    let dir = temporary_parent(&exe)?.display();
    Some(format!(
        "warning: this program is in {dir}, a place of builds or temporary files: `cargo clean` or a \
         clean-up breaks the unit: copy it to ~/.local/bin first, and run `install` there"
    ))
}

/// The directory above a path that a build or a clean-up takes away.
fn temporary_parent(path: &Path) -> Option<&Path> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let temporary = |dir: &&Path| {
        // Homebrew's own directory may be a checkout, and stays.
        let checkout = dir.join(".git").exists() && !dir.join("Cellar").exists();
        let named = ["target", "build", "tmp", "dev/shm"].iter().any(|name| dir.ends_with(name));
        named || checkout || dir.join("CACHEDIR.TAG").exists()
    };
    path.ancestors().skip(1).take_while(|dir| **dir != home).find(temporary)
}

/// This program's file.
fn this() -> Result<PathBuf, String> {
    let path = env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    // So says the kernel when the file was removed or replaced (proc(5), /proc/PID/exe).
    let removed = path.to_string_lossy().ends_with(" (deleted)");
    if removed && !path.exists() {
        return Err("this program was removed or replaced while it runs: call it again".to_owned());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on PATH here: links of these names.
    fn found(exe: &str, called_by: &str, on_path: &[&str]) -> Vec<String> {
        let on_path = |name: &OsStr| {
            let mut all = on_path.iter().map(PathBuf::from);
            all.find(|path| path.file_name() == Some(name))
        };
        let links = links(Path::new(exe), called_by.as_ref(), &on_path);
        links.into_iter().flatten().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_links_own_name_comes_before_an_alias() {
        let exe = "/opt/hg/1.2/hermes-gateway";
        let link = "/usr/local/bin/hermes-gateway";
        assert_eq!(found(exe, "hermes-gateway", &[link]), [link; 3]);
        assert_eq!(found(exe, exe, &[link]), [link, link, exe]);
        let alias = "/usr/local/bin/coder";
        assert_eq!(found(exe, "coder", &[link, alias]), [link, link, alias]);
        assert_eq!(found(exe, "coder", &[alias]), [alias]);
        // The file itself, where it is what PATH finds, and not a file with its version in its name.
        assert_eq!(found(link, "coder", &[link, alias]), [link, alias]);
        let versioned = "/usr/local/bin/bot-1.2";
        let bot = "/usr/local/bin/bot";
        assert_eq!(found(versioned, "bot", &[versioned, bot]), [bot]);
    }

    #[test]
    fn a_relative_call_is_made_absolute_and_dots_are_left_out() {
        let here = env::current_dir().unwrap().join("bin/hg");
        assert_eq!(found("/opt/hg", "./bin/hg", &[]), [here.to_str().unwrap()]);
        assert_eq!(found("/opt/hg", "../bin/hg", &[]), [""; 0]);
    }

    #[test]
    fn a_link_lasts_where_only_the_trusted_write_and_nothing_is_built() {
        let root = [0];
        assert!(is_permanent(Path::new("/usr/bin/env"), &root));
        assert!(!is_permanent(Path::new("/usr/bin/env"), &[4242]), "somebody else's directory");
        assert!(!is_permanent(Path::new("/usr/build/env"), &root));
        // Open to all, and temporary.
        assert!(!is_permanent(Path::new("/tmp/hermes-gateway"), &root));
        assert!(!is_permanent(Path::new("/dev/shm/hermes-gateway"), &root));
    }

    #[test]
    fn places_of_builds_are_known() {
        let dir =
            |path: &str| temporary_parent(Path::new(path)).map(|dir| dir.display().to_string());
        assert_eq!(dir("/srv/x/target/release/hg").as_deref(), Some("/srv/x/target"));
        assert_eq!(dir("/var/tmp/hg").as_deref(), Some("/var/tmp"));
        for path in ["/usr/local/bin/hg", "/srv/.cargo/bin/hg", "/srv/targets/hg", "/srv/target"] {
            assert_eq!(dir(path), None, "{path}");
        }
    }
}
