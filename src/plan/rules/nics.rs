//! The interfaces that a fleet's VMs have, or will have when a plan is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{NicAt, Nics};
use crate::model::{Desired, Name, Network, Observed, Stamp, VmObs, nic_mac, tap_name};
use crate::plan::{Op, Plan};

/// Of what a guest was seen to have, what rules may go by: addresses of the subnet that its network's document says, but for
/// those of hosts, gateways and name servers. Without a subnet a guest could have itself opened a way to anybody.
pub(crate) fn believed(network: &Network, seen: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = IpAddr> {
    let own: BTreeSet<IpAddr> = network.own_addresses().collect();
    let nets: Vec<_> = network.nets().collect();
    let edge = |net: &ipnet::IpNet, a: IpAddr| net.addr().is_ipv4() && (a == net.network() || a == net.broadcast());
    seen.filter(move |a| !own.contains(a) && nets.iter().any(|net| net.contains(a) && !edge(net, *a)))
}

impl Nics {
    /// The interfaces of every VM that documents describe: with the address that the plan gives, else the one that it
    /// has, else the one that it is known to have had. One that nobody knows yet is left out.
    pub fn planned(desired: &Desired, observed: &Observed, plan: &Plan) -> Self {
        let mut stamps: BTreeMap<&Name, &Stamp> = BTreeMap::new();
        let mut seen: BTreeMap<&Name, &VmObs> = BTreeMap::new();
        for host in observed.hosts.values().filter_map(|host| host.known()) {
            seen.extend(host.vms.iter().filter(|(_, obs)| !obs.addresses.is_empty()));
            stamps.extend(host.vms.iter().map(|(vm, obs)| (vm, &obs.stamp)));
        }
        for step in plan.actions.iter().flat_map(|action| &action.steps) {
            if let Op::Define { stamp, .. } | Op::Edit { stamp, .. } = &step.op {
                stamps.insert(&stamp.vm, stamp);
            }
        }
        let fleet = &desired.fleet.name;
        let mut out = Self::default();
        for (vm, wanted) in &desired.vms {
            let nics = wanted.spec.nics.iter().map(|(nic, spec)| {
                let stamped = stamps.get(vm).and_then(|stamp| stamp.nics.get(nic));
                let record = observed.records.get(vm);
                let given = || stamped.and_then(|s| s.address).or_else(|| record?.addresses.get(nic).copied());
                let given6 = || stamped.and_then(|s| s.address6).or_else(|| record?.addresses6.get(nic).copied());
                let four = spec.address.or_else(given).map(IpAddr::V4);
                let six = spec.address6.or_else(given6).map(IpAddr::V6);
                let mut addresses: BTreeSet<IpAddr> = four.into_iter().chain(six).collect();
                let network = desired.networks.get(&spec.network);
                let planned = network.is_some_and(Network::is_planned);
                let learns = addresses.is_empty() && !planned;
                if let Some(((network, stamp), obs)) = network.zip(stamped).zip(seen.get(vm)).filter(|_| learns) {
                    addresses = believed(network, obs.seen_at(stamp)).collect();
                }
                let at = NicAt {
                    network: spec.network.clone(),
                    mac: stamped.map_or_else(|| nic_mac(fleet, vm, nic), |stamp| stamp.mac),
                    tap: tap_name(fleet, vm, nic),
                    learns,
                    addresses,
                    shut: stamps.get(vm).is_some_and(|stamp| stamp.quarantine.is_some()),
                };
                (nic.clone(), at)
            });
            out.0.insert(vm.clone(), nics.collect());
        }
        out
    }
}
