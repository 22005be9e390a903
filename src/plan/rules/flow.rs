//! What passes from one interface to another, or to and from an address outside, by both ends' rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Compiled, Port};
use crate::model::{Party, PortRange, Traffic};

/// Packets that pass one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// What they are.
    pub(crate) traffic: Traffic,
    /// The ports that they may come from: all, but for UDP that passes because it is taken for an answer.
    pub(crate) source: PortRange,
    /// Whether a permit of the other way lets them through: answers, or what nobody can tell from answers.
    pub(crate) answer: bool,
}

impl Flow {
    fn all(traffic: Traffic) -> Self {
        Self { traffic, source: PortRange::ALL, answer: false }
    }

    fn meet(self, other: Self) -> Option<Self> {
        let source = self.source.meet(other.source)?;
        Some(Self { traffic: self.traffic.meet(other.traffic)?, source, answer: self.answer || other.answer })
    }

    fn covers(self, other: Self) -> bool {
        self.meet(other) == Some(other)
    }

    /// What a permit lets through against the way in which it was given: UDP and ICMP, for which no connection is tracked.
    fn answers(permitted: Traffic) -> Vec<Self> {
        let answer = |traffic, source| Self { traffic, source, answer: true };
        let udp = Traffic::Udp(PortRange::ALL);
        match permitted {
            Traffic::Any => vec![answer(Traffic::Icmp, PortRange::ALL), answer(udp, PortRange::ALL)],
            Traffic::Icmp => vec![answer(Traffic::Icmp, PortRange::ALL)],
            Traffic::Udp(source) => vec![answer(udp, source)],
            Traffic::Tcp(_) => Vec::new(),
        }
    }
}

/// Why an end lets something through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// A rule, by number.
    Rule(usize),
    /// Its network has no filter.
    Off,
    /// It is not ours.
    Outside,
}

/// Packets that pass, and why each end lets them: first who sends, then who gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pass {
    pub(crate) flow: Flow,
    pub(crate) sender: By,
    pub(crate) receiver: By,
}

/// One end of a question: an interface of ours, or an address that nobody of ours has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot<'c> {
    Port(&'c Port),
    Address(IpAddr),
}

impl Compiled {
    /// What passes from one end to the other, the widest first where kinds overlap.
    pub(crate) fn passes(&self, from: Spot<'_>, to: Spot<'_>) -> Vec<Pass> {
        if !self.joined(from, to) {
            return Vec::new();
        }
        let sent = self.lets(from, to, true);
        let got = self.lets(to, from, false);
        let mut all = BTreeSet::new();
        for (out, sender) in &sent {
            for (into, receiver) in &got {
                all.extend(out.meet(*into).map(|flow| Pass { flow, sender: *sender, receiver: *receiver }));
            }
        }
        let mut kept: Vec<Pass> = Vec::new();
        // One rule that explains both ends is the better reason for the same packets.
        let mut ordered: Vec<Pass> = all.into_iter().collect();
        ordered.sort_by_key(|pass| (pass.sender != pass.receiver, *pass));
        for pass in &ordered {
            let wider = |other: &&Pass| other.flow != pass.flow && other.flow.covers(pass.flow);
            let said = kept.iter().any(|other| other.flow == pass.flow);
            if !said && !ordered.iter().any(|other| wider(&other)) {
                kept.push(*pass);
            }
        }
        kept.sort();
        kept
    }

    /// Whether packets can get from one end to the other, whatever the rules.
    pub(crate) fn joined(&self, from: Spot<'_>, to: Spot<'_>) -> bool {
        match (from, to) {
            (Spot::Port(a), Spot::Port(b)) => self.linked(a, b),
            (Spot::Port(port), Spot::Address(address)) | (Spot::Address(address), Spot::Port(port)) => {
                self.leads(port, address.into())
            }
            (Spot::Address(_), Spot::Address(_)) => true,
        }
    }

    /// What one end lets through to (or from) the other, with the reason.
    pub(crate) fn lets(&self, here: Spot<'_>, there: Spot<'_>, sends: bool) -> Vec<(Flow, By)> {
        let Spot::Port(port) = here else { return vec![(Flow::all(Traffic::Any), By::Outside)] };
        if self.is_open(port) {
            return vec![(Flow::all(Traffic::Any), By::Off)];
        }
        let (with, against) = if sends { (&port.out, &port.into) } else { (&port.into, &port.out) };
        let mut flows = Vec::new();
        for rule in with.iter().filter(|rule| self.speaks_of(port, **rule, sends, there)) {
            flows.extend(self.access[*rule].traffic.iter().map(|t| (Flow::all(*t), By::Rule(*rule))));
        }
        for rule in against.iter().filter(|rule| self.speaks_of(port, **rule, !sends, there)) {
            let answers = self.access[*rule].traffic.iter().flat_map(|t| Flow::answers(*t));
            flows.extend(answers.map(|flow| (flow, By::Rule(*rule))));
        }
        flows
    }

    /// Whether the other side of an interface's rule is this end, by an address that is known.
    fn speaks_of(&self, port: &Port, rule: usize, out: bool, there: Spot<'_>) -> bool {
        let access = &self.access[rule];
        let party = if out { &access.to } else { &access.from };
        let within = |net: &ipnet::IpNet| match there {
            Spot::Address(address) => net.contains(&address),
            Spot::Port(other) => other.at.addresses.iter().any(|a| net.contains(a)),
        };
        match (party, there) {
            (Party::Net(net), _) => within(net) && self.leads(port, *net),
            (Party::Host, Spot::Address(address)) => self.host_addresses(port, &self.hosts).any(|own| own == address),
            (Party::Host, Spot::Port(_)) => false,
            (party, there) => {
                let named = match there {
                    Spot::Port(other) => {
                        let numbers = if out { &other.into } else { &other.out };
                        !other.at.addresses.is_empty() && numbers.binary_search(&rule).is_ok()
                    }
                    Spot::Address(_) => false,
                };
                named || self.subnets(port, party).iter().any(within)
            }
        }
    }
}

/// Whether these flows together are all of a kind of packets.
pub(crate) fn cover(flows: impl Iterator<Item = Flow>, asked: Traffic) -> bool {
    let flows: Vec<Traffic> = flows.map(|flow| flow.traffic).collect();
    let range = |traffic: Traffic| match (traffic, asked) {
        (Traffic::Any, _) => Some(PortRange::ALL),
        (Traffic::Tcp(ports), Traffic::Tcp(_)) | (Traffic::Udp(ports), Traffic::Udp(_)) => Some(ports),
        _ => None,
    };
    match asked {
        Traffic::Any | Traffic::Icmp => flows.iter().any(|flow| flow.covers(asked)),
        Traffic::Tcp(wanted) | Traffic::Udp(wanted) => {
            let mut ranges: Vec<PortRange> = flows.into_iter().filter_map(range).collect();
            ranges.sort_by_key(|ports| ports.first);
            let mut next = u32::from(wanted.first);
            for ports in ranges {
                if u32::from(ports.first) <= next {
                    next = next.max(u32::from(ports.last) + 1);
                }
            }
            next > u32::from(wanted.last)
        }
    }
}
