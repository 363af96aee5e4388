//! Columns for people. Pure.

/// Lines up `rows`, two spaces between the columns and none at the ends of lines.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |cell: &String| cell.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|n| rows.iter().filter_map(|row| row.get(n)).map(width).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, widest) in row.iter().zip(&widths) {
            line += cell;
            line += &" ".repeat(widest - width(cell) + 2);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|&c| c.to_owned()).collect();
        let rows = [row(&["A", "B", "C"]), row(&["äää", "b", ""]), row(&["x"])];
        assert_eq!(table(&rows), "A    B  C\näää  b\nx\n");
        assert_eq!(table(&[]), "");
    }
}
