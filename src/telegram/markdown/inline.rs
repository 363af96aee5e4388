//! Marks inside of a paragraph, a heading or an item of a list.

use super::{BOLD, CODE, DROPPED, ITALIC, LINK, Page, QUOTE, STRIKETHROUGH};

/// Marks that wait for their end; with more, the first one stays text.
const MAX_OPEN: usize = 16;

/// Characters of a link's address: Telegram takes no longer ones.
const MAX_URL: usize = 2048;

/// Parentheses in each other in an address; more are not a link's, and would be looked through for every link.
const MAX_DEPTH: usize = 4;

/// Of those that make a mark of code; more stay text.
const MAX_BACKTICKS: usize = 8;

/// What may stand in front of `*…*` and `_…_`, beside white space and what is not ASCII.
const BEFORE: &str = "([{\"'|,;:!?>*_~-";

/// A mark that waits for its end, or `[`.
struct Open {
    mark: char,
    at: usize,
    count: usize,
}

impl Page {
    pub(super) fn inline(&mut self, from: usize, end: usize) {
        let mut open = Vec::new();
        let last = self.backticks(from, end);
        let mut at = from;
        while at < end {
            at = match self.text[at] {
                '\\' => self.escape(at, end),
                '`' => self.code(at, end, &last),
                '*' | '_' | '~' => self.emphasis(at, (from, end), &mut open),
                '[' => {
                    push(&mut open, Open { mark: '[', at, count: 1 });
                    at + 1
                }
                ']' => self.link(at, (from, end), &mut open),
                '<' => self.address_in_brackets(at, end),
                'h' | 'H' => self.address(at, (from, end)),
                _ => at + 1,
            };
        }
    }

    fn escape(&mut self, at: usize, end: usize) -> usize {
        let next = at + 1;
        if next < end && "\\`*_~[](){}<>#+-.!|\n".contains(self.text[next]) {
            self.set(at, next, DROPPED);
            return next + 1;
        }
        next
    }

    /// Where the last mark of each length is.
    fn backticks(&self, from: usize, end: usize) -> [usize; MAX_BACKTICKS + 1] {
        let (mut last, mut at) = ([0; MAX_BACKTICKS + 1], from);
        while at < end {
            let count = self.run(at, end);
            if self.text[at] == '`' && count <= MAX_BACKTICKS {
                last[count] = at;
            }
            at += count;
        }
        last
    }

    /// Up to the mark of the same length.
    fn code(&mut self, at: usize, end: usize, last: &[usize]) -> usize {
        let count = self.run(at, end);
        let from = at + count;
        if last.get(count).is_none_or(|last| *last < from) {
            return from;
        }
        let (mut to, mut length) = (from, 0);
        while to < end && length != count {
            to += length;
            length = if self.text[to] == '`' { self.run(to, end) } else { 0 };
            to += usize::from(length == 0);
        }
        // It is shown in one way only: in a quote the marks stay.
        let content = &self.text[from..to];
        if self.style[at] & QUOTE == 0 && content.iter().any(|c| !c.is_whitespace()) {
            // A space inside of each mark belongs to it.
            let pad = usize::from(content.starts_with(&[' ']) && content.ends_with(&[' ']));
            self.set(at, from + pad, DROPPED);
            self.set(to - pad, to + count, DROPPED);
            self.set(from + pad, to - pad, CODE);
        }
        to + count
    }

    fn emphasis(&mut self, at: usize, (from, end): (usize, usize), open: &mut Vec<Open>) -> usize {
        let (mark, count) = (self.text[at], self.run(at, end));
        let to = at + count;
        if count > 3 || mark == '~' && count != 2 {
            return to;
        }
        let before = if at > from { self.text[at - 1] } else { ' ' };
        let behind = if to < end { self.text[to] } else { ' ' };
        let (opens, closes) = flanks(mark, count, before, behind);
        let (mut left, mut rest) = (at, count);
        while closes && rest > 0 {
            let Some(index) = partner(open, mark, rest) else { break };
            let begin = open[index].at + open[index].count;
            let used = rest.min(open[index].count);
            if self.is_name(mark, used, begin, left) {
                open.truncate(index);
                break;
            }
            self.set(begin - used, begin, DROPPED);
            self.set(left, left + used, DROPPED);
            self.set(
                begin,
                left,
                match (mark, used) {
                    ('~', _) => STRIKETHROUGH,
                    (_, 1) => ITALIC,
                    (_, 2) => BOLD,
                    _ => BOLD | ITALIC,
                },
            );
            open[index].count -= used;
            left += used;
            rest -= used;
            open.truncate(index + usize::from(open[index].count > 0));
        }
        if opens && rest == count {
            push(open, Open { mark, at, count });
        }
        to
    }

    /// `__init__` and `**/target/**` are names, and no emphasis.
    fn is_name(&self, mark: char, used: usize, from: usize, to: usize) -> bool {
        let content = &self.text[from..to];
        match mark {
            '_' => used == 2 && content.iter().all(|c| c.is_ascii_alphanumeric() || *c == '_'),
            '*' => content.starts_with(&['/']) && content.ends_with(&['/']),
            _ => false,
        }
    }

