//! Moves between real hosts, step by step: the guest counts on its disk and to the network, and must never count backwards,
//! boot again, or run twice.

mod confirm;
mod lab;
mod reach;

use std::process::Command;
use std::time::{Duration, Instant};

use stablehand::execute::{Done, StepError};
use stablehand::model::*;
use stablehand::plan::Op;

use crate::host::name;
use lab::{Guest, Lab, Told};

/// Clear text, which the laboratory's own network is declared for.
const CLEAR: &str = "{transport: clear, network: NET.0/24}";

fn run<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(f)
}

macro_rules! or_skip {
    ($what:literal) => {
        if let Some(missing) = lab::missing() {
            println!("SKIPPED: {} ({missing})", $what);
            return;
        }
    };
}

fn figures(what: &str, told: &Told) {
    for past in told.moves.lock().unwrap().iter() {
        println!("{what}: {} ms, pause {:?} ms, {}", past.millis, past.pause_millis, past.bytes);
    }
}

#[test]
fn a_guest_moves_with_its_disks_and_back() {
    or_skip!("a live move with disks");
    let lab = Lab::up("shmva", 101, &[], CLEAR);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", "none").await;
        guest.fetch_from("h2", "h1").await;
        let before = guest.counts();
        for (moves, from, to) in [(1, "h1", "h2"), (2, "h2", "h1")] {
            let told = Told::default();
            guest.prepare(from, to, moves).await;
            let how = guest.how(to, Transport::Clear, true);
            assert_eq!(guest.migrate(from, to, &how, &told).await, Ok(Done::Changed));
            figures("live with disks, clear", &told);
            assert_eq!(guest.migrate(from, to, &how, &told).await, Ok(Done::Already));
            let past = told.moves.lock().unwrap()[0].clone();
            assert!(past.pause_millis.is_some_and(|p| p > 0 && p < 5000) && past.bytes > Bytes::mib(10), "{past:?}");
            guest.finish(from, to, moves).await;
            guest.is_at(to).await;
            guest.goes_on(&before);
            let seen = lab.seen(to, &guest.vm).await.unwrap();
            assert!(!seen.transient && seen.job.is_none() && seen.cpu_model.as_deref() == Some("qemu64"));
            assert_eq!(seen.live.map(|l| l.disks), Some(seen.config.disks), "what runs is what is defined");
        }
    });
}

/// Bytes a second at which a move takes long enough to be disturbed: 20 MB of disk, then 80 MB of memory.
const SLOW: Bytes = Bytes::mib(6);

/// Where in a move something happens to it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Storage,
    Memory,
    HandOver,
}

