//! Somebody on the network who hears every guest once a second, and knows when one ran twice.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::packets::jury::{inside, overhear};

/// What one guest said: its boot, its uptime in seconds, how often it spoke; on whose cable, and when it was heard.
#[derive(Clone, Debug)]
struct Heard {
    vm: String,
    boot: String,
    uptime: f64,
    count: u64,
    cable: String,
    at: Instant,
}

/// Hears syslog lines `<PRI>… VM: BOOT UPTIME COUNT` (RFC 3164) of all guests.
pub(crate) struct Witness {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
}

impl Witness {
    pub(crate) fn new() -> Self {
        Self { heard: Arc::default(), stop: Arc::default() }
    }

    /// Listens on the cables of all hosts, in the namespace of their network, until dropped. Guests send to `address`, where
    /// somebody takes what they say, and forgets it.
    pub(crate) fn listen(&self, network: &Path, address: &str) {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let _ = socket.recv(&mut [0u8; 2048]);
            }
        });
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        let (heard, stop) = (self.heard.clone(), self.stop.clone());
        drop(inside(network, move || {
            let each = |cable: &str, leaves: bool, frame: &[u8]| {
                // IPv4 without options, UDP, to this port.
                let is = |at: usize, bytes: &[u8]| frame.get(at..at + bytes.len()) == Some(bytes);
                let speaks = is(12, &[8, 0, 0x45]) && is(23, &[17]) && is(36, &port.to_be_bytes());
                if leaves || !speaks || !cable.starts_with('h') {
                    return;
                }
                let text = String::from_utf8_lossy(&frame[42..]).into_owned();
                heard.lock().unwrap().extend(parse(cable, &text));
            };
            overhear(&stop, each, |_| {});
        }));
    }

    /// The longest silence of a guest since a moment.
    pub(crate) fn longest_gap(&self, vm: &str, since: Instant) -> Duration {
        let heard = self.heard.lock().unwrap();
        let times: Vec<Instant> = heard.iter().filter(|h| h.vm == vm && h.at >= since).map(|h| h.at).collect();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
    }

    /// That no guest ran twice: within a boot its uptime only grows, and a boot that another one followed is over. One packet
    /// that came twice on one cable is one: two guests are on two, or go on both counting.
    pub(crate) fn ran_once(&self) {
        let heard = self.heard.lock().unwrap();
        let mut by_vm: BTreeMap<&str, Vec<&Heard>> = BTreeMap::new();
        for h in heard.iter() {
            by_vm.entry(&h.vm).or_default().push(h);
        }
        for (vm, mut lines) in by_vm {
            lines.dedup_by(|b, a| {
                let same = (&a.boot, a.uptime, a.count, &a.cable) == (&b.boot, b.uptime, b.count, &b.cable);
                let twice = same && b.at - a.at < Duration::from_millis(200);
                if twice {
                    println!("{vm} was heard twice in {:?} on the cable of {}: one packet", b.at - a.at, a.cable);
                }
                twice
            });
            for (a, b) in lines.iter().zip(lines.iter().skip(1)) {
                let grows = a.boot != b.boot || a.uptime < b.uptime;
                assert!(grows, "{vm} runs twice, or went back: {a:?} and then {b:?}");
            }
            in_order(vm, lines.into_iter().map(|h| (&*h.boot, h.uptime)));
        }
    }

    /// The last lines that were heard.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let heard = self.heard.lock().unwrap();
        let last = &heard[heard.len().saturating_sub(lines)..];
        let line = |h: &Heard| {
            let ago = h.at.elapsed().as_secs_f64();
            format!("  {} {} up {} s, number {}, by {}, {ago:.1} s ago", h.vm, &h.boot[..8], h.uptime, h.count, h.cable)
        };
        last.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn parse(cable: &str, text: &str) -> Option<Heard> {
    let (head, line) = text.trim_end_matches(['\0', '\n']).trim().rsplit_once(": ")?;
    let vm = head.rsplit(' ').next()?.to_owned();
    let mut words = line.split(' ');
    let (boot, uptime, count) = (words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (cable, at) = (cable.to_owned(), Instant::now());
    (boot.len() == 36).then_some(Heard { vm, boot, uptime, count, cable, at })
}

/// That lines are of one guest which ran once at a time.
pub(crate) fn in_order<'l>(vm: &str, lines: impl Iterator<Item = (&'l str, f64)>) {
    let mut over: Vec<&str> = Vec::new();
    let mut last: Option<(&str, f64)> = None;
    for (boot, uptime) in lines {
        match last {
            Some((before, at)) if before == boot => {
                assert!(uptime > at, "{vm} runs twice, or went back: boot {boot}, {uptime} s after {at} s");
            }
            Some((before, _)) => over.push(before),
            None => {}
        }
        assert!(!over.contains(&boot), "{vm} runs twice: boot {boot} goes on after another one began");
        last = Some((boot, uptime));
    }
}
