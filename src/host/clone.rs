//! Whether clones of a host's images can share their blocks.

use std::time::Instant;

use super::fleet::RealHost;
use super::libvirt::FRESH;
use super::shell::{Program, Shell, ShellError, succeed};
use crate::model::{CloneMethod, Desired};

/// Copies a block from one folder, or its nearest parent, into another one, as a reflink. What a probe left that was killed
/// goes with the next one an hour later.
const SCRIPT: &str = r#"near() {
  folder=$1
  until [ -d "$folder" ]; do case $folder in */*) folder=${folder%/*}; folder=${folder:-/};; *) exit 1;; esac; done
  find "$folder" -maxdepth 1 -name '.stablehand-reflink.*' -mmin +60 -exec rm -f -- {} +
}
from=; to=; trap 'rm -f -- "$from" "$to"' EXIT
near "$1"; from=$(mktemp "$folder/.stablehand-reflink.XXXXXX") || exit 1
near "$2"; to=$(mktemp "$folder/.stablehand-reflink.XXXXXX") || exit 1
printf '%4096s' x >"$from" || exit 1
if cp --reflink=always -- "$from" "$to" 2>/dev/null; then echo yes; else echo no; fi"#;

/// Whether a file of the first folder can be cloned into the second one, blocks shared (ioctl_ficlone(2)).
///
/// # Errors
/// [`ShellError`]: a folder that cannot be written to among others.
pub(super) async fn reflinks(shell: &dyn Shell, images: &str, slots: &str) -> Result<bool, ShellError> {
    let said = succeed(shell, Program::new(["sh", "-c", SCRIPT, "sh", images, slots])).await?;
    Ok(said.starts_with(b"yes"))
}

/// The same of a host's folders, looked for every ten minutes; `None` where no image asks for it, or it could not be tried.
pub(super) async fn of(host: &RealHost, desired: &Desired) -> Option<bool> {
    if !desired.images.values().any(|image| image.clone == CloneMethod::Reflink) {
        return None;
    }
    let mut kept = host.reflinks.lock().await;
    if let Some((_, known)) = kept.as_ref().filter(|(at, _): &&(Instant, bool)| at.elapsed() < FRESH) {
        return Some(*known);
    }
    let found = reflinks(host.shell.as_ref(), &host.folders.images, &host.folders.slots).await.ok()?;
    *kept = Some((Instant::now(), found));
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::super::shell::Local;
    use super::*;

    #[tokio::test]
    async fn the_probe_leaves_nothing_and_agrees_with_cp() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        std::fs::write(images.join("a"), [1u8; 4096]).unwrap();
        let cp = std::process::Command::new("cp")
            .args(["--reflink=always", "--"])
            .args([images.join("a"), folder.path().join("b")])
            .output()
            .unwrap();
        let (from, to) = (images.to_str().unwrap(), folder.path().join("slots/not/there/yet"));
        assert_eq!(reflinks(&Local, from, to.to_str().unwrap()).await, Ok(cp.status.success()));
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 1);
        let left = std::fs::read_dir(folder.path()).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.iter().all(|n| !n.starts_with(".stablehand")), "{left:?}");
    }
}
