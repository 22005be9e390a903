//! Somebody on every tap and every cable who sees each packet that came through: delivered to a guest, let out of a guest's
//! host, or handed to the host itself. What it saw is held against what the documents allow.
#![expect(unsafe_code, reason = "namespaces are entered, and packets read, by system calls")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Runs in a thread of its own inside another network namespace; what it opened there stays there.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(namespace).unwrap();
    std::thread::spawn(move || {
        // SAFETY: it concerns the calling thread alone; the file is open.
        let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "no namespace: {}", std::io::Error::last_os_error());
        work()
    })
}

/// What kind of packet it was. ICMP errors belong to whatever they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The first packet of a TCP connection, to a port.
    Begins(u16),
    /// Any other packet of TCP, from a port to a port.
    Goes(u16, u16),
    /// From a port to a port.
    Udp(u16, u16),
    Echo,
    Error,
    /// Another protocol, by number; a fragment is 256.
    Other(u16),
}

/// A packet that came through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) kind: Kind,
    /// The host, and whether a guest got it (`tap`), the cable (`cable`) or the host (`host`).
    pub(crate) place: (String, &'static str),
}

/// Frames that somebody forges: how often each entered from a guest, and where it came out again.
type Forged = BTreeMap<Vec<u8>, (u64, BTreeSet<(String, &'static str)>)>;

/// What was seen since the last verdict.
#[derive(Default)]
struct Book {
    seen: BTreeMap<Seen, u64>,
    /// IPv6 packets that were no neighbour discovery and the like.
    sixes: u64,
    lost: u64,
    /// Frames that somebody forges, how often each entered from a guest, and where each came out again.
    forged: Forged,
}

/// The one who looks on; nobody looks any more when dropped.
pub(crate) struct Jury {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
}

const EVERY_PROTOCOL: u16 = 0x0003;
/// The book holds the first bytes of a packet: Ethernet, IPv4 with options, and ports.
const HEAD: usize = 256;

impl Jury {
    /// Looks at hosts, each by its namespace. Addresses of guests begin at `.100` of their network, hosts are below.
    pub(crate) fn new(hosts: &[(String, PathBuf)]) -> Self {
        let jury = Self { book: Arc::default(), stop: Arc::default() };
        for (host, namespace) in hosts {
            let (book, stop, host) = (jury.book.clone(), jury.stop.clone(), host.clone());
            drop(inside(namespace, move || look(&host, &book, &stop)));
        }
        jury
    }

    /// Everything that came through since the last call.
    pub(crate) fn seen(&self) -> BTreeMap<Seen, u64> {
        let mut book = self.book.lock().unwrap();
        assert_eq!(book.sixes, 0, "IPv6 between guests that have no such address");
        assert_eq!(book.lost, 0, "packets that nobody looked at");
        std::mem::take(&mut book.seen)
    }
}

impl Jury {
    /// From now on looks out for these frames.
    pub(crate) fn beware(&self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.book.lock().unwrap().forged = frames.into_iter().map(|f| (f, (0, BTreeSet::new()))).collect();
    }

    /// Of each forged frame: how often a guest sent it, and where it came out.
    pub(crate) fn forged(&self) -> Forged {
        std::mem::take(&mut self.book.lock().unwrap().forged)
    }
}

impl Drop for Jury {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A packet socket that hears all interfaces of the thread's namespace.
fn ear() -> OwnedFd {
    // SAFETY: no memory is handed over.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(EVERY_PROTOCOL.to_be()))
    };
    assert!(raw >= 0, "no packet socket: {}", std::io::Error::last_os_error());
    // SAFETY: it was just opened, and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // Room for what a processor that is busy elsewhere leaves for later: memory that moves is on the same cable.
    let room: libc::c_int = 64 << 20;
    let wait = libc::timeval { tv_sec: 0, tv_usec: 200_000 };
    // SAFETY: both values live for the calls, and their sizes are theirs.
    unsafe {
        let size = |n: usize| libc::socklen_t::try_from(n).unwrap();
        let at = (&raw const room).cast();
        libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, at, size(size_of_val(&room)));
        libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size(size_of_val(&wait)));
    }
    socket
}

/// Packets that this socket had no room for, since the last question (packet(7), PACKET_STATISTICS).
fn lost(socket: &OwnedFd) -> u64 {
    let mut both = [0_u32; 2];
    let mut size = libc::socklen_t::try_from(size_of_val(&both)).unwrap();
    // SAFETY: the numbers live for the call, and the size is theirs.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            both.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if done == 0 { u64::from(both[1]) } else { 0 }
}

