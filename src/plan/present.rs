//! VMs that exist and should: what is different, and what power they should have.

use super::devices::missing;
use super::diff::{Diff, diff};
use super::draft::{Draft, Footprint, action, need_now, on, reason};
use super::place::Need;
use super::steps::{NewDisk, Op};
use super::target::Target;
use super::types::{
    Block, BlockedBy, Cause, Class, DataEffect, DiskFate, Downtime, FieldChange, NoteKind, Reason, Verb,
};
use crate::model::{
    Field, Name, OnRemove, Origin, Power, Protection, RootUse, RunState, Span, Stamp, Timestamp, Vm, VmObs,
};

/// What a VM's power needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Nothing,
    Start,
    Resume,
    Stop,
    Suspend,
}

impl<'a> Draft<'a> {
    /// Decides about a VM that was seen in one place.
    pub(crate) fn present(&mut self, vm: &'a Vm, host: &'a Name, obs: &'a VmObs) {
        let desired = self.input.desired;
        let Some(host_doc) = desired.hosts.get(host) else { return };
        if let Some(block) = super::container::wrong_layer(vm, host_doc) {
            return self.blocked_update(vm, obs, host, block.by, block.text, &block.unblock);
        }
        if let Some(why) = self.quarantine_of(&vm.name) {
            return self.in_quarantine(vm, host_doc, obs, why);
        }
        let mut target = match self.target(vm, host_doc, obs.stamp.incarnation, Some(obs)) {
            Ok(target) => target,
            Err(text) => {
                return self.blocked_update(
                    vm,
                    obs,
                    host,
                    BlockedBy::MissingCapacity,
                    text,
                    "widen the network's range",
                );
            }
        };
        let released = self.released(&vm.name, obs);
        if released.is_some() {
            target.stamp.quarantine = None;
        }
        let (mut want, by_hand) = self.effective_run(vm);
        if want == RunState::Started && self.held_by_drain(vm, host, obs) {
            let text = format!("stopped while host/{host} is drained: it cannot move while it runs");
            self.note(&vm.name, NoteKind::LeftAlone, text, None);
            want = RunState::Stopped;
        }
        self.wait_with_addresses(&mut target, obs, want);
        let mut diff = diff(&target, obs, host, &self.world, want);
        self.fix_retention(&mut diff);
        let turn = self.turn(vm, obs, want);
        // What is blocked was not applied: the stamp goes on saying so.
        let only_spec = Stamp { spec: obs.stamp.spec.clone(), ..target.stamp.clone() } == obs.stamp;
        diff.restamp &= diff.shrinks.is_empty() || !only_spec;
        let restart = self.input.demand.restarts.contains_key(&vm.name) && obs.power == Power::Running;
        let used = target.returns_root() && obs.runs_used() && want == RunState::Started;
        self.shrinks(vm, host, &diff);
        let before = need_now(obs);
        // Nothing suspends what does not run, and what is recreated runs or is stopped.
        let ends_stopped =
            want == RunState::Suspended && (diff.image || !obs.power.is_active() && obs.power != Power::Suspended);
        let after = Need::of(vm, if ends_stopped { RunState::Stopped } else { want });
        let applied = obs.stamp.spec == target.stamp.spec;
        // An address that is planned anew comes from the network's document: the world did not move.
        let moved = target.stamp.nics.iter().any(|(n, nic)| {
            obs.stamp.nics.get(n).is_some_and(|old| {
                let another = old.address.is_some() && old.address != nic.address;
                another || old.address6 != nic.address6
            })
        });
        let moved = moved || target.domain.container.is_some() && obs.stamp.seed != target.stamp.seed;
        // So does what becomes a management instance, or is none any more: the document of an image says so.
        let manages = obs.stamp.management.as_ref().map(|m| &m.recipe);
        let moved = moved || manages != target.stamp.management.as_ref().map(|m| &m.recipe);
        let field_cause = if applied && !moved { Cause::Drift } else { Cause::Change };

        if diff.marks && !diff.image && obs.stamp.persistent_root {
            self.touched.insert(&vm.name);
            return self.kept_marks(vm, host, obs, &diff);
        }
        if diff.image || diff.marks {
            self.recreate(&target, obs, &mut diff, want, before, after);
            self.touched.insert(&vm.name);
            return;
        }
        let waits = !diff.waiting.is_empty() && diff.fields.is_empty();
        // Coming back, it would have to be stopped again for what changed meanwhile: that is one reboot.
        let needs_start = diff.fields.iter().any(|f| f.class <= Class::Staged && f.field != Field::CloudInit);
        let back_with_news =
            turn == Turn::Resume && needs_start && vm.spec.update == crate::model::UpdatePolicy::Reboot;
        let turn = if back_with_news { Turn::Nothing } else { turn };
        let reboot_now = back_with_news
            || obs.power == Power::Running
                && turn == Turn::Nothing
                && (diff.class() == Class::Reboot
                    || restart
                    || used
                    || (waits && vm.spec.update == crate::model::UpdatePolicy::Reboot));
        if waits && !reboot_now && turn == Turn::Nothing {
            let list: Vec<&str> = diff.waiting.iter().map(|f| f.path()).collect();
            let text = format!("{} take effect at its next stop and start", list.join(", "));
            self.note(&vm.name, NoteKind::RestartPending, text, None);
        }
        if let Some(hold) = self.input.demand.holds.get(&vm.name).filter(|_| by_hand && turn == Turn::Nothing) {
            let word = hold.run.word();
            let text = format!("held {word} by {} until withdrawn; its document says otherwise", hold.who);
            self.note(&vm.name, NoteKind::LeftAlone, text, vm.spec.origins.of(Field::Run).cloned());
        }
        if turn == Turn::Nothing && !reboot_now && diff.fields.is_empty() && !diff.restamp {
            return;
        }
        self.touched.insert(&vm.name);
        let cause = match turn {
            Turn::Nothing if restart => Cause::Demand,
            Turn::Nothing if used => Cause::Drift,
            Turn::Nothing if waits => Cause::Pending,
            Turn::Nothing => field_cause,
            _ if by_hand => Cause::Demand,
            _ => field_cause,
        };
        let (verb, class, downtime) = match turn {
            Turn::Start => (Verb::Start, Class::None, Downtime::None),
            Turn::Resume => (Verb::Resume, Class::None, Downtime::None),
            Turn::Stop => (Verb::Stop, Class::Cold, Downtime::UntilStarted),
            Turn::Suspend => (Verb::Suspend, Class::Cold, Downtime::UntilStarted),
            Turn::Nothing if reboot_now => (Verb::Reboot, Class::Reboot, self.restart_estimate(&target)),
            Turn::Nothing if released.is_some() && diff.fields.is_empty() => {
                (Verb::Release, Class::None, Downtime::None)
            }
            Turn::Nothing if diff.class() <= Class::Staged => (Verb::Stage, Class::Staged, Downtime::None),
            Turn::Nothing => (Verb::Update, diff.class().max(Class::Live), Downtime::None),
        };
        let now = obs.power.is_active() && !reboot_now && matches!(turn, Turn::Nothing | Turn::Resume);
        let hands = diff.hands(now, &vm.name, obs);
        if !hands.is_empty() && turn == Turn::Nothing && diff.fields.is_empty() && diff.edits.is_empty() {
            let attach = self.hand(&target, obs, hands, field_cause, None);
            attach.into_iter().for_each(|act| self.push(act, []));
            return;
        }
        let why = if used && !restart {
            let text = "it was started by hand, from a root disk that was used before: that returns to its image";
            reason("root_used", text, Some(vm.origin.clone()))
        } else {
            self.why(vm, obs, turn, restart, waits, by_hand, applied, &diff)
        };
        let (cause, why) = match released {
            Some(who) => (Cause::Demand, reason("release", format!("released from quarantine by {who}"), None)),
            None => (cause, why),
        };
        let mut act = action(&vm.name, verb, cause, why, class, downtime);
        act.from = Some(host.clone());
        act.to = Some(host.clone());
        if matches!(turn, Turn::Start | Turn::Stop | Turn::Suspend | Turn::Resume) {
            let path = Field::Run.path().to_owned();
            let kept = cause == Cause::Drift && obs.power != Power::Paused;
            let keep = kept.then(|| format!("run: {}", power_as_run(obs.power)));
            let seen = if obs.power == Power::Paused { "paused" } else { power_as_run(obs.power) };
            act.fields.push(FieldChange {
                field: Field::Run,
                path,
                before: Some(seen.to_owned()),
                after: Some(want.word().to_owned()),
                class,
                origin: vm.spec.origins.of(Field::Run).cloned(),
                keep,
            });
        }
        act.fields.extend(keep_only_drift(std::mem::take(&mut diff.fields), field_cause));
        act.impact.data = std::mem::take(&mut diff.data);
        let (lost, root_gone, seed_gone) = self.lost_disks(&target, obs, host);
        let mut ops = self.power_steps(&target, obs, turn, reboot_now, diff);
        if seed_gone && turn == Turn::Start {
            ops.splice(0..0, target.make_seed());
        }
        if root_gone && turn == Turn::Start {
            ops = self.with_new_root(&target, obs, ops);
        }
        act.impact.data.extend(root_reset_effect(&ops));
        act.steps = on(host, ops);
        if let Some(block) = self.pause(&vm.name, &vm.group) {
            act.blocked.push(block);
        }
        if !lost.is_empty() && matches!(turn, Turn::Start | Turn::Resume) {
            act.blocked.push(Block {
                by: BlockedBy::UnknownState,
                text: format!(
                    "its data is not where it was: {} is gone, or is not the disk that we stamped",
                    lost.join(", ")
                ),
                unblock: format!("bring the file back, or end the VM by a Removal of vm/{}", vm.name),
            });
        }
        act.blocked.extend(device_block(vm, host_doc, obs, turn));
        let disturbs = matches!(verb, Verb::Stop | Verb::Suspend | Verb::Reboot);
        if disturbs && obs.stamp.protect == Protection::All {
            act.blocked.push(protected(obs));
        }
        let attach = self.hand(&target, obs, hands, field_cause, Some(&mut act));
        self.push(act, [Footprint { host, before, after }]);
        attach.into_iter().for_each(|act| self.push(act, []));
    }

