//! Downloads: curl(1) on the host, again and again, each time from where it was cut.
//!
//! ```text
//!            ┌───────────────── cut, stalled, 5xx: a pause, then on from the partial file ◀─┐
//!   begin ──▶ curl -C - ──▶ all of it came ──▶ digest right ──▶ unpack, rename              │
//!     ▲        │    │                              └─ wrong ──▶ it was resumed: once more ──┤
//!     │        │    └─ the server gives no ranges, or has another file now ─▶ from nothing ─┤
//!     │        └─ nothing came in the last tries, or the time is over ──▶ error, kept      ─┘
//!     └── the next pass, or the next controller, goes on from what is there
//! ```

use std::time::{Duration, Instant};

use super::super::shell::{LIBRARY, Local, Program, Shell, ShellError, put_stream};
use super::{LOCKED, Way, failed, no_room, tell};
use crate::execute::{Progress, StepError};
use crate::model::{Bytes, ImageFile};

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub(in crate::host) struct Patience {
    /// All tries together.
    pub(in crate::host) whole: Duration,
    /// A connection over which less than 1 KiB a second came for this long is given up.
    pub(in crate::host) stall: Duration,
    /// Pauses after tries that brought nothing; one that brought something begins again with the first. After the last it is
    /// given up.
    pub(in crate::host) pauses: &'static [Duration],
}

/// 40 GiB at 2 MB/s in six hours; servers that are started anew are back within a minute.
pub(in crate::host) const USUAL: Patience = Patience {
    whole: Duration::from_secs(6 * 3600),
    stall: Duration::from_secs(30),
    pauses: &[
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(4),
        Duration::from_secs(8),
        Duration::from_secs(16),
        Duration::from_secs(30),
    ],
};

/// `$1` the path; what follows the partial file `$2` is run.
const FETCH: &str = r#"
umask 022
shift 2
command -v "$1" >/dev/null 2>&1 || exit 77
exec "$@""#;

/// What the server said of the file: the headers that curl wrote down, of the last answer that gave some of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    /// A strong `ETag`, else `Last-Modified`: what `If-Range` may carry (RFC 9110, section 13.1.5).
    validator: Option<String>,
    /// Its length.
    total: Option<u64>,
}

impl Head {
    /// Reads header fields; `None` when no answer of them gave any of the file.
    fn read(text: &str) -> Option<Self> {
        let text = text.replace('\r', "");
        let answers = text.split("\n\n").filter(|a| a.starts_with("HTTP/"));
        let given = |a: &&str| matches!(a.split(' ').nth(1).map(|s| s.get(..3).unwrap_or(s)), Some("200" | "206"));
        let answer = answers.filter(given).last()?;
        let field = |name: &str| {
            answer.lines().skip(1).find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let range = field("content-range").and_then(|r| r.rsplit_once('/')?.1.parse().ok());
        let whole = answer.split(' ').nth(1).is_some_and(|s| s.starts_with("200"));
        let length = field("content-length").filter(|_| whole).and_then(|l| l.parse().ok());
        let strong = field("etag").filter(|e| e.starts_with('"'));
        Some(Self { validator: strong.or_else(|| field("last-modified")), total: range.or(length) })
    }
}

/// How a try ended.
enum Tried {
    /// All came, as far as the server says.
    Whole,
    /// The file is in the store: somebody else was faster.
    Already,
    /// Somebody else fetches it now.
    Held,
    /// Another try may do better.
    Cut(String),
    /// What is there cannot be gone on from.
    Useless,
}

/// What a download ended with.
pub(super) enum Came {
    /// The partial file is what the server calls the whole one.
    Whole,
    /// Somebody else has put it into the store.
    Already,
}

/// A download.
pub(super) struct Download<'d> {
    pub(super) url: &'d str,
    pub(super) file: &'d ImageFile,
    pub(super) path: &'d str,
    pub(super) partial: &'d str,
    pub(super) patience: Patience,
}

