//! Reading the small JSON files that one process leaves for another: lock, marker, run record, history.

use std::{io, path::Path};

use serde_json::Value;

/// The object that a text is, if it is one.
pub fn object(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_object)
}

/// The error with the file that it is about.
pub fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
