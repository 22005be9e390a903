//! The planner: desired against observed gives an immutable plan.
//!
//! *Takes* desired, demand and observed state, a policy and the moment. *Gives* a [`Plan`].
//! *Never* does I/O, reads a clock, uses randomness or depends on the order of a hash map:
//! the same inputs give the same bytes on every machine.
//!
//! ```text
//! world   what may be believed ─┐
//! present existing VMs          │
//! gone    VMs that end          ├─▶ limits ─▶ place new ones (absent) ─▶ fabric ─▶ order ─▶ Plan
//! orphans disks without a VM   ─┘                                         │
//!                                                     filter: packet filters, once it is known what is done
//! ```

mod absent;
mod anew;
mod bridge;
pub mod builds;
mod carry;
pub mod check;
mod clear;
mod clones;
mod container;
mod detour;
mod devices;
mod diff;
pub mod digest;
mod draft;
mod fabric;
mod fence;
mod filled;
mod filter;
mod flights;
pub mod generations;
mod going;
mod gone;
pub mod groups;
pub mod guest;
pub mod impact;
pub mod leases;
mod limits;
mod moves;
mod opened;
mod order;
mod place;
mod places;
mod present;
mod quarantine;
mod rename;
pub mod roll;
mod room;
pub mod rules;
mod sequence;
mod settle;
mod stays;
pub mod steps;
mod stores;
mod summary;
mod surge;
mod target;
mod tasks;
pub mod term;
pub mod types;
pub mod verify;
mod way;
mod wishes;
mod world;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use builds::Build;
pub use digest::{covered, effect_key, spec_digest};
pub use opened::ReachChange;
pub use place::{HostScore, Verdict};
pub use steps::{
    DiskFrom, DomainDevice, DomainDisk, DomainNic, DomainSpec, Edit, Errand, KernelBoot, MigrateHow, NewDisk, Op,
    Replacement, Seed, SeedNic, Step,
};
pub use summary::RISKS;
pub use term::{SetTerm, TermPhase};
pub use types::*;
pub use verify::{FilterCheck, FilterVerdict, verify};

use crate::model::{Address, Demand, Desired, Name, Observed, RunState, Timestamp};
use draft::{Draft, need_now};
use place::Need;

/// Everything that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The state that causes are told against (`--base REV`), if any.
    pub base: Option<&'a Desired>,
    /// What the commit says.
    pub desired: &'a Desired,
    /// What people ask for by hand.
    pub demand: &'a Demand,
    /// What was seen.
    pub observed: &'a Observed,
    /// Where observed state came from: `live`, `none` or a folder.
    pub source: &'a str,
    /// The moment the plan is made for.
    pub now: Timestamp,
    /// What the caller may allow.
    pub policy: Policy,
}

/// Whether a look at the world should probe too: readiness decides how a roll or a task goes on.
pub fn wants_probes(desired: &Desired, observed: &Observed) -> bool {
    roll::wants_probes(desired, observed) || tasks::wants_probes(desired, observed)
}

/// What the caller of the planner may allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// A person saw the plan: effects that wait because the store was lost may go on.
    pub store_loss_accepted: bool,
}

/// Makes the plan (DESIGN section 4).
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let mut plan = compute(input, None, true).0;
    if let Some(base) = input.base {
        let before = compute(&PlanInput { base: None, desired: base, ..*input }, None, false).0;
        attribute(&mut plan, &before, base, input);
        plan.base = Some(base.revision.clone());
    }
    plan
}

/// Says why a VM is, or would be, where it is: each host's score or the reason why it was rejected.
pub fn why(input: &PlanInput<'_>, vm: &Name) -> Vec<HostScore> {
    compute(input, Some(vm.clone()), false).1
}

/// What documents mean now: with who stands in for others, without sets whose time is not now, with management instances,
/// and with who stays on, or goes back to, an older generation.
struct Meant<'a> {
    desired: Cow<'a, Desired>,
    standing_in: BTreeMap<Name, String>,
    notes: Vec<Note>,
    leases: leases::Told,
    builds: Vec<builds::Goal>,
    rolls: Vec<roll::Goal>,
}

