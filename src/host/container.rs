//! Disks of containers: files with an ext4 file system, made, filled and grown by programs of the host.
//!
//! A file and no folder: so its size is a limit, and it is copied, kept and deleted as any other disk. Where a file
//! system has to be mounted for that, it is in a mount namespace that ends with the program: nothing stays mounted after
//! a crash.

use std::time::Duration;

use super::shell::{Program, Shell, ShellError, succeed};
use crate::execute::{Done, StepError};
use crate::model::{Bytes, Name};

/// Archives take their time: 40 GiB at 50 MB/s.
const UNPACK: Duration = Duration::from_secs(900);

/// `IMAGE SIZE`: a file system without anything in it, and nobody else's to read. Root needs no share of its own (`-m 0`): nobody logs in there.
const MAKE: &str = r#"umask 077 && truncate -s "$2" "$1" && mke2fs -q -F -t ext4 -m 0 "$1""#;

/// `IMAGE ARCHIVE [HOSTNAME]`: fills a file system. tar(1) knows by itself how the archive is compressed.
///
/// The name goes into the usual files; a folder that is a link would lead out of the tree, to the host's own files.
/// `/etc/resolv.conf` becomes an empty file, over which the seed is mounted.
const FILL: &str = r#"set -eu
mount -o loop "$1" /mnt
tar -x -f "$2" -C /mnt --numeric-owner --same-owner --same-permissions --xattrs '--xattrs-include=*'
cd /mnt
for folder in dev proc sys run tmp etc; do
  if [ -L "$folder" ]; then echo "/$folder of the archive is a link" >&2; exit 1; fi
  mkdir -p "$folder"
done
if [ -n "${3:-}" ]; then
  rm -f etc/hostname etc/resolv.conf
  echo "$3" >etc/hostname
  : >etc/resolv.conf
  if [ -L etc/hosts ]; then rm etc/hosts; fi
  if ! [ -e etc/hosts ]; then echo "127.0.0.1 localhost" >etc/hosts; fi
  echo "127.0.1.1 $3" >>etc/hosts
fi
cd /
umount /mnt"#;

/// `IMAGE OLD NEW`: grows the file, then the file system in it: through the loop device where a container has it. The old
/// size stands beside it meanwhile: after a crash it is still the one that is seen, and this is done again.
const GROW: &str = r#"set -eu
echo "$2" >"$1.growing"
sync "$1.growing"
truncate -s "$3" "$1"
loop=$(losetup --noheadings --output NAME --associated "$1" | head -n 1)
if [ -n "$loop" ]; then
  losetup --set-capacity "$loop"
  # Mounted a second time, for resize2fs: what a container has mounted is not to be seen from here.
  unshare --mount sh -euc 'mount -t ext4 "$1" /mnt; resize2fs "$1"' sh "$loop"
else
  e2fsck -f -p "$1" || [ $? -eq 1 ]
  resize2fs "$1"
fi
sync "$1"
rm "$1.growing""#;

fn script(text: &str, arguments: &[&str]) -> Program {
    // Not everybody who is root has these folders in the path.
    let text = format!("PATH=$PATH:/usr/sbin:/sbin\n{text}");
    Program::new(["sh", "-c", &text, "sh"].iter().chain(arguments).copied()).limit(UNPACK)
}

/// Where the old size of a disk stands while it grows.
pub(super) fn growing(path: &str) -> String {
    format!("{path}.growing")
}

/// Makes a file system; with an archive, one that holds its content, and the name of who lives in it.
pub(super) async fn create(
    shell: &dyn Shell,
    partial: &str,
    size: Bytes,
    archive: Option<(&str, Option<&Name>)>,
) -> Result<(), StepError> {
    if let Some((path, _)) = archive
        && shell.size(path).await?.is_none()
    {
        return Err(StepError::Stale(format!("the archive {path} is not in the host's store")));
    }
    match succeed(shell, script(MAKE, &[partial, &size.0.to_string()])).await {
        Err(ShellError::Failed { complaint, .. }) => {
            return Err(StepError::failed(format!("a file system cannot be made in {partial}: {complaint}")));
        }
        other => drop(other?),
    }
    let Some((path, hostname)) = archive else { return Ok(()) };
    let fill = ["unshare", "--mount", "sh", "-c", FILL, "sh", partial, path, hostname.map_or("", Name::as_str)];
    match succeed(shell, Program::new(fill).limit(UNPACK)).await {
        Ok(_) => Ok(()),
        Err(ShellError::Failed { complaint, .. }) => Err(StepError::Failed {
            hint: complaint.contains("No space left").then(|| {
                format!("its content is more than {size}: write a larger `rootSize`, and see that the host has room")
            }),
            what: format!("{path} cannot be unpacked: {complaint}"),
            detail: Vec::new(),
        }),
        Err(other) => Err(other.into()),
    }
}

/// Grows a disk, also while a container has it.
pub(super) async fn grow(shell: &dyn Shell, path: &str, to: Bytes) -> Result<Done, StepError> {
    let now = size(shell, path).await?.ok_or_else(|| StepError::Stale(format!("the disk {path} is not there")))?;
    if !super::disk::grows(path, now, to)? {
        return Ok(Done::Already);
    }
    let grown = succeed(shell, script(GROW, &[path, &now.0.to_string(), &to.0.to_string()])).await;
    if let Err(ShellError::Failed { complaint, .. }) = grown {
        // resize2fs(8) on a mounted file system needs CAP_SYS_RESOURCE (capabilities(7)), which a host that is itself a
        // container may lack.
        let hint = complaint.contains("Permission denied");
        return Err(StepError::Failed {
            what: format!("{path} cannot be grown to {to}: {complaint}"),
            hint: hint.then(|| "this host may not resize what is mounted: stop the container, and it grows".to_owned()),
            detail: Vec::new(),
        });
    }
    grown?;
    match size(shell, path).await? {
        Some(now) if now == to => Ok(Done::Changed),
        other => Err(StepError::failed(format!("{path} is {other:?} after growing it to {to}"))),
    }
}

/// The size of a disk: its file's, while it grows the old one. `None` when it is not there, or holds no ext4 file system:
/// somebody put another file in its place.
pub(super) async fn size(shell: &dyn Shell, path: &str) -> Result<Option<Bytes>, ShellError> {
    let Some((length, _)) = shell.size(path).await? else { return Ok(None) };
    // The superblock is 1024 bytes into the file system, and its s_magic 56 bytes into that
    // (Documentation/filesystems/ext4/super.rst).
    let head = shell.read(path, 1082).await?;
    let old = shell.read(&growing(path), 32).await.unwrap_or_default();
    Ok(size_of(length, &head, &old))
}

/// The same of a file's length, its first 1082 bytes and the size that stands beside it while it grows.
pub(super) fn size_of(length: u64, head: &[u8], old: &[u8]) -> Option<Bytes> {
    if head.get(1080..1082) != Some(&[0x53, 0xef]) {
        return None;
    }
    Some(String::from_utf8_lossy(old).trim().parse().ok().map_or(Bytes(length), Bytes))
}

/// What stands in the seed of a container: resolv.conf(5) reads three name servers.
#[cfg(feature = "libvirt")]
pub(super) fn resolv_conf(seed: &crate::plan::Seed) -> Vec<u8> {
    let mut text = String::new();
    let mut said = std::collections::BTreeSet::new();
    for server in seed.nics.values().flat_map(|nic| &nic.dns).filter(|s| said.insert(**s)).take(3) {
        text += &format!("nameserver {server}\n");
    }
    text.into_bytes()
}
