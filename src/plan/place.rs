//! Placement: filter the hosts by the rules, take the one with most room, and be able to say why.
//!
//! Scores are integers, ties go to the first host by name: the same on every machine. Hosts are kept in order of
//! score, so that placing a VM looks at few of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::types::Triple;
use super::world::{HostView, World};
use crate::model::{
    Bytes, Demand, Desired, Group, Host, Layer, Maintenance, NEWEST_MACHINE, Name, RunState, Vm, Weights,
};

/// What a VM takes of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Virtual processors.
    pub(crate) cpus: u64,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Slots.
    pub(crate) slots: u64,
}

impl Need {
    /// What a desired VM takes in a state: a suspended one frees its slot, a stopped one keeps only its slot.
    pub(crate) fn of(vm: &Vm, run: RunState) -> Self {
        Self::sized(vm.spec.cpus, vm.spec.memory, run)
    }
    /// Whether it is that of a VM which runs.
    pub(crate) const fn runs(self) -> bool {
        self.cpus > 0
    }
    /// The same for given sizes.
    pub(crate) fn sized(cpus: u32, memory: Bytes, run: RunState) -> Self {
        match run {
            RunState::Started => Self { cpus: u64::from(cpus), memory: memory.0, slots: 1 },
            RunState::Stopped => Self { slots: 1, ..Self::default() },
            RunState::Suspended => Self::default(),
        }
    }
}

/// A host's room, as it fills up.
#[derive(Clone, Debug)]
pub(crate) struct Room<'a> {
    /// The host.
    pub(crate) host: &'a Host,
    view: HostView<'a>,
    /// What may be promised.
    pub(crate) capacity: Need,
    /// What is promised after the plan.
    pub(crate) used: Need,
    score: i64,
    /// What is promised for later, and to whom.
    held: Need,
    held_for: Option<Arc<str>>,
    /// Whether somebody asked by hand that it be emptied.
    drained: bool,
}

/// Why a host was not taken, or its score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It could take the VM; more is better.
    Score(i64),
    /// It could not, and why.
    Rejected(String),
}

/// A host's answer to `why vm/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostScore {
    /// The host.
    pub host: Name,
    /// Its score, or why not.
    pub verdict: Verdict,
    /// Whether it was taken.
    pub chosen: bool,
}

/// Puts VMs on hosts.
#[derive(Clone, Debug)]
pub(crate) struct Placer<'a> {
    /// Hosts in order of name.
    pub(crate) rooms: Vec<Room<'a>>,
    index: BTreeMap<&'a Name, usize>,
    by_score: BTreeSet<(Reverse<i64>, usize)>,
    weights: [i64; 4],
    dearest: u64,
    /// How many VMs of a group each host has.
    groups: BTreeMap<Arc<str>, BTreeMap<usize, u32>>,
    /// Who has which device of which host.
    given: BTreeMap<(usize, Name), String>,
    /// Groups that may not meet, both ways.
    apart: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The VM whose scores are wanted, and what was found.
    pub(crate) trace: Option<(Name, Vec<HostScore>)>,
}

impl<'a> Placer<'a> {
    /// Empty hosts, but for what is not ours.
    pub(crate) fn new(desired: &'a Desired, demand: &Demand, world: &World<'a>, trace: Option<Name>) -> Self {
        let Weights { memory, cpu, slots, cost } = desired.fleet.weights;
        let mut placer = Self {
            rooms: Vec::with_capacity(desired.hosts.len()),
            index: BTreeMap::new(),
            by_score: BTreeSet::new(),
            weights: [memory, cpu, slots, cost].map(milli),
            dearest: desired.hosts.values().map(|h| h.cost_cpu_hour_milli).max().unwrap_or(0).max(1),
            groups: BTreeMap::new(),
            given: BTreeMap::new(),
            apart: BTreeMap::new(),
            trace: trace.map(|vm| (vm, Vec::new())),
        };
        for (key, group) in &desired.groups {
            for other in &group.separate_from {
                placer.apart.entry(key.clone()).or_default().insert(other.clone());
                placer.apart.entry(other.clone()).or_default().insert(key.clone());
            }
        }
        for (number, (name, host)) in desired.hosts.iter().enumerate() {
            let view = world.hosts.get(name).copied().unwrap_or(HostView::Assumed);
            let capacity = capacity(host, view);
            let mut used = Need::default();
            for foreign in view.known().map(|k| k.unmanaged.as_slice()).unwrap_or_default() {
                if foreign.power.is_active() {
                    used.cpus += u64::from(foreign.shape.cpus);
                    used.memory += foreign.shape.memory.0;
                }
            }
            let drained = demand.drains.contains_key(name);
            placer.rooms.push(Room {
                host,
                view,
                capacity,
                used,
                score: 0,
                held: Need::default(),
                held_for: None,
                drained,
            });
            placer.index.insert(name, number);
            placer.rescore(number);
        }
        placer
    }

