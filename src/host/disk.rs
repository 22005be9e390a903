//! Disks, their stamp files and placement records in a host's slots folder.
//!
//! Every change leaves either nothing or the whole thing: first the stamp, then `<path>.partial`, then the rename. A path
//! that is there is never written to.

use std::time::Duration;

use super::shell::{Program, Shell, ShellError, succeed};
use super::{container, marker};
use crate::execute::{Done, Progress, StepError};
use crate::model::{
    Bytes, CONTAINER_DISK, CloneMethod, DiskObs, DiskPhase, DiskStamp, ImageFormat, Marked, Name, PlacementRecord,
    Timestamp,
};
use crate::plan::{DiskFrom, NewDisk};

/// Full copies of images take their time: 40 GiB at 50 MB/s.
const COPY: Duration = Duration::from_secs(900);

/// How the name of a list of packages ends.
const PACKAGES: &str = ".packages";

/// Where things of a fleet are on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// The fleet.
    pub fleet: Name,
    /// The slots folder.
    pub slots: String,
    /// The image store.
    pub images: String,
}

impl Folders {
    /// A VM's placement record.
    pub fn record(&self, vm: &Name) -> String {
        format!("{}/{}.{vm}.record", self.slots, self.fleet)
    }
    /// A VM's serial console.
    pub fn console(&self, vm: &Name) -> String {
        format!("{}/{}.{vm}.console", self.slots, self.fleet)
    }
    /// The packages of a management instance, until it is captured.
    pub fn packages(&self, vm: &Name) -> String {
        format!("{}/{}.{vm}{PACKAGES}", self.slots, self.fleet)
    }
}

/// The stamp file of a disk.
pub fn stamp_path(disk: &str) -> String {
    format!("{disk}.stamp")
}

/// Reads a disk's stamp; `None` when there is no stamp file.
///
/// # Errors
/// When it is there but cannot be read.
pub async fn read_stamp(shell: &dyn Shell, disk: &str) -> Result<Option<DiskStamp>, StepError> {
    let path = stamp_path(disk);
    match shell.read(&path, 1 << 20).await {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| StepError::failed(format!("the stamp {path} cannot be read: {e}"))),
        Err(e) if e.is_missing() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) async fn write_stamp(shell: &dyn Shell, disk: &str, stamp: &DiskStamp) -> Result<(), StepError> {
    let text = serde_json::to_string_pretty(stamp).map_err(|e| StepError::failed(e.to_string()))?;
    Ok(shell.write(&stamp_path(disk), (text + "\n").into_bytes(), 0o644).await?)
}

/// Whether two stamps say the same of a disk, whatever its epoch and however often its markers were replaced.
fn same(a: &DiskStamp, b: &DiskStamp) -> bool {
    let values = |s: &DiskStamp| s.marked.as_ref().map(|m| m.values.clone());
    a == &DiskStamp { epoch: a.epoch, marked: a.marked.clone(), ..b.clone() } && values(a) == values(b)
}

/// What stands at a path that is to be made.
enum Place {
    /// Done already.
    Done,
    /// Free: the stamp is written now.
    Free,
    /// A disk of the same VM with another content (seeds are exchanged).
    Other,
}

async fn place(shell: &dyn Shell, path: &str, stamp: &DiskStamp) -> Result<Place, StepError> {
    let there = shell.size(path).await?.is_some();
    let found = read_stamp(shell, path).await?;
    match (there, found) {
        (true, Some(found)) if same(&found, stamp) => Ok(Place::Done),
        (true, Some(found)) if found.fleet == stamp.fleet && found.vm == stamp.vm => Ok(Place::Other),
        (true, Some(found)) => Err(StepError::Failed {
            what: format!("{path} is a disk of {}'s {}", found.fleet, found.vm),
            hint: Some("a disk is never made over another: move it away or give it back".to_owned()),
            detail: Vec::new(),
        }),
        (true, None) => Err(StepError::Failed {
            what: format!("{path} exists and carries no stamp of ours"),
            hint: Some("a disk is never made over another file: look at it and move it away".to_owned()),
            detail: Vec::new(),
        }),
        (false, Some(found)) if found.fleet != stamp.fleet => {
            Err(StepError::failed(format!("{} belongs to the fleet {}", stamp_path(path), found.fleet)))
        }
        // A stamp without a disk is ours from a time when we died half-way.
        (false, _) => Ok(Place::Free),
    }
}