/// Waits until the move is there; `false` when it is over.
async fn wait_for(guest: &Guest<'_>, from: &str, phase: Phase, told: &Told) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let (_, total) = *told.far.lock().unwrap();
        let there = match phase {
            Phase::Storage => total > 0,
            Phase::Memory => total > Bytes::mib(96).0,
            Phase::HandOver => return guest.lab.waits_for_pause(from, &format!("t.{}", guest.vm)).await,
        };
        if there {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// The longest time for which the guest did not answer, in milliseconds, until `over`.
async fn silence(guest: &Guest<'_>, over: &std::sync::atomic::AtomicBool) -> u128 {
    let (mut longest, mut last) = (0, Instant::now());
    while !over.load(std::sync::atomic::Ordering::SeqCst) {
        if tokio::task::block_in_place(|| guest.count()).is_some() {
            longest = longest.max(last.elapsed().as_millis());
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    longest.max(last.elapsed().as_millis())
}

#[test]
#[ignore = "eight minutes; `rack` pulls cables in every run: cargo test --test real -- --ignored --nocapture a_cable_cut"]
fn a_cable_cut_at_any_moment_leaves_the_guest_at_one_place() {
    or_skip!("cables cut during moves");
    let lab = Lab::up("shmvc", 102, &[], CLEAR);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", "none").await;
        guest.fetch("h2").await;
        let before = guest.counts();

        // Before it begins: nothing is begun.
        guest.prepare("h1", "h2", 1).await;
        lab.must(&["cut", "h2"]);
        let how = guest.how("h2", Transport::Clear, true);
        let result = guest.migrate("h1", "h2", &how, &Told::default()).await;
        assert!(result.as_ref().is_err_and(StepError::retry), "{result:?}");
        guest.goes_on(&before);
        lab.must(&["heal", "h2"]);

        let (mut from, mut to, mut moves) = ("h1", "h2", 1);
        for (phase, cut) in [
            (Phase::Storage, "target"),
            (Phase::Memory, "target"),
            (Phase::HandOver, "target"),
            (Phase::Storage, "source"),
            (Phase::Memory, "source"),
        ] {
            let began = Instant::now();
            moves += 1;
            guest.prepare(from, to, moves).await;
            let how = stablehand::plan::MigrateHow { bandwidth: Some(SLOW), ..guest.how(to, Transport::Clear, true) };
            let told = Told::default();
            let cut_host = if cut == "target" { to } else { from };
            let over = std::sync::atomic::AtomicBool::new(false);
            let scissors = async {
                let there = wait_for(&guest, from, phase, &told).await;
                lab.must(&["cut", cut_host]);
                if cut == "source" {
                    // Nobody but the host itself can help its guest now.
                    tokio::time::sleep(Duration::from_secs(45)).await;
                    lab.must(&["heal", cut_host]);
                }
                there
            };
            let moving = async {
                let result = guest.migrate(from, to, &how, &told).await;
                over.store(true, std::sync::atomic::Ordering::SeqCst);
                result
            };
            let (result, there, silent) = tokio::join!(moving, scissors, silence(&guest, &over));
            println!("cut of the {cut} in {phase:?} (reached: {there}): {result:?}, silent for {silent} ms");
            lab.must(&["heal", cut_host]);
            lab.is_whole().await;
            // It runs at one place, and another try is a move like any other.
            let moved = lab.seen(to, &guest.vm).await.is_some_and(|v| v.power == Power::Running);
            assert!(moved || result.is_err());
            if moved {
                let again = guest.migrate(from, to, &how, &Told::default()).await;
                assert_eq!(again, Ok(Done::Already));
            } else {
                guest.is_at(from).await;
                guest.goes_on(&before);
                guest.prepare(from, to, moves).await;
                let again = guest.migrate(from, to, &guest.how(to, Transport::Clear, true), &Told::default()).await;
                assert!(again.is_ok(), "{again:?}");
            }
            guest.finish(from, to, moves).await;
            guest.is_at(to).await;
            guest.goes_on(&before);
            println!("cut of the {cut} in {phase:?}: all over after {} ms", began.elapsed().as_millis());
            (from, to) = (to, from);
        }
    });
}

#[test]
fn what_travels_in_tls_is_seen_by_nobody() {
    or_skip!("wiretapping of moves");
    if Command::new("tcpdump").arg("--version").output().is_err() {
        println!("SKIPPED: wiretapping of moves (`tcpdump` is not installed)");
        return;
    }
    const MARKER: &str = "only-the-two-of-us-know-this-5d1f";
    let tls = "{transport: tls, uri: \"qemu+tls://HOST/system?pkipath=/etc/libvirt/pki\"}";
    let lab = Lab::up("shmvt", 103, &["--tls"], tls);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", MARKER).await;
        guest.fetch("h2").await;
        let before = guest.counts();
        for (moves, from, to, transport) in [(1, "h1", "h2", Transport::Tls), (2, "h2", "h1", Transport::Clear)] {
            guest.prepare(from, to, moves).await;
            let tap = lab.tap();
            let told = Told::default();
            let result = guest.migrate(from, to, &guest.how(to, transport, true), &told).await;
            assert_eq!(result, Ok(Done::Changed));
            let (heard, bytes) = tap.heard(MARKER);
            figures(&format!("live with disks, {}", transport.word()), &told);
            println!("{}: {heard} times the marker in {bytes} bytes on the cable", transport.word());
            assert!(bytes > 40 << 20, "all of it came by: {bytes}");
            assert_eq!(heard > 0, transport == Transport::Clear);
            guest.finish(from, to, moves).await;
            guest.goes_on(&before);
        }
    });
}

#[test]
fn shared_storage_is_looked_at_and_stays_where_it_is() {
    or_skip!("a live move with shared storage");
    let lab = Lab::up("shmvs", 104, &["--shared"], CLEAR);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", "none").await;
        let before = guest.counts();
        for (moves, from, to) in [(1, "h1", "h2"), (2, "h2", "h1")] {
            let vm = guest.vm.clone();
            lab.done(to, Op::Record { vm: vm.clone(), record: guest.record(to, Some(from), moves) }).await;
            let told = Told::default();
            let result = guest.migrate(from, to, &guest.how(to, Transport::Clear, false), &told).await;
            assert_eq!(result, Ok(Done::Changed));
            figures("live, shared storage", &told);
            guest.ready(to).await;
            lab.done(to, Op::Record { vm, record: guest.record(to, None, moves) }).await;
            guest.is_at(to).await;
            guest.goes_on(&before);
        }
    });
}

