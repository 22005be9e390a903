//! Sets for a time: when each is wanted.

use crate::plan::{Plan, SetTerm, TermPhase};

use super::paint::Style;
use super::table::Table;
use super::words::moment;

/// Sets of a plan that are shown before the others are only counted.
const SHOWN: usize = 20;

/// When a set is wanted: `wanted until 2026-12-24 17:00 UTC; again 2026-12-28 07:00 UTC`.
pub fn term_text(term: &SetTerm) -> String {
    let mut text = term.phase.word().to_owned();
    let from = term.from.map(|from| format!(" from {}", moment(from)));
    let until = match (term.until, &term.task) {
        (Some(until), _) => Some(format!(" until {}", moment(until))),
        (None, Some(task)) => Some(format!(" until task/{task} is done")),
        (None, None) => None,
    };
    match term.phase {
        TermPhase::Over => text.extend(term.until.map(|at| format!(" since {}", moment(at)))),
        TermPhase::Reserved | TermPhase::Wanted => text.extend(from.into_iter().chain(until)),
    }
    text.extend(term.again.map(|again| format!("; again {}", moment(again))));
    text.extend(term.zone.as_ref().map(|zone| format!(" ({zone})")));
    if let Some(short) = &term.short {
        text.push_str(&format!("; ITS ROOM CANNOT BE PROMISED: {short}"));
    } else if !term.hosts.is_empty() {
        let hosts: Vec<&str> = term.hosts.iter().take(4).map(crate::model::Name::as_str).collect();
        let more = term.hosts.len().saturating_sub(hosts.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text.push_str(&format!("; room on {}{more}", hosts.join(", ")));
    }
    text
}

/// A line for each set: its name and when it is wanted; those that are over last, and not all of hundreds.
pub(super) fn lines(plan: &Plan, all: bool) -> Vec<(String, String)> {
    let mut terms: Vec<&SetTerm> = plan.terms.iter().collect();
    terms.sort_by_key(|term| (term.short.is_none(), term.phase == TermPhase::Over, term.until.or(term.from)));
    let most = if all { usize::MAX } else { SHOWN };
    let more = terms.len().saturating_sub(most);
    let mut lines: Vec<_> = terms.iter().take(most).map(|term| (term.set.clone(), term_text(term))).collect();
    if more > 0 {
        lines.push((format!("and {more} more"), String::new()));
    }
    lines
}

/// Sets whose end is near: `lease of module/course/ann ends at 2026-12-24 17:00 UTC`.
pub fn ending(plan: &Plan) -> Vec<String> {
    let soon = plan.terms.iter().filter(|term| term.soon);
    soon.filter_map(|term| Some(format!("lease of {} ends at {}", term.set, moment(term.until?)))).collect()
}

/// The sets of a fleet as a table; nothing where there are none.
pub(super) fn table(terms: &[SetTerm], style: &Style) -> String {
    if terms.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["SET", "TERM", "FROM", "UNTIL", "AGAIN", ""]);
    let at = |moment: Option<crate::model::Timestamp>| moment.map_or_else(|| "-".to_owned(), super::moment);
    for term in terms {
        let until = match (&term.until, &term.task) {
            (None, Some(task)) => format!("task/{task}"),
            (until, _) => at(*until),
        };
        let remark = match (&term.short, term.soon) {
            (Some(short), _) => short.clone(),
            (None, true) => "ends soon".to_owned(),
            (None, false) => String::new(),
        };
        table.row(vec![term.set.clone(), term.phase.word().to_owned(), at(term.from), until, at(term.again), remark]);
    }
    format!("\n{}", table.render(style, 0))
}
