//! Another machine, through `sh` and programs that coreutils and busybox both have.
//!
//! What is to be run goes through [`WRAP`] on the host, so that "not there" and a program's own status are told from those
//! of ssh: 255 is left for "no connection" alone (ssh(1), EXIT STATUS), which means that the outcome is unknown.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore};

use super::link::Link;
use super::run::{Running, run};
use super::{Output, Program, Shell, ShellError};
use crate::observe::Boxed;

/// Calls at once over one connection. An sshd serves ten sessions (`MaxSessions`); a lock and copies need some of them.
const CALLS: usize = 6;

/// How long a call on a file may take.
const FILE: Duration = Duration::from_secs(30);

/// How long a connection of its own may take: somewhat more than ssh's `ConnectTimeout`.
const ALONE: Duration = Duration::from_secs(10);

/// What the way to the host may take beside the program's own time.
const WAY: Duration = Duration::from_secs(10);

/// What [`WRAP`] says of a program that is not there, and of one that ended with 255.
const NO_PROGRAM: &str = "stablehand: no such program";
const OWN_255: &str = "stablehand: ended with 255";

/// Runs what follows its first argument, the seconds that it may take. A session that nobody logged in to lacks `sbin`.
const WRAP: &str = r#"export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
limit=$1; shift
if ! command -v "$1" >/dev/null 2>&1; then echo 'stablehand: no such program' >&2; exit 127; fi
if [ "$limit" -gt 0 ] && command -v timeout >/dev/null 2>&1; then timeout -k 5 "$limit" "$@"; else "$@"; fi
status=$?
if [ $status = 255 ]; then echo 'stablehand: ended with 255' >&2; exit 254; fi
exit $status"#;

/// How timeout(1) ends when the time is over: 124 of coreutils, the signal's number and 128 of busybox or after `-k`.
const TIMED_OUT: [i32; 3] = [124, 128 + 15, 128 + 9];

/// The status with which the scripts below say that a file is not there.
pub(super) const MISSING: i32 = 44;

