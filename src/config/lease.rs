//! Sets for a time: `lease` and `from` of modules, their instances, and services.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil;
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::node::{Kind, Node};
use super::read::{Accepts, Leaf, Loc, Read, Wrong, nearest, spec};
use super::sink::{Mark, Sink};
use crate::model::{Days, Every, Lease, LeaseEnd, Name, Span, Start, Term, Timestamp, When, moment_in};

spec! {
    /// For how long a set is wanted: one of `for`, `until` and `untilTask`.
    LeaseSpec("lease") {
        /// This long after its beginning, like `8h`: from when `from` says, else from when its first VM is made.
        "for" length: Loc<Span>;
        /// Until a moment, like `2026-12-24T18:00[Europe/Berlin]` or `2026-12-24T17:00Z`.
        "until" until: Loc<Moment>;
        /// Until the Task of this name is done in all its VMs.
        "untilTask" until_task: Loc<Name>;
        /// How long before the end people are told (default 15m).
        "warn" warn: Loc<Span>;
    }
}

spec! {
    /// From when on a set is wanted: its room is reserved, and it is ready then.
    BeginSpec("from") {
        /// A moment, like `2026-12-01T08:00[Europe/Berlin]`; with `every` a time of day, like `"08:00"`.
        "at" at_: Loc<At>, required;
        /// On which days, again and again: `day`, `weekday`, `mon` to `sun`, days of the month as numbers, or a list of them.
        "every" every: DaysChoice;
        /// The zone of a time of day, like `Europe/Berlin`.
        "zone" zone: Loc<Zone>;
    }
}

/// How long before its end a lease is spoken of when nobody says: long enough to save one's work.
const WARN: Span = Span::secs(15 * 60);

/// A moment, with its zone in brackets or as an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub(crate) Timestamp);

impl Leaf for Moment {
    const WHAT: &'static str = "a moment, like 2026-12-24T18:00[Europe/Berlin]";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT)).help(help);
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return u64::try_from(moment.as_second()).map(|at| Self(Timestamp(at))).map_err(|_| wrong("after 1970"));
        }
        let bracket = text.strip_suffix(']').and_then(|rest| rest.split_once('['));
        let Some((local, zone)) = bracket else {
            let zoneless = text.parse::<civil::DateTime>().is_ok();
            let meant = zoneless.then(|| format!("{text}[Europe/Berlin]"));
            return Err(wrong("date, time, and a zone in brackets, or `Z` for UTC").suggest(meant));
        };
        Zone::parse(zone).map_err(|wrong| {
            let meant = wrong.suggestion.as_ref().map(|zone| format!("{local}[{zone}]"));
            Wrong { suggestion: meant, ..wrong }
        })?;
        let local: civil::DateTime = local.parse().map_err(|_| wrong("date and time, then the zone in brackets"))?;
        moment_in(zone, local).map(Self).ok_or_else(|| wrong("after 1970"))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}.*(Z|[+-][0-9]{2}:[0-9]{2}|\])$"})
    }
}

/// A moment, or a time of day.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Moment(Timestamp),
    Clock(u8, u8),
}

impl Leaf for At {
    const WHAT: &'static str = "a moment, like 2026-12-24T18:00[Europe/Berlin], or a time of day, like \"08:00\"";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.contains('T') || text.contains('-') {
            return <Moment as Leaf>::parse(text).map(|moment| Self::Moment(moment.0));
        }
        let clock = || {
            let (hour, minute) = text.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
            let (hour, minute): (u8, u8) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour < 24 && minute < 60).then_some(Self::Clock(hour, minute))
        };
        clock().ok_or_else(|| {
            Wrong::new("E0217", format!("`{text}` is not {}", Self::WHAT))
                .help("a time of day has two digits on both sides, from \"00:00\" to \"23:59\"")
        })
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "minLength": 5})
    }
}

/// The name of a time zone.
#[derive(Clone, Debug)]
pub(crate) struct Zone(pub(crate) Arc<str>);

