//! What a filter lets through: cell by cell, whole frames between taps.

use stablehand::model::Mac;

use super::wire::*;
use super::{alone_with, card, tap};

/// Frames of cells, one after another: what is wrong is said of all of them.
struct Cells {
    bridge: Bridge,
    wrong: Vec<String>,
    tried: usize,
}

impl Cells {
    /// The bridge of the filter that is tried, with what is behind its uplink, `lan0`.
    fn new() -> Self {
        let mut bridge = Bridge::new("10.0.0.1/24");
        for number in 1..=5 {
            bridge.plug(&tap(number));
        }
        // One that nobody lists, one of another fleet, an adopted one, the uplink.
        for name in [&tap(9), "sh0000000000001", "vnet7", "lan0"] {
            bridge.plug(name);
        }
        Self { bridge, wrong: Vec::new(), tried: 0 }
    }
    fn cell(&mut self, what: &str, from: &str, frame: &[u8], to: &str, passes: bool) {
        self.tried += 1;
        if self.bridge.passes(from, frame, to) != passes {
            self.wrong.push(format!("{what}: {from} -> {to} {}", if passes { "is dropped" } else { "passes" }));
        }
    }
    fn yes(&mut self, what: &str, from: &str, to: &str, frame: &[u8]) {
        self.cell(what, from, frame, to, true);
    }
    fn no(&mut self, what: &str, from: &str, to: &str, frame: &[u8]) {
        self.cell(what, from, frame, to, false);
    }
    fn done(self) {
        let Self { wrong, tried, .. } = self;
        assert!(wrong.is_empty(), "{} of {tried} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
        println!("{tried} cells");
    }
}

const LAN: Mac = card(100);
const TCP: u8 = 6;
const UDP: u8 = 17;
const L: &str = "lan0";

fn asks(from: Mac, sender: &str, target: &str) -> Vec<u8> {
    ethernet(EVERYBODY, from, 0x0806, &arp(1, (from, sender), (EVERYBODY, target)))
}
fn says(to: Mac, from: Mac, sender: (Mac, &str), target: &str) -> Vec<u8> {
    ethernet(to, from, 0x0806, &arp(2, sender, (to, target)))
}

#[test]
fn guests_reach_whom_they_may_and_nobody_else() {
    alone_with(async || {
        let mut c = Cells::new();
        let (one, two, three) = (&tap(1), &tap(2), &tap(3));
        let (c1, c2, c3) = (card(1), card(2), card(3));
        let mates = [("10.0.0.11", "10.0.0.2"), ("fd00::1", "fd00::2")];
        for ips in mates {
            for flags in [SYN, SYN | ACK, ACK, RST] {
                c.yes("mates", one, two, &packet(c2, c1, ips, TCP, &tcp(1000, 80, flags)));
                c.yes("mates", two, one, &packet(c1, c2, (ips.1, ips.0), TCP, &tcp(80, 1000, flags)));
            }
            c.yes("mates", one, two, &packet(c2, c1, ips, UDP, &udp(9, 9)));
        }
        c.yes("mates", one, two, &packet(c2, c1, mates[0], 1, &icmp(8)));
        c.yes("mates", one, two, &packet(c2, c1, mates[1], 58, &icmp(128)));
        c.yes("ARP of mates", one, two, &asks(c1, "10.0.0.11", "10.0.0.2"));
        c.yes("ARP of mates", two, one, &says(c1, c2, (c2, "10.0.0.2"), "10.0.0.11"));
        for (ips, echo, kind) in [(("10.0.0.11", "10.0.0.3"), 1, 8), (("fd00::1", "fd00::3"), 58, 128)] {
            for (from, to, own, other, ips) in [(one, three, c1, c3, ips), (three, one, c3, c1, (ips.1, ips.0))] {
                c.no("strangers", from, to, &packet(other, own, ips, TCP, &tcp(1000, 80, SYN)));
                c.no("strangers", from, to, &packet(other, own, ips, TCP, &tcp(80, 1000, ACK)));
                c.no("strangers", from, to, &packet(other, own, ips, UDP, &udp(53, 53)));
                c.no("strangers", from, to, &packet(other, own, ips, echo, &icmp(kind)));
                c.no("strangers", from, to, &packet(other, own, ips, echo, &icmp(3)));
            }
        }
        c.no("ARP of strangers", three, one, &asks(c3, "10.0.0.3", "10.0.0.11"));
        let (out, back) = (("10.0.0.11", "10.0.0.100"), ("10.0.0.100", "10.0.0.11"));
        c.yes("out tcp/443", one, L, &packet(LAN, c1, out, TCP, &tcp(5000, 443, SYN)));
        c.yes("its reply", L, one, &packet(c1, LAN, back, TCP, &tcp(443, 5000, SYN | ACK)));
        c.yes("its reply", L, one, &packet(c1, LAN, back, TCP, &tcp(443, 5000, RST | ACK)));
        c.no("a new one back", L, one, &packet(c1, LAN, back, TCP, &tcp(443, 5000, SYN)));
        c.no("another port", one, L, &packet(LAN, c1, out, TCP, &tcp(5000, 444, SYN)));
        c.no("UDP", one, L, &packet(LAN, c1, out, UDP, &udp(5000, 443)));
        c.no("echo", one, L, &packet(LAN, c1, out, 1, &icmp(8)));
        c.yes("its errors", L, one, &packet(c1, LAN, back, 1, &icmp(3)));
        c.no("redirect", L, one, &packet(c1, LAN, back, 1, &icmp(5)));
        c.yes("in tcp/22", L, one, &packet(c1, LAN, back, TCP, &tcp(5000, 22, SYN)));
        c.yes("its reply", one, L, &packet(LAN, c1, out, TCP, &tcp(22, 5000, SYN | ACK)));
        c.no("a new one from its port", one, L, &packet(LAN, c1, out, TCP, &tcp(22, 5000, SYN)));
        let (out6, back6) = (("fd00::1", "fd00::100"), ("fd00::100", "fd00::1"));
        c.yes("out tcp/443", one, L, &packet(LAN, c1, out6, TCP, &tcp(5000, 443, SYN)));
        c.no("another port", one, L, &packet(LAN, c1, out6, TCP, &tcp(5000, 444, SYN)));
        c.yes("its reply", L, one, &packet(c1, LAN, back6, TCP, &tcp(443, 5000, SYN | ACK)));
        c.no("a new one back", L, one, &packet(c1, LAN, back6, TCP, &tcp(443, 5000, SYN)));
        c.yes("in a range", L, one, &packet(c1, LAN, ("fd00:9::7", "fd00::1"), UDP, &udp(9, 5005)));
        c.yes("its reply", one, L, &packet(LAN, c1, ("fd00::1", "fd00:9::7"), UDP, &udp(5005, 9)));
        c.no("out of the range", L, one, &packet(c1, LAN, ("fd00:9::7", "fd00::1"), UDP, &udp(9, 5011)));
        // A network within a network, ranges that overlap.
        for (peer, port, passes) in [
            ("192.168.1.1", 8000, true),
            ("192.168.1.1", 8010, true),
            ("192.168.1.1", 8011, false),
            ("192.168.7.1", 8003, true),
            ("192.168.7.1", 8020, true),
            ("192.168.7.1", 8021, false),
            ("192.169.1.1", 8000, false),
        ] {
            let frame = packet(LAN, c1, ("10.0.0.11", peer), TCP, &tcp(5000, port, SYN));
            c.cell(&format!("{peer} {port}"), one, &frame, L, passes);
        }
        c.yes("icmp", one, L, &packet(LAN, c1, ("10.0.0.11", "10.0.0.101"), 1, &icmp(8)));
        c.yes("icmp", L, one, &packet(c1, LAN, ("10.0.0.101", "10.0.0.11"), 1, &icmp(8)));
        c.no("icmp alone", one, L, &packet(LAN, c1, ("10.0.0.11", "10.0.0.101"), UDP, &udp(1, 1)));
        let (any, any_back) = (("10.0.0.11", "10.0.0.102"), ("10.0.0.102", "10.0.0.11"));
        c.yes("out any", one, L, &packet(LAN, c1, any, TCP, &tcp(1, 1, SYN)));
        c.yes("out any", one, L, &packet(LAN, c1, any, 47, &[0; 8]));
        c.yes("its reply", L, one, &packet(c1, LAN, any_back, TCP, &tcp(1, 1, ACK)));
        c.no("a new one back", L, one, &packet(c1, LAN, any_back, TCP, &tcp(1, 1, SYN)));
        c.yes("in any", L, one, &packet(c1, LAN, ("172.16.9.9", "10.0.0.11"), TCP, &tcp(1, 1, SYN)));
        let adopted = ("10.0.0.7", "10.0.0.100");
        c.yes("adopted", "vnet7", L, &packet(LAN, card(7), adopted, TCP, &tcp(1, 443, SYN)));
        c.no("adopted", "vnet7", L, &packet(LAN, card(7), adopted, TCP, &tcp(1, 444, SYN)));
        c.yes("ARP of a server", L, one, &asks(LAN, "10.0.0.100", "10.0.0.11"));
        c.no("ARP of another one", L, one, &asks(LAN, "10.0.0.99", "10.0.0.11"));
        c.no("broadcast", one, L, &packet(EVERYBODY, c1, ("10.0.0.11", "10.0.0.255"), UDP, &udp(1, 1)));
        c.no("a mate's packet to all", one, two, &packet(EVERYBODY, c1, mates[0], UDP, &udp(1, 1)));
        let foreign = ("1.2.3.4", "5.6.7.8");
        c.yes("another fleet", "sh0000000000001", L, &packet(LAN, card(50), foreign, UDP, &udp(1, 1)));
        c.yes("another fleet", L, "sh0000000000001", &packet(card(50), LAN, foreign, UDP, &udp(1, 1)));
        c.no("not listed", &tap(9), L, &packet(LAN, card(9), ("10.0.0.9", "10.0.0.100"), UDP, &udp(1, 1)));
        c.no("not listed", L, &tap(9), &packet(card(9), LAN, ("10.0.0.100", "10.0.0.9"), UDP, &udp(1, 1)));
        c.no("not listed", L, &tap(9), &asks(LAN, "10.0.0.1", "10.0.0.9"));
        let (open, c5) = (&tap(5), card(5));
        c.yes("open", open, L, &packet(LAN, c5, ("10.0.0.5", "10.0.0.99"), UDP, &udp(1, 1)));
        c.yes("open", L, open, &packet(c5, LAN, ("10.0.0.99", "10.0.0.5"), TCP, &tcp(1, 1, SYN)));
        c.no("open to one that is closed", open, one, &packet(c1, c5, ("10.0.0.5", "10.0.0.11"), TCP, &tcp(1, 1, SYN)));
        c.done();
    });
}

#[test]
fn a_guest_is_nobody_but_itself() {
    alone_with(async || {
        let mut c = Cells::new();
        let (one, two, three, four, five) = (&tap(1), &tap(2), &tap(3), &tap(4), &tap(5));
        let (c1, c2, c4, c5) = (card(1), card(2), card(4), card(5));
        let to_two = ("10.0.0.11", "10.0.0.2");
        c.no("another's card", one, two, &packet(c2, card(3), to_two, UDP, &udp(1, 1)));
        c.no("another's address", one, two, &packet(c2, c1, ("10.0.0.3", "10.0.0.2"), UDP, &udp(1, 1)));
        c.no("another's address", one, two, &packet(c2, c1, ("fd00::3", "fd00::2"), UDP, &udp(1, 1)));
        c.no("another's address, open", five, L, &packet(LAN, c5, ("10.0.0.3", "10.0.0.99"), UDP, &udp(1, 1)));
        c.no("another's card, open", five, L, &packet(LAN, c1, ("10.0.0.5", "10.0.0.99"), UDP, &udp(1, 1)));
        c.yes("ARP", one, two, &says(c2, c1, (c1, "10.0.0.11"), "10.0.0.2"));
        c.no("ARP for another's address", one, two, &says(c2, c1, (c1, "10.0.0.1"), "10.0.0.2"));
        c.no("ARP for another's card", one, two, &says(c2, c1, (c2, "10.0.0.11"), "10.0.0.2"));
        c.no("ARP for another, open", five, L, &says(LAN, c5, (c5, "10.0.0.1"), "10.0.0.99"));
        c.yes("ARP probe", one, L, &asks(c1, "0.0.0.0", "10.0.0.11"));
        c.no("ARP probe for another", one, L, &asks(c1, "0.0.0.0", "10.0.0.2"));
        c.yes("ARP announcement", one, L, &asks(c1, "10.0.0.11", "10.0.0.11"));
        let rarp = [&[0, 1, 8, 0, 6, 4, 0, 3][..], &c1.0, &[0; 4], &c1.0, &[0; 4]].concat();
        c.yes("RARP after a move", one, L, &ethernet(EVERYBODY, c1, 0x8035, &rarp));
        c.no("RARP of another", one, L, &ethernet(EVERYBODY, c2, 0x8035, &rarp));
        c.no("RARP is for bridges", one, two, &ethernet(EVERYBODY, c1, 0x8035, &rarp));

        let nd =
            |to: Mac, from: Mac, ips, kind, target, option| packet(to, from, ips, 58, &neighbour(kind, target, option));
        let mates = ("fd00::1", "fd00::2");
        let (asked, link) = (("fd00::1", "ff02::1:ff00:2"), "fe80::ff:fe00:1");
        let group = Mac([0x33, 0x33, 0xff, 0, 0, 2]);
        c.yes("NS", one, two, &nd(group, c1, asked, 135, "fd00::2", Some((1, c1))));
        c.no("NS with another's card", one, two, &nd(group, c1, asked, 135, "fd00::2", Some((1, c2))));
        c.no("NS of another", one, two, &nd(group, c1, ("fd00::3", asked.1), 135, "fd00::2", Some((1, c1))));
        let strange = "ff02::1:ff00:3";
        c.no("NS to a stranger", one, three, &nd(group, c1, ("fd00::1", strange), 135, "fd00::3", Some((1, c1))));
        c.no("NS to a stranger by link", one, three, &nd(group, c1, (link, strange), 135, "fd00::3", Some((1, c1))));
        c.yes("NS by link", one, two, &nd(c2, c1, (link, "fd00::2"), 135, "fd00::2", Some((1, c1))));
        c.yes("NA to a link", two, one, &nd(c1, c2, ("fd00::2", link), 136, "fd00::2", Some((2, c2))));
        c.yes("NA", two, one, &nd(c1, c2, ("fd00::2", "fd00::1"), 136, "fd00::2", Some((2, c2))));
        c.yes("NA without an option", one, two, &nd(c2, c1, mates, 136, "fd00::1", None));
        c.no("NA for another's address", one, two, &nd(c2, c1, mates, 136, "fd00::9", Some((2, c1))));
        c.no("NA with another's card", one, two, &nd(c2, c1, mates, 136, "fd00::1", Some((2, c2))));
        c.no("NA for another, open", five, L, &nd(LAN, c5, ("fd00::5", "fd00::99"), 136, "fd00::9", Some((2, c5))));
        let far = ipv6("fd00::1", "fd00::2", 58, 64, &neighbour(136, "fd00::1", None));
        c.no("NA from afar", one, two, &ethernet(c2, c1, 0x86dd, &far));
        c.yes("DAD", one, L, &nd(group, c1, ("::", "ff02::1:ff00:1"), 135, "fd00::1", None));
        c.no("DAD for another's address", one, L, &nd(group, c1, ("::", asked.1), 135, "fd00::2", None));
        c.yes("NS of a router", L, one, &nd(group, LAN, ("fe80::1", "ff02::1:ff00:1"), 135, "fd00::1", None));
        for (from, own) in [(one, c1), (four, c4), (five, c5)] {
            c.no("RA", from, L, &nd(EVERYBODY, own, ("fe80::1", "ff02::1"), 134, "::", None));
            c.no("redirect", from, L, &nd(LAN, own, ("fe80::1", "fd00::99"), 137, "::", None));
            let offer = packet(EVERYBODY, own, ("10.0.0.11", "255.255.255.255"), UDP, &udp(67, 68));
            c.no("DHCP server", from, L, &offer);
            c.no("DHCPv6 server", from, L, &packet(LAN, own, (link, "fe80::9"), UDP, &udp(547, 546)));
        }

        let discover = |card| packet(EVERYBODY, card, ("0.0.0.0", "255.255.255.255"), UDP, &udp(68, 67));
        c.yes("DHCP of one that learns", four, L, &discover(c4));
        c.no("DHCP of one that does not", one, L, &discover(c1));
        let offer = packet(EVERYBODY, LAN, ("10.0.0.100", "255.255.255.255"), UDP, &udp(67, 68));
        c.yes("an offer", L, four, &offer);
        c.no("an offer to one that does not learn", L, one, &offer);
        let advert = nd(EVERYBODY, LAN, ("fe80::1", "ff02::1"), 134, "::", None);
        c.yes("a router's RA", L, four, &advert);
        c.no("a router's RA to one that does not learn", L, one, &advert);
        c.yes("RS", four, L, &nd(EVERYBODY, c4, ("fe80::4", "ff02::2"), 133, "::", None));
        c.no("RS of one that does not learn", one, L, &nd(EVERYBODY, c1, (link, "ff02::2"), 133, "::", None));
        let learnt = ("10.0.0.77", "10.0.0.100");
        c.yes("what it learnt", four, L, &packet(LAN, c4, learnt, TCP, &tcp(1, 443, SYN)));
        c.no("whom it may not reach", four, L, &packet(LAN, c4, learnt, TCP, &tcp(1, 80, SYN)));

        let plain = ipv4("10.0.0.11", "10.0.0.2", UDP, 0, &udp(1, 1));
        c.yes("whole", one, two, &ethernet(c2, c1, 0x0800, &plain));
        for (what, bits) in [("a first piece", 0x2000), ("a later piece", 185)] {
            let piece = ipv4("10.0.0.11", "10.0.0.2", UDP, bits, &udp(1, 1));
            c.no(what, one, two, &ethernet(c2, c1, 0x0800, &piece));
            let piece = ipv4("10.0.0.102", "10.0.0.11", UDP, bits, &udp(1, 1));
            c.no(what, L, one, &ethernet(c1, LAN, 0x0800, &piece));
        }
        for next in [0, 43, 44, 60] {
            let header = [&[UDP, 0, 0, 0, 0, 0, 0, 0][..], &udp(1, 1)].concat();
            c.no("an extension header", one, two, &packet(c2, c1, mates, next, &header));
        }
        for tag in [0x8100_u16, 0x88a8] {
            c.no("tagged", one, two, &ethernet(c2, c1, tag, &[&[0, 5, 8, 0][..], &plain].concat()));
            let twice = [&[0, 5, 0x81, 0, 0, 6, 8, 0][..], &plain].concat();
            c.no("tagged twice", one, L, &ethernet(c2, c1, tag, &twice));
        }
        c.no("unknown", one, L, &ethernet(c2, c1, 0x88cc, &[1; 40]));
        c.no("spanning tree", one, L, &ethernet(Mac([1, 0x80, 0xc2, 0, 0, 0]), c1, 38, &[0x42; 40]));
        c.done();
    });
}

#[test]
fn a_guest_reaches_its_own_host_only_where_it_may() {
    alone_with(async || {
        let mut c = Cells::new();
        let shown = std::process::Command::new("ip").args(["-br", "link", "show", "br0"]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let host: Mac = shown.split_whitespace().nth(2).unwrap().parse().unwrap();
        ip("neigh replace 10.0.0.11 lladdr 02:00:00:00:00:01 dev br0");
        let listen = |port| {
            let socket = std::net::UdpSocket::bind(("10.0.0.1", port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (names, other) = (listen(53), listen(16514));
        let mut buffer = [0; 16];
        let ask = |port| packet(host, card(1), ("10.0.0.11", "10.0.0.1"), UDP, &plain_udp(4000, port));
        c.bridge.send(&tap(1), &ask(53));
        assert!(names.recv(&mut buffer).is_ok(), "its name server");
        c.bridge.send(&tap(1), &ask(16514));
        assert!(other.recv(&mut buffer).is_err(), "nothing else of its host");
        c.bridge.send(&tap(3), &packet(host, card(3), ("10.0.0.3", "10.0.0.1"), UDP, &plain_udp(4000, 53)));
        assert!(names.recv(&mut buffer).is_err(), "and nothing at all for others");
        c.bridge.read(&tap(1));
        other.send_to(b"x", "10.0.0.11:4000").unwrap();
        assert!(!c.bridge.read(&tap(1)).iter().any(|f| f[12..14] == [8, 0]), "its host does not reach it");
        names.send_to(b"x", "10.0.0.11:4000").unwrap();
        assert!(c.bridge.read(&tap(1)).iter().any(|f| f[12..14] == [8, 0]), "but answers");
    });
}

/// Without data and checksum, which 0 says is not there (RFC 768).
fn plain_udp(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), 8_u16.to_be_bytes(), [0, 0]].concat()
}
