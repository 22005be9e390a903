//! The host room on a real QEMU: a guest of 512 bytes through `qemu:///embed`, without a libvirtd.
//!
//! One process opens an embedded root and keeps it, so each stage runs in a process of its own: this program again, with
//! the stage's name in the environment. That is also how a killed controller is tried.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stablehand::execute::{Actuator, Done, NoProgress, StepError};
use stablehand::host::RealFleet;
use stablehand::model::*;
use stablehand::observe::{Look, Observer};
use stablehand::plan::{DiskFrom, DomainDisk, DomainNic, DomainSpec, Edit, NewDisk, Op, Seed, SeedNic, Step};

const STAGE: &str = "STABLEHAND_TEST_STAGE";
const FOLDER: &str = "STABLEHAND_TEST_FOLDER";

/// Prints `up` on the serial port and the screen, then sleeps.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![0u8; 1 << 20];
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x1a, 0x7c, 0xac, 0x08, 0xc0, 0x74, 0x0a, 0xba, 0xf8, 0x03, 0xee, 0xb4, 0x0e,
        0xcd, 0x10, 0xeb, 0xf1, 0xfb, 0xf4, 0xeb, 0xfc, b'u', b'p', b'\r', b'\n', 0,
    ];
    sector[..code.len()].copy_from_slice(&code);
    (sector[510], sector[511]) = (0x55, 0xaa);
    sector
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A world of one host under a folder.
pub(crate) struct World {
    folder: PathBuf,
    fleet: RealFleet,
    desired: Desired,
    image: ImageFile,
}

impl World {
    fn new(folder: &Path) -> Self {
        let origin = Origin::new("test.yaml", 1, 1);
        let at = |part: &str| folder.join(part).to_str().unwrap().to_owned();
        let host = Host {
            name: name("here"),
            connection: format!("qemu:///embed?root={}", at("r")).into(),
            uuid: None,
            labels: BTreeMap::new(),
            site: None,
            slots: 4,
            cpus: None,
            memory: None,
            reserve_cpus: 0,
            reserve_memory: Bytes(0),
            overcommit_cpu_milli: 4000,
            overcommit_memory_milli: 1000,
            images_dir: at("images").into(),
            slots_dir: at("slots").into(),
            security: 0,
            cost_cpu_hour_milli: 0,
            uplinks: std::collections::BTreeMap::new(),
            devices: BTreeMap::new(),
            acceleration: Acceleration::Auto,
            shell: stablehand::model::HostShell::Local,
            shared: None,
            migration: Default::default(),
            fence: None,
            maintenance: stablehand::model::Maintenance::None,
            origin: origin.clone(),
        };
        let share = Share::Count(3);
        let desired = Desired {
            revision: "test".to_owned(),
            fleet: Fleet {
                name: name("t"),
                security_levels: Vec::new(),
                limits: Limits {
                    destroy: share,
                    recreate: share,
                    reboot: share,
                    actions_per_host: 4,
                    starts_per_host: 2,
                    moves: Share::Count(3),
                    moves_per_link: 1,
                },
                weights: Weights { memory: 1.0, cpu: 1.0, slots: 1.0, cost: 0.0 },
                approval_any_host: false,
                keep_images: Span::secs(7 * 86_400),
                origin,
            },
            hosts: BTreeMap::from([(name("here"), host)]),
            images: BTreeMap::new(),
            networks: BTreeMap::new(),
            services: BTreeMap::new(),
            modules: BTreeMap::new(),
            groups: BTreeMap::new(),
            vms: BTreeMap::new(),
            pinned: BTreeMap::new(),
            management: BTreeMap::new(),
            leased: BTreeMap::new(),
            access: Vec::new(),
            removals: Vec::new(),
            adoptions: Vec::new(),
            lost: Vec::new(),
            pauses: Vec::new(),
            tasks: BTreeMap::new(),
        };
        std::fs::write(folder.join("boot.img"), boot_sector()).unwrap();
        let sum = Command::new("sha256sum").arg(folder.join("boot.img")).output().unwrap();
        let hex = String::from_utf8_lossy(&sum.stdout[..64]).into_owned();
        let digest = Digest::new(&format!("sha256:{hex}")).unwrap();
        let fleet = RealFleet::new(&desired, folder, RealFleet::this_process("tester", "test"));
        Self {
            folder: folder.to_owned(),
            fleet,
            desired,
            image: ImageFile::new(Source::Path("boot.img".into()), digest),
        }
    }

