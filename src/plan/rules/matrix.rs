//! Who reaches whom, as a reviewer reads it: a cell for apps, modules and what is outside.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alike::{Class, Label};
use super::flow::{By, Spot};
use super::{Compiled, Port};
use crate::model::{Grant, Name, Owner, Party, Traffic};

/// What passes between apps, modules and what is outside. What has no cell is closed; UDP and ICMP pass both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Matrix {
    /// The parts of each service and module: what stands for the whole where all of them agree.
    pub parts: BTreeMap<String, BTreeSet<String>>,
    /// In order of `from` and `to`.
    pub cells: BTreeSet<Cell>,
    /// Whether pairs are left out that reach each other only because the rules of both name addresses outside that are
    /// the other's: there are too many of them for a cell each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlisted: bool,
}

/// What one may begin with the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// Who begins: `service/shop/web`, `module/course/desk`, `vm/web-1`, `network/lan`, `10.0.0.0/8`, `its host`, `anyone`.
    pub from: String,
    /// Who is reached.
    pub to: String,
    /// With what.
    pub traffic: BTreeSet<Traffic>,
    /// Why.
    pub grant: Grant,
    /// Only among VMs of one instance of the module.
    pub instance: bool,
}

impl Matrix {
    /// What this one has and the other has not: opened, seen from after; closed, seen from before.
    pub fn beyond(&self, other: &Self) -> Self {
        let key = |cell: &Cell| (cell.from.clone(), cell.to.clone(), cell.instance);
        let mut there: BTreeMap<_, BTreeSet<Traffic>> = BTreeMap::new();
        for cell in &other.cells {
            there.entry(key(cell)).or_default().extend(cell.traffic.iter().copied());
        }
        let more = |cell: &Cell| {
            let known = there.get(&key(cell));
            let is_new = |kind: &&Traffic| known.is_none_or(|kinds| !kinds.iter().any(|k| k.covers(**kind)));
            let traffic: BTreeSet<Traffic> = cell.traffic.iter().filter(is_new).copied().collect();
            (!traffic.is_empty()).then(|| Cell { traffic, ..cell.clone() })
        };
        let cells = self.cells.iter().filter_map(more).collect();
        Self { parts: self.parts.clone(), cells, unlisted: self.unlisted }
    }

    /// The cells with services and modules in place of their parts, where these all agree.
    pub fn collapsed(&self) -> BTreeSet<Cell> {
        let owners: BTreeMap<&str, &str> =
            self.parts.iter().flat_map(|(owner, parts)| parts.iter().map(move |part| (&**part, &**owner))).collect();
        let whole = |found: &BTreeSet<&str>, owner: &str, other: &str| {
            // A part that is one VM has nothing to say to itself.
            self.parts.get(owner).is_some_and(|parts| parts.iter().all(|p| found.contains(&**p) || p == other))
        };
        type Key<'k> = (Grant, &'k BTreeSet<Traffic>, bool, String, &'k str);
        let mut by_owner: BTreeMap<Key<'_>, BTreeSet<&str>> = BTreeMap::new();
        for cell in &self.cells {
            let owner = owners.get(&*cell.to).copied().unwrap_or(&cell.to);
            by_owner
                .entry((cell.grant, &cell.traffic, cell.instance, cell.from.clone(), owner))
                .or_default()
                .insert(&cell.to);
        }
        let mut half: BTreeMap<Key<'_>, BTreeSet<&str>> = BTreeMap::new();
        for ((grant, traffic, instance, from, owner), found) in &by_owner {
            let targets = if whole(found, owner, from) { BTreeSet::from([*owner]) } else { found.clone() };
            let owner = owners.get(&**from).copied().unwrap_or(from);
            for to in targets {
                half.entry((*grant, traffic, *instance, to.to_owned(), owner)).or_default().insert(from);
            }
        }
        let mut cells = BTreeSet::new();
        for ((grant, traffic, instance, to, owner), found) in half {
            let starts = if whole(&found, owner, &to) { BTreeSet::from([owner]) } else { found };
            let cell =
                |from: &str| Cell { from: from.to_owned(), to: to.clone(), traffic: traffic.clone(), grant, instance };
            cells.extend(starts.into_iter().map(cell));
        }
        cells
    }
}

/// A class with what it is called.
struct Node<'c> {
    class: Class<'c>,
    name: String,
}

