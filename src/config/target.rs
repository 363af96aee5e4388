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