    /// The room of a host.
    fn room(&self, host: &Name) -> Option<&Room<'a>> {
        self.index.get(host).map(|n| &self.rooms[*n])
    }

    /// Counts a VM that is where it is.
    pub(crate) fn occupy(&mut self, host: &Name, group: &Arc<str>, need: Need) {
        let Some(&number) = self.index.get(host) else { return };
        self.put(number, group, need);
    }

    /// Notes that a device of a host is given: to `vm/NAME`, or to somebody else.
    pub(crate) fn give(&mut self, host: &Name, device: &Name, who: String) {
        if let Some(&number) = self.index.get(host) {
            self.given.insert((number, device.clone()), who);
        }
    }

    /// Counts more of a VM that is there already.
    ///
    /// # Errors
    /// What is short, when it does not fit.
    pub(crate) fn grow(&mut self, host: &Name, more: Need) -> Result<(), String> {
        let Some(&number) = self.index.get(host) else { return Ok(()) };
        let free = self.rooms[number].free();
        if more.slots > free.slots {
            return Err("no slots left".to_owned());
        }
        if more.memory > free.memory {
            return Err(format!("memory is short by {}", Bytes(more.memory - free.memory)));
        }
        if more.cpus > free.cpus {
            return Err(format!("processors are short by {}", more.cpus - free.cpus));
        }
        let used = &mut self.rooms[number].used;
        used.cpus += more.cpus;
        used.memory += more.memory;
        used.slots += more.slots;
        self.rescore(number);
        Ok(())
    }

    /// Chooses a host for a VM and counts it there.
    ///
    /// # Errors
    /// Every host with the reason why it was rejected.
    pub(crate) fn choose(
        &mut self,
        vm: &Vm,
        group: &Group,
        only: Option<&Name>,
        need: Need,
    ) -> Result<&'a Name, Vec<(&'a Name, String)>> {
        if self.trace.as_ref().is_some_and(|(name, _)| *name == vm.name) {
            self.explain(vm, group, only, need);
        }
        let taken = self.groups.get(&vm.group);
        let must_be_new = self.must_be_new(vm, group);
        let mut best: Option<(u32, usize)> = None;
        for &(_, number) in &self.by_score {
            if self.reject(number, vm, group, only, need).is_some() {
                continue;
            }
            let here = taken.and_then(|t| t.get(&number)).copied().unwrap_or(0);
            if must_be_new && here > 0 {
                continue;
            }
            // Among equals in rules, the host with the fewest of the group: replicas spread by themselves.
            if best.is_none_or(|(count, _)| here < count) {
                best = Some((here, number));
            }
            if here == 0 {
                break;
            }
        }
        let Some((_, number)) = best else {
            let why = |n: usize| {
                self.reject(n, vm, group, only, need).unwrap_or_else(|| {
                    format!("has one of {} already, and {} hosts are wanted", vm.group, group.min_hosts)
                })
            };
            return Err((0..self.rooms.len()).map(|n| (&self.rooms[n].host.name, why(n))).collect());
        };
        let name = &self.rooms[number].host.name;
        if let Some((wanted, rows)) = &mut self.trace
            && *wanted == vm.name
        {
            for row in rows.iter_mut() {
                row.chosen = row.host == *name;
            }
        }
        if need.runs() {
            let devices = vm.spec.devices.values();
            self.given.extend(devices.map(|device| ((number, device.clone()), format!("vm/{}", vm.name))));
        }
        self.put(number, &vm.group, need);
        Ok(name)
    }

    /// Notes every host's score or rejection for `why`.
    pub(crate) fn explain(&mut self, vm: &Vm, group: &Group, only: Option<&Name>, need: Need) {
        let row = |n: usize| {
            let verdict = match self.reject(n, vm, group, only, need) {
                Some(why) => Verdict::Rejected(why),
                None => Verdict::Score(self.rooms[n].score),
            };
            HostScore { host: self.rooms[n].host.name.clone(), verdict, chosen: only == Some(&self.rooms[n].host.name) }
        };
        let rows = (0..self.rooms.len()).map(row).collect();
        self.trace = Some((vm.name.clone(), rows));
    }

    /// Why a host cannot take a VM, if so.
    fn reject(&self, number: usize, vm: &Vm, group: &Group, only: Option<&Name>, need: Need) -> Option<String> {
        let room = &self.rooms[number];
        let host = room.host;
        let rule = &vm.spec.placement;
        if let Some(only) = only
            && *only != host.name
            && !self.room(only).is_some_and(|r| r.host.shared.is_some() && r.host.shared == host.shared)
        {
            return Some(format!("its disks are on {only}"));
        }
        match (vm.spec.layer, host.layer()) {
            (Layer::Qemu, Layer::Lxc) => return Some("runs containers only".to_owned()),
            (Layer::Lxc, Layer::Qemu) => return Some("runs virtual machines only".to_owned()),
            (Layer::Qemu, Layer::Qemu) | (Layer::Lxc, Layer::Lxc) => {}
        }
        if rule.host.as_ref().is_some_and(|pin| *pin != host.name) {
            return Some("another host is pinned".to_owned());
        }
        match room.view {
            HostView::Unknown => return Some("Unknown".to_owned()),
            HostView::Lost => return Some("declared lost".to_owned()),
            HostView::Known(_) | HostView::Assumed => {}
        }
        match host.maintenance {
            Maintenance::None if room.drained => return Some("being drained".to_owned()),
            Maintenance::None => {}
            Maintenance::Cordon => return Some("cordoned".to_owned()),
            Maintenance::Drain(_) => return Some("being drained".to_owned()),
        }
        if let Some((key, value)) = rule.labels.iter().find(|(k, v)| host.labels.get(*k) != Some(v)) {
            return Some(format!("label {key} is not {value}"));
        }
        if host.security < rule.security {
            return Some("its security level is too low".to_owned());
        }
        for device in vm.spec.devices.values() {
            if !host.devices.contains_key(device) {
                return Some(format!("has no device {device}"));
            }
            // One that does not run has none.
            let holder = self.given.get(&(number, device.clone())).filter(|_| need.runs());
            if let Some(holder) = holder.filter(|who| who.strip_prefix("vm/") != Some(vm.name.as_str())) {
                return Some(format!("{device} is given to {holder}"));
            }
        }
        let machines = room.view.known().map(|k| k.machines.as_slice()).unwrap_or_default();
        let machine = &vm.spec.machine;
        if !machines.is_empty() && **machine != *NEWEST_MACHINE && !machines.iter().any(|m| **m == **machine) {
            return Some(format!("its QEMU has no machine type {machine}"));
        }
        if let Some(short) = room.short_of(need) {
            return Some(short);
        }
        let here = |key: &Arc<str>| self.groups.get(key).and_then(|g| g.get(&number)).copied().unwrap_or(0);
        if group.max_per_host.is_some_and(|most| here(&vm.group) >= most) {
            return Some(format!("has {} of {} already", here(&vm.group), vm.group));
        }
        if let Some(other) = self.apart.get(&vm.group).into_iter().flatten().find(|other| here(other) > 0) {
            return Some(format!("has one of {other}, which must be separate"));
        }
        None
    }

    /// Whether the next of a group must be on a host that has none of it, for enough hosts to have one.
    fn must_be_new(&self, vm: &Vm, group: &Group) -> bool {
        let taken = self.groups.get(&vm.group);
        let distinct = taken.map_or(0, BTreeMap::len);
        let members: u32 = taken.map_or(0, |t| t.values().sum());
        let left = u32::try_from(group.vms.len()).unwrap_or(u32::MAX).saturating_sub(members);
        let missing = group.min_hosts.saturating_sub(u32::try_from(distinct).unwrap_or(u32::MAX));
        missing > 0 && left <= missing
    }

    /// Every host that could take a VM, best first; the others with the reason.
    pub(crate) fn candidates(
        &self,
        vm: &Vm,
        group: &Group,
        only: Option<&Name>,
        need: Need,
    ) -> (Vec<&'a Host>, Vec<(&'a Name, String)>) {
        let taken = self.groups.get(&vm.group);
        let must_be_new = self.must_be_new(vm, group);
        let (mut fit, mut not) = (Vec::new(), Vec::new());
        for &(_, number) in &self.by_score {
            let here = taken.and_then(|t| t.get(&number)).copied().unwrap_or(0);
            let why = self.reject(number, vm, group, only, need);
            let spread = || format!("has one of {} already, and {} hosts are wanted", vm.group, group.min_hosts);
            match why.or_else(|| (must_be_new && here > 0).then(spread)) {
                Some(why) => not.push((number, why)),
                None => fit.push((here, number)),
            }
        }
        fit.sort_by_key(|(here, _)| *here);
        not.sort_unstable();
        let host = |number: usize| self.rooms[number].host;
        (fit.into_iter().map(|(_, n)| host(n)).collect(), not.into_iter().map(|(n, w)| (&host(n).name, w)).collect())
    }

    /// Keeps room for later, of each host in order; none at all without hosts.
    pub(crate) fn hold(&mut self, rooms: &[(Need, Option<Arc<str>>)]) {
        for number in 0..self.rooms.len() {
            let (held, whom) = rooms.get(number).cloned().unwrap_or_default();
            let room = &mut self.rooms[number];
            room.held_for = whom;
            if room.held != held {
                room.held = held;
                self.rescore(number);
            }
        }
    }

    /// Takes the devices of a VM back.
    pub(crate) fn take_back(&mut self, vm: &Name) {
        if !self.given.is_empty() {
            self.given.retain(|_, who| who.strip_prefix("vm/") != Some(vm.as_str()));
        }
    }

    /// Takes back what a VM has grown by.
    pub(crate) fn shrink(&mut self, host: &Name, less: Need) {
        let Some(&number) = self.index.get(host) else { return };
        let used = &mut self.rooms[number].used;
        used.cpus = used.cpus.saturating_sub(less.cpus);
        used.memory = used.memory.saturating_sub(less.memory);
        used.slots = used.slots.saturating_sub(less.slots);
        self.rescore(number);
    }

    /// Takes a VM away from where it is counted.
    pub(crate) fn release(&mut self, host: &Name, group: &Arc<str>, need: Need) {
        let Some(&number) = self.index.get(host) else { return };
        let used = &mut self.rooms[number].used;
        used.cpus = used.cpus.saturating_sub(need.cpus);
        used.memory = used.memory.saturating_sub(need.memory);
        used.slots = used.slots.saturating_sub(need.slots);
        if let Some(hosts) = self.groups.get_mut(group) {
            match hosts.get_mut(&number) {
                Some(1) => drop(hosts.remove(&number)),
                Some(count) => *count -= 1,
                None => {}
            }
            if hosts.is_empty() {
                self.groups.remove(group);
            }
        }
        self.rescore(number);
    }

    /// Counts what a move or a lost host left behind of a VM: room, and no member of its group.
    pub(crate) fn burden(&mut self, host: &Name, need: Need) {
        let Some(&number) = self.index.get(host) else { return };
        let used = &mut self.rooms[number].used;
        used.cpus += need.cpus;
        used.memory += need.memory;
        used.slots += need.slots;
        self.rescore(number);
    }

    /// What a host has left.
    pub(crate) fn free(&self, host: &Name) -> Need {
        self.room(host).map(Room::free).unwrap_or_default()
    }

    /// Whether a host is short of nothing but room for a VM.
    pub(crate) fn would_fit(&self, host: &Name, vm: &Vm, group: &Group) -> bool {
        let Some(&number) = self.index.get(host) else { return false };
        self.reject(number, vm, group, None, Need::default()).is_none()
    }

    /// Whether a VM may stand on a host on its way to the one that it is pinned to: every rule but the pin holds there too.
    pub(crate) fn would_pass(&self, host: &Name, vm: &Vm, group: &Group) -> bool {
        if vm.spec.placement.host.is_none() {
            return self.would_fit(host, vm, group);
        }
        let mut spec = vm.spec.as_ref().clone();
        spec.placement.host = None;
        self.would_fit(host, &Vm { spec: Arc::new(spec), ..vm.clone() }, group)
    }

    /// How many of a group each host has, hosts in order of name.
    pub(crate) fn spread(&self, key: &Arc<str>) -> Vec<(&'a Name, u32)> {
        let hosts = self.groups.get(key).into_iter().flatten();
        hosts.map(|(number, count)| (&self.rooms[*number].host.name, *count)).collect()
    }

    /// Groups that may not share a host with one.
    pub(crate) fn foes(&self, key: &Arc<str>) -> Vec<Arc<str>> {
        self.apart.get(key).into_iter().flatten().cloned().collect()
    }

    fn put(&mut self, number: usize, group: &Arc<str>, need: Need) {
        let room = &mut self.rooms[number];
        room.used.cpus += need.cpus;
        room.used.memory += need.memory;
        room.used.slots += need.slots;
        match self.groups.get_mut(group) {
            Some(hosts) => *hosts.entry(number).or_default() += 1,
            None => {
                self.groups.insert(group.clone(), BTreeMap::from([(number, 1)]));
            }
        }
        self.rescore(number);
    }

    fn rescore(&mut self, number: usize) {
        let room = &self.rooms[number];
        self.by_score.remove(&(Reverse(room.score), number));
        let free = room.free();
        let part =
            |free: u64, of: u64| i64::try_from(u128::from(free) * 1_000_000 / u128::from(of.max(1))).unwrap_or(0);
        let cost = part(room.host.cost_cpu_hour_milli, self.dearest);
        let parts = [
            part(free.memory, room.capacity.memory),
            part(free.cpus, room.capacity.cpus),
            part(free.slots, room.capacity.slots),
            -cost,
        ];
        let score = parts.iter().zip(self.weights).map(|(p, w)| p * w / 1000).sum();
        self.rooms[number].score = score;
        self.by_score.insert((Reverse(score), number));
    }

    /// Broken rules of a group as it is placed now, as sentences.
    pub(crate) fn broken(&self, key: &Arc<str>, group: &Group) -> Vec<String> {
        let mut broken = Vec::new();
        let Some(hosts) = self.groups.get(key) else { return broken };
        let members: u32 = hosts.values().sum();
        let wanted = group.min_hosts.min(members);
        if u32::try_from(hosts.len()).unwrap_or(u32::MAX) < wanted {
            broken.push(format!("{key} is on {} host(s), {wanted} are wanted", hosts.len()));
        }
        if let Some(most) = group.max_per_host {
            for (number, count) in hosts.iter().filter(|(_, count)| **count > most) {
                broken
                    .push(format!("{} has {count} of {key}, at most {most} are wanted", self.rooms[*number].host.name));
            }
        }
        for other in self.apart.get(key).into_iter().flatten().filter(|other| *key < **other) {
            let Some(others) = self.groups.get(other) else { continue };
            for number in hosts.keys().filter(|n| others.contains_key(n)) {
                broken.push(format!("{key} and {other} meet on {}", self.rooms[*number].host.name));
            }
        }
        broken
    }
}

