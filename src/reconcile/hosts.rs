//! What a pass remembers of hosts: when each was last Known, which were fenced, whose VMs a drain took away.

use super::Cast;
use crate::execute::{Outcome, Report, StepError};
use crate::model::{
    Book, Demand, Desired, Fenced, Maintenance, Missing, Name, Observation, Observed, PauseCause, Readiness, Timestamp,
    Tries, Unready,
};
use crate::plan::{Action, Op, Plan, Step, Verb};

/// Brings the book up to date with what was seen, and tells the planner what it holds.
///
/// # Errors
/// When the ledger cannot be read or written.
pub(super) fn remember(cast: &Cast<'_>, desired: &Desired, observed: &mut Observed) -> Result<(), String> {
    let before = cast.ledger.book()?;
    let mut book = before.clone();
    let now = (cast.clock)();
    // To the minute: a book that changed at every look would be written at every look.
    let minute = Timestamp(now.0 / 60 * 60);
    for (name, host) in &mut observed.hosts {
        match host {
            Observation::Known(seen) => {
                let pinned = desired.hosts.get(name).and_then(|h| h.uuid);
                if pinned.is_some_and(|uuid| uuid != seen.uuid) {
                    // Another machine answers at its address: that says nothing of it.
                    continue;
                }
                book.seen.insert(name.clone(), minute);
                book.missing.remove(name);
                book.fenced.remove(name);
                let made = seen.images.values().filter_map(|image| image.note.as_ref()?.made.as_ref());
                book.sealed.insert(name.clone(), made.map(|made| made.recipe.clone()).collect());
            }
            Observation::Unknown(fault) => {
                fault.since = book.seen.get(name).copied();
                let watched = |at: Timestamp| now.since(at) < Missing::GAP;
                let missed = book.missing.get(name).filter(|m| watched(m.at)).map(|m| m.since);
                // It answered at some moment of that minute.
                let since = missed.or(fault.since.filter(|s| watched(*s)).map(|s| Timestamp(s.0 + 59).min(now)));
                book.missing.insert(name.clone(), Missing { since: since.unwrap_or(now), at: minute });
            }
            Observation::Absent => {}
        }
    }
    book.missing.retain(|name, _| desired.hosts.contains_key(name));
    let demand = cast.ledger.demand()?;
    for (host, seen) in observed.hosts.iter().filter_map(|(name, o)| o.known().map(|seen| (name, seen))) {
        if is_draining(desired, &demand, host) {
            for vm in seen.vms.keys() {
                book.homes.entry(vm.clone()).or_insert_with(|| host.clone());
            }
        }
    }
    settle_quarantines(cast, &demand, observed)?;
    let at = |vm: &Name, host: &Name| {
        // What arrives, or was left behind at a hand-over, is not there: a restore that is under way is not over.
        let there = observed.hosts.get(host).and_then(|o| o.known()).and_then(|seen| seen.vms.get(vm));
        there.is_some_and(|vm| !vm.transient && vm.pause != Some(PauseCause::Migration))
    };
    book.homes.retain(|vm, home| {
        let back = at(vm, home) && !is_draining(desired, &demand, home);
        desired.hosts.contains_key(home) && desired.vms.contains_key(vm) && !back
    });
    for host in demand.restores.keys() {
        if !book.homes.values().any(|home| home == host) {
            cast.ledger.restored(host)?;
        }
    }
    book.tries.retain(|_, tries| now.since(tries.at) < Tries::FORGOTTEN);
    observed.store.tries.clone_from(&book.tries);
    let still = |vm: &Name, unready: &Unready| {
        let seen = observed.hosts.values().filter_map(Observation::known).find_map(|h| h.vms.get(vm));
        // Where it cannot be seen, nothing new is known of it.
        seen.is_none_or(|obs| obs.stamp.image.as_ref() == Some(&unready.digest) && obs.ready != Readiness::Ready)
    };
    book.unready.retain(|vm, unready| desired.vms.contains_key(vm) && still(vm, unready));
    observed.store.unready.clone_from(&book.unready);
    book.unmade.retain(|image, _| desired.images.contains_key(image));
    observed.store.unmade.clone_from(&book.unmade);
    book.sealed.retain(|host, recipes| desired.hosts.contains_key(host) && !recipes.is_empty());
    let dark = |host: &Name| observed.hosts.get(host).is_none_or(|seen| seen.known().is_none());
    observed.store.sealed = book.sealed.clone().into_iter().filter(|(host, _)| dark(host)).collect();
    observed.store.links = book.links();
    observed.store.fenced.clone_from(&book.fenced);
    observed.store.missing = book.missing.iter().map(|(name, m)| (name.clone(), m.since)).collect();
    if book != before {
        cast.ledger.keep_book(&book)?;
    }
    Ok(())
}

