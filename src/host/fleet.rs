//! [`RealFleet`]: the hosts of a fleet behind the traits of the world.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use ipnet::IpNet;
use uuid::Uuid;

use super::contact::Doors;
use super::disk::Folders;
use super::learnt::Learnt;
use super::libvirt::{FRESH, Hypervisor, Opener};
use super::shell::Shell;
use super::{accel, act, fence, guard, lock, mend, rules, shell, survey};
use crate::execute::{Actuator, Done, LockError, Progress, StepError};
use crate::model::stats::HostCounters;
use crate::model::{
    Acceleration, Desired, Fault, Host, HostRules, HostShell, LockHolder, Name, Network, Observation, Observed, Probe,
    StoreState, Timestamp,
};
use crate::observe::{Boxed, Look, Observer, Tried};
use crate::plan::{Op, Step};

/// The real hosts of a fleet.
pub struct RealFleet {
    fleet: Name,
    base: PathBuf,
    who: String,
    hosts: Mutex<BTreeMap<Name, Arc<RealHost>>>,
    /// What the acceleration probe found on this machine.
    machine: Arc<tokio::sync::Mutex<Option<Found>>>,
    /// What the filter of this machine should be.
    good: Good,
    /// Holds one note at most: whoever waits learns that something happened, not how often.
    stirred: Arc<tokio::sync::Notify>,
}

/// One host: its document, its connection, its shell.
pub(super) struct RealHost {
    pub(super) doc: Host,
    pub(super) folders: Folders,
    pub(super) hypervisor: Arc<Hypervisor>,
    pub(super) shell: Arc<dyn Shell>,
    /// Whether its libvirt and its shell answer.
    pub(super) doors: Doors,
    /// Base of relative image paths.
    pub(super) base: PathBuf,
    /// QEMU's version and machine types, when it was asked itself.
    pub(super) emulator: tokio::sync::OnceCell<(String, Vec<String>)>,
    /// Whether its folders can share blocks, as last tried.
    pub(super) reflinks: tokio::sync::Mutex<Option<(Instant, bool)>>,
    /// One file at a time comes into the store: two fetches of one path would write one partial file.
    pub(super) fetching: tokio::sync::Mutex<()>,
    lock: Mutex<Option<lock::Held>>,
    /// What the acceleration probe found. Hosts that are this machine have it in common.
    accelerated: Arc<tokio::sync::Mutex<Option<Found>>>,
    /// Subnets behind bridges that are the host's own.
    inside: Mutex<Vec<IpNet>>,
    /// The fleet's packet filter as last seen or set here.
    pub(super) filter: tokio::sync::Mutex<Option<rules::Kept>>,
    /// Addresses that networks gave to guests, as last seen.
    learnt: Mutex<BTreeMap<Uuid, Learnt>>,
    /// What the filter should be, as last set or found so. Hosts that are this machine have it in common.
    good: Good,
    /// Listens whether somebody else changes it, while anybody wants to know.
    listening: Mutex<Option<Listening>>,
    /// What it is, as last found out.
    pub(super) facts: tokio::sync::Mutex<Option<super::facts::Kept>>,
    /// The fleet's domains as last seen here.
    names: Mutex<BTreeMap<Uuid, Name>>,
    /// Those of them that ran, outside of quarantine.
    running: Mutex<BTreeMap<Name, guard::Runs>>,
}

/// What a filter should be.
type Good = Arc<Mutex<Option<Arc<HostRules>>>>;

/// Tasks that end with their host.
struct Listening([tokio::task::JoinHandle<()>; 2]);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// What an acceleration probe found, over which connection and when.
#[derive(Clone, Copy)]
struct Found {
    connection: u64,
    at: Instant,
    acceleration: Acceleration,
}

/// Hosts whose counters are read at once: each takes a thread while it is asked.
const HOSTS_AT_ONCE: usize = 64;

impl RealFleet {
    /// The hosts of `desired`. Nothing is opened yet.
    ///
    /// `base` is the folder to which relative image paths belong; `who` names this process to others that find a root or a
    /// lock taken: `user@machine, process id, verb`.
    pub fn new(desired: &Desired, base: impl Into<PathBuf>, who: impl Into<String>) -> Self {
        let fleet = Self {
            fleet: desired.fleet.name.clone(),
            base: base.into(),
            who: who.into(),
            hosts: Mutex::new(BTreeMap::new()),
            machine: Arc::default(),
            good: Arc::default(),
            stirred: Arc::default(),
        };
        fleet.adopt(desired);
        fleet
    }

