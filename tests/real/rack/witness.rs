//! Somebody on the network who hears every guest once a second, and knows when one ran twice.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What one guest said: its boot, its uptime in seconds, and when it was heard.
#[derive(Clone, Debug)]
struct Heard {
    vm: String,
    boot: String,
    uptime: f64,
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

    /// Listens on an address of the laboratory until dropped.
    pub(crate) fn listen(&self, address: &str) {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (heard, stop) = (self.heard.clone(), self.stop.clone());
        std::thread::spawn(move || {
            let mut buffer = [0u8; 2048];
            while !stop.load(Ordering::SeqCst) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if let Some(line) = parse(&text) {
                    heard.lock().unwrap().push(line);
                }
            }
        });
    }

    /// The longest silence of a guest since a moment.
    pub(crate) fn longest_gap(&self, vm: &str, since: Instant) -> Duration {
        let heard = self.heard.lock().unwrap();
        let times: Vec<Instant> = heard.iter().filter(|h| h.vm == vm && h.at >= since).map(|h| h.at).collect();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
    }

    /// That no guest ran twice: within a boot its uptime only grows, and a boot that another one followed is over.
    pub(crate) fn ran_once(&self) {
        let heard = self.heard.lock().unwrap();
        let mut by_vm: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
        for h in heard.iter() {
            by_vm.entry(&h.vm).or_default().push((&h.boot, h.uptime));
        }
        for (vm, lines) in by_vm {
            in_order(vm, lines.into_iter());
        }
    }

    /// The last lines that were heard.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let heard = self.heard.lock().unwrap();
        let last = &heard[heard.len().saturating_sub(lines)..];
        let line = |h: &Heard| {
            format!("  {} {} up {} s, {:.1} s ago", h.vm, &h.boot[..8], h.uptime, h.at.elapsed().as_secs_f64())
        };
        last.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn parse(text: &str) -> Option<Heard> {
    let (head, line) = text.trim().rsplit_once(": ")?;
    let vm = head.rsplit(' ').next()?.to_owned();
    let mut words = line.split(' ');
    let (boot, uptime) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    (boot.len() == 36).then(|| Heard { vm, boot, uptime, at: Instant::now() })
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
