//! A configuration in the making: a file's sections and keys, each handed to its field or reported with
//! what was meant.

use super::did_you_mean::nearest;
use super::error::{Location, quoted, shown};
use super::schema::{Config, SECTIONS, Section};
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
    ///
    /// # Errors
    /// Why nothing of it can be read, and where; what is wrong with its values goes to the problems.
    pub fn read_file(&mut self, bytes: &'a [u8]) -> Result<(), (Location, String)> {
        let text = toml_errors::decode(bytes)?;
        let root = toml_errors::parse(text)?;
        self.diagnostics.source = Source::File(text);
        self.read_root(&root);
        Ok(())
    }

    /// Reads all sections.
    pub fn read_root(&mut self, root: &Value<'_>) {
        for (name, content) in root.as_table().into_iter().flatten() {
            let at = self.diagnostics.source.at(name.span);
            let result = self.read_entry(&name.name, content, &at);
            self.diagnostics.problems.report(at, result);
        }
    }

    /// Reads a section, or all sections of a named table.
    fn read_entry(&mut self, name: &str, content: &Value<'_>, at: &Location) -> Result<(), String> {
        let section = Section::of(name).ok_or_else(|| unknown_section(name, content))?;
        let Some(table) = &section.named_table else {
            return self.read_section(section, "", content, at);
        };
        let all = content.as_table().ok_or_else(|| {
            let (noun, head, got) = (table.noun, section.head(), type_of(content));
            format!("{noun}s are sections, written {head}; got {got}")
        })?;
        for (own, content) in all {
            let at = self.diagnostics.source.at(own.span);
            let result = self.read_section(section, &own.name, content, &at);
            self.diagnostics.problems.report(at, result);
        }
        Ok(())
    }

    fn read_section(
        &mut self,
        section: &Section,
        own: &str,
        content: &Value<'_>,
        at: &Location,
    ) -> Result<(), String> {
        let keys = content.as_table().ok_or_else(|| match &section.named_table {
            Some(table) if section.key_names().contains(&own) => {
                format!("{own} belongs to a {}: write it in {}", table.noun, section.head())
            }
            _ => {
                let (full, got) = (section.full(own), type_of(content));
                format!("{full} must be a section, written [{full}]; got {got}")
            }
        })?;
        self.add_section(section, own, at)?;
        for (name, value) in keys {
            let (at, name) = (self.diagnostics.source.at(name.span), name.name.as_ref());
            let key = section.keys.iter().find(|key| key.name == name);
            match key.and_then(|key| Some(((key.field)(&mut self.config, own)?, key.example))) {
                Some((field, example)) => {
                    let key = KeyInfo { name: format!("{}.{name}", section.full(own)), example };
                    self.diagnostics.assign(field, key, at, value);
                }
                None => self.diagnostics.problems.push(at, unknown_key(section, own, name)),
            }
        }
        Ok(())
    }

    /// Adds a section to a named table, if it has none of that name.
    fn add_section(&mut self, section: &Section, own: &str, at: &Location) -> Result<(), String> {
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
            return Err(format!("there are more than {most} {noun}s; remove some"));
        }
        (table.add)(&mut self.config, own);
        self.diagnostics.locations.insert(section.full(own), at.clone());
        Ok(())
    }
}

fn unknown_section(name: &str, content: &Value<'_>) -> String {
    if content.as_table().is_none() {
        let fix = home(name).unwrap_or_else(known_sections);
        return format!("unknown key {} outside of a section; {fix}", quoted(name));
    }
    let near = nearest(name, &SECTIONS.map(|section| section.name)).and_then(Section::of);
    let fix = near.map_or_else(known_sections, |near| format!("did you mean {}?", near.head()));
    format!("unknown section [{}]; {fix}", shown(name))
}

fn known_sections() -> String {
    format!("the sections are {}", SECTIONS.map(Section::head).join(", "))
}

/// The error about a key that its section does not have.
fn unknown_key(section: &Section, own: &str, name: &str) -> String {
    let known = section.key_names();
    let fix = match (nearest(name, &known), home(name)) {
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
