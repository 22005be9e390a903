//! Tasks: steps inside VMs that run, in the order of a roll, each VM ready before the next; when one fails, nobody else begins.
//!
//! *Takes* the plan as it is so far: what else happens to a VM comes first. *Gives* one action for each VM and task, and why
//! others wait. *Never* keeps a state of its own: what was done is what the VMs' stamps say.
//!
//! ```text
//!            begins             all steps and checks
//!   (none) ─────────▶ begun ─────────────────────────▶ done       other steps: (none) again
//!                      │ ▲                                        root disk made anew: (none) again
//!                      │ └─ nobody is at it: begins again
//!                      └── a step or a check fails ──▶ failed ──(asked for, or other steps)──▶ (none)
//! ```

use std::collections::BTreeMap;

use uuid::Uuid;

use super::draft::{Draft, action, on, reason};
use super::guest;
use super::roll::{depth, listed, natural, part};
use super::steps::{Errand, Op};
use super::types::{
    Action, ActionId, Block, BlockedBy, Cause, Class, Downtime, Halted, Note, NoteKind, Otherwise, TaskRun, Verb,
};
use crate::model::{
    Address, AgentObs, Desired, Layer, Name, Observed, Power, Probe, ProbeKind, Readiness, RootUse, RunState, Span,
    Stamp, Task, TaskMark, TaskResult, Timestamp, Vm, VmObs,
};

/// How long an agent may take to answer in a guest that is ready: services start side by side.
const AGENT: Probe = Probe { kind: ProbeKind::AgentPing, within: Span::secs(60), every: Span(500) };

/// A VM as a task finds it.
struct Site {
    host: Name,
    uuid: Uuid,
    /// Its stamp at that moment.
    stamp: Stamp,
    /// Actions of this plan that come first.
    after: Vec<ActionId>,
    /// How far its agent can be asked, where that is known, and whether it is known to boot still.
    agent: Option<(AgentObs, bool)>,
}

impl<'a> Draft<'a> {
    /// Adds what tasks do.
    pub(crate) fn run_tasks(&mut self) {
        let desired = self.input.desired;
        for task in desired.tasks.values() {
            self.run_task(task);
        }
    }

