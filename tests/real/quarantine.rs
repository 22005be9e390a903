//! Quarantine of real guests, as packets see it: one whose guard fails is closed and suspended by a watch, another is closed by
//! hand and runs on; a `kill -9` and the loss of the store open nothing, and a release brings the packets back.
#![expect(unsafe_code, reason = "packets are read by system calls")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stablehand::model::{Mac, Name, nic_mac, tap_name};

use super::killed::Fleet;

const DB: &str = "10.87.0.10";
const WEBS: [&str; 2] = ["10.87.0.11", "10.87.0.12"];

/// Each web server pings the database five times a second, and can be told to go bad.
const USER_DATA: &str = "
          #cloud-config
          write_files:
            - path: /www/cgi-bin/bad
              permissions: '0755'
              content: |
                #!/bin/sh
                touch /run/bad
                printf 'Content-Type: text/plain\\r\\n\\r\\nbad\\n'
          runcmd:
            - (while :; do ping -c 1 -W 1 10.87.0.10 >/dev/null 2>&1; usleep 200000; done) &
";

/// A VM that cannot be made.
const BROKEN: &str = "apiVersion: stablehand/v1alpha1
kind: Image
metadata: {name: broken}
spec:
  source: {path: nowhere.qcow2}
  digest: sha256:00000000000000000000000000000000000000000000000000000000000000aa
  format: qcow2
  learnsAddressBy: none
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: broken}
spec:
  apps:
    a: {image: broken, memory: 64MiB}
";

/// A watch that is killed when it is dropped.
struct Watch(Child);

