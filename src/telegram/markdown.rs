//! Markdown as agents write it, as the text and the entities of a Telegram message. Pure.
//!
//! Blocks are read line by line, then the marks inside of each. A mark that is understood is dropped, and what
//! it covers gets a style; all else stays as it is, so that no text is lost, whatever is broken or cut off.
//! Where CommonMark and the files, globs and formulas that agents write without code marks disagree, the latter
//! stay text: `2*3*4`, `**/*.rs`, `__init__.py`.
//!
//! Time is linear in the text: marks that wait for their end are at most `MAX_OPEN`.

mod inline;
#[cfg(any(test, fuzzing))]
pub mod tests;
mod write;

use serde_json::{Value, json};

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

/// Telegram ignores what is behind the first 100 of a message.
const MAX_ENTITIES: usize = 100;

/// Characters of the name of a language; what is longer is none.
const MAX_LANGUAGE: usize = 32;

// What becomes of a character.
const BOLD: u8 = 1;
const ITALIC: u8 = 2;
const STRIKETHROUGH: u8 = 4;
const CODE: u8 = 8;
const PRE: u8 = 16;
const LINK: u8 = 32;
const QUOTE: u8 = 64;
/// It is a mark, and not shown.
const DROPPED: u8 = 128;

/// A text, and the style of each of its characters.
struct Page {
    text: Vec<char>,
    style: Vec<u8>,
    /// The addresses of links and the languages of blocks of code, by where these begin, in order.
    labels: Vec<(usize, String)>,
    /// Where the one that is not at its end yet begins.
    paragraph: Option<usize>,
}

/// A block of code that is not at its end yet.
struct Fence {
    mark: char,
    count: usize,
    language: String,
    /// Its lines, without what quotes them.
    lines: Vec<(usize, usize)>,
}

/// The text as it is shown, never empty and never longer than its source (but for an empty one, and for tabs in code,
/// which fit into a message), and its entities: in order, nested, at most 100, none with white space at its ends that
/// Telegram would leave out. Control characters are left out.
pub fn render(markdown: &str) -> (String, Vec<Entity>) {
    let mut text = Vec::new();
    for c in markdown.chars() {
        if !c.is_control() || matches!(c, '\n' | '\t') {
            text.push(c);
        }
    }
    let style = vec![0; text.len()];
    let mut page = Page { text, style, labels: Vec::new(), paragraph: None };
    page.blocks();
    page.write()
}

/// As `entities` of a call.
pub fn to_json(entities: &[Entity]) -> Value {
    let mut list = Vec::new();
    for Entity { kind, offset, length } in entities {
        let (name, more) = match kind {
            Kind::Bold => ("bold", None),
            Kind::Italic => ("italic", None),
            Kind::Strikethrough => ("strikethrough", None),
            Kind::Code => ("code", None),
            Kind::Pre(language) => ("pre", Some(("language", language))),
            Kind::Link(url) => ("text_link", Some(("url", url))),
            Kind::Quote => ("blockquote", None),
        };
        let mut entity = json!({ "type": name, "offset": offset, "length": length });
        if let Some((key, value)) = more.filter(|(_, value)| !value.is_empty()) {
            entity[key] = value.as_str().into();
        }
        list.push(entity);
    }
    Value::Array(list)
}

impl Page {
    fn set(&mut self, from: usize, to: usize, style: u8) {
        for it in &mut self.style[from..to] {
            *it |= style;
        }
    }

    /// Whether these characters are there, in capitals or not.
    fn has(&self, at: usize, what: &str) -> bool {
        let mut rest = self.text.iter().skip(at);
        what.chars().all(|c| rest.next().is_some_and(|it| it.to_ascii_lowercase() == c))
    }

    /// With the end of its line.
    fn drop_line(&mut self, from: usize, end: usize) {
        self.set(from, (end + 1).min(self.text.len()), DROPPED);
    }

    fn line_end(&self, from: usize) -> usize {
        let line = self.text[from..].iter().position(|c| *c == '\n');
        line.map_or(self.text.len(), |length| from + length)
    }