/// Makes a disk.
///
/// # Errors
/// An existing path that is not this very disk, an image that is not there or larger than the disk, `qemu-img`.
pub async fn make(shell: &dyn Shell, disk: &NewDisk, progress: &dyn Progress) -> Result<Done, StepError> {
    let arrives = matches!(disk.stamp.phase, DiskPhase::Incoming { .. });
    match place(shell, &disk.path, &disk.stamp).await? {
        Place::Free => {}
        // Nobody knows how far the copy came that is there.
        Place::Done | Place::Other if arrives && is_incoming(shell, &disk.path).await? => {
            shell.remove(&disk.path).await?;
        }
        Place::Done => return Ok(Done::Already),
        Place::Other => {
            return Err(StepError::Stale(format!("{} is there already, of another incarnation", disk.path)));
        }
    }
    folder_of(shell, &disk.path).await?;
    write_stamp(shell, &disk.path, &disk.stamp).await?;
    let partial = format!("{}.partial", disk.path);
    shell.remove(&partial).await?;
    if let Err(error) = create(shell, disk, &partial, progress).await {
        // What is half made gives its room back at once: on a full disk others wait for it.
        let removed = shell.remove(&partial).await;
        return Err(if removed.is_ok() { or_full(shell, &disk.path, error).await } else { error });
    }
    publish(shell, &partial, &disk.path).await?;
    Ok(Done::Changed)
}

/// Says of a disk that is full what to do about it.
async fn or_full(shell: &dyn Shell, path: &str, error: StepError) -> StepError {
    let StepError::Failed { what, detail, .. } = &error else { return error };
    if !std::iter::once(what).chain(detail).any(|line| line.contains("No space left")) {
        return error;
    }
    let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let free = shell.free(folder).await.map_or_else(|_| String::new(), |free| format!(", {} free", Bytes(free)));
    StepError::Failed {
        what: format!("no room in {folder} for {path}{free}: {what}"),
        hint: Some("free some of it, or name another folder in `storage.slots` of the host".to_owned()),
        detail: detail.clone(),
    }
}

/// Whether what is at a path is a copy that arrives, of no worth yet.
pub(super) async fn is_incoming(shell: &dyn Shell, path: &str) -> Result<bool, StepError> {
    Ok(read_stamp(shell, path).await?.is_some_and(|s| matches!(s.phase, DiskPhase::Incoming { .. })))
}

/// The format that a disk's path says.
fn format_of(path: &str) -> &'static str {
    if path.ends_with(".qcow2") { "qcow2" } else { "raw" }
}

