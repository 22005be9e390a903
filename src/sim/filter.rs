//! The packet filter of a simulated host: what happens to it, and the promises about it.
//!
//! A VM of ours with an interface never runs where the filter does not know that interface, and no filter of ours grants
//! what no document explains. Where somebody took the filter away we are not to blame until we set it again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::world::{SimHost, World};
use crate::execute::{Done, StepError};
use crate::model::{
    Access, Desired, FilterObs, HostRules, Name, Owner, Party, Permit as Allowed, Stamp, TAP_PREFIX, TapRules, Traffic,
    Way,
};
use crate::plan::{Op, Plan, Step};

/// What is the matter with a host's filter, beside what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FilterState {
    /// It is as we set it.
    #[default]
    Ours,
    /// Somebody took it away, or nobody set one yet.
    Bare,
    /// Somebody changed it so that it is not ours any more: what is odd about it.
    Damaged(String),
    /// Rules cannot be set: why.
    Unable(String),
}

/// What documents say of who may talk to whom, as the promises need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    access: Vec<Access>,
    owners: BTreeMap<Name, Owner>,
    services: BTreeSet<Name>,
    /// The networks of each VM.
    networks: BTreeMap<Name, BTreeSet<Name>>,
    subnets: BTreeMap<Name, Vec<IpNet>>,
    /// The networks on each bridge.
    bridges: BTreeMap<String, BTreeSet<Name>>,
    /// Addresses of hosts on their bridges.
    hosts: BTreeSet<IpAddr>,
    /// Who has an address once the plan is done.
    holders: BTreeMap<IpAddr, BTreeSet<Name>>,
}

impl Explained {
    /// What a plan gives its VMs.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut explained = Self::default();
        explained.learn(plan);
        explained
    }

    fn learn(&mut self, plan: &Plan) {
        for op in plan.actions.iter().flat_map(|a| &a.steps).map(|s| &s.op) {
            if let Op::Define { stamp, .. } | Op::Edit { stamp, .. } | Op::DefineFrom { stamp, .. } = op {
                self.hold(stamp);
            }
        }
    }

    /// What the documents say.
    pub(super) fn of_fleet(&mut self, desired: &Desired) {
        self.access.clone_from(&desired.access);
        self.services = desired.services.keys().cloned().collect();
        self.owners.extend(desired.vms.iter().map(|(name, vm)| (name.clone(), vm.owner.clone())));
        for (name, vm) in &desired.vms {
            let networks = vm.spec.nics.values().map(|nic| nic.network.clone());
            self.networks.entry(name.clone()).or_default().extend(networks);
        }
        for (name, network) in &desired.networks {
            self.bridges.entry(network.bridge.as_ref().to_owned()).or_default().insert(name.clone());
        }
        self.subnets = desired.networks.iter().map(|(name, n)| (name.clone(), n.nets().collect())).collect();
        self.hosts.extend(desired.networks.values().flat_map(crate::model::Network::host_addresses));
    }

    fn hold(&mut self, stamp: &Stamp) {
        if !self.owners.contains_key(&stamp.vm)
            && let Some(owner) = self.owner(&stamp.group)
        {
            self.owners.insert(stamp.vm.clone(), owner);
        }
        for address in stamp.nics.values().flat_map(crate::model::NicStamp::addresses) {
            self.holders.entry(address).or_default().insert(stamp.vm.clone());
        }
    }

    /// The owner that a group's key names: `shop/web`, `course/ann/desk`.
    fn owner(&self, group: &str) -> Option<Owner> {
        let mut parts = group.split('/').map(Name::new);
        let (first, second) = (parts.next()?.ok()?, parts.next()?.ok()?);
        if self.services.contains(&first) {
            return Some(Owner::Service { service: first, app: second, ordinal: 0 });
        }
        Some(Owner::Module { module: first, instance: second, member: parts.next()?.ok()? })
    }

    /// Whether a document says that a VM and its peer may do this.
    fn allows(&self, tap: &TapRules, permit: &Allowed) -> bool {
        self.access.iter().any(|access| {
            let (mine, theirs) = match permit.way {
                Way::Out => (&access.from, &access.to),
                Way::In => (&access.to, &access.from),
            };
            self.is(mine, &tap.vm)
                && self.is_peer(theirs, permit)
                && access.traffic.iter().any(|t| covers(*t, permit.traffic))
        })
    }

    fn is(&self, party: &Party, vm: &Name) -> bool {
        let owner = self.owners.get(vm);
        match (party, owner) {
            (Party::Vm(name), _) => name == vm,
            (Party::Service { service, app }, Some(Owner::Service { service: s, app: a, .. })) => {
                service == s && app.as_ref().is_none_or(|app| app == a)
            }
            (Party::Module { module, member }, Some(Owner::Module { module: m, member: v, .. })) => {
                module == m && member.as_ref().is_none_or(|member| member == v)
            }
            (Party::Instance { module, instance }, Some(Owner::Module { module: m, instance: i, .. })) => {
                module == m && instance == i
            }
            (Party::Network(network), _) => self.networks.get(vm).is_some_and(|all| all.contains(network)),
            _ => false,
        }
    }

    fn is_peer(&self, party: &Party, permit: &Allowed) -> bool {
        match party {
            Party::Net(net) => net.contains(&permit.peer),
            Party::Host => self.hosts.contains(&permit.peer.addr()),
            Party::Network(network)
                if self.subnets.get(network).is_some_and(|nets| nets.iter().any(|net| net.contains(&permit.peer))) =>
            {
                true
            }
            vm => self.holders.get(&permit.peer.addr()).into_iter().flatten().any(|name| self.is(vm, name)),
        }
    }
}