    pub(crate) fn bridge() -> String {
        std::env::var("STABLEHAND_TEST_BRIDGE").unwrap()
    }
    pub(crate) fn path(&self, part: &str) -> String {
        self.folder.join(part).to_str().unwrap().to_owned()
    }
    fn image_path(&self) -> String {
        self.path(&format!("images/{}-boot.img", self.image.digest.short()))
    }

    pub(crate) async fn step(&self, op: Op) -> Result<Done, StepError> {
        let began = Instant::now();
        let text = op.describe();
        let result = self.fleet.perform(&Step { host: name("here"), op }, &NoProgress).await;
        println!("  {:>6} ms  {text}: {result:?}", began.elapsed().as_millis());
        result
    }
    pub(crate) async fn done(&self, op: Op) {
        let result = self.step(op.clone()).await;
        assert!(result.is_ok(), "{op:?}: {result:?}");
        // Every step is safe to repeat, and finds its work done.
        assert_eq!(self.step(op).await, Ok(Done::Already));
    }
    pub(crate) async fn observe(&self) -> HostObs {
        let began = Instant::now();
        let mut observed = self.fleet.observe(&self.desired, Look { probe: true }).await;
        println!("  {:>6} ms  observe", began.elapsed().as_millis());
        if let Some(Observation::Known(host)) = observed.hosts.get("here") {
            for (vm, seen) in &host.vms {
                let memory = seen.live.as_ref().map(|l| l.memory.to_string());
                println!("             {vm}: {:?}, {:?}, {memory:?}", seen.power, seen.ready);
            }
        }
        match observed.hosts.remove("here").unwrap() {
            Observation::Known(host) => host,
            other => panic!("{other:?}"),
        }
    }
    async fn vm(&self) -> VmObs {
        self.observe().await.vms.remove("a").unwrap()
    }

