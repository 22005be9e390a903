//! What is done to a management instance: configured, checked, shut down, captured, sealed, ended; from wherever a cut left it.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::Goal;
use crate::model::{
    Configure, Duty, Image, ImageFormat, ImageNote, MadeFrom, Management, Name, Phase, Power, Probe, Provenance,
    Recipe, RecipeFrom, Span, Stamp, StopPolicy, TOKEN_FILE, VmObs,
};
use crate::plan::draft::{Draft, USUAL_STOP_MILLIS, on, reason};
use crate::plan::fabric::plain;
use crate::plan::guest;
use crate::plan::steps::{Errand, Op, Step};
use crate::plan::types::{Action, ActionId, Block, BlockedBy, Class, Downtime, Verb};

/// How long a step of a recipe may take that does not say so itself: a distribution's upgrade over a slow link.
const STEP_WITHIN: Span = Span::secs(30 * 60);
/// How long a guest may take to forget who it is: it removes some files.
const GENERALISE_WITHIN: Span = Span::secs(120);
/// A guest that has just installed packages shuts their services down in order. It is never powered off: what it had not
/// written yet would be missing in every clone.
const STOP_DEADLINE: Span = Span::secs(180);
/// Bytes a second at which a disk is read, packed and hashed: what one core does with qemu-img and SHA-256.
const CAPTURE_RATE: u64 = 100_000_000;

/// A management instance as the actions before its build leave it.
struct Instance {
    host: Name,
    uuid: Uuid,
    stamp: Stamp,
    root: String,
    seed: Option<String>,
    /// Whether its guest runs then.
    runs: bool,
}

