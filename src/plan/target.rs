//! What a VM should be on its host, down to every path, UUID, MAC and address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::container;
use super::digest;
use super::groups::HostGroup;
use super::steps::{
    DiskFrom, DomainDevice, DomainDisk, DomainNic, DomainSpec, KernelBoot, NewDisk, Op, Replacement, Seed, SeedNic,
};
use super::types::{DataEffect, DiskFate};
use super::world::{Disk, HostView, World};
use crate::model::{
    Acceleration, Boot, CONTAINER_ROOT, CloneMethod, Desired, DiskStamp, Host, Identity, Image, ImageFile, ImageFormat,
    Layer, Mac, Marked, Marker, MarkerValue, NEWEST_MACHINE, Name, NicStamp, OnRemove, PlacementRecord, Rolled,
    RootUse, Stamp, USUAL_MACHINE, Vm, VmObs, VmSpec, disk_file_name, domain_name, domain_uuid, nic_mac, tap_name,
};

/// Addresses that are taken, and the next ones to give.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    taken: BTreeSet<IpAddr>,
    next: BTreeMap<IpAddr, u128>,
}

impl Addresses {
    /// All addresses that anything may hold: stamps, placement records, and those that documents fix.
    pub(crate) fn new(desired: &Desired, world: &World<'_>) -> Self {
        let nics = world.vms.values().flatten().flat_map(|(_, vm)| vm.stamp.nics.values());
        let stamped = nics.flat_map(crate::model::NicStamp::addresses);
        let recorded = world.records.values().flat_map(PlacementRecord::all_addresses);
        let nics = desired.vms.values().flat_map(|vm| vm.spec.nics.values());
        let fixed = nics.flat_map(|n| n.address.map(IpAddr::V4).into_iter().chain(n.address6.map(IpAddr::V6)));
        let own = desired.networks.values().flat_map(crate::model::Network::own_addresses);
        Self { taken: stamped.chain(recorded).chain(fixed).chain(own).collect(), next: BTreeMap::new() }
    }

    /// The lowest free address of a range.
    fn give<A>(&mut self, range: (A, A)) -> Option<A>
    where
        A: Family,
    {
        let (first, last) = (range.0.number(), range.1.number());
        let cursor = self.next.entry(range.0.into()).or_insert(first);
        while *cursor <= last {
            let address = A::numbered(*cursor)?;
            *cursor += 1;
            if self.taken.insert(address.into()) {
                return Some(address);
            }
        }
        None
    }
}

/// Addresses of one family, which are numbers.
trait Family: Copy + Into<IpAddr> + std::fmt::Display {
    fn number(self) -> u128;
    fn numbered(number: u128) -> Option<Self>;
}
impl Family for Ipv4Addr {
    fn number(self) -> u128 {
        u32::from(self).into()
    }
    fn numbered(number: u128) -> Option<Self> {
        u32::try_from(number).ok().map(Self::from)
    }
}
impl Family for Ipv6Addr {
    fn number(self) -> u128 {
        self.into()
    }
    fn numbered(number: u128) -> Option<Self> {
        Some(number.into())
    }
}

/// What is known of an interface's address in one family.
struct Given<A> {
    /// What its document fixes.
    fixed: Option<A>,
    /// What may be planned.
    range: Option<(A, A)>,
    /// What it has, or had, as far as that is one of the subnet.
    kept: Option<A>,
}

impl<A: Family> Given<A> {
    /// The address that it gets. `told` is whether any seed of ours tells it one.
    fn settle(self, addresses: &mut Addresses, network: &Name, told: bool) -> Result<Option<A>, String> {
        Ok(match (self.fixed, self.range, self.kept) {
            (Some(fixed), _, _) => Some(fixed),
            (None, None, _) => None,
            (None, Some(_), Some(kept)) => Some(kept),
            // No seed of ours ever told it an address, so none is claimed.
            (None, Some(_), None) if !told => None,
            (None, Some(range), None) => Some(
                addresses
                    .give(range)
                    .ok_or_else(|| format!("network/{network} has no address left in {}-{}", range.0, range.1))?,
            ),
        })
    }
}

