//! The plan while it is being made: actions with their footprints on hosts, notes, and helpers to write them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::absent::Seat;
use super::digest;
use super::groups::{HostGroup, host_groups};
use super::place::{Need, Placer};
use super::roll::Goal;
use super::steps::{Op, Step};
use super::target::{Addresses, Slot, Target, build};
use super::types::{
    Action, ActionId, Block, BlockedBy, Cause, Class, Downtime, Impact, Note, NoteKind, Reason, Risk, Verb,
};
use super::world::World;
use super::{PlanInput, types::DataEffect};
use crate::model::{Address, Host, Name, Origin, Power, Removal, RunState, Vm, VmObs};

/// What a small Linux guest takes to shut down when it is asked: 1.4 to 2.1 s were measured, by ACPI and by the agent.
pub(crate) const USUAL_STOP_MILLIS: u64 = 2_000;

/// What an action changes on a host's account.
#[derive(Clone, Debug)]
pub(crate) struct Footprint<'a> {
    pub(crate) host: &'a Name,
    pub(crate) before: Need,
    pub(crate) after: Need,
}

/// The plan in the making.
pub(crate) struct Draft<'a> {
    pub(crate) input: &'a PlanInput<'a>,
    pub(crate) world: World<'a>,
    pub(crate) placer: Placer<'a>,
    pub(crate) addresses: Addresses,
    /// VMs that should exist: those described and not removed.
    pub(crate) wanted: BTreeMap<&'a Name, &'a Vm>,
    pub(crate) actions: Vec<Action>,
    /// What each action changes, by the action's number: one footprint a host, so a move has two.
    pub(crate) footprints: BTreeMap<usize, Vec<Footprint<'a>>>,
    /// The hosts among which VMs move, by each of them.
    groups: BTreeMap<Name, Arc<HostGroup>>,
    /// Sets that go to another generation of their image.
    pub(crate) rolls: Vec<Goal>,
    /// Generations of images that are to be made.
    pub(crate) builds: Vec<super::builds::Goal>,
    /// Sets for a time: who ends, what was promised.
    pub(crate) leases: super::leases::Told,
    /// How promises can be held.
    pub(crate) played: Option<super::leases::Played<'a>>,
    /// How often that was found out again for one VM.
    pub(crate) replays: usize,
    /// Actions by which VMs grow into room of their host, and how much.
    pub(crate) grown: Vec<(usize, &'a Name, Need)>,
    /// Tasks that go on, or stand still.
    pub(crate) task_runs: Vec<super::types::TaskRun>,
    /// VMs that stand in for others, and why.
    pub(crate) standing_in: BTreeMap<Name, String>,
    pub(crate) notes: Vec<Note>,
    pub(crate) risks: Vec<Risk>,
    /// VMs with an action.
    pub(crate) touched: BTreeSet<&'a Name>,
    /// VMs that are to be made, with the hosts that they have been given so far.
    pub(crate) seats: Vec<Seat<'a>>,
    /// Specifications of VMs for which no room could be made.
    pub(crate) cramped: BTreeSet<(usize, u64)>,
    /// Actions that need more of their host than it has left, and how much more: they are blocked by that.
    pub(crate) short: BTreeMap<usize, Need>,
    digests: BTreeMap<(usize, RunState), String>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(input: &'a PlanInput<'a>, trace: Option<Name>) -> Self {
        let world = World::new(input.desired, input.observed);
        let placer = Placer::new(input.desired, input.demand, &world, trace);
        let addresses = Addresses::new(input.desired, &world);
        let groups = host_groups(input.desired, input.observed).into_iter().map(Arc::new);
        let removals = &input.desired.removals;
        let gone = |vm: &Vm| removals.iter().any(|r| covers(r, &vm.name, &vm.group));
        let wanted = input.desired.vms.iter().filter(|(_, vm)| removals.is_empty() || !gone(vm)).collect();
        Self {
            input,
            world,
            placer,
            addresses,
            wanted,
            actions: Vec::new(),
            footprints: BTreeMap::new(),
            groups: groups.flat_map(|g| g.hosts.clone().into_iter().map(move |host| (host, g.clone()))).collect(),
            rolls: Vec::new(),
            builds: Vec::new(),
            leases: super::leases::Told::default(),
            played: None,
            replays: 0,
            grown: Vec::new(),
            task_runs: Vec::new(),
            standing_in: BTreeMap::new(),
            notes: Vec::new(),
            risks: Vec::new(),
            touched: BTreeSet::new(),
            seats: Vec::new(),
            cramped: BTreeSet::new(),
            short: BTreeMap::new(),
            digests: BTreeMap::new(),
        }
    }

    /// Digest of what a VM's document asks for; computed once for all VMs that share a specification.
    pub(crate) fn digest(&mut self, vm: &Vm) -> String {
        let key = (std::sync::Arc::as_ptr(&vm.spec).addr(), vm.run);
        let desired = self.input.desired;
        if desired.pinned.contains_key(&vm.name) {
            return digest::spec_digest(desired, vm);
        }
        self.digests.entry(key).or_insert_with(|| digest::spec_digest(desired, vm)).clone()
    }

    /// A VM's target on a host.
    pub(crate) fn target(
        &mut self,
        vm: &'a Vm,
        host: &'a Host,
        incarnation: u32,
        existing: Option<&VmObs>,
    ) -> Result<Target<'a>, String> {
        let digest = self.digest(vm);
        let group = self.groups.get(&host.name).map(Arc::as_ref);
        let slot = Slot { vm, host, group, incarnation, existing };
        build(self.input.desired, &self.world, &mut self.addresses, digest, slot)
    }

    /// The steps by which the root disk of a VM that is stopped returns to its image before it is started on a host.
    pub(crate) fn returning(&mut self, vm: &'a Vm, host: &Name, obs: &VmObs) -> Vec<super::steps::Op> {
        let root = obs.config.disks.get("root").filter(|_| vm.spec.returns_root);
        let (Some(root), Some(host)) = (root, self.input.desired.hosts.get(host)) else { return Vec::new() };
        let target = self.target(vm, host, obs.stamp.incarnation, Some(obs));
        target.map(|target| target.reset_root(&root.path)).unwrap_or_default()
    }

    /// Whether it should run, what was asked by hand included.
    pub(crate) fn effective_run(&self, vm: &Vm) -> (RunState, bool) {
        if self.is_generalised(&vm.name) {
            return (RunState::Stopped, false);
        }
        match self.input.demand.holds.get(&vm.name) {
            Some(hold) if hold.run != vm.run => (hold.run, true),
            _ => (vm.run, false),
        }
    }

    /// Adds a note.
    pub(crate) fn note(&mut self, vm: &Name, kind: NoteKind, text: impl Into<String>, origin: Option<Origin>) {
        self.notes.push(Note { subject: Address::Vm(vm.clone()), kind, text: text.into(), origin });
    }

    /// Adds an action with its footprints: at most one a host.
    pub(crate) fn push(&mut self, action: Action, footprints: impl IntoIterator<Item = Footprint<'a>>) {
        let footprints: Vec<_> = footprints.into_iter().collect();
        if !footprints.is_empty() {
            self.footprints.insert(self.actions.len(), footprints);
        }
        self.actions.push(action);
    }

    /// The pause that covers a VM, if one is in force.
    pub(crate) fn pause(&self, vm: &Name, group: &str) -> Option<Block> {
        let now = self.input.now;
        let covering = self.input.desired.pauses.iter().filter(|p| p.until > now);
        let mut covering = covering.filter(|p| covers_address(&p.scope, vm, group));
        covering.next().map(|p| Block {
            by: BlockedBy::Window,
            text: format!("paused by {}: {}", p.who, p.reason),
            unblock: format!("it ends by itself, or remove {} ({})", p.name, p.origin),
        })
    }

    /// Estimated time from start to ready: the median of past boots of the image, else the policy's worst case.
    pub(crate) fn boot_estimate(&self, target: &Target<'_>) -> (u64, u32) {
        let past = target.stamp.image.as_ref().and_then(|d| self.input.observed.store.boot_millis.get(d.as_str()));
        if let Some(past) = past.filter(|p| !p.is_empty()) {
            let mut sorted = past.clone();
            sorted.sort_unstable();
            return (sorted[sorted.len() / 2], u32::try_from(sorted.len()).unwrap_or(u32::MAX));
        }
        let worst = target.vm.spec.ready.as_ref().map_or(60_000, |p| p.within.0);
        (worst, 0)
    }

    /// Downtime of a stop and start: the boot and the stop; where the boot is only the policy's worst case, the stop's
    /// deadline counts too.
    pub(crate) fn restart_estimate(&self, target: &Target<'_>) -> Downtime {
        let (boot, samples) = self.boot_estimate(target);
        let deadline = target.vm.spec.stop.deadline.0;
        let stop = if samples == 0 { deadline } else { deadline.min(USUAL_STOP_MILLIS) };
        Downtime::Estimate { millis: boot + stop, samples }
    }
}

