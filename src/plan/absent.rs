//! VMs that should exist and were not seen: made, defined again around their disks, adopted, or waited for.

use super::draft::{Draft, Footprint, action, on, reason};
use super::place::Need;
use super::steps::Op;
use super::target::Target;
use super::types::{Action, Block, BlockedBy, Cause, Class, DataEffect, DiskFate, Downtime, NoteKind, Reason, Verb};
use super::world::{Disk, HostView};
use crate::model::{DiskPhase, Group, Host, HostObs, Name, NicStamp, PlacementRecord, RunState, Unmanaged, Vm};

/// What is known about a VM that was not seen.
enum Whereabouts<'a> {
    /// It can be made: on this host only, or anywhere.
    Free(Option<&'a Name>),
    /// It may exist where we cannot look.
    Dark(Block),
}

/// A VM that is to be made, and the host that it has been given.
pub(crate) struct Seat<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) group: &'a Group,
    /// The only host that will do: its disks are there.
    pub(crate) only: Option<&'a Name>,
    want: RunState,
    pub(crate) need: Need,
    /// Where, or why nowhere.
    pub(crate) at: Result<&'a Name, Vec<(&'a Name, String)>>,
    /// Actions that make room for it.
    pub(crate) cleared: Vec<usize>,
}

impl<'a> Draft<'a> {
    /// Decides about all VMs that were not seen anywhere: what was there before, and what was promised, comes before what is
    /// new.
    pub(crate) fn all_absent(&mut self, missing: Vec<&'a Vm>) {
        if self.leases.promises.is_empty() {
            missing.into_iter().for_each(|vm| self.absent(vm));
            return;
        }
        let there = |draft: &Self, vm: &Vm| draft.world.records.get(&vm.name).is_some_and(|r| !r.is_over());
        let (recorded, new): (Vec<_>, Vec<_>) = missing.into_iter().partition(|vm| there(self, vm));
        let (due, new): (Vec<_>, Vec<_>) = new.into_iter().partition(|vm| self.leases.due.contains(&vm.name));
        recorded.into_iter().chain(due).for_each(|vm| self.absent(vm));
        self.reserve();
        for vm in new {
            self.hold_promises(&vm.name);
            self.absent(vm);
        }
        self.placer.hold(&[]);
    }

    /// Decides about a VM that was not seen anywhere.
    fn absent(&mut self, vm: &'a Vm) {
        self.touched.insert(&vm.name);
        if let Some(adoption) = self.input.desired.adoptions.iter().find(|a| a.vm == vm.name) {
            return self.adopt(
                vm,
                adoption.uuid,
                reason("adoption", adoption.reason.as_ref(), Some(adoption.origin.clone())),
            );
        }
        let only = match self.whereabouts(vm) {
            Whereabouts::Free(only) => only,
            Whereabouts::Dark(block) => return self.blocked_create(vm, block),
        };
        if let Some(block) = self.unmade(&vm.name) {
            return self.blocked_create(vm, block);
        }
        if vm.spec.image.is_none() {
            return self.blocked_create(
                vm,
                Block {
                    by: BlockedBy::Policy,
                    text: "it has no image to be made from".to_owned(),
                    unblock: "name an image, or write an Adoption with the UUID of the VM that exists".to_owned(),
                },
            );
        }
        let desired = self.input.desired;
        if let Some(image) = desired.image_of(vm).filter(|image| image.is_unsealed()) {
            return self.blocked_create(vm, super::present::unsealed(image));
        }
        let (want, _) = self.effective_run(vm);
        let Some(group) = desired.groups.get(&vm.group) else { return };
        let need = Need::of(vm, if want == RunState::Suspended { RunState::Stopped } else { want });
        let mut seat = Seat { vm, group, only, want, need, at: Err(Vec::new()), cleared: Vec::new() };
        seat.at = self.placer.choose(vm, group, only, need);
        if seat.at.is_err() {
            self.beside_promises(&mut seat);
        }
        if seat.at.is_err() {
            self.clear_room(&mut seat);
        }
        self.seats.push(seat);
    }

