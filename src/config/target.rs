//! Where replies can be sent.

use super::schema::Target;

impl Target {
    pub fn new(name: &str) -> Target {
        Target { name: name.to_owned(), ..Target::default() }
    }
}
