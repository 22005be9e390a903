//! Carries a plan out through a trait: which step may run next (pure), the journal, the limits.
//!
//! *Takes* a [`Plan`](crate::plan::Plan), an [`Actuator`] and a [`Journal`]. *Gives* what was done, what was not and why.
//! *Never* decides anything that the plan could have decided.

mod machine;
mod run;

pub use machine::{HostLimits, Machine, Outcome};
pub use run::{Deaf, Event, Listener, Report, Run, StopFlag, run};

use crate::model::{GuestOutput, LockHolder, Name, PastMove};
use crate::observe::Boxed;
use crate::plan::{ActionId, Errand, Step};

/// Changes the world, one step at a time. Implemented by `host` for real hosts and by `sim`.
pub trait Actuator: Send + Sync {
    /// Carries out one step: looks whether it is done, changes, looks again. Doing it twice does no harm.
    fn perform<'a>(&'a self, step: &'a Step, progress: &'a dyn Progress) -> Boxed<'a, Result<Done, StepError>>;

    /// Takes the controller's lock on a host, or says who has it. Held until [`Self::unlock`] or the end of the process.
    fn lock<'a>(&'a self, host: &'a Name, who: &'a LockHolder) -> Boxed<'a, Result<(), LockError>>;

    /// Gives the lock back.
    fn unlock<'a>(&'a self, host: &'a Name) -> Boxed<'a, ()>;
}

/// Hears how far a long step is.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes (or milliseconds of a wait); `total` is 0 when unknown.
    fn advance(&self, done: u64, total: u64);
    /// Something about what was done that is worth keeping: it goes into the journal, and to people. Said once, at the end.
    fn says(&self, text: &str) {
        let _ = text;
    }
    /// A program in a guest ended, or was ended. Said once.
    fn ran(&self, output: &GuestOutput) {
        let _ = output;
    }
    /// A VM, or a file of it, came over a link: what that took. Said once, when it is there.
    fn moved(&self, past: &PastMove) {
        let _ = past;
    }
}

/// The write-ahead journal: it explains; observation decides.
pub trait Journal: Send + Sync {
    /// Notes durably that a step is about to be carried out; gives the entry's number.
    ///
    /// # Errors
    /// When it cannot be written: the step is then not carried out.
    fn begin(&self, action: &ActionId, index: usize, step: &Step) -> Result<u64, String>;
    /// Notes how it ended: `changed`, `already`, or the error.
    ///
    /// # Errors
    /// When it cannot be written.
    fn end(&self, entry: u64, outcome: &str) -> Result<(), String>;
    /// Keeps what a step said in a guest.
    ///
    /// # Errors
    /// When it cannot be written.
    fn hear(&self, heard: &Heard<'_>) -> Result<(), String> {
        let _ = heard;
        Ok(())
    }
}

/// What a step said in a guest, or why it failed there.
#[derive(Clone, Debug)]
pub struct Heard<'h> {
    /// The VM.
    pub vm: &'h Name,
    /// For what it was done.
    pub errand: &'h Errand,
    /// Number of the step in its action.
    pub step: u32,
    /// What was done.
    pub what: String,
    /// What a program printed, where one ran to its end.
    pub output: Option<&'h GuestOutput>,
    /// Why the step failed, where it did.
    pub error: Option<String>,
}

/// Deaf.
pub struct NoProgress;
impl Progress for NoProgress {
    fn advance(&self, _: u64, _: u64) {}
}

/// How a step succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The world was changed.
    Changed,
    /// It was as it should be already.
    Already,
}

/// Why a step did not succeed. `retry` is decided here and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The world is not as the plan saw it: observe and plan again.
    #[error("{0}")]
    Stale(String),
    /// It failed, and doing the same again would fail again.
    #[error("{what}")]
    Failed {
        /// What was tried and what came back.
        what: String,
        /// What to do, when we know.
        hint: Option<String>,
        /// Lines that help: the end of the console, of QEMU's log.
        detail: Vec<String>,
    },
    /// A call timed out or its connection broke: the outcome is unknown until observed again.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl StepError {
    /// A failure without hint or detail.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), hint: None, detail: Vec::new() }
    }
    /// Whether the same plan may be tried again after observing.
    pub const fn retry(&self) -> bool {
        matches!(self, Self::Stale(_) | Self::Unknown(_))
    }
}

/// Why a lock was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Somebody else acts.
    #[error("{} acts on this host since {}", .0.who, .0.since.0)]
    Held(LockHolder),
    /// It could not be tried.
    #[error("{0}")]
    Failed(String),
}
