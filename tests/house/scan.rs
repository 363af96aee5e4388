//! Just enough of Rust's grammar for the rules: source text with comments and literals blanked,
//! braces matched, functions, matches and imports found. It need not be a parser: rustfmt has
//! laid the text out, and the compiler has accepted it.

/// One file of ours.
pub struct Source {
    /// Relative to the top of the repository.
    pub path: String,
    /// As it is written.
    pub text: String,
    /// The same, byte for byte as long, with comments and the insides of literals blanked.
    pub code: String,
    /// The byte at which its unit tests begin (`#[cfg(test)]` before a `mod`), or the end.
    pub tests_at: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let tests_at = tests_at(&code);
        Source { path: path.to_owned(), text: text.to_owned(), code, tests_at }
    }

    /// The code outside of unit tests.
    pub fn production(&self) -> &str {
        &self.code[..self.tests_at]
    }

    /// How many lines there are outside of unit tests.
    pub fn lines(&self) -> usize {
        self.text[..self.tests_at].lines().count()
    }

    /// How many of them hold code: no blank line, no comment, no line of a long text.
    pub fn lines_of_code(&self) -> usize {
        let lines = self.production().lines();
        lines.filter(|line| !line.trim().is_empty()).count()
    }

    /// The number, from 1, of the line with this byte.
    pub fn line_at(&self, offset: usize) -> usize {
        line_at(&self.code, offset)
    }

    /// `path:line`, for messages.
    pub fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.path, self.line_at(offset))
    }

    /// Where each line of the code that contains `word` as a whole word has it.
    pub fn uses<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }
}

/// The number, from 1, of the line with this byte.
pub fn line_at(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Where `word` stands in `code` and is not part of a longer name.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let named = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).and_then(|at| code.as_bytes().get(at));
        let after = code.as_bytes().get(at + word.len());
        let goes_on = named(after) && named(word.as_bytes().last());
        let went_before = named(before) && named(word.as_bytes().first());
        !goes_on && !went_before
    })
}

/// Blanks comments and the insides of string and character literals, and keeps every line break.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (inside, end) = if rest.starts_with(b"//") {
            let length = rest.iter().position(|&b| b == b'\n');
            (at, at + length.unwrap_or(rest.len()))
        } else if rest.starts_with(b"/*") {
            (at, at + block_comment(rest))
        } else if let Some(length) = raw_string(rest).filter(|_| !in_name(bytes, at)) {
            (at + 1, at + length)
        } else if rest[0] == b'"' {
            (at + 1, at + quoted(rest, b'"') - 1)
        } else if let Some(length) = character(rest) {
            (at + 1, at + length - 1)
        } else {
            at += 1;
            continue;
        };
        for byte in &mut out[inside..end.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end + usize::from(rest[0] == b'"' || rest[0] == b'\'');
    }
    // Only whole tokens were replaced, each byte by a space.
    String::from_utf8(out).expect("still UTF-8")
}

fn in_name(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of the raw string (`r"…"`, `br#"…"#`) that begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = 1 + usize::from(rest.starts_with(b"b") || rest.starts_with(b"c"));
    if rest.get(prefix - 1) != Some(&b'r') {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = prefix + hashes + 1;
    let length = rest[body..].windows(close.len()).position(|w| w == close)?;
    Some(body + length + close.len())
}

/// The length of what begins here with a quotation mark, its closing one included.
fn quoted(rest: &[u8], mark: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != mark {
        at += 1 + usize::from(rest[at] == b'\\');
    }
    at + 1
}

/// The length of the character literal that begins here; a lifetime is none.
fn character(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    let character = std::str::from_utf8(&rest[1..rest.len().min(5)])
        .or_else(|error| std::str::from_utf8(&rest[1..=error.valid_up_to()]))
        .ok()?
        .chars()
        .next()?;
    let close = 1 + character.len_utf8();
    (rest.get(close) == Some(&b'\'')).then_some(close + 1)
}

/// Where the unit tests of a file begin: `#[cfg(test)]` on a `mod` at the end of the file.
fn tests_at(code: &str) -> usize {
    code.match_indices("#[cfg(test)]")
        .map(|(at, attribute)| (at, &code[at + attribute.len()..]))
        .find(|(_, rest)| {
            rest.lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        })
        .map_or(code.len(), |(at, _)| at)
}

/// The byte behind the brace, bracket or parenthesis that closes the one at `open`.
pub fn close_of(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The brace that opens a body after `from`, if one comes before a `;` outside of brackets.
fn body_after(code: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(byte) = code.as_bytes().get(at) {
        match byte {
            b'{' => return Some(at),
            b';' => return None,
            b'(' | b'[' => at = close_of(code, at),
            _ => at += 1,
        }
    }
    None
}

/// Where a `match` over a tuple has an arm that takes everything (`_` or `(_, _)`), even with a guard.
pub fn wildcard_arms(code: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for at in words(code, "match") {
        if !code[at + 5..].trim_start().starts_with('(') {
            continue;
        }
        let Some(open) = body_after(code, at) else {
            continue;
        };
        let body = &code[open + 1..close_of(code, open) - 1];
        found.extend(arms(body).filter_map(|(offset, pattern)| {
            let pattern = pattern.split(" if ").next().unwrap_or(pattern);
            let bare: String = pattern.chars().filter(|c| !c.is_whitespace()).collect();
            let wild = bare == "_" || bare.trim_matches(['(', ')', ',', '_']).is_empty();
            wild.then_some(open + 1 + offset)
        }));
    }
    found
}

/// The arms of a match's body: where each begins, and its pattern with its guard.
fn arms(body: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += body[at..].len() - body[at..].trim_start_matches([' ', '\n', ',']).len();
        let start = at;
        while !body[at..].starts_with("=>") {
            match body.as_bytes().get(at)? {
                b'{' | b'(' | b'[' => at = close_of(body, at),
                _ => at += body[at..].chars().next()?.len_utf8(),
            }
        }
        let pattern = body[start..at].trim_end();
        at += 2;
        at += body[at..].len() - body[at..].trim_start().len();
        // A block ends the arm; any other expression goes on to a comma.
        if body.as_bytes().get(at) == Some(&b'{') {
            at = close_of(body, at);
        }
        while let Some(byte) = body.as_bytes().get(at) {
            match byte {
                b',' => break,
                b'{' | b'(' | b'[' => at = close_of(body, at),
                b'\n' if body[..at].trim_end().ends_with('}') => break,
                _ => at += 1,
            }
        }
        Some((start, pattern))
    })
}

