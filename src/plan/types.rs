//! The plan: an immutable graph of actions with reasons. It leaves no choice to execution.
//!
//! Its JSON form is a contract: `formatVersion` is `major.minor`; readers ignore unknown fields of a minor
//! version they do not know and refuse an unknown major one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::builds::Build;
pub use super::going::{Halted, Roll, TaskRun};
use super::opened::ReachChange;
use super::steps::Step;
use super::term::SetTerm;
use crate::model::{Address, Bytes, Digest, Field, Name, Origin, Timestamp};

/// Version of the plan's JSON form.
pub const FORMAT_VERSION: &str = "1.0";

/// The plan's JSON Schema file: its name below `schemas/`, and its text.
pub fn schema() -> (String, String) {
    ("plan.json".into(), crate::model::schema::text::<Plan>())
}

/// What would be done, to whom, why, in which order; and why nothing happens where nothing does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// [`FORMAT_VERSION`].
    pub format_version: String,
    /// The fleet's id.
    pub fleet: Name,
    /// Revision that causes are told against, when one was given.
    pub base: Option<String>,
    /// Revision that is planned.
    pub head: String,
    /// Where observed state came from and how old each host's part is.
    pub inputs: Inputs,
    /// Effects hash: what is done to whom, without times, prices and line numbers (DESIGN section 4, point 10).
    pub effects: String,
    /// The actions in an order that respects [`Action::after`]; ties by wave, then address.
    pub actions: Vec<Action>,
    /// Who may talk to whom, where that is another before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<ReachChange>,
    /// Why nothing happens to what one might expect to change.
    pub notes: Vec<Note>,
    /// Hosts before and after.
    pub hosts: Vec<HostRoom>,
    /// How much of each limit is used.
    pub limits: Vec<LimitUse>,
    /// Risks by stable code (`stablehand explain R101`).
    pub risks: Vec<Risk>,
    /// Hosts that are emptied: what moves, what cannot, what stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drains: Vec<HostDrain>,
    /// Moves that ran when it was made: they count among those that may run at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flights: Vec<Flight>,
    /// Sets that go to another generation of their image, or stand still on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rolls: Vec<Roll>,
    /// Generations of images that are made in the fleet, or wait for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<Build>,
    /// How approvals call generations that were made in the fleet: what is to be made has no digest yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made: BTreeMap<Digest, String>,
    /// Sets for a time: when each is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<SetTerm>,
    /// When something of that changes next: another plan is wanted then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Tasks that go on inside VMs, or stand still on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskRun>,
    /// VMs of the fleet that stay as they are.
    pub unchanged: u32,
    /// The longest chain of actions, by estimated duration: ids in order.
    pub critical_path: Vec<ActionId>,
    /// Its estimated duration in milliseconds, where every part has an estimate.
    pub critical_millis: Option<u64>,
}

/// What the plan was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// `live`, `none`, or the folder it was read from.
    pub source: String,
    /// The moment the plan is made for.
    pub now: Timestamp,
    /// Seconds since each host was observed; `None`: Unknown.
    pub ages: BTreeMap<Name, Option<u64>>,
}

/// `vm/web-1#create`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ActionId(pub Arc<str>);

