//! A file of this machine comes into a host's store.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256, Sha512};

use super::super::shell::{Local, Shell, sync_folder, transfer};
use super::full;
use crate::execute::{Progress, StepError};
use crate::model::Digest;

/// Brings a file of this machine to the host. Gives its digest where it was hashed on the way.
pub(super) async fn bring(
    shell: &dyn Shell,
    from: PathBuf,
    partial: &str,
    digest: &Digest,
    progress: &dyn Progress,
) -> Result<Option<String>, StepError> {
    let shown = from.to_string_lossy().into_owned();
    if !shell.is_remote() {
        return copy(from, partial, digest, progress).await.map(Some);
    }
    // The size is all that is asked: what is wrong with this machine's own file is no fault of the host.
    if let Err(e) = std::fs::File::open(&from) {
        return Err(unreadable(&shown, &e));
    }
    if let Err(error) = transfer(&Local, &shown, shell, partial, 0o644, progress).await {
        return Err(full(shell, partial, error).await);
    }
    Ok(None)
}

fn unreadable(shown: &str, error: &std::io::Error) -> StepError {
    StepError::Failed {
        what: format!("{shown}: {error}"),
        hint: (error.kind() == ErrorKind::NotFound)
            .then(|| "is the image built? its path is relative to the file that names it".to_owned()),
        detail: Vec::new(),
    }
}

/// Copies a file of this machine and hashes it on the way; the copy is synced. Gives its digest in hexadecimal.
async fn copy(from: PathBuf, partial: &str, digest: &Digest, progress: &dyn Progress) -> Result<String, StepError> {
    let (send, mut receive) = tokio::sync::mpsc::channel::<(u64, u64)>(8);
    let (to, hasher) = (PathBuf::from(partial), Hasher::new(digest));
    let shown = from.display().to_string();
    let work = tokio::task::spawn_blocking(move || copy_blocking(&from, &to, hasher, &send));
    while let Some((done, total)) = receive.recv().await {
        progress.advance(done, total);
    }
    match work.await {
        Ok(Ok(hex)) => Ok(hex),
        Ok(Err(e)) => {
            let _ = std::fs::remove_file(partial);
            let no_room = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            Err(if no_room { super::no_room(&Local, partial, 0).await } else { unreadable(&shown, &e) })
        }
        Err(e) => Err(StepError::failed(e.to_string())),
    }
}

fn copy_blocking(
    from: &Path,
    to: &Path,
    mut hasher: Hasher,
    progress: &tokio::sync::mpsc::Sender<(u64, u64)>,
) -> std::io::Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut source = std::fs::File::open(from)?;
    let total = source.metadata()?.len();
    let mut target = std::fs::File::create(to)?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut done = 0u64;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let chunk = &buffer[..n];
        hasher.update(chunk);
        target.write_all(chunk)?;
        done += u64::try_from(n).unwrap_or(0);
        // A full channel means that nobody has looked since: that figure is not missed.
        let _ = progress.try_send((done, total));
    }
    // Shared by every clone and read by QEMU's user.
    target.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    target.sync_all()?;
    sync_folder(to)?;
    Ok(hasher.hex())
}

enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(digest: &Digest) -> Self {
        if digest.algorithm() == "sha512" { Self::Sha512(Sha512::new()) } else { Self::Sha256(Sha256::new()) }
    }
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }
    fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Self::Sha256(h) => hex(&h.finalize()),
            Self::Sha512(h) => hex(&h.finalize()),
        }
    }
}
