//! The only place that names `virt`: connections, calls with a time limit, domains.
//!
//! *Takes* a connection URI. *Gives* [`Hypervisor`], whose calls run on threads of their own and end in a value, in an
//! error that libvirt gave, or in [`CallError::TimedOut`], which means *outcome unknown*. *Never* decides what to change.

mod capabilities;
mod counters;
mod domain;
mod embed;
mod line;
mod lxc;
mod migrate;
mod raw;
mod reach;
#[cfg(test)]
mod storm;
mod survey;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use virt::connect::Connect;

pub use capabilities::Capabilities;
pub(super) use capabilities::FRESH;
pub use domain::{Agent, DomainPower, has_domain};
pub use embed::{EmbedError, Opener, root_of};
use line::Line;
pub use migrate::{Figures, MoveCall, Standing};
pub use survey::{HostFacts, Seen, SeenJob, Survey};

/// Calls at once at one host, each over a line of its own.
const CALLS: usize = 4;

/// Lines that are kept open while nobody uses them.
const SPARE: usize = 2;

/// Questions to QEMUs at once at one host. Each of them may wait for a disk or a link that is dead, and a thread of the libvirtd
/// with it: there have to be others left.
const ASKING: usize = 2;

/// How long a QEMU may take to answer: some milliseconds, where it does not wait for something dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an ordinary call may take. The first one of an embedded root probes every QEMU binary (about 4 s).
pub const CALL: Duration = Duration::from_secs(60);
/// How long a host may take to say that it is there. A call with less time than this is known to hang at times.
pub const PING: Duration = Duration::from_secs(6);
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
    /// There is no connection, and trying again would not help.
    #[error("{0}")]
    Closed(String),
    /// There is no connection now, and it is not yet time to try again.
    #[error("{last} (tried again in {again} s)")]
    Away {
        /// What the last try said.
        last: String,
        /// Seconds until the next one.
        again: u64,
    },
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
    /// No guest agent is configured, or none is connected (`VIR_ERR_ARGUMENT_UNSUPPORTED`, `VIR_ERR_AGENT_UNRESPONSIVE`).
    Absent,
    /// A guest agent was asked, and it failed or said nothing.
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
        (N::AgentUnresponsive, Code::Absent),
        (N::ArgumentUnsupported, Code::Absent),
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
    // What a call is told that waits while its connection breaks ("client socket is closed") has no number of its own.
    if error.message().contains("client socket is closed") { Code::Connection } else { Code::Other }
}

/// One host's connection, opened when first needed and again after it was lost: to its users one, in truth some lines.
pub struct Hypervisor {
    uri: String,
    who: String,
    state: tokio::sync::Mutex<State>,
    stirred: Arc<dyn Fn() + Send + Sync>,
    opened: AtomicU64,

    /// Places for questions that only a QEMU can answer, and may not.
    asking: Arc<Semaphore>,
    /// Whether a reading of counters is under way.
    counting: Arc<AtomicBool>,
}

/// The connection, if it is open, and when another try may be made if it is not.
#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    patience: reach::Patience,
}

/// A host that is connected to: the lines to it that nobody uses now.
struct Live {
    /// The connection that all share, of a driver inside this process.
    inside: Option<Connect>,
    idle: Mutex<Vec<Line>>,
    calls: Arc<Semaphore>,
    note: Arc<raw::Note>,
    capabilities: tokio::sync::Mutex<Option<(std::time::Instant, Capabilities)>>,
}

impl Live {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that nobody uses, if there is one.
    fn take(&self) -> Option<Line> {
        match &self.inside {
            Some(connect) => Some(Line::shared(connect.clone())),
            None => self.idle().pop(),
        }
    }

    /// A call over a line is over. Lines that nobody will need are closed.
    fn give_back(&self, line: Line) {
        let mut idle = self.idle();
        let kept = line.hears() || idle.len() < SPARE;
        if self.inside.is_none() && kept && !self.note.is_lost() {
            idle.push(line);
        }
    }

    /// Nothing more is begun here, and those who wait for a place go elsewhere.
    fn close(&self) {
        self.note.lose();
        self.calls.close();
        if self.inside.is_none() {
            let idle = std::mem::take(&mut *self.idle());
            drop(idle);
        }
    }
}

