//! From who may talk to whom to the filter of each host.
//!
//! *Takes* what documents allow ([`Desired::access`](crate::model::Desired::access)) and the interfaces that VMs have
//! ([`Nics`]). *Gives* the filter of a host, the matrix that a reviewer reads, and the answer to "does A reach B".
//! *Never* knows on which host a VM is: a rule holds wherever both ends are, and both ends filter.
//!
//! A VM in quarantine is a side of no rule: nothing passes at its interfaces, and nobody else's rules name it.
//!
//! A VM is known to other VMs by its addresses, so whoever may move, stop or be elsewhere counts as long as it has one.
//! Two interfaces can talk when they are on one network, or when neither of their networks is isolated.

mod alike;
mod compile;
mod flow;
mod matrix;
mod nics;
mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use compile::compile;
pub use matrix::{Cell, Matrix};
pub(crate) use nics::believed;
pub use reach::{End, Missing, Pair, Passing, Reason, Said, Verdict, sentence};

use crate::model::{Access, Address, HostRules, Mac, Name, Origin, Owner, Party, Permit, TapRules, Way};

/// The interfaces of every VM that exists or will, by VM and interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nics(pub BTreeMap<Name, BTreeMap<Name, NicAt>>);

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicAt {
    /// The network that it is on.
    pub network: Name,
    /// Its hardware address.
    pub mac: Mac,
    /// Its tap's name on a host.
    pub tap: String,
    /// The addresses that it has, as far as they are known: those that were planned, or were seen.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether its network gives it addresses.
    pub learns: bool,
    /// Whether its VM is in quarantine: no rule speaks of it, not even that of an open network.
    pub shut: bool,
}

/// What documents allow, said of interfaces.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The rules, in order.
    access: Vec<Access>,
    /// The interfaces of each rule's sides, by number, in order.
    sides: Vec<Sides>,
    /// Every interface, by VM and name.
    ports: Vec<Port>,
    /// The numbers of each VM's interfaces: first, and one past the last.
    vms: BTreeMap<Name, (usize, usize)>,
    /// The interfaces that have an address.
    holders: BTreeMap<IpAddr, Vec<usize>>,
    networks: BTreeMap<Name, Wire>,
    /// Addresses that hosts have on their bridges, as far as anybody looked.
    hosts: BTreeSet<IpAddr>,
    /// Where services and modules were written.
    homes: BTreeMap<Address, Origin>,
}

#[derive(Clone, Debug, Default)]
struct Sides {
    from: Vec<usize>,
    to: Vec<usize>,
}

/// An interface with the numbers of the rules in which it is a side.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    vm: Name,
    nic: Name,
    /// `None`: no document describes the VM any more.
    owner: Option<Owner>,
    at: NicAt,
    out: Vec<usize>,
    into: Vec<usize>,
}

/// What rules need to know of a network.
#[derive(Clone, Debug)]
struct Wire {
    /// Its subnets, of every family and host; none: nobody said any.
    subnets: Vec<IpNet>,
    /// The addresses that hosts have on it, as far as documents say.
    hosts: Vec<IpAddr>,
    isolated: bool,
    closed: bool,
}

/// A rule that has, for now, nothing to say of an interface: its network gives it an address, and none was seen yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unknown {
    /// The VM whose address is not known.
    pub vm: Name,
    /// The interface.
    pub nic: Name,
    /// The network that will give it one.
    pub network: Name,
}

