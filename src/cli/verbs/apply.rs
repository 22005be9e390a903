//! `apply`: carries a plan out. What it may do is bound to what a person saw.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::execute::{LockError, StopFlag};
use crate::model::{LockHolder, Name, Observation, Observed, Timestamp};
use crate::plan::{Action, ActionId, Plan, Policy, Verb};
use crate::reconcile::{self, Approval, Cast, Ledger as _, Passed};
use crate::render::{self, Tally};
use crate::store::{self, Store};

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::super::fleet::{Fleet, World};
use super::super::progress::Teller;
use super::plan::{print, saved};

/// Those who take part in a pass, kept together for as long as it lasts.
pub(crate) struct Troupe {
    world: Arc<dyn World>,
    store: Arc<Store>,
    teller: Teller,
    stop: Arc<StopFlag>,
    who: LockHolder,
    clock: fn() -> Timestamp,
}

impl Troupe {
    /// Opens what a pass of this fleet needs.
    pub(crate) fn of(context: &Context, fleet: &Fleet, stop: Arc<StopFlag>) -> Result<Self, Failure> {
        context.same_place()?;
        let store = context.store(&fleet.desired.fleet.name)?;
        let world = context.world(&fleet.desired)?;
        let who = context.around.process();
        let board = context.inside.as_ref().map(|inside| inside.board.clone()).unwrap_or_default();
        let teller = Teller::new(context.console.clone(), store.clone(), &fleet.desired, who.clone(), board);
        let who = LockHolder { token: token(), who, since: Context::now() };
        Ok(Self { world, store, teller, stop, who, clock: Context::now })
    }
    /// The store.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
    /// As `reconcile` wants them.
    pub(crate) fn cast(&self) -> Cast<'_> {
        Cast {
            observer: &*self.world,
            actuator: &*self.world,
            ledger: &*self.store,
            listener: &self.teller,
            stop: &self.stop,
            clock: &self.clock,
            who: self.who.clone(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a lock's token names this process and nothing that lasts")]
fn token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// A person saw the plan: what waits because the store was lost may go on.
pub(super) const SEEN: Policy = Policy { store_loss_accepted: true };

/// `apply`
pub(crate) async fn apply(context: &Context, args: &args::Apply) -> Outcome {
    let fleet = context.load(None)?;
    let stop = Arc::new(StopFlag::default());
    let _acting = context.acting().await;
    let troupe = Troupe::of(context, &fleet, stop.clone())?;
    let planned = reconcile::plan_live(&troupe.cast(), &fleet.desired, None, SEEN).await;
    let (plan, observed) = planned.map_err(Failure::new)?;
    answered(&observed, "nothing was done")?;
    if plan.is_empty() {
        troupe.store.whole(&plan.head, Context::now()).map_err(Failure::new)?;
        match context.global.output {
            Form::Json => json(context, &plan, Tally::default(), &plan),
            _ => print(context, &plan, false),
        }
        return Ok(Exit::Ok);
    }
    if context.global.output == Form::Text {
        print(context, &plan, false);
    }
    let (approval, used) = approval(context, args, &fleet, &troupe.store, &plan)?;
    let _ears = context.inside.is_none().then(|| listen(context, stop));
    carry_out(context, &fleet, &troupe, &approval, used.as_deref()).await
}

/// The result for programs.
fn json(context: &Context, plan: &Plan, tally: Tally, left: &Plan) {
    let value = serde_json::json!({
        "effects": plan.effects, "done": tally.done, "failed": tally.failed, "notDone": tally.not_done, "left": left,
    });
    context.console.out(&format!("{}\n", serde_json::to_string_pretty(&value).unwrap_or_default()));
}

/// Fails when not one host answers, and says why each does not: who else acts there, most often.
pub(super) fn answered(observed: &Observed, consequence: &str) -> Result<(), Failure> {
    let faults = observed.hosts.iter().filter_map(|(host, o)| match o {
        Observation::Unknown(fault) => Some(format!("host `{host}`: {}", render::clean(&fault.text))),
        _ => None,
    });
    let faults: Vec<String> = faults.collect();
    if faults.is_empty() || faults.len() < observed.hosts.len() {
        return Ok(());
    }
    let hint = if faults.iter().any(|fault| fault.contains("is open in")) {
        "`stablehand watch` serves the other verbs while it acts; any other holder has to end first"
    } else {
        "does its libvirtd run? `stablehand doctor` looks at this machine"
    };
    let what = format!("{consequence}, as no host answers\n{}", faults.join("\n"));
    Err(Failure::new(what).exit(Exit::Stale).hint(hint))
}

/// What may be done: by a saved plan, an effects hash, `--yes`, or a person's answer; and the effects whose approval is
/// used up by it.
fn approval(
    context: &Context,
    args: &args::Apply,
    fleet: &Fleet,
    store: &Store,
    plan: &Plan,
) -> Result<(Approval, Option<String>), Failure> {
    if let Some(file) = &args.plan {
        let approved = saved(context, file)?;
        return Ok((from_saved(context, &approved, fleet, store)?, Some(approved.effects)));
    }
    if let Some(effects) = &args.effects {
        return Ok((from_hash(context, effects, plan, store)?, Some(effects.clone())));
    }
    if args.yes {
        return Ok((Approval::Everything, None));
    }
    if !context.console.can_ask() {
        return Err(Failure::new("nobody is there to ask, so nothing was done")
            .hint("approve with --yes, --plan FILE or --effects HASH"));
    }
    if context.console.ask("apply this plan?") {
        // Bound to what was read: a world that moves meanwhile is refused, not guessed at.
        Ok((Approval::Hash(plan.effects.clone()), None))
    } else {
        context.console.note("nothing was done");
        Err(Failure::said(Exit::Error))
    }
}

/// The error of a world that is not what was approved.
fn moved(is: &str, was: &str) -> Failure {
    Failure::new(format!(
        "nothing was done: the world is not as the approved plan saw it; the effects are {is} now, approved were {was}"
    ))
    .hint("look at the new plan: stablehand plan")
}

/// An effects hash approves these effects, for the fleet's revision, once in a day.
fn from_hash(context: &Context, effects: &str, plan: &Plan, store: &Store) -> Result<Approval, Failure> {
    if *effects != plan.effects {
        return Err(moved(&plan.effects, effects));
    }
    let (now, revision) = (Context::now(), plan.head.clone());
    let yes = store::Approval { effects: effects.to_owned(), revision, who: context.around.who(), at: now };
    let used = store.was_used(effects, &plan.head, now)?;
    if used.is_some() || !store.approve_once(&yes, now)? {
        let at = used.map(|at| format!(", on {}", render::moment(at))).unwrap_or_default();
        return Err(Failure::new(format!("{effects} was approved and used already, for this revision{at}"))
            .hint("a plan made anew approves again: stablehand plan --out FILE, then apply --plan FILE"));
    }
    Ok(Approval::Hash(effects.to_owned()))
}

/// A saved plan approves its effects for its revision, once, for a day.
fn from_saved(context: &Context, approved: &Plan, fleet: &Fleet, store: &Store) -> Result<Approval, Failure> {
    let again = "make and review a new plan: stablehand plan --out FILE";
    let desired = &fleet.desired;
    if approved.fleet != desired.fleet.name {
        return Err(Failure::new(format!(
            "the plan is for fleet `{}`, this is `{}`",
            approved.fleet, desired.fleet.name
        )));
    }
    if approved.head != desired.revision {
        let (was, is) = (render::short_revision(&approved.head), render::short_revision(&desired.revision));
        return Err(Failure::new(format!("the plan was made for revision {was}, the fleet is at {is}")).hint(again));
    }
    let now = Context::now();
    if now.since(approved.inputs.now) > store::APPROVAL_TIME {
        let at = render::moment(approved.inputs.now);
        return Err(Failure::new(format!("the plan was made {at}: an approval holds for 24 hours")).hint(again));
    }
    let yes = store::Approval {
        effects: approved.effects.clone(),
        revision: approved.head.clone(),
        who: context.around.who(),
        at: approved.inputs.now,
    };
    if !store.approve_once(&yes, now)? {
        return Err(Failure::new("this approval was used already").hint(again));
    }
    let any = desired.fleet.approval_any_host;
    Ok(Approval::Keys(approved.keys(any)))
}

/// Runs the pass and says what came of it.
async fn carry_out(
    context: &Context,
    fleet: &Fleet,
    troupe: &Troupe,
    approval: &Approval,
    used: Option<&str>,
) -> Outcome {
    let passed = reconcile::apply(&troupe.cast(), &fleet.desired, None, approval).await.map_err(Failure::new)?;
    if let Some(effects) = used
        && (passed.held.is_some() || passed.refused.is_some())
    {
        troupe.store.give_back(effects, &fleet.desired.revision)?;
    }
    held(&passed, "wait for it to end, or ask who it is; a lock goes with its process")?;
    if let Some(why) = &passed.refused {
        return Err(Failure::new(format!("nothing was done: the world is not as the approved plan saw it; {why}"))
            .hint("look at the new plan: stablehand plan"));
    }
    let tally = render::tally(&passed.rounds);
    if context.global.output == Form::Json {
        json(context, &passed.plan, tally, &passed.left);
    } else {
        let report = render::report_text(&passed.rounds, Some(&passed.left), &context.style(false));
        context.console.out(&format!("\n{report}"));
    }
    Ok(exit(tally))
}

/// Fails when somebody else acts, and says who.
pub(super) fn held(passed: &Passed, hint: &str) -> Result<(), Failure> {
    match &passed.held {
        Some((host, error)) => {
            let error = match error {
                LockError::Held(other) => format!("{} acts there since {}", other.who, render::moment(other.since)),
                LockError::Failed(why) => why.clone(),
            };
            let error = render::clean(&error);
            Err(Failure::new(format!("nothing was done on host `{host}`: {error}")).hint(hint))
        }
        None => Ok(()),
    }
}

fn exit(tally: Tally) -> Exit {
    match tally {
        Tally { failed: 0, not_done: 0, .. } => Exit::Ok,
        Tally { done: 0, failed: 1.., begun: 0, .. } => Exit::Error,
        _ => Exit::Partial,
    }
}

/// Carries out what demand by hand changes about these VMs, and nothing else.
pub(crate) async fn after_demand(context: &Context, fleet: &Fleet, vms: &[Name]) -> Outcome {
    // What tasks do inside them has an order of its own.
    let ours = |a: &Action| a.subject.kind() == "vm" && a.verb != Verb::Run && vms.contains(a.subject.name());
    after_demand_of(context, fleet, |a| ours(a) && !a.impact.class.is_destructive()).await
}

/// Carries out what demand by hand changes about these subjects, and nothing else.
pub(crate) async fn after_demand_of(context: &Context, fleet: &Fleet, ours: impl Fn(&Action) -> bool) -> Outcome {
    let stop = Arc::new(StopFlag::default());
    let _acting = context.acting().await;
    let troupe = Troupe::of(context, fleet, stop.clone())?;
    let planned = reconcile::plan_live(&troupe.cast(), &fleet.desired, None, SEEN).await;
    let (plan, observed) = planned.map_err(Failure::new)?;
    answered(&observed, "nothing was done")?;
    let mut wanted: Vec<&Action> = plan.actions.iter().filter(|a| ours(a)).collect();
    if wanted.is_empty() {
        context.console.note("nothing is to be done for it");
        return Ok(Exit::Ok);
    }
    // Their rules come before them.
    let waits = |a: &Action, id: &ActionId| a.after.contains(id);
    // Of a quarantine, also those of its peers, which nothing waits for.
    let of_quarantine = |f: &Action| matches!(&*f.reason.code, "quarantine" | "release");
    let filters = plan.actions.iter().filter(|f| f.is_filter());
    let filters = filters.filter(|f| of_quarantine(f) || wanted.iter().any(|a| waits(a, &f.id)));
    let filters: Vec<&Action> = filters.collect();
    wanted.extend(filters);
    let any = fleet.desired.fleet.approval_any_host;
    let approval = Approval::Keys(wanted.iter().map(|a| plan.key(a, any)).collect());
    let ids: BTreeSet<_> = wanted.iter().map(|a| a.id.clone()).collect();
    let _ears = context.inside.is_none().then(|| listen(context, stop));
    let mut passed = reconcile::apply(&troupe.cast(), &fleet.desired, None, &approval).await.map_err(Failure::new)?;
    held(&passed, "what was asked is noted: whoever acts there carries it out")?;
    // Only these VMs are spoken of: what else the fleet needs is another apply's business.
    for (plan, report) in &mut passed.rounds {
        plan.actions.retain(|a| ids.contains(&a.id));
        report.outcomes.retain(|(id, _)| ids.contains(id));
    }
    context.console.out(&render::report_text(&passed.rounds, None, &context.style(false)));
    Ok(exit(render::tally(&passed.rounds)))
}

/// Listens to SIGINT and SIGTERM while it lives: the first stops between steps, the second ends the process.
pub(super) struct Ears(tokio::task::JoinHandle<()>);

impl Drop for Ears {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn listen(context: &Context, stop: Arc<StopFlag>) -> Ears {
    use tokio::signal::unix::{SignalKind, signal};
    let console = context.console.clone();
    Ears(tokio::spawn(async move {
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !first {
                std::process::exit(130);
            }
            console.note("stopping between steps; once more to stop at once (the next apply goes on)");
            stop.raise();
        }
    }))
}
