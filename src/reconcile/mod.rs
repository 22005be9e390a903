//! One pass over all of it: observe, plan, carry out, observe again, verify.
//!
//! *Takes* desired state, an observer, an actuator, a ledger and an approval. *Gives* what was planned, what was done,
//! and what is left. *Never* decides about a VM: that is the plan's.

mod durable;
mod hosts;

use std::collections::{BTreeMap, BTreeSet};

use crate::execute::{Actuator, HostLimits, Journal, Listener, LockError, Outcome, Report, Run, StopFlag, run};
use crate::model::{
    Book, Demand, Desired, LockHolder, Name, Observed, OnFailure, PlacementRecord, StoreState, Timestamp,
};
use crate::observe::{Look, Observer};
use crate::plan::{self, ActionId, Plan, PlanInput, Policy, Verb};

/// What outlives a pass: counters of limits, demand, times of boots, the journal. Implemented by `store` and in memory.
pub trait Ledger: Journal {
    /// Demand as it stands.
    ///
    /// # Errors
    /// When it cannot be read.
    fn demand(&self) -> Result<Demand, String>;
    /// Counters and past boots. `stamps`: whether hosts carry stamps of this fleet.
    ///
    /// # Errors
    /// When it cannot be read.
    fn state(&self, stamps: bool, now: Timestamp) -> Result<StoreState, String>;
    /// An action on a VM was carried out.
    ///
    /// # Errors
    /// When it cannot be written.
    fn carried_out(&self, verb: Verb, vm: &Name, now: Timestamp) -> Result<(), String>;
    /// Placement records as they were last seen on each host: the proof that an Unknown host has a VM, or never got it.
    ///
    /// # Errors
    /// When they cannot be read.
    fn records(&self) -> Result<BTreeMap<Name, PlacementRecord>, String>;
    /// Remembers placement records, in place of all before.
    ///
    /// # Errors
    /// When they cannot be written.
    fn remember(&self, records: &BTreeMap<Name, PlacementRecord>) -> Result<(), String>;
    /// What is remembered of hosts.
    ///
    /// # Errors
    /// When it cannot be read.
    fn book(&self) -> Result<Book, String>;
    /// Remembers what is known of hosts, in place of what was before.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep_book(&self, book: &Book) -> Result<(), String>;
    /// The VMs of a host that should come back did.
    ///
    /// # Errors
    /// When it cannot be written.
    fn restored(&self, host: &Name) -> Result<(), String>;
    /// What was asked about the quarantine of a VM is so: its stamp says it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn quarantine_settled(&self, vm: &Name) -> Result<(), String>;
    /// A plan was approved after the store had been lost, or a pass was complete: the store is whole again.
    ///
    /// # Errors
    /// When it cannot be written.
    fn whole(&self, revision: &str, now: Timestamp) -> Result<(), String>;
}

/// What may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Everything that the plan does not block: a person read it and said yes.
    Everything,
    /// Only if the plan's effects hash is this one.
    Hash(String),
    /// Only actions with these effect keys: less when the world moved on, never more.
    Keys(BTreeSet<String>),
    /// An unattended watch: what a reviewed commit asks for, and all healing that destroys nothing. What would
    /// destroy something without a commit that asks for it waits for a person.
    Unattended,
}

/// The world and all who take part in a pass.
pub struct Cast<'c> {
    /// Asks the world.
    pub observer: &'c dyn Observer,
    /// Changes the world.
    pub actuator: &'c dyn Actuator,
    /// Remembers.
    pub ledger: &'c dyn Ledger,
    /// Hears what happens.
    pub listener: &'c dyn Listener,
    /// May stop it between steps.
    pub stop: &'c StopFlag,
    /// The clock.
    pub clock: &'c (dyn Fn() -> Timestamp + Send + Sync),
    /// Who we are, for locks.
    pub who: LockHolder,
}

/// How a pass ended.
#[derive(Debug)]
pub struct Passed {
    /// What was planned first: what the person approved.
    pub plan: Plan,
    /// What was done, one report a round: a round more where the world was not as the plan saw it.
    pub rounds: Vec<(Plan, Report)>,
    /// What is still to do, from a fresh look.
    pub left: Plan,
    /// Hosts that somebody else acts on, with who: nothing was done there, nor anywhere.
    pub held: Option<(Name, LockError)>,
    /// Set when the approval did not fit the plan any more: nothing was done.
    pub refused: Option<String>,
    /// The last look, with readiness.
    pub observed: Observed,
}

