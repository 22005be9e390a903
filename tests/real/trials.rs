//! What goes wrong around a host that is otherwise fine: a file system that fills up in the middle, a roll that somebody takes
//! back half-way, and whether anything of a day of spins is left over.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::killed::Fleet;

fn run(words: &[&str]) -> String {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn skipped(what: &str) -> bool {
    let missing = super::can_run().err().or_else(super::guest::missing);
    if let Some(missing) = &missing {
        println!("SKIPPED: {what} ({missing})");
    }
    missing.is_some()
}

fn built(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/build").join(file)
}

fn sum(file: &Path) -> String {
    Sha256::digest(std::fs::read(file).unwrap()).iter().map(|b| format!("{b:02x}")).collect()
}

/// A file system of its own size below a folder, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        run(&["mount", "-t", "tmpfs", "-o", "size=512m,mode=755", "small", folder.to_str().unwrap()]);
        Self(folder.to_owned())
    }
    /// So large from now on; what is there may not be larger.
    fn resize(&self, size: &str) {
        run(&["mount", "-o", &format!("remount,size={size}"), self.0.to_str().unwrap()]);
    }
    /// No more room than a little.
    fn fill(&self) {
        let used = run(&["df", "--output=used", "-k", self.0.to_str().unwrap()]);
        let used: u64 = used.lines().nth(1).unwrap().trim().parse().unwrap();
        self.resize(&format!("{}k", used + 512));
    }
    /// Files below a folder of it that end so.
    fn files(&self, folder: &str, end: &str) -> Vec<String> {
        let all = std::fs::read_dir(self.0.join(folder)).into_iter().flatten().flatten();
        all.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.ends_with(end)).collect()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

/// A web server of one file, which calls back when half of it is sent.
fn serve(file: PathBuf, half: impl Fn() + Send + 'static) -> String {
    let ear = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image", ear.local_addr().unwrap());
    std::thread::spawn(move || {
        let bytes = std::fs::read(file).unwrap();
        for stream in ear.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut line, mut begin) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                    begin = range.trim().trim_end_matches('-').parse().unwrap();
                }
                line.clear();
            }
            let mut stream = reader.into_inner();
            let head = format!("Content-Length: {}\r\nETag: \"1\"\r\nConnection: close\r\n", bytes.len() - begin);
            let head = match begin {
                0 => format!("HTTP/1.1 200 OK\r\n{head}\r\n"),
                _ => {
                    let range = format!("Content-Range: bytes {begin}-{}/{}", bytes.len() - 1, bytes.len());
                    format!("HTTP/1.1 206 Partial Content\r\n{head}{range}\r\n\r\n")
                }
            };
            let middle = begin.max(bytes.len() / 2);
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&bytes[begin..middle]);
            let _ = stream.flush();
            if begin < middle {
                std::thread::sleep(Duration::from_millis(500));
                half();
            }
            let _ = stream.write_all(&bytes[middle..]);
        }
    });
    url
}

