//! `--set section.key=value`: the value is TOML or, where it is none, plain text, so that nobody
//! needs quotes inside of quotes.

use super::builder::ConfigBuilder;
use super::did_you_mean::nearest;
use super::error::{Location, shown};
use super::render;
use super::schema::Section;
use super::toml_errors::Source;

impl<'a> ConfigBuilder<'a> {
    /// Reads one argument, over what is there.
    pub fn read_set(&mut self, argument: &'a str) {
        let label = label(argument);
        let result = argument.split_once('=').and_then(|(name, text)| {
            let name = Some(name.trim()).filter(|name| is_key(name))?;
            // A line break must not bring in a second key.
            let line = format!("v = {text}");
            let is_toml = toml_span::parse(&line)
                .is_ok_and(|it| it.as_table().is_some_and(|it| it.len() == 1));
            self.diagnostics.source = Source::Set { label: label.clone(), name, text, is_toml };
            let quoted = render::string(text);
            let line = format!("{name} = {}", if is_toml { text } else { &quoted });
            self.read_root(&toml_span::parse(&line).ok()?);
            Some(())
        });
        let example = "write --set section.key=value, like --set http.listen=127.0.0.1:8642";
        let result = result.ok_or_else(|| example.to_owned());
        self.diagnostics.problems.report(Location::Set(label), result);
    }
}

/// Whether this may be the name of a key, without quotes; a section is none.
fn is_key(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_part = |part: &str| !part.is_empty() && part.chars().all(is_plain);
    Section::of(name).is_none() && name.split('.').all(is_part)
}

/// The argument as errors show it: on one line, not too long, and without a variable's value.
fn label(argument: &str) -> String {
    match argument.split_once('=') {
        Some((name, text)) if is_env(name) || text.contains("env") || text.contains('{') => {
            format!("--set {}=…", shown(name))
        }
        Some(_) | None => format!("--set {}", shown(argument)),
    }
}

/// Also where it is misspelt: better a value too many hidden than a secret in a log.
fn is_env(name: &str) -> bool {
    let near = |key: &str| nearest(key.trim_matches([' ', '"', '\'']), &["env"]).is_some();
    name.split('.').skip(1).any(near)
}
