//! What lies in a host's folders, in one look: disks with their stamps and headers, images, placement records, the lock, free
//! room, bridges.
//!
//! On this machine on one thread. On another one a script looks at all of them in one call: with fifty VMs there are some
//! hundred files, and a call for each would take longer than the look may. It is one answer or none: a connection that breaks
//! half-way is no folder that is half empty.

mod here;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bridge;
use super::disk::{self, Folders};
use super::shell::{LIBRARY, Program, Shell, ShellError, succeed};
use super::{container, images, lock};
use crate::model::{Bytes, CONTAINER_DISK, Digest, DiskObs, DiskStamp, ImageObs, LockHolder, Name, PlacementRecord};

/// How long another machine may take to look.
const LOOK: Duration = Duration::from_secs(15);

/// Bytes of a disk's header that are read: qcow2's, its extensions and the path of a backing file are within them, and ext4's superblock (QEMU,
/// `docs/interop/qcow2.txt`), unless that path is very long.
const HEADER: u64 = 1088;

/// Lines by their first character: `=` a path, followed by the lines of that file, each behind `+`; `@` a path, followed by
/// its first bytes in hexadecimal, behind blanks; a digit: length, blocks, bytes of a block, path; `!` anything else. Names
/// with a line's end in them are none of ours.
const SCRIPT: &str = r#"slots=$1 images=$2 lock=$3 fleet=$4; shift 4
line_end='
'
ours() { case $1 in *"$line_end"*) return 1;; esac; [ -f "$1" ]; }
open_folder() { if there "$1"; then [ -d "$1" ] && [ -r "$1" ] && [ -x "$1" ] || fail "$1: Permission denied"; fi; }
text() { printf '=%s\n' "$1"; while IFS= read -r line || [ -n "$line" ]; do printf '+%s\n' "$line"; done <"$1"; }
head_of() { printf '@%s\n' "$1"; od -An -v -tx1 -N 1088 <"$1"; }
free() {
  folder=$2
  until there "$folder"; do case $folder in */*) folder=${folder%/*}; folder=${folder:-/};; *) exit 1;; esac; done
  said=$(stat -f -c '%a %S' -- "$folder") || exit 1
  echo "!$1 $said"
}
open_folder "$slots"; open_folder "$images"
for path; do
  for beside in "$path.stamp" "$path.growing"; do if ours "$beside"; then text "$beside"; fi; done
  if ours "$path"; then head_of "$path"; fi
done
if [ -n "$slots" ]; then
  for stamp in "$slots"/*.stamp; do
    if ours "$stamp"; then
      text "$stamp"
      path=${stamp%.stamp}
      if ours "$path"; then head_of "$path"; set -- "$@" "$path"; fi
      if ours "$path.growing"; then text "$path.growing"; fi
    fi
  done
  for record in "$slots/$fleet".*.record; do if ours "$record"; then text "$record"; fi; done
  for digest in "$images"/*.digest; do
    if ours "$digest" && ours "${digest%.digest}"; then text "$digest"; set -- "$@" "${digest%.digest}"; fi
    for mark in "${digest%.digest}".for.*; do if ours "$mark"; then text "$mark"; fi; done
  done
  free slots "$slots"; free images "$images"
  if ours "$lock" && command -v flock >/dev/null 2>&1 && ! flock -n -s "$lock" true; then echo '!held'; text "$lock"; fi
fi
if [ $# -gt 0 ]; then stat -L -c '%s %b %B %n' -- "$@" 2>/dev/null; fi
if [ -n "$slots" ]; then borders "$fleet"; fi
echo '!whole'
if [ -n "$slots" ]; then
  command -v ip >/dev/null 2>&1 || { echo '!no-ip'; exit; }
  echo '!ip'; exec ip -json -details address show
fi"#;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glance {
    /// Disks with a stamp of the fleet.
    pub(super) disks: BTreeMap<String, DiskObs>,
    /// Finished files of the store.
    pub(super) images: BTreeMap<Digest, ImageObs>,
    /// Placement records of the fleet.
    pub(super) records: BTreeMap<Name, PlacementRecord>,
    /// Who holds the controller's lock.
    pub(super) lock: Option<LockHolder>,
    /// Bytes free for slots and for images.
    pub(super) free: (Bytes, Bytes),
    /// Its bridges and other interfaces.
    pub(super) network: bridge::Seen,
}

/// The network of this machine, asked for once however many hosts of one look are on it.
pub(super) type Interfaces = tokio::sync::OnceCell<Result<bridge::Raw, ShellError>>;

/// Looks into the folders of a host. `here` is what one look has in common on this machine.
///
/// # Errors
/// [`ShellError`].
pub(super) async fn at(
    shell: &dyn Shell,
    folders: &Folders,
    lock: &str,
    here: &Interfaces,
) -> Result<Glance, ShellError> {
    let raw = if shell.is_remote() {
        let raw = ask(shell, [&folders.slots, &folders.images, lock, folders.fleet.as_str()], &[]).await?;
        let held = raw.held.then(|| lock::read(raw.texts.get(lock).map_or(b"", Vec::as_slice)));
        Raw { lock: held, ..raw }
    } else {
        let interfaces = here.get_or_init(|| async {
            let (ip, borders) = tokio::join!(bridge::ask(shell), bridge::ask_borders(shell, &folders.fleet));
            Ok(bridge::Raw { ip: ip?, ..borders? })
        });
        let (raw, interfaces) = tokio::join!(here::folders(folders, lock), interfaces);
        Raw { network: Some(interfaces.clone()?), ..raw? }
    };
    raw.glance(shell, folders).await
}

/// Looks at disks that stand elsewhere than in the slots folder.
///
/// # Errors
/// [`ShellError`] of another machine.
pub(super) async fn at_disks(
    shell: &dyn Shell,
    fleet: &Name,
    paths: BTreeSet<String>,
) -> Result<BTreeMap<String, DiskObs>, ShellError> {
    if paths.is_empty() {
        return Ok(BTreeMap::new());
    }
    if !shell.is_remote() {
        return here::disks(paths).await?.disks(shell, fleet).await;
    }
    let asked: Vec<&str> = paths.iter().map(String::as_str).collect();
    let raw = ask(shell, ["", "", "", fleet.as_str()], &asked).await?;
    raw.disks(shell, fleet).await
}

/// What lies there, not yet looked at more closely.
#[derive(Debug, Default)]
struct Raw {
    texts: BTreeMap<String, Vec<u8>>,
    heads: BTreeMap<String, Vec<u8>>,
    sizes: BTreeMap<String, (u64, u64)>,
    free: BTreeMap<String, u64>,
    /// What the script knows of the lock.
    held: bool,
    lock: Option<LockHolder>,
    network: Option<bridge::Raw>,
}

async fn ask(shell: &dyn Shell, folders: [&str; 4], paths: &[&str]) -> Result<Raw, ShellError> {
    let script = format!("{LIBRARY}{}{SCRIPT}", bridge::LOOK);
    let words = ["sh", "-c", &script, "sh"].into_iter().chain(folders).chain(paths.iter().copied());
    let wrong =
        |complaint: &str| ShellError::File { path: folders[0].to_owned(), text: complaint.to_owned(), missing: false };
    match succeed(shell, Program::new(words).limit(LOOK)).await {
        Ok(said) => read(&said).ok_or_else(|| wrong("the host's answer is cut off")),
        Err(ShellError::TimedOut(_, after)) => {
            Err(ShellError::TimedOut("a look into the host's folders".to_owned(), after))
        }
        Err(ShellError::Failed { complaint, .. }) => Err(wrong(&complaint)),
        Err(other) => Err(other),
    }
}

/// Takes the script's answer apart; `None` when it is not all of it.
fn read(said: &[u8]) -> Option<Raw> {
    const END: &[u8] = b"!whole\n";
    let mut raw = Raw::default();
    let (mut rest, mut path, mut network) = (said, String::new(), bridge::Raw::default());
    while !rest.starts_with(END) {
        let end = rest.iter().position(|b| *b == b'\n')?;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let (kind, body) = line.split_first()?;
        match kind {
            b'=' | b'@' => {
                path = String::from_utf8_lossy(body).into_owned();
                let kept = if *kind == b'=' { &mut raw.texts } else { &mut raw.heads };
                kept.insert(path.clone(), Vec::new());
            }
            b'+' => {
                let text = raw.texts.get_mut(&path)?;
                text.extend_from_slice(body);
                text.push(b'\n');
            }
            b' ' => {
                let bytes = String::from_utf8_lossy(body).into_owned();
                let bytes = bytes.split_whitespace().filter_map(|b| u8::from_str_radix(b, 16).ok());
                raw.heads.get_mut(&path)?.extend(bytes);
            }
            b'0'..=b'9' => {
                let line = String::from_utf8_lossy(line).into_owned();
                let mut parts = line.splitn(4, ' ');
                let mut number = || parts.next()?.parse::<u64>().ok();
                let (length, blocks, block) = (number()?, number()?, number()?);
                raw.sizes.insert(parts.next()?.to_owned(), (length, blocks.saturating_mul(block)));
            }
            b'!' if body == b"held" => raw.held = true,
            b'!' if network.take(body) => {}
            b'!' => {
                let line = String::from_utf8_lossy(body).into_owned();
                let words: Vec<&str> = line.split(' ').collect();
                let [what, blocks, block] = words[..] else { return None };
                raw.free.insert(what.to_owned(), blocks.parse::<u64>().ok()?.saturating_mul(block.parse().ok()?));
            }
            _ => return None,
        }
    }
    let ip = rest[END.len()..].strip_prefix(b"!ip\n").map(<[u8]>::to_vec);
    raw.network = ip.map(|ip| bridge::Raw { ip, ..network });
    Some(raw)
}

impl Raw {
    async fn glance(&self, shell: &dyn Shell, folders: &Folders) -> Result<Glance, ShellError> {
        let (slots, fleet) = (&folders.slots, &folders.fleet);
        let Some(network) = &self.network else { return Err(ShellError::NoProgram("ip".to_owned())) };
        let prefix = format!("{slots}/{fleet}.");
        let record = |(path, text): (&String, &Vec<u8>)| {
            let vm = Name::new(path.strip_prefix(&prefix)?.strip_suffix(".record")?).ok()?;
            Some((vm, serde_json::from_slice(text).ok()?))
        };
        let image = |(path, text): (&String, &Vec<u8>)| {
            let path = path.strip_suffix(".digest").filter(|p| p.starts_with(&folders.images))?;
            let (_, used) = self.sizes.get(path)?;
            let (digest, note) = images::read_digest(text)?;
            let begin = images::mark_of(path, "");
            let marks = self.texts.range(begin.clone()..).take_while(|(mark, _)| mark.starts_with(&begin));
            let marks = marks.filter_map(|(mark, text)| images::read_mark(&mark[begin.len()..], text)).collect();
            Some((digest, ImageObs { path: path.to_owned(), used: Bytes(*used), note, marks }))
        };
        let free = |what: &str| Bytes(self.free.get(what).copied().unwrap_or_default());
        Ok(Glance {
            disks: self.disks(shell, fleet).await?,
            images: self.texts.iter().filter_map(image).collect(),
            records: self.texts.iter().filter_map(record).collect(),
            lock: self.lock.clone(),
            free: (free("slots"), free("images")),
            network: bridge::read(network, fleet)?,
        })
    }

    async fn disks(&self, shell: &dyn Shell, fleet: &Name) -> Result<BTreeMap<String, DiskObs>, ShellError> {
        let mut out = BTreeMap::new();
        for (path, header) in &self.heads {
            let stamp =
                self.texts.get(&disk::stamp_path(path)).and_then(|t| serde_json::from_slice::<DiskStamp>(t).ok());
            let (Some(stamp), Some((length, used))) = (stamp, self.sizes.get(path)) else { continue };
            if path.ends_with(&format!(".{CONTAINER_DISK}")) {
                let old = self.texts.get(&container::growing(path)).map_or(b"".as_slice(), Vec::as_slice);
                let size = container::size_of(*length, header, old).filter(|_| stamp.fleet == *fleet);
                let seen = size.map(|size| DiskObs { stamp, size, used: Bytes(*used), backing: None });
                out.extend(seen.map(|seen| (path.clone(), seen)));
                continue;
            }
            let mut longer = Vec::new();
            if disk::needs(header).is_some_and(|n| n > HEADER) {
                longer = match shell.read(path, disk::needs(header).unwrap_or(HEADER)).await {
                    Err(gone) if gone.is_missing() => continue,
                    said => said?,
                };
            }
            let header = if longer.is_empty() { header } else { &longer };
            if let Some(seen) = disk::seen(fleet, path, stamp, (*length, *used), header) {
                out.insert(path.clone(), seen);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::shell::{Local, Remote};
    use super::*;
    use crate::model::Timestamp;

    fn run(words: &[&str]) {
        let out = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn remotes() -> Vec<Remote> {
        let mut all = vec![Remote::command(["sh", "-c", r#"exec "$@""#, "sh"].into_iter(), Path::new("/"))];
        if Path::new("/usr/bin/busybox").exists() {
            // Its programs, but for `ip`, which has no JSON there.
            let folder = Box::leak(Box::new(tempfile::tempdir().unwrap()));
            let list = std::process::Command::new("busybox").arg("--list").output().unwrap();
            for name in
                String::from_utf8_lossy(&list.stdout).lines().filter(|n| !["ip", "sh", "ash", "timeout"].contains(n))
            {
                let _ = std::os::unix::fs::symlink("/usr/bin/busybox", folder.path().join(name));
            }
            let script = format!(r#"export PATH="{}:$PATH"; exec "$@""#, folder.path().display());
            all.push(Remote::command(["sh", "-c", &script, "sh"].into_iter(), Path::new("/")));
        }
        all
    }

    /// A folder with all that may lie in one.
    async fn a_folder(folder: &Path) -> Folders {
        let at = |p: &str| folder.join(p).to_str().unwrap().to_owned();
        let fleet = Name::new("f").unwrap();
        let folders = Folders { fleet: fleet.clone(), slots: at("slots it's"), images: at("images") };
        std::fs::create_dir_all(&folders.slots).unwrap();
        std::fs::create_dir_all(&folders.images).unwrap();
        let stamp = |vm: &str, fleet: &str| {
            format!(r#"{{"fleet":"{fleet}","vm":"{vm}","disk":"root","incarnation":1,"epoch":1,"onRemove":"delete"}}"#)
        };
        let (slots, images) = (Path::new(&folders.slots), Path::new(&folders.images));
        let long = format!("{}/{}/base.qcow2", folders.images, "d".repeat(200));
        std::fs::create_dir_all(Path::new(&long).parent().unwrap()).unwrap();
        for base in [at("images/1-base.qcow2"), long.clone()] {
            run(&["qemu-img", "create", "-q", "-f", "qcow2", &base, "8M"]);
        }
        let disk = |name: &str| slots.join(name).to_str().unwrap().to_owned();
        for (name, base) in [("f.a.1.root.qcow2", at("images/1-base.qcow2")), ("f.b.1.root.qcow2", long)] {
            run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &disk(name)]);
        }
        run(&["qemu-img", "create", "-q", "-f", "qcow2", &disk("f.a.1.data.qcow2"), "4M"]);
        std::fs::write(disk("f.a.1.seed.iso"), vec![1u8; 5000]).unwrap();
        std::fs::write(disk("f.c.1.root.qcow2"), b"not qcow2").unwrap();
        std::fs::write(disk("f.d.1.root.qcow2"), b"").unwrap();
        let mut ext4 = vec![0u8; 4096];
        (ext4[1080], ext4[1081]) = (0x53, 0xef);
        for vm in ["e", "g"] {
            std::fs::write(disk(&format!("f.{vm}.1.root.ext4")), &ext4).unwrap();
            std::fs::write(disk(&format!("f.{vm}.1.root.ext4.stamp")), stamp(vm, "f")).unwrap();
        }
        std::fs::write(disk("f.g.1.root.ext4.growing"), "2048\n").unwrap();
        for name in ["f.a.1.root.qcow2", "f.b.1.root.qcow2", "f.a.1.data.qcow2", "f.a.1.seed.iso", "f.c.1.root.qcow2"] {
            std::fs::write(disk(&format!("{name}.stamp")), stamp("a", "f") + "\n").unwrap();
        }
        std::fs::write(disk("f.d.1.root.qcow2.stamp"), stamp("d", "f")).unwrap();
        std::fs::write(disk("f.gone.1.root.qcow2.stamp"), stamp("gone", "f")).unwrap();
        std::fs::write(disk("g.x.1.seed.iso"), b"another fleet's").unwrap();
        std::fs::write(disk("g.x.1.seed.iso.stamp"), stamp("x", "g")).unwrap();
        std::fs::write(disk("f.bad.1.seed.iso"), b"x").unwrap();
        std::fs::write(disk("f.bad.1.seed.iso.stamp"), b"{\0 half").unwrap();
        std::fs::write(disk("odd\nname.stamp"), b"{}").unwrap();
        std::fs::create_dir(disk("a-folder.stamp")).unwrap();
        std::fs::write(disk("f.a.record"), r#"{"host":"h","incarnation":2,"addresses":{"lan":"10.0.0.1"}}"#).unwrap();
        std::fs::write(disk("f.broken.record"), "{").unwrap();
        let hex = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        std::fs::write(images.join("1-base.qcow2.digest"), format!("sha256:{hex}\n")).unwrap();
        std::fs::write(images.join("2-gone.qcow2.digest"), format!("sha256:{}\n", hex.replace('2', "3"))).unwrap();
        std::fs::write(images.join("1-base.qcow2.partial"), b"x").unwrap();
        folders
    }

    #[tokio::test]
    async fn one_call_sees_what_looking_at_each_file_sees() {
        if std::process::Command::new("qemu-img").arg("--version").output().is_err() {
            println!("SKIPPED: qemu-img is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let folders = a_folder(folder.path()).await;
        let lock_path = format!("{}/.f.lock", folders.slots);
        for held in [false, true] {
            let who = LockHolder { token: "t".to_owned(), who: "ann".to_owned(), since: Timestamp(1) };
            let _held = if held { Some(lock::take(&Local, &lock_path, &who).await.unwrap()) } else { None };
            let local = at(&Local, &folders, &lock_path, &Interfaces::new()).await.unwrap();
            assert_eq!(local.disks.len(), 6, "{:?}", local.disks.keys());
            let backing = |name: &str| local.disks[&format!("{}/{name}", folders.slots)].backing.clone();
            assert_eq!(backing("f.a.1.root.qcow2"), Some(format!("{}/1-base.qcow2", folders.images)));
            assert!(backing("f.b.1.root.qcow2").unwrap().ends_with("ddd/base.qcow2"));
            assert_eq!(backing("f.a.1.data.qcow2"), None);
            assert_eq!((local.images.len(), local.records.len()), (1, 1));
            assert_eq!(local.lock, held.then_some(who));
            for remote in remotes() {
                let mut far = at(&remote, &folders, &lock_path, &Interfaces::new()).await.unwrap();
                // Other tests write to this disk meanwhile.
                assert!(far.free.0.0.abs_diff(local.free.0.0) < 1 << 30 && far.free.1.0 > 0);
                far.free = local.free;
                assert_eq!(far, local);
            }
        }
        let elsewhere = BTreeSet::from([format!("{}/f.a.1.root.qcow2", folders.slots), "/no/such/disk".to_owned()]);
        let near = at_disks(&Local, &folders.fleet, elsewhere.clone()).await.unwrap();
        assert_eq!(near.len(), 1);
        for remote in remotes() {
            assert_eq!(at_disks(&remote, &folders.fleet, elsewhere.clone()).await.unwrap(), near);
        }
    }

    #[tokio::test]
    async fn no_folder_is_empty_and_an_answer_that_breaks_off_is_none() {
        let folders =
            Folders { fleet: Name::new("f").unwrap(), slots: "/no/slots".into(), images: "/no/images".into() };
        for remote in remotes() {
            let seen = at(&remote, &folders, "/no/slots/.f.lock", &Interfaces::new()).await.unwrap();
            assert!(seen.disks.is_empty() && seen.records.is_empty() && seen.free.0.0 > 0);
        }
        let cut = Remote::command(["sh", "-c", r#""$@" | head -c 20"#, "sh"].into_iter(), Path::new("/"));
        assert!(at(&cut, &folders, "/no/slots/.f.lock", &Interfaces::new()).await.is_err());
    }
}
