//! Desired state: what a commit says, with every reference resolved and every default filled in.
//!
//! Made by `config` from what was written; read by `plan`. Nothing here can be half-valid.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{Address, Name};
use super::origin::{Origin, Origins};
use super::quantity::{Bytes, Span, Timestamp};

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
    /// Reviewed removals.
    pub removals: Vec<Removal>,
    /// Reviewed adoptions.
    pub adoptions: Vec<Adoption>,
    /// Hosts declared lost, with evidence.
    pub lost: Vec<HostLost>,
    /// Reviewed pauses.
    pub pauses: Vec<Pause>,
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
    /// Actions of any kind at once on one host (default 4).
    pub actions_per_host: u32,
    /// VMs starting at once on one host (default 2).
    pub starts_per_host: u32,
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
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Site, for links and costs.
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
    /// Index into [`Fleet::security_levels`]; 0 when there are none.
    pub security: u32,
    /// Cost of a processor hour, in thousandths of the fleet's currency.
    pub cost_cpu_hour_milli: u64,
    /// KVM, software emulation, or decide by a probe.
    pub acceleration: Acceleration,
    /// No new VMs (`maintenance: cordon`).
    pub cordoned: bool,
    /// Where it was written.
    pub origin: Origin,
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
}

/// A file with the digest that it must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageFile {
    /// Where from.
    pub source: Source,
    /// What it must be.
    pub digest: Digest,
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
}

/// The format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU copy-on-write.
    Qcow2,
    /// Plain bytes.
    Raw,
}

/// How a clone learns its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// A NoCloud seed disk.
    CloudInit,
    /// Not at all.
    None,
}

/// How a root disk is made from its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloneMethod {
    /// A copy-on-write overlay: instant.
    Overlay,
    /// A full copy.
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
    /// Overlay or copy.
    pub clone: CloneMethod,
    /// Where it was written.
    pub origin: Origin,
}

impl Image {
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
    /// As the existing bridge does; nothing of ours.
    Routed,
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
    /// How far it reaches.
    pub mode: NetworkMode,
    /// The subnet, when addresses are planned.
    pub subnet: Option<ipnet::Ipv4Net>,
    /// The host's own address on the bridge.
    pub host_address: Option<Ipv4Addr>,
    /// The guests' default route.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers given to guests.
    pub dns: Vec<Ipv4Addr>,
    /// First and last address that may be planned. `None`: the network gives addresses itself (DHCP).
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Where it was written.
    pub origin: Origin,
}

/// Whether something should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Running.
    Started,
    /// Defined, not running.
    Stopped,
    /// Saved to disk, to be resumed.
    Suspended,
}

/// What may not be done to a VM without a Removal that names it. Stamped on the VM, so it outlives the YAML.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Anything the YAML says.
    #[default]
    None,
    /// Not destroyed.
    Destroy,
    /// Neither destroyed nor recreated.
    Recreate,
    /// Nor stopped or rebooted by a plan.
    All,
}

/// What happens to a data disk when its VM goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnRemove {
    /// Kept for this long, then deleted by a later pass.
    Retain(Span),
    /// Deleted with the VM.
    Delete,
}

/// A data disk: persistent, outlives its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataDisk {
    /// Its size; grows, never shrinks.
    pub size: Bytes,
    /// What happens when the VM goes.
    pub on_remove: OnRemove,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// The network's name.
    pub network: Name,
    /// A fixed address, when one is asked for.
    pub address: Option<Ipv4Addr>,
}

/// Firmware of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF, chosen by libvirt's firmware auto-selection.
    Uefi,
}

/// The VM's video and the geometry of its display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Display {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// What cloud-init is given beside hostname and addresses, which we decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInit {
    /// User data as written; parsed as YAML by `config` when it begins with `#cloud-config`.
    pub user_data: Option<Arc<str>>,
    /// Public SSH keys.
    pub ssh_keys: Vec<Arc<str>>,
}

/// How it is known that a VM is ready for those who depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What is tried.
    pub kind: ProbeKind,
    /// How long after its start a VM may take before the action fails.
    pub within: Span,
    /// Pause between tries.
    pub every: Span,
}

