//! `examples/fleet` on real libvirt hosts in a laboratory: drains, cables, power cuts, a second controller. All the while
//! every guest counts to its disk and to the network, and somebody looks on that each ran at one place at most.

mod faults;
mod late;
mod lost;
mod moves;
mod packets;
mod six;
mod witness;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use witness::Witness;

/// A copy of the example in a laboratory of its own; both gone when dropped, also after a panic.
pub(crate) struct Rack {
    /// One laboratory at a time: its guests are emulated, and want the machine's processors.
    _turn: std::sync::MutexGuard<'static, ()>,
    lab: String,
    net: String,
    /// The fleet's folder.
    pub(crate) folder: PathBuf,
    /// What the controller remembers.
    pub(crate) state: PathBuf,
    /// Looks on.
    pub(crate) witness: Witness,
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a laboratory can be had; else says aloud that a test is skipped.
pub(crate) fn skipped(what: &str) -> bool {
    let missing = super::can_run().err().or_else(super::guest::missing);
    if let Some(missing) = &missing {
        println!("SKIPPED: {what} ({missing})");
    }
    missing.is_some()
}

impl Rack {
    /// Runs a test on three hosts. A guest whose memory the emulator damaged is no verdict: QEMU without KVM can miss a page
    /// that is written while memory travels (before 9.0, mended by its commit 03bfc2188f06), and the guest's kernel
    /// then dies within seconds. That is said aloud, and is told from everything else by the guest's own last words.
    pub(crate) fn with(number: u32, options: &[&str], test: impl FnOnce(&Self)) {
        let rack = Self::new(number, options);
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&rack)));
        if let Err(panic) = verdict {
            match rack.damaged() {
                Some(words) => println!("NOT JUDGED: a guest's memory was damaged by the emulator: {words}"),
                None => {
                    println!("what the guests said last:\n{}", rack.witness.tail(12));
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    /// The last words of a guest's kernel that found its memory damaged, where its host has no KVM.
    fn damaged(&self) -> Option<String> {
        ["h1", "h2", "h3"].into_iter().find_map(|host| {
            let script = "grep -h -m1 -e 'general protection fault' -e 'kernel BUG at' -e 'Oops: ' -e 'BUG: unable to handle' \
                          /var/lib/stablehand/slots/*.console; virsh -q list --name | while read -r n; do [ -z \"$n\" ] || \
                          virsh dumpxml \"$n\" | grep -q \"type='kvm'\" && echo KVM; done";
            let said = self.console(host, &["sh", "-c", script]);
            let first = said.lines().next().filter(|l| !l.contains("KVM"))?;
            (!said.contains("KVM")).then(|| format!("{host}: {}", first.trim()))
        })
    }

    /// Brings up three hosts. `number` tells laboratories apart: 1 to 99.
    pub(crate) fn new(number: u32, options: &[&str]) -> Self {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (lab, net) = (format!("shr{number}"), format!("10.{}.0", 120 + number));
        let base = PathBuf::from(format!("/var/lib/stablehand-{lab}"));
        let rack = Self {
            _turn: turn,
            folder: base.join("fleet"),
            state: base.join("state"),
            witness: Witness::new(),
            lab,
            net,
        };
        // Of a run that was killed.
        if Path::new(&format!("/var/lib/{}", rack.lab)).exists() {
            rack.lab(&["down"]);
        }
        let _ = std::fs::remove_dir_all(&base);
        let up: Vec<&str> = ["up", "3"].iter().chain(options).copied().collect();
        rack.lab(&up);
        rack.write_fleet();
        // Guests send from the laboratory's network to its controller's address.
        let network = PathBuf::from(format!("/run/netns/{}", rack.lab));
        rack.witness.listen(&network, &format!("{}.1:5514", rack.net));
        rack
    }

    fn write_fleet(&self) {
        std::fs::create_dir_all(&self.folder).unwrap();
        let lab = top().join("tests/lab/lab");
        let build = top().join("examples/quickstart/build");
        for entry in std::fs::read_dir(top().join("examples/fleet/fleet")).unwrap() {
            let path = entry.unwrap().path();
            let mut text = std::fs::read_to_string(&path).unwrap();
            for file in ["tiny.qcow2", "vmlinuz", "initrd"] {
                let sum = std::fs::read_to_string(build.join(format!("{file}.sha256"))).unwrap();
                let sum = format!("sha256:{}", sum.split_whitespace().next().unwrap());
                if let Some(at) = text.find(&format!("build/{file}")) {
                    let start = at + text[at..].find("sha256:").unwrap();
                    text.replace_range(start..start + sum.len(), &sum);
                }
            }
            let command = format!("env, LAB={}, LAB_NET={}, {}", self.lab, self.net, lab.display());
            let text = text
                .replace("../../../tests/lab/lab", &command)
                .replace("../../quickstart/build", build.to_str().unwrap())
                .replace("10.77.0", &self.net)
                // An emulated timer that gets no processor for a moment is no broken one.
                .replace("root=/dev/vda rw quiet", "root=/dev/vda rw quiet no_timer_check")
                .replace(
                    "          write_files:\n",
                    &format!(
                        "          write_files:\n            - path: /etc/beacon\n              content: \"{}.1:5514\"\n",
                        self.net
                    ),
                )
                // The database has no user data in the example: it counts to the network here, too.
                .replace(
                    "        tcp: {port: 80}\n        within: 90s\n",
                    &format!(
                        "        tcp: {{port: 80}}\n        within: 90s\n      cloudInit:\n        userData: |\n          \
                         #cloud-config\n          write_files:\n            - path: /etc/beacon\n              content: \
                         \"{}.1:5514\"\n",
                        self.net
                    ),
                );
            std::fs::write(self.folder.join(path.file_name().unwrap()), text).unwrap();
        }
    }

    /// Runs the laboratory's command; gives what it printed.
    pub(crate) fn lab(&self, words: &[&str]) -> String {
        let output = Command::new(top().join("tests/lab/lab"))
            .args(words)
            .env("LAB", &self.lab)
            .env("LAB_NET", &self.net)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lab {words:?}: {err}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command of the program on this fleet.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
        command.arg("--fleet").arg(&self.folder).arg("--state-dir").arg(&self.state).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a verb.
    pub(crate) fn say(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a verb that must succeed; gives both of its streams.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let output = self.say(words);
        let text = both(&output);
        assert!(output.status.success(), "{words:?}: {}\n{text}", output.status);
        text
    }

    /// Runs a verb until its words hold what is wanted.
    pub(crate) fn until(&self, words: &[&str], wanted: &str, seconds: u64) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let text = both(&self.say(words));
            if text.contains(wanted) {
                return text;
            }
            assert!(Instant::now() < end, "{words:?} never said `{wanted}`:\n{text}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Everything up and said so: the beginning of every test.
    pub(crate) fn up(&self) {
        self.must(&["apply", "--yes"]);
        assert!(self.must(&["plan"]).contains("no changes"), "planning again gives nothing");
    }

    /// Host → running domains, by each host's own keyboard: also of hosts that are cut off.
    pub(crate) fn running(&self) -> Vec<(String, Vec<String>)> {
        let mut all = Vec::new();
        for host in ["h1", "h2", "h3"] {
            let text = self.console(host, &["virsh", "-q", "list", "--state-running", "--name"]);
            let names = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| l.replace("rack.", "")).collect();
            all.push((host.to_owned(), names));
        }
        all
    }

    /// The host on which a VM runs; none or more than one fails.
    pub(crate) fn place(&self, vm: &str) -> String {
        let places: Vec<String> =
            self.running().into_iter().filter(|(_, vms)| vms.iter().any(|v| v == vm)).map(|(h, _)| h).collect();
        assert_eq!(places.len(), 1, "{vm} runs on {places:?}");
        places[0].clone()
    }

    /// The same, once it runs somewhere.
    pub(crate) fn place_within(&self, vm: &str, seconds: u64) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !self.running().iter().any(|(_, vms)| vms.iter().any(|v| v == vm)) {
            assert!(Instant::now() < end, "{vm} runs nowhere");
            std::thread::sleep(Duration::from_millis(500));
        }
        self.place(vm)
    }

    /// Waits until a VM arrives at a host, paused until it is handed over; gives the host.
    pub(crate) fn arriving(&self, vm: &str, seconds: u64) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            for host in ["h1", "h2", "h3"] {
                let said = self.console(host, &["virsh", "-q", "list", "--state-paused", "--name"]);
                if said.lines().any(|l| l.trim() == format!("rack.{vm}")) {
                    return host.to_owned();
                }
            }
            assert!(Instant::now() < end, "{vm} arrives nowhere");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until memory of a VM travels away from a host.
    pub(crate) fn memory_travels(&self, host: &str, vm: &str, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        let domain = format!("rack.{vm}");
        while !self.console(host, &["virsh", "domjobinfo", &domain]).contains("Memory remaining") {
            assert!(Instant::now() < end, "no memory of {vm} travels");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A command by a host's own keyboard.
    pub(crate) fn console(&self, host: &str, words: &[&str]) -> String {
        let output = Command::new(top().join("tests/lab/lab"))
            .args(["console", host])
            .args(words)
            .env("LAB", &self.lab)
            .env("LAB_NET", &self.net)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kill -9` of a VM's QEMU on a host.
    pub(crate) fn kill_qemu(&self, host: &str, vm: &str) {
        self.console(host, &["pkill", "-9", "-f", &format!("guest=rack\\.{vm},")]);
    }

    /// VMs that run on a host.
    pub(crate) fn vms_on(&self, host: &str) -> Vec<String> {
        self.running().into_iter().find(|(h, _)| h == host).map(|(_, vms)| vms).unwrap_or_default()
    }

    /// The address of a VM as `status` says it.
    pub(crate) fn address(&self, vm: &str) -> String {
        let text = String::from_utf8(self.say(&["--output", "json", "status"]).stdout).unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        let row = status["vms"].as_array().unwrap().iter().find(|r| r["vm"] == vm).unwrap();
        row["address"].as_str().unwrap().to_owned()
    }

    /// A page of a VM's web server; waits for it up to 40 s.
    pub(crate) fn page(&self, vm: &str, path: &str) -> String {
        use std::io::{Read, Write};
        let address = self.address(vm);
        let until = Instant::now() + Duration::from_secs(40);
        while Instant::now() < until {
            let timeout = Duration::from_secs(4);
            let socket = format!("{address}:80").parse().unwrap();
            if let Ok(mut stream) = std::net::TcpStream::connect_timeout(&socket, timeout) {
                let _ = stream.set_read_timeout(Some(timeout));
                let _ = stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
                let mut text = String::new();
                if stream.read_to_string(&mut text).is_ok() && text.contains("200 OK") {
                    return text;
                }
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        panic!("{vm} at {address} does not answer {path}");
    }

    /// A line of a guest's status page.
    pub(crate) fn fact(&self, vm: &str, key: &str) -> String {
        let text = self.page(vm, "/cgi-bin/status");
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("{vm} does not say {key}: {text}")).to_owned()
    }

    /// That a guest's counter on its disk never went back and that no boot came again after another one.
    pub(crate) fn counted_once(&self, vm: &str) {
        let text = self.page(vm, "/cgi-bin/counter");
        let lines = text.lines().filter_map(|l| {
            let (boot, uptime) = l.split_once(' ')?;
            (boot.len() == 36).then(|| Some((boot.to_owned(), uptime.trim().parse::<f64>().ok()?)))?
        });
        let lines: Vec<(String, f64)> = lines.collect();
        assert!(!lines.is_empty(), "{vm} has counted nothing on its disk");
        witness::in_order(vm, lines.iter().map(|(b, u)| (b.as_str(), *u)));
    }

    /// The end of every test: nothing is to be done, every VM runs once, and ran once at all times.
    pub(crate) fn settled(&self) {
        let text = self.until(&["plan"], "no changes", 60);
        assert!(text.contains("no changes"), "{text}");
        let mut all: Vec<String> = self.running().into_iter().flat_map(|(_, vms)| vms).collect();
        all.sort();
        let many = all.len();
        all.dedup();
        assert_eq!(all.len(), many, "something runs twice: {all:?}");
        self.witness.ran_once();
        self.counted_once("shop-db-1");
    }

    /// Writes a document into the fleet.
    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.join(file), text).unwrap();
    }

    /// Takes a document out.
    pub(crate) fn remove(&self, file: &str) {
        std::fs::remove_file(self.folder.join(file)).unwrap();
    }

    /// Exchanges a text in a file of the fleet.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
}

/// What a command printed on both streams.
pub(crate) fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Drop for Rack {
    fn drop(&mut self) {
        let _ = Command::new(top().join("tests/lab/lab"))
            .arg("down")
            .env("LAB", &self.lab)
            .env("LAB_NET", &self.net)
            .output();
        let _ = std::fs::remove_dir_all(format!("/var/lib/stablehand-{}", self.lab));
    }
}
