//! Hosts that are cut off, lost, back, or another machine.

use super::{Rack, skipped};

const LOST: &str = "apiVersion: stablehand/v1alpha1
kind: HostLost
metadata: {name: rack-fire}
spec:
  host: HOST
  evidence: its power was cut by hand
  reason: a test
";

#[test]
fn a_host_that_is_cut_off_keeps_its_guests_and_a_lost_one_gives_them_to_others() {
    if skipped("hosts cut off and lost") {
        return;
    }
    Rack::with(3, &[], |rack| {
        rack.up();
        // A host that has a replica and no data.
        let db = rack.place("shop-db-1");
        let web = (1..=3).map(|n| format!("shop-web-{n}")).find(|vm| rack.place(vm) != db).unwrap();
        let host = rack.place(&web);

        rack.lab(&["cut", &host]);
        let plan = rack.until(&["plan"], "Unknown", 40);
        assert!(!plan.contains("+   vm/"), "nothing of an Unknown host is started elsewhere:\n{plan}");
        rack.say(&["apply", "--yes"]);
        assert_eq!(rack.place(&web), host, "it runs on, where it is");
        rack.lab(&["heal", &host]);
        rack.until(&["plan"], "no changes", 40);

        // Its power goes. Unknown is not gone: only a document says so.
        rack.lab(&["kill", &host]);
        let plan = rack.until(&["plan"], "Unknown", 40);
        assert!(!plan.contains("+   vm/"), "{plan}");
        rack.write("lost.yaml", &LOST.replace("HOST", &host));
        // A fresh clone as the controller: all that this one remembers is gone.
        std::fs::remove_dir_all(&rack.state).unwrap();
        rack.must(&["apply", "--yes"]);
        let now = rack.place(&web);
        assert_ne!(now, host);

        // It comes back: what runs elsewhere is never started there again.
        rack.lab(&["revive", &host]);
        rack.remove("lost.yaml");
        rack.until(&["apply", "--yes"], "", 1);
        rack.until(&["plan"], "no changes", 60);
        assert_eq!(rack.place(&web), now);
        rack.settled();
    });
}

#[test]
fn another_machine_at_the_address_is_never_used() {
    if skipped("another machine at the address of a host") {
        return;
    }
    Rack::with(4, &[], |rack| {
        for host in ["h1", "h2", "h3"] {
            let uuid = rack.lab(&["shell", host, "virsh", "capabilities"]);
            let uuid = uuid.split("<uuid>").nth(1).and_then(|t| t.split('<').next()).unwrap().to_owned();
            let line = format!("  name: {host}\n");
            let text = std::fs::read_to_string(rack.folder.join("hosts.yaml")).unwrap();
            let at = text.find(&line).unwrap();
            let spec = at + text[at..].find("spec:\n").unwrap() + "spec:\n".len();
            let text = format!("{}  uuid: {uuid}\n{}", &text[..spec], &text[spec..]);
            std::fs::write(rack.folder.join("hosts.yaml"), text).unwrap();
        }
        rack.up();
        let db = rack.place("shop-db-1");
        let host = ["h1", "h2", "h3"].into_iter().find(|h| *h != db).unwrap();
        let there = rack.vms_on(host);
        rack.lab(&["swap", host]);
        let plan = rack.until(&["plan"], "another machine", 60);
        assert!(!plan.contains("+   vm/"), "{plan}");
        rack.say(&["apply", "--yes"]);
        assert!(rack.vms_on(host).is_empty(), "nothing is put on a machine that is not the one");
        rack.lab(&["swap", host]);
        rack.must(&["apply", "--yes"]);
        let mut back = rack.vms_on(host);
        back.sort();
        assert_eq!(
            back,
            {
                let mut t = there;
                t.sort();
                t
            },
            "the first one is back with its VMs"
        );
        rack.settled();
    });
}