/// An action without steps, to be filled in.
pub(crate) fn action(vm: &Name, verb: Verb, cause: Cause, reason: Reason, class: Class, downtime: Downtime) -> Action {
    let subject = Address::Vm(vm.clone());
    Action {
        id: ActionId::new(&subject, verb, None),
        subject,
        verb,
        cause,
        reason,
        impact: Impact { class, downtime, data: Vec::<DataEffect>::new() },
        from: None,
        to: None,
        fields: Vec::new(),
        transfer: None,
        roll: None,
        task: None,
        otherwise: None,
        opens: Vec::new(),
        closes: Vec::new(),
        after: Vec::new(),
        wave: 0,
        blocked: Vec::new(),
        steps: Vec::new(),
    }
}

/// A reason with one origin.
pub(crate) fn reason(code: &str, text: impl Into<String>, origins: impl IntoIterator<Item = Origin>) -> Reason {
    Reason { code: code.to_owned(), text: text.into(), origins: origins.into_iter().collect(), trigger: None }
}

/// Steps on one host.
pub(crate) fn on(host: &Name, ops: impl IntoIterator<Item = Op>) -> Vec<Step> {
    ops.into_iter().map(|op| Step { host: host.clone(), op }).collect()
}

/// Whether a Removal names a VM: itself, its service or module, or the whole fleet.
pub(crate) fn covers(removal: &Removal, vm: &Name, group: &str) -> bool {
    covers_address(&removal.target, vm, group)
}

