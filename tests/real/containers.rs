//! A machine with two documents, one for VMs and one for containers, and a service over both: up in order, changed,
//! restarted, killed at every step, and gone without a trace.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// What the container does: counts its boots on its data disk, says on the web who it is, and ends when it is asked to.
const INIT: &str = r#"#!/bin/sh
trap 'echo stopping; sync; exit 0' TERM
boots=$(cat /srv/data/boots 2>/dev/null || echo 0)
echo $((boots + 1)) >/srv/data/boots
mkdir -p /www
ln -sf /srv/data/boots /www/boots
echo "$(cat /etc/hostname) $(hostname) $GREETING $(cat /etc/resolv.conf)" >/www/index.html
echo "booted $((boots + 1)) times"
httpd -p 80 -h /www
while :; do sleep 1 & wait $!; done
"#;

struct Box {
    lab: String,
    net: String,
    folder: tempfile::TempDir,
}

impl Box {
    /// A laboratory of its own, and the archive made from this machine's busybox.
    fn up() -> Self {
        let lab = Self { lab: "shboxes".to_owned(), net: "10.95.7".to_owned(), folder: tempfile::tempdir().unwrap() };
        let _ = lab.tool(&["down"]);
        assert!(lab.tool(&["up", "2", "--lxc"]).status.success(), "the laboratory does not come up");
        std::fs::write(lab.path("init"), INIT).unwrap();
        let made = Command::new("sh")
            .args([
                "-euc",
                r#"cd "$1"; mkdir -p tree/bin tree/sbin tree/etc tree/srv/data
cp "$(command -v busybox)" tree/bin/busybox
for name in sh cat echo mkdir ln hostname httpd sleep sync; do ln -s busybox tree/bin/$name; done
install -m 755 init tree/sbin/init
tar -C tree --numeric-owner --owner=0 --group=0 -czf box.tar.gz ."#,
                "sh",
            ])
            .arg(lab.folder.path())
            .status();
        assert!(made.unwrap().success());
        lab
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, words: &[&str]) -> Output {
        let mut command = Command::new(format!("{}/tests/lab/lab", env!("CARGO_MANIFEST_DIR")));
        command.env("LAB", &self.lab).env("LAB_NET", &self.net).args(words).stdin(Stdio::null()).output().unwrap()
    }

