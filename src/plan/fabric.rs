//! What VMs stand on: images in a host's store, bridges. Made because a VM needs them, removed when none does.

use std::collections::{BTreeMap, BTreeSet};

use super::bridge;
use super::draft::{Draft, reason};
use super::steps::{Edit, Op, Step};
use super::target::image_path;
use super::types::{Action, ActionId, Cause, Class, Downtime, Impact, Verb};
use super::way::Base;
use super::world::HostView;

use crate::model::{
    Address, Digest, Host, HostObs, Image, ImageFile, ImageNote, Mac, Name, Power, Shape, Source, VmObs,
};

/// Whether a step makes a root disk from its image: one that returns to it, also where a move has just copied what was there.
fn is_made_root(op: &Op) -> bool {
    matches!(op, Op::MakeDisk(disk) if disk.stamp.disk == "root" && disk.stamp.phase.is_valid())
}

/// Generations of an image that are wanted on a host, and the actions that want them.
type Wanted<'a> = (BTreeMap<&'a Digest, &'a Image>, Vec<usize>);

impl<'a> Draft<'a> {
    /// Adds the actions that put images and bridges where this plan's VMs need them, and lets the VMs wait for them.
    pub(crate) fn foundations(&mut self) {
        let desired = self.input.desired;
        // Of one image several generations may be wanted on a host: some VMs go on, others go back.
        let mut images: BTreeMap<(&'a Name, &'a Name), Wanted<'a>> = BTreeMap::new();
        let mut networks: BTreeMap<(&'a Name, &'a Name), Vec<usize>> = BTreeMap::new();
        let mut copies: BTreeMap<(&'a Name, &'a Digest), (&'a str, &'a Name, Vec<usize>)> = BTreeMap::new();
        for (number, act) in self.actions.iter().enumerate() {
            let (Address::Vm(name), Some(to), false) = (&act.subject, &act.to, act.is_blocked()) else { continue };
            let (Some(vm), Some((host, _))) = (self.wanted.get(name), desired.hosts.get_key_value(to)) else {
                continue;
            };
            let builds = matches!(act.verb, Verb::Create | Verb::Restore | Verb::Recreate)
                || act.fields.iter().any(|f| f.path == "image.boot")
                || act.steps.iter().any(|s| s.host == *to && is_made_root(&s.op));
            if let Some(image) = desired.image_of(vm).filter(|_| builds) {
                let (generations, needed_by) = images.entry((&image.name, host)).or_default();
                generations.insert(&image.disk.digest, image);
                needed_by.push(number);
            }
            for (base, from) in self.brought(act) {
                let documented = desired.images.iter().find(|(_, i)| {
                    i.files()
                        .into_iter()
                        .any(|f| f.digest == *base.digest && image_path(&desired.hosts[host], f) == base.path)
                });
                match documented {
                    Some((key, image)) => {
                        let (generations, needed_by) = images.entry((key, host)).or_default();
                        generations.insert(&image.disk.digest, image);
                        needed_by.push(number);
                    }
                    None => copies
                        .entry((host, base.digest))
                        .or_insert_with(|| (base.path, from, Vec::new()))
                        .2
                        .push(number),
                }
            }
            let runs = act.steps.iter().any(|s| {
                matches!(s.op, Op::Start { .. } | Op::Define { .. } | Op::DefineFrom { .. } | Op::Migrate { .. })
            });
            for nic in vm.spec.nics.values().filter(|_| runs) {
                if let Some((key, _)) = desired.networks.get_key_value(&nic.network) {
                    networks.entry((key, host)).or_default().push(number);
                }
            }
        }
        for ((_, host), (generations, needed_by)) in images {
            let Some(host) = desired.hosts.get(host) else { continue };
            self.fetch(&generations.into_values().collect::<Vec<_>>(), host, &needed_by);
        }
        for ((host, digest), (path, from, needed_by)) in copies {
            self.copy_image(host, digest, (path, from), &needed_by);
        }
        for ((network, host), needed_by) in networks {
            let (Some(network), Some(host)) = (desired.networks.get(network), desired.hosts.get(host)) else {
                continue;
            };
            self.connect(network, host, &needed_by);
        }
        self.standing_bridges();
        self.unneeded();
    }

