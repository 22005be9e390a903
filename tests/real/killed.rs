//! The quickstart's fleet on real QEMU, killed with SIGKILL after each change it makes: afterwards one apply converges,
//! no VM has a second copy, and no disk or process is left over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A copy of the quickstart under names of its own, removed when dropped, also after a panic.
pub(crate) struct Fleet {
    id: String,
    subnet: String,
    bridge: String,
    pub(crate) root: PathBuf,
    pub(crate) store: PathBuf,
    state: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Fleet {
    /// `letter` tells fleets of one process from one another; addresses begin with `subnet`, like `10.84.0.`.
    pub(crate) fn new(letter: char, subnet: &str) -> Self {
        let pid = std::process::id();
        let id = format!("{letter}{pid}");
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
        let base = Path::new("/var/lib/stablehand");
        let fleet = Self {
            bridge: format!("sh{letter}{pid}"),
            root: base.join(&id),
            store: base.join(format!("{id}-store")),
            state: base.join(format!("{id}-state")),
            folder: base.join(format!("{id}-fleet")),
            id,
            subnet: subnet.to_owned(),
        };
        std::fs::create_dir_all(&fleet.folder).unwrap();
        for entry in std::fs::read_dir(top.join("fleet")).unwrap() {
            let path = entry.unwrap().path();
            let mut text = std::fs::read_to_string(&path).unwrap();
            for file in ["tiny.qcow2", "vmlinuz", "initrd"] {
                let built = top.join("build").join(file);
                let sum = std::fs::read_to_string(top.join("build").join(format!("{file}.sha256"))).unwrap();
                let sum = format!("sha256:{}", sum.split_whitespace().next().unwrap());
                if let Some(at) = text.find(&format!("../build/{file}")) {
                    let start = at + text[at..].find("sha256:").unwrap();
                    text.replace_range(start..start + sum.len(), &sum);
                    text = text.replace(&format!("../build/{file}"), built.to_str().unwrap());
                }
            }
            let text = text
                .replace("/var/lib/stablehand/quickstart-store", fleet.store.to_str().unwrap())
                .replace("/var/lib/stablehand/quickstart", fleet.root.to_str().unwrap())
                .replace("name: quickstart", &format!("name: {}", fleet.id))
                .replace("shq0", &fleet.bridge)
                // An emulated timer that gets no processor for a moment is no broken one.
                .replace("root=/dev/vda rw quiet", "root=/dev/vda rw quiet no_timer_check")
                .replace("10.83.0.", &fleet.subnet);
            std::fs::write(fleet.folder.join(path.file_name().unwrap()), text).unwrap();
        }
        fleet
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
        command.arg("--fleet").arg(&self.folder).arg("--state-dir").arg(&self.state).args(words);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn say(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a verb that must succeed, gives what it printed.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let output = self.say(words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Applies, dying after each single change, until an apply survives; how often it died.
    fn apply_dying(&self) -> u32 {
        for deaths in 0..120 {
            let output = self.command(&["apply", "--yes"]).env("STABLEHAND_KILL_AFTER_CHANGES", "1").output().unwrap();
            self.no_vm_twice();
            match output.status.code() {
                Some(0) => return deaths,
                None => {}
                Some(code) => {
                    panic!(
                        "apply ended with {code} after {deaths} deaths:\n{}",
                        String::from_utf8_lossy(&output.stderr)
                    )
                }
            }
        }
        panic!("120 deaths, and still not done");
    }

    /// Names of the guests of this fleet that have a QEMU process, with how many they have.
    pub(crate) fn guests(&self) -> BTreeMap<String, u32> {
        let mut guests = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            // A process that is gone, or a zombie, has no command line.
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut words = line.split('\0');
            if !words.next().is_some_and(|program| program.contains("qemu-system")) {
                continue;
            }
            if let Some(guest) = words.find_map(|w| w.strip_prefix("guest=")) {
                let guest = guest.split(',').next().unwrap();
                if let Some(vm) = guest.strip_prefix(&format!("{}.", self.id)) {
                    *guests.entry(vm.to_owned()).or_default() += 1;
                }
            }
        }
        guests
    }

    fn no_vm_twice(&self) {
        for (vm, count) in self.guests() {
            assert_eq!(count, 1, "{vm} runs {count} times");
        }
    }

    /// Files in the slots folder, without stamps and consoles.
    fn disks(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.store.join("slots")) else { return Vec::new() };
        let mut names: Vec<String> = folder.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|n| {
            !n.ends_with(".stamp") && !n.ends_with(".console") && !n.ends_with(".record") && !n.starts_with('.')
        });
        names.sort();
        names
    }

    /// A line of a guest's status page.
    pub(crate) fn guest_says(&self, address: &str, key: &str) -> String {
        use std::io::{Read, Write};
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            let timeout = Duration::from_secs(3);
            let socket = format!("{address}:80").parse().unwrap();
            if let Ok(mut stream) = std::net::TcpStream::connect_timeout(&socket, timeout) {
                let _ = stream.set_read_timeout(Some(timeout));
                let _ = stream.write_all(b"GET /cgi-bin/status HTTP/1.0\r\n\r\n");
                let mut text = String::new();
                let _ = stream.read_to_string(&mut text);
                if let Some(line) = text.lines().find_map(|l| l.strip_prefix(&format!("{key}="))) {
                    return line.to_owned();
                }
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        panic!("{address} does not say its {key}");
    }

    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = Command::new("pkill").args(["-9", "-f", &format!("guest={}\\.", self.id)]).status();
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).stderr(Stdio::null()).status();
        let table = format!("stablehand-{}", self.id);
        let _ = Command::new("nft").args(["delete", "table", "bridge", &table]).stderr(Stdio::null()).status();
        let border = format!("{table}.{}", self.bridge);
        let _ = Command::new("nft").args(["delete", "table", "inet", &border]).stderr(Stdio::null()).status();
        for folder in [&self.root, &self.store, &self.state, &self.folder] {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

const NOTHING: &str = "no changes:";

#[test]
fn killed_after_each_change_it_converges_with_nothing_double_and_nothing_left() {
    if let Err(missing) = super::can_run() {
        println!("SKIPPED: kill -9 of the real quickstart ({missing})");
        return;
    }
    let fleet = Fleet::new('k', "10.84.0.");

    // Up, dying after each single change: fetches, the bridge, disks, seeds, definitions, starts.
    let deaths = fleet.apply_dying();
    println!("the fleet came up through {deaths} deaths");
    assert!(deaths >= 15, "only {deaths} changes were survived: the switch does not work");
    assert!(fleet.must(&["plan"]).starts_with(NOTHING));
    assert_eq!(fleet.guests().len(), 3);
    let disks = fleet.disks();
    assert_eq!(disks.len(), 3 + 3 + 1, "a root and a seed each, one data disk: {disks:?}");
    let db = fleet.guest_says("10.84.0.10", "boot_id");

    // The store of what we remember is lost: nothing changes.
    std::fs::remove_dir_all(&fleet.state).unwrap();
    assert!(fleet.must(&["plan"]).starts_with(NOTHING));

    // Two at once on a change: one acts, the other says who does, or finds it done.
    fleet.edit("shop.yaml", "min: 2", "min: 3");
    let first = fleet.command(&["apply", "--yes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let second = fleet.say(&["apply", "--yes"]);
    let first = first.wait_with_output().unwrap();
    let said = |o: &Output| String::from_utf8_lossy(&o.stderr).into_owned();
    let acted = [&first, &second].iter().filter(|o| said(o).contains("vm/shop-web-3#create: done")).count();
    assert_eq!(acted, 1, "first: {}\nsecond: {}", said(&first), said(&second));
    let refused = [&first, &second].into_iter().find(|o| !o.status.success());
    if let Some(refused) = refused {
        assert!(said(refused).contains("process"), "the other says who acts: {}", said(refused));
    }
    assert!(fleet.must(&["plan"]).starts_with(NOTHING));

    // A change that reboots, killed at moments that nobody chose.
    fleet.edit("fleet.yaml", "update: staged", "update: reboot");
    fleet.edit("shop.yaml", "maxCpus: 2", "maxCpus: 4");
    for round in 1..=6u64 {
        let mut child = fleet.command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(350 * round + 130));
        let _ = child.kill();
        let _ = child.wait();
        fleet.no_vm_twice();
    }
    fleet.must(&["apply", "--yes"]);
    assert!(fleet.must(&["plan"]).starts_with(NOTHING));
    assert_eq!(fleet.guests().len(), 4);
    assert_eq!(fleet.disks().len(), 4 + 4 + 1);
    assert_eq!(fleet.guest_says("10.84.0.10", "boot_id"), db, "the database was in no plan, and never stopped");

    // The end, dying after each change again.
    let removal = format!(
        "apiVersion: stablehand/v1alpha1\nkind: Removal\nmetadata: {{name: end}}\nspec: {{target: fleet/{}, data: delete, reason: the test is over}}\n",
        fleet.id
    );
    std::fs::write(fleet.folder.join("removal.yaml"), removal).unwrap();
    let deaths = fleet.apply_dying();
    println!("the fleet ended through {deaths} deaths");
    assert!(fleet.guests().is_empty(), "{:?}", fleet.guests());
    assert!(fleet.disks().is_empty(), "{:?}", fleet.disks());
    assert!(!Path::new("/sys/class/net").join(&fleet.bridge).exists());
}
