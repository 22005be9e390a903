//! Promises: at the beginning of every reservation there is room for it. Each is played against what is there then; what
//! cannot be held is said by the plan of the commit that asks for it, and what was promised is not given to others.
//!
//! Room is taken at beginnings only: where it suffices then, it does in between. What exists, and what a record says was
//! there, comes before a promise; what is new comes after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::absent::{Seat, listed};
use super::super::draft::{Draft, action, reason};
use super::super::place::{Need, Placer};
use super::super::types::{ActionId, Block, BlockedBy, Cause, Class, Downtime, Verb};
use super::tell::when;
use super::{SetId, held};
use crate::model::{Address, Desired, Group, Name, Observed, Origin, RunState, Timestamp, Vm};

/// New VMs for which promises are played anew, to be held elsewhere: each costs a play.
const REPLAYS: usize = 32;
/// What a store is filled with when nobody knows: 50 MB/s, half a gigabit line.
const BYTES_A_SECOND: u64 = 50_000_000;
/// An image whose length nobody knows: a server's cloud image takes 0.5 to 2 GiB.
const UNKNOWN_IMAGE: u64 = 2 << 30;
/// Time for what has no estimate: two rounds of a watch that looks every 30 s.
const SPARE: u64 = 60;
/// Longest time that a set is made ready ahead.
const LONGEST: u64 = 12 * 3_600;

/// A set that gets its room at a time.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) set: SetId,
    /// When its VMs are made.
    pub(crate) prepare: Timestamp,
    /// When they are wanted.
    pub(crate) from: Timestamp,
    /// Until when.
    pub(crate) until: Option<Timestamp>,
    pub(crate) vms: Arc<[Vm]>,
    pub(crate) groups: Arc<BTreeMap<Arc<str>, Group>>,
    pub(crate) origin: Option<Origin>,
}

/// A VM's place at a time.
struct Place<'a> {
    vm: Name,
    host: &'a Name,
    group: Arc<str>,
    need: Need,
}

/// What a host has promised, and for whom.
type Promised = (Need, Option<Arc<str>>);

/// What a play found.
#[derive(Debug)]
pub(crate) struct Played<'a> {
    /// Of each promise its hosts, or why there are none.
    held: Vec<Result<BTreeSet<&'a Name>, String>>,
    /// What hosts have promised at each beginning beyond what they have now, hosts in order, with for whom.
    more: Vec<(Timestamp, Vec<Promised>)>,
}

impl super::Set<'_> {
    /// Seconds that its VMs take until they are ready: images, copies, boots in their order.
    pub(super) fn lead(&self, desired: &Desired, observed: &Observed) -> u64 {
        if self.term.from.is_none() {
            return 0;
        }
        let mut boots = BTreeMap::new();
        let mut bytes = 0;
        let mut images = BTreeSet::new();
        for vm in &self.vms {
            let Some(image) = desired.image_of(vm) else { continue };
            let digest = image.disk.digest.as_str();
            let past = observed.store.boot_millis.get(digest).and_then(|past| past.iter().max().copied());
            let boot = past.unwrap_or_else(|| vm.spec.ready.as_ref().map_or(60_000, |probe| probe.within.0));
            let longest: &mut u64 = boots.entry(&vm.group).or_default();
            *longest = boot.max(*longest);
            let stored = super::super::generations::hosts(observed).filter_map(|h| h.images.get(&image.disk.digest));
            let size = image.disk.unpacked.or(image.disk.size).map(|b| b.0);
            let size = size.or_else(|| stored.map(|i| i.used.0).max()).unwrap_or(UNKNOWN_IMAGE);
            // Every host may have to fetch it; what is no overlay is copied for each VM.
            bytes += if images.insert(digest) { size } else { 0 };
            bytes += if image.clone == crate::model::CloneMethod::Overlay { 0 } else { size };
        }
        let depth = |group: &Arc<str>| {
            let (mut time, mut here, mut visited) = (0, vec![group.clone()], BTreeSet::new());
            while let Some(key) = here.pop() {
                if visited.insert(key.clone()) {
                    time += boots.get(&key).copied().unwrap_or(0);
                    here.extend(
                        desired.groups.get(&key).into_iter().flat_map(|g| &g.depends_on).map(|(key, _)| key.clone()),
                    );
                }
            }
            time
        };
        let chain = boots.keys().map(|group| depth(group)).max().unwrap_or(0);
        let at_once = usize::try_from(desired.fleet.limits.starts_per_host).unwrap_or(1) * desired.hosts.len();
        let rounds = u64::try_from(self.vms.len().div_ceil(at_once.max(1))).unwrap_or(1);
        (chain * rounds.max(1) / 1_000 + bytes / BYTES_A_SECOND + SPARE).min(LONGEST)
    }
}

