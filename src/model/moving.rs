//! Nouns of a fleet with several hosts: shells, how VMs move between hosts, maintenance, fencing, running jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::desired::Digest;
use super::generation::Unready;
use super::ids::Name;
use super::quantity::{Bytes, Span, Timestamp};

/// What runs guests on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// QEMU: virtual machines.
    #[default]
    Qemu,
    /// libvirt's LXC driver: containers.
    Lxc,
}

impl Layer {
    /// The layer that a libvirt connection URI speaks to.
    pub fn of(connection: &str) -> Self {
        if connection.starts_with("lxc") { Self::Lxc } else { Self::Qemu }
    }
    /// Whether it is the usual one: left out of files.
    pub const fn is_qemu(&self) -> bool {
        matches!(self, Self::Qemu)
    }
    /// What people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

/// How programs beside libvirt are run on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostShell {
    /// This machine.
    Local,
    /// OpenSSH with a shared connection (ssh_config(5), `ControlMaster`).
    Ssh {
        /// `host` or `user@host`.
        target: Arc<str>,
        /// Its port, when not what ssh_config says.
        port: Option<u16>,
        /// Path of the private key on the controller, when not what ssh_config says. Its content is never read by us.
        identity: Option<Arc<str>>,
    },
    /// A command on the controller: the program and its arguments to be run on the host follow it as arguments.
    Command(Vec<Arc<str>>),
}

/// How memory and disks travel when a VM moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QEMU's own TLS (`VIR_MIGRATE_TLS`), memory and disks.
    Tls,
    /// Through the SSH tunnel that the controller's shells have, or libvirt's own connection (`VIR_MIGRATE_TUNNELLED`).
    Tunnel,
    /// Clear text, only on a network that is declared for it.
    Clear,
}

impl Transport {
    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Tunnel => "tunnel",
            Self::Clear => "clear",
        }
    }
}

/// How VMs move to and from a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// libvirt URI at which the other hosts reach this one (`dconnuri` of `virDomainMigrateToURI3`). `None`: not at all,
    /// because the connection is local to the controller and nothing else was said.
    pub uri: Option<Arc<str>>,
    /// Address of this host for the data, when not what the name in `uri` resolves to.
    pub address: Option<Arc<str>>,
    /// How data travels to this host; `None`: nothing that is allowed was declared, so no VM that runs can move here.
    pub transport: Option<Transport>,
    /// The network that is declared for clear text.
    pub clear_network: Option<ipnet::IpNet>,
    /// Moves in or out at once (default 2).
    pub at_once: u32,
    /// Bytes a second that one move may use at most (`VIR_MIGRATE_PARAM_BANDWIDTH`).
    pub bandwidth: Option<Bytes>,
    /// Whether a guest that writes faster than the link is slowed down (`VIR_MIGRATE_AUTO_CONVERGE`; default yes).
    pub auto_converge: bool,
    /// Whether this host allows post-copy (`VIR_MIGRATE_POSTCOPY`; default no: a cut link then loses the guest).
    pub post_copy: bool,
    /// Longest pause of the guest at the end (`virDomainMigrateSetMaxDowntime`; default 300 ms).
    pub max_pause: Span,
    /// A move that takes longer is aborted (default 30 min).
    pub time_limit: Span,
    /// How long the source's copy of moved disks is kept (default 1 h).
    pub keep_source: Span,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            uri: None,
            address: None,
            transport: None,
            clear_network: None,
            at_once: 2,
            bandwidth: None,
            auto_converge: true,
            post_copy: false,
            max_pause: Span(300),
            time_limit: Span::secs(30 * 60),
            keep_source: Span::secs(3600),
        }
    }
}

/// What happens at a drain to a VM that cannot move while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// It stays, and the plan says what would move it.
    #[default]
    Leave,
    /// It is stopped, moved with its data, and started.
    Cold,
    /// It is stopped and stays where it is.
    Stop,
}

impl Others {
    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Cold => "cold",
            Self::Stop => "stop",
        }
    }
}

/// What a host's document says about its maintenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintenance {
    /// In service.
    #[default]
    None,
    /// No new VMs.
    Cordon,
    /// No new VMs, and those that are there move away.
    Drain(Others),
}

