//! This machine's files and programs.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use tokio::process::Command;

use super::run::{Running, run};
use super::{Output, Program, Shell, ShellError};
use crate::observe::Boxed;

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Shell for Local {
    fn is_remote(&self) -> bool {
        false
    }
    fn start(&self, words: Vec<String>) -> Boxed<'_, Result<Running, ShellError>> {
        Box::pin(async move { start(&words) })
    }
    fn afresh(&self) -> Boxed<'_, Result<(), ShellError>> {
        Box::pin(async { Ok(()) })
    }
    fn run(&self, program: Program) -> Boxed<'_, Result<Output, ShellError>> {
        Box::pin(async move { run(start(&program.words)?, program).await })
    }
    fn read<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>> {
        let owned = path.to_owned();
        Box::pin(blocking(path, move || {
            let mut out = Vec::new();
            std::fs::File::open(owned)?.take(cap).read_to_end(&mut out)?;
            Ok(out)
        }))
    }
    fn read_end<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>> {
        let owned = path.to_owned();
        Box::pin(blocking(path, move || {
            let mut file = std::fs::File::open(owned)?;
            let start = file.metadata()?.len().saturating_sub(cap);
            file.seek(SeekFrom::Start(start))?;
            let mut out = Vec::new();
            file.take(cap).read_to_end(&mut out)?;
            Ok(out)
        }))
    }
    fn write<'a>(&'a self, path: &'a str, bytes: Vec<u8>, mode: u32) -> Boxed<'a, Result<(), ShellError>> {
        let owned = path.to_owned();
        Box::pin(blocking(path, move || write_whole(Path::new(&owned), &bytes, mode)))
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> Boxed<'a, Result<(), ShellError>> {
        let owned = (from.to_owned(), to.to_owned());
        Box::pin(blocking(to, move || {
            std::fs::rename(&owned.0, &owned.1)?;
            sync_folder(Path::new(&owned.1))
        }))
    }
    fn remove<'a>(&'a self, path: &'a str) -> Boxed<'a, Result<bool, ShellError>> {
        let owned = path.to_owned();
        Box::pin(blocking(path, move || match std::fs::remove_file(&owned) {
            Ok(()) => sync_folder(Path::new(&owned)).map(|()| true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }))
    }
    fn size<'a>(&'a self, path: &'a str) -> Boxed<'a, Result<Option<(u64, u64)>, ShellError>> {
        let owned = path.to_owned();
        Box::pin(blocking(path, move || match std::fs::metadata(&owned) {
            Ok(m) => {
                use std::os::unix::fs::MetadataExt;
                // stat(2): st_blocks counts 512-byte units.
                Ok(Some((m.len(), m.blocks().saturating_mul(512))))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }))
    }
    fn list<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<Vec<String>, ShellError>> {
        let owned = folder.to_owned();
        Box::pin(blocking(folder, move || names(&owned)))
    }
    fn make_folder<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<(), ShellError>> {
        let owned = folder.to_owned();
        Box::pin(blocking(folder, move || {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&owned)
        }))
    }
    fn free<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<u64, ShellError>> {
        let owned = folder.to_owned();
        Box::pin(blocking(folder, move || free(&owned)))
    }
}

/// The names in a folder, sorted; none where there is no such folder.
pub(crate) fn names(folder: &str) -> std::io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 is none of ours.
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Bytes free where a folder is, or will be.
pub(crate) fn free(folder: &str) -> std::io::Result<u64> {
    let mut path = Path::new(folder);
    while !path.exists() {
        path = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
    }
    let facts = rustix::fs::statvfs(path)?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

fn start(words: &[String]) -> Result<Running, ShellError> {
    let name = words.first().cloned().unwrap_or_default();
    let mut command = Command::new(&name);
    // Messages are read and shown.
    command.args(words.get(1..).unwrap_or_default()).env("LC_ALL", "C");
    Running::start(command, words).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => ShellError::NoProgram(name),
        _ => ShellError::Failed { words: words.join(" "), status: -1, complaint: e.to_string() },
    })
}

async fn blocking<T: Send + 'static>(
    path: &str,
    f: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ShellError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(ShellError::file(path)),
        Err(e) => Err(ShellError::File { path: path.to_owned(), text: e.to_string(), missing: false }),
    }
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&partial)?;
    // The mode above counts only for a file that was not there, and through the umask.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    sync_folder(path)
}

/// Syncs the folder of a file, so that a rename in it survives a power cut (fsync(2)).
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}
