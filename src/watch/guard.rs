//! When guards of VMs are asked, and when one has failed too often: a state machine without clock, threads or probes.
//!
//! ```text
//!              not running, or in quarantine
//!   ┌──────┐ ◀───────────────────────────────── any
//!   │ away │
//!   └──────┘ ──runs──▶ young ──success──▶ good ──failure──▶ bad(1) … bad(n) ──▶ tripped: into quarantine
//!                        │ failures do not     ▲ success        │
//!                        │ count for `within`  └────────────────┘
//!                        └── `within` is over: they count
//! ```

use std::collections::BTreeMap;

use uuid::Uuid;

use super::machine::Millis;
use crate::model::{Guard, Name};
use crate::observe::Tried;

/// A guard that is answered for now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Watched {
    /// The domain: one that was made anew begins anew.
    uuid: Uuid,
    /// Which run of it was asked last.
    run: Option<u32>,
    /// When that was first seen.
    since: Millis,
    /// Whether it succeeded since.
    proven: bool,
    /// Failures in a row that count.
    failures: u32,
    /// When it is asked next.
    due: Millis,
    /// Whether an answer is awaited.
    asked: bool,
}

/// A guard that failed too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tripped {
    /// The VM.
    pub vm: Name,
    /// How it failed, for people.
    pub reason: String,
}

/// All guards of a fleet.
#[derive(Clone, Debug, Default)]
pub struct Guards {
    watched: BTreeMap<Name, Watched>,
}

impl Guards {
    /// Takes over which guarded VMs run outside of quarantine; those that do not any more are forgotten.
    pub fn running(&mut self, now: Millis, vms: &BTreeMap<Name, Uuid>) {
        self.watched.retain(|vm, watched| vms.get(vm) == Some(&watched.uuid));
        for (vm, uuid) in vms {
            let new =
                Watched { uuid: *uuid, run: None, since: now, proven: false, failures: 0, due: now, asked: false };
            self.watched.entry(vm.clone()).or_insert(new);
        }
    }

    /// The VMs whose guards are to be asked now; each is answered by [`Self::heard`].
    pub fn due(&mut self, now: Millis) -> Vec<Name> {
        let mut due = Vec::new();
        for (vm, watched) in self.watched.iter_mut().filter(|(_, w)| !w.asked && w.due <= now) {
            watched.asked = true;
            due.push(vm.clone());
        }
        due
    }

    /// When somebody is to be asked next; `None`: nobody, as far as is known.
    pub fn wake(&self) -> Option<Millis> {
        self.watched.values().filter(|w| !w.asked).map(|w| w.due).min()
    }

    /// Takes what one guard answered; `None`: nobody could ask. Says so when it has failed too often.
    pub fn heard(&mut self, now: Millis, vm: &Name, guard: &Guard, answer: Option<Tried>) -> Option<Tripped> {
        let watched = self.watched.get_mut(vm)?;
        (watched.asked, watched.due) = (false, now.saturating_add(guard.probe.every.0.max(1)));
        let Tried { run, answer } = answer?;
        if watched.run.replace(run).is_some_and(|before| before != run) {
            // Somebody started it again, or it moved: it is as young as a new one.
            (watched.since, watched.proven, watched.failures) = (now, false, 0);
        }
        match answer {
            Ok(()) => (watched.proven, watched.failures) = (true, 0),
            Err(text) => {
                let young = !watched.proven && now.saturating_sub(watched.since) < guard.probe.within.0;
                watched.failures = if young { 0 } else { watched.failures.saturating_add(1) };
                if watched.failures >= guard.failures.max(1) {
                    let reason = match watched.failures {
                        1 => text,
                        n => format!("{n} failures in a row, the last one: {text}"),
                    };
                    // Until it is in quarantine it is not seen to run outside of it; should nobody be able to note it, it is
                    // counted anew.
                    self.watched.remove(vm);
                    return Some(Tripped { vm: vm.clone(), reason });
                }
            }
        }
        None
    }