/// An interface as its guest is told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) mac: Mac,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) address6: Option<Ipv6Addr>,
    pub(crate) prefix6: u8,
    pub(crate) gateway6: Option<Ipv6Addr>,
}

/// A VM as it should be, in one incarnation on one host.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) host: &'a Host,
    /// How often it was moved, as its record says.
    pub(crate) moves: u32,
    pub(crate) image: Option<&'a Image>,
    /// Whether store and slots of the host can share blocks, where that was looked for.
    pub(crate) reflinks: Option<bool>,
    pub(crate) stamp: Stamp,
    pub(crate) seed: Option<Seed>,
    /// What is written into the root disk while it is copied.
    pub(crate) marks: Option<BTreeMap<Name, Replacement>>,
    pub(crate) domain: DomainSpec,
}

/// Which VM, where, in which incarnation, and what exists of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a, 'e> {
    pub(crate) vm: &'a Vm,
    pub(crate) host: &'a Host,
    /// The hosts among which it moves.
    pub(crate) group: Option<&'e HostGroup>,
    pub(crate) incarnation: u32,
    pub(crate) existing: Option<&'e VmObs>,
}

/// Where the store of a host keeps an image's file.
pub(crate) fn image_path(host: &Host, file: &ImageFile) -> String {
    let name = file.source.text().rsplit('/').next().unwrap_or("image");
    // What comes from another store has its digits already.
    let stored = name.strip_prefix(file.digest.short()).and_then(|name| name.strip_prefix('-'));
    let name = stored.filter(|name| !name.is_empty()).unwrap_or(name);
    // What lies in the store is not packed any more.
    let packed = [".zst", ".xz", ".gz"].iter().find_map(|end| name.strip_suffix(end));
    let name = packed.filter(|n| !n.is_empty() && !file.compression.is_none()).unwrap_or(name);
    let safe: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(80).collect();
    format!("{}/{}-{safe}", host.images_dir, file.digest.short())
}

/// The path of a VM's disk in its slot. `image` is what a root disk is made from.
pub(crate) fn disk_path(
    (fleet, host): (&Name, &Host),
    vm: &Name,
    incarnation: u32,
    disk: &str,
    image: Option<&Image>,
) -> String {
    let raw = disk == "root" && image.is_some_and(|i| i.root_format() == ImageFormat::Raw);
    let extension = if raw { container::RAW } else { container::extension(host.layer(), disk) };
    format!("{}/{}", host.slots_dir, disk_file_name(fleet, vm, incarnation, disk, extension))
}

/// Whether a VM gets software emulation or KVM on a host.
fn acceleration(host: &Host, view: HostView<'_>) -> Acceleration {
    match host.acceleration {
        Acceleration::Auto => view.known().and_then(|k| k.acceleration).unwrap_or(Acceleration::Auto),
        fixed => fixed,
    }
}

/// The machine type of a VM: `newest` is settled once, when it is made.
fn machine(spec: &VmSpec, existing: Option<&VmObs>, group: Option<&HostGroup>) -> String {
    if *spec.machine != *NEWEST_MACHINE {
        return spec.machine.as_ref().to_owned();
    }
    let kept = existing.map(|obs| obs.config.machine.clone());
    kept.or_else(|| group.and_then(|g| g.machine.clone())).unwrap_or_else(|| USUAL_MACHINE.to_owned())
}