/// What is tried to learn that a VM is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProbeKind {
    /// A TCP port accepts a connection.
    Tcp {
        /// The port on the VM's first address.
        port: u16,
    },
    /// An HTTP GET answers with a status.
    Http {
        /// The port.
        port: u16,
        /// The path, beginning with `/`.
        path: Arc<str>,
        /// The status that counts as ready.
        status: u16,
    },
    /// The guest agent answers `guest-ping`.
    AgentPing,
    /// A command in the guest, through the guest agent, ends with 0.
    AgentExec {
        /// Program and arguments.
        command: Vec<Arc<str>>,
    },
}

/// How a VM is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StopPolicy {
    /// How long the guest may take to shut down.
    pub deadline: Span,
    /// Whether it may then be powered off.
    pub power_off: bool,
}

/// How a change that needs a restart is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpdatePolicy {
    /// Written down; takes effect at the next stop and start.
    Staged,
    /// Stopped and started now.
    Reboot,
}

/// Where a VM may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// On this host only.
    pub host: Option<Name>,
    /// On hosts with these labels.
    pub labels: BTreeMap<String, String>,
    /// On hosts of at least this level (index into the fleet's security levels).
    pub security: u32,
}

/// All that is alike in the VMs of one group; shared between them.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// The image's name; `None` (`image: none`) only for a VM that is adopted.
    pub image: Option<Name>,
    /// Processors now.
    pub cpus: u32,
    /// Processors at most without a restart.
    pub max_cpus: u32,
    /// Memory now.
    pub memory: Bytes,
    /// Memory at most without a restart.
    pub max_memory: Bytes,
    /// Size of the root disk, when larger than the image's.
    pub root_size: Option<Bytes>,
    /// Whether the root disk is data (`persistence: persistent`). Otherwise it goes with the VM without a Removal, and in
    /// a module it returns to the image each time the VM is started.
    pub persistent_root: bool,
    /// Data disks by name.
    pub disks: BTreeMap<Name, DataDisk>,
    /// Interfaces by name; the first by name carries the default route and the probes.
    pub nics: BTreeMap<Name, Nic>,
    /// Versioned machine type, for example `pc-q35-7.2`.
    pub machine: Arc<str>,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Geometry of the display.
    pub display: Display,
    /// cloud-init.
    pub cloud_init: CloudInit,
    /// Readiness; without one, running is ready.
    pub ready: Option<Probe>,
    /// How it is stopped.
    pub stop: StopPolicy,
    /// Staged or reboot.
    pub update: UpdatePolicy,
    /// What may not be done to it.
    pub protect: Protection,
    /// Where it may run.
    pub placement: Placement,
    /// Where each field was written.
    pub origins: Origins,
}

/// Whose VM it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// A replica of an app of a service.
    Service {
        /// The service.
        service: Name,
        /// The app.
        app: Name,
        /// From 1.
        ordinal: u32,
    },
    /// A member of a standing instance of a module.
    Module {
        /// The module.
        module: Name,
        /// The instance.
        instance: Name,
        /// The VM's name in the module.
        member: Name,
    },
}

impl Owner {
    /// The service's or module's address.
    pub fn address(&self) -> Address {
        match self {
            Self::Service { service, .. } => Address::Service(service.clone()),
            Self::Module { module, .. } => Address::Module(module.clone()),
        }
    }
}

/// One VM that should exist.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name: `<service>-<app>-<ordinal>` or `<module>-<instance>-<member>`. Also its hostname.
    pub name: Name,
    /// Whose it is.
    pub owner: Owner,
    /// Key of its group in [`Desired::groups`].
    pub group: Arc<str>,
    /// Whether it should run.
    pub run: RunState,
    /// All else, shared in its group.
    pub spec: Arc<VmSpec>,
    /// Where the app or member was written.
    pub origin: Origin,
}

/// Like VMs under one rule.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its VMs, by name.
    pub vms: Vec<Name>,
    /// Keys of the groups that must be ready before one of this group starts, with where each was written.
    pub depends_on: Vec<(Arc<str>, Origin)>,
    /// At least this many different hosts (1: no rule).
    pub min_hosts: u32,
    /// At most this many of the group on a host (`None`: no rule).
    pub max_per_host: Option<u32>,
    /// Keys of groups none of whose VMs may share a host with one of this group.
    pub separate_from: Vec<Arc<str>>,
    /// Where the rules were written.
    pub rule_origin: Option<Origin>,
}

/// A Service document.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its apps by name, with the keys of their groups.
    pub apps: BTreeMap<Name, App>,
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
