//! Promises that hold at every step, whoever asked: the world notes each one that is broken.
//!
//! At most one place; no disk open twice, no device given twice; nothing created over something; what is not ours is not touched; capacity;
//! no data lost and no guest stopped that the plan did not name.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::filter::Explained;
use super::world::{SimDomain, SimHost, World};
use crate::model::{Address, Bytes, Desired, DiskPhase, DiskStamp, HostRules, Name, OnRemove};
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
    /// Where the plan says that VMs go.
    pub moved: BTreeMap<Name, Name>,
    /// Milliseconds that the plan promised a guest will stand still at most.
    pub pauses: BTreeMap<Name, u64>,
    /// Actions of moves that are under way, with the two hosts of each.
    pub moving: BTreeMap<Name, BTreeSet<Name>>,
    /// Moves at once that each host allows.
    pub at_once: BTreeMap<Name, u32>,
    /// Hosts that are declared lost, or fenced: what lies there counts no more.
    pub gone: BTreeSet<Name>,
    /// Who may talk to whom.
    pub explained: Explained,
    /// Filters that were set, with the step that did it.
    pub set: Vec<(String, HostRules)>,
}

impl Permit {
    /// What a plan allows before any of its actions begins: room, and nothing else.
    pub fn of(plan: &Plan) -> Self {
        let explained = Explained::of(plan);
        let mut permit = Self { bound: true, fleet: Some(plan.fleet.clone()), explained, ..Self::default() };
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
        let Some(vm) = vm_of(action) else { return };
        self.begun.entry(vm.clone()).or_insert(persistent_root);
        let gone = |fate: &DiskFate| matches!(fate, DiskFate::Delete | DiskFate::Remake);
        let lost = action.impact.data.iter().filter(|d| gone(&d.effect));
        self.lost.extend(lost.map(|d| (vm.clone(), d.disk.clone())));
        let stops = [
            Verb::Stop,
            Verb::Suspend,
            Verb::Reboot,
            Verb::Recreate,
            Verb::Destroy,
            Verb::Move,
            Verb::Quarantine,
            Verb::Build,
        ];
        if stops.contains(&action.verb) || action.impact.class == crate::plan::Class::Reboot {
            self.stopped.insert(vm.clone());
        }
        if let (Verb::Migrate | Verb::Move, Some(to)) = (action.verb, &action.to) {
            self.moved.insert(vm.clone(), to.clone());
            self.pauses.extend(action.transfer.as_ref().map(|t| (vm.clone(), t.pause_millis)));
            self.moving.insert(vm.clone(), action.from.iter().chain([to]).cloned().collect());
        }
    }

    /// What the fleet says of its hosts.
    pub fn of_fleet(&mut self, desired: &Desired) {
        self.at_once = desired.hosts.iter().map(|(n, h)| (n.clone(), h.migration.at_once)).collect();
        self.gone.extend(desired.lost.iter().map(|l| l.host.clone()));
        self.explained.of_fleet(desired);
    }
}

