//! Desired state: what a commit says, with every reference resolved and every default filled in.
//!
//! Made by `config` from what was written; read by `plan`. Nothing here can be half-valid.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::container::Init;
use super::device::Device;
use super::generation::{Generations, Retire, Rollout};
use super::ids::{Address, Name};
use super::image::{Compression, Fetch, Stores};
use super::lease::{Leased, Term};
use super::marker::Marker;
use super::moving::{Fence, HostShell, Layer, Maintenance, Migration, OnUnknown};
use super::network::Six;
use super::origin::Origin;
use super::quantity::{Bytes, Span, Timestamp};
use super::recipe::{Duty, Made, MadeState};
use super::rules::Access;
use super::task::Task;
use super::vm::{Group, RunState, Vm};

/// All that one repository describes.
#[derive(Clone, Debug)]
pub struct Desired {
    /// A label of the snapshot: a commit id, or `folder:<digest>`.
    pub revision: String,
    /// The one Fleet document.
    pub fleet: Fleet,
    /// Hosts by name.
    pub hosts: BTreeMap<Name, Host>,
    /// Images by name.
    pub images: BTreeMap<Name, Image>,
    /// Networks by name.
    pub networks: BTreeMap<Name, Network>,
    /// Services by name.
    pub services: BTreeMap<Name, Service>,
    /// Modules by name.
    pub modules: BTreeMap<Name, Module>,
    /// Groups of like VMs by key: the replicas of one app (`shop/web`), one member of one module instance
    /// (`course/ann/desk`). Start order and spreading are said of groups.
    pub groups: BTreeMap<Arc<str>, Group>,
    /// Every VM that the services and modules expand to, by name.
    pub vms: BTreeMap<Name, Vm>,
    /// VMs that are not on, or do not go to, the generation that their image's document says, each with its own: what a
    /// plan leaves behind, or takes back. `config` leaves it empty; the planner fills it in for itself.
    pub pinned: BTreeMap<Name, Image>,
    /// VMs that are management instances, or are to be, with what is made in them. `config` leaves it empty; the planner
    /// fills it in for itself.
    pub management: BTreeMap<Name, Duty>,
    /// When the lease of each VM of a set for a time began and when it ends. `config` leaves it empty; the planner fills it in
    /// for itself.
    pub leased: BTreeMap<Name, Leased>,
    /// Who may talk to whom, every name in it resolved. What is not in it is closed.
    pub access: Vec<Access>,
    /// Reviewed removals.
    pub removals: Vec<Removal>,
    /// Reviewed adoptions.
    pub adoptions: Vec<Adoption>,
    /// Hosts declared lost, with evidence.
    pub lost: Vec<HostLost>,
    /// Reviewed pauses.
    pub pauses: Vec<Pause>,
    /// What is done inside VMs, by name.
    pub tasks: BTreeMap<Name, Task>,
}

impl Desired {
    /// The image that a VM is, or is to be, made of: its document's generation, unless the VM is pinned to another.
    pub fn image_of(&self, vm: &Vm) -> Option<&Image> {
        let document = self.images.get(vm.spec.image.as_ref()?)?;
        Some(self.pinned.get(&vm.name).filter(|pin| pin.name == document.name).unwrap_or(document))
    }
}

/// The Fleet document.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The fleet's id: stamped on everything that is ours.
    pub name: Name,
    /// Security levels, lowest first.
    pub security_levels: Vec<Name>,
    /// How much may be destroyed, recreated, rebooted by one pass and one day.
    pub limits: Limits,
    /// Weights of the placement score.
    pub weights: Weights,
    /// Whether an approval still holds when a new VM lands on another host.
    pub approval_any_host: bool,
    /// How long a file that nothing needs any more stays in a store.
    pub keep_images: Span,
    /// Where it was written.
    pub origin: Origin,
}

/// Limits of a pass. A pass over a limit blocks every action of that class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Most VMs destroyed (default 3; never more than a tenth of ten or more, see [`Share`]).
    pub destroy: Share,
    /// Most VMs recreated (default 3).
    pub recreate: Share,
    /// Most VMs rebooted (default 25 %).
    pub reboot: Share,
    /// Most VMs moved (default 50 %).
    pub moves: Share,
    /// Actions of any kind at once on one host (default 4).
    pub actions_per_host: u32,
    /// VMs starting at once on one host (default 2).
    pub starts_per_host: u32,
    /// VMs moving at once between any two hosts (default 1).
    pub moves_per_link: u32,
}

