//! Who may talk to whom: the filter of a host, the matrix and the answers agree with the documents and with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stablehand::model::{
    Access, Desired, HostRules, Name, NetworkMode, Owner, Party, Permit, PortRange, TapRules, Traffic, Vm, Way,
    nic_mac, tap_name,
};
use stablehand::plan::rules::{Compiled, End, NicAt, Nics, Verdict, compile};
use stablehand::render::{Style, matrix_markdown, matrix_text, reach_text};

use crate::lab;

const BASE: &str = "\
apiVersion: stablehand/v1alpha1
kind: Fleet
metadata: {name: f}
spec: {}
---
apiVersion: stablehand/v1alpha1
kind: Host
metadata: {name: h}
spec: {connection: qemu:///system, slots: 100}
---
apiVersion: stablehand/v1alpha1
kind: Image
metadata: {name: tiny}
spec:
  source: {path: tiny.qcow2}
  digest: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  format: qcow2
---
apiVersion: stablehand/v1alpha1
kind: Network
metadata: {name: lan}
spec:
  bridge: {name: br0, create: true}
  mode: routed
  subnet: 10.0.0.0/16
  range: {from: 10.0.1.0, to: 10.0.255.0}
  hostAddress: 10.0.0.1
  gateway: 10.0.0.2
  dns: [10.0.0.3]
---
apiVersion: stablehand/v1alpha1
kind: Network
metadata: {name: side}
spec:
  bridge: {name: br1}
  mode: routed
  subnet: 10.1.0.0/16
  range: {from: 10.1.1.0, to: 10.1.255.0}
---
apiVersion: stablehand/v1alpha1
kind: Network
metadata: {name: island}
spec:
  bridge: {name: br2, create: true}
  subnet: 10.2.0.0/16
  range: {from: 10.2.1.0, to: 10.2.255.0}
---
apiVersion: stablehand/v1alpha1
kind: Network
metadata: {name: free}
spec:
  bridge: {name: br3}
  subnet: 10.3.0.0/16
  range: {from: 10.3.1.0, to: 10.3.255.0}
  rules: open
";

fn service(name: &str, apps: &[(&str, u32, &str)], access: &str) -> String {
    let mut out =
        format!("---\napiVersion: stablehand/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  apps:\n");
    for (app, replicas, network) in apps {
        let _ = writeln!(
            out,
            "    {app}: {{image: tiny, memory: 64MiB, replicas: {{min: {replicas}}}, nics: {{eth: {{network: {network}}}}}}}"
        );
    }
    if !access.is_empty() {
        let _ = writeln!(out, "  access:\n{access}");
    }
    out
}

fn desired(text: &str) -> Desired {
    lab::load([("a.yaml", text)])
}

/// Interfaces with the addresses that a plan would give: the lowest free ones of each range.
fn nics(desired: &Desired) -> Nics {
    let mut next: BTreeMap<&Name, u32> = BTreeMap::new();
    let mut out = Nics::default();
    for vm in desired.vms.values() {
        for (nic, spec) in &vm.spec.nics {
            let first = desired.networks[&spec.network].range.map_or(0, |range| u32::from(range.0));
            let cursor = next.entry(&spec.network).or_insert(first);
            let address = IpAddr::V4(Ipv4Addr::from(*cursor));
            *cursor += 1;
            let at = NicAt {
                shut: false,
                network: spec.network.clone(),
                mac: nic_mac(&desired.fleet.name, &vm.name, nic),
                tap: tap_name(&desired.fleet.name, &vm.name, nic),
                addresses: BTreeSet::from([address]),
                learns: false,
            };
            out.0.entry(vm.name.clone()).or_default().insert(nic.clone(), at);
        }
    }
    out
}

fn compiled(desired: &Desired) -> Compiled {
    compile(desired, &nics(desired))
}

fn rules(desired: &Desired) -> HostRules {
    compiled(desired).host(desired.vms.keys(), &BTreeSet::new())
}

fn asked(compiled: &Compiled, from: &str, to: &str, traffic: &str) -> Verdict {
    let end = |text: &str| text.parse::<End>().unwrap();
    let traffic = (!traffic.is_empty()).then(|| traffic.parse().unwrap());
    compiled.reach(&end(from), &end(to), traffic).unwrap()
}

/// Compares with a file of `tests/cases/rules`, reviewed like any other; `UPDATE_EXPECTED=1` writes it.
fn expect(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/rules").join(file);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{}: run with UPDATE_EXPECTED=1 and review\n{actual}", path.display());
}

