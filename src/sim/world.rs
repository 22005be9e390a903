//! The world's data: hosts with domains, disks, images, bridges, records and locks; and its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::faults::Fault;
use super::guard::Permit;
use super::happen::Event;
use super::jobs::{MoveJob, Stage};
use super::ledger::Memory;
use crate::model::{
    Acceleration, BridgeObs, Bytes, Desired, DiskStamp, Host, LinkObs, LockHolder, Mac, Name, Observation, Observed,
    PauseCause, PlacementRecord, Power, RootUse, Shape, Stamp, Timestamp,
};
use crate::plan::Step;

/// The moment at which every simulation begins: 2027-01-15T08:00:00Z.
pub const EPOCH: Timestamp = Timestamp(1_800_000_000);

/// Namespace of the UUIDs of simulated hosts.
const HOSTS: Uuid = Uuid::from_u128(0x51b0_0000_0000_0000_0000_0000_0000_0001);

/// The processor of a host when nothing else was said.
pub(super) const CPU: &str = "simulated";

/// How large a simulated host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSize {
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// Bytes where slots and images live.
    pub disk: Bytes,
}

impl Default for HostSize {
    /// A small server: 16 processors, 32 GiB, 1 TiB.
    fn default() -> Self {
        Self { cpus: 16, memory: Bytes::gib(32), disk: Bytes::gib(1024) }
    }
}

/// How a guest behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Milliseconds from start to ready; `None`: never.
    pub boot_millis: Option<u64>,
    /// Milliseconds that a shutdown takes; `None`: it ignores the request.
    pub shutdown_millis: Option<u64>,
    /// Whether it gives and takes memory and processors when asked.
    pub cooperates: bool,
    /// Whether an agent answers in it, once it is ready.
    pub agent: bool,
    /// Whether programs that are run in it fail.
    pub refuses: bool,
    /// Whether it writes to its memory slower than a link carries: else its memory never is at the target.
    pub converges: bool,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            boot_millis: Some(5_000),
            shutdown_millis: Some(2_000),
            cooperates: true,
            agent: true,
            refuses: false,
            converges: true,
        }
    }
}

/// A disk file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimDisk {
    /// Its stamp file, when there is one.
    pub stamp: Option<DiskStamp>,
    /// Size that the guest sees.
    pub size: Bytes,
    /// Bytes used on the host.
    pub used: Bytes,
    /// The image under an overlay.
    pub backing: Option<String>,
    /// Identity of the content: a number given once to each disk that is made, kept as long as its data lives.
    pub content: u64,
    /// How many boots have written to it. A disk with writes holds something that somebody would miss.
    pub writes: u64,
    /// What was done inside the guest that it is the root disk of.
    pub inside: Inside,
}

/// A domain: ours when it has a stamp, else somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimDomain {
    /// libvirt name.
    pub name: String,
    /// Our metadata.
    pub stamp: Option<Stamp>,
    /// What it does.
    pub power: Power,
    /// Why it is paused, when it is.
    pub pause: Option<PauseCause>,
    /// It arrives from another host: it is not defined here yet.
    pub transient: bool,
    /// Live XML.
    pub live: Option<Shape>,
    /// Inactive XML.
    pub config: Shape,
    /// What the managed save will bring back.
    pub saved: Option<Shape>,
    /// What its root disk was when its guest was started, while it is active or saved.
    pub began: Option<RootUse>,
    /// libvirt's autostart flag.
    pub autostart: bool,
    /// Milliseconds of the clock at which its guest is ready, while it is active.
    pub ready_at: Option<u64>,
    /// The processor that its guest sees, while it is active.
    pub cpu: Option<String>,
    /// How often its guest was told that its network changed.
    pub announced: u32,
    /// What its network gave its interfaces, while its guest runs.
    pub learnt: BTreeMap<Mac, BTreeSet<IpAddr>>,
    /// Counts QEMU processes: tells a restart from a resume.
    pub boots: u64,
    /// Elements of its XML that are not ours: they must survive every edit.
    pub foreign: String,
}

/// What was done inside a guest: it lies on its root disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Files by path: content and permissions.
    pub files: BTreeMap<Arc<str>, (Arc<str>, u32)>,
    /// Programs that were run in it and ended with 0, in order.
    pub ran: Vec<String>,
}

