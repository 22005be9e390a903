//! Large files from host to host, through the controller: what is empty in them is neither read nor sent, and is empty again
//! where they arrive.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::remote::{LIBRARY, MISSING};
use super::{Program, Running, Shell, ShellError, succeed};
use crate::execute::Progress;

/// What is told apart: a block is sent or is empty. 64 KiB is qcow2's usual cluster.
const BLOCK: u64 = 64 << 10;
/// Read and sent at once.
const CHUNK: u64 = 4 << 20;
/// A gap smaller than this is read as if it were data: a program is started for each piece.
const GAP: u64 = 1 << 20;

/// Prints the pieces of a file that its input names, in blocks.
const GIVE: &str = r#"there "$1" || exit 44
while read -r skip count; do
  dd if="$1" bs=65536 skip="$skip" count="$count" 2>/dev/null || fail "it could not be read"
done"#;

/// Writes a file from pieces in its input; input that breaks off leaves none.
const TAKE: &str = r#"rm -f -- "$1" && (umask 077; : >"$1") || exit 1
while read -r what where much; do
  case $what in
    put)
      said=$(dd of="$1" bs=65536 seek="$where" count="$much" iflag=fullblock conv=notrunc 2>&1) ||
        { rm -f -- "$1"; echo "$said" | head -n 1 >&2; exit 1; } ;;
    end) truncate -s "$where" -- "$1" && chmod "$much" "$1" && settle "$1" && echo whole; exit ;;
  esac
done
rm -f -- "$1"; fail "the connection broke while it was written""#;

fn script(text: &str, path: &str) -> Vec<String> {
    ["sh", "-c", &format!("{LIBRARY}{text}"), "sh", path].map(str::to_owned).to_vec()
}

/// Copies a file from a host to a host, with its mode and its holes: it is there whole or not at all. What is there already
/// is replaced, so the caller has seen that it may be.
///
/// # Errors
/// [`ShellError`] of either host.
pub async fn copy_between(
    from: &dyn Shell,
    from_path: &str,
    to: &dyn Shell,
    to_path: &str,
    progress: &dyn Progress,
) -> Result<(), ShellError> {
    let said = succeed(from, Program::new(["stat", "-L", "-c", "%a", "--", from_path])).await;
    let mode = String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned();
    let mode = u32::from_str_radix(&mode, 8).unwrap_or(0o600);
    let partial = format!("{to_path}.partial");
    transfer(from, from_path, to, &partial, mode, progress).await?;
    to.rename(&partial, to_path).await
}

/// The same to a path that is nobody's, without the rename at the end.
///
/// # Errors
/// [`ShellError`] of either host.
pub(crate) async fn transfer(
    from: &dyn Shell,
    from_path: &str,
    to: &dyn Shell,
    to_path: &str,
    mode: u32,
    progress: &dyn Progress,
) -> Result<(), ShellError> {
    let Some((size, _)) = from.size(from_path).await? else {
        return Err(ShellError::File {
            path: from_path.to_owned(),
            text: "No such file or directory".to_owned(),
            missing: true,
        });
    };
    let pieces = pieces(size, extents(from, from_path, size).await);
    let total: u64 = pieces.iter().map(|(start, end)| end - start).sum();
    let mut source = from.start(script(GIVE, from_path)).await?;
    let mut target = Target::open(to, to_path).await?;
    let list: String =
        pieces.iter().map(|(start, end)| format!("{} {}\n", start / BLOCK, (end - start).div_ceil(BLOCK))).collect();
    let (asks, gives) = (source.stdin.take(), source.stdout.take());
    let ask = async move {
        if let Some(mut asks) = asks {
            // What is wrong with the source is said at its end.
            let _ = asks.write_all(list.as_bytes()).await;
        }
    };
    let copy = async {
        let Some(mut gives) = gives else { return Ok(0) };
        let mut done = 0;
        for (start, end) in &pieces {
            let mut at = *start;
            while at < *end {
                let length = CHUNK.min(end - at);
                let mut chunk = Vec::new();
                let read = (&mut gives).take(length).read_to_end(&mut chunk).await.unwrap_or(0);
                if u64::try_from(read).unwrap_or(0) < length {
                    // The source broke off: its end says why.
                    return Ok(done);
                }
                target.put(at, chunk).await?;
                at += length;
                done += length;
                progress.advance(done, total);
            }
        }
        Ok(done)
    };
    let ((), copied) = tokio::join!(ask, copy);
    let done = match copied {
        Ok(done) => done,
        Err(Closed) => return Err(target.why().await),
    };
    let ended = source.end().await;
    if !matches!(&ended, Ok(e) if e.status == 0) || done < total {
        // Its input ends before it is whole, so it leaves nothing.
        let _ = target.why().await;
        let ended = ended?;
        let text = ended.stderr.lines().next_back().unwrap_or("it became shorter while it was read").to_owned();
        return Err(ShellError::File { path: from_path.to_owned(), text, missing: ended.status == MISSING });
    }
    target.finish(size, mode).await
}

