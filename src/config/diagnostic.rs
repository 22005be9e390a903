//! What is wrong with a repository, where, and what to do; with its renderings as text, JSON and annotations.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::codes;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The repository cannot be used.
    Error,
    /// It can, but it hardly says what was meant.
    Warning,
}

impl Severity {
    /// The word people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A stretch of one line of one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Path relative to the fleet's folder; empty for the folder itself.
    pub file: Arc<str>,
    /// Line, from 1; 0 where a file as a whole is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 where a file as a whole is meant.
    pub col: u32,
    /// Characters to underline, at least 1.
    pub len: u32,
    /// The line's text, cut where it is very long; empty where a file as a whole is meant.
    pub text: String,
}

impl Place {
    /// A file as a whole.
    pub fn file(path: &str) -> Self {
        Self { file: path.into(), line: 0, col: 0, len: 1, text: String::new() }
    }

    /// `file:line:col`, or the file alone.
    pub fn label(&self) -> String {
        let file = if self.file.is_empty() { ".".to_owned() } else { shown(&self.file) };
        if self.line == 0 { file } else { format!("{file}:{}:{}", self.line, self.col) }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Its stable code, for example `E0207`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub primary: Place,
    /// Other places that belong to it, with what they are.
    pub secondary: Vec<(Place, String)>,
    /// What to do.
    pub help: Option<String>,
    /// What to write instead of what is underlined.
    pub suggestion: Option<String>,
}

/// Renders diagnostics like rustc does, with a last line that counts them.
pub fn text(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        one(&mut out, diagnostic);
        out.push('\n');
    }
    out + &summary(diagnostics)
}

/// The line that counts: `3 errors, 1 warning`; empty when there is nothing.
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = diagnostics.len() - errors;
    let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => String::new(),
        (0, w) => format!("{}\n", count(w, "warning")),
        (e, 0) => format!("{}\n", count(e, "error")),
        (e, w) => format!("{}, {}\n", count(e, "error"), count(w, "warning")),
    }
}

fn one(out: &mut String, d: &Diagnostic) {
    let places = std::iter::once(&d.primary).chain(d.secondary.iter().map(|(place, _)| place));
    let width = places.map(|p| p.line).max().unwrap_or(0).to_string().len();
    let _ = writeln!(out, "{}[{}]: {}", d.severity.word(), d.code, shown(&d.message));
    let under = d.suggestion.as_ref().map(|s| format!("did you mean `{}`?", shown(s))).unwrap_or_default();
    place(out, &d.primary, &under, '^', "-->", width);
    for (secondary, label) in &d.secondary {
        place(out, secondary, &shown(label), '-', ":::", width);
    }
    if d.primary.line == 0
        && let Some(suggestion) = &d.suggestion
    {
        let _ = writeln!(out, "{:width$} = help: did you mean `{}`?", "", shown(suggestion));
    }
    if let Some(help) = &d.help {
        let _ = writeln!(out, "{:width$} = help: {}", "", shown(help));
    }
}

fn place(out: &mut String, p: &Place, label: &str, mark: char, arrow: &str, width: usize) {
    let _ = writeln!(out, "{:width$}{arrow} {}", "", p.label());
    if p.line == 0 {
        if !label.is_empty() && arrow == ":::" {
            let _ = writeln!(out, "{:width$} = {label}", "");
        }
        return;
    }
    let (line, before, under) = windowed(p);
    let _ = writeln!(out, "{:width$} |", "");
    let _ = writeln!(out, "{:>width$} | {line}", p.line);
    let marks = mark.to_string().repeat(under.max(1));
    let _ = writeln!(out, "{:width$} | {:before$}{marks}{}{label}", "", "", if label.is_empty() { "" } else { " " });
}

/// The line as shown (tabs and hostile characters made visible, at most about 120 characters around the
/// value), the number of characters before the value, and the number under it.
fn windowed(p: &Place) -> (String, usize, usize) {
    const SIDE: usize = 60;
    let chars: Vec<char> = p.text.chars().collect();
    let start = (p.col.saturating_sub(1) as usize).min(chars.len());
    let end = (start + p.len as usize).min(chars.len());
    let first = if chars.len() > 2 * SIDE { start.saturating_sub(SIDE) } else { 0 };
    let last = if chars.len() > 2 * SIDE { (end.min(start + SIDE) + SIDE / 2).min(chars.len()) } else { chars.len() };
    let piece = |from: usize, to: usize| shown(&chars[from.min(to)..to].iter().collect::<String>());
    let head = format!("{}{}", if first > 0 { "…" } else { "" }, piece(first, start));
    let middle = piece(start, end.min(last));
    let tail = format!("{}{}", piece(end.min(last), last), if last < chars.len() { "…" } else { "" });
    let (before, under) = (head.chars().count(), middle.chars().count());
    (format!("{head}{middle}{tail}").trim_end().to_owned(), before, under)
}

