//! What moves and lost hosts leave behind is put right: half-made copies go, disks that became the disks are stamped so,
//! old copies are put aside, records say where a VM is. And moves that run are waited for, given up, or said to be stuck.

use super::carry::{promoted, record_of, retire};
use super::draft::{Draft, Footprint, action, need_now, on, reason};
use super::place::Need;
use super::places::{Standing, arrives, flight};
use super::steps::{Op, Step};
use super::types::{Action, Block, BlockedBy, Cause, Class, DataEffect, DiskFate, Downtime, NoteKind, Reason, Verb};
use super::world::Disk;
use crate::model::{
    Address, DiskPhase, Host, JobObs, Name, OnRemove, Power, RunState, StopPolicy, Timestamp, Vm, VmObs,
};

/// Lines of steps for one host after the other.
#[derive(Default)]
struct Work {
    steps: Vec<Step>,
    data: Vec<DataEffect>,
    why: Vec<String>,
}

impl Work {
    fn add(&mut self, host: &Name, ops: impl IntoIterator<Item = Op>) {
        self.steps.extend(on(host, ops));
    }
}

impl<'a> Draft<'a> {
    /// Decides about a VM that is not simply somewhere.
    pub(crate) fn unsure(
        &mut self,
        name: &'a Name,
        vm: Option<&'a Vm>,
        (host, obs): (&'a Name, &'a VmObs),
        standing: Standing<'a>,
    ) {
        self.touched_by_name(name);
        match standing {
            Standing::Doubled(hosts) => self.doubled(name, &hosts),
            Standing::Waits(text) => self.note(name, NoteKind::UnderWay, text, None),
            Standing::Stranded { text, unblock } => {
                self.stuck(name, host, "stranded", "it is not known where it is", text, unblock);
            }
            Standing::Split { from, to } => self.split(name, vm, obs, from, to),
            Standing::Stale { to } => self.stale(name, vm, (host, obs), to),
            Standing::Moving { to, job } => {
                self.note(name, NoteKind::UnderWay, under_way(to, job), None);
                if !self.is_ours(name, host) {
                    let text = "somebody moves it by hand: nothing is done to it before that ended";
                    self.note(name, NoteKind::LeftAlone, text, None);
                } else if vm.is_none() {
                    self.abort(name, host, obs, to, "it is not wanted any more");
                }
            }
        }
    }

    /// Moves that run and that nothing asks for any more are given up.
    pub(crate) fn aborts(&mut self) {
        let moving: Vec<(&'a Name, Option<&'a Name>)> = self
            .world
            .standings
            .iter()
            .filter_map(|(name, s)| match s {
                Standing::Moving { to, .. } => Some((*name, *to)),
                _ => None,
            })
            .collect();
        if moving.is_empty() {
            return;
        }
        let acted =
            |draft: &Self, name: &Name| draft.actions.iter().any(|a| matches!(&a.subject, Address::Vm(n) if n == name));
        for (name, to) in moving {
            let Some((host, obs)) = self.world.place(name) else { continue };
            if !self.is_ours(name, host) || acted(self, name) || !self.wanted.contains_key(name) {
                continue;
            }
            self.abort(name, host, obs, to, "nothing asks for its move any more");
        }
    }

    /// A move that runs is given up, and what it made is taken away.
    fn abort(&mut self, name: &'a Name, host: &'a Name, obs: &'a VmObs, to: Option<&'a Name>, text: &str) {
        let why = reason("move_withdrawn", format!("{text}: it stays on {host}"), None);
        let mut act = action(name, Verb::Abort, Cause::Drift, why, Class::None, Downtime::None);
        act.from = to.cloned();
        act.to = Some(host.clone());
        let other = to.unwrap_or(host).clone();
        let mut steps = on(host, [Op::AbortJob { vm: name.clone(), uuid: obs.uuid, to: other }]);
        steps.extend(self.tidy(name, &[host]));
        let moves = self.world.records.get(name).map_or(0, |r| r.moves);
        steps.extend(on(host, [record_of(&obs.stamp, host, moves + 1)]));
        act.steps = steps;
        self.push(act, None);
    }

    /// Something that only a person, or a host that comes back, can resolve.
    fn stuck(&mut self, name: &Name, host: &Name, code: &str, why: &str, text: String, unblock: String) {
        let mut act = action(name, Verb::Settle, Cause::Drift, reason(code, why, None), Class::None, Downtime::None);
        act.from = Some(host.clone());
        act.to = Some(host.clone());
        act.blocked.push(Block { by: BlockedBy::UnknownState, text, unblock });
        self.push(act, None);
    }

