//! Migrations that run by themselves, on virtual time: libvirt carries them from host to host, whether we live or not.
//!
//! ```text
//!   Storage ──▶ Memory ──▶ HandOver ──▶ Arrived ──▶ gone from the source
//!      │           │           │            └ link cut: runs at the target, the source stays paused
//!      │           │           └ link cut: runs nowhere, the source stays paused by the migration
//!      └───────────┴ link cut: with disks the guest waits for the dead link until somebody aborts or it is healed;
//!                    without them the job ends after 30 s and the guest goes on
//! ```

use uuid::Uuid;

use super::world::{SimDomain, World};
use crate::model::{Bytes, JobKind, JobObs, Name, PauseCause, Power};
use crate::plan::MigrateHow;

/// How long a dead link is waited for before the target drops what arrived (measured with libvirt 9.0).
pub(super) const KEEPALIVE_MILLIS: u64 = 30_000;
/// What a link carries when nothing else was said: a gigabit Ethernet.
pub(super) const LINK: Bytes = Bytes(110 << 20);
/// Milliseconds from the guest's first instruction at the target to the end of the job at the source.
const CONFIRM_MILLIS: u64 = 20;

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Disks travel.
    Storage,
    /// Memory travels.
    Memory,
    /// The guest stands still at the source, and does not run at the target yet.
    HandOver,
    /// The guest runs at the target; the source was not told yet.
    Arrived,
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveJob {
    /// The VM.
    pub vm: Name,
    /// Its domain.
    pub uuid: Uuid,
    /// The source.
    pub from: Name,
    /// The target.
    pub to: Name,
    /// How it travels.
    pub how: MigrateHow,
    /// How far it is.
    pub stage: Stage,
    /// What is left of the stage: bytes, or milliseconds of the last two.
    pub left: u64,
    /// Bytes in all.
    pub total: u64,
    /// Milliseconds of the clock at which it began.
    pub began: u64,
    /// Since when the link does not carry it.
    pub stuck: Option<u64>,
    /// One of its ends lost its power: it cannot go on when the link is back.
    pub dead: bool,
    /// The source has no part in it any more.
    pub source_over: bool,
    /// The target dropped what arrived.
    pub target_over: bool,
    /// A step of ours waits for it.
    pub watched: bool,
    /// Nothing disturbed its hand-over: it can be held to the pause that was promised.
    pub smooth: bool,
}

impl MoveJob {
    /// Whether the guest waits for a dead link.
    fn freezes(&self) -> bool {
        self.stuck.is_some() && self.how.storage && self.stage <= Stage::Memory && !self.source_over
    }
    fn label(&self) -> String {
        format!("move of {} from {} to {}", self.vm, self.from, self.to)
    }
}

/// The key of a link: its two ends in order.
pub(super) fn link(one: &Name, other: &Name) -> (Name, Name) {
    if one <= other { (one.clone(), other.clone()) } else { (other.clone(), one.clone()) }
}

impl World {
    /// Whether two hosts reach one another.
    pub(super) fn linked(&self, one: &Name, other: &Name) -> bool {
        let on = |n: &Name| self.hosts.get(n).is_some_and(|h| h.powered) && !self.aside.contains_key(n);
        on(one) && on(other) && !self.cut.contains(&link(one, other))
    }

    /// Bytes a second between two hosts.
    pub(super) fn rate(&self, one: &Name, other: &Name) -> Bytes {
        self.rates.get(&link(one, other)).copied().unwrap_or(LINK)
    }

    /// The migration out of a host, of a domain.
    pub(super) fn leaving(&self, host: &Name, uuid: Uuid) -> Option<&MoveJob> {
        self.jobs.iter().find(|j| j.uuid == uuid && j.from == *host && !j.source_over)
    }

    /// The migration into a host, of a domain.
    pub(super) fn arriving(&self, host: &Name, uuid: Uuid) -> Option<&MoveJob> {
        self.jobs.iter().find(|j| j.uuid == uuid && j.to == *host && !j.target_over)
    }

    /// Whether a guest waits for a dead link.
    pub(super) fn is_frozen(&self, host: &Name, uuid: Uuid) -> bool {
        self.leaving(host, uuid).is_some_and(MoveJob::freezes)
    }

    /// What libvirt says of the job of a domain.
    pub(super) fn see_job(&self, host: &Name, uuid: Uuid) -> Option<JobObs> {
        let (job, kind) = match (self.leaving(host, uuid), self.arriving(host, uuid)) {
            (Some(job), _) => (job, JobKind::MigrationOut),
            // Once its guest runs, the target knows of no job any more.
            (None, Some(job)) if job.stage < Stage::Arrived => (job, JobKind::MigrationIn),
            _ => return None,
        };
        let left = if job.stage <= Stage::Memory { job.left } else { 0 };
        Some(JobObs {
            kind,
            done: Bytes(job.total.saturating_sub(left)),
            total: Bytes(job.total),
            millis: self.millis.saturating_sub(job.began),
        })
    }

