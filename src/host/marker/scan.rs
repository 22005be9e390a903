//! Copies bytes and replaces markers on the way: one pass, holes kept.
//!
//! Positions are those that a guest sees. What borders on one another there is searched as one text, wherever it stands in
//! files: a marker across two clusters is found like any other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use memchr::memmem::Finder;

/// Bytes that are read at once: large enough that a call costs nothing beside them, small enough for a processor's cache.
const CHUNK: usize = 1 << 20;

/// What is zero in whole blocks of this size is left a hole: the block of ext4 and XFS, as `cp --sparse=always` has it.
const BLOCK: usize = 4096;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A part of a disk that holds data, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its first byte as the guest sees it.
    pub(super) start: u64,
    /// Its bytes.
    pub(super) length: u64,
    /// The file, by its number among the files that were opened.
    pub(super) file: usize,
    /// Where it begins there.
    pub(super) offset: u64,
}

/// What is looked for and what comes in its place, of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) marker: Vec<u8>,
    pub(super) with: Vec<u8>,
}

/// Where the result goes.
pub(super) enum Out<'f> {
    /// Everything is written here.
    Copy(&'f File),
    /// It is there already: what is replaced is written here.
    InPlace(&'f File),
}

/// Reads extents in the order of the guest, replaces, and writes. Gives how often each marker was replaced.
///
/// Of markers that overlap, the one that begins first is replaced; what was put in is not searched again. `advance` hears
/// bytes read so far.
///
/// # Errors
/// Those of reading and writing; a file that is shorter than an extent says.
pub(super) fn replace(
    extents: &[Extent],
    files: &[File],
    out: &Out<'_>,
    swaps: &[Swap],
    mut advance: impl FnMut(u64),
) -> io::Result<Vec<u64>> {
    let mut text = Text::new(swaps);
    let mut done = 0u64;
    for extent in extents {
        if extent.start != text.end() {
            text.flush(out)?;
            text.base = extent.start;
            text.searched = extent.start;
        }
        let file = files.get(extent.file).ok_or(io::ErrorKind::NotFound)?;
        let mut at = 0u64;
        while at < extent.length {
            let n = usize::try_from(extent.length - at).unwrap_or(CHUNK).min(CHUNK);
            text.read(file, extent.offset + at, n)?;
            text.search(out)?;
            text.write_safe(out)?;
            at += n as u64;
            done += n as u64;
            advance(done);
        }
    }
    text.flush(out)?;
    Ok(text.counts)
}

/// Bytes that border on one another, read and not yet written.
struct Text<'s> {
    swaps: &'s [Swap],
    finders: Vec<Finder<'s>>,
    counts: Vec<u64>,
    bytes: Vec<u8>,
    /// Position of the first of them.
    base: u64,
    /// No marker begins before this position that is not replaced.
    searched: u64,
    longest: usize,
}

