//! Why a VM that exists should be somewhere else: its host is drained, a rule is broken, it goes home. One without such a
//! reason stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::missing;
use super::draft::{Draft, reason};
use super::places::{Standing, flight};
use super::types::{Action, ActionId, Cause, HostDrain, Reason, Verb};
use crate::model::{Address, Field, Host, Maintenance, Name, Others, Power, Vm, VmObs};

/// Why a host is emptied.
#[derive(Clone, Debug)]
pub(crate) struct DrainView {
    pub(crate) others: Others,
    pub(crate) cause: Cause,
    pub(crate) reason: Reason,
    pub(crate) by: String,
}

/// A VM that should be somewhere else.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) from: &'a Host,
    pub(crate) obs: &'a VmObs,
    pub(crate) cause: Cause,
    pub(crate) reason: Reason,
    /// What happens when it cannot move while it runs.
    pub(crate) others: Others,
    /// The only host that will do.
    pub(crate) only: Option<&'a Name>,
    /// A rule of its document stays broken until it moved.
    pub(crate) rule: bool,
    /// The job that moves it already.
    pub(crate) begun: Option<&'a Name>,
}

impl<'a> Draft<'a> {
    /// Whether and why a host is emptied.
    pub(crate) fn drain_of(&self, host: &Name) -> Option<DrainView> {
        let doc = self.input.desired.hosts.get(host)?;
        if let Maintenance::Drain(others) = doc.maintenance {
            let text = format!("host/{host} is being drained");
            let by = "by its document".to_owned();
            let reason = reason("drain", text, Some(doc.origin.clone()));
            return Some(DrainView { others, cause: Cause::Change, reason, by });
        }
        let drain = self.input.demand.drains.get(host)?;
        let text = format!("host/{host} is being drained, asked by {}", drain.who);
        let by = format!("asked by {}", drain.who);
        Some(DrainView { others: drain.others, cause: Cause::Demand, reason: reason("drain", text, None), by })
    }

    /// Whether a VM was stopped on the spot, because its host is drained and it cannot move while it runs.
    pub(crate) fn held_by_drain(&self, vm: &'a Vm, host: &Name, obs: &'a VmObs) -> bool {
        matches!(obs.power, Power::Stopped | Power::Crashed)
            && self.drain_of(host).is_some_and(|d| d.others == Others::Stop)
            && !self.could_go_live(vm, obs, host)
    }

