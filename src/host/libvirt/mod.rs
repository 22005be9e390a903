//! The only place that names `virt`: connections, calls with a time limit, domains.
//!
//! *Takes* a connection URI. *Gives* [`Hypervisor`], whose calls run on threads of their own and end in a value, in an
//! error that libvirt gave, or in [`CallError::TimedOut`], which means *outcome unknown*. *Never* decides what to change.

mod capabilities;
mod domain;
mod embed;
mod raw;
mod survey;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use virt::connect::Connect;

pub use capabilities::Capabilities;
pub(super) use capabilities::FRESH;
pub use domain::{Agent, DomainPower, has_domain};
pub use embed::{EmbedError, Opener, root_of};
pub use survey::{HostFacts, Seen, Survey};

/// Calls at once on one connection: a libvirtd serves five (`max_client_requests`), one is kept for looking.
const CALLS: usize = 4;

/// How long an ordinary call may take. The first one of an embedded root probes every QEMU binary (about 4 s).
pub const CALL: Duration = Duration::from_secs(60);
/// How long calls that move memory may take: start from a save image, managed save.
pub const LONG_CALL: Duration = Duration::from_secs(600);

/// Why a call gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// libvirt's own error.
    #[error("{what}: {message}")]
    Libvirt {
        /// What was tried.
        what: String,
        /// libvirt's words.
        message: String,
        /// `virErrorNumber`.
        code: Code,
    },
    /// It did not come back in time: the outcome is unknown.
    #[error("{what}: no answer after {after} s")]
    TimedOut {
        /// What was tried.
        what: String,
        /// How long we waited.
        after: u64,
    },
    /// There is no connection.
    #[error("{0}")]
    Closed(String),
}

impl CallError {
    /// Whether libvirt says that there is no such domain.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Libvirt { code: Code::NoDomain, .. })
    }
}

/// The errors of libvirt that we tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `VIR_ERR_NO_DOMAIN`.
    NoDomain,
    /// `VIR_ERR_OPERATION_INVALID`: not in this state of the domain.
    Invalid,
    /// `VIR_ERR_AGENT_UNRESPONSIVE` and its kin.
    Agent,
    /// The connection is gone.
    Connection,
    /// Anything else.
    Other,
}

fn code(error: &virt::error::Error) -> Code {
    use virt::error::ErrorNumber as N;
    for (number, code) in [
        (N::NoDomain, Code::NoDomain),
        (N::OperationInvalid, Code::Invalid),
        (N::AgentUnresponsive, Code::Agent),
        (N::AgentUnsynced, Code::Agent),
        (N::AgentCommandTimeout, Code::Agent),
        (N::AgentCommandFailed, Code::Agent),
        (N::Rpc, Code::Connection),
        (N::NoConnect, Code::Connection),
        (N::InvalidConn, Code::Connection),
        (N::NoServer, Code::Connection),
    ] {
        if error.code() == number.into() {
            return code;
        }
    }
    Code::Other
}

/// One host's connection, opened when first needed and again after it was lost.
pub struct Hypervisor {
    uri: String,
    who: String,
    state: tokio::sync::Mutex<Option<Arc<Live>>>,
    stirred: Arc<dyn Fn() + Send + Sync>,
    opened: AtomicU64,
}

/// An open connection.
struct Live {
    connect: Connect,
    calls: Semaphore,
    embedded: bool,
    ears: raw::Ears,
    capabilities: tokio::sync::Mutex<Option<(std::time::Instant, Capabilities)>>,
}

impl Hypervisor {
    /// A connection to `uri`, not opened yet. `who` is what a second opener of an embedded root is told.
    pub fn new(uri: &str, who: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            who: who.to_owned(),
            state: tokio::sync::Mutex::new(None),
            stirred: Arc::new(|| ()),
            opened: AtomicU64::new(0),
        }
    }

    /// The same, and `stirred` is called when something happens there: a domain begins, ends or moves, or the connection is
    /// lost. On libvirt's own thread, so it must be quick and call nothing of libvirt.
    #[must_use]
    pub fn heard_by(mut self, stirred: Arc<dyn Fn() + Send + Sync>) -> Self {
        self.stirred = stirred;
        self
    }

    /// How often the connection was opened: what was learnt over one says nothing of the machine behind the next.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The folder of an embedded connection.
    pub fn embed_root(&self) -> Option<&str> {
        root_of(&self.uri)
    }

    /// Runs `f` with the connection on a thread of its own.
    ///
    /// # Errors
    /// Those of opening, of the call, and [`CallError::TimedOut`]; then the thread goes on by itself and keeps one of the
    /// connection's places until it ends.
    pub async fn call<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        f: impl FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    ) -> Result<T, CallError> {
        let live = self.open().await?;
        let _place = live.calls.acquire().await.map_err(|e| CallError::Closed(e.to_string()))?;
        let connect = live.connect.clone();
        let answer = on_thread(what, limit, move || f(&connect)).await?;
        answer.map_err(|error| self.failed(what, &live, &error))
    }

    fn failed(&self, what: &str, live: &Arc<Live>, error: &virt::error::Error) -> CallError {
        let code = code(error);
        if code == Code::Connection && !live.embedded {
            // Opened again by the next call; whoever else has it finishes with it.
            if let Ok(mut state) = self.state.try_lock() {
                *state = None;
            }
        }
        CallError::Libvirt { what: what.to_owned(), message: error.message().to_owned(), code }
    }

    /// Opens the connection if it is not open.
    ///
    /// # Errors
    /// [`CallError`]: an address that is not served yet, a root that somebody else has, or libvirt's own.
    async fn open(&self) -> Result<Arc<Live>, CallError> {
        let mut state = self.state.lock().await;
        if let Some(live) = state.as_ref().filter(|live| live.embedded || !live.ears.is_lost()) {
            return Ok(live.clone());
        }
        let uri = self.uri.clone();
        let embedded = root_of(&uri).is_some();
        let served =
            embedded || ["qemu:///system", "qemu:///session"].contains(&uri.as_str()) || uri.starts_with("test:");
        if !served {
            return Err(CallError::Closed(format!(
                "`{uri}` is not served yet: remote connections come with several hosts; use qemu:///embed?root=… or \
                 qemu:///system"
            )));
        }
        prepare_library()?;
        let what = format!("open {uri}");
        let who = self.who.clone();
        let opened = on_thread(&what, CALL, move || match root_of(&uri) {
            Some(root) => embed::open(&uri, root, &who).map_err(|e| CallError::Closed(e.to_string())),
            None => Connect::open(Some(&uri)).map_err(|e| library_error("open", &e)),
        })
        .await?;
        let connect = opened?;
        let (opened, stirred) = (connect.clone(), self.stirred.clone());
        let ears = on_thread("listen for events", CALL, move || raw::listen(&opened, stirred)).await?;
        let live =
            Arc::new(Live { connect, calls: Semaphore::new(CALLS), embedded, ears, capabilities: Default::default() });
        self.opened.fetch_add(1, Ordering::Relaxed);
        *state = Some(live.clone());
        Ok(live)
    }
}