impl Watch {
    fn start(fleet: &Fleet) -> Self {
        let log = std::fs::File::create(fleet.folder.join("watch.log")).unwrap();
        let mut command = fleet.command(&["watch", "--resync", "30s"]);
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sees every frame that passes at an interface.
struct Ear(OwnedFd);

impl Ear {
    fn at(interface: &str) -> Self {
        let index: i32 =
            std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).unwrap().trim().parse().unwrap();
        let all = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        // SAFETY: plain system calls; the descriptor is nobody else's, the address lives for the call.
        unsafe {
            let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(all));
            assert!(raw >= 0, "no socket: {}", std::io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(raw);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = all;
            address.sll_ifindex = index;
            let size = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
            assert_eq!(libc::bind(raw, (&raw const address).cast(), size), 0);
            Self(socket)
        }
    }

    /// How many frames that a card sent have passed since the last time.
    fn heard(&self, from: Mac) -> usize {
        let mut buffer = [0_u8; 2048];
        let mut count = 0;
        loop {
            // SAFETY: the buffer lives for the call, and is as long as is said.
            let read = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if read < 14 {
                return count;
            }
            count += usize::from(buffer[6..12] == from.0);
        }
    }

    /// How many pass in a time.
    fn during(&self, time: Duration, from: Mac) -> usize {
        self.heard(from);
        std::thread::sleep(time);
        self.heard(from)
    }
}

fn get(address: &str, path: &str) -> Option<String> {
    let socket = format!("{address}:80").parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&socket, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    (!text.is_empty()).then_some(text)
}

/// The line of a VM in `status`.
fn row(fleet: &Fleet, vm: &str) -> String {
    // While a watch opens the root, nobody else knows anything.
    let status = String::from_utf8_lossy(&fleet.say(&["status"]).stdout).into_owned();
    status.lines().find(|line| line.starts_with(vm)).unwrap_or_default().to_owned()
}

fn until(what: &str, limit: u64, mut so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(limit), "not within {limit} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
    began.elapsed()
}

#[test]
fn what_is_in_quarantine_sends_nothing_and_stays_so_until_it_is_released() {
    let nft = Command::new("nft").arg("-v").output().map(drop).map_err(|_| "`nft` is not installed".to_owned());
    if let Err(missing) = super::can_run().and(nft) {
        println!("SKIPPED: quarantine of real guests ({missing})");
        return;
    }
    let fleet = Fleet::new('q', "10.87.0.");
    let guard = "guard: {exec: {command: [/bin/sh, -c, test ! -e /run/bad]}, within: 6s, every: 500ms, failures: 3}";
    fleet.edit("shop.yaml", "      dependsOn: [db] ", &format!("      {guard}\n      dependsOn: [db] "));
    let path = fleet.folder.join("shop.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("          #cloud-config").unwrap();
    let end = at + text[at..].find("  access:").unwrap();
    std::fs::write(&path, format!("{}{}{}", &text[..at], &USER_DATA[1..], &text[end..])).unwrap();
    fleet.must(&["apply", "--yes"]);
    let name = |text: &str| Name::new(text).unwrap();
    let id = name(fleet.id());
    let (one, two) = ("shop-web-1", "shop-web-2");
    let cards = [one, two].map(|vm| nic_mac(&id, &name(vm), &name("lan")));
    let ear = Ear::at(&tap_name(&id, &name("shop-db-1"), &name("lan")));
    for (card, vm) in cards.iter().zip([one, two]) {
        let heard = until("it is heard before anything happened", 60, || ear.heard(*card) > 0);
        println!("  {vm} to the database: heard after {} ms", heard.as_millis());
    }

    // A guard that goes on to succeed does nothing; one that fails closes and suspends.
    let watch = Watch::start(&fleet);
    until("the watch serves", 20, || row(&fleet, one).contains("running"));
    std::thread::sleep(Duration::from_secs(4));
    assert!(row(&fleet, one).contains("running"), "{}", row(&fleet, one));
    get(WEBS[0], "/cgi-bin/bad").expect("it goes bad");
    let began = Instant::now();
    ear.heard(cards[0]);
    let mut last = began;
    let suspended = until("it is suspended", 60, || {
        if ear.heard(cards[0]) > 0 {
            last = Instant::now();
        }
        fleet.must(&["status", "-o", "json"]).contains("\"state\": \"suspended\"")
    });
    println!(
        "  bad: its last frame passed after {} ms, suspended after {} ms",
        last.duration_since(began).as_millis(),
        suspended.as_millis()
    );
    assert!(last.duration_since(began) < suspended, "closed first");
    let shown = row(&fleet, one);
    assert!(shown.contains("in quarantine by its guard: 3 failures in a row"), "{shown}");
    assert!(row(&fleet, two).contains("running"), "nobody else");
    assert!(get(WEBS[1], "/").is_some());

    // By hand, and it runs on.
    let began = Instant::now();
    fleet.must(&["quarantine", two, "--reason", "a key was stolen", "--then", "close"]);
    println!("  closed by hand in {} ms", began.elapsed().as_millis());
    assert_eq!(ear.during(Duration::from_secs(3), cards[1]), 0, "frames of one that is closed");
    assert_eq!(get(WEBS[1], "/"), None, "nor does its host get in");
    assert!(get(DB, "/").is_some());
    assert!(row(&fleet, two).contains("running"), "it runs on");
    let reach = fleet.say(&["reach", "vm/shop-web-2", "vm/shop-db-1"]);
    let said = String::from_utf8_lossy(&reach.stdout).into_owned();
    assert!(!reach.status.success() && said.contains("vm/shop-web-2 is in quarantine"), "{said}");
    let verified = fleet.must(&["verify"]);
    assert!(verified.contains("in force"), "{verified}");
    let why = fleet.must(&["why", "vm/shop-web-2"]);
    assert!(why.contains("a key was stolen"), "{why}");

    // Deleted by hand, while passes fail and back off: all of it comes back at once, closed as it was.
    std::fs::write(fleet.folder.join("broken.yaml"), BROKEN).unwrap();
    let log = fleet.folder.join("watch.log");
    until("passes back off", 60, || std::fs::read_to_string(&log).unwrap().contains("failed (2 in a row)"));
    let table = format!("stablehand-{}", fleet.id());
    for _ in 0..3 {
        let deleted = Command::new("nft").args(["delete", "table", "bridge", &table]).status().unwrap();
        assert!(deleted.success());
        let is_back = || {
            let listed = Command::new("nft").args(["list", "table", "bridge", &table]).output().unwrap();
            listed.status.success()
        };
        let back = until("the table is back", 20, is_back);
        println!("  deleted while passes back off, and back after {} ms", back.as_millis());
        assert!(back < Duration::from_secs(2));
        assert_eq!(ear.during(Duration::from_secs(1), cards[1]), 0, "frames of one that is closed");
    }
    std::fs::remove_file(fleet.folder.join("broken.yaml")).unwrap();

    // The controller dies, and all that it knew is lost.
    drop(watch);
    std::fs::remove_dir_all(fleet.state()).unwrap();
    fleet.must(&["apply", "--yes"]);
    let watch = Watch::start(&fleet);
    until("the watch serves", 20, || row(&fleet, one).contains("suspended"));
    assert!(row(&fleet, two).contains("in quarantine by "), "{}", row(&fleet, two));
    assert_eq!(ear.during(Duration::from_secs(2), cards[1]), 0, "frames of one that is closed");

    // Released: one is heard again; the other's guard fails still, and it goes back.
    fleet.must(&["release", two]);
    until("it is heard again", 30, || ear.heard(cards[1]) > 0);
    until("its host gets in", 10, || get(WEBS[1], "/").is_some());
    fleet.must(&["release", one]);
    until("it goes back", 60, || row(&fleet, one).contains("3 failures in a row"));
    until("it is suspended", 60, || row(&fleet, one).contains("suspended"));
    assert!(row(&fleet, two).contains("running"));
    drop(watch);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");
}
