//! Observed state: what the hypervisors say now, reduced to the fields that are ours.
//!
//! A part is Known, Absent or Unknown. "Not seen on the hosts we reached" is not Absent.
//! Its JSON form is the recorded observed state of `observe --out DIR` and `plan --observed DIR`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bridge::{Border, LinkObs, Uplink};
use super::container::Container;
use super::desired::{Acceleration, Digest};
use super::device::DeviceAt;
use super::generation::{ImageNote, Rolled, Unready};
use super::ids::{Mac, Name};
use super::lease::Leased;
use super::management::Management;
use super::moving::{CpuObs, DiskPhase, Fenced, JobObs, Layer, LinkPast, MoveObs, PauseCause, Tries};
use super::quantity::{Bytes, Timestamp};
use super::quarantine::{Guard, Quarantine};
use super::rules::FilterObs;
use super::task::TaskMark;
use super::vm::{Display, Firmware, OnRemove, Probe, Protection, StopPolicy};

/// What was learnt of one part of the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Observation<T> {
    /// Seen.
    Known(T),
    /// Looked for, and not there.
    Absent,
    /// Not learnt, and why.
    Unknown(Fault),
}

impl<T> Observation<T> {
    /// The value, when it is known.
    pub fn known(&self) -> Option<&T> {
        if let Self::Known(value) = self { Some(value) } else { None }
    }
}

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// What was tried and what came back.
    pub text: String,
    /// When it was last known, if ever.
    pub since: Option<Timestamp>,
}

/// The state of all hosts of a fleet at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observed {
    /// Version of this format: 1.
    pub format: u32,
    /// The fleet's id; `None` when nothing was observed (`--observed none`).
    pub fleet: Option<Name>,
    /// When it was observed.
    pub at: Timestamp,
    /// Every host that was asked, by name.
    pub hosts: BTreeMap<Name, Observation<HostObs>>,
    /// Placement records by VM: where each was last put, written before its first define.
    #[serde(default)]
    pub records: BTreeMap<Name, PlacementRecord>,
    /// Hosts that have an older record of a VM than [`Self::records`] has: they were not seen when it moved on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub strays: BTreeMap<Name, BTreeSet<Name>>,
    /// Whether the store (limits, holds, approvals) was there. When it was lost, disruptive effects wait.
    #[serde(default)]
    pub store: StoreState,
}

impl Observed {
    /// Takes records as hosts have them, by host: of several of one VM, the newest holds.
    pub fn take_records(&mut self, seen: &[(&Name, &BTreeMap<Name, PlacementRecord>)]) {
        for (vm, record) in seen.iter().flat_map(|(_, records)| records.iter()) {
            let newest = match self.records.remove(vm) {
                Some(other) => other.newer(record.clone()),
                None => record.clone(),
            };
            self.records.insert(vm.clone(), newest);
        }
        for (host, records) in seen {
            let old = |(vm, record): &(&Name, &PlacementRecord)| {
                self.records.get(*vm).is_some_and(|newest| record.rank() < newest.rank())
            };
            for (vm, _) in records.iter().filter(old) {
                self.strays.entry(vm.clone()).or_default().insert((*host).clone());
            }
        }
    }
}

/// What the store knew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreState {
    /// True when hosts carry stamps of this fleet but the store is empty: it was lost.
    pub lost: bool,
    /// VMs destroyed, recreated and rebooted in the last 24 h.
    pub destroyed_day: u32,
    /// Recreated in the last 24 h.
    pub recreated_day: u32,
    /// Rebooted in the last 24 h.
    pub rebooted_day: u32,
    /// Moved in the last 24 h.
    #[serde(default)]
    pub moved_day: u32,
    /// Milliseconds from start to ready of past boots by image digest, at most the last 9: estimates of downtime.
    #[serde(default)]
    pub boot_millis: BTreeMap<String, Vec<u64>>,
    /// What past moves say of each link, by [`link_key`](super::moving::link_key).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, LinkPast>,
    /// Since when each host that is Unknown did not answer, at one look after the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<Name, Timestamp>,
    /// Hosts that were fenced and have not been seen since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fenced: BTreeMap<Name, Fenced>,
    /// Moves that failed, by VM, until one succeeds or an hour has passed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tries: BTreeMap<Name, Tries>,
    /// Recipes of generations that hosts which are not Known had in their stores.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<Name, BTreeSet<Digest>>,
    /// VMs that did not get ready on a generation, until they do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unready: BTreeMap<Name, Unready>,
    /// Images of which a generation could not be made, until its recipe is another one, or somebody asks again. The digest is
    /// the recipe's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmade: BTreeMap<Name, Unready>,
}