fn three() -> Desired {
    let shop = service(
        "shop",
        &[("cache", 1, "lan"), ("web", 2, "lan")],
        "    visitors: {app: web, from: {cidr: 0.0.0.0/0}, ports: [tcp/443]}\n    orders: {to: {service: db}, ports: [tcp/5432]}",
    );
    let db = service("db", &[("db", 1, "lan")], "");
    let mail = service(
        "mail",
        &[("smtp", 1, "lan")],
        "    out: {to: {cidr: 0.0.0.0/0}, ports: [tcp/25]}\n    names: {from: {service: shop, app: web}, ports: [udp/514, icmp]}",
    );
    desired(&[BASE, &shop, &db, &mail].concat())
}

#[test]
fn a_matrix_of_three_services_is_a_grid() {
    let matrix = compiled(&three()).matrix();
    expect("three-services.txt", &matrix_text(&matrix, &Style::stable()));
    expect("three-services.md", &matrix_markdown(&matrix));
}

#[test]
fn a_matrix_of_thirty_services_is_a_few_lines() {
    let mut text = BASE.to_owned();
    for n in 0..29 {
        let more = if n == 7 { "\n    debug: {from: {cidr: 0.0.0.0/0}, ports: [tcp/22]}" } else { "" };
        let access = format!(
            "    logs: {{to: {{service: log}}, ports: [tcp/514]}}\n    users: {{app: web, from: {{network: side}}, ports: [tcp/443]}}{more}"
        );
        text += &service(&format!("s{n:02}"), &[("db", 1, "lan"), ("web", 2, "lan")], &access);
    }
    text += &service("log", &[("log", 2, "lan")], "");
    let matrix = compiled(&desired(&text)).matrix();
    expect("thirty-services.txt", &matrix_text(&matrix, &Style::stable()));
}

#[test]
fn what_was_opened_and_closed_is_told_apart() {
    let (before, after) = (three(), {
        let mut after = three();
        after.access.retain(|rule| rule.rule.as_ref().is_none_or(|name| name.as_str() != "visitors"));
        for rule in
            after.access.iter_mut().filter(|rule| rule.rule.as_ref().is_some_and(|name| name.as_str() == "orders"))
        {
            rule.traffic.insert(Traffic::Icmp);
        }
        after
    });
    let (before, after) = (compiled(&before).matrix(), compiled(&after).matrix());
    let lines = |matrix: stablehand::plan::rules::Matrix| {
        matrix
            .collapsed()
            .iter()
            .map(|cell| format!("{} → {}: {:?}", cell.from, cell.to, cell.traffic))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(after.beyond(&before)), ["service/shop → service/db: {Icmp}"]);
    assert_eq!(
        lines(before.beyond(&after)),
        ["0.0.0.0/0 → service/shop/web: {Tcp(PortRange { first: 443, last: 443 })}"]
    );
    assert!(after.beyond(&after).cells.is_empty());
}