/// Whether an address takes a VM in.
pub(crate) fn covers_address(address: &Address, vm: &Name, group: &str) -> bool {
    match address {
        Address::Fleet(_) => true,
        Address::Vm(name) => name == vm,
        Address::Service(owner) | Address::Module(owner) => {
            group.strip_prefix(owner.as_str()).is_some_and(|rest| rest.starts_with('/'))
        }
        Address::Host(_) | Address::Image(_) | Address::Network(_) | Address::Task(_) => false,
    }
}

/// What an observed VM takes of its host now.
pub(crate) fn need_now(vm: &VmObs) -> Need {
    let live = vm.live.as_ref().unwrap_or(&vm.config);
    // What it has now and what it gets at its next start: the larger counts, so that a staged growth has its room when
    // it comes, and a staged shrink gives none back before. Only a guest that still boots holds its whole maximum for a
    // moment, until its balloon is filled: there the promise counts.
    let boots = live.memory == live.max_memory && live.max_memory == vm.config.max_memory;
    let memory = if boots { vm.config.memory } else { vm.config.memory.max(live.memory) };
    let cpus = vm.config.cpus.max(live.cpus);
    match vm.power {
        Power::Running | Power::Paused | Power::ShuttingDown => Need::sized(cpus, memory, RunState::Started),
        Power::Stopped | Power::Crashed => Need::sized(0, memory, RunState::Stopped),
        Power::Suspended => Need::default(),
    }
}