    /// Files under the disks of a VM that moves which its new host does not have at their paths yet, and who has them.
    fn brought(&self, act: &Action) -> Vec<(Base<'a>, &'a Name)> {
        let moves = matches!(act.verb, Verb::Migrate | Verb::Move);
        let place = self.world.place(act.subject.name()).filter(|_| moves);
        let (Some((from, obs)), Some(to)) = (place, &act.to) else { return Vec::new() };
        let Some(from) = self.input.desired.hosts.get(from) else { return Vec::new() };
        let Ok(cargo) = self.cargo(obs, from) else { return Vec::new() };
        let stored = self.world.view(to).known().map(|k| &k.images);
        let there = |base: &Base<'_>| stored.and_then(|s| s.get(base.digest)).is_some_and(|i| i.path == base.path);
        cargo.bases.into_iter().filter(|base| !there(base)).map(|base| (base, &from.name)).collect()
    }

    /// A file that no Image document brings any more comes from the host that has it.
    fn copy_image(&mut self, host: &Name, digest: &Digest, (path, from): (&str, &Name), needed_by: &[usize]) {
        let vm = needed_by.first().map(|n| self.actions[*n].subject.name().clone());
        let known = vm.as_ref().and_then(|vm| self.world.place(vm)).and_then(|(_, obs)| obs.stamp.image_name.clone());
        let name = format!("{}-{}", known.as_ref().map_or("image", Name::as_str), digest.short());
        let Ok(name) = Name::new(&name) else { return };
        let op = Op::CopyImage { from: from.clone(), path: path.to_owned(), digest: digest.clone() };
        let mut act = plain(Address::Image(name), Verb::Fetch, host, [op]);
        let text = format!("no Image document has it any more, and {from} does");
        act.reason = reason("image_missing", text, None);
        act.reason.trigger = needed_by.first().map(|n| self.actions[*n].id.clone());
        act.cause = self.cause_of(needed_by);
        self.let_wait(needed_by, &act.id);
        self.push(act, None);
    }