/// Most rounds of a pass: the first, and two more where outcomes were unknown or the world moved.
const ROUNDS: usize = 3;

/// Observes hosts and adds what the ledger knows.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn observe(cast: &Cast<'_>, desired: &Desired, look: Look) -> Result<Observed, String> {
    let mut observed = cast.observer.observe(desired, look).await;
    // A host that cannot be asked may carry stamps: a store that is new must not be taken for a fleet that is.
    let blind = observed.hosts.values().any(|h| h.known().is_none());
    let stamps = observed.hosts.values().filter_map(|h| h.known()).any(|h| !h.vms.is_empty() || !h.disks.is_empty());
    let stamps = stamps || blind;
    let remembered = cast.ledger.records()?;
    recall(&mut observed, &remembered);
    if remembered != observed.records {
        cast.ledger.remember(&observed.records)?;
    }
    observed.store = cast.ledger.state(stamps, (cast.clock)())?;
    hosts::remember(cast, desired, &mut observed)?;
    if !look.probe && plan::wants_probes(desired, &observed) {
        return Box::pin(observe(cast, desired, Look { probe: true })).await;
    }
    Ok(observed)
}

/// Adds what is remembered of hosts that could not be asked, or that have no document any more.
pub fn recall(observed: &mut Observed, remembered: &BTreeMap<Name, PlacementRecord>) {
    for (vm, record) in remembered {
        let asked = observed.hosts.get(&record.host).is_some_and(|h| h.known().is_some());
        if asked {
            continue;
        }
        // What a host says that was not there when the VM moved on is older than what is remembered.
        let newest = match observed.records.remove(vm) {
            Some(seen) => seen.newer(record.clone()),
            None => record.clone(),
        };
        observed.records.insert(vm.clone(), newest);
    }
}

/// Plans against the world as it is.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn plan_live(
    cast: &Cast<'_>,
    desired: &Desired,
    base: Option<&Desired>,
    policy: Policy,
) -> Result<(Plan, Observed), String> {
    look_and_plan(cast, desired, base, policy, Look::default()).await
}

async fn look_and_plan(
    cast: &Cast<'_>,
    desired: &Desired,
    base: Option<&Desired>,
    policy: Policy,
    look: Look,
) -> Result<(Plan, Observed), String> {
    let observed = observe(cast, desired, look).await?;
    let demand = cast.ledger.demand()?;
    let now = (cast.clock)();
    let input = PlanInput { base, desired, demand: &demand, observed: &observed, source: "live", now, policy };
    Ok((plan::plan(&input), observed))
}

/// One pass: takes the locks, observes, plans, carries out what the approval covers, observes again.
///
/// # Errors
/// When the ledger fails or our own plan is unsound; nothing was done then.
pub async fn apply(
    cast: &Cast<'_>,
    desired: &Desired,
    base: Option<&Desired>,
    approval: &Approval,
) -> Result<Passed, String> {
    let policy = Policy { store_loss_accepted: *approval != Approval::Unattended };
    // The first look opens connections: a host that does not answer cannot be locked, nor changed.
    let (first, observed) = plan_live(cast, desired, base, policy).await?;
    let mut passed =
        Passed { plan: first.clone(), rounds: Vec::new(), left: first, held: None, refused: None, observed };
    let mut locked = BTreeSet::new();
    let first = lock_seen(cast, &passed.observed, &mut locked).await;
    let result = match first {
        Ok(_) => rounds(cast, desired, base, approval, policy, &mut passed, &mut locked).await,
        Err(held) => {
            passed.held = Some(held);
            Ok(())
        }
    };
    for host in &locked {
        cast.actuator.unlock(host).await;
    }
    result.map(|()| passed)
}

/// Locks the hosts that were seen and are not locked yet: whether there were any.
async fn lock_seen(
    cast: &Cast<'_>,
    observed: &Observed,
    locked: &mut BTreeSet<Name>,
) -> Result<bool, (Name, LockError)> {
    let before = locked.len();
    for (host, _) in observed.hosts.iter().filter(|(_, h)| h.known().is_some()) {
        if locked.contains(host) {
            continue;
        }
        cast.actuator.lock(host, &cast.who).await.map_err(|error| (host.clone(), error))?;
        locked.insert(host.clone());
    }
    Ok(locked.len() > before)
}

