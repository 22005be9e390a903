//! The documents, the guests who try, and those who have no business there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::{Rack, both};
use super::jury::{Jury, Seen, forbidden, inside};
use super::law::{Guest, Law};

pub(super) const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// Two services and a module. `.2` is a machine on the network that has a rule, `.3` one that has none.
const FLEET: &str = "apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: shop}
spec:
  run: started
  apps:
    web:
      image: tiny
      cpus: 1
      memory: 96MiB
      replicas: {min: 3}
      spread: {minHosts: 2}
      nics: {lan: {network: lan}}
      ready: {tcp: {port: 80}, within: 120s}
      cloudInit: {userData: USER_DATA}
  access:
    visitors: {app: web, from: {cidr: NET.2/32}, ports: [tcp/80]}
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: store}
spec:
  run: started
  apps:
    db:
      image: tiny
      cpus: 1
      memory: 96MiB
      nics: {lan: {network: lan}}
      placement: {host: h3}
      ready: {tcp: {port: 80}, within: 120s}
      cloudInit: {userData: USER_DATA}
  access:
    orders: {app: db, from: {service: shop, app: web}, ports: [tcp/8080]}
---
apiVersion: stablehand/v1alpha1
kind: Module
metadata: {name: lesson}
spec:
  run: started
  vms:
    desk:
      image: tiny
      cpus: 1
      memory: 96MiB
      nics: {lan: {network: lan}}
      ready: {tcp: {port: 80}, within: 120s}
      cloudInit: {userData: USER_DATA}
    server:
      image: tiny
      cpus: 1
      memory: 96MiB
      nics: {lan: {network: lan}}
      ready: {tcp: {port: 80}, within: 120s}
      cloudInit: {userData: USER_DATA}
  instances: {ann: {}, bob: {}, cat: {}}
  access:
    homework: {vm: desk, to: {cidr: NET.2/32}, ports: [tcp/9000]}
";

/// `try?A:PORT,A:icmp,…` says of each whether anything came back, also a refusal; `keep?…` goes on trying in turn, and
/// `keep?` ends that and says what was found when, in seconds since the boot. `forge?HEX,…` takes frames, `forge?go` sends
/// them in turn, `forge?` ends that and says how often. From the first second on, another one tries
/// whatever is near, which nobody asked for.
const USER_DATA: &str = r##"#cloud-config
write_files:
  - path: /etc/beacon
    content: "NET.1:5514"
  - path: /lib/try.sh
    content: |
      export PATH=/bin:/sbin
      try() {
        case $2 in
          icmp) ping -c 1 -W $3 $1 >/dev/null 2>&1 && { echo "$1 $2 passes"; return; } ;;
          *) said=$(nc -w $3 $1 $2 -e true 2>&1) && { echo "$1 $2 passes"; return; }
             case $said in *refused*) echo "$1 $2 passes"; return ;; esac ;;
        esac
        echo "$1 $2 closed"
      }
  - path: /www/cgi-bin/try
    permissions: "0755"
    content: |
      #!/bin/sh
      . /lib/try.sh
      printf 'Content-Type: text/plain\r\n\r\n'
      for one in $(echo "$QUERY_STRING" | tr , ' '); do try "${one%:*}" "${one#*:}" 3 & done
      wait
  - path: /www/cgi-bin/keep
    permissions: "0755"
    content: |
      #!/bin/sh
      . /lib/try.sh
      printf 'Content-Type: text/plain\r\n\r\n'
      if [ -z "$QUERY_STRING" ]; then
        rm -f /run/keep
        cat /run/kept
        exit
      fi
      : >/run/keep
      : >/run/kept
      while [ -e /run/keep ]; do
        for one in $(echo "$QUERY_STRING" | tr , ' '); do
          read -r now _ </proc/uptime
          echo "$now $(try "${one%:*}" "${one#*:}" 1)" >>/run/kept
        done
        usleep 100000
      done </dev/null >/dev/null 2>&1 &
  - path: /sbin/forge.b64
    content: "FORGE"
  - path: /www/cgi-bin/forge
    permissions: "0755"
    content: |
      #!/bin/sh
      . /lib/try.sh
      printf 'Content-Type: text/plain\r\n\r\n'
      case $QUERY_STRING in
        "")
          rm -f /run/forge
          cat /run/forged
          ;;
        go)
          base64 -d </sbin/forge.b64 >/run/send
          chmod 755 /run/send
          : >/run/forge
          n=0
          while [ -e /run/forge ]; do
            while read -r one; do echo "$one" | xxd -r -p | /run/send; done </run/frames
            n=$((n + 1))
            echo "rounds=$n" >/run/forged
            usleep 100000
          done </dev/null >/dev/null 2>&1 &
          ;;
        *) echo "$QUERY_STRING" | tr , '\n' >>/run/frames ;;
      esac
  - path: /sbin/nag
    permissions: "0755"
    content: |
      #!/bin/sh
      while :; do
        for last in 100 101 102 103 104 105 106 107 2 3 11 12 13; do
          nc -w 1 NET.$last 9999 -e true
        done
      done