impl SimDomain {
    /// The VM's name, when it is ours.
    pub fn vm(&self) -> Option<&Name> {
        self.stamp.as_ref().map(|s| &s.vm)
    }
    /// Whether it is one end of a migration at which the guest stands still: its guest is at the other end.
    pub fn stands_by(&self) -> bool {
        self.power == Power::Paused && self.pause == Some(PauseCause::Migration)
    }
    /// Whether this is where its guest is alive.
    pub fn runs(&self) -> bool {
        self.power.is_active() && !self.stands_by()
    }
    /// Paths of the disks that it has open for writing.
    pub fn writable(&self) -> impl Iterator<Item = &String> {
        self.live.iter().flat_map(|l| l.disks.values()).filter(|d| !d.readonly).map(|d| &d.path)
    }
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimHost {
    /// Its UUID.
    pub uuid: Uuid,
    /// How large it is.
    pub size: HostSize,
    /// What its acceleration probe finds.
    pub acceleration: Acceleration,
    /// Why it does not answer; `None`: it does.
    pub away: Option<String>,
    /// Whether it has power: one that does not answer may run its guests all the same.
    pub powered: bool,
    /// Looks at which it does not answer, because its libvirtd is starting.
    pub hidden: u32,
    /// Its processor: guests move, while they run, among hosts that have the same.
    pub cpu: String,
    /// Machine types of its QEMU; empty: it does not say.
    pub machines: Vec<String>,
    /// Whether its store and its slots can share blocks; `None`: it does not say.
    pub reflink: Option<bool>,
    /// The storage that its disks and records lie on: hosts with the same name have the same files.
    pub shared: Option<Name>,
    /// How much longer everything takes on it, in thousandths (2000: twice as long).
    pub load_milli: u64,
    /// Domains by UUID.
    pub domains: BTreeMap<Uuid, SimDomain>,
    /// Disk files by path.
    pub disks: BTreeMap<String, SimDisk>,
    /// Files of the image store: path → digest and bytes used.
    pub images: BTreeMap<String, (crate::model::Digest, Bytes)>,
    /// Which generation each is, by path.
    pub notes: BTreeMap<String, crate::model::ImageNote>,
    /// The marks of fleets on them, by path.
    pub marks: BTreeMap<String, BTreeMap<Name, Option<Timestamp>>>,
    /// Bridges by name. `ports` holds uplinks; taps are added when it is looked at.
    pub bridges: BTreeMap<String, BridgeObs>,
    /// Its interfaces that are uplinks, and those that were taken out.
    pub links: BTreeMap<String, LinkObs>,
    /// What was taken out.
    pub lost_links: BTreeSet<String>,
    /// The fleet whose alias each bridge of ours carries.
    pub aliases: BTreeMap<String, Name>,
    /// The packet filter in force.
    pub filter: crate::model::HostRules,
    /// What is the matter with it.
    pub filter_state: super::filter::FilterState,
    /// Placement records.
    pub records: BTreeMap<Name, PlacementRecord>,
    /// Who holds the controller's lock.
    pub lock: Option<LockHolder>,
}

impl SimHost {
    /// An empty host that answers.
    pub fn new(uuid: Uuid, size: HostSize) -> Self {
        Self {
            uuid,
            size,
            acceleration: Acceleration::Kvm,
            away: None,
            powered: true,
            hidden: 0,
            cpu: CPU.to_owned(),
            machines: Vec::new(),
            reflink: None,
            shared: None,
            load_milli: 1000,
            domains: BTreeMap::new(),
            disks: BTreeMap::new(),
            images: BTreeMap::new(),
            notes: BTreeMap::new(),
            marks: BTreeMap::new(),
            bridges: BTreeMap::new(),
            links: BTreeMap::new(),
            lost_links: BTreeSet::new(),
            aliases: BTreeMap::new(),
            filter: crate::model::HostRules::default(),
            filter_state: super::filter::FilterState::default(),
            records: BTreeMap::new(),
            lock: None,
        }
    }
    /// Memory that active domains use now.
    pub fn memory_in_use(&self) -> Bytes {
        Bytes(self.domains.values().filter_map(|d| d.live.as_ref()).map(|l| l.memory.0).sum())
    }
    /// Domains with a QEMU process.
    pub fn active(&self) -> impl Iterator<Item = (&Uuid, &SimDomain)> {
        self.domains.iter().filter(|(_, d)| d.power.is_active())
    }
    /// Bytes free where slots and images live.
    pub fn free(&self) -> Bytes {
        let disks: u64 = self.disks.values().map(|d| d.used.0).sum();
        let images: u64 = self.images.values().map(|(_, used)| used.0).sum();
        Bytes(self.size.disk.0.saturating_sub(disks + images))
    }
    /// The domain of a VM of a fleet.
    pub fn domain_of(&self, fleet: &Name, vm: &Name) -> Option<(&Uuid, &SimDomain)> {
        self.domains.iter().find(|(_, d)| d.stamp.as_ref().is_some_and(|s| s.fleet == *fleet && s.vm == *vm))
    }
}

/// Everything there is, and what is about to happen.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Milliseconds since [`EPOCH`].
    pub millis: u64,
    /// Hosts by name.
    pub hosts: BTreeMap<Name, SimHost>,
    /// How the guests of VMs behave; the default for those not named.
    pub guests: BTreeMap<Name, Guest>,
    /// Images whose clones never get ready, by the first digits of their digest.
    pub bad_images: BTreeSet<String>,
    /// Faults that wait for their step.
    pub faults: Vec<Fault>,
    /// Events that wait for a number of steps of the present run.
    pub scheduled: Vec<(u64, Event)>,
    /// Events that wait for a stage of a VM's migration.
    pub at_stages: Vec<(Name, Stage, Event)>,
    /// Migrations that run.
    pub jobs: Vec<MoveJob>,
    /// How migrations ended that a step of ours waits for.
    pub ended: BTreeMap<Uuid, Result<(), String>>,
    /// Links between hosts that are cut, their ends in order.
    pub cut: BTreeSet<(Name, Name)>,
    /// Bytes a second of links that are not as usual.
    pub rates: BTreeMap<(Name, Name), Bytes>,
    /// Machines in whose place another one answers now.
    pub aside: BTreeMap<Name, SimHost>,
    /// Hosts whose power cannot be switched.
    pub fence_fails: BTreeSet<Name>,
    /// The newest state of each disk that a guest has seen: VM, disk and incarnation → content and writes.
    pub newest: BTreeMap<(Name, String, u32), (u64, u64)>,
    /// The name of the controller that acts.
    pub controller: String,
    /// What other controllers remember, by name.
    pub controllers: BTreeMap<String, Memory>,
    /// What the controller remembers.
    pub memory: Memory,
    /// Steps that ended since the run began.
    pub steps: u64,
    /// Our own end: after how many steps, and whether it has come.
    pub crash_after: Option<u64>,
    /// Nothing of ours runs any more.
    pub crashed: bool,
    /// What the plan in hand may do.
    pub permit: Permit,
    /// Promises are not looked after: for benchmarks, whose world is too large to be looked over at every step.
    pub unguarded: bool,
    /// Promises broken, in order.
    pub violations: Vec<String>,
    /// Every step that changed the world, with its host: what happened, for people.
    pub log: Vec<String>,
    /// The number of the next content.
    pub next_content: u64,
    /// What is inside of generations that were captured: their clones begin with it.
    pub generations: BTreeMap<crate::model::Digest, Inside>,
}

