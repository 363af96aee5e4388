//! The file's sections and keys, each handed to its place or reported with what was meant.
#![forbid(unsafe_code)]

use super::error::{quoted, shown};
use super::schema::{self, KEYS};
use super::suggest;
use super::syntax::{self, Lines, Source};
use super::value::{Draft, type_of};
use toml_span::Value;

/// Reads a file's bytes into the draft.
pub fn read(bytes: &[u8], draft: &mut Draft) {
    let Some(text) = syntax::decode(bytes, &mut draft.problems) else {
        return;
    };
    let lines = Lines::new(text);
    let Some(root) = syntax::parse(&lines, &mut draft.problems) else {
        return;
    };
    let source = Source::File(lines);
    for (section, content) in root.as_table().into_iter().flatten() {
        let at = source.key(section);
        if schema::keys_of(&section.name).next().is_none() {
            draft.problems.push(at, unknown_section(&section.name, content));
            continue;
        }
        let Some(keys) = content.as_table() else {
            let name = &section.name;
            let got = type_of(content);
            let fault = format!("{name} must be a section, written [{name}]; got {got}");
            draft.problems.push(at, fault);
            continue;
        };
        for (name, value) in keys {
            let at = source.key(name);
            match schema::find(&section.name, &name.name) {
                Some(key) => draft.assign(key, at, value, &source),
                None => draft.problems.push(at, unknown_key(&section.name, &name.name)),
            }
        }
    }
}

fn unknown_section(name: &str, content: &Value<'_>) -> String {
    if content.as_table().is_none() {
        let home = KEYS.iter().find(|key| key.name == name);
        let way =
            home.map_or_else(known_sections, |key| format!("it belongs in [{}]", key.section));
        return format!("unknown key {} outside of a section; {way}", quoted(name));
    }
    format!("unknown section [{}]; {}", shown(name), meant_section(name))
}

/// What to do about a section that does not exist.
pub fn meant_section(name: &str) -> String {
    match suggest::nearest(name, schema::sections()) {
        Some(near) => format!("did you mean [{near}]?"),
        None => known_sections(),
    }
}

fn known_sections() -> String {
    let known: Vec<_> = schema::sections().iter().map(|name| format!("[{name}]")).collect();
    format!("the sections are {}", known.join(", "))
}

/// The text about a key that its section does not have.
pub fn unknown_key(section: &str, name: &str) -> String {
    let known: Vec<_> = schema::keys_of(section).map(|key| key.name).collect();
    let elsewhere = KEYS.iter().find(|key| key.name == name);
    let way = match (suggest::nearest(name, known.iter().copied()), elsewhere) {
        (_, Some(key)) => format!("it belongs in [{}]", key.section),
        (Some(near), None) => format!("did you mean {}?", quoted(near)),
        (None, None) => format!("its keys are {}", known.join(", ")),
    };
    format!("unknown key {} in [{section}]; {way}", quoted(name))
}