    /// Writes the actions of VMs that have a host now, and says of the others why they have none.
    pub(crate) fn make_the_seated(&mut self) {
        for seat in std::mem::take(&mut self.seats) {
            let first = self.actions.len();
            self.make(&seat);
            let id = self.actions.get(first).map(|a| a.id.clone());
            for number in seat.cleared {
                self.actions[number].reason.trigger.clone_from(&id);
            }
        }
    }

    fn make(&mut self, seat: &Seat<'a>) {
        let vm = seat.vm;
        let chosen = match &seat.at {
            Ok(host) => host,
            Err(rejected) => return self.no_room(vm, rejected),
        };
        let Some(host) = self.input.desired.hosts.get(*chosen) else { return };
        let (incarnation, whole) = self.incarnation(vm, host);
        let target = match self.target(vm, host, incarnation, None) {
            Ok(target) => target,
            Err(text) => {
                let unblock = "widen the network's range; a VM that goes frees its address when it is gone".to_owned();
                return self.blocked_create(vm, Block { by: BlockedBy::MissingCapacity, text, unblock });
            }
        };
        self.assemble(&target, seat.want, whole, seat.need);
    }

    /// Where a VM may be that was not seen.
    fn whereabouts(&self, vm: &Vm) -> Whereabouts<'a> {
        let dark = |host: &Name, why: String| {
            let left = !self.input.desired.hosts.contains_key(host);
            let unblock = if left {
                format!("bring the document of host/{host} back: it can go when its host was seen empty")
            } else {
                format!("wait for host/{host}; if it is gone for good, fence it and write a HostLost document")
            };
            let text = format!("host/{host} {why}: it may run there");
            Whereabouts::Dark(Block { by: BlockedBy::UnknownState, text, unblock })
        };
        let has_data = !vm.spec.disks.is_empty() || vm.spec.persistent_root;
        let disks = self.world.disks.get(&vm.name).map(Vec::as_slice).unwrap_or_default();
        let data = |d: &Disk<'_>| {
            d.obs.stamp.phase.is_valid()
                && d.obs.stamp.disk != "seed"
                && (d.obs.stamp.disk != "root" || self.root_is_whole(vm, d))
        };
        let newest =
            disks.iter().filter(|(_, d)| data(d)).max_by_key(|(_, d)| (d.obs.stamp.epoch, d.obs.stamp.incarnation));
        let data_lost = |host: &Name, text: String| {
            Whereabouts::Dark(Block {
                by: BlockedBy::UnknownState,
                text,
                unblock: format!("bring host/{host} back, or take the disks of vm/{} out of its document", vm.name),
            })
        };
        let record = self.world.records.get(&vm.name);
        if record.is_some_and(PlacementRecord::is_over) && !has_data {
            // It ended with its lease, and left nothing.
            return Whereabouts::Free(None);
        }
        if let Some(record) = record {
            for host in record.places() {
                if matches!(self.world.view(host), HostView::Unknown) {
                    return dark(host, self.world.fault(host));
                }
            }
            // Where its disks are: what is still the source's has not left it.
            let holder = match &record.from {
                Some(from) if !self.world.left(&vm.name, from, record.moves) => from,
                _ => &record.host,
            };
            if let (true, Some(loss)) = (has_data, self.world.losses.get(holder))
                && !self.survives(holder)
            {
                return data_lost(holder, format!("its data is on host/{holder}, which {}", loss.word));
            }
            let half = disks.iter().find(|(_, d)| matches!(d.obs.stamp.phase, DiskPhase::Incoming { .. }));
            if let (true, None, Some((host, _))) = (has_data, newest, half) {
                return Whereabouts::Dark(Block {
                    by: BlockedBy::UnknownState,
                    text: format!(
                        "its disks on host/{host} are copies of a move that did not end, and there are no others"
                    ),
                    unblock: "look which copy is whole and define its domain again, or end it by a Removal".to_owned(),
                });
            }
        } else if let Some(host) = self.world.dark.first().filter(|_| !self.may_surge(&vm.name)) {
            return dark(host, self.world.fault(host));
        } else if let (true, Some((host, loss))) = (has_data, self.world.losses.iter().find(|(h, _)| !self.survives(h)))
        {
            return data_lost(
                host,
                format!("no record says that its data was not on host/{host}, which {}", loss.word),
            );
        }
        Whereabouts::Free(newest.map(|(host, _)| *host))
    }

    /// Whether another host sees the files of a host that is lost.
    fn survives(&self, lost: &Name) -> bool {
        let hosts = &self.input.desired.hosts;
        let Some(storage) = hosts.get(lost).and_then(|h| h.shared.as_ref()) else { return false };
        let same = |h: &&Host| h.shared.as_ref() == Some(storage) && self.world.view(&h.name).known().is_some();
        hosts.values().any(|h| same(&h))
    }

    /// Whether a root disk that is there is the one that is wanted.
    fn root_is_whole(&self, vm: &Vm, disk: &Disk<'_>) -> bool {
        let image = self.input.desired.image_of(vm);
        let stamp = &disk.obs.stamp;
        stamp.disk == "root"
            && stamp.phase.is_valid()
            && stamp.expires.is_none()
            && stamp.made_from.as_deref() == image.map(|i| i.disk.digest.as_str())
    }

    /// The incarnation to make, and whether its root disk is there already.
    fn incarnation(&self, vm: &Vm, host: &Host) -> (u32, bool) {
        let disks = self.world.disks.get(&vm.name).map(Vec::as_slice).unwrap_or_default();
        let here = disks.iter().filter(|(h, _)| self.world.same_files(h, &host.name));
        let root = here.filter(|(_, d)| self.root_is_whole(vm, d)).map(|(_, d)| d.obs.stamp.incarnation).max();
        if let Some(incarnation) = root {
            return (incarnation, true);
        }
        let highest = disks.iter().map(|(_, d)| d.obs.stamp.incarnation).max().unwrap_or(0);
        let recorded = self.world.records.get(&vm.name);
        match recorded {
            // A record without disks: the creation was cut before anything was made.
            Some(record) if record.host == host.name && highest < record.incarnation && !record.is_over() => {
                (record.incarnation, false)
            }
            Some(record) => (1 + highest.max(record.incarnation), false),
            None => (1 + highest, false),
        }
    }

    /// The steps that bring a VM into its slot, whatever of it is there already.
    fn assemble(&mut self, target: &Target<'a>, want: RunState, whole: bool, need: Need) {
        let (vm, host) = (target.vm, target.host);
        let mut ops = vec![target.record()];
        let mut data = Vec::new();
        let mut grows = Vec::new();
        let found = self.world.disk(&vm.name, &host.name, "root").filter(|_| whole);
        let other_marks = found.is_some_and(|d| !target.has_marks(&d.obs.stamp));
        if other_marks && vm.spec.persistent_root {
            let text = "its root disk is persistent, and another address stands in it than is planned";
            let unblock = "write back the address that it had".to_owned();
            return self.blocked_create(vm, Block { by: BlockedBy::Policy, text: text.to_owned(), unblock });
        }
        let whole = whole && !other_marks && !target.returns_root();
        if let Some(used) = found.filter(|_| !whole) {
            ops.push(Op::DeleteDisk { path: used.path.to_owned(), vm: vm.name.clone() });
            data.push(DataEffect { disk: "root".to_owned(), effect: DiskFate::Remake, bytes: used.obs.size });
        }
        if whole {
            let root = self.world.disk(&vm.name, &host.name, "root").map(|d| d.obs.size).unwrap_or_default();
            data.push(DataEffect { disk: "root".to_owned(), effect: DiskFate::Reattach, bytes: root });
        } else {
            ops.extend(target.make_root());
        }
        ops.extend(target.make_seed());
        let mut kept = whole;
        for (name, wanted) in &vm.spec.disks {
            let found = self.world.disk(&vm.name, &host.name, name.as_str());
            kept |= found.is_some();
            let (steps, effect) = target.data_disk(name, found);
            ops.extend(steps);
            data.extend(effect);
            if let Some(disk) = found
                && disk.obs.size < wanted.size
            {
                let path = disk.path.to_owned();
                grows.push(Op::GrowDisk { vm: vm.name.clone(), uuid: target.domain.uuid, path, size: wanted.size });
                data.push(DataEffect {
                    disk: name.to_string(),
                    effect: DiskFate::Grow(wanted.size),
                    bytes: disk.obs.size,
                });
            }
        }
        ops.push(Op::Define { domain: target.domain.clone(), stamp: target.stamp.clone() });
        ops.append(&mut grows);
        match want {
            RunState::Started => ops.extend(target.start()),
            RunState::Stopped => {}
            RunState::Suspended => {
                self.note(
                    &vm.name,
                    NoteKind::LeftAlone,
                    "suspended is wanted: it is made stopped, never having run",
                    None,
                );
            }
        }
        let record = self.world.records.get(&vm.name);
        let over = record.filter(|r| r.is_over());
        let record = record.filter(|r| !r.is_over());
        let recorded = record.is_some();
        let lost_with = record.and_then(|r| self.world.losses.get_key_value(&r.host));
        let (verb, cause, why) = if let Some((lost, loss)) = lost_with {
            let text = format!("host/{lost}, where it was, {}: {}", loss.word, loss.reason);
            let (verb, cause) = match (whole, loss.origin.is_some()) {
                (true, true) => (Verb::Restore, Cause::Change),
                (true, false) => (Verb::Restore, Cause::Drift),
                (false, true) => (Verb::Create, Cause::Change),
                (false, false) => (Verb::Create, Cause::Drift),
            };
            (verb, cause, reason("host_lost", text, loss.origin.cloned()))
        } else if whole || (kept && recorded) {
            let text = "its disks exist but its domain is gone: it is defined again around them";
            (Verb::Restore, Cause::Drift, reason("undefined", text, Some(vm.origin.clone())))
        } else if recorded {
            let text = match self.world.records.get(&vm.name).map(|r| &r.host) {
                Some(host) => format!("it was made on host/{host} before, and is gone"),
                None => "it was made before, and is gone".to_owned(),
            };
            (Verb::Create, Cause::Drift, reason("gone", text, Some(vm.origin.clone())))
        } else {
            (Verb::Create, Cause::Change, reason("new", self.new_text(vm, kept), Some(vm.origin.clone())))
        };
        let mut act = action(&vm.name, verb, cause, why, Class::Create, Downtime::None);
        act.to = Some(host.name.clone());
        act.impact.data = data;
        if want == RunState::Started {
            let (millis, samples) = self.boot_estimate(target);
            act.impact.downtime = Downtime::Estimate { millis, samples };
        }
        act.steps = on(&host.name, ops);
        if let Some(elsewhere) =
            over.map(|r| &r.host).filter(|at| **at != host.name && self.world.view(at).known().is_some())
        {
            act.steps.extend(on(elsewhere, [Op::Unrecord { vm: vm.name.clone() }]));
        }
        act.blocked.extend(self.pause(&vm.name, &vm.group));
        self.push(act, [Footprint { host: &host.name, before: Need::default(), after: need }]);
    }

    fn new_text(&self, vm: &Vm, kept: bool) -> String {
        let group = self.input.desired.groups.get(&vm.group);
        let members = group.map_or(1, |g| g.vms.len());
        let place =
            if members > 1 { format!("new, one of {members} of {}", vm.group) } else { format!("new, {}", vm.group) };
        if kept { format!("{place}; data disks that were kept are attached again") } else { place }
    }

    /// No host can take it: the reasons, the commonest first, with a few hosts each.
    fn no_room(&mut self, vm: &'a Vm, rejected: &[(&Name, String)]) {
        let list = listed(rejected);
        let slots = !rejected.is_empty() && rejected.iter().all(|(_, why)| why == "no slots left");
        let text = match (rejected.is_empty(), slots) {
            (true, _) => "the fleet has no host".to_owned(),
            (_, true) => "no slots left on any host".to_owned(),
            _ => format!("no host can take it ({list})"),
        };
        let unblock = if self.promised_room(rejected) {
            "add a host or slots, ask for less, or change the reservation".to_owned()
        } else {
            "add a host or slots, free some, or relax the rule (`stablehand why` shows each host)".to_owned()
        };
        self.blocked_create(vm, Block { by: BlockedBy::MissingCapacity, text, unblock });
    }

    /// A creation that is stopped, shown all the same.
    pub(crate) fn blocked_create(&mut self, vm: &'a Vm, block: Block) {
        let unseen = |host: &Name| self.world.hosts.get(host).is_none_or(|view| view.known().is_none());
        let recorded =
            self.world.records.get(&vm.name).filter(|r| block.by == BlockedBy::UnknownState && unseen(&r.host));
        let why = match recorded {
            Some(record) => {
                let text = format!(
                    "it is on host/{}, as far as anybody knows: only if that is lost is it made anew",
                    record.host
                );
                reason("unseen", text, Some(vm.origin.clone()))
            }
            None => reason("new", self.new_text(vm, false), Some(vm.origin.clone())),
        };
        let mut act = action(&vm.name, Verb::Create, Cause::Change, why, Class::Create, Downtime::None);
        act.blocked.push(block);
        self.push(act, []);
    }

    /// Takes over a domain that exists: only our stamp is written.
    fn adopt(&mut self, vm: &'a Vm, uuid: uuid::Uuid, why: Reason) {
        let desired = self.input.desired;
        let found = self.world.hosts.iter().find_map(|(name, view)| {
            let seen: &'a HostObs = view.known()?;
            let foreign = seen.unmanaged.iter().find(|u| u.uuid == uuid)?;
            Some((*name, foreign))
        });
        let Some((host, foreign)) = found else {
            let dark = self.world.dark.first().map(|h| format!("; host/{h} could not be asked")).unwrap_or_default();
            let block = Block {
                by: BlockedBy::UnknownState,
                text: format!("no VM without an owner has the UUID {uuid}{dark}"),
                unblock: "check the UUID with `virsh list --all --uuid`, or take the Adoption out".to_owned(),
            };
            return self.blocked_create(vm, block);
        };
        if let Some(other) = &foreign.fleet {
            let block = Block {
                by: BlockedBy::Policy,
                text: format!("the VM {uuid} belongs to fleet/{other}"),
                unblock: "let that fleet forget it first".to_owned(),
            };
            return self.blocked_create(vm, block);
        }
        let Some(host_doc) = desired.hosts.get(host) else { return };
        if let Some(block) = super::container::not_adopted(host_doc) {
            return self.blocked_create(vm, block);
        }
        let target = match self.target(vm, host_doc, 1, None) {
            Ok(target) => target,
            Err(text) => {
                let unblock = "fix the address in its document".to_owned();
                return self.blocked_create(vm, Block { by: BlockedBy::MissingCapacity, text, unblock });
            }
        };
        let mut stamp = target.stamp.clone();
        stamp.nics = adopted_nics(&target, foreign);
        stamp.adopted = Some(adopted_disks(vm, foreign));
        stamp.image = None;
        stamp.image_name = None;
        stamp.seed = String::new();
        let mut act = action(&vm.name, Verb::Adopt, Cause::Change, why, Class::Adopt, Downtime::None);
        act.from = Some(host.clone());
        act.to = Some(host.clone());
        let edit = Op::Edit { vm: vm.name.clone(), uuid, edits: Vec::new(), stamp };
        act.steps = on(host, [target.record(), edit]);
        act.impact.data = foreign
            .shape
            .disks
            .keys()
            .map(|disk| DataEffect { disk: disk.clone(), effect: DiskFate::Keep, bytes: crate::model::Bytes(0) })
            .collect();
        let need = Need::of(vm, if foreign.power.is_active() { RunState::Started } else { RunState::Stopped });
        let need = Need { slots: need.slots, ..Need::default() };
        self.placer.occupy(host, &vm.group, need);
        self.push(act, [Footprint { host, before: Need::default(), after: need }]);
    }
}