impl Compiled {
    /// Who reaches whom.
    pub fn matrix(&self) -> Matrix {
        let nodes = named(self.alike(self.vms.keys(), false));
        let mut of: BTreeMap<&Name, usize> = BTreeMap::new();
        for (number, node) in nodes.iter().enumerate() {
            of.extend(node.class.vms.iter().map(|vm| (*vm, number)));
        }
        let mut out = Matrix::default();
        for node in &nodes {
            if let Some(label) = node.class.label {
                out.parts.entry(label.owner()).or_default().insert(node.name.clone());
            }
        }
        let mut cells = Cells::new();
        self.outside(&nodes, &of, &mut cells);
        let (candidates, complete) = self.candidates(&of);
        out.unlisted = !complete;
        for (a, b) in candidates {
            let (from, to) = (&nodes[a], &nodes[b]);
            let Some((x, y)) = self.two(&from.class, &to.class) else { continue };
            for (grant, traffic) in self.between(x, y) {
                cells.entry((from.name.clone(), to.name.clone(), grant, false)).or_default().insert(traffic);
            }
        }
        for (a, b) in self.instance_mates(&of) {
            cells.insert(
                (nodes[a].name.clone(), nodes[b].name.clone(), Grant::Mates, true),
                BTreeSet::from([Traffic::Any]),
            );
        }
        for name in self.networks.iter().filter(|(_, wire)| !wire.closed).map(|(name, _)| name) {
            for (from, to) in
                [(format!("network/{name}"), ANYONE.to_owned()), (ANYONE.to_owned(), format!("network/{name}"))]
            {
                cells.insert((from, to, Grant::System, false), BTreeSet::from([Traffic::Any]));
            }
        }
        let cell = |((from, to, grant, instance), traffic)| Cell {
            from,
            to,
            traffic: Traffic::tidy(&traffic),
            grant,
            instance,
        };
        out.cells = cells.into_iter().map(cell).collect();
        out
    }

    /// Two different VMs of two classes, and of two instances where it is one module.
    fn two<'c>(&'c self, a: &Class<'c>, b: &Class<'c>) -> Option<(&'c Name, &'c Name)> {
        let first = *a.vms.first()?;
        let apart = |vm: &&&Name| **vm != first && !self.same_instance(first, vm);
        b.vms.iter().find(apart).map(|second| (first, *second)).or_else(|| {
            // The one VM that may be the first of the first class itself stands in the second.
            let second = *b.vms.first()?;
            let apart = |vm: &&&Name| **vm != second && !self.same_instance(second, vm);
            a.vms.iter().find(apart).map(|first| (*first, second))
        })
    }

    fn same_instance(&self, a: &Name, b: &Name) -> bool {
        let instance = |vm: &Name| match self.spots(vm).first() {
            Some(Spot::Port(Port { owner: Some(Owner::Module { module, instance, .. }), .. })) => {
                Some((module, instance))
            }
            _ => None,
        };
        instance(a).is_some() && instance(a) == instance(b)
    }

    /// What passes between two VMs, by their names or their addresses; answers are not told.
    fn between(&self, a: &Name, b: &Name) -> BTreeSet<(Grant, Traffic)> {
        let (a, b) = (self.spots(a), self.spots(b));
        let passes = a.iter().flat_map(|x| b.iter().flat_map(|y| self.passes(*x, *y)));
        let grant = |by: By| if let By::Rule(rule) = by { self.access[rule].grant } else { Grant::System };
        passes
            .filter(|pass| !pass.flow.answer)
            .map(|pass| (grant(pass.receiver).max(grant(pass.sender)), pass.flow.traffic))
            .collect()
    }

    /// The classes of the interfaces.
    fn classes(&self, ports: &[usize], of: &BTreeMap<&Name, usize>) -> BTreeSet<usize> {
        ports.iter().filter_map(|port| of.get(&self.ports[*port].vm).copied()).collect()
    }

    /// Pairs of classes between which something may pass: those that a rule names, and those that have addresses in
    /// networks that rules of both ends name. Also whether that is all of them.
    fn candidates(&self, of: &BTreeMap<&Name, usize>) -> (BTreeSet<(usize, usize)>, bool) {
        let mut pairs = BTreeSet::new();
        let is_named = |party: &Party| !matches!(party, Party::Net(_) | Party::Host | Party::Network(_));
        for (access, sides) in self.access.iter().zip(&self.sides) {
            let mates = access.grant == Grant::Mates && matches!(access.from, Party::Instance { .. });
            if mates || !is_named(&access.from) || !is_named(&access.to) {
                continue;
            }
            let ends = self.classes(&sides.to, of);
            for a in self.classes(&sides.from, of) {
                pairs.extend(ends.iter().map(|b| (a, *b)));
            }
        }
        // By addresses: one end's rule names a network in which the other is, and the other end lets that through.
        let any = |rules: &[usize], of: fn(&crate::model::Access) -> &Party| {
            rules.iter().any(|rule| matches!(of(&self.access[*rule]), Party::Net(_)))
        };
        let most = pairs.len() + BY_ADDRESS;
        for (access, sides) in self.access.iter().zip(&self.sides) {
            if pairs.len() > most {
                return (pairs, false);
            }
            match (&access.from, &access.to) {
                (_, Party::Net(net)) => {
                    let takes = |port: &Port| self.is_open(port) || any(&port.into, |a| &a.from);
                    let ends = self.classes(&self.holders_in(*net, takes), of);
                    let starts = if ends.is_empty() { BTreeSet::new() } else { self.classes(&sides.from, of) };
                    pairs.extend(starts.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b))));
                }
                (Party::Net(net), _) => {
                    let starts = self.classes(&self.holders_in(*net, |port| self.is_open(port)), of);
                    let ends = if starts.is_empty() { BTreeSet::new() } else { self.classes(&sides.to, of) };
                    pairs.extend(starts.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b))));
                }
                _ => {}
            }
        }
        (pairs, true)
    }

    /// The interfaces with an address in a network, of some kind.
    fn holders_in(&self, net: IpNet, wanted: impl Fn(&Port) -> bool) -> Vec<usize> {
        let range = self.holders.range(net.network()..=net.broadcast());
        range.flat_map(|(_, ports)| ports).copied().filter(|port| wanted(&self.ports[*port])).collect()
    }

    /// Pairs of classes whose VMs are mates in some instance of a module.
    fn instance_mates(&self, of: &BTreeMap<&Name, usize>) -> BTreeSet<(usize, usize)> {
        let mut pairs = BTreeSet::new();
        let mates = |access: &crate::model::Access| {
            access.grant == Grant::Mates && matches!(access.from, Party::Instance { .. })
        };
        for (_, sides) in self.access.iter().zip(&self.sides).filter(|(access, _)| mates(access)) {
            for a in sides.from.iter().map(|n| &self.ports[*n]) {
                for b in sides.to.iter().map(|n| &self.ports[*n]).filter(|b| b.vm != a.vm) {
                    if let (Some(x), Some(y)) = (of.get(&a.vm), of.get(&b.vm))
                        && !pairs.contains(&(*x, *y))
                        && !self.passes(Spot::Port(a), Spot::Port(b)).is_empty()
                    {
                        pairs.insert((*x, *y));
                    }
                }
            }
        }
        pairs
    }

    /// Rules that lead to a network, an address or a host, or come from one.
    fn outside(&self, nodes: &[Node<'_>], of: &BTreeMap<&Name, usize>, cells: &mut Cells) {
        let is_named = |party: &Party| !matches!(party, Party::Net(_) | Party::Host | Party::Network(_));
        for (access, sides) in self.access.iter().zip(&self.sides) {
            let names = |ports: &[usize], party: &Party, peer: &Party| {
                if !is_named(party) {
                    return BTreeSet::from([party.to_string()]);
                }
                let can = |port: &&usize| match peer {
                    Party::Net(net) => self.leads(&self.ports[**port], *net),
                    Party::Network(network) => self.meets(&self.ports[**port].at.network, network),
                    _ => true,
                };
                let ports: Vec<usize> = ports.iter().filter(can).copied().collect();
                self.classes(&ports, of).into_iter().map(|class| nodes[class].name.clone()).collect()
            };
            if is_named(&access.from) && is_named(&access.to) {
                continue;
            }
            let ends = names(&sides.to, &access.to, &access.from);
            for from in names(&sides.from, &access.from, &access.to) {
                for to in &ends {
                    let key = (from.clone(), to.clone(), access.grant, false);
                    cells.entry(key).or_default().extend(access.traffic.iter().copied());
                }
            }
        }
    }
}