#[test]
fn a_file_system_that_fills_up_in_the_middle_leaves_nothing_half_made() {
    if skipped("a full disk under an image and under a root disk") {
        return;
    }
    let fleet = Fleet::new('f', "10.88.0.");
    let small = Arc::new(Small::new(&fleet.store));
    // The image comes from a server; when half of it has come, there is no room for the other half, once.
    // The server lives on after the test, its file system does not.
    let (filler, once) = (Arc::downgrade(&small), AtomicBool::new(true));
    let url = serve(built("tiny.qcow2"), move || {
        if let Some(filler) = filler.upgrade().filter(|_| once.swap(false, Ordering::SeqCst)) {
            filler.fill();
        }
    });
    let path = fleet.folder.join("image.yaml");
    let image = std::fs::read_to_string(&path).unwrap();
    let source = image.lines().find(|l| l.starts_with("  source:")).unwrap();
    let image = image.replacen(source, &format!("  source: {{url: \"{url}\"}}"), 1);
    // A root disk of its own: what is copied takes room.
    std::fs::write(&path, image.replace("clone: overlay", "clone: copy")).unwrap();
    fleet.edit("shop.yaml", "min: 2", "min: 1");

    let began = Instant::now();
    let output = fleet.say(&["apply", "--yes"]);
    let said = both(&output);
    println!("full while an image came, {:.1} s: {}\n{said}", began.elapsed().as_secs_f64(), output.status);
    assert!(!output.status.success(), "an image that has no room is no success");
    assert!(said.contains("10MiB are needed"), "it says that room is what is missing, and how much:\n{said}");
    assert!(fleet.guests().is_empty());
    assert!(small.files("images", ".qcow2").is_empty(), "half an image is none");
    // With its size in the document it is said before anything begins.
    let sized = std::fs::read_to_string(&path).unwrap().replace("  format: qcow2", "  size: 10MiB\n  format: qcow2");
    std::fs::write(&path, sized).unwrap();
    let plan = both(&fleet.say(&["plan"]));
    assert!(plan.contains("BLOCKED") && plan.contains("are free"), "{plan}");

    // Room again; and none in the middle of the first root disk.
    small.resize("512m");
    let stop = Arc::new(AtomicBool::new(false));
    let (filler, end) = (small.clone(), stop.clone());
    let watching = std::thread::spawn(move || {
        while !end.load(Ordering::SeqCst) {
            // Its stamp comes first: a copy in memory is over before anybody has seen it begin.
            if !filler.files("slots", ".root.qcow2.stamp").is_empty() {
                filler.fill();
                return true;
            }
        }
        false
    });
    let output = fleet.say(&["apply", "--yes"]);
    stop.store(true, Ordering::SeqCst);
    let said = both(&output);
    println!("full while a disk was made: {}\n{said}", output.status);
    assert!(watching.join().unwrap(), "the disk was filled in the middle of a copy:\n{said}");
    assert!(!output.status.success(), "a disk that has no room is no success");
    assert!(said.contains("no room") || said.contains("No space left"), "{said}");
    assert!(fleet.guests().is_empty());
    assert!(small.files("slots", ".root.qcow2").is_empty(), "half a disk is none");
    let left = small.files("slots", ".partial");
    assert!(left.is_empty(), "what was begun gives its room back: {left:?}");
    // A person makes room: all is as if nothing had happened.
    small.resize("512m");
    fleet.must(&["apply", "--yes"]);
    assert!(fleet.must(&["plan"]).starts_with("no changes:"));
    assert_eq!(fleet.guests().len(), 2);
    assert_eq!(fleet.guest_says("10.88.0.11", "boots"), "1");
    // libvirt lets go of the files before the file system goes.
    let pattern = format!("guest={}\\.", fleet.id());
    let _ = Command::new("pkill").args(["-9", "-f", &pattern]).status();
}

/// The quickstart's image with a file more: another generation.
fn generation(fleet: &Fleet, name: &str) -> (PathBuf, String) {
    let at = |file: &str| fleet.folder.join(file).to_str().unwrap().to_owned();
    run(&["qemu-img", "convert", "-O", "raw", built("tiny.qcow2").to_str().unwrap(), &at("made.raw")]);
    std::fs::write(at("release"), format!("{name}\n")).unwrap();
    let commands = format!("rm /etc/image-release\nwrite {} /etc/image-release\n", at("release"));
    std::fs::write(at("commands"), commands).unwrap();
    run(&["debugfs", "-w", "-f", &at("commands"), &at("made.raw")]);
    let disk = fleet.folder.join(format!("{name}.qcow2"));
    run(&["qemu-img", "convert", "-O", "qcow2", &at("made.raw"), disk.to_str().unwrap()]);
    std::fs::remove_file(at("made.raw")).unwrap();
    let digest = sum(&disk);
    (disk, digest)
}

