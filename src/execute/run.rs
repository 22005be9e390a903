//! The driver: takes ready steps from the machine, carries them out side by side, and writes the journal.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::machine::{HostLimits, Machine, Outcome};
use super::{Actuator, Done, Heard, Journal, NoProgress, Progress, StepError};
use crate::model::{Address, GuestOutput, PastMove};
use crate::plan::{Action, ActionId, Errand, Op, Otherwise, Plan, Step};

/// Asks an execution to stop between steps (SIGTERM, a newer commit).
#[derive(Debug, Default)]
pub struct StopFlag {
    raised: AtomicBool,
    waiters: tokio::sync::Notify,
}

impl StopFlag {
    /// No further step begins.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.waiters.notify_waiters();
    }
    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
    /// Ends when it is raised.
    async fn raising(&self) {
        let mut notified = std::pin::pin!(self.waiters.notified());
        // Listens before it looks: a raise in between is not missed.
        notified.as_mut().enable();
        if !self.is_raised() {
            notified.await;
        }
    }
}

/// What happens during an execution, for progress bars, logs and counters.
#[derive(Clone, Debug)]
pub enum Event<'e> {
    /// A step begins.
    Begins {
        /// Its action.
        action: &'e Action,
        /// Its number, from 0.
        step: usize,
    },
    /// A step goes on: bytes, or milliseconds of a wait.
    Advances {
        /// Its action.
        action: &'e Action,
        /// Its number.
        step: usize,
        /// So far.
        done: u64,
        /// In all; 0 when unknown.
        total: u64,
    },
    /// Something of a VM came over a link.
    Moved {
        /// Its action.
        action: &'e Action,
        /// Its number.
        step: usize,
        /// What it took.
        past: &'e PastMove,
    },
    /// A step says something about what it did.
    Says {
        /// Its action.
        action: &'e Action,
        /// Its number.
        step: usize,
        /// What.
        text: &'e str,
    },
    /// A step ended.
    Ends {
        /// Its action.
        action: &'e Action,
        /// Its number.
        step: usize,
        /// How.
        result: &'e Result<Done, StepError>,
    },
    /// An action is over.
    Over {
        /// The action.
        action: &'e Action,
        /// How it ended.
        outcome: &'e Outcome,
    },
}

/// Hears events.
pub trait Listener: Send + Sync {
    /// One event.
    fn hear(&self, event: &Event<'_>);
}

/// Hears nothing.
pub struct Deaf;
impl Listener for Deaf {
    fn hear(&self, _: &Event<'_>) {}
}

/// How an execution ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How each action ended, in the plan's order.
    pub outcomes: Vec<(ActionId, Outcome)>,
    /// What came over links, and how long that took: for the estimates of later plans.
    pub moves: Vec<PastMove>,
}

impl Report {
    /// Whether every action of the plan was carried out.
    pub fn is_complete(&self) -> bool {
        self.outcomes.iter().all(|(_, o)| *o == Outcome::Done)
    }
    /// Whether a step failed.
    pub fn has_failures(&self) -> bool {
        self.outcomes.iter().any(|(_, o)| matches!(o, Outcome::Failed { .. }))
    }
    /// Whether the only failures are such that observing and planning again may mend them.
    pub fn may_retry(&self) -> bool {
        let mut failures = self.outcomes.iter().filter_map(|(_, o)| match o {
            Outcome::Failed { error, .. } => Some(error),
            _ => None,
        });
        self.has_failures() && failures.all(StepError::retry)
    }
}

/// Everything that an execution needs.
pub struct Run<'r> {
    /// What to do.
    pub plan: &'r Plan,
    /// Who does it.
    pub actuator: &'r dyn Actuator,
    /// Where it is written down first.
    pub journal: &'r dyn Journal,
    /// How much at once.
    pub limits: HostLimits,
    /// Only these actions; `None`: all that are not blocked.
    pub approved: Option<&'r BTreeSet<ActionId>>,
    /// Who listens.
    pub listener: &'r dyn Listener,
    /// Who may stop it.
    pub stop: &'r StopFlag,
}

/// Carries a plan out.
pub async fn run(run: Run<'_>) -> Report {
    let mut machine = Machine::new(run.plan, run.limits.clone(), run.approved);
    let moves = Mutex::new(Vec::new());
    let mut flying = FuturesUnordered::new();
    loop {
        if run.stop.is_raised() {
            machine.stop();
        }
        for (action, step) in machine.take_ready() {
            flying.push(one(&run, &moves, action, step));
        }
        let Some((action, step, result)) = flying.next().await else { break };
        let act = &run.plan.actions[action];
        let Some(result) = result else {
            machine.given_up(action, step);
            continue;
        };
        run.listener.hear(&Event::Ends { action: act, step, result: &result });
        match result {
            Ok(_) => {
                machine.succeeded(action, step);
                if step + 1 == act.steps.len() {
                    run.listener.hear(&Event::Over { action: act, outcome: &Outcome::Done });
                }
            }
            Err(error) => {
                let outcome = Outcome::Failed { step, error: error.clone() };
                machine.failed(action, step, error);
                run.listener.hear(&Event::Over { action: act, outcome: &outcome });
            }
        }
    }
    drop(flying);
    Report { outcomes: machine.outcomes(), moves: moves.into_inner().unwrap_or_else(PoisonError::into_inner) }
}

