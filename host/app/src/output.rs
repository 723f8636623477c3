//! What goes to standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use phronis_core::text::escape;
use serde_json::Value;

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
}

/// A column: its heading and how a cell is made of an item.
pub type Column<'a> = (&'a str, &'a dyn Fn(&Value) -> String);

/// Prints a list of items.
///
/// # Errors
/// When standard output is gone.
pub fn list(items: &[Value], format: Format, columns: &[Column<'_>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{:#}", Value::Array(items.to_vec())),
        Format::Jsonl => items.iter().try_for_each(|item| writeln!(out, "{item}")),
        Format::Table => {
            let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
            let cells = |item: &Value| columns.iter().map(|(_, cell)| escape(&cell(item)).into_owned()).collect();
            let rows: Vec<Vec<String>> = std::iter::once(head).chain(items.iter().map(cells)).collect();
            write!(out, "{}", table(&rows))
        }
    }
}

/// Aligned columns, two blanks between them, nothing after the last.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The text at a JSON pointer; a dash when there is none.
pub fn cell(item: &Value, pointer: &str) -> String {
    match item.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["NAME", "STATE", "N"]), row(["hot", "aktiv ü", "1"]), row(["a-longer-name", "", ""])]);
        assert_eq!(text, "NAME           STATE    N\nhot            aktiv ü  1\na-longer-name\n");
    }
}