impl<'a> Draft<'a> {
    /// Plays all promises, says which cannot be held, and keeps the room of the others.
    pub(crate) fn reserve(&mut self) {
        if self.leases.promises.is_empty() {
            return;
        }
        let mut played = self.play();
        self.growth_that_was_promised(&mut played);
        let mut said: BTreeSet<SetId> = BTreeSet::new();
        let mut actions = Vec::new();
        for (promise, result) in self.leases.promises.iter().zip(&played.held) {
            if !said.insert(promise.set.clone()) {
                continue;
            }
            let mine = self.leases.promises.iter().zip(&played.held).filter(|(p, _)| p.set == promise.set);
            let short: Vec<_> = mine.filter_map(|(p, held)| Some((p, held.as_ref().err()?))).collect();
            let row = self.leases.terms.iter_mut().find(|row| row.set == promise.set.to_string());
            if let Some(row) = row {
                row.hosts = result.iter().flatten().map(|host| (*host).clone()).collect();
                row.short = short.first().map(|(_, why)| (*why).clone());
            }
            if let Some((first, why)) = short.first() {
                actions.push(unheld(first, why, short.len()));
            }
        }
        for act in actions {
            self.push(act, []);
        }
        self.played = Some(played);
    }

    /// VMs that are there now and go at a time, each with what it gives back then.
    fn leavers(&self) -> Vec<(Timestamp, Place<'a>)> {
        let moves = |a: &&super::super::types::Action| matches!(a.verb, Verb::Migrate | Verb::Move) && !a.is_blocked();
        let moved: BTreeMap<&Name, &Name> =
            self.actions.iter().filter(moves).filter_map(|a| Some((a.subject.name(), a.to.as_ref()?))).collect();
        let hosts = &self.input.desired.hosts;
        let mut leavers = Vec::new();
        for (name, end) in &self.leases.ends {
            let Some(vm) = self.wanted.get(name).copied() else { continue };
            let there = self.world.place(name).map(|(at, _)| moved.get(name).copied().unwrap_or(at));
            let seat = self.seats.iter().find(|s| s.vm.name == *name).and_then(|s| s.at.as_ref().ok().copied());
            let Some((host, _)) = there.or(seat).and_then(|host| hosts.get_key_value(host)) else { continue };
            let need = Need::of(vm, self.effective_run(vm).0);
            // One that is only stopped then keeps its slot.
            let stays = self.world.place(name).and_then(|(_, obs)| held(vm, obs)).is_some() || vm.spec.persistent_root;
            let need = if stays { Need { slots: 0, ..need } } else { need };
            leavers.push((*end, Place { vm: name.clone(), host, group: vm.group.clone(), need }));
        }
        leavers
    }

