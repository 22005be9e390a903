//! Replicas on hosts that are Unknown: not ready, and not replaced; where the document allows it (`onUnknown: surge`), others
//! stand in for them meanwhile, under ordinals past the wanted number and up to the maximum.
//!
//! *Takes* desired and observed state. *Gives* desired state with those that stand in, before anything is planned.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::draft::Draft;
use super::types::{Cause, Note, NoteKind, Verb};
use crate::model::{
    Address, App, Desired, Name, Observation, Observed, OnUnknown, Owner, Power, RunState, Service, Timestamp, Vm,
    VmObs,
};

/// Desired state with those that stand in.
pub(crate) struct Surge<'a> {
    /// What is planned.
    pub(crate) desired: Cow<'a, Desired>,
    /// Who stands in, and why.
    pub(crate) extra: BTreeMap<Name, String>,
    /// Why nobody does.
    pub(crate) notes: Vec<Note>,
}

/// Finds the replicas that cannot be reached, and who stands in for them.
pub(crate) fn surge<'a>(desired: &'a Desired, observed: &'a Observed) -> Surge<'a> {
    let mut surge = Surge { desired: Cow::Borrowed(desired), extra: BTreeMap::new(), notes: Vec::new() };
    if observed.fleet.is_none() && observed.hosts.is_empty() {
        return surge;
    }
    let unknown: BTreeSet<&Name> = desired.hosts.keys().filter(|host| is_unknown(desired, observed, host)).collect();
    let standing = desired.services.values().any(|s| s.apps.values().any(|a| a.on_unknown == OnUnknown::Surge));
    if unknown.is_empty() && !standing {
        return surge;
    }
    let seen = seen(observed, &unknown);
    let mut extra: Vec<Vm> = Vec::new();
    for service in desired.services.values() {
        for (app_name, app) in &service.apps {
            let replicas = Replicas { desired, observed, unknown: &unknown, seen: &seen, service, app_name, app };
            replicas.look(&mut surge, &mut extra);
        }
    }
    if !extra.is_empty() {
        let desired = surge.desired.to_mut();
        for vm in extra {
            if let Some(group) = desired.groups.get_mut(&vm.group) {
                group.vms.push(vm.name.clone());
                group.vms.sort();
            }
            desired.vms.insert(vm.name.clone(), vm);
        }
    }
    surge
}

/// Whether a host is Unknown, and neither declared lost nor fenced.
fn is_unknown(desired: &Desired, observed: &Observed, host: &Name) -> bool {
    let gone = desired.lost.iter().any(|lost| lost.host == *host) || observed.store.fenced.contains_key(host);
    match observed.hosts.get(host) {
        Some(Observation::Known(seen)) => {
            // Another machine answers at its address.
            desired.hosts.get(host).and_then(|h| h.uuid).is_some_and(|pinned| pinned != seen.uuid)
        }
        Some(Observation::Unknown(_) | Observation::Absent) | None => !gone,
    }
}

fn seen<'a>(observed: &'a Observed, unknown: &BTreeSet<&Name>) -> BTreeMap<&'a Name, &'a VmObs> {
    let hosts = observed.hosts.iter().filter(|(name, _)| !unknown.contains(name));
    hosts.filter_map(|(_, host)| host.known()).flat_map(|host| &host.vms).collect()
}

/// The replicas of one app.
struct Replicas<'s> {
    desired: &'s Desired,
    observed: &'s Observed,
    unknown: &'s BTreeSet<&'s Name>,
    seen: &'s BTreeMap<&'s Name, &'s VmObs>,
    service: &'s Service,
    app_name: &'s Name,
    app: &'s App,
}