/// Builds the target of a VM.
///
/// # Errors
/// The sentence of a block: an address that cannot be given.
pub(crate) fn build<'a>(
    desired: &'a Desired,
    world: &World<'_>,
    addresses: &mut Addresses,
    spec_digest: String,
    slot: Slot<'a, '_>,
) -> Result<Target<'a>, String> {
    let Slot { vm, host, group, incarnation, existing } = slot;
    let fleet = &desired.fleet.name;
    let spec = &vm.spec;
    let image = desired.image_of(vm);
    let view = world.hosts.get(&host.name).copied().unwrap_or(HostView::Assumed);
    let mut nics = BTreeMap::new();
    let mut domain_nics = Vec::new();
    let mut seed_nics = BTreeMap::new();
    let (mut routed, mut routed6) = (false, false);
    let mut told = Vec::new();
    for (nic_name, nic) in &spec.nics {
        let Some(network) = desired.networks.get(&nic.network) else { continue };
        let stamped = existing.and_then(|e| e.stamp.nics.get(nic_name));
        let ground = network.ground(&host.name);
        let record = world.records.get(&vm.name);
        let is_told = image.is_some() || existing.is_some_and(|e| e.stamp.adopted.is_none());
        let kept = stamped.and_then(|s| s.address).or_else(|| record?.addresses.get(nic_name).copied());
        let kept = kept.filter(|a| ground.subnet.is_none_or(|s| s.contains(a)));
        let given = Given { fixed: nic.address, range: ground.range, kept };
        let address = given.settle(addresses, &nic.network, is_told)?;
        let kept = stamped.and_then(|s| s.address6).or_else(|| record?.addresses6.get(nic_name).copied());
        let kept = kept.filter(|a| ground.six.subnet.is_none_or(|s| s.contains(a)));
        let given = Given { fixed: nic.address6, range: ground.six.range, kept };
        let address6 = given.settle(addresses, &nic.network, is_told)?;
        let mac: Mac = stamped.map_or_else(|| nic_mac(fleet, &vm.name, nic_name), |s| s.mac);
        let (prefix, prefix6) = (ground.prefix(), ground.prefix6());
        let gateway = ground.gateway.filter(|_| !routed);
        routed |= gateway.is_some();
        let gateway6 = ground.six.gateway.filter(|_| !routed6);
        routed6 |= gateway6.is_some();
        let seed_nic = SeedNic {
            mac,
            address: address.map(|a| format!("{a}/{prefix}")),
            gateway,
            address6: address6.map(|a| format!("{a}/{prefix6}")),
            gateway6,
            dns: ground.dns.to_vec(),
        };
        seed_nics.insert(nic_name.clone(), seed_nic);
        told.push(Told { mac, address, prefix, gateway, address6, prefix6, gateway6 });
        nics.insert(nic_name.clone(), NicStamp { mac, address, address6 });
        domain_nics.push(DomainNic {
            name: nic_name.clone(),
            mac,
            bridge: network.bridge.as_ref().to_owned(),
            tap: tap_name(fleet, &vm.name, nic_name),
        });
    }
    let uuid = existing.map_or_else(|| domain_uuid(fleet, &vm.name, incarnation), |e| e.uuid);
    // cloud-init reads network-config once an instance: other addresses are another instance.
    let instance = uuid::Uuid::new_v5(&uuid, digest::of(&seed_nics).as_bytes());
    let marks = image.map(|i| marks(i, vm, told.first())).transpose()?.filter(|m| !m.is_empty());
    let seed = image.filter(|i| !matches!(i.identity, Identity::None | Identity::Marker)).map(|_| Seed {
        instance,
        hostname: vm.name.clone(),
        nics: seed_nics,
        user_data: spec.cloud_init.user_data.clone(),
        ssh_keys: spec.cloud_init.ssh_keys.clone(),
    });
    let seed = if spec.layer == Layer::Lxc { seed.map(|s| container::seed(s, uuid)) } else { seed };
    let stamp = Stamp {
        fleet: fleet.clone(),
        vm: vm.name.clone(),
        incarnation,
        protect: spec.protect,
        spec: spec_digest,
        image: image.map(|i| i.disk.digest.clone()),
        image_name: image.map(|i| i.name.clone()),
        management: desired
            .management
            .get(&vm.name)
            .map(|duty| duty.stamped(fleet, uuid, existing.and_then(|e| e.stamp.management.as_ref()))),
        rolled: existing.and_then(|e| rolled(desired, vm, &e.stamp)),
        seed: seed.as_ref().map(digest::of).or_else(|| marks.as_ref().map(digest::of)).unwrap_or_default(),
        nics,
        group: vm.group.clone(),
        after: desired
            .groups
            .get(&vm.group)
            .into_iter()
            .flat_map(|g| &g.depends_on)
            .map(|(key, _)| key.clone())
            .collect(),
        ready: spec.ready.clone(),
        guard: spec.guard.clone(),
        quarantine: existing.and_then(|e| e.stamp.quarantine.clone()),
        stop: spec.stop,
        persistent_root: spec.persistent_root,
        root: (spec.returns_root && image.is_some()).then(|| match existing {
            None => RootUse::Fresh,
            Some(e) if e.power.is_active() => RootUse::Used,
            Some(e) => e.stamp.root.unwrap_or(RootUse::Used),
        }),
        adopted: existing.and_then(|e| e.stamp.adopted.clone()),
        tasks: existing.map(|e| e.stamp.tasks.clone()).unwrap_or_default(),
        leased: desired.leased.get(&vm.name).cloned(),
    };
    let kernel = image.and_then(|i| match &i.boot {
        Boot::Disk | Boot::Init(_) => None,
        Boot::Kernel { kernel, initrd, command_line } => Some(KernelBoot {
            kernel: image_path(host, kernel),
            initrd: initrd.as_ref().map(|f| image_path(host, f)),
            command_line: command_line.as_ref().to_owned(),
        }),
    });
    let domain_disk = |name: &str, path, number| any_disk(vm, name, path, number);
    let here = (fleet, host);
    let mut disks = vec![domain_disk("root", disk_path(here, &vm.name, incarnation, "root", image), 0)];
    if seed.is_some() {
        disks.push(domain_disk("seed", disk_path(here, &vm.name, incarnation, "seed", None), 1));
    }
    for (number, name) in (2u8..).zip(spec.disks.keys()) {
        let path = data_path(desired, world, host, vm, incarnation, name);
        disks.push(domain_disk(name.as_str(), path, number));
    }
    // One that the host has no document for is not there to be given: who starts the VM looks for that.
    let given = spec.devices.iter().filter_map(|(name, device)| {
        let at = host.devices.get(device)?.at;
        Some(DomainDevice { name: name.clone(), device: Some(device.clone()), at })
    });
    let devices = given.collect();
    let domain = DomainSpec {
        vm: vm.name.clone(),
        domain: existing.map_or_else(|| domain_name(fleet, &vm.name), |e| e.domain.clone()),
        uuid,
        cpus: spec.cpus,
        max_cpus: spec.max_cpus,
        memory: spec.memory,
        max_memory: spec.max_memory,
        machine: machine(spec, existing, group),
        cpu_model: group.and_then(|g| g.cpu_for(acceleration(host, view))),
        firmware: spec.firmware,
        acceleration: acceleration(host, view),
        display: spec.display,
        kernel,
        disks,
        nics: domain_nics,
        devices,
        container: container::part(vm, image, &told),
        console: format!("{}/{}.console", host.slots_dir, domain_name(fleet, &vm.name)),
    };
    let moves = world.records.get(&vm.name).map_or(0, |r| r.moves);
    let reflinks = view.known().and_then(|seen| seen.reflink);
    Ok(Target { vm, host, moves, image, reflinks, stamp, seed, marks, domain })
}

