//! A lint of our own output: runs on every plan, in tests and before every apply.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{ActionId, Plan};

/// What is wrong with a plan; empty for a sound one.
///
/// Ids are unique; what is waited for exists, comes earlier and is not blocked while the waiter is not; a blocked
/// action has no steps, an open one has some; waves grow along every edge; the effects hash fits.
pub fn check(plan: &Plan) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: BTreeSet<&ActionId> = BTreeSet::new();
    let by_id: BTreeMap<&ActionId, _> = plan.actions.iter().map(|a| (&a.id, a)).collect();
    for act in &plan.actions {
        for before in &act.after {
            match by_id.get(before) {
                None => wrong.push(format!("{} waits for {before}, which is not in the plan", act.id)),
                Some(other) => {
                    if !seen.contains(before) {
                        wrong.push(format!("{} comes before {before}, which it waits for", act.id));
                    }
                    if other.wave >= act.wave {
                        wrong.push(format!("{} is in wave {}, {before} in wave {}", act.id, act.wave, other.wave));
                    }
                    if other.is_blocked() && !act.is_blocked() {
                        wrong.push(format!("{} is open and waits for {before}, which is blocked", act.id));
                    }
                }
            }
        }
        if act.is_blocked() != act.steps.is_empty() {
            wrong.push(format!(
                "{} is {}blocked and has {} steps",
                act.id,
                if act.is_blocked() { "" } else { "not " },
                act.steps.len()
            ));
        }
        if !seen.insert(&act.id) {
            wrong.push(format!("{} is in the plan twice", act.id));
        }
    }
    wrong
}