    /// Puts the files of generations of an image that a host has not into its store.
    pub(crate) fn fetch(&mut self, generations: &[&'a Image], host: &'a Host, needed_by: &[usize]) {
        let Some(image) = generations.first() else { return };
        let stored = self.world.hosts.get(&host.name).and_then(|v| v.known()).map(|k| &k.images);
        let there = |digest: &crate::model::Digest| stored.is_some_and(|s| s.contains_key(digest));
        let files: BTreeMap<&Digest, (&ImageFile, &Image)> =
            generations.iter().flat_map(|i| i.files().into_iter().map(move |f| (&f.digest, (f, *i)))).collect();
        let wanted: Vec<&ImageFile> = match generations {
            [one] => one.files(),
            _ => files.values().map(|(file, _)| *file).collect(),
        };
        let missing: Vec<_> = wanted.iter().copied().filter(|f| !there(&f.digest)).collect();
        if missing.is_empty() {
            return;
        }
        let subject = Address::Image(image.name.clone());
        let trigger = needed_by.first().map(|n| self.actions[*n].id.clone());
        let text = if wanted.len() == 1 {
            format!("not in the store of {} yet", host.name)
        } else if missing.len() == wanted.len() {
            format!("none of its {} files is in the store of {} yet", missing.len(), host.name)
        } else {
            format!("{} of its {} files not in the store of {} yet", missing.len(), wanted.len(), host.name)
        };
        let text = if needed_by.is_empty() { format!("{text}; every host keeps it") } else { text };
        let givers: BTreeSet<&Name> = missing.iter().filter_map(|f| giver(f)).collect();
        let from: Vec<&str> = givers.iter().map(|n| n.as_str()).collect();
        let text =
            if from.is_empty() { text } else { format!("{text}; from {}, through the controller", from.join(" and ")) };
        let now = self.input.now;
        let made = |file: &ImageFile| image.made.as_ref()?.known.get(&file.digest).cloned();
        let note = |file: &ImageFile| {
            let (_, of) = files.get(&file.digest).filter(|(_, of)| of.disk.digest == file.digest)?;
            Some(ImageNote { image: of.name.clone(), generation: of.generation.clone(), since: now, made: made(file) })
        };
        let steps: Vec<Op> = missing
            .into_iter()
            .map(|file| {
                let path = image_path(host, file);
                match self.only_stored(image, file, &path) {
                    Some(from) => Op::CopyImage { from, path, digest: file.digest.clone() },
                    None => Op::PutImage { file: file.clone(), path, note: note(file) },
                }
            })
            .collect();
        let mut act = plain(subject, Verb::Fetch, &host.name, steps);
        act.reason = reason("image_missing", text, Some(image.origin.clone()));
        act.reason.trigger = trigger;
        act.cause = self.cause_of(needed_by);
        self.let_wait(needed_by, &act.id);
        self.push(act, []);
    }

    /// Networks that wanted VMs have an interface on, and the hosts where those VMs are.
    pub(crate) fn needed_networks(&self) -> BTreeSet<(&'a Name, &'a Name)> {
        let mut needed = BTreeSet::new();
        let leaving = self.leaving();
        for vm in self.wanted.values() {
            let Some((here, _)) = self.world.place(&vm.name) else { continue };
            let host = leaving.get(&vm.name).map_or(here, |to| *to);
            for nic in vm.spec.nics.values() {
                if let Some((network, _)) = self.input.desired.networks.get_key_value(&nic.network) {
                    needed.insert((network, host));
                }
            }
        }
        needed
    }

    /// VMs that this plan moves, and where to.
    fn leaving(&self) -> BTreeMap<Name, &'a Name> {
        let hosts = &self.input.desired.hosts;
        let moves = self.actions.iter().filter(|a| !a.is_blocked() && a.from != a.to && a.subject.kind() == "vm");
        let moves = moves.filter(|a| matches!(a.verb, Verb::Migrate | Verb::Move | Verb::Recreate));
        let to = |a: &Action| Some((a.subject.name().clone(), hosts.get_key_value(a.to.as_ref()?)?.0));
        moves.filter_map(to).collect()
    }

