//! What `stablehand matrix` says, asked address by address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use stablehand::model::Traffic;
use stablehand::plan::rules::{Cell, Matrix};

use super::jury::{Kind, Seen};

/// A guest: its address, whom it belongs to, and the hosts on which it is, or was, since the last verdict.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) vm: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) hosts: BTreeSet<String>,
}

impl Guest {
    /// The names that a matrix may have for it.
    fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::from([format!("vm/{}", self.vm), "network/lan".to_owned()]);
        let parts: Vec<&str> = self.vm.split('-').collect();
        match parts.as_slice() {
            ["lesson", _, member] => names.extend(["module/lesson".to_owned(), format!("module/lesson/{member}")]),
            [service, app, _] => names.extend([format!("service/{service}"), format!("service/{service}/{app}")]),
            _ => panic!("{} is of no service and no module", self.vm),
        }
        names
    }

    /// The instance of the module that it is of.
    fn instance(&self) -> Option<&str> {
        self.vm.strip_prefix("lesson-")?.split('-').next()
    }
}

/// A matrix with the guests that it is about.
pub(crate) struct Law {
    pub(crate) matrix: Matrix,
    pub(crate) guests: BTreeMap<Ipv4Addr, Guest>,
}

impl Law {
    /// Whether one may begin this with the other.
    pub(crate) fn open(&self, from: Ipv4Addr, to: Ipv4Addr, traffic: Traffic) -> bool {
        let (a, b) = (self.guests.get(&from), self.guests.get(&to));
        let names = |guest: Option<&Guest>, own: Ipv4Addr, other: Option<&Guest>| match guest {
            Some(guest) => guest.names(),
            None => {
                let host = other.filter(|o| o.hosts.iter().any(|h| is_of(h, own))).map(|_| "its host".to_owned());
                host.into_iter().chain([own.to_string()]).collect()
            }
        };
        let (froms, tos) = (names(a, from, b), names(b, to, a));
        let same =
            || a.and_then(Guest::instance).is_some() && a.and_then(Guest::instance) == b.and_then(Guest::instance);
        let holds = |cell: &&Cell| froms.contains(&cell.from) && tos.contains(&cell.to) && (!cell.instance || same());
        self.matrix.cells.iter().filter(holds).flat_map(|cell| &cell.traffic).any(|kind| kind.covers(traffic))
    }

    /// Whether a packet may be where it was seen: what begins, what answers, and errors of either.
    pub(crate) fn may(&self, seen: &Seen) -> bool {
        let (from, to) = (seen.from, seen.to);
        let tcp = |port: u16| Traffic::Tcp(one(port));
        let udp = |port: u16| Traffic::Udp(one(port));
        match seen.kind {
            Kind::Begins(port) => self.open(from, to, tcp(port)),
            Kind::Goes(own, port) => self.open(from, to, tcp(port)) || self.open(to, from, tcp(own)),
            Kind::Udp(own, port) => self.open(from, to, udp(port)) || self.open(to, from, udp(own)),
            Kind::Echo => self.open(from, to, Traffic::Icmp) || self.open(to, from, Traffic::Icmp),
            Kind::Error => self.related(from, to) || self.related(to, from),
            Kind::Other(_) => self.open(from, to, Traffic::Any),
        }
    }

    /// Whether one has anything to do with the other.
    fn related(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        let asked = [80, 8080, 9000].map(|port| Traffic::Tcp(one(port)));
        asked.into_iter().chain([Traffic::Icmp, Traffic::Udp(one(5514))]).any(|t| self.open(from, to, t))
    }
}

/// The laboratory's host `hN` has the address `.1N`.
fn is_of(host: &str, address: Ipv4Addr) -> bool {
    host.strip_prefix('h').and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| address.octets()[3] == 10 + n)
}

fn one(port: u16) -> stablehand::model::PortRange {
    stablehand::model::PortRange { first: port, last: port }
}
