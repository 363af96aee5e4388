//! What an agent is told in the Agent Client Protocol, version 1: a message a line. Pure.

use std::path::Path;

use super::wire::UNAWAITED;
use crate::escape::quoted;
use crate::json::text_or_null;

/// The greeting. Neither files nor terminals are offered: agents use their own.
pub fn initialize() -> String {
    let own = concat!(
        r#"{"protocolVersion":1,"clientCapabilities":{"fs":{"readTextFile":false,"writeTextFile":false},"#,
        r#""terminal":false},"clientInfo":{"name":"hermes-gateway","title":"Hermes Gateway","version":""#,
        env!("CARGO_PKG_VERSION"),
        "\"}}"
    );
    request(0, "initialize", own)
}

/// A request of that number, with its parameters as JSON.
pub fn request(id: u64, method: &str, params: &str) -> String {
    message(&format!(r#""id":{id},"#), method, params)
}

/// `session/new`, or with an id `session/load` and `session/resume`.
pub fn open(id: u64, method: &str, session: Option<&str>, cwd: &Path) -> String {
    let cwd = quoted(&cwd.to_string_lossy());
    let session = session.map_or(String::new(), |it| format!(r#""sessionId":{},"#, quoted(it)));
    request(id, method, &format!(r#"{{{session}"cwd":{cwd},"mcpServers":[]}}"#))
}

/// A page of the sessions that work in this directory.
pub fn list(id: u64, cwd: &Path, cursor: Option<&str>) -> String {
    let (cwd, cursor) = (quoted(&cwd.to_string_lossy()), text_or_null(cursor));
    request(id, "session/list", &format!(r#"{{"cwd":{cwd},"cursor":{cursor}}}"#))
}

/// `prompt` and `meta` are JSON.
pub fn prompt(id: u64, session: &str, prompt: &str, meta: &str) -> String {
    let session = quoted(session);
    let params =
        format!(r#"{{"sessionId":{session},"prompt":[{prompt}],"_meta":{{"hermes":{meta}}}}}"#);
    request(id, "session/prompt", &params)
}

pub fn cancel(session: &str) -> String {
    message("", "session/cancel", &format!(r#"{{"sessionId":{}}}"#, quoted(session)))
}

pub fn close(session: &str) -> String {
    let id = format!(r#""id":{UNAWAITED},"#);
    message(&id, "session/close", &format!(r#"{{"sessionId":{}}}"#, quoted(session)))
}

fn message(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{params}}}"#)
}

/// The answer to a permission's request: the option that was chosen, as JSON; `None`: it was cancelled.
pub fn permit(id: &str, option: Option<&str>) -> String {
    let chosen = option.map_or(r#"{"outcome":"cancelled"}"#.to_owned(), |option| {
        format!(r#"{{"outcome":"selected","optionId":{option}}}"#)
    });
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"outcome":{chosen}}}}}"#)
}

pub fn error(id: &str, code: i64, words: &str) -> String {
    let words = quoted(words);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{words}}}}}"#)
}
