//! The simulator itself: it keeps what `plan::steps` says, and notes what it must.

use std::collections::BTreeMap;

use stablehand::execute::{Actuator, Done, NoProgress, StepError};
use stablehand::model::{
    Acceleration, Bytes, CloneMethod, Digest, DiskStamp, Display, Firmware, ImageFile, ImageFormat, Name, OnRemove,
    PlacementRecord, Power, Protection, Source, Span, Stamp, StopPolicy, Timestamp, domain_name, domain_uuid,
};
use stablehand::plan::{DiskFrom, DomainDisk, DomainSpec, Edit, NewDisk, Op, Step};
use stablehand::sim::{Count, Event, Fault, FaultKind, Guest, HostSize, SimFleet, World};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn on(host: &str, op: Op) -> Step {
    Step { host: name(host), op }
}

pub fn world(hosts: &[&str]) -> World {
    let mut world = World::default();
    for host in hosts {
        world.add_host(&name(host), HostSize::default());
    }
    world
}

pub fn stamp(vm: &str) -> Stamp {
    Stamp {
        fleet: name("f"),
        vm: name(vm),
        incarnation: 1,
        protect: Protection::None,
        spec: "spec".to_owned(),
        image: None,
        image_name: None,
        rolled: None,
        management: None,
        seed: String::new(),
        nics: BTreeMap::new(),
        group: "g".into(),
        ready: None,
        guard: None,
        quarantine: None,
        stop: StopPolicy { deadline: Span::secs(20), power_off: false },
        persistent_root: false,
        root: None,
        after: Vec::new(),
        adopted: None,
        tasks: BTreeMap::new(),
        leased: None,
    }
}

pub fn disk_stamp(vm: &str, disk: &str) -> DiskStamp {
    let (fleet, vm, disk) = (name("f"), name(vm), disk.to_owned());
    DiskStamp {
        fleet,
        vm,
        disk,
        incarnation: 1,
        epoch: 1,
        expires: None,
        on_remove: OnRemove::Delete,
        made_from: None,
        phase: Default::default(),
        marked: None,
    }
}

pub fn digest() -> Digest {
    Digest::new(&format!("sha256:{}", "ab".repeat(32))).unwrap()
}

pub fn root_path(vm: &str) -> String {
    format!("/slots/f.{vm}.1.root.qcow2")
}

/// The steps of a small spin, as a plan would have them.
pub fn spin(host: &str, vm: &str) -> Vec<Step> {
    let uuid = domain_uuid(&name("f"), &name(vm), 1);
    let file = ImageFile::new(Source::Path("a.qcow2".into()), digest());
    let image = "/images/a.qcow2".to_owned();
    let root = NewDisk {
        path: root_path(vm),
        stamp: disk_stamp(vm, "root"),
        from: DiskFrom::Image { path: image.clone(), format: ImageFormat::Qcow2, method: CloneMethod::Overlay },
        size: None,
    };
    let domain = DomainSpec {
        vm: name(vm),
        domain: domain_name(&name("f"), &name(vm)),
        uuid,
        cpus: 1,
        max_cpus: 2,
        memory: Bytes::gib(1),
        max_memory: Bytes::gib(2),
        machine: "pc-q35-7.2".to_owned(),
        firmware: Firmware::Bios,
        cpu_model: None,
        acceleration: Acceleration::Auto,
        display: Display { width: 800, height: 600 },
        kernel: None,
        disks: vec![DomainDisk {
            name: "root".to_owned(),
            path: root_path(vm),
            target: "vda".to_owned(),
            format: ImageFormat::Qcow2,
            readonly: false,
        }],
        nics: Vec::new(),
        devices: Vec::new(),
        container: None,
        console: String::new(),
    };
    let record = PlacementRecord::new(name(host), 1);
    vec![
        on(host, Op::PutImage { file, path: image, note: None }),
        on(host, Op::Record { vm: name(vm), record }),
        on(host, Op::MakeDisk(root)),
        on(host, Op::Define { domain, stamp: stamp(vm) }),
        on(host, Op::Start { vm: name(vm), uuid }),
        on(host, Op::AwaitReady { vm: name(vm), uuid, probe: None, address: None }),
    ]
}

