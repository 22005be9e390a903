//! Promises that hold at every step, whoever asked: the world notes each one that is broken.
//!
//! At most one place; no disk open twice; nothing created over something; what is not ours is not touched; capacity;
//! no data lost and no guest stopped that the plan did not name.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::world::{SimHost, World};
use crate::model::{Address, Bytes, DiskStamp, Name, OnRemove};
use crate::plan::{Action, DiskFate, Op, Plan, Step, Verb};

/// What the actions that began say they do to somebody: the world holds their steps to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// False: no plan in hand (steps driven by hand); nothing is held to it.
    pub bound: bool,
    /// The fleet: what carries another one's stamp is not ours either.
    pub fleet: Option<Name>,
    /// Disks whose data the plan says is deleted or made anew: VM and disk.
    pub lost: BTreeSet<(Name, String)>,
    /// VMs on which an action began, and whether their root disk was data then, as far as a domain said: one that is
    /// not may be made anew by it.
    pub begun: BTreeMap<Name, Option<bool>>,
    /// VMs that the plan says are stopped.
    pub stopped: BTreeSet<Name>,
    /// Domains that are not ours yet, and are adopted.
    pub adopted: BTreeSet<Uuid>,
    /// What each host may promise: memory and slots.
    pub room: BTreeMap<Name, (Bytes, u64)>,
}

impl Permit {
    /// What a plan allows before any of its actions begins: room, and nothing else.
    pub fn of(plan: &Plan) -> Self {
        let mut permit = Self { bound: true, fleet: Some(plan.fleet.clone()), ..Self::default() };
        for host in plan.hosts.iter().filter(|h| h.known) {
            let memory = Bytes::mib(host.memory_mib.capacity);
            permit.room.insert(host.host.clone(), (memory, host.slots.capacity));
        }
        permit
    }

    /// An action begins: from now on it may do what it says.
    fn begin(&mut self, action: &Action, persistent_root: Option<bool>) {
        if action.verb == Verb::Adopt {
            self.adopted.extend(action.steps.iter().filter_map(|s| domain_of(&s.op)));
        }
        let Address::Vm(vm) = &action.subject else { return };
        self.begun.entry(vm.clone()).or_insert(persistent_root);
        let gone = |fate: &DiskFate| matches!(fate, DiskFate::Delete | DiskFate::Remake);
        let lost = action.impact.data.iter().filter(|d| gone(&d.effect));
        self.lost.extend(lost.map(|d| (vm.clone(), d.disk.clone())));
        if matches!(action.verb, Verb::Stop | Verb::Suspend | Verb::Reboot | Verb::Recreate | Verb::Destroy) {
            self.stopped.insert(vm.clone());
        }
    }
}

/// What a host uses, to tell who made it worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    memory: Bytes,
    slots: u64,
}

impl Use {
    pub(super) fn of(host: &SimHost) -> Self {
        let slots = host.active().filter(|(_, d)| d.stamp.is_some()).count();
        Self { memory: host.memory_in_use(), slots: u64::try_from(slots).unwrap_or(u64::MAX) }
    }
}

impl World {
    /// An action begins: from now on it may do what it says.
    pub(super) fn begin(&mut self, action: &Action) {
        let stamps = self.hosts.values().flat_map(|h| h.domains.values()).filter_map(|d| d.stamp.as_ref());
        let persistent = stamps.filter(|s| s.vm == *action.subject.name()).map(|s| s.persistent_root).max();
        self.permit.begin(action, persistent);
    }

    /// Notes a broken promise.
    pub(super) fn violate(&mut self, step: &Step, what: &str) {
        let text = format!("{}: {what}", Self::step_name(step));
        if !self.violations.contains(&text) {
            self.violations.push(text);
        }
    }

    /// Looks at everything that a step on its host may have broken.
    pub(super) fn guard(&mut self, step: &Step, before: Use) {
        let mut broken = Vec::new();
        if let Some(host) = self.hosts.get(&step.host) {
            broken.extend(disks_open_twice(host));
            broken.extend(self.over_capacity(&step.host, host, before));
        }
        broken.extend(self.running_twice());
        for what in broken {
            self.violate(step, &what);
        }
    }

