//! A disk becomes a generation in the store: all of its content in one file of its own.
//!
//! ```text
//!   disk ── qemu-img convert ──▶ recipe-<12 digits>-<name>.partial ── sync, sha256sum ──▶ beside: digest, note, packages, mark
//!                                                                     └── rename ──▶ <12 digits>-<name>: it is sealed
//! ```
//!
//! One script on the host does all of it under a lock of the recipe, so that it comes to its end also when we do not. Until
//! the rename there is no file of that name: what a cut leaves is a partial file, which the next try begins anew.
//!
//! The file is not compressed. Of 720 MB of programs qemu-img(1) 7.2 makes a plain file in 0.5 s, with zstd in 3.6 s and
//! with zlib in 27 s, a third as long; but every clone reads through it for as long as it lives, at a tenth of the speed.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::super::shell::{LIBRARY, Program, Shell, ShellError, succeed};
use super::marks::needed;
use super::{LOCKED, NOTE, Way, failed, no_room, tell};
use crate::execute::{Done, Progress, StepError};
use crate::model::{Bytes, Digest, ImageFormat, ImageNote, Name};

/// Writing and hashing may take this long: 200 GiB at 50 MB/s are an hour and ten minutes.
const CAPTURE: Duration = Duration::from_secs(2 * 3600);

/// Room that stays free in a store, as the plan reckons.
const RESERVE: u64 = 256 << 20;

/// What stands for the file's length in a note before it is known: no file is as long, and it is written in bytes.
const LENGTH: Bytes = Bytes(u64::MAX);

