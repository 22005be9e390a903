//! Markers: an image without cloud-init learns who it is while its disk is copied into the slot.
//!
//! The clone is a raw disk, whatever the image is: what a guest sees as one text is one there, so clusters, compression and
//! backing files mean nothing to the search. On this machine it is one pass over the bytes; on another host `qemu-img`,
//! `grep` and `dd` do it, and nothing of ours is brought there.

mod scan;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use self::scan::{Map, Out, Swap};
use super::shell::{Program, Shell, ShellError, succeed};
use crate::execute::{Progress, StepError};
use crate::model::{ImageFormat, Name};
use crate::plan::Replacement;

/// Full copies of images take their time: 40 GiB at 50 MB/s.
const COPY: Duration = Duration::from_secs(900);

/// Writes of one call on another host: their words must fit a command line (Linux: 128 KiB a word, 2 MiB in all).
const AT_ONCE: usize = 200;

/// Copies an image to `partial` as a raw disk with its markers replaced; gives how often each was.
///
/// # Errors
/// A marker that is not in the image: `partial` is gone then. Those of reading, writing and `qemu-img`.
pub(super) async fn copy(
    shell: &dyn Shell,
    (image, format): (&str, ImageFormat),
    partial: &str,
    markers: &BTreeMap<Name, Replacement>,
    progress: &dyn Progress,
) -> Result<BTreeMap<Name, u64>, StepError> {
    let counts = if shell.is_remote() {
        there(shell, (image, format), partial, markers).await
    } else {
        here(shell, (image, format), partial, markers, progress).await
    };
    let counts: BTreeMap<Name, u64> = match counts {
        Ok(counts) => markers.keys().cloned().zip(counts).collect(),
        Err(error) => {
            let _ = shell.remove(partial).await;
            return Err(error);
        }
    };
    if let Some((name, _)) = counts.iter().find(|(_, n)| **n == 0) {
        shell.remove(partial).await?;
        let text = markers.get(name).map_or("", |m| m.marker.as_str());
        return Err(StepError::Failed {
            what: format!("the marker {name} (`{text}`) is nowhere in the image {image}: nothing would be replaced"),
            hint: Some(
                "look for it with `grep -c` in the raw image; what a file system compresses or encrypts cannot be found"
                    .to_owned(),
            ),
            detail: Vec::new(),
        });
    }
    Ok(counts)
}

fn swaps(markers: &BTreeMap<Name, Replacement>) -> Vec<Swap> {
    markers.values().map(|m| Swap { marker: m.marker.clone().into(), with: m.with.clone().into() }).collect()
}

/// On this machine.
async fn here(
    shell: &dyn Shell,
    (image, format): (&str, ImageFormat),
    partial: &str,
    markers: &BTreeMap<Name, Replacement>,
    progress: &dyn Progress,
) -> Result<Vec<u64>, StepError> {
    let mut source = Source::Raw(PathBuf::from(image));
    if format == ImageFormat::Qcow2 {
        let words = ["qemu-img", "map", "--output=json", "-f", "qcow2", image];
        let said = succeed(shell, Program::new(words).limit(COPY)).await?;
        source = match scan::map_of(&said) {
            Some(map) => Source::Mapped(map),
            None => {
                convert(shell, image, format, partial).await?;
                Source::Converted
            }
        };
    }
    let (send, mut receive) = tokio::sync::mpsc::channel::<(u64, u64)>(8);
    let (to, swaps) = (PathBuf::from(partial), swaps(markers));
    let work = tokio::task::spawn_blocking(move || blocking(&source, &to, &swaps, &send));
    while let Some((done, total)) = receive.recv().await {
        progress.advance(done, total);
    }
    match work.await {
        Ok(Ok(counts)) => Ok(counts),
        Ok(Err(e)) => Err(StepError::failed(format!("copying {image} to {partial}: {e}"))),
        Err(e) => Err(StepError::failed(e.to_string())),
    }
}

enum Source {
    Raw(PathBuf),
    Mapped(Map),
    /// `qemu-img` made the raw disk already, from something that is not bytes in a file.
    Converted,
}

