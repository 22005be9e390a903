//! Steps: the idempotent parts of an action. Each holds everything that execution needs; it decides nothing.
//!
//! The implementer (`host`, `sim`) does for each: look whether it is done already → change → look again.
//! A step that finds its work done succeeds; one that finds the world other than the plan saw it fails.

mod tell;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    Acceleration, Address, Border, Bytes, CloneMethod, Container, DeviceAt, Digest, DiskStamp, Display, Firmware,
    HostRules, ImageFile, ImageFormat, ImageNote, Mac, Management, Name, PlacementRecord, Probe, Span, Stamp,
    StopPolicy, Timestamp, Transport, Uplink,
};

/// One step on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Where.
    pub host: Name,
    /// What.
    pub op: Op,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Op {
    /// Puts a file into the host's image store: fetch to `<path>.partial`, check the digest, unpack, rename; and marks it as
    /// needed by the fleet. Done when `path` exists (a finished file is never there with a wrong digest) and is marked. A
    /// download that was cut goes on from the partial file.
    PutImage {
        /// Where from and what it must be.
        file: ImageFile,
        /// `<images folder>/<digest hex, 12 digits>-<file name>`.
        path: String,
        /// Which generation it is, written beside it; a note that is there stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<ImageNote>,
    },
    /// Marks a file of the image store as needed by the fleet, or as needed by nothing of it since a moment
    /// (`<path>.for.<fleet>`).
    MarkImage {
        /// Which.
        digest: Digest,
        /// Its path.
        path: String,
        /// Since when nothing needs it; `None`: something does.
        unneeded: Option<Timestamp>,
    },
    /// Takes the fleet's mark off a file of the image store, and removes the file unless another fleet's mark is on it.
    /// Fails when a domain has it, or an overlay of a domain is built on it, whoever's domain it is.
    DropImage {
        /// Which.
        digest: Digest,
        /// Its path.
        path: String,
    },
    /// Makes a bridge that is ours (alias `stablehand:<fleet>`), gives the host its address, brings it up. On another machine
    /// what it does to an uplink is taken back by that machine itself unless it can be reached afterwards.
    MakeBridge {
        /// The bridge.
        bridge: String,
        /// The host's address with prefix length, for example `10.83.0.1/24`.
        address: Option<String>,
        /// The same in IPv6.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address6: Option<String>,
        /// The fleet, for the alias.
        fleet: Name,
        /// Its cable.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uplink: Option<Uplink>,
        /// What the host does with packets between it and all else: a table of ours in nftables' `inet` family, named
        /// `stablehand-<fleet>.<bridge>`, and `net.ipv4.ip_forward`.
        #[serde(default, skip_serializing_if = "Border::is_open")]
        border: Border,
    },
    /// Removes a bridge that is ours and has no ports but its uplink, with all that was made for it. Fails when it is not ours.
    RemoveBridge {
        /// The bridge.
        bridge: String,
        /// The fleet whose alias it must carry.
        fleet: Name,
        /// The cable that it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uplink: Option<Uplink>,
    },
    /// Writes the placement record (`<slots folder>/<fleet>.<vm>.record`, JSON) before the first define.
    Record {
        /// The VM.
        vm: Name,
        /// The record.
        record: PlacementRecord,
    },
    /// Removes the placement record and the console's file: the last step of a VM's end.
    Unrecord {
        /// The VM.
        vm: Name,
    },
    /// Makes a disk and its stamp file (`<path>.stamp`): first the stamp, then the disk as `<path>.partial`,
    /// then renamed. An existing path with the same stamp is done; with another stamp, or none, an error. One that is
    /// stamped [`DiskPhase::Incoming`](crate::model::DiskPhase::Incoming) is made again: what a cut move left in it is
    /// worth nothing.
    MakeDisk(NewDisk),
    /// Makes a NoCloud seed ISO (of a container: its resolv.conf(5)) and its stamp file, in the same way. With `replace`, an existing seed of the
    /// same VM is exchanged by rename.
    MakeSeed {
        /// Its path.
        path: String,
        /// Its stamp.
        stamp: DiskStamp,
        /// What is in it.
        seed: Seed,
        /// Whether one that is there may be exchanged.
        replace: bool,
    },
    /// Stamps a disk that exists (adoption, re-attachment: no expiry, next epoch).
    StampDisk {
        /// Its path.
        path: String,
        /// The stamp.
        stamp: DiskStamp,
    },
    /// Writes an expiry into a disk's stamp: it stays without a VM until then.
    RetainDisk {
        /// Its path.
        path: String,
        /// When it may be deleted.
        until: Timestamp,
    },
    /// Deletes a disk and its stamp file. Fails when its stamp names another VM, or a domain has it that is another
    /// VM's or is active: a VM whose root returns to its image, or that moves, keeps its definition meanwhile.
    DeleteDisk {
        /// Its path.
        path: String,
        /// The VM that its stamp must name.
        vm: Name,
    },
    /// Defines a domain that does not exist, with its stamp.
    Define {
        /// The domain.
        domain: DomainSpec,
        /// Its stamp.
        stamp: Stamp,
    },
    /// Edits the inactive XML of a domain in place; elements that are not ours survive. Writes the stamp too
    /// (config, and live when it is active).
    Edit {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The edits, in order.
        edits: Vec<Edit>,
        /// The stamp after them.
        stamp: Stamp,
    },
    /// Takes our stamp away and leaves the domain as it is.
    Unstamp {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
    },
    /// Starts a domain, or resumes its managed save or its pause. Done when it runs.
    Start {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
    },
    /// Waits until a VM answers its probe; without one, until it runs. Fails after `probe.within` with the last
    /// lines of its console.
    AwaitReady {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The probe.
        probe: Option<Probe>,
        /// Where TCP and HTTP probes go.
        address: Option<IpAddr>,
    },
    /// Watches a VM that is ready for a time, at the pace of its probe; without one, that it runs. Fails as soon as it is not
    /// ready any more, with the last lines of its console.
    StayReady {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The probe.
        probe: Option<Probe>,
        /// Where TCP and HTTP probes go.
        address: Option<IpAddr>,
        /// How long.
        hold: Span,
    },
    /// Asks the guest to shut down (agent, then ACPI), waits, and powers it off only where the policy allows.
    /// Done when it does not run; a managed save is left alone.
    Stop {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// How.
        policy: StopPolicy,
    },
    /// Saves a running domain (`virDomainManagedSave`).
    Suspend {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
    },
    /// Grows the memory of a running domain, up to the maximum it was started with. Done when the balloon's actual
    /// value is at least this; never lowers it.
    SetMemory {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// New value.
        memory: Bytes,
    },
    /// Adds processors to a running domain, up to the maximum it was started with. Done when observed.
    SetCpus {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// New value.
        cpus: u32,
    },
    /// Grows a disk, live when the domain runs. The real size is read just before: a larger one is an error,
    /// never a shrink.
    GrowDisk {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// Path of the disk.
        path: String,
        /// New size.
        size: Bytes,
    },
    /// Plugs a device of the host into a domain that runs (`virDomainAttachDeviceFlags`), and writes it into its definition.
    /// Done when the live XML shows it. Fails while another domain has it.
    AttachDevice {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// Which.
        device: DomainDevice,
    },
    /// Takes a device of the host away from a domain that runs (`virDomainDetachDeviceFlags`), and out of its definition.
    /// Done when the live XML does not show it any more: the guest has given it back.
    DetachDevice {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// Which.
        device: DomainDevice,
    },
    /// Moves a running domain to another host, peer to peer (`virDomainMigrateToURI3`). On the source. Done when the
    /// domain runs at the target and not here. A job that runs already is waited for, not begun again. After an error the
    /// VM is looked for on both hosts: it runs here again, or there, or the error is Unknown.
    Migrate {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The target host.
        to: Name,
        /// How.
        how: MigrateHow,
    },
    /// Gives up the job that runs on a domain (`virDomainAbortJob`), and frees a guest that waits for a dead link. Done
    /// when no job runs and the guest goes on.
    AbortJob {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The other host of the move.
        to: Name,
    },
    /// Copies a disk from another host to the same path here, holes kept, first its stamp, then the disk as
    /// `<path>.partial`, then renamed. The file at the source must not be open. A copy that is there with the same stamp
    /// is made again: nobody knows how old it is.
    CopyDisk {
        /// The host that has it.
        from: Name,
        /// Its path, the same on both.
        path: String,
        /// The stamp of the copy, [`DiskPhase::Incoming`](crate::model::DiskPhase::Incoming).
        stamp: DiskStamp,
    },
    /// Puts a file into the image store from another host's store, at the same path: `<path>.partial`, digest, rename.
    CopyImage {
        /// The host that has it.
        from: Name,
        /// Its path, the same on both.
        path: String,
        /// What it must be.
        digest: Digest,
    },
    /// Brings the saved memory of a suspended domain from another host, after the domain was defined here. Done when it
    /// is suspended here.
    CopySave {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The host that has it.
        from: Name,
    },
    /// Defines a domain here as another host has it (its inactive XML, elements that are not ours included), with the
    /// stamp given. Done when it is defined here.
    DefineFrom {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// The host that has it.
        from: Name,
        /// Its stamp.
        stamp: Stamp,
    },
    /// Renames a disk that a move left behind and stamps it as [`DiskPhase::Moved`](crate::model::DiskPhase::Moved):
    /// nothing starts from it any more. Fails when a domain that is active has it.
    RetireDisk {
        /// Its path.
        path: String,
        /// Its new path.
        to: String,
        /// The stamp of what is kept, with its expiry.
        stamp: DiskStamp,
    },
    /// Ends what is left of a domain whose guest runs on another host: paused by a migration, or shut off. Powers off
    /// what is paused and undefines it. Fails when it runs.
    DropRemnant {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
    },
    /// Runs a command on the controller that makes the host certain to run nothing any more. Done when it ends with 0.
    Fence {
        /// Program and arguments; `{host}` stands for the host's name.
        command: Vec<Arc<str>>,
        /// How long it may take.
        within: Span,
    },
    /// Tells a guest that its network changed: its links go down and up (`virDomainUpdateDeviceFlags`).
    Announce {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
    },
    /// Runs a program in a guest, through its agent; in a container by entering its namespaces. Fails unless it ends with 0.
    /// Its output is told once, at the end, however it ended. It is run each time: there is nothing to look at before.
    GuestRun {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// Program and arguments.
        command: Vec<Arc<str>>,
        /// What it reads from its standard input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Arc<str>>,
        /// How long it may take; then it is killed.
        within: Span,
        /// For what it is done: its output is kept under this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<Errand>,
    },
    /// Writes a file in a guest, whole or not at all, with the folders above it. Done when it is there with this content and
    /// mode.
    GuestFile {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// Its absolute path in the guest.
        path: Arc<str>,
        /// All that is in it.
        content: Arc<str>,
        /// Its permissions.
        mode: u32,
    },
    /// Replaces the host's packet filter by this one, whole, in one transaction. Done when what is read back means the same.
    SetRules {
        /// The filter.
        rules: Arc<HostRules>,
    },
    /// Takes out of a guest that runs what tells it from others of its image: machine id, SSH host keys, cloud-init's
    /// state, seeds of random numbers, leases, logs, and the token; through its agent. Its list of packages is kept on the host until
    /// [`Self::Capture`] takes it. Done each time anew; fails when the guest has no agent, or anything of it is still there.
    Generalise {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// What its stamp says that it is.
        management: Management,
        /// How long the guest may take.
        within: Span,
    },
    /// Makes the root disk of a management instance that does not run into a sealed generation in the host's store: the whole
    /// content in one file of its own, holes kept, as `<path>.partial`, synced, hashed, and only then, with its note and mark
    /// beside it, under its name, `<folder>/<digest hex, 12 digits>-<name>`. Done when the store has a generation
    /// with this recipe. Fails when the domain runs or is suspended, when it does not carry the stamp of this
    /// management, or when there is no room.
    Capture {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// What its stamp says that it is.
        management: Management,
        /// Path of its root disk.
        disk: String,
        /// The images folder.
        folder: String,
        /// The file's name behind the digits, `<image>-<revision>.qcow2`.
        name: String,
        /// The format of the file: qcow2 or raw.
        format: ImageFormat,
        /// What is written beside it. What only the step finds out is filled in by it: packages, size, length.
        note: ImageNote,
    },
    /// Undefines a domain that does not run (managed save and NVRAM with it; disks stay).
    Undefine {
        /// The VM.
        vm: Name,
        /// Its domain.
        uuid: Uuid,
        /// Whether a managed save may be thrown away with it.
        drop_save: bool,
    },
}

