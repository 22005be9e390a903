//! Devices of the host between two guests of a real QEMU. The devices are none (`tests/lab/usb` makes libvirt and QEMU
//! believe in them); hypervisor, libvirt and our steps are real.

use std::path::{Path, PathBuf};
use std::time::Instant;

use stablehand::execute::{Done, StepError};
use stablehand::model::*;
use stablehand::plan::{DomainDevice, DomainSpec, Edit, Op};

use crate::host::{World, name};

/// The program that makes devices of nothing.
pub(crate) fn wrapper() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/usb")
}

/// What is missing for it, in words.
pub(crate) fn missing() -> Option<String> {
    let look = "command -v cc && ldconfig -p | grep -q libusb-1.0.so.0";
    let has = std::process::Command::new("sh").args(["-c", look]).output();
    (!has.is_ok_and(|o| o.status.success())).then(|| "no C compiler, or QEMU has no libusb".to_owned())
}

fn dongle(called: &str, id: Option<(u16, u16)>, place: Option<(u16, u16)>) -> DomainDevice {
    DomainDevice { name: name(called), device: None, at: DeviceAt::Usb { id, place } }
}

fn uuid(vm: &str) -> uuid::Uuid {
    domain_uuid(&name("t"), &name(vm), 1)
}

/// A machine of a processor and 32 MiB, with these devices.
fn machine(world: &World, vm: &str, devices: Vec<DomainDevice>) -> (DomainSpec, Stamp) {
    let stamp = Stamp { vm: name(vm), image: None, image_name: None, nics: Default::default(), ..world.stamp() };
    let spec = DomainSpec {
        vm: name(vm),
        domain: format!("t.{vm}"),
        uuid: uuid(vm),
        cpus: 1,
        max_cpus: 1,
        memory: Bytes::mib(32),
        max_memory: Bytes::mib(32),
        machine: "pc-q35-7.2".to_owned(),
        firmware: Firmware::Bios,
        cpu_model: None,
        acceleration: Acceleration::Tcg,
        display: Display { width: 800, height: 600 },
        kernel: None,
        container: None,
        disks: Vec::new(),
        nics: Vec::new(),
        devices,
        console: world.path(&format!("slots/t.{vm}.console")),
    };
    (spec, stamp)
}

async fn shapes(world: &World, vm: &str) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let seen = world.observe().await.vms.remove(&name(vm)).unwrap();
    let said = |s: &Shape| s.devices.iter().map(|(n, at)| (n.clone(), at.to_string())).collect::<Vec<_>>();
    (seen.live.as_ref().map(said).unwrap_or_default(), said(&seen.config))
}

fn one(called: &str, at: &str) -> Vec<(String, String)> {
    vec![(called.to_owned(), at.to_owned())]
}

/// The stage that is run inside.
pub(crate) async fn run(world: &World) {
    let licence = dongle("licence", Some((0x0529, 1)), None);
    let token = dongle("token", None, Some((1, 5)));
    std::fs::create_dir_all(world.path("slots")).unwrap();
    for (vm, device) in [("a", licence.clone()), ("b", token.clone())] {
        let (domain, stamp) = machine(world, vm, vec![device]);
        world.done(Op::Define { domain, stamp }).await;
        world.done(Op::Start { vm: name(vm), uuid: uuid(vm) }).await;
    }
    let (live, config) = shapes(world, "a").await;
    assert_eq!((live, config), (one("licence", "usb 0529:0001 1-4"), one("licence", "usb 0529:0001")));
    let seen = world.observe().await;
    assert_eq!(seen.vms[&name("a")].config.ports, Ports { usb: true, pci: 1 });

    let attach =
        |vm: &str, device: &DomainDevice| Op::AttachDevice { vm: name(vm), uuid: uuid(vm), device: device.clone() };
    let detach =
        |vm: &str, device: &DomainDevice| Op::DetachDevice { vm: name(vm), uuid: uuid(vm), device: device.clone() };
    // While one has it the other does not get it, under whatever name and by whatever address.
    for twin in [licence.clone(), dongle("mine", None, Some((1, 4)))] {
        let refused = world.step(attach("b", &twin)).await;
        assert!(matches!(&refused, Err(StepError::Stale(text)) if text.contains("t.a has usb")), "{refused:?}");
    }
    for (giver, taker) in [("a", "b"), ("b", "a")] {
        let began = Instant::now();
        world.done(detach(giver, &licence)).await;
        world.done(attach(taker, &licence)).await;
        println!("  {giver} to {taker} in {} ms, looks included", began.elapsed().as_millis());
        assert!(!shapes(world, giver).await.0.iter().any(|(n, _)| n == "licence"));
        let (live, config) = shapes(world, taker).await;
        assert!(live.contains(&one("licence", "usb 0529:0001 1-4")[0]), "{live:?}");
        assert!(config.contains(&one("licence", "usb 0529:0001")[0]), "{config:?}");
    }
    // Somebody takes it out of the running guest only, or out of the definition only: both are mended.
    let (_, stamp) = machine(world, "a", Vec::new());
    let edit = |edits| Op::Edit { vm: name("a"), uuid: uuid("a"), edits, stamp: stamp.clone() };
    world.done(edit(vec![Edit::RemoveDevice(name("licence"))])).await;
    assert_eq!(shapes(world, "a").await, (one("licence", "usb 0529:0001 1-4"), Vec::new()));
    world.done(attach("a", &licence)).await;
    assert_eq!(shapes(world, "a").await.1, one("licence", "usb 0529:0001"));

    // What is not plugged in is said; nothing is left of the try.
    let camera = dongle("camera", Some((0x046d, 0x0825)), None);
    let Err(StepError::Failed { what, .. }) = world.step(attach("a", &camera)).await else { panic!("it is not there") };
    assert!(what.contains("Did not find USB device 046d:0825"), "{what}");
    assert_eq!(shapes(world, "a").await, (one("licence", "usb 0529:0001 1-4"), one("licence", "usb 0529:0001")));
    // So does a start: a VM without its device does not run.
    let off = StopPolicy { deadline: Span::secs(1), power_off: true };
    world.step(Op::Stop { vm: name("a"), uuid: uuid("a"), policy: off }).await.unwrap();
    world.done(edit(vec![Edit::AddDevice(camera)])).await;
    let start = world.step(Op::Start { vm: name("a"), uuid: uuid("a") }).await;
    assert!(matches!(&start, Err(StepError::Failed { what, .. }) if what.contains("046d:0825")), "{start:?}");
    world.done(edit(vec![Edit::RemoveDevice(name("camera"))])).await;

    // What stopped gave it back: the other has it, and the first cannot start beside it.
    world.done(attach("b", &licence)).await;
    let start = world.step(Op::Start { vm: name("a"), uuid: uuid("a") }).await;
    assert!(matches!(&start, Err(StepError::Failed { what, .. }) if what.contains("in use")), "{start:?}");
    assert_eq!(world.step(detach("a", &licence)).await, Ok(Done::Already), "it does not run: it has nothing");
    for vm in ["a", "b"] {
        world.step(Op::Stop { vm: name(vm), uuid: uuid(vm), policy: off }).await.unwrap();
        world.done(Op::Undefine { vm: name(vm), uuid: uuid(vm), drop_save: false }).await;
    }
}
