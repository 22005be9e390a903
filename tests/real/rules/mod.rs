//! Packet filters as a kernel has them: frames made by hand on a bridge of their own, without guests.

mod packets;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::process::Command;

use stablehand::execute::{Done, StepError};
use stablehand::host::rules::{self, Guard};
use stablehand::host::shell::{Local, Remote};
use stablehand::model::{FilterObs, HostRules, Mac, Name, Permit, TapRules, Way, tap_prefix};
use stablehand::observe::Boxed;

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

#[test]
fn one_vm_s_change_is_sent_alone_and_seen() {
    alone_with(async || {
        let (fleet, mut kept) = (name("shop"), None);
        let mut rules = filter();
        rules::observe(&Local, &fleet, &mut kept).await.unwrap();
        let handle = |text: &str| text.lines().find(|l| l.contains("chain from {")).map(str::to_owned);
        let before = handle(&nft("-a list table bridge stablehand-shop"));
        let first = rules.taps.get_mut(&tap(1)).unwrap();
        first.permits.insert(permit("out 10.0.0.55 tcp/80"));
        first.permits.insert(permit("in 192.168.0.0/16 tcp"));
        first.permits.remove(&permit("out fd00::100 tcp/443"));
        rules.taps.remove(&tap(3));
        rules.taps.insert(tap(6), rules_of(6, &["10.0.0.6", "fd00::6"], &["out 10.0.0.0/24 any"]));
        let done = rules::apply(&Local, &fleet, &rules, &mut kept, Guard::Sure).await.unwrap();
        assert_eq!((done, seen().await), (Done::Changed, FilterObs::Table(rules.clone())));
        assert_eq!(handle(&nft("-a list table bridge stablehand-shop")), before, "the chains are the same ones");
        // What was believed is not so any more: all of it anew.
        nft("flush set bridge stablehand-shop open");
        rules.taps.remove(&tap(5));
        let done = rules::apply(&Local, &fleet, &rules, &mut kept, Guard::Sure).await.unwrap();
        assert_eq!((done, seen().await), (Done::Changed, FilterObs::Table(rules)));
    });
}

