//! Rules opened and closed: what the filters of all hosts grant, before and after, said of groups and of addresses outside.
//!
//! Before is what was read back from the hosts, not what an earlier document said. A peer is an address there; whose it is,
//! is known from the interfaces that VMs have and get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stays::Stay;
use super::types::Risk;
use crate::model::{Access, Address, Desired, Grant, HostRules, Name, Origin, Party, Traffic, Way};

/// Who may begin what with whom, where that is another before and after the plan: a row of the reachability matrix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReachChange {
    /// Who begins: the key of a group (`shop/web`, `course/ann/desk`), `network/lan`, or addresses outside.
    pub from: String,
    /// Who is reached.
    pub to: String,
    /// With what, before.
    pub before: BTreeSet<Traffic>,
    /// With what, after.
    pub after: BTreeSet<Traffic>,
    /// Why it is, or was, allowed.
    pub grant: Grant,
    /// It comes or goes with the VMs themselves: mates and system addresses of a group that is new, or ends.
    pub implied: bool,
    /// The rule that opens it.
    pub origin: Option<Origin>,
}

impl ReachChange {
    /// `shop/web -> shop/db: tcp/5432`, if something is opened.
    pub fn opened(&self) -> Option<String> {
        self.sentence(&self.after, &self.before)
    }
    /// The same for what is closed.
    pub fn closed(&self) -> Option<String> {
        self.sentence(&self.before, &self.after)
    }
    fn sentence(&self, has: &BTreeSet<Traffic>, not: &BTreeSet<Traffic>) -> Option<String> {
        let traffic: Vec<String> = has.difference(not).map(ToString::to_string).collect();
        (!traffic.is_empty()).then(|| format!("{} -> {}: {}", self.from, self.to, traffic.join(", ")))
    }
}

/// What tables grant, by who begins and who is reached.
pub(super) type Granted = BTreeMap<(Arc<str>, Arc<str>), BTreeSet<Traffic>>;

/// What people call the ends of a permit.
pub(super) struct Names<'a> {
    desired: &'a Desired,
    groups: BTreeMap<&'a Name, Arc<str>>,
    holders: BTreeMap<IpAddr, Arc<str>>,
    subnets: BTreeMap<IpNet, Arc<str>>,
    system: BTreeSet<IpNet>,
    hosts: BTreeSet<IpAddr>,
    before: BTreeSet<Arc<str>>,
    after: BTreeSet<Arc<str>>,
}

impl<'a> Names<'a> {
    /// `group` gives the key of a VM's group, `hosts` are the hosts' own addresses.
    pub(super) fn new(
        desired: &'a Desired,
        stays: &'a BTreeMap<Name, Stay>,
        group: impl Fn(&Name) -> Arc<str>,
        hosts: BTreeSet<IpAddr>,
    ) -> Self {
        let mut names = Self {
            desired,
            groups: BTreeMap::new(),
            holders: BTreeMap::new(),
            subnets: BTreeMap::new(),
            system: BTreeSet::new(),
            hosts,
            before: BTreeSet::new(),
            after: BTreeSet::new(),
        };
        for network in desired.networks.values() {
            let label: Arc<str> = format!("network/{}", network.name).into();
            names.subnets.extend(network.nets().map(|net| (net, label.clone())));
            names.hosts.extend(network.host_addresses());
        }
        let system = desired.access.iter().filter(|a| a.grant == Grant::System);
        let nets =
            system.flat_map(|a| [&a.from, &a.to]).filter_map(|p| if let Party::Net(n) = p { Some(*n) } else { None });
        names.system.extend(nets);
        for (vm, stay) in stays {
            let group = group(vm);
            for nics in [&stay.nics_now, &stay.nics_then] {
                let addresses = nics.values().flat_map(|nic| nic.addresses.iter().copied());
                names.holders.extend(addresses.map(|a| (a, group.clone())));
            }
            if !stay.nics_now.is_empty() {
                names.before.insert(group.clone());
            }
            if !stay.nics_then.is_empty() {
                names.after.insert(group.clone());
            }
            names.groups.insert(vm, group);
        }
        names
    }

