//! A folder or a Git commit becomes a snapshot of files with a revision.
//!
//! *Takes* a folder on this machine, or a local Git repository with a revision and a folder in it.
//! *Gives* a [`Snapshot`](crate::model::snapshot::Snapshot): every YAML file of the fleet, sorted by path, and what could not be read.
//! *Never* parses YAML, follows a link out of the folder, or reads more than a bounded number of bytes of a file.

#![expect(clippy::disallowed_methods, reason = "this room reads files")]

mod folder;
mod git;

use std::path::PathBuf;

pub use folder::read as folder;
pub use git::{head, read as commit};

/// Where a fleet is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder as it is now.
    Folder(PathBuf),
    /// A folder of a local Git repository as a revision has it.
    Commit {
        /// The fleet's folder in the work tree, or a bare repository.
        folder: PathBuf,
        /// Anything that `git rev-parse` takes: a branch, a tag, a commit id, `HEAD~1`.
        revision: String,
    },
}

/// Why nothing could be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder is not there, or not a folder.
    #[error("cannot read the fleet's folder `{}`", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// No Git repository holds the folder.
    #[error("`{}` is not in a Git repository", folder.display())]
    NoRepository {
        /// The folder.
        folder: PathBuf,
        /// What Git said.
        #[source]
        source: git2::Error,
    },
    /// The revision names no commit.
    #[error("`{revision}` names no commit here")]
    Revision {
        /// The revision as given.
        revision: String,
        /// What Git said.
        #[source]
        source: git2::Error,
    },
    /// The commit has no such folder.
    #[error("commit `{revision}` has no folder `{folder}`")]
    NotInCommit {
        /// The revision as given.
        revision: String,
        /// The folder in the repository.
        folder: String,
    },
    /// Git could not read its own objects.
    #[error("Git cannot read commit `{revision}`")]
    Git {
        /// The revision as given.
        revision: String,
        /// What Git said.
        #[source]
        source: git2::Error,
    },
}

/// Reads a fleet's files from where they are.
///
/// # Errors
/// [`SourceError`] when there is nothing to read; a single bad file is a problem in the snapshot instead.
pub fn read(place: &Place) -> Result<crate::model::Snapshot, SourceError> {
    match place {
        Place::Folder(path) => folder::read(path),
        Place::Commit { folder, revision } => git::read(folder, revision),
    }
}
