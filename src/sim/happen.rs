//! What happens to a world beside our steps: hands, power cuts, hosts that vanish and come back.

use std::net::IpAddr;

use uuid::Uuid;

use super::change::halt;
use super::filter::FilterState;
use super::jobs::link;
use super::ledger::Memory;
use super::see::ports;
use super::wire::{Rewire, rewire};
use super::world::{Inside, SimDisk, SimDomain, SimHost, World, unmanaged};
use crate::model::{Bytes, Display, Firmware, LockHolder, Name, PauseCause, Power, Shape, ShapeDisk};

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A host loses its power: its guests end, bridges of ours are gone, it does not answer.
    Kill(Name),
    /// A host does not answer; its guests run on.
    Partition(Name),
    /// A host answers again.
    Revive(Name),
    /// Everything takes this many thousandths of its usual time on a host.
    Load(Name, u64),
    /// Somebody shuts a guest down.
    StopVm(Name),
    /// Somebody starts a domain.
    StartVm(Name),
    /// Somebody pauses a domain.
    PauseVm(Name),
    /// A guest's QEMU dies.
    CrashVm(Name),
    /// Somebody undefines a domain (shutting it down first); its disks stay.
    Undefine(Name),
    /// Somebody changes memory: live when the domain runs, and what it gets at the next start.
    SetMemory(Name, Bytes),
    /// Somebody changes processors, in the same way.
    SetCpus(Name, u32),
    /// Somebody changes processors in the definition only.
    DefineCpus(Name, u32),
    /// Somebody sets libvirt's autostart.
    Autostart(Name, bool),
    /// Its network gives a VM's interfaces an address, those that have no planned one.
    GiveAddress(Name, IpAddr),
    /// A disk file of a VM is lost: VM and disk.
    LoseDisk(Name, String),
    /// Somebody takes a device of the host away from a VM: VM and the name that it calls it.
    TakeDevice(Name, Name),
    /// A domain that is not ours appears and runs: libvirt name, host, memory.
    Foreign(String, Name, Bytes),
    /// Somebody does something to an interface or a bridge.
    Rewire(Name, String, Rewire),
    /// Somebody flushes the packet filter of a host.
    FlushFilter(Name),
    /// Somebody changes our table on a host so that it is not ours any more.
    DamageFilter(Name),
    /// Packet filters cannot be set on a host from now on, or can be again.
    Filtering(Name, bool),
    /// Somebody else takes the controller's lock of a host.
    Lock(Name, String),
    /// They give it back.
    Unlock(Name),
    /// The link between two hosts is cut. Whether the controller reaches them is another matter.
    CutLink(Name, Name),
    /// The link between two hosts carries again.
    HealLink(Name, Name),
    /// The link between two hosts carries this many bytes a second.
    SlowLink(Name, Name, Bytes),
    /// Another, empty machine answers at a host's address; the host itself runs on, and nobody reaches it.
    Swap(Name),
    /// The right machine answers again.
    SwapBack(Name),
    /// A host's libvirtd is restarted: its guests run on, moves of its guests end, one look at it fails.
    RestartDaemon(Name),
    /// Whether the host's power can be switched from now on.
    Fencing(Name, bool),
    /// We end, as with `kill -9`.
    CrashUs,
    /// The controller's own files are deleted.
    DeleteStore,
    /// Time passes, in milliseconds.
    Advance(u64),
}

