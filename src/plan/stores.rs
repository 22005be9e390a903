//! The image stores of hosts: what is kept everywhere, what is handed on, what nothing needs any more, and whether there is
//! room for what comes.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, reason};
use super::fabric::plain;
use super::generations;
use super::steps::{DiskFrom, Edit, KernelBoot, Op, Step};
use super::target::image_path;
use super::types::{Action, ActionId, Block, BlockedBy, Cause, Note, NoteKind, Risk, Verb};
use super::world::HostView;
use crate::model::{
    Address, Bytes, CloneMethod, Digest, Fetch, Host, HostObs, Image, ImageFile, ImageFormat, ImageObs, Layer,
    Maintenance, Name, Observation, Observed, Shape, Span, Stores,
};

/// Room that stays free for stamps, records and logs.
const RESERVE: u64 = 256 << 20;

/// Below this much room it is said that nobody knows how large a file is: a server's cloud image takes 0.5 to 2 GiB, a
/// desktop's up to 16 GiB.
const NARROW: u64 = 16 << 30;

impl<'a> Draft<'a> {
    /// Adds what the stores are to have beside what VMs of this plan need, and what leaves them.
    pub(crate) fn stores(&mut self) {
        self.kept_everywhere();
        self.handed_on();
        self.unneeded_images();
        self.storage_room();
    }

    /// Images that every host of their layer keeps.
    fn kept_everywhere(&mut self) {
        let desired = self.input.desired;
        for image in desired.images.values().filter(|i| i.stores == Stores::All && !i.is_unsealed()) {
            for host in desired.hosts.values().filter(|h| h.layer() == layer(image)) {
                let view = self.world.view(&host.name);
                let id = ActionId::new(&Address::Image(image.name.clone()), Verb::Fetch, Some(&host.name));
                let there = matches!(view, HostView::Known(_) | HostView::Assumed);
                let leaves = matches!(host.maintenance, Maintenance::Drain(_));
                if there && !leaves && !self.actions.iter().any(|a| a.id == id) {
                    self.fetch(&[image], host, &[]);
                }
            }
        }
    }

    /// Files that one host fetches for all: the others have them from it.
    fn handed_on(&mut self) {
        let desired = self.input.desired;
        for image in desired.images.values().filter(|i| i.fetch == Fetch::Once) {
            let subject = Address::Image(image.name.clone());
            let fetches = |a: &Action| a.verb == Verb::Fetch && a.subject == subject && !a.is_blocked();
            let mut numbers: Vec<usize> = (0..self.actions.len()).filter(|n| fetches(&self.actions[*n])).collect();
            numbers.sort_by(|a, b| self.actions[*a].id.cmp(&self.actions[*b].id));
            // Who fetches each file in this plan.
            let mut first: BTreeMap<(Digest, String), (Name, ActionId)> = BTreeMap::new();
            for number in numbers {
                self.hand_on(number, &mut first);
            }
        }
    }

    fn hand_on(&mut self, number: usize, first: &mut BTreeMap<(Digest, String), (Name, ActionId)>) {
        let mut from: BTreeSet<Name> = BTreeSet::new();
        let mut after = Vec::new();
        let (id, mut steps) = (self.actions[number].id.clone(), std::mem::take(&mut self.actions[number].steps));
        for step in &mut steps {
            let Op::PutImage { file, path, .. } = &step.op else { continue };
            let has = |host: &HostObs| host.images.get(&file.digest).is_some_and(|i| i.path == *path);
            let stored = self.world.hosts.iter().find(|(_, view)| view.known().is_some_and(has)).map(|(name, _)| *name);
            let key = (file.digest.clone(), path.clone());
            let giver = match (stored, first.get(&key)) {
                (Some(host), _) => host.clone(),
                (None, Some((host, fetch))) => {
                    after.push(fetch.clone());
                    host.clone()
                }
                (None, None) => {
                    first.insert(key, (step.host.clone(), id.clone()));
                    continue;
                }
            };
            from.insert(giver.clone());
            step.op = Op::CopyImage { from: giver, path: path.clone(), digest: file.digest.clone() };
        }
        let act = &mut self.actions[number];
        act.steps = steps;
        act.after.extend(after);
        if !from.is_empty() {
            let names: Vec<&str> = from.iter().map(Name::as_str).collect();
            act.reason.text.push_str(&format!("; from {}, through the controller", names.join(" and ")));
        }
    }