/// Why hosts were rejected: the commonest reason first, with a few hosts each.
pub(crate) fn listed(rejected: &[(&Name, String)]) -> String {
    let mut by_reason: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for (host, why) in rejected {
        by_reason.entry(why).or_default().push(host.as_str());
    }
    let mut reasons: Vec<_> = by_reason.into_iter().collect();
    reasons.sort_by_key(|(_, hosts)| std::cmp::Reverse(hosts.len()));
    let one = |(why, hosts): &(&str, Vec<&str>)| {
        let some = hosts[..hosts.len().min(3)].join(", ");
        let more = hosts.len().saturating_sub(3);
        if more > 0 { format!("{some} and {more} more: {why}") } else { format!("{some}: {why}") }
    };
    reasons.iter().take(4).map(one).collect::<Vec<_>>().join("; ")
}

/// Interfaces of an adopted VM: each desired one gets the first interface on its bridge that is left.
fn adopted_nics(target: &Target<'_>, foreign: &Unmanaged) -> std::collections::BTreeMap<Name, NicStamp> {
    let mut left: Vec<_> = foreign.shape.nics.iter().collect();
    let mut nics = std::collections::BTreeMap::new();
    for nic in &target.domain.nics {
        let Some(at) = left.iter().position(|(_, shape)| shape.bridge == nic.bridge) else { continue };
        let (mac, _) = left.remove(at);
        let planned = target.stamp.nics.get(&nic.name);
        let (address, address6) = (planned.and_then(|n| n.address), planned.and_then(|n| n.address6));
        nics.insert(nic.name.clone(), NicStamp { mac: *mac, address, address6 });
    }
    nics
}

