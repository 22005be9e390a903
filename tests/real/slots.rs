//! Disks in their slots on real QEMU: a guest without cloud-init that reads its address from a marker in its disk, and what is
//! left of it when QEMU is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::killed::Fleet;

/// What the guest has instead of cloud-init: its address and name stand in it. Two markers stand close together, and no blank
/// behind the value matters.
const SEED: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/sbin
hostname $(echo @@STABLEHAND-HOSTNAME@@)
set -- @@STABLEHAND-ADDRESS@@ @@STABLEHAND-ADDRESS@@
for nic in /sys/class/net/e*; do ip link set "${nic##*/}" up; ip addr add "$2" dev "${nic##*/}"; done
[ -e /www/index.html ] || cp /lib/index.html /www/index.html
"#;

fn run(words: &[&str]) {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The quickstart's guest without its seed reader, compressed: its digest.
fn image(fleet: &Fleet) -> String {
    let at = |name: &str| fleet.folder.join(name).to_str().unwrap().to_owned();
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/build/tiny.qcow2");
    run(&["qemu-img", "convert", "-O", "raw", built.to_str().unwrap(), &at("marked.raw")]);
    std::fs::write(at("seed"), SEED).unwrap();
    std::fs::write(
        at("commands"),
        format!("rm /sbin/seed\nwrite {} /sbin/seed\nsif /sbin/seed mode 0100755\n", at("seed")),
    )
    .unwrap();
    run(&["debugfs", "-w", "-f", &at("commands"), &at("marked.raw")]);
    run(&["qemu-img", "convert", "-c", "-O", "qcow2", &at("marked.raw"), &at("marked.qcow2")]);
    std::fs::remove_file(at("marked.raw")).unwrap();
    let sum = Command::new("sha256sum").arg(at("marked.qcow2")).output().unwrap();
    String::from_utf8_lossy(&sum.stdout[..64]).into_owned()
}

/// A watch that is ended when it is dropped.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills every QEMU of a fleet, as a crash does.
fn crash(fleet: &Fleet) {
    for vm in fleet.guests().keys() {
        let pattern = format!("guest={}\\.{vm},", fleet.id());
        let _ = Command::new("pkill").args(["-9", "-f", &pattern]).status();
    }
}

#[test]
fn a_guest_without_cloud_init_has_its_address_and_forgets_what_it_should() {
    let debugfs = Command::new("debugfs").arg("-V").output();
    if let Err(missing) = super::can_run().and_then(|()| debugfs.map(drop).map_err(|_| "no `debugfs`".to_owned())) {
        println!("SKIPPED: markers and root disks that return to their image ({missing})");
        return;
    }
    let fleet = Fleet::new('m', "10.86.0.");
    let digest = image(&fleet);
    let tiny = std::fs::read_to_string(fleet.folder.join("image.yaml")).unwrap();
    let boot = tiny.lines().skip_while(|l| !l.starts_with("  boot:")).take(4).collect::<Vec<_>>().join("\n");
    let documents = format!(
        "apiVersion: stablehand/v1alpha1
kind: Image
metadata: {{name: marked}}
spec:
  source: {{path: marked.qcow2}}
  digest: sha256:{digest}
  format: qcow2
{boot}
  learnsAddressBy:
    marker:
      address: {{text: \"@@STABLEHAND-ADDRESS@@\", value: cidr}}
      name: {{text: \"@@STABLEHAND-HOSTNAME@@\", value: hostname}}
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {{name: desks}}
spec:
  apps:
    keeps: {{image: marked, memory: 96MiB, persistence: persistent, nics: {{lan: {{network: lan, address: 10.86.0.20}}}}, ready: {{tcp: {{port: 80}}}}}}
    resets: {{image: marked, memory: 96MiB, persistence: reset, nics: {{lan: {{network: lan, address: 10.86.0.21}}}}, ready: {{tcp: {{port: 80}}}}}}
"
    );
    std::fs::write(fleet.folder.join("shop.yaml"), documents).unwrap();
    let began = Instant::now();
    fleet.must(&["apply", "--yes"]);
    println!("  made, reachable at their planned addresses in {} ms", began.elapsed().as_millis());
    assert!(fleet.must(&["plan"]).starts_with("no changes:"), "{}", fleet.must(&["plan"]));
    let (keeps, resets) = ("10.86.0.20", "10.86.0.21");
    for (address, name) in [(keeps, "desks-keeps-1"), (resets, "desks-resets-1")] {
        assert_eq!(fleet.guest_says(address, "hostname"), name);
        assert_eq!(fleet.guest_says(address, "boots"), "1");
        let stamp = format!("{}.{name}.1.root.raw.stamp", fleet.id());
        let stamp = std::fs::read_to_string(fleet.store.join("slots").join(stamp)).unwrap();
        assert!(stamp.contains(r#""address": 2"#) && stamp.contains(r#""name": 1"#), "{stamp}");
    }
    let definition = std::fs::read_to_string(fleet.root.join(format!("etc/qemu/{}.desks-resets-1.xml", fleet.id())));
    let definition = definition.unwrap();
    assert!(definition.contains("<on_reboot>destroy</on_reboot>") && definition.contains("used"), "{definition}");

    // QEMU dies under a watch: one is again what its image is, the other has what it wrote.
    let boot_of = |address: &str| fleet.guest_says(address, "boot_id");
    let before = [boot_of(keeps), boot_of(resets)];
    let mut command = fleet.command(&["watch", "--resync", "2s"]);
    let watch = Watch(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    crash(&fleet);
    let is_back = |address: &str, before: &String| {
        let until = Instant::now() + Duration::from_secs(90);
        while boot_of(address) == *before {
            assert!(Instant::now() < until, "{address} was not started again");
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    is_back(keeps, &before[0]);
    is_back(resets, &before[1]);
    println!("  killed, healed by a watch in {} ms", began.elapsed().as_millis());
    assert_eq!(fleet.guest_says(keeps, "boots"), "2", "what it wrote is there");
    assert_eq!(fleet.guest_says(resets, "boots"), "1", "it is as its image");
    assert_eq!(fleet.guest_says(resets, "hostname"), "desks-resets-1", "the markers were replaced again");
    drop(watch);
    assert!(fleet.must(&["plan"]).starts_with("no changes:"), "{}", fleet.must(&["plan"]));
}