impl<'s> Text<'s> {
    fn new(swaps: &'s [Swap]) -> Self {
        let longest = swaps.iter().map(|s| s.marker.len()).max().unwrap_or(1).max(1);
        Self {
            swaps,
            finders: swaps.iter().map(|s| Finder::new(&s.marker)).collect(),
            counts: vec![0; swaps.len()],
            bytes: Vec::with_capacity(CHUNK + longest + BLOCK),
            base: 0,
            searched: 0,
            longest,
        }
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn read(&mut self, file: &File, offset: u64, n: usize) -> io::Result<()> {
        let old = self.bytes.len();
        self.bytes.resize(old + n, 0);
        file.read_exact_at(&mut self.bytes[old..], offset)
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// Replaces every whole marker from where the last search ended.
    fn search(&mut self, out: &Out<'_>) -> io::Result<()> {
        let mut from = self.index(self.searched);
        let mut next: Vec<Option<usize>> = vec![Some(from); self.finders.len()];
        let mut fresh = vec![false; self.finders.len()];
        loop {
            for (number, finder) in self.finders.iter().enumerate() {
                // What was found before stands, unless something in front of it took its place.
                let stale = next[number].is_some_and(|at| !fresh[number] || at < from);
                if stale {
                    next[number] = finder.find(&self.bytes[from..]).map(|at| at + from);
                    fresh[number] = true;
                }
            }
            let first = next.iter().enumerate().filter_map(|(number, at)| at.map(|at| (at, number))).min();
            let Some((at, number)) = first else { break };
            let with = &self.swaps[number].with;
            from = at + with.len();
            self.bytes[at..from].copy_from_slice(with);
            self.counts[number] += 1;
            if let Out::InPlace(file) = out {
                file.write_all_at(with, self.base + at as u64)?;
            }
        }
        // The beginning of a marker may stand in the last bytes.
        let tail = self.bytes.len().saturating_sub(self.longest - 1);
        self.searched = self.base + from.max(tail) as u64;
        Ok(())
    }

    /// Writes what no marker can reach into any more, in whole blocks.
    fn write_safe(&mut self, out: &Out<'_>) -> io::Result<()> {
        let block = BLOCK as u64;
        let safe = self.index(self.searched / block * block);
        self.write(out, safe)
    }

    fn flush(&mut self, out: &Out<'_>) -> io::Result<()> {
        let all = self.bytes.len();
        self.write(out, all)
    }

    fn write(&mut self, out: &Out<'_>, n: usize) -> io::Result<()> {
        if let Out::Copy(file) = out {
            write_sparse(file, &self.bytes[..n], self.base)?;
        }
        self.bytes.copy_within(n.., 0);
        self.bytes.truncate(self.bytes.len() - n);
        self.base += n as u64;
        Ok(())
    }
}

/// Writes all but whole blocks of zeros.
fn write_sparse(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    let into = usize::try_from(position % BLOCK as u64).unwrap_or(0);
    let mut run = 0;
    let mut at = 0;
    while at < bytes.len() {
        let first = if at == 0 { BLOCK - into } else { BLOCK };
        let end = (at + first).min(bytes.len());
        if bytes[at..end] == ZEROS[..end - at] {
            if run < at {
                file.write_all_at(&bytes[run..at], position + run as u64)?;
            }
            run = end;
        }
        at = end;
    }
    if run < bytes.len() {
        file.write_all_at(&bytes[run..], position + run as u64)?;
    }
    Ok(())
}

/// The parts of a raw file that hold data (lseek(2), `SEEK_DATA`), and its length.
///
/// # Errors
/// Those of lseek(2).
pub(super) fn data_of(file: &File) -> io::Result<(Vec<Extent>, u64)> {
    use rustix::fs::{SeekFrom, seek};
    let length = file.metadata()?.len();
    let mut out = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(length);
        out.push(Extent { start, length: end - start, file: 0, offset: start });
        at = end;
    }
    Ok((out, length))
}

/// Where the bytes of a disk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) extents: Vec<Extent>,
    pub(super) files: Vec<PathBuf>,
    /// Bytes that the guest sees.
    pub(super) length: u64,
}

/// Reads what `qemu-img map --output=json` prints; `None` where bytes of the guest are not bytes of a file: compressed
/// clusters have no offset.
pub(super) fn map_of(json: &[u8]) -> Option<Map> {
    #[derive(serde::Deserialize)]
    struct Part {
        start: u64,
        length: u64,
        data: bool,
        zero: bool,
        #[serde(default)]
        compressed: bool,
        offset: Option<u64>,
        filename: Option<String>,
    }
    let parts: Vec<Part> = serde_json::from_slice(json).ok()?;
    let mut map = Map { extents: Vec::new(), files: Vec::new(), length: 0 };
    for part in parts {
        map.length = map.length.max(part.start + part.length);
        if part.zero || !part.data {
            continue;
        }
        let (false, Some(offset), Some(name)) = (part.compressed, part.offset, part.filename) else { return None };
        let path = PathBuf::from(name);
        if !path.is_absolute() {
            return None;
        }
        let file = map.files.iter().position(|f| *f == path).unwrap_or_else(|| {
            map.files.push(path);
            map.files.len() - 1
        });
        map.extents.push(Extent { start: part.start, length: part.length, file, offset });
    }
    Some(map)
}

#[cfg(test)]
pub(super) mod tests;
