//! What an apply did, what it did not do, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::execute::{Outcome, Report, StepError};
use crate::plan::{Action, ActionId, Plan, Verb};

use super::paint::{Ink, Style, wrap};
use super::words::count;

/// How many actions of each kind of end a pass had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Carried out.
    pub done: usize,
    /// A step failed.
    pub failed: usize,
    /// Of those that failed: steps before had been done.
    pub begun: usize,
    /// Not carried out.
    pub not_done: usize,
}

/// The last word on each action over all rounds of a pass, in order of first appearance.
fn last_words(rounds: &[(Plan, Report)]) -> Vec<(&Action, &Outcome)> {
    let mut order: Vec<&ActionId> = Vec::new();
    let mut words: BTreeMap<&ActionId, (&Action, &Outcome)> = BTreeMap::new();
    for (plan, report) in rounds {
        // What an earlier round did not finish and this one does not plan was done after all.
        for (id, word) in &mut words {
            if plan.action(id).is_none() {
                word.1 = &Outcome::Done;
            }
        }
        for (action, (_, outcome)) in plan.actions.iter().zip(&report.outcomes) {
            if words.insert(&action.id, (action, outcome)).is_none() {
                order.push(&action.id);
            }
        }
    }
    order.into_iter().filter_map(|id| words.get(id).copied()).collect()
}

/// Counts a pass's ends.
pub fn tally(rounds: &[(Plan, Report)]) -> Tally {
    let mut tally = Tally::default();
    for (_, outcome) in last_words(rounds) {
        match outcome {
            Outcome::Done => tally.done += 1,
            Outcome::Failed { step, .. } => {
                tally.failed += 1;
                tally.begun += usize::from(*step > 0);
            }
            _ => tally.not_done += 1,
        }
    }
    tally
}

/// What was done, what failed and with which words, what was not tried and why, and, where it is wanted, what is left.
pub fn report_text(rounds: &[(Plan, Report)], left: Option<&Plan>, style: &Style) -> String {
    let words = last_words(rounds);
    let mut out = String::new();
    let done: Vec<&Action> = words.iter().filter(|(_, o)| **o == Outcome::Done).map(|(a, _)| *a).collect();
    if !done.is_empty() {
        labelled(&mut out, style, Ink::Green, "done", &summary(&done));
    }
    for (action, outcome) in &words {
        if let Outcome::Failed { step, error } = outcome {
            failure(&mut out, style, action, *step, error);
        }
    }
    let mut whys: Vec<(String, Vec<String>)> = Vec::new();
    for (action, outcome) in &words {
        if let Some(why) = why_not(action, outcome) {
            match whys.iter_mut().find(|(known, _)| *known == why) {
                Some((_, ids)) => ids.push(action.id.to_string()),
                None => whys.push((why, vec![action.id.to_string()])),
            }
        }
    }
    for (why, ids) in whys {
        let more = if ids.len() > 3 { format!(" and {} more", ids.len() - 3) } else { String::new() };
        let who = ids.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        labelled(&mut out, style, Ink::Yellow, "not done", &format!("{who}{more}: {why}"));
    }
    match left.map(|plan| plan.actions.len()) {
        None => {}
        Some(0) if left.is_some_and(|plan| plan.under_way() > 0) => {
            let moves = count(left.map_or(0, Plan::under_way), "move that goes", "moves that go");
            let text = format!("{moves} on without us: apply again when it ended (stablehand status shows it)");
            labelled(&mut out, style, Ink::Yellow, "left", &text);
        }
        Some(0) if words.iter().any(|(_, o)| matches!(o, Outcome::Failed { .. })) => {
            let text = "nothing to change: what failed is as the YAML says by now (stablehand status: is it ready?)";
            labelled(&mut out, style, Ink::Yellow, "left", text);
        }
        Some(0) => labelled(&mut out, style, Ink::Green, "left", "nothing: planning again gives no changes"),
        Some(open) => {
            let text = format!("{} (stablehand plan shows them)", count(open, "action", "actions"));
            labelled(&mut out, style, Ink::Yellow, "left", &text);
        }
    }
    out
}

/// Why an action was neither done nor failed.
fn why_not(action: &Action, outcome: &Outcome) -> Option<String> {
    Some(match outcome {
        Outcome::Done | Outcome::Failed { .. } => return None,
        Outcome::Blocked => {
            let stop = |b: &crate::plan::Block| format!(" by {}: {}; to unblock: {}", b.by.word(), b.text, b.unblock);
            format!("blocked{}", action.blocked.first().map(stop).unwrap_or_default())
        }
        Outcome::NotApproved => "not part of what was approved".to_owned(),
        Outcome::Waits(other) => format!("waits for {other}"),
        Outcome::Crowded(vm) => format!("waits until the move of vm/{vm} is over: no more may move at once there"),
        Outcome::Stopped { steps: 0 } => "not begun: asked to stop".to_owned(),
        Outcome::Stopped { steps } => {
            format!("stopped after {}: the next apply goes on", count(*steps, "step", "steps"))
        }
    })
}

/// Up to eight ids, or counts by verb.
fn summary(done: &[&Action]) -> String {
    if done.len() <= 8 {
        return done.iter().map(|a| a.id.to_string()).collect::<Vec<_>>().join(", ");
    }
    let mut verbs: BTreeMap<Verb, usize> = BTreeMap::new();
    for action in done {
        *verbs.entry(action.verb).or_default() += 1;
    }
    let parts: Vec<String> = verbs.iter().map(|(verb, n)| format!("{} {n}", verb.word())).collect();
    format!("{} ({})", count(done.len(), "action", "actions"), parts.join(", "))
}

/// A failed step with its words, hint and the lines that help.
fn failure(out: &mut String, style: &Style, action: &Action, step: usize, error: &StepError) {
    let at = action.steps.get(step).map(|s| format!(" at `{}`", s.op.describe())).unwrap_or_default();
    labelled(out, style, Ink::Red, "FAILED", &format!("{}{at}: {error}", action.id));
    if let StepError::Failed { hint, detail, .. } = error {
        for line in detail {
            let line = style.paint(Ink::Dim, format!("          | {}", style.clean(line)).trim_end());
            let _ = writeln!(out, "{line}");
        }
        if let Some(hint) = hint {
            labelled(out, style, Ink::Plain, "", &format!("hint: {hint}"));
        }
    }
}

/// A label of ten columns and a wrapped text.
fn labelled(out: &mut String, style: &Style, ink: Ink, label: &str, text: &str) {
    for (i, line) in wrap(&style.clean(text), style.width.max(60) - 10).iter().enumerate() {
        let label = if i == 0 { label } else { "" };
        let _ = writeln!(out, "{}{line}", style.paint(ink, &format!("{label:10}")));
    }
}
