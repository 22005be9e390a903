//! What stands in a fleet's table: sets and their elements, made of [`HostRules`] and read back into them.
//!
//! *Takes* what each interface may do. *Gives* elements, each of which begins with the interface it is about, so that the
//! number of rules stays the same for one VM and for thousands. *Never* does I/O.
//!
//! | set | its elements say |
//! |---|---|
//! | `mac` | an interface, its hardware address; the comment names VM and interface |
//! | `other` | its name does not begin as the fleet's do (an adopted VM) |
//! | `open`, `learns`, `free` | the filter is off; it may ask by DHCP; it may send from any address |
//! | `addr4`, `addr6`, `link6` | what it may send from; its link-local address, for neighbour discovery alone |
//! | `mates4`, `mates6` | hosts that it may talk to, and they to it |
//! | `out_any4` … `in_port6` | hosts: everything, ICMP, or one port |
//! | `out_any_net4` … `in_port_net6` | the same of networks and ranges, without overlaps, which a lookup of intervals cannot have |
//! | `out_nets4` … `in_nets6` | networks and ranges as they were said; no rule reads them, reading back does |
//! | `near4` … `near_net6` | everybody it has to do with but its mates: for ARP, neighbour discovery and ICMP errors |

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::{HostRules, Mac, Name, Permit, PortRange, TapRules, Traffic, Way, tap_prefix};

/// What a part of an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// An interface's name.
    Tap,
    /// An Ethernet address.
    Mac,
    /// An IPv4 address or network.
    V4,
    /// An IPv6 address or network.
    V6,
    /// A protocol number.
    Proto,
    /// A port, a range of ports or another number of 16 bits.
    Port,
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Whether elements are intervals.
    pub(super) nets: bool,
}

/// A part of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Tap(String),
    Mac(Mac),
    Net(IpNet),
    Proto(u8),
    Ports(PortRange),
}

/// The parts of an element.
pub(super) type Key = Vec<Part>;

/// The elements of each set, with their comments. Every set is in it, empty ones too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content(pub(super) BTreeMap<String, BTreeMap<Key, Option<String>>>);

/// The name of a fleet's table: a host that two fleets share has two.
pub(super) fn table_name(fleet: &Name) -> String {
    format!("stablehand-{fleet}")
}

/// Which way a permit goes, as names of sets begin.
pub(super) const fn word(way: Way) -> &'static str {
    match way {
        Way::Out => "out",
        Way::In => "in",
    }
}

/// Every set of a table.
pub(super) fn specs() -> Vec<Spec> {
    use Column::{Mac, Port, Proto, Tap, V4, V6};
    let mut all = Vec::new();
    let mut add = |name: String, columns: &[Column], nets| all.push(Spec { name, columns: columns.to_vec(), nets });
    add("mac".to_owned(), &[Tap, Mac], false);
    for name in ["other", "open", "learns", "free"] {
        add(name.to_owned(), &[Tap], false);
    }
    add("link6".to_owned(), &[Tap, V6], false);
    for (v, ip) in [(4, V4), (6, V6)] {
        for name in ["addr", "mates"] {
            add(format!("{name}{v}"), &[Tap, ip], false);
        }
        for (net, nets) in [("", false), ("_net", true)] {
            add(format!("near{net}{v}"), &[Tap, ip], nets);
            for way in ["out", "in"] {
                for kind in ["any", "icmp"] {
                    add(format!("{way}_{kind}{net}{v}"), &[Tap, ip], nets);
                }
                add(format!("{way}_port{net}{v}"), &[Tap, ip, Proto, Port], nets);
            }
        }
        for way in ["out", "in"] {
            // Kind of traffic and prefix length in one number, first port, last port: nft has five columns at most.
            add(format!("{way}_nets{v}"), &[Tap, ip, Port, Port, Port], false);
        }
    }
    all
}

/// IANA protocol numbers.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