async fn create(shell: &dyn Shell, disk: &NewDisk, partial: &str, progress: &dyn Progress) -> Result<(), StepError> {
    let number = |size: Bytes| size.0.to_string();
    let sized = || disk.size.ok_or_else(|| StepError::failed("an empty disk needs a size"));
    let own = format_of(&disk.path);
    let words: Vec<String> = match &disk.from {
        DiskFrom::Blank => {
            let size = sized()?;
            ["qemu-img", "create", "-q", "-f", own, partial, &number(size)].map(str::to_owned).to_vec()
        }
        DiskFrom::FileSystem => return container::create(shell, partial, sized()?, None).await,
        DiskFrom::Archive { path, hostname } => {
            return container::create(shell, partial, sized()?, Some((path, hostname.as_ref()))).await;
        }
        DiskFrom::Image { path, format, method } => {
            let format = format_name(*format);
            fits(shell, path, format, disk.size).await?;
            let mut words: Vec<String> = match method {
                CloneMethod::Overlay => ["qemu-img", "create", "-q", "-f", "qcow2", "-F", format, "-b", path, partial]
                    .map(str::to_owned)
                    .to_vec(),
                // What does not share blocks now is an error: whether it can was asked when it was planned.
                CloneMethod::Reflink if format == own => {
                    ["cp", "--reflink=always", "--", path, partial].map(str::to_owned).to_vec()
                }
                CloneMethod::Reflink => {
                    return Err(StepError::failed(format!("a reflink of a {format} image is no {own} disk")));
                }
                CloneMethod::Copy => {
                    ["qemu-img", "convert", "-q", "-f", format, "-O", own, path, partial].map(str::to_owned).to_vec()
                }
            };
            if *method == CloneMethod::Overlay {
                words.extend(disk.size.map(number));
            }
            words
        }
        DiskFrom::Marked { path, format, markers } => {
            fits(shell, path, format_name(*format), disk.size).await?;
            let replaced = marker::copy(shell, (path, *format), partial, markers, progress).await?;
            let list: Vec<String> = replaced.iter().map(|(name, n)| format!("{name} {n}")).collect();
            progress.says(&format!("markers replaced: {}", list.join(", ")));
            let marked = disk.stamp.marked.clone().map(|m| Marked { replaced, ..m });
            write_stamp(shell, &disk.path, &DiskStamp { marked, ..disk.stamp.clone() }).await?;
            Vec::new()
        }
    };
    if !words.is_empty() {
        succeed(shell, Program::new(words).limit(COPY)).await?;
    }
    let overlay = matches!(disk.from, DiskFrom::Image { method: CloneMethod::Overlay, .. } | DiskFrom::Blank);
    if let Some(size) = disk.size.filter(|_| !overlay) {
        succeed(shell, Program::new(["qemu-img", "resize", "-q", "-f", own, partial, &number(size)])).await?;
    }
    // What a guest writes is nobody else's to read; libvirt gives the file to QEMU's user at start.
    succeed(shell, Program::new(["chmod", "0600", partial])).await?;
    Ok(())
}

/// Sees that an image is there and not larger than the disk that it becomes.
async fn fits(shell: &dyn Shell, image: &str, format: &str, wanted: Option<Bytes>) -> Result<(), StepError> {
    let real = size(shell, image, format)
        .await?
        .ok_or_else(|| StepError::Stale(format!("the image {image} is not in the host's store")))?;
    match wanted.filter(|s| *s < real) {
        Some(wanted) => Err(StepError::failed(format!("the image is {real} large, more than the disk's {wanted}"))),
        None => Ok(()),
    }
}

/// Makes a seed, or exchanges one of the same VM.
///
/// # Errors
/// Those of [`make`].
pub async fn make_seed(
    shell: &dyn Shell,
    path: &str,
    stamp: &DiskStamp,
    image: Vec<u8>,
    replace: bool,
) -> Result<Done, StepError> {
    match place(shell, path, stamp).await? {
        Place::Done => return Ok(Done::Already),
        Place::Free => {}
        Place::Other if replace => {}
        Place::Other => return Err(StepError::Stale(format!("{path} is there already with other content"))),
    }
    folder_of(shell, path).await?;
    // When exchanging, the old image under the new stamp would count as done: so the image goes first there.
    let replacing = shell.size(path).await?.is_some();
    if replacing {
        shell.write(path, image, 0o600).await?;
        write_stamp(shell, path, stamp).await?;
    } else {
        write_stamp(shell, path, stamp).await?;
        shell.write(path, image, 0o600).await?;
    }
    Ok(Done::Changed)
}

