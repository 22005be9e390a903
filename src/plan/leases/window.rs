//! Whether a set's time is now: its windows, told from its term and from what its VMs' stamps and records say.

use super::{HORIZON, MOST, Set};
use crate::model::{LeaseEnd, Name, Observed, Span, TaskResult, Timestamp, VmObs, When};

/// Whether a set is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// Later, and for the first time.
    Reserved { from: Timestamp },
    /// Now: from its beginning on, or a little before, so that it is ready.
    Wanted { from: Timestamp, until: Option<Timestamp> },
    /// Not any more.
    Over { since: Timestamp, task: Option<Name>, again: Option<Timestamp> },
}

/// The windows of a set around a moment.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) now: Now,
    /// When its VMs are made for its next beginning.
    pub(super) prepare: Option<Timestamp>,
    /// The end of the window that it is reserved for.
    pub(super) until: Option<Timestamp>,
    /// When it begins again, while it is wanted.
    pub(super) again: Option<Timestamp>,
    /// When it began first, as far as stamps and records know.
    pub(super) begun: Option<Timestamp>,
    /// Windows that begin later.
    pub(super) later: Vec<(Timestamp, Option<Timestamp>)>,
}

impl Window {
    /// Where a set stands at a moment; its VMs are made `lead` seconds before a beginning.
    pub(super) fn at(set: &Set<'_>, observed: &Observed, lead: u64, now: Timestamp) -> Self {
        let begun = begun(set, observed);
        let windows = windows(set, begun, now);
        let prepared =
            |from: Timestamp| set.seen.values().any(|o| o.stamp.leased.as_ref().is_some_and(|l| l.from == from));
        let open = |(from, until): &&(Timestamp, Option<Timestamp>)| {
            let begins = from.0.saturating_sub(lead) <= now.0 || prepared(*from);
            begins && until.is_none_or(|end| now < end)
        };
        // Where one ends after the next began, the later one holds: its end is the later one.
        let current = windows.iter().rfind(open).copied();
        let later: Vec<_> =
            windows.iter().copied().filter(|(from, _)| *from > now && Some(*from) != current.map(|c| c.0)).collect();
        let next = later.first().copied();
        let task = set.term.lease.as_ref().and_then(|l| match &l.end {
            LeaseEnd::Task(task) => Some(task).filter(|task| done(set, observed, task)),
            LeaseEnd::For(_) | LeaseEnd::Until(_) => None,
        });
        let ended = windows.iter().filter_map(|(_, until)| *until).filter(|end| *end <= now).max();
        let state = match (task, current, ended, next) {
            (Some(task), ..) => {
                let since = set.vms.iter().filter_map(|vm| observed.records.get(&vm.name)?.leased.as_ref()?.over).min();
                Now::Over { since: since.unwrap_or(now), task: Some(task.clone()), again: None }
            }
            (None, Some((from, until)), ..) => Now::Wanted { from, until },
            // What comes again and again, and left nothing, waits for its next time.
            (None, None, Some(_), Some((from, _))) if set.seen.is_empty() => Now::Reserved { from },
            (None, None, Some(since), next) => Now::Over { since, task: None, again: next.map(|(from, _)| from) },
            (None, None, None, Some((from, _))) => Now::Reserved { from },
            // A recurrence without any moment within sight.
            (None, None, None, None) => Now::Over { since: now, task: None, again: None },
        };
        let wanted = matches!(state, Now::Wanted { .. });
        Self {
            prepare: next.map(|(from, _)| Timestamp(from.0.saturating_sub(lead))),
            until: next.and_then(|(_, until)| until),
            again: next.map(|(from, _)| from).filter(|_| wanted),
            begun: match &state {
                Now::Over { since, .. } => {
                    windows.iter().filter(|(_, end)| *end == Some(*since)).map(|(f, _)| *f).next().or(begun)
                }
                _ => begun,
            },
            now: state,
            later,
        }
    }

    /// When this changes next: it is made ready, begins, is spoken of, or ends.
    pub(super) fn next(&self, now: Timestamp, warn: Span) -> Option<Timestamp> {
        let ends = match &self.now {
            Now::Wanted { from, until } => {
                let told = until.map(|end| Timestamp(end.0.saturating_sub(warn.as_secs())));
                vec![Some(*from), *until, told, self.prepare]
            }
            Now::Reserved { .. } | Now::Over { .. } => vec![self.prepare],
        };
        ends.into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// When a set began, as its VMs' stamps and records say: the earliest counts.
fn begun(set: &Set<'_>, observed: &Observed) -> Option<Timestamp> {
    let stamped = set.seen.values().filter_map(|obs| obs.stamp.leased.as_ref());
    let recorded = set.vms.iter().filter_map(|vm| observed.records.get(&vm.name)?.leased.as_ref());
    stamped.chain(recorded).map(|leased| leased.from).min()
}

/// Whether a Task is done in all VMs of a set that were not ended by it already.
fn done(set: &Set<'_>, observed: &Observed, task: &Name) -> bool {
    let over = |vm: &Name| {
        let leased = observed.records.get(vm).and_then(|r| r.leased.as_ref());
        leased.is_some_and(|l| l.over.is_some() && l.task.as_ref() == Some(task))
    };
    !set.vms.is_empty()
        && set.vms.iter().all(|vm| over(&vm.name) || set.seen.get(&vm.name).is_some_and(|o| is_done(o, task)))
}

/// Whether a Task is done in a VM.
fn is_done(obs: &VmObs, task: &Name) -> bool {
    obs.stamp.tasks.get(task).is_some_and(|mark| mark.result == TaskResult::Done)
}

/// The windows of a set around a moment, in order.
fn windows(set: &Set<'_>, begun: Option<Timestamp>, now: Timestamp) -> Vec<(Timestamp, Option<Timestamp>)> {
    let lease = set.term.lease.as_ref();
    let end = |from: Timestamp| match lease.map(|l| &l.end) {
        Some(LeaseEnd::For(length)) => Some(Timestamp(from.0 + length.as_secs())),
        Some(LeaseEnd::Until(until)) => Some(*until),
        Some(LeaseEnd::Task(_)) | None => None,
    };
    match set.term.from.as_ref().map(|f| &f.when) {
        None => {
            let from = begun.unwrap_or(now);
            vec![(from, end(from))]
        }
        Some(When::At(from)) => vec![(*from, end(*from))],
        Some(When::Every(every)) => {
            let length = match lease.map(|l| &l.end) {
                Some(LeaseEnd::For(length)) => length.as_secs(),
                _ => 0,
            };
            // The one before this moment's, too, so that it is known since when a set is away: a month may pass in between,
            // and February has no 30th.
            let first = Timestamp(now.0.saturating_sub(length + 62 * 86_400));
            let mut moments = every.moments(first, now, usize::MAX);
            let past = moments.len().saturating_sub(2);
            moments.drain(..past);
            let mut later = every.moments(now, Timestamp(now.0 + HORIZON), MOST);
            if later.is_empty() {
                later = every.moments(now, Timestamp(now.0 + 400 * 86_400), 1);
            }
            moments.extend(later);
            moments.into_iter().map(|from| (from, end(from))).collect()
        }
    }
}