const fn single(number: u16) -> PortRange {
    PortRange { first: number, last: number }
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn version(net: &IpNet) -> u8 {
    if net.addr().is_ipv4() { 4 } else { 6 }
}

/// The protocol and ports of a kind of traffic that has some.
const fn ports(traffic: Traffic) -> Option<(u8, PortRange)> {
    match traffic {
        Traffic::Tcp(ports) => Some((TCP, ports)),
        Traffic::Udp(ports) => Some((UDP, ports)),
        Traffic::Any | Traffic::Icmp => None,
    }
}

/// The link-local address that is made of a hardware address (RFC 4291, appendix A).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

impl Content {
    /// No element at all.
    pub(super) fn empty() -> Self {
        Self(specs().into_iter().map(|s| (s.name, BTreeMap::new())).collect())
    }

    /// What a fleet's table has to hold.
    pub(super) fn of(fleet: &Name, rules: &HostRules) -> Self {
        let mut content = Self::empty();
        let prefix = tap_prefix(fleet);
        for (tap, rules) in &rules.taps {
            content.tap(&prefix, tap, rules);
        }
        content
    }

    fn put(&mut self, set: &str, tap: &str, rest: impl IntoIterator<Item = Part>, comment: Option<String>) {
        let key = std::iter::once(Part::Tap(tap.to_owned())).chain(rest).collect();
        if let Some(elements) = self.0.get_mut(set) {
            elements.insert(key, comment);
        }
    }

    fn tap(&mut self, prefix: &str, tap: &str, rules: &TapRules) {
        self.put("mac", tap, [Part::Mac(rules.mac)], Some(format!("{} {}", rules.vm, rules.nic)));
        let marks = [
            ("other", !tap.starts_with(prefix)),
            ("open", rules.open),
            ("learns", rules.learns),
            ("free", rules.learns && rules.addresses.is_empty()),
        ];
        for (set, _) in marks.iter().filter(|(_, is)| *is) {
            self.put(set, tap, [], None);
        }
        for address in &rules.addresses {
            let set = if address.is_ipv4() { "addr4" } else { "addr6" };
            self.put(set, tap, [Part::Net(host(*address))], None);
        }
        if rules.learns || rules.addresses.iter().any(IpAddr::is_ipv6) {
            self.put("link6", tap, [Part::Net(host(link_local(rules.mac).into()))], None);
        }
        let mut nets = Nets::default();
        for permit in &rules.permits {
            self.permit(tap, permit, rules, &mut nets);
        }
        nets.put(self, tap);
    }

    fn permit(&mut self, tap: &str, permit: &Permit, rules: &TapRules, nets: &mut Nets) {
        let (way, net) = (word(permit.way), permit.peer.trunc());
        let v = version(&net);
        let ports = ports(permit.traffic);
        if !is_host(&net) || ports.is_some_and(|(_, p)| p.first != p.last) {
            let (kind, range): (u8, _) = match permit.traffic {
                Traffic::Any => (0, single(0)),
                Traffic::Icmp => (1, single(0)),
                Traffic::Tcp(range) => (TCP, range),
                Traffic::Udp(range) => (UDP, range),
            };
            let numbers = [u16::from_be_bytes([kind, net.prefix_len()]), range.first, range.last];
            let rest = [host(net.addr())].map(Part::Net).into_iter().chain(numbers.map(|n| Part::Ports(single(n))));
            self.put(&format!("{way}_nets{v}"), tap, rest, None);
            nets.add(permit.way, net, permit.traffic);
            return;
        }
        let other = match permit.way {
            Way::Out => Way::In,
            Way::In => Way::Out,
        };
        let both = Permit { way: other, ..permit.clone() };
        if permit.traffic == Traffic::Any && rules.permits.contains(&both) {
            self.put(&format!("mates{v}"), tap, [Part::Net(net)], None);
            return;
        }
        self.put(&format!("near{v}"), tap, [Part::Net(net)], None);
        match (permit.traffic, ports) {
            (_, Some((proto, range))) => {
                let rest = [Part::Net(net), Part::Proto(proto), Part::Ports(range)];
                self.put(&format!("{way}_port{v}"), tap, rest, None);
            }
            (Traffic::Icmp, _) => self.put(&format!("{way}_icmp{v}"), tap, [Part::Net(net)], None),
            _ => self.put(&format!("{way}_any{v}"), tap, [Part::Net(net)], None),
        }
    }

    /// The rules that these elements stand for; or what is odd: they are not what those rules would be made into.
    pub(super) fn read(&self, fleet: &Name) -> Result<HostRules, String> {
        let mut rules = HostRules::default();
        for (key, comment) in self.elements("mac") {
            let (Some(Part::Tap(tap)), Some(Part::Mac(mac))) = (key.first(), key.get(1)) else { continue };
            let names = comment.as_deref().and_then(|c| c.split_once(' '));
            let names = names.and_then(|(vm, nic)| Some((Name::new(vm).ok()?, Name::new(nic).ok()?)));
            let (vm, nic) = names.ok_or_else(|| format!("the interface `{tap}` does not say whose it is"))?;
            let (addresses, permits) = (BTreeSet::new(), BTreeSet::new());
            let one = TapRules { vm, nic, mac: *mac, addresses, learns: false, open: false, permits };
            if rules.taps.insert(tap.clone(), one).is_some() {
                return Err(format!("the interface `{tap}` has two hardware addresses"));
            }
        }
        for spec in specs() {
            for (key, _) in self.elements(&spec.name) {
                let Some(Part::Tap(tap)) = key.first() else { continue };
                let found = rules.taps.get_mut(tap);
                let one =
                    found.ok_or_else(|| format!("the set `{}` speaks of `{tap}`, which is not listed", spec.name))?;
                take(&spec.name, &key[1..], one).map_err(|odd| format!("the set `{}`: {odd}", spec.name))?;
            }
        }
        match Self::of(fleet, &rules).difference(self) {
            Some(odd) => Err(odd),
            None => Ok(rules),
        }
    }

    fn elements(&self, set: &str) -> impl Iterator<Item = (&Key, &Option<String>)> {
        self.0.get(set).into_iter().flatten()
    }

    /// In which set `other` is not the same, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        self.0.iter().find_map(|(name, wanted)| {
            let found = other.0.get(name)?;
            let first = |a: &BTreeMap<Key, _>, b: &BTreeMap<Key, Option<String>>| {
                a.keys().find(|k| !b.contains_key(*k)).map(show)
            };
            if let Some(key) = first(wanted, found) {
                return Some(format!("the set `{name}` lacks {key}"));
            }
            if let Some(key) = first(found, wanted) {
                return Some(format!("the set `{name}` has {key}, which nothing explains"));
            }
            None
        })
    }
}