/// Stamps a disk that exists.
///
/// # Errors
/// When it is not there or another VM's.
pub async fn stamp(shell: &dyn Shell, path: &str, stamp: &DiskStamp) -> Result<Done, StepError> {
    if shell.size(path).await?.is_none() {
        return Err(StepError::Stale(format!("the disk {path} is not there")));
    }
    match read_stamp(shell, path).await? {
        Some(found) if found == *stamp => return Ok(Done::Already),
        Some(found) if found.fleet != stamp.fleet || found.vm != stamp.vm => {
            return Err(StepError::failed(format!("{path} is a disk of {}'s {}", found.fleet, found.vm)));
        }
        _ => {}
    }
    write_stamp(shell, path, stamp).await?;
    Ok(Done::Changed)
}

/// Writes an expiry into a disk's stamp.
///
/// # Errors
/// When it has no stamp, or another fleet's.
pub async fn retain(shell: &dyn Shell, fleet: &Name, path: &str, until: Timestamp) -> Result<Done, StepError> {
    let found = read_stamp(shell, path).await?.filter(|s| s.fleet == *fleet);
    let mut found = found.ok_or_else(|| StepError::Stale(format!("{path} carries no stamp of ours")))?;
    if found.expires == Some(until) {
        return Ok(Done::Already);
    }
    found.expires = Some(until);
    write_stamp(shell, path, &found).await?;
    Ok(Done::Changed)
}

/// Deletes a disk and then its stamp. The caller has seen that no domain has it.
///
/// # Errors
/// When its stamp names another VM, or it has none.
pub async fn delete(shell: &dyn Shell, fleet: &Name, vm: &Name, path: &str) -> Result<Done, StepError> {
    let there = shell.size(path).await?.is_some();
    match read_stamp(shell, path).await? {
        Some(found) if found.fleet == *fleet && found.vm == *vm => {}
        Some(found) => return Err(StepError::failed(format!("{path} is a disk of {}'s {}", found.fleet, found.vm))),
        None if there => return Err(StepError::failed(format!("{path} carries no stamp of ours: it is left alone"))),
        None => return Ok(Done::Already),
    }
    shell.remove(path).await?;
    shell.remove(&format!("{path}.partial")).await?;
    shell.remove(&container::growing(path)).await?;
    shell.remove(&stamp_path(path)).await?;
    Ok(Done::Changed)
}

/// Grows a disk that no running domain has.
///
/// # Errors
/// When it is larger already or `qemu-img` fails.
pub async fn grow(shell: &dyn Shell, path: &str, format: &str, to: Bytes) -> Result<Done, StepError> {
    if format == CONTAINER_DISK {
        return container::grow(shell, path, to).await;
    }
    let now =
        size(shell, path, format).await?.ok_or_else(|| StepError::Stale(format!("the disk {path} is not there")))?;
    if !grows(path, now, to)? {
        return Ok(Done::Already);
    }
    // Without --shrink qemu-img refuses to make it smaller, whatever happened since we looked.
    succeed(shell, Program::new(["qemu-img", "resize", "-q", "-f", format, path, &to.0.to_string()])).await?;
    match size(shell, path, format).await? {
        Some(now) if now == to => Ok(Done::Changed),
        other => Err(StepError::failed(format!("{path} is {other:?} after growing it to {to}"))),
    }
}

/// Whether a disk has to grow.
///
/// # Errors
/// When it would have to shrink.
pub fn grows(path: &str, now: Bytes, to: Bytes) -> Result<bool, StepError> {
    if now > to {
        return Err(StepError::Failed {
            what: format!("{path} is {now} large already, more than {to}"),
            hint: Some(format!("disks never shrink: write `size: {}` or make a new disk", now.exact())),
            detail: Vec::new(),
        });
    }
    Ok(now < to)
}

