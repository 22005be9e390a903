//! A folder of a Git repository as a commit has it, read from the object database: no checkout.

use std::path::{Component, Path, PathBuf};

use git2::{ObjectType, Repository, Tree};

use crate::model::snapshot::{MAX_DEPTH, MAX_FILE, MAX_FILES, decode, is_fleet_file};
use crate::model::{Problem, ProblemKind, Snapshot, SourceFile};

use super::SourceError;

/// Git's file mode of a symbolic link.
const LINK: i32 = 0o120_000;

/// Reads a fleet's files from a commit. The snapshot's revision is the commit's id.
///
/// `folder` is the fleet's folder in a work tree (its place in the repository is what is read), or a bare
/// repository, whose whole tree is read.
///
/// # Errors
/// [`SourceError`] when there is no repository, no such commit, or no such folder in it.
pub fn read(folder: &Path, revision: &str) -> Result<Snapshot, SourceError> {
    let (repository, below) = open(folder)?;
    let wrong = |source| SourceError::Revision { revision: revision.to_owned(), source };
    let commit = repository.revparse_single(revision).and_then(|o| o.peel_to_commit()).map_err(wrong)?;
    let failed = |source| SourceError::Git { revision: revision.to_owned(), source };
    let mut tree = commit.tree().map_err(failed)?;
    if !below.as_os_str().is_empty() {
        let missing =
            || SourceError::NotInCommit { revision: revision.to_owned(), folder: below.display().to_string() };
        let entry = tree.get_path(&below).map_err(|_| missing())?;
        tree = repository.find_tree(entry.id()).map_err(|_| missing())?;
    }
    let mut snapshot = Snapshot { revision: commit.id().to_string(), ..Snapshot::default() };
    walk(&repository, &tree, "", 0, &mut snapshot).map_err(failed)?;
    snapshot.files.sort_by(|a, b| a.path.cmp(&b.path));
    snapshot.problems.sort();
    Ok(snapshot)
}

/// The commit that a revision names now: what a watcher compares.
///
/// # Errors
/// [`SourceError`] when there is no repository or no such commit.
pub fn head(folder: &Path, revision: &str) -> Result<String, SourceError> {
    let (repository, _) = open(folder)?;
    let wrong = |source| SourceError::Revision { revision: revision.to_owned(), source };
    let commit = repository.revparse_single(revision).and_then(|o| o.peel_to_commit()).map_err(wrong)?;
    Ok(commit.id().to_string())
}

/// The repository that holds a folder, and the folder's place in it.
fn open(folder: &Path) -> Result<(Repository, PathBuf), SourceError> {
    let missing = |source| SourceError::NoRepository { folder: folder.to_owned(), source };
    let real = folder.canonicalize().map_err(|source| SourceError::Folder { folder: folder.to_owned(), source })?;
    let repository = Repository::discover(&real).map_err(missing)?;
    let below = repository
        .workdir()
        .and_then(|top| top.canonicalize().ok())
        .and_then(|top| real.strip_prefix(top).map(Path::to_owned).ok())
        .unwrap_or_default();
    Ok((repository, below))
}

/// Collects the files of a tree into the snapshot.
fn walk(repo: &Repository, tree: &Tree<'_>, prefix: &str, depth: usize, out: &mut Snapshot) -> Result<(), git2::Error> {
    for entry in tree {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        let path = format!("{prefix}{name}");
        if name.starts_with('.') || (prefix.is_empty() && (name == "state" || name == "tests")) {
            continue;
        }
        let mut problem = |kind| out.problems.push(Problem { path: path.as_str().into(), kind });
        match entry.kind() {
            Some(ObjectType::Tree) if depth >= MAX_DEPTH => {
                problem(ProblemKind::TooMuch(format!("folders nested deeper than {MAX_DEPTH}")));
            }
            Some(ObjectType::Tree) => {
                walk(repo, &repo.find_tree(entry.id())?, &format!("{path}/"), depth + 1, out)?;
            }
            Some(ObjectType::Blob) if is_fleet_file(&path) || entry.filemode() == LINK => {
                let size = repo.odb()?.read_header(entry.id())?.0 as u64;
                if entry.filemode() == LINK {
                    if size <= 4096 {
                        let target = String::from_utf8_lossy(repo.find_blob(entry.id())?.content()).into_owned();
                        link(repo, tree, &path, &target, out);
                    }
                } else if size > MAX_FILE {
                    problem(ProblemKind::TooLarge(size));
                } else if out.files.len() >= MAX_FILES {
                    problem(ProblemKind::TooMuch(format!("more than {MAX_FILES} files")));
                    return Ok(());
                } else {
                    match decode(repo.find_blob(entry.id())?.content().to_vec()) {
                        Ok(text) => out.files.push(SourceFile { path: path.into(), text }),
                        Err(kind) => problem(kind),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A link is followed to a file of the same folder of the commit; one that leaves the fleet's folder is a problem.
fn link(repo: &Repository, tree: &Tree<'_>, path: &str, target: &str, out: &mut Snapshot) {
    let leaves = leaves_folder(path, target);
    // What the link names is not in the commit: a name without a dot is taken for a folder's, as it could hide documents.
    let name = path.rsplit('/').next().unwrap_or(path);
    if !is_fleet_file(path) && (!leaves || name.contains('.')) {
        return;
    }
    let blob = (!leaves && !target.contains('/'))
        .then(|| tree.get_name(target))
        .flatten()
        .filter(|entry| entry.kind() == Some(ObjectType::Blob) && entry.filemode() != LINK)
        .and_then(|entry| repo.find_blob(entry.id()).ok());
    let kind = match blob {
        Some(blob) if blob.size() as u64 > MAX_FILE => ProblemKind::TooLarge(blob.size() as u64),
        Some(blob) => match decode(blob.content().to_vec()) {
            Ok(text) => {
                return out.files.push(SourceFile { path: path.into(), text });
            }
            Err(kind) => kind,
        },
        None if leaves => ProblemKind::LinkLeaves(target.to_owned()),
        None => ProblemKind::Unreadable(format!("a link to `{target}`: in a commit only links in one folder are read")),
    };
    out.problems.push(Problem { path: path.into(), kind });
}

/// Whether a link at `path` to `target` points outside the fleet's folder.
fn leaves_folder(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}