/// What comes in the place of each marker of an image: of a VM's first interface by name, where it is an address.
fn marks(image: &Image, vm: &Vm, first: Option<&Told>) -> Result<BTreeMap<Name, Replacement>, String> {
    let one = |(name, marker): (&Name, &Marker)| {
        let value = match marker.value {
            MarkerValue::Address => first.and_then(|told| told.address).map(|a| a.to_string()),
            MarkerValue::Cidr => first.and_then(|told| Some(format!("{}/{}", told.address?, told.prefix))),
            MarkerValue::Gateway => first.and_then(|told| told.gateway).map(|g| g.to_string()),
            MarkerValue::Address6 => first.and_then(|told| told.address6).map(|a| a.to_string()),
            MarkerValue::Cidr6 => first.and_then(|told| Some(format!("{}/{}", told.address6?, told.prefix6))),
            MarkerValue::Gateway6 => first.and_then(|told| told.gateway6).map(|g| g.to_string()),
            MarkerValue::Hostname => Some(vm.name.to_string()),
        };
        let what = marker.value.word();
        let value =
            value.ok_or_else(|| format!("the marker {name} of its image stands for a {what} that it does not have"))?;
        let with = marker.filled(&value).ok_or_else(|| {
            format!("{value} is longer than the marker {name} of its image, which has {} characters", marker.text.len())
        })?;
        Ok((name.clone(), Replacement { marker: marker.text.as_ref().to_owned(), with }))
    };
    image.markers.iter().map(one).collect()
}

