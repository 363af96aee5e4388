//! From a TOML value to its field: type, range and the checks that one key needs, then the ones
//! between keys. Faults are collected, never returned early.
#![forbid(unsafe_code)]

use super::error::{Origin, Problems, place, quoted};
use super::schema::{Key, Kind};
use super::syntax::Source;
use super::{AgentKind, Config, names, suggest, units};
use crate::limits::MAX_EXEC_STRING;
use crate::named::ByName;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml_span::Value;
use toml_span::value::ValueInner;

/// A configuration in the making.
#[derive(Debug, Default)]
pub struct Draft {
    pub config: Config,
    pub origins: Origins,
    pub problems: Problems,
    /// For paths from `~/`.
    pub home: Option<PathBuf>,
}

/// Where each value came from; what is not in here is a default.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// By [`Key::full_name`].
    pub keys: ByName<Origin>,
    /// By the variable's name.
    pub env: ByName<Origin>,
}

impl Origins {
    pub fn of(&self, full_name: &str) -> &Origin {
        self.keys.get(full_name).unwrap_or(&Origin::Default)
    }
}

impl Draft {
    /// Puts a value in its place; `origin` is where its key stands.
    pub fn assign(&mut self, key: &Key, origin: Origin, value: &Value<'_>, source: &Source<'_>) {
        if let Kind::Env(_) = key.kind {
            return self.assign_env(key, origin, value, source);
        }
        let fault = match self.convert(key, value, source) {
            Ok(()) => {
                self.origins.keys.insert(key.full_name(), origin);
                return;
            }
            Err(fault) => fault,
        };
        self.problems.push(source.value(value), fault);
    }

    /// Everything but `env`. A list's items report their own places and leave the list as it was.
    fn convert(&mut self, key: &Key, value: &Value<'_>, source: &Source<'_>) -> Result<(), String> {
        let config = &mut self.config;
        match &key.kind {
            Kind::Address(at) => {
                let text = text(key, value)?;
                let reason = "it must be an IP address and a port";
                *at(config) = text.parse().map_err(|_| bad(key, text, reason))?;
            }
            Kind::Path(at) => *at(config) = path(key, text(key, value)?, self.home.as_ref())?,
            Kind::List(at, check) => {
                if let Some(list) = list(key, value, *check, source, &mut self.problems)? {
                    *at(config) = list;
                }
            }
            Kind::Choice(at) => {
                let choice = at(config);
                let words = choice.words();
                let wanted = alternatives(&words);
                let Some(text) = value.as_str() else {
                    let name = key.full_name();
                    return Err(format!("{name} must be {wanted}; got {}", type_of(value)));
                };
                if !choice.choose(text) {
                    let hint = suggest::nearest(text, words)
                        .map_or(String::new(), |word| format!("; did you mean {}?", quoted(word)));
                    let name = key.full_name();
                    return Err(format!("{name} is {}; it must be {wanted}{hint}", quoted(text)));
                }
            }
            Kind::Time(at, range) => *at(config) = time(key, value, range)?,
            Kind::Size(at, range) => *at(config) = size(key, value, range)?,
            Kind::Count(at, range, zero) => {
                let number = value.as_integer().ok_or_else(|| wrong_type(key, type_of(value)))?;
                let number = usize::try_from(number)
                    .ok()
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| {
                    let (low, high) = (range.start(), range.end());
                    outside(key, &number.to_string(), &low.to_string(), &high.to_string())
                })?;
                *at(config) = match zero {
                    Some(resolve) if number == 0 => resolve(),
                    Some(_) | None => number,
                };
            }
            Kind::Env(_) => {}
        }
        Ok(())
    }

    /// A table of variables takes the place of all that were given before.
    fn assign_env(&mut self, key: &Key, origin: Origin, value: &Value<'_>, source: &Source<'_>) {
        let Some(table) = value.as_table() else {
            let fault = wrong_type(key, type_of(value));
            return self.problems.push(source.value(value), fault);
        };
        self.config.agent.env.clear();
        self.origins.env.clear();
        self.origins.keys.insert(key.full_name(), origin);
        for (name, value) in table {
            self.assign_variable(&name.name, source.key(name), value, source);
        }
    }

    /// One variable of `agent.env`. Its value may be a secret: no error repeats it.
    pub fn assign_variable(
        &mut self,
        name: &str,
        origin: Origin,
        value: &Value<'_>,
        source: &Source<'_>,
    ) {
        if let Err(reason) = names::variable(name) {
            let fault = format!("agent.env has {}; {reason}", quoted(name));
            return self.problems.push(origin, fault);
        }
        let fault = match value.as_str() {
            // The system counts NAME=VALUE.
            Some(text) if name.len() + 1 + text.len() > MAX_EXEC_STRING => {
                format!(
                    "is longer than the system allows ({MAX_EXEC_STRING} bytes); put it into a file"
                )
            }
            Some(text) if !text.contains('\0') => {
                self.origins.env.insert(name.to_owned(), origin);
                self.config.agent.env.insert(name.to_owned(), text.to_owned());
                return;
            }
            Some(_) => "holds a NUL, which no variable can; remove it".to_owned(),
            None => format!("must be a string, like \"small\"; got {}", type_of(value)),
        };
        let fault = format!("agent.env.{name} {fault}");
        self.problems.push(source.value(value), fault);
    }

    /// The checks between keys; each key has passed its own.
    pub fn settle(&mut self, file: &str) {
        let agent = &mut self.config.agent;
        let kind = self.origins.of("agent.kind").clone();
        let command = self.origins.of("agent.command").clone();
        let given = !agent.command.is_empty();
        if given && kind == Origin::Default {
            agent.kind = AgentKind::Command;
            self.origins.keys.insert("agent.kind".to_owned(), command.clone());
        }
        match (agent.kind, agent.command.first()) {
            (AgentKind::Command, Some(program)) if program.is_empty() => self.problems.push(
                command,
                "agent.command names no program: its first string is empty; \
                 write one like [\"my-agent\", \"--flag\"]",
            ),
            (AgentKind::Command, None) => self.problems.push(
                kind,
                "agent.kind is \"command\" but agent.command is empty; \
                 say what to run, like command = [\"my-agent\", \"--flag\"]",
            ),
            (AgentKind::Echo, Some(_)) => self.problems.push(
                command,
                format!(
                    "agent.command is given but agent.kind is \"echo\" ({}); \
                     take one of the two away, or write kind = \"command\"",
                    place(&kind, file)
                ),
            ),
            (AgentKind::Command, Some(_)) | (AgentKind::Echo, None) => {}
        }
    }
}