    /// Failures in a row of each guard that fails now.
    pub fn failing(&self) -> BTreeMap<Name, u32> {
        let failing = self.watched.iter().filter(|(_, w)| w.failures > 0);
        failing.map(|(vm, w)| (vm.clone(), w.failures)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Probe, ProbeKind, Span, Then};
    use proptest::prelude::*;

    fn guard(failures: u32) -> Guard {
        let probe = Probe { kind: ProbeKind::AgentPing, within: Span(1_000), every: Span(100) };
        Guard { probe, failures, then: Then::Suspend }
    }
    fn vm() -> Name {
        Name::new("web-1").unwrap()
    }
    fn one() -> BTreeMap<Name, Uuid> {
        BTreeMap::from([(vm(), Uuid::nil())])
    }
    fn no() -> Option<Tried> {
        Some(Tried { run: 1, answer: Err("refused".to_owned()) })
    }
    fn yes() -> Option<Tried> {
        Some(Tried { run: 1, answer: Ok(()) })
    }

    #[test]
    fn failures_of_a_guest_that_boots_do_not_count() {
        let mut guards = Guards::default();
        guards.running(0, &one());
        for now in (0..1_000).step_by(100) {
            assert_eq!(guards.due(now), [vm()], "{now}");
            assert_eq!(guards.due(now), [] as [Name; 0], "asked once");
            assert_eq!(guards.heard(now, &vm(), &guard(2), no()), None);
        }
        assert_eq!(guards.due(1_000).len(), 1);
        assert_eq!(guards.heard(1_000, &vm(), &guard(2), no()), None);
        assert_eq!(guards.failing(), BTreeMap::from([(vm(), 1)]));
        assert_eq!(guards.wake(), Some(1_100));
        guards.due(1_100);
        let tripped = guards.heard(1_100, &vm(), &guard(2), no()).unwrap();
        assert_eq!(tripped.reason, "2 failures in a row, the last one: refused");
    }

    #[test]
    fn a_guest_that_answered_once_is_not_young_any_more_and_a_success_begins_anew() {
        let mut guards = Guards::default();
        guards.running(0, &one());
        let mut tell = |now, answer| {
            guards.due(now);
            guards.heard(now, &vm(), &guard(2), answer)
        };
        assert_eq!(tell(0, yes()), None);
        assert_eq!(tell(100, no()), None);
        assert_eq!(tell(200, yes()), None);
        assert_eq!(tell(300, no()), None);
        assert_eq!(tell(400, None), None, "nobody could ask: that says nothing of the guest");
        assert!(tell(500, no()).is_some());
    }

    #[test]
    fn what_stops_moves_on_or_is_made_anew_begins_anew() {
        let mut guards = Guards::default();
        guards.running(0, &one());
        guards.due(0);
        guards.heard(0, &vm(), &guard(9), yes());
        guards.due(100);
        guards.heard(100, &vm(), &guard(9), no());
        assert_eq!(guards.failing().len(), 1);
        guards.running(150, &one());
        assert_eq!(guards.failing().len(), 1, "it runs on");
        guards.running(200, &BTreeMap::from([(vm(), Uuid::max())]));
        assert_eq!(guards.failing().len(), 0, "another domain");
        guards.running(300, &BTreeMap::new());
        assert_eq!(guards.wake(), None);
    }

    #[test]
    fn a_guest_that_was_started_again_boots_again() {
        let mut guards = Guards::default();
        guards.running(0, &one());
        let mut tell = |now, run, answer: Result<(), String>| {
            guards.due(now);
            guards.heard(now, &vm(), &guard(2), Some(Tried { run, answer }))
        };
        let refused = || Err("refused".to_owned());
        assert_eq!(tell(0, 7, Ok(())), None);
        assert_eq!(tell(100, 7, refused()), None);
        for now in (200..1_200).step_by(100) {
            assert_eq!(tell(now, 8, refused()), None, "{now}");
        }
        assert_eq!(tell(1_200, 8, refused()), None);
        assert!(tell(1_300, 8, refused()).is_some());
    }

    proptest! {
        /// It never trips before as many failures in a row as were allowed, and always then.
        #[test]
        fn it_trips_at_the_failure_that_is_too_many(answers in prop::collection::vec(any::<bool>(), 1..40), most in 1..5_u32) {
            let mut guards = Guards::default();
            guards.running(0, &one());
            guards.due(0);
            guards.heard(0, &vm(), &guard(most), yes());
            let (mut now, mut row) = (0, 0);
            for good in answers {
                now += 100;
                prop_assert_eq!(guards.due(now).len(), 1);
                row = if good { 0 } else { row + 1 };
                let answer = if good { yes() } else { no() };
                let tripped = guards.heard(now, &vm(), &guard(most), answer).is_some();
                prop_assert_eq!(tripped, row == most);
                if tripped {
                    break;
                }
            }
        }
    }
}
