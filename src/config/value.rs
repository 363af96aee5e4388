//! From a TOML value to its field: type, range and the checks that one key needs. Faults are
//! collected, never returned early.

use super::did_you_mean::hint;
use super::error::{Location, Problems, quoted};
use super::schema::{Check, Field};
use super::toml_errors::Source;
use super::units::{Measure, TIME, millis};
use super::upstream::Upstream;
use super::url::Url;
use super::validate;
use crate::limits::MAX_UPSTREAMS;
use crate::named::ByName;
use crate::sys::gather::Gather;
use std::{ops::RangeInclusive, path::PathBuf, slice, time::Duration};
use toml_span::Value;
use toml_span::value::{Table, ValueInner};

/// What is known about the values that were read.
pub struct Diagnostics<'a> {
    /// Where each value came from, by its full name (`agent.url`, `agent.env.MODEL`,
    /// `deliver.NAME.url`), and each target (`deliver.NAME`); what is not in here is a default.
    pub locations: ByName<Location>,
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
    pub fn location(&self, full_name: &str) -> &Location {
        self.locations.get(full_name).unwrap_or(&Location::Default)
    }

    /// Reports what is wrong with a key or a section that is known by this name.
    pub fn fault(&mut self, full_name: &str, what: &str) {
        let location = self.location(full_name).clone();
        self.problems.push(location, format!("{full_name} {what}"));
    }

    /// Puts a value into its field; its key stands at `at`.
    pub fn assign(&mut self, field: Field<'_>, key: KeyInfo, at: Location, value: &Value<'_>) {
        match self.read(field, &key, value) {
            Ok(()) => self.locations.insert(key.name, at),
            Err(fault) => self.problems.push(self.source.at(value.span), fault),
        }
    }

    /// A list's items and a table's variables report their own places. The list is left as it was
    /// then; variables take the place of all that were given before.
    fn read(&mut self, field: Field<'_>, key: &KeyInfo, value: &Value<'_>) -> Result<(), String> {
        let (name, example) = (&key.name, key.example);
        let got = match self.source {
            Source::Set { is_toml: false, .. } => "text that is not TOML",
            Source::Set { .. } | Source::File(_) => type_of(value),
        };
        let wrong = format!("{name} must be written like {example}; got {got}");
        let text = value.as_str().or(self.source.text(name)).ok_or(&wrong);
        match field {
            Field::Address(at) => {
                let reason = "it must be an IP address and a port";
                *at = text?.parse().map_err(|_| bad(key, text.unwrap_or_default(), reason))?;
            }
            Field::Path(at) => *at = path(key, text?, self.home.as_ref())?,
            Field::Url(at, parse) => *at = given_as(key, text?, parse)?,
            Field::Text(at, check) => *at = given_as(key, text?, check)?.unwrap_or_default(),
            Field::Upstreams(at) => *at = self.upstreams(key, value)?,
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
            Field::Flag(at) => {
                let word = text.as_deref().map_or(value.as_bool(), |text| text.parse().ok());
                *at = word.ok_or(wrong)?;
            }
            Field::Enum(setting) => {
                let text = text?;
                if !setting.choose(text) {
                    let words = setting.words();
                    let (hint, text) = (hint(text, words), quoted(text));
                    let all = words.iter().map(|word| quoted(word)).gather().join(", ");
                    return Err(format!("{name} is {text}; it must be one of {all}{hint}"));
                }
            }
            Field::Time(at, range) => {
                let range = millis(*range.start())..=millis(*range.end());
                *at = Duration::from_millis(number(key, value, &TIME, range, wrong)?);
            }
            Field::Number(at, of, range) => {
                let range = *range.start() as u64..=*range.end() as u64;
                *at = usize::try_from(number(key, value, of, range, wrong)?).unwrap_or(usize::MAX);
            }
            Field::Env(at) => self.table(at, key, value.as_table().ok_or(wrong)?, ENV),
            Field::Names(at, name, of) => {
                let table = value.as_table().ok_or(wrong)?;
                self.table(at, key, table, (name, &|_, value| of(value)));
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
                Err(fault) => self.problems.push(self.source.at(item.span), fault),
            }
        }
        (list.len() == array.len()).then_some(list)
    }

    /// The servers of a list, or the one that stands alone. The empty text stands for none.
    fn upstreams(&mut self, key: &KeyInfo, value: &Value<'_>) -> Result<Vec<Upstream>, String> {
        let mut all = Vec::new();
        if value.as_str() == Some("") {
            return Ok(all);
        }
        let (list, name) = (value.as_array(), &key.name);
        let items = list.map_or(slice::from_ref(value), Vec::as_slice);
        if items.len() > MAX_UPSTREAMS {
            return Err(format!("{name} has more than {MAX_UPSTREAMS} servers; remove some"));
        }
        for (number, item) in items.iter().enumerate() {
            let plain = list.is_none() && item.as_table().is_none();
            let name = if plain { name.clone() } else { format!("{name}[{number}]") };
            match self.upstream(&KeyInfo { name, ..*key }, item) {
                Ok(server) => all.extend(server),
                Err(fault) => self.problems.push(self.source.at(item.span), fault),
            }
        }
        Ok(all)
    }

    /// A server: its URL, or a table with what is its own. `None`: its keys have reported what is wrong.
    fn upstream(&mut self, key: &KeyInfo, value: &Value<'_>) -> Result<Option<Upstream>, String> {
        let (mut url, mut key_file, mut given) = (None, None, Vec::new());
        let (mut model, mut models) = (String::new(), ByName::default());
        let no_url = || format!("{} has no url; give it one, like {}", key.name, key.example);
        match value.as_table() {
            None => {
                self.read(Field::Url(&mut url, Url::base), key, value)?;
                url.as_ref().ok_or_else(no_url)?;
            }
            Some(table) => {
                for (name, value) in table {
                    let (at, name) = (self.source.at(name.span), name.name.as_ref());
                    let (field, example) = match name {
                        "url" => (Field::Url(&mut url, Url::base), key.example),
                        "key_file" => (Field::Path(&mut key_file), "\"~/.config/upstream.key\""),
                        "model" => (Field::Text(&mut model, validate::model), "\"qwen2.5:3b\""),
                        "models" => (
                            Field::Names(&mut models, validate::model, validate::model),
                            "{ fast = \"qwen2.5:3b\" }",
                        ),
                        _ => {
                            let (of, name) = (&key.name, quoted(name));
                            let known = "its keys are url, key_file, model, models";
                            self.problems
                                .push(at, format!("{of} has an unknown key {name}; {known}"));
                            continue;
                        }
                    };
                    let own = KeyInfo { name: format!("{}.{name}", key.name), example };
                    self.assign(field, own, at, value);
                    given.push(name.to_owned());
                }
                if !given.iter().any(|name| name == "url") {
                    return Err(no_url());
                }
            }
        }
        Ok(url.map(|url| Upstream { url, key_file, model, models, given, key: None }))
    }

    /// Reads a table, in the place of what was given before, or a single entry of it. A value may be a
    /// secret: no error repeats it.
    fn table(
        &mut self,
        at: &mut ByName<String>,
        key: &KeyInfo,
        table: &Table<'_>,
        (check_name, check): Checks<'_>,
    ) {
        let entry = self.source.is_entry_of(&key.name);
        if !entry {
            *at = ByName::default();
        }
        for (name, value) in table {
            let (location, name) = (self.source.at(name.span), name.name.as_ref());
            let full_name = format!("{}.{name}", key.name);
            if let Err(reason) = check_name(name) {
                let fault = format!("{} has {}; {reason}", key.name, quoted(name));
                self.problems.push(location, fault);
                continue;
            }
            let text = value.as_str().or(self.source.text(&full_name));
            let fault = match text.map(|text| (text, check(name, text))) {
                Some((text, Ok(_))) => {
                    self.locations.insert(full_name, location);
                    at.insert(name.to_owned(), text.to_owned());
                    continue;
                }
                Some((_, Err(reason))) => format!("{full_name}: {reason}"),
                None => format!("{full_name} must be a string; got {}", type_of(value)),
            };
            self.problems.push(self.source.at(value.span), fault);
        }
    }
}

