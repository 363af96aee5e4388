//! Where replies can be sent.

use super::schema::{Channel, Config, Target};
use crate::sys::gather::Gather;

impl Target {
    pub fn new(name: &str) -> Target {
        Target { name: name.to_owned(), ..Target::default() }
    }
}

impl Channel {
    pub fn new(name: &str) -> Channel {
        Channel { name: name.to_owned(), ..Channel::default() }
    }

    /// What its adapter is started with: the command, or the arguments of this program where that is the adapter.
    pub fn adapter(&self) -> Vec<String> {
        let Some(file) = self.token_file.as_ref().filter(|_| self.telegram) else {
            return self.command.clone();
        };
        let file = file.to_string_lossy();
        let mut words =
            ["channel-adapter", "telegram", "--token-file", &file].map(str::to_owned).to_vec();
        if let Some(url) = &self.api_url {
            words.extend(["--api-url".to_owned(), url.to_string()]);
        }
        if !self.groups.is_empty() {
            words.push("--groups".to_owned());
        }
        words
    }

    /// Whether somebody may talk in private, by its lists or since he was let in.
    pub fn serves(&self, id: &str, paired: &dyn Fn(&str) -> bool) -> bool {
        let has = |list: &[String]| list.iter().any(|known| known == id);
        // A group of this id would be the same principal.
        let paired = || !has(&self.groups) && paired(id);
        has(&self.allow) || has(&self.operators) || self.r#as.get(id).is_some() || paired()
    }

    /// Who may talk, and where, by its lists.
    pub fn listed(&self) -> Vec<&str> {
        let lists = [&self.allow, &self.groups, &self.operators].into_iter().flatten();
        lists.map(String::as_str).chain(self.r#as.names()).gather()
    }
}

impl Config {
    /// The names that `deliver` may have: of targets, then of channels.
    pub fn target_names(&self) -> Vec<&str> {
        self.deliver.names().into_iter().chain(self.channel.names()).gather()
    }
}
