//! Which interfaces each rule speaks of.

use std::collections::{BTreeMap, BTreeSet};

use super::{Compiled, Nics, Port, Sides, Wire};
use crate::model::{Access, Address, Desired, Name, NetworkMode, Origin, Owner, Party, Traffic};

/// Says what documents allow of the interfaces that there are. The order of the documents does not count.
pub fn compile(desired: &Desired, nics: &Nics) -> Compiled {
    let mut access: Vec<Access> = desired.access.iter().map(tidied).collect();
    access.sort();
    access.dedup();
    let mut out = Compiled { access, networks: wires(desired), homes: homes(desired), ..Compiled::default() };
    for (vm, nics) in &nics.0 {
        let first = out.ports.len();
        let owner = desired.vms.get(vm).map(|vm| vm.owner.clone());
        for (nic, at) in nics {
            for address in &at.addresses {
                out.holders.entry(*address).or_default().push(out.ports.len());
            }
            let port = Port {
                vm: vm.clone(),
                nic: nic.clone(),
                owner: owner.clone(),
                at: at.clone(),
                out: Vec::new(),
                into: Vec::new(),
            };
            out.ports.push(port);
        }
        out.vms.insert(vm.clone(), (first, out.ports.len()));
    }
    out.doubt();
    let index = index(&out.ports);
    let none = Vec::new();
    let members = |party: &Party| key(party).and_then(|key| index.get(&key)).unwrap_or(&none).clone();
    out.sides = out.access.iter().map(|a| Sides { from: members(&a.from), to: members(&a.to) }).collect();
    for (rule, sides) in out.sides.iter().enumerate() {
        for port in &sides.from {
            out.ports[*port].out.push(rule);
        }
        for port in &sides.to {
            out.ports[*port].into.push(rule);
        }
    }
    out
}

impl Compiled {
    /// Forgets addresses that were seen at an interface and belong to another one: who claims them is not to be believed.
    fn doubt(&mut self) {
        let Self { ports, holders, .. } = self;
        for (number, port) in ports.iter_mut().enumerate().filter(|(_, port)| port.at.learns) {
            port.at.addresses.retain(|a| holders.get(a).is_none_or(|all| *all == [number]));
        }
        for (address, all) in &mut *holders {
            all.retain(|number| ports.get(*number).is_some_and(|port| port.at.addresses.contains(address)));
        }
        holders.retain(|_, all| !all.is_empty());
    }
}

fn tidied(access: &Access) -> Access {
    Access { traffic: Traffic::tidy(&access.traffic), ..access.clone() }
}

fn wires(desired: &Desired) -> BTreeMap<Name, Wire> {
    let wire = |network: &crate::model::Network| Wire {
        subnets: network.nets().collect(),
        hosts: network.host_addresses().collect(),
        isolated: network.mode == NetworkMode::Isolated,
        closed: network.closed,
    };
    desired.networks.iter().map(|(name, network)| (name.clone(), wire(network))).collect()
}

fn homes(desired: &Desired) -> BTreeMap<Address, Origin> {
    let services = desired.services.values().map(|s| (Address::Service(s.name.clone()), s.origin.clone()));
    let modules = desired.modules.values().map(|m| (Address::Module(m.name.clone()), m.origin.clone()));
    services.chain(modules).collect()
}

/// What the interfaces of a party have in common: kind, and up to two names.
type Key<'a> = (u8, &'a str, &'a str);

fn key(party: &Party) -> Option<Key<'_>> {
    Some(match party {
        Party::Service { service, app: None } => (0, service.as_str(), ""),
        Party::Service { service, app: Some(app) } => (1, service.as_str(), app.as_str()),
        Party::Module { module, member: None } => (2, module.as_str(), ""),
        Party::Instance { module, instance } => (3, module.as_str(), instance.as_str()),
        Party::Module { module, member: Some(member) } => (4, module.as_str(), member.as_str()),
        Party::Net(_) | Party::Host => return None,
        Party::Vm(vm) => (5, vm.as_str(), ""),
        Party::Network(network) => (6, network.as_str(), ""),
    })
}

/// The numbers of the interfaces of every party that can be named.
fn index(ports: &[Port]) -> BTreeMap<Key<'_>, Vec<usize>> {
    let mut out: BTreeMap<Key<'_>, Vec<usize>> = BTreeMap::new();
    for (number, port) in ports.iter().enumerate().filter(|(_, port)| !port.at.shut) {
        let mut keys: BTreeSet<Key<'_>> =
            BTreeSet::from([(5, port.vm.as_str(), ""), (6, port.at.network.as_str(), "")]);
        match &port.owner {
            Some(Owner::Service { service, app, .. }) => {
                keys.extend([(0, service.as_str(), ""), (1, service.as_str(), app.as_str())]);
            }
            Some(Owner::Module { module, instance, member }) => {
                let (module, instance, member) = (module.as_str(), instance.as_str(), member.as_str());
                keys.extend([(2, module, ""), (3, module, instance), (4, module, member)]);
            }
            // Nobody reaches a management instance by a name of its own.
            Some(Owner::Image { .. }) => drop(keys.remove(&(5, port.vm.as_str(), ""))),
            None => {}
        }
        for key in keys {
            out.entry(key).or_default().push(number);
        }
    }
    out
}