    pub(crate) fn stamp(&self) -> Stamp {
        let nic = NicStamp { address: Some([10, 250, 9, 10].into()), ..NicStamp::new(self.spec().nics[0].mac) };
        Stamp {
            fleet: name("t"),
            vm: name("a"),
            incarnation: 1,
            protect: Protection::None,
            spec: "abc".to_owned(),
            image: Some(self.image.digest.clone()),
            image_name: Some(name("boot")),
            rolled: None,
            management: None,
            seed: "def <&'\">".to_owned(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            group: "g/a".into(),
            ready: None,
            guard: None,
            quarantine: None,
            stop: StopPolicy { deadline: Span::secs(1), power_off: true },
            persistent_root: false,
            root: None,
            after: Vec::new(),
            adopted: None,
            tasks: BTreeMap::new(),
            leased: None,
        }
    }
    fn uuid(&self) -> uuid::Uuid {
        domain_uuid(&name("t"), &name("a"), 1)
    }
    pub(crate) fn disk(&self, disk: &str) -> DiskStamp {
        DiskStamp {
            fleet: name("t"),
            vm: name("a"),
            disk: disk.to_owned(),
            incarnation: 1,
            epoch: 1,
            expires: None,
            made_from: None,
            on_remove: OnRemove::Delete,
            phase: stablehand::model::DiskPhase::Valid,
            marked: None,
        }
    }
    fn spec(&self) -> DomainSpec {
        let disk = |name: &str, file: &str, target: &str, format, readonly| DomainDisk {
            name: name.to_owned(),
            path: self.path(file),
            target: target.to_owned(),
            format,
            readonly,
        };
        DomainSpec {
            vm: name("a"),
            domain: "t.a".to_owned(),
            uuid: self.uuid(),
            cpus: 1,
            max_cpus: 2,
            memory: Bytes::mib(64),
            max_memory: Bytes::mib(64),
            machine: "pc-q35-7.2".to_owned(),
            firmware: Firmware::Bios,
            cpu_model: None,
            acceleration: Acceleration::Tcg,
            display: Display { width: 800, height: 600 },
            kernel: None,
            disks: vec![
                disk("root", "slots/t.a.1.root.qcow2", "vda", ImageFormat::Qcow2, false),
                disk("seed", "slots/t.a.1.seed.iso", "vdb", ImageFormat::Raw, true),
                disk("data", "slots/t.a.1.data.qcow2", "vdc", ImageFormat::Qcow2, false),
            ],
            nics: vec![DomainNic {
                name: name("lan"),
                mac: nic_mac(&name("t"), &name("a"), &name("lan")),
                bridge: Self::bridge(),
                tap: format!("{}t", Self::bridge()),
            }],
            devices: Vec::new(),
            container: None,
            console: self.path("slots/t.a.console"),
        }
    }
}

/// What a definition must read back as.
fn shape_of(spec: &DomainSpec) -> Shape {
    let disk = |d: &DomainDisk| {
        (d.name.clone(), ShapeDisk { path: d.path.clone(), target: d.target.clone(), readonly: d.readonly })
    };
    let nic = |n: &DomainNic| (n.mac, ShapeNic { bridge: n.bridge.clone(), tap: Some(n.tap.clone()) });
    Shape {
        cpus: spec.cpus,
        max_cpus: spec.max_cpus,
        memory: spec.memory,
        max_memory: spec.max_memory,
        machine: spec.machine.clone(),
        firmware: spec.firmware,
        acceleration: spec.acceleration,
        display: Some(spec.display),
        kernel: None,
        initrd: None,
        command_line: None,
        disks: spec.disks.iter().map(disk).collect(),
        nics: spec.nics.iter().map(nic).collect(),
        devices: BTreeMap::new(),
        // One more than what is plugged in: libvirt's own spare.
        ports: Ports { usb: false, pci: 1 },
        container: spec.container.clone(),
    }
}

/// Everything that brings the VM up, to before its start.
fn makings(world: &World) -> Vec<Op> {
    let (vm, uuid, spec, stamp) = (name("a"), world.uuid(), world.spec(), world.stamp());
    let record = PlacementRecord::new(name("here"), 1);
    let from = DiskFrom::Image { path: world.image_path(), format: ImageFormat::Raw, method: CloneMethod::Overlay };
    let [root, seed_path, data] = [0, 1, 2].map(|n| spec.disks[n].path.clone());
    let (address, gateway) = (Some("10.250.9.10/24".to_owned()), None);
    let seed_nic = SeedNic { address, gateway, ..SeedNic::new(spec.nics[0].mac) };
    let seed = Seed {
        instance: uuid,
        hostname: vm.clone(),
        nics: BTreeMap::from([(name("lan"), seed_nic)]),
        user_data: None,
        ssh_keys: Vec::new(),
    };
    vec![
        Op::MakeBridge {
            bridge: World::bridge(),
            address: None,
            address6: None,
            fleet: name("t"),
            uplink: None,
            border: Border::Open,
        },
        Op::PutImage { file: world.image.clone(), path: world.image_path(), note: None },
        Op::Record { vm, record },
        Op::MakeDisk(NewDisk { path: root, stamp: world.disk("root"), from, size: Some(Bytes::mib(8)) }),
        Op::MakeDisk(NewDisk {
            path: data,
            stamp: world.disk("data"),
            from: DiskFrom::Blank,
            size: Some(Bytes::mib(16)),
        }),
        Op::MakeSeed { path: seed_path, stamp: world.disk("seed"), seed, replace: false },
        Op::Define { domain: spec, stamp },
    ]
}

/// Brings the VM up and is killed in the middle of a step: `STABLEHAND_TEST_KILL` is the step and the milliseconds into it.
async fn die(world: &World) {
    let text = std::env::var("STABLEHAND_TEST_KILL").unwrap();
    let (at, after) = text.split_once(' ').unwrap();
    let (at, after): (usize, u64) = (at.parse().unwrap(), after.parse().unwrap());
    let mut ops = makings(world);
    ops.push(Op::Start { vm: name("a"), uuid: world.uuid() });
    // The root is open before anything is timed.
    world.observe().await;
    for (n, op) in ops.into_iter().enumerate() {
        if n == at {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            });
        }
        let result = world.step(op.clone()).await;
        assert!(result.is_ok(), "{op:?}: {result:?}");
    }
    // It was faster than the killer.
    std::thread::sleep(Duration::from_millis(after));
}

