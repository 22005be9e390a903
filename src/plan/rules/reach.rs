//! Does A reach B, by which rule, or what is missing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use super::flow::{By, Pass, Spot, cover};
use super::{Compiled, Port};
use crate::model::{Access, Grant, Name, Origin, Owner, Party, PortRange, Traffic};

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// VMs.
    Of(Party),
    /// An address: of a VM of ours, of a host, or outside.
    Address(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(party) => party.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for End {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let hint = || {
            format!(
                "`{text}` is not `vm/NAME`, `service/NAME`, `service/NAME/APP`, `module/NAME`, `module/NAME/VM` or an address"
            )
        };
        let name = |part: &str| Name::new(part).map_err(|e| e.to_string());
        let (kind, rest) = text.split_once('/').ok_or_else(hint)?;
        let (first, second) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
        let (first, second) = (name(first)?, second.map(name).transpose()?);
        Ok(Self::Of(match (kind, second) {
            ("vm", None) => Party::Vm(first),
            ("service", app) => Party::Service { service: first, app },
            ("module", member) => Party::Module { module: first, member },
            _ => return Err(hint()),
        }))
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether every one of the first reaches every one of the second with all that was asked.
    pub yes: bool,
    /// What was asked for; anything at all when nothing was said.
    pub traffic: Option<Traffic>,
    /// For VMs that are alike one line.
    pub pairs: Vec<Pair>,
}

/// What VMs that are alike can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// Who begins: a VM, or an address. One of those that are alike.
    pub from: String,
    /// Who is reached.
    pub to: String,
    /// How many pairs this line stands for.
    pub count: u32,
    /// Whether what was asked passes.
    pub yes: bool,
    /// All that passes.
    pub passes: Vec<Passing>,
    /// Why what was asked does not pass.
    pub missing: Option<Missing>,
}

/// Something that passes, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Passing {
    /// What.
    pub traffic: Traffic,
    /// Only from these ports (`udp/53`): it passes because it cannot be told from answers.
    pub only_from: Option<Traffic>,
    /// Why the sender's host lets it out.
    pub sender: Reason,
    /// Why the receiver's host lets it in.
    pub receiver: Reason,
}

/// Why one end lets something through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// A rule says so.
    Rule(Said),
    /// Its network has `rules: open`.
    Open,
    /// It is not ours, so nothing of ours filters there.
    Outside,
}

/// A rule, as people find it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// The rule in words: `service/shop/web → service/db: tcp/5432`.
    pub text: String,
    /// Why it is one.
    pub grant: Grant,
    /// Its name in its document.
    pub rule: Option<Name>,
    /// Where it was written.
    pub origin: Origin,
}

/// Why something does not pass, and what would let it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Why.
    pub why: String,
    /// What one would have to write, and where.
    pub write: Option<String>,
}

/// A rule in words.
pub fn sentence(access: &Access) -> String {
    let kinds: Vec<String> = access.traffic.iter().map(Traffic::to_string).collect();
    format!("{} → {}: {}", access.from, access.to, kinds.join(", "))
}

/// One of the VMs, or the address, that stands for all that are like it.
type Terminal<'c> = (String, Vec<Spot<'c>>);

impl Compiled {
    /// Whether one reaches the other with some kind of packets, or with any.
    ///
    /// # Errors
    /// An end has no VM, both are outside, or both are one VM.
    pub fn reach(&self, from: &End, to: &End, traffic: Option<Traffic>) -> Result<Verdict, String> {
        let (starts, ends) = (self.terminals(from)?, self.terminals(to)?);
        let outside = |side: &[Vec<Terminal<'_>>]| {
            side.iter().flatten().all(|(_, spots)| spots.iter().all(|spot| matches!(spot, Spot::Address(_))))
        };
        if outside(&starts) && outside(&ends) {
            return Err(format!("neither {from} nor {to} is a VM of this fleet: nothing here filters between them"));
        }
        let mut pairs = Vec::new();
        for a in &starts {
            for b in &ends {
                // Nobody needs a filter to talk to himself.
                let names: BTreeSet<&String> = a.iter().map(|(name, _)| name).collect();
                let same = b.iter().filter(|(name, _)| names.contains(name)).count();
                let two = a.iter().find_map(|x| b.iter().find(|y| y.0 != x.0).map(|y| (x, y)));
                if let Some((x, y)) = two {
                    let count = u32::try_from(a.len() * b.len() - same).unwrap_or(u32::MAX);
                    pairs.push(self.pair(x, y, traffic, count));
                }
            }
        }
        if pairs.is_empty() {
            return Err(format!("{from} and {to} are one and the same"));
        }
        Ok(Verdict { yes: pairs.iter().all(|pair| pair.yes), traffic, pairs })
    }

