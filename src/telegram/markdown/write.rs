//! What a page shows: its text without marks, and the entities of its styles.

use super::{
    BOLD, CODE, DROPPED, Entity, ITALIC, Kind, LINK, MAX_ENTITIES, PRE, Page, QUOTE, STRIKETHROUGH,
};

/// UTF-16 units of a message.
const MAX_TEXT: u32 = 4096;

/// Columns from one tab stop of code to the next, where there is room: Telegram shows one space for a tab.
const TAB: u32 = 4;

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
        let (tab, mut line) = (self.tab(), 0);
        for (at, c) in self.text.iter().enumerate() {
            let style = compatible(self.style[at]);
            if let Some(first) = open.iter().position(|(bit, _)| style & bit == 0) {
                close(&mut entities, &mut open, first, end);
            }
            let code = style & PRE != 0;
            if style & DROPPED != 0 || shown.is_empty() && c.is_whitespace() && !code {
                continue;
            }
            let offset = units;
            // Telegram leaves out the white space that a block of code begins with, but not this one.
            let indents = code
                && c.is_whitespace()
                && entities.len() < MAX_ENTITIES
                && open.iter().all(|(bit, _)| *bit != PRE);
            let (c, wide) = match c {
                '\t' if code => (' ', tab - (units - line) % tab),
                c => (*c, if c.len_utf16() == 1 { 1 } else { 2 }),
            };
            shown.push(if indents { '\u{a0}' } else { c });
            units += wide;
            if c == ' ' {
                (1..wide).for_each(|_| shown.push(' '));
            }
            if c == '\n' {
                line = units;
            }
            if c.is_whitespace() && !indents {
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

    /// From one tab stop to the next such that the text stays within one message.
    fn tab(&self) -> u32 {
        let (mut room, mut tabs) = (MAX_TEXT, 1);
        for c in &self.text {
            room = room.saturating_sub(if c.len_utf16() == 1 { 1 } else { 2 });
            tabs += u32::from(*c == '\t');
        }
        TAB.min(1 + room / tabs)
    }
}

/// Ends the styles from `first` on: those inside of one that ends begin again.
fn close(entities: &mut [Entity], open: &mut Vec<(u8, usize)>, first: usize, end: u32) {
    for (_, index) in open.drain(first..) {
        entities[index].length = end - entities[index].offset;
    }
}