/// Traffic by who begins, who is reached, why, and whether only in one instance.
type Cells = BTreeMap<(String, String, Grant, bool), BTreeSet<Traffic>>;

const ANYONE: &str = "anyone";

/// Most pairs that are compared by their addresses: some 100 services that all may reach, and be reached by, everybody. More
/// are no table that anybody reads, and would take longer than the half second that the whole has.
const BY_ADDRESS: usize = 10_000;

/// Names for classes: the part's where it is one class, else whom it is of.
fn named(classes: Vec<Class<'_>>) -> Vec<Node<'_>> {
    let mut parts: BTreeMap<Label<'_>, (usize, usize)> = BTreeMap::new();
    for class in &classes {
        if let Some(label) = class.label {
            let (number, vms) = parts.entry(label).or_default();
            *number += 1;
            *vms += class.vms.len();
        }
    }
    let name = |class: &Class<'_>| match (class.label.and_then(|label| Some((label, parts.get(&label)?))), &*class.vms)
    {
        (Some((label, (1, _))), _) => label.to_string(),
        (Some((label, (_, all))), [first, _, ..]) => format!("{label} ({} of {all}, with {first})", class.vms.len()),
        (_, [first, _, ..]) => format!("vm/{first} and {} like it", class.vms.len() - 1),
        (_, [only]) => format!("vm/{only}"),
        (_, []) => String::new(),
    };
    classes.into_iter().map(|class| Node { name: name(&class), class }).collect()
}
