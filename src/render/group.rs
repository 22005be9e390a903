//! Like actions folded into one line: `+ vm/shop-web-1 … vm/shop-web-214 (214)`.

use std::collections::BTreeMap;

use crate::model::{Name, Origin};
use crate::plan::{Action, Cause, Class, Verb};

/// From how many like actions on they are folded.
const FOLD_FROM: usize = 4;

/// One line of a section: an action by itself, or several that differ only in their number and host.
pub(super) struct Line<'a> {
    /// The actions, in the plan's order; never empty.
    pub(super) actions: Vec<&'a Action>,
}

impl<'a> Line<'a> {
    /// The first action: it speaks for the others.
    pub(super) fn first(&self) -> &'a Action {
        self.actions[0]
    }
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.actions.len()
    }
    /// `vm/web-1`, or `vm/web-1 .. vm/web-9 (9)`.
    pub(super) fn subject(&self, ellipsis: &str) -> String {
        match self.actions.as_slice() {
            [one] => one.subject.to_string(),
            [first, .., last] if first.subject == last.subject => format!("{} ({})", first.subject, self.len()),
            [first, .., last] => format!("{} {ellipsis} {} ({})", first.subject, last.subject, self.len()),
            [] => String::new(),
        }
    }
    /// The hosts and how many of them each gets.
    pub(super) fn hosts(&self, arrow: &str) -> String {
        if let [one] = self.actions.as_slice() {
            return super::words::place(one.from.as_ref(), one.to.as_ref(), arrow);
        }
        let mut each: BTreeMap<&Name, usize> = BTreeMap::new();
        for host in self.actions.iter().filter_map(|a| a.to.as_ref().or(a.from.as_ref())) {
            *each.entry(host).or_default() += 1;
        }
        let more = each.len().saturating_sub(4);
        let mut parts: Vec<String> = each.iter().take(4).map(|(h, n)| format!("{h} {n}")).collect();
        if more > 0 {
            parts.push(format!("{more} more hosts"));
        }
        parts.join(", ")
    }
}

/// What must be equal for two actions to share a line.
type Key<'a> = (Verb, Class, Cause, &'a str, &'a str, Option<&'a Origin>, &'a str, Vec<(&'a str, &'a str)>);

fn key(action: &Action) -> Key<'_> {
    let subject = action.subject.name().as_str();
    let stem = subject.trim_end_matches(|c: char| c.is_ascii_digit());
    let fields = action.fields.iter().map(|f| (f.path.as_str(), f.after.as_deref().unwrap_or_default())).collect();
    let block = action.blocked.first().map_or("", |b| b.unblock.as_str());
    (
        action.verb,
        action.impact.class,
        action.cause,
        action.reason.code.as_str(),
        stem,
        action.reason.origins.first(),
        block,
        fields,
    )
}

/// Folds like actions, keeping the order of their first ones. Destructive ones always stand by themselves.
pub(super) fn fold<'a>(actions: &[&'a Action], show_all: bool) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'a>> = Vec::new();
    let mut places: BTreeMap<Key<'a>, Vec<&'a Action>> = BTreeMap::new();
    let foldable = |a: &Action| !show_all && !a.impact.class.is_destructive();
    for action in actions.iter().filter(|a| foldable(a)) {
        places.entry(key(action)).or_default().push(action);
    }
    for action in actions {
        let group = if foldable(action) { places.get_mut(&key(action)) } else { None };
        match group {
            Some(group) if group.len() >= FOLD_FROM => lines.push(Line { actions: std::mem::take(group) }),
            Some(group) if group.is_empty() => {}
            _ => lines.push(Line { actions: vec![action] }),
        }
    }
    lines
}