    /// Files with our mark that nothing needs any more: marked, and dropped when they have been for long enough.
    fn unneeded_images(&mut self) {
        let desired = self.input.desired;
        let fleet = &desired.fleet.name;
        let ours = |i: &ImageObs| i.marks.contains_key(fleet);
        let marked = |h: &HostObs| h.images.values().any(ours);
        if !self.world.hosts.values().any(|view| view.known().is_some_and(marked)) {
            return;
        }
        let after = self.observed_after();
        let needed: BTreeSet<Digest> =
            desired.hosts.keys().flat_map(|host| generations::needed(desired, &after, host).into_keys()).collect();
        let used = self.paths_in_use();
        let whole_fleet = desired.removals.iter().any(|r| matches!(r.target, Address::Fleet(_)));
        let keep = if whole_fleet { Span(0) } else { desired.fleet.keep_images };
        let mut new = Vec::new();
        let hosts: Vec<_> = self.world.hosts.iter().filter_map(|(name, view)| Some((*name, view.known()?))).collect();
        for (host, known) in hosts {
            for (digest, image) in known.images.iter().filter(|(_, i)| ours(i)) {
                let since = image.marks.get(fleet).copied().flatten();
                let is_needed = needed.contains(digest) || used.contains(&(host, image.path.clone()));
                if let Some(act) = self.let_go((host, digest, image), is_needed, since, keep) {
                    new.push(act);
                }
            }
        }
        for act in new {
            self.push(act, []);
        }
    }

    /// What is done about one file with our mark.
    fn let_go(
        &mut self,
        (host, digest, image): (&Name, &Digest, &ImageObs),
        is_needed: bool,
        since: Option<crate::model::Timestamp>,
        keep: Span,
    ) -> Option<Action> {
        let subject = Address::Image(name_of(self.input.desired.images.values(), digest, image)?);
        let users = self.users_that_end(digest);
        let (path, digest) = (image.path.clone(), digest.clone());
        if is_needed {
            // What stands still half-way, as a roll that was halted, may go on: a young mark is left. A new clone takes it off.
            if Span::secs(self.input.now.since(since?)).0 < keep.0 / 2 {
                return None;
            }
            let touched = |a: &Action| a.verb == Verb::Fetch && puts(a, host, &path);
            if self.actions.iter().any(touched) {
                // It is marked by what needs it.
                return None;
            }
            let mut act = plain(subject, Verb::Mark, host, [Op::MarkImage { digest, path, unneeded: None }]);
            act.reason = reason("image_needed", format!("it is needed again, and stays in the store of {host}"), None);
            return Some(act);
        }
        if let Some(dark) = self.world.dark.iter().next() {
            let text =
                format!("in the store of {host}: nothing that is seen needs it; it stays while {dark} is Unknown");
            self.notes.push(Note { subject, kind: NoteKind::Waiting, text, origin: None });
            return None;
        }
        let now = self.input.now;
        let elapsed = since.map(|s| Span::secs(now.since(s)));
        if elapsed.is_some_and(|e| e.0 >= keep.0) || keep.0 == 0 {
            let others = image.marks.len() > 1;
            let mut act = plain(subject, Verb::Drop, host, [Op::DropImage { digest, path }]);
            let text = if others {
                format!("nothing of this fleet needs it any more; it stays in the store of {host} for others")
            } else {
                format!("nothing needs it any more in the store of {host}; {} are freed", image.used)
            };
            act.reason = reason("image_unneeded", text, Some(self.input.desired.fleet.origin.clone()));
            act.cause = if keep.0 == 0 { Cause::Change } else { Cause::Expiry };
            act.after = users;
            return Some(act);
        }
        match elapsed {
            Some(elapsed) => {
                let left = Span(keep.0.saturating_sub(elapsed.0));
                let text = format!("in the store of {host}: nothing needs it any more; it is dropped in {left}");
                self.notes.push(Note { subject, kind: NoteKind::Waiting, text, origin: None });
                None
            }
            None => {
                let mut act = plain(subject, Verb::Mark, host, [Op::MarkImage { digest, path, unneeded: Some(now) }]);
                let text = format!("nothing needs it any more; it leaves the store of {host} in {keep}");
                act.reason = reason("image_unneeded", text, Some(self.input.desired.fleet.origin.clone()));
                act.after = users;
                Some(act)
            }
        }
    }