impl Draft<'_> {
    /// Whether a VM is a management instance whose guest is ready to be captured: it stays as it is.
    pub(in crate::plan) fn is_generalised(&self, vm: &Name) -> bool {
        let there = self.world.place(vm).filter(|_| self.input.desired.management.contains_key(vm));
        there.is_some_and(|(_, obs)| {
            let phase = obs.stamp.management.as_ref().map(|m| m.phase);
            phase == Some(Phase::Generalised) && !obs.power.is_active()
        })
    }

    /// Adds an action for every generation that is to be made, and lets clones wait until tokens are gone.
    pub(in crate::plan) fn builds(&mut self) {
        for goal in self.builds.clone() {
            self.token_file(&goal);
            let act = self.build(&goal);
            self.push(act, []);
        }
        self.tokens_leave();
    }

    /// A VM that becomes a management instance by an action of this plan has its token inside, too.
    fn token_file(&mut self, goal: &Goal) {
        let (Some(vm), Some(made)) = (&goal.vm, self.recipe(goal)) else { return };
        if !made.needs_agent() {
            return;
        }
        let open = |a: &&mut Action| a.subject.kind() == "vm" && a.subject.name() == vm && !a.is_blocked();
        for act in self.actions.iter_mut().filter(open) {
            let begins = act.steps.iter().rev().find_map(|step| match &step.op {
                Op::Define { domain, stamp } => Some((step.host.clone(), domain.uuid, stamp.clone())),
                Op::Edit { uuid, stamp, .. } => Some((step.host.clone(), *uuid, stamp.clone())),
                _ => None,
            });
            let Some((host, uuid, stamp)) = begins else { continue };
            let Some(management) = stamp.management.filter(|m| m.phase == Phase::Fresh) else { continue };
            act.steps.extend(on(&host, [await_agent(vm, uuid), token(vm, uuid, &management)]));
        }
    }

    fn recipe(&self, goal: &Goal) -> Option<std::sync::Arc<Recipe>> {
        Some(self.input.desired.images.get(&goal.image)?.made.as_ref()?.recipe.clone())
    }

    fn build(&self, goal: &Goal) -> Action {
        let subject = crate::model::Address::Image(goal.image.clone());
        let nowhere = goal.image.clone();
        let mut act = plain(subject.clone(), Verb::Build, &nowhere, []);
        act.id = ActionId::new(&subject, Verb::Build, None);
        act.to = None;
        let image = self.input.desired.images.get(&goal.image);
        let origin = image.map(|i| i.origin.clone());
        let from = goal.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let text = format!("revision {} is made{from}", goal.revision);
        act.reason = reason("not_sealed", text, origin);
        act.impact.class = Class::Create;
        let made = image.and_then(|image| Some((image, self.recipe(goal)?)));
        let (Some((image, recipe)), Some(vm), Some(duty), None) = (made, &goal.vm, &goal.duty, goal.stop.as_ref())
        else {
            act.blocked.extend(goal.stop.clone().or_else(|| Some(gone(goal))));
            return act;
        };
        match self.instance(vm, &mut act.after) {
            Err(block) => act.blocked.push(block),
            Ok(there) => self.steps(&mut act, (image, &recipe), (goal, duty), vm, &there),
        }
        act
    }

    /// What stands in the way of a build, and is no fault of its management instance.
    fn waits_for(&self, goal: &Goal, duty: &Duty, recipe: &Recipe, management: &Management) -> Option<Block> {
        let retry = self.input.demand.retries.get(&goal.image).filter(|wish| wish.recipe == duty.recipe);
        let unmade = self.input.observed.store.unmade.get(&goal.image).filter(|u| u.digest == duty.recipe);
        let unmade = unmade.filter(|u| retry.is_none_or(|wish| wish.at < u.at));
        if let Some(unmade) = unmade {
            return Some(Block {
                by: BlockedBy::Policy,
                text: format!("it could not be made: {}", unmade.text),
                unblock: format!("change its recipe, or have it tried again: `stablehand image retry {}`", goal.image),
            });
        }
        let by_hand = recipe.configure == Configure::Manual && management.phase < Phase::Configured;
        let sealed = self.input.demand.seals.get(&goal.image).is_some_and(|wish| wish.recipe == duty.recipe);
        (by_hand && !sealed).then(|| Block {
            by: BlockedBy::Policy,
            text: "somebody configures it by hand".to_owned(),
            unblock: format!(
                "when that is done: `stablehand image seal {}`; to give it up: `stablehand image abandon {}`",
                goal.image, goal.image
            ),
        })
    }

    /// The management instance as this plan's actions leave it, and those that a build waits for.
    fn instance(&self, vm: &Name, after: &mut Vec<ActionId>) -> Result<Instance, Block> {
        let place = self.world.place(vm);
        let mut there = place.map(|(host, obs)| seen(host, obs));
        for act in self.actions.iter().filter(|a| a.subject.kind() == "vm" && a.subject.name() == vm) {
            if act.is_blocked() || matches!(act.verb, Verb::Migrate | Verb::Move | Verb::Settle | Verb::Abort) {
                return Err(Block {
                    by: BlockedBy::Dependency,
                    text: format!("it waits for {}", act.id),
                    unblock: format!("see {}", act.id),
                });
            }
            after.push(act.id.clone());
            for step in &act.steps {
                follow(&mut there, step);
            }
        }
        let standing = self.world.standings.contains_key(vm);
        there.filter(|_| !standing).ok_or_else(|| Block {
            by: BlockedBy::Dependency,
            text: format!("its management instance vm/{vm} is not there"),
            unblock: format!("see vm/{vm}"),
        })
    }

    fn steps(
        &self,
        act: &mut Action,
        (image, recipe): (&Image, &Recipe),
        (goal, duty): (&Goal, &Duty),
        vm: &Name,
        there: &Instance,
    ) {
        let management = there.stamp.management.clone().filter(|m| duty.is(m));
        let (Some(management), Some(host)) = (management, self.input.desired.hosts.get(&there.host)) else {
            act.blocked.push(gone(goal));
            return;
        };
        act.to = Some(there.host.clone());
        let ready = management.phase == Phase::Generalised && !there.runs;
        if !ready && !there.runs {
            act.blocked.push(Block {
                by: BlockedBy::Dependency,
                text: format!("its management instance vm/{vm} does not run"),
                unblock: format!("see vm/{vm}"),
            });
        }
        act.blocked.extend(self.waits_for(goal, duty, recipe, &management));
        let mut work = Work { vm, uuid: there.uuid, stamp: &there.stamp, management, ops: Vec::new() };
        if !ready {
            if work.management.phase < Phase::Configured {
                let address = there.stamp.probed_at();
                work.configure(recipe, address, self.ready_probe(vm), goal);
            }
            work.come_to_rest(recipe);
        }
        let at = self.input.now;
        let wanted = self.wanted.get(vm).map(|vm| (vm.spec.cpus, vm.spec.memory));
        let (cpus, memory) = wanted.unwrap_or_default();
        let from = goal.from.clone().unwrap_or(MadeFrom::Vm { vm: vm.clone(), digest: None });
        let made = Provenance {
            recipe: duty.recipe.clone(),
            revision: duty.revision.clone(),
            from,
            commit: self.input.desired.revision.clone(),
            at,
            builder: there.uuid,
            cpus,
            memory,
            packages: None,
            size: None,
            length: None,
        };
        let (name, generation) = (image.name.clone(), Some(duty.revision.clone()));
        let ending = if image.format == ImageFormat::Raw { "raw" } else { "qcow2" };
        work.ops.push(Op::Capture {
            vm: vm.clone(),
            uuid: there.uuid,
            management: Management { phase: Phase::Generalised, ..work.management.clone() },
            disk: there.root.clone(),
            folder: host.images_dir.to_string(),
            name: format!("{}-{}.{ending}", image.name, duty.revision),
            format: image.format,
            note: ImageNote { image: name, generation, since: at, made: Some(made) },
        });
        if matches!(recipe.from, RecipeFrom::Image(_)) {
            // Its token goes with it, before anything is made of what it was.
            work.end(there);
        }
        act.steps = on(&there.host, work.ops);
        act.impact.downtime = Downtime::Estimate { millis: self.build_millis(there, recipe), samples: 0 };
    }

    fn ready_probe(&self, vm: &Name) -> Option<Probe> {
        self.wanted.get(vm).and_then(|vm| vm.spec.ready.clone())
    }

    /// What it takes at least: a stop, and the disk read once. How long configuring takes nobody knows.
    fn build_millis(&self, there: &Instance, recipe: &Recipe) -> u64 {
        let bytes = self.captured_bytes(&there.host, &there.root);
        let check = recipe.check.as_ref().map_or(0, |c| c.every.0);
        USUAL_STOP_MILLIS + check + bytes.saturating_mul(1000) / CAPTURE_RATE
    }

    /// What a disk and all below it take, as far as that is known.
    pub(super) fn captured_bytes(&self, host: &Name, root: &str) -> u64 {
        let Some(known) = self.world.view(host).known() else { return 0 };
        let disk = known.disks.get(root);
        let backing = disk.and_then(|d| d.backing.as_deref());
        let below = known.images.values().find(|i| Some(i.path.as_str()) == backing).map_or(0, |i| i.used.0);
        disk.map_or(0, |d| d.used.0) + below
    }

    /// Whatever is made of an image begins when the management instances of its last generation are none any more.
    fn tokens_leave(&mut self) {
        let mut leaving: Vec<(Name, ActionId)> = Vec::new();
        let mut ends: BTreeSet<ActionId> = BTreeSet::new();
        for act in self.actions.iter().filter(|a| a.subject.kind() == "vm") {
            let Some((_, obs)) = self.world.place(act.subject.name()) else { continue };
            let Some(old) = &obs.stamp.management else { continue };
            let gone = matches!(act.verb, Verb::Destroy | Verb::Recreate)
                || !self.input.desired.management.contains_key(act.subject.name());
            if gone {
                leaving.push((old.image.clone(), act.id.clone()));
                ends.insert(act.id.clone());
            }
        }
        if leaving.is_empty() {
            return;
        }
        for act in self.actions.iter_mut().filter(|a| !ends.contains(&a.id)) {
            let makes = act.steps.iter().find_map(|s| match &s.op {
                Op::Define { stamp, .. } => stamp.image_name.clone(),
                _ => None,
            });
            let waits = leaving.iter().filter(|(image, _)| makes.as_ref() == Some(image)).map(|(_, id)| id.clone());
            act.after.extend(waits);
        }
    }
}

