//! `--help`: the commands, the options that each takes, and what it does in a screen at most.

use crate::config;
use crate::sys::gather::Gather;

/// The overview, then each command: a line `== NAME OPTION...` and its page. An option is written as
/// `-s,--long=VALUE`; the value `N` or `SECONDS` is a number.
const TEXT: &str = include_str!("help.txt");

/// The commands: name, options, page.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TEXT.split("== ").skip(1).filter_map(|command| {
        let (head, page) = command.split_once('\n')?;
        let (name, options) = head.split_once(' ').unwrap_or((head, ""));
        Some((name, options, page))
    })
}

/// The command that a word names; or that there is none, and which one it may have meant.
pub fn command(word: &str) -> Result<&'static str, String> {
    let names: Vec<_> = commands().map(|(name, ..)| name).gather();
    let unknown = || format!("there is no command {word:?}{}", config::hint(word, &names));
    names.iter().copied().find(|name| *name == word).ok_or_else(unknown)
}

/// The options of a command: short name, long name, value.
pub fn options(
    command: &str,
) -> impl Iterator<Item = (Option<&'static str>, &'static str, Option<&'static str>)> {
    let own = commands().find(|(name, ..)| *name == command).map(|(_, options, _)| options);
    own.unwrap_or_default().split_whitespace().map(|option| {
        let (names, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
        let (short, long) = names.split_once(',').map_or((None, names), |(s, l)| (Some(s), l));
        (short, long, value)
    })
}

/// Whether any command takes this option.
pub fn is_known(option: &str) -> bool {
    let mut all = commands().flat_map(|(name, ..)| options(name));
    all.any(|(short, long, _)| short == Some(option) || long == option)
}

/// Suggests the option that a mistyped one may have meant: one of the command, or of every command.
pub fn suggest_option(word: &str, command: &str) -> String {
    let all = ["--profile", "--config", "--set", "--help", "--version"];
    config::hint(word, &options(command).map(|(_, long, _)| long).chain(all).gather())
}

/// A command's page, or the overview.
pub fn page(topic: Option<&str>) -> &'static str {
    let own = commands().find(|(name, ..)| Some(*name) == topic).map(|(.., page)| page);
    own.or(TEXT.split("== ").next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_fits_a_screen() {
        let overview = page(None);
        assert_eq!(commands().count(), 21);
        for (name, _, page) in commands().chain([("run", "", overview)]) {
            // The gateway starts that one itself.
            let listed = overview.contains(&format!("\n  {name} "));
            assert!(listed || name == "channel-adapter", "{name}");
            assert!(page.lines().count() <= 24, "{page}");
            let wide = page.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None);
        }
    }

    #[test]
    fn every_page_explains_each_option() {
        for (name, _, page) in commands() {
            // Those of every command are in the overview.
            for (short, long, value) in options(name).filter(|(_, long, _)| !page_is_overview(long))
            {
                let value = value.map(|value| format!(" {value}")).unwrap_or_default();
                let both = short.map(|short| format!("{short}, {long}{value}"));
                let written = both.unwrap_or_else(|| format!("{long}{value}"));
                assert!(page.contains(&written), "{name}: {written}");
            }
        }
    }

    fn page_is_overview(long: &str) -> bool {
        ["--config", "--set"].contains(&long)
    }
}
