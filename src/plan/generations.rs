//! Generations: which files of images a host's store must keep, and what is known of each sealed version, without a state
//! file: from documents, stamps, disks, and the notes beside the files in stores.
//!
//! *Takes* desired and observed state. *Gives* digests with the reasons why they stay. *Never* decides to drop one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{Desired, Digest, HostObs, Image, ImageFile, Name, Observation, Observed, Shape, Timestamp};

/// Why a file of an image stays in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeps {
    /// The Image document says so now.
    Current(Name),
    /// One of the newest generations of an image: `keep`.
    Newest(Name),
    /// A VM of this host was made from it, or boots from it.
    Used(Name),
    /// A disk lies on it, of this VM, which may be gone.
    Disk(Name),
    /// A VM goes back to it when its roll fails, or its commit is reverted.
    Rollback(Name),
}

impl fmt::Display for Keeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current(image) => write!(f, "current of image/{image}"),
            Self::Newest(image) => write!(f, "one of the newest of image/{image}"),
            Self::Used(vm) => write!(f, "vm/{vm} is made of it"),
            Self::Disk(vm) => write!(f, "a disk of vm/{vm} lies on it"),
            Self::Rollback(vm) => write!(f, "vm/{vm} goes back to it"),
        }
    }
}

/// The files that the store of a host must keep, by digest, each with every reason. Of a host that was not seen: what
/// documents say. Nothing else in a store is needed by any generation, VM, disk or rollback.
///
/// `Current` and `Newest` are said of what documents want somewhere: whether this host must *have* it is the image's
/// policy; what it *has* and is in here it must not lose.
pub fn needed(desired: &Desired, observed: &Observed, host: &Name) -> BTreeMap<Digest, BTreeSet<Keeps>> {
    let mut kept: BTreeMap<Digest, BTreeSet<Keeps>> = BTreeMap::new();
    let mut keep = |digest: &Digest, why: Keeps| {
        kept.entry(digest.clone()).or_default().insert(why);
    };
    let seen = observed.hosts.get(host).and_then(Observation::known);
    for image in desired.images.values() {
        image.files().into_iter().for_each(|f| keep(&f.digest, Keeps::Current(image.name.clone())));
        for digest in newest(image, observed) {
            keep(&digest, Keeps::Newest(image.name.clone()));
        }
    }
    let Some(seen) = seen else { return kept };
    let by_path: BTreeMap<&str, &Digest> = seen.images.iter().map(|(d, i)| (i.path.as_str(), d)).collect();
    for (name, vm) in &seen.vms {
        vm.stamp.image.iter().for_each(|d| keep(d, Keeps::Used(name.clone())));
        vm.stamp.rolled.iter().for_each(|r| keep(&r.from, Keeps::Rollback(name.clone())));
        let boots = |shape: &Shape| [shape.kernel.clone(), shape.initrd.clone()];
        for path in vm.live.iter().chain([&vm.config]).flat_map(boots).flatten() {
            if let Some(digest) = by_path.get(path.as_str()) {
                keep(digest, Keeps::Used(name.clone()));
            }
        }
    }
    for disk in seen.disks.values() {
        let made = disk.stamp.made_from.as_deref().and_then(|text| Digest::new(text).ok());
        let backing = disk.backing.as_deref().and_then(|path| by_path.get(path).copied().cloned());
        made.into_iter().chain(backing).for_each(|d| keep(&d, Keeps::Disk(disk.stamp.vm.clone())));
    }
    kept
}

/// The newest generations of an image that stores keep, newest first, at most [`Image::keep`], the current one among them.
pub fn newest(image: &Image, observed: &Observed) -> Vec<Digest> {
    let mut since: BTreeMap<&Digest, Timestamp> = BTreeMap::new();
    for (digest, note) in hosts(observed).flat_map(|h| &h.images).filter_map(|(d, i)| Some((d, i.note.as_ref()?))) {
        if note.image == image.name {
            let at = since.entry(digest).or_insert(note.since);
            *at = note.since.min(*at);
        }
    }
    since.remove(&image.disk.digest);
    let mut old: Vec<(Timestamp, &Digest)> = since.into_iter().map(|(digest, at)| (at, digest)).collect();
    old.sort_by(|a, b| b.cmp(a));
    let most = usize::try_from(image.keep.max(1)).unwrap_or(usize::MAX);
    std::iter::once(&image.disk.digest).chain(old.into_iter().map(|(_, d)| d)).take(most).cloned().collect()
}

/// The hosts that were seen.
pub(crate) fn hosts(observed: &Observed) -> impl Iterator<Item = &HostObs> {
    observed.hosts.values().filter_map(Observation::known)
}

/// Where the file of a generation can be had: the document names it, or a store holds it (then under the name that its
/// path gives it). `None`: nobody is known to have it.
pub fn file(image: &Image, digest: &Digest, observed: &Observed) -> Option<ImageFile> {
    let documented = std::iter::once(&image.disk).chain(image.generations.values().map(|g| &g.disk));
    let stored = || hosts(observed).find_map(|h| Some(stored(digest, &h.images.get(digest)?.path)));
    documented.into_iter().find(|f| f.digest == *digest).cloned().or_else(stored)
}

/// A file as the store names it: `<folder>/<12 digits>-<name>`.
pub(crate) fn stored(digest: &Digest, path: &str) -> ImageFile {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.strip_prefix(digest.short()).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name);
    ImageFile::new(crate::model::Source::Path(name.into()), digest.clone())
}