#[test]
fn an_answer_names_the_rule_or_what_to_write() {
    let compiled = compiled(&three());
    let text = |from: &str, to: &str, traffic: &str| reach_text(&asked(&compiled, from, to, traffic), &Style::stable());
    let mut all = String::new();
    for (from, to, traffic) in [
        ("service/shop", "service/db", "tcp/5432"),
        ("service/shop", "vm/db-db-1", "tcp/22"),
        ("vm/db-db-1", "vm/shop-web-1", ""),
        ("vm/shop-web-1", "vm/mail-smtp-1", "udp/514"),
        ("vm/mail-smtp-1", "vm/shop-web-1", "udp/9999"),
        ("vm/mail-smtp-1", "vm/shop-web-1", "tcp"),
        ("vm/mail-smtp-1", "192.0.2.7", "tcp/25"),
        ("192.0.2.7", "service/shop", "tcp/443"),
        ("10.0.0.1", "vm/db-db-1", "tcp/22"),
        ("vm/db-db-1", "10.0.0.1", "tcp/22"),
        ("vm/mail-smtp-1", "vm/db-db-1", "tcp/25"),
        ("vm/db-db-1", "10.0.0.3", "udp/53"),
    ] {
        let _ = writeln!(all, "? {from} {to} {traffic}\n{}", text(from, to, traffic));
    }
    expect("answers.txt", &all);
    assert!(compiled.reach(&"192.0.2.7".parse().unwrap(), &"192.0.2.8".parse().unwrap(), None).is_err());
    assert!(compiled.reach(&"vm/db-db-1".parse().unwrap(), &"vm/db-db-1".parse().unwrap(), None).is_err());
    assert!(compiled.reach(&"vm/nobody".parse().unwrap(), &"vm/db-db-1".parse().unwrap(), None).is_err());
    assert!("db".parse::<End>().is_err());
}

#[test]
fn an_address_that_is_not_known_opens_nothing_and_is_said() {
    let desired = three();
    let mut nics = nics(&desired);
    let db: Name = "db-db-1".parse().unwrap();
    for at in nics.0.get_mut(&db).unwrap().values_mut() {
        at.addresses.clear();
        at.learns = true;
    }
    let compiled = compile(&desired, &nics);
    let unknown: Vec<String> = compiled.unknown().iter().map(|u| format!("{} {}", u.vm, u.network)).collect();
    assert_eq!(unknown, ["db-db-1 lan"]);
    let verdict = asked(&compiled, "vm/shop-web-1", "vm/db-db-1", "tcp/5432");
    assert!(!verdict.yes);
    assert!(verdict.pairs[0].missing.as_ref().unwrap().why.contains("not known yet"), "{verdict:?}");
}

#[test]
fn without_a_filter_everything_passes_at_that_end_only() {
    let desired = desired(
        &[
            BASE,
            &service("a", &[("x", 1, "free")], ""),
            &service("b", &[("x", 1, "free")], ""),
            &service("c", &[("x", 1, "side")], ""),
        ]
        .concat(),
    );
    let compiled = compiled(&desired);
    assert!(asked(&compiled, "service/a", "service/b", "any").yes);
    assert!(!asked(&compiled, "service/a", "service/c", "").yes, "the other end filters");
    assert!(asked(&compiled, "192.0.2.1", "service/a", "any").yes);
    let rules = rules(&desired);
    assert_eq!(rules.taps.values().filter(|tap| tap.open).count(), 2);
    assert!(rules.taps.values().filter(|tap| tap.open).all(|tap| tap.permits.is_empty()));
}

#[test]
fn a_rule_between_two_single_vms_waits_for_the_address_of_one() {
    let a = service("a", &[("x", 1, "lan")], "    out: {to: {service: b}, ports: [tcp/80]}");
    let desired =
        desired(&[BASE, &a, &service("b", &[("x", 1, "lan")], ""), &service("c", &[("x", 1, "lan")], "")].concat());
    let mut nics = nics(&desired);
    for at in nics.0.values_mut().flat_map(|nics| nics.values_mut()).filter(|at| at.network.as_str() == "lan") {
        at.addresses.clear();
    }
    let unknown: Vec<String> = compile(&desired, &nics).unknown().iter().map(|u| u.vm.to_string()).collect();
    assert_eq!(unknown, ["a-x-1", "b-x-1"], "nobody talks to c");
}

#[test]
fn everybody_who_may_talk_to_everybody_is_said_in_a_line() {
    let mut text = BASE.to_owned();
    for n in 0..150 {
        let access =
            "    in: {from: {cidr: 0.0.0.0/0}, ports: [tcp/443]}\n    out: {to: {cidr: 0.0.0.0/0}, ports: [tcp]}";
        text += &service(&format!("s{n:03}"), &[("web", 1, "lan")], access);
    }
    let compiled = compiled(&desired(&text));
    let matrix = compiled.matrix();
    assert!(matrix.unlisted && matrix.cells.len() < 12_000, "{}", matrix.cells.len());
    assert!(asked(&compiled, "service/s000", "service/s149", "tcp/443").yes);
    assert!(matrix_text(&matrix, &Style::stable()).contains("not listed"));
}