/// The bridge, disks, definition and start; then it waits to be killed.
async fn bring_up(world: &World) {
    let (vm, uuid, spec, stamp) = (name("a"), world.uuid(), world.spec(), world.stamp());
    for op in makings(world) {
        world.done(op).await;
    }

    let seen = world.vm().await;
    assert_eq!(seen.config, shape_of(&spec), "what was defined is what is observed: no perpetual difference");
    assert_eq!((seen.stamp, seen.power, seen.autostart, seen.live), (stamp, Power::Stopped, false, None));

    world.done(Op::Start { vm: vm.clone(), uuid }).await;
    world.done(Op::AwaitReady { vm: vm.clone(), uuid, probe: None, address: None }).await;
    let seen = world.vm().await;
    assert_eq!(seen.live.as_ref(), Some(&shape_of(&spec)), "and so is what runs");
    assert!(seen.screen.as_ref().is_some_and(|s| Path::new(s).exists()), "{:?}", seen.screen);
    let mut console = Vec::new();
    for _ in 0..50 {
        console = world.fleet.console_tail(&name("here"), &vm, 5).await;
        if console.iter().any(|l| l == "up") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(console.iter().any(|l| l == "up"), "{console:?}");
}

/// After all the deaths: the same steps end what was begun, once.
async fn settle(world: &World) {
    let (vm, uuid) = (name("a"), world.uuid());
    for op in makings(world) {
        world.step(op).await.unwrap();
    }
    let start = Op::Start { vm: vm.clone(), uuid };
    match world.step(start.clone()).await {
        // What an apply does too: it looks again, sees that the guest whose start was cut is off, and starts it.
        Err(stale) if stale.retry() => drop(world.step(start).await.unwrap()),
        result => drop(result.unwrap()),
    }
    world.step(Op::AwaitReady { vm, uuid, probe: None, address: None }).await.unwrap();
    let host = world.observe().await;
    assert_eq!(host.vms.len(), 1);
    assert_eq!(host.vms[&name("a")].live, Some(shape_of(&world.spec())));
    assert_eq!(host.unmanaged, []);
    assert_eq!(host.disks.len(), 3);
    let files: Vec<String> = std::fs::read_dir(world.folder.join("slots"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| !n.starts_with('.'))
        .collect();
    assert_eq!(files.len(), 3 * 2 + 2, "three disks with stamps, record, console: {files:?}");
    // Our root in a command line is our QEMU; a zombie has none.
    let running = std::fs::read_dir("/proc").unwrap().flatten().filter(|e| {
        let line = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("qemu-system") && line.contains(world.folder.to_str().unwrap())
    });
    assert_eq!(running.count(), 1, "one QEMU");
}

/// In a process that finds the VM running: everything that changes it.
async fn change(world: &World) {
    let (vm, uuid, spec) = (name("a"), world.uuid(), world.spec());
    let seen = world.vm().await;
    assert_eq!(seen.power, Power::Running, "it went on without us");
    assert_eq!(seen.config, shape_of(&spec));

    let stamp = Stamp { spec: "changed".to_owned(), ..world.stamp() };
    let edits = vec![Edit::Memory { memory: Bytes::mib(80), max: Bytes::mib(96) }, Edit::Cpus { cpus: 2, max: 3 }];
    world.done(Op::Edit { vm: vm.clone(), uuid, edits, stamp: stamp.clone() }).await;
    let seen = world.vm().await;
    assert_eq!((seen.config.memory, seen.config.max_memory), (Bytes::mib(80), Bytes::mib(96)));
    assert_eq!((seen.config.cpus, seen.config.max_cpus), (2, 3));
    assert_eq!(seen.stamp, stamp);
    assert_eq!(
        seen.live.map(|l| (l.max_memory, l.max_cpus)),
        Some((Bytes::mib(64), 2)),
        "what runs is as it was started"
    );

    world.done(Op::SetCpus { vm: vm.clone(), uuid, cpus: 2 }).await;
    assert!(world.step(Op::SetCpus { vm: vm.clone(), uuid, cpus: 3 }).await.is_err(), "more than it was started with");
    assert!(world.step(Op::SetMemory { vm: vm.clone(), uuid, memory: Bytes::mib(80) }).await.is_err());
    let (path, size) = (spec.disks[2].path.clone(), Bytes::mib(24));
    world.done(Op::GrowDisk { vm: vm.clone(), uuid, path: path.clone(), size }).await;
    let smaller = Op::GrowDisk { vm: vm.clone(), uuid, path: path.clone(), size: Bytes::mib(8) };
    assert!(world.step(smaller).await.is_err(), "never shrunk");
    let in_use = Op::DeleteDisk { path: path.clone(), vm: vm.clone() };
    assert!(world.step(in_use).await.is_err(), "a domain has it");

    world.done(Op::Suspend { vm: vm.clone(), uuid }).await;
    assert_eq!(world.vm().await.power, Power::Suspended);
    assert!(
        world.step(Op::Undefine { vm: vm.clone(), uuid, drop_save: false }).await.is_err(),
        "saved memory is not lost"
    );
    world.done(Op::Start { vm: vm.clone(), uuid }).await;
    assert_eq!(world.vm().await.power, Power::Running);

    // A copy that somebody made of it, stamp and all, is not taken for it.
    let mut copy = spec.clone();
    (copy.uuid, copy.domain, copy.console) = (uuid::Uuid::from_u128(1), "copy".to_owned(), world.path("copy.console"));
    let copied = copy.uuid;
    world.step(Op::Define { domain: copy, stamp: stamp.clone() }).await.unwrap();
    let seen = world.observe().await;
    assert_eq!((seen.vms.len(), seen.vms[&vm].uuid), (1, uuid));
    assert_eq!(seen.unmanaged.iter().map(|u| u.uuid).collect::<Vec<_>>(), [copied]);
    world.done(Op::Undefine { vm: vm.clone(), uuid: copied, drop_save: false }).await;

    let ask = StopPolicy { deadline: Span(300), power_off: false };
    assert!(world.step(Op::Stop { vm: vm.clone(), uuid, policy: ask }).await.is_err(), "a deaf guest is not forced");
    let force = StopPolicy { power_off: true, ..ask };
    world.done(Op::Stop { vm: vm.clone(), uuid, policy: force }).await;
    world.done(Op::GrowDisk { vm: vm.clone(), uuid, path, size: Bytes::mib(32) }).await;
    let seen = world.observe().await;
    assert_eq!(seen.disks[&spec.disks[2].path].size, Bytes::mib(32));
    assert_eq!(seen.disks.len(), 3);
    assert_eq!(seen.images.len(), 1);
    // The overlay of a domain stands on it, also while that does not run.
    let marks: Vec<_> = seen.images.values().map(|i| i.marks.clone()).collect();
    assert_eq!(marks, [BTreeMap::from([(name("t"), None)])]);
    let drop = Op::DropImage { digest: world.image.digest.clone(), path: world.image_path() };
    let refused = world.step(drop).await;
    assert!(matches!(&refused, Err(StepError::Stale(why)) if why.contains("is built on")), "{refused:?}");
    // Started again: now with what was edited.
    world.done(Op::Start { vm: vm.clone(), uuid }).await;
    assert_eq!(world.vm().await.live.map(|l| (l.max_memory, l.max_cpus)), Some((Bytes::mib(96), 3)));

    // QEMU dies while the guest is waited for: seen long before the probe's time is over, and not called a stop.
    let pid = std::fs::read_to_string(world.folder.join("r/run/qemu/t.a.pid")).unwrap();
    let killer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    });
    let probe = Probe { kind: ProbeKind::AgentPing, within: Span::secs(90), every: Span::secs(1) };
    let (began, wait) = (Instant::now(), Op::AwaitReady { vm: vm.clone(), uuid, probe: Some(probe), address: None });
    let Err(StepError::Failed { what, .. }) = world.step(wait).await else { panic!("it is not ready") };
    assert!(what.contains("stopped before it was ready (crashed)"), "{what}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    killer.await.unwrap();
    assert_eq!(world.vm().await.power, Power::Crashed);
    world.done(Op::Start { vm: vm.clone(), uuid }).await;
}

/// In a process that has just opened the root: power off at once and remove everything.
async fn tear_down(world: &World) {
    let (vm, uuid, spec) = (name("a"), world.uuid(), world.spec());
    let policy = StopPolicy { deadline: Span(0), power_off: true };
    world.done(Op::Stop { vm: vm.clone(), uuid, policy }).await;
    world.done(Op::Undefine { vm: vm.clone(), uuid, drop_save: true }).await;
    for disk in &spec.disks {
        world.done(Op::DeleteDisk { path: disk.path.clone(), vm: vm.clone() }).await;
    }
    world.done(Op::Unrecord { vm }).await;
    world.done(Op::DropImage { digest: world.image.digest.clone(), path: world.image_path() }).await;
    world.done(Op::RemoveBridge { bridge: World::bridge(), fleet: name("t"), uplink: None }).await;
    let seen = world.observe().await;
    assert!(seen.vms.is_empty() && seen.disks.is_empty() && seen.images.is_empty());
    assert!(!seen.bridges.contains_key(&World::bridge()));
    let left: Vec<_> = std::fs::read_dir(world.folder.join("slots")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| n.to_str().unwrap().starts_with('.')), "{left:?}");
}