/// An element for people.
fn show(key: &Key) -> String {
    let parts: Vec<String> = key
        .iter()
        .map(|part| match part {
            Part::Tap(tap) => tap.clone(),
            Part::Mac(mac) => mac.to_string(),
            Part::Net(net) if is_host(net) => net.addr().to_string(),
            Part::Net(net) => net.to_string(),
            Part::Proto(proto) => proto.to_string(),
            Part::Ports(p) if p.first == p.last => p.first.to_string(),
            Part::Ports(p) => format!("{}-{}", p.first, p.last),
        })
        .collect();
    format!("`{}`", parts.join(" . "))
}

/// Takes what an element of a set says of an interface. Sets that follow from others say nothing new.
fn take(set: &str, rest: &[Part], one: &mut TapRules) -> Result<(), String> {
    let mut permit = |way, peer: &IpNet, traffic| {
        one.permits.insert(Permit { way, peer: *peer, traffic });
    };
    let plain = set.trim_end_matches(['4', '6']);
    let way = if plain.starts_with("out_") { Way::Out } else { Way::In };
    match (plain, rest) {
        ("open", []) => one.open = true,
        ("learns", []) => one.learns = true,
        ("addr", [Part::Net(net)]) => {
            one.addresses.insert(net.addr());
        }
        ("mates", [Part::Net(net)]) => {
            permit(Way::Out, net, Traffic::Any);
            permit(Way::In, net, Traffic::Any);
        }
        ("out_any" | "in_any", [Part::Net(net)]) => permit(way, net, Traffic::Any),
        ("out_icmp" | "in_icmp", [Part::Net(net)]) => permit(way, net, Traffic::Icmp),
        ("out_port" | "in_port", [Part::Net(net), Part::Proto(proto), Part::Ports(ports)]) => {
            permit(way, net, traffic(*proto, *ports).ok_or("a protocol that is not ours")?);
        }
        ("out_nets" | "in_nets", [Part::Net(net), Part::Ports(kind), Part::Ports(first), Part::Ports(last)]) => {
            let [kind, len] = kind.first.to_be_bytes();
            let net = IpNet::new(net.addr(), len).ok();
            let net = net.filter(|n| n.trunc() == *n).ok_or("a network that is none")?;
            let range = PortRange { first: first.first, last: last.first };
            permit(way, &net, traffic(kind, range).ok_or("a kind of traffic that is not ours")?);
        }
        _ => {}
    }
    Ok(())
}