    /// Bridges of ours that no VM needs any more, and the images of a fleet that is removed.
    fn unneeded(&mut self) {
        let desired = self.input.desired;
        let whole_fleet = desired.removals.iter().find(|r| matches!(r.target, Address::Fleet(_)));
        let mut last: BTreeMap<&Name, Vec<ActionId>> = BTreeMap::new();
        let mut staying: BTreeSet<&Name> = BTreeSet::new();
        for act in &self.actions {
            if let (Verb::Destroy | Verb::Expire, Some(host)) = (act.verb, &act.from) {
                if act.is_blocked() {
                    staying.insert(act.subject.name());
                }
                last.entry(host).or_default().push(act.id.clone());
            }
        }
        let needed = self.needed_networks();
        let leaving = self.leaving();
        let settles = self.actions.iter().filter(|a| a.verb == Verb::Settle && !a.is_blocked());
        let settled: BTreeSet<Name> = settles.map(|a| a.subject.name().clone()).collect();
        let mut new = Vec::new();
        for (host, view) in &self.world.hosts {
            let Some(known) = view.known() else { continue };
            let stays = |name: &&Name| staying.contains(*name) || self.wanted.contains_key(*name);
            let here: Vec<_> = known.vms.iter().filter(|(name, _)| stays(name)).collect();
            for (bridge, seen) in known.bridges.iter().filter(|(_, b)| b.ours) {
                let network = desired.networks.values().find(|n| n.bridge.as_ref() == bridge);
                if network.is_some_and(|n| needed.contains(&(&n.name, *host))) {
                    continue;
                }
                let mut freed = last.get(*host).cloned().unwrap_or_default();
                let mut used_here = false;
                for (name, vm) in &here {
                    let left = self.world.place(name).is_some_and(|(at, _)| at != *host) && settled.contains(*name);
                    let gone = left || leaving.get(*name).is_some_and(|to| to != host);
                    match self.lets_go(name, vm, bridge, gone) {
                        None => used_here = true,
                        Some(ids) => freed.extend(ids),
                    }
                }
                let coming = self.actions.iter().any(|a| {
                    !a.is_blocked() && a.to.as_ref() == Some(*host) && a.steps.iter().any(|s| makes_on(&s.op, bridge))
                });
                let arriving = |vm: &&Name| self.world.place(vm).is_some_and(|(_, obs)| on_bridge(obs, bridge));
                let coming = coming || leaving.iter().filter(|(_, to)| *to == host).any(|(vm, _)| arriving(&vm));
                let waiting = network.is_some_and(|n| {
                    self.wanted.values().any(|vm| vm.spec.nics.values().any(|nic| nic.network == n.name))
                        && desired.hosts.len() == 1
                });
                if used_here || coming || waiting {
                    continue;
                }
                let by_bridge = || Name::new(bridge).unwrap_or_else(|_| desired.fleet.name.clone());
                let name = network.map_or_else(by_bridge, |n| n.name.clone());
                let fleet = desired.fleet.name.clone();
                let op = Op::RemoveBridge { bridge: bridge.clone(), fleet, uplink: seen.uplink.clone() };
                let mut act = plain(Address::Network(name), Verb::Disconnect, host, [op]);
                act.reason = reason("bridge_unused", bridge::gone(host, bridge, seen), None);
                act.after = freed;
                new.push(act);
            }
            if let Some(removal) = whole_fleet
                && here.is_empty()
            {
                let under = self.images_under_disks(host, known);
                for image in desired.images.values() {
                    let stored = image.files().into_iter().filter_map(|f| known.images.get(&f.digest).map(|s| (f, s)));
                    let stored = stored.filter(|(f, _)| !under.contains(f.digest.as_str()));
                    let ops: Vec<Op> =
                        stored.map(|(f, s)| Op::DropImage { digest: f.digest.clone(), path: s.path.clone() }).collect();
                    if ops.is_empty() {
                        continue;
                    }
                    let mut act = plain(Address::Image(image.name.clone()), Verb::Drop, host, ops);
                    act.reason = reason(
                        "removal",
                        format!("Removal {}: {}", removal.name, removal.reason),
                        Some(removal.origin.clone()),
                    );
                    act.after = last.get(*host).cloned().unwrap_or_default();
                    new.push(act);
                }
            }
        }
        for act in new {
            self.push(act, []);
        }
    }

    /// Whether a VM that stays is off a bridge when this plan is done, and after which of its actions; `None`: it is on it.
    fn lets_go(&self, name: &Name, vm: &VmObs, bridge: &str, gone: bool) -> Option<Vec<ActionId>> {
        let on = |shape: &Shape| shape.nics.values().any(|n| n.bridge == bridge);
        // What a saved guest wakes up with is in its save, not in its definition: it may be any bridge of ours.
        let saved = vm.power == Power::Suspended;
        if !saved && !on(&vm.config) && !vm.live.as_ref().is_some_and(on) {
            return Some(Vec::new());
        }
        let about = |a: &&Action| !a.is_blocked() && matches!(&a.subject, Address::Vm(n) if n == name);
        let acts: Vec<&Action> = self.actions.iter().filter(about).collect();
        let ops = || acts.iter().flat_map(|a| &a.steps).map(|s| &s.op);
        let ends = gone || ops().any(|op| matches!(op, Op::Undefine { .. }));
        let stops = ends || ops().any(|op| matches!(op, Op::Stop { .. }));
        let leaves = |mac: &Mac| {
            ops().filter_map(|op| if let Op::Edit { edits, .. } = op { Some(edits) } else { None }).flatten().any(|e| {
                match e {
                    Edit::RemoveNic(gone) => gone == mac,
                    Edit::NicBridge { mac: moved, bridge: to, .. } => moved == mac && to != bridge,
                    _ => false,
                }
            })
        };
        let stays = vm.config.nics.iter().any(|(mac, nic)| nic.bridge == bridge && !leaves(mac));
        let runs_on = vm.live.as_ref().is_some_and(on) && !stops;
        if (stays && !ends) || runs_on || (saved && !ends) {
            None
        } else {
            Some(acts.iter().map(|a| a.id.clone()).collect())
        }
    }

