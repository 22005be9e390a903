//! The figures of bringing a disk into its slot: a full copy with its markers replaced against `cp --sparse=always` of the same
//! file, and what a spin from an overlay adds to libvirt's own define and start.
//!
//! `cargo bench --bench slots`, with `SLOTS_FOLDER` for another disk than that of `/var/tmp`. What is copied was just written, so it is read
//! from memory, and both copies are made durable (`sync FILE`): a clone that a power cut takes away is none.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it measures time and prints figures"
)]

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use stablehand::execute::NoProgress;
use stablehand::host::shell::Local;
use stablehand::host::{disk, seed};
use stablehand::model::{Bytes, CloneMethod, DiskStamp, ImageFormat, Name, PlacementRecord};
use stablehand::plan::{DiskFrom, NewDisk, Replacement, Seed, SeedNic};

/// Data of the image, in holes of the same size.
const DATA: u64 = 768 << 20;

/// Rounds: the best of each counts, and the two take turns.
const ROUNDS: usize = 4;

/// Least speed of the copy with markers, in hundredths of that of cp(1).
const LEAST: f64 = 80.0;

/// Most milliseconds that a spin adds.
const MOST: f64 = 50.0;

const MARKER: &str = "@@STABLEHAND-ADDRESS@@";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let above = std::env::var("SLOTS_FOLDER").unwrap_or_else(|_| "/var/tmp".to_owned());
    let folder = tempfile::tempdir_in(above).unwrap();
    let raw = folder.path().join("image.raw");
    image(&raw);
    let qcow2 = folder.path().join("image.qcow2");
    run(&["qemu-img", "convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    println!("\nimage   cp --sparse=always   with markers   speed of cp's (least {LEAST} %)");
    for (image, format, name) in [(&raw, ImageFormat::Raw, "raw"), (&qcow2, ImageFormat::Qcow2, "qcow2")] {
        let (mut cp, mut ours) = (f64::MAX, f64::MAX);
        for round in 0..ROUNDS {
            let to = folder.path().join("copy");
            cp = cp.min(millis(|| {
                run(&["cp", "--sparse=always", image.to_str().unwrap(), to.to_str().unwrap()]);
                run(&["sync", to.to_str().unwrap()]);
            }));
            std::fs::remove_file(&to).unwrap();
            let path = folder.path().join(format!("slots/f.a.{round}.root.raw"));
            let new = marked(image, format, &path);
            ours = ours.min(millis(|| {
                runtime.block_on(disk::make(&Local, &new, &NoProgress)).unwrap();
            }));
            let stamp = runtime.block_on(disk::read_stamp(&Local, &new.path)).unwrap().unwrap();
            assert_eq!(stamp.marked.unwrap().replaced.into_values().collect::<Vec<_>>(), [2]);
            std::fs::remove_file(&path).unwrap();
        }
        let ratio = cp / ours * 100.0;
        println!("{name:6} {cp:15.0} ms {ours:11.0} ms {ratio:12.0} %  {}", verdict(ratio >= LEAST));
    }
    let mut best = f64::MAX;
    for round in 0..10 {
        best = best.min(millis(|| runtime.block_on(spin(folder.path(), &qcow2, round))));
    }
    println!(
        "\na spin from an overlay, without define and start: {best:.0} ms (most {MOST} ms)  {}",
        verdict(best <= MOST)
    );
}

fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "MISSED" }
}

fn millis(f: impl FnOnce()) -> f64 {
    let began = Instant::now();
    f();
    began.elapsed().as_secs_f64() * 1000.0
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}");
}

/// A file of data and holes, with a marker in the middle and one at the end.
fn image(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut block = vec![0u8; 1 << 20];
    let mut state = 1u64;
    for n in 0..DATA >> 20 {
        for eight in block.chunks_mut(8) {
            // xorshift64 (Marsaglia, 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            eight.copy_from_slice(&state.to_le_bytes());
        }
        if n == 300 || n + 1 == DATA >> 20 {
            block[(1 << 20) - MARKER.len()..].copy_from_slice(MARKER.as_bytes());
        }
        file.seek(SeekFrom::Start((2 * n) << 20)).unwrap();
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn stamp(vm: &str, disk: &str) -> DiskStamp {
    let text = format!(r#"{{"fleet":"f","vm":"{vm}","disk":"{disk}","incarnation":1,"epoch":1,"onRemove":"delete"}}"#);
    serde_json::from_str(&text).unwrap()
}

fn marked(image: &Path, format: ImageFormat, path: &Path) -> NewDisk {
    let with = format!("{:<width$}", "10.83.0.10", width = MARKER.len());
    let markers = BTreeMap::from([(name("address"), Replacement { marker: MARKER.to_owned(), with })]);
    let mut stamp = stamp("a", "root");
    stamp.marked = Some(stablehand::model::Marked { values: "1".to_owned(), replaced: BTreeMap::new() });
    let from = DiskFrom::Marked { path: image.to_str().unwrap().to_owned(), format, markers };
    NewDisk { path: path.to_str().unwrap().to_owned(), stamp, from, size: None }
}

/// The steps of a spin before its define: record, overlay, seed.
async fn spin(folder: &Path, image: &Path, round: u32) {
    let vm = name(&format!("vm-{round}"));
    let at = |part: &str| folder.join(part).to_str().unwrap().to_owned();
    let folders = disk::Folders { fleet: name("f"), slots: at("slots"), images: at("") };
    let record: PlacementRecord = serde_json::from_str(r#"{"host":"h","incarnation":1}"#).unwrap();
    disk::record(&Local, &folders, &vm, &record).await.unwrap();
    let (path, method) = (image.to_str().unwrap().to_owned(), CloneMethod::Overlay);
    let from = DiskFrom::Image { path, format: ImageFormat::Qcow2, method };
    let root = NewDisk {
        path: at(&format!("slots/f.{vm}.1.root.qcow2")),
        stamp: stamp(vm.as_str(), "root"),
        from,
        size: Some(Bytes::gib(4)),
    };
    disk::make(&Local, &root, &NoProgress).await.unwrap();
    let nic =
        SeedNic { address: Some("10.83.0.10/24".to_owned()), ..SeedNic::new("02:00:00:00:00:01".parse().unwrap()) };
    let seed = Seed {
        instance: uuid::Uuid::nil(),
        hostname: vm.clone(),
        nics: BTreeMap::from([(name("lan"), nic)]),
        user_data: None,
        ssh_keys: Vec::new(),
    };
    let bytes = seed::image(&seed::files(&seed).unwrap()).unwrap();
    let path = at(&format!("slots/f.{vm}.1.seed.iso"));
    disk::make_seed(&Local, &path, &stamp(vm.as_str(), "seed"), bytes, false).await.unwrap();
}
