//! What documents promise in tables, held against what is there.

use std::collections::BTreeSet;

/// A table of a Markdown document: its rows, each a list of cells with their marks stripped.
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn column(&self, title: &str) -> Option<usize> {
        let wanted = |cell: &String| cell.to_lowercase().starts_with(title);
        self.head.iter().position(wanted)
    }
}

/// The first table below the first heading that contains `title`.
fn table_below(text: &str, title: &str) -> Option<Table> {
    let title = title.to_lowercase();
    let mut rows = text
        .lines()
        .skip_while(|line| !(line.starts_with('#') && line.to_lowercase().contains(&title)))
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .map(cells);
    let head = rows.next()?;
    // The line of dashes.
    rows.next()?;
    Some(Table { head, rows: rows.collect() })
}

fn cells(line: &str) -> Vec<String> {
    let inside = line.trim().trim_matches('|');
    let cells = inside.split('|').map(|cell| cell.trim().replace(['`', '*'], ""));
    cells.map(|cell| link_text(&cell)).collect()
}

/// `[text](address)` is text.
fn link_text(cell: &str) -> String {
    cell.strip_prefix('[')
        .and_then(|rest| rest.split_once("]("))
        .map_or_else(|| cell.to_owned(), |(text, _)| text.to_owned())
}

/// The crates in the `[dependencies]` section of a manifest.
pub fn manifest_dependencies(manifest: &str) -> BTreeSet<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
        .collect()
}

/// Holds the table of dependencies in CONTRIBUTING.md against the manifest and against what is linked.
/// It has a column for the crate and one, "brings", for the crates that come with it.
pub fn dependencies(
    document: &str,
    direct: &BTreeSet<String>,
    linked: &BTreeSet<String>,
) -> Vec<String> {
    let Some(table) = table_below(document, "Dependencies") else {
        return vec!["CONTRIBUTING.md: no section \"Dependencies\" with a table".to_owned()];
    };
    let Some(brings) = table.column("brings") else {
        return vec!["CONTRIBUTING.md: its table has no column \"brings\"".to_owned()];
    };
    let listed: BTreeSet<String> = table.rows.iter().map(|row| row[0].clone()).collect();
    let name = |c: char| !c.is_alphanumeric() && c != '-' && c != '_';
    let brought: BTreeSet<String> = table
        .rows
        .iter()
        .filter_map(|row| row.get(brings))
        .flat_map(|cell| cell.split(name))
        .filter(|word| word.starts_with(char::is_alphabetic))
        .map(str::to_owned)
        .collect();

    let mut violations = Vec::new();
    let mut report = |names: BTreeSet<String>, what: &str| {
        violations.extend(names.iter().map(|name| format!("CONTRIBUTING.md: `{name}` {what}")));
    };
    report(direct - &listed, "is in Cargo.toml and not in the table");
    report(&listed - direct, "is not in Cargo.toml and in the table");
    let named = &listed | &brought;
    report(linked - &(&named | direct), "is linked and not in the table");
    report(&brought - linked, "is not linked and in the table (\"brings\")");
    violations
}

/// Holds the README's table of exit statuses against the values of the enum in `src/exit.rs`.
pub fn exit_statuses(readme: &str, code: &str) -> Vec<String> {
    let Some(table) = table_below(readme, "Exit") else {
        return vec!["README.md: no section \"Exit codes\" with a table".to_owned()];
    };
    let number = |text: &str| text.trim().parse::<u8>().ok();
    let listed: BTreeSet<u8> = table.rows.iter().filter_map(|row| number(&row[0])).collect();
    let defined: BTreeSet<u8> = code
        .lines()
        .filter_map(|line| line.trim_end().strip_suffix(',')?.split_once(" = "))
        .filter_map(|(_, status)| number(status))
        .collect();
    let unlisted = (&defined - &listed).into_iter();
    let unlisted = unlisted.map(|n| format!("README.md: {n} of src/exit.rs is not in the README"));
    let undefined = (&listed - &defined).into_iter();
    let undefined =
        undefined.map(|n| format!("README.md: {n} of the README is not in src/exit.rs"));
    unlisted.chain(undefined).collect()
}
