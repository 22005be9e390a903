//! `drain` and `restore`: a host is emptied for maintenance, and gets its VMs back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::execute::{NoProgress, StopFlag};
use crate::model::{Asked, Demand, Drain, JobKind, Maintenance, Name, Observed, Others};
use crate::observe::Look;
use crate::plan::{Action, ActionId, Op, Plan, Step, Verb};
use crate::reconcile::{self, Approval};
use crate::render;
use crate::store::{Event, Store};

use super::super::args::{self, Form};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::super::fleet::{Fleet, Seen};
use super::apply::{SEEN, Troupe, answered, held, listen};
use super::plan::{make, print};

/// Passes of one drain: what fails three times is for a person to look at.
const TRIES: usize = 3;

/// A host's name, with or without `host/`.
fn host_name(fleet: &Fleet, text: &str) -> Result<Name, Failure> {
    let name = Name::new(text.strip_prefix("host/").unwrap_or(text))
        .map_err(|e| Failure::caused(format!("`{text}` is not a host"), &e))?;
    if fleet.desired.hosts.contains_key(&name) {
        Ok(name)
    } else {
        Err(super::plan::unknown(&crate::model::Address::Host(name)))
    }
}

/// What is wanted of a host.
enum Goal {
    Empty(Others),
    Back,
}

/// `drain`
pub(crate) async fn drain(context: &Context, args: &args::Drain) -> Outcome {
    let fleet = context.load(None)?;
    let host = host_name(&fleet, &args.host)?;
    let store = context.store(&fleet.desired.fleet.name)?;
    if args.abort || args.withdraw {
        if !store.in_service(&host)? {
            context.console.note(&format!("host/{host}: no drain was asked for"));
        } else {
            log(context, &store, "drain withdrawn", &host, "its drain is withdrawn; what moved stays where it is")?;
        }
        by_document(context, &fleet, &host);
        return if args.abort { abort(context, &fleet, &host).await } else { Ok(Exit::Ok) };
    }
    converge(context, &fleet, &host, &Goal::Empty(args.others.into()), args.yes, args.dry_run).await
}

/// `restore`
pub(crate) async fn restore(context: &Context, args: &args::Restore) -> Outcome {
    let fleet = context.load(None)?;
    let host = host_name(&fleet, &args.host)?;
    if matches!(fleet.desired.hosts[&host].maintenance, Maintenance::Drain(_)) {
        let origin = &fleet.desired.hosts[&host].origin;
        return Err(Failure::new(format!("the document of host/{host} says `maintenance: drain` ({origin})"))
            .hint("take that out first: a restore brings back what a drain took away"));
    }
    converge(context, &fleet, &host, &Goal::Back, args.yes, args.dry_run).await
}

fn by_document(context: &Context, fleet: &Fleet, host: &Name) {
    if matches!(fleet.desired.hosts[host].maintenance, Maintenance::Drain(_)) {
        let origin = &fleet.desired.hosts[host].origin;
        context.console.note(&format!("host/{host}: its document still says `maintenance: drain` ({origin})"));
    }
}

/// Demand as it will be once the goal is noted.
fn demanded(demand: &Demand, context: &Context, host: &Name, goal: &Goal) -> Demand {
    let mut demand = demand.clone();
    let (who, at) = (context.around.who().into(), Context::now());
    match goal {
        Goal::Empty(others) => drop(demand.drains.insert(host.clone(), Drain { others: *others, who, at })),
        Goal::Back => {
            demand.drains.remove(host);
            demand.restores.insert(host.clone(), Asked { who, at });
        }
    }
    demand
}