/// Whether packets of the second kind are of the first.
fn covers(wide: Traffic, narrow: Traffic) -> bool {
    match (wide, narrow) {
        (Traffic::Any, _) | (Traffic::Icmp, Traffic::Icmp) => true,
        (Traffic::Tcp(a), Traffic::Tcp(b)) | (Traffic::Udp(a), Traffic::Udp(b)) => {
            a.first <= b.first && b.last <= a.last
        }
        _ => false,
    }
}

impl SimHost {
    /// What an observer reads of the filter.
    pub(super) fn see_filter(&self) -> FilterObs {
        match &self.filter_state {
            FilterState::Ours | FilterState::Bare => FilterObs::Table(self.filter.clone()),
            FilterState::Damaged(what) => FilterObs::Damaged(what.clone()),
            FilterState::Unable(why) => FilterObs::Unable(why.clone()),
        }
    }

    /// The filter is gone, and not by us.
    pub(super) fn flush_filter(&mut self) {
        self.filter = HostRules::default();
        if !matches!(self.filter_state, FilterState::Unable(_)) {
            self.filter_state = FilterState::Bare;
        }
    }
}

impl World {
    pub(super) fn set_rules(&mut self, step: &Step, rules: &HostRules) -> Result<Done, StepError> {
        let host = self.host(&step.host)?;
        if let FilterState::Unable(why) = &host.filter_state {
            return Err(StepError::failed(why.clone()));
        }
        let machine = host.uuid;
        let same = host.filter == *rules && !matches!(host.filter_state, FilterState::Damaged(_));
        // A machine has one filter, whatever number of documents it has.
        for host in self.hosts.values_mut().filter(|h| h.uuid == machine) {
            host.filter = rules.clone();
            host.filter_state = FilterState::Ours;
        }
        if !self.unguarded && self.permit.bound {
            self.learn_holders();
            self.permit.set.push((Self::step_name(step), rules.clone()));
        }
        Ok(if same { Done::Already } else { Done::Changed })
    }

