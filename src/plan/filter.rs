//! Packet filters: rules are there before the VM that needs them, closed at once where a document closes them, and gone when
//! the last VM that they were for has left.
//!
//! ```text
//!  actions that nothing stops ─▶ where each VM is: now, on the way, in the end (stays)
//!                                  │ compile with interfaces now ∪ in the end      │ compile with those in the end
//!                                  ▼                                               ▼
//!            host/H#filter, before all that starts or comes there,   host/H#close, after all that leaves it
//!            or that its VMs may talk to
//! ```
//!
//! A host whose filter cannot be set, or was not read, is left alone: what would start there on a network that is not open
//! is blocked, and what runs there runs on. A machine with several documents has one filter, which its first one speaks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::draft::{Draft, reason};
use super::fabric::plain;
use super::opened::{Names, ReachChange, exposed};
use super::rules::{Compiled, Nics, compile};
use super::stays::Stay;
use super::steps::Op;
use super::types::{Action, ActionId, Block, BlockedBy, Cause, Reason, Verb};
use super::world::HostView;
use crate::model::{Address, FilterObs, HostObs, HostRules, Name, TapRules};

/// Most VMs that a reason names.
const NAMED: usize = 2;

/// One machine with what its filter says and will say.
struct Machine {
    /// The document that speaks for it.
    host: Name,
    /// What was read.
    seen: Seen,
    /// From the beginning of the plan on.
    first: HostRules,
    /// In the end.
    last: HostRules,
}

/// What was read of a machine's filter.
enum Seen {
    /// This.
    Table(HostRules),
    /// Something that is not ours.
    Damaged(String),
}

/// What a machine's filter was before the plan.
struct Before {
    /// What it granted, as far as we set it.
    table: HostRules,
    /// What is wrong with it, if that is nobody's wish: a code and a sentence.
    drift: Option<(&'static str, String)>,
    /// It is as documents say, for the VMs that are there.
    as_said: bool,
}

impl Seen {
    fn table(&self) -> Option<&HostRules> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }
}

/// What is the matter with the filter of a host that was seen, if rules cannot be set there.
fn unable(known: &HostObs) -> Option<String> {
    match &known.filter {
        Some(FilterObs::Unable(why)) => Some(format!("packet filters cannot be set there: {why}")),
        Some(FilterObs::Table(_) | FilterObs::Damaged(_)) | None => None,
    }
}

