//! The world behind the traits, with virtual time.
//!
//! Steps that run at once end in the order in which their time is over. No real time passes: each step in flight
//! asks to be polled again, and when all of them were polled since the last thing happened, the clock jumps to the
//! earliest end. On a single-threaded runtime the same script gives the same bytes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::faults::{Count, FaultKind};
use super::world::World;
use crate::execute::{Actuator, Done, LockError, Progress, StepError};
use crate::model::{Desired, LockHolder, Name, Observed};
use crate::observe::{Boxed, Look, Observer};
use crate::plan::{Op, Step};

/// How often each step in flight is polled before the clock moves: an executor may need a round of its own to
/// start what a finished step made possible.
const ROUNDS: u32 = 3;
/// How long we wait for a host that does not answer, and for a call that hangs.
const TIMEOUT_MILLIS: u64 = 30_000;

/// A simulated fleet: clones share one world.
#[derive(Clone, Debug, Default)]
pub struct SimFleet {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    world: World,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
}

#[derive(Debug)]
struct Flight {
    ends: u64,
    rounds: u32,
}

impl SimFleet {
    /// A fleet around a world.
    pub fn new(world: World) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { world, ..Shared::default() })) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks into the world, or changes it.
    pub fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.shared().world)
    }

    /// A copy of the world as it is.
    pub fn world(&self) -> World {
        self.shared().world.clone()
    }

    /// Ends us, as `kill -9` does, after `steps` more steps: every later one answers Unknown and changes nothing.
    pub fn crash_after(&self, steps: u64) {
        self.with(|world| {
            world.crash_after = Some(world.steps + steps);
            world.crashed = steps == 0;
        });
    }

    /// Whether we were ended.
    pub fn crashed(&self) -> bool {
        self.with(|world| world.crashed)
    }
}

impl World {
    /// Milliseconds that a step takes, seen at its begin. The figures are those of a small server with fast disks;
    /// scripts give guests and hosts others.
    fn cost(&self, step: &Step) -> u64 {
        let hangs = self.faults.iter().any(|f| f.kind == FaultKind::Hang && f.matches(step));
        if matches!(step.op, Op::Fence { .. }) {
            return 5_000;
        }
        let Some(host) = self.hosts.get(&step.host).filter(|h| h.away.is_none() && !hangs) else {
            return TIMEOUT_MILLIS;
        };
        if let Some((from, bytes)) = self.to_copy(step) {
            return bytes.0.saturating_mul(1000) / self.rate(from, &step.host).0.max(1) + 10;
        }
        let domain = super::guard::domain_of(&step.op).and_then(|u| host.domains.get(&u));
        let millis = match &step.op {
            Op::PutImage { path, .. } if !host.images.contains_key(path) => 4_000,
            Op::MakeDisk(_) | Op::MakeSeed { .. } | Op::GrowDisk { .. } => 100,
            Op::MakeBridge { .. } | Op::Define { .. } | Op::Edit { .. } => 50,
            Op::SetMemory { .. } | Op::SetCpus { .. } => 200,
            Op::Start { .. } => 300,
            Op::Migrate { uuid, .. } => {
                return self.wait_for(&step.host, *uuid).saturating_sub(self.millis).max(10);
            }
            Op::Suspend { .. } => 1_500,
            Op::Generalise { .. } => 1_000,
            Op::Capture { .. } => 4_000,
            Op::GuestRun { .. } => 1_000,
            Op::GuestFile { .. } => 100,
            Op::AwaitReady { probe, .. } => {
                let within = probe.as_ref().map_or(0, |p| p.within.0);
                let left = domain.and_then(|d| d.ready_at).map(|at| at.saturating_sub(self.millis));
                // Waiting is not made slower by load: `ready_at` has it already.
                return left.map_or(within, |l| l.min(within));
            }
            Op::StayReady { hold, .. } => return hold.0,
            Op::Stop { vm, policy, .. } if domain.is_some_and(|d| d.power.is_active()) => {
                let takes = self.guest(vm).shutdown_millis.unwrap_or(u64::MAX);
                return takes.min(policy.deadline.0);
            }
            _ => 10,
        };
        millis * host.load_milli / 1000
    }

    /// What comes out at a step's end: faults, the change, what was scheduled, our own end.
    fn finish(&mut self, step: &Step) -> Result<Done, StepError> {
        let fault = self.faults.iter_mut().find(|f| f.matches(step)).map(|f| {
            if let Count::Times(n) = &mut f.count {
                *n = n.saturating_sub(1);
            }
            f.kind
        });
        let name = Self::step_name(step);
        let outcome = match fault {
            None => self.change(step),
            Some(FaultKind::Fail) => Err(StepError::failed(format!("{name}: injected failure"))),
            Some(FaultKind::Hang) => Err(StepError::Unknown(format!("{name}: no answer within 30s"))),
            Some(FaultKind::HalfFail) => self.change(step).and(Err(StepError::failed(format!("{name}: half done")))),
            Some(FaultKind::HalfUnknown) => {
                self.change(step).and(Err(StepError::Unknown(format!("{name}: its answer was lost"))))
            }
        };
        self.step_ends();
        if self.crashed { Err(crashed()) } else { outcome }
    }

    /// A step ended, or a stage of a long one: what was scheduled happens, and our own end comes.
    pub(super) fn step_ends(&mut self) {
        self.steps += 1;
        self.fire();
        self.crashed |= self.crash_after.is_some_and(|n| self.steps >= n);
    }

    /// Whether a fault will keep a step from changing anything.
    pub(super) fn may_fail(&self, step: &Step) -> bool {
        self.faults.iter().any(|f| matches!(f.kind, FaultKind::Fail | FaultKind::Hang) && f.matches(step))
    }