impl Replicas<'_> {
    fn name(&self, ordinal: u32) -> Option<Name> {
        Name::new(&format!("{}-{}-{ordinal}", self.service.name, self.app_name)).ok()
    }

    /// The Unknown host that has a VM, as was last recorded.
    fn unreachable(&self, vm: &Name) -> Option<&Name> {
        if self.seen.contains_key(vm) {
            return None;
        }
        self.observed.records.get(vm)?.places().find(|host| self.unknown.contains(*host))
    }

    fn look(&self, surge: &mut Surge<'_>, extra: &mut Vec<Vm>) {
        let base: Vec<(Name, &Vm)> = (1..=self.app.min)
            .filter_map(|n| self.name(n))
            .filter_map(|name| self.desired.vms.get_key_value(&name).map(|(name, vm)| (name.clone(), vm)))
            .collect();
        let Some((_, pattern)) = base.first() else { return };
        let missing: Vec<String> = base
            .iter()
            .filter_map(|(name, _)| self.unreachable(name).map(|host| format!("{name} is on {host}, which is Unknown")))
            .collect();
        let mut note = |text: String| {
            let subject = Address::Service(self.service.name.clone());
            let origin = Some(pattern.origin.clone());
            surge.notes.push(Note { subject, kind: NoteKind::Waiting, text, origin });
        };
        if self.app.on_unknown == OnUnknown::Hold {
            if !missing.is_empty() {
                note(format!("{}: not ready, and not replaced", missing.join("; ")));
            }
            return;
        }
        let spec = &pattern.spec;
        let fixed = spec.nics.values().any(|nic| nic.address.is_some());
        if !spec.disks.is_empty() || spec.persistent_root || fixed {
            let what = if fixed { "a fixed address" } else { "data of its own" };
            if !missing.is_empty() {
                note(format!("{}: nobody stands in, as {} has {what}", missing.join("; "), self.app_name));
            }
            return;
        }
        // Who stands in stays until all that are wanted run again.
        let runs = |name: &Name| self.seen.get(name).is_some_and(|obs| obs.power == Power::Running);
        let down = base.iter().filter(|(name, vm)| vm.run == RunState::Started && !runs(name)).count();
        let ordinals = || (self.app.min + 1..=self.app.max).filter_map(|n| self.name(n).map(|name| (n, name)));
        let there = ordinals().filter(|(_, name)| self.seen.contains_key(name)).count();
        let needed = missing.len().max(down.min(there));
        // One that stood in, and cannot be reached now, stands in for nobody.
        let free = |name: &Name| self.unreachable(name).is_none() && !self.desired.vms.contains_key(name);
        let chosen: Vec<(u32, Name)> = ordinals().filter(|(_, name)| free(name)).take(needed).collect();
        if chosen.len() < missing.len() {
            let (most, standing) = (self.app.max, chosen.len());
            note(format!("{}: {standing} stand in, as {most} replicas are the most", missing.join("; ")));
        }
        let why =
            if missing.is_empty() { "until all that are wanted run again".to_owned() } else { missing.join("; ") };
        for (ordinal, name) in chosen {
            let text = format!("stands in (`onUnknown: surge`): {why}");
            surge.extra.insert(name.clone(), text);
            let owner = Owner::Service { service: self.service.name.clone(), app: self.app_name.clone(), ordinal };
            extra.push(Vm { name, owner, ..(*pattern).clone() });
        }
    }
}

impl Draft<'_> {
    /// Whether a VM may be made although a host is Unknown on which nothing proves that it is not: one that stands in, where
    /// each of these hosts was seen before. What was recorded there then is remembered, and this VM is not among it.
    pub(crate) fn may_surge(&self, vm: &Name) -> bool {
        let seen = |host: &&Name| match self.input.observed.hosts.get(*host) {
            Some(Observation::Unknown(fault)) => fault.since.is_some_and(|since: Timestamp| since.0 > 0),
            _ => false,
        };
        self.standing_in.contains_key(vm) && self.world.dark.iter().all(seen)
    }

    /// Says of those that stand in why they come, and why they go.
    pub(crate) fn tell_surge(&mut self) {
        let desired = self.input.desired;
        let surging = |act: &super::types::Action| {
            let of_group = |key: &str| {
                let (service, app) = key.split_once('/')?;
                let app = desired.services.get(&Name::new(service).ok()?)?.apps.get(&Name::new(app).ok()?)?;
                (app.on_unknown == OnUnknown::Surge).then_some(app)
            };
            let (_, obs) = self.world.place(act.subject.name())?;
            let app = of_group(&obs.stamp.group)?;
            let ordinal: u32 = act.subject.name().as_str().rsplit('-').next()?.parse().ok()?;
            (ordinal > app.min && ordinal <= app.max).then(|| (obs.stamp.group.clone(), app.min))
        };
        let over: Vec<_> = self
            .actions
            .iter()
            .enumerate()
            .filter(|(_, act)| act.verb == Verb::Destroy && act.reason.code == "fewer")
            .filter_map(|(number, act)| Some((number, surging(act)?)))
            .collect();
        for (number, (group, min)) in over {
            let act = &mut self.actions[number];
            act.cause = Cause::Expiry;
            act.reason.code = "surge_over".to_owned();
            act.reason.text = format!("the surge of {group} is over: {min} are wanted, and run");
        }
        for act in self.actions.iter_mut().filter(|a| a.verb == Verb::Create) {
            if let Some(text) = self.standing_in.get(act.subject.name()) {
                act.cause = Cause::Drift;
                act.reason.code = "surge".to_owned();
                act.reason.text.clone_from(text);
            }
        }
    }
}