impl World {
    /// Lets something happen.
    ///
    /// # Errors
    /// Says what it is about that is not there.
    pub fn happen(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Kill(host) => {
                kill(self.any_host(host)?);
                self.jobs_of_dead(host);
            }
            Event::Partition(host) => self.any_host(host)?.away = Some("connection timed out".to_owned()),
            Event::Revive(host) => {
                let host = self.any_host(host)?;
                (host.away, host.powered) = (None, true);
            }
            Event::CutLink(one, other) | Event::HealLink(one, other) | Event::SlowLink(one, other, _) => {
                self.any_host(one)?;
                self.any_host(other)?;
                self.relink(event, link(one, other));
            }
            Event::Swap(host) => self.swap(host)?,
            Event::SwapBack(host) => {
                let there = self.aside.remove(host).ok_or_else(|| format!("no other machine stands for {host}"))?;
                self.hosts.insert(host.clone(), there);
            }
            Event::RestartDaemon(host) => {
                self.any_host(host)?.hidden = 1;
                self.jobs_of_restarted(host);
            }
            Event::Fencing(host, works) => {
                self.any_host(host)?;
                if *works {
                    self.fence_fails.remove(host)
                } else {
                    self.fence_fails.insert(host.clone())
                };
            }
            Event::Load(host, milli) => self.any_host(host)?.load_milli = *milli,
            Event::StopVm(vm) => {
                halt(self.vm(vm)?, Power::Stopped);
                self.jobs_of_ended(vm);
            }
            Event::CrashVm(vm) => {
                halt(self.vm(vm)?, Power::Crashed);
                self.jobs_of_ended(vm);
            }
            Event::StartVm(vm) => self.start_by_hand(vm)?,
            Event::PauseVm(vm) => {
                let domain = self.vm(vm)?;
                if domain.power != Power::Running {
                    return Err(format!("{vm} does not run"));
                }
                (domain.power, domain.pause) = (Power::Paused, Some(PauseCause::User));
            }
            Event::Undefine(vm) => {
                let (host, uuid) = self.place(vm)?;
                self.any_host(&host)?.domains.remove(&uuid);
                self.jobs_of_ended(vm);
            }
            Event::SetMemory(vm, memory) => each_shape(self.vm(vm)?, |shape| {
                shape.memory = *memory;
                shape.max_memory = shape.max_memory.max(*memory);
            }),
            Event::SetCpus(vm, cpus) => each_shape(self.vm(vm)?, |shape| {
                shape.cpus = *cpus;
                shape.max_cpus = shape.max_cpus.max(*cpus);
            }),
            Event::DefineCpus(vm, cpus) => self.vm(vm)?.config.cpus = *cpus,
            Event::Autostart(vm, on) => self.vm(vm)?.autostart = *on,
            Event::GiveAddress(vm, address) => {
                let domain = self.vm(vm)?;
                let nics = domain.stamp.iter().flat_map(|stamp| stamp.nics.values());
                let unplanned = nics.filter(|nic| nic.addresses().next().is_none());
                domain.learnt = unplanned.map(|nic| (nic.mac, [*address].into())).collect();
            }
            Event::LoseDisk(vm, disk) => self.lose_disk(vm, disk)?,
            Event::TakeDevice(vm, device) => self.take_device(vm, device)?,
            Event::Foreign(name, host, memory) => {
                let uuid = Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{name}.{host}").as_bytes());
                let path = format!("/var/lib/libvirt/images/{name}.qcow2");
                let domain = unmanaged(name, plain(*memory, &path), Power::Running);
                self.next_content += 1;
                let (size, used, content) = (Bytes::gib(10), Bytes::gib(1), self.next_content);
                let host = self.any_host(host)?;
                host.domains.insert(uuid, domain);
                host.disks.insert(
                    path,
                    SimDisk { stamp: None, size, used, backing: None, content, writes: 1, inside: Inside::default() },
                );
            }
            Event::Rewire(host, what, how) => rewire(self.any_host(host)?, what, how)?,
            Event::FlushFilter(host) => self.any_host(host)?.flush_filter(),
            Event::DamageFilter(host) => {
                let what = "its chain `guests` has a rule that is not ours".to_owned();
                self.any_host(host)?.filter_state = FilterState::Damaged(what);
            }
            Event::Filtering(host, works) => {
                let host = self.any_host(host)?;
                host.filter = crate::model::HostRules::default();
                let why = || FilterState::Unable("its kernel has no nf_tables for bridges".to_owned());
                host.filter_state = if *works { FilterState::Bare } else { why() };
            }
            Event::Lock(host, who) => {
                let lock = LockHolder { token: format!("foreign-{who}"), who: who.clone(), since: self.now() };
                self.any_host(host)?.lock = Some(lock);
            }
            Event::Unlock(host) => self.any_host(host)?.lock = None,
            Event::CrashUs => self.crashed = true,
            Event::DeleteStore => self.memory = Memory { lost: true, ..Memory::default() },
            Event::Advance(millis) => self.pass_to(self.millis + millis),
        }
        self.links_changed();
        Ok(())
    }

    fn relink(&mut self, event: &Event, link: (Name, Name)) {
        match event {
            Event::CutLink(..) => drop(self.cut.insert(link)),
            Event::SlowLink(_, _, rate) => drop(self.rates.insert(link, *rate)),
            _ => drop(self.cut.remove(&link)),
        }
    }

    fn swap(&mut self, name: &Name) -> Result<(), String> {
        if self.aside.contains_key(name) {
            return Err(format!("another machine stands for {name} already"));
        }
        let there = self.any_host(name)?;
        let other = SimHost::new(Uuid::new_v5(&there.uuid, b"another machine"), there.size);
        let there = std::mem::replace(there, other);
        self.aside.insert(name.clone(), there);
        Ok(())
    }

    /// The host, whether it answers or not.
    fn any_host(&mut self, name: &Name) -> Result<&mut SimHost, String> {
        self.hosts.get_mut(name).ok_or_else(|| format!("there is no host {name}"))
    }

    /// Host and domain of a VM: where its guest is alive, else where it is active, else the first host that has it.
    ///
    /// # Errors
    /// Says that there is no such VM.
    pub fn place(&self, vm: &Name) -> Result<(Name, Uuid), String> {
        let all = || self.hosts.iter().flat_map(|(n, h)| h.domains.iter().map(move |(u, d)| (n, u, d)));
        let mine = |d: &SimDomain| d.vm() == Some(vm);
        let alive = all().find(|(_, _, d)| mine(d) && d.runs());
        let active = alive.or_else(|| all().find(|(_, _, d)| mine(d) && d.power.is_active()));
        let found = active.or_else(|| all().find(|(_, _, d)| mine(d)));
        found.map(|(n, u, _)| (n.clone(), *u)).ok_or_else(|| format!("there is no VM {vm}"))
    }

    fn vm(&mut self, vm: &Name) -> Result<&mut SimDomain, String> {
        let (host, uuid) = self.place(vm)?;
        self.any_host(&host)?.domains.get_mut(&uuid).ok_or_else(|| format!("there is no VM {vm}"))
    }

    fn start_by_hand(&mut self, vm: &Name) -> Result<(), String> {
        let now = self.millis;
        let boot = self.guest(vm).boot_millis;
        let domain = self.vm(vm)?;
        if domain.power.is_active() {
            return Err(format!("{vm} runs already"));
        }
        if domain.saved.is_none() {
            domain.began = domain.stamp.as_ref().and_then(|s| s.root);
        }
        let live = domain.saved.take().unwrap_or_else(|| domain.config.clone());
        let taps: Vec<String> = live.nics.values().filter_map(|n| n.tap.clone()).collect();
        domain.live = Some(live);
        (domain.power, domain.pause) = (Power::Running, None);
        domain.boots += 1;
        domain.ready_at = boot.map(|b| now + b);
        let (host, _) = self.place(vm)?;
        let host = self.any_host(&host)?;
        // Whoever starts it by hand answers for it.
        if host.filter_state == FilterState::Ours && taps.iter().any(|t| !host.filter.taps.contains_key(t)) {
            host.filter_state = FilterState::Bare;
        }
        Ok(())
    }

    fn lose_disk(&mut self, vm: &Name, disk: &str) -> Result<(), String> {
        let (host, _) = self.place(vm)?;
        let name = host;
        let host = self.any_host(&name)?;
        let is = |d: &SimDisk| d.stamp.as_ref().is_some_and(|s| s.vm == *vm && s.disk == disk);
        let path = host.disks.iter().find(|(_, d)| is(d)).map(|(p, _)| p.clone());
        let path = path.ok_or_else(|| format!("{vm} has no disk {disk}"))?;
        host.disks.remove(&path);
        self.mirror(&name);
        Ok(())
    }
}

