//! The program that an update replaces: which files lead to it, the copy that is kept of it, and the way
//! back to what it was.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::sys::{fs as files, gather::Gather};

/// As many symlinks as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What is taken for a program: with all its symbols this one has 100 MB.
const MAX_PROGRAM: u64 = 1 << 30;

/// A program as it was before the update.
#[derive(Debug)]
pub struct Installed {
    /// As the gateway is started.
    pub path: PathBuf,
    /// Every symlink on the way to the file, and where it led.
    links: Vec<(PathBuf, PathBuf)>,
    file: PathBuf,
    content: Vec<u8>,
    mode: u32,
    /// The copy, or why there is none.
    pub kept: Result<PathBuf, String>,
}

impl Installed {
    /// Looks at the program at `path`, and keeps a copy of it beside that: `NAME.previous`. A copy, since
    /// a second name of the file would change with it where the update writes into the file.
    ///
    /// # Errors
    /// The file cannot be found, or is none.
    pub fn keep(path: &Path) -> io::Result<Installed> {
        let (file, content) = (fs::canonicalize(path)?, read(path)?);
        let mode = file.metadata()?.permissions().mode() & 0o777;
        // One of the symlinks may be on the way to the directory.
        let dir = fs::canonicalize(path.parent().unwrap_or(path))?;
        let kept = dir.join(with_suffix(path, ".previous"));
        let copied = put(&kept, &content, mode).map_err(|e| format!("{}: {e}", kept.display()));
        let (path, links) = (path.to_owned(), links(path));
        Ok(Installed { path, links, file, content, mode, kept: copied.map(|()| kept) })
    }

    /// Whether the path leads to the same program as before.
    pub fn is_unchanged(&self) -> bool {
        read(&self.path).is_ok_and(|content| content == self.content)
    }

    /// Has the path lead to the program of before: by its symlinks where its file is still there, else by
    /// its content.
    ///
    /// # Errors
    /// One line: what stood in the way.
    pub fn put_back(&self) -> Result<(), String> {
        let failed = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
        let is_there = self.file.exists();
        for (link, target) in self.links.iter().filter(|_| is_there) {
            if fs::read_link(link).ok().as_ref() != Some(target) {
                point(link, target).map_err(|e| failed(link, e))?;
            }
        }
        if self.is_unchanged() {
            return Ok(());
        }
        // A file that went with its package's directory comes back where the path itself is.
        let to = if is_there || self.links.is_empty() { &self.file } else { &self.path };
        put(to, &self.content, self.mode).map_err(|e| failed(to, e))?;
        if self.is_unchanged() { Ok(()) } else { Err("it is another one all the same".to_owned()) }
    }
}

/// Puts the copy that an earlier update has kept to where the program's path leads.
pub fn put_copy_back(kept: &Path, path: &Path) -> io::Result<()> {
    let mode = fs::metadata(kept)?.permissions().mode() & 0o777;
    put(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), &read(kept)?, mode)
}

/// Every symlink on the way to the file, in the order in which the kernel follows them.
fn links(path: &Path) -> Vec<(PathBuf, PathBuf)> {
    let (mut found, mut at) = (Vec::new(), path.to_owned());
    while found.len() < MAX_LINKS {
        let mut prefixes: Vec<&Path> = at.ancestors().gather();
        prefixes.reverse();
        let first =
            prefixes.iter().find_map(|it| Some((it.to_path_buf(), fs::read_link(it).ok()?)));
        let Some((link, target)) = first else { break };
        let rest = at.strip_prefix(&link).map(Path::to_owned).unwrap_or_default();
        let next = link.parent().unwrap_or(&link).join(&target);
        // An empty rest would add a slash.
        at = if rest.as_os_str().is_empty() { next } else { next.join(rest) };
        found.push((link, target));
    }
    found
}

