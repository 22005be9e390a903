//! The end of every way into the store: the digest is checked, what is packed is unpacked, and the file gets its name. One
//! script on the host does all of it under the file's lock, so that it comes to its end also when we do not.

use std::time::Duration;

use super::super::shell::{LIBRARY, Program, Shell, ShellError};
use super::{LOCKED, Way, failed, no_room, tell};
use crate::execute::{Progress, StepError};
use crate::model::{Bytes, Compression, ImageFile, ImageNote};

/// Hashing and unpacking may take this long: 200 MB/s and more, so some hundred GiB.
const FINISH: Duration = Duration::from_secs(3600);

/// `$1` the path, `$2` the partial file, `$3` the program that hashes, `$4` what it must say (`-`: it was hashed on the way),
/// `$5` the whole digest, `$6` the program that unpacks (`none`), `$7` how long the unpacked file may be in blocks of 512
/// bytes (`ulimit -f`, POSIX.1-2017), `$8` the fleet, `$9` the note or nothing. What is unpacked with holes keeps them: zstd(1) and xz(1) write none
/// where zeros are, and after gzip(1) they are dug where fallocate(1) is there.
const FINISH_SCRIPT: &str = r#"
there "$2" || exit 78
folder_of "$1"; out=$2; content=
if [ "$4" != - ]; then
  said=$("$3" -- "$2") || exit 1
  said=${said#\\}; said=${said%% *}
  [ "$said" = "$4" ] || { rm -f -- "$2" "$2".head "$2".head.new "$1.lock"; echo "$said"; exit 79; }
fi
if [ "$6" != none ]; then
  command -v "$6" >/dev/null 2>&1 || exit 77
  out=$1.unpacked; rm -f -- "$out"
  unpack() {
    case $1 in
      zstd) zstd -q -d -c --sparse -- "$2" ;;
      *) "$1" -q -d -c -- "$2" ;;
    esac
  }
  said=$( { ( ulimit -f "$7"; unpack "$6" "$2" >"$out" ); } 2>&1 )
  status=$?
  if [ $status -ne 0 ]; then
    length=$(wc -c <"$out" 2>/dev/null || echo 0)
    rm -f -- "$out"
    [ "$(((length + 511) / 512))" -lt "$7" ] || exit 81
    case $said in *'No space left'*) exit 83;; esac
    rm -f -- "$2" "$2".head "$2".head.new "$1.lock"
    echo "$said" | head -n 1; exit 80
  fi
  if [ "$6" = gzip ]; then fallocate -d -- "$out" 2>/dev/null || :; fi
  said=$("$3" -- "$out") || exit 1
  said=${said#\\}; content="content ${3%sum}:${said%% *}"
fi
chmod 0644 "$out" && settle "$out" || exit 1
beside() {
  printf '%s\n' "$2" >"$1.new" && chmod 0644 "$1.new" && mv -f -- "$1.new" "$1" && return
  rm -f -- "$1.new"; fail "$1 cannot be written"
}
beside "$1.digest" "$5${content:+
$content}${9:+
$9}"
beside "$1.for.$8" needed
mv -f -- "$out" "$1" && settle "$folder" || exit 1
rm -f -- "$2" "$2".head "$2".head.new "$1.lock"
"#;

/// What is known of the file that lies at the partial path.
pub(super) struct Fetched<'f> {
    pub(super) file: &'f ImageFile,
    pub(super) path: &'f str,
    pub(super) partial: &'f str,
    pub(super) fleet: &'f str,
    pub(super) note: Option<&'f ImageNote>,
    /// Its digest, when it was hashed on the way.
    pub(super) hashed: Option<String>,
}

/// How it ended.
pub(super) enum Finished {
    /// The file is in the store.
    Whole,
    /// Somebody else was faster.
    Already,
    /// The digest is another: this one. The partial file is gone.
    Other(String),
}

/// Checks, unpacks and publishes a file that was fetched.
///
/// # Errors
/// A packed file that is damaged or too large, a full disk, a host without the program that unpacks.
pub(super) async fn finish(
    shell: &dyn Shell,
    fetched: &Fetched<'_>,
    progress: &dyn Progress,
) -> Result<Finished, StepError> {
    let Fetched { file, path, partial, fleet, note, hashed } = fetched;
    if let Some(said) = hashed.as_ref().filter(|said| *said != file.digest.hex()) {
        shell.remove(partial).await?;
        return Ok(Finished::Other(said.clone()));
    }
    let packed = match file.compression {
        Compression::Auto => Compression::of_magic(&shell.read(partial, 6).await?),
        said => said,
    };
    let (fetched_length, _) = shell.size(partial).await?.unwrap_or_default();
    if let Some(size) = file.size.filter(|s| s.0 != fetched_length) {
        shell.remove(partial).await?;
        let what = format!("{} is {} long, not {}", path, Bytes(fetched_length).exact(), size.exact());
        return Err(failed(what, "write the file's length into `size`, or leave it out"));
    }
    let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let most = match (packed.tool(), file.unpacked) {
        (None, _) => 0,
        (Some(_), Some(declared)) => declared.0,
        (Some(_), None) => shell.free(folder).await?,
    };
    let sum = format!("{}sum", file.digest.algorithm());
    let hex = if hashed.is_some() { "-" } else { file.digest.hex() };
    let (tool, blocks) = (packed.tool().unwrap_or("none"), most.div_ceil(512).to_string());
    let script = format!("{LIBRARY}{LOCKED}{FINISH_SCRIPT}");
    let note = note.map(serde_json::to_string).transpose().map_err(|error| StepError::failed(error.to_string()))?;
    let note = note.unwrap_or_default();
    let words =
        ["sh", "-c", &script, "sh", path, partial, &sum, hex, file.digest.as_str(), tool, &blocks, fleet, &note];
    let unpacked = format!("{path}.unpacked");
    let grows = packed.tool().map(|_| (unpacked.as_str(), file.unpacked.map_or(0, |b| b.0)));
    let program = Program::new(words).limit(FINISH);
    let output = loop {
        match tell(shell, program.clone(), grows, progress).await {
            // The script's text in a message would help nobody.
            Err(ShellError::TimedOut(_, after)) => {
                return Err(ShellError::TimedOut(format!("checking and unpacking {path}"), after).into());
            }
            Ok(output) if output.status == Way::Held as i32 => tokio::time::sleep(Duration::from_secs(1)).await,
            other => break other?,
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let longer = |most: u64| {
        failed(
            format!("{path}: it is longer than {} when it is unpacked", Bytes(most)),
            if file.unpacked.is_some() {
                "is `unpackedSize` right? the file is of the digest that was written down"
            } else {
                "that is all the room there is: free some, or write `unpackedSize` where it has holes"
            },
        )
    };
    match output.status {
        0 => Ok(Finished::Whole),
        76 => Ok(Finished::Already),
        77 => Err(ShellError::NoProgram(tool.to_owned()).into()),
        78 => Err(StepError::Stale(format!("{partial} was taken away by somebody else"))),
        79 => Ok(Finished::Other(said)),
        80 => Err(failed(
            format!("{path}: what was fetched is of the digest that was written down, and is damaged: {said}"),
            "pack it again, and write the new digest",
        )),
        81 => Err(longer(most)),
        83 => Err(no_room(shell, partial, file.unpacked.map_or(0, |b| b.0)).await),
        _ => Err(StepError::failed(format!("{path}: {}", output.stderr.trim()))),
    }
}
