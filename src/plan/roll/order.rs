//! The order of a roll: canaries one after the other, then steps of every set, each ready before the next; and how much of
//! it the day's limit lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Goal, part};
use crate::model::{Name, Rollout, Span};
use crate::plan::draft::{Draft, reason};
use crate::plan::steps::{Op, Step};
use crate::plan::types::{Action, ActionId, Block, BlockedBy, Verb};

/// The steps of a roll, by numbers of actions: canaries first, then what goes side by side.
pub(super) struct Steps {
    pub(super) canaries: Vec<usize>,
    /// By set: its steps.
    pub(super) sets: BTreeMap<Arc<str>, Vec<Vec<usize>>>,
}

impl Draft<'_> {
    /// VMs that a roll takes along whose image has a rollout policy in its document.
    pub(in crate::plan) fn rolled_by_policy(&self) -> BTreeSet<Name> {
        let written = |goal: &&Goal| self.input.desired.images.get(&goal.image).is_some_and(|i| i.rollout.written);
        let members = self.rolls.iter().filter(|goal| goal.halted.is_none()).filter(written).flat_map(|g| &g.order);
        members.map(|m| m.name.clone()).collect()
    }

    /// Blocks what the day's limit does not let through any more, in the order of the rolls; gives how many go. What goes back
    /// after a failure counts, and is never held up: it is down already.
    pub(in crate::plan) fn limit_rolls(&mut self, policy: &BTreeSet<Name>, left: u32, others: u32, day: u32) -> u32 {
        if policy.is_empty() {
            return 0;
        }
        let mut left = left.saturating_sub(others);
        let mut used = 0;
        let numbers = self.recreations();
        let order: Vec<(Name, bool)> =
            self.rolls.iter().flat_map(|g| g.order.iter().map(|m| (m.name.clone(), g.back))).collect();
        for (name, back) in order.iter().filter(|(name, _)| policy.contains(name)) {
            let Some(number) = numbers.get(name).copied() else { continue };
            if left > 0 || *back {
                left = left.saturating_sub(1);
                used += 1;
                continue;
            }
            self.actions[number].blocked.push(Block {
                by: BlockedBy::Limit,
                text: format!("a day may see {day} VMs recreated: the roll goes on when some of them are 24 h ago"),
                unblock: "wait, or raise limits.recreate in the Fleet document (a day may see four times that)"
                    .to_owned(),
            });
        }
        used
    }

    /// The numbers of the actions by which VMs are rolled, when nothing stops them, by VM.
    fn recreations(&self) -> BTreeMap<Name, usize> {
        let open = self.actions.iter().enumerate().filter(|(_, a)| a.verb == Verb::Recreate && !a.is_blocked());
        open.map(|(number, a)| (a.subject.name().clone(), number)).collect()
    }

    /// Puts every roll in order.
    pub(in crate::plan) fn roll(&mut self) {
        if self.rolls.is_empty() {
            return;
        }
        let numbers = self.recreations();
        for goal in std::mem::take(&mut self.rolls) {
            if goal.halted.is_some() {
                self.stands_still(&goal);
            } else {
                self.roll_one(&goal, &numbers);
            }
            self.rolls.push(goal);
        }
    }

    /// Which of its VMs go in which step.
    pub(super) fn steps_of(&self, goal: &Goal, numbers: &BTreeMap<Name, usize>) -> Steps {
        let rollout = self.rollout(goal);
        let mut going = goal.order.iter().filter_map(|m| Some((m, *numbers.get(&m.name)?)));
        let canaries: Vec<usize> = going.by_ref().take(goal.canaries).map(|(_, number)| number).collect();
        let mut sets: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        going.for_each(|(member, number)| sets.entry(member.set.clone()).or_default().push(number));
        let mut sizes: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for vm in self.wanted.values().filter(|vm| vm.spec.image.as_ref() == Some(&goal.image)) {
            *sizes.entry(super::set_of(vm)).or_default() += 1;
        }
        let sets = sets.into_iter().map(|(set, all)| {
            let at_once = part(rollout.max_unavailable, sizes.get(&set).copied().unwrap_or(1), false).max(1);
            (set, all.chunks(at_once).map(<[usize]>::to_vec).collect())
        });
        Steps { canaries, sets: sets.collect() }
    }

    fn rollout(&self, goal: &Goal) -> Rollout {
        self.input.desired.images.get(&goal.image).map(|i| i.rollout.clone()).unwrap_or_default()
    }

    fn roll_one(&mut self, goal: &Goal, numbers: &BTreeMap<Name, usize>) {
        let min_ready = self.rollout(goal).min_ready;
        let steps = self.steps_of(goal, numbers);
        let mut first: Vec<usize> = Vec::new();
        let mut last: Option<usize> = None;
        for number in &steps.canaries {
            match last {
                Some(before) => self.after(*number, &[before]),
                None => first.push(*number),
            }
            last = Some(*number);
        }
        for all in steps.sets.values() {
            let mut before: Vec<usize> = last.into_iter().collect();
            for step in all {
                if before.is_empty() {
                    first.extend(step);
                }
                for number in step {
                    self.after(*number, &before);
                }
                before.clone_from(step);
            }
        }
        let going = steps.canaries.iter().chain(steps.sets.values().flatten().flatten());
        for number in going.copied().collect::<Vec<_>>() {
            self.actions[number].roll = Some(goal.image.clone());
            self.hold(number, min_ready);
        }
        self.begin_when_ready(goal, &first, min_ready);
    }

    fn after(&mut self, number: usize, before: &[usize]) {
        let ids: Vec<ActionId> = before.iter().map(|b| self.actions[*b].id.clone()).collect();
        self.actions[number].after.extend(ids);
    }

    /// Whoever was waited for until it was ready must stay so for a time.
    fn hold(&mut self, number: usize, min_ready: Span) {
        if min_ready.0 == 0 {
            return;
        }
        let act = &mut self.actions[number];
        let mine = |s: &Step| matches!(&s.op, Op::AwaitReady { vm, .. } if vm == act.subject.name());
        let Some(at) = act.steps.iter().position(mine) else { return };
        if let Some(stay) = stay(&act.steps[at], min_ready) {
            act.steps.insert(at + 1, stay);
        }
    }

    /// A roll that goes on begins when those that were rolled before are ready, and what is made or started on the new
    /// generation in this plan too.
    fn begin_when_ready(&mut self, goal: &Goal, first: &[usize], min_ready: Span) {
        if first.is_empty() {
            return;
        }
        let there: BTreeSet<&Name> = goal.there.iter().map(|t| &t.name).collect();
        let busy = |act: &Action| {
            let name = act.subject.name();
            let ends_ready = act.steps.iter().any(|s| matches!(s.op, Op::AwaitReady { .. }));
            let made = matches!(act.verb, Verb::Create | Verb::Restore) && self.world.records.contains_key(name);
            let of_image = || self.wanted.get(name).is_some_and(|vm| vm.spec.image.as_ref() == Some(&goal.image));
            act.subject.kind() == "vm"
                && ends_ready
                && !act.is_blocked()
                && (there.contains(name) || made && of_image())
        };
        let acting: Vec<usize> = (0..self.actions.len()).filter(|n| busy(&self.actions[*n])).collect();
        let names: BTreeSet<Name> = acting.iter().map(|n| self.actions[*n].subject.name().clone()).collect();
        for number in &acting {
            self.hold(*number, min_ready);
        }
        for number in first {
            self.after(*number, &acting);
        }
        let idle = |t: &&super::There| !names.contains(&t.name);
        let mut waits: Vec<Step> = Vec::new();
        for there in goal.there.iter().filter(idle).filter(|t| t.unproven) {
            waits.extend(self.await_it(&there.name));
        }
        // When the last of those before began to be ready nobody knows: one of them is watched once more.
        let watched = goal.there.iter().filter(idle).rfind(|t| t.rolled);
        if let Some(step) = watched.and_then(|t| self.await_it(&t.name)) {
            waits.extend(stay(&step, min_ready));
        }
        for number in first {
            self.actions[*number].steps.splice(0..0, waits.iter().cloned());
        }
    }

    /// The step that waits for a VM that runs.
    fn await_it(&self, name: &Name) -> Option<Step> {
        let (host, obs) = self.world.place(name)?;
        let vm = self.wanted.get(name).filter(|_| obs.power.is_active())?;
        let address = obs.probed_at();
        let op = Op::AwaitReady { vm: name.clone(), uuid: obs.uuid, probe: vm.spec.ready.clone(), address };
        Some(Step { host: host.clone(), op })
    }

    /// A roll that stands still is one blocked action: its VMs are healed and changed otherwise, on what they have.
    fn stands_still(&mut self, goal: &Goal) {
        let Some(halt) = &goal.halted else { return };
        let origin = self.input.desired.images.get(&goal.image).map(|i| i.origin.clone());
        let subject = crate::model::Address::Image(goal.image.clone());
        let first = goal.order.first().map(|m| m.name.clone()).unwrap_or_else(|| halt.vm.clone());
        let names: Vec<&Name> = goal.order.iter().map(|m| &m.name).collect();
        let text = super::listed(&names, "stay");
        let why =
            reason("roll_halted", format!("{text} as they are: the roll to {} is halted", goal.to.short()), origin);
        let mut act = crate::plan::draft::action(
            &first,
            Verb::Roll,
            crate::plan::Cause::Change,
            why,
            crate::plan::Class::Recreate,
            crate::plan::Downtime::None,
        );
        act.id = ActionId::new(&subject, Verb::Roll, None);
        act.subject = subject;
        act.roll = Some(goal.image.clone());
        act.blocked.push(Block {
            by: BlockedBy::Policy,
            text: format!("halted: vm/{} {}", halt.vm, halt.text),
            unblock: halt.unblock.clone(),
        });
        self.push(act, []);
    }
}

/// The step that watches what another one waited for.
fn stay(step: &Step, hold: Span) -> Option<Step> {
    let Op::AwaitReady { vm, uuid, probe, address } = &step.op else { return None };
    let op = Op::StayReady { vm: vm.clone(), uuid: *uuid, probe: probe.clone(), address: *address, hold };
    (hold.0 > 0).then(|| Step { host: step.host.clone(), op })
}