    /// All that an end stands for, in classes that are alike.
    fn terminals(&self, end: &End) -> Result<Vec<Vec<Terminal<'_>>>, String> {
        let party = match end {
            End::Of(party) => party,
            End::Address(address) => {
                let spots: Vec<_> = self.holders.get(address).into_iter().flatten().map(|n| &self.ports[*n]).collect();
                return Ok(vec![match spots.first() {
                    None => vec![(address.to_string(), vec![Spot::Address(*address)])],
                    Some(port) => vec![(format!("vm/{}", port.vm), spots.into_iter().map(Spot::Port).collect())],
                }]);
            }
        };
        let is_one = |port: &&Port| match (party, &port.owner) {
            (Party::Vm(vm), _) => port.vm == *vm,
            (Party::Network(network), _) => port.at.network == *network,
            (Party::Service { service, app }, Some(Owner::Service { service: s, app: a, .. })) => {
                service == s && app.as_ref().is_none_or(|app| app == a)
            }
            (Party::Module { module, member }, Some(Owner::Module { module: m, member: v, .. })) => {
                module == m && member.as_ref().is_none_or(|member| member == v)
            }
            (Party::Instance { module, instance }, Some(Owner::Module { module: m, instance: i, .. })) => {
                module == m && instance == i
            }
            _ => false,
        };
        let vms: BTreeSet<&Name> = self.ports.iter().filter(is_one).map(|port| &port.vm).collect();
        if vms.is_empty() {
            return Err(format!("{end} has no VM with a network interface"));
        }
        let terminal = |vm: &Name| (format!("vm/{vm}"), self.spots(vm));
        let classes = self.alike(vms.into_iter(), true);
        Ok(classes.into_iter().map(|class| class.vms.into_iter().map(terminal).collect()).collect())
    }

    /// The interfaces of a VM.
    pub(crate) fn spots(&self, vm: &Name) -> Vec<Spot<'_>> {
        self.vms.get(vm).map_or(&[][..], |(first, end)| &self.ports[*first..*end]).iter().map(Spot::Port).collect()
    }

    fn pair(&self, from: &Terminal<'_>, to: &Terminal<'_>, traffic: Option<Traffic>, count: u32) -> Pair {
        let all: BTreeSet<Pass> = from.1.iter().flat_map(|a| to.1.iter().flat_map(|b| self.passes(*a, *b))).collect();
        let yes = traffic.map_or(!all.is_empty(), |asked| cover(all.iter().map(|pass| pass.flow), asked));
        let passes: BTreeSet<Passing> = all.iter().map(|pass| self.passing(pass)).collect();
        let missing = (!yes).then(|| self.missing(from, to, traffic, &passes));
        Pair { from: from.0.clone(), to: to.0.clone(), count, yes, passes: passes.into_iter().collect(), missing }
    }

    fn passing(&self, pass: &Pass) -> Passing {
        let reason = |by: By| match by {
            By::Rule(rule) => Reason::Rule(self.said(rule)),
            By::Off => Reason::Open,
            By::Outside => Reason::Outside,
        };
        Passing {
            traffic: pass.flow.traffic,
            only_from: (pass.flow.source != PortRange::ALL).then_some(Traffic::Udp(pass.flow.source)),
            sender: reason(pass.sender),
            receiver: reason(pass.receiver),
        }
    }

    fn said(&self, rule: usize) -> Said {
        let access = &self.access[rule];
        let origin = access.origin.clone();
        Said { text: sentence(access), grant: access.grant, rule: access.rule.clone(), origin }
    }

    /// Why what was asked does not pass, and what would let it.
    fn missing(
        &self,
        from: &Terminal<'_>,
        to: &Terminal<'_>,
        traffic: Option<Traffic>,
        passes: &BTreeSet<Passing>,
    ) -> Missing {
        let shut = |spot: &Spot<'_>| matches!(spot, Spot::Port(port) if port.at.shut);
        if let Some((vm, _)) = [from, to].into_iter().find(|(_, spots)| spots.iter().any(shut)) {
            return Missing { why: format!("{vm} is in quarantine: nothing passes from it or to it"), write: None };
        }
        let pairs: Vec<(Spot<'_>, Spot<'_>)> = from.1.iter().flat_map(|a| to.1.iter().map(|b| (*a, *b))).collect();
        let joined: Vec<_> = pairs.iter().filter(|(a, b)| self.joined(*a, *b)).collect();
        if joined.is_empty() {
            let networks = |spots: &[Spot<'_>]| {
                let names: BTreeSet<String> = spots.iter().map(|spot| self.network_of(spot)).collect();
                names.into_iter().collect::<Vec<_>>().join(", ")
            };
            let why = format!(
                "no network joins them: {} is on {}, {} on {}",
                from.0,
                networks(&from.1),
                to.0,
                networks(&to.1)
            );
            return Missing { why, write: None };
        }
        if let Some(port) = joined.iter().find_map(|(a, b)| self.unaddressed(*a, *b)) {
            let why = format!(
                "a rule allows it, but the address of vm/{} on network/{} is not known yet",
                port.vm, port.at.network
            );
            return Missing { why, write: None };
        }
        let wanted = |flows: Vec<(super::flow::Flow, By)>| {
            let fits = |(flow, by): &&(super::flow::Flow, By)| {
                *by != By::Outside && traffic.is_none_or(|asked| flow.traffic.covers(asked))
            };
            Some(match flows.iter().find(fits)?.1 {
                By::Rule(rule) => format!("{} at {}", sentence(&self.access[rule]), self.access[rule].origin),
                By::Off => "its network has `rules: open`".to_owned(),
                By::Outside => String::new(),
            })
        };
        let what = traffic.map_or("something".to_owned(), |asked| asked.to_string());
        let sender = joined.iter().find_map(|(a, b)| wanted(self.lets(*a, *b, true)));
        let receiver = joined.iter().find_map(|(a, b)| wanted(self.lets(*b, *a, false)));
        let some: Vec<String> = passes.iter().map(|passing| passing.traffic.to_string()).collect();
        let why = match (sender, receiver) {
            (Some(by), None) => {
                format!("{} may send {what} ({by}), but {} does not let it in", from.0, to.0)
            }
            (None, Some(by)) => format!("{} lets {what} in ({by}), but {} may not send it", to.0, from.0),
            _ if !some.is_empty() => format!("nothing but {} passes", some.join(", ")),
            _ => {
                let what = traffic.map_or("anything".to_owned(), |asked| asked.to_string());
                format!("no rule allows {what} from {} to {}", from.0, to.0)
            }
        };
        Missing { why, write: self.wording(from, to, traffic) }
    }

    /// The end whose address is all that is missing for a rule that names both.
    fn unaddressed<'c>(&self, a: Spot<'c>, b: Spot<'c>) -> Option<&'c Port> {
        let (Spot::Port(a), Spot::Port(b)) = (a, b) else { return None };
        let named = a.out.iter().any(|rule| b.into.binary_search(rule).is_ok());
        [a, b].into_iter().find(|port| named && port.at.addresses.is_empty())
    }

    /// The rule that one would have to write, and into which document.
    fn wording(&self, from: &Terminal<'_>, to: &Terminal<'_>, traffic: Option<Traffic>) -> Option<String> {
        let owner = |terminal: &Terminal<'_>| {
            terminal.1.first().and_then(|spot| if let Spot::Port(port) = spot { port.owner.clone() } else { None })
        };
        let (home, field, peer) = match (owner(from), owner(to)) {
            (Some(home), _) => (home, "to", to),
            (None, Some(home)) => (home, "from", from),
            (None, None) => return None,
        };
        let party = match owner(peer) {
            Some(Owner::Service { service, app, .. }) => format!("{{service: {service}, app: {app}}}"),
            Some(Owner::Module { module, member, .. }) => format!("{{module: {module}, vm: {member}}}"),
            Some(Owner::Image { .. }) => return None,
            None => match peer.1.first()? {
                Spot::Address(address) => format!("{{cidr: {address}}}"),
                Spot::Port(port) => format!("{{cidr: {}}}", port.at.addresses.first()?),
            },
        };
        let ports = traffic.map_or(String::new(), |asked| format!(", ports: [{asked}]"));
        let (part, address) = match home {
            Owner::Service { service, app, .. } => (format!("app: {app}"), crate::model::Address::Service(service)),
            Owner::Module { module, member, .. } => (format!("vm: {member}"), crate::model::Address::Module(module)),
            Owner::Image { .. } => return None,
        };
        let place = self.homes.get(&address).map_or(String::new(), |origin| format!(" ({origin})"));
        Some(format!("access: {{NAME: {{{part}, {field}: {party}{ports}}}}} in {address}{place}"))
    }

    fn network_of(&self, spot: &Spot<'_>) -> String {
        match spot {
            Spot::Port(port) if self.is_isolated(&port.at.network) => format!("network/{} (isolated)", port.at.network),
            Spot::Port(port) => format!("network/{}", port.at.network),
            Spot::Address(_) => "no network of this fleet".to_owned(),
        }
    }
}
