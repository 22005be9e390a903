//! Hosts over a network: cables that are pulled, a libvirtd that is killed, a second controller, and the same over ssh.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use stablehand::execute::{Actuator, LockError, NoProgress, StepError};
use stablehand::host::RealFleet;
use stablehand::model::*;
use stablehand::observe::{Look, Observer};
use stablehand::plan::{Op, Step};

use super::lab::{Guest, Lab};
use super::{CLEAR, run};
use crate::host::name;

/// What is known of a host, and how long the look at all of them took.
async fn look(lab: &Lab, host: &str) -> (Observation<HostObs>, Duration) {
    let began = Instant::now();
    let mut observed = lab.observe().await;
    (observed.hosts.remove(host).unwrap(), began.elapsed())
}

/// Looks until a host is Known again, by the same connections: nothing of ours is started anew.
async fn known_again(lab: &Lab, host: &str, what: &str) -> HostObs {
    let began = Instant::now();
    loop {
        match look(lab, host).await.0 {
            Observation::Known(seen) => {
                println!("{what}: known again after {} ms", began.elapsed().as_millis());
                return seen;
            }
            other => assert!(began.elapsed() < Duration::from_secs(60), "{what}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What a busy machine may add to a look.
const SLACK: Duration = Duration::from_millis(700);

fn who(n: &str) -> LockHolder {
    LockHolder { token: n.to_owned(), who: n.to_owned(), since: Timestamp(1) }
}

#[test]
fn a_host_that_is_cut_off_is_unknown_and_comes_back() {
    if let Some(missing) = super::lab::missing() {
        println!("SKIPPED: hosts over a network ({missing})");
        return;
    }
    let lab = Lab::up("shrem", 91, &[], CLEAR);
    run(async {
        let h1 = name("h1");
        let (seen, took) = look(&lab, "h1").await;
        println!("first look at two hosts: {} ms", took.as_millis());
        assert!(matches!(seen, Observation::Known(_)), "{seen:?}");
        println!("second look: {} ms", look(&lab, "h1").await.1.as_millis());

        lab.fleet.lock(&h1, &who("ann")).await.unwrap();
        let other = RealFleet::new(&lab.desired, lab.folder(), "bob");
        assert_eq!(other.lock(&h1, &who("bob")).await, Err(LockError::Held(who("ann"))));
        let theirs = other.observe(&lab.desired, Look::default()).await;
        assert_eq!(theirs.hosts["h1"].known().unwrap().lock, Some(who("ann")));

        let guest = Guest::new(&lab, "r");
        guest.make("h1", "none").await;
        let before = guest.counts();

        lab.must(&["cut", "h1"]);
        let (seen, took) = look(&lab, "h1").await;
        let Observation::Unknown(fault) = seen else { panic!("{seen:?}") };
        println!("cut off: Unknown after {} ms: {}", took.as_millis(), fault.text);
        assert!(took < Duration::from_secs(16));
        // Known to be away, it keeps the others waiting no longer.
        let (other_host, took) = look(&lab, "h2").await;
        println!("the other host beside it: {} ms", took.as_millis());
        assert!(matches!(other_host, Observation::Known(_)), "{other_host:?}");
        assert!(took < Duration::from_millis(1500) + SLACK, "{took:?}");
        let (seen, took) = look(&lab, "h1").await;
        println!("still cut off: {} ms: {seen:?}", took.as_millis());
        assert!(matches!(seen, Observation::Unknown(_)) && took < Duration::from_millis(1500) + SLACK, "{took:?}");
        let stop = Op::Stop {
            vm: guest.vm.clone(),
            uuid: guest.uuid(),
            policy: StopPolicy { deadline: Span::secs(1), power_off: true },
        };
        let step = lab.fleet.perform(&Step { host: h1.clone(), op: stop }, &NoProgress).await;
        assert!(matches!(step, Err(StepError::Unknown(_))), "{step:?}");

        // A watch that waits hears by itself that it is back. Twice: its libvirt, and its shell.
        while tokio::time::timeout(Duration::from_millis(10), lab.fleet.stirred()).await.is_ok() {}
        lab.must(&["heal", "h1"]);
        let began = Instant::now();
        for way in ["one way", "both ways"] {
            let heard = tokio::time::timeout(Duration::from_secs(30), lab.fleet.stirred()).await;
            println!("healed, {way}: heard after {} ms", began.elapsed().as_millis());
            heard.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5) + SLACK);
        let seen = known_again(&lab, "h1", "healed").await;
        assert_eq!(seen.vms[&guest.vm].power, Power::Running);
        guest.goes_on(&before);

        for after in [5, 15, 25, 35] {
            // In the middle of a look, which ends all the same.
            let cut = lab.later(Duration::from_millis(after), &["cut", "h1"]);
            let (seen, took) = look(&lab, "h1").await;
            println!(
                "cut off {after} ms after a look began: {} ms, known: {}",
                took.as_millis(),
                seen.known().is_some()
            );
            assert!(took < Duration::from_secs(16), "{took:?}");
            cut.join().unwrap();
            lab.must(&["heal", "h1"]);
            known_again(&lab, "h1", "healed").await;
        }

        lab.must(&["restart-libvirtd", "h1"]);
        let seen = known_again(&lab, "h1", "libvirtd killed").await;
        assert_eq!(seen.vms[&guest.vm].power, Power::Running);

        lab.fleet.unlock(&h1).await;
        other.lock(&h1, &who("bob")).await.unwrap();
        other.unlock(&h1).await;
    });
}

/// An sshd on a host of the laboratory; what it took on this machine is given back when this is dropped.
pub(super) struct Sshd {
    pub(super) address: String,
    pub(super) folder: PathBuf,
}

impl Sshd {
    pub(super) fn start(lab: &Lab, host: &str, last: u8) -> Self {
        let folder = lab.state().join("ssh");
        std::fs::create_dir_all(&folder).unwrap();
        let at = |file: &str| folder.join(file).to_str().unwrap().to_owned();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]).status();
            assert!(made.unwrap().success());
        }
        let address = format!("[{}]:2222", lab.address(last));
        let key = std::fs::read_to_string(at("host.pub")).unwrap();
        let known = format!("{address} {}", key.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
        let home = Path::new("/root/.ssh");
        let _ = std::fs::create_dir(home);
        let file = home.join("known_hosts");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&file, format!("{before}{known} stablehand-test\n")).unwrap();
        let script = format!(
            "mkdir -p /run/sshd && exec /usr/sbin/sshd -p 2222 -f /dev/null -h {} -o AuthorizedKeysFile={} \
             -o StrictModes=no -o UsePAM=no -o PidFile=none -o PermitRootLogin=yes",
            at("host"),
            at("user.pub")
        );
        lab.must(&["console", host, "sh", "-c", &script]);
        Self { address: lab.address(last).to_string(), folder }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let file = Path::new("/root/.ssh/known_hosts");
        let all = std::fs::read_to_string(file).unwrap_or_default();
        let others: Vec<&str> = all.lines().filter(|l| !l.ends_with("stablehand-test")).collect();
        let text = if others.is_empty() { String::new() } else { others.join("\n") + "\n" };
        let _ = std::fs::write(file, text);
    }
}

