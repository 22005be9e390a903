//! Moves between hosts in the simulator, driven by hand in the order in which a plan has their steps.

use stablehand::execute::{Actuator, Done, NoProgress, StepError};
use stablehand::model::{
    Bytes, DiskPhase, DiskStamp, Name, PauseCause, PlacementRecord, Power, Span, StopPolicy, Timestamp, Transport,
    domain_uuid,
};
use stablehand::plan::{DiskFrom, MigrateHow, NewDisk, Op, Step};
use stablehand::sim::{Event, Guest, SimDomain, SimFleet, Stage, World};
use uuid::Uuid;

use crate::sim::{all, digest, disk_stamp, name, on, root_path, spin, stamp, world};

const IMAGE: &str = "/images/a.qcow2";
const RETIRED: &str = "/slots/f.web-1.1.root.moved1.qcow2";

fn vm() -> Name {
    name("web-1")
}

fn uuid() -> Uuid {
    domain_uuid(&name("f"), &vm(), 1)
}

fn how(storage: bool) -> MigrateHow {
    MigrateHow {
        uri: "qemu+tcp://h2/system".to_owned(),
        address: None,
        transport: Transport::Clear,
        storage,
        auto_converge: true,
        post_copy: false,
        max_pause: Span(300),
        bandwidth: None,
        time_limit: Span::secs(1800),
    }
}

fn phased(epoch: u64, phase: DiskPhase) -> DiskStamp {
    DiskStamp { epoch, phase, ..disk_stamp("web-1", "root") }
}

fn incoming() -> DiskStamp {
    phased(2, DiskPhase::Incoming { from: name("h1") })
}

fn record(from: Option<&str>) -> Op {
    let record = PlacementRecord { from: from.map(name), moves: 1, ..PlacementRecord::new(name("h2"), 1) };
    Op::Record { vm: vm(), record }
}

fn migrate(storage: bool) -> Step {
    on("h1", Op::Migrate { vm: vm(), uuid: uuid(), to: name("h2"), how: how(storage) })
}

/// What comes before the migration of a running VM with its disks.
fn prepare() -> Vec<Step> {
    let image = spin("h2", "web-1").remove(0);
    let from = DiskFrom::Image {
        path: IMAGE.to_owned(),
        format: stablehand::model::ImageFormat::Qcow2,
        method: stablehand::model::CloneMethod::Overlay,
    };
    let disk = NewDisk { path: root_path("web-1"), stamp: incoming(), from, size: Some(Bytes::gib(2)) };
    vec![image, on("h2", record(Some("h1"))), on("h1", record(Some("h1"))), on("h2", Op::MakeDisk(disk))]
}

fn promote() -> Step {
    on("h2", Op::StampDisk { path: root_path("web-1"), stamp: phased(2, DiskPhase::Valid) })
}

fn retire() -> Step {
    let kept = DiskStamp { expires: Some(Timestamp(1_800_003_600)), ..phased(1, DiskPhase::Moved { to: name("h2") }) };
    on("h1", Op::RetireDisk { path: root_path("web-1"), to: RETIRED.to_owned(), stamp: kept })
}

/// What comes after it.
fn settle() -> Vec<Step> {
    vec![
        promote(),
        on("h2", Op::Announce { vm: vm(), uuid: uuid() }),
        on("h2", Op::AwaitReady { vm: vm(), uuid: uuid(), probe: None, address: None }),
        retire(),
        on("h2", record(None)),
        on("h1", Op::Unrecord { vm: vm() }),
    ]
}

/// A VM that runs on h1, and everything ready for it on h2.
fn ready_to_move() -> World {
    let mut world = world(&["h1", "h2"]);
    all(&mut world, &spin("h1", "web-1"));
    all(&mut world, &prepare());
    world
}

fn at<'w>(world: &'w World, host: &str) -> Option<&'w SimDomain> {
    world.hosts[host].domains.get(&uuid())
}

fn paused_by_migration(world: &World, host: &str) -> bool {
    at(world, host).is_some_and(|d| d.power == Power::Paused && d.pause == Some(PauseCause::Migration))
}