    /// The first that is no white space, in a line.
    fn skip_blank(&self, from: usize, end: usize) -> usize {
        let blank = self.text[from..end].iter().position(|c| !c.is_whitespace());
        blank.map_or(end, |length| from + length)
    }

    /// How many of the same character follow.
    fn run(&self, from: usize, end: usize) -> usize {
        let line = &self.text[from..end];
        line.iter().position(|c| *c != line[0]).unwrap_or(line.len())
    }

    fn blocks(&mut self) {
        let (mut at, mut fence, mut quoted) = (0, None::<Fence>, false);
        while at < self.text.len() {
            let mut end = self.line_end(at);
            let was_quoted = quoted;
            let content = self.quoted(at, end).filter(|_| was_quoted || fence.is_none());
            quoted = content.is_some();
            let from = content.unwrap_or(at);
            if quoted != was_quoted {
                self.end_paragraph(at);
                self.end_fence(fence.take());
            }
            if quoted {
                self.set(at, from, DROPPED);
                self.set(at - usize::from(was_quoted), end, QUOTE);
            }
            let first = self.skip_blank(from, end);
            if let Some(open) = &mut fence {
                if self.ends(open, first, end) {
                    self.drop_line(from, end);
                    self.end_fence(fence.take());
                } else {
                    open.lines.push((from, end));
                }
            } else if first == end || self.rule(first, end) {
                self.end_paragraph(at);
            } else if let Some(opened) = self.fence(from, first, end) {
                self.end_paragraph(at);
                if opened.lines.is_empty() {
                    self.drop_line(from, end);
                }
                fence = Some(opened);
            } else if let Some(last) = self.table(first, end).filter(|_| !quoted) {
                self.end_paragraph(at);
                self.block_of_code(at, last, String::new());
                end = last;
            } else if let Some(item) = self.item(first, end) {
                self.end_paragraph(at);
                fence = self.fence(item, item, end);
                self.paragraph = Some(item).filter(|_| fence.is_none());
            } else if !self.heading(at, first, end) && self.paragraph.is_none() {
                self.paragraph = Some(first);
            }
            at = end + 1;
        }
        self.end_paragraph(at);
        self.end_fence(fence);
    }

    /// `next`: where the line behind it begins.
    fn end_paragraph(&mut self, next: usize) {
        if let Some(from) = self.paragraph.take() {
            self.inline(from, next - 1);
        }
    }

    /// Where the content of a quoted line begins. `>>>` is a prompt, `>=` of a formula.
    fn quoted(&self, at: usize, end: usize) -> Option<usize> {
        let first = self.skip_blank(at, end);
        let is_quote = first < at + 4
            && self.has(first, ">")
            && !self.has(first, ">=")
            && !self.has(first, ">>>");
        is_quote.then(|| first + 1 + usize::from(self.has(first + 1, " ")))
    }

    fn heading(&mut self, at: usize, first: usize, end: usize) -> bool {
        let count = self.run(first, end);
        let from = self.skip_blank(first + count, end);
        if self.text[first] != '#' || count > 6 || from == first + count || from == end {
            return false;
        }
        // Marks at its end are marks behind a space.
        let mut to = end;
        while self.text[to - 1].is_whitespace() {
            to -= 1;
        }
        let mut unmarked = to;
        while unmarked > from && self.text[unmarked - 1] == '#' {
            unmarked -= 1;
        }
        if unmarked > from && self.text[unmarked - 1].is_whitespace() {
            to = unmarked - 1;
        }
        self.end_paragraph(at);
        self.set(first, from, DROPPED);
        self.set(to, end, DROPPED);
        self.set(from, to, BOLD);
        self.inline(from, to);
        true
    }

    /// A line across.
    fn rule(&mut self, first: usize, end: usize) -> bool {
        let (mark, mut marks) = (self.text[first], 0);
        for c in &self.text[first..end] {
            if *c != mark && !c.is_whitespace() {
                return false;
            }
            marks += usize::from(*c == mark);
        }
        if marks < 3 || !matches!(mark, '-' | '*' | '_') {
            return false;
        }
        self.text[first..first + 3].fill('—');
        self.set(first + 3, end, DROPPED);
        true
    }

