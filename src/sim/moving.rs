//! What the steps of moves do to the world: migrate, abort, copy, retire, drop what stayed behind, fence, announce.

use uuid::Uuid;

use super::change::{bootable, changed, domain, needs_space};
use super::jobs::{MoveJob, Stage};
use super::world::{SimDisk, SimDomain, SimHost, World};
use crate::execute::{Done, StepError};
use crate::model::{Bytes, Digest, DiskPhase, DiskStamp, Name, PauseCause, Power, Shape, Stamp};
use crate::plan::{MigrateHow, Op, Step};

type Outcome = Result<Done, StepError>;

impl World {
    /// A step begins: a migration is under way from this moment, also when we end.
    pub(super) fn begins(&mut self, step: &Step) {
        let Op::Migrate { vm, uuid, to, how } = &step.op else { return };
        self.ended.remove(uuid);
        if self.leaving(&step.host, *uuid).is_some() {
            self.watch(&step.host, *uuid);
            return;
        }
        if self.may_fail(step) || self.touches_ours(step).is_err() {
            return;
        }
        // What is wrong is said when the step ends.
        if let Ok(Some(job)) = self.begin_job(step, vm, *uuid, to, how) {
            self.watch(&step.host, *uuid);
            self.staged(&MoveJob { watched: true, ..job.clone() }, job.stage);
        }
    }

    fn watch(&mut self, from: &Name, uuid: Uuid) {
        let mine = |j: &&mut MoveJob| j.uuid == uuid && j.from == *from && !j.source_over;
        for job in self.jobs.iter_mut().filter(mine) {
            job.watched = true;
        }
    }

    /// Begins a migration; `None`: it is done already.
    fn begin_job(
        &mut self,
        step: &Step,
        vm: &Name,
        uuid: Uuid,
        to: &Name,
        how: &MigrateHow,
    ) -> Result<Option<MoveJob>, StepError> {
        let from = step.host.clone();
        let there = self.hosts.get(to).and_then(|h| h.domains.get(&uuid)).is_some_and(SimDomain::runs);
        let Some(source) = self.host(&from)?.domains.get(&uuid).cloned() else {
            // Where it went can only be asked of a host that answers.
            self.host(to)?;
            return if there { Ok(None) } else { Err(StepError::Stale(format!("{vm} is neither here nor at {to}"))) };
        };
        if source.stands_by() {
            return Err(StepError::Unknown(format!("{vm} was handed over to {to}: nobody knows where it runs")));
        }
        let Some(live) = source.live.clone().filter(|_| source.power == Power::Running) else {
            return Err(StepError::Stale(format!("{vm} does not run")));
        };
        if !self.linked(&from, to) {
            return Err(StepError::failed(format!("unable to connect to {to}: no route to host")));
        }
        self.accepts(step, to, uuid, &live, how)?;
        self.guard_move(step, vm, to);
        let disks =
            source.writable().filter_map(|p| self.hosts.get(&from)?.disks.get(p)).map(|d| d.used.0).sum::<u64>();
        let storage = if how.storage { disks } else { 0 };
        let stage = if how.storage { Stage::Storage } else { Stage::Memory };
        let job = MoveJob {
            vm: vm.clone(),
            uuid,
            from: from.clone(),
            to: to.clone(),
            how: how.clone(),
            stage,
            left: if how.storage { storage } else { live.memory.0 },
            total: storage + live.memory.0,
            began: self.millis,
            stuck: None,
            dead: false,
            source_over: false,
            target_over: false,
            watched: false,
            smooth: true,
        };
        let arriving = SimDomain {
            power: Power::Paused,
            pause: Some(PauseCause::Migration),
            transient: true,
            saved: None,
            autostart: false,
            ..source
        };
        let before = self.hosts.get(to).map(super::guard::Use::of);
        if let Some(target) = self.hosts.get_mut(to) {
            target.domains.insert(uuid, arriving);
        }
        self.jobs.push(job.clone());
        if let Some(before) = before {
            self.guard_room(step, to, before);
        }
        Ok(Some(job))
    }