pub fn all(world: &mut World, steps: &[Step]) {
    for step in steps {
        world.change(step).unwrap();
    }
}

#[test]
fn every_step_of_a_spin_is_done_when_it_is_repeated() {
    let mut world = world(&["h1"]);
    let steps = spin("h1", "web-1");
    all(&mut world, &steps);
    let before = world.hosts.clone();
    for step in &steps {
        assert_eq!(world.change(step), Ok(Done::Already), "{}", World::step_name(step));
    }
    assert_eq!(world.hosts, before);
    assert_eq!(world.violations, [] as [&str; 0]);
    assert_eq!(world.running(&name("f"), &name("web-1")), [&name("h1")]);
}

#[test]
fn a_vm_in_two_places_is_noted() {
    let mut world = world(&["h1", "h2"]);
    all(&mut world, &spin("h1", "web-1"));
    all(&mut world, &spin("h2", "web-1"));
    assert_eq!(
        world.violations,
        [
            "Start of web-1 on h2: root of web-1 goes back: its newest state is elsewhere",
            "Start of web-1 on h2: web-1 runs twice: on h1 and on h2", // and while it lasts
            "AwaitReady of web-1 on h2: web-1 runs twice: on h1 and on h2"
        ]
    );
}

#[test]
fn nothing_is_created_over_a_disk_and_nothing_that_is_in_use_is_deleted() {
    let mut world = world(&["h1"]);
    all(&mut world, &spin("h1", "web-1"));
    let other = NewDisk {
        path: root_path("web-1"),
        stamp: disk_stamp("web-2", "root"),
        from: DiskFrom::Blank,
        size: Some(Bytes::gib(1)),
    };
    assert!(matches!(world.change(&on("h1", Op::MakeDisk(other))), Err(StepError::Stale(_))));
    assert_eq!(world.violations.len(), 1);
    let delete = Op::DeleteDisk { path: root_path("web-1"), vm: name("web-1") };
    assert!(matches!(world.change(&on("h1", delete)), Err(StepError::Failed { .. })));
    let drop = Op::DropImage { digest: digest(), path: "/images/a.qcow2".to_owned() };
    assert!(matches!(world.change(&on("h1", drop)), Err(StepError::Stale(_))), "an image under a disk stays");
}

#[test]
fn a_domain_of_somebody_else_is_not_touched() {
    let mut world = world(&["h1"]);
    world.happen(&Event::Foreign("old".to_owned(), name("h1"), Bytes::gib(1))).unwrap();
    let (uuid, before) = world.hosts["h1"].domains.first_key_value().map(|(u, d)| (*u, d.clone())).unwrap();
    let policy = StopPolicy { deadline: Span::secs(1), power_off: true };
    let stop = on("h1", Op::Stop { vm: name("old"), uuid, policy });
    assert!(world.change(&stop).is_err());
    assert_eq!(world.hosts["h1"].domains[&uuid], before);
    assert_eq!(world.violations, ["Stop of old on h1: a domain that is not ours is touched"]);
}

#[test]
fn staged_edits_wait_for_a_stop_and_a_start() {
    let mut world = world(&["h1"]);
    all(&mut world, &spin("h1", "web-1"));
    let uuid = domain_uuid(&name("f"), &name("web-1"), 1);
    let edits = vec![Edit::Memory { memory: Bytes::gib(4), max: Bytes::gib(4) }];
    let vm = name("web-1");
    world.change(&on("h1", Op::Edit { vm: vm.clone(), uuid, edits, stamp: stamp("web-1") })).unwrap();
    let live = |w: &World| w.hosts["h1"].domains[&uuid].live.as_ref().map(|l| l.memory);
    assert_eq!(live(&world), Some(Bytes::gib(1)));
    // A managed save brings back what ran, not what was written since.
    world.change(&on("h1", Op::Suspend { vm: vm.clone(), uuid })).unwrap();
    assert_eq!(world.hosts["h1"].domains[&uuid].power, Power::Suspended);
    world.change(&on("h1", Op::Start { vm: vm.clone(), uuid })).unwrap();
    assert_eq!(live(&world), Some(Bytes::gib(1)));
    let policy = StopPolicy { deadline: Span::secs(20), power_off: false };
    world.change(&on("h1", Op::Stop { vm: vm.clone(), uuid, policy })).unwrap();
    world.change(&on("h1", Op::Start { vm, uuid })).unwrap();
    assert_eq!(live(&world), Some(Bytes::gib(4)));
}

