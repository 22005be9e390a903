//! The figures of observing: 200 hosts of libvirt's test driver with 50 running domains each, and one host with 1,000.
//!
//! `cargo bench --bench hosts` has the domains that a plan would define for 10,000 VMs, with our stamps, and looks at them
//! through [`RealFleet`] as a pass does. Each figure is that of a process of its own. The test driver is part of the process
//! that asks: its work counts here, and would be the hosts' own elsewhere. So processor time is printed too.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "it measures time and prints figures"
)]

mod repository;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use stablehand::host::{RealFleet, xml};
use stablehand::model::{Demand, Desired, DiskStamp, Observed, Snapshot};
use stablehand::observe::{Look, Observer};
use stablehand::plan::{Op, PlanInput, Policy, plan};
use stablehand::sim::World;

/// Hosts, domains of each, whether every domain has a disk file with its stamp on this machine, most seconds for a look.
const SETS: [(usize, usize, bool, f64); 4] =
    [(200, 50, false, 2.0), (200, 50, true, 2.0), (1, 1_000, false, 0.5), (1, 1_000, true, 0.5)];

/// Looks after the first one: the best counts.
const LOOKS: usize = 5;

/// Milliseconds: the first look, which also opens the connections, the best of the later ones, and the processor's for that.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    first: f64,
    later: f64,
    cpu: f64,
    threads: f64,
}

fn main() {
    let mut arguments = std::env::args().skip_while(|a| a != "--child").skip(1);
    if let Some(set) = arguments.next() {
        let (hosts, domains, disks, _) = SETS[set.parse::<usize>().unwrap()];
        let f = measure(hosts, domains, disks);
        println!("{} {} {} {}", f.first, f.later, f.cpu, f.threads);
        return;
    }
    let only = std::env::var("SET").ok().and_then(|s| s.parse::<usize>().ok());
    println!("\nhosts  domains of each  with a disk   first look   later looks   their processor time   most threads");
    let mut found = Vec::new();
    for (number, (hosts, domains, disks, most)) in SETS.iter().enumerate().filter(|(n, _)| only.is_none_or(|o| o == *n))
    {
        let f = child(number);
        let disks = if *disks { "yes" } else { "no" };
        println!(
            "{hosts:5} {domains:16} {disks:>12} {:9.0} ms {:10.0} ms {:19.0} ms {:14.0}",
            f.first, f.later, f.cpu, f.threads
        );
        found.push((format!("{hosts} hosts, disks: {disks}"), f, most));
    }
    println!("\nagainst the target (1.00 = just met):");
    for (what, f, most) in &found {
        for (which, millis) in [("first", f.first), ("later", f.later)] {
            let ratio = millis / 1000.0 / *most;
            println!("  {what:22} {which} look {ratio:5.2}  {}", if ratio <= 1.0 { "ok" } else { "MISSED" });
        }
    }
}

fn child(set: usize) -> Figures {
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me).args(["--child", &set.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
    Figures { first: numbers[0], later: numbers[1], cpu: numbers[2], threads: numbers[3] }
}

fn measure(hosts: usize, domains: usize, disks: bool) -> Figures {
    let folder = tempfile::tempdir().unwrap();
    let desired = fleet(folder.path(), hosts, domains, disks);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let real = RealFleet::new(&desired, folder.path(), "a benchmark");
    let look = || {
        let (start, before) = (Instant::now(), processor_millis());
        let seen = runtime.block_on(real.observe(&desired, Look::default()));
        let took = (start.elapsed().as_secs_f64() * 1000.0, processor_millis() - before);
        check(&seen, hosts, domains, disks);
        took
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count));
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            most
        });
        let (first, _) = look();
        let later = (0..LOOKS).map(|_| look()).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        Figures { first, later: later.0, cpu: later.1, threads: watcher.join().unwrap() as f64 }
    })
}