struct Passing<'r> {
    run: &'r Run<'r>,
    moves: &'r Mutex<Vec<PastMove>>,
    action: &'r Action,
    step: usize,
    said: Mutex<Vec<String>>,
    ran: Mutex<Option<GuestOutput>>,
}

impl Progress for Passing<'_> {
    fn advance(&self, done: u64, total: u64) {
        self.run.listener.hear(&Event::Advances { action: self.action, step: self.step, done, total });
    }
    fn says(&self, text: &str) {
        self.run.listener.hear(&Event::Says { action: self.action, step: self.step, text });
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }
    fn ran(&self, output: &GuestOutput) {
        *self.ran.lock().unwrap_or_else(PoisonError::into_inner) = Some(output.clone());
    }
    fn moved(&self, past: &PastMove) {
        self.run.listener.hear(&Event::Moved { action: self.action, step: self.step, past });
        self.moves.lock().unwrap_or_else(PoisonError::into_inner).push(past.clone());
    }
}

/// Carries out one step. `None`: it only waited, and we were asked to stop.
async fn one<'r>(
    run: &'r Run<'r>,
    moves: &'r Mutex<Vec<PastMove>>,
    number: usize,
    index: usize,
) -> (usize, usize, Option<Result<Done, StepError>>) {
    let action = &run.plan.actions[number];
    let step = &action.steps[index];
    run.listener.hear(&Event::Begins { action, step: index });
    let entry = match run.journal.begin(&action.id, index, step) {
        Ok(entry) => entry,
        Err(text) => {
            let error = StepError::failed(format!("the journal cannot be written, so nothing is done: {text}"));
            return (number, index, Some(Err(error)));
        }
    };
    let progress = Passing { run, moves, action, step: index, said: Mutex::default(), ran: Mutex::default() };
    let perform = run.actuator.perform(step, &progress);
    let result = if step.op.only_waits() || matches!(step.op, Op::Migrate { .. }) {
        // A guest may take minutes, and waiting for it changes nothing: whoever comes next waits again. A move between two
        // hosts is a job of theirs, which goes on without us: whoever comes next finds it running, or done.
        tokio::select! {
            biased;
            result = perform => Some(result),
            () = run.stop.raising() => None,
        }
    } else {
        Some(perform.await)
    };
    let said = progress.said.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
    let word = match &result {
        Some(Ok(Done::Changed)) if !said.is_empty() => format!("changed: {said}"),
        Some(Ok(Done::Changed)) => "changed".to_owned(),
        Some(Ok(Done::Already)) => "already".to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "not waited for: asked to stop".to_owned(),
    };
    // The step is done whatever the journal says now: observation decides, the journal explains.
    if let Err(text) = run.journal.end(entry, &word) {
        tracing::warn!("the journal cannot be written: {text}");
    }
    let ran = progress.ran.lock().unwrap_or_else(PoisonError::into_inner).take();
    keep(run, (action, index), step, ran.as_ref(), result.as_ref());
    if let (Some(Err(StepError::Failed { .. })), Some(otherwise)) = (&result, &action.otherwise)
        && usize::try_from(otherwise.from).is_ok_and(|from| index >= from)
    {
        fall_back(run, action, otherwise).await;
    }
    (number, index, result)
}

/// Keeps what was said in a guest, and why a step failed there.
fn keep(
    run: &Run<'_>,
    (action, index): (&Action, usize),
    step: &Step,
    output: Option<&GuestOutput>,
    result: Option<&Result<Done, StepError>>,
) {
    let error = result.and_then(|result| result.as_ref().err()).map(ToString::to_string);
    let task = action.task.as_ref().filter(|_| error.is_some());
    let of_task = || run.plan.tasks.iter().find(|t| Some(&t.task) == task);
    let errand = match &step.op {
        Op::GuestRun { of: Some(errand), .. } => errand.clone(),
        _ => match of_task() {
            Some(task) => Errand { subject: Address::Task(task.task.clone()), digest: task.digest.clone() },
            None => return,
        },
    };
    if output.is_none() && error.is_none() {
        return;
    }
    let vm = match &step.op {
        Op::GuestRun { vm, .. } => vm,
        _ => action.subject.name(),
    };
    let number = u32::try_from(index).unwrap_or(u32::MAX);
    let heard = Heard { vm, errand: &errand, step: number, what: step.op.describe(), output, error };
    if let Err(text) = run.journal.hear(&heard) {
        tracing::warn!("what was said in a guest cannot be kept: {text}");
    }
}

/// Does what an action does when a step of it has failed. That one is what is told; what fails here too is in the journal.
async fn fall_back(run: &Run<'_>, action: &Action, otherwise: &Otherwise) {
    for (index, step) in (action.steps.len()..).zip(&otherwise.steps) {
        let result = match run.journal.begin(&action.id, index, step) {
            Ok(entry) => {
                let result = run.actuator.perform(step, &NoProgress).await;
                let word = result.as_ref().map_or_else(ToString::to_string, |_| "changed".to_owned());
                run.journal.end(entry, &word).map_err(StepError::failed).and(result)
            }
            Err(text) => Err(StepError::failed(text)),
        };
        if let Err(error) = result {
            tracing::warn!("{}: {} after a failure: {error}", action.id, step.op.describe());
            return;
        }
    }
}