/// How a host is made certain to run nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Program and arguments, run on the controller. It must end with 0 only when the host certainly runs nothing.
    pub command: Vec<Arc<str>>,
    /// How long the host must be Unknown before.
    pub after: Span,
    /// How long the command may take (default 60 s).
    pub within: Span,
}

/// Whether a VM may move, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Relocatable {
    /// While it runs where that is possible, else stopped (default).
    #[default]
    Live,
    /// Stopped only.
    Cold,
    /// Not at all.
    Never,
}

impl Relocatable {
    /// Whether it is the default: left out of digests.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }
    /// The word of the YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Cold => "cold",
            Self::Never => "never",
        }
    }
}

/// What becomes of the number of replicas while the host of one is Unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Nothing: they are not ready, and not replaced (default).
    #[default]
    Hold,
    /// New ordinals are made for them, up to the maximum of replicas.
    Surge,
}

/// What a copy of a disk is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiskPhase {
    /// The disk.
    #[default]
    Valid,
    /// Being filled from another host: worth nothing until it was promoted.
    Incoming {
        /// Where from.
        from: Name,
    },
    /// What stayed behind after a move: kept for a while, never started from.
    Moved {
        /// Where to.
        to: Name,
    },
}

impl DiskPhase {
    /// Whether it is the disk: left out of files.
    pub const fn is_valid(&self) -> bool {
        matches!(self, Self::Valid)
    }
}

/// A job that runs on a domain (`virDomainGetJobStats`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobObs {
    /// What it does.
    pub kind: JobKind,
    /// Bytes of memory and disks done.
    pub done: Bytes,
    /// Bytes of memory and disks in all, as known so far.
    pub total: Bytes,
    /// Milliseconds since it began.
    pub millis: u64,
}

impl JobObs {
    /// `45 %, 1.3 of 2.9 GiB`.
    pub fn progress(&self) -> String {
        let percent = u128::from(self.done.0) * 100 / u128::from(self.total.0.max(1));
        // Tenths of the unit that the whole is told in.
        let (unit, word) = if self.total.0 >= 1 << 30 { (1u64 << 30, "GiB") } else { (1 << 20, "MiB") };
        let tenths = |bytes: Bytes| {
            let tenths = u128::from(bytes.0) * 10 / u128::from(unit);
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        format!("{} %, {} of {} {word}", percent.min(100), tenths(self.done), tenths(self.total))
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum JobKind {
    /// The VM leaves this host.
    MigrationOut,
    /// The VM comes to this host.
    MigrationIn,
    /// Anything else: a save, a backup, a dump.
    Other,
}

/// Why a domain is paused (`virDomainPausedReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PauseCause {
    /// Somebody asked.
    User,
    /// It is handed over to, or arrives from, another host.
    Migration,
    /// Its memory is still at the other host.
    PostCopy,
    /// The link was cut in post-copy: part of its memory is lost.
    PostCopyFailed,
    /// A disk failed.
    IoError,
    /// Anything else.
    Other,
}

/// What a host's processors are, as libvirt says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CpuObs {
    /// The host's model (`virConnectGetCapabilities`), for people.
    pub model: String,
    /// Named models that a guest may have here (`virConnectGetDomainCapabilities`, `usable='yes'`), sorted.
    pub usable: Vec<String>,
}

/// What a host can do when VMs move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MoveObs {
    /// Post-copy: the kernel lets QEMU handle page faults of its guest (`vm.unprivileged_userfaultfd`).
    pub post_copy: bool,
    /// libvirt has certificates for migration.
    pub tls: bool,
}

/// A drain that was asked for by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// What happens to VMs that cannot move while they run.
    pub others: Others,
    /// Who asked.
    pub who: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// Somebody asked for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who.
    pub who: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// A host that was fenced: it certainly ran nothing at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fenced {
    /// When.
    pub at: Timestamp,
    /// The command that said so.
    pub evidence: String,
}

/// A host that did not answer at one look after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// When it was first missed.
    pub since: Timestamp,
    /// When it was last missed, to the minute.
    pub at: Timestamp,
}