#[test]
fn whatever_somebody_does_to_the_table_is_found_and_mended() {
    alone_with(async || {
        let others = "add table ip theirs; add chain ip theirs c; add table bridge stablehand-other; \
                      add chain bridge stablehand-other c { type filter hook forward priority 0; policy accept; }; \
                      add table bridge mine; add rule ip theirs c counter";
        nft(others);
        let theirs =
            || ["ip theirs", "bridge stablehand-other", "bridge mine"].map(|t| nft(&format!("list table {t}")));
        let (kept, whole) = (theirs(), nft("-j list table bridge stablehand-shop"));
        let tap = tap(3);
        for (what, words) in [
            ("a rule before ours", "insert rule bridge stablehand-shop from accept".to_owned()),
            ("a rule behind ours", "add rule bridge stablehand-shop forward drop".to_owned()),
            ("no rules in a chain", "flush chain bridge stablehand-shop to_arp".to_owned()),
            ("no interface", "flush set bridge stablehand-shop mac".to_owned()),
            ("an address more", format!("add element bridge stablehand-shop link6 {{ {tap} . fe80::9 }}")),
            ("an interval more", format!("add element bridge stablehand-shop near_net4 {{ {tap} . 10.9.0.0/16 }}")),
            ("somebody else's set", "add set bridge stablehand-shop x { type ifname; }".to_owned()),
            ("somebody else's chain", "add chain bridge stablehand-shop x".to_owned()),
            ("somebody else's counter", "add counter bridge stablehand-shop x".to_owned()),
            ("switched off", "add table bridge stablehand-shop { flags dormant; }".to_owned()),
        ] {
            nft(&words);
            let FilterObs::Damaged(odd) = seen().await else { panic!("{what} is not found") };
            println!("{what}: {odd}");
            assert_eq!(set(&filter()).await, Done::Changed, "{what}");
            assert_eq!(seen().await, FilterObs::Table(filter()), "{what}");
        }
        // What is said otherwise, and means something, is another filter.
        nft(&format!("add element bridge stablehand-shop open {{ {tap} }}"));
        let FilterObs::Table(found) = seen().await else { panic!("it means something") };
        assert!(found.taps[&tap].open && found != filter());
        assert_eq!(set(&filter()).await, Done::Changed);
        nft("flush set bridge stablehand-shop addr4");
        let FilterObs::Table(found) = seen().await else { panic!("it means something") };
        assert!(found != filter());
        nft("delete table bridge stablehand-shop");
        assert_eq!(seen().await, FilterObs::Table(HostRules::default()));
        assert_eq!(set(&filter()).await, Done::Changed);
        let plain = |text: String| {
            text.split("\"handle\": ").map(|p| p.trim_start_matches(char::is_numeric).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(plain(nft("-j list table bridge stablehand-shop")).len(), plain(whole).len());
        assert_eq!(theirs(), kept, "others' tables are as they were");
    });
}

#[test]
fn what_nobody_changed_is_not_read_again_and_whatever_somebody_changed_is() {
    alone_with(async || {
        let (fleet, mut kept) = (name("shop"), None);
        let good = FilterObs::Table(filter());
        let mut look = async |what: &str| {
            let began = std::time::Instant::now();
            let found = rules::observe(&Local, &fleet, &mut kept).await.unwrap();
            (found, format!("{what}: {} us", began.elapsed().as_micros()))
        };
        for what in ["read", "known", "known"] {
            let (found, took) = look(what).await;
            println!("{took}");
            assert_eq!(found, good);
        }
        let tap = tap(3);
        for words in [
            "add rule bridge stablehand-shop forward accept".to_owned(),
            format!("add element bridge stablehand-shop open {{ {tap} }}"),
            "flush set bridge stablehand-shop addr4".to_owned(),
            "flush chain bridge stablehand-shop to_arp".to_owned(),
            "delete table bridge stablehand-shop".to_owned(),
            // Deleted and made again, as it was before, with one thing more.
            format!("add table bridge stablehand-shop; add element bridge stablehand-shop link6 {{ {tap} . fe80::9 }}"),
        ] {
            nft(&words);
            let (found, took) = look("changed by somebody").await;
            println!("{took}: {words}");
            assert_ne!(found, good, "{words}");
            assert_eq!(set(&filter()).await, Done::Changed, "{words}");
            assert_eq!(look("set").await.0, good, "{words}");
        }
        // Others' tables do not count, whoever changes them, and however often.
        nft("add table bridge others");
        assert_eq!(look("others").await.0, good);
        // While we write, somebody else does: what is there in the end is read.
        let mut kept = None;
        rules::observe(&Local, &name("shop"), &mut kept).await.unwrap();
        let mut more = filter();
        let first = more.taps.get_mut(&self::tap(1)).unwrap();
        first.permits.insert(permit("out 10.0.0.56 tcp/80"));
        nft(&format!("add element bridge stablehand-shop open {{ {tap} }}"));
        let done = rules::apply(&Local, &name("shop"), &more, &mut kept, Guard::Sure).await.unwrap();
        assert_eq!(done, Done::Changed);
        let FilterObs::Table(found) = rules::observe(&Local, &name("shop"), &mut kept).await.unwrap() else {
            panic!("it means something")
        };
        assert!(found.taps[&tap].open, "it is not taken for what we wrote");
        rules::apply(&Local, &name("shop"), &more, &mut kept, Guard::Sure).await.unwrap();
        assert_eq!(seen().await, FilterObs::Table(more));
    });
}

#[test]
fn a_host_without_nft_or_the_right_to_use_it_says_what_mends_it() {
    unless_missing!();
    alone(async || {
        let there = |script: &str| Remote::command(["sh", "-c", script, "sh"].into_iter(), std::path::Path::new("/"));
        for (script, mend) in [
            (
                r#"case "$*" in *nft*) echo 'stablehand: no such program' >&2; exit 127;; esac; "$@""#,
                "install the package",
            ),
            (r#"exec setpriv --reuid 65534 --clear-groups --inh-caps=-all "$@""#, "CAP_NET_ADMIN"),
        ] {
            let shell = there(script);
            let found = rules::observe(&shell, &name("shop"), &mut None).await.unwrap();
            let FilterObs::Unable(text) = &found else { panic!("{found:?}") };
            assert!(text.contains(mend), "{text}");
            let tried = rules::apply(&shell, &name("shop"), &filter(), &mut None, Guard::Sure).await.unwrap_err();
            assert!(matches!(&tried, StepError::Failed { hint: Some(hint), .. } if hint.contains(mend)), "{tried:?}");
        }
    });
}

#[test]
fn a_filter_that_nobody_confirms_goes_away_again() {
    unless_missing!();
    alone(async || {
        let shell = Remote::command(["env"].into_iter(), std::path::Path::new("/"));
        let (fleet, host) = (name(&format!("cut-{}", std::process::id())), name("h1"));
        let folder = format!("/run/stablehand/rules-{fleet}-{host}");
        let here = async || rules::observe(&shell, &fleet, &mut None).await.unwrap();
        let good = || -> Boxed<'_, Result<(), String>> { Box::pin(async { Ok(()) }) };
        let cut = || -> Boxed<'_, Result<(), String>> { Box::pin(async { Err("no route to host".to_owned()) }) };
        let first = filter();
        let guard = Guard::Armed { host: &host, reach: &good };
        let done = rules::apply(&shell, &fleet, &first, &mut None, guard).await.unwrap();
        assert_eq!((done, here().await), (Done::Changed, FilterObs::Table(first.clone())));
        assert!(!std::path::Path::new(&folder).exists(), "nothing is left");
        let mut second = first.clone();
        second.taps.remove(&tap(1));
        let guard = Guard::Armed { host: &host, reach: &cut };
        let began = std::time::Instant::now();
        let tried = rules::apply(&shell, &fleet, &second, &mut None, guard).await.unwrap_err();
        assert!(matches!(&tried, StepError::Unknown(text) if text.contains("no route to host")), "{tried:?}");
        assert_eq!(here().await, FilterObs::Table(second), "for a while");
        while here().await != FilterObs::Table(first.clone()) {
            assert!(began.elapsed().as_secs() < 30, "the old one does not come back");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        println!("the old filter was back after {:.1} s", began.elapsed().as_secs_f64());
        std::fs::remove_dir_all(&folder).ok();
    });
}

#[test]
fn who_flushes_the_rules_is_heard() {
    alone_with(async || {
        let heard = std::sync::Arc::new(tokio::sync::Notify::new());
        let note = heard.clone();
        let shell = Remote::command(["env"].into_iter(), std::path::Path::new("/"));
        let listening = tokio::spawn(rules::watch(
            std::sync::Arc::new(shell),
            name("shop"),
            std::sync::Arc::new(move || note.notify_one()),
        ));
        let second = std::time::Duration::from_secs(1);
        tokio::time::sleep(second).await;
        nft("add table bridge others");
        nft("add chain bridge others c");
        nft("add rule bridge others c accept");
        assert!(tokio::time::timeout(second, heard.notified()).await.is_err(), "others' tables are none of ours");
        nft("flush ruleset");
        let began = std::time::Instant::now();
        tokio::time::timeout(2 * second, heard.notified()).await.unwrap();
        println!("heard after {} ms", began.elapsed().as_millis());
        listening.abort();
        let _ = listening.await;
        // It ends with its standard input.
        let own = || {
            let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| Some(e.ok()?.path()));
            let mine = all.filter(|p| std::fs::read_link(p.join("ns/net")).is_ok_and(|ns| ns == here));
            mine.filter_map(|p| std::fs::read_to_string(p.join("comm")).ok()).filter(|c| c.trim() == "nft").count()
        };
        for _ in 0..50 {
            if own() == 0 {
                return;
            }
            tokio::time::sleep(second / 10).await;
        }
        panic!("nft still listens");
    });
}