fn meant<'a>(input: &PlanInput<'a>) -> Meant<'a> {
    let surge = surge::surge(input.desired, input.observed);
    let leases = leases::leases(surge.desired, input.observed, input.now);
    let builds = builds::builds(leases.desired, input.demand, input.observed);
    let rolls = roll::rolls(builds.desired, input.demand, input.observed);
    let mut told = leases.told;
    let mut notes = surge.notes;
    notes.extend(builds.notes);
    notes.extend(rolls.notes);
    notes.append(&mut told.notes);
    let (desired, standing_in) = (rolls.desired, surge.extra);
    Meant { desired, standing_in, notes, leases: told, builds: builds.goals, rolls: rolls.rolls }
}

/// Makes the plan; `foresee`: with what comes after generations that are made by it.
fn compute(input: &PlanInput<'_>, trace: Option<Name>, foresee: bool) -> (Plan, Vec<HostScore>) {
    let written = input;
    let meant = meant(input);
    let desired: &Desired = &meant.desired;
    let input = &PlanInput { desired, ..*input };
    let mut draft = Draft::new(input, trace);
    draft.standing_in = meant.standing_in;
    draft.notes = meant.notes;
    draft.rolls = meant.rolls;
    draft.builds.clone_from(&meant.builds);
    draft.leases = meant.leases;
    let whole_fleet_goes = desired.removals.iter().any(|r| matches!(r.target, Address::Fleet(_)));
    // What is not there because its time is not now was not forgotten.
    let empty = written.desired.vms.is_empty() && !whole_fleet_goes;
    let seen: Vec<_> = draft.world.vms.iter().map(|(name, places)| (*name, places.clone())).collect();
    for (name, places) in &seen {
        let Some((host, obs)) = places.first().copied() else { continue };
        match (draft.world.standings.get(name).cloned(), draft.wanted.get(name).copied()) {
            (None, Some(vm)) => draft.present(vm, host, obs),
            (None, None) => draft.unwanted(name, host, obs, empty),
            (Some(standing), vm) => draft.unsure(name, vm, (host, obs), standing),
        }
    }
    let mut limits = draft.limits();
    draft.settle_in();
    draft.devices_taken();
    draft.moves();
    let missing: Vec<_> = draft.wanted.values().filter(|vm| !draft.world.vms.contains_key(&vm.name)).copied().collect();
    draft.all_absent(missing);
    draft.make_the_seated();
    draft.aborts();
    limits.push(draft.move_limit());
    draft.settle_places();
    draft.renames();
    draft.orphans();
    draft.stale_records();
    draft.fences();
    draft.tell_surge();
    draft.tell_leases();
    draft.wait_when_store_lost();
    draft.start_order();
    draft.builds();
    draft.roll();
    draft.one_by_one();
    draft.hand_over();
    // First: it may add actions, which stand on something too.
    draft.make_room();
    draft.foundations();
    draft.stores();
    let reach = draft.filters();
    // Last: what else happens to a VM comes first.
    draft.run_tasks();
    let (critical_path, critical_millis) = draft.settle();
    let hosts = draft.host_rooms();
    draft.assess(&hosts);
    let unchanged = draft.wanted.keys().filter(|name| !draft.touched.contains(**name)).count();
    draft.note_copies();
    let mut notes = std::mem::take(&mut draft.notes);
    notes.sort();
    notes.dedup();
    let mut risks = std::mem::take(&mut draft.risks);
    risks.sort();
    risks.dedup();
    let drains = draft.drains();
    let rolls = draft.rolls_for_people();
    let told = draft.builds_for_people();
    let rows = draft.placer.trace.take().map(|(_, rows)| rows).unwrap_or_default();
    let actions = std::mem::take(&mut draft.actions);
    let mut plan = Plan {
        format_version: FORMAT_VERSION.to_owned(),
        fleet: desired.fleet.name.clone(),
        base: None,
        head: desired.revision.clone(),
        inputs: Inputs { source: input.source.to_owned(), now: input.now, ages: ages(input) },
        effects: String::new(),
        actions,
        reach,
        notes,
        hosts,
        limits,
        risks,
        drains,
        rolls,
        builds: told,
        made: builds::labels(desired),
        terms: std::mem::take(&mut draft.leases.terms),
        next: draft.leases.next,
        tasks: std::mem::take(&mut draft.task_runs),
        flights: std::mem::take(&mut draft.world.flights),
        unchanged: u32::try_from(unchanged).unwrap_or(u32::MAX),
        critical_path,
        critical_millis,
    };
    plan.effects = digest::effects_hash(&plan, desired.fleet.approval_any_host);
    if foresee {
        builds::foresee(&mut plan, desired, &meant.builds, written);
    }
    (plan, rows)
}

