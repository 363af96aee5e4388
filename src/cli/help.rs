//! `--help`: what each command does, in a screen at most.

use crate::config;

/// The overview, then a page for each command below a line `== NAME`.
const TEXT: &str = include_str!("help.txt");

/// Names of the commands and their pages.
pub fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    TEXT.split("== ").skip(1).filter_map(|page| page.split_once('\n'))
}

/// The command that a word names.
pub fn topic(word: &str) -> Option<&'static str> {
    pages().map(|(name, _)| name).find(|name| *name == word)
}

/// The command that a mistyped word may have meant.
pub fn nearest(word: &str) -> Option<&'static str> {
    config::nearest(word, pages().map(|(name, _)| name))
}

/// The option that a mistyped one may have meant: one of the command's page, or of every command.
pub fn nearest_option(word: &str, topic: Option<&str>) -> Option<&'static str> {
    let words = page(topic).split(|c: char| c.is_whitespace() || "[](),".contains(c));
    let all = ["--profile", "--config", "--set", "--help", "--version"];
    let options = words.filter(|near| near.starts_with("--") && *near != "--" && *near != word);
    config::nearest(word, options.chain(all))
}

/// A command's page, or the overview.
pub fn page(topic: Option<&str>) -> &'static str {
    let own = pages().find(|(name, _)| Some(*name) == topic).map(|(_, page)| page);
    own.or(TEXT.split("== ").next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_fits_a_screen() {
        let overview = page(None);
        assert_eq!(pages().count(), 16);
        for (name, page) in pages().chain([("run", overview)]) {
            assert!(overview.contains(&format!("\n  {name} ")), "{name}");
            assert!(page.lines().count() <= 24, "{page}");
            let wide = page.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None);
        }
    }
}