fn kill(host: &mut SimHost) {
    host.away = Some("no route to host".to_owned());
    host.powered = false;
    // What arrived from another host was never defined here.
    host.domains.retain(|_, d| !d.transient);
    host.filter = crate::model::HostRules::default();
    for domain in host.domains.values_mut().filter(|d| d.power.is_active()) {
        halt(domain, Power::Stopped);
    }
    // What `ip link` made does not outlive the kernel that it was told to.
    let ours: Vec<_> = host.aliases.keys().filter(|b| ports(host, b).is_empty()).cloned().collect();
    for bridge in ours {
        host.aliases.remove(&bridge);
        host.bridges.remove(&bridge);
    }
}

fn each_shape(domain: &mut SimDomain, mut change: impl FnMut(&mut Shape)) {
    change(&mut domain.config);
    if let Some(live) = &mut domain.live {
        change(live);
    }
}

/// Somebody's VM.
fn plain(memory: Bytes, path: &str) -> Shape {
    let disk = ShapeDisk { path: path.to_owned(), target: "vda".to_owned(), readonly: false };
    Shape {
        cpus: 1,
        max_cpus: 1,
        memory,
        max_memory: memory,
        machine: "pc-q35-7.2".to_owned(),
        firmware: Firmware::Bios,
        acceleration: crate::model::Acceleration::Kvm,
        display: Some(Display { width: 1024, height: 768 }),
        kernel: None,
        initrd: None,
        command_line: None,
        disks: std::collections::BTreeMap::from([("vda".to_owned(), disk)]),
        nics: std::collections::BTreeMap::new(),
        devices: std::collections::BTreeMap::new(),
        ports: crate::model::Ports::default(),
        container: None,
    }
}