/// For what something is done in a guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Errand {
    /// The task, or the image that is made.
    pub subject: Address,
    /// Digest of its steps.
    pub digest: String,
}

/// How a running domain is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrateHow {
    /// libvirt URI of the target as the source reaches it (`dconnuri`).
    pub uri: String,
    /// Address of the target for the data, when not what its host name resolves to.
    pub address: Option<String>,
    /// How data travels.
    pub transport: Transport,
    /// Whether disks travel too (`VIR_MIGRATE_NON_SHARED_INC`): those of the domain that are not read-only.
    pub storage: bool,
    /// `VIR_MIGRATE_AUTO_CONVERGE`.
    pub auto_converge: bool,
    /// `VIR_MIGRATE_POSTCOPY`, switched to when half of the time limit is over.
    pub post_copy: bool,
    /// Longest pause at the end (`virDomainMigrateSetMaxDowntime`).
    pub max_pause: Span,
    /// Bytes a second at most.
    pub bandwidth: Option<Bytes>,
    /// When it is aborted.
    pub time_limit: Span,
}

/// A disk to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewDisk {
    /// Its path, whose ending says its format: `.qcow2`, `.raw`, or of a container a file with an ext4 file system.
    pub path: String,
    /// Its stamp.
    pub stamp: DiskStamp,
    /// What it begins as.
    pub from: DiskFrom,
    /// Size that the guest sees; `None`: the image's.
    pub size: Option<Bytes>,
}

