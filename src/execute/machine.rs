//! Which step may run next: a pure state machine over the plan's graph, without async, locks or clocks.
//!
//! ```text
//!            waits ─────▶ ready ─▶ step 0 ─▶ step 1 … ─▶ done
//!              │                     │
//!              └──▶ skipped ◀────────┴──▶ failed (dependents are skipped)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::StepError;
use crate::model::{Address, Name};
use crate::plan::{Action, ActionId, Op, Plan, Step, Verb};

/// How much may run at once on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// Actions of any kind. One on two hosts counts on both.
    pub actions: usize,
    /// VMs between their start and being ready.
    pub starts: usize,
    /// VMs that move away from or to a host, where it says so; else as many as there are actions.
    pub moves: BTreeMap<Name, usize>,
    /// VMs that move between any two hosts, both ways together.
    pub moves_per_link: usize,
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
    /// No more may move at once on one of its hosts or on their link, as the move of this VM is not known to be over.
    Crowded(Name),
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
    /// The hosts that each action is work for, in order.
    hosts: Vec<Vec<&'p Name>>,
    /// Where each action starts a VM: the step's number.
    starts: Vec<Option<usize>>,
    /// Moves that ran before any action began.
    flights: Vec<Flying<'p>>,
    limits: HostLimits,
    stopping: bool,
    /// Rolls and tasks that failed, with the action that did.
    halted: BTreeMap<(&'static str, &'p Name), usize>,
}

/// A move that ran when the plan was made.
#[derive(Clone, Debug)]
struct Flying<'p> {
    vm: &'p Name,
    /// Its hosts, in order.
    hosts: Vec<&'p Name>,
    /// The action that waits for it, or gives it up.
    ended_by: Option<usize>,
}