    /// Whether a step that waits for a migration has to wait on: it takes longer than it seemed.
    fn waits_on(&self, step: &Step) -> bool {
        let Op::Migrate { uuid, .. } = &step.op else { return false };
        let answers = self.hosts.get(&step.host).is_some_and(|h| h.away.is_none());
        let job = self.leaving(&step.host, *uuid).filter(|j| j.watched);
        answers && job.is_some_and(|j| !self.is_hopeless(j))
    }

    fn fire(&mut self) {
        let steps = self.steps;
        let (due, later) = std::mem::take(&mut self.scheduled).into_iter().partition(|(n, _)| *n <= steps);
        self.scheduled = later;
        for (_, event) in due {
            self.let_happen(&event);
        }
    }

    pub(super) fn let_happen(&mut self, event: &super::happen::Event) {
        if let Err(text) = self.happen(event) {
            self.log.push(format!("nothing happened: {text}"));
        }
    }
}

fn crashed() -> StepError {
    StepError::Unknown("crashed".to_owned())
}

/// A step in flight.
struct Performing<'a> {
    fleet: &'a SimFleet,
    step: &'a Step,
    progress: &'a dyn Progress,
    flight: Option<u64>,
}

impl Future for Performing<'_> {
    type Output = Result<Done, StepError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let fleet = self.fleet;
        let mut shared = fleet.shared();
        if shared.world.crashed {
            return Poll::Ready(Err(crashed()));
        }
        let Some(flight) = self.flight else {
            shared.world.guard_lock(self.step);
            shared.world.begins(self.step);
            if shared.world.crashed {
                return Poll::Ready(Err(crashed()));
            }
            let ends = shared.world.millis + shared.world.cost(self.step);
            let flight = shared.next_flight;
            shared.next_flight += 1;
            shared.flights.insert(flight, Flight { ends, rounds: 0 });
            shared.unsettle();
            self.flight = Some(flight);
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        if !shared.is_next(flight) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(ended) = shared.flights.remove(&flight) {
            let took = ended.ends.saturating_sub(shared.world.millis);
            self.progress.advance(took, took);
            shared.world.pass_to(ended.ends);
            if shared.world.crashed {
                return Poll::Ready(Err(crashed()));
            }
        }
        shared.unsettle();
        if shared.world.waits_on(self.step) {
            let ends = shared.world.millis + shared.world.cost(self.step);
            shared.flights.insert(flight, Flight { ends, rounds: 0 });
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.flight = None;
        let outcome = shared.world.finish(self.step);
        if let Some(output) = super::inside::output(self.step, &outcome) {
            self.progress.ran(&output);
        }
        Poll::Ready(outcome)
    }
}

impl Shared {
    /// Something happened: everyone is to be polled again before the clock moves.
    fn unsettle(&mut self) {
        for flight in self.flights.values_mut() {
            flight.rounds = 0;
        }
    }

    /// Whether all are settled and this flight is the first to end.
    fn is_next(&mut self, flight: u64) -> bool {
        if let Some(f) = self.flights.get_mut(&flight) {
            f.rounds += 1;
        }
        let settled = self.flights.values().all(|f| f.rounds >= ROUNDS);
        let first = self.flights.iter().min_by_key(|(id, f)| (f.ends, **id)).map(|(id, _)| *id);
        settled && first == Some(flight)
    }
}

impl Drop for Performing<'_> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight {
            self.fleet.shared().flights.remove(&flight);
        }
    }
}

impl Actuator for SimFleet {
    fn perform<'a>(&'a self, step: &'a Step, progress: &'a dyn Progress) -> Boxed<'a, Result<Done, StepError>> {
        Box::pin(Performing { fleet: self, step, progress, flight: None })
    }

    fn lock<'a>(&'a self, host: &'a Name, who: &'a LockHolder) -> Boxed<'a, Result<(), LockError>> {
        let outcome = self.with(|world| {
            let host = world.host(host).map_err(|e| LockError::Failed(e.to_string()))?;
            match &host.lock {
                Some(there) if there.token != who.token => Err(LockError::Held(there.clone())),
                _ => {
                    host.lock = Some(who.clone());
                    Ok(())
                }
            }
        });
        Box::pin(std::future::ready(outcome))
    }

    fn unlock<'a>(&'a self, host: &'a Name) -> Boxed<'a, ()> {
        self.with(|world| {
            let crashed = world.crashed;
            if let Some(host) = world.hosts.get_mut(host).filter(|_| !crashed) {
                host.lock = None;
            }
        });
        Box::pin(std::future::ready(()))
    }
}

impl Observer for SimFleet {
    fn observe<'a>(&'a self, desired: &'a Desired, look: Look) -> Boxed<'a, Observed> {
        let seen = self.with(|world| {
            let seen = world.see(desired, look);
            for host in world.hosts.values_mut() {
                host.hidden = host.hidden.saturating_sub(1);
            }
            seen
        });
        Box::pin(std::future::ready(seen))
    }

    fn console_tail<'a>(&'a self, host: &'a Name, vm: &'a Name, lines: usize) -> Boxed<'a, Vec<String>> {
        let tail = self.with(|world| {
            let ready = world.guest(vm).boot_millis.is_some();
            let there = world.hosts.get(host).is_some_and(|h| h.domains.values().any(|d| d.vm() == Some(vm)));
            let last = if ready { format!("{vm} login: ") } else { "Waiting for network...".to_owned() };
            if there { vec!["Linux version 6.1.0 (simulated)".to_owned(), last] } else { Vec::new() }
        });
        let skip = tail.len().saturating_sub(lines);
        Box::pin(std::future::ready(tail.into_iter().skip(skip).collect()))
    }
}
