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
use crate::plan::{ActionId, Op, Plan, Step, Verb};

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
    limits: HostLimits,
    stopping: bool,
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
            let works = act.steps.iter().filter(|s| !matches!(s.op, Op::AwaitReady { .. }));
            let all = works.flat_map(|s| std::iter::once(&s.host).chain(s.op.peer()));
            all.collect::<BTreeSet<_>>().into_iter().collect()
        });
        let starts = plan.actions.iter().map(|act| act.steps.iter().position(|s| is_start(&s.op)));
        let mut machine = Self {
            plan,
            states: states.collect(),
            before: before.collect(),
            hosts: hosts.collect(),
            starts: starts.collect(),
            limits,
            stopping: false,
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
    }

    /// A step failed: what waits for its action is skipped.
    pub fn failed(&mut self, action: usize, step: usize, error: StepError) {
        self.states[action] = State::Over(Outcome::Failed { step, error });
        self.skip_waiters();
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

    /// What has begun and is not over.
    fn busy(&self) -> Busy<'p> {
        let mut busy = Busy::default();
        for (number, state) in self.states.iter().enumerate() {
            let (at, running) = match state {
                State::Running(step) => (*step, true),
                State::Between(step) => (*step, false),
                State::Pending | State::Over(_) => continue,
            };
            self.count(&mut busy, number);
            // From the moment at which the start's turn came, until the last step is over.
            if let Some(start) = self.starts[number].filter(|s| at > *s || (at == *s && running))
                && let Some(step) = self.step(number, start)
            {
                *busy.starting.entry(&step.host).or_default() += 1;
            }
        }
        busy
    }

    /// Counts an action that has begun.
    fn count(&self, busy: &mut Busy<'p>, action: usize) {
        for host in &self.hosts[action] {
            *busy.actions.entry(host).or_default() += 1;
            if self.hands_over(action) {
                busy.handing.insert(host);
            }
            if self.moves(action) {
                *busy.moves.entry(host).or_default() += 1;
            }
        }
        if let Some(link) = self.link(action) {
            *busy.links.entry(link).or_default() += 1;
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
        let moves = self.moves(action);
        let full = |host: &&Name| {
            let begun = |map: &BTreeMap<&Name, usize>| map.get(host).copied().unwrap_or(0);
            let most = self.limits.moves.get(*host).copied().unwrap_or(usize::MAX);
            // Devices change hands one at a time: who has which is then clear at every moment.
            (self.hands_over(action) && busy.handing.contains(host))
                || begun(&busy.actions) >= self.limits.actions
                || (moves && begun(&busy.moves) >= most)
        };
        let on_link = self.link(action).and_then(|link| busy.links.get(&link)).copied().unwrap_or(0);
        !self.hosts[action].iter().any(full) && (!moves || on_link < self.limits.moves_per_link)
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

fn is_start(op: &Op) -> bool {
    matches!(op, Op::Start { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;
    use crate::plan::{Action, Block, BlockedBy, Cause, Class, Downtime, Impact, Inputs, Reason, Verb};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// An action that makes a record, starts its VM and waits until it is ready.
    fn start(vm: &str, after: &[&str]) -> Action {
        let subject = Address::Vm(name(vm));
        let uuid = uuid::Uuid::nil();
        let step = |op| Step { host: name("h1"), op };
        Action {
            id: ActionId::new(&subject, Verb::Start, None),
            subject,
            verb: Verb::Start,
            cause: Cause::Change,
            reason: Reason { code: String::new(), text: String::new(), origins: Vec::new(), trigger: None },
            impact: Impact { class: Class::None, downtime: Downtime::None, data: Vec::new() },
            from: None,
            to: Some(name("h1")),
            fields: Vec::new(),
            transfer: None,
            after: after.iter().map(|vm| ActionId::new(&Address::Vm(name(vm)), Verb::Start, None)).collect(),
            wave: 1,
            blocked: Vec::new(),
            steps: vec![
                step(Op::Unrecord { vm: name(vm) }),
                step(Op::Start { vm: name(vm), uuid }),
                step(Op::AwaitReady { vm: name(vm), uuid, probe: None, address: None }),
            ],
        }
    }

    fn plan(actions: Vec<Action>) -> Plan {
        Plan {
            format_version: crate::plan::FORMAT_VERSION.into(),
            fleet: name("f"),
            base: None,
            head: String::new(),
            inputs: Inputs { source: "none".into(), now: Default::default(), ages: Default::default() },
            effects: String::new(),
            actions,
            notes: Vec::new(),
            hosts: Vec::new(),
            limits: Vec::new(),
            risks: Vec::new(),
            drains: Vec::new(),
            unchanged: 0,
            critical_path: Vec::new(),
            critical_millis: None,
        }
    }

    const WIDE: HostLimits = HostLimits { actions: 9, starts: 9, moves: BTreeMap::new(), moves_per_link: 9 };

    #[test]
    fn a_dependent_begins_when_what_it_needs_is_done() {
        let plan = plan(vec![start("a", &[]), start("b", &["a"])]);
        let mut machine = Machine::new(&plan, WIDE, None);
        for step in 0..3 {
            assert_eq!(machine.take_ready(), [(0, step)]);
            assert_eq!(machine.take_ready(), [], "nothing twice");
            machine.succeeded(0, step);
        }
        assert_eq!(machine.take_ready(), [(1, 0)]);
    }

    #[test]
    fn a_failure_skips_all_that_wait_and_nothing_else() {
        let plan = plan(vec![start("a", &[]), start("b", &["a"]), start("c", &["b"]), start("d", &[])]);
        let mut machine = Machine::new(&plan, WIDE, None);
        assert_eq!(machine.take_ready(), [(0, 0), (3, 0)]);
        machine.failed(0, 0, StepError::failed("no"));
        machine.succeeded(3, 0);
        assert_eq!(machine.take_ready(), [(3, 1)]);
        let outcomes: Vec<_> = machine.outcomes().into_iter().map(|(_, o)| o).collect();
        assert!(matches!(outcomes[1], Outcome::Waits(_)) && matches!(outcomes[2], Outcome::Waits(_)));
    }

    #[test]
    fn at_most_so_many_vms_of_a_host_are_starting() {
        let plan = plan(vec![start("a", &[]), start("b", &[]), start("c", &[])]);
        let mut machine = Machine::new(&plan, HostLimits { starts: 1, ..WIDE }, None);
        for (action, step) in machine.take_ready() {
            machine.succeeded(action, step);
        }
        assert_eq!(machine.take_ready(), [(0, 1)], "one start");
        machine.succeeded(0, 1);
        assert_eq!(machine.take_ready(), [(0, 2)], "and no other until it is ready");
        machine.succeeded(0, 2);
        assert_eq!(machine.take_ready(), [(1, 1)]);
    }

    #[test]
    fn devices_of_a_host_change_hands_one_at_a_time() {
        let attach = |vm: &str, host: &str| {
            let mut act = start(vm, &[]);
            let at = crate::model::DeviceAt::Usb { id: Some((1, 1)), place: None };
            let device = crate::plan::DomainDevice { name: name("d"), device: None, at };
            let op = Op::AttachDevice { vm: name(vm), uuid: uuid::Uuid::nil(), device };
            act.steps = vec![Step { host: name(host), op }];
            act
        };
        let plan = plan(vec![attach("a", "h1"), attach("b", "h1"), attach("c", "h2"), start("d", &[])]);
        let mut machine = Machine::new(&plan, WIDE, None);
        assert_eq!(machine.take_ready(), [(0, 0), (2, 0), (3, 0)], "another host, and other work, go on");
        machine.failed(0, 0, StepError::failed("the guest does not let it go"));
        assert_eq!(machine.take_ready(), [(1, 0)], "whoever is stubborn holds nobody up");
    }

    #[test]
    fn a_stop_ends_between_steps() {
        let plan = plan(vec![start("a", &[]), start("b", &[])]);
        let mut machine = Machine::new(&plan, WIDE, None);
        assert_eq!(machine.take_ready().len(), 2);
        machine.stop();
        machine.succeeded(0, 0);
        assert!(!machine.is_over(), "one step still runs");
        machine.succeeded(1, 0);
        assert!(machine.is_over() && machine.take_ready().is_empty());
        assert_eq!(machine.outcomes()[0].1, Outcome::Stopped { steps: 1 });
    }

    #[test]
    fn blocked_and_unapproved_actions_do_not_run() {
        let mut blocked = start("a", &[]);
        blocked.blocked.push(Block { by: BlockedBy::Limit, text: String::new(), unblock: String::new() });
        let plan = plan(vec![blocked, start("b", &[]), start("c", &["b"])]);
        let approved = BTreeSet::from([plan.actions[2].id.clone()]);
        let mut machine = Machine::new(&plan, WIDE, Some(&approved));
        assert!(machine.take_ready().is_empty() && machine.is_over());
        let outcomes: Vec<_> = machine.outcomes().into_iter().map(|(_, o)| o).collect();
        assert_eq!(outcomes[..2], [Outcome::Blocked, Outcome::NotApproved]);
    }

    /// Moves a VM that runs: a step at the target, one at the source, one at the target.
    fn migrate(vm: &str, from: &str, to: &str) -> Action {
        let mut act = start(vm, &[]);
        let uuid = uuid::Uuid::nil();
        let how = crate::plan::MigrateHow {
            uri: String::new(),
            address: None,
            transport: crate::model::Transport::Tls,
            storage: true,
            auto_converge: true,
            post_copy: false,
            max_pause: crate::model::Span(300),
            bandwidth: None,
            time_limit: crate::model::Span::secs(60),
        };
        let vm = name(vm);
        act.id = ActionId::new(&act.subject, Verb::Migrate, None);
        act.verb = Verb::Migrate;
        act.steps = vec![
            Step { host: name(to), op: Op::Unrecord { vm: vm.clone() } },
            Step { host: name(from), op: Op::Migrate { vm: vm.clone(), uuid, to: name(to), how } },
            Step { host: name(to), op: Op::Announce { vm, uuid } },
        ];
        act
    }

    #[test]
    fn moves_count_on_both_hosts_and_on_their_link() {
        let moves = vec![
            migrate("a", "h1", "h2"),
            migrate("b", "h2", "h1"),
            migrate("c", "h1", "h3"),
            migrate("d", "h1", "h4"),
            migrate("e", "h3", "h4"),
        ];
        let plan = plan(moves);
        let limits = HostLimits { moves: BTreeMap::from([(name("h1"), 2)]), moves_per_link: 1, ..WIDE };
        let mut machine = Machine::new(&plan, limits, None);
        // b: the link of h1 and h2 is taken; d: two move from or to h1 already.
        assert_eq!(machine.take_ready(), [(0, 0), (2, 0), (4, 0)]);
        for step in 0..3 {
            assert_eq!(machine.take_ready(), [], "in the middle of it, too");
            machine.succeeded(0, step);
            if step < 2 {
                assert_eq!(machine.take_ready(), [(0, step + 1)]);
            }
        }
        assert_eq!(machine.take_ready(), [(1, 0)]);
    }

    #[test]
    fn a_move_is_one_of_the_actions_of_both_its_hosts() {
        let plan = plan(vec![migrate("a", "h2", "h1"), start("b", &[])]);
        let mut machine = Machine::new(&plan, HostLimits { actions: 1, ..WIDE }, None);
        assert_eq!(machine.take_ready(), [(0, 0)], "b would be the second one on h1");
        machine.failed(0, 0, StepError::failed("no"));
        assert_eq!(machine.take_ready(), [(1, 0)]);
    }
}