    /// Digests of images under disks that this plan leaves on a host: an overlay without its image is lost.
    fn images_under_disks<'k>(&self, host: &Name, known: &'k HostObs) -> BTreeSet<&'k str> {
        let open = self.actions.iter().filter(|a| !a.is_blocked());
        let steps = open.flat_map(|a| &a.steps).filter(|s| s.host == *host);
        let deleted: BTreeSet<&str> = steps
            .filter_map(|s| match &s.op {
                Op::DeleteDisk { path, .. } => Some(path.as_str()),
                _ => None,
            })
            .collect();
        let kept = known.disks.iter().filter(|(path, _)| !deleted.contains(path.as_str()));
        kept.filter_map(|(_, disk)| disk.stamp.made_from.as_deref()).collect()
    }

    /// The host that has a file at a path, of which no document says any more where it comes from.
    fn only_stored(&self, image: &Image, file: &ImageFile, path: &str) -> Option<Name> {
        let document = self.input.desired.images.get(&image.name)?;
        let named = document.generations.values().map(|g| &g.disk).any(|f| f.digest == file.digest);
        if named || document.files().iter().any(|f| f.digest == file.digest) {
            return None;
        }
        let has = |(_, view): &(&&Name, &HostView<'_>)| {
            view.known().and_then(|k| k.images.get(&file.digest)).is_some_and(|i| i.path == path)
        };
        self.world.hosts.iter().find(has).map(|(name, _)| (*name).clone())
    }

    pub(crate) fn let_wait(&mut self, needed_by: &[usize], id: &ActionId) {
        for number in needed_by {
            self.actions[*number].after.push(id.clone());
        }
    }

    pub(crate) fn cause_of(&self, needed_by: &[usize]) -> Cause {
        needed_by.iter().map(|n| self.actions[*n].cause).min().unwrap_or(Cause::Change)
    }
}

/// The host that a document names as the source of a file.
const fn giver(file: &ImageFile) -> Option<&Name> {
    match &file.source {
        Source::Host { host, .. } => Some(host),
        _ => None,
    }
}

fn on_bridge(vm: &VmObs, bridge: &str) -> bool {
    vm.live.iter().chain([&vm.config]).any(|shape| shape.nics.values().any(|n| n.bridge == bridge))
}

fn makes_on(op: &Op, bridge: &str) -> bool {
    match op {
        Op::Define { domain, .. } => domain.nics.iter().any(|n| n.bridge == bridge),
        Op::MakeBridge { bridge: made, .. } => made == bridge,
        _ => false,
    }
}

/// An action on something that is not a VM.
pub(crate) fn plain(subject: Address, verb: Verb, host: &Name, ops: impl IntoIterator<Item = Op>) -> Action {
    Action {
        id: ActionId::new(&subject, verb, Some(host)),
        subject,
        verb,
        cause: Cause::Change,
        reason: reason("", "", None),
        impact: Impact { class: Class::None, downtime: Downtime::None, data: Vec::new() },
        from: None,
        to: Some(host.clone()),
        fields: Vec::new(),
        transfer: None,
        roll: None,
        task: None,
        otherwise: None,
        opens: Vec::new(),
        closes: Vec::new(),
        after: Vec::new(),
        wave: 0,
        blocked: Vec::new(),
        steps: ops.into_iter().map(|op| Step { host: host.clone(), op }).collect(),
    }
}
