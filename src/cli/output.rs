//! What a command prints: its text, and columns for people.

use std::io::{self, ErrorKind, IsTerminal};

use crate::exit::{Exit, Failure};
use crate::sys::fd::{STDOUT, write_all};
use crate::sys::gather::Gather;

/// Prints the result of a command that did what it says.
pub fn say(text: &str) -> Result<Exit, Failure> {
    printed(write_all(STDOUT, text.as_bytes()))
}

/// The same; on a terminal lines that are too long for it are broken, and indented by so much.
pub fn say_wrapped(text: &str, indent: usize) -> Result<Exit, Failure> {
    if STDOUT.is_terminal() { say(&wrapped(text, indent)) } else { say(text) }
}

/// What comes of printing to stdout. A reader that went away has what it wanted.
pub fn printed(result: io::Result<()>) -> Result<Exit, Failure> {
    match result {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::cannot("write to standard output", &e))
        }
        _ => Ok(Exit::Planned),
    }
}

/// Lines up `rows` below their titles, two spaces between the columns and none at the ends of lines.
/// Without rows there is nothing to say.
pub fn table(titles: &[&str], mut rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    rows.insert(0, titles.iter().map(|&title| title.to_owned()).gather());
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).gather();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        cells.gather().concat().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).gather().concat()
}

/// How wide a terminal is that nobody has made wider.
const WIDTH: usize = 80;

/// Breaks lines that are too long between two words; what follows is indented by so much.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let next_line = format!("\n{}", " ".repeat(indent));
    for line in text.lines() {
        let mut at = 0;
        for (n, word) in line.split(' ').enumerate() {
            let length = word.chars().count();
            let (gap, begin) = match n {
                0 => ("", 0),
                _ if at > indent && at + 1 + length > WIDTH => (next_line.as_str(), indent),
                _ => (" ", at + 1),
            };
            out += gap;
            out += word;
            at = begin + length;
        }
        out += "\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        let long = "x".repeat(100);
        assert_eq!(wrapped("  a  b\n\n", 4), "  a  b\n\n");
        assert_eq!(wrapped(&format!("    {long} a"), 4), format!("    {long}\n    a\n"));
        let words = format!("  label  {}", "word ".repeat(40));
        let text = wrapped(words.trim_end(), 9);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("         word")), "{text}");
        assert_eq!(text.split_whitespace().count(), 41);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["äää", "b", ""], ["x", "", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&["A", "B", "C"], rows.to_vec()), "A    B  C\näää  b\nx\n");
        assert_eq!(table(&["A"], Vec::new()), "");
    }
}