fn ages(input: &PlanInput<'_>) -> BTreeMap<Name, Option<u64>> {
    let age = |name: &Name| {
        let seen = input.observed.hosts.get(name).and_then(|o| o.known());
        seen.map(|h| input.now.since(h.at))
    };
    if input.observed.fleet.is_none() && input.observed.hosts.is_empty() {
        return BTreeMap::new();
    }
    input.desired.hosts.keys().map(|name| (name.clone(), age(name))).collect()
}

/// Tells causes by planning base and head against the same observed state: what both do is not this change's.
fn attribute(plan: &mut Plan, before: &Plan, base: &Desired, input: &PlanInput<'_>) {
    let old: BTreeMap<&ActionId, &Action> = before.actions.iter().map(|a| (&a.id, a)).collect();
    let made = plan.made.clone();
    for act in &mut plan.actions {
        let lost = act.is_filter() && act.cause == Cause::Drift;
        let own = ["surge", "roll_back", "guard", "quarantine_left"].contains(&&*act.reason.code) || lost;
        if matches!(act.cause, Cause::Demand | Cause::Expiry) || own {
            continue;
        }
        let named = |key: String| digest::named(key, &made);
        let same = |o: &&&Action| named(effect_key(o, true)) == named(effect_key(act, true));
        act.cause = match old.get(&act.id).filter(same) {
            None => Cause::Change,
            Some(_) if act.is_filter() && act.reason.code != "filter_rules" => continue,
            Some(_) if act.verb != Verb::Run && applied(act, base, input) => Cause::Drift,
            Some(_) => Cause::Pending,
        };
    }
    let new: std::collections::BTreeSet<&ActionId> = plan.actions.iter().map(|a| &a.id).collect();
    for act in before.actions.iter().filter(|a| !new.contains(&a.id) && a.subject.kind() == "vm") {
        plan.notes.push(Note {
            subject: act.subject.clone(),
            kind: NoteKind::Hint,
            text: format!("this change cancels {}, which the base asks for", act.id),
            origin: None,
        });
    }
    plan.notes.sort();
}

/// Whether a VM carries the stamp of what the base asks for: then a difference is drift.
fn applied(act: &Action, base: &Desired, input: &PlanInput<'_>) -> bool {
    let name = act.subject.name();
    if act.is_filter() {
        let there = input.observed.hosts.get(name).and_then(|o| o.known());
        let as_said = |(vm, obs): (&Name, &crate::model::VmObs)| {
            base.vms.get(vm).is_some_and(|vm| obs.stamp.spec == spec_digest(base, vm))
        };
        return there.is_some_and(|host| host.vms.iter().all(as_said));
    }
    let Some(vm) = base.vms.get(name).filter(|_| act.subject.kind() == "vm") else { return false };
    let seen = input.observed.hosts.values().filter_map(|o| o.known()).find_map(|h| h.vms.get(name));
    match seen {
        Some(obs) => obs.stamp.spec == spec_digest(base, vm),
        None => input.observed.records.contains_key(name),
    }
}

/// Whether a VM is stopped to be moved.
fn is_cold_move(act: &Action) -> bool {
    act.verb == Verb::Move && act.impact.class == types::Class::Cold
}

