//! A long reply in parts, where people would break it. Pure.
//!
//! A part ends behind a paragraph, a line or a word, and if there is none, never inside of what is one
//! character to people. A block of code that goes on in the next part is closed in the one, and opened again
//! in the other. White space where a text is cut is not shown, but for what indents a line.

use memchr::{memchr, memrchr};

use super::wire::Unit;

/// No part is longer: escaped as JSON it fits into a line of the protocol.
const MAX_PIECE: usize = 100_000;

/// The protocol's least length of a text.
const MIN_PIECE: usize = 64;

/// Bytes of white space that are kept in front of the first line of a part.
const MAX_INDENT: usize = 16;

/// Bytes of the line that opens a block of code which are repeated, and of its mark: with an indent they
/// leave room for text in the shortest part.
const MAX_OPENING: usize = 20;
const MAX_MARK: usize = 8;

/// A block of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fence {
    /// The line that opens it, from its mark on.
    start: usize,
    end: usize,
    /// Bytes of the mark.
    mark: usize,
}

impl Fence {
    /// If the line at `start` is a mark.
    fn new(text: &str, start: usize, end: usize) -> Option<Fence> {
        let line = text[start..end].trim();
        let first = line.chars().next().filter(|first| matches!(first, '`' | '~'))?;
        let mark = line.len() - line.trim_start_matches(first).len();
        let inline = first == '`' && line[mark..].contains('`');
        let start = end - text[start..end].trim_start().len();
        let fence = Fence { start, end: start + line.len(), mark };
        ((3..=MAX_MARK).contains(&mark) && !inline).then_some(fence)
    }

    fn mark<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.start + self.mark]
    }

    /// What opens it again.
    fn opening<'a>(&self, text: &'a str) -> &'a str {
        let whole = &text[self.start..self.end];
        if whole.len() > MAX_OPENING { self.mark(text) } else { whole }
    }

    /// Whether this one, a line behind it, is its end.
    fn is_closed_by(&self, text: &str, line: &Fence) -> bool {
        line.end == line.start + line.mark && line.mark(text).starts_with(self.mark(text))
    }
}

/// A place in a text, and the block of code that it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    at: usize,
    /// Where its line begins.
    line: usize,
    fence: Option<Fence>,
}

impl Cursor {
    /// Goes on to `to`.
    pub fn advance(&mut self, text: &str, to: usize) {
        let to = to.min(text.len());
        while let Some(length) = text.as_bytes().get(self.at..to).and_then(|it| memchr(b'\n', it)) {
            let end = self.at + length;
            self.fence = match (self.fence, Fence::new(text, self.line, end)) {
                (None, opened) => opened,
                (Some(open), Some(line)) if open.is_closed_by(text, &line) => None,
                (Some(open), _) => Some(open),
            };
            (self.at, self.line) = (end + 1, end + 1);
        }
        self.at = to;
    }

    fn to(mut self, text: &str, to: usize) -> Cursor {
        self.advance(text, to);
        self
    }

    /// Bytes that close the block of code.
    fn closing(&self) -> usize {
        self.fence.map_or(0, |fence| fence.mark + 1)
    }

    /// The line here, which begins here, is the end of the block of code.
    fn is_at_end_of_block(&self, text: &str) -> bool {
        let Some(fence) = self.fence.filter(|_| self.line == self.at) else { return false };
        // What is longer than a mark and white space is none.
        let rest = &text.as_bytes()[self.at..];
        let end = memchr(b'\n', &rest[..rest.len().min(MAX_INDENT + MAX_OPENING)]);
        let end = end.map_or(text.len(), |length| self.at + length);
        end - self.at < MAX_INDENT + MAX_OPENING
            && Fence::new(text, self.at, end).is_some_and(|line| fence.is_closed_by(text, &line))
    }
}

/// Where the parts of what follows end, the last one with the text.
pub fn cuts_from(text: &str, from: &Cursor, max_len: u32, unit: Unit) -> Vec<u32> {
    let (mut cursor, mut cuts) = (*from, Vec::new());
    loop {
        let end = next_cut(text, &cursor, max_len, unit);
        cuts.push(u32::try_from(end).unwrap_or(u32::MAX));
        if end >= text.len() {
            return cuts;
        }
        cursor.advance(text, end);
    }
}

/// The part from a cursor to a cut, as it is shown; `None`: there is no such part.
pub fn piece(text: &str, from: &Cursor, to: usize) -> Option<String> {
    let whole = text.get(from.at..to)?;
    let body = whole[margin(whole)..].trim_end();
    let mut piece = String::new();
    if let Some(fence) = from.fence.filter(|_| !body.is_empty()) {
        piece = fence.opening(text).to_owned() + "\n";
    }
    piece += body;
    if let Some(fence) = from.to(text, to).fence.filter(|_| to < text.len()) {
        piece = piece + "\n" + fence.mark(text);
    }
    Some(piece)
}

