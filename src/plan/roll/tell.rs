//! A roll as people read it: who leaves what for what, in which steps, how long, who is interrupted, what is copied.

use std::collections::{BTreeMap, BTreeSet};

use super::{Goal, Member};
use crate::model::{Bytes, CloneMethod, Digest, Name};
use crate::plan::draft::Draft;
use crate::plan::steps::{DiskFrom, Op};
use crate::plan::types::{Action, Downtime, Halted, Roll, Verb};

impl Draft<'_> {
    /// Every roll of the plan, as it was ordered.
    pub(in crate::plan) fn rolls_for_people(&self) -> Vec<Roll> {
        let open = self.actions.iter().enumerate().filter(|(_, a)| a.verb == Verb::Recreate && !a.is_blocked());
        let numbers: BTreeMap<Name, usize> = open.map(|(number, a)| (a.subject.name().clone(), number)).collect();
        self.rolls.iter().map(|goal| self.tell(goal, &numbers)).collect()
    }

    fn tell(&self, goal: &Goal, numbers: &BTreeMap<Name, usize>) -> Roll {
        let still = BTreeMap::new();
        let numbers = if goal.halted.is_some() { &still } else { numbers };
        let plan = self.steps_of(goal, numbers);
        let image = self.input.desired.images.get(&goal.image);
        let min_ready = image.map_or(0, |i| i.rollout.min_ready.0);
        let name = |number: &usize| self.actions[*number].subject.name().clone();
        let mut steps: Vec<Vec<usize>> = plan.canaries.iter().map(|n| vec![*n]).collect();
        let most = plan.sets.values().map(Vec::len).max().unwrap_or(0);
        for index in 0..most {
            steps.push(plan.sets.values().filter_map(|all| all.get(index)).flatten().copied().collect());
        }
        let millis = steps.iter().map(|step| self.step_millis(step) + min_ready).sum();
        let going: BTreeSet<&Name> = steps.iter().flatten().map(|n| self.actions[*n].subject.name()).collect();
        let goes = |m: &&Member| going.contains(&m.name);
        let interrupted = goal.order.iter().filter(goes).filter(|m| m.runs).map(|m| m.name.clone()).collect();
        let mut from: BTreeMap<&Digest, u32> = BTreeMap::new();
        goal.order.iter().for_each(|m| *from.entry(&m.from).or_default() += 1);
        let mut from: Vec<(Digest, u32)> = from.into_iter().map(|(digest, n)| (digest.clone(), n)).collect();
        from.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let generation = match image {
            Some(image) if image.disk.digest == goal.to => image.generation.clone(),
            Some(image) => {
                image.generations.iter().find(|(_, g)| g.disk.digest == goal.to).map(|(name, _)| name.clone())
            }
            None => None,
        };
        Roll {
            image: goal.image.clone(),
            from,
            to: goal.to.clone(),
            generation,
            back: goal.back,
            canaries: plan.canaries.iter().map(name).collect(),
            bytes: self.bytes(goal, &steps),
            steps: steps.iter().map(|step| step.iter().map(name).collect()).collect(),
            min_ready_millis: min_ready,
            millis,
            interrupted,
            there: number(goal.there.len()),
            later: number(goal.order.len() - going.len()),
            halted: goal.halted.as_ref().map(|h| Halted {
                vm: h.vm.clone(),
                text: h.text.clone(),
                unblock: h.unblock.clone(),
            }),
        }
    }

    /// How long a step takes: as many starts at once on a host as the fleet allows, the hosts side by side.
    fn step_millis(&self, step: &[usize]) -> u64 {
        let at_once = u64::from(self.input.desired.fleet.limits.starts_per_host.max(1));
        let mut by_host: BTreeMap<Option<&Name>, (u64, u64)> = BTreeMap::new();
        for number in step {
            let act = &self.actions[*number];
            let millis = match act.impact.downtime {
                Downtime::Estimate { millis, .. } => millis,
                Downtime::None | Downtime::Permanent | Downtime::UntilStarted => 0,
            };
            let (count, longest) = by_host.entry(act.to.as_ref()).or_default();
            *count += 1;
            *longest = millis.max(*longest);
        }
        by_host.values().map(|(count, longest)| count.div_ceil(at_once) * longest).max().unwrap_or(0)
    }

    /// Bytes that its fetches bring, and full copies write, as far as some host knows the file's size.
    fn bytes(&self, goal: &Goal, steps: &[Vec<usize>]) -> Bytes {
        let size = |digest: &Digest| {
            let hosts = crate::plan::generations::hosts(self.input.observed);
            hosts.filter_map(|h| h.images.get(digest)).map(|i| i.used.0).max().unwrap_or(0)
        };
        let fetches =
            |a: &&Action| a.verb == Verb::Fetch && a.subject.kind() == "image" && *a.subject.name() == goal.image;
        let mut sum: u64 = 0;
        for op in self.actions.iter().filter(fetches).flat_map(|a| &a.steps).map(|s| &s.op) {
            sum += match op {
                Op::PutImage { file, .. } => size(&file.digest),
                Op::CopyImage { digest, .. } => size(digest),
                _ => 0,
            };
        }
        for op in steps.iter().flatten().flat_map(|n| &self.actions[*n].steps).map(|s| &s.op) {
            if let Op::MakeDisk(disk) = op
                && matches!(disk.from, DiskFrom::Image { method: CloneMethod::Copy, .. })
            {
                sum += size(&goal.to);
            }
        }
        Bytes(sum)
    }
}