impl ActionId {
    /// The id of `verb` on `subject`; a host is named where one subject has an action on each host.
    pub fn new(subject: &Address, verb: Verb, host: Option<&Name>) -> Self {
        let at = host.map(|h| format!("@{h}")).unwrap_or_default();
        Self(format!("{subject}{at}#{}", verb.word()).into())
    }
}
impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One change to one VM, image, network or record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// Its id, unique in the plan.
    pub id: ActionId,
    /// What it is about.
    pub subject: Address,
    /// What is done.
    pub verb: Verb,
    /// Why now.
    pub cause: Cause,
    /// Why at all.
    pub reason: Reason,
    /// What it costs.
    pub impact: Impact,
    /// Host before; `None`: nowhere.
    pub from: Option<Name>,
    /// Host after; `None`: nowhere.
    pub to: Option<Name>,
    /// Fields that change.
    pub fields: Vec<FieldChange>,
    /// How a VM is moved, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// The image whose roll it is part of: when one of a roll fails, none of it begins any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll: Option<Name>,
    /// The task that it is part of: when one of a task fails, none of it begins any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Name>,
    /// What a packet filter opens by it, as sentences: `shop/web -> shop/db: tcp/5432`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opens: Vec<String>,
    /// What a packet filter closes by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closes: Vec<String>,
    /// Actions that must have succeeded before.
    pub after: Vec<ActionId>,
    /// Its wave: 1 + the highest wave of what it waits for.
    pub wave: u32,
    /// Empty, or what stops it. A blocked action is shown inside the full plan and not carried out.
    pub blocked: Vec<Block>,
    /// What execution does, in order. Empty when blocked.
    pub steps: Vec<Step>,
    /// What it does when a step fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Otherwise>,
}

/// What is done when a step of an action has failed: not when its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Otherwise {
    /// Number of the first step, from 0, whose failure it is for.
    pub from: u32,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// An image is put into a host's store.
    Fetch,
    /// A network's bridge is made on a host.
    Connect,
    /// A VM is made.
    Create,
    /// A VM exists but its domain is gone: defined again around its disks.
    Restore,
    /// A VM is taken over.
    Adopt,
    /// A VM is changed without a stop.
    Update,
    /// A VM's next start is changed.
    Stage,
    /// A VM is stopped, changed and started.
    Reboot,
    /// A running VM gives devices of its host back.
    Detach,
    /// A running VM is given devices of its host.
    Attach,
    /// A VM's root disk is made anew.
    Recreate,
    /// A roll that stands still: always blocked.
    Roll,
    /// A generation of an image is made: its management instance is configured, checked, captured, sealed, and ends.
    Build,
    /// Room that cannot be promised for later: always blocked.
    Reserve,
    /// A VM is started.
    Start,
    /// A VM is resumed from its managed save or from a pause.
    Resume,
    /// A VM is stopped.
    Stop,
    /// A VM is saved.
    Suspend,
    /// A VM ends.
    Destroy,
    /// A VM is left to itself, its stamp taken away.
    Forget,
    /// A kept disk is deleted, its time being over or by a Removal.
    Expire,
    /// An image in a host's store is marked: nothing needs it from now on, or something does again.
    Mark,
    /// An image that nothing needs leaves a host's store.
    Drop,
    /// A bridge of ours that nothing needs is removed.
    Disconnect,
    /// A disk would have to shrink: always blocked.
    Shrink,
    /// A VM is moved while it runs.
    Migrate,
    /// A VM is moved with its data while it does not run: it is stopped first, or is stopped or suspended.
    Move,
    /// What a move left half done, or a host that came back still has, is put right.
    Settle,
    /// A move that runs is given up.
    Abort,
    /// A host is made certain to run nothing any more.
    Fence,
    /// The packet filter of a host is made as it must be from now on: for what stays, comes and leaves.
    Filter,
    /// What left a host leaves its packet filter too.
    Close,
    /// A VM whose rules were closed is stamped so, and suspended or stopped.
    Quarantine,
    /// A VM comes out of quarantine.
    Release,
    /// A task is carried out inside a VM that runs.
    Run,
}

impl Verb {
    /// The word people read and ids carry.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Connect => "connect",
            Self::Create => "create",
            Self::Restore => "restore",
            Self::Adopt => "adopt",
            Self::Update => "update",
            Self::Stage => "stage",
            Self::Reboot => "reboot",
            Self::Detach => "detach",
            Self::Attach => "attach",
            Self::Recreate => "recreate",
            Self::Roll => "roll",
            Self::Build => "build",
            Self::Reserve => "reserve",
            Self::Start => "start",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Suspend => "suspend",
            Self::Destroy => "destroy",
            Self::Forget => "forget",
            Self::Expire => "expire",
            Self::Mark => "mark",
            Self::Drop => "drop",
            Self::Disconnect => "disconnect",
            Self::Shrink => "shrink",
            Self::Migrate => "migrate",
            Self::Move => "move",
            Self::Settle => "settle",
            Self::Abort => "abort",
            Self::Fence => "fence",
            Self::Filter => "filter",
            Self::Close => "close",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Run => "run",
        }
    }
}

