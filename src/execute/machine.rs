//! Which step may run next: a pure state machine over the plan's graph, without async, locks or clocks.
//!
//! ```text
//!            waits ─────▶ ready ─▶ step 0 ─▶ step 1 … ─▶ done
//!              │                     │
//!              └──▶ skipped ◀────────┴──▶ failed (dependents are skipped)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::StepError;
use crate::model::Name;
use crate::plan::{ActionId, Op, Plan, Step};

/// How much may run at once on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// Actions of any kind.
    pub actions: usize,
    /// VMs between their start and being ready.
    pub starts: usize,
}

/// How an action ended, or why it was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step succeeded.
    Done,
    /// A step failed; later ones were not tried.
    Failed {
        /// Its number in the action, from 0.
        step: usize,
        /// Why.
        error: StepError,
    },
    /// The plan blocks it.
    Blocked,
    /// Not part of what was approved.
    NotApproved,
    /// It waits for an action that did not succeed.
    Waits(ActionId),
    /// We were asked to stop before it was finished; `steps` of it were done.
    Stopped {
        /// Steps that were done.
        steps: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Running(usize),
    Between(usize),
    Over(Outcome),
}

/// The state of a plan's execution.
#[derive(Debug)]
pub struct Machine<'p> {
    plan: &'p Plan,
    states: Vec<State>,
    before: Vec<Vec<usize>>,
    limits: HostLimits,
    stopping: bool,
}

impl<'p> Machine<'p> {
    /// Begins with every open action pending. `approved`: only actions with these ids may run; `None`: all.
    pub fn new(plan: &'p Plan, limits: HostLimits, approved: Option<&BTreeSet<ActionId>>) -> Self {
        let numbers: BTreeMap<&ActionId, usize> = plan.actions.iter().enumerate().map(|(n, a)| (&a.id, n)).collect();
        let before = plan.actions.iter().map(|a| a.after.iter().filter_map(|id| numbers.get(id).copied()).collect());
        let states = plan.actions.iter().map(|act| {
            if act.is_blocked() {
                State::Over(Outcome::Blocked)
            } else if approved.is_some_and(|ids| !ids.contains(&act.id)) {
                State::Over(Outcome::NotApproved)
            } else {
                State::Pending
            }
        });
        let mut machine = Self { plan, states: states.collect(), before: before.collect(), limits, stopping: false };
        machine.skip_waiters();
        machine
    }

    /// The steps that may begin now, as (action, step); they count as running from here on.
    pub fn take_ready(&mut self) -> Vec<(usize, usize)> {
        let mut taken = Vec::new();
        if self.stopping {
            return taken;
        }
        // Whoever has begun goes on first: an action half done is worth less than one not begun.
        for number in 0..self.states.len() {
            if let State::Between(step) = self.states[number] {
                let more = !self.step(number, step).is_some_and(|s| matches!(s.op, Op::Start { .. }));
                if more || self.may_start_vm(number) {
                    self.states[number] = State::Running(step);
                    taken.push((number, step));
                }
            }
        }
        for number in 0..self.states.len() {
            let waits = self.before[number].iter().any(|b| self.states[*b] != State::Over(Outcome::Done));
            if self.states[number] != State::Pending || waits || !self.has_room(number) {
                continue;
            }
            let starts = self.step(number, 0).is_some_and(|s| matches!(s.op, Op::Start { .. }));
            if starts && !self.may_start_vm(number) {
                continue;
            }
            self.states[number] = State::Running(0);
            taken.push((number, 0));
        }
        taken
    }

    /// A step succeeded.
    pub fn succeeded(&mut self, action: usize, step: usize) {
        let more = step + 1 < self.plan.actions[action].steps.len();
        self.states[action] = if more { State::Between(step + 1) } else { State::Over(Outcome::Done) };
    }

    /// A step failed: what waits for its action is skipped.
    pub fn failed(&mut self, action: usize, step: usize, error: StepError) {
        self.states[action] = State::Over(Outcome::Failed { step, error });
        self.skip_waiters();
    }

    /// No further step begins; those that run are waited for.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing runs and nothing more can begin.
    pub fn is_over(&self) -> bool {
        let idle = |s: &State| match s {
            State::Over(_) => true,
            State::Running(_) => false,
            State::Pending | State::Between(_) => self.stopping,
        };
        self.states.iter().all(idle)
    }

    /// How each action ended, in the plan's order.
    pub fn outcomes(&self) -> Vec<(ActionId, Outcome)> {
        let outcome = |state: &State| match state {
            State::Over(outcome) => outcome.clone(),
            State::Pending => Outcome::Stopped { steps: 0 },
            State::Running(step) | State::Between(step) => Outcome::Stopped { steps: *step },
        };
        self.plan.actions.iter().zip(&self.states).map(|(a, s)| (a.id.clone(), outcome(s))).collect()
    }

    fn step(&self, action: usize, step: usize) -> Option<&'p Step> {
        self.plan.actions[action].steps.get(step)
    }

    fn host(&self, action: usize) -> Option<&'p Name> {
        self.plan.actions[action].steps.first().map(|s| &s.host)
    }

    fn begun_on<'m>(&'m self, host: Option<&'m Name>) -> impl Iterator<Item = (usize, usize)> + 'm {
        (0..self.states.len()).filter(move |n| self.host(*n) == host).filter_map(|n| match self.states[n] {
            State::Running(step) | State::Between(step) => Some((n, step)),
            State::Pending | State::Over(_) => None,
        })
    }

    fn has_room(&self, action: usize) -> bool {
        self.begun_on(self.host(action)).count() < self.limits.actions
    }

    /// Fewer VMs than the limit are between their start and being ready.
    fn may_start_vm(&self, action: usize) -> bool {
        let starting = self.begun_on(self.host(action)).filter(|(n, at)| {
            let steps = &self.plan.actions[*n].steps;
            let start = steps.iter().position(|s| matches!(s.op, Op::Start { .. }));
            let running = matches!(self.states[*n], State::Running(_));
            start.is_some_and(|s| *at > s || (*at == s && running))
        });
        starting.count() < self.limits.starts
    }

    /// Pending actions whose forerunners can no longer succeed are over, and so on along the graph.
    fn skip_waiters(&mut self) {
        // Actions stand in an order in which every forerunner comes first: one walk is enough.
        for number in 0..self.states.len() {
            if self.states[number] != State::Pending {
                continue;
            }
            let lost = self.before[number]
                .iter()
                .copied()
                .find(|b| matches!(&self.states[*b], State::Over(outcome) if *outcome != Outcome::Done));
            if let Some(by) = lost {
                self.states[number] = State::Over(Outcome::Waits(self.plan.actions[by].id.clone()));
            }
        }
    }
}