/// Disks of an adopted VM by target device: the first is `root`; one whose device is named by the document keeps
/// that name; the rest are the document's other disks in order.
fn adopted_disks(vm: &Vm, foreign: &Unmanaged) -> std::collections::BTreeMap<String, String> {
    let mut shapes: Vec<_> = foreign.shape.disks.values().filter(|d| !d.readonly).collect();
    shapes.sort_by(|a, b| (a.target.len(), &a.target).cmp(&(b.target.len(), &b.target)));
    let mut names: Vec<&str> = vm.spec.disks.keys().map(Name::as_str).collect();
    let mut map = std::collections::BTreeMap::new();
    for (number, shape) in shapes.iter().enumerate() {
        if number == 0 {
            map.insert(shape.target.clone(), "root".to_owned());
        } else if let Some(at) = names.iter().position(|n| **n == shape.target) {
            map.insert(shape.target.clone(), names.remove(at).to_owned());
        }
    }
    for shape in shapes.iter().skip(1) {
        if !map.contains_key(&shape.target) && !names.is_empty() {
            map.insert(shape.target.clone(), names.remove(0).to_owned());
        }
    }
    map
}

impl Draft<'_> {
    /// A VM seen in more than one place: nothing is done to it.
    pub(crate) fn doubled(&mut self, name: &Name, hosts: &[&Name]) {
        let list: Vec<&str> = hosts.iter().map(|h| h.as_str()).collect();
        let why = reason("doubled", format!("it was seen on {}", list.join(" and ")), None);
        let mut act: Action = action(name, Verb::Update, Cause::Drift, why, Class::None, Downtime::None);
        act.blocked.push(Block {
            by: BlockedBy::UnknownState,
            text: format!("it is defined on {}", list.join(" and ")),
            unblock: "look which copy is valid, and undefine the other by hand".to_owned(),
        });
        self.push(act, []);
    }
}
