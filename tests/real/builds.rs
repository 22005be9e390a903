//! Images that are made in the fleet, with real guests: a management instance is made, configured through its agent, captured
//! and ended; sets roll to what was sealed. A running member is promoted, sealed by hand, and reverts.

use std::net::Ipv4Addr;

use super::guest::page;
use super::killed::Fleet;

const DB: &str = "10.87.0.10";
const WEBS: [&str; 2] = ["10.87.0.11", "10.87.0.12"];

/// What a clone does at its first boot: it takes an id where it has none, and shows what else is in it.
const FIRST_BOOT: &str = r#"
          runcmd:
            - '[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id'
            - cp /etc/machine-id /www/id
            - ls -a /etc /etc/ssh /var/lib/cloud >/www/there"#;

fn desk(revision: u32, content: &str, check: &str) -> String {
    format!(
        "apiVersion: stablehand/v1alpha1
kind: Image
metadata: {{name: desk}}
spec:
  format: qcow2
  from: {{image: tiny}}
  revision: {revision}
  configure:
    userData: |
      #cloud-config
      runcmd:
        - tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    steps:
      - run: [sh, -c, 'mkdir -p /etc/ssh && echo NOBODY-SEES-THIS >/etc/ssh/ssh_host_rsa_key']
      - file: {{path: /www/made, content: {content}}}
  build: {{cpus: 1, memory: 96MiB}}
  check: {{exec: {{command: [{check}]}}, within: 10s}}
  rollout: {{canary: 1, maxUnavailable: 1}}
"
    )
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn pages(path: &str) -> [String; 2] {
    WEBS.map(|web| page(address(web), path).trim().to_owned())
}

/// A quickstart whose web servers are of an image that is made of its own.
fn fleet(letter: char, subnet: &str) -> Fleet {
    let fleet = Fleet::new(letter, subnet);
    std::fs::write(fleet.folder.join("desk.yaml"), desk(1, "one", "test, -s, /www/made")).unwrap();
    let shop = fleet.folder.join("shop.yaml");
    let text = std::fs::read_to_string(&shop).unwrap();
    let (db, web) = text.split_once("    web:").unwrap();
    let web = web.replacen("image: tiny", "image: desk", 1);
    let web = web.replacen("content: \"hello from the shop\"", &format!("content: \"hello\"{FIRST_BOOT}"), 1);
    std::fs::write(&shop, format!("{db}    web:{web}")).unwrap();
    fleet
}

#[test]
fn an_image_is_made_and_rolled_and_made_again_and_not_when_its_check_fails() {
    if let Err(missing) = super::can_run() {
        println!("SKIPPED: an image made in the fleet ({missing})");
        return;
    }
    let fleet = fleet('m', "10.87.0.");
    let write = |text: String| std::fs::write(fleet.folder.join("desk.yaml"), text).unwrap();

    // Made, then the first clones.
    let plan = fleet.must(&["plan"]);
    println!("{plan}");
    assert!(plan.contains("image/desk"), "{plan}");
    fleet.must(&["apply", "--yes"]);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");
    let guests: Vec<String> = fleet.guests().into_keys().collect();
    assert_eq!(guests, ["shop-db-1", "shop-web-1", "shop-web-2"], "the management instance is gone");
    assert_eq!(pages("/made"), ["one", "one"]);
    let ids = pages("/id");
    assert!(ids.iter().all(|id| id.len() == 32) && ids[0] != ids[1], "{ids:?}");
    for there in pages("/there") {
        assert!(!there.contains("stablehand-management") && !there.contains("ssh_host_rsa_key"), "{there}");
    }
    let images = fleet.must(&["images"]);
    println!("{images}");
    println!("{}", fleet.must(&["describe", "image/desk"]));

    // Another revision: it is made, and those that run are rolled in the same apply. The database is of another image.
    let (db, before) = (fleet.guest_says(DB, "boot_id"), WEBS.map(|web| fleet.guest_says(web, "boot_id")));
    write(desk(2, "two", "test, -s, /www/made"));
    let plan = fleet.must(&["plan"]);
    println!("{plan}");
    fleet.must(&["apply", "--yes"]);
    assert_eq!(pages("/made"), ["two", "two"]);
    let after = WEBS.map(|web| fleet.guest_says(web, "boot_id"));
    assert!(after[0] != before[0] && after[1] != before[1]);
    assert_eq!(fleet.guest_says(DB, "boot_id"), db, "nobody touched the database");
    let new_ids = pages("/id");
    assert!(new_ids[0] != new_ids[1] && !new_ids.iter().any(|id| ids.contains(id)), "{ids:?} {new_ids:?}");
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");

    // One whose check fails is not sealed: nobody is rolled to it, and a revert ends it.
    write(desk(3, "three", "\"false\""));
    let failed = fleet.say(&["apply", "--yes"]);
    println!("{}", String::from_utf8_lossy(&failed.stderr));
    assert!(!failed.status.success(), "a check that fails is no success");
    assert_eq!(WEBS.map(|web| fleet.guest_says(web, "boot_id")), after, "nobody is touched");
    write(desk(2, "two", "test, -s, /www/made"));
    fleet.must(&["apply", "--yes"]);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");
    assert_eq!(fleet.guests().len(), 3);
    assert_eq!(WEBS.map(|web| fleet.guest_says(web, "boot_id")), after, "nobody is touched");
}

#[test]
fn a_member_is_sealed_by_hand_and_is_a_member_again() {
    if let Err(missing) = super::can_run() {
        println!("SKIPPED: a member that is sealed ({missing})");
        return;
    }
    let fleet = fleet('n', "10.88.0.");
    fleet.must(&["apply", "--yes"]);
    let before = ["10.88.0.11", "10.88.0.12"].map(|web| fleet.guest_says(web, "boot_id"));
    // A member becomes the management instance: somebody works in it, and seals it.
    let lab = "apiVersion: stablehand/v1alpha1\nkind: Image\nmetadata: {name: lab}\nspec:\n  format: qcow2\n  from: {vm: shop-web-2}\n  \
               revision: 1\n  configure: manual\n";
    std::fs::write(fleet.folder.join("lab.yaml"), lab).unwrap();
    let promoted = fleet.say(&["apply", "--yes"]);
    println!("promoted: {}", String::from_utf8_lossy(&promoted.stderr));
    let plan = fleet.must(&["plan"]);
    println!("{plan}");
    assert!(plan.contains("stablehand image seal lab"), "{plan}");
    fleet.must(&["image", "seal", "lab"]);
    fleet.must(&["apply", "--yes"]);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");
    let images = fleet.must(&["images"]);
    println!("{images}");
    assert!(images.contains("lab"), "{images}");
    assert_eq!(page(address("10.88.0.12"), "/made"), "one", "it is a member again");
    let there = page(address("10.88.0.12"), "/there");
    assert!(!there.contains("stablehand-management"), "{there}");
    let after = ["10.88.0.11", "10.88.0.12"].map(|web| fleet.guest_says(web, "boot_id"));
    assert!(after[0] == before[0] && after[1] != before[1], "the other one did not notice");
}
