//! The commented file that a new gateway starts with.

use crate::name::Name;

/// Every key with its default and a line of help, all commented out but `[http] listen`.
pub fn starter(port: u16, name: &Name) -> String {
    include_str!("starter.toml")
        .replace("{port}", &port.to_string())
        .replace("{name}", name.as_str())
        .replace("{command}", &name.command())
}