/// Many domains that do not run: how long a look takes.
async fn many(world: &World) {
    const MANY: u32 = 1000;
    let began = Instant::now();
    for n in 1..=MANY {
        let vm = name(&format!("m-{n}"));
        let mut spec = world.spec();
        (spec.vm, spec.domain, spec.uuid) = (vm.clone(), domain_name(&name("t"), &vm), domain_uuid(&name("t"), &vm, 1));
        let step = Op::Define { domain: spec, stamp: Stamp { vm: vm.clone(), ..world.stamp() } };
        assert!(world.fleet.perform(&Step { host: name("here"), op: step }, &NoProgress).await.is_ok());
    }
    println!("  {MANY} domains defined in {} ms", began.elapsed().as_millis());
    for _ in 0..3 {
        let began = Instant::now();
        let seen = world.fleet.observe(&world.desired, Look::default()).await;
        println!("  {MANY} domains observed in {} ms", began.elapsed().as_millis());
        assert_eq!(seen.hosts[&name("here")].known().unwrap().vms.len(), usize::try_from(MANY).unwrap());
    }
}

#[test]
#[ignore = "a stage of `a_vm_lives_through_an_embedded_root`, run by it"]
fn stage() {
    let Ok(stage) = std::env::var(STAGE) else { return };
    let world = World::new(Path::new(&std::env::var(FOLDER).unwrap()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match stage.as_str() {
            "up" => bring_up(&world).await,
            "change" => change(&world).await,
            "down" => tear_down(&world).await,
            "die" => die(&world).await,
            "settle" => settle(&world).await,
            "many" => many(&world).await,
            "guest" => crate::guest::run(&world).await,
            "capture" => crate::capture::run(&world).await,
            "devices" => crate::device::run(&world).await,
            "second" => {
                let mut observed = world.fleet.observe(&world.desired, Look::default()).await;
                let Some(Observation::Unknown(fault)) = observed.hosts.remove("here") else {
                    panic!("two have it open")
                };
                assert!(fault.text.contains("tester@") && fault.text.contains("process"), "{}", fault.text);
            }
            other => panic!("{other}"),
        }
    });
    println!("stage {stage} done");
    if stage == "up" {
        // Until we are killed: nobody says goodbye to libvirt.
        std::fs::write(world.folder.join("up.done"), "").unwrap();
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// Removes what a test made, whatever happened to it.
struct CleanUp {
    folder: PathBuf,
    bridge: String,
}
impl Drop for CleanUp {
    fn drop(&mut self) {
        // QEMU of this root alone: its pid file stands in the root.
        for entry in std::fs::read_dir(self.folder.join("r/run/qemu")).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "pid") {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                let _ = Command::new("kill").args(["-9", pid.trim()]).output();
            }
        }
        let _ = Command::new("ip").args(["link", "delete", "dev", &self.bridge]).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A scratch root, and this program as one of its stages.
struct Lab {
    clean: CleanUp,
}
impl Lab {
    fn new(letter: char) -> Self {
        let pid = std::process::id();
        let folder: PathBuf = format!("/var/lib/stablehand/t{letter}{pid}").into();
        std::fs::create_dir_all(&folder).unwrap();
        Self { clean: CleanUp { folder, bridge: format!("sht{letter}{pid}") } }
    }
    fn stage(&self, stage: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "host::stage", "--ignored", "--nocapture"]);
        command.env(STAGE, stage).env(FOLDER, &self.clean.folder).env("STABLEHAND_TEST_BRIDGE", &self.clean.bridge);
        command.env("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null");
        command
    }
}

