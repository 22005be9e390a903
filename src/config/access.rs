//! Who may talk to whom: what is always so, and what documents say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::build::reference;
use super::expand::Expanded;
use super::leaf::Cidr;
use super::read::{Loc, choice, nearest};
use super::repository::{Doc, Repository};
use super::sink::{Mark, Sink};
use super::spec::{ModuleAccessSpec, NetworkSpec, PeerSpec, ServiceAccessSpec};
use crate::model::{Access, Grant, Name, Network, Party, PortRange, Traffic};

/// A port that name servers listen on (RFC 1035, 4.2).
const DNS: PortRange = PortRange { first: 53, last: 53 };

/// Everything that is allowed in a fleet, and what is wrong with the rules that say so.
pub(crate) fn access(
    repo: &Repository,
    networks: &BTreeMap<Name, Network>,
    expanded: &Expanded,
    sink: &mut Sink,
) -> Vec<Access> {
    let mut out = Vec::new();
    for doc in repo.networks.values() {
        if let Some(network) = networks.get(&doc.name.value) {
            system(doc, network, &mut out, sink);
        }
    }
    let all = |party: &Party, origin, grant| {
        let traffic = BTreeSet::from([Traffic::Any]);
        Access { from: party.clone(), to: party.clone(), traffic, grant, rule: None, origin }
    };
    let context = Context { repo, networks, expanded };
    for doc in repo.services.values() {
        let service = &doc.name.value;
        let own = Party::Service { service: service.clone(), app: None };
        out.push(all(&own, sink.origin(doc.name.at), Grant::Mates));
        let first = out.len();
        for (name, spec) in doc.spec.access.iter().flat_map(|a| &a.entries) {
            let app = spec.app.as_ref();
            if let Some(app) = app {
                context.has_app(service, app, sink);
            }
            let own = Party::Service { service: service.clone(), app: app.map(|app| app.value.clone()) };
            out.extend(context.rule(name, &Written::of_service(spec), own, sink));
        }
        repeated(&out, first, sink);
    }
    for doc in repo.modules.values() {
        let module = &doc.name.value;
        for (instance, _) in doc.spec.instances.iter().flat_map(|i| &i.entries) {
            let own = Party::Instance { module: module.clone(), instance: instance.value.clone() };
            out.push(all(&own, sink.origin(doc.name.at), Grant::Mates));
        }
        let first = out.len();
        for (name, spec) in doc.spec.access.iter().flat_map(|a| &a.entries) {
            let member = spec.vm.as_ref();
            if let Some(member) = member {
                context.has_member(module, member, sink);
            }
            let own = Party::Module { module: module.clone(), member: member.map(|member| member.value.clone()) };
            out.extend(context.rule(name, &Written::of_module(spec), own, sink));
        }
        repeated(&out, first, sink);
    }
    out
}

/// What every VM on a network may reach, and be reached by, without anybody having to say so.
fn system(doc: &Doc<Box<NetworkSpec>>, network: &Network, out: &mut Vec<Access>, sink: &mut Sink) {
    let here = Party::Network(network.name.clone());
    let mut add = |from: &Party, to: &Party, traffic: &[Traffic], rule: Option<&Name>, origin| {
        let traffic = traffic.iter().copied().collect();
        let (from, to, rule) = (from.clone(), to.clone(), rule.cloned());
        out.push(Access { from, to, traffic, grant: Grant::System, rule, origin });
    };
    let one = |address: IpAddr| Party::Net(IpNet::from(address));
    // The gateway hands on; of itself it only has to answer a ping. Whom it leads to is said by rules.
    let gateways = doc.spec.gateway.iter().map(|g| (IpAddr::V4(g.value), g.at));
    for (gateway, at) in gateways.chain(doc.spec.gateway6.iter().map(|g| (IpAddr::V6(g.value), g.at))) {
        add(&here, &one(gateway), &[Traffic::Icmp], None, sink.origin(at));
    }
    for server in doc.spec.dns.iter().flatten() {
        add(&here, &one(server.value), &[Traffic::Tcp(DNS), Traffic::Udp(DNS)], None, sink.origin(server.at));
    }
    // Probes; and a guest begins nothing at its own host.
    let probes = [Traffic::Tcp(PortRange::ALL), Traffic::Icmp];
    add(&Party::Host, &here, &probes, None, sink.origin(doc.name.at));
    for net in doc.spec.probes_from.iter().flatten() {
        add(&Party::Net(net.value.0), &here, &probes, None, sink.origin(net.at));
    }
    for (name, spec) in doc.spec.system_addresses.iter().flat_map(|a| &a.entries) {
        let traffic: Vec<Traffic> = kinds(spec.ports.as_deref(), spec.at, sink).into_iter().collect();
        if let Some(Loc { value: Cidr(net), .. }) = spec.address {
            add(&here, &Party::Net(net), &traffic, Some(&name.value), sink.origin(name.at));
        }
    }
}

