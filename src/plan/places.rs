//! Which place of a VM counts, when several hosts show it, when it moves, and when its record says that it moved.
//!
//! ```text
//!  runs on two ─────────────────────────────▶ Doubled: never resolved by us
//!  runs on one ─────────────────────────────▶ that one; what others show of it is left over
//!  runs nowhere, handed over by S ─ T has it ───────▶ T: it may have run there since
//!                                  ├ T known, has not ▶ S, resumed there
//!                                  ├ T Unknown ───────▶ Stranded: it may run there
//!                                  └ T lost, with the same storage ▶ Stale: S, started anew
//!  shut off ─ T's copies became the disks ──▶ T
//!           ├ moved cold, or T has it not ──▶ S
//!           └ T has it, and so has S ───────▶ Stranded: nobody can say which is the newer one
//! ```
//!
//! A live move defines the domain at the target only when all its memory and its disks are there, just before the guest
//! goes on (`qemuMigrationDstFinish`); until then it is transient there, and goes with the power. So a target that has
//! the definition has disks that are not older than those of a source whose guest has stood still since. Of a source
//! whose guest does not stand still any more, nobody knows whether it went on when the target failed to.

use super::world::{HostView, World};
use crate::model::{DiskPhase, JobKind, JobObs, Name, PauseCause, PlacementRecord, Power, VmObs};

/// What is to be said of a VM that is not simply somewhere.
#[derive(Clone, Debug)]
pub(crate) enum Standing<'a> {
    /// A job moves it away from the place that counts.
    Moving {
        /// Where to, when its record says so.
        to: Option<&'a Name>,
        /// The job.
        job: &'a JobObs,
    },
    /// Something is under way that ends by itself; nothing is done before.
    Waits(String),
    /// It may be where nobody can look: nobody touches it.
    Stranded {
        /// What is known.
        text: String,
        /// What resolves it.
        unblock: String,
    },
    /// It was seen in several places, and which counts is for a person to say.
    Doubled(Vec<&'a Name>),
    /// The link was cut while its memory was fetched: part of it is on each host.
    Split {
        /// Where it came from.
        from: Option<&'a Name>,
        /// Where it ran.
        to: &'a Name,
    },
    /// Handed over to a host that has the same storage and is lost: what ran there may have written to the disks, so the
    /// memory that stands still here is older than they are.
    Stale {
        /// The host that is lost.
        to: &'a Name,
    },
}

/// A host and what it shows of a VM.
type Place<'a> = (&'a Name, &'a VmObs);

/// Whether a VM is on its way here: it never ran here.
pub(crate) fn arrives(obs: &VmObs) -> bool {
    let incoming = obs.job.as_ref().is_some_and(|j| j.kind == JobKind::MigrationIn);
    let waiting = obs.transient && matches!(obs.pause, Some(PauseCause::Migration) | None);
    obs.power == Power::Paused && (incoming || waiting)
}

/// Whether a VM stands still because it was given to another host.
fn is_handed_over(obs: &VmObs) -> bool {
    let cause = matches!(obs.pause, Some(PauseCause::Migration | PauseCause::PostCopy | PauseCause::PostCopyFailed));
    obs.power == Power::Paused && cause && !arrives(obs)
}

/// Whether its guest runs here, or is stopped by somebody's hand.
fn runs(obs: &VmObs) -> bool {
    obs.power.is_active() && !arrives(obs) && !is_handed_over(obs)
}

/// The job that moves it away.
fn leaves(obs: &VmObs) -> Option<&JobObs> {
    obs.job.as_ref().filter(|j| j.kind == JobKind::MigrationOut)
}

/// Source and target of a move that is under way.
pub(crate) fn flight(record: Option<&PlacementRecord>) -> Option<(&Name, &Name)> {
    record.and_then(|r| r.from.as_ref().map(|from| (from, &r.host)))
}