    /// A running guest reads a new address at its next start. Until then it has the old one, and so say its stamp, its
    /// probes and its seed: nothing of it is changed before somebody restarts it, or its policy does.
    fn wait_with_addresses(&mut self, target: &mut Target<'_>, obs: &VmObs, want: RunState) {
        let vm = target.vm;
        let restart = self.input.demand.restarts.contains_key(&vm.name) && obs.power == Power::Running;
        let stays = obs.power.is_active() && want == RunState::Started || obs.power == Power::Suspended;
        let changed = target.readdressed(obs);
        if changed.is_empty() || !stays || restart || vm.spec.update == crate::model::UpdatePolicy::Reboot {
            return;
        }
        let list: Vec<String> = changed.iter().map(|(path, old, new)| format!("{path} {old} -> {new}")).collect();
        let text = format!("{}: changed by `stablehand restart vm/{}`, or `update: reboot`", list.join(", "), vm.name);
        self.note(&vm.name, NoteKind::RestartPending, text, vm.spec.origins.of(Field::Nics).cloned());
        target.keep_addresses(obs);
    }

    /// Which way its power goes.
    fn turn(&mut self, vm: &Vm, obs: &VmObs, want: RunState) -> Turn {
        match (want, obs.power) {
            (RunState::Started, Power::Running)
            | (RunState::Stopped, Power::Stopped | Power::Crashed)
            | (RunState::Suspended, Power::Suspended) => Turn::Nothing,
            (RunState::Started, Power::Paused | Power::Suspended) => Turn::Resume,
            (RunState::Started, Power::Stopped | Power::Crashed) => Turn::Start,
            (RunState::Stopped, Power::Running | Power::Paused | Power::ShuttingDown | Power::Suspended) => Turn::Stop,
            (RunState::Suspended, Power::Running | Power::Paused) => Turn::Suspend,
            (RunState::Started | RunState::Suspended, Power::ShuttingDown) => {
                self.note(&vm.name, NoteKind::Waiting, "it is shutting down", None);
                Turn::Nothing
            }
            (RunState::Suspended, Power::Stopped | Power::Crashed) => {
                let text = "suspended is wanted, but it is stopped: only a running VM can be suspended";
                self.note(&vm.name, NoteKind::LeftAlone, text, vm.spec.origins.of(Field::Run).cloned());
                Turn::Nothing
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts that a sentence is made from")]
    fn why(
        &self,
        vm: &Vm,
        obs: &VmObs,
        turn: Turn,
        restart: bool,
        waits: bool,
        by_hand: bool,
        applied: bool,
        diff: &Diff,
    ) -> Reason {
        let run_origin = || vm.spec.origins.of(Field::Run).cloned().or_else(|| Some(vm.origin.clone()));
        if turn != Turn::Nothing {
            if by_hand {
                let hold = self.input.demand.holds.get(&vm.name);
                let who = hold.map_or("somebody", |h| &h.who);
                return reason("by_hand", format!("asked by {who}, until withdrawn"), None);
            }
            let text = match (turn, obs.power) {
                (Turn::Start, Power::Crashed) => "it crashed and should run",
                (Turn::Start, _) if applied => "it is stopped and should run",
                (Turn::Start, _) => "it should run",
                (Turn::Resume, Power::Paused) => "it is paused and should run",
                (Turn::Resume, _) => "it is suspended and should run",
                (Turn::Stop, _) => "it should be stopped",
                (Turn::Suspend, _) => "it should be suspended",
                (Turn::Nothing, _) => "",
            };
            return reason("run", text, run_origin());
        }
        if restart {
            let who = self.input.demand.restarts.get(&vm.name).map_or("somebody", |h| &h.who);
            return reason("restart_by_hand", format!("a restart was asked by {who}"), None);
        }
        if waits {
            let list: Vec<&str> = diff.waiting.iter().map(|f| f.path()).collect();
            return reason(
                "restart_pending",
                format!("{} wait for a restart, and update is reboot", list.join(", ")),
                None,
            );
        }
        let mut origins: Vec<Origin> = diff.fields.iter().filter_map(|f| f.origin.clone()).collect();
        origins.dedup();
        let becomes = self.input.desired.management.get(&vm.name);
        if let (Some(duty), false) = (becomes, becomes.zip(obs.stamp.management.as_ref()).is_some_and(|(d, m)| d.is(m)))
        {
            let text = format!(
                "it becomes the management instance of image/{} revision {}: nobody but the system reaches it",
                duty.image, duty.revision
            );
            return reason("promoted", text, Some(vm.origin.clone()));
        }
        if let Some(over) = super::builds::over(obs, self.image_of_management(obs)).filter(|_| becomes.is_none()) {
            return reason("reverts", format!("{over}, and it is a VM like others again"), Some(vm.origin.clone()));
        }
        if diff.fields.is_empty() {
            return reason("stamp", "what was applied is written down again", Some(vm.origin.clone()));
        }
        let worst = diff.fields.iter().min_by_key(|f| f.class);
        let text = worst.map_or(String::new(), |f| {
            let more = diff.fields.len() - 1;
            let tail = if more > 0 { format!(", and {more} more") } else { String::new() };
            let why = if diff.settled.contains(&f.field) {
                "only its definition differs, the running guest has it so already"
            } else {
                let container =
                    obs.config.container.as_ref().and_then(|_| super::container::why_class(f.field, f.class));
                container.unwrap_or_else(|| super::impact::why_class(f.field, f.class))
            };
            format!("{}{tail}: {why}", f.path)
        });
        let code = if applied { "drift" } else { "fields" };
        Reason { code: code.to_owned(), text, origins, trigger: None }
    }

    /// The steps of a change of power, of fields, or of both.
    fn power_steps(&self, target: &Target<'_>, obs: &VmObs, turn: Turn, reboot: bool, diff: Diff) -> Vec<Op> {
        let (vm, uuid) = (target.vm.name.clone(), obs.uuid);
        let Diff { edits, before, live, after, restamp, .. } = diff;
        let stop = Op::Stop { vm: vm.clone(), uuid, policy: target.vm.spec.stop };
        let edit = (!edits.is_empty() || restamp).then(|| Op::Edit {
            vm: vm.clone(),
            uuid,
            edits,
            stamp: target.stamp.clone(),
        });
        let mut ops = before;
        match turn {
            Turn::Nothing if reboot => {
                if obs.power == Power::Suspended {
                    ops.push(Op::Start { vm: vm.clone(), uuid });
                }
                ops.push(stop);
                ops.extend(edit);
                // What would have been done on the running guest is done on the stopped one: disks only, the rest is edited.
                ops.extend(live.into_iter().filter(|op| matches!(op, Op::GrowDisk { .. })));
                ops.extend(self.reset_root(target, obs));
                ops.extend(target.start());
            }
            Turn::Nothing => {
                ops.extend(live);
                ops.extend(edit);
            }
            Turn::Start => {
                ops.extend(edit);
                ops.extend(live.into_iter().filter(|op| matches!(op, Op::GrowDisk { .. })));
                ops.extend(self.reset_root(target, obs));
                ops.extend(target.start());
            }
            Turn::Resume => {
                ops.extend(edit);
                ops.extend(target.start());
                ops.extend(live.into_iter().filter(|op| matches!(op, Op::GrowDisk { .. })));
            }
            Turn::Stop => {
                if obs.power == Power::Suspended {
                    ops.push(Op::Start { vm, uuid });
                }
                ops.push(stop);
                ops.extend(edit);
                ops.extend(live.into_iter().filter(|op| matches!(op, Op::GrowDisk { .. })));
            }
            Turn::Suspend => {
                ops.extend(live);
                ops.extend(edit);
                ops.push(Op::Suspend { vm, uuid });
            }
        }
        ops.extend(after);
        ops
    }

    /// Disks of its definition that are not on the host any more: those with data, then whether the root and the
    /// seed are gone, which can be made again.
    fn lost_disks(&self, target: &Target<'_>, obs: &VmObs, host: &Name) -> (Vec<String>, bool, bool) {
        if obs.power.is_active() || target.stamp.adopted.is_some() {
            return (Vec::new(), false, false);
        }
        let there: Vec<&str> = self.world.disks_at(&target.vm.name, host).map(|d| d.path).collect();
        let gone = |path: &str| !there.contains(&path);
        let mut lost = Vec::new();
        let (mut root, mut seed) = (false, false);
        for (name, shape) in obs.config.disks.iter().filter(|(_, d)| gone(&d.path)) {
            match name.as_str() {
                "seed" => seed = true,
                "root" if !obs.stamp.persistent_root && target.image.is_some() => root = true,
                _ => lost.push(shape.path.clone()),
            }
        }
        (lost, root, seed)
    }

    /// A root disk without data that somebody deleted is made again before the start.
    fn with_new_root(&self, target: &Target<'_>, obs: &VmObs, ops: Vec<Op>) -> Vec<Op> {
        let make = obs.config.disks.get("root").and_then(|root| target.make_root_at(&root.path));
        let already = ops.iter().any(|op| matches!(op, Op::MakeDisk(d) if d.stamp.disk == "root"));
        make.into_iter().filter(|_| !already).chain(ops).collect()
    }

    /// A root disk that returns to its image does so before each start.
    fn reset_root(&self, target: &Target<'_>, obs: &VmObs) -> Vec<Op> {
        let root = obs.config.disks.get("root").filter(|_| obs.power != Power::Suspended);
        root.map(|root| target.reset_root(&root.path)).unwrap_or_default()
    }

    /// What stands in a root disk that is data cannot be exchanged: the disk would have to be made anew.
    fn kept_marks(&mut self, vm: &'a Vm, host: &Name, obs: &VmObs, diff: &Diff) {
        let bytes = obs.config.disks.get("root").and_then(|d| self.size_of(vm, host, &d.path)).unwrap_or_default();
        let origin = vm.spec.origins.of(Field::Nics).cloned();
        let text = "what it was told at its making stands in its root disk, which is persistent";
        let mut act = action(
            &vm.name,
            Verb::Recreate,
            Cause::Change,
            reason("marker", text, origin),
            Class::RecreateData,
            Downtime::None,
        );
        act.from = Some(host.clone());
        act.to = Some(host.clone());
        act.fields.clone_from(&diff.fields);
        act.impact.data.push(DataEffect { disk: "root".to_owned(), effect: DiskFate::Keep, bytes });
        act.blocked.push(Block {
            by: BlockedBy::Policy,
            text: text.to_owned(),
            unblock: format!(
                "write back what was there, or end it by a Removal of vm/{}: it is then made anew without what is on the disk",
                vm.name
            ),
        });
        self.push(act, []);
    }

    /// The root disk is made anew in the next incarnation, beside the old one, which goes last.
    fn recreate(
        &mut self,
        target: &Target<'a>,
        obs: &'a VmObs,
        diff: &mut Diff,
        want: RunState,
        before: Need,
        after: Need,
    ) {
        let (vm, host) = (target.vm, target.host);
        let applied = obs.stamp.spec == target.stamp.spec;
        let made = target.image.is_some_and(|image| image.made.is_some());
        let cause = if applied && diff.image && !made { Cause::Drift } else { Cause::Change };
        let class = if obs.stamp.persistent_root { Class::RecreateData } else { Class::Recreate };
        let kept = if vm.spec.disks.is_empty() { "" } else { ", data disks are kept" };
        let back = diff.image && self.input.desired.pinned.contains_key(&vm.name);
        let over = super::builds::over(obs, self.image_of_management(obs));
        let why = if let Some(over) = over {
            let text = format!("{over}, and vm/{} is made anew of its own image{kept}", vm.name);
            reason("reverts", text, target.image.map(|i| i.origin.clone()))
        } else if back {
            let text = format!("back to the generation that it had: the roll failed{kept}");
            reason("roll_back", text, target.image.map(|i| i.origin.clone()))
        } else if diff.image {
            let origin = vm.spec.origins.of(Field::Image).cloned();
            reason("image_immutable", format!("another image: its root disk is made anew{kept}"), origin)
        } else {
            let origin = vm.spec.origins.of(Field::Nics).cloned();
            let text = format!("its address stands in its root disk instead of a marker: that is made anew{kept}");
            reason("marker", text, origin)
        };
        let cause = if back { Cause::Change } else { cause };
        let incarnation = self.next_incarnation(target, obs);
        // The new incarnation keeps MACs and addresses, and gets its own UUID.
        let fresh = match self.target_next(target, host, incarnation, obs) {
            Ok(fresh) => fresh,
            Err(text) => {
                return self.blocked_update(
                    vm,
                    obs,
                    &host.name,
                    BlockedBy::MissingCapacity,
                    text,
                    "widen the network's range",
                );
            }
        };
        let downtime = if obs.power.is_active() { self.restart_estimate(&fresh) } else { Downtime::None };
        let mut act = action(&vm.name, Verb::Recreate, cause, why, class, downtime);
        act.from = Some(host.name.clone());
        act.to = Some(host.name.clone());
        act.fields = keep_only_drift(std::mem::take(&mut diff.fields), cause);
        let old_root = obs.config.disks.get("root").map(|d| d.path.clone());
        let mut ops: Vec<Op> = fresh.make_root().into_iter().chain(fresh.make_seed()).collect();
        let mut data = Vec::new();
        let bytes = old_root.as_deref().and_then(|p| self.size_of(vm, &host.name, p));
        let fate = if class == Class::RecreateData { DiskFate::Remake } else { DiskFate::Make };
        data.push(DataEffect { disk: "root".to_owned(), effect: fate, bytes: bytes.unwrap_or_default() });
        let mut grows = Vec::new();
        for name in vm.spec.disks.keys() {
            let found = self.world.disk(&vm.name, &host.name, name.as_str());
            let (steps, effect) = fresh.data_disk(name, found);
            ops.extend(steps);
            data.extend(effect);
            let size = vm.spec.disks.get(name).map(|d| d.size);
            if let (Some(disk), Some(size)) = (found, size)
                && disk.obs.size < size
            {
                let path = disk.path.to_owned();
                grows.push(Op::GrowDisk { vm: vm.name.clone(), uuid: fresh.domain.uuid, path, size });
            }
        }
        ops.push(fresh.record());
        if obs.power == Power::Suspended {
            ops.push(Op::Start { vm: vm.name.clone(), uuid: obs.uuid });
        }
        ops.push(Op::Stop { vm: vm.name.clone(), uuid: obs.uuid, policy: vm.spec.stop });
        ops.push(Op::Undefine { vm: vm.name.clone(), uuid: obs.uuid, drop_save: false });
        ops.push(Op::Define { domain: fresh.domain.clone(), stamp: fresh.stamp.clone() });
        ops.append(&mut grows);
        if want == RunState::Started {
            ops.extend(fresh.start());
        }
        for disk in ["root", "seed"] {
            let Some(old) = obs.config.disks.get(disk) else { continue };
            let ours = self.world.disks.get(&vm.name).is_some_and(|all| all.iter().any(|(_, d)| d.path == old.path));
            if ours {
                ops.push(Op::DeleteDisk { path: old.path.clone(), vm: vm.name.clone() });
            }
        }
        // Data disks that were left out of the YAML go the way that they go without a recreate.
        ops.append(&mut diff.after);
        data.extend(diff.data.iter().filter(|d| matches!(d.effect, DiskFate::RetainUntil(_))).cloned());
        act.impact.data = data;
        act.steps = on(&host.name, ops);
        act.blocked.extend(self.pause(&vm.name, &vm.group));
        if obs.stamp.protect >= Protection::Recreate {
            act.blocked.push(protected(obs));
        }
        act.blocked.extend(target.image.filter(|image| image.is_unsealed()).map(unsealed));
        self.push(act, [Footprint { host: &host.name, before, after }]);
    }

    /// The incarnation that a recreate makes: one more than any that left a disk, unless a crash left the very
    /// disk that is wanted now.
    pub(crate) fn next_incarnation(&self, target: &Target<'_>, obs: &VmObs) -> u32 {
        let current = obs.stamp.incarnation;
        let disks = self.world.disks.get(&target.vm.name).map(Vec::as_slice).unwrap_or_default();
        let wanted = target.stamp.image.as_ref().map(crate::model::Digest::as_str);
        let prepared = disks.iter().map(|(_, d)| &d.obs.stamp).find(|s| s.disk == "root" && s.incarnation > current);
        match prepared {
            Some(stamp) if stamp.made_from.as_deref() == wanted && target.has_marks(stamp) => stamp.incarnation,
            _ => 1 + disks.iter().map(|(_, d)| d.obs.stamp.incarnation).max().unwrap_or(0).max(current),
        }
    }

    /// The target of the next incarnation: MACs and addresses stay, the UUID is its own.
    pub(crate) fn target_next(
        &mut self,
        target: &Target<'a>,
        host: &'a crate::model::Host,
        incarnation: u32,
        obs: &VmObs,
    ) -> Result<Target<'a>, String> {
        let vm = target.vm;
        let mut next = obs.clone();
        // An address that was just planned anew is not planned a second time.
        next.stamp.nics.clone_from(&target.stamp.nics);
        next.stamp.quarantine.clone_from(&target.stamp.quarantine);
        let fleet = &self.input.desired.fleet.name;
        next.uuid = crate::model::domain_uuid(fleet, &vm.name, incarnation);
        next.domain = crate::model::domain_name(fleet, &vm.name);
        next.stamp.adopted = None;
        let mut fresh = self.target(vm, host, incarnation, Some(&next))?;
        fresh.stamp = fresh.fresh_stamp();
        let rolls = fresh.stamp.image != obs.stamp.image && fresh.stamp.image_name == obs.stamp.image_name;
        let seen = self.world.place(&vm.name).and_then(|(at, _)| self.world.view(at).known());
        if let (Some(seen), Some(goes_to), true) = (seen, fresh.stamp.image.clone(), rolls) {
            let back = self.input.desired.pinned.contains_key(&vm.name);
            fresh.stamp.rolled = super::roll::remembered(obs, seen, &goes_to, back, self.input.observed);
        }
        Ok(fresh)
    }

    /// The image that a VM is, or was, the management instance of.
    pub(crate) fn image_of_management(&self, obs: &VmObs) -> Option<&'a crate::model::Image> {
        self.input.desired.images.get(&obs.stamp.management.as_ref()?.image)
    }

    fn size_of(&self, vm: &Vm, host: &Name, path: &str) -> Option<crate::model::Bytes> {
        self.world.disks_at(&vm.name, host).find(|d| d.path == path).map(|d| d.obs.size)
    }

    /// Something stops every change of a VM that exists.
    fn blocked_update(&mut self, vm: &'a Vm, obs: &VmObs, host: &Name, by: BlockedBy, text: String, unblock: &str) {
        let why = reason("blocked", "it is not as its document says", Some(vm.origin.clone()));
        let mut act = action(&vm.name, Verb::Update, Cause::Change, why, Class::None, Downtime::None);
        act.from = Some(host.clone());
        act.to = Some(host.clone());
        act.blocked.push(Block { by, text, unblock: unblock.to_owned() });
        let _ = obs;
        self.touched.insert(&vm.name);
        self.push(act, []);
    }

    /// A disk is never shrunk: said as a blocked action, so that it is seen.
    fn shrinks(&mut self, vm: &'a Vm, host: &Name, diff: &Diff) {
        for (disk, now, wanted) in &diff.shrinks {
            let field = if disk == "root" { Field::RootSize } else { Field::DiskSize };
            let path = if disk == "root" { "rootSize".to_owned() } else { format!("disks.{disk}.size") };
            let origin = vm.spec.origins.of(field).cloned();
            let why = reason("shrink", format!("{path} {now} -> {wanted}: a disk is never shrunk"), origin.clone());
            let mut act = action(&vm.name, Verb::Shrink, Cause::Change, why, Class::DestroyData, Downtime::None);
            act.from = Some(host.clone());
            act.to = Some(host.clone());
            act.fields.push(FieldChange {
                field,
                path: path.clone(),
                before: Some(now.exact()),
                after: Some(wanted.exact()),
                class: Class::DestroyData,
                origin,
                keep: Some(format!("{path}: {}", now.exact())),
            });
            act.blocked.push(Block {
                by: BlockedBy::Policy,
                text: format!("{disk} holds {now} and {wanted} is wanted: a disk is never shrunk"),
                unblock: format!("write {path}: {}, or make a new disk and move the data", now.exact()),
            });
            self.touched.insert(&vm.name);
            self.push(act, []);
        }
    }

    /// Fills in until when a disk that leaves its VM is kept.
    fn fix_retention(&self, diff: &mut Diff) {
        let now = self.input.now;
        for op in &mut diff.after {
            if let Op::RetainDisk { path, until } = op {
                let disk = self.world.disks.values().flatten().find(|(_, d)| d.path == path).map(|(_, d)| d.obs);
                let keep = match disk.map(|d| d.stamp.on_remove) {
                    // Not in this plan: a later one says that it deletes data, and can be read before it does.
                    Some(OnRemove::Delete) => Span::secs(60),
                    Some(OnRemove::Retain(span)) => span,
                    None => Span::secs(7 * 86_400),
                };
                *until = Timestamp(now.0 + keep.as_secs());
                let until = *until;
                for data in &mut diff.data {
                    if disk.is_some_and(|d| d.stamp.disk == data.disk) {
                        data.effect = DiskFate::RetainUntil(until);
                    }
                }
            }
        }
    }
}

/// Nothing is sealed yet that a VM could be made of.
pub(crate) fn unsealed(image: &crate::model::Image) -> Block {
    let revision = image.made.as_ref().map(|m| m.recipe.revision.to_string()).unwrap_or_default();
    Block {
        by: BlockedBy::Dependency,
        text: format!("image/{} revision {revision} is not sealed yet", image.name),
        unblock: format!("it goes on when that is made: see image/{}", image.name),
    }
}

/// Values to keep make sense for drift only.
pub(crate) fn keep_only_drift(mut fields: Vec<FieldChange>, cause: Cause) -> Vec<FieldChange> {
    if cause != Cause::Drift {
        fields.iter_mut().for_each(|f| f.keep = None);
    }
    fields
}

/// What devices stand in the way of a turn.
fn device_block(vm: &Vm, host: &crate::model::Host, obs: &VmObs, turn: Turn) -> Option<Block> {
    let missing = missing(vm, host).filter(|_| matches!(turn, Turn::Start | Turn::Resume));
    if let Some(device) = missing {
        return Some(Block {
            by: BlockedBy::MissingCapacity,
            text: format!("host/{} has no device {device}", host.name),
            unblock: format!("write it under `devices` of host/{}, or take it out of vm/{}", host.name, vm.name),
        });
    }
    // libvirt: "domain has assigned non-USB host devices" (qemuMigrationSrcIsAllowed).
    let pci = obs.holds().find(|at| !at.is_usb()).filter(|_| turn == Turn::Suspend)?;
    Some(Block {
        by: BlockedBy::Policy,
        text: format!("it has {pci}, whose state cannot be saved"),
        unblock: "stop it instead".to_owned(),
    })
}

fn root_reset_effect(ops: &[Op]) -> Option<DataEffect> {
    ops.iter().find_map(|op| match op {
        Op::MakeDisk(NewDisk { stamp, size, .. }) if stamp.disk == "root" => {
            let effect = if stamp_says_reset(ops) { DiskFate::Reset } else { DiskFate::Make };
            Some(DataEffect { disk: "root".to_owned(), effect, bytes: size.unwrap_or_default() })
        }
        _ => None,
    })
}

fn stamp_says_reset(ops: &[Op]) -> bool {
    ops.iter().any(|op| matches!(op, Op::Edit { stamp, .. } if stamp.root == Some(RootUse::Fresh)))
}

pub(crate) fn protected(obs: &VmObs) -> Block {
    let level = obs.stamp.protect.word();
    Block {
        by: BlockedBy::Protection,
        text: format!("it carries protect: {level}"),
        unblock: "lower `protect` in a commit of its own and apply that first".to_owned(),
    }
}

pub(crate) fn power_as_run(power: Power) -> &'static str {
    match power {
        Power::Running | Power::Paused | Power::ShuttingDown => RunState::Started,
        Power::Stopped | Power::Crashed => RunState::Stopped,
        Power::Suspended => RunState::Suspended,
    }
    .word()
}
