//! A configuration in the making: sections and keys found by name, and the checks between keys.

use super::error::{Origin, place, quoted};
use super::schema::{Field, NamedTable, Section};
use super::value::{Diagnostics, Label};
use super::{Agent, Config, OWNER, key, target, turns_for_this_machine, validate};

/// A configuration in the making.
#[derive(Debug, Default)]
pub struct ConfigBuilder {
    pub config: Config,
    pub notes: Diagnostics,
}

impl ConfigBuilder {
    /// A key's field, if the section has that key, and the notes to take about it.
    pub fn find(
        &mut self,
        section: &Section,
        own: &str,
        name: &str,
    ) -> Option<(Field<'_>, Label, &mut Diagnostics)> {
        let key = section.keys.iter().find(|key| key.name == name)?;
        let label = Label { name: format!("{}.{name}", section.full(own)), example: key.example };
        Some(((key.field)(&mut self.config, own)?, label, &mut self.notes))
    }

    /// Makes a section of a family, if there is none of that name. Says whether there is one now.
    pub fn named(
        &mut self,
        section: &Section,
        family: &NamedTable,
        own: &str,
        origin: Origin,
    ) -> bool {
        let known = (family.names)(&self.config);
        if known.contains(&own) {
            return true;
        }
        let (name, word, most) = (section.name, family.word, family.most);
        let fault = match validate::section(own, word) {
            Err(reason) => format!("{name} has {}; {reason}", quoted(own)),
            Ok(_) if name == "keys" && own == OWNER => {
                format!("{name}.{OWNER} is the gateway's own key: it is in http.key_file")
            }
            Ok(_) if known.len() >= most => {
                format!("there are more than {most} {word}s; take some away")
            }
            Ok(_) => {
                (family.add)(&mut self.config, own);
                self.notes.origins.insert(section.full(own), origin);
                return true;
            }
        };
        self.notes.problems.push(origin, fault);
        false
    }

    /// The checks between keys; each key has passed its own.
    pub fn settle(&mut self, file: &str) {
        let ConfigBuilder { config, notes } = self;
        if config.limits.max_turns == 0 {
            config.limits.max_turns = turns_for_this_machine();
        }
        agent(&config.agent, notes, file);
        for target in config.deliver.iter().map(|(_, target)| target) {
            target::settle(target, notes, file);
        }
        key::settle_all(config, notes);
    }
}

/// What the agent's keys mean together.
fn agent(agent: &Agent, notes: &mut Diagnostics, file: &str) {
    let given = [
        ("agent.key_file", agent.key_file.is_some()),
        ("agent.model", !agent.model.is_empty()),
        ("agent.models", !agent.models.is_empty()),
    ];
    let stray = given.into_iter().find(|(_, given)| *given && agent.url.is_none());
    let (key, fault) = match (&agent.url, agent.command.first(), stray) {
        (Some(_), Some(_), _) => ("agent.command", both("agent", notes, file)),
        (None, Some(program), _) if program.is_empty() => {
            let way = "write one like [\"my-agent\", \"--flag\"]";
            ("agent.command", format!("names no program: its first string is empty; {way}"))
        }
        (None, _, Some((key, _))) => {
            (key, "is given but no agent.url that it could belong to; add one".to_owned())
        }
        (Some(_), None, _) | (None, _, None) => return,
    };
    notes.fault(key, &fault);
}

/// What is wrong with a command in a section that has a url, too.
pub(super) fn both(section: &str, notes: &Diagnostics, file: &str) -> String {
    let url = place(notes.of(&format!("{section}.url")), file);
    format!("is given beside {section}.url ({url}); take one of the two away")
}
