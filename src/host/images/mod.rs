//! The image store of a host: files by digest, each whole or not there.
//!
//! Beside a file `<path>` lie `<path>.digest` (its whole digest as it was fetched; of one that was unpacked a line says
//! `content` and the digest of what lies there; and a note of which generation it is), and a mark `<path>.for.<fleet>` of each fleet that uses the store: `needed`,
//! or `unneeded since` and seconds since 1970. Beside one that was captured from a guest that can tell lies `<path>.packages`. On its way in it is `<path>.partial`, with what the server said of it in
//! `<path>.partial.head`; whoever writes to it holds flock(2) on `<path>.lock`.

mod bring;
mod capture;
mod fetch;
mod finish;
mod marks;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) use capture::Capture;
pub(super) use fetch::{Patience, USUAL};
pub(super) use marks::{drop, mark, mark_of, needed, read_mark};

use self::fetch::{Came, Download};
use self::finish::{Fetched, Finished, finish};
use super::lock::{self, Held};
use super::shell::{Output, Program, Shell, ShellError, transfer};
use crate::execute::{Done, LockError, Progress, StepError};
use crate::model::{Bytes, Digest, ImageFile, ImageNote, LockHolder, Name, Source};

/// Begins every script that writes to a file of the store: `$1` is its path. The lock is held until the last program ends that
/// the script has started, whatever becomes of us.
const LOCKED: &str = r#"
command -v flock >/dev/null 2>&1 || fail "flock is not installed"
exec 9>>"$1.lock" || exit 1
flock -n 9 || exit 75
# Whoever had it may have taken the file away with it.
[ "$(stat -L -c %i /proc/self/fd/9 2>/dev/null)" = "$(stat -c %i -- "$1.lock" 2>/dev/null)" ] || exit 75
if there "$1"; then rm -f -- "$1.lock"; exit 76; fi
"#;

/// What the scripts say by their exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Somebody else has the lock.
    Held = 75,
    /// The file is in the store.
    Already = 76,
    /// A program is not there.
    NoProgram = 77,
}

/// What is put where, for whom.
pub(super) struct Put<'p> {
    pub(super) file: &'p ImageFile,
    pub(super) path: &'p str,
    pub(super) fleet: &'p Name,
    /// Folder of relative paths on this machine.
    pub(super) base: &'p Path,
    /// The shell of the host that a [`Source::Host`] names.
    pub(super) peer: Option<&'p dyn Shell>,
    /// Which generation it is: beside the file before it has its name.
    pub(super) note: Option<&'p ImageNote>,
    pub(super) patience: Patience,
}

