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

pub(crate) struct Guest<'w> {
    pub(crate) world: &'w World,
    pub(crate) vm: Name,
    pub(crate) address: std::net::Ipv4Addr,
    /// What its root disk is made of.
    pub(crate) image: String,
    pub(crate) management: Option<Management>,
    pub(crate) user_data: &'static str,
}

impl<'w> Guest<'w> {
    pub(crate) fn new(world: &'w World, vm: &str, number: u8) -> Self {
        let image = world.path(&format!("images/{}-tiny.qcow2", digest("tiny.qcow2").short()));
        let user_data = "#cloud-config\nwrite_files:\n- path: /www/motd\n  content: \"hello\"\n";
        Self { world, vm: name(vm), address: [10, 250, 9, number].into(), image, management: None, user_data }
    }
    pub(crate) fn uuid(&self) -> uuid::Uuid {
        domain_uuid(&name("t"), &self.vm, 1)
    }
    fn file(&self, file: &str) -> String {
        self.world.path(&format!("images/{}-{file}", digest(file).short()))
    }
    pub(crate) fn slot(&self, disk: &str, extension: &str) -> String {
        self.world.path(&format!("slots/{}", disk_file_name(&name("t"), &self.vm, 1, disk, extension)))
    }
    pub(crate) fn spec(&self) -> DomainSpec {
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
                kernel: self.file("vmlinuz"),
                initrd: Some(self.file("initrd")),
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
    pub(crate) fn stamp(&self) -> Stamp {
        let nic = NicStamp { address: Some(self.address), ..NicStamp::new(self.spec().nics[0].mac) };
        Stamp {
            vm: self.vm.clone(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            ready: Some(self.probe(ProbeKind::Tcp { port: 80 })),
            management: self.management.clone(),
            ..self.world.stamp()
        }
    }
    pub(crate) fn probe(&self, kind: ProbeKind) -> Probe {
        Probe { kind, within: Span::secs(90), every: Span(250) }
    }
    pub(crate) async fn ready(&self, kind: ProbeKind) -> Result<Done, StepError> {
        let probe = Some(self.probe(kind));
        let op = Op::AwaitReady { vm: self.vm.clone(), uuid: self.uuid(), probe, address: Some(self.address.into()) };
        self.world.step(op).await
    }
    pub(crate) async fn exec(&self, command: &str) -> bool {
        let command: Vec<Arc<str>> = ["/bin/sh", "-c", command].map(Arc::from).to_vec();
        let probe = Some(Probe { kind: ProbeKind::AgentExec { command }, within: Span::secs(10), every: Span(500) });
        let op = Op::AwaitReady { vm: self.vm.clone(), uuid: self.uuid(), probe, address: None };
        self.world.step(op).await.is_ok()
    }
    async fn seen(&self) -> VmObs {
        self.world.observe().await.vms.remove(&self.vm).unwrap()
    }

    pub(crate) async fn stop(&self) {
        let policy = StopPolicy { deadline: Span::secs(20), power_off: false };
        self.world.done(Op::Stop { vm: self.vm.clone(), uuid: self.uuid(), policy }).await;
    }
    pub(crate) async fn end(&self) {
        self.world.done(Op::Undefine { vm: self.vm.clone(), uuid: self.uuid(), drop_save: false }).await;
        for disk in self.spec().disks {
            self.world.done(Op::DeleteDisk { path: disk.path, vm: self.vm.clone() }).await;
        }
    }

    pub(crate) async fn make(&self) {
        let (world, vm, spec) = (self.world, self.vm.clone(), self.spec());
        for file in ["tiny.qcow2", "vmlinuz", "initrd"] {
            let image = ImageFile::new(Source::Path(built(file).into()), digest(file));
            assert!(world.step(Op::PutImage { file: image, path: self.file(file), note: None }).await.is_ok());
        }
        let disk = |disk: &str| DiskStamp { vm: vm.clone(), disk: disk.to_owned(), ..world.disk(disk) };
        let (format, method) = (ImageFormat::Qcow2, CloneMethod::Overlay);
        let from = DiskFrom::Image { path: self.image.clone(), format, method };
        let root = NewDisk { path: self.slot("root", "qcow2"), stamp: disk("root"), from, size: None };
        world.done(Op::MakeDisk(root)).await;
        let size = Some(Bytes::mib(64));
        let data = NewDisk { path: self.slot("data", "qcow2"), stamp: disk("data"), from: DiskFrom::Blank, size };
        world.done(Op::MakeDisk(data)).await;
        let nic = SeedNic { address: Some(format!("{}/24", self.address)), ..SeedNic::new(spec.nics[0].mac) };
        let seed = Seed {
            instance: self.uuid(),
            hostname: vm.clone(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            user_data: Some(self.user_data.into()),
            ssh_keys: Vec::new(),
        };
        let path = self.slot("seed", "iso");
        world.done(Op::MakeSeed { path, stamp: disk("seed"), seed, replace: false }).await;
        world.done(Op::Define { domain: spec, stamp: self.stamp() }).await;
        world.done(Op::Start { vm, uuid: self.uuid() }).await;
    }
}

/// A file of a guest's web server.
pub(crate) fn page(address: std::net::Ipv4Addr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect((address, 80)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {head}");
    body.to_owned()
}

/// Two guests at once: made, probed, grown, saved, stopped, removed.
pub(crate) async fn run(world: &World) {
    let guest = |n: u8| Guest::new(world, &format!("g-{n}"), 10 + n);
    let guests = [guest(1), guest(2)];
    let address = Some("10.250.9.1/24".to_owned());
    // The first look at a fresh root probes every QEMU binary; so it does for a person.
    world.observe().await;
    world
        .done(Op::MakeBridge {
            bridge: World::bridge(),
            address,
            address6: None,
            fleet: name("t"),
            uplink: None,
            border: Border::Open,
        })
        .await;
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
    let wrong = Op::AwaitReady { vm: vm.clone(), uuid, probe: short, address: Some(one.address.into()) };
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
        guest.stop().await;
        guest.end().await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.done(Op::RemoveBridge { bridge: World::bridge(), fleet: name("t"), uplink: None }).await;
}
