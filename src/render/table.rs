//! Plain tables in columns.

use super::paint::{Ink, Style};

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// At the left.
    Left,
    /// At the right: numbers.
    Right,
}

/// Rows in columns, each as wide as its widest cell; two spaces between.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads, all at the left.
    pub fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|h| ((*h).to_owned(), Align::Left)).collect(), rows: Vec::new() }
    }
    /// Puts column `index` at the right.
    #[must_use]
    pub fn right(mut self, index: usize) -> Self {
        if let Some(head) = self.heads.get_mut(index) {
            head.1 = Align::Right;
        }
        self
    }
    /// Adds a row; cells are cleaned when it is rendered.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// The table, each line with a line end and `indent` spaces before it.
    pub fn render(&self, style: &Style, indent: usize) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|r| r.iter().map(|c| style.clean(c)).collect()).collect();
        let width = |column: usize| {
            let head = self.heads[column].0.chars().count();
            let cells = rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count());
            cells.max().unwrap_or(0).max(head)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut out = String::new();
            for (i, cell) in cells.iter().enumerate().take(self.heads.len()) {
                let gap = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
                match self.heads[i].1 {
                    Align::Left => out.extend([cell.as_str(), &gap]),
                    Align::Right => out.extend([gap.as_str(), cell]),
                }
                out.push_str("  ");
            }
            out.trim_end().to_owned()
        };
        let pad = " ".repeat(indent);
        let heads: Vec<String> = self.heads.iter().map(|h| h.0.clone()).collect();
        let mut out = format!("{pad}{}\n", style.paint(Ink::Dim, &line(&heads)));
        for row in &rows {
            out.push_str(&format!("{pad}{}\n", line(row)));
        }
        out
    }
}
