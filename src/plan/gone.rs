//! What exists and should not: VMs that end, disks whose time is over, leftovers of a crash.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, Footprint, action, covers, need_now, on, reason};
use super::place::Need;
use super::steps::Op;
use super::types::{
    Action, ActionId, Block, BlockedBy, Cause, Class, DataEffect, DiskFate, Downtime, Note, NoteKind, Verb,
};
use super::world::Disk;
use crate::model::{Address, DiskPhase, Name, OnRemove, Power, Protection, Removal, RemovalData, Timestamp, VmObs};

impl<'a> Draft<'a> {
    /// The Removal that names a VM most closely: itself before its service before the fleet.
    fn removal(&self, vm: &Name, group: &str) -> Option<&'a Removal> {
        let rank = |r: &&Removal| match r.target {
            Address::Vm(_) => 0,
            Address::Fleet(_) => 2,
            _ => 1,
        };
        self.input.desired.removals.iter().filter(|r| covers(r, vm, group)).min_by_key(rank)
    }

    /// A stamped VM that should not exist ends, or says why it stays.
    pub(crate) fn unwanted(&mut self, name: &'a Name, host: &'a Name, obs: &'a VmObs, empty_repository: bool) {
        self.touched.insert(name);
        let removal = self.removal(name, &obs.stamp.group);
        let now = self.input.now;
        let adopted = obs.stamp.adopted.is_some();
        let mine = self.world.disks_at(name, host);
        let disks: Vec<Disk<'a>> = mine.filter(|d| !matches!(d.obs.stamp.phase, DiskPhase::Moved { .. })).collect();
        let has_data = disks.iter().any(|d| is_data(d, obs)) || adopted;
        let mut data = Vec::new();
        // What is kept is stamped before the domain goes, so that a crash between the two forgets no Removal.
        let mut keep = Vec::new();
        let mut after = Vec::new();
        for disk in &disks {
            let stamp = &disk.obs.stamp;
            let on_remove = self.comes_again(name, stamp.on_remove);
            let fate = match (is_data(disk, obs), removal.map(|r| r.data), on_remove) {
                (false, _, _) => DiskFate::Delete,
                (true, Some(RemovalData::Delete), _) => DiskFate::Delete,
                (true, Some(RemovalData::Retain(span)), _) => DiskFate::RetainUntil(Timestamp(now.0 + span.as_secs())),
                (true, None, OnRemove::Retain(span)) => DiskFate::RetainUntil(self.retained_until(name, span)),
                (true, None, OnRemove::Delete) => DiskFate::Delete,
            };
            let path = disk.path.to_owned();
            match fate {
                DiskFate::RetainUntil(until) => keep.push(Op::RetainDisk { path, until }),
                _ => after.push(Op::DeleteDisk { path, vm: name.clone() }),
            }
            if stamp.disk != "seed" && (stamp.disk != "root" || obs.stamp.persistent_root) {
                data.push(DataEffect { disk: stamp.disk.clone(), effect: fate, bytes: disk.obs.size });
            }
        }
        if adopted {
            let ours = |path: &str| disks.iter().any(|d| d.path == path);
            let theirs = obs.config.disks.values().filter(|d| !d.readonly && !ours(&d.path));
            let theirs: Vec<&str> = theirs.map(|d| d.path.as_str()).collect();
            if !theirs.is_empty() {
                let text = format!("it was adopted with its disks: {} stay where they are", theirs.join(", "));
                self.note(name, NoteKind::LeftAlone, text, removal.map(|r| r.origin.clone()));
            }
        }
        let loses = data.iter().any(|d| d.effect == DiskFate::Delete);
        let class = if loses { Class::DestroyData } else { Class::DestroyKeep };
        let over = super::builds::over(obs, self.image_of_management(obs));
        let why = match removal {
            None if over.is_some() => reason("management_over", over.unwrap_or_default(), None),
            Some(r) => reason("removal", format!("Removal {}: {}", r.name, r.reason), Some(r.origin.clone())),
            None if self.over(name).is_some() => {
                let ends = self.over(name);
                let (text, origin) = (ends.map(|e| e.text.clone()), ends.and_then(|e| e.origin.clone()));
                reason(ends.map_or("", |e| e.code), text.unwrap_or_default(), origin)
            }
            None => match self.input.desired.groups.get(&obs.stamp.group) {
                Some(group) => {
                    let text = format!("{} has {} now: this one is over", obs.stamp.group, count(group.vms.len()));
                    reason(
                        "fewer",
                        text,
                        group.vms.first().and_then(|vm| self.input.desired.vms.get(vm)).map(|vm| vm.origin.clone()),
                    )
                }
                None => reason("vanished", format!("{} is not in the repository any more", obs.stamp.group), None),
            },
        };
        let cause = if why.code == "lease_over" { Cause::Expiry } else { Cause::Change };
        let mut act = action(name, Verb::Destroy, cause, why, class, Downtime::Permanent);
        act.from = Some(host.clone());
        act.impact.data = data;
        let mut ops = Vec::new();
        if obs.power == Power::Suspended {
            // Its memory goes with it: that is what ending means.
        } else if obs.power.is_active() {
            ops.push(Op::Stop { vm: name.clone(), uuid: obs.uuid, policy: obs.stamp.stop });
        }
        let (first, last) = self.last_records(name, host, obs);
        ops.extend(keep);
        ops.extend(first);
        ops.push(Op::Undefine { vm: name.clone(), uuid: obs.uuid, drop_save: true });
        ops.extend(after);
        ops.push(last);
        act.steps = on(host, ops);
        act.blocked.extend(self.ending_blocks(name, obs, removal, has_data, empty_repository));
        act.blocked.extend(self.pause(name, &obs.stamp.group));
        if let Some(removal) = removal.filter(|_| self.input.desired.vms.contains_key(name)) {
            self.notes.push(Note {
                subject: removal.target.clone(),
                kind: NoteKind::Hint,
                text: "described and removed: the Removal wins; take the documents out too".to_owned(),
                origin: Some(removal.origin.clone()),
            });
        }
        let before = need_now(obs);
        self.push(act, [Footprint { host, before, after: Need::default() }]);
    }

    /// Placement records of VMs that are gone in every other way.
    pub(crate) fn stale_records(&mut self) {
        let records = self.world.records;
        for (name, record) in records {
            let known = record.places().all(|host| self.world.view(host).known().is_some());
            let somewhere = self.world.vms.contains_key(name) || self.world.disks.contains_key(name);
            if !known || somewhere || self.wanted.contains_key(name) {
                continue;
            }
            // What is over stays written down for as long as its document is there.
            let Some(last) = self.record_of_the_gone(name) else { continue };
            let why = reason("leftover", "left over: the VM that it records is gone", None);
            let mut act = action(name, Verb::Expire, Cause::Drift, why, Class::None, Downtime::None);
            act.from = Some(record.host.clone());
            act.steps = on(&record.host, [last]);
            let strays = self.world.strays.get(name).into_iter().flatten();
            for host in strays.filter(|host| self.world.view(host).known().is_some()) {
                act.steps.extend(on(host, [Op::Unrecord { vm: name.clone() }]));
            }
            self.push(act, []);
        }
    }

    fn ending_blocks(
        &self,
        name: &Name,
        obs: &VmObs,
        removal: Option<&Removal>,
        has_data: bool,
        empty_repository: bool,
    ) -> Vec<Block> {
        let mut blocks = Vec::new();
        let itself = removal.is_some_and(|r| matches!(&r.target, Address::Vm(n) if n == name));
        if obs.stamp.protect >= Protection::Destroy && !itself {
            blocks.push(Block {
                by: BlockedBy::Protection,
                text: format!("it carries protect: {}", obs.stamp.protect.word()),
                unblock: format!("write a Removal that names vm/{name} itself"),
            });
        }
        if let Some(why) = self.quarantine_of(name).filter(|_| removal.is_none()) {
            blocks.push(Block {
                by: BlockedBy::Policy,
                text: format!("it is in quarantine {}", why.sentence()),
                unblock: format!("release it, or write a Removal of vm/{name}"),
            });
        }
        if has_data && removal.is_none() && self.over(name).is_none() {
            blocks.push(Block {
                by: BlockedBy::Policy,
                text: "it has persistent disks and no Removal names it".to_owned(),
                unblock: match self.input.desired.groups.get(&obs.stamp.group) {
                    Some(_) => format!("write a Removal with target vm/{name}, or raise the replicas again"),
                    None => format!("write a Removal with target vm/{name}, or bring its document back"),
                },
            });
        }
        if empty_repository && removal.is_none() {
            blocks.push(Block {
                by: BlockedBy::Limit,
                text: "the repository describes no VM at all, and this fleet has some: refused".to_owned(),
                unblock: format!(
                    "bring the documents back, or write a Removal with target fleet/{}",
                    self.input.desired.fleet.name
                ),
            });
        }
        blocks
    }

    /// Disks of ours that no domain has: kept for a time, deleted after it, or left by a crash.
    pub(crate) fn orphans(&mut self) {
        let mut used: Option<BTreeSet<(&'a Name, &'a str)>> = None;
        let now = self.input.now;
        let ending = self.ending();
        let (made, attached) = self.made();
        let names: Vec<&'a Name> = self.world.disks.keys().copied().collect();
        for name in names {
            let wanted = self.wanted.contains_key(name);
            let placed = self.world.place(name);
            let creation = made.get(name);
            if (wanted && placed.is_none() && creation.is_none()) || ending.contains(name) {
                // What a creation would take, or a destruction deletes, is not an orphan.
                continue;
            }
            if placed.is_some() && (self.world.unsettled.contains(name) || self.world.standings.contains_key(name)) {
                // Which of its copies are worth something is settled first.
                continue;
            }
            let removal = self.removal(name, "");
            let delete_all = removal.is_some_and(|r| r.data == RemovalData::Delete);
            let mut by_host: BTreeMap<&'a Name, (Vec<Op>, Vec<DataEffect>)> = Default::default();
            let disks: Vec<(&'a Name, Disk<'a>)> = self.world.disks.get(name).cloned().unwrap_or_default();
            // Nearly every disk is in its own VM's definition; all definitions are searched only for one that is not.
            if disks.iter().all(|(host, disk)| {
                placed.is_some_and(|(at, obs)| self.world.same_files(at, host) && has(obs, disk.path))
            }) {
                continue;
            }
            let used = used.get_or_insert_with(|| self.used_paths());
            for (host, disk) in disks {
                let stamp = &disk.obs.stamp;
                let taken = creation.is_some() && attached.contains(disk.path);
                if taken || used.contains(&(host, disk.path)) {
                    continue;
                }
                match self.fate_of_copy(name, disk.obs, placed.is_some()) {
                    Copy::Disk => {}
                    Copy::Kept => continue,
                    Copy::Over => {
                        let (ops, _) = by_host.entry(host).or_default();
                        ops.push(Op::DeleteDisk { path: disk.path.to_owned(), vm: name.clone() });
                        continue;
                    }
                }
                let holds_data = match stamp.disk.as_str() {
                    "seed" => false,
                    "root" => stamp.on_remove != OnRemove::Delete,
                    _ => true,
                };
                if holds_data && !wanted && placed.is_none() && removal.is_none() && stamp.expires.is_none() {
                    // Its domain was undefined by somebody, and its document is gone: that is no review.
                    let text = format!("disk {} holds data, and no Removal names its VM", stamp.disk);
                    self.note(name, NoteKind::LeftAlone, text, None);
                    continue;
                }
                let vm = self.wanted.get(name).filter(|vm| vm.spec.disks.contains_key(stamp.disk.as_str()));
                if holds_data && vm.is_some() && stamp.expires.is_none() {
                    // Nobody took it out of the YAML: which of two copies counts is for a person to say.
                    let text = format!("another copy of its disk {} lies on host/{host}: {}", stamp.disk, disk.path);
                    self.note(name, NoteKind::LeftAlone, text, None);
                    continue;
                }
                let due = match (stamp.expires, stamp.on_remove) {
                    _ if delete_all && placed.is_none() => Some(None),
                    (Some(until), _) if until <= now => Some(None),
                    (Some(_), _) => None,
                    (None, OnRemove::Delete) => Some(None),
                    (None, OnRemove::Retain(span)) => Some(Some(Timestamp(now.0 + span.as_secs()))),
                };
                let Some(until) = due else {
                    if let Some(until) = stamp.expires {
                        let text = format!("disk {} is kept for {} more", stamp.disk, days(until.since(now)));
                        self.note(name, NoteKind::LeftAlone, text, None);
                    }
                    continue;
                };
                let (ops, data) = by_host.entry(host).or_default();
                let path = disk.path.to_owned();
                let (op, effect) = match until {
                    Some(until) => (Op::RetainDisk { path, until }, DiskFate::RetainUntil(until)),
                    None => (Op::DeleteDisk { path, vm: name.clone() }, DiskFate::Delete),
                };
                ops.push(op);
                if stamp.disk != "seed" {
                    data.push(DataEffect { disk: stamp.disk.clone(), effect, bytes: disk.obs.size });
                }
            }
            for (host, (mut ops, data)) in by_host {
                let kept = disks_due(&data);
                let (class, cause, why) = if kept {
                    let origin = removal.map(|r| r.origin.clone());
                    (
                        Class::DestroyData,
                        Cause::Expiry,
                        reason("expired", "data that was kept without a VM: its time is over", origin),
                    )
                } else {
                    (Class::None, Cause::Drift, reason("leftover", "left over: no VM uses it", None))
                };
                if !wanted && placed.is_none() {
                    ops.extend(self.record_of_the_gone(name));
                }
                let mut act = action(name, Verb::Expire, cause, why, class, Downtime::None);
                act.id = super::types::ActionId::new(&act.subject, Verb::Expire, Some(host));
                act.from = Some(host.clone());
                act.impact.data = data;
                act.steps = on(host, ops);
                act.after.extend(creation.cloned());
                self.push(act, []);
            }
        }
    }

    /// What becomes of a disk that is a copy of a move.
    fn fate_of_copy(&mut self, name: &Name, disk: &crate::model::DiskObs, placed: bool) -> Copy {
        let stamp = &disk.stamp;
        let asked = |host: &Name| self.world.view(host).known().is_some();
        let nowhere = self.world.records.get(name).is_none_or(|r| r.places().all(asked));
        let gone = !placed && !self.wanted.contains_key(name) && nowhere;
        match &stamp.phase {
            DiskPhase::Valid => Copy::Disk,
            // Settling the move decides; without a VM it is worth nothing.
            DiskPhase::Incoming { .. } if gone => Copy::Over,
            DiskPhase::Incoming { .. } => Copy::Kept,
            DiskPhase::Moved { to } => {
                let due = stamp.expires.is_none_or(|until| until <= self.input.now);
                if due && (placed || gone) {
                    return Copy::Over;
                }
                let until = stamp.expires.filter(|_| !due);
                let text = match until {
                    Some(until) => {
                        let left = minutes(until.since(self.input.now));
                        format!(
                            "the copy of disk {} that its move to {to} left behind is kept for {left} more",
                            stamp.disk
                        )
                    }
                    None => format!(
                        "the copy of disk {} that its move to {to} left behind is kept: it is not seen elsewhere",
                        stamp.disk
                    ),
                };
                self.note(name, NoteKind::LeftAlone, text, None);
                Copy::Kept
            }
        }
    }

    /// VMs that this plan makes, also anew, and the paths of the disks that they take, or that this is the end of: what else
    /// lies about of them goes after.
    fn made(&self) -> (BTreeMap<Name, ActionId>, BTreeSet<String>) {
        let (mut made, mut attached) = (BTreeMap::new(), BTreeSet::new());
        let makes = |a: &&Action| !a.is_blocked() && matches!(a.verb, Verb::Create | Verb::Restore | Verb::Recreate);
        for act in self.actions.iter().filter(makes) {
            made.insert(act.subject.name().clone(), act.id.clone());
            for step in &act.steps {
                match &step.op {
                    Op::MakeDisk(disk) => drop(attached.insert(disk.path.clone())),
                    Op::MakeSeed { path, .. } | Op::DeleteDisk { path, .. } | Op::RetainDisk { path, .. } => {
                        attached.insert(path.clone());
                    }
                    Op::Define { domain, .. } => attached.extend(domain.disks.iter().map(|d| d.path.clone())),
                    _ => {}
                }
            }
        }
        (made, attached)
    }

    /// VMs whose disks an action of this plan deletes already, or would exchange if nothing stopped it.
    fn ending(&self) -> BTreeSet<Name> {
        let exchanges = |a: &&super::types::Action| match a.verb {
            Verb::Destroy => true,
            Verb::Recreate => a.is_blocked(),
            _ => false,
        };
        self.actions.iter().filter(exchanges).map(|a| a.subject.name().clone()).collect()
    }

    /// Paths that a domain has, or that this plan attaches.
    fn used_paths(&self) -> BTreeSet<(&'a Name, &'a str)> {
        let mut used = BTreeSet::new();
        for (host, obs) in self.world.vms.values().flatten() {
            let shapes = obs.live.iter().chain([&obs.config]);
            for shape in shapes.flat_map(|s| s.disks.values()) {
                used.insert((self.world.files(host), shape.path.as_str()));
            }
        }
        used
    }
}

