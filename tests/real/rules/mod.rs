//! Packet filters as a kernel has them: frames made by hand on a bridge of their own, without guests.

mod packets;
mod wire;

use std::collections::BTreeMap;
use std::process::Command;

use stablehand::execute::Done;
use stablehand::host::rules::{self, Guard};
use stablehand::host::shell::Local;
use stablehand::model::{FilterObs, HostRules, Mac, Name, Permit, TapRules, Way, tap_prefix};

use self::wire::alone;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Why packet filters cannot be tried here, if so.
fn missing() -> Option<&'static str> {
    let nft = Command::new("nft").arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() {
        Some("not root")
    } else if !nft {
        Some("`nft` is not installed")
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        Some("there is no /dev/net/tun")
    } else {
        None
    }
}

macro_rules! unless_missing {
    () => {
        if let Some(what) = missing() {
            println!("SKIPPED packet filters: {what}");
            return;
        }
    };
}

const fn card(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn tap(number: u8) -> String {
    format!("{}{number:09x}", tap_prefix(&name("shop")))
}

fn permit(text: &str) -> Permit {
    let [way, peer, traffic] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let way = if way == "out" { Way::Out } else { Way::In };
    let peer = peer.parse().unwrap_or_else(|_| peer.parse::<std::net::IpAddr>().unwrap().into());
    Permit { way, peer, traffic: traffic.parse().unwrap() }
}

fn rules_of(number: u8, addresses: &[&str], permits: &[&str]) -> TapRules {
    TapRules {
        vm: name(&format!("vm-{number}")),
        nic: name("lan"),
        mac: card(number),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        learns: false,
        open: false,
        permits: permits.iter().map(|p| permit(p)).collect(),
    }
}

const MATES: &[&str] = &["out 10.0.0.2 any", "in 10.0.0.2 any", "out fd00::2 any", "in fd00::2 any"];

/// 1 and 2 are mates; 1 also reaches servers, and is reached. 3 knows nobody. 4 learns its address. 5 is open.
fn filter() -> HostRules {
    let mut first = MATES.to_vec();
    first.extend([
        "out 10.0.0.100 tcp/443",
        "out 10.0.0.1 udp/53",
        "out 192.168.0.0/16 tcp/8000-8010",
        "out 192.168.7.0/24 tcp/8005-8020",
        "in 10.0.0.100 tcp/22",
        "in 10.0.0.101 icmp",
        "out 10.0.0.102 any",
        "in 172.16.0.0/12 any",
        "out fd00::100 tcp/443",
        "in fd00:9::/32 udp/5000-5010",
    ]);
    let second = ["out 10.0.0.11 any", "in 10.0.0.11 any", "out fd00::1 any", "in fd00::1 any"];
    let mut taps = BTreeMap::from([
        (tap(1), rules_of(1, &["10.0.0.11", "fd00::1"], &first)),
        (tap(2), rules_of(2, &["10.0.0.2", "fd00::2"], &second)),
        (tap(3), rules_of(3, &["10.0.0.3", "fd00::3"], &[])),
        (tap(4), TapRules { learns: true, ..rules_of(4, &[], &["out 10.0.0.100 tcp/443"]) }),
        (tap(5), TapRules { open: true, ..rules_of(5, &["10.0.0.5", "fd00::5"], &[]) }),
    ]);
    // Adopted: its name is not one of ours.
    taps.insert("vnet7".to_owned(), rules_of(7, &["10.0.0.7"], &["out 10.0.0.100 tcp/443"]));
    HostRules { taps }
}

async fn set(rules: &HostRules) -> Done {
    rules::apply(&Local, &name("shop"), rules, &mut None, Guard::Sure).await.unwrap()
}

async fn seen() -> FilterObs {
    rules::observe(&Local, &name("shop"), &mut None).await.unwrap()
}

/// Runs in a namespace that has the filter; says aloud when it cannot.
fn alone_with(work: impl AsyncFnOnce() + Send + 'static) {
    unless_missing!();
    alone(async || {
        assert_eq!(set(&filter()).await, Done::Changed);
        work().await;
    });
}

fn nft(words: &str) -> String {
    let done = Command::new("nft").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "nft {words}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn what_is_set_is_read_back_and_setting_it_again_does_nothing() {
    unless_missing!();
    alone(async || {
        assert_eq!(seen().await, FilterObs::Table(HostRules::default()));
        assert_eq!(set(&HostRules::default()).await, Done::Already);
        let rules = filter();
        assert_eq!(set(&rules).await, Done::Changed);
        assert_eq!(seen().await, FilterObs::Table(rules.clone()));
        assert_eq!(set(&rules).await, Done::Already);
        assert_eq!(set(&HostRules::default()).await, Done::Changed);
        assert_eq!(nft("list ruleset"), "");
    });
}
