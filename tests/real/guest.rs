//! The host room with a guest that answers: the quickstart's, which has a web server, a balloon and a guest agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stablehand::execute::{Done, StepError};
use stablehand::model::*;
use stablehand::plan::{DiskFrom, DomainDisk, DomainNic, DomainSpec, KernelBoot, NewDisk, Op, Seed, SeedNic};

use crate::host::{World, name};

/// Where the quickstart's guest is built.
fn built(file: &str) -> String {
    format!("{}/examples/quickstart/build/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Why this cannot run, when it cannot.
pub(crate) fn missing() -> Option<String> {
    let there = ["vmlinuz", "initrd", "tiny.qcow2"].iter().all(|f| Path::new(&built(f)).exists());
    (!there).then(|| "the guest is not built: run examples/quickstart/guest/build".to_owned())
}

fn digest(file: &str) -> Digest {
    let text = std::fs::read_to_string(built(&format!("{file}.sha256"))).unwrap();
    Digest::new(&format!("sha256:{}", &text[..64])).unwrap()
}

struct Guest<'w> {
    world: &'w World,
    vm: Name,
    address: std::net::Ipv4Addr,
}

impl Guest<'_> {
    fn uuid(&self) -> uuid::Uuid {
        domain_uuid(&name("t"), &self.vm, 1)
    }
    fn image(&self, file: &str) -> String {
        self.world.path(&format!("images/{}-{file}", digest(file).short()))
    }
    fn slot(&self, disk: &str, extension: &str) -> String {
        self.world.path(&format!("slots/{}", disk_file_name(&name("t"), &self.vm, 1, disk, extension)))
    }
    fn spec(&self) -> DomainSpec {
        let disk = |disk: &str, target: &str, format, readonly| {
            let extension = if readonly { "iso" } else { "qcow2" };
            DomainDisk {
                name: disk.to_owned(),
                path: self.slot(disk, extension),
                target: target.to_owned(),
                format,
                readonly,
            }
        };
        DomainSpec {
            vm: self.vm.clone(),
            domain: domain_name(&name("t"), &self.vm),
            uuid: self.uuid(),
            cpus: 1,
            max_cpus: 2,
            memory: Bytes::mib(96),
            max_memory: Bytes::mib(192),
            machine: "pc-q35-7.2".to_owned(),
            firmware: Firmware::Bios,
            cpu_model: None,
            acceleration: Acceleration::Auto,
            display: Display { width: 1024, height: 768 },
            kernel: Some(KernelBoot {
                kernel: self.image("vmlinuz"),
                initrd: Some(self.image("initrd")),
                command_line: "console=tty0 console=ttyS0 root=/dev/vda rw quiet".to_owned(),
            }),
            disks: vec![
                disk("root", "vda", ImageFormat::Qcow2, false),
                disk("seed", "vdb", ImageFormat::Raw, true),
                disk("data", "vdc", ImageFormat::Qcow2, false),
            ],
            nics: vec![DomainNic {
                name: name("lan"),
                mac: nic_mac(&name("t"), &self.vm, &name("lan")),
                bridge: World::bridge(),
                tap: tap_name(&name("t"), &self.vm, &name("lan")),
            }],
            devices: Vec::new(),
            container: None,
            console: self.world.path(&format!("slots/t.{}.console", self.vm)),
        }
    }
    fn stamp(&self) -> Stamp {
        let nic = NicStamp { mac: self.spec().nics[0].mac, address: Some(self.address) };
        Stamp {
            vm: self.vm.clone(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            ready: Some(self.probe(ProbeKind::Tcp { port: 80 })),
            ..self.world.stamp()
        }
    }
    fn probe(&self, kind: ProbeKind) -> Probe {
        Probe { kind, within: Span::secs(90), every: Span(250) }
    }
    async fn ready(&self, kind: ProbeKind) -> Result<Done, StepError> {
        let probe = Some(self.probe(kind));
        let op = Op::AwaitReady { vm: self.vm.clone(), uuid: self.uuid(), probe, address: Some(self.address) };
        self.world.step(op).await
    }
    async fn exec(&self, command: &str) -> bool {
        let command: Vec<Arc<str>> = ["/bin/sh", "-c", command].map(Arc::from).to_vec();
        let probe = Some(Probe { kind: ProbeKind::AgentExec { command }, within: Span::secs(10), every: Span(500) });
        let op = Op::AwaitReady { vm: self.vm.clone(), uuid: self.uuid(), probe, address: None };
        self.world.step(op).await.is_ok()
    }
    async fn seen(&self) -> VmObs {
        self.world.observe().await.vms.remove(&self.vm).unwrap()
    }

    async fn make(&self) {
        let (world, vm, spec) = (self.world, self.vm.clone(), self.spec());
        for file in ["tiny.qcow2", "vmlinuz", "initrd"] {
            let image = ImageFile::new(Source::Path(built(file).into()), digest(file));
            assert!(world.step(Op::PutImage { file: image, path: self.image(file), note: None }).await.is_ok());
        }
        let disk = |disk: &str| DiskStamp { vm: vm.clone(), disk: disk.to_owned(), ..world.disk(disk) };
        let (format, method) = (ImageFormat::Qcow2, CloneMethod::Overlay);
        let from = DiskFrom::Image { path: self.image("tiny.qcow2"), format, method };
        let root = NewDisk { path: self.slot("root", "qcow2"), stamp: disk("root"), from, size: None };
        world.done(Op::MakeDisk(root)).await;
        let size = Some(Bytes::mib(64));
        let data = NewDisk { path: self.slot("data", "qcow2"), stamp: disk("data"), from: DiskFrom::Blank, size };
        world.done(Op::MakeDisk(data)).await;
        let nic = SeedNic {
            mac: spec.nics[0].mac,
            address: Some(format!("{}/24", self.address)),
            gateway: None,
            dns: Vec::new(),
        };
        let seed = Seed {
            instance: self.uuid(),
            hostname: vm.clone(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            user_data: Some("#cloud-config\nwrite_files:\n- path: /www/motd\n  content: \"hello\"\n".into()),
            ssh_keys: Vec::new(),
        };
        let path = self.slot("seed", "iso");
        world.done(Op::MakeSeed { path, stamp: disk("seed"), seed, replace: false }).await;
        world.done(Op::Define { domain: spec, stamp: self.stamp() }).await;
        world.done(Op::Start { vm, uuid: self.uuid() }).await;
    }
}

/// Two guests at once: made, probed, grown, saved, stopped, removed.
pub(crate) async fn run(world: &World) {
    let guest = |n: u8| Guest { world, vm: name(&format!("g-{n}")), address: [10, 250, 9, 10 + n].into() };
    let guests = [guest(1), guest(2)];
    let address = Some("10.250.9.1/24".to_owned());
    // The first look at a fresh root probes every QEMU binary; so it does for a person.
    world.observe().await;
    world.done(Op::MakeBridge { bridge: World::bridge(), address, fleet: name("t") }).await;
    let http = |status| ProbeKind::Http { port: 80, path: "/".into(), status };
    let up = |guest| async move {
        let guest: &Guest<'_> = guest;
        guest.make().await;
        let ready = guest.ready(http(200)).await;
        assert!(ready.is_ok(), "{ready:?}");
    };
    let began = Instant::now();
    futures_util::future::join(up(&guests[0]), up(&guests[1])).await;
    println!("  two guests made and ready in {} ms", began.elapsed().as_millis());

    let [one, two] = &guests;
    let (vm, uuid) = (one.vm.clone(), one.uuid());
    let short = Some(Probe { kind: http(503), within: Span(600), every: Span(200) });
    let wrong = Op::AwaitReady { vm: vm.clone(), uuid, probe: short, address: Some(one.address) };
    let Err(StepError::Failed { what, detail, .. }) = world.step(wrong).await else { panic!("it does not answer 503") };
    assert!(what.contains("answers 200, not 503"), "{what}");
    assert!(detail.iter().any(|l| l.contains("ready")), "the end of the console explains: {detail:?}");

    assert!(one.ready(ProbeKind::AgentPing).await.is_ok());
    assert!(one.exec("test \"$(hostname)\" = g-1 && test \"$(cat /www/motd)\" = hello").await, "the seed was read");
    let seen = one.seen().await;
    let live = seen.live.clone().unwrap();
    assert_eq!(Shape { memory: Bytes::mib(96), ..live.clone() }, seen.config, "what runs is what was defined");
    assert_eq!(live.memory, Bytes::mib(96), "the balloon took what is over");
    assert_eq!(seen.ready, Readiness::Ready);

    world.done(Op::SetMemory { vm: vm.clone(), uuid, memory: Bytes::mib(160) }).await;
    world.done(Op::SetCpus { vm: vm.clone(), uuid, cpus: 2 }).await;
    world.done(Op::GrowDisk { vm: vm.clone(), uuid, path: one.slot("data", "qcow2"), size: Bytes::mib(96) }).await;
    let live = one.seen().await.live.unwrap();
    assert_eq!((live.memory, live.cpus), (Bytes::mib(160), 2));
    assert!(one.exec("test $(cat /sys/block/vdc/size) = 196608 || test $(cat /sys/block/vdb/size) = 196608").await);

    assert!(one.exec("cat /proc/sys/kernel/random/boot_id >/run/was").await);
    world.done(Op::Suspend { vm: vm.clone(), uuid }).await;
    world.done(Op::Start { vm: vm.clone(), uuid }).await;
    assert!(one.ready(http(200)).await.is_ok());
    assert!(
        one.exec("test \"$(cat /run/was)\" = \"$(cat /proc/sys/kernel/random/boot_id)\"").await,
        "it is the same boot"
    );

    for guest in [one, two] {
        let policy = StopPolicy { deadline: Span::secs(20), power_off: false };
        world.done(Op::Stop { vm: guest.vm.clone(), uuid: guest.uuid(), policy }).await;
        world.done(Op::Undefine { vm: guest.vm.clone(), uuid: guest.uuid(), drop_save: false }).await;
        for disk in guest.spec().disks {
            world.done(Op::DeleteDisk { path: disk.path, vm: guest.vm.clone() }).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.done(Op::RemoveBridge { bridge: World::bridge(), fleet: name("t") }).await;
}
