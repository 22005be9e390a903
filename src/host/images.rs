//! The image store of a host: files by digest, each whole or not there.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256, Sha512};

use super::shell::{Local, Program, Shell, ShellError, put_stream, succeed, sync_folder, transfer};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Bytes, Digest, ImageFile, ImageNote, ImageObs, Source};

/// A download may take this long.
const DOWNLOAD: Duration = Duration::from_secs(3600);

/// Beside each image: its whole digest, since its name holds only 12 digits of it.
fn digest_path(path: &str) -> String {
    format!("{path}.digest")
}

/// Puts a file into the store.
///
/// # Errors
/// A source that cannot be read, a digest that is another, a full disk.
pub async fn put(
    shell: &dyn Shell,
    base: &Path,
    file: &ImageFile,
    path: &str,
    progress: &dyn Progress,
) -> Result<Done, StepError> {
    if shell.size(path).await?.is_some() {
        write_digest(shell, path, &file.digest).await?;
        return Ok(Done::Already);
    }
    if let Some((folder, _)) = path.rsplit_once('/') {
        shell.make_folder(folder).await?;
    }
    let partial = format!("{path}.partial");
    shell.remove(&partial).await?;
    let actual = match &file.source {
        Source::Path(from) => bring(shell, base.join(from.as_ref()), &partial, &file.digest, progress).await?,
        Source::Url(url) => match url.strip_prefix("file://") {
            Some(from) => bring(shell, PathBuf::from(from), &partial, &file.digest, progress).await?,
            None => download(shell, url, &partial, &file.digest, progress).await?,
        },
    };
    if actual != file.digest.hex() {
        shell.remove(&partial).await?;
        return Err(StepError::Failed {
            what: format!(
                "{} is {}:{actual}, not {}",
                name(&file.source),
                file.digest.algorithm(),
                file.digest.as_str()
            ),
            hint: Some(
                "the file changed since its digest was written down: check it, then write the new digest".to_owned(),
            ),
            detail: Vec::new(),
        });
    }
    write_digest(shell, path, &file.digest).await?;
    shell.rename(&partial, path).await?;
    Ok(Done::Changed)
}

/// Removes a file from the store. The caller has seen that nothing is built on it.
///
/// # Errors
/// [`ShellError`].
pub async fn drop(shell: &dyn Shell, path: &str) -> Result<Done, StepError> {
    let removed = shell.remove(path).await?;
    shell.remove(&digest_path(path)).await?;
    Ok(if removed { Done::Changed } else { Done::Already })
}

/// Every finished file of the store, by digest.
///
/// # Errors
/// [`ShellError`].
pub async fn observe(shell: &dyn Shell, folder: &str) -> Result<BTreeMap<Digest, ImageObs>, ShellError> {
    let mut out = BTreeMap::new();
    for name in shell.list(folder).await? {
        let Some(image) = name.strip_suffix(".digest") else { continue };
        let path = format!("{folder}/{image}");
        let Some((_, used)) = shell.size(&path).await? else { continue };
        let text = shell.read(&digest_path(&path), 1024).await?;
        if let Some((digest, note)) = read_digest(&text) {
            out.insert(digest, ImageObs { path, used: Bytes(used), note });
        }
    }
    Ok(out)
}

pub(super) async fn write_digest(shell: &dyn Shell, path: &str, digest: &Digest) -> Result<(), StepError> {
    let file = digest_path(path);
    // A note that is there stays.
    if shell.read(&file, 1024).await.is_ok_and(|t| read_digest(&t).is_some_and(|(found, _)| found == *digest)) {
        return Ok(());
    }
    let text = format!("{}\n", digest.as_str()).into_bytes();
    Ok(shell.write(&file, text, 0o644).await?)
}

/// Writes which generation a file is, as the second line beside it.
///
/// # Errors
/// [`ShellError`].
pub async fn note(shell: &dyn Shell, path: &str, digest: &Digest, note: &ImageNote) -> Result<(), StepError> {
    let file = digest_path(path);
    let there = shell.read(&file, 1024).await.ok().and_then(|text| read_digest(&text));
    if there.is_some_and(|(found, old)| found == *digest && old.is_some_and(|old| old.image == note.image)) {
        return Ok(());
    }
    let line = serde_json::to_string(note).map_err(|error| StepError::failed(error.to_string()))?;
    shell.write(&file, format!("{}\n{line}\n", digest.as_str()).into_bytes(), 0o644).await?;
    Ok(())
}