impl Draft<'_> {
    /// Counts what is there, as it will be: first what stays or shrinks, then what grows, as far as there is room.
    fn settle_in(&mut self) {
        let by_subject: BTreeMap<(Name, &Name), (usize, Need)> = self
            .footprints
            .iter()
            .filter(|(n, _)| !self.actions[**n].is_blocked())
            .flat_map(|(n, prints)| prints.iter().map(move |print| (*n, print)))
            .map(|(n, print)| ((self.actions[n].subject.name().clone(), print.host), (n, print.after)))
            .collect();
        let mut growing = Vec::new();
        let places: Vec<_> =
            self.world.vms.iter().flat_map(|(name, all)| all.iter().map(move |(h, o)| (*name, *h, *o))).collect();
        for (name, host, obs) in places {
            let now = need_now(obs);
            let changed = by_subject.get(&(name.clone(), host)).copied();
            let after = changed.map_or(now, |(_, after)| after);
            if self.world.place(name).is_some_and(|(at, _)| at != host) {
                self.placer.burden(host, now);
                continue;
            }
            self.trace_existing(name, host);
            if after.cpus > now.cpus || after.memory > now.memory || after.slots > now.slots {
                growing.push((changed, host, now, after));
                self.placer.occupy(host, &obs.stamp.group, now);
            } else if after != Need::default() || changed.is_none() {
                self.placer.occupy(host, &obs.stamp.group, after);
            }
        }
        for (changed, host, now, after) in growing {
            let more = Need {
                cpus: after.cpus.saturating_sub(now.cpus),
                memory: after.memory.saturating_sub(now.memory),
                slots: after.slots.saturating_sub(now.slots),
            };
            match (self.placer.grow(host, more), changed) {
                (Ok(()), Some((number, _))) => self.grown.push((number, host, more)),
                (Ok(()) | Err(_), None) => {}
                (Err(text), Some((number, _))) => {
                    self.short.insert(number, more);
                    self.actions[number].blocked.push(Block {
                        by: BlockedBy::MissingCapacity,
                        text: format!("host/{host}: {text}"),
                        unblock: "free some of the host, or ask for less".to_owned(),
                    });
                }
            }
        }
    }

    fn trace_existing(&mut self, name: &Name, host: &Name) {
        if self.placer.trace.as_ref().is_none_or(|(wanted, _)| wanted != name) {
            return;
        }
        let Some(vm) = self.wanted.get(name).copied() else { return };
        let Some(group) = self.input.desired.groups.get(&vm.group) else { return };
        let need = Need::of(vm, RunState::Started);
        self.placer.explain(vm, group, None, need);
        if let Some((_, rows)) = &mut self.placer.trace {
            for row in rows {
                row.chosen = row.host == *host;
            }
        }
    }

    /// Replicas of a group are rebooted and recreated one after the other, each ready before the next; a roll, which has an
    /// order of its own, waits for them.
    fn one_by_one(&mut self) {
        let mut last: BTreeMap<std::sync::Arc<str>, ActionId> = BTreeMap::new();
        let mut order: Vec<usize> = (0..self.actions.len()).collect();
        order.sort_by(|a, b| self.actions[*a].id.cmp(&self.actions[*b].id));
        let (rolled, others): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|n| self.actions[*n].roll.is_some());
        for number in others {
            let act = &self.actions[number];
            let away = matches!(act.verb, Verb::Reboot | Verb::Recreate) || is_cold_move(act);
            if act.is_blocked() || !away {
                continue;
            }
            let Some(vm) = self.wanted.get(act.subject.name()) else { continue };
            let id = act.id.clone();
            if let Some(previous) = last.insert(vm.group.clone(), id) {
                self.actions[number].after.push(previous);
            }
        }
        for number in rolled {
            let group = self.wanted.get(self.actions[number].subject.name()).map(|vm| &vm.group);
            if let Some(previous) = group.and_then(|group| last.get(group)) {
                self.actions[number].after.push(previous.clone());
            }
        }
    }
}
