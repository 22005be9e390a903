use std::path::Path;

use proptest::prelude::*;

use super::scan::tests::reference;
use super::*;
use crate::execute::NoProgress;
use crate::host::shell::{Local, Remote};

const TEXT: &str = "@@STABLEHAND-ADDRESS@@";

fn markers() -> BTreeMap<Name, Replacement> {
    let one = |name: &str, marker: &str, with: &str| {
        let with = format!("{with:<width$}", width = marker.len());
        (Name::new(name).unwrap(), Replacement { marker: marker.to_owned(), with })
    };
    BTreeMap::from([one("address", TEXT, "10.83.0.10"), one("host", "%%STABLEHAND-HOSTNAME%%", "web-1")])
}

fn qemu_img(words: &[&str]) {
    let out = std::process::Command::new("qemu-img").args(words).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn has_qemu_img() -> bool {
    std::process::Command::new("qemu-img").arg("--version").output().is_ok()
}

/// An image of `format`, in which `raw` is what a guest sees.
fn image(folder: &Path, raw: &[u8], kind: Kind) -> (String, ImageFormat) {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(at("image.raw"), raw).unwrap();
    let Kind { cluster, compressed, chained } = match kind {
        Kind { cluster: 0, .. } => return (at("image.raw"), ImageFormat::Raw),
        kind => kind,
    };
    let options = format!("cluster_size={cluster}");
    let (raw_path, whole) = (at("image.raw"), at("image.qcow2"));
    let mut words = vec!["convert", "-q", "-f", "raw", "-O", "qcow2", "-o", &options];
    if compressed {
        words.push("-c");
    }
    words.extend([raw_path.as_str(), whole.as_str()]);
    qemu_img(&words);
    if !chained {
        return (whole, ImageFormat::Qcow2);
    }
    // Every second cluster is above, what lies below it there is something else.
    let above = at("above.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, "-b", &whole, "-F", "qcow2", &above]);
    let size = raw.len() as u64;
    let mut commands = Vec::new();
    for start in (0..size).step_by(usize::try_from(cluster).unwrap() * 2) {
        let n = u64::from(cluster).min(size - start);
        let part = at("part");
        let bytes = &raw[usize::try_from(start).unwrap()..usize::try_from(start + n).unwrap()];
        // qemu-io writes whole sectors.
        if bytes.len().is_multiple_of(512) && commands.len() < 40 {
            let part = format!("{part}.{start}");
            std::fs::write(&part, bytes).unwrap();
            commands.extend(["-c".to_owned(), format!("write -q -s {part} {start} {n}")]);
        }
    }
    if !commands.is_empty() {
        let out = std::process::Command::new("qemu-io").args(["-f", "qcow2"]).args(&commands).arg(&above).output();
        assert!(out.unwrap().status.success());
    }
    (above, ImageFormat::Qcow2)
}

/// How an image is kept: plain bytes with a cluster size of 0.
#[derive(Clone, Copy, Debug)]
struct Kind {
    cluster: u32,
    compressed: bool,
    chained: bool,
}

fn shells() -> [Box<dyn Shell>; 2] {
    let elsewhere = Remote::command(["sh", "-c", r#"exec "$@""#, "sh"].into_iter(), Path::new("/"));
    [Box::new(Local), Box::new(elsewhere)]
}

async fn copied(shell: &dyn Shell, image: (&str, ImageFormat), to: &Path) -> Result<Vec<u64>, StepError> {
    let counts = copy(shell, image, to.to_str().unwrap(), &markers(), &NoProgress).await?;
    Ok(counts.into_values().collect())
}

fn run<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
}

#[test]
fn a_marker_that_is_not_there_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.raw");
    std::fs::write(&path, TEXT).unwrap();
    for shell in shells() {
        if shell.is_remote() && !has_qemu_img() {
            continue;
        }
        let to = folder.path().join("f.a.1.root.raw.partial");
        let error = run(copied(shell.as_ref(), (path.to_str().unwrap(), ImageFormat::Raw), &to)).unwrap_err();
        assert!(error.to_string().contains("the marker host (`%%STABLEHAND-HOSTNAME%%`) is nowhere"), "{error}");
        assert!(!to.exists());
    }
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => (0usize..200_000).prop_map(|n| vec![0; n]),
        4 => (any::<u64>(), 1usize..150_000).prop_map(|(seed, n)| noise(seed, n)),
        2 => (1usize..70_000).prop_map(|n| b"all work and no play ".iter().copied().cycle().take(n).collect()),
        6 => Just(TEXT.as_bytes().to_vec()),
        3 => Just(b"%%STABLEHAND-HOSTNAME%%".to_vec()),
        2 => Just(b"@@STABLEHAND@@STABLEHAND-ADDRESS@".to_vec()),
    ];
    // Whole sectors: qemu-img fills others up.
    proptest::collection::vec(piece, 1..12).prop_map(|pieces| {
        let mut all = pieces.concat();
        all.extend(TEXT.as_bytes());
        all.extend(b"%%STABLEHAND-HOSTNAME%%");
        all.resize(all.len().next_multiple_of(512), 0);
        all
    })
}

fn noise(mut seed: u64, n: usize) -> Vec<u8> {
    let next = || {
        // Knuth's linear congruential generator (MMIX).
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(seed >> 56).unwrap()
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn kind() -> impl Strategy<Value = Kind> {
    let cluster = prop_oneof![Just(0u32), Just(512), Just(4096), Just(65536), Just(65536), Just(1 << 20)];
    (cluster, any::<bool>(), any::<bool>()).prop_map(|(cluster, compressed, chained)| Kind {
        cluster,
        compressed,
        chained,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_marker_is_replaced_however_the_image_is_kept(raw in content(), shift in 0usize..512, kind in kind()) {
        prop_assume!(has_qemu_img());
        // Any alignment: the same content, moved.
        let mut moved = vec![0; shift];
        moved.extend(raw);
        moved.resize(moved.len().next_multiple_of(512), 0);
        let folder = tempfile::tempdir().unwrap();
        let (path, format) = image(folder.path(), &moved, kind);
        let swaps = swaps(&markers());
        let (wanted, counts) = reference(&moved, &swaps);
        for shell in shells() {
            let to = folder.path().join("out");
            let found = run(copied(shell.as_ref(), (&path, format), &to)).unwrap();
            prop_assert_eq!(&found, &counts);
            let there = std::fs::read(&to).unwrap();
            // A cluster may be longer than the disk; the disk is not.
            prop_assert!(there.len() == wanted.len() && there == wanted, "{kind:?}, remote: {}", shell.is_remote());
            std::fs::remove_file(&to).unwrap();
        }
    }
}

#[test]
fn a_marker_stands_across_the_border_of_two_clusters() {
    if !has_qemu_img() {
        return;
    }
    for cluster in [512u32, 65536, 2 << 20] {
        for before in 0..=TEXT.len() {
            let mut raw = vec![0u8; usize::try_from(cluster).unwrap() * 2];
            let at = usize::try_from(cluster).unwrap() - before;
            raw[at..at + TEXT.len()].copy_from_slice(TEXT.as_bytes());
            raw[..23].copy_from_slice(b"%%STABLEHAND-HOSTNAME%%");
            if at < 23 {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let kind = Kind { cluster, compressed: before % 2 == 0, chained: before % 3 == 0 };
            let (path, format) = image(folder.path(), &raw, kind);
            let to = folder.path().join("out");
            assert_eq!(run(copied(&Local, (&path, format), &to)).unwrap(), [1, 1], "{cluster} {before}");
            assert!(std::fs::read(&to).unwrap() == reference(&raw, &swaps(&markers())).0);
        }
    }
}