#[test]
fn what_is_not_shared_is_not_believed_to_be() {
    or_skip!("a live move of storage that is not shared");
    let lab = Lab::up("shmvn", 105, &[], CLEAR);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", "none").await;
        guest.fetch("h2").await;
        let before = guest.counts();
        let said = guest.migrate("h1", "h2", &guest.how("h2", Transport::Clear, false), &Told::default()).await;
        assert!(
            matches!(&said, Err(StepError::Failed { what, .. }) if what.contains("not the same folder")),
            "{said:?}"
        );
        let said = guest.migrate("h1", "h2", &guest.how("h2", Transport::Clear, true), &Told::default()).await;
        assert!(matches!(&said, Err(StepError::Stale(what)) if what.contains("not there")), "{said:?}");
        guest.prepare("h1", "h2", 1).await;
        for (transport, word) in [(Transport::Tls, "credentials"), (Transport::Tunnel, "no tunnel")] {
            let said = guest.migrate("h1", "h2", &guest.how("h2", transport, true), &Told::default()).await;
            assert!(
                matches!(&said, Err(StepError::Failed { what, hint: Some(_), .. }) if what.contains(word)),
                "{said:?}"
            );
        }
        guest.is_at("h1").await;
        guest.goes_on(&before);

        // Saved memory goes with the disks, and the guest goes on as if nothing had been.
        let (vm, uuid) = (guest.vm.clone(), guest.uuid());
        lab.done("h1", Op::Suspend { vm: vm.clone(), uuid }).await;
        guest.copy_over("h1", "h2", 2, true).await;
        assert_eq!(lab.seen("h2", &vm).await.map(|v| v.power), Some(Power::Suspended));
        assert_eq!(lab.seen("h1", &vm).await, None);
        lab.done("h2", Op::Start { vm: vm.clone(), uuid }).await;
        guest.goes_on(&before);

        // Stopped, copied, started: another boot, with all that was counted.
        let count = guest.counts();
        let policy = StopPolicy { deadline: Span::secs(40), power_off: false };
        lab.done("h2", Op::Stop { vm: vm.clone(), uuid, policy }).await;
        guest.copy_over("h2", "h1", 3, false).await;
        lab.done("h1", Op::Start { vm: vm.clone(), uuid }).await;
        guest.ready("h1").await;
        let after = guest.counts();
        assert!(after.boot != count.boot && after.lines >= count.lines, "{count:?}, {after:?}");
        guest.is_at("h1").await;
    });
}