    /// What libvirt and QEMU of the target check before anything travels.
    fn accepts(&mut self, step: &Step, to: &Name, uuid: Uuid, live: &Shape, how: &MigrateHow) -> Result<(), StepError> {
        let Some(target) = self.hosts.get(to) else { return Err(StepError::Unknown(format!("there is no host {to}"))) };
        if target.domains.get(&uuid).is_some_and(|d| d.power.is_active()) {
            return Err(StepError::failed(format!("the domain is active at {to} already")));
        }
        if let Some(cpu) = self.hosts.get(&step.host).map(|h| &h.cpu).filter(|c| **c != target.cpu) {
            return Err(StepError::failed(format!("the processors of {to} are {}, not {cpu}", target.cpu)));
        }
        // qemuMigrationSrcIsAllowed: what has a device of its host stays with it.
        if let Some(at) = live.devices.values().next() {
            return Err(StepError::failed(format!("cannot migrate: the domain has {at} of its host")));
        }
        bootable(target, uuid, live)?;
        let from = self.hosts.get(&step.host);
        let backing = |host: Option<&SimHost>, path: &str| host.and_then(|h| h.disks.get(path)?.backing.clone());
        let mut wrong = None;
        for disk in live.disks.values().filter(|d| !d.readonly) {
            let Some(copy) = target.disks.get(&disk.path) else { continue };
            let phase = copy.stamp.as_ref().map(|s| &s.phase);
            let incoming = matches!(phase, Some(DiskPhase::Incoming { from }) if *from == step.host);
            if how.storage && !incoming {
                wrong = Some(disk.path.clone());
            }
            if how.storage && copy.backing != backing(from, &disk.path) {
                return Err(StepError::failed(format!("{} lies on another image at {to}", disk.path)));
            }
            if !how.storage && !self.same_storage(&step.host, to) {
                return Err(StepError::failed(format!("{} is not shared with {to}", disk.path)));
            }
        }
        if let Some(path) = wrong {
            self.violate(step, &format!("{path} of {to} would be overwritten, and is not stamped as incoming"));
            return Err(StepError::Stale(format!("{path} at {to} is not incoming from {}", step.host)));
        }
        Ok(())
    }

    fn same_storage(&self, one: &Name, other: &Name) -> bool {
        let of = |n: &Name| self.hosts.get(n).and_then(|h| h.shared.clone());
        of(one).is_some() && of(one) == of(other)
    }

    /// The end of the step that waits for a migration. Driven by hand, the clock moves to its end.
    pub(super) fn migrate(&mut self, step: &Step, vm: &Name, uuid: Uuid, to: &Name, how: &MigrateHow) -> Outcome {
        self.host(&step.host)?;
        match self.ended.remove(&uuid) {
            Some(Ok(())) => return Ok(Done::Changed),
            Some(Err(why)) => return Err(self.failed_move(step, vm, uuid, to, &why)),
            None => {}
        }
        if self.leaving(&step.host, uuid).is_none() && self.begin_job(step, vm, uuid, to, how)?.is_none() {
            return Ok(Done::Already);
        }
        while let Some(job) = self.leaving(&step.host, uuid).cloned() {
            let ends = self.wait_for(&step.host, uuid);
            if self.is_hopeless(&job) {
                self.abort(&job);
                self.ended.remove(&uuid);
                return Err(self.failed_move(step, vm, uuid, to, "it was given up"));
            }
            self.watch(&step.host, uuid);
            self.pass_to(ends.max(self.millis + 1));
        }
        match self.ended.remove(&uuid) {
            Some(Err(why)) => Err(self.failed_move(step, vm, uuid, to, &why)),
            _ => Ok(Done::Changed),
        }
    }

    /// After a failure the VM is looked for on both hosts.
    fn failed_move(&self, step: &Step, vm: &Name, uuid: Uuid, to: &Name, why: &str) -> StepError {
        let seen = |host: &Name| self.hosts.get(host).filter(|h| h.away.is_none()).and_then(|h| h.domains.get(&uuid));
        if seen(&step.host).is_some_and(SimDomain::runs) {
            return StepError::failed(format!("{vm} stays on {}: {why}", step.host));
        }
        if seen(to).is_some_and(SimDomain::runs) {
            return StepError::failed(format!("{vm} runs on {to}, and {} was not told: {why}", step.host));
        }
        StepError::Unknown(format!("{vm} was on its way from {} to {to}: {why}", step.host))
    }

    pub(super) fn abort_job(&mut self, step: &Step, vm: &Name, uuid: Uuid) -> Outcome {
        self.host(&step.host)?;
        if let Some(job) = self.leaving(&step.host, uuid).cloned() {
            if job.stage == Stage::Arrived {
                return Err(StepError::Stale(format!("{vm} runs on {} already", job.to)));
            }
            self.abort(&job);
            return Ok(Done::Changed);
        }
        let there = domain(self.host(&step.host)?, uuid)?;
        if there.stands_by() {
            return Err(StepError::Stale(format!("{vm} was handed over: there is nothing to give up")));
        }
        Ok(Done::Already)
    }

    /// The host that something is copied from, when both ends can be reached.
    pub(super) fn peer(&mut self, step: &Step, from: &Name) -> Result<SimHost, StepError> {
        self.host(&step.host)?;
        let peer = self.host(from)?.clone();
        if self.linked(&step.host, from) {
            Ok(peer)
        } else {
            Err(StepError::failed(format!("{} does not reach {from}", step.host)))
        }
    }