/// The steps of a build.
struct Work<'w> {
    vm: &'w Name,
    uuid: Uuid,
    stamp: &'w Stamp,
    management: Management,
    ops: Vec<Op>,
}

impl Work<'_> {
    /// Its stamp says how far it is.
    fn reached(&mut self, phase: Phase) {
        if self.management.phase == phase {
            return;
        }
        self.management.phase = phase;
        let stamp = Stamp { management: Some(self.management.clone()), ..self.stamp.clone() };
        self.ops.push(Op::Edit { vm: self.vm.clone(), uuid: self.uuid, edits: Vec::new(), stamp });
    }

    fn wait(&mut self, probe: Option<Probe>, address: Option<std::net::IpAddr>) {
        self.ops.push(Op::AwaitReady { vm: self.vm.clone(), uuid: self.uuid, probe, address });
    }

    fn configure(&mut self, recipe: &Recipe, address: Option<std::net::IpAddr>, ready: Option<Probe>, goal: &Goal) {
        self.wait(ready, address);
        self.reached(Phase::Configuring);
        if recipe.needs_agent() {
            self.ops.push(token(self.vm, self.uuid, &self.management));
        }
        if let Configure::Steps { steps, .. } = &recipe.configure {
            let subject = crate::model::Address::Image(goal.image.clone());
            let errand = Errand { subject, digest: self.management.recipe.as_str().to_owned() };
            let op = |step| guest::op(step, STEP_WITHIN, self.vm, self.uuid, Some(&errand));
            self.ops.extend(steps.iter().map(op));
        }
        if let Some(check) = &recipe.check {
            self.wait(Some(check.clone()), address);
        }
        self.reached(Phase::Configured);
    }

    /// It forgets who it is, and is shut down.
    fn come_to_rest(&mut self, recipe: &Recipe) {
        if recipe.needs_agent() {
            self.ops.push(await_agent(self.vm, self.uuid));
        }
        let (vm, uuid) = (self.vm.clone(), self.uuid);
        if recipe.generalise {
            let management = self.management.clone();
            self.ops.push(Op::Generalise { vm: vm.clone(), uuid, management, within: GENERALISE_WITHIN });
        } else if recipe.needs_agent() {
            let command = ["rm", "-f", TOKEN_FILE].into_iter().map(Into::into).collect();
            let (input, within, of) = (None, GENERALISE_WITHIN, None);
            self.ops.push(Op::GuestRun { vm: vm.clone(), uuid, command, input, within, of });
        }
        let policy = StopPolicy { deadline: STOP_DEADLINE, power_off: false };
        self.ops.push(Op::Stop { vm, uuid, policy });
        if self.management.phase == Phase::Generalised {
            // It was started once more by somebody: what its stamp says is true again.
            return;
        }
        self.reached(Phase::Generalised);
    }

    fn end(&mut self, there: &Instance) {
        let (vm, uuid) = (self.vm.clone(), self.uuid);
        self.ops.push(Op::Undefine { vm: vm.clone(), uuid, drop_save: false });
        for path in std::iter::once(&there.root).chain(&there.seed) {
            self.ops.push(Op::DeleteDisk { path: path.clone(), vm: vm.clone() });
        }
        self.ops.push(Op::Unrecord { vm });
    }
}