/// A number, or a percentage of the fleet's VMs (rounded up, at least 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Share {
    /// A number of VMs.
    Count(u32),
    /// Percent of the fleet's observed VMs, 0 to 100.
    Percent(u8),
}

/// Weights of the placement score, each 0 or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of free memory.
    pub memory: f64,
    /// Of free processors.
    pub cpu: f64,
    /// Of free slots.
    pub slots: f64,
    /// Of cost: cheaper hosts first.
    pub cost: f64,
}

/// How QEMU runs guests on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// KVM where a probe guest boots with it, else software emulation.
    Auto,
    /// Hardware virtualisation.
    Kvm,
    /// Software emulation (TCG).
    Tcg,
}

/// A Host document.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// libvirt connection URI.
    pub connection: Arc<str>,
    /// The host UUID it must have, when pinned.
    pub uuid: Option<Uuid>,
    /// How programs beside libvirt are run on it.
    pub shell: HostShell,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Site: VMs move among the hosts of one site; hosts without one are a site of their own together.
    pub site: Option<Name>,
    /// Places for VMs.
    pub slots: u32,
    /// Processors to plan with, when not what libvirt reports.
    pub cpus: Option<u32>,
    /// Memory to plan with, when not what libvirt reports.
    pub memory: Option<Bytes>,
    /// Processors kept for the host itself.
    pub reserve_cpus: u32,
    /// Memory kept for the host itself.
    pub reserve_memory: Bytes,
    /// Virtual processors for each real one, in thousandths (4000 = 4 for 1).
    pub overcommit_cpu_milli: u32,
    /// The same for memory.
    pub overcommit_memory_milli: u32,
    /// Folder of the image store on the host.
    pub images_dir: Arc<str>,
    /// Folder of the slots on the host.
    pub slots_dir: Arc<str>,
    /// Name of the storage that the slots folder lies on, when other hosts have the same files there.
    pub shared: Option<Name>,
    /// How VMs move to and from it.
    pub migration: Migration,
    /// How it is made certain to run nothing any more.
    pub fence: Option<Fence>,
    /// Index into [`Fleet::security_levels`]; 0 when there are none.
    pub security: u32,
    /// Cost of a processor hour, in thousandths of the fleet's currency.
    pub cost_cpu_hour_milli: u64,
    /// Its interfaces, by the names that networks give their uplinks.
    pub uplinks: BTreeMap<Name, Arc<str>>,
    /// What it has to give to VMs, by name. Devices of one name on several hosts are equal.
    pub devices: BTreeMap<Name, Device>,
    /// KVM, software emulation, or decide by a probe.
    pub acceleration: Acceleration,
    /// Whether it takes new VMs and keeps those that it has.
    pub maintenance: Maintenance,
    /// Where it was written.
    pub origin: Origin,
}

impl Host {
    /// What runs guests on it.
    pub fn layer(&self) -> Layer {
        Layer::of(&self.connection)
    }

    /// The interface that a network's uplink is here.
    pub fn device_of(&self, uplink: &str) -> Arc<str> {
        let named = self.uplinks.iter().find(|(name, _)| name.as_str() == uplink);
        named.map_or_else(|| uplink.into(), |(_, device)| device.clone())
    }
}

/// A digest that content must have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    text: Arc<str>,
}

impl Digest {
    /// `sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, String> {
        let (algorithm, hex) = text.split_once(':').ok_or("a digest is `sha256:` and 64 hexadecimal digits")?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            other => return Err(format!("unknown digest algorithm `{other}`: sha256 or sha512")),
        };
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != length || !hex.bytes().all(lower_hex) {
            return Err(format!("{algorithm} needs {length} lower-case hexadecimal digits, not `{hex}`"));
        }
        Ok(Self { text: text.into() })
    }
    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.text.split_once(':').map_or("", |(a, _)| a)
    }
    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, h)| h)
    }
    /// The first 12 hexadecimal digits: how people and file names call a generation.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}
impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.text.as_ref().to_owned()
    }
}

/// Where a file comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A path: relative to the fleet's folder, or absolute, on the controller.
    Path(Arc<str>),
    /// `http://`, `https://` or `file://`.
    Url(Arc<str>),
    /// An absolute path on a host of the fleet.
    Host {
        /// The host.
        host: Name,
        /// The path.
        path: Arc<str>,
    },
}