/// A fleet that a generator thought of.
#[derive(Clone, Debug)]
struct Thought {
    services: Vec<Vec<(usize, u32)>>,
    module: Option<(usize, u32)>,
    rules: Vec<(usize, usize, usize, usize, usize)>,
}

const NETWORKS: [&str; 4] = ["lan", "side", "island", "free"];
const KINDS: [&str; 6] = ["any", "icmp", "tcp/80", "tcp/80-90", "udp/53", "udp"];

fn thought() -> impl Strategy<Value = Thought> {
    (
        prop::collection::vec(prop::collection::vec((0..4usize, 0..3u32), 1..3), 1..4),
        prop::option::of((0..4usize, 1..3u32)),
        prop::collection::vec((0..5usize, 0..2usize, 0..8usize, 0..2usize, 0..KINDS.len()), 0..8),
    )
        .prop_map(|(services, module, rules)| Thought { services, module, rules })
}

impl Thought {
    fn documents(&self) -> Vec<String> {
        let count = self.services.len();
        let mut docs = vec![BASE.to_owned()];
        let mut access: BTreeMap<usize, String> = BTreeMap::new();
        for (number, (own, app, peer, way, kind)) in self.rules.iter().enumerate() {
            let own = own % (count + usize::from(self.module.is_some()));
            let peer = match peer {
                0 => "{cidr: 0.0.0.0/0}".to_owned(),
                1 => "{cidr: 10.1.1.0/31}".to_owned(),
                2 => "{network: lan}".to_owned(),
                3 => "{network: island}".to_owned(),
                4 if self.module.is_some() => "{module: m, vm: v0}".to_owned(),
                5 if self.module.is_some() => "{module: m}".to_owned(),
                6 => format!("{{service: s{}, app: a0}}", number % count),
                _ => format!("{{service: s{}}}", number % count),
            };
            let part = match (own == count, app) {
                (_, 0) => String::new(),
                (true, _) => "vm: v0, ".to_owned(),
                (false, _) => "app: a0, ".to_owned(),
            };
            let way = ["from", "to"][*way];
            let line = format!("    r{number}: {{{part}{way}: {peer}, ports: [{}]}}\n", KINDS[*kind]);
            access.entry(own).or_default().push_str(&line);
        }
        for (number, apps) in self.services.iter().enumerate() {
            let apps: Vec<(String, u32, &str)> = apps
                .iter()
                .enumerate()
                .map(|(n, (network, replicas))| (format!("a{n}"), *replicas, NETWORKS[*network]))
                .collect();
            let apps: Vec<(&str, u32, &str)> = apps.iter().map(|(a, r, n)| (&**a, *r, *n)).collect();
            docs.push(service(&format!("s{number}"), &apps, access.get(&number).map_or("", |a| a.trim_end())));
        }
        if let Some((network, instances)) = self.module {
            let mut text =
                "---\napiVersion: stablehand/v1alpha1\nkind: Module\nmetadata: {name: m}\nspec:\n  vms:\n".to_owned();
            for (member, network) in [("v0", NETWORKS[network]), ("v1", "lan")] {
                let _ = writeln!(
                    text,
                    "    {member}: {{image: tiny, memory: 64MiB, nics: {{eth: {{network: {network}}}, two: {{network: side}}}}}}"
                );
            }
            let _ = writeln!(
                text,
                "  instances: {{{}}}",
                (0..instances).map(|n| format!("i{n}: {{}}")).collect::<Vec<_>>().join(", ")
            );
            if let Some(access) = access.get(&count) {
                let _ = writeln!(text, "  access:\n{}", access.trim_end());
            }
            docs.push(text);
        }
        docs
    }
}

fn is_in(party: &Party, vm: &Vm, network: &Name) -> bool {
    match (party, &vm.owner) {
        (Party::Service { service, app }, Owner::Service { service: s, app: a, .. }) => {
            service == s && app.as_ref().is_none_or(|app| app == a)
        }
        (Party::Module { module, member }, Owner::Module { module: m, member: v, .. }) => {
            module == m && member.as_ref().is_none_or(|member| member == v)
        }
        (Party::Instance { module, instance }, Owner::Module { module: m, instance: i, .. }) => {
            module == m && instance == i
        }
        (Party::Vm(name), _) => *name == vm.name,
        (Party::Network(name), _) => name == network,
        _ => false,
    }
}

