//! A configuration in the making: a file's sections and keys, each handed to its field or reported with
//! what was meant.

use super::did_you_mean::nearest;
use super::error::{Origin, quoted, shown};
use super::schema::{Config, Field, SECTIONS, Section};
use super::toml_errors::{self, Source};
use super::validate::{self, OWNER};
use super::value::{Diagnostics, KeyInfo, type_of};
use toml_span::Value;

pub struct ConfigBuilder<'a> {
    pub config: Config,
    pub diagnostics: Diagnostics<'a>,
}

impl<'a> ConfigBuilder<'a> {
    /// Reads a file's bytes.
    pub fn read_file(&mut self, bytes: &'a [u8]) {
        let problems = &mut self.diagnostics.problems;
        let Some(text) = toml_errors::decode(bytes, problems) else { return };
        let Some(root) = toml_errors::parse(text, problems) else { return };
        self.diagnostics.source = Source::File(text);
        for (key, content) in root.as_table().into_iter().flatten() {
            let (at, name) = (self.diagnostics.source.at(key.span), key.name.as_ref());
            match Section::of(name) {
                None => self.diagnostics.problems.push(at, unknown_section(name, content)),
                Some(section) => match &section.named_table {
                    Some(table) => self.read_named_table(section, table.noun, content, at),
                    None => self.read_section(section, "", content, at),
                },
            }
        }
    }

    fn read_named_table(&mut self, section: &Section, noun: &str, content: &Value<'_>, at: Origin) {
        let head = section.head();
        let Some(all) = content.as_table() else {
            let fault = format!("{noun}s are sections, written {head}; got {}", type_of(content));
            return self.diagnostics.problems.push(at, fault);
        };
        for (own, content) in all {
            let (at, name) = (self.diagnostics.source.at(own.span), own.name.as_ref());
            let added = match content.as_table() {
                None if section.key_names().contains(&name) => {
                    Err(format!("{name} belongs to a {noun}: write it in {head}"))
                }
                _ => self.add_section(section, name, &at),
            };
            match added {
                Ok(()) => self.read_section(section, name, content, at),
                Err(fault) => self.diagnostics.problems.push(at, fault),
            }
        }
    }

    fn read_section(&mut self, section: &Section, own: &str, content: &Value<'_>, at: Origin) {
        let Some(keys) = content.as_table() else {
            let (full, got) = (section.full(own), type_of(content));
            let fault = format!("{full} must be a section, written [{full}]; got {got}");
            return self.diagnostics.problems.push(at, fault);
        };
        for (name, value) in keys {
            let at = self.diagnostics.source.at(name.span);
            match self.find(section, own, &name.name) {
                Ok((field, key, diagnostics)) => diagnostics.assign(field, key, at, value),
                Err(fault) => self.diagnostics.problems.push(at, fault),
            }
        }
    }

    /// Adds a section to a named table, if it has none of that name.
    pub fn add_section(&mut self, section: &Section, own: &str, at: &Origin) -> Result<(), String> {
        let Some(table) = &section.named_table else { return Ok(()) };
        let known = (table.names)(&self.config);
        if known.contains(&own) {
            return Ok(());
        }
        let (name, noun, most) = (section.name, table.noun, table.most);
        validate::section(own, noun)
            .map_err(|reason| format!("{name} has {}; {reason}", quoted(own)))?;
        if name == "keys" && own == OWNER {
            return Err(format!("{name}.{OWNER} is the gateway's own key: it is in http.key_file"));
        }
        if known.len() >= most {
            return Err(format!("there are more than {most} {noun}s; take some away"));
        }
        (table.add)(&mut self.config, own);
        self.diagnostics.origins.insert(section.full(own), at.clone());
        Ok(())
    }

    /// A key's field, and what takes its value; or what is wrong if the section has no such key.
    pub fn find(
        &mut self,
        section: &Section,
        own: &str,
        name: &str,
    ) -> Result<(Field<'_>, KeyInfo, &mut Diagnostics<'a>), String> {
        let key = section.keys.iter().find(|key| key.name == name);
        let field = key.and_then(|key| (key.field)(&mut self.config, own));
        let (Some(key), Some(field)) = (key, field) else {
            return Err(unknown_key(section, own, name));
        };
        let info = KeyInfo { name: format!("{}.{name}", section.full(own)), example: key.example };
        Ok((field, info, &mut self.diagnostics))
    }
}

fn unknown_section(name: &str, content: &Value<'_>) -> String {
    if content.as_table().is_none() {
        let fix = home(name).unwrap_or_else(known_sections);
        return format!("unknown key {} outside of a section; {fix}", quoted(name));
    }
    format!("unknown section [{}]; {}", shown(name), meant_section(name))
}

/// What to do about a section that does not exist.
pub fn meant_section(name: &str) -> String {
    let near = nearest(name, SECTIONS.iter().map(|section| section.name));
    match near.and_then(Section::of) {
        Some(near) => format!("did you mean {}?", near.head()),
        None => known_sections(),
    }
}

fn known_sections() -> String {
    format!("the sections are {}", SECTIONS.each_ref().map(Section::head).join(", "))
}

/// The error about a key that its section does not have.
fn unknown_key(section: &Section, own: &str, name: &str) -> String {
    let known = section.key_names();
    let fix = match (nearest(name, known.iter().copied()), home(name)) {
        (_, Some(home)) => home,
        (Some(near), None) => format!("did you mean {}?", quoted(near)),
        (None, None) => format!("its keys are {}", known.join(", ")),
    };
    format!("unknown key {} in [{}]; {fix}", quoted(name), section.full(own))
}

/// Where a key belongs, if another section has it.
fn home(name: &str) -> Option<String> {
    let home = SECTIONS.iter().find(|section| section.key_names().contains(&name))?;
    Some(format!("it belongs in {}", home.head()))
}
