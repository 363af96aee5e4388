//! What a start takes although it can hardly work, or gives something away.

use std::ffi::OsStr;

use super::enum_setting::Unknown;
use super::error::{Problems, quoted};
use super::load::Loaded;
use super::url::Url;
use crate::named::ByName;
use crate::subprocess::{find_on, why_not_executable};

impl Loaded {
    /// One line a warning, with its place. `path`: where the gateway looks for programs; `here`: where
    /// this shell does. Looks at files, which may be on a disk that hangs.
    pub fn warnings(&self, path: &OsStr, here: &OsStr) -> Vec<String> {
        let mut found = Problems::default();
        let mut warn = |key: &str, why: Option<String>| {
            let location = self.location(key);
            why.into_iter().for_each(|why| found.push(location.clone(), format!("{key} {why}")));
        };
        let (http, agent) = (&self.config.http, &self.config.agent);
        let open = Some(http.listen).filter(|listen| !listen.ip().is_loopback());
        warn("http.listen", open.map(|listen| format!("is {listen}: what other machines send there, keys too, is not encrypted; listen on 127.0.0.1, behind a reverse proxy that has TLS")));
        agent.url.iter().for_each(|server| warn("agent.url", plain(&server.url)));
        warn("agent.command", program(&agent.command, &agent.env, path, here));
        for (name, target) in self.config.deliver.iter() {
            warn(&format!("deliver.{name}.url"), target.url.as_ref().and_then(plain));
            warn(
                &format!("deliver.{name}.command"),
                program(&target.command, &target.env, path, here),
            );
        }
        for (name, channel) in self.config.channel.iter() {
            let of = format!("channel.{name}");
            let program = program(&channel.command, &channel.env, path, here);
            warn(&format!("{of}.command"), program);
            warn(&format!("{of}.api_url"), channel.api_url.as_ref().and_then(plain));
            let nobody = channel.unknown == Unknown::Ignore && channel.listed().is_empty();
            let why = "lets nobody talk: write allow, groups or operators, or unknown = \"pair\"";
            warn(&of, nobody.then(|| why.to_owned()));
        }
        found.lines(&self.file_name())
    }
}

fn plain(url: &Url) -> Option<String> {
    let (open, origin) = (!url.secure && !url.is_loopback(), url.origin());
    open.then(|| {
        format!("is at {origin}: what is sent there, keys too, is not encrypted; use https://")
    })
}

fn program(command: &[String], env: &ByName<String>, path: &OsStr, here: &OsStr) -> Option<String> {
    let inner = env.get("PATH").map_or(path, OsStr::new);
    let (why, name) = (why_not_executable(command, path, inner)?, command.first()?);
    let elsewhere = find_on(name, path).is_err().then(|| find_on(name, here).ok()).flatten();
    Some(match elsewhere.map(|file| quoted(&file.to_string_lossy())) {
        Some(file) => format!("is on this shell's PATH, but not on the unit's: write {file}"),
        None => format!("cannot be executed: {why}"),
    })
}
