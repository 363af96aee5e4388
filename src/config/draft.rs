//! A configuration in the making: sections and keys found by name, and the checks between keys.
#![forbid(unsafe_code)]

use super::error::{Origin, place, quoted};
use super::schema::{self, TARGET_KEYS, TARGETS};
use super::value::{Label, Notes, Slot};
use super::{AgentKind, Config, Target, names, target};
use crate::limits::MAX_TARGETS;
use std::fmt;

/// A configuration in the making.
#[derive(Debug, Default)]
pub struct Draft {
    pub config: Config,
    pub notes: Notes,
}

/// Where keys stand: in a section, or in that of the target of this name.
#[derive(Clone, Copy)]
pub enum Section<'a> {
    Plain(&'a str),
    Target(&'a str),
}

impl fmt::Display for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Section::Plain(name) => f.write_str(name),
            Section::Target(name) => write!(f, "{TARGETS}.{name}"),
        }
    }
}

impl Draft {
    /// A key's field, if the section has that key, and the notes to take about it.
    pub fn find(&mut self, section: Section<'_>, name: &str) -> Option<(Slot<'_>, &mut Notes)> {
        let slot = match section {
            Section::Plain(section) => {
                let key = schema::keys_of(section).find(|key| key.name == name)?;
                let label = Label { name: key.full_name(), example: key.example };
                Slot { field: (key.field)(&mut self.config), label }
            }
            Section::Target(target) => {
                let key = TARGET_KEYS.iter().find(|key| key.name == name)?;
                let name = format!("{section}.{name}");
                let label = Label { name, example: key.example };
                Slot { field: (key.field)(self.config.deliver.get_mut(target)?), label }
            }
        };
        Some((slot, &mut self.notes))
    }

    /// Makes a target, if there is none of that name. Says whether there is one now.
    pub fn target(&mut self, name: &str, origin: Origin) -> bool {
        let targets = &mut self.config.deliver;
        if targets.get(name).is_some() {
            return true;
        }
        let fault = match names::target(name) {
            Err(reason) => format!("{TARGETS} has {}; {reason}", quoted(name)),
            Ok(_) if targets.iter().count() >= MAX_TARGETS => {
                format!("there are more than {MAX_TARGETS} targets; take some away")
            }
            Ok(_) => {
                targets.insert(name.to_owned(), Target::new(name));
                self.notes.origins.insert(format!("{TARGETS}.{name}"), origin);
                return true;
            }
        };
        self.notes.problems.push(origin, fault);
        false
    }

    /// The checks between keys; each key has passed its own.
    pub fn settle(&mut self, file: &str) {
        let Draft { config, notes } = self;
        let agent = &mut config.agent;
        let kind = notes.of("agent.kind").clone();
        let command = notes.of("agent.command").clone();
        let given = !agent.command.is_empty();
        if given && kind == Origin::Default {
            agent.kind = AgentKind::Command;
            notes.origins.insert("agent.kind".to_owned(), command.clone());
        }
        match (agent.kind, agent.command.first()) {
            (AgentKind::Command, Some(program)) if program.is_empty() => notes.problems.push(
                command,
                "agent.command names no program: its first string is empty; \
                 write one like [\"my-agent\", \"--flag\"]",
            ),
            (AgentKind::Command, None) => notes.problems.push(
                kind,
                "agent.kind is \"command\" but agent.command is empty; \
                 say what to run, like command = [\"my-agent\", \"--flag\"]",
            ),
            (AgentKind::Echo, Some(_)) => notes.problems.push(
                command,
                format!(
                    "agent.command is given but agent.kind is \"echo\" ({}); \
                     take one of the two away, or write kind = \"command\"",
                    place(&kind, file)
                ),
            ),
            (AgentKind::Command, Some(_)) | (AgentKind::Echo, None) => {}
        }
        for target in config.deliver.values_mut() {
            target::settle(target, &mut notes.origins, &mut notes.problems, file);
        }
    }
}
