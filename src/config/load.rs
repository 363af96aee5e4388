//! Loading: the file is read here, everything after that works on its bytes.

use super::builder::ConfigBuilder;
use super::consistency;
use super::error::{Location, Problems};
use super::schema::{Check, ClientKey, Config};
use super::secret::Secret;
use super::toml_errors::Source;
use super::value::Diagnostics;
use crate::escape::escaped;
use crate::exit::Failure;
use crate::limits::{MAX_CONFIG_BYTES, MAX_KEY_FILE};
use crate::named::ByName;
use crate::sys::{fs::read_bytes, gather::Gather};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::permissions::{open_secret, open_trusted, read_secret};

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: PathBuf,
    /// Set with `--config`: a missing file is an error; otherwise it means the defaults.
    pub required: bool,
    /// A missing or empty file is an error, too: what ran with one would become `echo` without a word.
    pub demanded: bool,
    /// The `--set` arguments, `section.key=value`; later ones win.
    pub set: Vec<String>,
    /// For paths from `~/`.
    pub home: Option<PathBuf>,
}

/// A configuration, and where each value of it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Whether the file set anything.
    pub from_file: bool,
    pub(super) locations: ByName<Location>,
}

impl Loaded {
    /// Where a value such as `http.listen` was given, for errors that show only when it is used:
    /// `FILE:LINE:COLUMN`, `--set …`; `None` for a default.
    pub fn place(&self, full_name: &str) -> Option<String> {
        let location = self.location(full_name);
        (*location != Location::Default).then(|| location.show(&self.file_name()))
    }

    pub(super) fn location(&self, full_name: &str) -> &Location {
        self.locations.get(full_name).unwrap_or(&Location::Default)
    }

    pub(super) fn file_name(&self) -> String {
        self.file.as_deref().map(name).unwrap_or_default()
    }

    /// Reads the secrets that the agent and targets name; what only looks at settings does without.
    ///
    /// # Errors
    /// Each file that cannot be used, with the place of its key.
    pub fn with_secrets(mut self) -> Result<Loaded, Failure> {
        let mut problems = Problems::default();
        let locations = &self.locations;
        let mut secret = |file: &Option<PathBuf>, key: &str, parse: Check<Secret>| {
            let file = file.as_ref()?;
            let text = read_secret(file, MAX_KEY_FILE);
            let secret = text.and_then(|text| parse(&text).map_err(io::Error::other));
            let report = |e: &io::Error| {
                let location = locations.get(key).cloned().unwrap_or(Location::Default);
                // A server's key is not for us to make.
                let fix = if key.starts_with("agent.") { String::new() } else { fix(e, file) };
                let own = name(file);
                problems.push_file(location, format!("{key}: {own} cannot be used: {e}{fix}"), e);
            };
            secret.inspect_err(report).ok()
        };
        let agent = &mut self.config.agent;
        let key = secret(&agent.key_file, "agent.key_file", Secret::key);
        for (at, server) in agent.url.iter_mut().enumerate() {
            let mut own =
                || secret(&server.key_file, &format!("agent.url[{at}].key_file"), Secret::key);
            server.key = if server.has("key_file") { own() } else { key.clone() };
        }
        for target in self.config.deliver.values_mut() {
            let key = format!("deliver.{}.secret_file", target.name);
            target.secret = secret(&target.secret_file, &key, Secret::parse);
        }
        for own in self.config.keys.values_mut() {
            own.key = secret(&own.file, &format!("keys.{}.file", own.name), Secret::client);
        }
        for (own, channel) in self.config.channel.iter() {
            // The adapter reads it, and nobody else.
            let Some(file) = &channel.token_file else { continue };
            if let Err(e) = open_secret(file) {
                let key = format!("channel.{own}.token_file");
                let location = self.locations.get(&key).cloned().unwrap_or(Location::Default);
                let missing = e.kind() == ErrorKind::NotFound;
                let fix =
                    if missing { "; write the token into it that BotFather shows" } else { "" };
                let fault = format!("{key}: {} cannot be used: {e}{fix}", name(file));
                problems.push_file(location, fault, &e);
            }
        }
        let file = self.file_name();
        self.check_duplicates(&mut problems, &file);
        problems.check(&file).map(|()| self)
    }

