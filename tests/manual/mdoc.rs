//! Reads the manual pages: sections, items, what a macro marks, and blocks of commands.

use std::fs;
use std::path::Path;

/// Every page, in the order in which `hermes-gateway man` lists them.
pub const PAGES: [&str; 7] = [
    "hermes-gateway.1",
    "hermes-gateway.toml.5",
    "hermes-gateway-agent.7",
    "hermes-gateway-api.7",
    "hermes-gateway-channel.7",
    "hermes-gateway-operation.7",
    "hermes-gateway-telegram.7",
];

pub fn text(page: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/man").join(page);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Some lines of a page.
pub struct Lines(pub Vec<String>);

impl Lines {
    pub fn of(page: &str) -> Lines {
        Lines(text(page).lines().map(str::to_owned).collect())
    }

    /// The lines behind the one that is `begin`, up to one that begins with one of `ends`.
    #[track_caller]
    pub fn after(&self, begin: &str, ends: &[&str]) -> Lines {
        let mut lines = self.0.iter().skip_while(|line| *line != begin);
        assert!(lines.next().is_some(), "the page has no line {begin:?}");
        let inside = lines.take_while(|line| !ends.iter().any(|end| line.starts_with(end)));
        Lines(inside.cloned().collect())
    }

    #[track_caller]
    pub fn section(&self, title: &str) -> Lines {
        self.after(&format!(".Sh {title}"), &[".Sh "])
    }

    #[track_caller]
    pub fn subsection(&self, title: &str) -> Lines {
        self.after(&format!(".Ss {title}"), &[".Sh ", ".Ss "])
    }

    /// The titles of the subsections.
    pub fn subsections(&self) -> Vec<&str> {
        self.0.iter().filter_map(|line| line.strip_prefix(".Ss ")).collect()
    }

    /// What stands behind `.It `.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|line| line.strip_prefix(".It "))
    }

    /// The words that this macro marks, wherever a line calls it.
    pub fn marked(&self, name: &str) -> Vec<String> {
        let lines = self.0.iter().filter_map(|line| line.strip_prefix('.'));
        lines.flat_map(|line| marked(line, name)).collect()
    }
}

/// The words that this macro marks in a line of macros, its dot taken off.
pub fn marked(line: &str, name: &str) -> Vec<String> {
    let mut current = "";
    let mut found = Vec::new();
    for word in line.split_whitespace() {
        let mut letters = word.chars();
        let is_macro = word.len() == 2
            && letters.next().is_some_and(|c| c.is_ascii_uppercase())
            && letters.next().is_some_and(|c| c.is_ascii_lowercase());
        if is_macro {
            current = word;
        } else if current == name
            && !matches!(word, "," | "." | ";" | ":" | "|" | ")" | "(" | "...")
        {
            found.push(word.to_owned());
        }
    }
    found
}

/// The literal blocks of a page, as a reader sees them.
pub fn literal_blocks(page: &str) -> Vec<String> {
    let text = text(page);
    let blocks = text.split("\n.Bd -literal").skip(1);
    let inside = blocks.map(|block| {
        let (_, inside) = block.split_once('\n').expect("a block has lines");
        inside.split_once("\n.Ed").expect("a block ends").0
    });
    let marks =
        [("\\(aq", "'"), ("\\(dq", "\""), ("\\(ha", "^"), ("\\&", ""), ("\\-", "-"), ("\\e", "\\")];
    let shown =
        |text: &str| marks.iter().fold(text.to_owned(), |text, (of, to)| text.replace(of, to));
    inside.map(shown).collect()
}
