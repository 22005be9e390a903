//! Canonical formatting that keeps comments and never changes what is meant: line by line, outside of scalars
//! that span lines; and units that can be said exactly with a larger one.

use granit_parser::{Event, Parser, ScalarStyle};

use crate::model::{Bytes, Span};

/// Fields that hold a number of bytes.
const BYTES: &[&str] = &["memory", "maxMemory", "size", "rootSize"];
/// Fields that hold a length of time.
const SPANS: &[&str] = &["within", "every", "deadline", "retain"];

/// A file's text in canonical form; `None` when it is not YAML that we read.
///
/// Trailing spaces go, runs of empty lines become one, the last line ends with a line break, line ends are LF,
/// and `1024MiB` becomes `1GiB`. Formatting twice gives the same as once.
pub fn text(text: &str) -> Option<String> {
    super::values(text)?;
    let unix = text.replace("\r\n", "\n");
    let marks = Marks::of(&unix)?;
    let mut out = String::with_capacity(unix.len());
    let mut empty = 0;
    for (index, line) in unix.lines().enumerate() {
        let number = index + 1;
        if marks.inside(number) {
            out += line;
            out.push('\n');
            empty = 0;
            continue;
        }
        let line = marks.with_units(number, line);
        let line = line.trim_end();
        empty = if line.is_empty() { empty + 1 } else { 0 };
        if empty < 2 && !(line.is_empty() && out.is_empty()) {
            out += line;
            out.push('\n');
        }
    }
    // A block scalar at the end may own its empty lines.
    if !marks.inside(unix.lines().count()) {
        let end = out.trim_end_matches('\n').len();
        out.truncate(end);
        if end > 0 {
            out.push('\n');
        }
    }
    Some(out)
}

/// Where lines must stay as they are, and where units can be said better.
struct Marks {
    /// First and last line of each scalar that spans lines.
    kept: Vec<(usize, usize)>,
    /// Line, column and length in characters, and the better text.
    units: Vec<(usize, usize, usize, String)>,
}

impl Marks {
    fn of(text: &str) -> Option<Self> {
        let mut marks = Self { kept: Vec::new(), units: Vec::new() };
        let mut last = String::new();
        for next in Parser::new_from_str(text) {
            let (event, span) = next.ok()?;
            let Event::Scalar(value, style, ..) = event else { continue };
            // A block ends where the next line begins.
            let (from, to) =
                (span.start.line(), span.end.line() - usize::from(span.end.col() == 0 && span.end.line() > 0));
            if to > from || matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                marks.kept.push((from.saturating_sub(1), to));
            } else if let Some(better) = better(&last, &value).filter(|_| style == ScalarStyle::Plain) {
                marks.units.push((from, span.start.col(), value.chars().count(), better));
            }
            last = value.into_owned();
        }
        Some(marks)
    }

    fn inside(&self, line: usize) -> bool {
        let at = self.kept.partition_point(|(from, _)| *from <= line);
        at > 0 && line <= self.kept[at - 1].1
    }

    fn with_units(&self, number: usize, line: &str) -> String {
        let at = self.units.partition_point(|(line, ..)| *line < number);
        let here: Vec<_> = self.units[at..].iter().take_while(|(line, ..)| *line == number).collect();
        let mut chars: Vec<char> = line.chars().collect();
        for (_, col, len, better) in here.into_iter().rev() {
            if col + len <= chars.len() {
                chars.splice(*col..col + len, better.chars());
            }
        }
        chars.into_iter().collect()
    }
}

/// The same quantity with the largest unit that says it exactly, when that is another text.
fn better(field: &str, value: &str) -> Option<String> {
    let exact = if BYTES.contains(&field) {
        value.parse::<Bytes>().ok()?.exact()
    } else if SPANS.contains(&field) {
        value.parse::<Span>().ok()?.exact()
    } else {
        return None;
    };
    (exact != value && exact.len() <= value.len()).then_some(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_spaces_are_tidied_and_scalars_kept() {
        let before = "a: 1   \n\n\n# note  \nmemory: 1024MiB  # big\nsize: 1000MB\nx: |\n  keep  \n\n\n  this   \nwithin: 60s\n\n";
        let after = "a: 1\n\n# note\nmemory: 1GiB  # big\nsize: 1000MB\nx: |\n  keep  \n\n\n  this   \nwithin: 1m\n";
        assert_eq!(text(before).as_deref(), Some(after));
        assert_eq!(text(after).as_deref(), Some(after));
        assert_eq!(text("a: ["), None);
    }
}
