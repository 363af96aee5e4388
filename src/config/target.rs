//! Where replies can be sent.

use super::schema::{Channel, Target};

impl Target {
    pub fn new(name: &str) -> Target {
        Target { name: name.to_owned(), ..Target::default() }
    }
}

impl Channel {
    pub fn new(name: &str) -> Channel {
        Channel { name: name.to_owned(), ..Channel::default() }
    }
}