/// Looks and plans under the locks. A host that answers only now is locked too, and looked at once more: what was seen
/// before may be another controller's work in the middle.
async fn plan_locked(
    cast: &Cast<'_>,
    desired: &Desired,
    base: Option<&Desired>,
    policy: Policy,
    locked: &mut BTreeSet<Name>,
) -> Result<Result<Plan, (Name, LockError)>, String> {
    loop {
        // Hosts only join, so that this ends.
        let (plan, observed) = plan_live(cast, desired, base, policy).await?;
        match lock_seen(cast, &observed, locked).await {
            Ok(false) => return Ok(Ok(plan)),
            Ok(true) => {}
            Err(held) => return Ok(Err(held)),
        }
    }
}

async fn rounds(
    cast: &Cast<'_>,
    desired: &Desired,
    base: Option<&Desired>,
    approval: &Approval,
    policy: Policy,
    passed: &mut Passed,
    locked: &mut BTreeSet<Name>,
) -> Result<(), String> {
    let (mut round, mut tries) = (0, 0);
    while tries < ROUNDS {
        // Under the lock the world is looked at again: what was planned before may be done already.
        let plan = match plan_locked(cast, desired, base, policy, locked).await? {
            Ok(plan) => plan,
            Err(held) if round == 0 => {
                passed.held = Some(held);
                return Ok(());
            }
            // What was begun is done as far as it went; the rest is for the next pass.
            Err(_) => break,
        };
        let wrong = plan::check::check(&plan);
        if let Some(first) = wrong.first() {
            return Err(format!("our own plan is unsound, nothing was done: {first}"));
        }
        if round == 0 {
            passed.plan = plan.clone();
            if let Approval::Hash(hash) = approval
                && plan.effects != *hash
                && !plan.is_empty()
            {
                passed.refused = Some(format!("the effects are {} now, approved were {hash}", plan.effects));
                passed.left = plan;
                return Ok(());
            }
        }
        let approved = approved(&plan, approval, desired, round, &passed.plan);
        let report = run(Run {
            plan: &plan,
            actuator: cast.actuator,
            journal: cast.ledger,
            limits: limits(desired),
            approved: approved.as_ref(),
            listener: cast.listener,
            stop: cast.stop,
        })
        .await;
        note_done(cast, &plan, &report)?;
        // What ran on a host that was fenced may be started elsewhere at once.
        let fenced = plan.actions.iter().zip(&report.outcomes);
        let fenced = fenced.filter(|(a, _)| a.verb == Verb::Fence).any(|(_, (_, outcome))| *outcome == Outcome::Done);
        let again = report.may_retry() || fenced || goes_back(&plan, &report, desired);
        // What was sealed in this round is used in the next one; it is there then, so that this ends.
        let sealed = sealed(&plan, &report);
        passed.rounds.push((plan, report));
        if !(again || sealed) || cast.stop.is_raised() {
            break;
        }
        round += 1;
        tries += usize::from(!sealed);
    }
    (passed.left, passed.observed) = look_and_plan(cast, desired, base, policy, Look { probe: true }).await?;
    cast.observer.trust_filters(&settled_filters(passed)).await;
    let failed = passed.rounds.last().is_some_and(|(_, r)| r.has_failures());
    if *approval != Approval::Unattended || (!failed && passed.left.is_empty()) {
        cast.ledger.whole(&desired.revision, (cast.clock)())?;
    }
    Ok(())
}

/// Whether a generation was made.
fn sealed(plan: &Plan, report: &Report) -> bool {
    let done = |(act, (_, outcome)): (&plan::Action, &(ActionId, Outcome))| {
        act.verb == Verb::Build && *outcome == Outcome::Done
    };
    plan.actions.iter().zip(&report.outcomes).any(done)
}

/// Hosts whose packet filters were seen, and of which the plan wants nothing more.
fn settled_filters(passed: &Passed) -> Vec<Name> {
    let wanted = |host: &Name| passed.left.actions.iter().any(|a| a.is_filter() && a.subject.name() == host);
    let seen = passed.observed.hosts.iter().filter(|(_, host)| host.known().is_some_and(|h| h.filter.is_some()));
    seen.map(|(host, _)| host).filter(|host| !wanted(host)).cloned().collect()
}

