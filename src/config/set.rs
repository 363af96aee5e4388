//! `--set section.key=value`: the value is TOML or, where it is none, plain text, so that nobody
//! needs quotes inside of quotes.

use super::builder::{ConfigBuilder, meant_section};
use super::did_you_mean::nearest;
use super::error::{Origin, shown};
use super::schema::{Field, Section};
use super::toml_errors::Source;
use super::value::{ENV, wrong_type};
use toml_span::Value;
use toml_span::value::ValueInner;

impl ConfigBuilder<'_> {
    /// Reads one argument, over what is there.
    pub fn read_set(&mut self, argument: &str) {
        let origin = Origin::Set(label(argument));
        self.diagnostics.source = Source::Set(label(argument));
        if let Err(fault) = self.try_set(argument, &origin) {
            self.diagnostics.problems.push(origin, fault);
        }
    }

    fn try_set(&mut self, argument: &str, origin: &Origin) -> Result<(), String> {
        use Field::{Address, Count, Enum, Env, List, Models, Path, Text, Url};
        let fix = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
        let missing = |what| format!("there is no {what} in it; {fix}");
        let (name, text) = argument.split_once('=').ok_or_else(|| missing("="))?;
        let parts = name.trim().split_once('.').ok_or_else(|| missing("section"))?;
        let (section_name, mut name) = parts;
        let section = Section::of(section_name).ok_or_else(|| {
            format!("unknown section [{}]; {}", shown(section_name), meant_section(section_name))
        })?;
        let mut own = "";
        if let Some(table) = &section.named_table {
            (own, name) = name.split_once('.').ok_or(table.nameless)?;
            self.add_section(section, own, origin)?;
        }
        let variable = name.strip_prefix("env.").filter(|_| section.key_names().contains(&"env"));
        let key = if variable.is_some() { "env" } else { name };
        let (field, key, diagnostics) = self.find(section, own, key)?;
        let takes_text = matches!(field, Address(_) | Path(_) | Url(..) | Text(..) | Enum(_));
        let no_text = matches!(field, List(..) | Env(_) | Models(_) | Count(..));
        let line = format!("v = {text}");
        let parsed = parsed(&line).filter(|value| {
            // What is TOML but no string, like a number, may be meant as text.
            value.as_str().is_some() || !(takes_text || variable.is_some())
        });
        let is_toml = parsed.is_some();
        let value = parsed.unwrap_or_else(|| Value::new(ValueInner::String(text.into())));
        match (field, variable) {
            (Env(env), Some(variable)) => {
                diagnostics.entry(env, &key, (variable, origin.clone()), &value, ENV);
            }
            (field, _) if no_text && !is_toml => {
                return Err(wrong_type(&key, &field, "text that is not TOML"));
            }
            (field, _) => diagnostics.assign(field, key, origin.clone(), &value),
        }
        Ok(())
    }
}

/// The value of the line `v = …`, if it is TOML. A line break in it must not bring in a second key.
fn parsed(line: &str) -> Option<Value<'_>> {
    match toml_span::parse(line).ok()?.take() {
        ValueInner::Table(mut table) if table.len() == 1 => table.remove("v"),
        _ => None,
    }
}

/// The argument as errors show it: on one line, not too long, and without a variable's value.
fn label(argument: &str) -> String {
    match argument.split_once('=') {
        Some((name, _)) if is_env(name) => format!("--set {}=…", shown(name)),
        Some(_) | None => format!("--set {}", shown(argument)),
    }
}

/// Also where it is misspelt: better a value too many hidden than a secret in a log.
fn is_env(name: &str) -> bool {
    name.trim().split('.').skip(1).any(|key| nearest(key, ["env"]).is_some())
}
