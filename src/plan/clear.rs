//! Room for a VM that fits nowhere: others make it, as few as possible. First those that are to be made in this plan
//! too and can be made elsewhere, then those that exist and can go elsewhere without a stop.

use super::absent::Seat;
use super::draft::{Draft, Footprint, need_now, reason};
use super::moves::Traveller;
use super::place::Need;
use super::types::{Cause, MoveMode};
use super::way::Way;
use super::wishes::Wish;
use crate::model::{Host, Name, Others, Power, Relocatable, Tries, Vm};

/// Hosts that are tried for one VM.
const HOSTS: usize = 8;
/// VMs that are thought of on a host.
const VMS: usize = 64;
/// VMs of which each alone would do that are tried.
const ALONE: usize = 16;
/// Most that make room for one VM.
const MOST: usize = 6;

/// A VM that could make room.
enum Guest<'a> {
    /// It is to be made: the number of its seat.
    New(usize),
    /// It exists.
    There(Box<Traveller<'a>>),
}

/// A guest with what it takes, and its name.
type Sized<'a> = (Need, Name, Guest<'a>);

impl<'a> Draft<'a> {
    /// Lets others make room for a VM, and gives it its host.
    pub(crate) fn clear_room(&mut self, seat: &mut Seat<'a>) {
        // Alike VMs fit alike: one that found nothing speaks for those after it.
        let key = (std::sync::Arc::as_ptr(&seat.vm.spec).addr(), seat.need.slots);
        if self.cramped.contains(&key) {
            return;
        }
        let fits = |draft: &Self, host: &Name| {
            seat.only.is_none_or(|only| draft.world.same_files(only, host))
                && draft.placer.would_fit(host, seat.vm, seat.group)
        };
        let hosts: Vec<&'a Name> = self.input.desired.hosts.keys().filter(|h| fits(self, h)).take(HOSTS).collect();
        for existing in [false, true] {
            for host in &hosts {
                if self.clear_host(seat, host, existing) {
                    return;
                }
            }
        }
        self.cramped.insert(key);
    }

    /// Makes room on one host: one guest alone, else several, the largest first.
    fn clear_host(&mut self, seat: &mut Seat<'a>, host: &'a Name, existing: bool) -> bool {
        let (need, free) = (seat.need, self.placer.free(host));
        let lacks = |gain: Need| {
            need.cpus > free.cpus + gain.cpus
                || need.memory > free.memory + gain.memory
                || need.slots > free.slots + gain.slots
        };
        let mut guests: Vec<Sized<'a>> = self.seated(host);
        if existing {
            guests.extend(self.guests(host, seat.vm));
        }
        guests.sort_by(|a, b| {
            let key = |(need, name, guest): &Sized<'a>| (matches!(guest, Guest::There(_)), need.memory, name.clone());
            key(a).cmp(&key(b))
        });
        guests.truncate(VMS);
        for alone in guests.iter().filter(|(gain, ..)| !lacks(*gain)).take(ALONE) {
            if self.leave(seat, host, &[alone]) {
                return true;
            }
        }
        let mut largest: Vec<&Sized<'a>> = guests.iter().collect();
        largest.sort_by(|a, b| (b.0.memory, &a.1).cmp(&(a.0.memory, &b.1)));
        let mut gain = Need::default();
        for (count, guest) in largest.iter().take(MOST).enumerate() {
            gain.cpus += guest.0.cpus;
            gain.memory += guest.0.memory;
            gain.slots += guest.0.slots;
            if !lacks(gain) {
                return count > 0 && self.leave(seat, host, &largest[..=count]);
            }
        }
        false
    }