#[test]
fn a_host_over_ssh_is_as_good() {
    over_ssh(false);
}

#[test]
fn a_host_over_ssh_that_is_cut_off_loses_its_lock_and_comes_back() {
    over_ssh(true);
}

fn over_ssh(cut: bool) {
    if let Some(missing) = super::lab::missing() {
        println!("SKIPPED: a host over ssh ({missing})");
        return;
    }
    if !Path::new("/usr/sbin/sshd").exists() {
        println!("SKIPPED: a host over ssh (`sshd` is not installed)");
        return;
    }
    let lab = Lab::up("shres", 92, &[], CLEAR);
    let sshd = Sshd::start(&lab, "h2", 12);
    let text = format!(
        "apiVersion: stablehand/v1alpha1\nkind: Fleet\nmetadata: {{name: t}}\nspec: {{}}\n---\n\
         apiVersion: stablehand/v1alpha1\nkind: Host\nmetadata: {{name: h2}}\nspec:\n  \
         connection: qemu+ssh://root@{}:2222/system\n  shell: {{ssh: {{user: root, port: 2222, identity: {}}}}}\n  \
         slots: 4\n  acceleration: tcg\n",
        sshd.address,
        sshd.folder.join("user").display()
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("fleet.yaml"), text).unwrap();
    let snapshot = stablehand::source::folder(folder.path()).unwrap();
    let desired = stablehand::config::load(&snapshot).unwrap_or_else(|e| panic!("{e:#?}")).desired;
    run(async {
        let fleet = RealFleet::new(&desired, folder.path(), "ann");
        let h2 = name("h2");
        for what in ["first", "second", "third"] {
            let began = Instant::now();
            let observed = fleet.observe(&desired, Look::default()).await;
            println!("over ssh, {what} look: {} ms", began.elapsed().as_millis());
            assert!(matches!(observed.hosts["h2"], Observation::Known(_)), "{:?}", observed.hosts);
        }
        fleet.lock(&h2, &who("ann")).await.unwrap();
        // The laboratory's own way to the same host sees the lock.
        assert_eq!(lab.fleet.lock(&h2, &who("bob")).await, Err(LockError::Held(who("ann"))));
        if !cut {
            big_image(&lab, &fleet, folder.path()).await;
            fleet.unlock(&h2).await;
            return;
        }
        // The cable is pulled: the lock is lost before the host gives it to somebody else.
        lab.must(&["cut", "h2"]);
        let began = Instant::now();
        let observed = fleet.observe(&desired, Look::default()).await;
        println!("over ssh, cut off: Unknown after {} ms", began.elapsed().as_millis());
        assert!(matches!(observed.hosts["h2"], Observation::Unknown(_)), "{:?}", observed.hosts);
        assert!(began.elapsed() < Duration::from_secs(20));
        // A sign of life, 5 s later the next one, and 20 s in which it could have been answered.
        tokio::time::sleep(Duration::from_secs(27).saturating_sub(began.elapsed())).await;
        let path = "/var/lib/stablehand/images/0123456789ab-gone.img".to_owned();
        let drop = Op::DropImage { path, digest: Digest::new(&format!("sha256:{}", "0".repeat(64))).unwrap() };
        let step = fleet.perform(&Step { host: h2.clone(), op: drop }, &NoProgress).await;
        assert!(matches!(&step, Err(StepError::Unknown(text)) if text.contains("lock")), "{step:?}");
        lab.must(&["heal", "h2"]);
        let began = Instant::now();
        loop {
            let observed = fleet.observe(&desired, Look::default()).await;
            if matches!(observed.hosts["h2"], Observation::Known(_)) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(90), "{:?}", observed.hosts);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        println!("over ssh, healed: known again after {} ms", began.elapsed().as_millis());
        fleet.unlock(&h2).await;
    });
}

/// Puts a file of 1 GiB, nearly empty, over ssh.
async fn big_image(lab: &Lab, fleet: &RealFleet, folder: &Path) {
    let image = folder.join("big.img");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 16 << 20], 512 << 20).unwrap();
    let sum = Command::new("sha256sum").arg(&image).output().unwrap();
    let digest = Digest::new(&format!("sha256:{}", String::from_utf8_lossy(&sum.stdout[..64]))).unwrap();
    let path = format!("/var/lib/stablehand/images/{}-big.img", digest.short());
    let file = ImageFile::new(Source::Path("big.img".into()), digest);
    let put = Op::PutImage { file, path: path.clone(), note: None };
    let began = Instant::now();
    fleet.perform(&Step { host: name("h2"), op: put }, &NoProgress).await.unwrap();
    println!("1 GiB with 16 MiB in it over ssh, and its digest: {} ms", began.elapsed().as_millis());
    let used = lab.says("h2", &["stat", "-c", "%s %b", &path]);
    let numbers: Vec<u64> = used.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(numbers[0] == 1 << 30 && numbers[1] * 512 < 20 << 20, "the holes were kept: {used}");
}
