//! One controller at a time on a host: flock(2) on a file in its slots folder. The kernel gives it back when the holder
//! dies; what stands in the file says who it is.
//!
//! On another machine a process of that machine holds it for us, flock(1) in a shell, for as long as it hears from us:
//!
//! ```text
//!   we                 0 s . ──▶ 5 s . ──▶ …        no echo for 20 s: we act no more ([`Held::is_good`])
//!   the host's shell     ◀── beat     ◀── beat      no beat for 40 s, or its input ends: the lock is given back
//! ```
//!
//! We stop before the host lets somebody else begin, whichever way the connection breaks.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::oneshot;

use super::shell::{Program, Running, Shell, ShellError};
use crate::execute::LockError;
use crate::model::{LockHolder, Timestamp};

/// Between two signs of life to another machine.
const BEAT: Duration = Duration::from_secs(5);
/// After our last sign of life that was answered, how long the lock counts as ours: half of what the host waits.
const GOOD: Duration = Duration::from_secs(20);
/// How long another machine may take to give us the lock, or to say who has it.
const TAKE: Duration = Duration::from_secs(15);

/// Holds a lock while bytes come in, and answers each; `40` is twice [`GOOD`], in seconds.
const HOLD: &str = r#"command -v flock >/dev/null 2>&1 || { echo none; exit 0; }
case $1 in /*/*) (umask 022; mkdir -p -- "${1%/*}") || exit 1;; esac
exec 9<>"$1" || exit 1
tries=0
until flock -n 9; do
  tries=$((tries + 1))
  if [ $tries -gt 10 ]; then echo held; cat -- "$1"; exit 0; fi
  sleep 0.1 2>/dev/null || sleep 1
done
printf '%s' "$2" >"$1" && echo taken || exit 1
hear() { if command -v timeout >/dev/null 2>&1; then timeout 40 dd bs=1 count=1; else dd bs=1 count=1; fi; }
while heard=$(hear 2>/dev/null 9>&-) && [ -n "$heard" ]; do echo beat; done"#;

/// Says whether somebody has a lock, and who.
const LOOK: &str = r#"[ -e "$1" ] || exit 0
exec 9<"$1" || exit 1
flock -n -s 9 && exit 0
echo held; cat -- "$1""#;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Held(Holding);

#[derive(Debug)]
enum Holding {
    Here(#[expect(dead_code, reason = "held open: flock ends with the last descriptor")] File),
    There { last: Arc<Mutex<Last>>, stop: oneshot::Sender<()>, beats: tokio::task::JoinHandle<()> },
}

/// When our last sign of life that was answered was sent, by both clocks: one of them stands still while this machine sleeps.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    time: SystemTime,
    over: bool,
}

impl Last {
    fn now() -> Self {
        Self { at: Instant::now(), time: SystemTime::now(), over: false }
    }
    fn is_good(&self) -> bool {
        !self.over && self.at.elapsed() < GOOD && !self.time.elapsed().is_ok_and(|e| e >= GOOD)
    }
}

impl Held {
    /// Whether we certainly still have it.
    pub fn is_good(&self) -> bool {
        match &self.0 {
            Holding::Here(_) => true,
            Holding::There { last, .. } => last.lock().unwrap_or_else(PoisonError::into_inner).is_good(),
        }
    }

    /// Gives it back, and waits a moment until it is.
    pub async fn release(self) {
        if let Holding::There { stop, beats, .. } = self.0 {
            drop(stop);
            let _ = tokio::time::timeout(Duration::from_secs(2), beats).await;
        }
    }
}

/// Takes the lock of a host.
///
/// # Errors
/// [`LockError::Held`] with who has it.
pub async fn take(shell: &dyn Shell, path: &str, who: &LockHolder) -> Result<Held, LockError> {
    if shell.is_remote() {
        let taken = tokio::time::timeout(TAKE, take_there(shell, path, who)).await;
        return taken
            .unwrap_or_else(|_| Err(LockError::Failed(format!("{path}: no answer after {} s", TAKE.as_secs()))));
    }
    let (path, who) = (PathBuf::from(path), who.clone());
    let taken = tokio::task::spawn_blocking(move || take_here(&path, &who)).await;
    taken.map_err(|e| LockError::Failed(e.to_string()))?
}

/// Who holds the lock of a host now, if anybody does.
pub async fn holder(shell: &dyn Shell, path: &str) -> Option<LockHolder> {
    if !shell.is_remote() {
        let path = PathBuf::from(path);
        return tokio::task::spawn_blocking(move || holder_here(&path)).await.ok().flatten();
    }
    let program = Program::new(["sh", "-c", LOOK, "sh", path]).limit(TAKE);
    let said = shell.run(program).await.ok()?.stdout;
    said.strip_prefix(b"held\n").map(read)
}

async fn take_there(shell: &dyn Shell, path: &str, who: &LockHolder) -> Result<Held, LockError> {
    let failed = |e: ShellError| LockError::Failed(e.to_string());
    let text = serde_json::to_string(who).unwrap_or_default();
    let words = ["sh", "-c", HOLD, "sh", path, &text].map(str::to_owned).to_vec();
    let began = Last::now();
    let mut running = shell.start(words).await.map_err(failed)?;
    let mut answers = BufReader::new(running.stdout.take().ok_or_else(|| LockError::Failed("no answer".to_owned()))?);
    let mut answer = String::new();
    let _ = answers.read_line(&mut answer).await;
    match answer.trim_end() {
        "taken" => {}
        "held" => {
            let mut text = Vec::new();
            let _ = answers.take(1 << 16).read_to_end(&mut text).await;
            return Err(LockError::Held(read(&text)));
        }
        "none" => return Err(failed(ShellError::NoProgram("flock".to_owned()))),
        _ => {
            let ended = running.end().await.map_err(failed)?;
            return Err(LockError::Failed(format!("{path}: {}", ended.stderr.trim())));
        }
    }
    let last = Arc::new(Mutex::new(began));
    let (stop, stopped) = oneshot::channel();
    let beats = tokio::spawn(beat(running, answers, last.clone(), stopped));
    Ok(Held(Holding::There { last, stop, beats }))
}

/// Says now and then that we are there, until the lock is given back or the host does not answer.
async fn beat(
    mut running: Running,
    mut answers: BufReader<tokio::process::ChildStdout>,
    last: Arc<Mutex<Last>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let set = |to: Last| *last.lock().unwrap_or_else(PoisonError::into_inner) = to;
    loop {
        let sent = Last::now();
        let one = async {
            let stdin = running.stdin.as_mut()?;
            stdin.write_all(b".").await.ok()?;
            let mut answer = String::new();
            answers.read_line(&mut answer).await.ok()?;
            (answer == "beat\n").then_some(())
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(GOOD, one) => matches!(answered, Ok(Some(()))),
            _ = &mut stopped => break,
        };
        if !answered {
            set(Last { over: true, ..sent });
            tracing::warn!("the lock of a host was lost");
            break;
        }
        set(sent);
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            _ = &mut stopped => break,
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), running.end()).await;
}

fn take_here(path: &Path, who: &LockHolder) -> Result<Held, LockError> {
    let failed = |e: std::io::Error| LockError::Failed(format!("{}: {e}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
    // Whoever looks who holds it has it for a moment: two tries are enough.
    let patience = Instant::now() + Duration::from_millis(300);
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > patience {
            return Err(LockError::Held(read_file(&mut file)));
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    let text = serde_json::to_string(who).unwrap_or_default();
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(Held(Holding::Here(file)))
}

/// The same on this machine, without waiting for anything.
pub(super) fn holder_here(path: &Path) -> Option<LockHolder> {
    let mut file = File::open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    Some(read_file(&mut file))
}

fn read_file(file: &mut File) -> LockHolder {
    let mut text = Vec::new();
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut text));
    read(&text)
}

/// Who a lock's file names.
pub(super) fn read(text: &[u8]) -> LockHolder {
    let nobody = || LockHolder { token: String::new(), who: "another process".to_owned(), since: Timestamp(0) };
    serde_json::from_slice(text).unwrap_or_else(|_| nobody())
}

#[cfg(test)]
mod tests {
    use super::super::shell::{Local, Remote};
    use super::*;

    fn who(n: &str) -> LockHolder {
        LockHolder { token: n.to_owned(), who: format!("{n} it's \"her\""), since: Timestamp(1) }
    }

    #[tokio::test]
    async fn the_second_is_told_who_the_first_is() {
        let remote = || Remote::command(["sh", "-c", r#"exec "$@""#, "sh"].into_iter(), Path::new("/"));
        let (ann, bob) = (remote(), remote());
        for (first, second) in
            [(&Local as &dyn Shell, &Local as &dyn Shell), (&ann, &bob), (&ann, &Local), (&Local, &bob)]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("slots/.f.lock").to_str().unwrap().to_owned();
            assert_eq!(holder(first, &path).await, None);
            let held = take(first, &path, &who("ann")).await.unwrap();
            assert!(held.is_good());
            assert_eq!(take(second, &path, &who("bob")).await.unwrap_err(), LockError::Held(who("ann")));
            assert_eq!(holder(second, &path).await, Some(who("ann")));
            held.release().await;
            assert_eq!(holder(second, &path).await, None);
            let held = take(second, &path, &who("bob")).await.unwrap();
            // Dropping gives it back too, a moment later.
            drop(held);
            let again = take(first, &path, &who("ann")).await;
            assert!(again.is_ok(), "{again:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_a_lost_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".f.lock").to_str().unwrap().to_owned();
        // The way to the host ends after a second, whoever is at its ends.
        let cut = Remote::command(["timeout", "-s", "KILL", "1"].into_iter(), Path::new("/"));
        let held = take(&cut, &path, &who("ann")).await.unwrap();
        assert!(held.is_good());
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !held.is_good() {
                break;
            }
        }
        assert!(!held.is_good());
        assert!(take(&Local, &path, &who("bob")).await.is_ok(), "the host gave it back");
    }
}
