//! Where each VM is, and with which interfaces: before the plan's actions, on the way, and after them. Learnt from the
//! steps themselves, so that it is what will happen, and not what was meant.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::Draft;
use super::places::flight;
use super::rules::NicAt;
use super::steps::{Edit, Op};
use super::world::HostView;
use crate::model::{Mac, Name, NicStamp, Shape, Vm, tap_name};

/// Interfaces of one VM, by name.
pub(super) type Nics = BTreeMap<Name, NicAt>;

/// One VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Stay {
    /// Hosts that have it now.
    pub(super) now: BTreeSet<Name>,
    /// Hosts that have it at some moment of the plan.
    pub(super) ever: BTreeSet<Name>,
    /// Hosts that have it in the end.
    pub(super) then: BTreeSet<Name>,
    /// Its interfaces now.
    pub(super) nics_now: Nics,
    /// Its interfaces in the end.
    pub(super) nics_then: Nics,
    /// Whether its guest is alive now.
    pub(super) alive: bool,
    /// Open actions that change any of this, by number.
    pub(super) actions: BTreeSet<usize>,
    /// Open actions by which it begins to run, or comes, and where.
    pub(super) begins: BTreeSet<(usize, Name)>,
}

impl Stay {
    /// Whether the plan changes it.
    pub(super) fn changes(&self) -> bool {
        self.now != self.ever || self.now != self.then || self.nics_now != self.nics_then
    }
}

/// A VM while the plan's steps are followed.
#[derive(Default)]
struct Track {
    stay: Stay,
    /// The hosts of a move that is under way.
    flying: Option<(Name, Name)>,
    stamp: BTreeMap<Name, NicStamp>,
    /// Whether its stamp says that it is in quarantine.
    shut: bool,
    /// The bridge behind each interface of its definition, and of its live guest.
    config: BTreeMap<Mac, String>,
    live: Option<BTreeMap<Mac, String>>,
}

impl Track {
    fn places(&self) -> BTreeSet<Name> {
        let flying = self.flying.iter().flat_map(|(from, to)| [from.clone(), to.clone()]);
        self.stay.then.iter().cloned().chain(flying).collect()
    }
}

fn bridges(shape: &Shape) -> BTreeMap<Mac, String> {
    shape.nics.iter().map(|(mac, nic)| (*mac, nic.bridge.clone())).collect()
}

