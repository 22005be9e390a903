//! The figures of the README: a repository of 10,000 VMs in as many documents of about 540 bytes on 500 hosts, one core.
//!
//! `cargo bench --bench fleet` prints milliseconds, best of five, and how time grows from 1,000 to 50,000 VMs.

mod repository;

use std::time::Instant;

fn main() {
    let mut times = Vec::new();
    for vms in [1_000, 10_000, 50_000] {
        let snapshot = repository::snapshot(vms);
        let bytes: usize = snapshot.files.iter().map(|f| f.text.len()).sum();
        let best = (0..5)
            .map(|_| {
                let start = Instant::now();
                let loaded = stablehand::config::load(&snapshot).expect("the repository is valid");
                assert_eq!(loaded.desired.vms.len(), vms);
                start.elapsed()
            })
            .min()
            .unwrap_or_default();
        println!("parse and validate {vms} VMs ({} bytes a document): {} ms", bytes / vms, best.as_millis());
        times.push((vms, best));
    }
    let (first, last) = (times[0], times[2]);
    let exponent = (last.1.as_secs_f64() / first.1.as_secs_f64()).ln() / (last.0 as f64 / first.0 as f64).ln();
    println!("growth of parsing from {} to {} VMs: exponent {exponent:.2}", first.0, last.0);
}
