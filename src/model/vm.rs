//! A VM as its document means it, and the groups of like VMs that rules are said of.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Address, Name};
use super::moving::{Layer, Relocatable};
use super::origin::{Origin, Origins};
use super::quantity::{Bytes, Span};
use super::quarantine::Guard;

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

impl RunState {
    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
        }
    }
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

impl Protection {
    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Destroy => "destroy",
            Self::Recreate => "recreate",
            Self::All => "all",
        }
    }
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
    /// A fixed IPv6 address, when one is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
}

/// What every new VM is when nobody says: QEMU 7.2 is what Debian 12 has; versioned, so that hardware does
/// not change under a guest when QEMU is upgraded.
pub const USUAL_MACHINE: &str = "pc-q35-7.2";

/// The machine type that is settled when a VM is made: the newest that all hosts have among which it moves.
pub const NEWEST_MACHINE: &str = "newest";

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
    /// A command in the guest ends with 0: through the guest agent, in a container by entering its namespaces.
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
    /// What runs it, as its image says.
    pub layer: Layer,
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
    /// Whether the root disk is data (`persistence: persistent`). Otherwise it goes with the VM without a Removal.
    pub persistent_root: bool,
    /// Whether the root disk returns to the image each time the VM is started: in a module unless it is data, in a service
    /// where its document says so (`persistence: reset`).
    pub returns_root: bool,
    /// Data disks by name.
    pub disks: BTreeMap<Name, DataDisk>,
    /// Where a container finds its data disks: a path for each.
    pub mounts: BTreeMap<Name, Arc<str>>,
    /// Interfaces by name; the first by name carries the default route and the probes.
    pub nics: BTreeMap<Name, Nic>,
    /// Devices of its host that it is given, by the name that it calls them: the name under which hosts have them.
    pub devices: BTreeMap<Name, Name>,
    /// Versioned machine type, for example `pc-q35-7.2`, or [`NEWEST_MACHINE`].
    pub machine: Arc<str>,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Geometry of the display.
    pub display: Display,
    /// cloud-init.
    pub cloud_init: CloudInit,
    /// Readiness; without one, running is ready.
    pub ready: Option<Probe>,
    /// What must go on to succeed while it runs.
    pub guard: Option<Guard>,
    /// How it is stopped.
    pub stop: StopPolicy,
    /// Staged or reboot.
    pub update: UpdatePolicy,
    /// What may not be done to it.
    pub protect: Protection,
    /// Where it may run.
    pub placement: Placement,
    /// Whether and how it may move.
    pub relocatable: Relocatable,
    /// Whether its memory may be fetched after it went on at the target (post-copy): a cut link then loses the guest.
    pub post_copy: bool,
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
    /// A management instance of an image: nobody's but the system's.
    Image {
        /// The image.
        image: Name,
    },
}

impl Owner {
    /// The address of the service, the module or the image.
    pub fn address(&self) -> Address {
        match self {
            Self::Service { service, .. } => Address::Service(service.clone()),
            Self::Module { module, .. } => Address::Module(module.clone()),
            Self::Image { image } => Address::Image(image.clone()),
        }
    }
}

/// One VM that should exist.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name: `<service>-<app>-<ordinal>` or `<module>-<instance>-<member>`, of a management instance
    /// `image-<image>-<revision>`. Also its hostname.
    pub name: Name,
    /// Whose it is.
    pub owner: Owner,
    /// Key of its group in [`Desired::groups`](super::desired::Desired::groups).
    pub group: Arc<str>,
    /// Whether it should run.
    pub run: RunState,
    /// All else, shared in its group.
    pub spec: Arc<VmSpec>,
    /// Where the app or member was written.
    pub origin: Origin,
}

impl Vm {
    /// Whether it is given devices of its host: then it is at home where they are, and does not move while it runs.
    pub fn has_devices(&self) -> bool {
        !self.spec.devices.is_empty()
    }
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
