//! An image that rolls through three real guests: a generation that never gets ready stops at its canary, the others keep
//! running, a revert brings the canary back, and with `onFailure: rollback` it comes back by itself.

use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::killed::Fleet;

const DB: &str = "10.86.0.10";
const WEBS: [&str; 2] = ["10.86.0.11", "10.86.0.12"];

/// Boot ids of the web servers: who is not touched keeps its own.
fn boots(fleet: &Fleet) -> Vec<String> {
    WEBS.iter().map(|address| fleet.guest_says(address, "boot_id")).collect()
}

#[test]
fn a_canary_that_never_gets_ready_halts_the_roll_and_a_revert_brings_it_back() {
    if let Err(missing) = super::can_run() {
        println!("SKIPPED: a roll through real guests ({missing})");
        return;
    }
    let fleet = Fleet::new('r', "10.86.0.");
    let path = fleet.folder.join("image.yaml");
    fleet.edit("shop.yaml", "within: 90s", "within: 25s");
    let good = std::fs::read_to_string(&path).unwrap();
    let good = format!("{}\n  rollout: {{canary: 1, maxUnavailable: 1, minReady: 2s}}\n", good.trim_end());
    std::fs::write(&path, &good).unwrap();
    fleet.must(&["apply", "--yes"]);
    let (db, webs) = (fleet.guest_says(DB, "boot_id"), boots(&fleet));

    // A disk with nothing on it: the kernel finds no root.
    let disk = fleet.folder.join("empty.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("64M").status().unwrap();
    assert!(made.success());
    let digest: String = Sha256::digest(std::fs::read(&disk).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    let old = good.lines().find_map(|l| l.trim().strip_prefix("digest: sha256:")).unwrap().to_owned();
    let source = good.lines().find(|l| l.contains("source:")).unwrap();
    let bad = good.replace(&old, &digest).replace(source, &format!("  source: {{path: {}}}", disk.display()));
    std::fs::write(&path, &bad).unwrap();
    let plan = fleet.must(&["plan"]);
    assert!(plan.contains("3 VMs in 3 steps: canary shop-db-1, then one at a time"), "{plan}");
    let applied = fleet.say(&["apply", "--yes"]);
    assert!(!applied.status.success(), "a canary that is not ready is no success");
    for _ in 0..2 {
        let plan = fleet.must(&["plan"]);
        assert!(plan.contains("halted: vm/shop-db-1"), "{plan}");
        let again = fleet.say(&["apply", "--yes"]);
        println!("halted, applied again: {}", again.status);
    }
    assert_eq!(boots(&fleet), webs, "the old ones are not touched, however often it is tried");
    let shown = fleet.must(&["describe", "image/tiny"]);
    assert!(shown.contains(&digest[..12]) && shown.contains(&old[..12]) && shown.contains("halted"), "{shown}");

    // A revert.
    std::fs::write(&path, &good).unwrap();
    fleet.must(&["apply", "--yes"]);
    let back = fleet.guest_says(DB, "boot_id");
    assert_ne!(back, db, "it was made anew from the old generation");
    fleet.must(&["apply", "--yes"]);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");

    // The same generation again, and this time nobody has to revert anything.
    std::fs::write(&path, bad.replace("minReady: 2s", "minReady: 2s, onFailure: rollback")).unwrap();
    let applied = fleet.say(&["apply", "--yes"]);
    println!("gone back by itself: {}", applied.status);
    fleet.guest_says(DB, "boot_id");
    let plan = fleet.must(&["plan"]);
    assert!(plan.contains("went back to"), "{plan}");
    assert_eq!(boots(&fleet), webs, "nobody else noticed");
}