impl Leaf for Zone {
    const WHAT: &'static str = "a time zone, like Europe/Berlin";
    fn parse(text: &str) -> Result<Self, Wrong> {
        if jiff::tz::TimeZone::get(text).is_ok() {
            return Ok(Self(text.into()));
        }
        let names: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
        let near = nearest(text, names.iter().map(String::as_str));
        let help = "names are those of the IANA time zone database: `Europe/Berlin`, `America/New_York`, `UTC`";
        Err(Wrong::new("E0215", format!("`{text}` is not a time zone")).help(help).suggest(near))
    }
    fn leaf_schema() -> Value {
        json!({"type": "string", "minLength": 1})
    }
}

const WEEK: [(&str, &str); 7] = [
    ("mon", "monday"),
    ("tue", "tuesday"),
    ("wed", "wednesday"),
    ("thu", "thursday"),
    ("fri", "friday"),
    ("sat", "saturday"),
    ("sun", "sunday"),
];

/// One word, or number, for days.
#[derive(Clone, Debug)]
struct DayWord(Days);

impl Leaf for DayWord {
    const WHAT: &'static str = "days";
    const ACCEPTS: Accepts = Accepts::Any;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let week = |days: std::ops::RangeInclusive<u8>| Ok(Self(Days { week: days.collect(), month: BTreeSet::new() }));
        let lower = text.to_ascii_lowercase();
        if let Some(day) = (1u8..).zip(WEEK).find(|(_, (short, long))| lower == *short || lower == *long) {
            return week(day.0..=day.0);
        }
        match (&*lower, text.parse::<u8>()) {
            ("day", _) => week(1..=7),
            ("weekday", _) => week(1..=5),
            (_, Ok(day)) if (1..=31).contains(&day) => {
                Ok(Self(Days { week: BTreeSet::new(), month: BTreeSet::from([day]) }))
            }
            _ => {
                let words = ["day", "weekday"].into_iter().chain(WEEK.iter().flat_map(|(short, long)| [*short, *long]));
                let near = nearest(&lower, words);
                let help = "use `day`, `weekday`, `mon` to `sun`, or days of the month from 1 to 31";
                Err(Wrong::new("E0215", format!("`{text}` does not say which days")).help(help).suggest(near))
            }
        }
    }
    fn leaf_schema() -> Value {
        let words: Vec<&str> =
            ["day", "weekday"].into_iter().chain(WEEK.iter().flat_map(|(short, long)| [*short, *long])).collect();
        json!({"oneOf": [{"enum": words}, {"type": "integer", "minimum": 1, "maximum": 31}]})
    }
}

/// A word or number for days, or a list of them.
#[derive(Clone, Debug)]
pub(crate) struct DaysChoice {
    at: Mark,
    days: Days,
}

impl Read for DaysChoice {
    fn read(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let words = match &node.kind {
            Kind::List(_) => Vec::<Loc<DayWord>>::read(node, sink)?,
            _ => vec![Loc::<DayWord>::read(node, sink)?],
        };
        let mut days = Days::default();
        for word in words {
            days.week.extend(word.value.0.week);
            days.month.extend(word.value.0.month);
        }
        if days == Days::default() {
            sink.report("E0413", node.at, "these are no days at all").help("like `[mon, wed]`, or `weekday`");
            return None;
        }
        Some(Self { at: node.at, days })
    }
    fn schema(generator: &mut SchemaGenerator) -> Value {
        json!({"oneOf": [DayWord::leaf_schema(), Vec::<Loc<DayWord>>::schema(generator)]})
    }
}

/// What a set's `lease` and `from` mean together.
pub(crate) fn term(lease: Option<&LeaseSpec>, from: Option<&BeginSpec>, sink: &mut Sink) -> Term {
    let meant = lease.and_then(|spec| meant(spec, sink));
    let start = from.and_then(|spec| start(spec, sink));
    let flawed = lease.is_some_and(|l| l.flawed) || from.is_some_and(|f| f.flawed);
    if let (Some(spec), Some(Start { when: When::Every(every), .. }), false) = (from, &start, flawed) {
        recurring(spec, every, lease, meant.as_ref(), sink);
    }
    if let (Some(Lease { end: LeaseEnd::Until(end), .. }), Some(Start { when: When::At(begin), .. })) = (&meant, &start)
        && end <= begin
        && let (Some(until), Some(from)) = (lease.and_then(|l| l.until.as_ref()), from)
    {
        sink.report("E0490", until.at, "the lease is over before it begins").also(from.at, "it begins here");
    }
    Term { lease: meant, from: start }
}