/// The size that a guest sees of a disk file: of qcow2 from its header (QEMU, `docs/interop/qcow2.txt`, bytes 24 to 31),
/// else the file's own. `None` when it is not there.
///
/// # Errors
/// [`ShellError`], and a file that is not qcow2 although it should be.
pub async fn size(shell: &dyn Shell, path: &str, format: &str) -> Result<Option<Bytes>, ShellError> {
    let Some((length, _)) = shell.size(path).await? else { return Ok(None) };
    if format != "qcow2" {
        return Ok(Some(Bytes(length)));
    }
    let header = shell.read(path, 32).await?;
    match qcow2_size(&header) {
        Some(size) => Ok(Some(size)),
        None => {
            Err(ShellError::File { path: path.to_owned(), text: "it is not a qcow2 image".to_owned(), missing: false })
        }
    }
}

/// Where the path of the backing file stands in a qcow2 header: its first byte and the one behind its last (QEMU,
/// `docs/interop/qcow2.txt`, bytes 8 to 19). `None` without one.
fn backing_range(header: &[u8]) -> Option<(u64, u64)> {
    qcow2_size(header)?;
    let offset = u64::from_be_bytes(header.get(8..16)?.try_into().ok()?);
    let length = u32::from_be_bytes(header.get(16..20)?.try_into().ok()?);
    let end = offset.checked_add(u64::from(length)).filter(|end| *end <= QCOW2_HEADER)?;
    (offset != 0).then_some((offset, end))
}

/// Bytes of a header that must be read to know the backing file; `None` when there is none.
#[cfg(feature = "libvirt")]
pub(super) fn needs(header: &[u8]) -> Option<u64> {
    backing_range(header).map(|(_, end)| end)
}

/// What a disk's files say of it; `None` when its stamp is of another fleet, or it is not what its name says.
pub(super) fn seen(
    fleet: &Name,
    path: &str,
    stamp: DiskStamp,
    (length, used): (u64, u64),
    header: &[u8],
) -> Option<DiskObs> {
    if stamp.fleet != *fleet {
        return None;
    }
    let size = match qcow2_size(header) {
        Some(size) => size,
        // Somebody put another file in its place: the disk is not there, whatever the stamp beside it says.
        None if path.ends_with(".qcow2") => return None,
        None => Bytes(length),
    };
    Some(DiskObs { stamp, size, used: Bytes(used), backing: qcow2_backing(header) })
}

/// The virtual size in a qcow2 header, `None` where the magic number is missing.
pub fn qcow2_size(header: &[u8]) -> Option<Bytes> {
    if header.get(..4)? != b"QFI\xfb" {
        return None;
    }
    Some(Bytes(u64::from_be_bytes(header.get(24..32)?.try_into().ok()?)))
}

/// Header, its extensions and the name of the backing file: QEMU keeps them in the first cluster, and writes the name right
/// behind the extensions.
const QCOW2_HEADER: u64 = 4096;

/// The file under an overlay, from the beginning of a qcow2 file (bytes 8 to 19: where its name is, and how long).
pub fn qcow2_backing(header: &[u8]) -> Option<String> {
    let (start, end) = backing_range(header)?;
    let name = header.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
    String::from_utf8(name.to_vec()).ok()
}

/// `qcow2` or `raw`.
pub const fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw | ImageFormat::Rootfs => "raw",
    }
}

/// Looks at one disk with a stamp of this fleet; `None` without one or without the disk.
pub async fn observe(shell: &dyn Shell, fleet: &Name, path: &str) -> Option<DiskObs> {
    let stamp = read_stamp(shell, path).await.ok().flatten().filter(|s| s.fleet == *fleet)?;
    let (length, used) = shell.size(path).await.ok().flatten()?;
    if path.ends_with(&format!(".{CONTAINER_DISK}")) {
        let size = container::size(shell, path).await.ok().flatten()?;
        return Some(DiskObs { stamp, size, used: Bytes(used), backing: None });
    }
    let header = shell.read(path, QCOW2_HEADER).await.ok()?;
    seen(fleet, path, stamp, (length, used), &header)
}

