//! Moves between real hosts, step by step: the guest counts on its disk and to the network, and must never count backwards,
//! boot again, or run twice.

mod lab;
mod reach;

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