    /// Who we are, for [`Self::new`]: `user@machine, process 123, apply`.
    pub fn this_process(user: &str, verb: &str) -> String {
        let names = rustix::system::uname();
        let machine = names.nodename().to_string_lossy().into_owned();
        format!("{user}@{machine}, process {}, {verb}", std::process::id())
    }

    /// Takes over the host documents of another commit. A host whose connection and folders stay keeps its connection and
    /// its lock.
    fn adopt(&self, desired: &Desired) {
        let mut hosts = self.hosts();
        for (name, doc) in &desired.hosts {
            let same = |h: &Arc<RealHost>| {
                h.doc.connection == doc.connection
                    && h.doc.shell == doc.shell
                    && h.doc.shared == doc.shared
                    && h.doc.slots_dir == doc.slots_dir
                    && h.doc.images_dir == doc.images_dir
                    && h.doc.acceleration == doc.acceleration
            };
            if !hosts.get(name).is_some_and(same) {
                hosts.insert(name.clone(), Arc::new(self.host_of(doc)));
            }
        }
        let own = desired.networks.values().filter(|n| n.create_bridge && n.cable.is_none()).flat_map(Network::nets);
        let inside: Vec<IpNet> = own.collect();
        for host in hosts.values() {
            host.inside.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&inside);
        }
    }

    fn host_of(&self, doc: &Host) -> RealHost {
        let stirred = self.stirred.clone();
        let stirred: Arc<dyn Fn() + Send + Sync> = Arc::new(move || stirred.notify_one());
        let hypervisor = Hypervisor::new(&address(doc, &self.base), &self.who).heard_by(stirred.clone());
        let (hypervisor, shell) = (Arc::new(hypervisor), shell::of(&doc.shell, &self.base));
        let remote = shell.is_remote();
        let trimmed = |path: &str| path.trim_end_matches('/').to_owned();
        RealHost {
            doc: doc.clone(),
            folders: Folders {
                fleet: self.fleet.clone(),
                slots: trimmed(&doc.slots_dir),
                images: trimmed(&doc.images_dir),
            },
            doors: Doors::of(&hypervisor, &shell, &stirred),
            hypervisor,
            base: self.base.clone(),
            emulator: tokio::sync::OnceCell::new(),
            reflinks: tokio::sync::Mutex::default(),
            fetching: tokio::sync::Mutex::new(()),
            lock: Mutex::new(None),
            accelerated: if shell.is_remote() { Arc::default() } else { self.machine.clone() },
            shell,
            inside: Mutex::default(),
            filter: tokio::sync::Mutex::default(),
            learnt: Mutex::default(),
            good: if remote { Arc::default() } else { self.good.clone() },
            listening: Mutex::default(),
            facts: tokio::sync::Mutex::new(None),
            names: Mutex::default(),
            running: Mutex::default(),
        }
    }

    /// Listens on every host whether somebody changes its packet filter, and puts it back where somebody took it away.
    fn listen(&self) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        for host in self.hosts().values() {
            let (stirred, told) = (self.stirred.clone(), Arc::new(tokio::sync::Notify::new()));
            let mends = mend::keep(Arc::downgrade(host), told.clone());
            let heard: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
                told.notify_one();
                stirred.notify_one();
            });
            let mut listening = host.listening.lock().unwrap_or_else(PoisonError::into_inner);
            listening.get_or_insert_with(|| {
                let hears = tokio::spawn(rules::watch(host.shell.clone(), self.fleet.clone(), heard));
                Listening([hears, tokio::spawn(mends)])
            });
        }
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<RealHost>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn host(&self, name: &Name) -> Option<Arc<RealHost>> {
        self.hosts().get(name).cloned()
    }
}

/// The address of a host's hypervisor. What the shell's ssh signs in with is what libvirt's ssh signs in with, unless the
/// address says something else (libvirt, "Remote URI extra parameters", `keyfile`).
fn address(doc: &Host, base: &Path) -> String {
    let uri = doc.connection.as_ref();
    let over_ssh = uri.split("://").next().is_some_and(|scheme| scheme.ends_with("+ssh"));
    match &doc.shell {
        HostShell::Ssh { identity: Some(key), .. } if over_ssh && !uri.contains("keyfile=") => {
            let mark = if uri.contains('?') { '&' } else { '?' };
            let whole = base.join(key.as_ref()).to_string_lossy().into_owned();
            // RFC 3986, section 2.3: what stands for itself, and `/`.
            let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~/".contains(b);
            let encoded: String = whole
                .bytes()
                .map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") })
                .collect();
            format!("{uri}{mark}keyfile={encoded}")
        }
        _ => uri.to_owned(),
    }
}