/// Why an action is in this plan (DESIGN section 4, point 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// This commit.
    Change,
    /// Merged earlier, not applied yet.
    Pending,
    /// The world moved.
    Drift,
    /// A person or load asked.
    Demand,
    /// A time is over.
    Expiry,
}

impl Cause {
    /// The word people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Pending => "pending",
            Self::Drift => "drift",
            Self::Demand => "demand",
            Self::Expiry => "expiry",
        }
    }
}

/// Why an action is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// A stable code; readers treat one they do not know as unspecified.
    pub code: String,
    /// A sentence.
    pub text: String,
    /// The lines that ask for it.
    pub origins: Vec<Origin>,
    /// The action that needs this one.
    pub trigger: Option<ActionId>,
}

/// Impact classes, worst first (DESIGN section 4, point 4): the sort key of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The VM and its data end.
    DestroyData,
    /// The VM ends, its data disks are kept for a time.
    DestroyKeep,
    /// Root disk made anew, and with it data that it kept.
    RecreateData,
    /// Root disk made anew, data disks attached again.
    Recreate,
    /// What runs on a host ends at once.
    Fence,
    /// Stopped, moved or changed, started.
    Cold,
    /// Stopped and started now.
    Reboot,
    /// Takes effect at the next stop and start.
    Staged,
    /// Moved while it runs.
    Migrate,
    /// Changed while it runs.
    Live,
    /// Nothing that a guest notices.
    None,
    /// New.
    Create,
    /// Taken over; the guest is not touched.
    Adopt,
    /// Left to itself; the guest is not touched.
    Forget,
    /// Would happen, but is stopped.
    Blocked,
}

impl Class {
    /// The word of DESIGN section 4.
    pub const fn word(self) -> &'static str {
        match self {
            Self::DestroyData => "destroy-data",
            Self::DestroyKeep => "destroy-keep",
            Self::RecreateData => "recreate-data",
            Self::Recreate => "recreate",
            Self::Fence => "fence",
            Self::Cold => "cold",
            Self::Reboot => "reboot",
            Self::Staged => "staged",
            Self::Migrate => "migrate",
            Self::Live => "live",
            Self::None => "none",
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Forget => "forget",
            Self::Blocked => "blocked",
        }
    }
    /// Something that cannot be had back ends.
    pub const fn is_destructive(self) -> bool {
        matches!(self, Self::DestroyData | Self::DestroyKeep | Self::RecreateData | Self::Recreate)
    }
    /// A person notices.
    pub const fn is_disruptive(self) -> bool {
        matches!(self, Self::Fence | Self::Cold | Self::Reboot | Self::Migrate)
    }
}

/// What an action costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Impact {
    /// Its class.
    pub class: Class,
    /// Whether the VM is away meanwhile, and for how long.
    pub downtime: Downtime,
    /// What happens to data.
    pub data: Vec<DataEffect>,
}

/// How long a VM is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Downtime {
    /// Not at all.
    None,
    /// About this long.
    Estimate {
        /// Milliseconds.
        millis: u64,
        /// Past boots that the figure is the median of; 0: the policy's worst case.
        samples: u32,
    },
    /// For good.
    Permanent,
    /// Until it is started again.
    UntilStarted,
}

/// How a VM is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// How.
    pub mode: MoveMode,
    /// Why so: what made it possible, or what made the better ways impossible.
    pub why: String,
    /// Bytes that travel at least: used parts of disks, and memory.
    pub bytes: Bytes,
    /// Milliseconds that the guest stands still or is away.
    pub pause_millis: u64,
    /// Milliseconds that the whole move takes.
    pub millis: u64,
    /// Past moves over this link that the figures are of; 0: assumed 100 MB/s.
    pub samples: u32,
    /// How data travels.
    pub transport: crate::model::Transport,
}