fn meant(spec: &LeaseSpec, sink: &mut Sink) -> Option<Lease> {
    let said = [
        spec.length.as_ref().map(|s| ("for", s.at)),
        spec.until.as_ref().map(|s| ("until", s.at)),
        spec.until_task.as_ref().map(|s| ("untilTask", s.at)),
    ];
    let said: Vec<_> = said.into_iter().flatten().collect();
    match said.as_slice() {
        [] if !spec.flawed => {
            sink.report("E0490", spec.at, "the lease has no end")
                .help("write `for: 8h`, `until: 2026-12-24T18:00[Europe/Berlin]` or `untilTask: NAME`");
        }
        [(first, first_at), (second, at), ..] => {
            let message = format!("two ends of one lease: `{first}` and `{second}`");
            sink.report("E0218", *at, message).also(*first_at, format!("`{first}`")).help("write one of them");
        }
        _ => {}
    }
    // Below this a lease is over before its VMs are ready.
    if let Some(length) = spec.length.as_ref().filter(|l| l.value < Span::secs(60)) {
        sink.report("E0413", length.at, format!("{} is too short for a lease", length.value)).help("at least 1m");
    }
    let end = match (&spec.length, &spec.until, &spec.until_task) {
        (Some(length), ..) => LeaseEnd::For(length.value),
        (_, Some(until), _) => LeaseEnd::Until(until.value.0),
        (_, _, Some(task)) => LeaseEnd::Task(task.value.clone()),
        (None, None, None) => return None,
    };
    let warn = spec.warn.as_ref().map_or(WARN, |w| w.value);
    Some(Lease { end, warn, origin: sink.origin(spec.at) })
}

fn start(spec: &BeginSpec, sink: &mut Sink) -> Option<Start> {
    let at = spec.at_.as_ref()?;
    let when = match (at.value, &spec.every) {
        (At::Moment(moment), None) => {
            if let Some(zone) = &spec.zone {
                sink.report("E0490", zone.at, "a moment has its zone in itself")
                    .also(at.at, "the moment")
                    .help("write it in brackets: `2026-12-01T08:00[Europe/Berlin]`");
            }
            When::At(moment)
        }
        (At::Clock(hour, minute), Some(every)) => {
            let Some(zone) = &spec.zone else {
                if !spec.failed.contains(&"zone") {
                    sink.report("E0206", at.at, "`zone` is missing: a time of day needs one")
                        .help("like `zone: Europe/Berlin`, or `UTC`");
                }
                return None;
            };
            When::Every(Every { days: every.days.clone(), hour, minute, zone: zone.value.0.clone() })
        }
        (At::Moment(_), Some(every)) => {
            sink.report("E0490", at.at, "with `every`, `at` is a time of day")
                .also(every.at, "`every`")
                .help("like \"08:00\", with a `zone`");
            return None;
        }
        (At::Clock(..), None) => {
            if !spec.failed.contains(&"every") {
                sink.report("E0490", at.at, "a time of day, and no days")
                    .help("write `every: weekday`, or a moment: `2026-12-01T08:00[Europe/Berlin]`");
            }
            return None;
        }
    };
    Some(Start { when, origin: sink.origin(spec.at) })
}

/// What comes again and again has a length, and is over before it comes again.
fn recurring(from: &BeginSpec, every: &Every, spec: Option<&LeaseSpec>, lease: Option<&Lease>, sink: &mut Sink) {
    let at = from.every.as_ref().map_or(from.at, |e| e.at);
    let Some(lease) = lease else {
        if spec.is_none() {
            sink.report("E0490", at, "what comes again and again needs a `lease` with `for`")
                .help("like `lease: {for: 8h}` beside it");
        }
        return;
    };
    let LeaseEnd::For(length) = lease.end else {
        let end = spec.map_or(at, |s| s.at);
        sink.report("E0490", end, "what comes again and again has a lease with `for`").also(at, "it comes again here");
        return;
    };
    let gap = Span::secs(every.days.shortest_gap() * 86_400);
    if length > gap {
        let end = spec.and_then(|s| s.length.as_ref()).map_or(at, |l| l.at);
        sink.report("E0490", end, format!("it would begin again before it is over: {length} is longer than {gap}"))
            .also(at, "the days on which it begins");
    }
}
