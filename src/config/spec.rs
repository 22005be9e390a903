//! What a team writes: every kind of document with its fields. To add a kind, declare its spec here, give it
//! a line in [`KINDS`] and a place in [`Body`], and say in `build` what it means.

use std::net::Ipv4Addr;
use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::{Value, json};
use uuid::Uuid;

use super::device::{HostDeviceSpec, VmDeviceSpec};
use super::host::{FenceSpec, MaintenanceChoice, MigrationSpec, ShellChoice};
use super::leaf::{Addressing, ApprovalPlacement, ImageName, Int, Milli, Persistence, ServerRole};
use super::node::{Kind as NodeKind, Node};
use super::read::{Labels, Leaf as _, Loc, Named, Read, field, not, spec};
use super::sink::{Mark, Sink};
use crate::model::{
    Acceleration, Address, Bytes, CloneMethod, Digest, Firmware, Identity, ImageFormat, Name, NetworkMode, OnRemove,
    OnUnknown, Protection, Relocatable, RunState, Share, Span, Timestamp, UpdatePolicy,
};

/// The API version that is read.
pub(crate) const API_VERSION: &str = "stablehand/v1alpha1";

type Text = Loc<Arc<str>>;

macro_rules! kinds {
    ($($kind:ident: $spec:ty, $doc:literal;)*) => {
        /// The spec of a document.
        #[derive(Clone, Debug)]
        pub(crate) enum Body { $(#[doc = $doc] $kind(Box<$spec>),)* }

        /// A kind of document.
        pub(crate) struct Kind {
            pub(crate) name: &'static str,
            pub(crate) doc: &'static str,
            pub(crate) read: fn(&Node<'_>, &mut Sink) -> Option<Body>,
            pub(crate) schema: fn(&mut SchemaGenerator) -> Value,
        }

        /// Every kind that this version reads.
        pub(crate) const KINDS: &[Kind] = &[$(Kind {
            name: stringify!($kind),
            doc: $doc,
            read: |node, sink| field::<Box<$spec>>(&"spec", node, sink).map(Body::$kind),
            schema: <$spec as Read>::schema,
        },)*];
    };
}

kinds! {
    Fleet: FleetSpec, "The fleet: its id, defaults for every VM, limits. One in each repository.";
    Host: HostSpec, "A machine with a hypervisor.";
    Image: ImageSpec, "A golden disk by digest.";
    Network: NetworkSpec, "A network: a bridge on each host, and how VMs on it get addresses.";
    Module: ModuleSpec, "VMs presented together to a person, and their standing instances.";
    Service: ServiceSpec, "Applications in VMs, with start order, replicas and readiness.";
    Removal: RemovalSpec, "A reviewed permission to delete what it names.";
    Adoption: AdoptionSpec, "A reviewed permission to take over a VM that exists.";
    HostLost: HostLostSpec, "A host that will not come back with its VMs running.";
    Pause: PauseSpec, "Nothing in its scope is changed until it ends.";
}

/// Kinds that a later version reads.
pub(crate) const LATER_KINDS: &[(&str, &str)] = &[
    ("Client", "comes with clients and the gateway"),
    ("User", "comes with sign-in"),
    ("Group", "comes with sign-in"),
    ("Tenant", "comes with tenants"),
    ("Task", "comes with tasks in guests"),
];

spec! {
    /// What every document says of itself.
    MetadataSpec("metadata") {
        /// Its name, unique among the documents of its kind.
        "name" name: Loc<Name>, required;
        /// Labels; a host's are what placement selects by.
        "labels" labels: Labels;
        /// Notes for people and tools; nothing here reads them.
        "annotations" annotations: Labels;
    }
    later { "formerly": "comes with renaming", }
}

spec! {
    /// The fleet: its id (the document's name), defaults for every VM, limits of a pass.
    FleetSpec("Fleet") {
        /// Security levels, lowest first.
        "securityLevels" security_levels: Vec<Loc<Name>>;
        /// For every VM that does not say otherwise.
        "defaults" defaults: VmPart;
        /// Parts of VMs by name, for `from:`.
        "templates" templates: Named<VmPart>;
        /// How much one pass, and one day, may do.
        "limits" limits: LimitsSpec;
        /// How hosts are chosen.
        "placement" placement: FleetPlacementSpec;
        /// When an approval still holds.
        "approval" approval: ApprovalSpec;
    }
    later {
        "networks": "comes with network rules",
        "gateway": "comes with the gateway",
        "windows": "comes with maintenance windows",
    }
}

spec! {
    /// Limits of a pass: a number of VMs, or a percentage of the fleet's.
    LimitsSpec("limits") {
        /// Most VMs destroyed (default 3).
        "destroy" destroy: Loc<Share>;
        /// Most VMs recreated (default 3).
        "recreate" recreate: Loc<Share>;
        /// Most VMs rebooted (default 25%).
        "reboot" reboot: Loc<Share>;
        /// Actions at once on one host (default 4).
        "actionsPerHost" actions_per_host: Loc<Int<1, 1000>>;
        /// VMs starting at once on one host (default 2).
        "startsPerHost" starts_per_host: Loc<Int<1, 1000>>;
        /// Most VMs moved (default 50%).
        "move" moves: Loc<Share>;
        /// VMs moving at once between two hosts (default 1).
        "movesPerLink" moves_per_link: Loc<Int<1, 1000>>;
    }
}

spec! {
    /// How hosts are chosen.
    FleetPlacementSpec("placement") {
        /// Weights of the score.
        "weights" weights: WeightsSpec;
    }
}

spec! {
    /// Weights of the placement score; 1 each by default, cost 0.
    WeightsSpec("weights") {
        /// Of free memory.
        "memory" memory: Loc<Milli>;
        /// Of free processors.
        "cpu" cpu: Loc<Milli>;
        /// Of free slots.
        "slots" slots: Loc<Milli>;
        /// Of cost: cheaper hosts first.
        "cost" cost: Loc<Milli>;
    }
}

spec! {
    /// When an approval still holds.
    ApprovalSpec("approval") {
        /// `exact` (default): on the approved hosts only; `any`: also when a new VM lands on another host.
        "placement" placement: Loc<ApprovalPlacement>;
    }
}

spec! {
    /// A machine with a hypervisor.
    HostSpec("Host") {
        /// libvirt connection URI, for example `qemu:///system` or `qemu:///embed?root=/var/lib/stablehand/lab`; `lxc:///system`
        /// for containers. A machine that runs both has a document for each.
        "connection" connection: Text, required;
        /// The host UUID that it must have.
        "uuid" uuid: Loc<Uuid>;
        /// How programs beside libvirt are run on it: `local`, `{ssh: {…}}` or `{command: […]}`. By default `local` for a local
        /// connection and SSH to the same machine for `qemu+ssh://`; the others say it.
        "shell" shell: ShellChoice;
        /// `server`.
        "role" role: Loc<ServerRole>;
        /// Its site.
        "site" site: Loc<Name>;
        /// How many VMs it has places for.
        "slots" slots: Loc<Int<0, 100_000>>, required;
        /// What to plan with, when not what libvirt reports.
        "capacity" capacity: ResourcesSpec;
        /// What is kept for the host itself.
        "reserve" reserve: ResourcesSpec;
        /// Virtual for each real one.
        "overcommit" overcommit: OvercommitSpec;
        /// Folders on the host.
        "storage" storage: StorageSpec;
        /// What it costs.
        "cost" cost: CostSpec;
        /// One of the fleet's security levels (default the lowest).
        "security" security: Loc<Name>;
        /// `auto` (default): KVM where a probe guest boots with it; `kvm`; `tcg`.
        "acceleration" acceleration: Loc<Acceleration>;
        /// What it has to give to VMs, by name. Devices of one name on several hosts are equal.
        "devices" devices: Named<HostDeviceSpec>;
        /// `none` (default); `cordon`: no new VMs; `drain` or `{drain: {others: leave}}`: its VMs move away, too.
        "maintenance" maintenance: MaintenanceChoice;
        /// How VMs move to and from it.
        "migration" migration: MigrationSpec;
        /// How it is made certain to run nothing any more, once it was Unknown for a time.
        "fence" fence: FenceSpec;
    }
    later {
        "bridge": "is said by a Network (`spec.bridge`)",
    }
}

spec! {
    /// Processors and memory.
    ResourcesSpec("resources") {
        /// Processors.
        "cpus" cpus: Loc<Int<0, 100_000>>;
        /// Memory.
        "memory" memory: Loc<Bytes>;
    }
}

spec! {
    /// Virtual for each real one (default 1).
    OvercommitSpec("overcommit") {
        /// Processors.
        "cpu" cpu: Loc<Milli>;
        /// Memory.
        "memory" memory: Loc<Milli>;
    }
}

spec! {
    /// Folders on the host.
    StorageSpec("storage") {
        /// The image store (default `/var/lib/stablehand/images`; of containers `/var/lib/stablehand/archives`).
        "images" images: Text;
        /// The VMs' disks (default `/var/lib/stablehand/slots`; of containers `/var/lib/stablehand/containers`).
        "slots" slots: Text;
        /// Name of the storage on which the VMs' disks lie, when other hosts with this name have the same files there.
        "shared" shared: Loc<Name>;
    }
}

spec! {
    /// What a host costs, in the fleet's currency.
    CostSpec("cost") {
        /// A processor for an hour.
        "cpuHour" cpu_hour: Loc<Milli>;
    }
    later {
        "gibHour": "comes with costs",
        "storage": "comes with costs",
        "transfer": "comes with costs",
    }
}

spec! {
    /// A golden disk by digest.
    ImageSpec("Image") {
        /// Where its disk comes from.
        "source" source: SourceSpec, required;
        /// What its disk must be: `sha256:…` or `sha512:…`.
        "digest" digest: Loc<Digest>, required;
        /// `qcow2`, `raw`, or `rootfs`: a tar archive (plain, gz, xz or zst) for containers.
        "format" format: Loc<ImageFormat>, required;
        /// `disk` (default), a kernel that the host hands over, or of a container the first program (default `/sbin/init`).
        "boot" boot: BootChoice;
        /// How a clone learns its name and address: `cloud-init` (default), `host` (containers, whose default it is) or `none`.
        "learnsAddressBy" identity: Loc<Identity>;
        /// How a root disk is made: `overlay` (default) or `copy`; a container's is unpacked.
        "clone" clone: Loc<CloneMethod>;
    }
    later { "rollout": "comes with image generations", }
}

spec! {
    /// Where a file comes from: a path or a URL.
    SourceSpec("source") {
        /// A path on the controller, relative to the document's file.
        "path" path: Text;
        /// `https://`, `http://` or `file://`.
        "url" url: Text;
    }
    later { "instance": "comes with management instances", }
}

spec! {
    /// A file with its digest.
    FileSpec("file") {
        /// A path on the controller, relative to the document's file.
        "path" path: Text;
        /// `https://`, `http://` or `file://`.
        "url" url: Text;
        /// What it must be.
        "digest" digest: Loc<Digest>, required;
    }
}

spec! {
    /// A kernel that the host hands over.
    BootSpec("boot") {
        /// The kernel.
        "kernel" kernel: FileSpec, required;
        /// The initial RAM disk.
        "initrd" initrd: FileSpec;
        /// The kernel's command line.
        "commandLine" command_line: Text;
    }
}

spec! {
    /// A network: a bridge on each host, and how VMs on it get addresses.
    NetworkSpec("Network") {
        /// The bridge.
        "bridge" bridge: BridgeSpec, required;
        /// `isolated` or `routed` (default `isolated` where we make the bridge, else `routed`).
        "mode" mode: Loc<NetworkMode>;
        /// The subnet.
        "subnet" subnet: Loc<ipnet::Ipv4Net>;
        /// The host's own address on the bridge.
        "hostAddress" host_address: Loc<Ipv4Addr>;
        /// The guests' default route.
        "gateway" gateway: Loc<Ipv4Addr>;
        /// Name servers for guests.
        "dns" dns: Vec<Loc<Ipv4Addr>>;
        /// `static`: planned by us (default where there is a range); `external`: somebody else's DHCP.
        "addressing" addressing: Loc<Addressing>;
        /// First and last address that may be planned.
        "range" range: RangeSpec;
    }
    later {
        "vlan": "comes with network rules",
        "systemAddresses": "comes with network rules",
    }
}

spec! {
    /// A bridge.
    BridgeSpec("bridge") {
        /// Its name on each host, at most 15 characters.
        "name" name: Text, required;
        /// Whether it is ours to make and remove (default false).
        "create" create: Loc<bool>;
    }
}

spec! {
    /// First and last address.
    RangeSpec("range") {
        /// The first.
        "from" from: Loc<Ipv4Addr>, required;
        /// The last.
        "to" to: Loc<Ipv4Addr>, required;
    }
}

spec! {
    /// A VM, or a part of one: of defaults, of a template, of an app, of a module's member.
    VmPart("VM") {
        /// A template that gives what is not said here.
        "from" from: Loc<Name>;
        /// The image's name; `none` for a VM that is adopted with the disks it has.
        "image" image: Loc<ImageName>;
        /// Processors now.
        "cpus" cpus: Loc<Int<1, 288>>;
        /// Processors at most without a restart (default: `cpus`).
        "maxCpus" max_cpus: Loc<Int<1, 288>>;
        /// Memory now.
        "memory" memory: Loc<Bytes>;
        /// Memory at most without a restart (default: `memory`).
        "maxMemory" max_memory: Loc<Bytes>;
        /// Size of the root disk, when larger than the image's.
        "rootSize" root_size: Loc<Bytes>;
        /// `persistent`: the root disk is data, and the VM does not go without a Removal; `non-persistent` (default).
        "persistence" persistence: Loc<Persistence>;
        /// Data disks by name: persistent, they outlive the VM.
        "disks" disks: Named<DiskSpec>;
        /// What happens to data disks when the VM goes (default `{retain: 7d}`).
        "onRemove" on_remove: Keep;
        /// Network interfaces by name; the first by name carries the default route and the probes.
        "nics" nics: Named<NicSpec>;
        /// Devices of its host that it is given, by the name that it calls them: it runs only where they are.
        "devices" devices: Named<VmDeviceSpec>;
        /// Versioned machine type (default `pc-q35-7.2`). `newest`: the newest that all hosts have among which it moves, when
        /// it is made; it keeps that.
        "machine" machine: Text;
        /// `bios` (default) or `uefi`.
        "firmware" firmware: Loc<Firmware>;
        /// Geometry of the display (default 1024 by 768).
        "display" display: DisplaySpec;
        /// What cloud-init is given beside hostname and addresses.
        "cloudInit" cloud_init: CloudInitSpec;
        /// How it is known to be ready; without it, running is ready.
        "ready" ready: ReadySpec;
        /// How it is stopped.
        "stop" stop: StopSpec;
        /// How a change that needs a restart is made: `staged` (default) or `reboot`.
        "update" update: Loc<UpdatePolicy>;
        /// What needs a Removal first: `none` (default), `destroy`, `recreate` or `all`.
        "protect" protect: Loc<Protection>;
        /// Where it may run.
        "placement" placement: PlacementSpec;
        /// How it may move to another host: `live` (default: while it runs, where that is possible), `cold`, or `never`.
        "relocatable" relocatable: Loc<Relocatable>;
        /// Whether a move may fetch its memory after it went on at the target (default false: a cable that is cut then loses
        /// the guest).
        "postCopy" post_copy: Loc<bool>;
        /// `started` (default), `stopped` or `suspended`.
        "run" run: Loc<RunState>;
        /// What must be ready first: apps of this service, members of this module, or `service/app`.
        "dependsOn" depends_on: Vec<Text>;
        /// How many VMs an app has.
        "replicas" replicas: ReplicasSpec;
        /// On how many hosts an app's VMs are spread.
        "spread" spread: SpreadSpec;
    }
    later {
        "tpm": "comes with desktop images",
        "video": "comes in a later version",
        "guarantees": "comes in a later version",
        "volumes": "comes with shared data",
        "scale": "comes with scaling",
        "costLimit": "comes with costs",
        "security": "is said by `placement.security`",
    }
}

spec! {
    /// A data disk.
    DiskSpec("disk") {
        /// Its size; grows, never shrinks.
        "size" size: Loc<Bytes>;
        /// What happens when the VM goes (default: the VM's `onRemove`).
        "onRemove" on_remove: Keep;
        /// Where a container finds it, an absolute path. A VM's guest mounts its disks by itself.
        "mount" mount: Text;
    }
}

spec! {
    /// A network interface.
    NicSpec("interface") {
        /// The network's name.
        "network" network: Loc<Name>;
        /// A fixed address.
        "address" address: Loc<Ipv4Addr>;
    }
}

spec! {
    /// Geometry of the display, in pixels.
    DisplaySpec("display") {
        /// Width.
        "width" width: Loc<Int<320, 8192>>;
        /// Height.
        "height" height: Loc<Int<200, 8192>>;
    }
}

spec! {
    /// What cloud-init is given.
    CloudInitSpec("cloudInit") {
        /// User data; parsed as YAML when it begins with `#cloud-config`.
        "userData" user_data: Text;
        /// Public SSH keys.
        "sshKeys" ssh_keys: Vec<Text>;
    }
}

spec! {
    /// How a VM is known to be ready: one probe.
    ReadySpec("ready") {
        /// A TCP port accepts a connection.
        "tcp" tcp: TcpSpec;
        /// An HTTP GET answers with a status.
        "http" http: HttpSpec;
        /// The guest agent answers.
        "agent" agent: AgentSpec;
        /// A command in the guest (through the guest agent; in a container by the host) ends with 0.
        "exec" exec: ExecSpec;
        /// How long after its start it may take (default 2m).
        "within" within: Loc<Span>;
        /// Pause between tries (default 500ms).
        "every" every: Loc<Span>;
    }
}

spec! {
    /// A TCP probe.
    TcpSpec("tcp") {
        /// The port.
        "port" port: Loc<Int<1, 65535>>, required;
    }
}

spec! {
    /// An HTTP probe.
    HttpSpec("http") {
        /// The port (default 80).
        "port" port: Loc<Int<1, 65535>>;
        /// The path (default `/`).
        "path" path: Text;
        /// The status that counts as ready (default 200).
        "status" status: Loc<Int<100, 599>>;
    }
}

spec! {
    /// A probe of the guest agent: `agent: {}`.
    AgentSpec("agent") {}
}

spec! {
    /// A command in the guest.
    ExecSpec("exec") {
        /// Program and arguments.
        "command" command: Vec<Text>, required;
    }
}

spec! {
    /// How a VM is stopped.
    StopSpec("stop") {
        /// How long the guest may take to shut down (default 60s, a container 10s).
        "deadline" deadline: Loc<Span>;
        /// Whether it may then be powered off (default false, for a container true).
        "powerOff" power_off: Loc<bool>;
    }
}

spec! {
    /// Where a VM may run.
    PlacementSpec("placement") {
        /// On this host only.
        "host" host: Loc<Name>;
        /// On hosts with these labels.
        "labels" labels: Labels;
        /// On hosts of at least this security level.
        "security" security: Loc<Name>;
    }
}

spec! {
    /// How many VMs an app has.
    ReplicasSpec("replicas") {
        /// Now (default 1).
        "min" min: Loc<Int<0, 100_000>>;
        /// At most (default: `min`).
        "max" max: Loc<Int<0, 100_000>>;
        /// While the host of one is Unknown: `hold` (default: not replaced) or `surge` (new ones are made, up to `max`).
        "onUnknown" on_unknown: Loc<OnUnknown>;
    }
}

spec! {
    /// On how many hosts an app's VMs are spread.
    SpreadSpec("spread") {
        /// At least this many different hosts.
        "minHosts" min_hosts: Loc<Int<1, 100_000>>;
        /// At most this many on one host.
        "maxPerHost" max_per_host: Loc<Int<1, 100_000>>;
    }
}

spec! {
    /// VMs presented together to a person, and their standing instances.
    ModuleSpec("Module") {
        /// `started` (default), `stopped` or `suspended`: for every instance that does not say otherwise.
        "run" run: Loc<RunState>;
        /// Parts of VMs by name, for `from:`.
        "templates" templates: Named<VmPart>;
        /// Its VMs by name.
        "vms" vms: Named<VmPart>, required;
        /// Standing instances by name.
        "instances" instances: Named<InstanceSpec>;
        /// Lists of VMs of an instance no two of which may share a host.
        "separate" separate: Vec<Vec<Text>>;
    }
    later {
        "pool": "comes with sessions",
        "lease": "comes with sessions",
        "idle": "comes with sessions",
        "access": "comes with sessions",
        "persistence": "comes with sessions",
        "sharedData": "comes with shared data",
    }
}

spec! {
    /// A standing instance of a module.
    InstanceSpec("instance") {
        /// `started`, `stopped` or `suspended`.
        "run" run: Loc<RunState>;
    }
}

spec! {
    /// Applications in VMs, with start order, replicas and readiness.
    ServiceSpec("Service") {
        /// `started` (default), `stopped` or `suspended`: for every app that does not say otherwise.
        "run" run: Loc<RunState>;
        /// Parts of VMs by name, for `from:`.
        "templates" templates: Named<VmPart>;
        /// Its applications by name.
        "apps" apps: Named<VmPart>, required;
        /// Lists of apps (or `service/app`) no two of whose VMs may share a host.
        "separate" separate: Vec<Vec<Text>>;
    }
    later {
        "copyOf": "comes with scaling",
        "scale": "comes with scaling",
        "costLimit": "comes with costs",
    }
}

spec! {
    /// A reviewed permission to delete what it names.
    RemovalSpec("Removal") {
        /// What may go: `vm/NAME`, `service/NAME`, `module/NAME` or `fleet/NAME`.
        "target" target: Loc<Address>, required;
        /// What happens to data disks: `{retain: 7d}` (default) or `delete`.
        "data" data: Keep;
        /// Why.
        "reason" reason: Text, required;
    }
}

spec! {
    /// A reviewed permission to take over a VM that exists.
    AdoptionSpec("Adoption") {
        /// The VM of the fleet that it becomes.
        "vm" vm: Loc<Name>, required;
        /// The UUID of the domain as it is now.
        "uuid" uuid: Loc<Uuid>, required;
        /// Why.
        "reason" reason: Text, required;
    }
}

spec! {
    /// A host that will not come back with its VMs running.
    HostLostSpec("HostLost") {
        /// The host.
        "host" host: Loc<Name>, required;
        /// How it is known that nothing runs there any more: what was switched off, by whom.
        "evidence" evidence: Text, required;
        /// Why.
        "reason" reason: Text, required;
    }
}

spec! {
    /// Nothing in its scope is changed until it ends.
    PauseSpec("Pause") {
        /// What is left alone: `vm/NAME`, `service/NAME`, `module/NAME`, `host/NAME` or `fleet/NAME`.
        "scope" scope: Loc<Address>, required;
        /// Who asked.
        "who" who: Text, required;
        /// Why.
        "reason" reason: Text, required;
        /// When it ends, for example `2026-12-01T18:00:00Z`.
        "until" until: Loc<Timestamp>, required;
    }
}

spec! {
    /// The first program of a container.
    InitSpec("boot") {
        /// Its path in the container (default `/sbin/init`).
        "init" init: Text;
        /// Its arguments.
        "arguments" arguments: Vec<Text>;
        /// Its environment.
        "environment" environment: Labels;
    }
}

/// `disk`, a kernel, or a container's first program.
#[derive(Clone, Debug)]
pub(crate) enum BootChoice {
    Disk(Mark),
    Kernel(Box<BootSpec>),
    Init(Box<InitSpec>),
}

impl Read for BootChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            NodeKind::Scalar(s) if s.text == "disk" => Some(Self::Disk(node.at)),
            NodeKind::Map(map)
                if map.iter().any(|(key, _)| ["init", "arguments", "environment"].contains(&&*key.text)) =>
            {
                InitSpec::read(node, sink).map(|spec| Self::Init(Box::new(spec)))
            }
            NodeKind::Map(_) => BootSpec::read(node, sink).map(|spec| Self::Kernel(Box::new(spec))),
            _ => not("`disk`, or a map with a `kernel` or an `init`", node, sink),
        }
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [{"const": "disk"}, BootSpec::schema(generator), InitSpec::schema(generator)]})
    }
}

/// `delete`, or `{retain: 7d}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) value: OnRemove,
}

spec! {
    /// How long data disks are kept.
    RetainSpec("the retention") {
        /// How long.
        "retain" retain: Loc<Span>, required;
    }
}

impl Read for Keep {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match &node.kind {
            NodeKind::Scalar(s) if s.text == "delete" => Some(Self { value: OnRemove::Delete }),
            NodeKind::Map(_) => {
                let retain = RetainSpec::read(node, sink)?.retain?;
                Some(Self { value: OnRemove::Retain(retain.value) })
            }
            NodeKind::Scalar(s) if s.text.parse::<Span>().is_ok() => {
                let meant = format!("{{retain: {}}}", s.text);
                sink.report("E0208", node.at, "expected `delete` or `{retain: 7d}`").suggest(Some(meant));
                None
            }
            _ => not("`delete` or `{retain: 7d}`", node, sink),
        }
    }
    fn schema(_: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [
            {"const": "delete"},
            {"type": "object", "additionalProperties": false, "required": ["retain"], "properties": {"retain": Span::leaf_schema()}},
        ]})
    }
}
