//! A program to start, with its arguments and variables.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::named::ByName;
use crate::sys::{gather::Gather, spawn};

/// Whether a variable is the service manager's word to one process only (systemd.exec(5), sd_notify(3),
/// sd_listen_fds(3)): a child that had it could speak in our name or take itself for us.
pub fn is_service_manager_variable(name: &str) -> bool {
    ["INVOCATION_ID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"].contains(&name)
        || name.starts_with("WATCHDOG_")
        || name.starts_with("LISTEN_")
}

/// Our own variables, less those that `without` holds of.
pub fn own_variables(without: fn(&str) -> bool) -> Environment {
    let mut all: Environment = env::vars_os().gather();
    all.retain(|(name, _)| !name.to_str().is_some_and(without));
    all
}

/// Names and values of variables; of two with one name the later counts.
pub type Environment = Vec<(OsString, OsString)>;

/// A program to start: an absolute path, arguments and variables.
#[derive(Clone, Debug)]
pub struct Program {
    /// The path and the arguments.
    pub(super) argv: Vec<OsString>,
    environment: Environment,
    /// The file to execute, opened; the path is then only what it is called by.
    pub(super) image: Option<Arc<File>>,
    /// A file that it finds open, by our number for it.
    pub(super) kept: Option<Arc<File>>,
}

impl Program {
    /// A program with our own environment, less what is for us alone.
    pub fn new(path: PathBuf) -> Program {
        Program::with_environment(path, own_variables(is_service_manager_variable))
    }

    /// The program of a `command` in the configuration: a path, or a name on `PATH`.
    pub fn configured(command: &[String], environment: Environment) -> io::Result<Program> {
        let [program, arguments @ ..] = command else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no command is configured"));
        };
        let path = if program.contains('/') { program.into() } else { find_program(program)? };
        Ok(Program::with_environment(path, environment).args(arguments))
    }

    /// A program with exactly these variables.
    pub fn with_environment(path: PathBuf, environment: Environment) -> Program {
        Program { argv: vec![path.into()], environment, image: None, kept: None }
    }

    /// The same by an open file: the path is only what it is called by.
    #[must_use]
    pub fn opened(self, image: Arc<File>) -> Program {
        Program { image: Some(image), ..self }
    }

    /// The same, which finds a file open at `/proc/self/fd/N`, N being our number for it.
    #[must_use]
    pub fn keeping(self, file: Option<Arc<File>>) -> Program {
        Program { kept: file, ..self }
    }

    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Program {
        arguments.into_iter().for_each(|argument| self.argv.push(argument.into()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Program {
        self.environment.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Program {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Replaces this process by the program; it keeps our environment. Returns only with why not.
    pub fn exec(&self) -> io::Error {
        spawn::replace_by(&self.argv)
    }

    /// `NAME=VALUE`; those in `own` come instead of others with their names.
    pub(super) fn variables(&self, own: &[(OsString, OsString)]) -> Vec<OsString> {
        let all = [&self.environment[..], own].concat();
        let mut texts = Vec::new();
        for (at, (name, value)) in all.iter().enumerate() {
            if !all[at + 1..].iter().any(|(later, _)| later == name) {
                let equals: &OsStr = "=".as_ref();
                texts.push([name, equals, value].into_iter().collect());
            }
        }
        texts
    }
}

/// What any program may need to find its files, its language and its time zone; none of it secret.
const ALLOWED: &str = "HOME USER LOGNAME SHELL PATH LANG LANGUAGE LC_ALL LC_CTYPE LC_MESSAGES \
    LC_COLLATE TZ TMPDIR XDG_CONFIG_HOME XDG_STATE_HOME XDG_RUNTIME_DIR";

/// The environment that agents and targets get: the allow list, `pass_env` and `env`, of which the
/// later ones win.
pub fn environment(env: &ByName<String>, pass_env: &[String]) -> Environment {
    let inherited = ALLOWED.split(' ').chain(pass_env.iter().map(String::as_str));
    let inherited = inherited.filter_map(|name| Some((name.into(), env::var_os(name)?)));
    let configured = env.iter().map(|(name, value)| (name.into(), value.into()));
    inherited.chain(configured).gather()
}

/// Finds a program on `PATH`, else in the places where systemd's own are.
pub fn find_program(name: &str) -> io::Result<PathBuf> {
    find_on(name, &env::var_os("PATH").unwrap_or_default())
}

/// The same with another `PATH`.
pub fn find_on(name: &str, path: &OsStr) -> io::Result<PathBuf> {
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut places = env::split_paths(path).filter(|dir| dir.is_absolute()).chain(usual);
    let runs = |file: &PathBuf| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    places.find_map(|dir| Some(dir.join(name)).filter(runs)).ok_or_else(|| {
        let words = format!("there is no {name} on PATH or in /usr/bin");
        io::Error::new(io::ErrorKind::NotFound, words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_without_a_path() {
        assert!(find_program("sh").is_ok());
        assert!(find_program("no-such-program-here").is_err());
    }
}