    /// The link was cut in post-copy: what is left of its memory is worth nothing, its disks are.
    fn split(&mut self, name: &'a Name, vm: Option<&'a Vm>, obs: &'a VmObs, from: Option<&'a Name>, to: &'a Name) {
        let asked = self.input.demand.restarts.get(name);
        let hosts = from.map_or_else(|| to.to_string(), |from| format!("{from} and {to}"));
        let lost =
            format!("the link was cut in post-copy: part of its memory is on each of {hosts}, and it stands still");
        let (Some(vm), Some(asked)) = (vm, asked) else {
            let unblock = format!("start it anew from its disks: `stablehand restart vm/{name}`");
            return self.stuck(name, to, "post_copy_failed", "its memory is in two parts", lost, unblock);
        };
        let why = reason("restart_by_hand", format!("a restart was asked by {}: {lost}", asked.who), None);
        self.anew(vm, (to, obs), from, Cause::Demand, why);
    }

    /// Its memory may be older than its disks: it must not go on with it.
    fn stale(&mut self, name: &'a Name, vm: Option<&'a Vm>, (host, obs): (&'a Name, &'a VmObs), to: &'a Name) {
        let text = format!(
            "it was handed over to {to}, which is lost and has the same storage: its disks may be newer than the memory that \
             stands still on {host}, so it is started anew"
        );
        match vm {
            Some(vm) => self.anew(vm, (host, obs), Some(to), Cause::Drift, reason("stale_memory", text, None)),
            None => self.note(name, NoteKind::LeftAlone, text, None),
        }
    }

    /// A VM whose memory is worth nothing is powered off and started from its disks.
    fn anew(
        &mut self,
        vm: &'a Vm,
        (to, obs): (&'a Name, &'a VmObs),
        from: Option<&'a Name>,
        cause: Cause,
        why: Reason,
    ) {
        let name = &vm.name;
        let estimate = Downtime::Estimate { millis: vm.spec.ready.as_ref().map_or(60_000, |p| p.within.0), samples: 0 };
        let mut act = action(name, Verb::Settle, cause, why, Class::Reboot, estimate);
        act.from = from.cloned();
        act.to = Some(to.clone());
        let mut work = Work::default();
        // Nobody answers in there: it is powered off.
        let policy = StopPolicy { deadline: crate::model::Span(0), power_off: true };
        work.add(to, [Op::Stop { vm: name.clone(), uuid: obs.uuid, policy }]);
        self.settle_at(&mut work, name, to, obs);
        if self.effective_run(vm).0 == RunState::Started {
            work.add(to, self.returning(vm, to, obs));
            let address = obs.probed_at();
            let start = Op::Start { vm: name.clone(), uuid: obs.uuid };
            let wait = Op::AwaitReady { vm: name.clone(), uuid: obs.uuid, probe: vm.spec.ready.clone(), address };
            work.add(to, [start, wait]);
        }
        act.steps = work.steps;
        act.blocked.extend(self.pause(name, &vm.group));
        self.push(act, None);
    }

    /// Puts right what moves and lost hosts left behind, where no move of this plan does it.
    pub(crate) fn settle_places(&mut self) {
        let names: Vec<&'a Name> = self.world.unsettled.iter().copied().collect();
        for name in names {
            let Some((host, obs)) = self.world.place(name) else { continue };
            if self.world.standings.contains_key(name) {
                continue;
            }
            let open = |a: &&mut Action| matches!(&a.subject, Address::Vm(n) if n == name) && !a.is_blocked();
            let ends = |a: &Action| matches!(a.verb, Verb::Migrate | Verb::Move | Verb::Destroy | Verb::Recreate);
            if self.actions.iter_mut().filter(open).any(|a| ends(a)) {
                continue;
            }
            let mut work = Work::default();
            self.settle_at(&mut work, name, host, obs);
            if work.steps.is_empty() {
                continue;
            }
            let why = reason("unsettled", work.why.join("; "), None);
            let mut act = action(name, Verb::Settle, Cause::Drift, why, Class::None, Downtime::None);
            act.from = Some(host.clone());
            act.to = Some(host.clone());
            act.impact.data = work.data;
            act.steps = work.steps;
            let id = act.id.clone();
            for act in self.actions.iter_mut().filter(open) {
                act.after.push(id.clone());
            }
            let left: Vec<&'a Name> =
                self.world.vms.get(name).into_iter().flatten().skip(1).map(|(host, _)| *host).collect();
            let prints: Vec<Footprint<'a>> = left
                .into_iter()
                .filter_map(|host| {
                    let obs = self.world.vms.get(name)?.iter().find(|(h, _)| *h == host)?.1;
                    Some(Footprint { host, before: need_now(obs), after: Need::default() })
                })
                .collect();
            self.push(act, prints);
        }
    }

