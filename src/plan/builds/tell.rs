//! What is made, as people read it: from what, how, how long, who is interrupted; and the roll that comes after it, planned as
//! if it were sealed already.

use std::collections::BTreeSet;

use super::{Build, Goal};
use crate::model::{
    Bytes, Configure, Desired, Digest, ImageNote, ImageObs, MadeFrom, Management, Name, Observation, Observed, Phase,
    Provenance, RecipeFrom,
};
use crate::plan::digest;
use crate::plan::draft::Draft;
use crate::plan::guest;
use crate::plan::steps::Op;
use crate::plan::types::{Action, Block, BlockedBy, Downtime, Plan, Verb};
use crate::plan::{PlanInput, compute};

impl Draft<'_> {
    /// Every build of the plan.
    pub(in crate::plan) fn builds_for_people(&self) -> Vec<Build> {
        self.builds.iter().map(|goal| self.tell_build(goal)).collect()
    }

    fn tell_build(&self, goal: &Goal) -> Build {
        let of_goal = |a: &&Action| a.verb == Verb::Build && *a.subject.name() == goal.image;
        let act = self.actions.iter().find(of_goal);
        let image = self.input.desired.images.get(&goal.image);
        let recipe = image.and_then(|i| i.made.as_ref()).map(|m| m.recipe.clone());
        let promoted = recipe.as_ref().and_then(|r| r.promotes()).cloned();
        let runs = |vm: &Name| self.world.place(vm).is_some_and(|(_, obs)| obs.power.is_active());
        let create = goal.vm.as_ref().and_then(|vm| {
            self.actions.iter().find(|a| a.subject.kind() == "vm" && a.subject.name() == vm && !a.is_blocked())
        });
        let millis = |a: Option<&Action>| match a.map(|a| a.impact.downtime) {
            Some(Downtime::Estimate { millis, .. }) => millis,
            _ => 0,
        };
        let place = goal.vm.as_ref().and_then(|vm| self.world.place(vm));
        let root = place.and_then(|(host, obs)| Some((host, obs.config.disks.get("root")?.path.as_str())));
        let stored = |digest: &Digest| {
            let known = self.world.hosts.values().filter_map(|view| view.known()?.images.get(digest));
            known.map(|i| i.used.0).max().unwrap_or(0)
        };
        let bytes = match (root, &goal.from) {
            (Some((host, root)), _) => self.captured_bytes(host, root),
            (None, Some(MadeFrom::Image { digest, .. })) => stored(digest),
            _ => 0,
        };
        let blocks: &[Block] = act.map(|a| a.blocked.as_slice()).unwrap_or_default();
        Build {
            image: goal.image.clone(),
            revision: goal.revision.clone(),
            recipe: goal.duty.as_ref().map(|d| d.recipe.clone()),
            from: goal.from.as_ref().map(ToString::to_string),
            vm: goal.vm.clone(),
            host: act.and_then(|a| a.to.clone()).or_else(|| create.and_then(|a| a.to.clone())),
            phase: place.and_then(|(_, obs)| obs.stamp.management.as_ref()).filter(|m| goal.is(m)).map(|m| m.phase),
            steps: recipe.as_ref().map(|r| sentences(r)).unwrap_or_default(),
            millis: millis(act) + create.map_or(0, |c| millis(Some(c))),
            bytes: Bytes(bytes),
            interrupted: promoted.into_iter().filter(runs).collect(),
            waits: blocks.first().map(|b| b.text.clone()),
            waits_for_seal: blocks.iter().any(|b| b.by == BlockedBy::Policy && b.unblock.contains("image seal")),
            makes: Vec::new(),
            then: None,
            promised: BTreeSet::new(),
        }
    }
}

impl Goal {
    /// Whether a stamp is of what is made now.
    fn is(&self, there: &Management) -> bool {
        self.duty.as_ref().is_some_and(|duty| duty.is(there))
    }
}

/// What is done in a management instance, a sentence each.
fn sentences(recipe: &crate::model::Recipe) -> Vec<String> {
    let mut out = Vec::new();
    match &recipe.configure {
        Configure::Manual => out.push("somebody configures it by hand, and says when it is done".to_owned()),
        Configure::Steps { user_data, steps } => {
            if user_data.is_some() {
                out.push("cloud-init does what its user data says at its first boot".to_owned());
            }
            out.extend(steps.iter().map(guest::sentence));
        }
    }
    if let Some(check) = &recipe.check {
        out.push(format!("check: {}", super::super::diff::probe_text(check)));
    }
    if recipe.generalise {
        out.push("take out machine id, host keys, cloud-init's state, logs and the token".to_owned());
    }
    out.push("shut down, capture, seal".to_owned());
    out.push(match &recipe.from {
        RecipeFrom::Image(_) => "the management instance ends".to_owned(),
        RecipeFrom::Vm(vm) => format!("vm/{vm} reverts"),
    });
    out
}