    /// All reasons to move a VM that exists.
    pub(super) fn wishes(&self) -> Vec<Wish<'a>> {
        let desired = self.input.desired;
        let drains: BTreeMap<&Name, DrainView> =
            desired.hosts.keys().filter_map(|name| Some((name, self.drain_of(name)?))).collect();
        let mut wishes = Vec::new();
        let mut wished: BTreeSet<&Name> = BTreeSet::new();
        for (name, vm) in &self.wanted {
            let Some((from, obs, begun)) = self.movable(name) else { continue };
            let group_wish = |cause, reason, rule| Wish {
                vm,
                from,
                obs,
                cause,
                reason,
                others: Others::Leave,
                only: None,
                rule,
                begun,
            };
            let wish = if let Some(drain) = drains.get(&from.name) {
                Some(Wish { others: drain.others, ..group_wish(drain.cause, drain.reason.clone(), false) })
            } else if let Some(text) = misplaced(vm, from, &desired.fleet.security_levels) {
                let origin = vm.spec.origins.of(Field::Placement).cloned();
                let cause =
                    if obs.stamp.spec == super::spec_digest(desired, vm) { Cause::Drift } else { Cause::Change };
                Some(group_wish(cause, reason("placement", text, origin), true))
            } else {
                self.homeward(vm, from, &drains).map(|(home, who)| Wish {
                    only: Some(home),
                    ..group_wish(
                        Cause::Demand,
                        reason("restore", format!("back to host/{home}, asked by {who}"), None),
                        false,
                    )
                })
            };
            if let Some(wish) = wish {
                wished.insert(name);
                wishes.push(wish);
            }
        }
        self.repairs(&mut wished, &mut wishes);
        wishes
    }

    /// Where a VM is, when a move of it can be thought of at all; and where a job of ours takes it already.
    pub(crate) fn movable(&self, name: &Name) -> Option<(&'a Host, &'a VmObs, Option<&'a Name>)> {
        let (host, obs) = self.world.place(name)?;
        if self.quarantine_of(name).is_some() && self.drain_of(host).is_none() {
            return None;
        }
        let begun = match self.world.standings.get(name) {
            None => None,
            Some(Standing::Moving { to: Some(to), .. }) if self.is_ours(name, host) => Some(*to),
            Some(_) => return None,
        };
        let from = self.input.desired.hosts.get(host)?;
        Some((from, obs, begun))
    }

    /// Whether a move away from a host is one that we began.
    pub(crate) fn is_ours(&self, vm: &Name, from: &Name) -> bool {
        flight(self.world.records.get(vm)).is_some_and(|(source, _)| source == from)
    }

    /// The host that a VM goes back to, and who asked.
    fn homeward(&self, vm: &Vm, from: &Host, drains: &BTreeMap<&Name, DrainView>) -> Option<(&'a Name, &'a str)> {
        let demand = self.input.demand;
        let home = demand.homes.get(&vm.name)?;
        let asked = demand.restores.get(home)?;
        let (home, _) = self.input.desired.hosts.get_key_value(home)?;
        (*home != from.name && !drains.contains_key(home)).then_some((home, &*asked.who))
    }

    /// VMs that move because their groups break a rule about spreading or separation.
    fn repairs(&self, wished: &mut BTreeSet<&'a Name>, wishes: &mut Vec<Wish<'a>>) {
        let desired = self.input.desired;
        for (key, group) in &desired.groups {
            let foes = self.placer.foes(key);
            if group.max_per_host.is_none() && group.min_hosts < 2 && foes.is_empty() {
                continue;
            }
            // Those that move anyway are counted where they go when they have a place.
            let mut on: BTreeMap<&'a Name, Vec<(&'a Vm, &'a Host, &'a VmObs)>> = BTreeMap::new();
            for name in &group.vms {
                let Some((name, vm)) = self.wanted.get_key_value(name) else { continue };
                if let Some((from, obs, None)) = self.movable(name).filter(|_| !wished.contains(name)) {
                    on.entry(&from.name).or_default().push((vm, from, obs));
                }
            }
            let mut send = |(vm, from, obs): (&'a Vm, &'a Host, &'a VmObs), text: String| {
                let (name, _) = match self.wanted.get_key_value(&vm.name) {
                    Some(found) => found,
                    None => return,
                };
                wished.insert(name);
                let reason = reason("spread", text, group.rule_origin.clone());
                let (cause, others) = (Cause::Change, Others::Leave);
                wishes.push(Wish { vm, from, obs, cause, reason, others, only: None, rule: false, begun: None });
            };
            for (host, members) in &mut on {
                let most = group.max_per_host.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(usize::MAX));
                while members.len() > most {
                    let count = members.len();
                    let Some(last) = members.pop() else { break };
                    send(last, format!("{host} has {count} of {key}, at most {most} are wanted"));
                }
            }
            for foe in foes.iter().filter(|foe| **foe < *key) {
                let theirs: BTreeSet<&Name> = self.placer.spread(foe).into_iter().map(|(host, _)| host).collect();
                for (host, members) in on.iter_mut().filter(|(host, _)| theirs.contains(*host)) {
                    for member in members.drain(..) {
                        send(member, format!("{key} and {foe} meet on {host}, and must be separate"));
                    }
                }
            }
            let spread = self.placer.spread(key);
            let members: u32 = spread.iter().map(|(_, count)| count).sum();
            let wanted = usize::try_from(group.min_hosts.min(members)).unwrap_or(usize::MAX);
            // Those that are to be made yet, or that nobody sees now, may be what is missing.
            let unseen = group.vms.iter().filter(|vm| !self.world.vms.contains_key(*vm)).count();
            let mut missing = wanted.saturating_sub(spread.len() + unseen);
            while missing > 0 {
                let Some(crowd) = on.values_mut().filter(|m| m.len() > 1).max_by_key(|m| m.len()) else { break };
                let Some(last) = crowd.pop() else { break };
                let text = format!("{key} is on {} host(s), {wanted} are wanted", spread.len());
                send(last, text);
                missing -= 1;
            }
        }
    }

    /// What each drained host loses, and what stays there.
    pub(crate) fn drains(&self) -> Vec<HostDrain> {
        let mut drains = Vec::new();
        for (host, view) in &self.world.hosts {
            let Some(drain) = self.drain_of(host) else { continue };
            let about = |a: &&Action| a.from.as_ref() == Some(*host) && matches!(a.subject, Address::Vm(_));
            let here: Vec<&Action> = self.actions.iter().filter(about).collect();
            let leaves = |a: &Action| a.to.as_ref() != Some(*host) || matches!(a.verb, Verb::Destroy);
            let ids = |what: &dyn Fn(&Action) -> bool| -> Vec<ActionId> {
                here.iter().filter(|a| what(a)).map(|a| a.id.clone()).collect()
            };
            let moving =
                |a: &Action| matches!(a.verb, Verb::Migrate | Verb::Move | Verb::Recreate | Verb::Destroy) && leaves(a);
            let moves = ids(&|a| moving(a) && !a.is_blocked());
            let cannot = ids(&|a| a.is_blocked() && (moving(a) || a.reason.code == "drain"));
            let stops = ids(&|a| a.reason.code == "drain" && a.verb == Verb::Stop && !a.is_blocked());
            let named: BTreeSet<&Name> = here
                .iter()
                .filter(|a| moves.contains(&a.id) || cannot.contains(&a.id) || stops.contains(&a.id))
                .map(|a| a.subject.name())
                .collect();
            let there = view.known().into_iter().flat_map(|k| k.vms.keys());
            let counts = |vm: &&Name| self.world.place(vm).is_some_and(|(at, _)| at == *host);
            let stays = there.filter(counts).filter(|vm| !named.contains(vm)).cloned().collect();
            let transfers = || here.iter().filter(|a| !a.is_blocked()).filter_map(|a| a.transfer.as_ref());
            drains.push(HostDrain {
                host: (*host).clone(),
                others: drain.others,
                by: drain.by,
                bytes: crate::model::Bytes(transfers().map(|t| t.bytes.0).sum()),
                millis: transfers().map(|t| t.millis).sum(),
                moves,
                stops,
                cannot,
                stays,
            });
        }
        drains
    }
}

/// Which rule of its document a VM breaks where it is.
fn misplaced(vm: &Vm, host: &Host, levels: &[Name]) -> Option<String> {
    let rule = &vm.spec.placement;
    if let Some(pin) = rule.host.as_ref().filter(|pin| **pin != host.name) {
        return Some(format!("it is on {}, {pin} is pinned", host.name));
    }
    if let Some(device) = missing(vm, host) {
        return Some(format!("it is on {}, which has no device {device}", host.name));
    }
    if host.security < rule.security {
        let level = |n: u32| usize::try_from(n).ok().and_then(|n| levels.get(n)).map_or("?", Name::as_str);
        let (wanted, has) = (level(rule.security), level(host.security));
        return Some(format!("it is on {}, whose security level is {has}, and {wanted} is wanted", host.name));
    }
    let wrong = rule.labels.iter().find(|(key, value)| host.labels.get(*key) != Some(value));
    wrong.map(|(key, value)| format!("it is on {}, whose label {key} is not {value}", host.name))
}
