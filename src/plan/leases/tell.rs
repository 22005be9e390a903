//! Words for times, and what the plan says of leases at its end.

use super::super::draft::Draft;
use super::super::types::{Cause, Verb};
use crate::model::Timestamp;

/// `2026-12-24 17:00 UTC`.
pub(crate) fn when(at: Timestamp) -> String {
    let moment = i64::try_from(at.0).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| format!("@{}", at.0), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// `12 min`, `3 h`: how long something still is, rounded up.
pub(crate) fn left(seconds: u64) -> String {
    if seconds > 5_400 { format!("{} h", seconds.div_ceil(3_600)) } else { format!("{} min", seconds.div_ceil(60)) }
}

impl Draft<'_> {
    /// Says of VMs that a lease stops why they are stopped, and of a changed lease what changed.
    pub(crate) fn tell_leases(&mut self) {
        for act in &mut self.actions {
            let name = act.subject.name();
            if act.subject.kind() != "vm" {
                continue;
            }
            if let Some(ends) = self.leases.stopped.get(name)
                && act.verb == Verb::Stop
            {
                act.cause = if ends.code == "lease_over" { Cause::Expiry } else { Cause::Change };
                ends.code.clone_into(&mut act.reason.code);
                act.reason.text.clone_from(&ends.text);
                act.reason.origins = ends.origin.iter().cloned().collect();
                act.fields.clear();
            }
            let stamp = |act: &super::super::types::Action| act.verb == Verb::Update && act.reason.code == "stamp";
            if let (true, Some((_, obs))) = (stamp(act), self.world.place(name)) {
                let (old, new) = (&obs.stamp.leased, self.input.desired.leased.get(name));
                if old.as_ref() != new {
                    let until = |l: Option<&crate::model::Leased>| {
                        l.map_or("for good".to_owned(), |l| {
                            l.until.map_or("without a date".to_owned(), |u| format!("until {}", when(u)))
                        })
                    };
                    let (old, new) = (until(old.as_ref()), until(new));
                    act.cause = Cause::Change;
                    act.reason.code = "lease".to_owned();
                    act.reason.text = if old == new {
                        format!("wanted {new}: written down")
                    } else {
                        format!("wanted {new}, {old} before")
                    };
                }
            }
        }
    }
}
