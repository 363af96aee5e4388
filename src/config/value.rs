//! From a TOML value to its field: type, range and the checks that one key needs. Faults are
//! collected, never returned early.

use super::did_you_mean::hint;
use super::error::{Origin, Problems, quoted};
use super::schema::{Check, Field};
use super::toml_errors::Source;
use super::{units, validate};
use crate::limits::MAX_EXEC_STRING;
use crate::named::ByName;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml_span::Value;
use toml_span::value::{Table, ValueInner};

/// What is known about the values that were read.
pub struct Diagnostics<'a> {
    /// Where each value came from, by its full name (`agent.url`, `agent.env.MODEL`,
    /// `deliver.NAME.url`), and each target (`deliver.NAME`); what is not in here is a default.
    pub origins: ByName<Origin>,
    pub problems: Problems,
    /// The file's name, as errors show it.
    pub file: String,
    /// For paths from `~/`.
    pub home: Option<PathBuf>,
    /// What is being read.
    pub source: Source<'a>,
}

/// What errors say about a key.
pub struct KeyInfo {
    /// `section.name`, `deliver.NAME.name`.
    pub name: String,
    pub example: &'static str,
}

impl Diagnostics<'_> {
    pub fn origin(&self, full_name: &str) -> &Origin {
        self.origins.get(full_name).unwrap_or(&Origin::Default)
    }

    /// Reports what is wrong with a key or a section that is known by this name.
    pub fn fault(&mut self, full_name: &str, what: &str) {
        let origin = self.origin(full_name).clone();
        self.problems.push(origin, format!("{full_name} {what}"));
    }

    /// Puts a value into its field; `origin` is where its key stands.
    pub fn assign(&mut self, field: Field<'_>, key: KeyInfo, origin: Origin, value: &Value<'_>) {
        match self.read(field, &key, value) {
            Ok(()) => self.origins.insert(key.name, origin),
            Err(fault) => self.problems.push(self.source.value(value), fault),
        }
    }

    /// A list's items and a table's variables report their own places. The list is left as it was
    /// then; variables take the place of all that were given before.
    fn read(&mut self, field: Field<'_>, key: &KeyInfo, value: &Value<'_>) -> Result<(), String> {
        let wrong = wrong_type(key, &field, type_of(value));
        let text = value.as_str().ok_or(&wrong);
        match field {
            Field::Address(at) => {
                let reason = "it must be an IP address and a port";
                *at = text?.parse().map_err(|_| bad(key, text.unwrap_or_default(), reason))?;
            }
            Field::Path(at) => *at = path(key, text?, self.home.as_ref())?,
            Field::Url(at, parse) => *at = given_as(key, text?, parse)?,
            Field::Text(at, check) => *at = given_as(key, text?, check)?.unwrap_or_default(),
            Field::Models(at) => *at = models(key, value.as_table().ok_or(wrong)?)?,
            Field::List(at, check) => {
                let array = value.as_array().ok_or(wrong)?;
                if let Some(list) = self.list(key, array, check) {
                    *at = list;
                }
                let is_command = key.name.ends_with(".command");
                for word in at.iter_mut().filter(|word| is_command && word.starts_with("~/")) {
                    let path = path(key, word, self.home.as_ref())?.unwrap_or_default();
                    let text = path.into_os_string().into_string();
                    *word = text.map_err(|_| bad(key, word, "HOME is not UTF-8"))?;
                }
            }
            Field::Enum(setting) => {
                let text = text?;
                if !setting.choose(text) {
                    let (name, words) = (&key.name, setting.words());
                    let (wanted, hint) = (alternatives(words), hint(text, words.iter().copied()));
                    return Err(format!("{name} is {}; it must be {wanted}{hint}", quoted(text)));
                }
            }
            Field::Time(at, range) => *at = measured(key, value, &range, &wrong, &TIME)?,
            Field::Size(at, range) => *at = measured(key, value, &range, &wrong, &SIZE)?,
            Field::Count(at, range) => {
                let number = value.as_integer().ok_or(wrong)?;
                let found = usize::try_from(number).ok().filter(|number| range.contains(number));
                *at = found.ok_or_else(|| {
                    let (low, high) = (range.start(), range.end());
                    outside(key, &number.to_string(), &low.to_string(), &high.to_string())
                })?;
            }
            Field::Env(env) => {
                let table = value.as_table().ok_or(wrong)?;
                env.clear();
                for (name, value) in table {
                    self.variable(env, key, (&name.name, self.source.key(name)), value);
                }
            }
        }
        Ok(())
    }

    /// The list's strings in their final form; `None` if some were rejected, which is then reported.
    fn list(&mut self, key: &KeyInfo, array: &[Value<'_>], check: Check) -> Option<Vec<String>> {
        let (mut list, name) = (Vec::new(), &key.name);
        for (number, item) in array.iter().enumerate() {
            let checked = match item.as_str() {
                Some(text) => {
                    check(text).map_err(|why| format!("{name} has {}; {why}", quoted(text)))
                }
                None => Err(format!("{name}[{number}] must be a string; got {}", type_of(item))),
            };
            match checked {
                Ok(text) => list.push(text),
                Err(fault) => self.problems.push(self.source.value(item), fault),
            }
        }
        (list.len() == array.len()).then_some(list)
    }

    /// One variable. Its value may be a secret: no error repeats it.
    pub fn variable(
        &mut self,
        env: &mut ByName<String>,
        key: &KeyInfo,
        (name, origin): (&str, Origin),
        value: &Value<'_>,
    ) {
        let full_name = format!("{}.{name}", key.name);
        if let Err(reason) = validate::variable(name) {
            let fault = format!("{} has {}; {reason}", key.name, quoted(name));
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
                self.origins.insert(full_name, origin);
                env.insert(name.to_owned(), text.to_owned());
                return;
            }
            Some(_) => "holds a NUL, which no variable can; remove it".to_owned(),
            None => format!("must be a string, like \"small\"; got {}", type_of(value)),
        };
        self.problems.push(self.source.value(value), format!("{full_name} {fault}"));
    }
}

