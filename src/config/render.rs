//! The effective configuration as text, with where each value came from.

use super::error::{Location, shown};
use super::load::Loaded;
use super::schema::{Field, SECTIONS};
use super::units::{TIME, millis};
use super::upstream::Upstream;
use super::url::Url;
use crate::sys::gather::Gather;
use std::path::Path;

/// Where the comments begin, if the value leaves room.
const COMMENT_COLUMN: usize = 44;

impl Loaded {
    /// The effective configuration as TOML that loads to the same values, each line with a
    /// comment on where it came from. Values of `agent.env` may be secrets: they are shown as
    /// `***`.
    pub fn render(&self) -> String {
        // The schema's way to a field is a mutable one.
        let mut config = self.config.clone();
        let mut text = String::new();
        let upstream = !self.config.agent.url.is_empty();
        for section in SECTIONS {
            let named = section.named_table.as_ref();
            for own in named.map_or(vec![""], |table| (table.names)(&self.config)) {
                let (blank, full) = (if text.is_empty() { "" } else { "\n" }, section.full(own));
                text.push_str(&format!("{blank}[{full}]\n"));
                for key in section.keys {
                    if let Some(field) = (key.field)(&mut config, own) {
                        let name = format!("{full}.{}", key.name);
                        // An empty command says that echo is meant.
                        let no_echo = upstream && name == "agent.command";
                        self.setting(&name, field, named.is_some() || no_echo, &mut text);
                    }
                }
            }
        }
        text
    }

    /// The lines of one key. `terse`: none where nothing was given and the default is nothing.
    fn setting(&self, full_name: &str, field: Field<'_>, terse: bool, text: &mut String) {
        let (_, name) = full_name.rsplit_once('.').unwrap_or_default();
        let mut line = |setting: String, full_name: &str, note: &str| {
            let from = self.from(full_name);
            text.push_str(&format!("{setting:<COMMENT_COLUMN$}  # {from}{note}\n"));
        };
        match &field {
            Field::Env(env) if !env.is_empty() => env.names().into_iter().for_each(|variable| {
                let full_name = format!("{full_name}.{variable}");
                line(format!("{name}.{variable} = \"***\""), &full_name, "; value not shown");
            }),
            Field::Names(models, ..) if !models.is_empty() => {
                models.iter().for_each(|(model, to)| {
                    let setting = format!("{name}.{} = {}", string(model), string(to));
                    line(setting, &format!("{full_name}.{model}"), "");
                });
            }
            _ => {
                let value = value(field);
                if !(terse && ["\"\"", "[]", "{}"].contains(&value.as_str())) {
                    line(format!("{name} = {value}"), full_name, "");
                }
            }
        }
    }

    fn from(&self, full_name: &str) -> String {
        match self.location(full_name) {
            Location::Default => "default".to_owned(),
            Location::File { line, .. } => {
                let name = self.file.as_deref().and_then(Path::file_name);
                let name = name.unwrap_or_default().to_string_lossy();
                format!("{}:{line}", shown(&name))
            }
            Location::Set(_) => "--set".to_owned(),
        }
    }
}

/// A value in TOML; of a table only that there is nothing in it.
pub(super) fn value(field: Field<'_>) -> String {
    match field {
        Field::Address(at) => string(&at.to_string()),
        Field::Path(at) => string(&at.as_deref().unwrap_or(Path::new("")).to_string_lossy()),
        Field::Url(at, _) => string(&at.as_ref().map_or(String::new(), Url::to_string)),
        Field::Upstreams(all) => match &all[..] {
            [] => string(""),
            [one] if one.given.is_empty() => server(one),
            all => format!("[{}]", all.iter().map(server).collect::<Vec<_>>().join(", ")),
        },
        Field::List(at, _) => {
            let items: Vec<_> = at.iter().map(|item| string(item)).gather();
            format!("[{}]", items.join(", "))
        }
        Field::Text(at, _) => string(at),
        Field::Env(_) | Field::Names(..) => "{}".to_owned(),
        Field::Enum(at) => string(at.word()),
        Field::Flag(at) => at.to_string(),
        Field::Time(at, _) => string(&TIME.show(millis(*at))),
        Field::Number(at, of, _) if of.units.is_empty() => at.to_string(),
        Field::Number(at, of, _) => string(&of.show(*at as u64)),
    }
}

/// An entry of `agent.url`, with what was given in it.
fn server(server: &Upstream) -> String {
    let url = string(&server.url.to_string());
    if server.given.is_empty() {
        return url;
    }
    let mut text = format!("{{ url = {url}");
    let key_file = server.key_file.as_deref().unwrap_or(Path::new(""));
    let models =
        server.models.iter().map(|(name, to)| format!("{} = {}", string(name), string(to)));
    for (key, value) in [
        ("key_file", string(&key_file.to_string_lossy())),
        ("model", string(&server.model)),
        ("models", format!("{{ {} }}", models.collect::<Vec<_>>().join(", "))),
    ] {
        if server.has(key) {
            text += &format!(", {key} = {value}");
        }
    }
    text + " }"
}

/// A basic string of TOML (version 1.0, section String).
pub(super) fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' | '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