fn check(seen: &Observed, hosts: usize, domains: usize, disks: bool) {
    assert_eq!(seen.hosts.len(), hosts);
    for (name, host) in &seen.hosts {
        let host = host.known().expect("every host answers");
        assert_eq!((host.vms.len(), host.unmanaged.len()), (domains, 0), "{name}");
        assert!(host.vms.values().all(|vm| vm.live.is_some()), "all of them run");
        assert_eq!(host.disks.len(), if disks { domains } else { 0 }, "{name}");
    }
}

/// Hosts with the domains that a plan defines, each in a file that the test driver reads.
fn fleet(folder: &Path, hosts: usize, domains: usize, disks: bool) -> Desired {
    let desired = load(&repository::snapshot(hosts * domains));
    let mut world = World { unguarded: true, ..World::default() };
    world.add_missing_hosts(&desired);
    let observed = world.see(&desired, Look::default());
    let (demand, now, policy) = (Demand::default(), observed.at, Policy::default());
    let from_empty =
        PlanInput { base: None, desired: &desired, demand: &demand, observed: &observed, source: "live", now, policy };
    let planned = plan(&from_empty);
    let mut defined = planned.actions.iter().flat_map(|a| &a.steps).filter_map(|step| match &step.op {
        Op::Define { domain, stamp } => Some((domain, stamp)),
        _ => None,
    });
    let mut text = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: big}\nspec: {}\n".to_owned();
    for n in 0..hosts {
        let here = folder.join(format!("h{n}"));
        std::fs::create_dir_all(here.join("slots")).unwrap();
        std::fs::create_dir_all(here.join("images")).unwrap();
        let mut node = "<node>\n<cpu><nodes>8</nodes><sockets>2</sockets><cores>8</cores><threads>1</threads><active>128</active></cpu>\
            <memory>1073741824</memory>\n"
            .to_owned();
        for _ in 0..domains {
            let (domain, stamp) = defined.next().expect("a domain for every VM");
            // The driver has a kind of domain of its own.
            node += &xml::domain(domain, stamp, None).replacen("<domain type='qemu'", "<domain type='test'", 1);
            if disks {
                root_disk(&here.join("slots"), stamp);
            }
        }
        node += "</node>\n";
        std::fs::write(here.join("node.xml"), node).unwrap();
        let at = here.display();
        let _ = write!(
            text,
            "---\napiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {{name: h{n}}}\nspec:\n  connection: test://{at}/node.xml\n  \
             slots: {domains}\n  storage: {{slots: {at}/slots, images: {at}/images}}\n"
        );
    }
    load(&Snapshot::of_texts([("fleet.yaml", text.as_str())]))
}

/// A qcow2 file with nothing in it but its header (QEMU, `docs/interop/qcow2.txt`), and its stamp.
fn root_disk(slots: &Path, stamp: &stablehand::model::Stamp) {
    let disk = DiskStamp {
        fleet: stamp.fleet.clone(),
        vm: stamp.vm.clone(),
        disk: "root".to_owned(),
        incarnation: stamp.incarnation,
        ..serde_json::from_str(r#"{"fleet":"f","vm":"v","disk":"root","incarnation":1,"epoch":1,"onRemove":"delete"}"#)
            .unwrap()
    };
    let path = slots.join(format!("{}.{}.{}.root.qcow2", disk.fleet, disk.vm, disk.incarnation));
    let mut header = vec![0u8; 1088];
    header[..4].copy_from_slice(b"QFI\xfb");
    header[4..8].copy_from_slice(&3u32.to_be_bytes());
    header[20..24].copy_from_slice(&16u32.to_be_bytes());
    header[24..32].copy_from_slice(&(10u64 << 30).to_be_bytes());
    header[100..104].copy_from_slice(&104u32.to_be_bytes());
    std::fs::write(&path, header).unwrap();
    std::fs::write(format!("{}.stamp", path.display()), serde_json::to_vec_pretty(&disk).unwrap()).unwrap();
}

fn load(snapshot: &Snapshot) -> Desired {
    stablehand::config::load(snapshot).expect("the repository is valid").desired
}

/// Processor time of this process and of programs that it ran, in milliseconds (proc_pid_stat(5): fields 14 to 17, in
/// hundredths of a second).
fn processor_millis() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() * 10.0
}
