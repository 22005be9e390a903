//! Captures of real disks.

use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;

use super::super::super::shell::Local;
use super::super::tests::{Small, digest, elsewhere, fleet, noise};
use super::super::{Copy, Put, drop, read_digest};
use super::*;
use crate::execute::NoProgress;
use crate::model::{ImageFile, MadeFrom, Packages, Provenance, Source, Timestamp};

/// A base image, an overlay of it that a guest has written to, and a store.
struct Bench {
    _folder: tempfile::TempDir,
    base: PathBuf,
    disk: String,
    store: String,
}

fn run(words: &[&str]) {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_owned();
        let at = |name: &str| base.join(name).to_str().unwrap().to_owned();
        std::fs::write(base.join("plain"), noise(3 << 20, 5)).unwrap();
        run(&["qemu-img", "convert", "-f", "raw", "-O", "qcow2", &at("plain"), &at("base.qcow2")]);
        run(&[
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            &at("base.qcow2"),
            &at("it's a disk.qcow2"),
            "1G",
        ]);
        let disk = at("it's a disk.qcow2");
        // Something new, something written over, something that was given back.
        for what in ["write -P 7 700M 2M", "write -P 9 64k 128k", "discard 1M 1M"] {
            run(&["qemu-io", "-f", "qcow2", "-c", what, &disk]);
        }
        let store = at("store");
        Self { _folder: folder, base, disk, store }
    }
    fn names(&self) -> Vec<String> {
        let Ok(all) = std::fs::read_dir(&self.store) else { return Vec::new() };
        let mut names: Vec<String> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    async fn capture(
        &self,
        shell: &dyn Shell,
        recipe: &Digest,
        packages: Option<(&str, &Packages)>,
    ) -> Result<Done, StepError> {
        let fleet = fleet("f");
        let capture = Capture {
            disk: &self.disk,
            disk_format: "qcow2",
            folder: &self.store,
            name: "desk-4.qcow2",
            format: ImageFormat::Qcow2,
            recipe,
            fleet: &fleet,
            packages: packages.map(|(path, _)| path),
            note: note(recipe, packages.map(|(_, p)| p.clone())),
        };
        capture.run(shell, &NoProgress).await
    }
    /// The one file of the store, and that nothing lies there that was not meant to.
    fn sealed(&self, packages: bool) -> (String, Digest, ImageNote) {
        let names = self.names();
        let name = names.iter().find(|n| n.ends_with("-desk-4.qcow2")).unwrap();
        let mut wanted = vec![name.clone(), format!("{name}.digest"), format!("{name}.for.f")];
        wanted.extend(packages.then(|| format!("{name}.packages")));
        assert_eq!(names, wanted);
        let path = format!("{}/{name}", self.store);
        let (said, note) = read_digest(&std::fs::read(format!("{path}.digest")).unwrap()).unwrap();
        assert_eq!(said, digest(&std::fs::read(&path).unwrap()));
        assert!(name.starts_with(said.short()));
        (path, said, note.unwrap())
    }
}

fn note(recipe: &Digest, packages: Option<Packages>) -> ImageNote {
    let from = MadeFrom::Image { image: fleet("debian"), digest: digest(b"base") };
    let made = Provenance {
        recipe: recipe.clone(),
        revision: fleet("4"),
        from,
        commit: "it's \"a\" $commit \\n `x`".to_owned(),
        at: Timestamp(9),
        builder: Uuid::from_u128(7),
        cpus: 2,
        memory: Bytes::mib(512),
        packages,
        size: None,
        length: None,
    };
    ImageNote { image: fleet("desk"), generation: Some(fleet("4")), since: Timestamp(9), made: Some(made) }
}

fn same(one: &str, other: &str) {
    run(&["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", one, other]);
}

#[tokio::test]
async fn a_disk_becomes_a_file_of_its_own_with_its_holes_and_a_note() {
    for shell in [&Local as &dyn Shell, &elsewhere()] {
        let (bench, recipe) = (Bench::new(), digest(b"recipe"));
        let list = bench.base.join("list");
        std::fs::write(&list, "# dpkg\nbash 5\nsed 4\n").unwrap();
        let packages = Packages { manager: fleet("dpkg"), count: 2, digest: digest(b"list") };
        let packages = (list.to_str().unwrap(), &packages);
        assert_eq!(bench.capture(shell, &recipe, Some(packages)).await, Ok(Done::Changed));
        let (path, digest, found) = bench.sealed(true);
        same(&bench.disk, &path);
        let info = Command::new("qemu-img").args(["info", &path]).output().unwrap();
        assert!(!String::from_utf8_lossy(&info.stdout).contains("backing"), "it stands on nothing");
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(length < 6 << 20, "{length}: holes stay holes");
        let mut wanted = note(&recipe, Some(packages.1.clone()));
        let made = wanted.made.as_mut().unwrap();
        (made.size, made.length) = (Some(Bytes::gib(1)), Some(Bytes(length)));
        assert_eq!(found, wanted, "what is beside it is what was meant, whatever stands in it");
        assert_eq!(std::fs::read_to_string(format!("{path}.packages")).unwrap(), "# dpkg\nbash 5\nsed 4\n");

        // Again: it is there.
        assert_eq!(bench.capture(shell, &recipe, None).await, Ok(Done::Already));
        bench.sealed(true);
        // Another host has it with all that is known of it.
        let other = bench.base.join("other").to_str().unwrap().to_owned();
        let (to, name, peer) = (format!("{other}/x.qcow2"), fleet("h1"), &Local);
        let copy = Copy { digest: &digest, path: &to, from: &path, fleet: &fleet("g"), peer, peer_name: &name };
        assert_eq!(copy.run(shell, &NoProgress).await, Ok(Done::Changed));
        let beside = |path: &str| read_digest(&std::fs::read(format!("{path}.digest")).unwrap()).unwrap();
        assert_eq!(beside(&to), (digest.clone(), Some(wanted.clone())));
        assert!(Path::new(&format!("{to}.packages")).exists());
        // Another way of the same; and a note that says less does not take its place.
        let to = format!("{other}/y.qcow2");
        let file = ImageFile::new(Source::Host { host: name, path: path.as_str().into() }, digest.clone());
        let (patience, note) = (super::super::USUAL, Some(&wanted));
        let put =
            Put { file: &file, path: &to, fleet: &fleet("g"), base: &bench.base, peer: Some(&Local), note, patience };
        assert_eq!(put.run(shell, &NoProgress).await, Ok(Done::Changed));
        let less = ImageNote { image: fleet("golden"), made: None, ..wanted.clone() };
        super::super::note(shell, &to, &digest, &less).await.unwrap();
        assert_eq!(beside(&to), (digest, Some(wanted)));
        assert!(Path::new(&format!("{to}.packages")).exists());
        // It goes with all that lies beside it.
        assert_eq!(drop(shell, &path, &fleet("f")).await, Ok(Done::Changed));
        assert_eq!(bench.names(), [""; 0]);
    }
}