/// Shows what would be done, asks, notes the goal and makes passes until it is reached or nothing more moves.
async fn converge(context: &Context, fleet: &Fleet, host: &Name, goal: &Goal, yes: bool, dry_run: bool) -> Outcome {
    let stop = Arc::new(StopFlag::default());
    let _acting = context.acting().await;
    let troupe = Troupe::of(context, fleet, stop.clone())?;
    let (_, observed) = reconcile::plan_live(&troupe.cast(), &fleet.desired, None, SEEN).await.map_err(Failure::new)?;
    answered(&observed, "nothing was done")?;
    let demand = demanded(&troupe.store().demand().map_err(|e| Failure::new(e.one_line()))?, context, host, goal);
    let seen = Seen { observed, demand, source: "live".to_owned() };
    let plan = make(fleet, None, &seen, SEEN);
    let mut vms = BTreeSet::new();
    print(context, &only(&plan, &concerned(&plan, host, goal, &mut vms)), true);
    say_where(context, &seen.observed, host, goal);
    if dry_run {
        return Ok(Exit::Ok);
    }
    if !yes && !agreed(context, goal)? {
        return Err(Failure::said(Exit::Error));
    }
    note(context, troupe.store(), host, goal)?;
    let _ears = context.inside.is_none().then(|| listen(context, stop.clone()));
    let mut rounds = Vec::new();
    let mut last = None;
    for _ in 0..TRIES {
        let (plan, _) = reconcile::plan_live(&troupe.cast(), &fleet.desired, None, SEEN).await.map_err(Failure::new)?;
        let ids = concerned(&plan, host, goal, &mut vms);
        let open: Vec<&Action> = plan.actions.iter().filter(|a| ids.contains(&a.id) && !a.is_blocked()).collect();
        if open.is_empty() || stop.is_raised() {
            break;
        }
        let any = fleet.desired.fleet.approval_any_host;
        let approval = Approval::Keys(open.iter().map(|a| plan.key(a, any)).collect());
        let passed = reconcile::apply(&troupe.cast(), &fleet.desired, None, &approval).await.map_err(Failure::new)?;
        held(&passed, "what was asked is noted: whoever acts there carries it out")?;
        for (plan, mut report) in passed.rounds {
            let ids = concerned(&plan, host, goal, &mut vms);
            report.outcomes.retain(|(id, _)| ids.contains(id));
            rounds.push((only(&plan, &ids), report));
        }
        last = Some((passed.left, passed.observed));
    }
    if !rounds.is_empty() {
        context.console.out(&render::report_text(&rounds, None, &context.style(false)));
    }
    let (left, observed) = match last {
        Some(last) => last,
        None => (plan, seen.observed),
    };
    Ok(conclude(context, &left, &observed, host, goal, &mut vms))
}

fn agreed(context: &Context, goal: &Goal) -> Result<bool, Failure> {
    if context.global.output == Form::Json || !context.console.can_ask() {
        return Err(Failure::new("nobody is there to ask, so nothing was done").hint("agree with --yes"));
    }
    let question = match goal {
        Goal::Empty(_) => "drain it?",
        Goal::Back => "bring them back?",
    };
    let yes = context.console.ask(question);
    if !yes {
        context.console.note("nothing was done");
    }
    Ok(yes)
}

fn note(context: &Context, store: &Store, host: &Name, goal: &Goal) -> Result<(), Failure> {
    let (who, at) = (context.around.who().into(), Context::now());
    match goal {
        Goal::Empty(others) => {
            store.drain(host, &Drain { others: *others, who, at })?;
            log(context, store, "drained", host, "it is drained until restored or withdrawn")
        }
        Goal::Back => {
            store.restore_host(host, &Asked { who, at })?;
            log(context, store, "restored", host, "its VMs come back")
        }
    }
}

fn log(context: &Context, store: &Store, kind: &str, host: &Name, text: &str) -> Result<(), Failure> {
    context.console.note(&format!("host/{host}: {text}"));
    let text = format!("{text}, by {}", context.around.who());
    store.log(&Event { at: Context::now(), kind: kind.to_owned(), subject: format!("host/{host}"), text })?;
    Ok(())
}

/// The actions of a plan that a drain or restore of a host is about, and all that they wait for. `vms` are those that it was
/// about before: what a cut left to be settled of them, wherever they are now, belongs to it.
fn concerned(plan: &Plan, host: &Name, goal: &Goal, vms: &mut BTreeSet<Name>) -> BTreeSet<ActionId> {
    let by_id: BTreeMap<&ActionId, &Action> = plan.actions.iter().map(|a| (&a.id, a)).collect();
    let moves = |a: &Action| matches!(a.verb, Verb::Migrate | Verb::Move | Verb::Settle | Verb::Abort | Verb::Resume);
    let is_about = |a: &&Action| {
        let here = a.from.as_ref() == Some(host);
        let settles = matches!(a.verb, Verb::Settle | Verb::Resume | Verb::Start) && vms.contains(a.subject.name());
        let about = match goal {
            Goal::Empty(_) => here && (moves(a) || matches!(a.verb, Verb::Stop | Verb::Recreate | Verb::Suspend)),
            // What a drain stopped starts again.
            Goal::Back => a.to.as_ref() == Some(host) && (moves(a) || a.verb == Verb::Start),
        };
        a.subject.kind() == "vm" && (about || settles)
    };
    let mut found: BTreeSet<ActionId> = BTreeSet::new();
    let mut next: Vec<&Action> = plan.actions.iter().filter(is_about).collect();
    vms.extend(next.iter().map(|a| a.subject.name().clone()));
    while let Some(act) = next.pop() {
        if found.insert(act.id.clone()) {
            next.extend(act.after.iter().filter_map(|id| by_id.get(id).copied()));
        }
    }
    // An action that is there for the sake of one of these belongs to it, like the first leg of a detour.
    for act in &plan.actions {
        if act.reason.trigger.as_ref().is_some_and(|id| found.contains(id)) {
            found.insert(act.id.clone());
        }
    }
    let closes = |a: &&Action| a.verb == Verb::Close && a.after.iter().all(|id| found.contains(id));
    let closes: Vec<ActionId> = plan.actions.iter().filter(closes).map(|a| a.id.clone()).collect();
    found.extend(closes);
    found
}

