//! Embedded roots: QEMU run by this process itself, without a libvirtd (libvirt, "QEMU driver, embedded").

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use virt::connect::Connect;
use virt_sys as sys;

use crate::host::accel;

/// Longest path of a root. The longest socket below it is QEMU's monitor, `/lib/qemu/domain-<id>-<name>/monitor.sock`:
/// 17 + 5 + 1 + 20 + 13 characters (libvirt cuts the name to 20; ids grow with each start) of the 107 that `sun_path`
/// holds (unix(7)).
pub(super) const LONGEST_ROOT: usize = 107 - 56;

/// The file that the opener of a root holds locked.
const OPENER: &str = ".stablehand-opener";

/// What `etc/qemu.conf` of a root says. Written when it is not there, so that an owner can change it.
const QEMU_CONF: &str = r#"# Written by stablehand when it first opened this root; yours to change.
# There is no virtlogd here: QEMU writes its console and log files itself.
stdio_handler = "file"
# AppArmor and SELinux profiles of libvirtd are not loaded for a root of ours. QEMU still runs as its own user.
security_driver = "none"
# Owners before a start are not kept in extended attributes, which outlive a machine's clock and a copied file: after a
# stop, disks are root's again.
remember_owner = 0
"#;

/// Why a root was not opened.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// Too long for the sockets below it.
    #[error("the root `{0}` is {n} characters long, more than {LONGEST_ROOT}: sockets below it would not fit, so choose a shorter one", n = .0.len())]
    TooLong(String),
    /// Not an absolute path.
    #[error("the root `{0}` is not an absolute path")]
    Relative(String),
    /// Somebody else has it.
    #[error("`{root}` is open in {who}: one process at a time opens an embedded root; wait for it or end it")]
    Held {
        /// The root.
        root: String,
        /// Who.
        who: String,
    },
    /// This process has another one.
    #[error("this process has opened `{0}` already, and one process opens only one embedded root")]
    Another(String),
    /// A file of the root.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// libvirt refused.
    #[error("open `{root}`: {message}")]
    Library {
        /// The root.
        root: String,
        /// libvirt's words.
        message: String,
    },
}

/// Who has a root open; the JSON in its lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opener {
    /// `user@machine, process id, verb`.
    pub who: String,
    /// Seconds since 1970.
    pub since: u64,
}

impl Opener {
    /// Who has a root open now, if anybody.
    pub fn of(root: &str) -> Option<Self> {
        let mut file = File::open(Path::new(root).join(OPENER)).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// The root folder in a connection URI, when it is an embedded one.
pub fn root_of(uri: &str) -> Option<&str> {
    let query = uri.strip_prefix("qemu:///embed?")?;
    query.split('&').find_map(|pair| pair.strip_prefix("root="))
}

/// What a process has open: libvirt never lets go of an embedded driver before the process ends, and neither do we of the
/// lock file.
struct Opened {
    root: PathBuf,
    connect: Connect,
    _lock: File,
}

/// Opens a root, or hands out the connection that this process has to it.
///
/// # Errors
/// [`EmbedError`].
pub(super) fn open(uri: &str, root: &str, who: &str) -> Result<Connect, EmbedError> {
    static OPENED: OnceLock<Mutex<Option<Opened>>> = OnceLock::new();
    let mut opened = OPENED.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(o) = opened.as_ref() {
        return if o.root == Path::new(root) {
            Ok(o.connect.clone())
        } else {
            Err(EmbedError::Another(o.root.display().to_string()))
        };
    }
    if !root.starts_with('/') {
        return Err(EmbedError::Relative(root.to_owned()));
    }
    if root.len() > LONGEST_ROOT {
        return Err(EmbedError::TooLong(root.to_owned()));
    }
    if accel::kvm_is_half_open() {
        tracing::warn!("/dev/kvm is closed to QEMU's own user, which makes libvirt slow: {}", accel::OPEN_KVM);
    }
    let conf = Path::new(root).join("etc/qemu.conf");
    make(&conf)?;
    let lock = lock(root, who)?;
    end_orphans(root);
    let library =
        |e: virt::error::Error| EmbedError::Library { root: root.to_owned(), message: e.message().to_owned() };
    let connect = Connect::open(Some(uri)).map_err(library)?;
    settle(&connect);
    *opened = Some(Opened { root: root.into(), connect: connect.clone(), _lock: lock });
    Ok(connect)
}

fn make(conf: &Path) -> Result<(), EmbedError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| EmbedError::File { path, source }
    };
    if conf.exists() {
        return Ok(());
    }
    let folder = conf.parent().unwrap_or(conf);
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let partial = conf.with_extension("conf.partial");
    std::fs::write(&partial, QEMU_CONF).map_err(failed(&partial))?;
    std::fs::rename(&partial, conf).map_err(failed(conf))
}

/// Takes flock(2) on the root's lock file and writes who we are into it. The kernel gives it back when we die.
fn lock(root: &str, who: &str) -> Result<File, EmbedError> {
    let path = Path::new(root).join(OPENER);
    let failed = |source| EmbedError::File { path: path.display().to_string(), source };
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    // A program that only looks is done in a second or two: worth a short wait before saying that it is taken.
    let patience = Instant::now() + Duration::from_secs(3);
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > patience {
            let who = Opener::of(root).map_or_else(|| "another process".to_owned(), |o| o.who);
            return Err(EmbedError::Held { root: root.to_owned(), who });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let text = serde_json::to_string(&Opener { who: who.to_owned(), since }).unwrap_or_default();
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(file)
}

/// Ends QEMUs that a predecessor started to ask for their capabilities and could not end, because it was killed meanwhile.
/// They are told by the monitor's socket in their arguments, `<root>/lib/qemu/qmp-…`; since we hold the root's lock, nobody
/// waits for them. Guests have another socket and go on.
fn end_orphans(root: &str) {
    let folder = Path::new(root).join("lib/qemu");
    let mark = format!("unix:{}/qmp-", folder.display());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).any(|word| word.starts_with(mark.as_bytes())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.starts_with("qmp-")) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Waits until the domains that were running are connected again: until then a destroy kills QEMU and yet fails. Asking for
/// memory statistics waits for the job that reconnecting holds on the domain.
fn settle(connect: &Connect) {
    let patience = Instant::now() + Duration::from_secs(20);
    for domain in connect.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE).unwrap_or_default() {
        while Instant::now() < patience && domain.is_active() == Ok(true) && domain.memory_stats(0).is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