impl Hypervisor {
    /// A connection to `uri`, not opened yet. `who` is what a second opener of an embedded root is told.
    pub fn new(uri: &str, who: &str) -> Self {
        Self {
            uri: reach::without_questions(uri),
            who: who.to_owned(),
            state: tokio::sync::Mutex::default(),
            stirred: Arc::new(|| ()),
            opened: AtomicU64::new(0),
            asking: Arc::new(Semaphore::new(ASKING)),
            counting: Arc::default(),
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

    /// Another connection to the same hypervisor, not opened yet. An embedded root has but one, which both then share.
    fn apart(&self) -> Self {
        Self::new(&self.uri, &self.who)
    }

    /// Whether it leads to another machine.
    pub fn is_remote(&self) -> bool {
        reach::is_remote(&self.uri)
    }

    /// The folder of an embedded connection.
    pub fn embed_root(&self) -> Option<&str> {
        root_of(&self.uri)
    }

    /// Runs `f` with the connection on a thread of its own.
    ///
    /// # Errors
    /// Those of opening, of the call, and [`CallError::TimedOut`]; then the thread goes on by itself, with the connection
    /// that it has: the next call opens another.
    pub async fn call<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        f: impl FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    ) -> Result<T, CallError> {
        loop {
            let live = self.open().await?;
            // Closed while we waited: somebody has seen that this connection is of no use. Nothing was done over it yet.
            let Ok(place) = live.calls.clone().acquire_owned().await else { continue };
            let line = self.line(&live).await?;
            let back = live.clone();
            let call = move || {
                let answer = f(line.connect());
                back.give_back(line);
                drop(place);
                answer
            };
            let answer = on_thread(what, limit, call).await;
            if answer.is_err() && limit >= PING {
                self.leave(&live).await;
            }
            return match answer? {
                Ok(value) => Ok(value),
                Err(error) => Err(self.failed(what, &live, &error).await),
            };
        }
    }

    /// Puts a question that only a QEMU can answer; `None` when it does not, or when others before it do not.
    async fn ask_qemu<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    ) -> Option<Result<T, virt::error::Error>> {
        let place = tokio::time::timeout(PATIENCE, self.asking.clone().acquire_owned()).await.ok()?.ok()?;
        let live = self.open().await.ok()?;
        let line = self.line(&live).await.ok()?;
        let ask = move || {
            let answer = f(line.connect());
            live.give_back(line);
            // Given back when it was answered, however late.
            drop(place);
            answer
        };
        on_thread("ask QEMU", PATIENCE, ask).await.ok()
    }

    /// Whether the host answers, within the time for opening and [`PING`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ping(&self) -> Result<(), CallError> {
        self.call(&format!("libvirt at {}", self.uri), PING, |connect| connect.lib_version().map(drop)).await
    }

    async fn failed(&self, what: &str, live: &Arc<Live>, error: &virt::error::Error) -> CallError {
        let code = code(error);
        if code == Code::Connection {
            self.leave(live).await;
        }
        CallError::Libvirt { what: what.to_owned(), message: error.message().to_owned(), code }
    }

    /// Gives a connection up: the next call opens another, and those that wait for a place on this one go there. What is
    /// under way over it comes to its own end. An embedded root has one connection for good.
    async fn leave(&self, live: &Arc<Live>) {
        if live.inside.is_some() {
            return;
        }
        live.close();
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|l| Arc::ptr_eq(l, live)) {
            state.live = None;
        }
    }

    /// A line for one call: one that is there, or another one.
    async fn line(&self, live: &Arc<Live>) -> Result<Line, CallError> {
        if let Some(line) = live.take() {
            return Ok(line);
        }
        let opened = self.open_line(live.note.clone(), false).await;
        if opened.is_err() {
            self.leave(live).await;
        }
        opened
    }

    /// Opens the connection if it is not open.
    ///
    /// # Errors
    /// [`CallError`]: an address that is not served, a root that somebody else has, a host that was just seen to be away, or
    /// libvirt's own.
    async fn open(&self) -> Result<Arc<Live>, CallError> {
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| live.inside.is_some() || !live.note.is_lost()) {
            return Ok(live.clone());
        }
        if let Some(lost) = state.live.take() {
            lost.close();
        }
        reach::is_served(&self.uri)?;
        state.patience.check()?;
        let opened = self.open_now().await;
        match &opened {
            Ok(live) => {
                state.patience.answered();
                self.opened.fetch_add(1, Ordering::Relaxed);
                state.live = Some(live.clone());
            }
            Err(CallError::Closed(_)) => {}
            Err(error) => state.patience.silent(error),
        }
        opened
    }

    async fn open_now(&self) -> Result<Arc<Live>, CallError> {
        let note = Arc::new(raw::Note::new(self.stirred.clone()));
        let line = self.open_line(note.clone(), true).await?;
        let inside = self.embed_root().map(|_| line.connect().clone());
        let (idle, calls) = (Mutex::new(vec![line]), Arc::new(Semaphore::new(CALLS)));
        Ok(Arc::new(Live { inside, idle, calls, note, capabilities: Default::default() }))
    }

    /// Opens a line, to hear of domains over it too when `hears`.
    async fn open_line(&self, note: Arc<raw::Note>, hears: bool) -> Result<Line, CallError> {
        prepare_library()?;
        let (uri, who) = (self.uri.clone(), self.who.clone());
        let remote = reach::is_remote(&uri);
        let limit = if remote { reach::OPEN } else { CALL };
        let what = format!("open {uri}");
        let open = move || {
            let connect = match root_of(&uri) {
                Some(root) => embed::open(&uri, root, &who).map_err(|e| CallError::Closed(e.to_string()))?,
                None => Connect::open(Some(&uri)).map_err(|e| library_error("open", &e))?,
            };
            if remote {
                // A driver that cannot do it has no connection that could break.
                let _ = connect.set_keep_alive(reach::KEEP_ALIVE.0, reach::KEEP_ALIVE.1);
            }
            let ears = raw::listen(&connect, &note, hears);
            Ok(Line::new(connect, ears))
        };
        on_thread(&what, limit, open).await?
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
        let error = Hypervisor::new("xen:///system", "a test").survey().await.unwrap_err();
        assert!(error.to_string().contains("is not served"), "{error}");
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
