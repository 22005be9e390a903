//! Ways into a store and out of it, on real files, with a real server that does not keep its word.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::super::shell::{Local, Remote, Shell};
use super::*;
use crate::execute::NoProgress;
use crate::model::{Compression, Timestamp};

const QUICK: Patience = Patience {
    whole: Duration::from_secs(60),
    stall: Duration::from_secs(2),
    pauses: &[Duration::from_millis(20), Duration::from_millis(40), Duration::from_millis(40)],
};

pub(super) fn elsewhere() -> Remote {
    Remote::command(["sh", "-c", r#"exec "$@""#, "sh"].into_iter(), Path::new("/"))
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    Digest::new(&format!("sha256:{hex}")).unwrap()
}

/// Bytes that no compression makes smaller.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

pub(super) fn fleet(name: &str) -> Name {
    Name::new(name).unwrap()
}

struct Store {
    _folder: tempfile::TempDir,
    base: PathBuf,
    path: String,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_owned();
        let path = base.join("store/0-a.img").to_str().unwrap().to_owned();
        Self { _folder: folder, base, path }
    }
    async fn put(&self, shell: &dyn Shell, file: &ImageFile) -> Result<Done, StepError> {
        let fleet = fleet("f");
        let put = Put {
            file,
            path: &self.path,
            fleet: &fleet,
            base: &self.base,
            peer: Some(&Local),
            note: None,
            patience: QUICK,
        };
        put.run(shell, &NoProgress).await
    }
    fn names(&self) -> Vec<String> {
        let Ok(all) = std::fs::read_dir(self.base.join("store")) else { return Vec::new() };
        let mut names: Vec<String> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    fn is(&self, content: &[u8]) {
        assert!(std::fs::read(&self.path).unwrap() == content, "another content");
        assert_eq!(self.names(), ["0-a.img", "0-a.img.digest", "0-a.img.for.f"]);
    }
}

fn from_path(source: &str, content: &[u8]) -> ImageFile {
    ImageFile::new(Source::Path(source.into()), digest(content))
}

/// How a server behaves.
#[derive(Clone, Debug)]
struct Manners {
    files: Vec<Vec<u8>>,
    /// Closes after this many bytes of a body, this many times.
    cuts: (usize, usize),
    ranges: bool,
    /// Says that the body is this much longer than it is.
    lies: usize,
    /// Sends nothing after this many bytes, once.
    stalls: Option<usize>,
    /// Answers with 503 this many times.
    busy: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self { files: Vec::new(), cuts: (0, 0), ranges: true, lies: 0, stalls: None, busy: 0 }
    }
}

struct Server {
    url: String,
    /// `Range` of each request.
    asked: Arc<Mutex<Vec<Option<usize>>>>,
}

/// Serves the first file, and after each cut the next one.
fn serve(manners: Manners) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.img", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    std::thread::spawn(move || {
        let mut manners = manners;
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let _ = answer(stream, &mut manners, &heard);
        }
    });
    Server { url, asked }
}