impl Put<'_> {
    /// Puts a file into the store.
    ///
    /// # Errors
    /// A source that cannot be read, a digest that is another, a full disk.
    pub(super) async fn run(&self, shell: &dyn Shell, progress: &dyn Progress) -> Result<Done, StepError> {
        let Self { file, path, fleet, .. } = self;
        if shell.size(path).await?.is_some() {
            write_digest(shell, path, &file.digest).await?;
            return needed(shell, path, fleet).await;
        }
        if let Some((folder, _)) = path.rsplit_once('/') {
            shell.make_folder(folder).await?;
        }
        let partial = format!("{path}.partial");
        let found = match &file.source {
            Source::Url(url) if !url.starts_with("file://") => self.download(shell, url, &partial, progress).await?,
            _ => {
                let hashed = {
                    let _one = lock(shell, path).await?;
                    if shell.size(path).await?.is_some() {
                        shell.remove(&lock_path(path)).await?;
                        return needed(shell, path, fleet).await;
                    }
                    shell.remove(&partial).await?;
                    let came = self.bring(shell, &partial, progress).await;
                    shell.remove(&lock_path(path)).await?;
                    came?
                };
                let fetched = Fetched { file, path, partial: &partial, fleet: fleet.as_str(), hashed, note: self.note };
                finish(shell, &fetched, progress).await?
            }
        };
        match found {
            Finished::Whole => Ok(Done::Changed),
            Finished::Already => {
                needed(shell, path, fleet).await?;
                Ok(Done::Already)
            }
            Finished::Other(actual) => Err(self.another(&actual)),
        }
    }

    /// Brings a file of this machine or of another host.
    async fn bring(
        &self,
        shell: &dyn Shell,
        partial: &str,
        progress: &dyn Progress,
    ) -> Result<Option<String>, StepError> {
        let digest = &self.file.digest;
        match (&self.file.source, self.peer) {
            (Source::Host { path, .. }, Some(peer)) => {
                match transfer(peer, path, shell, partial, 0o644, progress).await {
                    Ok(()) => bring_packages(peer, path, shell, self.path).await.map(|()| None),
                    Err(error) => Err(full(shell, partial, error).await),
                }
            }
            (Source::Host { host, .. }, None) => {
                Err(StepError::failed(format!("host/{host}, which has the file, is not in the fleet")))
            }
            (Source::Path(from), _) => {
                bring::bring(shell, self.base.join(from.as_ref()), partial, digest, progress).await
            }
            (Source::Url(url), _) => {
                let from = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
                bring::bring(shell, from, partial, digest, progress).await
            }
        }
    }

    async fn download(
        &self,
        shell: &dyn Shell,
        url: &str,
        partial: &str,
        progress: &dyn Progress,
    ) -> Result<Finished, StepError> {
        let Self { file, path, fleet, patience, note, .. } = *self;
        let download = Download { url, file, path, partial, patience };
        let fetched = || Fetched { file, path, partial, fleet: fleet.as_str(), hashed: None, note };
        for last in [false, true] {
            let resumed = download.had(shell).await? > 0;
            match download.run(shell, progress).await {
                Ok(Came::Already) => return Ok(Finished::Already),
                Ok(Came::Whole) => {}
                // A server that says a wrong length never ends; what came may be all of it for all that.
                Err(error) => {
                    let whole = download.had(shell).await? > 0 && has_digest(shell, partial, &file.digest).await;
                    if !whole {
                        return Err(error);
                    }
                }
            }
            match finish(shell, &fetched(), progress).await? {
                // A part of it was of another file, or of a crash: once more from the beginning, and not for ever.
                Finished::Other(_) if resumed && !last => download.begin_anew(shell).await?,
                found => return Ok(found),
            }
        }
        Err(StepError::failed(format!("{url}: it could not be fetched")))
    }

    fn another(&self, actual: &str) -> StepError {
        let Self { file, .. } = self;
        let at = if let Source::Host { host, .. } = &file.source { format!(" at host/{host}") } else { String::new() };
        failed(
            format!("{}{at} is {}:{actual}, not {}", file.source.text(), file.digest.algorithm(), file.digest.as_str()),
            "the file changed since its digest was written down: check it, then write the new digest",
        )
    }
}

/// A file of another host's store comes into this one, at the same path: through the controller.
pub(super) struct Copy<'c> {
    pub(super) digest: &'c Digest,
    pub(super) path: &'c str,
    /// Its path at the peer.
    pub(super) from: &'c str,
    pub(super) fleet: &'c Name,
    pub(super) peer: &'c dyn Shell,
    pub(super) peer_name: &'c Name,
}

