//! The figures of packet filters: 1,000 VMs of a host computed and set, one VM's change, and what reading back costs a look.
//!
//! `cargo bench --bench filter` sets them in a network namespace of its own, as root. Each VM has nine mates, whom it may send
//! anything, a gateway, two name servers, a declared port, and two networks.
#![expect(
    unsafe_code,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a namespace is made by a system call; it measures time and prints figures"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use stablehand::execute::Done;
use stablehand::host::rules::{self, Guard, Kept};
use stablehand::host::shell::Local;
use stablehand::model::{HostRules, Mac, Name, Permit, TapRules, Traffic, Way, nic_mac, tap_name};

/// Tries of each; the best counts.
const TRIES: usize = 5;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

/// Groups of ten.
fn rules(vms: u32) -> HostRules {
    let (fleet, nic) = (name("bench"), name("lan"));
    let one = |number: u32| {
        let vm = name(&format!("vm-{number}"));
        let first = number / 10 * 10;
        let both =
            |peer: IpAddr| [Way::Out, Way::In].map(|way| Permit { way, peer: peer.into(), traffic: Traffic::Any });
        let mates = (first..first + 10).filter(|n| *n != number).map(|n| address(n + 256));
        let mut permits: Vec<Permit> = mates.flat_map(both).collect();
        let says = |way, peer: &str, traffic: &str| {
            let peer = peer.parse().unwrap();
            permits_of(way, peer, traffic)
        };
        permits.push(says(Way::Out, "10.0.0.1/32", "any"));
        permits.push(says(Way::In, "10.0.0.1/32", "any"));
        for server in ["10.0.0.2/32", "10.0.0.3/32"] {
            permits.extend(["udp/53", "tcp/53"].map(|traffic| says(Way::Out, server, traffic)));
        }
        permits.push(says(Way::In, "10.0.0.9/32", "tcp/443"));
        permits.push(says(Way::Out, "192.168.0.0/16", "tcp/8000-8010"));
        permits.push(says(Way::In, "172.16.0.0/12", "tcp/443"));
        let mac: Mac = nic_mac(&fleet, &vm, &nic);
        let tap = tap_name(&fleet, &vm, &nic);
        let addresses = [address(number + 256)].into();
        let permits = permits.into_iter().collect();
        (tap, TapRules { vm, nic: nic.clone(), mac, addresses, learns: false, open: false, permits })
    };
    HostRules { taps: (0..vms).map(one).collect::<BTreeMap<_, _>>() }
}

fn permits_of(way: Way, peer: ipnet::IpNet, traffic: &str) -> Permit {
    Permit { way, peer, traffic: traffic.parse().unwrap() }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn set(rules: &HostRules, kept: &mut Option<Kept>) -> f64 {
    let began = Instant::now();
    let done = rules::apply(&Local, &name("bench"), rules, kept, Guard::Sure).await.unwrap();
    assert_eq!(done, Done::Changed);
    millis(began.elapsed())
}

async fn measure() {
    println!("\n  VMs                   all of it set   one VM's change   a look");
    for vms in [0, 50, 1_000] {
        let all = rules(vms);
        let (mut whole, mut one, mut look) = (f64::MAX, f64::MAX, f64::MAX);
        for try_ in 0..TRIES {
            let mut kept = None;
            if vms > 0 {
                let none = HostRules::default();
                rules::apply(&Local, &name("bench"), &none, &mut kept, Guard::Sure).await.unwrap();
                whole = whole.min(set(&all, &mut kept).await);
                let mut changed = all.clone();
                let first = changed.taps.values_mut().nth(try_).unwrap();
                first.permits.insert(permits_of(Way::Out, "10.0.0.77/32".parse().unwrap(), "tcp/5432"));
                first.permits.insert(permits_of(Way::In, "192.168.0.0/16".parse().unwrap(), "udp/9-11"));
                one = one.min(set(&changed, &mut kept).await);
            }
            let began = Instant::now();
            rules::observe(&Local, &name("bench"), &mut kept).await.unwrap();
            look = look.min(millis(began.elapsed()));
        }
        if vms == 0 {
            println!("{vms:5}   {:>26}   {:>15}   {look:3.0} ms", "-", "-");
        } else {
            println!("{vms:5}   {whole:23.0} ms   {one:12.0} ms   {look:3.0} ms");
        }
        if vms == 1_000 {
            let verdict = |is: bool| if is { "held" } else { "MISSED" };
            println!(
                "at most 300 ms for all of it: {}; at most 50 ms for one: {}",
                verdict(whole <= 300.0),
                verdict(one <= 50.0)
            );
        }
    }
}

fn main() {
    if !rustix::process::geteuid().is_root() || std::process::Command::new("nft").arg("-v").output().is_err() {
        println!("SKIPPED: packet filters are measured as root, with nft");
        return;
    }
    // SAFETY: it concerns this thread alone, which starts every program.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "no namespace");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(measure());
}