impl Draft<'_> {
    /// Numbers of the actions, each after all that it waits for.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let numbers: BTreeMap<_, usize> = self.actions.iter().enumerate().map(|(n, a)| (&a.id, n)).collect();
        let mut done = vec![false; self.actions.len()];
        let mut order = Vec::with_capacity(self.actions.len());
        // `config` refuses cycles, and so does `check`: whoever is met again while it is open is left for later.
        let mut open: Vec<(usize, bool)> = (0..self.actions.len()).rev().map(|n| (n, false)).collect();
        let mut entered = vec![false; self.actions.len()];
        while let Some((number, leaves)) = open.pop() {
            if leaves {
                if !std::mem::replace(&mut done[number], true) {
                    order.push(number);
                }
            } else if !std::mem::replace(&mut entered[number], true) {
                open.push((number, true));
                let before = self.actions[number].after.iter().filter_map(|id| numbers.get(id));
                open.extend(before.filter(|n| !entered[**n]).map(|n| (*n, false)));
            }
        }
        order
    }

    /// Every VM that is seen, comes, or is known to be on a host that does not answer.
    pub(super) fn all_stays(&self) -> BTreeMap<Name, Stay> {
        let mut tracks: BTreeMap<Name, Track> = BTreeMap::new();
        for (name, places) in &self.world.vms {
            let Some((_, obs)) = places.first() else { continue };
            let mut track = Track {
                flying: flight(self.world.records.get(*name)).map(|(from, to)| (from.clone(), to.clone())),
                stamp: obs.stamp.nics.clone(),
                shut: obs.stamp.quarantine.is_some(),
                config: bridges(&obs.config),
                live: obs.live.as_ref().filter(|_| obs.power.is_active()).map(bridges),
                ..Track::default()
            };
            track.stay.then = places.iter().map(|(host, _)| (*host).clone()).collect();
            track.stay.now = track.places();
            track.stay.ever.clone_from(&track.stay.now);
            track.stay.alive = places.iter().any(|(_, obs)| obs.power.is_active());
            track.stay.nics_now = self.nics_of(name, &track);
            tracks.insert((*name).clone(), track);
        }
        for vm in self.wanted.values().filter(|vm| !self.world.vms.contains_key(&vm.name)) {
            if let Some(track) = self.unseen(vm) {
                tracks.insert(vm.name.clone(), track);
            }
        }
        for number in self.in_order() {
            if self.actions[number].is_blocked() {
                continue;
            }
            for step in &self.actions[number].steps {
                self.track(&mut tracks, number, &step.host, &step.op);
            }
        }
        let ends = |(name, mut track): (Name, Track)| {
            let then = track.places();
            // Where nobody can look, it is as it was said to be.
            track.stay.nics_then = if track.stay.actions.is_empty() {
                track.stay.nics_now.clone()
            } else if then.is_empty() {
                Nics::default()
            } else {
                self.nics_of(&name, &track)
            };
            track.stay.then = then;
            (name, track.stay)
        };
        tracks.into_iter().map(ends).collect()
    }

    /// A VM that was not seen, and by its record is where nobody can look: it keeps its addresses.
    fn unseen(&self, vm: &Vm) -> Option<Track> {
        let record = self.world.records.get(&vm.name)?;
        let dark = record.places().any(|host| matches!(self.world.view(host), HostView::Unknown));
        if !dark {
            return None;
        }
        let fleet = &self.input.desired.fleet.name;
        let stamp = vm.spec.nics.keys().map(|nic| {
            let mac = crate::model::nic_mac(fleet, &vm.name, nic);
            let address6 = record.addresses6.get(nic).copied();
            (nic.clone(), NicStamp { mac, address: record.addresses.get(nic).copied(), address6 })
        });
        let mut track = Track { stamp: stamp.collect(), ..Track::default() };
        track.stay.nics_now = self.nics_of(&vm.name, &track);
        Some(track)
    }

    fn track(&self, tracks: &mut BTreeMap<Name, Track>, number: usize, host: &Name, op: &Op) {
        let vm = match op {
            Op::Define { domain, .. } => &domain.vm,
            Op::Record { vm, .. }
            | Op::DefineFrom { vm, .. }
            | Op::Edit { vm, .. }
            | Op::Unstamp { vm, .. }
            | Op::Start { vm, .. }
            | Op::Stop { vm, .. }
            | Op::Suspend { vm, .. }
            | Op::Migrate { vm, .. }
            | Op::AbortJob { vm, .. }
            | Op::DropRemnant { vm, .. }
            | Op::Undefine { vm, .. } => vm,
            _ => return,
        };
        let track = tracks.entry(vm.clone()).or_default();
        match op {
            Op::Record { record, .. } => {
                track.flying = record.from.clone().map(|from| (from, record.host.clone()));
            }
            Op::Define { domain, stamp } => {
                track.stay.then.insert(host.clone());
                track.config = domain.nics.iter().map(|nic| (nic.mac, nic.bridge.clone())).collect();
                track.live = None;
                track.stamp.clone_from(&stamp.nics);
                track.shut = stamp.quarantine.is_some();
                track.stay.begins.insert((number, host.clone()));
            }
            Op::DefineFrom { stamp, .. } => {
                track.stay.then.insert(host.clone());
                track.stamp.clone_from(&stamp.nics);
                track.stay.begins.insert((number, host.clone()));
            }
            Op::Edit { edits, stamp, .. } => {
                track.stay.then.insert(host.clone());
                if track.stamp != stamp.nics {
                    track.stay.actions.insert(number);
                }
                track.stamp.clone_from(&stamp.nics);
                track.shut = stamp.quarantine.is_some();
                for edit in edits {
                    match edit {
                        Edit::AddNic(nic) => drop(track.config.insert(nic.mac, nic.bridge.clone())),
                        Edit::NicBridge { mac, bridge, .. } => drop(track.config.insert(*mac, bridge.clone())),
                        Edit::RemoveNic(mac) => drop(track.config.remove(mac)),
                        _ => {}
                    }
                }
            }
            Op::Start { .. } => {
                if track.live.is_none() {
                    track.live = Some(track.config.clone());
                }
                track.stay.begins.insert((number, host.clone()));
            }
            Op::Stop { .. } | Op::Suspend { .. } => track.live = None,
            Op::Migrate { to, .. } => {
                track.stay.then.remove(host);
                track.stay.then.insert(to.clone());
                track.stay.begins.insert((number, to.clone()));
            }
            Op::AbortJob { to, .. } => drop(track.stay.then.remove(to)),
            Op::Unstamp { .. } | Op::DropRemnant { .. } | Op::Undefine { .. } => drop(track.stay.then.remove(host)),
            _ => {}
        }
        let places = track.places();
        track.stay.ever.extend(places);
        track.stay.actions.insert(number);
    }

    /// The interfaces that a VM has: those of its stamp, and those that its guest still has.
    fn nics_of(&self, vm: &Name, track: &Track) -> Nics {
        let desired = self.input.desired;
        let fleet = &desired.fleet.name;
        let spec = self.wanted.get(vm).map(|vm| &vm.spec.nics);
        let bridge = |mac: &Mac| track.live.as_ref().and_then(|live| live.get(mac)).or_else(|| track.config.get(mac));
        // What somebody wants closed is closed at once, whatever becomes of the rest.
        let shut = track.shut || self.input.demand.quarantines.contains_key(vm);
        let mut nics = Nics::default();
        for (name, stamp) in &track.stamp {
            let said = spec.and_then(|nics| nics.get(name)).map(|nic| &nic.network);
            let Some(network) = self.network_at(bridge(&stamp.mac).map(String::as_str), said) else { continue };
            let mut addresses: BTreeSet<_> = stamp.addresses().collect();
            let learns = addresses.is_empty();
            let seen = self.world.place(vm).filter(|_| learns && track.live.is_some());
            if let Some(((_, obs), network)) = seen.zip(desired.networks.get(&network)) {
                addresses = super::rules::believed(network, obs.seen_at(stamp)).collect();
            }
            let tap = tap_name(fleet, vm, name);
            nics.insert(name.clone(), NicAt { network, mac: stamp.mac, tap, addresses, learns, shut });
        }
        // Taken out of its definition, and there until its next start: its address is not written down any more.
        let left = track.live.iter().flatten().filter(|(mac, _)| !track.stamp.values().any(|s| s.mac == **mac));
        let gone = self.world.place(vm).and_then(|(_, obs)| obs.live.as_ref());
        for (mac, bridge) in left {
            let tap = gone.and_then(|live| live.nics.get(mac)).and_then(|nic| nic.tap.clone());
            let Some(tap) = tap.filter(|tap| tap.starts_with(crate::model::TAP_PREFIX)) else { continue };
            let (Ok(name), Some(network)) = (Name::new(&tap), self.network_at(Some(bridge), None)) else { continue };
            nics.insert(name, NicAt { network, mac: *mac, tap, addresses: BTreeSet::new(), learns: true, shut });
        }
        nics
    }

    /// The network on a bridge; the one that the VM's document says, where its bridge is that one, or none is known.
    fn network_at(&self, bridge: Option<&str>, said: Option<&Name>) -> Option<Name> {
        let networks = &self.input.desired.networks;
        let said = said.and_then(|name| networks.get(name));
        if let Some(said) = said.filter(|n| bridge.is_none_or(|b| *n.bridge == *b)) {
            return Some(said.name.clone());
        }
        let found = networks.values().find(|n| bridge.is_some_and(|b| *n.bridge == *b)).or(said);
        // The network has no document any more: then nothing is allowed on it.
        found.map(|n| n.name.clone()).or_else(|| Name::new(bridge?).ok())
    }
}
