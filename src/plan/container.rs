//! What differs where a VM is a container: its disks are file systems with a path, and the host gives it its addresses.

use std::net::IpAddr;
use std::sync::Arc;

use super::diff::Diff;
use super::steps::{DiskFrom, DomainDisk, Edit, Seed};
use super::target::{Target, Told, image_path};
use super::types::{Block, BlockedBy, Class};
use crate::model::{
    Boot, CONTAINER_DISK, CONTAINER_SEED, CONTAINER_SEED_AT, Container, ContainerAddress, ContainerAddress6, Field,
    Host, Identity, Image, ImageFormat, Init, Layer, Vm, VmObs, VmSpec,
};

/// The ending of a NoCloud seed's file.
pub(crate) const SEED: &str = "iso";
/// The ending of a disk's file that is QEMU's own format.
pub(crate) const QCOW2: &str = "qcow2";
/// The ending of a disk's file that is plain bytes.
pub(crate) const RAW: &str = "raw";

/// The ending of a disk's file on a host.
pub(crate) fn extension(layer: Layer, disk: &str) -> &'static str {
    match (layer, disk) {
        (Layer::Qemu, "seed") => SEED,
        (Layer::Qemu, _) => QCOW2,
        (Layer::Lxc, "seed") => CONTAINER_SEED,
        (Layer::Lxc, _) => CONTAINER_DISK,
    }
}

/// A disk of a container: a file system at a path.
pub(crate) fn mounted(spec: &VmSpec, name: &str, path: String) -> DomainDisk {
    let target = match name {
        "root" => "/",
        "seed" => CONTAINER_SEED_AT,
        name => spec.mounts.get(name).map_or("/", |m| m),
    };
    let target = target.to_owned();
    DomainDisk { name: name.to_owned(), path, target, format: ImageFormat::Raw, readonly: name == "seed" }
}

/// What only a container's definition has.
pub(crate) fn part(vm: &Vm, image: Option<&Image>, nics: &[Told]) -> Option<Container> {
    let image = image?;
    let Boot::Init(init) = &image.boot else { return None };
    // A route needs an address to go out from: where somebody else gives that, they give the route.
    let told = |nic: &Told| {
        let Told { mac, address, prefix, gateway, .. } = *nic;
        Some((mac, ContainerAddress { address: address?, prefix, gateway }))
    };
    let told6 = |nic: &Told| {
        Some((nic.mac, ContainerAddress6 { address: nic.address6?, prefix: nic.prefix6, gateway: nic.gateway6 }))
    };
    let nics = if image.identity == Identity::Host { nics } else { &[] };
    let (addresses, addresses6) = (nics.iter().filter_map(told).collect(), nics.iter().filter_map(told6).collect());
    let mut init = init.clone();
    if image.identity == Identity::Host {
        // What asks for its name at once may find that of the domain: libvirt sets that, and we set ours right afterwards.
        init.environment.entry("HOSTNAME".into()).or_insert_with(|| vm.name.as_str().into());
    }
    Some(Container { init, addresses, addresses6 })
}

/// What the seed of a container is made from. Only its name servers are written into it, but all that its networks say
/// counts for its digest: so a stamp tells what the networks' documents said when it was made.
pub(crate) fn seed(seed: Seed, domain: uuid::Uuid) -> Seed {
    Seed { instance: domain, user_data: None, ssh_keys: Vec::new(), ..seed }
}

