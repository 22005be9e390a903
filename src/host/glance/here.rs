//! The look on this machine: the files that the script looks at on another one, all of them on one thread of their own.
//!
//! A call of its own for each file would go to another thread and back each time: with some hundred files a host, and some
//! hundred hosts, that is most of what a look takes.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::disk::{Folders, stamp_path};
use super::super::shell::{ShellError, free, names};
use super::super::{container, lock};
use super::{HEADER, Raw};
use crate::model::CONTAINER_DISK;

/// Longest text that is read: a stamp, a record.
const TEXT: u64 = 1 << 20;

/// What lies in the folders of a host, and who holds its lock.
///
/// # Errors
/// [`ShellError::File`].
pub(super) async fn folders(folders: &Folders, lock: &str) -> Result<Raw, ShellError> {
    let (folders, lock) = (folders.clone(), PathBuf::from(lock));
    on_thread(move || look(&folders, &lock)).await
}

/// What lies at these paths.
///
/// # Errors
/// When the thread dies.
pub(super) async fn disks(paths: BTreeSet<String>) -> Result<Raw, ShellError> {
    on_thread(move || {
        let mut raw = Raw::default();
        paths.iter().for_each(|path| disk(&mut raw, path));
        Ok(raw)
    })
    .await
}

async fn on_thread(look: impl FnOnce() -> Result<Raw, ShellError> + Send + 'static) -> Result<Raw, ShellError> {
    let died =
        |e: tokio::task::JoinError| ShellError::File { path: String::new(), text: e.to_string(), missing: false };
    tokio::task::spawn_blocking(look).await.map_err(died)?
}

fn look(folders: &Folders, holder: &Path) -> Result<Raw, ShellError> {
    let Folders { fleet, slots, images } = folders;
    let mut raw = Raw::default();
    let prefix = format!("{fleet}.");
    for name in names(slots).map_err(ShellError::file(slots))? {
        let path = format!("{slots}/{name}");
        if let Some(of) = path.strip_suffix(".stamp") {
            disk(&mut raw, of);
        } else if name.starts_with(&prefix) && name.ends_with(".record") {
            keep(&mut raw, path);
        }
    }
    for name in names(images).map_err(ShellError::file(images))? {
        let Some(image) = name.strip_suffix(".digest") else { continue };
        let image = format!("{images}/{image}");
        // One that is removed meanwhile is not there; one that cannot be read is not known.
        let Some(there) = facts(&image).map_err(ShellError::file(&image))? else { continue };
        let path = format!("{images}/{name}");
        if let Some(said) = text(&path, TEXT).map_err(ShellError::file(&path))? {
            raw.sizes.insert(image, size(&there));
            raw.texts.insert(path, said);
        }
    }
    for name in names(images).map_err(ShellError::file(images))?.into_iter().filter(|n| n.contains(".for.")) {
        keep(&mut raw, format!("{images}/{name}"));
    }
    for (what, folder) in [("slots", slots), ("images", images)] {
        raw.free.insert(what.to_owned(), free(folder).map_err(ShellError::file(folder))?);
    }
    raw.lock = lock::holder_here(holder);
    Ok(raw)
}

/// A disk with its stamp. One of which something cannot be read is not seen, whatever the rest says.
fn disk(raw: &mut Raw, path: &str) {
    keep(raw, stamp_path(path));
    let Ok(Some(there)) = facts(path) else { return };
    let Ok(Some(header)) = text(path, HEADER) else { return };
    if path.ends_with(&format!(".{CONTAINER_DISK}")) {
        keep(raw, container::growing(path));
    }
    raw.sizes.insert(path.to_owned(), size(&there));
    raw.heads.insert(path.to_owned(), header);
}

fn keep(raw: &mut Raw, path: String) {
    if let Ok(Some(said)) = text(&path, TEXT) {
        raw.texts.insert(path, said);
    }
}

/// A file's beginning; `None` when there is no such file, or something else of that name.
fn text(path: &str, cap: u64) -> std::io::Result<Option<Vec<u8>>> {
    if facts(path)?.is_none() {
        return Ok(None);
    }
    let mut out = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(cap).read_to_end(&mut out).map(|_| Some(out)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn facts(path: &str) -> std::io::Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(facts) => Ok(facts.is_file().then_some(facts)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn size(facts: &Metadata) -> (u64, u64) {
    // stat(2): st_blocks counts 512-byte units.
    (facts.len(), facts.blocks().saturating_mul(512))
}