/// What one rule explains at an interface, found out the slow way.
fn explained(desired: &Desired, nics: &Nics, access: &Access, way: Way, vm: &Vm, at: &NicAt) -> BTreeSet<IpNet> {
    let (own, peer) = if way == Way::Out { (&access.from, &access.to) } else { (&access.to, &access.from) };
    let isolated = |network: &Name| desired.networks[network].mode == NetworkMode::Isolated;
    let meets = |other: &Name| at.network == *other || !(isolated(&at.network) || isolated(other));
    if !is_in(own, vm, &at.network) {
        return BTreeSet::new();
    }
    let subnet = |network: &Name| desired.networks[network].subnet.map(IpNet::V4);
    match peer {
        Party::Net(net) => {
            let here = subnet(&at.network).is_none_or(|s| s.contains(net) || net.contains(&s));
            (here || !isolated(&at.network)).then_some(*net).into_iter().collect()
        }
        Party::Host => {
            desired.networks[&at.network].host_address.map(|a| IpNet::from(IpAddr::V4(a))).into_iter().collect()
        }
        Party::Network(network) => subnet(network).filter(|_| meets(network)).into_iter().collect(),
        party => {
            let mut found = BTreeSet::new();
            for (name, others) in nics.0.iter().filter(|(name, _)| **name != vm.name) {
                for other in
                    others.values().filter(|o| meets(&o.network) && is_in(party, &desired.vms[name], &o.network))
                {
                    found.extend(other.addresses.iter().map(|a| IpNet::from(*a)));
                }
            }
            found
        }
    }
}

/// Whether two interfaces are on one network, or neither is on one that leads nowhere.
fn linked(desired: &Desired, nics: &Nics, a: &TapRules, b: &TapRules) -> bool {
    let network = |tap: &TapRules| &nics.0[&tap.vm][&tap.nic].network;
    let isolated = |network: &Name| desired.networks[network].mode == NetworkMode::Isolated;
    network(a) == network(b) || !(isolated(network(a)) || isolated(network(b)))
}

/// Whether packets that begin a connection pass, by the tables of both ends alone.
fn passes(rules: &HostRules, joined: &dyn Fn(&TapRules, &TapRules) -> bool, from: &Name, to: &Name, port: u16) -> bool {
    let kind = Traffic::Tcp(PortRange { first: port, last: port });
    let taps = |vm: &Name| rules.taps.values().filter(|tap| tap.vm == *vm).cloned().collect::<Vec<_>>();
    taps(from).iter().any(|a| {
        taps(to).iter().filter(|b| joined(a, b)).any(|b| {
            let lets = |tap: &TapRules, way: Way, other: &BTreeSet<IpAddr>| {
                let fits =
                    |p: &&Permit| p.way == way && p.traffic.covers(kind) && other.iter().any(|o| p.peer.contains(o));
                tap.open || tap.permits.iter().any(|p| fits(&p))
            };
            lets(a, Way::Out, &b.addresses) && lets(b, Way::In, &a.addresses)
        })
    })
}