const fn traffic(kind: u8, range: PortRange) -> Option<Traffic> {
    match kind {
        0 => Some(Traffic::Any),
        1 => Some(Traffic::Icmp),
        6 if range.first <= range.last => Some(Traffic::Tcp(range)),
        17 if range.first <= range.last => Some(Traffic::Udp(range)),
        _ => None,
    }
}

/// Networks and ranges of one interface, on their way to sets without overlaps.
#[derive(Default)]
struct Nets {
    plain: BTreeMap<(&'static str, &'static str), BTreeSet<IpNet>>,
    ports: BTreeMap<(&'static str, u8), BTreeMap<IpNet, Vec<PortRange>>>,
    near: BTreeSet<IpNet>,
}

impl Nets {
    fn add(&mut self, way: Way, net: IpNet, traffic: Traffic) {
        self.near.insert(net);
        match traffic {
            Traffic::Any => self.plain.entry((word(way), "any")).or_default().insert(net),
            Traffic::Icmp => self.plain.entry((word(way), "icmp")).or_default().insert(net),
            Traffic::Tcp(range) | Traffic::Udp(range) => {
                let proto = ports(traffic).map_or(TCP, |(proto, _)| proto);
                let nets = self.ports.entry((word(way), proto)).or_default();
                nets.entry(net).or_default().push(range);
                true
            }
        };
    }

    fn put(&self, content: &mut Content, tap: &str) {
        for net in widest(&self.near) {
            content.put(&format!("near_net{}", version(net)), tap, [Part::Net(*net)], None);
        }
        for ((way, kind), nets) in &self.plain {
            for net in widest(nets) {
                content.put(&format!("{way}_{kind}_net{}", version(net)), tap, [Part::Net(*net)], None);
            }
        }
        for ((way, proto), nets) in &self.ports {
            for (net, own) in nets {
                let above = nets.iter().filter(|(n, _)| *n != net && n.contains(net));
                let covered: Vec<PortRange> = above.flat_map(|(_, ranges)| ranges.iter().copied()).collect();
                for range in without(own, &covered) {
                    let rest = [Part::Net(*net), Part::Proto(*proto), Part::Ports(range)];
                    content.put(&format!("{way}_port_net{}", version(net)), tap, rest, None);
                }
            }
        }
    }
}

/// The networks that no other one contains.
fn widest(nets: &BTreeSet<IpNet>) -> impl Iterator<Item = &IpNet> {
    nets.iter().filter(|net| !nets.iter().any(|other| other != *net && other.contains(*net)))
}

/// The ports of `own` that are not in `covered`, as few ranges as there can be.
fn without(own: &[PortRange], covered: &[PortRange]) -> Vec<PortRange> {
    let mut left = merged(own);
    for hole in covered {
        left = left
            .into_iter()
            .flat_map(|range| {
                let before = hole.first.checked_sub(1).filter(|last| *last >= range.first);
                let before = before.map(|last| PortRange { first: range.first, last: last.min(range.last) });
                let after = hole.last.checked_add(1).filter(|first| *first <= range.last);
                let after = after.map(|first| PortRange { first: first.max(range.first), last: range.last });
                if hole.last < range.first || hole.first > range.last {
                    vec![range]
                } else {
                    before.into_iter().chain(after).collect()
                }
            })
            .collect();
    }
    left
}

/// The same ports in as few ranges as there can be, in order.
fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort();
    let mut out: Vec<PortRange> = Vec::new();
    for range in sorted {
        match out.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => out.push(range),
        }
    }
    out
}