#[test]
fn a_guest_that_ignores_shutdown_is_powered_off_only_where_allowed() {
    let mut world = world(&["h1"]);
    world.guests.insert(name("web-1"), Guest { shutdown_millis: None, ..Guest::default() });
    all(&mut world, &spin("h1", "web-1"));
    let uuid = domain_uuid(&name("f"), &name("web-1"), 1);
    let stop = |power_off| {
        let policy = StopPolicy { deadline: Span::secs(20), power_off };
        on("h1", Op::Stop { vm: name("web-1"), uuid, policy })
    };
    assert!(matches!(world.change(&stop(false)), Err(StepError::Failed { .. })));
    assert_eq!(world.change(&stop(true)), Ok(Done::Changed));
}

#[tokio::test]
async fn steps_that_run_at_once_take_the_time_of_the_longest() {
    let fleet = SimFleet::new(world(&["h1", "h2"]));
    let fetch = |host: &str| spin(host, "x").remove(0);
    let (one, two) = (fetch("h1"), fetch("h2"));
    let (a, b) = tokio::join!(fleet.perform(&one, &NoProgress), fleet.perform(&two, &NoProgress));
    assert_eq!((a, b), (Ok(Done::Changed), Ok(Done::Changed)));
    assert_eq!(fleet.world().millis, 4_000);
}

#[tokio::test]
async fn faults_change_what_they_say_and_answer_what_they_say() {
    let fleet = SimFleet::new(world(&["h1"]));
    let record = spin("h1", "web-1").remove(1);
    let there = |f: &SimFleet| f.world().hosts["h1"].records.contains_key("web-1");
    for (kind, changes) in [(FaultKind::Fail, false), (FaultKind::Hang, false), (FaultKind::HalfUnknown, true)] {
        let fault = Fault { kind, op: "Record".to_owned(), subject: None, host: None, count: Count::Times(1) };
        fleet.with(|w| w.faults.push(fault));
        let outcome = fleet.perform(&record, &NoProgress).await;
        assert_eq!(matches!(outcome, Err(StepError::Failed { .. })), kind == FaultKind::Fail);
        assert_eq!(there(&fleet), changes, "{kind:?}");
    }
    assert_eq!(fleet.perform(&record, &NoProgress).await, Ok(Done::Already), "the faults are used up");
}

#[tokio::test]
async fn after_our_end_nothing_changes() {
    let fleet = SimFleet::new(world(&["h1"]));
    fleet.crash_after(2);
    let steps = spin("h1", "web-1");
    let mut outcomes = Vec::new();
    for step in &steps {
        outcomes.push(fleet.perform(step, &NoProgress).await.is_ok());
    }
    assert_eq!(outcomes, [true, false, false, false, false, false]);
    assert!(fleet.crashed() && fleet.world().hosts["h1"].records.contains_key("web-1"));
    assert!(fleet.world().hosts["h1"].disks.is_empty());
}

#[test]
fn a_host_without_power_does_not_answer_and_its_guests_are_off() {
    let mut world = world(&["h1"]);
    all(&mut world, &spin("h1", "web-1"));
    world.happen(&Event::Kill(name("h1"))).unwrap();
    assert!(matches!(world.change(&spin("h1", "web-1")[4]), Err(StepError::Unknown(_))));
    assert!(world.running(&name("f"), &name("web-1")).is_empty());
    world.happen(&Event::Revive(name("h1"))).unwrap();
    assert_eq!(world.change(&spin("h1", "web-1")[4]), Ok(Done::Changed));
    assert_eq!(world.now(), Timestamp(1_800_000_000));
}