impl Draft<'_> {
    /// Adds the actions that set packet filters, and says what is opened and closed by them.
    pub(crate) fn filters(&mut self) -> Vec<ReachChange> {
        self.block_unfiltered();
        self.spread_blocks();
        let stays = self.all_stays();
        let now = Nics(stays.iter().map(|(vm, stay)| (vm.clone(), stay.nics_now.clone())).collect());
        let then = Nics(stays.iter().map(|(vm, stay)| (vm.clone(), stay.nics_then.clone())).collect());
        let in_the_end = compile(self.input.desired, &then);
        let moves = stays.values().any(Stay::changes);
        let at_first = if moves { compile(self.input.desired, &now) } else { in_the_end.clone() };
        self.tell_unknown(&in_the_end);
        let machines = self.machines(&stays, &at_first, &in_the_end, moves);
        let differs = |m: &Machine| m.seen.table() != Some(&m.first) || m.first != m.last;
        if !machines.iter().any(differs) {
            return Vec::new();
        }
        // What a filter that is gone granted is what it should have granted: nobody opens anything by setting it again.
        let before: Vec<Before> = machines.iter().map(|m| self.before(m, &stays, &at_first)).collect();
        let group = |vm: &Name| self.group_label(vm);
        let names = Names::new(self.input.desired, &stays, group, self.own_addresses());
        let was = names.granted(before.iter().map(|b| &b.table));
        let rows = names.changes(&was, &names.granted(machines.iter().map(|m| &m.last)));
        let mut actions = Vec::new();
        for (machine, before) in machines.iter().zip(&before) {
            let told = |old: &HostRules, new: &HostRules| {
                let here = names.changes(&names.granted([old]), &names.granted([new]));
                sentences(&here, &rows)
            };
            if machine.seen.table() != Some(&machine.first) {
                actions.push(self.filter(machine, &stays, before, told(&before.table, &machine.first)));
            }
            if machine.first != machine.last {
                actions.push(self.close(machine, &stays, told(&machine.first, &machine.last)));
            }
        }
        self.hold_back(&stays, &machines);
        self.risks.extend(exposed(self.input.desired, &rows));
        for act in actions {
            self.push(act, None);
        }
        rows
    }

    /// What would start on a network that is not open, where no rules can be set, does not start.
    fn block_unfiltered(&mut self) {
        let mut stops: Vec<(usize, Block)> = Vec::new();
        for (number, act) in self.actions.iter().enumerate() {
            if act.is_blocked() {
                continue;
            }
            let Some(vm) = self.wanted.get(act.subject.name()).filter(|_| act.subject.kind() == "vm") else { continue };
            let networks = &self.input.desired.networks;
            let closed =
                vm.spec.nics.values().map(|nic| &nic.network).find(|n| networks.get(*n).is_some_and(|n| n.closed));
            let Some(network) = closed else { continue };
            let begins = act.steps.iter().find_map(|step| {
                let host = match &step.op {
                    Op::Start { .. } => &step.host,
                    Op::Migrate { to, .. } => to,
                    _ => return None,
                };
                Some((host, unable(self.world.view(host).known()?)?))
            });
            if let Some((host, why)) = begins {
                let text = format!("host/{host}: {why}; and network/{network} is closed");
                let unblock = format!(
                    "mend that (`stablehand doctor` on the host says how), or write `rules: open` for network/{network} if its VMs may talk to anybody"
                );
                stops.push((number, Block { by: BlockedBy::Policy, text, unblock }));
            }
        }
        for (number, block) in stops {
            self.actions[number].blocked.push(block);
        }
    }

    /// Interfaces that others may talk to, as soon as anybody knows their address.
    fn tell_unknown(&mut self, compiled: &Compiled) {
        for unknown in compiled.unknown() {
            let known = self.input.desired.networks.get(&unknown.network);
            let wait = match known.is_some_and(|network| network.nets().next().is_some()) {
                true => "rules that name it wait until it is seen",
                // A guest says what it likes of itself.
                false => "rules that name it wait until the network's `subnet` says which addresses may be believed",
            };
            let text = format!("network/{} gives {} its address: {wait}", unknown.network, unknown.nic);
            self.note(&unknown.vm, super::types::NoteKind::Hint, text, None);
        }
    }

    /// The document that speaks for the machine of a host.
    pub(super) fn speaker<'n>(&'n self, host: &'n Name) -> &'n Name {
        let Some(uuid) = self.world.view(host).known().map(|k| k.uuid) else { return host };
        let same = self.world.hosts.iter().filter(|(_, view)| view.known().is_some_and(|k| k.uuid == uuid));
        same.map(|(name, _)| *name).next().unwrap_or(host)
    }

    /// Addresses that hosts have on bridges of the fleet.
    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        self.world.hosts.keys().flat_map(|host| self.own(host)).collect()
    }

    /// Addresses of its own that the machine of a host has on bridges of the fleet.
    pub(super) fn machine_own(&self, host: &Name) -> BTreeSet<IpAddr> {
        let machine = self.speaker(host);
        self.world.hosts.keys().filter(|other| self.speaker(other) == machine).flat_map(|part| self.own(part)).collect()
    }

    fn own(&self, host: &Name) -> BTreeSet<IpAddr> {
        let bridges = self.world.view(host).known().into_iter().flat_map(|k| k.bridges.values());
        bridges.flat_map(|b| &b.addresses).filter_map(|a| a.split('/').next()?.parse().ok()).collect()
    }

    fn group_label(&self, vm: &Name) -> Arc<str> {
        let said = self.input.desired.vms.get(vm).map(|vm| vm.group.clone());
        let stamped = || self.world.place(vm).map(|(_, obs)| obs.stamp.group.clone());
        said.or_else(stamped).unwrap_or_else(|| Arc::from(vm.as_str()))
    }

    /// Every machine whose filter can be set, with what it should say.
    fn machines(
        &self,
        stays: &BTreeMap<Name, Stay>,
        at_first: &Compiled,
        in_the_end: &Compiled,
        moves: bool,
    ) -> Vec<Machine> {
        let mut parts: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for host in self.world.hosts.keys() {
            parts.entry(self.speaker(host)).or_default().push(host);
        }
        let mut vms: BTreeMap<&Name, (BTreeSet<&Name>, BTreeSet<&Name>)> = BTreeMap::new();
        for (vm, stay) in stays {
            for host in &stay.ever {
                vms.entry(host).or_default().0.insert(vm);
            }
            for host in &stay.then {
                vms.entry(host).or_default().1.insert(vm);
            }
        }
        let mut machines = Vec::new();
        for (host, parts) in parts {
            let seen = match self.world.view(host) {
                HostView::Known(known) => match &known.filter {
                    Some(FilterObs::Table(table)) => Seen::Table(table.clone()),
                    Some(FilterObs::Damaged(what)) => Seen::Damaged(what.clone()),
                    Some(FilterObs::Unable(_)) | None => continue,
                },
                HostView::Assumed => Seen::Table(HostRules::default()),
                HostView::Unknown | HostView::Lost => continue,
            };
            let own: BTreeSet<IpAddr> = parts.iter().flat_map(|part| self.own(part)).collect();
            let here = |which: fn(&(BTreeSet<&'_ Name>, BTreeSet<&'_ Name>)) -> usize| {
                parts.iter().filter_map(|part| vms.get(*part)).map(which).sum::<usize>()
            };
            if here(|(ever, _)| ever.len()) == 0 && matches!(&seen, Seen::Table(t) if t.taps.is_empty()) {
                continue;
            }
            let ever = || parts.iter().filter_map(|part| vms.get(*part)).flat_map(|(ever, _)| ever.iter().copied());
            let end = parts.iter().filter_map(|part| vms.get(*part)).flat_map(|(_, end)| end.iter().copied());
            let last = in_the_end.host(end, &own);
            let first =
                if moves { united(at_first.host(ever(), &own), in_the_end.host(ever(), &own)) } else { last.clone() };
            machines.push(Machine { host: host.clone(), seen, first, last });
        }
        machines
    }

    /// What a machine's filter granted, as far as we set it; what is wrong with it, if that is nobody's wish; and whether it
    /// is as documents say for the VMs that are there.
    fn before(&self, machine: &Machine, stays: &BTreeMap<Name, Stay>, at_first: &Compiled) -> Before {
        let here: Vec<(&Name, &Stay)> =
            stays.iter().filter(|(_, s)| s.now.iter().any(|h| *self.speaker(h) == machine.host)).collect();
        let should = at_first.host(here.iter().map(|(vm, _)| *vm), &self.machine_own(&machine.host));
        let table = match &machine.seen {
            Seen::Damaged(what) => {
                let drift = Some(("filter_damaged", format!("somebody changed its packet filter: {what}")));
                return Before { table: should, drift, as_said: false };
            }
            Seen::Table(table) => table,
        };
        let bare = here.iter().find(|(_, stay)| {
            let missing = stay.nics_now.values().any(|nic| !table.taps.contains_key(&nic.tap));
            missing && (stay.alive || table.taps.is_empty())
        });
        match bare {
            None => Before { as_said: *table == should, table: table.clone(), drift: None },
            Some((vm, _)) => {
                let text = if table.taps.is_empty() {
                    "its packet filter is not there".to_owned()
                } else {
                    format!("vm/{vm} is alive there without rules")
                };
                Before { table: should, drift: Some(("filter_gone", text)), as_said: false }
            }
        }
    }

    fn filter(
        &self,
        machine: &Machine,
        stays: &BTreeMap<Name, Stay>,
        before: &Before,
        told: (Vec<String>, Vec<String>),
    ) -> Action {
        let mut act = on_host(&machine.host, Verb::Filter, &machine.first, told);
        let comes = |stay: &Stay| stay.begins.iter().any(|(_, h)| *self.speaker(h) == machine.host);
        let coming: Vec<&Name> = stays.iter().filter(|(_, stay)| comes(stay)).map(|(vm, _)| vm).collect();
        let shut = self.shut_by(machine, stays);
        if let (None, Some((cause, why))) = (&before.drift, shut) {
            (act.cause, act.reason) = (cause, why);
            return act;
        }
        let (code, text) = match &before.drift {
            Some((code, text)) => (*code, text.clone()),
            None if coming.is_empty() && before.as_said => ("filter_peers", "its VMs get other peers".to_owned()),
            None if coming.is_empty() => ("filter_rules", "its rules change".to_owned()),
            None if coming.iter().any(|vm| self.is_on(&stays[*vm].now, &machine.host)) => {
                ("filter_comes", format!("before {}", listed(&coming, "starts", "start")))
            }
            None => ("filter_comes", format!("before {}", listed(&coming, "comes", "come"))),
        };
        act.reason = reason(code, text, None);
        act.cause = match (&before.drift, before.as_said) {
            (Some(_), _) => Cause::Drift,
            (None, true) => self.cause_of_changes(stays),
            (None, false) => Cause::Change,
        };
        act
    }

    /// Why a machine's filter changes, when that is because of a quarantine.
    fn shut_by(&self, machine: &Machine, stays: &BTreeMap<Name, Stay>) -> Option<(Cause, Reason)> {
        let seen = machine.seen.table()?;
        let (was, will) = (peers(seen), peers(&machine.first));
        let gone: BTreeSet<IpAddr> = was.difference(&will).copied().collect();
        let new: BTreeSet<IpAddr> = will.difference(&was).copied().collect();
        let vms = self.world.vms.keys().filter_map(|vm| {
            let stay = stays.get(*vm)?;
            let here = self.is_on(&stay.now, &machine.host);
            let taps = stay.nics_now.values().filter(|_| here).map(|nic| nic.tap.clone()).collect();
            let addresses = stay.nics_now.values().flat_map(|nic| nic.addresses.iter().copied()).collect();
            Some((*vm, taps, addresses))
        });
        self.shut_or_opened(vms, (seen, &machine.first), (&gone, &new))
    }

    fn is_on(&self, hosts: &BTreeSet<Name>, machine: &Name) -> bool {
        hosts.iter().any(|host| self.speaker(host) == machine)
    }

    /// Why VMs come, leave and get other interfaces.
    fn cause_of_changes(&self, stays: &BTreeMap<Name, Stay>) -> Cause {
        let causes = stays.values().filter(|s| s.changes()).flat_map(|s| &s.actions).map(|n| self.actions[*n].cause);
        causes.min().unwrap_or(Cause::Change)
    }

    fn close(&self, machine: &Machine, stays: &BTreeMap<Name, Stay>, told: (Vec<String>, Vec<String>)) -> Action {
        let mut act = on_host(&machine.host, Verb::Close, &machine.last, told);
        let gone: BTreeSet<IpAddr> = peers(&machine.first).difference(&peers(&machine.last)).copied().collect();
        let mut leaving = Vec::new();
        for (vm, stay) in stays.iter().filter(|(_, stay)| stay.changes()) {
            let here = stay.ever.iter().any(|h| *self.speaker(h) == machine.host);
            let mut addresses = stay.nics_now.values().chain(stay.nics_then.values()).flat_map(|nic| &nic.addresses);
            if !here && !addresses.any(|a| gone.contains(a)) {
                continue;
            }
            if here && !stay.then.iter().any(|h| *self.speaker(h) == machine.host) {
                leaving.push(vm);
            }
            act.after.extend(stay.actions.iter().map(|n| self.actions[*n].id.clone()));
        }
        let text = if leaving.is_empty() {
            "what it let through for a change is over".to_owned()
        } else {
            format!("after {}", listed(&leaving, "left", "left"))
        };
        act.reason = reason("filter_leaves", text, None);
        act.cause = self.cause_of_changes(stays);
        act
    }

    /// What begins to run waits for the filter of its host, and for those that let its peers talk to it.
    fn hold_back(&mut self, stays: &BTreeMap<Name, Stay>, machines: &[Machine]) {
        let mut waits: Vec<(usize, ActionId)> = Vec::new();
        for machine in machines.iter().filter(|m| m.seen.table() != Some(&m.first)) {
            let id = ActionId::new(&Address::Host(machine.host.clone()), Verb::Filter, None);
            let known = machine.seen.table().map(peers).unwrap_or_default();
            let new: BTreeSet<IpAddr> = peers(&machine.first).difference(&known).copied().collect();
            for stay in stays.values() {
                let asks = |n: &&usize| matches!(self.actions[**n].verb, Verb::Quarantine | Verb::Release);
                if self.is_on(&stay.now, &machine.host) {
                    waits.extend(stay.actions.iter().filter(asks).map(|number| (*number, id.clone())));
                }
                let mut addresses = stay.nics_then.values().flat_map(|nic| &nic.addresses);
                let met = addresses.any(|a| new.contains(a));
                let begins = stay.begins.iter().filter(|(_, host)| met || *self.speaker(host) == machine.host);
                waits.extend(begins.map(|(number, _)| (*number, id.clone())));
            }
        }
        for (number, id) in waits {
            self.actions[number].after.push(id);
        }
    }

    /// Blocks what waits for something blocked.
    pub(crate) fn spread_blocks(&mut self) {
        let numbers: BTreeMap<ActionId, usize> =
            self.actions.iter().enumerate().map(|(n, a)| (a.id.clone(), n)).collect();
        for number in self.in_order() {
            let before = self.actions[number].after.iter().filter_map(|id| numbers.get(id));
            let by = before.copied().filter(|n| self.actions[*n].is_blocked()).min_by_key(|n| &self.actions[*n].id);
            if let Some(by) = by.filter(|_| !self.actions[number].is_blocked()) {
                let id = self.actions[by].id.clone();
                self.actions[number].blocked.push(Block {
                    by: BlockedBy::Dependency,
                    text: format!("it waits for {id}, which is blocked"),
                    unblock: format!("see {id}"),
                });
            }
        }
    }
}