    fn over_capacity(&self, name: &Name, host: &SimHost, before: Use) -> Vec<String> {
        let Some((memory, slots)) = self.permit.room.get(name) else { return Vec::new() };
        let now = Use::of(host);
        let mut broken = Vec::new();
        if now.memory > *memory && now.memory > before.memory {
            broken.push(format!("memory of {name} is {} of {memory}", now.memory));
        }
        if now.slots > *slots && now.slots > before.slots {
            broken.push(format!("{} of {slots} slots of {name} are used", now.slots));
        }
        broken
    }

    /// VMs of one fleet and name that are active in two places.
    pub(super) fn running_twice(&self) -> Vec<String> {
        let mut seen = BTreeMap::new();
        let mut broken = Vec::new();
        for (name, host) in &self.hosts {
            for stamp in host.active().filter_map(|(_, d)| d.stamp.as_ref()) {
                if let Some(other) = seen.insert((&stamp.fleet, &stamp.vm), name) {
                    broken.push(format!("{} runs twice: on {other} and on {name}", stamp.vm));
                }
            }
        }
        broken
    }

    /// Whether data may be lost here; notes it when not.
    pub(super) fn guard_data(&mut self, step: &Step, stamp: &DiskStamp, writes: u64) {
        let (vm, disk) = (&stamp.vm, &stamp.disk);
        let named = self.permit.lost.contains(&(vm.clone(), disk.clone()));
        let is_data = match disk.as_str() {
            "seed" => false,
            "root" => match self.permit.begun.get(vm) {
                None | Some(Some(true)) => true,
                Some(Some(false)) => false,
                Some(None) => stamp.on_remove != OnRemove::Delete,
            },
            _ => true,
        };
        if self.permit.bound && writes > 0 && is_data && !named {
            self.violate(step, &format!("data of {vm}/{disk} is lost, and the plan did not say so"));
        }
    }

    /// Whether a guest may be stopped here; notes it when not.
    pub(super) fn guard_stop(&mut self, step: &Step, vm: &Name) {
        if self.permit.bound && !self.permit.stopped.contains(vm) {
            self.violate(step, &format!("{vm} is stopped, and the plan did not say so"));
        }
    }
}

fn disks_open_twice(host: &SimHost) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut broken = Vec::new();
    for (_, domain) in host.active() {
        let disks = domain.live.iter().flat_map(|l| l.disks.values()).filter(|d| !d.readonly);
        for disk in disks {
            if let Some(other) = seen.insert(&disk.path, &domain.name) {
                broken.push(format!("{} is open in {other} and in {}", disk.path, domain.name));
            }
        }
    }
    broken
}

/// The domain that a step is about.
pub(super) fn domain_of(op: &Op) -> Option<Uuid> {
    match op {
        Op::Edit { uuid, .. }
        | Op::Unstamp { uuid, .. }
        | Op::Start { uuid, .. }
        | Op::AwaitReady { uuid, .. }
        | Op::Stop { uuid, .. }
        | Op::Suspend { uuid, .. }
        | Op::SetMemory { uuid, .. }
        | Op::SetCpus { uuid, .. }
        | Op::GrowDisk { uuid, .. }
        | Op::Migrate { uuid, .. }
        | Op::AbortJob { uuid, .. }
        | Op::DropRemnant { uuid, .. }
        | Op::Announce { uuid, .. }
        | Op::Undefine { uuid, .. } => Some(*uuid),
        Op::PutImage { .. }
        | Op::DropImage { .. }
        | Op::MakeBridge { .. }
        | Op::RemoveBridge { .. }
        | Op::Record { .. }
        | Op::Unrecord { .. }
        | Op::MakeDisk(_)
        | Op::MakeSeed { .. }
        | Op::StampDisk { .. }
        | Op::RetainDisk { .. }
        | Op::DeleteDisk { .. }
        | Op::CopyDisk { .. }
        | Op::CopyImage { .. }
        | Op::CopySave { .. }
        | Op::DefineFrom { .. }
        | Op::RetireDisk { .. }
        | Op::Fence { .. }
        | Op::Define { .. } => None,
    }
}