/// As much of the beginning as is one part.
pub fn first(text: &str, max_len: u32, unit: Unit) -> String {
    let start = Cursor::default();
    piece(text, &start, next_cut(text, &start, max_len, unit)).unwrap_or_default()
}

/// The length as a platform counts it.
pub fn length(text: &str, unit: Unit) -> usize {
    match unit {
        Unit::Bytes => text.len(),
        Unit::Utf16 | Unit::Chars => text.chars().map(|c| size(c, unit)).sum(),
    }
}

fn size(c: char, unit: Unit) -> usize {
    match unit {
        Unit::Utf16 => c.len_utf16(),
        Unit::Chars => 1,
        Unit::Bytes => c.len_utf8(),
    }
}

/// Bytes of the white space at the beginning that is not shown.
fn margin(text: &str) -> usize {
    let blank = text.len() - text.trim_start().len();
    let line = memrchr(b'\n', &text.as_bytes()[..blank]).map_or(0, |end| end + 1);
    if blank - line > MAX_INDENT { blank } else { line }
}

/// Bytes of the white space behind a cut that belong to the part before it.
fn hidden(blank: &str) -> usize {
    let line = memrchr(b'\n', blank.as_bytes()).map(|end| end + 1);
    line.filter(|line| blank.len() - line <= MAX_INDENT).unwrap_or(blank.len())
}

/// Whether a character is seen as one with the one before it, which ends a run of so many flag letters.
fn joins(last: char, c: char, flags: usize) -> bool {
    let extends = matches!(c,
        '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}'
        | '\u{900}'..='\u{903}' | '\u{93a}'..='\u{94f}' | '\u{e31}' | '\u{e34}'..='\u{e3a}'
        | '\u{e47}'..='\u{e4e}' | '\u{1160}'..='\u{11ff}' | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{200d}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}'
        | '\u{e0100}'..='\u{e01ef}');
    extends || last == '\u{200d}' || flags % 2 == 1 && is_flag(c)
}

fn is_flag(c: char) -> bool {
    matches!(c, '\u{1f1e6}'..='\u{1f1ff}')
}

/// Where a text may be cut, the latest place of each kind.
#[derive(Default)]
struct Places {
    paragraph: Option<usize>,
    line: Option<usize>,
    word: Option<usize>,
    character: Option<usize>,
    any: Option<usize>,
}

/// Where the part that begins here ends.
fn next_cut(text: &str, from: &Cursor, max_len: u32, unit: Unit) -> usize {
    let max = usize::try_from(max_len).unwrap_or(usize::MAX).clamp(MIN_PIECE, MAX_PIECE);
    let start = from.at + margin(&text[from.at..]);
    let mut used = from.fence.map_or(0, |fence| length(fence.opening(text), unit) + 1);
    let (mut cursor, mut places) = (from.to(text, start), Places::default());
    let (mut last, mut flags) = (' ', 0);
    for (offset, c) in text[start..].char_indices() {
        let at = start + offset;
        // Inside of a word a place counts only near the end.
        if !last.is_whitespace() && (c.is_whitespace() || used + MIN_PIECE > max) {
            let joined = joins(last, c, flags);
            places.add(text, &mut cursor, at, (c, joined), (used, max));
        }
        used += size(c, unit);
        flags = if is_flag(c) { flags + 1 } else { 0 };
        last = c;
        if used > max {
            let Places { paragraph, line, word, character, any } = places;
            let end = paragraph.or(line).or(word).or(character).or(any);
            return end.unwrap_or(at + if offset == 0 { c.len_utf8() } else { 0 });
        }
    }
    text.len()
}

impl Places {
    /// Adds the place at `at`, behind something visible and in front of a character that is `joined` to it or
    /// not.
    fn add(
        &mut self,
        text: &str,
        cursor: &mut Cursor,
        at: usize,
        (c, joined): (char, bool),
        (used, max): (usize, usize),
    ) {
        cursor.advance(text, at);
        let blank = if c.is_whitespace() { &text[at..] } else { "" };
        let blank = &blank[..blank.len() - blank.trim_start().len()];
        let end = at + if at + blank.len() == text.len() { blank.len() } else { hidden(blank) };
        let then = cursor.to(text, end);
        if used + then.closing() > max {
            return;
        }
        self.any = Some(end);
        let in_mark = then.line == cursor.line
            && at - cursor.line <= MAX_OPENING
            && Fence::new(text, cursor.line, at).is_some();
        let opens = cursor.fence.is_none() && then.fence.is_some();
        if in_mark || opens || then.is_at_end_of_block(text) {
            return;
        }
        if blank.is_empty() {
            self.character = if joined { self.character } else { Some(end) };
            return;
        }
        self.word = Some(end);
        let lines = blank.bytes().filter(|byte| *byte == b'\n').count();
        if lines > 0 && used >= max / 2 {
            self.line = Some(end);
        }
        if lines > 1 && used >= max / 2 {
            self.paragraph = Some(end);
        }
    }
}

#[cfg(test)]
mod tests;