    /// Plays the beginning of every promise.
    fn play(&self) -> Played<'a> {
        let leavers = self.leavers();
        let base: Vec<Need> = self.placer.rooms.iter().map(|room| room.used).collect();
        let mut out = Played { held: Vec::new(), more: Vec::new() };
        let mut kept: Vec<(&Promise, Vec<Place<'a>>)> = Vec::new();
        let mut at: Option<(Timestamp, Placer<'a>)> = None;
        let mut note = |at: &Option<(Timestamp, Placer<'a>)>, kept: &[(&Promise, Vec<Place<'a>>)]| {
            let Some((time, placer)) = at else { return };
            let more = placer.rooms.iter().zip(&base).map(|(room, base)| {
                let more = Need {
                    cpus: room.used.cpus.saturating_sub(base.cpus),
                    memory: room.used.memory.saturating_sub(base.memory),
                    slots: room.used.slots.saturating_sub(base.slots),
                };
                let here = |(p, places): &&(&Promise, Vec<Place<'_>>)| {
                    p.until.is_none_or(|end| end > *time) && places.iter().any(|place| *place.host == room.host.name)
                };
                let whom = kept.iter().find(here).map(|(p, _)| format!("{} from {} on", p.set, when(p.from)).into());
                (more, whom)
            });
            out.more.push((*time, more.collect()));
        };
        let mut held_all = Vec::new();
        for promise in &self.leases.promises {
            if at.as_ref().is_none_or(|(time, _)| *time != promise.prepare) {
                note(&at, &kept);
                let mut placer = self.placer.clone();
                placer.trace = None;
                placer.hold(&[]);
                for (_, place) in leavers.iter().filter(|(end, _)| *end <= promise.prepare) {
                    placer.release(place.host, &place.group, place.need);
                    placer.take_back(&place.vm);
                }
                let open = |p: &&Promise| p.until.is_none_or(|end| end > promise.prepare);
                for place in kept.iter().filter(|(p, _)| open(p)).flat_map(|(_, places)| places) {
                    placer.occupy(place.host, &place.group, place.need);
                }
                at = Some((promise.prepare, placer));
            }
            let Some((_, placer)) = &mut at else { continue };
            let goes_on =
                kept.iter().any(|(p, _)| p.set == promise.set && p.until.is_none_or(|end| end > promise.prepare));
            match self.seat_all(placer, promise, goes_on) {
                Ok(places) => {
                    held_all.push(Ok(places.iter().map(|place| place.host).collect()));
                    kept.push((promise, places));
                }
                Err(why) => {
                    let with = kept.iter().filter(|(p, _)| p.until.is_none_or(|end| end > promise.prepare));
                    let with: BTreeSet<String> = with.map(|(p, _)| p.set.to_string()).collect();
                    let with: Vec<String> = with.into_iter().take(3).collect();
                    let with =
                        if with.is_empty() { String::new() } else { format!("; promised then: {}", with.join(", ")) };
                    held_all.push(Err(format!("{why}{with}")));
                }
            }
        }
        note(&at, &kept);
        out.held = held_all;
        out
    }

