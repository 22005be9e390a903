//! `kill -9` of everything that takes part in a move, two controllers, full hosts.

use std::time::Duration;

use super::{Rack, both, skipped};

fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

#[test]
fn whoever_is_killed_in_the_middle_of_a_move_nothing_is_lost() {
    if skipped("kill -9 in the middle of moves") {
        return;
    }
    Rack::with(5, &[], |rack| {
        rack.up();
        let boot = rack.fact("shop-db-1", "boot_id");
        for victim in ["us", "libvirtd of the source", "libvirtd of the target", "QEMU of the target"] {
            let source = rack.place("shop-db-1");
            rack.lab(&["slow", &source, "80mbit"]);
            let mut drain = rack.command(&["drain", &source, "--yes"]).spawn().unwrap();
            // Until its memory travels: the target has its domain, arriving.
            let target = rack.arriving("shop-db-1", 60);
            wait(1.0);
            match victim {
                "us" => drain.kill().unwrap(),
                "libvirtd of the source" => drop(rack.lab(&["restart-libvirtd", &source])),
                "libvirtd of the target" => drop(rack.lab(&["restart-libvirtd", &target])),
                _ => rack.kill_qemu(&target, "shop-db-1"),
            }
            let status = drain.wait().unwrap();
            println!("killed {victim}: the drain ended with {status}");
            rack.lab(&["heal", &source]);
            rack.place_within("shop-db-1", 60);
            rack.must(&["drain", &source, "--withdraw"]);
            rack.until(&["apply", "--yes"], "no changes", 120);
            assert_eq!(rack.fact("shop-db-1", "boot_id"), boot, "killing {victim} restarted the guest");
        }
        // Its own QEMU: the guest is started again, from its disk, at one place.
        let source = rack.place("shop-db-1");
        rack.lab(&["slow", &source, "80mbit"]);
        let mut drain = rack.command(&["drain", &source, "--yes"]).spawn().unwrap();
        rack.arriving("shop-db-1", 60);
        rack.kill_qemu(&source, "shop-db-1");
        drain.wait().unwrap();
        rack.lab(&["heal", &source]);
        rack.must(&["drain", &source, "--withdraw"]);
        rack.until(&["apply", "--yes"], "no changes", 120);
        assert_ne!(rack.fact("shop-db-1", "boot_id"), boot);
        rack.settled();
    });
}

#[test]
fn a_second_controller_is_told_who_acts() {
    if skipped("two controllers") {
        return;
    }
    Rack::with(6, &[], |rack| {
        rack.up();
        let source = rack.place("shop-db-1");
        rack.lab(&["slow", &source, "80mbit"]);
        let mut drain = rack.command(&["drain", &source, "--yes"]).spawn().unwrap();
        rack.arriving("shop-db-1", 60);
        let other = rack.state.with_file_name("other-state");
        let mut second = rack.command(&["apply", "--yes"]);
        let said = both(&second.args(["--state-dir", other.to_str().unwrap()]).output().unwrap());
        assert!(said.contains("acts there") || said.contains("being moved") || said.contains("no changes"), "{said}");
        let status = drain.wait().unwrap();
        assert!(status.success(), "the first one ends what it began: {status}");
        rack.lab(&["heal", &source]);
        rack.settled();
    });
}

/// Two VMs that fill their hosts.
const FULL: &str = "apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: pair}
spec:
  run: started
  apps:
    left:
      image: tiny
      cpus: 1
      memory: 96MiB
      disks: {data: {size: 64MiB}}
      nics: {lan: {network: lan}}
      placement: {host: h1}
      ready: {tcp: {port: 80}, within: 90s}
    right:
      image: tiny
      cpus: 1
      memory: 96MiB
      nics: {lan: {network: lan}}
      placement: {host: h2}
      ready: {tcp: {port: 80}, within: 90s}
";

#[test]
fn full_hosts_exchange_their_guests_over_a_spare_one_or_by_suspending_one() {
    if skipped("full hosts that exchange their guests") {
        return;
    }
    Rack::with(7, &[], |rack| {
        let shop = std::fs::read_to_string(rack.folder.join("shop.yaml")).unwrap();
        let at = shop.find("apiVersion: stablehand/v1alpha1\nkind: Service").unwrap();
        rack.write("shop.yaml", &format!("{}{FULL}", &shop[..at]));
        for _ in 0..3 {
            rack.edit("hosts.yaml", "slots: 6", "slots: 1");
        }
        rack.must(&["apply", "--yes"]);
        let boots = ["pair-left-1", "pair-right-1"].map(|vm| rack.fact(vm, "boot_id"));

        let swap = |a: &str, b: &str| {
            let text = std::fs::read_to_string(rack.folder.join("shop.yaml")).unwrap();
            let text = text.replace(a, "{host: X}").replace(b, a).replace("{host: X}", b);
            rack.write("shop.yaml", &text);
        };
        swap("{host: h1}", "{host: h2}");
        let plan = rack.must(&["plan"]);
        assert!(plan.contains("h3"), "the plan says that it goes over the spare host:\n{plan}");
        println!("{}", rack.must(&["apply", "--yes"]));
        assert_eq!([rack.place("pair-left-1"), rack.place("pair-right-1")], ["h2", "h1"]);
        assert_eq!(["pair-left-1", "pair-right-1"].map(|vm| rack.fact(vm, "boot_id")), boots, "nobody was restarted");

        // No spare host: one is suspended meanwhile, and goes on.
        let hosts = std::fs::read_to_string(rack.folder.join("hosts.yaml")).unwrap();
        let at = hosts.rfind("  slots: 1").unwrap();
        rack.write("hosts.yaml", &format!("{}  maintenance: cordon\n{}", &hosts[..at], &hosts[at..]));
        swap("{host: h1}", "{host: h2}");
        let plan = rack.must(&["plan"]);
        assert!(plan.contains("suspended"), "the plan says that one is suspended meanwhile:\n{plan}");
        println!("{}", rack.must(&["apply", "--yes"]));
        assert_eq!([rack.place("pair-left-1"), rack.place("pair-right-1")], ["h1", "h2"]);
        assert_eq!(["pair-left-1", "pair-right-1"].map(|vm| rack.fact(vm, "boot_id")), boots, "nobody was restarted");
        assert!(rack.until(&["plan"], "no changes", 60).contains("no changes"));
        rack.witness.ran_once();
        rack.counted_once("pair-left-1");
    });
}