#[tokio::test]
async fn what_a_cut_left_is_not_used_and_does_not_stay() {
    let (bench, recipe) = (Bench::new(), digest(b"recipe"));
    std::fs::create_dir(&bench.store).unwrap();
    let work = format!("{}/recipe-{}-desk-4.qcow2", bench.store, recipe.short());
    std::fs::write(format!("{work}.partial"), noise(5000, 3)).unwrap();
    std::fs::write(format!("{work}.lock"), "").unwrap();
    // Everything beside it, but not the file: it is not sealed.
    let text = format!("{}\n{}\n", recipe.as_str(), serde_json::to_string(&note(&recipe, None)).unwrap());
    let stale = format!("{}/0123456789ab-desk-3.qcow2.digest", bench.store);
    std::fs::write(&stale, text).unwrap();
    assert_eq!(bench.capture(&Local, &recipe, None).await, Ok(Done::Changed));
    std::fs::remove_file(stale).unwrap();
    let (path, ..) = bench.sealed(false);
    same(&bench.disk, &path);
}

#[tokio::test]
async fn one_that_dies_in_the_middle_leaves_no_generation() {
    let (bench, recipe) = (Bench::new(), digest(b"recipe"));
    // 512 MiB that take a moment.
    std::fs::write(bench.base.join("plain"), noise(1 << 20, 11)).unwrap();
    let pattern: Vec<String> = (0..512).map(|n| format!("write -P {} {}M 1M", n % 250 + 1, 100 + n)).collect();
    let mut io = Command::new("qemu-io");
    io.args(["-f", "qcow2"]);
    pattern.iter().for_each(|p| drop_ref(io.args(["-c", p])));
    assert!(io.arg(&bench.disk).output().unwrap().status.success());
    for millis in [5, 30, 80, 150] {
        let cut = tokio::time::timeout(Duration::from_millis(millis), bench.capture(&Local, &recipe, None)).await;
        if cut.is_err() {
            let names = bench.names();
            let whole = names.iter().any(|n| n.ends_with("-desk-4.qcow2") && !n.starts_with("recipe-"));
            println!("cut after {millis} ms: {names:?}");
            if whole {
                bench.capture(&Local, &recipe, None).await.unwrap();
                bench.sealed(false);
            }
        }
    }
    bench.capture(&Local, &recipe, None).await.unwrap();
    let (path, ..) = bench.sealed(false);
    same(&bench.disk, &path);
}

fn drop_ref<T>(_: &mut T) {}

#[tokio::test]
async fn a_disk_that_is_open_is_not_captured() {
    let (bench, recipe) = (Bench::new(), digest(b"recipe"));
    let mut open = Command::new("qemu-io")
        .args(["-f", "qcow2", &bench.disk])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let error = bench.capture(&Local, &recipe, None).await.unwrap_err();
    open.kill().unwrap();
    open.wait().unwrap();
    assert!(error.to_string().contains("lock"), "{error}");
    assert!(bench.names().iter().all(|n| n.ends_with(".lock")), "{:?}", bench.names());
    assert_eq!(bench.capture(&Local, &recipe, None).await, Ok(Done::Changed));
}

#[tokio::test]
async fn a_store_without_room_says_how_much_is_needed() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root");
        return;
    }
    let (bench, recipe) = (Bench::new(), digest(b"recipe"));
    let _small = Small::at(Path::new(&bench.store), "4M");
    let error = bench.capture(&Local, &recipe, None).await.unwrap_err();
    assert!(error.to_string().contains("are needed in") && error.to_string().contains("4MiB free"), "{error}");
    assert_eq!(bench.names(), [""; 0]);
}

#[tokio::test]
async fn the_same_content_by_another_recipe_is_the_same_file() {
    let bench = Bench::new();
    let (one, other) = (digest(b"one"), digest(b"other"));
    assert_eq!(bench.capture(&Local, &one, None).await, Ok(Done::Changed));
    let (path, before, _) = bench.sealed(false);
    assert_eq!(bench.capture(&Local, &other, None).await, Ok(Done::Changed));
    let (again, after, note) = bench.sealed(false);
    assert_eq!((path, before), (again, after));
    assert_eq!(note.made.unwrap().recipe, other);
}