fn gone(goal: &Goal) -> Block {
    Block {
        by: BlockedBy::Dependency,
        text: "its management instance is not there".to_owned(),
        unblock: format!("see image/{}", goal.image),
    }
}

fn seen(host: &Name, obs: &VmObs) -> Instance {
    let path = |disk: &str| obs.config.disks.get(disk).map(|d| d.path.clone());
    Instance {
        host: host.clone(),
        uuid: obs.uuid,
        stamp: obs.stamp.clone(),
        root: path("root").unwrap_or_default(),
        seed: path("seed"),
        runs: obs.power == Power::Running,
    }
}

/// What a step makes of a management instance.
fn follow(there: &mut Option<Instance>, step: &Step) {
    match (&step.op, there.as_mut()) {
        (Op::Define { domain, stamp }, _) => {
            let path = |disk: &str| domain.disks.iter().find(|d| d.name == disk).map(|d| d.path.clone());
            *there = Some(Instance {
                host: step.host.clone(),
                uuid: domain.uuid,
                stamp: stamp.clone(),
                root: path("root").unwrap_or_default(),
                seed: path("seed"),
                runs: false,
            });
        }
        (Op::Edit { stamp, .. }, Some(there)) => there.stamp = stamp.clone(),
        (Op::Start { .. }, Some(there)) => there.runs = true,
        (Op::Stop { .. } | Op::Suspend { .. }, Some(there)) => there.runs = false,
        (Op::Undefine { .. }, _) => *there = None,
        _ => {}
    }
}

/// The step that waits for a guest's agent.
fn await_agent(vm: &Name, uuid: Uuid) -> Op {
    let kind = crate::model::ProbeKind::AgentPing;
    let probe = Probe { kind, within: GENERALISE_WITHIN, every: Span(500) };
    Op::AwaitReady { vm: vm.clone(), uuid, probe: Some(probe), address: None }
}

/// The step that writes the token into a guest.
fn token(vm: &Name, uuid: Uuid, management: &Management) -> Op {
    let content = management.token_file().into();
    Op::GuestFile { vm: vm.clone(), uuid, path: TOKEN_FILE.into(), content, mode: 0o600 }
}

/// Whether a VM ends because what it was made for is sealed, replaced or given up: what people read then.
pub(in crate::plan) fn over(obs: &VmObs, image: Option<&Image>) -> Option<String> {
    let old = obs.stamp.management.as_ref()?;
    let (name, revision) = (&old.image, &old.revision);
    let made = image.and_then(|image| image.made.as_ref());
    let sealed = made.is_some_and(|made| made.known.values().any(|p| p.recipe == old.recipe));
    let wanted = made.and_then(|made| made.wanted.as_ref());
    Some(if sealed {
        format!("image/{name} revision {revision} is sealed: its token goes")
    } else if wanted.is_some_and(|wanted| *wanted != old.recipe) {
        format!(
            "image/{name} is to be made by another recipe than revision {revision} was: what was done in it is given up"
        )
    } else {
        format!("image/{name} revision {revision} is not made any more")
    })
}
