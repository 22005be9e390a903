//! A controller of a simulated fleet: the same passes as the real one, on virtual time.

use std::task::{Context, Poll, Waker};

use super::script::{ImageWord, Statement};
use super::{Permit, SimFleet, World};
use crate::execute::{Event, Listener, LockError, Outcome, StopFlag};
use crate::model::{Asked, Desired, Digest, Drain, Hold, ImageWish, LockHolder, Name, Quarantine, RunState, Then};
use crate::observe::Look;
use crate::plan::{ActionId, Plan, Policy};
use crate::reconcile::{self, Approval, Cast, Passed};

/// A controller with its world.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The world.
    pub fleet: SimFleet,
    /// What the commit says.
    pub desired: Option<Desired>,
    /// What causes are told against.
    pub base: Option<Desired>,
}

/// What came of a pass.
#[derive(Debug)]
pub struct Applied {
    /// As the pass says it.
    pub passed: Passed,
    /// Steps that ended.
    pub steps: u64,
    /// Milliseconds of the clock that it took.
    pub millis: u64,
    /// We were ended in the middle.
    pub crashed: bool,
}

impl Applied {
    /// Every action of every round that was not blocked, and how it ended.
    pub fn outcomes(&self) -> impl Iterator<Item = &(ActionId, Outcome)> {
        let all = self.passed.rounds.iter().flat_map(|(_, report)| &report.outcomes);
        all.filter(|(_, outcome)| *outcome != Outcome::Blocked)
    }
    /// Who acts on a host that we needed: then nothing was done.
    pub fn held(&self) -> Option<String> {
        let (host, error) = self.passed.held.as_ref()?;
        Some(match error {
            LockError::Held(holder) => format!("{} acts on {host}", holder.who),
            LockError::Failed(text) => format!("{host} cannot be locked: {text}"),
        })
    }
    /// Whether it went to its end, and every action was done in the first round.
    pub fn is_complete(&self) -> bool {
        let done = self.outcomes().all(|(_, outcome)| *outcome == Outcome::Done);
        !self.crashed && self.passed.held.is_none() && self.passed.refused.is_none() && done
    }
}

/// Tells the world what each action may do when it begins.
struct Teller<'f>(&'f SimFleet);

impl Listener for Teller<'_> {
    fn hear(&self, event: &Event<'_>) {
        match event {
            Event::Begins { action, .. } => self.0.with(|world| world.begin(action)),
            Event::Over { action, .. } => self.0.with(|world| world.over(action)),
            _ => {}
        }
    }
}

impl Session {
    /// A controller of a world.
    pub fn new(fleet: SimFleet) -> Self {
        Self { fleet, ..Self::default() }
    }

    /// Follows another commit; hosts that are new get a machine.
    pub fn follow(&mut self, desired: Desired) {
        self.fleet.with(|world| world.add_missing_hosts(&desired));
        self.desired = Some(desired);
    }

    /// Looks at the world and plans; `None` before there is desired state.
    pub fn plan(&self) -> Option<Plan> {
        let desired = self.desired.as_ref()?;
        let planned =
            self.with_cast(|cast| finish(reconcile::plan_live(cast, desired, self.base.as_ref(), Policy::default())));
        planned.ok().map(|(plan, _)| plan)
    }

    fn with_cast<T>(&self, f: impl FnOnce(&Cast<'_>) -> T) -> T {
        let clock = || self.fleet.with(|world| world.now());
        let who = LockHolder { token: "sim".to_owned(), who: "the simulation".to_owned(), since: clock() };
        f(&Cast {
            observer: &self.fleet,
            actuator: &self.fleet,
            ledger: &self.fleet,
            listener: &Teller(&self.fleet),
            stop: &StopFlag::default(),
            clock: &clock,
            who,
        })
    }

    /// One pass. After a crash, the next one begins as a new process.
    ///
    /// # Errors
    /// When there is no desired state, or our own plan is unsound.
    pub fn apply(&mut self, approval: &Approval) -> Result<Applied, String> {
        let desired = self.desired.as_ref().ok_or("load a fleet first")?;
        // To know what may be done is no look at the world.
        let seen = self.fleet.with(|world| (world.hidden(), world.memory.clone()));
        if let Some(plan) = self.plan() {
            let mut permit = Permit::of(&plan);
            permit.of_fleet(desired);
            self.fleet.with(|world| {
                (world.permit, world.memory) = (permit, seen.1);
                world.hide(&seen.0);
                world.permit.gone.extend(world.memory.book.fenced.keys().cloned());
            });
        }
        let before = self.fleet.with(|world| (world.steps, world.millis));
        let passed = self.with_cast(|cast| finish(reconcile::apply(cast, desired, self.base.as_ref(), approval)))?;
        let after = self.fleet.with(|world| (world.steps, world.millis));
        let crashed = self.fleet.crashed();
        self.fleet.with(|world| {
            world.restart();
            if crashed {
                // A new process needs its time to begin; what runs without us goes on meanwhile.
                let begins = world.millis + 1_000;
                world.pass_to(begins);
            }
            world.guard_grants(passed.rounds.iter().map(|(plan, _)| plan));
            world.permit = Permit::default();
        });
        let applied = Applied { passed, steps: after.0 - before.0, millis: after.1 - before.1, crashed };
        if applied.is_complete() && applied.passed.left.is_empty() && applied.passed.left.under_way() == 0 {
            self.fleet.with(World::guard_leftovers);
        }
        Ok(applied)
    }

    /// Lets a statement of a script happen that is about the world or its people; false: it is another one.
    ///
    /// # Errors
    /// Says what it is about that is not there.
    pub fn happen(&mut self, statement: &Statement) -> Result<bool, String> {
        if let Statement::Quarantine(vm, then, who) = statement {
            let guard = self.desired.as_ref().and_then(|d| d.vms.get(vm)).and_then(|vm| vm.spec.guard.as_ref());
            let then = then.or(guard.map(|guard| guard.then)).unwrap_or(Then::Close);
            let (who, reason) = match who {
                Some(who) => (who.as_str(), "it behaves oddly"),
                None => (Quarantine::GUARD, "3 failures in a row, the last one: connection refused"),
            };
            self.fleet.with(|world| {
                let why = Quarantine { who: who.into(), reason: reason.into(), at: world.now(), then };
                let demand = &mut world.memory.demand;
                demand.releases.remove(vm);
                demand.quarantines.insert(vm.clone(), why);
            });
            return Ok(true);
        }
        if let Statement::ImageSaid(image, word, who) = statement {
            return self.said(image, *word, who).map(|()| true);
        }
        self.fleet.with(|world| happen(world, statement))
    }
}

impl Session {
    /// Notes what somebody says of an image that is made: of its recipe as it is now.
    fn said(&self, image: &Name, word: ImageWord, who: &str) -> Result<(), String> {
        let recipe = self.recipe(image).ok_or_else(|| format!("image/{image} is not made now"))?;
        self.fleet.with(|world| {
            let wish = ImageWish { recipe, who: who.into(), at: world.now() };
            let demand = &mut world.memory.demand;
            for wishes in [&mut demand.seals, &mut demand.abandoned, &mut demand.retries] {
                wishes.remove(image);
            }
            match word {
                ImageWord::Seal => demand.seals.insert(image.clone(), wish),
                ImageWord::Abandon => demand.abandoned.insert(image.clone(), wish),
                ImageWord::Retry => demand.retries.insert(image.clone(), wish),
            };
        });
        Ok(())
    }