impl Source {
    /// The path or the address.
    pub fn text(&self) -> &str {
        match self {
            Self::Path(text) | Self::Url(text) | Self::Host { path: text, .. } => text,
        }
    }
}

/// A file with the digest that it must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageFile {
    /// Where from.
    pub source: Source,
    /// What it must be, as it is fetched: before it is unpacked.
    pub digest: Digest,
    /// How it is packed there.
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
    /// Its length as it is fetched, where that was written down: another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Its length when it is unpacked, where that was written down: a longer one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpacked: Option<Bytes>,
}

impl ImageFile {
    /// A file that is kept as it comes.
    pub const fn new(source: Source, digest: Digest) -> Self {
        Self { source, digest, compression: Compression::None, size: None, unpacked: None }
    }
}

/// How a VM of an image boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Boot {
    /// From its disk.
    Disk,
    /// From a kernel that the host hands over.
    Kernel {
        /// The kernel.
        kernel: ImageFile,
        /// The initial RAM disk.
        initrd: Option<ImageFile>,
        /// The kernel's command line.
        command_line: Arc<str>,
    },
    /// A container begins with a program.
    Init(Init),
}

/// The format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU copy-on-write.
    Qcow2,
    /// Plain bytes.
    Raw,
    /// A tar archive of a root file system, plain or compressed: for containers.
    Rootfs,
}

/// How a clone learns its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// A NoCloud seed disk.
    CloudInit,
    /// The host sets address, route, name and name servers before the first program runs: containers only.
    Host,
    /// Markers in the image, replaced while its disk is copied into the slot.
    Marker,
    /// Not at all.
    None,
}

/// How a root disk is made from its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloneMethod {
    /// A copy-on-write overlay: instant.
    Overlay,
    /// A copy of the file as it is, which shares its blocks where the file system can (ioctl_ficlone(2)).
    Reflink,
    /// A full copy, holes kept.
    Copy,
}

/// An Image document.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name.
    pub name: Name,
    /// The disk.
    pub disk: ImageFile,
    /// Its format.
    pub format: ImageFormat,
    /// How it boots.
    pub boot: Boot,
    /// How a clone learns its address.
    pub identity: Identity,
    /// Overlay, reflink or copy.
    pub clone: CloneMethod,
    /// What the document calls the generation that is current, when it names generations.
    pub generation: Option<Name>,
    /// The generations that the document names.
    pub generations: Generations,
    /// How sets take a new generation.
    pub rollout: Rollout,
    /// Newest generations that stores keep, the current one among them; at least 1 (default 2).
    pub keep: u32,
    /// What happens to VMs of an older generation.
    pub retire: Retire,
    /// Which hosts keep it.
    pub stores: Stores,
    /// Who asks its source.
    pub fetch: Fetch,
    /// What stands in it for what each clone is told, by name.
    pub markers: BTreeMap<Name, Marker>,
    /// How its generations are made, when that is in the fleet.
    pub made: Option<Made>,
    /// Where it was written.
    pub origin: Origin,
}

impl Image {
    /// What people call its current generation: the name that its document gives it, else its digest's first digits.
    pub fn called(&self) -> String {
        let revision = self.made.as_ref().and_then(|m| m.known.get(&self.disk.digest)).map(|p| &p.revision);
        match revision {
            Some(revision) => format!("revision {revision}"),
            None => self.disk.digest.short().to_owned(),
        }
    }
    /// Whether nothing is sealed yet that its VMs could be made of.
    pub fn is_unsealed(&self) -> bool {
        self.made.as_ref().is_some_and(|m| matches!(m.state, MadeState::Nothing | MadeState::Unknown))
    }
    /// The format of its clones' root disks.
    pub fn root_format(&self) -> ImageFormat {
        match (self.identity, self.clone) {
            // What a guest sees as one text is one text in the file.
            (Identity::Marker, _) => ImageFormat::Raw,
            (_, CloneMethod::Reflink) => self.format,
            (_, CloneMethod::Overlay | CloneMethod::Copy) => ImageFormat::Qcow2,
        }
    }
    /// The files of the image, the disk first: what a host's store must hold.
    pub fn files(&self) -> Vec<&ImageFile> {
        let mut files = vec![&self.disk];
        if let Boot::Kernel { kernel, initrd, .. } = &self.boot {
            files.push(kernel);
            files.extend(initrd);
        }
        files
    }
}

