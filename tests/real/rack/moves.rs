//! Drains and what goes wrong with them.

use std::time::{Duration, Instant};

use super::{Rack, skipped};

#[test]
fn a_host_is_drained_and_restored_while_its_guests_run() {
    if skipped("drain and restore on real hosts") {
        return;
    }
    Rack::with(1, &[], |rack| {
        rack.up();
        let db = rack.place("shop-db-1");
        let before: Vec<String> = rack.vms_on(&db);
        let boots: Vec<String> = before.iter().map(|vm| rack.fact(vm, "boot_id")).collect();

        // Shown first, and nothing done.
        let shown = rack.must(&["drain", &db, "--dry-run"]);
        assert!(shown.contains("live, with its disks"), "{shown}");
        assert_eq!(rack.vms_on(&db), before);

        let began = Instant::now();
        let said = rack.must(&["drain", &db, "--yes"]);
        println!("drained in {:.1} s:\n{said}", began.elapsed().as_secs_f64());
        assert!(said.contains("is empty"), "{said}");
        assert!(rack.vms_on(&db).is_empty());
        for (vm, boot) in before.iter().zip(&boots) {
            assert_eq!(rack.fact(vm, "boot_id"), *boot, "{vm} was not restarted");
            let gap = rack.witness.longest_gap(vm, began);
            println!("{vm}: longest silence {:.1} s", gap.as_secs_f64());
            assert!(gap.as_secs() < 15, "{vm} was silent for {gap:?}");
        }
        rack.settled();

        rack.must(&["restore", &db, "--yes"]);
        let mut back = rack.vms_on(&db);
        back.sort();
        let mut home = before.clone();
        home.sort();
        assert_eq!(back, home, "they are back where they were");
        for (vm, boot) in before.iter().zip(&boots) {
            assert_eq!(rack.fact(vm, "boot_id"), *boot, "{vm} was not restarted");
        }
        rack.settled();
    });
}

#[test]
fn who_cannot_move_is_listed_left_or_stopped_and_comes_back() {
    if skipped("a drain of a host with a VM that cannot move") {
        return;
    }
    Rack::with(4, &[], |rack| {
        rack.edit(
            "shop.yaml",
            "    db:\n      image: tiny\n",
            "    db:\n      image: tiny\n      relocatable: never\n",
        );
        rack.up();
        let home = rack.place("shop-db-1");
        let boot = rack.fact("shop-db-1", "boot_id");

        // Shown first; then left where it is, and it runs on.
        let shown = rack.must(&["drain", &home, "--dry-run"]);
        assert!(shown.contains("relocatable: never"), "it says why it cannot move:\n{shown}");
        let left = rack.say(&["drain", &home, "--yes"]);
        println!("left:\n{}", super::both(&left));
        assert_eq!(left.status.code(), Some(5), "the host is not empty: done in part");
        assert_eq!(rack.vms_on(&home), ["shop-db-1"], "all others moved");
        assert_eq!(rack.fact("shop-db-1", "boot_id"), boot, "it runs on");

        // Stopped at the next word, with its data where it was; and brought back.
        let stopped = super::both(&rack.say(&["drain", &home, "--others", "stop", "--yes"]));
        println!("stopped:\n{stopped}");
        assert!(stopped.contains("it does not run, and stays with its disks"), "{stopped}");
        let running: Vec<String> = rack.running().into_iter().flat_map(|(_, vms)| vms).collect();
        assert!(!running.contains(&"shop-db-1".to_owned()), "{running:?}");
        rack.must(&["restore", &home, "--yes"]);
        assert_eq!(rack.place("shop-db-1"), home, "it did not move");
        rack.settled();
    });
}

/// When a cable is pulled.
#[derive(Clone, Copy, Debug)]
enum Pull {
    /// Seconds after the drain began.
    After(f64),
    /// A second after the first of the memory travelled.
    Memory,
}

#[test]
fn a_cable_pulled_during_a_drain_loses_nothing() {
    // While disks are made, and in the middle of their data.
    pulled(2, &[Pull::After(0.3), Pull::After(2.5)]);
}

/// The guest is emulated here, and was damaged twice before its memory had a size of which QEMU loses nothing.
#[test]
fn a_cable_pulled_while_memory_travels_loses_nothing() {
    pulled(8, &[Pull::Memory]);
}

fn pulled(number: u32, moments: &[Pull]) {
    if skipped("a cable pulled during a drain") {
        return;
    }
    Rack::with(number, &[], |rack| {
        rack.up();
        let db = rack.place("shop-db-1");
        let target = ["h1", "h2", "h3"].into_iter().find(|h| *h != db).unwrap();
        let boot = rack.fact("shop-db-1", "boot_id");
        for &moment in moments {
            // A slow cable, so that there is time to pull it.
            rack.lab(&["slow", &db, "100mbit"]);
            let mut drain = rack.command(&["drain", &db, "--yes"]).spawn().unwrap();
            match moment {
                Pull::After(wait) => std::thread::sleep(Duration::from_secs_f64(wait)),
                Pull::Memory => {
                    rack.memory_travels(&db, "shop-db-1", 60);
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            rack.lab(&["cut", target]);
            std::thread::sleep(Duration::from_secs(3));
            rack.lab(&["heal", target]);
            rack.lab(&["heal", &db]);
            let status = drain.wait().unwrap();
            println!("cut {moment:?}: the drain ended with {status}");
            rack.must(&["drain", &db, "--abort"]);
            // Whatever became of it, applying brings it in order.
            rack.until(&["apply", "--yes"], "no changes", 120);
            assert_eq!(rack.fact("shop-db-1", "boot_id"), boot, "it was never restarted");
            rack.place("shop-db-1");
            rack.must(&["restore", &db, "--yes"]);
            assert_eq!(rack.place("shop-db-1"), db);
        }
        rack.settled();
    });
}
