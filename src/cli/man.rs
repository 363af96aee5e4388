//! `man` and `install --man`: the manual pages, which are part of the program.

use std::io::IsTerminal;
use std::path::{Path, absolute};

use miniz_oxide::inflate::decompress_to_vec;

use super::output::say;
use crate::exit::{Exit, Failure};
use crate::subprocess::{Program, find_program};
use crate::sys::{fd, fs as files, gather::Gather};

/// Name and section of each page, the first one first.
const PAGES: [(&str, &str); 7] = [
    ("hermes-gateway", "1"),
    ("hermes-gateway.toml", "5"),
    ("hermes-gateway-agent", "7"),
    ("hermes-gateway-api", "7"),
    ("hermes-gateway-channel", "7"),
    ("hermes-gateway-operation", "7"),
    ("hermes-gateway-telegram", "7"),
];

/// Their mdoc(7) sources, as src/build.rs has compressed them (RFC 1951), a NUL byte behind each.
#[cfg(not(fuzzing))]
const COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pages"));
/// The fuzzer's crate has no build script.
#[cfg(fuzzing)]
const COMPRESSED: &[u8] = &[];

/// Each page and its source.
fn sources() -> impl Iterator<Item = ((&'static str, &'static str), String)> {
    // What the build has compressed itself is whole.
    let all = decompress_to_vec(COMPRESSED).unwrap_or_default();
    let texts = String::from_utf8(all).unwrap_or_default();
    PAGES.into_iter().zip(texts.split('\0').map(str::to_owned).gather())
}

/// What a page is called for short: `api`; nothing for the first one.
fn short(name: &str) -> &str {
    name.strip_prefix("hermes-gateway").unwrap_or(name).trim_start_matches(['.', '-'])
}

/// The place of the page that a word names: `api`, `hermes-gateway-api`, either with `.7` or `(7)`; `1` or `5`.
///
/// # Errors
/// The list of pages.
pub fn page(word: &str) -> Result<usize, String> {
    let named = |(name, section): &(&str, &str)| {
        let bare = [format!(".{section}"), format!("({section})")]
            .iter()
            .find_map(|end| word.strip_suffix(end.as_str()))
            .unwrap_or(word);
        let is_name = !bare.is_empty() && (bare == *name || bare == short(name));
        // There are several pages in section 7.
        is_name || (word == *section && word != "7")
    };
    PAGES.iter().position(named).ok_or_else(|| {
        let all = PAGES.map(|(name, section)| format!("{name}({section})")).join(", ");
        format!("there is no page {word:?}; the pages are {all}")
    })
}

/// Shows a page: on a terminal by man(1) or mandoc(1), which replace this process; else its source.
///
/// # Errors
/// Exit status 1 where it cannot be written.
pub fn show(word: Option<&str>) -> Result<Exit, Failure> {
    let place = page(word.unwrap_or("1")).map_err(|why| Failure::new(Exit::Usage, why))?;
    let text = sources().nth(place).map(|(_, text)| text).unwrap_or_default();
    if fd::STDOUT.is_terminal() {
        // Every man takes a path; only that of man-db takes `-l -`.
        for (name, argument) in [("man", "/dev/stdin"), ("mandoc", "-a")] {
            let Ok(program) = find_program(name) else { continue };
            let program = Program::new(program).args([argument]);
            let e = fd::give_stdin(text.as_bytes()).map_or_else(|e| e, |()| program.exec());
            eprintln!("hermes-gateway: cannot run {name}: {e}");
        }
    }
    // Not as it was written: a shell takes the brackets of `api(7)` for its own.
    let command = format!("hermes-gateway man {}", short(PAGES[place].0));
    let command = command.trim_end();
    eprintln!(
        "hermes-gateway: this is the source of the page (mdoc); `{command} | man -l -` or \
         `{command} | mandoc` formats it"
    );
    say(&text)
}

/// `install --man`: writes the pages below a directory, and nothing else. Says what it wrote.
///
/// # Errors
/// Exit status 1 with the file that cannot be written.
pub fn install(dir: &str) -> Result<Exit, Failure> {
    let dir = absolute(dir).map_err(|e| Failure::with("use", Path::new(dir), &e))?;
    files::share_new_files();
    let mut out = String::new();
    for ((name, section), text) in sources() {
        let dir = dir.join(format!("man{section}"));
        let file = dir.join(format!("{name}.{section}"));
        files::make_dirs(&dir, 0o755)
            .and_then(|()| files::replace(&file, text.as_bytes(), 0o644))
            .map_err(|e| Failure::with("write", &file, &e))?;
        out += &format!("wrote {}\n", file.display());
    }
    say(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_by_each_of_its_names() {
        for (n, words) in [
            (0, "1 hermes-gateway hermes-gateway.1 hermes-gateway(1)"),
            (1, "5 toml toml.5 toml(5) hermes-gateway.toml hermes-gateway.toml.5"),
            (1, "hermes-gateway.toml(5)"),
            (2, "agent agent.7 hermes-gateway-agent hermes-gateway-agent(7)"),
            (3, "api hermes-gateway-api.7"),
            (4, "channel hermes-gateway-channel(7)"),
            (5, "operation hermes-gateway-operation(7)"),
            (6, "telegram hermes-gateway-telegram(7)"),
        ] {
            for word in words.split(' ') {
                assert_eq!(page(word), Ok(n), "{word}");
            }
        }
        for word in ["", "7", "ap", ".1", "(1)", "api.1", "hermes-gateway.", "hermes-gateway.7"] {
            let error = page(word).unwrap_err();
            assert!(error.contains("hermes-gateway.toml(5)"), "{word}: {error}");
        }
    }

    #[test]
    fn each_page_says_its_own_name_and_section() {
        assert_eq!(sources().count(), PAGES.len());
        for ((name, section), text) in sources() {
            let title = format!(".Dt {} {section}\n", name.to_uppercase());
            assert!(text.contains(&title) && text.contains(&format!(".Nm {name}\n")), "{name}");
        }
    }
}
