//! Why a program cannot be executed, as far as its files tell: execve(2) has one number for a script
//! that is missing and for one whose interpreter is.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::program::find_on;
use crate::escape::escaped;
use crate::sys::fs::read_bytes;

/// What the kernel reads of a program to find its interpreter (BINPRM_BUF_SIZE).
const MAX_SCRIPT_HEAD: u64 = 256;

/// What is wrong with the program of a `command`, with a suggested fix; `None`: nothing that its files
/// would show. `path`: where it is looked up by its name; `inner`: its own `PATH`.
pub fn why_not_executable(command: &[String], path: &OsStr, inner: &OsStr) -> Option<String> {
    let program = command.first()?;
    let file = if program.contains('/') { Ok(program.into()) } else { find_on(program, path) };
    let why = file.map_or_else(|e| Some(e.to_string()), |file: PathBuf| fault(&file, inner))?;
    Some(escaped(&why, false))
}

/// Why a command could not be started: what its files tell, else what the system said.
pub fn explain_failure(command: &[String], error: &io::Error) -> String {
    let path = env::var_os("PATH").unwrap_or_default();
    let why = why_not_executable(command, &path, &path);
    why.unwrap_or_else(|| error.to_string())
}

fn fault(file: &Path, path: &OsStr) -> Option<String> {
    let shown = file.display();
    match file.metadata() {
        Err(e) => return Some(format!("{shown} cannot be used: {e}")),
        Ok(meta) if !meta.is_file() => return Some(format!("{shown} is a directory or device")),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
            return Some(format!("{shown} is not executable: chmod +x {shown}"));
        }
        Ok(_) => {}
    }
    // One that may be executed and not read is no script.
    let head = read_bytes(File::open(file).ok()?, MAX_SCRIPT_HEAD).ok()?;
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!") else {
        let is_text = !head.contains(&0);
        return is_text.then(|| format!("{shown} has no #! line: add #!/bin/sh as its first line"));
    };
    if line.ends_with(b"\r") {
        let fix = format!("sed -i 's/\\r$//' {shown}");
        return Some(format!("the first line of {shown} ends in CRLF: {fix}"));
    }
    let line = String::from_utf8_lossy(line);
    let (mut words, of) = (line.split_ascii_whitespace(), "the interpreter in the first line of");
    let interpreter = words.next().unwrap_or_default();
    if let Err(e) = Path::new(interpreter).metadata() {
        return Some(format!("{of} {shown}, {interpreter}, cannot be used: {e}"));
    }
    // env(1) looks for the first word that is no option of its own and no variable.
    let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    let missing = interpreter.ends_with("/env") && find_on(name, path).is_err();
    let fix = "write its absolute path there, or set PATH in env";
    missing.then(|| format!("{of} {shown}, {name}, is not on its PATH: {fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;

    /// What is said of a file with this content and mode, without its path.
    fn said(content: &str, mode: u32) -> String {
        let dir = TempDir::new("executable");
        let file = dir.path().join("agent");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        why(&file).replace(&file.display().to_string(), "FILE")
    }

    fn why(file: &Path) -> String {
        let path = env::var_os("PATH").unwrap();
        why_not_executable(&[file.display().to_string()], &path, &path).unwrap_or_default()
    }

    #[test]
    fn each_fault_is_named_with_its_fix() {
        for (content, mode, words) in [
            ("#!/bin/sh\n", 0o644, "FILE is not executable: chmod +x FILE"),
            ("echo\n", 0o755, "FILE has no #! line: add #!/bin/sh as its first line"),
            ("", 0o755, "FILE has no #! line: add #!/bin/sh as its first line"),
            (
                "#!/bin/sh\r\necho\r\n",
                0o755,
                "the first line of FILE ends in CRLF: sed -i 's/\\r$//' FILE",
            ),
            (
                "#!/usr/bin/env sh\r\n",
                0o755,
                "the first line of FILE ends in CRLF: sed -i 's/\\r$//' FILE",
            ),
            (
                "#! /no/such/python3 -u\n",
                0o755,
                "the interpreter in the first line of FILE, /no/such/python3, cannot be used: No such file \
                 or directory (os error 2)",
            ),
            (
                "#!/usr/bin/env no-such-node\n",
                0o755,
                "the interpreter in the first line of FILE, no-such-node, is not on its PATH: write its \
                 absolute path there, or set PATH in env",
            ),
            ("#!/bin/sh\necho\r\n", 0o755, ""),
            ("#!/usr/bin/env -S A=b sh -e\n", 0o755, ""),
            ("#!/bin/sh", 0o755, ""),
            ("\u{7f}ELF\0", 0o755, ""),
            ("MZ\0", 0o755, ""),
        ] {
            assert_eq!(said(content, mode), words, "{content:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_named() {
        let dir = TempDir::new("executable");
        let missing = dir.path().join("missing");
        assert!(why(dir.path()).ends_with("is a directory or device"));
        assert!(why(&missing).contains("missing cannot be used: No such file"));
        let file = dir.path().join("file");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        assert!(why(&file.join("x")).contains("Not a directory"));
    }
}