/// What a disk is, as far as moves go.
enum Copy {
    /// No copy of a move.
    Disk,
    /// A copy that stays for now.
    Kept,
    /// A copy whose time is over.
    Over,
}

fn minutes(seconds: u64) -> String {
    if seconds >= 7_200 { days(seconds) } else { format!("{} min", seconds.div_ceil(60)) }
}

/// Whether a VM has a file as a disk, now or at its next start.
fn has(obs: &VmObs, path: &str) -> bool {
    obs.live.iter().chain([&obs.config]).any(|s| s.disks.values().any(|d| d.path == path))
}

/// Whether deleting these means that somebody's data goes.
fn disks_due(data: &[DataEffect]) -> bool {
    data.iter().any(|d| d.effect == DiskFate::Delete && d.disk != "root")
}

/// Whether a disk holds what its VM's users made.
fn is_data(disk: &Disk<'_>, obs: &VmObs) -> bool {
    match disk.obs.stamp.disk.as_str() {
        "seed" => false,
        "root" => obs.stamp.persistent_root,
        _ => true,
    }
}

fn count(vms: usize) -> String {
    if vms == 1 { "1 VM".to_owned() } else { format!("{vms} VMs") }
}

fn days(seconds: u64) -> String {
    if seconds >= 86_400 { format!("{} d", seconds.div_ceil(86_400)) } else { format!("{} h", seconds.div_ceil(3600)) }
}