    /// The recipe that is to be made of an image.
    fn recipe(&self, image: &Name) -> Option<Digest> {
        let desired = self.desired.as_ref()?;
        let observed = self.with_cast(|cast| finish(reconcile::observe(cast, desired, Look::default()))).ok()?;
        let desired = crate::plan::builds::resolved(std::borrow::Cow::Borrowed(desired), &observed);
        desired.images.get(image)?.made.as_ref()?.wanted.clone()
    }
}

fn happen(world: &mut World, statement: &Statement) -> Result<bool, String> {
    let at = world.now();
    let asked = |run: RunState, who: &str| Hold { run, who: who.into(), at };
    match statement {
        Statement::Host(name, size, acceleration, cpu) => {
            let host = world.add_host(name, *size);
            host.cpu = cpu.clone().unwrap_or_else(|| host.cpu.clone());
            host.acceleration = acceleration.unwrap_or(host.acceleration);
        }
        Statement::Fault(fault) => world.faults.push(fault.clone()),
        Statement::Event(event) => world.happen(event)?,
        Statement::At(after, event) => world.scheduled.push((*after, event.clone())),
        Statement::AtStage(vm, stage, event) => world.at_stages.push((vm.clone(), *stage, event.clone())),
        Statement::Drain(host, others, who) => {
            let drain = Drain { others: *others, who: who.as_str().into(), at };
            world.memory.demand.drains.insert(host.clone(), drain);
            world.memory.demand.restores.remove(host);
        }
        Statement::Restore(host, who) => {
            world.memory.demand.drains.remove(host);
            world.memory.demand.restores.insert(host.clone(), Asked { who: who.as_str().into(), at });
        }
        Statement::Controller(who) => world.change_controller(who),
        Statement::Image(digits, true) => drop(world.bad_images.remove(digits)),
        Statement::Image(digits, false) => drop(world.bad_images.insert(digits.clone())),
        Statement::Guest(vm, change) => {
            let guest = world.guest(vm);
            world.guests.insert(vm.clone(), change.of(guest));
        }
        Statement::Hold(vm, run, who) => drop(world.memory.demand.holds.insert(vm.clone(), asked(*run, who))),
        Statement::Restart(vm, who) => {
            world.memory.demand.restarts.insert(vm.clone(), asked(RunState::Started, who));
        }
        Statement::Retry(task, who) => {
            world.memory.demand.task_retries.insert(task.clone(), Asked { who: who.as_str().into(), at });
        }
        Statement::Withdraw(vm) => withdraw(world, vm)?,
        Statement::Release(vm, who) => {
            let demand = &mut world.memory.demand;
            demand.quarantines.remove(vm);
            demand.releases.insert(vm.clone(), Asked { who: who.as_str().into(), at });
        }
        Statement::Quarantine(..)
        | Statement::ImageSaid(..)
        | Statement::Load(_)
        | Statement::Plan
        | Statement::Apply(_)
        | Statement::Expect(_)
        | Statement::Show(_) => {
            return Ok(false);
        }
    }
    Ok(true)
}

fn withdraw(world: &mut World, vm: &Name) -> Result<(), String> {
    let demand = &mut world.memory.demand;
    let hold = demand.holds.remove(vm).is_some();
    let restart = demand.restarts.remove(vm).is_some();
    let drain = demand.drains.remove(vm).is_some();
    let restore = demand.restores.remove(vm).is_some();
    if hold || restart || drain || restore { Ok(()) } else { Err(format!("nothing was asked for {vm}")) }
}

/// Polls a future of the simulation to its end: it waits for nothing outside.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}
