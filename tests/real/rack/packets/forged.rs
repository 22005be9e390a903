//! A guest that says it is another, a router or a DHCP server, while the one whom it would like to be moves to another host.

use std::net::Ipv4Addr;
use std::time::Duration;

use stablehand::model::{Mac, Name, nic_mac};

use super::court::{Court, ask};
use super::kept;
use crate::rules::wire::{EVERYBODY, SYN, arp, ethernet, ipv4, neighbour, packet, tcp, udp};

fn card(vm: &str) -> Mac {
    let word = |text: &str| Name::new(text).unwrap();
    nic_mac(&word("rack"), &word(vm), &word("lan"))
}

/// The address that IPv6 makes of a card (RFC 4291, appendix A).
fn link(card: Mac) -> String {
    let [a, b, c, d, e, f] = card.0;
    format!(
        "fe80::{:x}:{:x}:{:x}:{:x}",
        u16::from_be_bytes([a ^ 2, b]),
        u16::from_be_bytes([c, 0xff]),
        u16::from_be_bytes([0xfe, d]),
        u16::from_be_bytes([e, f])
    )
}

/// What each frame pretends. `web` may reach 8080 of `db`, and `desk`, who forges, may not.
fn frames((db, web, desk): (Ipv4Addr, Ipv4Addr, Ipv4Addr), router: Ipv4Addr) -> Vec<(&'static str, Vec<u8>)> {
    let [cdb, cweb, own] = ["store-db-1", "shop-web-1", "lesson-ann-desk"].map(card);
    let [db, web, desk, router] = [db, web, desk, router].map(|a| a.to_string());
    let asks = |from: Mac, sender: (Mac, &str)| ethernet(EVERYBODY, from, 0x0806, &arp(1, sender, (EVERYBODY, &web)));
    let syn = tcp(4444, 8080, SYN);
    let nodes = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let (mine, theirs) = (link(own), link(cdb));
    let six = |from: Mac, ips: (&str, &str), icmp: Vec<u8>| packet(nodes, from, ips, 58, &icmp);
    vec![
        ("another's card", packet(cdb, cweb, (&desk, &db), 6, &syn)),
        ("another's address", packet(cdb, own, (&web, &db), 6, &syn)),
        ("another's card and address", packet(cdb, cweb, (&web, &db), 6, &syn)),
        ("the card of the one who moves", packet(cweb, cdb, (&db, &web), 17, &udp(9, 9))),
        ("an answer in another's name", packet(cweb, own, (&db, &web), 6, &tcp(8080, 4444, 18))),
        ("ARP: its address is mine", ethernet(cweb, own, 0x0806, &arp(2, (own, &db), (cweb, &web)))),
        ("ARP to all: its address is mine", ethernet(EVERYBODY, own, 0x0806, &arp(2, (own, &db), (EVERYBODY, &db)))),
        ("ARP: I ask with its address", asks(own, (own, &db))),
        ("ARP: I ask with its card", asks(own, (cdb, &desk))),
        ("ARP from its card", asks(cdb, (cdb, &db))),
        ("ARP: the router's address is mine", ethernet(EVERYBODY, own, 0x0806, &arp(2, (own, &router), (cweb, &web)))),
        ("RARP: it is here", ethernet(EVERYBODY, cdb, 0x8035, &arp(3, (cdb, "0.0.0.0"), (cdb, "0.0.0.0")))),
        ("ND: its address is mine", six(own, (&mine, "ff02::1"), neighbour(136, &theirs, Some((2, own))))),
        ("ND in its name", six(own, (&theirs, "ff02::1"), neighbour(136, &theirs, Some((2, own))))),
        ("ND: does anybody have its address", six(own, ("::", "ff02::1"), neighbour(135, &theirs, None))),
        ("a router's advertisement", six(own, (&mine, "ff02::1"), neighbour(134, "::", Some((1, own))))),
        ("ND redirect", six(own, (&mine, "ff02::1"), neighbour(137, &theirs, Some((2, own))))),
        ("DHCP offer", packet(EVERYBODY, own, (&desk, "255.255.255.255"), 17, &udp(67, 68))),
        ("DHCP offer of the router", packet(EVERYBODY, own, (&router, "255.255.255.255"), 17, &udp(67, 68))),
        ("DHCPv6 advertisement", packet(nodes, own, (&mine, "ff02::1"), 17, &udp(547, 546))),
        ("ICMP redirect", packet(cweb, own, (&desk, &web), 1, &[5, 1, 0, 0, 0, 0, 0, 0])),
        ("a later fragment", ethernet(cdb, own, 0x0800, &ipv4(&desk, &db, 6, 185, &syn))),
    ]
}

/// `desk` forges as fast as it can, `web` and `db` go on, `db` moves to another host: none of it comes out anywhere.
pub(super) fn forged(court: &Court<'_>, (db, web, desk): (Ipv4Addr, Ipv4Addr, Ipv4Addr)) {
    let rack = court.rack;
    let all = frames((db, web, desk), court.at(1));
    court.jury.beware(all.iter().map(|(_, frame)| frame.clone()));
    let hex = |frame: &[u8]| frame.iter().map(|b| format!("{b:02x}")).collect::<String>();
    // A small web server takes a line of a thousand bytes.
    for some in all.chunks(4) {
        ask(desk, &format!("forge?{}", some.iter().map(|(_, f)| hex(f)).collect::<Vec<_>>().join(",")));
    }
    ask(desk, "forge?go");
    ask(web, &format!("keep?{db}:8080"));
    std::thread::sleep(Duration::from_secs(3));
    let mut law = court.law();
    let home = rack.place("store-db-1");
    rack.edit("shop.yaml", "placement: {host: h1}", "placement: {host: h3}");
    rack.must(&["apply", "--yes"]);
    assert_eq!((home.as_str(), rack.place("store-db-1").as_str()), ("h1", "h3"));
    std::thread::sleep(Duration::from_secs(3));
    let (rounds, kept) = (ask(desk, "forge?"), kept(web));
    let rounds = rounds.lines().find_map(|l| l.strip_prefix("rounds=")).unwrap().to_owned();
    println!("{} kinds of forged frames, {rounds} times each", all.len());
    let found = court.jury.forged();
    for (what, frame) in &all {
        let (sent, came) = &found[frame];
        assert!(*sent > 1, "{what}: it was sent {sent} times");
        assert!(came.is_empty(), "{what}: of {sent} some came out at {came:?}");
    }
    let (passed, many) = &kept[&format!("{db}:8080")];
    println!("web -> db meanwhile: {} of {many} tries passed", passed.len());
    assert!(passed.len() > 2, "nobody else is disturbed: {passed:?} of {many}");
    for (own, guest) in court.law().guests {
        law.guests.get_mut(&own).unwrap().hosts.extend(guest.hosts);
    }
    court.verdict("forged while one moved", &law);
}