    /// What tables grant; what a host may do with its own VMs is left out.
    pub(super) fn granted<'t>(&self, tables: impl IntoIterator<Item = &'t HostRules>) -> Granted {
        let mut granted = Granted::new();
        for tap in tables.into_iter().flat_map(|t| t.taps.values()) {
            let mine = self.groups.get(&tap.vm).cloned().unwrap_or_else(|| Arc::from(tap.vm.as_str()));
            for permit in &tap.permits {
                let Some(peer) = self.label(permit.peer) else { continue };
                let pair = match permit.way {
                    Way::Out => (mine.clone(), peer),
                    Way::In => (peer, mine.clone()),
                };
                granted.entry(pair).or_default().insert(permit.traffic);
            }
        }
        granted
    }

    fn label(&self, peer: IpNet) -> Option<Arc<str>> {
        let address = peer.addr();
        if peer.prefix_len() == peer.max_prefix_len() {
            if let Some(group) = self.holders.get(&address) {
                return Some(group.clone());
            }
            if self.hosts.contains(&address) {
                return None;
            }
            return Some(address.to_string().into());
        }
        Some(self.subnets.get(&peer).cloned().unwrap_or_else(|| peer.to_string().into()))
    }

    /// Rows that are another before and after.
    pub(super) fn changes(&self, before: &Granted, after: &Granted) -> Vec<ReachChange> {
        let pairs: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let none = BTreeSet::new();
        let mut rows = Vec::new();
        for pair in pairs {
            let (was, will) = (before.get(pair).unwrap_or(&none), after.get(pair).unwrap_or(&none));
            if was == will {
                continue;
            }
            let (from, to) = pair;
            let grant = self.grant(from, to);
            let there = |groups: &BTreeSet<Arc<str>>| {
                [from, to].into_iter().all(|label| groups.contains(label) || !self.is_group(label))
            };
            let implied = grant != Grant::Declared && !(there(&self.before) && there(&self.after));
            let origin = self.rule(from, to, will).map(|access| access.origin.clone());
            rows.push(ReachChange {
                from: from.to_string(),
                to: to.to_string(),
                before: was.clone(),
                after: will.clone(),
                grant,
                implied,
                origin,
            });
        }
        rows
    }

    fn is_group(&self, label: &Arc<str>) -> bool {
        self.before.contains(label) || self.after.contains(label)
    }

    fn grant(&self, from: &Arc<str>, to: &Arc<str>) -> Grant {
        let net = |label: &str| label.parse::<IpNet>().or_else(|_| label.parse::<IpAddr>().map(IpNet::from)).ok();
        if [from, to].into_iter().filter_map(|label| net(label)).any(|net| self.system.contains(&net)) {
            return Grant::System;
        }
        let mates = self.is_group(from) && self.is_group(to) && self.owner(from) == self.owner(to);
        if mates { Grant::Mates } else { Grant::Declared }
    }

    /// A service, or an instance of a module.
    fn owner<'l>(&self, group: &'l str) -> &'l str {
        let first = group.split('/').next().unwrap_or_default();
        let module = Name::new(first).is_ok_and(|name| self.desired.modules.contains_key(&name));
        if module { group.rsplit_once('/').map_or(group, |(owner, _)| owner) } else { first }
    }

    /// The rule that allows something from one to the other.
    fn rule(&self, from: &str, to: &str, traffic: &BTreeSet<Traffic>) -> Option<&'a Access> {
        let is = |party: &Party, label: &str| party_is(party, label, &self.subnets);
        let declared = self.desired.access.iter().filter(|a| a.grant == Grant::Declared);
        let mut found = declared.filter(|a| is(&a.from, from) && is(&a.to, to));
        found.find(|a| a.traffic.iter().any(|t| traffic.contains(t)))
    }
}

/// Whether a party of a rule is, or takes in, what a label stands for.
fn party_is(party: &Party, label: &str, subnets: &BTreeMap<IpNet, Arc<str>>) -> bool {
    let under = |key: String| label == key || label.strip_prefix(&key).is_some_and(|rest| rest.starts_with('/'));
    let parts: Vec<&str> = label.split('/').collect();
    match party {
        Party::Service { service, app: None } => under(service.to_string()),
        Party::Service { service, app: Some(app) } => under(format!("{service}/{app}")),
        Party::Module { module, member: None } => under(module.to_string()),
        Party::Module { module, member: Some(member) } => {
            parts.first() == Some(&module.as_str()) && parts.last() == Some(&member.as_str())
        }
        Party::Instance { module, instance } => under(format!("{module}/{instance}")),
        Party::Network(network) => label == format!("network/{network}"),
        Party::Net(net) => {
            label == net.to_string()
                || label == net.addr().to_string()
                || subnets.get(net).is_some_and(|n| **n == *label)
        }
        Party::Vm(_) | Party::Host => false,
    }
}

/// Flags what is opened to many: `R301`.
pub(super) fn exposed(desired: &Desired, rows: &[ReachChange]) -> Vec<Risk> {
    let mut risks = Vec::new();
    for row in rows.iter().filter(|row| row.grant == Grant::Declared) {
        let Ok(net) = row.from.parse::<IpNet>() else { continue };
        let opened: Vec<Traffic> = row.after.difference(&row.before).copied().collect();
        let wide = is_wide(net);
        if opened.is_empty() || !(wide || opened.contains(&Traffic::Any)) {
            continue;
        }
        let Some(owner) = row.to.split('/').next().and_then(|name| Name::new(name).ok()) else { continue };
        let subject =
            if desired.modules.contains_key(&owner) { Address::Module(owner) } else { Address::Service(owner) };
        let traffic: Vec<String> = opened.iter().map(ToString::to_string).collect();
        let text = format!("{} is opened to {net}: {}", row.to, traffic.join(", "));
        risks.push(Risk { code: "R301".to_owned(), subject, text });
    }
    risks
}

/// Ranges that are more than a site: IPv4 shorter than /16, IPv6 shorter than /32 (what a provider has, RFC 6177 gives a
/// site /48).
fn is_wide(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 16,
        IpNet::V6(net) => net.prefix_len() < 32,
    }
}