    fn run_task(&mut self, task: &'a Task) {
        let desired = self.input.desired;
        let mut depths = BTreeMap::new();
        let mut members: Vec<(u32, (String, u64, Name), &'a Vm)> = Vec::new();
        for vm in task.select.of(desired).filter(|vm| self.wanted.contains_key(&vm.name)) {
            members.push((depth(desired, &vm.group, &mut depths), natural(&vm.name), vm));
        }
        members.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let members: Vec<&'a Vm> = members.into_iter().map(|(_, _, vm)| vm).collect();
        if members.is_empty() {
            self.task_note(task, NoteKind::Hint, "it means no VM of this fleet".to_owned());
            return;
        }
        let mut run = TaskRun {
            task: task.name.clone(),
            digest: task.digest.clone(),
            steps: task.steps.iter().map(guest::sentence).collect(),
            order: Vec::new(),
            done: 0,
            waits: Vec::new(),
            cannot: Vec::new(),
            halted: self.halted(task, &members),
        };
        let mut going: Vec<(&'a Vm, Site)> = Vec::new();
        let mut waits: BTreeMap<&'static str, Vec<&'a Name>> = BTreeMap::new();
        for vm in &members {
            let site = self.site(vm);
            let stamp = match &site {
                Ok(site) => Some(&site.stamp),
                Err(_) => self.world.place(&vm.name).map(|(_, obs)| &obs.stamp),
            };
            if stamp.is_some_and(|stamp| is_done(task, stamp)) {
                run.done += 1;
                continue;
            }
            match site {
                Ok(site) => going.push((vm, site)),
                Err(why) => waits.entry(why).or_default().push(&vm.name),
            }
        }
        run.waits = waits.values().flatten().map(|name| (*name).clone()).collect();
        for (why, vms) in &waits {
            self.task_note(task, NoteKind::Waiting, format!("{}: {why}", listed(vms, "wait")));
        }
        if let Some(halted) = run.halted.clone() {
            run.cannot = going.iter().map(|(vm, _)| vm.name.clone()).collect();
            self.task_stands_still(task, &halted, &run.cannot);
            self.task_runs.push(run);
            return;
        }
        self.task_in_order(task, going, members.len(), &mut run);
        if !run.order.is_empty() || !run.cannot.is_empty() {
            self.task_runs.push(run);
        }
    }

    /// Puts those that go in order: so many at once, and the next when all of those are ready.
    fn task_in_order(&mut self, task: &'a Task, going: Vec<(&'a Vm, Site)>, all: usize, run: &mut TaskRun) {
        let at_once = part(task.max_unavailable, all, false).max(1);
        let mut before: Vec<ActionId> = Vec::new();
        let mut now: Vec<(Name, ActionId)> = Vec::new();
        for (vm, site) in going {
            let mut act = self.task_action(task, vm, site);
            self.touched_by_name(&vm.name);
            if act.is_blocked() {
                run.cannot.push(vm.name.clone());
                self.push(act, []);
                continue;
            }
            if now.len() == at_once {
                run.order.push(now.iter().map(|(name, _)| name.clone()).collect());
                before = std::mem::take(&mut now).into_iter().map(|(_, id)| id).collect();
            }
            act.after.extend(before.iter().cloned());
            now.push((vm.name.clone(), act.id.clone()));
            self.push(act, []);
        }
        if !now.is_empty() {
            run.order.push(now.into_iter().map(|(name, _)| name).collect());
        }
    }

    /// Since when somebody asks that it be tried again where it failed.
    fn retried(&self, task: &Task) -> Option<Timestamp> {
        self.input.demand.task_retries.get(&task.name).map(|asked| asked.at)
    }

    /// Whether it failed on a VM, and nobody asked since that it be tried again.
    fn has_failed(&self, task: &Task, mark: &TaskMark) -> bool {
        let asked = self.retried(task).is_some_and(|asked| asked >= mark.at);
        mark.digest == task.digest && mark.result == TaskResult::Failed && !asked
    }

    fn halted(&self, task: &Task, members: &[&Vm]) -> Option<Halted> {
        let failed = members.iter().find_map(|vm| {
            let (_, obs) = self.world.place(&vm.name)?;
            obs.stamp.tasks.get(&task.name).filter(|mark| self.has_failed(task, mark)).map(|_| &vm.name)
        })?;
        Some(Halted {
            vm: failed.clone(),
            text: format!("it failed; `stablehand describe task/{}` shows what was said", task.name),
            unblock: format!("`stablehand retry task/{}`, or commit other steps", task.name),
        })
    }

    /// A VM as it will be when everything else that this plan does to it is done; or why the task waits for a later plan.
    fn site(&self, vm: &Vm) -> Result<Site, &'static str> {
        let open = self.actions.iter().filter(|a| !a.is_blocked() && a.subject == Address::Vm(vm.name.clone()));
        let (runs, others): (Vec<&Action>, Vec<&Action>) = open.partition(|a| a.verb == Verb::Run);
        if self.effective_run(vm).0 != RunState::Started {
            return Err("not meant to run");
        }
        if self.quarantine_of(&vm.name).is_some() {
            return Err("in quarantine");
        }
        let place = self.world.place(&vm.name).filter(|_| !self.world.standings.contains_key(&vm.name));
        let seen = place.map(|(host, obs)| Site {
            host: host.clone(),
            uuid: obs.uuid,
            stamp: obs.stamp.clone(),
            after: Vec::new(),
            agent: obs.agent.map(|agent| (agent, matches!(obs.ready, Readiness::NotReady(_)))),
        });
        let is_up = place.is_some_and(|(_, obs)| obs.power == Power::Running);
        let mut site = match others.as_slice() {
            [] if is_up => seen.ok_or("not running")?,
            [] => return Err("not running"),
            [one] if starts(one) => Site { agent: None, ..written(one, seen).ok_or("not there yet")? },
            [one] if is_up && matches!(one.verb, Verb::Update | Verb::Stage | Verb::Adopt) => {
                written(one, seen).ok_or("not there yet")?
            }
            _ => return Err("something else comes first"),
        };
        // Whoever came before in this plan has left its mark.
        for run in runs {
            site = written(run, Some(site)).ok_or("not there yet")?;
        }
        // What runs was started from its root disk.
        site.stamp.root = site.stamp.root.map(|_| RootUse::Used);
        Ok(site)
    }