impl World {
    /// The moment, in whole seconds.
    pub fn now(&self) -> Timestamp {
        Timestamp(EPOCH.0 + self.millis / 1000)
    }

    /// Adds a host, or changes its size.
    pub fn add_host(&mut self, name: &Name, size: HostSize) -> &mut SimHost {
        let uuid = Uuid::new_v5(&HOSTS, name.as_str().as_bytes());
        let host = self.hosts.entry(name.clone()).or_insert_with(|| SimHost::new(uuid, size));
        host.size = size;
        host
    }

    /// Adds every host of `desired` that is missing: with the figures of its document, or the default size.
    pub fn add_missing_hosts(&mut self, desired: &Desired) {
        for (name, document) in &desired.hosts {
            if self.hosts.contains_key(name) {
                continue;
            }
            let usual = HostSize::default();
            let size = HostSize {
                cpus: document.cpus.unwrap_or(usual.cpus),
                memory: document.memory.unwrap_or(usual.memory),
                disk: usual.disk,
            };
            let host = self.add_host(name, size);
            host.uuid = document.uuid.unwrap_or(host.uuid);
            host.acceleration = accelerated(document);
        }
        for (name, document) in &desired.hosts {
            self.share(name, document.shared.as_ref());
        }
        self.lay_uplinks(desired);
    }