/// How a network reaches further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Not beyond its bridge (and the host's own address on it).
    Isolated,
    /// As the existing bridge does; nothing of ours. Where we make it and the host is the guests' gateway, it forwards.
    Routed,
    /// Beyond its bridge under an address of the host.
    Nat,
}

/// The cable of a network's bridges.
#[derive(Clone, Debug)]
pub struct Cable {
    /// The name that hosts give it (`uplinks`), else the interface itself.
    pub name: Arc<str>,
    /// The VLAN of it.
    pub vlan: Option<u16>,
    /// Whether the interface's own addresses go over to the bridge.
    pub takes_over: bool,
}

/// A Network document.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// The bridge's name on each host, at most 15 characters.
    pub bridge: Arc<str>,
    /// Whether the bridge is ours to make and remove.
    pub create_bridge: bool,
    /// Its cable, where we make it and it has one.
    pub cable: Option<Cable>,
    /// How far it reaches.
    pub mode: NetworkMode,
    /// The subnet, when addresses are planned.
    pub subnet: Option<ipnet::Ipv4Net>,
    /// The host's own address on the bridge.
    pub host_address: Option<Ipv4Addr>,
    /// The guests' default route.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers given to guests.
    pub dns: Vec<IpAddr>,
    /// First and last address that may be planned. `None`, as in [`Self::six`]: the network gives addresses itself (DHCP).
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// What it gives in IPv6.
    pub six: Six,
    /// Whether what nobody allows is dropped for VMs on it (`rules: open`: it is not).
    pub closed: bool,
    /// Where probes come from, when not from the address of the VM's host on the bridge.
    pub probes_from: Vec<ipnet::IpNet>,
    /// Where it was written.
    pub origin: Origin,
}

/// A Service document.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its apps by name, with the keys of their groups.
    pub apps: BTreeMap<Name, App>,
    /// When it is wanted.
    pub term: Term,
    /// Where it was written.
    pub origin: Origin,
}

/// One app of a service.
#[derive(Clone, Debug)]
pub struct App {
    /// Key of its group.
    pub group: Arc<str>,
    /// Replicas wanted now.
    pub min: u32,
    /// Replicas at most.
    pub max: u32,
    /// What happens while the host of a replica is Unknown.
    pub on_unknown: OnUnknown,
}

/// A Module document.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name.
    pub name: Name,
    /// Its VMs' names.
    pub members: Vec<Name>,
    /// Standing instances by name.
    pub instances: BTreeMap<Name, RunState>,
    /// When each instance is wanted.
    pub terms: BTreeMap<Name, Term>,
    /// Where it was written.
    pub origin: Origin,
}

/// What a Removal does with data disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RemovalData {
    /// Kept for this long.
    Retain(Span),
    /// Deleted now.
    Delete,
}

/// A Removal document: allows to delete what it names.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The document's name.
    pub name: Name,
    /// What may go: a VM, a service or module and its VMs, or the whole fleet.
    pub target: Address,
    /// What happens to its data disks.
    pub data: RemovalData,
    /// Why.
    pub reason: Arc<str>,
    /// Where it was written.
    pub origin: Origin,
}

/// An Adoption document: allows to take over a VM that exists.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The document's name.
    pub name: Name,
    /// The VM of the fleet that it becomes.
    pub vm: Name,
    /// The UUID of the domain as it is now.
    pub uuid: Uuid,
    /// Why.
    pub reason: Arc<str>,
    /// Where it was written.
    pub origin: Origin,
}

/// A HostLost document: the host will not come back with its VMs running.
#[derive(Clone, Debug)]
pub struct HostLost {
    /// The document's name.
    pub name: Name,
    /// The host.
    pub host: Name,
    /// How it is known that nothing runs there any more.
    pub evidence: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// Where it was written.
    pub origin: Origin,
}

/// What a Pause covers.
pub type Scope = Address;

/// A Pause document: nothing in its scope is changed until it ends.
#[derive(Clone, Debug)]
pub struct Pause {
    /// The document's name.
    pub name: Name,
    /// What is left alone.
    pub scope: Scope,
    /// Who asked.
    pub who: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// When it ends.
    pub until: Timestamp,
    /// Where it was written.
    pub origin: Origin,
}