    /// Thousandths of a unit (byte or millisecond) that a job gets on by in a millisecond.
    fn speed(&self, job: &MoveJob) -> u64 {
        if job.dead || job.source_over || job.target_over || !self.linked(&job.from, &job.to) {
            return 0;
        }
        if job.stage >= Stage::HandOver {
            return 1000;
        }
        if job.stage == Stage::Memory && !self.guest(&job.vm).converges {
            let half = job.how.time_limit.0 / 2;
            let switched = job.how.post_copy && self.millis.saturating_sub(job.began) >= half;
            return if switched { u64::MAX } else { 0 };
        }
        let rate = self.rate(&job.from, &job.to);
        job.how.bandwidth.map_or(rate, |b| rate.min(b)).0.max(1000)
    }

    /// Milliseconds of the clock at which a job's stage is over, as it goes now.
    fn stage_ends(&self, job: &MoveJob) -> Option<u64> {
        let speed = self.speed(job);
        let waits = job.stage == Stage::Memory && job.how.post_copy && job.stuck.is_none();
        if speed == 0 && waits && !job.source_over {
            return Some(job.began + job.how.time_limit.0 / 2);
        }
        (speed > 0).then(|| self.millis + job.left.saturating_mul(1000).div_ceil(speed))
    }

    /// Milliseconds of the clock at which a step that waits for a domain's job should look at it again.
    pub(super) fn wait_for(&self, host: &Name, uuid: Uuid) -> u64 {
        let Some(job) = self.leaving(host, uuid) else { return self.millis };
        let limit = job.began + job.how.time_limit.0;
        let patience = job.stuck.map(|since| since + KEEPALIVE_MILLIS);
        let ends = self.stage_ends(job).unwrap_or(u64::MAX);
        patience.unwrap_or(u64::MAX).min(ends).min(limit).max(self.millis)
    }

    /// Whether a step that waits for a job should give it up now.
    pub(super) fn is_hopeless(&self, job: &MoveJob) -> bool {
        let stuck = job.stuck.is_some_and(|since| self.millis >= since + KEEPALIVE_MILLIS);
        stuck || job.target_over || self.millis >= job.began + job.how.time_limit.0
    }

    /// Time passes, and migrations with it. Stops where we are ended.
    pub(super) fn pass_to(&mut self, to: u64) {
        while let Some((at, index)) = self.next_moment().filter(|(at, _)| *at <= to) {
            self.drift_to(at);
            self.turn(index);
            if self.crashed {
                return;
            }
        }
        self.drift_to(to);
    }

    /// The first moment at which something becomes of a job.
    fn next_moment(&self) -> Option<(u64, usize)> {
        let moment = |job: &MoveJob| {
            let dropped = job.stuck.filter(|_| !job.target_over || job.source_over).map(|s| s + KEEPALIVE_MILLIS);
            dropped.into_iter().chain(self.stage_ends(job)).min()
        };
        let moments = self.jobs.iter().enumerate().filter_map(|(i, j)| Some((moment(j)?, i)));
        moments.min().map(|(at, i)| (at.max(self.millis), i))
    }

    /// Jobs get on while the clock moves.
    fn drift_to(&mut self, to: u64) {
        let passed = to.saturating_sub(self.millis);
        let speeds: Vec<u64> = self.jobs.iter().map(|j| self.speed(j)).collect();
        for (job, speed) in self.jobs.iter_mut().zip(speeds) {
            job.left = job.left.saturating_sub(speed.saturating_mul(passed) / 1000);
        }
        self.millis = self.millis.max(to);
    }

