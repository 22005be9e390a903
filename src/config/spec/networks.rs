//! Networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Text;
use super::access::SystemAddressSpec;
use crate::config::leaf::{Addressing, Cidr, Int, Rules};
use crate::config::read::{Loc, Named, spec};
use crate::model::NetworkMode;

spec! {
    /// A network: a bridge on each host, and how VMs on it get addresses.
    NetworkSpec("Network") {
        /// The bridge.
        "bridge" bridge: BridgeSpec, required;
        /// `isolated` (default where we make the bridge): its host passes nothing between it and elsewhere. `routed` (default
        /// where it is there): as the host does anyway, which forwards where its own address is the guests' `gateway`. `nat`:
        /// what guests begin goes on under an address of the host (IPv4).
        "mode" mode: Loc<NetworkMode>;
        /// The subnet.
        "subnet" subnet: Loc<ipnet::Ipv4Net>;
        /// The host's own address on the bridge.
        "hostAddress" host_address: Loc<Ipv4Addr>;
        /// The guests' default route.
        "gateway" gateway: Loc<Ipv4Addr>;
        /// Name servers for guests, of both families.
        "dns" dns: Vec<Loc<IpAddr>>;
        /// `static`: planned by us (default where there is a range); `external`: somebody else's DHCP. Then what guests
        /// were seen to have counts: for probes and for people, and, where a `subnet` says what may be believed, in rules.
        "addressing" addressing: Loc<Addressing>;
        /// First and last address that may be planned.
        "range" range: RangeSpec;
        /// The IPv6 subnet, beside the other one or alone.
        "subnet6" subnet6: Loc<ipnet::Ipv6Net>;
        /// The host's own IPv6 address on the bridge.
        "hostAddress6" host_address6: Loc<Ipv6Addr>;
        /// The guests' default route in IPv6: an address of the subnet, or a link-local one.
        "gateway6" gateway6: Loc<Ipv6Addr>;
        /// First and last IPv6 address that may be planned.
        "range6" range6: Range6Spec;
        /// `closed` (default): of what a VM on it sends and is sent, only what is allowed passes. `open`: everything from its
        /// own addresses.
        "rules" rules: Loc<Rules>;
        /// Addresses that every VM on it may reach, by name; its gateway (ping) and its name servers need not be said.
        "systemAddresses" system_addresses: Named<SystemAddressSpec>;
        /// Where readiness is probed from, when not from the address of the VM's host on the bridge.
        "probesFrom" probes_from: Vec<Loc<Cidr>>;
    }
}

spec! {
    /// A bridge.
    BridgeSpec("bridge") {
        /// Its name on each host, at most 15 characters.
        "name" name: Text, required;
        /// Whether it is ours to make and remove (default false).
        "create" create: Loc<bool>;
        /// Its cable, where it is ours to make: an interface of the host, or a name that its `uplinks` has.
        "uplink" uplink: Text;
        /// The VLAN of the uplink that it is (IEEE 802.1Q). Without it: all that passes the uplink.
        "vlan" vlan: Loc<Int<1, 4094>>;
        /// Whether the uplink's own addresses and routes go over to the bridge, and back when it ends (default false: an uplink
        /// that carries addresses of its host is refused). The host undoes it by itself when it cannot be reached
        /// afterwards.
        "takeOver" take_over: Loc<bool>;
    }
}

spec! {
    /// First and last address.
    RangeSpec("range") {
        /// The first.
        "from" from: Loc<Ipv4Addr>, required;
        /// The last.
        "to" to: Loc<Ipv4Addr>, required;
    }
}

spec! {
    /// First and last IPv6 address.
    Range6Spec("range6") {
        /// The first.
        "from" from: Loc<Ipv6Addr>, required;
        /// The last.
        "to" to: Loc<Ipv6Addr>, required;
    }
}