/// The proof that a host got a VM, or never did.
///
/// While a VM moves, `host` is the target and `from` the source: it may be at either, and at one of them at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementRecord {
    /// The host it was put on.
    pub host: Name,
    /// The host it comes from, while it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Name>,
    /// Counts its moves: of two records the higher count holds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moves: u32,
    /// It moves while it does not run: until its old disks are put aside, what lies at the target is a copy of them. Of a
    /// move while it runs, what lies at the target is the newer one as soon as it was handed over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// The incarnation that was put there.
    pub incarnation: u32,
    /// The addresses that it was given, by interface.
    #[serde(default)]
    pub addresses: BTreeMap<Name, Ipv4Addr>,
    /// The IPv6 addresses that it was given, by interface.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses6: BTreeMap<Name, Ipv6Addr>,
    /// Its lease, where it is one of a set for a time; of a VM that ended with it, that it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<Leased>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `skip_serializing_if` gives a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl PlacementRecord {
    /// Of two records of one VM, the one that holds: the later move, and of one move its end.
    #[must_use]
    pub fn newer(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }
    /// What makes one record newer than another.
    const fn rank(&self) -> (u32, u32, bool) {
        (self.moves, self.incarnation, self.from.is_none())
    }
    /// Every address that it was given.
    pub fn all_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let four = self.addresses.values().copied().map(IpAddr::V4);
        four.chain(self.addresses6.values().copied().map(IpAddr::V6))
    }
    /// The record of a VM that never moved.
    pub fn at(host: &Name, stamp: &Stamp) -> Self {
        Self {
            addresses: stamp.nics.iter().filter_map(|(n, s)| Some((n.clone(), s.address?))).collect(),
            addresses6: stamp.nics.iter().filter_map(|(n, s)| Some((n.clone(), s.address6?))).collect(),
            leased: stamp.leased.clone(),
            ..Self::new(host.clone(), stamp.incarnation)
        }
    }
    /// The record of a VM that never moved and has no address.
    pub const fn new(host: Name, incarnation: u32) -> Self {
        Self {
            host,
            from: None,
            moves: 0,
            cold: false,
            incarnation,
            addresses: BTreeMap::new(),
            addresses6: BTreeMap::new(),
            leased: None,
        }
    }
    /// Whether its VM ended with its lease: it is nowhere.
    pub fn is_over(&self) -> bool {
        self.leased.as_ref().is_some_and(|l| l.over.is_some())
    }
    /// The hosts on which the VM may be.
    pub fn places(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.host).chain(&self.from)
    }
}

/// One host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostObs {
    /// libvirt's host UUID (`virConnectGetCapabilities`).
    pub uuid: Uuid,
    /// When it was observed.
    pub at: Timestamp,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// libvirt and QEMU versions, for people.
    pub version: String,
    /// What runs guests on it.
    #[serde(default, skip_serializing_if = "Layer::is_qemu")]
    pub layer: Layer,
    /// Its processors; `None` where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuObs>,
    /// What it can do when VMs move; `None` where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveObs>,
    /// What the acceleration probe found; `None` where it was not asked for.
    pub acceleration: Option<Acceleration>,
    /// Machine types that this QEMU knows; empty when not asked.
    #[serde(default)]
    pub machines: Vec<String>,
    /// Bytes free where slots live.
    pub slots_free: Bytes,
    /// Bytes free where images live.
    pub images_free: Bytes,
    /// Whether files of the image store and the slots folder can share their blocks: both lie on one file system that can
    /// (ioctl_ficlone(2)). `None` where no image asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflink: Option<bool>,
    /// Domains that carry our stamp, by the VM's name.
    pub vms: BTreeMap<Name, VmObs>,
    /// Disks in the slots folder that carry a stamp file of this fleet, by path.
    pub disks: BTreeMap<String, DiskObs>,
    /// Files in the image store, by digest.
    pub images: BTreeMap<Digest, ImageObs>,
    /// Bridges that a network of the fleet names, by bridge name.
    pub bridges: BTreeMap<String, BridgeObs>,
    /// Interfaces that are the uplink of a network, by name; `None` where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<BTreeMap<String, LinkObs>>,
    /// The filter in force; `None` where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterObs>,
    /// Domains without our stamp: never touched; they count against capacity.
    pub unmanaged: Vec<Unmanaged>,
    /// Who holds the controller's lock, when someone else does.
    #[serde(default)]
    pub lock: Option<LockHolder>,
}

