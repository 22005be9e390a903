//! What is done inside guests: steps, tasks that carry them out on VMs that run, and the marks that tell what was done.

use std::collections::BTreeSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::desired::{Desired, Share};
use super::ids::{Address, Name};
use super::origin::Origin;
use super::quantity::{Span, Timestamp};
use super::vm::{Owner, Probe, Vm};

/// One step in a guest. To do it twice does no harm, or it is not a step: after a cut it begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestStep {
    /// What is done.
    pub work: GuestWork,
    /// How long it may take, when not as long as steps usually may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// What a step in a guest does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GuestWork {
    /// A program with its arguments, which must end with 0.
    Run(Vec<Arc<str>>),
    /// A file that is there with this content.
    File(GuestFile),
    /// Packages, by the package manager that the guest has.
    Packages(PackageWork),
}

/// A file in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestFile {
    /// Its absolute path.
    pub path: Arc<str>,
    /// All that is in it.
    pub content: Arc<str>,
    /// Its permissions, as for chmod(2).
    pub mode: u32,
}

/// Packages that a guest has, has no more, or has in their newest version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageWork {
    /// To install.
    pub install: Vec<Arc<str>>,
    /// To remove.
    pub remove: Vec<Arc<str>>,
    /// To upgrade.
    pub upgrade: Upgrade,
}

/// Which packages are upgraded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Upgrade {
    /// None.
    #[default]
    None,
    /// All that are installed.
    All,
    /// These.
    These(Vec<Arc<str>>),
}

/// A Task document: steps on VMs that run, once on each and for each content.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub name: Name,
    /// On which VMs.
    pub select: Selector,
    /// What is done, in order.
    pub steps: Vec<GuestStep>,
    /// Digest of the steps: other steps are another task under the same name.
    pub digest: String,
    /// What must succeed after the steps, beside the VM's own probe.
    pub check: Option<Probe>,
    /// Most of its VMs that are worked on at once.
    pub max_unavailable: Share,
    /// How long a step may take that does not say so itself.
    pub within: Span,
    /// Where it was written.
    pub origin: Origin,
}

/// Digest of steps, 32 hexadecimal digits.
pub fn task_digest(steps: &[GuestStep]) -> String {
    // Serialising plain data into memory cannot fail.
    let text = serde_json::to_vec(steps).unwrap_or_default();
    Sha256::digest(&text)[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// Which VMs: those for which all that is said is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Of one of these services and modules; `None`: of any.
    pub owners: Option<BTreeSet<Address>>,
    /// Of this app.
    pub app: Option<Name>,
    /// Of this instance.
    pub instance: Option<Name>,
    /// The VM of this name in each instance.
    pub member: Option<Name>,
    /// Made of this image.
    pub image: Option<Name>,
    /// This VM of the fleet.
    pub vm: Option<Name>,
}

impl Selector {
    /// Whether it means a VM.
    pub fn takes(&self, vm: &Vm) -> bool {
        let is = |said: &Option<Name>, has: Option<&Name>| said.as_ref().is_none_or(|said| Some(said) == has);
        let (app, instance, member) = match &vm.owner {
            // Nobody's but the system's.
            Owner::Image { .. } => return false,
            Owner::Service { app, .. } => (Some(app), None, None),
            Owner::Module { instance, member, .. } => (None, Some(instance), Some(member)),
        };
        self.owners.as_ref().is_none_or(|owners| owners.contains(&vm.owner.address()))
            && is(&self.app, app)
            && is(&self.instance, instance)
            && is(&self.member, member)
            && is(&self.image, vm.spec.image.as_ref())
            && is(&self.vm, Some(&vm.name))
    }
    /// The VMs that it means, by name.
    pub fn of<'d>(&'d self, desired: &'d Desired) -> impl Iterator<Item = &'d Vm> {
        desired.vms.values().filter(|vm| self.takes(vm))
    }
}

/// What a program in a guest printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestOutput {
    /// Its exit status; 128 and the signal's number when it was killed by one.
    pub status: i32,
    /// The end of what it printed: [`GUEST_OUTPUT`] bytes at most.
    pub stdout: String,
    /// The end of what it complained, as much at most.
    pub stderr: String,
    /// Whether it said more than that.
    pub truncated: bool,
}

/// Bytes of each stream that are kept of what a program in a guest says.
pub const GUEST_OUTPUT: usize = 64 << 10;

impl GuestOutput {
    /// How it ended: `ends with 3`, `was killed by signal 9`.
    pub fn ended(&self) -> String {
        match self.status {
            129..=192 => format!("was killed by signal {}", self.status - 128),
            status => format!("ends with {status}"),
        }
    }
    /// The last lines of what it complained, or else of what it printed.
    pub fn last_lines(&self, most: usize) -> Vec<String> {
        let lines = |text: &str| -> Vec<String> {
            let all: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
            all[all.len().saturating_sub(most)..].iter().map(|l| (*l).to_owned()).collect()
        };
        let said = lines(&self.stderr);
        if said.is_empty() { lines(&self.stdout) } else { said }
    }
}

/// What a VM says of a task that was begun on it: part of its stamp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskMark {
    /// Digest of the task's steps.
    pub digest: String,
    /// When it began.
    pub at: Timestamp,
    /// How far it came.
    pub result: TaskResult,
}

/// How far a task came on a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TaskResult {
    /// It began. If nobody is at it, whoever was has ended: it begins again.
    Begun,
    /// All steps were done, and its checks succeeded.
    Done,
    /// A step or a check failed: it is not tried again until it is another task or somebody asks.
    Failed,
}
