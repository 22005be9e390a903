//! The steps that carry a VM from one host to another. At every moment the disks, the definitions and the records say
//! where it is: [`places`](super::places) reads them after a crash.

use super::draft::Draft;
use super::places::flight;
use super::steps::{DiskFrom, MigrateHow, NewDisk, Op, Step};
use super::types::{DataEffect, DiskFate, MoveMode};
use super::way::{Cargo, Way};
use super::world::Disk;
use crate::model::{
    CloneMethod, DiskPhase, DiskStamp, Host, Name, PlacementRecord, Probe, Stamp, Timestamp, Vm, VmObs, disk_file_name,
};

/// A VM on its way, and all that its steps need.
#[derive(Clone, Debug)]
pub(crate) struct Carriage<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) obs: &'a VmObs,
    pub(crate) from: &'a Host,
    pub(crate) to: &'a Host,
    /// The count of its moves with this one.
    pub(crate) moves: u32,
    /// It does not run on its way.
    pub(crate) cold: bool,
    pub(crate) cargo: Cargo<'a>,
    /// Its stamp after what else the action changes.
    pub(crate) stamp: Stamp,
    /// Whether both hosts have the same files.
    pub(crate) shared: bool,
    /// Whether it is started at the target, having been stopped before or by the move.
    pub(crate) starts: bool,
    /// How its root disk returns to its image at the target before it is started there.
    pub(crate) returning: Vec<Op>,
    /// Until when the source's copies are kept.
    pub(crate) until: Timestamp,
    /// Whether its guest must learn that its network is another segment.
    pub(crate) announce: bool,
}

/// A placement record of a VM that is seen.
pub(crate) fn record_of(stamp: &Stamp, host: &Name, moves: u32) -> Op {
    Op::Record { vm: stamp.vm.clone(), record: record(stamp, host, moves) }
}

/// The record of a VM that is on its way. `cold`: it does not run meanwhile.
pub(crate) fn flight_of(stamp: &Stamp, (from, to): (&Name, &Name), moves: u32, cold: bool) -> Op {
    let record = PlacementRecord { from: Some(from.clone()), cold, ..record(stamp, to, moves) };
    Op::Record { vm: stamp.vm.clone(), record }
}

fn record(stamp: &Stamp, host: &Name, moves: u32) -> PlacementRecord {
    PlacementRecord { moves, ..PlacementRecord::at(host, stamp) }
}

/// The stamp of a copy that became the disk.
pub(crate) fn promoted(old: &DiskStamp, epoch: u64) -> DiskStamp {
    DiskStamp { phase: DiskPhase::Valid, epoch, expires: None, ..old.clone() }
}

/// The step that puts a disk aside which a move, or a lost host, left behind.
pub(crate) fn retire(disk: Disk<'_>, slots: &str, to: &Name, moves: u32, until: Timestamp) -> Op {
    let old = &disk.obs.stamp;
    let ending = disk.path.rsplit('.').next().unwrap_or("qcow2");
    let name = disk_file_name(&old.fleet, &old.vm, old.incarnation, &old.disk, &format!("moved{moves}.{ending}"));
    Op::RetireDisk {
        path: disk.path.to_owned(),
        to: format!("{slots}/{name}"),
        stamp: DiskStamp { phase: DiskPhase::Moved { to: to.clone() }, expires: Some(until), ..old.clone() },
    }
}

