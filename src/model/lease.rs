//! Sets for a time: how long a module's instance or a service is wanted, and from when on.
//!
//! A time of day means what clocks on a wall of its zone show. The zone's rules come with the program, so that a plan is the
//! same on every machine. A time that clocks skip when summer time begins is as much later as they skip (02:30 is 03:30);
//! one that they show twice when it ends is the first of the two (RFC 5545, section 3.3.5).

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::Name;
use super::origin::Origin;
use super::quantity::{Span, Timestamp};

/// When a set is wanted. Without either part: always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// For how long.
    pub lease: Option<Lease>,
    /// From when on.
    pub from: Option<Start>,
}

impl Term {
    /// Whether it says anything.
    pub const fn is_always(&self) -> bool {
        self.lease.is_none() && self.from.is_none()
    }
}

/// For how long a set is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What ends it.
    pub end: LeaseEnd,
    /// How long before its end people are told.
    pub warn: Span,
    /// Where it was written.
    pub origin: Origin,
}

/// What ends a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// This long after its beginning.
    For(Span),
    /// A moment.
    Until(Timestamp),
    /// A Task that is done in all VMs of the set.
    Task(Name),
}

/// From when on a set is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// When.
    pub when: When,
    /// Where it was written.
    pub origin: Origin,
}

/// Once, or again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// At a moment.
    At(Timestamp),
    /// At a time of day, on some days.
    Every(Every),
}

/// A time of day, on some days, in a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Every {
    /// On which days.
    pub days: Days,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Name in the IANA time zone database, like `Europe/Berlin`.
    pub zone: Arc<str>,
}

/// Which days. What is said of weekdays and of days of the month adds up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// Days of the week: 1 is Monday, 7 Sunday.
    pub week: BTreeSet<u8>,
    /// Days of the month, 1 to 31. A month without that day has none.
    pub month: BTreeSet<u8>,
}

impl Days {
    fn has(&self, date: civil::Date) -> bool {
        let in_week = u8::try_from(date.weekday().to_monday_one_offset()).is_ok_and(|d| self.week.contains(&d));
        in_week || u8::try_from(date.day()).is_ok_and(|d| self.month.contains(&d))
    }

    /// Fewest days from one to the next.
    pub fn shortest_gap(&self) -> u64 {
        if !self.month.is_empty() {
            // The last day of one month and the first of the next may follow each other, whatever lies between.
            let days: Vec<u64> = self.month.iter().map(|d| u64::from(*d)).collect();
            let inside = days.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(28);
            let around = days.first().zip(days.last()).map_or(28, |(first, last)| 28u64.saturating_sub(*last) + first);
            return if self.week.is_empty() { inside.min(around).max(1) } else { 1 };
        }
        let days: Vec<u64> = self.week.iter().map(|d| u64::from(*d)).collect();
        let inside = days.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(7);
        let around = days.first().zip(days.last()).map_or(7, |(first, last)| 7 - last + first);
        inside.min(around).max(1)
    }
}

/// The moment of a clock on the wall of a zone: later by what clocks skip, the first of what they show twice. `None`: no such
/// zone, or a year beyond all calendars.
pub fn moment_in(zone: &str, at: civil::DateTime) -> Option<Timestamp> {
    let zone = jiff::tz::TimeZone::get(zone).ok()?;
    let moment = zone.to_ambiguous_zoned(at).compatible().ok()?;
    u64::try_from(moment.timestamp().as_second()).ok().map(Timestamp)
}

impl Every {
    /// Its moments in `from..to`, in order; at most `most`.
    pub fn moments(&self, from: Timestamp, to: Timestamp, most: usize) -> Vec<Timestamp> {
        let (Ok(zone), Ok(hour), Ok(minute)) =
            (jiff::tz::TimeZone::get(&self.zone), i8::try_from(self.hour), i8::try_from(self.minute))
        else {
            return Vec::new();
        };
        let date = |at: Timestamp| {
            let moment = jiff::Timestamp::from_second(i64::try_from(at.0).ok()?).ok()?;
            Some(moment.to_zoned(zone.clone()).date())
        };
        let (Some(first), Some(last)) = (date(from), date(to)) else { return Vec::new() };
        let mut moments = Vec::new();
        // Where clocks skip midnight itself, a moment of one day falls on the next.
        let mut day = first.yesterday().unwrap_or(first);
        while day <= last && moments.len() < most {
            if self.days.has(day) {
                let at = moment_in(&self.zone, day.at(hour, minute, 0, 0));
                moments.extend(at.filter(|at| *at >= from && *at < to));
            }
            let Ok(next) = day.tomorrow() else { break };
            day = next;
        }
        moments
    }
}