runcmd:
  - /sbin/nag </dev/null >/dev/null 2>&1 &
"##;

/// A laboratory with guests who try, and somebody who looks on.
pub(super) struct Court<'r> {
    pub(super) rack: &'r Rack,
    pub(super) jury: Jury,
}

pub(super) fn write_documents(rack: &Rack) {
    let shop = std::fs::read_to_string(rack.folder.join("shop.yaml")).unwrap();
    let at = shop.find("apiVersion: stablehand/v1alpha1\nkind: Service").unwrap();
    let data = USER_DATA.replace("NET", &rack.net).replace("FORGE", &forger());
    let data = serde_json::to_string(&data).unwrap();
    let fleet = FLEET.replace("USER_DATA", &data).replace("NET", &rack.net);
    rack.write("shop.yaml", &format!("{}{fleet}", &shop[..at]));
}

/// The program that sends what a guest's kernel would not, in base64.
fn forger() -> String {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/rack/packets/forge.c");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("forge");
    let options = "-nostdlib -static -Os -s -fno-asynchronous-unwind-tables -fno-stack-protector -fcf-protection=none \
                   -fno-pie -no-pie -Wl,--build-id=none,-z,norelro,-z,noseparate-code,-N";
    let mut compiler = std::process::Command::new("gcc");
    let made = compiler.args(options.split_whitespace()).arg("-o").arg(&program).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::process::Command::new("base64").arg("-w0").arg(program).output().unwrap();
    String::from_utf8(text.stdout).unwrap()
}

impl<'r> Court<'r> {
    pub(super) fn new(rack: &'r Rack) -> Self {
        let ip = |words: &[&str]| assert!(std::process::Command::new("ip").args(words).status().unwrap().success());
        for last in [2, 3] {
            let address = format!("{}.{last}/24", rack.net);
            ip(&["-n", &rack.lab, "address", "add", &address, "dev", "lan"]);
        }
        let hosts: Vec<(String, PathBuf)> = HOSTS.iter().map(|h| ((*h).to_owned(), namespace(rack, h))).collect();
        Self { rack, jury: Jury::new(&hosts) }
    }

    pub(super) fn at(&self, last: u8) -> Ipv4Addr {
        format!("{}.{last}", self.rack.net).parse().unwrap()
    }