/// Now, in whole seconds.
pub(super) fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

impl Observer for RealFleet {
    fn observe<'a>(&'a self, desired: &'a Desired, look: Look) -> Boxed<'a, Observed> {
        Box::pin(async move {
            self.adopt(desired);
            let asked: Vec<Arc<RealHost>> = desired.hosts.keys().filter_map(|name| self.host(name)).collect();
            let here = survey::Here::default();
            let answers = join_all(asked.iter().map(|host| survey::observe(host, desired, look, &here))).await;
            let mut observed = Observed {
                format: 1,
                fleet: Some(self.fleet.clone()),
                at: now(),
                hosts: BTreeMap::new(),
                records: BTreeMap::new(),
                strays: BTreeMap::new(),
                store: StoreState::default(),
            };
            let records: Vec<_> =
                asked.iter().zip(&answers).map(|(host, (_, records))| (&host.doc.name, records)).collect();
            observed.take_records(&records);
            for (host, (answer, _)) in asked.iter().zip(answers) {
                let answer = match answer {
                    Ok(seen) => Observation::Known(seen),
                    Err(text) => Observation::Unknown(Fault { text, since: None }),
                };
                observed.hosts.insert(host.doc.name.clone(), answer);
            }
            observed
        })
    }

    fn statistics<'a>(&'a self, desired: &'a Desired) -> Boxed<'a, BTreeMap<Name, HostCounters>> {
        Box::pin(async move {
            let asked: Vec<Arc<RealHost>> = desired.hosts.keys().filter_map(|name| self.host(name)).collect();
            // One that is away would keep the others waiting.
            let readings = asked.into_iter().filter(|host| !host.doors.libvirt.is_shut()).map(|host| async move {
                let (mut counters, domains) = host.hypervisor.counters().await.ok()?;
                let names = host.names();
                counters.vms = domains.into_iter().filter_map(|(u, c)| Some((names.get(&u)?.clone(), c))).collect();
                drop(names);
                Some((host.doc.name.clone(), counters))
            });
            let readings: Vec<_> = stream::iter(readings).buffer_unordered(HOSTS_AT_ONCE).collect().await;
            readings.into_iter().flatten().collect()
        })
    }

    fn stirred(&self) -> Boxed<'_, ()> {
        self.listen();
        Box::pin(self.stirred.notified())
    }

    fn trust_filters<'a>(&'a self, hosts: &'a [Name]) -> Boxed<'a, ()> {
        Box::pin(async move {
            for host in hosts.iter().filter_map(|name| self.host(name)) {
                host.trust_filter().await;
            }
        })
    }

    fn running(&self) -> BTreeMap<Name, Uuid> {
        let hosts: Vec<Arc<RealHost>> = self.hosts().values().cloned().collect();
        let mut all = BTreeMap::new();
        for host in hosts {
            all.extend(host.running().iter().map(|(vm, runs)| (vm.clone(), runs.uuid)));
        }
        all
    }

    fn try_once<'a>(&'a self, vm: &'a Name, probe: &'a Probe) -> Boxed<'a, Option<Tried>> {
        Box::pin(async move {
            let host = self.hosts().values().find(|host| host.running().contains_key(vm)).cloned()?;
            if host.doors.libvirt.is_shut() {
                return None;
            }
            guard::try_once(&host, vm, probe).await
        })
    }

    fn console_tail<'a>(&'a self, host: &'a Name, vm: &'a Name, lines: usize) -> Boxed<'a, Vec<String>> {
        Box::pin(async move {
            match self.host(host) {
                Some(host) => survey::console_tail(&host, vm, lines).await,
                None => Vec::new(),
            }
        })
    }
}