    /// Gives every VM of a promise its host, or none of them.
    fn seat_all(&self, placer: &mut Placer<'a>, promise: &Promise, goes_on: bool) -> Result<Vec<Place<'a>>, String> {
        let mut places: Vec<Place<'a>> = Vec::new();
        if goes_on {
            return Ok(places);
        }
        for vm in promise.vms.iter() {
            let found = self.world.place(&vm.name);
            let stays = self.leases.ends.get(&vm.name).is_some_and(|end| *end > promise.prepare);
            if found.is_some() && stays {
                continue;
            }
            let need = Need::of(vm, if vm.run == RunState::Suspended { RunState::Stopped } else { vm.run });
            let kept = found.filter(|(_, obs)| held(vm, obs).is_some());
            let seat = match kept.and_then(|(host, _)| self.input.desired.hosts.get_key_value(host)) {
                // It is there, stopped: what it needs to run it needs at that host.
                Some((host, _)) => {
                    let more = Need { slots: 0, ..need };
                    placer.grow(host, more).map(|()| (host, more)).map_err(|why| format!("{host}: {why}"))
                }
                None => {
                    let data = self.world.disks.get(&vm.name).into_iter().flatten();
                    let only = data
                        .filter(|(_, d)| vm.spec.disks.contains_key(d.obs.stamp.disk.as_str()))
                        .map(|(h, _)| *h)
                        .next();
                    let group = promise.groups.get(&vm.group).cloned().unwrap_or_default();
                    placer.choose(vm, &group, only, need).map(|host| (host, need)).map_err(|rejected| listed(&rejected))
                }
            };
            match seat {
                Ok((host, need)) => places.push(Place { vm: vm.name.clone(), host, group: vm.group.clone(), need }),
                Err(why) => {
                    for place in places {
                        placer.release(place.host, &place.group, place.need);
                        placer.take_back(&place.vm);
                    }
                    return Err(format!("vm/{} has no place then ({why})", vm.name));
                }
            }
        }
        Ok(places)
    }

    /// VMs that grow by this commit into room that was promised do not.
    fn growth_that_was_promised(&mut self, played: &mut Played<'a>) {
        let short = |played: &Played<'_>| played.held.iter().filter(|held| held.is_err()).count();
        for (number, host, more) in self.grown.clone().into_iter().rev() {
            if short(played) == 0 {
                return;
            }
            self.placer.shrink(host, more);
            let without = self.play();
            if short(&without) < short(played) {
                let kept = self.leases.promises.iter().zip(&played.held).zip(&without.held);
                let kept =
                    kept.filter(|((_, with), without)| with.is_err() && without.is_ok()).map(|((p, _), _)| p).next();
                let whom = kept.map(|p| format!("{} from {} on", p.set, when(p.from))).unwrap_or_default();
                self.short.insert(number, more);
                self.actions[number].blocked.push(Block {
                    by: BlockedBy::MissingCapacity,
                    text: format!("host/{host}: what it would grow by is promised to {whom}"),
                    unblock: "ask for less, add a host, or change the reservation".to_owned(),
                });
                *played = without;
            } else if self.placer.grow(host, more).is_err() {
                return;
            }
        }
    }

    /// Keeps what was promised from a VM that goes at a time, or never.
    pub(crate) fn hold_promises(&mut self, vm: &Name) {
        let Some(played) = &self.played else { return };
        let end = self.leases.ends.get(vm).copied();
        let mut most: Vec<(Need, Option<Arc<str>>)> = vec![(Need::default(), None); self.placer.rooms.len()];
        for (_, hosts) in played.more.iter().filter(|(at, _)| end.is_none_or(|end| *at < end)) {
            for (most, (more, whom)) in most.iter_mut().zip(hosts) {
                most.0.cpus = most.0.cpus.max(more.cpus);
                most.0.memory = most.0.memory.max(more.memory);
                most.0.slots = most.0.slots.max(more.slots);
                if most.1.is_none() && *more != Need::default() {
                    most.1.clone_from(whom);
                }
            }
        }
        self.placer.hold(&most);
    }

    /// A VM for which there is room only where something is promised: when the promises can be held elsewhere, it gets it.
    pub(crate) fn beside_promises(&mut self, seat: &mut Seat<'a>) {
        if self.played.is_none() || self.replays >= REPLAYS {
            return;
        }
        self.replays += 1;
        let saved = self.placer.clone();
        self.placer.hold(&[]);
        let Ok(host) = self.placer.choose(seat.vm, seat.group, seat.only, seat.need) else {
            self.placer = saved;
            return;
        };
        let again = self.play();
        let before = self.played.as_ref().map_or(&[][..], |played| &played.held);
        if before.iter().zip(&again.held).all(|(before, again)| before.is_err() || again.is_ok()) {
            self.played = Some(again);
            seat.at = Ok(host);
        } else {
            self.placer = saved;
        }
    }

    /// Whose room a VM wanted that has none, for people.
    pub(crate) fn promised_room(&self, rejected: &[(&Name, String)]) -> bool {
        self.played.is_some() && rejected.iter().any(|(_, why)| why.contains(" promised to "))
    }
}

/// A reservation that cannot be held.
fn unheld(promise: &Promise, why: &str, times: usize) -> super::super::types::Action {
    let more = if times > 1 { format!(", and {} more times", times - 1) } else { String::new() };
    let text = format!("reserved from {} on{more}", when(promise.from));
    let name = promise.set.instance.as_ref().unwrap_or(promise.set.address.name());
    let why_so = reason("reserve", text, promise.origin.clone());
    let mut act = action(name, Verb::Reserve, Cause::Change, why_so, Class::None, Downtime::None);
    act.subject = subject(&promise.set);
    act.id = ActionId::new(&act.subject, Verb::Reserve, promise.set.instance.as_ref());
    act.blocked.push(Block {
        by: BlockedBy::MissingCapacity,
        text: format!("its room cannot be promised: {why}"),
        unblock: "add a host or slots, ask for less, or for another time".to_owned(),
    });
    act
}

fn subject(set: &SetId) -> Address {
    set.address.clone()
}