    pub(super) fn lan(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.rack.lab))
    }

    /// What the documents say now, of the guests that there are.
    pub(super) fn law(&self) -> Law {
        let json = |words: &[&str]| {
            let output = self.rack.say(&[&["--output", "json"], words].concat());
            assert!(output.status.success(), "{words:?}: {}", both(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        let matrix = serde_json::from_str(&json(&["matrix"])).unwrap();
        let status: serde_json::Value = serde_json::from_str(&json(&["status"])).unwrap();
        let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (host, vms) in self.rack.running() {
            for vm in vms {
                places.entry(vm).or_default().insert(host.clone());
            }
        }
        let guest = |row: &serde_json::Value| {
            let (vm, address) = (row["vm"].as_str()?.to_owned(), row["address"].as_str()?.parse().ok()?);
            let hosts = places.get(&vm).cloned().unwrap_or_default();
            Some((address, Guest { vm, address, hosts }))
        };
        let guests = status["vms"].as_array().unwrap().iter().filter_map(guest).collect();
        Law { matrix, guests }
    }

    /// That every packet that came through since the last verdict was allowed.
    pub(super) fn verdict(&self, what: &str, law: &Law) {
        let seen = self.jury.seen();
        let guests = |s: &&Seen| law.guests.contains_key(&s.from) && law.guests.contains_key(&s.to);
        let among = seen.keys().filter(guests).count();
        println!(
            "{what}: {} packets in {} kinds, {among} of them among guests",
            seen.values().sum::<u64>(),
            seen.len()
        );
        let wrong = forbidden(&seen, |s| law.may(s));
        assert!(
            wrong.is_empty(),
            "{what}: {} kinds of packets that nobody allowed came through: {wrong:#?}",
            wrong.len()
        );
    }
}

/// A host's network namespace.
pub(super) fn namespace(rack: &Rack, host: &str) -> PathBuf {
    let pid = std::fs::read_to_string(format!("/var/lib/{}/{host}/pid", rack.lab)).unwrap();
    PathBuf::from(format!("/proc/{}/ns/net", pid.trim()))
}

/// A page of a guest, which takes its time.
pub(super) fn ask(address: Ipv4Addr, page: &str) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    let mut text = String::new();
    while Instant::now() < until {
        let socket = SocketAddr::new(IpAddr::V4(address), 80);
        if let Ok(mut stream) = TcpStream::connect_timeout(&socket, Duration::from_secs(4)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
            let _ = stream.write_all(format!("GET /cgi-bin/{page} HTTP/1.0\r\n\r\n").as_bytes());
            text.clear();
            if stream.read_to_string(&mut text).is_ok() && text.contains("200 OK") {
                return text;
            }
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    panic!("{address} does not answer {page}: {text}");
}

/// Tries of a guest, all at once: those that got an answer.
pub(super) fn tries(from: Ipv4Addr, targets: &[(Ipv4Addr, Option<u16>)]) -> BTreeSet<(Ipv4Addr, Option<u16>)> {
    let word = |(to, port): &(Ipv4Addr, Option<u16>)| port.map_or(format!("{to}:icmp"), |p| format!("{to}:{p}"));
    let text = ask(from, &format!("try?{}", targets.iter().map(word).collect::<Vec<_>>().join(",")));
    let said = |target: &(Ipv4Addr, Option<u16>), how: &str| {
        let line = format!("{} {how}", word(target).replace(':', " "));
        text.lines().any(|l| l == line)
    };
    for target in targets {
        assert!(said(target, "passes") || said(target, "closed"), "{from} says nothing of {target:?}:\n{text}");
    }
    targets.iter().filter(|t| said(t, "passes")).copied().collect()
}

/// Whether a TCP connection is answered, from an address of a namespace.
pub(super) fn connects(
    from: &std::path::Path,
    source: Ipv4Addr,
    targets: Vec<(Ipv4Addr, u16)>,
) -> BTreeSet<(Ipv4Addr, u16)> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let one = async |(to, port): (Ipv4Addr, u16)| {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind((source, 0).into()).unwrap();
                let answer = tokio::time::timeout(Duration::from_secs(4), socket.connect((to, port).into())).await;
                let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
                let passes = matches!(&answer, Ok(Ok(_))) || matches!(&answer, Ok(Err(e)) if refused(e));
                passes.then_some((to, port))
            };
            futures_util::future::join_all(targets.into_iter().map(one)).await.into_iter().flatten().collect()
        })
    };
    inside(from, work).join().unwrap()
}

/// Sends what nobody allows from `.3` and `.2` to every address that a guest may have, until dropped.
pub(super) struct Flood(Arc<AtomicBool>);

impl Flood {
    pub(super) fn new(court: &Court<'_>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for own in [2, 3] {
            let (own, all): (_, Vec<Ipv4Addr>) = (court.at(own), (100..110).map(|last| court.at(last)).collect());
            let stop = stop.clone();
            drop(inside(&court.lan(), move || {
                let socket = UdpSocket::bind((own, 0)).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    for to in &all {
                        let _ = socket.send_to(b"nobody asked", (*to, 9999));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }));
        }
        Self(stop)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whom one could reach on hosts and on the network, if one could: libvirtd listens there by itself. Until dropped.
pub(super) struct Ears(Arc<AtomicBool>);

impl Ears {
    pub(super) fn new(court: &Court<'_>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let hosts = HOSTS.map(|host| (namespace(court.rack, host), 22));
        for (space, port) in hosts.into_iter().chain([(court.lan(), 80), (court.lan(), 9000)]) {
            let stop = stop.clone();
            drop(inside(&space, move || {
                let ear = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
                ear.set_nonblocking(true).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    drop(ear.accept());
                    std::thread::sleep(Duration::from_millis(20));
                }
            }));
        }
        Self(stop)
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
