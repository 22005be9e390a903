//! A plan as a Mermaid flow chart.
//!
//! No edge labels: they break inside `<details>` on GitHub (mermaid issue 3504). At most 30 nodes and
//! 1,900 characters: GitLab and Gitea limit a page's charts (2,000 and 5,000 characters). Over that: one node a wave.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::{Action, ActionId, Plan};

use super::{safe, words};

/// Most nodes of a chart.
const NODES: usize = 30;
/// Most characters of a chart.
const CHARACTERS: usize = 1_900;

/// The plan's chart, without a fence, with a line end. Nothing for a plan in which nothing is carried out.
pub fn mermaid(plan: &Plan) -> Option<String> {
    let actions: Vec<&Action> = plan.actions.iter().filter(|a| !a.is_blocked()).collect();
    if actions.is_empty() {
        return None;
    }
    if actions.len() <= NODES {
        let chart = by_action(&actions);
        if chart.len() <= CHARACTERS {
            return Some(chart);
        }
    }
    Some(by_wave(&actions))
}

/// A node for each action, a box for each wave.
fn by_action(actions: &[&Action]) -> String {
    let numbers: BTreeMap<&ActionId, usize> = actions.iter().enumerate().map(|(i, a)| (&a.id, i + 1)).collect();
    let mut waves: BTreeMap<u32, Vec<&Action>> = BTreeMap::new();
    for action in actions {
        waves.entry(action.wave).or_default().push(action);
    }
    let mut out = "flowchart LR\n".to_owned();
    for (wave, members) in &waves {
        let _ = writeln!(out, "  subgraph w{wave}[wave {wave}]");
        for action in members {
            let to = action.to.as_ref().filter(|_| action.transfer.is_some()).map(|to| format!(" to {to}"));
            let label = format!("{} {}{}", action.subject.name(), words::what(action), to.unwrap_or_default());
            let _ = writeln!(out, "    n{}[\"{}\"]", numbers[&action.id], safe::label(&label));
        }
        out.push_str("  end\n");
    }
    for action in actions {
        for before in action.after.iter().filter_map(|id| numbers.get(id)) {
            let _ = writeln!(out, "  n{before} --> n{}", numbers[&action.id]);
        }
    }
    let bad: Vec<String> =
        actions.iter().filter(|a| a.impact.class.is_destructive()).map(|a| format!("n{}", numbers[&a.id])).collect();
    if !bad.is_empty() {
        let _ = writeln!(out, "  classDef bad stroke:#d33,stroke-width:3px\n  class {} bad", bad.join(","));
    }
    out
}

/// A node for each wave, with counts; the last one says what did not fit.
fn by_wave(actions: &[&Action]) -> String {
    let mut waves: BTreeMap<u32, BTreeMap<&str, usize>> = BTreeMap::new();
    for action in actions {
        *waves.entry(action.wave).or_default().entry(action.verb.word()).or_default() += 1;
    }
    let mut out = "flowchart LR\n".to_owned();
    let mut previous = None;
    for (i, (wave, verbs)) in waves.iter().enumerate() {
        let counts: Vec<String> = verbs.iter().map(|(verb, n)| format!("{verb} {n}")).collect();
        let more = waves.len() - i;
        let full = i + 1 == NODES && more > 1 || out.len() + 90 > CHARACTERS;
        let label = if full { format!("{more} more waves") } else { format!("{wave} - {}", counts.join(" / ")) };
        let _ = writeln!(out, "  w{wave}[\"{}\"]", safe::label(&label));
        if let Some(before) = previous {
            let _ = writeln!(out, "  w{before} --> w{wave}");
        }
        if full {
            break;
        }
        previous = Some(wave);
    }
    out
}