fn answer(stream: TcpStream, manners: &mut Manners, heard: &Mutex<Vec<Option<usize>>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let (mut from, mut only_if) = (None, None);
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        let lower = line.to_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
        only_if = only_if.or(lower.strip_prefix("if-range: ").map(str::to_owned));
    }
    heard.lock().unwrap().push(from);
    let mut out = stream;
    if manners.busy > 0 {
        manners.busy -= 1;
        return out.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let whole = manners.files[0].clone();
    let etag = format!("\"{}\"", &digest(&whole).hex()[..8]);
    let same = only_if.is_none_or(|e| e == etag);
    let start = from.filter(|_| manners.ranges && same);
    let body = match start {
        Some(start) if start >= whole.len() => {
            return out.write_all(b"HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        start => whole[start.unwrap_or(0)..].to_vec(),
    };
    let (length, total) = (body.len() + manners.lies, whole.len() + manners.lies);
    let line = match start {
        Some(start) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}", total - 1),
        None => "200 OK".to_owned(),
    };
    write!(out, "HTTP/1.1 {line}\r\nETag: {etag}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    if let Some(some) = manners.stalls.take() {
        out.write_all(&body[..some])?;
        std::thread::sleep(Duration::from_secs(6));
        return Ok(());
    }
    if manners.cuts.1 > 0 {
        manners.cuts.1 -= 1;
        out.write_all(&body[..manners.cuts.0.min(body.len())])?;
        out.flush()?;
        if manners.files.len() > 1 {
            manners.files.remove(0);
        }
        return Ok(());
    }
    out.write_all(&body)
}

fn from_url(server: &Server, content: &[u8]) -> ImageFile {
    ImageFile::new(Source::Url(server.url.as_str().into()), digest(content))
}

#[tokio::test]
async fn an_image_is_there_whole_or_not_at_all() {
    for shell in [&Local as &dyn Shell, &elsewhere()] {
        let store = Store::new();
        std::fs::write(store.base.join("a.img"), b"hello").unwrap();
        let another = store.put(shell, &from_path("a.img", b"other")).await.unwrap_err();
        assert!(another.to_string().contains("is sha256:2cf24"), "{another}");
        let none = store.put(shell, &from_path("b.img", b"hello")).await.unwrap_err();
        assert!(matches!(&none, StepError::Failed { hint: Some(h), .. } if h.contains("built")), "{none:?}");
        assert_eq!(store.names(), [""; 0], "nothing half-done stays");
        let good = from_path("a.img", b"hello");
        assert_eq!(store.put(shell, &good).await, Ok(Done::Changed));
        assert_eq!(store.put(shell, &good).await, Ok(Done::Already));
        store.is(b"hello");
        let longer = ImageFile { size: Some(Bytes(6)), ..good };
        let other = Store::new();
        std::fs::write(other.base.join("a.img"), b"hello").unwrap();
        assert!(other.put(shell, &longer).await.unwrap_err().to_string().contains("5B long, not 6B"));
        assert_eq!(drop(shell, &store.path, &fleet("f")).await, Ok(Done::Changed));
        assert_eq!(drop(shell, &store.path, &fleet("f")).await, Ok(Done::Already));
        assert_eq!(store.names(), [""; 0]);
    }
}

#[tokio::test]
async fn fleets_that_share_a_store_keep_what_the_others_need() {
    for shell in [&Local as &dyn Shell, &elsewhere()] {
        let store = Store::new();
        std::fs::write(store.base.join("a.img"), b"hello").unwrap();
        store.put(shell, &from_path("a.img", b"hello")).await.unwrap();
        assert_eq!(needed(shell, &store.path, &fleet("g")).await, Ok(Done::Changed));
        assert_eq!(mark(shell, &store.path, &fleet("f"), Some(Timestamp(7))).await, Ok(Done::Changed));
        assert_eq!(mark(shell, &store.path, &fleet("f"), Some(Timestamp(7))).await, Ok(Done::Already));
        let text = std::fs::read(format!("{}.for.f", store.path)).unwrap();
        assert_eq!(read_mark("f", &text), Some((fleet("f"), Some(Timestamp(7)))));
        assert_eq!(drop(shell, &store.path, &fleet("f")).await, Ok(Done::Changed));
        assert_eq!(store.names(), ["0-a.img", "0-a.img.digest", "0-a.img.for.g"]);
        assert_eq!(drop(shell, &store.path, &fleet("g")).await, Ok(Done::Changed));
        assert_eq!(store.names(), [""; 0]);
        assert!(mark(shell, &store.path, &fleet("f"), None).await.is_err());
    }
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_from_where_it_was() {
    for shell in [&Local as &dyn Shell, &elsewhere()] {
        let content = noise(300_000, 7);
        let (store, cuts) = (Store::new(), (100_000, 2));
        let server = serve(Manners { files: vec![content.clone()], cuts, busy: 1, ..Manners::default() });
        assert_eq!(store.put(shell, &from_url(&server, &content)).await, Ok(Done::Changed));
        store.is(&content);
        assert_eq!(*server.asked.lock().unwrap(), [None, None, Some(100_000), Some(200_000)]);
    }
}

#[tokio::test]
async fn a_partial_file_that_a_crash_left_is_gone_on_from() {
    let content = noise(300_000, 9);
    for (left, asked) in [(&content[..120_000], vec![Some(120_000)]), (&noise(90_000, 3)[..], vec![Some(90_000), None])]
    {
        let store = Store::new();
        let server = serve(Manners { files: vec![content.clone()], ..Manners::default() });
        std::fs::create_dir(store.base.join("store")).unwrap();
        std::fs::write(format!("{}.partial", store.path), left).unwrap();
        assert_eq!(store.put(&Local, &from_url(&server, &content)).await, Ok(Done::Changed));
        store.is(&content);
        // What was of another file is found by the digest, and begun anew once.
        assert_eq!(*server.asked.lock().unwrap(), asked);
    }
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_all_of_it() {
    let content = noise(300_000, 11);
    let store = Store::new();
    let server =
        serve(Manners { files: vec![content.clone()], cuts: (100_000, 1), ranges: false, ..Manners::default() });
    assert_eq!(store.put(&Local, &from_url(&server, &content)).await, Ok(Done::Changed));
    store.is(&content);
    assert_eq!(*server.asked.lock().unwrap(), [None, Some(100_000), None]);
}

#[tokio::test]
async fn a_file_that_changes_in_between_is_begun_anew() {
    let (old, new) = (noise(300_000, 13), noise(310_000, 17));
    let store = Store::new();
    let files = vec![old, new.clone()];
    let server = serve(Manners { files, cuts: (100_000, 1), ..Manners::default() });
    assert_eq!(store.put(&Local, &from_url(&server, &new)).await, Ok(Done::Changed));
    store.is(&new);
}

#[tokio::test]
async fn a_file_that_is_another_for_good_is_fetched_no_more_than_twice() {
    let store = Store::new();
    let server = serve(Manners { files: vec![noise(300_000, 19)], cuts: (9_000, 1), ..Manners::default() });
    let error = store.put(&Local, &from_url(&server, b"what was meant")).await.unwrap_err();
    assert!(error.to_string().contains(", not sha256:"), "{error}");
    assert!(server.asked.lock().unwrap().len() <= 3);
    assert_eq!(store.names(), [""; 0]);
}

#[tokio::test]
async fn a_wrong_length_is_seen_through() {
    let content = noise(200_000, 23);
    let store = Store::new();
    let server = serve(Manners { files: vec![content.clone()], lies: 50, ..Manners::default() });
    assert_eq!(store.put(&Local, &from_url(&server, &content)).await, Ok(Done::Changed));
    store.is(&content);
    // One that never gives the rest is found by the digest, and not asked for ever.
    let store = Store::new();
    let server = serve(Manners { files: vec![content[..150_000].to_vec()], lies: 50_000, ..Manners::default() });
    let error = store.put(&Local, &from_url(&server, &content)).await.unwrap_err();
    assert!(error.to_string().contains(", not sha256:"), "{error}");
    assert!(server.asked.lock().unwrap().len() < 10);
    assert_eq!(store.names(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_and_asked_again() {
    let content = noise(200_000, 29);
    let store = Store::new();
    let server = serve(Manners { files: vec![content.clone()], stalls: Some(100_000), ..Manners::default() });
    assert_eq!(store.put(&Local, &from_url(&server, &content)).await, Ok(Done::Changed));
    store.is(&content);
    assert_eq!(server.asked.lock().unwrap()[1], Some(100_000));
}

#[tokio::test]
async fn a_refusal_is_no_reason_to_try_again() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = Store::new();
    let nobody = ImageFile::new(Source::Url(format!("http://{gone}/a").into()), digest(b""));
    let error = store.put(&Local, &nobody).await.unwrap_err();
    assert!(error.to_string().contains("0B came"), "{error}");
    let server = serve(Manners { files: vec![noise(5000, 1)], ..Manners::default() });
    let larger = ImageFile { size: Some(Bytes(4000)), ..from_url(&server, b"") };
    let error = store.put(&Local, &larger).await.unwrap_err();
    assert!(error.to_string().contains("longer than `size` says"), "{error}");
}

#[tokio::test]
async fn two_that_fetch_one_file_write_one_after_the_other() {
    let content = noise(400_000, 31);
    let store = Store::new();
    let server = serve(Manners { files: vec![content.clone()], stalls: Some(10), ..Manners::default() });
    let file = from_url(&server, &content);
    let far = elsewhere();
    let (one, two, three) = tokio::join!(store.put(&Local, &file), store.put(&far, &file), store.put(&Local, &file));
    let all = [one.unwrap(), two.unwrap(), three.unwrap()];
    assert!(all.contains(&Done::Changed));
    store.is(&content);
}

fn pack(store: &Store, tool: &str, content: &[u8]) -> Vec<u8> {
    let plain = store.base.join("plain");
    std::fs::write(&plain, content).unwrap();
    let out = Command::new(tool).args(["-q", "-c", "--"]).arg(&plain).output().unwrap();
    assert!(out.status.success());
    std::fs::write(store.base.join("a.img"), &out.stdout).unwrap();
    out.stdout
}

#[tokio::test]
async fn packed_files_are_unpacked_on_the_host_and_known_by_the_digest_they_came_with() {
    // 1 MiB of noise, 6 MiB of nothing, a tail.
    let mut content = noise(1 << 20, 37);
    content.resize(7 << 20, 0);
    content.extend_from_slice(b"the end");
    for (tool, said) in [("zstd", Compression::Auto), ("xz", Compression::Xz), ("gzip", Compression::Auto)] {
        for shell in [&Local as &dyn Shell, &elsewhere()] {
            let store = Store::new();
            let packed = pack(&store, tool, &content);
            let file = ImageFile { compression: said, ..from_path("a.img", &packed) };
            assert_eq!(store.put(shell, &file).await, Ok(Done::Changed), "{tool}");
            store.is(&content);
            let (length, used) = shell.size(&store.path).await.unwrap().unwrap();
            assert!(used < length / 2, "{tool}: {used} of {length}: holes stay holes");
            let text = std::fs::read(format!("{}.digest", store.path)).unwrap();
            assert_eq!(read_digest(&text).unwrap().0, digest(&packed));
            assert_eq!(store.put(shell, &file).await, Ok(Done::Already));
            // Another host gets what lies there, with both digests.
            let (name, fleet) = (fleet("h1"), fleet("f"));
            let there = std::fs::read(&store.path).unwrap();
            let (digest, other) = (digest(&packed), Store::new());
            let (path, from) = (other.path.as_str(), store.path.as_str());
            let copy = Copy { digest: &digest, path, from, fleet: &fleet, peer: &Local, peer_name: &name };
            assert_eq!(copy.run(shell, &NoProgress).await, Ok(Done::Changed));
            other.is(&there);
            assert_eq!(std::fs::read(format!("{}.digest", other.path)).unwrap(), text);
        }
    }
}

#[tokio::test]
async fn what_is_damaged_or_too_large_is_not_unpacked() {
    let content = noise(3 << 20, 41);
    for tool in ["zstd", "xz", "gzip"] {
        let store = Store::new();
        let packed = pack(&store, tool, &content);
        let cut = &packed[..packed.len() - 1000];
        std::fs::write(store.base.join("cut.img"), cut).unwrap();
        let file = ImageFile { compression: Compression::Auto, ..from_path("cut.img", cut) };
        let error = store.put(&Local, &file).await.unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{tool}: {error}");
        assert_eq!(store.names(), [""; 0]);
        let file = ImageFile { compression: Compression::Auto, ..from_path("a.img", &packed) };
        let bound = ImageFile { unpacked: Some(Bytes(1 << 20)), ..file.clone() };
        let error = store.put(&Local, &bound).await.unwrap_err();
        assert!(error.to_string().contains("longer than 1MiB"), "{tool}: {error}");
        let exact = ImageFile { unpacked: Some(Bytes(3 << 20)), ..file };
        assert_eq!(store.put(&Local, &exact).await, Ok(Done::Changed));
        store.is(&content);
    }
}

#[tokio::test]
async fn a_file_of_another_host_is_brought() {
    let content = noise(200_000, 43);
    let store = Store::new();
    let path = store.base.join("golden.img");
    std::fs::write(&path, &content).unwrap();
    let source = Source::Host { host: fleet("h1"), path: path.to_str().unwrap().into() };
    let file = ImageFile::new(source.clone(), digest(&content));
    assert_eq!(store.put(&elsewhere(), &file).await, Ok(Done::Changed));
    store.is(&content);
    let other = Store::new();
    let wrong = ImageFile::new(source, digest(b"x"));
    let error = other.put(&Local, &wrong).await.unwrap_err();
    assert!(error.to_string().contains("at host/h1 is sha256:"), "{error}");
}

#[tokio::test]
async fn a_full_disk_says_so_and_leaves_nothing_half_used() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root");
        return;
    }
    let content = noise(6 << 20, 47);
    let server = serve(Manners { files: vec![content.clone()], ..Manners::default() });
    let endless = serve(Manners { files: vec![content.clone()], lies: 0, ..Manners::default() });
    for shell in [&Local as &dyn Shell, &elsewhere()] {
        let store = Store::new();
        let _small = Small::at(&store.base.join("store"), "4M");
        std::fs::write(store.base.join("a.img"), &content).unwrap();
        let packed = pack(&store, "zstd", &vec![7u8; 64 << 20]);
        std::fs::write(store.base.join("packed.img"), &packed).unwrap();
        std::fs::write(store.base.join("a.img"), &content).unwrap();
        let unpacked = Some(Bytes(64 << 20));
        for file in [
            from_path("a.img", &content),
            from_url(&server, &content),
            ImageFile { size: Some(Bytes(6 << 20)), ..from_url(&endless, &content) },
            ImageFile { compression: Compression::Zstd, unpacked, ..from_path("packed.img", &packed) },
        ] {
            let error = store.put(shell, &file).await.unwrap_err();
            assert!(error.to_string().contains("free"), "{file:?}: {error}");
            let left = store.names();
            assert!(!left.contains(&"0-a.img".to_owned()), "{left:?}");
            assert!(shell.free(&format!("{}/store", store.base.display())).await.unwrap() > 3 << 20, "{left:?}");
        }
        // There is room again: the same is done.
        assert!(!store.put(shell, &from_path("plain", &vec![7u8; 64 << 20])).await.unwrap_err().retry());
        std::fs::write(store.base.join("small"), &content[..1 << 20]).unwrap();
        assert_eq!(store.put(shell, &from_path("small", &content[..1 << 20])).await, Ok(Done::Changed));
    }
}

/// A small file system.
pub(super) struct Small(PathBuf);

impl Small {
    pub(super) fn at(folder: &Path, size: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let run =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(folder).status();
        assert!(run.unwrap().success());
        Self(folder.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
