//! The figures of the README: a repository of 10,000 VMs in as many documents of about 540 bytes on 500 hosts, one core.
//!
//! `cargo bench --bench fleet` measures each size in a process of its own (so that its peak memory is its own), prints
//! a table against the targets, and how time grows from 1,000 to 50,000 VMs: the slope of log time over log size.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "it measures time and prints figures"
)]

mod repository;

use std::process::Command;
use std::time::Instant;

use stablehand::model::{Demand, Desired, Observed, Snapshot};
use stablehand::observe::Look;
use stablehand::plan::{Plan, PlanInput, Policy, plan};
use stablehand::sim::World;

/// What is measured of one size: milliseconds, and kibibytes at the peak.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    parse: f64,
    empty: f64,
    nothing: f64,
    peak_kib: f64,
}

/// Most milliseconds for 10,000 VMs, most memory, steepest growth (issue of the core: "Speed").
const TARGETS: Figures = Figures { parse: 600.0, empty: 1000.0, nothing: 300.0, peak_kib: 400.0 * 1024.0 };
const STEEPEST: f64 = 1.2;

const SIZES: [usize; 4] = [1_000, 3_000, 10_000, 50_000];

fn main() {
    let mut arguments = std::env::args().skip_while(|a| a != "--child").skip(1);
    if let Some(vms) = arguments.next() {
        let f = measure(vms.parse().unwrap());
        println!("{} {} {} {}", f.parse, f.empty, f.nothing, f.peak_kib);
        return;
    }
    let all: Vec<(usize, Figures)> = SIZES.iter().map(|vms| (*vms, child(*vms))).collect();
    println!("\n    VMs   parse+validate   plan from empty   plan, nothing to do   peak memory");
    for (vms, f) in &all {
        let mib = f.peak_kib / 1024.0;
        println!("{vms:7} {:13.0} ms {:14.0} ms {:18.0} ms {mib:9.0} MiB", f.parse, f.empty, f.nothing);
    }
    let (_, at) = all.iter().find(|(vms, _)| *vms == 10_000).unwrap();
    println!("\n10,000 VMs, against the target (1.00 = just met):");
    for (what, found, most) in [
        ("parse and validate", at.parse, TARGETS.parse),
        ("plan from empty", at.empty, TARGETS.empty),
        ("plan, nothing to do", at.nothing, TARGETS.nothing),
        ("peak memory", at.peak_kib, TARGETS.peak_kib),
    ] {
        line(what, found / most);
    }
    println!("\ngrowth from 1,000 to 50,000 VMs, exponent (target {STEEPEST}):");
    let (first, last) = (all[0], all[all.len() - 1]);
    for (what, of) in [
        ("parse and validate", (|f: &Figures| f.parse) as fn(&Figures) -> f64),
        ("plan from empty", |f| f.empty),
        ("plan, nothing to do", |f| f.nothing),
    ] {
        let exponent = (of(&last.1) / of(&first.1)).ln() / (last.0 as f64 / first.0 as f64).ln();
        println!("  {what:20} {exponent:5.2}  {}", if exponent <= STEEPEST { "ok" } else { "MISSED" });
    }
}

fn line(what: &str, ratio: f64) {
    println!("  {what:20} {ratio:5.2}  {}", if ratio <= 1.0 { "ok" } else { "MISSED" });
}

fn child(vms: usize) -> Figures {
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me).args(["--child", &vms.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
    Figures { parse: numbers[0], empty: numbers[1], nothing: numbers[2], peak_kib: numbers[3] }
}

fn measure(vms: usize) -> Figures {
    let snapshot = repository::snapshot(vms);
    let (parse, desired) = best(|| load(&snapshot));
    assert_eq!(desired.vms.len(), vms);
    let mut world = World { unguarded: true, ..World::default() };
    world.add_missing_hosts(&desired);
    let observed = world.see(&desired, Look::default());
    let (empty, first) = best(|| planned(&desired, &observed));
    assert_eq!(first.actions.iter().filter(|a| a.is_blocked()).count(), 0, "every VM has its place");
    // The peak of a plan from empty; what follows is the simulator's, not the program's.
    let peak_kib = peak();
    for step in first.actions.iter().flat_map(|a| &a.steps) {
        if let Err(error) = world.change(step) {
            // A guest is not ready at once; nothing here waits for it.
            assert!(error.to_string().contains("probe"), "{error}");
        }
    }
    drop(first);
    let observed = world.see(&desired, Look::default());
    let (nothing, second) = best(|| planned(&desired, &observed));
    assert!(second.is_empty(), "nothing is left to do, but {} actions", second.actions.len());
    Figures { parse, empty, nothing, peak_kib }
}

fn load(snapshot: &Snapshot) -> Desired {
    stablehand::config::load(snapshot).expect("the repository is valid").desired
}

fn planned(desired: &Desired, observed: &Observed) -> Plan {
    let demand = Demand::default();
    let now = observed.at;
    plan(&PlanInput { base: None, desired, demand: &demand, observed, source: "live", now, policy: Policy::default() })
}

/// The best of three, in milliseconds, and the last result.
fn best<T>(run: impl Fn() -> T) -> (f64, T) {
    let timed = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed().as_secs_f64() * 1000.0, result)
    };
    let (mut least, mut last) = timed();
    for _ in 0..2 {
        drop(last);
        let (millis, result) = timed();
        least = least.min(millis);
        last = result;
    }
    (least, last)
}

/// Peak resident memory of this process in KiB (`VmHWM`, proc_pid_status(5)); 0 where there is no /proc.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0.0)
}
