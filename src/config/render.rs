//! The configuration as text: the effective one with where each value came from, and the
//! commented file that a new gateway starts with.
#![forbid(unsafe_code)]

use super::Config;
use super::error::{Origin, shown};
use super::load::Loaded;
use super::schema::{self, Key, Kind};
use super::units;
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
        for section in schema::sections() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("[{section}]\n"));
            for key in schema::keys_of(section) {
                match &key.kind {
                    Kind::Env(at) if !at(&mut config).names().is_empty() => {
                        for name in at(&mut config).names() {
                            let from = self.origins.env.get(name).unwrap_or(&Origin::Default);
                            let comment = format!("{}; value not shown", self.from(from));
                            let setting = format!("{}.{name} = \"***\"", key.name);
                            text.push_str(&commented(&setting, &comment));
                        }
                    }
                    _ => {
                        let setting = format!("{} = {}", key.name, value(key, &mut config));
                        let from = self.from(self.origins.of(&key.full_name()));
                        text.push_str(&commented(&setting, &from));
                    }
                }
            }
        }
        text
    }

    fn from(&self, origin: &Origin) -> String {
        match origin {
            Origin::Default => "default".to_owned(),
            Origin::File { line, .. } => {
                let name = self.file.as_deref().and_then(Path::file_name);
                let name = name.unwrap_or_default().to_string_lossy();
                format!("{}:{line}", shown(&name))
            }
            Origin::Set(_) => "--set".to_owned(),
        }
    }
}

fn commented(setting: &str, comment: &str) -> String {
    format!("{setting:<COMMENT_COLUMN$}  # {comment}\n")
}

/// A key's value in TOML; for variables only that there are none.
pub(super) fn value(key: &Key, config: &mut Config) -> String {
    match &key.kind {
        Kind::Address(at) => string(&at(config).to_string()),
        Kind::Path(at) => match at(config) {
            Some(path) => string(&path.to_string_lossy()),
            None => string(""),
        },
        Kind::List(at, _) => {
            let items: Vec<_> = at(config).iter().map(|item| string(item)).collect();
            format!("[{}]", items.join(", "))
        }
        Kind::Env(_) => "{}".to_owned(),
        Kind::Choice(at) => string(at(config).word()),
        Kind::Time(at, _) => string(&units::show_time(*at(config))),
        Kind::Size(at, _) => string(&units::show_size(*at(config))),
        Kind::Count(at, ..) => at(config).to_string(),
    }
}

/// A basic string of TOML (version 1.0, section String).
fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The file that `install` writes: every key with its default and a line of help, all commented
/// out but `[http] listen`. `name` is the gateway's name, "default" for the one without.
pub fn starter(listen_port: u16, name: &str) -> String {
    let mut config = Config::default();
    config.http.listen.set_port(listen_port);
    let name = shown(name);
    let profile = if name == "default" { String::new() } else { format!("-p {name} ") };
    let mut text = format!(
        "# Configuration of the gateway {name:?}.\n\
         # Everything is optional; the commented settings show the defaults.\n\
         # To check a change: hermes-gateway {profile}config check\n\
         # To see what holds: hermes-gateway {profile}config\n\
         # Times: \"500ms\", \"30s\", \"10m\", \"1h30m\", or seconds. Sizes: \"64KiB\", \"1MiB\", or bytes.\n"
    );
    for section in schema::sections() {
        text.push_str(&format!("\n[{section}]\n"));
        for key in schema::keys_of(section) {
            let active = key.full_name() == "http.listen";
            let setting = match key.kind {
                // The starter may move to another machine: what stands for its cores, not a number.
                Kind::Count(_, _, Some(_)) => "0".to_owned(),
                _ => value(key, &mut config),
            };
            let mark = if active { "" } else { "# " };
            text.push_str(&format!("## {}\n{mark}{} = {setting}\n", key.help, key.name));
        }
    }
    text
}