/// What a domain does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Power {
    /// Running.
    Running,
    /// Paused: its memory is in use, its processors stand still.
    Paused,
    /// Shutting down.
    ShuttingDown,
    /// Shut off.
    Stopped,
    /// Shut off with a managed save image: the next start resumes it.
    Suspended,
    /// Shut off by a crash.
    Crashed,
}

impl Power {
    /// What people call it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShuttingDown => "shutting down",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::Crashed => "crashed",
        }
    }
    /// Whether a QEMU process exists.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::ShuttingDown)
    }
}

/// Whether a VM answers its readiness probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Readiness {
    /// The probe succeeded, or there is none and it runs.
    Ready,
    /// The probe failed, and how.
    NotReady(String),
    /// Not probed.
    NotProbed,
}

/// What we wrote into a domain's metadata. Everything that `plan` needs to know of the past travels with the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stamp {
    /// The fleet's id.
    pub fleet: Name,
    /// The VM's name.
    pub vm: Name,
    /// 1 for the first, one more with each recreate.
    pub incarnation: u32,
    /// Protection in force.
    pub protect: Protection,
    /// Digest of the applied specification ([`crate::plan::spec_digest`]): tells drift from change.
    pub spec: String,
    /// Digest of the image's disk; `None` for an adopted VM that was not made from an image.
    pub image: Option<Digest>,
    /// Name of the image, for people.
    pub image_name: Option<Name>,
    /// The generation that it had before it was rolled, and whether it was taken back from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled: Option<Rolled>,
    /// Set while it is a management instance: a generation of an image is made ready in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<Management>,
    /// Digest of what the seed was made from.
    pub seed: String,
    /// Interfaces by name: what exists keeps its MAC and address.
    pub nics: BTreeMap<Name, NicStamp>,
    /// The group key, for spreading rules of VMs whose YAML has gone.
    pub group: Arc<str>,
    /// Keys of the groups that it depends on: VMs whose YAML has gone still stop in the right order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Arc<str>>,
    /// Its readiness probe as applied.
    pub ready: Option<Probe>,
    /// Its guard as applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Why it is in quarantine, when it is: its rules are closed, and nothing heals, rolls or starts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// How it is stopped, for VMs whose YAML has gone.
    pub stop: StopPolicy,
    /// Whether the root disk is data: then the VM does not go without a Removal.
    pub persistent_root: bool,
    /// What the root disk is, where it returns to its image at each start. A guest that runs carries here what it was at its
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootUse>,
    /// Set for an adopted VM: names of its disks by target device (`vda` → `root`). Its disks are not ours to
    /// delete without a Removal that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<BTreeMap<String, String>>,
    /// Tasks that were begun on it, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<Name, TaskMark>,
    /// Its lease, where it is one of a set for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<Leased>,
}

/// What a root disk is that returns to its image at each start. Written before our start, and again when the guest runs: so
/// whoever starts the domain otherwise, by hand or after a crash, starts it as one that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RootUse {
    /// As its image, never started from.
    Fresh,
    /// A guest was started from it.
    Used,
}

/// An interface in a stamp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NicStamp {
    /// Its MAC.
    pub mac: Mac,
    /// Its planned address; `None`: the network gives it, or has none of this family.
    pub address: Option<Ipv4Addr>,
    /// Its planned IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
}

impl NicStamp {
    /// An interface whose network gives it its addresses.
    pub const fn new(mac: Mac) -> Self {
        Self { mac, address: None, address6: None }
    }
    /// Its planned addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.address.map(IpAddr::V4).into_iter().chain(self.address6.map(IpAddr::V6))
    }
}