/// What its stamp remembers of its last roll: a generation that it refused, as long as its document asks for that one.
fn rolled(desired: &Desired, vm: &Vm, stamp: &Stamp) -> Option<Rolled> {
    let wanted = vm.spec.image.as_ref().and_then(|name| desired.images.get(name)).map(|i| &i.disk.digest);
    let mut rolled = stamp.rolled.clone()?;
    rolled.refused = rolled.refused.filter(|refused| Some(refused) == wanted);
    Some(rolled)
}

/// The disk of a name: a VM's at a number (`vda` is 0), a container's where it is mounted.
pub(crate) fn any_disk(vm: &Vm, name: &str, path: String, number: u8) -> DomainDisk {
    if vm.spec.layer == Layer::Lxc {
        return container::mounted(&vm.spec, name, path);
    }
    let format = if path.ends_with(".qcow2") { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    DomainDisk { name: name.to_owned(), path, target: target_device(number), format, readonly: name == "seed" }
}

/// `vda`, `vdb`, …, `vdz`, `vdaa`, as Linux counts.
pub(crate) fn target_device(number: u8) -> String {
    let letter = |n: u8| char::from(b'a' + n);
    if number < 26 {
        format!("vd{}", letter(number))
    } else {
        format!("vd{}{}", letter(number / 26 - 1), letter(number % 26))
    }
}

/// A data disk is where it is, else where this incarnation makes it.
fn data_path(desired: &Desired, world: &World<'_>, host: &Host, vm: &Vm, incarnation: u32, disk: &Name) -> String {
    world.disk(&vm.name, &host.name, disk.as_str()).map_or_else(
        || disk_path((&desired.fleet.name, host), &vm.name, incarnation, disk.as_str(), None),
        |found| found.path.to_owned(),
    )
}

impl Target<'_> {
    /// Leaves addresses and seed as a running guest has them: it reads others at its next start only.
    pub(crate) fn keep_addresses(&mut self, obs: &VmObs) {
        for (name, nic) in &mut self.stamp.nics {
            if let Some(old) = obs.stamp.nics.get(name) {
                (nic.address, nic.address6) = (old.address, old.address6);
            }
        }
        container::keep_addresses(&mut self.domain.container, obs);
        self.seed = None;
        self.stamp.seed.clone_from(&obs.stamp.seed);
    }

    /// Addresses that are other ones than a VM has: where, old, new.
    pub(crate) fn readdressed(&self, obs: &VmObs) -> Vec<(String, String, String)> {
        let mut changed = Vec::new();
        for (name, nic) in &self.stamp.nics {
            let Some(old) = obs.stamp.nics.get(name) else { continue };
            let mut add = |field: &str, old: Option<IpAddr>, new: Option<IpAddr>, none: &str| {
                let show = |a: Option<IpAddr>| a.map_or_else(|| none.to_owned(), |a| a.to_string());
                if old != new {
                    changed.push((format!("nics.{name}.{field}"), show(old), show(new)));
                }
            };
            add("address", old.address.map(IpAddr::V4), nic.address.map(IpAddr::V4), "dhcp");
            add("address6", old.address6.map(IpAddr::V6), nic.address6.map(IpAddr::V6), "none");
        }
        changed
    }

    /// The path of one of its disks.
    pub(crate) fn path(&self, disk: &str) -> Option<&str> {
        self.domain.disks.iter().find(|d| d.name == disk).map(|d| d.path.as_str())
    }

    /// A stamp for one of its disks.
    pub(crate) fn disk_stamp(&self, disk: &str, made_from: Option<String>, epoch: u64, incarnation: u32) -> DiskStamp {
        let on_remove = match disk {
            "seed" => OnRemove::Delete,
            "root" if self.stamp.persistent_root => OnRemove::Retain(crate::model::Span::secs(7 * 86_400)),
            "root" => OnRemove::Delete,
            name => self.vm.spec.disks.get(name).map_or(OnRemove::Delete, |d| d.on_remove),
        };
        DiskStamp {
            fleet: self.stamp.fleet.clone(),
            vm: self.stamp.vm.clone(),
            disk: disk.to_owned(),
            incarnation,
            epoch,
            expires: None,
            made_from,
            on_remove,
            phase: crate::model::DiskPhase::Valid,
            marked: None,
        }
    }

    /// The step that writes the placement record.
    pub(crate) fn record(&self) -> Op {
        let record = PlacementRecord { moves: self.moves, ..PlacementRecord::at(&self.host.name, &self.stamp) };
        Op::Record { vm: self.vm.name.clone(), record }
    }

    /// The steps by which a root disk returns to its image before a start; the last one says so on the domain.
    pub(crate) fn reset_root(&self, path: &str) -> Vec<Op> {
        let Some(make) = self.make_root_at(path).filter(|_| self.returns_root()) else { return Vec::new() };
        let (vm, uuid, stamp) = (self.vm.name.clone(), self.domain.uuid, self.fresh_stamp());
        let delete = Op::DeleteDisk { path: path.to_owned(), vm: vm.clone() };
        vec![delete, make, Op::Edit { vm, uuid, edits: Vec::new(), stamp }]
    }

    /// The step that makes the root disk.
    pub(crate) fn make_root(&self) -> Option<Op> {
        self.make_root_at(self.path("root")?)
    }

    /// The step that makes the root disk at a path, which decides its format.
    pub(crate) fn make_root_at(&self, path: &str) -> Option<Op> {
        let image = self.image?;
        let container = image.layer() == Layer::Lxc;
        let made_from = Some(image.disk.digest.as_str().to_owned());
        let mut stamp = self.disk_stamp("root", made_from, 1, self.stamp.incarnation);
        let from = match &self.marks {
            Some(markers) => {
                let values = self.stamp.seed.clone();
                stamp.marked = Some(Marked { values, replaced: BTreeMap::new() });
                let (path, markers) = (image_path(self.host, &image.disk), markers.clone());
                DiskFrom::Marked { path, format: image.format, markers }
            }
            None if container => container::root(self, image),
            None => {
                let (method, format) = (self.clone_method(image, path), image.format);
                DiskFrom::Image { path: image_path(self.host, &image.disk), format, method }
            }
        };
        let size = self.vm.spec.root_size.or(container.then_some(CONTAINER_ROOT));
        Some(Op::MakeDisk(NewDisk { path: path.to_owned(), stamp, from, size }))
    }

    /// How a clone of an image is made at a path: only a qcow2 file can be an overlay, only a file of the image's format
    /// can share its blocks, and only where both folders are on a file system that can.
    fn clone_method(&self, image: &Image, path: &str) -> CloneMethod {
        let format = if path.ends_with(".qcow2") { ImageFormat::Qcow2 } else { ImageFormat::Raw };
        match image.clone {
            CloneMethod::Overlay if format == ImageFormat::Qcow2 => CloneMethod::Overlay,
            CloneMethod::Reflink if format == image.format && self.reflinks == Some(true) => CloneMethod::Reflink,
            CloneMethod::Overlay | CloneMethod::Reflink | CloneMethod::Copy => CloneMethod::Copy,
        }
    }

    /// Its stamp when its root disk was just made.
    pub(crate) fn fresh_stamp(&self) -> Stamp {
        // What tasks did lay on the old one.
        let root = self.stamp.root.map(|_| RootUse::Fresh);
        Stamp { root, tasks: BTreeMap::new(), ..self.stamp.clone() }
    }

    /// Whether its root disk returns to its image before each start.
    pub(crate) fn returns_root(&self) -> bool {
        self.vm.spec.returns_root && self.image.is_some()
    }

    /// Whether a root disk was written with what its markers should be replaced by.
    pub(crate) fn has_marks(&self, stamp: &DiskStamp) -> bool {
        let wanted = self.marks.as_ref().map(|_| &self.stamp.seed);
        stamp.marked.as_ref().map(|m| &m.values) == wanted
    }

    /// The step that makes or exchanges the seed.
    pub(crate) fn make_seed(&self) -> Option<Op> {
        let seed = self.seed.clone()?;
        let path = self.path("seed")?.to_owned();
        let stamp = self.disk_stamp("seed", Some(self.stamp.seed.clone()), 1, self.stamp.incarnation);
        Some(Op::MakeSeed { path, stamp, seed, replace: true })
    }

    /// The steps that make a data disk, or take one that is there again; and what that means for its data.
    pub(crate) fn data_disk(&self, name: &Name, found: Option<Disk<'_>>) -> (Vec<Op>, Option<DataEffect>) {
        let Some(wanted) = self.vm.spec.disks.get(name) else { return (Vec::new(), None) };
        let effect = |effect, bytes| Some(DataEffect { disk: name.as_str().to_owned(), effect, bytes });
        match found {
            None => {
                let path = self.path(name.as_str()).unwrap_or_default().to_owned();
                let stamp = self.disk_stamp(name.as_str(), None, 1, self.stamp.incarnation);
                let container = self.vm.spec.layer == Layer::Lxc;
                let from = if container { DiskFrom::FileSystem } else { DiskFrom::Blank };
                let disk = NewDisk { path, stamp, from, size: Some(wanted.size) };
                (vec![Op::MakeDisk(disk)], effect(DiskFate::Make, wanted.size))
            }
            Some(disk) => {
                let old = &disk.obs.stamp;
                let mut steps = Vec::new();
                let stamp = self.disk_stamp(name.as_str(), None, old.epoch + 1, old.incarnation);
                if old.expires.is_some() || old.on_remove != stamp.on_remove {
                    steps.push(Op::StampDisk { path: disk.path.to_owned(), stamp });
                }
                (steps, effect(DiskFate::Reattach, disk.obs.size))
            }
        }
    }

    /// The address that probes go to: the first interface's.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.stamp.probed_at()
    }

    /// The steps that start it and wait until it is ready.
    pub(crate) fn start(&self) -> [Op; 2] {
        let (vm, uuid) = (self.vm.name.clone(), self.domain.uuid);
        [
            Op::Start { vm: vm.clone(), uuid },
            Op::AwaitReady { vm, uuid, probe: self.vm.spec.ready.clone(), address: self.address() },
        ]
    }
}