/// What stands beside an image: its digest, and the note when there is one.
pub(super) fn read_digest(text: &[u8]) -> Option<(Digest, Option<ImageNote>)> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let digest = Digest::new(lines.next()?.trim()).ok()?;
    Some((digest, lines.next().and_then(|line| serde_json::from_str(line).ok())))
}

fn name(source: &Source) -> &str {
    match source {
        Source::Path(text) | Source::Url(text) => text,
    }
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

/// Brings a file of this machine to the host. Gives the digest of what is there then.
async fn bring(
    shell: &dyn Shell,
    from: PathBuf,
    partial: &str,
    digest: &Digest,
    progress: &dyn Progress,
) -> Result<String, StepError> {
    if !shell.is_remote() {
        return copy(from, partial, digest, progress).await;
    }
    let shown = from.to_string_lossy().into_owned();
    // The size is all that is asked: what is wrong with this machine's own file is no fault of the host.
    if let Err(e) = std::fs::File::open(&from) {
        return Err(unreadable(&shown, &e));
    }
    transfer(&Local, &shown, shell, partial, 0o644, progress).await?;
    hash(shell, partial, digest).await
}

/// The digest of a file on the host, in hexadecimal: sha256sum(1) or sha512sum(1).
async fn hash(shell: &dyn Shell, path: &str, digest: &Digest) -> Result<String, StepError> {
    let program = Program::new([&format!("{}sum", digest.algorithm()), "--", path]).limit(DOWNLOAD);
    let said = succeed(shell, program).await?;
    // A name with a backslash in it is written in another way, and a backslash put before the digest.
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(said.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

fn unreadable(shown: &str, error: &std::io::Error) -> StepError {
    StepError::Failed {
        what: format!("{shown}: {error}"),
        hint: (error.kind() == std::io::ErrorKind::NotFound)
            .then(|| "is the image built? its path is relative to the file that names it".to_owned()),
        detail: Vec::new(),
    }
}

/// Copies a file of this machine and hashes it on the way; the copy is synced. Gives its digest in hexadecimal.
async fn copy(from: PathBuf, partial: &str, digest: &Digest, progress: &dyn Progress) -> Result<String, StepError> {
    let (send, mut receive) = tokio::sync::mpsc::channel::<(u64, u64)>(8);
    let (to, hasher) = (PathBuf::from(partial), Hasher::new(digest));
    let shown = from.display().to_string();
    let work = tokio::task::spawn_blocking(move || copy_blocking(&from, Some(&to), hasher, &send));
    while let Some((done, total)) = receive.recv().await {
        progress.advance(done, total);
    }
    match work.await {
        Ok(Ok(hex)) => Ok(hex),
        Ok(Err(e)) => Err(unreadable(&shown, &e)),
        Err(e) => Err(StepError::failed(e.to_string())),
    }
}

/// Reads `from`, writes `to` if there is one, hashes.
fn copy_blocking(
    from: &Path,
    to: Option<&Path>,
    mut hasher: Hasher,
    progress: &tokio::sync::mpsc::Sender<(u64, u64)>,
) -> std::io::Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut source = std::fs::File::open(from)?;
    let total = source.metadata()?.len();
    let mut target = to.map(std::fs::File::create).transpose()?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut done = 0u64;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let chunk = &buffer[..n];
        hasher.update(chunk);
        if let Some(target) = &mut target {
            target.write_all(chunk)?;
        }
        done += u64::try_from(n).unwrap_or(0);
        // A full channel means that nobody has looked since: that figure is not missed.
        let _ = progress.try_send((done, total));
    }
    if let Some(target) = target {
        // Shared by every clone and read by QEMU's user.
        target.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        target.sync_all()?;
    }
    if let Some(to) = to {
        sync_folder(to)?;
    }
    Ok(hasher.hex())
}

/// Downloads with curl(1) and hashes what came.
async fn download(
    shell: &dyn Shell,
    url: &str,
    partial: &str,
    digest: &Digest,
    progress: &dyn Progress,
) -> Result<String, StepError> {
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(StepError::failed(format!("`{url}` is no http://, https:// or file:// address")));
    }
    let words = |output| {
        let words = [
            "curl",
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--retry",
            "3",
            "--proto",
            "=http,https",
            "--connect-timeout",
            "20",
            "--output",
            output,
            "--",
            url,
        ];
        words.map(str::to_owned).to_vec()
    };
    match watched(shell, words(partial), partial, progress).await {
        Err(ShellError::NoProgram(_)) if shell.is_remote() => {
            // A host without curl gets it from here.
            let mut curl = Local.start(words("-")).await?;
            let output = curl.stdout.take().ok_or_else(|| StepError::failed("curl has no output"))?;
            put_stream(shell, partial, output, 0o644, progress).await?;
            let ended = curl.end().await?;
            if ended.status != 0 {
                shell.remove(partial).await?;
                return Err(StepError::failed(format!("{url}: {}", ended.stderr.trim())));
            }
        }
        other => other?,
    }
    succeed(shell, Program::new(["chmod", "0644", partial])).await?;
    succeed(shell, Program::new(["sync", partial])).await?;
    if shell.is_remote() {
        return hash(shell, partial, digest).await;
    }
    let (send, mut receive) = tokio::sync::mpsc::channel::<(u64, u64)>(8);
    let (from, hasher) = (PathBuf::from(partial), Hasher::new(digest));
    let work = tokio::task::spawn_blocking(move || copy_blocking(&from, None, hasher, &send));
    while receive.recv().await.is_some() {}
    match work.await {
        Ok(Ok(hex)) => Ok(hex),
        Ok(Err(e)) => Err(StepError::failed(format!("{partial}: {e}"))),
        Err(e) => Err(StepError::failed(e.to_string())),
    }
}