#[test]
fn a_vm_lives_through_an_embedded_root() {
    if let Err(why) = crate::can_run() {
        eprintln!("SKIPPED a_vm_lives_through_an_embedded_root: {why}");
        return;
    }
    let lab = Lab::new('a');
    let mut first = lab.stage("up").spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(180);
    while !lab.clean.folder.join("up.done").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first stage failed");
        assert!(Instant::now() < patience, "the first stage hangs");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(lab.stage("second").status().unwrap().success(), "a second opener is told who has the root");
    // SIGKILL, as an impatient person would.
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(lab.stage("change").status().unwrap().success());
    assert!(lab.stage("down").status().unwrap().success());
}

#[test]
fn a_controller_killed_anywhere_leaves_nothing_double_and_nothing_lost() {
    if let Err(why) = crate::can_run() {
        eprintln!("SKIPPED a_controller_killed_anywhere_leaves_nothing_double_and_nothing_lost: {why}");
        return;
    }
    let lab = Lab::new('k');
    // Early and late in each quick step; a start takes about 400 ms.
    let deaths =
        (0..7).flat_map(|step| [1, 7, 20].map(|ms| (step, ms))).chain([20, 80, 150, 220, 300, 380].map(|ms| (7, ms)));
    for (step, ms) in deaths {
        let status = lab.stage("die").env("STABLEHAND_TEST_KILL", format!("{step} {ms}")).status().unwrap();
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
        assert!(killed || status.success(), "step {step}, {ms} ms: {status}");
    }
    assert!(lab.stage("settle").status().unwrap().success());
    assert!(lab.stage("down").status().unwrap().success());
}