    /// The steps that leave a VM at one place, with the disks and the record that it has there.
    fn settle_at(&self, work: &mut Work, name: &'a Name, host: &'a Name, obs: &'a VmObs) {
        let record = self.world.records.get(name);
        let moves = record.map_or(0, |r| r.moves);
        let came_from = flight(record).filter(|(_, to)| *to == host).map(|(from, _)| from);
        let given_away = flight(record).filter(|(from, _)| *from == host && self.world.left(name, host, moves));
        if let Some((_, to)) = given_away {
            return self.finish_at(work, name, (host, obs), to, moves);
        }
        if let Some(from) = came_from {
            work.why.push(format!("its move from {from} was cut after it had come here: the rest is done"));
            self.promote_at(work, name, host, obs);
        }
        for (other, view) in &self.world.hosts {
            if other != &host && view.known().is_some() {
                self.clean(work, name, other, (host, obs), moves);
            }
        }
        if let Some(from) = came_from
            && self.world.view(from).known().is_some()
            && !self.world.same_files(from, host)
        {
            work.add(from, [Op::Unrecord { vm: name.clone() }]);
        }
        let recorded = record.is_some_and(|r| r.host == *host && r.from.is_none());
        if !recorded {
            if came_from.is_none() && record.is_some() && work.why.is_empty() {
                let text = match flight(record) {
                    Some((from, to)) if from == host => format!("its move to {to} was cut: it stays here"),
                    _ => "its record says that it is elsewhere".to_owned(),
                };
                work.why.push(text);
            }
            // A record that was in flight to here is the same move, at its end; anything else is newer than it.
            let moves = if came_from.is_some() { moves } else { moves + 1 };
            work.add(host, [record_of(&obs.stamp, host, moves)]);
        }
    }

    /// Copies that came with a VM become its disks.
    fn promote_at(&self, work: &mut Work, name: &Name, host: &Name, obs: &VmObs) {
        let incoming = |d: &Disk<'_>| matches!(d.obs.stamp.phase, DiskPhase::Incoming { .. });
        let has = |d: &Disk<'_>| obs.config.disks.values().any(|shape| shape.path == d.path);
        let copies: Vec<Disk<'a>> = self.world.disks_at(name, host).filter(|d| incoming(d) && has(d)).collect();
        let fresh = !copies.is_empty();
        work.add(
            host,
            copies.iter().map(|d| {
                let stamp = promoted(&d.obs.stamp, d.obs.stamp.epoch);
                Op::StampDisk { path: d.path.to_owned(), stamp }
            }),
        );
        if obs.power != Power::Running {
            return;
        }
        let vm = self.wanted.get(name);
        let ours = |network: &Name| self.input.desired.networks.get(network).is_some_and(|n| n.create_bridge);
        if fresh && vm.is_some_and(|vm| vm.spec.nics.values().any(|nic| ours(&nic.network))) {
            work.add(host, [Op::Announce { vm: name.clone(), uuid: obs.uuid }]);
        }
        let address = obs.probed_at();
        let probe = obs.stamp.ready.clone();
        work.add(host, [Op::AwaitReady { vm: name.clone(), uuid: obs.uuid, probe, address }]);
    }

    /// A host that gave a VM's disks away, and is the only one that has its definition: the target gets it.
    fn finish_at(&self, work: &mut Work, name: &Name, (host, obs): (&'a Name, &'a VmObs), to: &'a Name, moves: u32) {
        work.why.push(format!("its move to {to} was cut when its disks had gone there: it is ended"));
        for disk in self.world.disks_at(name, to).filter(|d| matches!(d.obs.stamp.phase, DiskPhase::Incoming { .. })) {
            let stamp = promoted(&disk.obs.stamp, disk.obs.stamp.epoch);
            work.add(to, [Op::StampDisk { path: disk.path.to_owned(), stamp }]);
        }
        let (vm, uuid, from) = (name.clone(), obs.uuid, host.clone());
        work.add(to, [Op::DefineFrom { vm: vm.clone(), uuid, from: from.clone(), stamp: obs.stamp.clone() }]);
        if obs.power == Power::Suspended {
            work.add(to, [Op::CopySave { vm: vm.clone(), uuid, from }]);
        }
        work.add(host, [Op::Undefine { vm: vm.clone(), uuid, drop_save: true }]);
        work.add(host, [Op::Unrecord { vm }]);
        work.add(to, [record_of(&obs.stamp, to, moves)]);
    }