/// Begins every script on files. `there`: whether a path is there, links followed; that a folder above it may not be
/// looked into is not "no".
pub(in crate::host) const LIBRARY: &str = r#"
fail() { echo "$1" >&2; exit 1; }
there() {
  [ -e "$1" ] && return 0
  said=$(ls -d -L -- "$1" 2>&1 >/dev/null) && return 0
  case $said in *": No such file or directory") return 1;; esac
  fail "${said##*: }"
}
settle() { sync -- "$1" 2>/dev/null || sync; }
folder_of() { case $1 in */*) folder=${1%/*}; folder=${folder:-/};; *) folder=.;; esac; }
"#;

const READ: &str = r#"there "$1" || exit 44; head -c "$2" -- "$1""#;
const READ_END: &str = r#"there "$1" || exit 44; tail -c "$2" -- "$1""#;
/// Standard input that breaks off is no whole file: its length says so.
const WRITE: &str = r#"partial=$1.partial; folder_of "$1"
[ ! -d "$1" ] || fail "it is a folder"
there "$folder" || exit 44
rm -f -- "$partial" && (umask 077; cat >"$partial") || exit 1
[ "$(wc -c <"$partial")" -eq "$2" ] || { rm -f -- "$partial"; fail "the connection broke while it was written"; }
chmod "$3" "$partial" && settle "$partial" && mv -f -- "$partial" "$1" && settle "$folder""#;
const RENAME: &str = r#"there "$1" || [ -L "$1" ] || exit 44
[ ! -d "$2" ] || fail "it is a folder"
folder_of "$2"; mv -f -- "$1" "$2" && settle "$folder""#;
const REMOVE: &str = r#"there "$1" || [ -L "$1" ] || exit 44
folder_of "$1"; rm -f -- "$1" && settle "$folder""#;
const SIZE: &str = r#"there "$1" || exit 44; stat -L -c '%s %b %B' -- "$1""#;
/// Names end with a zero byte, since they may hold a line's end.
const LIST: &str = r#"there "$1" || exit 44; [ -d "$1" ] || fail "Not a directory"; cd -- "$1" || exit 1
for name in * .[!.]* ..?*; do if [ -e "$name" ] || [ -L "$name" ]; then printf '%s\0' "$name"; fi; done"#;
const MAKE_FOLDER: &str = r#"umask 022; mkdir -p -- "$1""#;
const FREE: &str = r#"folder=$1
until there "$folder"; do case $folder in */*) folder=${folder%/*}; folder=${folder:-/};; *) exit 44;; esac; done
stat -f -c '%a %S' -- "$folder""#;

/// A host that is another machine.
#[derive(Debug)]
pub struct Remote {
    link: Link,
    calls: Semaphore,
    opening: Mutex<()>,
}

impl Remote {
    /// Over OpenSSH: `host` or `user@host`, its port and the path of a private key.
    pub fn ssh(target: &str, port: Option<u16>, identity: Option<&str>, base: &Path) -> Self {
        Self::over(Link::ssh(target, port, identity, base))
    }
    /// By a command that runs what follows it as arguments.
    pub fn command<'a>(words: impl Iterator<Item = &'a str>, base: &Path) -> Self {
        Self::over(Link::command(words, base))
    }
    fn over(link: Link) -> Self {
        Self { link, calls: Semaphore::new(CALLS), opening: Mutex::new(()) }
    }

    /// One connection for all. Only one opens it: many at once would each make one of their own.
    async fn open(&self) -> Result<(), ShellError> {
        if self.link.to_open().is_none() {
            return Ok(());
        }
        let _one = self.opening.lock().await;
        let Some(command) = self.link.to_open() else { return Ok(()) };
        let words = vec!["true".to_owned()];
        let mut running = self.spawn(command, &words)?;
        // ssh goes on behind our back with the connection, and its standard output with it: only its end counts.
        running.stdout.take();
        let ended = tokio::time::timeout(FILE, running.end()).await;
        let ended = ended.map_err(|_| ShellError::TimedOut(self.link.name(), FILE.as_secs()))??;
        if ended.status == 0 { Ok(()) } else { Err(failed("true", &ended)) }
    }

    fn spawn(&self, mut command: tokio::process::Command, words: &[String]) -> Result<Running, ShellError> {
        // Ctrl-C is ours to handle: what is half-way on a host comes to its end.
        command.process_group(0);
        let mut running = Running::start(command, words)
            .map_err(|e| ShellError::NoLink { program: self.link.program().to_owned(), text: e.to_string() })?;
        running.target = Some(self.link.name());
        Ok(running)
    }

    async fn wrapped(&self, words: &[String], limit: Duration) -> Result<Running, ShellError> {
        self.open().await?;
        let head = ["sh", "-c", WRAP, "sh", &limit.as_secs().to_string()].map(str::to_owned);
        let all: Vec<String> = head.into_iter().chain(words.iter().cloned()).collect();
        self.spawn(self.link.to_run(&all), words)
    }

    async fn call(&self, program: Program) -> Result<Output, ShellError> {
        let closed = |e: tokio::sync::AcquireError| ShellError::TimedOut(e.to_string(), 0);
        let _place = self.calls.acquire().await.map_err(closed)?;
        let began = Instant::now();
        let (words, limit) = (program.words.join(" "), program.limit);
        // timeout(1) counts in whole seconds.
        let whole = Duration::from_secs(limit.as_secs().max(1));
        let running = self.wrapped(&program.words, whole).await?;
        match run(running, program.limit(limit + WAY)).await {
            Err(ShellError::TimedOut(..)) => Err(ShellError::TimedOut(words, limit.as_secs())),
            Ok(output) if TIMED_OUT.contains(&output.status) && began.elapsed() >= whole => {
                Err(ShellError::TimedOut(words, limit.as_secs()))
            }
            other => other,
        }
    }

    /// Runs one of the scripts on `path`. `None` when it is not there.
    async fn file(
        &self,
        what: &str,
        script: &str,
        path: &str,
        more: &[&str],
        input: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ShellError> {
        let script = format!("{LIBRARY}{script}");
        let head = ["sh", "-c", &script, "sh", path];
        // The script in an error message would help nobody.
        let program = Program::new(head.iter().chain(more).copied()).stdin(input).limit(FILE);
        let output = match self.call(program).await {
            Err(ShellError::TimedOut(_, after)) => {
                return Err(ShellError::TimedOut(format!("{what} {path} over {}", self.link.name()), after));
            }
            other => other?,
        };
        match output.status {
            0 => Ok(Some(output.stdout)),
            MISSING => Ok(None),
            _ => {
                let last = output.stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it failed").to_owned();
                Err(ShellError::File { path: path.to_owned(), text: last, missing: false })
            }
        }
    }
}

/// Tells a program's own end from that of the way to it.
pub(super) fn judge(target: String, mut output: Output, words: &str) -> Result<Output, ShellError> {
    let marked = |mark: &str| output.stderr.lines().next_back() == Some(mark);
    match output.status {
        255 => {
            let said = output.stderr.lines().rfind(|l| !l.trim().is_empty());
            Err(ShellError::Lost { target, text: said.unwrap_or("the connection broke").trim().to_owned() })
        }
        127 if marked(NO_PROGRAM) => Err(ShellError::NoProgram(words.split(' ').next().unwrap_or_default().to_owned())),
        254 if marked(OWN_255) => {
            output.status = 255;
            let end = output.stderr.trim_end().len() - OWN_255.len();
            output.stderr.truncate(end);
            Ok(output)
        }
        _ => Ok(output),
    }
}

fn failed(words: &str, output: &Output) -> ShellError {
    ShellError::Failed { words: words.to_owned(), status: output.status, complaint: output.stderr.trim().to_owned() }
}

fn missing(path: &str) -> ShellError {
    ShellError::File { path: path.to_owned(), text: "No such file or directory".to_owned(), missing: true }
}

/// Numbers that stat(1) printed, apart by blanks.
fn numbers<const N: usize>(path: &str, text: &[u8]) -> Result<[u64; N], ShellError> {
    let text = String::from_utf8_lossy(text);
    let found: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    found.try_into().map_err(|_| ShellError::File {
        path: path.to_owned(),
        text: format!("stat says `{}`", text.trim()),
        missing: false,
    })
}

impl Shell for Remote {
    fn is_remote(&self) -> bool {
        true
    }
    fn start(&self, words: Vec<String>) -> Boxed<'_, Result<Running, ShellError>> {
        Box::pin(async move { self.wrapped(&words, Duration::ZERO).await })
    }
    fn afresh(&self) -> Boxed<'_, Result<(), ShellError>> {
        Box::pin(async move {
            let words = vec!["true".to_owned()];
            let running = self.spawn(self.link.to_run_alone(&words), &words)?;
            let ended = tokio::time::timeout(ALONE, running.end()).await;
            let ended = ended.map_err(|_| ShellError::TimedOut(self.link.name(), ALONE.as_secs()))??;
            if ended.status == 0 { Ok(()) } else { Err(failed("true", &ended)) }
        })
    }
    fn run(&self, program: Program) -> Boxed<'_, Result<Output, ShellError>> {
        Box::pin(self.call(program))
    }
    fn read<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>> {
        Box::pin(async move {
            let found = self.file("read", READ, path, &[&cap.to_string()], Vec::new()).await?;
            found.ok_or_else(|| missing(path))
        })
    }
    fn read_end<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>> {
        Box::pin(async move {
            let found = self.file("read", READ_END, path, &[&cap.to_string()], Vec::new()).await?;
            found.ok_or_else(|| missing(path))
        })
    }
    fn write<'a>(&'a self, path: &'a str, bytes: Vec<u8>, mode: u32) -> Boxed<'a, Result<(), ShellError>> {
        Box::pin(async move {
            let (length, mode) = (bytes.len().to_string(), format!("{mode:o}"));
            let written = self.file("write", WRITE, path, &[&length, &mode], bytes).await?;
            written.map(drop).ok_or_else(|| missing(path))
        })
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> Boxed<'a, Result<(), ShellError>> {
        Box::pin(async move {
            let renamed = self.file("rename", RENAME, from, &[to], Vec::new()).await?;
            renamed.map(drop).ok_or_else(|| missing(to))
        })
    }
    fn remove<'a>(&'a self, path: &'a str) -> Boxed<'a, Result<bool, ShellError>> {
        Box::pin(async move { Ok(self.file("remove", REMOVE, path, &[], Vec::new()).await?.is_some()) })
    }
    fn size<'a>(&'a self, path: &'a str) -> Boxed<'a, Result<Option<(u64, u64)>, ShellError>> {
        Box::pin(async move {
            let Some(text) = self.file("look at", SIZE, path, &[], Vec::new()).await? else { return Ok(None) };
            let [length, blocks, block] = numbers(path, &text)?;
            Ok(Some((length, blocks.saturating_mul(block))))
        })
    }
    fn list<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<Vec<String>, ShellError>> {
        Box::pin(async move {
            let text = self.file("list", LIST, folder, &[], Vec::new()).await?.unwrap_or_default();
            let names = text.split(|b| *b == 0).filter(|n| !n.is_empty());
            // A name that is not UTF-8 is none of ours.
            let mut names: Vec<String> = names.filter_map(|n| String::from_utf8(n.to_vec()).ok()).collect();
            names.sort();
            Ok(names)
        })
    }
    fn make_folder<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<(), ShellError>> {
        Box::pin(async move { self.file("make", MAKE_FOLDER, folder, &[], Vec::new()).await.map(drop) })
    }
    fn free<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<u64, ShellError>> {
        Box::pin(async move {
            let found = self.file("look at", FREE, folder, &[], Vec::new()).await?;
            let [blocks, block] = numbers(folder, &found.ok_or_else(|| missing(folder))?)?;
            Ok(blocks.saturating_mul(block))
        })
    }
}
