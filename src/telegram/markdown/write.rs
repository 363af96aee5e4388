//! What a page shows: its text without marks, and the entities of its styles.

use super::{
    BOLD, CODE, DROPPED, Entity, ITALIC, Kind, LINK, MAX_ENTITIES, PRE, Page, QUOTE, STRIKETHROUGH,
};

/// What is there for nobody to see: Telegram refuses a text of nothing else.
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fffc}' | '\u{e0000}'..='\u{e0fff}')
}

/// Of a character, what Telegram can show at once.
fn compatible(style: u8) -> u8 {
    match style {
        _ if style & PRE != 0 => style & (PRE | DROPPED),
        _ if style & LINK != 0 => style & !CODE,
        _ if style & CODE != 0 => style & (CODE | DROPPED),
        _ => style,
    }
}

impl Page {
    pub(super) fn write(self) -> (String, Vec<Entity>) {
        let mut shown = String::new();
        let mut entities: Vec<Entity> = Vec::new();
        // Styles that began and have not ended, the outermost first, with their entities.
        let mut open: Vec<(u8, usize)> = Vec::new();
        // In UTF-16 units, all that is written, and up to the end of what can be seen.
        let (mut units, mut end, mut label) = (0, 0, 0);
        for (at, c) in self.text.iter().enumerate() {
            let style = compatible(self.style[at]);
            if let Some(first) = open.iter().position(|(bit, _)| style & bit == 0) {
                close(&mut entities, &mut open, first, end);
            }
            if style & DROPPED != 0 || shown.is_empty() && c.is_whitespace() {
                continue;
            }
            let offset = units;
            shown.push(*c);
            units += if c.len_utf16() == 1 { 1 } else { 2 };
            if c.is_whitespace() {
                continue;
            }
            end = units;
            for bit in [QUOTE, LINK, BOLD, ITALIC, STRIKETHROUGH, CODE, PRE] {
                if style & bit == 0
                    || open.iter().any(|(it, _)| *it == bit)
                    || entities.len() == MAX_ENTITIES
                {
                    continue;
                }
                while self.labels.get(label + 1).is_some_and(|(from, _)| *from <= at) {
                    label += 1;
                }
                let text = self.labels.get(label).map_or("", |(_, text)| text).to_owned();
                let kind = match bit {
                    QUOTE => Kind::Quote,
                    LINK => Kind::Link(text),
                    BOLD => Kind::Bold,
                    ITALIC => Kind::Italic,
                    STRIKETHROUGH => Kind::Strikethrough,
                    CODE => Kind::Code,
                    _ => Kind::Pre(text),
                };
                open.push((bit, entities.len()));
                entities.push(Entity { kind, offset, length: 0 });
            }
        }
        close(&mut entities, &mut open, 0, end);
        shown.truncate(shown.trim_end().len());
        if shown.chars().all(is_invisible) {
            return ("…".to_owned(), Vec::new());
        }
        (shown, entities)
    }
}

/// Ends the styles from `first` on: those inside of one that ends begin again.
fn close(entities: &mut [Entity], open: &mut Vec<(u8, usize)>, first: usize, end: u32) {
    for (_, index) in open.drain(first..) {
        entities[index].length = end - entities[index].offset;
    }
}