impl<'a> World<'a> {
    /// Puts the place that counts first, for every VM that is not simply in one place.
    pub(super) fn resolve(&mut self) {
        let mut found = Vec::new();
        for (name, places) in &self.vms {
            let record = self.records.get(*name);
            let quiet = |obs: &VmObs| {
                !obs.transient && obs.pause.is_none_or(|p| p == PauseCause::User) && leaves(obs).is_none()
            };
            if let [(host, obs)] = places.as_slice()
                && quiet(obs)
                && record.is_none_or(|r| r.from.is_none() && (r.host == **host || runs(obs)))
            {
                continue;
            }
            found.push((*name, self.judge(name, places, record)));
        }
        for (name, (first, standing)) in found {
            if let Some(places) = self.vms.get_mut(name) {
                let place = places.remove(first);
                places.insert(0, place);
                if places.len() > 1 {
                    self.unsettled.insert(name);
                }
            }
            if let Some(standing) = standing {
                self.standings.insert(name, standing);
            }
        }
        let in_flight = self.records.iter().filter(|(_, r)| r.from.is_some()).map(|(name, _)| name);
        self.unsettled.extend(in_flight);
        // A record of an earlier move is taken away where the VM is not, and nothing of it goes on.
        let stray = |name: &Name, hosts: &std::collections::BTreeSet<Name>| {
            let from = flight(self.records.get(name)).map(|(from, _)| from);
            let other = |host: &&Name| {
                self.place(name).is_some_and(|(at, _)| !self.same_files(at, host)) && from != Some(*host)
            };
            hosts.iter().any(|host| other(&host) && self.view(host).known().is_some())
        };
        let strays: Vec<&'a Name> =
            self.strays.iter().filter(|(name, hosts)| stray(name, hosts)).map(|(name, _)| name).collect();
        self.unsettled.extend(strays);
        let incoming =
            |(_, d): &(&Name, super::world::Disk<'_>)| matches!(d.obs.stamp.phase, DiskPhase::Incoming { .. });
        self.unsettled.extend(self.disks.iter().filter(|(_, all)| all.iter().any(incoming)).map(|(name, _)| *name));
    }

    /// The number of the place that counts, and what is to be said of it.
    fn judge(
        &self,
        vm: &Name,
        places: &[Place<'a>],
        record: Option<&'a PlacementRecord>,
    ) -> (usize, Option<Standing<'a>>) {
        let find = |what: fn(&VmObs) -> bool| places.iter().position(|(_, obs)| what(obs));
        let at = |host: &Name| places.iter().position(|(h, _)| *h == host);
        let running: Vec<usize> = (0..places.len()).filter(|n| runs(places[*n].1)).collect();
        if let [first, _, ..] = running.as_slice() {
            return (*first, Some(Standing::Doubled(running.iter().map(|n| places[*n].0).collect())));
        }
        let flight = flight(record);
        let target_of = |from: usize| {
            let recorded = flight.filter(|(source, _)| *source == places[from].0).map(|(_, to)| to);
            let arriving = || find(arrives).map(|n| places[n].0);
            recorded.or_else(arriving)
        };
        let split = places.iter().position(|(_, o)| o.pause == Some(PauseCause::PostCopyFailed));
        if let Some(any) = split.filter(|_| running.is_empty()) {
            let to = flight.and_then(|(_, to)| at(to)).unwrap_or(any);
            let from = places.iter().map(|(h, _)| *h).find(|h| *h != places[to].0);
            return (to, Some(Standing::Split { from, to: places[to].0 }));
        }
        if let [only] = running.as_slice() {
            if let Some(job) = leaves(places[*only].1) {
                return (*only, Some(Standing::Moving { to: target_of(*only), job }));
            }
            let behind = places.iter().find(|(_, o)| is_handed_over(o) && leaves(o).is_some());
            let waits = behind.map(|(host, _)| {
                let text =
                    format!("it runs on {} already, and the last of its memory comes from {host}", places[*only].0);
                Standing::Waits(text)
            });
            return (*only, waits);
        }
        if let Some(source) = find(is_handed_over) {
            let dark = |from: &Name| matches!(self.view(from), HostView::Unknown);
            let live = flight.filter(|(from, _)| !dark(from) && record.is_some_and(|r| !r.cold));
            let over = live.and_then(|(_, to)| at(to)).filter(|n| !places[*n].1.transient && !arrives(places[*n].1));
            if let Some(target) = over {
                return (target, None);
            }
            return (source, self.handed_over(places, source, target_of(source)));
        }
        if let Some(target) = find(arrives) {
            return self.only_arriving(places, target, flight);
        }
        self.shut_off(vm, places, record)
    }

    /// It stands still at the source: who has it?
    fn handed_over(&self, places: &[Place<'a>], source: usize, to: Option<&'a Name>) -> Option<Standing<'a>> {
        let (from, obs) = places[source];
        if let Some(job) = leaves(obs) {
            return Some(Standing::Moving { to, job });
        }
        let dark = to.filter(|to| matches!(self.view(to), HostView::Unknown));
        let dark = dark.or_else(|| if to.is_none() { self.dark.first().copied() } else { None });
        if let Some(dark) = dark {
            return Some(stranded(
                format!("stranded at the hand-over: paused on {from}, given to {dark}, which {}", self.fault(dark)),
                dark,
            ));
        }
        if let Some(lost) = to.filter(|to| matches!(self.view(to), HostView::Lost) && self.same_storage(from, to)) {
            return Some(Standing::Stale { to: lost });
        }
        let arriving = places.iter().find(|(_, o)| arrives(o))?;
        let text = format!("{} still has what arrived of it: that goes by itself within a minute", arriving.0);
        Some(Standing::Waits(text))
    }

    /// Only the target shows something that is active, and it never ran there.
    fn only_arriving(
        &self,
        places: &[Place<'a>],
        target: usize,
        flight: Option<(&'a Name, &'a Name)>,
    ) -> (usize, Option<Standing<'a>>) {
        let to = places[target].0;
        let source = flight.map(|(from, _)| from).filter(|from| *from != to);
        let waits =
            || Standing::Waits(format!("{to} has a part of it that arrives: that ends by itself within a minute"));
        match source {
            Some(from) if matches!(self.view(from), HostView::Unknown) => {
                let text = format!("it was on its way to {to} from {from}, which {}", self.fault(from));
                (target, Some(stranded(text, from)))
            }
            Some(from) => (places.iter().position(|(h, _)| *h == from).unwrap_or(target), Some(waits())),
            None => (target, Some(waits())),
        }
    }

    /// It runs nowhere: its record and its disks say where it is.
    fn shut_off(
        &self,
        vm: &Name,
        places: &[Place<'a>],
        record: Option<&'a PlacementRecord>,
    ) -> (usize, Option<Standing<'a>>) {
        let at = |host: &Name| places.iter().position(|(h, _)| *h == host);
        let dark = |host: &Name| matches!(self.view(host), HostView::Unknown);
        if let Some((from, to)) = flight(record) {
            let moves = record.map_or(0, |r| r.moves);
            let there = |text: &str, host: &'a Name, or: &Name| {
                let text = format!("{text} {host}, which {}", self.fault(host));
                (at(or).unwrap_or(0), Some(stranded(text, host)))
            };
            let left = self.left(vm, from, moves);
            let cold = record.is_some_and(|r| r.cold);
            match (at(from), at(to)) {
                (_, Some(target)) if left || self.took_over(vm, from, places[target]) => return (target, None),
                (_, None) if left && dark(to) => return there("it was moved to", to, from),
                // It is started there when it was given away, not before.
                (Some(source), _) if !left && cold => return (source, None),
                (Some(_), _) if !left && dark(to) => return there("it was on its way to", to, from),
                (Some(source), Some(_))
                    if !self.same_files(from, to) && self.may_have_run(vm, to) && !self.left(vm, to, moves) =>
                {
                    let text = format!(
                        "shut off on {from} and on {to}, and its move from one to the other was cut at the hand-over: \
                         nobody can say which has the newer disks"
                    );
                    let unblock = format!(
                        "start it with `virsh start` on the host that ran it last, {to} if in doubt: what the other \
                         has is put aside then"
                    );
                    return (source, Some(Standing::Stranded { text, unblock }));
                }
                (Some(source), _) => return (source, None),
                (None, Some(_)) if dark(from) => return there("it was on its way from", from, to),
                (None, Some(target)) => return (target, None),
                (None, None) => {}
            }
        }
        if let Some(record) = record {
            if let Some(place) = at(&record.host) {
                return (place, None);
            }
            if dark(&record.host) {
                let text = format!(
                    "what is left of it is on {}, and its place is {}, which {}",
                    places[0].0,
                    record.host,
                    self.fault(&record.host)
                );
                return (0, Some(stranded(text, &record.host)));
            }
        }
        if places.len() > 1 {
            return (0, Some(Standing::Doubled(places.iter().map(|(h, _)| *h).collect())));
        }
        (0, None)
    }

    /// Whether copies that a domain has at the target of its move became the disks: they do when it is handed over.
    fn took_over(&self, vm: &Name, from: &Name, (to, obs): Place<'_>) -> bool {
        let has = |path: &str| obs.config.disks.values().any(|shape| shape.path == path);
        let disk = |d: &super::world::Disk<'_>| d.obs.stamp.disk != "seed" && d.obs.stamp.phase.is_valid();
        !self.same_files(from, to) && self.disks_at(vm, to).any(|d| disk(&d) && has(d.path))
    }

    /// Whether a VM's guest may have run on a host whose copies of its disks were never made its disks.
    pub(crate) fn may_have_run(&self, vm: &Name, host: &Name) -> bool {
        let shown = self.vms.get(vm).into_iter().flatten().find(|(h, _)| *h == host).map(|(_, obs)| *obs);
        let defined = shown.is_some_and(|obs| !obs.transient && !arrives(obs));
        defined && self.records.get(vm).is_none_or(|r| !r.cold)
    }

    /// Whether a host gave a VM's disks away in its last move: then the target's copies are the disks.
    pub(crate) fn left(&self, vm: &Name, from: &Name, moves: u32) -> bool {
        let mark = format!(".moved{moves}.");
        self.disks_at(vm, from).any(|d| matches!(d.obs.stamp.phase, DiskPhase::Moved { .. }) && d.path.contains(&mark))
    }
}

/// It may be where nobody can look.
fn stranded<'a>(text: String, host: &Name) -> Standing<'a> {
    let unblock = format!("bring host/{host} back; if it is gone for good, fence it and write a HostLost document");
    Standing::Stranded { text: format!("{text}: it may run there"), unblock }
}