#[test]
fn a_roll_that_is_taken_back_in_the_middle_goes_back_and_the_last_one_never_noticed() {
    if skipped("a rollback in the middle of a roll") {
        return;
    }
    let fleet = Fleet::new('b', "10.89.0.");
    let (db, first, last) = ("10.89.0.10", "10.89.0.11", "10.89.0.12");
    // All three boot at once.
    fleet.edit("shop.yaml", "      dependsOn: [db]", "      # dependsOn: [db]");
    let path = fleet.folder.join("image.yaml");
    let old = std::fs::read_to_string(&path).unwrap();
    let old = format!("{}\n  rollout: {{canary: 1, maxUnavailable: 1}}\n", old.trim_end());
    std::fs::write(&path, &old).unwrap();
    fleet.must(&["apply", "--yes"]);
    let boot = |address: &str| fleet.guest_says(address, "boot_id");
    let release = |address: &str| fleet.guest_says(address, "image_release");
    let (was, boots) = (release(db), [db, first, last].map(boot));

    let (disk, digest) = generation(&fleet, "second");
    let source = old.lines().find(|l| l.contains("source:")).unwrap();
    let before = old.lines().find_map(|l| l.trim().strip_prefix("digest: sha256:")).unwrap();
    let new = old.replacen(source, &format!("  source: {{path: {}}}", disk.display()), 1);
    std::fs::write(&path, new.replacen(before, &digest, 1)).unwrap();
    // Up to the one after the canary, then the controller dies.
    let mut roll = fleet.command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(roll.stderr.take().unwrap()).lines();
    let mut rolled = Vec::new();
    for line in lines.map_while(Result::ok) {
        println!("  {line}");
        let Some((what, _)) = line.split_once(':').filter(|(_, rest)| rest.trim() == "done") else { continue };
        if what.starts_with("vm/") && what.ends_with("#recreate") {
            rolled.push(what.to_owned());
        }
        if rolled.len() == 1 {
            // The next one is under way then: its disk is gone, or made anew.
            std::thread::sleep(Duration::from_secs(3));
            roll.kill().unwrap();
            break;
        }
    }
    roll.wait().unwrap();
    assert_eq!(rolled, ["vm/shop-db-1#recreate"], "the canary is new");
    assert_eq!(release(db), "second");

    // One commit takes it back.
    std::fs::write(&path, &old).unwrap();
    let plan = fleet.must(&["plan"]);
    println!("{plan}");
    fleet.must(&["apply", "--yes"]);
    let plan = fleet.must(&["plan"]);
    assert!(plan.starts_with("no changes:"), "{plan}");
    for address in [db, first, last] {
        assert_eq!(release(address), was, "{address} is of the old generation");
    }
    assert_ne!(boot(db), boots[0], "it was made anew, twice");
    assert_eq!(boot(last), boots[2], "whose turn it was not runs on");
    assert_eq!(fleet.guests().values().copied().collect::<Vec<_>>(), [1, 1, 1]);
}

/// A network namespace with nothing else in it, gone when dropped.
struct Space(String);

impl Space {
    fn new(name: &str) -> Self {
        let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        run(&["ip", "netns", "add", name]);
        run(&["ip", "-n", name, "link", "set", "lo", "up"]);
        Self(name.to_owned())
    }
    fn says(&self, words: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.0], words].concat())
    }
    /// A verb of the fleet inside of it.
    fn command(&self, fleet: &Fleet, words: &[&str]) -> Command {
        let plain = fleet.command(words);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
        command
    }
    fn must(&self, fleet: &Fleet, words: &[&str]) -> String {
        let output = self.command(fleet, words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}\n{}", output.status, both(&output));
        both(&output)
    }
    /// Rules, links with their masters and addresses, and switches of the kernel: whatever could be left over.
    fn state(&self) -> BTreeMap<&'static str, String> {
        let switches = "cd /proc/sys/net && grep -rs . ipv4/ip_forward ipv4/conf/all ipv6/conf/all bridge || true";
        BTreeMap::from([
            ("rules", in_order(&self.says(&["nft", "list", "ruleset"]))),
            ("links", self.says(&["ip", "-o", "link"])),
            ("addresses", self.says(&["ip", "-o", "-4", "address"])),
            // A link-local address has its route when nobody objected to it for a second (RFC 4862 section 5.4).
            ("routes", self.says(&["sh", "-c", "ip route show table all | grep -v '^local fe80:'"])),
            ("switches", self.says(&["sh", "-c", switches])),
        ])
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// What nft prints, with the elements of each set in order: they are printed as the kernel's hash has them.
fn in_order(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split_inclusive(['{', '}']) {
        let mut elements: Vec<&str> = part.split(',').map(str::trim).collect();
        if elements.len() > 1 {
            let last = elements.pop().unwrap();
            elements.sort_unstable();
            elements.push(last);
        }
        lines.extend(elements.into_iter().map(str::to_owned));
    }
    lines.sort();
    lines.join("\n")
}