    /// Behind what makes a line an item of a list.
    fn item(&mut self, first: usize, end: usize) -> Option<usize> {
        let mut mark = first;
        while mark < end && mark < first + 9 && self.text[mark].is_ascii_digit() {
            mark += 1;
        }
        let is_mark = mark < end
            && if mark == first {
                matches!(self.text[mark], '-' | '*')
            } else {
                matches!(self.text[mark], '.' | ')')
            };
        let from = self.skip_blank((mark + 1).min(end), end);
        if !is_mark || from == mark + 1 || from == end {
            return None;
        }
        if mark > first {
            return Some(from);
        }
        let open = self.has(from, "[ ] ");
        if open || self.has(from, "[x] ") {
            self.text[first] = if open { '☐' } else { '☑' };
            self.set(first + 1, from + 3, DROPPED);
            return Some(from + 4);
        }
        self.text[first] = '•';
        Some(from)
    }

    /// The end of the table that begins in this line: the line behind it has nothing but `-`, `:` and `|`.
    fn table(&self, first: usize, end: usize) -> Option<usize> {
        let is_row = |from: usize, to: usize| self.text[from..to].contains(&'|');
        let next = end + 1;
        if !is_row(first, end) || next >= self.text.len() {
            return None;
        }
        let mut last = self.line_end(next);
        let below = &self.text[next..last];
        let is_table = is_row(next, last)
            && below.contains(&'-')
            && below.iter().all(|c| matches!(c, '-' | ':' | '|' | ' ' | '\t'));
        while is_table && last + 1 < self.text.len() {
            let row = self.line_end(last + 1);
            if !is_row(last + 1, row) {
                break;
            }
            last = row;
        }
        is_table.then_some(last)
    }

    /// What opens a block of code: dropped, but for what follows the name of the language, which becomes the
    /// first line of it.
    fn fence(&mut self, from: usize, first: usize, end: usize) -> Option<Fence> {
        let mark = *self.text[first..end].first()?;
        let count = self.run(first, end);
        let info = self.skip_blank(first + count, end);
        let line = &self.text[info..end];
        if !matches!(mark, '`' | '~') || count < 3 || line.contains(&mark) {
            return None;
        }
        let mut rest = info;
        let mut language = String::new();
        let word = line.iter().position(|c| c.is_whitespace()).unwrap_or(line.len());
        if word <= MAX_LANGUAGE {
            language.extend(&line[..word]);
            rest = self.skip_blank(info + word, end);
        }
        self.set(from, rest, DROPPED);
        let lines = if rest < end { vec![(rest, end)] } else { Vec::new() };
        Some(Fence { mark, count, language, lines })
    }

    fn ends(&self, fence: &Fence, first: usize, end: usize) -> bool {
        if first == end || self.text[first] != fence.mark {
            return false;
        }
        let count = self.run(first, end);
        count >= fence.count && self.skip_blank(first + count, end) == end
    }

    /// Blank lines at its ends and what indents all of its lines are not shown.
    fn end_fence(&mut self, fence: Option<Fence>) {
        let Some(Fence { language, lines, .. }) = fence else { return };
        let (mut indent, mut shown) = (usize::MAX, None);
        for (from, end) in &lines {
            let first = self.skip_blank(*from, *end);
            if first < *end {
                indent = indent.min(first - from);
                shown = Some((shown.map_or(*from, |(start, _)| start), *end));
            }
        }
        for (from, end) in lines {
            match shown {
                Some((start, last)) if start <= from && end <= last => {
                    self.set(from, end.min(from + indent), DROPPED);
                }
                _ => self.drop_line(from, end),
            }
        }
        if let Some((start, end)) = shown {
            self.block_of_code(start + indent, end, language);
        }
    }

    fn block_of_code(&mut self, from: usize, end: usize, language: String) {
        self.set(from, end, PRE);
        self.labels.push((from, language));
    }
}
