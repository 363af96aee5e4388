//! Markdown as agents write it, as the text and the entities of a Telegram message. Pure.

/// How a piece of a text is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Bold,
    Italic,
    Strikethrough,
    Code,
    /// With the name of its language, or without one.
    Pre(String),
    Link(String),
    Quote,
}

/// `MessageEntity` of the Bot API: offset and length in UTF-16 units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    pub kind: Kind,
    pub offset: u32,
    pub length: u32,
}

/// The text, and how it is shown.
pub fn render(markdown: &str) -> (String, Vec<Entity>) {
    (markdown.to_owned(), Vec::new())
}

/// `entities` of the Bot API.
pub fn to_json(entities: &[Entity]) -> serde_json::Value {
    let each = |it: &Entity| crate::json::object!("type": "bold", "offset": it.offset, "length": it.length);
    serde_json::Value::Array(entities.iter().map(each).collect())
}