impl Copy<'_> {
    /// Copies it.
    ///
    /// # Errors
    /// A copy that is damaged, a full disk.
    pub(super) async fn run(&self, shell: &dyn Shell, progress: &dyn Progress) -> Result<Done, StepError> {
        let Self { digest, path, from, fleet, peer, peer_name } = self;
        if shell.size(path).await?.is_some() {
            write_digest(shell, path, digest).await?;
            return needed(shell, path, fleet).await;
        }
        if let Some((folder, _)) = path.rsplit_once('/') {
            shell.make_folder(folder).await?;
        }
        let partial = format!("{path}.partial");
        let _one = lock(shell, path).await?;
        if shell.size(path).await?.is_some() {
            shell.remove(&lock_path(path)).await?;
            return needed(shell, path, fleet).await;
        }
        let text = match peer.read(&digest_path(from), NOTE).await {
            // One that was put there before files had one.
            Err(e) if e.is_missing() => format!("{}\n", digest.as_str()).into_bytes(),
            text => text?,
        };
        let content = content_of(&text).unwrap_or_else(|| (*digest).clone());
        shell.remove(&partial).await?;
        if let Err(error) = transfer(*peer, from, shell, &partial, 0o644, progress).await {
            shell.remove(&lock_path(path)).await?;
            return Err(full(shell, &partial, error).await);
        }
        let found = hash(shell, &partial, &content).await?;
        if found != content.hex() {
            shell.remove(&partial).await?;
            shell.remove(&lock_path(path)).await?;
            return Err(failed(
                format!("{from} at {peer_name} is {}:{found}, not {}", content.algorithm(), content.as_str()),
                format!("the copy at {peer_name} is damaged: take it away there"),
            ));
        }
        bring_packages(*peer, from, shell, path).await?;
        shell.write(&digest_path(path), text, 0o644).await?;
        needed(shell, path, fleet).await?;
        super::disk::publish(shell, &partial, path).await?;
        shell.remove(&lock_path(path)).await?;
        Ok(Done::Changed)
    }
}

/// Beside each image: its whole digest, since its name holds only 12 digits of it.
fn digest_path(path: &str) -> String {
    format!("{path}.digest")
}

fn lock_path(path: &str) -> String {
    format!("{path}.lock")
}

/// Where the software of a generation is listed: a package and its version a line.
fn packages_path(path: &str) -> String {
    format!("{path}.packages")
}

/// Longest text beside an image that is read: digests, and a note with its provenance.
const NOTE: u64 = 64 << 10;

/// Longest list of packages that is kept: 40,000 packages.
pub(super) const PACKAGES: u64 = 4 << 20;

/// Takes the list of packages along from another host. One that is not there, or does not come, is no reason to do without the
/// image.
async fn bring_packages(peer: &dyn Shell, from: &str, shell: &dyn Shell, path: &str) -> Result<(), StepError> {
    match peer.read(&packages_path(from), PACKAGES).await {
        Ok(list) => Ok(shell.write(&packages_path(path), list, 0o644).await?),
        Err(_) => Ok(()),
    }
}

/// How long somebody else's write is waited for.
const TURN: Duration = Duration::from_secs(3600);

/// Takes the lock of a file of the store; waits while somebody else writes it.
async fn lock(shell: &dyn Shell, path: &str) -> Result<Held, StepError> {
    let began = std::time::Instant::now();
    let holder = LockHolder { token: String::new(), who: "a fetch".to_owned(), since: super::fleet::now() };
    loop {
        match lock::take(shell, &lock_path(path), &holder).await {
            Ok(held) => return Ok(held),
            Err(LockError::Held(_)) if began.elapsed() < TURN => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(LockError::Held(_)) => {
                return Err(StepError::Stale(format!("somebody else writes {path} for an hour")));
            }
            Err(LockError::Failed(text)) => return Err(StepError::failed(text)),
        }
    }
}

pub(super) async fn write_digest(shell: &dyn Shell, path: &str, digest: &Digest) -> Result<(), StepError> {
    let file = digest_path(path);
    // A note that is there stays.
    if shell.read(&file, NOTE).await.is_ok_and(|t| read_digest(&t).is_some_and(|(found, _)| found == *digest)) {
        return Ok(());
    }
    Ok(shell.write(&file, format!("{}\n", digest.as_str()).into_bytes(), 0o644).await?)
}

