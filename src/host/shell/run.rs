//! A program that runs: its pipes, its end.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::{Output, Program, ShellError, remote};

/// Most bytes kept of what a program prints: `ip -j` of a host with 4,000 taps prints about 8 MB.
const OUTPUT_CAP: u64 = 64 << 20;

/// Most bytes kept of what a program complains.
const COMPLAINT_CAP: u64 = 1 << 20;

/// After a program has ended, how long something that it left behind may keep its standard error open: a shared connection
/// of an old OpenSSH does so for as long as it lives.
const LINGER: Duration = Duration::from_millis(300);

/// A program that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Its standard input; dropped, it ends.
    pub stdin: Option<ChildStdin>,
    /// Its standard output.
    pub stdout: Option<ChildStdout>,
    child: Child,
    complaint: JoinHandle<Vec<u8>>,
    words: String,
    /// How the host is reached, for a program on another machine: what is at the end of it is more than a status then.
    pub(super) target: Option<String>,
}

impl Running {
    pub(super) fn start(mut command: Command, words: &[String]) -> std::io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let complaint = tokio::spawn(drain(stderr, COMPLAINT_CAP));
        Ok(Self { stdin, stdout, child, complaint, words: words.join(" "), target: None })
    }

    /// Closes its input, if that is still open, and waits for its end.
    ///
    /// # Errors
    /// No connection, or no such program on the host.
    pub async fn end(mut self) -> Result<Output, ShellError> {
        drop(self.stdin.take());
        let stdout = drain(self.stdout.take(), OUTPUT_CAP).await;
        self.ended(stdout).await
    }

    async fn ended(mut self, stdout: Vec<u8>) -> Result<Output, ShellError> {
        let status = self.child.wait().await.map_err(|e| ShellError::Failed {
            words: self.words.clone(),
            status: -1,
            complaint: e.to_string(),
        })?;
        let status = status.code().unwrap_or_else(|| {
            use std::os::unix::process::ExitStatusExt;
            128 + status.signal().unwrap_or(0)
        });
        let complaint = match tokio::time::timeout(LINGER, &mut self.complaint).await {
            Ok(Ok(bytes)) => bytes,
            _ => Vec::new(),
        };
        let output = Output { status, stdout, stderr: String::from_utf8_lossy(&complaint).into_owned() };
        match self.target {
            Some(target) => remote::judge(target, output, &self.words),
            None => Ok(output),
        }
    }
}

async fn drain(from: Option<impl AsyncRead + Unpin>, cap: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(mut from) = from {
        let _ = (&mut from).take(cap).read_to_end(&mut out).await;
        // What is past the cap is read and forgotten: a full pipe would stop the program.
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    out
}

/// Feeds a program, reads what it prints and waits for its end.
pub(super) async fn run(mut running: Running, program: Program) -> Result<Output, ShellError> {
    let (stdin, stdout) = (running.stdin.take(), running.stdout.take());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A program that does not want its input closes it; that is no failure of ours.
            let _ = stdin.write_all(&program.stdin).await;
        }
    };
    let all = async {
        let ((), stdout) = tokio::join!(feed, drain(stdout, OUTPUT_CAP));
        running.ended(stdout).await
    };
    match tokio::time::timeout(program.limit, all).await {
        Ok(result) => result,
        Err(_) => Err(ShellError::TimedOut(program.words.join(" "), program.limit.as_secs())),
    }
}