/// What a disk begins as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiskFrom {
    /// Empty.
    Blank,
    /// A clone of an image in the host's store.
    Image {
        /// Path of the image.
        path: String,
        /// Its format.
        format: ImageFormat,
        /// Overlay, reflink or copy. A reflink has the format of its image.
        method: CloneMethod,
    },
    /// A full copy of an image in the host's store, with its markers replaced on the way: a raw disk. How often each was
    /// replaced is written into its stamp; a marker that is nowhere in the image is an error.
    Marked {
        /// Path of the image.
        path: String,
        /// Its format.
        format: ImageFormat,
        /// Markers by name.
        markers: BTreeMap<Name, Replacement>,
    },
    /// An ext4 file system with nothing in it.
    FileSystem,
    /// An ext4 file system with the content of a tar archive in the host's store.
    Archive {
        /// Path of the archive.
        path: String,
        /// The name for `/etc/hostname` and `/etc/hosts`; `None`: the archive's stay as they are.
        hostname: Option<Name>,
    },
}

/// A marker and what comes in its place, of the same length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The text in the image.
    pub marker: String,
    /// What comes in its place, padding included.
    pub with: String,
}

/// What a NoCloud seed holds. Secrets are not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// `instance-id`: version 5 of the domain's UUID and its interfaces, so that a recreate, and other addresses, are
    /// a new instance to cloud-init.
    pub instance: Uuid,
    /// `local-hostname`.
    pub hostname: Name,
    /// Interfaces by name.
    pub nics: BTreeMap<Name, SeedNic>,
    /// `user-data`.
    pub user_data: Option<Arc<str>>,
    /// `public-keys`.
    pub ssh_keys: Vec<Arc<str>>,
}

