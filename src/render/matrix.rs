//! The matrix of who reaches whom, so that a reviewer reads it in seconds: a grid while it is small, else lines in which
//! those who may do the same stand together.

use std::collections::{BTreeMap, BTreeSet};

use super::{Style, Table, clean};
use crate::model::{Grant, Traffic};
use crate::plan::rules::{Cell, Matrix};

/// Most rows, and most columns, of a grid.
const GRID: usize = 6;

/// Most names in a line; of more, the first ones and the last one are shown, and how many there are.
const NAMES: usize = 6;

/// What stands in the forms of a matrix.
struct Page {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Sentences below.
    below: Vec<String>,
}

/// As text, in lines that end.
pub fn matrix_text(matrix: &Matrix, style: &Style) -> String {
    let page = page(matrix, style.arrow());
    let heads: Vec<&str> = page.heads.iter().map(String::as_str).collect();
    let mut table = Table::new(&heads);
    for row in page.rows {
        table.row(row);
    }
    let mut out = if table.is_empty() { String::new() } else { table.render(style, 0) };
    for line in page.below {
        out.push_str(&style.clean(&line));
        out.push('\n');
    }
    out
}

/// As Markdown.
pub fn matrix_markdown(matrix: &Matrix) -> String {
    let page = page(matrix, "→");
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| clean(cell).replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut out = String::new();
    if !page.rows.is_empty() {
        out += &line(&page.heads);
        out += &line(&vec!["---".to_owned(); page.heads.len()]);
        out.extend(page.rows.iter().map(|row| line(row)));
        out.push('\n');
    }
    for text in page.below {
        out += &format!("{}  \n", clean(&text));
    }
    out
}

fn page(matrix: &Matrix, arrow: &str) -> Page {
    let cells = matrix.collapsed();
    let together = |cell: &&Cell| cell.grant == Grant::Mates && (cell.instance || cell.from == cell.to);
    let mates: BTreeSet<String> = cells
        .iter()
        .filter(together)
        .map(|cell| if cell.instance { format!("{} (in each instance)", cell.from) } else { cell.from.clone() })
        .collect();
    let said: Vec<&Cell> = cells.iter().filter(|cell| cell.grant != Grant::System && !together(cell)).collect();
    let mut page = grid(matrix, &said, &cells).unwrap_or_else(|| list(&said));
    if said.is_empty() {
        page.rows.clear();
        page.below.push("no rule lets anything through but what follows".to_owned());
    }
    if !mates.is_empty() {
        page.below.push(format!("together, any: {}", names(&mates)));
    }
    let mut always: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| cell.grant == Grant::System) {
        always.entry((&cell.from, kinds(&cell.traffic))).or_default().insert(cell.to.clone());
    }
    for ((from, traffic), to) in always {
        page.below.push(format!("always: {from} {arrow} {}: {traffic}", names(&to)));
    }
    if matrix.unlisted {
        page.below.push(
            "not listed, since they are many: those who may reach addresses outside also reach those who may be reached from \
             there, where these addresses are theirs"
                .to_owned(),
        );
    }
    if cells.iter().flat_map(|cell| &cell.traffic).any(|kind| matches!(kind, Traffic::Udp(_))) {
        page.below.push("UDP and ICMP pass both ways; what is not named here is closed".to_owned());
    } else {
        page.below.push("ICMP passes both ways; what is not named here is closed".to_owned());
    }
    page
}

/// Everybody against everybody, while that is small.
fn grid(matrix: &Matrix, said: &[&Cell], all: &BTreeSet<Cell>) -> Option<Page> {
    let mut rows: BTreeSet<&str> = said.iter().map(|cell| &*cell.from).collect();
    let mut columns: BTreeSet<&str> = said.iter().map(|cell| &*cell.to).collect();
    // Who has no cell of its own is closed, and that is worth seeing.
    let part = |owner: &str, label: &&&str| label.starts_with(owner) && label[owner.len()..].starts_with('/');
    for owner in matrix.parts.keys() {
        for side in [&mut rows, &mut columns] {
            if !side.iter().any(|label| part(owner, &label)) {
                side.insert(owner);
            }
        }
    }
    if rows.len() > GRID || columns.len() > GRID {
        return None;
    }
    let entry = |from: &str, to: &str| {
        let here: BTreeSet<Traffic> =
            said.iter().filter(|c| c.from == from && c.to == to).flat_map(|c| c.traffic.iter().copied()).collect();
        let mates = all.iter().any(|c| c.grant == Grant::Mates && c.from == from && c.to == to);
        match (mates, here.is_empty()) {
            (true, true) => "together".to_owned(),
            (true, false) => format!("together; {}", kinds(&here)),
            (false, true) => "-".to_owned(),
            (false, false) => kinds(&here),
        }
    };
    let line = |from: &&str| {
        std::iter::once((*from).to_owned()).chain(columns.iter().map(|to| entry(from, to))).collect::<Vec<String>>()
    };
    let heads = std::iter::once("from \\ to".to_owned()).chain(columns.iter().map(|to| (*to).to_owned())).collect();
    Some(Page { heads, rows: rows.iter().map(line).collect(), below: Vec::new() })
}

/// A line for those who may do the same.
fn list(said: &[&Cell]) -> Page {
    let mut by_pair: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    for cell in said {
        by_pair.entry((&cell.from, kinds(&cell.traffic))).or_default().insert(cell.to.clone());
    }
    let mut alike: BTreeMap<(BTreeSet<String>, String), BTreeSet<String>> = BTreeMap::new();
    for ((from, traffic), to) in by_pair {
        alike.entry((to, traffic)).or_default().insert(from.to_owned());
    }
    let mut rows: Vec<Vec<String>> =
        alike.iter().map(|((to, traffic), from)| vec![names(from), names(to), traffic.clone()]).collect();
    rows.sort();
    Page { heads: ["from", "to", "with"].map(str::to_owned).to_vec(), rows, below: Vec::new() }
}

fn kinds(traffic: &BTreeSet<Traffic>) -> String {
    traffic.iter().map(Traffic::to_string).collect::<Vec<_>>().join(", ")
}

fn names(all: &BTreeSet<String>) -> String {
    let listed: Vec<&str> = all.iter().map(String::as_str).collect();
    match listed.as_slice() {
        [first, second, .., last] if listed.len() > NAMES => {
            format!("{first}, {second}, ... {last} ({} in all)", listed.len())
        }
        few => few.join(", "),
    }
}