fn blocking(
    source: &Source,
    to: &PathBuf,
    swaps: &[Swap],
    progress: &tokio::sync::mpsc::Sender<(u64, u64)>,
) -> std::io::Result<Vec<u64>> {
    let mut options = OpenOptions::new();
    let converted = matches!(source, Source::Converted);
    let target = options.read(true).write(true).create(!converted).truncate(!converted).open(to)?;
    let (extents, files, length) = match source {
        Source::Raw(path) => {
            let file = File::open(path)?;
            let (extents, length) = scan::data_of(&file)?;
            (extents, vec![file], length)
        }
        Source::Mapped(map) => {
            let files = map.files.iter().map(File::open).collect::<std::io::Result<Vec<_>>>()?;
            (map.extents.clone(), files, map.length)
        }
        Source::Converted => {
            let (extents, length) = scan::data_of(&target)?;
            (extents, vec![target.try_clone()?], length)
        }
    };
    let out = if converted { Out::InPlace(&target) } else { Out::Copy(&target) };
    if !converted {
        target.set_len(length)?;
    }
    let total = extents.iter().map(|e| e.length).sum();
    // A full channel means that nobody has looked since: that figure is not missed.
    let counts = scan::replace(&extents, &files, &out, swaps, |done| {
        let _ = progress.try_send((done, total));
    })?;
    Ok(counts)
}

async fn convert(shell: &dyn Shell, image: &str, format: ImageFormat, partial: &str) -> Result<(), ShellError> {
    let format = super::disk::format_name(format);
    let words = ["qemu-img", "convert", "-q", "-f", format, "-O", "raw", image, partial];
    succeed(shell, Program::new(words).limit(COPY)).await.map(drop)
}

/// Prints where markers are in a file: `position:marker`. grep(1) holds a line in memory, and disks have few ends of lines but
/// many NUL bytes: each is made an end. (Its own option for that, `-z`, counts no position in a hole: GNU grep 3.8.)
const SEARCH: &str = r#"disk=$1; shift
tr '\000' '\n' <"$disk" | LC_ALL=C grep -obUaF "$@""#;

/// Writes bytes, given as octal escapes of printf(1), at places of a file: pairs of position and text.
const PATCH: &str = r#"disk=$1; shift
while [ $# -gt 1 ]; do
  printf "$2" | dd of="$disk" bs=1 seek="$1" conv=notrunc 2>/dev/null || exit 1
  shift 2
done"#;

/// On another host, with what it has.
async fn there(
    shell: &dyn Shell,
    (image, format): (&str, ImageFormat),
    partial: &str,
    markers: &BTreeMap<Name, Replacement>,
) -> Result<Vec<u64>, StepError> {
    convert(shell, image, format, partial).await?;
    let mut words: Vec<&str> = ["sh", "-c", SEARCH, "sh", partial].to_vec();
    for marker in markers.values() {
        words.extend(["-e", &marker.marker]);
    }
    let said = shell.run(Program::new(words).limit(COPY)).await?;
    // grep(1): 1 is nothing found, more is an error. What tr(1) complains of is not in its status.
    if said.status > 1 || !said.stderr.trim().is_empty() {
        let complaint = said.stderr.lines().next().unwrap_or_default().to_owned();
        return Err(StepError::Failed {
            what: format!("markers cannot be looked for on the host: {complaint}"),
            hint: Some("GNU grep is needed there: apt-get install grep".to_owned()),
            detail: Vec::new(),
        });
    }
    let mut counts = vec![0; markers.len()];
    let mut patches = Vec::new();
    for line in said.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let wrong = || StepError::failed("grep printed something else than places and markers");
        let line = std::str::from_utf8(line).map_err(|_| wrong())?;
        let (at, found) = line.split_once(':').ok_or_else(wrong)?;
        let known = markers.values().enumerate().find(|(_, m)| m.marker == found);
        let (number, marker) = known.ok_or_else(wrong)?;
        at.parse::<u64>().map_err(|_| wrong())?;
        counts[number] += 1;
        let octal: String = marker.with.bytes().map(|b| format!("\\{b:03o}")).collect();
        patches.extend([at.to_owned(), octal]);
    }
    for some in patches.chunks(2 * AT_ONCE) {
        let words = ["sh", "-c", PATCH, "sh", partial].into_iter().chain(some.iter().map(String::as_str));
        succeed(shell, Program::new(words).limit(COPY)).await?;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests;