impl Room<'_> {
    fn free(&self) -> Need {
        self.beside(self.held)
    }

    /// What is left beside what is used and something else.
    fn beside(&self, other: Need) -> Need {
        Need {
            cpus: self.capacity.cpus.saturating_sub(self.used.cpus + other.cpus),
            memory: self.capacity.memory.saturating_sub(self.used.memory + other.memory),
            slots: self.capacity.slots.saturating_sub(self.used.slots + other.slots),
        }
    }

    /// What it has too little of, if so.
    fn short_of(&self, need: Need) -> Option<String> {
        let (free, all) = (self.free(), self.beside(Need::default()));
        let short = if need.slots > free.slots {
            ("no slots left".to_owned(), need.slots > all.slots)
        } else if need.memory > free.memory {
            (format!("memory is short by {}", Bytes(need.memory - free.memory)), need.memory > all.memory)
        } else if need.cpus > free.cpus {
            (format!("processors are short by {}", need.cpus - free.cpus), need.cpus > all.cpus)
        } else {
            return None;
        };
        match (short, &self.held_for) {
            ((text, false), Some(whom)) => Some(format!("{text}: what is left is promised to {whom}")),
            ((text, _), _) => Some(text),
        }
    }
    /// Figures for the plan's table of hosts: processors, MiB, slots.
    pub(crate) fn triples(&self, before: Need, after: Need) -> (Triple, Triple, Triple) {
        let mib = |bytes: u64| bytes >> 20;
        (
            Triple { before: before.cpus, after: after.cpus, capacity: self.capacity.cpus },
            Triple { before: mib(before.memory), after: mib(after.memory), capacity: mib(self.capacity.memory) },
            Triple { before: before.slots, after: after.slots, capacity: self.capacity.slots },
        )
    }
}

/// What a host may promise: its size (the document's, else the observed one) less the reserve, times overcommit.
fn capacity(host: &Host, view: HostView<'_>) -> Need {
    let known = view.known();
    let cpus = host.cpus.or(known.map(|k| k.cpus)).unwrap_or(u32::from(u16::MAX));
    let memory = host.memory.or(known.map(|k| k.memory)).unwrap_or(Bytes::gib(1 << 20));
    let scale =
        |value: u64, milli: u32| u64::try_from(u128::from(value) * u128::from(milli) / 1000).unwrap_or(u64::MAX);
    Need {
        cpus: scale(u64::from(cpus.saturating_sub(host.reserve_cpus)), host.overcommit_cpu_milli),
        memory: scale(memory.0.saturating_sub(host.reserve_memory.0), host.overcommit_memory_milli),
        slots: u64::from(host.slots),
    }
}

/// A weight in thousandths, 0 to 1,000,000.
fn milli(weight: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 0..=1e9 just before")]
    let milli = (weight * 1000.0).clamp(0.0, 1e9) as i64;
    milli
}
