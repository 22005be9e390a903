//! Which actions stand in which section: worst first, drift apart from change.

use crate::plan::{Action, Cause, Counts, NoteKind, Plan};

use super::words::count;

/// A plan's actions by section.
#[derive(Default)]
pub(super) struct Sections<'a> {
    /// Something ends, whatever the cause.
    pub(super) destructive: Vec<&'a Action>,
    /// A person notices.
    pub(super) disruptive: Vec<&'a Action>,
    /// Would happen, but is stopped.
    pub(super) blocked: Vec<&'a Action>,
    /// Nobody notices.
    pub(super) safe: Vec<&'a Action>,
    /// Packet filters, whatever the cause.
    pub(super) filters: Vec<&'a Action>,
    /// The world moved: not caused by this change. Destructive and blocked ones stand above all the same.
    pub(super) drift: Vec<&'a Action>,
}

impl<'a> Sections<'a> {
    /// Sorts a plan's actions, worst class first, then by wave and subject.
    pub(super) fn of(plan: &'a Plan) -> Self {
        let mut sections = Self::default();
        let mut actions: Vec<&Action> = plan.actions.iter().collect();
        actions.sort_by(|a, b| {
            (a.impact.class, a.wave, &a.subject, &a.id).cmp(&(b.impact.class, b.wave, &b.subject, &b.id))
        });
        for action in actions {
            let class = action.impact.class;
            let section = if action.is_blocked() {
                &mut sections.blocked
            } else if action.is_filter() {
                &mut sections.filters
            } else if class.is_destructive() {
                &mut sections.destructive
            } else if action.cause == Cause::Drift {
                &mut sections.drift
            } else if class.is_disruptive() {
                &mut sections.disruptive
            } else {
                &mut sections.safe
            };
            section.push(action);
        }
        sections
    }
}

/// The verdict's parts, worst first, without zeros: `BLOCKED 1`, `destructive 2`, …
pub(super) fn verdict(counts: &Counts) -> Vec<String> {
    let parts = [
        ("BLOCKED", counts.blocked),
        ("destructive", counts.destructive),
        ("disruptive", counts.disruptive),
        ("safe", counts.safe),
    ];
    let mut words: Vec<String> = parts.iter().filter(|(_, n)| *n > 0).map(|(w, n)| format!("{w} {n}")).collect();
    words.push(format!("unchanged {}", counts.unchanged));
    words
}

/// What of the plan is not this change: `2 drift (1 disruptive)`, `1 merged before and not applied`.
pub(super) fn other_causes(plan: &Plan) -> Vec<String> {
    let of = |cause: Cause| plan.actions.iter().filter(|a| a.cause == cause).count();
    let disruptive =
        plan.actions.iter().filter(|a| a.cause == Cause::Drift && a.impact.class.is_disruptive() && !a.is_blocked());
    let mut parts = Vec::new();
    match (of(Cause::Drift), disruptive.count()) {
        (0, _) => {}
        (n, 0) => parts.push(format!("{n} drift")),
        (n, d) => parts.push(format!("{n} drift ({d} disruptive)")),
    }
    for (cause, words) in [
        (Cause::Pending, "pending (merged before, not applied)"),
        (Cause::Demand, "demand (asked for by hand or load)"),
        (Cause::Expiry, "expiry (a time is over)"),
    ] {
        let n = of(cause);
        if n > 0 {
            parts.push(format!("{n} {words}"));
        }
    }
    parts
}

/// The one line of a plan without actions, with how much is quiet for a reason.
pub(super) fn no_changes(plan: &Plan, with_age: bool) -> String {
    let of = |kind: NoteKind| plan.notes.iter().filter(|n| n.kind == kind).count();
    let mut quiet = Vec::new();
    let (restarts, left, waiting) = (of(NoteKind::RestartPending), of(NoteKind::LeftAlone), of(NoteKind::Waiting));
    if restarts > 0 {
        quiet.push(count(restarts, "restart pending", "restarts pending"));
    }
    if left > 0 {
        quiet.push(format!("{left} left alone"));
    }
    if waiting > 0 {
        quiet.push(format!("{waiting} waiting"));
    }
    let unknown = plan.inputs.ages.values().filter(|a| a.is_none()).count();
    if unknown > 0 {
        quiet.push(count(unknown, "host unknown", "hosts unknown"));
    }
    if !matches!(plan.inputs.source.as_str(), "live" | "none") && with_age {
        let oldest = plan.inputs.ages.values().flatten().max();
        let age = oldest.map(|age| format!(" {} ago", super::words::age(*age))).unwrap_or_default();
        quiet.push(format!("recorded in {}{age}", super::clean(&plan.inputs.source)));
    }
    let quiet = if quiet.is_empty() { String::new() } else { format!(" ({})", quiet.join(", ")) };
    let vms = count(usize::try_from(plan.unchanged).unwrap_or(usize::MAX), "VM is", "VMs are");
    let head = super::short_revision(&plan.head);
    let lead = match plan.under_way() {
        0 => "no changes".to_owned(),
        moves => format!("nothing to begin, {} on", count(moves, "move goes", "moves go")),
    };
    format!("{lead}: {vms} as {head} says, fleet {}{quiet}", plan.fleet)
}
