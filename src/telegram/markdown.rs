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
