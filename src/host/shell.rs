//! The host's shell: programs with arguments and a time limit, and files. Local for now; `ssh` comes with several hosts.
//!
//! Nothing goes through `sh`: arguments are arguments.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::observe::Boxed;

/// Most bytes kept of what a program prints: `ip -j` of a host with 4,000 taps prints about 8 MB.
const OUTPUT_CAP: u64 = 64 << 20;

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What it reads from its standard input.
    pub stdin: Vec<u8>,
    /// How long it may take.
    pub limit: Duration,
}

impl Program {
    /// A program with arguments, no input and 30 s.
    pub fn new<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect(), stdin: Vec::new(), limit: Duration::from_secs(30) }
    }
    /// The same with input.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }
    /// The same with another time limit.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the signal's number when it was killed.
    pub status: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: String,
}

/// Why a shell gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShellError {
    /// The program is not there.
    #[error("`{0}` is not installed on the host")]
    NoProgram(String),
    /// It ended with another status than 0.
    #[error("`{words}` failed ({status}): {complaint}")]
    Failed {
        /// The command line.
        words: String,
        /// Its exit status.
        status: i32,
        /// The end of what it complained.
        complaint: String,
    },
    /// It took too long and was killed.
    #[error("`{0}` did not end in {1} s")]
    TimedOut(String, u64),
    /// A file could not be read, written or renamed.
    #[error("{path}: {text}")]
    File {
        /// Which.
        path: String,
        /// Why.
        text: String,
        /// Whether it is not there.
        missing: bool,
    },
}

impl ShellError {
    pub(crate) fn file(path: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |e| Self::File {
            path: path.to_owned(),
            missing: e.kind() == std::io::ErrorKind::NotFound,
            text: e.to_string(),
        }
    }
    /// Whether a file is not there.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::File { missing: true, .. })
    }
}

/// A host's shell.
pub trait Shell: Send + Sync {
    /// Runs a program to its end, whatever its status is.
    fn run(&self, program: Program) -> Boxed<'_, Result<Output, ShellError>>;
    /// Reads the first `cap` bytes of a file.
    fn read<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>>;
    /// Reads the last `cap` bytes of a file.
    fn read_end<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>>;
    /// Writes a file beside `path`, syncs it, renames it to `path` and syncs the folder: it is there whole or not at all.
    fn write<'a>(&'a self, path: &'a str, bytes: Vec<u8>, mode: u32) -> Boxed<'a, Result<(), ShellError>>;
    /// Renames, and syncs the folder.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> Boxed<'a, Result<(), ShellError>>;
    /// Removes a file and syncs the folder. A missing one is no error; `false` then.
    fn remove<'a>(&'a self, path: &'a str) -> Boxed<'a, Result<bool, ShellError>>;
    /// Size in bytes and bytes used on the disk; `None` when it is not there.
    fn size<'a>(&'a self, path: &'a str) -> Boxed<'a, Result<Option<(u64, u64)>, ShellError>>;
    /// Names in a folder, sorted; empty when there is no such folder.
    fn list<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<Vec<String>, ShellError>>;
    /// Makes a folder and its parents with mode 0755.
    fn make_folder<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<(), ShellError>>;
    /// Bytes free for new files in a folder, or in the nearest parent that exists.
    fn free<'a>(&'a self, folder: &'a str) -> Boxed<'a, Result<u64, ShellError>>;
}

/// Runs a program that must end with 0 and gives what it printed.
///
/// # Errors
/// [`ShellError`], with the end of its complaint.
pub async fn succeed(shell: &dyn Shell, program: Program) -> Result<Vec<u8>, ShellError> {
    let words = program.words.join(" ");
    let output = shell.run(program).await?;
    if output.status == 0 {
        return Ok(output.stdout);
    }
    let lines: Vec<&str> = output.stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    let complaint = lines[lines.len().saturating_sub(3)..].join("; ");
    Err(ShellError::Failed { words, status: output.status, complaint })
}

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Shell for Local {
    fn run(&self, program: Program) -> Boxed<'_, Result<Output, ShellError>> {
        Box::pin(run(program))
    }
    fn read<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>> {
        Box::pin(async move {
            let file = tokio::fs::File::open(path).await.map_err(ShellError::file(path))?;
            let mut out = Vec::new();
            file.take(cap).read_to_end(&mut out).await.map_err(ShellError::file(path))?;
            Ok(out)
        })
    }
    fn read_end<'a>(&'a self, path: &'a str, cap: u64) -> Boxed<'a, Result<Vec<u8>, ShellError>> {
        Box::pin(async move {
            use tokio::io::AsyncSeekExt;
            let mut file = tokio::fs::File::open(path).await.map_err(ShellError::file(path))?;
            let length = file.metadata().await.map_err(ShellError::file(path))?.len();
            let start = std::io::SeekFrom::Start(length.saturating_sub(cap));
            file.seek(start).await.map_err(ShellError::file(path))?;
            let mut out = Vec::new();
            file.take(cap).read_to_end(&mut out).await.map_err(ShellError::file(path))?;
            Ok(out)
        })
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
        Box::pin(blocking(folder, move || {
            let entries = match std::fs::read_dir(&owned) {
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
        }))
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
        Box::pin(blocking(folder, move || {
            let mut path = Path::new(&owned);
            while !path.exists() {
                path = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
            }
            let facts = rustix::fs::statvfs(path)?;
            Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
        }))
    }
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

async fn run(program: Program) -> Result<Output, ShellError> {
    let words = program.words.join(" ");
    let name = program.words.first().cloned().unwrap_or_default();
    let spawned = Command::new(&name)
        .args(&program.words[1.min(program.words.len())..])
        // Messages are read and shown, and a program that asks would wait for ever.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => ShellError::NoProgram(name.clone()),
        _ => ShellError::Failed { words: words.clone(), status: -1, complaint: e.to_string() },
    })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A program that does not want its input closes it; that is no failure of ours.
            let _ = stdin.write_all(&program.stdin).await;
        }
    };
    async fn drain(from: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(from) = from {
            let _ = from.take(OUTPUT_CAP).read_to_end(&mut out).await;
        }
        out
    }
    let all = async { tokio::join!(feed, drain(stdout), drain(stderr), child.wait()) };
    let Ok(((), stdout, stderr, status)) = tokio::time::timeout(program.limit, all).await else {
        return Err(ShellError::TimedOut(words, program.limit.as_secs()));
    };
    let failed = |e: std::io::Error| ShellError::Failed { words, status: -1, complaint: e.to_string() };
    let status = status.map_err(failed)?;
    let status = status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt;
        128 + status.signal().unwrap_or(0)
    });
    Ok(Output { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}