impl<'a> Draft<'a> {
    /// A VM put on its way.
    pub(crate) fn carriage(
        &self,
        vm: &'a Vm,
        obs: &'a VmObs,
        (from, to): (&'a Host, &'a Host),
        cargo: Cargo<'a>,
        (cold, starts): (bool, bool),
    ) -> Carriage<'a> {
        let record = self.world.records.get(&vm.name);
        let same = |r: &PlacementRecord| r.host == to.name && r.from.as_ref() == Some(&from.name) && r.cold == cold;
        let again = record.is_some_and(same);
        let moves = record.map_or(0, |r| r.moves) + u32::from(!again);
        let announce = vm
            .spec
            .nics
            .values()
            .any(|nic| self.input.desired.networks.get(&nic.network).is_some_and(|network| network.create_bridge));
        let until = Timestamp(self.input.now.0 + from.migration.keep_source.as_secs());
        let shared = self.shares_files(from, to);
        Carriage {
            vm,
            obs,
            from,
            to,
            moves,
            cold,
            cargo,
            stamp: obs.stamp.clone(),
            shared,
            starts,
            returning: Vec::new(),
            until,
            announce,
        }
    }

    /// The steps of a live move. `begun`: a job of ours runs already, and everything before it was done.
    pub(crate) fn live_steps(&self, c: &Carriage<'a>, way: &Way, begun: bool) -> Vec<Step> {
        let (vm, uuid) = (c.vm.name.clone(), c.obs.uuid);
        let mut steps = Steps::new(c);
        if !begun {
            steps.steps.extend(self.tidy(&c.vm.name, &[&c.from.name, &c.to.name]));
            if self.world.vms.get(&c.vm.name).is_some_and(|all| all.iter().any(|(h, _)| **h == c.to.name)) {
                steps.to(Op::DropRemnant { vm: vm.clone(), uuid });
            }
            steps.depart();
            for (name, disk) in c.cargo.disks.iter().filter(|_| !c.shared) {
                let stamp = c.incoming(*disk);
                if *name == "seed" {
                    steps.to(Op::CopyDisk { from: c.from.name.clone(), path: disk.path.to_owned(), stamp });
                    continue;
                }
                let from = match disk.obs.backing.as_deref().and_then(|p| self.format_of(p, &c.cargo).map(|f| (p, f))) {
                    Some((path, format)) => {
                        DiskFrom::Image { path: path.to_owned(), format, method: CloneMethod::Overlay }
                    }
                    None => DiskFrom::Blank,
                };
                let size = Some(disk.obs.size);
                steps.to(Op::MakeDisk(NewDisk { path: disk.path.to_owned(), stamp, from, size }));
            }
        }
        let rules = &c.to.migration;
        let how = MigrateHow {
            uri: rules.uri.as_deref().unwrap_or_default().to_owned(),
            address: rules.address.as_deref().map(str::to_owned),
            transport: way.transport,
            storage: !c.shared,
            auto_converge: rules.auto_converge,
            post_copy: way.post_copy,
            max_pause: rules.max_pause,
            bandwidth: rules.bandwidth,
            time_limit: rules.time_limit,
        };
        steps.from(Op::Migrate { vm: vm.clone(), uuid, to: c.to.name.clone(), how });
        steps.promote();
        if c.announce {
            steps.to(Op::Announce { vm, uuid });
        }
        steps.to(c.await_ready());
        steps.retire();
        steps.arrive();
        steps.steps
    }

    /// The steps of a move of a VM that does not run, or is stopped for it.
    pub(crate) fn cold_steps(&self, c: &Carriage<'a>, mode: MoveMode) -> Vec<Step> {
        let (vm, uuid) = (c.vm.name.clone(), c.obs.uuid);
        let mut steps = Steps::new(c);
        if mode == MoveMode::StopCopyStart {
            steps.from(Op::Stop { vm: vm.clone(), uuid, policy: c.vm.spec.stop });
        }
        steps.steps.extend(self.tidy(&c.vm.name, &[&c.from.name, &c.to.name]));
        steps.depart();
        for (_, disk) in c.cargo.disks.iter().filter(|_| !c.shared) {
            let (path, stamp) = (disk.path.to_owned(), c.incoming(*disk));
            steps.to(Op::CopyDisk { from: c.from.name.clone(), path, stamp });
        }
        let from = c.from.name.clone();
        steps.to(Op::DefineFrom { vm: vm.clone(), uuid, from: from.clone(), stamp: c.stamp.clone() });
        if mode == MoveMode::Saved {
            steps.to(Op::CopySave { vm: vm.clone(), uuid, from });
        }
        steps.retire();
        steps.promote();
        steps.from(Op::Undefine { vm: vm.clone(), uuid, drop_save: true });
        for op in &c.returning {
            steps.to(op.clone());
        }
        if c.starts {
            steps.to(Op::Start { vm, uuid });
            steps.to(c.await_ready());
        }
        steps.arrive();
        steps.steps
    }

    /// The steps that take away what earlier tries left of a VM on other hosts than these.
    pub(crate) fn tidy(&self, vm: &Name, except: &[&Name]) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.world.unsettled.contains(vm) {
            return steps;
        }
        for (host, view) in &self.world.hosts {
            if except.iter().any(|e| self.world.same_files(e, host)) || view.known().is_none() {
                continue;
            }
            // What may have been written there is put aside, when the VM is settled.
            if self.world.may_have_run(vm, host) {
                continue;
            }
            let mut ops = Vec::new();
            let shown = self.world.vms.get(vm).into_iter().flatten().find(|(h, _)| h == host);
            if let Some((_, obs)) = shown.filter(|(_, o)| !o.power.is_active() || super::places::arrives(o)) {
                ops.push(Op::DropRemnant { vm: vm.clone(), uuid: obs.uuid });
            }
            let incoming = |d: &Disk<'_>| matches!(d.obs.stamp.phase, DiskPhase::Incoming { .. });
            let disks = self.world.disks_at(vm, host).filter(incoming);
            ops.extend(disks.map(|d| Op::DeleteDisk { path: d.path.to_owned(), vm: vm.clone() }));
            let is_target = flight(self.world.records.get(vm)).is_some_and(|(_, to)| to == *host);
            if !ops.is_empty() || is_target {
                ops.insert(0, Op::Unrecord { vm: vm.clone() });
            }
            steps.extend(super::draft::on(host, ops));
        }
        steps
    }
}