#[test]
fn a_move_is_given_up_taken_over_and_survives_what_is_killed() {
    or_skip!("moves given up and killed");
    let lab = Lab::up("shmvk", 106, &[], CLEAR);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", "none").await;
        guest.fetch("h2").await;
        let mut before = guest.counts();
        let slow = stablehand::plan::MigrateHow { bandwidth: Some(SLOW), ..guest.how("h2", Transport::Clear, true) };
        let abort = Op::AbortJob { vm: guest.vm.clone(), uuid: guest.uuid(), to: name("h2") };
        let mut moves = 0;
        for what in [
            "abort in the storage",
            "abort in the memory",
            "too slow",
            "libvirtd at the target",
            "libvirtd at the source",
            "QEMU at the target",
        ] {
            let began = Instant::now();
            moves += 1;
            guest.prepare("h1", "h2", moves).await;
            let told = Told::default();
            let phase = if what.contains("storage") { Phase::Storage } else { Phase::Memory };
            let how = match what {
                "too slow" => stablehand::plan::MigrateHow { time_limit: Span::secs(4), ..slow.clone() },
                _ => slow.clone(),
            };
            let disturb = async {
                if what == "too slow" {
                    return;
                }
                assert!(wait_for(&guest, "h1", phase, &told).await, "the {phase:?} phase came");
                match what {
                    "libvirtd at the target" => lab.must(&["restart-libvirtd", "h2"]),
                    "libvirtd at the source" => lab.must(&["restart-libvirtd", "h1"]),
                    "QEMU at the target" => {
                        let pids = lab.emulators("h2", "a");
                        let words: Vec<&str> =
                            ["kill", "-9"].into_iter().chain(pids.iter().map(String::as_str)).collect();
                        lab.says("h2", &words);
                    }
                    _ => {
                        let given_up = lab.step("h1", abort.clone()).await;
                        assert_eq!(given_up, Ok(Done::Changed));
                    }
                }
            };
            let (result, ()) = tokio::join!(guest.migrate("h1", "h2", &how, &told), disturb);
            println!("{what}: {result:?} after {} ms", began.elapsed().as_millis());
            assert!(result.as_ref().is_err_and(|e| e.retry() != (what == "too slow")), "{result:?}");
            lab.is_whole().await;
            guest.is_at("h1").await;
            guest.goes_on(&before);
        }
        assert_eq!(lab.step("h1", abort.clone()).await, Ok(Done::Already));

        // Nobody waits for it any more: it goes on, and who comes next waits for it.
        guest.prepare("h1", "h2", 9).await;
        let told = Told::default();
        tokio::select! {
            result = guest.migrate("h1", "h2", &slow, &told) => panic!("{result:?}"),
            there = wait_for(&guest, "h1", Phase::Memory, &told) => assert!(there),
        }
        let seen = lab.seen("h1", &guest.vm).await.unwrap();
        assert_eq!(seen.job.map(|j| j.kind), Some(JobKind::MigrationOut));
        let seen = lab.seen("h2", &guest.vm).await.unwrap();
        assert_eq!((seen.power, seen.pause, seen.transient), (Power::Paused, Some(PauseCause::Migration), true));
        assert_eq!(seen.job.map(|j| j.kind), Some(JobKind::MigrationIn));
        let told = Told::default();
        assert_eq!(guest.migrate("h1", "h2", &slow, &told).await, Ok(Done::Changed));
        figures("taken over", &told);
        guest.finish("h1", "h2", 9).await;
        guest.goes_on(&before);

        // The guest dies with its QEMU; the move does not make it two, and its disks are where it was.
        guest.prepare("h2", "h1", 10).await;
        let told = Told::default();
        let kill = async {
            assert!(wait_for(&guest, "h2", Phase::Memory, &told).await);
            let pids = lab.emulators("h2", "a");
            let words: Vec<&str> = ["kill", "-9"].into_iter().chain(pids.iter().map(String::as_str)).collect();
            lab.says("h2", &words);
        };
        let how = stablehand::plan::MigrateHow { uri: guest.how("h1", Transport::Clear, true).uri, ..slow.clone() };
        let (result, ()) = tokio::join!(guest.migrate("h2", "h1", &how, &told), kill);
        println!("QEMU at the source: {result:?}");
        assert!(result.is_err());
        assert!(lab.emulators("h1", "a").is_empty());
        lab.done("h2", Op::Start { vm: guest.vm.clone(), uuid: guest.uuid() }).await;
        guest.ready("h2").await;
        guest.is_at("h2").await;
        let after = guest.counts();
        assert!(after.boot != before.boot && after.lines + 3 >= before.lines, "{before:?}, {after:?}");
        before = after;
        guest.goes_on(&before);
    });
}

#[test]
fn memory_and_disks_go_through_ssh() {
    or_skip!("a live move through ssh");
    if !std::path::Path::new("/usr/sbin/sshd").exists() {
        println!("SKIPPED: a live move through ssh (`sshd` is not installed)");
        return;
    }
    const MARKER: &str = "through-the-tunnel-alone-77aa";
    let lab = Lab::up("shmvh", 107, &[], CLEAR);
    let sshd = reach::Sshd::start(&lab, "h2", 12);
    run(async {
        let guest = Guest::new(&lab, "a");
        guest.make("h1", MARKER).await;
        guest.fetch("h2").await;
        let before = guest.counts();
        guest.prepare("h1", "h2", 1).await;
        let uri =
            format!("qemu+ssh://root@{}:2222/system?keyfile={}", sshd.address, sshd.folder.join("user").display());
        let how = stablehand::plan::MigrateHow { uri, ..guest.how("h2", Transport::Tunnel, true) };
        let (tap, told) = (lab.tap(), Told::default());
        assert_eq!(guest.migrate("h1", "h2", &how, &told).await, Ok(Done::Changed));
        let (heard, bytes) = tap.heard(MARKER);
        figures("live with disks, tunnel", &told);
        println!("tunnel: {heard} times the marker in {bytes} bytes on the cable");
        assert!(bytes > 40 << 20 && heard == 0, "{heard} times in {bytes}");
        guest.finish("h1", "h2", 1).await;
        guest.is_at("h2").await;
        guest.goes_on(&before);
        for host in ["h1", "h2"] {
            assert_eq!(lab.says(host, &["sh", "-c", "ls -d /run/stablehand-*"]), "", "nothing stays at {host}");
        }
    });
}