/// The ways of moving a VM, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveMode {
    /// While it runs; both hosts have the same storage.
    Live,
    /// While it runs, with its disks.
    LiveStorage,
    /// It is suspended: its saved memory and its disks are copied.
    Saved,
    /// It does not run: its disks are copied.
    Cold,
    /// It is stopped, its disks are copied, it is started.
    StopCopyStart,
}

impl MoveMode {
    /// What people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Live => "live, shared storage",
            Self::LiveStorage => "live, with its disks",
            Self::Saved => "suspended, with its disks",
            Self::Cold => "stopped, with its disks",
            Self::StopCopyStart => "stop, copy, start",
        }
    }
    /// Whether the guest runs on.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Live | Self::LiveStorage)
    }
}

/// What happens to one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataEffect {
    /// `root` or the data disk's name.
    pub disk: String,
    /// What happens.
    pub effect: DiskFate,
    /// Size that the guest sees.
    pub bytes: Bytes,
}

/// What happens to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiskFate {
    /// Stays as it is.
    Keep,
    /// Kept without a VM until the time given.
    RetainUntil(Timestamp),
    /// Deleted.
    Delete,
    /// Made.
    Make,
    /// Made anew from the image: what was on it is gone.
    Remake,
    /// Returns to its image, as it does at each start.
    Reset,
    /// Grown to this size.
    Grow(Bytes),
    /// Attached again.
    Reattach,
    /// Copied to another host; the copy that stays behind is kept until this time.
    Move(Timestamp),
}

/// A field before and after, as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// The field.
    pub field: Field,
    /// Its full path below the VM, for example `disks.data.size`.
    pub path: String,
    /// Value before; `None`: not there.
    pub before: Option<String>,
    /// Value after.
    pub after: Option<String>,
    /// The class that this field alone asks for.
    pub class: Class,
    /// Where the new value was written.
    pub origin: Option<Origin>,
    /// For drift: the YAML that would keep what is there now.
    pub keep: Option<String>,
}

/// What stops an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// What kind of stop.
    pub by: BlockedBy,
    /// A sentence.
    pub text: String,
    /// What would unblock it.
    pub unblock: String,
}

/// Kinds of stops (DESIGN section 4, point 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BlockedBy {
    /// The VM's protection.
    Protection,
    /// A limit of the fleet.
    Limit,
    /// Not in this window, or a Pause.
    Window,
    /// Something that must be known is not.
    UnknownState,
    /// No room that the rules allow.
    MissingCapacity,
    /// A rule of the fleet (an approval, a Removal that is missing).
    Policy,
    /// An action that it needs is blocked.
    Dependency,
}

impl BlockedBy {
    /// The words people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Protection => "protection",
            Self::Limit => "limit",
            Self::Window => "window",
            Self::UnknownState => "unknown state",
            Self::MissingCapacity => "missing capacity",
            Self::Policy => "policy",
            Self::Dependency => "dependency",
        }
    }
}

/// A line about something that does not happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What it is about.
    pub subject: Address,
    /// Which kind of quiet it is.
    pub kind: NoteKind,
    /// A sentence.
    pub text: String,
    /// The line it comes from, where there is one.
    pub origin: Option<Origin>,
}

/// Kinds of quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NoteKind {
    /// A move goes on by itself: what is left to do is planned when it ended.
    UnderWay,
    /// Waiting for something.
    Waiting,
    /// Left alone on purpose: a hold, a pause, something unmanaged.
    LeftAlone,
    /// A change is written down and waits for a restart.
    RestartPending,
    /// A hint, for example that a pair of actions looks like a rename.
    Hint,
}

