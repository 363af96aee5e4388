//! The file's sections and keys, each handed to its place or reported with what was meant.

use super::draft::{Draft, Section};
use super::error::{Origin, quoted, shown};
use super::family::Family;
use super::schema::{self, Key, SECTIONS};
use super::suggest;
use super::syntax::{self, Lines, Source};
use super::value::type_of;
use toml_span::Value;

/// Reads a file's bytes into the draft.
pub fn read(bytes: &[u8], draft: &mut Draft) {
    let Some(text) = syntax::decode(bytes, &mut draft.notes.problems) else {
        return;
    };
    let lines = Lines::new(text);
    let Some(root) = syntax::parse(&lines, &mut draft.notes.problems) else {
        return;
    };
    let source = Source::File(lines);
    for (section, content) in root.as_table().into_iter().flatten() {
        let at = source.key(section);
        let name = section.name.as_ref();
        if let Some(family) = Family::of(name) {
            read_family(family, content, at, draft, &source);
        } else if schema::keys_of(name).is_some() {
            read_keys(Section::Plain(name), content, at, draft, &source);
        } else {
            draft.notes.problems.push(at, unknown_section(name, content));
        }
    }
}

fn read_family(
    family: Family,
    content: &Value<'_>,
    at: Origin,
    draft: &mut Draft,
    source: &Source<'_>,
) {
    let (section, word) = (family.section(), family.word());
    let Some(all) = content.as_table() else {
        let fault =
            format!("{word}s are sections, written [{section}.NAME]; got {}", type_of(content));
        return draft.notes.problems.push(at, fault);
    };
    for (own, content) in all {
        let at = source.key(own);
        let name = own.name.as_ref();
        if content.as_table().is_none() && family.key_names().contains(&name) {
            let fault = format!("{name} belongs to a {word}: write it in [{section}.NAME]");
            draft.notes.problems.push(at, fault);
        } else if draft.named(family, name, at.clone()) {
            read_keys(Section::Named(family, name), content, at, draft, source);
        }
    }
}

fn read_keys(
    section: Section<'_>,
    content: &Value<'_>,
    at: Origin,
    draft: &mut Draft,
    source: &Source<'_>,
) {
    let Some(keys) = content.as_table() else {
        let got = type_of(content);
        let fault = format!("{section} must be a section, written [{section}]; got {got}");
        return draft.notes.problems.push(at, fault);
    };
    for (name, value) in keys {
        let at = source.key(name);
        match draft.find(section, &name.name) {
            Some((field, label, notes)) => notes.assign(field, label, at, value, source),
            None => draft.notes.problems.push(at, unknown_key(section, &name.name)),
        }
    }
}

fn unknown_section(name: &str, content: &Value<'_>) -> String {
    if content.as_table().is_none() {
        let way = home(name).unwrap_or_else(known_sections);
        return format!("unknown key {} outside of a section; {way}", quoted(name));
    }
    format!("unknown section [{}]; {}", shown(name), meant_section(name))
}

/// What to do about a section that does not exist.
pub fn meant_section(name: &str) -> String {
    let sections = SECTIONS.iter().map(|(section, _)| *section);
    let known = sections.chain(Family::ALL.map(Family::section));
    match suggest::nearest(name, known) {
        Some(near) if Family::of(near).is_some() => format!("did you mean [{near}.NAME]?"),
        Some(near) => format!("did you mean [{near}]?"),
        None => known_sections(),
    }
}

fn known_sections() -> String {
    let mut known: Vec<_> = SECTIONS.iter().map(|(name, _)| format!("[{name}]")).collect();
    known.extend(Family::ALL.map(|family| format!("[{}.NAME]", family.section())));
    format!("the sections are {}", known.join(", "))
}

/// The text about a key that its section does not have.
pub fn unknown_key(section: Section<'_>, name: &str) -> String {
    let known: Vec<_> = match section {
        Section::Plain(section) => {
            schema::keys_of(section).into_iter().flatten().map(|key| key.name).collect()
        }
        Section::Named(family, _) => family.key_names(),
    };
    let way = match (suggest::nearest(name, known.iter().copied()), home(name)) {
        (_, Some(home)) => home,
        (Some(near), None) => format!("did you mean {}?", quoted(near)),
        (None, None) => format!("its keys are {}", known.join(", ")),
    };
    format!("unknown key {} in [{section}]; {way}", quoted(name))
}

/// The text about a key that another section has.
fn home(name: &str) -> Option<String> {
    let has = |(_, keys): &&(_, &[Key])| keys.iter().any(|key| key.name == name);
    if let Some((section, _)) = SECTIONS.iter().find(has) {
        return Some(format!("it belongs in [{section}]"));
    }
    let family = Family::ALL.into_iter().find(|family| family.key_names().contains(&name))?;
    Some(format!("it belongs in [{}.NAME]", family.section()))
}
