//! The checks between keys, each of which has passed its own.

use super::did_you_mean;
use super::enum_setting::{Api, Approve, Protocol, Role};
use super::error::{Location, quoted};
use super::schema::{Agent, Channel, ClientKey, Config, Target, default_turns};
use super::validate::{OPERATOR_SCOPES, OWNER};
use super::value::Diagnostics;
use crate::sys::gather::Gather;

/// Checks all, and resolves what the defaults leave open.
pub fn check(config: &mut Config, diagnostics: &mut Diagnostics<'_>) {
    if config.limits.max_turns == 0 {
        config.limits.max_turns = default_turns();
    }
    config.agent.inherit();
    for own in config.channel.values_mut() {
        let preview = diagnostics.location(&format!("channel.{}.preview", own.name));
        own.preview |= own.telegram && *preview == Location::Default;
    }
    agent(&config.agent, diagnostics);
    for (key, words) in
        [("update.command", &config.update.command), ("update.rollback", &config.update.rollback)]
    {
        if words.first().is_some_and(String::is_empty) {
            diagnostics.fault(key, &no_program("[\"my-updater\", \"--flag\"]"));
        }
    }
    for (_, own) in config.deliver.iter() {
        target(own, diagnostics);
    }
    for (_, own) in config.channel.iter() {
        channel(config, own, diagnostics);
    }
    let stop = &config.stop;
    for (key, name) in
        [("stop.notify", &stop.notify), ("stop.notify_failures", &stop.notify_failures)]
    {
        let known = config.target_names();
        let homeless = config.channel.get(name).is_some_and(|channel| channel.home.is_empty());
        if !name.is_empty() && !known.contains(&name.as_str()) {
            let (hint, name) = (did_you_mean::hint(name, &known), quoted(name));
            diagnostics.fault(key, &format!("is {name}, but there is no {TARGETS}{hint}"));
        } else if homeless {
            let fault = format!("is \"{name}\", but channel.{name} has no home; add it");
            diagnostics.fault(key, &fault);
        }
    }
    let keys: Vec<&str> = [OWNER].into_iter().chain(config.keys.names()).gather();
    for (name, own) in config.channel.iter() {
        for (id, alias) in own.r#as.iter().filter(|(_, alias)| !keys.contains(&alias.as_str())) {
            let (hint, alias) = (did_you_mean::hint(alias, &keys), quoted(alias));
            let fault = format!("is {alias}, but there is no {KEYS}{hint}");
            diagnostics.fault(&format!("channel.{name}.as.{id}"), &fault);
        }
    }
    let (at, of) = ("session.operators", KEYS);
    names(&config.session.operators, at, of, &keys, diagnostics);
    for (name, key) in config.keys.iter() {
        client_key(key, diagnostics);
        let at = format!("keys.{name}.targets");
        names(&key.targets, &at, TARGETS, &config.target_names(), diagnostics);
    }
}

const KEYS: &str = "[keys.NAME] of that name";
const TARGETS: &str = "[deliver.NAME] or [channel.NAME] of that name";

fn agent(agent: &Agent, diagnostics: &mut Diagnostics<'_>) {
    let url = !agent.url.is_empty();
    command("agent", url, &agent.command, "[\"my-agent\", \"--flag\"]", diagnostics);
    for (key, given) in [
        ("agent.key_file", agent.key_file.is_some()),
        ("agent.model", !agent.model.is_empty()),
        ("agent.models", !agent.models.is_empty()),
        ("agent.api", agent.api != Api::Chat),
    ] {
        if given && !url {
            diagnostics.fault(key, "is set, but agent.url is not; add it");
        }
    }
    if agent.protocol != Protocol::Text && agent.command.is_empty() {
        let like = "command = [\"hermes\", \"acp\"]";
        let fault = format!("is set, but agent.command is not; add it, like {like}");
        diagnostics.fault("agent.protocol", &fault);
    }
    for (key, given) in [
        ("agent.directory", agent.directory.is_some()),
        ("agent.approve", agent.approve != Approve::Never),
        ("agent.share", agent.share),
        ("agent.preload", agent.preload),
    ] {
        if given && agent.protocol == Protocol::Text {
            let fault = "is for agents that stay; add agent.protocol = \"acp\", or remove it";
            diagnostics.fault(key, fault);
        }
    }
}

fn target(target: &Target, diagnostics: &mut Diagnostics<'_>) {
    let (name, url) = (format!("deliver.{}", target.name), target.url.is_some());
    let like = "[\"my-notifier\", \"--flag\"]";
    command(&name, url, &target.command, like, diagnostics);
    if !url && target.command.is_empty() {
        let fix = "give it a url, like \"https://example.org/hook\", or a command, like";
        diagnostics.fault(&name, &format!("has no address; {fix} {like}"));
    } else if !url && target.secret_file.is_some() {
        let fault = "is a command, and only callbacks are signed; remove it";
        diagnostics.fault(&format!("{name}.secret_file"), &format!("is set, but {name} {fault}"));
    }
}