fn holds(thought: &Thought) -> Result<(), TestCaseError> {
    let docs = thought.documents();
    let desired = desired(&docs.concat());
    let nics = nics(&desired);
    let compiled = compile(&desired, &nics);
    let host = compiled.host(desired.vms.keys(), &BTreeSet::new());

    // The order of documents, files and rules does not count.
    let files: Vec<(String, &String)> =
        docs.iter().rev().enumerate().map(|(n, text)| (format!("{n}.yaml"), text)).collect();
    let mut other = lab::load(files.iter().map(|(path, text)| (path.as_str(), text.trim_start_matches("---\n"))));
    other.access.reverse();
    prop_assert_eq!(&compile(&other, &nics).host(other.vms.keys(), &BTreeSet::new()), &host);

    // A permit is there exactly when a rule explains it.
    for (vm, interfaces) in &nics.0 {
        for at in interfaces.values().filter(|at| desired.networks[&at.network].closed) {
            let mut expected = BTreeSet::new();
            for access in &desired.access {
                for way in [Way::Out, Way::In] {
                    for peer in explained(&desired, &nics, access, way, &desired.vms[vm], at) {
                        expected.extend(access.traffic.iter().map(|traffic| Permit { way, peer, traffic: *traffic }));
                    }
                }
            }
            prop_assert_eq!(&host.taps[&at.tap].permits, &expected);
        }
    }

    // Between VMs, by rules that name them: out at one end exactly when in at the other.
    let wide = |peer: &IpNet| {
        desired.access.iter().any(|a| [&a.from, &a.to].iter().any(|p| matches!(p, Party::Net(n) if n == peer)))
    };
    for a in host.taps.values().filter(|tap| !tap.open) {
        for b in host.taps.values().filter(|tap| !tap.open && tap.vm != a.vm) {
            let said = |tap: &TapRules, way: Way, other: &TapRules| -> BTreeSet<Traffic> {
                let fits =
                    |p: &&Permit| p.way == way && !wide(&p.peer) && other.addresses.iter().any(|o| p.peer.contains(o));
                let kinds = tap.permits.iter().filter(fits).map(|p| p.traffic).collect();
                Traffic::tidy(&kinds)
            };
            if linked(&desired, &nics, a, b) {
                prop_assert_eq!(said(a, Way::Out, b), said(b, Way::In, a), "{} and {}", &a.vm, &b.vm);
            }
        }
    }

    // Answers, matrix and tables agree.
    let matrix = compiled.matrix();
    let labels = |vm: &Vm| -> BTreeSet<String> {
        let mut labels = BTreeSet::from([format!("vm/{}", vm.name)]);
        labels.extend(vm.spec.nics.values().map(|nic| format!("network/{}", nic.network)));
        match &vm.owner {
            Owner::Service { service, app, .. } => labels.insert(format!("service/{service}/{app}")),
            Owner::Module { module, member, .. } => labels.insert(format!("module/{module}/{member}")),
            Owner::Image { .. } => false,
        };
        labels
    };
    let instance = |vm: &Vm| if let Owner::Module { instance, .. } = &vm.owner { Some(instance.clone()) } else { None };
    let plain = |label: &str| label.split(" (").next().unwrap_or_default().to_owned();
    for a in desired.vms.values() {
        for b in desired.vms.values().filter(|b| b.name != a.name) {
            let closed = |vm: &Vm| vm.spec.nics.values().all(|nic| desired.networks[&nic.network].closed);
            for port in [80, 85, 443] {
                let yes =
                    asked(&compiled, &format!("vm/{}", a.name), &format!("vm/{}", b.name), &format!("tcp/{port}")).yes;
                prop_assert_eq!(
                    yes,
                    passes(&host, &|a, b| linked(&desired, &nics, a, b), &a.name, &b.name, port),
                    "{} to {}, {}",
                    &a.name,
                    &b.name,
                    port
                );
                let kind = Traffic::Tcp(PortRange { first: port, last: port });
                let cell = matrix.cells.iter().any(|cell| {
                    let near = !cell.instance || (instance(a).is_some() && instance(a) == instance(b));
                    near && labels(a).contains(&plain(&cell.from))
                        && labels(b).contains(&plain(&cell.to))
                        && cell.traffic.iter().any(|traffic| traffic.covers(kind))
                });
                if yes && closed(a) && closed(b) {
                    prop_assert!(
                        cell,
                        "{} reaches {} with tcp/{port}, and no cell says so: {:#?}",
                        &a.name,
                        &b.name,
                        matrix.cells
                    );
                }
            }
        }
    }
    for cell in matrix.collapsed().iter().chain(&matrix.cells) {
        prop_assert!(!cell.traffic.is_empty());
    }
    Ok(())
}

#[test]
fn tables_answers_and_matrix_say_what_the_documents_say() {
    let cases = std::env::var("PROPS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config { cases, failure_persistence: None, ..Config::default() }, rng);
    runner.run(&thought(), |thought| holds(&thought)).unwrap();
}