/// The address itself, as a network.
fn exactly(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

impl Compiled {
    /// The filter of a host that has these VMs, where `own` are the host's own addresses on its bridges.
    pub fn host<'n>(&self, vms: impl Iterator<Item = &'n Name>, own: &BTreeSet<IpAddr>) -> HostRules {
        let ports = vms.filter_map(|vm| self.vms.get(vm)).flat_map(|(first, end)| &self.ports[*first..*end]);
        HostRules { taps: ports.map(|port| (port.at.tap.clone(), self.tap(port, own))).collect() }
    }

    /// The same, told which addresses hosts have on their bridges: for questions about such an address.
    #[must_use]
    pub fn with_hosts(self, hosts: BTreeSet<IpAddr>) -> Self {
        Self { hosts, ..self }
    }

    /// The rules that it was made from, in order.
    pub fn access(&self) -> &[Access] {
        &self.access
    }

    /// The interfaces that some other VM may talk to, if only their address were known.
    pub fn unknown(&self) -> BTreeSet<Unknown> {
        let asked = |port: &&Port| port.at.addresses.is_empty() && self.has_peer(port);
        let of = |port: &Port| Unknown { vm: port.vm.clone(), nic: port.nic.clone(), network: port.at.network.clone() };
        self.ports.iter().filter(asked).map(of).collect()
    }

    /// Whether a rule has this interface on one side, and another VM of ours on the other.
    fn has_peer(&self, port: &Port) -> bool {
        let other = |ports: &[usize]| ports.iter().any(|other| self.ports[*other].vm != port.vm);
        port.out.iter().any(|rule| other(&self.sides[*rule].to))
            || port.into.iter().any(|rule| other(&self.sides[*rule].from))
    }

    fn tap(&self, port: &Port, own: &BTreeSet<IpAddr>) -> TapRules {
        let open = self.is_open(port);
        let mut permits = BTreeSet::new();
        if !open {
            for rule in &port.out {
                self.permit(port, Way::Out, *rule, own, &mut permits);
            }
            for rule in &port.into {
                self.permit(port, Way::In, *rule, own, &mut permits);
            }
        }
        TapRules {
            vm: port.vm.clone(),
            nic: port.nic.clone(),
            mac: port.at.mac,
            // It claims none: what is shut says nothing at all.
            // What its network gave it was seen, not said: it may have another one by now. So only its hardware address holds.
            addresses: if port.at.shut || port.at.learns { BTreeSet::new() } else { port.at.addresses.clone() },
            learns: port.at.learns && !port.at.shut,
            open,
            permits,
        }
    }

    /// What one rule permits at an interface that is on one of its sides.
    fn permit(&self, port: &Port, way: Way, rule: usize, own: &BTreeSet<IpAddr>, out: &mut BTreeSet<Permit>) {
        let access = &self.access[rule];
        let mut peers: Vec<IpNet> = Vec::new();
        match self.other(rule, way) {
            (Party::Net(net), _) => peers.extend(Some(*net).filter(|net| self.leads(port, *net))),
            (Party::Host, _) => peers.extend(self.host_addresses(port, own).map(exactly)),
            (party, others) => {
                let subnets = self.subnets(port, party);
                peers.extend(subnets);
                let linked = others.iter().map(|n| &self.ports[*n]).filter(|o| o.vm != port.vm && self.linked(port, o));
                let addresses = linked.flat_map(|o| &o.at.addresses).copied();
                peers.extend(addresses.filter(|a| !subnets.iter().any(|net| net.contains(a))).map(exactly));
            }
        }
        for peer in peers {
            out.extend(access.traffic.iter().map(|traffic| Permit { way, peer, traffic: *traffic }));
        }
    }

    /// The other side of a rule, for one who goes out by it or is gone in to.
    fn other(&self, rule: usize, way: Way) -> (&Party, &[usize]) {
        match way {
            Way::Out => (&self.access[rule].to, &self.sides[rule].to),
            Way::In => (&self.access[rule].from, &self.sides[rule].from),
        }
    }

    /// All addresses of a network that is a side of a rule, where an interface can get to them.
    fn subnets(&self, port: &Port, party: &Party) -> &[IpNet] {
        let Party::Network(network) = party else { return &[] };
        let wire = self.networks.get(network).filter(|_| self.meets(&port.at.network, network));
        wire.map_or(&[], |wire| &wire.subnets)
    }

    /// The host's addresses that count on an interface's network.
    fn host_addresses<'c>(&'c self, port: &Port, own: &'c BTreeSet<IpAddr>) -> impl Iterator<Item = IpAddr> + 'c {
        let wire = self.networks.get(&port.at.network);
        let subnets: &[IpNet] = wire.map_or(&[], |w| &w.subnets);
        let here = move |a: &IpAddr| subnets.is_empty() || subnets.iter().any(|net| net.contains(a));
        own.iter().copied().filter(here).chain(wire.into_iter().flat_map(|w| w.hosts.iter().copied()))
    }

    /// Whether the interface's network has no filter.
    fn is_open(&self, port: &Port) -> bool {
        !port.at.shut && self.networks.get(&port.at.network).is_some_and(|wire| !wire.closed)
    }

    fn is_isolated(&self, network: &Name) -> bool {
        self.networks.get(network).is_some_and(|wire| wire.isolated)
    }

    /// Whether packets can get from one interface to the other at all.
    fn linked(&self, a: &Port, b: &Port) -> bool {
        let (a, b) = (&a.at, &b.at);
        // One of IPv4 alone and one of IPv6 alone have nothing to say to each other.
        let apart = |six: bool| {
            a.addresses.iter().any(|x| x.is_ipv6() == six) != b.addresses.iter().any(|x| x.is_ipv6() == six)
        };
        let strangers = !a.addresses.is_empty() && !b.addresses.is_empty() && apart(false) && apart(true);
        !strangers && self.meets(&a.network, &b.network)
    }

    /// Whether packets can get from one network to the other.
    fn meets(&self, a: &Name, b: &Name) -> bool {
        a == b || !(self.is_isolated(a) || self.is_isolated(b))
    }

    /// Whether packets can get from an interface to some of these addresses.
    fn leads(&self, port: &Port, net: IpNet) -> bool {
        let Some(wire) = self.networks.get(&port.at.network).filter(|wire| wire.isolated) else { return true };
        // A router is known by its link-local address, which every link has (RFC 4291 section 2.5.6).
        let link = matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local() && net.prefix_len() >= 10);
        link || wire.subnets.is_empty()
            || wire.subnets.iter().any(|subnet| subnet.contains(&net) || net.contains(subnet))
    }
}