/// An interface in a seed's network-config (version 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedNic {
    /// What to match.
    pub mac: Mac,
    /// Address with prefix length; `None`: DHCP.
    pub address: Option<String>,
    /// Default route, on the first interface that has one.
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 address with prefix length; with one, nothing else is taken from routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    /// IPv6 default route, on the first interface that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

impl SeedNic {
    /// An interface whose network gives it its addresses.
    pub const fn new(mac: Mac) -> Self {
        Self { mac, address: None, gateway: None, address6: None, gateway6: None, dns: Vec::new() }
    }
}

/// A domain to define. Everything is decided; `host` only writes it as libvirt's XML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// The VM.
    pub vm: Name,
    /// libvirt name.
    pub domain: String,
    /// UUID.
    pub uuid: Uuid,
    /// Processors now.
    pub cpus: u32,
    /// Processors at most.
    pub max_cpus: u32,
    /// Memory now.
    pub memory: Bytes,
    /// Memory at most.
    pub max_memory: Bytes,
    /// Machine type.
    pub machine: String,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Named processor model that every host of its group has. `None`: the host's own with KVM, `qemu64` with TCG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// KVM or TCG; `Auto` only in plans made without an observation of the host.
    pub acceleration: Acceleration,
    /// Geometry.
    pub display: Display,
    /// Kernel boot.
    pub kernel: Option<KernelBoot>,
    /// Disks: root first, then the seed, then data disks by name.
    pub disks: Vec<DomainDisk>,
    /// Interfaces by name.
    pub nics: Vec<DomainNic>,
    /// Devices of its host, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DomainDevice>,
    /// Set for a container: what a VM has not. Hardware, kernel and display mean nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// File that the serial console writes to (`<slots folder>/<fleet>.<vm>.console`).
    pub console: String,
}