    /// Puts a host on a storage, with the files that are there.
    fn share(&mut self, name: &Name, storage: Option<&Name>) {
        let other = self.hosts.iter().find(|(n, h)| *n != name && storage.is_some() && h.shared.as_ref() == storage);
        let other = other.map(|(n, _)| n.clone());
        let Some(host) = self.hosts.get_mut(name).filter(|h| h.shared.as_ref() != storage) else { return };
        host.shared = storage.cloned();
        if let Some(other) = other {
            self.mirror(&other);
        }
    }

    /// What was changed on a shared storage is seen by all hosts that have it.
    pub(super) fn mirror(&mut self, name: &Name) {
        let Some(host) = self.hosts.get(name).filter(|h| h.shared.is_some()) else { return };
        let (storage, records) = (host.shared.clone(), host.records.clone());
        let ours: Vec<_> = host.disks.iter().filter(|(_, d)| d.stamp.is_some()).collect();
        let ours: BTreeMap<_, _> = ours.into_iter().map(|(p, d)| (p.clone(), d.clone())).collect();
        for (_, other) in self.hosts.iter_mut().filter(|(n, h)| *n != name && h.shared == storage) {
            other.records.clone_from(&records);
            other.disks.retain(|_, d| d.stamp.is_none());
            other.disks.extend(ours.clone());
        }
    }

    /// A world as it was recorded. A host that is not Known does not answer, and is empty.
    pub fn from_observed(observed: &Observed) -> Self {
        let mut world = Self { millis: observed.at.0.saturating_sub(EPOCH.0) * 1000, ..Self::default() };
        world.memory.lost = observed.store.lost;
        for (name, observation) in &observed.hosts {
            let host = world.add_host(name, HostSize::default());
            match observation {
                Observation::Known(seen) => recorded(host, seen, observed.fleet.as_ref()),
                Observation::Absent => host.away = Some("there is no such host".to_owned()),
                Observation::Unknown(fault) => host.away = Some(fault.text.clone()),
            }
        }
        let mut contents = 0;
        for disk in world.hosts.values_mut().flat_map(|h| h.disks.values_mut()) {
            contents += 1;
            disk.content = contents;
        }
        world.next_content = contents;
        for (vm, record) in &observed.records {
            if let Some(host) = world.hosts.get_mut(&record.host) {
                host.records.insert(vm.clone(), record.clone());
            }
        }
        world
    }

    /// How a VM's guest behaves.
    pub fn guest(&self, vm: &Name) -> Guest {
        self.guests.get(vm).copied().unwrap_or_default()
    }

    /// Where the guest of a VM of a fleet is alive: all hosts, also those that do not answer.
    pub fn running(&self, fleet: &Name, vm: &Name) -> Vec<&Name> {
        let is = |d: &SimDomain| d.stamp.as_ref().is_some_and(|s| s.fleet == *fleet && s.vm == *vm);
        let all = self.hosts.iter().chain(&self.aside);
        all.filter(|(_, h)| h.active().any(|(_, d)| d.runs() && is(d))).map(|(n, _)| n).collect()
    }

    /// The host, if it answers.
    pub(super) fn host(&mut self, name: &Name) -> Result<&mut SimHost, crate::execute::StepError> {
        let unknown = |text: String| crate::execute::StepError::Unknown(text);
        let host = self.hosts.get_mut(name).ok_or_else(|| unknown(format!("there is no host {name}")))?;
        match &host.away {
            Some(why) => Err(unknown(format!("{name} does not answer: {why}"))),
            None => Ok(host),
        }
    }

    /// Another controller acts from now on: what this one remembers stays with it.
    pub(super) fn change_controller(&mut self, who: &str) {
        let new = self.controllers.remove(who).unwrap_or(Memory { lost: true, ..Memory::default() });
        let old = std::mem::replace(&mut self.memory, new);
        let before = std::mem::replace(&mut self.controller, who.to_owned());
        self.controllers.insert(before, old);
    }

    /// Looks that are still to fail, by host.
    pub(super) fn hidden(&self) -> BTreeMap<Name, u32> {
        self.hosts.iter().map(|(n, h)| (n.clone(), h.hidden)).collect()
    }

    pub(super) fn hide(&mut self, looks: &BTreeMap<Name, u32>) {
        for (name, looks) in looks {
            if let Some(host) = self.hosts.get_mut(name) {
                host.hidden = *looks;
            }
        }
    }

