//! The interfaces that a fleet's VMs have, or will have when a plan is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{NicAt, Nics};
use crate::model::{Desired, Name, Observed, Stamp, nic_mac, tap_name};
use crate::plan::{Op, Plan};

impl Nics {
    /// The interfaces of every VM that documents describe: with the address that the plan gives, else the one that it
    /// has, else the one that it is known to have had. One that nobody knows yet is left out.
    pub fn planned(desired: &Desired, observed: &Observed, plan: &Plan) -> Self {
        let mut stamps: BTreeMap<&Name, &Stamp> = BTreeMap::new();
        for host in observed.hosts.values().filter_map(|host| host.known()) {
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
                let addresses: BTreeSet<IpAddr> = four.into_iter().chain(six).collect();
                let planned = desired.networks.get(&spec.network).is_some_and(crate::model::Network::is_planned);
                let at = NicAt {
                    network: spec.network.clone(),
                    mac: stamped.map_or_else(|| nic_mac(fleet, vm, nic), |stamp| stamp.mac),
                    tap: tap_name(fleet, vm, nic),
                    learns: addresses.is_empty() && !planned,
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