fn models(key: &KeyInfo, table: &Table<'_>) -> Result<ByName<String>, String> {
    let mut models = ByName::new();
    for (name, value) in table {
        let (label, name) = (&key.name, name.name.as_ref());
        let Some(model) = value.as_str() else {
            let got = type_of(value);
            return Err(format!("{label} has {} for {}; it must be a string", got, quoted(name)));
        };
        let checked = |text: &str| {
            validate::model(text)
                .map_err(|reason| format!("{label} has {}; {reason}", quoted(text)))
        };
        models.insert(checked(name)?, checked(model)?);
    }
    Ok(models)
}

/// What the text stands for; the empty one for nothing.
fn given_as<T>(key: &KeyInfo, text: &str, parse: Check<T>) -> Result<Option<T>, String> {
    let parsed = || parse(text).map_err(|reason| bad(key, text, &reason));
    if text.is_empty() { Ok(None) } else { parsed().map(Some) }
}

fn path(key: &KeyInfo, text: &str, home: Option<&PathBuf>) -> Result<Option<PathBuf>, String> {
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
            key.name,
            quoted(text)
        )),
        (None, _) if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        (None, _) => Err(bad(key, text, "it must begin with / or ~/")),
    }
}

/// What is a number, or text with a unit: how each is read, and shown again.
struct Measure<T> {
    whole: fn(u64) -> Option<T>,
    parse: fn(&str) -> Option<T>,
    show: fn(T) -> String,
    reason: &'static str,
}

const TIME: Measure<Duration> = Measure {
    whole: |seconds| Some(Duration::from_secs(seconds)),
    parse: units::parse_time,
    show: units::show_time,
    reason: "it must be a number of seconds, or one with a unit (ms, s, m, h, d)",
};

const SIZE: Measure<usize> = Measure {
    whole: |bytes| usize::try_from(bytes).ok(),
    parse: |text| usize::try_from(units::parse_size(text)?).ok(),
    show: units::show_size,
    reason: "it must be a number of bytes, or one with a unit (B, KiB, MiB, GiB)",
};

fn measured<T: Copy + PartialOrd>(
    key: &KeyInfo,
    value: &Value<'_>,
    range: &RangeInclusive<T>,
    wrong: &str,
    of: &Measure<T>,
) -> Result<T, String> {
    let (found, shown) = match (value.as_integer(), value.as_str()) {
        (Some(number), _) => (u64::try_from(number).ok().and_then(of.whole), number.to_string()),
        (_, Some(text)) => {
            let found = (of.parse)(text).ok_or_else(|| bad(key, text, of.reason))?;
            (Some(found), quoted(text))
        }
        (None, None) => return Err(wrong.to_owned()),
    };
    found
        .filter(|found| range.contains(found))
        .ok_or_else(|| outside(key, &shown, &(of.show)(*range.start()), &(of.show)(*range.end())))
}

/// "KEY must be TYPE, like EXAMPLE; got …".
pub fn wrong_type(key: &KeyInfo, field: &Field<'_>, got: &str) -> String {
    let wanted = match field {
        Field::Address(_) => "an address and port in quotes",
        Field::Path(_) => "a path in quotes",
        Field::Url(..) => "a URL in quotes",
        Field::List(..) => "a list of strings",
        Field::Text(..) => "a string",
        Field::Env(_) | Field::Models(_) => "a table of strings",
        Field::Enum(setting) => {
            return format!("{} must be {}; got {got}", key.name, alternatives(setting.words()));
        }
        Field::Time(..) => "a time",
        Field::Size(..) => "a size",
        Field::Count(..) => "a whole number",
    };
    format!("{} must be {wanted}, like {}; got {got}", key.name, key.example)
}

fn bad(key: &KeyInfo, text: &str, reason: &str) -> String {
    format!("{} is {}; {reason}, like {}", key.name, quoted(text), key.example)
}

fn outside(key: &KeyInfo, shown: &str, low: &str, high: &str) -> String {
    format!("{} is {shown}; it must be between {low} and {high}, like {}", key.name, key.example)
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