    /// Starts a new process of ours: locks that a dead one held are free, nothing scheduled stays.
    pub fn restart(&mut self) {
        self.crashed = false;
        self.crash_after = None;
        self.steps = 0;
        self.scheduled.clear();
        self.ended.clear();
        for job in &mut self.jobs {
            job.watched = false;
        }
        for host in self.hosts.values_mut() {
            if host.lock.as_ref().is_some_and(|l| !l.token.starts_with("foreign")) {
                host.lock = None;
            }
        }
    }

    /// What a step is called in scripts and transcripts: `Start of web-1 on h1`.
    pub fn step_name(step: &Step) -> String {
        let (op, subject) = super::faults::op_and_subject(&step.op);
        format!("{op} of {subject} on {}", step.host)
    }
}

/// What the document says the probe would find.
fn accelerated(document: &Host) -> Acceleration {
    if document.acceleration == Acceleration::Auto { Acceleration::Kvm } else { document.acceleration }
}

/// Fills a host from its recorded state.
fn recorded(host: &mut SimHost, seen: &crate::model::HostObs, fleet: Option<&Name>) {
    host.uuid = seen.uuid;
    host.size = HostSize { cpus: seen.cpus, memory: seen.memory, ..host.size };
    host.acceleration = seen.acceleration.unwrap_or(Acceleration::Kvm);
    host.machines.clone_from(&seen.machines);
    host.reflink = seen.reflink;
    if let Some(crate::model::FilterObs::Table(rules)) = &seen.filter {
        host.filter.clone_from(rules);
    }
    host.filter_state = super::filter::FilterState::Bare;
    host.lock.clone_from(&seen.lock);
    if let Some(lock) = &mut host.lock {
        lock.token = format!("foreign-{}", lock.token);
    }
    for vm in seen.vms.values() {
        let domain = SimDomain {
            name: vm.domain.clone(),
            stamp: Some(vm.stamp.clone()),
            power: vm.power,
            pause: vm.pause,
            transient: vm.transient,
            live: vm.live.clone().or_else(|| vm.power.is_active().then(|| vm.config.clone())),
            config: vm.config.clone(),
            saved: (vm.power == Power::Suspended).then(|| vm.config.clone()),
            began: vm.began,
            autostart: vm.autostart,
            ready_at: vm.power.is_active().then_some(0),
            cpu: vm.cpu_model.clone().or_else(|| vm.power.is_active().then(|| CPU.to_owned())),
            announced: 0,
            learnt: vm.addresses.clone(),
            boots: 1,
            foreign: "kept".to_owned(),
        };
        host.domains.insert(vm.uuid, domain);
    }
    for (path, disk) in &seen.disks {
        let writes = u64::from(disk.stamp.disk != "seed");
        let (stamp, backing) = (Some(disk.stamp.clone()), disk.backing.clone());
        let disk =
            SimDisk { stamp, size: disk.size, used: disk.used, backing, content: 0, writes, inside: Inside::default() };
        host.disks.insert(path.clone(), disk);
    }
    for (digest, image) in &seen.images {
        host.images.insert(image.path.clone(), (digest.clone(), image.used));
        host.notes.extend(image.note.iter().map(|note| (image.path.clone(), note.clone())));
        host.marks.insert(image.path.clone(), image.marks.clone());
    }
    for (name, bridge) in &seen.bridges {
        if let (true, Some(fleet)) = (bridge.ours, fleet) {
            host.aliases.insert(name.clone(), fleet.clone());
        }
        let uplinks = bridge.ports.iter().filter(|p| !p.starts_with("sh")).cloned().collect();
        host.bridges.insert(name.clone(), BridgeObs { ports: uplinks, ..bridge.clone() });
    }
    host.links = seen.links.clone().unwrap_or_default();
    for other in &seen.unmanaged {
        host.domains.insert(other.uuid, unmanaged(&other.domain, other.shape.clone(), other.power));
    }
}

/// A domain that is not ours.
pub(super) fn unmanaged(name: &str, shape: Shape, power: Power) -> SimDomain {
    SimDomain {
        name: name.to_owned(),
        stamp: None,
        power,
        pause: None,
        transient: false,
        live: power.is_active().then(|| shape.clone()),
        saved: (power == Power::Suspended).then(|| shape.clone()),
        began: None,
        config: shape,
        autostart: false,
        ready_at: power.is_active().then_some(0),
        cpu: power.is_active().then(|| CPU.to_owned()),
        announced: 0,
        learnt: BTreeMap::new(),
        boots: 1,
        foreign: "somebody's".to_owned(),
    }
}