/// Text with every character made visible that could move the cursor, hide or reorder what is around it.
pub fn shown(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{a0}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{00ad}' | '\u{061c}')
    };
    if !text.contains(hostile) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if hostile(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Version of the JSON form.
const FORMAT_VERSION: &str = "1.0";

/// Renders diagnostics as one JSON object, versioned: `{formatVersion, errors, warnings, diagnostics: […]}`.
pub fn json(diagnostics: &[Diagnostic]) -> String {
    let place = |p: &Place| serde_json::json!({"file": &*p.file, "line": p.line, "col": p.col, "length": p.len, "text": p.text});
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let all: Vec<_> = diagnostics
        .iter()
        .map(|d| {
            let others: Vec<_> =
                d.secondary.iter().map(|(p, label)| serde_json::json!({"place": place(p), "label": label})).collect();
            serde_json::json!({
                "code": d.code, "severity": d.severity, "title": codes::title(d.code), "message": d.message,
                "place": place(&d.primary), "related": others, "help": d.help, "suggestion": d.suggestion,
            })
        })
        .collect();
    let whole = serde_json::json!({
        "formatVersion": FORMAT_VERSION, "errors": errors, "warnings": diagnostics.len() - errors, "diagnostics": all,
    });
    format!("{whole:#}\n")
}

/// Renders diagnostics as GitHub workflow commands, one a line; `folder` is the fleet's folder in the repository.
pub fn github(diagnostics: &[Diagnostic], folder: &str) -> String {
    // "Workflow commands for GitHub Actions": data escapes %, CR and LF; properties also `:` and `,`.
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let folder = folder.trim_end_matches('/');
    let mut out = String::new();
    for d in diagnostics {
        let file = match (folder, &*d.primary.file) {
            ("" | ".", file) => file.to_owned(),
            (folder, "") => folder.to_owned(),
            (folder, file) => format!("{folder}/{file}"),
        };
        let mut message = shown(&d.message);
        if let Some(suggestion) = &d.suggestion {
            let _ = write!(message, "\ndid you mean `{}`?", shown(suggestion));
        }
        for (place, label) in &d.secondary {
            let _ = write!(message, "\n{}: {}", place.label(), shown(label));
        }
        if let Some(help) = &d.help {
            let _ = write!(message, "\nhelp: {}", shown(help));
        }
        let at = if d.primary.line == 0 {
            String::new()
        } else {
            let end = d.primary.col + d.primary.len;
            format!(",line={},col={},endColumn={end}", d.primary.line, d.primary.col)
        };
        let title = format!("{}: {}", d.code, codes::title(d.code).unwrap_or_default());
        let _ = writeln!(
            out,
            "::{} file={}{at},title={}::{}",
            d.severity.word(),
            property(&file),
            property(&title),
            data(&message)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostic {
        let place = |line, col, len, text: &str| Place { file: "a/b.yaml".into(), line, col, len, text: text.into() };
        Diagnostic {
            code: "E0207",
            severity: Severity::Error,
            message: "unknown field `memroy` in app".into(),
            primary: place(12, 7, 6, "      memroy: 8GiB"),
            secondary: vec![(place(3, 1, 3, "web:\u{202e}"), "used here".into())],
            help: Some("see `stablehand explain E0207`".into()),
            suggestion: Some("memory".into()),
        }
    }

    #[test]
    fn a_caret_stands_under_the_value() {
        insta::assert_snapshot!(text(&[sample()]), @r"
        error[E0207]: unknown field `memroy` in app
          --> a/b.yaml:12:7
           |
        12 |       memroy: 8GiB
           |       ^^^^^^ did you mean `memory`?
          ::: a/b.yaml:3:1
           |
         3 | web:\u{202e}
           | --- used here
           = help: see `stablehand explain E0207`

        1 error
        ");
    }

    #[test]
    fn annotations_are_one_line_each() {
        let out = github(&[sample()], "fleet/");
        assert!(out.starts_with("::error file=fleet/a/b.yaml,line=12,col=7,endColumn=13,title=E0207%3A "), "{out}");
        assert_eq!(out.lines().count(), 1);
    }
}