/// A host before and after the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostRoom {
    /// The host.
    pub host: Name,
    /// False: Unknown; the figures are then of the documents alone.
    pub known: bool,
    /// Processors promised before, after, and what may be promised.
    pub cpus: Triple,
    /// Memory promised in MiB before, after, and what may be promised.
    pub memory_mib: Triple,
    /// Slots used before, after, and there.
    pub slots: Triple,
    /// Bytes free where slots live.
    pub free: Bytes,
    /// Whether the others could take what runs here, before and after (one host: always false).
    pub n_plus_one: (bool, bool),
    /// Domains that are not ours.
    pub unmanaged: u32,
}

/// Before, after, capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Triple {
    /// Before the plan.
    pub before: u64,
    /// After it.
    pub after: u64,
    /// What there is.
    pub capacity: u64,
}

/// A host that is emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDrain {
    /// The host.
    pub host: Name,
    /// What happens to VMs that cannot move while they run.
    pub others: crate::model::Others,
    /// Who asked: `by its document`, `asked by ann`.
    pub by: String,
    /// Actions by which VMs leave it.
    pub moves: Vec<ActionId>,
    /// Actions that stop a VM which stays there.
    pub stops: Vec<ActionId>,
    /// Blocked actions: VMs that should leave and cannot.
    pub cannot: Vec<ActionId>,
    /// VMs that stay without an action: each has a note that says why.
    pub stays: Vec<Name>,
    /// Bytes that travel.
    pub bytes: Bytes,
    /// Milliseconds that the moves take, one after the other.
    pub millis: u64,
}

/// A move that hosts carry out between them, whether or not anybody waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flight {
    /// The VM.
    pub vm: Name,
    /// Where it leaves and where it arrives, as far as that is known.
    pub hosts: BTreeSet<Name>,
}

/// How much of a limit a plan uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitUse {
    /// `destroy`, `recreate`, `reboot` or `move`.
    pub limit: String,
    /// Actions of this plan that count.
    pub used: u32,
    /// Done in the last 24 h.
    pub used_day: u32,
    /// Most that may be done in a pass and in a day.
    pub most: u32,
}

/// A risk flag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Risk {
    /// R1xx availability, R2xx data, R3xx exposure, R4xx freshness, R5xx capacity, R6xx policy.
    pub code: String,
    /// What it is about.
    pub subject: Address,
    /// A sentence.
    pub text: String,
}

impl Plan {
    /// Moves that go on by themselves: there is something to do when they ended, without any action now.
    pub fn under_way(&self) -> usize {
        self.notes.iter().filter(|n| n.kind == NoteKind::UnderWay).count()
    }
    /// No action at all, not even a blocked one.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
    /// An action by its id.
    pub fn action(&self, id: &ActionId) -> Option<&Action> {
        self.actions.iter().find(|a| a.id == *id)
    }
    /// Counts for the verdict line.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { unchanged: self.unchanged, ..Counts::default() };
        for action in &self.actions {
            if action.is_blocked() {
                counts.blocked += 1;
            } else if action.impact.class.is_destructive() {
                counts.destructive += 1;
            } else if action.impact.class.is_disruptive() {
                counts.disruptive += 1;
            } else {
                counts.safe += 1;
            }
        }
        counts
    }
}

impl Action {
    /// Whether it sets a host's packet filter.
    pub fn is_filter(&self) -> bool {
        matches!(self.verb, Verb::Filter | Verb::Close)
    }
    /// With whom it stands and falls: the others of its roll or its task.
    pub fn fellows(&self) -> Option<(&'static str, &Name)> {
        let task = self.task.as_ref().map(|task| ("task", task));
        self.roll.as_ref().map(|image| ("roll", image)).or(task)
    }
    /// Whether something stops it.
    pub fn is_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }
}

/// Counts for the verdict line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stopped.
    pub blocked: u32,
    /// Destructive and not stopped.
    pub destructive: u32,
    /// Disruptive and not stopped.
    pub disruptive: u32,
    /// Neither.
    pub safe: u32,
    /// VMs that stay as they are.
    pub unchanged: u32,
}