    pub(super) fn copy_disk(&mut self, step: &Step, from: &Name, path: &str, stamp: &DiskStamp) -> Outcome {
        let peer = self.peer(step, from)?;
        let Some(file) = peer.disks.get(path) else {
            return Err(StepError::Stale(format!("disk {path} is not at {from}")));
        };
        if file.stamp.as_ref().is_none_or(|s| s.vm != stamp.vm || s.fleet != stamp.fleet) {
            return Err(StepError::failed(format!("disk {path} at {from} is not one of {}", stamp.vm)));
        }
        if let Some(user) = open_for_writing(&peer, path) {
            return Err(StepError::failed(format!("{} at {from} has {path} open", user.name)));
        }
        let host = self.host(&step.host)?;
        let there = host.disks.get(path).map(|d| d.stamp.as_ref());
        let incoming = |s: &DiskStamp| matches!(s.phase, DiskPhase::Incoming { .. }) && s.vm == stamp.vm;
        if there.is_some_and(|s| !s.is_some_and(incoming)) {
            self.violate(step, &format!("{path} would be copied over another disk"));
            return Err(StepError::Stale(format!("{path} exists, and is not incoming")));
        }
        if let Some(user) = open_for_writing(host, path) {
            return Err(StepError::failed(format!("{} has {path} open", user.name)));
        }
        needs_space(host, file.used)?;
        host.disks.insert(path.to_owned(), SimDisk { stamp: Some(stamp.clone()), ..file.clone() });
        Ok(Done::Changed)
    }

    pub(super) fn copy_image(&mut self, step: &Step, from: &Name, path: &str, digest: &Digest) -> Outcome {
        if self.host(&step.host)?.images.contains_key(path) {
            return self.mark_image(step, path, None);
        }
        let peer = self.peer(step, from)?;
        let Some((there, used)) = peer.images.get(path) else {
            return Err(StepError::Stale(format!("image {path} is not at {from}")));
        };
        if there != digest {
            return Err(StepError::failed(format!("image {path} at {from} has another digest")));
        }
        let (used, note) = (*used, peer.notes.get(path).cloned());
        let host = self.host(&step.host)?;
        needs_space(host, used)?;
        host.images.insert(path.to_owned(), (digest.clone(), used));
        host.notes.extend(note.map(|note| (path.to_owned(), note)));
        self.mark_image(step, path, None)?;
        Ok(Done::Changed)
    }

    pub(super) fn copy_save(&mut self, step: &Step, vm: &Name, uuid: Uuid, from: &Name) -> Outcome {
        if domain(self.host(&step.host)?, uuid)?.power == Power::Suspended {
            return Ok(Done::Already);
        }
        let peer = self.peer(step, from)?;
        let Some(saved) = peer.domains.get(&uuid).and_then(|d| d.saved.clone()) else {
            return Err(StepError::Stale(format!("{vm} is not suspended at {from}")));
        };
        let there = domain(self.host(&step.host)?, uuid)?;
        if there.power.is_active() {
            return Err(StepError::Stale(format!("{vm} runs")));
        }
        (there.saved, there.power) = (Some(saved), Power::Suspended);
        Ok(Done::Changed)
    }

    pub(super) fn define_from(&mut self, step: &Step, vm: &Name, uuid: Uuid, from: &Name, stamp: &Stamp) -> Outcome {
        if let Some(there) = self.host(&step.host)?.domains.get(&uuid) {
            return if there.stamp.as_ref() == Some(stamp) && !there.power.is_active() {
                Ok(Done::Already)
            } else {
                Err(StepError::Stale(format!("domain {} exists and is not as the plan saw it", there.name)))
            };
        }
        let peer = self.peer(step, from)?;
        let Some(source) = peer.domains.get(&uuid) else {
            return Err(StepError::Stale(format!("{vm} is not at {from}")));
        };
        if source.power.is_active() {
            return Err(StepError::Stale(format!("{vm} runs at {from}")));
        }
        let host = self.host(&step.host)?;
        if host.domains.values().any(|d| d.name == source.name) {
            return Err(StepError::Stale(format!("a domain {} with another UUID exists", source.name)));
        }
        let new = SimDomain {
            stamp: Some(stamp.clone()),
            power: Power::Stopped,
            live: None,
            saved: None,
            autostart: false,
            ..source.clone()
        };
        host.domains.insert(uuid, new);
        Ok(Done::Changed)
    }