/// What the names and the values of a table keep to; a value is checked with its name.
type Checks<'a> = (Check, &'a dyn Fn(&str, &str) -> Result<String, String>);

/// The system counts NAME=VALUE.
const ENV: Checks<'static> =
    (validate::variable, &|name, value| validate::argument(&format!("{name}={value}")));

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

fn number(
    key: &KeyInfo,
    value: &Value<'_>,
    of: &Measure,
    range: RangeInclusive<u64>,
    wrong: String,
) -> Result<u64, String> {
    let (found, shown) = match (value.as_integer(), value.as_str()) {
        (Some(number), _) => {
            let found = u64::try_from(number).ok();
            (found.and_then(|number| number.checked_mul(of.plain)), number.to_string())
        }
        (None, Some(text)) if !of.units.is_empty() => {
            let units = of.units.iter().map(|(name, _)| *name).gather().join(", ");
            let reason = format!("it must be a number with a unit ({units})");
            (Some(of.parse(text).ok_or_else(|| bad(key, text, &reason))?), quoted(text))
        }
        (None, _) => return Err(wrong),
    };
    found.filter(|found| range.contains(found)).ok_or_else(|| {
        let (low, high) = (of.show(*range.start()), of.show(*range.end()));
        let (name, example) = (&key.name, key.example);
        format!("{name} is {shown}; it must be between {low} and {high}, like {example}")
    })
}

fn bad(key: &KeyInfo, text: &str, reason: &str) -> String {
    format!("{} is {}; {reason}, like {}", key.name, quoted(text), key.example)
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