    /// `[text](address)`, at its `]`.
    fn link(&mut self, at: usize, (from, end): (usize, usize), open: &mut Vec<Open>) -> usize {
        let Some(index) = open.iter().rposition(|it| it.mark == '[') else { return at + 1 };
        let begin = open[index].at;
        let shows = |at: usize| !self.text[at].is_whitespace() && self.style[at] & DROPPED == 0;
        let close = if self.has(at + 1, "(") { self.address_end(at + 2, end) } else { None };
        let Some(close) = close.filter(|_| (begin + 1..at).any(shows)) else {
            open.remove(index);
            return at + 1;
        };
        let mut url = String::new();
        url.extend(self.text[at + 2..close].iter().filter(|c| **c != '\\'));
        self.labels.push((begin + 1, url));
        // Of an image its description is shown.
        let image = begin > from && self.text[begin - 1] == '!';
        self.set(begin - usize::from(image), begin + 1, DROPPED);
        self.set(begin + 1, at, LINK);
        self.set(at, close + 1, DROPPED);
        // What began in it cannot end behind it, and no link is in another one.
        open.truncate(index);
        open.retain(|it| it.mark != '[');
        close + 1
    }

    /// Where the `)` behind an address is that Telegram takes: it makes a site of `mailto:`, and refuses a message
    /// for one of its links.
    fn address_end(&self, from: usize, end: usize) -> Option<usize> {
        if !self.is_address(from) || !self.is_site(from, end) {
            return None;
        }
        let mut depth = 0;
        for (at, c) in self.text[..end.min(from + MAX_URL)].iter().enumerate().skip(from) {
            match c {
                ')' if depth == 0 => return Some(at),
                ')' => depth -= 1,
                '(' if depth < MAX_DEPTH => depth += 1,
                '(' => return None,
                c if c.is_whitespace() => return None,
                _ => {}
            }
        }
        None
    }

    fn is_address(&self, at: usize) -> bool {
        self.has(at, "http://") || self.has(at, "https://")
    }

    /// Whether what is behind `//` is the name of a host with a dot in it, and a port if any.
    fn is_site(&self, at: usize, end: usize) -> bool {
        let line = &self.text[at..end];
        let from = line.iter().position(|c| *c == '/').map_or(line.len(), |slash| slash + 2);
        let (mut port, mut dots) = (None::<String>, 0);
        for c in line.iter().skip(from) {
            match (c, &mut port) {
                ('/' | '?' | '#' | ')', _) => break,
                (':', None) => port = Some(String::new()),
                (c, Some(digits)) if c.is_ascii_digit() => digits.push(*c),
                ('.', None) => dots += 1,
                (c, None) if c.is_alphanumeric() || matches!(c, '-' | '_') => {}
                _ => return false,
            }
        }
        dots > 0 && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    }

    /// `<https://…>`: Telegram finds the address by itself.
    fn address_in_brackets(&mut self, at: usize, end: usize) -> usize {
        if !self.is_address(at + 1) && !self.has(at + 1, "mailto:") {
            return at + 1;
        }
        let rest = &self.text[at + 1..end];
        let length = rest.iter().position(|c| matches!(c, '<' | '>') || c.is_whitespace());
        let to = at + 1 + length.unwrap_or(rest.len());
        if !self.has(to, ">") || to == end {
            return at + 1;
        }
        self.set(at, at + 1, DROPPED);
        self.set(to, to + 1, DROPPED);
        to + 1
    }

    /// An address in the text has no marks in it.
    fn address(&self, at: usize, (from, end): (usize, usize)) -> usize {
        if at > from && self.text[at - 1].is_alphanumeric() || !self.is_address(at) {
            return at + 1;
        }
        let mut to = at;
        while to < end
            && !self.text[to].is_whitespace()
            && !"<>\"`|[]\\".contains(self.text[to])
            && !self.has(to, "**")
            && !self.has(to, "~~")
        {
            to += 1;
        }
        while ".,:;!?'*_~)".contains(self.text[to - 1]) {
            to -= 1;
        }
        to
    }
}

fn push(open: &mut Vec<Open>, mark: Open) {
    if open.len() == MAX_OPEN {
        open.remove(0);
    }
    open.push(mark);
}

/// The nearest mark that one of so many characters ends: of the same length, or one of the two is of three.
fn partner(open: &[Open], mark: char, count: usize) -> Option<usize> {
    let same = open.iter().rposition(|it| it.mark == mark && it.count == count);
    let other = || open.iter().rposition(|it| it.mark == mark && (it.count == 3 || count == 3));
    same.or_else(other)
}

/// Whether a mark can begin and end something, by what is before and behind it.
fn flanks(mark: char, count: usize, before: char, behind: char) -> (bool, bool) {
    let (after_text, before_text) = (!before.is_whitespace(), !behind.is_whitespace());
    let apart = !after_text || !before.is_ascii() || BEFORE.contains(before);
    let (opens, closes) = match (mark, count) {
        ('~', _) => (true, true),
        ('_', _) => (
            apart && !before.is_alphanumeric(),
            !behind.is_alphanumeric() && !matches!(behind, '/' | '\\'),
        ),
        (_, 1) => (
            apart && !"./,;:)]}?|".contains(behind),
            !"([{/".contains(before) && !behind.is_ascii_alphanumeric(),
        ),
        // Of a path: `src/**` and `/**/`.
        _ => (
            !before.is_ascii_alphanumeric()
                && (!matches!(before, '/' | '\\') || behind.is_alphanumeric()),
            before != '/' || !behind.is_ascii_alphanumeric() && behind != '/',
        ),
    };
    (opens && before_text, closes && after_text)
}
