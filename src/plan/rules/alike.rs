//! VMs that no rule tells apart, so that an answer for one of them is the answer for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Compiled, Port};
use crate::model::{Grant, Name, Owner, Party};

/// VMs that are alike.
#[derive(Clone, Debug)]
pub(crate) struct Class<'c> {
    /// The app, or the member of a module; `None` for a VM that no document describes any more.
    pub(crate) label: Option<Label<'c>>,
    /// At least one.
    pub(crate) vms: Vec<&'c Name>,
}

/// What a VM is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label<'c> {
    /// A service's app.
    App(&'c Name, &'c Name),
    /// A module's member, in whatever instance.
    Member(&'c Name, &'c Name),
}

impl Label<'_> {
    /// The service or module.
    pub(crate) fn owner(self) -> String {
        match self {
            Self::App(service, _) => format!("service/{service}"),
            Self::Member(module, _) => format!("module/{module}"),
        }
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::App(_, part) | Self::Member(_, part)) = self;
        write!(f, "{}/{part}", self.owner())
    }
}

/// All that rules can tell two interfaces apart by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Look<'c> {
    network: &'c Name,
    known: bool,
    out: Vec<usize>,
    into: Vec<usize>,
    /// The networks named in rules in which it has an address.
    within: Vec<usize>,
}

/// Networks that rules name, by prefix length and address.
pub(crate) struct Named {
    numbers: BTreeMap<IpNet, usize>,
    lengths: BTreeSet<(bool, u8)>,
}

impl Named {
    pub(crate) fn of(nets: impl Iterator<Item = IpNet>) -> Self {
        let all: BTreeSet<IpNet> = nets.map(|net| net.trunc()).collect();
        let lengths = all.iter().map(|net| (net.addr().is_ipv4(), net.prefix_len())).collect();
        Self { numbers: all.into_iter().enumerate().map(|(number, net)| (net, number)).collect(), lengths }
    }

    /// The numbers of the networks that have an address.
    pub(crate) fn with(&self, address: IpAddr) -> impl Iterator<Item = usize> + '_ {
        let lengths = self.lengths.iter().filter(move |(v4, _)| *v4 == address.is_ipv4());
        lengths.filter_map(move |(_, length)| {
            let net = IpNet::new(address, *length).ok()?.trunc();
            self.numbers.get(&net).copied()
        })
    }
}

impl Compiled {
    /// Every VM that there is, in classes. Unless `instances` count, VMs of a module are alike that differ only in whose
    /// mates they are.
    pub(crate) fn alike<'c>(&'c self, vms: impl Iterator<Item = &'c Name>, instances: bool) -> Vec<Class<'c>> {
        let parties = self.access.iter().flat_map(|a| [&a.from, &a.to]);
        let named = Named::of(parties.flat_map(|party| {
            match party {
                Party::Net(net) => std::slice::from_ref(net),
                Party::Network(network) => self.networks.get(network).map_or(&[] as &[IpNet], |wire| &wire.subnets),
                _ => &[],
            }
            .iter()
            .copied()
        }));
        let mut classes: BTreeMap<(Option<Label<'c>>, Vec<Look<'c>>), Vec<&'c Name>> = BTreeMap::new();
        for (vm, (first, end)) in vms.filter_map(|vm| self.vms.get_key_value(vm)) {
            let ports = &self.ports[*first..*end];
            let looks = ports.iter().map(|port| self.look(port, &named, instances)).collect();
            let label = ports.first().and_then(label);
            classes.entry((label, looks)).or_default().push(vm);
        }
        classes.into_iter().map(|((label, _), vms)| Class { label, vms }).collect()
    }

    fn look<'c>(&'c self, port: &'c Port, named: &Named, instances: bool) -> Look<'c> {
        let counts = |rule: &&usize| {
            let access = &self.access[**rule];
            instances || access.grant != Grant::Mates || !matches!(access.from, Party::Instance { .. })
        };
        let within: BTreeSet<usize> = port.at.addresses.iter().flat_map(|a| named.with(*a)).collect();
        Look {
            network: &port.at.network,
            known: !port.at.addresses.is_empty(),
            out: port.out.iter().filter(counts).copied().collect(),
            into: port.into.iter().filter(counts).copied().collect(),
            within: within.into_iter().collect(),
        }
    }
}

pub(crate) fn label(port: &Port) -> Option<Label<'_>> {
    Some(match port.owner.as_ref()? {
        Owner::Service { service, app, .. } => Label::App(service, app),
        Owner::Module { module, member, .. } => Label::Member(module, member),
        Owner::Image { .. } => return None,
    })
}
