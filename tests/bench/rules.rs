//! Packet filters: 10,000 VMs in 1,000 services, of which one host has 1,000.
//!
//! `cargo bench --bench rules` prints what it takes to say all rules of the fleet, those of the host, one VM's change, and
//! who reaches whom, against the targets: 100 ms of the 300 ms within which a host's rules are computed and applied, 500 ms
//! for the matrix of everything.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it measures time and prints figures"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use stablehand::model::{Desired, Name, Snapshot, nic_mac, tap_name};
use stablehand::plan::rules::{NicAt, Nics, compile};

/// A service has two apps of five VMs.
const SERVICES: usize = 1_000;

/// VMs of the host that is measured.
const HERE: usize = 1_000;

fn main() {
    let desired = fleet();
    let nics = nics(&desired);
    let vms: Vec<&Name> = desired.vms.keys().collect();
    let here: Vec<&Name> = vms.iter().step_by(vms.len() / HERE).copied().collect();
    let own = BTreeSet::from([IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))]);

    let (all, compiled) = best(|| compile(&desired, &nics));
    let (host, rules) = best(|| compiled.host(here.iter().copied(), &own));
    let (alone, _) = best(|| compiled.host(here.iter().take(1).copied(), &own));
    let (matrix, cells) = best(|| compiled.matrix());
    let (collapsed, lines) = best(|| cells.collapsed());
    let permits: usize = rules.taps.values().map(|tap| tap.permits.len()).sum();
    println!(
        "\n{} VMs, {} rules; {} of them on the host, with {permits} permits",
        vms.len(),
        compiled.access().len(),
        rules.taps.len()
    );
    for (what, found, most) in [
        ("compile and a host's rules", all + host, 100.0),
        ("of these, the host's", host, 100.0),
        ("one VM's rules", alone, 50.0),
        ("matrix of 10,000 VMs", all + matrix + collapsed, 500.0),
    ] {
        let ratio = found / most;
        println!(
            "  {what:28} {found:8.1} ms of {most:5.0}  {ratio:5.2}  {}",
            if ratio <= 1.0 { "ok" } else { "MISSED" }
        );
    }
    println!("  {} cells, {} when parts that agree are one", cells.cells.len(), lines.len());
}

fn fleet() -> Desired {
    let mut text = String::from(
        "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: big}\nspec: {}\n\
         ---\napiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {name: h}\nspec: {connection: qemu:///system, slots: 20000}\n\
         ---\napiVersion: stablehand/v1alpha1\nkind: Network\nmetadata: {name: lan}\nspec:\n  bridge: {name: br0}\n  subnet: 10.0.0.0/8\n  gateway: 10.0.0.1\n  dns: [10.0.0.2, 10.0.0.3]\n  range: {from: 10.1.0.0, to: 10.255.0.0}\n\
         ---\napiVersion: stablehand/v1alpha1\nkind: Image\nmetadata: {name: debian}\nspec:\n  source: {url: \"https://example.org/debian.qcow2\"}\n  digest: \"sha256:",
    );
    text += &"a".repeat(64);
    text += "\"\n  format: qcow2\n";
    for n in 0..SERVICES {
        let next = (n + 1) % SERVICES;
        let part = "{image: debian, memory: 1GiB, replicas: {min: 5}, nics: {lan: {network: lan}}}";
        let _ = write!(
            text,
            "---\napiVersion: stablehand/v1alpha1\nkind: Service\nmetadata: {{name: s{n:04}}}\nspec:\n  apps:\n    web: {part}\n    db: {part}\n  access:\n    users: {{app: web, from: {{cidr: 172.16.{}.0/24}}, ports: [tcp/443]}}\n    next: {{app: web, to: {{service: s{next:04}, app: db}}, ports: [tcp/5432]}}\n",
            n % 250
        );
    }
    // A file has at most 250,000 values.
    let texts: Vec<String> =
        text.split("---\n").collect::<Vec<_>>().chunks(200).map(|docs| docs.join("---\n")).collect();
    let files: Vec<(String, &String)> =
        texts.iter().enumerate().map(|(n, text)| (format!("{n:03}.yaml"), text)).collect();
    let snapshot = Snapshot::of_texts(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    stablehand::config::load(&snapshot).unwrap().desired
}

fn nics(desired: &Desired) -> Nics {
    let mut out = Nics::default();
    let mut next = u32::from(Ipv4Addr::new(10, 1, 0, 0));
    for vm in desired.vms.values() {
        for (nic, spec) in &vm.spec.nics {
            let at = NicAt {
                shut: false,
                network: spec.network.clone(),
                mac: nic_mac(&desired.fleet.name, &vm.name, nic),
                tap: tap_name(&desired.fleet.name, &vm.name, nic),
                addresses: BTreeSet::from([IpAddr::V4(Ipv4Addr::from(next))]),
                learns: false,
            };
            next += 1;
            out.0.entry(vm.name.clone()).or_default().insert(nic.clone(), at);
        }
    }
    out
}

/// The best of three, in milliseconds, and the last result.
fn best<T>(run: impl Fn() -> T) -> (f64, T) {
    let timed = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed().as_secs_f64() * 1000.0, result)
    };
    let (mut least, mut last) = timed();
    for _ in 0..2 {
        drop(last);
        let (millis, result) = timed();
        least = least.min(millis);
        last = result;
    }
    (least, last)
}