/// `$1` what the lock and the partial file are called after, `$2` the disk, `$3` its format, `$4` the new file's, `$5` the
/// folder, `$6` the file's name behind the digits, `$7` the fleet, `$8` the list of packages or nothing, `$9` and `${10}` the note before and
/// behind the file's length, `${11}` how the note names the recipe.
///
/// qemu-img(1) opens the disk with a lock that no running guest lets it have (`docs/system/images`, "image locking"). What
/// it writes of one disk is the same at each try.
const SCRIPT: &str = r#"
command -v qemu-img >/dev/null 2>&1 || exit 77
note=$9; note_end=${10}; recipe=${11}
for digest in "$5"/*.digest; do
  if [ -e "$digest" ] && [ -e "${digest%.digest}" ] && grep -q -F -- "$recipe" "$digest"; then
    rm -f -- "$1.partial" "$1.lock"; printf '%s\n' "${digest%.digest}"; exit 76
  fi
done
out=$1.partial
rm -f -- "$out"
said=$(qemu-img convert -q -f "$3" -O "$4" -- "$2" "$out" 2>&1) || {
  rm -f -- "$out" "$1.lock"
  case $said in *'No space left'*) exit 83;; esac
  printf '%s\n' "$said" | head -n 3 >&2; exit 1
}
chmod 0644 "$out" && settle "$out" || exit 1
said=$(sha256sum -- "$out") || exit 1
said=${said#\\}; hex=${said%% *}
length=$(wc -c <"$out") || exit 1
folder=$5
path=$folder/$(printf '%.12s' "$hex")-$6
beside() {
  printf '%s\n' "$2" >"$1.new" && chmod 0644 "$1.new" && settle "$1.new" && mv -f -- "$1.new" "$1" && return
  rm -f -- "$1.new"; fail "$1 cannot be written"
}
if [ -n "$8" ] && [ -e "$8" ]; then
  cp -- "$8" "$path.packages.new" && chmod 0644 "$path.packages.new" && settle "$path.packages.new" &&
    mv -f -- "$path.packages.new" "$path.packages" || fail "$path.packages cannot be written"
fi
beside "$path.digest" "sha256:$hex
$note$((length))$note_end"
beside "$path.for.$7" needed
# The same content once more: what lies there may be open in a guest.
if there "$path"; then rm -f -- "$out"; else mv -f -- "$out" "$path" || exit 1; fi
settle "$folder"
rm -f -- "$1.lock"
printf '%s\n' "$path"
"#;

/// What is captured, and what it becomes.
pub(in crate::host) struct Capture<'c> {
    /// The disk: nothing has it open for writing.
    pub(in crate::host) disk: &'c str,
    /// Its format.
    pub(in crate::host) disk_format: &'c str,
    /// The store.
    pub(in crate::host) folder: &'c str,
    /// The file's name behind the digits.
    pub(in crate::host) name: &'c str,
    /// The new file's format.
    pub(in crate::host) format: ImageFormat,
    pub(in crate::host) recipe: &'c Digest,
    pub(in crate::host) fleet: &'c Name,
    /// The list of packages on the host, where there is one.
    pub(in crate::host) packages: Option<&'c str>,
    /// What is written beside the file. The length is filled in.
    pub(in crate::host) note: ImageNote,
}

impl Capture<'_> {
    /// Captures it.
    ///
    /// # Errors
    /// A disk that a guest has open, a full disk, a name that is no file name.
    pub(in crate::host) async fn run(&self, shell: &dyn Shell, progress: &dyn Progress) -> Result<Done, StepError> {
        let Self { disk, disk_format, folder, name, recipe, fleet, .. } = self;
        if name.is_empty() || name.contains(['/', '\n']) {
            return Err(StepError::failed(format!("`{name}` is no name of a file")));
        }
        let format = match self.format {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Raw => "raw",
            ImageFormat::Rootfs => return Err(StepError::failed("the disk of a container is not captured")),
        };
        shell.make_folder(folder).await?;
        let mut note = self.note.clone();
        let Some(made) = note.made.as_mut() else { return Err(StepError::failed("a capture needs a provenance")) };
        let (size, most) = measure(shell, disk, disk_format).await?;
        (made.size, made.length) = (Some(size), Some(LENGTH));
        let work = format!("{folder}/recipe-{}-{name}", recipe.short());
        let taken = shell.size(&format!("{work}.partial")).await?.map_or(0, |(_, used)| used);
        if most.0.saturating_add(RESERVE) > shell.free(folder).await?.saturating_add(taken)
            && sealed(shell, folder, recipe).await?.is_none()
        {
            return Err(no_room(shell, &work, most.0).await);
        }
        let text = serde_json::to_string(&note).map_err(|error| StepError::failed(error.to_string()))?;
        let Some((begin, end)) = text.split_once(&LENGTH.0.to_string()) else {
            return Err(StepError::failed("the note has no length"));
        };
        let script = format!("{LIBRARY}{LOCKED}{SCRIPT}");
        let words = [
            "sh",
            "-c",
            &script,
            "sh",
            &work,
            disk,
            disk_format,
            format,
            folder,
            name,
            fleet.as_str(),
            self.packages.unwrap_or_default(),
            begin,
            end,
            &named(recipe),
        ];
        let program = Program::new(words).limit(CAPTURE);
        let partial = format!("{work}.partial");
        let output = loop {
            match tell(shell, program.clone(), Some((&partial, most.0)), progress).await {
                // The script's text in a message would help nobody.
                Err(ShellError::TimedOut(_, after)) => {
                    return Err(ShellError::TimedOut(format!("capturing {disk}"), after).into());
                }
                Ok(output) if output.status == Way::Held as i32 => tokio::time::sleep(Duration::from_secs(1)).await,
                other => break other?,
            }
        };
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status {
            0 => {}
            76 => return needed(shell, &path, fleet).await.map(|_| Done::Already),
            77 => return Err(ShellError::NoProgram("qemu-img".to_owned()).into()),
            83 => return Err(no_room(shell, &work, most.0).await),
            _ if output.stderr.contains("lock") => {
                return Err(StepError::Stale(format!("{disk} is open: {}", output.stderr.trim())));
            }
            _ => return Err(StepError::failed(format!("{disk}: {}", output.stderr.trim()))),
        }
        progress.advance(most.0, most.0);
        match shell.size(&path).await? {
            Some(_) => Ok(Done::Changed),
            None => Err(StepError::failed(format!("{path} is not there after it was sealed"))),
        }
    }
}

/// How a note names its recipe.
fn named(recipe: &Digest) -> String {
    format!("\"recipe\":\"{}\"", recipe.as_str())
}

/// The file of a store that was made by a recipe.
async fn sealed(shell: &dyn Shell, folder: &str, recipe: &Digest) -> Result<Option<String>, StepError> {
    let wanted = named(recipe);
    for name in shell.list(folder).await?.into_iter().filter(|n| n.ends_with(".digest")) {
        let digest = format!("{folder}/{name}");
        let path = digest.trim_end_matches(".digest").to_owned();
        let text = match shell.read(&digest, NOTE).await {
            Err(gone) if gone.is_missing() => continue,
            said => said?,
        };
        if String::from_utf8_lossy(&text).contains(&wanted) && shell.size(&path).await?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Size that a guest sees of a disk, and bytes that a file of all its content takes at most (`qemu-img measure`; of a raw file
/// it says the size, holes included, so qcow2 is asked about for both).
async fn measure(shell: &dyn Shell, disk: &str, from: &str) -> Result<(Bytes, Bytes), StepError> {
    let number = |said: &[u8], key: &str| {
        let value: serde_json::Value = serde_json::from_slice(said).ok()?;
        value.get(key)?.as_u64().map(Bytes)
    };
    let unread = || {
        failed(
            format!("qemu-img does not say how large {disk} is"),
            "qemu-img of QEMU 2.10 or later measures disks: is it installed?",
        )
    };
    let info = ["qemu-img", "info", "-f", from, "--output=json", "--", disk];
    let info = succeed(shell, Program::new(info)).await?;
    let wanted = ["qemu-img", "measure", "-f", from, "-O", "qcow2", "--output=json", "--", disk];
    let wanted = succeed(shell, Program::new(wanted).limit(Duration::from_secs(300))).await?;
    let size = number(&info, "virtual-size").ok_or_else(unread)?;
    Ok((size, number(&wanted, "required").ok_or_else(unread)?))
}
