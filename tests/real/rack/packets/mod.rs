//! Who may talk to whom, as packets see it: guests on three hosts, cell by cell, and each packet that comes through while VMs
//! move, come, go and the controller dies.

mod court;
mod forged;
pub(super) mod jury;
mod law;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use stablehand::model::Traffic;

use super::{Rack, skipped};
use court::{Court, Ears, Flood, HOSTS, ask, connects, namespace, tries, write_documents};
use jury::{Kind, forbidden};
use law::{Guest, Law};

/// What a guest tries: all other guests, the network and the hosts, its own among them; `None` is a ping.
fn around(court: &Court<'_>, law: &Law, own: Ipv4Addr) -> Vec<(Ipv4Addr, Option<u16>)> {
    let guests = law.guests.keys().filter(|to| **to != own).map(|to| (*to, [80, 8080]));
    let others = [2, 3].map(|last| (court.at(last), [80, 9000])).into_iter();
    let hosts = [11, 12, 13].map(|last| (court.at(last), [22, 16509])).into_iter();
    let all = guests.chain(others).chain(hosts);
    all.flat_map(|(to, [a, b])| [None, Some(a), Some(b)].map(|port| (to, port))).collect()
}

/// Every cell: what the matrix says, and what packets do.
fn cells(court: &Court<'_>, law: &Law) {
    let began = Instant::now();
    let (visitor, stranger) = (court.at(2), court.at(3));
    let mut wrong: Vec<String> = Vec::new();
    let (mut open, mut closed) = (0, 0);
    let traffic = |port: Option<u16>| port.map_or(Traffic::Icmp, |p| format!("tcp/{p}").parse().unwrap());
    let mut judge = |from: String, to: String, port: Option<u16>, says: bool, does: bool| {
        *if says { &mut open } else { &mut closed } += 1;
        if says != does {
            wrong.push(format!("{from} -> {to} {port:?}: the matrix says {says}, packets say {does}"));
        }
    };
    let all: Vec<&Guest> = law.guests.values().collect();
    let name = |address: Ipv4Addr| law.guests.get(&address).map_or_else(|| address.to_string(), |g| g.vm.clone());
    // Two at a time: guests are emulated, and a try that gets no processor is no closed one.
    for some in all.chunks(2) {
        let done: Vec<_> = std::thread::scope(|scope| {
            let each = |guest: &Guest| {
                let (from, targets) = (guest.address, around(court, law, guest.address));
                let says = move |(to, port): &(Ipv4Addr, Option<u16>)| {
                    // ICMP passes both ways, whoever is named first.
                    law.open(from, *to, traffic(*port)) || (port.is_none() && law.open(*to, from, Traffic::Icmp))
                };
                scope.spawn(move || {
                    let mut done = tries(from, &targets);
                    // Nobody answers in time when two processors emulate all of them: what should pass has a second try.
                    let late: Vec<_> = targets.iter().filter(|t| says(t) && !done.contains(t)).copied().collect();
                    if !late.is_empty() {
                        println!("once more, {from}: {late:?}");
                        done.extend(tries(from, &late));
                    }
                    targets.into_iter().map(|t| (from, t, says(&t), done.contains(&t))).collect::<Vec<_>>()
                })
            };
            let running: Vec<_> = some.iter().map(|guest| each(guest)).collect();
            running.into_iter().flat_map(|r| r.join().unwrap()).collect()
        });
        for (from, (to, port), says, does) in done {
            judge(name(from), name(to), port, says, does);
        }
    }
    let targets: Vec<(Ipv4Addr, u16)> =
        law.guests.keys().flat_map(|to| [80, 8080, 22].map(|port| (*to, port))).collect();
    let mut starts: Vec<(PathBuf, Ipv4Addr)> = vec![(court.lan(), visitor), (court.lan(), stranger)];
    starts.extend((11..14).zip(HOSTS).map(|(last, host)| (namespace(court.rack, host), court.at(last))));
    let done: Vec<_> = std::thread::scope(|scope| {
        let each = |(space, from): (PathBuf, Ipv4Addr)| {
            let targets = targets.clone();
            scope.spawn(move || (from, connects(&space, from, targets)))
        };
        let running: Vec<_> = starts.into_iter().map(each).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    for (from, done) in done {
        for (to, port) in &targets {
            let says = law.open(from, *to, traffic(Some(*port)));
            judge(from.to_string(), name(*to), Some(*port), says, done.contains(&(*to, *port)));
        }
    }
    println!("{open} open cells and {closed} closed ones in {:.1} s", began.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(open > 20 && closed > 100);
}

/// What nft prints, with the elements of each set in order: they are printed as the kernel's hash has them.
fn in_order(text: &str) -> String {
    let parts = text.split("elements = {").enumerate().map(|(number, part)| {
        let Some((elements, rest)) = part.split_once('}').filter(|_| number > 0) else { return part.to_owned() };
        let all: BTreeSet<String> =
            elements.split(',').map(|e| e.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        format!("elements = {{\n{}\n}}{rest}", all.into_iter().collect::<Vec<_>>().join("\n"))
    });
    parts.collect()
}

/// Tables of all hosts.
fn tables(rack: &Rack) -> BTreeMap<&'static str, String> {
    let table = |host| (host, in_order(&rack.console(host, &["nft", "list", "ruleset"])));
    HOSTS.into_iter().map(table).collect()
}

/// Ends `keep` on a guest: for each target the moments at which it passed, and how many tries there were.
fn kept(address: Ipv4Addr) -> BTreeMap<String, (Vec<f64>, usize)> {
    let mut out: BTreeMap<String, (Vec<f64>, usize)> = BTreeMap::new();
    for line in ask(address, "keep?").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [at, to, port, how @ ("passes" | "closed")] = words.as_slice() {
            let (moments, tries) = out.entry(format!("{to}:{port}")).or_default();
            *tries += 1;
            if *how == "passes" {
                moments.push(at.parse().unwrap());
            }
        }
    }
    out
}

#[test]
fn packets_do_what_the_matrix_says_whatever_happens_to_guests_and_controller() {
    if skipped("packets among guests on three hosts") {
        return;
    }
    Rack::with(9, &[], |rack| {
        let began = Instant::now();
        let lap = |what: &str| println!("-- {what}: {:.1} s since the beginning", began.elapsed().as_secs_f64());
        write_documents(rack);
        let court = Court::new(rack);
        let flood = Flood::new(&court);
        rack.up();
        lap("up");
        let law = court.law();
        assert_eq!(law.guests.len(), 10, "{:?}", law.guests);
        court.verdict("coming up", &law);

        let ears = Ears::new(&court);
        cells(&court, &law);
        court.verdict("every cell", &law);
        lap("every cell");

        let address = |law: &Law, vm: &str| law.guests.values().find(|g| g.vm == vm).unwrap().address;
        let (db, web, desk) =
            (address(&law, "store-db-1"), address(&law, "shop-web-1"), address(&law, "lesson-ann-desk"));
        moves(&court, (db, web, desk));
        lap("moved");
        forged::forged(&court, (db, web, desk));
        lap("forged");
        spins(&court);
        lap("spun");
        flushed(&court);
        lap("flushed");
        drop((flood, ears));
        ends(&court);
        lap("ended and back");
        let all: Vec<String> = rack.running().into_iter().flat_map(|(_, vms)| vms).collect();
        assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (10, 10), "each runs once: {all:?}");
    });
}

/// A guest moves while it is tried, by those who may and by those who may not.
fn moves(court: &Court<'_>, (db, web, desk): (Ipv4Addr, Ipv4Addr, Ipv4Addr)) {
    let rack = court.rack;
    ask(web, &format!("keep?{db}:8080,{db}:22"));
    ask(desk, &format!("keep?{db}:8080,{db}:80"));
    ask(db, &format!("keep?{web}:80,{web}:8080,{}:9000", court.at(2)));
    std::thread::sleep(Duration::from_secs(4));
    let uptime = |text: String| text.lines().find_map(|l| l.strip_prefix("uptime=")?.parse::<f64>().ok()).unwrap();
    let before = uptime(ask(web, "status"));
    rack.edit("shop.yaml", "placement: {host: h3}", "placement: {host: h1}");
    let mut law = court.law();
    rack.must(&["apply", "--yes"]);
    assert_eq!(rack.place("store-db-1"), "h1");
    let after = uptime(ask(web, "status"));
    std::thread::sleep(Duration::from_secs(6));
    let (by_web, by_desk, by_db) = (kept(web), kept(desk), kept(db));
    let allowed = &by_web[&format!("{db}:8080")].0;
    println!("moved in {:.1} s; tries that passed: {}", after - before, allowed.len());
    assert!(allowed.iter().any(|at| *at < before), "passes before: {allowed:?}");
    assert!(allowed.iter().any(|at| *at > after), "passes after: {allowed:?}");
    for (who, tried) in [("web", &by_web), ("desk", &by_desk), ("db", &by_db)] {
        for (target, (passed, many)) in tried {
            println!("{who} -> {target}: {} of {many} tries passed", passed.len());
            assert!(*many > 0);
            assert!(
                passed.is_empty() || (who == "web" && *target == format!("{db}:8080")),
                "{who} -> {target}: {passed:?}"
            );
        }
    }
    for (own, guest) in court.law().guests {
        law.guests.get_mut(&own).unwrap().hosts.extend(guest.hosts);
    }
    court.verdict("a move", &law);
}

/// A replica comes, with the controller killed after each of the first changes, and goes.
fn spins(court: &Court<'_>) {
    let rack = court.rack;
    let before = tables(rack);
    rack.edit("shop.yaml", "replicas: {min: 3}", "replicas: {min: 4}");
    let mut deaths = 0;
    for changes in ["1", "2", "2"] {
        let died = rack.command(&["apply", "--yes"]).env("STABLEHAND_KILL_AFTER_CHANGES", changes).output().unwrap();
        deaths += u32::from(died.status.code().is_none());
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(deaths > 0, "the controller was killed in the middle");
    rack.must(&["apply", "--yes"]);
    let law = court.law();
    let new = law.guests.values().find(|g| g.vm == "shop-web-4").unwrap().clone();
    let host = new.hosts.first().unwrap().clone();
    println!("shop-web-4 at {} on {host}, after {deaths} deaths of the controller", new.address);
    assert_eq!(ask(new.address, "status").matches("hostname=shop-web-4").count(), 1);
    assert!(tables(rack)[&*host].contains(&new.address.to_string()));
    court.verdict("a replica comes", &law);

    rack.edit("shop.yaml", "replicas: {min: 4}", "replicas: {min: 3}");
    rack.must(&["apply", "--yes"]);
    let fleet = stablehand::model::Name::new("rack").unwrap();
    let word = |text: &str| stablehand::model::Name::new(text).unwrap();
    let tap = stablehand::model::tap_name(&fleet, &word("shop-web-4"), &word("lan"));
    for (host, table) in tables(rack) {
        let names = table.contains(&tap) || table.split([' ', ',', '\n']).any(|w| w == new.address.to_string());
        assert!(!names, "{host} still names shop-web-4 ({tap}, {}):\n{table}", new.address);
        assert_eq!(table, before[host], "{host}: as before it came");
    }
    court.verdict("a replica goes", &law);
}

/// Somebody flushes all rules of a host: what is forbidden passes then (so these tries would notice), and a watch mends it.
fn flushed(court: &Court<'_>) {
    let rack = court.rack;
    let law = court.law();
    let before = tables(rack);
    // Both ends filter: who has another host in between is still closed by that.
    let pair = law.guests.values().find_map(|a| {
        let b = law.guests.values().find(|b| {
            b.address != a.address
                && b.hosts == a.hosts
                && !law.open(a.address, b.address, Traffic::Icmp)
                && !law.open(b.address, a.address, Traffic::Icmp)
        })?;
        Some((a, b))
    });
    let (a, b) = pair.unwrap();
    let host = a.hosts.first().unwrap().clone();
    let passes = || !tries(a.address, &[(b.address, None)]).is_empty();
    assert!(!passes());
    court.verdict("before the flush", &law);
    rack.console(&host, &["nft", "flush", "ruleset"]);
    // A guest whose question for a neighbour's address was just dropped asks again a second later.
    assert!((0..3).any(|_| passes()), "without rules it passes: what is tried is what rules forbid");
    let seen = court.jury.seen();
    let noticed = |from, to| seen.keys().any(|s| (s.from, s.to, s.kind, s.place.1) == (from, to, Kind::Echo, "tap"));
    assert!(noticed(a.address, b.address) && noticed(b.address, a.address), "who looks on sees it: {seen:?}");
    println!(
        "without rules: {} kinds of packets came through that nobody allows",
        forbidden(&seen, |s| law.may(s)).len()
    );
    assert!(!rack.say(&["verify"]).status.success(), "verify says so");

    let mut watch = Watching(rack.command(&["watch", "--resync", "60s"]).spawn().unwrap());
    let back = |seconds: u64| {
        let since = Instant::now();
        loop {
            let now = in_order(&rack.console(&host, &["nft", "list", "ruleset"]));
            if now == before[&*host] {
                return since.elapsed();
            }
            assert!(
                since.elapsed().as_secs() < seconds,
                "{host} after {seconds} s, before:\n{}\nnow:\n{now}",
                before[&*host]
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    println!("a watch that begins mends it in {:.2} s", back(30).as_secs_f64());
    // Its listeners have begun, and nothing is under way.
    std::thread::sleep(Duration::from_secs(4));
    for _ in 0..3 {
        rack.console(&host, &["nft", "flush", "ruleset"]);
        let took = back(5);
        println!("flushed under a watch: back after {:.2} s", took.as_secs_f64());
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(!passes(), "closed again");
    assert!(rack.say(&["verify"]).status.success());
    watch.end();
    // What passed meanwhile is no verdict.
    drop(court.jury.seen());
}

/// A running watch, ended when dropped.
struct Watching(std::process::Child);

impl Watching {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end();
    }
}

/// All guests end and come back: each host's tables are what they were, and packets too.
fn ends(court: &Court<'_>) {
    let rack = court.rack;
    let before = tables(rack);
    let law = court.law();
    for _ in 0..3 {
        rack.edit("shop.yaml", "run: started", "run: stopped");
    }
    rack.must(&["apply", "--yes"]);
    assert!(rack.running().iter().all(|(_, vms)| vms.is_empty()), "{:?}", rack.running());
    for _ in 0..3 {
        rack.edit("shop.yaml", "run: stopped", "run: started");
    }
    rack.up();
    for (host, table) in tables(rack) {
        assert_eq!(table, before[host], "{host}: as before they ended");
    }
    court.verdict("all end and come back", &law);
}