/// What people read of the addresses of a container.
pub(crate) fn addresses(container: &Container) -> String {
    let one = |address: IpAddr, prefix: u8, gateway: Option<IpAddr>| {
        let via = gateway.map(|g| format!(" via {g}")).unwrap_or_default();
        format!("{address}/{prefix}{via}")
    };
    let four = container.addresses.values().map(|a| one(a.address.into(), a.prefix, a.gateway.map(IpAddr::V4)));
    let six = container.addresses6.values().map(|a| one(a.address.into(), a.prefix, a.gateway.map(IpAddr::V6)));
    let all: Vec<String> = four.chain(six).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// What people read of first programs, before and after: the environment only as far as it differs.
pub(crate) fn inits(has: Option<&Container>, wanted: &Container) -> (Option<String>, String) {
    let show = |init: &Init, other: Option<&Init>| {
        let differs =
            |(name, value): &(&Arc<str>, &Arc<str>)| other.is_some_and(|o| o.environment.get(*name) != Some(*value));
        let environment = init.environment.iter().filter(differs).map(|(name, value)| format!("{name}={value}"));
        let words = std::iter::once(&init.path).chain(&init.arguments).map(ToString::to_string);
        environment.chain(words).collect::<Vec<_>>().join(" ")
    };
    let has = has.map(|c| &c.init);
    (has.map(|has| show(has, Some(&wanted.init))), show(&wanted.init, has))
}

/// Why a change of a container costs what it costs, where that is not what holds for a virtual machine.
pub(crate) const fn why_class(field: Field, class: Class) -> Option<&'static str> {
    match (field, class) {
        (Field::MaxCpus | Field::MaxMemory, Class::Staged | Class::Reboot) => Some("its maximum is read at start"),
        (Field::Memory | Field::Cpus, Class::Live) => Some("its limit is raised live, without a restart"),
        (Field::Memory | Field::Cpus, Class::Staged | Class::Reboot) => {
            Some("nothing is taken from a running container: it waits for a restart")
        }
        (Field::DiskSize | Field::RootSize, Class::Live) => Some("the file system grows under the running container"),
        (Field::Disks, Class::Staged | Class::Reboot) => Some("disks are mounted at start"),
        (Field::Image, Class::Staged | Class::Reboot) => Some("its first program is begun at start"),
        _ => None,
    }
}

/// What a container's root is made from.
pub(crate) fn root(target: &Target<'_>, image: &Image) -> DiskFrom {
    let hostname = (image.identity == Identity::Host).then(|| target.vm.name.clone());
    DiskFrom::Archive { path: image_path(target.host, &image.disk), hostname }
}

/// A running container keeps its addresses until it is restarted.
pub(crate) fn keep_addresses(wanted: &mut Option<Container>, obs: &VmObs) {
    let Some(wanted) = wanted else { return };
    let Some(has) = &obs.config.container else { return };
    for mac in obs.stamp.nics.values().map(|n| n.mac) {
        match has.addresses.get(&mac) {
            Some(old) => drop(wanted.addresses.insert(mac, old.clone())),
            None => drop(wanted.addresses.remove(&mac)),
        }
        match has.addresses6.get(&mac) {
            Some(old) => drop(wanted.addresses6.insert(mac, old.clone())),
            None => drop(wanted.addresses6.remove(&mac)),
        }
    }
}

/// What stops every change of a VM whose image is for another kind of host than the one that has it.
pub(crate) fn wrong_layer(vm: &Vm, host: &Host) -> Option<Block> {
    if vm.spec.layer == host.layer() {
        return None;
    }
    let (is, runs) = match host.layer() {
        Layer::Lxc => ("its image is for virtual machines", "runs containers only"),
        Layer::Qemu => ("its image is for containers", "runs virtual machines only"),
    };
    Some(Block {
        by: BlockedBy::Policy,
        text: format!("{is}, and host/{}, which has it, {runs}", host.name),
        unblock: format!("give the new one a name of its own, and end this one by a Removal of vm/{}", vm.name),
    })
}

/// Why what a host has is not taken over, if so.
pub(crate) fn not_adopted(host: &Host) -> Option<Block> {
    (host.layer() == Layer::Lxc).then(|| Block {
        by: BlockedBy::Policy,
        text: format!("what host/{} has are containers: only virtual machines are taken over", host.name),
        unblock: "make an archive of its root file system, and a container of that".to_owned(),
    })
}

/// Compares where the disks of a container are mounted; its first program and addresses are compared as one.
pub(crate) fn moved_mounts(target: &Target<'_>, obs: &VmObs, diff: &mut Diff) -> Vec<(String, String, String)> {
    let mut moved = Vec::new();
    for (name, place) in &target.vm.spec.mounts {
        let Some(shape) = obs.config.disks.get(name.as_str()).filter(|d| *d.target != **place) else { continue };
        moved.push((name.to_string(), shape.target.clone(), place.to_string()));
        diff.edits.push(Edit::RemoveDisk(name.to_string()));
        diff.edits.push(Edit::AddDisk(mounted(&target.vm.spec, name.as_str(), shape.path.clone())));
    }
    moved
}