/// Plans what comes after the builds of a plan, as if what they make were sealed: the rolls, and the effects that an approval
/// of the plan takes in.
pub(in crate::plan) fn foresee(plan: &mut Plan, desired: &Desired, goals: &[Goal], input: &PlanInput<'_>) {
    let open = |build: &&Build| build.waits.is_none() || build.waits_for_seal;
    let made: BTreeSet<Name> = plan.builds.iter().filter(open).map(|b| b.image.clone()).collect();
    if made.is_empty() {
        return;
    }
    let mut observed = input.observed.clone();
    for goal in goals.iter().filter(|goal| made.contains(&goal.image)) {
        let host = plan.builds.iter().find(|b| b.image == goal.image).and_then(|b| b.host.clone());
        sealed(&mut observed, desired, goal, host.as_ref(), plan, input);
    }
    let then = compute(&PlanInput { base: None, observed: &observed, ..*input }, None, false).0;
    let any = desired.fleet.approval_any_host;
    let known: BTreeSet<String> = plan.actions.iter().filter(|a| !a.is_blocked()).map(|a| plan.key(a, any)).collect();
    for build in plan.builds.iter_mut().filter(|b| made.contains(&b.image)) {
        build.then = then.rolls.iter().find(|r| r.image == build.image && !r.back).cloned();
        let makes = |a: &&Action| a.verb == Verb::Create && !a.is_blocked() && of(a, &build.image);
        build.makes = then.actions.iter().filter(makes).map(|a| a.subject.name().clone()).collect();
        build.makes.sort();
        let of_image = |a: &&Action| {
            let concerns = a.is_filter() || concerns(a, &build.image);
            concerns && !a.is_blocked()
        };
        let keys = then.actions.iter().filter(of_image).map(|a| then.key(a, any));
        build.promised = keys.filter(|key| !known.contains(key)).collect();
    }
    plan.effects = digest::effects_hash(plan, any);
}

/// Whether an action makes a VM of an image, takes one back, or brings the image.
fn concerns(act: &Action, image: &Name) -> bool {
    let fetches = act.subject.kind() == "image" && act.subject.name() == image && act.verb != Verb::Build;
    fetches || act.roll.as_ref() == Some(image) || of(act, image) || reverts(act)
}

/// Whether an action makes or changes a VM of an image.
fn of(act: &Action, image: &Name) -> bool {
    let of = |op: &Op| match op {
        Op::Define { stamp, .. } | Op::Edit { stamp, .. } => stamp.image_name.as_ref() == Some(image),
        _ => false,
    };
    act.steps.iter().any(|s| of(&s.op))
}

/// Whether a VM is made anew because it was a management instance.
fn reverts(act: &Action) -> bool {
    act.reason.code == "reverts"
}

/// Puts what will be sealed into the store of the host that makes it, under its recipe's digest.
fn sealed(
    observed: &mut Observed,
    desired: &Desired,
    goal: &Goal,
    host: Option<&Name>,
    plan: &Plan,
    input: &PlanInput<'_>,
) {
    let (Some(duty), Some(from), Some(vm)) = (&goal.duty, &goal.from, &goal.vm) else { return };
    let fleet = &desired.fleet.name;
    let promoted = desired.images.get(&goal.image).and_then(|i| i.made.as_ref()?.recipe.promotes()).is_some();
    let bytes = plan.builds.iter().find(|b| b.image == goal.image).map_or(Bytes(0), |b| b.bytes);
    let made = Provenance {
        recipe: duty.recipe.clone(),
        revision: duty.revision.clone(),
        from: from.clone(),
        commit: desired.revision.clone(),
        at: input.now,
        builder: uuid::Uuid::nil(),
        cpus: 0,
        memory: Bytes(0),
        packages: None,
        size: None,
        length: None,
    };
    for (name, seen) in &mut observed.hosts {
        let Observation::Known(seen) = seen else { continue };
        if let Some(there) = seen.vms.get_mut(vm) {
            if promoted {
                let stamped = duty.stamped(fleet, there.uuid, there.stamp.management.as_ref());
                there.stamp.management = Some(Management { phase: Phase::Generalised, ..stamped });
            } else {
                seen.vms.remove(vm);
                seen.disks.retain(|_, disk| disk.stamp.vm != *vm);
            }
        }
        if host != Some(name) {
            continue;
        }
        let folder = desired.hosts.get(name).map_or("", |h| &*h.images_dir);
        let path = format!("{folder}/{}-{}-{}.qcow2", duty.recipe.short(), goal.image, duty.revision);
        let note = ImageNote {
            image: goal.image.clone(),
            generation: Some(duty.revision.clone()),
            since: input.now,
            made: Some(made.clone()),
        };
        let marks = [(fleet.clone(), None)].into_iter().collect();
        seen.images.insert(duty.recipe.clone(), ImageObs { path, used: bytes, note: Some(note), marks });
    }
    if !promoted {
        observed.records.remove(vm);
    }
}
