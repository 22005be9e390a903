//! A host that joins when everything else runs: it has no image, no bridge of ours, no filter.

use super::{Rack, skipped};

#[test]
fn a_host_that_joins_late_and_has_no_image_takes_its_part() {
    if skipped("a host that joins late") {
        return;
    }
    Rack::with(17, &[], |rack| {
        let all = std::fs::read_to_string(rack.folder.join("hosts.yaml")).unwrap();
        let at = all.rfind("---\n").unwrap();
        rack.write("hosts.yaml", &all[..at]);
        rack.up();
        assert!(rack.vms_on("h3").is_empty());
        let images = || rack.console("h3", &["ls", "/var/lib/stablehand/images"]);
        assert!(images().trim().is_empty(), "{}", images());
        let boot = rack.fact("shop-db-1", "boot_id");

        // It joins: one VM more is made on it, and one that runs elsewhere comes to it with its disks.
        rack.write("hosts.yaml", &all);
        rack.edit("shop.yaml", "replicas: {min: 3}", "replicas: {min: 4}");
        rack.edit("shop.yaml", "spread: {minHosts: 2}", "spread: {minHosts: 3}");
        rack.edit(
            "shop.yaml",
            "    db:\n      image: tiny\n",
            "    db:\n      image: tiny\n      placement: {host: h3}\n",
        );
        let plan = rack.must(&["plan"]);
        assert!(plan.contains("image/tiny@h3#fetch"), "the plan says that it gets the image first:\n{plan}");
        println!("{}", rack.must(&["apply", "--yes"]));
        assert_eq!(rack.place("shop-db-1"), "h3");
        assert_eq!(rack.fact("shop-db-1", "boot_id"), boot, "it was not restarted");
        assert!(rack.vms_on("h3").iter().any(|vm| vm.starts_with("shop-web")), "{:?}", rack.running());
        assert!(images().contains("tiny") || images().lines().count() >= 3, "{}", images());
        rack.settled();
    });
}