    /// Two principals must not share a key: which of them came would be a guess.
    fn check_duplicates(&self, problems: &mut Problems, file: &str) {
        let location = |key: &ClientKey| self.location(&format!("keys.{}.file", key.name));
        let keys: Vec<&ClientKey> = self.config.keys.values().gather();
        for (at, key) in keys.iter().enumerate() {
            let twin = keys[..at].iter().find(|other| other.key.is_some() && other.key == key.key);
            if let Some(twin) = twin {
                let (own, other, place) = (&key.name, &twin.name, location(twin).show(file));
                let fault = format!("keys.{own} has the same key as keys.{other} ({place})");
                problems.push(location(key).clone(), fault);
            }
        }
    }
}

/// Why a file that names no agent is rejected.
pub const ECHO_UNASKED: &str = "the built-in echo agent does not replace yours unless you ask for \
    it; restore the file, or write `[agent]` and below it `command = []`";

/// Loads the file and the `--set` arguments over it.
///
/// # Errors
/// All that is wrong with the file and the arguments, one line each; or why the file cannot be
/// read.
pub fn load(sources: &Sources) -> Result<Loaded, Failure> {
    let reject = |why: String, error: &io::Error| {
        let mut problems = Problems::default();
        problems.push_file(Location::Default, why, error);
        problems.check(&name(&sources.file))
    };
    let bytes = read(&sources.file);
    if let Err(e) = &bytes {
        // Also where the directory for configurations is none, such as /dev/null.
        let missing = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        if !missing {
            reject(e.to_string(), e)?;
        } else if sources.required {
            let why = "there is no such file; create it, or leave --config out for the defaults";
            reject(why.to_owned(), e)?;
        }
    }
    let loaded = from_bytes(bytes.ok().as_deref(), sources)?;
    if sources.demanded && !loaded.from_file {
        let there = loaded.file.is_some();
        let what = if there { "it is empty: it sets nothing" } else { "there is no such file" };
        reject(format!("{what}, and {ECHO_UNASKED}"), &ErrorKind::InvalidData.into())?;
    }
    Ok(loaded)
}

/// The pure half of [`load`]: the file's bytes, or `None` where there is no file.
pub(super) fn from_bytes(bytes: Option<&[u8]>, sources: &Sources) -> Result<Loaded, Failure> {
    let diagnostics = Diagnostics {
        locations: ByName::default(),
        problems: Problems::default(),
        file: name(&sources.file),
        home: sources.home.clone(),
        source: Source::File(""),
    };
    let mut builder = ConfigBuilder { config: Config::default(), diagnostics };
    if let Some(Err((at, fault))) = bytes.map(|bytes| builder.read_file(bytes)) {
        builder.diagnostics.problems.push(at, fault);
    }
    let from_file = !builder.diagnostics.locations.is_empty();
    sources.set.iter().for_each(|argument| builder.read_set(argument));
    let ConfigBuilder { mut config, mut diagnostics } = builder;
    diagnostics.problems.check(&diagnostics.file)?;
    // What keys mean together can only be judged where each is good.
    consistency::check(&mut config, &mut diagnostics);
    let Diagnostics { locations, problems, file, .. } = diagnostics;
    problems.check(&file)?;
    Ok(Loaded { config, file: bytes.map(|_| sources.file.clone()), from_file, locations })
}

/// Reads the file up to the cap, if nobody else may write it: whoever does chooses the agent.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = read_bytes(open_trusted(path)?, MAX_CONFIG_BYTES as u64 + 1)?;
    if bytes.len() > MAX_CONFIG_BYTES {
        let cap = MAX_CONFIG_BYTES / 1024;
        return Err(io::Error::other(format!("it is larger than {cap} KiB")));
    }
    Ok(bytes)
}

/// What to do about a secret's file that is not there.
pub fn fix(error: &io::Error, file: &Path) -> String {
    let fix = |file| format!("; make it: `openssl rand -hex 32 > {file}; chmod 600 {file}`");
    if error.kind() == ErrorKind::NotFound { fix(name(file)) } else { String::new() }
}

/// The file's name, safe to print and never cut: people copy it.
pub(super) fn name(path: &Path) -> String {
    escaped(&path.to_string_lossy(), false)
}
