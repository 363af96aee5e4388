//! What a request says beside the text of its turn: the conversation so far, and how to answer.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

/// A chat request, or what is left of one that was written down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// OpenAI's messages, each with `role` and `content`, the turn's own included.
    pub messages: Vec<Value>,
    /// The model that was asked for; empty: any.
    pub model: String,
    /// Further fields of the request, such as `temperature`, for a server that knows them.
    pub options: Map<String, Value>,
}