    /// What another host has of a VM that is here.
    fn clean(&self, work: &mut Work, name: &'a Name, other: &'a Name, (host, here): (&'a Name, &'a VmObs), moves: u32) {
        let shared = self.world.same_files(other, host);
        let shown = self.world.vms.get(name).into_iter().flatten().find(|(h, _)| *h == other).map(|(_, obs)| *obs);
        let mut ops = Vec::new();
        // A definition that is shut off goes last: while it is there, the next pass sees what is left to do.
        let mut last = None;
        if let Some(obs) = shown {
            let came = flight(self.world.records.get(name)).is_some_and(|(from, to)| from == other && to == host);
            let drop = Op::DropRemnant { vm: name.clone(), uuid: obs.uuid };
            if obs.power.is_active() {
                ops.push(drop);
            } else {
                last = Some(drop);
            }
            if !came {
                let text = if arrives(obs) {
                    format!("{other} has a part of it that never arrived")
                } else {
                    format!("{other} has an old copy of it: that is put aside, and never started")
                };
                work.why.push(text);
            }
        }
        let mine = |path: &str| here.config.disks.values().any(|shape| shape.path == path);
        // What its guest may have written there is nowhere else.
        let ran = self.world.may_have_run(name, other);
        for disk in self.world.disks_at(name, other).filter(|_| !shared) {
            let stamp = &disk.obs.stamp;
            let path = disk.path.to_owned();
            match &stamp.phase {
                DiskPhase::Incoming { .. } if !ran || stamp.disk == "seed" => {
                    ops.push(Op::DeleteDisk { path, vm: name.clone() });
                    if work.why.is_empty() {
                        work.why.push(format!("copies that a cut move left on {other} are worth nothing"));
                    }
                }
                DiskPhase::Valid if stamp.disk == "seed" && (shown.is_some() || mine(&path)) => {
                    ops.push(Op::DeleteDisk { path, vm: name.clone() });
                }
                DiskPhase::Valid | DiskPhase::Incoming { .. }
                    if stamp.disk != "seed" && stamp.expires.is_none() && (shown.is_some() || mine(&path)) =>
                {
                    let Some(doc) = self.input.desired.hosts.get(other) else { continue };
                    let own = shown.is_some() && (!mine(&path) || !stamp.phase.is_valid());
                    let until = self.kept_until(doc, stamp.on_remove, own);
                    ops.push(retire(disk, &doc.slots_dir, host, moves, until));
                    let effect = DiskFate::RetainUntil(until);
                    work.data.push(DataEffect { disk: stamp.disk.clone(), effect, bytes: disk.obs.size });
                }
                _ => {}
            }
        }
        let moved = flight(self.world.records.get(name));
        let is_source = moved.is_some_and(|(from, _)| from == other);
        let is_target = moved.is_some_and(|(_, to)| to == other);
        let is_stray = self.world.strays.get(name).is_some_and(|hosts| hosts.contains(other));
        if is_stray && !is_source && work.why.is_empty() {
            work.why.push(format!("{other} was not seen when it moved on: what is left of it there is put aside"));
        }
        let any = !ops.is_empty() || last.is_some() || is_target || is_stray;
        ops.extend(last);
        if any && !shared && !is_source {
            // Last: while it is there, what else is left is known to be old.
            ops.push(Op::Unrecord { vm: name.clone() });
        }
        work.add(other, ops);
    }

    /// Until when a copy is kept that nothing starts from any more: what is more than the copy of a move may be missed.
    fn kept_until(&self, host: &Host, on_remove: OnRemove, own: bool) -> Timestamp {
        let usual = host.migration.keep_source.as_secs();
        let keep = match on_remove {
            OnRemove::Retain(span) if own => span.as_secs().max(usual),
            _ => usual,
        };
        Timestamp(self.input.now.0 + keep)
    }
}

/// `moves to h2: 45 %, 1.3 of 2.9 GiB`.
pub(crate) fn under_way(to: Option<&Name>, job: &JobObs) -> String {
    let to = to.map_or_else(|| "another host".to_owned(), ToString::to_string);
    format!("moves to {to}: {}", job.progress())
}
