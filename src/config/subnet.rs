//! IPv6 of networks, and what only the whole can tell of addresses: those that are fixed, and whether ranges suffice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::check::GroupInfo;
use super::expand::Expanded;
use super::leaf::Addressing;
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::NetworkSpec;
use crate::model::{Ground, Name, Network, Nic, Six};

/// Where fixed addresses of interfaces were written; `true`: the one of IPv6.
pub(crate) type FixedAt = BTreeMap<(Name, bool), Mark>;

/// What a network gives in IPv6; reports what contradicts its subnet.
pub(crate) fn six(doc: &Doc<Box<NetworkSpec>>, sink: &mut Sink) -> Six {
    let spec = &doc.spec;
    let range = spec.range6.as_ref();
    let subnet = spec.subnet6.as_ref();
    let host_address = spec.host_address6.as_ref();
    let gateway = spec.gateway6.as_ref();
    let within = [
        ("hostAddress6", host_address),
        // Routers are known by their link-local address most often (RFC 4861 section 4.2).
        ("gateway6", gateway.filter(|g| !g.value.is_unicast_link_local())),
        ("range6.from", range.and_then(|r| r.from.as_ref())),
        ("range6.to", range.and_then(|r| r.to.as_ref())),
    ];
    for (field, address) in within.iter().filter_map(|(field, a)| a.map(|a| (field, a))) {
        match subnet {
            // All zeroes behind the prefix is the routers' anycast address (RFC 4291 section 2.6.1).
            Some(net) if !net.value.contains(&address.value) || is_anycast(net.value, address.value) => {
                let message = format!("`{field}` {} is not a host's address in {}", address.value, net.value);
                sink.report("E0405", address.at, message).also(net.at, "the subnet");
            }
            None if !doc.flawed => {
                sink.report("E0206", address.at, format!("`{field}` needs a `subnet6`"));
                break;
            }
            _ => {}
        }
    }
    Six {
        subnet: subnet.map(|s| s.value),
        host_address: host_address.map(|a| a.value),
        gateway: gateway.map(|a| a.value),
        range: range6(doc, sink),
    }
}

fn is_anycast(net: ipnet::Ipv6Net, address: Ipv6Addr) -> bool {
    net.prefix_len() < 127 && address == net.network()
}

fn range6(doc: &Doc<Box<NetworkSpec>>, sink: &mut Sink) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let range = doc.spec.range6.as_ref()?;
    if let Some(external) = doc.spec.addressing.as_ref().filter(|a| a.value == Addressing::External) {
        let message = "a range of planned addresses contradicts `addressing: external`";
        sink.report("E0409", range.at, message).also(external.at, "addresses are given by somebody else");
        return None;
    }
    let (from, to) = (range.from.as_ref()?, range.to.as_ref()?);
    if from.value > to.value {
        let message = format!("the range ends at {} before it begins at {}", to.value, from.value);
        sink.report("E0408", to.at, message).also(from.at, "`from`");
        return None;
    }
    Some((from.value, to.value))
}

/// What one family says of an interface and a network.
struct Side {
    fixed: Option<IpAddr>,
    range: Option<(IpAddr, IpAddr)>,
    subnet: Option<IpNet>,
    host: Option<IpAddr>,
    gateway: Option<IpAddr>,
    six: bool,
}

impl Side {
    fn both(nic: &Nic, ground: &Ground<'_>) -> [Self; 2] {
        let four = Self {
            fixed: nic.address.map(IpAddr::V4),
            range: ground.range.map(|(from, to)| (from.into(), to.into())),
            subnet: ground.subnet.map(IpNet::V4),
            host: ground.host_address.map(IpAddr::V4),
            gateway: ground.gateway.map(IpAddr::V4),
            six: false,
        };
        let six = Self {
            fixed: nic.address6.map(IpAddr::V6),
            range: ground.six.range.map(|(from, to)| (from.into(), to.into())),
            subnet: ground.six.subnet.map(IpNet::V6),
            host: ground.six.host_address.map(IpAddr::V6),
            gateway: ground.six.gateway.map(IpAddr::V6),
            six: true,
        };
        [four, six]
    }
}