impl Stamp {
    /// Where its TCP and HTTP probes go: the address of its first interface by name that has a planned one; an IPv6 address
    /// where none has one of IPv4.
    pub fn probed_at(&self) -> Option<IpAddr> {
        let four = self.nics.values().find_map(|nic| nic.address).map(IpAddr::V4);
        four.or_else(|| self.nics.values().find_map(|nic| nic.address6).map(IpAddr::V6))
    }
}

/// One domain of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmObs {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its libvirt name.
    pub domain: String,
    /// Our stamp.
    pub stamp: Stamp,
    /// What it does.
    pub power: Power,
    /// What the guest has now (live XML), when it is active.
    pub live: Option<Shape>,
    /// What it gets at the next start (inactive XML).
    pub config: Shape,
    /// What its root disk was when it was started, where it returns to its image and the guest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<RootUse>,
    /// libvirt's autostart: always off with us.
    pub autostart: bool,
    /// Whether it has no definition on this host: one that arrives from another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
    /// Why it is paused, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseCause>,
    /// The job that runs on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobObs>,
    /// Named processor model of its definition, when it has one (`<cpu><model>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Whether its probe succeeds.
    pub ready: Readiness,
    /// What its interfaces were seen to have whose network gives them their addresses, while it runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<Mac, BTreeSet<IpAddr>>,
    /// Where its screen is, from live XML: a socket path or `host:port`.
    pub screen: Option<String>,
    /// Whether its guest agent can be asked, while it is active; `None` where that was not looked for, and of a container,
    /// whose host needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentObs>,
}

/// How far a guest agent can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AgentObs {
    /// The VM has no channel for one.
    NoChannel,
    /// It has one, and nobody in the guest listens there.
    Silent,
    /// Somebody in the guest has the channel open.
    Connected,
}

/// The projection of a domain's XML onto the fields that are ours. Fields we do not own do not exist for us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shape {
    /// `<vcpu current=…>`.
    pub cpus: u32,
    /// `<vcpu>`.
    pub max_cpus: u32,
    /// `<currentMemory>`; live: the balloon's actual value.
    pub memory: Bytes,
    /// `<memory>`.
    pub max_memory: Bytes,
    /// `<os><type machine=…>` as written, for example `pc-q35-7.2`.
    pub machine: String,
    /// `<os firmware=…>`.
    pub firmware: Firmware,
    /// `<domain type=…>`.
    pub acceleration: Acceleration,
    /// `<video>`'s resolution.
    pub display: Option<Display>,
    /// Path of the kernel, when booted from one.
    pub kernel: Option<String>,
    /// Path of the initial RAM disk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub command_line: Option<String>,
    /// Disks by name, from the user alias `ua-disk-<name>` (`root`, `seed`, or the data disk's name), else from
    /// the stamp of an adopted VM, else the target device.
    pub disks: BTreeMap<String, ShapeDisk>,
    /// Interfaces by MAC.
    pub nics: BTreeMap<Mac, ShapeNic>,
    /// What only a container has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Devices of the host that it has: ours by name, from the user alias `ua-dev-<name>`; others by what they are, as
    /// `usb 0529:0001`, which is nobody's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, DeviceAt>,
    /// Where another device can be plugged in while it runs.
    #[serde(default, skip_serializing_if = "Ports::is_none")]
    pub ports: Ports,
}

/// Where devices can be plugged into a domain that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ports {
    /// Whether it has a USB controller.
    pub usb: bool,
    /// PCIe root ports with nothing in them.
    pub pci: u32,
}

impl Ports {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Shape {
    /// The devices that we gave it: name and what it is. One that somebody else gave it has no name.
    pub fn given(&self) -> impl Iterator<Item = (Name, DeviceAt)> + '_ {
        self.devices.iter().filter_map(|(key, at)| Some((Name::new(key).ok()?, *at)))
    }
}