fn interface(index: u32) -> String {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as large as the call wants it.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    let end = name.iter().position(|b| *b == 0).unwrap_or(0);
    if found.is_null() { String::new() } else { String::from_utf8_lossy(&name[..end]).into_owned() }
}

/// Hears frames in the thread's own namespace until it is told to stop: each with its interface's name, and whether it leaves
/// by it. In pauses it is told how many there was no room for.
pub(crate) fn overhear(stop: &AtomicBool, mut each: impl FnMut(&str, bool, &[u8]), mut pause: impl FnMut(u64)) {
    let socket = ear();
    let mut names: BTreeMap<i32, String> = BTreeMap::new();
    while !stop.load(Ordering::SeqCst) {
        let mut frame = [0_u8; HEAD];
        // SAFETY: all zeroes is a valid address.
        let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = libc::socklen_t::try_from(size_of_val(&at)).unwrap();
        // SAFETY: buffer and address live for the call, and their sizes are theirs.
        let length = unsafe {
            let address = (&raw mut at).cast();
            libc::recvfrom(socket.as_raw_fd(), frame.as_mut_ptr().cast(), HEAD, 0, address, &raw mut size)
        };
        let Ok(length) = usize::try_from(length) else {
            pause(lost(&socket));
            continue;
        };
        let name = names.entry(at.sll_ifindex).or_insert_with(|| interface(u32::try_from(at.sll_ifindex).unwrap()));
        each(name, at.sll_pkttype == libc::PACKET_OUTGOING, &frame[..length.min(HEAD)]);
    }
}

fn look(host: &str, book: &Mutex<Book>, stop: &AtomicBool) {
    let prefix = stablehand::model::tap_prefix(&stablehand::model::Name::new("rack").unwrap());
    let each = |name: &str, leaves: bool, frame: &[u8]| {
        let place = match name {
            tap if tap.starts_with(&prefix) && !leaves => "guest",
            tap if tap.starts_with(&prefix) => "tap",
            "eth0" if leaves => "cable",
            "br0" if !leaves => "host",
            _ => return,
        };
        if let Some((sent, came)) = book.lock().unwrap().forged.get_mut(frame) {
            if place == "guest" {
                *sent += 1;
            } else {
                came.insert((host.to_owned(), place));
            }
        }
        if place == "guest" {
            return;
        }
        let six = frame.get(12..14) == Some(&[0x86, 0xdd]);
        // Neighbour discovery and listener reports alone are without an address of ours (RFC 4861, RFC 3810).
        if six && place == "tap" && !matches!(frame.get(20), Some(0 | 58)) {
            book.lock().unwrap().sixes += 1;
        }
        let Some((from, to, kind)) = read(frame) else { return };
        let guest = |address: Ipv4Addr| address.octets()[3] >= 100;
        if place == "tap" || (guest(from) && (place == "cable" || !guest(to))) {
            let seen = Seen { from, to, kind, place: (host.to_owned(), place) };
            *book.lock().unwrap().seen.entry(seen).or_default() += 1;
        }
    };
    overhear(stop, each, |lost| book.lock().unwrap().lost += lost);
}

/// Ends and kind of an IPv4 packet (RFC 791, 9293, 768, 792).
fn read(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, Kind)> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    if kind != [8, 0] {
        return None;
    }
    let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(Ipv4Addr::from);
    let (from, to) = (address(12)?, address(16)?);
    let payload = packet.get(usize::from(packet[0] & 15) * 4..)?;
    let number = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let kind = match (packet[9], fragment) {
        (_, true) => Kind::Other(256),
        // SYN without ACK, RST and FIN.
        (6, _) if payload.get(13)? & 0x17 == 0x02 => Kind::Begins(number(2)?),
        (6, _) => Kind::Goes(number(0)?, number(2)?),
        (17, _) => Kind::Udp(number(0)?, number(2)?),
        (1, _) if matches!(payload.first()?, 0 | 8) => Kind::Echo,
        (1, _) => Kind::Error,
        (other, _) => Kind::Other(u16::from(other)),
    };
    Some((from, to, kind))
}

/// What is forbidden among what was seen, a line each.
pub(crate) fn forbidden(seen: &BTreeMap<Seen, u64>, may: impl Fn(&Seen) -> bool) -> BTreeSet<String> {
    let wrong = seen.iter().filter(|(seen, _)| !may(seen));
    wrong
        .map(|(s, many)| format!("{} -> {}: {:?} ({} of {}), {many} times", s.from, s.to, s.kind, s.place.1, s.place.0))
        .collect()
}