/// Reports addresses outside their subnet or used twice, and ranges with too few addresses.
pub(crate) fn addresses(
    repo: &Repository,
    networks: &BTreeMap<Name, Network>,
    out: &Expanded,
    infos: &BTreeMap<Arc<str>, GroupInfo>,
    sink: &mut Sink,
) {
    let mut fixed: BTreeMap<(&Name, IpAddr), Mark> = BTreeMap::new();
    let mut planned: BTreeMap<(&Name, bool), u128> = BTreeMap::new();
    for (key, group) in &out.groups {
        let Some((info, spec)) = infos.get(key).and_then(|i| Some((i, i.spec.as_ref()?))) else {
            continue;
        };
        for (nic_name, nic) in &spec.nics {
            let Some(network) = networks.get(&nic.network) else {
                continue;
            };
            for side in network.grounds().iter().flat_map(|ground| Side::both(nic, ground)) {
                let Some(address) = side.fixed else {
                    if side.range.is_some() {
                        *planned.entry((&network.name, side.six)).or_default() += group.vms.len() as u128;
                    }
                    continue;
                };
                let at = info.addresses.get(&(nic_name.clone(), side.six)).copied().unwrap_or(info.at);
                let what = format!("interface `{nic_name}` of `{key}`");
                if group.vms.len() > 1 {
                    let message = format!("{what} fixes {address} for {} VMs", group.vms.len());
                    sink.report("E0406", at, message)
                        .help("leave the address out: each gets its own from the network's range");
                    continue;
                }
                let taken = [(side.host, "the host's own"), (side.gateway, "the gateway's")];
                if let Some((_, whose)) = taken.iter().find(|(a, _)| *a == Some(address)) {
                    sink.report("E0406", at, format!("{what} fixes {address}, which is {whose} on `{}`", network.name));
                }
                outside(repo, (&what, at), address, &side, network, sink);
                match fixed.get(&(&network.name, address)) {
                    Some(first) => drop(
                        sink.report("E0406", at, format!("{what} fixes {address}, which is taken"))
                            .also(*first, "taken here"),
                    ),
                    None => drop(fixed.insert((&network.name, address), at)),
                }
            }
        }
    }
    for ((name, six), wanted) in planned {
        let Some(network) = networks.get(name) else {
            continue;
        };
        enough(repo, network, six, wanted, &fixed, sink);
    }
}

/// Reports a fixed address that is not one of its subnet.
fn outside(
    repo: &Repository,
    (what, at): (&str, Mark),
    address: IpAddr,
    side: &Side,
    network: &Network,
    sink: &mut Sink,
) {
    let spec = repo.networks.get(&network.name).map(|doc| &doc.spec);
    match side.subnet {
        None if side.six && network.is_planned() => {
            let message = format!("{what} fixes {address}, but the network `{}` has no `subnet6`", network.name);
            sink.report("E0405", at, message).help("say the network's `subnet6`");
        }
        None => {
            let message = format!("{what} fixes {address}, but the network `{}` has no subnet", network.name);
            sink.report("E0409", at, message).help("its addresses are given by somebody else: fix it there");
        }
        Some(subnet) if !subnet.contains(&address) => {
            let message = format!("{what} fixes {address}, which is not in {subnet} of network `{}`", network.name);
            let report = sink.report("E0405", at, message);
            let there = match side.six {
                true => spec.and_then(|s| s.subnet6.as_ref()).map(|s| s.at),
                false => spec.and_then(|s| s.subnet.as_ref()).map(|s| s.at),
            };
            if let Some(there) = there {
                report.also(there, "the subnet");
            }
        }
        Some(_) => {}
    }
}

/// Reports a range with fewer addresses than interfaces.
fn enough(
    repo: &Repository,
    network: &Network,
    six: bool,
    wanted: u128,
    fixed: &BTreeMap<(&Name, IpAddr), Mark>,
    sink: &mut Sink,
) {
    let nic = Nic { network: network.name.clone(), address: None, address6: None };
    for side in network.grounds().iter().flat_map(|ground| Side::both(&nic, ground)).filter(|side| side.six == six) {
        let Some((from, to)) = side.range else { continue };
        let within = |a: &IpAddr| (from..=to).contains(a);
        let own: BTreeSet<IpAddr> = network.own_addresses().filter(within).collect();
        let fixed = fixed.keys().filter(|(n, a)| **n == network.name && within(a) && !own.contains(a)).count();
        let room = (number(to) - number(from)).saturating_add(1).saturating_sub((own.len() + fixed) as u128);
        if wanted > room {
            let spec = repo.networks.get(&network.name).map(|doc| &doc.spec);
            let at = match six {
                true => spec.and_then(|s| s.range6.as_ref()).map(|r| r.at),
                false => spec.and_then(|s| s.range.as_ref()).map(|r| r.at),
            };
            let message =
                format!("the range of network `{}` has {room} addresses for {wanted} interfaces", network.name);
            sink.report("E0407", at.unwrap_or_default(), message)
                .help("widen the range; a VM that goes frees its address only when it is gone");
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}