impl Download<'_> {
    /// Fetches until all is there. What came before an error stays, but where the disk is full.
    ///
    /// # Errors
    /// An address that is none, a server that refuses, no progress, no room.
    pub(super) async fn run(&self, shell: &dyn Shell, progress: &dyn Progress) -> Result<Came, StepError> {
        if !(self.url.starts_with("http://") || self.url.starts_with("https://")) {
            return Err(StepError::failed(format!("`{}` is no http://, https:// or file:// address", self.url)));
        }
        let began = Instant::now();
        let (mut in_vain, mut anew) = (0, 0);
        loop {
            let had = self.had(shell).await?;
            let head = self.head(shell).await?;
            let total = head.total.or(self.file.size.map(|s| s.0));
            if had > 0 && total == Some(had) {
                return Ok(Came::Whole);
            }
            if total.is_some_and(|t| had > t) {
                self.begin_anew(shell).await?;
                continue;
            }
            let why = match self.once(shell, had, &head, began, progress).await? {
                Tried::Whole => return Ok(Came::Whole),
                Tried::Already => return Ok(Came::Already),
                Tried::Held if began.elapsed() < self.patience.whole => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                Tried::Held => "somebody else fetches it, and does not end".to_owned(),
                Tried::Useless if anew < 2 => {
                    anew += 1;
                    self.begin_anew(shell).await?;
                    continue;
                }
                Tried::Useless => "it is another file each time, and the server gives no ranges".to_owned(),
                Tried::Cut(why) => why,
            };
            in_vain = if self.had(shell).await? > had { 0 } else { in_vain + 1 };
            let over = began.elapsed() >= self.patience.whole;
            let Some(pause) = self.patience.pauses.get(in_vain).filter(|_| !over && !why.is_empty()) else {
                let came = Bytes(self.had(shell).await?);
                let of = total.map(|t| format!(" of {}", Bytes(t))).unwrap_or_default();
                return Err(failed(
                    format!("{}: {why}; {came}{of} came", self.url),
                    "the next pass goes on from what came",
                ));
            };
            tokio::time::sleep(*pause).await;
        }
    }

    /// Forgets what came.
    pub(super) async fn begin_anew(&self, shell: &dyn Shell) -> Result<(), ShellError> {
        for end in ["", ".head", ".head.new"] {
            shell.remove(&format!("{}{end}", self.partial)).await?;
        }
        Ok(())
    }

    /// Bytes that came.
    pub(super) async fn had(&self, shell: &dyn Shell) -> Result<u64, ShellError> {
        Ok(shell.size(self.partial).await?.map_or(0, |(length, _)| length))
    }

    /// What the server said last. A try that died before it was answered leaves what was said before.
    async fn head(&self, shell: &dyn Shell) -> Result<Head, ShellError> {
        let (kept, new) = (format!("{}.head", self.partial), format!("{}.head.new", self.partial));
        for path in [&new, &kept] {
            let text = match shell.read(path, 64 << 10).await {
                Err(e) if e.is_missing() => continue,
                text => text?,
            };
            if let Some(head) = Head::read(&String::from_utf8_lossy(&text)) {
                if path == &new {
                    shell.rename(&new, &kept).await?;
                }
                return Ok(head);
            }
        }
        Ok(Head::default())
    }

    async fn once(
        &self,
        shell: &dyn Shell,
        had: u64,
        head: &Head,
        began: Instant,
        progress: &dyn Progress,
    ) -> Result<Tried, StepError> {
        let left = self.patience.whole.saturating_sub(began.elapsed()).max(Duration::from_secs(1));
        let total = head.total.or(self.file.size.map(|s| s.0));
        let folder = self.path.rsplit_once('/').map_or("/", |(folder, _)| folder);
        if let Some(total) = total
            && shell.free(folder).await? < total - had
        {
            return Err(no_room(shell, self.partial, total).await);
        }
        let script = format!("{LIBRARY}{LOCKED}{FETCH}");
        let head_of = ["sh", "-c", &script, "sh", self.path, self.partial].map(str::to_owned);
        let words: Vec<String> = head_of.into_iter().chain(self.curl(had, head)).collect();
        let program = Program::new(words).limit(left);
        let output = match tell(shell, program, Some((self.partial, total.unwrap_or(0))), progress).await {
            Err(ShellError::TimedOut(..)) => return Ok(Tried::Cut(String::new())),
            other => other?,
        };
        let said = output.stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it failed");
        let said = said.strip_prefix("curl: ").unwrap_or(said).to_owned();
        // curl(1), EXIT CODES.
        Ok(match output.status {
            0 => Tried::Whole,
            s if s == Way::Held as i32 => Tried::Held,
            s if s == Way::Already as i32 => Tried::Already,
            s if s == Way::NoProgram as i32 && shell.is_remote() => return self.through_us(shell, progress).await,
            s if s == Way::NoProgram as i32 => return Err(ShellError::NoProgram("curl".to_owned()).into()),
            // No ranges, or another file since: `If-Range` is answered with all of it.
            33 => Tried::Useless,
            22 if said.ends_with("416") => Tried::Useless,
            23 => {
                // In the first try the server said its length only now.
                let (came, said) = (self.had(shell).await?, self.head(shell).await?);
                self.begin_anew(shell).await?;
                return Err(no_room(shell, self.partial, total.or(said.total).unwrap_or(0).max(came)).await);
            }
            // Refused for good; 408, 429 and 5xx may pass.
            22 if !["408", "429"].iter().any(|s| said.ends_with(s)) && !refused_for_now(&said) => {
                return Err(StepError::failed(format!("{}: {said}", self.url)));
            }
            63 => return Err(StepError::failed(format!("{}: it is longer than `size` says", self.url))),
            1 | 3 | 47 | 51 | 58 | 60 | 77 | 83 | 90 | 91 => {
                return Err(StepError::failed(format!("{}: {said}", self.url)));
            }
            _ => Tried::Cut(said),
        })
    }

    fn curl(&self, had: u64, head: &Head) -> Vec<String> {
        let stall = self.patience.stall.as_secs().max(1).to_string();
        let new = format!("{}.head.new", self.partial);
        let mut words: Vec<String> = [
            "curl",
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--proto",
            "=http,https",
            "--connect-timeout",
            "20",
            "--speed-limit",
            "1024",
            "--speed-time",
            &stall,
            "--dump-header",
            &new,
            "--output",
            self.partial,
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(size) = self.file.size {
            words.extend(["--max-filesize".to_owned(), size.0.to_string()]);
        }
        if had > 0 {
            words.extend(["--continue-at".to_owned(), had.to_string()]);
            if let Some(validator) = &head.validator {
                words.extend(["--header".to_owned(), format!("If-Range: {validator}")]);
            }
        }
        words.extend(["--".to_owned(), self.url.to_owned()]);
        words
    }

    /// A host without curl gets it from here, each time from the beginning.
    async fn through_us(&self, shell: &dyn Shell, progress: &dyn Progress) -> Result<Tried, StepError> {
        let _one = super::lock(shell, self.path).await?;
        let here = Self { partial: "-", ..*self };
        let mut words = here.curl(0, &Head::default());
        // Its headers would be written into this machine's files.
        if let Some(at) = words.iter().position(|w| w == "--dump-header") {
            words.drain(at..at + 2);
        }
        let mut curl = Local.start(words).await?;
        let output = curl.stdout.take().ok_or_else(|| StepError::failed("curl has no output"))?;
        if let Err(error) = put_stream(shell, self.partial, output, 0o644, progress).await {
            return Err(super::full(shell, self.partial, error).await);
        }
        let ended = curl.end().await?;
        if ended.status != 0 {
            shell.remove(self.partial).await?;
            return Err(StepError::failed(format!("{}: {}", self.url, ended.stderr.trim())));
        }
        Ok(Tried::Whole)
    }
}

/// Whether a server that refuses may give later: `5xx`.
fn refused_for_now(said: &str) -> bool {
    said.rsplit(' ').next().is_some_and(|status| status.len() == 3 && status.starts_with('5'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_that_gave_something_counts() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 7\r\n\r\n";
        let given = "HTTP/1.1 200 OK\r\nETag: \"a1\"\r\nContent-Length: 100\r\n\r\n";
        let found = Head::read(&format!("{moved}{given}")).unwrap();
        assert_eq!(found, Head { validator: Some("\"a1\"".into()), total: Some(100) });
        let rest = "HTTP/2 206 \r\netag: W/\"w\"\r\nlast-modified: Mon\r\ncontent-range: bytes 5-99/100\r\ncontent-length: 95\r\n\r\n";
        assert_eq!(Head::read(rest).unwrap(), Head { validator: Some("Mon".into()), total: Some(100) });
        assert_eq!(Head::read("HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\n"), None);
        assert_eq!(Head::read(""), None);
    }
}