fn kept(world: &World) {
    assert_eq!(world.violations, [] as [&str; 0]);
}

fn happen(world: &mut World, event: Event) {
    world.happen(&event).unwrap();
}

fn cut() -> Event {
    Event::CutLink(name("h1"), name("h2"))
}

fn heal() -> Event {
    Event::HealLink(name("h2"), name("h1"))
}

/// Carries out the migration with something that happens at one of its stages.
fn migrate_with(world: World, stage: Stage, event: Event) -> (World, Result<Done, StepError>) {
    let fleet = SimFleet::new(world);
    fleet.with(|w| w.at_stages.push((vm(), stage, event)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(fleet.perform(&migrate(true), &NoProgress));
    (fleet.world(), outcome)
}

#[test]
fn a_live_move_with_its_disk_runs_once_and_takes_its_data_along() {
    let mut world = ready_to_move();
    let before = world.hosts["h1"].disks[&root_path("web-1")].clone();
    assert_ne!(world.hosts["h2"].disks[&root_path("web-1")].content, before.content);
    assert_eq!(world.change(&migrate(true)), Ok(Done::Changed));
    assert_eq!(world.change(&migrate(true)), Ok(Done::Already));
    all(&mut world, &settle());
    let after = &world.hosts["h2"].disks[&root_path("web-1")];
    assert_eq!(after.content, before.content);
    assert!(after.writes > before.writes, "it wrote on its way and at its end");
    assert_eq!(world.running(&name("f"), &vm()), [&name("h2")]);
    assert!(at(&world, "h1").is_none());
    assert_eq!(at(&world, "h2").map(|d| (d.boots, d.announced, d.transient)), Some((1, 1, false)));
    let kept_copy = world.hosts["h1"].disks[RETIRED].stamp.as_ref().unwrap();
    assert_eq!(kept_copy.phase, DiskPhase::Moved { to: name("h2") });
    assert!(world.hosts["h1"].records.is_empty());
    kept(&world);
}

#[test]
fn a_migration_takes_as_long_as_its_bytes_take_and_both_hosts_show_it() {
    let fleet = SimFleet::new(ready_to_move());
    fleet.with(|w| happen(w, Event::SlowLink(name("h1"), name("h2"), Bytes::mib(64))));
    let before = fleet.world().millis;
    fleet.crash_after(2);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(fleet.perform(&migrate(true), &NoProgress));
    assert!(matches!(outcome, Err(StepError::Unknown(_))), "we ended in the middle");
    let mut world = fleet.world();
    world.restart();
    assert_eq!(at(&world, "h1").map(|d| d.power), Some(Power::Running));
    assert!(paused_by_migration(&world, "h2") && at(&world, "h2").is_some_and(|d| d.transient));
    // A gibibyte at 64 MiB a second; nobody of ours is there, and it goes on.
    happen(&mut world, Event::Advance(15_000));
    assert!(at(&world, "h1").is_some());
    happen(&mut world, Event::Advance(2_000));
    assert!(at(&world, "h1").is_none() && at(&world, "h2").is_some_and(SimDomain::runs));
    assert!((16_000..18_000).contains(&(world.millis - before)));
    assert_eq!(world.change(&migrate(true)), Ok(Done::Already));
    kept(&world);
}

#[test]
fn a_disk_that_is_not_incoming_is_not_overwritten() {
    let mut world = ready_to_move();
    all(&mut world, &[promote()]);
    assert!(matches!(world.change(&migrate(true)), Err(StepError::Stale(_))));
    assert_eq!(world.violations.len(), 1);
    assert!(at(&world, "h1").is_some_and(SimDomain::runs) && at(&world, "h2").is_none());
}

#[test]
fn a_move_needs_at_the_target_what_it_has_at_the_source() {
    let refused = |change: &dyn Fn(&mut World)| {
        let mut world = ready_to_move();
        change(&mut world);
        let outcome = world.change(&migrate(true));
        assert!(matches!(outcome, Err(StepError::Failed { .. })), "{outcome:?}");
        assert!(at(&world, "h1").is_some_and(SimDomain::runs) && at(&world, "h2").is_none());
    };
    refused(&|w| drop(w.hosts.get_mut("h2").unwrap().disks.remove(&root_path("web-1"))));
    refused(&|w| drop(w.hosts.get_mut("h2").unwrap().images.remove(IMAGE)));
    refused(&|w| w.hosts.get_mut("h2").unwrap().cpu = "another".to_owned());
    refused(&|w| happen(w, cut()));
    refused(&|w| happen(w, Event::Kill(name("h2"))));
}

#[test]
fn a_cut_link_freezes_the_guest_until_the_move_is_given_up() {
    for stage in [Stage::Storage, Stage::Memory] {
        // The step that waits gives up after half a minute.
        let (world, outcome) = migrate_with(ready_to_move(), stage, cut());
        assert!(matches!(outcome, Err(StepError::Failed { .. })), "{outcome:?}");
        assert!(at(&world, "h1").is_some_and(SimDomain::runs) && at(&world, "h2").is_none());
        assert!(world.jobs.is_empty());
        kept(&world);
        // Without us it stays frozen for good.
        let mut world = ready_to_move();
        let fleet = SimFleet::new(world.clone());
        fleet.crash_after(if stage == Stage::Storage { 1 } else { 2 });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(fleet.perform(&migrate(true), &NoProgress));
        world = fleet.world();
        world.restart();
        happen(&mut world, cut());
        happen(&mut world, Event::Advance(3_600_000));
        assert!(at(&world, "h2").is_none(), "the target has dropped it");
        let waits = on("h1", Op::AwaitReady { vm: vm(), uuid: uuid(), probe: None, address: None });
        assert_eq!(world.jobs.len(), 1);
        let abort = on("h1", Op::AbortJob { vm: vm(), uuid: uuid(), to: name("h2") });
        assert_eq!(world.change(&abort), Ok(Done::Changed));
        assert_eq!(world.change(&abort), Ok(Done::Already));
        assert_eq!(world.change(&waits), Ok(Done::Already));
        kept(&world);
    }
}

#[test]
fn a_link_that_is_back_soon_is_only_a_delay() {
    let world = ready_to_move();
    let fleet = SimFleet::new(world);
    fleet.crash_after(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _ = runtime.block_on(fleet.perform(&migrate(true), &NoProgress));
    let mut world = fleet.world();
    world.restart();
    happen(&mut world, cut());
    happen(&mut world, Event::Advance(20_000));
    happen(&mut world, heal());
    happen(&mut world, Event::Advance(60_000));
    assert!(at(&world, "h2").is_some_and(SimDomain::runs) && at(&world, "h1").is_none());
    kept(&world);
}

#[test]
fn a_hand_over_that_is_cut_leaves_the_source_paused() {
    // The target had not started it: it is nowhere, and the source can go on.
    let (mut world, outcome) = migrate_with(ready_to_move(), Stage::HandOver, cut());
    assert!(matches!(outcome, Err(StepError::Unknown(_))), "{outcome:?}");
    assert!(paused_by_migration(&world, "h1") && at(&world, "h2").is_none());
    assert!(world.running(&name("f"), &vm()).is_empty());
    let start = on("h1", Op::Start { vm: vm(), uuid: uuid() });
    assert_eq!(world.change(&start), Ok(Done::Changed));
    assert!(at(&world, "h1").is_some_and(|d| d.runs() && d.pause.is_none() && d.boots == 1));
    kept(&world);
    // The target runs it: the source is a remnant, and nothing may let it run.
    let (mut world, outcome) = migrate_with(ready_to_move(), Stage::Arrived, cut());
    assert!(outcome.is_err());
    assert!(paused_by_migration(&world, "h1") && at(&world, "h2").is_some_and(SimDomain::runs));
    kept(&world);
    let mut wrong = world.clone();
    wrong.change(&start).unwrap();
    assert_eq!(wrong.violations.len(), 2, "{:?}", wrong.violations);
    let remnant = on("h1", Op::DropRemnant { vm: vm(), uuid: uuid() });
    assert!(matches!(world.change(&retire()), Err(StepError::Failed { .. })), "its QEMU has it open");
    assert_eq!(world.change(&remnant), Ok(Done::Changed));
    assert_eq!(world.change(&remnant), Ok(Done::Already));
    all(&mut world, &settle());
    kept(&world);
}

#[test]
fn power_that_is_lost_in_the_middle_loses_no_disk() {
    for (stage, lives) in [(Stage::Storage, "h2"), (Stage::Memory, "h2"), (Stage::HandOver, "h2")] {
        let (mut world, outcome) = migrate_with(ready_to_move(), stage, Event::Kill(name("h1")));
        assert!(matches!(outcome, Err(StepError::Unknown(_))), "{outcome:?}");
        happen(&mut world, Event::Advance(31_000));
        assert!(world.hosts[lives].domains.is_empty(), "what arrived is dropped");
        happen(&mut world, Event::Revive(name("h1")));
        assert_eq!(at(&world, "h1").map(|d| d.power), Some(Power::Stopped));
        all(&mut world, &[on("h1", Op::Start { vm: vm(), uuid: uuid() })]);
        kept(&world);
    }
    let (world, _) = migrate_with(ready_to_move(), Stage::Arrived, Event::Kill(name("h1")));
    assert_eq!(at(&world, "h1").map(|d| d.power), Some(Power::Stopped));
    assert!(at(&world, "h2").is_some_and(SimDomain::runs));
    for stage in [Stage::Storage, Stage::Memory] {
        let (world, _) = migrate_with(ready_to_move(), stage, Event::Kill(name("h2")));
        assert!(at(&world, "h1").is_some_and(SimDomain::runs) && at(&world, "h2").is_none());
        kept(&world);
    }
}

#[test]
fn a_guest_that_writes_too_fast_is_given_up_when_its_time_is_over() {
    let mut world = ready_to_move();
    world.guests.insert(vm(), Guest { converges: false, ..Guest::default() });
    let before = world.millis;
    assert!(matches!(world.change(&migrate(true)), Err(StepError::Failed { .. })));
    assert_eq!(world.millis - before, 1_800_000);
    assert!(at(&world, "h1").is_some_and(SimDomain::runs) && at(&world, "h2").is_none());
    kept(&world);
}

fn copy() -> Step {
    on("h2", Op::CopyDisk { from: name("h1"), path: root_path("web-1"), stamp: incoming() })
}

fn define_from() -> Step {
    on("h2", Op::DefineFrom { vm: vm(), uuid: uuid(), from: name("h1"), stamp: stamp("web-1") })
}

#[test]
fn a_stopped_vm_moves_with_its_disk_and_its_definition() {
    let mut world = world(&["h1", "h2"]);
    all(&mut world, &spin("h1", "web-1"));
    let image = on("h2", Op::CopyImage { from: name("h1"), path: IMAGE.to_owned(), digest: digest() });
    all(&mut world, &[image, on("h2", record(Some("h1"))), on("h1", record(Some("h1")))]);
    assert!(matches!(world.change(&copy()), Err(StepError::Failed { .. })), "a guest has it open");
    let policy = StopPolicy { deadline: Span::secs(20), power_off: false };
    let stop = on("h1", Op::Stop { vm: vm(), uuid: uuid(), policy });
    all(&mut world, &[stop, copy(), copy(), define_from(), define_from(), retire(), retire(), promote()]);
    all(&mut world, &[on("h1", Op::Undefine { vm: vm(), uuid: uuid(), drop_save: true })]);
    all(&mut world, &[on("h2", Op::Start { vm: vm(), uuid: uuid() }), on("h2", record(None))]);
    assert_eq!(world.running(&name("f"), &vm()), [&name("h2")]);
    assert_eq!(at(&world, "h2").map(|d| d.foreign.as_str()), Some("what libvirt adds"));
    kept(&world);
}

#[test]
fn a_suspended_vm_moves_with_its_memory() {
    let mut world = world(&["h1", "h2"]);
    all(&mut world, &spin("h1", "web-1"));
    let save = on("h2", Op::CopySave { vm: vm(), uuid: uuid(), from: name("h1") });
    all(&mut world, &[prepare().remove(0), on("h1", Op::Suspend { vm: vm(), uuid: uuid() }), copy(), define_from()]);
    all(&mut world, &[save.clone(), save, retire(), promote()]);
    all(&mut world, &[on("h1", Op::Undefine { vm: vm(), uuid: uuid(), drop_save: true })]);
    assert_eq!(at(&world, "h2").map(|d| d.power), Some(Power::Suspended));
    all(&mut world, &[on("h2", Op::Start { vm: vm(), uuid: uuid() })]);
    assert_eq!(at(&world, "h2").map(|d| d.boots), Some(1), "it was resumed");
    kept(&world);
}

#[test]
fn nothing_starts_from_a_copy_that_is_not_the_disk() {
    let start = |host| on(host, Op::Start { vm: vm(), uuid: uuid() });
    let mut world = world(&["h1", "h2"]);
    all(&mut world, &spin("h1", "web-1"));
    let policy = StopPolicy { deadline: Span::secs(20), power_off: false };
    all(
        &mut world,
        &[prepare().remove(0), on("h1", Op::Stop { vm: vm(), uuid: uuid(), policy }), copy(), define_from()],
    );
    let mut incoming = world.clone();
    incoming.change(&start("h2")).unwrap();
    assert!(incoming.violations[0].contains("incoming copy"), "{:?}", incoming.violations);
    // The copy becomes the disk, and the old place is started once more: then the copy is behind.
    all(&mut world, &[promote(), start("h1"), on("h1", Op::Stop { vm: vm(), uuid: uuid(), policy }), start("h2")]);
    assert_eq!(world.violations, ["Start of web-1 on h2: root of web-1 goes back: its newest state is elsewhere"]);
}

#[test]
fn hosts_of_one_storage_have_the_same_files() {
    let mut world = world(&["h1", "h2"]);
    for host in world.hosts.values_mut() {
        host.shared = Some(name("san"));
    }
    all(&mut world, &spin("h1", "web-1"));
    assert_eq!(world.hosts["h1"].disks, world.hosts["h2"].disks);
    assert_eq!(world.hosts["h1"].records, world.hosts["h2"].records);
    all(&mut world, &[prepare().remove(0), on("h2", record(Some("h1"))), migrate(false), on("h2", record(None))]);
    assert_eq!(world.running(&name("f"), &vm()), [&name("h2")]);
    assert_eq!(world.hosts["h1"].disks, world.hosts["h2"].disks);
    kept(&world);
    // Without a shared storage there is nothing to run from.
    let mut apart = ready_to_move();
    assert!(matches!(apart.change(&migrate(false)), Err(StepError::Failed { .. })));
}

#[test]
fn a_fence_switches_a_host_off_that_does_not_answer() {
    let mut world = ready_to_move();
    happen(&mut world, Event::Partition(name("h1")));
    assert_eq!(world.running(&name("f"), &vm()), [&name("h1")]);
    let fence = on("h1", Op::Fence { command: vec!["ipmitool".into()], within: Span::secs(60) });
    happen(&mut world, Event::Fencing(name("h1"), false));
    assert!(matches!(world.change(&fence), Err(StepError::Failed { .. })));
    happen(&mut world, Event::Fencing(name("h1"), true));
    assert_eq!(world.change(&fence), Ok(Done::Changed));
    assert!(world.running(&name("f"), &vm()).is_empty());
    assert!(!world.hosts["h1"].powered);
}

#[test]
fn another_machine_at_the_address_hides_what_runs_on() {
    let mut world = ready_to_move();
    happen(&mut world, Event::Swap(name("h1")));
    assert!(world.hosts["h1"].domains.is_empty());
    assert_eq!(world.running(&name("f"), &vm()), [&name("h1")], "it runs, and nobody can see it");
    happen(&mut world, Event::SwapBack(name("h1")));
    assert_eq!(world.change(&migrate(true)), Ok(Done::Changed));
}