    /// Open actions, on whatever host, after which a VM that an image is kept for does without it: when one of them fails, its
    /// VM may go back to it.
    fn users_that_end(&self, digest: &Digest) -> Vec<ActionId> {
        let of = |vm: &Name| {
            self.world.place(vm).is_some_and(|(_, obs)| {
                obs.stamp.image.as_ref() == Some(digest) || obs.stamp.rolled.iter().any(|r| r.from == *digest)
            })
        };
        let ends = |s: &Step| match &s.op {
            Op::DeleteDisk { path, .. } => {
                let disk = self.world.view(&s.host).known().and_then(|k| k.disks.get(path));
                disk.is_some_and(|d| d.stamp.made_from.as_deref() == Some(digest.as_str()))
            }
            Op::Undefine { vm, .. } | Op::Edit { vm, .. } | Op::Unstamp { vm, .. } => of(vm),
            Op::Define { domain, .. } => of(&domain.vm),
            _ => false,
        };
        let open = self.actions.iter().filter(|a| !a.is_blocked() && a.steps.iter().any(ends));
        open.map(|a| a.id.clone()).collect()
    }

    /// What will be seen when this plan is carried out, as far as images are concerned: without the disks and VMs that end,
    /// and with the generations that VMs have then.
    fn observed_after(&self) -> Observed {
        let mut after = self.input.observed.clone();
        for step in self.actions.iter().filter(|a| !a.is_blocked()).flat_map(|a| &a.steps) {
            let Some(Observation::Known(host)) = after.hosts.get_mut(&step.host) else { continue };
            match &step.op {
                Op::DeleteDisk { path, .. } => drop(host.disks.remove(path)),
                Op::Undefine { vm, .. } | Op::Unstamp { vm, .. } => drop(host.vms.remove(vm)),
                Op::Define { domain, stamp } => {
                    if let Some(vm) = host.vms.get_mut(&domain.vm) {
                        vm.stamp = stamp.clone();
                        boots(&mut vm.config, domain.kernel.as_ref());
                    }
                }
                Op::Stop { vm, .. } => host.vms.get_mut(vm).into_iter().for_each(|vm| vm.live = None),
                Op::Start { vm, .. } => {
                    host.vms.get_mut(vm).into_iter().for_each(|vm| vm.live = Some(vm.config.clone()));
                }
                Op::Edit { vm, stamp, edits, .. } => {
                    if let Some(vm) = host.vms.get_mut(vm) {
                        vm.stamp = stamp.clone();
                        for edit in edits {
                            if let Edit::Kernel(kernel) = edit {
                                boots(&mut vm.config, kernel.as_ref());
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        after
    }

    /// Paths on hosts that steps of this plan read or make, or that somebody else's domain has.
    fn paths_in_use(&self) -> BTreeSet<(&'a Name, String)> {
        let hosts = &self.input.desired.hosts;
        let mut used = BTreeSet::new();
        for step in self.actions.iter().filter(|a| !a.is_blocked()).flat_map(|a| &a.steps) {
            let Some((host, _)) = hosts.get_key_value(&step.host) else { continue };
            match &step.op {
                Op::PutImage { path, .. } => drop(used.insert((host, path.clone()))),
                Op::CopyImage { from, path, .. } => {
                    used.insert((host, path.clone()));
                    used.extend(hosts.get_key_value(from).map(|(from, _)| (from, path.clone())));
                }
                Op::MakeDisk(new) => {
                    if let DiskFrom::Image { path, .. }
                    | DiskFrom::Marked { path, .. }
                    | DiskFrom::Archive { path, .. } = &new.from
                    {
                        used.insert((host, path.clone()));
                    }
                }
                _ => {}
            }
        }
        for (host, view) in &self.world.hosts {
            for other in view.known().into_iter().flat_map(|k| &k.unmanaged) {
                let disks = other.shape.disks.values().map(|d| &d.path);
                let kernel = [&other.shape.kernel, &other.shape.initrd].into_iter().flatten();
                used.extend(disks.chain(kernel).map(|path| (*host, path.clone())));
            }
        }
        used
    }

    /// Blocks what does not fit on the disks of its host.
    fn storage_room(&mut self) {
        let mut order: Vec<usize> = (0..self.actions.len()).filter(|n| !self.actions[*n].is_blocked()).collect();
        order.sort_by(|a, b| self.actions[*a].id.cmp(&self.actions[*b].id));
        let mut rooms: BTreeMap<&Name, Room> = BTreeMap::new();
        let mut blocks: Vec<(usize, Block)> = Vec::new();
        let mut risks = Vec::new();
        for number in order {
            for (host, known) in self.world.hosts.iter().filter_map(|(n, v)| Some((*n, v.known()?))) {
                let need = self.storage_need(&self.actions[number], host);
                if need.is_nothing() {
                    continue;
                }
                let folders = self.input.desired.hosts.get(host);
                let room = rooms.entry(host).or_insert_with(|| Room::of(known));
                match room.take(&need, folders) {
                    Ok(()) => {}
                    Err(block) => blocks.push((number, block)),
                }
                if need.unknown && known.images_free.0 < NARROW {
                    let text = format!(
                        "what it takes in a store is not known, and {} are free for images on {host}: write its `size`, of a packed \
                         one its `unpackedSize` too",
                        known.images_free
                    );
                    risks.push(Risk { code: "R502".to_owned(), subject: self.actions[number].subject.clone(), text });
                }
            }
        }
        self.risks.extend(risks);
        for (number, block) in blocks {
            self.actions[number].blocked.push(block);
        }
    }

    /// What an action brings to the disks of a host.
    fn storage_need(&self, act: &Action, host: &Name) -> StorageNeed {
        let mut need = StorageNeed::default();
        let (mut freed, mut slots) = (0, 0u64);
        for step in &act.steps {
            match &step.op {
                Op::PutImage { file, .. } if step.host == *host => {
                    let (bytes, unknown) = self.bytes_of(file);
                    need.images += bytes;
                    need.unknown |= unknown;
                }
                Op::CopyImage { from, digest, .. } if step.host == *host => {
                    match self.stored(digest, Some(from)).or_else(|| self.stored(digest, None)) {
                        Some(used) => need.images += used,
                        None => match self.coming(digest) {
                            Some(file) => {
                                let (bytes, unknown) = self.bytes_of(file);
                                need.images += bytes;
                                need.unknown |= unknown;
                            }
                            None => need.unknown = true,
                        },
                    }
                }
                Op::MakeDisk(new) if step.host == *host => {
                    if let DiskFrom::Image { path, method: CloneMethod::Copy, .. } | DiskFrom::Marked { path, .. } =
                        &new.from
                    {
                        slots += self.bytes_at(host, path);
                    }
                }
                Op::Capture { disk, .. } if step.host == *host => need.images += self.captured(host, disk),
                Op::CopyDisk { from, path, .. } if step.host == *host => slots += self.disk_used(from, path),
                Op::Migrate { vm, to, how, .. } if to == host && how.storage => {
                    slots += self.world.disks_at(vm, &step.host).map(|d| d.obs.used.0).sum::<u64>();
                }
                Op::DeleteDisk { path, .. } if step.host == *host => freed += self.disk_used(host, path),
                _ => {}
            }
        }
        need.slots = slots.saturating_sub(freed);
        need
    }

    /// What a captured disk takes at most: its own part, and what lies under it.
    fn captured(&self, host: &Name, path: &str) -> u64 {
        let disk = self.world.view(host).known().and_then(|k| k.disks.get(path));
        let below = disk.and_then(|d| d.backing.as_deref()).map_or(0, |base| self.bytes_at(host, base));
        disk.map_or(0, |d| d.used.0) + below
    }

    fn disk_used(&self, host: &Name, path: &str) -> u64 {
        self.world.view(host).known().and_then(|k| k.disks.get(path)).map_or(0, |d| d.used.0)
    }

    /// What a file takes in a store, where one has it.
    fn stored(&self, digest: &Digest, host: Option<&Name>) -> Option<u64> {
        let views = self.world.hosts.iter().filter(|(name, _)| host.is_none_or(|h| h == **name));
        views.filter_map(|(_, view)| view.known()?.images.get(digest)).map(|i| i.used.0).max()
    }

    /// A file with this digest that another host fetches in this plan.
    fn coming(&self, digest: &Digest) -> Option<&ImageFile> {
        self.actions.iter().flat_map(|a| &a.steps).find_map(|s| match &s.op {
            Op::PutImage { file, .. } if file.digest == *digest => Some(file),
            _ => None,
        })
    }

    /// What fetching a file takes, and whether a part of that is not known. A packed one is there twice for a moment.
    fn bytes_of(&self, file: &ImageFile) -> (u64, bool) {
        let stored = self.stored(&file.digest, None);
        let packed = is_packed(file);
        let whole = file.unpacked.map(|b| b.0).filter(|_| packed).or(stored);
        let whole = whole.or_else(|| file.size.map(|b| b.0).filter(|_| !packed));
        let fetched = file.size.map_or(0, |b| b.0);
        (whole.unwrap_or(0) + if packed { fetched } else { 0 }, whole.is_none())
    }

    /// What a file of a host's store takes, or will take.
    fn bytes_at(&self, host: &Name, path: &str) -> u64 {
        let known = self.world.view(host).known();
        let there = known.into_iter().flat_map(|k| k.images.values()).find(|i| i.path == path).map(|i| i.used.0);
        let documents = self.input.desired.images.values().flat_map(Image::files);
        let at = |f: &&ImageFile| self.input.desired.hosts.get(host).is_some_and(|h| image_path(h, f) == path);
        there.or_else(|| documents.into_iter().find(at).map(|f| self.bytes_of(f).0)).unwrap_or(0)
    }
}

/// Another kernel for a domain's next start.
fn boots(config: &mut Shape, kernel: Option<&KernelBoot>) {
    config.kernel = kernel.map(|k| k.kernel.clone());
    config.initrd = kernel.and_then(|k| k.initrd.clone());
}

/// What runs the clones of an image.
const fn layer(image: &Image) -> Layer {
    if matches!(image.format, ImageFormat::Rootfs) { Layer::Lxc } else { Layer::Qemu }
}

/// Whether a file will be unpacked: it says so, or its name does.
fn is_packed(file: &ImageFile) -> bool {
    let named = [".zst", ".xz", ".gz"].iter().any(|end| file.source.text().ends_with(end));
    file.compression.tool().is_some() || (!file.compression.is_none() && named)
}

/// Whether an action puts a file at a path of a host.
fn puts(act: &Action, host: &Name, path: &str) -> bool {
    let at = |op: &Op| matches!(op, Op::PutImage { path: p, .. } | Op::CopyImage { path: p, .. } if p == path);
    act.steps.iter().any(|s| s.host == *host && at(&s.op))
}

/// How people call a file of a store: the document's image for one that it names, else the image of its note and its digest.
fn name_of<'i>(mut images: impl Iterator<Item = &'i Image>, digest: &Digest, stored: &ImageObs) -> Option<Name> {
    if let Some(image) = images.find(|i| i.disk.digest == *digest) {
        return Some(image.name.clone());
    }
    let image = stored.note.as_ref().map_or("image", |n| n.image.as_str());
    Name::new(&format!("{image}-{}", digest.short())).or_else(|_| Name::new(&format!("image-{}", digest.short()))).ok()
}

/// What an action brings to the disks of a host, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct StorageNeed {
    images: u64,
    slots: u64,
    /// There is something of which the size is not known.
    unknown: bool,
}

impl StorageNeed {
    const fn is_nothing(&self) -> bool {
        self.images == 0 && self.slots == 0 && !self.unknown
    }
}

/// Free room of a host while a plan is made.
#[derive(Debug)]
struct Room {
    images: u64,
    slots: u64,
    /// Both folders show the same number of free bytes: they lie on one file system.
    one: bool,
    taken: (u64, u64),
}

impl Room {
    fn of(known: &HostObs) -> Self {
        let (images, slots) = (known.images_free.0, known.slots_free.0);
        Self { images, slots, one: images == slots, taken: (0, 0) }
    }

    fn take(&mut self, need: &StorageNeed, host: Option<&Host>) -> Result<(), Block> {
        let (images, slots) = (self.taken.0 + need.images, self.taken.1 + need.slots);
        let (mine, room) = if self.one {
            (need.images + need.slots, [(images + slots, self.images, true), (0, 0, false)])
        } else {
            (need.images.max(need.slots), [(images, self.images, true), (slots, self.slots, false)])
        };
        for (wanted, free, in_store) in room {
            let concerns = self.one || if in_store { need.images > 0 } else { need.slots > 0 };
            if mine == 0 || !concerns || wanted == 0 || wanted.saturating_add(RESERVE) <= free {
                continue;
            }
            let in_images = in_store && (!self.one || need.images >= need.slots);
            let folder = host.map_or("", |h| if in_images { &h.images_dir } else { &h.slots_dir });
            let short = (wanted + RESERVE).saturating_sub(free);
            let name = host.map_or("?", |h| h.name.as_str());
            let before = wanted.saturating_sub(mine);
            let before =
                if before > 0 { format!(" beside {} for what comes first", Bytes(before)) } else { String::new() };
            return Err(Block {
                by: BlockedBy::MissingCapacity,
                text: format!("host/{name}: {} are needed in {folder}{before}, {} are free", Bytes(mine), Bytes(free)),
                unblock: format!("free {} there: {} stay free for stamps and logs", Bytes(short), Bytes(RESERVE)),
            });
        }
        self.taken = (images, slots);
        Ok(())
    }
}