    pub(super) fn retire_disk(&mut self, step: &Step, path: &str, to: &str, stamp: &DiskStamp) -> Outcome {
        let host = self.host(&step.host)?;
        let Some(file) = host.disks.get(path) else {
            let kept = host.disks.get(to).and_then(|d| d.stamp.as_ref()) == Some(stamp);
            return if kept { Ok(Done::Already) } else { Err(StepError::Stale(format!("disk {path} is not there"))) };
        };
        if file.stamp.as_ref().is_none_or(|s| s.vm != stamp.vm || s.fleet != stamp.fleet) {
            return Err(StepError::failed(format!("disk {path} is not one of {}", stamp.vm)));
        }
        if let Some(user) = open_for_writing(host, path) {
            let what = format!("{} has {path} open", user.name);
            if user.runs() {
                self.violate(step, &format!("{what}, and it would be set aside"));
            }
            return Err(StepError::failed(what));
        }
        if host.disks.contains_key(to) {
            self.violate(step, &format!("{to} would be created over another disk"));
            return Err(StepError::Stale(format!("{to} exists")));
        }
        if let Some(file) = host.disks.remove(path) {
            host.disks.insert(to.to_owned(), SimDisk { stamp: Some(stamp.clone()), ..file });
        }
        Ok(Done::Changed)
    }

    pub(super) fn drop_remnant(&mut self, step: &Step, vm: &Name, uuid: Uuid) -> Outcome {
        let runs = self.hosts.values().any(|h| h.domains.get(&uuid).is_some_and(SimDomain::runs));
        let busy = self.see_job(&step.host, uuid).is_some();
        let host = self.host(&step.host)?;
        let Some(there) = host.domains.get(&uuid) else { return Ok(Done::Already) };
        if there.runs() {
            return Err(StepError::failed(format!("{vm} runs")));
        }
        if busy {
            return Err(StepError::Stale(format!("a job of {vm} runs")));
        }
        let (last, paths) = (there.stands_by() && !runs, there.writable().cloned().collect::<Vec<_>>());
        let newest = |file: &SimDisk| {
            let stamp = file.stamp.as_ref();
            let key = stamp.map(|s| (s.vm.clone(), s.disk.clone(), s.incarnation));
            key.and_then(|k| self.newest.get(&k)).is_none_or(|newest| *newest == (file.content, file.writes))
        };
        let there = self.hosts.get(&step.host);
        // On storage that hosts share the file is the same: there it went on where it has been given its definition.
        let shares = |name: &Name| self.same_storage(&step.host, name);
        let mut others = self.hosts.iter().filter(|(name, _)| **name != step.host && shares(name));
        let went_on = others.any(|(_, h)| h.domains.get(&uuid).is_some_and(|d| !d.transient));
        let is_last = last && !went_on && paths.iter().filter_map(|p| there?.disks.get(p)).all(newest);
        self.host(&step.host)?.domains.remove(&uuid);
        // Where its guest went on and ended since, what stands here is older than its disks.
        if is_last {
            self.violate(step, &format!("{vm} is dropped, and it runs nowhere else"));
        }
        Ok(Done::Changed)
    }

    /// A fence reaches the host's power, not the host: it need not answer.
    pub(super) fn fence(&mut self, step: &Step) -> Outcome {
        if self.fence_fails.contains(&step.host) {
            return Err(StepError::failed(format!("the power of {} cannot be switched", step.host)));
        }
        let event = super::happen::Event::Kill(step.host.clone());
        self.happen(&event).map_err(StepError::failed)?;
        Ok(Done::Changed)
    }

    pub(super) fn announce(&mut self, step: &Step, vm: &Name, uuid: Uuid) -> Outcome {
        let there = domain(self.host(&step.host)?, uuid)?;
        if !there.runs() {
            return Err(StepError::Stale(format!("{vm} does not run")));
        }
        there.announced += 1;
        Ok(changed(true))
    }

    /// Bytes that a step of copying has to bring, and where from.
    pub(super) fn to_copy<'s>(&self, step: &'s Step) -> Option<(&'s Name, Bytes)> {
        let from = step.op.peer()?;
        let peer = self.hosts.get(from)?;
        let bytes = match &step.op {
            Op::CopyDisk { path, .. } => peer.disks.get(path)?.used,
            Op::CopyImage { path, .. } => {
                let there = self.hosts.get(&step.host)?.images.contains_key(path);
                if there { Bytes(0) } else { peer.images.get(path)?.1 }
            }
            Op::CopySave { uuid, .. } => peer.domains.get(uuid)?.saved.as_ref()?.memory,
            _ => return None,
        };
        Some((from, bytes))
    }
}

/// The domain that has a file open for writing.
fn open_for_writing<'h>(host: &'h SimHost, path: &str) -> Option<&'h SimDomain> {
    let writes = |d: &&SimDomain| d.live.iter().flat_map(|l| l.disks.values()).any(|d| d.path == path && !d.readonly);
    host.active().map(|(_, d)| d).find(writes)
}