/// Runs a download on the host and looks now and then how far it is.
async fn watched(
    shell: &dyn Shell,
    words: Vec<String>,
    partial: &str,
    progress: &dyn Progress,
) -> Result<(), ShellError> {
    let fetch = succeed(shell, Program::new(words).limit(DOWNLOAD));
    tokio::pin!(fetch);
    let pause = Duration::from_millis(if shell.is_remote() { 2000 } else { 500 });
    loop {
        tokio::select! {
            result = &mut fetch => return result.map(std::mem::drop),
            () = tokio::time::sleep(pause) => {
                let done = shell.size(partial).await.ok().flatten().map_or(0, |(length, _)| length);
                progress.advance(done, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shell::Remote;
    use super::*;
    use crate::execute::NoProgress;

    #[tokio::test]
    async fn an_image_is_there_whole_or_not_at_all() {
        let elsewhere = Remote::command(["sh", "-c", r#"exec "$@""#, "sh"].into_iter(), Path::new("/"));
        for shell in [&Local as &dyn Shell, &elsewhere] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("a.img"), b"hello").unwrap();
            let good = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
            let bad = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
            let store = folder.path().join("store").to_str().unwrap().to_owned();
            let path = format!("{store}/2cf24dba5fb0-a.img");
            let put = |digest, source: &str| {
                let file = ImageFile { source: Source::Path(source.into()), digest: Digest::new(digest).unwrap() };
                let (path, base) = (path.clone(), folder.path().to_owned());
                async move { put(shell, &base, &file, &path, &NoProgress).await }
            };
            assert!(put(bad, "a.img").await.unwrap_err().to_string().contains("is sha256:2cf24"));
            let none = put(good, "b.img").await.unwrap_err();
            assert!(matches!(&none, StepError::Failed { hint: Some(h), .. } if h.contains("built")), "{none:?}");
            assert!(observe(shell, &store).await.unwrap().is_empty());
            assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0, "nothing half-done stays");
            assert_eq!(put(good, "a.img").await, Ok(Done::Changed));
            assert_eq!(put(good, "a.img").await, Ok(Done::Already));
            let seen = observe(shell, &store).await.unwrap();
            assert_eq!(seen.keys().map(Digest::as_str).collect::<Vec<_>>(), [good]);
            assert_eq!(drop(shell, &path).await, Ok(Done::Changed));
            assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0);
        }
    }
}