fn text<'v>(key: &Key, value: &'v Value<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| wrong_type(key, type_of(value)))
}

fn path(key: &Key, text: &str, home: Option<&PathBuf>) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.contains('\0') {
        return Err(bad(key, text, "it must not hold a NUL"));
    }
    let home = home.filter(|home| home.is_absolute());
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Ok(Some(home.join(rest.trim_start_matches('/')))),
        (Some(_), None) => Err(format!(
            "{} is {}, but HOME is not set; write the path from /",
            key.full_name(),
            quoted(text)
        )),
        (None, _) if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        (None, _) => Err(bad(key, text, "it must begin with / or ~/")),
    }
}

/// The list's strings in their final form; `None` if some were refused, which is then reported.
fn list(
    key: &Key,
    value: &Value<'_>,
    check: fn(&str) -> Result<String, String>,
    source: &Source<'_>,
    problems: &mut Problems,
) -> Result<Option<Vec<String>>, String> {
    let array = value.as_array().ok_or_else(|| wrong_type(key, type_of(value)))?;
    let name = key.full_name();
    let mut list = Vec::new();
    for (number, item) in array.iter().enumerate() {
        let fault = match item.as_str().map(|text| (text, check(text))) {
            Some((_, Ok(checked))) => {
                list.push(checked);
                continue;
            }
            Some((text, Err(reason))) => format!("{name} has {}; {reason}", quoted(text)),
            None => format!("{name}[{number}] must be a string; got {}", type_of(item)),
        };
        problems.push(source.value(item), fault);
    }
    Ok((list.len() == array.len()).then_some(list))
}

fn time(
    key: &Key,
    value: &Value<'_>,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, String> {
    let (time, shown) = match (value.as_integer(), value.as_str()) {
        (Some(seconds), _) => {
            let time = u64::try_from(seconds).ok().map(Duration::from_secs);
            (time, seconds.to_string())
        }
        (_, Some(text)) => {
            let reason = "it must be a number of seconds, or one with a unit (ms, s, m, h)";
            let time = units::parse_time(text).ok_or_else(|| bad(key, text, reason))?;
            (Some(time), quoted(text))
        }
        (None, None) => return Err(wrong_type(key, type_of(value))),
    };
    time.filter(|time| range.contains(time)).ok_or_else(|| {
        let (low, high) = (*range.start(), *range.end());
        outside(key, &shown, &units::show_time(low), &units::show_time(high))
    })
}

fn size(key: &Key, value: &Value<'_>, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let (bytes, shown) = match (value.as_integer(), value.as_str()) {
        (Some(number), _) => (u64::try_from(number).ok(), number.to_string()),
        (_, Some(text)) => {
            let reason = "it must be a number of bytes, or one with a unit (B, KiB, MiB, GiB)";
            let bytes = units::parse_size(text).ok_or_else(|| bad(key, text, reason))?;
            (Some(bytes), quoted(text))
        }
        (None, None) => return Err(wrong_type(key, type_of(value))),
    };
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| range.contains(bytes))
        .ok_or_else(|| {
            let (low, high) = (*range.start(), *range.end());
            outside(key, &shown, &units::show_size(low), &units::show_size(high))
        })
}

/// "KEY must be TYPE, like EXAMPLE; got …".
pub fn wrong_type(key: &Key, got: &str) -> String {
    let wanted = match key.kind {
        Kind::Address(_) => "an address and port in quotes",
        Kind::Path(_) => "a path in quotes",
        Kind::List(..) => "a list of strings",
        Kind::Env(_) => "a table of strings",
        Kind::Choice(_) => "a word in quotes",
        Kind::Time(..) => "a time",
        Kind::Size(..) => "a size",
        Kind::Count(..) => "a whole number",
    };
    format!("{} must be {wanted}, like {}; got {got}", key.full_name(), key.example)
}

fn bad(key: &Key, text: &str, reason: &str) -> String {
    format!("{} is {}; {reason}, like {}", key.full_name(), quoted(text), key.example)
}

fn outside(key: &Key, shown: &str, low: &str, high: &str) -> String {
    format!(
        "{} is {shown}; it must be between {low} and {high}, like {}",
        key.full_name(),
        key.example
    )
}

/// `"a", "b" or "c"`.
fn alternatives(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

pub fn type_of(value: &Value<'_>) -> &'static str {
    match value.as_ref() {
        ValueInner::String(_) => "a string",
        ValueInner::Integer(_) => "an integer",
        ValueInner::Float(_) => "a number with a fraction",
        ValueInner::Boolean(_) => "a boolean",
        ValueInner::Array(_) => "a list",
        ValueInner::Table(_) => "a table",
    }
}