/// Kernel boot of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBoot {
    /// Path of the kernel.
    pub kernel: String,
    /// Path of the initial RAM disk.
    pub initrd: Option<String>,
    /// Command line.
    pub command_line: String,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainDisk {
    /// `root`, `seed` or the data disk's name: the user alias is `ua-disk-<name>`, the serial its first 20 characters
    /// (the seed's is `cidata`).
    pub name: String,
    /// Its path.
    pub path: String,
    /// `vda`, `vdb`, …; in a container the path at which it is mounted.
    pub target: String,
    /// `qcow2` or `raw` (seeds).
    pub format: ImageFormat,
    /// The seed.
    pub readonly: bool,
}

/// An interface of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainNic {
    /// Its name: the user alias is `ua-nic-<name>`.
    pub name: Name,
    /// Its MAC.
    pub mac: Mac,
    /// The bridge.
    pub bridge: String,
    /// The tap's name.
    pub tap: String,
}

/// A device of the host in a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainDevice {
    /// How the VM calls it: the user alias is `ua-dev-<name>`.
    pub name: Name,
    /// Under which name its host has it; `None` for one that no document names any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Name>,
    /// How it is found on the host.
    pub at: DeviceAt,
}

/// One edit of a domain's inactive XML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Edit {
    /// `<vcpu current=…>`.
    Cpus {
        /// Now.
        cpus: u32,
        /// At most.
        max: u32,
    },
    /// `<currentMemory>` and `<memory>`.
    Memory {
        /// Now.
        memory: Bytes,
        /// At most.
        max: Bytes,
    },
    /// `<os><type machine=…>`.
    Machine(String),
    /// `<os firmware=…>`.
    Firmware(Firmware),
    /// `<domain type=…>`.
    Acceleration(Acceleration),
    /// `<video>`'s resolution.
    Display(Display),
    /// `<os>`'s kernel, initrd and cmdline; `None` removes them.
    Kernel(Option<KernelBoot>),
    /// A disk more.
    AddDisk(DomainDisk),
    /// A disk less, by name.
    RemoveDisk(String),
    /// Another file behind a disk, by name.
    DiskPath {
        /// The disk's name.
        name: String,
        /// The new path.
        path: String,
    },
    /// An interface more.
    AddNic(DomainNic),
    /// An interface less.
    RemoveNic(Mac),
    /// Another bridge or tap behind an interface.
    NicBridge {
        /// Which.
        mac: Mac,
        /// The bridge.
        bridge: String,
        /// The tap's name.
        tap: String,
    },
    /// A device of the host more; with a USB controller for it where the domain has none.
    AddDevice(DomainDevice),
    /// A device of the host less, by the name that the VM calls it.
    RemoveDevice(Name),
    /// First program and addresses of a container; interfaces that are not named lose theirs.
    Container(Container),
    /// libvirt's autostart flag (`virDomainSetAutostart`).
    Autostart(bool),
}