/// What was asked about quarantine is forgotten when every stamp that is seen of the VM says so.
fn settle_quarantines(cast: &Cast<'_>, demand: &Demand, observed: &Observed) -> Result<(), String> {
    let stamps = |vm: &Name| {
        let hosts = observed.hosts.values().filter_map(Observation::known);
        hosts.filter_map(|host| host.vms.get(vm)).map(|obs| obs.stamp.quarantine.as_ref()).collect::<Vec<_>>()
    };
    for (vm, why) in &demand.quarantines {
        let seen = stamps(vm);
        if !seen.is_empty() && seen.iter().all(|stamp| *stamp == Some(why)) {
            cast.ledger.quarantine_settled(vm)?;
        }
    }
    for vm in demand.releases.keys() {
        let seen = stamps(vm);
        if !seen.is_empty() && seen.iter().all(Option::is_none) {
            cast.ledger.quarantine_settled(vm)?;
        }
    }
    Ok(())
}

/// Remembers what a report says of hosts and moves: fenced hosts, moves that failed.
///
/// # Errors
/// When the ledger cannot be read or written.
pub(super) fn note(cast: &Cast<'_>, plan: &Plan, report: &Report) -> Result<(), String> {
    let mut book = cast.ledger.book()?;
    let before = book.clone();
    let now = (cast.clock)();
    for (act, (_, outcome)) in plan.actions.iter().zip(&report.outcomes) {
        let name = act.subject.name();
        readiness(plan, act, outcome, now, &mut book);
        making(plan, act, outcome, now, &mut book);
        match (act.verb, outcome) {
            (Verb::Fence, Outcome::Done) => {
                let evidence = act.steps.iter().find_map(|s| match &s.op {
                    Op::Fence { command, .. } => Some(command.join(" ")),
                    _ => None,
                });
                book.fenced.insert(name.clone(), Fenced { at: now, evidence: evidence.unwrap_or_default() });
            }
            (Verb::Migrate | Verb::Move, Outcome::Done) => drop(book.tries.remove(name)),
            (Verb::Migrate | Verb::Move, Outcome::Failed { error, .. }) => {
                let count = 1 + book.tries.get(name).map_or(0, |t| t.count);
                book.tries.insert(name.clone(), Tries { count, at: now, text: error.to_string() });
            }
            _ => {}
        }
    }
    for past in &report.moves {
        book.moved(past.clone());
    }
    if book == before { Ok(()) } else { cast.ledger.keep_book(&book) }
}

/// Remembers which VMs did not get ready, or did not stay so, on which generation; those that did are forgotten.
fn readiness(plan: &Plan, act: &Action, outcome: &Outcome, at: Timestamp, book: &mut Book) {
    let waits = |step: &Step| match &step.op {
        Op::AwaitReady { vm, .. } | Op::StayReady { vm, .. } => Some(vm.clone()),
        _ => None,
    };
    match outcome {
        Outcome::Done => act.steps.iter().filter_map(waits).for_each(|vm| drop(book.unready.remove(&vm))),
        Outcome::Failed { step, error: error @ StepError::Failed { .. } } => {
            let Some(vm) = act.steps.get(*step).and_then(waits) else { return };
            let made = act.steps.iter().find_map(|s| match &s.op {
                Op::Define { stamp, .. } if stamp.vm == vm => stamp.image.clone(),
                _ => None,
            });
            let rolled = || plan.rolls.iter().find(|r| act.roll.as_ref() == Some(&r.image)).map(|r| r.to.clone());
            if let Some(digest) = made.or_else(rolled) {
                book.unready.insert(vm, Unready { digest, at, text: error.to_string() });
            }
        }
        _ => {}
    }
}

/// Remembers of which images a generation could not be made, and by which recipe: it is not tried for ever.
fn making(plan: &Plan, act: &Action, outcome: &Outcome, at: Timestamp, book: &mut Book) {
    let image = act.subject.name();
    let build = plan.builds.iter().find(|b| act.verb == Verb::Build && b.image == *image);
    let Some(recipe) = build.and_then(|b| b.recipe.clone()) else { return };
    match outcome {
        Outcome::Done => drop(book.unmade.remove(image)),
        Outcome::Failed { error: error @ StepError::Failed { .. }, .. } => {
            book.unmade.insert(image.clone(), Unready { digest: recipe, at, text: error.to_string() });
        }
        _ => {}
    }
}

/// Whether a host is to be emptied, by its document or by hand.
fn is_draining(desired: &Desired, demand: &Demand, host: &Name) -> bool {
    let by_document = desired.hosts.get(host).is_some_and(|h| matches!(h.maintenance, Maintenance::Drain(_)));
    by_document || demand.drains.contains_key(host)
}