impl VmObs {
    /// The addresses that an interface was seen to have.
    pub fn seen_at(&self, nic: &NicStamp) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.get(&nic.mac).into_iter().flatten().copied()
    }
    /// Where its TCP and HTTP probes go: a planned address, else one that it was seen to have.
    pub fn probed_at(&self) -> Option<IpAddr> {
        self.stamp.probed_at().or_else(|| self.stamp.nics.values().find_map(|nic| self.seen_at(nic).next()))
    }
    /// The devices of its host that it holds now: nobody else can have them before it gives them back.
    pub fn holds(&self) -> impl Iterator<Item = DeviceAt> + '_ {
        self.live.iter().filter(|_| self.power.is_active()).flat_map(|live| live.devices.values().copied())
    }
    /// Whether somebody started it from a root disk that was used before, which should have returned to its image.
    pub fn runs_used(&self) -> bool {
        self.power == Power::Running && self.began == Some(RootUse::Used)
    }
    /// Whether it has a device of its host, now or at its next start: then it does not move while it runs.
    pub fn has_devices(&self) -> bool {
        !self.config.devices.is_empty() || self.holds().next().is_some()
    }
}

/// A disk as the domain sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShapeDisk {
    /// `<source file=…>`.
    pub path: String,
    /// `<target dev=…>`, for example `vda`.
    pub target: String,
    /// `<readonly/>`.
    pub readonly: bool,
}

/// An interface as the domain sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShapeNic {
    /// `<source bridge=…>`.
    pub bridge: String,
    /// `<target dev=…>`.
    pub tap: Option<String>,
}

/// The stamp file beside a disk (`<disk>.stamp`, JSON): disks outlive domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskStamp {
    /// The fleet's id.
    pub fleet: Name,
    /// The VM's name.
    pub vm: Name,
    /// `root`, `seed`, or the data disk's name.
    pub disk: String,
    /// The incarnation in which it was made.
    pub incarnation: u32,
    /// Counts the times it was handed to a domain; the highest one is the valid copy.
    pub epoch: u64,
    /// When it may be deleted: set when its VM went and the disk was kept.
    pub expires: Option<Timestamp>,
    /// Digest of the image under it (root), or of what the seed was made from.
    pub made_from: Option<String>,
    /// What happens to it when its VM goes: travels with the disk, so it outlives the YAML.
    pub on_remove: OnRemove,
    /// What this copy is worth, when its VM moves or moved.
    #[serde(default, skip_serializing_if = "DiskPhase::is_valid")]
    pub phase: DiskPhase,
    /// What its markers were replaced by, where its image has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked: Option<Marked>,
}

/// What the markers of a disk were replaced by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Marked {
    /// Digest of the markers and their values.
    pub values: String,
    /// How often each was replaced, by name; empty while the disk is made.
    #[serde(default)]
    pub replaced: BTreeMap<Name, u64>,
}

/// A disk file in a slots folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskObs {
    /// Its stamp.
    pub stamp: DiskStamp,
    /// Size that the guest sees.
    pub size: Bytes,
    /// Bytes used on the host.
    pub used: Bytes,
    /// The file under an overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
}

/// A file in an image store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageObs {
    /// Its path on the host.
    pub path: String,
    /// Bytes used on the host.
    pub used: Bytes,
    /// Which generation of which image it is; `None` for files that came without a note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<ImageNote>,
    /// The fleets that marked it as theirs; with the moment since which nothing of a fleet needs it, where that is so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<Name, Option<Timestamp>>,
}

/// A bridge on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeObs {
    /// Whether we made it (its alias says so: `stablehand:<fleet>`).
    pub ours: bool,
    /// The host's addresses on it, with prefix lengths; of IPv6 those of global scope.
    pub addresses: Vec<String>,
    /// Whether it is up.
    pub up: bool,
    /// Ports on it: taps and uplinks.
    pub ports: Vec<String>,
    /// The cable that we gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// What the host does with packets between it and all else, where it is ours; `None` where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub border: Option<Border>,
    /// What is not as we made it, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<String>,
}

/// A domain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unmanaged {
    /// Its libvirt name.
    pub domain: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it does.
    pub power: Power,
    /// What it is made of: adoption compares this.
    pub shape: Shape,
    /// The fleet whose stamp it carries, when it is another fleet's.
    pub fleet: Option<Name>,
}

/// Who may act on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockHolder {
    /// Random token of the holder.
    pub token: String,
    /// `user@machine, process id, verb`: what people see.
    pub who: String,
    /// When it was taken.
    pub since: Timestamp,
}
