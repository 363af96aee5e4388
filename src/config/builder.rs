//! A configuration in the making: sections and keys found by name, and the checks between keys.

use super::enum_setting::EnumSetting;
use super::error::{Origin, place, quoted};
use super::schema::{Field, NamedTable, Section};
use super::value::{Diagnostics, Label};
use super::{Agent, AgentKind, Config, OWNER, key, target, turns_for_this_machine, validate};

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
        agent(&mut config.agent, notes, file);
        for target in config.deliver.values_mut() {
            target::settle(target, notes, file);
        }
        key::settle_all(config, notes);
    }
}

/// What the agent's keys mean together. A url or a command alone chooses the kind.
fn agent(agent: &mut Agent, notes: &mut Diagnostics, file: &str) {
    let of = |name: &str| notes.of(&format!("agent.{name}")).clone();
    let (kind, command, url) = (of("kind"), of("command"), of("url"));
    let for_upstreams = ["agent.key_file", "agent.model", "agent.models"];
    let given = [agent.key_file.is_some(), !agent.model.is_empty(), !agent.models.is_empty()];
    let stray = for_upstreams.into_iter().zip(given).find(|(_, given)| *given);
    if kind == Origin::Default {
        let (chosen, origin) = match (&agent.url, agent.command.is_empty()) {
            (Some(_), _) => (AgentKind::Upstream, url.clone()),
            (None, false) => (AgentKind::Command, command),
            (None, true) => (AgentKind::Echo, Origin::Default),
        };
        agent.kind = chosen;
        notes.origins.insert("agent.kind".to_owned(), origin);
    }
    let beside = format!("agent.kind is \"{}\" ({})", agent.kind.word(), place(&kind, file));
    let way = "take one of the two away, or write kind = ";
    let (key, fault) = match (agent.kind, &agent.url, agent.command.first()) {
        (_, Some(_), Some(_)) => {
            let url = place(&url, file);
            (
                "agent.command",
                format!("is given beside agent.url ({url}); take one of the two away"),
            )
        }
        (AgentKind::Command, None, Some(program)) if program.is_empty() => {
            let way = "write one like [\"my-agent\", \"--flag\"]";
            ("agent.command", format!("names no program: its first string is empty; {way}"))
        }
        (AgentKind::Command, None, None) => {
            let way = "say what to run, like command = [\"my-agent\", \"--flag\"]";
            ("agent.kind", format!("is \"command\" but agent.command is empty; {way}"))
        }
        (AgentKind::Upstream, None, None) => {
            let way = "say where it is, like url = \"http://127.0.0.1:11434/v1\"";
            ("agent.kind", format!("is \"upstream\" but agent.url is empty; {way}"))
        }
        (AgentKind::Echo | AgentKind::Upstream, None, Some(_)) => {
            ("agent.command", format!("is given but {beside}; {way}\"command\""))
        }
        (AgentKind::Echo | AgentKind::Command, Some(_), None) => {
            ("agent.url", format!("is given but {beside}; {way}\"upstream\""))
        }
        (AgentKind::Echo, None, None)
        | (AgentKind::Command, None, Some(_))
        | (AgentKind::Upstream, Some(_), None) => {
            let Some((name, _)) = stray.filter(|_| agent.url.is_none()) else { return };
            (name, "is given but no agent.url that it could belong to; add one".to_owned())
        }
    };
    notes.fault(key, &fault);
}