    /// Who has which address now, and is on which network.
    fn learn_holders(&mut self) {
        let mut explained = std::mem::take(&mut self.permit.explained);
        for host in self.hosts.values().chain(self.aside.values()) {
            for domain in host.domains.values() {
                let Some(stamp) = &domain.stamp else { continue };
                explained.hold(stamp);
                for address in domain.learnt.values().flatten() {
                    explained.holders.entry(*address).or_default().insert(stamp.vm.clone());
                }
                let nics = domain.live.iter().chain([&domain.config]).flat_map(|shape| shape.nics.values());
                let networks: BTreeSet<Name> =
                    nics.filter_map(|nic| explained.bridges.get(&nic.bridge)).flatten().cloned().collect();
                explained.networks.entry(stamp.vm.clone()).or_default().extend(networks);
            }
            for (vm, record) in &host.records {
                for address in record.all_addresses() {
                    explained.holders.entry(address).or_default().insert(vm.clone());
                }
            }
            let own = host.bridges.values().flat_map(|b| &b.addresses);
            explained.hosts.extend(own.filter_map(|a| a.split('/').next()?.parse::<IpAddr>().ok()));
        }
        // Where the store was kept, it knows the addresses of VMs whose hosts do not answer.
        for (vm, record) in &self.memory.records {
            for address in record.all_addresses() {
                explained.holders.entry(address).or_default().insert(vm.clone());
            }
        }
        self.permit.explained = explained;
    }

    /// Nothing was granted by the filters that a pass set that no document explains. The plans of the pass say who gets which
    /// address.
    pub(super) fn guard_grants<'p>(&mut self, plans: impl Iterator<Item = &'p Plan>) {
        self.learn_holders();
        plans.for_each(|plan| self.permit.explained.learn(plan));
        let explained = std::mem::take(&mut self.permit.explained);
        for (step, rules) in std::mem::take(&mut self.permit.set) {
            for tap in rules.taps.values() {
                for permit in tap.permits.iter().filter(|p| !explained.allows(tap, p)) {
                    let what = format!("{} is granted {:?} {} {}", tap.vm, permit.way, permit.peer, permit.traffic);
                    self.broken(&step, &format!("{what}, and no document says so"));
                }
            }
        }
    }

    /// No guest of ours is alive on an interface that the filter of its host does not know.
    pub(super) fn guard_filters(&self) -> Vec<String> {
        let Some(fleet) = self.permit.fleet.as_ref().filter(|_| self.permit.bound) else { return Vec::new() };
        let mut broken = Vec::new();
        for (name, host) in self.hosts.iter().filter(|(_, h)| h.filter_state == FilterState::Ours) {
            let mine = host.active().filter_map(|(_, d)| Some((d.stamp.as_ref()?, d.live.as_ref()?)));
            for (stamp, live) in mine.filter(|(stamp, _)| stamp.fleet == *fleet) {
                for tap in live.nics.values().filter_map(|n| n.tap.as_ref()).filter(|t| t.starts_with(TAP_PREFIX)) {
                    if !host.filter.taps.contains_key(tap) {
                        broken.push(format!("{} is alive on {name} without rules for {tap}", stamp.vm));
                    }
                }
            }
        }
        broken
    }

    /// When nothing is left to do, no filter knows a VM that is not there.
    pub(super) fn guard_leftovers(&mut self) {
        let mut broken = Vec::new();
        for (name, host) in self.hosts.iter().filter(|(_, h)| h.away.is_none()) {
            let machine = self.hosts.values().filter(|h| h.uuid == host.uuid);
            let there: BTreeSet<&Name> =
                machine.flat_map(|h| h.domains.values()).filter_map(|d| d.stamp.as_ref()).map(|s| &s.vm).collect();
            for tap in host.filter.taps.values().filter(|t| !there.contains(&t.vm)) {
                broken.push(format!("the filter of {name} knows {}, which is not there", tap.vm));
            }
        }
        for what in broken {
            self.broken("the end of a pass", &what);
        }
    }
}
