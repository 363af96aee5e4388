//! The file's sections and keys, each handed to its place or reported with what was meant.

use super::builder::ConfigBuilder;
use super::did_you_mean;
use super::error::{Origin, quoted, shown};
use super::schema::{NamedTable, SECTIONS, Section};
use super::toml_errors::{self, Lines, Source};
use super::value::{Given, type_of};
use toml_span::Value;

/// Reads a file's bytes into the draft.
pub fn read(bytes: &[u8], draft: &mut ConfigBuilder) {
    let Some(text) = toml_errors::decode(bytes, &mut draft.notes.problems) else {
        return;
    };
    let lines = Lines::new(text);
    let Some(root) = toml_errors::parse(&lines, &mut draft.notes.problems) else {
        return;
    };
    let source = Source::File(lines);
    let mut reader = Reader { draft, source: &source };
    for (section, content) in root.as_table().into_iter().flatten() {
        let at = source.key(section);
        let name = section.name.as_ref();
        let Some(section) = Section::of(name) else {
            reader.draft.notes.problems.push(at, unknown_section(name, content));
            continue;
        };
        match &section.family {
            Some(family) => reader.family(section, family, content, at),
            None => reader.keys(section, "", content, at),
        }
    }
}

struct Reader<'a> {
    draft: &'a mut ConfigBuilder,
    source: &'a Source<'a>,
}

impl Reader<'_> {
    fn family(&mut self, section: &Section, family: &NamedTable, content: &Value<'_>, at: Origin) {
        let (head, word) = (section.head(), family.word);
        let Some(all) = content.as_table() else {
            let fault = format!("{word}s are sections, written {head}; got {}", type_of(content));
            return self.draft.notes.problems.push(at, fault);
        };
        for (own, content) in all {
            let at = self.source.key(own);
            let name = own.name.as_ref();
            if content.as_table().is_none() && section.key_names().contains(&name) {
                let fault = format!("{name} belongs to a {word}: write it in {head}");
                self.draft.notes.problems.push(at, fault);
            } else if self.draft.named(section, family, name, at.clone()) {
                self.keys(section, name, content, at);
            }
        }
    }

    fn keys(&mut self, section: &Section, own: &str, content: &Value<'_>, at: Origin) {
        let Some(keys) = content.as_table() else {
            let (full, got) = (section.full(own), type_of(content));
            let fault = format!("{full} must be a section, written [{full}]; got {got}");
            return self.draft.notes.problems.push(at, fault);
        };
        for (name, value) in keys {
            let (at, given) = (self.source.key(name), Given { value, source: self.source });
            match self.draft.find(section, own, &name.name) {
                Some((field, label, notes)) => notes.assign(field, label, at, given),
                None => self.draft.notes.problems.push(at, unknown_key(section, own, &name.name)),
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
    let near = did_you_mean::nearest(name, SECTIONS.iter().map(|section| section.name));
    match near.and_then(Section::of) {
        Some(near) => format!("did you mean {}?", near.head()),
        None => known_sections(),
    }
}

fn known_sections() -> String {
    format!("the sections are {}", SECTIONS.each_ref().map(Section::head).join(", "))
}

/// The text about a key that its section does not have.
pub fn unknown_key(section: &Section, own: &str, name: &str) -> String {
    let known = section.key_names();
    if name == "kind" && known.contains(&"command") {
        let full = section.full(own);
        return format!(
            "unknown key \"kind\" in [{full}]; delete it: the url or the command says it"
        );
    }
    let way = match (did_you_mean::nearest(name, known.iter().copied()), home(name)) {
        (_, Some(home)) => home,
        (Some(near), None) => format!("did you mean {}?", quoted(near)),
        (None, None) => format!("its keys are {}", known.join(", ")),
    };
    format!("unknown key {} in [{}]; {way}", quoted(name), section.full(own))
}

/// The text about a key that another section has.
fn home(name: &str) -> Option<String> {
    let home = SECTIONS.iter().find(|section| section.key_names().contains(&name))?;
    Some(format!("it belongs in {}", home.head()))
}