/// Whether a roll failed that goes back after a failure: the next round takes it back.
fn goes_back(plan: &Plan, report: &Report, desired: &Desired) -> bool {
    let failed = |(act, (_, outcome)): (&plan::Action, &(ActionId, Outcome))| {
        let image = act.roll.as_ref().and_then(|name| desired.images.get(name));
        let back = image.is_some_and(|i| i.rollout.on_failure == OnFailure::Rollback);
        back && matches!(outcome, Outcome::Failed { .. })
    };
    plan.rolls.iter().any(|r| !r.back) && plan.actions.iter().zip(&report.outcomes).any(failed)
}

/// How much may run at once, as the documents say.
fn limits(desired: &Desired) -> HostLimits {
    let at_least_one = |n: u32| usize::try_from(n.max(1)).unwrap_or(1);
    let limits = desired.fleet.limits;
    HostLimits {
        actions: at_least_one(limits.actions_per_host),
        starts: at_least_one(limits.starts_per_host),
        moves: desired.hosts.values().map(|h| (h.name.clone(), at_least_one(h.migration.at_once))).collect(),
        moves_per_link: at_least_one(limits.moves_per_link),
    }
}

/// The actions that an approval covers; `None`: all.
fn approved(
    plan: &Plan,
    approval: &Approval,
    desired: &Desired,
    round: usize,
    first: &Plan,
) -> Option<BTreeSet<ActionId>> {
    let any_host = desired.fleet.approval_any_host;
    let with_keys = |keys: &BTreeSet<String>| {
        plan.actions.iter().filter(|a| plan.covers(keys, a, any_host)).map(|a| a.id.clone()).collect()
    };
    match approval {
        Approval::Everything | Approval::Hash(_) if round == 0 => None,
        Approval::Everything | Approval::Hash(_) => {
            // A later round finishes what was begun: nothing on a VM that the approved plan left alone, nothing worse.
            // What the approved plan blocked was not approved; of several actions on one VM, the worst counts.
            let mut classes: BTreeMap<_, plan::Class> = BTreeMap::new();
            for act in first.actions.iter().filter(|a| !a.is_blocked()) {
                let class = classes.entry(act.subject.clone()).or_insert(act.impact.class);
                *class = act.impact.class.min(*class);
            }
            // To fence a host is to let its VMs be made elsewhere, or go on where they came from: they stood there as
            // blocked by it.
            let fences = first.actions.iter().any(|a| a.verb == Verb::Fence && !a.is_blocked());
            let unknown = |a: &&plan::Action| a.blocked.iter().any(|b| b.by == plan::BlockedBy::UnknownState);
            let made = |a: &&plan::Action| matches!(a.verb, Verb::Create | Verb::Settle);
            let freed = first.actions.iter().filter(|a| fences && made(a)).filter(unknown);
            classes.extend(freed.map(|a| (a.subject.clone(), plan::Class::Create)));
            // What comes after a generation is sealed was part of what was seen, under its name.
            let promised: BTreeSet<String> = first.promised().collect();
            let ok = |a: &&plan::Action| {
                if !promised.is_empty() && plan.covers(&promised, a, any_host) {
                    return true;
                }
                let harmless = !(a.impact.class.is_destructive() || a.impact.class.is_disruptive());
                classes.get(&a.subject).is_some_and(|c| harmless || a.impact.class >= *c)
                    || (a.subject.kind() != "vm" && a.verb != Verb::Fence)
            };
            Some(plan.actions.iter().filter(ok).map(|a| a.id.clone()).collect())
        }
        Approval::Keys(keys) => Some(with_keys(keys)),
        Approval::Unattended => {
            let ok = |a: &&plan::Action| !(a.impact.class.is_destructive() && a.cause == plan::Cause::Drift);
            Some(plan.actions.iter().filter(ok).map(|a| a.id.clone()).collect())
        }
    }
}

fn note_done(cast: &Cast<'_>, plan: &Plan, report: &Report) -> Result<(), String> {
    let now = (cast.clock)();
    for (act, (_, outcome)) in plan.actions.iter().zip(&report.outcomes) {
        // What failed at its first step disturbed nobody, and does not count against a limit. Neither does a move that
        // failed later: its guest is where it was, and the try that ends it counts.
        let moves = matches!(act.verb, Verb::Migrate | Verb::Move);
        let disturbed = matches!(outcome, Outcome::Failed { step, .. } if *step > 0) && !moves;
        let begun = matches!(outcome, Outcome::Done) || disturbed;
        if begun && act.subject.kind() == "vm" {
            cast.ledger.carried_out(act.verb, act.subject.name(), now)?;
        }
    }
    hosts::note(cast, plan, report)
}