/// Has a symlink lead elsewhere, in one step.
fn point(link: &Path, target: &Path) -> io::Result<()> {
    let new = link.with_file_name(with_suffix(link, ".new"));
    let _ = fs::remove_file(&new);
    symlink(target, &new)?;
    fs::rename(&new, link)?;
    files::sync_dir_of(link)
}

/// Puts a program in its place, durable, whatever the umask.
fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    files::replace(path, content, mode)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Reads a regular file: a fifo in its place would hang us.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.len() > MAX_PROGRAM {
        return Err(io::Error::other("it is no regular file, or too large"));
    }
    files::read_bytes(File::open(path)?, MAX_PROGRAM)
}

fn with_suffix(path: &Path, suffix: &str) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_that_was_written_into_replaced_or_removed_comes_back() {
        let root = TempDir::new("program");
        let program = root.path().join("bin/gw");
        write(&program, "old");
        let installed = Installed::keep(&program).unwrap();
        let kept = installed.kept.clone().unwrap();
        assert!(kept.ends_with("bin/gw.previous"));
        assert!(installed.is_unchanged());
        let changes: [&dyn Fn(); 3] = [
            &|| fs::write(&program, "new").unwrap(),
            &|| {
                write(&program.with_extension("x"), "new");
                fs::rename(program.with_extension("x"), &program).unwrap();
            },
            &|| fs::remove_file(&program).unwrap(),
        ];
        for change in changes {
            change();
            assert!(!installed.is_unchanged());
            installed.put_back().unwrap();
            assert_eq!((text(&program), text(&kept)), ("old".into(), "old".into()));
            assert_eq!(program.metadata().unwrap().permissions().mode() & 0o777, 0o755);
            assert!(installed.is_unchanged(), "by its content");
        }
        assert_eq!(fs::read_dir(program.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn links_that_were_moved_lead_back_where_their_file_is_still_there() {
        let root = TempDir::new("program");
        let real = fs::canonicalize(root.path()).unwrap();
        // bin/gw -> ../current/gw, and current -> 1.0: one link in a file's place, one in a directory's.
        let (link, current) = (real.join("bin/gw"), real.join("current"));
        let versions = ["1.0", "1.1"].map(|version| real.join(version).join("gw"));
        versions.iter().for_each(|file| write(file, file.to_str().unwrap()));
        fs::create_dir(real.join("bin")).unwrap();
        symlink("1.0", &current).unwrap();
        symlink("../current/gw", &link).unwrap();
        let installed = Installed::keep(&link).unwrap();
        assert_eq!(installed.links.len(), 2, "{installed:?}");
        assert_eq!(installed.kept.as_deref(), Ok(&*real.join("bin/gw.previous")));
        point(&current, Path::new("1.1")).unwrap();
        assert!(!installed.is_unchanged());
        installed.put_back().unwrap();
        assert_eq!(fs::canonicalize(&link).unwrap(), versions[0]);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("../current/gw"));
        // The package has removed the old version.
        point(&current, Path::new("1.1")).unwrap();
        fs::remove_dir_all(real.join("1.0")).unwrap();
        installed.put_back().unwrap();
        assert_eq!(text(&link), versions[0].to_str().unwrap());
        assert!(!link.is_symlink() && text(&versions[1]).ends_with("1.1/gw"));
    }

    #[test]
    fn what_cannot_be_kept_says_why_and_what_is_no_program_is_refused() {
        let root = TempDir::new("program");
        let program = root.path().join("gw");
        write(&program, "old");
        // A directory in the copy's place stands for one that cannot be written: root may write all.
        fs::create_dir_all(root.path().join("gw.previous/x")).unwrap();
        let installed = Installed::keep(&program).unwrap();
        assert!(installed.kept.is_err());
        fs::write(&program, "new").unwrap();
        installed.put_back().unwrap();
        assert_eq!(text(&program), "old");
        assert!(Installed::keep(root.path()).is_err());
        assert!(Installed::keep(&root.path().join("missing")).is_err());
    }
}
