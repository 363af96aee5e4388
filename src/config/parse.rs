//! The file's sections and keys, each handed to its place or reported with what was meant.

use super::draft::{Draft, Section};
use super::error::{Origin, quoted, shown};
use super::family::Family;
use super::schema::{self, Key, SECTIONS};
use super::suggest;
use super::syntax::{self, Lines, Source};
use super::value::{Given, type_of};
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
    let mut reader = Reader { draft, source: &source };
    for (section, content) in root.as_table().into_iter().flatten() {
        let at = source.key(section);
        let name = section.name.as_ref();
        if let Some(family) = Family::of(name) {
            reader.family(family, content, at);
        } else if schema::keys_of(name).is_some() {
            reader.keys(Section::Plain(name), content, at);
        } else {
            reader.draft.notes.problems.push(at, unknown_section(name, content));
        }
    }
}

struct Reader<'a> {
    draft: &'a mut Draft,
    source: &'a Source<'a>,
}

impl Reader<'_> {
    fn family(&mut self, family: Family, content: &Value<'_>, at: Origin) {
        let (section, word) = (family.section(), family.word());
        let Some(all) = content.as_table() else {
            let fault =
                format!("{word}s are sections, written [{section}.NAME]; got {}", type_of(content));
            return self.draft.notes.problems.push(at, fault);
        };
        for (own, content) in all {
            let at = self.source.key(own);
            let name = own.name.as_ref();
            if content.as_table().is_none() && family.key_names().contains(&name) {
                let fault = format!("{name} belongs to a {word}: write it in [{section}.NAME]");
                self.draft.notes.problems.push(at, fault);
            } else if self.draft.named(family, name, at.clone()) {
                self.keys(Section::Named(family, name), content, at);
            }
        }
    }

    fn keys(&mut self, section: Section<'_>, content: &Value<'_>, at: Origin) {
        let Some(keys) = content.as_table() else {
            let got = type_of(content);
            let fault = format!("{section} must be a section, written [{section}]; got {got}");
            return self.draft.notes.problems.push(at, fault);
        };
        for (name, value) in keys {
            let (at, given) = (self.source.key(name), Given { value, source: self.source });
            match self.draft.find(section, &name.name) {
                Some((field, label, notes)) => notes.assign(field, label, at, given),
                None => self.draft.notes.problems.push(at, unknown_key(section, &name.name)),
            }
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