    fn task_action(&self, task: &Task, vm: &Vm, site: Site) -> Action {
        let subject = Address::Vm(vm.name.clone());
        let mark = site.stamp.tasks.get(&task.name).filter(|mark| mark.digest == task.digest);
        let sentences: Vec<String> = task.steps.iter().map(guest::sentence).collect();
        let (cause, again) = match mark.map(|mark| mark.result) {
            Some(TaskResult::Begun) => (Cause::Pending, ", which was cut in the middle and begins again"),
            Some(TaskResult::Failed) => (Cause::Demand, ", which failed and is tried again"),
            Some(TaskResult::Done) | None => (Cause::Change, ""),
        };
        let text = format!("task/{}{again}: {}", task.name, sentences.join("; "));
        let why = reason("task", text, Some(task.origin.clone()));
        let mut act = action(&vm.name, Verb::Run, cause, why, Class::Live, Downtime::None);
        act.id = ActionId(format!("{subject}#{}@task/{}", Verb::Run.word(), task.name).into());
        (act.from, act.to) = (Some(site.host.clone()), Some(site.host.clone()));
        act.task = Some(task.name.clone());
        act.blocked.extend(self.pause(&vm.name, &vm.group));
        act.blocked.extend(no_agent(&site));
        let ops = self.task_ops(task, vm, &site, &mut act);
        act.steps = on(&site.host, ops);
        act.after = site.after;
        act
    }

    fn task_ops(&self, task: &Task, vm: &Vm, site: &Site, act: &mut Action) -> Vec<Op> {
        let (name, uuid) = (&vm.name, site.uuid);
        let address = site.stamp.probed_at();
        let wait = |probe: Option<Probe>| Op::AwaitReady { vm: name.clone(), uuid, probe, address };
        // Later than any wish that it be tried again: that wish is fulfilled by this.
        let at = self.retried(task).map_or(self.input.now, |asked| Timestamp(self.input.now.0.max(asked.0 + 1)));
        let mark = |result: TaskResult| {
            let mut stamp = site.stamp.clone();
            stamp.tasks.insert(task.name.clone(), TaskMark { digest: task.digest.clone(), at, result });
            // What no document names any more is not remembered for ever.
            stamp.tasks.retain(|name, _| self.input.desired.tasks.contains_key(name));
            Op::Edit { vm: name.clone(), uuid, edits: Vec::new(), stamp }
        };
        let errand = Errand { subject: Address::Task(task.name.clone()), digest: task.digest.clone() };
        let mut ops = vec![wait(vm.spec.ready.clone())];
        if vm.spec.layer == Layer::Qemu {
            ops.push(wait(Some(AGENT)));
        }
        ops.push(mark(TaskResult::Begun));
        act.otherwise = Some(Otherwise {
            from: u32::try_from(ops.len()).unwrap_or(u32::MAX),
            steps: on(&site.host, [mark(TaskResult::Failed)]),
        });
        ops.extend(task.steps.iter().map(|step| guest::op(step, task.within, name, uuid, Some(&errand))));
        ops.extend(task.check.clone().map(|check| wait(Some(check))));
        ops.push(wait(vm.spec.ready.clone()));
        ops.push(mark(TaskResult::Done));
        ops
    }