/// To be called first in `main`, before any thread: keeps libvirt's own log off stderr (`LIBVIRT_LOG_OUTPUTS` still says
/// where it should go instead). Errors reach us through its calls either way. `false` when it was too late.
pub fn prepare_process() -> bool {
    raw::silence_log()
}

/// Runs a blocking closure on a thread that no runtime waits for at its end: a call that hangs must not keep the program
/// from ending.
async fn on_thread<T: Send + 'static>(
    what: &str,
    limit: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CallError> {
    let (send, receive) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("libvirt".to_owned()).spawn(move || {
        let _ = send.send(f());
    });
    spawned.map_err(|e| CallError::Closed(format!("{what}: no thread: {e}")))?;
    match tokio::time::timeout(limit, receive).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(CallError::TimedOut { what: format!("{what} (its thread died)"), after: 0 }),
        Err(_) => Err(CallError::TimedOut { what: what.to_owned(), after: limit.as_secs() }),
    }
}

fn library_error(what: &str, error: &virt::error::Error) -> CallError {
    CallError::Libvirt { what: what.to_owned(), message: error.message().to_owned(), code: code(error) }
}

/// Registers libvirt's event loop and gives it a thread, once for the process and before the first open
/// (`virEventRegisterDefaultImpl`): an embedded QEMU driver talks to its monitors through it.
fn prepare_library() -> Result<(), CallError> {
    static ONCE: OnceLock<Mutex<bool>> = OnceLock::new();
    let ready = ONCE.get_or_init(|| Mutex::new(false));
    let mut ready = ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *ready {
        return Ok(());
    }
    // Without this libvirt prints every error to stderr by itself.
    virt::error::clear_error_callback();
    virt::event::event_register_default_impl().map_err(|e| library_error("register the event loop", &e))?;
    let thread = std::thread::Builder::new().name("libvirt-events".to_owned()).spawn(|| {
        loop {
            // One pass over the loop's files and timers; it blocks until there is something.
            if virt::event::event_run_default_impl().is_err() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    thread.map_err(|e| CallError::Closed(format!("no thread for libvirt's events: {e}")))?;
    *ready = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Power;

    #[tokio::test]
    async fn the_test_driver_is_surveyed_and_obeys() {
        let hypervisor = Hypervisor::new("test:///default", "a test");
        let seen = hypervisor.survey().await.unwrap();
        assert_eq!(seen.domains.len(), 1);
        let uuid = seen.domains[0].uuid;
        assert_eq!(seen.domains[0].power, Power::Running);
        assert!(seen.facts.cpus > 0);
        assert_eq!(crate::host::xml::read(&seen.domains[0].config).unwrap().name, "test");
        hypervisor.power_off(uuid, false).await.unwrap();
        assert_eq!(hypervisor.power(uuid).await.unwrap(), Some(Power::Stopped));
        hypervisor.start(uuid).await.unwrap();
        assert_eq!(hypervisor.power(uuid).await.unwrap(), Some(Power::Running));
        assert_eq!(hypervisor.power(uuid::Uuid::nil()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_happens_to_a_domain_is_heard() {
        let heard = Arc::new(tokio::sync::Notify::new());
        let note = heard.clone();
        let hypervisor = Hypervisor::new("test:///default", "a test").heard_by(Arc::new(move || note.notify_one()));
        let uuid = hypervisor.survey().await.unwrap().domains[0].uuid;
        hypervisor.power_off(uuid, false).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), heard.notified()).await.unwrap();
        drop(hypervisor);
    }

    #[tokio::test]
    async fn what_is_not_served_is_said() {
        for uri in ["qemu+ssh://elsewhere/system", "xen:///system"] {
            let error = Hypervisor::new(uri, "a test").survey().await.unwrap_err();
            assert!(error.to_string().contains("come with several hosts"), "{error}");
        }
        let long = format!("qemu:///embed?root=/{}", "x".repeat(60));
        let error = Hypervisor::new(&long, "a test").survey().await.unwrap_err();
        assert!(error.to_string().contains("choose a shorter one"), "{error}");
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_an_unknown_outcome() {
        let hang = on_thread("hang", Duration::from_millis(20), || std::thread::sleep(Duration::from_secs(2))).await;
        assert!(matches!(hang, Err(CallError::TimedOut { .. })));
    }
}
