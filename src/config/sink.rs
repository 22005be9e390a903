//! Where everything that is wrong is collected, with marks that become places at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Origin, Snapshot};

use super::codes;
use super::diagnostic::{Diagnostic, Place};

/// Most diagnostics that are kept of one repository: nobody reads more, and hostile input has millions.
const MAX_DIAGNOSTICS: usize = 1_000;

/// A stretch of a file, small and copied freely: the file's index in the snapshot, line from 1, column
/// from 0, both in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    file: u32,
    line: u32,
    col: u32,
    len: u32,
}

impl Mark {
    pub(crate) fn new(file: u32, line: usize, col: usize, len: usize) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { file, line: number(line), col: number(col), len: number(len) }
    }

    /// The mark of one byte of a text.
    pub(crate) fn at_byte(file: u32, text: &str, byte: usize) -> Self {
        let before = &text.as_bytes()[..byte];
        let start = breaks(before).last().map_or(0, |at| at + 1);
        let line = breaks(before).count() + 1;
        Self::new(file, line, String::from_utf8_lossy(&before[start..]).chars().count(), 1)
    }

    /// The index of the file in the snapshot.
    pub(crate) fn file(self) -> usize {
        self.file as usize
    }
}

/// Where lines end: YAML breaks them at LF, CR LF, and a CR alone (YAML 1.2, 5.4).
fn breaks(text: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let ends = |at: usize| text[at] == b'\n' || (text[at] == b'\r' && text.get(at + 1) != Some(&b'\n'));
    (0..text.len()).filter(move |at| ends(*at))
}

/// A diagnostic whose places are still marks.
#[derive(Debug)]
pub(crate) struct Report {
    code: &'static str,
    at: Result<Mark, Arc<str>>,
    message: String,
    also: Vec<(Mark, String)>,
    help: Option<String>,
    suggestion: Option<String>,
}

impl Report {
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }
    pub(crate) fn suggest(&mut self, suggestion: Option<impl Into<String>>) -> &mut Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
    pub(crate) fn also(&mut self, at: Mark, label: impl Into<String>) -> &mut Self {
        self.also.push((at, label.into()));
        self
    }
}

/// Collects what is wrong.
#[derive(Debug)]
pub(crate) struct Sink {
    files: Vec<Arc<str>>,
    reports: Vec<Report>,
    errors: usize,
    dropped: usize,
    scrap: Option<Box<Report>>,
}

