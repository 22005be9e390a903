//! What a network gives to the VMs on it: subnets, ranges, gateways, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::desired::Network;
use super::ids::Name;

/// What a network gives in IPv6. All four may be missing: then the network is one of IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Six {
    /// The subnet.
    pub subnet: Option<Ipv6Net>,
    /// The host's own address on the bridge.
    pub host_address: Option<Ipv6Addr>,
    /// The guests' default route: an address of the subnet, or a link-local one.
    pub gateway: Option<Ipv6Addr>,
    /// First and last address that may be planned.
    pub range: Option<(Ipv6Addr, Ipv6Addr)>,
}

/// What holds for the VMs of a network on one host.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The IPv4 subnet, when it is known.
    pub subnet: Option<Ipv4Net>,
    /// The host's own address on the bridge.
    pub host_address: Option<Ipv4Addr>,
    /// The guests' default route.
    pub gateway: Option<Ipv4Addr>,
    /// First and last address that may be planned.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The same in IPv6.
    pub six: Six,
    /// Name servers given to guests.
    pub dns: &'a [IpAddr],
}

impl Ground<'_> {
    /// Whether addresses on it are ours to plan, in one family at least.
    pub const fn is_planned(&self) -> bool {
        self.range.is_some() || self.six.range.is_some()
    }
    /// Its subnets, one a family.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + use<> {
        let four = self.subnet.map(|net| IpNet::V4(net.trunc()));
        four.into_iter().chain(self.six.subnet.map(|net| IpNet::V6(net.trunc())))
    }
    /// The host's own addresses on the bridge.
    pub fn host_addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.host_address.map(IpAddr::V4).into_iter().chain(self.six.host_address.map(IpAddr::V6))
    }
    /// The same with the length of the subnet's prefix, as `ip` writes them: IPv4, IPv6.
    pub fn host_prefixes(&self) -> (Option<String>, Option<String>) {
        let four = self.host_address.map(|a| format!("{a}/{}", self.prefix()));
        (four, self.six.host_address.map(|a| format!("{a}/{}", self.prefix6())))
    }
    /// The length of the IPv4 prefix; 32 where no subnet says one.
    pub fn prefix(&self) -> u8 {
        self.subnet.map_or(32, |net| net.prefix_len())
    }
    /// The length of the IPv6 prefix; 128 where no subnet says one.
    pub fn prefix6(&self) -> u8 {
        self.six.subnet.map_or(128, |net| net.prefix_len())
    }
}

impl Network {
    /// What holds for its VMs on a host.
    pub fn ground(&self, _host: &Name) -> Ground<'_> {
        self.whole()
    }
    /// All that it has, for whoever does not care which host.
    pub fn grounds(&self) -> Vec<Ground<'_>> {
        vec![self.whole()]
    }
    fn whole(&self) -> Ground<'_> {
        Ground {
            subnet: self.subnet,
            host_address: self.host_address,
            gateway: self.gateway,
            range: self.range,
            six: self.six,
            dns: &self.dns,
        }
    }
    /// The addresses on it that belong to hosts, gateways and name servers: no VM gets one.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.grounds().into_iter().flat_map(|ground| {
            let four = ground.gateway.map(IpAddr::V4).into_iter();
            four.chain(ground.six.gateway.map(IpAddr::V6))
                .chain(ground.host_addresses())
                .chain(ground.dns.iter().copied())
        })
    }
    /// Whether its addresses are ours to plan; else it gives them itself (DHCP, router advertisements).
    pub fn is_planned(&self) -> bool {
        self.grounds().iter().any(Ground::is_planned)
    }
    /// Its subnets, of every family and host.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.grounds().into_iter().flat_map(|ground| ground.nets())
    }
    /// The addresses that hosts have on its bridge, as far as documents say.
    pub fn host_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.grounds().into_iter().flat_map(|ground| ground.host_addresses())
    }
}