/// Writes a placement record.
///
/// # Errors
/// [`ShellError`].
pub async fn record(
    shell: &dyn Shell,
    folders: &Folders,
    vm: &Name,
    record: &PlacementRecord,
) -> Result<Done, StepError> {
    let path = folders.record(vm);
    if read_record(shell, &path).await.as_ref() == Some(record) {
        return Ok(Done::Already);
    }
    shell.make_folder(&folders.slots).await?;
    let text = serde_json::to_string_pretty(record).map_err(|e| StepError::failed(e.to_string()))?;
    shell.write(&path, (text + "\n").into_bytes(), 0o644).await?;
    Ok(Done::Changed)
}

/// Reads a placement record; `None` when it is not there or not readable.
pub async fn read_record(shell: &dyn Shell, path: &str) -> Option<PlacementRecord> {
    serde_json::from_slice(&shell.read(path, 1 << 20).await.ok()?).ok()
}

/// Removes a placement record and the console's file, and what a death half-way may have left of the VM: stamps without a
/// disk, unfinished files.
///
/// # Errors
/// [`ShellError`].
pub async fn unrecord(shell: &dyn Shell, folders: &Folders, vm: &Name) -> Result<Done, StepError> {
    let prefix = format!("{}.{vm}.", folders.fleet);
    let names = shell.list(&folders.slots).await?;
    for name in names.iter().filter(|n| n.starts_with(&prefix)) {
        let orphan = name.strip_suffix(".stamp").is_some_and(|disk| !names.iter().any(|n| n == disk));
        if orphan || name.ends_with(".partial") || name.ends_with(PACKAGES) {
            shell.remove(&format!("{}/{name}", folders.slots)).await?;
        }
    }
    shell.remove(&folders.console(vm)).await?;
    let removed = shell.remove(&folders.record(vm)).await?;
    Ok(if removed { Done::Changed } else { Done::Already })
}

pub(super) async fn folder_of(shell: &dyn Shell, path: &str) -> Result<(), StepError> {
    if let Some((folder, _)) = path.rsplit_once('/').filter(|(f, _)| !f.is_empty()) {
        shell.make_folder(folder).await?;
    }
    Ok(())
}

/// Makes what is written durable and gives it its name.
pub(super) async fn publish(shell: &dyn Shell, partial: &str, path: &str) -> Result<(), StepError> {
    // sync(1) with a file is fsync(2): coreutils 8.24.
    succeed(shell, Program::new(["sync", partial])).await?;
    Ok(shell.rename(partial, path).await?)
}