/// The VM that an action is about; a build's is its management instance.
fn vm_of(action: &Action) -> Option<&Name> {
    match (&action.subject, action.verb) {
        (Address::Vm(vm), _) => Some(vm),
        (_, Verb::Build) => action.steps.iter().find_map(|s| match &s.op {
            Op::Capture { vm, .. } => Some(vm),
            _ => None,
        }),
        _ => None,
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
        let vm = vm_of(action);
        let persistent = stamps.filter(|s| Some(&s.vm) == vm).map(|s| s.persistent_root).max();
        self.permit.begin(action, persistent);
        let busy: Vec<(Name, usize)> = self.permit.at_once.keys().map(|h| (h.clone(), self.moves_of(h))).collect();
        for (host, now) in busy {
            let most = self.permit.at_once.get(&host).and_then(|n| usize::try_from(*n).ok()).unwrap_or(usize::MAX);
            if now > most && self.permit.moving.get(action.subject.name()).is_some_and(|m| m.contains(&host)) {
                self.broken(&action.id.to_string(), &format!("{now} moves at once on {host}, {most} are allowed"));
            }
        }
    }

    /// An action is over.
    pub(super) fn over(&mut self, action: &Action) {
        self.permit.moving.remove(action.subject.name());
    }

    /// VMs that come to a host or leave it now.
    fn moves_of(&self, host: &Name) -> usize {
        let ours = self.permit.moving.iter().filter(|(_, hosts)| hosts.contains(host)).map(|(vm, _)| vm);
        let others = self.jobs.iter().filter(|j| !j.source_over && (j.from == *host || j.to == *host)).map(|j| &j.vm);
        ours.chain(others).collect::<BTreeSet<_>>().len()
    }

    /// A move that the plan did not ask for is noted.
    pub(super) fn guard_move(&mut self, step: &Step, vm: &Name, to: &Name) {
        if self.permit.bound && self.permit.moved.get(vm) != Some(to) {
            self.violate(step, &format!("{vm} moves to {to}, and the plan did not say so"));
        }
    }

    /// What a step on another host does to the room of this one.
    pub(super) fn guard_room(&mut self, step: &Step, name: &Name, before: Use) {
        let Some(host) = self.hosts.get(name).filter(|_| !self.unguarded) else { return };
        for what in self.over_capacity(name, host, before) {
            self.violate(step, &what);
        }
    }

    /// A step on a host whose lock we do not hold is noted.
    pub(super) fn guard_lock(&mut self, step: &Step) {
        let fences = matches!(step.op, Op::Fence { .. });
        if !self.permit.bound || fences {
            return;
        }
        for host in std::iter::once(&step.host).chain(step.op.peer()) {
            let there = self.hosts.get(host).filter(|h| h.away.is_none());
            if there.is_some_and(|h| h.lock.as_ref().is_none_or(|l| l.token.starts_with("foreign"))) {
                self.violate(step, &format!("{host} is not locked by us"));
            }
        }
    }

    /// Notes a broken promise.
    pub(super) fn violate(&mut self, step: &Step, what: &str) {
        self.broken(&Self::step_name(step), what);
    }

    /// The same, of something that is not a step.
    pub(super) fn broken(&mut self, who: &str, what: &str) {
        let text = format!("{who}: {what}");
        if !self.violations.contains(&text) {
            self.violations.push(text);
        }
    }

    /// Looks at everything that a step on its host may have broken.
    pub(super) fn guard(&mut self, step: &Step, before: Use) {
        let mut broken = Vec::new();
        if let Some(host) = self.hosts.get(&step.host) {
            broken.extend(disks_open_twice(host));
            broken.extend(super::device::open_twice(host));
            broken.extend(self.over_capacity(&step.host, host, before));
        }
        broken.extend(self.running_twice());
        broken.extend(self.open_on_two_hosts());
        broken.extend(self.given_twice());
        broken.extend(self.guard_filters());
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

    /// VMs of one fleet and name whose guests are alive in two places, also where nobody can look.
    pub(super) fn running_twice(&self) -> Vec<String> {
        let mut seen = BTreeMap::new();
        let mut broken = Vec::new();
        for (name, host) in self.hosts.iter().chain(&self.aside) {
            for stamp in host.active().filter(|(_, d)| d.runs()).filter_map(|(_, d)| d.stamp.as_ref()) {
                if let Some(other) = seen.insert((&stamp.fleet, &stamp.vm), name) {
                    broken.push(format!("{} runs twice: on {other} and on {name}", stamp.vm));
                }
            }
        }
        broken
    }

    /// Planned addresses that two VMs have, also where nobody can look; what lies on a host that is gone counts no more.
    fn given_twice(&self) -> Vec<String> {
        let mut seen: BTreeMap<std::net::IpAddr, (&Name, &Name)> = BTreeMap::new();
        let mut broken = Vec::new();
        let there = self.hosts.iter().chain(&self.aside).filter(|(name, _)| !self.permit.gone.contains(*name));
        for stamp in there.flat_map(|(_, host)| host.domains.values()).filter_map(|d| d.stamp.as_ref()) {
            for address in stamp.nics.values().flat_map(crate::model::NicStamp::addresses) {
                let whose = (&stamp.fleet, &stamp.vm);
                if let Some(other) = seen.insert(address, whose).filter(|other| *other != whose) {
                    broken.push(format!("{} and {} both have {address}", other.1, stamp.vm));
                }
            }
        }
        broken
    }

    /// Files of a shared storage that guests on two hosts have open for writing.
    pub(super) fn open_on_two_hosts(&self) -> Vec<String> {
        let mut seen: BTreeMap<(&Name, &String), (&Name, &String)> = BTreeMap::new();
        let mut broken = Vec::new();
        for (name, host) in &self.hosts {
            let Some(storage) = &host.shared else { continue };
            for (domain, path) in
                host.active().filter(|(_, d)| d.runs()).flat_map(|(_, d)| d.writable().map(move |p| (d, p)))
            {
                if let Some((other, whose)) =
                    seen.insert((storage, path), (name, &domain.name)).filter(|(o, _)| *o != name)
                {
                    broken.push(format!("{path} is open in {whose} on {other} and in {} on {name}", domain.name));
                }
            }
        }
        broken
    }

    /// A guest comes to its disks: they must be the disks, and as new as any guest of this VM has seen them. `arrives`:
    /// with a migration, into copies that are still stamped as incoming.
    pub(super) fn guard_data_of(&mut self, who: &str, host: &Name, uuid: Uuid, arrives: bool) {
        if self.unguarded {
            return;
        }
        let mut broken = Vec::new();
        let there = self.hosts.get(host);
        let paths = there.and_then(|h| h.domains.get(&uuid)).into_iter().flat_map(SimDomain::writable);
        for (path, file) in paths.filter_map(|p| Some((p, there?.disks.get(p)?))) {
            let Some(stamp) = &file.stamp else { continue };
            match &stamp.phase {
                DiskPhase::Incoming { .. } if arrives => {}
                DiskPhase::Valid => {}
                DiskPhase::Incoming { .. } => {
                    broken.push(format!("{path} is started from, and it is an incoming copy"));
                }
                DiskPhase::Moved { to } => broken.push(format!("{path} is started from, and it was moved to {to}")),
            }
            let key = (stamp.vm.clone(), stamp.disk.clone(), stamp.incarnation);
            let Some((content, writes)) = self.newest.get(&key).copied() else { continue };
            let older = file.content == content && file.writes < writes;
            let other = file.content != content && self.may_not_be_other(stamp);
            if (older || other) && self.lies_somewhere(content, writes) {
                broken.push(format!("{} of {} goes back: its newest state is elsewhere", stamp.disk, stamp.vm));
            }
        }
        for what in broken {
            self.broken(who, &what);
        }
    }

    /// Whether a disk may not have been made anew by what the plan said.
    fn may_not_be_other(&self, stamp: &DiskStamp) -> bool {
        let named = self.permit.lost.contains(&(stamp.vm.clone(), stamp.disk.clone()));
        let returns = stamp.disk == "root" && self.permit.begun.get(&stamp.vm) == Some(&Some(false));
        !named && !returns
    }

    /// Whether a content, as new as this, is on a host that counts.
    fn lies_somewhere(&self, content: u64, writes: u64) -> bool {
        let counts = self.hosts.iter().chain(&self.aside).filter(|(n, _)| !self.permit.gone.contains(*n));
        counts.flat_map(|(_, h)| h.disks.values()).any(|d| d.content == content && d.writes >= writes)
    }

    /// A guest has its disks open: that is their newest state.
    pub(super) fn note_data(&mut self, host: &Name, uuid: Uuid) {
        let Some(there) = self.hosts.get(host) else { return };
        let paths = there.domains.get(&uuid).into_iter().flat_map(SimDomain::writable);
        for file in paths.filter_map(|p| there.disks.get(p)) {
            if let Some(stamp) = &file.stamp {
                let key = (stamp.vm.clone(), stamp.disk.clone(), stamp.incarnation);
                self.newest.insert(key, (file.content, file.writes));
            }
        }
    }

    /// Whether data may be lost here; notes it when not.
    pub(super) fn guard_data(&mut self, step: &Step, stamp: &DiskStamp, content: u64, writes: u64) {
        let (vm, disk) = (&stamp.vm, &stamp.disk);
        // Of a disk that moved, or was on its way, another copy is as new.
        if self.lies_somewhere(content, writes) {
            return;
        }
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
        | Op::StayReady { uuid, .. }
        | Op::Stop { uuid, .. }
        | Op::Suspend { uuid, .. }
        | Op::SetMemory { uuid, .. }
        | Op::SetCpus { uuid, .. }
        | Op::GrowDisk { uuid, .. }
        | Op::AttachDevice { uuid, .. }
        | Op::DetachDevice { uuid, .. }
        | Op::Migrate { uuid, .. }
        | Op::AbortJob { uuid, .. }
        | Op::DropRemnant { uuid, .. }
        | Op::Announce { uuid, .. }
        | Op::Generalise { uuid, .. }
        | Op::Capture { uuid, .. }
        | Op::GuestRun { uuid, .. }
        | Op::GuestFile { uuid, .. }
        | Op::Undefine { uuid, .. } => Some(*uuid),
        Op::PutImage { .. }
        | Op::MarkImage { .. }
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
        | Op::SetRules { .. }
        | Op::Define { .. } => None,
    }
}