/// VMs that come and go, by their instance's name; one stays.
fn classes(instances: &[String]) -> String {
    let list: Vec<String> = instances.iter().map(|name| format!("{name}: {{}}")).collect();
    format!(
        "apiVersion: stablehand/v1alpha1
kind: Module
metadata: {{name: class}}
spec:
  run: started
  vms:
    desk: {{image: tiny, cpus: 1, memory: 96MiB, nics: {{lan: {{network: lan}}}}}}
  instances: {{stays: {{}}, {}}}
  access:
    web: {{vm: desk, to: {{network: lan}}, ports: [tcp/80]}}
",
        list.join(", ")
    )
}

#[test]
fn after_twenty_spins_rules_and_links_are_what_they_were() {
    if skipped("what twenty spins leave over") {
        return;
    }
    let fleet = Fleet::new('d', "10.90.0.");
    let space = Space::new(&format!("shd{}", std::process::id()));
    let (vms, now) = (fleet.folder.join("shop.yaml"), |names: &[String]| classes(names));
    fleet.edit("fleet.yaml", "destroy: 10", "destroy: 100");
    fleet.edit("fleet.yaml", "deadline: 20s", "deadline: 1s");
    let nothing = space.state();
    std::fs::write(&vms, now(&["base".to_owned()])).unwrap();
    space.must(&fleet, &["apply", "--yes"]);
    let base = space.state();
    assert_ne!(base, nothing);
    let all = || fleet.guests().into_keys().collect::<Vec<_>>();
    assert_eq!(all(), ["class-base-desk", "class-stays-desk"]);

    let began = Instant::now();
    let (mut deaths, mut spins) = (0, 0);
    for round in 0..10 {
        // Two come as the last two go, each fifth time under a controller that dies in the middle.
        std::fs::write(&vms, now(&[format!("a{round}"), format!("b{round}")])).unwrap();
        if round % 5 == 3 {
            let mut command = space.command(&fleet, &["apply", "--yes"]);
            let died = command.env("STABLEHAND_KILL_AFTER_CHANGES", "9").output().unwrap();
            deaths += u32::from(died.status.code() != Some(0));
        }
        space.must(&fleet, &["apply", "--yes"]);
        spins += 2;
    }
    // The last two go before `base` comes back: it gets the address that it had.
    for last in [&[][..], &["base".to_owned()][..]] {
        std::fs::write(&vms, now(last)).unwrap();
        space.must(&fleet, &["apply", "--yes"]);
    }
    println!("{spins} spins and ends, {deaths} deaths of the controller: {:.1} s", began.elapsed().as_secs_f64());
    assert!(deaths > 0, "the controller was killed");
    assert_eq!(all(), ["class-base-desk", "class-stays-desk"]);
    let after = space.state();
    // Each VM that comes has a tap with a number of its own, `base` too.
    let plain = |state: &BTreeMap<&'static str, String>| {
        state.iter().map(|(what, text)| (*what, anonymous(text))).collect::<BTreeMap<_, _>>()
    };
    let (base, after) = (plain(&base), plain(&after));
    for (what, text) in &after {
        assert_eq!(text, &base[what], "{what}");
    }
    let removal = format!(
        "apiVersion: stablehand/v1alpha1\nkind: Removal\nmetadata: {{name: end}}\nspec: {{target: fleet/{}, data: delete, reason: the test is over}}\n",
        fleet.id()
    );
    std::fs::write(fleet.folder.join("removal.yaml"), removal).unwrap();
    space.must(&fleet, &["apply", "--yes"]);
    let after = space.state();
    for (what, text) in &nothing {
        assert_eq!(&after[what], text, "{what}");
    }
}

/// Without the numbers that the kernel counts interfaces with.
fn anonymous(text: &str) -> String {
    let line = |line: &str| match line.split_once(": ") {
        Some((number, rest)) if number.parse::<u32>().is_ok() => rest.to_owned(),
        _ => line.to_owned(),
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines.sort();
    lines.join("\n")
}