impl<'a> Carriage<'a> {
    fn incoming(&self, disk: Disk<'_>) -> DiskStamp {
        let old = &disk.obs.stamp;
        let phase = DiskPhase::Incoming { from: self.from.name.clone() };
        DiskStamp { phase, epoch: old.epoch + 1, expires: None, ..old.clone() }
    }

    fn await_ready(&self) -> Op {
        let probe: Option<Probe> = self.vm.spec.ready.clone();
        let address = self.stamp.probed_at();
        Op::AwaitReady { vm: self.vm.name.clone(), uuid: self.obs.uuid, probe, address }
    }

    /// What the move does to data.
    pub(crate) fn data(&self) -> Vec<DataEffect> {
        let moved = self.cargo.disks.iter().filter(|(name, _)| !self.shared && *name != "seed");
        let effect = DiskFate::Move(self.until);
        moved.map(|(name, d)| DataEffect { disk: (*name).to_owned(), effect, bytes: d.obs.size }).collect()
    }
}

/// Steps in the making, on two hosts.
struct Steps<'c, 'a> {
    c: &'c Carriage<'a>,
    steps: Vec<Step>,
}

impl<'c, 'a> Steps<'c, 'a> {
    const fn new(c: &'c Carriage<'a>) -> Self {
        Self { c, steps: Vec::new() }
    }
    fn to(&mut self, op: Op) {
        self.steps.push(Step { host: self.c.to.name.clone(), op });
    }
    fn from(&mut self, op: Op) {
        self.steps.push(Step { host: self.c.from.name.clone(), op });
    }
    /// Both hosts say that it is under way: whoever sees only one of them looks for the other.
    fn depart(&mut self) {
        let c = self.c;
        let record = flight_of(&c.stamp, (&c.from.name, &c.to.name), c.moves, c.cold);
        self.to(record.clone());
        if !c.shared {
            self.from(record);
        }
    }
    /// The copies become the disks.
    fn promote(&mut self) {
        for (_, disk) in self.c.cargo.disks.iter().filter(|_| !self.c.shared) {
            let stamp = promoted(&disk.obs.stamp, disk.obs.stamp.epoch + 1);
            self.to(Op::StampDisk { path: disk.path.to_owned(), stamp });
        }
    }
    /// The disks become copies.
    fn retire(&mut self) {
        let c = self.c;
        for (name, disk) in c.cargo.disks.iter().filter(|_| !c.shared) {
            let op = if *name == "seed" {
                Op::DeleteDisk { path: disk.path.to_owned(), vm: c.vm.name.clone() }
            } else {
                retire(*disk, &c.from.slots_dir, &c.to.name, c.moves, c.until)
            };
            self.from(op);
        }
    }
    /// It is there. The record that says so is the last step: as long as it is in flight, the rest is not forgotten.
    fn arrive(&mut self) {
        if !self.c.shared {
            self.from(Op::Unrecord { vm: self.c.vm.name.clone() });
        }
        self.to(record_of(&self.c.stamp, &self.c.to.name, self.c.moves));
    }
}