    /// VMs that are to be made on a host and could be made elsewhere.
    fn seated(&self, host: &Name) -> Vec<Sized<'a>> {
        let here = |s: &Seat<'_>| s.only.is_none() && s.at.as_ref().is_ok_and(|at| *at == host);
        let seats = self.seats.iter().enumerate().filter(|(_, s)| here(s));
        seats.map(|(n, s)| (s.need, s.vm.name.clone(), Guest::New(n))).collect()
    }

    /// VMs on a host that nothing else is done to, and that can move without a stop.
    fn guests(&self, host: &'a Name, for_vm: &Vm) -> Vec<Sized<'a>> {
        let Some(known) = self.world.view(host).known() else { return Vec::new() };
        let text = format!("make room for vm/{}", for_vm.name);
        let mut guests = Vec::new();
        for name in known.vms.keys() {
            let Some((name, vm)) = self.wanted.get_key_value(name) else { continue };
            let busy = self.touched.contains(name) || self.world.unsettled.contains(name);
            let tried = self.input.observed.store.tries.get(*name).is_some_and(|t| t.count >= Tries::MOST);
            if busy || tried || vm.spec.relocatable == Relocatable::Never || self.pause(name, &vm.group).is_some() {
                continue;
            }
            let Some((from, obs, None)) = self.movable(name) else { continue };
            if from.name != *host || matches!(obs.power, Power::ShuttingDown | Power::Paused) {
                continue;
            }
            let (reason, others) = (reason("make_room", text.clone(), None), Others::Leave);
            let wish =
                Wish { vm, from, obs, cause: Cause::Change, reason, others, only: None, rule: false, begun: None };
            let need = need_now(obs);
            let cargo = self.cargo(obs, from);
            let running = obs.power.is_active();
            let t = Traveller { wish, other: None, counted: need, need, cargo, running, anew: false };
            guests.push((need, (*name).clone(), Guest::There(Box::new(t))));
        }
        guests
    }

    /// A set of guests leaves a host for a VM: all of them or none.
    fn leave(&mut self, seat: &mut Seat<'a>, host: &'a Name, set: &[&Sized<'a>]) -> bool {
        for (need, _, guest) in set {
            let group = self.group_of(guest);
            self.placer.release(host, &group, *need);
        }
        // Its room is its own before the others look for theirs.
        self.placer.occupy(host, &seat.vm.group, seat.need);
        let mut gone: Vec<(&Sized<'a>, &'a Host, Option<Way>)> = Vec::new();
        for guest in set {
            match self.elsewhere(host, guest) {
                Some((to, way)) => gone.push((guest, to, way)),
                None => {
                    for (guest, to, _) in gone {
                        let group = self.group_of(&guest.2);
                        self.placer.release(&to.name, &group, guest.0);
                    }
                    self.placer.release(host, &seat.vm.group, seat.need);
                    for (need, _, guest) in set {
                        let group = self.group_of(guest);
                        self.placer.occupy(host, &group, *need);
                    }
                    return false;
                }
            }
        }
        for ((_, _, guest), to, way) in gone {
            match (guest, way) {
                (Guest::New(number), _) => self.seats[*number].at = Ok(&to.name),
                (Guest::There(t), Some(way)) => {
                    let act = self.journey(t, to, &way);
                    let prints = [
                        Footprint { host, before: need_now(t.wish.obs), after: Need::default() },
                        Footprint { host: &to.name, before: self.arrived(&t.wish.vm.name, &to.name), after: t.need },
                    ];
                    self.touched_by_name(&t.wish.vm.name);
                    seat.cleared.push(self.actions.len());
                    self.push(act, prints);
                }
                (Guest::There(_), None) => {}
            }
        }
        seat.at = Ok(host);
        true
    }

    /// Another host for a guest, counted there.
    fn elsewhere(&mut self, host: &Name, (need, _, guest): &Sized<'a>) -> Option<(&'a Host, Option<Way>)> {
        match guest {
            Guest::New(number) => {
                let seat = &self.seats[*number];
                let (vm, group) = (seat.vm, seat.group);
                let (fit, _) = self.placer.candidates(vm, group, None, *need);
                let to = fit.into_iter().find(|to| to.name != *host)?;
                self.placer.occupy(&to.name, &vm.group, *need);
                Some((to, None))
            }
            Guest::There(t) => match self.place_for(t) {
                Ok((to, way)) if way.mode != MoveMode::StopCopyStart => Some((to, Some(way))),
                Ok((to, _)) => {
                    self.placer.release(&to.name, &t.wish.vm.group, t.need);
                    None
                }
                Err(_) => None,
            },
        }
    }

    fn group_of(&self, guest: &Guest<'a>) -> std::sync::Arc<str> {
        match guest {
            Guest::New(number) => self.seats[*number].vm.group.clone(),
            Guest::There(t) => t.wish.vm.group.clone(),
        }
    }
}