/// The kinds of packets of a rule: any where nothing is said.
fn kinds(ports: Option<&[Loc<Traffic>]>, at: Mark, sink: &mut Sink) -> BTreeSet<Traffic> {
    let Some(ports) = ports else { return BTreeSet::from([Traffic::Any]) };
    if ports.is_empty() && sink.errors() == 0 {
        sink.report("E0413", at, "`ports` is empty: the rule would allow nothing")
            .help("leave it out to allow everything");
    }
    for (index, port) in ports.iter().enumerate() {
        if let Some(first) = ports[..index].iter().find(|p| p.value.covers(port.value)) {
            let message = format!("`{}` is among `{}`", port.value, first.value);
            sink.report("W0502", port.at, message).also(first.at, "said here");
        }
    }
    ports.iter().map(|port| port.value).collect()
}

/// Reports rules of one document that say what another one of it says.
fn repeated(rules: &[Access], first: usize, sink: &mut Sink) {
    for (index, rule) in rules.iter().enumerate().skip(first) {
        let covers = |other: &&Access| {
            let wider = rule.traffic.iter().all(|kind| other.traffic.iter().any(|k| k.covers(*kind)));
            other.from == rule.from && other.to == rule.to && wider
        };
        let (at, name) = (sink.mark_of(&rule.origin), rule.rule.as_ref().map_or("", Name::as_str));
        if let Some(other) = rules[first..index].iter().find(covers) {
            let there = sink.mark_of(&other.origin);
            sink.report("W0502", at, format!("the rule `{name}` allows nothing that is not allowed already"))
                .also(there, "by this rule");
        }
    }
}

/// A rule as it was written, whatever it stands in.
struct Written<'s> {
    at: Mark,
    flawed: bool,
    from: Option<&'s PeerSpec>,
    to: Option<&'s PeerSpec>,
    ports: Option<&'s [Loc<Traffic>]>,
}

impl<'s> Written<'s> {
    fn of_service(spec: &'s ServiceAccessSpec) -> Self {
        let (from, to, ports) = (spec.from.as_ref(), spec.to.as_ref(), spec.ports.as_deref());
        Self { at: spec.at, flawed: spec.flawed, from, to, ports }
    }
    fn of_module(spec: &'s ModuleAccessSpec) -> Self {
        let (from, to, ports) = (spec.from.as_ref(), spec.to.as_ref(), spec.ports.as_deref());
        Self { at: spec.at, flawed: spec.flawed, from, to, ports }
    }
}

struct Context<'a> {
    repo: &'a Repository,
    networks: &'a BTreeMap<Name, Network>,
    expanded: &'a Expanded,
}