impl Sink {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let files = snapshot.files.iter().map(|f| f.path.clone()).collect();
        Self { files, reports: Vec::new(), errors: 0, dropped: 0, scrap: None }
    }

    /// Records what is wrong at a mark; more can be said of it through what is returned.
    pub(crate) fn report(&mut self, code: &'static str, at: Mark, message: impl Into<String>) -> &mut Report {
        self.add(code, Ok(at), message.into())
    }

    /// Records what is wrong with a file as a whole; the empty path is the folder.
    pub(crate) fn report_file(&mut self, code: &'static str, path: &str, message: impl Into<String>) -> &mut Report {
        self.add(code, Err(path.into()), message.into())
    }

    fn add(&mut self, code: &'static str, at: Result<Mark, Arc<str>>, mut message: String) -> &mut Report {
        /// Longest message, in characters: hostile values are quoted in it.
        const LONGEST: usize = 400;
        if let Some((end, _)) = message.char_indices().nth(LONGEST) {
            let tail: String = message[end..].chars().rev().take(60).collect();
            let tail: String = tail.chars().rev().collect();
            message.truncate(end);
            message = format!("{message}…{tail}");
        }
        self.errors += usize::from(codes::is_error(code));
        let report = Report { code, at, message, also: Vec::new(), help: None, suggestion: None };
        if self.reports.len() < MAX_DIAGNOSTICS {
            self.reports.push(report);
            let last = self.reports.len() - 1;
            return &mut self.reports[last];
        }
        self.dropped += 1;
        self.scrap.insert(Box::new(report))
    }

    /// The number of errors so far: more of them after a step means that the step failed.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// A mark as people and plans see it.
    pub(crate) fn origin(&self, at: Mark) -> Origin {
        let file = self.files.get(at.file()).cloned().unwrap_or_else(|| "".into());
        Origin { file, line: at.line, col: at.col + 1 }
    }

    /// The mark of an origin that this sink made; its length is that of the word there.
    pub(crate) fn mark_of(&self, origin: &Origin) -> Mark {
        let file = self.files.iter().position(|path| *path == origin.file).unwrap_or(usize::MAX);
        let file = u32::try_from(file).unwrap_or(u32::MAX);
        Mark::new(file, origin.line as usize, origin.col.saturating_sub(1) as usize, 0)
    }

    /// A sink for text inside a value, whose marks mean lines of that text.
    pub(crate) fn inner(&self) -> Self {
        Self { files: Vec::new(), reports: Vec::new(), errors: 0, dropped: 0, scrap: None }
    }

    /// The first thing reported, with its line.
    pub(crate) fn first_message(&self) -> Option<(u32, &str)> {
        let report = self.reports.first()?;
        Some((report.at.as_ref().map_or(0, |mark| mark.line), &report.message))
    }

    /// The path of the file in which a mark stands.
    pub(crate) fn path(&self, at: Mark) -> Arc<str> {
        self.files.get(at.file()).cloned().unwrap_or_else(|| "".into())
    }

    /// Everything recorded, in order of place.
    pub(crate) fn finish(self, snapshot: &Snapshot) -> Vec<Diagnostic> {
        let mut places = Places { snapshot, lines: BTreeMap::new() };
        let dropped = self.dropped;
        let mut out: Vec<_> = self.reports.into_iter().map(|report| places.diagnostic(report)).collect();
        out.sort_by(|a, b| (&a.primary, a.code, &a.message).cmp(&(&b.primary, b.code, &b.message)));
        out.dedup();
        if dropped > 0 {
            let message = format!("{dropped} more are not shown");
            let help = Some("mend these first".into());
            let primary = Place::file("");
            out.push(Diagnostic {
                code: "E0199",
                severity: codes::severity("E0199"),
                message,
                primary,
                secondary: Vec::new(),
                help,
                suggestion: None,
            });
        }
        out
    }
}

/// Finds lines of files, each file's line starts counted once.
struct Places<'s> {
    snapshot: &'s Snapshot,
    lines: BTreeMap<u32, Vec<usize>>,
}

impl Places<'_> {
    fn diagnostic(&mut self, report: Report) -> Diagnostic {
        let primary = match report.at {
            Ok(mark) => self.place(mark),
            Err(path) => Place::file(&path),
        };
        Diagnostic {
            code: report.code,
            severity: codes::severity(report.code),
            message: report.message,
            primary,
            secondary: report.also.into_iter().map(|(mark, label)| (self.place(mark), label)).collect(),
            help: report.help,
            suggestion: report.suggestion,
        }
    }

    fn place(&mut self, mark: Mark) -> Place {
        /// Longest line that a diagnostic carries, in characters.
        const LONGEST: usize = 4_000;
        let Some(file) = self.snapshot.files.get(mark.file()) else {
            return Place::file("");
        };
        let starts = self
            .lines
            .entry(mark.file)
            .or_insert_with(|| std::iter::once(0).chain(breaks(file.text.as_bytes()).map(|at| at + 1)).collect());
        let line = mark.line.max(1) as usize;
        let start = starts.get(line - 1).copied().unwrap_or(file.text.len());
        let rest = &file.text[start..];
        let text: String = rest.split(['\n', '\r']).next().unwrap_or_default().chars().take(LONGEST).collect();
        let left = text.trim_end().chars().count().saturating_sub(mark.col as usize);
        let word = |c: &char| c.is_ascii_alphanumeric() || "-_./".contains(*c);
        let wanted = match mark.len {
            0 => u32::try_from(text.chars().skip(mark.col as usize).take_while(word).count()).unwrap_or(1),
            len => len,
        };
        let len = wanted.clamp(1, u32::try_from(left.max(1)).unwrap_or(1));
        Place { file: file.path.clone(), line: mark.line.max(1), col: mark.col + 1, len, text }
    }
}
