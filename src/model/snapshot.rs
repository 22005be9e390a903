//! The files of a fleet at one revision, as `source` read them and `config` parses them.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// Every YAML file below a fleet's folder at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// A label: a commit id, or `folder:<digest>` of the contents.
    pub revision: String,
    /// The files, sorted by path.
    pub files: Vec<SourceFile>,
    /// What could not be read, sorted by path.
    pub problems: Vec<Problem>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path relative to the fleet's folder, with `/`.
    pub path: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
}

/// A file that could not be read, or not as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path relative to the fleet's folder, with `/`; what is not UTF-8 in it is replaced.
    pub path: Arc<str>,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The operating system refused, with its words.
    Unreadable(String),
    /// Larger than [`MAX_FILE`], with its size in bytes.
    TooLarge(u64),
    /// Not UTF-8 from this byte offset on, at this line and column.
    NotUtf8 {
        /// Line, from 1.
        line: u32,
        /// Column in characters, from 1.
        col: u32,
    },
    /// A symbolic link to a place outside the fleet's folder, or to nothing.
    LinkLeaves(String),
    /// Folders nested deeper than [`MAX_DEPTH`], or more files than [`MAX_FILES`].
    TooMuch(String),
}

/// The largest file that is read: 4 MiB hold some 8,000 documents of 540 bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// The deepest folder below the fleet's folder.
pub const MAX_DEPTH: usize = 32;

/// The most files of a fleet: ten times the 10,000 that the figures in the README are for.
pub const MAX_FILES: usize = 100_000;

impl Snapshot {
    /// A snapshot of texts in memory, labelled by their digest: for tests, the simulator and tools.
    pub fn of_texts<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files: Vec<_> =
            files.into_iter().map(|(path, text)| SourceFile { path: path.into(), text: text.into() }).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut snapshot = Self { revision: String::new(), files, problems: Vec::new() };
        snapshot.revision = format!("folder:{}", snapshot.digest());
        snapshot
    }

    /// The first 12 hexadecimal digits of a SHA-256 over paths, contents and problems, in order of path.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for file in &self.files {
            part(file.path.as_bytes());
            part(file.text.as_bytes());
        }
        for problem in &self.problems {
            part(problem.path.as_bytes());
            part(format!("{:?}", problem.kind).as_bytes());
        }
        hash.finalize()[..6].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The text of a file, by its path.
    pub fn text(&self, path: &str) -> Option<&str> {
        let at = self.files.binary_search_by(|f| (*f.path).cmp(path)).ok()?;
        Some(&self.files[at].text)
    }
}

/// Whether a path relative to the fleet's folder belongs to the fleet: `*.yaml` or `*.yml`, not below the
/// top-level `state/` or `tests/`, and with no hidden part.
pub fn is_fleet_file(path: &str) -> bool {
    let hidden = path.split('/').any(|part| part.starts_with('.'));
    let aside = path.starts_with("state/") || path.starts_with("tests/");
    (path.ends_with(".yaml") || path.ends_with(".yml")) && !hidden && !aside
}

/// Turns a file's bytes into text, or says what is wrong with them.
///
/// # Errors
/// [`ProblemKind::NotUtf8`] with the place of the first byte that is not UTF-8. A NUL byte is text:
/// `config` reports it with its line.
pub fn decode(bytes: Vec<u8>) -> Result<Arc<str>, ProblemKind> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let lines = good.iter().filter(|b| **b == b'\n').count();
            let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let chars = String::from_utf8_lossy(&good[start..]).chars().count();
            let number = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
            Err(ProblemKind::NotUtf8 { line: number(lines), col: number(chars) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_fleet() {
        for yes in ["a.yaml", "b/c.yml", "b/state/x.yaml"] {
            assert!(is_fleet_file(yes), "{yes}");
        }
        for no in ["a.txt", "state/x.yaml", "tests/a.yaml", ".git/a.yaml", "b/.x.yaml", "README.md"] {
            assert!(!is_fleet_file(no), "{no}");
        }
    }

    #[test]
    fn a_bad_byte_has_a_place() {
        assert_eq!(decode(b"a\nb\xff".to_vec()), Err(ProblemKind::NotUtf8 { line: 2, col: 2 }));
    }
}