#[test]
#[ignore = "a measurement: cargo test --test real -- --ignored --nocapture a_thousand"]
fn a_thousand_domains_are_observed_in_one_look() {
    if let Err(why) = crate::can_run() {
        eprintln!("SKIPPED a_thousand_domains_are_observed_in_one_look: {why}");
        return;
    }
    let lab = Lab::new('m');
    assert!(lab.stage("many").status().unwrap().success());
}

#[test]
fn guests_answer_probes_and_take_what_they_are_given() {
    if let Some(why) = crate::can_run().err().or_else(crate::guest::missing) {
        eprintln!("SKIPPED guests_answer_probes_and_take_what_they_are_given: {why}");
        return;
    }
    let lab = Lab::new('g');
    assert!(lab.stage("guest").status().unwrap().success());
}

#[test]
fn a_guest_becomes_a_generation_and_its_clones_are_others() {
    if let Some(why) = crate::can_run().err().or_else(crate::guest::missing) {
        eprintln!("SKIPPED a_guest_becomes_a_generation_and_its_clones_are_others: {why}");
        return;
    }
    let lab = Lab::new('c');
    assert!(lab.stage("capture").status().unwrap().success());
}

#[test]
fn a_device_goes_from_one_guest_to_another_and_back() {
    if let Some(why) = crate::can_run().err().or_else(crate::device::missing) {
        eprintln!("SKIPPED a_device_goes_from_one_guest_to_another_and_back: {why}");
        return;
    }
    let lab = Lab::new('u');
    let stage = lab.stage("devices");
    let mut inside = Command::new(crate::device::wrapper());
    inside.arg(stage.get_program()).args(stage.get_args());
    for (key, value) in stage.get_envs() {
        inside.env(key, value.unwrap_or_default());
    }
    assert!(inside.status().unwrap().success());
}