impl Actuator for RealFleet {
    fn perform<'a>(&'a self, step: &'a Step, progress: &'a dyn Progress) -> Boxed<'a, Result<Done, StepError>> {
        Box::pin(async move {
            if let Op::Fence { command, within } = &step.op {
                // The host does not answer: nothing of it is needed.
                return fence::fence(&self.base, &step.host, command, *within).await;
            }
            let host = self.host(&step.host);
            let host = host.ok_or_else(|| StepError::failed(format!("there is no host `{}`", step.host)))?;
            let peer = match step.op.peer() {
                Some(name) => {
                    let peer = self.host(name);
                    Some(peer.ok_or_else(|| StepError::failed(format!("there is no host `{name}`")))?)
                }
                None => None,
            };
            host.still_ours()?;
            if let Some(peer) = &peer {
                peer.still_ours()?;
            }
            act::perform(&host, peer.as_deref(), &step.op, progress).await
        })
    }

    fn lock<'a>(&'a self, host: &'a Name, who: &'a LockHolder) -> Boxed<'a, Result<(), LockError>> {
        Box::pin(async move {
            let host = self.host(host).ok_or_else(|| LockError::Failed(format!("there is no host `{host}`")))?;
            if host.is_locked() {
                return Ok(());
            }
            // An embedded root that somebody has open is as good as locked by them: say who it is.
            if let Some(opener) = host.hypervisor.embed_root().and_then(Opener::of) {
                let since = Timestamp(opener.since);
                if opener.who != self.who {
                    return Err(LockError::Held(LockHolder { token: String::new(), who: opener.who, since }));
                }
            }
            let held = lock::take(host.shell.as_ref(), &host.lock_path(), who).await?;
            *host.lock_slot() = Some(held);
            Ok(())
        })
    }

    fn unlock<'a>(&'a self, host: &'a Name) -> Boxed<'a, ()> {
        Box::pin(async move {
            if let Some(host) = self.host(host) {
                let held = host.lock_slot().take();
                if let Some(held) = held {
                    held.release().await;
                }
            }
        })
    }
}

impl RealHost {
    /// Whether an address is in a network that ends at the host.
    pub(super) fn has_inside(&self, address: IpAddr) -> bool {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.iter().any(|net| net.contains(&address))
    }
    /// What guests run with where the document leaves it to a probe. It is asked every ten minutes, of another machine also
    /// when the connection is new: it takes some calls, and changes with a kernel or a QEMU.
    pub(super) async fn acceleration(&self) -> Acceleration {
        let mut kept = self.accelerated.lock().await;
        let connection = if self.shell.is_remote() { self.hypervisor.opened() } else { 0 };
        let fresh = |f: &Found| f.connection == connection && f.at.elapsed() < FRESH;
        if let Some(found) = kept.filter(fresh) {
            return found.acceleration;
        }
        let acceleration = accel::probe(self.shell.as_ref(), &self.folders.slots).await;
        *kept = Some(Found { connection, at: Instant::now(), acceleration });
        acceleration
    }
    fn lock_slot(&self) -> MutexGuard<'_, Option<lock::Held>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Addresses that networks gave to guests, as last seen.
    pub(super) fn learnt(&self) -> MutexGuard<'_, BTreeMap<Uuid, Learnt>> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The fleet's domains as last seen here.
    pub(super) fn names(&self) -> MutexGuard<'_, BTreeMap<Uuid, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What its filter should be.
    pub(super) fn good(&self) -> MutexGuard<'_, Option<Arc<HostRules>>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Those of them that ran, outside of quarantine.
    pub(super) fn running(&self) -> MutexGuard<'_, BTreeMap<Name, guard::Runs>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Whether this process has the controller's lock.
    pub(super) fn is_locked(&self) -> bool {
        self.lock_slot().as_ref().is_some_and(lock::Held::is_good)
    }
    /// Sees that the lock which was taken was not lost meanwhile: somebody else may act there now.
    fn still_ours(&self) -> Result<(), StepError> {
        match self.lock_slot().as_ref() {
            Some(held) if !held.is_good() => Err(StepError::Unknown(format!(
                "the connection to {} broke, and its lock is lost with it",
                self.doc.name
            ))),
            _ => Ok(()),
        }
    }
    /// The file of the controller's lock. Hosts that share a folder have a lock each.
    pub(super) fn lock_path(&self) -> String {
        let (slots, fleet) = (&self.folders.slots, &self.folders.fleet);
        match &self.doc.shared {
            Some(_) => format!("{slots}/.{fleet}.{}.lock", self.doc.name),
            None => format!("{slots}/.{fleet}.lock"),
        }
    }
}