impl Context<'_> {
    fn rule(&self, name: &Loc<Name>, written: &Written<'_>, own: Party, sink: &mut Sink) -> Option<Access> {
        let traffic = kinds(written.ports, written.at, sink);
        let (peer, is_from) = match (written.from, written.to) {
            (Some(from), None) => (from, true),
            (None, Some(to)) => (to, false),
            (Some(from), Some(to)) => {
                let message = format!("the rule `{}` says both `from` and `to`", name.value);
                sink.report("E0218", to.at, message).also(from.at, "`from`").help("write two rules: one for each");
                return None;
            }
            (None, None) => {
                if !written.flawed {
                    let message = format!("the rule `{}` says neither `from` nor `to`", name.value);
                    sink.report("E0218", name.at, message)
                        .help("`to: {service: db}` lets it reach the service, `from: {service: web}` be reached by it");
                }
                return None;
            }
        };
        let party = self.peer(peer, sink)?;
        if written.flawed {
            return None;
        }
        self.mates(&own, &party, name, sink);
        let (from, to) = if is_from { (party, own) } else { (own, party) };
        let (rule, origin) = (Some(name.value.clone()), sink.origin(name.at));
        Some(Access { from, to, traffic, grant: Grant::Declared, rule, origin })
    }

    /// The other side; reports what does not exist, and anything but exactly one.
    fn peer(&self, peer: &PeerSpec, sink: &mut Sink) -> Option<Party> {
        let said: Vec<(&str, Mark)> = [
            ("network", peer.network.as_ref().map(|n| n.at)),
            ("cidr", peer.cidr.as_ref().map(|n| n.at)),
            ("service", peer.service.as_ref().map(|n| n.at)),
            ("module", peer.module.as_ref().map(|n| n.at)),
            ("vm", peer.vm.as_ref().filter(|_| peer.module.is_none()).map(|n| n.at)),
        ]
        .into_iter()
        .filter_map(|(word, at)| Some((word, at?)))
        .collect();
        let words = ["network", "cidr", "service", "module", "vm"];
        match said.as_slice() {
            [_] => {}
            [(first, first_at), (second, at), ..] => {
                sink.report("E0218", *at, format!("the peer is both a `{first}` and a `{second}`"))
                    .also(*first_at, format!("`{first}`"))
                    .help("write a rule for each");
                return None;
            }
            [] => {
                if let Some(app) = &peer.app {
                    let help = "like `{service: shop, app: web}`";
                    sink.report("E0218", app.at, "an `app` is one of a service, and no `service` is named").help(help);
                } else if !peer.flawed {
                    sink.report("E0218", peer.at, "nobody is named").help(format!("write one of {}", choice(&words)));
                }
                return None;
            }
        }
        if let (Some(app), None) = (&peer.app, &peer.service) {
            sink.report("E0218", app.at, format!("an `app` is one of a service, not of a `{}`", said[0].0));
            return None;
        }
        self.named(peer, sink)
    }

    fn named(&self, peer: &PeerSpec, sink: &mut Sink) -> Option<Party> {
        let repo = self.repo;
        if let Some(service) = &peer.service {
            reference(repo, "Service", &repo.services, service, sink);
            if let Some(app) = &peer.app {
                self.has_app(&service.value, app, sink);
            }
            return Some(Party::Service {
                service: service.value.clone(),
                app: peer.app.as_ref().map(|a| a.value.clone()),
            });
        }
        if let Some(module) = &peer.module {
            reference(repo, "Module", &repo.modules, module, sink);
            if let Some(member) = &peer.vm {
                self.has_member(&module.value, member, sink);
            }
            return Some(Party::Module {
                module: module.value.clone(),
                member: peer.vm.as_ref().map(|v| v.value.clone()),
            });
        }
        if let Some(vm) = &peer.vm {
            if sink.errors() == 0 && !self.expanded.vms.contains_key(&vm.value) {
                let near = nearest(vm.value.as_str(), self.expanded.vms.keys().map(Name::as_str));
                sink.report("E0304", vm.at, format!("no VM `{}` in this fleet", vm.value))
                    .suggest(near)
                    .help("a VM is called `<service>-<app>-<number>` or `<module>-<instance>-<member>`");
            }
            return Some(Party::Vm(vm.value.clone()));
        }
        if let Some(network) = &peer.network {
            reference(repo, "Network", &repo.networks, network, sink);
            if let Some(known) = self.networks.get(&network.value).filter(|known| known.nets().next().is_none()) {
                let there = sink.mark_of(&known.origin);
                sink.report(
                    "E0450",
                    network.at,
                    format!("network `{}` has no `subnet`: nobody knows its addresses", network.value),
                )
                .also(there, "this network")
                .help("give the network its `subnet`, or name the addresses: `{cidr: 192.168.7.0/24}`");
            }
            return Some(Party::Network(network.value.clone()));
        }
        peer.cidr.as_ref().map(|cidr| Party::Net(cidr.value.0))
    }

    fn has_app(&self, service: &Name, app: &Loc<Name>, sink: &mut Sink) {
        let Some(apps) = self.repo.services.get(service).and_then(|doc| doc.spec.apps.as_ref()) else { return };
        if apps.get(app.value.as_str()).is_none() {
            let near = nearest(app.value.as_str(), apps.names());
            sink.report("E0304", app.at, format!("no app `{}` in service `{service}`", app.value)).suggest(near);
        }
    }

    fn has_member(&self, module: &Name, member: &Loc<Name>, sink: &mut Sink) {
        let Some(vms) = self.repo.modules.get(module).and_then(|doc| doc.spec.vms.as_ref()) else { return };
        if vms.get(member.value.as_str()).is_none() {
            let near = nearest(member.value.as_str(), vms.names());
            sink.report("E0304", member.at, format!("no VM `{}` in module `{module}`", member.value)).suggest(near);
        }
    }

    /// Reports a rule among the VMs of one service: they are mates.
    fn mates(&self, own: &Party, peer: &Party, name: &Loc<Name>, sink: &mut Sink) {
        if let (Party::Service { service, .. }, Party::Service { service: other, .. }) = (own, peer)
            && service == other
        {
            let message = format!(
                "the rule `{}` allows nothing new: all VMs of service `{service}` may talk to each other",
                name.value
            );
            sink.report("W0502", name.at, message);
        }
    }
}