/// What goes on now.
#[derive(Debug, Default)]
struct Busy<'p> {
    /// Actions that have begun, by host.
    actions: BTreeMap<&'p Name, usize>,
    /// Moves that have begun, by host.
    moves: BTreeMap<&'p Name, usize>,
    /// Moves that have begun, by the two hosts in order.
    links: BTreeMap<(&'p Name, &'p Name), usize>,
    /// Hosts of which a device changes hands.
    handing: BTreeSet<&'p Name>,
    /// VMs between their start and being ready, by host.
    starting: BTreeMap<&'p Name, usize>,
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
        let hosts = plan.actions.iter().map(|act| {
            // To wait for a guest of another host is no work for that host.
            let works = act.steps.iter().filter(|s| !s.op.only_waits());
            let all = works.flat_map(|s| std::iter::once(&s.host).chain(s.op.peer()));
            all.collect::<BTreeSet<_>>().into_iter().collect()
        });
        let starts = plan.actions.iter().map(|act| act.steps.iter().position(|s| is_start(&s.op)));
        let flights = plan.flights.iter().map(|flight| {
            let ends = |a: &Action| {
                matches!(a.verb, Verb::Migrate | Verb::Abort) && a.subject == Address::Vm(flight.vm.clone())
            };
            Flying {
                vm: &flight.vm,
                hosts: flight.hosts.iter().collect(),
                ended_by: plan.actions.iter().position(ends),
            }
        });
        let mut machine = Self {
            plan,
            states: states.collect(),
            before: before.collect(),
            hosts: hosts.collect(),
            starts: starts.collect(),
            flights: flights.collect(),
            limits,
            stopping: false,
            halted: BTreeMap::new(),
        };
        machine.skip_waiters();
        machine
    }

    /// The steps that may begin now, as (action, step); they count as running from here on.
    pub fn take_ready(&mut self) -> Vec<(usize, usize)> {
        let mut taken = Vec::new();
        if self.stopping {
            return taken;
        }
        let mut busy = self.busy();
        // Whoever has begun goes on first: an action half done is worth less than one not begun.
        for number in 0..self.states.len() {
            if let State::Between(step) = self.states[number]
                && self.may_go_on(&mut busy, number, step)
            {
                self.states[number] = State::Running(step);
                taken.push((number, step));
            }
        }
        for number in 0..self.states.len() {
            let waits = self.before[number].iter().any(|b| self.states[*b] != State::Over(Outcome::Done));
            if self.states[number] != State::Pending || waits || !self.has_room(&busy, number) {
                continue;
            }
            if self.may_go_on(&mut busy, number, 0) {
                self.states[number] = State::Running(0);
                self.count(&mut busy, number);
                taken.push((number, 0));
            }
        }
        taken
    }

    /// A step succeeded.
    pub fn succeeded(&mut self, action: usize, step: usize) {
        let more = step + 1 < self.plan.actions[action].steps.len();
        self.states[action] = if more { State::Between(step + 1) } else { State::Over(Outcome::Done) };
        if !self.halted.is_empty() {
            self.spare_the_rest();
            self.skip_waiters();
        }
    }

    /// A step failed: what waits for its action is skipped.
    pub fn failed(&mut self, action: usize, step: usize, error: StepError) {
        self.states[action] = State::Over(Outcome::Failed { step, error });
        if let Some(fellows) = self.plan.actions[action].fellows() {
            self.halted.entry(fellows).or_insert(action);
        }
        self.spare_the_rest();
        self.skip_waiters();
    }

    /// Of a roll that failed, whoever has not been stopped yet stays as it is, even in the same step of the roll; of a task,
    /// whoever has not begun.
    fn spare_the_rest(&mut self) {
        for number in 0..self.states.len() {
            let act = &self.plan.actions[number];
            let Some(failed) = act.fellows().and_then(|fellows| self.halted.get(&fellows)) else { continue };
            let begins = |op: &Op| match act.task {
                Some(_) => matches!(op, Op::Edit { .. }),
                None => matches!(op, Op::Stop { .. }),
            };
            let stops = act.steps.iter().position(|s| begins(&s.op)).unwrap_or(0);
            let untouched = match self.states[number] {
                State::Pending => true,
                State::Between(step) => step <= stops,
                State::Running(_) | State::Over(_) => false,
            };
            if untouched {
                self.states[number] = State::Over(Outcome::Waits(self.plan.actions[*failed].id.clone()));
            }
        }
    }

    /// A step that changes nothing was given up, as we were asked to stop.
    pub fn given_up(&mut self, action: usize, step: usize) {
        self.states[action] = State::Between(step);
        self.stopping = true;
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
        let outcome = |(number, state): (usize, &State)| match state {
            State::Over(outcome) => outcome.clone(),
            State::Pending => self.why_pending(number),
            State::Running(step) | State::Between(step) => Outcome::Stopped { steps: *step },
        };
        let outcomes = self.states.iter().enumerate().map(outcome);
        self.plan.actions.iter().map(|a| a.id.clone()).zip(outcomes).collect()
    }

    /// What an action that has not begun waits for: only moves that go on without us let no turn come in the end.
    fn why_pending(&self, action: usize) -> Outcome {
        let first = self.before[action].iter().find(|b| self.states[**b] != State::Over(Outcome::Done));
        let busy = self.busy();
        let here = |host: &&Name| self.hosts[action].contains(host) && self.is_crowded(&busy, host);
        let crowds = |flying: &&Flying<'_>| flying.hosts == self.hosts[action] || flying.hosts.iter().any(&here);
        let flying = self.flying();
        match (first, flying.iter().find(crowds)) {
            _ if self.stopping => Outcome::Stopped { steps: 0 },
            (Some(before), _) => Outcome::Waits(self.plan.actions[*before].id.clone()),
            (None, Some(flying)) => Outcome::Crowded(flying.vm.clone()),
            (None, None) => Outcome::Stopped { steps: 0 },
        }
    }

    fn step(&self, action: usize, step: usize) -> Option<&'p Step> {
        self.plan.actions[action].steps.get(step)
    }

    /// What has begun and is not over.
    fn busy(&self) -> Busy<'p> {
        let mut busy = Busy::default();
        for (number, state) in self.states.iter().enumerate() {
            let (at, running) = match state {
                State::Running(step) => (*step, true),
                State::Between(step) => (*step, false),
                State::Pending | State::Over(_) => continue,
            };
            // Who is only watched is no work for its host any more.
            if self.step(number, at).is_some_and(|s| matches!(s.op, Op::StayReady { .. })) {
                continue;
            }
            self.count(&mut busy, number);
            // From the moment at which the start's turn came, until the last step is over.
            if let Some(start) = self.starts[number].filter(|s| at > *s || (at == *s && running))
                && let Some(step) = self.step(number, start)
            {
                *busy.starting.entry(&step.host).or_default() += 1;
            }
        }
        for flying in self.flying() {
            count_move(&mut busy, &flying.hosts);
        }
        busy
    }

    /// Moves that are not those of actions in the middle: they ran before, or a step that waited for one gave up.
    fn flying(&self) -> Vec<Flying<'p>> {
        let before = self.flights.iter().filter(|f| !f.ended_by.is_some_and(|number| self.has_ended(number)));
        let lingers = |number: &usize| {
            !self.ends_flight(*number) && matches!(self.last_travelled(*number), Some(StepError::Unknown(_)))
        };
        let after = (0..self.states.len()).filter(lingers).map(|number| Flying {
            vm: self.plan.actions[number].subject.name(),
            hosts: self.hosts[number].clone(),
            ended_by: None,
        });
        before.cloned().chain(after).collect()
    }

    /// Whether an action that waits for a move, or gives it up, knows that it is over.
    fn has_ended(&self, action: usize) -> bool {
        let over = self.states[action] == State::Over(Outcome::Done);
        over || self.last_travelled(action).is_some_and(|error| !matches!(error, StepError::Unknown(_)))
    }

    /// The error with which the step of an action failed that waits for a move.
    fn last_travelled(&self, action: usize) -> Option<&StepError> {
        let State::Over(Outcome::Failed { step, error }) = &self.states[action] else { return None };
        matches!(self.step(action, *step)?.op, Op::Migrate { .. }).then_some(error)
    }

    /// Whether an action is about a move that ran before: that one is counted all the time.
    fn ends_flight(&self, action: usize) -> bool {
        self.flights.iter().any(|f| f.ended_by == Some(action))
    }

    /// Counts an action that has begun.
    fn count(&self, busy: &mut Busy<'p>, action: usize) {
        for host in &self.hosts[action] {
            *busy.actions.entry(host).or_default() += 1;
            if self.hands_over(action) {
                busy.handing.insert(host);
            }
        }
        if self.moves(action) && !self.ends_flight(action) {
            count_move(busy, &self.hosts[action]);
        }
    }

    /// Whether it moves a VM.
    fn moves(&self, action: usize) -> bool {
        matches!(self.plan.actions[action].verb, Verb::Migrate | Verb::Move)
    }

    /// Whether it hands devices of a host over.
    fn hands_over(&self, action: usize) -> bool {
        let device = |s: &Step| matches!(s.op, Op::AttachDevice { .. } | Op::DetachDevice { .. });
        self.plan.actions[action].steps.iter().any(device)
    }

    /// The two hosts between which an action moves a VM.
    fn link(&self, action: usize) -> Option<(&'p Name, &'p Name)> {
        match self.hosts[action].as_slice() {
            [a, b] if self.moves(action) => Some((a, b)),
            _ => None,
        }
    }

    /// Whether one more action may begin on each of its hosts.
    fn has_room(&self, busy: &Busy<'p>, action: usize) -> bool {
        let moves = self.moves(action) && !self.ends_flight(action);
        let full = |host: &&Name| {
            let begun = busy.actions.get(host).copied().unwrap_or(0);
            // Devices change hands one at a time: who has which is then clear at every moment.
            (self.hands_over(action) && busy.handing.contains(host))
                || begun >= self.limits.actions
                || (moves && self.is_crowded(busy, host))
        };
        let on_link = self.link(action).and_then(|link| busy.links.get(&link)).copied().unwrap_or(0);
        !self.hosts[action].iter().any(full) && (!moves || on_link < self.limits.moves_per_link)
    }

    /// Whether as many VMs come to a host, or leave it, as may at once.
    fn is_crowded(&self, busy: &Busy<'p>, host: &Name) -> bool {
        busy.moves.get(host).copied().unwrap_or(0) >= self.limits.moves.get(host).copied().unwrap_or(usize::MAX)
    }

    /// Whether a step may begin: any but a start may; that one, as long as fewer VMs than the limit are between their
    /// start and being ready. It counts as begun then.
    fn may_go_on(&self, busy: &mut Busy<'p>, action: usize, step: usize) -> bool {
        let Some(step) = self.step(action, step).filter(|s| is_start(&s.op)) else { return true };
        let starting = busy.starting.entry(&step.host).or_default();
        let may = *starting < self.limits.starts;
        *starting += usize::from(may);
        may
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

/// Counts a move on its hosts, and on their link.
fn count_move<'p>(busy: &mut Busy<'p>, hosts: &[&'p Name]) {
    for host in hosts {
        *busy.moves.entry(host).or_default() += 1;
    }
    if let [a, b] = hosts {
        *busy.links.entry((a, b)).or_default() += 1;
    }
}

fn is_start(op: &Op) -> bool {
    matches!(op, Op::Start { .. })
}

#[cfg(test)]
mod tests;