/// When a VM's lease began and when it ends: stamped on the VM and written into its record, so that no controller has to
/// remember it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Leased {
    /// When it began.
    pub from: Timestamp,
    /// When it ends; `None`: with a Task, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The Task that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Name>,
    /// When the VM ended with it. Only records of VMs that are gone have it: they keep a lease that is over from beginning
    /// anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every(week: &[u8], hour: u8, minute: u8, zone: &str) -> Every {
        let days = Days { week: week.iter().copied().collect(), month: BTreeSet::new() };
        Every { days, hour, minute, zone: zone.into() }
    }
    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().unwrap();
        Timestamp(u64::try_from(moment.as_second()).unwrap())
    }
    const WEEK: [u8; 7] = [1, 2, 3, 4, 5, 6, 7];

    #[test]
    fn a_time_that_clocks_skip_is_later_and_one_that_they_show_twice_is_the_first() {
        // In Berlin clocks went from 02:00 to 03:00 on 2026-03-29, and from 03:00 to 02:00 on 2026-10-25.
        let half_past_two = every(&WEEK, 2, 30, "Europe/Berlin");
        let spring = half_past_two.moments(at("2026-03-28T00:00Z"), at("2026-03-31T00:00Z"), 9);
        assert_eq!(spring, [at("2026-03-28T01:30Z"), at("2026-03-29T01:30Z"), at("2026-03-30T00:30Z")]);
        let autumn = half_past_two.moments(at("2026-10-24T00:00Z"), at("2026-10-27T00:00Z"), 9);
        assert_eq!(autumn, [at("2026-10-24T00:30Z"), at("2026-10-25T00:30Z"), at("2026-10-26T01:30Z")]);
    }

    #[test]
    fn a_time_of_day_stays_that_time_through_the_year() {
        let eight = every(&[1], 8, 0, "Europe/Berlin");
        let found = eight.moments(at("2026-10-19T00:00Z"), at("2026-10-27T00:00Z"), 9);
        assert_eq!(found, [at("2026-10-19T06:00Z"), at("2026-10-26T07:00Z")]);
    }

    #[test]
    fn a_month_without_a_day_has_none() {
        let days = Days { week: BTreeSet::new(), month: BTreeSet::from([31]) };
        let ultimo = Every { days, hour: 0, minute: 0, zone: "UTC".into() };
        let found = ultimo.moments(at("2026-01-01T00:00Z"), at("2026-06-01T00:00Z"), 9);
        assert_eq!(found, [at("2026-01-31T00:00Z"), at("2026-03-31T00:00Z"), at("2026-05-31T00:00Z")]);
    }

    #[test]
    fn gaps_are_the_shortest_there_are() {
        let gap = |week: &[u8], month: &[u8]| {
            Days { week: week.iter().copied().collect(), month: month.iter().copied().collect() }.shortest_gap()
        };
        assert_eq!(gap(&[1], &[]), 7);
        assert_eq!(gap(&[1, 3], &[]), 2);
        assert_eq!(gap(&[1, 7], &[]), 1);
        assert_eq!(gap(&[], &[1]), 28);
        assert_eq!(gap(&[], &[1, 15]), 14);
        assert_eq!(gap(&[], &[1, 31]), 1);
    }

    proptest! {
        /// Whatever the zone, the time and the days: one moment for each day, in order, on that day as clocks there show it,
        /// and at that time wherever clocks show it at all.
        #[test]
        fn moments_are_what_clocks_show(
            zone in prop::sample::select(vec![
                "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Africa/Cairo", "Australia/Lord_Howe",
                "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns", "UTC",
            ]),
            hour in 0u8..24,
            minute in 0u8..60,
            start in 1_400_000_000u64..1_900_000_000,
            week in prop::collection::btree_set(1u8..8, 1..7),
        ) {
            let every = Every { days: Days { week, month: BTreeSet::new() }, hour, minute, zone: zone.into() };
            let (from, to) = (Timestamp(start), Timestamp(start + 400 * 86_400));
            let moments = every.moments(from, to, usize::MAX);
            prop_assert!(moments.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(moments.iter().all(|m| *m >= from && *m < to));
            let tz = jiff::tz::TimeZone::get(zone).unwrap();
            for moment in &moments {
                let shown = jiff::Timestamp::from_second(i64::try_from(moment.0).unwrap()).unwrap().to_zoned(tz.clone());
                let wanted = civil::time(i8::try_from(hour).unwrap(), i8::try_from(minute).unwrap(), 0, 0);
                if shown.time() != wanted {
                    // Only where clocks skip that time.
                    let gap = [shown.date(), shown.date().yesterday().unwrap()]
                        .into_iter()
                        .any(|day| tz.to_ambiguous_zoned(day.to_datetime(wanted)).is_ambiguous());
                    prop_assert!(gap, "{shown} is not {hour}:{minute}");
                }
            }
            // Asking in two parts finds the same.
            let middle = Timestamp(start + 123 * 86_400);
            let mut parts = every.moments(from, middle, usize::MAX);
            parts.extend(every.moments(middle, to, usize::MAX));
            prop_assert_eq!(parts, moments);
        }
    }
}
