//! A controller that dies between a new packet filter and its word that the host can still be reached by it: over ssh, with
//! SIGKILL. The host takes the old filter back by itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::CLEAR;
use super::lab::Lab;
use super::reach::Sshd;

/// One host over ssh, one VM.
const FLEET: &str = "apiVersion: stablehand/v1alpha1
kind: Fleet
metadata: {name: t}
spec: {defaults: {machine: pc-q35-7.2, stop: {deadline: 1s, powerOff: true}}}
---
apiVersion: stablehand/v1alpha1
kind: Host
metadata: {name: h2}
spec:
  connection: qemu+ssh://root@ADDRESS:2222/system
  shell: {ssh: {user: root, port: 2222, identity: IDENTITY}}
  slots: 4
  acceleration: tcg
---
apiVersion: stablehand/v1alpha1
kind: Network
metadata: {name: lan}
spec:
  bridge: {name: br0}
  mode: routed
  subnet: NET.0/24
  addressing: static
  range: {from: NET.100, to: NET.199}
---
apiVersion: stablehand/v1alpha1
kind: Image
metadata: {name: tiny}
spec:
  source: {path: BUILD/tiny.qcow2}
  digest: sha256:DISK
  format: qcow2
  boot:
    kernel: {path: BUILD/vmlinuz, digest: \"sha256:KERNEL\"}
    initrd: {path: BUILD/initrd, digest: \"sha256:INITRD\"}
    commandLine: console=tty0 console=ttyS0 root=/dev/vda rw quiet no_timer_check
  learnsAddressBy: cloud-init
---
apiVersion: stablehand/v1alpha1
kind: Service
metadata: {name: shop}
spec:
  run: started
  apps:
    web: {image: tiny, cpus: 1, memory: 96MiB, nics: {lan: {network: lan}}}
  access:
    visitors: {app: web, from: {cidr: NET.2/32}, ports: [tcp/80]}
";

struct Fleet<'l> {
    lab: &'l Lab,
    folder: tempfile::TempDir,
    /// The host's own files.
    root: PathBuf,
}

impl<'l> Fleet<'l> {
    fn new(lab: &'l Lab, sshd: &Sshd) -> Self {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/build");
        let sum = |file: &str| {
            let text = std::fs::read_to_string(build.join(format!("{file}.sha256"))).unwrap();
            text.split_whitespace().next().unwrap().to_owned()
        };
        let net = lab.address(0).to_string();
        let text = FLEET
            .replace("ADDRESS", &sshd.address)
            .replace("IDENTITY", sshd.folder.join("user").to_str().unwrap())
            .replace("NET", net.strip_suffix(".0").unwrap())
            .replace("BUILD", build.to_str().unwrap())
            .replace("DISK", &sum("tiny.qcow2"))
            .replace("KERNEL", &sum("vmlinuz"))
            .replace("INITRD", &sum("initrd"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("fleet")).unwrap();
        std::fs::write(folder.path().join("fleet/fleet.yaml"), text).unwrap();
        let pid = std::fs::read_to_string(lab.state().join("h2/pid")).unwrap();
        Self { lab, folder, root: PathBuf::from(format!("/proc/{}/root", pid.trim())) }
    }
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
        let at = |part: &str| self.folder.path().join(part);
        command.arg("--fleet").arg(at("fleet")).arg("--state-dir").arg(at("state")).args(words);
        command.stdin(Stdio::null());
        command
    }
    fn must(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{words:?}: {status}\n{text}");
        text
    }
    fn edit(&self, from: &str, to: &str) {
        let path = self.folder.path().join("fleet/fleet.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    }
    /// The filter of the host, as a sorted list of words: elements are printed as the kernel's hash has them.
    fn table(&self) -> Vec<String> {
        let text = self.lab.says("h2", &["nft", "list", "ruleset"]);
        let mut words: Vec<String> = text.split([' ', ',', '\n', '\t']).map(str::to_owned).collect();
        words.sort();
        words
    }
    /// The timers that run on the host.
    fn armed(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.root.join("run/stablehand/rules-t-h2")).into_iter().flatten().flatten();
        let names = all.map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|n| n.strip_prefix("armed.").is_some_and(|pid| !pid.contains('.'))).collect()
    }
}

#[test]
fn a_controller_that_dies_before_it_confirms_a_filter_leaves_the_old_one() {
    if let Some(missing) = super::lab::missing() {
        println!("SKIPPED: kill -9 of a controller over ssh while a filter waits to be confirmed ({missing})");
        return;
    }
    if !Path::new("/usr/sbin/sshd").exists() {
        println!("SKIPPED: kill -9 of a controller over ssh (`sshd` is not installed)");
        return;
    }
    let lab = Lab::up("shrec", 93, &[], CLEAR);
    let sshd = Sshd::start(&lab, "h2", 12);
    let fleet = Fleet::new(&lab, &sshd);
    fleet.must(&["apply", "--yes"]);
    assert!(fleet.must(&["plan"]).contains("no changes"));
    let before = fleet.table();
    assert!(before.contains(&"visitors".to_owned()) || before.len() > 100, "{before:?}");
    assert!(fleet.armed().is_empty(), "what was confirmed is confirmed");

    // A rule more; and SIGKILL when the new table is there and nobody has said yet that it may stay.
    fleet.edit("ports: [tcp/80]}", "ports: [tcp/80, tcp/7777]}");
    let mut apply = fleet.command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        if !fleet.armed().is_empty() && fleet.table().contains(&"7777".to_owned()) {
            break;
        }
        assert!(apply.try_wait().unwrap().is_none(), "it ended before anybody saw the timer");
        assert!(Instant::now() < until, "no timer is armed");
        std::thread::sleep(Duration::from_millis(2));
    }
    apply.kill().unwrap();
    let died = Instant::now();
    apply.wait().unwrap();
    assert!(!fleet.armed().is_empty(), "it died while the timer ran");
    while fleet.table() != before {
        assert!(died.elapsed() < Duration::from_secs(25), "the old filter does not come back: {:?}", fleet.table());
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("the old filter was back {:.1} s after the controller died", died.elapsed().as_secs_f64());

    // The next one ends what it began; nothing is left over.
    fleet.must(&["apply", "--yes"]);
    assert!(fleet.must(&["plan"]).contains("no changes"));
    assert!(fleet.table().contains(&"7777".to_owned()));
    assert!(!fleet.root.join("run/stablehand/rules-t-h2").exists(), "nothing is left on the host");
}