/// Writes what `reader` gives, to its end, to a path that is nobody's.
///
/// # Errors
/// [`ShellError`] of the host; the reader's own as of this path.
#[cfg(any(test, feature = "libvirt"))]
pub(crate) async fn put_stream(
    to: &dyn Shell,
    to_path: &str,
    mut reader: impl tokio::io::AsyncRead + Unpin,
    mode: u32,
    progress: &dyn Progress,
) -> Result<(), ShellError> {
    let mut target = Target::open(to, to_path).await?;
    let mut at = 0;
    loop {
        let mut chunk = Vec::new();
        if let Err(error) = (&mut reader).take(CHUNK).read_to_end(&mut chunk).await {
            let _ = target.why().await;
            return Err(ShellError::file(to_path)(error));
        }
        let length = u64::try_from(chunk.len()).unwrap_or(0);
        if length == 0 {
            return target.finish(at, mode).await;
        }
        if target.put(at, chunk).await.is_err() {
            return Err(target.why().await);
        }
        at += length;
        progress.advance(at, 0);
    }
}

/// A file that is being written on a host.
struct Target {
    running: Running,
    path: String,
}

/// The other end has gone; [`Target::why`] says why.
struct Closed;

impl Target {
    async fn open(to: &dyn Shell, path: &str) -> Result<Self, ShellError> {
        Ok(Self { running: to.start(script(TAKE, path)).await?, path: path.to_owned() })
    }

    /// Sends what is not empty of a piece that begins at a block's beginning.
    async fn put(&mut self, at: u64, mut bytes: Vec<u8>) -> Result<(), Closed> {
        let block = usize::try_from(BLOCK).unwrap_or(1 << 16);
        // The last block of a file is filled up; the file is cut to its size at the end.
        bytes.resize(bytes.len().next_multiple_of(block), 0);
        let stdin = self.running.stdin.as_mut().ok_or(Closed)?;
        let mut first = at / BLOCK;
        let empty = |block: &[u8]| block.iter().all(|b| *b == 0);
        for run in bytes.chunks(block).collect::<Vec<_>>().chunk_by(|a, b| empty(a) == empty(b)) {
            if !empty(run[0]) {
                stdin.write_all(format!("put {first} {}\n", run.len()).as_bytes()).await.map_err(|_| Closed)?;
                for block in run {
                    stdin.write_all(block).await.map_err(|_| Closed)?;
                }
            }
            first += u64::try_from(run.len()).unwrap_or(0);
        }
        Ok(())
    }

    async fn finish(mut self, size: u64, mode: u32) -> Result<(), ShellError> {
        if let Some(stdin) = &mut self.running.stdin {
            let _ = stdin.write_all(format!("end {size} {mode:o}\n").as_bytes()).await;
        }
        let ended = self.running.end().await?;
        if ended.status == 0 && ended.stdout.starts_with(b"whole") {
            return Ok(());
        }
        Err(complaint(self.path, &ended.stderr))
    }

    async fn why(self) -> ShellError {
        match self.running.end().await {
            Ok(ended) => complaint(self.path, &ended.stderr),
            Err(error) => error,
        }
    }
}

fn complaint(path: String, stderr: &str) -> ShellError {
    let text = stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it could not be written").to_owned();
    ShellError::File { path, text, missing: false }
}

/// Where a file has data, in bytes. Of a host that cannot say, all of it.
async fn extents(shell: &dyn Shell, path: &str, size: u64) -> Vec<(u64, u64)> {
    let found = if shell.is_remote() { asked(shell, path).await } else { sought(Path::new(path), size) };
    found.unwrap_or_else(|| vec![(0, size)])
}

/// One line of `qemu-img map --output=json`.
#[derive(Deserialize)]
struct Extent {
    start: u64,
    length: u64,
    data: bool,
    zero: bool,
}

async fn asked(shell: &dyn Shell, path: &str) -> Option<Vec<(u64, u64)>> {
    // As a raw file, whatever is in it; `-U`: also while a guest has it open.
    let words = ["qemu-img", "map", "--output=json", "-U", "-f", "raw", path];
    let said = succeed(shell, Program::new(words).limit(Duration::from_secs(120))).await.ok()?;
    let extents: Vec<Extent> = serde_json::from_slice(&said).ok()?;
    Some(extents.iter().filter(|e| e.data && !e.zero).map(|e| (e.start, e.start + e.length)).collect())
}

/// lseek(2), `SEEK_DATA` and `SEEK_HOLE`.
fn sought(path: &Path, size: u64) -> Option<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let file = std::fs::File::open(path).ok()?;
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => {
                let end = seek(&file, SeekFrom::Hole(start)).ok()?;
                found.push((start, end));
                at = end;
            }
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Whole blocks, with small gaps closed; the last one ends with the file.
fn pieces(size: u64, extents: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in extents {
        let (start, end) = (start / BLOCK * BLOCK, end.next_multiple_of(BLOCK).min(size));
        match out.last_mut() {
            _ if start >= end => {}
            Some(last) if start < last.1 + GAP => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_blocks_and_small_gaps_are_closed() {
        assert_eq!(pieces(10, vec![(0, 10)]), [(0, 10)]);
        assert_eq!(pieces(0, vec![(0, 0)]), []);
        let far = 100 << 20;
        let found = pieces(far + 5, vec![(4096, 8192), (BLOCK * 3, BLOCK * 3 + 1), (far, far + 4096)]);
        assert_eq!(found, [(0, BLOCK * 4), (far, far + 5)]);
    }
}
