//! A laboratory of one test, and a guest in it that counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stablehand::execute::{Actuator, Done, Progress, StepError};
use stablehand::host::RealFleet;
use stablehand::model::*;
use stablehand::observe::{Look, Observer};
use stablehand::plan::{
    DiskFrom, DomainDisk, DomainNic, DomainSpec, KernelBoot, MigrateHow, NewDisk, Op, Seed, SeedNic, Step,
};

use crate::host::name;

/// One laboratory at a time: two would measure each other.
static ONE: Mutex<()> = Mutex::new(());

/// Where the quickstart's guest is built.
fn built(file: &str) -> String {
    format!("{}/examples/quickstart/build/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn digest(file: &str) -> Digest {
    let text = std::fs::read_to_string(built(&format!("{file}.sha256"))).unwrap();
    Digest::new(&format!("sha256:{}", &text[..64])).unwrap()
}

/// Why these tests cannot run, when they cannot.
pub(super) fn missing() -> Option<String> {
    if let Err(missing) = crate::can_run() {
        return Some(missing);
    }
    for program in ["libvirtd", "virtlogd", "nsenter", "openssl", "ss"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        if !found.is_ok_and(|o| o.status.success()) {
            return Some(format!("`{program}` is not installed"));
        }
    }
    crate::guest::missing()
}

/// Several hosts, gone when this is dropped, also after a panic.
pub(super) struct Lab {
    name: String,
    net: String,
    folder: tempfile::TempDir,
    pub(super) fleet: RealFleet,
    pub(super) desired: Desired,
    _one: MutexGuard<'static, ()>,
}

impl Lab {
    /// Brings up hosts; `options` are those of `lab up`, `migration` is what each host's document says of moves.
    pub(super) fn up(name: &str, octet: u8, options: &[&str], migration: &str) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let net = format!("10.{octet}.7");
        let folder = tempfile::tempdir().unwrap();
        // What a test that was killed left behind.
        run(name, &net, &["down"]);
        let mut words = vec!["up", "2"];
        words.extend(options);
        assert!(run(name, &net, &words), "the laboratory {name} does not come up");
        let shared = if options.contains(&"--shared") { ", shared: common" } else { "" };
        let mut text = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: t}\nspec: {}\n".to_owned();
        for n in 1..=2 {
            let tool = format!("{}/tests/lab/lab", env!("CARGO_MANIFEST_DIR"));
            let migration = migration.replace("HOST", &format!("h{n}")).replace("NET", &net);
            text += &format!(
                "---\napiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {{name: h{n}}}\nspec:\n  \
                 connection: qemu+tcp://{net}.1{n}/system\n  \
                 shell: {{command: [env, LAB={name}, LAB_NET={net}, {tool}, shell, h{n}]}}\n  slots: 4\n  \
                 acceleration: tcg\n  \
                 storage: {{images: /var/lib/stablehand/images, slots: /var/lib/stablehand/slots{shared}}}\n  \
                 migration: {migration}\n"
            );
        }
        std::fs::write(folder.path().join("fleet.yaml"), text).unwrap();
        let snapshot = stablehand::source::folder(folder.path()).unwrap();
        let desired = stablehand::config::load(&snapshot).unwrap_or_else(|e| panic!("{e:#?}")).desired;
        let fleet = RealFleet::new(&desired, folder.path(), RealFleet::this_process("tester", "test"));
        Self { name: name.to_owned(), net, folder, fleet, desired, _one: one }
    }

    /// A verb of the laboratory that must succeed.
    pub(super) fn must(&self, words: &[&str]) {
        assert!(run(&self.name, &self.net, words), "lab {words:?}");
    }

    /// The same beside the test, some time later.
    pub(super) fn later(&self, after: Duration, words: &'static [&'static str]) -> std::thread::JoinHandle<()> {
        let (name, net) = (self.name.clone(), self.net.clone());
        std::thread::spawn(move || {
            std::thread::sleep(after);
            assert!(run(&name, &net, words), "lab {words:?}");
        })
    }

    /// What a program on a host prints, by its keyboard: also when it is cut off.
    pub(super) fn says(&self, host: &str, words: &[&str]) -> String {
        let output = tool(&self.name, &self.net).args(["console", host]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until a domain pauses on a host: with a migration, for the hand-over.
    pub(super) async fn waits_for_pause(&self, host: &str, domain: &str) -> bool {
        let mut command = tool(&self.name, &self.net);
        command.args([
            "console",
            host,
            "virsh",
            "event",
            "--event",
            "lifecycle",
            "--timeout",
            "60",
            "--domain",
            domain,
        ]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("Suspended")
    }

    /// The numbers of the QEMU processes of a guest on a host.
    pub(super) fn emulators(&self, host: &str, vm: &str) -> Vec<String> {
        let said = self.says(host, &["pgrep", "-f", &format!("guest=t\\.{vm},")]);
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// The fleet's folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the laboratory keeps what is its own.
    pub(super) fn state(&self) -> PathBuf {
        Path::new("/var/lib").join(&self.name)
    }

    /// Begins to hear all that passes the cable of `h1`.
    pub(super) fn tap(&self) -> Tap {
        let file = self.folder.path().join("tap.pcap");
        let _ = std::fs::remove_file(&file);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "tcpdump", "-i", "h1", "-s", "0", "-B", "65536", "-U", "-w"]);
        let child = command.arg(&file).args(["-Z", "root"]).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !file.exists() {
            assert!(Instant::now() < until, "tcpdump does not begin");
            std::thread::sleep(Duration::from_millis(50));
        }
        Tap { child, file }
    }

    pub(super) fn address(&self, last: u8) -> std::net::Ipv4Addr {
        format!("{}.{last}", self.net).parse().unwrap()
    }

    pub(super) async fn step(&self, host: &str, op: Op) -> Result<Done, StepError> {
        self.step_told(host, op, &Told::default()).await
    }

    pub(super) async fn step_told(&self, host: &str, op: Op, told: &Told) -> Result<Done, StepError> {
        let began = Instant::now();
        let text = op.describe();
        let result = self.fleet.perform(&Step { host: name(host), op }, told).await;
        println!("  {:>6} ms  {host} {text}: {result:?}", began.elapsed().as_millis());
        result
    }

    pub(super) async fn done(&self, host: &str, op: Op) -> Done {
        let result = self.step(host, op.clone()).await;
        result.unwrap_or_else(|e| panic!("{host} {op:?}: {e:?}"))
    }

    pub(super) async fn observe(&self) -> Observed {
        self.fleet.observe(&self.desired, Look { probe: false }).await
    }

    /// Waits until all hosts answer.
    pub(super) async fn is_whole(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let unknown = self.observe().await.hosts.into_iter().find(|(_, seen)| seen.known().is_none());
            match unknown {
                None => return,
                Some(unknown) => assert!(Instant::now() < until, "{unknown:?}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What a host says of a VM; `None` without one.
    pub(super) async fn seen(&self, host: &str, vm: &Name) -> Option<VmObs> {
        let observed = self.observe().await;
        match &observed.hosts[&name(host)] {
            Observation::Known(seen) => seen.vms.get(vm).cloned(),
            other => panic!("{host}: {other:?}"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        run(&self.name, &self.net, &["down"]);
    }
}

fn tool(name: &str, net: &str) -> Command {
    let mut command = Command::new(format!("{}/tests/lab/lab", env!("CARGO_MANIFEST_DIR")));
    command.env("LAB", name).env("LAB_NET", net).stdin(Stdio::null());
    command
}

fn run(name: &str, net: &str, words: &[&str]) -> bool {
    tool(name, net).args(words).stdout(Stdio::null()).status().unwrap().success()
}

/// A wiretap.
pub(super) struct Tap {
    child: std::process::Child,
    file: PathBuf,
}

impl Tap {
    /// How often a text passed, and how many bytes in all.
    pub(super) fn heard(mut self, text: &str) -> (usize, usize) {
        // What the kernel has for it comes with the next packets.
        std::thread::sleep(Duration::from_secs(1));
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let all = std::fs::read(&self.file).unwrap();
        let text = text.as_bytes();
        (all.windows(text.len()).filter(|w| *w == text).count(), all.len())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Hears what a move took.
#[derive(Default)]
pub(super) struct Told {
    pub(super) moves: Mutex<Vec<PastMove>>,
    /// Highest figures of a job.
    pub(super) far: Mutex<(u64, u64)>,
}

impl Progress for Told {
    fn advance(&self, done: u64, total: u64) {
        *self.far.lock().unwrap() = (done, total);
    }
    fn moved(&self, past: &PastMove) {
        self.moves.lock().unwrap().push(past.clone());
    }
}

/// The quickstart's guest, which counts on its data disk and gives the count by HTTP.
pub(super) struct Guest<'l> {
    pub(super) lab: &'l Lab,
    pub(super) vm: Name,
    address: std::net::Ipv4Addr,
}

/// What the guest has counted: its boot, and seconds of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Count {
    pub(super) boot: String,
    pub(super) last: f64,
    pub(super) lines: usize,
}

impl<'l> Guest<'l> {
    pub(super) fn new(lab: &'l Lab, vm: &str) -> Self {
        Self { lab, vm: name(vm), address: lab.address(40) }
    }
    pub(super) fn uuid(&self) -> uuid::Uuid {
        domain_uuid(&name("t"), &self.vm, 1)
    }
    fn image(file: &str) -> String {
        format!("/var/lib/stablehand/images/{}-{file}", digest(file).short())
    }
    pub(super) fn slot(&self, disk: &str) -> String {
        let extension = if disk == "seed" { "iso" } else { "qcow2" };
        format!("/var/lib/stablehand/slots/{}", disk_file_name(&name("t"), &self.vm, 1, disk, extension))
    }
    fn spec(&self) -> DomainSpec {
        let disk = |disk: &str, target: &str, format| DomainDisk {
            name: disk.to_owned(),
            path: self.slot(disk),
            target: target.to_owned(),
            format,
            readonly: disk == "seed",
        };
        DomainSpec {
            vm: self.vm.clone(),
            domain: domain_name(&name("t"), &self.vm),
            uuid: self.uuid(),
            cpus: 1,
            max_cpus: 1,
            memory: Bytes::mib(96),
            max_memory: Bytes::mib(96),
            machine: "pc-q35-7.2".to_owned(),
            firmware: Firmware::Bios,
            cpu_model: None,
            acceleration: Acceleration::Tcg,
            display: Display { width: 1024, height: 768 },
            kernel: Some(KernelBoot {
                kernel: Self::image("vmlinuz"),
                initrd: Some(Self::image("initrd")),
                command_line: "console=tty0 console=ttyS0 root=/dev/vda rw quiet".to_owned(),
            }),
            disks: vec![
                disk("root", "vda", ImageFormat::Qcow2),
                disk("seed", "vdb", ImageFormat::Raw),
                disk("data", "vdc", ImageFormat::Qcow2),
            ],
            nics: vec![DomainNic {
                name: name("lan"),
                mac: nic_mac(&name("t"), &self.vm, &name("lan")),
                bridge: "br0".to_owned(),
                tap: tap_name(&name("t"), &self.vm, &name("lan")),
            }],
            devices: Vec::new(),
            container: None,
            console: format!("/var/lib/stablehand/slots/t.{}.console", self.vm),
        }
    }
    fn stamp(&self) -> Stamp {
        let nic = NicStamp { address: Some(self.address), ..NicStamp::new(self.spec().nics[0].mac) };
        Stamp {
            fleet: name("t"),
            vm: self.vm.clone(),
            incarnation: 1,
            protect: Protection::default(),
            spec: "spec".to_owned(),
            image: None,
            image_name: None,
            rolled: None,
            management: None,
            seed: "seed".to_owned(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            group: "g".into(),
            after: Vec::new(),
            ready: Some(Probe { kind: ProbeKind::Tcp { port: 80 }, within: Span::secs(60), every: Span(250) }),
            guard: None,
            quarantine: None,
            stop: StopPolicy { deadline: Span::secs(20), power_off: false },
            persistent_root: false,
            root: None,
            adopted: None,
            tasks: BTreeMap::new(),
            leased: None,
        }
    }
    pub(super) fn disk_stamp(&self, disk: &str, epoch: u64, phase: DiskPhase) -> DiskStamp {
        DiskStamp {
            fleet: name("t"),
            vm: self.vm.clone(),
            disk: disk.to_owned(),
            incarnation: 1,
            epoch,
            expires: None,
            made_from: None,
            on_remove: OnRemove::Delete,
            phase,
            marked: None,
        }
    }

    /// Images of the guest on a host.
    pub(super) async fn fetch(&self, host: &str) {
        for file in ["tiny.qcow2", "vmlinuz", "initrd"] {
            let image = ImageFile::new(Source::Path(built(file).into()), digest(file));
            self.lab.done(host, Op::PutImage { file: image, path: Self::image(file), note: None }).await;
        }
    }

    /// Images of the guest on a host, out of another host's store.
    pub(super) async fn fetch_from(&self, host: &str, from: &str) {
        for file in ["tiny.qcow2", "vmlinuz", "initrd"] {
            let op = Op::CopyImage { from: name(from), path: Self::image(file), digest: digest(file) };
            assert_eq!(self.lab.done(host, op.clone()).await, Done::Changed);
            assert_eq!(self.lab.done(host, op).await, Done::Already);
        }
    }

    fn new_disk(&self, disk: &str, epoch: u64, phase: DiskPhase) -> NewDisk {
        let (format, method) = (ImageFormat::Qcow2, CloneMethod::Overlay);
        let (from, size) = match disk {
            "root" => (DiskFrom::Image { path: Self::image("tiny.qcow2"), format, method }, None),
            _ => (DiskFrom::Blank, Some(Bytes::mib(64))),
        };
        NewDisk { path: self.slot(disk), stamp: self.disk_stamp(disk, epoch, phase), from, size }
    }

    /// Makes it on a host and waits until it counts. `secret` is kept in a file and in memory.
    pub(super) async fn make(&self, host: &str, secret: &str) {
        self.fetch(host).await;
        let (lab, spec) = (self.lab, self.spec());
        let record = self.record(host, None, 0);
        lab.done(host, Op::Record { vm: self.vm.clone(), record }).await;
        for disk in ["root", "data"] {
            lab.done(host, Op::MakeDisk(self.new_disk(disk, 1, DiskPhase::Valid))).await;
        }
        let nic = SeedNic { address: Some(format!("{}/24", self.address)), ..SeedNic::new(spec.nics[0].mac) };
        // `tmp` is memory, `/data` is disk.
        let user_data = format!(
            "#cloud-config\nruncmd:\n- ln -s /data/data/counter /www/counter\n\
             - for i in $(seq 2000); do echo {secret}; done >/tmp/secret\n- cp /tmp/secret /data/data/secret\n\
             - dd if=/dev/urandom of=/data/data/ballast bs=1M count=20\n- sync\n"
        );
        let seed = Seed {
            instance: self.uuid(),
            hostname: self.vm.clone(),
            nics: BTreeMap::from([(name("lan"), nic)]),
            user_data: Some(user_data.into()),
            ssh_keys: Vec::new(),
        };
        let stamp = self.disk_stamp("seed", 1, DiskPhase::Valid);
        lab.done(host, Op::MakeSeed { path: self.slot("seed"), stamp, seed, replace: false }).await;
        lab.done(host, Op::Define { domain: spec, stamp: self.stamp() }).await;
        lab.done(host, Op::Start { vm: self.vm.clone(), uuid: self.uuid() }).await;
        self.ready(host).await;
    }

    pub(super) fn record(&self, host: &str, from: Option<&str>, moves: u32) -> PlacementRecord {
        PlacementRecord {
            from: from.map(name),
            moves,
            addresses: BTreeMap::from([(name("lan"), self.address)]),
            ..PlacementRecord::new(name(host), 1)
        }
    }

    pub(super) async fn ready(&self, host: &str) {
        let kind = ProbeKind::Http { port: 80, path: "/counter".into(), status: 200 };
        let probe = Some(Probe { kind, within: Span::secs(60), every: Span(200) });
        let op = Op::AwaitReady { vm: self.vm.clone(), uuid: self.uuid(), probe, address: Some(self.address.into()) };
        self.lab.done(host, op).await;
    }

    /// Its count, as it gives it over the network; `None` when it does not answer.
    pub(super) fn count(&self) -> Option<Count> {
        use std::io::{Read, Write};
        let timeout = Duration::from_secs(2);
        let mut stream = std::net::TcpStream::connect_timeout(&(self.address, 80).into(), timeout).ok()?;
        stream.set_read_timeout(Some(timeout)).ok()?;
        stream.write_all(b"GET /counter HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        let mut count = Count { boot: String::new(), last: 0.0, lines: 0 };
        for line in body.lines() {
            let (boot, uptime) = line.split_once(' ')?;
            // What a guest that was killed had not yet written through stands as zeros in its file (ext4(5), `data=ordered`).
            let boot = boot.trim_start_matches('\0');
            let uptime: f64 = uptime.parse().ok()?;
            if boot == count.boot {
                assert!(uptime > count.last, "the count went back: {body}");
            }
            count = Count { boot: boot.to_owned(), last: uptime, lines: count.lines + 1 };
        }
        Some(count)
    }

    /// Its count, waited for.
    pub(super) fn counts(&self) -> Count {
        let until = Instant::now() + Duration::from_secs(40);
        while Instant::now() < until {
            if let Some(count) = self.count() {
                return count;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{} does not answer", self.vm);
    }

    /// It is the same boot, and it goes on counting.
    pub(super) fn goes_on(&self, before: &Count) {
        let first = self.counts();
        assert_eq!(first.boot, before.boot, "it is the same boot");
        assert!(first.last >= before.last && first.lines >= before.lines, "nothing was lost: {before:?}, {first:?}");
        std::thread::sleep(Duration::from_millis(2300));
        let second = self.counts();
        assert!(second.last > first.last && second.boot == first.boot, "it counts: {first:?}, {second:?}");
    }

    pub(super) fn how(&self, to: &str, transport: Transport, storage: bool) -> MigrateHow {
        let migration = &self.lab.desired.hosts[&name(to)].migration;
        MigrateHow {
            uri: migration.uri.as_deref().unwrap().to_owned(),
            address: migration.address.as_deref().map(str::to_owned),
            transport,
            storage,
            auto_converge: true,
            post_copy: false,
            max_pause: Span(300),
            bandwidth: migration.bandwidth,
            time_limit: Span::secs(90),
        }
    }

    /// Steps 1 to 4 of a live move with storage.
    pub(super) async fn prepare(&self, from: &str, to: &str, moves: u32) {
        let (lab, vm) = (self.lab, &self.vm);
        let record = self.record(to, Some(from), moves);
        for host in [to, from] {
            lab.done(host, Op::Record { vm: vm.clone(), record: record.clone() }).await;
        }
        let phase = DiskPhase::Incoming { from: name(from) };
        for disk in ["root", "data"] {
            lab.done(to, Op::MakeDisk(self.new_disk(disk, u64::from(moves) + 1, phase.clone()))).await;
        }
        let stamp = self.disk_stamp("seed", u64::from(moves) + 1, phase);
        lab.done(to, Op::CopyDisk { from: name(from), path: self.slot("seed"), stamp }).await;
    }

    /// Step 5.
    pub(super) async fn migrate(&self, from: &str, to: &str, how: &MigrateHow, told: &Told) -> Result<Done, StepError> {
        let op = Op::Migrate { vm: self.vm.clone(), uuid: self.uuid(), to: name(to), how: how.clone() };
        self.lab.step_told(from, op, told).await
    }

    /// Steps 6 to 11.
    pub(super) async fn finish(&self, from: &str, to: &str, moves: u32) {
        let (lab, vm) = (self.lab, &self.vm);
        let epoch = u64::from(moves) + 1;
        for disk in ["root", "seed", "data"] {
            let stamp = self.disk_stamp(disk, epoch, DiskPhase::Valid);
            lab.done(to, Op::StampDisk { path: self.slot(disk), stamp }).await;
        }
        lab.done(to, Op::Announce { vm: vm.clone(), uuid: self.uuid() }).await;
        self.ready(to).await;
        for disk in ["root", "data"] {
            let path = self.slot(disk);
            let kept = path.replace(".qcow2", &format!(".moved{moves}.qcow2"));
            let stamp = DiskStamp {
                expires: Some(Timestamp(4_000_000_000)),
                ..self.disk_stamp(disk, epoch - 1, DiskPhase::Moved { to: name(to) })
            };
            let op = Op::RetireDisk { path, to: kept, stamp };
            assert_eq!(lab.done(from, op.clone()).await, Done::Changed);
            assert_eq!(lab.done(from, op).await, Done::Already);
        }
        lab.done(from, Op::DeleteDisk { path: self.slot("seed"), vm: vm.clone() }).await;
        let record = self.record(to, None, moves);
        lab.done(to, Op::Record { vm: vm.clone(), record }).await;
        lab.done(from, Op::Unrecord { vm: vm.clone() }).await;
    }

    /// A cold move, from the records to the end at the source: stopped, or suspended with its memory.
    pub(super) async fn copy_over(&self, from: &str, to: &str, moves: u32, saved: bool) {
        let (lab, vm, uuid) = (self.lab, &self.vm, self.uuid());
        let began = Instant::now();
        let told = Told::default();
        let epoch = u64::from(moves) + 1;
        for host in [to, from] {
            lab.done(host, Op::Record { vm: vm.clone(), record: self.record(to, Some(from), moves) }).await;
        }
        for disk in ["root", "seed", "data"] {
            let stamp = self.disk_stamp(disk, epoch, DiskPhase::Incoming { from: name(from) });
            let op = Op::CopyDisk { from: name(from), path: self.slot(disk), stamp };
            assert_eq!(lab.step_told(to, op, &told).await, Ok(Done::Changed));
        }
        let define = Op::DefineFrom { vm: vm.clone(), uuid, from: name(from), stamp: self.stamp() };
        assert_eq!(lab.done(to, define.clone()).await, Done::Changed);
        assert_eq!(lab.done(to, define).await, Done::Already);
        if saved {
            let copy = Op::CopySave { vm: vm.clone(), uuid, from: name(from) };
            assert_eq!(lab.step_told(to, copy.clone(), &told).await, Ok(Done::Changed));
            assert_eq!(lab.done(to, copy).await, Done::Already);
        }
        for disk in ["root", "data"] {
            let kept = self.slot(disk).replace(".qcow2", &format!(".moved{moves}.qcow2"));
            let stamp = self.disk_stamp(disk, epoch - 1, DiskPhase::Moved { to: name(to) });
            lab.done(from, Op::RetireDisk { path: self.slot(disk), to: kept, stamp }).await;
        }
        for disk in ["root", "seed", "data"] {
            let stamp = self.disk_stamp(disk, epoch, DiskPhase::Valid);
            lab.done(to, Op::StampDisk { path: self.slot(disk), stamp }).await;
        }
        lab.done(from, Op::Undefine { vm: vm.clone(), uuid, drop_save: true }).await;
        lab.done(from, Op::DeleteDisk { path: self.slot("seed"), vm: vm.clone() }).await;
        lab.done(to, Op::Record { vm: vm.clone(), record: self.record(to, None, moves) }).await;
        lab.done(from, Op::Unrecord { vm: vm.clone() }).await;
        let bytes: u64 = told.moves.lock().unwrap().iter().map(|m| m.bytes.0).sum();
        println!("cold, saved: {saved}: {} ms, {}", began.elapsed().as_millis(), Bytes(bytes));
    }

    /// It runs on this host, and nowhere else is anything of it active.
    pub(super) async fn is_at(&self, host: &str) {
        for (name, seen) in self.lab.observe().await.hosts {
            let Observation::Known(seen) = seen else { panic!("{name}: {seen:?}") };
            let power = seen.vms.get(&self.vm).map(|v| v.power);
            match name.as_str() == host {
                true => assert_eq!(power, Some(Power::Running), "{name}"),
                false => assert!(!power.is_some_and(Power::is_active), "{name}: {power:?}"),
            }
        }
    }
}