    /// A job's moment has come: its next stage, or the end of somebody's patience.
    fn turn(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index).cloned() else { return };
        if job.stuck.is_some() {
            return self.lose_patience(&job);
        }
        match job.stage {
            Stage::Storage => self.enter(&job, Stage::Memory),
            Stage::Memory => self.enter(&job, Stage::HandOver),
            Stage::HandOver => self.enter(&job, Stage::Arrived),
            Stage::Arrived => self.arrive(&job),
        }
    }

    fn lose_patience(&mut self, job: &MoveJob) {
        if job.stage < Stage::Arrived {
            self.drop_arriving(job);
        }
        if job.source_over || !job.freezes() {
            return self.end_job(job, "the link to the target is lost");
        }
        if let Some(job) = self.same_job(job) {
            job.target_over = true;
        }
    }

    fn same_job(&mut self, job: &MoveJob) -> Option<&mut MoveJob> {
        self.jobs
            .iter_mut()
            .find(|j| j.uuid == job.uuid && j.from == job.from && j.to == job.to && j.began == job.began)
    }

    /// What arrived at the target is dropped: a domain that never ran there.
    fn drop_arriving(&mut self, job: &MoveJob) {
        if let Some(target) = self.hosts.get_mut(&job.to)
            && target.domains.get(&job.uuid).is_some_and(|d| d.transient && d.stands_by())
        {
            target.domains.remove(&job.uuid);
        }
    }

    /// Ends a job that fails: before the hand-over the guest goes on at the source, after it the source stays paused.
    pub(super) fn end_job(&mut self, job: &MoveJob, why: &str) {
        if job.stage < Stage::Arrived {
            self.drop_arriving(job);
        }
        self.forget_job(job, Err(why.to_owned()));
    }

    fn forget_job(&mut self, job: &MoveJob, end: Result<(), String>) {
        let same = |j: &MoveJob| j.uuid == job.uuid && j.from == job.from && j.to == job.to && j.began == job.began;
        let watched = self.jobs.iter().any(|j| same(j) && j.watched && !j.source_over);
        self.jobs.retain(|j| !same(j));
        if watched {
            self.ended.insert(job.uuid, end);
        }
    }

    /// Gives a job up at the source, as `virDomainAbortJob` does: the guest goes on there. The target hears of it when
    /// the link carries.
    pub(super) fn abort(&mut self, job: &MoveJob) {
        if let Some(domain) = self.hosts.get_mut(&job.from).and_then(|h| h.domains.get_mut(&job.uuid))
            && domain.stands_by()
        {
            (domain.power, domain.pause) = (Power::Running, None);
        }
        if self.linked(&job.from, &job.to) || job.target_over {
            return self.end_job(job, "it was given up");
        }
        let now = self.millis;
        if let Some(job) = self.same_job(job) {
            job.source_over = true;
            job.stuck = Some(job.stuck.unwrap_or(now));
        }
    }

    /// A job comes to its next stage.
    fn enter(&mut self, job: &MoveJob, stage: Stage) {
        let pause = self.pause_of(job);
        let memory = self.hosts.get(&job.from).and_then(|h| h.domains.get(&job.uuid)).and_then(|d| d.live.as_ref());
        let memory = memory.map_or(0, |l| l.memory.0);
        if let Some(job) = self.same_job(job) {
            job.stage = stage;
            job.left = match stage {
                Stage::Storage => job.left,
                Stage::Memory => memory,
                Stage::HandOver => pause,
                Stage::Arrived => CONFIRM_MILLIS,
            };
        }
        match stage {
            Stage::Storage => {}
            Stage::Memory => self.guest_writes(&job.from, job.uuid),
            Stage::HandOver => self.hand_over(job),
            Stage::Arrived => self.resume_at_target(job),
        }
        self.looked_after(job);
        self.staged(job, stage);
    }

    /// The guest runs on and writes: the copy must follow.
    fn guest_writes(&mut self, host: &Name, uuid: Uuid) {
        let there = self.hosts.get_mut(host);
        let Some(there) = there else { return };
        let paths: Vec<String> = there.domains.get(&uuid).into_iter().flat_map(SimDomain::writable).cloned().collect();
        for path in paths {
            if let Some(file) = there.disks.get_mut(&path) {
                file.writes += 1;
            }
        }
        self.note_data(host, uuid);
        self.mirror(host);
    }

    fn hand_over(&mut self, job: &MoveJob) {
        let Some(source) = self.hosts.get_mut(&job.from) else { return };
        let Some(domain) = source.domains.get_mut(&job.uuid) else { return };
        (domain.power, domain.pause) = (Power::Paused, Some(PauseCause::Migration));
        if !job.how.storage {
            return;
        }
        let paths: Vec<String> = domain.writable().cloned().collect();
        let files: Vec<_> = paths.iter().filter_map(|p| Some((p.clone(), source.disks.get(p)?.clone()))).collect();
        let Some(target) = self.hosts.get_mut(&job.to) else { return };
        for (path, file) in files {
            if let Some(copy) = target.disks.get_mut(&path) {
                (copy.content, copy.writes, copy.used) = (file.content, file.writes, file.used);
            }
        }
    }

    fn resume_at_target(&mut self, job: &MoveJob) {
        let Some(target) = self.hosts.get_mut(&job.to) else { return };
        if let Some(domain) = target.domains.get_mut(&job.uuid) {
            (domain.power, domain.pause, domain.transient) = (Power::Running, None, false);
        }
        let label = job.label();
        self.guard_data_of(&label, &job.to, job.uuid, true);
        self.guest_writes(&job.to, job.uuid);
        let promised = self.permit.pauses.get(&job.vm).copied();
        let pause = self.pause_of(job);
        if let Some(promised) = promised.filter(|p| job.smooth && job.watched && pause > *p) {
            self.broken(&label, &format!("the guest stood still for {pause} ms, {promised} ms were promised"));
        }
    }

    /// Milliseconds that the guest stands still: QEMU hands over when it expects the rest to travel within the longest
    /// pause. It takes about two thirds of it (204 of 300 ms were measured).
    fn pause_of(&self, job: &MoveJob) -> u64 {
        job.how.max_pause.0 * 2 / 3
    }

    /// The guest runs at the target, and the source knows: its domain there is undefined.
    fn arrive(&mut self, job: &MoveJob) {
        if let Some(source) = self.hosts.get_mut(&job.from) {
            source.domains.remove(&job.uuid);
        }
        self.forget_job(job, Ok(()));
        self.looked_after(job);
    }

    /// Promises are looked after at every stage.
    fn looked_after(&mut self, job: &MoveJob) {
        if self.unguarded {
            return;
        }
        let label = job.label();
        for what in self.running_twice().into_iter().chain(self.open_on_two_hosts()).chain(self.guard_filters()) {
            self.broken(&label, &what);
        }
    }

    /// A stage is to us what the end of a step is: what waits for it happens, and we may be ended there.
    pub(super) fn staged(&mut self, job: &MoveJob, stage: Stage) {
        let all = std::mem::take(&mut self.at_stages);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(v, s, _)| *v == job.vm && *s == stage);
        self.at_stages = later;
        for (_, _, event) in due {
            self.let_happen(&event);
        }
        if self.same_job(job).is_some_and(|j| j.watched) {
            self.step_ends();
        }
    }

    /// After something happened: links that are cut stop jobs, links that are back let them go on or end them.
    pub(super) fn links_changed(&mut self) {
        let now = self.millis;
        for job in self.jobs.clone() {
            let carries = self.linked(&job.from, &job.to);
            match (carries, job.stuck) {
                (false, None) => {
                    if let Some(job) = self.same_job(&job) {
                        (job.stuck, job.smooth) = (Some(now), false);
                    }
                }
                (true, Some(_)) if job.dead || job.source_over || job.target_over => {
                    self.end_job(&job, "the connection was reset");
                }
                (true, Some(_)) => {
                    if let Some(job) = self.same_job(&job) {
                        job.stuck = None;
                    }
                }
                _ => {}
            }
        }
    }

    /// A host lost its power, or its libvirtd ends: what becomes of the jobs that it had.
    pub(super) fn jobs_of_dead(&mut self, host: &Name) {
        for job in self.jobs.clone() {
            if job.from == *host {
                if job.stage == Stage::Arrived {
                    self.forget_job(&job, Err("the source lost its power".to_owned()));
                } else if let Some(job) = self.same_job(&job) {
                    // The target waits for the rest until it loses its patience.
                    (job.dead, job.source_over) = (true, true);
                }
            } else if job.to == *host {
                self.drop_arriving(&job);
                if job.stage >= Stage::HandOver {
                    self.forget_job(&job, Err("the target lost its power".to_owned()));
                } else if let Some(job) = self.same_job(&job) {
                    (job.dead, job.target_over) = (true, true);
                }
            }
        }
    }

    /// A guest that ends at the source, or what arrives of it at the target, ends its migration.
    pub(super) fn jobs_of_ended(&mut self, vm: &Name) {
        for job in self.jobs.clone().into_iter().filter(|j| j.vm == *vm && j.stage < Stage::Arrived) {
            let there = |host: &Name| self.hosts.get(host).and_then(|h| h.domains.get(&job.uuid));
            let gone = |host: &Name| there(host).is_none_or(|d| !d.power.is_active());
            let (source, target) = (gone(&job.from) && !job.source_over, gone(&job.to) && !job.target_over);
            if target && let Some(host) = self.hosts.get_mut(&job.to) {
                host.domains.retain(|uuid, d| *uuid != job.uuid || !d.transient);
            }
            if source || target {
                self.abort(&job);
            }
        }
    }

    /// The migration of a host's daemon ends with it: libvirt gives its jobs up.
    pub(super) fn jobs_of_restarted(&mut self, host: &Name) {
        for job in self.jobs.clone().into_iter().filter(|j| j.from == *host || j.to == *host) {
            self.end_job(&job, "libvirtd was restarted");
        }
    }
}