    fn on_host(&self, script: &str) -> String {
        let output = self.tool(&["shell", "h1", "sh", "-c", script]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes the fleet; `web` is what the container's app says beside its image.
    fn describe(&self, greeting: &str, web: &str, more: &str) {
        let (lab, net) = (&self.lab, &self.net);
        let tool = format!("{}/tests/lab/lab", env!("CARGO_MANIFEST_DIR"));
        let built = format!("{}/examples/quickstart/build", env!("CARGO_MANIFEST_DIR"));
        let sum = |path: &Path| {
            let output = Command::new("sha256sum").arg(path).output().unwrap();
            format!("\"sha256:{}\"", &String::from_utf8_lossy(&output.stdout)[..64])
        };
        let of = |file: &str| sum(&Path::new(&built).join(file));
        let mut text = "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {name: t}\nspec: {}\n".to_owned();
        for (host, driver) in [("h1", "qemu"), ("h1-boxes", "lxc")] {
            let _ = write!(
                text,
                "---\napiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {{name: {host}}}\nspec:\n  \
                 connection: {driver}+tcp://{net}.11/system\n  \
                 shell: {{command: [env, LAB={lab}, LAB_NET={net}, {tool}, shell, h1]}}\n  slots: 4\n  \
                 acceleration: tcg\n  capacity: {{memory: 512MiB}}\n  overcommit: {{cpu: 4.0}}\n"
            );
        }
        let _ = write!(
            text,
            "---\napiVersion: stablehand/v1alpha1\nkind: Network\nmetadata: {{name: lan}}\nspec:\n  \
             bridge: {{name: br0}}\n  subnet: {net}.0/24\n  gateway: {net}.1\n  dns: [{net}.1]\n  probesFrom: [{net}.1]\n  \
             range: {{from: {net}.40, to: {net}.60}}\n\
             ---\napiVersion: stablehand/v1alpha1\nkind: Image\nmetadata: {{name: tiny}}\nspec:\n  \
             source: {{path: {built}/tiny.qcow2}}\n  digest: {tiny}\n  format: qcow2\n  boot:\n    \
             kernel: {{path: {built}/vmlinuz, digest: {kernel}}}\n    initrd: {{path: {built}/initrd, digest: {initrd}}}\n    \
             commandLine: console=tty0 console=ttyS0 root=/dev/vda rw quiet\n\
             ---\napiVersion: stablehand/v1alpha1\nkind: Image\nmetadata: {{name: box}}\nspec:\n  \
             source: {{path: box.tar.gz}}\n  digest: {archive}\n  format: rootfs\n  \
             boot: {{environment: {{GREETING: {greeting}}}}}\n\
             ---\napiVersion: stablehand/v1alpha1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  apps:\n    \
             db: {{image: tiny, memory: 96MiB, nics: {{lan: {{network: lan, address: {net}.41}}}}, ready: {{tcp: {{port: 80}}}}, \
             stop: {{deadline: 20s, powerOff: true}}}}\n    \
             web:\n      image: box\n      dependsOn: [db]\n      nics: {{lan: {{network: lan, address: {net}.42}}}}\n      \
             disks: {{data: {{size: 16MiB, mount: /srv/data}}}}\n      ready: {{http: {{}}}}\n{web}\n\
             {more}",
            tiny = of("tiny.qcow2"),
            kernel = of("vmlinuz"),
            initrd = of("initrd"),
            archive = sum(&self.path("box.tar.gz")),
        );
        std::fs::write(self.path("fleet.yaml"), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
        command.arg("--fleet").arg(self.folder.path()).arg("--state-dir").arg(self.path(".state")).args(words);
        command.stdin(Stdio::null());
        command
    }

    fn must(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {}\n{out}\n{err}", output.status);
        println!("--- {words:?}\n{out}");
        out.into_owned()
    }

    /// Applies, dying after each change, until an apply survives; how often it died.
    fn apply_dying(&self) -> u32 {
        for deaths in 0..80 {
            let output = self.command(&["apply", "--yes"]).env("STABLEHAND_KILL_AFTER_CHANGES", "1").output().unwrap();
            match output.status.code() {
                Some(0) => return deaths,
                None => {}
                Some(code) => panic!("apply ended with {code}: {}", String::from_utf8_lossy(&output.stderr)),
            }
        }
        panic!("80 deaths, and still not done");
    }

    fn page(&self, path: &str) -> String {
        self.on_host(&format!("curl -s -m 3 http://{}.42{path}", self.net))
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        let _ = self.tool(&["down"]);
    }
}

#[test]
fn a_service_of_a_vm_and_a_container_comes_up_changes_and_goes() {
    if let Err(missing) = crate::can_run() {
        return println!("SKIPPED: {missing}");
    }
    if let Some(missing) = crate::guest::missing() {
        return println!("SKIPPED: {missing}");
    }
    let lab = Box::up();
    let web = "      memory: 64MiB\n      maxMemory: 128MiB\n      maxCpus: 2";
    lab.describe("morning", web, "");
    let deaths = lab.apply_dying();
    println!("up after {deaths} deaths");
    assert!(deaths > 10, "{deaths} deaths");
    let net = &lab.net;
    // The first program may have seen another name: it was set just after it began.
    let page = lab.page("/");
    assert!(page.starts_with("shop-web-1 ") && page.ends_with(&format!("morning nameserver {net}.1")), "{page}");
    assert_eq!(lab.page("/boots"), "1", "started once, however often we died");
    let inside = |command: &str| {
        lab.on_host(&format!(
            "p=$(virsh -q -c lxc:///system domid t.shop-web-1); read -r i _ </proc/$p/task/$p/children; nsenter -t $i -a {command}"
        ))
    };
    assert_eq!(inside("/bin/busybox hostname"), "shop-web-1");
    assert!(inside("/bin/busybox ip route").contains(&format!("default via {net}.1")));
    let limit =
        |name: &str| lab.on_host(&format!("cat $(find /sys/fs/cgroup -path '*shop-web*' -name {name} | head -n 1)"));
    let v1 = !limit("memory.limit_in_bytes").is_empty();
    if v1 {
        assert_eq!(limit("memory.limit_in_bytes"), (64u64 << 20).to_string());
    }
    // Its console is written down, and no amount of words makes it wait.
    inside("/bin/busybox sh -c '/bin/busybox seq 1 200000 >/dev/console'");
    std::thread::sleep(Duration::from_secs(1));
    assert!(lab.on_host("cat /var/lib/stablehand/containers/t.shop-web-1.console").contains("200000"));

    lab.describe("evening", "      memory: 96MiB\n      maxMemory: 128MiB\n      cpus: 2\n      maxCpus: 2", "");
    lab.must(&["apply", "--yes"]);
    assert_eq!(lab.page("/boots"), "1", "nobody was restarted");
    if v1 {
        assert_eq!(limit("memory.limit_in_bytes"), (96u64 << 20).to_string());
        assert_eq!(limit("cpu.cfs_quota_us"), "200000");
    }
    lab.must(&["restart", "vm/shop-web-1"]);
    lab.must(&["apply", "--yes"]);
    assert_eq!(lab.page("/boots"), "2");
    assert!(lab.page("/").contains("evening"));

    // What stops by itself is started again, and so is what was killed with its host's libvirtd.
    lab.on_host("virsh -q -c lxc:///system destroy t.shop-web-1");
    assert!(lab.tool(&["restart-libvirtd", "h1"]).status.success());
    lab.must(&["apply", "--yes"]);
    assert_eq!(lab.page("/boots"), "3");

    let removal = "---\napiVersion: stablehand/v1alpha1\nkind: Removal\nmetadata: {name: all}\nspec: {target: fleet/t, data: delete, reason: the end}\n";
    lab.describe("evening", web, removal);
    let deaths = lab.apply_dying();
    println!("gone after {deaths} deaths");
    assert_eq!(lab.on_host("virsh -q -c lxc:///system list --all --name; virsh -q list --all --name"), "");
    let left = lab.on_host("ls -A /var/lib/stablehand/containers /var/lib/stablehand/archives /var/lib/stablehand/slots | grep -v -e : -e '^$' -e lock");
    assert_eq!(left, "", "files are left");
    assert_eq!(lab.on_host("losetup -a | grep -c /containers/t.shop"), "0", "loop devices are left");
}