/// The top-level modules of the crate that a file names (`crate::x`, in groups too, and `super::`
/// where it leads to the top), with the place of each.
pub fn imports(source: &Source) -> Vec<(String, usize)> {
    let code = source.production();
    let mut found = Vec::new();
    for at in words(code, "crate") {
        if let Some(rest) = code[at..].strip_prefix("crate::") {
            found.extend(heads(rest).into_iter().map(|name| (name, at)));
        }
    }
    let depth = depth(&source.path);
    let chain = "super::".repeat(depth);
    for (at, _) in code.match_indices(&chain).filter(|_| depth > 0) {
        let rest = &code[at + chain.len()..];
        if !code[..at].ends_with("super::") && !rest.starts_with("super::") {
            found.extend(heads(rest).into_iter().map(|name| (name, at)));
        }
    }
    // Types and functions at the root are none of ours; modules are in lower case.
    found.retain(|(name, _)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

/// What a file outside of its tests imports: paths from the root of the crate, such as `http::sse::Event`.
/// A re-export (`pub use`) is none: it defines nothing.
pub fn paths(source: &Source) -> Vec<String> {
    let own = module(&source.path);
    let code = source.production();
    let mut found = Vec::new();
    for at in words(code, "use") {
        let line = code[..at].rfind('\n').map_or(0, |at| at + 1);
        let end = code[at..].find(';').map_or(code.len(), |length| at + length);
        if code[line..at].trim().is_empty() {
            found.extend(leaves(code[at + 3..end].trim()));
        }
    }
    for start in ["crate::", "super::", "self::"] {
        let inline = words(code, start).filter(|at| !is_in_use(code, *at));
        found.extend(inline.map(|at| {
            let name = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
            code[at..].split(name).next().unwrap_or_default().trim_end_matches(':').to_owned()
        }));
    }
    found.iter().map(|path| absolute(&own, path)).collect()
}

/// Whether this place is within a `use` declaration.
fn is_in_use(code: &str, at: usize) -> bool {
    let from = code[..at].rfind([';', '}']).map_or(0, |at| at + 1);
    words(&code[from..at], "use").next().is_some()
}

/// The module that a file is: `http::sse`; empty for the root.
pub fn module(path: &str) -> String {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod").replace('/', "::");
    if path == "lib" || path == "main" { String::new() } else { path }
}

/// A path as the root of the crate sees it, from how the module `own` writes it.
fn absolute(own: &str, path: &str) -> String {
    let mut base: Vec<&str> = own.split("::").filter(|name| !name.is_empty()).collect();
    let mut names: Vec<&str> = path.split("::").collect();
    match names[0] {
        "crate" => base.clear(),
        "super" => {
            while names.first() == Some(&"super") {
                base.pop();
                names.remove(0);
            }
            return [base, names].concat().join("::");
        }
        "self" => {}
        // A child module, or another crate.
        _ => return [base, names].concat().join("::"),
    }
    [base, names[1..].to_vec()].concat().join("::")
}

/// The paths of a use tree: of `a::{b, c::{d, e}}` a::b, a::c::d and a::c::e.
fn leaves(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![path.trim().to_owned()];
    };
    let inside = &tree[open + 1..close_of(tree, open) - 1];
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in inside.bytes().chain([b',']).enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                let part = inside[start..at].trim();
                let paths = if part.is_empty() { Vec::new() } else { leaves(part) };
                found.extend(paths.iter().map(|path| format!("{}{path}", tree[..open].trim())));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// How many `super` lead from a file's module to the root of the crate.
fn depth(path: &str) -> usize {
    let parts: Vec<&str> = path.trim_start_matches("src/").split('/').collect();
    match parts.last() {
        Some(&"main.rs" | &"lib.rs") => 0,
        Some(&"mod.rs") => parts.len() - 1,
        _ => parts.len(),
    }
}

/// The first names of a use tree: of `a::b` it is a, of `{a::{b, c}, d}` a and d.
fn heads(tree: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    if !tree.starts_with('{') {
        return vec![name(tree)];
    }
    let inside = &tree[1..close_of(tree, 0) - 1];
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                names.push(name(&inside[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.push(name(&inside[start..]));
    names.retain(|name| !name.is_empty());
    names
}
