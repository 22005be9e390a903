//! A bridge in a network namespace of its own, with taps whose other ends the test has in hand: what it writes, a guest sends;
//! what it reads, a guest gets. Frames are made here, byte by byte.
#![expect(unsafe_code, reason = "a namespace and taps are made by system calls")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use stablehand::model::Mac;

/// Runs in a thread that has a network namespace of its own, with a runtime of one thread, so that programs which it starts
/// are in that namespace too. It goes with the thread.
pub(crate) fn alone<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        // SAFETY: it concerns the calling thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "no namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The guests' ends of taps, all on the bridge `br0`.
pub(crate) struct Bridge {
    taps: BTreeMap<String, File>,
}

impl Bridge {
    pub(crate) fn new(address: &str) -> Self {
        ip("link set lo up");
        ip("link add br0 type bridge mcast_snooping 0");
        ip(&format!("addr add {address} dev br0"));
        ip("link set br0 up");
        Self { taps: BTreeMap::new() }
    }

    pub(crate) fn plug(&mut self, name: &str) {
        let tap =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
        // SAFETY: all zeroes is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::try_from(from).unwrap();
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).unwrap();
        // SAFETY: the request lives for the call.
        let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(done, 0, "{name}: {}", std::io::Error::last_os_error());
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
        ip(&format!("link set {name} master br0 up"));
        self.taps.insert(name.to_owned(), tap);
    }

    /// Everything that has come since the last time.
    pub(crate) fn read(&mut self, name: &str) -> Vec<Vec<u8>> {
        let tap = self.taps.get_mut(name).unwrap();
        let mut all = Vec::new();
        let mut buffer = [0_u8; 2048];
        loop {
            match tap.read(&mut buffer) {
                Ok(length) => all.push(buffer[..length].to_vec()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return all,
                Err(e) => panic!("{name}: {e}"),
            }
        }
    }

    pub(crate) fn send(&mut self, name: &str, frame: &[u8]) {
        self.taps.get_mut(name).unwrap().write_all(frame).unwrap();
    }

    /// Whether a frame that one sends reaches another: a bridge has passed it on when the call that writes it returns.
    pub(crate) fn passes(&mut self, from: &str, frame: &[u8], to: &str) -> bool {
        self.read(to);
        self.send(from, frame);
        self.read(to).iter().any(|f| f == frame)
    }
}

pub(crate) const EVERYBODY: Mac = Mac([0xff; 6]);

pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    // Not padded: a bridge cuts padding off where `br_netfilter` looks into packets.
    [&to.0[..], &from.0[..], &kind.to_be_bytes()[..], payload].concat()
}

/// 1 asks, 2 answers.
pub(crate) fn arp(operation: u16, from: (Mac, &str), to: (Mac, &str)) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let head = [0, 1, 8, 0, 6, 4];
    let operation = operation.to_be_bytes();
    [&head[..], &operation, &from.0.0, &octets(from.1), &to.0.0, &octets(to.1)].concat()
}

pub(crate) fn ipv4(from: &str, to: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let [from, to] = [from, to].map(|a| a.parse::<Ipv4Addr>().unwrap().octets());
    let head = [0x45, 0, length[0], length[1], 0, 1];
    let mut packet = [&head[..], &fragment.to_be_bytes(), &[64, protocol, 0, 0], &from, &to].concat();
    let sum: u32 = packet.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    [packet, payload.to_vec()].concat()
}

pub(crate) fn ipv6(from: &str, to: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let [from, to] = [from, to].map(|a| a.parse::<Ipv6Addr>().unwrap().octets());
    [&[0x60, 0, 0, 0, length[0], length[1], next, hops], &from[..], &to, payload].concat()
}

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    [&ports[..], &[0; 8], &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]].concat()
}

pub(crate) fn udp(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), 12_u16.to_be_bytes(), [0, 0], [1, 2], [3, 4]].concat()
}

pub(crate) fn icmp(kind: u8) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[0x45; 28]].concat()
}

/// Neighbour discovery: its target, and an option with a hardware address.
pub(crate) fn neighbour(kind: u8, target: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    let target = target.parse::<Ipv6Addr>().unwrap().octets();
    let option = option.map(|(kind, mac)| [&[kind, 1][..], &mac.0].concat()).unwrap_or_default();
    [&[kind, 0, 0, 0, 0x60, 0, 0, 0][..], &target, &option].concat()
}

/// A packet of the address's own version in a frame between two hardware addresses.
pub(crate) fn packet(to: Mac, from: Mac, ips: (&str, &str), protocol: u8, payload: &[u8]) -> Vec<u8> {
    match ips.0.parse().unwrap() {
        IpAddr::V4(_) => ethernet(to, from, 0x0800, &ipv4(ips.0, ips.1, protocol, 0, payload)),
        IpAddr::V6(_) => ethernet(to, from, 0x86dd, &ipv6(ips.0, ips.1, protocol, 255, payload)),
    }
}
