//! A folder as it is now.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::snapshot::{MAX_DEPTH, MAX_FILE, MAX_FILES, decode, is_fleet_file};
use crate::model::{Problem, ProblemKind, Snapshot, SourceFile};

use super::SourceError;

/// Reads every YAML file below a folder; links are followed only when they stay inside and name a file.
///
/// # Errors
/// [`SourceError::Folder`] when the folder itself cannot be read.
pub fn read(folder: &Path) -> Result<Snapshot, SourceError> {
    let failed = |source| SourceError::Folder { folder: folder.to_owned(), source };
    let root = folder.canonicalize().map_err(failed)?;
    let mut walk = Walk { root: root.clone(), snapshot: Snapshot::default() };
    let entries = sorted(&root).map_err(failed)?;
    walk.entries(entries, "", 0);
    let mut snapshot = walk.snapshot;
    snapshot.files.sort_by(|a, b| a.path.cmp(&b.path));
    snapshot.problems.sort();
    snapshot.revision = format!("folder:{}", snapshot.digest());
    Ok(snapshot)
}

struct Walk {
    root: PathBuf,
    snapshot: Snapshot,
}

impl Walk {
    /// Reads what a folder holds, files first come, first read; the caller sorts at the end.
    fn entries(&mut self, entries: Vec<PathBuf>, prefix: &str, depth: usize) {
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let relative = format!("{prefix}{name}");
            if name.starts_with('.') || (prefix.is_empty() && (name == "state" || name == "tests")) {
                continue;
            }
            if self.snapshot.files.len() >= MAX_FILES {
                self.problem(&relative, ProblemKind::TooMuch(format!("more than {MAX_FILES} files")));
                return;
            }
            match fs::symlink_metadata(&path) {
                Err(error) => self.problem(&relative, ProblemKind::Unreadable(error.to_string())),
                Ok(meta) if meta.is_dir() => self.folder(&path, &relative, depth + 1),
                Ok(_) if !is_fleet_file(&relative) => {
                    // A linked folder could hide documents that a person believes to be read.
                    if path.is_symlink() && path.is_dir() {
                        self.link_to_folder(&path, &relative);
                    }
                }
                Ok(meta) if meta.is_symlink() => self.link(&path, &relative),
                Ok(meta) if meta.is_file() => self.file(&path, &relative),
                Ok(_) => self.problem(&relative, ProblemKind::Unreadable("not a regular file".into())),
            }
        }
    }

    fn folder(&mut self, path: &Path, relative: &str, depth: usize) {
        if depth > MAX_DEPTH {
            let text = format!("folders nested deeper than {MAX_DEPTH}");
            return self.problem(relative, ProblemKind::TooMuch(text));
        }
        match sorted(path) {
            Ok(entries) => self.entries(entries, &format!("{relative}/"), depth),
            Err(error) => self.problem(relative, ProblemKind::Unreadable(error.to_string())),
        }
    }

    /// A link to a folder is never entered: inside it would be a loop or a second copy, outside not ours.
    fn link_to_folder(&mut self, path: &Path, relative: &str) {
        let inside = path.canonicalize().is_ok_and(|target| target.starts_with(&self.root));
        if !inside {
            let target = fs::read_link(path).unwrap_or_default();
            self.problem(relative, ProblemKind::LinkLeaves(target.to_string_lossy().into_owned()));
        }
    }

    fn link(&mut self, path: &Path, relative: &str) {
        let target = fs::read_link(path).unwrap_or_default().to_string_lossy().into_owned();
        match path.canonicalize() {
            Ok(real) if real.starts_with(&self.root) && real.is_file() => self.file(&real, relative),
            _ => self.problem(relative, ProblemKind::LinkLeaves(target)),
        }
    }

    fn file(&mut self, path: &Path, relative: &str) {
        match bounded(path) {
            Ok(Ok(text)) => self.snapshot.files.push(SourceFile { path: relative.into(), text }),
            Ok(Err(kind)) => self.problem(relative, kind),
            Err(error) => self.problem(relative, ProblemKind::Unreadable(error.to_string())),
        }
    }

    fn problem(&mut self, path: &str, kind: ProblemKind) {
        self.snapshot.problems.push(Problem { path: path.into(), kind });
    }
}

/// The text of a file, reading at most one byte more than the limit, whatever its length claims to be.
fn bounded(path: &Path) -> io::Result<Result<Arc<str>, ProblemKind>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_FILE {
        return Ok(Err(ProblemKind::TooLarge(size)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Ok(Err(ProblemKind::TooLarge(bytes.len() as u64)));
    }
    Ok(decode(bytes))
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}