/// Single addresses that a filter lets some VM talk to.
fn peers(rules: &HostRules) -> BTreeSet<IpAddr> {
    let permits = rules.taps.values().flat_map(|tap| &tap.permits);
    permits.filter(|p| p.peer.prefix_len() == p.peer.max_prefix_len()).map(|p| p.peer.addr()).collect()
}

/// What either lets through.
fn united(mut a: HostRules, b: HostRules) -> HostRules {
    for (name, tap) in b.taps {
        match a.taps.get_mut(&name) {
            None => drop(a.taps.insert(name, tap)),
            Some(there) => {
                let TapRules { addresses, learns, open, permits, .. } = tap;
                there.addresses.extend(addresses);
                there.learns |= learns;
                there.open |= open;
                there.permits.extend(permits);
            }
        }
    }
    a
}

/// Those sentences of a host's own change that are sentences of the fleet's, without what comes and goes with its VMs.
fn sentences(here: &[ReachChange], rows: &[ReachChange]) -> (Vec<String>, Vec<String>) {
    let told = |of: fn(&ReachChange) -> Option<String>| {
        let all: BTreeSet<String> = rows.iter().filter(|row| !row.implied).filter_map(of).collect();
        here.iter().filter_map(of).filter(|sentence| all.contains(sentence)).collect::<Vec<_>>()
    };
    (told(ReachChange::opened), told(ReachChange::closed))
}

/// `vm/a, vm/b and 3 more start`.
fn listed(vms: &[&Name], one: &str, many: &str) -> String {
    let names: Vec<String> = vms.iter().take(NAMED).map(|vm| format!("vm/{vm}")).collect();
    let more = vms.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more} {}", names.join(", "), if vms.len() == 1 { one } else { many })
}

/// An action on a host's filter.
fn on_host(host: &Name, verb: Verb, rules: &HostRules, (opens, closes): (Vec<String>, Vec<String>)) -> Action {
    let subject = Address::Host(host.clone());
    let set = Op::SetRules { rules: Arc::new(rules.clone()) };
    // The subject names the host.
    let id = ActionId::new(&subject, verb, None);
    Action { id, opens, closes, ..plain(subject, verb, host, [set]) }
}