impl Missing {
    /// Seconds between two looks after which nobody knows whether it was there in between: it is missed anew then.
    pub const GAP: u64 = 15 * 60;
}

/// Moves of a VM that failed one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tries {
    /// How many.
    pub count: u32,
    /// When the last one failed.
    pub at: Timestamp,
    /// Why.
    pub text: String,
}

impl Tries {
    /// Tries before somebody has to look.
    pub const MOST: u32 = 3;
    /// Seconds after which they are forgotten.
    pub const FORGOTTEN: u64 = 3600;
}

/// What past moves over a link say about the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkPast {
    /// Bytes a second, the median.
    pub bytes_per_second: u64,
    /// Milliseconds that a guest stood still, the median.
    pub pause_millis: u64,
    /// How many moves the figures are of.
    pub samples: u32,
}

/// A move that was made: what the next plan knows of the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastMove {
    /// [`link_key`].
    pub link: String,
    /// Bytes that travelled.
    pub bytes: Bytes,
    /// Milliseconds that it took.
    pub millis: u64,
    /// Milliseconds that the guest stood still; `None` when nobody measured.
    pub pause_millis: Option<u64>,
}

/// What a controller remembers of hosts from pass to pass. Losing it loses no VM: unseen hosts wait longer to be fenced,
/// drained VMs stay where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Book {
    /// When each host was last Known.
    pub seen: BTreeMap<Name, Timestamp>,
    /// Hosts that do not answer.
    pub missing: BTreeMap<Name, Missing>,
    /// Hosts that were fenced and have not been Known since.
    pub fenced: BTreeMap<Name, Fenced>,
    /// VMs that were at a host when its drain began.
    pub homes: BTreeMap<Name, Name>,
    /// Moves that failed, by VM.
    pub tries: BTreeMap<Name, Tries>,
    /// The last moves, oldest first, at most [`Self::MOVES`] a link.
    pub moves: Vec<PastMove>,
    /// VMs that did not get ready on a generation of their image.
    pub unready: BTreeMap<Name, Unready>,
    /// Images of which a generation could not be made; the digest is the recipe's.
    pub unmade: BTreeMap<Name, Unready>,
    /// Recipes of the generations made in the fleet that each host had in its store when it was last Known.
    pub sealed: BTreeMap<Name, BTreeSet<Digest>>,
}

impl Book {
    /// Moves that are remembered of a link: an odd number, so that the median is one of them.
    pub const MOVES: usize = 9;

    /// What is smaller tells of calls, not of the link: a seed takes as long as ten times its bytes.
    pub const SMALLEST: Bytes = Bytes::mib(8);

    /// Adds a move, unless it was too small to tell anything, and forgets the oldest one of its link.
    pub fn moved(&mut self, past: PastMove) {
        if past.bytes < Self::SMALLEST {
            return;
        }
        let of_link = |m: &&PastMove| m.link == past.link;
        if self.moves.iter().filter(of_link).count() >= Self::MOVES
            && let Some(oldest) = self.moves.iter().position(|m| m.link == past.link)
        {
            self.moves.remove(oldest);
        }
        self.moves.push(past);
    }

    /// The medians of each link.
    pub fn links(&self) -> BTreeMap<String, LinkPast> {
        let mut by_link: BTreeMap<&str, Vec<&PastMove>> = BTreeMap::new();
        for past in &self.moves {
            by_link.entry(&past.link).or_default().push(past);
        }
        let median = |mut numbers: Vec<u64>| {
            numbers.sort_unstable();
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        let past = |moves: Vec<&PastMove>| LinkPast {
            bytes_per_second: median(moves.iter().map(|m| m.bytes.0 * 1000 / m.millis.max(1)).collect()),
            pause_millis: median(moves.iter().filter_map(|m| m.pause_millis).collect()),
            samples: u32::try_from(moves.len()).unwrap_or(u32::MAX),
        };
        by_link.into_iter().map(|(link, moves)| (link.to_owned(), past(moves))).collect()
    }
}

/// Key of a link in [`super::StoreState::links`]: `from>to`.
pub fn link_key(from: &Name, to: &Name) -> String {
    format!("{from}>{to}")
}