impl From<ShellError> for StepError {
    fn from(error: ShellError) -> Self {
        let hint = match &error {
            unknown if unknown.is_unknown() => return Self::Unknown(error.to_string()),
            ShellError::NoProgram(name) => match name.as_str() {
                "qemu-img" => Some("apt-get install qemu-utils".to_owned()),
                "ip" => Some("apt-get install iproute2".to_owned()),
                "xz" => Some("apt-get install xz-utils".to_owned()),
                "sha256sum" | "sha512sum" => Some("apt-get install coreutils".to_owned()),
                "flock" => Some("apt-get install util-linux".to_owned()),
                name => Some(format!("apt-get install {name}")),
            },
            _ => None,
        };
        Self::Failed { what: error.to_string(), hint, detail: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shell::Local;
    use super::*;
    use crate::execute::NoProgress;

    fn a_stamp(vm: &str) -> DiskStamp {
        DiskStamp {
            fleet: Name::new("f").unwrap(),
            vm: Name::new(vm).unwrap(),
            disk: "root".to_owned(),
            incarnation: 1,
            epoch: 1,
            expires: None,
            made_from: None,
            on_remove: crate::model::OnRemove::Delete,
            phase: crate::model::DiskPhase::Valid,
            marked: None,
        }
    }

    fn run<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
    }

    #[test]
    fn a_disk_is_never_made_over_another() {
        if std::process::Command::new("qemu-img").arg("--version").output().is_err() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slots/f.a.1.root.qcow2").to_str().unwrap().to_owned();
        let disk =
            NewDisk { path: path.clone(), stamp: a_stamp("a"), from: DiskFrom::Blank, size: Some(Bytes::mib(4)) };
        run(async {
            assert_eq!(make(&Local, &disk, &NoProgress).await, Ok(Done::Changed));
            assert_eq!(make(&Local, &disk, &NoProgress).await, Ok(Done::Already));
            let other = NewDisk { stamp: a_stamp("b"), ..disk.clone() };
            assert!(make(&Local, &other, &NoProgress).await.is_err());
            assert_eq!(grow(&Local, &path, "qcow2", Bytes::mib(8)).await, Ok(Done::Changed));
            assert_eq!(grow(&Local, &path, "qcow2", Bytes::mib(8)).await, Ok(Done::Already));
            assert!(grow(&Local, &path, "qcow2", Bytes::mib(4)).await.is_err());
            let fleet = Name::new("f").unwrap();
            let seen = observe(&Local, &fleet, &path).await.unwrap();
            assert_eq!(seen.size, Bytes::mib(8));
            assert_eq!(retain(&Local, &fleet, &path, Timestamp(9)).await, Ok(Done::Changed));
            assert!(delete(&Local, &fleet, &Name::new("b").unwrap(), &path).await.is_err());
            assert_eq!(delete(&Local, &fleet, &Name::new("a").unwrap(), &path).await, Ok(Done::Changed));
            assert_eq!(delete(&Local, &fleet, &Name::new("a").unwrap(), &path).await, Ok(Done::Already));
            // Unstamped files are nobody's to delete or to overwrite.
            std::fs::write(&path, b"mine").unwrap();
            assert!(make(&Local, &disk, &NoProgress).await.is_err());
            assert!(delete(&Local, &fleet, &Name::new("a").unwrap(), &path).await.is_err());
            assert_eq!(std::fs::read(&path).unwrap(), b"mine");
            // Nor is such a file the disk, though the disk's stamp still lies beside it.
            write_stamp(&Local, &path, &a_stamp("a")).await.unwrap();
            assert_eq!(observe(&Local, &fleet, &path).await, None);
        });
    }

    #[test]
    fn a_reflink_shares_its_blocks_or_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("image.raw"), vec![7u8; 4 << 20]).unwrap();
        let can = std::process::Command::new("cp")
            .args(["--reflink=always", &at("image.raw"), &at("probe")])
            .output()
            .is_ok_and(|o| o.status.success());
        if can && std::process::Command::new("qemu-img").arg("--version").output().is_err() {
            return;
        }
        let from = DiskFrom::Image { path: at("image.raw"), format: ImageFormat::Raw, method: CloneMethod::Reflink };
        let path = at("slots/f.a.1.root.raw");
        let disk = NewDisk { path: path.clone(), stamp: a_stamp("a"), from, size: Some(Bytes::mib(8)) };
        let before = run(Local.free(&at(""))).unwrap();
        let made = run(make(&Local, &disk, &NoProgress));
        if !can {
            assert!(made.is_err() && !std::path::Path::new(&path).exists(), "{made:?}");
            return;
        }
        assert_eq!(made, Ok(Done::Changed));
        let there = std::fs::read(&path).unwrap();
        assert!(there.len() == 8 << 20 && there[..4 << 20].iter().all(|b| *b == 7));
        assert!(before - run(Local.free(&at(""))).unwrap() < 1 << 20, "no block was copied");
        let other = NewDisk { path: at("slots/f.b.1.root.qcow2"), stamp: a_stamp("b"), ..disk };
        assert!(run(make(&Local, &other, &NoProgress)).is_err(), "a raw file is no qcow2 disk");
    }
}