    /// A task that failed is one blocked action, as long as there are VMs on which it was not done.
    fn task_stands_still(&mut self, task: &Task, halted: &Halted, left: &[Name]) {
        let subject = Address::Task(task.name.clone());
        let names: Vec<&Name> = left.iter().collect();
        let text = if left.is_empty() { format!("vm/{} has not done it", halted.vm) } else { listed(&names, "wait") };
        let why = reason("task_halted", format!("{text}: task/{} is halted", task.name), Some(task.origin.clone()));
        let mut act = action(&halted.vm, Verb::Run, Cause::Change, why, Class::Live, Downtime::None);
        act.id = ActionId::new(&subject, Verb::Run, None);
        act.subject = subject;
        act.task = Some(task.name.clone());
        act.blocked.push(Block {
            by: BlockedBy::Policy,
            text: format!("halted: vm/{}: {}", halted.vm, halted.text),
            unblock: halted.unblock.clone(),
        });
        self.push(act, []);
    }

    fn task_note(&mut self, task: &Task, kind: NoteKind, text: String) {
        let subject = Address::Task(task.name.clone());
        self.notes.push(Note { subject, kind, text, origin: Some(task.origin.clone()) });
    }
}

/// Whether a VM has it behind it.
fn is_done(task: &Task, stamp: &Stamp) -> bool {
    stamp.tasks.get(&task.name).is_some_and(|mark| mark.digest == task.digest && mark.result == TaskResult::Done)
}

/// Whether an action leaves a VM running that it started.
fn starts(act: &Action) -> bool {
    let verbs = [
        Verb::Create,
        Verb::Restore,
        Verb::Recreate,
        Verb::Start,
        Verb::Resume,
        Verb::Reboot,
        Verb::Update,
        Verb::Adopt,
    ];
    verbs.contains(&act.verb) && act.steps.iter().any(|s| matches!(s.op, Op::Start { .. }))
}

/// A VM as an action leaves it: with the last stamp that it writes.
fn written(act: &Action, seen: Option<Site>) -> Option<Site> {
    let stamp = act.steps.iter().rev().find_map(|step| match &step.op {
        Op::Define { domain, stamp } => Some((&step.host, domain.uuid, stamp)),
        Op::Edit { uuid, stamp, .. } => Some((&step.host, *uuid, stamp)),
        _ => None,
    });
    let mut site = match stamp {
        Some((host, uuid, stamp)) => {
            let (after, agent) = seen.map(|s| (s.after, s.agent)).unwrap_or_default();
            Site { host: host.clone(), uuid, stamp: stamp.clone(), after, agent }
        }
        None => seen?,
    };
    site.after.push(act.id.clone());
    Some(site)
}

/// What is said before anything is begun in a guest that cannot be asked.
fn no_agent(site: &Site) -> Option<Block> {
    let (text, unblock) = match site.agent? {
        // One that is not ready is waited for.
        (AgentObs::Connected, _) | (AgentObs::Silent, true) => return None,
        (AgentObs::NoChannel, _) => (
            "its VM has no channel for a guest agent",
            "add a channel `org.qemu.guest_agent.0` to its domain, or make it anew",
        ),
        (AgentObs::Silent, false) => (
            "no guest agent answers in it now",
            "install and start qemu-guest-agent in it; a guest that still boots needs a moment",
        ),
    };
    Some(Block { by: BlockedBy::Dependency, text: text.to_owned(), unblock: unblock.to_owned() })
}

/// Whether a look at the world should probe too: an agent that does not answer is waited for in a guest that still boots, and
/// missing in one that is ready.
pub(crate) fn wants_probes(desired: &Desired, observed: &Observed) -> bool {
    let hosts = || observed.hosts.values().filter_map(|o| o.known());
    let silent = |task: &Task, vm: &Vm| {
        let waits = |obs: &&VmObs| obs.agent == Some(AgentObs::Silent) && !is_done(task, &obs.stamp);
        hosts().find_map(|host| host.vms.get(&vm.name)).filter(waits).is_some()
    };
    desired.tasks.values().any(|task| task.select.of(desired).any(|vm| silent(task, vm)))
}