fn channel(config: &Config, channel: &Channel, diagnostics: &mut Diagnostics<'_>) {
    let (own, like) = (&channel.name, "[\"my-adapter\", \"--flag\"]");
    let name = format!("channel.{own}");
    if config.deliver.get(own).is_some() {
        let fault = format!(
            "has the name of deliver.{own}: what is delivered there could go to either; rename one"
        );
        diagnostics.fault(&name, &fault);
    } else if own == OWNER || config.keys.get(own).is_some() {
        diagnostics.fault(&name, "has the name of a principal; rename it");
    }
    command(&name, false, &channel.command, like, diagnostics);
    adapter(&name, channel, like, diagnostics);
    let person = |id: &&String| channel.serves(id, &|_| false);
    if let Some(id) = channel.groups.iter().find(person) {
        let fault = format!(
            "has {}, which is in allow, operators or as too: a group and a person of one id would be \
             one principal; remove one",
            quoted(id)
        );
        diagnostics.fault(&format!("{name}.groups"), &fault);
    }
    if !channel.home.is_empty() && !channel.listed().contains(&channel.home.as_str()) {
        let fault = format!(
            "is {}, which is not in allow, groups, operators or as; add it there",
            quoted(&channel.home)
        );
        diagnostics.fault(&format!("{name}.home"), &fault);
    }
}

/// What speaks to the platform: a command, or what is built in with its token.
fn adapter(name: &str, channel: &Channel, like: &str, diagnostics: &mut Diagnostics<'_>) {
    let telegram = channel.telegram;
    if telegram && !channel.command.is_empty() {
        let at = diagnostics.location(&format!("{name}.telegram")).show(&diagnostics.file);
        let fault = format!("is set together with {name}.telegram ({at}); remove one of the two");
        diagnostics.fault(&format!("{name}.command"), &fault);
    } else if telegram && channel.token_file.is_none() {
        let fix = "write the bot's token into a file, and name it: \
                   token_file = \"~/.config/bot.token\"";
        diagnostics.fault(&format!("{name}.telegram"), &format!("has no token_file; {fix}"));
    } else if !telegram && channel.command.is_empty() {
        let fault = format!("has no command; give it one, like {like}, or telegram = true");
        diagnostics.fault(name, &fault);
    }
    for (key, given) in
        [("token_file", channel.token_file.is_some()), ("api_url", channel.api_url.is_some())]
    {
        if given && !telegram {
            let fault = format!("is set, but {name}.telegram is not; add telegram = true");
            diagnostics.fault(&format!("{name}.{key}"), &fault);
        }
    }
}

/// A command is not given beside a url, and names a program.
fn command(of: &str, url: bool, words: &[String], like: &str, diagnostics: &mut Diagnostics<'_>) {
    let fault = match words.first() {
        Some(_) if url => {
            let url = diagnostics.location(&format!("{of}.url")).show(&diagnostics.file);
            format!("is set together with {of}.url ({url}); remove one of the two")
        }
        Some(program) if program.is_empty() => no_program(like),
        Some(_) | None => return,
    };
    diagnostics.fault(&format!("{of}.command"), &fault);
}

fn no_program(like: &str) -> String {
    format!("names no program: its first string is empty; write one like {like}")
}

fn client_key(key: &ClientKey, diagnostics: &mut Diagnostics<'_>) {
    let name = &key.name;
    if key.file.is_none() {
        let fix = "make one, `openssl rand -hex 32 > FILE; chmod 600 FILE`, and name it";
        let example = format!("file = \"~/.config/hermes-gateway/{name}.key\"");
        diagnostics.fault(&format!("keys.{name}"), &format!("has no file; {fix}: {example}"));
    }
    let beyond = key.routes.iter().find(|scope| OPERATOR_SCOPES.contains(&scope.as_str()));
    if let Some(scope) = beyond.filter(|_| key.role == Role::User) {
        let fix = "remove it, or write role = \"operator\"";
        let fault = format!("has \"{scope}\", which is for operators; {fix}");
        diagnostics.fault(&format!("keys.{name}.routes"), &fault);
    }
}

/// Reports each name of a list of which there is no section: a misspelt one would silently take rights
/// or deliveries away.
fn names(given: &[String], at: &str, of: &str, known: &[&str], diagnostics: &mut Diagnostics<'_>) {
    for name in given.iter().filter(|name| !known.contains(&name.as_str())) {
        let (hint, name) = (did_you_mean::hint(name, known), quoted(name));
        diagnostics.fault(at, &format!("has {name}, but there is no {of}{hint}"));
    }
}
