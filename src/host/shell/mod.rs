//! The host's shell: programs with arguments and a time limit, and files.
//!
//! [`Local`] is this machine. [`Remote`] is another one, reached by OpenSSH or by a command; there everything is done by
//! `sh` and programs that coreutils and busybox both have. Arguments are arguments on both: no line is put together for a
//! shell to read, but for ssh, whose line is quoted in one place (`link`).

mod link;
mod local;
mod remote;
mod run;
mod stream;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use local::Local;
#[cfg(feature = "libvirt")]
pub(crate) use local::sync_folder;
#[cfg(feature = "libvirt")]
pub(super) use local::{free, names};
#[cfg(feature = "libvirt")]
pub(super) use remote::LIBRARY;
pub use remote::Remote;
pub use run::Running;
pub use stream::copy_between;
#[cfg(any(test, feature = "libvirt"))]
pub(crate) use stream::put_stream;
#[cfg(feature = "libvirt")]
pub(crate) use stream::transfer;

use crate::model::HostShell;
use crate::observe::Boxed;

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
    /// There is no connection to the host, or it broke: what was asked may have been done or not.
    #[error("{target} cannot be reached: {text}")]
    Lost {
        /// How the host is reached.
        target: String,
        /// What ssh or the command said.
        text: String,
    },
    /// The program by which the host is reached could not be started here: nothing was done.
    #[error("`{program}`, by which the host is reached, cannot be run: {text}")]
    NoLink {
        /// ssh or the command.
        program: String,
        /// Why.
        text: String,
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
    /// Whether the outcome is unknown: it may have been done or not.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::TimedOut(..))
    }
    /// Whether a file is not there.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::File { missing: true, .. })
    }
}

/// A host's shell.
pub trait Shell: Send + Sync {
    /// Whether it is another machine than the one that we run on.
    fn is_remote(&self) -> bool;
    /// Starts a program whose input and output the caller has in hand. It ends with the [`Running`].
    fn start(&self, words: Vec<String>) -> Boxed<'_, Result<Running, ShellError>>;
    /// Reaches the host by a connection that is new, whatever connection calls share.
    fn afresh(&self) -> Boxed<'_, Result<(), ShellError>>;
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

/// The shell that a host's document asks for. `base` is the folder to which relative paths of it belong.
pub fn of(shell: &HostShell, base: &Path) -> Arc<dyn Shell> {
    match shell {
        HostShell::Local => Arc::new(Local),
        HostShell::Ssh { target, port, identity } => Arc::new(Remote::ssh(target, *port, identity.as_deref(), base)),
        HostShell::Command(words) => Arc::new(Remote::command(words.iter().map(AsRef::as_ref), base)),
    }
}