/// Writes which generation a file is, as the last line beside it.
///
/// # Errors
/// [`ShellError`].
pub(super) async fn note(shell: &dyn Shell, path: &str, digest: &Digest, note: &ImageNote) -> Result<(), StepError> {
    let file = digest_path(path);
    let there = shell.read(&file, NOTE).await.unwrap_or_default();
    // What was made in the fleet is known by its note alone: nothing that says less takes its place.
    let stays = |old: ImageNote| {
        old.image == note.image && old.made.is_some() >= note.made.is_some()
            || old.made.is_some() && note.made.is_none()
    };
    if read_digest(&there).is_some_and(|(found, old)| found == *digest && old.is_some_and(stays)) {
        return Ok(());
    }
    let content = content_of(&there).map(|c| format!("{CONTENT}{}\n", c.as_str())).unwrap_or_default();
    let line = serde_json::to_string(note).map_err(|error| StepError::failed(error.to_string()))?;
    shell.write(&file, format!("{}\n{content}{line}\n", digest.as_str()).into_bytes(), 0o644).await?;
    Ok(())
}

/// What stands beside an image: its digest, and the note when there is one.
pub(super) fn read_digest(text: &[u8]) -> Option<(Digest, Option<ImageNote>)> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let digest = Digest::new(lines.next()?.trim()).ok()?;
    Some((digest, lines.find_map(|line| serde_json::from_str(line).ok())))
}

/// Begins the line with the digest of what lies there, where it was unpacked.
const CONTENT: &str = "content ";

/// The digest of what lies there, where it is not the one that it came with.
fn content_of(text: &[u8]) -> Option<Digest> {
    let text = String::from_utf8_lossy(text);
    text.lines().find_map(|line| Digest::new(line.strip_prefix(CONTENT)?.trim()).ok())
}

/// Hashing goes at 200 MB/s and more: 700 GiB in an hour.
const HASH: Duration = Duration::from_secs(3600);

/// The digest of a file on the host, in hexadecimal: sha256sum(1) or sha512sum(1).
async fn hash(shell: &dyn Shell, path: &str, digest: &Digest) -> Result<String, StepError> {
    let program = Program::new([&format!("{}sum", digest.algorithm()), "--", path]).limit(HASH);
    let said = super::shell::succeed(shell, program).await?;
    // A name with a backslash in it is written in another way, and a backslash put before the digest.
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(said.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

async fn has_digest(shell: &dyn Shell, path: &str, digest: &Digest) -> bool {
    hash(shell, path, digest).await.is_ok_and(|hex| hex == digest.hex())
}

fn failed(what: impl Into<String>, hint: impl Into<String>) -> StepError {
    StepError::Failed { what: what.into(), hint: Some(hint.into()), detail: Vec::new() }
}

/// The error of a disk that is full: how much there is, how much was wanted.
async fn no_room(shell: &dyn Shell, path: &str, wanted: u64) -> StepError {
    let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let free = shell.free(folder).await.map_or_else(|_| "too little".to_owned(), |free| Bytes(free).to_string());
    let wanted =
        if wanted > 0 { format!("{} are needed in {folder}", Bytes(wanted)) } else { format!("no room in {folder}") };
    failed(format!("{wanted}, {free} free"), "free some of it, or name another folder in `storage.images` of the host")
}

/// Tells a full disk from other errors of a copy.
async fn full(shell: &dyn Shell, path: &str, error: ShellError) -> StepError {
    match &error {
        ShellError::File { text, .. } if text.contains("No space left") => no_room(shell, path, 0).await,
        _ => error.into(),
    }
}

/// Runs a program on the host and looks now and then how far the file is that it writes: its path and its length in the end. What
/// has holes is as far as its blocks are.
async fn tell(
    shell: &dyn Shell,
    program: Program,
    grows: Option<(&str, u64)>,
    progress: &dyn Progress,
) -> Result<Output, ShellError> {
    let run = shell.run(program);
    tokio::pin!(run);
    let pause = Duration::from_millis(if shell.is_remote() { 2000 } else { 500 });
    loop {
        tokio::select! {
            result = &mut run => return result,
            () = tokio::time::sleep(pause) => {
                if let Some((path, total)) = grows {
                    let done = shell.size(path).await.ok().flatten().map_or(0, |(length, used)| length.min(used));
                    progress.advance(done, total);
                }
            }
        }
    }
}