/// A plan with some of its actions, for people.
fn only(plan: &Plan, ids: &BTreeSet<ActionId>) -> Plan {
    let mut plan = plan.clone();
    plan.actions.retain(|a| ids.contains(&a.id));
    plan.critical_path.retain(|id| ids.contains(id));
    plan.notes.clear();
    plan
}

/// The VMs that are on a host.
fn on_host<'o>(observed: &'o Observed, host: &Name) -> Vec<&'o Name> {
    let seen = observed.hosts.get(host).and_then(|o| o.known());
    seen.map(|seen| seen.vms.keys().collect()).unwrap_or_default()
}

fn say_where(context: &Context, observed: &Observed, host: &Name, goal: &Goal) {
    let count = on_host(observed, host).len();
    if matches!(goal, Goal::Empty(_)) {
        let vms = if count == 1 { "1 VM".to_owned() } else { format!("{count} VMs") };
        context.console.note(&format!("host/{host} has {vms}"));
    }
}

/// What is left, and the exit code.
fn conclude(
    context: &Context,
    left: &Plan,
    observed: &Observed,
    host: &Name,
    goal: &Goal,
    vms: &mut BTreeSet<Name>,
) -> Exit {
    let unreachable = observed.hosts.get(host).is_none_or(|o| o.known().is_none());
    if unreachable {
        context.console.note(&format!("host/{host} does not answer: nobody knows what is on it"));
        return Exit::Partial;
    }
    let ids = concerned(left, host, goal, vms);
    let open: Vec<&Action> = left.actions.iter().filter(|a| ids.contains(&a.id)).collect();
    let why = |vm: &Name| {
        let act = open.iter().find(|a| a.subject.name() == vm);
        let block = act.and_then(|a| a.blocked.first());
        let seen = observed.hosts.get(host).and_then(|o| o.known()).and_then(|h| h.vms.get(vm));
        if act.is_none() && seen.is_some_and(|v| !v.power.is_active()) {
            return format!("it does not run, and stays with its disks; `stablehand restore {host}` starts it again");
        }
        block.map_or_else(
            || "its move was not finished: the next pass goes on with it".to_owned(),
            |b| format!("{}; {}", b.text, b.unblock),
        )
    };
    match goal {
        Goal::Empty(_) => {
            let stay = on_host(observed, host);
            if stay.is_empty() {
                context
                    .console
                    .note(&format!("host/{host} is empty: its document may leave, or `stablehand restore {host}`"));
                return Exit::Ok;
            }
            for vm in stay {
                context.console.note(&format!("vm/{vm} is still on host/{host}: {}", render::clean(&why(vm))));
            }
            Exit::Partial
        }
        Goal::Back => {
            let mut exit = Exit::Ok;
            for act in open.iter().filter(|a| a.subject.kind() == "vm") {
                let vm = act.subject.name();
                context.console.note(&format!("vm/{vm} is not back on host/{host}: {}", render::clean(&why(vm))));
                exit = Exit::Partial;
            }
            exit
        }
    }
}

/// Gives up the moves that run from a host. Needs no lock: it changes no place, and whoever carries the move out sees it
/// fail.
async fn abort(context: &Context, fleet: &Fleet, host: &Name) -> Outcome {
    if let Some(inside) = &context.inside {
        inside.give_up();
    }
    let world = context.world(&fleet.desired)?;
    let observed = world.observe(&fleet.desired, Look::default()).await;
    let Some(seen) = observed.hosts.get(host).and_then(|o| o.known()) else {
        return Err(Failure::new(format!("host/{host} does not answer: its moves cannot be given up from here"))
            .hint("a move that is cut off ends by itself; `status` shows what became of it"));
    };
    let leaves = |vm: &&crate::model::VmObs| vm.job.as_ref().is_some_and(|j| j.kind == JobKind::MigrationOut);
    let mut exit = Exit::Ok;
    let mut count = 0;
    for vm in seen.vms.values().filter(leaves) {
        count += 1;
        let name = vm.stamp.vm.clone();
        let to = observed.records.get(&name).map_or_else(|| host.clone(), |r| r.host.clone());
        let op = Op::AbortJob { vm: name.clone(), uuid: vm.uuid, to };
        match world.perform(&Step { host: host.clone(), op }, &NoProgress).await {
            Ok(_) => context.console.note(&format!("vm/{name}: its move is given up, it runs on host/{host}")),
            Err(error) => {
                context.console.note(&format!("vm/{name}: {}", render::clean(&error.to_string())));
                exit = Exit::Partial;
            }
        }
    }
    if count == 0 {
        context.console.note(&format!("host/{host}: no move runs"));
    }
    Ok(exit)
}
