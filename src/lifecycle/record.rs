//! Reading the small JSON files that one process leaves for another: lock, marker, run record, history.

use std::io;
use std::path::Path;

use serde_json::Value;

/// The object that a text is; null where it is none.
pub fn object(text: &str) -> Value {
    let value: Option<Value> = serde_json::from_slice(text.as_bytes()).ok();
    value.filter(Value::is_object).unwrap_or_default()
}

/// The error with the file that it is about.
pub fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
